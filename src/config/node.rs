//! The tree that a configuration is read into: maps, lists and scalars, each with its place.
//!
//! A scalar keeps its text; what it means (a number, a boolean, a name) is decided by the type that is bound from
//! it, so that `1.10` stays `1.10` where text is wanted. Built by `read`, consumed by `bind`; nothing else.

use super::source::Span;

/// A value and where it was written.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// The place: of a scalar, its text with quotes; of a list or map, from its first to its last byte.
    pub span: Span,
    /// What it is.
    pub kind: NodeKind,
}

/// What a value is.
#[derive(Clone, Debug, PartialEq)]
pub enum NodeKind {
    /// Text, number, boolean or nothing: see [`Scalar::meaning`].
    Scalar(Scalar),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order written; keys are unique.
    Map(Vec<Entry>),
    /// Something that was reported and could not be read: nothing more is said about it.
    Refused,
}

/// One key of a map, with its value.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Node,
}

/// A key and where it was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key {
    /// The text, unquoted.
    pub text: String,
    /// The place.
    pub span: Span,
}

/// A scalar: its text after unquoting and substitution.
#[derive(Clone, PartialEq, Eq)]
pub struct Scalar {
    /// The text.
    pub text: String,
    /// Written without quotes, so that it may be a number or a boolean.
    pub plain: bool,
    /// Some of the text came from the environment; it is then never shown.
    pub substituted: bool,
}

/// What a plain scalar means by the core schema of YAML 1.2 (§10.3.2); quoted ones are always text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Meaning<'a> {
    /// Nothing was written, or `null`, or `~`.
    Null,
    /// `true` or `false`; unlike the core schema, no other spelling.
    Bool(bool),
    /// An integer: decimal, `0o` octal or `0x` hexadecimal.
    Int(i64),
    /// A number with a fraction or an exponent, or an integer beyond 64 bits.
    Float(f64),
    /// Anything else.
    Text(&'a str),
}

impl Node {
    /// A scalar node that was not written but stands for something, for tests and defaults.
    pub fn text(text: &str, span: Span) -> Node {
        Node {
            span,
            kind: NodeKind::Scalar(Scalar { text: text.to_owned(), plain: true, substituted: false }),
        }
    }

    /// The scalar, if it is one.
    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.kind {
            NodeKind::Scalar(scalar) => Some(scalar),
            NodeKind::List(_) | NodeKind::Map(_) | NodeKind::Refused => None,
        }
    }

    /// The entries, if it is a map.
    pub fn entries(&self) -> Option<&[Entry]> {
        match &self.kind {
            NodeKind::Map(entries) => Some(entries),
            NodeKind::Scalar(_) | NodeKind::List(_) | NodeKind::Refused => None,
        }
    }

    /// The value of a key, if this is a map that has it. `O(keys)`.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries()?.iter().find(|entry| entry.key.text == key).map(|entry| &entry.value)
    }

    /// Whether it was reported already, so that nothing more is to be said about it.
    pub fn is_refused(&self) -> bool {
        self.kind == NodeKind::Refused
    }

    /// Whether nothing was written.
    pub fn is_null(&self) -> bool {
        self.scalar().is_some_and(|scalar| scalar.meaning() == Meaning::Null)
    }
}

impl Scalar {
    /// What it means.
    pub fn meaning(&self) -> Meaning<'_> {
        if !self.plain {
            return Meaning::Text(&self.text);
        }
        match self.text.as_str() {
            "" | "~" | "null" | "Null" | "NULL" => Meaning::Null,
            "true" => Meaning::Bool(true),
            "false" => Meaning::Bool(false),
            text => number(text).unwrap_or(Meaning::Text(text)),
        }
    }
}

/// Text that came from the environment may be a secret in the wrong place: it is not printed.
impl std::fmt::Debug for Scalar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.substituted {
            true => f.write_str("Scalar(from the environment)"),
            false => write!(f, "Scalar({:?})", self.text),
        }
    }
}

/// YAML 1.2 §10.3.2: `[-+]? [0-9]+`, `0o [0-7]+`, `0x [0-9a-fA-F]+`, and the two forms of floats.
fn number(text: &str) -> Option<Meaning<'_>> {
    if let Some(octal) = text.strip_prefix("0o") {
        return digits(octal, |b| matches!(b, b'0'..=b'7')).then(|| integer(octal, 8));
    }
    if let Some(hexadecimal) = text.strip_prefix("0x") {
        return digits(hexadecimal, |b| b.is_ascii_hexdigit()).then(|| integer(hexadecimal, 16));
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if digits(unsigned, |b| b.is_ascii_digit()) {
        return Some(integer(text, 10));
    }
    match unsigned {
        ".inf" | ".Inf" | ".INF" => return Some(Meaning::Float(f64::INFINITY)),
        _ if matches!(text, ".nan" | ".NaN" | ".NAN") => return Some(Meaning::Float(f64::NAN)),
        _ => {}
    }
    let shape = unsigned.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-'));
    if !shape || !unsigned.bytes().any(|b| b.is_ascii_digit()) || unsigned.starts_with(['+', '-', 'e', 'E']) {
        return None;
    }
    text.parse().ok().map(Meaning::Float)
}

fn digits(text: &str, is_digit: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(is_digit)
}

fn integer(text: &str, radix: u32) -> Meaning<'_> {
    match i64::from_str_radix(text, radix) {
        Ok(value) => Meaning::Int(value),
        Err(_) => Meaning::Float(text.parse().unwrap_or(f64::INFINITY)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(text: &str) -> Meaning<'static> {
        let scalar = Scalar { text: text.to_owned(), plain: true, substituted: false };
        match scalar.meaning() {
            Meaning::Text(_) => Meaning::Text("text"),
            Meaning::Null => Meaning::Null,
            Meaning::Bool(value) => Meaning::Bool(value),
            Meaning::Int(value) => Meaning::Int(value),
            Meaning::Float(value) => Meaning::Float(value),
        }
    }

    #[test]
    fn plain_scalars_follow_the_core_schema_strictly() {
        let text = Meaning::Text("text");
        for (written, expected) in [
            ("", Meaning::Null),
            ("~", Meaning::Null),
            ("null", Meaning::Null),
            ("true", Meaning::Bool(true)),
            ("false", Meaning::Bool(false)),
            ("True", text),
            ("yes", text),
            ("on", text),
            ("0", Meaning::Int(0)),
            ("-17", Meaning::Int(-17)),
            ("+3", Meaning::Int(3)),
            ("010", Meaning::Int(10)),
            ("0o17", Meaning::Int(15)),
            ("0x1F", Meaning::Int(31)),
            ("0x", text),
            ("1_000", text),
            ("1.5", Meaning::Float(1.5)),
            ("1e3", Meaning::Float(1000.0)),
            (".5", Meaning::Float(0.5)),
            ("-.inf", Meaning::Float(f64::NEG_INFINITY)),
            ("9223372036854775807", Meaning::Int(i64::MAX)),
            ("e3", text),
            (".", text),
            ("--1", text),
            ("2027-06-30", text),
            ("1.2.3", text),
            ("12:30:45", text),
            ("5s", text),
        ] {
            match (meaning(written), expected) {
                // The sign of infinity is not told apart: neither is ever a valid value.
                (Meaning::Float(a), Meaning::Float(b)) if a.is_infinite() => assert!(b.is_infinite()),
                (got, expected) => assert_eq!(got, expected, "{written}"),
            }
        }
        assert!(matches!(meaning("9223372036854775808"), Meaning::Float(_)));
    }

    #[test]
    fn quoted_scalars_are_text() {
        let scalar = Scalar { text: "true".into(), plain: false, substituted: false };
        assert_eq!(scalar.meaning(), Meaning::Text("true"));
    }

    #[test]
    fn what_came_from_the_environment_is_not_printed() {
        let scalar = Scalar { text: "hunter2".into(), plain: true, substituted: true };
        assert!(!format!("{scalar:?}").contains("hunter2"));
    }
}
