//! Stage *limit*: how often somebody may ask.
//!
//! The engine is sans-IO, every function is told the time, and nothing here allocates after construction:
//!
//! * [`gcra`]: the arithmetic of one rate limit, whose whole state is one arrival time;
//! * [`fingerprint`]: who pays, as 64 keyed bits;
//! * [`cells`]: where states of keys are kept, lock-free and shared by all cores;
//! * [`table`]: the arrival times in them;
//! * [`counts`]: the requests in flight in them, and [`seats`] those of one exchange;
//! * [`leases`]: a core's own purse of tokens of the keys that are hot on it;
//! * [`charge`]: several rates charged as one;
//! * [`headers`]: what the client is told;
//! * [`rate`]: the policy that the configuration calls `limits`.
//!
//! **The law**, everywhere in this module: `rate: N/period, burst: B` admits at most B + N·t/period requests
//! of one key over *any* time t. Everything that could bend it (rounding, lagging clocks, eviction, full sets,
//! refunds) bends towards refusing; only [`leases`] may exceed it, by the stated bound.
//!
//! `concurrency: N` lets at most N requests of one key be in flight at any time, exactly.
//!
//! Not for: limits across nodes, bandwidth.

pub mod cells;
pub mod charge;
pub mod counts;
pub mod fingerprint;
pub mod gcra;
pub mod headers;
pub mod leases;
#[cfg(test)]
mod model;
pub mod rate;
pub mod seats;
pub mod table;

pub use charge::{Demand, Keys, PerCore, Tables, charge_all};
pub use counts::{Counts, Seat};
pub use fingerprint::{Fingerprint, LimitId};
pub use gcra::{Rate, RateError};
pub use leases::Leases;
pub use seats::Seats;
pub use table::{Admitted, Charge, Table};
