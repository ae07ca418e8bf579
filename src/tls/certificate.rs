//! Certificates and keys: read from files that nobody else can read, or made on the spot.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use crate::sys::file::read_regular;
use crate::tls::provider;

/// A certificate with its key, and what it is good for.
#[derive(Debug)]
pub struct Certificate {
    /// What rustls presents.
    pub key: Arc<CertifiedKey>,
    /// DNS names, lower case; a leading `*.` stands for one label.
    pub names: Vec<String>,
    /// Unix seconds after which it is no longer valid.
    pub not_after_s: i64,
    /// The size of its key if that is RSA, else 0. Signing takes 0.6 ms with 2048 bits and 4.4 ms with 4096 (ECDSA P-256: 17 µs),
    /// on the data thread: rustls signs within the handshake.
    pub rsa_bits: usize,
}

/// Reads a certificate chain and its key from PEM files.
///
/// # Errors
/// What is wrong, in words for the operator: a file that cannot be read, a key that others can read, a key of another
/// certificate.
pub fn read(certificate: &Path, key: &Path) -> Result<Certificate, String> {
    let pem = read_regular(certificate, CHAIN_BYTES_MAX)
        .map_err(|error| format!("{}: {error}", certificate.display()))?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("{}: {error}", certificate.display()))?;
    // Key files that others can read are refused.
    let private = crate::control::private_file::read_private(key, KEY_BYTES_MAX)
        .map_err(|error| format!("{}: {error}", key.display()))?;
    let key_der =
        PrivateKeyDer::from_pem_slice(&private).map_err(|error| format!("{}: {error}", key.display()))?;
    assemble(chain, key_der).map_err(|error| format!("{}: {error}", certificate.display()))
}

const KEY_BYTES_MAX: u64 = 64 * 1024;
const CHAIN_BYTES_MAX: u64 = 1 << 20;

fn assemble(chain: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Certificate, String> {
    let Some(leaf) = chain.first() else { return Err("holds no certificate".to_owned()) };
    let (names, not_after_s, rsa_bits) = facts(leaf)?;
    let signing =
        provider().key_provider.load_private_key(key).map_err(|error| format!("the key: {error}"))?;
    let certified = CertifiedKey::new(chain, signing);
    certified.keys_match().map_err(|_| "the key belongs to another certificate".to_owned())?;
    Ok(Certificate { key: Arc::new(certified), names, not_after_s, rsa_bits })
}

fn facts(leaf: &CertificateDer<'_>) -> Result<(Vec<String>, i64, usize), String> {
    use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};
    use x509_parser::public_key::PublicKey;
    let (_, parsed) =
        X509Certificate::from_der(leaf).map_err(|error| format!("not a certificate: {error}"))?;
    let mut names = Vec::new();
    if let Ok(Some(alternative)) = parsed.subject_alternative_name() {
        for name in &alternative.value.general_names {
            if let GeneralName::DNSName(name) = name {
                names.push(name.to_ascii_lowercase());
            }
        }
    }
    let rsa_bits = match parsed.public_key().parsed() {
        Ok(PublicKey::RSA(key)) => key.key_size(),
        _ => 0,
    };
    Ok((names, parsed.validity().not_after.timestamp(), rsa_bits))
}

/// A certificate made on the spot for `names`: ECDSA P-256, signed by itself.
///
/// # Errors
/// A name that no certificate can hold.
pub fn self_signed(names: &[String]) -> Result<Certificate, String> {
    let made = rcgen::generate_simple_self_signed(names.to_vec()).map_err(|error| error.to_string())?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).map_err(str::to_owned)?;
    assemble(vec![made.cert.der().clone()], key)
}
