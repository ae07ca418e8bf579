//! `login.X: { mtls: CA-FILE, trust_domain, names, subject, roles }`: who has shown a certificate.
//!
//! # What it does
//! Takes the certificate of the client's connection, which the listener has asked for and verified
//! ([`crate::tls::client_certificates`]), and asks whose it is: the chain must lead to an authority of this login's file,
//! and its names must be those that the login speaks for. The subject is, with `trust_domain`, the SPIFFE ID; with `names`, the
//! name that fits; with `subject`, the first of that kind; else the first URI, else the first DNS name. Never the common
//! name unless it is asked for: authorities check the other names, anybody may write that one.
//!
//! # Configuration
//! `{ mtls: partners-ca.pem, names: ["dns:*.partners.example.com"] }` or `{ mtls: mesh-ca.pem, trust_domain: mesh.example }`;
//! `roles: { ROLE: [PATTERN] }` gives roles to certificates that fit; `passthrough: true` sends the certificate on
//! as `Client-Cert` (RFC 9440). A listener must ask for certificates: `tls: { client_ca }`.
//!
//! # Answers
//! 401 with `certificate_issuer`, `certificate_name`, `certificate_trust_domain` or `certificate_subject`. A certificate beside
//! another credential that the API takes is 400 `credential_ambiguous`. One that does not hold any more ends the connection
//! before any login is asked.
//!
//! # Cost
//! Verifying a chain takes about as long as in the handshake. Its outcome is remembered per core, good or bad, by the digest of the chain:
//! a probe of a table and the clone of an `Rc` per request.
//!
//! # References
//! RFC 5280, 6125, 8705 §2, 9440; SPIFFE X509-SVID; OWASP API2.

use std::rc::Rc;
use std::time::Duration;

use ring::digest::{Context, SHA256};
use rustls::pki_types::UnixTime;

use super::{Identity, LoginId, Now, PerCore, Told};
use crate::http::Reason;
use crate::tls::certificate_names::{Facts, Pattern};
use crate::tls::client_certificates::{Authority, ClientCertificate};

/// The certificate does not lead to an authority of the login.
pub const CERTIFICATE_ISSUER: Reason =
    Reason::client("certificate_issuer", 3060, 401, "The client certificate is of another authority");
/// None of the certificate's names is one that the login speaks for.
pub const CERTIFICATE_NAME: Reason =
    Reason::client("certificate_name", 3061, 401, "The client certificate is for another name");
/// The certificate is no X.509-SVID of the trust domain.
pub const CERTIFICATE_TRUST_DOMAIN: Reason = Reason::client(
    "certificate_trust_domain",
    3062,
    401,
    "The client certificate is not of the trust domain",
);
/// The certificate has no name of the kind that the login goes by.
pub const CERTIFICATE_SUBJECT: Reason =
    Reason::client("certificate_subject", 3063, 401, "The client certificate names nobody");

/// How many outcomes a core keeps at hand.
const OUTCOMES: usize = 1024;

/// Which name of a certificate is the subject.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SubjectFrom {
    /// The one that a pattern of `names` fits, else the first URI, else the first DNS name.
    #[default]
    Fitting,
    /// The first URI.
    Uri,
    /// The first DNS name.
    Dns,
    /// The first mail address.
    Email,
    /// The common name.
    CommonName,
}

/// Whom the login speaks for.
#[derive(Debug, Default)]
pub struct Rules {
    /// The trust domain, if only its X.509-SVIDs count.
    pub trust_domain: Option<Box<str>>,
    /// Of these one must fit; empty: any certificate of the authorities does.
    pub names: Vec<Pattern>,
    /// Which name is the subject.
    pub subject: SubjectFrom,
    /// Roles, and whose they are.
    pub roles: Vec<(Box<str>, Vec<Pattern>)>,
}

/// A login by certificates, compiled.
#[derive(Debug)]
pub struct Mtls {
    id: LoginId,
    name: Box<str>,
    authority: Authority,
    rules: Rules,
    /// Another for anything that could make another outcome.
    serial: u64,
}

impl Mtls {
    /// The login `name` with the index `id`.
    pub fn new(id: LoginId, name: &str, authority: Authority, rules: Rules) -> Mtls {
        let mut digest = Context::new(&SHA256);
        digest.update(&id.0.to_be_bytes());
        digest.update(&authority.digest());
        digest.update(format!("{name:?} {rules:?}").as_bytes());
        let serial =
            digest.finish().as_ref().iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte));
        Mtls { id, name: name.into(), authority, rules, serial }
    }

    /// Whose certificate it is.
    pub(super) fn find(
        &self,
        certificate: &ClientCertificate,
        core: &mut PerCore,
        now: Now,
    ) -> Result<Rc<Identity>, &'static Reason> {
        core.certificates.outcome(self.serial, certificate, now.s, || self.judge(certificate, now))
    }

    fn judge(&self, certificate: &ClientCertificate, now: Now) -> Result<Rc<Identity>, &'static Reason> {
        let (own, others) = certificate.chain().split_first().ok_or(&CERTIFICATE_ISSUER)?;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.s));
        // What is wrong with the certificate itself the listener has told; here it is only of somebody else.
        self.authority.verify(own, others, &[], now).map_err(|_| &CERTIFICATE_ISSUER)?;
        let facts = certificate.facts();
        let subject = self.rules.subject(facts)?;
        let fitting = |patterns: &[Pattern]| patterns.iter().any(|pattern| pattern.fits(facts));
        let roles = self.rules.roles.iter().filter(|(_, patterns)| fitting(patterns));
        let identity = Identity {
            login: self.id,
            login_name: self.name.clone(),
            kind: "mtls",
            subject: subject.into(),
            issuer: facts.issuer.clone(),
            key_id: facts.fingerprint.clone(),
            scopes: Vec::new(),
            roles: roles.map(|(role, _)| role.clone()).collect(),
            expires_s: certificate.not_after_s(),
            kept: Box::default(),
            told: Told::default(),
        };
        Ok(Rc::new(identity.told()))
    }
}

impl Rules {
    fn subject<'f>(&self, facts: &'f Facts) -> Result<&'f str, &'static Reason> {
        let id = match &self.trust_domain {
            Some(domain) => Some(facts.spiffe_id(domain).ok_or(&CERTIFICATE_TRUST_DOMAIN)?),
            None => None,
        };
        let fits = self.names.iter().find(|pattern| pattern.fits(facts));
        if !self.names.is_empty() && fits.is_none() {
            return Err(&CERTIFICATE_NAME);
        }
        let first = |names: &'f [Box<str>]| names.first().map(|name| &**name);
        let subject = match self.subject {
            SubjectFrom::Fitting => {
                id.or_else(|| fits.and_then(|pattern| pattern.name_in(facts))).or_else(|| facts.name())
            }
            SubjectFrom::Uri => first(&facts.uris),
            SubjectFrom::Dns => first(&facts.dns),
            SubjectFrom::Email => first(&facts.emails),
            SubjectFrom::CommonName => facts.common_name.as_deref(),
        };
        subject.ok_or(&CERTIFICATE_SUBJECT)
    }
}

/// What logins have said of chains that were shown of late, so that none is verified twice. Direct-mapped: two that fall on one
/// place take turns, at the cost of a verification.
#[derive(Default)]
pub(super) struct Outcomes(Vec<Option<Outcome>>);

struct Outcome {
    serial: u64,
    chain: [u8; 32],
    /// Unix seconds from which it does not count any more.
    until_s: u64,
    result: Result<Rc<Identity>, &'static Reason>,
}

impl Outcomes {
    fn outcome(
        &mut self,
        serial: u64,
        certificate: &ClientCertificate,
        now_s: u64,
        judge: impl FnOnce() -> Result<Rc<Identity>, &'static Reason>,
    ) -> Result<Rc<Identity>, &'static Reason> {
        if self.0.is_empty() {
            self.0.resize_with(OUTCOMES, || None);
        }
        let chain = certificate.digest();
        let bits = chain.iter().take(8).fold(0u64, |bits, byte| bits << 8 | u64::from(*byte));
        let place = (bits ^ serial.wrapping_mul(0x9e37_79b9_7f4a_7c15)) as usize % OUTCOMES;
        match &mut self.0[place] {
            Some(known) if known.serial == serial && known.chain == *chain && now_s < known.until_s => {
                known.result.clone()
            }
            other => {
                let result = judge();
                let until_s = certificate.not_after_s().saturating_add(1);
                *other = Some(Outcome { serial, chain: *chain, until_s, result: result.clone() });
                result
            }
        }
    }
}

impl std::fmt::Debug for Outcomes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Outcomes").field(&self.0.iter().flatten().count()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(uris: &[&str], dns: &[&str]) -> Facts {
        let boxed = |names: &[&str]| names.iter().map(|&name| name.into()).collect();
        Facts {
            uris: boxed(uris),
            dns: boxed(dns),
            emails: Vec::new(),
            common_name: Some("admin".into()),
            issuer: "CN=ca".into(),
            fingerprint: "ab".repeat(32).into(),
            not_after_s: u64::MAX,
            may_sign: true,
            is_authority: false,
        }
    }

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| Pattern::parse(text).expect(text)).collect()
    }

    #[test]
    fn the_subject_is_a_name_that_the_rules_were_about() {
        let facts = facts(&["urn:other"], &["evil.example", "shop.partners.example"]);
        let subject = |rules: Rules| rules.subject(&facts).map(str::to_owned);
        assert_eq!(subject(Rules::default()).as_deref(), Ok("urn:other"));
        // Not the first name: the one that was checked.
        let names = patterns(&["dns:*.partners.example"]);
        assert_eq!(subject(Rules { names, ..Rules::default() }).as_deref(), Ok("shop.partners.example"));
        let names = patterns(&["dns:*.other.example"]);
        assert_eq!(subject(Rules { names, ..Rules::default() }), Err(&CERTIFICATE_NAME));
        // Of a certificate that is pinned every name has been seen.
        let names = patterns(&[&format!("sha256:{}", "AB".repeat(32))]);
        assert_eq!(subject(Rules { names, ..Rules::default() }).as_deref(), Ok("urn:other"));
        let by = |from| subject(Rules { subject: from, ..Rules::default() });
        assert_eq!(by(SubjectFrom::Dns).as_deref(), Ok("evil.example"));
        assert_eq!(by(SubjectFrom::CommonName).as_deref(), Ok("admin"));
        assert_eq!(by(SubjectFrom::Email), Err(&CERTIFICATE_SUBJECT));
        let domain = |name: &str| Rules { trust_domain: Some(name.into()), ..Rules::default() };
        assert_eq!(subject(domain("mesh.example")), Err(&CERTIFICATE_TRUST_DOMAIN));
    }

    #[test]
    fn a_trust_domain_and_names_must_both_fit() {
        let facts = facts(&["spiffe://mesh.example/ns/orders/sa/web"], &["web.example"]);
        let rules = |domain: &str, names: &[&str]| Rules {
            trust_domain: Some(domain.into()),
            names: patterns(names),
            ..Rules::default()
        };
        let id = Ok("spiffe://mesh.example/ns/orders/sa/web");
        assert_eq!(rules("mesh.example", &[]).subject(&facts), id);
        assert_eq!(rules("mesh.example", &["uri:spiffe://mesh.example/ns/orders/*"]).subject(&facts), id);
        // The subject stays the SPIFFE ID, whatever else fits.
        assert_eq!(rules("mesh.example", &["dns:web.example"]).subject(&facts), id);
        assert_eq!(
            rules("mesh.example", &["uri:spiffe://mesh.example/ns/shop/*"]).subject(&facts),
            Err(&CERTIFICATE_NAME)
        );
        assert_eq!(rules("other.example", &[]).subject(&facts), Err(&CERTIFICATE_TRUST_DOMAIN));
    }

    #[test]
    fn nobody_is_named_by_a_common_name_alone() {
        assert_eq!(Rules::default().subject(&facts(&[], &[])), Err(&CERTIFICATE_SUBJECT));
    }
}
