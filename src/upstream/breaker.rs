//! A circuit breaker: an upstream that fails too often is left alone for a while, then asked again by a few.
//!
//! ```text
//!            failures ≥ share of ≥ least answers          after `rest`
//!   closed ────────────────────────────────────▶ open ────────────────▶ half-open
//!      ▲                                          ▲                        │
//!      │            `probes` answers in order     │      one failure       │
//!      └──────────────────────────────────────────┼────────────────────────┘
//!                                                 └─ rests twice as long
//! ```
//! One for all cores, in a few words that they change by compare-and-swap. Sans-IO: time is passed in.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Parts of the time over which failures are counted.
const BUCKETS: usize = 10;
/// The longest rest is this many times the first.
const REST_FACTOR_MAX: u64 = 32;

/// When it opens and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The share of answers that may fail, in percent; 1 to 100.
    pub failures_percent: u32,
    /// The time over which they are counted, in milliseconds.
    pub over_ms: u64,
    /// Answers in that time below which nothing is concluded.
    pub least: u32,
    /// The first rest, in milliseconds; it doubles while the upstream goes on failing.
    pub rest_ms: u64,
    /// Requests that are let through at once to see whether it has recovered, and answers that say that it has.
    pub probes: u32,
}

impl Settings {
    fn bounded(&self) -> Settings {
        Settings {
            failures_percent: self.failures_percent.clamp(1, 100),
            over_ms: self.over_ms.max(BUCKETS as u64),
            least: self.least.max(1),
            rest_ms: self.rest_ms.max(1),
            probes: self.probes.clamp(1, 100),
        }
    }
}

/// What it says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// Go.
    Yes,
    /// Go, and tell how it went: much depends on it.
    Probe,
    /// Not now; in so many milliseconds perhaps.
    No(u64),
}

/// Where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Requests pass.
    Closed,
    /// None does.
    Open,
    /// A few do.
    HalfOpen,
}

/// A circuit breaker.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    /// [`Word`].
    word: AtomicU64,
    /// By time: its number in the upper half, then failures and answers, 16 bits each that do not overflow.
    buckets: [AtomicU64; BUCKETS],
    /// Times it has opened, for the log and the metrics.
    openings: AtomicU32,
}

/// The state in one word: until when it rests (milliseconds, 40 bits), how often in a row it has opened (8), probes
/// under way (7) and answered (7), the state (2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word {
    until_ms: u64,
    in_a_row: u64,
    under_way: u64,
    answered: u64,
    state: State,
}

impl Word {
    const CLOSED: Word = Word { until_ms: 0, in_a_row: 0, under_way: 0, answered: 0, state: State::Closed };

    fn of(word: u64) -> Word {
        Word {
            until_ms: word >> 24,
            in_a_row: word >> 16 & 0xff,
            under_way: word >> 9 & 0x7f,
            answered: word >> 2 & 0x7f,
            state: match word & 3 {
                0 => State::Closed,
                1 => State::Open,
                _ => State::HalfOpen,
            },
        }
    }

    fn word(self) -> u64 {
        let state = match self.state {
            State::Closed => 0,
            State::Open => 1,
            State::HalfOpen => 2,
        };
        self.until_ms << 24 | self.in_a_row.min(0xff) << 16 | self.under_way << 9 | self.answered << 2 | state
    }
}

impl Breaker {
    /// A closed one.
    pub fn new(settings: Settings) -> Breaker {
        Breaker {
            settings: settings.bounded(),
            word: AtomicU64::new(Word::CLOSED.word()),
            buckets: Default::default(),
            openings: AtomicU32::new(0),
        }
    }

    /// Whether it is one with these settings.
    pub fn is(&self, settings: &Settings) -> bool {
        self.settings == settings.bounded()
    }

    /// Where it stands. An open one whose rest is over is still open until somebody asks.
    pub fn state(&self) -> State {
        Word::of(self.word.load(Ordering::Relaxed)).state
    }

    /// Times it has opened.
    pub fn openings(&self) -> u32 {
        self.openings.load(Ordering::Relaxed)
    }

    /// Whether a request may go. One relaxed load while it is closed.
    pub fn ask(&self, now_ms: u64) -> Pass {
        loop {
            let seen = self.word.load(Ordering::Relaxed);
            let word = Word::of(seen);
            let next = match word.state {
                State::Closed => return Pass::Yes,
                State::Open if now_ms < word.until_ms => return Pass::No(word.until_ms - now_ms),
                State::Open => Word { state: State::HalfOpen, under_way: 1, answered: 0, ..word },
                State::HalfOpen if word.under_way + word.answered >= u64::from(self.settings.probes) => {
                    return Pass::No(self.settings.rest_ms);
                }
                State::HalfOpen => Word { under_way: word.under_way + 1, ..word },
            };
            if self.swap(seen, next) {
                return Pass::Probe;
            }
        }
    }

    /// How a request went that passed with [`Pass::Yes`].
    pub fn tell(&self, failed: bool, now_ms: u64) {
        let (answers, failures) = self.count(failed, now_ms);
        let enough = answers >= self.settings.least;
        if failed && enough && failures * 100 >= answers * self.settings.failures_percent {
            let seen = self.word.load(Ordering::Relaxed);
            if Word::of(seen).state == State::Closed {
                self.open(seen, 0, now_ms);
            }
        }
    }

    /// How a probe went; `None`: nobody knows, its client went away.
    pub fn tell_probe(&self, failed: Option<bool>, now_ms: u64) {
        loop {
            let seen = self.word.load(Ordering::Relaxed);
            let word = Word::of(seen);
            if word.state != State::HalfOpen {
                return;
            }
            let under_way = word.under_way.saturating_sub(1);
            let done = match failed {
                Some(true) => self.open(seen, word.in_a_row + 1, now_ms),
                Some(false) if word.answered + 1 >= u64::from(self.settings.probes) => {
                    let closed = self.swap(seen, Word::CLOSED);
                    if closed {
                        self.buckets.iter().for_each(|bucket| bucket.store(0, Ordering::Relaxed));
                    }
                    closed
                }
                Some(false) => self.swap(seen, Word { under_way, answered: word.answered + 1, ..word }),
                None => self.swap(seen, Word { under_way, ..word }),
            };
            if done {
                return;
            }
        }
    }

    fn open(&self, seen: u64, in_a_row: u64, now_ms: u64) -> bool {
        let factor = 1_u64.checked_shl(in_a_row as u32).unwrap_or(u64::MAX).min(REST_FACTOR_MAX);
        let until_ms = now_ms + self.settings.rest_ms * factor;
        let opened = self.swap(seen, Word { until_ms, in_a_row, state: State::Open, ..Word::CLOSED });
        if opened {
            self.openings.fetch_add(1, Ordering::Relaxed);
        }
        opened
    }

    fn swap(&self, seen: u64, next: Word) -> bool {
        self.word.compare_exchange(seen, next.word(), Ordering::AcqRel, Ordering::Relaxed).is_ok()
    }

    /// Counts an answer; answers and failures of the time that counts.
    fn count(&self, failed: bool, now_ms: u64) -> (u32, u32) {
        let number = now_ms / (self.settings.over_ms / BUCKETS as u64);
        let bucket = &self.buckets[number as usize % BUCKETS];
        let _ = bucket.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            let kept = if word >> 32 == number & 0xffff_ffff { word } else { number << 32 };
            let (failures, answers) = (kept >> 16 & 0xffff, kept & 0xffff);
            // Full: both are halved, the share stays.
            let (failures, answers) =
                if answers == 0xffff { (failures / 2, answers / 2) } else { (failures, answers) };
            Some((kept >> 32) << 32 | (failures + u64::from(failed)) << 16 | (answers + 1))
        });
        if !failed {
            return (0, 0);
        }
        self.buckets.iter().fold((0, 0), |(answers, failures), bucket| {
            let word = bucket.load(Ordering::Relaxed);
            let age = number.wrapping_sub(word >> 32) & 0xffff_ffff;
            match age < BUCKETS as u64 {
                true => (answers + (word & 0xffff) as u32, failures + (word >> 16 & 0xffff) as u32),
                false => (answers, failures),
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SETTINGS: Settings =
        Settings { failures_percent: 50, over_ms: 10_000, least: 10, rest_ms: 1_000, probes: 2 };
    /// Somewhere in the life of a machine.
    const START: u64 = 50_000_000;

    fn opened() -> Breaker {
        let breaker = Breaker::new(SETTINGS);
        (0..10).for_each(|_| breaker.tell(true, START));
        assert_eq!(breaker.state(), State::Open);
        breaker
    }

    #[test]
    fn it_opens_at_the_share_and_not_before_there_is_enough_to_judge() {
        let breaker = Breaker::new(SETTINGS);
        (0..9).for_each(|_| breaker.tell(true, START));
        assert_eq!(breaker.ask(START), Pass::Yes, "nine are not enough");
        (0..10).for_each(|_| breaker.tell(false, START));
        assert_eq!(breaker.ask(START), Pass::Yes);
        breaker.tell(true, START);
        assert_eq!(breaker.ask(START), Pass::No(1_000), "ten of twenty");
        assert_eq!(breaker.openings(), 1);
    }

    #[test]
    fn what_is_long_ago_does_not_count() {
        let breaker = Breaker::new(SETTINGS);
        (0..9).for_each(|_| breaker.tell(true, START));
        breaker.tell(true, START + 11_000);
        assert_eq!(breaker.ask(START + 11_000), Pass::Yes);
    }

    #[test]
    fn after_its_rest_a_few_are_let_through_and_their_answers_close_it() {
        let breaker = opened();
        assert_eq!(breaker.ask(START + 999), Pass::No(1));
        assert_eq!(breaker.ask(START + 1_000), Pass::Probe);
        assert_eq!(breaker.ask(START + 1_000), Pass::Probe);
        assert!(matches!(breaker.ask(START + 1_000), Pass::No(_)), "two at once");
        assert_eq!(breaker.state(), State::HalfOpen);
        breaker.tell_probe(Some(false), START + 1_100);
        breaker.tell_probe(None, START + 1_100);
        assert_eq!(breaker.ask(START + 1_100), Pass::Probe, "the place of one that was never answered");
        breaker.tell_probe(Some(false), START + 1_200);
        assert_eq!(breaker.state(), State::Closed);
        breaker.tell(true, START + 1_200);
        assert_eq!(breaker.ask(START + 1_200), Pass::Yes, "it starts with a clean sheet");
    }

    #[test]
    fn a_probe_that_fails_opens_it_for_twice_as_long() {
        let breaker = opened();
        let mut now = START;
        for rest in [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 32_000] {
            assert_eq!(breaker.ask(now), Pass::No(rest));
            now += rest;
            assert_eq!(breaker.ask(now), Pass::Probe);
            breaker.tell_probe(Some(true), now);
        }
        // What was under way before it opened says nothing any more.
        breaker.tell(true, now);
        breaker.tell_probe(Some(false), now);
        assert_eq!(breaker.state(), State::Open);
    }

    #[test]
    fn counts_do_not_overflow() {
        let breaker = Breaker::new(Settings { least: 1_000_000, ..SETTINGS });
        (0..200_000).for_each(|_| breaker.tell(true, START));
        assert_eq!(breaker.state(), State::Closed);
        let (answers, failures) = breaker.count(true, START);
        assert!(answers == failures && answers > 30_000);
    }
}
