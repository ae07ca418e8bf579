//! Active health: one prober per target and node, here, never on the data threads; under TLS, and verified as requests are,
//! where the target is `https`.
//!
//! A probe that cannot be sent, because this node has no descriptor or memory for it, says nothing of its target.
//!
//! Each target is asked for an answer to a GET, for its health by `grpc.health.v1`, for a connection, or for a TLS handshake,
//! every so often: the nth probe is due n
//! intervals after the first, a tenth of one more or less by chance, so the rate is the configured one whatever probes
//! take. Two failures in a row take a target down, one success brings it up again (both can be set). The verdict is one
//! atomic per target that data threads load: all cores see it with their next request.
//!
//! A target starts up: a node that starts must not refuse everything until the first round of probes is over. One that
//! comes to others that are up is not trusted yet: it is probed at once, and its first result decides.
//!
//! Not for what to do when all targets are down, and not for ejecting on real traffic: that is `upstream`'s.
//! Called by the snapshot's compiler, which holds a [`Target`] for as long as the snapshot lives.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use hyper::Method;
use tokio::runtime::Handle;

use super::exchange::{self, AbortOnDrop, Asked, Connected, ExchangeError, TlsTo};
use super::jitter::Jitter;
use super::process_log::{Code, Line};
use crate::accept::proxy_protocol::{self, Announced, Version};
use crate::grpc::health as grpc;
use crate::grpc::status::STATUS_NAME;
use crate::http::Protocols;
use crate::sys::address::Address;

/// The most bytes of a probe's answer that are read; a health page has no business being longer.
const BODY_BYTES_MAX: usize = 64 * 1024;

/// A target stopped answering its probe.
pub const TARGET_DOWN: Code = Code::new(6042, "target is down");
/// A target answers its probe again.
pub const TARGET_UP: Code = Code::new(6043, "target is up");

/// What a probe asks of a target.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Ask {
    /// An answer to a GET with one of these statuses.
    Get {
        /// Path and query.
        target: Box<str>,
        /// The `Host` field, where it is not the target's.
        host: Option<Box<str>>,
        /// Those that are healthy, from one to another.
        statuses: Vec<(u16, u16)>,
    },
    /// That it says `SERVING` of a service, or, where that is empty, of all it has (`grpc.health.v1.Health/Check`).
    Grpc {
        /// The service.
        service: Box<str>,
        /// The authority, where it is not the target's.
        host: Option<Box<str>>,
    },
    /// A connection.
    Tcp,
    /// A TLS handshake.
    Tls,
}

/// How targets are probed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Plan {
    /// What is asked.
    pub ask: Ask,
    /// The time between two probes, before jitter.
    pub every: Duration,
    /// The time for one probe from connect to the last byte.
    pub timeout: Duration,
    /// Failures in a row that take the target down; at least 1.
    pub down_after: u32,
    /// Successes in a row that bring it up; at least 1.
    pub up_after: u32,
    /// Another port than the target's.
    pub port: Option<u16>,
    /// Connections begin with a PROXY header of this version, which says that we speak for ourselves; not on another port.
    pub proxy: Option<Version>,
    /// What requests are sent in; a handshake offers the same.
    pub protocols: Protocols,
}

impl Plan {
    /// A GET of `target`, with the defaults.
    pub fn get(target: &str, every: Duration) -> Plan {
        Plan {
            ask: Ask::Get { target: target.into(), host: None, statuses: vec![(200, 299)] },
            every,
            timeout: every.min(Duration::from_secs(2)),
            down_after: 2,
            up_after: 1,
            port: None,
            proxy: None,
            protocols: Protocols::HTTP1,
        }
    }
}

/// What is probed and how. Two upstreams with equal probes share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Probe {
    /// The upstream's name in the configuration, for the log.
    pub upstream: String,
    /// Where, but for a port of the plan's own.
    pub destination: Address,
    /// The target's `Host` field.
    pub authority: String,
    /// How.
    pub plan: Arc<Plan>,
    /// Tells configurations of TLS apart where probes are compared; any number for plain targets.
    pub tls_identity: u64,
}

/// What is believed of a target before its first probe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// That it is up.
    Up,
    /// Nothing: it is probed first.
    Unproven,
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

impl Shared {
    /// One more result.
    fn tell(&self, judge: &mut Judge, result: Result<(), String>) {
        self.probes.fetch_add(1, Ordering::Relaxed);
        if result.is_err() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        let Some(up) = judge.record(result.is_ok()) else { return };
        self.up.store(up, Ordering::Relaxed);
        let line = if up { Line::info(TARGET_UP) } else { Line::warn(TARGET_DOWN) };
        let line = line.with("upstream", &self.probe.upstream).with("target", &self.probe.destination);
        match result {
            Ok(()) => line.emit(),
            Err(why) => line.with("why", why).emit(),
        }
    }
}

/// Why a probe came to nothing.
#[derive(Debug)]
enum Failed {
    /// Its target did not do what was asked of it.
    Target(String),
    /// There was nothing to send it with.
    Unsent,
}

impl From<ExchangeError> for Failed {
    fn from(error: ExchangeError) -> Failed {
        match error {
            ExchangeError::Exhausted(_) => Failed::Unsent,
            error => Failed::Target(error.to_string()),
        }
    }
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
    pub fn target(&self, probe: Probe, tls: Option<TlsTo>, start: Start) -> Arc<Target> {
        let mut by_probe = self.by_probe.lock().unwrap_or_else(PoisonError::into_inner);
        by_probe.retain(|_, target| target.strong_count() > 0);
        if let Some(target) = by_probe.get(&probe).and_then(Weak::upgrade) {
            return target;
        }
        let shared = Arc::new(Shared {
            probe: probe.clone(),
            up: AtomicBool::new(start == Start::Up),
            probes: AtomicU64::new(0),
            failures: AtomicU64::new(0),
        });
        let task = AbortOnDrop(self.runtime.spawn(keep(shared.clone(), tls, start)));
        let target = Arc::new(Target { shared, _task: task });
        by_probe.insert(probe, Arc::downgrade(&target));
        target
    }
}

/// Turns single results into a verdict. No clock, no socket.
#[derive(Debug)]
pub struct Judge {
    /// `None` before the first result of one that is not believed to be up.
    up: Option<bool>,
    against: u32,
    down_after: u32,
    up_after: u32,
}

impl Judge {
    /// A judge that believes what `start` says.
    pub fn new(down_after: u32, up_after: u32, start: Start) -> Judge {
        let up = (start == Start::Up).then_some(true);
        Judge { up, against: 0, down_after: down_after.max(1), up_after: up_after.max(1) }
    }

    /// One more result; the new verdict if it changed.
    pub fn record(&mut self, healthy: bool) -> Option<bool> {
        let needed = match self.up {
            Some(up) if up == healthy => {
                self.against = 0;
                return None;
            }
            Some(true) => self.down_after,
            Some(false) => self.up_after,
            None => 1,
        };
        self.against += 1;
        if self.against < needed {
            return None;
        }
        self.against = 0;
        self.up = Some(healthy);
        Some(healthy)
    }
}

async fn keep(shared: Arc<Shared>, tls: Option<TlsTo>, start: Start) {
    let probe = &shared.probe;
    let plan = &probe.plan;
    let mut judge = Judge::new(plan.down_after, plan.up_after, start);
    let mut jitter = Jitter::default();
    if start == Start::Up {
        // Targets that were configured together are not probed together.
        tokio::time::sleep(jitter.up_to(plan.every / 4)).await;
    }
    let mut schedule = Schedule { base: tokio::time::Instant::now(), every: plan.every };
    loop {
        let result = exchange::within(plan.timeout, probe_once(probe, tls.as_ref())).await;
        let result = result.unwrap_or_else(|| Err(Failed::Target("no answer in time".to_owned())));
        match result {
            Ok(()) => shared.tell(&mut judge, Ok(())),
            Err(Failed::Target(why)) => shared.tell(&mut judge, Err(why)),
            // What the node is short of is told where it takes clients in.
            Err(Failed::Unsent) => {}
        }
        let next = schedule.next(tokio::time::Instant::now());
        // 0.9–1.1 of the interval.
        tokio::time::sleep_until(next - plan.every / 10 + jitter.up_to(plan.every / 5)).await;
    }
}

/// When probes are due, before jitter: at a fixed pace, without those that were missed.
struct Schedule {
    base: tokio::time::Instant,
    every: Duration,
}

impl Schedule {
    fn next(&mut self, now: tokio::time::Instant) -> tokio::time::Instant {
        self.base += self.every;
        if self.base < now {
            self.base = now;
        }
        self.base
    }
}

/// One probe. A redirect is not followed: what it leads to says nothing of the target.
async fn probe_once(probe: &Probe, tls: Option<&TlsTo>) -> Result<(), Failed> {
    let at = match (&probe.destination, probe.plan.port) {
        (Address::Tcp(address), Some(port)) => Address::Tcp((address.ip(), port).into()),
        (destination, _) => destination.clone(),
    };
    let tls = match probe.plan.ask {
        Ask::Tcp => None,
        Ask::Tls | Ask::Get { .. } | Ask::Grpc { .. } => tls,
    };
    let mut first = Vec::new();
    if let (Some(version), None) = (probe.plan.proxy, probe.plan.port) {
        proxy_protocol::write(&mut first, version, &Announced::Nobody);
    }
    let Connected { stream, agreed } = exchange::connect(&at, &first, tls).await?;
    let protocols = match probe.plan.ask {
        Ask::Tcp | Ask::Tls => return Ok(()),
        Ask::Get { .. } => probe.plan.protocols,
        Ask::Grpc { .. } => Protocols::HTTP2,
    };
    let (scheme, protocol) = match tls {
        Some(_) => ("https", protocols.under_tls(agreed)),
        None => ("http", Some(protocols.only().unwrap_or_default())),
    };
    let Some(protocol) = protocol else {
        return Err(Failed::Target("HTTP/2 was not agreed on".to_owned()));
    };
    let authority = |host: &Option<Box<str>>| host.as_deref().unwrap_or(&probe.authority).to_owned();
    let asked =
        |method, authority, target, fields, body| Asked { method, scheme, authority, target, fields, body };
    match &probe.plan.ask {
        Ask::Get { target, host, statuses } => {
            let authority = authority(host);
            let asked = asked(Method::GET, &authority, target, &[("accept", "*/*")], Vec::new());
            let answered = exchange::ask(stream, protocol, asked, BODY_BYTES_MAX).await?;
            let status = answered.status.as_u16();
            match statuses.iter().any(|(first, last)| (*first..=*last).contains(&status)) {
                true => Ok(()),
                false => Err(Failed::Target(format!("status {status}"))),
            }
        }
        Ask::Grpc { service, host } => {
            let mut body = Vec::new();
            grpc::push_request(service, &mut body);
            let authority = authority(host);
            let mut timeout = Vec::new();
            crate::grpc::timeout::push(probe.plan.timeout, &mut timeout);
            let timeout = String::from_utf8(timeout).unwrap_or_default();
            let [content_type, te] = grpc::REQUEST_FIELDS;
            let fields = &[content_type, te, (crate::grpc::timeout::NAME, timeout.as_str())];
            let asked = asked(Method::POST, &authority, grpc::PATH, fields, body);
            let answered = exchange::ask(stream, protocol, asked, BODY_BYTES_MAX).await?;
            let status = answered.trailers.get(STATUS_NAME).or_else(|| answered.fields.get(STATUS_NAME));
            let status = status.map(|value| value.as_bytes());
            grpc::judge(answered.status.as_u16(), status, &answered.body)
                .map_err(|why| Failed::Target(why.to_string()))
        }
        Ask::Tcp | Ask::Tls => Ok(()),
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
        let mut judge = Judge::new(2, 1, Start::Up);
        assert_eq!(verdicts(&mut judge, &[true, false, true, false]), [None; 4]);
        assert_eq!(verdicts(&mut judge, &[false, false]), [Some(false), None]);
        assert_eq!(verdicts(&mut judge, &[true, true]), [Some(true), None]);
    }

    #[test]
    fn thresholds_of_zero_count_as_one() {
        let mut judge = Judge::new(0, 0, Start::Up);
        assert_eq!(verdicts(&mut judge, &[false, true]), [Some(false), Some(true)]);
    }

    #[test]
    fn a_flapping_target_needs_its_successes_in_a_row() {
        let mut judge = Judge::new(1, 3, Start::Up);
        assert_eq!(
            verdicts(&mut judge, &[false, true, true, false, true, true]),
            [Some(false), None, None, None, None, None]
        );
        assert_eq!(judge.record(true), Some(true));
    }

    #[test]
    fn the_first_result_of_one_that_is_not_proven_decides() {
        let mut judge = Judge::new(2, 3, Start::Unproven);
        assert_eq!(verdicts(&mut judge, &[true, true]), [Some(true), None]);
        let mut judge = Judge::new(3, 2, Start::Unproven);
        assert_eq!(verdicts(&mut judge, &[false, false, true, true]), [Some(false), None, None, Some(true)]);
    }

    #[test]
    fn probes_keep_their_pace_whatever_they_take() {
        let start = tokio::time::Instant::now();
        let ms = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut schedule = Schedule { base: start, every: Duration::from_millis(100) };
        assert_eq!(schedule.next(ms(30)), ms(100));
        assert_eq!(schedule.next(ms(199)), ms(200));
        assert_eq!(schedule.next(ms(950)), ms(950), "what was missed is not made up for");
        assert_eq!(schedule.next(ms(951)), ms(1_050));
    }
}
