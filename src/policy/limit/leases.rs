//! A core's own purse: tokens of hot keys, taken from the shared table several at a time.
//!
//! A key that spends its tokens faster than [`LEASE_NS`] apart is *hot*: the core takes its next *k* tokens by one
//! advance of the shared TAT and spends them without touching shared memory. *k* doubles as long as leases
//! are spent to the end in their time, and halves when one is not.
//!
//! # Bounds
//! A lease is spent within [`LEASE_NS`] or not at all, and all cores' leases of a key together are at most
//! `rate × LEASE_NS` tokens (and [`LEASE_TOKENS_MAX`] per core). So with leases the law reads: at most
//! B + N·t/period + cores·k over any time t, where cores·k ≤ rate × 2 ms. *k* is 1, and the law exact, for keys
//! that are not hot, for rates below `1000 · cores` per second, and near the limit: a lease is only taken
//! while twice what all cores may lease remains in the bucket, so that no core is refused what another holds.
//! Unspent tokens are given back ([`Leases::give_back`], and when a lease ends), as far as time has not
//! given them back already.
//!
//! Memory: [`SLOTS`] × 64 bytes per core. Cost: one compare and one decrement for a leased token.
//!
//! Not shared, not for more than one table. Owned by a core's state; called by the limit policies.

use super::{
    fingerprint::Fingerprint,
    gcra::{LEASE_NS, Rate},
    table::{Admitted, Charge, Table},
};

/// Hot keys that a core can know at once.
pub const SLOTS: usize = 256;

/// The most tokens of a key that one core leases at once, whatever the rate.
pub const LEASE_TOKENS_MAX: u32 = 128;

/// One core's leases of one table's keys.
#[derive(Debug)]
pub struct Leases {
    slots: Box<[Slot; SLOTS]>,
    /// Which slots may hold tokens, one bit each.
    open: [u64; SLOTS / 64],
    cores: u32,
    tokens_max: u32,
}

/// What the core knows of the last key that came to this slot.
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// The key's fingerprint; 0: none yet.
    who: u64,
    emission_ns: u64,
    leased_at_ns: u64,
    /// The key's TAT after the lease.
    tat_ns: u64,
    /// Tokens leased and not yet spent.
    unspent: u32,
    /// How many tokens to lease next.
    step: u32,
}

const NO_SLOT: Slot = Slot { who: 0, emission_ns: 0, leased_at_ns: 0, tat_ns: 0, unspent: 0, step: 1 };

impl Leases {
    /// For one of `cores` cores that share a table.
    pub fn new(cores: usize) -> Leases {
        Leases::with_tokens_max(cores, LEASE_TOKENS_MAX)
    }

    /// As [`Leases::new`], with at most `tokens_max` tokens in a lease.
    pub fn with_tokens_max(cores: usize, tokens_max: u32) -> Leases {
        let cores = u32::try_from(cores.max(1)).unwrap_or(u32::MAX);
        Leases {
            slots: Box::new([NO_SLOT; SLOTS]),
            open: [0; SLOTS / 64],
            cores,
            tokens_max: tokens_max.max(1),
        }
    }

    /// Takes one token of `who`, from the core's lease if it has one, else from the table.
    #[inline]
    pub fn charge(&mut self, table: &Table, who: Fingerprint, rate: &Rate, now_ns: u64) -> Charge {
        // A rate too slow for two tokens a lease is always exact.
        if rate.lease_tokens() < 2 * self.cores {
            return table.charge(who, rate, now_ns);
        }
        let slot = &mut self.slots[index_of(who)];
        if slot.who == who.bits()
            && slot.unspent > 0
            && slot.holds(now_ns)
            && slot.emission_ns == rate.emission_ns()
        {
            slot.unspent -= 1;
            return Charge::Admitted(slot.spent_one());
        }
        self.charge_table(table, who, rate, now_ns)
    }

    /// What [`Leases::charge`] would come to, without charging.
    pub fn read(&self, table: &Table, who: Fingerprint, rate: &Rate, now_ns: u64) -> Charge {
        let slot = &self.slots[index_of(who)];
        let leased = slot.who == who.bits()
            && slot.unspent > 0
            && slot.holds(now_ns)
            && slot.emission_ns == rate.emission_ns();
        match leased {
            true => Charge::Admitted(slot.spent_one()),
            false => table.read(who, rate, now_ns),
        }
    }

    /// Gives back a charge, to the lease it came from if that is still open, else to the table.
    pub fn refund(&mut self, table: &Table, who: Fingerprint, charge: &Admitted, now_ns: u64) {
        let slot = &mut self.slots[index_of(who)];
        if slot.who == who.bits()
            && slot.unspent > 0
            && slot.leased_at_ns == charge.charged_at_ns
            && slot.emission_ns == charge.cost_ns
            && slot.holds(now_ns)
        {
            slot.unspent += 1;
            return;
        }
        table.refund(who, charge, now_ns);
    }

    /// Ends all leases and gives their tokens back: when the core has nothing to do, before it ends, and
    /// from its tick. O(open leases).
    pub fn give_back(&mut self, table: &Table, now_ns: u64) {
        for part in 0..self.open.len() {
            while self.open[part] != 0 {
                let bit = self.open[part].trailing_zeros() as usize;
                self.end(part * 64 + bit, table, now_ns);
            }
        }
    }

    #[cold]
    fn charge_table(&mut self, table: &Table, who: Fingerprint, rate: &Rate, now_ns: u64) -> Charge {
        let index = index_of(who);
        let slot = &mut self.slots[index];
        let same = slot.who == who.bits() && slot.emission_ns == rate.emission_ns();
        if !same {
            if slot.unspent > 0 && slot.holds(now_ns) {
                // Another key is hot here: it keeps the slot.
                return table.charge(who, rate, now_ns);
            }
            self.end(index, table, now_ns);
            self.slots[index] = Slot { who: who.bits(), emission_ns: rate.emission_ns(), ..NO_SLOT };
        } else if slot.unspent == 0 && slot.holds(now_ns) {
            slot.step = slot.step.saturating_mul(2);
        } else {
            slot.step = (slot.step / 2).max(1);
            self.end(index, table, now_ns);
        }
        let slot = &mut self.slots[index];
        let most = (rate.lease_tokens() / self.cores).min(self.tokens_max);
        slot.step = slot.step.min(most);
        // `most` ≤ 2 ms of the rate over the cores, so the reserve is at most 4 ms of the rate.
        let reserve = 2 * self.cores * most;
        slot.leased_at_ns = now_ns;
        if slot.step > 1 {
            if let Some(lease) = table.lease(who, rate, slot.step, reserve, now_ns) {
                slot.tat_ns = lease.tat_ns;
                slot.unspent = slot.step - 1;
                let spent = slot.spent_one();
                self.open[index / 64] |= 1 << (index % 64);
                return Charge::Admitted(spent);
            }
            slot.step = 1;
        }
        table.charge(who, rate, now_ns)
    }

    /// Ends the lease of a slot, if it has one.
    fn end(&mut self, index: usize, table: &Table, now_ns: u64) {
        self.open[index / 64] &= !(1 << (index % 64));
        let slot = &mut self.slots[index];
        if slot.unspent > 0 {
            let rest = Admitted {
                tat_ns: slot.tat_ns,
                cost_ns: slot.emission_ns.saturating_mul(slot.unspent as u64),
                charged_at_ns: slot.leased_at_ns,
                shared: false,
            };
            slot.unspent = 0;
            table.refund(Fingerprint::from_bits(slot.who), &rest, now_ns);
        }
    }
}

impl Slot {
    /// Whether what happened at `leased_at_ns` is less than [`LEASE_NS`] ago. A clock that went back counts
    /// as long ago.
    #[inline]
    fn holds(&self, now_ns: u64) -> bool {
        now_ns.wrapping_sub(self.leased_at_ns) < LEASE_NS
    }

    /// The receipt of one leased token.
    #[inline]
    fn spent_one(&self) -> Admitted {
        Admitted {
            // With the tokens still unspent counted as gone: what is said to remain remains.
            tat_ns: self.tat_ns,
            cost_ns: self.emission_ns,
            charged_at_ns: self.leased_at_ns,
            shared: false,
        }
    }
}

#[inline]
fn index_of(who: Fingerprint) -> usize {
    (who.bits() >> 24) as usize % SLOTS
}
