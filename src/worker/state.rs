//! What policies and the log keep per core. It outlives reloads; what belongs to a configuration is in its view.

use crate::h1::downstream::Link;
use crate::http::Reason;
use crate::pipeline::exchange::Exchange;
use crate::policy::{identify, limit, validate};
use crate::snapshot::{CoreView, Snapshot};
use crate::worker::Clock;

/// The state of one core that policies may change.
#[derive(Debug)]
pub struct CoreState {
    /// Monotonic nanoseconds of the request that is being judged.
    pub now_ns: u64,
    /// Unix seconds of the request that is being judged.
    pub now_s: u64,
    /// Verified tokens and keys, budgets for failed ones.
    pub identify: identify::PerCore,
    /// Leases of hot keys.
    pub limit: limit::PerCore,
    /// Buffers of the JSON tape, caches of the regex engine.
    pub validate: validate::PerCore,
    /// Counters of this core.
    pub metrics: Metrics,
}

/// The counters that policies touch.
#[derive(Debug, Default)]
pub struct Metrics {}

impl Metrics {
    /// Counts what a policy said.
    pub fn policy_decision(
        &mut self,
        _policy: &'static str,
        _decision: &'static str,
        _reason: &'static Reason,
    ) {
    }
}

impl CoreState {
    /// A fresh state.
    pub fn new() -> CoreState {
        CoreState {
            now_ns: 0,
            now_s: 0,
            identify: identify::PerCore::default(),
            limit: limit::PerCore::default(),
            validate: validate::PerCore::default(),
            metrics: Metrics::default(),
        }
    }

    /// A request id: 36 bytes of text.
    pub fn request_id(&mut self, _unix_ms: u64) -> [u8; 36] {
        [b'0'; 36]
    }

    /// Writes the record of an exchange.
    pub fn record(&mut self, _x: &Exchange, _link: &Link, _view: &CoreView, _clock: &Clock) {}

    /// Another snapshot runs from now on.
    pub fn switch(&mut self, _snapshot: &Snapshot) {}

    /// Ten times a second.
    pub fn tick(&mut self, _now_ns: u64) {}
}

impl Default for CoreState {
    fn default() -> CoreState {
        CoreState::new()
    }
}
