//! What can be written: one type for each map of the configuration, with the table of its keys.
//!
//! The types hold what was written, each value with its place where a later stage may have to point at it; defaults
//! are filled in by the `…_in_force` methods, so that every stage uses the same ones. What must hold between the parts
//! (a grant names a login that exists) is in `config::check`. The snapshot compiles these types; requests never see
//! them.

pub mod api;
pub mod health;
pub mod listen;
pub mod login;
pub mod maintenance;
pub mod node;
pub mod policy;
pub mod resilience;
pub mod target;
pub mod upstream;
pub mod websocket;

use jiff::civil::Date;

pub use api::{Api, ClientHost, IdentityField, Keep, Operation, Redirect, Respond, Route, Surface, To};
pub use health::{Ask, Health, Statuses};
pub use listen::{
    AddressEntry, Certificate, ClientAddress, ClientCa, Listener, Permissions, ProxyProtocol, Tls,
};
pub use login::{Algorithm, ApiKeys, Certificates, Claims, JwtKeys, Login, Method, Tokens};
pub use maintenance::{Maintenance, Moment};
pub use node::{Audit, Connections, Driver, Log, LogFormat, LogTarget, Metrics, NodeSettings, OnFull};
pub use policy::{
    Allow, Body, BodyType, Bound, Charset, Edits, Frequency, Grant, HeaderEdits, Limit, LimitKey, Scoped,
    Sizes, SizesInForce, Timeouts, TimeoutsInForce, Who,
};
pub use resilience::{Balance, Breaker, Eject, HashKey, Requests, Retry};
pub use upstream::{Host, Pool, SentProxy, Target, TargetProtocol, Trust, Upstream, UpstreamTimeouts};
pub use websocket::{WebSocket, WebSocketInForce};

use super::bind::{Bind, FromNode, Named, Spanned};
use super::error::{Code, ConfigError};
use super::node::{Node, NodeKind};
use super::shape::{Key, Shape, Table};
use super::source::Span;

/// `ringwall: 1` is missing, or names another version of the format.
pub const VERSION: Code = Code::new(1010);
/// An exception lacks its reason or its end.
pub const EXCEPTION: Code = Code::new(1902);
/// `mode: observe` or `off` of a gate without a reason and an end.
pub const GATE: Code = Code::new(1907);
/// A reason that gives none.
pub const REASON: Code = Code::new(1908);

/// A whole configuration, free of errors.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where requests come in; at least one.
    pub listen: Vec<Listener>,
    /// Where requests go.
    pub upstreams: Named<Upstream>,
    /// How callers prove who they are.
    pub login: Named<Login>,
    /// What is served; at least one.
    pub apis: Named<Api>,
    /// The access log, if it was configured.
    pub log: Option<Log>,
    /// The audit log, if it was configured.
    pub audit: Option<Audit>,
    /// The process itself.
    pub node: NodeSettings,
}

/// The top of the file.
pub static TOP: Table = Table {
    what: "the configuration",
    place: "the top of the file",
    keys: &[
        Key::required("ringwall", Shape::Int, "the version of this format").bounds("1", "1"),
        Key::required("listen", <Vec<Listener>>::SHAPE, "where requests come in"),
        Key::optional("upstreams", Shape::Named(&Upstream::SHAPE), "where requests go, by name"),
        Key::optional("login", Shape::Named(&Login::SHAPE), "how callers prove who they are, by name"),
        Key::required(
            "apis",
            Shape::Named(&Api::SHAPE),
            "what is served, by name; what is not here is refused",
        ),
        Key::optional("log", Log::SHAPE, "the access log").default("JSON lines on standard output"),
        Key::optional("audit", Audit::SHAPE, "the record of refusals and of what administrators did"),
        Key::optional("node", NodeSettings::SHAPE, "the process itself"),
        Key::optional(
            "include",
            Shape::OneOrMany(&Shape::Text("a file")),
            "files to read as well, relative to this one",
        ),
        Key::later("secrets", "secrets from a vault"),
        Key::later("fleet", "one configuration for many nodes"),
        Key::later("profile", "floors that cannot be lowered"),
    ],
};

/// All tables: an unknown key is looked for in them, the schema is made from them, a test reads them.
pub static TABLES: &[&Table] = &[
    &TOP,
    &listen::LISTENER,
    &listen::TIMEOUTS,
    &listen::CERTIFICATE,
    &listen::CLIENT_CA,
    &listen::ADDRESS_FILE,
    &upstream::UPSTREAM,
    &health::HEALTH,
    &upstream::TIMEOUTS,
    &upstream::POOL,
    &node::CONNECTIONS,
    &upstream::TARGET_KEYS,
    &resilience::BALANCE,
    &resilience::STICKY,
    &resilience::RETRY,
    &resilience::BREAKER,
    &resilience::EJECT,
    &login::LOGIN,
    &login::CLAIMS,
    &api::API,
    &api::TO,
    &api::OPERATION,
    &api::REDIRECT,
    &api::RESPOND,
    &policy::ALLOW,
    &policy::GRANT,
    &policy::LIMIT,
    &policy::SIZES,
    &policy::TIMEOUTS,
    &websocket::WEBSOCKET,
    &policy::HEADERS,
    &policy::EDITS,
    &policy::BODY,
    &node::LOG,
    &node::AUDIT,
    &node::NODE,
    &maintenance::MAINTENANCE,
    &EXCEPTION_TABLE,
    &GATE_TABLE,
];

/// Why something unsafe is done all the same, and until when.
#[derive(Clone, Debug)]
pub struct Exception {
    /// Why.
    pub reason: Spanned<String>,
    /// The last day, in UTC, on which it holds.
    pub until: Spanned<Date>,
    /// The whole map.
    pub span: Span,
}

static EXCEPTION_TABLE: Table = Table {
    what: "an exception",
    place: "insecure",
    keys: &[
        Key::required("reason", Shape::Text("why"), "why it is done all the same"),
        Key::required("until", Date::SHAPE, "the last day, in UTC, on which it is accepted"),
    ],
};

impl Exception {
    /// Stands for an exception that was refused, so that what is beside it can be checked; never in a [`Config`].
    fn refused(span: Span) -> Exception {
        let reason = Spanned::new("refused".to_owned(), span);
        Exception { reason, until: Spanned::new(Date::MAX, span), span }
    }
}

impl FromNode for Exception {
    const SHAPE: Shape = Shape::Map(&EXCEPTION_TABLE);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        if node.entries().is_none() && !node.is_null() && !node.is_refused() {
            let found = bind.found(node);
            bind.error(
                ConfigError::new(EXCEPTION, "an exception needs a reason and an end", node.span)
                    .found(found)
                    .expected("`{ reason: \"…\", until: 2027-06-30 }`")
                    .why("what is unsafe for good reasons today is forgotten tomorrow"),
            );
            return None;
        }
        bind.map(node, &EXCEPTION_TABLE, |m| {
            for key in ["reason", "until"] {
                if !m.attempted(key) {
                    let span = m.head_span();
                    m.error(
                        ConfigError::new(EXCEPTION, format!("an exception needs `{key}`"), span)
                            .expected("`{ reason: \"…\", until: 2027-06-30 }`")
                            .why("what is unsafe for good reasons today is forgotten tomorrow"),
                    );
                }
            }
            let reason = m.optional::<Spanned<Reason>>("reason");
            let until = m.optional::<Spanned<Date>>("until");
            let reason = reason?;
            Some(Exception {
                reason: Spanned::new(reason.value.0, reason.span),
                until: until?,
                span: m.span(),
            })
        })
    }
}

/// A reason in words: at least [`REASON_CHARACTERS_MIN`] characters, more than one kind of them.
#[derive(Clone, Debug)]
pub struct Reason(pub String);

/// The shortest reason that can say something.
pub const REASON_CHARACTERS_MIN: usize = 4;
/// The longest reason.
pub const REASON_CHARACTERS_MAX: usize = 500;

impl FromNode for Reason {
    const SHAPE: Shape = Shape::Text("why, in words");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        if let Some(scalar) = node.scalar()
            && matches!(scalar.meaning(), super::node::Meaning::Bool(_))
        {
            let found = bind.found(node);
            bind.error(
                ConfigError::new(REASON, "a reason is given in words", node.span)
                    .found(found)
                    .expected("text such as `\"shop has no OpenAPI document yet\"`"),
            );
            return None;
        }
        let text = bind.text(node, "a reason in words")?.trim();
        let characters = text.chars().count();
        let letters = text.chars().filter(|c| c.is_alphabetic()).count();
        if letters < REASON_CHARACTERS_MIN || characters > REASON_CHARACTERS_MAX {
            let found = bind.found(node);
            bind.error(
                ConfigError::new(REASON, "this is not a reason", node.span)
                    .found(found)
                    .expected("why, in words that somebody else will understand; at most 500 characters"),
            );
            return None;
        }
        Some(Reason(text.to_owned()))
    }
}

/// Whether a policy decides, only counts what it would decide, or rests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Decides.
    #[default]
    Enforce,
    /// Runs, is counted and logged, decides nothing.
    Observe,
    /// Does not run.
    Off,
}

const MODES: [(&str, Mode); 3] = [("enforce", Mode::Enforce), ("observe", Mode::Observe), ("off", Mode::Off)];

impl FromNode for Mode {
    const SHAPE: Shape = Shape::Word(&["enforce", "observe", "off"]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.word(node, &MODES)
    }
}

/// The mode of a gate (`login`, `allow`): to open it takes a reason and an end.
#[derive(Clone, Debug, Default)]
pub enum GateMode {
    /// Closed to those who may not pass.
    #[default]
    Enforce,
    /// Open; what it would have refused is counted and logged.
    Observe(Exception),
    /// Open.
    Off(Exception),
}

impl GateMode {
    /// The bare mode.
    pub fn mode(&self) -> Mode {
        match self {
            GateMode::Enforce => Mode::Enforce,
            GateMode::Observe(_) => Mode::Observe,
            GateMode::Off(_) => Mode::Off,
        }
    }

    /// Why it is open, if it is.
    pub fn exception(&self) -> Option<&Exception> {
        match self {
            GateMode::Enforce => None,
            GateMode::Observe(exception) | GateMode::Off(exception) => Some(exception),
        }
    }
}

static GATE_TABLE: Table = Table {
    what: "an open gate",
    place: "mode",
    keys: &[
        Key::optional("observe", Exception::SHAPE, "let everybody pass, count what would have been refused"),
        Key::optional("off", Exception::SHAPE, "let everybody pass"),
    ],
};

impl FromNode for GateMode {
    const SHAPE: Shape = Shape::Either(&[Shape::Word(&["enforce"]), Shape::Map(&GATE_TABLE)]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        if node.scalar().is_some() {
            let mode = bind.word(node, &MODES)?;
            if mode == Mode::Enforce {
                return Some(GateMode::Enforce);
            }
            let found = bind.found(node);
            let word = if mode == Mode::Observe { "observe" } else { "off" };
            bind.error(
                ConfigError::new(GATE, "this opens a gate, which takes a reason and an end", node.span)
                    .found(found)
                    .expected(format!("`mode: {{ {word}: {{ reason: \"…\", until: 2027-06-30 }} }}`"))
                    .why("a login or `allow` that does not enforce lets callers in who may not enter"),
            );
            return None;
        }
        bind.map(node, &GATE_TABLE, |m| match m.one_of(GATE, &["observe", "off"])? {
            "observe" => m.required("observe").map(GateMode::Observe),
            _ => m.required("off").map(GateMode::Off),
        })
    }
}

/// The sections of a configuration as far as they could be read. `None` = written, but refused as a whole, so that
/// nothing can be said about what refers to it.
#[derive(Debug, Default)]
pub struct Draft {
    /// The listeners that could be read.
    pub listen: Option<Vec<Listener>>,
    /// Whether all listeners could be read.
    pub listen_whole: bool,
    /// The upstreams.
    pub upstreams: Option<Named<Upstream>>,
    /// The logins.
    pub login: Option<Named<Login>>,
    /// The APIs.
    pub apis: Option<Named<Api>>,
    /// The access log.
    pub log: Option<Log>,
    /// The audit log.
    pub audit: Option<Audit>,
    /// The process.
    pub node: NodeSettings,
}

impl Draft {
    /// Binds the top of a configuration. `lost` are the sections that hold a syntax error.
    pub fn bind(root: &Node, lost: &[String], bind: &mut Bind<'_>) -> Draft {
        if root.is_null() && lost.is_empty() {
            bind.error(
                ConfigError::new(VERSION, "the file is empty", root.span)
                    .expected("`ringwall: 1` and the sections `listen` and `apis`")
                    .fix("`ringwall help configuration` shows the smallest file that works"),
            );
            return Draft::default();
        }
        let is_lost = |key: &str| lost.iter().any(|lost| lost == key);
        let draft = bind.map(root, &TOP, |m| {
            let attempted = is_lost("ringwall") || m.attempted("ringwall");
            version(m.node("ringwall"), attempted, m.head_span(), m.bind());
            for key in ["listen", "apis"] {
                if !m.has(key) && !is_lost(key) {
                    m.missing(key);
                }
            }
            let absent =
                |m: &super::bind::MapBinder<'_, '_, '_>, key: &str| !m.attempted(key) && !is_lost(key);
            let listen: Option<Vec<Listener>> = m.optional("listen");
            let written = m.node("listen").map_or(0, |node| match &node.kind {
                NodeKind::List(items) => items.len(),
                NodeKind::Scalar(_) | NodeKind::Map(_) | NodeKind::Refused => 1,
            });
            Some(Draft {
                listen_whole: listen.as_ref().is_some_and(|listen| listen.len() == written),
                listen,
                upstreams: if absent(m, "upstreams") {
                    Some(Named::default())
                } else {
                    section(m, "upstreams")
                },
                login: if absent(m, "login") { Some(Named::default()) } else { section(m, "login") },
                apis: section(m, "apis"),
                log: m.optional("log"),
                audit: m.optional("audit"),
                node: m.optional("node").unwrap_or_default(),
            })
        });
        draft.unwrap_or_default()
    }

    /// The configuration, if all sections could be read.
    pub fn finish(self) -> Option<Config> {
        Some(Config {
            listen: self.listen?,
            upstreams: self.upstreams?,
            login: self.login?,
            apis: self.apis?,
            log: self.log,
            audit: self.audit,
            node: self.node,
        })
    }
}

fn section<T: FromNode>(m: &mut super::bind::MapBinder<'_, '_, '_>, key: &'static str) -> Option<Named<T>> {
    let what = match key {
        "upstreams" => "upstream",
        "login" => "login",
        _ => "API",
    };
    let node = m.node(key)?;
    let named: Named<T> = m.bind().named(node, what)?;
    if matches!(&node.kind, NodeKind::Map(entries) if entries.is_empty()) {
        let span = m.key_span(key).unwrap_or(node.span);
        m.error(
            ConfigError::new(super::bind::EMPTY, format!("`{key}` is empty"), span)
                .expected(format!("at least one {what}"))
                .fix("leave the key out if it is not needed"),
        );
    }
    Some(named)
}

fn version(node: Option<&Node>, attempted: bool, top: Span, bind: &mut Bind<'_>) {
    let Some(node) = node else {
        if !attempted {
            bind.error(
                ConfigError::new(VERSION, "the version of the format is missing", top)
                    .expected("`ringwall: 1` at the top of the file")
                    .why("a later version may read the same words differently"),
            );
        }
        return;
    };
    let written = node.scalar().map(|scalar| scalar.meaning());
    if written != Some(super::node::Meaning::Int(1)) && !node.is_refused() {
        let found = bind.found(node);
        bind.error(
            ConfigError::new(VERSION, "this version of the format is not known", node.span)
                .found(found)
                .expected("`1`"),
        );
    }
}
