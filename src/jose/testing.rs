//! Tokens and keys for the tests of this module.

use ring::hmac;

use super::base64url;
use super::jwks::{KeySet, Origin};

const SECRET: &[u8; 48] = b"a secret for tests only, forty-eight bytes long!";

/// A set with the one secret that [`sign_hs256`] signs with, called `one`.
pub fn hs256_set() -> KeySet {
    secret_set(&["one"])
}

/// The same secret under several ids.
pub fn secret_set(ids: &[&str]) -> KeySet {
    let secret = base64url::encode(SECRET);
    let key = |id: &&str| format!(r#"{{"kty":"oct","alg":"HS256","kid":"{id}","k":"{secret}"}}"#);
    let keys: Vec<String> = ids.iter().map(key).collect();
    KeySet::parse(format!("{{\"keys\":[{}]}}", keys.join(",")).as_bytes(), Origin::File).unwrap()
}

/// A token over `header` and `payload` as they are.
pub fn sign_hs256(header: &str, payload: &str) -> String {
    let signed =
        format!("{}.{}", base64url::encode(header.as_bytes()), base64url::encode(payload.as_bytes()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), signed.as_bytes());
    format!("{signed}.{}", base64url::encode(tag.as_ref()))
}
