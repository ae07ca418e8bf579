//! HTTP/1.1: sans-IO codec, and the two tasks that drive it.

pub mod body;
pub mod chunked;
pub mod downstream;
pub mod encode;
pub mod flaw;
pub mod framing;
#[doc(hidden)]
pub mod laws;
pub mod parse;
