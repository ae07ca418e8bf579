//! How an upstream is spoken to under TLS: verified, and by its name.

use std::sync::Arc;

use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, ClientConfig, PeerMisbehaved, RootCertStore};

use crate::http::{Protocol, Protocols, Reason};
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

/// The upstream does not agree to speak what it is to be spoken to in.
pub const UPSTREAM_PROTOCOL: Reason = Reason::upstream(
    "upstream_protocol",
    4227,
    502,
    "The upstream does not speak the HTTP version configured",
);

/// How an upstream is spoken to under TLS.
#[derive(Clone, Debug)]
pub struct ClientProfile {
    config: Arc<ClientConfig>,
    protocols: Protocols,
    name: ServerName<'static>,
}

impl ClientProfile {
    /// Verified against `roots`, by `name`, to speak one of `protocols`.
    ///
    /// # Errors
    /// The name is none.
    pub fn new(roots: Arc<RootCertStore>, name: &str, protocols: Protocols) -> Result<ClientProfile, String> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_root_certificates(roots)
            .with_no_client_auth();
        ClientProfile::with_config(config, name, protocols)
    }

    /// Not verified at all: for an upstream that the operator excepted with a reason and an end.
    ///
    /// # Errors
    /// The name is none.
    pub fn unverified(name: &str, protocols: Protocols) -> Result<ClientProfile, String> {
        let config = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unverified))
            .with_no_client_auth();
        ClientProfile::with_config(config, name, protocols)
    }

    fn with_config(
        mut config: ClientConfig,
        name: &str,
        protocols: Protocols,
    ) -> Result<ClientProfile, String> {
        config.alpn_protocols = protocols.alpn();
        // rustls' session store takes a lock; connections are kept, so there is little to resume.
        config.resumption = Resumption::disabled();
        let bare = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(bare).map_err(|error| error.to_string())?;
        Ok(ClientProfile { config: Arc::new(config), protocols, name })
    }

    /// What connections are made with, for probes of the control thread that shake hands and go.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// The same, to speak `protocol` and nothing else, for probes that ask for something in it.
    pub fn config_for(&self, protocol: Protocol) -> Arc<ClientConfig> {
        if self.protocols.only() == Some(protocol) {
            return self.config();
        }
        let mut config = ClientConfig::clone(&self.config);
        config.alpn_protocols = vec![protocol.alpn().to_vec()];
        Arc::new(config)
    }

    /// The name that the certificate must have.
    pub fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }

    /// Makes a connection private, and agrees on what is spoken on it: `only` that, if it is given. The socket's deadline goes
    /// on.
    ///
    /// # Errors
    /// The reason of the failed handshake.
    pub async fn connect(
        &self,
        socket: Socket,
        only: Option<Protocol>,
    ) -> Result<(TlsStream, Protocol), Reason> {
        let config = only.map_or_else(|| self.config(), |protocol| self.config_for(protocol));
        let session = Session::client(config, self.name.clone()).map_err(|_| UPSTREAM_TLS_HANDSHAKE)?;
        let stream = TlsStream::new(socket, session);
        match stream.handshake().await {
            Ok(()) => {
                let protocol = self.agreed(&stream.session())?;
                Ok((stream, protocol))
            }
            Err(_) if stream.socket().expired() == Some(Deadline::Connect) => {
                Err(crate::pipeline::fail::UPSTREAM_CONNECT_TIMEOUT)
            }
            Err(error) => Err(reason_of(&error)),
        }
    }

    /// What is spoken in `session` now that hands are shaken.
    fn agreed(&self, session: &Session) -> Result<Protocol, Reason> {
        self.protocols.under_tls(session.protocol()).ok_or(UPSTREAM_PROTOCOL)
    }
}

fn reason_of(error: &std::io::Error) -> Reason {
    error.get_ref().and_then(|inner| inner.downcast_ref()).map_or(UPSTREAM_TLS_HANDSHAKE, reason_of_handshake)
}

fn reason_of_handshake(error: &rustls::Error) -> Reason {
    use rustls::{CertificateError, Error};
    match error {
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => UPSTREAM_TLS_NAME,
        Error::InvalidCertificate(_) => UPSTREAM_TLS_CERTIFICATE,
        // RFC 7301 §3.2: a server that finds nothing to choose says so, and one may not choose what was not offered.
        Error::AlertReceived(AlertDescription::NoApplicationProtocol)
        | Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol) => UPSTREAM_PROTOCOL,
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

#[cfg(test)]
mod tests {
    use rustls::{Connection, ServerConfig, ServerConnection};

    use super::*;
    use crate::tls::session::shake_hands;

    const H2: &[u8] = b"h2";
    const HTTP1: &[u8] = b"http/1.1";

    /// A server of rustls that takes this, and what trusts it.
    fn server(taken: &[&[u8]]) -> (Connection, Arc<RootCertStore>) {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a root");
        let key = made.signing_key.serialize_der().try_into().expect("PKCS#8");
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a certificate and its key");
        config.alpn_protocols = taken.iter().map(|name| name.to_vec()).collect();
        (ServerConnection::new(Arc::new(config)).expect("a server").into(), Arc::new(roots))
    }

    /// What a profile and a server come to speak.
    fn spoken(protocols: Protocols, taken: &[&[u8]], verified: bool) -> Result<Protocol, Reason> {
        let (mut server, roots) = server(taken);
        let profile = match verified {
            true => ClientProfile::new(roots, "a.test", protocols),
            false => ClientProfile::unverified("a.test", protocols),
        };
        let profile = profile.expect("a profile");
        let mut ours = Session::client(profile.config(), profile.name()).expect("a client");
        match shake_hands(&mut ours, &mut server).0 {
            Ok(()) => profile.agreed(&ours),
            Err(error) => Err(reason_of_handshake(&error)),
        }
    }

    #[test]
    fn an_upstream_speaks_what_it_agrees_to_or_is_refused() {
        let [http1, http2] = [Ok(Protocol::Http1), Ok(Protocol::Http2)];
        let refused = Err(UPSTREAM_PROTOCOL);
        for (protocols, taken, expected) in [
            (Protocols::HTTP1, &[HTTP1][..], http1),
            (Protocols::HTTP1, &[H2, HTTP1], http1),
            // A server that knows no ALPN speaks HTTP/1.1.
            (Protocols::HTTP1, &[], http1),
            (Protocols::HTTP1, &[H2], refused),
            (Protocols::HTTP2, &[H2], http2),
            (Protocols::HTTP2, &[HTTP1, H2], http2),
            (Protocols::HTTP2, &[HTTP1], refused),
            (Protocols::HTTP2, &[], refused),
            (Protocols::BOTH, &[H2], http2),
            (Protocols::BOTH, &[HTTP1], http1),
            // The server's order decides.
            (Protocols::BOTH, &[HTTP1, H2], http1),
            (Protocols::BOTH, &[H2, HTTP1], http2),
            (Protocols::BOTH, &[], http1),
            (Protocols::BOTH, &[b"h3"], refused),
        ] {
            for verified in [true, false] {
                assert_eq!(
                    spoken(protocols, taken, verified),
                    expected,
                    "{protocols:?} {taken:?} {verified}"
                );
            }
        }
    }

    #[test]
    fn a_probe_that_asks_offers_what_it_asks_in_and_nothing_else() {
        for protocols in [Protocols::HTTP1, Protocols::HTTP2, Protocols::BOTH] {
            let profile = ClientProfile::unverified("a.test", protocols).expect("a profile");
            assert_eq!(profile.config().alpn_protocols, protocols.alpn());
            for protocol in [Protocol::Http1, Protocol::Http2] {
                assert_eq!(profile.config_for(protocol).alpn_protocols, [protocol.alpn().to_vec()]);
            }
        }
    }
}
