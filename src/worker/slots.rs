//! Pooled places for the large futures of a core.
//!
//! An idle connection is a small future; what a request needs while it runs (head tables, two directions of
//! a body) is large. It lives in a slot that is taken at the first byte of a request and returned at the last, so
//! that memory follows the number of *active* requests, and steady state allocates nothing.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::sys::prefetch::Lines;
use crate::worker::spare::{Spare, Trim};

/// Free slots kept per core at most, and at least.
const FREE_MAX: usize = 256;
const FREE_MIN: usize = 8;

/// A pool of places for futures of one type, made by `make` from `A`.
pub struct Slots<A, F: Future, M: Fn(A) -> F> {
    make: M,
    free: RefCell<Spare<Pin<Box<Option<F>>>>>,
    _argument: std::marker::PhantomData<fn(A)>,
}

/// Something that runs `A` to its output: [`Slots`] without its unnameable types.
pub trait Run<A> {
    /// What comes out.
    type Output;
    /// Runs in a pooled slot.
    fn run(&self, argument: A) -> impl Future<Output = Self::Output>;
}

impl<A, F: Future, M: Fn(A) -> F> Slots<A, F, M> {
    /// An empty pool.
    pub fn new(make: M) -> Slots<A, F, M> {
        Slots {
            make,
            free: RefCell::new(Spare::new(FREE_MAX, FREE_MIN)),
            _argument: std::marker::PhantomData,
        }
    }
}

impl<A, F: Future, M: Fn(A) -> F> Trim for Slots<A, F, M> {
    /// Gives slots that nobody needs back to the allocator.
    fn trim(&self) {
        self.free.borrow_mut().trim();
    }
}

impl<A, F: Future, M: Fn(A) -> F> Run<A> for Slots<A, F, M> {
    type Output = F::Output;

    fn run(&self, argument: A) -> impl Future<Output = F::Output> {
        let mut place = self.free.borrow_mut().take().unwrap_or_else(|| Box::pin(None));
        place.as_mut().set(Some((self.make)(argument)));
        Running { slots: self, place: Some(place) }
    }
}

/// A future in its slot; the slot goes back when this is dropped, done or not.
struct Running<'a, A, F: Future, M: Fn(A) -> F> {
    slots: &'a Slots<A, F, M>,
    place: Option<Pin<Box<Option<F>>>>,
}

impl<A, F: Future, M: Fn(A) -> F> Future for Running<'_, A, F, M> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let place = self.place.as_mut().expect("the place is taken only when this is dropped");
        Lines::of(&**place).fetch();
        match place.as_mut().as_pin_mut() {
            Some(future) => future.poll(context),
            None => unreachable!("the place is emptied only when this is dropped"),
        }
    }
}

impl<A, F: Future, M: Fn(A) -> F> Drop for Running<'_, A, F, M> {
    fn drop(&mut self) {
        if let Some(mut place) = self.place.take() {
            place.as_mut().set(None);
            self.slots.free.borrow_mut().give(place);
        }
    }
}
