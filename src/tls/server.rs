//! What a listener presents: certificates by name, protocol versions, tickets; and what it asks of its clients.

use std::sync::Arc;

use hashbrown::HashMap;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{ServerConfig, ServerConnection};

use crate::tls::certificate::Certificate;
use crate::tls::client_certificates::{ClientTrust, Verifier};
use crate::tls::provider;
use crate::tls::session::Session;
use crate::tls::tickets::Tickets;

/// The TLS side of a listener.
#[derive(Debug)]
pub struct ServerProfile {
    config: Arc<ServerConfig>,
    resolver: Arc<ByName>,
    clients: Option<Arc<ClientTrust>>,
    /// Unix seconds at which the first of its certificates expires.
    pub not_after_s: i64,
}

impl ServerProfile {
    /// A profile that presents `certificates`. Where there are `domains`, a client that names none of them is refused by its
    /// hello ([`ServerProfile::serves`]).
    ///
    /// # Errors
    /// rustls does not take the combination.
    pub fn new(
        certificates: &[Certificate],
        domains: &[String],
        tickets: Arc<Tickets>,
    ) -> Result<ServerProfile, String> {
        let mut profile =
            ServerProfile::build(certificates, domains, WebPkiClientVerifier::no_client_auth(), None)?;
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
        clients: Arc<ClientTrust>,
    ) -> Result<ServerProfile, String> {
        let verifier = Arc::new(Verifier::new(Arc::clone(&clients)));
        ServerProfile::build(certificates, domains, verifier, Some(clients))
    }

    /// A profile without tickets.
    fn build(
        certificates: &[Certificate],
        domains: &[String],
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
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        Ok(ServerProfile { config: Arc::new(config), resolver, clients, not_after_s })
    }

    /// What is asked of clients, if they are asked for certificates.
    pub fn clients(&self) -> Option<&Arc<ClientTrust>> {
        self.clients.as_ref()
    }

    /// Whether a client that asks for `name`, or for nobody, is served.
    pub fn serves(&self, name: Option<&str>) -> bool {
        self.resolver.key_for(name).is_some()
    }

    /// A new session.
    ///
    /// # Errors
    /// rustls cannot make one.
    pub fn session(&self) -> Result<Session, rustls::Error> {
        ServerConnection::new(Arc::clone(&self.config)).map(Session::server)
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
