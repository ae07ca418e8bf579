//! Large messages take what small ones leave: of each turn of the loop a core gives only so much to them.
//!
//! A piece of a large body is copied by the kernel in one go, twice, and while it is nobody else is served. With many such
//! bodies under way at once every turn would last as long as a piece of each: a small request, which needs about four turns,
//! would wait for hundreds of milliseconds behind downloads that are in no hurry. So a large body asks before
//! each piece ([`Lane`]), and when this turn's share is used up it waits in line, first come, first served, for
//! the next turn. A core that has nothing else to do takes its turns one after the other, and no time is lost.
//!
//! Called by what receives bodies ([`crate::h1::body`]). Not for small messages, which never ask, and no bound on what a
//! client gets: the line only orders.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io;
use std::os::unix::net;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use monoio::net::UnixStream;

use crate::worker::driver::Driver;
use crate::worker::guard::spawn;

/// A message of so many bytes is large; so is one that does not say how long it is, once it has moved as many.
pub const LARGE_FROM: u64 = 128 * 1024;
/// What all large messages of a core may move in one turn, in bytes: about a millisecond of work.
const TURN_BYTES: usize = 2 << 20;
/// The same where a turn is told by the clock, which ticks each millisecond: more than a core can move in that time.
const TICK_BYTES: usize = 4 << 20;
/// Room in the line that a quiet core keeps.
const LINE_KEPT: usize = 256;

thread_local! {
    static LANE: RefCell<Lane> = const { RefCell::new(Lane::new()) };
}

/// Whoever waits for the next turn.
#[derive(Debug)]
struct Waiting {
    bytes: usize,
    waker: Waker,
}

/// What large messages may still move in this turn, and who waits for the next one.
#[derive(Debug)]
struct Lane {
    left: usize,
    line: VecDeque<Waiting>,
    /// The number of the first in line; numbers below it have been let on.
    first: u64,
    /// The task that lets them on, while nobody waits.
    idle: Option<Waker>,
    /// Whether there is such a task.
    running: bool,
}

impl Lane {
    const fn new() -> Lane {
        Lane { left: TURN_BYTES, line: VecDeque::new(), first: 0, idle: None, running: false }
    }

    /// Takes a piece of `bytes` out of this turn's share, unless others wait for theirs or too little is left.
    fn take(&mut self, bytes: usize) -> bool {
        let fits = self.line.is_empty() && self.left >= bytes;
        if fits {
            self.left -= bytes;
        }
        fits
    }

    /// The last place in line.
    fn enter(&mut self, bytes: usize, waker: &Waker) -> u64 {
        self.line.push_back(Waiting { bytes, waker: waker.clone() });
        self.first + self.line.len() as u64 - 1
    }

    /// Whether number `place` has been let on; if not, `waker` will be told.
    fn is_let_on(&mut self, place: u64, waker: &Waker) -> bool {
        let Some(ahead) = place.checked_sub(self.first) else { return true };
        if let Some(waiting) = self.line.get_mut(ahead as usize) {
            waiting.waker.clone_from(waker);
        }
        false
    }

    /// Number `place` does not wait any more.
    fn leave(&mut self, place: u64) {
        let Some(ahead) = place.checked_sub(self.first) else { return };
        if let Some(waiting) = self.line.get_mut(ahead as usize) {
            *waiting = Waiting { bytes: 0, waker: Waker::noop().clone() };
        }
    }

    /// Another turn, with a share of `bytes`: whoever is let on is woken. At least one always is, however large its piece.
    fn turn(&mut self, bytes: usize) {
        self.left = bytes;
        while self.left > 0
            && let Some(next) = self.line.pop_front()
        {
            self.left = self.left.saturating_sub(next.bytes);
            self.first += 1;
            next.waker.wake();
        }
        if self.line.is_empty() {
            self.line.shrink_to(LINE_KEPT);
        }
    }
}

/// Waits until `bytes` more of a large message may be moved on this core. Does not wait while this turn's share lasts.
pub fn share(bytes: usize, driver: Driver) -> Share {
    Share { bytes, driver, place: None }
}

/// See [`share`].
#[derive(Debug)]
pub struct Share {
    bytes: usize,
    driver: Driver,
    /// Its number in line, while it waits.
    place: Option<u64>,
}

impl Future for Share {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let (bytes, waker) = (self.bytes, context.waker());
        let (done, begins) = LANE.with_borrow_mut(|lane| match self.place {
            Some(place) => (lane.is_let_on(place, waker), false),
            None if lane.take(bytes) => (true, false),
            None => {
                self.place = Some(lane.enter(bytes, waker));
                if let Some(idle) = lane.idle.take() {
                    idle.wake();
                }
                (false, !std::mem::replace(&mut lane.running, true))
            }
        });
        if begins {
            spawn(let_on(Running, self.driver));
        }
        if done {
            self.place = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let _ = LANE.try_with(|lane| lane.borrow_mut().leave(place));
        }
    }
}

/// Says that the task has ended when it does, and lets on whoever waits: the next who has to wait starts another.
struct Running;

impl Drop for Running {
    fn drop(&mut self) {
        let _ = LANE.try_with(|lane| {
            let mut lane = lane.borrow_mut();
            lane.running = false;
            lane.idle = None;
            lane.turn(usize::MAX);
            lane.left = TURN_BYTES;
        });
    }
}

/// Opens a turn's share after the other for as long as somebody waits.
async fn let_on(_running: Running, driver: Driver) {
    let next = Next::of(driver);
    loop {
        poll_fn(|context| {
            LANE.with_borrow_mut(|lane| match lane.line.is_empty() {
                true => {
                    lane.idle = Some(context.waker().clone());
                    Poll::Pending
                }
                false => Poll::Ready(()),
            })
        })
        .await;
        let bytes = next.turn().await;
        LANE.with_borrow_mut(|lane| lane.turn(bytes));
    }
}

/// How the next turn of the loop is told.
enum Next {
    /// A descriptor that can always be read: the ring says so when it is asked, and with it whatever else has happened.
    Asked(UnixStream),
    /// By a timer: on epoll nothing that is ready already makes the loop ask the kernel.
    Clock,
}

impl Next {
    fn of(driver: Driver) -> Next {
        let ended = || -> io::Result<UnixStream> { UnixStream::from_std(net::UnixStream::pair()?.0) };
        match driver.wants_nonblocking() {
            true => Next::Clock,
            false => ended().map_or(Next::Clock, Next::Asked),
        }
    }

    /// Waits for it; says what its share is.
    async fn turn(&self) -> usize {
        if let Next::Asked(ended) = self
            && ended.readable(false).await.is_ok()
        {
            return TURN_BYTES;
        }
        monoio::time::sleep(Duration::ZERO).await;
        TICK_BYTES
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;
    use crate::worker::counted::Counted;
    use crate::worker::driver::{Loop, Wanted};

    #[test]
    fn a_turn_lets_on_as_many_as_its_share_has_room_for_in_the_order_in_which_they_came() {
        let mut lane = Lane::new();
        assert!(lane.take(TURN_BYTES) && !lane.take(1));
        let (told, waker) = Counted::new();
        let places: Vec<u64> = (0..6).map(|_| lane.enter(TURN_BYTES / 2, &waker)).collect();
        // What there is belongs to those in line.
        lane.left = TURN_BYTES;
        assert!(!lane.take(1));
        for turn in 1..=3 {
            lane.turn(TURN_BYTES);
            assert_eq!(told.times(), turn * 2);
            for (number, &place) in places.iter().enumerate() {
                assert_eq!(lane.is_let_on(place, &waker), number < turn * 2);
            }
        }
        lane.turn(TURN_BYTES);
        assert!(lane.take(TURN_BYTES), "the whole share, if nobody waits");
    }

    #[test]
    fn a_piece_larger_than_a_share_is_let_on_alone() {
        let mut lane = Lane::new();
        let (told, waker) = Counted::new();
        let places = [lane.enter(TURN_BYTES * 5, &waker), lane.enter(1, &waker)];
        lane.turn(TURN_BYTES);
        assert_eq!(places.map(|place| lane.is_let_on(place, &waker)), [true, false]);
        lane.turn(TURN_BYTES);
        assert!(lane.is_let_on(places[1], &waker));
        assert_eq!(told.times(), 2);
    }

    #[test]
    fn who_leaves_the_line_takes_nothing_of_a_share_and_is_not_woken() {
        let mut lane = Lane::new();
        let ((gone, first), (told, second)) = (Counted::new(), Counted::new());
        let (place, other) = (lane.enter(TURN_BYTES, &first), lane.enter(TURN_BYTES, &second));
        lane.leave(place);
        lane.turn(TURN_BYTES);
        assert_eq!((gone.times(), told.times()), (0, 1));
        assert!(lane.is_let_on(other, &second));
        // Whoever has been let on has no place to leave.
        lane.leave(place);
        assert!(lane.line.is_empty());
    }

    /// Large messages side by side, one that gives up, and a small one that needs four turns of the loop: it is through when
    /// the large ones have had four shares, not four pieces each.
    fn small_before_large(wanted: Wanted) {
        const LARGE: usize = 64;
        const PIECES: usize = 16;
        const PIECE: usize = TURN_BYTES / 2;
        let (mut runtime, choice) = Loop::build(wanted).expect("a loop");
        let driver = choice.driver;
        runtime.block_on(async move {
            let moved = Rc::new(Cell::new(0));
            for _ in 0..LARGE {
                let moved = Rc::clone(&moved);
                monoio::spawn(async move {
                    for _ in 0..PIECES {
                        share(PIECE, driver).await;
                        moved.set(moved.get() + PIECE);
                    }
                });
            }
            let next = Next::of(driver);
            next.turn().await;
            // Dropped while it waits: it must not keep the others from their turn.
            let mut given_up = Box::pin(share(PIECE, driver));
            let waits = poll_fn(|context| Poll::Ready(given_up.as_mut().poll(context).is_pending())).await;
            assert!(waits);
            drop(given_up);
            let (before, mut share) = (moved.get(), 0);
            for _ in 0..4 {
                share = next.turn().await;
            }
            // One more for the turn that was under way, and one for that in which this is looked at.
            assert!(moved.get() - before <= 6 * share, "{} of {share}", moved.get() - before);
            while moved.get() < LARGE * PIECES * PIECE {
                next.turn().await;
            }
        });
        std::mem::forget(runtime);
    }

    #[test]
    fn large_messages_take_turns_and_all_end() {
        // A thread has one loop in its life.
        for wanted in [Wanted::Only(Driver::Epoll), Wanted::Auto] {
            let loops = std::thread::spawn(move || small_before_large(wanted));
            assert!(loops.join().is_ok(), "{wanted:?}");
        }
    }
}
