//! A WebSocket between client and upstream: two endless bodies, walked by their filters, until somebody ends it.
//!
//! For: [`crate::pipeline::serve`], which asks for one ([`ask`]), and [`crate::pipeline::forward`], which hands over a connection
//! whose upstream has answered 101 ([`run`]). Not for: what a frame or a handshake must look like ([`crate::websocket`]), what a
//! message must be ([`crate::policy::websocket`]).
//!
//! **One request from its head to its end.** The exchange lives as long as the tunnel does: it keeps its identity, its seats among
//! those in flight, its place at the upstream, and gets one record. Over HTTP/2 it is an extended CONNECT (RFC 8441), which is
//! routed, judged, logged and forwarded as the GET that it is over HTTP/1.1.
//!
//! **Upstream** it always takes a connection for itself: frames of many tunnels in one flow-controlled connection would wait for each
//! other. It is one of HTTP/1.1 wherever that may be spoken; where the upstream speaks HTTP/2 only, it is asked by an extended
//! CONNECT, if it takes them, and refused with 502 otherwise.
//!
//! **Time.** A tunnel has no deadline on either transport. The sweep looks at it twice a second ([`Watch`]), which is a few loads
//! and comparisons and wakes nobody, unless something is due: silence, its lifetime, a peer that takes nothing, a drain, the end of
//! its right to be.
//!
//! **Memory.** Waiting for bytes takes no buffer. One direction holds the piece that is on its way, up to a large buffer if the pieces
//! before it were full, and what its filter holds.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use ring::rand::{SecureRandom, SystemRandom};

use crate::accept::pressure::Level;
use crate::h1::body::Incoming;
use crate::h1::downstream::linger;
use crate::h2::downstream::pass_over;
use crate::h2::frame::ErrorCode;
use crate::http::field::FieldSet;
use crate::http::{Protocol, Protocols, Reason};
use crate::pipeline::exchange::Exchange;
use crate::pipeline::fail::{CLIENT_READ_TIMEOUT, Fail, UPSTREAM_STREAM_IDLE};
use crate::pipeline::forward::{Broken, Lent, Route};
use crate::pipeline::respond::encode_head;
use crate::pipeline::serve::Client;
use crate::pipeline::watch::{Lasting, Lost, Right, Watch};
use crate::policy::admit::blocks::ADDRESS_BLOCKED;
use crate::policy::websocket::WebSocket;
use crate::snapshot::Timeouts;
use crate::websocket::close::WEBSOCKET_OVERLOAD;
use crate::websocket::filter::Kind;
use crate::websocket::handshake::{self, Key, Opening};
use crate::websocket::{CloseCode, Ending, Filter, Judge, Onward, Sender, Then};
use crate::worker::core::Core;
use crate::worker::guard::spawn;
use crate::worker::transport::POST_BYTES_MAX;
use crate::worker::{Buffer, Deadline, Peer, Transport, bulk, turn};

/// How long the second side may take to close after the first, milliseconds.
const CLOSE_MS: u64 = 5_000;
/// How long a piece that is on its way may take when the tunnel ends, milliseconds: no Close frame can stand in its midst.
const FAREWELL_MS: u64 = 1_000;
/// How long those are to wait for whom there is no room.
const OVERLOAD_LINES: &[u8] = b"Retry-After: 5\r\n";

/// Nothing can be chosen at random, which a handshake has to be.
pub const RANDOMNESS_MISSING: Reason =
    Reason::ringwall("randomness_missing", 5002, 503, "The system has no random bytes to give");
/// What a response head gains at most beside the lines of policies.
const HEAD_ROOM: usize = 512;

/// A tunnel that a client asks for, judged.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    websocket: &'a WebSocket,
    opening: Opening,
    /// What the upstream is asked with.
    key: Key,
}

/// Judges whether the request opens a WebSocket; `None`: it is an ordinary one.
///
/// # Errors
/// Why it is refused.
pub fn ask<'a>(x: &mut Exchange, websocket: &'a WebSocket, core: &Core) -> Result<Option<Asked<'a>>, Reason> {
    let judged = match websocket.open(x) {
        Ok(Some(_)) if !has_room(core) => Err(&WEBSOCKET_OVERLOAD),
        Ok(Some(opening)) => {
            // RFC 6455 §4.1: a nonce that is chosen at random for each connection.
            let key = opening.key.or_else(|| random().map(Key::of_nonce));
            key.map(|key| Some(Asked { websocket, opening, key })).ok_or(&RANDOMNESS_MISSING)
        }
        Ok(None) => Ok(None),
        Err(reason) => Err(reason),
    };
    judged.map_err(|reason| {
        explain(x, reason);
        *reason
    })
}

/// Whether the node takes in what lasts: on a connection that is there already a WebSocket is what elsewhere is a connection, and
/// takes as much. Where no connection is accepted none is opened, so that what is left serves those who are in.
fn has_room(core: &Core) -> bool {
    let pressure = &core.node.pressure;
    !pressure.is_paused() && pressure.memory.level() < Level::Critical
}

/// What the client is told beside the problem.
#[cold]
fn explain(x: &mut Exchange, reason: &Reason) {
    let told = match *reason {
        handshake::WEBSOCKET_REQUIRED | handshake::WEBSOCKET_VERSION
            if x.request.table.version != crate::http::Version::Http2 =>
        {
            handshake::UPGRADE_REQUIRED_LINES
        }
        handshake::WEBSOCKET_REQUIRED | handshake::WEBSOCKET_VERSION_CONNECT => {
            &b"Sec-WebSocket-Version: 13\r\n"[..]
        }
        WEBSOCKET_OVERLOAD => OVERLOAD_LINES,
        _ => return,
    };
    x.answer_inserts.extend_from_slice(told);
}

/// Bytes that nobody can foresee; `None`: the system has none to give.
fn random<const BYTES: usize>() -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    SystemRandom::new().fill(&mut bytes).ok().map(|()| bytes)
}

impl Asked<'_> {
    /// What of the client's head does not go on, and what an upstream that speaks `protocols` is asked in its place.
    pub fn prepare(&self, x: &Exchange, protocols: Protocols, skip: &mut FieldSet, inserts: &mut Vec<u8>) {
        let fields = &x.request.table.fields;
        *skip = skip.union(handshake::skip(fields));
        let key = protocols.http1.then_some(&self.key);
        self.opening.push_lines(inserts, x.head_bytes(), fields, key);
    }
}

/// How one direction ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    /// Its sender's Close frame has gone on.
    Closed,
    /// Its sender has gone.
    Gone,
    /// Its receiver has gone: what that one said last is still to be read.
    Unheard,
    /// A law was broken.
    End(Ending),
    /// It was asked to stop between two pieces.
    Stopped,
}

/// What both directions and the sweep share.
struct Course {
    core: Rc<Core>,
    /// When a byte last moved, in either direction, and how long that may be ago, milliseconds.
    moved_ms: Cell<u64>,
    idle_ms: u64,
    /// When it ends whatever happens, monotonic milliseconds.
    end_ms: u64,
    right: Right,
    /// Since when a piece is on its way to the client, and to the upstream; 0 is none.
    sending_ms: [Cell<u64>; 2],
    /// The client, from which nothing is read while a piece of its own is on its way. A stream says by itself that it is reset.
    client: Option<Peer>,
    stream_idle_ms: u64,
    /// By when the end that has begun must be over; 0: none has.
    over_by_ms: Cell<u64>,
    /// No more pieces are to be taken.
    stops: Cell<bool>,
}

impl Course {
    /// Whether the client is known to have gone, although nothing is read from it.
    fn has_lost_client(&self) -> bool {
        self.sending_ms[1].get() != 0 && self.client.as_ref().is_some_and(Peer::has_gone)
    }
}

impl Lasting for Course {
    fn wants(&self, now_ms: u64) -> bool {
        let since = |cell: &Cell<u64>| cell.get() != 0 && now_ms >= cell.get() + self.stream_idle_ms;
        let by = self.over_by_ms.get();
        now_ms >= self.moved_ms.get() + self.idle_ms
            || now_ms >= self.end_ms
            || (by != 0 && now_ms >= by)
            || self.sending_ms.iter().any(since)
            || self.core.is_draining()
            || self.right.wants()
            || self.has_lost_client()
    }
}

/// One direction.
struct Way<'a> {
    sender: Sender,
    from: &'a Transport,
    to: &'a Transport,
    filter: Filter,
    judge: Messages<'a>,
    /// Bytes that came, and that went on.
    received: u64,
    sent: u64,
    /// A piece is on its way, or was when it was given up: nothing can be said behind it.
    is_stuck: bool,
}

/// Who judges messages of one direction.
struct Messages<'a> {
    websocket: &'a WebSocket,
    sender: Sender,
    paid_ns: u64,
    core: &'a Core,
}

impl Judge for Messages<'_> {
    #[inline]
    fn admit(&mut self, _: Kind) -> Result<(), &'static Reason> {
        match self.sender {
            Sender::Client => self.websocket.admit(&mut self.paid_ns, self.core.clock.coarse_ns()),
            Sender::Upstream => Ok(()),
        }
    }

    fn message(&mut self, kind: Kind, payload: &[u8]) -> Result<(), &'static Reason> {
        self.websocket.message(kind, payload, &mut self.core.state.borrow_mut().validate)
    }
}

impl Way<'_> {
    /// Passes pieces on, `first` the one that came with the head, until this direction is over.
    async fn pump(&mut self, first: Buffer, watch: &Course, core: &Core) -> Over {
        let mut piece = first;
        let mut full = 0;
        loop {
            if piece.is_empty() {
                if watch.stops.get() {
                    return Over::Stopped;
                }
                turn::step().await;
                if full > 0 {
                    // Who moves much takes what others leave of a turn.
                    bulk::share(full, core.driver).await;
                }
                let lease = || match full > 0 && core.node.pressure.worst() == Level::Easy {
                    true => Buffer::large(),
                    false => Buffer::small(),
                };
                piece = match self.from.recv_leased(lease).await {
                    Ok(received) if !received.is_empty() => received,
                    _ => return Over::Gone,
                };
                full = if piece.len() == piece.capacity() { piece.len() } else { 0 };
            }
            self.received += piece.len() as u64;
            watch.moved_ms.set(core.coarse_ms());
            let mut out = Buffer::empty();
            let held = self.filter.held_bytes();
            let verdict = self.filter.pass(&piece, &mut out, core.coarse_ms(), &mut self.judge);
            let grown = self.filter.held_bytes().saturating_sub(held);
            if grown > 0 && core.node.pressure.take_room(grown).is_err() {
                return Over::End(Ending::OVERLOAD);
            }
            let sent = match verdict.onward {
                Onward::Prefix(count) => {
                    piece.truncate(count);
                    self.send(&mut piece, watch, core).await
                }
                Onward::Out => {
                    // Whoever waits for the other side holds one buffer.
                    drop(std::mem::take(&mut piece));
                    self.send(&mut out, watch, core).await
                }
            };
            piece = Buffer::empty();
            match (sent, verdict.then) {
                (_, Then::End(ending)) => return Over::End(ending),
                (false, _) => return Over::Unheard,
                (true, Then::Closed) => return Over::Closed,
                (true, Then::GoOn) => {}
            }
        }
    }

    /// Sends what goes on; whether there is anybody to take it.
    async fn send(&mut self, bytes: &mut Buffer, watch: &Course, core: &Core) -> bool {
        if bytes.is_empty() {
            return true;
        }
        let since = &watch.sending_ms[usize::from(self.sender == Sender::Client)];
        since.set(core.coarse_ms().max(1));
        self.is_stuck = true;
        let length = bytes.len();
        let sent = if length <= POST_BYTES_MAX {
            self.to.post(bytes).await
        } else {
            self.to.send(bytes, 0..length).await
        };
        since.set(0);
        self.is_stuck = sent.is_err();
        watch.moved_ms.set(core.coarse_ms());
        if sent.is_ok() {
            self.sent += length as u64;
        }
        sent.is_ok()
    }
}

/// Carries a tunnel from the upstream's answer that opens it to its end.
///
/// # Errors
/// The answer is none to what was asked: the client gets one of ours. Or the client has gone before it had its own.
pub async fn run(
    x: &mut Exchange,
    client: &Client<'_>,
    incoming: &Incoming,
    lent: Lent,
    asked: &Asked<'_>,
    route: &Route<'_>,
    core: &Rc<Core>,
) -> Result<bool, Broken> {
    let Asked { websocket, opening, key } = *asked;
    let measure = handshake::Asked { head: &x.request.bytes, fields: &x.request.table.fields, opening };
    let (head, table) = (&x.response.bytes, &x.response.table);
    let agreed = match lent.connection.protocol {
        Protocol::Http1 => handshake::judge_switch(head, table, &key, &measure),
        Protocol::Http2 => handshake::judge_connected(head, table, &measure),
    };
    let agreed = agreed.map_err(|reason| Broken::Before(Fail::Upstream(*reason)))?;

    let streams = client.transport.stream().is_some();
    let fields = &x.response.table.fields;
    let mut inserts = std::mem::take(&mut x.response_inserts);
    let accept = opening.key.map(|key| key.accept_value());
    agreed.push_lines(&mut inserts, &x.response.bytes, fields, accept.as_ref());
    x.response_skip = x.response_skip.union(handshake::skip(fields));
    x.response_inserts = inserts;
    // RFC 8441 §5: over HTTP/2 it is 200 that opens the tunnel.
    x.response.table.status = if streams { 200 } else { 101 };
    let mut out = Buffer::of(x.response.bytes.len() + x.response_inserts.len() + HEAD_ROOM);
    encode_head(x, route, crate::http::BodyLength::None, true, false, &mut out);
    x.facts.status = x.response.table.status;
    x.facts.upgraded = true;

    let upstream = &lent.connection.transport;
    let length = out.len();
    core.deadline(client.transport, Deadline::StreamIdle, core.coarse_ms() + client.stream_idle_ms(x));
    if let Err(error) = client.transport.send(&mut out, 0..length).await {
        upstream.set_open_ended(true);
        return Err(Broken::After(Fail::client(client.transport.expired(), Some(&error))));
    }
    x.facts.bytes_out += length as u64;
    client.transport.clear_deadline();
    upstream.clear_deadline();

    let received = std::mem::take(&mut x.response.bytes);
    let first_down = copied(received.get(lent.head_bytes..).unwrap_or_default());
    drop((received, out));
    let way = |sender, from, to| Way {
        sender,
        from,
        to,
        filter: Filter::new(websocket.rules(sender, agreed.deflate)),
        judge: Messages { websocket, sender, paid_ns: 0, core },
        received: 0,
        sent: 0,
        is_stuck: false,
    };
    let mut up = way(Sender::Client, client.transport, upstream);
    let mut down = way(Sender::Upstream, upstream, client.transport);
    x.lasts();

    core.state.borrow().metrics.tunnel_opened();
    let ending =
        carry(x, client, websocket, &mut up, &mut down, copied(incoming.rest()), first_down, core).await;
    core.state.borrow().metrics.tunnel_closed();

    // What came with the head is counted where the request is.
    x.facts.bytes_in += up.received - incoming.rest().len() as u64;
    x.facts.messages = up.filter.messages() + down.filter.messages();
    x.facts.answered_ns = core.clock.now_ns();
    x.facts.reason = ending.map(|ending| *ending.reason);
    let (is_up_cut, is_down_cut) = leave(client, &mut up, &mut down, ending, core).await;
    x.facts.bytes_out += down.sent;
    drop((up, down));
    let Lent { connection, guard, .. } = lent;
    drop(guard);
    let (transport, permit) = connection.into_parts();
    transport.set_open_ended(is_up_cut);
    // A stream in the midst of a frame is reset at once.
    if !(is_up_cut && transport.stream().is_some()) {
        let core = Rc::clone(core);
        spawn(async move {
            match transport.stream() {
                Some(_) => pass_over(&transport, &core).await,
                None => linger(&transport, &core).await,
            }
            drop(permit);
        });
    }
    if is_down_cut {
        client.transport.set_open_ended(true);
        if let Some(stream) = client.transport.stream() {
            stream.set_code(ErrorCode::CANCEL);
        }
    }
    Ok(false)
}

fn copied(bytes: &[u8]) -> Buffer {
    if bytes.is_empty() {
        return Buffer::empty();
    }
    let mut buffer = Buffer::of(bytes.len());
    buffer.extend_from_slice(bytes);
    buffer
}

/// Runs both directions until the tunnel is over; why, if its two ends did not agree on it.
#[expect(clippy::too_many_arguments, reason = "an exchange and its two directions")]
async fn carry(
    x: &mut Exchange,
    client: &Client<'_>,
    websocket: &WebSocket,
    up: &mut Way<'_>,
    down: &mut Way<'_>,
    first_up: Buffer,
    first_down: Buffer,
    core: &Rc<Core>,
) -> Option<Ending> {
    let now_ms = core.now_ms();
    let stream_idle_ms = x
        .operation(&client.view.snapshot)
        .map_or(Timeouts::DEFAULT.stream_idle, |found| found.timeouts.stream_idle);
    let right = Right::new(core);
    right.begin(x);
    let watch = Watch::new(Course {
        core: Rc::clone(core),
        moved_ms: Cell::new(now_ms),
        idle_ms: websocket.idle_ms,
        end_ms: now_ms.saturating_add(websocket.lifetime_ms),
        right,
        sending_ms: Default::default(),
        client: client.transport.stream().is_none().then(|| client.transport.socket().peer()),
        stream_idle_ms,
        over_by_ms: Cell::new(0),
        stops: Cell::new(false),
    });
    watch.rest(core);
    if let Some(stream) = client.transport.stream() {
        // A client that resets its stream is told of by that; the upstream is to hear it in a frame.
        stream.set_works(&watch);
    }
    let (from, to) = (up.from, down.from);
    let mut upward = pin!(up.pump(first_up, &watch, core));
    let mut downward = pin!(down.pump(first_down, &watch, core));
    let mut over: [Option<Over>; 2] = [None, None];
    let ending = poll_fn(|context| {
        watch.wait(context);
        poll_both(upward.as_mut(), downward.as_mut(), &mut over, context);
        if let Some(ending) = judge_over(&over, from, to) {
            return Poll::Ready(ending);
        }
        let has_begun = over.iter().any(Option::is_some);
        if has_begun && watch.over_by_ms.get() == 0 {
            watch.over_by_ms.set(core.coarse_ms() + CLOSE_MS);
        }
        if watch.has_found() {
            if let Some(ending) = look(&watch, &over, x, client, core) {
                return Poll::Ready(Some(ending));
            }
            watch.rest(core);
        }
        Poll::Pending
    })
    .await;
    let ending = ending?;
    // A piece that is on its way arrives whole, if that does not take long: behind it there is room for a Close frame.
    watch.stops.set(true);
    watch.over_by_ms.set(core.coarse_ms() + FAREWELL_MS);
    poll_fn(|context| {
        watch.wait(context);
        let is_sending = |at: usize| watch.sending_ms[at].get() != 0;
        if is_sending(1) && over[0].is_none() {
            poll_one(upward.as_mut(), &mut over[0], context);
        }
        if is_sending(0) && over[1].is_none() {
            poll_one(downward.as_mut(), &mut over[1], context);
        }
        let now_ms = core.coarse_ms();
        if !(is_sending(0) || is_sending(1)) || now_ms >= watch.over_by_ms.get() {
            return Poll::Ready(());
        }
        let _ = watch.has_found();
        watch.look_at(watch.over_by_ms.get(), core);
        Poll::Pending
    })
    .await;
    Some(ending)
}

fn poll_one(
    way: std::pin::Pin<&mut impl Future<Output = Over>>,
    over: &mut Option<Over>,
    context: &mut Context<'_>,
) {
    if over.is_none()
        && let Poll::Ready(how) = way.poll(context)
    {
        *over = Some(how);
    }
}

fn poll_both(
    up: std::pin::Pin<&mut impl Future<Output = Over>>,
    down: std::pin::Pin<&mut impl Future<Output = Over>>,
    over: &mut [Option<Over>; 2],
    context: &mut Context<'_>,
) {
    poll_one(up, &mut over[0], context);
    poll_one(down, &mut over[1], context);
}

/// Whether the tunnel is over, and then why, if its ends did not agree on it. `over` is of the client's direction, and of the
/// upstream's.
fn judge_over(over: &[Option<Over>; 2], client: &Transport, upstream: &Transport) -> Option<Option<Ending>> {
    let cut = |transport: &Transport, ending: Ending| match transport.expired() {
        Some(Deadline::Blocked) => Ending { reason: &ADDRESS_BLOCKED, ..Ending::CREDENTIAL },
        Some(Deadline::Drain) => Ending::DRAINED,
        _ => ending,
    };
    match *over {
        [Some(Over::End(ending)), _] | [_, Some(Over::End(ending))] => Some(Some(ending)),
        [Some(Over::Closed), Some(Over::Closed)] => Some(None),
        // Who had the other's Close frame and goes without one of its own has ended it all the same.
        [Some(Over::Gone | Over::Unheard), Some(Over::Closed)] => Some(None),
        [Some(Over::Closed), Some(Over::Gone | Over::Unheard)] => {
            Some(Some(cut(upstream, Ending::UPSTREAM_CUT)))
        }
        [Some(Over::Gone), _] => Some(Some(cut(client, Ending::CLIENT_CUT))),
        [_, Some(Over::Gone)] => Some(Some(cut(upstream, Ending::UPSTREAM_CUT))),
        [Some(Over::Unheard | Over::Stopped), Some(Over::Unheard | Over::Stopped)] => {
            Some(Some(cut(upstream, Ending::UPSTREAM_CUT)))
        }
        _ => None,
    }
}

/// Something may be due.
fn look(
    watch: &Course,
    over: &[Option<Over>; 2],
    x: &mut Exchange,
    client: &Client<'_>,
    core: &Core,
) -> Option<Ending> {
    let now_ms = core.coarse_ms();
    let by_ms = watch.over_by_ms.get();
    if by_ms != 0 && now_ms >= by_ms {
        // One side has closed, or hears nothing more; the other takes no notice.
        return Some(match over {
            [Some(Over::Closed), _] | [_, Some(Over::Unheard)] => Ending::UPSTREAM_CUT,
            _ => Ending::CLIENT_CUT,
        });
    }
    if client.transport.is_gone() || watch.has_lost_client() {
        return Some(Ending::CLIENT_CUT);
    }
    if core.is_draining() {
        return Some(Ending::DRAINED);
    }
    if now_ms >= watch.end_ms {
        return Some(Ending::LIFETIME);
    }
    let stuck = |at: usize| {
        let since_ms = watch.sending_ms[at].get();
        since_ms != 0 && now_ms >= since_ms + watch.stream_idle_ms
    };
    let by = |reason| Ending { reason, client: CloseCode::GOING_AWAY, upstream: CloseCode::GOING_AWAY };
    if stuck(0) {
        return Some(by(&CLIENT_READ_TIMEOUT));
    }
    if stuck(1) {
        return Some(by(&UPSTREAM_STREAM_IDLE));
    }
    if now_ms >= watch.moved_ms.get() + watch.idle_ms {
        return Some(Ending::IDLE);
    }
    match watch.right.judge(x, client, core) {
        Ok(()) => None,
        Err(Lost::Credential) => Some(Ending::CREDENTIAL),
        // The client is to come again, and finds what there is.
        Err(Lost::Unserved) => Some(Ending::DRAINED),
    }
}

/// Tells both sides that it is over, and why. Whether the upstream, and the client, are in the midst of a frame.
async fn leave(
    client: &Client<'_>,
    up: &mut Way<'_>,
    down: &mut Way<'_>,
    ending: Option<Ending>,
    core: &Core,
) -> (bool, bool) {
    let mut frames = (Buffer::empty(), Buffer::empty());
    let key = random();
    if let Some(ending) = ending {
        let farewell = ending.close(&mut up.filter, &mut down.filter, key.unwrap_or_default());
        let frame = |frame: Option<crate::websocket::CloseFrame>| {
            frame.map_or_else(Buffer::empty, |frame| copied(frame.as_slice()))
        };
        frames = (frame(farewell.to_upstream), frame(farewell.to_client));
    }
    let by_ms = core.coarse_ms() + FAREWELL_MS;
    // RFC 6455 §5.3: a mask that can be foreseen is none. Where there is no other, the end of the transport has to tell the upstream.
    let is_unmasked = key.is_none() && !frames.0.is_empty();
    let mut cut = (up.filter.is_cut() || up.is_stuck || is_unmasked, down.filter.is_cut() || down.is_stuck);
    if !cut.1 {
        down.sent += frames.1.len() as u64;
        core.deadline(client.transport, Deadline::Linger, by_ms);
        cut.1 = client.transport.end(&mut frames.1, b"", false).await.is_err();
        if !cut.1 {
            client.transport.clear_deadline();
        }
    }
    if !cut.0 {
        core.deadline(up.to, Deadline::Linger, by_ms);
        cut.0 = up.to.end(&mut frames.0, b"", false).await.is_err();
        if !cut.0 {
            up.to.clear_deadline();
        }
    }
    cut
}
