//! WebSocket as an intermediary sees it (RFC 6455): the opening handshake, frames in passing, the end on both sides.
//!
//! For: the tunnel, whatever carries it: HTTP/1.1 Upgrade, or extended CONNECT over HTTP/2 (RFC 8441). Not for: sockets,
//! clocks, randomness (time, nonces and masks are passed in), routes and identities (the request was judged like any other
//! before it comes here), compression (see [`handshake`] for what becomes of it).
//!
//! [`handshake`] judges what the client asks and what the upstream answers. Then each direction has a [`filter::Filter`],
//! which is shown every piece of bytes and says what of it may go on; nearly always that is the piece itself, untouched.
//! [`frame`] is the law of single frames, [`text`] that of UTF-8 under a mask, [`close`] knows the codes and how a tunnel ends.
//!
//! What a tunnel does, in this order:
//!
//! 1. [`handshake::judge_upgrade`] or [`handshake::judge_connect`], when the request has passed its policies.
//! 2. [`handshake::skip`] in union with what the forwarding law drops, and [`handshake::Opening::push_lines`] for the
//!    request to the upstream.
//! 3. Of an answer of 101 (or 2xx over HTTP/2) [`handshake::judge_switch`] or [`handshake::judge_connected`]; any other answer is
//!    an ordinary one. [`handshake::Agreed::push_lines`], with [`handshake::Key::accept_value`] of the client's own key, for the client.
//! 4. Two filters, one for each direction, whose [`Rules`] differ in the sender, and have `deflate` from the agreement.
//! 5. Every piece that arrives goes through [`Filter::pass`], those behind both heads first. What goes on is sent before
//!    what [`Then`] says is done.
//! 6. Both directions closed: the tunnel is over; the side towards the client is shut down first (RFC 6455 §7.1.1). One closed:
//!    the other side has some seconds to close too. A transport that ends before its direction is over is
//!    [`Ending::CLIENT_CUT`] or [`Ending::UPSTREAM_CUT`].
//! 7. [`Then::End`], or a cause from outside ([`Ending::CREDENTIAL`], [`Ending::DRAINED`] …): [`Ending::close`], send what there is of
//!    the [`Farewell`], shut down for writing, read and drop for a second or two, close. A side without a frame is reset.
//!
//! Cost: a frame whose payload nobody has to see costs its head, some 150 instructions; `benches/websocket.rs` counts. A
//! filter is 300 bytes at most. Worst-case memory: beside that one message of each direction, and only where messages are judged
//! whole ([`filter::Look::Messages`]).

pub mod close;
pub mod filter;
pub mod frame;
pub mod handshake;
#[doc(hidden)]
pub mod laws;
pub mod text;

pub use close::{CloseCode, CloseFrame, Ending, Farewell};
pub use filter::{Filter, Judge, Look, Onward, Rules, Then, Verdict};
pub use frame::Sender;

#[cfg(test)]
mod tests;
