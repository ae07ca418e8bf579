//! JSON Web Tokens (RFC 7519, 8725, 9068): who a verified token speaks for, and for how long.
//!
//! Not for fetching keys and not for remembering what was verified: see [`KeySet`] and
//! the token cache. Called by the `jwt` login.
//!
//! A token is believed only if its issuer and its audience are those the operator named, so neither has a
//! default. A claim of the wrong type refuses the token: a check that is skipped because it cannot be made
//! is no check.

use ring::digest;

use super::algorithm::AlgorithmSet;
use super::base64url;
use super::json::{self, Members, Value};
use super::jwks::KeySet;
use super::jws::{HEADER_BYTES_MAX, TOKEN_BYTES_MAX, Token, VerifyError};
use crate::http::Reason;

/// Most scopes, and most roles, of one token.
pub const GRANTS_MAX: usize = 256;
/// Most claims that a login may be asked to keep beside the usual ones.
pub const KEPT_CLAIMS_MAX: usize = 16;

const CLAIMS_BOUNDS: json::Bounds = json::Bounds { bytes: TOKEN_BYTES_MAX, depth: 16, members: 256 };
/// The end of the year 9999. A later date is a mistake, and sums with it cannot overflow.
const DATE_S_MAX: u64 = 253_402_300_799;

/// `typ` is not one of the accepted.
pub const TOKEN_TYPE: Reason =
    Reason::client("token_type", 3009, 401, "The access token is of a kind that is not accepted here");
/// The payload is not a claims set, or a claim has the wrong type or is missing.
pub const TOKEN_CLAIMS: Reason =
    Reason::client("token_claims", 3010, 401, "The access token's claims are incomplete or malformed");
/// `iss` is not the expected issuer.
pub const TOKEN_ISSUER: Reason =
    Reason::client("token_issuer", 3011, 401, "The access token has another issuer");
/// No `aud` is the expected audience.
pub const TOKEN_AUDIENCE: Reason =
    Reason::client("token_audience", 3012, 401, "The access token is meant for another audience");
/// `exp` has passed.
pub const TOKEN_EXPIRED: Reason = Reason::client("token_expired", 3013, 401, "The access token has expired");
/// `nbf` or `iat` lies in the future.
pub const TOKEN_NOT_YET: Reason =
    Reason::client("token_not_yet", 3014, 401, "The access token is not yet valid");
/// Issued longer ago than the login allows, or not saying when.
pub const TOKEN_AGE: Reason = Reason::client("token_age", 3015, 401, "The access token is too old");
/// No subject, so nobody to limit or to name.
pub const TOKEN_SUBJECT: Reason =
    Reason::client("token_subject", 3016, 401, "The access token names no subject");

/// Where a claim is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimPath {
    /// A member of the claims set, its name taken literally: `scope`, `https://example.com/roles`.
    Member(Box<str>),
    /// A JSON Pointer (RFC 6901) through objects: `/realm_access/roles`.
    Pointer(Box<str>),
}

impl ClaimPath {
    /// A text that begins with `/` is a pointer, any other a name.
    pub fn new(text: &str) -> ClaimPath {
        if text.starts_with('/') { ClaimPath::Pointer(text.into()) } else { ClaimPath::Member(text.into()) }
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        match self {
            ClaimPath::Member(text) | ClaimPath::Pointer(text) => text,
        }
    }

    fn find<'a>(&self, claims: Members<'a>) -> Option<Value<'a>> {
        match self {
            ClaimPath::Member(name) => claims.member(name),
            ClaimPath::Pointer(pointer) => Value::Object(claims).at_pointer(pointer),
        }
    }
}

/// What a login expects of a token.
#[derive(Clone, Debug)]
pub struct Expectations {
    /// `iss`, compared byte for byte. Mandatory.
    pub issuer: String,
    /// The token's `aud` must hold one of these. Mandatory.
    pub audiences: Vec<String>,
    /// The algorithms that are accepted; default [`AlgorithmSet::DEFAULT`].
    pub algorithms: AlgorithmSet,
    /// How far clocks may be apart, in seconds; default 30.
    pub skew_s: u64,
    /// How long ago a token may have been issued, in seconds; default: as long as it has not expired.
    pub age_s_max: Option<u64>,
    /// The `typ` that is required (without `application/`, case ignored). Default: `JWT`, `at+jwt` or none.
    pub kind: Option<String>,
    /// Where the subject is found; default `sub`.
    pub subject: ClaimPath,
    /// Where the scopes are found: one text separated by spaces, or a list of texts; default `scope`.
    pub scopes: ClaimPath,
    /// Where the roles are found: one text, or a list of texts; default `roles`.
    pub roles: ClaimPath,
    /// Further claims to keep at hand, for limits by `claim:NAME`; at most [`KEPT_CLAIMS_MAX`].
    pub kept: Vec<ClaimPath>,
}

impl Expectations {
    /// The defaults, for an issuer and an audience.
    pub fn new(issuer: &str, audience: &str) -> Expectations {
        Expectations {
            issuer: issuer.into(),
            audiences: vec![audience.into()],
            algorithms: AlgorithmSet::DEFAULT,
            skew_s: 30,
            age_s_max: None,
            kind: None,
            subject: ClaimPath::new("sub"),
            scopes: ClaimPath::new("scope"),
            roles: ClaimPath::new("roles"),
            kept: Vec::new(),
        }
    }
}

/// Checks tokens of one login.
#[derive(Debug)]
pub struct Verifier {
    expected: Expectations,
    fingerprint: u64,
}

impl Verifier {
    /// A verifier for what `expected` says.
    ///
    /// # Errors
    /// What is missing or beyond its bound.
    pub fn new(expected: Expectations) -> Result<Verifier, &'static str> {
        if expected.issuer.is_empty() {
            return Err("a token login needs the issuer it believes");
        }
        if expected.audiences.is_empty() || expected.audiences.iter().any(String::is_empty) {
            return Err("a token login needs the audience it speaks for");
        }
        if expected.algorithms.is_empty() {
            return Err("a token login needs an algorithm it accepts");
        }
        if expected.skew_s > 600 {
            return Err("clocks more than ten minutes apart cannot be reconciled");
        }
        if expected.age_s_max.is_some_and(|age_s| age_s == 0 || age_s > DATE_S_MAX) {
            return Err("the highest age of a token must be above zero");
        }
        if expected.kept.len() > KEPT_CLAIMS_MAX {
            return Err("a token login keeps at most 16 further claims");
        }
        let digest = digest::digest(&digest::SHA256, format!("{expected:?}").as_bytes());
        let fingerprint = digest.as_ref().iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte));
        Ok(Verifier { expected, fingerprint })
    }

    /// A number that changes with what is expected and with nothing else: a reload that leaves the login
    /// alone keeps its cached tokens, one that changes it loses them.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    /// How many claims are kept beside the usual ones.
    pub fn kept(&self) -> usize {
        self.expected.kept.len()
    }

    /// Checks `token` against `keys` at `now_s` (Unix seconds).
    ///
    /// Costs one signature check, see [`Key::verify`](super::Key::verify), and about 2 µs; a handful of
    /// allocations. Callers remember the outcome in a the token cache.
    ///
    /// # Errors
    /// The reason the token is refused, or that its key is not in `keys`.
    pub fn verify(&self, token: &[u8], keys: &KeySet, now_s: u64) -> Result<Claims, VerifyError> {
        if keys.is_empty() {
            return Err(VerifyError::NoKeys);
        }
        let mut room = [0; HEADER_BYTES_MAX];
        let token = Token::parse(token, &mut room)?;
        self.check_kind(token.kind())?;
        let payload = token.verify(keys, self.expected.algorithms)?;
        let claims = self.read(&payload, token.key_id().unwrap_or_default())?;
        claims.validity.check(now_s)?;
        Ok(claims)
    }

    /// How well the claims of `token` fit, before anything of it is verified: 2 if issuer and audience are the
    /// expected, 1 if the issuer is, else 0.
    ///
    /// For choosing between several logins, and for nothing else: whatever is chosen verifies the token and
    /// nobody is tried after it. Costs about 1 µs for a token of 700 bytes.
    pub fn fit(&self, token: &[u8]) -> u8 {
        let Some(payload) = unverified_payload(token) else { return 0 };
        let Some(claims) = json::parse(&payload, CLAIMS_BOUNDS).ok().and_then(Value::members) else {
            return 0;
        };
        match text(claims.member("iss")) {
            Ok(Some(issuer)) if issuer.is(&self.expected.issuer) => {
                1 + u8::from(self.is_meant_for_us(claims) == Ok(true))
            }
            _ => 0,
        }
    }

    fn check_kind(&self, kind: Option<&str>) -> Result<(), &'static Reason> {
        // RFC 7515 §4.1.9: `application/` is left out where there is no other slash; media types ignore case.
        let kind = kind.map(|kind| match kind.get(..12) {
            Some(prefix) if prefix.eq_ignore_ascii_case("application/") => &kind[12..],
            _ => kind,
        });
        let accepted = match (&self.expected.kind, kind) {
            (Some(expected), Some(kind)) => kind.eq_ignore_ascii_case(expected),
            (Some(_), None) => false,
            (None, None) => true,
            // RFC 8725 §3.11: a token of another kind (`logout+jwt`, `dpop+jwt`, `secevent+jwt`, …) may come
            // from the same issuer with the same key; it is no access token.
            (None, Some(kind)) => kind.eq_ignore_ascii_case("JWT") || kind.eq_ignore_ascii_case("at+jwt"),
        };
        if accepted { Ok(()) } else { Err(&TOKEN_TYPE) }
    }

    fn read(&self, payload: &[u8], key_id: &str) -> Result<Claims, &'static Reason> {
        let expected = &self.expected;
        let claims = json::parse(payload, CLAIMS_BOUNDS).map_err(|_| &TOKEN_CLAIMS)?;
        let claims = claims.members().ok_or(&TOKEN_CLAIMS)?;
        if !text(claims.member("iss"))?.is_some_and(|issuer| issuer.is(&expected.issuer)) {
            return Err(&TOKEN_ISSUER);
        }
        if !self.is_meant_for_us(claims)? {
            return Err(&TOKEN_AUDIENCE);
        }

        // RFC 7519 §4.1.4 leaves exp to choice. We require it: a token that never ends cannot be taken back.
        let expires_s = date(claims.member("exp"), Rounding::Down)?.ok_or(&TOKEN_CLAIMS)?;
        let not_before_s = date(claims.member("nbf"), Rounding::Up)?.unwrap_or(0);
        let issued_s = date(claims.member("iat"), Rounding::Down)?;
        let age_end_s = match (expected.age_s_max, issued_s) {
            (None, _) => u64::MAX,
            (Some(age_s), Some(issued_s)) => issued_s + age_s + expected.skew_s,
            (Some(_), None) => return Err(&TOKEN_AGE),
        };

        let mut parts =
            Parts { text: String::with_capacity(payload.len() + 128), spans: Vec::with_capacity(8) };
        parts.text.push_str(std::str::from_utf8(payload).map_err(|_| &TOKEN_CLAIMS)?);
        let claims_bytes = parts.text.len();
        let subject = text(expected.subject.find(claims))?.ok_or(&TOKEN_SUBJECT)?.decode();
        if subject.is_empty() {
            return Err(&TOKEN_SUBJECT);
        }
        parts.push(&subject)?;
        parts.push(&expected.issuer)?;
        parts.push(key_id)?;
        let scopes = parts.grants(expected.scopes.find(claims), true)?;
        let roles = parts.grants(expected.roles.find(claims), false)?;
        for path in &expected.kept {
            parts.keep(path.find(claims))?;
        }
        Ok(Claims {
            text: parts.text.into_boxed_str(),
            spans: parts.spans.into_boxed_slice(),
            claims_bytes: claims_bytes as u32,
            scopes: scopes as u16,
            roles: roles as u16,
            expires_s,
            issued_s,
            validity: Validity {
                from_s: not_before_s.max(issued_s.unwrap_or(0)).saturating_sub(expected.skew_s),
                until_s: expires_s + expected.skew_s,
                age_end_s,
            },
        })
    }

    fn is_meant_for_us(&self, claims: Members<'_>) -> Result<bool, &'static Reason> {
        let is_ours = |audience: json::Text<'_>| self.expected.audiences.iter().any(|ours| audience.is(ours));
        match claims.member("aud") {
            None => Ok(false),
            Some(Value::Text(audience)) => Ok(is_ours(audience)),
            Some(Value::Array(audiences)) => {
                let mut found = false;
                for audience in audiences {
                    found |= is_ours(audience.text().ok_or(&TOKEN_CLAIMS)?);
                }
                Ok(found)
            }
            Some(_) => Err(&TOKEN_CLAIMS),
        }
    }
}

/// What a verified token says. Owned and immutable; two allocations.
#[derive(Debug, PartialEq, Eq)]
pub struct Claims {
    /// The claims set as it was signed, then the decoded texts that `spans` point to.
    text: Box<str>,
    /// Subject, issuer, key id, scopes, roles, kept claims.
    spans: Box<[Span]>,
    claims_bytes: u32,
    scopes: u16,
    roles: u16,
    expires_s: u64,
    issued_s: Option<u64>,
    validity: Validity,
}

/// When a token is valid, in Unix seconds, skew included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Validity {
    /// The first second it is valid at.
    pub from_s: u64,
    /// The first second it has expired at.
    pub until_s: u64,
    /// The first second at which it is too old; `u64::MAX` where age does not count.
    pub age_end_s: u64,
}

impl Validity {
    /// Whether the token is valid at `now_s`. Asked again on every use of a cached one.
    ///
    /// # Errors
    /// The reason it is not.
    pub fn check(&self, now_s: u64) -> Result<(), &'static Reason> {
        // RFC 7519 §4.1.4: the current time MUST be before exp.
        if now_s >= self.until_s {
            return Err(&TOKEN_EXPIRED);
        }
        if now_s < self.from_s {
            return Err(&TOKEN_NOT_YET);
        }
        if now_s >= self.age_end_s {
            return Err(&TOKEN_AGE);
        }
        Ok(())
    }

    /// The first second at which the token has ended for whatever reason: a stream that lives on it is
    /// closed then.
    pub fn ends_s(&self) -> u64 {
        self.until_s.min(self.age_end_s)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Span {
    start: u32,
    end: u32,
}

/// A kept claim that the token does not have.
const ABSENT: Span = Span { start: 1, end: 0 };

impl Claims {
    /// Whom the token speaks for: not empty, no control characters.
    pub fn subject(&self) -> &str {
        self.span(0)
    }

    /// Who issued it.
    pub fn issuer(&self) -> &str {
        self.span(1)
    }

    /// The `kid` of the key that signed it; empty if its header names none.
    pub fn key_id(&self) -> &str {
        self.span(2)
    }

    /// Its scopes, in the order of the token.
    pub fn scopes(&self) -> impl Iterator<Item = &str> {
        (3..3 + usize::from(self.scopes)).map(|place| self.span(place))
    }

    /// Its roles, in the order of the token.
    pub fn roles(&self) -> impl Iterator<Item = &str> {
        let first = 3 + usize::from(self.scopes);
        (first..first + usize::from(self.roles)).map(|place| self.span(place))
    }

    /// Whether it has the scope `name`.
    pub fn has_scope(&self, name: &str) -> bool {
        self.scopes().any(|scope| scope == name)
    }

    /// Whether it has the role `name`.
    pub fn has_role(&self, name: &str) -> bool {
        self.roles().any(|role| role == name)
    }

    /// The value of the kept claim at `place` of [`Expectations::kept`]: a text as it is, a number or a
    /// boolean as written; `None` if the token has none or it is another type. O(1).
    pub fn kept(&self, place: usize) -> Option<&str> {
        let place = 3 + usize::from(self.scopes) + usize::from(self.roles) + place;
        let span = *self.spans.get(place)?;
        (span != ABSENT).then(|| self.slice(span))
    }

    /// The claims set as it was signed: JSON, checked, without duplicate members.
    pub fn json(&self) -> &str {
        self.text.get(..self.claims_bytes as usize).unwrap_or_default()
    }

    /// `exp`, in Unix seconds, without skew.
    pub fn expires_s(&self) -> u64 {
        self.expires_s
    }

    /// `iat`, in Unix seconds.
    pub fn issued_s(&self) -> Option<u64> {
        self.issued_s
    }

    /// When it is valid.
    pub fn validity(&self) -> Validity {
        self.validity
    }

    /// What it occupies, in bytes, for a cache's bound.
    pub fn bytes(&self) -> usize {
        size_of::<Claims>() + self.text.len() + size_of_val(&*self.spans)
    }

    fn span(&self, place: usize) -> &str {
        self.spans.get(place).map_or("", |span| self.slice(*span))
    }

    fn slice(&self, span: Span) -> &str {
        self.text.get(span.start as usize..span.end as usize).unwrap_or_default()
    }
}

/// The texts of claims while they are gathered.
struct Parts {
    text: String,
    spans: Vec<Span>,
}

impl Parts {
    /// Control characters are refused: these texts reach header fields and logs, and nothing honest is lost.
    fn push(&mut self, text: &str) -> Result<(), &'static Reason> {
        if text.chars().any(char::is_control) {
            return Err(&TOKEN_CLAIMS);
        }
        let start = self.text.len() as u32;
        self.text.push_str(text);
        self.spans.push(Span { start, end: self.text.len() as u32 });
        Ok(())
    }

    /// Scopes or roles: a list of texts or one text, which `spaced` says is a list separated by spaces.
    fn grants(&mut self, value: Option<Value<'_>>, spaced: bool) -> Result<usize, &'static Reason> {
        let before = self.spans.len();
        match value {
            None | Some(Value::Null) => {}
            // RFC 8693 §4.2, RFC 9068 §2.2.3: scope is a list separated by spaces.
            Some(Value::Text(list)) if spaced => {
                for grant in list.decode().split(' ').filter(|grant| !grant.is_empty()) {
                    self.grant(grant, before)?;
                }
            }
            Some(Value::Text(grant)) => self.grant(&grant.decode(), before)?,
            Some(Value::Array(grants)) => {
                for grant in grants {
                    self.grant(&grant.text().ok_or(&TOKEN_CLAIMS)?.decode(), before)?;
                }
            }
            Some(_) => return Err(&TOKEN_CLAIMS),
        }
        Ok(self.spans.len() - before)
    }

    fn grant(&mut self, grant: &str, before: usize) -> Result<(), &'static Reason> {
        if self.spans.len() - before == GRANTS_MAX {
            return Err(&TOKEN_CLAIMS);
        }
        self.push(grant)
    }

    fn keep(&mut self, value: Option<Value<'_>>) -> Result<(), &'static Reason> {
        match value {
            Some(Value::Text(text)) => self.push(&text.decode()),
            Some(Value::Number(number)) => self.push(number),
            Some(Value::Bool(true)) => self.push("true"),
            Some(Value::Bool(false)) => self.push("false"),
            _ => {
                self.spans.push(ABSENT);
                Ok(())
            }
        }
    }
}

/// The payload of a compact serialization, unverified.
fn unverified_payload(token: &[u8]) -> Option<Vec<u8>> {
    if token.len() > TOKEN_BYTES_MAX {
        return None;
    }
    base64url::decode_to_vec(token.split(|byte| *byte == b'.').nth(1)?)
}

/// A claim that must be a text if it is there.
fn text(value: Option<Value<'_>>) -> Result<Option<json::Text<'_>>, &'static Reason> {
    match value {
        None => Ok(None),
        Some(Value::Text(text)) => Ok(Some(text)),
        Some(_) => Err(&TOKEN_CLAIMS),
    }
}

#[derive(Clone, Copy)]
enum Rounding {
    Up,
    Down,
}

/// A NumericDate (RFC 7519 §2): seconds since 1970, fractions allowed and rounded to the stricter side.
fn date(value: Option<Value<'_>>, rounding: Rounding) -> Result<Option<u64>, &'static Reason> {
    let number = match value {
        None => return Ok(None),
        Some(Value::Number(number)) => number,
        Some(_) => return Err(&TOKEN_CLAIMS),
    };
    if let Ok(seconds) = number.parse::<u64>() {
        return if seconds <= DATE_S_MAX { Ok(Some(seconds)) } else { Err(&TOKEN_CLAIMS) };
    }
    // Fractions and exponents. 1e400 becomes infinite and is refused with everything else out of range.
    let seconds: f64 = number.parse().map_err(|_| &TOKEN_CLAIMS)?;
    let seconds = match rounding {
        Rounding::Up => seconds.ceil(),
        Rounding::Down => seconds.floor(),
    };
    if (0.0..=DATE_S_MAX as f64).contains(&seconds) { Ok(Some(seconds as u64)) } else { Err(&TOKEN_CLAIMS) }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{hs256_set, sign_hs256};
    use super::*;

    const NOW_S: u64 = 1_800_000_000;

    fn expectations() -> Expectations {
        Expectations {
            algorithms: AlgorithmSet::HMAC,
            ..Expectations::new("https://issuer.example/", "orders")
        }
    }

    fn verify_with(expected: Expectations, claims: &str) -> Result<Claims, &'static Reason> {
        let token = sign_hs256(r#"{"alg":"HS256","kid":"one"}"#, claims);
        let verifier = Verifier::new(expected).unwrap();
        verifier.verify(token.as_bytes(), &hs256_set(), NOW_S).map_err(VerifyError::reason)
    }

    fn verify(claims: &str) -> Result<Claims, &'static Reason> {
        verify_with(expectations(), claims)
    }

    /// A claims set with the usual claims and `more`; `NOW` and its neighbours are numbers relative to now.
    fn with(more: &str) -> String {
        let exp = if more.contains("\"exp\"") { "" } else { r#","exp":1800000060"# };
        let more = if more.is_empty() { String::new() } else { format!(",{more}") };
        format!(r#"{{"iss":"https://issuer.example/","aud":"orders","sub":"alice"{exp}{more}}}"#)
    }

    #[test]
    fn claims_are_read() {
        let mut expected = expectations();
        expected.roles = ClaimPath::new("/realm/roles");
        expected.kept = ["tenant", "level", "none", "list", "paid"].map(ClaimPath::new).into();
        let claims = with(
            r#""scope":"read  write","realm":{"roles":["a","b\u0062"]},"tenant":"t1","level":3,"list":[],"paid":true"#,
        );
        let read = verify_with(expected, &claims).unwrap();
        assert_eq!(read.subject(), "alice");
        assert_eq!((read.issuer(), read.key_id()), ("https://issuer.example/", "one"));
        assert_eq!(read.scopes().collect::<Vec<_>>(), ["read", "write"]);
        assert_eq!(read.roles().collect::<Vec<_>>(), ["a", "bb"]);
        assert!(
            read.has_scope("write")
                && !read.has_scope("writ")
                && read.has_role("bb")
                && !read.has_role("read")
        );
        assert_eq!((read.kept(0), read.kept(1), read.kept(2)), (Some("t1"), Some("3"), None));
        assert_eq!((read.kept(3), read.kept(4), read.kept(5)), (None, Some("true"), None));
        assert_eq!(read.json(), claims);
        assert_eq!((read.expires_s(), read.validity().ends_s()), (NOW_S + 60, NOW_S + 90));
    }

    #[test]
    fn scopes_may_be_a_list_and_roles_one_text() {
        let claims = verify(&with(r#""scope":["read","write all"],"roles":"admin user""#)).unwrap();
        assert_eq!(claims.scopes().collect::<Vec<_>>(), ["read", "write all"]);
        assert_eq!(claims.roles().collect::<Vec<_>>(), ["admin user"]);
        for wrong in [r#""scope":7"#, r#""scope":[1]"#, r#""scope":{"read":true}"#, r#""roles":true"#] {
            assert_eq!(verify(&with(wrong)), Err(&TOKEN_CLAIMS), "{wrong}");
        }
        let many = |count| format!(r#""scope":"{}""#, "s ".repeat(count));
        assert_eq!(verify(&with(&many(GRANTS_MAX))).unwrap().scopes().count(), GRANTS_MAX);
        assert_eq!(verify(&with(&many(GRANTS_MAX + 1))), Err(&TOKEN_CLAIMS));
    }

    #[test]
    fn issuer_and_audience_must_be_the_expected() {
        for (claims, reason) in [
            (r#"{"aud":"orders","sub":"a","exp":1800000060}"#, &TOKEN_ISSUER),
            (r#"{"iss":"https://issuer.example","aud":"orders","sub":"a","exp":1800000060}"#, &TOKEN_ISSUER),
            (
                r#"{"iss":["https://issuer.example/"],"aud":"orders","sub":"a","exp":1800000060}"#,
                &TOKEN_CLAIMS,
            ),
            (r#"{"iss":"https://issuer.example/","sub":"a","exp":1800000060}"#, &TOKEN_AUDIENCE),
            (
                r#"{"iss":"https://issuer.example/","aud":"Orders","sub":"a","exp":1800000060}"#,
                &TOKEN_AUDIENCE,
            ),
            (r#"{"iss":"https://issuer.example/","aud":[],"sub":"a","exp":1800000060}"#, &TOKEN_AUDIENCE),
            (
                r#"{"iss":"https://issuer.example/","aud":["orders",1],"sub":"a","exp":1800000060}"#,
                &TOKEN_CLAIMS,
            ),
            (
                r#"{"iss":"https://issuer.example/","aud":{"orders":1},"sub":"a","exp":1800000060}"#,
                &TOKEN_CLAIMS,
            ),
            (
                r#"{"iss":"https://issuer.example/","aud":["x","y"],"sub":"a","exp":1800000060}"#,
                &TOKEN_AUDIENCE,
            ),
        ] {
            assert_eq!(verify(claims), Err(reason), "{claims}");
        }
        let listed = r#"{"iss":"https://issuer.example/","aud":["x","orders"],"sub":"a","exp":1800000060}"#;
        assert!(verify(listed).is_ok());
        assert!(Verifier::new(Expectations { issuer: String::new(), ..expectations() }).is_err());
        assert!(Verifier::new(Expectations { audiences: vec![], ..expectations() }).is_err());
        assert!(Verifier::new(Expectations { audiences: vec![String::new()], ..expectations() }).is_err());
    }

    #[test]
    fn dates_are_checked_to_the_second_with_skew() {
        let at = |name: &str, offset: i64| with(&format!("\"{name}\":{}", NOW_S as i64 + offset));
        assert!(verify(&at("exp", -29)).is_ok());
        assert_eq!(verify(&at("exp", -30)), Err(&TOKEN_EXPIRED));
        for name in ["nbf", "iat"] {
            assert!(verify(&at(name, 30)).is_ok());
            assert_eq!(verify(&at(name, 31)), Err(&TOKEN_NOT_YET));
        }
        let no_exp = r#"{"iss":"https://issuer.example/","aud":"orders","sub":"a"}"#;
        assert_eq!(verify(no_exp), Err(&TOKEN_CLAIMS));

        let aged = || Expectations { age_s_max: Some(100), ..expectations() };
        assert!(verify_with(aged(), &at("iat", -129)).is_ok());
        assert_eq!(verify_with(aged(), &at("iat", -130)), Err(&TOKEN_AGE));
        assert_eq!(verify_with(aged(), &with("")), Err(&TOKEN_AGE));
    }

    #[test]
    fn dates_that_are_no_dates_are_refused() {
        for number in [
            "1e400",
            "-1",
            "-1800000060",
            "1e308",
            "253402300800",
            "99999999999999999999",
            "\"1800000060\"",
            "null",
            "true",
            "[1800000060]",
            "{}",
            "-0.5",
            "18446744073709551616",
            "18446744073709551615",
        ] {
            assert_eq!(verify(&with(&format!("\"exp\":{number}"))), Err(&TOKEN_CLAIMS), "{number}");
        }
        assert_eq!(verify(&with("\"exp\":0")), Err(&TOKEN_EXPIRED));
        assert_eq!(verify(&with("\"exp\":1e-400")), Err(&TOKEN_EXPIRED));
        for number in ["253402300799", "1.8e9", "1800000060.9", "18E8", "1800000000.0"] {
            assert!(verify(&with(&format!("\"exp\":{number}"))).is_ok(), "{number}");
        }
        // 1799999970.9 ends in the second 1799999970, the one that is 30 seconds of skew ago.
        assert_eq!(verify(&with("\"exp\":1799999970.9")), Err(&TOKEN_EXPIRED));
        assert_eq!(verify(&with("\"nbf\":1800000030.1")), Err(&TOKEN_NOT_YET));
    }

    #[test]
    fn claims_are_not_ambiguous() {
        for more in [
            r#""sub":"bob""#,
            r#""\u0073ub":"bob""#,
            r#""exp":1800000060,"exp":1900000000"#,
            r#""x":{"a":1,"a":2}"#,
            r#""scope":"a","scope":"b""#,
        ] {
            assert_eq!(verify(&with(more)), Err(&TOKEN_CLAIMS), "{more}");
        }
        for payload in ["", "[]", "null", "\"x\"", "{", "{}x", "\u{feff}{}"] {
            assert_eq!(verify(payload), Err(&TOKEN_CLAIMS), "{payload}");
        }
        let deep = |depth: usize| with(&format!("\"x\":{}{}", "[".repeat(depth), "]".repeat(depth)));
        assert!(verify(&deep(15)).is_ok());
        assert_eq!(verify(&deep(16)), Err(&TOKEN_CLAIMS));
        assert_eq!(verify(&deep(2000)), Err(&TOKEN_CLAIMS));
    }

    #[test]
    fn a_subject_is_needed_and_is_clean() {
        let subject = |json: &str| with("").replace("\"alice\"", json);
        assert_eq!(verify(&subject("\"\"")), Err(&TOKEN_SUBJECT));
        assert_eq!(verify(&with("").replace(r#","sub":"alice""#, "")), Err(&TOKEN_SUBJECT));
        assert_eq!(verify(&subject("7")), Err(&TOKEN_CLAIMS));
        for unclean in [r#""a\r\nX-Admin: 1""#, r#""a\u0000""#, r#""\u007f""#, r#""\u0085""#] {
            assert_eq!(verify(&subject(unclean)), Err(&TOKEN_CLAIMS), "{unclean}");
        }
        assert_eq!(verify(&subject(r#""jos\u00e9""#)).unwrap().subject(), "josé");
    }

    #[test]
    fn only_access_tokens_are_accepted() {
        let kind = |expected: Option<&str>, typ: &str| {
            let header = format!(r#"{{"alg":"HS256","kid":"one"{typ}}}"#);
            let expected = Expectations { kind: expected.map(Into::into), ..expectations() };
            let token = sign_hs256(&header, &with(""));
            Verifier::new(expected).unwrap().verify(token.as_bytes(), &hs256_set(), NOW_S).map(|_| ())
        };
        for typ in
            ["", r#","typ":"JWT""#, r#","typ":"jwt""#, r#","typ":"at+jwt""#, r#","typ":"application/at+JWT""#]
        {
            assert_eq!(kind(None, typ), Ok(()), "{typ}");
        }
        for typ in [r#","typ":"logout+jwt""#, r#","typ":"dpop+jwt""#, r#","typ":"""#, r#","typ":"JOSE""#] {
            assert_eq!(kind(None, typ), Err(VerifyError::Refused(&TOKEN_TYPE)), "{typ}");
        }
        assert_eq!(kind(Some("at+jwt"), r#","typ":"Application/AT+jwt""#), Ok(()));
        for typ in ["", r#","typ":"JWT""#] {
            assert_eq!(kind(Some("at+jwt"), typ), Err(VerifyError::Refused(&TOKEN_TYPE)), "{typ}");
        }
    }

    #[test]
    fn the_fit_chooses_between_logins() {
        let verifier = Verifier::new(expectations()).unwrap();
        let fit = |claims: &str| verifier.fit(sign_hs256("{}", claims).as_bytes());
        assert_eq!(fit(&with("")), 2);
        assert_eq!(fit(&with("").replace("orders", "other")), 1);
        assert_eq!(fit(&with("").replace("issuer.example", "other.example")), 0);
        assert_eq!(verifier.fit(b"a.b.c") + verifier.fit(b"") + verifier.fit(b"..") + fit("[]"), 0);
    }

    #[test]
    fn the_fingerprint_follows_the_expectations() {
        let one = Verifier::new(expectations()).unwrap().fingerprint();
        assert_eq!(one, Verifier::new(expectations()).unwrap().fingerprint());
        let other = Expectations { skew_s: 31, ..expectations() };
        assert_ne!(one, Verifier::new(other).unwrap().fingerprint());
    }
}
