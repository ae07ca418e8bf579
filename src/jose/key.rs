//! One verification key and the one algorithm it is good for.
//!
//! Not for signing and never holds a private key of an asymmetric pair. Made by the key-set parser, used by
//! the JWS verifier. Every signature check goes through [`Key::verify`].

use std::fmt;

use ring::{agreement, hmac, rand, signature};

use super::algorithm::{Algorithm, AlgorithmSet};

/// The longest RSA modulus we verify with, in bits. RSA-4096 costs as much as ES256; beyond it a key would
/// let its issuer spend our processor.
pub const RSA_BITS_MAX: usize = 4096;
/// The shortest RSA modulus (RFC 7518 §3.3: 2048 bits or larger MUST be used).
pub const RSA_BITS_MIN: usize = 2048;
/// The longest signature of any key: one of RSA-4096.
pub const SIGNATURE_BYTES_MAX: usize = RSA_BITS_MAX / 8;
/// The longest symmetric key, in bytes.
pub const SECRET_BYTES_MAX: usize = 1024;

/// A key that verifies signatures.
pub struct Key {
    /// The `kid`, if the key has one.
    id: Option<Box<str>>,
    /// What the key may be used with: one algorithm, or for an RSA key without `alg` all six of RSA, of
    /// which [`Key::pinned`] picks one.
    algorithms: AlgorithmSet,
    material: Material,
}

enum Material {
    Rsa { modulus: Box<[u8]>, exponent: Box<[u8]> },
    P256([u8; 65]),
    P384([u8; 97]),
    Ed25519([u8; 32]),
    Hmac(hmac::Key),
}

impl Key {
    /// An RSA key. `algorithm` is what its `alg` says, if it has one.
    ///
    /// # Errors
    /// Why the key is not fit for use.
    pub fn rsa(modulus: &[u8], exponent: &[u8], algorithm: Option<Algorithm>) -> Result<Key, &'static str> {
        // RFC 7518 §2, Base64urlUInt: the minimum number of octets, so the first is not zero.
        if modulus.first().is_none_or(|first| *first == 0) || exponent.first().is_none_or(|first| *first == 0)
        {
            return Err("an RSA number with leading zero octets (RFC 7518 §2)");
        }
        let bits = modulus.len() * 8 - modulus[0].leading_zeros() as usize;
        if bits < RSA_BITS_MIN {
            return Err("an RSA key shorter than 2048 bits (RFC 7518 §3.3)");
        }
        if bits > RSA_BITS_MAX {
            return Err("an RSA key longer than 4096 bits");
        }
        if exponent.len() > 4 {
            return Err("an RSA exponent above 32 bits");
        }
        let exponent_value = exponent.iter().fold(0u64, |value, byte| value << 8 | u64::from(*byte));
        // NIST SP 800-89 §5.3.3 asks for an odd exponent of at least 65537; 1 makes forgery trivial, 3 has a
        // history of broken padding checks.
        if exponent_value < 65537 || exponent_value % 2 == 0 {
            return Err("an RSA exponent that is even or below 65537");
        }
        if modulus[modulus.len() - 1].is_multiple_of(2) {
            return Err("an even RSA modulus");
        }
        if has_roca_fingerprint(modulus) {
            return Err(
                "an RSA key with the fingerprint of CVE-2017-15361 (ROCA): its private key can be computed",
            );
        }
        let algorithms = match algorithm {
            Some(algorithm) if AlgorithmSet::RSA.contains(algorithm) => algorithm.into(),
            Some(_) => return Err("an RSA key whose alg is not of RSA"),
            None => AlgorithmSet::RSA,
        };
        let material = Material::Rsa { modulus: modulus.into(), exponent: exponent.into() };
        Ok(Key { id: None, algorithms, material })
    }

    /// A key on P-256 (ES256) or P-384 (ES384) from its coordinates; the point is checked to be on its curve.
    ///
    /// # Errors
    /// Why the key is not fit for use.
    pub fn elliptic(curve: Algorithm, x: &[u8], y: &[u8]) -> Result<Key, &'static str> {
        const LENGTH: &str = "a coordinate that is not as long as its curve's field (RFC 7518 §6.2.1.2)";
        let material = match curve {
            Algorithm::Es256 => Material::P256(point(x, y).ok_or(LENGTH)?),
            Algorithm::Es384 => Material::P384(point(x, y).ok_or(LENGTH)?),
            _ => return Err("an algorithm without such a curve"),
        };
        let on_curve = match &material {
            Material::P256(point) => is_on_curve(&agreement::ECDH_P256, point),
            Material::P384(point) => is_on_curve(&agreement::ECDH_P384, point),
            _ => false,
        };
        if !on_curve {
            return Err("a point that is not on its curve");
        }
        Ok(Key { id: None, algorithms: curve.into(), material })
    }

    /// An Ed25519 key.
    ///
    /// # Errors
    /// Why the key is not fit for use.
    pub fn ed25519(x: &[u8]) -> Result<Key, &'static str> {
        let x: [u8; 32] = x.try_into().map_err(|_| "an Ed25519 key that is not 32 octets (RFC 8037 §2)")?;
        Ok(Key { id: None, algorithms: Algorithm::EdDsa.into(), material: Material::Ed25519(x) })
    }

    /// A shared secret for one algorithm of HMAC.
    ///
    /// # Errors
    /// Why the secret is not fit for use.
    pub fn hmac(secret: &[u8], algorithm: Algorithm) -> Result<Key, &'static str> {
        let (hash, bytes_min) = match algorithm {
            Algorithm::Hs256 => (hmac::HMAC_SHA256, 32),
            Algorithm::Hs384 => (hmac::HMAC_SHA384, 48),
            Algorithm::Hs512 => (hmac::HMAC_SHA512, 64),
            _ => return Err("a symmetric key whose alg is not HS256, HS384 or HS512"),
        };
        // RFC 7518 §3.2: a key of the same size as the hash output or larger MUST be used.
        if secret.len() < bytes_min {
            return Err("a symmetric key shorter than the hash of its alg (RFC 7518 §3.2)");
        }
        if secret.len() > SECRET_BYTES_MAX {
            return Err("a symmetric key longer than 1024 bytes");
        }
        let material = Material::Hmac(hmac::Key::new(hash, secret));
        Ok(Key { id: None, algorithms: algorithm.into(), material })
    }

    /// The same key with the key id `id`.
    #[must_use]
    pub fn with_id(mut self, id: Option<&str>) -> Key {
        self.id = id.map(Box::from);
        self
    }

    /// The `kid`, if it has one.
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// Whether it is a shared secret.
    pub fn is_symmetric(&self) -> bool {
        matches!(self.material, Material::Hmac(_))
    }

    /// The one algorithm this key is used with where `allowed` are accepted, or `None`.
    ///
    /// RFC 8725 §3.1: each key must be used with exactly one algorithm. It never depends on the token: an RSA
    /// key without `alg` is used with the first allowed of RS256, RS384, RS512, PS256, PS384, PS512.
    pub fn pinned(&self, allowed: AlgorithmSet) -> Option<Algorithm> {
        self.algorithms.both(allowed).first()
    }

    /// Whether `signature` is `algorithm`'s over `message`. An algorithm that is not the key's is a mismatch.
    ///
    /// Measured on one core: HMAC 0.4 µs, RSA-2048 21 µs, Ed25519 46 µs, P-256 59 µs, RSA-4096 79 µs,
    /// P-384 767 µs. No allocation of ours.
    pub fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        if !self.algorithms.contains(algorithm) {
            return false;
        }
        match &self.material {
            Material::Rsa { modulus, exponent } => {
                let parameters = match algorithm {
                    Algorithm::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
                    Algorithm::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
                    Algorithm::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
                    Algorithm::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
                    Algorithm::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
                    Algorithm::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
                    _ => return false,
                };
                let key = signature::RsaPublicKeyComponents { n: modulus, e: exponent };
                key.verify(parameters, message, signature).is_ok()
            }
            // RFC 7518 §3.4: the signature is r‖s, both as long as the field; never DER.
            Material::P256(point) => {
                verify_with(&signature::ECDSA_P256_SHA256_FIXED, point, message, signature)
            }
            Material::P384(point) => {
                verify_with(&signature::ECDSA_P384_SHA384_FIXED, point, message, signature)
            }
            Material::Ed25519(key) => verify_with(&signature::ED25519, key, message, signature),
            // Constant time, and only the whole tag.
            Material::Hmac(key) => hmac::verify(key, message, signature).is_ok(),
        }
    }
}

/// Never shows key material, not even public: a log line wants the id.
impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Key")
            .field("id", &self.id)
            .field("algorithms", &self.algorithms)
            .finish_non_exhaustive()
    }
}

fn verify_with(
    algorithm: &'static dyn signature::VerificationAlgorithm,
    key: &[u8],
    message: &[u8],
    signature: &[u8],
) -> bool {
    signature::UnparsedPublicKey::new(algorithm, key).verify(message, signature).is_ok()
}

/// SEC 1 §2.3.3: the uncompressed form `04 ‖ x ‖ y`.
fn point<const N: usize>(x: &[u8], y: &[u8]) -> Option<[u8; N]> {
    let field = (N - 1) / 2;
    if x.len() != field || y.len() != field {
        return None;
    }
    let mut point = [0; N];
    point[0] = 4;
    point[1..=field].copy_from_slice(x);
    point[1 + field..].copy_from_slice(y);
    Some(point)
}

/// ring checks a public point only when it is used, and at use a bad point and a bad signature look alike.
/// An agreement with a throw-away key tells them apart when the key is loaded.
fn is_on_curve(curve: &'static agreement::Algorithm, point: &[u8]) -> bool {
    let random = rand::SystemRandom::new();
    let Ok(ours) = agreement::EphemeralPrivateKey::generate(curve, &random) else { return false };
    agreement::agree_ephemeral(ours, &agreement::UnparsedPublicKey::new(curve, point), |_| ()).is_ok()
}

/// Whether an RSA modulus was made by the broken generator of CVE-2017-15361.
///
/// Its primes are `k·M + (65537^a mod M)` with M a primorial, so modulo every small prime the modulus is a
/// power of 65537. A random modulus is one for all 38 primes below 168 with a chance of about 2^-154.
fn has_roca_fingerprint(modulus: &[u8]) -> bool {
    const PRIMES: [u32; 38] = [
        3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101,
        103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
    ];
    PRIMES.iter().all(|prime| {
        let remainder = modulus.iter().fold(0, |rest, byte| (rest * 256 + u32::from(*byte)) % prime);
        let mut power = 1;
        loop {
            if power == remainder {
                return true;
            }
            power = power * (65537 % prime) % prime;
            if power == 1 {
                return false;
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An odd number of `bits` bits that is no key anybody could sign with; enough for the checks at load.
    fn modulus(bits: usize) -> Vec<u8> {
        let mut modulus = vec![0x5b; bits.div_ceil(8)];
        modulus[0] = 1 << ((bits - 1) % 8);
        modulus
    }

    #[test]
    fn rsa_sizes_are_bounded_at_their_edges() {
        let e = [1, 0, 1];
        assert!(Key::rsa(&modulus(2047), &e, None).is_err());
        assert!(Key::rsa(&modulus(2048), &e, None).is_ok());
        assert!(Key::rsa(&modulus(4096), &e, None).is_ok());
        assert!(Key::rsa(&modulus(4097), &e, None).is_err());
        assert!(Key::rsa(&[], &e, None).is_err());
        assert!(Key::rsa(&modulus(2048), &[], None).is_err());
        let padded = [&[0][..], &modulus(2048)].concat();
        assert!(Key::rsa(&padded, &e, None).is_err());
        let mut even = modulus(2048);
        even[255] = 2;
        assert!(Key::rsa(&even, &e, None).is_err());
    }

    #[test]
    fn weak_exponents_are_refused() {
        for exponent in [&[1][..], &[3], &[17], &[0xff, 0xff], &[1, 0, 0], &[0, 1, 0, 1], &[1, 0, 0, 0, 1]] {
            assert!(Key::rsa(&modulus(2048), exponent, None).is_err(), "{exponent:?}");
        }
        assert!(Key::rsa(&modulus(2048), &[0xff, 0xff, 0xff, 0xff], None).is_ok());
    }

    #[test]
    fn an_rsa_key_without_alg_is_pinned_by_the_login_not_by_the_token() {
        let key = Key::rsa(&modulus(2048), &[1, 0, 1], None).unwrap();
        assert_eq!(key.pinned(AlgorithmSet::DEFAULT), Some(Algorithm::Rs256));
        assert_eq!(key.pinned(Algorithm::Ps256.into()), Some(Algorithm::Ps256));
        assert_eq!(key.pinned(AlgorithmSet::HMAC), None);
        let pinned = Key::rsa(&modulus(2048), &[1, 0, 1], Some(Algorithm::Ps384)).unwrap();
        assert_eq!(pinned.pinned(AlgorithmSet::DEFAULT), Some(Algorithm::Ps384));
        assert_eq!(pinned.pinned(Algorithm::Rs256.into()), None);
        assert!(Key::rsa(&modulus(2048), &[1, 0, 1], Some(Algorithm::Hs256)).is_err());
    }

    #[test]
    fn secrets_are_as_long_as_their_hash() {
        for (algorithm, bytes) in [(Algorithm::Hs256, 32), (Algorithm::Hs384, 48), (Algorithm::Hs512, 64)] {
            assert!(Key::hmac(&vec![7; bytes - 1], algorithm).is_err());
            assert!(Key::hmac(&vec![7; bytes], algorithm).is_ok());
            assert!(Key::hmac(&vec![7; SECRET_BYTES_MAX + 1], algorithm).is_err());
        }
        assert!(Key::hmac(&[7; 64], Algorithm::Rs256).is_err());
    }

    #[test]
    fn debug_output_holds_no_key_material() {
        let key = Key::hmac(&[b'A'; 32], Algorithm::Hs256).unwrap().with_id(Some("k1"));
        let shown = format!("{key:?}");
        assert!(shown.contains("k1") && !shown.contains("65") && !shown.contains("AAAA"), "{shown}");
    }
}
