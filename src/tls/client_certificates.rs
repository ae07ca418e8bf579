//! Certificates of clients: what a listener asks of them, and what is known of one that a connection has shown.
//!
//! A chain is judged in the handshake, by [`Authority::verify`]: signatures up to an authority of the file, dates, purpose,
//! length, name constraints, revocation lists, names. **The client is told the same whatever is wrong** (the alert
//! `certificate_unknown`, RFC 8446 §6.2, in both versions of TLS): rustls would send another alert for each case, so our
//! verifier has one error for it, in which the reason travels to the log.
//!
//! A connection outlives its handshake. What it was judged by has a number ([`ClientTrust::number`]); at each request one
//! comparison tells whether that is still what counts, and another whether a date has passed ([`ClientTrust::admit`]). If not,
//! the same chain is judged anew, and a connection that no longer holds ends there. So a certificate that is revoked, or whose
//! listener asks for more since a reload, has no request more.
//!
//! Revocation lists are read and swapped by the control thread. They fail closed: a certificate in whose chain a list is missing
//! or past its `nextUpdate` is refused.
//!
//! Not for who somebody is: that is the login's word (`policy::identify::mtls`). Called by `accept` and the pipeline.
//!
//! Cost: a handshake verifies one signature per certificate and list, 20 to 100 µs each with P-256 or RSA-2048, and hashes each list
//! that it meets. A request on an established connection pays two comparisons and the clone of an `Rc`.

use std::cell::{Cell, OnceCell};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use ring::digest::{Context, SHA256};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, TrustAnchor, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme};
use webpki::{
    CertRevocationList, EndEntityCert, ExpirationPolicy, KeyUsage, OwnedCertRevocationList,
    RevocationOptionsBuilder, VerifiedPath,
};

use crate::http::Reason;
use crate::tls::certificate_names::{Facts, Pattern, is_issuer};
use crate::tls::provider;

/// The listener asks for a certificate, and the client has none.
pub const MISSING: Reason =
    Reason::client("client_certificate_missing", 2272, 403, "This needs a client certificate");
/// It cannot be read, or holds what is not understood and must be.
pub const MALFORMED: Reason =
    Reason::client("client_certificate_malformed", 2273, 403, "The client certificate is not accepted");
/// It, or one that leads to it, has expired.
pub const EXPIRED: Reason =
    Reason::client("client_certificate_expired", 2274, 403, "The client certificate is not accepted");
/// It, or one that leads to it, is not valid yet.
pub const NOT_YET: Reason =
    Reason::client("client_certificate_not_yet", 2275, 403, "The client certificate is not accepted");
/// It is for something else than clients.
pub const PURPOSE: Reason =
    Reason::client("client_certificate_purpose", 2276, 403, "The client certificate is not accepted");
/// None of its names fits.
pub const NAME: Reason =
    Reason::client("client_certificate_name", 2277, 403, "The client certificate is not accepted");
/// No authority of the file leads to it.
pub const UNKNOWN_CA: Reason =
    Reason::client("client_certificate_unknown_ca", 2278, 403, "The client certificate is not accepted");
/// It vouches for itself.
pub const SELF_SIGNED: Reason =
    Reason::client("client_certificate_self_signed", 2279, 403, "The client certificate is not accepted");
/// It, or one that leads to it, has been revoked.
pub const REVOKED: Reason =
    Reason::client("client_certificate_revoked", 2280, 403, "The client certificate is not accepted");
/// More authorities stand between it and the file than are accepted.
pub const CHAIN_LONG: Reason =
    Reason::client("client_certificate_chain_long", 2281, 403, "The client certificate is not accepted");
/// It was issued by one that may not issue any.
pub const LEAF_AS_CA: Reason =
    Reason::client("client_certificate_leaf_as_ca", 2282, 403, "The client certificate is not accepted");
/// It is that of an authority.
pub const CA_AS_LEAF: Reason =
    Reason::client("client_certificate_ca_as_leaf", 2283, 403, "The client certificate is not accepted");
/// It has a name that an authority above it may not give (RFC 5280 §4.2.1.10).
pub const CONSTRAINT: Reason =
    Reason::client("client_certificate_constraint", 2284, 403, "The client certificate is not accepted");
/// An authority above it may not have that many below it (RFC 5280 §4.2.1.9).
pub const PATH_LENGTH: Reason =
    Reason::client("client_certificate_path_length", 2285, 403, "The client certificate is not accepted");
/// A signature or key is of a kind that is not accepted.
pub const ALGORITHM: Reason =
    Reason::client("client_certificate_algorithm", 2286, 403, "The client certificate is not accepted");
/// A signature does not hold: one in the chain, or the one that proves that the client has the key.
pub const SIGNATURE: Reason =
    Reason::client("client_certificate_signature", 2287, 403, "The client certificate is not accepted");
/// The revocation list that speaks of it is past its next update.
pub const CRL_EXPIRED: Reason =
    Reason::client("client_crl_expired", 2288, 403, "The client certificate is not accepted");
/// No revocation list speaks of it, or that list cannot be believed.
pub const CRL_MISSING: Reason =
    Reason::client("client_crl_missing", 2289, 403, "The client certificate is not accepted");

/// Authorities in one file.
pub const AUTHORITIES_MAX: usize = 1_000;
/// Bytes of names of authorities that are sent as a hint for the client's choice; past it no hint is sent.
const HINT_BYTES_MAX: usize = 16 * 1024;
/// Bytes of all revocation lists of a listener.
pub const LISTS_BYTES_MAX: usize = 16 * 1024 * 1024;
/// Seconds after which a chain is judged again in which a date has passed that did not matter.
const JUDGE_AGAIN_S: u64 = 60;

/// Authorities, and the rules for what they issue.
pub struct Authority {
    anchors: Vec<TrustAnchor<'static>>,
    /// Most certificates of authorities between a client's and an anchor.
    depth: usize,
    /// Of these at least one must fit; empty: any name does.
    names: Vec<Pattern>,
    algorithms: WebPkiSupportedAlgorithms,
    /// SHA-256 of authorities, depth and names.
    digest: [u8; 32],
}

impl Authority {
    /// The authorities of a PEM file.
    ///
    /// # Errors
    /// What is wrong with the file, for the operator.
    pub fn new(pem: &[u8], depth: usize, names: Vec<Pattern>) -> Result<Authority, String> {
        let mut anchors = Vec::new();
        let mut digest = Context::new(&SHA256);
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|error| format!("it is no PEM: {error}"))?;
            let number = anchors.len() + 1;
            let anchor = webpki::anchor_from_trusted_cert(&certificate)
                .map_err(|error| format!("its certificate no. {number} cannot be used: {error}"))?;
            // An anchor is believed whatever it says of itself: the certificate of one client would speak for all.
            if !is_issuer(&certificate) {
                return Err(format!(
                    "its certificate no. {number} is not that of an authority (basicConstraints without CA:TRUE)"
                ));
            }
            if number > AUTHORITIES_MAX {
                return Err(format!("it holds more than {AUTHORITIES_MAX} certificates"));
            }
            digest.update(&(certificate.len() as u64).to_be_bytes());
            digest.update(&certificate);
            anchors.push(anchor.to_owned());
        }
        if anchors.is_empty() {
            return Err("it holds no certificate".to_owned());
        }
        digest.update(&(depth as u64).to_be_bytes());
        for name in &names {
            digest.update(name.to_string().as_bytes());
            digest.update(b"\n");
        }
        let digest = digest_of(digest);
        let algorithms = provider().signature_verification_algorithms;
        Ok(Authority { anchors, depth, names, algorithms, digest })
    }

    /// A number that is another for other authorities or rules.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// Judges a chain as a client showed it: its own certificate, and others that may lead to an authority. Where there are
    /// revocation lists, every certificate of the chain must be in the charge of one of them.
    ///
    /// # Errors
    /// Why it does not hold.
    pub fn verify(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        lists: &[&CertRevocationList<'static>],
        now: UnixTime,
    ) -> Result<Facts, &'static Reason> {
        let parsed = EndEntityCert::try_from(own).map_err(|error| reason_of(&error))?;
        let self_issued = parsed.issuer() == parsed.subject();
        let mut between: Vec<CertificateDer<'_>> = Vec::with_capacity(others.len().min(self.depth));
        let mut names: Vec<Box<[u8]>> = Vec::with_capacity(others.len().min(self.depth));
        for other in others {
            let issuer = EndEntityCert::try_from(other).map_err(|error| reason_of(&error))?;
            // A root that is sent along proves nothing: the file has it, or it does not count. Of several of one name the
            // first does: then there is one path, where among n of one name there would be n! to be tried, a signature each.
            let name = issuer.subject();
            if issuer.issuer() == name || names.iter().any(|known| **known == *name) {
                continue;
            }
            if between.len() == self.depth {
                return Err(&CHAIN_LONG);
            }
            names.push(name.into());
            between.push(CertificateDer::from(&**other));
        }
        let revocation = RevocationOptionsBuilder::new(lists)
            .ok()
            .map(|options| options.with_expiration_policy(ExpirationPolicy::Enforce).build());
        let within_depth =
            |path: &VerifiedPath<'_>| match path.intermediate_certificates().count() <= self.depth {
                true => Ok(()),
                false => Err(webpki::Error::MaximumPathDepthExceeded),
            };
        let judged = parsed.verify_for_usage(
            self.algorithms.all,
            &self.anchors,
            &between,
            now,
            KeyUsage::client_auth(),
            revocation,
            Some(&within_depth),
        );
        if let Err(error) = judged {
            use webpki::Error::{CaUsedAsEndEntity, InvalidSignatureForPublicKey, UnknownIssuer};
            return Err(match error {
                UnknownIssuer | CaUsedAsEndEntity | InvalidSignatureForPublicKey if self_issued => {
                    &SELF_SIGNED
                }
                error => reason_of(&error),
            });
        }
        let facts = Facts::read(own).ok_or(&MALFORMED)?;
        if !facts.may_sign {
            // RFC 8446 §4.4.2.4: a key that may not sign cannot prove anything here.
            return Err(&PURPOSE);
        }
        if !self.names.is_empty() && !self.names.iter().any(|name| name.fits(&facts)) {
            return Err(&NAME);
        }
        Ok(facts)
    }

    /// The names of the authorities that no list speaks for: whatever they have issued would be refused.
    fn without(&self, lists: &Lists) -> Vec<String> {
        use x509_parser::prelude::{FromDer, X509Name};
        let spoken_for = |anchor: &&TrustAnchor<'static>| {
            lists.lists.iter().any(|list| list.issuer() == anchor.subject.as_ref())
        };
        let name = |anchor: &TrustAnchor<'static>| {
            let name = DistinguishedName::in_sequence(&anchor.subject);
            X509Name::from_der(name.as_ref()).map(|(_, name)| name.to_string()).unwrap_or_default()
        };
        self.anchors.iter().filter(|anchor| !spoken_for(anchor)).map(name).collect()
    }

    fn hints(&self) -> Vec<DistinguishedName> {
        let names = self.anchors.iter().map(|anchor| DistinguishedName::in_sequence(&anchor.subject));
        let names: Vec<DistinguishedName> = names.collect();
        match names.iter().map(|name| name.as_ref().len()).sum::<usize>() <= HINT_BYTES_MAX {
            true => names,
            false => Vec::new(),
        }
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("anchors", &self.anchors.len()).finish_non_exhaustive()
    }
}

/// What is wrong with a chain, in our words.
#[expect(deprecated, reason = "all that may come is told apart")]
fn reason_of(error: &webpki::Error) -> &'static Reason {
    use webpki::Error as E;
    match error {
        E::CertExpired { .. } | E::InvalidCertValidity => &EXPIRED,
        E::CertNotValidYet { .. } => &NOT_YET,
        E::RequiredEkuNotFound | E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => &PURPOSE,
        E::UnknownIssuer => &UNKNOWN_CA,
        E::CertRevoked => &REVOKED,
        E::MaximumPathDepthExceeded
        | E::MaximumPathBuildCallsExceeded
        | E::MaximumSignatureChecksExceeded => &CHAIN_LONG,
        E::EndEntityUsedAsCa => &LEAF_AS_CA,
        E::CaUsedAsEndEntity => &CA_AS_LEAF,
        E::NameConstraintViolation
        | E::MalformedNameConstraint
        | E::InvalidNetworkMaskConstraint
        | E::MaximumNameConstraintComparisonsExceeded => &CONSTRAINT,
        E::PathLenConstraintViolated => &PATH_LENGTH,
        E::UnsupportedSignatureAlgorithm
        | E::UnsupportedSignatureAlgorithmContext(_)
        | E::UnsupportedSignatureAlgorithmForPublicKey
        | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => &ALGORITHM,
        E::InvalidSignatureForPublicKey | E::SignatureAlgorithmMismatch => &SIGNATURE,
        E::CrlExpired { .. } => &CRL_EXPIRED,
        E::UnknownRevocationStatus
        | E::InvalidCrlSignatureForPublicKey
        | E::IssuerNotCrlSigner
        | E::UnsupportedCrlSignatureAlgorithm
        | E::UnsupportedCrlSignatureAlgorithmContext(_)
        | E::UnsupportedCrlSignatureAlgorithmForPublicKey
        | E::UnsupportedCrlSignatureAlgorithmForPublicKeyContext(_) => &CRL_MISSING,
        _ => &MALFORMED,
    }
}

/// Revocation lists as they were read together.
pub struct Lists {
    lists: Vec<CertRevocationList<'static>>,
    /// Unix seconds at which the first of them is past its next update.
    pub next_update_s: u64,
    digest: [u8; 32],
}

impl Lists {
    /// Reads files, each in DER or PEM; a PEM file may hold several lists.
    ///
    /// # Errors
    /// What is wrong, with the number of the file, from 0.
    pub fn new<'f>(files: impl IntoIterator<Item = &'f [u8]>) -> Result<Lists, (usize, String)> {
        let mut read: Vec<(u64, CertRevocationList<'static>)> = Vec::new();
        let mut digest = Context::new(&SHA256);
        for (at, file) in files.into_iter().enumerate() {
            let before = read.len();
            // RFC 7468 §2: what stands before the first line of dashes is no part of it; DER begins with a SEQUENCE.
            let ders: Vec<CertificateRevocationListDer<'_>> = match file.first() {
                Some(0x30) => vec![CertificateRevocationListDer::from(file)],
                _ => CertificateRevocationListDer::pem_slice_iter(file)
                    .collect::<Result<_, _>>()
                    .map_err(|error| (at, format!("it is neither DER nor PEM: {error}")))?,
            };
            for der in ders {
                let list = OwnedCertRevocationList::from_der(&der)
                    .map_err(|error| (at, format!("it is no revocation list that can be used: {error}")))?;
                let next_update_s = next_update_s(&der).ok_or((at, "it says no next update".to_owned()))?;
                digest.update(&(der.len() as u64).to_be_bytes());
                digest.update(&der);
                read.push((next_update_s, CertRevocationList::Owned(list)));
            }
            if read.len() == before {
                return Err((at, "it holds no revocation list".to_owned()));
            }
        }
        // Of two lists of one authority the first that is found is asked: the one that is good for longer.
        read.sort_by_key(|(next_update_s, _)| std::cmp::Reverse(*next_update_s));
        let next_update_s = read.iter().map(|(next_update_s, _)| *next_update_s).min().unwrap_or(u64::MAX);
        let lists = read.into_iter().map(|(_, list)| list).collect();
        Ok(Lists { lists, next_update_s, digest: digest_of(digest) })
    }
}

impl std::fmt::Debug for Lists {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lists")
            .field("lists", &self.lists.len())
            .field("next_update_s", &self.next_update_s)
            .finish_non_exhaustive()
    }
}

fn next_update_s(der: &[u8]) -> Option<u64> {
    use x509_parser::prelude::{CertificateRevocationList, FromDer};
    let (_, list) = CertificateRevocationList::from_der(der).ok()?;
    u64::try_from(list.next_update()?.timestamp()).ok()
}

/// What a listener asks of its clients.
#[derive(Debug)]
pub struct ClientTrust {
    authority: Authority,
    /// Whether a client without a certificate is refused.
    required: bool,
    /// `None`: nothing is asked about revocation.
    lists: Option<ArcSwap<Lists>>,
    number: AtomicU64,
}

impl ClientTrust {
    /// What `authority` has issued and `lists` have not revoked.
    pub fn new(authority: Authority, required: bool, lists: Option<Lists>) -> ClientTrust {
        let number = number_of(&authority, lists.as_ref());
        ClientTrust {
            authority,
            required,
            lists: lists.map(ArcSwap::from_pointee),
            number: AtomicU64::new(number),
        }
    }

    /// Tells apart what chains are judged by: never 0, the same for the same authorities, rules and lists, also after a
    /// reload. One load.
    pub fn number(&self) -> u64 {
        self.number.load(Ordering::Acquire)
    }

    /// Whether a client without a certificate is refused.
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// The lists that count now.
    pub fn lists(&self) -> Option<Arc<Lists>> {
        self.lists.as_ref().map(ArcSwap::load_full)
    }

    /// The names of the authorities that `lists` do not speak for: whatever they have issued would be refused.
    pub fn without(&self, lists: &Lists) -> Vec<String> {
        self.authority.without(lists)
    }

    /// From now on these lists count, also for connections that are open. Says whether they are other ones. For the control
    /// thread.
    pub fn renew(&self, lists: Lists) -> bool {
        let Some(cell) = &self.lists else { return false };
        let number = number_of(&self.authority, Some(&lists));
        if number == self.number() {
            return false;
        }
        // The lists first: whoever sees the new number judges by them.
        cell.store(Arc::new(lists));
        self.number.store(number, Ordering::Release);
        true
    }

    /// Judges a chain by what counts now.
    fn verify(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<Facts, &'static Reason> {
        match &self.lists {
            None => self.authority.verify(own, others, &[], now),
            Some(lists) => {
                let lists = lists.load();
                let lists: Vec<&CertRevocationList<'static>> = lists.lists.iter().collect();
                // No list at all would be no question at all.
                if lists.is_empty() {
                    return Err(&CRL_MISSING);
                }
                self.authority.verify(own, others, &lists, now)
            }
        }
    }

    /// Whether a connection may go on asking at `now_s` (Unix seconds): gives back its certificate, which then counts.
    ///
    /// # Errors
    /// Why it may not. It has to end.
    #[inline]
    pub fn admit(
        &self,
        certificate: Option<&Rc<ClientCertificate>>,
        now_s: u64,
    ) -> Result<Option<Rc<ClientCertificate>>, &'static Reason> {
        match certificate {
            Some(certificate) => {
                let (number, until_s) = certificate.judged.get();
                if number != self.number() || now_s >= until_s {
                    self.judge_again(certificate, now_s)?;
                }
                Ok(Some(Rc::clone(certificate)))
            }
            None if self.required => Err(&MISSING),
            None => Ok(None),
        }
    }

    #[cold]
    fn judge_again(&self, certificate: &ClientCertificate, now_s: u64) -> Result<(), &'static Reason> {
        let number = self.number();
        let (own, others) = certificate.chain.split_first().ok_or(&MALFORMED)?;
        self.verify(own, others, UnixTime::since_unix_epoch(Duration::from_secs(now_s)))?;
        let until_s = self.until_s(certificate);
        // A date that has passed without harm is not looked at with every request.
        let until_s = if until_s <= now_s { now_s + JUDGE_AGAIN_S } else { until_s };
        certificate.judged.set((number, until_s));
        Ok(())
    }

    /// Unix seconds of the next date that may change the judgement.
    fn until_s(&self, certificate: &ClientCertificate) -> u64 {
        let lists = self.lists.as_ref().map_or(u64::MAX, |lists| lists.load().next_update_s);
        certificate.not_after_s.saturating_add(1).min(lists)
    }

    /// What is known of the chain that a client has shown in a handshake which these asked for. `number` is theirs from
    /// before the handshake: if it has changed meanwhile the chain is judged again at the first request.
    pub fn shown(&self, chain: &[CertificateDer<'_>], number: u64) -> Option<ClientCertificate> {
        let certificate = ClientCertificate::new(chain)?;
        certificate.judged.set((number, self.until_s(&certificate)));
        Some(certificate)
    }
}

fn number_of(authority: &Authority, lists: Option<&Lists>) -> u64 {
    let mut digest = Context::new(&SHA256);
    digest.update(&authority.digest);
    if let Some(lists) = lists {
        digest.update(&lists.digest);
    }
    digest_of(digest).iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte)).max(1)
}

fn digest_of(context: Context) -> [u8; 32] {
    let mut digest = [0; 32];
    digest.copy_from_slice(context.finish().as_ref());
    digest
}

/// The certificate of a client's connection.
#[derive(Debug)]
pub struct ClientCertificate {
    /// As it was shown, the client's own first.
    chain: Vec<CertificateDer<'static>>,
    /// SHA-256 of the chain.
    digest: [u8; 32],
    facts: Facts,
    /// Unix seconds after which one of the chain is no longer valid.
    not_after_s: u64,
    /// By what it was judged last, and until when (Unix seconds) that judgement holds.
    judged: Cell<(u64, u64)>,
    /// As a field's value, made when it is first wanted.
    encoded: OnceCell<Box<[u8]>>,
}

impl ClientCertificate {
    fn new(chain: &[CertificateDer<'_>]) -> Option<ClientCertificate> {
        let facts = Facts::read(chain.first()?)?;
        let mut digest = Context::new(&SHA256);
        let mut not_after_s = facts.not_after_s;
        for (at, certificate) in chain.iter().enumerate() {
            digest.update(&(certificate.len() as u64).to_be_bytes());
            digest.update(certificate);
            if at > 0 {
                // What cannot be read has no date that could be waited for.
                not_after_s = not_after_s.min(Facts::read(certificate).map_or(0, |facts| facts.not_after_s));
            }
        }
        Some(ClientCertificate {
            chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect(),
            digest: digest_of(digest),
            facts,
            not_after_s,
            judged: Cell::new((0, 0)),
            encoded: OnceCell::new(),
        })
    }

    /// What it says of its holder.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// SHA-256 of the whole chain as it was shown.
    pub fn digest(&self) -> &[u8; 32] {
        &self.digest
    }

    /// Unix seconds after which one of the chain is no longer valid.
    pub fn not_after_s(&self) -> u64 {
        self.not_after_s
    }

    /// The chain, the client's own certificate first.
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.chain
    }

    /// The value of `Client-Cert` (RFC 9440 §2.2): the client's own certificate as a Byte Sequence (RFC 8941 §3.3.5).
    pub fn encoded(&self) -> &[u8] {
        self.encoded.get_or_init(|| {
            let own = self.chain.first().map(|own| &**own).unwrap_or_default();
            format!(":{}:", base64_simd::STANDARD.encode_to_string(own)).into_bytes().into()
        })
    }
}

/// Asks for certificates in handshakes, as rustls wants it done.
#[derive(Debug)]
pub struct Verifier {
    trust: Arc<ClientTrust>,
    hints: Vec<DistinguishedName>,
}

impl Verifier {
    /// Asks for what `trust` admits.
    pub fn new(trust: Arc<ClientTrust>) -> Verifier {
        Verifier { hints: trust.authority.hints(), trust }
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.trust.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        match self.trust.verify(own, others, now) {
            Ok(_) => Ok(ClientCertVerified::assertion()),
            Err(reason) => Err(refused(reason)),
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signed, &self.trust.authority.algorithms)
            .map_err(|_| refused(&SIGNATURE))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signed, &self.trust.authority.algorithms)
            .map_err(|_| refused(&SIGNATURE))
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.trust.authority.algorithms.supported_schemes()
    }
}

/// Why a certificate was refused, on its way through rustls.
#[derive(Debug)]
struct Refused(&'static Reason);

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.token)
    }
}

impl std::error::Error for Refused {}

/// Every refusal is the same to rustls, and so to the client: `certificate_unknown`.
fn refused(reason: &'static Reason) -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Refused(reason)))))
}

/// Why a handshake failed, if it was for the client's certificate.
pub fn reason_of_handshake(error: &rustls::Error) -> Option<&'static Reason> {
    match error {
        rustls::Error::NoCertificatesPresented => Some(&MISSING),
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(inner))) => {
            inner.downcast_ref::<Refused>().map(|refused| refused.0)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{
        BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer, KeyPair,
        KeyUsagePurpose, RevokedCertParams, SerialNumber,
    };

    use super::*;

    /// Moments of these tests, in Unix seconds.
    const NOW_S: u64 = 1_800_000_000;
    const LEAF_ENDS_S: u64 = NOW_S + 1_000;
    const LIST_ENDS_S: u64 = NOW_S + 500;

    macro_rules! moment {
        ($seconds:expr) => {
            rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs($seconds)
        };
    }

    struct Root {
        params: CertificateParams,
        key: KeyPair,
        der: CertificateDer<'static>,
        pem: String,
    }

    impl Root {
        fn new(name: &str) -> Root {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
            let key = KeyPair::generate().expect("a key");
            let made = params.self_signed(&key).expect("made");
            Root { der: made.der().clone(), pem: made.pem(), params, key }
        }

        fn issuer(&self) -> Issuer<'_, &KeyPair> {
            Issuer::from_params(&self.params, &self.key)
        }

        fn issue(&self, serial: u64) -> CertificateDer<'static> {
            let mut params = CertificateParams::new(vec!["a.test".to_owned()]).expect("a name");
            params.not_before = moment!(NOW_S - 1_000);
            params.not_after = moment!(LEAF_ENDS_S);
            params.serial_number = Some(SerialNumber::from(serial));
            let key = KeyPair::generate().expect("a key");
            params.signed_by(&key, &self.issuer()).expect("made").der().clone()
        }

        fn lists(&self, revoked: Option<u64>, ends_s: u64) -> Lists {
            Lists::new([&*self.list(revoked, ends_s)]).expect("a list")
        }

        fn list(&self, revoked: Option<u64>, ends_s: u64) -> Vec<u8> {
            let params = CertificateRevocationListParams {
                this_update: moment!(1),
                next_update: moment!(ends_s),
                crl_number: SerialNumber::from(1),
                issuing_distribution_point: None,
                revoked_certs: revoked
                    .map(|serial| RevokedCertParams {
                        serial_number: SerialNumber::from(serial),
                        revocation_time: moment!(1),
                        reason_code: None,
                        invalidity_date: None,
                    })
                    .into_iter()
                    .collect(),
                key_identifier_method: rcgen::KeyIdMethod::Sha256,
            };
            params.signed_by(&self.issuer()).expect("made").der().to_vec()
        }

        fn trust(&self, lists: Option<Lists>) -> ClientTrust {
            let authority = Authority::new(self.pem.as_bytes(), 3, Vec::new()).expect("an authority");
            ClientTrust::new(authority, true, lists)
        }
    }

    fn admits(
        trust: &ClientTrust,
        certificate: &Rc<ClientCertificate>,
        now_s: u64,
    ) -> Result<(), &'static str> {
        trust.admit(Some(certificate), now_s).map(drop).map_err(|reason| reason.token)
    }

    #[test]
    fn a_judgement_holds_until_a_date_or_a_list_says_otherwise() {
        let root = Root::new("root");
        let trust = root.trust(Some(root.lists(None, LIST_ENDS_S)));
        let chain = [root.issue(7)];
        let shown = Rc::new(trust.shown(&chain, trust.number()).expect("read"));
        assert_eq!(shown.judged.get(), (trust.number(), LIST_ENDS_S));
        assert_eq!(admits(&trust, &shown, LIST_ENDS_S - 1), Ok(()));
        assert_eq!(admits(&trust, &shown, LIST_ENDS_S), Err(CRL_EXPIRED.token));
        // A list that is good for longer opens again; the same once more is no news.
        let longer = root.list(None, 2 * NOW_S);
        assert!(trust.renew(Lists::new([&*longer]).expect("a list")));
        assert!(!trust.renew(Lists::new([&*longer]).expect("a list")));
        assert_eq!(admits(&trust, &shown, LIST_ENDS_S), Ok(()));
        assert_eq!(shown.judged.get(), (trust.number(), LEAF_ENDS_S + 1));
        assert_eq!(admits(&trust, &shown, LEAF_ENDS_S), Ok(()));
        assert_eq!(admits(&trust, &shown, LEAF_ENDS_S + 1), Err(EXPIRED.token));
        // Another serial number is somebody else's; this one is revoked from the next request on.
        assert!(trust.renew(root.lists(Some(8), 2 * NOW_S)));
        assert_eq!(admits(&trust, &shown, NOW_S), Ok(()));
        assert!(trust.renew(root.lists(Some(7), 2 * NOW_S)));
        assert_eq!(admits(&trust, &shown, NOW_S), Err(REVOKED.token));
        // A refusal is not remembered as a judgement: it is one again.
        assert_eq!(admits(&trust, &shown, NOW_S), Err(REVOKED.token));
    }

    #[test]
    fn a_connection_is_judged_by_what_its_listener_asks_now() {
        let (root, other) = (Root::new("root"), Root::new("other"));
        let (before, after) = (root.trust(None), other.trust(None));
        let shown = Rc::new(before.shown(&[root.issue(1)], before.number()).expect("read"));
        assert_eq!(admits(&before, &shown, NOW_S), Ok(()));
        assert_eq!(admits(&after, &shown, NOW_S), Err(UNKNOWN_CA.token));
        assert_eq!(before.admit(None, NOW_S).map(drop), Err(&MISSING));
        let authority = Authority::new(root.pem.as_bytes(), 3, Vec::new()).expect("an authority");
        assert!(matches!(ClientTrust::new(authority, false, None).admit(None, NOW_S), Ok(None)));
        // The same again, as after a reload, has the same number: nobody is judged anew.
        assert_eq!(root.trust(None).number(), before.number());
        assert_ne!(root.trust(Some(root.lists(None, NOW_S))).number(), before.number());
        let deeper = Authority::new(root.pem.as_bytes(), 4, Vec::new()).expect("an authority");
        assert_ne!(ClientTrust::new(deeper, true, None).number(), before.number());
        let names = vec![Pattern::parse("dns:a.test").expect("a name")];
        let named = Authority::new(root.pem.as_bytes(), 3, names).expect("an authority");
        assert_ne!(ClientTrust::new(named, true, None).number(), before.number());
    }

    #[test]
    fn a_handshake_that_met_a_change_is_judged_again() {
        let root = Root::new("root");
        let trust = root.trust(Some(root.lists(None, 2 * NOW_S)));
        let number = trust.number();
        assert!(trust.renew(root.lists(Some(7), 2 * NOW_S)));
        let shown = Rc::new(trust.shown(&[root.issue(7)], number).expect("read"));
        assert_eq!(admits(&trust, &shown, NOW_S), Err(REVOKED.token));
    }

    #[test]
    fn a_date_that_does_no_harm_is_not_looked_at_with_every_request() {
        let root = Root::new("root");
        let trust = root.trust(None);
        // Somebody else's certificate, sent along, which has ended: it proves nothing and spoils nothing.
        let mut ended = Root::new("ended").params;
        ended.not_after = moment!(NOW_S - 1);
        let ended = ended.signed_by(&KeyPair::generate().expect("a key"), &root.issuer()).expect("made");
        let shown =
            Rc::new(trust.shown(&[root.issue(1), ended.der().clone()], trust.number()).expect("read"));
        assert_eq!(shown.not_after_s(), NOW_S - 1);
        assert_eq!(admits(&trust, &shown, NOW_S), Ok(()));
        assert_eq!(shown.judged.get().1, NOW_S + JUDGE_AGAIN_S);
    }

    #[test]
    fn lists_that_are_missing_refuse() {
        let (root, other) = (Root::new("root"), Root::new("other"));
        let own = root.issue(1);
        let verify = |lists: Lists| {
            let trust = root.trust(Some(lists));
            let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW_S));
            trust.verify(&own, &[], now).map(drop).map_err(|reason| reason.token)
        };
        assert_eq!(verify(root.lists(None, 2 * NOW_S)), Ok(()));
        assert_eq!(verify(Lists::new([]).expect("none")), Err(CRL_MISSING.token));
        assert_eq!(verify(other.lists(None, 2 * NOW_S)), Err(CRL_MISSING.token));
        // Of the same name, but not signed by it.
        assert_eq!(verify(Root::new("root").lists(None, 2 * NOW_S)), Err(CRL_MISSING.token));
    }

    #[test]
    fn the_bound_on_the_depth_is_exact() {
        let root = Root::new("root");
        let mut between: Vec<CertificateDer<'static>> = Vec::new();
        let mut last = Root { der: root.der.clone(), ..Root::new("root") };
        (last.params, last.key, last.pem) = (root.params.clone(), root.key, root.pem);
        let pem = last.pem.clone();
        for depth in 0..=6 {
            let own = last.issue(1);
            for bound in 0..=6 {
                let authority = Authority::new(pem.as_bytes(), bound, Vec::new()).expect("an authority");
                let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW_S));
                let judged =
                    authority.verify(&own, &between, &[], now).map(drop).map_err(|reason| reason.token);
                let expected = if depth <= bound { Ok(()) } else { Err(CHAIN_LONG.token) };
                assert_eq!(judged, expected, "{depth} within {bound}");
            }
            let mut next = Root::new(&format!("inner{depth}"));
            next.der = next.params.signed_by(&next.key, &last.issuer()).expect("made").der().clone();
            between.push(next.der.clone());
            last = next;
        }
    }
}
