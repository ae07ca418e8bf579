//! The seats that an exchange holds among the requests in flight of its keys ([`super::counts`]).
//!
//! They are left when the exchange is over, whatever ended it: the last byte of the answer, a client that went away, an
//! upstream that failed, a deadline, a panic. A policy that refuses leaves them at once.
//!
//! Not for: places at an upstream (`upstream::admission`). Part of every exchange; taken by the limit policy.

use std::sync::Arc;

use super::charge::{Keys, Tables};
use super::counts::Seat;
use super::fingerprint::Fingerprint;

/// Seats of one exchange; empty unless a limit of its operation counts requests in flight. Dropped, it leaves them.
#[derive(Debug, Default)]
pub struct Seats {
    /// Where they are; kept from one request to the next, as is the memory of `taken`.
    tables: Option<Arc<Tables>>,
    taken: Vec<(Keys, Seat)>,
}

impl Seats {
    /// How many are held.
    pub fn len(&self) -> usize {
        self.taken.len()
    }

    /// Whether none is held.
    pub fn is_empty(&self) -> bool {
        self.taken.is_empty()
    }

    /// Takes one for `who`, if fewer than `most` are taken.
    #[must_use = "without a seat there is no request"]
    pub fn take(&mut self, tables: &Arc<Tables>, keys: Keys, who: Fingerprint, most: u32) -> bool {
        if !self.tables.as_ref().is_some_and(|known| Arc::ptr_eq(known, tables)) {
            // The tables live as long as the process: this is the first seat of this exchange.
            self.leave();
            self.tables = Some(Arc::clone(tables));
        }
        let seat = tables.counts_of(keys).enter(who, most);
        seat.map(|seat| self.taken.push((keys, seat))).is_some()
    }

    /// Leaves all.
    #[inline]
    pub fn leave(&mut self) {
        if !self.taken.is_empty() {
            self.leave_from(0);
        }
    }

    /// Leaves those that were taken when `first` were held already.
    #[cold]
    pub fn leave_from(&mut self, first: usize) {
        let Some(tables) = &self.tables else { return };
        while self.taken.len() > first {
            let Some((keys, seat)) = self.taken.pop() else { return };
            tables.counts_of(keys).leave(seat);
        }
    }
}

impl Drop for Seats {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::future::{Future, poll_fn};
    use std::panic::{AssertUnwindSafe, catch_unwind};
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::pipeline::exchange::Exchange;
    use crate::policy::limit::LimitId;
    use crate::worker::guard::Guarded;

    #[test]
    fn seats_are_left_on_every_way_out() {
        let tables = Arc::new(Tables::new(1 << 16, 1));
        let who = tables.counts_of(Keys::Minted).fingerprint(LimitId::new("x"), b"key");
        let inside = || tables.minted_counts.inside(who);
        let mut seats = Seats::default();
        assert!(seats.take(&tables, Keys::Minted, who, 3) && seats.take(&tables, Keys::Minted, who, 3));
        assert!(seats.take(&tables, Keys::Minted, who, 3) && !seats.take(&tables, Keys::Minted, who, 3));
        seats.leave_from(1);
        assert_eq!((seats.len(), inside()), (1, 1));
        seats.leave();
        seats.leave();
        assert_eq!((seats.is_empty(), inside()), (true, 0));
        assert!(seats.take(&tables, Keys::Minted, who, 1));
        drop(seats);
        assert_eq!(inside(), 0);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let mut seats = Seats::default();
            assert!(seats.take(&tables, Keys::Minted, who, 1));
            assert_eq!(inside(), 1);
            panic!("what a bug would do");
        }));
        assert!(panicked.is_err());
        assert_eq!(inside(), 0);
    }

    #[test]
    fn a_task_that_panics_while_it_serves_leaves_its_seats() {
        let tables = Arc::new(Tables::new(1 << 16, 1));
        let who = tables.counts_of(Keys::Identities).fingerprint(LimitId::new("x"), b"key");
        let serve = {
            let tables = Arc::clone(&tables);
            async move {
                let mut x = Box::new(Exchange::new());
                assert!(x.seats.take(&tables, Keys::Identities, who, 1));
                let mut waited = false;
                poll_fn(|_| match std::mem::replace(&mut waited, true) {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                })
                .await;
                panic!("what a bug would do");
            }
        };
        let mut task = pin!(Guarded::new(serve, || {}));
        let mut context = Context::from_waker(Waker::noop());
        assert!(task.as_mut().poll(&mut context).is_pending());
        assert_eq!(tables.identity_counts.inside(who), 1);
        assert!(task.as_mut().poll(&mut context).is_ready(), "the guard ends it");
        assert_eq!(tables.identity_counts.inside(who), 0);
    }
}
