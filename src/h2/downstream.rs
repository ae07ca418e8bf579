//! A client's HTTP/2 connection: one owner reads and writes, its streams are served by tasks that are kept for re-use.
//!
//! For: the accept loop, once it is known that a client speaks HTTP/2. Not for: what a request meets
//! ([`crate::pipeline::serve`], the same function as for HTTP/1.1), the protocol ([`super::connection`]).
//!
//! **Ends.** A connection on which nothing is under way ends after the listener's idle time, when the node drains, or when its
//! listener goes: with GOAWAY, so that no request is lost (RFC 9113 §6.8). One whose client breaks the rules, or uses up a budget,
//! ends at once, with GOAWAY and a reason of its own in the log. Streams have deadlines of their own, the same as requests of
//! HTTP/1.1.

use std::cell::Cell;
use std::rc::Rc;

use crate::accept::ends::{self, CLIENT_SILENT, Visit};
use crate::accept::pressure::{CONNECTION_SPARED, Level};
use crate::h1::body::{Incoming, Origin};
use crate::h1::downstream::{CLIENT_RECORDS, LINGER_BYTES, LINGER_MS, linger};
use crate::h1::flaw::{Flaw, HEAD_SIZE, Side};
use crate::h2::blocks::RequestBlocks;
use crate::h2::connection::Gone;
use crate::h2::frame::{ErrorCode, PREFACE};
use crate::h2::head::{Asked, Rules, list_bytes_max};
use crate::h2::mux::{Inner, Mux};
use crate::h2::owner::{Driven, Ending, all_over, drive};
use crate::h2::priority::Priority;
use crate::h2::stream::{Over, StreamTransport, over_of};
use crate::h2::{Event, Role, Settings, StreamKey};
use crate::http::field::Known;
use crate::http::target::Scheme;
use crate::http::{BodyLength, HeadLimits, Method, Protocol, Reason, Span};
use crate::pipeline::answer;
use crate::pipeline::exchange::{Exchange, Head};
use crate::pipeline::fail::{CLIENT_BODY_TIMEOUT, CLIENT_GONE};
use crate::pipeline::serve::{Client, serve};
use crate::pipeline::whence::{Whence, conclude};
use crate::snapshot::{CoreView, Listener};
use crate::websocket::handshake::{CONNECT_PROTOCOL, PROTOCOL};
use crate::worker::core::{Core, DRAINING_FIRST_MS};
use crate::worker::crew::Hire;
use crate::worker::sweep::Watched;
use crate::worker::{Buffer, Deadline, Socket, Transport, turn};

/// How long one who has sent the beginning of a preface is waited for between two looks, milliseconds.
const PREFACE_PAUSE_MS: u64 = 20;
/// The same once it has been waited for some time: each wait is twice as long as the one before.
const PREFACE_PAUSE_MOST_MS: u64 = 640;
/// How long a connection rests before it gives back what it has no use for, milliseconds.
const SHRINK_MS: u64 = 1_000;
/// How long what the protocol waits for may be behind, milliseconds: it is looked at this often while nothing else happens.
const LOOK_MS: u64 = 5_000;
/// The same of one that ends, and on which nothing is under way.
const CLOSING_LOOK_MS: u64 = 100;
/// How long a client that was told that its connection ends may take for what it has under way, beyond the drain of the node.
const GOODBYE_MS: u64 = 5_000;

/// A client's connection.
pub struct Served {
    core: Rc<Core>,
    mux: Rc<Mux>,
    whence: Whence,
    /// Whether it has carried a request before.
    used: Cell<bool>,
    /// Whether the last request that was over had an identity.
    known: Cell<bool>,
    /// What bounds heads when its listener is none any more.
    limits: HeadLimits,
    /// When the last exchange ended, or the connection began, monotonic milliseconds.
    rests_since_ms: Cell<u64>,
    begun_ms: u64,
    /// Whether the client was told that it may open WebSockets (RFC 8441 §3), which cannot be taken back.
    connects: bool,
    /// Whether it rests and has given back what it has no use for.
    shrunk: Cell<bool>,
    /// The exchange that the next head is decoded into, while there is something under way.
    next: Cell<Option<Box<Exchange>>>,
}

/// A request that has come, for the task that serves it.
pub struct Asking {
    served: Rc<Served>,
    x: Box<Exchange>,
    transport: Transport,
    /// GET or HEAD, and whether a body follows is not known yet.
    bodiless: bool,
    /// Why it is refused already.
    flaw: Option<Reason>,
}

/// Whether a connection without TLS begins with the preface of HTTP/2 (RFC 9113 §3.4). Takes nothing off it.
pub async fn is_announced(socket: &Socket, listener: u32, core: &Core) -> bool {
    let wait_ms = match core.view().snapshot.listener(listener) {
        Some(listener) => listener.idle_ms,
        None => return false,
    };
    socket.set_deadline(&core.sweep, Deadline::First, core.coarse_ms() + wait_ms);
    core.waits_for(socket);
    let mut pause_ms = PREFACE_PAUSE_MS;
    loop {
        let mut seen = Buffer::head();
        match socket.peek(&mut seen).await {
            Ok(0) | Err(_) => return false,
            Ok(count) => {
                let known = count.min(PREFACE.len());
                if seen[..known] != PREFACE[..known] {
                    return false;
                }
                // No method of HTTP/1.1 begins so (RFC 9113 §11.7 has it reserved).
                if known >= b"PRI ".len() {
                    return true;
                }
            }
        }
        if socket.expired().is_some() {
            return false;
        }
        turn::pause(pause_ms).await;
        pause_ms = (pause_ms * 2).min(PREFACE_PAUSE_MOST_MS);
    }
}

/// Drives a connection until it ends. `streams` is who serves its requests.
pub fn connection<S: Hire<Asking>>(
    core: Rc<Core>,
    transport: Transport,
    whence: Whence,
    streams: Rc<S>,
) -> impl Future<Output = ()> {
    let served = begun(core, transport, whence);
    async move {
        let Some(served) = served else { return };
        let serving = Serving { served, streams };
        let Served { core, mux, .. } = &*serving.served;
        core.waits_for(mux.transport.socket());
        serving.served.rest();
        let ending = drive(&serving, mux, core).await;
        serving.served.tell(ending);
        if let Ending::Said(_) = ending {
            Box::pin(linger(&mux.transport, core)).await;
        }
        // Each is put on record before the connection is forgotten.
        all_over(mux).await;
    }
}

/// A connection that begins, as long as its listener is one.
fn begun(core: Rc<Core>, transport: Transport, whence: Whence) -> Option<Rc<Served>> {
    let (settings, limits) = {
        let view = core.view();
        let listener = view.snapshot.listener(whence.listener)?;
        let settings = Settings { connect_protocol: view.snapshot.websockets, ..settings_of(listener) };
        (settings, listener.head_limits.clone())
    };
    let now_ms = core.now_ms();
    Some(Rc::new(Served {
        mux: Mux::new(Role::Server, transport, &settings, now_ms),
        whence,
        used: Cell::new(false),
        known: Cell::new(false),
        limits,
        rests_since_ms: Cell::new(now_ms),
        begun_ms: now_ms,
        connects: settings.connect_protocol,
        shrunk: Cell::new(false),
        next: Cell::default(),
        core,
    }))
}

/// What we tell clients of a listener.
fn settings_of(listener: &Listener) -> Settings {
    let header_list_bytes_max = u32::try_from(list_bytes_max(&listener.head_limits)).unwrap_or(u32::MAX);
    Settings { header_list_bytes_max, block_within_ms: listener.head_ms, ..Settings::DEFAULT }
}

/// A connection, and who serves its requests.
struct Serving<S> {
    served: Rc<Served>,
    streams: Rc<S>,
}

impl<S: Hire<Asking>> Driven for Serving<S> {
    const BROKEN_RECORDS: Option<Reason> = Some(CLIENT_RECORDS);

    fn take_in(&self, received: &[u8]) -> Result<(), Gone> {
        let Serving { served, streams } = self;
        let mut next = served.next.take();
        let taken = take_in(served, streams, received, &mut next);
        match next {
            Some(unused) if served.mux.exchanges() == 0 => served.core.release(unused),
            next => served.next.set(next),
        }
        taken
    }

    fn attend(&self) -> Option<Ending> {
        self.served.attend()
    }
}

/// What was received becomes what it means.
fn take_in<S: Hire<Asking>>(
    served: &Rc<Served>,
    streams: &Rc<S>,
    received: &[u8],
    next: &mut Option<Box<Exchange>>,
) -> Result<(), Gone> {
    let Served { core, mux, whence, .. } = &**served;
    let now_ms = core.now_ms();
    let view = core.view();
    let listener = view.snapshot.listener(whence.listener);
    let rules = Rules {
        // Without its listener it goes on until what is under way is over.
        limits: listener.map_or(&served.limits, |listener| &listener.head_limits),
        scheme: mux.transport.is_tls().then_some(Scheme::Https),
        extended_connect: served.connects,
    };
    let mut rest = received;
    let mut inner = mux.inner();
    loop {
        let x = next.get_or_insert_with(|| core.exchange());
        if !x.request.bytes.is_leased() {
            x.request.bytes = Buffer::head();
        }
        let mut asked = Asked::default();
        let (taken, event) = {
            let Inner { connection, compression, out, .. } = &mut *inner;
            super::mux::lease(out);
            let x = &mut **x;
            let mut blocks = RequestBlocks {
                compression,
                rules,
                arena: &mut x.request.bytes,
                table: &mut x.request.table,
                asked: Asked::default(),
            };
            let taken = connection.receive(rest, now_ms, &mut blocks, out);
            (asked.bodiless, asked.protocol) = (blocks.asked.bodiless, blocks.asked.protocol);
            taken?
        };
        rest = &rest[taken..];
        match event {
            Event::Idle => break,
            Event::Head { stream, end, flaw } => {
                let Some(mut x) = next.take() else { break };
                let mut flaw = flaw;
                if let Some(protocol) = asked.protocol
                    && flaw.is_none()
                {
                    flaw = as_get(&mut x, protocol).err();
                }
                if let Some(value) = x.field(Known::Priority) {
                    inner.connection.prioritise(stream, Priority::parse(value));
                }
                drop(inner);
                let asking = Request { key: stream, end, bodiless: asked.bodiless, flaw };
                begin(served, streams, x, &asking);
                inner = mux.inner();
                if rest.is_empty() {
                    // No exchange is taken for a request that is not here.
                    break;
                }
            }
            Event::Data { stream: key, bytes, end } => match inner.stream(key) {
                Some(stream) => stream.came(&inner, bytes, end),
                None => {
                    let Inner { connection, out, .. } = &mut *inner;
                    connection.consumed(key, bytes.len(), out);
                }
            },
            Event::Trailers { stream } => {
                if let Some(stream) = inner.stream(stream) {
                    stream.trailers_came(&x.request.bytes, x.request.table.never_indexed);
                }
            }
            Event::Reset { stream, code, cause } => {
                if let Some(stream) = inner.stream(stream) {
                    drop(inner);
                    stream.end(over_of(code, cause));
                    inner = mux.inner();
                }
            }
            Event::Settings | Event::GoAway { .. } | Event::Pong { .. } | Event::Informational { .. } => {}
        }
    }
    if core.node.pressure.memory.level() == Level::Easy {
        let Inner { connection, out, .. } = &mut *inner;
        connection.make_room(out);
    }
    drop(inner);
    served.rest();
    Ok(())
}

/// An extended CONNECT (RFC 8441) becomes the GET that it would be over HTTP/1.1, which asks to switch: everything that follows
/// knows one way to ask for a WebSocket.
#[cold]
fn as_get(x: &mut Exchange, protocol: Span) -> Result<(), Reason> {
    let Head { bytes, table } = &mut x.request;
    if protocol.of(bytes) != PROTOCOL {
        return Err(CONNECT_PROTOCOL);
    }
    let start = bytes.len();
    bytes.extend_from_slice(b"GET");
    if bytes.len() > usize::from(u16::MAX) {
        return Err(HEAD_SIZE);
    }
    (table.method, table.method_span) = (Method::Get, Span::new(start, bytes.len()));
    (table.upgrade, table.websocket) = (true, true);
    if table.framing == BodyLength::UntilClose {
        // What follows are frames of the WebSocket, no content (RFC 9113 §8.5).
        table.framing = BodyLength::None;
        table.body_unanticipated = false;
    }
    Ok(())
}

/// What is known of a request beside its head.
struct Request {
    key: StreamKey,
    end: bool,
    bodiless: bool,
    flaw: Option<Reason>,
}

/// A request has come: somebody serves it.
fn begin<S: Hire<Asking>>(served: &Rc<Served>, streams: &Rc<S>, x: Box<Exchange>, request: &Request) {
    let mux = &served.mux;
    mux.transport.socket().stream_has_come();
    let stream = StreamTransport::begin(mux, Some(request.key));
    if request.end {
        stream.ended();
    }
    let transport = Transport::Stream(stream);
    let Request { bodiless, flaw, .. } = *request;
    streams.hire(Asking { served: Rc::clone(served), x, transport, bodiless, flaw });
}

/// Serves one request.
pub async fn exchange(asking: Asking) {
    let Asking { served, mut x, transport, bodiless, flaw } = asking;
    let Served { core, whence, .. } = &*served;
    let view = core.view();
    whence.begin(&mut x, &transport, served.known.get(), core);
    if transport.is_gone() {
        // It was taken back with the next frames: nothing is done for it but to put it on record.
        x.facts.bytes_in = x.request.bytes.len() as u64;
        x.facts.reason = Some(CLIENT_GONE);
    } else if let Some(listener) = view.snapshot.listener(whence.listener) {
        let client = Client { transport: &transport, listener, view: &view };
        walk(&mut x, &client, &view, bodiless, flaw, core).await;
    } else if let Some(stream) = transport.stream() {
        stream.set_code(ErrorCode::REFUSED_STREAM);
    }
    // Who broke the rules on its stream has not just gone.
    if x.facts.reason == Some(CLIENT_GONE)
        && let Some(stream) = transport.stream()
        && let Some(Over::Fault(reason)) = stream.over()
    {
        x.facts.reason = Some(reason);
    }
    conclude(&mut x, whence, served.used.replace(true), &view, core);
    if let Some(stream) = transport.stream()
        && stream.is_sent()
        && !stream.has_ended()
    {
        pass_over(&transport, core).await;
    }
    served.known.set(x.identity.is_some());
    served.rests_since_ms.set(core.coarse_ms());
    // The stream ends first: whoever hears of its end may ask again, and finds the limits as they are now.
    drop(transport);
    core.release(x);
    if served.mux.exchanges() == 0
        && let Some(unused) = served.next.take()
    {
        core.release(unused);
    }
    served.rest();
}

/// What is still on its way on a stream that has been ended from here is taken and dropped for a while: some clients take a reset
/// for the end of the answer as well, though it says `NO_ERROR` (RFC 9113 §8.1).
pub async fn pass_over(transport: &Transport, core: &Core) {
    core.deadline(transport, Deadline::Linger, core.coarse_ms() + LINGER_MS);
    let mut taken = 0;
    while taken < LINGER_BYTES {
        match transport.recv_leased(Buffer::small).await {
            Ok(received) if !received.is_empty() => taken += received.len(),
            _ => return,
        }
    }
}

async fn walk(
    x: &mut Exchange,
    client: &Client<'_>,
    view: &CoreView,
    bodiless: bool,
    flaw: Option<Reason>,
    core: &Rc<Core>,
) {
    let head_bytes = x.request.bytes.len();
    x.facts.bytes_in = head_bytes as u64;
    let mut flaw = flaw;
    if bodiless && flaw.is_none() {
        // Nothing goes on before it is known that nothing follows: an origin would take it for another request.
        core.deadline(client.transport, Deadline::Body, core.coarse_ms() + client.listener.head_ms);
        match client.transport.recv_leased(Buffer::small).await {
            Ok(received) if received.is_empty() && client.transport.expired().is_none() => {
                x.request.table.framing = BodyLength::None;
            }
            Ok(received) if received.is_empty() => {
                flaw = Some(CLIENT_BODY_TIMEOUT);
            }
            Ok(_) => flaw = Some(Flaw::BodyUnexpected.of(Side::Client)),
            Err(_) => {
                x.facts.reason = Some(CLIENT_GONE);
                return;
            }
        }
        client.transport.clear_deadline();
    }
    match flaw {
        None => drop(serve(x, client, view, head_bytes, core).await),
        Some(reason) => {
            let mut nothing = Incoming::new(BodyLength::None, Origin::Client, b"", 0);
            drop(answer::refuse(x, client, &mut nothing, reason, core).await);
        }
    }
}

impl Served {
    /// Looks after what happens by time, or because the node or its configuration has changed. Called whenever the owner runs.
    fn attend(&self) -> Option<Ending> {
        let Served { core, mux, .. } = self;
        let passed = mux.due().take_passed();
        let leaves = || {
            let view = core.view();
            let listener = view.snapshot.listener(self.whence.listener);
            let keeps = |listener: &Listener| listener.keeps(mux.transport.is_tls(), Protocol::Http2);
            core.is_draining() || !listener.is_some_and(keeps)
        };
        let is_over = passed.is_some_and(|kind| kind == Deadline::Spared);
        if passed.is_none() && !mux.is_closing() && !leaves() {
            return None;
        }
        let has_left = mux.rests();
        let now_ms = core.now_ms();
        let mut inner = mux.inner();
        let Inner { connection, out, .. } = &mut *inner;
        super::mux::lease(out);
        if let Err(gone) = connection.tick(now_ms, out) {
            return Some(Ending::Said(Some(gone.reason)));
        }
        if is_over {
            connection.goaway(ErrorCode::NO_ERROR, b"", out);
            return Some(Ending::Said(Some(CONNECTION_SPARED)));
        }
        let rests = connection.streams_open() == 0 && has_left;
        let idle_ms = self.idle_ms();
        let is_silent = rests && now_ms >= self.rests_since_ms.get() + idle_ms;
        if (is_silent || leaves()) && !connection.is_closing() {
            connection.shutdown(now_ms, out);
        }
        if (connection.is_drained() && mux.exchanges() == 0)
            || (is_silent && now_ms >= self.rests_since_ms.get() + idle_ms + GOODBYE_MS)
        {
            let silent = !self.used.get() && !core.is_draining() && is_silent;
            return Some(Ending::Said(silent.then_some(CLIENT_SILENT)));
        }
        drop(inner);
        if passed.is_some() && (rests || mux.is_quiet()) {
            mux.shrink();
            self.shrunk.set(true);
        }
        self.rest();
        None
    }

    /// Between two requests, or before the first.
    fn idle_ms(&self) -> u64 {
        let view = self.core.view();
        match view.snapshot.listener(self.whence.listener) {
            Some(listener) if !self.core.is_draining() => listener.idle_ms,
            _ => DRAINING_FIRST_MS,
        }
    }

    /// Sets when the connection is to be looked at next, whatever happens until then.
    fn rest(&self) {
        let Served { core, mux, .. } = self;
        let now_ms = core.coarse_ms();
        let rests = mux.exchanges() == 0 && !mux.writes();
        if !rests {
            self.rests_since_ms.set(now_ms);
            self.shrunk.set(false);
        }
        let (kind, mut at_ms) = match (rests, self.used.get()) {
            (false, _) => (Deadline::Look, now_ms + LOOK_MS),
            (true, true) if !self.shrunk.get() => (Deadline::Look, now_ms + SHRINK_MS),
            (true, false) => (Deadline::First, self.rests_since_ms.get() + self.idle_ms()),
            (true, true) if self.known.get() => {
                (Deadline::IdleKnown, self.rests_since_ms.get() + self.idle_ms())
            }
            (true, true) => (Deadline::Idle, self.rests_since_ms.get() + self.idle_ms()),
        };
        let inner = mux.inner();
        if inner.connection.is_closing() && rests {
            // What is under way has its end noticed when it comes.
            at_ms = now_ms + CLOSING_LOOK_MS;
        }
        if let Some(due_ms) = inner.connection.next_deadline() {
            at_ms = at_ms.min(due_ms);
        }
        drop(inner);
        core.sweep.set(mux, kind, at_ms.max(now_ms + 1));
    }

    /// Tells of a connection that did not end as it should.
    fn tell(&self, ending: Ending) {
        let Served { core, mux, .. } = self;
        let reason = match (ending, mux.transport.expired()) {
            (_, Some(Deadline::Spared)) => CONNECTION_SPARED,
            (Ending::Said(Some(reason)), _) => reason,
            _ => return,
        };
        let visit = Visit {
            duration_ms: core.now_ms().saturating_sub(self.begun_ms),
            agreed: mux.transport.agreed(),
            ..Visit::begun(self.whence.source(), self.whence.listener)
        };
        ends::tell(core, &visit, &reason);
    }
}
