//! TLS for the generator: rustls, either cut down to what a measurement needs, or verifying like any client.
//!
//! Called by `compare` and `attack` (own throw-away certificate) and `run` (any URL).

use std::io::{self, BufReader};
use std::path::Path;
use std::sync::Arc;

use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, SupportedKxGroup, ring};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme, SupportedCipherSuite,
    SupportedProtocolVersion,
};

use super::Protocol;

/// TLS 1.3, AES-128-GCM, X25519, no resumption, and the one certificate that is expected, compared byte for byte. Its
/// signature is not verified: that costs the generator more than it costs the server to sign, and the load must not
/// be the bottleneck.
///
/// # Errors
/// rustls does not accept the configuration.
pub fn for_measuring(
    certificate: CertificateDer<'static>,
    protocol: Protocol,
) -> io::Result<Arc<ClientConfig>> {
    let suite = ring::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let mut config = limited(certificate, suite, vec![ring::kx_group::X25519], &rustls::version::TLS13)?;
    config.alpn_protocols = vec![protocol.alpn().to_vec()];
    Ok(Arc::new(config))
}

/// The same with TLS 1.2, and the keys of a connection can be had: for records that no honest client sends.
///
/// # Errors
/// rustls does not accept the configuration.
pub fn for_renegotiating(certificate: CertificateDer<'static>) -> io::Result<Arc<ClientConfig>> {
    let suite = ring::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256;
    // The certificate's own curve must be among the groups too, before TLS 1.3.
    let groups = vec![ring::kx_group::X25519, ring::kx_group::SECP256R1];
    let mut config = limited(certificate, suite, groups, &rustls::version::TLS12)?;
    config.enable_secret_extraction = true;
    Ok(Arc::new(config))
}

fn limited(
    certificate: CertificateDer<'static>,
    suite: SupportedCipherSuite,
    groups: Vec<&'static dyn SupportedKxGroup>,
    version: &'static SupportedProtocolVersion,
) -> io::Result<ClientConfig> {
    let provider =
        CryptoProvider { cipher_suites: vec![suite], kx_groups: groups, ..ring::default_provider() };
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .map_err(io::Error::other)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ExactCertificate(certificate)))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// What any client does: the system's roots, or those in one file.
///
/// # Errors
/// No root can be read.
pub fn verifying(roots_file: Option<&Path>, protocol: Protocol) -> io::Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = roots_file {
        let mut reader = BufReader::new(std::fs::File::open(path)?);
        for certificate in CertificateDer::pem_reader_iter(&mut reader) {
            roots.add(certificate.map_err(io::Error::other)?).map_err(io::Error::other)?;
        }
    } else {
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    if roots.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "no root certificate found"));
    }
    let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![protocol.alpn().to_vec()];
    Ok(Arc::new(config))
}

#[derive(Debug)]
struct ExactCertificate(CertificateDer<'static>);

impl ServerCertVerifier for ExactCertificate {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if *end_entity == self.0 {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General("another certificate than ours".to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}
