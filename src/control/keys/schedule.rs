//! When a key set is fetched: time in, decisions out. No clock, no socket.
//!
//! The laws: a success is good for its `max-age`, bounded and shortened by jitter; a failure is tried again
//! after a pause that doubles; an unknown key id causes at most one fetch per cool-down, and an id that was seen
//! during the cool-down is not forgotten but served when it ends.

use std::time::{Duration, Instant};

/// The times of a schedule.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The least time between two fetches that unknown key ids cause. Default 30 s.
    pub cool_down: Duration,
    /// The shortest life of a fetched set. Default 5 min.
    pub life_min: Duration,
    /// The longest life of a fetched set. Default 24 h.
    pub life_max: Duration,
    /// The life where the issuer states none. Default 1 h.
    pub life_default: Duration,
    /// The first pause after a failure while no keys are known; it doubles up to `retry_max`. Default 1 s.
    /// With keys known the first pause is the cool-down: there is no hurry, and an attacker's key ids must not
    /// turn a dead issuer into a busy one.
    pub retry_min: Duration,
    /// The longest pause after failures. Default 5 min.
    pub retry_max: Duration,
}

impl Default for Times {
    fn default() -> Times {
        Times {
            cool_down: Duration::from_secs(30),
            life_min: Duration::from_secs(5 * 60),
            life_max: Duration::from_secs(24 * 3600),
            life_default: Duration::from_secs(3600),
            retry_min: Duration::from_secs(1),
            retry_max: Duration::from_secs(5 * 60),
        }
    }
}

/// Why a fetch begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It was time: a regular refresh, a retry, a changed file.
    Due,
    /// Only because of an unknown key id.
    Asked,
}

/// The state of one keeper's clock.
#[derive(Debug)]
pub struct Schedule {
    times: Times,
    refresh_at: Instant,
    cool_until: Instant,
    asked: bool,
    failures: u32,
    has_keys: bool,
    random: u64,
}

impl Schedule {
    /// A schedule whose first fetch is due at once. `seed` spreads the fetches of many nodes.
    pub fn new(times: Times, now: Instant, seed: u64) -> Schedule {
        Schedule {
            times,
            refresh_at: now,
            cool_until: now,
            asked: false,
            failures: 0,
            has_keys: false,
            random: seed | 1,
        }
    }

    /// Somebody saw a key id that the set does not have.
    pub fn ask(&mut self) {
        self.asked = true;
    }

    /// The file changed: a fetch is due at once.
    pub fn reread(&mut self, now: Instant) {
        self.refresh_at = self.refresh_at.min(now);
    }

    /// When the next fetch is due.
    pub fn due(&self) -> Instant {
        match self.asked {
            true => self.refresh_at.min(self.cool_until),
            false => self.refresh_at,
        }
    }

    /// A fetch begins. It serves every ask up to now.
    pub fn begin(&mut self, now: Instant) -> Cause {
        let cause = if self.refresh_at <= now { Cause::Due } else { Cause::Asked };
        if self.asked {
            self.asked = false;
            self.cool_until = now + self.times.cool_down;
        }
        cause
    }

    /// The fetch brought a usable set that its issuer calls fresh for `max_age`.
    pub fn succeeded(&mut self, now: Instant, max_age: Option<Duration>) {
        self.failures = 0;
        self.has_keys = true;
        let life = max_age.unwrap_or(self.times.life_default);
        let life = life.clamp(self.times.life_min, self.times.life_max);
        // Up to a tenth earlier, so that nodes started together do not fetch together.
        let jitter = self.jitter(life / 10);
        self.refresh_at = now + (life - jitter).max(self.times.life_min);
    }

    /// The fetch failed, or what it brought is not usable.
    pub fn failed(&mut self, now: Instant) {
        let first = match self.has_keys {
            true => self.times.cool_down.max(self.times.retry_min),
            false => self.times.retry_min,
        };
        let pause = first.saturating_mul(1 << self.failures.min(16)).min(self.times.retry_max.max(first));
        self.failures += 1;
        self.refresh_at = now + pause + self.jitter(pause / 10);
    }

    fn jitter(&mut self, most: Duration) -> Duration {
        // xorshift64: spread, not secrecy.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        most.mul_f64((self.random >> 11) as f64 / (1_u64 << 53) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule() -> (Schedule, Instant) {
        let now = Instant::now();
        (Schedule::new(Times::default(), now, 42), now)
    }

    /// Plays `asks` per second for `seconds`, each fetch ending as `succeeds` says; returns the times of fetches.
    fn play(schedule: &mut Schedule, start: Instant, seconds: u32, asks: u32, succeeds: bool) -> Vec<u32> {
        let mut fetches = Vec::new();
        for second in 0..seconds {
            let now = start + SECOND * second;
            for _ in 0..asks {
                schedule.ask();
            }
            if schedule.due() <= now {
                schedule.begin(now);
                fetches.push(second);
                match succeeds {
                    true => schedule.succeeded(now, None),
                    false => schedule.failed(now),
                }
            }
        }
        fetches
    }

    #[test]
    fn the_first_fetch_is_due_at_once() {
        let (schedule, now) = schedule();
        assert_eq!(schedule.due(), now);
    }

    #[test]
    fn forged_ids_cause_one_fetch_per_cool_down() {
        let (mut schedule, now) = schedule();
        schedule.begin(now);
        schedule.succeeded(now, None);
        assert_eq!(play(&mut schedule, now, 120, 1000, true), [0, 30, 60, 90]);
    }

    #[test]
    fn forged_ids_cause_no_more_at_a_dead_issuer() {
        let (mut schedule, now) = schedule();
        schedule.begin(now);
        schedule.succeeded(now, None);
        let fetches = play(&mut schedule, now, 600, 1000, false);
        assert_eq!(fetches[..2], [0, 30]);
        for pair in fetches.windows(2) {
            assert!(pair[1] - pair[0] >= 30, "{fetches:?}");
        }
    }

    #[test]
    fn an_id_after_a_quiet_cool_down_is_served_at_once() {
        let (mut schedule, now) = schedule();
        schedule.begin(now);
        schedule.succeeded(now, None);
        let later = now + 40 * SECOND;
        schedule.ask();
        assert!(schedule.due() <= later);
        schedule.begin(later);
        schedule.succeeded(later, None);
        schedule.ask();
        assert_eq!(schedule.due(), later + 30 * SECOND, "remembered until the cool-down ends");
    }

    #[test]
    fn the_life_of_a_set_is_bounded() {
        let minute = 60 * SECOND;
        for (max_age, least, most) in [
            (Some(Duration::ZERO), 5 * minute, 5 * minute),
            (Some(5 * minute - SECOND), 5 * minute, 5 * minute),
            (Some(100 * minute), 90 * minute, 100 * minute),
            (None, 54 * minute, 60 * minute),
            (Some(Duration::from_secs(u32::MAX.into())), 21 * 60 * minute, 24 * 60 * minute),
        ] {
            let (mut schedule, now) = schedule();
            schedule.succeeded(now, max_age);
            let life = schedule.due() - now;
            assert!((least..=most).contains(&life), "{max_age:?}: {life:?}");
        }
    }

    #[test]
    fn failures_at_start_are_tried_again_soon_then_slower() {
        let (mut schedule, mut now) = schedule();
        let mut pauses = Vec::new();
        for _ in 0..12 {
            schedule.failed(now);
            pauses.push((schedule.due() - now).as_secs());
            now = schedule.due();
        }
        assert_eq!(pauses[..4], [1, 2, 4, 8]);
        assert!(pauses[11] >= 300 && pauses[11] <= 330, "{pauses:?}");
    }

    #[test]
    fn a_changed_file_is_read_at_once() {
        let (mut schedule, now) = schedule();
        schedule.succeeded(now, None);
        schedule.reread(now + SECOND);
        assert_eq!(schedule.due(), now + SECOND);
    }
}
