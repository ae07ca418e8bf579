//! `upstreams.X.health`: how targets are probed.

use std::time::Duration;

use crate::config::bind::{Bind, FromNode, Spanned, malformed};
use crate::config::error::{Code, ConfigError};
use crate::config::node::Node;
use crate::config::shape::{Key, Shape, Table};
use crate::config::source::Span;
use crate::config::unit::HostName;
use crate::grpc::health::SERVICE_BYTES_MAX;

/// The path of a health probe is not one.
pub const HEALTH_PATH: Code = Code::new(1208);
/// A probe asks for nothing, or for two things.
pub const HEALTH_KIND: Code = Code::new(1256);
/// Not a status, or a range of them.
pub const HEALTH_STATUS: Code = Code::new(1257);
/// A key of a probe that does not fit what it does.
pub const HEALTH_KEYS: Code = Code::new(1258);

/// How targets are probed, from the control thread.
#[derive(Clone, Debug)]
pub struct Health {
    /// What is asked of the target.
    pub ask: Ask,
    /// From one probe to the next.
    pub every: Duration,
    /// For one probe, to its end; 2 s, and never more than `every`.
    pub timeout: Option<Duration>,
    /// Successes in a row that bring a target up; 1.
    pub up_after: Option<u64>,
    /// Failures in a row that take it down; 2.
    pub down_after: Option<u64>,
    /// Another port than the target's.
    pub port: Option<Spanned<u64>>,
    /// The whole value.
    pub span: Span,
}

/// What a probe asks of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// An answer to a GET.
    Get {
        /// The path, with its query.
        path: String,
        /// The statuses that are healthy; empty: 200 to 299.
        statuses: Vec<Statuses>,
        /// The `Host` field, where it is not the target's.
        host: Option<HostName>,
    },
    /// That it says `SERVING` of a service (`grpc.health.v1.Health/Check`).
    Grpc {
        /// The service; empty: all that it has.
        service: String,
        /// The authority, where it is not the target's.
        host: Option<HostName>,
    },
    /// A connection.
    Tcp,
    /// A TLS handshake, verified as for requests; where it was written.
    Tls(Span),
}

/// Statuses from one to another, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Statuses {
    /// The first.
    pub first: u16,
    /// The last.
    pub last: u16,
}

impl Health {
    /// [`Health::timeout`], or its default.
    pub fn timeout_in_force(&self) -> Duration {
        self.timeout.unwrap_or(Duration::from_secs(2)).min(self.every)
    }
}

/// Keys of `upstreams.X.health`.
pub static HEALTH: Table = Table {
    what: "a health probe",
    place: "upstreams.X.health",
    keys: &[
        Key::optional("get", Shape::Text("a path"), "the path to get; this, `grpc` or `connect`"),
        Key::optional(
            "grpc",
            Shape::Text("a service"),
            "the service that must be SERVING by the gRPC health protocol, \"\" for the whole server; this, `get` or `connect`",
        ),
        Key::optional(
            "connect",
            Shape::Word(&["tcp", "tls"]),
            "a connection is enough, or one with a TLS handshake; this, `get` or `grpc`",
        ),
        Key::optional("every", Duration::SHAPE, "from one probe to the next, a tenth more or less")
            .default("5s")
            .bounds("100ms", "1h"),
        Key::optional("timeout", Duration::SHAPE, "for one probe, to its end; not longer than `every`")
            .default("2s")
            .bounds("10ms", "1min"),
        Key::optional("up_after", Shape::Int, "successes in a row that bring a target up")
            .default("1")
            .bounds("1", "100"),
        Key::optional("down_after", Shape::Int, "failures in a row that take it down")
            .default("2")
            .bounds("1", "100"),
        Key::optional("status", <Vec<Statuses>>::SHAPE, "the statuses that are healthy").default("200-299"),
        Key::optional("host", HostName::SHAPE, "the `Host` field").default("that of the target"),
        Key::optional("port", Shape::Int, "another port than the target's").bounds("1", "65535"),
    ],
};

impl FromNode for Health {
    const SHAPE: Shape = Shape::Map(&HEALTH);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &HEALTH, |m| {
            let every = m.optional("every").unwrap_or(Duration::from_secs(5));
            let timeout: Option<Spanned<Duration>> = m.optional("timeout");
            let (up_after, down_after) = (m.optional("up_after"), m.optional("down_after"));
            let port = m.optional("port");
            let statuses: Option<Vec<Statuses>> = m.optional("status");
            let host: Option<HostName> = m.optional("host");
            let path: Option<ProbePath> = m.optional("get");
            let service: Option<Service> = m.optional("grpc");
            let connect: Option<Spanned<Connect>> = m.optional("connect");
            if let Some(timeout) = timeout.filter(|timeout| timeout.value > every) {
                m.error(
                    ConfigError::new(HEALTH_KEYS, "a probe would last longer than the pause", timeout.span)
                        .expected("a `timeout` that is not longer than `every`"),
                );
            }
            let (get, grpc, with) = (m.attempted("get"), m.attempted("grpc"), m.attempted("connect"));
            if u8::from(get) + u8::from(grpc) + u8::from(with) != 1 {
                m.one_of(HEALTH_KIND, &["get", "grpc", "connect"]);
                if !get && !grpc && !with {
                    let error =
                        ConfigError::new(HEALTH_KIND, "a probe asks nothing of the target", m.head_span());
                    m.error(
                        error.expected("`get: /healthz`, `grpc: \"\"`, `connect: tcp` or `connect: tls`"),
                    );
                }
                return None;
            }
            for key in ["status", "host"] {
                let fits = get || grpc && key == "host";
                if let Some(span) = m.key_span(key).filter(|_| !fits) {
                    m.error(
                        ConfigError::new(HEALTH_KEYS, format!("`{key}` belongs to a probe with `get`"), span)
                            .fix("delete it, or probe with `get`"),
                    );
                }
            }
            let ask = match connect {
                Some(Spanned { value: Connect::Tcp, .. }) => Ask::Tcp,
                Some(Spanned { value: Connect::Tls, span }) => Ask::Tls(span),
                None if grpc => Ask::Grpc { service: service?.0, host },
                None => Ask::Get { path: path?.0, statuses: statuses.unwrap_or_default(), host },
            };
            let timeout = timeout.map(|timeout| timeout.value);
            Some(Health { ask, every, timeout, up_after, down_after, port, span: m.span() })
        })
    }
}

#[derive(Clone, Copy)]
enum Connect {
    Tcp,
    Tls,
}

impl FromNode for Connect {
    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.word(node, &[("tcp", Connect::Tcp), ("tls", Connect::Tls)])
    }
}

/// `204`, `200-299`.
impl FromNode for Statuses {
    const SHAPE: Shape = Shape::Pattern("^[1-5][0-9][0-9](-[1-5][0-9][0-9])?$", "200-299");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "a status such as `204`, or a range such as `200-299`";
        let text = bind.text(node, EXPECTED)?;
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let status = |text: &str| {
            let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|status| digits && (200..600).contains(status))
        };
        match (status(first), status(last)) {
            (Some(first), Some(last)) if first <= last => Some(Statuses { first, last }),
            _ => malformed(bind, node, HEALTH_STATUS, "this is not a final status", EXPECTED),
        }
    }
}

/// `orders.v1.Orders`, or nothing.
struct Service(String);

impl FromNode for Service {
    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "a service such as `orders.v1.Orders`, or `\"\"` for the whole server";
        let text = bind.text(node, EXPECTED)?;
        let part = |part: &str| {
            let mut bytes = part.bytes();
            bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
                && bytes.all(|b| b.is_ascii_alphanumeric() || b == b'_')
        };
        if !text.is_empty() && (text.len() > SERVICE_BYTES_MAX || !text.split('.').all(part)) {
            return malformed(bind, node, HEALTH_KEYS, "this is not the name of a service", EXPECTED);
        }
        Some(Service(text.to_owned()))
    }
}

struct ProbePath(String);

impl FromNode for ProbePath {
    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "a path such as `/healthz`, with a query if need be";
        let text = bind.text(node, EXPECTED)?;
        let pchar = |b: u8| b.is_ascii_alphanumeric() || b"/?-._~%!$&'()*+,;=:@".contains(&b);
        if !text.starts_with('/') || text.len() > 2_048 || !text.bytes().all(pchar) {
            return malformed(bind, node, HEALTH_PATH, "this is not a path to probe", EXPECTED);
        }
        Some(ProbePath(text.to_owned()))
    }
}
