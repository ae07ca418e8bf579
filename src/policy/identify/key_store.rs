//! API keys (AN-05): what a key looks like, how it is stored, and who a presented one belongs to.
//!
//! Not for finding the key in a request ([`api_key`](super::api_key) does) and not for editing a store
//! (`ringwall keys` does). Called by the control thread, which parses a store, and by the data threads,
//! which look keys up.
//!
//! **A key** is `rwk_` + 8 characters of prefix + `_` + 43 of secret + 6 of checksum, all base62: 62 bytes.
//! The secret is 256 bits from the system's generator. The prefix is public: it names the key in logs and
//! finds its record. The checksum is CRC-32 of what precedes it: a typing error is told from a wrong key
//! without a look at the store, and a scanner that finds `rwk_…` in a commit can tell a key from a look-alike.
//!
//! **A store** is a text file, one JSON object a line: `id prefix hash identity roles scopes created
//! expires`. `hash` is HMAC-SHA-256 of the whole key under a pepper that is kept elsewhere, in hexadecimal.
//! So a copy of the store yields no key, and without the pepper not even a way to try one; a fast hash is
//! right here, because 256 random bits cannot be guessed, whatever one guess costs.
//!
//! **Cost** of a look-up: one hash-table probe and one HMAC over 62 bytes, about 0.6 µs; no allocation. A
//! cache of verified keys would save less than it costs: it would have to keep usable keys in memory.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use jiff::Timestamp;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use zeroize::Zeroizing;

use crate::crc32::IEEE;
use crate::http::Reason;
use crate::jose::json::{self, Members, Value};

/// Not of the form of a key, or mistyped.
pub const API_KEY_MALFORMED: Reason =
    Reason::client("api_key_malformed", 3020, 401, "The API key is mistyped or of another kind");
/// No such key.
pub const API_KEY_UNKNOWN: Reason = Reason::client("api_key_unknown", 3021, 401, "The API key is not known");
/// The key is right and its time is over.
pub const API_KEY_EXPIRED: Reason = Reason::client("api_key_expired", 3022, 401, "The API key has expired");

/// Bytes of a key.
pub const KEY_BYTES: usize = 62;
/// Bytes of a prefix.
pub const PREFIX_BYTES: usize = 8;
/// Shortest pepper, in bytes: 128 bits.
pub const PEPPER_BYTES_MIN: usize = 16;
/// Most keys of a store.
pub const RECORDS_MAX: usize = 1 << 20;
/// Most bytes of a store.
pub const STORE_BYTES_MAX: usize = 256 << 20;
/// Most roles, and most scopes, of a key.
pub const GRANTS_MAX: usize = 256;
/// Most keys of one id that are valid at a time: the old and the new while rotating.
pub const LIVE_KEYS_MAX: usize = 2;

const MARK: &[u8; 4] = b"rwk_";
const SECRET_BYTES: usize = 43;
const CHECKSUM_BYTES: usize = 6;
const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
const LINE_BOUNDS: json::Bounds = json::Bounds { bytes: 64 * 1024, depth: 2, members: 16 };
/// How many lines are complained about at once.
const ERRORS_MAX: usize = 100;

/// The public part of a key that names it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Prefix([u8; PREFIX_BYTES]);

impl Prefix {
    /// A prefix as it was written, or `None` if it cannot be one.
    pub fn parse(text: &[u8]) -> Option<Prefix> {
        let bytes: [u8; PREFIX_BYTES] = text.try_into().ok()?;
        bytes.iter().all(u8::is_ascii_alphanumeric).then_some(Prefix(bytes))
    }

    /// A number that spreads prefixes over a table.
    pub(super) fn number(self) -> u64 {
        // Prefixes in a store are random; the multiplication mixes the high characters into the low bits.
        let number = u64::from_le_bytes(self.0).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        number >> 32 ^ number
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        // Only alphanumeric ASCII gets in.
        std::str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The secret that is mixed into every stored hash, made ready once.
pub struct Pepper(hmac::Key);

impl Pepper {
    /// A pepper from its bytes, or `None` if they are fewer than [`PEPPER_BYTES_MIN`].
    pub fn new(bytes: &[u8]) -> Option<Pepper> {
        (bytes.len() >= PEPPER_BYTES_MIN).then(|| Pepper(hmac::Key::new(hmac::HMAC_SHA256, bytes)))
    }

    /// The hash that is stored for `key`.
    pub fn hash(&self, key: &[u8]) -> [u8; 32] {
        let mut hash = [0; 32];
        let tag = hmac::sign(&self.0, key);
        hash.iter_mut().zip(tag.as_ref()).for_each(|(to, from)| *to = *from);
        hash
    }

    /// Whether `hash` is that of `key`; in constant time.
    fn matches(&self, key: &[u8], hash: &[u8; 32]) -> bool {
        hmac::verify(&self.0, key, hash).is_ok()
    }
}

impl fmt::Debug for Pepper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pepper(…)")
    }
}

/// A key that was made just now: the only moment at which it is known.
pub struct NewKey {
    text: Zeroizing<String>,
    prefix: Prefix,
}

impl NewKey {
    /// A key from the system's generator; `None` if that fails.
    pub fn generate() -> Option<NewKey> {
        let random = SystemRandom::new();
        let mut text = Zeroizing::new(String::with_capacity(KEY_BYTES));
        text.push_str("rwk_");
        push_base62(&mut text, PREFIX_BYTES, &random)?;
        let prefix = Prefix::parse(&text.as_bytes()[MARK.len()..])?;
        text.push('_');
        push_base62(&mut text, SECRET_BYTES, &random)?;
        let sum = checksum(text.as_bytes());
        sum.iter().for_each(|digit| text.push(char::from(*digit)));
        Some(NewKey { text, prefix })
    }

    /// The key; to be shown once.
    pub fn expose(&self) -> &str {
        &self.text
    }

    /// Its public prefix.
    pub fn prefix(&self) -> Prefix {
        self.prefix
    }
}

/// Appends uniformly chosen characters: bytes that would favour some are thrown away.
fn push_base62(text: &mut String, count: usize, random: &SystemRandom) -> Option<()> {
    let end = text.len() + count;
    let mut bytes = Zeroizing::new([0; 64]);
    while text.len() < end {
        random.fill(&mut *bytes).ok()?;
        for byte in bytes.iter().filter(|byte| **byte < 62 * 4) {
            if text.len() < end {
                text.push(char::from(BASE62[usize::from(byte % 62)]));
            }
        }
    }
    Some(())
}

/// What a presented key says of itself, its form and checksum in order.
///
/// # Errors
/// [`API_KEY_MALFORMED`].
pub fn prefix_of(presented: &[u8]) -> Result<Prefix, &'static Reason> {
    let presented: &[u8; KEY_BYTES] = presented.try_into().map_err(|_| &API_KEY_MALFORMED)?;
    let (body, sum) = presented.split_at(KEY_BYTES - CHECKSUM_BYTES);
    let (head, secret) = body.split_at(MARK.len() + PREFIX_BYTES + 1);
    let prefix = Prefix::parse(&head[MARK.len()..MARK.len() + PREFIX_BYTES]).ok_or(&API_KEY_MALFORMED)?;
    let is_formed = head.starts_with(MARK)
        && head.ends_with(b"_")
        && secret.iter().all(u8::is_ascii_alphanumeric)
        && checksum(body) == sum;
    if is_formed { Ok(prefix) } else { Err(&API_KEY_MALFORMED) }
}

/// CRC-32 (the one of IEEE 802.3) in base62, the greatest digit first.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let mut rest = IEEE.of(&[bytes]);
    let mut digits = [b'0'; CHECKSUM_BYTES];
    for digit in digits.iter_mut().rev() {
        *digit = BASE62[(rest % 62) as usize];
        rest /= 62;
    }
    digits
}

/// One key of a store. Nothing in it is secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRecord {
    /// The name of the key, kept while it is rotated.
    pub id: String,
    /// The public part of the key; unique in its store.
    pub prefix: Prefix,
    /// HMAC-SHA-256 of the key under the pepper.
    pub hash: [u8; 32],
    /// Who presents it: an application, never by itself a person.
    pub identity: String,
    /// Its roles.
    pub roles: Vec<String>,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// When it was made, in Unix seconds.
    pub created_s: u64,
    /// The first second at which it is no longer valid; `None` for never.
    pub expires_s: Option<u64>,
}

impl KeyRecord {
    /// Whether it is valid at `now_s`.
    pub fn is_live(&self, now_s: u64) -> bool {
        self.expires_s.is_none_or(|expires_s| now_s < expires_s)
    }
}

/// What is wrong with a line of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// The keys of one login. Immutable; shared by the cores.
#[derive(Debug, Default)]
pub struct KeyStore {
    /// Of all stores ever parsed by this process, which.
    generation: u64,
    records: Vec<KeyRecord>,
    /// Place in `records`. The hasher has a random seed: clients choose what is looked up.
    by_prefix: HashMap<Prefix, u32>,
}

impl KeyStore {
    /// Reads a store. Empty lines are allowed, an empty store too: it knows nobody.
    ///
    /// # Errors
    /// What is wrong with each line, at most 100 of them.
    pub fn parse(text: &str) -> Result<KeyStore, Vec<LineError>> {
        if text.len() > STORE_BYTES_MAX {
            return Err(vec![LineError { line: 1, what: "the store is larger than 256 MiB".into() }]);
        }
        static GENERATION: AtomicU64 = AtomicU64::new(0);
        let mut store =
            KeyStore { generation: GENERATION.fetch_add(1, Ordering::Relaxed) + 1, ..KeyStore::default() };
        let mut errors = Vec::new();
        for (line, text) in text.lines().enumerate().filter(|(_, text)| !text.trim().is_empty()) {
            if let Err(what) = read_line(text).and_then(|record| store.add(record)) {
                errors.push(LineError { line: line + 1, what });
                if errors.len() == ERRORS_MAX {
                    break;
                }
            }
        }
        if errors.is_empty() { Ok(store) } else { Err(errors) }
    }

    /// The record of the key `presented` at `now_s` (Unix seconds).
    ///
    /// The form and the checksum are looked at first, then the prefix chooses the record, then the whole
    /// key is compared by its hash in constant time. Expiry is told only to who holds the key.
    ///
    /// # Errors
    /// [`API_KEY_MALFORMED`], [`API_KEY_UNKNOWN`] or [`API_KEY_EXPIRED`].
    pub fn find(&self, presented: &[u8], pepper: &Pepper, now_s: u64) -> Result<&KeyRecord, &'static Reason> {
        let record = self.record(prefix_of(presented)?).ok_or(&API_KEY_UNKNOWN)?;
        if !pepper.matches(presented, &record.hash) {
            return Err(&API_KEY_UNKNOWN);
        }
        if !record.is_live(now_s) {
            return Err(&API_KEY_EXPIRED);
        }
        Ok(record)
    }

    /// The record with this prefix.
    pub fn record(&self, prefix: Prefix) -> Option<&KeyRecord> {
        self.records.get(*self.by_prefix.get(&prefix)? as usize)
    }

    /// A number that no other store of this process has; with a prefix it names a record for good.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// All records, in the order of the store.
    pub fn records(&self) -> &[KeyRecord] {
        &self.records
    }

    fn add(&mut self, record: KeyRecord) -> Result<(), String> {
        if self.records.len() == RECORDS_MAX {
            return Err(format!("the store holds more than {RECORDS_MAX} keys"));
        }
        if self.by_prefix.contains_key(&record.prefix) {
            return Err(format!("a second key with the prefix {}", record.prefix.as_str()));
        }
        self.by_prefix.insert(record.prefix, self.records.len() as u32);
        self.records.push(record);
        Ok(())
    }
}

/// Whether the mode of a file with keys or secrets keeps others out. Its owner and its group may read it:
/// that is how a service of its own user is given a file it cannot change.
pub fn is_kept_from_others(mode: u32) -> bool {
    mode & 0o027 == 0
}

/// Reads one line of a store.
///
/// # Errors
/// What is wrong with it.
fn read_line(text: &str) -> Result<KeyRecord, String> {
    let value = json::parse(text.as_bytes(), LINE_BOUNDS).map_err(|error| error.as_str().to_owned())?;
    let members = value.members().ok_or("not a JSON object")?;
    let known = ["id", "prefix", "hash", "identity", "roles", "scopes", "created", "expires"];
    for (name, _) in members {
        let name = name.decode();
        if !known.contains(&name.as_ref()) {
            // A misspelt `expires` would make a key eternal.
            return Err(format!("{name:?} is not known; known are {}", known.join(", ")));
        }
    }
    let prefix = text_of(members, "prefix")?;
    let hash = text_of(members, "hash")?;
    let record = KeyRecord {
        id: named(members, "id")?,
        prefix: Prefix::parse(prefix.as_bytes()).ok_or("its prefix is not 8 letters and digits")?,
        hash: hex32(&hash).ok_or("its hash is not 64 hexadecimal digits in lower case")?,
        identity: named(members, "identity")?,
        roles: grants(members, "roles")?,
        scopes: grants(members, "scopes")?,
        created_s: date(members, "created")?.ok_or("it has no created")?,
        expires_s: date(members, "expires")?,
    };
    Ok(record)
}

fn text_of(members: Members<'_>, name: &str) -> Result<String, String> {
    match members.member(name) {
        Some(Value::Text(text)) => Ok(text.decode().into_owned()),
        Some(_) => Err(format!("its {name} is not a text")),
        None => Err(format!("it has no {name}")),
    }
}

/// A text that may stand in a header field and in a log.
fn named(members: Members<'_>, name: &str) -> Result<String, String> {
    let text = text_of(members, name)?;
    if is_name(&text) {
        Ok(text)
    } else {
        Err(format!("its {name} is empty, too long or holds control characters"))
    }
}

/// Whether `text` may name a key, an identity, a role or a scope: 1 to 256 bytes without control characters.
pub fn is_name(text: &str) -> bool {
    (1..=256).contains(&text.len()) && !text.chars().any(char::is_control)
}

fn grants(members: Members<'_>, name: &str) -> Result<Vec<String>, String> {
    let elements = match members.member(name) {
        None => return Ok(Vec::new()),
        Some(Value::Array(elements)) => elements,
        Some(_) => return Err(format!("its {name} is not a list")),
    };
    let mut grants = Vec::new();
    for element in elements {
        let grant = element.text().map(|text| text.decode().into_owned()).filter(|grant| is_name(grant));
        grants.push(grant.ok_or_else(|| format!("its {name} holds something that is not a name"))?);
        if grants.len() > GRANTS_MAX {
            return Err(format!("it has more than {GRANTS_MAX} {name}"));
        }
    }
    Ok(grants)
}

/// A moment as RFC 3339 writes it; `null` is none.
fn date(members: Members<'_>, name: &str) -> Result<Option<u64>, String> {
    let text = match members.member(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Text(text)) => text.decode(),
        Some(_) => return Err(format!("its {name} is not a text")),
    };
    let moment: Timestamp =
        text.parse().map_err(|_| format!("its {name} is not a moment such as 2027-01-31T00:00:00Z"))?;
    u64::try_from(moment.as_second()).map(Some).map_err(|_| format!("its {name} is before 1970"))
}

fn hex32(text: &str) -> Option<[u8; 32]> {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    };
    let digits: &[u8; 64] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 32];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    fn pepper() -> Pepper {
        Pepper::new(b"sixteen bytes or more").unwrap()
    }

    fn line(key: &NewKey, more: &str) -> String {
        let hash: String =
            pepper().hash(key.expose().as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let prefix = key.prefix();
        let prefix = prefix.as_str();
        format!(
            r#"{{"id":"k","prefix":"{prefix}","hash":"{hash}","identity":"app","created":"2026-01-01T00:00:00Z"{more}}}"#
        )
    }

    #[test]
    fn a_key_is_found_by_its_text_only() {
        let key = NewKey::generate().unwrap();
        let other = NewKey::generate().unwrap();
        let store =
            format!("{}\n\n{}\n", line(&key, r#","roles":["r"],"scopes":["a","b"]"#), line(&other, ""));
        let store = KeyStore::parse(&store).unwrap();
        let record = store.find(key.expose().as_bytes(), &pepper(), NOW_S).unwrap();
        assert_eq!((record.identity.as_str(), record.prefix), ("app", key.prefix()));
        assert_eq!((record.roles.len(), record.scopes.len(), record.expires_s), (1, 2, None));

        // The prefix of one key with the secret of another, its checksum in order.
        let mixed = format!("{}{}", &key.expose()[..13], &other.expose()[13..56]);
        let mixed = format!("{mixed}{}", std::str::from_utf8(&checksum(mixed.as_bytes())).unwrap());
        assert_eq!(store.find(mixed.as_bytes(), &pepper(), NOW_S), Err(&API_KEY_UNKNOWN));
        let unknown = NewKey::generate().unwrap();
        assert_eq!(store.find(unknown.expose().as_bytes(), &pepper(), NOW_S), Err(&API_KEY_UNKNOWN));
        let wrong_pepper = Pepper::new(b"another sixteen bytes").unwrap();
        assert_eq!(store.find(key.expose().as_bytes(), &wrong_pepper, NOW_S), Err(&API_KEY_UNKNOWN));
        assert!(Pepper::new(&[7; PEPPER_BYTES_MIN - 1]).is_none());
    }

    #[test]
    fn a_mistyped_key_is_told_before_the_store_is_asked() {
        let key = NewKey::generate().unwrap();
        let store = KeyStore::parse(&line(&key, "")).unwrap();
        let text = key.expose().as_bytes();
        assert_eq!(text.len(), KEY_BYTES);
        for at in 0..text.len() {
            let mut mistyped = text.to_vec();
            mistyped[at] = if mistyped[at] == b'x' { b'y' } else { b'x' };
            assert_eq!(store.find(&mistyped, &pepper(), NOW_S), Err(&API_KEY_MALFORMED), "{at}");
            let mut swapped = text.to_vec();
            swapped.swap(at, (at + 1) % text.len());
            assert!(
                swapped == text || store.find(&swapped, &pepper(), NOW_S) == Err(&API_KEY_MALFORMED),
                "{at}"
            );
        }
        let longer = [text, b"0"].concat();
        let spaced = [b" ", text].concat();
        for other in [&text[1..], &text[..61], &longer, &spaced, b"", b"rwk_"] {
            assert_eq!(store.find(other, &pepper(), NOW_S), Err(&API_KEY_MALFORMED));
        }
    }

    #[test]
    fn a_store_holds_no_usable_key() {
        let key = NewKey::generate().unwrap();
        let store = line(&key, "");
        assert!(!store.contains(&key.expose()[13..56]));
        assert!(!format!("{:?}", KeyStore::parse(&store).unwrap()).contains(&key.expose()[13..20]));
    }

    #[test]
    fn expiry_holds_to_the_second() {
        let key = NewKey::generate().unwrap();
        // 1,800,000,000 is 2027-01-15T08:00:00Z.
        let store = KeyStore::parse(&line(&key, r#","expires":"2027-01-15T08:00:01Z""#)).unwrap();
        assert!(store.find(key.expose().as_bytes(), &pepper(), NOW_S).is_ok());
        assert_eq!(store.find(key.expose().as_bytes(), &pepper(), NOW_S + 1), Err(&API_KEY_EXPIRED));
        let eternal = KeyStore::parse(&line(&key, r#","expires":null"#)).unwrap();
        assert!(eternal.find(key.expose().as_bytes(), &pepper(), u64::MAX).is_ok());
    }

    #[test]
    fn every_bad_line_is_reported() {
        let key = NewKey::generate().unwrap();
        let good = line(&key, "");
        let bad = [
            "not json".to_owned(),
            "[]".into(),
            good.clone(),
            line(&NewKey::generate().unwrap(), r#","expired":"2027-01-01T00:00:00Z""#),
            line(&NewKey::generate().unwrap(), r#","expires":"tomorrow""#),
            line(&NewKey::generate().unwrap(), r#","expires":1800000000"#),
            line(&NewKey::generate().unwrap(), r#","roles":"admin""#),
            line(&NewKey::generate().unwrap(), r#","scopes":[""]"#),
            line(&NewKey::generate().unwrap(), r#","id":"twice""#),
            line(&NewKey::generate().unwrap(), "").replace("\"identity\":\"app\",", ""),
            line(&NewKey::generate().unwrap(), "").replace("\"app\"", "\"a\\r\\nb\""),
            line(&NewKey::generate().unwrap(), "").replace("\"hash\":\"", "\"hash\":\"A"),
        ];
        let errors = KeyStore::parse(&format!("{good}\n{}", bad.join("\n"))).unwrap_err();
        let lines: Vec<usize> = errors.iter().map(|error| error.line).collect();
        // Line 4 repeats the key of line 1.
        assert_eq!(lines, (2..=13).collect::<Vec<_>>());
        assert!(errors[2].what.contains("a second key"), "{}", errors[2]);
        assert_eq!(KeyStore::parse(&"x\n".repeat(1000)).unwrap_err().len(), ERRORS_MAX);
    }

    #[test]
    fn the_checksum_is_the_published_crc_32() {
        // The check value of CRC-32/ISO-HDLC, cbf43926, in base62.
        let mut value = 0xcbf4_3926u32;
        let mut digits = [b'0'; 6];
        for digit in digits.iter_mut().rev() {
            *digit = BASE62[(value % 62) as usize];
            value /= 62;
        }
        assert_eq!(checksum(b"123456789"), digits);
    }

    #[test]
    fn generated_characters_are_uniform() {
        let mut counts = [0u32; 128];
        for _ in 0..2000 {
            for byte in &NewKey::generate().unwrap().expose().as_bytes()[13..56] {
                counts[usize::from(*byte)] += 1;
            }
        }
        let expected = 2000.0 * 43.0 / 62.0;
        let chi: f64 = BASE62
            .iter()
            .map(|byte| (f64::from(counts[usize::from(*byte)]) - expected).powi(2) / expected)
            .sum();
        // 61 degrees of freedom: 140 is passed by chance once in ten million runs.
        assert!(chi < 140.0, "{chi}");
    }
}
