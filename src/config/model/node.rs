//! `node`, `log` and `audit`: the process itself, and what it writes.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::Maintenance;
use crate::config::bind::{Bind, FromNode, Spanned, malformed};
use crate::config::error::{Code, ConfigError};
use crate::config::node::Node;
use crate::config::shape::{Key, Shape, Table};
use crate::config::source::Span;
use crate::config::unit::{Address, ByteSize, FilePath, Rate};

/// Not the address of a resolver.
pub const RESOLVER: Code = Code::new(1806);

/// A burst of connections without a rate.
pub const CONNECTIONS_BURST: Code = Code::new(1842);

/// The process; every `None` takes the default of the table.
#[derive(Clone, Debug, Default)]
pub struct NodeSettings {
    /// Data threads; one for each usable CPU.
    pub cores: Option<Spanned<u64>>,
    /// How the data threads wait for the kernel; the best that works.
    pub driver: Option<Spanned<Driver>>,
    /// Whom to become once the addresses are bound; `None`: stay.
    pub user: Option<Spanned<String>>,
    /// How long exchanges may take to end when the process stops; 30 s.
    pub drain: Option<Duration>,
    /// Where metrics and health are served; `127.0.0.1:9901`.
    pub metrics: Option<Spanned<Metrics>>,
    /// The control socket; a path that depends on the user.
    pub control: Option<Spanned<FilePath>>,
    /// The directory for what is to survive a restart; beside the control socket.
    pub state: Option<Spanned<FilePath>>,
    /// The DNS servers to ask; those of the system.
    pub resolver: Vec<Spanned<SocketAddr>>,
    /// Memory for the counters of limits; 64 MiB.
    pub limit_memory: Option<ByteSize>,
    /// A time in which nothing is served.
    pub maintenance: Option<Maintenance>,
    /// Memory of the whole process, past which nobody is accepted; what its cgroup or the machine has.
    pub memory: Option<Spanned<ByteSize>>,
    /// How many client connections there may be, and how often one may come.
    pub connections: Connections,
    /// The whole map.
    pub span: Span,
}

impl NodeSettings {
    /// [`NodeSettings::drain`], or its default.
    pub fn drain_in_force(&self) -> Duration {
        self.drain.unwrap_or(Duration::from_secs(30))
    }

    /// [`NodeSettings::limit_memory`] in bytes, or its default.
    pub fn limit_memory_in_force(&self) -> u64 {
        self.limit_memory.map_or(64 << 20, ByteSize::bytes)
    }
}

/// How many client connections there may be, and how often one may come; `None` takes the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Connections {
    /// In all; as many as the descriptors allow.
    pub all: Option<Spanned<u64>>,
    /// On one core; half as many again as its even share.
    pub core: Option<Spanned<u64>>,
    /// From one IPv4 address or IPv6 /64; a quarter of all.
    pub address: Option<Spanned<u64>>,
    /// New ones from one IPv4 address or IPv6 /64 in which time, in the long run; `None`: as many as come.
    pub address_rate: Option<Spanned<Rate>>,
    /// How many of them at once, after a rest; `None`: the count of the rate.
    pub address_burst: Option<Spanned<u64>>,
}

impl Connections {
    /// [`Connections::address_burst`], or its default; `None` without a rate.
    pub fn address_burst_in_force(&self) -> Option<u64> {
        let rate = self.address_rate.as_ref()?;
        Some(self.address_burst.as_ref().map_or(rate.value.count, |burst| burst.value))
    }
}

/// How data threads wait for the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// The best that works: tuned io_uring, plain io_uring, epoll.
    #[default]
    Auto,
    /// io_uring, tuned if it can be; refuses to start without.
    IoUring,
    /// epoll.
    Epoll,
}

/// Where metrics and health are served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Metrics {
    /// On this address.
    At(Address),
    /// Nowhere.
    Nowhere,
}

/// The access log.
#[derive(Clone, Debug, Default)]
pub struct Log {
    /// Where it goes.
    pub file: LogTarget,
    /// How a line looks.
    pub format: LogFormat,
}

/// Where a log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum LogTarget {
    /// Standard output.
    #[default]
    Stdout,
    /// A file, opened again on USR1.
    File(Spanned<FilePath>),
}

/// How a line of the access log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// A JSON object.
    #[default]
    Json,
    /// The combined format of the Apache web server.
    Combined,
}

/// The audit log.
#[derive(Clone, Debug)]
pub struct Audit {
    /// Where it goes.
    pub file: LogTarget,
    /// What happens to requests whose record cannot be kept.
    pub on_full: OnFull,
}

/// What happens to a request whose audit record cannot be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnFull {
    /// It is answered 503: an attack must not be able to hide itself.
    #[default]
    Refuse,
    /// The record is dropped and counted.
    Drop,
}

/// Keys of `node`.
pub static NODE: Table = Table {
    what: "the node",
    place: "node",
    keys: &[
        Key::optional("cores", Shape::Int, "data threads")
            .default("one for each usable CPU")
            .bounds("1", "1024"),
        Key::optional("driver", Driver::SHAPE, "how data threads wait for the kernel").default("auto"),
        Key::optional("user", Shape::Text("a user"), "whom root becomes once the addresses are bound")
            .default("stays"),
        Key::optional("drain", Duration::SHAPE, "how long exchanges may take to end when the process stops")
            .default("30s")
            .bounds("0s", "1day"),
        Key::optional("metrics", Metrics::SHAPE, "where metrics and health are served, or `none`")
            .default("127.0.0.1:9901"),
        Key::optional("control", FilePath::SHAPE, "the control socket, mode 0600")
            .default("`/run/ringwall/control.sock`, or below the user's own runtime directory"),
        Key::optional("state", FilePath::SHAPE, "the directory for what is to survive a restart: blocks")
            .default("beside the control socket"),
        Key::optional("resolver", <Vec<String>>::SHAPE, "DNS servers to ask").default("those of the system"),
        Key::optional("limit_memory", ByteSize::SHAPE, "memory for the counters of limits")
            .default("64MiB")
            .bounds("1MiB", "1024GiB"),
        Key::optional("maintenance", Maintenance::SHAPE, "answer 503 to all requests for a while"),
        Key::optional(
            "memory",
            ByteSize::SHAPE,
            "memory of the process; past 90 % of it nobody is accepted and idle connections are let go",
        )
        .default("that of its cgroup, or of the machine")
        .bounds("32MiB", "1024GiB"),
        Key::optional(
            "connections",
            Connections::SHAPE,
            "how many client connections there may be, and how often one may come",
        ),
    ],
};

/// Keys of `node.connections`.
pub static CONNECTIONS: Table = Table {
    what: "the bounds on connections",
    place: "node.connections",
    keys: &[
        Key::optional("all", Shape::Int, "in all; what comes beyond is reset")
            .default("as many as the descriptors allow beside those of the upstreams")
            .bounds("16", "1048576"),
        Key::optional("core", Shape::Int, "on one core")
            .default("half as many again as its even share of all")
            .bounds("1", "1048576"),
        Key::optional(
            "address",
            Shape::Int,
            "from one IPv4 address or IPv6 /64; `trusted_proxies` are not counted",
        )
        .default("a quarter of all")
        .bounds("1", "65535"),
        Key::optional(
            "address_rate",
            Rate::SHAPE,
            "new ones from one IPv4 address or IPv6 /64, 16 times as many from a /48; `trusted_proxies` are not counted",
        )
        .default("no bound"),
        Key::optional("address_burst", Shape::Int, "how many of those at once, after a rest")
            .default("the count of `address_rate`")
            .bounds("1", "1000000000"),
    ],
};

/// Keys of `log`.
pub static LOG: Table = Table {
    what: "the log",
    place: "log",
    keys: &[
        Key::optional("file", Shape::Text("a file, or `stdout`"), "a file, or `stdout`").default("stdout"),
        Key::optional("format", LogFormat::SHAPE, "how a line looks").default("json"),
    ],
};

/// Keys of `audit`.
pub static AUDIT: Table = Table {
    what: "the audit log",
    place: "audit",
    keys: &[
        Key::required("file", Shape::Text("a file, or `stdout`"), "a file, or `stdout`"),
        Key::optional("on_full", OnFull::SHAPE, "what happens to a request whose record cannot be kept")
            .default("refuse"),
        Key::later("send", "records sent to a SIEM"),
        Key::later("sign", "a signed chain of records"),
        Key::later("retain", "how long records are kept"),
    ],
};

impl FromNode for NodeSettings {
    const SHAPE: Shape = Shape::Map(&NODE);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &NODE, |m| {
            let resolver: Vec<Spanned<Resolver>> = m.optional("resolver").unwrap_or_default();
            Some(NodeSettings {
                cores: m.optional("cores"),
                driver: m.optional("driver"),
                user: m.optional("user"),
                drain: m.optional("drain"),
                metrics: m.optional("metrics"),
                control: m.optional("control"),
                resolver: resolver.into_iter().map(|r| Spanned::new(r.value.0, r.span)).collect(),
                state: m.optional("state"),
                limit_memory: m.optional("limit_memory"),
                maintenance: m.optional("maintenance"),
                memory: m.optional("memory"),
                connections: m.optional("connections").unwrap_or_default(),
                span: m.span(),
            })
        })
    }
}

impl FromNode for Connections {
    const SHAPE: Shape = Shape::Map(&CONNECTIONS);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &CONNECTIONS, |m| {
            let address_burst: Option<Spanned<u64>> = m.optional("address_burst");
            if let (Some(burst), false) = (&address_burst, m.attempted("address_rate")) {
                let error =
                    ConfigError::new(CONNECTIONS_BURST, "`address_burst` without `address_rate`", burst.span)
                        .expected("both, or neither")
                        .fix(format!(
                            "say how many may come in the long run: `address_rate: {}/min`",
                            burst.value
                        ))
                        .why("a burst is what may come at once of a rate; how many may be open is `address`");
                m.error(error);
            }
            Some(Connections {
                all: m.optional("all"),
                core: m.optional("core"),
                address: m.optional("address"),
                address_rate: m.optional("address_rate"),
                address_burst,
            })
        })
    }
}

struct Resolver(SocketAddr);

impl FromNode for Resolver {
    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "an IP address, with a port if it is not 53";
        let text = bind.text(node, EXPECTED)?;
        let whole = text.parse::<SocketAddr>().ok();
        match whole.or_else(|| text.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, 53))) {
            Some(address) => Some(Resolver(address)),
            None => malformed(bind, node, RESOLVER, "this is not the address of a DNS server", EXPECTED),
        }
    }
}

impl FromNode for Driver {
    const SHAPE: Shape = Shape::Word(&["auto", "io_uring", "epoll"]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.word(node, &[("auto", Driver::Auto), ("io_uring", Driver::IoUring), ("epoll", Driver::Epoll)])
    }
}

impl FromNode for Metrics {
    const SHAPE: Shape = Address::SHAPE;

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        match node.scalar() {
            Some(scalar) if scalar.text == "none" => Some(Metrics::Nowhere),
            _ => Address::from_node(node, bind).map(Metrics::At),
        }
    }
}

impl FromNode for Log {
    const SHAPE: Shape = Shape::Map(&LOG);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &LOG, |m| {
            Some(Log {
                file: m.optional("file").unwrap_or_default(),
                format: m.optional("format").unwrap_or_default(),
            })
        })
    }
}

impl FromNode for LogTarget {
    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        match bind.text(node, "a file, or `stdout`")? {
            "stdout" => Some(LogTarget::Stdout),
            _ => FromNode::from_node(node, bind).map(LogTarget::File),
        }
    }
}

impl FromNode for LogFormat {
    const SHAPE: Shape = Shape::Word(&["json", "combined"]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.word(node, &[("json", LogFormat::Json), ("combined", LogFormat::Combined)])
    }
}

impl FromNode for Audit {
    const SHAPE: Shape = Shape::Map(&AUDIT);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &AUDIT, |m| {
            let on_full = m.optional("on_full").unwrap_or_default();
            Some(Audit { file: m.required("file")?, on_full })
        })
    }
}

impl FromNode for OnFull {
    const SHAPE: Shape = Shape::Word(&["refuse", "drop"]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.word(node, &[("refuse", OnFull::Refuse), ("drop", OnFull::Drop)])
    }
}
