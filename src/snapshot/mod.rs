//! From written to run: everything a request may read, compiled aside and swapped whole.
//!
//! A [`Snapshot`] is immutable and shared by all cores; a [`CoreView`] binds it to one core and holds only what is lazy
//! and per core. An exchange keeps its view until it is over, so that it meets one configuration from its first byte
//! to its last.

pub mod compile;
pub mod names;

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::accept::arrivals::ArrivalRate;
use crate::accept::gate::Gate;
use crate::accept::prefixes::AddressSet;
use crate::accept::proxy_protocol::Versions;
use crate::control::watch::Subscription;
use crate::http::forward::RenamedIdentity;
use crate::http::forwarded::ClientField;
use crate::http::target::EncodedSlash;
use crate::http::{HeadLimits, Protocol, Protocols};
use crate::observe::ListenerId;
use crate::policy::Chain;
use crate::policy::limit::charge::Tables;
use crate::policy::respond::headers::Edits;
use crate::route::{MethodSet, Router};
use crate::upstream::Upstream;
use crate::upstream::pool::CoreUpstream;

/// Everything a request may read.
pub struct Snapshot {
    /// Counts up with each reload.
    pub generation: u64,
    /// Where connections come in: those of the configuration in its order, then those that leave.
    pub listeners: Vec<Arc<Listener>>,
    /// Which operation a request means.
    pub router: Router,
    /// The APIs, by index.
    pub apis: Vec<Api>,
    /// The operations of all APIs, by index.
    pub operations: Vec<Operation>,
    /// The upstreams, by index.
    pub upstreams: Vec<Arc<Upstream>>,
    /// What the log and the metrics call everything.
    pub names: names::SnapshotNames,
    /// The names of the logins, by [`crate::policy::identify::LoginId`].
    pub logins: Vec<Box<str>>,
    /// Keeps the key stores watched as long as this snapshot lives.
    pub watched: Vec<Subscription>,
    /// The counters of all limits, the same over all snapshots.
    pub tables: Arc<Tables>,
    /// How often one address may connect, if that is bounded.
    pub arrival_rate: Option<ArrivalRate>,
    /// Whether some operation is a WebSocket, so that clients of HTTP/2 are told that they may open one.
    pub websockets: bool,
    /// Whether some operation takes `%2F` in its path, so that the router has to see it.
    pub encoded_slash: EncodedSlash,
    /// `audit.on_full: refuse`: a refusal that cannot be put on record is answered 503.
    pub refuse_unrecorded: bool,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("generation", &self.generation)
            .field("operations", &self.operations.len())
            .finish_non_exhaustive()
    }
}

impl Snapshot {
    /// The listener with this [id](Listener::id); `None` once it has left.
    #[inline]
    pub fn listener(&self, id: u32) -> Option<&Listener> {
        // A node has a handful of them.
        self.listeners.iter().find(|listener| listener.id == id).map(|listener| &**listener)
    }

    /// What logs and metrics call it.
    #[inline]
    pub fn listener_name(&self, id: u32) -> ListenerId {
        let place = self.listeners.iter().position(|listener| listener.id == id);
        place.map_or_else(ListenerId::default, |place| self.names.listener(place))
    }
}

/// Where connections come in.
#[derive(Debug)]
pub struct Listener {
    /// Its number: the same in all snapshots while the configuration has it, and never another's.
    pub id: u32,
    /// Since when the configuration has it no more, monotonic milliseconds; 0 while it does.
    pub leaving_ms: AtomicU64,
    /// The name in logs: the address as written.
    pub name: Box<str>,
    /// Hosts that are served here; empty: any valid one.
    pub domains: Vec<Box<[u8]>>,
    /// Whether connections are TLS.
    pub secure: bool,
    /// What they are met with, where they are TLS.
    pub tls: Option<crate::tls::ServerProfile>,
    /// What is spoken here. Under TLS the client has chosen by ALPN ([`Protocols::under_tls`]); without, it begins with the
    /// preface of HTTP/2 or not (RFC 9113 §3.3), where there is a choice.
    pub protocols: Protocols,
    /// A handshake must be complete within this many milliseconds.
    pub handshake_ms: u64,
    /// Who may connect, where that is not everybody.
    pub gate: Option<Arc<Gate>>,
    /// Whose forwarding fields and PROXY headers count.
    pub trusted_proxies: AddressSet,
    /// The field of theirs that names the client.
    pub client_field: ClientField,
    /// The versions of the PROXY header that connections begin with, where they do.
    pub proxy_protocol: Option<Versions>,
    /// `redirect: https`: nothing is served here but the way there.
    pub redirect: bool,
    /// Bounds of a request head.
    pub head_limits: HeadLimits,
    /// A request head must be complete within this many milliseconds of its first byte.
    pub head_ms: u64,
    /// A connection without a request is kept this many milliseconds.
    pub idle_ms: u64,
}

impl Listener {
    /// Whether the configuration has it no more: nobody is accepted, and connections end with their next answer.
    #[inline]
    pub fn is_leaving(&self) -> bool {
        self.leaving_ms.load(Ordering::Relaxed) != 0
    }

    /// Whether a connection that is TLS, or not, and on which `protocol` is spoken may go on after its next answer: the listener
    /// stays, and speaks as it did when that connection was made.
    #[inline]
    pub fn keeps(&self, tls: bool, protocol: Protocol) -> bool {
        !self.is_leaving() && self.secure == tls && self.protocols.has(protocol)
    }

    /// Whether `host` (canonical) is served here.
    pub fn serves(&self, host: &[u8]) -> bool {
        self.domains.is_empty() || self.domains.iter().any(|domain| **domain == *host)
    }
}

/// An API.
#[derive(Debug)]
pub struct Api {
    /// The name in the configuration.
    pub name: Box<str>,
    /// Identity fields by other names, to be stripped from requests.
    pub renamed: RenamedIdentity,
    /// What identity fields are called for this API's upstream.
    pub identity_fields: IdentityFields,
}

/// The names of the fields that tell an upstream who is calling; an empty name is not sent.
#[derive(Clone, Debug)]
pub struct IdentityFields {
    /// The subject.
    pub subject: Box<[u8]>,
    /// The issuer.
    pub issuer: Box<[u8]>,
    /// The kind of credential.
    pub kind: Box<[u8]>,
    /// The login.
    pub login: Box<[u8]>,
    /// The scopes, separated by spaces.
    pub scopes: Box<[u8]>,
    /// The roles, separated by spaces.
    pub roles: Box<[u8]>,
}

impl Default for IdentityFields {
    fn default() -> IdentityFields {
        IdentityFields {
            subject: (*b"X-Ringwall-Subject").into(),
            issuer: (*b"X-Ringwall-Issuer").into(),
            kind: (*b"X-Ringwall-Kind").into(),
            login: (*b"X-Ringwall-Login").into(),
            scopes: (*b"X-Ringwall-Scopes").into(),
            roles: (*b"X-Ringwall-Roles").into(),
        }
    }
}

/// An operation: what happens to requests that mean it.
#[derive(Debug)]
pub struct Operation {
    /// The name in the configuration; an API that is `raw` or `closed` has one, called like itself.
    pub name: Box<str>,
    /// Index of its API.
    pub api: u32,
    /// What it is asked.
    pub chain: Chain,
    /// Where it goes.
    pub action: Action,
    /// Edits of the request.
    pub request_edits: Edits,
    /// Edits of the response.
    pub response_edits: Edits,
    /// The methods that are served; `None`: all that get here.
    pub methods: Option<MethodSet>,
    /// Bounds of a request head, where they are narrower than those of the listeners.
    pub head_max: Option<HeadMax>,
    /// Most bytes of a request body.
    pub body_max: u64,
    /// Most bytes of a response body.
    pub response_max: u64,
    /// The same of a call, whose messages are bounded one by one.
    pub call_max: u64,
    /// The longest message within a body, in bytes, where the operator has said so; else what its protocol has for a default.
    pub message_max: Option<u32>,
    /// How long its exchanges may take.
    pub timeouts: Timeouts,
    /// Whether `Strict-Transport-Security` may be sent.
    pub strict_transport: bool,
    /// Whether its path may hold `%2F`.
    pub keeps_encoded_slash: bool,
    /// What holds for WebSockets, where it may be opened as one.
    pub websocket: Option<Box<crate::policy::websocket::WebSocket>>,
}

/// Bounds of a request head that are known only once its operation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadMax {
    /// Bytes of the target.
    pub target: usize,
    /// Bytes of the whole head.
    pub head: usize,
    /// Fields.
    pub fields: usize,
}

/// How long the exchanges of an operation may take, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// From the request's last byte to the answer's first. Default 30 s, or what the upstream says.
    pub first_byte: u64,
    /// From the request's first byte to the end of the answer's head. Default 60 s.
    pub total: u64,
    /// Between two pieces of a body, either side. Default 60 s.
    pub stream_idle: u64,
    /// From the answer's head to its last byte. Default 1 h.
    pub lifetime: u64,
    /// The same of an answer that is a stream of server-sent events. Default 24 h.
    pub lifetime_of_events: u64,
}

impl Timeouts {
    /// Where no operation says otherwise.
    pub const DEFAULT: Timeouts = Timeouts {
        first_byte: 30_000,
        total: 60_000,
        stream_idle: 60_000,
        lifetime: 3_600_000,
        lifetime_of_events: 24 * 3_600_000,
    };
}

/// Where an operation goes.
#[derive(Debug)]
pub enum Action {
    /// To an upstream.
    Forward {
        /// Index of the upstream.
        upstream: usize,
        /// Replaces the API's base.
        rewrite: Option<Rewrite>,
        /// The upstream's own authority is sent as `Host`, not the client's.
        host_of_upstream: bool,
    },
    /// To another place: `Location` is this text.
    Redirect {
        /// The value of `Location`, or what it begins with.
        location: Box<str>,
        /// The status.
        status: u16,
        /// What of the request's target follows.
        keep: Keep,
    },
    /// A fixed answer.
    Respond {
        /// The status.
        status: u16,
        /// The content.
        body: Box<[u8]>,
        /// The value of `Content-Type`.
        content_type: Box<str>,
    },
    /// Nowhere: closed.
    Closed,
}

/// What of a request's target follows that of a redirect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// The query.
    Query,
    /// The path and the query.
    Path,
}

/// A path that replaces the API's base.
#[derive(Debug)]
pub struct Rewrite {
    /// Bytes of the base.
    pub base_bytes: usize,
    /// What stands in its place.
    pub path: Box<[u8]>,
}

/// A snapshot bound to one core.
#[derive(Debug)]
pub struct CoreView {
    /// What is shared.
    pub snapshot: Arc<Snapshot>,
    /// The pools of this core, by index of the upstream.
    pub upstreams: Vec<Rc<CoreUpstream>>,
}

impl CoreView {
    /// Binds `snapshot` to a core. Upstreams that `before` knew keep their pools; those that are gone are retired.
    pub fn new(snapshot: Arc<Snapshot>, core: usize, before: Option<&CoreView>) -> CoreView {
        let known = before.map(|view| view.upstreams.as_slice()).unwrap_or_default();
        let upstreams: Vec<Rc<CoreUpstream>> = snapshot
            .upstreams
            .iter()
            .enumerate()
            .map(|(place, upstream)| match named(known, place, &upstream.name) {
                Some(kept) if kept.upstream.id == upstream.id => Rc::clone(kept),
                before => Rc::new(CoreUpstream::new(Arc::clone(upstream), core, before.map(|kept| &**kept))),
            })
            .collect();
        for (place, gone) in known.iter().enumerate() {
            let next = named(&upstreams, place, &gone.upstream.name);
            if next.is_none_or(|next| !Rc::ptr_eq(next, gone)) {
                gone.retire(next.map(|next| &**next));
            }
        }
        CoreView { snapshot, upstreams }
    }
}

impl Drop for CoreView {
    fn drop(&mut self) {
        // Freeing ten thousand routes takes longer than a data thread has; see `Node::publish`.
        debug_assert!(Arc::strong_count(&self.snapshot) > 1, "a data thread frees a configuration");
    }
}

/// The one of this name, which mostly stands where it stood: a configuration of thousands is gone through once.
fn named<'k>(known: &'k [Rc<CoreUpstream>], place: usize, name: &str) -> Option<&'k Rc<CoreUpstream>> {
    let same = |upstream: &&Rc<CoreUpstream>| *upstream.upstream.name == *name;
    known.get(place).filter(same).or_else(|| known.iter().find(same))
}
