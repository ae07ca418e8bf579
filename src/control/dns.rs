//! Names into addresses, and services into hosts, off the data path: one question, one answer.
//!
//! The control thread asks with hickory (the servers of `node.resolver`, or those of the system). `/etc/hosts` is read anew
//! at every look, address literals never get here, `localhost` is never asked of anybody.
//!
//! Not for keeping what was said: that is [`super::names`], and [`super::fetch`], which pins what it resolved.

use std::fmt;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::time::{Duration, Instant};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError};
use hickory_resolver::proto::rr::{RData, RecordType};

/// How long a name of `/etc/hosts` counts before the file is looked at again.
const HOSTS_TTL: Duration = Duration::from_secs(5);
/// How long the addresses of `localhost` count.
const LOCALHOST_TTL: Duration = Duration::from_secs(3600);

/// What a resolver says about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its addresses, in no order that means anything.
    pub addresses: Vec<IpAddr>,
    /// How long that counts.
    pub ttl: Duration,
    /// Whether this machine's own files say so, and not the network.
    pub local: bool,
}

/// A host of a service (RFC 2782). Ordered by priority.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ServiceRecord {
    /// Those with a lower number come first.
    pub priority: u16,
    /// The host's name, without a final dot.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// Its share among those of its priority.
    pub weight: u16,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unresolved {
    /// There is no such name, or nothing of that kind under it, and the servers say so.
    Nothing {
        /// How long that counts (RFC 2308), if they said.
        ttl: Option<Duration>,
    },
    /// They say nothing, or that they cannot: in whose words.
    Failed(String),
}

impl fmt::Display for Unresolved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unresolved::Nothing { .. } => f.write_str("there is no such record"),
            Unresolved::Failed(why) => f.write_str(why),
        }
    }
}

impl From<String> for Unresolved {
    fn from(why: String) -> Unresolved {
        Unresolved::Failed(why)
    }
}

/// A resolution under way.
pub type Resolving = Pin<Box<dyn Future<Output = Result<Answer, Unresolved>> + Send>>;
/// The resolution of a service under way: its hosts, and how long they count.
pub type ResolvingService =
    Pin<Box<dyn Future<Output = Result<(Vec<ServiceRecord>, Duration), Unresolved>> + Send>>;

/// Something that resolves names. Closures do, for tests.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `name`, which is no address itself.
    fn resolve(&self, name: &str) -> Resolving;

    /// The hosts of the service `name`.
    fn resolve_service(&self, _name: &str) -> ResolvingService {
        Box::pin(std::future::ready(Err("this resolver knows no services".to_owned().into())))
    }
}

impl<F> Resolve for F
where
    F: Fn(&str) -> Resolving + Send + Sync + 'static,
{
    fn resolve(&self, name: &str) -> Resolving {
        self(name)
    }
}

/// Why `name` is not a host name; `None` if it is one. Letters, digits, hyphens and underscores, labels of
/// 1–63 bytes, at most 253 in all, and no last label that could be read as part of an IPv4 address (`0x7f.1`,
/// `2130706433`, `127.1`, `0177.0.0.1` are addresses to some parsers and names to others).
pub fn host_name_error(name: &str) -> Option<&'static str> {
    if name.is_empty() || name.len() > 253 {
        return Some("a host name has 1 to 253 bytes");
    }
    for label in name.split('.') {
        if label.is_empty() || label.len() > 63 {
            return Some("each label of a host name has 1 to 63 bytes");
        }
        if !label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_') {
            return Some("a host name holds letters, digits, `-`, `_` and dots");
        }
        if label.starts_with('-') || label.ends_with('-') {
            return Some("a label of a host name neither begins nor ends with `-`");
        }
    }
    let last = name.rsplit('.').next().unwrap_or(name);
    let hexadecimal = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let numeric = last.bytes().all(|byte| byte.is_ascii_digit())
        || hexadecimal.is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_hexdigit()));
    numeric.then_some("the last label of a host name is not a number")
}

/// The real resolver: `/etc/hosts`, then DNS.
pub struct SystemResolver {
    hosts: PathBuf,
    dns: Result<TokioResolver, String>,
}

impl SystemResolver {
    /// A resolver that asks `servers`, or those of `/etc/resolv.conf` if there are none. Must be made inside
    /// the control thread's runtime. A broken system configuration is not an error here: names that
    /// `/etc/hosts` knows still resolve, others fail with that reason.
    pub fn new(servers: &[SocketAddr]) -> SystemResolver {
        let builder = match servers {
            [] => {
                TokioResolver::builder_tokio().map_err(|error| format!("no resolver configuration: {error}"))
            }
            servers => {
                let servers = servers.iter().map(name_server).collect();
                let config = ResolverConfig::from_name_servers(servers);
                Ok(TokioResolver::builder_with_config(config, TokioRuntimeProvider::default()))
            }
        };
        let dns = builder.and_then(|mut builder| {
            set_options(builder.options_mut());
            builder.build().map_err(|error| error.to_string())
        });
        SystemResolver { hosts: PathBuf::from("/etc/hosts"), dns }
    }
}

fn name_server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}

fn set_options(options: &mut ResolverOpts) {
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    // We keep answers ourselves, with bounds of our own, and read the hosts file anew.
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = Duration::from_secs(2);
    options.attempts = 2;
}

impl Resolve for SystemResolver {
    fn resolve(&self, name: &str) -> Resolving {
        // RFC 6761 §6.3: `localhost` names are loopback; they are never sent to a server.
        if name == "localhost" || name.ends_with(".localhost") {
            let mut addresses = hosts_addresses(&self.hosts, name);
            addresses.retain(IpAddr::is_loopback);
            if addresses.is_empty() {
                addresses = vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            }
            let answer = Answer { addresses, ttl: LOCALHOST_TTL, local: true };
            return Box::pin(std::future::ready(Ok(answer)));
        }
        let addresses = hosts_addresses(&self.hosts, name);
        if !addresses.is_empty() {
            let answer = Answer { addresses, ttl: HOSTS_TTL, local: true };
            return Box::pin(std::future::ready(Ok(answer)));
        }
        let dns = self.dns.clone();
        let name = name.to_owned();
        Box::pin(async move {
            let lookup = dns?.lookup_ip(name).await.map_err(unresolved)?;
            let ttl = lookup.valid_until().saturating_duration_since(Instant::now());
            Ok(Answer { addresses: lookup.iter().collect(), ttl, local: false })
        })
    }

    fn resolve_service(&self, name: &str) -> ResolvingService {
        let dns = self.dns.clone();
        let name = name.to_owned();
        Box::pin(async move {
            let lookup = dns?.lookup(name, RecordType::SRV).await.map_err(unresolved)?;
            let ttl = lookup.valid_until().saturating_duration_since(Instant::now());
            let record = |data: &RData| match data {
                // RFC 2782: a target of "." means that the service is decidedly not available at this domain.
                RData::SRV(record) if !record.target.is_root() => Some(ServiceRecord {
                    priority: record.priority,
                    host: record.target.to_ascii().trim_end_matches('.').to_owned(),
                    port: record.port,
                    weight: record.weight,
                }),
                _ => None,
            };
            let records = lookup.answers().iter().filter_map(|answer| record(&answer.data));
            // What is no host name is nobody's, and nobody is asked for it.
            Ok((records.filter(|record| host_name_error(&record.host).is_none()).collect(), ttl))
        })
    }
}

fn unresolved(error: NetError) -> Unresolved {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(no)) => {
            let ttl = no.negative_ttl.map(|seconds| Duration::from_secs(seconds.into()));
            Unresolved::Nothing { ttl }
        }
        error => Unresolved::Failed(error.to_string()),
    }
}

/// The addresses that a hosts file gives to `name`.
fn hosts_addresses(path: &Path, name: &str) -> Vec<IpAddr> {
    std::fs::read_to_string(path).map(|text| parse_hosts(&text, name)).unwrap_or_default()
}

/// hosts(5): address, then names, `#` to the end of the line is a comment.
fn parse_hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let mut addresses = Vec::new();
    for line in text.lines() {
        let mut words = line.split('#').next().unwrap_or("").split_ascii_whitespace();
        let Some(Ok(address)) = words.next().map(str::parse) else { continue };
        if words.any(|word| word.eq_ignore_ascii_case(name)) && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_nothing_that_a_parser_takes_for_an_address() {
        let long_label = "a".repeat(63);
        let long_name = [long_label.as_str(); 4].join(".");
        for good in [
            "a",
            "idp.example.com",
            "a-b.c_d",
            "1.example",
            "0x.example",
            "xn--bcher-kva.example",
            &long_label,
        ] {
            assert_eq!(host_name_error(good), None, "{good}");
        }
        let too_long_label = "a".repeat(64);
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "-a",
            "a-",
            "a.-b",
            "a b",
            "a/b",
            "a%41",
            "bücher",
            "a:b",
            "[::1]",
            "127.1",
            "1",
            "2130706433",
            "0x7f000001",
            "0x7f.0.0.1",
            "0177.0.0.1",
            "127.0.0.1",
            "a.0",
            "a.0x1f",
            "a.0x",
            "1.2.3.0X4",
            &too_long_label,
            &long_name,
        ] {
            assert!(host_name_error(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn a_hosts_file_is_read_as_its_manual_says() {
        let text = "# head\n10.0.0.1 db db.internal # db2\n\n::1\tip6 DB\nnonsense db\n10.0.0.1 db\n10.0.0.2 other\n";
        let found: Vec<String> = parse_hosts(text, "db").iter().map(ToString::to_string).collect();
        assert_eq!(found, ["10.0.0.1", "::1"]);
        assert!(parse_hosts(text, "db2").is_empty());
        assert!(parse_hosts(text, "internal").is_empty());
    }
}
