//! `upstreams.X`: where requests go.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use super::Exception;
use super::health::Health;
use super::resilience::{Balance, Breaker, Eject, Retry};
use super::target::{Service, elsewhere};
use crate::config::bind::{Bind, FromNode, Spanned, malformed};
use crate::config::error::{Code, ConfigError};
use crate::config::node::{Node, NodeKind};
use crate::config::shape::{Key, Shape, Table};
use crate::config::source::Span;
use crate::config::unit::{FilePath, HostName, Url};
use crate::http::Protocols;

/// Not the URL of a target.
pub const TARGET: Code = Code::new(1201);
/// A target has a path.
pub const TARGET_PATH: Code = Code::new(1202);

/// One upstream: targets that do the same work.
#[derive(Clone, Debug)]
pub struct Upstream {
    /// Its targets; at least one.
    pub targets: Vec<Spanned<Target>>,
    /// Which certificates are believed.
    pub trust: Trust,
    /// Why targets may be reached without TLS, or unverified.
    pub insecure: Option<Exception>,
    /// Networks that targets may be in although they are neither public nor the site's own.
    pub addresses: Vec<Spanned<IpNet>>,
    /// Which target is next.
    pub balance: Balance,
    /// How targets are probed; `None`: not at all.
    pub health: Option<Health>,
    /// Times.
    pub timeouts: UpstreamTimeouts,
    /// Connections that are kept.
    pub pool: Pool,
    /// Sending requests again.
    pub retry: Retry,
    /// Leaving it alone, and using no more of it at once than it can take.
    pub breaker: Breaker,
    /// Leaving out members that fail.
    pub eject: Eject,
    /// What targets are spoken to in; HTTP/1.1.
    pub protocol: Option<Spanned<TargetProtocol>>,
    /// Its connections begin with a header of the PROXY protocol.
    pub proxy_protocol: Option<Spanned<SentProxy>>,
    /// `Forwarded` (RFC 7239) is sent beside `X-Forwarded-*`.
    pub forwarded: bool,
    /// How long a member that comes in takes to get its whole share.
    pub slow_start: Option<Duration>,
    /// The whole value.
    pub span: Span,
}

impl Upstream {
    /// [`Upstream::protocol`], or its default.
    pub fn protocols_in_force(&self) -> Protocols {
        match self.protocol.as_ref().map(|protocol| protocol.value).unwrap_or_default() {
            TargetProtocol::Http1 => Protocols::HTTP1,
            TargetProtocol::Http2 => Protocols::HTTP2,
            TargetProtocol::Auto => Protocols::BOTH,
        }
    }
}

/// What targets are spoken to in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TargetProtocol {
    /// HTTP/1.1.
    #[default]
    Http1,
    /// HTTP/2: agreed by ALPN under TLS, known before without.
    Http2,
    /// What the target chooses by ALPN.
    Auto,
}

/// The version of the PROXY header that an upstream is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SentProxy {
    /// The text of version 1.
    V1,
    /// The binary header of version 2.
    V2,
}

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// TLS, verified against [`Upstream::trust`].
    pub https: bool,
    /// Where it is.
    pub host: Host,
    /// Its share of the requests beside that of the others; 1.
    pub weight: u16,
    /// Its members get requests only when those of lower numbers are all down; 0.
    pub priority: u8,
}

/// Where a server is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// A name or an address, and a port.
    Net(HostName, u16),
    /// A Unix socket.
    Unix(PathBuf),
    /// The hosts of a service in the DNS.
    Service(Service),
    /// The targets in a file.
    File(PathBuf),
}

impl Target {
    /// Whether it is at the same place as `other`, whatever its share.
    pub fn is_at(&self, other: &Target) -> bool {
        self.https == other.https && self.host == other.host
    }

    /// Whether it can only be this machine: a loopback address, `localhost`, a Unix socket.
    pub fn is_local(&self) -> bool {
        match &self.host {
            // What stands in a file is judged when it is read.
            Host::Unix(_) | Host::File(_) => true,
            Host::Service(_) => false,
            Host::Net(host, _) => {
                host.as_str() == "localhost" || host.ip().is_some_and(crate::config::unit::is_loopback)
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.https { "https" } else { "http" };
        match &self.host {
            Host::Unix(path) => write!(f, "unix:{}", path.display()),
            Host::Net(host, port) => write!(f, "{scheme}://{host}:{port}"),
            Host::Service(service) => write!(f, "srv+{scheme}://{}", service.name()),
            Host::File(path) => write!(f, "file:{}", path.display()),
        }
    }
}

/// Which certificates of an upstream are believed.
#[derive(Clone, Debug, Default)]
pub enum Trust {
    /// Those that the system trusts.
    #[default]
    System,
    /// Those signed by the certificates in a PEM file.
    File(Spanned<FilePath>),
    /// Any at all; where it was written. Only with a reason.
    Unverified(Span),
}

/// Times of an upstream; `None` takes the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpstreamTimeouts {
    /// Until a connection (and its TLS) stands; 2 s.
    pub connect: Option<Duration>,
    /// Until the first byte of an answer; 30 s.
    pub first_byte: Option<Duration>,
    /// An unused connection is kept that long; 50 s.
    pub idle: Option<Duration>,
}

impl UpstreamTimeouts {
    /// [`UpstreamTimeouts::connect`], or its default.
    pub fn connect_in_force(&self) -> Duration {
        self.connect.unwrap_or(Duration::from_secs(2))
    }

    /// [`UpstreamTimeouts::idle`], or its default: below the 60 s after which most servers close.
    pub fn idle_in_force(&self) -> Duration {
        self.idle.unwrap_or(Duration::from_secs(50))
    }
}

/// Bounds on the connections to one target, all cores together; `None` takes the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pool {
    /// The most connections; 1024.
    pub connections: Option<u64>,
    /// The most that are kept unused; 256. Each core keeps its share.
    pub idle: Option<u64>,
    /// An older connection serves no further request; 1 h.
    pub age: Option<Duration>,
}

impl Pool {
    /// [`Pool::connections`], or its default.
    pub fn connections_in_force(&self) -> u64 {
        self.connections.unwrap_or(1_024)
    }

    /// [`Pool::idle`], or its default; never more than the connections.
    pub fn idle_in_force(&self) -> u64 {
        self.idle.unwrap_or(256).min(self.connections_in_force())
    }
}

/// Keys of `upstreams.X`.
pub static UPSTREAM: Table = Table {
    what: "an upstream",
    place: "upstreams.X",
    keys: &[
        Key::required("targets", <Vec<Target>>::SHAPE, "the servers, as `https://host:port`, without a path"),
        Key::optional("ca", Trust::SHAPE, "a PEM file of the authorities to believe, `system`, or `none`")
            .default("system"),
        Key::optional(
            "insecure",
            Exception::SHAPE,
            "why plain or unverified targets are accepted, and until when",
        ),
        Key::optional(
            "addresses",
            <Vec<IpNet>>::SHAPE,
            "networks that names of targets may lead to, beside public ones and, for the site's own names, private ones",
        )
        .default("none"),
        Key::optional("balance", Balance::SHAPE, "which target is next").default("ewma"),
        Key::optional("health", Health::SHAPE, "a probe; a target that fails it gets no requests")
            .default("no probe"),
        Key::optional("timeouts", UpstreamTimeouts::SHAPE, "times"),
        Key::optional("pool", Pool::SHAPE, "bounds on connections to one target, all cores together"),
        Key::optional(
            "protocol",
            TargetProtocol::SHAPE,
            "what targets are spoken to in; `auto`: what they choose by ALPN, so only with TLS",
        )
        .default("http1"),
        Key::optional(
            "proxy_protocol",
            SentProxy::SHAPE,
            "connections begin with a PROXY header that names the client; each serves one client",
        )
        .default("none is sent"),
        Key::optional("forwarded", Shape::Bool, "send `Forwarded` (RFC 7239) beside `X-Forwarded-*`")
            .default("false"),
        Key::optional("retry", Retry::SHAPE, "sending a request again"),
        Key::optional("breaker", Breaker::SHAPE, "leaving a failing upstream alone, and bounds on its use"),
        Key::optional("eject", Eject::SHAPE, "leaving out members that fail real requests"),
        Key::optional("slow_start", Duration::SHAPE, "how long one that comes in takes to get its whole share")
            .default("at once")
            .bounds("1s", "1h"),
    ],
};

/// Keys of `upstreams.X.targets[]`.
pub static TARGET_KEYS: Table = Table {
    what: "a target",
    place: "upstreams.X.targets[]",
    keys: &[
        Key::required("url", TARGET_URL, "`https://host:port`, `http://host:port` or `unix:/run/app.sock`"),
        Key::optional("weight", Shape::Int, "its share of the requests beside that of the others")
            .default("1")
            .bounds("1", "1000"),
        Key::optional("priority", Shape::Int, "it is asked only when those of lower numbers are all down")
            .default("0")
            .bounds("0", "9"),
    ],
};

const TARGET_URL: Shape = Shape::Pattern("^((srv\\+)?https?://|unix:|file:)", "https://orders.internal:8443");

/// Keys of `upstreams.X.timeouts`.
pub static TIMEOUTS: Table = Table {
    what: "an upstream's timeouts",
    place: "upstreams.X.timeouts",
    keys: &[
        Key::optional("connect", Duration::SHAPE, "until a connection and its TLS stand")
            .default("2s")
            .bounds("10ms", "1min"),
        Key::optional("first_byte", Duration::SHAPE, "until the first byte of an answer")
            .default("30s")
            .bounds("10ms", "1h"),
        Key::optional("idle", Duration::SHAPE, "an unused connection is kept that long")
            .default("50s")
            .bounds("1s", "1h"),
    ],
};

/// Keys of `upstreams.X.pool`.
pub static POOL: Table = Table {
    what: "a pool",
    place: "upstreams.X.pool",
    keys: &[
        Key::optional("connections", Shape::Int, "the most connections to one target")
            .default("1024")
            .bounds("1", "65535"),
        Key::optional("idle", Shape::Int, "the most that are kept unused; each core keeps its share")
            .default("256")
            .bounds("0", "65535"),
        Key::optional("age", Duration::SHAPE, "an older connection serves no further request")
            .default("1h")
            .bounds("1s", "7day"),
    ],
};

/// Short form: the URL of the one target.
impl FromNode for Upstream {
    const SHAPE: Shape = Shape::Either(&[Target::SHAPE, Shape::Map(&UPSTREAM)]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        if !matches!(node.kind, NodeKind::Map(_)) && !node.is_null() {
            let targets: Vec<Spanned<Target>> = FromNode::from_node(node, bind)?;
            return (!targets.is_empty()).then(|| Upstream {
                targets,
                trust: Trust::default(),
                insecure: None,
                addresses: Vec::new(),
                balance: Balance::default(),
                health: None,
                timeouts: UpstreamTimeouts::default(),
                pool: Pool::default(),
                retry: Retry::default(),
                breaker: Breaker::default(),
                eject: Eject::default(),
                protocol: None,
                proxy_protocol: None,
                forwarded: false,
                slow_start: None,
                span: node.span,
            });
        }
        bind.map(node, &UPSTREAM, |m| {
            let trust = m.optional("ca").unwrap_or_default();
            let span = m.span();
            // What was refused is not missing: something stands in for it, and the rest is still checked.
            let insecure = match m.optional("insecure") {
                None if m.attempted("insecure") => Some(Exception::refused(span)),
                insecure => insecure,
            };
            let addresses = m.optional("addresses").unwrap_or_default();
            let balance = m.optional("balance").unwrap_or_default();
            let health = m.optional("health");
            let timeouts = m.optional("timeouts").unwrap_or_default();
            let pool = m.optional("pool").unwrap_or_default();
            let retry = m.optional("retry").unwrap_or_default();
            let breaker = m.optional("breaker").unwrap_or_default();
            let eject = m.optional("eject").unwrap_or_default();
            let protocol = m.optional("protocol");
            let proxy_protocol = m.optional("proxy_protocol");
            let forwarded = m.optional("forwarded").unwrap_or(false);
            let slow_start = m.optional("slow_start");
            let targets: Vec<Spanned<Target>> = m.required("targets")?;
            if targets.is_empty() {
                return None;
            }
            let span = m.span();
            Some(Upstream {
                targets,
                trust,
                insecure,
                addresses,
                balance,
                health,
                timeouts,
                pool,
                retry,
                breaker,
                eject,
                protocol,
                proxy_protocol,
                forwarded,
                slow_start,
                span,
            })
        })
    }
}

impl FromNode for TargetProtocol {
    const SHAPE: Shape = Shape::Word(&["http1", "http2", "auto"]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        let words = [
            ("http1", TargetProtocol::Http1),
            ("http2", TargetProtocol::Http2),
            ("auto", TargetProtocol::Auto),
        ];
        bind.word(node, &words)
    }
}

impl FromNode for SentProxy {
    const SHAPE: Shape = Shape::Word(&["v1", "v2"]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.word(node, &[("v1", SentProxy::V1), ("v2", SentProxy::V2)])
    }
}

impl FromNode for Target {
    const SHAPE: Shape = Shape::Either(&[TARGET_URL, Shape::Map(&TARGET_KEYS)]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        if matches!(node.kind, NodeKind::Map(_)) {
            return bind.map(node, &TARGET_KEYS, |m| {
                let (weight, priority) = (m.optional::<u64>("weight"), m.optional::<u64>("priority"));
                let place: Place = m.required("url")?;
                Some(Target {
                    weight: weight.and_then(|weight| u16::try_from(weight).ok()).unwrap_or(1),
                    priority: priority.and_then(|priority| u8::try_from(priority).ok()).unwrap_or(0),
                    ..place.0
                })
            });
        }
        Place::from_node(node, bind).map(|place| place.0)
    }
}

/// A target written as its URL alone.
struct Place(Target);

impl FromNode for Place {
    const SHAPE: Shape = TARGET_URL;

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "`https://host:port`, `http://host:port` or `unix:/run/app.sock`";
        let text = bind.text(node, EXPECTED)?;
        if let Some(elsewhere) = elsewhere(text, node, bind) {
            return elsewhere.map(|(https, host)| Place(Target { https, host, weight: 1, priority: 0 }));
        }
        if let Some(path) = text.strip_prefix("unix:") {
            if path.is_empty() || path.len() > 107 || path.ends_with('/') || path.contains('\0') {
                return malformed(bind, node, TARGET, "the path of a Unix socket is not usable", EXPECTED);
            }
            let path = bind.sources().resolve(node.span, path);
            return Some(Place(Target { https: false, host: Host::Unix(path), weight: 1, priority: 0 }));
        }
        let url = match Url::parse(text) {
            Ok(url) => url,
            Err(problem) => {
                if text.contains('@') {
                    bind.blot(node.span);
                }
                let found = bind.found(node);
                let mut error = ConfigError::new(TARGET, format!("the target {problem}"), node.span)
                    .found(if text.contains('@') { "a URL with a user".into() } else { found })
                    .expected(EXPECTED);
                if !text.contains("://")
                    && !text.contains('@')
                    && Url::parse(&format!("https://{text}")).is_ok()
                {
                    error = error.suggest(format!("https://{text}"));
                }
                bind.error(error);
                return None;
            }
        };
        if !url.path.is_empty() {
            let found = bind.found(node);
            let bare = Url { path: String::new(), ..url };
            bind.error(
                ConfigError::new(TARGET_PATH, "a target has no path", node.span)
                    .found(found)
                    .expected(EXPECTED)
                    .suggest(bare.to_string())
                    .fix("a path is set by the API: `to: { upstream: X, path: /api }`")
                    .why("a path here would silently be put before, or instead of, that of the request"),
            );
            return None;
        }
        let host = Host::Net(url.host, url.port);
        Some(Place(Target { https: url.https, host, weight: 1, priority: 0 }))
    }
}

impl FromNode for Trust {
    const SHAPE: Shape = Shape::Text("a PEM file, `system`, or `none`");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        match bind.text(node, "a PEM file, `system`, or `none`")? {
            "system" => Some(Trust::System),
            "none" => Some(Trust::Unverified(node.span)),
            _ => FromNode::from_node(node, bind).map(Trust::File),
        }
    }
}

impl FromNode for UpstreamTimeouts {
    const SHAPE: Shape = Shape::Map(&TIMEOUTS);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &TIMEOUTS, |m| {
            Some(UpstreamTimeouts {
                connect: m.optional("connect"),
                first_byte: m.optional("first_byte"),
                idle: m.optional("idle"),
            })
        })
    }
}

impl FromNode for Pool {
    const SHAPE: Shape = Shape::Map(&POOL);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &POOL, |m| {
            let (connections, idle) = (m.optional("connections"), m.optional("idle"));
            Some(Pool { connections, idle, age: m.optional("age") })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::source::Sources;

    #[test]
    fn what_targets_are_spoken_to_in_is_one_of_three_words() {
        let read = |text: &str| {
            let sources = Sources::default();
            let mut bind = Bind::new(&sources, &[]);
            let read = TargetProtocol::from_node(&Node::text(text, Span::default()), &mut bind);
            (read, bind.into_parts().0.iter().map(|error| error.code.number()).collect::<Vec<_>>())
        };
        for (text, protocol) in [
            ("http1", TargetProtocol::Http1),
            ("http2", TargetProtocol::Http2),
            ("auto", TargetProtocol::Auto),
        ] {
            assert_eq!(read(text), (Some(protocol), vec![]));
        }
        for text in ["h2", "http/2", "http3", ""] {
            assert_eq!(read(text).1.len(), 1, "{text}");
        }
    }
}
