//! The process log: what the operator reads on standard error.
//!
//! For start, reload, drain and the troubles of the control thread. Not for requests (those have the access
//! log) and never called by a data thread: a line is formatted and written in the caller's time.
//!
//! One line is `time level code message name=value …`. Values that come from elsewhere are escaped, so that
//! nobody can forge a second line, and cut at [`VALUE_BYTES_MAX`].

use std::fmt::{Display, Write as _};
use std::io::Write as _;

/// The most bytes of one value that are written; the rest is replaced by `…`.
pub const VALUE_BYTES_MAX: usize = 1024;

/// How much the operator should care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// Worth knowing.
    Info,
    /// Something is wrong, service goes on.
    Warn,
    /// Something does not work.
    Error,
}

impl Level {
    fn name(self) -> &'static str {
        match self {
            Level::Info => "info",
            Level::Warn => "warn",
            Level::Error => "error",
        }
    }
}

/// What a line is about: a stable number (`RW-60nn`) and a sentence, declared beside the cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// The number of `RW-nnnn`.
    pub number: u16,
    /// The sentence of the line.
    pub message: &'static str,
}

impl Code {
    /// A code and its sentence.
    pub const fn new(number: u16, message: &'static str) -> Code {
        Code { number, message }
    }
}

impl Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RW-{:04}", self.number)
    }
}

/// A line in the making.
#[derive(Debug)]
#[must_use = "a line is written by `emit`"]
pub struct Line {
    level: Level,
    code: Code,
    fields: String,
}

impl Line {
    /// An `info` line.
    pub fn info(code: Code) -> Line {
        Line { level: Level::Info, code, fields: String::new() }
    }

    /// A `warn` line.
    pub fn warn(code: Code) -> Line {
        Line { level: Level::Warn, code, fields: String::new() }
    }

    /// An `error` line.
    pub fn error(code: Code) -> Line {
        Line { level: Level::Error, code, fields: String::new() }
    }

    /// Adds `name=value`. The value is quoted where it holds more than plain characters.
    pub fn with(mut self, name: &str, value: impl Display) -> Line {
        let text = value.to_string();
        let _ = write!(self.fields, " {name}=");
        write_value(&mut self.fields, &text);
        self
    }

    /// Writes the line to standard error in one write. A closed standard error is not our trouble.
    pub fn emit(self) {
        let line = self.render(jiff::Timestamp::now());
        let _ = std::io::stderr().lock().write_all(line.as_bytes());
    }

    /// The line's text for a given time, newline included.
    pub fn render(&self, now: jiff::Timestamp) -> String {
        format!(
            "{now:.3} {level} {code} {message}{fields}\n",
            level = self.level.name(),
            code = self.code,
            message = self.code.message,
            fields = self.fields,
        )
    }
}

fn write_value(out: &mut String, text: &str) {
    let (text, cut) = match text.len() > VALUE_BYTES_MAX {
        true => (&text[..text.floor_char_boundary(VALUE_BYTES_MAX)], true),
        false => (text, false),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._:/+@%,-[]~*?&#".contains(&byte);
    if !text.is_empty() && !cut && text.bytes().all(plain) {
        out.push_str(text);
        return;
    }
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            // Control characters, and the bidirectional overrides that make a terminal lie.
            c if c.is_control()
                || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2028}'..='\u{2029}' | '\u{2066}'..='\u{2069}') =>
            {
                let _ = write!(out, "\\u{{{:x}}}", c as u32);
            }
            c => out.push(c),
        }
    }
    if cut {
        out.push('…');
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: Code = Code::new(6010, "keys fetched");

    fn rendered(line: Line) -> String {
        line.render(jiff::Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn a_line_has_time_level_code_message_and_fields() {
        let line = Line::warn(SAMPLE).with("login", "people").with("keys", 3);
        assert_eq!(
            rendered(line),
            "1970-01-01T00:00:00.000Z warn RW-6010 keys fetched login=people keys=3\n"
        );
    }

    #[test]
    fn a_value_cannot_forge_a_line() {
        let line = rendered(Line::info(SAMPLE).with("why", "a\n1970 error RW-1 \"x\"\u{1b}[2J\u{202e}"));
        assert_eq!(line.matches('\n').count(), 1);
        assert!(line.ends_with("why=\"a\\n1970 error RW-1 \\\"x\\\"\\u{1b}[2J\\u{202e}\"\n"), "{line}");
    }

    #[test]
    fn a_long_value_is_cut_at_a_character() {
        let at_bound = rendered(Line::info(SAMPLE).with("v", "x".repeat(VALUE_BYTES_MAX)));
        assert!(!at_bound.contains('…'));
        let past = rendered(Line::info(SAMPLE).with("v", "é".repeat(VALUE_BYTES_MAX)));
        assert!(past.contains('…') && past.len() < VALUE_BYTES_MAX + 100);
    }
}
