//! Forwarding: which member, over which connection.
//!
//! An [`Upstream`] is shared by the cores and outlives reloads that do not change it; what is done with it is per core
//! ([`pool::CoreUpstream`]): idle connections, requests in flight, whose turn it is. What cores share of a member
//! ([`member::Member`]) is touched when a connection is opened or closed, or a request fails.

pub mod balance;
pub mod connect;
pub mod maglev;
pub mod member;
pub mod members;
pub mod pool;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;

pub use member::{Member, MemberKey, Permit};
pub use members::{Members, NameTargets, Origin, Prober, Seat, Whence};

/// How a member is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// The one of two random ones with fewer requests in flight on this core.
    LeastRequest,
    /// The one of two random ones that is expected to answer sooner.
    Ewma,
    /// The same for the same key.
    Hash,
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
    /// Timeouts in milliseconds.
    pub timeouts: Timeouts,
    /// Most connections per member, all cores together.
    pub connections_max: u32,
    /// Most idle connections per member and core.
    pub idle_max: usize,
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
    /// Timeouts in milliseconds.
    pub timeouts: Timeouts,
    /// Most connections per member, all cores together.
    pub connections_max: u32,
    /// Most idle connections per member and core.
    pub idle_max: usize,
}

/// Numbers the upstreams of this process.
static NEXT: AtomicU64 = AtomicU64::new(1);

impl Upstream {
    /// An upstream with the members that its targets have now. What `before` (the upstream of this name until now) knows of
    /// members that are still the same is not lost.
    pub fn new(parts: Parts, before: Option<&Upstream>) -> Upstream {
        let none = Arc::default();
        let known = before.map_or(none, Upstream::members);
        let members = Members::of(&parts.name, &parts.origins, parts.prober.as_ref(), parts.balance, &known);
        Upstream {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name: parts.name,
            origins: parts.origins,
            prober: parts.prober,
            balance: parts.balance,
            timeouts: parts.timeouts,
            connections_max: parts.connections_max,
            idle_max: parts.idle_max,
            members: ArcSwap::from_pointee(members),
            generation: AtomicU64::new(1),
        }
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
        let members = Members::of(&self.name, &self.origins, self.prober.as_ref(), self.balance, &before);
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
