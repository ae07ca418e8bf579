//! Who the members of an upstream are: made from the targets as they are written, again whenever a name resolves
//! otherwise.
//!
//! Called by the control thread only ([`crate::control::membership`]), one call at a time; data threads read the result
//! ([`super::Upstream::members`]) and notice by its generation that it is another.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::control::address_guard::{self, AddressGuard, AddressKind, is_private_name};
use crate::control::names::{Addresses, Found, ServiceHost, Services};
use crate::control::process_log::{Code, Line};
use crate::control::targets_file::TargetsFile;
use crate::control::{exchange, health};
use crate::http::{Protocol, Protocols, Reason};
use crate::observe::TargetId;
use crate::sys::address::Address;
use crate::tls::ClientProfile;
use crate::upstream::connect::{UPSTREAM_ADDRESS, UPSTREAM_UNRESOLVED};
use crate::upstream::maglev::Maglev;
use crate::upstream::member::{Member, MemberKey};
use crate::upstream::{Balance, ChoiceKey, Choosing};

/// The most members of one upstream; those beyond are left out.
pub const MEMBERS_MAX: usize = 1_024;
/// The greatest share that the weights of a service (RFC 2782) come to.
const SHARE_MAX: f64 = 1_000.0;
/// The greatest weight of a member: that of a file, that of a target in it, and that of a host of its service, 1,000 each.
pub const WEIGHT_MAX: u32 = 1_000_000_000;

/// A name leads to an address that no member of the upstream may have.
pub const ADDRESS_REFUSED: Code = Code::new(6111, "a name leads to an address that is refused");

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
    /// What may be spoken to it.
    pub protocols: Protocols,
    /// Its share of the requests beside that of the others; 1 to 1000.
    pub weight: u16,
    /// Its members get requests only when those of lower numbers are all down.
    pub priority: u8,
    /// Where its names may lead.
    pub guard: Arc<AddressGuard>,
}

/// Where members come from.
pub enum Whence {
    /// One at an address.
    Fixed(Address),
    /// One at each address that a name points to now; the port.
    Named(Arc<Addresses>, u16),
    /// One at each address of each host of a service.
    Service(Arc<Services>),
    /// Those of the targets in a file.
    File(Arc<TargetsFile>),
    /// Nobody resolves the name: a configuration that is only checked.
    Nowhere,
}

impl std::fmt::Debug for Whence {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Whence::Fixed(address) => write!(f, "{address}"),
            Whence::Named(addresses, port) => write!(f, "{}:{port}", addresses.name()),
            Whence::Service(services) => f.write_str(services.name()),
            Whence::File(file) => write!(f, "{}", file.path().display()),
            Whence::Nowhere => f.write_str("nowhere"),
        }
    }
}

/// How members are probed.
#[derive(Clone)]
pub struct Prober {
    /// Who probes.
    pub health: health::Health,
    /// How.
    pub plan: Arc<health::Plan>,
}

/// A member in its place among the others of one upstream.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Who sits there.
    pub member: Arc<Member>,
    /// Its share of the requests beside that of the others; at most [`WEIGHT_MAX`].
    pub weight: u32,
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
    /// Where members are chosen by a cookie: the tag of each.
    pub tags: Box<[u64]>,
    weighted: bool,
    slow_start_ms: u64,
    /// Addresses that names lead to and that nobody goes to.
    refused: Vec<Refused>,
}

/// An address that a name leads to and may not.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refused {
    name: String,
    address: IpAddr,
    kind: AddressKind,
}

impl Members {
    /// Makes them from what `origins` say now. Those that `before` has, they keep.
    pub fn of(
        upstream: &str,
        origins: &[Origin],
        prober: Option<&Prober>,
        choosing: &Choosing<'_>,
        before: &Members,
    ) -> Members {
        let known: HashMap<&MemberKey, &Arc<Member>> =
            before.seats.iter().map(|seat| (&seat.member.key, &seat.member)).collect();
        let mut gathering = Gathering {
            upstream,
            prober,
            taken: HashSet::new(),
            drafts: Vec::new(),
            host: 0,
            members: Members::default(),
        };
        for origin in origins {
            gathering.origin(origin, 1, 0);
        }
        let mut members = gathering.seated(&known);
        // Each is told when it comes up, and not again for as long as it stays.
        for refused in members.refused.iter().filter(|refused| !before.refused.contains(refused)) {
            Line::error(ADDRESS_REFUSED)
                .with("upstream", upstream)
                .with("name", &refused.name)
                .with("address", refused.address)
                .with("kind", refused.kind)
                .emit();
        }
        members.seats.sort_by_key(|seat| seat.priority);
        members.slow_start_ms = choosing.slow_start_ms;
        members.weighted = members.seats.windows(2).any(|pair| pair[0].weight != pair[1].weight);
        if let ChoiceKey::Cookie(sticky) = choosing.key {
            members.tags =
                members.seats.iter().map(|seat| sticky.tag(upstream, seat.member.name())).collect();
        }
        if choosing.balance == Balance::Hash {
            members.maglev = Maglev::new(members.seats.iter().map(|seat| (seat.member.name(), seat.weight)));
        }
        members
    }

    /// Why there are none, where that is the fault of names.
    pub fn absence(&self) -> Option<Reason> {
        match self.refused.as_slice() {
            [] => self.unresolved.then_some(UPSTREAM_UNRESOLVED),
            _ => Some(UPSTREAM_ADDRESS),
        }
    }

    /// The share of a member among the others, in hundredths.
    pub fn weight(&self, index: usize, now_ms: u64) -> u64 {
        let Some(seat) = self.seats.get(index) else { return 100 };
        let warmth = match self.slow_start_ms {
            0 => 100,
            slow_start_ms => seat.member.record.warmth_percent(slow_start_ms, now_ms),
        };
        u64::from(seat.weight.clamp(1, WEIGHT_MAX)) * u64::from(warmth)
    }

    /// Whether their shares differ, or may.
    pub fn is_weighted(&self) -> bool {
        self.weighted || self.slow_start_ms > 0
    }

    /// Whether these are the same as `other`, in the same places.
    pub fn is(&self, other: &Members) -> bool {
        let same = |(one, two): (&Seat, &Seat)| {
            Arc::ptr_eq(&one.member, &two.member) && one.weight == two.weight && one.priority == two.priority
        };
        self.unresolved == other.unresolved
            && self.refused == other.refused
            && self.seats.len() == other.seats.len()
            && self.seats.iter().zip(&other.seats).all(same)
    }
}

/// A seat, before anybody sits there.
struct Draft {
    key: MemberKey,
    tls: Option<Arc<ClientProfile>>,
    weight: u32,
    priority: u8,
    host: u32,
}

/// Members in the making.
struct Gathering<'a> {
    upstream: &'a str,
    prober: Option<&'a Prober>,
    taken: HashSet<MemberKey>,
    drafts: Vec<Draft>,
    /// The number of the host that seats are made for.
    host: u32,
    members: Members,
}

impl Gathering<'_> {
    /// Of a file the weight counts for all that is in it, and so does the priority.
    fn origin(&mut self, origin: &Origin, weight: u32, priority: u8) {
        self.host += 1;
        let weight = weight.saturating_mul(u32::from(origin.weight));
        let priority = priority.saturating_add(origin.priority);
        match &origin.whence {
            Whence::Fixed(address) => {
                self.seat(origin, &origin.name, address.clone(), weight, priority);
            }
            Whence::Named(addresses, port) => {
                let found = addresses.current();
                let private = found.local || is_private_name(addresses.name());
                let at = self.admitted(origin, addresses.name(), &found, private);
                self.addresses(origin, &at, *port, weight, priority);
            }
            Whence::Service(services) => self.service(origin, services, weight, priority),
            Whence::File(file) => {
                for origin in file.current().iter() {
                    self.origin(origin, weight, priority);
                }
            }
            Whence::Nowhere => self.members.unresolved = true,
        }
    }

    /// RFC 2782: those of the lowest number are contacted first, within it by weight.
    fn service(&mut self, origin: &Origin, services: &Services, weight: u32, priority: u8) {
        let hosts = services.current();
        self.members.unresolved |= hosts.is_empty();
        let mut rank = priority;
        for level in hosts.chunk_by(|one, two| one.priority == two.priority) {
            let found: Vec<(&ServiceHost, Vec<IpAddr>)> = level
                .iter()
                .map(|host| {
                    let (name, found) = (host.addresses.name(), host.addresses.current());
                    // The record may come from anywhere: both names must be the site's own.
                    let own = found.local || is_private_name(name);
                    let private = own && is_private_name(services.name());
                    (host, self.admitted(origin, name, &found, private))
                })
                .collect();
            let shares = shares(found.iter().map(|(host, at)| (host.weight, at.len())));
            for ((host, at), share) in found.iter().zip(shares) {
                self.host += 1;
                self.addresses(origin, at, host.port, weight.saturating_mul(u32::from(share)), rank);
            }
            rank = rank.saturating_add(1);
        }
    }

    /// The addresses of a name that its members may have.
    fn admitted(&mut self, origin: &Origin, name: &str, found: &Found, private: bool) -> Vec<IpAddr> {
        self.members.unresolved |= found.addresses.is_empty();
        let by = if private { address_guard::Origin::Written } else { address_guard::Origin::Found };
        let mut admitted = Vec::with_capacity(found.addresses.len());
        for &address in &found.addresses {
            match origin.guard.admit(address, by) {
                Ok(()) => admitted.push(address),
                Err(kind) => self.members.refused.push(Refused { name: name.to_owned(), address, kind }),
            }
        }
        interleaved(&admitted)
    }

    fn addresses(&mut self, origin: &Origin, at: &[IpAddr], port: u16, weight: u32, priority: u8) {
        for &ip in at {
            let at = SocketAddr::new(ip, port);
            self.seat(origin, &origin.name_at(at), at.into(), weight, priority);
        }
    }

    fn seat(&mut self, origin: &Origin, name: &str, address: Address, weight: u32, priority: u8) {
        let key = origin.key(name, address, self.prober);
        if self.drafts.len() < MEMBERS_MAX && self.taken.insert(key.clone()) {
            let (tls, host) = (origin.tls.clone(), self.host);
            self.drafts.push(Draft { key, tls, weight, priority, host });
        }
    }

    /// Those who were there before stay who they are. One who is new is proven first, if somebody else is up meanwhile.
    fn seated(self, known: &HashMap<&MemberKey, &Arc<Member>>) -> Members {
        let mut members = self.members;
        let somebody =
            self.drafts.iter().any(|draft| known.get(&draft.key).is_some_and(|member| member.is_up()));
        let start = if somebody { health::Start::Unproven } else { health::Start::Up };
        for Draft { key, tls, weight, priority, host } in self.drafts {
            let member = match known.get(&key) {
                Some(member) => Arc::clone(member),
                None => {
                    let probe = |prober: &Prober| prober.probe(self.upstream, &key, tls.as_deref(), start);
                    let health = self.prober.map(probe);
                    Arc::new(Member::new(key, tls, health))
                }
            };
            members.seats.push(Seat { member, weight, priority, host });
        }
        members
    }
}

/// RFC 8305 §4: families take turns, IPv6 first.
fn interleaved(addresses: &[IpAddr]) -> Vec<IpAddr> {
    let (six, four): (Vec<IpAddr>, Vec<IpAddr>) = addresses.iter().partition(|address| address.is_ipv6());
    let (mut six, mut four) = (six.into_iter(), four.into_iter());
    let turn = || {
        let pair = [six.next(), four.next()];
        pair.iter().any(Option::is_some).then_some(pair)
    };
    std::iter::from_fn(turn).flatten().flatten().collect()
}

/// The share of each address of hosts with these weights and numbers of addresses, in small whole numbers. RFC 2782: a
/// weight of 0 beside others is a very small chance.
fn shares(hosts: impl Iterator<Item = (u16, usize)>) -> Vec<u16> {
    let hosts: Vec<(u16, usize)> = hosts.collect();
    let least = hosts.iter().map(|(weight, _)| *weight).filter(|weight| *weight > 0).min();
    let exact: Vec<f64> = hosts
        .iter()
        .map(|(weight, addresses)| {
            let weight = match (weight, least) {
                (0, Some(least)) => f64::from(least) / 100.0,
                (0, None) => 1.0,
                (weight, _) => f64::from(*weight),
            };
            weight / (*addresses).max(1) as f64
        })
        .collect();
    let greatest = exact.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let whole: Vec<u16> =
        exact.iter().map(|share| (share * SHARE_MAX / greatest).round().max(1.0) as u16).collect();
    let divisor = whole.iter().copied().fold(0, common_divisor).max(1);
    whole.into_iter().map(|share| share / divisor).collect()
}

fn common_divisor(one: u16, two: u16) -> u16 {
    if two == 0 { one } else { common_divisor(two, one % two) }
}

impl Origin {
    fn key(&self, name: &str, address: Address, prober: Option<&Prober>) -> MemberKey {
        MemberKey {
            name: name.into(),
            address,
            authority: self.authority.clone(),
            trust: self.trust,
            protocols: self.protocols,
            probe: prober.map(|prober| Arc::clone(&prober.plan)),
        }
    }

    /// A member of a name is called by its address: the others of that name are others.
    fn name_at(&self, address: SocketAddr) -> String {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{address}")
    }
}

impl Prober {
    /// A probe trusts whom requests trust, and no other.
    fn probe(
        &self,
        upstream: &str,
        key: &MemberKey,
        tls: Option<&ClientProfile>,
        start: health::Start,
    ) -> Arc<health::Target> {
        let probe = health::Probe {
            upstream: upstream.to_owned(),
            destination: key.address.clone(),
            authority: key.authority.clone().into(),
            plan: Arc::clone(&self.plan),
            tls_identity: key.trust,
        };
        let tls = tls.map(|profile| exchange::TlsTo {
            config: match self.plan.ask {
                // gRPC is asked in HTTP/2, whatever requests are sent in.
                health::Ask::Grpc { .. } => profile.config_for(Protocol::Http2),
                health::Ask::Get { .. } | health::Ask::Tls | health::Ask::Tcp => profile.config(),
            },
            name: profile.name(),
        });
        self.health.target(probe, tls, start)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_take_turns() {
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        let sorted = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "2001:db8::1"].map(ip);
        let turns = ["2001:db8::1", "10.0.0.1", "10.0.0.2", "10.0.0.3"].map(ip);
        assert_eq!(interleaved(&sorted), turns);
        assert_eq!(interleaved(&sorted[..2]), sorted[..2]);
        assert!(interleaved(&[]).is_empty());
    }

    #[test]
    fn weights_of_a_file_and_of_what_is_in_it_are_multiplied_to_the_end() {
        let target = |port: u16, weight| Origin {
            name: format!("http://127.0.0.1:{port}").into(),
            whence: Whence::Fixed(SocketAddr::from(([127, 0, 0, 1], port)).into()),
            authority: "a".into(),
            tls: None,
            trust: 0,
            protocols: Protocols::HTTP1,
            weight,
            priority: 0,
            guard: Arc::default(),
        };
        let mut gathering = Gathering {
            upstream: "a",
            prober: None,
            taken: HashSet::new(),
            drafts: Vec::new(),
            host: 0,
            members: Members::default(),
        };
        // Two in a file of the greatest weight.
        gathering.origin(&target(1, 1_000), 1_000, 0);
        gathering.origin(&target(2, 250), 1_000, 0);
        let members = gathering.seated(&HashMap::new());
        assert_eq!(members.seats[0].weight, 4 * members.seats[1].weight);
        assert_eq!(members.weight(0, 0), 100_000_000);
    }

    #[test]
    fn weights_of_a_service_become_small_shares_of_each_address() {
        let shares = |hosts: &[(u16, usize)]| super::shares(hosts.iter().copied());
        assert_eq!(shares(&[(10, 1), (10, 1)]), [1, 1]);
        assert_eq!(shares(&[(0, 1), (0, 1), (0, 1)]), [1, 1, 1]);
        assert_eq!(shares(&[(75, 1), (25, 1)]), [1000, 333]);
        assert_eq!(shares(&[(20, 1), (10, 1)]), [2, 1]);
        // Two addresses share what one has.
        assert_eq!(shares(&[(5, 2), (5, 1)]), [1, 2]);
        assert_eq!(shares(&[(1, 1), (0, 1)]), [100, 1]);
        assert_eq!(shares(&[(65_535, 1), (1, 1)]), [1000, 1]);
        assert_eq!(shares(&[(7, 0)]), [1]);
        assert!(shares(&[]).is_empty());
    }
}
