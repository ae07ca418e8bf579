//! A panic in one connection ends that connection, is counted, and nothing else.
//!
//! monoio does not catch panics: an unwind leaves `block_on` and takes the core with it. Every spawned future is
//! wrapped here, at the level of `poll`; dropping it is guarded too, because a `Drop` of ours may be what panics.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::sys::prefetch::Lines;
use crate::worker::core::count_panic;
use crate::worker::turn;

/// A spawned future whose panics stay inside.
pub struct Guarded<F> {
    /// `None` once it is done, or has panicked.
    future: Option<Pin<Box<F>>>,
    on_panic: fn(),
}

/// Runs `future` beside whatever else this core does. Its panics stay inside, and are counted.
pub fn spawn(future: impl Future<Output = ()> + 'static) {
    monoio::spawn(Guarded::new(future, count_panic));
}

impl<F: Future<Output = ()>> Guarded<F> {
    /// Guards `future`; `on_panic` counts.
    pub fn new(future: F, on_panic: fn()) -> Guarded<F> {
        Guarded { future: Some(Box::pin(future)), on_panic }
    }

    fn discard(&mut self) {
        if let Some(future) = self.future.take() {
            // A second panic, from a destructor during the unwind, would abort; outside of one it ends here.
            if catch_unwind(AssertUnwindSafe(|| drop(future))).is_err() {
                (self.on_panic)();
            }
        }
    }
}

impl<F: Future<Output = ()>> Future for Guarded<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(future) = self.future.as_mut() else { return Poll::Ready(()) };
        turn::begin();
        Lines::of(&**future).fetch();
        // The state of a future that has panicked is never looked at again: it is only dropped.
        match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(())) => {
                self.discard();
                Poll::Ready(())
            }
            Err(_) => {
                (self.on_panic)();
                self.discard();
                Poll::Ready(())
            }
        }
    }
}

impl<F> Drop for Guarded<F> {
    fn drop(&mut self) {
        if let Some(future) = self.future.take()
            && catch_unwind(AssertUnwindSafe(|| drop(future))).is_err()
        {
            (self.on_panic)();
        }
    }
}
