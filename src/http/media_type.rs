//! The media type of a message, read so that nobody who reads it again finds another one.
//!
//! For: whoever judges `Content-Type`, whatever the codec. Not for: what the content really is, nor the parts of a multipart
//! body.
//!
//! Stricter than RFC 9110 §8.3.1 where readers differ: no parameter twice, no RFC 2231 forms (`charset*=`, `boundary*0=`), no
//! backslash in a quoted string, a boundary of the characters of RFC 2046 §5.1.1 but the space. Cost: one pass, no
//! allocation.

use crate::http::{Reason, scan};

/// Two fields that say what the body is. Refused wherever heads are read: no server knows which of them the next one takes.
pub const CONTENT_TYPE_DUPLICATE: Reason =
    Reason::client("content_type_duplicate", 3371, 415, "Content-Type was sent more than once");

/// Most parameters of a media type.
pub const PARAMETERS_MAX: usize = 8;
/// Most bytes of a boundary (RFC 2046 §5.1.1).
pub const BOUNDARY_BYTES_MAX: usize = 70;

/// What is wrong with a media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It is not `type/subtype` with well-formed parameters, each once.
    Syntax,
    /// It is multipart without a boundary that all readers find alike, or has a boundary without being multipart.
    Boundary,
}

/// A media type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaType<'a> {
    /// `type/subtype`, in the case in which it was sent.
    pub essence: &'a [u8],
    /// The value of `charset`, without quotes.
    pub charset: Option<&'a [u8]>,
    /// The value of `boundary`, without quotes; only of multipart types.
    pub boundary: Option<&'a [u8]>,
}

impl<'a> MediaType<'a> {
    /// Reads the value of a `Content-Type` field.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(value: &'a [u8]) -> Result<MediaType<'a>, Flaw> {
        let end = value.iter().position(|&byte| byte == b';').unwrap_or(value.len());
        let (essence, mut rest) = value.split_at(end);
        let essence = essence.trim_ascii_end();
        if !is_essence(essence) {
            return Err(Flaw::Syntax);
        }
        let mut found = MediaType { essence, charset: None, boundary: None };
        let mut names: [&[u8]; PARAMETERS_MAX] = [&[]; PARAMETERS_MAX];
        let mut count = 0;
        let mut holes = false;
        // RFC 9110 §5.6.6: *( OWS ";" OWS [ parameter ] ), and no white space around the `=`.
        while let Some(behind) = rest.strip_prefix(b";") {
            let behind = trim_start(behind);
            if behind.is_empty() || behind.starts_with(b";") {
                holes = true;
                rest = behind;
                continue;
            }
            let (name, argument, after) = parameter(behind).ok_or(Flaw::Syntax)?;
            if names[..count].iter().any(|known| known.eq_ignore_ascii_case(name)) {
                return Err(Flaw::Syntax);
            }
            *names.get_mut(count).ok_or(Flaw::Syntax)? = name;
            count += 1;
            if name.eq_ignore_ascii_case(b"charset") {
                found.charset = Some(argument);
            } else if name.eq_ignore_ascii_case(b"boundary") {
                found.boundary = Some(argument);
            }
            rest = trim_start(after);
        }
        if !rest.is_empty() {
            return Err(Flaw::Syntax);
        }
        match (found.is_multipart(), found.boundary) {
            // Some readers stop at an empty parameter and never see the boundary behind it.
            (true, Some(boundary)) if is_boundary(boundary) && !holes => Ok(found),
            (false, None) => Ok(found),
            _ => Err(Flaw::Boundary),
        }
    }

    /// Whether it is `essence`, whatever the case.
    pub fn is(&self, essence: &[u8]) -> bool {
        self.essence.eq_ignore_ascii_case(essence)
    }

    /// Whether it is `application/json`, or has the suffix `+json` (RFC 6839 §3.1).
    pub fn is_json(&self) -> bool {
        const SUFFIX: &[u8] = b"+json";
        let suffix = self.essence.len().checked_sub(SUFFIX.len()).and_then(|at| self.essence.get(at..));
        self.is(b"application/json") || suffix.is_some_and(|end| end.eq_ignore_ascii_case(SUFFIX))
    }

    /// Whether it has parts.
    pub fn is_multipart(&self) -> bool {
        self.essence.get(..10).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/"))
    }

    /// Whether readers are told to look at the content instead (WHATWG MIME Sniffing §7.1), or it is no type but a range.
    pub fn is_sniffed(&self) -> bool {
        const SNIFFED: [&[u8]; 2] = [b"unknown/unknown", b"application/unknown"];
        SNIFFED.iter().any(|essence| self.is(essence)) || self.essence.contains(&b'*')
    }
}

/// `type/subtype`, both tokens.
fn is_essence(essence: &[u8]) -> bool {
    let Some(slash) = essence.iter().position(|&byte| byte == b'/') else { return false };
    let (kind, subtype) = essence.split_at(slash);
    scan::is_token(kind) && scan::is_token(&subtype[1..])
}

/// Name, value and what is behind them.
fn parameter(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    let end = scan::token(bytes, 0);
    let (name, rest) = bytes.split_at(end);
    // RFC 2231 forms are none of HTTP's: one reader joins `boundary*0`, the next takes it for another parameter.
    if name.is_empty() || name.contains(&b'*') {
        return None;
    }
    let rest = rest.strip_prefix(b"=")?;
    if let Some(quoted) = rest.strip_prefix(b"\"") {
        let end = quoted.iter().position(|&byte| byte == b'"')?;
        let (value, after) = quoted.split_at(end);
        let plain = value.iter().all(|&byte| matches!(byte, b' '..=b'~') && byte != b'\\');
        return plain.then_some((name, value, &after[1..]));
    }
    let end = scan::token(rest, 0);
    let (value, after) = rest.split_at(end);
    (!value.is_empty()).then_some((name, value, after))
}

/// RFC 2046 §5.1.1, without the space: no client makes one, and readers cut there.
fn is_boundary(boundary: &[u8]) -> bool {
    (1..=BOUNDARY_BYTES_MAX).contains(&boundary.len())
        && boundary.iter().all(|&byte| byte.is_ascii_alphanumeric() || b"'()+_,-./:=?".contains(&byte))
}

fn trim_start(bytes: &[u8]) -> &[u8] {
    let blank = bytes.iter().position(|byte| !matches!(byte, b' ' | b'\t')).unwrap_or(bytes.len());
    &bytes[blank..]
}

/// Whatever is accepted means the same when it is written anew in the plainest form. For [`crate::fuzzing`].
pub fn law(value: &[u8]) {
    let Ok(found) = MediaType::parse(value) else { return };
    let mut plain = found.essence.to_ascii_lowercase();
    for (name, value) in [("charset", found.charset), ("boundary", found.boundary)] {
        let Some(value) = value else { continue };
        assert!(!value.contains(&b'"') && !value.contains(&b'\\'));
        plain.extend_from_slice(format!("; {name}=\"").as_bytes());
        plain.extend_from_slice(value);
        plain.push(b'"');
    }
    let again = MediaType::parse(&plain).expect("it was accepted before");
    assert!(again.is(found.essence));
    assert_eq!((again.charset, again.boundary), (found.charset, found.boundary));
    assert_eq!((again.is_json(), again.is_multipart()), (found.is_json(), found.is_multipart()));
    assert_eq!(found.is_multipart(), found.boundary.is_some());
    assert!(found.boundary.is_none_or(|boundary| boundary.len() <= BOUNDARY_BYTES_MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(value: &str) -> Result<(&str, &str, &str), Flaw> {
        law(value.as_bytes());
        let found = MediaType::parse(value.as_bytes())?;
        Ok((text(Some(found.essence)), text(found.charset), text(found.boundary)))
    }

    fn text(bytes: Option<&[u8]>) -> &str {
        std::str::from_utf8(bytes.unwrap_or_default()).expect("ASCII")
    }

    #[test]
    fn well_formed_types_are_read() {
        for (value, expected) in [
            ("application/json", ("application/json", "", "")),
            ("Application/JSON ; Charset=utf-8", ("Application/JSON", "utf-8", "")),
            ("text/plain;charset=\"UTF-8\"", ("text/plain", "UTF-8", "")),
            ("application/json;", ("application/json", "", "")),
            ("application/json;; charset=utf-8", ("application/json", "utf-8", "")),
            ("a/b; p=\"; charset=utf-7\"; charset=utf-8", ("a/b", "utf-8", "")),
            (
                "multipart/form-data; boundary=----WebKitFormBoundary7MA4",
                ("multipart/form-data", "", "----WebKitFormBoundary7MA4"),
            ),
            (
                "multipart/mixed; boundary=\"gc0pJq0M:08jU534c0p\"",
                ("multipart/mixed", "", "gc0pJq0M:08jU534c0p"),
            ),
        ] {
            assert_eq!(parsed(value), Ok(expected), "{value}");
        }
    }

    #[test]
    fn what_readers_read_differently_is_refused() {
        for value in [
            "",
            "json",
            "application/",
            "/json",
            "application/json/x",
            "application/json, text/html",
            "application/json text/html",
            "application/json; charset",
            "application/json; charset=",
            "application/json; charset =utf-8",
            "application/json; charset= utf-8",
            "application/json; charset=utf-8; charset=utf-7",
            "application/json; charset=utf-8; CHARSET=utf-8",
            "application/json; charset*=utf-8''utf-7",
            "application/json; charset=\"utf\\-8\"",
            "application/json; charset=\"utf-8",
            "application/json; charset=\"utf-8\"x",
            "application/json; charset=\"ut\u{e9}\"",
            "application/json; a=1; b=1; c=1; d=1; e=1; f=1; g=1; h=1; i=1",
            "multipart/form-data; boundary=a; boundary=b",
            "multipart/form-data; boundary*0=a; boundary*1=b",
        ] {
            assert_eq!(parsed(value), Err(Flaw::Syntax), "{value}");
        }
        let longest = "b".repeat(BOUNDARY_BYTES_MAX);
        assert!(parsed(&format!("multipart/form-data; boundary={longest}")).is_ok());
        let too_long = format!("multipart/form-data; boundary={longest}b");
        for value in [
            "multipart/form-data",
            "multipart/form-data; charset=utf-8",
            "multipart/form-data; boundary=\"\"",
            "multipart/form-data; boundary=\"a b\"",
            "multipart/form-data; boundary=\"a \"",
            "multipart/form-data; boundary=\"a;b\"",
            "multipart/form-data; boundary=a#b",
            "multipart/form-data; boundary=a;",
            "multipart/form-data;; boundary=a",
            "MULTIPART/mixed",
            "application/json; boundary=a",
            "application/x-www-form-urlencoded; Boundary=a",
            &too_long,
        ] {
            assert_eq!(parsed(value), Err(Flaw::Boundary), "{value}");
        }
    }

    #[test]
    fn json_is_what_is_declared_as_json() {
        let is_json = |value: &str| MediaType::parse(value.as_bytes()).is_ok_and(|found| found.is_json());
        for json in ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"] {
            assert!(is_json(json), "{json}");
        }
        for other in ["", "text/plain", "application/x-www-form-urlencoded", "+json", "application/jsonx"] {
            assert!(!is_json(other), "{other}");
        }
    }

    #[test]
    fn whatever_is_accepted_is_the_same_written_plainly() {
        const PIECES: [&[u8]; 24] = [
            b";",
            b"; ",
            b"=",
            b"\"",
            b"\\",
            b"/",
            b" ",
            b"\t",
            b",",
            b"*",
            b"a",
            b"boundary",
            b"charset",
            b"utf-8",
            b"multipart/form-data",
            b"application/json",
            b"+json",
            b"text/plain",
            b"charset=utf-8",
            b"boundary=x",
            b"; boundary=\"",
            b"; charset=\"",
            b"\xff",
            b"=\"a;b\"",
        ];
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut accepted = 0;
        for _ in 0..200_000 {
            let mut value = Vec::new();
            for _ in 0..8 {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                value.extend_from_slice(PIECES[(state >> 33) as usize % PIECES.len()]);
                if state >> 60 == 0 {
                    break;
                }
                accepted += usize::from(MediaType::parse(&value).is_ok());
                law(&value);
            }
        }
        assert!(accepted > 1_000, "{accepted}");
    }

    #[test]
    fn types_that_say_nothing_are_known() {
        let is_sniffed = |value: &str| MediaType::parse(value.as_bytes()).expect(value).is_sniffed();
        for value in ["*/*", "application/*", "Unknown/Unknown", "application/unknown"] {
            assert!(is_sniffed(value), "{value}");
        }
        assert!(!is_sniffed("application/octet-stream"));
    }
}
