//! HPACK (RFC 7541): header blocks to lines and back, with the state that either takes.
//!
//! For: the HTTP/2 connection, which has one [`Decoder`] and one [`Encoder`], and [`super::head`], which judges what
//! comes out. Not for: what a field means, frames, deciding what is forwarded.
//!
//! **Layout.** Everything is a line `name: value` CRLF, in the arena that a block is decoded into as well as in the
//! tables: a field that comes as an index is one copy, and a run of lines is what an HTTP/1.1 head consists of. What was
//! found out about a field when it came as a literal (which known name it is, whether its bytes may stand there) is kept
//! beside it in the table and not found out again.
//!
//! **Memory.** Nothing is allocated before the first entry. A table of the default size holds at most 6 KiB of lines and
//! 1.5 KiB of entries, the encoder's besides 1 KiB to find them by, and at most 6 KiB of the head that was written last.

mod decode;
mod encode;
pub mod huffman;
mod integer;
#[doc(hidden)]
pub mod laws;
mod recent;
mod table;

pub use decode::{DROPPED_BYTES_MAX, Decoder, Error, Line, Marks, Pseudo};
pub use encode::{Block, Encoder, Sharing, is_secret};
pub use table::{TABLE_BYTES_DEFAULT, TABLE_BYTES_MAX};
