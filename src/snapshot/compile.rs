//! From the typed configuration to a [`Snapshot`]: aside, with all errors at once, touching nothing that runs.

mod clients;
mod listen;
mod origins;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use rustls::sign::CertifiedKey;

use self::origins::Origins;
use crate::accept::arrivals::ArrivalRate;
use crate::accept::proxy_protocol::Version;
use crate::config::error::{Code, ConfigError};
use crate::config::model as written;
use crate::config::source::Span;
use crate::config::unit;
use crate::control::Parts;
use crate::control::address_lists::AddressLists;
use crate::control::exchange::ROOTS_BYTES_MAX;
use crate::control::health::Plan;
use crate::control::listeners::Wanted;
use crate::control::process_log::{Code as LogCode, Line};
use crate::control::watch::Subscription;
use crate::http::forward::RenamedIdentity;
use crate::http::target::EncodedSlash;
use crate::http::{HeadLimits, Method};
use crate::jose::KeySet;
use crate::policy::admit::maintenance::Maintenance;
use crate::policy::authorize::allow::{Allow, Grant, Who};
use crate::policy::identify::compile::Upkeep;
use crate::policy::identify::{self, Login, LoginId, Logins};
use crate::policy::limit::charge::Tables;
use crate::policy::limit::rate;
use crate::policy::respond::headers::Edits;
use crate::policy::validate::content_type::ContentType;
use crate::policy::validate::json_schema::JsonSchema;
use crate::policy::websocket::WebSocket;
use crate::policy::{Chain, Compiled, Link, Mode, Stage};
use crate::route::{BaseId, MethodSet, RouteError, RouterBuilder};
use crate::snapshot::names::SnapshotNames;
use crate::snapshot::{
    self, Action, Api, HeadMax, IdentityFields, Keep, Listener, Operation, Rewrite, Snapshot,
};
use crate::sys::file::read_regular;
use crate::sys::privileges::{self, User};
use crate::tls::ServerProfile;
use crate::tls::certificate::{self, Certificate};
use crate::tls::client_certificates::ClientTrust;
use crate::tls::tickets::Tickets;
use crate::upstream::{
    self, Balance, ChoiceKey, Introduction, Prober, Requests, Sticky, Timeouts, Upstream, breaker, eject,
    retry,
};

/// A route that the router cannot hold.
pub const ROUTE: Code = Code::new(1420);
/// A certificate or its key is not fit for use.
pub const CERTIFICATE: Code = Code::new(1120);
/// A key that is slow to sign with.
pub const SLOW_KEY: Code = Code::new(1121);
/// What an upstream's certificate is to be verified with is not fit for use.
pub const UPSTREAM_TRUST: Code = Code::new(1220);

/// A key store that changed is in force.
pub const STORE_TAKEN: LogCode = LogCode::new(6016, "a changed key store is in force");
/// A key store that changed cannot be used; the last good one stays.
pub const STORE_REFUSED: LogCode =
    LogCode::new(6014, "a changed key store is refused, the last good one stays");

/// The keys of session tickets should have been changed and were not.
pub const TICKETS_STAY: LogCode = LogCode::new(6015, "no randomness for new ticket keys, the old ones stay");

/// What a snapshot is made with besides the configuration: what outlives it.
#[derive(Debug, Default)]
pub struct Kept {
    upstreams: HashMap<String, (UpstreamKey, Arc<Upstream>)>,
    /// Cores of the node; 0 is as good as 1.
    cores: usize,
    /// The counters of all limits: they survive every reload.
    tables: Option<Arc<Tables>>,
    /// Ticket keys by the address of the listener.
    tickets: HashMap<String, Arc<Tickets>>,
    /// Certificates that were made on the spot, by their names: one that changed with each reload would be trusted by nobody.
    made: HashMap<Vec<String>, (Arc<CertifiedKey>, i64)>,
    /// What is worth knowing of the last configuration, and no error.
    notes: Vec<ConfigError>,
    /// What runs, from which listeners have their numbers and those that leave are known.
    pub running: Option<Arc<Snapshot>>,
    /// Revocation lists in force.
    revocation: clients::Revocation,
    /// Who may connect to which listener.
    lists: AddressLists,
}

/// Everything that makes two upstreams the same.
#[derive(Clone, Debug, PartialEq)]
struct UpstreamKey(String);

impl Kept {
    /// For a node of so many cores.
    pub fn of(cores: usize) -> Kept {
        Kept { cores, ..Kept::default() }
    }

    /// Changes the keys of session tickets where it is time, and frees what is no longer used. Called every second or so.
    pub fn tend(&mut self) {
        self.lists.tend();
        self.revocation.tend(crate::worker::clock::unix_ms() / 1_000);
        for tickets in self.tickets.values() {
            if tickets.tend(monotonic_s()).is_err() {
                Line::warn(TICKETS_STAY).emit();
            }
        }
    }

    /// What is worth knowing of the configuration that was compiled last, and no error.
    pub fn take_notes(&mut self) -> Vec<ConfigError> {
        std::mem::take(&mut self.notes)
    }

    fn self_signed(&mut self, names: Vec<String>) -> Result<Certificate, String> {
        if let Some((key, not_after_s)) = self.made.get(&names) {
            return Ok(Certificate { key: Arc::clone(key), names, not_after_s: *not_after_s, rsa_bits: 0 });
        }
        let made = certificate::self_signed(&names)?;
        self.made.insert(names, (Arc::clone(&made.key), made.not_after_s));
        Ok(made)
    }
}

/// Numbers the listeners of this process.
static NEXT_LISTENER: AtomicU32 = AtomicU32::new(1);

/// Compiles a configuration. `kept` carries over what reloads must not disturb; without `parts` (a check) nothing is
/// resolved, fetched or probed.
///
/// # Errors
/// Everything that is wrong with it, at once.
pub fn compile(
    config: &written::Config,
    generation: u64,
    kept: &mut Kept,
    parts: Option<&Parts<KeySet>>,
) -> Result<Snapshot, Vec<ConfigError>> {
    kept.notes.clear();
    let upkeep = parts.map(|parts| Upkeep {
        keepers: &parts.keys,
        watcher: &parts.watcher,
        changed: |path, result| match result {
            Ok(()) => Line::info(STORE_TAKEN).with("store", path.display()).emit(),
            Err(why) => Line::error(STORE_REFUSED).with("store", path.display()).with("why", why).emit(),
        },
    });
    let claims = rate::claims(config);
    let (logins, errors) = match identify::compile::compile(&config.login, &claims, upkeep) {
        Ok(logins) => (logins, Vec::new()),
        Err(errors) => (identify::compile::Compiled::default(), errors),
    };
    let tables = Arc::clone(kept.tables.get_or_insert_with(|| {
        let bytes = usize::try_from(config.node.limit_memory_in_force()).unwrap_or(usize::MAX);
        let cores = match &config.node.cores {
            Some(cores) => usize::try_from(cores.value).unwrap_or(1),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        Arc::new(Tables::new(bytes, cores))
    }));
    let tables_there = Arc::clone(&tables);
    let mut compiler = Compiler {
        errors,
        config,
        parts,
        logins: logins.logins,
        claims,
        tables: tables_there,
        widest: HeadLimits::DEFAULT,
        watched: logins.watched,
        asking: Vec::new(),
    };
    compiler.widest = compiler.head_limits();
    let listeners = compiler.listeners(kept);
    let (upstreams, known) = compiler.upstreams(kept);
    let arrival_rate = compiler.arrival_rate();
    let (apis, operations, router) = compiler.apis();
    let websockets = operations.iter().any(|operation| operation.websocket.is_some());
    let encoded_slash = match operations.iter().any(|operation| operation.keeps_encoded_slash) {
        true => EncodedSlash::Keep,
        false => EncodedSlash::Refuse,
    };
    if compiler.errors.is_empty() {
        // A configuration that is refused takes nothing away from the next one.
        kept.upstreams = known;
        kept.revocation.keep(std::mem::take(&mut compiler.asking));
        let named: Vec<_> = config.listen.iter().filter_map(listen::source).collect();
        kept.lists.retain(&named);
    }
    match (router, compiler.errors.is_empty()) {
        (Some(router), true) => Ok(Snapshot {
            generation,
            listeners,
            router,
            apis,
            operations,
            upstreams,
            names: SnapshotNames::default(),
            logins: config.login.names().map(Box::from).collect(),
            watched: compiler.watched,
            tables,
            arrival_rate,
            websockets,
            encoded_slash,
            refuse_unrecorded: config
                .audit
                .as_ref()
                .is_some_and(|audit| audit.on_full == written::OnFull::Refuse),
        }),
        _ => Err(compiler.errors),
    }
}

struct Compiler<'c> {
    errors: Vec<ConfigError>,
    config: &'c written::Config,
    parts: Option<&'c Parts<KeySet>>,
    logins: Vec<Arc<Login>>,
    /// Those that limits count by.
    claims: Vec<String>,
    tables: Arc<Tables>,
    /// The bounds of heads before their operation is known.
    widest: HeadLimits,
    /// Keep key stores and revocation lists watched.
    watched: Vec<Subscription>,
    /// What the listeners ask of clients.
    asking: Vec<Arc<ClientTrust>>,
}

impl Compiler<'_> {
    /// How often one address may connect.
    fn arrival_rate(&mut self) -> Option<ArrivalRate> {
        let connections = &self.config.node.connections;
        let rate = connections.address_rate.as_ref()?;
        let burst = connections.address_burst_in_force()?;
        let compiled = ArrivalRate::new(rate.value.count, rate.value.period.nanos(), burst);
        if compiled.is_err() {
            let span = connections.address_burst.as_ref().map_or(rate.span, |burst| burst.span);
            self.errors.push(rate::burst_span(span));
        }
        compiled.ok()
    }

    fn listeners(&mut self, kept: &mut Kept) -> Vec<Arc<Listener>> {
        let sizes = self.widest.clone();
        let config = self.config;
        let running = kept.running.clone();
        // Those of the same address keep their numbers; of several at port 0, in their order.
        let mut before: Vec<&Arc<Listener>> = running
            .iter()
            .flat_map(|running| &running.listeners)
            .filter(|known| !known.is_leaving())
            .collect();
        let mut listeners: Vec<Arc<Listener>> = config
            .listen
            .iter()
            .map(|listener| {
                let tls = self.server_profile(listener, kept);
                let name = listener.address.value.to_string();
                let known = before.iter().position(|known| *known.name == *name);
                Arc::new(Listener {
                    id: match known {
                        Some(place) => before.remove(place).id,
                        None => NEXT_LISTENER.fetch_add(1, Ordering::Relaxed),
                    },
                    leaving_ms: AtomicU64::new(0),
                    name: listener.address.value.to_string().into(),
                    domains: listener
                        .domains
                        .iter()
                        .map(|domain| domain.value.as_str().as_bytes().into())
                        .collect(),
                    secure: tls.is_some(),
                    protocols: listener.protocols_in_force(),
                    tls,
                    handshake_ms: in_milliseconds(listener.timeouts.handshake_in_force()),
                    gate: self.gate(listener, kept),
                    trusted_proxies: listen::trusted_proxies(listener),
                    client_field: listen::client_field(listener),
                    proxy_protocol: listen::proxy_versions(listener),
                    redirect: listener.redirect.is_some(),
                    head_limits: sizes.clone(),
                    head_ms: in_milliseconds(listener.timeouts.head_in_force()),
                    idle_ms: in_milliseconds(listener.timeouts.idle_in_force()),
                })
            })
            .collect();
        // Who is connected over one that leaves still gets an answer to what is asked before that is noticed.
        listeners.extend(before.into_iter().cloned());
        let now_ms = monotonic_ms();
        let left = running.iter().flat_map(|running| &running.listeners).filter(|known| {
            let since_ms = known.leaving_ms.load(Ordering::Relaxed);
            since_ms != 0 && now_ms.saturating_sub(since_ms) < known.idle_ms + LEAVING_MARGIN_MS
        });
        listeners.extend(left.cloned());
        listeners
    }

    /// The head is read before its operation is known: the widest bound that any asks for counts for all at first, and the
    /// operation's own ([`Self::head_max`]) as soon as it is known.
    fn head_limits(&self) -> HeadLimits {
        let mut sizes = HeadLimits::DEFAULT;
        for (_, api) in self.config.apis.iter() {
            let operations = api.operations().into_iter().flat_map(|operations| operations.iter());
            for operation in std::iter::once(None).chain(operations.map(|(_, operation)| Some(operation))) {
                let wanted = api.sizes_of(operation).in_force();
                sizes.target_bytes_max = sizes.target_bytes_max.max(narrow(wanted.target_bytes_max));
                sizes.head_bytes_max = sizes.head_bytes_max.max(narrow(wanted.head_bytes_max));
                sizes.fields_max = sizes.fields_max.max(narrow(wanted.fields_max));
            }
        }
        sizes
    }

    fn head_max(&self, sizes: &written::SizesInForce) -> Option<HeadMax> {
        let own = HeadMax {
            target: narrow(sizes.target_bytes_max),
            head: narrow(sizes.head_bytes_max),
            fields: narrow(sizes.fields_max),
        };
        let widest = &self.widest;
        let narrower = own.target < widest.target_bytes_max
            || own.head < widest.head_bytes_max
            || own.fields < widest.fields_max;
        narrower.then_some(own)
    }

    fn server_profile(&mut self, listener: &written::Listener, kept: &mut Kept) -> Option<ServerProfile> {
        let tls = listener.tls.as_ref()?;
        let domains: Vec<String> =
            listener.domains.iter().map(|domain| domain.value.as_str().to_owned()).collect();
        let certificates: Vec<Certificate> = match &tls.value {
            written::Tls::None => return None,
            written::Tls::Files(files) => files
                .iter()
                .filter_map(|file| {
                    certificate::read(&file.cert.value.0, &file.key.value.0)
                        .map_err(|why| self.error(CERTIFICATE, &why, file.span))
                        .ok()
                        .inspect(|certificate| kept.notes.extend(slow(certificate, file.span)))
                })
                .collect(),
            written::Tls::SelfSigned => {
                let mut names = domains.clone();
                if names.is_empty() {
                    names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "::1".to_owned()];
                }
                match kept.self_signed(names) {
                    Ok(certificate) => vec![certificate],
                    Err(why) => {
                        self.error(CERTIFICATE, &why, tls.span);
                        return None;
                    }
                }
            }
        };
        if certificates.is_empty() {
            return None;
        }
        let protocols = listener.protocols_in_force();
        if let written::Tls::Files(files) = &tls.value
            && let Some(asked) = files.first().and_then(|file| file.clients.as_ref())
        {
            let clients = clients::trust(asked, self, kept)?;
            self.asking.push(Arc::clone(&clients));
            return ServerProfile::asking(&certificates, &domains, protocols, clients)
                .map_err(|why| self.error(CERTIFICATE, &why, tls.span))
                .ok();
        }
        let tickets = match kept.tickets.get(&listener.address.value.to_string()) {
            Some(tickets) => Arc::clone(tickets),
            None => {
                let tickets = Arc::new(Tickets::new(monotonic_s()).ok()?);
                kept.tickets.insert(listener.address.value.to_string(), Arc::clone(&tickets));
                tickets
            }
        };
        ServerProfile::new(&certificates, &domains, protocols, tickets)
            .map_err(|why| self.error(CERTIFICATE, &why, tls.span))
            .ok()
    }

    fn error(&mut self, code: Code, what: &str, span: Span) {
        self.errors.push(ConfigError::new(code, what, span));
    }

    /// The upstreams, and what the next configuration is to know of them.
    fn upstreams(
        &mut self,
        kept: &Kept,
    ) -> (Vec<Arc<Upstream>>, HashMap<String, (UpstreamKey, Arc<Upstream>)>) {
        let mut next = HashMap::new();
        let mut upstreams = Vec::new();
        for (name, upstream) in self.config.upstreams.iter() {
            let key = UpstreamKey(format!(
                "{:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?} {:?}",
                upstream.targets.iter().map(|target| &target.value).collect::<Vec<_>>(),
                (
                    trust_identity(&upstream.trust),
                    upstream.addresses.iter().map(|network| network.value).collect::<Vec<_>>(),
                ),
                balance_identity(&upstream.balance),
                upstream.timeouts,
                upstream.pool,
                (
                    &upstream.retry.tries,
                    &upstream.retry.per_try,
                    &upstream.retry.budget,
                    &upstream.retry.pause
                ),
                (upstream.retry.on.iter().map(|status| status.value).collect::<Vec<_>>(), &upstream.eject),
                (
                    &upstream.breaker,
                    upstream.slow_start,
                    upstream.proxy_protocol.as_ref().map(|version| version.value),
                    upstream.forwarded,
                    upstream.protocols_in_force(),
                ),
                upstream.health.as_ref().map(origins::plan),
            ));
            let compiled = match kept.upstreams.get(&name.value) {
                Some((before, upstream)) if *before == key => Arc::clone(upstream),
                before => {
                    let before = before.map(|(_, upstream)| Arc::clone(upstream));
                    let compiled =
                        Arc::new(self.upstream(&name.value, upstream, before.as_deref(), kept.cores));
                    if let Some(parts) = self.parts {
                        parts.membership.keep(&compiled);
                    }
                    compiled
                }
            };
            next.insert(name.value.clone(), (key, Arc::clone(&compiled)));
            upstreams.push(compiled);
        }
        (upstreams, next)
    }

    fn upstream(
        &mut self,
        name: &str,
        upstream: &written::Upstream,
        before: Option<&Upstream>,
        cores: usize,
    ) -> Upstream {
        let defaults = Timeouts::default();
        let maker = Origins::new(upstream, self.parts);
        let mut origins = Vec::with_capacity(upstream.targets.len());
        for target in &upstream.targets {
            match maker.origin(target) {
                Ok(origin) => origins.push(origin),
                Err(errors) => self.errors.extend(errors),
            }
        }
        let introduction = Introduction {
            proxy: upstream.proxy_protocol.as_ref().map(|version| match version.value {
                written::SentProxy::V1 => Version::V1,
                written::SentProxy::V2 => Version::V2,
            }),
            forwarded: upstream.forwarded,
        };
        let protocols = upstream.protocols_in_force();
        let prober = self.parts.zip(upstream.health.as_ref()).map(|(parts, wanted)| Prober {
            health: parts.health.clone(),
            plan: Arc::new(Plan { proxy: introduction.proxy, protocols, ..origins::plan(wanted) }),
        });
        let parts = upstream::Parts {
            name: name.into(),
            origins,
            prober,
            balance: match upstream.balance {
                written::Balance::RoundRobin => Balance::RoundRobin,
                written::Balance::LeastRequest => Balance::LeastRequest,
                written::Balance::Ewma => Balance::Ewma,
                written::Balance::Hash(_) => Balance::Hash,
                written::Balance::Sticky(_) => Balance::Sticky,
            },
            key: self.choice_key(&upstream.balance),
            retry: retry(&upstream.retry),
            eject: eject(&upstream.eject),
            slow_start_ms: milliseconds(upstream.slow_start, 0),
            queue_wait_ms: milliseconds(upstream.breaker.wait, 100),
            breaker: breaker(&upstream.breaker),
            requests: upstream.breaker.requests.map(|requests| match requests {
                written::Requests::AtMost(number) => {
                    Requests::AtMost(u32::try_from(number).unwrap_or(u32::MAX))
                }
                written::Requests::Adaptive => Requests::Adaptive,
            }),
            queue_max: upstream.breaker.queue.and_then(|queue| u32::try_from(queue).ok()).unwrap_or(128),
            timeouts: Timeouts {
                connect: milliseconds(upstream.timeouts.connect, defaults.connect),
                idle: milliseconds(upstream.timeouts.idle, defaults.idle),
                age: milliseconds(upstream.pool.age, defaults.age),
            },
            connections_max: u32::try_from(upstream.pool.connections_in_force()).unwrap_or(u32::MAX),
            idle_max: usize::try_from(upstream.pool.idle_in_force()).unwrap_or(usize::MAX),
            cores,
            introduction,
            protocols,
        };
        Upstream::new(parts, before)
    }

    fn choice_key(&mut self, balance: &written::Balance) -> ChoiceKey {
        match balance {
            written::Balance::Hash(written::HashKey::Address) => ChoiceKey::Address,
            written::Balance::Hash(written::HashKey::Identity) => ChoiceKey::Identity,
            written::Balance::Hash(written::HashKey::Path) => ChoiceKey::Path,
            written::Balance::Hash(written::HashKey::Header(name)) => {
                ChoiceKey::Header(name.as_bytes().into())
            }
            written::Balance::Sticky(sticky) => match sticky.key.read() {
                Ok(secret) => ChoiceKey::Cookie(Sticky {
                    cookie: sticky.cookie.as_bytes().into(),
                    key: ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret.expose()),
                }),
                Err(error) => {
                    self.errors.push(error);
                    ChoiceKey::None
                }
            },
            _ => ChoiceKey::None,
        }
    }

    fn apis(&mut self) -> (Vec<Api>, Vec<Operation>, Option<crate::route::Router>) {
        let config = self.config;
        let mut router = RouterBuilder::new();
        let (mut apis, mut operations) = (Vec::new(), Vec::new());
        let strict_transport = |api: &written::Api| {
            !api.host.iter().any(|host| host.value.ip().is_some() || host.value.as_str() == "localhost")
        };
        for (index, (name, api)) in config.apis.iter().enumerate() {
            let api_index = index as u32;
            apis.push(self.api(&name.value, api));
            // The longest base wins; the same base under several hosts is one API.
            let hosts: Vec<Option<&str>> = match api.host.as_slice() {
                [] => vec![None],
                hosts => hosts.iter().map(|host| Some(host.value.as_str())).collect(),
            };
            let bases: Vec<BaseId> = hosts
                .iter()
                .filter_map(|host| self.keep(router.base(*host, api.base.value.as_str()), api))
                .collect();
            let strict = strict_transport(api);
            match &api.surface {
                Some(written::api::Surface::Operations(named)) => {
                    for (operation_name, operation) in named.iter() {
                        let value = operations.len() as u32;
                        operations.push(self.operation(
                            api_index,
                            api,
                            &operation_name.value,
                            Some(operation),
                            strict,
                        ));
                        let found = &operation.matches.value;
                        for base in &bases {
                            let added = router.add(
                                *base,
                                found.template.as_str(),
                                Method::of(found.method.as_str().as_bytes()),
                                value,
                            );
                            if let Err(error) = added {
                                self.errors.push(
                                    ConfigError::new(ROUTE, error.to_string(), operation.matches.span)
                                        .found(found.to_string()),
                                );
                            }
                        }
                    }
                }
                _ => {
                    let value = operations.len() as u32;
                    operations.push(self.operation(api_index, api, &name.value, None, strict));
                    for base in &bases {
                        self.keep(router.subtree(*base, value), api);
                    }
                }
            }
        }
        let router = match router.build() {
            Ok(router) => Some(router),
            Err(error) => {
                let span = config.apis.iter().next().map(|(name, _)| name.span);
                if let Some(span) = span {
                    self.errors.push(ConfigError::new(ROUTE, error.to_string(), span));
                }
                None
            }
        };
        (apis, operations, router)
    }

    fn keep<T>(&mut self, result: Result<T, RouteError>, api: &written::Api) -> Option<T> {
        result
            .map_err(|error| self.errors.push(ConfigError::new(ROUTE, error.to_string(), api.base.span)))
            .ok()
    }

    fn api(&mut self, name: &str, api: &written::Api) -> Api {
        let mut fields = IdentityFields::default();
        for (field, what) in &api.identity {
            let place = match what.value {
                written::IdentityField::Subject => &mut fields.subject,
                written::IdentityField::Issuer => &mut fields.issuer,
                written::IdentityField::Kind => &mut fields.kind,
                written::IdentityField::Login => &mut fields.login,
                written::IdentityField::Scopes => &mut fields.scopes,
                written::IdentityField::Roles => &mut fields.roles,
            };
            *place = field.value.as_str().as_bytes().into();
        }
        Api {
            name: name.into(),
            renamed: RenamedIdentity::new(
                api.identity.iter().map(|(field, _)| field.value.as_str().as_bytes()),
            ),
            identity_fields: fields,
        }
    }

    fn operation(
        &mut self,
        api_index: u32,
        api: &written::Api,
        name: &str,
        operation: Option<&written::Operation>,
        strict_transport: bool,
    ) -> Operation {
        let edits = api.headers_of(operation);
        let sizes = api.sizes_of(operation).in_force();
        Operation {
            name: name.into(),
            api: api_index,
            chain: Chain::new(self.links(api_index, api, name, operation)),
            action: self.action(api, operation),
            request_edits: edits_of(&edits.request),
            response_edits: edits_of(&edits.response),
            methods: methods_of(api),
            head_max: self.head_max(&sizes),
            body_max: sizes.body_bytes_max,
            response_max: sizes.response_bytes_max,
            call_max: sizes.call_bytes_max,
            message_max: sizes.message_bytes_max.map(|bytes| u32::try_from(bytes).unwrap_or(u32::MAX)),
            timeouts: self.timeouts(api, operation),
            strict_transport,
            keeps_encoded_slash: api.keeps_encoded_slash(operation),
            websocket: self.websocket(api, operation),
        }
    }

    fn websocket(
        &mut self,
        api: &written::Api,
        operation: Option<&written::Operation>,
    ) -> Option<Box<WebSocket>> {
        let websocket = api.websocket_of(operation)?;
        let sizes = api.sizes_of(operation).in_force();
        match WebSocket::compile(websocket, operation.is_some(), &sizes) {
            Ok(compiled) => Some(Box::new(compiled)),
            Err(errors) => {
                self.errors.extend(errors);
                None
            }
        }
    }

    /// Those of the operation before those of its API before that of its upstream.
    fn timeouts(&self, api: &written::Api, operation: Option<&written::Operation>) -> snapshot::Timeouts {
        let upstream = api.to.as_ref().and_then(|to| self.config.upstreams.get(&to.upstream.value));
        let written =
            api.timeouts_of(operation).in_force(upstream.and_then(|upstream| upstream.timeouts.first_byte));
        snapshot::Timeouts {
            first_byte: in_milliseconds(written.first_byte),
            total: in_milliseconds(written.total),
            stream_idle: in_milliseconds(written.stream_idle),
            lifetime: in_milliseconds(written.lifetime),
            lifetime_of_events: in_milliseconds(written.lifetime_of_events),
        }
    }

    fn action(&mut self, api: &written::Api, operation: Option<&written::Operation>) -> Action {
        match operation.map(|operation| &operation.route) {
            Some(written::Route::Redirect(redirect)) => {
                let to = redirect.to.value.as_str();
                let (location, keep) = match redirect.keep {
                    written::Keep::Nothing => (to, Keep::Nothing),
                    written::Keep::Query => (to, Keep::Query),
                    // The path that follows has a slash of its own.
                    written::Keep::Path => (to.trim_end_matches('/'), Keep::Path),
                };
                return Action::Redirect { location: location.into(), status: redirect.status, keep };
            }
            Some(written::Route::Respond(respond)) => {
                return Action::Respond {
                    status: respond.status,
                    body: respond.body.as_bytes().into(),
                    content_type: respond.content_type.as_str().into(),
                };
            }
            Some(written::Route::Forward) | None => {}
        }
        let Some(to) = api.to.as_ref().filter(|_| !api.is_closed()) else { return Action::Closed };
        match self.config.upstreams.position(&to.upstream.value) {
            Some(upstream) => Action::Forward {
                upstream,
                rewrite: to.path.as_ref().map(|path| Rewrite {
                    base_bytes: api.base.value.as_str().trim_end_matches('/').len(),
                    path: path.value.as_str().trim_end_matches('/').as_bytes().into(),
                }),
                host_of_upstream: matches!(to.host, written::ClientHost::Upstream),
            },
            // The checks of the configuration have named it already.
            None => Action::Closed,
        }
    }

    fn links(
        &mut self,
        api_index: u32,
        api: &written::Api,
        name: &str,
        operation: Option<&written::Operation>,
    ) -> Vec<Link> {
        let mut links = Vec::new();
        if api.is_closed() {
            links.push(link(Stage::Authorize, Mode::Enforce, Compiled::Allow(Allow::default())));
            return links;
        }
        let maintenance = self.config.node.maintenance.iter().chain(&api.maintenance);
        links.extend(maintenance.map(|maintenance| {
            let policy = Compiled::Maintenance(Maintenance::compile(maintenance));
            link(Stage::Admit, Mode::Enforce, policy)
        }));
        if let Some(login) = self.login_of(api) {
            links.push(link(Stage::Identify, Mode::Enforce, Compiled::Login(login)));
        }
        let login_of = |login: &str| self.config.login.position(login).map(|place| LoginId(place as u16));
        let api_name = self.config.apis.names().nth(api_index as usize).unwrap_or_default();
        match rate::links(api_name, api, name, operation, &self.tables, &login_of, &self.claims) {
            Ok(limits) => links.extend(limits),
            Err(errors) => self.errors.extend(errors),
        }
        if let Some(body) = api.body_of(operation) {
            let sizes = api.sizes_of(operation).in_force();
            links.extend(ContentType::compile(body).map(|content_type| {
                link(Stage::Declare, mode(body.mode), Compiled::ContentType(content_type))
            }));
            let schema = body.schema.as_ref();
            match schema.map(|schema| JsonSchema::compile(schema, sizes.body_bytes_max, sizes.json_depth_max))
            {
                Some(Ok(schema)) => {
                    links.push(link(Stage::Validate, mode(body.mode), Compiled::Schema(schema)));
                }
                Some(Err(errors)) => self.errors.extend(errors),
                None => {}
            }
        }
        if let Some(allow) = &api.allow {
            let grants = self.grants(allow, name, operation.is_some());
            links.push(link(Stage::Authorize, mode(allow.mode.mode()), Compiled::Allow(Allow { grants })));
        }
        links
    }

    /// The logins that the API's `allow` names, each once.
    fn login_of(&self, api: &written::Api) -> Option<Logins> {
        let grants = api.allow.iter().flat_map(|allow| &allow.grants);
        let mut places: Vec<usize> = grants
            .flat_map(|grant| &grant.who)
            .filter_map(|who| match &who.value {
                written::Who::Login(name) => self.config.login.position(name),
                written::Who::Anyone => None,
            })
            .collect();
        places.sort_unstable();
        places.dedup();
        let logins: Vec<Arc<Login>> =
            places.iter().filter_map(|&place| self.logins.get(place).cloned()).collect();
        (!logins.is_empty()).then(|| Logins::new(logins))
    }

    fn grants(&self, allow: &written::Allow, operation: &str, named: bool) -> Vec<Grant> {
        let mut grants = Vec::new();
        for grant in &allow.grants {
            let concerns = match (&grant.operations, named) {
                (None, _) => true,
                (Some(operations), true) => operations.iter().any(|name| name.value == operation),
                (Some(_), false) => false,
            };
            if !concerns {
                continue;
            }
            for who in &grant.who {
                let who = match &who.value {
                    written::Who::Anyone => Who::Anyone,
                    written::Who::Login(login) => match self.config.login.position(login) {
                        Some(position) => Who::Login(LoginId(position as u16)),
                        None => continue,
                    },
                };
                grants.push(Grant {
                    who,
                    roles: grant.role.iter().map(|role| role.value.as_str().into()).collect(),
                    scopes: grant.scope.iter().map(|scope| scope.value.as_str().into()).collect(),
                });
            }
        }
        grants
    }
}

fn link(stage: Stage, mode: Mode, policy: Compiled) -> Link {
    Link { stage, mode, policy }
}

/// What was written as a mode, as it runs.
pub fn mode(written: written::Mode) -> Mode {
    match written {
        written::Mode::Enforce => Mode::Enforce,
        written::Mode::Observe => Mode::Observe,
        written::Mode::Off => Mode::Off,
    }
}

/// The methods of a raw API that lists them. GET implies HEAD.
fn methods_of(api: &written::Api) -> Option<MethodSet> {
    let listed = api.methods.iter().map(|method| method.value.0);
    (!api.methods.is_empty()).then(|| {
        listed.fold(MethodSet::default(), |set, method| match method {
            Method::Get => set.with(Method::Get).with(Method::Head),
            method => set.with(method),
        })
    })
}

fn edits_of(edits: &written::Edits) -> Edits {
    let mut compiled = Edits::default();
    for name in &edits.remove {
        compiled.remove(name.value.as_str());
    }
    for (name, value) in &edits.set {
        compiled.set(name.value.as_str(), value.value.as_str());
    }
    compiled
}

/// A word on a key whose signatures hold up the data threads.
fn slow(certificate: &Certificate, span: Span) -> Option<ConfigError> {
    (certificate.rsa_bits > RSA_BITS_QUICK).then(|| {
        let bits = certificate.rsa_bits;
        let title = format!(
            "this RSA key has {bits} bits: each full handshake holds a data thread up for milliseconds"
        );
        ConfigError::note(SLOW_KEY, title, span)
            .fix("take a certificate with an ECDSA P-256 key, or an RSA key of 2048 bits")
    })
}

/// RSA keys up to this size are signed with in less than a millisecond.
const RSA_BITS_QUICK: usize = 2048;

/// Tells apart whom upstreams trust: never 0, and another number for other certificates in the same file.
fn trust_identity(trust: &written::Trust) -> u64 {
    use std::hash::{Hash, Hasher};
    let mut hasher = std::hash::DefaultHasher::new();
    match trust {
        written::Trust::System => 1u8.hash(&mut hasher),
        written::Trust::Unverified(_) => 2u8.hash(&mut hasher),
        // One that cannot be read is an error elsewhere.
        written::Trust::File(path) => {
            (3u8, read_regular(&path.value.0, ROOTS_BYTES_MAX).ok()).hash(&mut hasher)
        }
    }
    hasher.finish() | 1
}

/// How much longer than its connections may be idle a listener that leaves is known.
const LEAVING_MARGIN_MS: u64 = 10_000;

/// Milliseconds of a clock that does not step back.
fn monotonic_ms() -> u64 {
    crate::sys::thread::monotonic_ns() / 1_000_000
}

/// Seconds of a clock that does not step back.
fn monotonic_s() -> u64 {
    crate::sys::thread::monotonic_ns() / 1_000_000_000
}

/// Tells ways to choose apart, the secret that tags are made with among them, without telling it.
fn balance_identity(balance: &written::Balance) -> String {
    match balance {
        written::Balance::Sticky(sticky) => {
            let secret = sticky
                .key
                .read()
                .map(|secret| ring::digest::digest(&ring::digest::SHA256, secret.expose()).as_ref().to_vec());
            format!("{} {:?}", sticky.cookie, secret.ok())
        }
        other => format!("{other:?}"),
    }
}

fn retry(written: &written::Retry) -> retry::Settings {
    let defaults = retry::Settings::default();
    let pause_ms = milliseconds(written.pause, defaults.pause_ms);
    let mut statuses = retry::Statuses::default();
    for status in written.on.iter().filter_map(|status| u16::try_from(status.value).ok()) {
        statuses.add(status);
    }
    retry::Settings {
        tries_max: written.tries.and_then(|tries| u16::try_from(tries).ok()).unwrap_or(defaults.tries_max),
        per_try_ms: written.per_try.map(in_milliseconds),
        statuses,
        budget_percent: written.budget.map_or(defaults.budget_percent, |budget| budget.0),
        budget_least: defaults.budget_least,
        pause_ms,
        pause_max_ms: pause_ms.max(defaults.pause_max_ms),
    }
}

fn eject(written: &written::Eject) -> eject::Settings {
    let defaults = eject::Settings::default();
    eject::Settings {
        after: written.after.and_then(|after| u32::try_from(after).ok()).unwrap_or(defaults.after),
        server_errors: written.server_errors.unwrap_or(defaults.server_errors),
        time_ms: milliseconds(written.time, defaults.time_ms),
        most_percent: written.most.map_or(defaults.most_percent, |most| most.0),
        failures_percent: written.failures.map_or(0, |failures| failures.0),
        slow_factor: written.slow.and_then(|slow| u32::try_from(slow).ok()).unwrap_or(0),
    }
}

/// `None` where it never opens.
fn breaker(written: &written::Breaker) -> Option<breaker::Settings> {
    let failures = written.failures.filter(|failures| failures.0 > 0)?;
    Some(breaker::Settings {
        failures_percent: failures.0,
        over_ms: milliseconds(written.over, 10_000),
        least: written.least.and_then(|least| u32::try_from(least).ok()).unwrap_or(20),
        rest_ms: milliseconds(written.rest, 5_000),
        probes: written.probes.and_then(|probes| u32::try_from(probes).ok()).unwrap_or(3),
    })
}

fn milliseconds(duration: Option<Duration>, default: u64) -> u64 {
    duration.map_or(default, in_milliseconds)
}

fn in_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn narrow(bytes: u64) -> usize {
    // Offsets into a head are 16 bits wide.
    usize::try_from(bytes).unwrap_or(usize::MAX).min(usize::from(u16::MAX))
}

/// The addresses that the listeners want, in their order.
pub fn addresses(config: &written::Config) -> Vec<Wanted> {
    // What root makes belongs to whom this process becomes.
    let owner = match &config.node.user {
        Some(name) if privileges::effective_user() == 0 => User::find(&name.value).ok(),
        _ => None,
    };
    let owner = owner.map(|user| (user.user, user.group));
    let wanted = |listener: &written::Listener| Wanted {
        address: match &listener.address.value {
            unit::Address::Tcp(address) => (*address).into(),
            unit::Address::Unix(path) => path.as_path().into(),
        },
        mode: listener.permissions.map_or(0o660, |permissions| permissions.value.0),
        owner,
    };
    config.listen.iter().map(wanted).collect()
}
