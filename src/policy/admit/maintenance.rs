//! `maintenance`: nothing is served for a while, and clients are told to come again.
//!
//! # What it does
//! Answers every request of an API, or of the whole node, before anything is asked of it: no login, no limit, no upstream. Clients
//! in `except` are served as ever. At `until` it ends by itself, without a reload. What was under way when it began is
//! finished; probes of upstreams, `/livez` and `/readyz` go on.
//!
//! # Configuration
//! `maintenance: "the database moves"`, or `{ reason, until: 2027-06-30T18:00Z, retry_after: 10min, except: [10.0.0.0/8] }`, of an
//! API or of `node`. A reload takes it into force and out again; `check` lists it.
//!
//! # Answers
//! 503 `maintenance` with `Retry-After`: `retry_after`, else what is left until `until`, else five minutes.
//!
//! # Cost
//! Nothing where it is not configured; else one comparison, and one per network of `except`.
//!
//! # References
//! RFC 9110 §10.2.3, §15.6.4.

use ipnet::IpNet;

use crate::config::model as written;
use crate::http::Reason;
use crate::pipeline::exchange::Exchange;
use crate::policy::{Policy, Verdict};
use crate::worker::state::CoreState;

/// The API, or the node, is in maintenance.
pub const MAINTENANCE: Reason = Reason::ringwall("maintenance", 2150, 503, "Closed for maintenance");

/// Where nothing else is said, in seconds.
const RETRY_AFTER_S: u64 = 300;

/// A time in which nothing is served.
#[derive(Clone, Debug)]
pub struct Maintenance {
    /// Seconds since 1970; `u64::MAX` is never.
    until_s: u64,
    retry_after_s: Option<u64>,
    except: Vec<IpNet>,
}

impl Maintenance {
    /// From what was written.
    pub fn compile(written: &written::Maintenance) -> Maintenance {
        Maintenance {
            until_s: written.until.as_ref().map_or(u64::MAX, |until| until.value.unix_s()),
            retry_after_s: written.retry_after.map(|after| after.as_secs().max(1)),
            except: written.except.iter().map(|network| network.value).collect(),
        }
    }

    /// In how many seconds a client should come again.
    fn retry_after_s(&self, now_s: u64) -> u64 {
        self.retry_after_s.unwrap_or(match self.until_s {
            u64::MAX => RETRY_AFTER_S,
            until_s => until_s.saturating_sub(now_s).max(1),
        })
    }
}

impl Policy for Maintenance {
    const NAME: &'static str = "maintenance";

    fn apply(&self, x: &mut Exchange, core: &mut CoreState) -> Verdict {
        if core.now_s >= self.until_s || self.except.iter().any(|network| network.contains(&x.client)) {
            return Verdict::Continue;
        }
        let mut digits = itoa::Buffer::new();
        x.insert_answer(b"retry-after", digits.format(self.retry_after_s(core.now_s)).as_bytes());
        Verdict::Refuse(&MAINTENANCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_are_told_when_to_come_again() {
        let maintenance = |until_s, retry_after_s| Maintenance { until_s, retry_after_s, except: Vec::new() };
        assert_eq!(maintenance(u64::MAX, None).retry_after_s(1_000), RETRY_AFTER_S);
        assert_eq!(maintenance(1_090, None).retry_after_s(1_000), 90);
        assert_eq!(maintenance(1_090, Some(7)).retry_after_s(1_000), 7);
        assert_eq!(maintenance(1_000, None).retry_after_s(1_000), 1);
    }
}
