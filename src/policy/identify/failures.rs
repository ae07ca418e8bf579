//! How many credentials that do not hold one source may present before we stop looking at them.
//!
//! A forged token costs its sender nothing and us a signature check. So each source has a budget of
//! failures, and who has spent it is refused before any signature; what is already verified and cached goes
//! on, so that a crowd behind one address loses only its newcomers. Not a rate limit of requests. Each core
//! keeps its own. Called by the logins.
//!
//! A cell is the theoretical arrival time of GCRA: 16 bytes a source, and a cell whose time has passed
//! equals no cell. Sets of eight; in a full set of live cells a new source is charged to the set's shared
//! overflow cell, so an attacker with many addresses cannot flush the table to clear his record.

use std::hash::BuildHasher;
use std::net::IpAddr;

use hashbrown::DefaultHashBuilder;

use crate::http::Reason;

/// The source has presented too many credentials that did not hold.
pub const LOGIN_FAILURES: Reason =
    Reason::client("login_failures", 3017, 429, "Too many credentials from this source did not hold");

const WAYS: usize = 8;
const SETS: usize = 512;

/// The budget of every source.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// Failures at once; default 20.
    pub burst: u32,
    /// After how long one failure is forgotten, in nanoseconds; default one second.
    pub recovery_ns: u64,
}

impl Default for Budget {
    fn default() -> Budget {
        Budget { burst: 20, recovery_ns: 1_000_000_000 }
    }
}

/// Failures by source, of one core. At most 74 KiB, taken at the first failure.
pub struct Failures {
    budget: Budget,
    hasher: DefaultHashBuilder,
    sets: Vec<Set>,
}

#[derive(Clone, Copy, Default)]
struct Set {
    cells: [Cell; WAYS],
    overflow_ns: u64,
}

/// A source and its theoretical arrival time on the monotonic clock; zero is an empty cell.
#[derive(Clone, Copy, Default)]
struct Cell {
    source: u64,
    arrival_ns: u64,
}

impl Failures {
    /// No failures so far.
    pub fn new(budget: Budget) -> Failures {
        Failures { budget, hasher: DefaultHashBuilder::default(), sets: Vec::new() }
    }

    /// Whether `source` has spent its budget at `now_ns` (monotonic). O(eight cells).
    pub fn is_spent(&self, source: IpAddr, now_ns: u64) -> bool {
        if self.sets.is_empty() {
            return false;
        }
        let (set, source) = self.locate(source);
        let set = &self.sets[set];
        // A source that has no cell may have been charged to the overflow.
        let arrival_ns = match set.cells.iter().find(|cell| cell.source == source) {
            Some(cell) => cell.arrival_ns,
            None => set.overflow_ns,
        };
        arrival_ns.saturating_sub(now_ns) > self.tolerance_ns()
    }

    /// Charges one failure to `source`.
    pub fn charge(&mut self, source: IpAddr, now_ns: u64) {
        if self.sets.is_empty() {
            self.sets = vec![Set::default(); SETS];
        }
        let (set, source) = self.locate(source);
        let recovery_ns = self.budget.recovery_ns;
        let set = &mut self.sets[set];
        let own = set.cells.iter().position(|cell| cell.source == source);
        let arrival_ns = match own.or_else(|| set.cells.iter().position(|cell| cell.arrival_ns <= now_ns)) {
            Some(way) => {
                if own.is_none() {
                    set.cells[way] = Cell { source, arrival_ns: 0 };
                }
                &mut set.cells[way].arrival_ns
            }
            None => &mut set.overflow_ns,
        };
        *arrival_ns = (*arrival_ns).max(now_ns).saturating_add(recovery_ns);
    }

    /// How far ahead of the clock an arrival time may be: the burst, less the one that is asked for.
    fn tolerance_ns(&self) -> u64 {
        u64::from(self.budget.burst.max(1) - 1).saturating_mul(self.budget.recovery_ns)
    }

    fn locate(&self, source: IpAddr) -> (usize, u64) {
        // One host is given a whole /64 of IPv6, so that is the source.
        let network = match source.to_canonical() {
            IpAddr::V4(address) => u64::from(u32::from(address)),
            IpAddr::V6(address) => (u128::from(address) >> 64) as u64,
        };
        let hash = self.hasher.hash_one((source.to_canonical().is_ipv4(), network));
        (hash as usize % SETS, hash | 1)
    }
}

impl std::fmt::Debug for Failures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Failures").field("budget", &self.budget).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[test]
    fn the_burst_is_spent_and_recovers() {
        let mut failures = Failures::new(Budget { burst: 3, recovery_ns: 100 });
        let source = address(1);
        assert!(!failures.is_spent(source, 1000));
        for spent in [false, false, true] {
            failures.charge(source, 1000);
            assert_eq!(failures.is_spent(source, 1000), spent);
        }
        assert!(failures.is_spent(source, 1099));
        assert!(!failures.is_spent(source, 1100));
        failures.charge(source, 1100);
        assert!(failures.is_spent(source, 1199));
        assert!(!failures.is_spent(address(2), 1000));
        assert!(!failures.is_spent(source, 10_000));
    }

    #[test]
    fn a_source_is_an_address_or_a_network_of_64() {
        let mut failures = Failures::new(Budget { burst: 1, recovery_ns: 100 });
        failures.charge("2001:db8::1".parse().unwrap(), 1);
        assert!(failures.is_spent("2001:db8::ffff:2".parse().unwrap(), 1));
        assert!(!failures.is_spent("2001:db8:0:1::1".parse().unwrap(), 1));
        failures.charge("::ffff:192.0.2.1".parse().unwrap(), 1);
        assert!(failures.is_spent("192.0.2.1".parse().unwrap(), 1));
    }

    #[test]
    fn a_flood_of_sources_clears_nobodys_record() {
        let mut failures = Failures::new(Budget { burst: 2, recovery_ns: 1_000_000 });
        let known = address(1);
        failures.charge(known, 1);
        failures.charge(known, 1);
        for source in 2..100_000 {
            failures.charge(address(source), 1);
        }
        assert!(failures.is_spent(known, 1));
        assert!(failures.is_spent(address(99_999), 1), "the overflow is shared");
        assert!(!failures.is_spent(known, 10_000_000_000_000));
    }
}
