//! What goes back: edits of the response, security fields where the upstream sent none.

pub mod headers;
