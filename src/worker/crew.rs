//! Tasks that are kept for re-use: each does one job after the other, and rests in between.
//!
//! For: many exchanges on one connection, which run beside each other. An exchange that is its connection's only one runs in the
//! connection's own task instead ([`super::slots`]). Steady state allocates nothing and spawns nothing.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::worker::guard::spawn;
use crate::worker::spare::{Spare, Trim};

/// Tasks at rest that are kept per core at most, and at least.
const RESTING_MAX: usize = 256;
const RESTING_MIN: usize = 64;

/// Something that has jobs of type `A` done beside whatever else happens: [`Crew`] without its unnameable types.
pub trait Hire<A> {
    /// Has it done, from later in this turn on.
    fn hire(self: &Rc<Self>, job: A);
}

/// Tasks that do jobs of one type, each by the future that `make` makes of it.
pub struct Crew<A, F: Future<Output = ()>, M: Fn(A) -> F> {
    make: M,
    resting: RefCell<Spare<Resting<A>>>,
}

/// What is between a task at rest and whoever has a job for it.
struct Desk<A> {
    job: Cell<Option<A>>,
    worker: Cell<Option<Waker>>,
    dismissed: Cell<bool>,
}

/// A task at rest. Dropped, it ends.
struct Resting<A>(Option<Rc<Desk<A>>>);

impl<A> Drop for Resting<A> {
    fn drop(&mut self) {
        let Some(desk) = &self.0 else { return };
        desk.dismissed.set(true);
        if let Some(worker) = desk.worker.take() {
            worker.wake();
        }
    }
}

impl<A, F: Future<Output = ()>, M: Fn(A) -> F> Crew<A, F, M> {
    /// Nobody yet.
    pub fn new(make: M) -> Crew<A, F, M> {
        Crew { make, resting: RefCell::new(Spare::new(RESTING_MAX, RESTING_MIN)) }
    }
}

impl<A, F: Future<Output = ()>, M: Fn(A) -> F> Trim for Crew<A, F, M> {
    /// Dismisses tasks that nobody needs.
    fn trim(&self) {
        self.resting.borrow_mut().trim();
    }
}

impl<A: 'static, F: Future<Output = ()> + 'static, M: Fn(A) -> F + 'static> Hire<A> for Crew<A, F, M> {
    fn hire(self: &Rc<Self>, job: A) {
        let resting = self.resting.borrow_mut().take().and_then(|mut resting| resting.0.take());
        match resting {
            Some(desk) => {
                desk.job.set(Some(job));
                if let Some(worker) = desk.worker.take() {
                    worker.wake();
                }
            }
            None => {
                spawn(work(Rc::clone(self), job));
            }
        }
    }
}

async fn work<A, F: Future<Output = ()>, M: Fn(A) -> F>(crew: Rc<Crew<A, F, M>>, first: A) {
    let desk =
        Rc::new(Desk { job: Cell::new(Some(first)), worker: Cell::new(None), dismissed: Cell::new(false) });
    loop {
        let next = poll_fn(|context| match desk.job.take() {
            Some(job) => Poll::Ready(Some(job)),
            None if desk.dismissed.get() => Poll::Ready(None),
            None => {
                desk.worker.set(Some(context.waker().clone()));
                Poll::Pending
            }
        });
        let Some(job) = next.await else { return };
        (crew.make)(job).await;
        crew.resting.borrow_mut().give(Resting(Some(Rc::clone(&desk))));
    }
}
