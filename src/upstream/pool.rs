//! Kept connections of one core to one upstream: LIFO, so that few are warm and the rest may age; the end of a
//! connection is noticed before it is used again.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use crate::upstream::balance::Turn;
use crate::upstream::{Permit, Upstream};
use crate::worker::Transport;

/// An open connection to a target.
#[derive(Debug)]
pub struct Connection {
    /// The byte stream.
    pub transport: Transport,
    /// Requests that it has carried before.
    pub used: u64,
    /// When it became idle, monotonic milliseconds.
    idle_since_ms: u64,
    _permit: Permit,
}

impl Connection {
    /// A connection that has carried nothing yet.
    pub fn new(transport: Transport, permit: Permit) -> Connection {
        Connection { transport, used: 0, idle_since_ms: 0, _permit: permit }
    }
}

/// What one core keeps for one upstream. Outlives reloads that do not change the upstream.
#[derive(Debug)]
pub struct CoreUpstream {
    /// The shared part.
    pub upstream: Arc<Upstream>,
    /// Whose turn it is.
    pub turn: Turn,
    idle: Vec<RefCell<Vec<Connection>>>,
    in_flight: Vec<Cell<u32>>,
    retired: Cell<bool>,
}

impl CoreUpstream {
    /// Nothing kept yet.
    pub fn new(upstream: Arc<Upstream>, core: usize) -> CoreUpstream {
        let count = upstream.targets.len();
        CoreUpstream {
            turn: Turn::new(core, count),
            idle: (0..count).map(|_| RefCell::new(Vec::new())).collect(),
            in_flight: (0..count).map(|_| Cell::new(0)).collect(),
            retired: Cell::new(false),
            upstream,
        }
    }

    /// Takes a kept connection to `target` that is still fit for use.
    pub fn take(&self, target: usize, now_ms: u64) -> Option<Connection> {
        let mut idle = self.idle.get(target)?.borrow_mut();
        while let Some(connection) = idle.pop() {
            let fresh = now_ms.saturating_sub(connection.idle_since_ms) < self.upstream.timeouts.idle;
            // Bytes nobody asked for, or the end: either way it is of no more use.
            if fresh && connection.transport.is_quiet() {
                connection.transport.socket().clear_deadline();
                return Some(connection);
            }
        }
        None
    }

    /// Keeps a connection whose last exchange was complete on both sides.
    pub fn keep(&self, target: usize, mut connection: Connection, now_ms: u64) {
        let Some(idle) = self.idle.get(target) else { return };
        let mut idle = idle.borrow_mut();
        if self.retired.get() || idle.len() >= self.upstream.idle_max {
            return;
        }
        connection.used += 1;
        connection.idle_since_ms = now_ms;
        connection.transport.socket().clear_deadline();
        idle.push(connection);
    }

    /// Closes what has been idle for too long, and what the target has closed.
    pub fn expire(&self, now_ms: u64) {
        for idle in &self.idle {
            idle.borrow_mut().retain(|connection| {
                now_ms.saturating_sub(connection.idle_since_ms) < self.upstream.timeouts.idle
                    && connection.transport.is_quiet()
            });
        }
    }

    /// The upstream is no longer configured: nothing is kept any more.
    pub fn retire(&self) {
        self.retired.set(true);
        for idle in &self.idle {
            idle.borrow_mut().clear();
        }
    }

    /// Counts a request to `target` until the guard is dropped.
    pub fn begin(self: &Rc<CoreUpstream>, target: usize) -> InFlight {
        if let Some(count) = self.in_flight.get(target) {
            count.set(count.get() + 1);
        }
        InFlight { upstream: Rc::clone(self), target }
    }

    /// This core's requests to `target` now.
    pub fn in_flight(&self, target: usize) -> u32 {
        self.in_flight.get(target).map_or(0, Cell::get)
    }

    /// Idle connections to `target` on this core.
    pub fn idle(&self, target: usize) -> usize {
        self.idle.get(target).map_or(0, |idle| idle.borrow().len())
    }
}

/// A request under way.
#[derive(Debug)]
pub struct InFlight {
    upstream: Rc<CoreUpstream>,
    target: usize,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(count) = self.upstream.in_flight.get(self.target) {
            count.set(count.get().saturating_sub(1));
        }
    }
}
