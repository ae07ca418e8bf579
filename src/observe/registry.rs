//! Names in, numbers out: gives ids to configured names and sums the counters of all cores into a page.
//!
//! For: the control thread, which owns the one [`Registry`]; `register` at each new configuration, `page` at each
//! scrape. Not for: data threads, which see only ids ([`RegisteredNames`], inside their snapshot) and their own
//! [`CoreMetrics`].
//!
//! Ids are counted by the live [`RegisteredNames`] that hold them. One that no configuration holds any more stays
//! readable for [`IDLE_MS_MIN`], then it leaves the page and may be given out again, with its counters at zero.
//! Memory: 640 bytes per operation and core that served a request (or is among the first 1024), 64 per target and
//! listener, 16 per possible chunk.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::exposition::{Exposition, FAMILIES, Family, Page, Samples, label_text};
use super::metrics::{
    CoreCounters, CoreMetrics, Counter, DURATION_BOUNDS_NS, Exemplar, ListenerBlock, OVERHEAD_BOUNDS_NS,
    OperationBlock, POLICIES_MAX, StatusLabel, TargetBlock,
};
use super::names::{
    ApiId, Directory, Kind, ListenerId, LoginId, Name, NameTable, Names, OperationId, TargetId, UpstreamId,
};
use super::record::{LogDrain, Method, Mode};
use super::ring::LossCounter;
use super::writer::WriterStats;

/// How long an id rests before another name gets it.
const IDLE_MS_MIN: u64 = 10 * 60 * 1000;

/// The busy ratio is taken over at least this long, so that a second scraper does not spoil it.
const BUSY_WINDOW_NS_MIN: u64 = 900_000_000;

/// Ids of all names of one configuration, in the order of its [`Names`]. The snapshot holds it: while it lives, its
/// ids are not given to other names.
#[derive(Debug)]
pub struct RegisteredNames {
    /// In the order of [`Names::listeners`].
    pub listeners: Vec<ListenerId>,
    /// In the order of [`Names::apis`].
    pub apis: Vec<RegisteredApi>,
    /// In the order of [`Names::logins`].
    pub logins: Vec<LoginId>,
    /// In the order of [`Names::upstreams`].
    pub upstreams: Vec<UpstreamId>,
    /// The registry looks whether it holds the only other one.
    _alive: Arc<()>,
}

/// Ids of one API.
#[derive(Debug)]
pub struct RegisteredApi {
    /// The API.
    pub api: ApiId,
    /// For requests that reached the API but matched no operation of it (404, 405).
    pub unmatched: OperationId,
    /// In the order of [`ApiNames::operations`](super::ApiNames::operations).
    pub operations: Vec<OperationId>,
}

/// One id that was given out.
#[derive(Debug)]
struct Slot {
    name: Arc<Name>,
    parent: u32,
    /// Live configurations that hold it.
    holders: u32,
    idle_since_ms: u64,
    /// Still in the name map and on the page.
    listed: bool,
}

#[derive(Debug)]
struct Holder {
    alive: Arc<()>,
    ids: Vec<(Kind, u32)>,
}

type Source = Box<dyn FnMut(&mut Samples) + Send>;

/// All counters of the process and the names of their ids. Owned by the control thread.
pub struct Registry {
    cores: Vec<Arc<CoreCounters>>,
    unclaimed: Vec<Option<CoreMetrics>>,
    policies: &'static [&'static str],
    directory: Arc<Directory>,
    slots: [Vec<Slot>; 6],
    /// Ids that have rested, by kind.
    free: [Vec<u32>; 6],
    ids: HashMap<(Kind, u32, Box<str>), u32>,
    holders: Vec<Holder>,
    names_without_id: u64,
    sources: Vec<Source>,
    access_losses: Vec<LossCounter>,
    audit_losses: Vec<LossCounter>,
    writer: Option<Arc<WriterStats>>,
    /// Per core: busy and idle nanoseconds at the start of the window, and the last ratio.
    busy: Vec<(u64, u64, f64)>,
}

impl Registry {
    /// A registry for `cores` data threads. `policies` names the policies by the index that cores count them under;
    /// those past 48 are not counted apart.
    pub fn new(cores: usize, policies: &'static [&'static str]) -> Registry {
        let counters: Vec<_> = (0..cores).map(|_| Arc::new(CoreCounters::new())).collect();
        let none = Arc::new(Name::new(""));
        let slots = std::array::from_fn(|_| {
            let name = Arc::clone(&none);
            vec![Slot { name, parent: 0, holders: 1, idle_since_ms: 0, listed: true }]
        });
        Registry {
            unclaimed: counters.iter().map(|core| Some(CoreMetrics::new(Arc::clone(core)))).collect(),
            busy: vec![(0, 0, 0.0); cores],
            cores: counters,
            policies,
            directory: Arc::default(),
            slots,
            free: Default::default(),
            ids: HashMap::new(),
            holders: Vec::new(),
            names_without_id: 0,
            sources: Vec::new(),
            access_losses: Vec::new(),
            audit_losses: Vec::new(),
            writer: None,
        }
    }

    /// The handle of one core; `None` if there is no such core or its handle was taken (a counter has one writer).
    pub fn take_core(&mut self, core: usize) -> Option<CoreMetrics> {
        self.unclaimed.get_mut(core)?.take()
    }

    /// The names, for the writer.
    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.directory)
    }

    /// Lets the page show what the rings of `drain` lose.
    pub fn watch_rings(&mut self, drain: &LogDrain) {
        self.access_losses = drain.access_losses();
        self.audit_losses = drain.audit_losses();
    }

    /// Lets the page show how the writer fares.
    pub fn watch_writer(&mut self, stats: Arc<WriterStats>) {
        self.writer = Some(stats);
    }

    /// Adds samples that only their owner knows (health, certificates, tables); asked at each scrape.
    pub fn add_source(&mut self, source: impl FnMut(&mut Samples) + Send + 'static) {
        self.sources.push(Box::new(source));
    }

    /// Gives ids to all names of a new configuration and publishes them to the writer, before any core can use them.
    /// `now_ms` may be any clock that does not step back.
    pub fn register(&mut self, names: &Names, now_ms: u64) -> RegisteredNames {
        self.sweep(now_ms);
        self.names_without_id = 0;
        let mut held = Vec::new();
        let listeners = names.listeners.iter();
        let listeners =
            listeners.map(|name| ListenerId(self.id(Kind::Listener, 0, name, now_ms, &mut held))).collect();
        let mut apis = Vec::with_capacity(names.apis.len());
        for api in &names.apis {
            let id = self.id(Kind::Api, 0, &api.name, now_ms, &mut held);
            let unmatched = OperationId(self.id(Kind::Operation, id, "", now_ms, &mut held));
            let operations = api.operations.iter();
            let operations = operations
                .map(|name| OperationId(self.id(Kind::Operation, id, name, now_ms, &mut held)))
                .collect();
            apis.push(RegisteredApi { api: ApiId(id), unmatched, operations });
        }
        let logins = names.logins.iter();
        let logins = logins.map(|name| LoginId(self.id(Kind::Login, 0, name, now_ms, &mut held))).collect();
        let upstreams = names.upstreams.iter();
        let upstreams =
            upstreams.map(|name| UpstreamId(self.id(Kind::Upstream, 0, name, now_ms, &mut held))).collect();
        let alive = Arc::new(());
        self.holders.push(Holder { alive: Arc::clone(&alive), ids: held });
        self.publish();
        RegisteredNames { listeners, apis, logins, upstreams, _alive: alive }
    }

    /// Gives ids to members of an upstream and publishes them to the writer, before any core can use them. They stay theirs
    /// for as long as what comes back with them lives.
    pub fn register_targets(
        &mut self,
        upstream: &str,
        targets: &[String],
        now_ms: u64,
    ) -> (Vec<TargetId>, Arc<()>) {
        self.sweep(now_ms);
        let mut held = Vec::new();
        let parent = self.id(Kind::Upstream, 0, upstream, now_ms, &mut held);
        let ids = targets
            .iter()
            .map(|name| TargetId(self.id(Kind::Target, parent, name, now_ms, &mut held)))
            .collect();
        let alive = Arc::new(());
        self.holders.push(Holder { alive: Arc::clone(&alive), ids: held });
        self.publish();
        (ids, alive)
    }

    /// All metrics, as a page in the given form. `now_ms` as in [`Registry::register`].
    pub fn page(&mut self, form: Exposition, now_ms: u64) -> String {
        self.sweep(now_ms);
        let mut samples = Samples::default();
        samples.push(Family::BuildInfo, &[("version", env!("CARGO_PKG_VERSION"))], 1.0);
        samples.push(Family::NamesWithoutId, &[], self.names_without_id as f64);
        for source in &mut self.sources {
            source(&mut samples);
        }
        self.busy_ratios(&mut samples);
        let mut page = Page::new(form);
        for spec in FAMILIES {
            page.head(spec.family);
            self.family(spec.family, &mut page);
            for (_, labels, value) in samples.list.iter().filter(|(family, _, _)| *family == spec.family) {
                page.real(spec.family, labels, *value);
            }
        }
        page.finish()
    }

    fn family(&self, family: Family, page: &mut Page) {
        match family {
            Family::Connections => self.listeners(page, |page, labels, blocks| {
                let opened: u64 = blocks.iter().map(|block| block.opened.load()).sum();
                let closed: u64 = blocks.iter().map(|block| block.closed.load()).sum();
                page.whole(family, &label_text(labels), opened.saturating_sub(closed));
            }),
            Family::TlsHandshakes => self.listeners(page, |page, labels, blocks| {
                for (at, status) in ["full", "resumed", "failed"].into_iter().enumerate() {
                    let count: u64 = blocks.iter().map(|block| block.handshakes[at].load()).sum();
                    page.whole(family, &label_text(&[labels[0], ("status", status)]), count);
                }
            }),
            Family::HttpRequests => self.requests(page),
            Family::HttpRequestDuration => self.durations(page),
            Family::Overhead => self.overheads(page),
            Family::Refusals => self.refusals(page),
            Family::PolicyDecisions => self.decisions(page),
            Family::TokenCache => {
                for (at, status) in ["hit", "miss", "refused"].into_iter().enumerate() {
                    let count = self.cores.iter().map(|core| core.tokens[at].load()).sum();
                    page.whole(family, &label_text(&[("status", status)]), count);
                }
            }
            Family::UpstreamRequests => self.targets(|labels, blocks| {
                for (at, status) in ["none", "1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().enumerate() {
                    let count: u64 = blocks.iter().map(|block| block.requests[at].load()).sum();
                    if count != 0 {
                        page.whole(family, &label_text(&[labels[0], labels[1], ("status", status)]), count);
                    }
                }
            }),
            Family::Retries => {
                for (id, slot) in self.listed(Kind::Upstream) {
                    let blocks = self.cores.iter().filter_map(|core| core.upstreams.block(id));
                    let count = blocks.map(|block| block.retries.load()).sum();
                    if id != 0 || count != 0 {
                        page.whole(family, &label_text(&[("upstream", &slot.name.text)]), count);
                    }
                }
            }
            Family::LogRecordsLost => {
                per_core(page, family, self.access_losses.iter().map(LossCounter::load))
            }
            // The ring of the control thread comes last; it is no core.
            Family::AuditRecordsLost => {
                per_core(page, family, self.audit_losses.iter().map(LossCounter::load))
            }
            Family::CountsLost => per_core(
                page,
                family,
                self.cores.iter().map(|core| core.refusals_spilled.load() + core.uncounted.load()),
            ),
            Family::ConfigSwitch => {
                let mut buckets = [0; 16];
                let mut sum_ns = 0u64;
                for core in &self.cores {
                    add_counts(&mut buckets, &core.switches.buckets);
                    sum_ns = sum_ns.wrapping_add(core.switches.sum_ns.load());
                }
                page.histogram(family, "", &OVERHEAD_BOUNDS_NS, &buckets, sum_ns, &[]);
            }
            Family::Tunnels => {
                let sum = |counter: fn(&CoreCounters) -> &Counter| -> u64 {
                    self.cores.iter().map(|core| counter(core).load()).sum()
                };
                // What was closed is read first: whatever opens meanwhile is one too many, never one too few.
                let closed = sum(|core| &core.tunnels_closed);
                page.whole(family, "", sum(|core| &core.tunnels_opened).saturating_sub(closed));
            }
            Family::Panics => per_core(page, family, self.cores.iter().map(|core| core.panics.load())),
            Family::CoreBusySeconds => {
                for (core, counters) in self.cores.iter().enumerate() {
                    let labels = label_text(&[("core", itoa::Buffer::new().format(core))]);
                    page.real(family, &labels, counters.busy_ns.load() as f64 / 1e9);
                }
            }
            Family::LogRecords
            | Family::AuditRecords
            | Family::LogRecordsTruncated
            | Family::LogWriteErrors
            | Family::LogBytes
            | Family::NoticesLost => {
                if let Some(stats) = &self.writer {
                    page.whole(family, "", stats.of(family));
                }
            }
            // Contributed by sources.
            Family::BuildInfo
            | Family::DriverInfo
            | Family::ConfigGeneration
            | Family::ConfigLastReloadSuccess
            | Family::ConfigSpread
            | Family::ConfigsAlive
            | Family::ExceptionsExpired
            | Family::Blocks
            | Family::ConnectionsMax
            | Family::AcceptsPaused
            | Family::MemoryUsed
            | Family::MemoryMax
            | Family::DescriptorsUsed
            | Family::DescriptorsMax
            | Family::LimitTableUsed
            | Family::CertificateExpiry
            | Family::ClientCrlExpiry
            | Family::UpstreamConnections
            | Family::UpstreamUp
            | Family::UpstreamEjected
            | Family::UpstreamInFlight
            | Family::UpstreamInFlightMax
            | Family::BreakerOpen
            | Family::UpstreamTargetsValid
            | Family::NamesWithoutId
            | Family::CoreBusy => {}
        }
    }

    fn listeners(
        &self,
        page: &mut Page,
        mut each: impl FnMut(&mut Page, &[(&str, &str)], &[&ListenerBlock]),
    ) {
        for (id, slot) in self.listed(Kind::Listener) {
            let blocks: Vec<_> = self.cores.iter().filter_map(|core| core.listeners.block(id)).collect();
            // Id 0 is shown only if something was counted without a listener.
            if id != 0 || blocks.iter().any(|block| block.opened.load() != 0) {
                each(page, &[("listener", &slot.name.text)], &blocks);
            }
        }
    }

    fn targets(&self, mut each: impl FnMut(&[(&str, &str)], &[&TargetBlock])) {
        for (id, slot) in self.listed(Kind::Target) {
            let blocks: Vec<_> = self.cores.iter().filter_map(|core| core.targets.block(id)).collect();
            if id != 0 || blocks.iter().any(|block| block.requests.iter().any(|count| count.load() != 0)) {
                let upstream = self.name(Kind::Upstream, slot.parent);
                each(&[("upstream", upstream), ("target", &slot.name.text)], &blocks);
            }
        }
    }

    fn requests(&self, page: &mut Page) {
        for (id, slot) in self.listed(Kind::Operation) {
            let mut counts = BTreeMap::<(u8, StatusLabel), u64>::new();
            for block in self.operation_blocks(id) {
                block.statuses(|method, status, count| {
                    *counts.entry((method as u8, status)).or_default() += count
                });
            }
            for ((method, status), count) in counts {
                let status = match status {
                    StatusLabel::Exact(status) => status.to_string(),
                    StatusLabel::Class(class) => format!("{class}xx"),
                };
                let labels = [
                    ("api", self.name(Kind::Api, slot.parent)),
                    ("operation", &slot.name.text),
                    ("method", Method::from_number(method).name()),
                    ("status", &status),
                ];
                page.whole(Family::HttpRequests, &label_text(&labels), count);
            }
        }
    }

    fn durations(&self, page: &mut Page) {
        let mut exemplars = HashMap::<u32, Vec<Exemplar>>::new();
        for exemplar in self.cores.iter().flat_map(|core| core.exemplars()) {
            exemplars.entry(exemplar.operation).or_default().push(exemplar);
        }
        for (id, slot) in self.listed(Kind::Operation) {
            let mut buckets = [0; 19];
            let mut sum_ns = 0u64;
            for block in self.operation_blocks(id) {
                add_counts(&mut buckets, &block.duration.buckets);
                sum_ns = sum_ns.wrapping_add(block.duration.sum_ns.load());
            }
            if buckets != [0; 19] {
                let labels = [("api", self.name(Kind::Api, slot.parent)), ("operation", &slot.name.text)];
                let exemplars = exemplars.get(&id).map_or(&[][..], Vec::as_slice);
                let family = Family::HttpRequestDuration;
                page.histogram(
                    family,
                    &label_text(&labels),
                    &DURATION_BOUNDS_NS,
                    &buckets,
                    sum_ns,
                    exemplars,
                );
            }
        }
    }

    /// By API: per operation it would say little and cost a page.
    fn overheads(&self, page: &mut Page) {
        let mut by_api = BTreeMap::<u32, ([u64; 16], u64)>::new();
        for (id, slot) in self.listed(Kind::Operation) {
            for block in self.operation_blocks(id) {
                let (buckets, sum_ns) = by_api.entry(slot.parent).or_default();
                add_counts(buckets, &block.overhead.buckets);
                *sum_ns = sum_ns.wrapping_add(block.overhead.sum_ns.load());
            }
        }
        for (api, (buckets, sum_ns)) in by_api {
            if buckets != [0; 16] {
                let labels = label_text(&[("api", self.name(Kind::Api, api))]);
                page.histogram(Family::Overhead, &labels, &OVERHEAD_BOUNDS_NS, &buckets, sum_ns, &[]);
            }
        }
    }

    fn refusals(&self, page: &mut Page) {
        let mut counts = BTreeMap::<(&'static str, &'static str), u64>::new();
        for slot in self.cores.iter().flat_map(|core| &core.refusals) {
            if let Some((reason, mode)) = slot.what.get() {
                *counts.entry((reason.token, mode.name())).or_default() += slot.count.load();
            }
        }
        for ((reason, mode), count) in counts {
            page.whole(Family::Refusals, &label_text(&[("reason", reason), ("mode", mode)]), count);
        }
    }

    fn decisions(&self, page: &mut Page) {
        for (at, policy) in self.policies.iter().take(POLICIES_MAX).enumerate() {
            for (mode_at, mode) in [Mode::Observe, Mode::Enforce].into_iter().enumerate() {
                for (decision_at, decision) in ["admitted", "refused", "unknown"].into_iter().enumerate() {
                    let count =
                        self.cores.iter().map(|core| core.decisions[at][mode_at][decision_at].load()).sum();
                    if count != 0 {
                        let labels = [("policy", *policy), ("mode", mode.name()), ("status", decision)];
                        page.whole(Family::PolicyDecisions, &label_text(&labels), count);
                    }
                }
            }
        }
    }

    fn busy_ratios(&mut self, samples: &mut Samples) {
        for (core, (counters, window)) in self.cores.iter().zip(&mut self.busy).enumerate() {
            let (busy, idle) = (counters.busy_ns.load(), counters.idle_ns.load());
            let (busy_since, idle_since) = (busy.saturating_sub(window.0), idle.saturating_sub(window.1));
            if busy_since + idle_since >= BUSY_WINDOW_NS_MIN {
                *window = (busy, idle, busy_since as f64 / (busy_since + idle_since) as f64);
            }
            samples.push(Family::CoreBusy, &[("core", itoa::Buffer::new().format(core))], window.2);
        }
    }

    fn operation_blocks(&self, id: u32) -> impl Iterator<Item = &OperationBlock> {
        self.cores.iter().filter_map(move |core| core.operations.block(id)?.get().map(|block| &**block))
    }

    fn listed(&self, kind: Kind) -> impl Iterator<Item = (u32, &Slot)> {
        self.slots[kind as usize]
            .iter()
            .enumerate()
            .filter(|(_, slot)| slot.listed)
            .map(|(id, slot)| (id as u32, slot))
    }

    fn name(&self, kind: Kind, id: u32) -> &str {
        self.slots[kind as usize].get(id as usize).map_or("", |slot| &slot.name.text)
    }

    /// The id of a name: the one it has, a rested one, a new one, or 0 if there are no more.
    fn id(&mut self, kind: Kind, parent: u32, text: &str, now_ms: u64, held: &mut Vec<(Kind, u32)>) -> u32 {
        let key = (kind, parent, Box::from(text));
        let slots = &mut self.slots[kind as usize];
        if let Some(id) = self.ids.get(&key) {
            slots[*id as usize].holders += 1;
            held.push((kind, *id));
            return *id;
        }
        let id = match self.free[kind as usize].pop() {
            Some(id) => id,
            None if slots.len() <= kind.id_max() as usize => slots.len() as u32,
            None => {
                self.names_without_id += 1;
                return 0;
            }
        };
        for core in &self.cores {
            match kind {
                Kind::Listener => core.make_listener(id),
                Kind::Operation => core.make_operation(id),
                Kind::Upstream => core.make_upstream(id),
                Kind::Target => core.make_target(id),
                Kind::Api | Kind::Login => {}
            }
        }
        let slot =
            Slot { name: Arc::new(Name::new(text)), parent, holders: 1, idle_since_ms: now_ms, listed: true };
        match slots.get_mut(id as usize) {
            Some(place) => *place = slot,
            None => slots.push(slot),
        }
        self.ids.insert(key, id);
        held.push((kind, id));
        id
    }

    /// Lets go of what dead configurations held, and of ids that have rested long enough.
    fn sweep(&mut self, now_ms: u64) {
        let slots = &mut self.slots;
        self.holders.retain(|holder| {
            let alive = Arc::strong_count(&holder.alive) > 1;
            if !alive {
                for (kind, id) in &holder.ids {
                    let slot = &mut slots[*kind as usize][*id as usize];
                    slot.holders -= 1;
                    slot.idle_since_ms = now_ms;
                }
            }
            alive
        });
        for kind in Kind::ALL {
            for (id, slot) in slots[kind as usize].iter_mut().enumerate() {
                if slot.listed
                    && slot.holders == 0
                    && now_ms.saturating_sub(slot.idle_since_ms) >= IDLE_MS_MIN
                {
                    slot.listed = false;
                    self.free[kind as usize].push(id as u32);
                    self.ids.remove(&(kind, slot.parent, Box::from(slot.name.text.as_str())));
                }
            }
        }
    }

    fn publish(&self) {
        let mut table = NameTable::default();
        for kind in Kind::ALL {
            let slots = self.slots[kind as usize].iter();
            let names = slots.map(|slot| (!slot.name.text.is_empty()).then(|| Arc::clone(&slot.name)));
            table.set(kind, names.collect());
        }
        self.directory.publish(table);
    }
}

fn add_counts(sums: &mut [u64], counters: &[Counter]) {
    for (sum, counter) in sums.iter_mut().zip(counters) {
        *sum = sum.wrapping_add(counter.load());
    }
}

fn per_core(page: &mut Page, family: Family, counts: impl Iterator<Item = u64>) {
    for (core, count) in counts.enumerate() {
        page.whole(family, &label_text(&[("core", itoa::Buffer::new().format(core))]), count);
    }
}
