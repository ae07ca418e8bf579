//! One core: everything that its tasks share, and nothing that another core touches.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::Waker;

use arc_swap::ArcSwap;

use crate::pipeline::exchange::Exchange;
use crate::snapshot::{CoreView, Snapshot};
use crate::worker::spare::Spare;
use crate::worker::state::CoreState;
use crate::worker::{Clock, Deadline, Driver, Sweep, Transport};

/// How long a connection that has not asked for anything when the node drains may still do so, in milliseconds.
pub const DRAINING_FIRST_MS: u64 = 1_000;
/// Exchanges kept for re-use per core at most, and at least.
const EXCHANGES_FREE_MAX: usize = 256;
const EXCHANGES_FREE_MIN: usize = 8;

/// What all threads of the node share: each word is written rarely and read by everybody.
#[derive(Debug)]
pub struct Node {
    /// What runs. Cores look at `generation` first.
    pub snapshot: ArcSwap<Snapshot>,
    /// Counts the snapshots: one relaxed load per request notices a new one.
    pub generation: AtomicU64,
    /// The node is going away: no more connections, and those that are there end.
    pub draining: AtomicBool,
    /// Panics that were caught.
    pub panics: AtomicU64,
    /// Connections open on all cores.
    pub connections: AtomicU64,
}

impl Node {
    /// A node that runs `snapshot`.
    pub fn new(snapshot: Snapshot) -> Node {
        Node {
            generation: AtomicU64::new(snapshot.generation),
            snapshot: ArcSwap::from_pointee(snapshot),
            draining: AtomicBool::new(false),
            panics: AtomicU64::new(0),
            connections: AtomicU64::new(0),
        }
    }

    /// Publishes a new snapshot; the cores notice at their next request.
    pub fn publish(&self, snapshot: Snapshot) {
        let generation = snapshot.generation;
        self.snapshot.store(Arc::new(snapshot));
        self.generation.store(generation, Ordering::Release);
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
    /// Loops that accept, or still let in who waited when the node began to drain.
    pub accepting: Cell<usize>,
    /// Whether nobody else is accepted, and who is to be told when that is so.
    closed: Cell<bool>,
    waiting_for_close: RefCell<WaitingForClose>,
}

impl Core {
    /// A core that runs what the node runs.
    pub fn new(index: usize, driver: Driver, node: Arc<Node>, state: CoreState) -> Core {
        let clock = Clock::new();
        let snapshot = node.snapshot.load_full();
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
            accepting: Cell::new(0),
            closed: Cell::new(false),
            waiting_for_close: RefCell::default(),
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
        transport.socket().set_deadline(&self.sweep, kind, at_ms);
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
        let snapshot = self.node.snapshot.load_full();
        let mut view = self.view.borrow_mut();
        let next = Rc::new(CoreView::new(snapshot, self.index, Some(&view)));
        self.state.borrow_mut().switch(&next.snapshot);
        *view = Rc::clone(&next);
        next
    }

    /// Whether connections should end after their current exchange.
    pub fn is_draining(&self) -> bool {
        self.node.draining.load(Ordering::Relaxed)
    }

    /// Whether nobody else is accepted.
    pub fn is_closed(&self) -> bool {
        self.closed.get()
    }

    /// Wakes the task that accepts on the listener of this index when nobody else is to be accepted.
    pub fn wake_at_close(&self, listener: usize, waker: &Waker) {
        self.waiting_for_close.borrow_mut().set(listener, waker);
    }

    /// Nobody else comes in, but for who is already waiting: the accept loops see to that.
    fn close(&self) {
        self.closed.set(true);
        self.waiting_for_close.borrow_mut().wake();
    }

    /// Whether the node drains and nothing is left to do here.
    pub fn is_drained(&self) -> bool {
        self.is_draining() && self.accepting.get() == 0 && self.connections.get() == 0
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
        self.sweep.advance(now_ms);
        super::buffer::trim();
        super::socket::trim();
        self.exchanges.borrow_mut().trim();
        let view = Rc::clone(&self.view.borrow());
        for upstream in &view.upstreams {
            upstream.expire(now_ms);
        }
        {
            let mut state = self.state.borrow_mut();
            state.limit.give_back(&view.snapshot.tables, self.clock.coarse_ns());
            state.tick(self.clock.coarse_ns());
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
struct WaitingForClose(Vec<Option<Waker>>);

impl WaitingForClose {
    fn set(&mut self, place: usize, waker: &Waker) {
        if self.0.len() <= place {
            self.0.resize_with(place + 1, || None);
        }
        self.0[place] = Some(waker.clone());
    }

    fn wake(&mut self) {
        self.0.drain(..).flatten().for_each(Waker::wake);
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
    use std::sync::atomic::AtomicUsize;
    use std::task::Wake;

    use super::*;

    struct Counted(AtomicUsize);

    impl Wake for Counted {
        fn wake(self: Arc<Counted>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn a_loop_that_waits_again_and_again_has_one_place_and_is_woken_once() {
        let counted: [Arc<Counted>; 2] = std::array::from_fn(|_| Arc::new(Counted(AtomicUsize::new(0))));
        let mut waiting = WaitingForClose::default();
        for _ in 0..1000 {
            // Another waker each time, as some runtimes make them.
            waiting.set(1, &Waker::from(Arc::new(Counted(AtomicUsize::new(0)))));
            waiting.set(1, &Waker::from(Arc::clone(&counted[1])));
            waiting.set(0, &Waker::from(Arc::clone(&counted[0])));
        }
        assert_eq!(waiting.0.len(), 2);
        waiting.wake();
        assert!(counted.iter().all(|counted| counted.0.load(Ordering::Relaxed) == 1));
        assert!(waiting.0.is_empty());
    }
}
