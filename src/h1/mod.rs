//! HTTP/1.1: sans-IO codec, and the two tasks that drive it.

pub mod body;
pub mod chunked;
pub mod downstream;
pub mod encode;
pub mod flaw;
pub mod framing;
pub mod parse;
