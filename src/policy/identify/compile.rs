//! From `login` as it is written to [`Login`]s that run.
//!
//! Not for requests. Called by the snapshot's compiler, and by `check`, which has no control thread and only
//! wants to know what is wrong.

use std::path::Path;
use std::sync::Arc;

use super::api_key::{ApiKey, StoreCell};
use super::jwt::{Jwt, Keys, parse_keys};
use super::key_store::{KeyStore, PEPPER_BYTES_MIN, Pepper};
use super::mtls::{Mtls, Rules, SubjectFrom};
use super::{Login, LoginId, Method};
use crate::config::model::GateMode;
use crate::config::model::login as written;
use crate::config::{Code, ConfigError, Named, Span, Spanned};
use crate::control::keys::{FILE_BYTES_MAX, KeySource, Keys as Keepers};
use crate::control::private_file::read_private;
use crate::control::watch::{Subscription, Watcher};
use crate::jose::{Algorithm, AlgorithmSet, ClaimPath, Expectations, Key, KeySet, Verifier};
use crate::policy::Mode;
use crate::sys::file::read_regular;
use crate::tls::certificate_names::Pattern;
use crate::tls::client_certificates::Authority;

/// A key store cannot be used.
pub const STORE_UNUSABLE: Code = Code::new(1330);
/// A pepper is too short.
pub const PEPPER_SHORT: Code = Code::new(1331);
/// A key set cannot be used.
pub const KEYS_UNUSABLE: Code = Code::new(1332);
/// The expectations of a token login cannot be met.
pub const EXPECTATIONS: Code = Code::new(1333);
/// The authorities of a login by certificates cannot be used.
pub const AUTHORITIES_UNUSABLE: Code = Code::new(1380);

/// Most bytes of a file of authorities.
pub const AUTHORITIES_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Most certificates of authorities between a client's and one of a login's. The listener has a bound of its own, and has judged
/// the same chain before.
const LOGIN_DEPTH: usize = 6;

/// The logins of a configuration, compiled. Dropping it ends the watch on its stores.
#[derive(Default)]
pub struct Compiled {
    /// By [`LoginId`].
    pub logins: Vec<Arc<Login>>,
    /// Keep the stores watched.
    pub watched: Vec<Subscription>,
}

/// What keeps keys and stores up to date; without it nothing is fetched and nothing watched.
#[derive(Clone, Copy)]
pub struct Upkeep<'c> {
    /// Keeps key sets.
    pub keepers: &'c Keepers<KeySet>,
    /// Watches stores.
    pub watcher: &'c Watcher,
    /// Told the path of a store that changed, and whether it is in force or why not; the last good one then stays.
    pub changed: fn(&std::path::Path, Result<(), String>),
}

/// Compiles all logins. `claims` are those that limits count by: every token login keeps them, in this order.
///
/// # Errors
/// Everything that is wrong with them, at once.
pub fn compile(
    logins: &Named<written::Login>,
    claims: &[String],
    upkeep: Option<Upkeep<'_>>,
) -> Result<Compiled, Vec<ConfigError>> {
    let mut compiled = Compiled::default();
    let mut errors = Vec::new();
    for (place, (name, login)) in logins.iter().enumerate() {
        let id = LoginId(place as u16);
        let method = match &login.method {
            written::Method::Jwt(tokens) => jwt(id, &name.value, tokens, claims, upkeep).map(Method::Jwt),
            written::Method::ApiKey(keys) => api_key(id, &name.value, keys, upkeep, &mut compiled.watched),
            written::Method::Mtls(certificates) => mtls(id, &name.value, certificates).map(Method::Mtls),
        };
        match method {
            Ok(method) => {
                let mode = match &login.mode {
                    GateMode::Enforce => Mode::Enforce,
                    GateMode::Observe(_) => Mode::Observe,
                    GateMode::Off(_) => Mode::Off,
                };
                compiled.logins.push(Arc::new(Login { mode, passthrough: login.passthrough, method }));
            }
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(compiled) } else { Err(errors) }
}

fn jwt(
    id: LoginId,
    name: &str,
    tokens: &written::Tokens,
    claims: &[String],
    upkeep: Option<Upkeep<'_>>,
) -> Result<Jwt, ConfigError> {
    let span = tokens.keys.span;
    let unusable = |why: String| {
        problem(KEYS_UNUSABLE, format!("the keys of the login `{name}` cannot be used: {why}"), span)
    };
    let source = match &tokens.keys.value {
        written::JwtKeys::File(path) => KeySource::File(path.0.clone()),
        written::JwtKeys::Url(url) => {
            KeySource::url(&url.to_string()).map_err(|error| unusable(error.to_string()))?
        }
        // OpenID Connect Discovery §4.3: the issuer as it is written, byte for byte.
        written::JwtKeys::Discovery(_) => {
            KeySource::issuer(&tokens.issuer.value).map_err(|error| unusable(error.to_string()))?
        }
    };
    // A file is at hand, so a bad one is an error now and not a login that refuses everybody later.
    if let KeySource::File(path) = &source {
        let keys = read_key_file(path).and_then(|text| parse_keys(&text, &source));
        let keys = keys.map_err(|why| unusable(format!("{}: {why}", path.display())).fix("mend the file"))?;
        if keys.keys().iter().any(Key::is_symmetric) {
            let private = read_private(path, FILE_BYTES_MAX);
            private
                .map_err(|error| unusable(format!("{} holds shared secrets and {error}", path.display())))?;
        }
        let accepted = algorithms(tokens);
        if keys.keys().iter().all(|key| key.pinned(accepted).is_none()) {
            let why = format!("none of the keys of {} is for an algorithm that is accepted", path.display());
            return Err(unusable(why)
                .expected(format!("a key for one of {accepted:?}"))
                .fix("name the algorithm of the keys in `algorithms`"));
        }
    }
    let verifier = Verifier::new(expectations(tokens, claims));
    let verifier = verifier.map_err(|why| problem(EXPECTATIONS, why.into(), tokens.issuer.span))?;
    let keys = match upkeep {
        Some(upkeep) => {
            let keeper = upkeep.keepers.keeper(source);
            Keys::Kept(keeper.map_err(|error| unusable(error.to_string()))?)
        }
        None => Keys::Fixed(Arc::default()),
    };
    Ok(Jwt::new(id, name, verifier, keys))
}

fn expectations(tokens: &written::Tokens, claims: &[String]) -> Expectations {
    Expectations {
        issuer: tokens.issuer.value.clone(),
        audiences: tokens.audience.iter().map(|audience| audience.value.clone()).collect(),
        algorithms: algorithms(tokens),
        skew_s: tokens.skew.as_secs(),
        age_s_max: None,
        kind: None,
        subject: ClaimPath::new("sub"),
        scopes: ClaimPath::new(&tokens.claims.scope),
        roles: ClaimPath::new(&tokens.claims.roles),
        kept: claims.iter().map(|claim| ClaimPath::new(claim)).collect(),
    }
}

fn algorithms(tokens: &written::Tokens) -> AlgorithmSet {
    if tokens.algorithms.is_empty() {
        return AlgorithmSet::DEFAULT;
    }
    tokens.algorithms.iter().filter_map(|algorithm| Algorithm::named(algorithm.value.as_str())).collect()
}

fn read_key_file(path: &Path) -> Result<Vec<u8>, String> {
    read_bounded(path, FILE_BYTES_MAX)
}

/// Reads a file that everybody may read.
///
/// # Errors
/// Why it cannot be read, in words for the operator.
pub fn read_bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>, String> {
    read_regular(path, bytes_max).map_err(|error| error.to_string())
}

fn mtls(id: LoginId, name: &str, written: &written::Certificates) -> Result<Mtls, ConfigError> {
    let path = &written.ca.value.0;
    let authority = read_bounded(path, AUTHORITIES_BYTES_MAX)
        .and_then(|pem| Authority::new(&pem, LOGIN_DEPTH, Vec::new()))
        .map_err(|why| {
            let what =
                format!("the authorities {} of the login `{name}` cannot be used: {why}", path.display());
            problem(AUTHORITIES_UNUSABLE, what, written.ca.span)
                .expected("a PEM file with the certificates of the authorities that issue clients theirs")
        })?;
    let patterns = |names: &[Spanned<written::CertificateName>]| -> Vec<Pattern> {
        names.iter().map(|name| name.value.0.clone()).collect()
    };
    let rules = Rules {
        trust_domain: written.trust_domain.as_ref().map(|domain| domain.value.0.as_str().into()),
        names: patterns(&written.names),
        subject: match written.subject {
            None => SubjectFrom::Fitting,
            Some(written::CertificateSubject::Uri) => SubjectFrom::Uri,
            Some(written::CertificateSubject::Dns) => SubjectFrom::Dns,
            Some(written::CertificateSubject::Email) => SubjectFrom::Email,
            Some(written::CertificateSubject::CommonName) => SubjectFrom::CommonName,
        },
        roles: written
            .roles
            .iter()
            .map(|(role, names)| (role.value.as_str().into(), patterns(names)))
            .collect(),
    };
    Ok(Mtls::new(id, name, authority, rules))
}

fn api_key(
    id: LoginId,
    name: &str,
    keys: &written::ApiKeys,
    upkeep: Option<Upkeep<'_>>,
    watched: &mut Vec<Subscription>,
) -> Result<Method, ConfigError> {
    let path = keys.store.value.0.clone();
    let cell = Arc::new(StoreCell::new(KeyStore::default()));
    if let Some(Upkeep { watcher, changed, .. }) = upkeep {
        // Watched before it is read: no edit falls between the two.
        let (watched_cell, path) = (Arc::clone(&cell), path.clone());
        watched.push(watcher.subscribe(vec![path.clone()], move |_| {
            changed(&path, watched_cell.renew(&path));
        }));
    }
    cell.renew(&path).map_err(|why| {
        let what = format!("the key store {} of the login `{name}` cannot be used: {why}", path.display());
        let new = format!(
            "`ringwall keys new --store {} --identity NAME --pepper …` makes a store",
            path.display()
        );
        problem(STORE_UNUSABLE, what, keys.store.span).fix(new)
    })?;
    let secret = keys.pepper.read()?;
    let pepper = Pepper::new(secret.expose()).ok_or_else(|| {
        problem(PEPPER_SHORT, format!("the pepper of the login `{name}` is too short"), keys.pepper.span())
            .expected(format!("at least {PEPPER_BYTES_MIN} bytes"))
            .fix("`openssl rand -hex 32`; keys that were made with the old one are lost")
            .why("whoever has the store could guess it")
    })?;
    let field = keys.header.value.as_str().into();
    Ok(Method::ApiKey { field, keys: ApiKey::new(id, name, cell, pepper) })
}

fn problem(code: Code, title: String, span: Span) -> ConfigError {
    ConfigError::new(code, title, span)
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::config::parse_str;

    const P256: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"ec",
        "x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
    const SECRET: &str =
        r#"{"kty":"oct","alg":"HS256","kid":"s","k":"AbCdAbCdAbCdAbCdAbCdAbCdAbCdAbCdAbCdAbCdAbCdAbCd"}"#;

    /// A directory of its own, removed when dropped.
    struct Place(PathBuf);

    impl Place {
        fn new() -> Place {
            static NEXT: AtomicU32 = AtomicU32::new(0);
            let name =
                format!("ringwall-login-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let place = Place(std::env::temp_dir().join(name));
            fs::create_dir(&place.0).unwrap();
            place
        }

        fn file(&self, name: &str, text: &str, mode: u32) {
            fs::write(self.0.join(name), text).unwrap();
            fs::set_permissions(self.0.join(name), Permissions::from_mode(mode)).unwrap();
        }
    }

    impl Drop for Place {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    /// The codes of what is wrong with one login.
    fn codes(place: &Path, login: &str) -> Vec<Code> {
        let login = login.replace("DIR", &place.display().to_string());
        let text = format!(
            "ringwall: 1\nlisten: {{ address: 127.0.0.1:8080, tls: none }}\nlogin:\n  l: {login}\napis:\n  a:\n    \
             operations: {{ r: {{ match: GET /, redirect: \"https://a.example/\" }} }}\n    allow: [{{ who: l }}]\n"
        );
        let loaded = parse_str("test.yaml", &text).unwrap_or_else(|errors| panic!("{errors:?}"));
        match compile(&loaded.config.login, &[], None) {
            Ok(compiled) => {
                assert_eq!(compiled.logins.len(), 1);
                Vec::new()
            }
            Err(errors) => errors.into_iter().map(|error| error.code).collect(),
        }
    }

    #[test]
    fn token_logins_are_compiled_or_refused() {
        let place = Place::new();
        place.file("ec.json", P256, 0o644);
        place.file("hs.json", SECRET, 0o600);
        place.file("open.json", SECRET, 0o644);
        place.file("bad.json", "{\"keys\":[]}", 0o644);
        for (login, expected) in [
            ("{ jwt: DIR/ec.json, issuer: i, audience: a }", vec![]),
            ("{ jwt: DIR/hs.json, issuer: i, audience: a, algorithms: [HS256] }", vec![]),
            ("{ oidc: \"https://login.example.com/\", audience: a }", vec![]),
            ("{ jwt: \"https://login.example.com/keys\", issuer: i, audience: a }", vec![]),
            ("{ jwt: DIR/ec.json, issuer: i, audience: a, algorithms: [RS256] }", vec![KEYS_UNUSABLE]),
            ("{ jwt: DIR/hs.json, issuer: i, audience: a }", vec![KEYS_UNUSABLE]),
            ("{ jwt: DIR/open.json, issuer: i, audience: a, algorithms: [HS256] }", vec![KEYS_UNUSABLE]),
            ("{ jwt: DIR/bad.json, issuer: i, audience: a }", vec![KEYS_UNUSABLE]),
            ("{ jwt: DIR/none.json, issuer: i, audience: a }", vec![KEYS_UNUSABLE]),
        ] {
            assert_eq!(codes(&place.0, login), expected, "{login}");
        }
    }

    #[test]
    fn key_logins_are_compiled_or_refused() {
        let place = Place::new();
        place.file("keys", "", 0o600);
        place.file("open", "", 0o604);
        place.file("damaged", "{}", 0o600);
        place.file("pepper", "sixteen bytes or more", 0o600);
        place.file("short", "fifteen bytes!!", 0o600);
        for (login, expected) in [
            ("{ api_key: X-API-Key, store: DIR/keys, pepper: \"secret:file:DIR/pepper\" }", vec![]),
            (
                "{ api_key: X-API-Key, store: DIR/keys, pepper: \"secret:file:DIR/short\" }",
                vec![PEPPER_SHORT],
            ),
            (
                "{ api_key: X-API-Key, store: DIR/none, pepper: \"secret:file:DIR/pepper\" }",
                vec![STORE_UNUSABLE],
            ),
            (
                "{ api_key: X-API-Key, store: DIR/open, pepper: \"secret:file:DIR/pepper\" }",
                vec![STORE_UNUSABLE],
            ),
            (
                "{ api_key: X-API-Key, store: DIR/damaged, pepper: \"secret:file:DIR/pepper\" }",
                vec![STORE_UNUSABLE],
            ),
        ] {
            assert_eq!(codes(&place.0, login), expected, "{login}");
        }
    }
}
