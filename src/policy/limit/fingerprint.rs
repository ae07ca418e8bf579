//! Who pays: a limit and its key (an address, an identity, a field's value) as 64 keyed bits.
//!
//! SipHash-1-3 under a random key of the table. Not a faster unkeyed or lightly keyed hash: a fingerprint
//! alone decides whose bucket is charged, and an attacker *sees* collisions (the remaining count that the
//! answers carry goes down for one key when another is used), so the hash must stay a pseudo-random function
//! against somebody who adapts. Two of n live keys share a bucket with probability n²/2^65: 3 in a million at
//! ten million keys.
//!
//! Not for: identities as such (nothing is decided on a fingerprint but who pays). Called by the limit
//! policies when they name a key.

use std::hash::{BuildHasher, RandomState};

/// A keyed hash of (limit, key); never 0, which marks an empty cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(u64);

/// A limit's stable identity, from its name in the configuration, not from its position: the counters of a
/// limit survive a reload that moves it or changes its rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LimitId(u64);

/// The secret under which a table makes fingerprints.
#[derive(Clone)]
pub struct FingerprintKey {
    k0: u64,
    k1: u64,
}

impl Fingerprint {
    /// From 64 hashed bits; 0 becomes 1.
    pub const fn from_bits(bits: u64) -> Fingerprint {
        Fingerprint(if bits == 0 { 1 } else { bits })
    }

    /// The bits; never 0.
    pub const fn bits(self) -> u64 {
        self.0
    }
}

impl LimitId {
    /// From the canonical id `(api, name or who + per + do + period)`, written as one string by the caller.
    pub fn new(id: &str) -> LimitId {
        // Names come from the operator: no secret needed, and the same on every node and after a restart.
        LimitId(siphash::<1, 3>(0, 0, id.len() as u64, id.as_bytes()))
    }
}

impl FingerprintKey {
    /// A new random key.
    pub fn random() -> FingerprintKey {
        // Each state hashes under keys that std draws from the operating system.
        FingerprintKey { k0: RandomState::new().hash_one(0u8), k1: RandomState::new().hash_one(1u8) }
    }

    /// A fixed key, for tests that must repeat.
    pub const fn fixed(k0: u64, k1: u64) -> FingerprintKey {
        FingerprintKey { k0, k1 }
    }

    /// Who pays for `limit` under the key `key`.
    #[inline]
    pub fn fingerprint(&self, limit: LimitId, key: &[u8]) -> Fingerprint {
        Fingerprint::from_bits(siphash::<1, 3>(self.k0, self.k1, limit.0, key))
    }

    /// Who pays for `limit` under a key of several parts. The parts are chained through their hashes, so
    /// `("a", "bc")` and `("ab", "c")` differ.
    #[inline]
    pub fn fingerprint_parts<'k>(
        &self,
        limit: LimitId,
        parts: impl IntoIterator<Item = &'k [u8]>,
    ) -> Fingerprint {
        let bits =
            parts.into_iter().fold(limit.0, |head, part| siphash::<1, 3>(self.k0, self.k1, head, part));
        Fingerprint::from_bits(bits)
    }
}

/// SipHash-C-D of `head` (eight bytes, little-endian) followed by `tail`.
#[inline]
fn siphash<const C: usize, const D: usize>(k0: u64, k1: u64, head: u64, tail: &[u8]) -> u64 {
    let mut v = [
        k0 ^ 0x736f_6d65_7073_6575,
        k1 ^ 0x646f_7261_6e64_6f6d,
        k0 ^ 0x6c79_6765_6e65_7261,
        k1 ^ 0x7465_6462_7974_6573,
    ];
    compress::<C>(&mut v, head);
    let (words, rest) = tail.as_chunks::<8>();
    for word in words {
        compress::<C>(&mut v, u64::from_le_bytes(*word));
    }
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    // The last byte is the length of the whole message modulo 256.
    last[7] = (tail.len() + 8) as u8;
    compress::<C>(&mut v, u64::from_le_bytes(last));
    v[2] ^= 0xff;
    for _ in 0..D {
        round(&mut v);
    }
    v[0] ^ v[1] ^ v[2] ^ v[3]
}

#[inline(always)]
fn compress<const C: usize>(v: &mut [u64; 4], word: u64) {
    v[3] ^= word;
    for _ in 0..C {
        round(v);
    }
    v[0] ^= word;
}

#[inline(always)]
fn round(v: &mut [u64; 4]) {
    v[0] = v[0].wrapping_add(v[1]);
    v[2] = v[2].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(13) ^ v[0];
    v[3] = v[3].rotate_left(16) ^ v[2];
    v[0] = v[0].rotate_left(32);
    v[2] = v[2].wrapping_add(v[1]);
    v[0] = v[0].wrapping_add(v[3]);
    v[1] = v[1].rotate_left(17) ^ v[2];
    v[3] = v[3].rotate_left(21) ^ v[0];
    v[2] = v[2].rotate_left(32);
}

#[cfg(test)]
mod tests {
    use std::hash::Hasher;

    use super::*;

    #[test]
    #[expect(deprecated, reason = "std's SipHash-2-4 is the only one there that takes a key")]
    fn the_hash_is_siphash() {
        let message: Vec<u8> = (0..=255).collect();
        for length in 0..64 {
            let (head, tail) = (0x0102_0304_0506_0708_u64, &message[..length]);
            let mut oracle = std::hash::DefaultHasher::new();
            oracle.write(&head.to_le_bytes());
            oracle.write(tail);
            assert_eq!(siphash::<1, 3>(0, 0, head, tail), oracle.finish(), "1-3 length {length}");
            let mut oracle = std::hash::SipHasher::new_with_keys(0x1234_5678_9abc_def0, 42);
            oracle.write(&head.to_le_bytes());
            oracle.write(tail);
            assert_eq!(
                siphash::<2, 4>(0x1234_5678_9abc_def0, 42, head, tail),
                oracle.finish(),
                "2-4 {length}"
            );
        }
    }

    #[test]
    fn the_parts_of_a_key_do_not_run_together() {
        let key = FingerprintKey::fixed(1, 2);
        let limit = LimitId::new("orders/per-identity");
        let of = |parts: &[&'static [u8]]| key.fingerprint_parts(limit, parts.iter().copied());
        assert_ne!(of(&[b"a", b"bc"]), of(&[b"ab", b"c"]));
        assert_ne!(of(&[b"abc"]), of(&[b"abc", b""]));
        assert_eq!(of(&[b"abc"]), key.fingerprint(limit, b"abc"));
        assert_ne!(of(&[b"abc"]), key.fingerprint(LimitId::new("orders/per-address"), b"abc"));
    }

    #[test]
    fn two_tables_hash_under_different_keys() {
        let limit = LimitId::new("x");
        let (a, b) = (FingerprintKey::random(), FingerprintKey::random());
        assert_ne!(a.fingerprint(limit, b"key"), b.fingerprint(limit, b"key"));
    }
}
