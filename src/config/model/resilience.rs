//! `upstreams.X.balance`, `retry`, `breaker`, `eject`: who is asked, and what happens when that goes wrong.

use std::time::Duration;

use crate::config::bind::{Bind, FromNode, Spanned, malformed};
use crate::config::error::{Code, ConfigError};
use crate::config::node::{Node, NodeKind};
use crate::config::secret::SecretRef;
use crate::config::shape::{Key, Shape, Table};
use crate::config::unit::{HeaderName, Percent};

/// Members cannot be chosen by this.
pub const HASH_KEY: Code = Code::new(1221);
/// Not a status that can mean "ask again".
pub const RETRY_STATUS: Code = Code::new(1222);
/// Not the name of a cookie.
pub const COOKIE_NAME: Code = Code::new(1223);
/// A way to choose members that is none, or two.
pub const BALANCE_KIND: Code = Code::new(1225);
/// Neither a number of requests nor `adaptive`.
pub const REQUESTS: Code = Code::new(1224);

/// Which member is next.
#[derive(Clone, Debug, Default)]
pub enum Balance {
    /// One after the other.
    RoundRobin,
    /// Of two taken by chance, the one with fewer requests under way.
    LeastRequest,
    /// Of two taken by chance, the one that is expected to answer sooner.
    #[default]
    Ewma,
    /// The same for the same key.
    Hash(HashKey),
    /// The same for the same client, who is told by a cookie.
    Sticky(Sticky),
}

/// What a consistent choice hangs on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashKey {
    /// The client's address.
    Address,
    /// Who is calling; the address of those who are nobody.
    Identity,
    /// The canonical path.
    Path,
    /// The value of a field of the request, in lower case; the address where it is absent.
    Header(String),
}

/// A cookie that tells a client's member.
#[derive(Clone, Debug)]
pub struct Sticky {
    /// Its name.
    pub cookie: String,
    /// What its value is made with: it must not tell where members are.
    pub key: SecretRef,
}

/// When and how often a request is sent again; `None` takes the default.
#[derive(Clone, Debug, Default)]
pub struct Retry {
    /// Attempts in all; 3.
    pub tries: Option<u64>,
    /// An attempt without an answer by then is given up for another.
    pub per_try: Option<Duration>,
    /// Statuses that are no answer if there can be another try.
    pub on: Vec<Spanned<u64>>,
    /// The share of requests that may be sent again; 20%.
    pub budget: Option<Percent>,
    /// The bound of the first pause; 25 ms.
    pub pause: Option<Duration>,
}

/// When an upstream is left alone, and how much of it is used at once.
#[derive(Clone, Debug, Default)]
pub struct Breaker {
    /// Requests in flight, all cores together.
    pub requests: Option<Requests>,
    /// Requests that may wait for a place; 128.
    pub queue: Option<u64>,
    /// How long one may wait; 100 ms.
    pub wait: Option<Duration>,
    /// The share of answers that may fail before it opens.
    pub failures: Option<Percent>,
    /// The time over which they are counted; 10 s.
    pub over: Option<Duration>,
    /// Answers in that time below which nothing is concluded; 20.
    pub least: Option<u64>,
    /// How long it is left alone the first time; 5 s.
    pub rest: Option<Duration>,
    /// Requests that are let through at once to see whether it has recovered; 3.
    pub probes: Option<u64>,
}

/// A bound on requests in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requests {
    /// So many.
    AtMost(u64),
    /// As many as it can work on, found by how long it takes.
    Adaptive,
}

/// When a member is left out that fails; `None` takes the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Eject {
    /// Failures in a row; 5. 0: never.
    pub after: Option<u64>,
    /// Whether an answer of 500, 502, 503 or 504 is a failure; it is not.
    pub server_errors: Option<bool>,
    /// How long it is out the first time; 10 s.
    pub time: Option<Duration>,
    /// The share of members that may be out at once; 50%.
    pub most: Option<Percent>,
    /// The share of a member's requests within five seconds that may fail; any.
    pub failures: Option<Percent>,
    /// How many times as long as those of the others a member's answers may take; any.
    pub slow: Option<u64>,
}

/// Keys of `upstreams.X.balance.sticky`.
pub static STICKY: Table = Table {
    what: "a sticky cookie",
    place: "upstreams.X.balance.sticky",
    keys: &[
        Key::required("cookie", Shape::Text("a name"), "the name of the cookie"),
        Key::required("key", SecretRef::SHAPE, "a secret: the cookie must not tell where members are"),
    ],
};

/// Keys of `upstreams.X.balance`.
pub static BALANCE: Table = Table {
    what: "a way to choose",
    place: "upstreams.X.balance",
    keys: &[
        Key::optional("hash", HashKey::SHAPE, "the same member for the same of these"),
        Key::optional("sticky", Shape::Map(&STICKY), "the same member for the same client, by a cookie"),
    ],
};

/// Keys of `upstreams.X.retry`.
pub static RETRY: Table = Table {
    what: "a retry policy",
    place: "upstreams.X.retry",
    keys: &[
        Key::optional("tries", Shape::Int, "attempts in all; 1 sends nothing again")
            .default("3")
            .bounds("1", "8"),
        Key::optional(
            "per_try",
            Duration::SHAPE,
            "an attempt without an answer by then is given up for another",
        )
        .default("only `first_byte` counts")
        .bounds("10ms", "1h"),
        Key::optional(
            "on",
            Shape::OneOrMany(&Shape::Int),
            "statuses (429, 500 to 599) that are no answer if there can be another try",
        )
        .default("none"),
        Key::optional("budget", Percent::SHAPE, "the share of requests that may be sent again")
            .default("20%"),
        Key::optional(
            "pause",
            Duration::SHAPE,
            "the bound of the first pause before the same member is asked",
        )
        .default("25ms")
        .bounds("0ms", "10s"),
    ],
};

/// Keys of `upstreams.X.breaker`.
pub static BREAKER: Table = Table {
    what: "a breaker",
    place: "upstreams.X.breaker",
    keys: &[
        Key::optional(
            "requests",
            Requests::SHAPE,
            "the most requests in flight, all cores together, or `adaptive`",
        )
        .default("no bound"),
        Key::optional("queue", Shape::Int, "requests that may wait for a place, all cores together")
            .default("128")
            .bounds("0", "1000000"),
        Key::optional("wait", Duration::SHAPE, "how long one may wait")
            .default("100ms")
            .bounds("1ms", "1min"),
        Key::optional("failures", Percent::SHAPE, "the share of answers that may fail before it opens")
            .default("it does not open"),
        Key::optional("over", Duration::SHAPE, "the time over which failures are counted")
            .default("10s")
            .bounds("100ms", "10min"),
        Key::optional("least", Shape::Int, "answers in that time below which nothing is concluded")
            .default("20")
            .bounds("1", "60000"),
        Key::optional("rest", Duration::SHAPE, "how long the upstream is left alone the first time")
            .default("5s")
            .bounds("10ms", "10min"),
        Key::optional("probes", Shape::Int, "requests let through at once to see whether it has recovered")
            .default("3")
            .bounds("1", "100"),
    ],
};

/// Keys of `upstreams.X.eject`.
pub static EJECT: Table = Table {
    what: "an ejection policy",
    place: "upstreams.X.eject",
    keys: &[
        Key::optional("after", Shape::Int, "failures in a row; 0: never").default("5").bounds("0", "1000"),
        Key::optional(
            "server_errors",
            Shape::Bool,
            "whether 500, 502, 503, 504, and what gRPC has for them, are failures",
        )
        .default("false"),
        Key::optional("time", Duration::SHAPE, "how long a member is out the first time")
            .default("10s")
            .bounds("100ms", "1h"),
        Key::optional("most", Percent::SHAPE, "the share of members that may be out at once").default("50%"),
        Key::optional("failures", Percent::SHAPE, "out when so many of its requests within 5s fail")
            .default("any"),
        Key::optional(
            "slow",
            Shape::Int,
            "out when its answers take so many times as long as those of the median",
        )
        .default("any")
        .bounds("2", "1000"),
    ],
};

impl FromNode for Balance {
    const SHAPE: Shape =
        Shape::Either(&[Shape::Word(&["round_robin", "least_request", "ewma"]), Shape::Map(&BALANCE)]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        if !matches!(node.kind, NodeKind::Map(_)) {
            #[derive(Clone, Copy)]
            enum Word {
                RoundRobin,
                LeastRequest,
                Ewma,
            }
            let words = [
                ("round_robin", Word::RoundRobin),
                ("least_request", Word::LeastRequest),
                ("ewma", Word::Ewma),
            ];
            return Some(match bind.word(node, &words)? {
                Word::RoundRobin => Balance::RoundRobin,
                Word::LeastRequest => Balance::LeastRequest,
                Word::Ewma => Balance::Ewma,
            });
        }
        bind.map(node, &BALANCE, |m| {
            let kind = m.one_of(BALANCE_KIND, &["hash", "sticky"]);
            if !m.attempted("hash") && !m.attempted("sticky") {
                let span = m.span();
                m.error(
                    ConfigError::new(BALANCE_KIND, "this does not say how members are chosen", span)
                        .expected("`{ hash: … }`, `{ sticky: … }`, or one of the words"),
                );
            }
            match kind? {
                "hash" => m.required("hash").map(Balance::Hash),
                _ => m.required("sticky").map(Balance::Sticky),
            }
        })
    }
}

impl FromNode for HashKey {
    const SHAPE: Shape =
        Shape::Pattern("^(address|identity|path|header:[A-Za-z0-9!#$%&'*+.^`|~-]+)$", "header:X-Tenant");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "`address`, `identity`, `path` or `header:NAME`";
        match bind.text(node, EXPECTED)? {
            "address" => Some(HashKey::Address),
            "identity" => Some(HashKey::Identity),
            "path" => Some(HashKey::Path),
            text => match text.strip_prefix("header:").map(HeaderName::parse) {
                Some(Ok(name)) => Some(HashKey::Header(name.as_str().to_ascii_lowercase())),
                Some(Err(problem)) => {
                    malformed(bind, node, HASH_KEY, format!("the field name {problem}"), EXPECTED)
                }
                None => malformed(bind, node, HASH_KEY, "members cannot be chosen by this", EXPECTED),
            },
        }
    }
}

impl FromNode for Sticky {
    const SHAPE: Shape = Shape::Map(&STICKY);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &STICKY, |m| {
            let key = m.required("key");
            let cookie = m.required::<CookieName>("cookie")?;
            Some(Sticky { cookie: cookie.0, key: key? })
        })
    }
}

struct CookieName(String);

impl FromNode for CookieName {
    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "a cookie name: letters, digits, `-` and `_`, at most 64";
        let text = bind.text(node, EXPECTED)?;
        let token = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if text.is_empty() || text.len() > 64 || !text.bytes().all(token) {
            return malformed(bind, node, COOKIE_NAME, "this is not the name of a cookie", EXPECTED);
        }
        Some(CookieName(text.to_owned()))
    }
}

impl FromNode for Retry {
    const SHAPE: Shape = Shape::Map(&RETRY);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &RETRY, |m| {
            let on: Vec<Spanned<u64>> = m.optional("on").unwrap_or_default();
            for status in &on {
                if !matches!(status.value, 429 | 500..=599) {
                    m.error(
                        ConfigError::new(RETRY_STATUS, "this status is an answer", status.span)
                            .found(status.value.to_string())
                            .expected("429, or a status from 500 to 599"),
                    );
                }
            }
            Some(Retry {
                tries: m.optional("tries"),
                per_try: m.optional("per_try"),
                on,
                budget: m.optional("budget"),
                pause: m.optional("pause"),
            })
        })
    }
}

impl FromNode for Requests {
    const SHAPE: Shape = Shape::Either(&[Shape::Int, Shape::Word(&["adaptive"])]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "a number of requests from 1 to 1000000, or `adaptive`";
        let text = bind.text(node, EXPECTED)?;
        match (text, text.parse::<u64>()) {
            ("adaptive", _) => Some(Requests::Adaptive),
            (_, Ok(number @ 1..=1_000_000)) => Some(Requests::AtMost(number)),
            _ => malformed(bind, node, REQUESTS, "this is not a number of requests", EXPECTED),
        }
    }
}

impl FromNode for Breaker {
    const SHAPE: Shape = Shape::Map(&BREAKER);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &BREAKER, |m| {
            Some(Breaker {
                requests: m.optional("requests"),
                queue: m.optional("queue"),
                wait: m.optional("wait"),
                failures: m.optional("failures"),
                over: m.optional("over"),
                least: m.optional("least"),
                rest: m.optional("rest"),
                probes: m.optional("probes"),
            })
        })
    }
}

impl FromNode for Eject {
    const SHAPE: Shape = Shape::Map(&EJECT);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &EJECT, |m| {
            Some(Eject {
                after: m.optional("after"),
                server_errors: m.optional("server_errors"),
                time: m.optional("time"),
                most: m.optional("most"),
                failures: m.optional("failures"),
                slow: m.optional("slow"),
            })
        })
    }
}
