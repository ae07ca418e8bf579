//! Leaving out a member that fails real requests.
//!
//! So many failures in a row take a member out for a while, for longer each time; one request that goes well while it is in
//! again starts the count anew. Never more than a share of the members is out at once: what the others cannot carry is worse
//! than what one breaks. What is known is shared by the cores. Sans-IO: time is passed in.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use crate::upstream::Members;

/// A member is out for at most so many times the first time, and so many times are all that is remembered of it.
const TIMES_MAX: u32 = 30;

/// The time over which shares and times are taken, in milliseconds.
pub const WINDOW_MS: u64 = 5_000;
/// Answers of a member in that time below which nothing is concluded of it.
const ANSWERS_MIN: u32 = 20;
/// What is slow in microseconds is not slow.
const SLOW_US_MIN: u64 = 1_000;

/// When a member is left out, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Failures in a row; 0 never leaves anybody out.
    pub after: u32,
    /// Whether an answer of 500, 502, 503 or 504, or the end of a call with a status that means the like, is a failure.
    pub server_errors: bool,
    /// The first time, in milliseconds; n times that at the n-th time in a row.
    pub time_ms: u64,
    /// The share of the members that may be out at once, in percent.
    pub most_percent: u32,
    /// The share of a member's requests in one [`WINDOW_MS`] that may fail, in percent; 0: any.
    pub failures_percent: u32,
    /// A member is out whose answers take so many times as long as those of the median of the members; 0: never.
    pub slow_factor: u32,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            after: 5,
            server_errors: false,
            time_ms: 10_000,
            most_percent: 50,
            failures_percent: 0,
            slow_factor: 0,
        }
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
    /// Since when it is out, if it is.
    out_since_ms: AtomicU64,
    /// Times it was left out, all in all.
    total: AtomicU32,
    /// Requests of this window, those that failed, and what the others took in microseconds.
    requests: AtomicU32,
    failed: AtomicU32,
    sum_us: AtomicU64,
}

/// What a core saw of a member since it told last.
#[derive(Clone, Copy, Debug, Default)]
pub struct Seen {
    /// Requests.
    pub requests: u32,
    /// Those that failed.
    pub failed: u32,
    /// What the others took, in microseconds.
    pub sum_us: u64,
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

    fn out_since_ms(&self) -> u64 {
        self.out_since_ms.load(Ordering::Relaxed)
    }

    /// When it is in again, monotonic milliseconds; in the past if it is.
    pub fn out_until_ms(&self) -> u64 {
        self.out_until_ms.load(Ordering::Relaxed)
    }

    /// What a core saw; told ten times a second.
    pub fn tell(&self, seen: &Seen) {
        self.requests.fetch_add(seen.requests, Ordering::Relaxed);
        self.failed.fetch_add(seen.failed, Ordering::Relaxed);
        self.sum_us.fetch_add(seen.sum_us, Ordering::Relaxed);
    }

    fn take(&self) -> Seen {
        Seen {
            requests: self.requests.swap(0, Ordering::Relaxed),
            failed: self.failed.swap(0, Ordering::Relaxed),
            sum_us: self.sum_us.swap(0, Ordering::Relaxed),
        }
    }

    /// It gets requests again, or for the first time, since `now_ms`.
    pub fn comes_in(&self, now_ms: u64) {
        self.in_since_ms.store(now_ms, Ordering::Relaxed);
    }

    /// How much of its share it is to get, in percent, where it takes `slow_start_ms` to warm up.
    pub fn warmth_percent(&self, slow_start_ms: u64, now_ms: u64) -> u32 {
        let since_ms = self.in_since_ms.load(Ordering::Relaxed);
        if since_ms == 0 || now_ms >= since_ms + slow_start_ms {
            return 100;
        }
        (now_ms.saturating_sub(since_ms) * 100 / slow_start_ms).clamp(10, 100) as u32
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
        let out = self.leave_out(record, members, settings, now_ms);
        if out {
            // The first failure after it is in again is enough.
            record.failures.store(settings.after - 1, Ordering::Relaxed);
        }
        out
    }

    /// Leaves a member out, if not too many are. Whether it is.
    fn leave_out(&self, record: &Record, members: &Members, settings: &Settings, now_ms: u64) -> bool {
        // Another thread decides about another member: this one fails again soon enough.
        if self.busy.swap(true, Ordering::Acquire) {
            return false;
        }
        let count = members.seats.len();
        let out = members.seats.iter().filter(|seat| seat.member.record.is_out(now_ms)).count();
        let share = |out: usize| out * 100 <= count * settings.most_percent as usize;
        let mut may = share(out + 1) && !record.is_out(now_ms);
        if !may && out > 0 && share(out) && !record.is_out(now_ms) {
            // One that has been out for long may well be better than one that fails now: they change places.
            let outs =
                members.seats.iter().map(|seat| &seat.member).filter(|member| member.record.is_out(now_ms));
            if let Some(longest) =
                outs.filter(|member| member.is_up()).min_by_key(|member| member.record.out_since_ms())
            {
                longest.record.out_until_ms.store(now_ms, Ordering::Relaxed);
                longest.record.in_since_ms.store(now_ms, Ordering::Relaxed);
                may = true;
            }
        }
        if may {
            let next = |times: u32| times.saturating_add(1).min(TIMES_MAX);
            let before =
                record.times.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |times| Some(next(times)));
            let (Ok(before) | Err(before)) = before;
            let until_ms = now_ms + settings.time_ms * u64::from(next(before));
            record.out_until_ms.store(until_ms, Ordering::Relaxed);
            record.in_since_ms.store(until_ms, Ordering::Relaxed);
            record.out_since_ms.store(now_ms, Ordering::Relaxed);
            record.total.fetch_add(1, Ordering::Relaxed);
        }
        self.busy.store(false, Ordering::Release);
        may
    }

    /// Compares the members with each other, once in a window: who fails too often, and who takes too long.
    pub fn compare(&self, members: &Members, settings: &Settings, now_ms: u64) {
        if settings.failures_percent == 0 && settings.slow_factor == 0 {
            return;
        }
        let seen: Vec<Seen> = members.seats.iter().map(|seat| seat.member.record.take()).collect();
        let took = |seen: &Seen| {
            let answers = seen.requests.saturating_sub(seen.failed);
            (answers >= ANSWERS_MIN).then(|| seen.sum_us / u64::from(answers))
        };
        let mut times: Vec<u64> = seen.iter().filter_map(took).collect();
        times.sort_unstable();
        // Of two, the faster one.
        let median = times.get(times.len().saturating_sub(1) / 2).copied();
        for (seat, seen) in members.seats.iter().zip(&seen) {
            let fails = settings.failures_percent > 0
                && seen.requests >= ANSWERS_MIN
                && u64::from(seen.failed) * 100
                    >= u64::from(seen.requests) * u64::from(settings.failures_percent);
            let is_slow = settings.slow_factor > 0
                && times.len() > 1
                && took(seen).zip(median).is_some_and(|(took, median)| {
                    took >= SLOW_US_MIN && took >= median.saturating_mul(u64::from(settings.slow_factor))
                });
            if fails || is_slow {
                self.leave_out(&seat.member.record, members, settings, now_ms);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Seat;
    use crate::upstream::member::of_port;

    const SETTINGS: Settings = Settings {
        after: 3,
        server_errors: true,
        time_ms: 1_000,
        most_percent: 50,
        failures_percent: 40,
        slow_factor: 3,
    };

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
    fn what_is_remembered_of_a_bad_night_is_forgiven_in_as_long_as_it_is_punished() {
        let (judge, members) = (Judge::default(), members(2));
        let record = &members.seats[0].member.record;
        let mut now_ms = 0;
        for _ in 0..1_000 {
            assert!(fail(&judge, &members, 0, 3, now_ms));
            now_ms = record.out_until_ms();
        }
        let punished_ms = now_ms - 1;
        for _ in 0..u64::from(TIMES_MAX) {
            now_ms += SETTINGS.time_ms;
            record.succeeded(&SETTINGS, now_ms);
        }
        assert_eq!(record.times.load(Ordering::Relaxed), 0, "after {punished_ms} ms of it");
        fail(&judge, &members, 0, 3, now_ms);
        assert_eq!(record.out_until_ms() - now_ms, SETTINGS.time_ms, "as long as the first time");
    }

    #[test]
    fn never_more_than_the_share_is_out() {
        let (judge, four, one) = (Judge::default(), members(4), members(1));
        let who = |now| out(&four, now);
        assert!(!fail(&judge, &one, 0, 100, 0), "never the only one");
        assert!(fail(&judge, &four, 0, 3, 0) && fail(&judge, &four, 1, 3, 1));
        // The one that has been out for longest changes places with the next one that fails.
        assert!(fail(&judge, &four, 2, 3, 10));
        assert_eq!(who(10), [1, 2]);
        assert!(fail(&judge, &four, 3, 3, 20));
        assert_eq!(who(20), [2, 3]);
        let (judge, three) = (Judge::default(), members(3));
        let few = Settings { most_percent: 30, ..SETTINGS };
        assert!(
            !(0..100).any(|_| judge.failed(&three.seats[0].member.record, &three, &few, 0)),
            "not one of three"
        );
    }

    #[test]
    fn it_can_be_turned_off() {
        let (judge, members) = (Judge::default(), members(2));
        let off = Settings { after: 0, ..SETTINGS };
        assert!(!(0..100).any(|_| judge.failed(&members.seats[0].member.record, &members, &off, 0)));
    }

    fn saw(members: &Members, at: usize, requests: u32, failed: u32, each_us: u64) {
        let sum_us = u64::from(requests - failed) * each_us;
        members.seats[at].member.record.tell(&Seen { requests, failed, sum_us });
    }

    fn out(members: &Members, now_ms: u64) -> Vec<usize> {
        (0..members.seats.len()).filter(|&at| members.seats[at].member.record.is_out(now_ms)).collect()
    }

    #[test]
    fn one_of_ten_that_fails_or_is_slow_is_out_in_its_window() {
        let (judge, members) = (Judge::default(), members(10));
        for at in 0..10 {
            saw(&members, at, 100, if at == 3 { 50 } else { 1 }, if at == 7 { 9_000 } else { 2_000 });
        }
        judge.compare(&members, &SETTINGS, 5_000);
        assert_eq!(out(&members, 5_500), [3, 7]);
        // What was counted then does not count again.
        judge.compare(&members, &SETTINGS, 7_000);
        assert_eq!(out(&members, 7_000), [0; 0]);
    }

    #[test]
    fn little_says_nothing_and_fast_is_not_slow() {
        let (judge, members) = (Judge::default(), members(4));
        saw(&members, 0, 19, 19, 0);
        saw(&members, 1, 100, 0, 10);
        saw(&members, 2, 100, 0, 900);
        saw(&members, 3, 19, 0, 90_000);
        judge.compare(&members, &SETTINGS, 5_000);
        assert_eq!(out(&members, 5_000), [0; 0]);
        saw(&members, 0, 100, 100, 0);
        judge.compare(&members, &Settings { failures_percent: 0, ..SETTINGS }, 5_000);
        assert_eq!(out(&members, 5_000), [0; 0], "only what is asked for");
    }

    #[test]
    fn all_that_are_slow_are_as_fast_as_each_other() {
        let (judge, members) = (Judge::default(), members(3));
        (0..3).for_each(|at| saw(&members, at, 100, 0, 500_000));
        judge.compare(&members, &SETTINGS, 5_000);
        assert_eq!(out(&members, 5_000), [0; 0]);
    }

    #[test]
    fn who_comes_in_again_warms_up() {
        let record = Record::default();
        assert_eq!(record.warmth_percent(10_000, 5), 100, "at the beginning all are alike");
        record.comes_in(1_000);
        assert_eq!(
            [1_000, 2_000, 6_000, 11_000].map(|now| record.warmth_percent(10_000, now)),
            [10, 10, 50, 100]
        );
    }
}
