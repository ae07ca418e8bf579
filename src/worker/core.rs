//! One core: everything that its tasks share, and nothing that another core touches.

use std::cell::{Cell, RefCell};
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use arc_swap::ArcSwap;

use crate::accept::arrivals::Arrivals;
use crate::accept::caps::{Bounds, Caps};
use crate::accept::ends::Ends;
use crate::accept::pressure::{Level, Patience, Pressure};
use crate::pipeline::exchange::Exchange;
use crate::policy::admit::blocks::BlockCell;
use crate::snapshot::{CoreView, Snapshot};
use crate::worker::desk::Desk;
use crate::worker::spare::Spare;
use crate::worker::state::CoreState;
use crate::worker::visitors::Visitors;
use crate::worker::waiting::Waiting;
use crate::worker::{Clock, Deadline, Driver, Socket, Sweep, Transport};

/// How long a connection that rests when the node drains may still ask for something, once, in milliseconds: what it asks
/// may be on its way, and was told that it is welcome.
pub const DRAINING_FIRST_MS: u64 = 1_000;
/// Exchanges kept for re-use per core at most, and at least.
const EXCHANGES_FREE_MAX: usize = 256;
const EXCHANGES_FREE_MIN: usize = 64;
/// Connections of a node that nobody has told how many it may have.
const CONNECTIONS: u32 = 16_384;

/// What all threads of the node share: each word is written rarely and read by everybody.
#[derive(Debug)]
pub struct Node {
    /// What runs. Cores look at `generation` first.
    pub snapshot: ArcSwap<Snapshot>,
    /// Counts the snapshots: one relaxed load per request notices a new one.
    pub generation: AtomicU64,
    /// The node is going away: no more connections, and those that are there end.
    pub draining: AtomicBool,
    /// Another process accepts on the same sockets from now on.
    pub handed_over: AtomicBool,
    /// What is blocked.
    pub blocks: Arc<BlockCell>,
    /// Panics that were caught.
    pub panics: AtomicU64,
    /// What lies between the control side and each core.
    pub desks: Vec<Desk>,
    /// Client connections, and how many there may be.
    pub caps: Caps,
    /// Addresses that have connected of late, where there is a rate for it.
    pub arrivals: Arrivals,
    /// What the node is short of.
    pub pressure: Pressure,
    /// What there is to tell of connections that have ended.
    pub ends: Ends,
}

impl Node {
    /// A node that runs `snapshot`, with room for as many connections as a process commonly may have.
    pub fn new(snapshot: Snapshot) -> Node {
        let bounds = Bounds::within(CONNECTIONS, None, None, 1);
        Node {
            generation: AtomicU64::new(snapshot.generation),
            snapshot: ArcSwap::from_pointee(snapshot),
            draining: AtomicBool::new(false),
            handed_over: AtomicBool::new(false),
            blocks: Arc::default(),
            panics: AtomicU64::new(0),
            desks: Vec::new(),
            caps: Caps::new(bounds, CONNECTIONS),
            arrivals: Arrivals::default(),
            pressure: Pressure::default(),
            ends: Ends::default(),
        }
    }

    /// The same, with a desk for each of `cores` cores.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn with_desks(snapshot: Snapshot, cores: usize) -> io::Result<Node> {
        let desks = (0..cores).map(|_| Desk::new()).collect::<io::Result<_>>()?;
        Ok(Node { desks, ..Node::new(snapshot) })
    }

    /// The same, with these bounds on connections.
    #[must_use]
    pub fn with_caps(self, caps: Caps) -> Node {
        Node { caps, ..self }
    }

    /// Publishes a new snapshot and rings; the cores notice at their next request, or now. Returns the one before: whoever
    /// holds it until nobody else does frees it, so that no core has to.
    #[must_use = "whoever drops it last frees it"]
    pub fn publish(&self, snapshot: Arc<Snapshot>) -> Arc<Snapshot> {
        let generation = snapshot.generation;
        let before = self.snapshot.swap(snapshot);
        self.generation.store(generation, Ordering::Release);
        self.ring();
        before
    }

    /// Has all cores look.
    pub fn ring(&self) {
        self.desks.iter().for_each(Desk::ring);
    }
}

/// One core.
#[derive(Debug)]
pub struct Core {
    /// Its number, from 0.
    pub index: usize,
    /// The driver it runs on.
    pub driver: Driver,
    /// Its clock.
    pub clock: Clock,
    /// Its deadlines.
    pub sweep: Sweep,
    /// What policies keep per core. Borrowed only between two waits.
    pub state: RefCell<CoreState>,
    /// What is shared with the other cores.
    pub node: Arc<Node>,
    view: RefCell<Rc<CoreView>>,
    exchanges: RefCell<Spare<Box<Exchange>>>,
    /// Client connections on this core.
    pub connections: Cell<usize>,
    /// The same by where they come from.
    pub visitors: Rc<Visitors>,
    /// The blocks that visitors were judged by.
    blocks_seen: Cell<u64>,
    /// Loops that accept, or still let in who waited when the node began to drain.
    pub accepting: Cell<usize>,
    /// Whether nobody else is accepted.
    closed: Cell<bool>,
    /// Who is to be told when that, or the listeners, have changed.
    waiting_for_change: RefCell<WaitingForChange>,
    /// Who has come and not asked for anything yet.
    newcomers: RefCell<Waiting>,
    /// Ticks while memory was short.
    ticks: Cell<u32>,
}

impl Core {
    /// A core that runs what the node runs.
    pub fn new(index: usize, driver: Driver, node: Arc<Node>, state: CoreState) -> Core {
        let clock = Clock::new();
        let snapshot = node.snapshot.load_full();
        if let Some(desk) = node.desks.get(index) {
            desk.runs(snapshot.generation);
        }
        Core {
            index,
            driver,
            sweep: Sweep::new(clock.now_ns() / 1_000_000),
            clock,
            view: RefCell::new(Rc::new(CoreView::new(snapshot, index, None))),
            state: RefCell::new(state),
            node,
            exchanges: RefCell::new(Spare::new(EXCHANGES_FREE_MAX, EXCHANGES_FREE_MIN)),
            connections: Cell::new(0),
            visitors: Rc::default(),
            blocks_seen: Cell::new(0),
            accepting: Cell::new(0),
            closed: Cell::new(false),
            waiting_for_change: RefCell::default(),
            newcomers: RefCell::default(),
            ticks: Cell::new(0),
        }
    }

    /// Monotonic milliseconds, read from the clock.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ns() / 1_000_000
    }

    /// Monotonic milliseconds, as of the last read.
    pub fn coarse_ms(&self) -> u64 {
        self.clock.coarse_ns() / 1_000_000
    }

    /// Sets the deadline of a transport, in monotonic milliseconds.
    pub fn deadline(&self, transport: &Transport, kind: Deadline, at_ms: u64) {
        transport.set_deadline(&self.sweep, kind, at_ms);
    }

    /// What this core runs: the view that is current now. Costs one relaxed load while nothing changes.
    pub fn view(&self) -> Rc<CoreView> {
        let view = self.view.borrow();
        if self.node.generation.load(Ordering::Relaxed) == view.snapshot.generation {
            return Rc::clone(&view);
        }
        drop(view);
        self.switch()
    }

    #[cold]
    fn switch(&self) -> Rc<CoreView> {
        let begun_ns = self.clock.now_ns();
        let snapshot = self.node.snapshot.load_full();
        let next = {
            let mut view = self.view.borrow_mut();
            let next = Rc::new(CoreView::new(snapshot, self.index, Some(&view)));
            // The last references to what ran before are held by the control side: nothing large is freed here.
            *view = Rc::clone(&next);
            next
        };
        // A listener may have gone.
        self.waiting_for_change.borrow_mut().wake();
        if let Some(desk) = self.node.desks.get(self.index) {
            desk.runs(next.snapshot.generation);
        }
        let mut state = self.state.borrow_mut();
        state.switch(&next.snapshot);
        state.metrics.switched(self.clock.now_ns().saturating_sub(begun_ns));
        drop(state);
        next
    }

    /// Ends the connections of addresses that have been blocked since the last look.
    fn end_blocked(&self) {
        let number = self.node.blocks.number();
        if number != self.blocks_seen.replace(number) && number != 0 {
            self.node.blocks.look(|blocks| self.visitors.end(|source| blocks.holds(source)));
        }
    }

    /// What the control side has laid on this core's desk.
    pub fn desk(&self) -> Option<&Desk> {
        self.node.desks.get(self.index)
    }

    /// Whether connections should end after their current exchange.
    pub fn is_draining(&self) -> bool {
        self.node.draining.load(Ordering::Relaxed)
    }

    /// Whether nobody else is accepted on this listener.
    pub fn is_closed(&self, listener: u32) -> bool {
        self.closed.get() || self.view().snapshot.listener(listener).is_none_or(|found| found.is_leaving())
    }

    /// A place among those that [`Core::wake_at_change`] wakes, for a task that accepts.
    pub fn take_place(&self) -> usize {
        self.waiting_for_change.borrow_mut().take_place()
    }

    /// Gives a place back.
    pub fn give_place(&self, place: usize) {
        self.waiting_for_change.borrow_mut().give_place(place);
    }

    /// Wakes the task that accepts in this place when it may be that nobody else is to be accepted.
    pub fn wake_at_change(&self, place: usize, waker: &Waker) {
        self.waiting_for_change.borrow_mut().set(place, waker);
    }

    /// Nobody else comes in, but for who is already waiting: the accept loops see to that.
    fn close(&self) {
        self.closed.set(true);
        self.waiting_for_change.borrow_mut().wake();
    }

    /// Whether the node drains and nothing is left to do here.
    pub fn is_drained(&self) -> bool {
        self.is_draining() && self.accepting.get() == 0 && self.connections.get() == 0
    }

    /// A client that has not asked for anything yet is waited for: it is among those that make room.
    pub fn waits_for(&self, newcomer: &Socket) {
        if newcomer.is_newcomer() {
            self.newcomers.borrow_mut().enter(newcomer, self.connections.get());
        }
    }

    /// Somebody has come. Near a bound on connections the one that has been silent for longest goes for it.
    pub fn make_room(&self) {
        let bounds = self.node.caps.bounds();
        let near = |count: u64, most: u32| count * 10 >= u64::from(most) * 9;
        if near(u64::from(self.node.caps.open()), bounds.all)
            || near(self.connections.get() as u64, bounds.core)
        {
            self.newcomers.borrow_mut().let_one_go();
        }
    }

    /// How long connections that do nothing are borne with until the next tick.
    fn set_patience(&self, idle_ms: u64) {
        let caps = &self.node.caps;
        let on_core = self.connections.get();
        let patience = Patience::of(&self.node.pressure, &caps.bounds(), caps.open(), on_core);
        self.sweep.set_patience(patience, idle_ms);
    }

    /// Takes a pooled exchange.
    pub fn exchange(&self) -> Box<Exchange> {
        self.exchanges.borrow_mut().take().unwrap_or_default()
    }

    /// Gives an exchange back.
    pub fn release(&self, mut exchange: Box<Exchange>) {
        exchange.reset();
        self.exchanges.borrow_mut().give(exchange);
    }

    /// Ten times a second: deadlines, clocks, what has been idle for too long.
    pub fn tick(&self) {
        self.clock.synchronise();
        let now_ms = self.coarse_ms();
        super::outbox::ask_after_unfinished();
        let idle_ms = self.view.borrow().snapshot.listeners.iter().map(|listener| listener.idle_ms).max();
        self.set_patience(idle_ms.unwrap_or_default());
        self.sweep.advance(now_ms);
        self.end_blocked();
        super::buffer::trim();
        super::socket::trim();
        self.exchanges.borrow_mut().trim();
        if self.node.pressure.memory.level() > Level::Easy
            && self.ticks.replace(self.ticks.get() + 1).is_multiple_of(5)
        {
            crate::sys::memory::give_back();
        }
        let view = Rc::clone(&self.view.borrow());
        super::bell::look();
        for upstream in &view.upstreams {
            upstream.expire(now_ms);
            upstream.adapt(now_ms);
        }
        {
            let mut state = self.state.borrow_mut();
            state.limit.give_back(&view.snapshot.tables, self.clock.coarse_ns());
            state.tick(self.clock.coarse_ns());
        }
        if let Some(desk) = self.desk() {
            desk.lives(now_ms);
        }
        if self.is_draining() {
            self.close();
            self.sweep.expire_idle(now_ms, DRAINING_FIRST_MS);
        }
        // A core without traffic must not hold on to an old snapshot.
        drop(self.view());
    }
}

/// The tasks that accept, each in its place: whose waker one is cannot be told from it (two of one task may well say that they
/// wake different ones).
#[derive(Debug, Default)]
struct WaitingForChange {
    wakers: Vec<Option<Waker>>,
    free: Vec<usize>,
}

impl WaitingForChange {
    fn take_place(&mut self) -> usize {
        self.free.pop().unwrap_or_else(|| {
            self.wakers.push(None);
            self.wakers.len() - 1
        })
    }

    fn give_place(&mut self, place: usize) {
        if let Some(waker) = self.wakers.get_mut(place) {
            *waker = None;
            self.free.push(place);
        }
    }

    fn set(&mut self, place: usize, waker: &Waker) {
        if let Some(waiting) = self.wakers.get_mut(place) {
            *waiting = Some(waker.clone());
        }
    }

    fn wake(&mut self) {
        self.wakers.iter_mut().filter_map(Option::take).for_each(Waker::wake);
    }
}

thread_local! {
    static PANICS: Cell<u64> = const { Cell::new(0) };
}

/// Counts a panic that was caught on this core.
pub fn count_panic() {
    PANICS.set(PANICS.get() + 1);
}

/// Panics that were caught on this core.
pub fn panics() -> u64 {
    PANICS.get()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::counted::Counted;

    #[test]
    fn a_loop_that_waits_again_and_again_has_one_place_and_is_woken_once() {
        let told = [Counted::new(), Counted::new()];
        let mut waiting = WaitingForChange::default();
        let places = [waiting.take_place(), waiting.take_place()];
        for _ in 0..1000 {
            // Another waker each time, as some runtimes make them.
            waiting.set(places[1], &Counted::new().1);
            waiting.set(places[1], &told[1].1.clone());
            waiting.set(places[0], &told[0].1.clone());
        }
        assert_eq!(waiting.wakers.len(), 2);
        waiting.wake();
        waiting.wake();
        assert!(told.iter().all(|(counted, _)| counted.times() == 1));
        // Listeners that come and go leave nothing behind.
        for _ in 0..1000 {
            waiting.give_place(places[1]);
            assert_eq!(waiting.take_place(), places[1]);
        }
        assert_eq!(waiting.wakers.len(), 2);
    }
}
