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
    /// Who waits. The first is woken when there may be room, and stays the first until it has some or gives up; then it wakes the
    /// next.
    line: RefCell<VecDeque<Waker>>,
}

impl Share {
    /// Room for one more, if there is some now.
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
            if self.enter(&fair) {
                return Poll::Ready(true);
            }
            place.take(context.waker());
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
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            self.leave();
            self.share.line.borrow_mut().push_back(waker.clone());
            self.waker = Some(waker.clone());
        }
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
    mux.share().enter(fair).then(|| AskedFor { mux: Rc::clone(mux) })
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
        assert_eq!((first_calls.times(), second_calls.times()), (0, 1), "there is room for the next, too");
        fair.set(Some(1));
        assert!(second.as_mut().poll(&mut second_at).is_pending());
        share.leave();
        share.leave();
        assert_eq!((first_calls.times(), second_calls.times()), (0, 3), "each end calls who waits");
        assert_eq!(second.as_mut().poll(&mut second_at), Poll::Ready(true));
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
        assert_eq!((first_calls.times(), second_calls.times()), (1, 0));
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
