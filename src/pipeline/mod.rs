//! The path of a request, once, for every protocol.
