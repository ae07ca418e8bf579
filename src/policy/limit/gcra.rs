//! The arithmetic of one rate limit: GCRA, the generic cell rate algorithm (ITU-T I.371).
//!
//! A key's whole state is its *theoretical arrival time* (TAT): the moment at which its bucket is full again.
//! A token costs one *emission interval*; a request is admitted if the TAT it leads to lies at most `burst`
//! intervals ahead. A TAT that has passed says nothing: it equals no state at all.
//!
//! Not for: where TATs are kept ([`super::table`]). Called by the table, the leases and the header writers.

/// The longest time that a full burst may take to come back: 2^61 ns, 73 years.
pub const SPAN_NS_MAX: u64 = 1 << 61;

/// How long a core may hold leased tokens, in nanoseconds; together the leases of a key stay below what its
/// rate yields in this time.
pub const LEASE_NS: u64 = 2_000_000;

const SECOND_NS: u128 = 1_000_000_000;

/// `N/period` with a burst, as integers that obey the law.
///
/// The emission interval is `period / N` rounded *up* to a nanosecond, so no window ever yields more than
/// B + N·t/period. The price is that a rate of N per second is served at `1 / ⌈1e9 / N⌉`: less by at most
/// N/1e9, a tenth of a percent at a million a second and nothing where N divides the period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    emission_ns: u64,
    span_ns: u64,
    burst: u64,
    window_s: u64,
    lease_tokens: u32,
}

/// Why a rate cannot be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RateError {
    /// The count, the period or the burst is zero: nothing would ever be admitted.
    Zero,
    /// More than one token per nanosecond.
    TooFast,
    /// A full burst would take longer than [`SPAN_NS_MAX`] to come back.
    TooSlow,
}

impl Rate {
    /// `count` tokens per `period_ns` nanoseconds, at most `burst` at once.
    ///
    /// # Errors
    /// [`RateError`]: a zero, more than one token a nanosecond, or a burst that takes 73 years.
    pub const fn new(count: u64, period_ns: u64, burst: u64) -> Result<Rate, RateError> {
        if count == 0 || period_ns == 0 || burst == 0 {
            return Err(RateError::Zero);
        }
        if count > period_ns {
            return Err(RateError::TooFast);
        }
        let emission_ns = period_ns.div_ceil(count);
        let span = emission_ns as u128 * burst as u128;
        if span > SPAN_NS_MAX as u128 {
            return Err(RateError::TooSlow);
        }
        // From the exact ratio, not from the rounded interval: 100/min says 60 s, not 61.
        let window_s = (burst as u128 * period_ns as u128).div_ceil(count as u128 * SECOND_NS);
        let lease_tokens = LEASE_NS / emission_ns;
        Ok(Rate {
            emission_ns,
            span_ns: span as u64,
            burst,
            window_s: window_s as u64,
            lease_tokens: lease_tokens as u32,
        })
    }

    /// What one token costs: `period / N`, rounded up, in nanoseconds.
    pub const fn emission_ns(&self) -> u64 {
        self.emission_ns
    }

    /// How far a TAT may lie ahead for one more token: `(B − 1)` emission intervals, in nanoseconds.
    pub const fn tolerance_ns(&self) -> u64 {
        self.span_ns - self.emission_ns
    }

    /// How long an empty bucket takes to fill: B emission intervals, in nanoseconds.
    pub const fn span_ns(&self) -> u64 {
        self.span_ns
    }

    /// B: the tokens of a full bucket.
    pub const fn burst(&self) -> u64 {
        self.burst
    }

    /// The time over which `burst` tokens are granted, in whole seconds, rounded up, at least 1.
    pub const fn window_s(&self) -> u64 {
        self.window_s
    }

    /// The tokens that the rate yields within [`LEASE_NS`], rounded down: the bound of all leases of a key.
    pub const fn lease_tokens(&self) -> u32 {
        self.lease_tokens
    }

    /// Takes `tokens` from the bucket whose TAT is `tat_ns`, if at least `reserve` more would remain: the new
    /// TAT, or how long to wait until that could be so.
    ///
    /// # Errors
    /// The nanoseconds (never 0) after which the same call would succeed if nobody else takes a token;
    /// `u64::MAX` if it never would.
    #[inline]
    pub fn advance(&self, tat_ns: u64, tokens: u32, reserve: u32, now_ns: u64) -> Result<u64, u64> {
        let base = tat_ns.max(now_ns);
        // Saturation refuses: at the end of time no TAT is within reach.
        let next = base.saturating_add(self.emission_ns.saturating_mul(tokens as u64));
        let needed = next.saturating_add(self.emission_ns.saturating_mul(reserve as u64));
        let limit = now_ns.saturating_add(self.span_ns);
        if needed <= limit && needed != u64::MAX {
            return Ok(next);
        }
        if needed == u64::MAX || tokens as u64 + reserve as u64 > self.burst {
            return Err(u64::MAX);
        }
        Err(needed - limit)
    }

    /// The tokens that would be admitted at once at `now_ns`: 0..=burst.
    #[inline]
    pub fn remaining(&self, tat_ns: u64, now_ns: u64) -> u64 {
        now_ns.saturating_add(self.span_ns).saturating_sub(tat_ns.max(now_ns)) / self.emission_ns
    }

    /// How long until [`Self::remaining`] is greater by one, in nanoseconds; 0 if the bucket is full.
    #[inline]
    pub fn next_token_ns(&self, tat_ns: u64, now_ns: u64) -> u64 {
        let debt = tat_ns.saturating_sub(now_ns);
        if debt == 0 {
            return 0;
        }
        // Full again one interval at a time: the debt's part of an interval, or a whole one. A debt beyond
        // the span (an overflow cell, a lowered rate) is waited off first.
        match debt.checked_sub(self.span_ns) {
            Some(beyond) => beyond + self.emission_ns,
            None => match debt % self.emission_ns {
                0 => self.emission_ns,
                part => part,
            },
        }
    }

    /// How long until the bucket is full, in nanoseconds.
    #[inline]
    pub fn full_ns(&self, tat_ns: u64, now_ns: u64) -> u64 {
        tat_ns.saturating_sub(now_ns)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const S: u64 = 1_000_000_000;

    #[test]
    fn emission_is_rounded_up_and_the_window_is_not() {
        let rate = Rate::new(7, S, 7).unwrap();
        assert_eq!(rate.emission_ns(), 142_857_143);
        assert_eq!(rate.window_s(), 1);
        let rate = Rate::new(100, 60 * S, 20).unwrap();
        assert_eq!(
            (rate.emission_ns(), rate.window_s(), rate.tolerance_ns()),
            (600_000_000, 12, 19 * 600_000_000)
        );
        assert_eq!(Rate::new(3, 60 * S, 3).unwrap().window_s(), 60);
    }

    #[test]
    fn a_rate_without_meaning_is_refused() {
        assert_eq!(Rate::new(0, S, 1), Err(RateError::Zero));
        assert_eq!(Rate::new(1, 0, 1), Err(RateError::Zero));
        assert_eq!(Rate::new(1, S, 0), Err(RateError::Zero));
        assert_eq!(Rate::new(S + 1, S, 1), Err(RateError::TooFast));
        assert!(Rate::new(S, S, 1).is_ok());
        assert!(Rate::new(1, SPAN_NS_MAX, 1).is_ok());
        assert_eq!(Rate::new(1, SPAN_NS_MAX + 1, 1), Err(RateError::TooSlow));
        assert_eq!(Rate::new(1, u64::MAX, u64::MAX), Err(RateError::TooSlow));
    }

    #[test]
    fn a_burst_then_one_per_interval() {
        let rate = Rate::new(10, S, 3).unwrap();
        let mut tat = 0;
        for left in [2, 1, 0] {
            tat = rate.advance(tat, 1, 0, S).unwrap();
            assert_eq!(rate.remaining(tat, S), left);
        }
        assert_eq!(rate.advance(tat, 1, 0, S), Err(S / 10));
        assert_eq!(rate.next_token_ns(tat, S), S / 10);
        assert_eq!(rate.advance(tat, 1, 0, S + S / 10 - 1), Err(1));
        assert!(rate.advance(tat, 1, 0, S + S / 10).is_ok());
    }

    #[test]
    fn the_end_of_time_refuses() {
        let rate = Rate::new(1, S, 5).unwrap();
        assert_eq!(rate.advance(0, 1, 0, u64::MAX), Err(u64::MAX));
        assert_eq!(rate.advance(u64::MAX, 1, 0, 0), Err(u64::MAX));
        assert_eq!(rate.advance(u64::MAX, 1, 0, u64::MAX), Err(u64::MAX));
        assert_eq!(rate.remaining(u64::MAX, 0), 0);
        assert!(rate.advance(0, 1, 0, u64::MAX - 6 * S).is_ok());
    }

    #[test]
    fn more_than_the_burst_is_never_admitted() {
        let rate = Rate::new(10, S, 3).unwrap();
        assert_eq!(rate.advance(0, 4, 0, S), Err(u64::MAX));
        assert_eq!(rate.advance(0, 1, 3, S), Err(u64::MAX));
        assert!(rate.advance(0, 2, 1, S).is_ok());
    }

    proptest! {
        /// The law in exact integers: n admitted within t means n ≤ B + N·t/period, or n·P ≤ B·P + N·t.
        #[test]
        fn the_law_holds_over_every_window(
            count in 1u64..5_000, period in 5_000u64..10_000_000, burst in 1u64..20,
            gaps in prop::collection::vec(0u64..20_000, 1..300),
        ) {
            let rate = Rate::new(count, period, burst).unwrap();
            let (mut tat, mut now, mut admitted) = (0, 1, Vec::new());
            for gap in gaps {
                now += gap;
                if let Ok(next) = rate.advance(tat, 1, 0, now) {
                    tat = next;
                    admitted.push(now);
                }
            }
            for (i, from) in admitted.iter().enumerate() {
                for (j, to) in admitted.iter().enumerate().skip(i) {
                    let n = (j - i + 1) as u128;
                    prop_assert!(n * period as u128 <= burst as u128 * period as u128 + count as u128 * (to - from) as u128);
                }
            }
        }

        /// Waiting exactly as long as told is admitted; one nanosecond less is not.
        #[test]
        fn a_refusal_names_the_next_admit_time(
            count in 1u64..5_000, period in 5_000u64..10_000_000, burst in 1u64..20,
            ahead in 0u64..100_000_000, now in 0u64..1_000_000,
        ) {
            let rate = Rate::new(count, period, burst).unwrap();
            if let Err(wait) = rate.advance(now + ahead, 1, 0, now) {
                prop_assert!(wait > 0);
                prop_assert!(rate.advance(now + ahead, 1, 0, now + wait).is_ok());
                prop_assert_eq!(rate.advance(now + ahead, 1, 0, now + wait - 1), Err(1));
                prop_assert_eq!(rate.next_token_ns(now + ahead, now), wait);
            }
        }

        /// What is said to remain is what is admitted at once, and a token more comes when said.
        #[test]
        fn remaining_is_what_is_admitted(
            count in 1u64..5_000, period in 5_000u64..10_000_000, burst in 1u64..20,
            ahead in 0u64..100_000_000, now in 0u64..1_000_000,
        ) {
            let rate = Rate::new(count, period, burst).unwrap();
            let tat = now + ahead;
            let left = rate.remaining(tat, now);
            let wait = rate.next_token_ns(tat, now);
            if left < burst {
                prop_assert_eq!(rate.remaining(tat, now + wait), left + 1);
                prop_assert_eq!(rate.remaining(tat, now + wait - 1), left);
            }
            let (mut tat, mut admitted) = (tat, 0);
            while let Ok(next) = rate.advance(tat, 1, 0, now) {
                tat = next;
                admitted += 1;
            }
            prop_assert_eq!(admitted, left);
        }
    }
}
