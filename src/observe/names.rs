//! Small stable ids for the names an operator wrote, and the table that turns them back into text.
//!
//! A data thread copies ids, never names. Ids are given out by [`Registry::register`](super::Registry::register) at
//! each new configuration: the same name keeps its id over reloads, so counters stay monotone, gauges that were
//! raised under one configuration and lowered under the next agree, and a record needs no table of its own
//! generation to be read. An id whose name left every live configuration is given out again only after
//! ten minutes, long after the last record that carries it has left the rings.
//!
//! Not for: anything a client sent. Called by `snapshot` (to register), `pipeline` (to copy ids), `writer`.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::format::push_json_string;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident, $max:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub(super) u32);

        impl $name {
            /// No such name; the field is absent from records and labels.
            pub const NONE: $name = $name(0);
            /// The largest id. Names beyond that share [`Self::NONE`] and are counted.
            pub const MAX: u32 = $max;

            /// The number itself, 0 = none.
            pub fn number(self) -> u32 {
                self.0
            }
        }
    )*};
}

ids! {
    /// A listener of the configuration.
    ListenerId, 1023;
    /// An API.
    ApiId, 16_383;
    /// An operation of one API, or "no operation matched" of one API.
    OperationId, 262_143;
    /// A login.
    LoginId, 1023;
    /// An upstream.
    UpstreamId, 4095;
    /// A target of one upstream.
    TargetId, 65_535;
}

/// The kinds of names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Listener,
    Api,
    Operation,
    Login,
    Upstream,
    Target,
}

impl Kind {
    pub(super) const ALL: [Kind; 6] =
        [Kind::Listener, Kind::Api, Kind::Operation, Kind::Login, Kind::Upstream, Kind::Target];

    pub(super) fn id_max(self) -> u32 {
        match self {
            Kind::Listener => ListenerId::MAX,
            Kind::Api => ApiId::MAX,
            Kind::Operation => OperationId::MAX,
            Kind::Login => LoginId::MAX,
            Kind::Upstream => UpstreamId::MAX,
            Kind::Target => TargetId::MAX,
        }
    }
}

/// All names of one configuration, in the order in which the snapshot holds them.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Listener names (their addresses, if they have no other).
    pub listeners: Vec<String>,
    /// APIs with their operations.
    pub apis: Vec<ApiNames>,
    /// Logins.
    pub logins: Vec<String>,
    /// Upstreams.
    pub upstreams: Vec<String>,
}

/// One API and its operations.
#[derive(Clone, Debug, Default)]
pub struct ApiNames {
    /// The key under `apis`.
    pub name: String,
    /// Operation names in snapshot order.
    pub operations: Vec<String>,
}

/// One name, with the form that goes into a JSON line already made.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) text: String,
    /// Quoted and escaped.
    pub(super) json: Vec<u8>,
}

impl Name {
    pub(super) fn new(text: &str) -> Name {
        let mut json = Vec::with_capacity(text.len() + 2);
        push_json_string(&mut json, text.as_bytes());
        Name { text: text.to_owned(), json }
    }
}

/// Id → name, for every kind; immutable, replaced as a whole when names come or go.
#[derive(Debug, Default)]
pub struct NameTable {
    kinds: [Vec<Option<Arc<Name>>>; 6],
}

impl NameTable {
    pub(super) fn set(&mut self, kind: Kind, names: Vec<Option<Arc<Name>>>) {
        self.kinds[kind as usize] = names;
    }

    /// The JSON form of a name, `None` if the id is 0 or unknown.
    #[inline]
    pub(super) fn json(&self, kind: Kind, id: u32) -> Option<&[u8]> {
        self.kinds[kind as usize].get(id as usize)?.as_ref().map(|name| name.json.as_slice())
    }
}

/// The current name table, shared by the registry (which replaces it) and the writer (which reads it).
#[derive(Debug, Default)]
pub struct Directory {
    table: ArcSwap<NameTable>,
}

impl Directory {
    /// The names as of now.
    pub fn table(&self) -> Arc<NameTable> {
        self.table.load_full()
    }

    pub(super) fn publish(&self, table: NameTable) {
        self.table.store(Arc::new(table));
    }
}
