//! What policies and the log keep per core. It outlives reloads; what belongs to a configuration is in its view.

use std::net::IpAddr;

use crate::accept::ends::Visit;
use crate::http::date::DateLine;
use crate::http::{Reason, Version};
use crate::jose::cache::Counts;
use crate::observe::{
    AccessRecord, CoreLog, CoreMetrics, Decision, ExemplarId, Flags, Mode as RecordMode, Protocol,
    RequestIds, TokenCache,
};
use crate::pipeline::exchange::{Exchange, Facts};
use crate::policy::{Mode, identify, limit, validate};
use crate::snapshot::{CoreView, Snapshot};
use crate::worker::Clock;

/// Records of connections that end without a request, per core and tick: a hundred a second. All are counted.
const ENDS_PER_TICK: u32 = 10;

/// The state of one core that policies may change.
pub struct CoreState {
    /// Monotonic nanoseconds of the request that is being judged.
    pub now_ns: u64,
    /// Unix seconds of the request that is being judged.
    pub now_s: u64,
    /// The `Date` of this second.
    pub date: DateLine,
    /// Verified tokens and keys, budgets for failed ones.
    pub identify: identify::PerCore,
    /// Leases of hot keys.
    pub limit: limit::PerCore,
    /// Buffers of the JSON tape, caches of the regex engine.
    pub validate: validate::PerCore,
    /// Counters of this core.
    pub metrics: CoreMetrics,
    /// Rings of this core.
    pub log: CoreLog,
    ids: RequestIds,
    panics_told: u64,
    tokens_told: Counts,
    cpu_told_ns: u64,
    clock_told_ns: u64,
    ends_left: u32,
}

impl CoreState {
    /// A fresh state with its rings and counters.
    pub fn new(log: CoreLog, metrics: CoreMetrics, ids: RequestIds) -> CoreState {
        CoreState {
            now_ns: 0,
            now_s: 0,
            date: DateLine::new(),
            identify: identify::PerCore::default(),
            limit: limit::PerCore::default(),
            validate: validate::PerCore::default(),
            metrics,
            log,
            ids,
            panics_told: 0,
            tokens_told: Counts::default(),
            cpu_told_ns: 0,
            clock_told_ns: 0,
            ends_left: ENDS_PER_TICK,
        }
    }

    /// Counts what a policy said.
    pub fn count_decision(&self, policy: usize, mode: Mode, refused: bool) {
        let mode = if mode == Mode::Observe { RecordMode::Observe } else { RecordMode::Enforce };
        let decision = if refused { Decision::Refused } else { Decision::Admitted };
        self.metrics.decision(policy, mode, decision);
    }

    /// Counts that an observed policy could not say anything.
    pub fn count_unknown(&self, policy: usize) {
        self.metrics.decision(policy, RecordMode::Observe, Decision::Unknown);
    }

    /// Gives the request its id.
    pub fn identify_request(&mut self, x: &mut Exchange, unix_ms: u64) {
        x.id = self.ids.next(unix_ms);
        x.request_id = x.id.format();
    }

    /// Writes the record of an exchange and counts it.
    pub fn record(&mut self, x: &mut Exchange, listener: u32, used: bool, view: &CoreView, clock: &Clock) {
        let names = &view.snapshot.names;
        let facts = &x.facts;
        let now_ns = clock.now_ns();
        let taken = Taken::until(now_ns, facts);
        let (_, operation_id) = names.of(x.api, x.operation);
        let mut record = describe(x, listener, &view.snapshot, &taken, clock.unix_ns(now_ns));

        self.metrics.request(operation_id, record.method, facts.status, taken.duration_ns, taken.overhead_ns);
        self.metrics.exemplar(operation_id, taken.duration_ns, ExemplarId::Request(x.id), record.time_ms);
        if let Some(reason) = &facts.reason {
            self.metrics.refusal(reason, RecordMode::Enforce);
        }
        if facts.upstream != 0 {
            let answered = if facts.answered_ns == 0 { 0 } else { facts.status };
            self.metrics.upstream_request(record.target, answered);
            if facts.tries > 1 {
                self.metrics.retry(record.upstream);
            }
        }
        if used {
            record.flags.set(Flags::CLIENT_REUSED);
        }
        self.log.push(&record);
        if facts.reason.is_some() && !facts.audited && self.log.wants_audit() {
            // It broke after its answer had begun: a full ring is counted where it is found.
            let _ = self.log.audit(&record);
        }
    }

    /// Counts a connection that has ended without a request, and writes its record unless there have been too many.
    pub fn record_end(&mut self, visit: &Visit, reason: &Reason, snapshot: &Snapshot, unix_ns: u64) {
        self.metrics.refusal(reason, RecordMode::Enforce);
        let Some(left) = self.ends_left.checked_sub(1) else { return };
        self.ends_left = left;
        let time_ms = unix_ns / 1_000_000;
        let mut record = AccessRecord {
            time_ms,
            request_id: self.ids.next(time_ms),
            listener: snapshot.listener_name(visit.listener),
            client: known(visit.peer.ip()),
            peer: known(visit.peer.ip()).map(|_| visit.peer),
            tls: visit.agreed.version,
            alpn: visit.agreed.alpn,
            duration_us: visit.duration_ms * 1_000,
            config: snapshot.generation,
            ..AccessRecord::default()
        };
        record.set_reason(reason, RecordMode::Enforce);
        self.log.push(&record);
        if self.log.wants_audit() {
            // Nothing can be held back for it: a full ring is counted.
            let _ = self.log.audit(&record);
        }
    }

    /// Puts a refusal on record before it is answered. False: there was no room, which is counted.
    pub fn audit(&self, x: &Exchange, listener: u32, view: &CoreView, clock: &Clock) -> bool {
        let now_ns = clock.now_ns();
        let taken = Taken::until(now_ns, &x.facts);
        self.log.audit(&describe(x, listener, &view.snapshot, &taken, clock.unix_ns(now_ns))).is_ok()
    }

    /// Another snapshot runs from now on.
    pub fn switch(&mut self, _snapshot: &Snapshot) {}

    /// Ten times a second.
    pub fn tick(&mut self, now_ns: u64) {
        self.ends_left = ENDS_PER_TICK;
        let panics = crate::worker::core::panics();
        for _ in self.panics_told..panics {
            self.metrics.panic();
        }
        self.panics_told = panics;
        let (tokens, told) = (self.identify.token_counts(), self.tokens_told);
        self.metrics.tokens(TokenCache::Hit, tokens.hits - told.hits);
        self.metrics.tokens(TokenCache::Miss, tokens.misses - told.misses);
        self.metrics.tokens(TokenCache::Refused, tokens.refused - told.refused);
        self.tokens_told = tokens;
        let cpu_ns = crate::sys::thread::thread_cpu_ns();
        if self.clock_told_ns != 0 {
            let busy_ns = cpu_ns.saturating_sub(self.cpu_told_ns);
            let passed_ns = now_ns.saturating_sub(self.clock_told_ns);
            self.metrics.busy(busy_ns, passed_ns.saturating_sub(busy_ns));
        }
        self.cpu_told_ns = cpu_ns;
        self.clock_told_ns = now_ns;
    }
}

/// How long an exchange has taken, in nanoseconds.
struct Taken {
    duration_ns: u64,
    /// Of that, waiting for the upstream.
    waited_ns: u64,
    /// Of that, ours.
    overhead_ns: u64,
}

impl Taken {
    fn until(now_ns: u64, facts: &Facts) -> Taken {
        let duration_ns = now_ns.saturating_sub(facts.started_ns);
        let waited_ns = match (facts.forwarded_ns, facts.answered_ns) {
            (0, _) => 0,
            // It never answered: all the rest was waiting.
            (forwarded, 0) => now_ns.saturating_sub(forwarded),
            (forwarded, answered) => answered.saturating_sub(forwarded),
        };
        Taken { duration_ns, waited_ns, overhead_ns: duration_ns.saturating_sub(waited_ns) }
    }
}

/// An address that is one: whoever comes over a Unix socket has none, and the log says nothing of it.
fn known(address: IpAddr) -> Option<IpAddr> {
    (!address.is_unspecified()).then_some(address)
}

/// What the logs say of an exchange, as it stands.
#[inline]
fn describe<'x>(
    x: &'x Exchange,
    listener: u32,
    snapshot: &Snapshot,
    taken: &Taken,
    unix_ns: u64,
) -> AccessRecord<'x> {
    let names = &snapshot.names;
    let facts = &x.facts;
    let (api_id, operation_id) = names.of(x.api, x.operation);
    let upstream_id = names.upstream(facts.upstream);
    let identity = x.identity.as_deref();
    let method = crate::observe::Method::from(x.method());
    let mut record = AccessRecord {
        time_ms: unix_ns / 1_000_000,
        request_id: x.id,
        listener: snapshot.listener_name(listener),
        client: known(x.client),
        peer: known(x.peer.ip()).map(|_| x.peer),
        tls: x.agreed.version,
        alpn: x.agreed.alpn,
        protocol: match x.request.table.version {
            Version::Http10 => Protocol::Http10,
            Version::Http11 => Protocol::Http11,
            Version::Http2 => Protocol::Http2,
        },
        method,
        method_name: match method {
            crate::observe::Method::Other => x.request.table.method_span.of(&x.request.bytes),
            _ => b"",
        },
        host: x.host(),
        path: x.path(),
        query: x.query(),
        api: api_id,
        operation: operation_id,
        status: facts.status,
        grpc_status: facts.grpc_status,
        login: identity.map(|identity| names.login(identity.login)).unwrap_or_default(),
        subject: identity.map(|identity| identity.subject.as_bytes()).unwrap_or_default(),
        key_id: identity.map(|identity| identity.key_id.as_bytes()).unwrap_or_default(),
        upstream: upstream_id,
        target: facts.target,
        tries: u8::try_from(facts.tries).unwrap_or(u8::MAX),
        bytes_in: facts.bytes_in,
        bytes_out: facts.bytes_out,
        duration_us: taken.duration_ns / 1_000,
        overhead_us: u32::try_from(taken.overhead_ns / 1_000).unwrap_or(u32::MAX),
        upstream_us: taken.waited_ns / 1_000,
        messages: facts.messages,
        config: snapshot.generation,
        ..AccessRecord::default()
    };
    if facts.upgraded {
        record.flags.set(Flags::UPGRADED);
    }
    if x.agreed.resumed {
        record.flags.set(Flags::TLS_RESUMED);
    }
    if x.body.is_leased() {
        record.flags.set(Flags::BODY_HELD);
    }
    if let Some(reason) = &facts.reason {
        record.set_reason(reason, RecordMode::Enforce);
    } else if let Some((_, reason)) = x.would_refuse().next() {
        record.set_reason(reason, RecordMode::Observe);
        record.flags.set(Flags::LIMIT_OBSERVED);
    }
    record
}

impl std::fmt::Debug for CoreState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CoreState").finish_non_exhaustive()
    }
}
