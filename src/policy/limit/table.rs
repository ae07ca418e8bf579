//! The node's table of rate-limit states: an arrival time for each key, in [`super::cells`].
//!
//! # Bounds
//! **A cell whose TAT has passed equals no
//! cell**, so only such cells are re-keyed and nothing is ever forgotten. Where all cells of both sets are
//! live, a new key is charged to its home's overflow TAT, together with all others that found no cell there:
//! they may be refused for one another, never admitted. A test measures how often: less than one new key in
//! 100,000 while half of the cells are live.
//!
//! A key that was charged to the overflow keeps that debt when it gets a cell: it starts at the overflow's
//! TAT, or with an empty bucket if that is nearer, since no key of a limit can owe more than a whole bucket.
//! So a slow limit that filled a set costs the keys of a fast one at most their own burst once a cell is free.
//!
//! # Clocks
//! Every call is told the time; the cores' readings may differ, be repeated, or run ahead of each other by
//! up to [`CLOCK_LAG_NS_MAX`]: a cell is re-keyed only when its TAT has passed by that much, so that a core
//! whose reading is old does not admit what another has already forgotten.
//!
//! # Cost
//! A charge is a search and one compare-and-swap; a refusal only reads. O(1), no allocation.
//!
//! Not for: what a limit is (`rate`), nor what it may cost to be wrong ([`super::gcra`] has the law). Called by
//! the limit policies on every core; one instance for keys that anybody can mint, another for identities. A third
//! counts new connections by address, and charges no overflow ([`Table::charge_if_room`]).

use std::fmt;

use super::{
    cells::{CacheLines, Cells, Memory, Place, fingerprint_of, pack, state_of as tat_of},
    fingerprint::{Fingerprint, FingerprintKey, LimitId},
    gcra::Rate,
};

/// By how much the readings of the clock on two cores may differ before the law is bent by the rest: 100 ms.
pub const CLOCK_LAG_NS_MAX: u64 = 100_000_000;

/// A table of rate-limit states; see the module. `M` is the memory it lives in: real cache lines, except in
/// the model that checks its interleavings.
pub struct Table<M = CacheLines>(Cells<M>);

/// What a charge came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// The tokens are taken.
    Admitted(Admitted),
    /// Nothing is taken.
    Refused {
        /// After this many nanoseconds (never 0) the same charge is admitted if nobody else is charged;
        /// `u64::MAX`: never.
        retry_after_ns: u64,
    },
}

/// A charge that was admitted: what to tell the client ([`Rate::remaining`], [`Rate::next_token_ns`] of its
/// TAT), and the receipt for giving it back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The key's TAT after the charge, in nanoseconds of the caller's clock.
    pub tat_ns: u64,
    /// What was paid: tokens times the emission interval.
    pub cost_ns: u64,
    /// When it was paid.
    pub charged_at_ns: u64,
    /// Whether the key's sets were full and the overflow of its home paid.
    pub shared: bool,
}

impl Charge {
    /// The receipt, if admitted.
    pub fn admitted(self) -> Option<Admitted> {
        match self {
            Charge::Admitted(admitted) => Some(admitted),
            Charge::Refused { .. } => None,
        }
    }

    /// Whether the charge was admitted.
    pub fn is_admitted(self) -> bool {
        matches!(self, Charge::Admitted(_))
    }
}

/// What becomes of a key that has no cell and finds none.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Crowded {
    /// It is charged to the overflow of its home.
    Shares,
    /// It is admitted, and charged nothing.
    Passes,
}

impl Table {
    /// A table of at most `bytes` (at least one set of 128), with a random fingerprint key.
    pub fn new(bytes: usize) -> Table {
        Table::with_key(bytes, FingerprintKey::random())
    }

    /// As [`Table::new`] with a given key.
    pub fn with_key(bytes: usize, key: FingerprintKey) -> Table {
        Table(Cells::new(bytes, key))
    }

    /// Whether this machine changes 128 bits without a lock (x86-64 with cmpxchg16b, aarch64). Where it
    /// cannot, the table is correct and slow.
    pub fn is_lock_free() -> bool {
        Cells::is_lock_free()
    }
}

impl<M: Memory> Table<M> {
    /// A table in a given memory.
    pub fn in_memory(memory: M, key: FingerprintKey) -> Table<M> {
        Table(Cells::in_memory(memory, key))
    }

    /// The memory that the table holds, in bytes.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// The keys that it can hold at once, at most.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Who pays for `limit` under `key`, in this table.
    #[inline]
    pub fn fingerprint(&self, limit: LimitId, key: &[u8]) -> Fingerprint {
        self.0.fingerprint(limit, key)
    }

    /// Who pays for `limit` under a key of several parts, in this table.
    #[inline]
    pub fn fingerprint_parts<'k>(
        &self,
        limit: LimitId,
        parts: impl IntoIterator<Item = &'k [u8]>,
    ) -> Fingerprint {
        self.0.fingerprint_parts(limit, parts)
    }

    /// Takes one token of `who`, if its rate has one at `now_ns`.
    #[inline]
    pub fn charge(&self, who: Fingerprint, rate: &Rate, now_ns: u64) -> Charge {
        self.charge_many(who, rate, 1, now_ns)
    }

    /// Takes `tokens` at once, all or none.
    pub fn charge_many(&self, who: Fingerprint, rate: &Rate, tokens: u32, now_ns: u64) -> Charge {
        self.charge_as(who, rate, tokens, Crowded::Shares, now_ns)
    }

    /// As [`Table::charge`], but where all cells of both sets are live a new key is admitted and charged nothing. In a table
    /// that is charged by nothing else nobody is refused for another: for those in which whoever could fill it gains nothing
    /// by what is not counted then.
    #[inline]
    pub fn charge_if_room(&self, who: Fingerprint, rate: &Rate, now_ns: u64) -> Charge {
        self.charge_as(who, rate, 1, Crowded::Passes, now_ns)
    }

    #[inline]
    fn charge_as(&self, who: Fingerprint, rate: &Rate, tokens: u32, crowded: Crowded, now_ns: u64) -> Charge {
        loop {
            if let Some((place, word)) = self.0.find(who) {
                if let Some(charge) = self.advance(place, word, who, rate, (tokens, 0), now_ns) {
                    return charge;
                }
            } else if let Some(charge) = self.insert(who, rate, tokens, crowded, now_ns) {
                return charge;
            }
            // The cell was re-keyed under our hands, or the key inserted: look again.
        }
    }

    /// Takes `tokens` of a key that has a cell of its own, if at least `reserve` would remain; otherwise
    /// nothing. For [`super::Leases`].
    pub(super) fn lease(
        &self,
        who: Fingerprint,
        rate: &Rate,
        tokens: u32,
        reserve: u32,
        now_ns: u64,
    ) -> Option<Admitted> {
        let (place, word) = self.0.find(who)?;
        self.advance(place, word, who, rate, (tokens, reserve), now_ns)?.admitted()
    }

    /// What [`Table::charge`] would come to, without charging.
    pub fn read(&self, who: Fingerprint, rate: &Rate, now_ns: u64) -> Charge {
        let (tat_ns, shared) = match self.0.find(who) {
            Some((_, word)) => (tat_of(word), false),
            None => {
                let overflow_ns = self.0.overflow(self.0.home_of(who));
                match self.0.is_full(who, |word| is_free(word, now_ns)) {
                    true => (overflow_ns, true),
                    false => (inherited(overflow_ns, rate, now_ns), false),
                }
            }
        };
        charged(rate.advance(tat_ns, 1, 0, now_ns), rate, 1, shared, now_ns)
    }

    /// Whether `who` has no cell and would find none: then it pays with all others like it.
    #[cold]
    pub fn overflows(&self, who: Fingerprint, now_ns: u64) -> bool {
        self.0.find(who).is_none() && self.0.is_full(who, |word| is_free(word, now_ns))
    }

    /// Gives back what a charge of `who` took, as if it had not been, as far as that can be known: what time
    /// itself has given back since is not given twice. So the law holds for the charges that remain.
    pub fn refund(&self, who: Fingerprint, charge: &Admitted, now_ns: u64) {
        // Without the charge the bucket might have been full ever since, and have gained nothing: at most
        // the time since the charge may be missing from what it cost.
        let amount_ns = charge.cost_ns.saturating_sub(now_ns.saturating_sub(charge.charged_at_ns));
        if amount_ns == 0 {
            return;
        }
        if charge.shared {
            let home = self.0.home_of(who);
            let overflow_ns = self.0.take_gate(home);
            self.0.leave_gate(home, overflow_ns, overflow_ns.saturating_sub(amount_ns));
            return;
        }
        while let Some((place, mut word)) = self.0.find(who) {
            loop {
                let less = pack(who.bits(), tat_of(word).saturating_sub(amount_ns));
                match self.0.replace(place, word, less) {
                    Ok(()) => return,
                    Err(seen) if fingerprint_of(seen) == who.bits() => word = seen,
                    Err(_) => break,
                }
            }
        }
    }

    /// The share of cells that hold a live TAT, 0 to 1: exact up to 1,024 sets, then an estimate from as
    /// many, evenly spread. For the metric, from the control thread.
    pub fn used_ratio(&self, now_ns: u64) -> f64 {
        self.0.used_ratio(|word| tat_of(word) > now_ns)
    }

    /// Charges the cell as long as it is the key's (tokens to take, tokens that must remain); `None`: it is
    /// no longer.
    #[inline]
    fn advance(
        &self,
        place: Place,
        mut word: u128,
        who: Fingerprint,
        rate: &Rate,
        (tokens, reserve): (u32, u32),
        now_ns: u64,
    ) -> Option<Charge> {
        loop {
            let step = rate.advance(tat_of(word), tokens, reserve, now_ns);
            let Ok(tat_ns) = step else {
                return Some(charged(step, rate, tokens, false, now_ns));
            };
            match self.0.replace(place, word, pack(who.bits(), tat_ns)) {
                Ok(()) => return Some(charged(step, rate, tokens, false, now_ns)),
                Err(seen) if fingerprint_of(seen) == who.bits() => word = seen,
                Err(_) => return None,
            }
        }
    }

    /// Gives the key a cell and charges it; where there is none, as `crowded` says. `None`: the key has a cell by now.
    #[cold]
    fn insert(
        &self,
        who: Fingerprint,
        rate: &Rate,
        tokens: u32,
        crowded: Crowded,
        now_ns: u64,
    ) -> Option<Charge> {
        let home = self.0.home_of(who);
        let overflow_ns = self.0.take_gate(home);
        // Nobody else inserts this key from here on: if it is not here now, it will not come.
        if self.0.find(who).is_some() {
            self.0.leave_gate(home, overflow_ns, overflow_ns);
            return None;
        }
        let start_ns = inherited(overflow_ns, rate, now_ns);
        let step = rate.advance(start_ns, tokens, 0, now_ns);
        // Stored even if refused: from now on the key pays off its own debt, not the overflow's.
        let word = pack(who.bits(), step.unwrap_or(start_ns));
        if self.0.put(who, word, |old| is_free(old, now_ns)).is_some() {
            self.0.leave_gate(home, overflow_ns, overflow_ns);
            return Some(charged(step, rate, tokens, false, now_ns));
        }
        if crowded == Crowded::Passes {
            self.0.leave_gate(home, overflow_ns, overflow_ns);
            return Some(charged(Ok(overflow_ns), rate, 0, true, now_ns));
        }
        let step = rate.advance(overflow_ns, tokens, 0, now_ns);
        self.0.leave_gate(home, overflow_ns, step.unwrap_or(overflow_ns));
        Some(charged(step, rate, tokens, true, now_ns))
    }
}

impl<M: Memory> fmt::Debug for Table<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Table").field(&self.0).finish()
    }
}

#[inline]
fn charged(step: Result<u64, u64>, rate: &Rate, tokens: u32, shared: bool, now_ns: u64) -> Charge {
    match step {
        Ok(tat_ns) => Charge::Admitted(Admitted {
            tat_ns,
            cost_ns: rate.emission_ns().saturating_mul(tokens as u64),
            charged_at_ns: now_ns,
            shared,
        }),
        Err(retry_after_ns) => Charge::Refused { retry_after_ns },
    }
}

/// The TAT with which a key gets a cell in a set whose overflow stands at `overflow_ns`: the most that the
/// key can owe.
#[inline]
fn inherited(overflow_ns: u64, rate: &Rate, now_ns: u64) -> u64 {
    overflow_ns.min(now_ns.saturating_add(rate.span_ns()).saturating_add(CLOCK_LAG_NS_MAX))
}

#[inline]
fn is_free(word: u128, now_ns: u64) -> bool {
    fingerprint_of(word) == 0 || tat_of(word).saturating_add(CLOCK_LAG_NS_MAX) <= now_ns
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const S: u64 = 1_000_000_000;
    const KEY: FingerprintKey = FingerprintKey::fixed(7, 11);

    fn who(number: u64) -> Fingerprint {
        KEY.fingerprint(LimitId::new("test"), &number.to_le_bytes())
    }

    fn one_set() -> Table {
        Table::with_key(1, KEY)
    }

    fn rate(count: u64, burst: u64) -> Rate {
        Rate::new(count, S, burst).unwrap()
    }

    #[test]
    fn memory_is_what_was_given() {
        assert_eq!(Table::new(0).bytes(), 128);
        assert_eq!(Table::new(1_000).bytes(), 896);
        assert_eq!(Table::new(1 << 20).capacity(), (1 << 13) * 7);
        assert!(Table::is_lock_free(), "no 128-bit compare-and-swap on this machine");
    }

    #[test]
    fn reading_does_not_charge() {
        let (table, rate) = (one_set(), rate(1, 1));
        for _ in 0..3 {
            assert!(table.read(who(1), &rate, S).is_admitted());
        }
        assert!(table.charge(who(1), &rate, S).is_admitted());
        assert_eq!(table.read(who(1), &rate, S), Charge::Refused { retry_after_ns: S });
        assert_eq!(table.charge(who(1), &rate, S), Charge::Refused { retry_after_ns: S });
        assert!(table.charge(who(1), &rate, 2 * S).is_admitted());
    }

    #[test]
    fn a_clock_that_stands_still_or_goes_back_admits_no_more() {
        let (table, rate) = (one_set(), rate(10, 5));
        let admitted = (0..100).filter(|_| table.charge(who(1), &rate, 3 * S).is_admitted()).count();
        assert_eq!(admitted, 5);
        let admitted =
            (0..100).filter(|i| table.charge(who(1), &rate, 3 * S - i * S / 100).is_admitted()).count();
        assert_eq!(admitted, 0);
    }

    #[test]
    fn the_end_of_time_refuses() {
        let (table, rate) = (one_set(), rate(1, 3));
        assert!(!table.charge(who(1), &rate, u64::MAX).is_admitted());
        assert!(!table.charge(who(1), &rate, u64::MAX - 1).is_admitted());
        assert!(!table.charge(who(2), &rate, u64::MAX).is_admitted());
    }

    #[test]
    fn a_full_set_charges_new_keys_to_the_overflow_and_forgets_nobody() {
        let (table, rate) = (one_set(), rate(1, 2));
        for key in 0..7 {
            assert!(!table.charge(who(key), &rate, S).admitted().unwrap().shared);
            assert!(table.charge(who(key), &rate, S).is_admitted());
        }
        assert_eq!(table.used_ratio(S), 1.0);
        // Two tokens for all further keys together, none for those that are blocked.
        assert!(table.read(who(100), &rate, S).admitted().unwrap().shared);
        let admitted: Vec<_> =
            (100..120).filter_map(|key| table.charge(who(key), &rate, S).admitted()).collect();
        assert_eq!(admitted.len(), 2);
        assert!(admitted.iter().all(|admitted| admitted.shared));
        assert!((0..7).all(|key| !table.charge(who(key), &rate, S).is_admitted()));
        assert!(!table.read(who(100), &rate, S).is_admitted());
    }

    #[test]
    fn where_a_full_set_charges_nobody_new_keys_pass_and_owe_nothing_later() {
        let (table, rate) = (one_set(), rate(1, 2));
        for key in 0..7 {
            assert_eq!((0..3).filter(|_| table.charge_if_room(who(key), &rate, S).is_admitted()).count(), 2);
        }
        for key in 100..200 {
            let admitted = table.charge_if_room(who(key), &rate, S).admitted().unwrap();
            assert_eq!((admitted.shared, admitted.cost_ns), (true, 0));
            table.refund(who(key), &admitted, S);
        }
        assert!((0..7).all(|key| !table.charge_if_room(who(key), &rate, S).is_admitted()));
        // Free again: a key that passed before starts with a whole bucket.
        let later = 3 * S + CLOCK_LAG_NS_MAX;
        assert_eq!((0..3).filter(|_| table.charge_if_room(who(100), &rate, later).is_admitted()).count(), 2);
    }

    #[test]
    fn a_key_keeps_its_overflow_debt_when_it_gets_a_cell() {
        let (table, short, long) = (one_set(), rate(1, 1), Rate::new(2, 1_000 * S, 2).unwrap());
        for key in 0..7 {
            assert!(table.charge(who(key), &short, S).is_admitted());
        }
        assert!(table.charge(who(50), &long, S).is_admitted());
        assert!(table.charge(who(50), &long, S).is_admitted());
        // The short keys' cells are free by now; a fresh one would admit two at once.
        let later = 3 * S;
        assert!(!table.charge(who(50), &long, later).is_admitted());
        assert!(table.charge(who(50), &long, S + 500 * S).is_admitted());
    }

    #[test]
    fn a_slow_limits_overflow_costs_a_fast_one_at_most_its_burst() {
        let (table, fast, slow) = (one_set(), rate(10, 10), Rate::new(1, 1_000_000 * S, 1).unwrap());
        for key in 0..6 {
            assert!(table.charge(who(key), &slow, S).is_admitted());
        }
        assert!(table.charge(who(6), &fast, S).is_admitted());
        assert!(table.charge(who(50), &slow, S).admitted().unwrap().shared);
        // Cell 6 is free again, the overflow is a million seconds ahead.
        let now = 2 * S;
        assert_eq!(
            table.charge(who(60), &fast, now),
            Charge::Refused { retry_after_ns: fast.emission_ns() + CLOCK_LAG_NS_MAX }
        );
        assert!(table.charge(who(60), &fast, now + fast.emission_ns() + CLOCK_LAG_NS_MAX).is_admitted());
    }

    #[test]
    fn only_a_cell_past_the_clock_lag_is_rekeyed() {
        let (table, rate) = (one_set(), rate(1, 1));
        for key in 0..7 {
            assert!(table.charge(who(key), &rate, S).is_admitted());
        }
        assert!(table.charge(who(10), &rate, 2 * S + CLOCK_LAG_NS_MAX - 1).admitted().unwrap().shared);
        assert!(!table.charge(who(11), &rate, 3 * S + 2 * CLOCK_LAG_NS_MAX).admitted().unwrap().shared);
    }

    #[test]
    fn a_refund_is_as_if_nothing_had_been_charged() {
        let (table, rate) = (one_set(), rate(1, 3));
        let first = table.charge(who(1), &rate, S).admitted().unwrap();
        let second = table.charge(who(1), &rate, S).admitted().unwrap();
        assert_eq!(second.tat_ns, 3 * S);
        table.refund(who(1), &first, S);
        assert_eq!(table.charge(who(1), &rate, S).admitted().unwrap().tat_ns, 3 * S);
        // What time has given back is not given again.
        table.refund(who(1), &second, S + S / 4);
        assert_eq!(table.read(who(1), &rate, S + S / 4).admitted().unwrap().tat_ns, 3 * S + S / 4);
        table.refund(who(1), &second, 2 * S);
        assert_eq!(table.read(who(1), &rate, S + S / 4).admitted().unwrap().tat_ns, 3 * S + S / 4);
    }

    #[test]
    fn a_refund_goes_where_the_charge_went() {
        let (table, rate) = (one_set(), rate(1, 1));
        for key in 0..7 {
            assert!(table.charge(who(key), &rate, S).is_admitted());
        }
        let shared = table.charge(who(10), &rate, S).admitted().unwrap();
        assert!(!table.charge(who(11), &rate, S).is_admitted());
        table.refund(who(10), &shared, S);
        assert!(table.charge(who(11), &rate, S).is_admitted());
        // A refund to a key that is gone changes nothing.
        table.refund(who(99), &Admitted { shared: false, ..shared }, S);
        assert!(!table.charge(who(12), &rate, S).is_admitted());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Charge { key: u64, rate: usize },
        Refund { back: usize },
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0u64..12, 0usize..3).prop_map(|(key, rate)| Step::Charge { key, rate }),
            1 => (0usize..8).prop_map(|back| Step::Refund { back }),
            3 => (0u64..2 * S).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// One thread, room for all keys: the very decisions of the sequential algorithm.
        #[test]
        fn decisions_equal_the_sequential_oracle(steps in prop::collection::vec(step(), 1..400)) {
            let table = Table::with_key(128 * 4096, KEY);
            let rates = [rate(3, 2), rate(1, 4), Rate::new(2, 60 * S, 3).unwrap()];
            let mut oracle: HashMap<u64, u64> = HashMap::new();
            let mut now = S;
            let mut receipts: Vec<(u64, Admitted)> = Vec::new();
            for step in steps {
                match step {
                    Step::Wait(ns) => now += ns,
                    Step::Refund { back } => {
                        if back < receipts.len() {
                            let (key, receipt) = receipts.remove(receipts.len() - 1 - back);
                            table.refund(who(key), &receipt, now);
                            let tat = oracle.entry(key).or_insert(0);
                            *tat -= receipt.cost_ns.saturating_sub(now - receipt.charged_at_ns);
                        }
                    }
                    Step::Charge { key, rate } => {
                        // A key belongs to one limit.
                        let key = key * 3 + rate as u64;
                        let rate = &rates[rate];
                        let tat = oracle.entry(key).or_insert(0);
                        let expected = rate.advance(*tat, 1, 0, now);
                        prop_assert_eq!(table.read(who(key), rate, now).is_admitted(), expected.is_ok());
                        match (table.charge(who(key), rate, now), expected) {
                            (Charge::Admitted(admitted), Ok(next)) => {
                                prop_assert_eq!(admitted.tat_ns, next);
                                *tat = next;
                                receipts.push((key, admitted));
                            }
                            (Charge::Refused { retry_after_ns }, Err(wait)) => prop_assert_eq!(retry_after_ns, wait),
                            (got, expected) => prop_assert!(false, "{:?} for {:?}", got, expected),
                        }
                    }
                }
            }
        }

        /// A table far too small, refunds included: the law holds for every key (what remains admitted), and
        /// no key that still owes is forgotten.
        #[test]
        fn the_law_holds_in_a_crowded_set(steps in prop::collection::vec(step(), 1..400)) {
            let table = one_set();
            let rates = [rate(3, 2), rate(1, 4), Rate::new(2, 60 * S, 3).unwrap()];
            let mut now = S;
            let mut kept: Vec<(u64, Admitted)> = Vec::new();
            for step in steps {
                match step {
                    Step::Wait(ns) => now += ns,
                    Step::Refund { back } => {
                        if back < kept.len() {
                            let (key, receipt) = kept.remove(kept.len() - 1 - back);
                            table.refund(who(key), &receipt, now);
                        }
                    }
                    Step::Charge { key, rate } => {
                        let key = key * 3 + rate as u64;
                        if let Some(admitted) = table.charge(who(key), &rates[rate], now).admitted() {
                            kept.push((key, admitted));
                        }
                    }
                }
            }
            for key in 0..36 {
                let rate = &rates[key as usize % 3];
                let mut tat = 0;
                for (_, admitted) in kept.iter().filter(|(of, _)| *of == key) {
                    let next = rate.advance(tat, 1, 0, admitted.charged_at_ns);
                    prop_assert!(next.is_ok(), "key {} was admitted beyond its law at {}", key, admitted.charged_at_ns);
                    tat = next.unwrap();
                }
            }
        }
    }
}
