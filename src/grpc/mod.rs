//! gRPC and gRPC-Web as a gateway sees them: whether a request is a call, what its refusal looks like, how long it may take,
//! where its messages end, and how the two protocols are translated into each other.
//!
//! For: the pipeline and the codecs, which give the bytes and the time. Not for: frames of HTTP/2, what stands in a message,
//! CORS. Sans-IO: no sockets, no clock, no allocation but that of the buffers that are passed in.
//!
//! The protocol is cited as PROTOCOL-HTTP2, PROTOCOL-WEB, statuscodes and http-grpc-status-mapping: the documents of these
//! names in `doc/` of the gRPC project.
//!
//! The way of a call: [`style::Call::of`] → [`timeout`] → [`filter::Filter`] over what is forwarded ([`message::Messages`], and for
//! gRPC-Web [`web`]) → [`status`] and [`details`] where it is refused. [`health`] is what active probes ask.

pub mod details;
pub mod filter;
pub mod health;
pub mod laws;
pub mod message;
pub mod status;
pub mod style;
pub mod timeout;
pub mod web;
mod wire;

pub use filter::Filter;
pub use message::Messages;
pub use status::Status;
pub use style::{Call, Style};
