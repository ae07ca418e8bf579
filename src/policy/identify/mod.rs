//! `login`: who is it?
//!
//! # What it does
//! Finds the one credential of a request ([`credential`], or the certificate of its connection), has the login it belongs to
//! check it ([`jwt`], [`api_key`], [`mtls`]), and makes it the identity of the exchange. The credential's field is not forwarded, unless
//! the login says `passthrough`. A request without a credential stays anonymous: `allow` decides about it.
//!
//! **No fall-through** (AN-17): a credential that does not hold refuses the request, whatever the rules that
//! follow would allow to anybody; it is never tried by another kind of login, and of several logins of one kind
//! exactly one is asked: the one whose issuer the token names, or whose store has the key's prefix. Of logins by certificates
//! the first counts whose authorities and names fit.
//!
//! # Configuration
//! `login.X` names the logins; those that an API's `allow` names are the API's. A login with `mode: observe` runs
//! the same code on the request that no enforced login has taken, and nothing follows from it.
//!
//! # Answers
//! 400 `credential_ambiguous`; 401 with `WWW-Authenticate` and the reasons of [`credential`], [`jwt`],
//! [`api_key`] and [`mtls`]; 429 `login_failures`; 503 `keys_unavailable`.
//!
//! # Cost
//! One walk over the fields, and that of the login. No allocation for a credential that is known to the core.
//!
//! # References
//! RFC 6750, 7235, 9110 §11; OWASP API2.

pub mod api_key;
pub mod compile;
pub mod credential;
pub mod failures;
pub mod jwt;
pub mod key_store;
pub mod mtls;

use std::rc::Rc;
use std::sync::Arc;

use ring::digest;

use self::api_key::{ApiKey, KeyIdentities};
use self::credential::{CREDENTIAL_AMBIGUOUS, Credential, Sought};
use self::failures::{Budget, Failures, LOGIN_FAILURES};
use self::jwt::Jwt;
use self::key_store::API_KEY_UNKNOWN;
use self::mtls::{CERTIFICATE_ISSUER, Mtls, Outcomes};
use crate::http::Reason;
use crate::jose::cache::{Bounds, Counts};
use crate::jose::{Known, TokenCache};
use crate::pipeline::exchange::Exchange;
use crate::policy::{Mode, Policy, Verdict};
use crate::tls::client_certificates::ClientCertificate;
use crate::worker::state::CoreState;

/// A login, by its index in the snapshot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct LoginId(pub u16);

/// Who is calling, as a login has proven it.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// The login that proved it.
    pub login: LoginId,
    /// The name of that login.
    pub login_name: Box<str>,
    /// `jwt`, `api_key` or `mtls`.
    pub kind: &'static str,
    /// The subject: `sub` of a token, `identity` of a key, a name of a certificate.
    pub subject: Box<str>,
    /// The issuer, of a token or certificate.
    pub issuer: Box<str>,
    /// `kid` of a token, `id` of a key, SHA-256 of a certificate.
    pub key_id: Box<str>,
    /// Scopes.
    pub scopes: Vec<Box<str>>,
    /// Roles.
    pub roles: Vec<Box<str>>,
    /// Unix seconds at which the credential ends; 0 is never.
    pub expires_s: u64,
    /// The claims of a token that limits count by, in the order that the configuration's compiler gave them; none for a key.
    pub kept: Box<[Option<Box<str>>]>,
    /// The above as the upstream is told of it.
    pub told: Told,
}

/// An identity as values of fields: visible ASCII, all else percent-encoded, so that no claim (an issuer chooses them, and
/// they hold any Unicode) can write a field of its own. Made once per credential, copied with every request.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// The subject.
    pub subject: Box<[u8]>,
    /// The issuer.
    pub issuer: Box<[u8]>,
    /// The kind of credential.
    pub kind: Box<[u8]>,
    /// The login's name.
    pub login: Box<[u8]>,
    /// The scopes, separated by spaces.
    pub scopes: Box<[u8]>,
    /// The roles, separated by spaces.
    pub roles: Box<[u8]>,
}

impl Told {
    fn value<'v>(parts: impl IntoIterator<Item = &'v str>) -> Box<[u8]> {
        let mut out = Vec::new();
        for part in parts {
            if !out.is_empty() {
                out.push(b' ');
            }
            for byte in part.bytes() {
                match byte {
                    b'%' | 0..=0x20 | 0x7f.. => {
                        const HEX: &[u8; 16] = b"0123456789ABCDEF";
                        out.extend_from_slice(&[
                            b'%',
                            HEX[usize::from(byte >> 4)],
                            HEX[usize::from(byte & 15)],
                        ]);
                    }
                    _ => out.push(byte),
                }
            }
        }
        out.into()
    }
}

impl Identity {
    /// The identity with what the upstream is told of it.
    #[must_use]
    pub fn told(mut self) -> Identity {
        self.told = Told {
            subject: Told::value([&*self.subject]),
            issuer: Told::value([&*self.issuer]),
            kind: Told::value([self.kind]),
            login: Told::value([&*self.login_name]),
            scopes: Told::value(self.scopes.iter().map(|scope| &**scope)),
            roles: Told::value(self.roles.iter().map(|role| &**role)),
        };
        self
    }

    /// Whether the identity holds a role.
    pub fn has_role(&self, role: &str) -> bool {
        self.roles.iter().any(|held| **held == *role)
    }

    /// The value of a claim that limits count by.
    pub fn claim(&self, place: usize) -> Option<&str> {
        self.kept.get(place)?.as_deref()
    }

    /// Whether the identity holds a scope.
    pub fn has_scope(&self, scope: &str) -> bool {
        self.scopes.iter().any(|held| **held == *scope)
    }
}

/// Per core: verified tokens and keys, budgets for failed ones. It outlives reloads.
#[derive(Debug)]
pub struct PerCore {
    /// Verified and refused tokens.
    tokens: TokenCache<Identity>,
    /// Who has presented too many that did not hold.
    failures: Failures,
    /// The identities of keys.
    keys: KeyIdentities,
    /// Those of certificates.
    certificates: Outcomes,
    /// Counts up with each revocation; a token that was cached before is verified again.
    pub revocation_epoch: u64,
}

impl PerCore {
    /// What the cache of tokens has counted so far, for `ringwall_token_cache_total`.
    pub fn token_counts(&self) -> Counts {
        self.tokens.counts()
    }
}

impl Default for PerCore {
    fn default() -> PerCore {
        PerCore {
            tokens: TokenCache::new(Bounds::default()),
            failures: Failures::new(Budget::default()),
            keys: KeyIdentities::default(),
            certificates: Outcomes::default(),
            revocation_epoch: 0,
        }
    }
}

/// One login, compiled; shared by the APIs that name it.
#[derive(Debug)]
pub struct Login {
    /// How it acts.
    pub mode: Mode,
    /// Whether its credential is forwarded.
    pub passthrough: bool,
    /// What it checks.
    pub method: Method,
}

/// What a login checks.
#[derive(Debug)]
pub enum Method {
    /// Signed tokens.
    Jwt(Jwt),
    /// Keys.
    ApiKey {
        /// The field that holds the key.
        field: Box<str>,
        /// The keys.
        keys: ApiKey,
    },
    /// Certificates of connections.
    Mtls(Mtls),
}

/// The logins that an API accepts.
#[derive(Debug, Default)]
pub struct Logins {
    enforced: Group,
    observed: Group,
    /// The challenge for a request without a credential.
    challenge: Box<str>,
    /// The challenge for a request whose credential does not hold.
    challenge_bad: Box<str>,
}

/// Logins that act alike.
#[derive(Debug, Default)]
struct Group {
    /// Whether failures are charged to their source: not those of observed logins, which have no effects.
    charges: bool,
    sought: Sought,
    /// Logins by tokens.
    tokens: Vec<Arc<Login>>,
    /// Logins by keys, by the place of their field in [`Sought::key_fields`].
    keys: Vec<Vec<Arc<Login>>>,
    /// Logins by certificates.
    certificates: Vec<Arc<Login>>,
}

/// The moment at which a request is judged.
#[derive(Clone, Copy, Debug)]
struct Now {
    /// Unix seconds.
    s: u64,
    /// Monotonic nanoseconds.
    ns: u64,
}

/// A credential that holds.
struct Proven {
    identity: Rc<Identity>,
    /// The place of its field, if that is not to be forwarded.
    consumed: Option<usize>,
    /// The certificate that it was proven by, if the upstream is to see it.
    told: Option<Rc<ClientCertificate>>,
}

impl Logins {
    /// The logins of one API. Those that are off are left out.
    pub fn new(logins: impl IntoIterator<Item = Arc<Login>>) -> Logins {
        let mut compiled = Logins::default();
        compiled.enforced.charges = true;
        for login in logins {
            match login.mode {
                Mode::Off => {}
                Mode::Observe => compiled.observed.add(login),
                Mode::Enforce => compiled.enforced.add(login),
            }
        }
        compiled.challenge = compiled.enforced.sought.challenge(false).into();
        compiled.challenge_bad = compiled.enforced.sought.challenge(true).into();
        compiled
    }

    fn challenge(&self, x: &mut Exchange, challenge: &str) {
        if x.enforcing() && !challenge.is_empty() {
            x.insert_answer(b"www-authenticate", challenge.as_bytes());
        }
    }
}

impl Policy for Logins {
    const NAME: &'static str = "login";

    fn apply(&self, x: &mut Exchange, core: &mut CoreState) -> Verdict {
        let now = Now { s: core.now_s, ns: core.now_ns };
        self.judge(x, &mut core.identify, now)
    }
}

impl Logins {
    fn judge(&self, x: &mut Exchange, core: &mut PerCore, now: Now) -> Verdict {
        let reason = match self.enforced.identify(x, core, now) {
            Ok(Some(proven)) => {
                if x.enforcing() {
                    x.identity = Some(proven.identity);
                    if let Some(place) = proven.consumed {
                        x.skip.insert(place);
                    }
                    if let Some(certificate) = proven.told {
                        // RFC 9440 §2.2. What a client sends under this name is never forwarded.
                        x.insert(b"Client-Cert", certificate.encoded());
                    }
                }
                return Verdict::Continue;
            }
            Ok(None) => {
                // Observed logins see what is left, and nothing follows from what they say.
                if let Err(reason) = self.observed.identify(x, core, now) {
                    x.observed(<Self as Policy>::NAME, reason);
                }
                // `allow` may want a credential after all; the line goes out with answers of ours only.
                self.challenge(x, &self.challenge);
                return Verdict::Continue;
            }
            Err(reason) => reason,
        };
        if reason.status == 401 {
            self.challenge(x, &self.challenge_bad);
        }
        if reason == &LOGIN_FAILURES && x.enforcing() {
            x.insert_answer(b"retry-after", b"1");
        }
        Verdict::Refuse(reason)
    }
}

impl Group {
    fn add(&mut self, login: Arc<Login>) {
        let field = match &login.method {
            Method::Jwt(_) => {
                self.sought.bearer = true;
                self.tokens.push(login);
                return;
            }
            Method::ApiKey { field, .. } => field,
            Method::Mtls(_) => {
                self.sought.certificate = true;
                self.certificates.push(login);
                return;
            }
        };
        let known = self.sought.key_fields.iter().position(|other| other.eq_ignore_ascii_case(field));
        match known {
            Some(place) => self.keys[place].push(login),
            None => {
                self.sought.key_fields.push(field.clone());
                self.keys.push(vec![login]);
            }
        }
    }

    /// Who presents the one credential of the request; `None` without one.
    fn identify(
        &self,
        x: &Exchange,
        core: &mut PerCore,
        now: Now,
    ) -> Result<Option<Proven>, &'static Reason> {
        let shown = x.certificate.as_ref().filter(|_| !self.certificates.is_empty());
        if self.tokens.is_empty() && self.keys.is_empty() && shown.is_none() {
            return Ok(None);
        }
        let fields = x.fields().iter(x.head_bytes()).map(|field| (field.name, field.value));
        let (place, credential) = match (self.sought.find(fields)?, shown) {
            (Some(found), None) => found,
            // Which of the two should count? An API that takes both takes one at a time.
            (Some(_), Some(_)) => return Err(&CREDENTIAL_AMBIGUOUS),
            (None, Some(certificate)) => return self.certificate(certificate, core, now).map(Some),
            (None, None) => return Ok(None),
        };
        let (login, identity) = match credential {
            Credential::Bearer(token) => self.token(token, x, core, now)?,
            Credential::ApiKey { field, key } => self.key(field, key, core, now)?,
        };
        Ok(Some(Proven { identity, consumed: (!login.passthrough).then_some(place), told: None }))
    }

    fn certificate(
        &self,
        certificate: &Rc<ClientCertificate>,
        core: &mut PerCore,
        now: Now,
    ) -> Result<Proven, &'static Reason> {
        let mut closest = &CERTIFICATE_ISSUER;
        for login in &self.certificates {
            let Method::Mtls(mtls) = &login.method else { continue };
            match mtls.find(certificate, core, now) {
                Ok(identity) => {
                    let told = login.passthrough.then(|| Rc::clone(certificate));
                    return Ok(Proven { identity, consumed: None, told });
                }
                // The login whose authority it is knows best what else is wrong.
                Err(reason) if reason == &CERTIFICATE_ISSUER => {}
                Err(reason) => closest = reason,
            }
        }
        Err(closest)
    }

    fn token(
        &self,
        token: &[u8],
        x: &Exchange,
        core: &mut PerCore,
        now: Now,
    ) -> Result<(&Login, Rc<Identity>), &'static Reason> {
        let logins = || self.tokens.iter().filter_map(|login| Some((&**login, login.jwt()?)));
        for (login, jwt) in logins() {
            match jwt.known(token, core, now) {
                Known::Verified(identity) => return Ok((login, identity)),
                Known::Refused(reason) => return Err(reason),
                Known::Nothing => {}
            }
        }
        // With one login there is nothing to choose. With several, exactly one is asked.
        let chosen = match self.tokens.len() {
            1 => logins().next(),
            _ => logins().rev().max_by_key(|(_, jwt)| jwt.fit(token)),
        };
        let (login, jwt) = chosen.ok_or(&crate::jose::jwt::TOKEN_ISSUER)?;
        let identity = jwt.verify(token, self.charges.then_some(x.client), core, now)?;
        Ok((login, identity))
    }

    fn key(
        &self,
        field: usize,
        key: &[u8],
        core: &mut PerCore,
        now: Now,
    ) -> Result<(&Login, Rc<Identity>), &'static Reason> {
        for login in self.keys.get(field).into_iter().flatten() {
            let Method::ApiKey { keys, .. } = &login.method else { continue };
            // A store that knows the prefix has the word; the next is asked only where it does not.
            if let Some(identity) = keys.find(key, core, now)? {
                return Ok((login, identity));
            }
        }
        Err(&API_KEY_UNKNOWN)
    }
}

impl Login {
    fn jwt(&self) -> Option<&Jwt> {
        match &self.method {
            Method::Jwt(jwt) => Some(jwt),
            Method::ApiKey { .. } | Method::Mtls(_) => None,
        }
    }
}

/// A number that changes with a login's index, name or expectations.
fn fingerprint(id: LoginId, name: &str, expected: u64) -> u64 {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(&id.0.to_be_bytes());
    context.update(&expected.to_be_bytes());
    context.update(name.as_bytes());
    context.finish().as_ref().iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use ring::hmac;

    use super::api_key::StoreCell;
    use super::credential::CREDENTIAL_UNREADABLE;
    use super::jwt::Keys;
    use super::key_store::{API_KEY_MALFORMED, KeyStore, NewKey, Pepper};
    use super::*;
    use crate::h1::parse::parse_request;
    use crate::http::HeadLimits;
    use crate::jose::jws::{KEY_UNKNOWN, KEYS_UNAVAILABLE, TOKEN_SIGNATURE};
    use crate::jose::jwt::{TOKEN_AUDIENCE, TOKEN_EXPIRED, TOKEN_ISSUER};
    use crate::jose::{Algorithm, ClaimPath, Expectations, KeySet, Origin, Verifier, base64url};

    const NOW_S: u64 = 1_800_000_000;
    const SECRET: [u8; 32] = [3; 32];

    fn sign(key_id: &str, claims: &str) -> String {
        let header = format!(r#"{{"alg":"HS256","kid":"{key_id}"}}"#);
        let signed =
            format!("{}.{}", base64url::encode(header.as_bytes()), base64url::encode(claims.as_bytes()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &SECRET), signed.as_bytes());
        format!("{signed}.{}", base64url::encode(tag.as_ref()))
    }

    fn token(issuer: &str) -> String {
        sign(
            "k",
            &format!(
                r#"{{"iss":"{issuer}","aud":"orders","sub":"alice","exp":1800000060,"scope":"a b","org":{{"tenant":"t1"}}}}"#
            ),
        )
    }

    fn people(id: u16, issuer: &str) -> Login {
        let k = base64url::encode(&SECRET);
        let set = format!(r#"{{"kty":"oct","alg":"HS256","kid":"k","k":"{k}"}}"#);
        let keys = KeySet::parse(set.as_bytes(), Origin::File).unwrap();
        let algorithms = Algorithm::Hs256.into();
        let kept = ["plan", "/org/tenant"].map(ClaimPath::new).into();
        let verifier =
            Verifier::new(Expectations { algorithms, kept, ..Expectations::new(issuer, "orders") }).unwrap();
        let jwt = Jwt::new(LoginId(id), issuer, verifier, Keys::Fixed(Arc::new(keys)));
        Login { mode: Mode::Enforce, passthrough: false, method: Method::Jwt(jwt) }
    }

    fn partners(id: u16, key: &NewKey) -> Login {
        let pepper = || Pepper::new(b"sixteen bytes or more").unwrap();
        let hash: String =
            pepper().hash(key.expose().as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let prefix = key.prefix();
        let prefix = prefix.as_str();
        let store = format!(
            r#"{{"id":"k1","prefix":"{prefix}","hash":"{hash}","identity":"shop","roles":["r"],"created":"2026-01-01T00:00:00Z"}}"#
        );
        let cell = Arc::new(StoreCell::new(KeyStore::parse(&store).unwrap()));
        let keys = ApiKey::new(LoginId(id), "partners", cell, pepper());
        Login {
            mode: Mode::Enforce,
            passthrough: false,
            method: Method::ApiKey { field: "X-API-Key".into(), keys },
        }
    }

    /// A core, and requests that its logins judge.
    struct Bench {
        core: PerCore,
        now: Now,
        client: IpAddr,
    }

    impl Bench {
        fn new() -> Bench {
            let now = Now { s: NOW_S, ns: 1 };
            Bench { core: PerCore::default(), now, client: "192.0.2.1".parse().unwrap() }
        }

        fn judge(&mut self, logins: &Logins, fields: &[(&str, &str)]) -> (Verdict, Exchange) {
            let mut head = "GET / HTTP/1.1\r\nHost: a.example\r\n".to_owned();
            fields.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
            head.push_str("\r\n");
            let mut x = Exchange::new();
            parse_request(head.as_bytes(), &HeadLimits::DEFAULT, &mut x.request.table).unwrap();
            x.request.bytes.restore(head.into_bytes());
            x.client = self.client;
            let verdict = logins.judge(&mut x, &mut self.core, self.now);
            (verdict, x)
        }

        /// The subject, or the reason of the refusal.
        fn who(
            &mut self,
            logins: &Logins,
            fields: &[(&str, &str)],
        ) -> Result<Option<String>, &'static Reason> {
            let (verdict, x) = self.judge(logins, fields);
            match verdict {
                Verdict::Refuse(reason) => {
                    assert!(x.identity.is_none());
                    Err(reason)
                }
                Verdict::Continue => Ok(x.identity.map(|identity| identity.subject.to_string())),
            }
        }
    }

    fn bearer(token: &str) -> String {
        format!("Bearer {token}")
    }

    #[test]
    fn a_good_credential_becomes_the_identity_and_is_not_forwarded() {
        let key = NewKey::generate().unwrap();
        let logins = Logins::new([people(0, "i"), partners(1, &key)].map(Arc::new));
        let mut bench = Bench::new();
        let good = bearer(&token("i"));
        let mut first = None;
        for _ in 0..2 {
            let (_, x) = bench.judge(&logins, &[("Accept", "*/*"), ("Authorization", &good)]);
            let identity = x.identity.unwrap();
            assert_eq!((identity.login, identity.kind, &*identity.subject), (LoginId(0), "jwt", "alice"));
            assert_eq!((&*identity.issuer, &*identity.key_id, identity.expires_s), ("i", "k", NOW_S + 90));
            assert!(identity.has_scope("b") && !identity.has_scope("c"));
            assert_eq!((identity.claim(0), identity.claim(1), identity.claim(2)), (None, Some("t1"), None));
            // The second time it is the same one, not another like it.
            let first = first.get_or_insert_with(|| Rc::clone(&identity));
            assert!(Rc::ptr_eq(first, &identity));
            assert_eq!(x.skip.iter().collect::<Vec<_>>(), [2]);
        }
        assert_eq!(bench.core.token_counts().hits, 1);
        let (_, x) = bench.judge(&logins, &[("x-api-key", key.expose())]);
        let identity = x.identity.unwrap();
        assert_eq!((identity.login, identity.kind, &*identity.subject), (LoginId(1), "api_key", "shop"));
        assert_eq!((&*identity.key_id, identity.expires_s, identity.has_role("r")), ("k1", 0, true));
        assert_eq!(x.skip.iter().collect::<Vec<_>>(), [1]);
        let (_, again) = bench.judge(&logins, &[("x-api-key", key.expose())]);
        assert!(Rc::ptr_eq(&identity, &again.identity.unwrap()), "built once");
    }

    /// AN-17, against real logins: what each field holds, and who that is.
    #[test]
    fn a_bad_credential_is_never_somebody_else() {
        let key = NewKey::generate().unwrap();
        let stranger = NewKey::generate().unwrap();
        let logins = Logins::new([people(0, "i"), partners(1, &key)].map(Arc::new));
        let mut bench = Bench::new();
        let (good, forged) =
            (bearer(&token("i")), bearer(&format!("{}A", &token("i")[..token("i").len() - 1])));
        let other_issuer = bearer(&token("j"));
        let tokens: [(Option<&str>, Result<Option<&str>, &Reason>); 6] = [
            (None, Ok(None)),
            (Some(&good), Ok(Some("alice"))),
            (Some(&forged), Err(&TOKEN_SIGNATURE)),
            (Some(&other_issuer), Err(&TOKEN_ISSUER)),
            (Some("Basic YTpi"), Err(&CREDENTIAL_UNREADABLE)),
            (Some("Bearer"), Err(&CREDENTIAL_UNREADABLE)),
        ];
        let keys: [(Option<&str>, Result<Option<&str>, &Reason>); 4] = [
            (None, Ok(None)),
            (Some(key.expose()), Ok(Some("shop"))),
            (Some(stranger.expose()), Err(&API_KEY_UNKNOWN)),
            (Some("hunter2"), Err(&API_KEY_MALFORMED)),
        ];
        for (token, of_token) in tokens {
            for (key, of_key) in keys {
                let fields: Vec<(&str, &str)> = token
                    .map(|value| ("Authorization", value))
                    .into_iter()
                    .chain(key.map(|value| ("X-API-Key", value)))
                    .collect();
                let expected = match (token, key) {
                    (Some(_), Some(_)) => Err(&CREDENTIAL_AMBIGUOUS),
                    (Some(_), None) => of_token,
                    _ => of_key,
                };
                let who = bench.who(&logins, &fields);
                assert_eq!(
                    who.as_ref().map(Option::as_deref).map_err(|reason| *reason),
                    expected,
                    "{fields:?}"
                );
            }
        }
    }

    #[test]
    fn of_several_issuers_the_named_one_is_asked() {
        let logins = Logins::new([people(0, "i"), people(1, "j")].map(Arc::new));
        let mut bench = Bench::new();
        for (issuer, login) in [("i", 0), ("j", 1), ("j", 1), ("i", 0)] {
            let (_, x) = bench.judge(&logins, &[("Authorization", &bearer(&token(issuer)))]);
            assert_eq!(x.identity.unwrap().login, LoginId(login));
        }
        assert_eq!(bench.who(&logins, &[("Authorization", &bearer(&token("k")))]), Err(&TOKEN_ISSUER));
        let audience = sign("k", r#"{"iss":"j","aud":"x","sub":"a","exp":1800000060}"#);
        assert_eq!(bench.who(&logins, &[("Authorization", &bearer(&audience))]), Err(&TOKEN_AUDIENCE));
    }

    #[test]
    fn a_reload_that_moves_a_login_forgets_its_tokens() {
        let mut bench = Bench::new();
        let good = bearer(&token("i"));
        for id in [0, 1, 0] {
            let logins = Logins::new([Arc::new(people(id, "i"))]);
            let (_, x) = bench.judge(&logins, &[("Authorization", &good)]);
            assert_eq!(x.identity.unwrap().login, LoginId(id));
        }
        bench.now.s = NOW_S + 90;
        let logins = Logins::new([Arc::new(people(0, "i"))]);
        assert_eq!(bench.who(&logins, &[("Authorization", &good)]), Err(&TOKEN_EXPIRED));
    }

    #[test]
    fn forgers_are_stopped_and_the_known_go_on() {
        let logins = Logins::new([Arc::new(people(0, "i"))]);
        let mut bench = Bench::new();
        let good = bearer(&token("i"));
        assert!(bench.who(&logins, &[("Authorization", &good)]).is_ok());
        let mut refusals = Vec::new();
        for number in 0..30 {
            let claims = format!(r#"{{"iss":"i","aud":"orders","sub":"{number}","exp":1800000060}}"#);
            let signed = sign("k", &claims);
            let forged = format!("{}.{}", signed.rsplit_once('.').unwrap().0, base64url::encode(&[0; 32]));
            refusals.push(bench.who(&logins, &[("Authorization", &bearer(&forged))]).unwrap_err());
        }
        assert_eq!(refusals.last(), Some(&&LOGIN_FAILURES));
        assert_eq!(bench.who(&logins, &[("Authorization", &good)]), Ok(Some("alice".into())));
        // Another source has a budget of its own, and a second gives one back.
        let fresh = bearer(&sign("k", r#"{"iss":"i","aud":"orders","sub":"new","exp":1800000060}"#));
        assert_eq!(bench.who(&logins, &[("Authorization", &fresh)]), Err(&LOGIN_FAILURES));
        bench.client = "192.0.2.2".parse().unwrap();
        assert_eq!(bench.who(&logins, &[("Authorization", &fresh)]), Ok(Some("new".into())));
        bench.client = "192.0.2.1".parse().unwrap();
        bench.now.ns += 30_000_000_000;
        let fresh = bearer(&sign("k", r#"{"iss":"i","aud":"orders","sub":"newer","exp":1800000060}"#));
        assert_eq!(bench.who(&logins, &[("Authorization", &fresh)]), Ok(Some("newer".into())));
    }

    #[test]
    fn unknown_keys_cost_nobody_his_budget() {
        let logins = Logins::new([Arc::new(people(0, "i"))]);
        let mut bench = Bench::new();
        for number in 0..100 {
            let rotated =
                sign(&format!("new-{number}"), r#"{"iss":"i","aud":"orders","sub":"a","exp":1800000060}"#);
            assert_eq!(bench.who(&logins, &[("Authorization", &bearer(&rotated))]), Err(&KEY_UNKNOWN));
        }
        assert!(bench.who(&logins, &[("Authorization", &bearer(&token("i")))]).is_ok());
    }

    #[test]
    fn without_keys_nobody_is_let_in() {
        let verifier = Verifier::new(Expectations::new("i", "orders")).unwrap();
        let jwt = Jwt::new(LoginId(0), "i", verifier, Keys::Fixed(Arc::default()));
        let login = Login { mode: Mode::Enforce, passthrough: false, method: Method::Jwt(jwt) };
        let logins = Logins::new([Arc::new(login)]);
        let refused = Bench::new().who(&logins, &[("Authorization", &bearer(&token("i")))]);
        assert_eq!(refused, Err(&KEYS_UNAVAILABLE));
    }

    #[test]
    fn challenges_go_with_answers_of_ours() {
        let key = NewKey::generate().unwrap();
        let logins = Logins::new([people(0, "i"), partners(1, &key)].map(Arc::new));
        let mut bench = Bench::new();
        let mut line = |fields: &[(&str, &str)]| {
            String::from_utf8(bench.judge(&logins, fields).1.answer_inserts).unwrap()
        };
        assert_eq!(line(&[]), "www-authenticate: Bearer, ApiKey field=\"X-API-Key\"\r\n");
        let bad = "www-authenticate: Bearer error=\"invalid_token\", ApiKey field=\"X-API-Key\"\r\n";
        assert_eq!(line(&[("Authorization", "Bearer a.b.c")]), bad);
        assert_eq!(line(&[("Authorization", &bearer(&token("i")))]), "");
        assert_eq!(line(&[("Authorization", "Bearer a"), ("X-API-Key", "k")]), "", "a 400 has no challenge");
    }

    #[test]
    fn an_observed_login_has_no_effect() {
        let key = NewKey::generate().unwrap();
        let observed = Login { mode: Mode::Observe, ..people(0, "i") };
        let logins = Logins::new([observed, partners(1, &key)].map(Arc::new));
        let mut bench = Bench::new();
        for value in [bearer(&token("i")), "Bearer a.b.c".into(), "Basic a".into()] {
            let (verdict, x) = bench.judge(&logins, &[("Authorization", &value)]);
            assert!(matches!(verdict, Verdict::Continue));
            assert!(x.identity.is_none() && x.skip.is_empty());
            assert_eq!(x.would_refuse().count(), usize::from(value.len() < 20), "{value}");
        }
        let fields = [("Authorization", "Bearer a.b.c"), ("X-API-Key", key.expose())];
        assert_eq!(bench.who(&logins, &fields), Ok(Some("shop".into())));
        for number in 0..100 {
            let forged =
                format!("{}.{}", token("i").rsplit_once('.').unwrap().0, base64url::encode(&[number; 32]));
            assert_eq!(bench.who(&logins, &[("Authorization", &bearer(&forged))]), Ok(None));
        }
        let enforced = Logins::new([Arc::new(people(0, "j"))]);
        assert!(
            bench.who(&enforced, &[("Authorization", &bearer(&token("j")))]).is_ok(),
            "nobody was charged"
        );
        let off = Logins::new([Arc::new(Login { mode: Mode::Off, ..people(0, "i") })]);
        assert_eq!(bench.who(&off, &[("Authorization", "Bearer a.b.c")]), Ok(None));
    }

    #[test]
    fn passthrough_forwards_the_credential() {
        let logins = Logins::new([Arc::new(Login { passthrough: true, ..people(0, "i") })]);
        let (_, x) = Bench::new().judge(&logins, &[("Authorization", &bearer(&token("i")))]);
        assert!(x.identity.is_some() && x.skip.is_empty());
    }
}
