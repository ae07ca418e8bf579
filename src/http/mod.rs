//! What all codecs agree on: heads, fields, targets, reasons, limits. No sockets.

pub mod reason;

pub use reason::{Fault, Reason};
