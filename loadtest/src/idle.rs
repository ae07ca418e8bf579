//! Memory of many connections of which few are active: per idle connection, after a burst on all, after closing all.
//!
//! Called by `compare` for scenarios with `idle`. Memory is the contender's PSS; the kernel's socket buffers are not
//! in it.

use std::io;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use indicatif::ProgressBar;
use serde::Serialize;

use crate::client::{Client, Pace, Tally, Target, Watch};
use crate::contender::Running;
use crate::process::{Cpu, pss_bytes};
use crate::scenario::Idle;
use crate::stats::LatencySummary;

/// Longest time for one request on each connection.
const ALL_MAX: Duration = Duration::from_secs(60);
/// How long a contender may tidy up before its memory is read.
const SETTLE: Duration = Duration::from_secs(2);
/// Connections that warm it up before the first reading.
const WARM_CONNECTIONS: usize = 64;

/// One contender's memory.
#[derive(Clone, Debug, Serialize)]
pub struct IdleResult {
    /// Who.
    pub contender: String,
    /// Errors: then the figures do not count.
    pub void: Option<String>,
    /// Connections that were open.
    pub connections: usize,
    /// PSS with none open, after a short warm-up, bytes.
    pub base_bytes: u64,
    /// With all open, each having carried one request, bytes.
    pub open_bytes: u64,
    /// While the active ones were active, bytes.
    pub active_bytes: u64,
    /// Right after one request on all of them at once, bytes.
    pub burst_bytes: u64,
    /// A moment after that, all open and idle, bytes.
    pub settled_bytes: u64,
    /// With all closed, bytes.
    pub closed_bytes: u64,
    /// CPU microseconds per request while the active ones were active.
    pub cpu_us: f64,
    /// Latencies of those.
    pub latency: LatencySummary,
}

impl IdleResult {
    /// Bytes per idle connection after opening.
    pub fn per_connection(&self) -> f64 {
        self.open_bytes.saturating_sub(self.base_bytes) as f64 / self.connections as f64
    }

    /// Bytes per idle connection after the burst.
    pub fn per_connection_settled(&self) -> f64 {
        self.settled_bytes.saturating_sub(self.base_bytes) as f64 / self.connections as f64
    }

    /// The part of what was gained over the base that was given back once all were closed, 0 to 1.
    pub fn given_back(&self) -> f64 {
        let most = self.burst_bytes.max(self.settled_bytes).max(self.open_bytes);
        let gained = most.saturating_sub(self.base_bytes) as f64;
        if gained == 0.0 { 1.0 } else { most.saturating_sub(self.closed_bytes) as f64 / gained }
    }
}

/// Goes through it with one contender.
///
/// # Errors
/// epoll failed, or it was interrupted.
pub fn measure(
    what: Idle,
    running: &Running,
    target: &Target,
    bar: &ProgressBar,
    stop: &AtomicBool,
) -> io::Result<IdleResult> {
    let pid = running.pid();
    let mut errors: Vec<String> = Vec::new();
    let mut check = |stage: &str, tally: &Tally| {
        errors.extend(tally.errors.iter().map(|(error, count)| format!("{stage}: {count} × {error}")));
    };
    let mut warm = Client::new(target, WARM_CONNECTIONS, stop)?;
    for _ in 0..4 {
        check("warm-up", &warm.once_each(0..WARM_CONNECTIONS, WARM_CONNECTIONS, ALL_MAX)?);
    }
    warm.close();
    std::thread::sleep(SETTLE);
    let base_bytes = pss_bytes(pid);
    bar.set_position(10);

    let mut client = Client::new(target, what.connections, stop)?;
    check("open", &client.once_each(0..what.connections, 32, ALL_MAX)?);
    std::thread::sleep(SETTLE);
    let open_bytes = pss_bytes(pid);
    bar.set_position(50);

    let mut meter = Meter { pid, before: Cpu::default(), spent: Cpu::default() };
    let spans = (Duration::from_millis(500), Duration::from_secs(3));
    let active = client.drive(Pace::Open(what.rate), what.active, spans, &mut meter)?;
    check("active", &active);
    let active_bytes = pss_bytes(pid);
    bar.set_position(70);

    check("burst", &client.once_each(0..what.connections, what.burst, ALL_MAX)?);
    let burst_bytes = pss_bytes(pid);
    std::thread::sleep(SETTLE);
    let settled_bytes = pss_bytes(pid);
    bar.set_position(90);

    client.close();
    std::thread::sleep(SETTLE);
    Ok(IdleResult {
        contender: running.name.clone(),
        void: (!errors.is_empty()).then(|| errors.join(", ")),
        connections: what.connections,
        base_bytes,
        open_bytes,
        active_bytes,
        burst_bytes,
        settled_bytes,
        closed_bytes: pss_bytes(pid),
        cpu_us: meter.spent.total_ns as f64 / 1e3 / active.requests as f64,
        latency: active.latencies.summary(),
    })
}

struct Meter {
    pid: u32,
    before: Cpu,
    spent: Cpu,
}

impl Watch for Meter {
    fn window_opens(&mut self) {
        self.before = Cpu::of(self.pid);
    }

    fn window_closes(&mut self) {
        self.spent = Cpu::of(self.pid).since(self.before);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Latencies;

    #[test]
    fn memory_is_told_per_connection_and_as_given_back() {
        let mut result = IdleResult {
            contender: String::new(),
            void: None,
            connections: 100,
            base_bytes: 1_000,
            open_bytes: 101_000,
            active_bytes: 0,
            burst_bytes: 201_000,
            settled_bytes: 121_000,
            closed_bytes: 1_000,
            cpu_us: 0.0,
            latency: Latencies::new().summary(),
        };
        assert_eq!(result.per_connection(), 1_000.0);
        assert_eq!(result.per_connection_settled(), 1_200.0);
        assert_eq!(result.given_back(), 1.0);
        result.closed_bytes = 101_000;
        assert_eq!(result.given_back(), 0.5);
        (result.burst_bytes, result.settled_bytes, result.open_bytes) = (0, 0, 0);
        assert_eq!(result.given_back(), 1.0);
    }
}
