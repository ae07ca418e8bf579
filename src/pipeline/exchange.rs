//! One request and its response, as everything between the two codecs sees it.
//!
//! An exchange is pooled: its tables and vectors keep their memory from one request to the next, so that steady state
//! allocates nothing.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use crate::http::Reason;
use crate::http::field::{FieldSet, FieldTable, Known, KnownSet};
use crate::http::head::{Method, RequestTable, ResponseTable};
use crate::http::target::Target;
use crate::observe::{RequestId, TargetId};
use crate::pipeline::calls::Calling;
use crate::pipeline::watch::{Right, Watch};
use crate::policy::Mode;
use crate::policy::identify::Identity;
use crate::policy::limit::Seats;
use crate::policy::respond::headers::Edits;
use crate::snapshot::{Operation, Snapshot};
use crate::tls::client_certificates::ClientCertificate;
use crate::worker::Buffer;
use crate::worker::transport::Agreed;

/// The reasons that observed policies would have refused for; more are counted in metrics only.
pub const OBSERVED_MAX: usize = 4;

/// A message head: the bytes it was parsed from, frozen, and the table of offsets into them.
#[derive(Debug, Default)]
pub struct Head<T> {
    /// The receive buffer; what stands behind the head is the start of the body.
    pub bytes: Buffer,
    /// Offsets into `bytes`.
    pub table: T,
}

/// One request on its way.
#[derive(Debug)]
pub struct Exchange {
    /// What the client sent.
    pub request: Head<RequestTable>,
    /// The canonical target.
    pub target: Target,
    /// Where the canonical path and host live when they are not in the head as they were sent.
    pub canonical: Vec<u8>,
    /// The peer of the connection.
    pub peer: SocketAddr,
    /// Where the connection comes from: the peer, or whom it names in the PROXY protocol.
    pub source: SocketAddr,
    /// Whether what a request says of earlier hops counts, if its source is trusted.
    pub hearsay: bool,
    /// Whether the request before it on this connection had an identity.
    pub known: bool,
    /// The client: the source, or whom trusted proxies name.
    pub client: IpAddr,
    /// The addresses that trusted proxies named and that were believed, nearest first; the last one is the client's.
    pub hops: Vec<IpAddr>,
    /// Whether the client's connection is TLS.
    pub secure: bool,
    /// What was agreed with the client about it.
    pub agreed: Agreed,
    /// The request id.
    pub id: RequestId,
    /// The request id, 36 bytes of text.
    pub request_id: [u8; 36],
    /// Index of the operation in the snapshot; `u32::MAX` before it is found.
    pub operation: u32,
    /// Index of the API in the snapshot; `u32::MAX` before it is found.
    pub api: u32,
    /// The certificate of the client's connection, where its listener asks for one.
    pub certificate: Option<Rc<ClientCertificate>>,
    /// Who is calling, once an enforced login has said so.
    pub identity: Option<Rc<Identity>>,
    /// Its seats among the requests in flight of its keys, where limits count them.
    pub seats: Seats,
    /// Fields of the request that are not forwarded.
    pub skip: FieldSet,
    /// Encoded lines (`name: value` CR LF) that are added to the forwarded request.
    pub inserts: Vec<u8>,
    /// Encoded lines that are added to whatever answer goes to the client, ours or the upstream's.
    pub response_inserts: Vec<u8>,
    /// Encoded lines that are added to an answer of ours only: `WWW-Authenticate`, `Allow`, `Retry-After`.
    pub answer_inserts: Vec<u8>,
    /// Known fields of an answer of ours about which the operator has decided.
    pub decided: KnownSet,
    /// What it is as a call of gRPC, if it is one.
    pub call: Option<Calling>,
    /// The body, where the operation holds it: decoded, complete.
    pub body: Buffer,
    /// What the upstream answered.
    pub response: Head<ResponseTable>,
    /// Fields of the response that are not passed on.
    pub response_skip: FieldSet,
    /// `pointer`, reason token of a body that broke its schema, for the answer.
    pub violations: Vec<(String, &'static str)>,
    /// What the log and the metrics want to know beyond the head.
    pub facts: Facts,
    /// What a response that takes its time was watched with, for the next one.
    pub watch: Option<Rc<Watch<Right>>>,
    mode: Mode,
    refuser: &'static str,
    observed: [Option<(&'static str, &'static Reason)>; OBSERVED_MAX],
    observed_count: usize,
}

/// What the log and the metrics want to know of an exchange beyond its head.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts {
    /// Monotonic nanoseconds at the first byte of the request.
    pub started_ns: u64,
    /// Monotonic nanoseconds when the request was given to the upstream; 0 when it was not.
    pub forwarded_ns: u64,
    /// Monotonic nanoseconds of the upstream's first byte; 0 when there was none.
    pub answered_ns: u64,
    /// Bytes received from the client for this request, head and body.
    pub bytes_in: u64,
    /// Bytes sent to the client for this request, head and body.
    pub bytes_out: u64,
    /// Status sent to the client; 0 when none was.
    pub status: u16,
    /// Why, where it was not the upstream's own answer.
    pub reason: Option<Reason>,
    /// Index of the upstream in the snapshot, plus one; 0 is none.
    pub upstream: u32,
    /// The target that was asked last.
    pub target: TargetId,
    /// Number of the status that a call of gRPC came to.
    pub grpc_status: Option<u8>,
    /// Attempts made.
    pub tries: u16,
    /// Whether it became a tunnel, and messages that went through it in both directions.
    pub upgraded: bool,
    /// See `upgraded`.
    pub messages: u64,
    /// Whether the refusal is on record already, or counted as lost.
    pub audited: bool,
}

impl Exchange {
    /// A fresh exchange with memory of its own.
    pub fn new() -> Exchange {
        let nobody = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Exchange {
            request: Head::default(),
            target: Target::default(),
            canonical: Vec::with_capacity(256),
            peer: nobody,
            source: nobody,
            hearsay: true,
            known: false,
            client: nobody.ip(),
            hops: Vec::new(),
            secure: false,
            agreed: Agreed::default(),
            id: RequestId::NONE,
            request_id: [b'0'; 36],
            operation: u32::MAX,
            api: u32::MAX,
            certificate: None,
            identity: None,
            seats: Seats::default(),
            skip: FieldSet::EMPTY,
            inserts: Vec::with_capacity(1024),
            response_inserts: Vec::with_capacity(512),
            answer_inserts: Vec::with_capacity(256),
            decided: KnownSet::EMPTY,
            call: None,
            body: Buffer::empty(),
            response: Head::default(),
            response_skip: FieldSet::EMPTY,
            violations: Vec::new(),
            facts: Facts::default(),
            watch: None,
            mode: Mode::Enforce,
            refuser: "",
            observed: [None; OBSERVED_MAX],
            observed_count: 0,
        }
    }

    /// Forgets one request and keeps the memory for the next. Buffers go back to their pool.
    pub fn reset(&mut self) {
        self.request.bytes = Buffer::empty();
        self.request.table.reset();
        self.target = Target::default();
        self.hops.clear();
        self.canonical.clear();
        self.operation = u32::MAX;
        self.api = u32::MAX;
        self.certificate = None;
        self.identity = None;
        self.seats.leave();
        self.skip = FieldSet::EMPTY;
        self.inserts.clear();
        self.response_inserts.clear();
        self.answer_inserts.clear();
        self.decided = KnownSet::EMPTY;
        self.call = None;
        self.body = Buffer::empty();
        self.reset_response();
        self.violations.clear();
        self.facts = Facts::default();
        self.mode = Mode::Enforce;
        self.refuser = "";
        self.observed = [None; OBSERVED_MAX];
        self.observed_count = 0;
    }

    /// Nothing more is asked or answered, for a long time: of its memory only that stays by which it was judged and is told of.
    pub fn lasts(&mut self) {
        self.request.bytes.shrink();
        self.response.bytes = Buffer::empty();
        for lines in [&mut self.inserts, &mut self.response_inserts, &mut self.answer_inserts] {
            *lines = Vec::new();
        }
    }

    /// Forgets a response: before a second try, and after a 1xx.
    pub fn reset_response(&mut self) {
        self.response.bytes = Buffer::empty();
        self.response.table.reset();
        self.response_skip = FieldSet::EMPTY;
        self.facts.answered_ns = 0;
        if let Some(calling) = &mut self.call {
            calling.forget_answer();
        }
    }

    /// The method.
    pub fn method(&self) -> Method {
        self.request.table.method
    }

    /// The canonical path: the one that was routed, is authorized, and goes upstream.
    pub fn path(&self) -> &[u8] {
        self.target.path.of(&self.request.bytes, &self.canonical)
    }

    /// The canonical host, without its port.
    pub fn host(&self) -> &[u8] {
        self.target.host.of(&self.request.bytes, &self.canonical)
    }

    /// The query, without its question mark.
    pub fn query(&self) -> Option<&[u8]> {
        self.target.query.map(|span| span.of(&self.request.bytes))
    }

    /// The fields of the request; names and values are read with [`Exchange::head_bytes`].
    pub fn fields(&self) -> &FieldTable {
        &self.request.table.fields
    }

    /// The bytes that the fields' offsets point into.
    pub fn head_bytes(&self) -> &[u8] {
        &self.request.bytes
    }

    /// The value of a known field, if it was sent.
    pub fn field(&self, known: Known) -> Option<&[u8]> {
        self.request.table.fields.value(&self.request.bytes, known)
    }

    /// The operation that was found.
    pub fn operation<'a>(&self, snapshot: &'a Snapshot) -> Option<&'a Operation> {
        snapshot.operations.get(self.operation as usize)
    }

    /// Whether what the running policy says is done. One that is observed must have no effects.
    pub fn enforcing(&self) -> bool {
        self.mode == Mode::Enforce
    }

    /// Adds a line to the forwarded request.
    pub fn insert(&mut self, name: &[u8], value: &[u8]) {
        line(&mut self.inserts, name, value);
    }

    /// Adds a line to whatever answer goes to the client.
    pub fn insert_response(&mut self, name: &[u8], value: &[u8]) {
        line(&mut self.response_inserts, name, value);
    }

    /// Adds a line to an answer of ours.
    pub fn insert_answer(&mut self, name: &[u8], value: &[u8]) {
        line(&mut self.answer_inserts, name, value);
    }

    /// Applies the operator's edits to an answer of ours that stands for an upstream's.
    pub fn edit_answer(&mut self, edits: &Edits) {
        self.response_inserts.extend_from_slice(edits.lines());
        self.decided = edits.decided();
    }

    /// The name of the policy that refused, or nothing.
    pub fn refuser(&self) -> &'static str {
        self.refuser
    }

    /// What observed policies would have refused for.
    pub fn would_refuse(&self) -> impl Iterator<Item = (&'static str, &'static Reason)> + '_ {
        self.observed.iter().flatten().copied()
    }

    pub(crate) fn set_mode(&mut self, mode: Mode) {
        self.mode = mode;
    }

    pub(crate) fn set_refuser(&mut self, policy: &'static str) {
        self.refuser = policy;
    }

    pub(crate) fn observed(&mut self, policy: &'static str, reason: &'static Reason) {
        if let Some(place) = self.observed.get_mut(self.observed_count) {
            *place = Some((policy, reason));
            self.observed_count += 1;
        }
    }
}

impl Default for Exchange {
    fn default() -> Exchange {
        Exchange::new()
    }
}

/// Appends `name: value` CR LF. Both come from the configuration or from values of ours that hold no controls.
fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    debug_assert!(!value.iter().any(|&byte| byte == b'\r' || byte == b'\n'));
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}
