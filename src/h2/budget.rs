//! Budgets: how much of what costs us and serves nobody a peer may send.
//!
//! For: [`super::connection`]. Everything here is legal HTTP/2 when there is little of it. Each budget is a bucket: it bears a
//! burst, refills with time, and refills with useful work, so that what comes in proportion to requests, answers and bodies
//! never empties it. An empty bucket ends the connection with ENHANCE_YOUR_CALM and its own reason.
//!
//! | budget | burst | per second | refilled by | why that is enough |
//! |---|---|---|---|---|
//! | resets before the answer | 256 | 32 | ¼ a stream that ended well | a page that is left takes back all its streams at once (128), twice; a proxy in front of us may lose one in five clients at any rate |
//! | faults that make us reset | 128 | 8 | ¼ a stream that ended well | errors of a program, not of traffic; a proxy in front of us passes on those of its clients |
//! | SETTINGS | 32 | 2 | – | one or two a connection; gRPC adapts its window a dozen times |
//! | PING | 1,024 | 64 | 1 a HEADERS or DATA frame that we sent | gRPC measures with one PING per round trip in which data came |
//! | PRIORITY, PRIORITY_UPDATE | 512 | 32 | 2 a stream | a browser sends a handful at the start, and one or two a stream |
//! | WINDOW_UPDATE | 2,048 | 256 | 2 a stream, 2 a DATA frame that no window cut short, 1 per 256 B sent | the most eager clients grant stream and connection anew for each frame; windows of a few bytes are not eager but an attack |
//! | unknown kinds | 128 | 8 | 1 a stream | GREASE: one a connection or stream |
//! | DATA without data | 128 | 8 | 1 a stream, 1 per 4 KiB received | some end a body with one |
//! | DATA of 1 to 4 bytes, from clients | 1,024 | 128 | 2 a stream, 1 per 1 KiB received | a gRPC message has at least 5 bytes, a WebSocket frame of a client 6; the end of a window can be as small. Servers do send words of text as they come to them, on all streams |
//! | frames on streams that are over, and 256 B of their fields | 16,384 | 1,024 | 64 a stream that we reset, 2 a stream | what is in flight when we reset: windows of many streams, in frames as small as gRPC's |
//! | GOAWAY | 8 | 1 | – | two make a graceful end |
//! | bytes put into the dynamic table | 1 MiB | 128 KiB | 8 KiB a stream | clients that index whatever comes, cookies too (Go's), put in as much as a head has: 4 KiB at most that stay |
//! | bytes of fields beyond the bound of a head | 1 MiB | 64 KiB | – | a head that is too large is refused with 431, not by the connection's end, while it is not absurd |
//! | informational heads, from upstreams | 128 | 16 | 4 a stream | 100 and 103, and some progress with 102 |

use super::flaw::Flaw;

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Budget {
    /// Streams that the peer reset before they were answered.
    Reset,
    /// Streams that we had to reset.
    Fault,
    /// SETTINGS, and the settings in them.
    Settings,
    /// PING.
    Ping,
    /// PRIORITY, PRIORITY_UPDATE.
    Priority,
    /// WINDOW_UPDATE.
    WindowUpdate,
    /// Frames of unknown kinds.
    Unknown,
    /// DATA without data.
    Empty,
    /// DATA of a few bytes.
    Tiny,
    /// Frames on streams that are over.
    Late,
    /// GOAWAY.
    GoAway,
    /// Bytes put into the dynamic table, by [`CHURN_BYTES`].
    Churn,
    /// KiB of fields beyond the bound of a head.
    Excess,
    /// Informational heads, which only upstreams send.
    Informational,
}

/// Budgets there are.
pub const BUDGETS: usize = 14;

/// All of them, in the order of their numbers.
pub const ALL: [Budget; BUDGETS] = [
    Budget::Reset,
    Budget::Fault,
    Budget::Settings,
    Budget::Ping,
    Budget::Priority,
    Budget::WindowUpdate,
    Budget::Unknown,
    Budget::Empty,
    Budget::Tiny,
    Budget::Late,
    Budget::GoAway,
    Budget::Churn,
    Budget::Excess,
    Budget::Informational,
];

/// DATA with less data than this, and some, is tiny.
pub const TINY_BYTES: u32 = 5;

/// So many bytes put into the dynamic table are one of [`Budget::Churn`].
pub const CHURN_BYTES: u32 = 64;

/// So many bytes of a field block for a stream that is over are one more of [`Budget::Late`].
pub const LATE_BYTES: u32 = 256;

/// Units of a ledger in one charge, so that a quarter can be earned.
const SCALE: u32 = 4;

impl Budget {
    /// The burst that is borne.
    pub const fn burst(self) -> u32 {
        self.law().0
    }

    /// What refills it each second.
    pub const fn per_second(self) -> u32 {
        self.law().1
    }

    /// What it is when it is empty.
    pub const fn flaw(self) -> Flaw {
        self.law().2
    }

    const fn law(self) -> (u32, u32, Flaw) {
        match self {
            Budget::Reset => (256, 32, Flaw::ResetFlood),
            Budget::Fault => (128, 8, Flaw::FaultFlood),
            Budget::Settings => (32, 2, Flaw::SettingsFlood),
            Budget::Ping => (1_024, 64, Flaw::PingFlood),
            Budget::Priority => (512, 32, Flaw::PriorityFlood),
            Budget::WindowUpdate => (2_048, 256, Flaw::WindowUpdateFlood),
            Budget::Unknown => (128, 8, Flaw::UnknownFlood),
            Budget::Empty => (128, 8, Flaw::EmptyFlood),
            Budget::Tiny => (1_024, 128, Flaw::TinyFlood),
            Budget::Late => (16_384, 1_024, Flaw::LateFlood),
            Budget::GoAway => (8, 1, Flaw::GoAwayFlood),
            Budget::Churn => (16_384, 2_048, Flaw::TableChurn),
            Budget::Excess => (1_024, 64, Flaw::FieldBomb),
            Budget::Informational => (128, 16, Flaw::InformationalFlood),
        }
    }
}

/// One bucket.
#[derive(Clone, Copy, Debug, Default)]
struct Ledger {
    /// What is missing from the full bucket, in quarters.
    spent: u32,
    /// Until when time has refilled it: the low half of monotonic milliseconds.
    at_ms: u32,
    /// Charges so far.
    total: u32,
}

/// The buckets of one connection: 168 bytes.
#[derive(Clone, Debug)]
pub struct Budgets {
    ledgers: [Ledger; BUDGETS],
}

impl Budgets {
    /// Full ones.
    pub fn new() -> Budgets {
        Budgets { ledgers: [Ledger::default(); BUDGETS] }
    }

    /// Takes so many from a bucket.
    ///
    /// # Errors
    /// There are not so many in it.
    pub fn charge(&mut self, budget: Budget, count: u32, now_ms: u64) -> Result<(), Flaw> {
        let ledger = &mut self.ledgers[budget as usize];
        ledger.total = ledger.total.wrapping_add(count);
        ledger.refill(budget.per_second(), now_ms as u32);
        ledger.spent = ledger.spent.saturating_add(count.saturating_mul(SCALE));
        if ledger.spent > budget.burst() * SCALE { Err(budget.flaw()) } else { Ok(()) }
    }

    /// Puts so many quarters of one back.
    pub fn earn(&mut self, budget: Budget, quarters: u32) {
        let ledger = &mut self.ledgers[budget as usize];
        ledger.spent = ledger.spent.saturating_sub(quarters);
    }

    /// Puts so many back.
    pub fn earn_whole(&mut self, budget: Budget, count: u32) {
        self.earn(budget, count.saturating_mul(SCALE));
    }

    /// What was ever charged, modulo 2^32.
    pub fn total(&self, budget: Budget) -> u32 {
        self.ledgers[budget as usize].total
    }
}

impl Default for Budgets {
    fn default() -> Budgets {
        Budgets::new()
    }
}

impl Ledger {
    fn refill(&mut self, per_second: u32, now_ms: u32) {
        // A caller whose clock seems to go back is none the richer for it.
        let elapsed_ms = now_ms.wrapping_sub(self.at_ms);
        let elapsed_ms = if elapsed_ms > u32::MAX / 2 { 0 } else { elapsed_ms };
        if self.spent == 0 {
            self.at_ms = now_ms;
        } else if elapsed_ms != 0 {
            let rate = u64::from(per_second * SCALE);
            let quarters = u64::from(elapsed_ms) * rate / 1000;
            if quarters >= u64::from(self.spent) {
                self.spent = 0;
                self.at_ms = now_ms;
            } else if quarters != 0 {
                self.spent -= quarters as u32;
                // Only the time that made whole quarters is used up: slow drips would otherwise never add up.
                // Rounded up, so that it is never more than was said.
                self.at_ms = self.at_ms.wrapping_add((quarters * 1000).div_ceil(rate) as u32);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_borne_and_the_next_is_not() {
        for (number, budget) in ALL.into_iter().enumerate() {
            assert_eq!(budget as usize, number);
            let mut budgets = Budgets::new();
            for _ in 0..budget.burst() {
                assert_eq!(budgets.charge(budget, 1, 7), Ok(()));
            }
            assert_eq!(budgets.charge(budget, 1, 7), Err(budget.flaw()));
            assert_eq!(budgets.total(budget), budget.burst() + 1);
        }
    }

    #[test]
    fn time_refills_exactly() {
        for budget in ALL {
            let mut budgets = Budgets::new();
            budgets.charge(budget, budget.burst(), 5).unwrap();
            // In steps of a millisecond, so that nothing may be lost by rounding.
            let mut charged = 0_u32;
            for now_ms in 5..=10_005 {
                loop {
                    let mut tried = budgets.clone();
                    if tried.charge(budget, 1, now_ms).is_err() {
                        break;
                    }
                    budgets = tried;
                    charged += 1;
                }
            }
            let most = budget.per_second() * 10;
            assert!((most * 95 / 100 - 1..=most + 1).contains(&charged), "{budget:?}: {charged} of {most}");
        }
    }

    #[test]
    fn a_full_bucket_holds_no_more_than_its_burst() {
        let mut budgets = Budgets::new();
        budgets.charge(Budget::Ping, 1, 0).unwrap();
        budgets.earn_whole(Budget::Ping, 1_000_000);
        assert_eq!(budgets.charge(Budget::Ping, Budget::Ping.burst(), 1_000_000_000), Ok(()));
        assert_eq!(budgets.charge(Budget::Ping, 1, 1_000_000_000), Err(Flaw::PingFlood));
        assert_eq!(budgets.charge(Budget::Ping, u32::MAX, 2_000_000_000), Err(Flaw::PingFlood));
    }

    #[test]
    fn a_clock_that_goes_back_refills_nothing() {
        let mut budgets = Budgets::new();
        budgets.charge(Budget::Reset, Budget::Reset.burst(), 5_000).unwrap();
        for now_ms in [4_999, 0, u64::from(u32::MAX), 5_000] {
            assert!(budgets.clone().charge(Budget::Reset, 1, now_ms).is_err(), "{now_ms}");
        }
        assert!(budgets.charge(Budget::Reset, 32, 6_000).is_ok());
    }

    #[test]
    fn four_quarters_are_one() {
        let mut budgets = Budgets::new();
        budgets.charge(Budget::Reset, Budget::Reset.burst(), 0).unwrap();
        budgets.earn(Budget::Reset, 3);
        assert!(budgets.clone().charge(Budget::Reset, 1, 0).is_err());
        budgets.earn(Budget::Reset, 1);
        assert!(budgets.charge(Budget::Reset, 1, 0).is_ok());
    }
}
