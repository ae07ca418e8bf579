//! How much a peer must take within how much time, to be let go on beyond its deadline.
//!
//! For: sockets, whose peers acknowledge, and streams, whose peers open windows; the sweep asks ([`super::sweep::Watched`]). Not for:
//! which deadline that is. Nothing is asked of anybody for what goes quickly: the sweep notes where the peer stands when it first
//! comes by, a few seconds later at most.

use std::cell::Cell;

use crate::worker::Deadline;
use crate::worker::sweep::Due;

/// What a peer owes while its deadline runs, if anything.
#[derive(Debug, Default)]
pub struct Pace {
    owes: Cell<bool>,
    debt: Cell<Debt>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Debt {
    /// What the peer had taken when it was last looked at, and whether it was.
    from: u64,
    noted: bool,
    /// What a window costs, in bytes, and how long it is, in milliseconds.
    bytes: u32,
    window_ms: u32,
    /// When it ends for good, monotonic milliseconds.
    end_ms: u64,
}

impl Pace {
    /// At least `bytes` are owed by the deadline that was set just now, and in each further `window_ms`, up to `end_ms` (monotonic
    /// milliseconds).
    pub fn set(&self, bytes: u32, window_ms: u32, end_ms: u64) {
        self.owes.set(true);
        self.debt.set(Debt { from: 0, noted: false, bytes, window_ms, end_ms });
    }

    /// Nothing is owed: the deadline is one.
    pub fn clear(&self) {
        self.owes.set(false);
    }

    /// Notes where the peer stands, unless that is known or of no importance. `taken`: all that it has taken until now.
    pub fn note(&self, taken: impl FnOnce() -> u64) {
        let debt = self.debt.get();
        if self.owes.get() && !debt.noted {
            self.debt.set(Debt { from: taken(), noted: true, ..debt });
        }
    }

    /// The deadline `due` has passed: until when the peer may go on, because it has taken what it owed (or because nobody knows
    /// where it stood before); `None`: it has not.
    pub fn reprieve(&self, due: &Due, now_ms: u64, taken: impl FnOnce() -> u64) -> Option<u64> {
        let debt = self.debt.get();
        if !self.owes.get() || now_ms >= debt.end_ms {
            return None;
        }
        let taken = taken();
        if debt.noted && taken < debt.from + u64::from(debt.bytes) {
            return None;
        }
        self.debt.set(Debt { from: taken, noted: true, ..debt });
        let window_ends_ms = now_ms + u64::from(debt.window_ms);
        if window_ends_ms >= debt.end_ms {
            due.set_kind(Deadline::Lifetime);
        }
        Some(window_ends_ms.min(debt.end_ms))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_takes_what_it_owes_goes_on_until_the_end() {
        let (pace, due) = (Pace::default(), Due::default());
        assert_eq!(pace.reprieve(&due, 10, || 0), None, "nothing was agreed");
        pace.set(100, 1_000, 3_500);
        pace.note(|| 50);
        pace.note(|| unreachable!("it is known"));
        assert_eq!(pace.reprieve(&due, 1_000, || 150), Some(2_000));
        assert_eq!(pace.reprieve(&due, 2_000, || 249), None, "a byte too few");
        assert_eq!(pace.reprieve(&due, 2_000, || 250), Some(3_000));
        assert_eq!(due.kind(), Deadline::First);
        assert_eq!(pace.reprieve(&due, 3_000, || 350), Some(3_500));
        assert_eq!(due.kind(), Deadline::Lifetime);
        assert_eq!(pace.reprieve(&due, 3_500, || 10_000), None);
        // Where nobody has looked before, the first window is free.
        pace.set(100, 1_000, 9_000);
        assert_eq!(pace.reprieve(&due, 1_000, || 0), Some(2_000));
        assert_eq!(pace.reprieve(&due, 2_000, || 99), None);
        pace.clear();
        assert_eq!(pace.reprieve(&due, 2_000, || 999), None);
    }
}
