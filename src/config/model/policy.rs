//! What an API and its operations ask of a request: `allow`, `limits`, `sizes`, `timeouts`, `headers`, `body`.

use std::fmt;
use std::time::Duration;

use super::{GateMode, Mode};
use crate::config::bind::{Bind, FromNode, KEY_MISSING, Spanned, malformed, one_of};
use crate::config::error::{Code, ConfigError};
use crate::config::node::{Node, NodeKind};
use crate::config::shape::{Key, Shape, Table, nearest};
use crate::config::source::Span;
use crate::config::unit::{ByteSize, FilePath, HeaderName, HeaderValue, Rate};
use crate::http::media_type::MediaType;

/// `extend` and `replace` together, or beside other keys.
pub const SCOPE: Code = Code::new(1408);
/// A field is named twice in `set`, or in both `set` and `remove`.
pub const FIELD_TWICE: Code = Code::new(1419);
/// `allow` admits nobody.
pub const ALLOW_EMPTY: Code = Code::new(1506);
/// `*` stands for a login or an operation.
pub const GRANT_WILDCARD: Code = Code::new(1505);
/// What a limit counts by is not known.
pub const LIMIT_KEY: Code = Code::new(1602);
/// Nothing is asked of a body.
pub const BODY_EMPTY: Code = Code::new(1435);
/// What a body may say it is does not say it, or contradicts its schema.
pub const BODY_TYPE: Code = Code::new(1436);
/// A limit counts by the same thing twice.
pub const LIMIT_KEY_TWICE: Code = Code::new(1609);
/// A limit bounds both how often and how many at once.
pub const LIMIT_BOUNDS_TWO: Code = Code::new(1650);

/// A policy of an inner scope: alone, or against that of the scope around it.
#[derive(Clone, Debug)]
pub struct Scoped<T> {
    /// How it relates to the policy of the same kind around it.
    pub how: How,
    /// The policy.
    pub value: T,
    /// Where it was written.
    pub span: Span,
}

/// How a policy relates to that of the scope around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// There must be none around it.
    Alone,
    /// Added to it.
    Extend,
    /// Instead of it.
    Replace,
}

impl<T: FromNode> FromNode for Scoped<T> {
    const SHAPE: Shape = Shape::Scoped(&T::SHAPE);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        let entries = node.entries().unwrap_or(&[]);
        let named = entries.iter().find_map(|entry| match entry.key.text.as_str() {
            "extend" => Some((How::Extend, entry)),
            "replace" => Some((How::Replace, entry)),
            _ => None,
        });
        let Some((how, entry)) = named else {
            return T::from_node(node, bind).map(|value| Scoped { how: How::Alone, value, span: node.span });
        };
        if let Some(other) = entries.iter().find(|other| other.key != entry.key) {
            bind.error(
                ConfigError::new(
                    SCOPE,
                    format!("`{}` stands beside `{}`", other.key.text, entry.key.text),
                    other.key.span,
                )
                .also(entry.key.span, "everything belongs below this")
                .expected("`extend` or `replace` alone, with the policy below it"),
            );
        }
        T::from_node(&entry.value, bind).map(|value| Scoped { how, value, span: node.span })
    }
}

/// Who may do what.
#[derive(Clone, Debug)]
pub struct Allow {
    /// The grants; at least one. What none of them admits is refused.
    pub grants: Vec<Grant>,
    /// Whether they are enforced.
    pub mode: GateMode,
    /// The whole value.
    pub span: Span,
}

/// One line of `allow`.
#[derive(Clone, Debug)]
pub struct Grant {
    /// Any of these.
    pub who: Vec<Spanned<Who>>,
    /// Any of these roles; empty: no role is needed.
    pub role: Vec<Spanned<String>>,
    /// All of these scopes; empty: no scope is needed.
    pub scope: Vec<Spanned<String>>,
    /// These operations; `None`: every operation of the API.
    pub operations: Option<Vec<Spanned<String>>>,
    /// The whole map.
    pub span: Span,
}

/// Whom a grant or limit speaks of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Who {
    /// Everybody, with or without identity.
    Anyone,
    /// Those who came in by a login.
    Login(String),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Who::Anyone => "anyone",
            Who::Login(name) => name,
        })
    }
}

/// Keys of the long form of `apis.X.allow`.
pub static ALLOW: Table = Table {
    what: "the long form of `allow`",
    place: "apis.X.allow",
    keys: &[
        Key::required("rules", <Vec<Grant>>::SHAPE, "the grants"),
        Key::optional("mode", GateMode::SHAPE, "whether they are enforced").default("enforce"),
    ],
};

/// Keys of `apis.X.allow[]`.
pub static GRANT: Table = Table {
    what: "a grant",
    place: "apis.X.allow[]",
    keys: &[
        Key::required("who", <Vec<Who>>::SHAPE, "`anyone`, or the names of logins"),
        Key::optional("role", <Vec<String>>::SHAPE, "any of these roles").default("no role is needed"),
        Key::optional("scope", <Vec<String>>::SHAPE, "all of these scopes").default("no scope is needed"),
        Key::optional("do", <Vec<String>>::SHAPE, "these operations").default("every operation of the API"),
        Key::later("mfa", "a second factor"),
        Key::later("id", "one identity by name"),
        Key::later("when", "a condition"),
    ],
};

impl FromNode for Allow {
    const SHAPE: Shape = Shape::Either(&[<Vec<Grant>>::SHAPE, Shape::Map(&ALLOW)]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        let long = node.get("rules").is_some() || (node.get("mode").is_some() && node.get("who").is_none());
        if !long {
            return grants(node, bind).map(|grants| Allow {
                grants,
                mode: GateMode::Enforce,
                span: node.span,
            });
        }
        bind.map(node, &ALLOW, |m| {
            let mode = m.optional("mode").unwrap_or_default();
            let Some(rules) = m.node("rules") else {
                m.missing("rules");
                return None;
            };
            let span = m.span();
            grants(rules, m.bind()).map(|grants| Allow { grants, mode, span })
        })
    }
}

fn grants(node: &Node, bind: &mut Bind<'_>) -> Option<Vec<Grant>> {
    if matches!(&node.kind, NodeKind::List(items) if items.is_empty()) {
        bind.error(
            ConfigError::new(ALLOW_EMPTY, "`allow` admits nobody", node.span)
                .expected("at least one grant such as `{ who: people, do: [listOrders] }`")
                .fix("write `closed: true` instead if nobody is meant to enter"),
        );
        return None;
    }
    if let Some(scalar) = node.scalar()
        && !node.is_null()
    {
        let found = bind.found(node);
        let mut error = ConfigError::new(crate::config::bind::TYPE, "expected a grant", node.span)
            .found(found)
            .expected("a grant such as `{ who: people }`");
        if crate::config::bind::is_name(&scalar.text) && !scalar.substituted {
            error = error.suggest(format!("{{ who: {} }}", scalar.text));
        }
        bind.error(error);
        return None;
    }
    FromNode::from_node(node, bind)
}

impl FromNode for Grant {
    const SHAPE: Shape = Shape::Map(&GRANT);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &GRANT, |m| {
            let who = m.required("who").unwrap_or_default();
            let role = m.optional("role").unwrap_or_default();
            let scope = m.optional("scope").unwrap_or_default();
            let operations = operations(m);
            // Without `who` an error was reported: what else is written is still checked.
            Some(Grant { who, role, scope, operations, span: m.span() })
        })
    }
}

fn operations(m: &mut crate::config::bind::MapBinder<'_, '_, '_>) -> Option<Vec<Spanned<String>>> {
    let operations: Vec<Spanned<OperationName>> = m.optional("do")?;
    Some(operations.into_iter().map(|name| Spanned::new(name.value.0, name.span)).collect())
}

struct OperationName(String);

impl FromNode for OperationName {
    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        let text = bind.text(node, "the name of an operation")?;
        if text.contains('*') {
            return wildcard(node, bind, "leave `do` out for every operation of the API, or name each");
        }
        Some(OperationName(text.to_owned()))
    }
}

impl FromNode for Who {
    const SHAPE: Shape = Shape::Text("`anyone`, or the name of a login");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        let text = bind.text(node, "`anyone`, or the name of a login")?;
        if text.contains('*') {
            return wildcard(node, bind, "write `anyone` for everybody, or name each login");
        }
        Some(if text == "anyone" { Who::Anyone } else { Who::Login(text.to_owned()) })
    }
}

fn wildcard<T>(node: &Node, bind: &mut Bind<'_>, fix: &str) -> Option<T> {
    let found = bind.found(node);
    bind.error(
        ConfigError::new(GRANT_WILDCARD, "a wildcard grants what nobody has thought of", node.span)
            .found(found)
            .expected("names")
            .fix(fix)
            .why("what is added later would be open from its first day"),
    );
    None
}

/// One limit: how often, or how many at once.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Its name, if it has one.
    pub name: Option<Spanned<String>>,
    /// Whether it refuses.
    pub mode: Mode,
    /// Only requests of these; empty: all.
    pub who: Vec<Spanned<Who>>,
    /// Only these operations; `None`: all.
    pub operations: Option<Vec<Spanned<String>>>,
    /// What is counted apart: one count for each combination; at least one.
    pub per: Vec<Spanned<LimitKey>>,
    /// What of them is bounded.
    pub bound: Bound,
    /// The whole map.
    pub span: Span,
}

/// What a limit bounds.
#[derive(Clone, Debug)]
pub enum Bound {
    /// How often.
    Frequency(Frequency),
    /// How many are in flight at any time.
    Concurrency(Spanned<u64>),
}

/// How often.
#[derive(Clone, Debug)]
pub struct Frequency {
    /// How many in which time, in the long run.
    pub rate: Spanned<Rate>,
    /// How many at once, after a rest; `None`: the count of the rate.
    pub burst: Option<Spanned<u64>>,
}

/// What a limit counts apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum LimitKey {
    /// Who came in by a login.
    Identity,
    /// The client's address: IPv4 whole, IPv6 by /64 and /48.
    Address,
    /// The operation.
    Operation,
    /// The API.
    Api,
    /// Nothing: one count for all.
    All,
    /// The value of a field of the request, in lower case.
    Header(String),
    /// The value of a claim of the token.
    Claim(String),
}

impl fmt::Display for LimitKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            LimitKey::Identity => f.write_str("identity"),
            LimitKey::Address => f.write_str("address"),
            LimitKey::Operation => f.write_str("operation"),
            LimitKey::Api => f.write_str("api"),
            LimitKey::All => f.write_str("all"),
            LimitKey::Header(name) => write!(f, "header:{name}"),
            LimitKey::Claim(name) => write!(f, "claim:{name}"),
        }
    }
}

impl Frequency {
    /// [`Frequency::burst`], or its default: the count of the rate.
    pub fn burst_in_force(&self) -> u64 {
        self.burst.map_or(self.rate.count, |burst| burst.value)
    }

    /// The most that any one period can admit: the burst, and what flows in meanwhile.
    pub fn admitted_in_one_period(&self) -> u64 {
        self.burst_in_force().saturating_add(self.rate.count)
    }
}

impl Limit {
    /// What it is, whatever its place in the list: (name, or who + per + do + period) within its API, `at once` standing
    /// for the period where it bounds requests in flight. Counters are kept under it over a reload, so a changed `rate`,
    /// `burst` or `concurrency` does not reset them. `within` is the operation that
    /// the limit stands in, if it stands in one.
    pub fn id(&self, within: Option<&str>) -> String {
        if let Some(name) = &self.name {
            return name.value.clone();
        }
        let sorted = |mut words: Vec<String>| {
            words.sort();
            words.dedup();
            words.join(",")
        };
        let who = sorted(self.who.iter().map(|who| who.to_string()).collect());
        let per = sorted(self.per.iter().map(|per| per.to_string()).collect());
        let written = || {
            self.operations.as_ref().map(|all| sorted(all.iter().map(|name| name.value.clone()).collect()))
        };
        let operations = within.map(str::to_owned).or_else(written);
        let mut id = match &self.bound {
            Bound::Frequency(frequency) => format!("per {per} per {}", frequency.rate.period.unit()),
            Bound::Concurrency(_) => format!("per {per} at once"),
        };
        if !who.is_empty() {
            id.push_str(&format!(" who {who}"));
        }
        if let Some(operations) = operations {
            id.push_str(&format!(" do {operations}"));
        }
        id
    }
}

/// Keys of `limits[]`.
pub static LIMIT: Table = Table {
    what: "a limit",
    place: "limits[]",
    keys: &[
        Key::optional("name", Shape::Text("a name"), "its name in logs and metrics")
            .default("made from its other keys"),
        Key::optional("mode", Mode::SHAPE, "whether it refuses").default("enforce"),
        Key::optional("who", <Vec<Who>>::SHAPE, "only requests of these logins").default("all"),
        Key::optional("do", <Vec<String>>::SHAPE, "only these operations").default("all"),
        Key::required("per", <Vec<LimitKey>>::SHAPE, "what is counted apart"),
        Key::optional("rate", Rate::SHAPE, "how many in which time, in the long run; this or `concurrency`"),
        Key::optional("burst", Shape::Int, "with `rate`: how many at once, after a rest")
            .default("the count of `rate`")
            .bounds("1", "1000000000"),
        Key::optional("concurrency", Shape::Int, "how many may be in flight at any time; this or `rate`")
            .bounds("1", "1000000"),
        Key::later("refund_on", "giving back what a later refusal cost"),
        Key::later("quota", "amounts over months"),
    ],
};

impl FromNode for Limit {
    const SHAPE: Shape = Shape::Map(&LIMIT);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &LIMIT, |m| {
            let name = m.optional::<Spanned<String>>("name").filter(|name| {
                let ok = crate::config::bind::is_name(name);
                if !ok {
                    let error = ConfigError::new(crate::config::bind::NAME, "this is not a name", name.span)
                        .expected("a letter, then letters, digits, `_`, `-` or `.`; at most 64 in all");
                    m.error(error);
                }
                ok
            });
            let mode = m.optional("mode").unwrap_or_default();
            let who = m.optional("who").unwrap_or_default();
            let operations = operations(m);
            let per: Option<Vec<Spanned<LimitKey>>> = m.required("per");
            let bound = bound(m);
            let per = per?;
            for (at, key) in per.iter().enumerate() {
                if let Some(first) = per[..at].iter().find(|first| first.value == key.value) {
                    m.error(
                        ConfigError::new(LIMIT_KEY_TWICE, format!("`{}` stands twice", key.value), key.span)
                            .also(first.span, "first here"),
                    );
                }
            }
            Some(Limit { name, mode, who, operations, per, bound: bound?, span: m.span() })
        })
    }
}

/// What a limit bounds: one thing, so that it has one count and one answer.
fn bound(m: &mut crate::config::bind::MapBinder<'_, '_, '_>) -> Option<Bound> {
    let (rate, burst) = (m.optional("rate"), m.optional("burst"));
    let concurrency = m.optional("concurrency");
    let Some(at_once) = m.node("concurrency") else {
        if !m.attempted("concurrency") && !m.attempted("rate") {
            let error =
                ConfigError::new(KEY_MISSING, "the limit says neither how often nor how many", m.head_span())
                    .expected("`rate: 100/min`, or `concurrency: 10`");
            m.error(error);
        }
        return rate.map(|rate| Bound::Frequency(Frequency { rate, burst }));
    };
    let span = at_once.span;
    let beside = ["rate", "burst"].into_iter().find_map(|key| m.node(key).map(|node| (key, node.span)));
    if let Some((key, also)) = beside {
        let error = ConfigError::new(LIMIT_BOUNDS_TWO, "a limit bounds how often, or how many at once", span)
            .also(also, format!("`{key}` is how often"))
            .fix("write a limit of its own for each")
            .why("each has a name, a count and an answer of its own");
        m.error(error);
        return None;
    }
    concurrency.map(Bound::Concurrency)
}

impl FromNode for LimitKey {
    const SHAPE: Shape = Shape::Pattern(
        "^(identity|address|operation|api|all|header:[A-Za-z0-9!#$%&'*+.^`|~-]+|claim:.+)$",
        "identity",
    );

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const WORDS: [&str; 7] =
            ["identity", "address", "operation", "api", "all", "header:NAME", "claim:NAME"];
        let expected = one_of(&WORDS.map(|word| format!("`{word}`")));
        let text = bind.text(node, &expected)?;
        let key = match text {
            "identity" => Some(LimitKey::Identity),
            "address" => Some(LimitKey::Address),
            "operation" => Some(LimitKey::Operation),
            "api" => Some(LimitKey::Api),
            "all" => Some(LimitKey::All),
            _ => match text.split_once(':') {
                Some(("header", name)) => match HeaderName::parse(name) {
                    Ok(name) => Some(LimitKey::Header(name.as_str().to_ascii_lowercase())),
                    Err(problem) => {
                        return malformed(
                            bind,
                            node,
                            LIMIT_KEY,
                            format!("the field name {problem}"),
                            expected,
                        );
                    }
                },
                Some(("claim", name)) if !name.is_empty() && name.len() <= 256 => {
                    Some(LimitKey::Claim(name.to_owned()))
                }
                _ => None,
            },
        };
        if key.is_none() {
            let found = bind.found(node);
            let mut error = ConfigError::new(LIMIT_KEY, "a limit cannot count by this", node.span)
                .found(found)
                .expected(expected);
            let meant = match text {
                "ip" | "client" | "client_ip" | "remote_addr" => Some("address"),
                "user" | "key" | "subject" | "consumer" | "api_key" => Some("identity"),
                "global" | "total" => Some("all"),
                "route" | "endpoint" | "path" => Some("operation"),
                _ => nearest(text, WORDS),
            };
            if let Some(meant) = meant {
                error = error.suggest(meant);
            }
            bind.error(error);
        }
        key
    }
}

/// Bounds on what a request may be made of; `None` takes the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sizes {
    /// The request target; 8 KiB.
    pub target: Option<ByteSize>,
    /// The whole head; 32 KiB.
    pub head: Option<ByteSize>,
    /// The number of fields; 100.
    pub fields: Option<u64>,
    /// The body; 1 MiB.
    pub body: Option<ByteSize>,
    /// Lists and objects within each other in a JSON body; 64.
    pub depth: Option<u64>,
    /// The body of the answer; no bound.
    pub response: Option<ByteSize>,
    /// A message within a body; what its protocol has for a default.
    pub message: Option<ByteSize>,
}

/// [`Sizes`] with the defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SizesInForce {
    /// The longest request target, in bytes.
    pub target_bytes_max: u64,
    /// The largest head, in bytes.
    pub head_bytes_max: u64,
    /// The most fields.
    pub fields_max: u64,
    /// The largest body, in bytes.
    pub body_bytes_max: u64,
    /// The deepest JSON.
    pub json_depth_max: u64,
    /// The largest body of an answer, in bytes.
    pub response_bytes_max: u64,
    /// The largest body of a call, the sum of its messages, in bytes.
    pub call_bytes_max: u64,
    /// The longest message of a call or a WebSocket, in bytes; `None`: what its protocol has for a default.
    pub message_bytes_max: Option<u64>,
}

impl Sizes {
    /// What `inner` has, and of `self` what it has not.
    pub fn extended(self, inner: Sizes) -> Sizes {
        Sizes {
            target: inner.target.or(self.target),
            head: inner.head.or(self.head),
            fields: inner.fields.or(self.fields),
            body: inner.body.or(self.body),
            depth: inner.depth.or(self.depth),
            response: inner.response.or(self.response),
            message: inner.message.or(self.message),
        }
    }

    /// With the defaults of the manual.
    pub fn in_force(self) -> SizesInForce {
        SizesInForce {
            target_bytes_max: self.target.map_or(8 * 1024, ByteSize::bytes),
            head_bytes_max: self.head.map_or(32 * 1024, ByteSize::bytes),
            fields_max: self.fields.unwrap_or(100),
            body_bytes_max: self.body.map_or(1024 * 1024, ByteSize::bytes),
            json_depth_max: self.depth.unwrap_or(64),
            response_bytes_max: self.response.map_or(u64::MAX, ByteSize::bytes),
            call_bytes_max: self.body.map_or(u64::MAX, ByteSize::bytes),
            message_bytes_max: self.message.map(ByteSize::bytes),
        }
    }
}

/// Keys of `sizes`.
pub static SIZES: Table = Table {
    what: "the sizes",
    place: "sizes",
    keys: &[
        Key::optional("target", ByteSize::SHAPE, "the request target; beyond it 414")
            .default("8KiB")
            .bounds("16B", "32KiB"),
        Key::optional("head", ByteSize::SHAPE, "the whole head; beyond it 431")
            .default("32KiB")
            .bounds("256B", "64KiB"),
        Key::optional("fields", Shape::Int, "the number of fields; beyond it 431")
            .default("100")
            .bounds("1", "128"),
        Key::optional(
            "body",
            ByteSize::SHAPE,
            "the body; beyond it 413; of gRPC calls only where it is written",
        )
        .default("1MiB")
        .bounds("0B", "1024GiB"),
        Key::optional(
            "depth",
            Shape::Int,
            "lists and objects within each other in a JSON body; beyond it 400",
        )
        .default("64")
        .bounds("1", "512"),
        Key::optional(
            "response",
            ByteSize::SHAPE,
            "the body of an answer of the upstream; beyond it 502, or cut where it has begun",
        )
        .default("no bound")
        .bounds("0B", "1024GiB"),
        Key::optional(
            "message",
            ByteSize::SHAPE,
            "one message of a gRPC call or a WebSocket, either way; beyond it `RESOURCE_EXHAUSTED`, or a close with 1009",
        )
        .default("4MiB; of a WebSocket 1MiB")
        .bounds("1B", "1GiB"),
    ],
};

impl FromNode for Sizes {
    const SHAPE: Shape = Shape::Map(&SIZES);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &SIZES, |m| {
            Some(Sizes {
                target: m.optional("target"),
                head: m.optional("head"),
                fields: m.optional("fields"),
                body: m.optional("body"),
                depth: m.optional("depth"),
                response: m.optional("response"),
                message: m.optional("message"),
            })
        })
    }
}

/// Times of an exchange; `None` takes the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Timeouts {
    /// From the request's last byte to the answer's first; 30 s.
    pub first_byte: Option<Duration>,
    /// From the request's first byte to the end of the answer's head; 60 s.
    pub total: Option<Duration>,
    /// After the head: no byte in either direction; 60 s.
    pub stream_idle: Option<Duration>,
    /// After the head: the whole exchange; 1 h, of server-sent events 24 h.
    pub lifetime: Option<Duration>,
}

/// [`Timeouts`] with the defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimeoutsInForce {
    /// From the request's last byte to the answer's first.
    pub first_byte: Duration,
    /// From the request's first byte to the end of the answer's head.
    pub total: Duration,
    /// After the head: no byte in either direction.
    pub stream_idle: Duration,
    /// After the head: the whole exchange.
    pub lifetime: Duration,
    /// The same of an answer that is a stream of server-sent events.
    pub lifetime_of_events: Duration,
}

impl Timeouts {
    /// What `inner` has, and of `self` what it has not.
    pub fn extended(self, inner: Timeouts) -> Timeouts {
        Timeouts {
            first_byte: inner.first_byte.or(self.first_byte),
            total: inner.total.or(self.total),
            stream_idle: inner.stream_idle.or(self.stream_idle),
            lifetime: inner.lifetime.or(self.lifetime),
        }
    }

    /// With the defaults of the manual; `upstream` is the first-byte time of the upstream, if it has one.
    pub fn in_force(self, upstream: Option<Duration>) -> TimeoutsInForce {
        TimeoutsInForce {
            first_byte: self.first_byte.or(upstream).unwrap_or(Duration::from_secs(30)),
            total: self.total.unwrap_or(Duration::from_secs(60)),
            stream_idle: self.stream_idle.unwrap_or(Duration::from_secs(60)),
            lifetime: self.lifetime.unwrap_or(Duration::from_secs(3_600)),
            lifetime_of_events: self.lifetime.unwrap_or(Duration::from_secs(24 * 3_600)),
        }
    }
}

/// Keys of `timeouts` of an API or operation.
pub static TIMEOUTS: Table = Table {
    what: "the timeouts",
    place: "timeouts",
    keys: &[
        Key::optional(
            "first_byte",
            Duration::SHAPE,
            "from the request's last byte to the answer's first; then 504",
        )
        .default("30s, or that of the upstream")
        .bounds("10ms", "1h"),
        Key::optional(
            "total",
            Duration::SHAPE,
            "from the request's first byte to the end of the answer's head; then 504",
        )
        .default("60s")
        .bounds("10ms", "1h"),
        Key::optional("stream_idle", Duration::SHAPE, "after the head: without a byte in either direction")
            .default("60s")
            .bounds("10ms", "1day"),
        Key::optional("lifetime", Duration::SHAPE, "after the head: the whole exchange")
            .default("1h; 24h where the answer is `text/event-stream`")
            .bounds("1s", "7day"),
    ],
};

impl FromNode for Timeouts {
    const SHAPE: Shape = Shape::Map(&TIMEOUTS);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &TIMEOUTS, |m| {
            Some(Timeouts {
                first_byte: m.optional("first_byte"),
                total: m.optional("total"),
                stream_idle: m.optional("stream_idle"),
                lifetime: m.optional("lifetime"),
            })
        })
    }
}

/// Fields to set and remove, literally.
#[derive(Clone, Debug, Default)]
pub struct HeaderEdits {
    /// In the request that goes to the upstream.
    pub request: Edits,
    /// In the answer that goes to the client.
    pub response: Edits,
}

/// Fields to set and remove in one direction.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    /// Every field of that name is replaced by one with this value.
    pub set: Vec<(Spanned<HeaderName>, Spanned<HeaderValue>)>,
    /// Every field of that name is removed.
    pub remove: Vec<Spanned<HeaderName>>,
}

impl Edits {
    fn extended(&self, inner: &Edits) -> Edits {
        let touched = |name: &HeaderName| {
            inner.set.iter().any(|(other, _)| other.value == *name)
                || inner.remove.iter().any(|other| other.value == *name)
        };
        let mut edits = inner.clone();
        edits.set.extend(self.set.iter().filter(|(name, _)| !touched(name)).cloned());
        edits.remove.extend(self.remove.iter().filter(|name| !touched(name)).cloned());
        edits
    }
}

impl HeaderEdits {
    /// What `inner` does, and of `self` what concerns other fields.
    pub fn extended(&self, inner: &HeaderEdits) -> HeaderEdits {
        HeaderEdits {
            request: self.request.extended(&inner.request),
            response: self.response.extended(&inner.response),
        }
    }
}

/// Keys of `headers`.
pub static HEADERS: Table = Table {
    what: "the headers",
    place: "headers",
    keys: &[
        Key::optional("request", Edits::SHAPE, "edits to the request that goes to the upstream"),
        Key::optional("response", Edits::SHAPE, "edits to the answer that goes to the client"),
    ],
};

/// Keys of `headers.request` and `headers.response`.
pub static EDITS: Table = Table {
    what: "the edits of one direction",
    place: "headers.request",
    keys: &[
        Key::optional("set", Shape::Named(&HeaderValue::SHAPE), "fields and their literal values"),
        Key::optional("remove", <Vec<HeaderName>>::SHAPE, "fields to remove"),
    ],
};

impl FromNode for HeaderEdits {
    const SHAPE: Shape = Shape::Map(&HEADERS);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &HEADERS, |m| {
            Some(HeaderEdits {
                request: m.optional("request").unwrap_or_default(),
                response: m.optional("response").unwrap_or_default(),
            })
        })
    }
}

impl FromNode for Edits {
    const SHAPE: Shape = Shape::Map(&EDITS);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &EDITS, |m| {
            let set =
                m.optional::<FieldMap<Spanned<HeaderValue>>>("set").map(|map| map.0).unwrap_or_default();
            let remove: Vec<Spanned<HeaderName>> = m.optional("remove").unwrap_or_default();
            for (at, name) in remove.iter().enumerate() {
                let first = set
                    .iter()
                    .map(|(name, _)| name)
                    .chain(&remove[..at])
                    .find(|other| other.value == name.value);
                if let Some(first) = first {
                    m.error(
                        ConfigError::new(
                            FIELD_TWICE,
                            format!("`{}` is named twice", name.as_str()),
                            name.span,
                        )
                        .also(first.span, "first here"),
                    );
                }
            }
            Some(Edits { set, remove })
        })
    }
}

/// A map from field names to values; names are unique without regard to case.
pub struct FieldMap<T>(pub Vec<(Spanned<HeaderName>, T)>);

impl<T: FromNode> FromNode for FieldMap<T> {
    const SHAPE: Shape = Shape::Named(&T::SHAPE);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        let Some(entries) = node.entries() else {
            return bind.mismatch(node, "a map from field names to values");
        };
        let mut fields: Vec<(Spanned<HeaderName>, T)> = Vec::new();
        for entry in entries {
            let key = Node::text(&entry.key.text, entry.key.span);
            let name: Option<Spanned<HeaderName>> = FromNode::from_node(&key, bind);
            let value = T::from_node(&entry.value, bind);
            let Some(name) = name else { continue };
            if let Some((first, _)) = fields.iter().find(|(other, _)| other.value == name.value) {
                bind.error(
                    ConfigError::new(FIELD_TWICE, format!("`{}` is named twice", name.as_str()), name.span)
                        .also(first.span, "first here")
                        .why("field names are compared without regard to case"),
                );
            } else if let Some(value) = value {
                fields.push((name, value));
            }
        }
        Some(FieldMap(fields))
    }
}

/// What a body must be.
#[derive(Clone, Debug)]
pub struct Body {
    /// The JSON Schema, in a file.
    pub schema: Option<Spanned<FilePath>>,
    /// The media types that it may say it is; empty: whatever the schema asks for.
    pub types: Vec<Spanned<BodyType>>,
    /// The charsets that it may say it is in; `None`: UTF-8.
    pub charsets: Option<Vec<Spanned<Charset>>>,
    /// Whether it refuses.
    pub mode: Mode,
    /// The whole map.
    pub span: Span,
}

/// The only charset where none is listed.
const UTF_8: &str = "utf-8";

impl Body {
    /// [`Body::charsets`], or the default.
    pub fn charsets_in_force(&self) -> impl Iterator<Item = &str> {
        let default = self.charsets.is_none().then_some(UTF_8);
        default.into_iter().chain(self.charsets.iter().flatten().map(|charset| charset.value.0.as_str()))
    }
}

/// A media type without parameters: `application/json`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BodyType(String);

impl BodyType {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a charset: `utf-8`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Charset(String);

/// Keys of `body`.
pub static BODY: Table = Table {
    what: "a body",
    place: "body",
    keys: &[
        Key::optional("schema", FilePath::SHAPE, "the JSON Schema that every body must satisfy, in a file"),
        Key::optional("types", <Vec<BodyType>>::SHAPE, "the media types that are accepted; others are 415")
            .default("with a schema, JSON"),
        Key::optional("charsets", <Vec<Charset>>::SHAPE, "the charsets that are accepted; others are 415")
            .default("utf-8"),
        Key::optional("mode", Mode::SHAPE, "whether it refuses").default("enforce"),
    ],
};

impl FromNode for Body {
    const SHAPE: Shape = Shape::Map(&BODY);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &BODY, |m| {
            let mode = m.optional("mode").unwrap_or_default();
            let schema = m.optional("schema");
            let types: Vec<Spanned<BodyType>> = m.optional("types").unwrap_or_default();
            let charsets = m.optional("charsets");
            if !m.attempted("schema") && !m.attempted("types") {
                let span = m.head_span();
                m.error(
                    ConfigError::new(BODY_EMPTY, "nothing is asked of the body", span)
                        .expected("`schema`, `types`, or both")
                        .fix("add `types: [application/json]`, or a schema"),
                );
                return None;
            }
            if m.has("schema") {
                for one in types.iter().filter(|one| !one.is_json()) {
                    m.error(
                        ConfigError::new(BODY_TYPE, format!("`{}` is not JSON", one.as_str()), one.span)
                            .expected("`application/json`, or a type that ends in `+json`")
                            .why("the schema would refuse every body of this type"),
                    );
                }
            }
            Some(Body { schema, types, charsets, mode, span: m.span() })
        })
    }
}

impl BodyType {
    fn is_json(&self) -> bool {
        MediaType::parse(self.0.as_bytes()).is_ok_and(|found| found.is_json())
    }
}

impl FromNode for BodyType {
    const SHAPE: Shape =
        Shape::Pattern("^[A-Za-z0-9!#$%&'+.^_`|~-]+/[A-Za-z0-9!#$%&'+.^_`|~-]+$", "application/json");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "a media type without parameters, such as `application/json`";
        let text = bind.text(node, EXPECTED)?;
        // What has parts needs a boundary; here stands the type alone.
        let whole = format!("{text}; boundary=x");
        let multipart = text.get(..10).is_some_and(|start| start.eq_ignore_ascii_case("multipart/"));
        let value = if multipart { whole.as_bytes() } else { text.as_bytes() };
        match MediaType::parse(value) {
            Ok(found) if found.is_sniffed() => {
                malformed(bind, node, BODY_TYPE, "this type says nothing: its readers guess", EXPECTED)
            }
            Ok(found) if found.essence.len() == text.len() => Some(BodyType(text.to_owned())),
            _ => malformed(bind, node, BODY_TYPE, "this is not a media type", EXPECTED),
        }
    }
}

impl FromNode for Charset {
    const SHAPE: Shape = Shape::Pattern("^[A-Za-z0-9][A-Za-z0-9._:+-]*$", "utf-8");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "the name of a charset, such as `utf-8`";
        let text = bind.text(node, EXPECTED)?;
        // RFC 2978 §2.3: the characters of charset names that are in use.
        let fits = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.:+".contains(&byte));
        match fits && text.len() <= 40 && text.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            true => Some(Charset(text.to_owned())),
            false => malformed(bind, node, BODY_TYPE, "this is not the name of a charset", EXPECTED),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_of_events_live_a_day_unless_the_operator_says_otherwise() {
        let default = Timeouts::default().in_force(None);
        assert_eq!(default.lifetime, Duration::from_secs(3_600));
        assert_eq!(default.lifetime_of_events, Duration::from_secs(24 * 3_600));
        let written =
            Timeouts { lifetime: Some(Duration::from_secs(7)), ..Timeouts::default() }.in_force(None);
        assert_eq!(
            (written.lifetime, written.lifetime_of_events),
            (Duration::from_secs(7), Duration::from_secs(7))
        );
    }
}
