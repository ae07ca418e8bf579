//! What a core remembers of tokens it has verified, and of those it has refused.
//!
//! One signature check costs as much as several whole requests, and a client sends the same token with each
//! of them. Not shared: each core has its own, without a lock. Called by the `jwt` login.
//!
//! **A hit is as good as a verification.** An entry counts only for the same login (its expectations, by
//! [`Verifier::fingerprint`]), the same key set ([`KeySet::generation`]), the same revocation epoch and the
//! same token, all of whose bytes are compared; and its dates are checked again at every hit. The hash only
//! chooses where to look: it is keyed by a random seed and taken over the end of the token, which is the end
//! of its signature. Comparing the stored bytes costs a third of hashing them with SHA-256, and admits no
//! collision. That the comparison stops at the first difference tells an attacker nothing: it starts only if
//! the keyed hash over the signature's last 48 characters agrees, so he must have them already.
//!
//! **Layout.** Sets of eight slots, one cache line each (32 bits of hash, 32 bits of place), point into a
//! slab that grows with use. A set evicts what is over first, then what was not used since its clock hand
//! passed; a new entry begins unused, so that tokens that are seen once do not push out those seen often.
//! A hit allocates nothing. Worst-case memory: [`Bounds::bytes_max`] and 64 KiB of slots, about 128 KiB for
//! the refused.

use std::hash::{BuildHasher, Hasher};
use std::rc::Rc;

use hashbrown::DefaultHashBuilder;
use ring::digest;

use super::jwks::KeySet;
use super::jws::{
    KEY_UNKNOWN, KEY_UNNAMED, KEYS_UNAVAILABLE, TOKEN_ALGORITHM, TOKEN_BYTES_MAX, TOKEN_HEADER,
    TOKEN_MALFORMED, TOKEN_TOO_LONG,
};
use super::jwt::{TOKEN_TYPE, Validity, Verifier};
use crate::http::Reason;

const WAYS: usize = 8;
/// How much of a token's end is hashed. 48 characters of a signature are 288 bits of it; the shortest
/// signature, HS256's, has 43.
const TAIL_BYTES: usize = 48;
/// How many entries one insertion looks at while it makes room for bytes.
const SWEEP_MAX: usize = 64;
/// Slots for refused tokens.
const REFUSED_SETS: usize = 256;
const REFUSED_WAYS: usize = 4;
/// How long a refusal is remembered.
const REFUSED_S: u64 = 10;

/// How much one core remembers.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Most verified tokens, rounded up to a power of two; default 8,192.
    pub entries_max: usize,
    /// Most bytes of tokens and their claims; default 16 MiB.
    pub bytes_max: usize,
}

impl Default for Bounds {
    fn default() -> Bounds {
        Bounds { entries_max: 8192, bytes_max: 16 << 20 }
    }
}

/// Under which circumstances a token was verified. Any difference is a miss.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Circumstances {
    /// [`Verifier::fingerprint`] of the login.
    pub login: u64,
    /// [`KeySet::generation`] of its keys.
    pub keys: u64,
    /// The revocation epoch of the node.
    pub epoch: u64,
}

impl Circumstances {
    /// Those of a login at this moment.
    pub fn new(verifier: &Verifier, keys: &KeySet, epoch: u64) -> Circumstances {
        Circumstances { login: verifier.fingerprint(), keys: keys.generation(), epoch }
    }
}

/// What the cache knows of a token.
#[derive(Debug)]
pub enum Known<T> {
    /// Verified earlier and valid now: what it stands for.
    Verified(Rc<T>),
    /// Refused lately, or verified earlier and no longer valid.
    Refused(&'static Reason),
    /// Nothing: verify it, then tell the cache.
    Nothing,
}

/// How often what happened, since the cache was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Found and valid.
    pub hits: u64,
    /// Not known.
    pub misses: u64,
    /// Known as refused or no longer valid.
    pub refused: u64,
    /// Pushed out while it was still valid.
    pub evicted: u64,
}

/// The tokens one core remembers, each with what it stands for.
pub struct TokenCache<T> {
    bounds: Bounds,
    hasher: DefaultHashBuilder,
    sets: Vec<Set>,
    entries: Vec<Entry<T>>,
    /// Places in `entries` that are free.
    free: Vec<u32>,
    bytes: usize,
    /// The clock hand over `entries`, for the bound on bytes.
    hand: usize,
    refused: Vec<Refused>,
    counts: Counts,
}

#[derive(Clone, Copy)]
#[repr(align(64))]
struct Set([Slot; WAYS]);

/// 32 bits of the token's hash and the place of its entry plus one; zero is empty.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Slot(u64);

impl Slot {
    fn new(tag: u32, place: u32) -> Slot {
        Slot(u64::from(tag) << 32 | u64::from(place + 1))
    }

    fn tag(self) -> u32 {
        (self.0 >> 32) as u32
    }

    fn place(self) -> Option<usize> {
        (self.0 as u32).checked_sub(1).map(|place| place as usize)
    }
}

struct Entry<T> {
    token: Box<[u8]>,
    /// `None` where the entry is free.
    value: Option<Rc<T>>,
    validity: Validity,
    /// What it counts for in the bound.
    bytes: u32,
    circumstances: Circumstances,
    /// The index of its set.
    set: u32,
    /// Used since the hand passed.
    is_used: bool,
}

#[derive(Clone, Copy)]
struct Refused {
    /// The first half of SHA-256 over circumstances and token.
    digest: u128,
    until_s: u64,
    reason: &'static Reason,
}

impl<T> TokenCache<T> {
    /// An empty cache; it takes memory as it is used.
    pub fn new(bounds: Bounds) -> TokenCache<T> {
        let entries_max = bounds.entries_max.clamp(WAYS, 1 << 24).next_power_of_two();
        TokenCache {
            bounds: Bounds { entries_max, ..bounds },
            hasher: DefaultHashBuilder::default(),
            sets: Vec::new(),
            entries: Vec::new(),
            free: Vec::new(),
            bytes: 0,
            hand: 0,
            refused: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// What is known of `token` at `now_s` (Unix seconds). O(eight slots + bytes of the token).
    pub fn find(&mut self, token: &[u8], circumstances: &Circumstances, now_s: u64) -> Known<T> {
        if let Some(place) = self.place(token, circumstances) {
            let entry = &mut self.entries[place];
            if entry.circumstances == *circumstances
                && let Some(value) = &entry.value
            {
                return match entry.validity.check(now_s) {
                    Ok(()) => {
                        entry.is_used = true;
                        self.counts.hits += 1;
                        Known::Verified(Rc::clone(value))
                    }
                    Err(reason) => {
                        // Kept: a client that goes on with its expired token is told so at the price of a hit.
                        self.counts.refused += 1;
                        Known::Refused(reason)
                    }
                };
            }
        }
        if !self.refused.is_empty()
            && let Some(reason) = self.refusal(token, circumstances, now_s)
        {
            self.counts.refused += 1;
            return Known::Refused(reason);
        }
        self.counts.misses += 1;
        Known::Nothing
    }

    /// Remembers that `token` was verified under `circumstances`, when it is valid, and that it stands for
    /// `value`, which occupies `bytes`.
    ///
    /// Two allocations; evicts at most [`SWEEP_MAX`] others. A token for which no room can be made is not
    /// remembered.
    pub fn verified(
        &mut self,
        token: &[u8],
        circumstances: &Circumstances,
        validity: Validity,
        value: &Rc<T>,
        bytes: usize,
        now_s: u64,
    ) {
        if token.len() > TOKEN_BYTES_MAX {
            return;
        }
        if self.sets.is_empty() {
            self.sets = vec![Set([Slot::default(); WAYS]); self.bounds.entries_max / WAYS];
        }
        if let Some(place) = self.place(token, circumstances) {
            // The same token of the same login under other keys or another epoch.
            self.remove(place);
        }
        let bytes = size_of::<Entry<T>>() + token.len() + bytes;
        if !self.make_room(bytes) {
            return;
        }
        let (set, tag) = self.locate(token, circumstances);
        let way = self.vacate(set, now_s);
        let entry = Entry {
            token: token.into(),
            value: Some(Rc::clone(value)),
            validity,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            circumstances: *circumstances,
            set: set as u32,
            is_used: false,
        };
        let place = match self.free.pop() {
            Some(place) => {
                self.entries[place as usize] = entry;
                place
            }
            None => {
                self.entries.push(entry);
                (self.entries.len() - 1) as u32
            }
        };
        self.sets[set].0[way] = Slot::new(tag, place);
        self.bytes += bytes;
    }

    /// Remembers for ten seconds that `token` was refused, where finding that out again would cost a
    /// signature check.
    pub fn refused(
        &mut self,
        token: &[u8],
        circumstances: &Circumstances,
        reason: &'static Reason,
        now_s: u64,
    ) {
        // What is seen before the signature is cheaper to see again than to remember.
        if !cost_a_signature_check(reason) {
            return;
        }
        if self.refused.is_empty() {
            let empty = Refused { digest: 0, until_s: 0, reason };
            self.refused = vec![empty; REFUSED_SETS * REFUSED_WAYS];
        }
        let digest = digest(token, circumstances);
        let set = refused_set(digest);
        let oldest = self.refused[set..set + REFUSED_WAYS].iter_mut().min_by_key(|refused| refused.until_s);
        if let Some(slot) = oldest {
            *slot = Refused { digest, until_s: now_s + REFUSED_S, reason };
        }
    }

    /// How many tokens it holds.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes of tokens and claims it holds.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn locate(&self, token: &[u8], circumstances: &Circumstances) -> (usize, u32) {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(&token[token.len().saturating_sub(TAIL_BYTES)..]);
        // The login is part of the key: one token may be tried by several logins.
        hasher.write_u64(circumstances.login ^ token.len() as u64);
        let hash = hasher.finish();
        (hash as usize & (self.sets.len().wrapping_sub(1)), (hash >> 32) as u32)
    }

    /// The entry of this token for this login, whatever its keys and epoch.
    fn place(&self, token: &[u8], circumstances: &Circumstances) -> Option<usize> {
        let (set, tag) = self.locate(token, circumstances);
        self.sets.get(set)?.0.iter().find_map(|slot| {
            let place = slot.place()?;
            if slot.tag() != tag {
                return None;
            }
            let entry = self.entries.get(place)?;
            (entry.circumstances.login == circumstances.login && *entry.token == *token).then_some(place)
        })
    }

    fn refusal(&self, token: &[u8], circumstances: &Circumstances, now_s: u64) -> Option<&'static Reason> {
        let digest = digest(token, circumstances);
        let set = refused_set(digest);
        let found = self.refused[set..set + REFUSED_WAYS].iter().find(|refused| refused.digest == digest)?;
        (now_s < found.until_s).then_some(found.reason)
    }

    /// Frees a way of the set: an empty one, else what is over, else what was not used of late.
    fn vacate(&mut self, set: usize, now_s: u64) -> usize {
        let ways = self.sets[set].0;
        if let Some(way) = ways.iter().position(|slot| slot.place().is_none()) {
            return way;
        }
        let mut victim = None;
        for (way, place) in ways.iter().enumerate().filter_map(|(way, slot)| Some((way, slot.place()?))) {
            let entry = &mut self.entries[place];
            if entry.validity.check(now_s).is_err() {
                self.remove(place);
                return way;
            }
            if victim.is_none() && !entry.is_used {
                victim = Some((way, place));
            }
        }
        // All used: all lose their mark, and the first goes.
        let (way, place) = victim.unwrap_or_else(|| {
            for place in ways.iter().filter_map(|slot| slot.place()) {
                self.entries[place].is_used = false;
            }
            (0, ways[0].place().unwrap_or(0))
        });
        self.counts.evicted += 1;
        self.remove(place);
        // The set is a queue: what follows moves up, so that the first way holds the oldest.
        self.sets[set].0[way..].rotate_left(1);
        WAYS - 1
    }

    /// Whether `bytes` more fit, after evicting if need be.
    fn make_room(&mut self, bytes: usize) -> bool {
        if bytes > self.bounds.bytes_max {
            return false;
        }
        let mut steps = 0;
        while self.bytes + bytes > self.bounds.bytes_max {
            if steps == SWEEP_MAX || self.entries.is_empty() {
                return false;
            }
            steps += 1;
            let place = self.hand % self.entries.len();
            self.hand = place + 1;
            let entry = &mut self.entries[place];
            if entry.value.is_none() {
                continue;
            }
            // The second half of the sweep takes what it finds: there is always room for a new token.
            if std::mem::take(&mut entry.is_used) && steps < SWEEP_MAX / 2 {
                continue;
            }
            self.counts.evicted += 1;
            self.remove(place);
        }
        true
    }

    fn remove(&mut self, place: usize) {
        let entry = &mut self.entries[place];
        if entry.value.take().is_none() {
            return;
        }
        self.bytes -= entry.bytes as usize;
        entry.token = Box::default();
        let set = &mut self.sets[entry.set as usize];
        if let Some(slot) = set.0.iter_mut().find(|slot| slot.place() == Some(place)) {
            *slot = Slot::default();
        }
        self.free.push(place as u32);
    }
}

/// Whether a token that is refused with `reason` has cost a signature check.
pub fn cost_a_signature_check(reason: &Reason) -> bool {
    let cheap = [
        &TOKEN_MALFORMED,
        &TOKEN_TOO_LONG,
        &TOKEN_HEADER,
        &TOKEN_ALGORITHM,
        &TOKEN_TYPE,
        &KEYS_UNAVAILABLE,
        &KEY_UNKNOWN,
        &KEY_UNNAMED,
    ];
    !cheap.iter().any(|cheap| cheap.code == reason.code)
}

/// Tokens are credentials: none is shown.
impl<T> std::fmt::Debug for TokenCache<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenCache")
            .field("len", &self.len())
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

fn digest(token: &[u8], circumstances: &Circumstances) -> u128 {
    let mut context = digest::Context::new(&digest::SHA256);
    for number in [circumstances.login, circumstances.keys, circumstances.epoch] {
        context.update(&number.to_be_bytes());
    }
    context.update(token);
    context.finish().as_ref().iter().take(16).fold(0, |value, byte| value << 8 | u128::from(*byte))
}

fn refused_set(digest: u128) -> usize {
    digest as usize % REFUSED_SETS * REFUSED_WAYS
}

#[cfg(test)]
mod tests {
    use super::super::jws::TOKEN_SIGNATURE;
    use super::super::jwt::{TOKEN_EXPIRED, TOKEN_NOT_YET};
    use super::*;

    const NOW_S: u64 = 1_800_000_000;
    const HERE: Circumstances = Circumstances { login: 1, keys: 1, epoch: 1 };

    /// Valid within these dates, and until the year 9999 if there are none.
    fn validity(from_s: u64, until_s: u64) -> Validity {
        Validity { from_s, until_s, age_end_s: u64::MAX }
    }

    fn remember(cache: &mut TokenCache<String>, token: &[u8], name: &str) {
        cache.verified(token, &HERE, validity(0, NOW_S + 90), &Rc::new(name.to_owned()), 300, NOW_S);
    }

    fn name(known: &Known<String>) -> Option<&str> {
        match known {
            Known::Verified(name) => Some(name),
            _ => None,
        }
    }

    fn bytes_of(token: &[u8]) -> usize {
        size_of::<Entry<String>>() + token.len() + 300
    }

    #[test]
    fn a_verified_token_is_found_as_long_as_it_is_valid() {
        let mut cache = TokenCache::<String>::new(Bounds::default());
        assert!(matches!(cache.find(b"token", &HERE, NOW_S), Known::Nothing));
        let alice = Rc::new("alice".to_owned());
        cache.verified(b"token", &HERE, validity(NOW_S - 40, NOW_S + 90), &alice, 300, NOW_S);
        assert_eq!(name(&cache.find(b"token", &HERE, NOW_S)), Some("alice"));
        assert_eq!(name(&cache.find(b"token", &HERE, NOW_S + 89)), Some("alice"));
        let over = cache.find(b"token", &HERE, NOW_S + 90);
        assert!(matches!(over, Known::Refused(reason) if reason == &TOKEN_EXPIRED));
        // The clock may go backwards.
        let early = cache.find(b"token", &HERE, NOW_S - 41);
        assert!(matches!(early, Known::Refused(reason) if reason == &TOKEN_NOT_YET));
        assert_eq!(cache.counts(), Counts { hits: 2, misses: 1, refused: 2, evicted: 0 });
    }

    #[test]
    fn any_other_circumstance_or_byte_is_a_miss() {
        let mut cache = TokenCache::<String>::new(Bounds::default());
        let token = b"header.payload.0123456789abcdef0123456789abcdef0123456789abcdef0123456789";
        remember(&mut cache, token, "alice");
        for other in [
            Circumstances { login: 2, ..HERE },
            Circumstances { keys: 2, ..HERE },
            Circumstances { epoch: 2, ..HERE },
        ] {
            assert!(matches!(cache.find(token, &other, NOW_S), Known::Nothing));
        }
        for at in 0..token.len() {
            let mut other = *token;
            other[at] ^= 1;
            assert!(matches!(cache.find(&other, &HERE, NOW_S), Known::Nothing), "{at}");
        }
        assert!(matches!(cache.find(&token[1..], &HERE, NOW_S), Known::Nothing));
        assert!(matches!(cache.find(b"", &HERE, NOW_S), Known::Nothing));
        assert_eq!(name(&cache.find(token, &HERE, NOW_S)), Some("alice"));
    }

    #[test]
    fn new_keys_replace_the_entry_of_the_old() {
        let mut cache = TokenCache::<String>::new(Bounds::default());
        for keys in 0..100 {
            let there = Circumstances { keys, ..HERE };
            cache.verified(b"token", &there, validity(0, NOW_S + 90), &Rc::new(String::new()), 300, NOW_S);
        }
        assert_eq!(cache.len(), 1);
        assert_eq!(cache.bytes(), bytes_of(b"token"));
    }

    #[test]
    fn entries_and_bytes_are_bounded() {
        let mut cache = TokenCache::<String>::new(Bounds { entries_max: 64, bytes_max: 1 << 20 });
        for token in 0..10_000u32 {
            remember(&mut cache, &token.to_be_bytes(), "alice");
        }
        assert!(cache.len() <= 64 && cache.len() > 32, "{}", cache.len());
        assert!(cache.entries.len() <= 64);

        let one = bytes_of(&[0; 100]);
        let mut cache = TokenCache::<String>::new(Bounds { entries_max: 1024, bytes_max: one * 10 });
        for token in 0..1000u32 {
            remember(&mut cache, &[token.to_be_bytes(); 25].concat(), "alice");
            assert!(cache.bytes() <= one * 10);
        }
        assert_eq!(cache.len(), 10);
        let last = [999u32.to_be_bytes(); 25].concat();
        assert!(name(&cache.find(&last, &HERE, NOW_S)).is_some());
        let mut tiny = TokenCache::new(Bounds { entries_max: 8, bytes_max: 10 });
        remember(&mut tiny, b"token", "alice");
        assert!(tiny.is_empty());
    }

    #[test]
    fn tokens_seen_once_do_not_push_out_those_seen_often() {
        let mut cache = TokenCache::<String>::new(Bounds { entries_max: 256, bytes_max: 1 << 20 });
        let token = |number: u64| {
            format!("{:064x}", u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
        };
        // One in eight slots is wanted by a hot token: no set has more of them than ways, or once in a million runs.
        let hot: Vec<String> = (0..32).map(token).collect();
        for token in &hot {
            remember(&mut cache, token.as_bytes(), "alice");
        }
        let mut lost = 0;
        for round in 0..100 {
            for token in &hot {
                if name(&cache.find(token.as_bytes(), &HERE, NOW_S)).is_none() {
                    lost += 1;
                    remember(&mut cache, token.as_bytes(), "alice");
                }
            }
            for once in 0..64 {
                remember(&mut cache, token(1000 + round * 64 + once).as_bytes(), "alice");
            }
        }
        assert!(lost < 32, "{lost} of 3,200 lookups of hot tokens missed");
    }

    #[test]
    fn what_is_over_is_evicted_first() {
        let mut cache = TokenCache::<String>::new(Bounds { entries_max: 8, bytes_max: 1 << 20 });
        let value = Rc::new(String::new());
        for token in 0..7u8 {
            cache.verified(&[token], &HERE, validity(0, NOW_S + 600), &value, 300, NOW_S);
        }
        cache.verified(b"short", &HERE, validity(0, NOW_S + 10), &value, 300, NOW_S);
        cache.verified(b"new", &HERE, validity(0, NOW_S + 600), &value, 300, NOW_S + 100);
        assert_eq!(cache.counts().evicted, 0);
        assert!((0..7u8).all(|token| name(&cache.find(&[token], &HERE, NOW_S + 100)).is_some()));
    }

    #[test]
    fn refusals_are_remembered_for_a_while_and_only_the_costly() {
        let mut cache = TokenCache::<String>::new(Bounds::default());
        cache.refused(b"cheap", &HERE, &TOKEN_MALFORMED, NOW_S);
        assert!(cache.refused.is_empty());
        cache.refused(b"bad", &HERE, &TOKEN_SIGNATURE, NOW_S);
        let known = cache.find(b"bad", &HERE, NOW_S + REFUSED_S - 1);
        assert!(matches!(known, Known::Refused(reason) if reason == &TOKEN_SIGNATURE));
        assert!(matches!(cache.find(b"bad", &HERE, NOW_S + REFUSED_S), Known::Nothing));
        assert!(matches!(cache.find(b"bad", &Circumstances { keys: 2, ..HERE }, NOW_S), Known::Nothing));
        assert!(matches!(cache.find(b"bae", &HERE, NOW_S), Known::Nothing));
        for token in 0..100_000u32 {
            cache.refused(&token.to_be_bytes(), &HERE, &TOKEN_SIGNATURE, NOW_S);
        }
        assert_eq!(cache.refused.len(), REFUSED_SETS * REFUSED_WAYS);
    }
}
