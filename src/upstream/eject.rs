//! Leaving out a member that fails real requests.
//!
//! So many failures in a row take a member out for a while, for longer each time; one request that goes well while it is in
//! again starts the count anew. Never more than a share of the members is out at once: what the others cannot carry is worse
//! than what one breaks. What is known is shared by the cores. Sans-IO: time is passed in.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::upstream::Members;

/// A member is out for at most so many times the first time.
const FACTOR_MAX: u64 = 30;

/// When a member is left out, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row; 0 never leaves anybody out.
    pub after: u32,
    /// Whether an answer of 500, 502, 503 or 504 is a failure.
    pub server_errors: bool,
    /// The first time, in milliseconds; n times that at the n-th time in a row.
    pub time_ms: u64,
    /// The share of the members that may be out at once, in percent.
    pub most_percent: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings { after: 5, server_errors: false, time_ms: 10_000, most_percent: 50 }
    }
}

/// What is known of one member's last requests.
#[derive(Debug, Default)]
pub struct Record {
    failures: AtomicU32,
    out_until_ms: AtomicU64,
    times: AtomicU32,
    /// Since when it gets requests (again); 0 from the beginning.
    in_since_ms: AtomicU64,
    /// Times it was left out, all in all.
    total: AtomicU32,
}

impl Record {
    /// Whether it is left out now. One relaxed load.
    pub fn is_out(&self, now_ms: u64) -> bool {
        now_ms < self.out_until_ms.load(Ordering::Relaxed)
    }

    /// Times it was left out.
    pub fn total(&self) -> u32 {
        self.total.load(Ordering::Relaxed)
    }

    /// When it is in again, monotonic milliseconds; in the past if it is.
    pub fn out_until_ms(&self) -> u64 {
        self.out_until_ms.load(Ordering::Relaxed)
    }

    /// It answered a request.
    pub fn succeeded(&self, settings: &Settings, now_ms: u64) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if self.times.load(Ordering::Relaxed) != 0 {
            self.forgive(settings, now_ms);
        }
    }

    /// Who has been well for as long as it was out the first time is forgiven one time.
    #[cold]
    fn forgive(&self, settings: &Settings, now_ms: u64) {
        let since = self.in_since_ms.load(Ordering::Relaxed).max(self.out_until_ms());
        if now_ms >= since + settings.time_ms
            && self
                .in_since_ms
                .compare_exchange(
                    self.in_since_ms.load(Ordering::Relaxed),
                    now_ms,
                    Ordering::Relaxed,
                    Ordering::Relaxed,
                )
                .is_ok()
        {
            let _ =
                self.times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |times| times.checked_sub(1));
        }
    }
}

/// Decides for one upstream, one core at a time.
#[derive(Debug, Default)]
pub struct Judge {
    busy: AtomicBool,
}

impl Judge {
    /// The member that `record` belongs to failed a request. Whether it is left out from now on for it.
    pub fn failed(&self, record: &Record, members: &Members, settings: &Settings, now_ms: u64) -> bool {
        let failures = record.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if settings.after == 0 || failures < settings.after || record.is_out(now_ms) {
            return false;
        }
        // Another core decides about another member: this one fails again soon enough.
        if self.busy.swap(true, Ordering::Acquire) {
            return false;
        }
        let count = members.seats.len();
        let out = members.seats.iter().filter(|seat| seat.member.record.is_out(now_ms)).count();
        let may = (out + 1) * 100 <= count * settings.most_percent as usize && !record.is_out(now_ms);
        if may {
            let times = record.times.fetch_add(1, Ordering::Relaxed).saturating_add(1);
            let until_ms = now_ms + settings.time_ms * u64::from(times).min(FACTOR_MAX);
            record.out_until_ms.store(until_ms, Ordering::Relaxed);
            record.in_since_ms.store(until_ms, Ordering::Relaxed);
            record.total.fetch_add(1, Ordering::Relaxed);
            // The first failure after it is in again is enough.
            record.failures.store(settings.after - 1, Ordering::Relaxed);
        }
        self.busy.store(false, Ordering::Release);
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Seat;
    use crate::upstream::member::of_port;

    const SETTINGS: Settings = Settings { after: 3, server_errors: true, time_ms: 1_000, most_percent: 50 };

    fn members(count: u16) -> Members {
        let seats =
            (1..=count).map(|port| Seat { member: of_port(port), weight: 1, priority: 0, host: 0 }).collect();
        let mut members = Members::default();
        members.seats = seats;
        members
    }

    fn fail(judge: &Judge, members: &Members, at: usize, times: u32, now_ms: u64) -> bool {
        (0..times).fold(false, |out, _| {
            judge.failed(&members.seats[at].member.record, members, &SETTINGS, now_ms) || out
        })
    }

    #[test]
    fn failures_in_a_row_take_it_out_for_longer_each_time() {
        let (judge, members) = (Judge::default(), members(2));
        let record = &members.seats[0].member.record;
        assert!(!fail(&judge, &members, 0, 2, 0));
        record.succeeded(&SETTINGS, 0);
        assert!(!fail(&judge, &members, 0, 2, 0), "not in a row");
        assert!(fail(&judge, &members, 0, 1, 5_000));
        assert!(record.is_out(5_999) && !record.is_out(6_000));
        assert!(fail(&judge, &members, 0, 1, 6_000), "the first failure after it is enough");
        assert!(record.is_out(7_999) && !record.is_out(8_000));
        assert_eq!(record.total(), 2);
    }

    #[test]
    fn who_is_well_is_forgiven() {
        let (judge, members) = (Judge::default(), members(2));
        let record = &members.seats[0].member.record;
        fail(&judge, &members, 0, 3, 0);
        record.succeeded(&SETTINGS, 1_999);
        assert_eq!(record.times.load(Ordering::Relaxed), 1, "not well for long enough");
        record.succeeded(&SETTINGS, 2_000);
        assert_eq!(record.times.load(Ordering::Relaxed), 0);
        fail(&judge, &members, 0, 3, 10_000);
        assert_eq!(record.out_until_ms(), 11_000, "as long as the first time");
    }

    #[test]
    fn never_more_than_the_share_is_out() {
        let (judge, three, one) = (Judge::default(), members(4), members(1));
        assert!(!fail(&judge, &one, 0, 100, 0), "never the only one");
        assert!(fail(&judge, &three, 0, 3, 0) && fail(&judge, &three, 1, 3, 0));
        assert!(!fail(&judge, &three, 2, 100, 0) && !fail(&judge, &three, 3, 100, 0));
        // A place becomes free when one is in again.
        assert!(fail(&judge, &three, 2, 1, 1_000));
    }

    #[test]
    fn it_can_be_turned_off() {
        let (judge, members) = (Judge::default(), members(2));
        let off = Settings { after: 0, ..SETTINGS };
        assert!(!(0..100).any(|_| judge.failed(&members.seats[0].member.record, &members, &off, 0)));
    }
}
