//! Which credential a request presents: exactly one, or none.
//!
//! Not for checking it. Called by the identify stage with the logins that the request's API names: a field
//! that no login of the API reads is the upstream's business and passes untouched.
//!
//! **No fall-through** (AN-17). A credential that is present is the one that is checked. A bad one refuses
//! the request; it never makes the request anonymous and never gives way to another. Two of different kinds,
//! or one kind twice, are refused: which of them the upstream, a log or a limit would go by is anybody's
//! guess, and guesses differ.

use crate::http::Reason;
use crate::http::scan::is_token68;

/// More than one credential.
pub const CREDENTIAL_AMBIGUOUS: Reason =
    Reason::client("credential_ambiguous", 3001, 400, "The request presents more than one credential");
/// A credential that cannot be read, or of a scheme that no login takes.
pub const CREDENTIAL_UNREADABLE: Reason = Reason::client(
    "credential_unreadable",
    3018,
    401,
    "The credential cannot be read or is of another scheme",
);

/// The credentials an API's logins take.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sought {
    /// `Authorization: Bearer`.
    pub bearer: bool,
    /// The fields that hold an API key, case ignored; at most a handful.
    pub key_fields: Vec<Box<str>>,
    /// The certificate of the connection, which is no field.
    pub certificate: bool,
}

/// A credential as it was presented, not yet checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credential<'h> {
    /// The token of `Authorization: Bearer`.
    Bearer(&'h [u8]),
    /// The value of the field at this place of [`Sought::key_fields`].
    ApiKey {
        /// Which field.
        field: usize,
        /// Its value, without white space around it.
        key: &'h [u8],
    },
}

impl Sought {
    /// The one credential among `fields` (name, value) and the place of its field, or `None`.
    ///
    /// O(fields); no allocation.
    ///
    /// # Errors
    /// [`CREDENTIAL_AMBIGUOUS`] or [`CREDENTIAL_UNREADABLE`].
    pub fn find<'h>(
        &self,
        fields: impl IntoIterator<Item = (&'h [u8], &'h [u8])>,
    ) -> Result<Option<(usize, Credential<'h>)>, &'static Reason> {
        let mut found = None;
        for (place, (name, value)) in fields.into_iter().enumerate() {
            let credential = if self.bearer && name.eq_ignore_ascii_case(b"authorization") {
                bearer(value).map(Credential::Bearer)
            } else if let Some(field) = self.key_field(name) {
                Some(Credential::ApiKey { field, key: value.trim_ascii() })
            } else {
                continue;
            };
            // The count comes before the content: two are too many even if one of them cannot be read.
            if found.replace((place, credential)).is_some() {
                return Err(&CREDENTIAL_AMBIGUOUS);
            }
        }
        match found {
            None => Ok(None),
            Some((_, None)) => Err(&CREDENTIAL_UNREADABLE),
            Some((place, Some(credential))) => Ok(Some((place, credential))),
        }
    }

    /// The value of `WWW-Authenticate`; `is_bad` where a credential was presented and did not hold.
    ///
    /// RFC 6750 §3: a request without a credential is told the scheme only, one with a bad token the error.
    /// An API key has no registered scheme; RFC 9110 §11.6.1 wants a challenge in every 401, so it has one of
    /// ours that names the field.
    pub fn challenge(&self, is_bad: bool) -> String {
        let mut challenge = String::new();
        if self.bearer {
            challenge.push_str("Bearer");
            if is_bad {
                challenge.push_str(" error=\"invalid_token\"");
            }
        }
        for field in &self.key_fields {
            if !challenge.is_empty() {
                challenge.push_str(", ");
            }
            challenge.push_str("ApiKey field=\"");
            challenge.push_str(field);
            challenge.push('"');
        }
        // Nor has a certificate one. It is shown in the handshake, so this only says what is wanted.
        if self.certificate {
            if !challenge.is_empty() {
                challenge.push_str(", ");
            }
            challenge.push_str("ClientCertificate");
        }
        challenge
    }

    fn key_field(&self, name: &[u8]) -> Option<usize> {
        self.key_fields.iter().position(|field| name.eq_ignore_ascii_case(field.as_bytes()))
    }
}

/// The token of `Bearer SP token` (RFC 6750 §2.1), or `None` for another scheme or form.
pub fn bearer(value: &[u8]) -> Option<&[u8]> {
    let value = value.trim_ascii();
    let (scheme, rest) = value.split_at_checked(6)?;
    // RFC 9110 §11.1: the scheme ignores case.
    if !scheme.eq_ignore_ascii_case(b"bearer") || rest.first() != Some(&b' ') {
        return None;
    }
    // RFC 9110 §11.4: 1*SP between scheme and token.
    let token = rest.trim_ascii_start();
    let end = token.iter().rposition(|byte| *byte != b'=')? + 1;
    is_token68(&token[..end]).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sought() -> Sought {
        let key_fields = vec!["X-API-Key".into(), "X-Partner-Key".into()];
        Sought { bearer: true, key_fields, certificate: false }
    }

    fn find<'h>(fields: &[(&'h str, &'h str)]) -> Result<Option<Credential<'h>>, &'static Reason> {
        let found = sought().find(fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())));
        found.map(|found| found.map(|(_, credential)| credential))
    }

    #[test]
    fn one_credential_is_found_wherever_it_stands() {
        assert_eq!(find(&[]), Ok(None));
        assert_eq!(find(&[("Accept", "*/*"), ("X-Authorization", "Bearer a")]), Ok(None));
        assert_eq!(
            find(&[("host", "a"), ("AUTHORIZATION", "bEARER  a.b.c ")]),
            Ok(Some(Credential::Bearer(b"a.b.c")))
        );
        let key = Credential::ApiKey { field: 1, key: b"k" };
        assert_eq!(find(&[("x-partner-KEY", " k\t"), ("accept", "")]), Ok(Some(key)));
    }

    #[test]
    fn what_is_not_a_bearer_token_is_refused_and_not_ignored() {
        for value in [
            "",
            " ",
            "Bearer",
            "Bearer ",
            "Bearer\ta",
            "Bearer  ",
            "Bearera",
            "Bearer a b",
            "Bearer a,b",
            "Bearer =",
            "Bearer a=b",
            "Bearer \"a\"",
            "Bearer a\u{e9}",
            "Basic YTpi",
            "Digest x",
            "a.b.c",
            "Token a",
            "Bearer a\0",
        ] {
            assert_eq!(find(&[("Authorization", value)]), Err(&CREDENTIAL_UNREADABLE), "{value:?}");
        }
        assert_eq!(find(&[("Authorization", "Bearer a==")]), Ok(Some(Credential::Bearer(b"a=="))));
    }

    #[test]
    fn the_place_of_the_field_is_told() {
        let found = sought().find([(&b"a"[..], &b"b"[..]), (b"x-api-key", b"k")]);
        assert_eq!(found, Ok(Some((1, Credential::ApiKey { field: 0, key: b"k" }))));
    }

    #[test]
    fn fields_that_no_login_reads_pass() {
        let keys_only = Sought { key_fields: vec!["X-API-Key".into()], ..Sought::default() };
        assert_eq!(keys_only.find([(&b"Authorization"[..], &b"Basic YTpi"[..])]), Ok(None));
        let nothing = Sought::default();
        assert_eq!(nothing.find([(&b"X-API-Key"[..], &b"a"[..]), (b"Authorization", b"Bearer a")]), Ok(None));
    }

    /// AN-17: what is in the two fields, in every combination, against what comes of it.
    #[test]
    fn the_truth_table_has_no_fall_through() {
        let tokens: [&[&str]; 5] =
            [&[], &["Bearer a"], &["Basic a"], &["Bearer a", "Bearer a"], &["Basic a", "Bearer a"]];
        let keys: [&[&str]; 4] = [&[], &["k"], &[""], &["k", "k"]];
        for token in tokens {
            for key in keys {
                let fields = token.iter().map(|value| ("Authorization", *value));
                let fields: Vec<_> = fields.chain(key.iter().map(|value| ("X-API-Key", *value))).collect();
                let expected = match (token, key) {
                    ([], []) => Ok(None),
                    (["Bearer a"], []) => Ok(Some(Credential::Bearer(b"a"))),
                    ([_], []) => Err(&CREDENTIAL_UNREADABLE),
                    // An empty key is a credential, and a bad one: the key store refuses it.
                    ([], [key]) => Ok(Some(Credential::ApiKey { field: 0, key: key.as_bytes() })),
                    _ => Err(&CREDENTIAL_AMBIGUOUS),
                };
                assert_eq!(find(&fields), expected, "{fields:?}");
                let reversed: Vec<_> = fields.iter().rev().copied().collect();
                assert_eq!(find(&reversed), expected, "{reversed:?}");
            }
        }
        assert_eq!(find(&[("X-API-Key", "k"), ("X-Partner-Key", "k")]), Err(&CREDENTIAL_AMBIGUOUS));
    }

    #[test]
    fn every_401_has_a_challenge() {
        let both = sought();
        assert_eq!(
            both.challenge(false),
            "Bearer, ApiKey field=\"X-API-Key\", ApiKey field=\"X-Partner-Key\""
        );
        let bearer = Sought { bearer: true, ..Sought::default() };
        assert_eq!(bearer.challenge(false), "Bearer");
        let certificate = Sought { certificate: true, ..Sought::default() };
        assert_eq!(certificate.challenge(true), "ClientCertificate");
        assert!(Sought { certificate: true, ..sought() }.challenge(false).ends_with("\", ClientCertificate"));
        assert_eq!(bearer.challenge(true), "Bearer error=\"invalid_token\"");
    }
}
