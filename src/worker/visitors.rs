//! The client connections of one core, by where they come from: so that those of an address can be ended.
//!
//! 32 bytes a connection. Not for counting them or for their deadlines. Called by the accept loop, and by the core's tick.

use std::cell::RefCell;
use std::fmt;
use std::net::IpAddr;
use std::rc::{Rc, Weak};

use crate::worker::socket::{Deadline, Shared, Socket};

/// All of one core.
#[derive(Default)]
pub struct Visitors {
    places: RefCell<Places>,
}

#[derive(Default)]
struct Places {
    taken: Vec<Option<(IpAddr, Weak<Shared>)>>,
    free: Vec<u32>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub struct Visitor {
    all: Rc<Visitors>,
    place: u32,
}

impl Visitors {
    /// One more, from `source`.
    pub fn enter(self: &Rc<Visitors>, socket: &Socket, source: IpAddr) -> Visitor {
        let mut places = self.places.borrow_mut();
        let visitor = Some((source, Rc::downgrade(socket.shared())));
        let place = match places.free.pop() {
            Some(place) => {
                places.taken[place as usize] = visitor;
                place
            }
            None => {
                places.taken.push(visitor);
                // A core has fewer descriptors than that.
                (places.taken.len() - 1) as u32
            }
        };
        Visitor { all: Rc::clone(self), place }
    }

    /// Ends the connections whose source `is_ended` says; how many.
    pub fn end(&self, is_ended: impl Fn(IpAddr) -> bool) -> usize {
        // Whoever is woken by it finds the places free to be given back.
        let ended: Vec<Rc<Shared>> = {
            let places = self.places.borrow();
            let sources = places.taken.iter().flatten();
            sources
                .filter(|(source, _)| is_ended(*source))
                .filter_map(|(_, socket)| socket.upgrade())
                .collect()
        };
        ended.iter().for_each(|socket| socket.end(Deadline::Blocked));
        ended.len()
    }
}

impl fmt::Debug for Visitors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places = self.places.borrow();
        f.debug_struct("Visitors").field("count", &(places.taken.len() - places.free.len())).finish()
    }
}

impl Visitor {
    /// It comes from elsewhere, as its PROXY header says.
    pub fn comes_from(&self, source: IpAddr) {
        if let Some(Some((before, _))) = self.all.places.borrow_mut().taken.get_mut(self.place as usize) {
            *before = source;
        }
    }
}

impl Drop for Visitor {
    fn drop(&mut self) {
        let mut places = self.all.places.borrow_mut();
        if let Some(place) = places.taken.get_mut(self.place as usize) {
            *place = None;
            places.free.push(self.place);
        }
        // What a crowd needed is given back when it has gone.
        if places.free.len() == places.taken.len() && places.taken.len() > 1024 {
            *places = Places::default();
        }
    }
}
