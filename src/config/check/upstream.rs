//! Rules for `upstreams`.

use std::net::IpAddr;

use super::super::bind::{Bind, Spanned};
use super::super::error::{Code, ConfigError};
use super::super::model::health::HEALTH_KEYS;
use super::super::model::{Ask, Draft, Health, Host, Surface, Target, TargetProtocol, Trust, Upstream};
use super::unneeded;
use crate::control::address_guard::{AddressGuard, Origin};
use crate::http::Protocols;

/// Requests would go to another machine without TLS.
pub const PLAIN: Code = Code::new(1203);
/// Nobody checks who the upstream is.
pub const UNVERIFIED: Code = Code::new(1204);
/// Authorities for an upstream without TLS.
pub const CA_UNUSED: Code = Code::new(1205);
/// A target stands twice.
pub const TARGET_TWICE: Code = Code::new(1207);
/// No API uses the upstream.
pub const UNUSED: Code = Code::new(1210);
/// A target that could choose by ALPN has no TLS to choose in.
pub const AUTO_PLAIN: Code = Code::new(1211);
/// A connection that carries requests of many clients would begin with the name of one.
pub const PROXY_SHARED: Code = Code::new(1212);

/// A target is at an address that no upstream is at.
pub const TARGET_ADDRESS: Code = Code::new(1252);
/// Names may lead everywhere.
pub const ADDRESSES_ALL: Code = Code::new(1253);

pub(super) fn check(draft: &Draft, bind: &mut Bind<'_>) {
    let Some(upstreams) = &draft.upstreams else { return };
    for (name, upstream) in upstreams.iter() {
        one(upstream, bind);
        unused(draft, name, bind);
    }
}

fn one(upstream: &Upstream, bind: &mut Bind<'_>) {
    let mut needed = false;
    for (at, target) in upstream.targets.iter().enumerate() {
        if let Some(first) = upstream.targets[..at].iter().find(|first| first.value.is_at(&target.value)) {
            bind.error(
                ConfigError::new(TARGET_TWICE, format!("`{}` stands twice", target.value), target.span)
                    .also(first.span, "first here"),
            );
        }
        // What is in a file may need it.
        needed |= matches!(target.host, Host::File(_)) || !(target.https || target.is_local());
        if let Some(error) = target_error(target, upstream) {
            bind.error(error);
        }
    }
    for network in upstream.addresses.iter().filter(|network| network.value.prefix_len() == 0) {
        bind.error(
            ConfigError::new(ADDRESSES_ALL, "the names of targets may lead everywhere", network.span)
                .found(format!("`{}`", network.value))
                .expected("the networks that the upstream is in")
                .why("whoever changes a record could point it at what only this machine can reach"),
        );
    }
    if let (Some(written), Some(protocol)) = (&upstream.proxy_protocol, &upstream.protocol)
        && upstream.protocols_in_force().http2
    {
        bind.error(
            ConfigError::new(PROXY_SHARED, "the header of a connection cannot name all its clients", written.span)
                .expected("`proxy_protocol` with `protocol: http1`, which is the default")
                .also(protocol.span, "over HTTP/2 one connection carries requests of many clients")
                .fix("delete `proxy_protocol`: `X-Forwarded-For` names the client of each request; or write `protocol: http1`")
                .why("the upstream would take all requests on the connection for those of whoever was first"),
        );
    }
    match &upstream.trust {
        Trust::Unverified(span) => {
            needed = true;
            if upstream.insecure.is_none() {
                bind.error(
                    ConfigError::new(UNVERIFIED, "nobody would check who the upstream is", *span)
                        .expected("a PEM file with its authority, or `insecure: { reason, until }` beside it")
                        .fix("name the PEM file of the authority that signed its certificate")
                        .why("TLS with anybody is not private: it may be with whoever is between the two"),
                );
            }
        }
        Trust::File(path) if !upstream.targets.iter().any(|target| may_be_https(target)) => bind.error(
            ConfigError::new(CA_UNUSED, "no target has TLS, so its authority is never checked", path.span)
                .fix("write the targets with `https://`, or delete `ca`"),
        ),
        Trust::File(_) | Trust::System => {}
    }
    if let Some(exception) = &upstream.insecure
        && !needed
    {
        bind.note(unneeded(exception));
    }
}

/// What is wrong with one target of an upstream, wherever it stands.
pub(in super::super) fn target_error(target: &Spanned<Target>, upstream: &Upstream) -> Option<ConfigError> {
    if !target.https && !target.is_local() && upstream.insecure.is_none() {
        let error = ConfigError::new(PLAIN, "requests would go to another machine without TLS", target.span)
            .found(format!("`{}`", target.value))
            .expected("`https://`, a loopback address or Unix socket, or `insecure: { reason, until }`")
            .fix("add `insecure: { reason: \"…\", until: 2027-06-30 }` beside `targets` if it must be")
            .why("whoever is between the two reads and changes every request and answer");
        return Some(error);
    }
    if let Some(error) = protocol_error(target, upstream) {
        return Some(error);
    }
    let protocols = upstream.protocols_in_force();
    if let Some(error) = upstream.health.as_ref().and_then(|health| probe_error(target, health, protocols)) {
        return Some(error);
    }
    let Host::Net(host, _) = &target.host else { return None };
    let ip: IpAddr = host.ip()?;
    let guard = AddressGuard::new(upstream.addresses.iter().map(|network| network.value).collect());
    let kind = guard.admit(ip, Origin::Written).err()?;
    Some(
        ConfigError::new(
            TARGET_ADDRESS,
            format!("no upstream is at this address: it is {kind}"),
            target.span,
        )
        .found(format!("`{}`", target.value))
        .expected("a public, private or loopback address")
        .fix("name its network in `addresses` beside `targets` if it is meant")
        .why("a metadata service gives this machine's credentials to whoever asks"),
    )
}

/// What is to be agreed on by ALPN, where there is none.
fn protocol_error(target: &Spanned<Target>, upstream: &Upstream) -> Option<ConfigError> {
    let protocol = upstream.protocol.as_ref().filter(|protocol| protocol.value == TargetProtocol::Auto)?;
    if may_be_https(target) {
        return None;
    }
    let error = ConfigError::new(AUTO_PLAIN, "the target has no TLS to choose a protocol in", target.span)
        .found(format!("`{}`", target.value))
        .expected("`https://`, or `protocol: http1` or `protocol: http2`")
        .also(protocol.span, "this leaves it to ALPN")
        .fix("write `protocol: http1`, or `protocol: http2` if it speaks HTTP/2 without TLS")
        .why("without TLS nobody says what is spoken, and a wrong guess costs the first requests");
    Some(error)
}

/// What of a probe does not fit a target.
fn probe_error(target: &Spanned<Target>, health: &Health, protocols: Protocols) -> Option<ConfigError> {
    if matches!(target.host, Host::File(_)) {
        return None;
    }
    if let (Ask::Tls(written), false) = (&health.ask, target.https) {
        let error = ConfigError::new(HEALTH_KEYS, "the target has no TLS to shake hands in", target.span);
        return Some(
            error.also(*written, "this asks for it").fix("probe with `connect: tcp`, or with `get`"),
        );
    }
    if let (Ask::Grpc { .. }, None, false) = (&health.ask, &health.port, protocols.http2) {
        let error =
            ConfigError::new(HEALTH_KEYS, "gRPC is asked in HTTP/2, and the target in HTTP/1.1", target.span);
        return Some(
            error.also(health.span, "this asks in gRPC").fix("write `protocol: http2` beside `targets`"),
        );
    }
    if let (Some(port), Host::Unix(_)) = (&health.port, &target.host) {
        let error = ConfigError::new(HEALTH_KEYS, "a Unix socket has no port", target.span);
        return Some(error.also(port.span, "this names one").fix("leave `port` out"));
    }
    None
}

fn may_be_https(target: &Target) -> bool {
    target.https || matches!(target.host, Host::File(_))
}

fn unused(draft: &Draft, name: &Spanned<String>, bind: &mut Bind<'_>) {
    let Some(apis) = &draft.apis else { return };
    let may_be_used = apis.len() < apis.names().count()
        || apis.iter().any(|(_, api)| {
            let to = api.to.as_ref();
            to.is_some_and(|to| to.upstream.value == name.value)
                || (to.is_none() && api.written.to)
                || (to.is_none() && !matches!(api.surface, Some(Surface::Closed(_) | Surface::Operations(_))))
        });
    if !may_be_used {
        bind.note(ConfigError::note(UNUSED, format!("no API uses the upstream `{}`", name.value), name.span));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::source::Span;

    #[test]
    fn a_header_that_names_one_client_is_for_connections_that_serve_one() {
        let errors = |rest: &str| -> Vec<u16> {
            let text = format!(
                "ringwall: 1\nlisten: {{ address: \"127.0.0.1:80\", tls: none }}\n\
                 upstreams: {{ a: {{ targets: [\"https://127.0.0.1:1\"], {rest} }} }}\n\
                 apis: {{ a: {{ to: a, raw: \"a test\", allow: [{{ who: anyone }}] }} }}"
            );
            match crate::config::parse_str("a.yaml", &text) {
                Ok(_) => Vec::new(),
                Err(errors) => errors.iter().map(|error| error.code.number()).collect(),
            }
        };
        for version in ["v1", "v2"] {
            for protocol in ["http2", "auto"] {
                let both = format!("proxy_protocol: {version}, protocol: {protocol}");
                assert_eq!(errors(&both), [PROXY_SHARED.number()], "{both}");
                assert_eq!(errors(&format!("protocol: {protocol}")), [0; 0]);
            }
            assert_eq!(errors(&format!("proxy_protocol: {version}, protocol: http1")), [0; 0]);
            assert_eq!(errors(&format!("proxy_protocol: {version}")), [0; 0]);
        }
    }

    #[test]
    fn what_is_left_to_alpn_has_tls() {
        let text = "ringwall: 1\nlisten: { address: \"127.0.0.1:80\", tls: none }\n\
                    upstreams: { a: [\"https://a.example\", \"http://127.0.0.1:1\", \"unix:/run/a.sock\", \
                    \"srv+https://_a._tcp.example\", \"file:t.yaml\"] }\n\
                    apis: { a: { to: a, raw: \"a test\", allow: [{ who: anyone }] } }";
        let loaded = crate::config::parse_str("a.yaml", text).unwrap_or_else(|errors| panic!("{errors}"));
        let written = loaded.config.upstreams.get("a").expect("an upstream");
        let errors = |protocol: Option<TargetProtocol>| -> Vec<Option<u16>> {
            let protocol = protocol.map(|protocol| Spanned::new(protocol, Span::default()));
            let upstream = Upstream { protocol, ..written.clone() };
            let code = |target| target_error(target, &upstream).map(|error| error.code.number());
            upstream.targets.iter().map(code).collect()
        };
        let refused = Some(AUTO_PLAIN.number());
        // What is in the file is looked at when it is read.
        assert_eq!(errors(Some(TargetProtocol::Auto)), [None, refused, refused, None, None]);
        for protocol in [None, Some(TargetProtocol::Http1), Some(TargetProtocol::Http2)] {
            assert_eq!(errors(protocol), [None; 5], "{protocol:?}");
        }
    }
}
