//! Stage *limit*: how often somebody may ask.
//!
//! The engine is sans-IO, every function is told the time, and nothing here allocates after construction:
//!
//! * [`gcra`]: the arithmetic of one rate limit, whose whole state is one arrival time;
//! * [`fingerprint`]: who pays, as 64 keyed bits;
//! * [`table`]: the node's shared, lock-free table of those states;
//! * [`leases`]: a core's own purse of tokens of the keys that are hot on it;
//! * [`charge`]: several limits charged as one;
//! * [`headers`]: what the client is told;
//! * [`rate`]: the policy that the configuration calls `limits`.
//!
//! **The law**, everywhere in this module: `rate: N/period, burst: B` admits at most B + N·t/period requests
//! of one key over *any* time t. Everything that could bend it (rounding, lagging clocks, eviction, full sets,
//! refunds) bends towards refusing; only [`leases`] may exceed it, by the stated bound.
//!
//! Not for: limits across nodes, concurrency, bandwidth.

pub mod charge;
pub mod fingerprint;
pub mod gcra;
pub mod headers;
pub mod leases;
#[cfg(test)]
mod model;
pub mod rate;
pub mod table;

pub use charge::{Demand, Keys, PerCore, Tables, charge_all};
pub use fingerprint::{Fingerprint, LimitId};
pub use gcra::{Rate, RateError};
pub use leases::Leases;
pub use table::{Admitted, Charge, Table};
