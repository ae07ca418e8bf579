//! A connection arrives: caps, accept loop, drain.
