//! What the fuzz targets `jwt` and `jwks` do with their bytes. Not called by anything that serves.

use std::sync::OnceLock;

use ring::hmac;

use super::algorithm::Algorithm;
use super::json::{self, Bounds};
use super::{ClaimPath, Expectations, KeySet, Origin, Verifier, base64url};

const SECRET: [u8; 32] = [0x6b; 32];
const NOW_S: u64 = 1_800_000_000;

/// A whole token, or a header and claims that are signed first so that what lies behind the signature is
/// reached as well.
pub(crate) fn jwt(data: &[u8]) {
    static FIXED: OnceLock<Option<(KeySet, Verifier)>> = OnceLock::new();
    let Some((keys, verifier)) = FIXED.get_or_init(fixed) else { return };
    let accepted = verifier.verify(data, keys, NOW_S);
    // Nobody guesses a tag.
    assert!(accepted.is_err() || data.starts_with(b"eyJ"));

    let mut parts = data.splitn(2, |byte| *byte == b'\n');
    let (Some(header), Some(claims)) = (parts.next(), parts.next()) else { return };
    let signed = format!("{}.{}", base64url::encode(header), base64url::encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &SECRET), signed.as_bytes());
    let token = format!("{signed}.{}", base64url::encode(tag.as_ref()));
    let Ok(read) = verifier.verify(token.as_bytes(), keys, NOW_S) else { return };

    // What was accepted is what another reader reads.
    let oracle: serde_json::Value = match serde_json::from_slice(claims) {
        Ok(oracle) => oracle,
        // RFC 8259 §6 bounds no number; the oracle knows none beyond an `f64`, not even in claims that nobody reads.
        Err(error) if error.to_string().starts_with("number out of range") => return,
        Err(error) => panic!("we accept only JSON: {error}"),
    };
    assert_eq!(oracle["iss"], "i");
    assert_eq!(oracle["sub"], read.subject());
    assert!(oracle["exp"].as_f64().is_some_and(|exp| exp + 31.0 > NOW_S as f64));
    assert!(!read.subject().is_empty() && !read.subject().chars().any(char::is_control));
    assert_eq!(read.json().as_bytes(), claims);
    if let Some(list) = oracle["scope"].as_array() {
        assert!(read.scopes().eq(list.iter().filter_map(|scope| scope.as_str())));
    }
    if let Some(text) = oracle["tenant"].as_str() {
        assert_eq!(read.kept(0), Some(text));
    }
    assert!(read.validity().check(NOW_S).is_ok() && read.validity().check(read.validity().ends_s()).is_err());
}

/// A key set from a file and from a URL, and the JSON reader against another one.
pub(crate) fn jwks(data: &[u8]) {
    let bounds = Bounds { bytes: 1 << 16, depth: 32, members: 64 };
    if json::parse(data, bounds).is_ok() {
        // serde_json refuses numbers beyond f64; the grammar does not.
        let oracle = serde_json::from_slice::<serde_json::Value>(data);
        assert!(
            oracle.is_ok() || oracle.is_err_and(|error| error.to_string().contains("number out of range"))
        );
    }
    for origin in [Origin::File, Origin::Url] {
        let Ok(keys) = KeySet::parse(data, origin) else { continue };
        assert!(!keys.keys().is_empty() && keys.keys().len() <= super::jwks::KEYS_MAX);
        for key in keys.keys() {
            assert!(!key.is_symmetric() || origin == Origin::File);
            assert!(key.id().is_none_or(|id| keys.key(id).is_some_and(|found| std::ptr::eq(found, key))));
            assert!(
                !key.verify(Algorithm::Hs256, data, b"no tag")
                    && !key.verify(Algorithm::Rs256, data, &[0; 256])
            );
        }
    }
}

fn fixed() -> Option<(KeySet, Verifier)> {
    let k = base64url::encode(&SECRET);
    let set = format!(r#"{{"kty":"oct","alg":"HS256","kid":"k","k":"{k}"}}"#);
    let mut expected = Expectations::new("i", "a");
    expected.algorithms = Algorithm::Hs256.into();
    expected.roles = ClaimPath::new("/realm/roles");
    expected.kept = vec![ClaimPath::new("tenant")];
    Some((KeySet::parse(set.as_bytes(), Origin::File).ok()?, Verifier::new(expected).ok()?))
}
