//! A new connection to a target: all its addresses in turn, within one deadline.

use std::io;
use std::net::SocketAddr;

use crate::http::Reason;
use crate::pipeline::fail::UPSTREAM_CONNECT_TIMEOUT;
use crate::sys::socket::connect_start;
use crate::upstream::pool::Connection;
use crate::upstream::{Permit, Target, Upstream};
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

/// Opens a connection to one target, by `latest_ms` (monotonic milliseconds) at the latest.
///
/// # Errors
/// `upstream_connections` at the cap, `upstream_unresolved` without an address, `upstream_connect_timeout` past the
/// deadline, `upstream_refused` when every address fails.
pub async fn connect(
    upstream: &Upstream,
    target: &Target,
    core: &Core,
    latest_ms: u64,
) -> Result<Connection, Reason> {
    let permit = target.admit(upstream.connections_max).ok_or(UPSTREAM_CONNECTIONS)?;
    let deadline_ms = (core.now_ms() + upstream.timeouts.connect).min(latest_ms);
    let mut reason = UPSTREAM_UNRESOLVED;
    let mut permit = Some(permit);
    for index in 0.. {
        // Loaded anew for each attempt: no guard is held across a wait.
        let Some(address) = target.address(index) else { break };
        let (socket, result) = attempt(address, core, deadline_ms).await;
        match result {
            Ok(()) => {
                let (Some(socket), Some(permit)) = (socket, permit.take()) else { break };
                return secure(socket, target, permit).await;
            }
            Err(_) if socket.is_some_and(|socket| socket.expired().is_some()) => {
                return Err(UPSTREAM_CONNECT_TIMEOUT);
            }
            Err(_) => reason = UPSTREAM_REFUSED,
        }
    }
    Err(reason)
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

async fn secure(socket: Socket, target: &Target, permit: Permit) -> Result<Connection, Reason> {
    let transport = match &target.tls {
        None => Transport::Plain(socket),
        Some(profile) => Transport::Tls(Box::new(profile.connect(socket).await?)),
    };
    Ok(Connection::new(transport, permit))
}
