//! From targets as they are written to [`Origin`]s: with the configuration, and again whenever a file of targets changes.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::RootCertStore;

use super::UPSTREAM_TRUST;
use crate::config::bind::Spanned;
use crate::config::error::{ConfigError, Errors};
use crate::config::model as written;
use crate::config::source::{Sources, Span};
use crate::config::targets::read_targets;
use crate::control::address_guard::AddressGuard;
use crate::control::health;
use crate::control::membership::Membership;
use crate::control::names::Names;
use crate::control::targets_file::{ReadTargets, TargetsFile};
use crate::control::watch::Watcher;
use crate::control::{Parts, exchange};
use crate::http::Protocols;
use crate::jose::KeySet;
use crate::tls::ClientProfile;
use crate::upstream::{Origin, Whence};

/// What the targets of one upstream have in common.
pub(super) struct Origins {
    upstream: written::Upstream,
    trust: u64,
    protocols: Protocols,
    guard: Arc<AddressGuard>,
    roots: OnceLock<Result<Arc<RootCertStore>, String>>,
    upkeep: Option<Upkeep>,
}

/// What keeps targets up to date; without it nothing is resolved and nothing watched.
struct Upkeep {
    names: Names,
    watcher: Watcher,
    membership: Membership,
}

impl Origins {
    pub(super) fn new(upstream: &written::Upstream, parts: Option<&Parts<KeySet>>) -> Arc<Origins> {
        Arc::new(Origins {
            trust: super::trust_identity(&upstream.trust),
            protocols: upstream.protocols_in_force(),
            guard: Arc::new(AddressGuard::new(
                upstream.addresses.iter().map(|network| network.value).collect(),
            )),
            roots: OnceLock::new(),
            upkeep: parts.map(|parts| Upkeep {
                names: parts.names.clone(),
                watcher: parts.watcher.clone(),
                membership: parts.membership.clone(),
            }),
            upstream: upstream.clone(),
        })
    }

    /// A target, without its members yet.
    ///
    /// # Errors
    /// What it is to be trusted by, or the file that it names, is not in order.
    pub(super) fn origin(
        self: &Arc<Origins>,
        target: &Spanned<written::Target>,
    ) -> Result<Origin, Vec<ConfigError>> {
        let (host, authority, whence) = match &target.host {
            written::Host::Net(host, port) => {
                let authority = match (target.https, port) {
                    (true, 443) | (false, 80) => host.as_str().to_owned(),
                    _ => format!("{host}:{port}"),
                };
                (host.as_str(), authority, self.at(host, *port))
            }
            // A Unix socket has no name; this machine has.
            written::Host::Unix(path) => {
                ("localhost", "localhost".to_owned(), Whence::Fixed(path.as_path().into()))
            }
            written::Host::Service(service) => {
                let domain = service.domain().as_str();
                let whence = match &self.upkeep {
                    Some(upkeep) => Whence::Service(upkeep.names.services(service.name())),
                    None => Whence::Nowhere,
                };
                (domain, domain.to_owned(), whence)
            }
            written::Host::File(path) => ("localhost", String::new(), self.file(path, target.span)?),
        };
        let tls = match target.https {
            true => Some(self.client_profile(host, target.span).map_err(|error| vec![error])?),
            false => None,
        };
        Ok(Origin {
            name: target.value.to_string().into(),
            whence,
            authority: authority.into(),
            trust: if tls.is_some() { self.trust } else { 0 },
            protocols: self.protocols,
            tls,
            weight: target.weight,
            priority: target.priority,
            guard: Arc::clone(&self.guard),
        })
    }

    fn at(&self, host: &crate::config::unit::HostName, port: u16) -> Whence {
        let address = match host.ip() {
            Some(ip) => Some(SocketAddr::new(ip, port)),
            // RFC 6761 §6.3: this name never leaves the machine.
            None if host.as_str() == "localhost" => Some(SocketAddr::from(([127, 0, 0, 1], port))),
            None => None,
        };
        match (address, &self.upkeep) {
            (Some(address), _) => Whence::Fixed(address.into()),
            (None, Some(upkeep)) => Whence::Named(upkeep.names.addresses(host.as_str()), port),
            (None, None) => Whence::Nowhere,
        }
    }

    fn file(self: &Arc<Origins>, path: &Path, span: Span) -> Result<Whence, Vec<ConfigError>> {
        // Those of the file are shown where the configuration names it, each with its own place in words.
        let at_target = |errors: Errors| -> Vec<ConfigError> {
            let moved = |error: &ConfigError| {
                let mut moved = ConfigError::new(error.code, placed(errors.sources(), error), span);
                (moved.found, moved.expected) = (error.found.clone(), error.expected.clone());
                moved
            };
            errors.iter().map(moved).collect()
        };
        let first = self.read(path).map_err(at_target)?;
        let Some(upkeep) = &self.upkeep else { return Ok(Whence::Nowhere) };
        let (origins, followed) = (Arc::clone(self), path.to_owned());
        let again: ReadTargets = Arc::new(move || {
            origins.read(&followed).map_err(|errors| {
                errors.iter().map(|error| placed(errors.sources(), error)).collect::<Vec<String>>()
            })
        });
        let membership = upkeep.membership.clone();
        let on_change = Arc::new(move || {
            membership.refresh();
        });
        Ok(Whence::File(TargetsFile::follow(path, first, again, &upkeep.watcher, on_change)))
    }

    fn read(self: &Arc<Origins>, path: &Path) -> Result<Vec<Origin>, Errors> {
        let targets = read_targets(path, &self.upstream)?;
        let mut origins = Vec::with_capacity(targets.len());
        let mut failed = Errors::new(Arc::default(), Vec::new());
        for target in &targets {
            match self.origin(target) {
                Ok(origin) => origins.push(origin),
                Err(errors) => failed.extend(errors),
            }
        }
        if failed.is_empty() { Ok(origins) } else { Err(failed) }
    }

    fn client_profile(&self, host: &str, span: Span) -> Result<Arc<ClientProfile>, ConfigError> {
        let roots =
            |ca: Option<&Path>| self.roots.get_or_init(|| exchange::trust_roots(ca).map(Arc::new)).clone();
        let verified = |roots| ClientProfile::new(roots, host, self.protocols);
        let profile = match &self.upstream.trust {
            written::Trust::System => roots(None).and_then(verified),
            written::Trust::File(path) => roots(Some(&path.value.0)).and_then(verified),
            written::Trust::Unverified(_) => ClientProfile::unverified(host, self.protocols),
        };
        profile.map(Arc::new).map_err(|why| ConfigError::new(UPSTREAM_TRUST, why, span))
    }
}

/// How targets are probed.
pub(super) fn plan(written: &written::Health) -> health::Plan {
    let count = |number: Option<u64>, default: u32| {
        number.and_then(|number| u32::try_from(number).ok()).unwrap_or(default)
    };
    health::Plan {
        ask: match &written.ask {
            written::Ask::Tcp => health::Ask::Tcp,
            written::Ask::Tls(_) => health::Ask::Tls,
            written::Ask::Grpc { service, host } => health::Ask::Grpc {
                service: service.as_str().into(),
                host: host.as_ref().map(|host| host.as_str().into()),
            },
            written::Ask::Get { path, statuses, host } => health::Ask::Get {
                target: path.as_str().into(),
                host: host.as_ref().map(|host| host.as_str().into()),
                statuses: match statuses.as_slice() {
                    [] => vec![(200, 299)],
                    statuses => statuses.iter().map(|range| (range.first, range.last)).collect(),
                },
            },
        },
        every: written.every,
        timeout: written.timeout_in_force(),
        down_after: count(written.down_after, 2),
        up_after: count(written.up_after, 1),
        port: written.port.as_ref().and_then(|port| u16::try_from(port.value).ok()),
        proxy: None,
        protocols: Protocols::HTTP1,
    }
}

/// `file:line:column: code what`.
fn placed(sources: &Sources, error: &ConfigError) -> String {
    let (name, at) = (sources.name(error.primary.span), sources.position(error.primary.span));
    match name {
        "" => format!("{} {}", error.code, error.title),
        name => format!("{name}:{}:{}: {} {}", at.line, at.column, error.code, error.title),
    }
}
