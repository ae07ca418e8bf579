//! Speaking to the upstream: choose a target, lend a connection, send the request while its body arrives, read the head of
//! the response, try again only where that is safe.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::net::IpAddr;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use crate::accept::proxy_protocol::Announced;
use crate::h1::body::{Incoming, transfer};
use crate::h1::encode::{CONNECTION_CLOSE, RequestLine, encode_request};
use crate::h1::parse::{Parse, parse_response};
use crate::h2::share;
use crate::http::field::FieldSet;
use crate::http::field::Known;
use crate::http::head::ResponseTable;
use crate::http::{BodyLength, HeadLimits, Protocol, Reason, Version, forward as law};
use crate::pipeline::calls;
use crate::pipeline::exchange::{Exchange, Head};
use crate::pipeline::fail::{
    CLIENT_GONE, EXCHANGE_TIMEOUT, Fail, UPSTREAM_CLOSED, UPSTREAM_FIRST_BYTE, UPSTREAM_RESET,
};
use crate::pipeline::gather::{invite, push_beginning};
use crate::pipeline::respond::{self, Responded};
use crate::pipeline::serve::Client;
use crate::pipeline::tunnel;
use crate::pipeline::watch::Watching;
use crate::policy::respond::headers::drop_banners;
use crate::snapshot::{Api, Operation, Rewrite, Timeouts};
use crate::sys::prefetch::Lines;
use crate::upstream::admission::{Admitted, BUSY_AGAIN_MS, UPSTREAM_QUEUE, admit};
use crate::upstream::balance::Tried;
use crate::upstream::connect::{NOBODY, NODE_EXHAUSTED, UPSTREAM_PORTS, connect, connect_alone, is_our_own};
use crate::upstream::maglev::hash;
use crate::upstream::pool::{Connection, CoreMember, CoreUpstream, InFlight};
use crate::upstream::retry::pause_ms;
use crate::upstream::{ChoiceKey, Introduction, Upstream};
use crate::websocket::handshake::UPSTREAM_WEBSOCKET_SWITCH;
use crate::worker::core::Core;
use crate::worker::{Buffer, Deadline, Transport, pause};

/// No target is configured or known.
pub const UPSTREAM_EMPTY: Reason =
    Reason::upstream("upstream_empty", 4005, 503, "The upstream has no targets");
/// The upstream switched protocols without being asked.
pub const UPSTREAM_UPGRADE: Reason =
    Reason::upstream("upstream_upgrade", 4250, 502, "The upstream switched protocols unasked");
/// The upstream sent too many interim responses.
pub const UPSTREAM_INTERIM: Reason =
    Reason::upstream("upstream_interim", 4251, 502, "The upstream sent too many interim responses");
/// The head of the response is too large for the buffers.
pub const UPSTREAM_HEAD: Reason =
    Reason::upstream("upstream_head", 4252, 502, "The response head is too large");

/// Interim responses that are accepted before the final one.
const INTERIM_MAX: usize = 16;
/// What a request head gains at most beside the lines of policies: framing, a rewritten path, `Host`, a chunk's head.
const HEAD_ROOM: usize = 512;
/// A held body up to this many bytes leaves in the same write as the head.
const TOGETHER_BYTES_MAX: usize = 12 * 1024;

/// Where an exchange goes.
pub struct Route<'a> {
    /// The operation.
    pub operation: &'a Operation,
    /// Its API.
    pub api: &'a Api,
    /// The upstream, with this core's pools.
    pub upstream: &'a Rc<CoreUpstream>,
    /// Its index in the snapshot.
    pub upstream_index: usize,
    /// What replaces the API's base.
    pub rewrite: Option<&'a Rewrite>,
    /// Whether the upstream's own authority is sent as `Host`.
    pub host_of_upstream: bool,
    /// The WebSocket that the client asks for.
    pub tunnel: Option<&'a tunnel::Asked<'a>>,
}

/// When it broke.
#[derive(Clone, Copy, Debug)]
pub enum Broken {
    /// Nothing of the response has been sent: an answer of ours can be.
    Before(Fail),
    /// The client has seen the start of a response.
    After(Fail),
}

/// The times of an exchange up to the end of the response head.
struct Times<'a> {
    of: &'a Timeouts,
    /// When the head must be here, in monotonic milliseconds.
    total_ms: u64,
    /// The upstream is asked to open a WebSocket: over HTTP/1.1 101 is an answer, over HTTP/2 the stream stays open for it.
    opens: bool,
}

impl Times<'_> {
    /// Gives the upstream `grant_ms` from now on for what `kind` says, or what is left of the whole, if that is less.
    fn set(&self, to: &Transport, kind: Deadline, grant_ms: u64, core: &Core) {
        let at_ms = core.coarse_ms() + grant_ms;
        match at_ms < self.total_ms {
            true => core.deadline(to, kind, at_ms),
            false => core.deadline(to, Deadline::Total, self.total_ms),
        }
    }
}

/// How one attempt ended without a response.
struct Lost {
    fail: Fail,
    /// Nothing of the request can have been processed, or processing it twice does no harm.
    again: bool,
    /// Another attempt needs no budget.
    free: bool,
    /// The upstream failed: it was asked, or nobody could be reached, and not for want of something of ours.
    counts: bool,
}

impl Lost {
    /// An attempt that says nothing of the upstream, and after which there is no other.
    fn aside(fail: Fail) -> Lost {
        Lost { fail, again: false, free: false, counts: false }
    }
}

/// Forwards the request and sends the response back. Says whether the client's connection may be kept.
///
/// # Errors
/// [`Broken`], whichever side it was.
pub async fn forward(
    x: &mut Exchange,
    client: &Client<'_>,
    incoming: &mut Incoming,
    route: &Route<'_>,
    core: &Rc<Core>,
) -> Result<bool, Broken> {
    prepare(x, route);
    x.facts.upstream = route.upstream_index as u32 + 1;
    let total_ms = calls::head_due_ms(x, &route.operation.timeouts);
    let upstream = &*route.upstream.upstream;
    // Nobody holds more than its share of what is short, however many streams it has.
    let _share = match client.transport.stream() {
        None => None,
        Some(stream) => {
            let fair = || fair_share(route.upstream, core);
            let share = match share::at_once(stream, fair) {
                Some(share) => share,
                None => {
                    core.deadline(client.transport, Deadline::Total, total_ms);
                    let taken = Box::pin(share::take(stream, fair)).await;
                    let gone = || Broken::Before(Fail::client(client.transport.expired(), None));
                    let share = taken.ok_or_else(gone)?;
                    client.transport.clear_deadline();
                    share
                }
            };
            Some(share)
        }
    };
    // One right for all attempts: who asks again takes no second place.
    let admitting = admit(route.upstream, core.coarse_ms(), total_ms);
    let mut admitted = match client.transport.unless_gone(admitting).await {
        None => return Err(Broken::Before(Fail::Client(CLIENT_GONE))),
        Some(Ok(admitted)) => admitted,
        Some(Err(refused)) => {
            x.insert_answer(b"retry-after", &seconds(refused.again_ms));
            return Err(Broken::Before(Fail::Upstream(refused.reason)));
        }
    };
    // From here on it is the upstream's time: what was waited for a place says nothing of how long it takes.
    x.facts.forwarded_ns = core.clock.now_ns();
    route.upstream.budget.asked(core.coarse_ms());
    let key = choice_key(x, &upstream.key);
    let mut tried = Tried::default();
    loop {
        if client.transport.is_gone() {
            return Err(Broken::Before(Fail::Client(CLIENT_GONE)));
        }
        x.facts.tries += 1;
        let asking = Asking { tried: &mut tried, key, total_ms, admitted: &mut admitted };
        match attempt(x, client, incoming, route, core, asking).await {
            Ok(Reached::Answered(answered)) => return answered,
            Ok(Reached::Head(lent)) => {
                let status = x.response.table.status;
                if lent.is_timed_out_before(&x.response.table)
                    && x.method().is_idempotent()
                    && x.facts.tries < upstream.retry.tries_max
                {
                    drop(lent);
                    x.reset_response();
                    continue;
                }
                let in_trouble = in_trouble(x);
                match in_trouble {
                    Some(failed) => admitted.tell(failed, core.coarse_ms()),
                    None => admitted.tell_begun(core.coarse_ms()),
                }
                // That it is not done twice does not hang on the status: a 503 may come of what was half done.
                if upstream.retry.statuses.has(status)
                    && lent.replayable
                    && may_be_done_twice(x)
                    && may_again(x, route, total_ms, core)
                {
                    drop(lent);
                    rest(x, route).await;
                    x.reset_response();
                    continue;
                }
                stick(x, upstream, lent.guard.member(), key, route);
                if let Some(asked) = route.tunnel {
                    match (status, lent.connection.protocol) {
                        (101, Protocol::Http1) | (200..=299, Protocol::Http2) => {
                            return Box::pin(tunnel::run(x, client, incoming, lent, asked, route, core))
                                .await;
                        }
                        // RFC 8441 §4: to the client it would mean what 101 means.
                        (200..=299, Protocol::Http1) if client.transport.stream().is_some() => {
                            return Err(Broken::Before(Fail::Upstream(UPSTREAM_WEBSOCKET_SWITCH)));
                        }
                        _ => {}
                    }
                }
                let Lent { connection, request_sent, head_bytes, .. } = &lent;
                let whole = *request_sent && incoming.is_complete();
                let from = &connection.transport;
                let at_odds = Cell::new(None);
                let responded =
                    respond::respond(x, client, from, *head_bytes, whole, route, &at_odds, core).await;
                if in_trouble.is_none() {
                    let failed = calls::ends_in_trouble(x, &responded);
                    tell(x, route, lent.guard.member(), lent.asked_ns, failed, core);
                    admitted.tell(failed, core.coarse_ms());
                }
                let responded = responded?;
                lent.give_back(responded, route, core);
                return Ok(responded.keep);
            }
            Err(lost) => {
                if lost.counts {
                    admitted.tell(true, core.coarse_ms());
                }
                if !lost.again || !(lost.free || may_again(x, route, total_ms, core)) {
                    if lost.fail.reason() == UPSTREAM_QUEUE {
                        x.insert_answer(b"retry-after", &seconds(BUSY_AGAIN_MS));
                    }
                    return Err(Broken::Before(lost.fail));
                }
                if !lost.free {
                    rest(x, route).await;
                }
                x.reset_response();
            }
        }
    }
}

/// The requests that one client's connection may have with an upstream now; `None`: there is no need to count. While a quarter of
/// the connections is free all clients together may have half of them, each as many as the others; then each has one, as over
/// HTTP/1.1.
fn fair_share(upstream: &CoreUpstream, core: &Core) -> Option<usize> {
    match upstream.quarters_taken() {
        0 => None,
        1 | 2 => {
            let fair = upstream.upstream.connections_max / 2 / core.node.caps.open().max(1);
            Some(usize::try_from(fair).unwrap_or(usize::MAX).max(2))
        }
        _ => Some(1),
    }
}

/// Whether the exchange may be tried once more, of what it may and of what the upstream's budget has.
fn may_again(x: &Exchange, route: &Route<'_>, total_ms: u64, core: &Core) -> bool {
    let settings = &route.upstream.upstream.retry;
    let now_ms = core.now_ms();
    x.facts.tries < settings.tries_max && now_ms < total_ms && route.upstream.budget.again(settings, now_ms)
}

/// Before a member is asked that was asked before: for how long is left to chance, so that those who failed together do not
/// come again together.
async fn rest(x: &Exchange, route: &Route<'_>) {
    let members = route.upstream.view().pools.len();
    if usize::from(x.facts.tries) < members {
        return;
    }
    let round = x.facts.tries + 1 - u16::try_from(members).unwrap_or(u16::MAX).min(x.facts.tries);
    let milliseconds = pause_ms(&route.upstream.upstream.retry, round, route.upstream.random());
    if milliseconds > 0 {
        Box::pin(pause(milliseconds)).await;
    }
}

/// Statuses that say that the upstream is in trouble, not the request.
fn is_server_error(status: u16) -> bool {
    matches!(status, 500 | 502..=504)
}

/// Whether the head of a response says that who answered is in trouble; `None`: of a call the end does.
fn in_trouble(x: &Exchange) -> Option<bool> {
    calls::begins_in_trouble(x, is_server_error(x.response.table.status))
}

/// Tells a member how it has answered what it was asked at `asked_ns`.
fn tell(x: &Exchange, route: &Route<'_>, member: &CoreMember, asked_ns: u64, in_trouble: bool, core: &Core) {
    let eject = &route.upstream.upstream.eject;
    let answered_ns = x.facts.answered_ns;
    // A call may have ended long after its head came.
    let now_ns = if x.call.is_some() { core.clock.now_ns() } else { answered_ns };
    if eject.server_errors && in_trouble {
        route.upstream.failed(member, now_ns);
    } else {
        let took_ns = answered_ns.saturating_sub(asked_ns);
        route.upstream.answered(member, took_ns, now_ns, in_trouble);
        member.member.record.succeeded(eject, now_ns / 1_000_000);
    }
}

/// RFC 9110 §10.2.3: whole seconds, rounded up.
fn seconds(milliseconds: u64) -> Vec<u8> {
    milliseconds.div_ceil(1_000).max(1).to_string().into_bytes()
}

/// What the choice of a member hangs on.
fn choice_key(x: &Exchange, key: &ChoiceKey) -> u64 {
    let address = || match x.client {
        IpAddr::V4(address) => hash(&address.octets()),
        IpAddr::V6(address) => hash(&address.octets()),
    };
    match key {
        ChoiceKey::None => 0,
        ChoiceKey::Address => address(),
        ChoiceKey::Identity => match &x.identity {
            Some(identity) => {
                hash(identity.login_name.as_bytes()).rotate_left(1) ^ hash(identity.subject.as_bytes())
            }
            None => address(),
        },
        ChoiceKey::Path => hash(x.path()),
        ChoiceKey::Header(name) => match x.fields().find_name(x.head_bytes(), name) {
            Some(value) => hash(value),
            None => address(),
        },
        ChoiceKey::Cookie(sticky) => cookie(x, &sticky.cookie)
            .and_then(|value| std::str::from_utf8(value).ok())
            .filter(|value| value.len() == 16)
            .and_then(|value| u64::from_str_radix(value, 16).ok())
            .unwrap_or(0),
    }
}

/// The value of a cookie (RFC 6265 §4.2.1), the first of its name.
fn cookie<'x>(x: &'x Exchange, name: &[u8]) -> Option<&'x [u8]> {
    let fields = x.fields().find_all(Known::Cookie).map(|(_, field)| field.value().of(x.head_bytes()));
    fields.flat_map(|value| value.split(|byte| *byte == b';')).find_map(|pair| {
        let (found, value) = pair.trim_ascii_start().split_at_checked(name.len())?;
        (found == name).then(|| value.strip_prefix(b"=")).flatten()
    })
}

/// Tells the client who answered, where it shall come back to that one and does not say so yet.
fn stick(x: &mut Exchange, upstream: &Upstream, member: &CoreMember, key: u64, route: &Route<'_>) {
    let ChoiceKey::Cookie(sticky) = &upstream.key else { return };
    let view = route.upstream.view();
    let Some(tag) = view.tag(member).filter(|tag| *tag != key) else { return };
    let mut value = Vec::with_capacity(sticky.cookie.len() + 64);
    value.extend_from_slice(&sticky.cookie);
    value.extend_from_slice(format!("={tag:016x}; Path=/; HttpOnly; SameSite=Lax").as_bytes());
    if x.secure {
        value.extend_from_slice(b"; Secure");
    }
    x.insert_response(b"set-cookie", &value);
}

/// A connection on which a response head has arrived.
pub struct Lent {
    /// The connection.
    pub connection: Connection,
    /// Whether the request has been sent to its end.
    pub request_sent: bool,
    /// Whether all of it is still here, so that it could be sent again.
    pub replayable: bool,
    /// Whether the connection had carried requests before.
    pub reused: bool,
    /// Length of the response head in `x.response.bytes`.
    pub head_bytes: usize,
    /// When its member was asked, in monotonic nanoseconds.
    pub asked_ns: u64,
    /// Counts the request as in flight, and knows to whom.
    pub guard: InFlight,
}

impl Lent {
    /// RFC 9110 §15.5.9: a server may say 408 on a connection that it closes because nothing came over it. On a kept connection
    /// that is said of the time before this request, which it has not seen.
    fn is_timed_out_before(&self, response: &ResponseTable) -> bool {
        response.status == 408 && !response.keep_alive && self.reused && self.replayable
    }

    /// The response is over: the connection goes back to its pool, if nothing of either message is left on it.
    fn give_back(self, responded: Responded, route: &Route<'_>, core: &Core) {
        if !self.request_sent {
            // Nobody shall take what was sent of the request for all of it.
            self.connection.transport.set_open_ended(true);
        } else if responded.clean {
            route.upstream.keep(self.guard.member(), self.connection, core.coarse_ms());
        }
    }
}

/// What one attempt came to.
enum Reached {
    /// The head of a response is here.
    Head(Lent),
    /// All of a response has been sent, or as much as could be, while the request was still on its way.
    Answered(Result<bool, Broken>),
}

/// What is known of an exchange's attempts.
struct Asking<'a> {
    tried: &'a mut Tried,
    /// What the choice of a member hangs on.
    key: u64,
    /// When the head of the response must be here, in monotonic milliseconds.
    total_ms: u64,
    /// The right to ask.
    admitted: &'a mut Admitted,
}

async fn attempt(
    x: &mut Exchange,
    client: &Client<'_>,
    incoming: &mut Incoming,
    route: &Route<'_>,
    core: &Rc<Core>,
    asking: Asking<'_>,
) -> Result<Reached, Lost> {
    let Asking { tried, key, total_ms, admitted } = asking;
    let upstream = &route.upstream.upstream;
    let Some(mut member) = route.upstream.choose(tried, key, core.clock.coarse_ns()) else {
        let reason = upstream.members().absence().unwrap_or(UPSTREAM_EMPTY);
        return Err(Lost { counts: true, ..Lost::aside(Fail::Upstream(reason)) });
    };
    let mut guard = member.begin();
    x.facts.target = member.target;
    let whose = upstream.introduction.proxy.map(|_| whose(x));
    let alone = route.tunnel.is_some();
    let kept = if alone { None } else { route.upstream.take(&member, whose, core.coarse_ms()) };
    let reused = kept.is_some();
    if !reused {
        // A kept connection that has died says nothing of its member: the next one may well be alive.
        tried.add(member.member.number);
    }
    let has_others = || route.upstream.view().pools.len() > 1;
    let connection = match kept {
        Some(connection) => connection,
        // Nothing was sent: another member may be asked, whatever the method.
        None => {
            let announced = whose.map(|source| announced(source, client));
            let announced = announced.as_ref();
            let connected = match alone {
                true => Box::pin(connect_alone(route.upstream, &member, announced, core, total_ms)).await,
                false => connect(route.upstream, &member, client.transport, announced, core, total_ms).await,
            };
            let (reached, connection) = connected.map_err(|reason| {
                let counts = !is_our_own(reason);
                if counts && reason != EXCHANGE_TIMEOUT {
                    route.upstream.failed(&member, core.clock.now_ns());
                } else if reason == UPSTREAM_PORTS {
                    route.upstream.avoid(&member, core.clock.now_ns());
                }
                // Without descriptors nobody is reached, but over a connection that is there already.
                let lacks = reason == NODE_EXHAUSTED;
                // No budget either: it bounds what upstreams in trouble are given to do, and this one was given nothing. Nor
                // does it count as a try while there is a member that was not asked: kept connections of a member that
                // died may have taken them all.
                let members = &route.upstream.view().pools;
                let promises =
                    |other: &CoreMember| !tried.has(other.member.number) && (!lacks || other.idle() > 0);
                let untried = tried.has_room() && members.iter().any(|other| promises(other));
                let may = upstream.retry.tries_max > 1 && core.coarse_ms() < total_ms;
                // One of which only a kept connection was found closed may well be alive.
                let alive = !lacks && has_others() && x.facts.tries < upstream.retry.tries_max;
                let free = may && (untried || alive);
                Lost { fail: Fail::Upstream(reason), again: free, free, counts }
            })?;
            if !Rc::ptr_eq(&reached, &member) {
                // Another address of its host was there first.
                tried.add(reached.member.number);
                x.facts.target = reached.target;
                guard = reached.begin();
                member = reached;
            }
            connection
        }
    };

    if client.transport.is_gone() {
        // While it was connected to. What was opened is of use to the next one.
        route.upstream.keep(&member, connection, core.coarse_ms());
        return Err(Lost::aside(Fail::Client(CLIENT_GONE)));
    }

    // What has been read from the client and sent on cannot be sent again.
    let replayable = incoming.is_complete();
    let framing = if x.body.is_leased() && replayable {
        BodyLength::Length(x.body.len() as u64)
    } else {
        connection.transport.framing(x.request.table.framing)
    };
    if x.call.is_some() {
        calls::tell_time_left(x, &route.operation.timeouts, core);
    }
    let mut out = Buffer::of(
        x.request.bytes.len() + x.inserts.len() + x.body.len().min(TOGETHER_BYTES_MAX) + HEAD_ROOM,
    );
    encode(x, route, member.member.key.authority.as_bytes(), framing, &mut out);
    if let Some(stream) = connection.transport.stream() {
        stream.set_takes_trailers(x.request.table.te_trailers || x.call.is_some());
        stream.set_never_indexed(x.request.table.never_indexed);
        stream.set_head_bytes(out.len());
        if alone {
            stream.set_connects();
        }
    }
    let mut of = calls::times(x, &route.operation.timeouts);
    let per_try_ms =
        upstream.retry.per_try_ms.filter(|_| replayable && x.facts.tries < upstream.retry.tries_max);
    of.first_byte = per_try_ms.map_or(of.first_byte, |per_try_ms| per_try_ms.min(of.first_byte));
    let times = Times { of: &of, total_ms, opens: alone };
    let asked_ns = if x.facts.tries == 1 { x.facts.forwarded_ns } else { core.clock.now_ns() };
    connection.transport.serve(client.transport);
    // A response that comes before the request is over is the one: what has been sent on cannot be sent again.
    let ends_later = Cell::new(false);
    let early = |x: &mut Exchange| {
        match in_trouble(x) {
            Some(failed) => {
                tell(x, route, &member, asked_ns, failed, core);
                admitted.tell(failed, core.coarse_ms());
            }
            None => {
                ends_later.set(true);
                admitted.tell_begun(core.coarse_ms());
            }
        }
        stick(x, upstream, &member, key, route);
    };
    let sent_and_answered =
        send_and_read(x, client, incoming, &connection, &mut out, framing, route, &times, early, core).await;
    match sent_and_answered {
        Ok(Sent::Head { head_bytes, request_sent }) => {
            if let Some(failed) = in_trouble(x) {
                tell(x, route, &member, asked_ns, failed, core);
            }
            Ok(Reached::Head(Lent {
                connection,
                request_sent,
                replayable,
                reused,
                head_bytes,
                asked_ns,
                guard,
            }))
        }
        Ok(Sent::Answered { responded, request_sent }) => {
            if ends_later.get() {
                let failed = calls::ends_in_trouble(x, &responded);
                tell(x, route, &member, asked_ns, failed, core);
                admitted.tell(failed, core.coarse_ms());
            }
            Ok(Reached::Answered(responded.map(|responded| {
                let head_bytes = 0;
                let lent = Lent { connection, request_sent, replayable, reused, head_bytes, asked_ns, guard };
                lent.give_back(responded, route, core);
                responded.keep
            })))
        }
        Err(fail) => {
            // What has left of a request that is given up must not pass for one: its end is a reset.
            connection.transport.set_open_ended(true);
            // Interim responses count: what has begun to answer has begun to work.
            let untouched = x.facts.answered_ns == 0;
            let Fail::Upstream(reason) = fail else { return Err(Lost::aside(fail)) };
            calls::note_reset(x, &connection.transport);
            let counts = !is_our_own(reason);
            // Of many on one connection another one may have ended it.
            let lost = connection.transport.is_lost() && connection.transport.expired().is_none();
            let closed = lost || reason == UPSTREAM_CLOSED || reason == UPSTREAM_RESET;
            let stale = reused && closed && untouched;
            let now_ns = core.clock.now_ns();
            // Half of the whole time, with all of the request, and not a byte: the whole time is shorter than that for a first
            // byte, and who hangs would never be noticed.
            let hangs = || {
                untouched
                    && replayable
                    && now_ns.saturating_sub(asked_ns) / 500_000 >= route.operation.timeouts.total
            };
            let at_fault = match reason {
                EXCHANGE_TIMEOUT => hangs(),
                // A kept connection that was closed under the request says nothing of its member.
                _ => counts && !stale,
            };
            if at_fault {
                route.upstream.failed(&member, now_ns);
            }
            let too_late = reason == UPSTREAM_FIRST_BYTE && per_try_ms.is_some();
            // RFC 9110 §9.2.2: a request is sent again only if doing it twice is doing it once, and only here, where all of it
            // is still here and not a byte of a response was seen.
            // RFC 9113 §8.7: what the peer says that it has not acted on may be sent again whatever it is.
            let unprocessed = untouched && connection.transport.is_unprocessed();
            let safe = untouched && replayable && (unprocessed || may_be_done_twice(x));
            // Another one first, if there is one: a member that dies closes its kept connections one after the other.
            tried.add(member.member.number);
            let again = safe && ((closed && (reused || unprocessed || has_others())) || too_late);
            // Who was never asked has not kept anybody waiting for an answer, but for a place.
            let told = if connection.transport.found_no_place() { UPSTREAM_QUEUE } else { reason };
            // The member closed a connection that it had kept long enough: no attempt at all, and no load on anybody.
            Err(Lost {
                fail: Fail::Upstream(told),
                again,
                free: (stale || unprocessed) && again && x.facts.tries < upstream.retry.tries_max,
                counts,
            })
        }
    }
}

/// Whether the body is small, and the request one that may be sent again: then it is held until it is answered. Over HTTP/2 that
/// is any: an upstream that leaves says which requests it has not begun.
pub fn may_be_repeated(x: &Exchange, upstream: &Upstream) -> bool {
    matches!(x.request.table.framing, BodyLength::Length(length) if length <= TOGETHER_BYTES_MAX as u64)
        && upstream.retry.tries_max > 1
        && (may_be_done_twice(x) || upstream.protocols.http2)
}

/// RFC 9110 §9.2.2: whether doing it twice is doing it once, by its method or because its receiver can tell.
fn may_be_done_twice(x: &Exchange) -> bool {
    x.method().is_idempotent() || is_told_apart(x)
}

/// Whether the client has marked the request so that its receiver does it once, however often it comes
/// (draft-ietf-httpapi-idempotency-key-header).
fn is_told_apart(x: &Exchange) -> bool {
    x.fields().has(Known::IdempotencyKey)
}

/// Whom a PROXY header names. A port is known of the connection's own source only.
fn whose(x: &Exchange) -> SocketAddr {
    if x.client == x.source.ip() { x.source } else { SocketAddr::new(x.client, 0) }
}

/// What a PROXY header says: whose the connection is, and where the client's connection came in.
#[cold]
fn announced(source: SocketAddr, client: &Client<'_>) -> Announced {
    let destination = client.transport.local_address().unwrap_or(NOBODY);
    Announced::Client { source, destination }
}

/// What came of sending a request.
enum Sent {
    /// The head of its response, so long; whether the request has been sent to its end.
    Head { head_bytes: usize, request_sent: bool },
    /// The response came, and went, while the request was still on its way.
    Answered { responded: Result<Responded, Broken>, request_sent: bool },
}

/// Sends the request and reads the head of the final response: one after the other where the whole request is here, side by
/// side while a body still arrives, because the upstream may answer early. Then the response is sent as well, beside what is
/// left of the request (`early` is told before): streaming goes both ways at once.
#[expect(clippy::too_many_arguments, reason = "the two sides of an exchange and their deadlines")]
async fn send_and_read(
    x: &mut Exchange,
    client: &Client<'_>,
    incoming: &mut Incoming,
    connection: &Connection,
    out: &mut Buffer,
    framing: BodyLength,
    route: &Route<'_>,
    times: &Times<'_>,
    early: impl FnOnce(&mut Exchange),
    core: &Rc<Core>,
) -> Result<Sent, Fail> {
    let to = &connection.transport;
    if incoming.is_complete() {
        // Nothing more comes from the client: what is held, if anything, goes along with the head.
        let together = out.len() + x.body.len() <= TOGETHER_BYTES_MAX;
        if together {
            out.extend_from_slice(&x.body);
        }
        let lost = |error| Fail::upstream(to.expired(), Some(&error));
        let stays_open = times.opens && to.stream().is_some();
        if stays_open {
            times.set(to, Deadline::FirstByte, times.of.first_byte, core);
            let end = out.len();
            to.send(out, 0..end).await.map_err(lost)?;
        } else if together {
            times.set(to, Deadline::FirstByte, times.of.first_byte, core);
            to.end(out, b"", false).await.map_err(lost)?;
        } else {
            times.set(to, Deadline::StreamIdle, times.of.stream_idle, core);
            let end = out.len();
            to.send(out, 0..end).await.map_err(lost)?;
            to.end(&mut x.body, b"", true).await.map_err(lost)?;
            times.set(to, Deadline::FirstByte, times.of.first_byte, core);
        }
        let head_bytes = response_head(&RefCell::new(x), client, connection, core, times).await?;
        // A response may come before the request is out; the connection then serves no other.
        let request_sent = stays_open || to.settled().unwrap_or(false);
        return Ok(Sent::Head { head_bytes, request_sent });
    }

    invite(x, client, core).await?;
    // Held in vain: the policies that wanted it only observe, and it was too long for them.
    push_beginning(out, &x.body, framing);
    let both = Cell::new(false);
    let mut upload = pin!(transfer(incoming, client.transport, to, out, framing, &both, core));
    let mut uploaded = None;
    let mut watching = Watching::default();
    let endless = x.call.is_some();
    let answered = {
        let x = RefCell::new(&mut *x);
        let mut head = pin!(response_head(&x, client, connection, core, times));
        poll_fn(|context| {
            if uploaded.is_none()
                && let Poll::Ready(result) = upload.as_mut().poll(context)
            {
                if result.is_ok() {
                    times.set(to, Deadline::FirstByte, times.of.first_byte, core);
                }
                uploaded = Some(result);
            }
            match head.as_mut().poll(context) {
                Poll::Ready(result) => Poll::Ready(result),
                // The client broke its own request: nobody waits for an answer to it. An upstream that stops reading may
                // still have said why: its answer is what we wait for.
                Poll::Pending => match uploaded {
                    Some(Err(fail @ Fail::Client(_))) => Poll::Ready(Err(fail)),
                    // Whoever still sends needs the right to it.
                    None => watching.may_go_on(&mut x.borrow_mut(), client, endless, context, core),
                    Some(_) if watching.has_begun() => {
                        watching.may_go_on(&mut x.borrow_mut(), client, endless, context, core)
                    }
                    Some(_) => Poll::Pending,
                },
            }
        })
        .await
    };
    watching.end(x);
    let head_bytes = match (answered, uploaded) {
        (Ok(head_bytes), Some(uploaded)) => {
            return Ok(Sent::Head { head_bytes, request_sent: uploaded.is_ok() });
        }
        (Ok(head_bytes), None) => head_bytes,
        (Err(_), Some(Err(fail @ Fail::Client(_)))) => {
            // The upstream has the beginning of a request that will never be whole: a close could be taken for its end.
            to.set_open_ended(true);
            return Err(fail);
        }
        (Err(_), Some(Err(fail))) | (Err(fail), _) => return Err(fail),
    };

    // From now on the deadlines of both sides are the response's.
    both.set(true);
    client.transport.clear_deadline();
    early(x);
    // A call whose request is refused in the middle gets a status, where one can follow what was sent. Who has gone hears nothing.
    let hears = client.transport.stream().filter(|_| x.call.is_some());
    let at_odds = Cell::new(None);
    let mut response = pin!(respond::respond(x, client, to, head_bytes, false, route, &at_odds, core));
    let responded = poll_fn(|context| {
        if uploaded.is_none()
            && let Poll::Ready(result) = upload.as_mut().poll(context)
        {
            if let (Some(stream), Err(Fail::Client(reason))) = (hears, result)
                && reason != CLIENT_GONE
            {
                at_odds.set(Some(reason));
                stream.abandon_works();
            }
            uploaded = Some(result);
        }
        match (&uploaded, response.as_mut().poll(context)) {
            (_, Poll::Ready(responded)) => Poll::Ready(responded),
            // Who broke its request off, or its framing, wants no answer either.
            (Some(Err(fail @ Fail::Client(_))), Poll::Pending) if at_odds.get().is_none() => {
                Poll::Ready(Err(Broken::After(*fail)))
            }
            (_, Poll::Pending) => Poll::Pending,
        }
    })
    .await;
    let request_sent = matches!(uploaded, Some(Ok(_)));
    if !request_sent {
        to.set_open_ended(true);
    }
    Ok(Sent::Answered { responded, request_sent })
}

/// Reads up to the head of the final response; passes interim ones on to clients that know them. Between two polls the exchange
/// is its caller's.
async fn response_head(
    shared: &RefCell<&mut Exchange>,
    client: &Client<'_>,
    connection: &Connection,
    core: &Core,
    times: &Times<'_>,
) -> Result<usize, Fail> {
    let from = &connection.transport;
    let method = shared.borrow().method();
    let mut interim = 0;
    if let Some(stream) = from.stream() {
        loop {
            let come =
                poll_fn(|context| stream.poll_response(&mut shared.borrow_mut().response, context)).await;
            come.map_err(|error| Fail::upstream(from.expired(), Some(&error)))?;
            let head_bytes = {
                let x = &mut **shared.borrow_mut();
                if x.facts.answered_ns == 0 {
                    x.facts.answered_ns = core.clock.now_ns();
                }
                x.response.bytes.len()
            };
            if is_final(shared, client, head_bytes, &mut interim, times, core).await? {
                from.clear_deadline();
                return Ok(head_bytes);
            }
            core.deadline(from, Deadline::Total, times.total_ms);
        }
    }
    let mut received = Buffer::head();
    // While the upstream worked on it, others used the caches.
    let cold = Lines::of(&**shared.borrow());
    loop {
        if received.len() == received.capacity() && !received.widen() {
            return Err(Fail::Upstream(UPSTREAM_HEAD));
        }
        match cold.before(from.recv(&mut received)).await {
            Ok(0) => return Err(Fail::upstream(from.expired(), None)),
            Ok(_) => {}
            Err(error) => return Err(Fail::upstream(from.expired(), Some(&error))),
        }
        {
            let x = &mut **shared.borrow_mut();
            if x.facts.answered_ns == 0 {
                x.facts.answered_ns = core.clock.now_ns();
            }
            x.response.bytes = received;
        }
        loop {
            let parsed = {
                let Head { bytes, table } = &mut shared.borrow_mut().response;
                parse_response(
                    &bytes[..bytes.len().min(usize::from(u16::MAX))],
                    &HeadLimits::DEFAULT,
                    method,
                    table,
                )
            };
            match parsed {
                Err(reason) => return Err(Fail::Upstream(reason)),
                Ok(Parse::Partial) => {
                    // Its first byte is here: now the head as a whole is waited for.
                    core.deadline(from, Deadline::Total, times.total_ms);
                    break;
                }
                Ok(Parse::Complete { head_bytes }) => {
                    if is_final(shared, client, head_bytes, &mut interim, times, core).await? {
                        from.clear_deadline();
                        return Ok(head_bytes);
                    }
                    let Head { bytes, table } = &mut shared.borrow_mut().response;
                    bytes.consume(head_bytes);
                    table.reset();
                    if bytes.is_empty() {
                        break;
                    }
                }
            }
        }
        received = std::mem::take(&mut shared.borrow_mut().response.bytes);
    }
}

/// Whether the head that has come is that of the final response. An interim one is passed on.
async fn is_final(
    shared: &RefCell<&mut Exchange>,
    client: &Client<'_>,
    head_bytes: usize,
    interim: &mut usize,
    times: &Times<'_>,
    core: &Core,
) -> Result<bool, Fail> {
    let status = shared.borrow().response.table.status;
    match status {
        101 if times.opens => Ok(true),
        101 => Err(Fail::Upstream(UPSTREAM_UPGRADE)),
        100..=199 if *interim == INTERIM_MAX => Err(Fail::Upstream(UPSTREAM_INTERIM)),
        100..=199 => {
            *interim += 1;
            let out = interim_head(&shared.borrow(), client, head_bytes, core);
            if let Some(mut out) = out {
                let end = out.len();
                let sent = client.transport.send(&mut out, 0..end).await;
                sent.map_err(|error| Fail::client(client.transport.expired(), Some(&error)))?;
            }
            Ok(false)
        }
        _ => Ok(true),
    }
}

/// RFC 9110 §15.2: an interim response goes to HTTP/1.1 clients; `100` ends here, because the expectation did.
fn interim_head(x: &Exchange, client: &Client<'_>, head_bytes: usize, core: &Core) -> Option<Buffer> {
    if x.response.table.status == 100 || x.request.table.version == Version::Http10 {
        return None;
    }
    let (fields, bytes) = (&x.response.table.fields, &x.response.bytes[..head_bytes]);
    // What the final response may not tell, this one may not either. Nothing is added: it has no fields of its own.
    let mut skip = law::response_skip(&x.response.table);
    drop_banners(fields, &mut skip);
    if let Some(operation) = x.operation(&client.view.snapshot) {
        operation.response_edits.drop_from(fields, bytes, &mut skip);
    }
    let mut out = Buffer::of(head_bytes + HEAD_ROOM);
    crate::h1::encode::encode_response(
        &mut out,
        x.response.table.status,
        bytes,
        fields,
        &skip,
        b"",
        BodyLength::None,
    );
    if let Some(stream) = client.transport.stream() {
        stream.set_never_indexed(x.response.table.never_indexed);
    }
    let until_ms = core.coarse_ms() + client.stream_idle_ms(x);
    core.deadline(client.transport, Deadline::StreamIdle, until_ms);
    Some(out)
}

/// Decides once, for all attempts, which fields go on and which are added.
pub fn prepare(x: &mut Exchange, route: &Route<'_>) {
    let mut skip = law::request_skip(&x.request.bytes, &x.request.table, &route.api.renamed).union(x.skip);
    for (index, _) in x.request.table.fields.find_all(Known::XRequestId) {
        skip.insert(index);
    }
    let mut inserts = std::mem::take(&mut x.inserts);
    if let Some(asked) = route.tunnel {
        asked.prepare(x, route.upstream.upstream.protocols, &mut skip, &mut inserts);
    }
    forwarded_fields(x, route.upstream.upstream.introduction, &mut inserts);
    law::push_field(&mut inserts, b"X-Request-Id", &x.request_id);
    if x.request.table.body_unanticipated {
        // An origin that ignores this body must not find a request in it.
        inserts.extend_from_slice(CONNECTION_CLOSE);
    }
    identity_fields(x, route.api, &mut inserts);
    route.operation.request_edits.apply(&x.request.table.fields, &x.request.bytes, &mut skip, &mut inserts);
    x.inserts = inserts;
    x.skip = skip;
    calls::prepare(x);
}

/// `X-Forwarded-*`: what was believed of trusted proxies is told on, what anybody else said is not, so that the first address
/// is the client's.
fn forwarded_fields(x: &Exchange, introduction: Introduction, inserts: &mut Vec<u8>) {
    let told = law::Client {
        address: x.source.ip(),
        proto: if x.secure { b"https" } else { b"http" },
        host: x.host(),
    };
    law::x_forwarded_for(inserts, x.hops.iter().rev().copied(), &told);
    law::x_forwarded_proto_host(inserts, &told);
    if introduction.forwarded {
        law::forwarded(inserts, x.hops.iter().rev().copied(), &told);
    }
}

/// Who is calling, for the upstream: set by us alone, after whatever a client sent under these names was dropped.
fn identity_fields(x: &Exchange, api: &Api, inserts: &mut Vec<u8>) {
    let Some(identity) = &x.identity else { return };
    let (names, told) = (&api.identity_fields, &identity.told);
    for (name, value) in [
        (&names.subject, &told.subject),
        (&names.issuer, &told.issuer),
        (&names.kind, &told.kind),
        (&names.login, &told.login),
        (&names.scopes, &told.scopes),
        (&names.roles, &told.roles),
    ] {
        if !name.is_empty() && !value.is_empty() {
            law::push_field(inserts, name, value);
        }
    }
}

/// Encodes the request head for one attempt.
pub fn encode(x: &Exchange, route: &Route<'_>, authority: &[u8], framing: BodyLength, out: &mut Buffer) {
    let path = x.path();
    let mut rewritten;
    let path = match route.rewrite {
        None => path,
        Some(rewrite) => {
            rewritten = Buffer::of(rewrite.path.len() + path.len() + 1);
            rewritten.extend_from_slice(&rewrite.path);
            let rest = path.get(rewrite.base_bytes..).unwrap_or_default();
            if !rest.starts_with(b"/") && !rewritten.ends_with(b"/") {
                rewritten.push(b'/');
            }
            rewritten.extend_from_slice(rest);
            &rewritten
        }
    };
    let line =
        RequestLine { method: x.request.table.method_span.of(&x.request.bytes), path, query: x.query() };
    let mut skip = x.skip;
    let mut inserts: &[u8] = &x.inserts;
    let mut with_host;
    if route.host_of_upstream || !x.request.table.host_plain {
        skip = skip.union(hosts(x));
        with_host = Buffer::of(authority.len().max(x.host().len()) + inserts.len() + 24);
        match route.host_of_upstream {
            true => law::push_field(&mut with_host, b"Host", authority),
            false => canonical_host(x, &mut with_host),
        }
        with_host.extend_from_slice(inserts);
        inserts = &with_host;
    }
    encode_request(out, &line, &x.request.bytes, &x.request.table.fields, &skip, inserts, framing);
}

/// The host that was routed by and logged, in the same bytes.
fn canonical_host(x: &Exchange, out: &mut Vec<u8>) {
    out.extend_from_slice(b"Host: ");
    out.extend_from_slice(x.host());
    if x.target.port != 0 {
        out.push(b':');
        out.extend_from_slice(itoa::Buffer::new().format(x.target.port).as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

fn hosts(x: &Exchange) -> FieldSet {
    let mut set = FieldSet::EMPTY;
    for (index, _) in x.fields().find_all(Known::Host) {
        set.insert(index);
    }
    set
}
