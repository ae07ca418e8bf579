//! What one core keeps for one upstream: idle connections to each member, LIFO, so that few are warm and the rest may
//! age; the end of a connection is noticed before it is used again.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};

use crate::h2::upstream::Carrier;
use crate::http::{Protocol, Reason};
use crate::observe::TargetId;
use crate::upstream::balance::{Ewma, Tried, Turn};
use crate::upstream::eject::Seen;
use crate::upstream::retry::Budget;
use crate::upstream::slots::Line;
use crate::upstream::{Balance, Member, Members, Permit, Upstream};
use crate::worker::Transport;

/// Connections that carry many requests at once, to one member from one core: beyond them requests wait in line.
const CARRIERS_MAX: usize = 4;

/// An open connection to a member.
#[derive(Debug)]
pub struct Connection {
    /// The byte stream.
    pub transport: Transport,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// Requests that it has carried before.
    pub used: u64,
    /// Whom its PROXY header named: it carries no request of anybody else.
    pub whose: Option<SocketAddr>,
    /// When it was opened, monotonic milliseconds.
    opened_ms: u64,
    /// When it became idle, monotonic milliseconds.
    idle_since_ms: u64,
    /// Its place among those that may be open; a stream has none of its own.
    permit: Option<Permit>,
}

impl Connection {
    /// A connection that has carried nothing yet.
    pub fn new(transport: Transport, protocol: Protocol, permit: Permit, now_ms: u64) -> Connection {
        Connection {
            transport,
            protocol,
            used: 0,
            whose: None,
            opened_ms: now_ms,
            idle_since_ms: now_ms,
            permit: Some(permit),
        }
    }

    /// A stream on a connection that carries them.
    pub fn of_carrier(carrier: &Carrier) -> Connection {
        let (transport, used) = carrier.stream();
        Connection {
            transport,
            protocol: Protocol::Http2,
            used,
            whose: None,
            opened_ms: 0,
            idle_since_ms: 0,
            permit: None,
        }
    }

    /// Its byte stream, and its place among those that may be open.
    pub fn into_parts(self) -> (Transport, Option<Permit>) {
        (self.transport, self.permit)
    }
}

/// What one core keeps for one member.
#[derive(Debug)]
pub struct CoreMember {
    /// The shared part.
    pub member: Arc<Member>,
    /// What the log and the metrics know it by.
    pub target: TargetId,
    /// What is to be expected of it, as this core sees it.
    pub ewma: Ewma,
    idle: RefCell<Vec<Connection>>,
    /// Connections that carry many requests at once.
    carriers: RefCell<Vec<Rc<Carrier>>>,
    /// Whether one is being opened, and who waits for what comes of it.
    opening: Cell<bool>,
    /// What came of the last one that failed, and how many have.
    failures: Cell<(u32, Option<Reason>)>,
    line: RefCell<Vec<Waker>>,
    /// What it agreed to speak, last.
    spoke: Cell<Option<Protocol>>,
    in_flight: Cell<u32>,
    /// Since the last tick.
    seen: Cell<Seen>,
    /// It is no longer a member: nothing is kept any more.
    retired: Cell<bool>,
}

impl CoreMember {
    fn new(member: Arc<Member>) -> CoreMember {
        CoreMember {
            target: member.target(),
            member,
            ewma: Ewma::default(),
            idle: RefCell::new(Vec::new()),
            carriers: RefCell::default(),
            opening: Cell::new(false),
            failures: Cell::default(),
            line: RefCell::default(),
            spoke: Cell::new(None),
            in_flight: Cell::new(0),
            seen: Cell::default(),
            retired: Cell::new(false),
        }
    }

    /// Counts a request to it until the guard is dropped.
    pub fn begin(self: &Rc<CoreMember>) -> InFlight {
        self.in_flight.set(self.in_flight.get() + 1);
        InFlight { member: Rc::clone(self) }
    }

    /// This core's requests to it now.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.get()
    }

    /// Idle connections to it on this core.
    pub fn idle(&self) -> usize {
        let room = self.carriers.borrow().iter().filter(|carrier| carrier.room() > 0).count();
        self.idle.borrow().len() + room
    }

    fn retire(&self) {
        self.retired.set(true);
        self.idle.borrow_mut().clear();
        self.carriers.borrow_mut().drain(..).for_each(|carrier| carrier.retire());
    }

    /// A stream on a connection that is there, where there is room for one.
    fn stream(&self) -> Option<Connection> {
        let mut carriers = self.carriers.borrow_mut();
        carriers.retain(|carrier| !carrier.is_leaving());
        let carrier = carriers.iter().find(|carrier| carrier.room() > 0)?;
        Some(Connection::of_carrier(carrier))
    }

    /// A stream on the connection on which the least is under way: it waits there for its turn.
    fn stream_in_line(&self) -> Option<Connection> {
        let carriers = self.carriers.borrow();
        let carriers = carriers.iter().filter(|carrier| !carrier.is_leaving());
        carriers.min_by_key(|carrier| carrier.under_way()).map(|carrier| Connection::of_carrier(carrier))
    }

    /// A stream, if one can be had without opening a connection; else whether that is to be done, and by whom.
    pub fn share(self: &Rc<CoreMember>) -> Share {
        if let Some(connection) = self.stream() {
            return Share::Stream(connection);
        }
        if self.spoke.get() == Some(Protocol::Http1) {
            return Share::Open(None);
        }
        if self.carriers.borrow().len() >= CARRIERS_MAX
            && let Some(connection) = self.stream_in_line()
        {
            return Share::Stream(connection);
        }
        if self.opening.replace(true) {
            return Share::Wait;
        }
        Share::Open(Some(Opening(Rc::clone(self))))
    }

    /// A stream on a connection with room, if there is one.
    pub fn share_at_once(&self) -> Option<Connection> {
        self.stream()
    }

    /// A stream on whatever connection there is, because no other can be opened.
    pub fn share_in_line(&self) -> Option<Connection> {
        self.stream_in_line()
    }

    /// Waits until the connection that is being opened has come to something, or nothing.
    ///
    /// # Errors
    /// It has failed in a way that says something of the member: whoever waited has asked it, too. That each tried for itself,
    /// one after the other, would have the last one wait for all.
    pub async fn opened(&self) -> Result<(), Reason> {
        let (before, _) = self.failures.get();
        poll_fn(|context| {
            if !self.opening.get() {
                return Poll::Ready(match self.failures.get() {
                    (now, Some(reason)) if now != before => Err(reason),
                    _ => Ok(()),
                });
            }
            let mut line = self.line.borrow_mut();
            if !line.iter().any(|waiting| waiting.will_wake(context.waker())) {
                line.push(context.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// A connection that others wait for could not be opened, for this reason.
    pub fn not_opened(&self, reason: Reason) {
        let (count, _) = self.failures.get();
        self.failures.set((count.wrapping_add(1), Some(reason)));
    }

    /// Whether one of the connections that carry requests was told that it takes no WebSockets.
    pub fn takes_no_tunnels(&self) -> bool {
        let carriers = self.carriers.borrow();
        carriers.iter().any(|carrier| !carrier.is_leaving() && carrier.takes_tunnels() == Some(false))
    }

    /// Remembers what it agreed to speak.
    pub fn speaks(&self, protocol: Protocol) {
        self.spoke.set(Some(protocol));
    }

    /// Keeps a connection that carries streams; a stream on it.
    pub fn carry(&self, carrier: Rc<Carrier>) -> Connection {
        let stream = Connection::of_carrier(&carrier);
        if self.retired.get() {
            carrier.retire();
        } else {
            self.carriers.borrow_mut().push(carrier);
        }
        stream
    }

    /// A connection that carried streams has ended.
    pub fn forget(&self, gone: &Rc<Carrier>) {
        self.carriers.borrow_mut().retain(|carrier| !Rc::ptr_eq(carrier, gone));
    }
}

/// How a stream can be had.
pub enum Share {
    /// Here it is.
    Stream(Connection),
    /// A connection is to be opened; others wait for it as long as this is kept, if they have to.
    Open(Option<Opening>),
    /// Somebody opens a connection: it is to be waited for.
    Wait,
}

/// A connection is being opened that others wait for.
pub struct Opening(Rc<CoreMember>);

impl Drop for Opening {
    fn drop(&mut self) {
        self.0.opening.set(false);
        self.0.line.borrow_mut().drain(..).for_each(Waker::wake);
    }
}

/// A request under way.
#[derive(Debug)]
pub struct InFlight {
    member: Rc<CoreMember>,
}

impl InFlight {
    /// To whom.
    pub fn member(&self) -> &Rc<CoreMember> {
        &self.member
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.member.in_flight.set(self.member.in_flight.get().saturating_sub(1));
    }
}

/// The members as of now, with this core's part of each, in the same order.
#[derive(Debug)]
pub struct View {
    /// The shared part.
    pub members: Arc<Members>,
    /// This core's part of each.
    pub pools: Box<[Rc<CoreMember>]>,
}

/// What one core keeps for one upstream. Outlives reloads that do not change the upstream.
#[derive(Debug)]
pub struct CoreUpstream {
    /// The shared part.
    pub upstream: Arc<Upstream>,
    /// The number of the core.
    pub core: usize,
    /// Most idle connections per member on this core.
    idle_max: usize,
    /// What may be sent again.
    pub budget: Budget,
    /// Who waits for a place.
    pub line: Line,
    turn: Turn,
    /// Answers since the last tick, and what they took in microseconds.
    answers: Cell<(u32, u64)>,
    /// The generation of the members in `view`.
    seen: Cell<u64>,
    view: RefCell<Rc<View>>,
    /// Whether what is to be expected of members matters: there is a choice, and it is by that.
    compares: Cell<bool>,
    retired: Cell<bool>,
}

impl CoreUpstream {
    /// A core's part of `upstream`. What `before`, this core's part of the upstream that had its name until now, keeps for
    /// members that are still there is taken over.
    pub fn new(upstream: Arc<Upstream>, core: usize, before: Option<&CoreUpstream>) -> CoreUpstream {
        let seen = upstream.generation();
        let known = before.map(CoreUpstream::view);
        let view = view_of(upstream.members(), known.as_deref());
        CoreUpstream {
            core,
            idle_max: upstream.idle_share(core),
            budget: Budget::default(),
            line: Line::default(),
            turn: Turn::new(core),
            answers: Cell::default(),
            seen: Cell::new(seen),
            compares: Cell::new(compares(&upstream, &view)),
            view: RefCell::new(Rc::new(view)),
            retired: Cell::new(false),
            upstream,
        }
    }

    /// The members as of now.
    pub fn view(&self) -> Rc<View> {
        let generation = self.upstream.generation();
        if self.seen.get() != generation && !self.retired.get() {
            self.renew(generation);
        }
        Rc::clone(&self.view.borrow())
    }

    #[cold]
    fn renew(&self, generation: u64) {
        let before = Rc::clone(&self.view.borrow());
        let next = Rc::new(view_of(self.upstream.members(), Some(&before)));
        for gone in before.pools.iter().filter(|pool| !next.has(pool)) {
            gone.retire();
        }
        self.compares.set(compares(&self.upstream, &next));
        self.seen.set(generation);
        *self.view.borrow_mut() = next;
    }

    /// How many whole quarters of its connections the member has taken that has the most of them to spare.
    pub fn quarters_taken(&self) -> u32 {
        let most = self.upstream.connections_max;
        // A connection that carries many requests at once is not short, whoever holds how many of them.
        let taken = |pool: &Rc<CoreMember>| match pool.carriers.borrow().is_empty() {
            true => pool.member.quarters_taken(most),
            false => 0,
        };
        self.view().pools.iter().map(taken).min().unwrap_or(0)
    }

    /// Chooses a member for one more request. `tried` are those that this exchange has tried already: they are chosen again
    /// only when there is no other. `key` is what a consistent choice hangs on.
    pub fn choose(&self, tried: &Tried, key: u64, now_ns: u64) -> Option<Rc<CoreMember>> {
        let view = self.view();
        if let [only] = &*view.pools {
            // Up or down, tried or not: there is nobody else.
            return Some(Rc::clone(only));
        }
        let index = self.turn.choose(self.upstream.balance, &view, tried, key, now_ns)?;
        view.pools.get(index).cloned()
    }

    /// Takes a kept connection to `member` that is still fit for use, and named `whose` in its PROXY header, or nobody.
    pub fn take(&self, member: &CoreMember, whose: Option<SocketAddr>, now_ms: u64) -> Option<Connection> {
        if member.member.key.protocols.http2
            && let Some(connection) = member.stream()
        {
            return Some(connection);
        }
        let mut idle = member.idle.borrow_mut();
        // The last one, unless headers are sent.
        while let Some(at) = idle.iter().rposition(|connection| connection.whose == whose) {
            let connection = idle.remove(at);
            // Bytes nobody asked for, or the end: either way it is of no more use.
            if self.is_fresh(&connection, now_ms) && connection.transport.is_quiet() {
                connection.transport.clear_deadline();
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose last exchange was complete on both sides.
    pub fn keep(&self, member: &CoreMember, mut connection: Connection, now_ms: u64) {
        if connection.permit.is_none() {
            // A stream carries one exchange.
            return;
        }
        let mut idle = member.idle.borrow_mut();
        if member.retired.get() || self.idle_max == 0 {
            return;
        }
        if idle.len() >= self.idle_max {
            // One client's connections are of no use to the next: the oldest makes room.
            match connection.whose {
                Some(_) => drop(idle.remove(0)),
                None => return,
            }
        }
        connection.used += 1;
        connection.idle_since_ms = now_ms;
        connection.transport.clear_deadline();
        idle.push(connection);
    }

    /// Closes the connection to `member` that has been kept for longest; whether there was one.
    pub fn let_one_go(&self, member: &CoreMember) -> bool {
        let mut idle = member.idle.borrow_mut();
        let oldest = (!idle.is_empty()).then(|| idle.remove(0));
        oldest.is_some()
    }

    fn is_fresh(&self, connection: &Connection, now_ms: u64) -> bool {
        let timeouts = &self.upstream.timeouts;
        now_ms.saturating_sub(connection.idle_since_ms) < timeouts.idle
            && now_ms.saturating_sub(connection.opened_ms) < timeouts.age
    }

    /// A member has answered, after `took_ns`; `in_trouble`: that it cannot do what it was asked for.
    pub fn answered(&self, member: &CoreMember, took_ns: u64, now_ns: u64, in_trouble: bool) {
        if self.compares.get() {
            match in_trouble {
                // One that fails at once is not fast.
                true => member.ewma.failed(now_ns),
                false => member.ewma.answered(took_ns, now_ns),
            }
        }
        let seen = member.seen.get();
        let (requests, sum_us) =
            (seen.requests.saturating_add(1), seen.sum_us.saturating_add(took_ns / 1_000));
        member.seen.set(Seen { requests, sum_us, ..seen });
        if self.upstream.adaptive.is_some() {
            let (answers, sum_us) = self.answers.get();
            self.answers.set((answers.saturating_add(1), sum_us.saturating_add(took_ns / 1_000)));
        }
    }

    /// This core cannot reach a member for a reason of its own: for a while others are as good.
    #[cold]
    pub fn avoid(&self, member: &CoreMember, now_ns: u64) {
        if self.compares.get() {
            member.ewma.failed(now_ns);
        }
    }

    /// A member has not answered.
    #[cold]
    pub fn failed(&self, member: &CoreMember, now_ns: u64) {
        self.avoid(member, now_ns);
        let seen = member.seen.get();
        let (requests, failed) = (seen.requests.saturating_add(1), seen.failed.saturating_add(1));
        member.seen.set(Seen { requests, failed, ..seen });
        self.upstream.failed(&member.member, now_ns / 1_000_000);
    }

    /// A number by chance.
    pub fn random(&self) -> u64 {
        self.turn.random()
    }

    /// Ten times a second: tells what this core saw of members, and finds how many requests may be in flight, where that is
    /// not fixed.
    pub fn adapt(&self, now_ms: u64) {
        for member in &self.view().pools {
            let seen = member.seen.take();
            if seen.requests > 0 {
                member.member.record.tell(&seen);
            }
        }
        let (Some(adaptive), Some(slots)) = (&self.upstream.adaptive, &self.upstream.slots) else { return };
        let (answers, sum_us) = self.answers.take();
        adaptive.tell(answers, sum_us, slots.in_flight());
        if let Some(limit) = adaptive.conclude(slots.limit(), now_ms) {
            slots.set_limit(limit);
        }
    }

    /// Ten times a second: closes what has been idle for too long, what the member has closed, what leads to members that are
    /// none any more, and one that is kept here while another core has no place for any.
    pub fn expire(&self, now_ms: u64) {
        for member in &self.view().pools {
            let fit = |connection: &mut Connection| {
                self.is_fresh(connection, now_ms) && connection.transport.is_quiet()
            };
            let mut idle = member.idle.borrow_mut();
            idle.retain_mut(fit);
            if !idle.is_empty() && member.member.is_wanted() {
                idle.remove(0);
            }
        }
    }

    /// The upstream is no longer configured: nothing is kept any more but what `next`, the one of its name from now on, has
    /// taken over.
    pub fn retire(&self, next: Option<&CoreUpstream>) {
        self.retired.set(true);
        let next = next.map(CoreUpstream::view);
        for gone in &self.view.borrow().pools {
            if !next.as_ref().is_some_and(|next| next.has(gone)) {
                gone.retire();
            }
        }
    }
}

impl View {
    /// What tells `member` in a cookie, where members are told so.
    pub fn tag(&self, member: &CoreMember) -> Option<u64> {
        let index = self.pools.iter().position(|pool| pool.member.number == member.member.number)?;
        self.members.tags.get(index).copied()
    }

    fn has(&self, member: &Rc<CoreMember>) -> bool {
        self.pools.iter().any(|pool| Rc::ptr_eq(pool, member))
    }
}

fn compares(upstream: &Upstream, view: &View) -> bool {
    upstream.balance == Balance::Ewma && view.pools.len() > 1
}

fn view_of(members: Arc<Members>, before: Option<&View>) -> View {
    let known = before.map(|view| &*view.pools).unwrap_or_default();
    let pools = members
        .seats
        .iter()
        .map(|seat| match known.iter().find(|pool| Arc::ptr_eq(&pool.member, &seat.member)) {
            Some(pool) => {
                pool.retired.set(false);
                Rc::clone(pool)
            }
            None => Rc::new(CoreMember::new(Arc::clone(&seat.member))),
        })
        .collect();
    View { members, pools }
}
