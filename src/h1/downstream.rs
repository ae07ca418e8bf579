//! A client's connection: a small future while it is idle, a pooled slot while requests are under way.

use std::io::ErrorKind;
use std::rc::Rc;

use crate::accept::ends::{self, CLIENT_SILENT, Visit};
use crate::accept::pressure::CONNECTION_SPARED;
use crate::h1::body::{Incoming, Origin};
use crate::h1::parse::{Parse, parse_request};
use crate::http::reason::Fault;
use crate::http::{BodyLength, HeadLimits, Protocol, Reason};
use crate::pipeline::answer;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::fail::{CLIENT_GONE, CLIENT_HEAD_TIMEOUT};
use crate::pipeline::serve::{Client, End, serve};
use crate::pipeline::whence::{Whence, conclude};
use crate::snapshot::Timeouts;
use crate::worker::core::{Core, DRAINING_FIRST_MS};
use crate::worker::slots::Run;
use crate::worker::{Buffer, Deadline, Transport, turn};

/// The client broke the rules of TLS after its handshake.
pub const CLIENT_RECORDS: Reason =
    Reason::client("client_records", 2216, 400, "The client broke the rules of TLS");

/// How long we go on reading from a client that was told that its connection ends, in milliseconds.
pub const LINGER_MS: u64 = 2_000;
/// How much we go on reading from it, in bytes.
pub const LINGER_BYTES: usize = 256 * 1024;

/// A client's connection between two requests.
#[derive(Debug)]
pub struct Link {
    /// The byte stream.
    pub transport: Transport,
    /// Where it comes from.
    pub whence: Whence,
    /// Whether it has carried a request before.
    pub used: bool,
    /// Whether the last one had an identity.
    pub known: bool,
}

impl Link {
    /// A connection that has carried nothing yet.
    pub fn new(transport: Transport, whence: Whence) -> Link {
        Link { transport, whence, used: false, known: false }
    }
}

/// One stretch of requests, for a pooled slot.
#[derive(Debug)]
pub struct Stretch {
    /// The core it runs on.
    pub core: Rc<Core>,
    /// The connection.
    pub link: Link,
    /// What has been received of the first request.
    pub pending: Buffer,
}

/// Drives a connection until it ends. `stretches` is where requests run.
#[expect(clippy::manual_async_fn, reason = "an `async fn` keeps what it was called with twice")]
pub fn connection<S>(core: Rc<Core>, mut link: Link, stretches: Rc<S>) -> impl Future<Output = ()>
where
    S: Run<Stretch, Output = Option<Link>>,
{
    async move {
        loop {
            let wait_ms = {
                let view = core.view();
                match view.snapshot.listener(link.whence.listener) {
                    Some(listener)
                        if !core.is_draining()
                            && listener.keeps(link.transport.is_tls(), Protocol::Http1) =>
                    {
                        listener.idle_ms
                    }
                    // Whoever was let in before the end, or was told that another request is welcome, may still ask once.
                    Some(_) => DRAINING_FIRST_MS,
                    // What was posted still gets out. In a box: a connection that waits does not carry its farewell.
                    _ => return Box::pin(linger(&link.transport, &core)).await,
                }
            };
            let kind = match link.used {
                true if link.known => Deadline::IdleKnown,
                true => Deadline::Idle,
                false => Deadline::First,
            };
            core.deadline(&link.transport, kind, core.coarse_ms() + wait_ms);
            // A request mostly comes with its connection.
            let pending = match if link.used { Ok(None) } else { link.transport.recv_first() } {
                Ok(Some(first)) => first,
                Ok(None) => {
                    core.waits_for(link.transport.socket());
                    if link.transport.readable().await.is_err() || link.transport.socket().expired().is_some()
                    {
                        return gave_up(&link, wait_ms, &core);
                    }
                    Buffer::empty()
                }
                Err(_) => return,
            };
            // The usual end of a connection: nothing that a request needs is taken for it. Who has ended only its side still
            // gets the rest of its answer.
            if link.transport.is_over() {
                if let Ok(false) = link.transport.socket().settled() {
                    Box::pin(linger(&link.transport, &core)).await;
                }
                return;
            }
            match stretches.run(Stretch { core: Rc::clone(&core), link, pending }).await {
                Some(kept) => link = kept,
                None => return,
            }
        }
    }
}

/// Tells of a connection that was let go, or on which nothing was ever asked. That one ends between two requests because its
/// time is up is as it should be.
fn gave_up(link: &Link, waited_ms: u64, core: &Core) {
    let reason = match link.transport.socket().expired() {
        Some(Deadline::First) if !core.is_draining() => CLIENT_SILENT,
        Some(Deadline::Spared) => CONNECTION_SPARED,
        _ => return,
    };
    let visit = Visit {
        duration_ms: if reason == CLIENT_SILENT { waited_ms } else { 0 },
        agreed: link.transport.agreed(),
        ..Visit::begun(link.whence.source(), link.whence.listener)
    };
    ends::tell(core, &visit, &reason);
}

/// Serves the requests that are here, one after the other; gives the connection back when it is idle, or nothing when it
/// has ended.
pub async fn stretch(stretch: Stretch) -> Option<Link> {
    let Stretch { core, mut link, mut pending } = stretch;
    let mut x = core.exchange();
    loop {
        // Whoever pipelines without end does not keep the others waiting.
        turn::step().await;
        let view = core.view();
        let Some(listener) = view.snapshot.listener(link.whence.listener) else { break };
        let client = Client { transport: &link.transport, listener, view: &view };
        link.whence.begin(&mut x, &link.transport, link.known, &core);
        let end = match head(&mut x, pending, &client, &core).await {
            Ok(head_bytes) => {
                x.facts.bytes_in = head_bytes as u64;
                serve(&mut x, &client, &view, head_bytes, &core).await
            }
            Err(reason) => unreadable(&mut x, &client, reason, &core).await,
        };
        conclude(&mut x, &link.whence, link.used, &view, &core);
        link.used = true;
        link.known = x.identity.is_some();
        if !end.keep {
            if x.facts.status != 0 || link.transport.socket().settled().is_ok_and(|settled| !settled) {
                linger(&link.transport, &core).await;
            }
            core.release(x);
            return None;
        }
        if end.rest.is_empty() {
            core.release(x);
            return Some(link);
        }
        x.reset();
        pending = end.rest;
    }
    core.release(x);
    None
}

/// Receives and parses one head into `x`.
async fn head(x: &mut Exchange, pending: Buffer, client: &Client<'_>, core: &Core) -> Result<usize, Reason> {
    x.request.bytes = if pending.is_leased() { pending } else { Buffer::head() };
    let limits: &HeadLimits = &client.listener.head_limits;
    let mut announced = x.request.bytes.is_empty();
    let mut timed = false;
    loop {
        if !x.request.bytes.is_empty() {
            let bytes = &x.request.bytes[..x.request.bytes.len().min(usize::from(u16::MAX))];
            if let Parse::Complete { head_bytes } = parse_request(bytes, limits, &mut x.request.table)? {
                client.transport.socket().request_has_come();
                return Ok(head_bytes);
            }
            if !timed {
                // From its first byte the head has a time of its own, however slowly it drips in.
                timed = true;
                core.deadline(client.transport, Deadline::Head, core.coarse_ms() + client.listener.head_ms);
                core.waits_for(client.transport.socket());
            }
        }
        if x.request.bytes.len() == x.request.bytes.capacity() {
            x.request.bytes.widen();
        }
        let received = if std::mem::take(&mut announced) {
            client.transport.recv_announced(&mut x.request.bytes).await
        } else {
            client.transport.recv(&mut x.request.bytes).await
        };
        match received {
            Ok(0) | Err(_) => {
                return Err(match client.transport.socket().expired() {
                    Some(Deadline::Head) => CLIENT_HEAD_TIMEOUT,
                    Some(Deadline::Spared) => CONNECTION_SPARED,
                    _ if received.is_err_and(|error| error.kind() == ErrorKind::InvalidData) => {
                        CLIENT_RECORDS
                    }
                    _ => CLIENT_GONE,
                });
            }
            Ok(_) => {}
        }
    }
}

/// The head could not be read: one answer, and the end of the connection.
async fn unreadable(x: &mut Exchange, client: &Client<'_>, reason: Reason, core: &Core) -> End {
    debug_assert!(reason.fault == Fault::Client || reason == CONNECTION_SPARED);
    let nobody_listens = [CLIENT_GONE, CLIENT_RECORDS, CONNECTION_SPARED].contains(&reason);
    if x.request.bytes.is_empty() || nobody_listens {
        if !x.request.bytes.is_empty() || reason == CLIENT_RECORDS {
            x.facts.reason = Some(reason);
        }
        return End::close();
    }
    x.request.table.keep_alive = false;
    let mut nothing = Incoming::new(BodyLength::None, Origin::Client, b"", 0);
    answer::refuse(x, client, &mut nothing, reason, core).await
}

/// Sends what was posted, closes our side and reads on for a while, so that the client gets our last answer and not a reset
/// (RFC 9112 §9.6). A message that only the end of the connection ends, and that was cut, gets that reset.
pub async fn linger(transport: &Transport, core: &Core) {
    let socket = transport.socket();
    if socket.is_open_ended() {
        return;
    }
    // How slowly the client may read is the affair of the answer, not of the leave.
    if let Ok(false) = socket.settled() {
        core.deadline(transport, Deadline::StreamIdle, core.coarse_ms() + Timeouts::DEFAULT.stream_idle);
    }
    if socket.settle().await.is_err() {
        return;
    }
    core.deadline(transport, Deadline::Linger, core.coarse_ms() + LINGER_MS);
    transport.finish();
    let mut read = 0;
    let mut buffer = Buffer::head();
    while read < LINGER_BYTES {
        buffer.clear();
        match transport.recv(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(count) => read += count,
        }
    }
}
