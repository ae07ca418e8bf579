//! A new connection to a member, within one deadline.

use std::io;
use std::net::SocketAddr;

use crate::http::Reason;
use crate::pipeline::fail::UPSTREAM_CONNECT_TIMEOUT;
use crate::sys::socket::connect_start;
use crate::upstream::pool::Connection;
use crate::upstream::{Member, Permit, Upstream};
use crate::worker::core::Core;
use crate::worker::{Deadline, Socket, Transport};

/// The upstream refuses connections, or cannot be reached.
pub const UPSTREAM_REFUSED: Reason =
    Reason::upstream("upstream_refused", 4000, 502, "The upstream refuses connections");
/// The name of the upstream does not resolve.
pub const UPSTREAM_UNRESOLVED: Reason =
    Reason::upstream("upstream_unresolved", 4001, 502, "The upstream's name does not resolve");
/// All connections that the upstream may have are in use.
pub const UPSTREAM_CONNECTIONS: Reason =
    Reason::upstream("upstream_connections", 4002, 503, "The upstream has no free connection");

/// Opens a connection to a member, by `latest_ms` (monotonic milliseconds) at the latest.
///
/// # Errors
/// `upstream_connections` at the cap, `upstream_connect_timeout` past the deadline, `upstream_refused` when it cannot be
/// reached, and what its TLS has to say.
pub async fn connect(
    upstream: &Upstream,
    member: &Member,
    core: &Core,
    latest_ms: u64,
) -> Result<Connection, Reason> {
    let permit = member.admit(upstream.connections_max).ok_or(UPSTREAM_CONNECTIONS)?;
    let deadline_ms = (core.now_ms() + upstream.timeouts.connect).min(latest_ms);
    let (socket, result) = attempt(member.key.address, core, deadline_ms).await;
    match (socket, result) {
        (Some(socket), Ok(())) => secure(socket, member, permit, core).await,
        (Some(socket), Err(_)) if socket.expired().is_some() => Err(UPSTREAM_CONNECT_TIMEOUT),
        _ => Err(UPSTREAM_REFUSED),
    }
}

async fn attempt(address: SocketAddr, core: &Core, deadline_ms: u64) -> (Option<Socket>, io::Result<()>) {
    let socket = match connect_start(address).and_then(|stream| Socket::new(stream, core.driver)) {
        Ok(socket) => socket,
        Err(error) => return (None, Err(error)),
    };
    socket.set_deadline(&core.sweep, Deadline::Connect, deadline_ms);
    let result = established(&socket, core).await;
    (Some(socket), result)
}

async fn established(socket: &Socket, core: &Core) -> io::Result<()> {
    socket.writable().await?;
    if socket.expired().is_some() {
        return Err(io::ErrorKind::TimedOut.into());
    }
    match socket.take_error()? {
        Some(error) => Err(error),
        // The connection was started without waiting; from here on the socket is what the driver wants.
        None => socket.set_nonblocking(core.driver.wants_nonblocking()),
    }
}

async fn secure(socket: Socket, member: &Member, permit: Permit, core: &Core) -> Result<Connection, Reason> {
    let transport = match &member.tls {
        None => Transport::Plain(socket),
        Some(profile) => Transport::Tls(Box::new(profile.connect(socket).await?)),
    };
    Ok(Connection::new(transport, permit, core.coarse_ms()))
}
