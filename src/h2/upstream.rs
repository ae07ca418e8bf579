//! A connection of HTTP/2 to a member of an upstream: one of the few that a core has to it, on which many requests are under way
//! at once; or one that a WebSocket has for itself.
//!
//! For: [`crate::pipeline::forward`], which asks for a stream instead of a connection. Not for: which member, and whether it is
//! asked again ([`crate::upstream`], [`crate::pipeline::forward`]).
//!
//! **Ends.** After the pool's idle time with nothing under way, at its greatest age, when its member is none any more, or when the
//! peer goes away: no request is begun on it any more, those under way are finished. That of a WebSocket ends with it, and not
//! before. A peer that says nothing while it is waited for is asked by PING whether it lives.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::h2::blocks::ResponseBlocks;
use crate::h2::connection::Gone;
use crate::h2::head::list_bytes_max;
use crate::h2::mux::{Inner, Mux, lease};
use crate::h2::owner::{Driven, Ending, all_over, drive};
use crate::h2::stream::{StreamTransport, over_of};
use crate::h2::{Event, Role, Settings};
use crate::http::{HeadLimits, Reason};
use crate::upstream::pool::{Connection, CoreMember, CoreUpstream};
use crate::worker::core::Core;
use crate::worker::guard::spawn;
use crate::worker::sweep::Watched;
use crate::worker::{Deadline, Transport};

/// Requests under way at once on one connection, whatever the peer takes.
const STREAMS_MAX: u32 = 256;
/// The peer is asked whether it lives when nothing has come from it for so long while an answer is waited for, milliseconds.
const SILENCE_MS: u64 = 15_000;
/// Within which it must say so, milliseconds.
const ALIVE_WITHIN_MS: u64 = 5_000;
/// How often time is looked at, milliseconds.
const LOOK_MS: u64 = 3_000;
/// The same once nothing is begun on it any more, and nothing is under way.
const CLOSING_LOOK_MS: u64 = 100;
/// How long the peer may take for its goodbye, milliseconds.
const GOODBYE_MS: u64 = 1_000;

/// What a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// Requests, as many as there is room for.
    Requests,
    /// One WebSocket.
    Tunnel,
}

/// A connection that carries streams.
pub struct Carrier {
    mux: Rc<Mux>,
    load: Load,
    opened_ms: u64,
    /// How long it may rest, and how old it may become, milliseconds.
    idle_ms: u64,
    age_ms: u64,
    /// Requests that were begun on it.
    carried: Cell<u64>,
    /// When something came last, and when nothing was under way any more.
    heard_ms: Cell<u64>,
    rests_since_ms: Cell<u64>,
    /// Whether something was under way when that was looked at last.
    was_busy: Cell<bool>,
    /// Nothing is begun on it any more.
    retired: Cell<bool>,
    /// Who waits to hear what the peer takes.
    asks: Cell<Option<Waker>>,
}

impl std::fmt::Debug for Carrier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Carrier").field("mux", &self.mux).field("load", &self.load).finish_non_exhaustive()
    }
}

impl Carrier {
    /// Requests that can be begun on it now.
    pub fn room(&self) -> u32 {
        if self.retired.get() || self.mux.is_closing() { 0 } else { self.mux.openable() }
    }

    /// Whether nothing is begun on it any more.
    pub fn is_leaving(&self) -> bool {
        self.retired.get() || self.mux.is_closing()
    }

    /// Requests under way on it.
    pub fn under_way(&self) -> usize {
        self.mux.exchanges()
    }

    /// When it becomes too old for more requests, monotonic milliseconds.
    fn too_old_ms(&self) -> u64 {
        match self.load {
            Load::Requests => self.opened_ms.saturating_add(self.age_ms),
            Load::Tunnel => u64::MAX,
        }
    }

    /// Begins nothing more on it; what is under way is finished.
    pub fn retire(&self) {
        self.retired.set(true);
        self.mux.wake();
    }

    /// Whether the peer takes WebSockets (RFC 8441 §3); `None`: it has not said yet.
    pub fn takes_tunnels(&self) -> Option<bool> {
        let inner = self.mux.inner();
        inner.connection.is_settled().then(|| inner.connection.peer().connect_protocol)
    }

    /// Waits until the peer has said whether it takes WebSockets. `None`: the connection ended first.
    pub async fn told_of_tunnels(&self) -> Option<bool> {
        poll_fn(|context| {
            if self.mux.is_over() {
                return Poll::Ready(None);
            }
            let takes = self.takes_tunnels();
            if takes.is_none() {
                self.asks.set(Some(context.waker().clone()));
                return Poll::Pending;
            }
            Poll::Ready(takes)
        })
        .await
    }

    /// The peer has said what it takes, or never will.
    fn tell(&self) {
        if let Some(asks) = self.asks.take() {
            asks.wake();
        }
    }

    /// A stream on it, for one request.
    pub fn stream(&self) -> (Transport, u64) {
        let carried = self.carried.replace(self.carried.get() + 1);
        (Transport::Stream(StreamTransport::begin(&self.mux, None)), carried)
    }
}

/// What its owner works with.
struct Carrying {
    core: Rc<Core>,
    carrier: Rc<Carrier>,
    member: Rc<CoreMember>,
}

impl Drop for Carrying {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Has a connection that has carried nothing yet carry streams from now on.
pub fn carry(
    core: &Rc<Core>,
    from: &CoreUpstream,
    member: &Rc<CoreMember>,
    connection: Connection,
    load: Load,
) -> Rc<Carrier> {
    let header_list_bytes_max = u32::try_from(list_bytes_max(&HeadLimits::DEFAULT)).unwrap_or(u32::MAX);
    let streams_max = if load == Load::Tunnel { 1 } else { STREAMS_MAX };
    let settings = Settings {
        streams_max,
        header_list_bytes_max,
        // Clients that read slowly hold what came for them, each as much as its stream may at most: never more of the
        // connection than leaves the others theirs.
        connection_window: streams_max * Settings::DEFAULT.stream_window_max,
        ..Settings::DEFAULT
    };
    let now_ms = core.now_ms();
    let (transport, permit) = connection.into_parts();
    transport.clear_deadline();
    let carrier = Rc::new(Carrier {
        mux: Mux::new(Role::Client, transport, &settings, now_ms),
        load,
        opened_ms: now_ms,
        idle_ms: from.upstream.timeouts.idle,
        age_ms: from.upstream.timeouts.age,
        carried: Cell::new(0),
        heard_ms: Cell::new(now_ms),
        rests_since_ms: Cell::new(now_ms),
        was_busy: Cell::new(false),
        retired: Cell::new(false),
        asks: Cell::default(),
    });
    let carrying =
        Carrying { core: Rc::clone(core), carrier: Rc::clone(&carrier), member: Rc::clone(member) };
    let work = async move {
        let mux = &carrying.carrier.mux;
        carrying.rest();
        let ending = drive(&carrying, mux, &carrying.core).await;
        carrying.leave();
        if let Ending::Said(reason) = ending {
            carrying.tell(reason);
            // RFC 9113 §5.4.1: the GOAWAY leaves before the connection ends.
            carrying.core.deadline(
                &mux.transport,
                Deadline::StreamIdle,
                carrying.core.coarse_ms() + GOODBYE_MS,
            );
            if mux.transport.socket().settle().await.is_ok() {
                mux.transport.finish();
            }
        }
        all_over(mux).await;
        drop(permit);
    };
    spawn(work);
    carrier
}

impl Driven for Carrying {
    // Each request that was under way tells of it as of any other end.
    const BROKEN_RECORDS: Option<Reason> = None;

    fn take_in(&self, received: &[u8]) -> Result<(), Gone> {
        let now_ms = self.core.now_ms();
        let mux = &self.carrier.mux;
        self.carrier.heard_ms.set(now_ms);
        let mut inner = mux.inner();
        let mut head = inner.head();
        let mut rest = received;
        loop {
            let (taken, event) = {
                let Inner { connection, compression, out, methods, .. } = &mut *inner;
                lease(out);
                let mut blocks = ResponseBlocks {
                    compression,
                    limits: &HeadLimits::DEFAULT,
                    methods,
                    arena: &mut head.bytes,
                    table: &mut head.table,
                };
                connection.receive(rest, now_ms, &mut blocks, out)?
            };
            rest = &rest[taken..];
            match event {
                Event::Idle => break,
                Event::Head { stream: key, end, .. } => {
                    if let Some(stream) = inner.stream(key) {
                        stream.response_came(std::mem::replace(&mut head, inner.head()), end);
                    }
                }
                Event::Informational { stream: key } => {
                    if let Some(stream) = inner.stream(key) {
                        stream.response_came(std::mem::replace(&mut head, inner.head()), false);
                    }
                }
                Event::Data { stream: key, bytes, end } => match inner.stream(key) {
                    Some(stream) => stream.came(&inner, bytes, end),
                    None => {
                        let Inner { connection, out, .. } = &mut *inner;
                        connection.consumed(key, bytes.len(), out);
                    }
                },
                Event::Trailers { stream: key } => {
                    if let Some(stream) = inner.stream(key) {
                        stream.trailers_came(&head.bytes, head.table.never_indexed);
                    }
                }
                Event::Reset { stream: key, code, cause } => {
                    if let Some(stream) = inner.stream(key) {
                        drop(inner);
                        stream.end(over_of(code, cause));
                        inner = mux.inner();
                    }
                }
                Event::Settings => self.carrier.tell(),
                Event::GoAway { .. } | Event::Pong { .. } => {}
            }
        }
        head.bytes = crate::worker::Buffer::empty();
        inner.keep_head(head);
        inner.let_some_on();
        drop(inner);
        self.rest();
        Ok(())
    }

    fn attend(&self) -> Option<Ending> {
        let Carrying { core, carrier, .. } = self;
        let mux = &carrier.mux;
        if carrier.under_way() > 0 || carrier.was_busy.get() {
            carrier.was_busy.set(carrier.under_way() > 0);
            carrier.rests_since_ms.set(core.coarse_ms());
        }
        let ends_so = carrier.load == Load::Tunnel || core.is_draining();
        let leaves = carrier.retired.get() || ends_so && carrier.under_way() == 0;
        let passed = mux.due().take_passed().is_some();
        if !passed && !leaves && !mux.is_closing() {
            return None;
        }
        let now_ms = core.now_ms();
        let rests = carrier.under_way() == 0;
        let mut inner = mux.inner();
        let Inner { connection, out, .. } = &mut *inner;
        lease(out);
        if let Err(gone) = connection.tick(now_ms, out) {
            return Some(Ending::Said(Some(gone.reason)));
        }
        let is_old = now_ms >= carrier.too_old_ms();
        let is_idle = rests && now_ms >= carrier.rests_since_ms.get().saturating_add(carrier.idle_ms);
        if (leaves || is_old || is_idle) && !connection.is_closing() {
            connection.shutdown(now_ms, out);
        }
        if rests && connection.is_closing() {
            let waited = now_ms >= carrier.rests_since_ms.get().saturating_add(GOODBYE_MS);
            if connection.is_drained() || waited {
                return Some(Ending::Said(None));
            }
        }
        if !rests && now_ms >= carrier.heard_ms.get().saturating_add(SILENCE_MS) {
            connection.keep_alive(ALIVE_WITHIN_MS, now_ms, out);
        }
        drop(inner);
        // Between two requests of a busy time it is needed again.
        let long = rests && now_ms >= carrier.rests_since_ms.get().saturating_add(LOOK_MS);
        if passed && (long || !rests && mux.is_quiet()) {
            mux.shrink();
        }
        self.rest();
        None
    }
}

impl Carrying {
    /// Nobody is to ask on it any more.
    fn leave(&self) {
        self.member.forget(&self.carrier);
        self.carrier.tell();
    }

    /// Sets when time is to be looked at next.
    fn rest(&self) {
        let Carrying { core, carrier, .. } = self;
        let now_ms = core.coarse_ms();
        let mut at_ms = now_ms + LOOK_MS;
        let inner = carrier.mux.inner();
        if let Some(due_ms) = inner.connection.next_deadline() {
            at_ms = at_ms.min(due_ms);
        }
        if !inner.connection.is_closing() {
            // Traffic puts off the look, and must not put off that.
            at_ms = at_ms.min(carrier.too_old_ms());
        } else if carrier.under_way() == 0 {
            // What is under way has its end noticed when it comes.
            at_ms = at_ms.min(now_ms + CLOSING_LOOK_MS);
        }
        drop(inner);
        // What is due is due, however often traffic comes by: a time that moved on with it would never come.
        core.sweep.set(&carrier.mux, Deadline::Look, at_ms);
    }

    /// Counts a connection that ended for a fault of its peer.
    fn tell(&self, reason: Option<Reason>) {
        if let Some(reason) = reason {
            self.core.state.borrow().metrics.refusal(&reason, crate::observe::Mode::Enforce);
        }
    }
}
