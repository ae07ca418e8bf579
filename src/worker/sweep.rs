//! Deadlines: a coarse wheel that looks at each socket lazily, never a timer per read.
//!
//! A socket, or whatever else is [`Watched`], has one deadline at a time, a cell that its task may set as often as it likes.
//! The wheel holds at most one live entry of each, a tenth of a second wide and [`HORIZON_TICKS`] long; when an entry comes up
//! and the deadline has moved on, it is entered again. Setting a later deadline therefore costs two stores.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use crate::accept::pressure::Patience;
use crate::sys::socket::{Presence, presence};
use crate::worker::socket::{Deadline, Shared};

/// Width of a slot in milliseconds: a deadline fires at most this much late.
pub const TICK_MS: u64 = 100;
/// Slots of the wheel; deadlines further away are looked at again at the horizon.
const HORIZON_TICKS: u64 = 32;
/// Entries that a slot has room for from the start, so that a core of few connections never grows one: 16 KiB in all.
const SLOT_ENTRIES: usize = 64;
/// How long a client that has ended its side is taken to wait for its answer, in milliseconds. Most that do so have gone, and
/// nothing tells them from those that only have nothing more to ask.
const LISTENS_MS: u64 = 3_000;

/// A deadline, and who waits behind it.
pub struct Due {
    /// When the deadline passes, monotonic milliseconds; 0 is never.
    at_ms: Cell<u64>,
    kind: Cell<Deadline>,
    /// The slot of the sweep in which this is due to be looked at; 0 is none.
    tick: Cell<u64>,
    passed: Cell<bool>,
    /// How often it was made new.
    turn: Cell<u32>,
    /// The client for whom an upstream is asked.
    client: Cell<Weak<Shared>>,
    /// When that client was first seen to have ended its side, monotonic milliseconds; 0: it was not.
    left_ms: Cell<u64>,
}

impl std::fmt::Debug for Due {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Due").field("at_ms", &self.at_ms.get()).field("kind", &self.kind.get()).finish()
    }
}

impl Default for Due {
    fn default() -> Due {
        Due {
            at_ms: Cell::new(0),
            kind: Cell::new(Deadline::First),
            tick: Cell::new(0),
            passed: Cell::new(false),
            turn: Cell::new(0),
            client: Cell::new(Weak::new()),
            left_ms: Cell::new(0),
        }
    }
}

impl Due {
    /// When the deadline passes, monotonic milliseconds; 0 is never.
    pub fn at_ms(&self) -> u64 {
        self.at_ms.get()
    }

    /// What the deadline is about.
    pub fn kind(&self) -> Deadline {
        self.kind.get()
    }

    /// The deadline that has passed, if one has.
    pub fn passed(&self) -> Option<Deadline> {
        self.passed.get().then(|| self.kind.get())
    }

    /// Moves a deadline about `kind`, if there is one, to `at_ms` at the earliest. The sweep finds it moved.
    pub fn prolong(&self, kind: Deadline, at_ms: u64) {
        if self.kind.get() == kind && self.at_ms.get() != 0 {
            self.at_ms.set(self.at_ms.get().max(at_ms));
        }
    }

    /// The deadline that has passed, once: there may be others.
    pub fn take_passed(&self) -> Option<Deadline> {
        self.passed.replace(false).then(|| self.kind.get())
    }

    /// Takes the deadline away.
    pub fn clear(&self) {
        self.at_ms.set(0);
    }

    /// Makes it what it was when it was made, but for the place in the wheel, which it has or has not.
    pub fn reset(&self) {
        self.at_ms.set(0);
        self.passed.set(false);
        self.turn.set(self.turn.get().wrapping_add(1));
        self.client.set(Weak::new());
        self.left_ms.set(0);
    }

    /// Tells what it is used for from what it is used for later.
    pub fn turn(&self) -> u32 {
        self.turn.get()
    }

    /// Ends whatever is under way, for this cause.
    fn end(&self, cause: Deadline) {
        self.kind.set(cause);
        self.at_ms.set(0);
        self.passed.set(true);
    }

    /// The deadline is about another thing.
    pub(crate) fn set_kind(&self, kind: Deadline) {
        self.kind.set(kind);
    }

    /// An answer is waited for on behalf of `client` from now on.
    pub(super) fn serve(&self, client: &Rc<Shared>) {
        self.client.set(Rc::downgrade(client));
        self.left_ms.set(0);
    }

    /// Whether an answer is waited for that nobody will read.
    fn is_abandoned(&self, now_ms: u64) -> bool {
        if !matches!(self.kind.get(), Deadline::FirstByte | Deadline::Total) {
            return false;
        }
        let client = self.client.take();
        let seen = client.upgrade().map(|client| presence(client.fd()));
        self.client.set(client);
        match (seen, self.left_ms.get()) {
            (Some(Presence::Gone), _) => true,
            (Some(Presence::Listening), 0) => {
                self.left_ms.set(now_ms);
                false
            }
            (Some(Presence::Listening), left_ms) => now_ms - left_ms >= LISTENS_MS,
            (Some(Presence::There) | None, _) => false,
        }
    }
}

/// What has a deadline on a core.
pub trait Watched {
    /// Its deadline.
    fn due(&self) -> &Due;

    /// The deadline has passed, or its end has come: whoever waits on it is to see that now.
    fn expire(&self);

    /// Whether nothing of the last message is left to be sent, and nothing of a next one lies unread.
    fn is_at_rest(self: Rc<Self>) -> bool;

    /// The deadline has passed: until when it may go on nevertheless, because it did what it owed.
    fn reprieve(&self, now_ms: u64) -> Option<u64>;

    /// Notes where the peer stands, for a later [`Watched::reprieve`].
    fn note_pace(&self);
}

/// Ends whatever is under way on `watched`, for this cause.
pub fn end(watched: &dyn Watched, cause: Deadline) {
    watched.due().end(cause);
    watched.expire();
}

/// The wheel of one core.
pub struct Sweep {
    /// Weak, so that a connection that has ended gives its descriptor back at once.
    slots: RefCell<Vec<Vec<Weak<dyn Watched>>>>,
    /// The last tick that was swept.
    tick: Cell<u64>,
    watched: Cell<usize>,
    /// How long idle connections are borne with, while the node is short of something, out of how long they may be idle.
    patience: Cell<Option<(Patience, u64)>>,
}

impl Sweep {
    /// An empty wheel that stands at `now_ms`.
    pub fn new(now_ms: u64) -> Sweep {
        Sweep {
            slots: RefCell::new((0..HORIZON_TICKS).map(|_| Vec::with_capacity(SLOT_ENTRIES)).collect()),
            tick: Cell::new(now_ms / TICK_MS),
            watched: Cell::new(0),
            patience: Cell::new(None),
        }
    }

    /// How long connections that do nothing are borne with from now on, out of the `idle_ms` that they may be idle. Each is
    /// looked at within the length of the wheel, so that this costs nothing beside it.
    pub fn set_patience(&self, patience: Option<Patience>, idle_ms: u64) {
        self.patience.set(patience.map(|patience| (patience, idle_ms)));
    }

    /// Gives `watched` a deadline at `at_ms` (monotonic milliseconds). Whoever was ended for good keeps the cause.
    pub fn set<W: Watched + 'static>(&self, watched: &Rc<W>, kind: Deadline, at_ms: u64) {
        let due = watched.due();
        if matches!(due.passed(), Some(Deadline::Blocked | Deadline::Spared)) {
            return;
        }
        due.kind.set(kind);
        due.at_ms.set(at_ms.max(1));
        let slot = self.slot_for(at_ms);
        let entered = due.tick.get();
        if entered == 0 || entered > slot {
            let watched: Rc<dyn Watched> = Rc::<W>::clone(watched);
            self.enter(&watched, slot);
        }
    }

    /// Sees to it that `watched` is looked at no later than `at_ms`.
    fn watch(&self, watched: &Rc<dyn Watched>, at_ms: u64) {
        let slot = self.slot_for(at_ms);
        let entered = watched.due().tick.get();
        if entered == 0 || entered > slot {
            self.enter(watched, slot);
        }
    }

    fn enter(&self, watched: &Rc<dyn Watched>, slot: u64) {
        watched.due().tick.set(slot);
        self.slots.borrow_mut()[(slot % HORIZON_TICKS) as usize].push(Rc::downgrade(watched));
        self.watched.set(self.watched.get() + 1);
    }

    /// Rounded up, so that nothing fires early; within the horizon.
    fn slot_for(&self, at_ms: u64) -> u64 {
        let now = self.tick.get();
        at_ms.div_ceil(TICK_MS).clamp(now + 1, now + HORIZON_TICKS - 1)
    }

    /// Advances to `now_ms` and expires what is due. Called ten times a second by the core.
    pub fn advance(&self, now_ms: u64) {
        let target = now_ms / TICK_MS;
        while self.tick.get() < target {
            let tick = self.tick.get() + 1;
            self.tick.set(tick);
            let mut due = std::mem::take(&mut self.slots.borrow_mut()[(tick % HORIZON_TICKS) as usize]);
            self.watched.set(self.watched.get() - due.len());
            for watched in due.drain(..).filter_map(|watched| watched.upgrade()) {
                self.look_at(&watched, tick, now_ms);
            }
            // Keep the slot's memory, unless a burst has made it large.
            if due.capacity() <= 1024 {
                let slot = &mut self.slots.borrow_mut()[(tick % HORIZON_TICKS) as usize];
                if slot.is_empty() {
                    *slot = due;
                }
            }
        }
    }

    fn look_at(&self, watched: &Rc<dyn Watched>, tick: u64, now_ms: u64) {
        let due = watched.due();
        if due.tick.get() != tick {
            return; // An earlier deadline entered it again: that entry counts.
        }
        due.tick.set(0);
        let at_ms = due.at_ms.get();
        if at_ms == 0 {
            return;
        }
        if at_ms <= now_ms && due.kind().is_idle() && !Rc::clone(watched).is_at_rest() {
            // The next request has just come, or the answer before it has not left: its task sees to that.
            self.watch(watched, now_ms + TICK_MS);
        } else if at_ms <= now_ms {
            match watched.reprieve(now_ms) {
                Some(later_ms) => {
                    due.at_ms.set(later_ms);
                    self.watch(watched, later_ms);
                }
                None => end(&**watched, due.kind()),
            }
        } else if self.has_no_patience_with(watched, at_ms - now_ms) {
            end(&**watched, Deadline::Spared);
        } else if due.is_abandoned(now_ms) {
            end(&**watched, Deadline::Abandoned);
        } else {
            watched.note_pace();
            self.watch(watched, at_ms);
        }
    }

    /// Whether a connection does nothing, has done so for longer than is borne, and is to be let go in this tick.
    fn has_no_patience_with(&self, watched: &Rc<dyn Watched>, left_ms: u64) -> bool {
        let Some((patience, idle_ms)) = self.patience.get() else { return false };
        let borne_ms = match watched.due().kind() {
            Deadline::First => patience.silent_ms,
            Deadline::Idle => patience.idle_ms,
            Deadline::IdleKnown => patience.known_ms,
            _ => return false,
        };
        let gone = patience.most > 0
            && idle_ms.saturating_sub(left_ms) >= borne_ms
            && Rc::clone(watched).is_at_rest();
        if gone {
            self.patience.set(Some((Patience { most: patience.most - 1, ..patience }, idle_ms)));
        }
        gone
    }

    /// The node drains: connections that rest expire in `grace_ms` at the latest, and those that many share are looked at. Not at once: a request may be on its way, and is
    /// answered with `Connection: close`, which loses nothing, where an end that meets it would.
    pub fn expire_idle(&self, now_ms: u64, grace_ms: u64) {
        let all: Vec<Rc<dyn Watched>> =
            self.slots.borrow().iter().flatten().filter_map(Weak::upgrade).collect();
        for watched in all {
            let due = watched.due();
            let told =
                matches!(due.kind(), Deadline::First | Deadline::Idle | Deadline::IdleKnown | Deadline::Look);
            if told && due.at_ms() > now_ms + grace_ms {
                due.at_ms.set(now_ms + grace_ms);
                self.watch(&watched, now_ms + grace_ms);
            }
        }
    }

    /// Entries in the wheel, for metrics and tests.
    pub fn watched(&self) -> usize {
        self.watched.get()
    }
}

impl std::fmt::Debug for Sweep {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sweep").field("tick", &self.tick.get()).field("watched", &self.watched.get()).finish()
    }
}
