//! How an exchange fails: whose side, and why.

use std::io;

use crate::h2::stream::Faulty;
use crate::http::Reason;
use crate::policy::admit::blocks::ADDRESS_BLOCKED;
use crate::worker::Deadline;

/// The client went away in the middle of its request or of the response.
pub const CLIENT_GONE: Reason = Reason::client("client_gone", 2200, 499, "The client closed the connection");
/// The head of a request took too long.
pub const CLIENT_HEAD_TIMEOUT: Reason =
    Reason::client("client_head_timeout", 2201, 408, "The request head took too long");
/// The body of a request came too slowly.
pub const CLIENT_BODY_TIMEOUT: Reason =
    Reason::client("client_body_timeout", 2202, 408, "The request body came too slowly");
/// The client reads the response too slowly.
pub const CLIENT_READ_TIMEOUT: Reason =
    Reason::client("client_read_timeout", 2203, 408, "The response was read too slowly");
/// The client's TLS handshake took too long.
pub const CLIENT_HANDSHAKE_TIMEOUT: Reason =
    Reason::client("client_handshake_timeout", 2204, 408, "The TLS handshake took too long");
/// The node is shutting down and its time is up.
pub const NODE_DRAINED: Reason = Reason::ringwall("node_drained", 6000, 503, "The node is shutting down");
/// The upstream closed the connection before it answered.
pub const UPSTREAM_CLOSED: Reason =
    Reason::upstream("upstream_closed", 4003, 502, "The upstream closed the connection");
/// The upstream reset the connection.
pub const UPSTREAM_RESET: Reason =
    Reason::upstream("upstream_reset", 4004, 502, "The upstream reset the connection");
/// The upstream did not answer in time.
pub const UPSTREAM_FIRST_BYTE: Reason =
    Reason::upstream("upstream_first_byte", 4101, 504, "The upstream did not answer in time");
/// The upstream stopped in the middle of a response.
pub const UPSTREAM_STREAM_IDLE: Reason =
    Reason::upstream("upstream_stream_idle", 4102, 504, "The upstream stopped in the middle of its response");
/// Connecting to the upstream took too long.
pub const UPSTREAM_CONNECT_TIMEOUT: Reason =
    Reason::upstream("upstream_connect_timeout", 4100, 504, "The upstream could not be reached in time");
/// The exchange as a whole took too long.
pub const EXCHANGE_TIMEOUT: Reason =
    Reason::upstream("exchange_timeout", 4103, 504, "The exchange took too long");
/// A response has lasted as long as it may.
pub const EXCHANGE_LIFETIME: Reason =
    Reason::ringwall("exchange_lifetime", 2215, 503, "The response lasted as long as it may");

/// Why an exchange cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fail {
    /// The client's side of it: broken, too slow, or gone.
    Client(Reason),
    /// The upstream's side of it.
    Upstream(Reason),
}

impl Fail {
    /// The reason, whoever's it is.
    pub fn reason(&self) -> Reason {
        match self {
            Fail::Client(reason) | Fail::Upstream(reason) => *reason,
        }
    }

    /// An operation on the client's connection ended; `None` is an orderly close.
    pub fn client(deadline: Option<Deadline>, _error: Option<&io::Error>) -> Fail {
        Fail::Client(match deadline {
            Some(Deadline::Head) => CLIENT_HEAD_TIMEOUT,
            Some(Deadline::Body) => CLIENT_BODY_TIMEOUT,
            Some(Deadline::StreamIdle) => CLIENT_READ_TIMEOUT,
            Some(Deadline::Handshake) => CLIENT_HANDSHAKE_TIMEOUT,
            Some(Deadline::Total) => EXCHANGE_TIMEOUT,
            Some(Deadline::Lifetime) => EXCHANGE_LIFETIME,
            Some(Deadline::Drain) => NODE_DRAINED,
            Some(Deadline::Blocked) => ADDRESS_BLOCKED,
            _ => CLIENT_GONE,
        })
    }

    /// An operation on the upstream's connection ended; `None` is an orderly close.
    pub fn upstream(deadline: Option<Deadline>, error: Option<&io::Error>) -> Fail {
        Fail::Upstream(match deadline {
            Some(Deadline::FirstByte) => UPSTREAM_FIRST_BYTE,
            Some(Deadline::StreamIdle) => UPSTREAM_STREAM_IDLE,
            Some(Deadline::Connect) => UPSTREAM_CONNECT_TIMEOUT,
            Some(Deadline::Total) => EXCHANGE_TIMEOUT,
            Some(Deadline::Lifetime) => EXCHANGE_LIFETIME,
            Some(Deadline::Drain) => NODE_DRAINED,
            Some(Deadline::Abandoned) => return Fail::Client(CLIENT_GONE),
            _ => match error {
                Some(error) if let Some(Faulty(reason)) = faulty(error) => *reason,
                Some(error) if error.kind() == io::ErrorKind::ConnectionReset => UPSTREAM_RESET,
                _ => UPSTREAM_CLOSED,
            },
        })
    }
}

/// What a stream says that it ended for.
fn faulty(error: &io::Error) -> Option<&Faulty> {
    error.get_ref()?.downcast_ref()
}
