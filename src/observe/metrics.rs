//! The counters of one core: written by that core alone, read by the control thread.
//!
//! For: counting on a data thread without a lock, a read-modify-write instruction or a hash. Not for: names, sums
//! over cores, text; see `registry`. Called by `worker`, `pipeline`, `tls` and `upstream` through [`CoreMetrics`].
//!
//! Layout: every counter is an `AtomicU64` with one writer, so an increment is a relaxed load and a relaxed store.
//! Blocks are found by id through two array steps and aligned to cache lines, so that cores never share one that is
//! written. Blocks of names are made by the control thread when it registers them; those of operations beyond
//! [`EAGER_OPERATIONS`] are made by the core at its first request for one (640 bytes, once).

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
use std::sync::{Arc, OnceLock};

use crossbeam::utils::CachePadded;

use super::names::{ListenerId, OperationId, TargetId, UpstreamId};
use super::record::{Method, Mode};
use super::request_id::RequestId;
use crate::http::Reason;

/// Operations whose counters exist before the first request; more are made on demand.
pub(super) const EAGER_OPERATIONS: u32 = 1024;

/// Most policy kinds that are counted apart.
pub(super) const POLICIES_MAX: usize = 48;

/// Upper bounds of the buckets of request durations, nanoseconds.
pub(super) const DURATION_BOUNDS_NS: [u64; 18] = [
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    10_000_000_000,
    30_000_000_000,
    60_000_000_000,
];

/// Upper bounds of the buckets of our own overhead, nanoseconds.
pub(super) const OVERHEAD_BOUNDS_NS: [u64; 15] = [
    1_000,
    2_500,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    100_000_000,
];

/// A counter with one writer.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    #[inline]
    pub(super) fn add(&self, amount: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
    }

    #[inline]
    fn bump(&self) {
        self.add(1);
    }

    pub(super) fn load(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn clear(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}

/// Fixed buckets; the last has no upper bound.
#[derive(Debug)]
pub(super) struct Histogram<const BUCKETS: usize> {
    pub(super) buckets: [Counter; BUCKETS],
    pub(super) sum_ns: Counter,
}

impl<const BUCKETS: usize> Default for Histogram<BUCKETS> {
    fn default() -> Self {
        Histogram { buckets: std::array::from_fn(|_| Counter::default()), sum_ns: Counter::default() }
    }
}

impl<const BUCKETS: usize> Histogram<BUCKETS> {
    #[inline]
    fn observe(&self, bucket: usize, value_ns: u64) {
        if let Some(counter) = self.buckets.get(bucket) {
            counter.bump();
        }
        self.sum_ns.add(value_ns);
    }

    fn clear(&self) {
        self.buckets.iter().for_each(Counter::clear);
        self.sum_ns.clear();
    }
}

/// For each number of significant bits, the first bucket that may hold a value of that size. Bounds grow by at least
/// two, so that at most two steps follow.
const fn first_buckets<const BOUNDS: usize>(bounds: &[u64; BOUNDS]) -> [u8; 65] {
    let mut first = [0; 65];
    let mut bits = 0;
    while bits <= 64 {
        let smallest = if bits == 0 { 0 } else { 1u64 << (bits - 1) };
        let mut bucket = 0;
        while bucket < BOUNDS && bounds[bucket] < smallest {
            bucket += 1;
        }
        first[bits] = bucket as u8;
        bits += 1;
    }
    first
}

static DURATION_FIRST: [u8; 65] = first_buckets(&DURATION_BOUNDS_NS);
static OVERHEAD_FIRST: [u8; 65] = first_buckets(&OVERHEAD_BOUNDS_NS);

#[inline]
fn bucket_of(first: &[u8; 65], bounds: &[u64], value_ns: u64) -> usize {
    let bits = (u64::BITS - value_ns.leading_zeros()) as usize;
    let mut bucket = usize::from(first[bits]);
    while bounds.get(bucket).is_some_and(|bound| value_ns > *bound) {
        bucket += 1;
    }
    bucket
}

/// Distinct (method, status) pairs of one operation that are counted apart; the rest is counted by class.
const STATUS_SLOTS: usize = 16;

/// The counters of one operation on one core.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct OperationBlock {
    /// `1 << 31 | method << 16 | status`, 0 = free; claimed by the core, never given back.
    keys: [AtomicU32; STATUS_SLOTS],
    counts: [Counter; STATUS_SLOTS],
    /// What found no slot, by status class; index 0 is "no status".
    spilled: [Counter; 6],
    pub(super) duration: Histogram<19>,
    pub(super) overhead: Histogram<16>,
}

impl OperationBlock {
    pub(super) fn new() -> OperationBlock {
        OperationBlock {
            keys: std::array::from_fn(|_| AtomicU32::new(0)),
            counts: std::array::from_fn(|_| Counter::default()),
            spilled: std::array::from_fn(|_| Counter::default()),
            duration: Histogram::default(),
            overhead: Histogram::default(),
        }
    }

    #[inline]
    fn count(&self, method: Method, status: u16) {
        let key = (method as u32) << 16 | u32::from(status) | 1 << 31;
        let mut slot = (usize::from(status) + 5 * method as usize) % STATUS_SLOTS;
        for _ in 0..STATUS_SLOTS {
            match self.keys[slot].load(Ordering::Relaxed) {
                found if found == key => return self.counts[slot].bump(),
                0 => {
                    self.keys[slot].store(key, Ordering::Release);
                    return self.counts[slot].bump();
                }
                _ => slot = (slot + 1) % STATUS_SLOTS,
            }
        }
        self.spilled[status_class(status)].bump();
    }

    /// Calls `each(method, status, count)` for every pair seen, then by class for what spilled.
    pub(super) fn statuses(&self, mut each: impl FnMut(Method, StatusLabel, u64)) {
        for (key, count) in self.keys.iter().zip(&self.counts) {
            let key = key.load(Ordering::Acquire);
            if key != 0 {
                each(
                    Method::from_number((key >> 16) as u8 & 0x7f),
                    StatusLabel::Exact(key as u16),
                    count.load(),
                );
            }
        }
        for (class, count) in self.spilled.iter().enumerate() {
            if count.load() != 0 {
                each(Method::Other, StatusLabel::Class(class as u8), count.load());
            }
        }
    }

    fn clear(&self) {
        self.keys.iter().for_each(|key| key.store(0, Ordering::Relaxed));
        self.counts.iter().for_each(Counter::clear);
        self.spilled.iter().for_each(Counter::clear);
        self.duration.clear();
        self.overhead.clear();
    }
}

/// A status, or the class of those that were not counted apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StatusLabel {
    Exact(u16),
    Class(u8),
}

/// 1 to 5, and 0 for anything that is no HTTP status.
#[inline]
fn status_class(status: u16) -> usize {
    match status / 100 {
        class @ 1..=5 => usize::from(class),
        _ => 0,
    }
}

/// The counters of one listener on one core.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct ListenerBlock {
    pub(super) opened: Counter,
    pub(super) closed: Counter,
    pub(super) handshakes: [Counter; 3],
}

/// The counters of one target on one core.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct TargetBlock {
    /// By status class; index 0 counts requests that got no answer.
    pub(super) requests: [Counter; 6],
}

/// The counters of one upstream on one core.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(super) struct UpstreamBlock {
    pub(super) retries: Counter,
}

/// A growing table of blocks that never move: a directory of chunks, each made once.
#[derive(Debug)]
pub(super) struct Blocks<T> {
    chunks: Box<[OnceLock<Box<[T]>>]>,
}

const CHUNK: usize = 64;

impl<T: Default> Blocks<T> {
    fn new(id_max: u32) -> Blocks<T> {
        Blocks { chunks: (0..=id_max as usize / CHUNK).map(|_| OnceLock::new()).collect() }
    }

    #[inline]
    pub(super) fn block(&self, id: u32) -> Option<&T> {
        self.chunks.get(id as usize / CHUNK)?.get()?.get(id as usize % CHUNK)
    }

    /// Called by the control thread before it gives out `id`.
    fn make(&self, id: u32) -> Option<&T> {
        let chunk = self.chunks.get(id as usize / CHUNK)?;
        chunk.get_or_init(|| (0..CHUNK).map(|_| T::default()).collect()).get(id as usize % CHUNK)
    }
}

/// Distinct (reason, mode) pairs that are counted apart on a core; there are about 150 reasons.
const REFUSAL_SLOTS: usize = 512;

#[derive(Debug, Default)]
pub(super) struct RefusalSlot {
    pub(super) what: OnceLock<(Reason, Mode)>,
    pub(super) count: Counter,
}

/// One request that stands for a bucket.
///
/// Written by the core under a sequence number that is odd while it writes (a seqlock over atomics).
#[derive(Debug, Default)]
struct ExemplarSlot {
    sequence: AtomicU64,
    /// Operation id << 8 | bucket.
    place: AtomicU64,
    /// Time << 1 | 1 if the id is a trace id.
    time_and_kind: AtomicU64,
    value_ns: AtomicU64,
    id: [AtomicU64; 2],
}

const EXEMPLAR_SLOTS: usize = 256;

/// The id that an exemplar carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExemplarId {
    /// A sampled trace.
    Trace([u8; 16]),
    /// A request that is in the access log.
    Request(RequestId),
}

/// An exemplar as read by the control thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Exemplar {
    pub(super) operation: u32,
    pub(super) bucket: usize,
    pub(super) time_ms: u64,
    pub(super) value_ns: u64,
    pub(super) id: ExemplarId,
}

/// Everything one core counts.
#[derive(Debug)]
pub(super) struct CoreCounters {
    pub(super) operations: Blocks<OnceLock<Box<OperationBlock>>>,
    pub(super) listeners: Blocks<ListenerBlock>,
    pub(super) targets: Blocks<TargetBlock>,
    pub(super) upstreams: Blocks<UpstreamBlock>,
    pub(super) refusals: Box<[RefusalSlot]>,
    /// By policy, mode (observe, enforce) and decision.
    pub(super) decisions: Box<[[[Counter; 3]; 2]; POLICIES_MAX]>,
    exemplars: Box<[ExemplarSlot]>,
    pub(super) tokens: CachePadded<[Counter; 3]>,
    pub(super) busy_ns: Counter,
    pub(super) idle_ns: Counter,
    pub(super) panics: Counter,
    pub(super) tunnels_opened: Counter,
    pub(super) tunnels_closed: Counter,
    /// Changes of the configuration, by what they took.
    pub(super) switches: Histogram<16>,
    pub(super) refusals_spilled: Counter,
    pub(super) uncounted: Counter,
}

impl CoreCounters {
    pub(super) fn new() -> CoreCounters {
        let counters = CoreCounters {
            operations: Blocks::new(OperationId::MAX),
            listeners: Blocks::new(ListenerId::MAX),
            targets: Blocks::new(TargetId::MAX),
            upstreams: Blocks::new(UpstreamId::MAX),
            refusals: (0..REFUSAL_SLOTS).map(|_| RefusalSlot::default()).collect(),
            decisions: Box::new(std::array::from_fn(|_| Default::default())),
            exemplars: (0..EXEMPLAR_SLOTS).map(|_| ExemplarSlot::default()).collect(),
            tokens: CachePadded::default(),
            busy_ns: Counter::default(),
            idle_ns: Counter::default(),
            panics: Counter::default(),
            tunnels_opened: Counter::default(),
            tunnels_closed: Counter::default(),
            switches: Histogram::default(),
            refusals_spilled: Counter::default(),
            uncounted: Counter::default(),
        };
        // Id 0 stands for "none" and for all that found no id of its own.
        counters.make_operation(0);
        counters.make_listener(0);
        counters.make_upstream(0);
        counters.make_target(0);
        counters
    }

    /// Control thread: makes room for an id before it is given out, with all counts zero.
    pub(super) fn make_operation(&self, id: u32) {
        if let Some(cell) = self.operations.make(id) {
            if let Some(block) = cell.get() {
                block.clear();
            } else if id < EAGER_OPERATIONS {
                let _ = cell.set(Box::new(OperationBlock::new()));
            }
        }
    }

    /// As [`CoreCounters::make_operation`].
    pub(super) fn make_listener(&self, id: u32) {
        if let Some(block) = self.listeners.make(id) {
            block.opened.clear();
            block.closed.clear();
            block.handshakes.iter().for_each(Counter::clear);
        }
    }

    /// As [`CoreCounters::make_operation`].
    pub(super) fn make_target(&self, id: u32) {
        if let Some(block) = self.targets.make(id) {
            block.requests.iter().for_each(Counter::clear);
        }
    }

    /// As [`CoreCounters::make_operation`].
    pub(super) fn make_upstream(&self, id: u32) {
        if let Some(block) = self.upstreams.make(id) {
            block.retries.clear();
        }
    }

    /// Control thread: the exemplars that are whole right now.
    pub(super) fn exemplars(&self) -> impl Iterator<Item = Exemplar> + '_ {
        self.exemplars.iter().filter_map(ExemplarSlot::read)
    }
}

impl ExemplarSlot {
    fn write(&self, exemplar: &Exemplar, place: u64) {
        let (kind, bytes) = match exemplar.id {
            ExemplarId::Trace(id) => (1, id),
            ExemplarId::Request(RequestId(id)) => (0, id),
        };
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence + 1, Ordering::Relaxed);
        fence(Ordering::Release);
        self.place.store(place, Ordering::Relaxed);
        self.time_and_kind.store(exemplar.time_ms << 1 | kind, Ordering::Relaxed);
        self.value_ns.store(exemplar.value_ns, Ordering::Relaxed);
        for (word, chunk) in self.id.iter().zip(bytes.as_chunks::<8>().0) {
            word.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
        }
        self.sequence.store(sequence + 2, Ordering::Release);
    }

    fn read(&self) -> Option<Exemplar> {
        let before = self.sequence.load(Ordering::Acquire);
        let place = self.place.load(Ordering::Relaxed);
        let time_and_kind = self.time_and_kind.load(Ordering::Relaxed);
        let value_ns = self.value_ns.load(Ordering::Relaxed);
        let mut bytes = [0; 16];
        for (chunk, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(&self.id) {
            *chunk = word.load(Ordering::Relaxed).to_le_bytes();
        }
        fence(Ordering::Acquire);
        // Never written, being written, or written meanwhile.
        if before == 0 || before % 2 == 1 || self.sequence.load(Ordering::Relaxed) != before {
            return None;
        }
        let id = if time_and_kind & 1 == 1 {
            ExemplarId::Trace(bytes)
        } else {
            ExemplarId::Request(RequestId(bytes))
        };
        Some(Exemplar {
            operation: (place >> 8) as u32,
            bucket: (place & 0xff) as usize,
            time_ms: time_and_kind >> 1,
            value_ns,
            id,
        })
    }
}

/// How a TLS handshake ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Handshake {
    /// Done, with a full key exchange and certificate.
    Full,
    /// Done, from a ticket.
    Resumed,
    /// Not done.
    Failed,
}

/// What the cache of verified tokens said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TokenCache {
    /// Known and good.
    Hit,
    /// Not known.
    Miss,
    /// Known to be bad.
    Refused,
}

/// What a policy decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Decision {
    /// The request may go on.
    Admitted,
    /// The request is (or, observed, would have been) refused.
    Refused,
    /// An observed policy that could not decide within its bounds.
    Unknown,
}

/// The counters of one core, for that core's thread alone: it is neither `Sync` nor `Clone`.
#[derive(Debug)]
pub struct CoreMetrics {
    counters: Arc<CoreCounters>,
    not_shared: PhantomData<Cell<()>>,
}

impl CoreMetrics {
    pub(super) fn new(counters: Arc<CoreCounters>) -> CoreMetrics {
        CoreMetrics { counters, not_shared: PhantomData }
    }

    /// Counts a finished request: its status, its duration from first byte in to last byte out, and the part of it
    /// spent in our own code. Status 0 = no answer was sent. Cost: about 6 relaxed stores.
    #[inline]
    pub fn request(
        &self,
        operation: OperationId,
        method: Method,
        status: u16,
        duration_ns: u64,
        overhead_ns: u64,
    ) {
        let Some(cell) = self.counters.operations.block(operation.0) else {
            return self.counters.uncounted.bump();
        };
        let block = cell.get_or_init(|| Box::new(OperationBlock::new()));
        block.count(method, status);
        block.duration.observe(bucket_of(&DURATION_FIRST, &DURATION_BOUNDS_NS, duration_ns), duration_ns);
        block.overhead.observe(bucket_of(&OVERHEAD_FIRST, &OVERHEAD_BOUNDS_NS, overhead_ns), overhead_ns);
    }

    /// Offers a request as the exemplar of its duration bucket; one a second and bucket is kept.
    #[inline]
    pub fn exemplar(&self, operation: OperationId, duration_ns: u64, id: ExemplarId, now_ms: u64) {
        let bucket = bucket_of(&DURATION_FIRST, &DURATION_BOUNDS_NS, duration_ns);
        let place = u64::from(operation.0) << 8 | bucket as u64;
        // Neighbouring buckets and operations fall into different slots; others may take turns in one.
        let slot = &self.counters.exemplars[(operation.0 as usize * 19 + bucket) % EXEMPLAR_SLOTS];
        let kept_ms = slot.time_and_kind.load(Ordering::Relaxed) >> 1;
        if now_ms < kept_ms + 1000 {
            return;
        }
        let exemplar =
            Exemplar { operation: operation.0, bucket, time_ms: now_ms, value_ns: duration_ns, id };
        slot.write(&exemplar, place);
    }

    /// Counts a refusal of ours, or one that an observed policy would have made.
    #[inline]
    pub fn refusal(&self, reason: &Reason, mode: Mode) {
        let slots = &self.counters.refusals;
        let mut slot = (usize::from(reason.code) * 2 + usize::from(mode == Mode::Observe)) % REFUSAL_SLOTS;
        for _ in 0..REFUSAL_SLOTS {
            let what = slots[slot].what.get_or_init(|| (*reason, mode));
            if what.0.code == reason.code && what.1 == mode {
                return slots[slot].count.bump();
            }
            slot = (slot + 1) % REFUSAL_SLOTS;
        }
        self.counters.refusals_spilled.bump();
    }

    /// Counts a policy's decision. `policy` is its index in the list that the registry was made with.
    #[inline]
    pub fn decision(&self, policy: usize, mode: Mode, decision: Decision) {
        match self.counters.decisions.get(policy) {
            Some(modes) => modes[usize::from(mode == Mode::Enforce)][decision as usize].bump(),
            None => self.counters.uncounted.bump(),
        }
    }

    /// Counts a request to a target; status 0 = it gave no answer.
    #[inline]
    pub fn upstream_request(&self, target: TargetId, status: u16) {
        self.target(target).requests[status_class(status)].bump();
    }

    /// A request was sent again.
    #[inline]
    pub fn retry(&self, upstream: UpstreamId) {
        match self.counters.upstreams.block(upstream.0) {
            Some(block) => block.retries.bump(),
            None => self.counters.uncounted.bump(),
        }
    }

    /// A WebSocket stands between a client and its upstream.
    pub fn tunnel_opened(&self) {
        self.counters.tunnels_opened.bump();
    }

    /// It is over.
    pub fn tunnel_closed(&self) {
        self.counters.tunnels_closed.bump();
    }

    /// A client's connection was accepted.
    #[inline]
    pub fn connection_opened(&self, listener: ListenerId) {
        self.listener(listener).opened.bump();
    }

    /// A client's connection was closed.
    #[inline]
    pub fn connection_closed(&self, listener: ListenerId) {
        self.listener(listener).closed.bump();
    }

    /// A TLS handshake with a client ended.
    #[inline]
    pub fn handshake(&self, listener: ListenerId, how: Handshake) {
        self.listener(listener).handshakes[how as usize].bump();
    }

    /// The token cache was asked so many times. It counts for itself; the core's tick tells what came since.
    pub fn tokens(&self, answer: TokenCache, count: u64) {
        self.counters.tokens[answer as usize].add(count);
    }

    /// A panic was caught.
    pub fn panic(&self) {
        self.counters.panics.bump();
    }

    /// The core runs another configuration; going over to it took so long, during which nobody else had a turn.
    pub fn switched(&self, took_ns: u64) {
        self.counters.switches.observe(bucket_of(&OVERHEAD_FIRST, &OVERHEAD_BOUNDS_NS, took_ns), took_ns);
    }

    /// Time spent working and waiting since the last call, nanoseconds.
    #[inline]
    pub fn busy(&self, busy_ns: u64, idle_ns: u64) {
        self.counters.busy_ns.add(busy_ns);
        self.counters.idle_ns.add(idle_ns);
    }

    /// Unknown ids count under 0, which always exists.
    #[inline]
    fn target(&self, id: TargetId) -> &TargetBlock {
        static NONE: OnceLock<TargetBlock> = OnceLock::new();
        let targets = &self.counters.targets;
        targets
            .block(id.0)
            .or_else(|| targets.block(0))
            .unwrap_or_else(|| NONE.get_or_init(TargetBlock::default))
    }

    #[inline]
    fn listener(&self, id: ListenerId) -> &ListenerBlock {
        static NONE: OnceLock<ListenerBlock> = OnceLock::new();
        let listeners = &self.counters.listeners;
        listeners
            .block(id.0)
            .or_else(|| listeners.block(0))
            .unwrap_or_else(|| NONE.get_or_init(ListenerBlock::default))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bucket_of_each_edge_is_right() {
        let slow = |bounds: &[u64], value: u64| bounds.iter().take_while(|bound| value > **bound).count();
        let bounds: [(&[u8; 65], &[u64]); 2] =
            [(&DURATION_FIRST, &DURATION_BOUNDS_NS), (&OVERHEAD_FIRST, &OVERHEAD_BOUNDS_NS)];
        for (first, bounds) in bounds {
            let edges = bounds.iter().flat_map(|bound| [bound - 1, *bound, bound + 1]);
            let powers = (0..64).flat_map(|bit| [(1u64 << bit) - 1, 1 << bit]);
            for value in edges.chain(powers).chain([u64::MAX]) {
                assert_eq!(bucket_of(first, bounds, value), slow(bounds, value), "{value}");
            }
        }
    }

    #[test]
    fn more_statuses_than_slots_are_counted_by_class() {
        let block = OperationBlock::new();
        for status in 400..420 {
            for _ in 0..3 {
                block.count(Method::Get, status);
            }
        }
        block.count(Method::Get, 0);
        let (mut exact, mut spilled) = (0, Vec::new());
        block.statuses(|_, label, count| match label {
            StatusLabel::Exact(_) => {
                assert_eq!(count, 3);
                exact += 1;
            }
            StatusLabel::Class(class) => spilled.push((class, count)),
        });
        assert_eq!(exact, STATUS_SLOTS);
        assert_eq!(spilled, [(0, 1), (4, 12)]);
    }

    #[test]
    fn refusals_are_kept_apart_by_code_and_mode() {
        let core = CoreMetrics::new(Arc::new(CoreCounters::new()));
        const A: Reason = Reason::client("test_a", 3001, 401, "A");
        const B: Reason = Reason::client("test_b", 3001 + REFUSAL_SLOTS as u16 / 2, 403, "B");
        for _ in 0..2 {
            core.refusal(&A, Mode::Enforce);
            core.refusal(&B, Mode::Enforce);
            core.refusal(&A, Mode::Observe);
        }
        let seen: Vec<_> = core
            .counters
            .refusals
            .iter()
            .filter_map(|slot| slot.what.get().map(|what| (what.0.code, what.1, slot.count.load())))
            .collect();
        assert_eq!(seen.len(), 3);
        assert!(seen.iter().all(|(_, _, count)| *count == 2));
    }

    #[test]
    fn more_reasons_than_slots_are_counted_together() {
        let core = CoreMetrics::new(Arc::new(CoreCounters::new()));
        for code in 0..REFUSAL_SLOTS as u16 + 5 {
            core.refusal(&Reason::client("test", code, 400, ""), Mode::Enforce);
        }
        assert_eq!(core.counters.refusals_spilled.load(), 5);
    }

    #[test]
    fn an_unknown_operation_is_counted_as_such() {
        let core = CoreMetrics::new(Arc::new(CoreCounters::new()));
        core.request(OperationId(77_777), Method::Get, 200, 1, 1);
        core.request(OperationId::NONE, Method::Get, 200, 1, 1);
        assert_eq!(core.counters.uncounted.load(), 1);
    }

    #[test]
    fn an_exemplar_is_never_torn() {
        let counters = Arc::new(CoreCounters::new());
        let core = CoreMetrics::new(Arc::clone(&counters));
        let writer = std::thread::spawn(move || {
            for step in 1..200_000u64 {
                let byte = (step % 251) as u8;
                core.exemplar(OperationId(1), 5, ExemplarId::Trace([byte; 16]), step * 1000);
            }
        });
        let mut seen = 0;
        while !writer.is_finished() {
            for exemplar in counters.exemplars() {
                let byte = (exemplar.time_ms / 1000 % 251) as u8;
                assert_eq!(exemplar.id, ExemplarId::Trace([byte; 16]));
                seen += 1;
            }
        }
        writer.join().expect("the writer ends");
        assert!(seen > 0 || counters.exemplars().count() == 1);
    }
}
