//! Rules for `listen`.

use super::super::bind::Bind;
use super::super::error::{Code, ConfigError};
use super::super::model::listen::PERMISSIONS;
use super::super::model::{AddressEntry, Draft, Listener, Tls};
use super::super::unit::Address;
use super::unneeded;

/// Two listeners on one address.
pub const ADDRESS_TWICE: Code = Code::new(1102);
/// A listener does not say how its connections become private.
pub const TLS_MISSING: Code = Code::new(1103);
/// Requests would come in without TLS from other machines.
pub const PLAIN: Code = Code::new(1104);
/// A redirect to `https` on a listener that has TLS.
pub const REDIRECT_TLS: Code = Code::new(1106);
/// A domain stands twice on one listener.
pub const DOMAIN_TWICE: Code = Code::new(1107);
/// Everybody is a trusted proxy.
pub const TRUSTS_ALL: Code = Code::new(1108);
/// Trusted proxies on a listener that forwards nothing.
pub const REDIRECT_KEYS: Code = Code::new(1109);

/// A listener that only redirects would speak HTTP/2.
pub const REDIRECT_PROTOCOL: Code = Code::new(1111);

/// A header of the PROXY protocol that nobody may send.
pub const PROXY_UNTRUSTED: Code = Code::new(1171);
/// A field of proxies that nobody is trusted to send.
pub const CLIENT_ADDRESS_UNUSED: Code = Code::new(1172);
/// A network is both allowed and denied.
pub const ADDRESS_BOTH: Code = Code::new(1173);

pub(super) fn check(draft: &Draft, bind: &mut Bind<'_>) {
    let Some(listeners) = &draft.listen else { return };
    for (at, listener) in listeners.iter().enumerate() {
        one(listener, bind);
        // Port 0 takes any free port, a different one each time.
        let free = matches!(listener.address.value, Address::Tcp(address) if address.port() == 0);
        let first = listeners[..at].iter().find(|first| first.address.value == listener.address.value);
        if let (false, Some(first)) = (free, first) {
            bind.error(
                ConfigError::new(ADDRESS_TWICE, "two listeners have one address", listener.address.span)
                    .label("again here")
                    .also(first.address.span, "first here")
                    .fix("put their domains and certificates into one listener"),
            );
        }
    }
}

fn one(listener: &Listener, bind: &mut Bind<'_>) {
    if let (Some(permissions), Address::Tcp(_)) = (&listener.permissions, &listener.address.value) {
        bind.error(
            ConfigError::new(PERMISSIONS, "a port is no file: it has no mode", permissions.span)
                .also(listener.address.span, "this is no Unix socket")
                .fix("delete `permissions`; `allow_addresses` says who may connect"),
        );
    }
    match (&listener.tls, listener.redirect) {
        (None, None) => bind.error(
            ConfigError::new(
                TLS_MISSING,
                "the listener does not say how its connections become private",
                listener.address.span,
            )
            .expected(
                "`tls: { cert: FILE, key: FILE }`, `tls: self-signed`, `tls: none`, or `redirect: https`",
            )
            .why("Ringwall never serves plain HTTP because a key was forgotten"),
        ),
        (Some(tls), Some(redirect)) if !matches!(tls.value, Tls::None) => bind.error(
            ConfigError::new(
                REDIRECT_TLS,
                "a redirect to `https` on a listener with TLS leads nowhere",
                redirect,
            )
            .also(tls.span, "this has TLS already")
            .fix("delete one of the two; other redirects belong to an operation"),
        ),
        (Some(tls), None)
            if matches!(tls.value, Tls::None)
                && !listener.address.is_local()
                && listener.insecure.is_none() =>
        {
            bind.error(
                ConfigError::new(PLAIN, "requests would come in without TLS from other machines", tls.span)
                    .also(listener.address.span, "reachable from outside")
                    .expected("TLS, a loopback address or Unix socket, or `insecure: { reason, until }`")
                    .fix("add `insecure: { reason: \"…\", until: 2027-06-30 }` if something before it ends TLS")
                    .why("keys and tokens would cross the network readable"),
            );
        }
        _ => {}
    }
    if let Some(exception) = &listener.insecure {
        let plain = listener.tls.as_ref().is_some_and(|tls| matches!(tls.value, Tls::None));
        if !plain || listener.address.is_local() || listener.redirect.is_some() {
            bind.note(unneeded(exception));
        }
    }
    for (at, domain) in listener.domains.iter().enumerate() {
        if let Some(first) = listener.domains[..at].iter().find(|first| first.value == domain.value) {
            bind.error(
                ConfigError::new(DOMAIN_TWICE, format!("`{}` stands twice", domain.value), domain.span)
                    .also(first.span, "first here"),
            );
        }
    }
    if let (Some(redirect), Some(proxy), None) =
        (listener.redirect, listener.trusted_proxies.first(), &listener.proxy_protocol)
    {
        bind.error(
            ConfigError::new(REDIRECT_KEYS, "a listener that only redirects forwards nothing", proxy.span)
                .also(redirect, "it only redirects")
                .fix("delete `trusted_proxies`"),
        );
    }
    if let (Some(redirect), Some(protocols)) = (listener.redirect, &listener.protocols)
        && protocols.value.http2
    {
        bind.error(
            ConfigError::new(REDIRECT_PROTOCOL, "a redirect to `https` is given in HTTP/1.1", protocols.span)
                .also(redirect, "it only redirects")
                .fix("delete `protocols`"),
        );
    }
    for net in &listener.trusted_proxies {
        if net.value.prefix_len() == 0 {
            bind.error(
                ConfigError::new(TRUSTS_ALL, "everybody is a trusted proxy", net.span)
                    .found(net.value.to_string())
                    .expected("the networks of your own proxies")
                    .why("every caller could then say which address it comes from"),
            );
        }
    }
    addresses(listener, bind);
}

fn addresses(listener: &Listener, bind: &mut Bind<'_>) {
    if listener.trusted_proxies.is_empty() {
        if let Some(protocol) = &listener.proxy_protocol {
            bind.error(
                ConfigError::new(PROXY_UNTRUSTED, "nobody may send the PROXY header", protocol.span)
                    .expected("`trusted_proxies` beside it: the networks of the proxies that send it")
                    .fix("add `trusted_proxies: [10.0.0.0/8]` with the networks of your own proxies")
                    .why("whoever sends that header says which address it comes from"),
            );
        }
        if let Some(field) = &listener.client_address {
            bind.error(
                ConfigError::new(CLIENT_ADDRESS_UNUSED, "nobody is trusted to name the client", field.span)
                    .expected("`trusted_proxies` beside it")
                    .fix("add `trusted_proxies`, or delete `client_address`"),
            );
        }
    }
    let network = |entry: &AddressEntry| match entry {
        AddressEntry::Network(network) => Some(*network),
        AddressEntry::File(_) => None,
    };
    for denied in &listener.deny_addresses {
        let Some(net) = network(&denied.value) else { continue };
        if let Some(allowed) = listener.allow_addresses.iter().find(|one| network(&one.value) == Some(net)) {
            bind.error(
                ConfigError::new(ADDRESS_BOTH, format!("{net} is both allowed and denied"), denied.span)
                    .also(allowed.span, "allowed here")
                    .fix("delete one of the two"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::bind::Spanned;
    use crate::config::source::{Sources, Span};
    use crate::http::Protocols;

    #[test]
    fn who_only_redirects_does_so_in_http1() {
        let text = "ringwall: 1\nlisten: [{ address: \"127.0.0.1:80\", redirect: https }, \
                    { address: \"127.0.0.1:81\", tls: none }, { address: \"127.0.0.1:82\", tls: self-signed }]\n\
                    upstreams: { a: \"http://127.0.0.1:1\" }\n\
                    apis: { a: { to: a, raw: \"a test\", allow: [{ who: anyone }] } }";
        let loaded = crate::config::parse_str("a.yaml", text).unwrap_or_else(|errors| panic!("{errors}"));
        let errors = |at: usize, protocols| {
            let protocols = Some(Spanned::new(protocols, Span::default()));
            let listener = Listener { protocols, ..loaded.config.listen[at].clone() };
            let sources = Sources::default();
            let mut bind = Bind::new(&sources, &[]);
            one(&listener, &mut bind);
            bind.into_parts().0.iter().map(|error| error.code.number()).collect::<Vec<_>>()
        };
        let refused = [REDIRECT_PROTOCOL.number()];
        assert_eq!(errors(0, Protocols::HTTP2), refused);
        assert_eq!(errors(0, Protocols::BOTH), refused);
        assert!(errors(0, Protocols::HTTP1).is_empty());
        for at in [1, 2] {
            for protocols in [Protocols::HTTP1, Protocols::HTTP2, Protocols::BOTH] {
                assert!(errors(at, protocols).is_empty(), "{at} {protocols:?}");
            }
        }
    }
}
