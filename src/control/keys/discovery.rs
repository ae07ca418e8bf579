//! OpenID Connect discovery: from an issuer to the URL of its key set.
//!
//! OpenID Connect Discovery 1.0 §4: the document lies at a fixed path below the issuer and must name exactly the
//! issuer that was asked; anything else is a mix-up or an attack. Pure functions; `keys` fetches.

use serde::Deserialize;

use crate::control::address_guard::Origin;
use crate::control::fetch::{Url, UrlError};

/// What is wrong with a discovery document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DiscoveryError {
    /// Not a JSON object with the strings `issuer` and `jwks_uri`, each once.
    Malformed(String),
    /// It is another issuer's document.
    IssuerDiffers(String),
    /// Its `jwks_uri` may not be fetched.
    KeySetUrl(UrlError),
}

impl std::fmt::Display for DiscoveryError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DiscoveryError::Malformed(why) => write!(f, "the discovery document is malformed: {why}"),
            DiscoveryError::IssuerDiffers(found) => {
                write!(f, "the discovery document is of issuer {found:?}")
            }
            DiscoveryError::KeySetUrl(why) => write!(f, "jwks_uri: {why}"),
        }
    }
}

#[derive(Deserialize)]
struct Metadata {
    issuer: String,
    jwks_uri: String,
}

/// The URL of the discovery document of `issuer`.
///
/// # Errors
/// The issuer is no URL that may be fetched, or has a query (§3: "no query or fragment components").
pub fn document_url(issuer: &str) -> Result<Url, UrlError> {
    if issuer.contains('?') {
        return Err(UrlError::Byte);
    }
    // §4.1: "any terminating / MUST be removed".
    let base = issuer.strip_suffix('/').unwrap_or(issuer);
    Url::parse(&format!("{base}/.well-known/openid-configuration"))
}

/// The URL of the key set named by `document`, which was fetched from `document_url` for `issuer`, and whether
/// it counts as written by the operator: it does if it lives at the issuer itself, which the operator wrote.
///
/// # Errors
/// See [`DiscoveryError`].
pub fn key_set_url(
    issuer: &str,
    document_url: &Url,
    document: &[u8],
) -> Result<(Url, Origin), DiscoveryError> {
    let metadata: Metadata =
        serde_json::from_slice(document).map_err(|error| DiscoveryError::Malformed(error.to_string()))?;
    // §4.3: "MUST exactly match". Byte by byte, no normalisation.
    if metadata.issuer != issuer {
        return Err(DiscoveryError::IssuerDiffers(metadata.issuer));
    }
    let url = Url::parse(&metadata.jwks_uri).map_err(DiscoveryError::KeySetUrl)?;
    if url.same_origin(document_url) {
        return Ok((url, Origin::Written));
    }
    // A stranger's URL must be https: `http` to loopback is the operator's privilege.
    if !url.is_secure() {
        return Err(DiscoveryError::KeySetUrl(UrlError::PlainText));
    }
    Ok((url, Origin::Found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(issuer: &str, document: &str) -> Result<(String, Origin), DiscoveryError> {
        let at = document_url(issuer).expect("an issuer");
        key_set_url(issuer, &at, document.as_bytes()).map(|(url, origin)| (url.to_string(), origin))
    }

    #[test]
    fn the_document_lies_below_the_issuer() {
        let at = |issuer| document_url(issuer).map(|url| url.to_string());
        let expected = "https://idp.test/realms/a/.well-known/openid-configuration";
        assert_eq!(at("https://idp.test/realms/a").as_deref(), Ok(expected));
        assert_eq!(at("https://idp.test/realms/a/").as_deref(), Ok(expected));
        assert_eq!(at("https://idp.test/?a=b"), Err(UrlError::Byte));
        assert_eq!(at("http://idp.test"), Err(UrlError::PlainText));
    }

    #[test]
    fn only_the_very_issuer_is_taken() {
        let good = r#"{"issuer":"https://idp.test/","jwks_uri":"https://keys.test/k"}"#;
        assert_eq!(check("https://idp.test/", good), Ok(("https://keys.test/k".to_owned(), Origin::Found)));
        for other in ["https://idp.test", "https://IDP.test/", "https://idp.test:443/", "https://idp.test//"]
        {
            assert!(matches!(check(other, good), Err(DiscoveryError::IssuerDiffers(_))), "{other}");
        }
    }

    #[test]
    fn a_key_set_elsewhere_is_https_and_not_the_operators() {
        let document = |uri: &str| format!(r#"{{"issuer":"http://127.0.0.1:99","jwks_uri":"{uri}"}}"#);
        let same = check("http://127.0.0.1:99", &document("http://127.0.0.1:99/k"));
        assert_eq!(same, Ok(("http://127.0.0.1:99/k".to_owned(), Origin::Written)));
        for uri in ["http://127.0.0.1:98/k", "http://keys.test/k", "file:///etc/passwd", "https://a@b/"] {
            assert!(
                matches!(check("http://127.0.0.1:99", &document(uri)), Err(DiscoveryError::KeySetUrl(_))),
                "{uri}"
            );
        }
        let inside = check("http://127.0.0.1:99", &document("https://10.0.0.1/k"));
        assert_eq!(inside, Ok(("https://10.0.0.1/k".to_owned(), Origin::Found)), "the guard refuses it");
    }

    #[test]
    fn a_member_twice_is_malformed() {
        let twice = r#"{"issuer":"https://idp.test","jwks_uri":"https://a/","issuer":"https://evil"}"#;
        assert!(matches!(check("https://idp.test", twice), Err(DiscoveryError::Malformed(_))));
        assert!(matches!(check("https://idp.test", "[]"), Err(DiscoveryError::Malformed(_))));
    }
}
