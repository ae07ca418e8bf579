//! A strict reader for the small JSON texts of JOSE: headers, claims, key sets.
//!
//! One pass checks everything ([`parse`]): the grammar of RFC 8259, UTF-8, depth, members per object, and
//! that no object, at any level, names a member twice (RFC 7515 §4 allows taking the last; two readers that
//! choose differently is how a check is walked around, so we refuse). What it returns borrows the text and
//! is walked without further checks. Not for request bodies: those are large and have an engine of their own.
//! Called by the JWS, JWT and JWK code and by the key store.

use std::borrow::Cow;

/// What a text may hold at most.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Bytes of the whole text.
    pub bytes: usize,
    /// Objects and arrays inside each other; the outermost counts as one.
    pub depth: usize,
    /// Members of one object.
    pub members: usize,
}

/// Why a text is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonError {
    /// Longer than [`Bounds::bytes`].
    TooLong,
    /// Deeper than [`Bounds::depth`].
    TooDeep,
    /// An object with more than [`Bounds::members`] members.
    TooManyMembers,
    /// An object names a member twice.
    DuplicateMember,
    /// Not UTF-8.
    NotUtf8,
    /// Not the grammar of RFC 8259, or an escaped lone surrogate.
    Grammar,
    /// Bytes after the value.
    Trailing,
}

impl JsonError {
    /// A few words for the operator.
    pub fn as_str(self) -> &'static str {
        match self {
            JsonError::TooLong => "too long",
            JsonError::TooDeep => "nested too deeply",
            JsonError::TooManyMembers => "an object with too many members",
            JsonError::DuplicateMember => "an object that names a member twice",
            JsonError::NotUtf8 => "not UTF-8",
            JsonError::Grammar => "not valid JSON",
            JsonError::Trailing => "bytes after the JSON value",
        }
    }
}

/// A value whose text has been checked.
#[derive(Clone, Copy, Debug)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as written.
    Number(&'a str),
    /// A string.
    Text(Text<'a>),
    /// An array.
    Array(Elements<'a>),
    /// An object.
    Object(Members<'a>),
}

impl<'a> Value<'a> {
    /// The string, if it is one.
    pub fn text(self) -> Option<Text<'a>> {
        match self {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The members, if it is an object.
    pub fn members(self) -> Option<Members<'a>> {
        match self {
            Value::Object(members) => Some(members),
            _ => None,
        }
    }

    /// Follows a JSON Pointer (RFC 6901) that is empty or begins with `/`. Array indices are not followed:
    /// no claim worth a right sits at a fixed place of an array.
    pub fn at_pointer(self, pointer: &str) -> Option<Value<'a>> {
        let mut value = self;
        for token in pointer.split('/').skip(1) {
            let name = token.replace("~1", "/").replace("~0", "~");
            value = value.members()?.member(&name)?;
        }
        Some(value)
    }
}

/// A string between its quotes, escapes not yet resolved.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a>(&'a str);

impl<'a> Text<'a> {
    /// The string itself; allocates only if it was written with escapes.
    pub fn decode(self) -> Cow<'a, str> {
        if memchr::memchr(b'\\', self.0.as_bytes()).is_none() {
            return Cow::Borrowed(self.0);
        }
        let mut decoded = String::with_capacity(self.0.len());
        let mut rest = self.0;
        while let Some(at) = rest.find('\\') {
            decoded.push_str(&rest[..at]);
            let (character, bytes) =
                escaped(&rest.as_bytes()[at..]).unwrap_or((char::REPLACEMENT_CHARACTER, 2));
            decoded.push(character);
            rest = rest.get(at + bytes..).unwrap_or_default();
        }
        decoded.push_str(rest);
        Cow::Owned(decoded)
    }

    /// Whether the string, escapes resolved, is `other`.
    pub fn is(self, other: &str) -> bool {
        self.0 == other || (self.0.contains('\\') && self.decode() == other)
    }
}

/// The members of an object, in the order they were written.
#[derive(Clone, Copy, Debug)]
pub struct Members<'a> {
    inside: &'a str,
}

impl<'a> Members<'a> {
    /// The value of the member `name`. O(bytes of the object).
    pub fn member(self, name: &str) -> Option<Value<'a>> {
        let mut members = self;
        members.find(|(found, _)| found.is(name)).map(|(_, value)| value)
    }
}

impl<'a> Iterator for Members<'a> {
    type Item = (Text<'a>, Value<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        let (name, rest) = next_value(self.inside)?;
        let (value, rest) = next_value(rest)?;
        self.inside = rest;
        Some((name.text()?, value))
    }
}

/// The elements of an array.
#[derive(Clone, Copy, Debug)]
pub struct Elements<'a> {
    inside: &'a str,
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        let (value, rest) = next_value(self.inside)?;
        self.inside = rest;
        Some(value)
    }
}

/// Checks `text` in one pass and returns its value.
///
/// O(bytes + members² per object), with `members` bounded; one allocation for the names of the open objects.
///
/// # Errors
/// What is wrong with it first; see [`JsonError`].
pub fn parse(text: &[u8], bounds: Bounds) -> Result<Value<'_>, JsonError> {
    if text.len() > bounds.bytes {
        return Err(JsonError::TooLong);
    }
    let text = std::str::from_utf8(text).map_err(|_| JsonError::NotUtf8)?;
    let mut check =
        Check { text: text.as_bytes(), at: 0, names: Vec::with_capacity(32), bounds, source: text };
    check.white_space();
    check.value(0)?;
    check.white_space();
    if check.at != text.len() {
        return Err(JsonError::Trailing);
    }
    next_value(text).map(|(value, _)| value).ok_or(JsonError::Grammar)
}

struct Check<'a> {
    text: &'a [u8],
    source: &'a str,
    at: usize,
    /// The names of all open objects, innermost last.
    names: Vec<Text<'a>>,
    bounds: Bounds,
}

impl<'a> Check<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn expect(&mut self, byte: u8) -> Result<(), JsonError> {
        if self.peek() != Some(byte) {
            return Err(JsonError::Grammar);
        }
        self.at += 1;
        Ok(())
    }

    fn white_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn value(&mut self, depth: usize) -> Result<(), JsonError> {
        match self.peek() {
            Some(b'{') => self.object(depth + 1),
            Some(b'[') => self.array(depth + 1),
            Some(b'"') => self.string().map(|_| ()),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word(b"true"),
            Some(b'f') => self.word(b"false"),
            Some(b'n') => self.word(b"null"),
            _ => Err(JsonError::Grammar),
        }
    }

    fn object(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth > self.bounds.depth {
            return Err(JsonError::TooDeep);
        }
        self.at += 1;
        let first = self.names.len();
        self.white_space();
        if self.peek() != Some(b'}') {
            loop {
                self.white_space();
                let name = self.string()?;
                if self.names[first..].iter().any(|other| same(*other, name)) {
                    return Err(JsonError::DuplicateMember);
                }
                if self.names.len() - first == self.bounds.members {
                    return Err(JsonError::TooManyMembers);
                }
                self.names.push(name);
                self.white_space();
                self.expect(b':')?;
                self.white_space();
                self.value(depth)?;
                self.white_space();
                if self.peek() != Some(b',') {
                    break;
                }
                self.at += 1;
            }
        }
        self.names.truncate(first);
        self.expect(b'}')
    }

    fn array(&mut self, depth: usize) -> Result<(), JsonError> {
        if depth > self.bounds.depth {
            return Err(JsonError::TooDeep);
        }
        self.at += 1;
        self.white_space();
        if self.peek() != Some(b']') {
            loop {
                self.white_space();
                self.value(depth)?;
                self.white_space();
                if self.peek() != Some(b',') {
                    break;
                }
                self.at += 1;
            }
        }
        self.expect(b']')
    }

    fn string(&mut self) -> Result<Text<'a>, JsonError> {
        self.expect(b'"')?;
        let start = self.at;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => self.at += escaped(&self.text[self.at..]).ok_or(JsonError::Grammar)?.1,
                Some(0..0x20) | None => return Err(JsonError::Grammar),
                Some(_) => self.at += 1,
            }
        }
        let inside = self.source.get(start..self.at).ok_or(JsonError::Grammar)?;
        self.at += 1;
        Ok(Text(inside))
    }

    fn number(&mut self) -> Result<(), JsonError> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(JsonError::Grammar),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start { Err(JsonError::Grammar) } else { Ok(()) }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), JsonError> {
        if !self.text[self.at..].starts_with(word) {
            return Err(JsonError::Grammar);
        }
        self.at += word.len();
        Ok(())
    }
}

fn same(one: Text<'_>, other: Text<'_>) -> bool {
    // The common case, no escapes on either side, compares bytes only.
    one.0 == other.0 || ((one.0.contains('\\') || other.0.contains('\\')) && one.decode() == other.decode())
}

/// The character an escape sequence at the start of `text` stands for, and its length in bytes.
fn escaped(text: &[u8]) -> Option<(char, usize)> {
    let simple = |character| Some((character, 2));
    match text.get(1)? {
        b'"' => simple('"'),
        b'\\' => simple('\\'),
        b'/' => simple('/'),
        b'b' => simple('\u{8}'),
        b'f' => simple('\u{c}'),
        b'n' => simple('\n'),
        b'r' => simple('\r'),
        b't' => simple('\t'),
        b'u' => {
            let first = hex4(text.get(2..6)?)?;
            if !(0xd800..0xe000).contains(&first) {
                return Some((char::from_u32(first)?, 6));
            }
            // RFC 8259 §8.2: unpaired surrogates are unpredictable; we refuse them.
            if first >= 0xdc00 || text.get(6..8)? != b"\\u" {
                return None;
            }
            let second = hex4(text.get(8..12)?)?;
            if !(0xdc00..0xe000).contains(&second) {
                return None;
            }
            Some((char::from_u32(0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00))?, 12))
        }
        _ => None,
    }
}

fn hex4(digits: &[u8]) -> Option<u32> {
    digits.iter().try_fold(0, |value, digit| Some(value * 16 + char::from(*digit).to_digit(16)?))
}

/// The next value of a checked text, after white space, `,` and `:`; and what follows it.
fn next_value(text: &str) -> Option<(Value<'_>, &str)> {
    let bytes = text.as_bytes();
    let start = bytes.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | b',' | b':'))?;
    let end = start + value_bytes(&bytes[start..])?;
    let rest = text.get(end..)?;
    let value = match bytes[start] {
        b'{' => Value::Object(Members { inside: text.get(start + 1..end - 1)? }),
        b'[' => Value::Array(Elements { inside: text.get(start + 1..end - 1)? }),
        b'"' => Value::Text(Text(text.get(start + 1..end - 1)?)),
        b't' => Value::Bool(true),
        b'f' => Value::Bool(false),
        b'n' => Value::Null,
        _ => Value::Number(text.get(start..end)?),
    };
    Some((value, rest))
}

/// How many bytes the value at the start of a checked text has.
fn value_bytes(text: &[u8]) -> Option<usize> {
    match text.first()? {
        b'"' => string_bytes(text),
        b'{' | b'[' => {
            let mut depth = 0usize;
            let mut at = 0;
            loop {
                match text.get(at)? {
                    b'"' => {
                        at += string_bytes(&text[at..])?;
                        continue;
                    }
                    b'{' | b'[' => depth += 1,
                    b'}' | b']' => depth -= 1,
                    _ => {}
                }
                at += 1;
                if depth == 0 {
                    return Some(at);
                }
            }
        }
        _ => Some(
            text.iter()
                .position(|byte| matches!(byte, b',' | b':' | b'}' | b']' | b' ' | b'\t' | b'\n' | b'\r'))
                .unwrap_or(text.len()),
        ),
    }
}

fn string_bytes(text: &[u8]) -> Option<usize> {
    let mut at = 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', text.get(at..)?)?;
        if text[at] == b'"' {
            return Some(at + 1);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds { bytes: 4096, depth: 4, members: 3 };

    fn error(text: &str) -> Option<JsonError> {
        parse(text.as_bytes(), BOUNDS).err()
    }

    #[test]
    fn values_are_found_as_written() {
        let text = r#" { "a" : "x\u0041\ud83d\ude00\n" , "b":[1, -2.5e+3,true,null,{}, "]}"], "c":{"d/e":"deep"} } "#;
        let value = parse(text.as_bytes(), BOUNDS).unwrap();
        let members = value.members().unwrap();
        assert_eq!(members.member("a").unwrap().text().unwrap().decode(), "xA\u{1f600}\n");
        let Some(Value::Array(elements)) = members.member("b") else { panic!() };
        assert_eq!(elements.count(), 6);
        assert!(matches!({ elements }.nth(1), Some(Value::Number("-2.5e+3"))));
        assert!({ elements }.nth(5).unwrap().text().unwrap().is("]}"));
        assert!(value.at_pointer("/c/d~1e").unwrap().text().unwrap().is("deep"));
        assert!(value.at_pointer("/c/none").is_none());
        assert!(value.at_pointer("/b/0").is_none());
    }

    #[test]
    fn duplicates_are_refused_at_every_level_and_through_escapes() {
        for text in [
            r#"{"a":1,"a":1}"#,
            r#"{"a":1,"\u0061":2}"#,
            r#"{"\u0061":1,"\u0061":2}"#,
            r#"{"x":{"a":1,"a":1}}"#,
            r#"{"x":[{"a":1,"a":1}]}"#,
            r#"{"x":{"y":1},"x":{}}"#,
        ] {
            assert_eq!(error(text), Some(JsonError::DuplicateMember), "{text}");
        }
        assert_eq!(error(r#"{"x":{"a":1},"a":2}"#), None);
        assert_eq!(error(r#"[{"a":1},{"a":2}]"#), None);
    }

    #[test]
    fn bounds_hold_at_their_edges() {
        assert_eq!(error("[[[[]]]]"), None);
        assert_eq!(error("[[[[[]]]]]"), Some(JsonError::TooDeep));
        assert_eq!(error(r#"[[[[{"a":1}]]]]"#), Some(JsonError::TooDeep));
        assert_eq!(error(r#"{"a":1,"b":2,"c":3}"#), None);
        assert_eq!(error(r#"{"a":1,"b":2,"c":3,"d":4}"#), Some(JsonError::TooManyMembers));
        assert_eq!(error(&format!("\"{}\"", "x".repeat(4094))), None);
        assert_eq!(error(&format!("\"{}\"", "x".repeat(4095))), Some(JsonError::TooLong));
    }

    #[test]
    fn the_grammar_is_that_of_rfc_8259() {
        for text in [
            "",
            " ",
            "{",
            "}",
            "[1,]",
            "[,1]",
            "{\"a\":1,}",
            "{\"a\"}",
            "{a:1}",
            "{'a':1}",
            "01",
            "1.",
            ".5",
            "+1",
            "-",
            "1e",
            "1e+",
            "NaN",
            "Infinity",
            "tru",
            "nul",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\u12g4\"",
            "\"\\ud800\"",
            "\"\\udc00\"",
            "\"\\ud800\\u0041\"",
            "\"a\nb\"",
            "\"a",
            "[1 2]",
            "{\"a\":1 \"b\":2}",
            "\u{feff}{}",
            "/**/1",
        ] {
            assert!(matches!(error(text), Some(JsonError::Grammar | JsonError::Trailing)), "{text:?}");
        }
        assert_eq!(error("1 1"), Some(JsonError::Trailing));
        assert_eq!(error("{}\0"), Some(JsonError::Trailing));
        assert_eq!(error("truex"), Some(JsonError::Trailing));
        assert_eq!(parse(b"\"\xff\"", BOUNDS).err(), Some(JsonError::NotUtf8));
        for text in ["0", "-0", "1e400", "\"\"", "{}", "[]", "null", "\t\r\n true "] {
            assert_eq!(error(text), None, "{text:?}");
        }
    }
}
