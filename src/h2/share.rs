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
    /// Who waits, in the order in which they came; nobody goes before them. The first is woken when there may be room, and stays the
    /// first until it has some or gives up; then it wakes the next.
    line: RefCell<VecDeque<Waker>>,
}

impl Share {
    /// Room for one more, if there is some now that nobody has waited for.
    fn enter_at_once(&self, fair: impl Fn() -> Option<usize>) -> bool {
        self.line.borrow().is_empty() && self.enter(fair)
    }

    /// Room for whoever is next.
    fn enter(&self, fair: impl Fn() -> Option<usize>) -> bool {
        let asking = self.asking.get();
        let has_room = asking == 0 || fair().is_none_or(|fair| asking < fair);
        if has_room {
            self.asking.set(asking + 1);
        }
        has_room
    }

    /// One is answered.
    fn leave(&self) {
        self.asking.set(self.asking.get().saturating_sub(1));
        self.call();
    }

    /// Waits for room, unless it `gives_up`; it is to look again whenever that may have changed.
    async fn wait(&self, fair: impl Fn() -> Option<usize>, gives_up: impl Fn(&Waker) -> bool) -> bool {
        let mut place = Place { share: self, waker: None };
        poll_fn(|context| {
            if gives_up(context.waker()) {
                return Poll::Ready(false);
            }
            if place.is_next() && self.enter(&fair) {
                return Poll::Ready(true);
            }
            place.take(context.waker());
            if !place.is_next() {
                // What is scarce may have become less so since the first looked, and nobody told it.
                self.call();
            }
            Poll::Pending
        })
        .await
    }

    fn call(&self) {
        if let Some(first) = self.line.borrow().front() {
            first.wake_by_ref();
        }
    }
}

/// A place in line, left when this is dropped.
struct Place<'a> {
    share: &'a Share,
    waker: Option<Waker>,
}

impl Place<'_> {
    fn take(&mut self, waker: &Waker) {
        let mut line = self.share.line.borrow_mut();
        match &self.waker {
            Some(known) if known.will_wake(waker) => return,
            Some(known) => {
                line.iter_mut()
                    .filter(|waiting| waiting.will_wake(known))
                    .for_each(|at| at.clone_from(waker));
            }
            None => line.push_back(waker.clone()),
        }
        self.waker = Some(waker.clone());
    }

    /// Whether nobody waits who has come before.
    fn is_next(&self) -> bool {
        let is_own = |first: &Waker| self.waker.as_ref().is_some_and(|known| known.will_wake(first));
        self.share.line.borrow().front().is_none_or(is_own)
    }

    fn leave(&mut self) {
        if let Some(waker) = self.waker.take() {
            self.share.line.borrow_mut().retain(|waiting| !waiting.will_wake(&waker));
            // There may be room for more than one.
            self.share.call();
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

/// A request is with an upstream until this is dropped.
#[derive(Debug)]
pub struct AskedFor {
    mux: Rc<Mux>,
}

impl Drop for AskedFor {
    fn drop(&mut self) {
        self.mux.share().leave();
    }
}

/// Room for one more request of the client's connection with upstreams, if there is some now: `fair` says how many it may have,
/// or that there is no need to count.
pub fn at_once(stream: &StreamTransport, fair: impl Fn() -> Option<usize>) -> Option<AskedFor> {
    let mux = stream.mux();
    mux.share().enter_at_once(fair).then(|| AskedFor { mux: Rc::clone(mux) })
}

/// Waits for it. `None`: the client has gone, or its time is up.
pub async fn take(stream: &StreamTransport, fair: impl Fn() -> Option<usize>) -> Option<AskedFor> {
    let mux = stream.mux();
    let gives_up = |waker: &Waker| {
        stream.wake_at_end(waker);
        stream.over().is_some() || stream.expired().is_some()
    };
    mux.share().wait(fair, gives_up).await.then(|| AskedFor { mux: Rc::clone(mux) })
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Context;

    use super::*;
    use crate::worker::counted::Counted;

    #[test]
    fn who_found_room_unasked_takes_nobodys_call() {
        let (share, fair) = (Share::default(), Cell::new(Some(1)));
        assert!(share.enter(|| fair.get()));
        let stays = |_: &Waker| false;
        let (mut first, mut second) =
            (pin!(share.wait(|| fair.get(), stays)), pin!(share.wait(|| fair.get(), stays)));
        let [(first_calls, first_waker), (second_calls, second_waker)] = [Counted::new(), Counted::new()];
        let (mut first_at, mut second_at) =
            (Context::from_waker(&first_waker), Context::from_waker(&second_waker));
        assert!(first.as_mut().poll(&mut first_at).is_pending());
        assert!(second.as_mut().poll(&mut second_at).is_pending());
        // Something else has it look again, when the upstream has room to spare for a while.
        fair.set(None);
        assert_eq!(first.as_mut().poll(&mut first_at), Poll::Ready(true));
        assert_eq!((first_calls.times(), second_calls.times()), (1, 1), "there is room for the next, too");
        fair.set(Some(1));
        assert!(second.as_mut().poll(&mut second_at).is_pending());
        share.leave();
        share.leave();
        assert_eq!((first_calls.times(), second_calls.times()), (1, 3), "each end calls who waits");
        assert_eq!(second.as_mut().poll(&mut second_at), Poll::Ready(true));
    }

    #[test]
    fn nobody_goes_before_who_waits() {
        let (share, fair) = (Share::default(), Cell::new(Some(1)));
        assert!(share.enter_at_once(|| fair.get()));
        let stays = |_: &Waker| false;
        let (mut first, mut second) =
            (pin!(share.wait(|| fair.get(), stays)), pin!(share.wait(|| fair.get(), stays)));
        let [(first_calls, first_waker), (_, second_waker), (_, another)] =
            [Counted::new(), Counted::new(), Counted::new()];
        assert!(first.as_mut().poll(&mut Context::from_waker(&first_waker)).is_pending());
        // There is room, and the first has been called, but has not come yet.
        share.leave();
        assert_eq!(first_calls.times(), 1);
        assert!(!share.enter_at_once(|| fair.get()));
        assert!(second.as_mut().poll(&mut Context::from_waker(&second_waker)).is_pending());
        // Nor is anybody before it when there is room for all: whoever comes sees to it that the first learns of that.
        fair.set(None);
        assert!(!share.enter_at_once(|| fair.get()));
        assert!(second.as_mut().poll(&mut Context::from_waker(&second_waker)).is_pending());
        assert_eq!(first_calls.times(), 3);
        // Woken by another name it still is who it was.
        fair.set(Some(0));
        share.asking.set(1);
        assert!(first.as_mut().poll(&mut Context::from_waker(&another)).is_pending());
        share.leave();
        assert_eq!(first.as_mut().poll(&mut Context::from_waker(&another)), Poll::Ready(true));
        fair.set(None);
        assert_eq!(second.as_mut().poll(&mut Context::from_waker(&second_waker)), Poll::Ready(true));
        assert!(share.enter_at_once(|| fair.get()));
    }

    #[test]
    fn who_gives_up_holds_up_nobody() {
        let (share, gone) = (Share::default(), Cell::new(false));
        assert!(share.enter(|| Some(1)));
        let (mut first, mut second) =
            (pin!(share.wait(|| Some(1), |_| gone.get())), pin!(share.wait(|| Some(1), |_| false)));
        let [(first_calls, first_waker), (second_calls, second_waker)] = [Counted::new(), Counted::new()];
        let (mut first_at, mut second_at) =
            (Context::from_waker(&first_waker), Context::from_waker(&second_waker));
        assert!(first.as_mut().poll(&mut first_at).is_pending());
        assert!(second.as_mut().poll(&mut second_at).is_pending());
        share.leave();
        assert_eq!((first_calls.times(), second_calls.times()), (2, 0));
        gone.set(true);
        assert_eq!(first.as_mut().poll(&mut first_at), Poll::Ready(false));
        assert_eq!(second_calls.times(), 1);
        assert_eq!(second.as_mut().poll(&mut second_at), Poll::Ready(true));
        // One whose task ends is out of the line, too.
        {
            let mut third = pin!(share.wait(|| Some(1), |_| false));
            assert!(third.as_mut().poll(&mut first_at).is_pending());
        }
        assert!(share.line.borrow().is_empty());
    }
}
