//! How an upstream is spoken to under TLS: verified, and by its name.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore};

use crate::http::Reason;
use crate::tls::provider;
use crate::tls::session::Session;
use crate::tls::stream::TlsStream;
use crate::worker::{Deadline, Socket};

/// The upstream's certificate is not one that we trust.
pub const UPSTREAM_TLS_CERTIFICATE: Reason =
    Reason::upstream("upstream_tls_certificate", 4010, 502, "The upstream's certificate is not trusted");
/// The upstream's certificate is for another name.
pub const UPSTREAM_TLS_NAME: Reason =
    Reason::upstream("upstream_tls_name", 4011, 502, "The upstream's certificate is for another name");
/// The TLS handshake with the upstream failed.
pub const UPSTREAM_TLS_HANDSHAKE: Reason =
    Reason::upstream("upstream_tls_handshake", 4012, 502, "The TLS handshake with the upstream failed");

/// How an upstream is spoken to under TLS.
#[derive(Clone, Debug)]
pub struct ClientProfile {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl ClientProfile {
    /// Verified against `roots`, by `name`.
    ///
    /// # Errors
    /// The name is none.
    pub fn new(roots: Arc<RootCertStore>, name: &str) -> Result<ClientProfile, String> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // rustls' session store takes a lock; connections are kept, so there is little to resume.
        config.resumption = Resumption::disabled();
        ClientProfile::with_config(config, name)
    }

    /// Not verified at all: for an upstream that the operator excepted with a reason and an end.
    ///
    /// # Errors
    /// The name is none.
    pub fn unverified(name: &str) -> Result<ClientProfile, String> {
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified))
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.resumption = Resumption::disabled();
        ClientProfile::with_config(config, name)
    }

    fn with_config(config: ClientConfig, name: &str) -> Result<ClientProfile, String> {
        let bare = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare).map_err(|error| error.to_string())?;
        Ok(ClientProfile { config: Arc::new(config), name })
    }

    /// What connections are made with, for probes of the control thread.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// The name that the certificate must have.
    pub fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// Makes a connection private. The socket's deadline goes on.
    ///
    /// # Errors
    /// The reason of the failed handshake.
    pub async fn connect(&self, socket: Socket) -> Result<TlsStream, Reason> {
        let connection = ClientConnection::new(Arc::clone(&self.config), self.name.clone())
            .map_err(|_| UPSTREAM_TLS_HANDSHAKE)?;
        let stream = TlsStream::new(socket, Session::client(connection));
        match stream.handshake().await {
            Ok(()) => Ok(stream),
            Err(_) if stream.socket().expired() == Some(Deadline::Connect) => {
                Err(crate::pipeline::fail::UPSTREAM_CONNECT_TIMEOUT)
            }
            Err(error) => Err(reason_of(&error)),
        }
    }
}

fn reason_of(error: &std::io::Error) -> Reason {
    use rustls::{CertificateError, Error};
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => UPSTREAM_TLS_NAME,
        Some(Error::InvalidCertificate(_)) => UPSTREAM_TLS_CERTIFICATE,
        _ => UPSTREAM_TLS_HANDSHAKE,
    }
}

/// Accepts any certificate; signatures are still checked, so that the peer at least holds the key it shows.
#[derive(Debug)]
struct Unverified;

impl rustls::client::danger::ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &rustls::pki_types::CertificateDer<'_>,
        _intermediates: &[rustls::pki_types::CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &rustls::pki_types::CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}
