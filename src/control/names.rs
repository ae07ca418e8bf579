//! Names in use, kept up to date: hosts as addresses, services (RFC 2782) as hosts.
//!
//! Each name is asked anew when what was said of it runs out, a little earlier by chance, so that names that were
//! configured together are not asked together for ever; at most [`LOOKUPS_MAX`] lookups run at once. What is published is
//! the last good answer:
//!
//! * The resolver fails (no answer, SERVFAIL): the last answer stays, for as long as that takes. It is asked again after
//!   1 s, 2 s, … 30 s.
//! * The name has nothing, says the resolver (NXDOMAIN, or no such record): that counts as long as its SOA says
//!   (RFC 2308), 5 min at most. The last answer stays; where nothing else is said for [`EMPTY_AFTER`], it is given up.
//!
//! Not for what addresses are allowed: that is [`super::address_guard`]. Called by the snapshot's compiler, which holds the
//! [`Addresses`] and [`Services`] for as long as an upstream has them.

use std::collections::HashMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::dns::{Answer, Resolve, ServiceRecord, Unresolved};
use super::exchange::AbortOnDrop;
use super::jitter::Jitter;
use super::process_log::{Code, Line};

/// The shortest time an answer counts, whatever its TTL says.
pub const TTL_MIN: Duration = Duration::from_secs(1);
/// The longest time an answer counts.
pub const TTL_MAX: Duration = Duration::from_secs(3600);
/// The longest time that "there is nothing" counts.
pub const NEGATIVE_MAX: Duration = Duration::from_secs(300);
/// How long "there is nothing" counts where no SOA came with it.
const NEGATIVE: Duration = Duration::from_secs(5);
/// A name that had something and is said to have nothing, and nothing else, for so long has nothing.
pub const EMPTY_AFTER: Duration = Duration::from_secs(300);
/// The most addresses of one name that are kept.
pub const ADDRESSES_MAX: usize = 64;
/// The most hosts of one service that are kept.
pub const SERVICE_HOSTS_MAX: usize = 64;
/// Lookups at once.
pub const LOOKUPS_MAX: usize = 64;
/// The first pause after a failure; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The most time for one lookup with all its tries.
const LOOKUP_TIME_MAX: Duration = Duration::from_secs(10);
/// How long the hosts of a service may take to be found before the service is published without the slow ones.
const HOSTS_TIME_MAX: Duration = Duration::from_secs(3);

/// A name could not be resolved; its last addresses stay in use.
pub const DNS_FAILED: Code = Code::new(6040, "name not resolved, the last addresses stay");
/// A name resolves again.
pub const DNS_RECOVERED: Code = Code::new(6041, "name resolves again");
/// A name has had nothing for so long that what it had is given up.
pub const DNS_EMPTY: Code =
    Code::new(6110, "the name has been empty for too long, its last addresses are given up");

/// The addresses of a name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Sorted, each once; empty as long as the name never resolved.
    pub addresses: Vec<IpAddr>,
    /// Whether this machine's own files say so, and not the network.
    pub local: bool,
}

/// A host of a service.
#[derive(Clone)]
pub struct ServiceHost {
    /// Where it is.
    pub addresses: Arc<Addresses>,
    /// Its port.
    pub port: u16,
    /// Those with a lower number come first.
    pub priority: u16,
    /// Its share among those of its priority.
    pub weight: u16,
}

impl PartialEq for ServiceHost {
    fn eq(&self, other: &ServiceHost) -> bool {
        Arc::ptr_eq(&self.addresses, &other.addresses)
            && (self.port, self.priority, self.weight) == (other.port, other.priority, other.weight)
    }
}

/// What one name stands for, kept up to date while somebody holds this.
pub struct Kept<T> {
    shared: Arc<Shared<T>>,
    _task: AbortOnDrop,
}

/// The addresses of one name.
pub type Addresses = Kept<Found>;
/// The hosts of one service, by priority.
pub type Services = Kept<Vec<ServiceHost>>;

struct Shared<T> {
    name: String,
    current: ArcSwap<T>,
    settled: tokio::sync::watch::Sender<bool>,
}

impl<T> Kept<T> {
    /// The name.
    pub fn name(&self) -> &str {
        &self.shared.name
    }

    /// What it stands for as of now. One load of an arc-swap.
    pub fn current(&self) -> arc_swap::Guard<Arc<T>> {
        self.shared.current.load()
    }

    /// Waits until the name was looked up once, well or badly.
    pub async fn settled(&self) {
        let mut settled = self.shared.settled.subscribe();
        let _ = settled.wait_for(|&settled| settled).await;
    }
}

type ByName<T> = Arc<Mutex<HashMap<String, Weak<Kept<T>>>>>;

/// All names in use. A name that two upstreams share is resolved once.
#[derive(Clone)]
pub struct Names {
    runtime: Handle,
    resolver: Arc<dyn Resolve>,
    on_change: Arc<dyn Fn() + Send + Sync>,
    lookups: Arc<Semaphore>,
    hosts: ByName<Found>,
    services: ByName<Vec<ServiceHost>>,
}

impl Names {
    /// Names resolved by `resolver` on `runtime`; `on_change` is called after each change.
    pub fn new(runtime: Handle, resolver: Arc<dyn Resolve>, on_change: Arc<dyn Fn() + Send + Sync>) -> Names {
        let lookups = Arc::new(Semaphore::new(LOOKUPS_MAX));
        Names { runtime, resolver, on_change, lookups, hosts: Arc::default(), services: Arc::default() }
    }

    /// The addresses of `name`; the first caller starts the resolving. It ends with the last holder.
    pub fn addresses(&self, name: &str) -> Arc<Addresses> {
        self.kept(&self.hosts, name, |names, name| async move {
            let answer = names.bounded(names.resolver.resolve(&name)).await?;
            sorted(answer)
        })
    }

    /// The hosts of the service `name`; the first caller starts the resolving. It ends with the last holder.
    pub fn services(&self, name: &str) -> Arc<Services> {
        self.kept(&self.services, name, |names, name| async move {
            let (records, ttl) = names.bounded(names.resolver.resolve_service(&name)).await?;
            let hosts = names.hosts_of(records);
            if hosts.is_empty() {
                return Err(Unresolved::Nothing { ttl: Some(ttl) });
            }
            // A host that is new is found before it takes the place of another, so that nothing is lost meanwhile.
            let found = async {
                for host in &hosts {
                    host.addresses.settled().await;
                }
            };
            let _ = tokio::time::timeout(HOSTS_TIME_MAX, found).await;
            Ok((hosts, ttl))
        })
    }

    /// Waits until every name in use was looked up once, well or badly.
    pub async fn settled(&self) {
        for service in held(&self.services) {
            service.settled().await;
        }
        for host in held(&self.hosts) {
            host.settled().await;
        }
    }

    fn hosts_of(&self, mut records: Vec<ServiceRecord>) -> Vec<ServiceHost> {
        records.sort_unstable();
        records.dedup();
        records.truncate(SERVICE_HOSTS_MAX);
        let host = |record: ServiceRecord| ServiceHost {
            addresses: self.addresses(&record.host),
            port: record.port,
            priority: record.priority,
            weight: record.weight,
        };
        records.into_iter().map(host).collect()
    }

    /// One of few lookups at a time, and none for ever.
    async fn bounded<T>(&self, lookup: impl Future<Output = Result<T, Unresolved>>) -> Result<T, Unresolved> {
        // It is never closed; and if it were, nothing would be bounded but the lookup itself.
        let _permit = self.lookups.acquire().await;
        let result = tokio::time::timeout(LOOKUP_TIME_MAX, lookup).await;
        result.unwrap_or_else(|_| Err("the resolver does not answer".to_owned().into()))
    }

    fn kept<T, F>(
        &self,
        all: &ByName<T>,
        name: &str,
        ask: impl Fn(Names, String) -> F + Send + 'static,
    ) -> Arc<Kept<T>>
    where
        T: Default + PartialEq + Send + Sync + 'static,
        F: Future<Output = Result<(T, Duration), Unresolved>> + Send + 'static,
    {
        let name = name.to_ascii_lowercase();
        let mut by_name = all.lock().unwrap_or_else(PoisonError::into_inner);
        by_name.retain(|_, kept| kept.strong_count() > 0);
        if let Some(kept) = by_name.get(&name).and_then(Weak::upgrade) {
            return kept;
        }
        let shared = Arc::new(Shared {
            name: name.clone(),
            current: ArcSwap::default(),
            settled: tokio::sync::watch::Sender::new(false),
        });
        let keeping = keep(Arc::clone(&shared), self.clone(), ask);
        let task = AbortOnDrop(self.runtime.spawn(keeping));
        let kept = Arc::new(Kept { shared, _task: task });
        by_name.insert(name, Arc::downgrade(&kept));
        kept
    }
}

fn held<T>(all: &ByName<T>) -> Vec<Arc<Kept<T>>> {
    let by_name = all.lock().unwrap_or_else(PoisonError::into_inner);
    by_name.values().filter_map(Weak::upgrade).collect()
}

fn sorted(answer: Answer) -> Result<(Found, Duration), Unresolved> {
    let Answer { mut addresses, ttl, local } = answer;
    if addresses.is_empty() {
        return Err(Unresolved::Nothing { ttl: None });
    }
    addresses.sort_unstable();
    addresses.dedup();
    addresses.truncate(ADDRESSES_MAX);
    Ok((Found { addresses, local }, ttl))
}

async fn keep<T, F>(shared: Arc<Shared<T>>, names: Names, ask: impl Fn(Names, String) -> F)
where
    T: Default + PartialEq,
    F: Future<Output = Result<(T, Duration), Unresolved>>,
{
    let mut upkeep = Upkeep::default();
    let mut jitter = Jitter::default();
    loop {
        let (decision, news, why) = match ask(names.clone(), shared.name.clone()).await {
            Ok((found, ttl)) => (upkeep.found(ttl), Some(found), String::new()),
            Err(unresolved) => {
                let why = unresolved.to_string();
                let decision = match unresolved {
                    Unresolved::Nothing { ttl } => upkeep.nothing(ttl, Instant::now()),
                    Unresolved::Failed(_) => upkeep.failed(),
                };
                let news = (decision.tell == Some(Tell::Empty)).then(T::default);
                (decision, news, why)
            }
        };
        if let Some(news) = news.filter(|news| **shared.current.load() != *news) {
            shared.current.store(Arc::new(news));
            (names.on_change)();
        }
        // Who reads that it is so finds it so.
        match decision.tell {
            Some(Tell::Recovered) => Line::info(DNS_RECOVERED).with("name", &shared.name).emit(),
            Some(Tell::Failing) => {
                Line::warn(DNS_FAILED).with("name", &shared.name).with("why", why).emit();
            }
            Some(Tell::Empty) => Line::error(DNS_EMPTY).with("name", &shared.name).with("why", why).emit(),
            None => {}
        }
        shared.settled.send_replace(true);
        tokio::time::sleep(decision.pause - jitter.up_to(decision.pause / 10)).await;
    }
}

/// What is known of one name. Answers and time in, decisions out; no clock, no socket.
#[derive(Debug, Default)]
struct Upkeep {
    /// There was an answer, and it has not been given up.
    known: bool,
    /// Failures in a row.
    failures: u32,
    /// Since when it is said to have nothing.
    nothing_since: Option<Instant>,
}

/// What the operator is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tell {
    /// It is well again.
    Recovered,
    /// The first of several looks that came to nothing.
    Failing,
    /// What was known is given up.
    Empty,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Decision {
    tell: Option<Tell>,
    /// When to ask again, before chance takes up to a tenth off it.
    pause: Duration,
}

impl Upkeep {
    fn is_troubled(&self) -> bool {
        self.failures > 0 || self.nothing_since.is_some()
    }

    fn found(&mut self, ttl: Duration) -> Decision {
        let tell = self.is_troubled().then_some(Tell::Recovered);
        *self = Upkeep { known: true, failures: 0, nothing_since: None };
        Decision { tell, pause: ttl.clamp(TTL_MIN, TTL_MAX) }
    }

    fn nothing(&mut self, ttl: Option<Duration>, now: Instant) -> Decision {
        let mut tell = (!self.is_troubled()).then_some(Tell::Failing);
        let since = *self.nothing_since.get_or_insert(now);
        self.failures = 0;
        if self.known && now.saturating_duration_since(since) >= EMPTY_AFTER {
            self.known = false;
            tell = Some(Tell::Empty);
        }
        Decision { tell, pause: ttl.unwrap_or(NEGATIVE).clamp(TTL_MIN, NEGATIVE_MAX) }
    }

    /// The resolver's failure says nothing of the name: what it said before stands, "nothing" too.
    fn failed(&mut self) -> Decision {
        let tell = (!self.is_troubled()).then_some(Tell::Failing);
        self.failures = self.failures.saturating_add(1);
        Decision { tell, pause: retry_pause(self.failures) }
    }
}

fn retry_pause(failures: u32) -> Duration {
    RETRY_MIN.saturating_mul(1 << failures.saturating_sub(1).min(5)).min(RETRY_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn the_pause_after_failures_doubles_up_to_its_bound() {
        let pauses: Vec<u64> = (1..9).map(|failures| retry_pause(failures).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
        assert_eq!(retry_pause(u32::MAX), RETRY_MAX);
    }

    #[test]
    fn an_answer_counts_for_its_ttl_within_bounds() {
        let mut upkeep = Upkeep::default();
        for (ttl, pause) in [(0, 1), (1, 1), (60, 60), (3_600, 3_600), (86_400, 3_600)] {
            assert_eq!(upkeep.found(S * ttl), Decision { tell: None, pause: S * pause });
        }
    }

    #[test]
    fn a_resolver_that_is_down_for_an_hour_takes_nothing_away_and_is_told_once() {
        let mut upkeep = Upkeep::default();
        upkeep.found(S);
        let (mut passed, mut told) = (Duration::ZERO, Vec::new());
        while passed < S * 3_600 {
            let decision = upkeep.failed();
            told.extend(decision.tell);
            passed += decision.pause;
        }
        assert_eq!(told, [Tell::Failing]);
        assert!(upkeep.known);
        assert_eq!(upkeep.found(S).tell, Some(Tell::Recovered));
    }

    #[test]
    fn nothing_counts_as_its_soa_says_and_is_believed_after_its_time() {
        let start = Instant::now();
        let mut upkeep = Upkeep::default();
        upkeep.found(S);
        let first = upkeep.nothing(Some(S * 30), start);
        assert_eq!(first, Decision { tell: Some(Tell::Failing), pause: S * 30 });
        let just_before = start + EMPTY_AFTER - Duration::from_millis(1);
        assert_eq!(
            upkeep.nothing(Some(S * 7_200), just_before),
            Decision { tell: None, pause: NEGATIVE_MAX }
        );
        assert_eq!(upkeep.nothing(Some(S * 30), start + EMPTY_AFTER).tell, Some(Tell::Empty));
        assert!(!upkeep.known);
        assert_eq!(upkeep.nothing(None, start + EMPTY_AFTER * 2), Decision { tell: None, pause: NEGATIVE });
        assert_eq!(upkeep.found(S).tell, Some(Tell::Recovered));
    }

    #[test]
    fn failures_between_two_answers_of_nothing_do_not_make_it_something() {
        let start = Instant::now();
        let mut upkeep = Upkeep::default();
        upkeep.found(S);
        upkeep.nothing(None, start);
        assert_eq!(upkeep.failed().tell, None);
        assert_eq!(upkeep.nothing(None, start + EMPTY_AFTER).tell, Some(Tell::Empty));
        // A name that never had anything has nothing to lose.
        let mut upkeep = Upkeep::default();
        assert_eq!(upkeep.nothing(None, start).tell, Some(Tell::Failing));
        assert_eq!(upkeep.nothing(None, start + EMPTY_AFTER * 2).tell, None);
    }
}
