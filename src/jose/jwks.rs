//! Sets of verification keys (RFC 7517): parsed once off the data threads, then only read.
//!
//! Not for fetching: the control thread does that, and a set that does not parse never replaces one that
//! did (the law is the caller's, [`KeySet::parse`] has no partial result that could tempt it). Called by the
//! control thread, `check` and the JWS verifier.

use std::borrow::Cow;
use std::fmt;

use hashbrown::{HashMap, HashSet};
use ring::digest;

use super::algorithm::Algorithm;
use super::base64url;
use super::json::{self, JsonError, Members, Value};
use super::key::{Key, SECRET_BYTES_MAX};

/// Most bytes of a key set. The large public providers publish 5 to 30 KiB.
pub const KEY_SET_BYTES_MAX: usize = 512 * 1024;
/// Most keys of a set.
pub const KEYS_MAX: usize = 256;
/// Longest `kid`, in bytes.
pub const KEY_ID_BYTES_MAX: usize = 256;

const BOUNDS: json::Bounds = json::Bounds { bytes: KEY_SET_BYTES_MAX, depth: 8, members: 64 };

/// Where a set came from; decides whether shared secrets are believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A file of the operator: may hold shared secrets (`oct`).
    File,
    /// Fetched: a shared secret that was sent over the network is nobody's secret, the set is refused.
    Url,
}

/// A key that was left out of its set, and why. RFC 7517 §5: keys that are not understood are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyNote {
    /// Its place in `keys`, from 0.
    pub place: usize,
    /// Its `kid`, if it has one.
    pub id: Option<String>,
    /// Why it is not used.
    pub why: String,
}

impl fmt::Display for KeyNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "key {} ({id:?}) is not used: {}", self.place, self.why),
            None => write!(f, "key {} is not used: {}", self.place, self.why),
        }
    }
}

/// Why a whole set is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum JwksError {
    /// Not a JSON text, or beyond our bounds.
    Json(JsonError),
    /// Neither `{"keys": [...]}` nor, from a file, a single key.
    NotASet,
    /// More than [`KEYS_MAX`] keys.
    TooManyKeys,
    /// Two keys with one `kid`: which one verifies would be a matter of luck.
    DuplicateKeyId(String),
    /// Shared secrets beside public keys: the public keys invite their use as HMAC secrets.
    MixedKinds,
    /// Holds the private half of a key; whoever could read the set can sign.
    PrivateKey {
        /// Its place in `keys`, from 0.
        place: usize,
    },
    /// A shared secret in a set that was fetched.
    FetchedSecret {
        /// Its place in `keys`, from 0.
        place: usize,
    },
    /// No key that could verify anything; the notes say why for each.
    NoUsableKey(Vec<KeyNote>),
}

impl fmt::Display for JwksError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            JwksError::Json(error) => write!(f, "the key set is {}", error.as_str()),
            JwksError::NotASet => {
                f.write_str("not a key set: expected an object with an array `keys` (RFC 7517 §5)")
            }
            JwksError::TooManyKeys => write!(f, "the key set holds more than {KEYS_MAX} keys"),
            JwksError::DuplicateKeyId(id) => write!(f, "two keys of the set have the kid {id:?}"),
            JwksError::MixedKinds => f.write_str("the key set mixes shared secrets and public keys"),
            JwksError::PrivateKey { place } => {
                write!(f, "key {place} of the set is a private key: it is compromised, replace it")
            }
            JwksError::FetchedSecret { place } => {
                write!(f, "key {place} of the set is a shared secret; those are read from files only")
            }
            JwksError::NoUsableKey(notes) => {
                f.write_str("the key set has no key that can be used")?;
                notes.iter().try_for_each(|note| write!(f, "; {note}"))
            }
        }
    }
}

impl std::error::Error for JwksError {}

/// The keys of one issuer. Immutable; shared by the cores. The default is the empty set of an issuer whose
/// keys have not been had yet; a set that was parsed has at least one key.
///
/// At most [`KEYS_MAX`] keys of at most about 1 KiB each.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<Key>,
    /// Place in `keys` by `kid`. The hasher has a random seed: tokens choose what is looked up.
    by_id: HashMap<Box<str>, u16>,
    /// All ids of keys for signatures, also of those left out.
    ids: HashSet<Box<str>>,
    notes: Vec<KeyNote>,
    generation: u64,
}

impl KeySet {
    /// Reads a JWK Set, or from a file also a single JWK.
    ///
    /// A key that is not understood or not fit is left out with a note (RFC 7517 §5); what casts doubt on
    /// the set as a whole refuses it. Elliptic-curve points are checked, so this takes about 0.1 ms for
    /// each P-256 key and 1 ms for each P-384 key: not for a data thread.
    ///
    /// # Errors
    /// Why the set is refused; see [`JwksError`].
    pub fn parse(text: &[u8], origin: Origin) -> Result<KeySet, JwksError> {
        let top = json::parse(text, BOUNDS).map_err(JwksError::Json)?;
        let top = top.members().ok_or(JwksError::NotASet)?;
        let mut set = KeySet {
            keys: Vec::new(),
            by_id: HashMap::new(),
            ids: HashSet::new(),
            notes: Vec::new(),
            generation: generation(text),
        };
        match (top.member("keys"), top.member("kty")) {
            (Some(Value::Array(entries)), None) => {
                for (place, entry) in entries.enumerate() {
                    if place == KEYS_MAX {
                        return Err(JwksError::TooManyKeys);
                    }
                    set.add(place, entry, origin)?;
                }
            }
            (None, Some(_)) if origin == Origin::File => set.add(0, Value::Object(top), origin)?,
            _ => return Err(JwksError::NotASet),
        }
        if set.keys.is_empty() {
            return Err(JwksError::NoUsableKey(set.notes));
        }
        Ok(set)
    }

    /// The key with the id `id`. O(bytes of the id).
    pub fn key(&self, id: &str) -> Option<&Key> {
        self.keys.get(usize::from(*self.by_id.get(id)?))
    }

    /// All usable keys, in the order of the set.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Whether it has no key: nothing was had yet.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The keys that were left out, for `check` and the log.
    pub fn notes(&self) -> &[KeyNote] {
        &self.notes
    }

    /// A number that changes with the text of the set and with nothing else: fetching the same set again
    /// keeps every cached token.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    fn add(&mut self, place: usize, entry: Value<'_>, origin: Origin) -> Result<(), JwksError> {
        let Some(jwk) = entry.members() else {
            self.notes.push(KeyNote { place, id: None, why: "not an object".into() });
            return Ok(());
        };
        let secret = jwk.member("kty").and_then(Value::text).is_some_and(|kty| kty.is("oct"));
        if secret && origin == Origin::Url {
            return Err(JwksError::FetchedSecret { place });
        }
        // RFC 7518 §6.2.2, §6.3.2, RFC 8037 §2: the members of private keys.
        let private = ["d", "p", "q", "dp", "dq", "qi", "oth"];
        if private.iter().any(|name| jwk.member(name).is_some()) {
            return Err(JwksError::PrivateKey { place });
        }
        let id = match jwk.member("kid") {
            None => None,
            Some(Value::Text(id)) => Some(id.decode()),
            Some(_) => {
                self.notes.push(KeyNote { place, id: None, why: "its kid is not a string".into() });
                return Ok(());
            }
        };
        let id = id.as_deref();
        if let Some(id) = id
            && !self.claim(id, jwk)
        {
            return Err(JwksError::DuplicateKeyId(id.chars().take(KEY_ID_BYTES_MAX).collect()));
        }
        let key = match read_key(jwk) {
            Ok(_) if id.is_some_and(|id| id.len() > KEY_ID_BYTES_MAX) => {
                self.notes.push(KeyNote { place, id: None, why: "its kid is longer than 256 bytes".into() });
                return Ok(());
            }
            Ok(key) => key.with_id(id),
            Err(why) => {
                let id = id.map(|id| id.chars().take(KEY_ID_BYTES_MAX).collect());
                self.notes.push(KeyNote { place, id, why });
                return Ok(());
            }
        };
        if self.keys.first().is_some_and(|first| first.is_symmetric() != key.is_symmetric()) {
            return Err(JwksError::MixedKinds);
        }
        if let Some(id) = id {
            self.by_id.insert(id.into(), self.keys.len() as u16);
        }
        self.keys.push(key);
        Ok(())
    }

    /// Whether the id is still free. RFC 7517 §4.5 wants ids to differ; keys that we leave out count too, or
    /// a damaged key would hide the doubt. One for encryption may share its id with one for signatures.
    fn claim(&mut self, id: &str, jwk: Members<'_>) -> bool {
        let is_for_encryption = jwk.member("use").and_then(Value::text).is_some_and(|usage| usage.is("enc"));
        is_for_encryption || self.ids.insert(id.into())
    }
}

fn generation(text: &[u8]) -> u64 {
    let digest = digest::digest(&digest::SHA256, text);
    digest.as_ref().iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Reads one JWK.
///
/// # Errors
/// Why it is left out.
fn read_key(jwk: Members<'_>) -> Result<Key, String> {
    let text = |name: &str| member_text(jwk, name);
    // RFC 7517 §4.2: use is "sig" or "enc".
    if let Some(usage) = text("use")?
        && usage != "sig"
    {
        return Err(format!("its use is {:?}, not \"sig\"", shortened(&usage)));
    }
    may_verify(jwk)?;
    let named = text("alg")?;
    let algorithm = match named.as_deref() {
        None => None,
        Some(name) => match Algorithm::named(name) {
            Some(algorithm) => Some(algorithm),
            None => return Err(format!("its alg is {:?}: {}", shortened(name), Algorithm::why_not(name))),
        },
    };
    let kind = text("kty")?.ok_or("it has no kty")?;
    let bytes = |name: &str, bytes_max: usize| -> Result<Vec<u8>, String> {
        let value = text(name)?.ok_or_else(|| format!("it has no {name}"))?;
        let bytes = base64url::decode_to_vec(value.as_bytes());
        let bytes = bytes.ok_or_else(|| format!("its {name} is not base64url without padding"))?;
        if bytes.len() > bytes_max {
            return Err(format!("its {name} is longer than {bytes_max} bytes"));
        }
        Ok(bytes)
    };
    match kind.as_ref() {
        "RSA" => Ok(Key::rsa(&bytes("n", 1025)?, &bytes("e", 8)?, algorithm)?),
        "EC" => {
            let curve = text("crv")?.ok_or("it has no crv")?;
            let fixed = match curve.as_ref() {
                "P-256" => Algorithm::Es256,
                "P-384" => Algorithm::Es384,
                other => {
                    return Err(format!(
                        "its curve {:?} is not supported; P-256 and P-384 are",
                        shortened(other)
                    ));
                }
            };
            if algorithm.is_some_and(|algorithm| algorithm != fixed) {
                return Err(format!("its alg does not belong to its curve {curve}"));
            }
            Ok(Key::elliptic(fixed, &bytes("x", 128)?, &bytes("y", 128)?)?)
        }
        "OKP" => {
            let curve = text("crv")?.ok_or("it has no crv")?;
            if curve != "Ed25519" {
                return Err(format!("its curve {:?} is not supported; Ed25519 is", shortened(&curve)));
            }
            if algorithm.is_some_and(|algorithm| algorithm != Algorithm::EdDsa) {
                return Err("its alg does not belong to Ed25519".into());
            }
            Ok(Key::ed25519(&bytes("x", 128)?)?)
        }
        "oct" => {
            // Without alg one secret would serve three algorithms; RFC 8725 §3.1 allows one.
            let algorithm = algorithm.ok_or("a shared secret must name its alg")?;
            let secret = zeroize::Zeroizing::new(bytes("k", SECRET_BYTES_MAX)?);
            Ok(Key::hmac(&secret, algorithm)?)
        }
        other => Err(format!("its kty {:?} is not known", shortened(other))),
    }
}

fn member_text<'a>(jwk: Members<'a>, name: &str) -> Result<Option<Cow<'a, str>>, String> {
    match jwk.member(name) {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text.decode())),
        Some(_) => Err(format!("its {name} is not a string")),
    }
}

/// RFC 7517 §4.3: `key_ops`, if present, must allow `verify` and name nothing twice.
fn may_verify(jwk: Members<'_>) -> Result<(), String> {
    let operations = match jwk.member("key_ops") {
        None => return Ok(()),
        Some(Value::Array(operations)) => operations,
        Some(_) => return Err("its key_ops is not an array".into()),
    };
    let mut seen: Vec<Cow<'_, str>> = Vec::new();
    for operation in operations {
        let operation = operation.text().ok_or("its key_ops holds something that is not a string")?.decode();
        if seen.len() == 16 || seen.contains(&operation) {
            return Err("its key_ops names an operation twice or has more than 16".into());
        }
        seen.push(operation);
    }
    if seen.iter().any(|operation| operation == "verify") {
        Ok(())
    } else {
        Err("its key_ops does not hold \"verify\"".into())
    }
}

/// What is quoted back to the operator of a text that came from elsewhere.
fn shortened(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ED25519: &str =
        r#"{"kty":"OKP","crv":"Ed25519","kid":"ed","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    const P256: &str = r#"{"kty":"EC","crv":"P-256","kid":"ec","use":"sig","alg":"ES256",
        "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}"#;

    fn secret(id: &str) -> String {
        format!(r#"{{"kty":"oct","kid":"{id}","alg":"HS256","k":"{}"}}"#, "AbCd".repeat(12))
    }

    fn set(keys: &[&str], origin: Origin) -> Result<KeySet, JwksError> {
        KeySet::parse(format!("{{\"keys\":[{}]}}", keys.join(",")).as_bytes(), origin)
    }

    #[test]
    fn keys_are_found_by_id() {
        let keys = set(&[ED25519, P256], Origin::Url).unwrap();
        assert_eq!(keys.key("ed").unwrap().pinned(Algorithm::EdDsa.into()), Some(Algorithm::EdDsa));
        assert_eq!(keys.key("ec").unwrap().id(), Some("ec"));
        assert!(keys.key("Ec").is_none());
        assert!(keys.notes().is_empty());
    }

    #[test]
    fn what_is_not_understood_is_left_out_with_a_note() {
        let entries = [
            ED25519.to_owned(),
            "7".into(),
            r#"{"kty":"future","kid":"f"}"#.into(),
            r#"{"kty":"EC","crv":"P-521","kid":"p521","x":"AA","y":"AA"}"#.into(),
            r#"{"kty":"EC","crv":"P-521","kid":"p521","alg":"ES512","x":"AA","y":"AA"}"#.into(),
            P256.replace("\"sig\"", "\"enc\""),
            P256.replace("\"use\":\"sig\"", "\"key_ops\":[\"sign\"]"),
            P256.replace("\"use\":\"sig\"", "\"key_ops\":[\"verify\",\"verify\"]"),
            P256.replace("ES256", "ES384"),
            P256.replace("ES256", "RS256"),
            P256.replace("x_FEz", "y_FEz"),
            P256.replace("f83O", ""),
            P256.replace("f83O", "f83=O"),
            P256.replace("\"kid\":\"ec\"", "\"kid\":7"),
        ];
        let named =
            |(place, entry): (usize, &String)| entry.replace("\"kid\":\"", &format!("\"kid\":\"{place}-"));
        let named: Vec<String> = entries.iter().enumerate().map(named).collect();
        let named: Vec<&str> = named.iter().map(String::as_str).collect();
        let keys = set(&named, Origin::Url).unwrap();
        assert_eq!(keys.keys().len(), 1);
        assert_eq!(keys.notes().len(), entries.len() - 1);
        for (place, words) in [(2, "P-521"), (3, "no P-521"), (9, "not on its curve")] {
            assert!(keys.notes()[place].to_string().contains(words), "{}", keys.notes()[place]);
        }
    }

    #[test]
    fn what_casts_doubt_on_the_set_refuses_it() {
        assert!(matches!(set(&[], Origin::Url), Err(JwksError::NoUsableKey(_))));
        assert_eq!(
            set(&[ED25519, ED25519], Origin::Url).unwrap_err(),
            JwksError::DuplicateKeyId("ed".into())
        );
        let damaged = ED25519.replace("HURo", "HUR=");
        assert_eq!(
            set(&[ED25519, &damaged], Origin::Url).unwrap_err(),
            JwksError::DuplicateKeyId("ed".into())
        );
        let for_encryption = ED25519.replace("\"kid\"", "\"use\":\"enc\",\"kid\"");
        assert!(set(&[ED25519, &for_encryption], Origin::Url).is_ok());
        let private = ED25519.replace("\"x\"", "\"d\":\"AA\",\"x\"");
        assert_eq!(set(&[P256, &private], Origin::File).unwrap_err(), JwksError::PrivateKey { place: 1 });
        assert_eq!(set(&[&secret("s")], Origin::Url).unwrap_err(), JwksError::FetchedSecret { place: 0 });
        assert!(set(&[&secret("s"), &secret("t")], Origin::File).is_ok());
        assert_eq!(set(&[&secret("s"), P256], Origin::File).unwrap_err(), JwksError::MixedKinds);
        assert_eq!(set(&[P256, &secret("s")], Origin::File).unwrap_err(), JwksError::MixedKinds);
        assert!(matches!(set(&[&ED25519.replace("crv", "kty")], Origin::Url), Err(JwksError::Json(_))));
        assert_eq!(KeySet::parse(ED25519.as_bytes(), Origin::Url).unwrap_err(), JwksError::NotASet);
        assert!(KeySet::parse(ED25519.as_bytes(), Origin::File).is_ok());
        for text in ["[]", "{}", "{\"keys\":{}}", "7"] {
            assert_eq!(KeySet::parse(text.as_bytes(), Origin::File).unwrap_err(), JwksError::NotASet);
        }
    }

    #[test]
    fn the_number_of_keys_is_bounded() {
        let many: Vec<String> =
            (0..=KEYS_MAX).map(|id| ED25519.replace("\"ed\"", &format!("\"{id}\""))).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(set(&many, Origin::Url).unwrap_err(), JwksError::TooManyKeys);
        assert_eq!(set(&many[..KEYS_MAX], Origin::Url).unwrap().keys().len(), KEYS_MAX);
    }

    #[test]
    fn the_generation_follows_the_text() {
        let one = set(&[ED25519], Origin::Url).unwrap().generation();
        assert_eq!(one, set(&[ED25519], Origin::Url).unwrap().generation());
        assert_ne!(one, set(&[P256], Origin::Url).unwrap().generation());
    }
}
