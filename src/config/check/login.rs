//! Rules for `login`.

use super::super::bind::{Bind, Spanned};
use super::super::error::{Code, ConfigError};
use super::super::model::login::Method;
use super::super::model::{Certificates, Draft, JwtKeys, Tls, Tokens, Who};
use super::super::unit::Url;
use super::fields::refuses_credential;

/// Whoever can verify can also sign.
pub const HMAC_SHARED: Code = Code::new(1305);
/// Keys would be fetched without TLS.
pub const KEYS_PLAIN: Code = Code::new(1306);
/// The field cannot carry a key.
pub const FIELD: Code = Code::new(1307);
/// A login has a name that means something else.
pub const RESERVED: Code = Code::new(1308);
/// Two logins accept the same tokens.
pub const TOKENS_TWICE: Code = Code::new(1312);
/// No grant names the login.
pub const UNUSED: Code = Code::new(1313);
/// No listener asks for certificates.
pub const NOT_ASKED: Code = Code::new(1381);
/// A listener asks for certificates, and nobody goes by them.
pub const ASKED_IN_VAIN: Code = Code::new(1156);
/// Two logins accept the same certificates.
pub const CERTIFICATES_TWICE: Code = Code::new(1382);

pub(super) fn check(draft: &Draft, bind: &mut Bind<'_>) {
    asked_in_vain(draft, bind);
    let Some(logins) = &draft.login else { return };
    let mut before: Vec<(&Spanned<String>, &Tokens)> = Vec::new();
    let mut certificates_before: Vec<(&Spanned<String>, &Certificates)> = Vec::new();
    for (name, login) in logins.iter() {
        if name.value == "anyone" {
            bind.error(
                ConfigError::new(RESERVED, "`anyone` stands for everybody, with or without login", name.span)
                    .fix("give the login another name"),
            );
        }
        match &login.method {
            Method::ApiKey(keys) => {
                if let Some(why) = refuses_credential(&keys.header) {
                    bind.error(
                        ConfigError::new(
                            FIELD,
                            format!("`{}` cannot carry a key", keys.header.as_str()),
                            keys.header.span,
                        )
                        .expected("a field of its own such as `X-API-Key`")
                        .why(why),
                    );
                }
            }
            Method::Jwt(tokens) => {
                one(tokens, bind);
                let same = before.iter().find(|(_, other)| {
                    other.issuer.value == tokens.issuer.value
                        && other.audience.iter().any(|a| tokens.audience.iter().any(|b| a.value == b.value))
                });
                if let Some((first, _)) = same {
                    bind.error(
                        ConfigError::new(
                            TOKENS_TWICE,
                            format!("`{}` and `{}` accept the same tokens", first.value, name.value),
                            tokens.issuer.span,
                        )
                        .also(first.span, "the other one")
                        .expected("another issuer, or another audience")
                        .why("it would be chance which of the two a caller comes in by"),
                    );
                }
                before.push((name, tokens));
            }
            Method::Mtls(certificates) => {
                asked_for(draft, certificates, bind);
                let same = certificates_before.iter().find(|(_, other)| {
                    other.ca.value == certificates.ca.value
                        && other.trust_domain.as_ref().map(|domain| &domain.value)
                            == certificates.trust_domain.as_ref().map(|domain| &domain.value)
                        && other
                            .names
                            .iter()
                            .map(|name| &name.value)
                            .eq(certificates.names.iter().map(|name| &name.value))
                });
                if let Some((first, _)) = same {
                    bind.error(
                        ConfigError::new(
                            CERTIFICATES_TWICE,
                            format!("`{}` and `{}` accept the same certificates", first.value, name.value),
                            certificates.ca.span,
                        )
                        .also(first.span, "the other one")
                        .expected("other authorities, another trust domain, or other names")
                        .why("nobody would ever come in by the second"),
                    );
                }
                certificates_before.push((name, certificates));
            }
        }
        unused(draft, name, bind);
    }
}

fn one(tokens: &Tokens, bind: &mut Bind<'_>) {
    let url: Option<&Url> = match &tokens.keys.value {
        JwtKeys::File(_) => None,
        JwtKeys::Url(url) | JwtKeys::Discovery(url) => Some(url),
    };
    if let Some(url) = url {
        if !url.https && !url.is_local() {
            bind.error(
                ConfigError::new(
                    KEYS_PLAIN,
                    "the keys of tokens would be fetched without TLS",
                    tokens.keys.span,
                )
                .found(format!("`{url}`"))
                .expected("`https://`")
                .why("whoever is between the two could send keys of its own, and sign any token"),
            );
        }
        for algorithm in tokens.algorithms.iter().filter(|algorithm| algorithm.is_hmac()) {
            bind.error(
                ConfigError::new(
                    HMAC_SHARED,
                    format!("`{}` with keys from a URL", algorithm.as_str()),
                    algorithm.span,
                )
                .also(tokens.keys.span, "fetched from here")
                .expected("an algorithm with a public key, or a JWKS file")
                .why("RFC 8725 §3.1; with HMAC whoever can read the key can sign, and keys at a URL are public"),
            );
        }
    }
    for (at, algorithm) in tokens.algorithms.iter().enumerate() {
        if let Some(first) = tokens.algorithms[..at].iter().find(|first| first.value == algorithm.value) {
            bind.note(
                ConfigError::note(
                    TOKENS_TWICE,
                    format!("`{}` stands twice", algorithm.as_str()),
                    algorithm.span,
                )
                .also(first.span, "first here"),
            );
        }
    }
}

/// What need not be shown and opens nothing is asked for in vain.
fn asked_in_vain(draft: &Draft, bind: &mut Bind<'_>) {
    let (Some(listeners), Some(logins)) = (&draft.listen, &draft.login) else { return };
    let unread = logins.len() < logins.names().count();
    if unread || logins.iter().any(|(_, login)| matches!(login.method, Method::Mtls(_))) {
        return;
    }
    for tls in listeners.iter().filter_map(|listener| listener.tls.as_ref()) {
        let Tls::Files(files) = &tls.value else { continue };
        let asked = files.iter().filter_map(|file| file.clients.as_ref()).find(|clients| !clients.required);
        if let Some(clients) = asked {
            bind.note(
                ConfigError::note(
                    ASKED_IN_VAIN,
                    "clients are asked for certificates that open nothing",
                    clients.span,
                )
                .expected("a login with `mtls` that an `allow` names, or `required: true`"),
            );
        }
    }
}

/// A login by certificates is of no use where nobody is asked for one.
fn asked_for(draft: &Draft, certificates: &Certificates, bind: &mut Bind<'_>) {
    // Listeners that could not be read may ask.
    let Some(listeners) = &draft.listen else { return };
    let asks = listeners.iter().filter_map(|listener| listener.tls.as_ref()).any(|tls| match &tls.value {
        Tls::Files(files) => files.iter().any(|file| file.clients.is_some()),
        Tls::SelfSigned | Tls::None => false,
    });
    if !asks && bind.error_count() == 0 {
        bind.error(
            ConfigError::new(NOT_ASKED, "no listener asks clients for certificates", certificates.ca.span)
                .expected("`tls: { cert, key, client_ca: CA-FILE }` at the listener that these callers use")
                .why("a certificate is shown in the handshake or not at all"),
        );
    }
}

fn unused(draft: &Draft, name: &Spanned<String>, bind: &mut Bind<'_>) {
    let Some(apis) = &draft.apis else { return };
    let unread = apis.len() < apis.names().count()
        || apis.iter().any(|(_, api)| api.allow.is_none() && (api.written.allow || !api.is_closed()));
    let named = apis
        .iter()
        .filter_map(|(_, api)| api.allow.as_ref())
        .flat_map(|allow| &allow.grants)
        .flat_map(|grant| &grant.who)
        .any(|who| matches!(&who.value, Who::Login(login) if *login == name.value));
    if !unread && !named {
        bind.note(ConfigError::note(UNUSED, format!("no grant names the login `{}`", name.value), name.span));
    }
}
