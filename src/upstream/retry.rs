//! How often requests may be sent again: a budget, so that an upstream in trouble does not get more of it.
//!
//! Of what was asked in the last two to four seconds a share may be asked again, or a few where that share is less, so that a
//! service that is hardly used can be helped at all. Never both: whoever is asked more often than that never gets more than
//! the share on top of it, in any time. The window is long enough for what is in flight when a member dies, short enough not to store up
//! in good times what bad times would get at once. Each core has its own budget: together they hold what each of them holds. Sans-IO.

use std::cell::Cell;

/// The time after which what was asked counts for less.
const WINDOW_MS: u64 = 2_000;

/// When and how often a request is sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Attempts of one exchange, the first among them; 1 sends nothing again.
    pub tries_max: u16,
    /// An attempt that has no answer by then is given up for another, in milliseconds; `None`: only `first_byte` counts.
    pub per_try_ms: Option<u64>,
    /// Statuses that are no answer, if there can be another try.
    pub statuses: Statuses,
    /// The share of requests that may be sent again, in percent.
    pub budget_percent: u32,
    /// Requests that may be sent again where the share is less, per core.
    pub budget_least: u32,
    /// The bound of the first pause before a member is asked that was asked before, in milliseconds; it doubles.
    pub pause_ms: u64,
    /// The bound of all pauses.
    pub pause_max_ms: u64,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            tries_max: 3,
            per_try_ms: None,
            statuses: Statuses::default(),
            budget_percent: 20,
            budget_least: 3,
            pause_ms: 25,
            pause_max_ms: 250,
        }
    }
}

/// A set of statuses from 500 to 599, and 429.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Statuses(u128);

impl Statuses {
    /// Adds a status; false if it cannot be one of them.
    pub fn add(&mut self, status: u16) -> bool {
        let bit = Statuses::bit(status);
        self.0 |= bit;
        bit != 0
    }

    /// Whether `status` is one of them.
    pub fn has(self, status: u16) -> bool {
        self.0 & Statuses::bit(status) != 0
    }

    fn bit(status: u16) -> u128 {
        match status {
            500..=599 => 1 << (status - 500),
            429 => 1 << 127,
            _ => 0,
        }
    }
}

/// What one core may ask again.
#[derive(Debug, Default)]
pub struct Budget {
    window: Cell<u64>,
    /// Requests and retries of this window and the one before.
    now: Cell<(u32, u32)>,
    before: Cell<(u32, u32)>,
}

impl Budget {
    /// A request is sent for the first time.
    pub fn asked(&self, now_ms: u64) {
        self.turn(now_ms);
        let (requests, retries) = self.now.get();
        self.now.set((requests.saturating_add(1), retries));
    }

    /// Whether one may be sent again; it is counted.
    pub fn again(&self, settings: &Settings, now_ms: u64) -> bool {
        self.turn(now_ms);
        let ((requests, retries), (requests_before, retries_before)) = (self.now.get(), self.before.get());
        let asked = u64::from(requests) + u64::from(requests_before);
        let spent = u64::from(retries) + u64::from(retries_before);
        let share = asked * u64::from(settings.budget_percent) / 100;
        let may = share.max(u64::from(settings.budget_least));
        if settings.budget_percent == 0 || spent >= may {
            return false;
        }
        self.now.set((requests, retries.saturating_add(1)));
        true
    }

    fn turn(&self, now_ms: u64) {
        let window = now_ms / WINDOW_MS;
        let passed = window.wrapping_sub(self.window.get());
        if passed == 0 {
            return;
        }
        self.before.set(if passed == 1 { self.now.get() } else { (0, 0) });
        self.now.set((0, 0));
        self.window.set(window);
    }
}

/// The pause before try number `tries` + 1, in milliseconds: anything up to a bound that doubles, chosen by `random`.
pub fn pause_ms(settings: &Settings, tries: u16, random: u64) -> u64 {
    let doubled = settings.pause_ms << u32::from(tries.saturating_sub(1)).min(16);
    let bound = doubled.min(settings.pause_max_ms);
    if bound == 0 { 0 } else { random % (bound + 1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings = Settings {
        tries_max: 3,
        per_try_ms: None,
        statuses: Statuses(0),
        budget_percent: 20,
        budget_least: 10,
        pause_ms: 25,
        pause_max_ms: 250,
    };

    #[test]
    fn a_fifth_may_be_asked_again_or_a_few_where_that_is_more() {
        let again = |asked| {
            let budget = Budget::default();
            (0..asked).for_each(|_| budget.asked(1_000));
            std::iter::repeat_with(|| budget.again(&SETTINGS, 1_000)).take_while(|&may| may).count()
        };
        assert_eq!([0, 1, 49, 50, 54, 55, 10_000].map(again), [10, 10, 10, 10, 10, 11, 2_000]);
    }

    #[test]
    fn in_any_time_no_more_than_a_fifth_is_asked_again() {
        // Bursts, lulls and constant load; everything fails, and is tried as often as it may be.
        for (each, every_ms) in [(1, 7), (1, 60), (400, 1_900), (400, 3_100), (1_000, 6_500), (60, 2_000)] {
            let budget = Budget::default();
            let (mut asked, mut again) = (0_u64, 0_u64);
            for burst in 0..2_000_u64 {
                for _ in 0..each {
                    budget.asked(burst * every_ms);
                    asked += 1;
                }
                // What fails later than it was asked.
                for later_ms in [0, 900, 1_800] {
                    let now_ms = burst * every_ms + later_ms.min(every_ms - 1);
                    again += (0..each).filter(|_| budget.again(&SETTINGS, now_ms)).count() as u64;
                }
            }
            assert!(again * 5 <= asked + 50, "{again} of {asked}, {each} every {every_ms} ms");
            assert!(again * 10 >= asked, "{again} of {asked}: it is of use");
        }
    }

    #[test]
    fn what_was_asked_long_ago_is_no_reason() {
        let budget = Budget::default();
        (0..1_000).for_each(|_| budget.asked(1_000));
        let again =
            |now| std::iter::repeat_with(|| budget.again(&SETTINGS, now)).take_while(|&may| may).count();
        assert_eq!(again(3_000), 200, "the window before counts");
        assert_eq!(again(8_000), 10, "older ones do not");
        assert_eq!(again(8_001), 0);
    }

    #[test]
    fn no_budget_is_none() {
        let budget = Budget::default();
        budget.asked(0);
        assert!(!budget.again(&Settings { budget_percent: 0, ..SETTINGS }, 0));
    }

    #[test]
    fn pauses_double_up_to_their_bound() {
        let longest = |tries| (0..1_000).map(|random| pause_ms(&SETTINGS, tries, random)).max();
        assert_eq!([1, 2, 3, 4, 5, 60_000].map(longest), [25, 50, 100, 200, 250, 250].map(Some));
        assert_eq!(pause_ms(&Settings { pause_ms: 0, ..SETTINGS }, 3, 7), 0);
    }

    #[test]
    fn a_set_of_statuses_has_what_was_added() {
        let mut statuses = Statuses::default();
        assert!(statuses.add(502) && statuses.add(599) && statuses.add(429) && !statuses.add(404));
        assert!(statuses.has(502) && statuses.has(599) && statuses.has(429));
        assert!(!statuses.has(503) && !statuses.has(404) && !statuses.has(627));
    }
}
