//! Forwarding: which member, over which connection.
//!
//! An [`Upstream`] is shared by the cores and outlives reloads that do not change it; what is done with it is per core
//! ([`pool::CoreUpstream`]): idle connections, requests in flight, whose turn it is. What cores share of a member
//! ([`member::Member`]) is touched when a connection is opened or closed, or a request fails.

pub mod adaptive;
pub mod admission;
pub mod balance;
pub mod breaker;
pub mod connect;
pub mod eject;
pub mod maglev;
pub mod member;
pub mod members;
pub mod pool;
pub mod retry;
pub mod slots;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

use crate::accept::proxy_protocol::Version;
use crate::http::Protocols;

use adaptive::Adaptive;
use breaker::Breaker;
use eject::Judge;
pub use member::{Member, MemberKey, Permit};
pub use members::{Members, NameTargets, Origin, Prober, Seat, Whence};
use slots::Slots;

/// How a member is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Each in turn.
    RoundRobin,
    /// The one of two random ones with fewer requests in flight on this core.
    LeastRequest,
    /// The one of two random ones that is expected to answer sooner.
    #[default]
    Ewma,
    /// The same for the same key.
    Hash,
    /// The one that the client's cookie tells.
    Sticky,
}

/// What a choice hangs on.
#[derive(Debug, Default)]
pub enum ChoiceKey {
    /// Nothing.
    #[default]
    None,
    /// The client's address.
    Address,
    /// Who is calling, or the address of those who are nobody.
    Identity,
    /// The canonical path.
    Path,
    /// The value of a field, by its name in lower case, or the address where it is absent.
    Header(Box<[u8]>),
    /// A cookie.
    Cookie(Sticky),
}

/// A cookie that tells a client's member.
pub struct Sticky {
    /// Its name.
    pub cookie: Box<[u8]>,
    /// What the tags of members are made with.
    pub key: ring::hmac::Key,
}

impl std::fmt::Debug for Sticky {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sticky").finish_non_exhaustive()
    }
}

impl Sticky {
    /// What tells a member of `upstream` without telling where it is; never 0.
    fn tag(&self, upstream: &str, member: &str) -> u64 {
        let mut context = ring::hmac::Context::with_key(&self.key);
        context.update(upstream.as_bytes());
        context.update(b"\0");
        context.update(member.as_bytes());
        let tag = context.sign();
        tag.as_ref().first_chunk().map_or(1, |bytes| u64::from_be_bytes(*bytes)).max(1)
    }
}

/// A group of interchangeable servers.
pub struct Upstream {
    /// Unique in this process: cores keep their pools by it.
    pub id: u64,
    /// The name in the configuration.
    pub name: Box<str>,
    /// The targets as written.
    pub origins: Vec<Origin>,
    /// How members are probed, if they are.
    pub prober: Option<Prober>,
    /// How a member is chosen.
    pub balance: Balance,
    /// What the choice hangs on.
    pub key: ChoiceKey,
    /// When a request is sent again.
    pub retry: retry::Settings,
    /// When a member is left out.
    pub eject: eject::Settings,
    /// How long a member that comes in takes to get its whole share, in milliseconds.
    pub slow_start_ms: u64,
    /// How long a request may wait for a place, in milliseconds.
    pub queue_wait_ms: u64,
    /// Its circuit breaker.
    pub breaker: Option<Arc<Breaker>>,
    /// The bound on requests in flight.
    pub slots: Option<Arc<Slots>>,
    /// What finds that bound, where it is not fixed.
    pub adaptive: Option<Arc<Adaptive>>,
    /// Decides who is left out.
    pub judge: Judge,
    /// Timeouts in milliseconds.
    pub timeouts: Timeouts,
    /// Most connections per member, all cores together.
    pub connections_max: u32,
    /// Most idle connections per member, all cores together.
    pub idle_max: usize,
    /// Cores that share it.
    pub cores: usize,
    /// How it is told whose a request is.
    pub introduction: Introduction,
    /// What may be spoken to it: one, or by ALPN either.
    pub protocols: Protocols,
    members: ArcSwap<Members>,
    generation: AtomicU64,
}

impl std::fmt::Debug for Upstream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Upstream").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Timeouts of connections to an upstream, in milliseconds; those of an exchange are its operation's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Connecting, TLS included. Default 2 s.
    pub connect: u64,
    /// A kept connection without a request. Default 50 s.
    pub idle: u64,
    /// A connection that is older serves no further request. Default 1 h.
    pub age: u64,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { connect: 2_000, idle: 50_000, age: 3_600_000 }
    }
}

/// How an upstream is told whose a request is, beside `X-Forwarded-*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Introduction {
    /// Connections begin with a PROXY header of this version, and serve one client each.
    pub proxy: Option<Version>,
    /// `Forwarded` (RFC 7239) is sent as well.
    pub forwarded: bool,
}

/// What an upstream is made of, beside its members.
pub struct Parts {
    /// The name in the configuration.
    pub name: Box<str>,
    /// The targets as written.
    pub origins: Vec<Origin>,
    /// How members are probed, if they are.
    pub prober: Option<Prober>,
    /// How a member is chosen.
    pub balance: Balance,
    /// What the choice hangs on.
    pub key: ChoiceKey,
    /// When a request is sent again.
    pub retry: retry::Settings,
    /// When a member is left out.
    pub eject: eject::Settings,
    /// How long a member that comes in takes to get its whole share, in milliseconds.
    pub slow_start_ms: u64,
    /// How long a request may wait for a place, in milliseconds.
    pub queue_wait_ms: u64,
    /// When the breaker opens, if there is one.
    pub breaker: Option<breaker::Settings>,
    /// The bound on requests in flight, if there is one.
    pub requests: Option<Requests>,
    /// Requests that may wait for a place.
    pub queue_max: u32,
    /// Timeouts in milliseconds.
    pub timeouts: Timeouts,
    /// Most connections per member, all cores together.
    pub connections_max: u32,
    /// Most idle connections per member, all cores together.
    pub idle_max: usize,
    /// Cores that share it; at least 1.
    pub cores: usize,
    /// How it is told whose a request is.
    pub introduction: Introduction,
    /// What may be spoken to it: one, or by ALPN either.
    pub protocols: Protocols,
}

impl Parts {
    fn choosing(&self) -> Choosing<'_> {
        Choosing { balance: self.balance, key: &self.key, slow_start_ms: self.slow_start_ms }
    }

    /// Those of an upstream of one core that has no members and nothing set.
    #[cfg(test)]
    fn bare() -> Parts {
        Parts {
            name: "a".into(),
            origins: Vec::new(),
            prober: None,
            balance: Balance::default(),
            key: ChoiceKey::default(),
            retry: Default::default(),
            eject: Default::default(),
            slow_start_ms: 0,
            queue_wait_ms: 0,
            breaker: None,
            requests: None,
            queue_max: 0,
            timeouts: Timeouts::default(),
            connections_max: 1_024,
            idle_max: 1,
            cores: 1,
            introduction: Introduction::default(),
            protocols: Protocols::HTTP1,
        }
    }
}

/// How a member is chosen, and what that hangs on.
#[derive(Clone, Copy)]
pub struct Choosing<'a> {
    balance: Balance,
    key: &'a ChoiceKey,
    slow_start_ms: u64,
}

/// A bound on requests in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requests {
    /// So many.
    AtMost(u32),
    /// As many as the upstream can work on.
    Adaptive,
}

/// Numbers the upstreams of this process.
static NEXT: AtomicU64 = AtomicU64::new(1);

impl Upstream {
    /// An upstream with the members that its targets have now. What `before` (the upstream of this name until now) knows of
    /// members that are still the same is not lost.
    pub fn new(parts: Parts, before: Option<&Upstream>) -> Upstream {
        let none = Arc::default();
        let known = before.map_or(none, Upstream::members);
        let members =
            Members::of(&parts.name, &parts.origins, parts.prober.as_ref(), &parts.choosing(), &known);
        let is_adaptive = parts.requests == Some(Requests::Adaptive);
        let adaptive = is_adaptive.then(|| {
            before.and_then(|before| before.adaptive.clone()).unwrap_or_else(|| Arc::new(Adaptive::new()))
        });
        // What is in flight stays counted, whatever the bound is from now on.
        let slots = parts.requests.map(|requests| {
            let known = before.and_then(|before| before.slots.clone());
            let slots = known.unwrap_or_else(|| Arc::new(Slots::new(adaptive::LIMIT_START, 0)));
            slots.set_waiting_max(parts.queue_max);
            match requests {
                Requests::AtMost(limit) => slots.set_limit(limit),
                Requests::Adaptive if before.is_none_or(|before| before.adaptive.is_none()) => {
                    slots.set_limit(adaptive::LIMIT_START);
                }
                Requests::Adaptive => {}
            }
            slots
        });
        let breaker = parts.breaker.map(|settings| {
            let known = before.and_then(|before| before.breaker.clone());
            known.filter(|known| known.is(&settings)).unwrap_or_else(|| Arc::new(Breaker::new(settings)))
        });
        Upstream {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name: parts.name,
            origins: parts.origins,
            prober: parts.prober,
            balance: parts.balance,
            key: parts.key,
            retry: parts.retry,
            eject: parts.eject,
            slow_start_ms: parts.slow_start_ms,
            queue_wait_ms: parts.queue_wait_ms,
            breaker,
            slots,
            adaptive,
            judge: Judge::default(),
            timeouts: parts.timeouts,
            connections_max: parts.connections_max,
            idle_max: parts.idle_max,
            cores: parts.cores.max(1),
            introduction: parts.introduction,
            protocols: parts.protocols,
            members: ArcSwap::from_pointee(members),
            generation: AtomicU64::new(1),
        }
    }

    fn choosing(&self) -> Choosing<'_> {
        Choosing { balance: self.balance, key: &self.key, slow_start_ms: self.slow_start_ms }
    }

    /// Of the idle connections per member, those that are this core's: the shares of all cores are the whole. Where there are
    /// fewer than cores, some keep none: a count that cores share would be one more contended word per request.
    pub fn idle_share(&self, core: usize) -> usize {
        self.idle_max / self.cores + usize::from(core < self.idle_max % self.cores)
    }

    /// A request to `member` went wrong. Whether it is left out from now on for it.
    #[cold]
    pub fn failed(&self, member: &Member, now_ms: u64) -> bool {
        self.judge.failed(&member.record, &self.members(), &self.eject, now_ms)
    }

    /// Its members, as of now.
    pub fn members(&self) -> Arc<Members> {
        self.members.load_full()
    }

    /// Whether what the files of its targets hold now is in force; `None` if it has no such file.
    pub fn files_are_valid(&self) -> Option<bool> {
        let files = self.origins.iter().filter_map(|origin| match &origin.whence {
            Whence::File(file) => Some(file.is_valid()),
            _ => None,
        });
        files.reduce(|one, two| one && two)
    }

    /// Counts up whenever the members are others. One load.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Looks anew who the members are. Called by [`crate::control::membership`] only, one call at a time. Whether anything
    /// changed.
    pub(crate) fn refresh(&self, name: &NameTargets) -> bool {
        let before = self.members();
        let members = Members::of(&self.name, &self.origins, self.prober.as_ref(), &self.choosing(), &before);
        members::name_all(&self.name, &members, name);
        if members.is(&before) {
            return false;
        }
        self.members.store(Arc::new(members));
        // After the members: who sees the new number sees them too.
        self.generation.fetch_add(1, Ordering::Release);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(idle_max: usize, cores: usize) -> Upstream {
        Upstream::new(Parts { idle_max, cores, ..Parts::bare() }, None)
    }

    #[test]
    fn idle_connections_of_all_cores_are_what_is_configured_however_many_cores_there_are() {
        for idle_max in [0, 1, 2, 3, 7, 8, 9, 255, 256, 65_535] {
            for cores in [1, 2, 3, 8, 64, 256] {
                let upstream = upstream(idle_max, cores);
                let shares: Vec<usize> = (0..cores).map(|core| upstream.idle_share(core)).collect();
                assert_eq!(shares.iter().sum::<usize>(), idle_max, "{idle_max} over {cores}");
                let (most, least) = (shares.iter().max(), shares.iter().min());
                assert!(most <= least.map(|least| least + 1).as_ref(), "{shares:?}");
            }
        }
        assert_eq!(upstream(5, 0).idle_share(0), 5, "nobody said how many");
    }
}
