//! HTTP/2 (RFC 9113) for both roles: bytes become events, decisions become bytes.
//!
//! For: the connection tasks of `downstream` and `upstream`. Not for: sockets, clocks, tasks, or what a field means:
//! [`connection`] is told the time, appends what is to be sent to one buffer, and leaves field blocks to a [`FieldBlocks`].
//!
//! The pieces: [`frame`] knows the layout of frames, [`settings`] what was agreed, [`flow`] how much may be sent, [`streams`]
//! who is alive and whose turn it is, [`budget`] how much abuse is borne, [`flaw`] what a fault is called, [`connection`]
//! puts them together. [`hpack`] is the compression of heads, [`head`] what they become, [`blocks`] both for a connection.

pub mod blocks;
pub mod budget;
pub mod connection;
pub mod downstream;
pub mod flaw;
pub mod flow;
pub mod frame;
pub mod head;
pub mod hpack;
pub mod laws;
pub mod mux;
mod owner;
pub mod priority;
pub mod settings;
pub mod share;
pub mod stream;
pub mod streams;
#[cfg(test)]
mod tests;
pub mod upstream;

pub use connection::{Connection, Event, FieldBlocks, Role};
pub use frame::{ErrorCode, StreamId};
pub use settings::Settings;
pub use streams::StreamKey;
