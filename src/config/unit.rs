//! The values of a configuration that have a form of their own: times, sizes, rates, addresses, names, paths.
//!
//! Each is parsed once into a type that cannot be wrong, and reported with its own code if it is not of the form.
//! The forms are those of the manual's `configuration` chapter. Nothing here opens a file or a socket.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use jiff::civil::Date;

use super::bind::{Bind, FromNode, malformed};
use super::error::{Code, ConfigError};
use super::node::Node;
use super::shape::Shape;

/// Not a time such as `5s`.
pub const DURATION: Code = Code::new(1015);
/// Not a size such as `64KiB`.
pub const BYTE_SIZE: Code = Code::new(1016);
/// Not a date such as `2027-06-30`.
pub const DATE: Code = Code::new(1029);
/// Not the name of a field.
pub const HEADER_NAME: Code = Code::new(1030);
/// Not the value of a field.
pub const HEADER_VALUE: Code = Code::new(1031);
/// Not an address to listen on.
pub const ADDRESS: Code = Code::new(1032);
/// Not a network such as `10.0.0.0/8`.
pub const NETWORK: Code = Code::new(1033);
/// Not the name of a host.
pub const HOST_NAME: Code = Code::new(1034);
/// A wildcard where names are wanted.
pub const WILDCARD: Code = Code::new(1035);
/// Not a URL, or one of a scheme that is not used here.
pub const URL: Code = Code::new(1036);
/// Not the path of a file.
pub const FILE_PATH: Code = Code::new(1037);
/// Not a path template.
pub const TEMPLATE: Code = Code::new(1407);
/// Not a base path.
pub const BASE: Code = Code::new(1411);
/// Not a method that can be routed.
pub const METHOD: Code = Code::new(1413);
/// Not a rate such as `100/min`.
pub const RATE: Code = Code::new(1601);
/// Not a share such as `20%`.
pub const PERCENT: Code = Code::new(1039);

/// `5s`, `250ms`, `1h 30min`: whole numbers with `ms s min h day`, the greatest unit first.
impl FromNode for Duration {
    const SHAPE: Shape = Shape::Pattern("^[0-9]+(ms|s|min|h|day)( [0-9]+(ms|s|min|h|day))*$", "5s");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "a time such as `5s`, `250ms` or `1h 30min`; units `ms s min h day`";
        let text = bind.text(node, EXPECTED)?;
        match parse_duration(text) {
            Ok(value) => Some(value),
            Err(suggestion) => {
                let found = bind.found(node);
                let mut error =
                    ConfigError::new(DURATION, "a time is a whole number with its unit", node.span)
                        .found(found)
                        .expected(EXPECTED);
                if let Some(suggestion) = suggestion {
                    error = error.suggest(suggestion);
                }
                bind.error(error);
                None
            }
        }
    }

    fn measure(&self) -> Option<u128> {
        Some(self.as_millis())
    }
}

/// The time, or what was probably meant.
fn parse_duration(text: &str) -> Result<Duration, Option<String>> {
    let mut total_ms: u64 = 0;
    let mut unit_before_ms = u64::MAX;
    for part in text.split(' ') {
        let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, unit) = part.split_at(digits);
        let unit_ms = match unit {
            "ms" => 1,
            "s" => 1_000,
            "min" => 60_000,
            "h" => 3_600_000,
            "day" => 86_400_000,
            _ if number.is_empty() => return Err(None),
            "" => return Err(Some(format!("{number}s"))),
            "m" | "mins" | "minute" | "minutes" => return Err(Some(format!("{number}min"))),
            "d" | "days" => return Err(Some(format!("{number}day"))),
            "sec" | "secs" | "second" | "seconds" => return Err(Some(format!("{number}s"))),
            "hr" | "hrs" | "hour" | "hours" => return Err(Some(format!("{number}h"))),
            "msec" | "millis" => return Err(Some(format!("{number}ms"))),
            _ => return Err(None),
        };
        if unit_ms >= unit_before_ms {
            return Err(None);
        }
        unit_before_ms = unit_ms;
        let number: u64 = number.parse().map_err(|_| None)?;
        total_ms = number.checked_mul(unit_ms).and_then(|ms| total_ms.checked_add(ms)).ok_or(None)?;
    }
    Ok(Duration::from_millis(total_ms))
}

/// A time as the operator would write it: `1h 30min`, `250ms`, `0s`.
pub fn written_duration(duration: Duration) -> String {
    let mut rest = duration.as_millis();
    let mut parts = Vec::new();
    for (unit, unit_ms) in [("day", 86_400_000), ("h", 3_600_000), ("min", 60_000), ("s", 1_000), ("ms", 1)] {
        if rest >= unit_ms {
            parts.push(format!("{}{unit}", rest / unit_ms));
            rest %= unit_ms;
        }
    }
    if parts.is_empty() { "0s".into() } else { parts.join(" ") }
}

/// A share: `20%`; whole, from 0 to 100.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percent(pub u32);

impl FromNode for Percent {
    const SHAPE: Shape = Shape::Pattern("^([0-9]|[1-9][0-9]|100)%$", "20%");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "a share from `0%` to `100%`";
        let text = bind.text(node, EXPECTED)?;
        let digits = text.strip_suffix('%').filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
        match digits.and_then(|digits| digits.parse().ok()) {
            Some(percent @ 0..=100) => Some(Percent(percent)),
            _ => malformed(bind, node, PERCENT, "this is not a share", EXPECTED),
        }
    }
}

/// A number of bytes: `64KiB`, `10MB`, `512B`. `KiB MiB GiB` are powers of 1024, `KB MB GB` of 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteSize(pub u64);

impl ByteSize {
    /// The bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
        match units.into_iter().find(|(_, size)| self.0 >= *size && self.0.is_multiple_of(*size)) {
            Some((unit, size)) => write!(f, "{}{unit}", self.0 / size),
            None => write!(f, "{}B", self.0),
        }
    }
}

impl FromNode for ByteSize {
    const SHAPE: Shape = Shape::Pattern("^[0-9]+(B|KiB|MiB|GiB|KB|MB|GB)$", "64KiB");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "a size such as `64KiB` or `10MB`; units `B KiB MiB GiB` and `KB MB GB`";
        let text = bind.text(node, EXPECTED)?;
        match parse_byte_size(text) {
            Ok(value) => Some(value),
            Err(suggestion) => {
                let found = bind.found(node);
                let mut error =
                    ConfigError::new(BYTE_SIZE, "a size is a whole number with its unit", node.span)
                        .found(found)
                        .expected(EXPECTED);
                if let Some(suggestion) = suggestion {
                    error = error.suggest(suggestion);
                }
                bind.error(error);
                None
            }
        }
    }

    fn measure(&self) -> Option<u128> {
        Some(u128::from(self.0))
    }
}

fn parse_byte_size(text: &str) -> Result<ByteSize, Option<String>> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let size: u64 = match unit {
        _ if number.is_empty() => return Err(None),
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "" => return Err(Some(format!("{number}B"))),
        other => {
            let suggestion = match other.trim().to_ascii_lowercase().as_str() {
                "b" | "byte" | "bytes" => "B",
                "k" | "kib" => "KiB",
                "kb" => "KB",
                "m" | "mib" => "MiB",
                "mb" => "MB",
                "g" | "gib" => "GiB",
                "gb" => "GB",
                _ => return Err(None),
            };
            return Err(Some(format!("{number}{suggestion}")));
        }
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(size)).map(ByteSize).ok_or(None)
}

/// The time that a rate counts over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Period {
    /// `s`
    Second,
    /// `min`
    Minute,
    /// `h`
    Hour,
    /// `day`: 24 hours, not a calendar day.
    Day,
}

impl Period {
    /// Its length in nanoseconds.
    pub const fn nanos(self) -> u64 {
        self.seconds() * 1_000_000_000
    }

    /// Its length in seconds.
    pub const fn seconds(self) -> u64 {
        match self {
            Period::Second => 1,
            Period::Minute => 60,
            Period::Hour => 3_600,
            Period::Day => 86_400,
        }
    }

    /// As the operator writes it.
    pub const fn unit(self) -> &'static str {
        match self {
            Period::Second => "s",
            Period::Minute => "min",
            Period::Hour => "h",
            Period::Day => "day",
        }
    }
}

/// How many in which time: `100/min`. The count is 1 to [`RATE_COUNT_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rate {
    /// How many.
    pub count: u64,
    /// In which time.
    pub period: Period,
}

/// The greatest count of a [`Rate`], and of a burst.
pub const RATE_COUNT_MAX: u64 = 1_000_000_000;

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.period.unit())
    }
}

impl FromNode for Rate {
    const SHAPE: Shape = Shape::Pattern("^[1-9][0-9]*/(s|min|h|day)$", "100/min");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "a rate such as `100/min`; periods `s min h day`, count 1 to 1000000000";
        let text = bind.text(node, EXPECTED)?;
        let parts = text.split_once('/').map(|(count, period)| (count.trim(), period.trim()));
        let period = parts.and_then(|(_, period)| match period {
            "s" => Some((Period::Second, true)),
            "min" => Some((Period::Minute, true)),
            "h" => Some((Period::Hour, true)),
            "day" => Some((Period::Day, true)),
            "sec" | "second" | "1s" => Some((Period::Second, false)),
            "m" | "minute" | "1min" => Some((Period::Minute, false)),
            "hour" | "hr" | "1h" => Some((Period::Hour, false)),
            "d" | "24h" => Some((Period::Day, false)),
            _ => None,
        });
        let digits = |count: &&str| !count.is_empty() && count.bytes().all(|b| b.is_ascii_digit());
        let count = parts.map(|(count, _)| count).filter(digits).and_then(|count| count.parse::<u64>().ok());
        if let (Some(count @ 1..=RATE_COUNT_MAX), Some((period, true))) = (count, period)
            && !text.contains(' ')
        {
            return Some(Rate { count, period });
        }
        let found = bind.found(node);
        let mut error = ConfigError::new(RATE, "a rate is a count and a period", node.span)
            .found(found)
            .expected(EXPECTED);
        match (count, period) {
            (Some(count @ 1..=RATE_COUNT_MAX), Some((period, _))) => {
                error = error.suggest(Rate { count, period }.to_string());
            }
            (None, None) if digits(&text) => error = error.suggest(format!("{text}/min")),
            (Some(0), _) => error = error.fix("to refuse everybody, leave the grant out of `allow`"),
            _ => {}
        }
        bind.error(error);
        None
    }
}

/// Where to listen: an IP address with a port, or the path of a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// `[::]:443`, `127.0.0.1:8080`; port 0 takes any free one.
    Tcp(SocketAddr),
    /// `unix:/run/ringwall.sock` or `/run/ringwall.sock`.
    Unix(PathBuf),
}

impl Address {
    /// Whether only this machine can reach it.
    pub fn is_local(&self) -> bool {
        match self {
            Address::Tcp(address) => is_loopback(address.ip()),
            Address::Unix(_) => true,
        }
    }
}

/// Whether an address is this machine's own, an IPv4 address inside IPv6 included.
pub fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(address) => address.fmt(f),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl FromNode for Address {
    const SHAPE: Shape = Shape::Text("an IP address with a port, or the path of a Unix socket");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "an IP address with a port such as `\"[::]:443\"`, or `unix:/run/x.sock`";
        let text = bind.text(node, EXPECTED)?;
        let unix = text.strip_prefix("unix:").or_else(|| text.starts_with('/').then_some(text));
        if let Some(path) = unix {
            // The bound is that of `sockaddr_un`, with its final NUL.
            if path.len() > 107 || path.contains('\0') || path.ends_with('/') {
                return malformed(
                    bind,
                    node,
                    ADDRESS,
                    "the path of a Unix socket is not usable",
                    "at most 107 bytes",
                );
            }
            return Some(Address::Unix(bind.sources().resolve(node.span, path)));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return Some(Address::Tcp(address));
        }
        let found = bind.found(node);
        let mut error = ConfigError::new(ADDRESS, "this is not an address to listen on", node.span)
            .found(found)
            .expected(EXPECTED);
        let (host, port) = text.rsplit_once(':').unwrap_or(("", text));
        if let Ok(port) = port.parse::<u16>() {
            error = match host {
                "localhost" => error.suggest(format!("127.0.0.1:{port}")),
                "" | "*" | "::" => error.suggest(format!("[::]:{port}")),
                _ if host.parse::<std::net::Ipv6Addr>().is_ok() => error.suggest(format!("[{host}]:{port}")),
                _ => error.fix("write the IP address of the interface; names are not resolved here"),
            };
        } else if text.parse::<IpAddr>().is_ok() {
            error = error.fix("add the port");
        }
        bind.error(error);
        None
    }
}

/// A network: `10.0.0.0/8`, `2001:db8::/32`, or one address. Bits beyond the prefix must be zero.
impl FromNode for IpNet {
    const SHAPE: Shape = Shape::Text("an IP address, or a network such as `10.0.0.0/8`");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "an IP address, or a network such as `10.0.0.0/8`";
        let text = bind.text(node, EXPECTED)?;
        if let Ok(ip) = text.parse::<IpAddr>() {
            return Some(IpNet::from(ip));
        }
        let Ok(net) = text.parse::<IpNet>() else {
            return malformed(bind, node, NETWORK, "this is not a network", EXPECTED);
        };
        if net != net.trunc() {
            let found = bind.found(node);
            bind.error(
                ConfigError::new(NETWORK, "bits beyond the prefix are set", node.span)
                    .found(found)
                    .expected(EXPECTED)
                    .suggest(net.trunc().to_string()),
            );
            return None;
        }
        Some(net)
    }
}

/// The name of a host, lower-case (RFC 1123 §2.1), or an IP address as it stands in a Host field.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct HostName(String);

impl HostName {
    /// The canonical text: lower-case, without a final dot; IPv6 in brackets.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The address, if it is one rather than a name.
    pub fn ip(&self) -> Option<IpAddr> {
        self.0.trim_matches(['[', ']']).parse().ok()
    }

    /// A host name from text.
    ///
    /// # Errors
    /// Says what is wrong with it, in words that follow "the host".
    pub fn parse(text: &str) -> Result<HostName, &'static str> {
        if let Some(inner) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            let ip: std::net::Ipv6Addr = inner.parse().map_err(|_| "is not an IPv6 address in brackets")?;
            return Ok(HostName(format!("[{ip}]")));
        }
        if !text.is_ascii() {
            return Err("has letters beyond ASCII: write its `xn--` form");
        }
        if text.is_empty() || text.len() > 253 {
            return Err("is empty or longer than 253 characters");
        }
        let label = |label: &str| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        };
        if !text.split('.').all(label) {
            return Err("has an empty or malformed label: letters, digits and `-` between dots");
        }
        let last = text.rsplit('.').next().unwrap_or(text);
        // WHATWG URL §3.5: a host whose last label is a number is an IPv4 address or nothing.
        if last.bytes().all(|b| b.is_ascii_digit()) && text.parse::<Ipv4Addr>().is_err() {
            return Err("ends in a number, but is not an IPv4 address");
        }
        Ok(HostName(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for HostName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromNode for HostName {
    const SHAPE: Shape = Shape::Text("the name of a host, without a port");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "the name of a host such as `api.example.com`";
        let text = bind.text(node, EXPECTED)?;
        if text.contains('*') {
            let found = bind.found(node);
            bind.error(
                ConfigError::new(WILDCARD, "wildcards do not stand for hosts", node.span)
                    .found(found)
                    .expected("each name written out")
                    .why("a wildcard also answers for names that nobody thought of"),
            );
            return None;
        }
        match HostName::parse(text) {
            Ok(host) => Some(host),
            Err(problem) => malformed(bind, node, HOST_NAME, format!("the host {problem}"), EXPECTED),
        }
    }
}

/// An absolute `http` or `https` URL without user, fragment or escapes that could be read two ways.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    /// `https` rather than `http`.
    pub https: bool,
    /// The host, canonical.
    pub host: HostName,
    /// The port, that of the scheme if none was written.
    pub port: u16,
    /// From the first `/` on, with the query; empty if nothing was written after the authority.
    pub path: String,
}

impl Url {
    /// A URL from text.
    ///
    /// # Errors
    /// Says what is wrong with it, in words that follow "the URL".
    pub fn parse(text: &str) -> Result<Url, &'static str> {
        let (https, rest) = if let Some(rest) = text.strip_prefix("https://") {
            (true, rest)
        } else if let Some(rest) = text.strip_prefix("http://") {
            (false, rest)
        } else {
            return Err("does not begin with `https://` or `http://`");
        };
        if text.len() > 2_048 {
            return Err("is longer than 2048 characters");
        }
        let at = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(at);
        if authority.contains('@') {
            return Err("holds a user: secrets do not belong in URLs");
        }
        if path.contains('#') {
            return Err("has a fragment");
        }
        // RFC 3986 §3.3, §3.4: pchar, `/` and `?`.
        if !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/?-._~%!$&'()*+,;=:@".contains(&b)) {
            return Err("has characters that a URL cannot hold");
        }
        let (host, port) = match authority.strip_prefix('[').map(|inner| inner.split_once(']')) {
            Some(Some((inner, port))) => (&authority[..inner.len() + 2], port),
            Some(None) => return Err("has a bracket that is not closed"),
            None => authority.split_at(authority.find(':').unwrap_or(authority.len())),
        };
        let port = match port.strip_prefix(':') {
            None if port.is_empty() => {
                if https {
                    443
                } else {
                    80
                }
            }
            Some(digits) if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) => {
                match digits.parse::<u16>() {
                    Ok(port @ 1..) => port,
                    _ => return Err("has a port that is not 1 to 65535"),
                }
            }
            _ => return Err("has a port that is not 1 to 65535"),
        };
        let host =
            HostName::parse(host).map_err(|_| "has a host that is neither a name nor an IP address")?;
        Ok(Url { https, host, port, path: path.to_owned() })
    }

    /// Whether it is on this machine by its text alone: a loopback address, or `localhost`.
    pub fn is_local(&self) -> bool {
        self.host.ip().is_some_and(is_loopback) || self.host.as_str() == "localhost"
    }

    /// `host` or `host:port`, as in a Host field.
    pub fn authority(&self) -> String {
        match (self.https, self.port) {
            (true, 443) | (false, 80) => self.host.to_string(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", if self.https { "https" } else { "http" }, self.authority(), self.path)
    }
}

impl FromNode for Url {
    const SHAPE: Shape = Shape::Pattern("^https?://", "https://login.example.com/");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "a URL such as `https://login.example.com/`";
        let text = bind.text(node, EXPECTED)?;
        match Url::parse(text) {
            Ok(url) => Some(url),
            Err(problem) => {
                if text.contains('@') {
                    bind.blot(node.span);
                }
                malformed(bind, node, URL, format!("the URL {problem}"), EXPECTED)
            }
        }
    }
}

/// The path of a file, relative to the directory of the file it is written in.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FilePath(pub PathBuf);

impl FromNode for FilePath {
    const SHAPE: Shape = Shape::Text("the path of a file, relative to this one");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "the path of a file";
        let text = bind.text(node, EXPECTED)?;
        if text.is_empty() || text.contains('\0') || text.ends_with('/') || text.len() > 4_096 {
            return malformed(bind, node, FILE_PATH, "this is not the path of a file", EXPECTED);
        }
        if text.contains("://") {
            return malformed(
                bind,
                node,
                FILE_PATH,
                "a URL stands where the path of a file is wanted",
                EXPECTED,
            );
        }
        Some(FilePath(bind.sources().resolve(node.span, text)))
    }
}

/// A method of HTTP that operations can be routed by: upper-case, not CONNECT, not TRACE.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Method(String);

impl Method {
    /// The method as it stands in a request line.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A method from text.
    ///
    /// # Errors
    /// What is wrong, and what was probably meant.
    pub fn parse(text: &str) -> Result<Method, (String, Option<String>)> {
        // RFC 9110 §9.1: a method is a case-sensitive token.
        if text.is_empty() || text.len() > 32 || !text.bytes().all(is_token) {
            return Err((format!("`{text}` is not a method"), None));
        }
        match text {
            "CONNECT" => return Err(("CONNECT makes tunnels; Ringwall is not a forward proxy".into(), None)),
            // RFC 9110 §9.3.8: a TRACE answer shows the fields of the request, credentials included.
            "TRACE" => return Err(("TRACE shows a request's credentials to its sender".into(), None)),
            _ => {}
        }
        if text.bytes().any(|b| b.is_ascii_lowercase()) {
            return Err((format!("`{text}` is not upper-case"), Some(text.to_ascii_uppercase())));
        }
        const KNOWN: [&str; 9] =
            ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY", "PROPFIND"];
        if !KNOWN.contains(&text)
            && let Some(near) = super::shape::nearest(text, KNOWN)
        {
            return Err((format!("`{text}` is not a method"), Some(near.into())));
        }
        Ok(Method(text.to_owned()))
    }
}

/// RFC 9110 §5.6.2: `tchar`.
pub const fn is_token(b: u8) -> bool {
    matches!(
        b,
        b'!' | b'#'
            | b'$'
            | b'%'
            | b'&'
            | b'\''
            | b'*'
            | b'+'
            | b'-'
            | b'.'
            | b'^'
            | b'_'
            | b'`'
            | b'|'
            | b'~'
    ) || b.is_ascii_alphanumeric()
}

/// A path template: `/orders/{id}`, `/files/{name}.json`, `/assets/{+tail}`.
///
/// Literal text is in canonical form, so that it equals the canonical path of a request byte for byte.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PathTemplate {
    text: String,
    parameters: Vec<String>,
    tail: bool,
}

/// The longest path template or base path, in bytes.
pub const TEMPLATE_BYTES_MAX: usize = 1_024;
/// The most parameters in one path template.
pub const PARAMETERS_MAX: usize = 16;

impl PathTemplate {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The names of the parameters, in order, the tail included.
    pub fn parameters(&self) -> &[String] {
        &self.parameters
    }

    /// Whether it ends in a tail `{+name}`, which takes any number of segments.
    pub fn has_tail(&self) -> bool {
        self.tail
    }

    /// The template with the names left out: two templates of one shape match the same paths.
    pub fn shape(&self) -> String {
        let mut out = String::with_capacity(self.text.len());
        let mut inside = false;
        for c in self.text.chars() {
            match c {
                '{' => inside = true,
                '}' => inside = false,
                _ if inside && c != '+' => continue,
                _ => {}
            }
            out.push(c);
        }
        out
    }

    /// A template from text.
    ///
    /// # Errors
    /// Says what is wrong with it, in words that follow "the template".
    pub fn parse(text: &str) -> Result<PathTemplate, String> {
        if !text.starts_with('/') {
            return Err("does not begin with `/`".into());
        }
        if text.len() > TEMPLATE_BYTES_MAX {
            return Err(format!("is longer than {TEMPLATE_BYTES_MAX} bytes"));
        }
        let mut parameters: Vec<String> = Vec::new();
        let mut tail = false;
        let segments: Vec<&str> = text[1..].split('/').collect();
        for (at, segment) in segments.iter().enumerate() {
            if tail {
                return Err("goes on after its tail `{+…}`".into());
            }
            if segment.is_empty() && at + 1 < segments.len() {
                return Err("has an empty segment (`//`)".into());
            }
            let mut rest = *segment;
            let mut parameter_before = false;
            while let Some(open) = rest.find('{') {
                literal(&rest[..open], segment)?;
                if open == 0 && parameter_before {
                    return Err(format!("has two parameters without text between them in `{segment}`"));
                }
                let Some(close) = rest[open..].find('}').map(|close| open + close) else {
                    return Err(format!("has a `{{` that is not closed in `{segment}`"));
                };
                let name = &rest[open + 1..close];
                let (name, is_tail) = match name.strip_prefix('+') {
                    Some(name) => (name, true),
                    None => (name, false),
                };
                if is_tail && *segment != format!("{{+{name}}}") {
                    return Err("has a tail `{+…}` that is not a whole segment".into());
                }
                tail |= is_tail;
                let named = name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
                    && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
                    && name.len() <= 64;
                if !named {
                    return Err(format!("has a parameter `{{{name}}}` that is not a name"));
                }
                if parameters.iter().any(|other| other == name) {
                    return Err(format!("names the parameter `{{{name}}}` twice"));
                }
                parameters.push(name.to_owned());
                if parameters.len() > PARAMETERS_MAX {
                    return Err(format!("has more than {PARAMETERS_MAX} parameters"));
                }
                parameter_before = true;
                rest = &rest[close + 1..];
            }
            literal(rest, segment)?;
        }
        Ok(PathTemplate { text: text.to_owned(), parameters, tail })
    }
}

/// Literal text of a path in canonical form: nothing that a server could decode or drop.
fn literal(text: &str, segment: &str) -> Result<(), String> {
    if segment == "." || segment == ".." {
        return Err("has a `.` or `..` segment".into());
    }
    match text.chars().find(|&c| !(c.is_ascii_alphanumeric() || "-._~!$&'()+,=:@".contains(c))) {
        None => Ok(()),
        Some('?' | '#') => Err("has a query or fragment: only the path is matched".into()),
        Some('*') => {
            Err("has a `*`: write `{name}` for one segment, `{+name}` for a tail with its `raw` reason"
                .into())
        }
        Some('%') => Err("has a `%` escape: write the character itself".into()),
        Some(';') => Err("has a `;`: servers disagree on path parameters".into()),
        Some('}') => Err(format!("has a `}}` that is not opened in `{segment}`")),
        Some(c) => Err(format!("has the character `{}`, which a path cannot hold", c.escape_default())),
    }
}

/// What a request must look like to be an operation: `GET /orders/{id}`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Match {
    /// The method.
    pub method: Method,
    /// The path below the API's base.
    pub template: PathTemplate,
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method.as_str(), self.template.as_str())
    }
}

impl FromNode for Match {
    const SHAPE: Shape = Shape::Pattern("^[A-Z]+ /", "GET /orders/{id}");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "a method and a path such as `GET /orders/{id}`";
        let text = bind.text(node, EXPECTED)?;
        let Some((method, template)) = text.split_once(' ') else {
            if text.starts_with('/') {
                let found = bind.found(node);
                bind.error(
                    ConfigError::new(METHOD, "the method is missing", node.span)
                        .found(found)
                        .expected(EXPECTED)
                        .suggest(format!("GET {text}")),
                );
                return None;
            }
            return malformed(bind, node, TEMPLATE, "the path is missing", EXPECTED);
        };
        let method = match Method::parse(method) {
            Ok(method) => Some(method),
            Err((problem, suggestion)) => {
                let found = bind.found(node);
                let mut error = ConfigError::new(METHOD, problem, node.span).found(found).expected(EXPECTED);
                if let Some(suggestion) = suggestion {
                    error = error.suggest(format!("{suggestion} {template}"));
                }
                bind.error(error);
                None
            }
        };
        match PathTemplate::parse(template.trim_start()) {
            Ok(template) => method.map(|method| Match { method, template }),
            Err(problem) => malformed(bind, node, TEMPLATE, format!("the template {problem}"), EXPECTED),
        }
    }
}

/// The path below which an API lives: `/v1`. The root is the empty text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct BasePath(String);

impl BasePath {
    /// Without a final slash; empty for the root.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BasePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_empty() { "/" } else { &self.0 })
    }
}

impl FromNode for BasePath {
    const SHAPE: Shape = Shape::Pattern("^/", "/v1");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "a path such as `/v1`, without parameters and without a final slash";
        let text = bind.text(node, EXPECTED)?;
        if text == "/" {
            return Some(BasePath(String::new()));
        }
        if text.len() > 1 && text.ends_with('/') {
            let found = bind.found(node);
            bind.error(
                ConfigError::new(BASE, "the base ends in a slash", node.span)
                    .found(found)
                    .expected(EXPECTED)
                    .suggest(text.trim_end_matches('/')),
            );
            return None;
        }
        match PathTemplate::parse(text) {
            Ok(template) if template.parameters().is_empty() => Some(BasePath(text.to_owned())),
            Ok(_) => malformed(bind, node, BASE, "the base has parameters", EXPECTED),
            Err(problem) => malformed(bind, node, BASE, format!("the base {problem}"), EXPECTED),
        }
    }
}

/// The name of a header field (RFC 9110 §5.1), as it was written; compared without case.
#[derive(Clone, Debug)]
pub struct HeaderName(String);

impl HeaderName {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// A field name from text.
    ///
    /// # Errors
    /// Says what is wrong with it, in words that follow "the field name".
    pub fn parse(text: &str) -> Result<HeaderName, &'static str> {
        if text.is_empty() || text.len() > 128 {
            return Err("is empty or longer than 128 characters");
        }
        if text.contains('_') {
            return Err("has an underscore: servers take it for `-`; write `-`");
        }
        if !text.bytes().all(is_token) {
            return Err("has characters that a field name cannot hold");
        }
        Ok(HeaderName(text.to_owned()))
    }
}

impl PartialEq for HeaderName {
    fn eq(&self, other: &Self) -> bool {
        self.0.eq_ignore_ascii_case(&other.0)
    }
}

impl Eq for HeaderName {}

impl FromNode for HeaderName {
    const SHAPE: Shape = Shape::Pattern("^[A-Za-z0-9!#$%&'*+.^`|~-]+$", "X-API-Key");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "the name of a field such as `X-API-Key`";
        let text = bind.text(node, EXPECTED)?;
        match HeaderName::parse(text) {
            Ok(name) => Some(name),
            Err(problem) => malformed(bind, node, HEADER_NAME, format!("the field name {problem}"), EXPECTED),
        }
    }
}

/// The value of a header field: printable ASCII with inner spaces (RFC 9110 §5.5, without obs-text).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderValue(String);

impl HeaderValue {
    /// A value that is known to be one.
    pub(crate) fn literal(text: &'static str) -> HeaderValue {
        debug_assert!(text.bytes().all(|b| (b' '..=b'~').contains(&b)));
        HeaderValue(text.to_owned())
    }

    /// The value.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromNode for HeaderValue {
    const SHAPE: Shape = Shape::Pattern("^[ -~]*$", "no-store");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "printable ASCII without line breaks, at most 4096 characters";
        let text = bind.text(node, EXPECTED)?;
        if text.len() > 4_096 || !text.bytes().all(|b| (b' '..=b'~').contains(&b)) || text.trim() != text {
            return malformed(bind, node, HEADER_VALUE, "this is not the value of a field", EXPECTED);
        }
        Some(HeaderValue(text.to_owned()))
    }
}

/// A day: `2027-06-30`. It is over when it is over in UTC.
impl FromNode for Date {
    const SHAPE: Shape = Shape::Pattern("^[0-9]{4}-[0-9]{2}-[0-9]{2}$", "2027-06-30");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "a date such as `2027-06-30`";
        let text = bind.text(node, EXPECTED)?;
        let shape = text.len() == 10
            && text.bytes().enumerate().all(|(at, b)| match at {
                4 | 7 => b == b'-',
                _ => b.is_ascii_digit(),
            });
        match text.parse::<Date>() {
            Ok(date) if shape => Some(date),
            _ => malformed(bind, node, DATE, "this is not a date", EXPECTED),
        }
    }
}
