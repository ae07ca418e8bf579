//! What must not reach a log although a client sent it: credentials in queries, paths and other strings.
//!
//! For: the writer thread. Not for: fields such as `Authorization` and `Cookie`; no record carries them. Redaction is
//! by name (a parameter that is called like a secret) and by shape (a JSON Web Token, a key of ours). It is a net
//! under the operator, not a promise: a secret under an innocent name and of no known shape is not seen.

use std::borrow::Cow;

/// Stands where a secret stood.
pub(super) const REDACTED: &[u8] = b"REDACTED";

/// Longest parameter name that is looked at, decoded bytes; a longer one is taken for a secret's.
const NAME_BYTES_MAX: usize = 64;

/// A parameter is a secret's if its name goes on like this at any place where `first` stands; `-`, `_`, `.`, brackets
/// and case do not count.
fn part_goes_on(first: u8, rest: &[u8]) -> bool {
    let starts = |parts: &[&[u8]]| parts.iter().any(|part| rest.starts_with(part));
    match first {
        b't' => rest.starts_with(b"oken"),
        b's' => starts(&[
            b"ecret",
            b"ession",
            b"ignature",
            b"igningkey",
            b"amlre",
            b"haredkey",
            b"ubscriptionkey",
        ]),
        b'p' => starts(&[b"assw", b"assphrase", b"rivatekey"]),
        b'c' => starts(&[b"redential", b"ookie", b"odeverifier"]),
        b'a' => starts(&[b"uthorization", b"ssertion", b"pikey", b"ccesskey", b"uthkey"]),
        b'm' => rest.starts_with(b"asterkey"),
        b'e' => rest.starts_with(b"ncryptionkey"),
        _ => false,
    }
}

/// A parameter with exactly this name is a secret's.
fn is_name_of_secret(name: &[u8]) -> bool {
    matches!(
        name,
        b"key"
            | b"code"
            | b"sig"
            | b"auth"
            | b"jwt"
            | b"pwd"
            | b"pass"
            | b"pin"
            | b"otp"
            | b"totp"
            | b"sid"
            | b"ticket"
            | b"hmac"
            | b"nonce"
            | b"bearer"
            | b"csrf"
    )
}

/// Appends a query (without `?`) with the values of secrets replaced; the names stay.
pub fn redact_query(query: &[u8], out: &mut Vec<u8>) {
    let mut rest = query;
    loop {
        // Some servers take `;` for `&`; a secret behind it is still a secret.
        let end = memchr::memchr2(b'&', b';', rest);
        let (parameter, after) = match end {
            Some(end) => (&rest[..end], Some(&rest[end..])),
            None => (rest, None),
        };
        redact_parameter(parameter, out);
        let Some((separator, after)) = after.and_then(|after| after.split_first()) else { return };
        out.push(*separator);
        rest = after;
    }
}

fn redact_parameter(parameter: &[u8], out: &mut Vec<u8>) {
    match memchr::memchr(b'=', parameter) {
        Some(equals) => {
            let (name, value) = (&parameter[..equals], &parameter[equals + 1..]);
            redact_shapes(name, out);
            out.push(b'=');
            if !value.is_empty() && name_is_secret(name) {
                out.extend_from_slice(REDACTED);
            } else {
                redact_shapes(value, out);
            }
        }
        None => redact_shapes(parameter, out),
    }
}

/// Whether a parameter is called like a secret.
fn name_is_secret(name: &[u8]) -> bool {
    let mut plain = [0; NAME_BYTES_MAX];
    let mut length = 0;
    for byte in Decoded(name) {
        if matches!(byte, b'-' | b'_' | b'.' | b'[' | b']' | b' ' | b'+' | b'$') {
            continue;
        }
        let Some(place) = plain.get_mut(length) else { return true };
        *place = byte.to_ascii_lowercase();
        length += 1;
    }
    let plain = &plain[..length];
    is_name_of_secret(plain)
        || (0..plain.len().saturating_sub(4)).any(|at| part_goes_on(plain[at], &plain[at + 1..]))
}

/// Appends text with everything replaced that has the shape of a JSON Web Token or of one of our keys.
pub(super) fn redact_shapes(text: &[u8], out: &mut Vec<u8>) {
    if !may_hold_a_shape(text) {
        return out.extend_from_slice(text);
    }
    let mut rest = text;
    while let Some(start) = shape_start(rest) {
        out.extend_from_slice(&rest[..start]);
        out.extend_from_slice(REDACTED);
        let secret = &rest[start..];
        let end = secret.iter().position(|byte| !in_token(*byte)).unwrap_or(secret.len());
        rest = &secret[end..];
    }
    out.extend_from_slice(rest);
}

/// A text with no shape in it is almost always told by this one look.
fn may_hold_a_shape(text: &[u8]) -> bool {
    text.len() >= 8 && memchr::memchr3(b'J', b'_', b'%', text).is_some()
}

/// Where a token or key starts: `rwk_` anywhere, or at the start of a word `eyJ` (base64url of `{"`) with at least ten
/// more such bytes; both also percent-encoded.
fn shape_start(text: &[u8]) -> Option<usize> {
    (0..text.len()).find(|at| {
        if !matches!(text[*at], b'r' | b'R' | b'e' | b'%') {
            return false;
        }
        let mut decoded = Decoded(&text[*at..]);
        match [decoded.next(), decoded.next(), decoded.next()] {
            [Some(b'r' | b'R'), Some(b'w' | b'W'), Some(b'k' | b'K')] => decoded.next() == Some(b'_'),
            [Some(b'e'), Some(b'y'), Some(b'J')] => {
                starts_a_word(text, *at)
                    && decoded.take_while(|byte| base64url(*byte) || *byte == b'.').count() >= 10
            }
            _ => false,
        }
    })
}

/// Whether what stands before `at` is no letter or digit, or is an escape (`Bearer%20eyJ…`).
fn starts_a_word(text: &[u8], at: usize) -> bool {
    let before = &text[..at];
    before.last().is_none_or(|byte| !byte.is_ascii_alphanumeric())
        || at >= 3 && text[at - 3] == b'%' && hex(text[at - 2]).is_some() && hex(text[at - 1]).is_some()
}

fn base64url(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')
}

/// What belongs to a token, percent-encoded or not.
fn in_token(byte: u8) -> bool {
    base64url(byte) || matches!(byte, b'.' | b'~' | b'%' | b'=' | b'+')
}

/// The bytes of a percent-encoded text; a bad escape stands for itself.
#[derive(Clone)]
struct Decoded<'a>(&'a [u8]);

impl Iterator for Decoded<'_> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        if *first == b'%'
            && let [high, low, after @ ..] = rest
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            self.0 = after;
            return Some(high << 4 | low);
        }
        self.0 = rest;
        Some(*first)
    }
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}

/// A path with shapes replaced; borrowed if there are none.
pub(super) fn redacted(text: &[u8]) -> Cow<'_, [u8]> {
    if !may_hold_a_shape(text) || shape_start(text).is_none() {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    redact_shapes(text, &mut out);
    Cow::Owned(out)
}

/// A URL (a `Referer`) with its query and shapes redacted, and user information removed.
pub(super) fn redact_url(url: &[u8], out: &mut Vec<u8>) {
    let (before, query) = match memchr::memchr(b'?', url) {
        Some(at) => (&url[..at], Some(&url[at + 1..])),
        None => (url, None),
    };
    // RFC 3986 §3.2.1: `user:password@` ends at the last `@` of the authority.
    let authority = before.windows(3).position(|window| window == b"://").map_or(0, |at| at + 3);
    let authority_end =
        before[authority..].iter().position(|byte| *byte == b'/').map_or(before.len(), |at| authority + at);
    match before[authority..authority_end].iter().rposition(|byte| *byte == b'@') {
        Some(at) => {
            out.extend_from_slice(&before[..authority]);
            out.extend_from_slice(REDACTED);
            redact_shapes(&before[authority + at..], out);
        }
        None => redact_shapes(before, out),
    }
    if let Some(query) = query {
        out.push(b'?');
        let (query, fragment) = match memchr::memchr(b'#', query) {
            Some(at) => (&query[..at], Some(&query[at + 1..])),
            None => (query, None),
        };
        redact_query(query, out);
        // The fragment of an implicit grant holds the token (RFC 6749 §4.2.2).
        if let Some(fragment) = fragment {
            out.push(b'#');
            redact_query(fragment, out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn query(text: &str) -> String {
        let mut out = Vec::new();
        redact_query(text.as_bytes(), &mut out);
        String::from_utf8(out).expect("the input was text")
    }

    #[test]
    fn secrets_are_known_by_their_name() {
        for name in [
            "token",
            "key",
            "secret",
            "password",
            "code",
            "access_token",
            "sig",
            "api_key",
            "apikey",
            "API-KEY",
            "X-Amz-Signature",
            "X-Amz-Credential",
            "X-Amz-Security-Token",
            "client_secret",
            "refresh_token",
            "id_token",
            "SAMLResponse",
            "user[password]",
            "%74oken",
            "access%5Ftoken",
            "jwt",
            "auth",
            "sessionid",
            "Ocp-Apim-Subscription-Key",
            "passwd",
            "code_verifier",
            "X-Goog-Signature",
        ] {
            assert_eq!(query(&format!("a=1&{name}=hunter2&b=2")), format!("a=1&{name}=REDACTED&b=2"));
            assert_eq!(query(&format!("{name}=hunter2;b=2")), format!("{name}=REDACTED;b=2"));
        }
        assert_eq!(query(&format!("{}=x", "n".repeat(65))), format!("{}=REDACTED", "n".repeat(65)));
    }

    #[test]
    fn innocent_parameters_stay() {
        for text in [
            "",
            "a",
            "a=b",
            "page=2&size=50&sort=-created",
            "&&==&",
            "keyword=shoes",
            "monkeys=3",
            "zipcode=8000",
            "country_code=CH",
            "design=1",
            "q=eyJ",
            "q=eyJa",
            "q=grey_eyJack",
            "token=",
            "assigned=me",
            "q=%",
            "monkey=1",
            "sort_key=2",
            "state=open",
            "q=%4",
            "q=a_b_c_d_e_f_g",
        ] {
            assert_eq!(query(text), text);
        }
    }

    #[test]
    fn tokens_and_keys_are_known_by_their_shape() {
        const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
        const KEY: &str = "rwk_abcdefgh_0123456789012345678901234567890123456789012abcdef";
        for (text, expected) in [
            (format!("q={JWT}&b=1"), "q=REDACTED&b=1".to_owned()),
            (format!("q=Bearer%20{JWT}"), "q=Bearer%20REDACTED".to_owned()),
            (KEY.to_owned(), "REDACTED".to_owned()),
            (format!("{KEY}=1"), "REDACTED=1".to_owned()),
            (format!("q=a{KEY}"), "q=aREDACTED".to_owned()),
            (KEY.replace('_', "%5F"), "REDACTED".to_owned()),
            ("q=eyJhbGciOiJIUz".to_owned(), "q=REDACTED".to_owned()),
            ("q=%65%79%4AhbGciOiJIUz".to_owned(), "q=REDACTED".to_owned()),
        ] {
            assert_eq!(query(&text), expected);
        }
        assert_eq!(redacted(format!("/files/{JWT}/x").as_bytes()).as_ref(), b"/files/REDACTED/x");
        assert_eq!(redacted(format!("/files/{KEY}").as_bytes()).as_ref(), b"/files/REDACTED");
        assert!(matches!(redacted(b"/v1/orders/J_r_e_y"), Cow::Borrowed(_)));
    }

    #[test]
    fn urls_lose_user_information_and_secrets() {
        let url = |text: &str| {
            let mut out = Vec::new();
            redact_url(text.as_bytes(), &mut out);
            String::from_utf8(out).expect("text")
        };
        assert_eq!(
            url("https://a.example/p?x=1&token=2#access_token=3&y=4"),
            "https://a.example/p?x=1&token=REDACTED#access_token=REDACTED&y=4"
        );
        assert_eq!(url("https://user:pass@a.example/@p"), "https://REDACTED@a.example/@p");
        assert_eq!(url("/only/a/path"), "/only/a/path");
        assert_eq!(url(""), "");
    }
}
