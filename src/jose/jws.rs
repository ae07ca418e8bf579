//! JSON Web Signature, compact serialization (RFC 7515 §7.1): from bytes to a payload whose signature holds.
//!
//! Not for the JSON serializations, not for encrypted tokens, and it looks at no claim. Called by
//! [`Verifier`](super::Verifier).
//!
//! The order is the point: shape and sizes, then the header, then the key and the one algorithm pinned to
//! it, then the signature, and only what was signed is parsed further. No key and no algorithm is ever taken
//! from the token: it can only name them, and naming others than expected refuses it.

use std::borrow::Cow;

use super::algorithm::{Algorithm, AlgorithmSet};
use super::base64url;
use super::json::{self, Members, Value};
use super::jwks::{KEY_ID_BYTES_MAX, KeySet};
use super::key::{Key, SIGNATURE_BYTES_MAX};
use crate::http::Reason;

/// Longest token, in bytes; the whole request head is bounded at 32 KiB by default.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;
/// Longest header, decoded, in bytes. A header holds an algorithm, a type and a key id.
pub const HEADER_BYTES_MAX: usize = 1024;

const HEADER_BOUNDS: json::Bounds = json::Bounds { bytes: HEADER_BYTES_MAX, depth: 4, members: 16 };

/// The token is not three base64url parts with a JSON object as header.
pub const TOKEN_MALFORMED: Reason =
    Reason::client("token_malformed", 3002, 401, "The access token is not a signed token in compact form");
/// The token is longer than [`TOKEN_BYTES_MAX`].
pub const TOKEN_TOO_LONG: Reason =
    Reason::client("token_too_long", 3003, 401, "The access token is too long");
/// The header asks for something that is refused: `crit`, `b64`, or a key or certificate of its own.
pub const TOKEN_HEADER: Reason =
    Reason::client("token_header", 3004, 401, "The access token's header asks for what is not accepted");
/// The header's `alg` is unknown, not accepted, or not the one of its key.
pub const TOKEN_ALGORITHM: Reason =
    Reason::client("token_algorithm", 3005, 401, "The access token's algorithm is not accepted");
/// No key of the issuer has the header's `kid`.
pub const KEY_UNKNOWN: Reason =
    Reason::client("key_unknown", 3006, 401, "The access token is signed with a key that is not known");
/// No key set of the issuer has been had since the start.
pub const KEYS_UNAVAILABLE: Reason =
    Reason::ringwall("keys_unavailable", 3019, 503, "The keys of the token's issuer could not be had yet");
/// The header has no `kid` and more than one key could have signed.
pub const KEY_UNNAMED: Reason =
    Reason::client("key_unnamed", 3007, 401, "The access token does not name the key it is signed with");
/// The signature is not the key's over these bytes.
pub const TOKEN_SIGNATURE: Reason =
    Reason::client("token_signature", 3008, 401, "The access token's signature does not hold");

/// Why a token did not verify.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyError {
    /// Refused, and nothing would change that but another token.
    Refused(&'static Reason),
    /// No key set has been had yet. The caller asks for one as for an unknown key.
    NoKeys,
    /// Its key is not in this set. The issuer may have begun to use a new one: the caller asks the control
    /// thread to fetch the set again, at most once per cool-down, and refuses the request meanwhile.
    UnknownKey,
}

impl VerifyError {
    /// What the request is refused with.
    pub fn reason(self) -> &'static Reason {
        match self {
            VerifyError::Refused(reason) => reason,
            VerifyError::NoKeys => &KEYS_UNAVAILABLE,
            VerifyError::UnknownKey => &KEY_UNKNOWN,
        }
    }
}

impl From<&'static Reason> for VerifyError {
    fn from(reason: &'static Reason) -> VerifyError {
        VerifyError::Refused(reason)
    }
}

/// A token taken apart, its header read and its signature not yet checked.
#[derive(Debug)]
pub struct Token<'t> {
    algorithm: Algorithm,
    key_id: Option<Cow<'t, str>>,
    kind: Option<Cow<'t, str>>,
    /// Header, dot, payload: what is signed (RFC 7515 §5.2).
    signed: &'t [u8],
    payload: &'t [u8],
    signature: &'t [u8],
}

impl<'t> Token<'t> {
    /// Takes a compact serialization apart. `room` receives the decoded header.
    ///
    /// # Errors
    /// The reason it is refused.
    pub fn parse(
        token: &'t [u8],
        room: &'t mut [u8; HEADER_BYTES_MAX],
    ) -> Result<Token<'t>, &'static Reason> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(&TOKEN_TOO_LONG);
        }
        // RFC 7515 §7.1: exactly three parts. Five would be an encrypted token.
        let mut dots = memchr::memchr_iter(b'.', token);
        let (Some(first), Some(second), None) = (dots.next(), dots.next(), dots.next()) else {
            return Err(&TOKEN_MALFORMED);
        };
        let header = base64url::decode(&token[..first], room).ok_or(&TOKEN_MALFORMED)?;
        let header = json::parse(header, HEADER_BOUNDS).map_err(|_| &TOKEN_MALFORMED)?;
        let header = Header::read(header.members().ok_or(&TOKEN_MALFORMED)?)?;
        Ok(Token {
            algorithm: header.algorithm,
            key_id: header.key_id,
            kind: header.kind,
            signed: &token[..second],
            payload: &token[first + 1..second],
            signature: &token[second + 1..],
        })
    }

    /// The header's `typ`, as written.
    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// The header's `kid`.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Checks the signature and returns the payload, decoded.
    ///
    /// Costs one signature check (see [`Key::verify`]) and one allocation for the payload.
    ///
    /// # Errors
    /// The reason it is refused, or that its key is not in `keys`.
    pub fn verify(&self, keys: &KeySet, allowed: AlgorithmSet) -> Result<Vec<u8>, VerifyError> {
        if !allowed.contains(self.algorithm) {
            return Err(VerifyError::Refused(&TOKEN_ALGORITHM));
        }
        let key = self.key(keys, allowed)?;
        // RFC 8725 §3.1: the key decides the algorithm; the header may only agree.
        if key.pinned(allowed) != Some(self.algorithm) {
            return Err(VerifyError::Refused(&TOKEN_ALGORITHM));
        }
        let mut room = [0; SIGNATURE_BYTES_MAX];
        let signature = base64url::decode(self.signature, &mut room).ok_or(&TOKEN_MALFORMED)?;
        if !key.verify(self.algorithm, self.signed, signature) {
            return Err(VerifyError::Refused(&TOKEN_SIGNATURE));
        }
        base64url::decode_to_vec(self.payload).ok_or(VerifyError::Refused(&TOKEN_MALFORMED))
    }

    fn key<'k>(&self, keys: &'k KeySet, allowed: AlgorithmSet) -> Result<&'k Key, VerifyError> {
        if let Some(id) = &self.key_id {
            return keys.key(id).ok_or(VerifyError::UnknownKey);
        }
        // A header without kid is fine where only one key can be meant. Trying several would let one request
        // buy several signature checks.
        let mut candidates = keys.keys().iter().filter(|key| key.pinned(allowed) == Some(self.algorithm));
        match (candidates.next(), candidates.next()) {
            (Some(key), None) => Ok(key),
            (Some(_), Some(_)) => Err(VerifyError::Refused(&KEY_UNNAMED)),
            (None, _) => Err(VerifyError::Refused(&TOKEN_ALGORITHM)),
        }
    }
}

struct Header<'t> {
    algorithm: Algorithm,
    key_id: Option<Cow<'t, str>>,
    kind: Option<Cow<'t, str>>,
}

impl<'t> Header<'t> {
    fn read(members: Members<'t>) -> Result<Header<'t>, &'static Reason> {
        let mut algorithm = None;
        let (mut key_id, mut kind) = (None, None);
        for (name, value) in members {
            match (name.decode().as_ref(), value) {
                ("alg", Value::Text(name)) => {
                    algorithm = Some(Algorithm::named(&name.decode()).ok_or(&TOKEN_ALGORITHM)?);
                }
                ("kid", Value::Text(id)) => {
                    let id = id.decode();
                    if id.len() > KEY_ID_BYTES_MAX {
                        return Err(&TOKEN_HEADER);
                    }
                    key_id = Some(id);
                }
                ("typ", Value::Text(text)) => kind = Some(text.decode()),
                ("alg" | "kid" | "typ", _) => return Err(&TOKEN_MALFORMED),
                // RFC 7515 §4.1.11: an extension that is critical and not understood refuses the token; we
                // understand none. RFC 7797: `b64` changes what is signed. `enc` and `zip` are of encryption.
                // A token that brings its own key, or says where to find it, is refused and not only
                // ignored: stricter than RFC 7515, because no issuer we trust needs it and forgers do.
                ("crit" | "b64" | "enc" | "zip" | "jwk" | "jku" | "x5u" | "x5c", _) => {
                    return Err(&TOKEN_HEADER);
                }
                _ => {}
            }
        }
        // RFC 7515 §4.1.1: alg MUST be present.
        Ok(Header { algorithm: algorithm.ok_or(&TOKEN_MALFORMED)?, key_id, kind })
    }
}

#[cfg(test)]
mod tests {
    use super::super::jwks::Origin;
    use super::super::testing::{self, hs256_set, sign_hs256};
    use super::*;

    fn verify(token: &str, keys: &KeySet) -> Result<Vec<u8>, VerifyError> {
        let mut room = [0; HEADER_BYTES_MAX];
        Token::parse(token.as_bytes(), &mut room)?.verify(keys, AlgorithmSet::HMAC)
    }

    fn refusal(header: &str) -> &'static Reason {
        verify(&sign_hs256(header, "{}"), &hs256_set()).unwrap_err().reason()
    }

    #[test]
    fn a_signed_token_yields_its_payload() {
        let token = sign_hs256(r#"{"alg":"HS256","kid":"one"}"#, "{}");
        assert_eq!(verify(&token, &hs256_set()).unwrap(), b"{}");
        let token = sign_hs256(r#"{ "typ" : "JWT" , "\u0061lg":"HS256", "x5t":"AAAA" }"#, "");
        assert_eq!(verify(&token, &hs256_set()).unwrap(), b"");
    }

    #[test]
    fn headers_that_ask_for_too_much_are_refused() {
        for member in [
            r#""crit":["exp"]"#,
            r#""crit":[]"#,
            r#""b64":false"#,
            r#""b64":true"#,
            r#""jwk":{"kty":"oct","k":"AA"}"#,
            r#""\u006awk":{}"#,
            r#""jku":"https://attacker.example/keys""#,
            r#""x5u":"https://attacker.example/chain""#,
            r#""x5c":["AAAA"]"#,
            r#""zip":"DEF""#,
            r#""enc":"A128GCM""#,
        ] {
            assert_eq!(
                refusal(&format!(r#"{{"alg":"HS256","kid":"one",{member}}}"#)),
                &TOKEN_HEADER,
                "{member}"
            );
        }
        let long = "k".repeat(KEY_ID_BYTES_MAX + 1);
        assert_eq!(refusal(&format!(r#"{{"alg":"HS256","kid":"{long}"}}"#)), &TOKEN_HEADER);
    }

    #[test]
    fn malformed_headers_are_refused() {
        for header in [
            "",
            "[]",
            "null",
            "{}",
            r#"{"kid":"one"}"#,
            r#"{"alg":null}"#,
            r#"{"alg":["HS256"]}"#,
            r#"{"alg":"HS256","alg":"HS256"}"#,
            r#"{"alg":"HS256","\u0061lg":"none"}"#,
            r#"{"alg":"HS256","kid":1}"#,
            r#"{"alg":"HS256","typ":["JWT"]}"#,
            r#"{"alg":"HS256""#,
            r#"{"alg":"HS256"}{}"#,
            r#"{"alg":"HS256","a":{"b":{"c":{"d":{}}}}}"#,
        ] {
            assert_eq!(refusal(header), &TOKEN_MALFORMED, "{header}");
        }
        let padding = " ".repeat(HEADER_BYTES_MAX);
        assert_eq!(refusal(&format!(r#"{{"alg":"HS256"{padding}}}"#)), &TOKEN_MALFORMED);
    }

    #[test]
    fn only_the_pinned_algorithm_is_tried() {
        for name in ["none", "None", "nOnE", "", "HS384", "RS256", "hs256", "ES512", "ES256K"] {
            assert_eq!(refusal(&format!(r#"{{"alg":"{name}","kid":"one"}}"#)), &TOKEN_ALGORITHM, "{name}");
        }
        let mut room = [0; HEADER_BYTES_MAX];
        let token = sign_hs256(r#"{"alg":"HS256","kid":"one"}"#, "{}");
        let token = Token::parse(token.as_bytes(), &mut room).unwrap();
        assert_eq!(
            token.verify(&hs256_set(), AlgorithmSet::DEFAULT),
            Err(VerifyError::Refused(&TOKEN_ALGORITHM))
        );
    }

    #[test]
    fn keys_are_named_or_alone() {
        let token = sign_hs256(r#"{"alg":"HS256","kid":"two"}"#, "{}");
        assert_eq!(verify(&token, &hs256_set()), Err(VerifyError::UnknownKey));
        let nameless = sign_hs256(r#"{"alg":"HS256"}"#, "{}");
        let two = testing::secret_set(&["one", "two"]);
        assert_eq!(verify(&nameless, &two), Err(VerifyError::Refused(&KEY_UNNAMED)));
        let public =
            r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
        let public = KeySet::parse(public.as_bytes(), Origin::Url).unwrap();
        assert_eq!(verify(&nameless, &public), Err(VerifyError::Refused(&TOKEN_ALGORITHM)));
    }

    #[test]
    fn every_changed_byte_breaks_the_token() {
        let token = sign_hs256(r#"{"alg":"HS256","kid":"one"}"#, r#"{"sub":"a"}"#);
        assert!(verify(&token, &hs256_set()).is_ok());
        for at in 0..token.len() {
            for byte in [b'A', b'.', b'=', b' ', b'-', b'\n'] {
                let mut changed = token.clone().into_bytes();
                if changed[at] == byte {
                    continue;
                }
                changed[at] = byte;
                let changed = String::from_utf8(changed).unwrap();
                assert!(verify(&changed, &hs256_set()).is_err(), "{changed}");
            }
            assert!(verify(&token[..at], &hs256_set()).is_err());
        }
        for tail in ["A", "=", ".", " ", "\n", "\0", "AAAA", ".AAAA"] {
            assert!(verify(&format!("{token}{tail}"), &hs256_set()).is_err());
            assert!(verify(&format!("{tail}{token}"), &hs256_set()).is_err());
        }
    }

    #[test]
    fn the_token_is_bounded_at_its_edge() {
        let frame = sign_hs256(r#"{"alg":"HS256"}"#, "").len();
        let fits = (TOKEN_BYTES_MAX - frame) / 4 * 3;
        assert!(verify(&sign_hs256(r#"{"alg":"HS256"}"#, &" ".repeat(fits)), &hs256_set()).is_ok());
        let long = sign_hs256(r#"{"alg":"HS256"}"#, &" ".repeat(fits + 3));
        assert_eq!(verify(&long, &hs256_set()), Err(VerifyError::Refused(&TOKEN_TOO_LONG)));
    }
}
