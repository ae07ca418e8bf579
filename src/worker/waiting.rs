//! Who has come and not asked for anything yet, in the order of their coming: when a core needs room, the one that has been
//! silent for longest makes it.
//!
//! A connection is entered once, when it is first waited for; who sends a request with its connection never is. An entry
//! whose connection has asked, or is gone, is passed over; of those there are never more than of connections, and a few.
//!
//! Not for: connections that are idle between two requests (the sweep sees to them). Called by the accept loop and the codec.
//! Cost: a push per connection, amortised.

use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use crate::worker::socket::{Shared, Socket};

/// Entries of no more use that are put up with beside one for each connection.
const STALE: usize = 64;

/// The newcomers of one core.
#[derive(Debug, Default)]
pub struct Waiting {
    line: VecDeque<Weak<Shared>>,
}

impl Waiting {
    /// Enters a newcomer of a core with so many connections; one that is in already stays where it is.
    pub fn enter(&mut self, socket: &Socket, connections: usize) {
        let shared = socket.shared();
        if shared.lined_up.replace(true) {
            return;
        }
        if self.line.len() > 2 * connections + STALE {
            self.line.retain(|entry| entry.upgrade().is_some_and(|socket| socket.is_silent()));
            if self.line.capacity() > 4 * (self.line.len() + STALE) {
                self.line.shrink_to(2 * (self.line.len() + STALE));
            }
        }
        self.line.push_back(Rc::downgrade(shared));
    }

    /// Lets go of the one that has been silent for longest. Whether there was one.
    pub fn let_one_go(&mut self) -> bool {
        while let Some(entry) = self.line.pop_front() {
            if let Some(socket) = entry.upgrade()
                && socket.is_silent()
            {
                socket.spare();
                return true;
            }
        }
        false
    }

    /// Entries, those of no more use included.
    pub fn len(&self) -> usize {
        self.line.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty()
    }
}
