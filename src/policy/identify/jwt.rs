//! `login.X: { jwt: … }` and `{ oidc: … }`: who a signed token speaks for.
//!
//! # What it does
//! Checks the token of `Authorization: Bearer` against the issuer's keys ([`Verifier`]) and remembers the
//! outcome per core ([`TokenCache`](crate::jose::TokenCache)). A token whose key is not known asks the control
//! thread to fetch the issuer's keys again, at most once per cool-down, and is refused meanwhile. A source
//! whose tokens fail too often is refused before the next signature check; tokens that are already known go on.
//!
//! # Configuration
//! `{ jwt: FILE-or-URL, issuer, audience, algorithms, skew: 30s, claims: {scope: scope, roles: roles} }` or
//! `{ oidc: ISSUER, audience }`; `passthrough: true` forwards the token. A claim that begins with `/` is a JSON
//! Pointer: `roles: /realm_access/roles`.
//!
//! # Answers
//! 401 with `WWW-Authenticate: Bearer error="invalid_token"` and the reasons of [`crate::jose::jws`] and
//! [`crate::jose::jwt`]; 429 `login_failures`; 503 `keys_unavailable` while no keys were had yet.
//!
//! # Cost
//! A known token: one load of the keys' cell, a hash of 48 bytes and a comparison of the token, no allocation.
//! A new one: one signature check, see [`Key::verify`](crate::jose::Key::verify).
//!
//! # References
//! RFC 6750, 7515, 7517, 7519, 8725, 9068.

use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::failures::LOGIN_FAILURES;
use super::{Identity, LoginId, Now, PerCore, Told, fingerprint};
use crate::control::keys::{Keeper, KeySource};
use crate::http::Reason;
use crate::jose::cache::cost_a_signature_check;
use crate::jose::jwt::{TOKEN_EXPIRED, TOKEN_NOT_YET};
use crate::jose::{Circumstances, Claims, KeySet, Known, Origin, Verifier, VerifyError};

/// Where a login's keys are.
pub enum Keys {
    /// Kept up to date by the control thread.
    Kept(Arc<Keeper<KeySet>>),
    /// The same for ever: keys that were made at start, and tests.
    Fixed(Arc<KeySet>),
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Keys::Kept(keeper) => write!(f, "Kept({})", keeper.source()),
            Keys::Fixed(keys) => f.debug_tuple("Fixed").field(&keys.keys().len()).finish(),
        }
    }
}

impl Keys {
    /// Calls `with` with the keys as of now, if there are any.
    fn now<R>(&self, with: impl FnOnce(Option<&KeySet>) -> R) -> R {
        match self {
            Keys::Kept(keeper) => with(keeper.current().set.as_deref()),
            Keys::Fixed(keys) => with(Some(keys)),
        }
    }

    /// Asks for newer ones; never waits.
    fn ask(&self) {
        if let Keys::Kept(keeper) = self {
            keeper.ask();
        }
    }
}

/// Makes a key set of a document: the parser that the control thread's keepers are given. A shared secret is
/// believed from a file only.
///
/// # Errors
/// What is wrong with the set.
pub fn parse_keys(text: &[u8], source: &KeySource) -> Result<KeySet, String> {
    let origin = match source {
        KeySource::File(_) => Origin::File,
        KeySource::Url(_) | KeySource::Issuer(_) => Origin::Url,
    };
    KeySet::parse(text, origin).map_err(|error| error.to_string())
}

/// A login by signed tokens, compiled.
#[derive(Debug)]
pub struct Jwt {
    id: LoginId,
    name: Box<str>,
    verifier: Verifier,
    keys: Keys,
    fingerprint: u64,
}

impl Jwt {
    /// The login `name` with the index `id`.
    pub fn new(id: LoginId, name: &str, verifier: Verifier, keys: Keys) -> Jwt {
        // Part of it is the login's index: what is cached names the login by it, and a reload may move it.
        let fingerprint = fingerprint(id, name, verifier.fingerprint());
        Jwt { id, name: name.into(), verifier, keys, fingerprint }
    }

    /// How well an unverified token fits; see [`Verifier::fit`].
    pub(super) fn fit(&self, token: &[u8]) -> u8 {
        self.verifier.fit(token)
    }

    /// What the core knows of `token`, without verifying anything.
    pub(super) fn known(&self, token: &[u8], core: &mut PerCore, now: Now) -> Known<Identity> {
        self.keys.now(|keys| match keys {
            Some(keys) => core.tokens.find(token, &self.circumstances(keys, core.revocation_epoch), now.s),
            None => Known::Nothing,
        })
    }

    /// Who a token speaks for that the core knows nothing of. Failures are charged to `source`, if there is one.
    pub(super) fn verify(
        &self,
        token: &[u8],
        source: Option<IpAddr>,
        core: &mut PerCore,
        now: Now,
    ) -> Result<Rc<Identity>, &'static Reason> {
        if source.is_some_and(|source| core.failures.is_spent(source, now.ns)) {
            return Err(&LOGIN_FAILURES);
        }
        self.keys.now(|keys| {
            let Some(keys) = keys else {
                self.keys.ask();
                return Err(VerifyError::NoKeys.reason());
            };
            let circumstances = self.circumstances(keys, core.revocation_epoch);
            match self.verifier.verify(token, keys, now.s) {
                Ok(claims) => {
                    let identity = Rc::new(self.identity(&claims));
                    let bytes = 2 * claims.bytes();
                    core.tokens.verified(token, &circumstances, claims.validity(), &identity, bytes, now.s);
                    Ok(identity)
                }
                Err(error) => {
                    if matches!(error, VerifyError::UnknownKey | VerifyError::NoKeys) {
                        self.keys.ask();
                    }
                    let reason = error.reason();
                    core.tokens.refused(token, &circumstances, reason, now.s);
                    // Not charged: what cost us nothing (a crowd behind one address meets a rotated key), and
                    // what the issuer did sign (a crowd whose tokens have run out).
                    let counts = cost_a_signature_check(reason)
                        && reason != &TOKEN_EXPIRED
                        && reason != &TOKEN_NOT_YET;
                    if let Some(source) = source.filter(|_| counts) {
                        core.failures.charge(source, now.ns);
                    }
                    Err(reason)
                }
            }
        })
    }

    fn circumstances(&self, keys: &KeySet, epoch: u64) -> Circumstances {
        Circumstances { login: self.fingerprint, keys: keys.generation(), epoch }
    }

    fn identity(&self, claims: &Claims) -> Identity {
        Identity {
            login: self.id,
            login_name: self.name.clone(),
            kind: "jwt",
            subject: claims.subject().into(),
            issuer: claims.issuer().into(),
            key_id: claims.key_id().into(),
            scopes: claims.scopes().map(Box::from).collect(),
            roles: claims.roles().map(Box::from).collect(),
            expires_s: claims.validity().ends_s(),
            kept: (0..self.verifier.kept()).map(|place| claims.kept(place).map(Box::from)).collect(),
            told: Told::default(),
        }
        .told()
    }
}
