//! The signature algorithms of RFC 7518 §3.1 and RFC 8037 that we verify, and sets of them.
//!
//! Not for encryption, and never `none`. Called by the configuration, the key sets and the JWS verifier.

use std::fmt;

/// One algorithm. There is no variant for `none`: what has no name here cannot be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Algorithm {
    /// RSASSA-PKCS1-v1_5 with SHA-256.
    Rs256,
    /// RSASSA-PKCS1-v1_5 with SHA-384.
    Rs384,
    /// RSASSA-PKCS1-v1_5 with SHA-512.
    Rs512,
    /// RSASSA-PSS with SHA-256, salt as long as the hash.
    Ps256,
    /// RSASSA-PSS with SHA-384, salt as long as the hash.
    Ps384,
    /// RSASSA-PSS with SHA-512, salt as long as the hash.
    Ps512,
    /// ECDSA on P-256 with SHA-256, signature as r‖s.
    Es256,
    /// ECDSA on P-384 with SHA-384, signature as r‖s. About thirteen times the cost of ES256 on ring.
    Es384,
    /// Ed25519; also written `Ed25519` (RFC 9864).
    EdDsa,
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Algorithm; 12] = {
        use Algorithm::*;
        [Rs256, Rs384, Rs512, Ps256, Ps384, Ps512, Es256, Es384, EdDsa, Hs256, Hs384, Hs512]
    };

    /// The algorithm a header or a configuration names. Names are case-sensitive (RFC 7515 §4.1.1).
    pub fn named(name: &str) -> Option<Algorithm> {
        if name == "Ed25519" {
            return Some(Algorithm::EdDsa);
        }
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// Its registered name.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Ps256 => "PS256",
            Algorithm::Ps384 => "PS384",
            Algorithm::Ps512 => "PS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::EdDsa => "EdDSA",
            Algorithm::Hs256 => "HS256",
            Algorithm::Hs384 => "HS384",
            Algorithm::Hs512 => "HS512",
        }
    }

    /// Why a name that is registered elsewhere is not verified here; for configuration errors.
    pub fn why_not(name: &str) -> &'static str {
        match name {
            "none" => "an unsigned token proves nothing",
            "ES512" => "the cryptographic library has no P-521; use ES256 or EdDSA",
            "ES256K" => "the cryptographic library has no secp256k1; use ES256 or EdDSA",
            "Ed448" => "the cryptographic library has no Ed448; use EdDSA with Ed25519",
            "RS1" => "SHA-1 signatures can be forged",
            _ => "not a signature algorithm of RFC 7518 or RFC 8037",
        }
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of algorithms, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct AlgorithmSet(u16);

impl AlgorithmSet {
    /// Nothing.
    pub const EMPTY: AlgorithmSet = AlgorithmSet(0);
    /// The six of RSA.
    pub const RSA: AlgorithmSet = AlgorithmSet(0b00_0011_1111);
    /// The three of HMAC.
    pub const HMAC: AlgorithmSet = AlgorithmSet(0b1110_0000_0000);
    /// What a login accepts whose `algorithms` is not written: all but HMAC, which shares its secret with
    /// the issuer, and ES384, which costs as much as dozens of requests. Both are had by naming them.
    pub const DEFAULT: AlgorithmSet = AlgorithmSet::RSA.with(Algorithm::Es256).with(Algorithm::EdDsa);

    /// This set and `algorithm`.
    #[must_use]
    pub const fn with(self, algorithm: Algorithm) -> AlgorithmSet {
        AlgorithmSet(self.0 | 1 << algorithm as u8)
    }

    /// What is in both.
    #[must_use]
    pub const fn both(self, other: AlgorithmSet) -> AlgorithmSet {
        AlgorithmSet(self.0 & other.0)
    }

    /// Whether `algorithm` is in it.
    pub const fn contains(self, algorithm: Algorithm) -> bool {
        self.0 & 1 << algorithm as u8 != 0
    }

    /// Whether nothing is in it.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The first in the order of [`Algorithm::ALL`].
    pub fn first(self) -> Option<Algorithm> {
        Algorithm::ALL.get(self.0.trailing_zeros() as usize).copied()
    }

    /// The bits, for a fingerprint.
    pub fn bits(self) -> u16 {
        self.0
    }
}

impl From<Algorithm> for AlgorithmSet {
    fn from(algorithm: Algorithm) -> AlgorithmSet {
        AlgorithmSet::EMPTY.with(algorithm)
    }
}

impl FromIterator<Algorithm> for AlgorithmSet {
    fn from_iter<I: IntoIterator<Item = Algorithm>>(algorithms: I) -> AlgorithmSet {
        algorithms.into_iter().fold(AlgorithmSet::EMPTY, AlgorithmSet::with)
    }
}

impl fmt::Debug for AlgorithmSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(Algorithm::ALL.into_iter().filter(|one| self.contains(*one))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_sets_agree() {
        for (place, algorithm) in Algorithm::ALL.into_iter().enumerate() {
            assert_eq!(algorithm as usize, place);
            assert_eq!(Algorithm::named(algorithm.name()), Some(algorithm));
            assert_eq!(AlgorithmSet::from(algorithm).first(), Some(algorithm));
            assert_eq!(AlgorithmSet::RSA.contains(algorithm), matches!(&algorithm.name()[..2], "RS" | "PS"));
            assert_eq!(AlgorithmSet::HMAC.contains(algorithm), algorithm.name().starts_with("HS"));
        }
        assert_eq!(AlgorithmSet::EMPTY.first(), None);
        for name in ["none", "None", "NONE", "", "rs256", "ES512", "ES256K", "HS256 ", "EdDSA\0"] {
            assert_eq!(Algorithm::named(name), None);
        }
    }

    #[test]
    fn neither_hmac_nor_es384_is_accepted_unasked() {
        assert!(AlgorithmSet::DEFAULT.both(AlgorithmSet::HMAC).is_empty());
        assert!(!AlgorithmSet::DEFAULT.contains(Algorithm::Es384));
    }
}
