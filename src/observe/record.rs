//! The record of one exchange, its fixed binary layout, and the producers through which a core hands it over.
//!
//! For: filling an [`AccessRecord`] with integers and borrowed strings at the end of an exchange and copying it once
//! into the core's ring. Not for: text of any kind; that is made by the writer thread. Called by `pipeline`.
//!
//! Cost: one copy of 22 words and of the strings, cut at their bounds; no allocation, no lock, no wait. A full ring
//! is a counted loss for access records and an answer ([`Full`]) for audit records.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::format::{Formatter, LogFormat};
use super::names::{ApiId, ListenerId, LoginId, NameTable, OperationId, TargetId, UpstreamId};
use super::request_id::RequestId;
use super::ring::{Consumer, LossCounter, Producer, RECORD_WORDS_MAX, ring};
use crate::http::{Reason, head};

/// Longest host in a record, bytes.
const HOST_BYTES_MAX: usize = 255;
/// Longest method in a record that is not one of [`Method`]'s names, bytes.
const METHOD_BYTES_MAX: usize = 32;
/// Longest path in a record, bytes.
const PATH_BYTES_MAX: usize = 2048;
/// Longest query in a record, bytes.
const QUERY_BYTES_MAX: usize = 2048;
/// Longest subject in a record, bytes.
const SUBJECT_BYTES_MAX: usize = 255;
/// Longest key id in a record, bytes.
const KEY_ID_BYTES_MAX: usize = 64;
/// Longest reason token, bytes.
const REASON_BYTES_MAX: usize = 32;
/// Longest adopted request id, bytes.
const CLIENT_REQUEST_ID_BYTES_MAX: usize = 128;
/// Longest `Referer` in a record, bytes.
const REFERER_BYTES_MAX: usize = 1024;
/// Longest `User-Agent` in a record, bytes.
const AGENT_BYTES_MAX: usize = 512;
/// Most messages in a record.
const MESSAGES_MAX: u64 = (1 << 36) - 1;
/// Longest string of an administrative record, bytes.
const ADMIN_BYTES_MAX: usize = 512;

/// One exchange, ready to be copied into a ring. A field that is `NONE`, `None`, zero or empty is absent from the
/// line; [`AccessRecord::default`] has none.
#[derive(Clone, Debug, Default)]
pub struct AccessRecord<'a> {
    /// End of the exchange (audit: of the decision), wall-clock Unix milliseconds.
    pub time_ms: u64,
    /// Our id of the request.
    pub request_id: RequestId,
    /// The id that was adopted from a trusted proxy, if it is not a UUID; printed in place of `request_id`.
    pub client_request_id: &'a [u8],
    /// Trace id of W3C Trace Context, zeros = none.
    pub trace_id: [u8; 16],
    /// Which listener accepted the connection.
    pub listener: ListenerId,
    /// The client's address as the `trusted_proxies` let us see it.
    pub client: Option<IpAddr>,
    /// The other end of the TCP connection.
    pub peer: Option<SocketAddr>,
    /// TLS version of the client's connection.
    pub tls: TlsVersion,
    /// Protocol agreed by ALPN.
    pub alpn: Alpn,
    /// HTTP version of the request.
    pub protocol: Protocol,
    /// The method.
    pub method: Method,
    /// The method's name where `method` is [`Method::Other`].
    pub method_name: &'a [u8],
    /// Host without port, as routed on.
    pub host: &'a [u8],
    /// Canonical path, without the query.
    pub path: &'a [u8],
    /// The query as sent, without `?`; redacted by the writer. One that is empty is another than none (RFC 3986 §6.2.3).
    pub query: Option<&'a [u8]>,
    /// The API.
    pub api: ApiId,
    /// The operation.
    pub operation: OperationId,
    /// Status of the answer, 0 = none was sent.
    pub status: u16,
    /// Status of a call of gRPC.
    pub grpc_status: Option<u8>,
    /// Number of `RW-nnnn`, 0 = none.
    pub code: u16,
    /// Reason token, empty = none.
    pub reason: &'a str,
    /// Mode of the policy that gave the reason.
    pub mode: Mode,
    /// The login that identified the caller.
    pub login: LoginId,
    /// Who the caller is.
    pub subject: &'a [u8],
    /// Public part of the key: an API key's prefix or a token's `kid`; never the key.
    pub key_id: &'a [u8],
    /// The upstream.
    pub upstream: UpstreamId,
    /// The target that answered, or was tried last.
    pub target: TargetId,
    /// Attempts on targets, 0 = not forwarded.
    pub tries: u8,
    /// Bytes of the request's content as received.
    pub bytes_in: u64,
    /// Bytes of the answer's content as sent.
    pub bytes_out: u64,
    /// First byte of the request to last byte of the answer, microseconds.
    pub duration_us: u64,
    /// Of that, time in our own code, microseconds.
    pub overhead_us: u32,
    /// Of that, time waiting for the upstream, microseconds.
    pub upstream_us: u64,
    /// Messages of a tunnel, in both directions; up to 2^36.
    pub messages: u64,
    /// What else is worth knowing.
    pub flags: Flags,
    /// Generation of the configuration that decided.
    pub config: u64,
    /// `Referer`; wanted only if [`CoreLog::wants_agent`].
    pub referer: &'a [u8],
    /// `User-Agent`; wanted only if [`CoreLog::wants_agent`].
    pub user_agent: &'a [u8],
}

impl AccessRecord<'_> {
    /// Notes why the request was refused or failed.
    pub fn set_reason(&mut self, reason: &Reason, mode: Mode) {
        self.code = reason.code;
        self.reason = reason.token;
        self.mode = mode;
    }
}

/// TLS version of the client's connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum TlsVersion {
    /// Plain text.
    #[default]
    None,
    /// TLS 1.2.
    Tls12,
    /// TLS 1.3.
    Tls13,
}

/// Protocol agreed by ALPN.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Alpn {
    /// None was agreed.
    #[default]
    None,
    /// `http/1.1`.
    Http11,
    /// `h2`.
    H2,
    /// `h3`.
    H3,
}

/// HTTP version of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Protocol {
    /// Not known: the request's head was not understood.
    #[default]
    None,
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
    /// HTTP/3.
    Http3,
}

/// Whether a policy refused or only would have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Mode {
    /// No policy spoke.
    #[default]
    Off,
    /// The verdict was noted, the request went on.
    Observe,
    /// The verdict was carried out.
    Enforce,
}

impl Mode {
    /// As in the configuration.
    pub fn name(self) -> &'static str {
        match self {
            Mode::Off => "off",
            Mode::Observe => "observe",
            Mode::Enforce => "enforce",
        }
    }
}

/// Methods as labels: those of RFC 9110, PATCH and QUERY by name, all others as one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
pub enum Method {
    /// Not known: the request's head was not understood.
    #[default]
    None,
    /// GET.
    Get,
    /// HEAD.
    Head,
    /// POST.
    Post,
    /// PUT.
    Put,
    /// DELETE.
    Delete,
    /// CONNECT.
    Connect,
    /// OPTIONS.
    Options,
    /// TRACE.
    Trace,
    /// PATCH (RFC 5789).
    Patch,
    /// QUERY (draft-ietf-httpbis-safe-method-w-body).
    Query,
    /// Any other.
    Other,
}

impl Method {
    /// The label of a method as sent (case matters, RFC 9110 §9.1).
    #[inline]
    pub fn of(name: &[u8]) -> Method {
        match name {
            b"" => Method::None,
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"CONNECT" => Method::Connect,
            b"OPTIONS" => Method::Options,
            b"TRACE" => Method::Trace,
            b"PATCH" => Method::Patch,
            b"QUERY" => Method::Query,
            _ => Method::Other,
        }
    }

    /// The method's name; `other` for the rest, empty if there was none.
    pub fn name(self) -> &'static str {
        Method::NAMES[self as usize]
    }

    /// Names in the order of the discriminants.
    const NAMES: [&'static str; 12] = [
        "", "GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "QUERY", "other",
    ];

    const ALL: [Method; 12] = [
        Method::None,
        Method::Get,
        Method::Head,
        Method::Post,
        Method::Put,
        Method::Delete,
        Method::Connect,
        Method::Options,
        Method::Trace,
        Method::Patch,
        Method::Query,
        Method::Other,
    ];

    pub(super) fn from_number(number: u8) -> Method {
        Method::ALL.get(usize::from(number)).copied().unwrap_or(Method::Other)
    }
}

impl From<head::Method> for Method {
    #[inline]
    fn from(method: head::Method) -> Method {
        match method {
            head::Method::Get => Method::Get,
            head::Method::Head => Method::Head,
            head::Method::Post => Method::Post,
            head::Method::Put => Method::Put,
            head::Method::Delete => Method::Delete,
            head::Method::Patch => Method::Patch,
            head::Method::Options => Method::Options,
            head::Method::Query => Method::Query,
            head::Method::Connect => Method::Connect,
            head::Method::Trace => Method::Trace,
            head::Method::Other => Method::Other,
        }
    }
}

impl From<head::Version> for Protocol {
    #[inline]
    fn from(version: head::Version) -> Protocol {
        match version {
            head::Version::Http10 => Protocol::Http10,
            head::Version::Http11 => Protocol::Http11,
            head::Version::Http2 => Protocol::Http2,
        }
    }
}

/// Facts that are only worth a word when they hold; printed as a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u32);

impl Flags {
    /// A string of this record was cut at its bound. Set by [`CoreLog`].
    pub const TRUNCATED: Flags = Flags(1);
    /// Not the first request of its connection.
    pub const CLIENT_REUSED: Flags = Flags(1 << 1);
    /// The upstream connection had served before.
    pub const UPSTREAM_REUSED: Flags = Flags(1 << 2);
    /// The client went away before the answer was complete.
    pub const CLIENT_GONE: Flags = Flags(1 << 3);
    /// The answer was cut short by us or by the upstream.
    pub const RESPONSE_CUT: Flags = Flags(1 << 4);
    /// The upstream answered before it had the whole request.
    pub const EARLY_RESPONSE: Flags = Flags(1 << 5);
    /// The exchange became a tunnel.
    pub const UPGRADED: Flags = Flags(1 << 6);
    /// The body was held before it was forwarded.
    pub const BODY_HELD: Flags = Flags(1 << 7);
    /// The TLS session was resumed.
    pub const TLS_RESUMED: Flags = Flags(1 << 8);
    /// The token was in the cache of verified tokens.
    pub const TOKEN_CACHED: Flags = Flags(1 << 9);
    /// The node was draining.
    pub const DRAINING: Flags = Flags(1 << 10);
    /// A limit was exceeded that is only observed.
    pub const LIMIT_OBSERVED: Flags = Flags(1 << 11);

    pub(super) const NAMES: [(Flags, &'static str); 12] = [
        (Flags::TRUNCATED, "truncated"),
        (Flags::CLIENT_REUSED, "client_reused"),
        (Flags::UPSTREAM_REUSED, "upstream_reused"),
        (Flags::CLIENT_GONE, "client_gone"),
        (Flags::RESPONSE_CUT, "response_cut"),
        (Flags::EARLY_RESPONSE, "early_response"),
        (Flags::UPGRADED, "upgraded"),
        (Flags::BODY_HELD, "body_held"),
        (Flags::TLS_RESUMED, "tls_resumed"),
        (Flags::TOKEN_CACHED, "token_cached"),
        (Flags::DRAINING, "draining"),
        (Flags::LIMIT_OBSERVED, "limit_observed"),
    ];

    /// Both.
    #[must_use]
    pub const fn with(self, other: Flags) -> Flags {
        Flags(self.0 | other.0)
    }

    /// Whether all of `other` hold.
    pub const fn has(self, other: Flags) -> bool {
        self.0 & other.0 == other.0
    }

    /// Adds `other`.
    pub fn set(&mut self, other: Flags) {
        self.0 |= other.0;
    }
}

/// Something an administrator (or a signal, or a changed file) did.
#[derive(Clone, Copy, Debug, Default)]
pub struct AdminRecord<'a> {
    /// Wall-clock Unix milliseconds.
    pub time_ms: u64,
    /// Generation of the configuration in force after the action.
    pub config: u64,
    /// What was done: `reload`, `reopen`, `drain`, `key_revoke`, …
    pub action: &'a str,
    /// Who: a uid of the control socket's peer, `signal`, `file`.
    pub actor: &'a str,
    /// To what.
    pub object: &'a str,
    /// `ok`, `refused`, `failed`.
    pub outcome: &'a str,
    /// Anything else, for people.
    pub detail: &'a str,
}

/// The audit ring has no room; the pipeline answers 503 unless `audit.on_full: drop`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

/// Sizes of the rings of one core, bytes, rounded up to a power of two.
#[derive(Clone, Copy, Debug)]
pub struct RingSizes {
    /// Access records; default 1 MiB, about 4,500 records: 45 ms of 100,000 requests a second.
    pub access_bytes: usize,
    /// Audit records; default 256 KiB.
    pub audit_bytes: usize,
}

impl Default for RingSizes {
    fn default() -> RingSizes {
        RingSizes { access_bytes: 1 << 20, audit_bytes: 256 << 10 }
    }
}

/// What the writer wants from the cores; changed by the writer when its configuration does.
#[derive(Debug, Default)]
pub(super) struct Wanted {
    pub(super) access: AtomicBool,
    pub(super) audit: AtomicBool,
    pub(super) agent: AtomicBool,
}

/// The producers of one core: not shared, not cloned.
pub struct CoreLog {
    access: Producer,
    audit: Producer,
    wanted: Arc<Wanted>,
}

/// The producer of administrative records, for the control thread.
pub struct AdminLog {
    audit: Producer,
    wanted: Arc<Wanted>,
}

/// The consumers of all rings, for [`Writer`](super::Writer).
pub struct LogDrain {
    pub(super) access: Vec<Consumer>,
    /// One per core, and the administrative one last.
    pub(super) audit: Vec<Consumer>,
    pub(super) wanted: Arc<Wanted>,
    scratch: Vec<u8>,
}

/// Both ends of all rings.
pub struct LogRings {
    /// One per core, in core order.
    pub cores: Vec<CoreLog>,
    /// For the control thread.
    pub admin: AdminLog,
    /// For the writer.
    pub drain: LogDrain,
}

/// Makes the rings of `cores` cores. Nothing is recorded until a [`Writer`](super::Writer) runs.
pub fn rings(cores: usize, sizes: RingSizes) -> LogRings {
    let wanted = Arc::new(Wanted::default());
    let mut drain =
        LogDrain { access: Vec::new(), audit: Vec::new(), wanted: Arc::clone(&wanted), scratch: Vec::new() };
    let mut logs = Vec::new();
    for _ in 0..cores {
        let (access, access_end) = ring(sizes.access_bytes);
        let (audit, audit_end) = ring(sizes.audit_bytes);
        drain.access.push(access_end);
        drain.audit.push(audit_end);
        logs.push(CoreLog { access, audit, wanted: Arc::clone(&wanted) });
    }
    let (audit, audit_end) = ring(sizes.audit_bytes);
    drain.audit.push(audit_end);
    LogRings { cores: logs, admin: AdminLog { audit, wanted }, drain }
}

impl CoreLog {
    /// Copies an access record. False: the ring was full, the loss is counted.
    #[inline]
    pub fn push(&self, record: &AccessRecord<'_>) -> bool {
        !self.wanted.access.load(Ordering::Relaxed) || push_access(&self.access, record)
    }

    /// Copies an audit record of a refusal, before it is answered.
    ///
    /// # Errors
    /// [`Full`] if there is no room; the loss is counted either way.
    #[inline]
    pub fn audit(&self, record: &AccessRecord<'_>) -> Result<(), Full> {
        if !self.wanted.audit.load(Ordering::Relaxed) || push_access(&self.audit, record) {
            Ok(())
        } else {
            Err(Full)
        }
    }

    /// Whether `referer` and `user_agent` of a record are used at all (combined format).
    #[inline]
    pub fn wants_agent(&self) -> bool {
        self.wanted.agent.load(Ordering::Relaxed)
    }

    /// Whether refusals are to be audited.
    #[inline]
    pub fn wants_audit(&self) -> bool {
        self.wanted.audit.load(Ordering::Relaxed)
    }
}

impl AdminLog {
    /// Copies an administrative record.
    ///
    /// # Errors
    /// [`Full`] if there is no room; the loss is counted either way.
    pub fn push(&self, record: &AdminRecord<'_>) -> Result<(), Full> {
        if !self.wanted.audit.load(Ordering::Relaxed) || push_admin(&self.audit, record) {
            Ok(())
        } else {
            Err(Full)
        }
    }
}

impl LogDrain {
    /// Makes lines of all access records that wait, in the caller's time: what the writer does, for tests and benches.
    /// Returns how many they were.
    pub fn format_all(
        &mut self,
        format: LogFormat,
        formatter: &mut Formatter,
        names: &NameTable,
        out: &mut Vec<u8>,
    ) -> usize {
        let mut scratch = std::mem::take(&mut self.scratch);
        let mut take = |words: &[u64]| {
            if let Some(Decoded::Access(record)) = decode(words, &mut scratch) {
                formatter.access(format, &record, names, out);
            }
            true
        };
        let count = self.access.iter_mut().map(|ring| ring.drain(&mut take)).sum();
        self.scratch = scratch;
        count
    }

    /// Makes the cores keep access records although no writer runs, for tests and benches.
    pub fn keep_access(&self) {
        self.wanted.access.store(true, Ordering::Relaxed);
    }

    pub(super) fn access_losses(&self) -> Vec<LossCounter> {
        self.access.iter().map(Consumer::losses).collect()
    }

    pub(super) fn audit_losses(&self) -> Vec<LossCounter> {
        self.audit.iter().map(Consumer::losses).collect()
    }
}

/// Words before the strings of an access record.
const FIXED_WORDS: usize = 22;
const ADMIN_FIXED_WORDS: usize = 5;
const KIND_ACCESS: u64 = 1;
const KIND_ADMIN: u64 = 2;

const _: () = assert!(
    FIXED_WORDS
        + words(HOST_BYTES_MAX)
        + words(METHOD_BYTES_MAX)
        + words(PATH_BYTES_MAX)
        + words(QUERY_BYTES_MAX)
        + words(SUBJECT_BYTES_MAX)
        + words(KEY_ID_BYTES_MAX)
        + words(REASON_BYTES_MAX)
        + words(CLIENT_REQUEST_ID_BYTES_MAX)
        + words(REFERER_BYTES_MAX)
        + words(AGENT_BYTES_MAX)
        <= RECORD_WORDS_MAX
);
const _: () = assert!(ADMIN_FIXED_WORDS + 5 * words(ADMIN_BYTES_MAX) <= RECORD_WORDS_MAX);

const fn words(bytes: usize) -> usize {
    bytes.div_ceil(8)
}

#[inline]
fn push_access(ring: &Producer, record: &AccessRecord<'_>) -> bool {
    let mut flags = record.flags;
    let mut cut = |bytes: &[u8], max: usize| {
        if bytes.len() > max {
            flags.set(Flags::TRUNCATED);
        }
        bytes.len().min(max)
    };
    let query = record.query.unwrap_or_default();
    // Those that most records have, and those that few have.
    let usual = [
        &record.host[..cut(record.host, HOST_BYTES_MAX)],
        &record.path[..cut(record.path, PATH_BYTES_MAX)],
        &query[..cut(query, QUERY_BYTES_MAX)],
        &record.subject[..cut(record.subject, SUBJECT_BYTES_MAX)],
    ];
    let rare = [
        &record.key_id[..cut(record.key_id, KEY_ID_BYTES_MAX)],
        &record.reason.as_bytes()[..cut(record.reason.as_bytes(), REASON_BYTES_MAX)],
        &record.method_name[..cut(record.method_name, METHOD_BYTES_MAX)],
        &record.client_request_id[..cut(record.client_request_id, CLIENT_REQUEST_ID_BYTES_MAX)],
        &record.referer[..cut(record.referer, REFERER_BYTES_MAX)],
        &record.user_agent[..cut(record.user_agent, AGENT_BYTES_MAX)],
    ];
    let rare_words = rare.iter().map(|bytes| words(bytes.len())).sum::<usize>();
    let count = FIXED_WORDS + usual.iter().map(|bytes| words(bytes.len())).sum::<usize>() + rare_words;
    let [host, path, query, subject] = usual.map(|bytes| bytes.len() as u64);
    // 0 is none.
    let query = query + u64::from(record.query.is_some());
    let [key_id, reason, method_name, client_id, referer, agent] = rare.map(|bytes| bytes.len() as u64);
    let (client_high, client_low) = address_words(record.client);
    let (peer_high, peer_low) = address_words(record.peer.map(|peer| peer.ip()));
    let id = record.request_id.0.as_chunks::<8>().0;
    let trace = record.trace_id.as_chunks::<8>().0;
    let fixed: [u64; FIXED_WORDS] = [
        count as u64 | KIND_ACCESS << 16 | u64::from(flags.0) << 32,
        record.time_ms,
        u64::from_le_bytes(id[0]),
        u64::from_le_bytes(id[1]),
        u64::from_le_bytes(trace[0]),
        u64::from_le_bytes(trace[1]),
        client_high,
        client_low,
        peer_high,
        peer_low,
        u64::from(record.peer.map_or(0, |peer| peer.port()))
            | u64::from(record.status) << 16
            | u64::from(record.code) << 32
            | u64::from(record.listener.0) << 48,
        record.tls as u64
            | (record.alpn as u64) << 8
            | (record.protocol as u64) << 16
            | (record.mode as u64) << 24
            | (record.method as u64) << 32
            | u64::from(record.tries) << 40
            | u64::from(record.login.0) << 48,
        u64::from(record.api.0) | u64::from(record.operation.0) << 32,
        u64::from(record.upstream.0) | u64::from(record.target.0) << 32,
        record.config,
        record.bytes_in,
        record.bytes_out,
        record.duration_us,
        record.upstream_us,
        u64::from(record.overhead_us) | method_name << 32 | reason << 40 | client_id << 48 | key_id << 56,
        host | subject << 8 | path << 16 | query << 32 | agent << 48,
        referer
            | record.grpc_status.map_or(0, |status| u64::from(status) + 1) << 16
            | record.messages.min(MESSAGES_MAX) << 28,
    ];
    ring.push(count, |slots| {
        let Some((head, mut rest)) = slots.split_first_chunk::<FIXED_WORDS>() else { return };
        for (slot, word) in head.iter().zip(fixed) {
            slot.store(word, Ordering::Relaxed);
        }
        for bytes in usual {
            rest = put_bytes(rest, bytes);
        }
        if rare_words != 0 {
            for bytes in rare {
                rest = put_bytes(rest, bytes);
            }
        }
    })
}

fn push_admin(ring: &Producer, record: &AdminRecord<'_>) -> bool {
    let strings = [record.action, record.actor, record.object, record.outcome, record.detail]
        .map(|text| &text.as_bytes()[..text.len().min(ADMIN_BYTES_MAX)]);
    let count = ADMIN_FIXED_WORDS + strings.iter().map(|bytes| words(bytes.len())).sum::<usize>();
    let [action, actor, object, outcome, detail] = strings.map(|bytes| bytes.len() as u64);
    let fixed: [u64; ADMIN_FIXED_WORDS] = [
        count as u64 | KIND_ADMIN << 16,
        record.time_ms,
        record.config,
        action | actor << 16 | object << 32 | outcome << 48,
        detail,
    ];
    ring.push(count, |slots| {
        let (head, mut rest) = slots.split_at(ADMIN_FIXED_WORDS);
        for (slot, word) in head.iter().zip(fixed) {
            slot.store(word, Ordering::Relaxed);
        }
        for bytes in strings {
            rest = put_bytes(rest, bytes);
        }
    })
}

/// Stores `bytes` into the first slots, zero-padded, and returns the others.
#[inline]
fn put_bytes<'a>(slots: &'a [AtomicU64], bytes: &[u8]) -> &'a [AtomicU64] {
    let (mine, rest) = slots.split_at(words(bytes.len()));
    let (whole, last) = bytes.as_chunks::<8>();
    for (slot, chunk) in mine.iter().zip(whole) {
        slot.store(u64::from_le_bytes(*chunk), Ordering::Relaxed);
    }
    if let (false, Some(slot)) = (last.is_empty(), mine.last()) {
        let word = last.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte));
        slot.store(word, Ordering::Relaxed);
    }
    rest
}

#[inline]
fn address_words(address: Option<IpAddr>) -> (u64, u64) {
    match address {
        // The IPv4-mapped form, RFC 4291 §2.5.5.2.
        Some(IpAddr::V4(v4)) => (0, 0xffff << 32 | u64::from(u32::from(v4))),
        Some(IpAddr::V6(v6)) => {
            let bits = u128::from(v6);
            ((bits >> 64) as u64, bits as u64)
        }
        None => (0, 0),
    }
}

fn address_of(high: u64, low: u64) -> Option<IpAddr> {
    if high == 0 && low >> 32 == 0xffff {
        return Some(IpAddr::V4(Ipv4Addr::from(low as u32)));
    }
    let bits = u128::from(high) << 64 | u128::from(low);
    (bits != 0).then(|| Ipv6Addr::from(bits).to_canonical())
}

/// A record as the writer sees it.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "one at a time on the writer's stack; a box would allocate per record"
)]
pub(super) enum Decoded<'a> {
    Access(AccessRecord<'a>),
    Admin(AdminRecord<'a>),
}

/// Reads a record back. `bytes` is scratch that the result borrows.
pub(super) fn decode<'a>(record: &[u64], bytes: &'a mut Vec<u8>) -> Option<Decoded<'a>> {
    let kind = record.first()? >> 16 & 0xff;
    let fixed_words = if kind == KIND_ADMIN { ADMIN_FIXED_WORDS } else { FIXED_WORDS };
    let (fixed, strings) = record.split_at_checked(fixed_words)?;
    bytes.resize(strings.len() * 8, 0);
    for (place, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(strings) {
        *place = word.to_le_bytes();
    }
    let mut rest: &'a [u8] = bytes;
    let mut take = |length: u64| {
        let length = length as usize;
        let (padded, after) = rest.split_at_checked(words(length) * 8)?;
        rest = after;
        Some(&padded[..length])
    };
    if kind == KIND_ADMIN {
        let lengths = fixed[3];
        let mut text = |length| take(length).and_then(|bytes| str_of(bytes));
        return Some(Decoded::Admin(AdminRecord {
            time_ms: fixed[1],
            config: fixed[2],
            action: text(lengths & 0xffff)?,
            actor: text(lengths >> 16 & 0xffff)?,
            object: text(lengths >> 32 & 0xffff)?,
            outcome: text(lengths >> 48)?,
            detail: text(fixed[4])?,
        }));
    }
    let (ids, codes, times, lengths) = (fixed[10], fixed[11], fixed[19], fixed[20]);
    let host = take(lengths & 0xff)?;
    let path = take(lengths >> 16 & 0xffff)?;
    let query = match lengths >> 32 & 0xffff {
        0 => None,
        more => Some(take(more - 1)?),
    };
    let subject = take(lengths >> 8 & 0xff)?;
    let key_id = take(times >> 56)?;
    let reason = str_of(take(times >> 40 & 0xff)?)?;
    let method_name = take(times >> 32 & 0xff)?;
    let client_request_id = take(times >> 48 & 0xff)?;
    let referer = take(fixed[21] & 0xffff)?;
    let user_agent = take(lengths >> 48)?;
    Some(Decoded::Access(AccessRecord {
        time_ms: fixed[1],
        request_id: RequestId(bytes_of(fixed[2], fixed[3])),
        client_request_id,
        trace_id: bytes_of(fixed[4], fixed[5]),
        listener: ListenerId((ids >> 48) as u32),
        client: address_of(fixed[6], fixed[7]),
        peer: address_of(fixed[8], fixed[9]).map(|ip| SocketAddr::new(ip, ids as u16)),
        tls: match codes & 0xff {
            1 => TlsVersion::Tls12,
            2 => TlsVersion::Tls13,
            _ => TlsVersion::None,
        },
        alpn: match codes >> 8 & 0xff {
            1 => Alpn::Http11,
            2 => Alpn::H2,
            3 => Alpn::H3,
            _ => Alpn::None,
        },
        protocol: match codes >> 16 & 0xff {
            1 => Protocol::Http10,
            2 => Protocol::Http11,
            3 => Protocol::Http2,
            4 => Protocol::Http3,
            _ => Protocol::None,
        },
        mode: match codes >> 24 & 0xff {
            1 => Mode::Observe,
            2 => Mode::Enforce,
            _ => Mode::Off,
        },
        method: Method::from_number((codes >> 32) as u8),
        method_name,
        host,
        path,
        query,
        api: ApiId(fixed[12] as u32),
        operation: OperationId((fixed[12] >> 32) as u32),
        status: (ids >> 16) as u16,
        grpc_status: ((fixed[21] >> 16) as u8).checked_sub(1),
        code: (ids >> 32) as u16,
        reason,
        login: LoginId((codes >> 48) as u32),
        subject,
        key_id,
        upstream: UpstreamId(fixed[13] as u32),
        target: TargetId((fixed[13] >> 32) as u32),
        tries: (codes >> 40) as u8,
        bytes_in: fixed[15],
        bytes_out: fixed[16],
        duration_us: fixed[17],
        overhead_us: times as u32,
        upstream_us: fixed[18],
        messages: fixed[21] >> 28,
        flags: Flags((fixed[0] >> 32) as u32),
        config: fixed[14],
        referer,
        user_agent,
    }))
}

/// The valid start of a text that may have been cut inside a character.
fn str_of(bytes: &[u8]) -> Option<&str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Some(text),
        Err(error) => std::str::from_utf8(&bytes[..error.valid_up_to()]).ok(),
    }
}

fn bytes_of(first: u64, second: u64) -> [u8; 16] {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&first.to_le_bytes());
    bytes[8..].copy_from_slice(&second.to_le_bytes());
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full_record() -> AccessRecord<'static> {
        AccessRecord {
            time_ms: 1_795_000_000_123,
            request_id: RequestId([0xa5; 16]),
            client_request_id: b"edge-77",
            trace_id: [7; 16],
            listener: ListenerId(ListenerId::MAX),
            client: Some("203.0.113.9".parse().expect("address")),
            peer: Some("[2001:db8::1]:65535".parse().expect("address")),
            tls: TlsVersion::Tls13,
            alpn: Alpn::H2,
            protocol: Protocol::Http3,
            method: Method::Other,
            method_name: b"PROPFIND",
            host: b"api.example.com",
            path: b"/v1/orders/7",
            query: Some(b"a=b&token=x"),
            api: ApiId(ApiId::MAX),
            operation: OperationId(OperationId::MAX),
            status: 599,
            grpc_status: Some(16),
            code: 3107,
            reason: "scope_missing",
            mode: Mode::Enforce,
            login: LoginId(LoginId::MAX),
            subject: b"someone",
            key_id: b"abcdefgh",
            upstream: UpstreamId(UpstreamId::MAX),
            target: TargetId(TargetId::MAX),
            tries: 255,
            bytes_in: u64::MAX,
            bytes_out: u64::MAX - 1,
            duration_us: u64::MAX - 2,
            overhead_us: u32::MAX,
            upstream_us: u64::MAX - 3,
            messages: MESSAGES_MAX,
            flags: Flags(!1),
            config: u64::MAX - 4,
            referer: b"https://example.com/",
            user_agent: b"curl/8",
        }
    }

    fn through_a_ring(record: &AccessRecord<'_>) -> String {
        let mut rings = rings(1, RingSizes::default());
        rings.drain.wanted.access.store(true, Ordering::Relaxed);
        assert!(rings.cores[0].push(record));
        let mut seen = String::new();
        let mut scratch = Vec::new();
        rings.drain.access[0].drain(|words| {
            match decode(words, &mut scratch) {
                Some(Decoded::Access(decoded)) => seen = format!("{decoded:?}"),
                other => panic!("{other:?}"),
            }
            true
        });
        seen
    }

    #[test]
    fn every_field_goes_round_at_its_extremes() {
        let record = full_record();
        assert_eq!(through_a_ring(&record), format!("{record:?}"));
        let empty = AccessRecord::default();
        assert_eq!(through_a_ring(&empty), format!("{empty:?}"));
        let question_mark = AccessRecord { query: Some(b""), ..full_record() };
        assert_eq!(through_a_ring(&question_mark), format!("{question_mark:?}"));
    }

    #[test]
    fn each_string_is_cut_at_its_bound_and_flagged() {
        let long = "é".repeat(5000);
        let bytes = long.as_bytes();
        type Set = fn(&mut AccessRecord<'static>, &'static [u8]);
        let cases: &[(usize, Set)] = &[
            (HOST_BYTES_MAX, |r, b| r.host = b),
            (PATH_BYTES_MAX, |r, b| r.path = b),
            (QUERY_BYTES_MAX, |r, b| r.query = Some(b)),
            (SUBJECT_BYTES_MAX, |r, b| r.subject = b),
            (KEY_ID_BYTES_MAX, |r, b| r.key_id = b),
            (METHOD_BYTES_MAX, |r, b| r.method_name = b),
            (CLIENT_REQUEST_ID_BYTES_MAX, |r, b| r.client_request_id = b),
            (REFERER_BYTES_MAX, |r, b| r.referer = b),
            (AGENT_BYTES_MAX, |r, b| r.user_agent = b),
        ];
        let bytes: &'static [u8] = Box::leak(bytes.to_vec().into_boxed_slice());
        for (max, set) in cases {
            for (length, cut) in [(max - 1, false), (*max, false), (max + 1, true), (bytes.len(), true)] {
                let mut record = full_record();
                set(&mut record, &bytes[..length]);
                let mut expected = full_record();
                set(&mut expected, &bytes[..length.min(*max)]);
                if cut {
                    expected.flags.set(Flags::TRUNCATED);
                }
                assert_eq!(through_a_ring(&record), format!("{expected:?}"));
            }
        }
    }

    #[test]
    fn all_strings_at_their_bounds_fit_one_record() {
        let long: &'static [u8] = Box::leak(vec![b'x'; 10_000].into_boxed_slice());
        let record = AccessRecord {
            client_request_id: long,
            method_name: long,
            host: long,
            path: long,
            query: Some(long),
            reason: "x".repeat(64).leak(),
            subject: long,
            key_id: long,
            referer: long,
            user_agent: long,
            ..full_record()
        };
        assert!(through_a_ring(&record).contains("Flags(4294967295)"));
    }

    #[test]
    fn nothing_is_kept_or_lost_while_nobody_wants_it() {
        let mut rings = rings(1, RingSizes::default());
        for _ in 0..100_000 {
            assert!(rings.cores[0].push(&full_record()));
            assert_eq!(rings.cores[0].audit(&full_record()), Ok(()));
        }
        assert_eq!(rings.drain.access[0].drain(|_| true), 0);
        assert_eq!(rings.drain.access_losses()[0].load(), 0);
    }

    #[test]
    fn a_full_audit_ring_says_so() {
        let mut rings = rings(1, RingSizes { access_bytes: 0, audit_bytes: 0 });
        rings.drain.wanted.audit.store(true, Ordering::Relaxed);
        let mut kept = 0;
        while rings.cores[0].audit(&full_record()).is_ok() {
            kept += 1;
        }
        assert!(kept > 10);
        assert_eq!(rings.drain.audit_losses()[0].load(), 1);
        assert_eq!(rings.drain.audit[0].drain(|_| true), kept);
        assert_eq!(rings.cores[0].audit(&full_record()), Ok(()));
        let admin =
            AdminRecord { action: "reload", actor: "signal", outcome: "ok", ..AdminRecord::default() };
        assert_eq!(rings.admin.push(&admin), Ok(()));
        let mut scratch = Vec::new();
        rings.drain.audit[1].drain(|words| {
            let decoded = decode(words, &mut scratch);
            assert!(matches!(
                decoded,
                Some(Decoded::Admin(AdminRecord { action: "reload", actor: "signal", .. }))
            ));
            true
        });
    }

    #[test]
    fn method_labels_go_round() {
        for (number, name) in Method::NAMES.iter().enumerate() {
            let method = Method::from_number(number as u8);
            assert_eq!(method.name(), *name);
            if method != Method::Other {
                assert_eq!(Method::of(name.as_bytes()), method);
            }
        }
        assert_eq!(Method::of(b"get"), Method::Other);
    }
}
