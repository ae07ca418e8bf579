//! Names into addresses, off the data path.
//!
//! The control thread resolves upstream host names with hickory (the servers of `node.resolver`, or those of
//! the system), again whenever the records run out, and publishes each name's addresses by arc-swap. A resolver
//! that fails changes nothing: the last good addresses stay. `/etc/hosts` is read anew at every look, address
//! literals never get here, `localhost` is never asked of anybody.
//!
//! Not for fetches: [`super::fetch`] uses the same [`Resolve`] but pins what it resolved. Called by the
//! snapshot's compiler, which holds the [`Addresses`] for as long as the snapshot lives.

use std::collections::HashMap;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::runtime::Handle;

use super::exchange::AbortOnDrop;
use super::process_log::{Code, Line};

/// The shortest time an answer counts, whatever its TTL says.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// The longest time an answer counts.
pub const TTL_MAX: Duration = Duration::from_secs(3600);
/// The most addresses of one name that are kept.
pub const ADDRESSES_MAX: usize = 64;
/// How long a name of `/etc/hosts` counts before the file is looked at again.
const HOSTS_TTL: Duration = Duration::from_secs(5);
/// The first pause after a failure; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The most time for one resolution with all its tries.
const RESOLVE_TIME_MAX: Duration = Duration::from_secs(10);

/// A name could not be resolved; its last addresses stay in use.
pub const DNS_FAILED: Code = Code::new(6040, "name not resolved, the last addresses stay");
/// A name resolves again.
pub const DNS_RECOVERED: Code = Code::new(6041, "name resolves again");

/// What a resolver says about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its addresses, in no order that means anything.
    pub addresses: Vec<IpAddr>,
    /// How long that counts.
    pub ttl: Duration,
}

/// A resolution under way.
pub type Resolving = Pin<Box<dyn Future<Output = Result<Answer, String>> + Send>>;

/// Something that resolves names. Closures do, for tests.
pub trait Resolve: Send + Sync + 'static {
    /// The addresses of `name`, which is no address itself.
    fn resolve(&self, name: &str) -> Resolving;
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
            return Box::pin(std::future::ready(Ok(Answer { addresses, ttl: TTL_MAX })));
        }
        let addresses = hosts_addresses(&self.hosts, name);
        if !addresses.is_empty() {
            return Box::pin(std::future::ready(Ok(Answer { addresses, ttl: HOSTS_TTL })));
        }
        let dns = self.dns.clone();
        let name = name.to_owned();
        Box::pin(async move {
            let lookup = dns?.lookup_ip(name).await.map_err(|error| error.to_string())?;
            let ttl = lookup.valid_until().saturating_duration_since(std::time::Instant::now());
            Ok(Answer { addresses: lookup.iter().collect(), ttl })
        })
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

/// The addresses of one name, kept up to date while somebody holds this.
pub struct Addresses {
    shared: Arc<Shared>,
    _task: AbortOnDrop,
}

struct Shared {
    name: String,
    current: ArcSwap<Vec<IpAddr>>,
    settled: tokio::sync::watch::Sender<bool>,
}

impl Addresses {
    /// The name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// The addresses as of now, sorted; empty as long as the name never resolved. One load of an arc-swap.
    pub fn current(&self) -> arc_swap::Guard<Arc<Vec<IpAddr>>> {
        self.shared.current.load()
    }

    /// The cell itself, for a reader that wants `arc_swap::Cache`.
    pub fn cell(&self) -> &ArcSwap<Vec<IpAddr>> {
        &self.shared.current
    }

    /// Waits until the name was looked up once, well or badly.
    pub async fn settled(&self) {
        let mut settled = self.shared.settled.subscribe();
        let _ = settled.wait_for(|&settled| settled).await;
    }
}

/// All names in use. A name that two snapshots share is resolved once.
#[derive(Clone)]
pub struct Names {
    runtime: Handle,
    resolver: Arc<dyn Resolve>,
    on_change: Arc<dyn Fn() + Send + Sync>,
    by_name: Arc<Mutex<HashMap<String, Weak<Addresses>>>>,
}

impl Names {
    /// Names resolved by `resolver` on `runtime`; `on_change` is called after each change (to ring doorbells).
    pub fn new(runtime: Handle, resolver: Arc<dyn Resolve>, on_change: Arc<dyn Fn() + Send + Sync>) -> Names {
        Names { runtime, resolver, on_change, by_name: Arc::default() }
    }

    /// The addresses of `name`; the first caller starts the resolving. It ends with the last holder.
    pub fn addresses(&self, name: &str) -> Arc<Addresses> {
        let name = name.to_ascii_lowercase();
        let mut by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        by_name.retain(|_, addresses| addresses.strong_count() > 0);
        if let Some(addresses) = by_name.get(&name).and_then(Weak::upgrade) {
            return addresses;
        }
        let shared = Arc::new(Shared {
            name: name.clone(),
            current: ArcSwap::default(),
            settled: tokio::sync::watch::Sender::new(false),
        });
        let keeping = keep(shared.clone(), self.resolver.clone(), self.on_change.clone());
        let task = AbortOnDrop(self.runtime.spawn(keeping));
        let addresses = Arc::new(Addresses { shared, _task: task });
        by_name.insert(name, Arc::downgrade(&addresses));
        addresses
    }

    /// Waits until every name in use was looked up once, well or badly.
    pub async fn settled(&self) {
        let names: Vec<_> = {
            let by_name = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
            by_name.values().filter_map(Weak::upgrade).collect()
        };
        for addresses in names {
            addresses.settled().await;
        }
    }
}

async fn keep(shared: Arc<Shared>, resolver: Arc<dyn Resolve>, on_change: Arc<dyn Fn() + Send + Sync>) {
    let mut failures = 0;
    loop {
        let resolved = tokio::time::timeout(RESOLVE_TIME_MAX, resolver.resolve(&shared.name)).await;
        let resolved = resolved.unwrap_or_else(|_| Err("the resolver does not answer".to_owned()));
        let pause = match resolved {
            Ok(answer) if !answer.addresses.is_empty() => {
                if failures > 0 {
                    Line::info(DNS_RECOVERED).with("name", &shared.name).emit();
                }
                failures = 0;
                if publish(&shared, answer.addresses) {
                    on_change();
                }
                answer.ttl.clamp(TTL_MIN, TTL_MAX)
            }
            failed => {
                // One line for the failure, not one for each try.
                if failures == 0 {
                    let why = failed.err().unwrap_or_else(|| "no address".to_owned());
                    Line::warn(DNS_FAILED).with("name", &shared.name).with("why", why).emit();
                }
                failures += 1;
                retry_pause(failures)
            }
        };
        shared.settled.send_replace(true);
        tokio::time::sleep(pause).await;
    }
}

/// Publishes the addresses; whether they differ from those before.
fn publish(shared: &Shared, mut addresses: Vec<IpAddr>) -> bool {
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    if **shared.current.load() == addresses {
        return false;
    }
    shared.current.store(Arc::new(addresses));
    true
}

fn retry_pause(failures: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(5)).min(RETRY_MAX)
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

    #[test]
    fn the_pause_after_failures_doubles_up_to_its_bound() {
        let pauses: Vec<u64> = (1..9).map(|failures| retry_pause(failures).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(retry_pause(u32::MAX), RETRY_MAX);
    }
}
