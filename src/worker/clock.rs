//! Time on a data thread: the only place there that reads a clock.
//!
//! Monotonic nanoseconds are read where a request needs them; wall-clock time is derived from them by an offset that
//! the sweep refreshes ten times a second, so that a request pays for one vDSO read, not two.

use std::cell::Cell;

use crate::sys::thread::{monotonic_ns, unix_ns};

/// The clocks of one core.
#[derive(Debug)]
pub struct Clock {
    /// Unix nanoseconds minus monotonic nanoseconds.
    offset_ns: Cell<u64>,
    /// Monotonic nanoseconds at the last read.
    coarse_ns: Cell<u64>,
}

impl Clock {
    /// A clock that has just been read.
    pub fn new() -> Clock {
        let clock = Clock { offset_ns: Cell::new(0), coarse_ns: Cell::new(0) };
        clock.synchronise();
        clock
    }

    /// Reads the monotonic clock: nanoseconds, the same on all cores.
    pub fn now_ns(&self) -> u64 {
        let now = monotonic_ns();
        self.coarse_ns.set(now);
        now
    }

    /// The last value read on this core: at most a sweep (100 ms) old while nothing happens. Costs a load.
    pub fn coarse_ns(&self) -> u64 {
        self.coarse_ns.get()
    }

    /// Unix nanoseconds at a monotonic moment.
    pub fn unix_ns(&self, monotonic_ns: u64) -> u64 {
        self.offset_ns.get().wrapping_add(monotonic_ns)
    }

    /// Unix seconds now, coarse: for expiry of credentials.
    pub fn unix_seconds(&self) -> u64 {
        self.unix_ns(self.coarse_ns()) / 1_000_000_000
    }

    /// Reads both clocks and remembers how they differ (NTP may have moved one).
    pub fn synchronise(&self) {
        let monotonic = monotonic_ns();
        self.offset_ns.set(unix_ns().wrapping_sub(monotonic));
        self.coarse_ns.set(monotonic);
    }
}

impl Default for Clock {
    fn default() -> Clock {
        Clock::new()
    }
}

/// Unix milliseconds, for threads that have no clock of their own.
pub fn unix_ms() -> u64 {
    unix_ns() / 1_000_000
}
