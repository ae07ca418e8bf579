//! Deadlines: a coarse wheel that looks at each socket lazily, never a timer per read.
//!
//! A socket has one deadline at a time, a cell that its task may set as often as it likes. The wheel holds at most
//! one live entry per socket, a tenth of a second wide and [`HORIZON_TICKS`] long; when an entry comes up and the
//! deadline has moved on, it is entered again. Setting a later deadline therefore costs two stores.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use crate::accept::pressure::Patience;
use crate::worker::socket::{Deadline, Shared};

/// Width of a slot in milliseconds: a deadline fires at most this much late.
pub const TICK_MS: u64 = 100;
/// Slots of the wheel; deadlines further away are looked at again at the horizon.
const HORIZON_TICKS: u64 = 32;
/// Entries that a slot has room for from the start, so that a core of few connections never grows one: 16 KiB in all.
const SLOT_ENTRIES: usize = 64;

/// The wheel of one core.
#[derive(Debug)]
pub struct Sweep {
    /// Weak, so that a connection that has ended gives its descriptor back at once.
    slots: RefCell<Vec<Vec<Weak<Shared>>>>,
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

    /// Sees to it that `socket` is looked at no later than `at_ms`.
    pub(super) fn watch(&self, socket: &Rc<Shared>, at_ms: u64) {
        let due = self.slot_for(at_ms);
        let entered = socket.due_tick.get();
        if entered != 0 && entered <= due {
            return;
        }
        socket.due_tick.set(due);
        self.slots.borrow_mut()[(due % HORIZON_TICKS) as usize].push(Rc::downgrade(socket));
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
            for socket in due.drain(..).filter_map(|socket| socket.upgrade()) {
                self.look_at(&socket, tick, now_ms);
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

    fn look_at(&self, socket: &Rc<Shared>, tick: u64, now_ms: u64) {
        if socket.due_tick.get() != tick {
            return; // An earlier deadline entered it again: that entry counts.
        }
        socket.due_tick.set(0);
        let deadline_ms = socket.deadline_ms.get();
        if deadline_ms == 0 {
            return;
        }
        if deadline_ms <= now_ms && socket.kind().is_idle() && !socket.is_at_rest() {
            // The next request has just come, or the answer before it has not left: its task sees to that.
            self.watch(socket, now_ms + TICK_MS);
        } else if deadline_ms <= now_ms {
            match socket.reprieve(now_ms) {
                Some(later_ms) => {
                    socket.deadline_ms.set(later_ms);
                    self.watch(socket, later_ms);
                }
                None => {
                    socket.deadline_ms.set(0);
                    socket.expire();
                }
            }
        } else if self.has_no_patience_with(socket, deadline_ms - now_ms) {
            socket.spare();
        } else if socket.is_abandoned(now_ms) {
            socket.end(Deadline::Abandoned);
        } else {
            socket.note_pace();
            self.watch(socket, deadline_ms);
        }
    }

    /// Whether a connection does nothing, has done so for longer than is borne, and is to be let go in this tick.
    fn has_no_patience_with(&self, socket: &Rc<Shared>, left_ms: u64) -> bool {
        let Some((patience, idle_ms)) = self.patience.get() else { return false };
        let borne_ms = match socket.kind() {
            Deadline::First => patience.silent_ms,
            Deadline::Idle => patience.idle_ms,
            Deadline::IdleKnown => patience.known_ms,
            _ => return false,
        };
        let gone = patience.most > 0 && idle_ms.saturating_sub(left_ms) >= borne_ms && socket.is_at_rest();
        if gone {
            self.patience.set(Some((Patience { most: patience.most - 1, ..patience }, idle_ms)));
        }
        gone
    }

    /// The node drains: connections that rest expire in `grace_ms` at the latest. Not at once: a request may be on its way, and is
    /// answered with `Connection: close`, which loses nothing, where an end that meets it would.
    pub fn expire_idle(&self, now_ms: u64, grace_ms: u64) {
        let sockets: Vec<Rc<Shared>> =
            self.slots.borrow().iter().flatten().filter_map(Weak::upgrade).collect();
        for socket in sockets {
            let deadline_ms = socket.deadline_ms.get();
            match socket.kind() {
                _ if deadline_ms == 0 => {}
                Deadline::First | Deadline::Idle | Deadline::IdleKnown if deadline_ms > now_ms + grace_ms => {
                    socket.deadline_ms.set(now_ms + grace_ms);
                    self.watch(&socket, now_ms + grace_ms);
                }
                _ => {}
            }
        }
    }

    /// Entries in the wheel, for metrics and tests.
    pub fn watched(&self) -> usize {
        self.watched.get()
    }
}
