//! A new connection to a member, within one deadline; where its name has addresses of both families, a race.
//!
//! RFC 8305: a connection that does not stand after [`HEAD_START_MS`] gets a rival to an address of the other family of the
//! same host, and so does at once one that fails; who stands first carries the request. A path that is broken for one
//! family (mostly IPv6) then costs a quarter of a second, once per connection, and no request.

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use crate::accept::proxy_protocol::{self, Announced};
use crate::h2::upstream::{Load, carry};
use crate::http::{Fault, Protocol, Reason};
use crate::pipeline::fail::{CLIENT_GONE, EXCHANGE_TIMEOUT, UPSTREAM_CLOSED, UPSTREAM_CONNECT_TIMEOUT};
use crate::sys::address::Address;
use crate::sys::socket::{Shutdown, connect_start, is_exhaustion};
use crate::upstream::Permit;
use crate::upstream::pool::{Connection, CoreMember, CoreUpstream, Share};
use crate::worker::core::Core;
use crate::worker::turn::pause;
use crate::worker::{Buffer, Deadline, Socket, Transport};

/// The upstream refuses connections, or cannot be reached.
pub const UPSTREAM_REFUSED: Reason =
    Reason::upstream("upstream_refused", 4000, 502, "The upstream refuses connections");
/// The name of the upstream does not resolve.
pub const UPSTREAM_UNRESOLVED: Reason =
    Reason::upstream("upstream_unresolved", 4001, 502, "The upstream's name does not resolve");
/// All connections that the upstream may have are in use.
pub const UPSTREAM_CONNECTIONS: Reason =
    Reason::upstream("upstream_connections", 4002, 503, "The upstream has no free connection");
/// A WebSocket is for an upstream of HTTP/2 that has not said that it takes them.
pub const UPSTREAM_WEBSOCKET_HTTP2: Reason = Reason::ringwall(
    "upstream_websocket_http2",
    4310,
    502,
    "The upstream speaks HTTP/2 only, and takes no WebSockets over it",
);
/// The name of the upstream leads only to addresses that it may not lead to.
pub const UPSTREAM_ADDRESS: Reason =
    Reason::upstream("upstream_address", 4030, 502, "The upstream's name leads to a refused address");

/// There is no descriptor or no memory for a connection.
pub const NODE_EXHAUSTED: Reason =
    Reason::ringwall("node_exhausted", 4031, 503, "The gateway is short of resources");
/// There is no local address, or no free port of it, from which the upstream could be reached.
pub const UPSTREAM_PORTS: Reason =
    Reason::ringwall("upstream_ports", 4032, 503, "The gateway has no free port towards the upstream");

/// RFC 8305 §5, "Connection Attempt Delay": a rival starts so much later; the recommended value.
pub const HEAD_START_MS: u64 = 250;
/// Whose a connection is that begins with a header that names nobody.
pub const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
/// How long a Unix socket with a full queue is left alone before it is tried again.
const QUEUE_FULL_PAUSE_MS: u64 = 5;

/// Opens a connection to a member, by `latest_ms` (monotonic milliseconds) at the latest. It may lead to another address
/// of the same host than the one that was asked for: who it is comes with it. Where the upstream is sent PROXY headers, the
/// connection begins with one that says `announced`. Who waits for what another opens waits no longer than its `client`.
///
/// # Errors
/// `client_gone`, `upstream_connections` at the cap, `upstream_connect_timeout` past the deadline, `upstream_refused` when it cannot be
/// reached, and what its TLS has to say. What [`is_our_own`] says nothing of the member, nor does `exchange_timeout`: it was
/// not given the time that it has.
pub async fn connect(
    from: &CoreUpstream,
    member: &Rc<CoreMember>,
    client: &Transport,
    announced: Option<&Announced>,
    core: &Rc<Core>,
    latest_ms: u64,
) -> Result<(Rc<CoreMember>, Connection), Reason> {
    if !member.member.key.protocols.http2 {
        return connect_within(from, member, announced, core, latest_ms, None).await;
    }
    loop {
        let opening = match member.share() {
            Share::Stream(connection) => return Ok((Rc::clone(member), connection)),
            Share::Open(opening) => opening,
            Share::Wait => {
                client.unless_gone(member.opened()).await.ok_or(CLIENT_GONE)??;
                if core.coarse_ms() >= latest_ms {
                    return Err(EXCHANGE_TIMEOUT);
                }
                continue;
            }
        };
        let connected = Box::pin(connect_within(from, member, announced, core, latest_ms, None)).await;
        let (reached, connection) = match connected {
            Ok(connected) => connected,
            Err(reason) => {
                if let (UPSTREAM_CONNECTIONS, Some(stream)) = (reason, member.share_in_line()) {
                    // There is a connection, if a crowded one.
                    return Ok((Rc::clone(member), stream));
                }
                if opening.is_some() && reason != EXCHANGE_TIMEOUT && !is_our_own(reason) {
                    member.not_opened(reason);
                }
                return Err(reason);
            }
        };
        reached.speaks(connection.protocol);
        if connection.protocol == Protocol::Http1 {
            return Ok((reached, connection));
        }
        if !Rc::ptr_eq(&reached, member)
            && let Some(stream) = reached.share_at_once()
        {
            // Another address of its host was there first, and has one already: there are few, however often that is so.
            return Ok((reached, stream));
        }
        let carrier = carry(core, from, &reached, connection, Load::Requests);
        let stream = reached.carry(carrier);
        return Ok((reached, stream));
    }
}

/// As [`connect`], but always a new connection, for a WebSocket that has all of it: of HTTP/1.1, where that may be spoken.
///
/// # Errors
/// Those of [`connect`], `upstream_closed`, and `upstream_websocket_http2`.
pub async fn connect_alone(
    from: &CoreUpstream,
    member: &Rc<CoreMember>,
    announced: Option<&Announced>,
    core: &Rc<Core>,
    latest_ms: u64,
) -> Result<(Rc<CoreMember>, Connection), Reason> {
    if member.member.key.protocols.http1 {
        return connect_within(from, member, announced, core, latest_ms, Some(Protocol::Http1)).await;
    }
    if member.takes_no_tunnels() {
        return Err(UPSTREAM_WEBSOCKET_HTTP2);
    }
    let whole_ms = core.now_ms() + from.upstream.timeouts.connect;
    let (reached, connection) = connect_within(from, member, announced, core, latest_ms, None).await?;
    let carrier = carry(core, from, &reached, connection, Load::Tunnel);
    let stream = Connection::of_carrier(&carrier);
    // RFC 8441 §3: not before the server has said that it may be.
    let mut told = pin!(carrier.told_of_tunnels());
    let mut over = pause(whole_ms.min(latest_ms).saturating_sub(core.now_ms()));
    let told = poll_fn(|context| match told.as_mut().poll(context) {
        Poll::Ready(told) => Poll::Ready(Ok(told)),
        Poll::Pending => over.as_mut().poll(context).map(Err),
    });
    match told.await {
        Ok(Some(true)) => Ok((reached, stream)),
        Ok(Some(false)) => Err(UPSTREAM_WEBSOCKET_HTTP2),
        Ok(None) => Err(UPSTREAM_CLOSED),
        Err(()) if latest_ms < whole_ms => Err(EXCHANGE_TIMEOUT),
        Err(()) => Err(UPSTREAM_CONNECT_TIMEOUT),
    }
}

/// `only`: what is to be spoken, where that is not everything that may be.
async fn connect_within(
    from: &CoreUpstream,
    member: &Rc<CoreMember>,
    announced: Option<&Announced>,
    core: &Core,
    latest_ms: u64,
    only: Option<Protocol>,
) -> Result<(Rc<CoreMember>, Connection), Reason> {
    let whole_ms = core.now_ms() + from.upstream.timeouts.connect;
    let connected = connect_by(from, member, announced, core, whole_ms.min(latest_ms), only).await;
    connected.map_err(|reason| match reason {
        UPSTREAM_CONNECT_TIMEOUT if latest_ms < whole_ms => EXCHANGE_TIMEOUT,
        reason => reason,
    })
}

async fn connect_by(
    from: &CoreUpstream,
    member: &Rc<CoreMember>,
    announced: Option<&Announced>,
    core: &Core,
    deadline_ms: u64,
    only: Option<Protocol>,
) -> Result<(Rc<CoreMember>, Connection), Reason> {
    let most = from.upstream.connections_max;
    // What is kept for other clients is of no use here.
    let permit = member.member.admit(most).or_else(|| match from.let_one_go(member) {
        true => member.member.admit(most),
        false => None,
    });
    let permit = permit.ok_or_else(|| {
        // Another core may keep some that it does not use.
        member.member.want();
        UPSTREAM_CONNECTIONS
    })?;
    let started = start(&member.member.key.address, core, deadline_ms).await;
    let rival = rival(from, member, core.coarse_ms());
    let (member, permit, socket) = match (started, rival) {
        (Ok(socket), None) => {
            stands(&socket, core).await.map_err(|error| reason(&socket, &error))?;
            (Rc::clone(member), permit, socket)
        }
        (Err(error), None) => return Err(reason_of(&error)),
        // Where this one has no descriptor, a rival has none either.
        (Err(error), Some(_)) if is_exhaustion(&error) => return Err(NODE_EXHAUSTED),
        (started, Some(rival)) => {
            let first = Runner { member: Rc::clone(member), permit, socket: started };
            // The race is large and rare: it does not make every exchange larger.
            Box::pin(race(first, rival, most, core, deadline_ms)).await?
        }
    };
    let header = from.upstream.introduction.proxy.zip(announced);
    if let Some((version, announced)) = header {
        // It leaves with what comes first behind it.
        let mut header = Buffer::head();
        proxy_protocol::write(&mut header, version, announced);
        socket.post(&mut header).await.map_err(|error| reason(&socket, &error))?;
    }
    let mut connection = secure(socket, &member, permit, only, core).await?;
    connection.whose = header.map(|(_, announced)| announced.source(NOBODY));
    Ok((member, connection))
}

/// Starts the connection. A Unix socket whose queue is full is tried again until the deadline.
async fn start(address: &Address, core: &Core, deadline_ms: u64) -> io::Result<Socket> {
    loop {
        match connect_start(address) {
            Ok(stream) => {
                let socket = Socket::new(stream, core.driver)?;
                socket.set_deadline(&core.sweep, Deadline::Connect, deadline_ms);
                return Ok(socket);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if core.now_ms() >= deadline_ms {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                pause(QUEUE_FULL_PAUSE_MS).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Waits until the connection stands. Loses nothing when it is dropped.
async fn stands(socket: &Socket, core: &Core) -> io::Result<()> {
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

/// Whether a connection came to nothing for want of something of ours, or of a client: the member, its breaker and whoever leaves it out have
/// nothing to do with it.
pub fn is_our_own(reason: Reason) -> bool {
    reason == UPSTREAM_CONNECTIONS || reason.fault != Fault::Upstream
}

fn reason(socket: &Socket, error: &io::Error) -> Reason {
    match socket.expired() {
        Some(_) => UPSTREAM_CONNECT_TIMEOUT,
        None => reason_of(error),
    }
}

fn reason_of(error: &io::Error) -> Reason {
    match error.kind() {
        _ if is_exhaustion(error) => NODE_EXHAUSTED,
        io::ErrorKind::AddrNotAvailable => UPSTREAM_PORTS,
        io::ErrorKind::TimedOut => UPSTREAM_CONNECT_TIMEOUT,
        _ => UPSTREAM_REFUSED,
    }
}

/// The member to race against: an address of the other family of the same host, that requests may go to; the one with the
/// fewest of them. O(members), per connection.
fn rival(from: &CoreUpstream, member: &Rc<CoreMember>, now_ms: u64) -> Option<Rc<CoreMember>> {
    let family = member.member.key.address.ip()?.is_ipv4();
    let view = from.view();
    let seats = &view.members.seats;
    let host = seats.iter().find(|seat| seat.member.number == member.member.number)?.host;
    let others = seats.iter().zip(&view.pools).filter(|(seat, _)| {
        let other = seat.member.key.address.ip().is_some_and(|ip| ip.is_ipv4() != family);
        other && seat.host == host && seat.member.is_available(now_ms)
    });
    others.map(|(_, pool)| pool).min_by_key(|pool| pool.in_flight()).cloned()
}

/// Who takes part in a race.
struct Runner {
    member: Rc<CoreMember>,
    permit: Permit,
    socket: io::Result<Socket>,
}

async fn race(
    first: Runner,
    rival: Rc<CoreMember>,
    most: u32,
    core: &Core,
    deadline_ms: u64,
) -> Result<(Rc<CoreMember>, Permit, Socket), Reason> {
    let mut failure = None;
    let leading = match first.socket {
        Err(error) => {
            failure = Some(reason_of(&error));
            None
        }
        Ok(socket) => match within_head_start(&socket, core).await {
            Some(Ok(())) => return Ok((first.member, first.permit, socket)),
            Some(Err(error)) => {
                failure = Some(reason(&socket, &error));
                None
            }
            None => Some(socket),
        },
    };
    // RFC 8305 §5: the next attempt starts when the one before has failed, or has had its time.
    let second = match rival.member.admit(most) {
        Some(permit) => match start(&rival.member.key.address, core, deadline_ms).await {
            Ok(socket) => Some((permit, socket)),
            Err(_) => None,
        },
        None => None,
    };
    match (leading, second) {
        (None, None) => Err(failure.unwrap_or(UPSTREAM_REFUSED)),
        (Some(socket), None) => match stands(&socket, core).await {
            Ok(()) => Ok((first.member, first.permit, socket)),
            Err(error) => Err(reason(&socket, &error)),
        },
        (None, Some((permit, socket))) => match stands(&socket, core).await {
            Ok(()) => Ok((rival, permit, socket)),
            Err(error) => Err(failure.unwrap_or_else(|| reason(&socket, &error))),
        },
        (Some(one), Some((permit, two))) => {
            let winner = either(&one, &two, core).await;
            // Whoever lost may still be under way: its end is not waited for.
            match winner {
                Ok(Winner::First) => {
                    two.shutdown(Shutdown::Both);
                    Ok((first.member, first.permit, one))
                }
                Ok(Winner::Second) => {
                    one.shutdown(Shutdown::Both);
                    Ok((rival, permit, two))
                }
                Err(error) => Err(reason(&one, &error)),
            }
        }
    }
}

/// How the first connection went, if that was known before its head start was over.
async fn within_head_start(socket: &Socket, core: &Core) -> Option<io::Result<()>> {
    let mut standing = pin!(stands(socket, core));
    let mut over = pause(HEAD_START_MS);
    poll_fn(|context| match standing.as_mut().poll(context) {
        Poll::Ready(result) => Poll::Ready(Some(result)),
        Poll::Pending => over.as_mut().poll(context).map(|()| None),
    })
    .await
}

enum Winner {
    First,
    Second,
}

/// Which of the two stands first; when neither does, what became of the first one.
async fn either(one: &Socket, two: &Socket, core: &Core) -> io::Result<Winner> {
    let (mut one, mut two) = (pin!(stands(one, core)), pin!(stands(two, core)));
    let (mut one_failed, mut two_failed) = (None, false);
    poll_fn(|context| {
        if one_failed.is_none()
            && let Poll::Ready(result) = one.as_mut().poll(context)
        {
            match result {
                Ok(()) => return Poll::Ready(Ok(Winner::First)),
                Err(error) => one_failed = Some(error),
            }
        }
        if !two_failed && let Poll::Ready(result) = two.as_mut().poll(context) {
            if result.is_ok() {
                return Poll::Ready(Ok(Winner::Second));
            }
            two_failed = true;
        }
        match one_failed.take() {
            Some(error) if two_failed => Poll::Ready(Err(error)),
            failed => {
                one_failed = failed;
                Poll::Pending
            }
        }
    })
    .await
}

async fn secure(
    socket: Socket,
    member: &CoreMember,
    permit: Permit,
    only: Option<Protocol>,
    core: &Core,
) -> Result<Connection, Reason> {
    let protocols = member.member.key.protocols;
    let (transport, protocol) = match &member.member.tls {
        // What is not agreed on is known before (RFC 9113 §3.3): there is one, the configuration sees to that.
        None => (Transport::Plain(socket), only.or(protocols.only()).unwrap_or(Protocol::Http1)),
        Some(profile) => {
            let (stream, protocol) = profile.connect(socket, only).await?;
            (Transport::Tls(Box::new(stream)), protocol)
        }
    };
    Ok(Connection::new(transport, protocol, permit, core.coarse_ms()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_lack_is_not_the_members_fault() {
        let reason = |number| reason_of(&io::Error::from_raw_os_error(number));
        for number in [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM] {
            assert_eq!(reason(number), NODE_EXHAUSTED, "{number}");
        }
        assert_eq!(reason(libc::EADDRNOTAVAIL), UPSTREAM_PORTS);
        assert_eq!(reason(libc::ETIMEDOUT), UPSTREAM_CONNECT_TIMEOUT);
        for number in [libc::ECONNREFUSED, libc::EHOSTUNREACH, libc::ENETUNREACH, libc::EPERM] {
            assert_eq!(reason(number), UPSTREAM_REFUSED, "{number}");
        }
        let own = [NODE_EXHAUSTED, UPSTREAM_PORTS, UPSTREAM_CONNECTIONS].map(is_our_own);
        let theirs = [UPSTREAM_REFUSED, UPSTREAM_CONNECT_TIMEOUT, UPSTREAM_ADDRESS].map(is_our_own);
        assert_eq!((own, theirs), ([true; 3], [false; 3]));
    }
}
