//! Active health: one HTTP probe per target and node, from here, never from the data threads; under TLS, and verified
//! as requests are, where the target is `https`.
//!
//! Each target is asked `GET path` every so often, with jitter; two failures in a row take it down, one success
//! brings it up again (both can be set). The verdict is one atomic per target that data threads load. A target
//! starts up: a node that starts must not refuse everything until the first round of probes is over.
//!
//! Not for what to do when all targets are down, and not for ejecting on real traffic: that is `upstream`'s.
//! Called by the snapshot's compiler, which holds a [`Target`] for as long as the snapshot lives.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::runtime::Handle;

use super::exchange::{self, AbortOnDrop, TlsTo};
use super::jitter::Jitter;
use super::process_log::{Code, Line};
use crate::sys::address::Address;

/// The most bytes of a probe's answer that are read; a health page has no business being longer.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// A target stopped answering its probe.
pub const TARGET_DOWN: Code = Code::new(6042, "target is down");
/// A target answers its probe again.
pub const TARGET_UP: Code = Code::new(6043, "target is up");

/// What is probed and how. Two snapshots with equal probes share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Probe {
    /// The upstream's name in the configuration, for the log.
    pub upstream: String,
    /// Where.
    pub destination: Address,
    /// The `Host` field.
    pub authority: String,
    /// Path and query of the request.
    pub target: String,
    /// The time between two probes, before jitter. Default 5 s.
    pub every: Duration,
    /// The time for one probe from connect to the last byte. Default: the smaller of 2 s and `every`.
    pub timeout: Duration,
    /// Failures in a row that take the target down. Default 2, at least 1.
    pub down_after: u32,
    /// Successes in a row that bring it up. Default 1, at least 1.
    pub up_after: u32,
    /// Tells configurations of `tls` apart where probes are compared; any number for plain targets.
    pub tls_identity: u64,
}

impl Probe {
    /// A probe of `destination` with the defaults.
    pub fn new(
        upstream: &str,
        destination: Address,
        authority: &str,
        target: &str,
        every: Duration,
    ) -> Probe {
        Probe {
            upstream: upstream.to_owned(),
            destination,
            authority: authority.to_owned(),
            target: target.to_owned(),
            every,
            timeout: every.min(Duration::from_secs(2)),
            down_after: 2,
            up_after: 1,
            tls_identity: 0,
        }
    }
}

/// A target's health, kept up to date while somebody holds this.
pub struct Target {
    shared: Arc<Shared>,
    _task: AbortOnDrop,
}

struct Shared {
    probe: Probe,
    up: AtomicBool,
    probes: AtomicU64,
    failures: AtomicU64,
}

impl Target {
    /// Whether the target is up. One relaxed load.
    pub fn is_up(&self) -> bool {
        self.shared.up.load(Ordering::Relaxed)
    }

    /// What is probed.
    pub fn probe(&self) -> &Probe {
        &self.shared.probe
    }

    /// Probes sent so far.
    pub fn probes(&self) -> u64 {
        self.shared.probes.load(Ordering::Relaxed)
    }

    /// Probes that failed so far.
    pub fn failures(&self) -> u64 {
        self.shared.failures.load(Ordering::Relaxed)
    }
}

/// All targets that are probed.
#[derive(Clone)]
pub struct Health {
    runtime: Handle,
    by_probe: Arc<Mutex<HashMap<Probe, Weak<Target>>>>,
}

impl Health {
    /// Probes that run on `runtime`.
    pub fn new(runtime: Handle) -> Health {
        Health { runtime, by_probe: Arc::default() }
    }

    /// The health of what `probe` describes; the first caller starts the probing. It ends with the last holder.
    pub fn target(&self, probe: Probe, tls: Option<TlsTo>) -> Arc<Target> {
        let mut by_probe = self.by_probe.lock().unwrap_or_else(PoisonError::into_inner);
        by_probe.retain(|_, target| target.strong_count() > 0);
        if let Some(target) = by_probe.get(&probe).and_then(Weak::upgrade) {
            return target;
        }
        let shared = Arc::new(Shared {
            probe: probe.clone(),
            up: AtomicBool::new(true),
            probes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        });
        let task = AbortOnDrop(self.runtime.spawn(keep(shared.clone(), tls)));
        let target = Arc::new(Target { shared, _task: task });
        by_probe.insert(probe, Arc::downgrade(&target));
        target
    }
}

/// Turns single results into a verdict. No clock, no socket.
#[derive(Debug)]
pub struct Judge {
    up: bool,
    against: u32,
    down_after: u32,
    up_after: u32,
}

impl Judge {
    /// A judge that starts with "up".
    pub fn new(down_after: u32, up_after: u32) -> Judge {
        Judge { up: true, against: 0, down_after: down_after.max(1), up_after: up_after.max(1) }
    }

    /// One more result; the new verdict if it changed.
    pub fn record(&mut self, healthy: bool) -> Option<bool> {
        if healthy == self.up {
            self.against = 0;
            return None;
        }
        self.against += 1;
        let needed = if self.up { self.down_after } else { self.up_after };
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.up = healthy;
        Some(healthy)
    }
}

async fn keep(shared: Arc<Shared>, tls: Option<TlsTo>) {
    let probe = &shared.probe;
    let mut judge = Judge::new(probe.down_after, probe.up_after);
    // Targets that were configured together are not probed together.
    let mut jitter = Jitter::default();
    tokio::time::sleep(jitter.up_to(probe.every / 4)).await;
    loop {
        let result = exchange::within(probe.timeout, probe_once(probe, tls.as_ref())).await;
        let result = result.unwrap_or_else(|| Err("no answer in time".to_owned()));
        shared.probes.fetch_add(1, Ordering::Relaxed);
        if result.is_err() {
            shared.failures.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(up) = judge.record(result.is_ok()) {
            shared.up.store(up, Ordering::Relaxed);
            let line = if up { Line::info(TARGET_UP) } else { Line::warn(TARGET_DOWN) };
            let line = line.with("upstream", &probe.upstream).with("target", &probe.destination);
            match result {
                Ok(()) => line.emit(),
                Err(why) => line.with("why", why).emit(),
            }
        }
        // 0.9–1.1 of the interval.
        let fixed = probe.every.mul_f64(0.9);
        tokio::time::sleep(fixed + jitter.up_to(probe.every / 5)).await;
    }
}

/// One probe: any 2xx is healthy. A redirect is not followed and not healthy: it says nothing of the target.
async fn probe_once(probe: &Probe, tls: Option<&TlsTo>) -> Result<(), String> {
    let stream = exchange::connect(&probe.destination, tls).await.map_err(|error| error.to_string())?;
    let answered = exchange::get(stream, &probe.authority, &probe.target, "*/*", BODY_BYTES_MAX).await;
    match answered {
        Ok(answered) if answered.status.is_success() => Ok(()),
        Ok(answered) => Err(format!("status {}", answered.status.as_u16())),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(judge: &mut Judge, results: &[bool]) -> Vec<Option<bool>> {
        results.iter().map(|&healthy| judge.record(healthy)).collect()
    }

    #[test]
    fn two_failures_in_a_row_take_down_and_one_success_brings_up() {
        let mut judge = Judge::new(2, 1);
        assert_eq!(verdicts(&mut judge, &[true, false, true, false]), [None; 4]);
        assert_eq!(verdicts(&mut judge, &[false, false]), [Some(false), None]);
        assert_eq!(verdicts(&mut judge, &[true, true]), [Some(true), None]);
    }

    #[test]
    fn thresholds_of_zero_count_as_one() {
        let mut judge = Judge::new(0, 0);
        assert_eq!(verdicts(&mut judge, &[false, true]), [Some(false), Some(true)]);
    }

    #[test]
    fn a_flapping_target_needs_its_successes_in_a_row() {
        let mut judge = Judge::new(1, 3);
        assert_eq!(
            verdicts(&mut judge, &[false, true, true, false, true, true]),
            [Some(false), None, None, None, None, None]
        );
        assert_eq!(judge.record(true), Some(true));
    }
}
