//! What must hold between the parts of a configuration: names that exist, gates that are closed, exceptions that last.
//!
//! Each rule has its own code and says why it is one. Rules work on a [`Draft`]: a section that could not be read is
//! `None`, and nothing is said about what refers to it. What takes compiling (schemas, certificates, route tables) is
//! checked where it is compiled, in `snapshot`.

mod api;
mod fields;
mod limit;
mod listen;
mod login;
mod upstream;

use jiff::civil::Date;

use super::bind::Bind;
use super::error::{Code, ConfigError};
use super::model::{Draft, Exception, LogTarget, Metrics};

pub(super) use upstream::target_error;

/// The metrics address is one that requests come in on.
pub const METRICS_SHARED: Code = Code::new(1802);
/// The metrics address can be reached from other machines.
pub const METRICS_EXPOSED: Code = Code::new(1803);
/// Access log and audit log go to one file.
pub const LOGS_SHARED: Code = Code::new(1801);
/// A bound on some connections is above that on all.
pub const CONNECTIONS_ABOVE_ALL: Code = Code::new(1840);
/// The counters of limits alone take most of the memory.
pub const MEMORY_OF_LIMITS: Code = Code::new(1841);
/// An exception has ended.
pub const EXCEPTION_EXPIRED: Code = Code::new(1901);
/// An exception that nothing needs.
pub const EXCEPTION_UNNEEDED: Code = Code::new(1909);

/// Applies every rule; reports to `bind`. Returns the exceptions that have ended by `today`, which only `check` and
/// reload take for errors.
pub fn check(draft: &Draft, bind: &mut Bind<'_>, today: Date) -> Vec<ConfigError> {
    listen::check(draft, bind);
    upstream::check(draft, bind);
    login::check(draft, bind);
    api::check(draft, bind, today);
    node(draft, bind);
    expired(draft, today)
}

fn node(draft: &Draft, bind: &mut Bind<'_>) {
    if let Some(metrics) = &draft.node.metrics
        && let Metrics::At(address) = &metrics.value
    {
        let shared = draft.listen.iter().flatten().find(|listener| listener.address.value == *address);
        if let Some(listener) = shared {
            bind.error(
                ConfigError::new(METRICS_SHARED, "metrics are served where requests come in", metrics.span)
                    .also(listener.address.span, "this listener")
                    .expected("an address of their own")
                    .why("what is meant for operators would be reachable for callers"),
            );
        } else if !address.is_local() {
            bind.note(
                ConfigError::note(
                    METRICS_EXPOSED,
                    "metrics can be reached from other machines",
                    metrics.span,
                )
                .fix("see that only the collector can reach this address; there is no login on it"),
            );
        }
    }
    let connections = &draft.node.connections;
    if let Some(all) = &connections.all {
        let parts = [("core", &connections.core), ("address", &connections.address)];
        for (name, bound) in parts.into_iter().filter_map(|(name, bound)| Some((name, bound.as_ref()?))) {
            if bound.value > all.value {
                let title = format!("`{name}` is above the bound on all connections");
                bind.error(
                    ConfigError::new(CONNECTIONS_ABOVE_ALL, title, bound.span)
                        .also(all.span, "that bound")
                        .expected(format!("at most {}", all.value)),
                );
            }
        }
    }
    if let Some(memory) = &draft.node.memory
        && draft.node.limit_memory_in_force() > memory.value.bytes() / 2
    {
        bind.error(
            ConfigError::new(
                MEMORY_OF_LIMITS,
                "the counters of limits may take more than half of the memory",
                memory.span,
            )
            .found(memory.value.to_string())
            .expected("twice `node.limit_memory` (64MiB if it is not set) or more"),
        );
    }
    if let (Some(log), Some(audit)) = (&draft.log, &draft.audit)
        && let (LogTarget::File(log), LogTarget::File(audit)) = (&log.file, &audit.file)
        && log.value == audit.value
    {
        bind.error(
            ConfigError::new(LOGS_SHARED, "access log and audit log go to one file", audit.span)
                .also(log.span, "the access log")
                .expected("a file for each"),
        );
    }
}

fn expired(draft: &Draft, today: Date) -> Vec<ConfigError> {
    let listeners = draft.listen.iter().flatten().filter_map(|listener| listener.insecure.as_ref());
    let upstreams =
        draft.upstreams.iter().flat_map(|all| all.iter()).filter_map(|(_, up)| up.insecure.as_ref());
    let logins =
        draft.login.iter().flat_map(|all| all.iter()).filter_map(|(_, login)| login.mode.exception());
    let gates = draft.apis.iter().flat_map(|all| all.iter());
    let gates = gates.filter_map(|(_, api)| api.allow.as_ref()).filter_map(|allow| allow.mode.exception());
    let all = listeners.chain(upstreams).chain(logins).chain(gates);
    all.filter(|exception| exception.until.value < today)
        .map(|exception| has_ended(exception, today))
        .collect()
}

fn has_ended(exception: &Exception, today: Date) -> ConfigError {
    ConfigError::new(EXCEPTION_EXPIRED, "an exception has ended", exception.until.span)
        .found(exception.until.value.to_string())
        .expected(format!("{today} or later"))
        .fix("do what was planned, or decide again and set a new date")
        .why(format!("it was accepted for this reason: {}", exception.reason.value))
}

fn unneeded(exception: &Exception) -> ConfigError {
    ConfigError::note(EXCEPTION_UNNEEDED, "nothing here needs this exception", exception.span)
        .fix("delete it, so that it cannot cover something later")
}
