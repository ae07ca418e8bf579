//! `limits`: how often a caller may ask, and how many requests of it may be in flight.
//!
//! # What it does
//! Charges each request one token of every rate that concerns it, and takes a seat of every limit on requests in flight: all,
//! or none and the request is refused. Only what every enforced limit of the same stage admits is charged. Limits that are
//! observed have counters of their own and change nothing.
//!
//! A seat is held until the exchange is over: the last byte of the answer, a client that is gone, an upstream that failed, a
//! deadline, a panic; a policy behind this one that refuses gives it back at once ([`super::seats`]).
//!
//! # Configuration
//! `limits: [{ per: identity, rate: 100/min, burst: 20 }, { per: identity, concurrency: 10 }]`, on an API (shared by its
//! operations, unless counted `per: operation`) or an operation. `per` names what is counted apart, `who` and `do` whom and
//! what the limit concerns.
//!
//! * `identity`: login, issuer and subject. Who has none (`anyone` was admitted) is counted by address.
//! * `address`: IPv4 whole; IPv6 by /64, and its /48 at [`WIDE_FACTOR`] times the rate and burst, or the number in flight,
//!   since one subscriber commonly has a /56 or a /48.
//! * `header:NAME`: the first value; `claim:NAME`: the value of a token's claim that is a text, a number or a boolean (a
//!   NAME that begins with `/` is a JSON Pointer). All requests without one are counted together, so that leaving it out is
//!   no way around the limit.
//! * `operation`, `api`, `all`: one count each.
//!
//! Limits keyed only by address or header, and without `who`, run before the login, so they count failed logins too; the
//! others after `allow`. A limit is known by (api, name or who + per + do + period); its counters survive a reload, also
//! one that changes `rate`, `burst` or `concurrency`: who is in flight stays, and counts.
//!
//! # Answers
//! 429 `rate_exceeded` with `Retry-After`; 429 `concurrency_exceeded` without, as nobody knows when a request ends; nobody
//! waits for a seat. `RateLimit-Policy` on every answer that an enforced limit concerns, `RateLimit` with what is left of
//! rates and of the limit that refused (see [`super::headers`]: a client that obeys is never refused).
//!
//! # Cost
//! One hash of the key and one charge ([`super::table`]) or one seat ([`super::counts`]) a limit, twice that for an IPv6
//! address; no allocation in steady state.
//!
//! # References
//! RFC 6585 §4 (429); RFC 9110 §10.2.3; draft-ietf-httpapi-ratelimit-headers-10; OWASP API4.

use std::net::IpAddr;
use std::sync::Arc;

use crate::config::error::{Code, ConfigError};
use crate::config::model as written;
use crate::config::source::Span;
use crate::http::Reason;
use crate::pipeline::exchange::Exchange;
use crate::policy::identify::LoginId;
use crate::policy::{Compiled, Link, Mode, Policy, Stage, Verdict};
use crate::worker::state::CoreState;

use super::charge::{Demand, Keys, PerCore, Tables, charge_all, read_all};
use super::fingerprint::LimitId;
use super::gcra::{Rate, RateError};
use super::headers::{
    Name, SEPARATOR, write_limit, write_none_left, write_policy, write_policy_in_flight, write_retry_after,
};
use super::table::Charge;

/// Somebody asked more often than a limit admits.
pub const RATE_EXCEEDED: Reason = Reason::client("rate_exceeded", 3201, 429, "Too many requests");
/// Somebody has as many requests in flight as a limit admits.
pub const CONCURRENCY_EXCEEDED: Reason =
    Reason::client("concurrency_exceeded", 3250, 429, "Too many requests at once");

/// A burst that would take decades to come back.
pub const BURST_SPAN: Code = Code::new(1611);
/// More limits concern one operation than are charged together.
pub const TOO_MANY: Code = Code::new(1612);

/// The most limits of one operation, stage and mode.
pub const LIMITS_MAX: usize = 16;

/// How many times a limit's rate and burst, or number in flight, the /48 around an IPv6 address has.
pub const WIDE_FACTOR: u64 = 16;

/// The limits of one operation at one stage and in one mode.
#[derive(Debug)]
pub struct Limits {
    rates: Box<[Limit<Rate>]>,
    /// Those on requests in flight.
    seats: Box<[Limit<Most>]>,
    tables: Arc<Tables>,
}

/// One limit, as it concerns one operation.
#[derive(Debug)]
struct Limit<B> {
    /// What the client is told it is called.
    name: Name,
    /// Its item of `RateLimit-Policy`.
    policy: Box<[u8]>,
    id: LimitId,
    /// Only these logins; empty: everybody.
    who: Box<[LoginId]>,
    per: Box<[Key]>,
    keys: Keys,
    /// Of a key.
    bound: B,
    /// Of the wide network of an IPv6 address.
    wide: B,
}

/// A bound on requests in flight.
type Most = u32;

/// What is counted apart.
#[derive(Debug)]
enum Key {
    Identity,
    Address,
    Header(Box<[u8]>),
    /// By its place among the claims that the logins keep.
    Claim(usize),
    /// The same for every request of the operation.
    Constant(Box<[u8]>),
}

/// The links of an operation's limits: one for each stage and mode, those that are off left out. `login_of` finds a
/// login's number, `claims` are those of [`claims`]; an API that is `raw` is one operation, called like itself, and has no
/// [`written::Operation`].
///
/// # Errors
/// Every limit that cannot be kept: RW-1611, RW-1612.
pub fn links(
    api_name: &str,
    api: &written::Api,
    operation_name: &str,
    operation: Option<&written::Operation>,
    tables: &Arc<Tables>,
    login_of: &dyn Fn(&str) -> Option<LoginId>,
    claims: &[String],
) -> Result<Vec<Link>, Vec<ConfigError>> {
    let own = operation.and_then(|operation| operation.limits.as_ref()).map(|scoped| &scoped.value);
    let of_api = api.limits_of(operation).iter().filter(|limit| match &limit.operations {
        None => true,
        Some(names) => operation.is_some() && names.iter().any(|name| name.value == operation_name),
    });
    let all = of_api
        .map(|limit| (limit, None))
        .chain(own.into_iter().flatten().map(|limit| (limit, Some(operation_name))));
    let mut errors = Vec::new();
    let mut groups: Vec<(Stage, Mode, Group)> = Vec::new();
    for (limit, within) in all {
        let mode = match limit.mode {
            written::Mode::Enforce => Mode::Enforce,
            written::Mode::Observe => Mode::Observe,
            written::Mode::Off => continue,
        };
        let stage = stage_of(limit);
        let known = groups.iter().position(|group| (group.0, group.1) == (stage, mode));
        let place = known.unwrap_or_else(|| {
            groups.push((stage, mode, Group::default()));
            groups.len() - 1
        });
        let group = &mut groups[place].2;
        if group.rates.len() + group.seats.len() == LIMITS_MAX {
            errors.push(
                ConfigError::new(
                    TOO_MANY,
                    format!("more than {LIMITS_MAX} limits concern one operation"),
                    limit.span,
                )
                .fix("merge some, or narrow them with `do`")
                .why("they are charged together, for every request"),
            );
            continue;
        }
        let names = Names { api: api_name, operation: operation_name, within, login_of, claims };
        match &limit.bound {
            written::Bound::Frequency(frequency) => match rates(frequency) {
                Ok(bounds) => group.rates.push(Limit::compile(limit, mode, &names, bounds, write_policy)),
                Err(error) => errors.push(error),
            },
            written::Bound::Concurrency(most) => {
                let most = u32::try_from(most.value).unwrap_or(u32::MAX);
                let bounds = (most, most.saturating_mul(WIDE_FACTOR as u32));
                let write =
                    |out: &mut Vec<u8>, name: &Name, most: &Most| write_policy_in_flight(out, name, *most);
                group.seats.push(Limit::compile(limit, mode, &names, bounds, write));
            }
        }
    }
    if !errors.is_empty() {
        return Err(errors);
    }
    let link = |(stage, mode, group): (Stage, Mode, Group)| Link {
        stage,
        mode,
        policy: Compiled::Limits(Limits {
            rates: group.rates.into(),
            seats: group.seats.into(),
            tables: Arc::clone(tables),
        }),
    };
    Ok(groups.into_iter().map(link).collect())
}

/// The limits of one stage and mode.
#[derive(Default)]
struct Group {
    rates: Vec<Limit<Rate>>,
    seats: Vec<Limit<Most>>,
}

/// What a limit's names mean where it stands.
struct Names<'a> {
    api: &'a str,
    operation: &'a str,
    /// The operation that the limit stands in, if it stands in one.
    within: Option<&'a str>,
    login_of: &'a dyn Fn(&str) -> Option<LoginId>,
    claims: &'a [String],
}

/// The rate of a key, and that of the wide network of an IPv6 address.
fn rates(frequency: &written::Frequency) -> Result<(Rate, Rate), ConfigError> {
    let (count, period_ns, burst) =
        (frequency.rate.value.count, frequency.rate.value.period.nanos(), frequency.burst_in_force());
    let too_slow =
        |_: RateError| burst_span(frequency.burst.as_ref().map_or(frequency.rate.span, |burst| burst.span));
    narrow_and_wide(count, period_ns, burst).map_err(too_slow)
}

/// The rate of an address, an IPv6 /64 counting as one, and that of an IPv6 /48: [`WIDE_FACTOR`] times as much.
///
/// # Errors
/// Those of [`Rate::new`].
pub fn narrow_and_wide(count: u64, period_ns: u64, burst: u64) -> Result<(Rate, Rate), RateError> {
    let wide_count = count.saturating_mul(WIDE_FACTOR).min(period_ns);
    let wide = Rate::new(wide_count, period_ns, burst.saturating_mul(WIDE_FACTOR));
    Ok((Rate::new(count, period_ns, burst)?, wide?))
}

impl Policy for Limits {
    const NAME: &'static str = "limits";

    fn apply(&self, x: &mut Exchange, core: &mut CoreState) -> Verdict {
        self.judge(x, &mut core.limit, core.now_ns)
    }
}

impl Limits {
    fn judge(&self, x: &mut Exchange, core: &mut PerCore, now_ns: u64) -> Verdict {
        let mut demands = std::mem::take(&mut core.demands);
        demands.clear();
        for (index, limit) in self.rates.iter().enumerate() {
            if limit.concerns(x) {
                limit.demand(index as u8, x, &self.tables, &mut core.key, &mut demands);
            }
        }
        let verdict = match self.seats.is_empty() {
            true => self.charge(x, core, &mut demands, now_ns),
            false => self.seat_and_charge(x, core, &mut demands, now_ns),
        };
        core.demands = demands;
        verdict
    }

    /// Charges all demands, or none.
    #[inline]
    fn charge(&self, x: &mut Exchange, core: &mut PerCore, demands: &mut [Demand], now_ns: u64) -> Verdict {
        let mut outcome = charge_all(&self.tables, core, demands, now_ns);
        if outcome.is_err() && is_established(x) && self.find_room(demands, now_ns) {
            outcome = charge_all(&self.tables, core, demands, now_ns);
        }
        if x.enforcing() {
            self.tell(x, demands, None, now_ns);
        }
        match outcome {
            Ok(()) => Verdict::Continue,
            Err((_, retry_after_ns)) => {
                if x.enforcing() {
                    x.answer_inserts.extend_from_slice(b"retry-after: ");
                    write_retry_after(&mut x.answer_inserts, retry_after_ns);
                    x.answer_inserts.extend_from_slice(b"\r\n");
                }
                Verdict::Refuse(&RATE_EXCEEDED)
            }
        }
    }

    /// Takes the seats first: they can be given back as if nothing had been, so that a request which is refused for want of
    /// one costs no rate anything, and the other way round.
    fn seat_and_charge(
        &self,
        x: &mut Exchange,
        core: &mut PerCore,
        demands: &mut [Demand],
        now_ns: u64,
    ) -> Verdict {
        let before = x.seats.len();
        let full =
            self.seats.iter().find(|limit| limit.concerns(x) && !limit.seat(x, &self.tables, &mut core.key));
        let verdict = match full {
            None => self.charge(x, core, demands, now_ns),
            Some(full) => {
                read_all(&self.tables, core, demands, now_ns);
                if x.enforcing() {
                    self.tell(x, demands, Some(full), now_ns);
                }
                Verdict::Refuse(&CONCURRENCY_EXCEEDED)
            }
        };
        if matches!(verdict, Verdict::Refuse(_)) {
            x.seats.leave_from(before);
        }
        verdict
    }

    /// Moves what found the table of addresses full to that of the identities, which nobody fills with addresses; whether
    /// there was any. Whoever floods the one with networks refuses nobody there who has shown who they are.
    #[cold]
    fn find_room(&self, demands: &mut [Demand], now_ns: u64) -> bool {
        let mut moved = false;
        for demand in demands {
            if demand.keys == Keys::Minted && self.tables.minted.overflows(demand.who, now_ns) {
                demand.keys = Keys::Identities;
                moved = true;
            }
        }
        moved
    }

    /// Writes the fields that say how the client stands: with all limits that concern it, what is left of rates, and that
    /// nothing is left of the one on requests in flight that is `full`.
    fn tell(&self, x: &mut Exchange, demands: &[Demand], full: Option<&Limit<Most>>, now_ns: u64) {
        let mut out = std::mem::take(&mut x.response_inserts);
        let mut items = Items::of(b"ratelimit-policy: ");
        for demand in one_each(demands, now_ns) {
            items.next(&mut out).extend_from_slice(&self.rates[usize::from(demand.limit)].policy);
        }
        for limit in self.seats.iter().filter(|limit| limit.concerns(x)) {
            items.next(&mut out).extend_from_slice(&limit.policy);
        }
        items.end(&mut out);
        let mut items = Items::of(b"ratelimit: ");
        for demand in one_each(demands, now_ns) {
            let Some(charge) = demand.charge else { continue };
            let limit = &self.rates[usize::from(demand.limit)];
            write_limit(items.next(&mut out), &limit.name, &demand.rate, &charge, now_ns);
        }
        if let Some(full) = full {
            write_none_left(items.next(&mut out), &full.name);
        }
        items.end(&mut out);
        x.response_inserts = out;
    }
}

/// A field that is a list, written item by item; not at all if there is none.
struct Items {
    name: &'static [u8],
    begun: bool,
}

impl Items {
    fn of(name: &'static [u8]) -> Items {
        Items { name, begun: false }
    }

    /// Where the next item is written.
    fn next<'o>(&mut self, out: &'o mut Vec<u8>) -> &'o mut Vec<u8> {
        out.extend_from_slice(if self.begun { SEPARATOR } else { self.name });
        self.begun = true;
        out
    }

    fn end(self, out: &mut Vec<u8>) {
        if self.begun {
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// Whether the last request of this connection had an identity, and the connection is that client's alone.
fn is_established(x: &Exchange) -> bool {
    x.known && x.client == x.source.ip()
}

/// Of the demands of each limit (an IPv6 address has two, side by side) the one that leaves less.
fn one_each(demands: &[Demand], now_ns: u64) -> impl Iterator<Item = &Demand> {
    demands.chunk_by(|a, b| a.limit == b.limit).filter_map(move |of_one| match of_one {
        [only] => Some(only),
        _ => of_one.iter().min_by_key(|demand| match demand.charge {
            Some(Charge::Refused { retry_after_ns }) => (0, u64::MAX - retry_after_ns),
            Some(Charge::Admitted(admitted)) => (1, demand.rate.remaining(admitted.tat_ns, now_ns)),
            None => (2, 0),
        }),
    })
}

/// Says that a burst would take decades to come back.
pub fn burst_span(span: Span) -> ConfigError {
    ConfigError::new(BURST_SPAN, "an empty bucket would take more than 73 years to fill", span)
        .fix("a smaller burst, or a faster rate")
}

impl<B> Limit<B> {
    fn compile(
        limit: &written::Limit,
        mode: Mode,
        names: &Names<'_>,
        (bound, wide): (B, B),
        write: impl FnOnce(&mut Vec<u8>, &Name, &B),
    ) -> Limit<B> {
        let name = limit.id(names.within);
        // What is observed must not pay into what is enforced.
        let observed = if mode == Mode::Observe { " observed" } else { "" };
        let id = LimitId::new(&format!("{}/{name}{observed}", names.api));
        let mut policy = Vec::new();
        let name = Name::new(&name);
        write(&mut policy, &name, &bound);
        let everybody = limit.who.iter().any(|who| who.value == written::Who::Anyone);
        let who = limit.who.iter().filter_map(|who| match &who.value {
            written::Who::Login(login) if !everybody => (names.login_of)(login),
            _ => None,
        });
        let per = limit.per.iter().map(|key| match &key.value {
            written::LimitKey::Identity => Key::Identity,
            written::LimitKey::Address => Key::Address,
            written::LimitKey::Header(name) => Key::Header(name.as_bytes().into()),
            written::LimitKey::Claim(name) => {
                Key::Claim(names.claims.iter().position(|claim| claim == name).unwrap_or(usize::MAX))
            }
            written::LimitKey::Operation => Key::Constant(names.operation.as_bytes().into()),
            written::LimitKey::Api | written::LimitKey::All => Key::Constant(Box::default()),
        });
        let minted = |key: &written::LimitKey| {
            matches!(key, written::LimitKey::Address | written::LimitKey::Header(_))
        };
        let keys = match limit.per.iter().any(|key| minted(&key.value)) {
            true => Keys::Minted,
            false => Keys::Identities,
        };
        Limit { policy: policy.into(), id, who: who.collect(), per: per.collect(), keys, bound, wide, name }
    }

    fn concerns(&self, x: &Exchange) -> bool {
        self.who.is_empty() || x.identity.as_ref().is_some_and(|identity| self.who.contains(&identity.login))
    }

    /// Writes the key of a request; which table keeps it, and where the bytes of an IPv6 network stand in it.
    #[inline]
    fn write_key(&self, x: &Exchange, key: &mut Vec<u8>) -> (Keys, Option<usize>) {
        key.clear();
        let mut keys = self.keys;
        let mut network: Option<usize> = None;
        for part in &self.per {
            match part {
                Key::Identity => match &x.identity {
                    Some(identity) => {
                        push_part(key, identity.login_name.as_bytes());
                        push_part(key, identity.issuer.as_bytes());
                        push_part(key, identity.subject.as_bytes());
                    }
                    // Counted by address, which may be a part of the key already.
                    None if self.per.iter().any(|part| matches!(part, Key::Address)) => push_part(key, b""),
                    None => {
                        keys = Keys::Minted;
                        network = push_address(key, x.client).or(network);
                    }
                },
                Key::Address => network = push_address(key, x.client).or(network),
                Key::Header(name) => {
                    push_part(key, x.fields().find_name(x.head_bytes(), name).unwrap_or_default());
                }
                Key::Claim(place) => {
                    let claim = x.identity.as_ref().and_then(|identity| identity.claim(*place));
                    push_part(key, claim.unwrap_or_default().as_bytes());
                }
                Key::Constant(bytes) => push_part(key, bytes),
            }
        }
        (keys, network)
    }
}

/// Makes the /48 of the /64 whose bytes stand in a key at `at`; no /64 has this key, since its length says 6.
fn widen(key: &mut [u8], at: usize) {
    key[at + 6..at + 8].fill(0);
    key[at - 4] = 6;
}

impl Limit<Rate> {
    /// Adds what the limit demands of the request: one key, and another for the wide network of an IPv6 address.
    fn demand(&self, limit: u8, x: &Exchange, tables: &Tables, key: &mut Vec<u8>, demands: &mut Vec<Demand>) {
        let (keys, network) = self.write_key(x, key);
        let table = tables.of(keys);
        let who = table.fingerprint(self.id, key);
        demands.push(Demand { keys, who, rate: self.bound, charge: None, limit });
        if let Some(at) = network {
            widen(key, at);
            let who = table.fingerprint(self.id, key);
            demands.push(Demand { keys, who, rate: self.wide, charge: None, limit });
        }
    }
}

impl Limit<Most> {
    /// Takes the request's seats: one of its key, and one of the wide network of an IPv6 address. Where that is refused, the
    /// first may have been taken.
    ///
    /// Unlike a rate, it is not moved to the other table where its own is full: the same key would be counted in both. To fill
    /// one takes that many keys with a request in flight each, and as many connections, which are bounded (`accept::caps`).
    fn seat(&self, x: &mut Exchange, tables: &Arc<Tables>, key: &mut Vec<u8>) -> bool {
        let (keys, network) = self.write_key(x, key);
        let counts = tables.counts_of(keys);
        let seated = x.seats.take(tables, keys, counts.fingerprint(self.id, key), self.bound);
        let Some(at) = network.filter(|_| seated) else { return seated };
        widen(key, at);
        x.seats.take(tables, keys, counts.fingerprint(self.id, key), self.wide)
    }
}

/// The claims that the limits of a configuration count by, each once.
pub fn claims(config: &written::Config) -> Vec<String> {
    let mut claims = Vec::new();
    for (_, api) in config.apis.iter() {
        let operations = api.operations().into_iter().flat_map(|operations| operations.iter());
        let own = operations.filter_map(|(_, operation)| operation.limits.as_ref());
        for limit in api.limits.iter().chain(own.flat_map(|scoped| &scoped.value)) {
            claims.extend(limit.per.iter().filter_map(|key| match &key.value {
                written::LimitKey::Claim(name) => Some(name.clone()),
                _ => None,
            }));
        }
    }
    claims.sort_unstable();
    claims.dedup();
    claims
}

/// Whether a limit can be judged before anybody has said who they are.
fn stage_of(limit: &written::Limit) -> Stage {
    let early =
        |key: &written::LimitKey| matches!(key, written::LimitKey::Address | written::LimitKey::Header(_));
    match limit.who.is_empty() && limit.per.iter().all(|key| early(&key.value)) {
        true => Stage::Admit,
        false => Stage::Limit,
    }
}

/// A part of a key, with its length before it: parts do not run together.
fn push_part(key: &mut Vec<u8>, part: &[u8]) {
    key.extend_from_slice(&(part.len() as u32).to_le_bytes());
    key.extend_from_slice(part);
}

/// An address as a part: four bytes, or the eight of an IPv6 /64, whose place is returned.
fn push_address(key: &mut Vec<u8>, address: IpAddr) -> Option<usize> {
    match address.to_canonical() {
        IpAddr::V4(address) => {
            push_part(key, &address.octets());
            None
        }
        IpAddr::V6(address) => {
            push_part(key, &address.octets()[..8]);
            Some(key.len() - 8)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;
    use std::rc::Rc;

    use super::*;
    use crate::config::load::parse_str;
    use crate::h1::parse::parse_request;
    use crate::http::HeadLimits;
    use crate::policy::identify::Identity;

    const S: u64 = 1_000_000_000;

    struct Bed {
        links: Vec<Link>,
        core: PerCore,
        now_ns: u64,
        x: Exchange,
    }

    /// An operation `list` of an API `shop` with these limits.
    fn bed(limits: &str) -> Bed {
        bed_of(limits, &Arc::new(Tables::new(1 << 16, 2)))
    }

    fn bed_of(limits: &str, tables: &Arc<Tables>) -> Bed {
        let text = format!(
            "ringwall: 1\n\
             listen: {{ address: 127.0.0.1:8080, tls: none }}\n\
             upstreams: {{ shop: \"http://127.0.0.1:3000\" }}\n\
             login:\n  partners: {{ api_key: X-API-Key, store: partners.keys, pepper: \"secret:env:PEPPER\" }}\n\
             \x20 people: {{ oidc: \"https://login.example.com/\", audience: orders }}\n\
             apis:\n  shop:\n    to: shop\n    operations:\n      list: GET /orders\n\
             \x20   allow: [{{ who: partners }}, {{ who: anyone }}]\n    limits: [{limits}]\n"
        );
        let loaded = parse_str("test.yaml", &text).unwrap_or_else(|errors| panic!("{errors:?}"));
        let api = loaded.config.apis.get("shop").unwrap();
        let operation = api.operations().unwrap().get("list");
        let login_of = |name: &str| loaded.config.login.position(name).map(|at| LoginId(at as u16));
        let claims = super::claims(&loaded.config);
        let mut links = links("shop", api, "list", operation, tables, &login_of, &claims).unwrap();
        links.sort_by_key(|link| link.stage);
        Bed { links, core: PerCore::default(), now_ns: S, x: Exchange::new() }
    }

    impl Bed {
        fn request(&mut self, head: &str, client: &str, subject: &str) -> Verdict {
            self.x.reset();
            let mut table = std::mem::take(&mut self.x.request.table);
            self.x.request.bytes.restore(head.as_bytes().to_vec());
            parse_request(head.as_bytes(), &HeadLimits::DEFAULT, &mut table).unwrap();
            self.x.request.table = table;
            self.x.client = client.parse::<IpAddr>().unwrap();
            if !subject.is_empty() {
                self.x.identity = Some(Rc::new(Identity {
                    login_name: "partners".into(),
                    subject: subject.into(),
                    kept: Box::new([subject.split_once('@').map(|(_, tenant)| tenant.into())]),
                    ..Identity::default()
                }));
            }
            for link in &self.links {
                let Compiled::Limits(limits) = &link.policy else { unreachable!("only limits") };
                self.x.set_mode(link.mode);
                match limits.judge(&mut self.x, &mut self.core, self.now_ns) {
                    Verdict::Refuse(reason) if link.mode == Mode::Observe => {
                        self.x.observed("limits", reason)
                    }
                    Verdict::Continue => {}
                    verdict => return verdict,
                }
            }
            Verdict::Continue
        }

        fn admits(&mut self, client: &str, subject: &str) -> bool {
            let verdict = self.request("GET /orders HTTP/1.1\r\nhost: a\r\n\r\n", client, subject);
            matches!(verdict, Verdict::Continue)
        }
    }

    #[test]
    fn identities_are_counted_apart_and_told_where_they_stand() {
        let mut bed = bed("{ per: identity, rate: 60/min, burst: 2 }");
        assert_eq!(bed.links[0].stage, Stage::Limit);
        assert!(bed.admits("192.0.2.1", "ann"));
        assert_eq!(
            String::from_utf8_lossy(&bed.x.response_inserts),
            "ratelimit-policy: \"per identity per min\";q=2;w=2\r\n\
             ratelimit: \"per identity per min\";r=1;t=1\r\n"
        );
        assert!(bed.admits("192.0.2.2", "ann"));
        assert!(!bed.admits("192.0.2.3", "ann"));
        assert_eq!(String::from_utf8_lossy(&bed.x.answer_inserts), "retry-after: 1\r\n");
        assert!(String::from_utf8_lossy(&bed.x.response_inserts).contains(";r=0;t=1\r\n"));
        assert!(bed.admits("192.0.2.3", "bob"));
        bed.now_ns += S;
        assert!(bed.admits("192.0.2.3", "ann"), "after what Retry-After said");
    }

    #[test]
    fn who_has_no_identity_is_counted_by_address() {
        let mut bed = bed("{ per: identity, rate: 1/min }");
        assert!(bed.admits("192.0.2.1", ""));
        assert!(!bed.admits("192.0.2.1", ""));
        assert!(bed.admits("192.0.2.2", ""));
        assert!(bed.admits("192.0.2.1", "ann"));
    }

    #[test]
    fn addresses_are_counted_before_the_login_and_by_network() {
        let mut bed = bed("{ per: address, rate: 1/min }");
        assert_eq!(bed.links[0].stage, Stage::Admit);
        assert!(bed.admits("192.0.2.1", ""));
        assert!(!bed.admits("192.0.2.1", "ann"));
        assert!(!bed.admits("::ffff:192.0.2.1", ""), "the same address");
        // One of a /64, and sixteen of its /48.
        for network in 0..WIDE_FACTOR {
            assert!(bed.admits(&format!("2001:db8:0:{network:x}::1"), ""), "{network}");
            assert!(!bed.admits(&format!("2001:db8:0:{network:x}::2"), ""), "{network}");
        }
        assert!(!bed.admits("2001:db8:0:ffff::1", ""), "the /48 is spent");
        assert!(String::from_utf8_lossy(&bed.x.response_inserts).contains(";r=0;t=4\r\n"));
        assert!(bed.admits("2001:db8:1::1", ""));
    }

    #[test]
    fn a_table_that_is_full_of_addresses_refuses_no_established_client() {
        // Sets for 448 addresses in each table, and a limit that keeps a cell alive for an hour.
        let tables = Arc::new(Tables::new(1 << 14, 1));
        let mut bed = bed_of("{ per: address, rate: 10/h }", &tables);
        assert!(bed.admits("192.0.2.1", "ann"));
        for network in 0..4_000 {
            bed.admits(&format!("2001:db8:{network:x}::1"), "");
        }
        // Whoever had a cell has it still, and pays by itself.
        for _ in 1..10 {
            assert!(bed.admits("192.0.2.1", "ann"));
        }
        assert!(!bed.admits("192.0.2.1", "ann"), "ten are ten");
        // Who comes now shares what is left with all the others, which is nothing.
        assert!(!bed.admits("192.0.2.2", ""));
        bed.x.known = true;
        bed.x.source.set_ip("192.0.2.2".parse().expect("an address"));
        assert!(bed.admits("192.0.2.2", ""), "it has shown who it is before");
        for _ in 1..10 {
            assert!(bed.admits("192.0.2.2", ""));
        }
        assert!(!bed.admits("192.0.2.2", ""), "and has its own ten, no more");
        // For somebody else behind a proxy nobody has spoken.
        assert!(!bed.admits("192.0.2.3", ""));
    }

    #[test]
    fn a_refused_wide_network_does_not_pay_for_its_part() {
        let mut bed = bed("{ per: address, rate: 2/min }");
        for network in 0..WIDE_FACTOR {
            for _ in 0..2 {
                assert!(bed.admits(&format!("2001:db8:0:{network:x}::1"), ""));
            }
        }
        assert!(!bed.admits("2001:db8:0:ffff::1", ""));
        // A token of the /48 is there again; the /64 has both of its own.
        bed.now_ns += 2 * S;
        assert!(bed.admits("2001:db8:0:ffff::1", ""));
        bed.now_ns += 2 * S;
        assert!(bed.admits("2001:db8:0:ffff::1", ""));
    }

    #[test]
    fn a_field_left_out_is_a_key_like_any_other() {
        let mut bed = bed("{ per: 'header:X-Device', rate: 1/min }");
        let with = |value: &str| format!("GET /orders HTTP/1.1\r\nhost: a\r\nx-device: {value}\r\n\r\n");
        assert!(matches!(bed.request(&with("a"), "192.0.2.1", ""), Verdict::Continue));
        assert!(matches!(bed.request(&with("a"), "192.0.2.2", ""), Verdict::Refuse(_)));
        assert!(matches!(bed.request(&with("b"), "192.0.2.1", ""), Verdict::Continue));
        assert!(bed.admits("192.0.2.1", ""));
        assert!(!bed.admits("192.0.2.2", "ann"));
    }

    #[test]
    fn what_one_limit_refuses_costs_the_others_nothing() {
        let limits = "{ per: identity, rate: 100/min, name: wide }, { per: all, rate: 1/min, name: narrow }";
        let mut bed = bed(limits);
        assert!(bed.admits("192.0.2.1", "ann"));
        let said = |bed: &Bed| String::from_utf8_lossy(&bed.x.response_inserts).into_owned();
        assert!(
            said(&bed).contains("ratelimit: \"wide\";r=99;t=1, \"narrow\";r=0;t=60\r\n"),
            "{}",
            said(&bed)
        );
        for _ in 0..5 {
            assert!(!bed.admits("192.0.2.1", "ann"));
        }
        assert!(said(&bed).contains("\"wide\";r=98;t=1, \"narrow\";r=0;t=60\r\n"), "{}", said(&bed));
        bed.now_ns += 60 * S;
        assert!(bed.admits("192.0.2.1", "ann"));
        assert!(said(&bed).contains("\"wide\";r=99"), "{}", said(&bed));
    }

    #[test]
    fn an_observed_limit_decides_alone_and_says_nothing() {
        let limits = "{ per: identity, rate: 1/min, mode: observe }, { per: identity, rate: 3/s }";
        let mut bed = bed(limits);
        for _ in 0..3 {
            assert!(bed.admits("192.0.2.1", "ann"));
        }
        assert!(!String::from_utf8_lossy(&bed.x.response_inserts).contains("min"));
        assert_eq!(
            bed.x.would_refuse().map(|(_, reason)| reason.token).collect::<Vec<_>>(),
            ["rate_exceeded"]
        );
        assert!(!bed.admits("192.0.2.1", "ann"));
    }

    #[test]
    fn counters_survive_a_changed_rate() {
        let tables = Arc::new(Tables::new(1 << 16, 2));
        assert!(bed_of("{ per: identity, rate: 1/min }", &tables).admits("192.0.2.1", "ann"));
        let mut after = bed_of("{ per: api, rate: 9/s }, { per: identity, rate: 2/min, burst: 1 }", &tables);
        assert!(!after.admits("192.0.2.1", "ann"));
        assert!(after.admits("192.0.2.1", "bob"));
    }

    #[test]
    fn limits_concern_whom_they_name() {
        let mut bed = bed("{ per: all, who: partners, rate: 1/min }");
        assert!(bed.admits("192.0.2.1", "ann"));
        assert!(!bed.admits("192.0.2.1", "bob"));
        assert!(bed.admits("192.0.2.1", ""));
        assert!(bed.x.response_inserts.is_empty(), "nothing is said to whom no limit concerns");
    }

    #[test]
    fn as_many_are_in_flight_as_may_be_and_who_is_done_makes_room() {
        let tables = Arc::new(Tables::new(1 << 16, 2));
        let limits = "{ per: identity, concurrency: 2 }";
        let (mut one, mut two, mut three) =
            (bed_of(limits, &tables), bed_of(limits, &tables), bed_of(limits, &tables));
        assert_eq!((one.links.len(), one.links[0].stage), (1, Stage::Limit));
        assert!(one.admits("192.0.2.1", "ann") && two.admits("192.0.2.2", "ann"));
        let said = |bed: &Bed| String::from_utf8_lossy(&bed.x.response_inserts).into_owned();
        let policy = "ratelimit-policy: \"per identity at once\";q=2;qu=\"concurrent-requests\"\r\n";
        assert_eq!(said(&one), policy);
        assert!(!three.admits("192.0.2.3", "ann"));
        assert_eq!(said(&three), format!("{policy}ratelimit: \"per identity at once\";r=0\r\n"));
        assert!(three.x.answer_inserts.is_empty(), "nobody knows when one ends");
        assert!(three.admits("192.0.2.3", "bob"));
        one.x.reset();
        assert!(three.admits("192.0.2.3", "ann"));
        assert!(!one.admits("192.0.2.1", "ann"));
        // An exchange that is dropped, as by a panic, is over too.
        drop(two);
        assert!(one.admits("192.0.2.1", "ann"));
    }

    #[test]
    fn what_is_refused_holds_no_seat_and_pays_nothing() {
        let tables = Arc::new(Tables::new(1 << 16, 2));
        let limits = "{ per: identity, rate: 2/min }, { per: all, concurrency: 1, name: narrow }";
        let (mut one, mut two) = (bed_of(limits, &tables), bed_of(limits, &tables));
        let said = |bed: &Bed| String::from_utf8_lossy(&bed.x.response_inserts).into_owned();
        assert!(one.admits("192.0.2.1", "ann"));
        for _ in 0..5 {
            assert!(!two.admits("192.0.2.1", "ann"));
            assert!(two.x.seats.is_empty());
            assert!(
                said(&two).ends_with("ratelimit: \"per identity per min\";r=0;t=30, \"narrow\";r=0\r\n"),
                "{}",
                said(&two)
            );
        }
        one.x.reset();
        assert!(two.admits("192.0.2.1", "ann"), "the rate was asked once");
        two.x.reset();
        assert!(!one.admits("192.0.2.1", "ann"));
        assert!(one.x.seats.is_empty(), "what the rate refuses");
        assert!(two.admits("192.0.2.1", "bob"));
    }

    #[test]
    fn networks_of_ipv6_have_requests_in_flight_together() {
        let tables = Arc::new(Tables::new(1 << 16, 2));
        let limits = "{ per: address, concurrency: 1 }";
        let mut all: Vec<Bed> = (0..=WIDE_FACTOR).map(|_| bed_of(limits, &tables)).collect();
        assert_eq!(all[0].links[0].stage, Stage::Admit);
        for (network, bed) in all.iter_mut().enumerate() {
            let admitted = bed.admits(&format!("2001:db8:0:{network:x}::1"), "");
            assert_eq!(admitted, (network as u64) < WIDE_FACTOR, "{network}");
        }
        let [first, .., last] = all.as_mut_slice() else { unreachable!("seventeen") };
        assert!(last.x.seats.is_empty(), "the /64 is left too");
        assert!(last.admits("2001:db8:1::1", ""), "another /48");
        first.x.reset();
        assert!(last.admits("2001:db8:0:ffff::1", ""));
    }

    #[test]
    fn an_observed_bound_on_requests_in_flight_counts_apart_and_lets_everybody_in() {
        let tables = Arc::new(Tables::new(1 << 16, 2));
        let limits =
            "{ per: identity, concurrency: 1, mode: observe }, { per: identity, concurrency: 2, name: two }";
        let mut all: Vec<Bed> = (0..3).map(|_| bed_of(limits, &tables)).collect();
        let admitted: Vec<bool> = all.iter_mut().map(|bed| bed.admits("192.0.2.1", "ann")).collect();
        assert_eq!(admitted, [true, true, false]);
        let observed = |bed: &Bed| bed.x.would_refuse().map(|(_, reason)| reason.token).collect::<Vec<_>>();
        assert_eq!(observed(&all[0]), Vec::<&str>::new());
        assert_eq!(observed(&all[1]), ["concurrency_exceeded"]);
        assert_eq!((all[0].x.seats.len(), all[1].x.seats.len()), (2, 1));
    }

    #[test]
    fn claims_are_counted_apart_and_together_where_there_is_none() {
        let mut bed = bed("{ per: 'claim:tenant', rate: 1/min }");
        assert_eq!(bed.links[0].stage, Stage::Limit);
        assert!(bed.admits("192.0.2.1", "ann@t1"));
        assert!(!bed.admits("192.0.2.2", "bob@t1"), "the same tenant");
        assert!(bed.admits("192.0.2.1", "ann@t2"));
        assert!(bed.admits("192.0.2.1", "ann"));
        assert!(!bed.admits("192.0.2.2", "bob"), "nobody's");
        assert!(!bed.admits("192.0.2.3", ""), "nobody at all");
    }

    #[test]
    fn limits_that_cannot_be_kept_are_errors() {
        let text = "ringwall: 1\nlisten: { address: 127.0.0.1:8080, tls: none }\nupstreams: { shop: \"http://127.0.0.1:3000\" }\n\
            apis:\n  shop:\n    to: shop\n    raw: \"a test\"\n    allow: [{ who: anyone }]\n    limits:\n";
        let compile = |limits: &str| {
            let loaded = parse_str("test.yaml", &format!("{text}{limits}"))
                .unwrap_or_else(|errors| panic!("{errors:?}"));
            let api = loaded.config.apis.get("shop").unwrap();
            links("shop", api, "shop", None, &Arc::new(Tables::new(1024, 1)), &|_| None, &[])
        };
        assert_eq!(compile("      - { per: address, rate: 1/day, burst: 1000000 }\n").unwrap_err().len(), 1);
        let many = |count: usize| -> String {
            (0..count).map(|n| format!("      - {{ per: address, rate: 1/s, name: n{n} }}\n")).collect()
        };
        assert_eq!(compile(&many(LIMITS_MAX)).unwrap().len(), 1);
        assert_eq!(compile(&many(LIMITS_MAX + 2)).unwrap_err().len(), 2);
    }
}
