//! What a listener presents: certificates by name, protocol versions, tickets; and what it asks of its clients.

use std::sync::Arc;

use hashbrown::HashMap;
use rustls::ServerConfig;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;

use crate::http::Protocols;
use crate::tls::certificate::Certificate;
use crate::tls::client_certificates::{ClientTrust, Verifier};
use crate::tls::hello::{Alert, Hello};
use crate::tls::provider;
use crate::tls::session::Session;
use crate::tls::tickets::Tickets;

/// The TLS side of a listener.
#[derive(Debug)]
pub struct ServerProfile {
    config: Arc<ServerConfig>,
    resolver: Arc<ByName>,
    clients: Option<Arc<ClientTrust>>,
    protocols: Protocols,
    /// Unix seconds at which the first of its certificates expires.
    pub not_after_s: i64,
}

impl ServerProfile {
    /// A profile that presents `certificates`. Where there are `domains`, a client that names none of them is refused by its
    /// hello ([`ServerProfile::admit`]); so is one that says nothing in ALPN, where HTTP/1.1 is not among `protocols`.
    ///
    /// # Errors
    /// rustls does not take the combination.
    pub fn new(
        certificates: &[Certificate],
        domains: &[String],
        protocols: Protocols,
        tickets: Arc<Tickets>,
    ) -> Result<ServerProfile, String> {
        let nobody = WebPkiClientVerifier::no_client_auth();
        let mut profile = ServerProfile::build(certificates, domains, protocols, nobody, None)?;
        if let Some(config) = Arc::get_mut(&mut profile.config) {
            config.ticketer = tickets;
            // One ticket is enough for a client that keeps its connection.
            config.send_tls13_tickets = 1;
        }
        Ok(profile)
    }

    /// As [`ServerProfile::new`], for a listener that asks its clients for certificates. **It resumes nothing**: a session says
    /// nothing of what has been revoked since, and one of another listener nothing at all. So there are no tickets, no session
    /// ids, and what a client brings of either is not looked at.
    ///
    /// # Errors
    /// rustls does not take the combination.
    pub fn asking(
        certificates: &[Certificate],
        domains: &[String],
        protocols: Protocols,
        clients: Arc<ClientTrust>,
    ) -> Result<ServerProfile, String> {
        let verifier = Arc::new(Verifier::new(Arc::clone(&clients)));
        ServerProfile::build(certificates, domains, protocols, verifier, Some(clients))
    }

    /// A profile without tickets.
    fn build(
        certificates: &[Certificate],
        domains: &[String],
        protocols: Protocols,
        verifier: Arc<dyn ClientCertVerifier>,
        clients: Option<Arc<ClientTrust>>,
    ) -> Result<ServerProfile, String> {
        let not_after_s = certificates.iter().map(|certificate| certificate.not_after_s).min().unwrap_or(0);
        let resolver = Arc::new(ByName::new(certificates, domains)?);
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(Arc::clone(&resolver) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = protocols.alpn();
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(ServerProfile { config: Arc::new(config), resolver, clients, protocols, not_after_s })
    }

    /// What is asked of clients, if they are asked for certificates.
    pub fn clients(&self) -> Option<&Arc<ClientTrust>> {
        self.clients.as_ref()
    }

    /// Whether a client that says `hello` is served: it asks for one of the names, or for nobody where that will do, and will
    /// speak what is spoken here. What it lists in ALPN is compared in the handshake.
    ///
    /// # Errors
    /// The alert for one that is not.
    pub fn admit(&self, hello: &Hello) -> Result<(), Alert> {
        if self.resolver.key_for(hello.server_name.as_deref()).is_none() {
            return Err(Alert::UnrecognizedName);
        }
        if !hello.has_alpn && self.protocols.under_tls(None).is_none() {
            return Err(Alert::NoApplicationProtocol);
        }
        Ok(())
    }

    /// A new session.
    ///
    /// # Errors
    /// rustls cannot make one.
    pub fn session(&self) -> Result<Session, rustls::Error> {
        Session::server(Arc::clone(&self.config))
    }
}

/// Certificates by the names that are served.
#[derive(Debug)]
struct ByName {
    exact: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// By the name without its first label.
    wildcard: HashMap<Box<str>, Arc<CertifiedKey>>,
    /// Where any host is served: the first certificate, also for clients that name nobody.
    fallback: Option<Arc<CertifiedKey>>,
    /// Hosts that are served; a wildcard certificate does not widen this list.
    domains: Vec<Box<str>>,
}

impl ByName {
    fn new(certificates: &[Certificate], domains: &[String]) -> Result<ByName, String> {
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        for certificate in certificates {
            for name in &certificate.names {
                match name.strip_prefix("*.") {
                    Some(rest) => wildcard.entry(rest.into()).or_insert_with(|| Arc::clone(&certificate.key)),
                    None => exact.entry(name.as_str().into()).or_insert_with(|| Arc::clone(&certificate.key)),
                };
            }
        }
        let fallback = certificates.first().map(|certificate| Arc::clone(&certificate.key));
        let by_name = ByName {
            exact,
            wildcard,
            fallback: if domains.is_empty() { fallback } else { None },
            domains: domains.iter().map(|domain| domain.as_str().into()).collect(),
        };
        if let Some(missing) = domains.iter().find(|domain| by_name.of(domain).is_none()) {
            return Err(format!("no certificate holds the name `{missing}`"));
        }
        Ok(by_name)
    }

    /// What is presented to a client that asks for `name`, or for nobody.
    fn key_for(&self, name: Option<&str>) -> Option<&Arc<CertifiedKey>> {
        name.filter(|name| self.domains.is_empty() || self.domains.iter().any(|domain| **domain == **name))
            .and_then(|name| self.of(name))
            .or(self.fallback.as_ref())
    }

    fn of(&self, name: &str) -> Option<&Arc<CertifiedKey>> {
        if let Some(key) = self.exact.get(name) {
            return Some(key);
        }
        let (_, parent) = name.split_once('.')?;
        self.wildcard.get(parent)
    }
}

impl ResolvesServerCert for ByName {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        self.key_for(name.as_deref()).cloned()
    }
}

#[cfg(test)]
mod tests {
    use rustls::{AlertDescription, ClientConfig, ClientConnection, Connection, Error, RootCertStore};

    use super::*;
    use crate::http::Protocol;
    use crate::tls::hello::{Look, look};
    use crate::tls::session::shake_hands;

    const H2: &[u8] = b"h2";
    const HTTP1: &[u8] = b"http/1.1";

    fn profile(protocols: Protocols) -> (ServerProfile, RootCertStore) {
        let names = vec!["a.test".to_owned()];
        let certificate = crate::tls::certificate::self_signed(&names).expect("made");
        let mut roots = RootCertStore::empty();
        roots.add(certificate.key.cert[0].clone()).expect("a root");
        let tickets = Arc::new(Tickets::new(0).expect("random"));
        (ServerProfile::new(&[certificate], &names, protocols, tickets).expect("a profile"), roots)
    }

    /// A client of rustls that offers this, with every version of TLS.
    fn client(roots: &RootCertStore, name: &'static str, offered: &[&[u8]], tls12: bool) -> Connection {
        let versions = if tls12 { &[&rustls::version::TLS12] } else { &[&rustls::version::TLS13] };
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("versions")
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
        let name = name.try_into().expect("a name");
        ClientConnection::new(Arc::new(config), name).expect("a client").into()
    }

    fn hello(client: &mut Connection) -> Hello {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("a vector");
        match look(&wire) {
            Ok(Look::Complete(hello)) => hello,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn our_order_decides_what_is_spoken() {
        let [http1, http2] = [Some(Protocol::Http1), Some(Protocol::Http2)];
        for (protocols, offered, agreed) in [
            (Protocols::BOTH, &[H2, HTTP1][..], http2),
            (Protocols::BOTH, &[HTTP1, H2], http2),
            (Protocols::BOTH, &[b"h3", HTTP1], http1),
            (Protocols::BOTH, &[H2], http2),
            (Protocols::BOTH, &[HTTP1], http1),
            (Protocols::BOTH, &[], None),
            (Protocols::HTTP1, &[H2, HTTP1], http1),
            (Protocols::HTTP1, &[], None),
            (Protocols::HTTP2, &[HTTP1, H2], http2),
        ] {
            let (profile, roots) = profile(protocols);
            for tls12 in [false, true] {
                let mut client = client(&roots, "a.test", offered, tls12);
                let mut ours = profile.session().expect("a session");
                assert_eq!(shake_hands(&mut ours, &mut client), (Ok(()), Ok(())), "{protocols:?}");
                assert!(!ours.is_handshaking());
                assert_eq!(ours.protocol(), agreed, "{protocols:?} {offered:?}");
                assert_eq!(client.alpn_protocol(), agreed.map(Protocol::alpn), "{protocols:?} {offered:?}");
            }
        }
    }

    #[test]
    fn who_speaks_nothing_that_is_spoken_here_is_told_so() {
        for (protocols, offered) in
            [(Protocols::HTTP2, HTTP1), (Protocols::HTTP1, H2), (Protocols::BOTH, b"http/1.0".as_slice())]
        {
            let (profile, roots) = profile(protocols);
            for tls12 in [false, true] {
                let mut client = client(&roots, "a.test", &[offered], tls12);
                let mut ours = profile.session().expect("a session");
                let (our_end, their_end) = shake_hands(&mut ours, &mut client);
                assert_eq!(our_end, Err(Error::NoApplicationProtocol));
                assert_eq!(their_end, Err(Error::AlertReceived(AlertDescription::NoApplicationProtocol)));
                assert_eq!(ours.protocol(), None);
            }
        }
    }

    #[test]
    fn a_hello_without_alpn_is_refused_where_only_http2_is_spoken() {
        let admit = |protocols: Protocols, name: &'static str, offered: &[&[u8]]| {
            let (profile, roots) = profile(protocols);
            profile.admit(&hello(&mut client(&roots, name, offered, false)))
        };
        assert_eq!(admit(Protocols::HTTP2, "a.test", &[]), Err(Alert::NoApplicationProtocol));
        // Whether there is one in common is seen in the handshake.
        assert_eq!(admit(Protocols::HTTP2, "a.test", &[HTTP1]), Ok(()));
        assert_eq!(admit(Protocols::HTTP2, "a.test", &[H2]), Ok(()));
        assert_eq!(admit(Protocols::BOTH, "a.test", &[]), Ok(()));
        assert_eq!(admit(Protocols::HTTP1, "a.test", &[]), Ok(()));
        assert_eq!(admit(Protocols::HTTP2, "b.test", &[]), Err(Alert::UnrecognizedName));
        assert_eq!(Alert::NoApplicationProtocol.record()[5..], [2, 120]);
    }
}
