//! Several limits charged as one: all or none.
//!
//! All are read first, so that a request which one limit refuses costs the others nothing, not even for a
//! moment; then all are charged, and a charge that fails all the same (another core was faster) gives the
//! earlier ones back.
//!
//! Not for: choosing the limits. Called by the limit policies.

use super::{
    fingerprint::Fingerprint,
    gcra::Rate,
    table::{Charge, Table},
};

/// One limit's claim on a request.
pub struct Demand<'t> {
    /// The table that keeps the limit's keys.
    pub table: &'t Table,
    /// Who pays.
    pub who: Fingerprint,
    /// At what rate.
    pub rate: Rate,
    /// What it came to; written by [`charge_all`].
    pub charge: Option<Charge>,
}

impl<'t> Demand<'t> {
    /// A demand that is still to be charged.
    pub fn new(table: &'t Table, who: Fingerprint, rate: Rate) -> Demand<'t> {
        Demand { table, who, rate, charge: None }
    }
}

/// Charges one token to every demand, or to none: each demand's `charge` says what it came to, or would have.
///
/// # Errors
/// The index of the demand that refuses for the longest time, and that time in nanoseconds: sooner no
/// request is admitted.
pub fn charge_all(demands: &mut [Demand<'_>], now_ns: u64) -> Result<(), (usize, u64)> {
    if let [only] = demands {
        let charge = only.table.charge(only.who, &only.rate, now_ns);
        only.charge = Some(charge);
        return match charge {
            Charge::Admitted(_) => Ok(()),
            Charge::Refused { retry_after_ns } => Err((0, retry_after_ns)),
        };
    }
    let mut refused: Option<(usize, u64)> = None;
    for (index, demand) in demands.iter_mut().enumerate() {
        let reading = demand.table.read(demand.who, &demand.rate, now_ns);
        demand.charge = Some(reading);
        if let Charge::Refused { retry_after_ns } = reading
            && refused.is_none_or(|(_, longest_ns)| retry_after_ns > longest_ns)
        {
            refused = Some((index, retry_after_ns));
        }
    }
    if let Some(refused) = refused {
        return Err(refused);
    }
    for index in 0..demands.len() {
        let demand = &mut demands[index];
        let charge = demand.table.charge(demand.who, &demand.rate, now_ns);
        demand.charge = Some(charge);
        if let Charge::Refused { retry_after_ns } = charge {
            refund_all(&demands[..index], now_ns);
            return Err((index, retry_after_ns));
        }
    }
    Ok(())
}

/// Gives back what the demands were charged (see [`Table::refund`]).
pub fn refund_all(demands: &[Demand<'_>], now_ns: u64) {
    for demand in demands {
        if let Some(Charge::Admitted(admitted)) = &demand.charge {
            demand.table.refund(demand.who, admitted, now_ns);
        }
    }
}
