//! Who the members of an upstream are: made from the targets as they are written, again whenever a name resolves
//! otherwise.
//!
//! Called by the control thread only ([`crate::control::membership`]), one call at a time; data threads read the result
//! ([`super::Upstream::members`]) and notice by its generation that it is another.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::control::{dns, exchange, health};
use crate::http::Reason;
use crate::observe::TargetId;
use crate::sys::address::Address;
use crate::tls::ClientProfile;
use crate::upstream::Balance;
use crate::upstream::connect::UPSTREAM_UNRESOLVED;
use crate::upstream::maglev::Maglev;
use crate::upstream::member::{Member, MemberKey};

/// The most members of one upstream; those beyond are left out.
pub const MEMBERS_MAX: usize = 1_024;

/// A target as it is written: one member, or as many as its name has addresses.
#[derive(Debug)]
pub struct Origin {
    /// The URL as written.
    pub name: Box<str>,
    /// Where its members come from.
    pub whence: Whence,
    /// `host[:port]` for the `Host` field where the client's is not kept.
    pub authority: Box<str>,
    /// How it is spoken to under TLS; `None` is plain HTTP.
    pub tls: Option<Arc<ClientProfile>>,
    /// Tells apart whom it is trusted by; 0 is plain HTTP.
    pub trust: u64,
    /// Its share of the requests beside that of the others; 1 to 1000.
    pub weight: u16,
    /// Its members get requests only when those of lower numbers are all down.
    pub priority: u8,
}

/// Where members come from.
pub enum Whence {
    /// One at an address.
    Fixed(Address),
    /// One at each address that a name points to now; the port.
    Named(Arc<dns::Addresses>, u16),
    /// Nobody resolves the name: a configuration that is only checked.
    Nowhere,
}

impl std::fmt::Debug for Whence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Whence::Fixed(address) => write!(f, "{address}"),
            Whence::Named(addresses, port) => write!(f, "{}:{port}", addresses.name()),
            Whence::Nowhere => f.write_str("nowhere"),
        }
    }
}

/// How members are probed.
#[derive(Clone)]
pub struct Prober {
    /// Who probes.
    pub health: health::Health,
    /// The path.
    pub path: Box<str>,
    /// From one probe to the next.
    pub every: Duration,
}

/// A member in its place among the others of one upstream.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Who sits there.
    pub member: Arc<Member>,
    /// Its share of the requests beside that of the others.
    pub weight: u16,
    /// It gets requests only when those of lower numbers are all down.
    pub priority: u8,
    /// The same for all addresses of one host, and only for those.
    pub host: u32,
}

/// All members of an upstream, as of now.
#[derive(Debug, Default)]
pub struct Members {
    /// Those that requests may go to, by priority, in the order of the configuration.
    pub seats: Vec<Seat>,
    /// Whether a name of it has no addresses (yet).
    pub unresolved: bool,
    /// Where members are chosen by a key: which one is whose.
    pub maglev: Maglev,
    weighted: bool,
}

impl Members {
    /// Makes them from what `origins` say now. Those that `before` has, they keep.
    pub fn of(
        upstream: &str,
        origins: &[Origin],
        prober: Option<&Prober>,
        balance: Balance,
        before: &Members,
    ) -> Members {
        let mut members = Members::default();
        for (host, origin) in (0..).zip(origins) {
            let mut seat = |key: MemberKey| {
                if members.seats.len() >= MEMBERS_MAX
                    || members.seats.iter().any(|seat| seat.member.key == key)
                {
                    return;
                }
                let known = before.seats.iter().find(|seat| seat.member.key == key);
                let member = match known {
                    Some(seat) => Arc::clone(&seat.member),
                    None => {
                        let health = prober.map(|prober| prober.probe(upstream, origin, &key.address));
                        Arc::new(Member::new(key, origin.tls.clone(), health))
                    }
                };
                members.seats.push(Seat { member, weight: origin.weight, priority: origin.priority, host });
            };
            match &origin.whence {
                Whence::Fixed(address) => seat(origin.key(&origin.name, address.clone(), prober)),
                Whence::Named(addresses, port) => {
                    let current = addresses.current();
                    for address in current.iter() {
                        let at = SocketAddr::new(*address, *port);
                        seat(origin.key(&origin.name_at(*address, *port), at.into(), prober));
                    }
                    members.unresolved |= current.is_empty();
                }
                Whence::Nowhere => members.unresolved = true,
            }
        }
        members.seats.sort_by_key(|seat| seat.priority);
        members.weighted = members.seats.windows(2).any(|pair| pair[0].weight != pair[1].weight);
        if balance == Balance::Hash {
            members.maglev = Maglev::new(members.seats.iter().map(|seat| (seat.member.name(), seat.weight)));
        }
        members
    }

    /// Why there are none, where that is the fault of names.
    pub fn absence(&self) -> Option<Reason> {
        self.unresolved.then_some(UPSTREAM_UNRESOLVED)
    }

    /// The share of a member among the others.
    pub fn weight(&self, index: usize, _now_ms: u64) -> u32 {
        self.seats.get(index).map_or(1, |seat| u32::from(seat.weight).max(1))
    }

    /// Whether their shares differ.
    pub fn is_weighted(&self, _now_ms: u64) -> bool {
        self.weighted
    }

    /// Whether these are the same as `other`, in the same places.
    pub fn is(&self, other: &Members) -> bool {
        let same = |(one, two): (&Seat, &Seat)| {
            Arc::ptr_eq(&one.member, &two.member) && one.weight == two.weight && one.priority == two.priority
        };
        self.unresolved == other.unresolved
            && self.seats.len() == other.seats.len()
            && self.seats.iter().zip(&other.seats).all(same)
    }
}

impl Origin {
    fn key(&self, name: &str, address: Address, prober: Option<&Prober>) -> MemberKey {
        MemberKey {
            name: name.into(),
            address,
            authority: self.authority.clone(),
            trust: self.trust,
            probe: prober.map(|prober| (prober.path.clone(), prober.every.as_millis() as u64)),
        }
    }

    /// A member of a name is called by its address: the others of that name are others.
    fn name_at(&self, address: IpAddr, port: u16) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", SocketAddr::new(address, port))
    }
}

impl Prober {
    /// A probe trusts whom requests trust, and no other.
    fn probe(&self, upstream: &str, origin: &Origin, address: &Address) -> Arc<health::Target> {
        let mut probe =
            health::Probe::new(upstream, address.clone(), &origin.authority, &self.path, self.every);
        let tls = origin.tls.as_ref().map(|profile| {
            probe.tls_identity = origin.trust;
            exchange::TlsTo { config: profile.config(), name: profile.name() }
        });
        self.health.target(probe, tls)
    }
}

/// Gives members the ids that logs and metrics know them by: the upstream's name, their names, in this order.
pub type NameTargets = Arc<dyn Fn(&str, &[String]) -> (Vec<TargetId>, Arc<()>) + Send + Sync>;

/// Gives ids to those of `members` that have none, before anybody can use them.
pub(super) fn name_all(upstream: &str, members: &Members, name: &NameTargets) {
    let unnamed: Vec<&Arc<Member>> =
        members.seats.iter().map(|seat| &seat.member).filter(|member| !member.is_named()).collect();
    if unnamed.is_empty() {
        return;
    }
    let names: Vec<String> = unnamed.iter().map(|member| member.name().to_owned()).collect();
    let (targets, alive) = name(upstream, &names);
    for (member, target) in unnamed.iter().zip(targets) {
        member.name_it(target, Arc::clone(&alive));
    }
}
