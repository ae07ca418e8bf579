//! Small messages leave together, at the end of the turn of the loop in which they were posted.
//!
//! A send wakes whoever waits at the other end. Sent one by one between other work, each message finds its reader asleep
//! again and wakes it for itself alone; sent in a row, all of them find it awake. On io_uring one system call sends them
//! all ([`Burst`]), and the sockets almost always take them whole, so that their buffers are free, and warm, for the next turn;
//! as operations of the loop they would be held until their tasks look after them. What a full socket does not take becomes
//! such an operation.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use crate::sys::burst::{BURST_MAX, Burst};
use crate::worker::core::count_panic;
use crate::worker::guard::Guarded;
use crate::worker::socket::Shared;

/// Room for messages that a quiet core keeps.
const PARCELS_KEPT: usize = 1024;

/// A message and its socket.
type Parcel = (Rc<Shared>, Vec<u8>);

/// The messages of one core that have not left yet.
struct Outbox {
    parcels: Vec<Parcel>,
    /// The task that sends them, while it waits for the first one of a turn.
    waiting: Option<Waker>,
    /// Whether there is such a task.
    running: bool,
    /// Sockets that were full, whose rest nobody waits for.
    unfinished: Vec<Weak<Shared>>,
}

thread_local! {
    static OUTBOX: RefCell<Outbox> = const {
        RefCell::new(Outbox { parcels: Vec::new(), waiting: None, running: false, unfinished: Vec::new() })
    };
}

/// Sends `bytes` at the end of this turn.
pub(super) fn put(socket: &Rc<Shared>, bytes: Vec<u8>) {
    let (waiting, running) = OUTBOX.with_borrow_mut(|outbox| {
        outbox.parcels.push((Rc::clone(socket), bytes));
        (outbox.waiting.take(), std::mem::replace(&mut outbox.running, true))
    });
    match waiting {
        Some(waker) => waker.wake(),
        None if !running => drop(monoio::spawn(Guarded::new(send_all(Running), count_panic))),
        None => {}
    }
}

/// Lets `bytes` leave with what the socket has here, if there is room in its buffer. Whether it is so.
pub(super) fn join(socket: &Shared, bytes: &[u8]) -> bool {
    OUTBOX.with_borrow_mut(|outbox| match outbox.find(socket) {
        Some(at) => {
            let before = &mut outbox.parcels[at].1;
            let fits = bytes.len() <= before.capacity() - before.len();
            if fits {
                before.extend_from_slice(bytes);
            }
            fits
        }
        None => false,
    })
}

/// Takes back what the socket has here: it cannot wait for the end of the turn.
pub(super) fn take(socket: &Shared) -> Option<Vec<u8>> {
    OUTBOX.with_borrow_mut(|outbox| {
        let at = outbox.find(socket)?;
        Some(outbox.parcels.swap_remove(at).1)
    })
}

/// Sees to it that what a full socket has not taken goes on, even if its task has nothing more to do with it.
pub(super) fn follow(socket: &Rc<Shared>) {
    if !socket.followed.replace(true) {
        OUTBOX.with_borrow_mut(|outbox| outbox.unfinished.push(Rc::downgrade(socket)));
    }
}

/// Asks after what full sockets had not taken. Called ten times a second.
pub(super) fn ask_after_unfinished() {
    let mut unfinished = OUTBOX.with_borrow_mut(|outbox| std::mem::take(&mut outbox.unfinished));
    unfinished.retain(|socket| {
        let Some(socket) = socket.upgrade() else { return false };
        let done = socket.ask();
        socket.followed.set(!done);
        !done
    });
    OUTBOX.with_borrow_mut(|outbox| {
        unfinished.append(&mut outbox.unfinished);
        if unfinished.len() <= PARCELS_KEPT {
            unfinished.shrink_to(PARCELS_KEPT);
        }
        outbox.unfinished = unfinished;
    });
}

impl Outbox {
    /// The last ones first: who asks has posted just now.
    fn find(&self, socket: &Shared) -> Option<usize> {
        self.parcels.iter().rposition(|(owner, _)| std::ptr::eq(&**owner, socket))
    }
}

/// Says that the task has ended when it does: the next message starts another.
struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        let _ = OUTBOX.try_with(|outbox| {
            let mut outbox = outbox.borrow_mut();
            outbox.running = false;
            outbox.waiting = None;
        });
    }
}

/// Woken by the first message of a turn, it runs after the tasks that had something to do in it.
async fn send_all(_running: Running) {
    let mut parcels = Vec::new();
    let mut together = Together::Unknown;
    loop {
        poll_fn(|context| {
            OUTBOX.with_borrow_mut(|outbox| match outbox.parcels.is_empty() {
                true => {
                    outbox.waiting = Some(context.waker().clone());
                    Poll::Pending
                }
                false => {
                    std::mem::swap(&mut parcels, &mut outbox.parcels);
                    Poll::Ready(())
                }
            })
        })
        .await;
        together.send(&mut parcels);
        parcels.shrink_to(PARCELS_KEPT);
    }
}

/// How messages are sent together.
enum Together {
    /// Nobody has asked yet.
    Unknown,
    /// In one system call.
    Burst(Box<Burst>),
    /// One by one: the loop is no ring, or no second one can be had.
    Singly,
}

impl Together {
    fn for_loop_of(socket: &Shared) -> Together {
        match socket.is_on_ring().then(Burst::new) {
            Some(Ok(burst)) => Together::Burst(Box::new(burst)),
            _ => Together::Singly,
        }
    }

    /// Sends all parcels; a single one directly.
    fn send(&mut self, parcels: &mut Vec<Parcel>) {
        if let (Together::Unknown, [(socket, _), _, ..]) = (&self, &parcels[..]) {
            *self = Together::for_loop_of(socket);
        }
        while let (Together::Burst(burst), true) = (&mut *self, parcels.len() > 1) {
            let first = parcels.len().saturating_sub(BURST_MAX);
            burst.send(parcels[first..].iter().map(|(socket, bytes)| (socket.fd(), &bytes[..])));
            for ((socket, bytes), result) in parcels.drain(first..).zip(burst.results()) {
                socket.left(bytes, result);
            }
            if burst.is_broken() {
                *self = Together::Singly;
            }
        }
        for (socket, bytes) in parcels.drain(..) {
            socket.leave(bytes);
        }
    }
}
