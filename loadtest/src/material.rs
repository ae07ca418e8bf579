//! What the contenders need that must not be committed: a certificate, a signing key, tokens. Made anew at each start.
//!
//! Called by `compare`. Everything is written under the working directory with mode 0600.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use base64_simd::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use rustls::pki_types::CertificateDer;
use serde_json::json;

/// The name in the certificate and in every request's Host.
pub const HOST: &str = "loadtest.localhost";
/// `iss` of the tokens.
pub const ISSUER: &str = "https://login.loadtest.localhost/";
/// `aud` of the tokens.
pub const AUDIENCE: &str = "orders";
/// How many callers take turns, each with a token of its own.
pub const CALLERS: usize = 64;
/// How long the tokens are valid.
const TOKEN_SECONDS: u64 = 24 * 3600;

/// The files, and what the generator itself needs of them.
pub struct Material {
    /// PEM of the certificate, ECDSA P-256.
    pub certificate_file: PathBuf,
    /// PEM of its key.
    pub key_file: PathBuf,
    /// Both in one file, as HAProxy wants them.
    pub both_file: PathBuf,
    /// The set of the one key that signs the tokens.
    pub jwks_file: PathBuf,
    /// The certificate, for comparison.
    pub certificate: CertificateDer<'static>,
    /// ES256 tokens of different subjects.
    pub tokens: Vec<String>,
}

impl Material {
    /// Makes everything and writes it into `directory`.
    ///
    /// # Errors
    /// A file cannot be written, or the system has no randomness.
    pub fn make(directory: &Path) -> io::Result<Self> {
        let made = rcgen::generate_simple_self_signed([
            HOST.to_owned(),
            "127.0.0.1".to_owned(),
            "localhost".to_owned(),
        ])
        .map_err(io::Error::other)?;
        let (certificate, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let random = SystemRandom::new();
        let unspecified = |_| io::Error::other("ring could not make a key");
        let pkcs8 =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random).map_err(unspecified)?;
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random)
            .map_err(|error| io::Error::other(error.to_string()))?;
        let point = signer.public_key().as_ref();
        // SEC 1 §2.3.3: an uncompressed point is 0x04, x, y.
        let (x, y) = (
            URL_SAFE_NO_PAD.encode_to_string(&point[1..33]),
            URL_SAFE_NO_PAD.encode_to_string(&point[33..65]),
        );
        let jwks = json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "loadtest", "x": x, "y": y}]});
        let now_s = SystemTime::now().duration_since(UNIX_EPOCH).map_err(io::Error::other)?.as_secs();
        let tokens = (0..CALLERS)
            .map(|caller| token(&signer, &random, caller, now_s))
            .collect::<Result<_, _>>()
            .map_err(unspecified)?;
        Ok(Self {
            certificate_file: write(directory, "cert.pem", &certificate)?,
            key_file: write(directory, "key.pem", &key)?,
            both_file: write(directory, "cert-and-key.pem", &format!("{certificate}{key}"))?,
            jwks_file: write(directory, "jwks.json", &jwks.to_string())?,
            certificate: made.cert.der().clone(),
            tokens,
        })
    }
}

fn token(
    signer: &EcdsaKeyPair,
    random: &SystemRandom,
    caller: usize,
    now_s: u64,
) -> Result<String, ring::error::Unspecified> {
    let header = json!({"alg": "ES256", "typ": "JWT", "kid": "loadtest"});
    let claims = json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": format!("caller-{caller:03}"),
        "scope": "orders.read orders.write",
        "iat": now_s, "nbf": now_s - 60, "exp": now_s + TOKEN_SECONDS,
        "jti": format!("loadtest-{caller:03}"),
    });
    let part = |value: serde_json::Value| URL_SAFE_NO_PAD.encode_to_string(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let signature = signer.sign(random, signed.as_bytes())?;
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode_to_string(signature.as_ref())))
}

fn write(directory: &Path, name: &str, text: &str) -> io::Result<PathBuf> {
    let path = directory.join(name);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?.write_all(text.as_bytes())?;
    fs::canonicalize(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    #[test]
    fn tokens_verify_with_the_key_of_the_set_and_files_are_private() {
        use std::os::unix::fs::PermissionsExt;
        let directory =
            std::env::temp_dir().join(format!("ringwall-loadtest-material-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let material = Material::make(&directory).unwrap();
        let jwks: serde_json::Value =
            serde_json::from_slice(&fs::read(&material.jwks_file).unwrap()).unwrap();
        let decode = |text: &str| URL_SAFE_NO_PAD.decode_to_vec(text).unwrap();
        let mut point = vec![4];
        point.extend(decode(jwks["keys"][0]["x"].as_str().unwrap()));
        point.extend(decode(jwks["keys"][0]["y"].as_str().unwrap()));
        let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
        assert_eq!(material.tokens.len(), CALLERS);
        for token in &material.tokens {
            let (signed, signature) = token.rsplit_once('.').unwrap();
            key.verify(signed.as_bytes(), &decode(signature)).unwrap();
        }
        assert_eq!(fs::metadata(&material.key_file).unwrap().permissions().mode() & 0o777, 0o600);
        fs::remove_dir_all(directory).unwrap();
    }
}
