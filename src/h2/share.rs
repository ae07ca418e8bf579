//! How many of a client's requests are with upstreams at once, while these have no room to spare.
//!
//! Over HTTP/1.1 a client holds one connection of an upstream with each of its own; over HTTP/2 it could hold one for each of its
//! streams, and would, if it took none of the answers. So when an upstream's connections become scarce, a client's connection has
//! its fair share of them, and what it asks beyond that waits until something it asked before is answered. Whoever takes its
//! answers waits for next to nothing.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::h2::mux::Mux;
use crate::h2::stream::StreamTransport;

/// The requests of one client's connection that are with upstreams.
#[derive(Debug, Default)]
pub struct Share {
    asking: Cell<usize>,
    line: RefCell<VecDeque<Waker>>,
}

/// A request is with an upstream until this is dropped.
#[derive(Debug)]
pub struct AskedFor {
    mux: Rc<Mux>,
}

impl Drop for AskedFor {
    fn drop(&mut self) {
        let share = self.mux.share();
        share.asking.set(share.asking.get().saturating_sub(1));
        if let Some(next) = share.line.borrow_mut().pop_front() {
            next.wake();
        }
    }
}

/// Room for one more request of the client's connection with upstreams, if there is some now: `fair` says how many it may have,
/// or that there is no need to count.
pub fn at_once(stream: &StreamTransport, fair: impl Fn() -> Option<usize>) -> Option<AskedFor> {
    let share = stream.mux().share();
    let asking = share.asking.get();
    let has_room = asking == 0 || fair().is_none_or(|fair| asking < fair);
    has_room.then(|| {
        share.asking.set(asking + 1);
        AskedFor { mux: Rc::clone(stream.mux()) }
    })
}

/// Waits for it. `None`: the client has gone, or its time is up.
pub async fn take(stream: &StreamTransport, fair: impl Fn() -> Option<usize>) -> Option<AskedFor> {
    let share = stream.mux().share();
    poll_fn(|context| {
        if stream.over().is_some() || stream.expired().is_some() {
            // A call that was meant for this one is the next one's.
            if let Some(next) = share.line.borrow_mut().pop_front() {
                next.wake();
            }
            return Poll::Ready(None);
        }
        if let Some(asked_for) = at_once(stream, &fair) {
            return Poll::Ready(Some(asked_for));
        }
        let mut line = share.line.borrow_mut();
        if !line.iter().any(|waiting| waiting.will_wake(context.waker())) {
            line.push_back(context.waker().clone());
        }
        stream.wake_at_end(context.waker());
        Poll::Pending
    })
    .await
}
