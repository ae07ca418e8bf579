//! How many requests an upstream can work on at once, found by how long it takes to answer.
//!
//! Beyond what it can do at once requests only wait in it: answers take longer, and no more of them come. So the limit is
//! lowered as answers take longer than they do without a queue, and raised by the root of itself where they do not (the
//! gradient of Netflix's concurrency-limits and Envoy's adaptive concurrency). What an answer takes without a queue is
//! measured anew now and then, with half as many requests for a moment. Sans-IO: times and counts are passed in; the cores
//! tell what they saw ten times a second, and one of them at a time draws the conclusion.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// The limit at the start.
pub const LIMIT_START: u32 = 32;
/// It never goes below.
pub const LIMIT_MIN: u32 = 2;
/// It never goes above.
pub const LIMIT_MAX: u32 = 16_384;
/// A conclusion is drawn at most that often, in milliseconds.
const WINDOW_MS: u64 = 100;
/// Answers below which a window says nothing.
const ANSWERS_MIN: u32 = 10;
/// A window that has lasted so many milliseconds is judged by whatever answers it has.
const WINDOW_MS_MAX: u64 = 2_000;
/// What an answer takes without a queue is measured that often, in milliseconds.
const MEASURE_EVERY_MS: u64 = 30_000;
/// Answers may take this much longer than without a queue before the limit is lowered, in percent.
const TOLERANCE_PERCENT: u64 = 25;

/// What is known of one upstream, by all cores.
#[derive(Debug)]
pub struct Adaptive {
    /// One core at a time concludes.
    busy: AtomicBool,
    /// Answers of this window, the sum of what they took, and the most requests in flight that were seen.
    answers: AtomicU32,
    sum_us: AtomicU64,
    in_flight_max: AtomicU32,
    /// When this window began.
    since_ms: AtomicU64,
    /// What an answer takes without a queue; 0 is not known.
    unloaded_us: AtomicU64,
    /// When it was measured.
    measured_ms: AtomicU64,
    /// The limit before it was halved to measure; 0: nothing is being measured.
    limit_before: AtomicU32,
    /// Windows since it was halved: the first lets the queue drain.
    windows: AtomicU32,
}

impl Adaptive {
    /// Nothing is known yet.
    pub fn new() -> Adaptive {
        Adaptive {
            busy: AtomicBool::new(false),
            answers: AtomicU32::new(0),
            sum_us: AtomicU64::new(0),
            in_flight_max: AtomicU32::new(0),
            since_ms: AtomicU64::new(0),
            unloaded_us: AtomicU64::new(0),
            measured_ms: AtomicU64::new(0),
            limit_before: AtomicU32::new(0),
            windows: AtomicU32::new(0),
        }
    }

    /// What a core saw since it told last: answers, the sum of what they took, requests in flight over all cores now.
    pub fn tell(&self, answers: u32, sum_us: u64, in_flight: u32) {
        if answers > 0 {
            self.answers.fetch_add(answers, Ordering::Relaxed);
            self.sum_us.fetch_add(sum_us, Ordering::Relaxed);
        }
        self.in_flight_max.fetch_max(in_flight, Ordering::Relaxed);
    }

    /// The limit from now on, if it is another than `limit`.
    pub fn conclude(&self, limit: u32, now_ms: u64) -> Option<u32> {
        let passed_ms = now_ms.saturating_sub(self.since_ms.load(Ordering::Relaxed));
        let answers = self.answers.load(Ordering::Relaxed);
        let enough = answers >= ANSWERS_MIN || (answers > 0 && passed_ms >= WINDOW_MS_MAX);
        if passed_ms < WINDOW_MS || !enough || self.busy.swap(true, Ordering::Acquire) {
            return None;
        }
        let answers = self.answers.swap(0, Ordering::Relaxed).max(1);
        let took_us = (self.sum_us.swap(0, Ordering::Relaxed) / u64::from(answers)).max(1);
        let in_flight = self.in_flight_max.swap(0, Ordering::Relaxed);
        self.since_ms.store(now_ms, Ordering::Relaxed);
        let next = self.next(limit, took_us, in_flight, now_ms);
        self.busy.store(false, Ordering::Release);
        (next != limit).then_some(next)
    }

    fn next(&self, limit: u32, took_us: u64, in_flight: u32, now_ms: u64) -> u32 {
        let unloaded_us = self.unloaded_us.load(Ordering::Relaxed);
        let before = self.limit_before.load(Ordering::Relaxed);
        if unloaded_us == 0 {
            // The first window: as good a guess as there is.
            self.unloaded_us.store(took_us, Ordering::Relaxed);
            self.measured_ms.store(now_ms, Ordering::Relaxed);
            return limit;
        }
        if before != 0 {
            if self.windows.fetch_add(1, Ordering::Relaxed) == 0 {
                return limit;
            }
            self.unloaded_us.store(took_us, Ordering::Relaxed);
            self.measured_ms.store(now_ms, Ordering::Relaxed);
            self.limit_before.store(0, Ordering::Relaxed);
            return before;
        }
        if took_us < unloaded_us {
            self.unloaded_us.store(took_us, Ordering::Relaxed);
        }
        // While fewer are in flight than may be, answers say what they take without a queue by themselves.
        let at_limit = in_flight.saturating_mul(2) >= limit;
        if now_ms.saturating_sub(self.measured_ms.load(Ordering::Relaxed)) >= MEASURE_EVERY_MS {
            if at_limit {
                self.limit_before.store(limit, Ordering::Relaxed);
                self.windows.store(0, Ordering::Relaxed);
                return (limit / 2).max(LIMIT_MIN);
            }
            self.unloaded_us.store(took_us, Ordering::Relaxed);
            self.measured_ms.store(now_ms, Ordering::Relaxed);
        }
        let tolerated_us = self.unloaded_us.load(Ordering::Relaxed) * (100 + TOLERANCE_PERCENT) / 100;
        let gradient = (tolerated_us as f64 / took_us as f64).clamp(0.5, 1.0);
        if gradient >= 1.0 && !at_limit {
            // Nobody asks for more: nothing says that more would do.
            return limit;
        }
        let limit = f64::from(limit);
        ((limit * gradient + limit.sqrt()) as u32).clamp(LIMIT_MIN, LIMIT_MAX)
    }
}

impl Default for Adaptive {
    fn default() -> Adaptive {
        Adaptive::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An upstream that works on so many at once, each for so many microseconds; the others wait in it.
    struct Model {
        at_once: f64,
        takes_us: f64,
    }

    /// Runs it with `offered` requests that want to be in flight, from `from_ms` for `for_ms`. The limit, and the share of what
    /// the upstream could have answered that it did answer.
    fn run(
        adaptive: &Adaptive,
        model: &Model,
        mut limit: u32,
        offered: u32,
        from_ms: u64,
        for_ms: u64,
    ) -> (u32, f64) {
        let (mut done, mut could) = (0.0, 0.0);
        for now_ms in (from_ms..from_ms + for_ms).step_by(100) {
            let in_flight = f64::from(limit.min(offered));
            let took_us = model.takes_us * (in_flight / model.at_once).max(1.0);
            let rate = in_flight / took_us * 1e6;
            let answers = rate / 10.0;
            done += answers;
            could += model.at_once / model.takes_us * 1e5;
            adaptive.tell(answers as u32, (answers * took_us) as u64, in_flight as u32);
            limit = adaptive.conclude(limit, now_ms).unwrap_or(limit);
        }
        (limit, done / could)
    }

    #[test]
    fn under_overload_the_upstream_is_kept_busy_and_its_queue_short() {
        let model = Model { at_once: 10.0, takes_us: 20_000.0 };
        let adaptive = Adaptive::new();
        // First as many as it can do, then three times that for ten minutes.
        let (limit, _) = run(&adaptive, &model, LIMIT_START, 8, 1_000, 5_000);
        let (limit, goodput) = run(&adaptive, &model, limit, 30, 6_000, 600_000);
        assert!(goodput > 0.97, "{goodput}");
        assert!((10..=25).contains(&limit), "{limit}");
    }

    #[test]
    fn it_follows_an_upstream_that_becomes_able_to_do_more() {
        let adaptive = Adaptive::new();
        let (limit, _) = run(&adaptive, &Model { at_once: 10.0, takes_us: 20_000.0 }, 32, 1_000, 0, 60_000);
        let (limit, _) =
            run(&adaptive, &Model { at_once: 200.0, takes_us: 20_000.0 }, limit, 1_000, 60_000, 60_000);
        assert!(limit >= 190, "{limit}");
    }

    #[test]
    fn an_upstream_that_becomes_slower_for_good_is_not_starved() {
        let adaptive = Adaptive::new();
        let (limit, _) = run(&adaptive, &Model { at_once: 50.0, takes_us: 2_000.0 }, 32, 100, 0, 20_000);
        let slower = Model { at_once: 50.0, takes_us: 40_000.0 };
        let (limit, _) = run(&adaptive, &slower, limit, 100, 20_000, 120_000);
        let (_, goodput) = run(&adaptive, &slower, limit, 100, 140_000, 60_000);
        assert!(goodput > 0.9, "{goodput}");
    }

    #[test]
    fn without_demand_the_limit_stays() {
        let adaptive = Adaptive::new();
        let (limit, _) = run(&adaptive, &Model { at_once: 1e9, takes_us: 1_000.0 }, 32, 4, 0, 300_000);
        assert_eq!(limit, 32);
    }
}
