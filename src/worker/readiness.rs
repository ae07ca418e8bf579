//! Which sockets of a core have something to receive.
//!
//! One edge-triggered set per core, asked through the ring: as soon as anything has happened, one completion says so, and
//! one call takes all of it. A poll operation for each wait would cost an entry, a completion and an entry in the kernel's
//! tables every time; a member of the set is entered once in its life.
//!
//! Edges are told once. A socket therefore keeps in mind that something is there until a receive has found the queue empty:
//! one that got less than it had room for, or nothing. The end may arrive together with data and is not told again, so it is
//! kept in mind for good.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::rc::{Rc, Weak};
use std::task::Waker;
use std::time::Duration;

use monoio::net::UnixStream;

use crate::sys::epoll::{Epoll, Event, Events};
use crate::worker::core::count_panic;
use crate::worker::guard::Guarded;
use crate::worker::socket::Shared;

/// Calls that take events before the tasks they are for have their turn.
const ROUNDS: usize = 4;
/// Pause after the ring refused to wait for the set.
const PAUSE: Duration = Duration::from_millis(1);

thread_local! {
    static SET: RefCell<Option<Rc<Set>>> = const { RefCell::new(None) };
}

/// What a socket knows of what it can receive.
#[derive(Default)]
pub(super) struct Arrival {
    /// Something may be there.
    ready: Cell<bool>,
    /// The peer has ended its side, or the connection.
    ended: Cell<bool>,
    /// Somebody has looked what is there.
    looked: Cell<bool>,
    /// Who waits.
    waiting: Cell<Option<Waker>>,
    /// Its place in the set, from its first wait on.
    member: RefCell<Option<Member>>,
}

impl Arrival {
    /// Whether something may be there; `None` when nobody has asked to be told yet.
    pub fn is_ready(&self) -> Option<bool> {
        self.member.borrow().as_ref()?;
        Some(self.ready.get())
    }

    /// Whether somebody has looked what is there: more rarely comes before that is answered.
    pub fn was_looked_at(&self) -> bool {
        self.looked.get()
    }

    /// Whether the peer is known to have ended its side, perhaps behind data.
    pub fn has_ended(&self) -> bool {
        self.ended.get()
    }

    /// Enters `socket` into the set of this core.
    ///
    /// # Errors
    /// Those of epoll; no descriptor or memory is left.
    pub fn enter(socket: &Rc<Shared>) -> io::Result<()> {
        let set = Set::of_this_core()?;
        let token = set.places.borrow_mut().take(Rc::downgrade(socket));
        // From here on the place is given back when the member is dropped.
        let member = Member { set, token };
        member.set.epoll.enter(socket.fd(), token)?;
        *socket.arrival.member.borrow_mut() = Some(member);
        Ok(())
    }

    /// Whether something is there; if not, `waker` will be told.
    pub fn wait(&self, waker: &Waker) -> bool {
        if self.ready.get() {
            return true;
        }
        let waiting = self.waiting.take().filter(|waiting| waiting.will_wake(waker));
        self.waiting.set(Some(waiting.unwrap_or_else(|| waker.clone())));
        false
    }

    /// A receive got `count` bytes, or the end, where there was room for `room`.
    pub fn received(&self, count: usize, room: usize) {
        self.looked.set(true);
        if count < room && !self.ended.get() {
            self.ready.set(false);
        }
    }

    /// A look, or a receive, found nothing.
    pub fn emptied(&self) {
        self.looked.set(true);
        self.ready.set(false);
    }

    fn tell(&self, ended: bool) {
        self.ready.set(true);
        if ended {
            self.ended.set(true);
        }
        if let Some(waker) = self.waiting.take() {
            waker.wake();
        }
    }
}

impl fmt::Debug for Arrival {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Arrival").field("ready", &self.ready).field("ended", &self.ended).finish()
    }
}

/// A place in the set, given back when the socket is dropped.
struct Member {
    set: Rc<Set>,
    token: u64,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.set.places.borrow_mut().give(self.token);
    }
}

/// The set of one core.
struct Set {
    epoll: Epoll,
    places: RefCell<Places<Shared>>,
}

impl Set {
    /// The set of this core; the first socket that waits makes it, and the task that asks it.
    fn of_this_core() -> io::Result<Rc<Set>> {
        if let Some(set) = SET.with_borrow(Option::clone) {
            return Ok(set);
        }
        let epoll = Epoll::new()?;
        // monoio waits for sockets only; what it waits for is a descriptor that can be polled.
        let waiter = std::os::unix::net::UnixStream::from(epoll.as_fd().try_clone_to_owned()?);
        let waiter = UnixStream::from_std(waiter)?;
        let set = Rc::new(Set { epoll, places: RefCell::new(Places::new()) });
        SET.set(Some(Rc::clone(&set)));
        monoio::spawn(Guarded::new(collect(Collecting(Rc::clone(&set)), waiter), count_panic));
        Ok(set)
    }

    fn tell(&self, event: Event) {
        let socket = self.places.borrow().get(event.token);
        if let Some(socket) = socket {
            socket.arrival.tell(event.ended);
        }
    }
}

/// Asks the set for as long as the loop runs.
struct Collecting(Rc<Set>);

impl Drop for Collecting {
    fn drop(&mut self) {
        // The loop is gone; another one on this thread makes a set of its own.
        let _ = SET.try_with(|set| {
            let mut set = set.borrow_mut();
            if set.as_ref().is_some_and(|set| Rc::ptr_eq(set, &self.0)) {
                *set = None;
            }
        });
    }
}

async fn collect(collecting: Collecting, waiter: UnixStream) {
    let set = &collecting.0;
    let mut events = Events::new();
    loop {
        if waiter.readable(false).await.is_err() {
            monoio::time::sleep(PAUSE).await;
        }
        for _ in 0..ROUNDS {
            let more = set.epoll.take(&mut events).unwrap_or(false);
            events.iter().for_each(|event| set.tell(event));
            if !more {
                break;
            }
        }
    }
}

/// Who has which token. A token is a place and the number of the entry, so that a late event of a socket that is gone is told
/// to nobody.
struct Places<T> {
    list: Vec<Place<T>>,
    free: Vec<u32>,
    entries: u32,
}

struct Place<T> {
    entry: u32,
    holder: Weak<T>,
}

impl<T> Places<T> {
    const fn new() -> Places<T> {
        Places { list: Vec::new(), free: Vec::new(), entries: 0 }
    }

    fn take(&mut self, holder: Weak<T>) -> u64 {
        self.entries = self.entries.wrapping_add(1);
        let place = Place { entry: self.entries, holder };
        let index = match self.free.pop() {
            Some(index) => {
                self.list[index as usize] = place;
                index
            }
            None => {
                self.list.push(place);
                self.list.len() as u32 - 1
            }
        };
        u64::from(self.entries) << 32 | u64::from(index)
    }

    fn give(&mut self, token: u64) {
        let index = token as u32;
        let Some(place) = self.list.get_mut(index as usize) else { return };
        place.holder = Weak::new();
        self.free.push(index);
        // What a burst needed is given back once nobody is left.
        if self.free.len() == self.list.len() && self.list.len() > 1024 {
            self.list = Vec::new();
            self.free = Vec::new();
        }
    }

    fn get(&self, token: u64) -> Option<Rc<T>> {
        let place = self.list.get(token as u32 as usize)?;
        if place.entry == (token >> 32) as u32 { place.holder.upgrade() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_late_event_of_a_socket_that_is_gone_is_told_to_nobody() {
        let mut places = Places::new();
        let (first, second) = (Rc::new(1), Rc::new(2));
        let old = places.take(Rc::downgrade(&first));
        assert!(places.get(old).is_some_and(|found| Rc::ptr_eq(&found, &first)));
        places.give(old);
        assert!(places.get(old).is_none());
        let new = places.take(Rc::downgrade(&second));
        assert_eq!(new as u32, old as u32, "places are used again");
        assert!(places.get(old).is_none());
        assert!(places.get(new).is_some_and(|found| Rc::ptr_eq(&found, &second)));
        drop(second);
        assert!(places.get(new).is_none());
        assert!(places.get(u64::MAX).is_none());
    }

    #[test]
    fn what_is_there_is_kept_in_mind_until_the_queue_was_seen_empty() {
        let arrival = Arrival::default();
        let nobody = Waker::noop();
        assert!(!arrival.wait(nobody));
        arrival.tell(false);
        assert!(arrival.wait(nobody));
        arrival.received(100, 100);
        assert!(arrival.wait(nobody), "the buffer was full: there may be more");
        arrival.received(40, 100);
        assert!(!arrival.wait(nobody));
        arrival.tell(true);
        arrival.received(40, 100);
        assert!(arrival.wait(nobody), "the end came with the data and is not told again");
        arrival.received(0, 100);
        assert!(arrival.wait(nobody));
        arrival.emptied();
        assert!(!arrival.wait(nobody), "it had been told, and was not there");
    }
}
