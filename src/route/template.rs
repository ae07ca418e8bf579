//! A path template, `/v1/orders/{id}`, read and checked.

use std::fmt;

use super::{PARAMETERS_MAX, TEMPLATE_BYTES_MAX};

/// A path template: what a path must look like, and what its parameters are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    pub(super) tokens: Vec<Token>,
    names: Vec<Box<str>>,
}

/// A step of matching. A segment's end is known by the slash that begins the next literal, or by the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// These very bytes, slashes included.
    Literal(Vec<u8>),
    /// A parameter and what follows it up to the end of its segment.
    Pattern(Pattern),
    /// A parameter up to the end of its segment.
    Parameter,
    /// A parameter up to the end of the path.
    Tail,
}

/// What follows each of a segment's parameters: `{a}-{b}.json` is `["-", ".json"]`, `{a}-{b}` is `["-", ""]`.
/// Only the last may be empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pattern(pub Vec<Box<[u8]>>);

/// Why a template or a base cannot be used. Offsets are in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TemplateError {
    /// It does not begin with a slash.
    NoSlash,
    /// It is longer than [`TEMPLATE_BYTES_MAX`].
    TooLong,
    /// It has more than [`PARAMETERS_MAX`] parameters.
    TooManyParameters,
    /// A brace without its partner.
    Brace(usize),
    /// A parameter without a name, or whose name has other bytes than `A-Z a-z 0-9 _ - .`.
    Name(usize),
    /// Two parameters of the same name.
    NameTwice(Box<str>),
    /// Two parameters with nothing between them.
    Adjacent(usize),
    /// `{+name}` that is not the whole last segment.
    Tail(usize),
    /// A byte that no canonical path has, unencoded or needlessly encoded; a query or fragment.
    Byte(usize),
    /// A segment that no canonical path has: empty within the path, `.` or `..`.
    Segment(usize),
    /// A base with parameters, or that ends with a slash.
    Base,
}

impl Template {
    /// Reads a template: literals as they stand in a canonical path, `{name}` for a parameter, `{+name}` for a tail.
    ///
    /// # Errors
    /// [`TemplateError`], the first from the left.
    pub fn parse(text: &str) -> Result<Template, TemplateError> {
        let bytes = text.as_bytes();
        if bytes.first() != Some(&b'/') {
            return Err(TemplateError::NoSlash);
        }
        if bytes.len() > TEMPLATE_BYTES_MAX {
            return Err(TemplateError::TooLong);
        }
        let mut template = Template { tokens: Vec::new(), names: Vec::new() };
        let mut literal = Vec::new();
        let mut at = 0;
        for (index, segment) in text.split('/').enumerate() {
            if index > 0 {
                literal.push(b'/');
                at += 1;
            }
            let is_last = at + segment.len() == bytes.len();
            if matches!(segment, "." | "..") || (segment.is_empty() && index > 0 && !is_last) {
                return Err(TemplateError::Segment(at));
            }
            template.segment(segment, at, is_last, &mut literal)?;
            at += segment.len();
        }
        if !literal.is_empty() {
            template.tokens.push(Token::Literal(literal));
        }
        if template.names.len() > PARAMETERS_MAX {
            return Err(TemplateError::TooManyParameters);
        }
        for (index, name) in template.names.iter().enumerate() {
            if template.names[..index].contains(name) {
                return Err(TemplateError::NameTwice(name.clone()));
            }
        }
        Ok(template)
    }

    /// The parameters' names, in the order of [`super::Parameters`].
    pub fn names(&self) -> &[Box<str>] {
        &self.names
    }

    /// Whether it ends with `{+name}`.
    pub fn has_tail(&self) -> bool {
        self.tokens.last() == Some(&Token::Tail)
    }

    fn segment(
        &mut self,
        segment: &str,
        at: usize,
        is_last: bool,
        literal: &mut Vec<u8>,
    ) -> Result<(), TemplateError> {
        // The literal before the first parameter joins what came before; the others are the pattern's.
        let mut pieces: Vec<Vec<u8>> = Vec::new();
        let mut tail = false;
        let mut rest = segment;
        while !rest.is_empty() {
            let here = at + segment.len() - rest.len();
            if let Some(inner) = rest.strip_prefix('{') {
                let close = inner.find('}').ok_or(TemplateError::Brace(here))?;
                let mut name = &inner[..close];
                rest = &inner[close + 1..];
                if let Some(plain) = name.strip_prefix('+') {
                    if here != at || !rest.is_empty() || !is_last {
                        return Err(TemplateError::Tail(here));
                    }
                    (name, tail) = (plain, true);
                }
                let is_name_byte =
                    |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
                if name.is_empty() || !name.bytes().all(is_name_byte) {
                    return Err(TemplateError::Name(here));
                }
                if pieces.last().is_some_and(Vec::is_empty) {
                    return Err(TemplateError::Adjacent(here));
                }
                self.names.push(name.into());
                pieces.push(Vec::new());
            } else {
                let end = rest.find('{').unwrap_or(rest.len());
                check_literal(&rest[..end], here)?;
                pieces.last_mut().unwrap_or(literal).extend_from_slice(&rest.as_bytes()[..end]);
                rest = &rest[end..];
            }
        }
        if pieces.is_empty() {
            return Ok(());
        }
        if !literal.is_empty() {
            self.tokens.push(Token::Literal(std::mem::take(literal)));
        }
        self.tokens.push(match pieces.as_slice() {
            _ if tail => Token::Tail,
            [only] if only.is_empty() => Token::Parameter,
            _ => Token::Pattern(Pattern(pieces.into_iter().map(Vec::into_boxed_slice).collect())),
        });
        Ok(())
    }
}

/// Checks a base: empty (or `/`, the same) or literal segments without a slash at the end.
pub(super) fn parse_base(text: &str) -> Result<&str, TemplateError> {
    if matches!(text, "" | "/") {
        return Ok("");
    }
    let template = Template::parse(text)?;
    match template.names.is_empty() && !text.ends_with('/') {
        true => Ok(text),
        false => Err(TemplateError::Base),
    }
}

/// Only what a canonical path can contain, lest a template silently match nothing.
fn check_literal(text: &str, at: usize) -> Result<(), TemplateError> {
    let bytes = text.as_bytes();
    let mut index = 0;
    while index < bytes.len() {
        match bytes[index] {
            b'}' => return Err(TemplateError::Brace(at + index)),
            byte if is_unreserved(byte) => {}
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@' => {}
            b'%' => {
                let value = match bytes.get(index + 1..index + 3) {
                    Some(&[high, low]) => {
                        upper_hex(high).zip(upper_hex(low)).map(|(high, low)| high << 4 | low)
                    }
                    _ => None,
                };
                match value {
                    Some(value) if !is_unreserved(value) && value != b'/' => index += 2,
                    _ => return Err(TemplateError::Byte(at + index)),
                }
            }
            _ => return Err(TemplateError::Byte(at + index)),
        }
        index += 1;
    }
    Ok(())
}

fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

fn upper_hex(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

impl fmt::Display for TemplateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TemplateError::NoSlash => write!(f, "a path begins with a slash"),
            TemplateError::TooLong => write!(f, "a path template has at most {TEMPLATE_BYTES_MAX} bytes"),
            TemplateError::TooManyParameters => write!(f, "a path has at most {PARAMETERS_MAX} parameters"),
            TemplateError::Brace(at) => write!(f, "the brace at byte {at} has no partner"),
            TemplateError::Name(at) => {
                write!(f, "the parameter at byte {at} needs a name of letters, digits, `_`, `-` or `.`")
            }
            TemplateError::NameTwice(name) => write!(f, "two parameters are called `{name}`"),
            TemplateError::Adjacent(at) => {
                write!(f, "something must stand before the parameter at byte {at}")
            }
            TemplateError::Tail(at) => write!(f, "the tail at byte {at} must be the whole last segment"),
            TemplateError::Byte(at) => {
                write!(
                    f,
                    "the byte at {at} does not occur in a canonical path (encode it as %XX, in upper case)"
                )
            }
            TemplateError::Segment(at) => {
                write!(f, "the segment at byte {at} does not occur in a canonical path (empty, `.` or `..`)")
            }
            TemplateError::Base => write!(f, "a base has no parameters and no slash at its end"),
        }
    }
}

impl std::error::Error for TemplateError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(pieces: &[&str]) -> Token {
        Token::Pattern(Pattern(pieces.iter().map(|piece| piece.as_bytes().into()).collect()))
    }

    fn literal(text: &str) -> Token {
        Token::Literal(text.into())
    }

    #[test]
    fn templates_become_tokens() {
        let cases: &[(&str, &[Token])] = &[
            ("/", &[literal("/")]),
            ("/a/b/", &[literal("/a/b/")]),
            ("/a/{id}", &[literal("/a/"), Token::Parameter]),
            ("/a/{id}/b", &[literal("/a/"), Token::Parameter, literal("/b")]),
            ("/{a}/{b}", &[literal("/"), Token::Parameter, literal("/"), Token::Parameter]),
            ("/pre{a}", &[literal("/pre"), Token::Parameter]),
            ("/x/pre{a}-{b}.json/y", &[literal("/x/pre"), pattern(&["-", ".json"]), literal("/y")]),
            ("/{a}...{b}", &[literal("/"), pattern(&["...", ""])]),
            ("/{+rest}", &[literal("/"), Token::Tail]),
            ("/%C3%A9%20", &[literal("/%C3%A9%20")]),
        ];
        for (text, tokens) in cases {
            assert_eq!(Template::parse(text).unwrap().tokens, *tokens, "{text}");
        }
        let names = Template::parse("/{a}-{b.c}/{+d_e}").unwrap();
        assert_eq!(names.names(), [Box::from("a"), Box::from("b.c"), Box::from("d_e")]);
        assert!(names.has_tail());
    }

    #[test]
    fn what_cannot_match_is_refused() {
        let long = format!("/{}", "x".repeat(TEMPLATE_BYTES_MAX));
        let many: String = (0..=PARAMETERS_MAX).map(|i| format!("/{{p{i}}}")).collect();
        let cases: &[(&str, TemplateError)] = &[
            ("", TemplateError::NoSlash),
            ("a", TemplateError::NoSlash),
            (&long, TemplateError::TooLong),
            (&many, TemplateError::TooManyParameters),
            ("/a{b", TemplateError::Brace(2)),
            ("/ab}", TemplateError::Brace(3)),
            ("/a/{}", TemplateError::Name(3)),
            ("/{a b}", TemplateError::Name(1)),
            ("/{a{b}}", TemplateError::Name(1)),
            ("/{a}/{a}", TemplateError::NameTwice("a".into())),
            ("/{a}{b}", TemplateError::Adjacent(4)),
            ("/{+a}/b", TemplateError::Tail(1)),
            ("/x{+a}", TemplateError::Tail(2)),
            ("/{+a}x", TemplateError::Tail(1)),
            ("/a?b=c", TemplateError::Byte(2)),
            ("/a#b", TemplateError::Byte(2)),
            ("/é", TemplateError::Byte(1)),
            ("/a;b", TemplateError::Byte(2)),
            ("/%c3%a9", TemplateError::Byte(1)),
            ("/%41", TemplateError::Byte(1)),
            ("/%2F", TemplateError::Byte(1)),
            ("/%2", TemplateError::Byte(1)),
            ("/a//b", TemplateError::Segment(3)),
            ("/a/../b", TemplateError::Segment(3)),
            ("/.", TemplateError::Segment(1)),
        ];
        for (text, error) in cases {
            assert_eq!(Template::parse(text).as_ref().unwrap_err(), error, "{text}");
        }
        assert!(Template::parse(&long[..TEMPLATE_BYTES_MAX]).is_ok());
        let enough: String = (0..PARAMETERS_MAX).map(|i| format!("/{{p{i}}}")).collect();
        assert!(Template::parse(&enough).is_ok());
    }

    #[test]
    fn a_base_is_literal() {
        assert_eq!(parse_base(""), Ok(""));
        assert_eq!(parse_base("/"), Ok(""));
        assert_eq!(parse_base("/v1/x"), Ok("/v1/x"));
        assert_eq!(parse_base("/v1/"), Err(TemplateError::Base));
        assert_eq!(parse_base("/{v}"), Err(TemplateError::Base));
        assert_eq!(parse_base("v1"), Err(TemplateError::NoSlash));
    }
}
