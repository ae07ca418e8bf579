//! Several rates charged as one: all or none.
//!
//! All are read first, so that a request which one limit refuses costs the others nothing, not even for a
//! moment; then all are charged, and a charge that fails all the same (another core was faster) gives the
//! earlier ones back.
//!
//! Not for: choosing the limits. Called by the limit policy.

use super::{
    counts::Counts,
    fingerprint::Fingerprint,
    gcra::Rate,
    leases::Leases,
    table::{Charge, Table},
};

/// The node's tables. They live as long as the process: reloads and all cores share them.
#[derive(Debug)]
pub struct Tables {
    /// For keys that anybody can mint: addresses, fields of requests.
    pub minted: Table,
    /// For keys that a login or the configuration has vouched for: whoever floods the other table cannot
    /// take cells from these.
    pub identities: Table,
    /// Requests in flight, of keys that anybody can mint.
    pub minted_counts: Counts,
    /// Requests in flight, of the other keys.
    pub identity_counts: Counts,
    cores: usize,
}

/// The part of the tables' memory that counts requests in flight: two of so many. A key takes as much as for its rate, but
/// only while it has a request here, so far fewer are there at once.
const COUNTS_SHARE: usize = 16;

/// Which of the tables keeps a limit's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keys {
    /// [`Tables::minted`].
    Minted,
    /// [`Tables::identities`].
    Identities,
}

/// What one core keeps: leases of hot keys, and memory that requests use one after another.
#[derive(Debug, Default)]
pub struct PerCore {
    minted: Option<Leases>,
    identities: Option<Leases>,
    pub(super) demands: Vec<Demand>,
    pub(super) key: Vec<u8>,
}

/// One limit's claim on a request.
#[derive(Clone, Copy, Debug)]
pub struct Demand {
    /// Which table keeps the limit's keys.
    pub keys: Keys,
    /// Who pays.
    pub who: Fingerprint,
    /// At what rate.
    pub rate: Rate,
    /// What it came to, or would have; written by [`charge_all`].
    pub charge: Option<Charge>,
    /// The caller's number for the limit.
    pub limit: u8,
}

impl Tables {
    /// Tables of `bytes` together, half for each kind of keys, for so many cores.
    pub fn new(bytes: usize, cores: usize) -> Tables {
        let counts = bytes / COUNTS_SHARE;
        let rates = bytes / 2 - counts;
        Tables {
            minted: Table::new(rates),
            identities: Table::new(rates),
            minted_counts: Counts::new(counts),
            identity_counts: Counts::new(counts),
            cores,
        }
    }

    /// The table that keeps such keys.
    pub fn of(&self, keys: Keys) -> &Table {
        match keys {
            Keys::Minted => &self.minted,
            Keys::Identities => &self.identities,
        }
    }

    /// The table that counts the requests in flight of such keys.
    #[inline]
    pub fn counts_of(&self, keys: Keys) -> &Counts {
        match keys {
            Keys::Minted => &self.minted_counts,
            Keys::Identities => &self.identity_counts,
        }
    }
}

impl PerCore {
    /// Ends all leases: when the core has nothing to do, from its tick, and before it ends.
    pub fn give_back(&mut self, tables: &Tables, now_ns: u64) {
        if let Some(leases) = &mut self.minted {
            leases.give_back(&tables.minted, now_ns);
        }
        if let Some(leases) = &mut self.identities {
            leases.give_back(&tables.identities, now_ns);
        }
    }

    /// The core's leases of such keys; made when they are first needed.
    fn leases(&mut self, keys: Keys, cores: usize) -> &mut Leases {
        let leases = match keys {
            Keys::Minted => &mut self.minted,
            Keys::Identities => &mut self.identities,
        };
        leases.get_or_insert_with(|| Leases::new(cores))
    }
}

impl Demand {
    /// A demand that is still to be charged.
    pub fn new(keys: Keys, who: Fingerprint, rate: Rate) -> Demand {
        Demand { keys, who, rate, charge: None, limit: 0 }
    }
}

/// Charges one token to every demand, or to none: each demand's `charge` says what it came to, or would have.
///
/// # Errors
/// The index of the demand that refuses for the longest time, and that time in nanoseconds: sooner no
/// request is admitted.
pub fn charge_all(
    tables: &Tables,
    core: &mut PerCore,
    demands: &mut [Demand],
    now_ns: u64,
) -> Result<(), (usize, u64)> {
    if let [only] = demands {
        let charge = charge_one(tables, core, only, now_ns);
        return match charge {
            Charge::Admitted(_) => Ok(()),
            Charge::Refused { retry_after_ns } => Err((0, retry_after_ns)),
        };
    }
    if let Some(refused) = read_all(tables, core, demands, now_ns) {
        return Err(refused);
    }
    for index in 0..demands.len() {
        if let Charge::Refused { retry_after_ns } = charge_one(tables, core, &mut demands[index], now_ns) {
            refund_all(tables, core, &demands[..index], now_ns);
            return Err((index, retry_after_ns));
        }
    }
    Ok(())
}

/// What [`charge_all`] would come to for each demand, without charging; which refuses for the longest time, if one does.
pub fn read_all(
    tables: &Tables,
    core: &mut PerCore,
    demands: &mut [Demand],
    now_ns: u64,
) -> Option<(usize, u64)> {
    let mut refused: Option<(usize, u64)> = None;
    for (index, demand) in demands.iter_mut().enumerate() {
        let leases = core.leases(demand.keys, tables.cores);
        let reading = leases.read(tables.of(demand.keys), demand.who, &demand.rate, now_ns);
        demand.charge = Some(reading);
        if let Charge::Refused { retry_after_ns } = reading
            && refused.is_none_or(|(_, longest_ns)| retry_after_ns > longest_ns)
        {
            refused = Some((index, retry_after_ns));
        }
    }
    refused
}

/// Gives back what the demands were charged (see [`Table::refund`]).
pub fn refund_all(tables: &Tables, core: &mut PerCore, demands: &[Demand], now_ns: u64) {
    for demand in demands {
        if let Some(Charge::Admitted(admitted)) = &demand.charge {
            let leases = core.leases(demand.keys, tables.cores);
            leases.refund(tables.of(demand.keys), demand.who, admitted, now_ns);
        }
    }
}

fn charge_one(tables: &Tables, core: &mut PerCore, demand: &mut Demand, now_ns: u64) -> Charge {
    let leases = core.leases(demand.keys, tables.cores);
    let charge = leases.charge(tables.of(demand.keys), demand.who, &demand.rate, now_ns);
    demand.charge = Some(charge);
    charge
}
