//! A bound on requests in flight that holds exactly over all cores, and who waits for a place.
//!
//! The count is one word that all cores change by compare-and-swap: in flight never exceeds the limit, whatever the cores do.
//! Who finds no place stands in the line of its core ([`Line`]), and that core is marked in the same word, in the same step in
//! which the limit is found reached. Whoever gives a place back while a core is marked does not free it but grants it to one
//! of those cores, in turn, and rings its bell. So a line with somebody in it has its core marked or a grant on the way:
//! no place lies idle while somebody waits. On each core it is first come, first served.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};

/// Marks there are; cores whose numbers differ by a multiple of it share one, and may take each other's grants.
pub const MARKS: usize = 32;
const COUNT: u64 = 0xffff_ffff;

/// Places for requests, shared by all cores.
#[derive(Debug)]
pub struct Slots {
    /// In flight in the lower half; the marks of cores where somebody waits in the upper.
    word: AtomicU64,
    limit: AtomicU32,
    waiting: AtomicU32,
    waiting_max: AtomicU32,
    /// Places that are counted as in flight and were granted to a core, by mark.
    granted: [AtomicU32; MARKS],
}

/// What became of a place that was given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Given {
    /// It is free.
    Free,
    /// It is still counted, and for a core with this mark: hand it over.
    To(usize),
}

impl Slots {
    /// So many places, and so many that may wait for one.
    pub fn new(limit: u32, waiting_max: u32) -> Slots {
        Slots {
            word: AtomicU64::new(0),
            limit: AtomicU32::new(limit),
            waiting: AtomicU32::new(0),
            waiting_max: AtomicU32::new(waiting_max),
            granted: Default::default(),
        }
    }

    /// The most requests in flight.
    pub fn limit(&self) -> u32 {
        self.limit.load(Ordering::Relaxed)
    }

    /// Changes the most requests in flight. Those beyond it that are under way end in their own time.
    pub fn set_limit(&self, limit: u32) {
        self.limit.store(limit, Ordering::Relaxed);
    }

    /// Changes how many may wait.
    pub fn set_waiting_max(&self, most: u32) {
        self.waiting_max.store(most, Ordering::Relaxed);
    }

    /// Requests in flight now, places that were granted and not yet taken among them.
    pub fn in_flight(&self) -> u32 {
        (self.word.load(Ordering::Relaxed) & COUNT) as u32
    }

    /// Requests that wait now.
    pub fn waiting(&self) -> u32 {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Takes a place, if one is free and nobody waits for it.
    pub fn take(&self) -> bool {
        let limit = u64::from(self.limit());
        // The marks stand above the count: a word below the limit has none.
        self.change(|word| (word < limit).then_some(word + 1)).is_ok()
    }

    /// Takes a place, or else marks `core` as one where somebody waits.
    fn take_or_mark(&self, core: usize) -> bool {
        let limit = u64::from(self.limit());
        let next = |word: u64| if word & COUNT < limit { word + 1 } else { word | mark(core) };
        self.change(|word| Some(next(word))).is_ok_and(|before| before & COUNT < limit)
    }

    /// Gives a place back, or on: to the next marked core after `core`.
    #[must_use = "a place that is for a core must be handed to it"]
    pub fn give_back(&self, core: usize) -> Given {
        let limit = u64::from(self.limit());
        let next_mark = |word: u64| -> Option<usize> {
            let marks = (word >> 32) as u32;
            let (count, own) = (word & COUNT, core % MARKS);
            // Where the limit was lowered, places end with their requests.
            (marks != 0 && count <= limit)
                .then(|| (own + 1 + marks.rotate_right(own as u32 + 1).trailing_zeros() as usize) % MARKS)
        };
        let before = self.change(|word| {
            Some(match next_mark(word) {
                Some(to) => word & !mark(to),
                None => word & !COUNT | (word & COUNT).saturating_sub(1),
            })
        });
        before.ok().and_then(next_mark).map_or(Given::Free, Given::To)
    }

    /// Grants a counted place to the cores of a mark. Their bells must be rung.
    pub fn grant(&self, mark: usize) {
        self.granted[mark % MARKS].fetch_add(1, Ordering::Release);
    }

    /// Takes the places that were granted to `core`.
    fn take_granted(&self, core: usize) -> u32 {
        let granted = &self.granted[core % MARKS];
        if granted.load(Ordering::Relaxed) == 0 { 0 } else { granted.swap(0, Ordering::Acquire) }
    }

    /// Whether `core` is marked, or has a grant on the way: its line must be looked at again.
    pub fn concerns(&self, core: usize) -> bool {
        self.word.load(Ordering::Acquire) & mark(core) != 0
            || self.granted[core % MARKS].load(Ordering::Acquire) != 0
    }

    fn change(&self, next: impl FnMut(u64) -> Option<u64>) -> Result<u64, u64> {
        self.word.fetch_update(Ordering::AcqRel, Ordering::Acquire, next)
    }
}

fn mark(core: usize) -> u64 {
    1 << (32 + core % MARKS)
}

/// Who waits on one core.
#[derive(Debug, Default)]
pub struct Line {
    waiting: RefCell<VecDeque<Rc<Waiter>>>,
    /// The length from which those who have left are cleared away.
    clear_at: Cell<usize>,
}

/// Those who have left a line stand in it until they are met; at least so many may.
const GONE_MAX: usize = 32;

/// Somebody who waits for a place.
#[derive(Debug, Default)]
pub struct Waiter {
    waker: RefCell<Option<Waker>>,
    state: Cell<State>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Waits,
    /// It has a place and does not know it yet.
    Granted,
    Gone,
}

impl Line {
    /// Stands in line; `None` if as many wait as may.
    pub fn stand(&self, slots: &Slots, core: usize) -> Option<Rc<Waiter>> {
        if slots.waiting.fetch_add(1, Ordering::Relaxed) >= slots.waiting_max.load(Ordering::Relaxed) {
            slots.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let waiter = Rc::new(Waiter::default());
        let mut waiting = self.waiting.borrow_mut();
        if waiting.len() >= self.clear_at.get().max(GONE_MAX) {
            // Somebody patient in front, and behind him many who come and go: never more of them than twice those who wait.
            waiting.retain(|waiter| waiter.state.get() == State::Waits);
            self.clear_at.set(waiting.len() * 2);
        }
        waiting.push_back(Rc::clone(&waiter));
        drop(waiting);
        // A place may have become free since it was looked for: the look and the mark are one step.
        self.look(slots, core, &mut |_| {});
        Some(waiter)
    }

    /// Hands the places that were granted to `core`, and those that are free, to who waits, in order; what nobody here wants
    /// goes to `pass_on`, mark by mark. Called when the bell rang, and ten times a second.
    pub fn look(&self, slots: &Slots, core: usize, pass_on: &mut dyn FnMut(usize)) {
        for _ in 0..slots.take_granted(core) {
            if let Some(next) = self.next() {
                next.grant();
            } else if let Given::To(mark) = slots.give_back(core) {
                slots.grant(mark);
                pass_on(mark);
            }
        }
        while let Some(next) = self.next() {
            if !slots.take_or_mark(core) {
                self.waiting.borrow_mut().push_front(next);
                return;
            }
            next.grant();
        }
    }

    /// Who waits longest, no longer in the line.
    fn next(&self) -> Option<Rc<Waiter>> {
        let mut waiting = self.waiting.borrow_mut();
        while let Some(waiter) = waiting.pop_front() {
            if waiter.state.get() == State::Waits {
                return Some(waiter);
            }
        }
        None
    }
}

impl Waiter {
    fn grant(&self) {
        self.state.set(State::Granted);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Ready with a place, which is the caller's from now on.
    pub fn poll(&self, context: &mut Context<'_>) -> Poll<()> {
        if self.state.get() == State::Granted {
            self.state.set(State::Gone);
            return Poll::Ready(());
        }
        *self.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }

    /// Waits no more; true: it was granted a place that it has not taken, which must be given back.
    #[must_use = "a place that was granted must be given back"]
    pub fn leave(&self, slots: &Slots) -> bool {
        slots.waiting.fetch_sub(1, Ordering::Relaxed);
        self.state.replace(State::Gone) == State::Granted
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn poll(waiter: &Waiter) -> bool {
        waiter.poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn first_come_first_served_and_never_more_than_the_limit() {
        let (slots, line) = (Slots::new(2, 2), Line::default());
        assert!(slots.take() && slots.take() && !slots.take());
        let one = line.stand(&slots, 0).expect("room to wait");
        let two = line.stand(&slots, 0).expect("room to wait");
        assert!(line.stand(&slots, 0).is_none(), "as many wait as may");
        assert_eq!((slots.in_flight(), slots.waiting()), (2, 2));
        assert!(!poll(&one) && !poll(&two));
        assert_eq!(slots.give_back(0), Given::To(0));
        slots.grant(0);
        line.look(&slots, 0, &mut |_| panic!("it is wanted here"));
        assert!(poll(&one) && !poll(&two));
        assert!(!one.leave(&slots), "it has taken its place");
        assert!(!slots.take(), "nobody overtakes");
        assert_eq!(slots.in_flight(), 2);
        // Who leaves without a place leaves nothing behind.
        assert!(!two.leave(&slots));
        assert_eq!(slots.give_back(0), Given::To(0));
        slots.grant(0);
        line.look(&slots, 0, &mut |_| panic!("nobody waits"));
        assert_eq!((slots.in_flight(), slots.waiting()), (1, 0));
        assert!(slots.take() && !slots.concerns(0));
    }

    #[test]
    fn who_comes_and_goes_behind_one_who_waits_leaves_nothing_behind() {
        let (slots, line) = (Slots::new(1, 4), Line::default());
        assert!(slots.take());
        let patient = line.stand(&slots, 0).expect("room");
        for _ in 0..10_000 {
            let waiter = line.stand(&slots, 0).expect("room");
            assert!(!waiter.leave(&slots));
        }
        assert!(line.waiting.borrow().len() <= GONE_MAX + 1, "{} stand there", line.waiting.borrow().len());
        assert_eq!(slots.give_back(0), Given::To(0));
        slots.grant(0);
        line.look(&slots, 0, &mut |_| panic!("it is wanted here"));
        assert!(poll(&patient), "he has not been forgotten");
    }

    #[test]
    fn a_place_goes_to_the_cores_in_turn() {
        let slots = Slots::new(1, 10);
        let lines = [Line::default(), Line::default(), Line::default()];
        assert!(slots.take());
        let waiting: Vec<_> =
            [0, 1, 2].map(|core| lines[core].stand(&slots, core).expect("room")).into_iter().collect();
        let mut at = 0;
        for expected in [1, 2, 0] {
            assert_eq!(slots.give_back(at), Given::To(expected));
            slots.grant(expected);
            lines[expected].look(&slots, expected, &mut |_| {});
            assert!(poll(&waiting[expected]));
            at = expected;
        }
        assert_eq!(slots.give_back(0), Given::Free);
    }

    #[test]
    fn a_grant_that_came_too_late_goes_on_to_another_core() {
        let slots = Slots::new(1, 10);
        let lines = [Line::default(), Line::default()];
        assert!(slots.take());
        let (one, two) = (lines[0].stand(&slots, 0).expect("room"), lines[1].stand(&slots, 1).expect("room"));
        assert_eq!(slots.give_back(1), Given::To(0));
        slots.grant(0);
        assert!(!one.leave(&slots));
        let mut rung = Vec::new();
        lines[0].look(&slots, 0, &mut |mark| rung.push(mark));
        assert_eq!(rung, [1]);
        lines[1].look(&slots, 1, &mut |_| {});
        assert!(poll(&two));
        assert_eq!(slots.in_flight(), 1);
    }

    #[test]
    fn a_lower_limit_is_reached_as_requests_end_and_a_higher_one_lets_in_who_waits() {
        let (slots, line) = (Slots::new(3, 3), Line::default());
        assert!(slots.take() && slots.take() && slots.take());
        let waiter = line.stand(&slots, 0).expect("room");
        slots.set_limit(1);
        assert_eq!([slots.give_back(0), slots.give_back(0)], [Given::Free; 2]);
        assert!(!poll(&waiter));
        assert_eq!(slots.give_back(0), Given::To(0));
        slots.grant(0);
        line.look(&slots, 0, &mut |_| {});
        assert!(poll(&waiter));
        let second = line.stand(&slots, 0).expect("room");
        slots.set_limit(2);
        line.look(&slots, 0, &mut |_| {});
        assert!(poll(&second));
        assert_eq!(slots.in_flight(), 2);
    }

    #[test]
    fn over_many_threads_the_limit_is_exact_and_nobody_is_forgotten() {
        const LIMIT: u32 = 3;
        const THREADS: usize = 4;
        const EACH: u32 = 20_000;
        let slots = Arc::new(Slots::new(LIMIT, 100));
        let inside = Arc::new(AtomicU32::new(0));
        let threads: Vec<_> = (0..THREADS)
            .map(|core| {
                let (slots, inside) = (Arc::clone(&slots), Arc::clone(&inside));
                std::thread::spawn(move || {
                    let line = Line::default();
                    for _ in 0..EACH {
                        if !slots.take() {
                            let waiter = line.stand(&slots, core).expect("room");
                            // The bell is a look at every turn.
                            while !poll(&waiter) {
                                line.look(&slots, core, &mut |_| {});
                                std::thread::yield_now();
                            }
                            assert!(!waiter.leave(&slots));
                        }
                        assert!(inside.fetch_add(1, Ordering::SeqCst) < LIMIT, "more than the limit");
                        inside.fetch_sub(1, Ordering::SeqCst);
                        if let Given::To(mark) = slots.give_back(core) {
                            slots.grant(mark);
                        }
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
        assert!((0..THREADS).all(|core| !slots.concerns(core)), "no grant is left behind");
        assert_eq!((slots.in_flight(), slots.waiting()), (0, 0));
    }
}
