//! What is wrong with a configuration: every error of one run, each with its place, and how to mend it.
//!
//! [`ConfigError`] is built where the cause is seen; [`Errors`] collects, orders, bounds and shows them, as text
//! in the manner of rustc or as JSON. Text that was marked secret is blotted out wherever its line is shown.
//! Not for requests: those have [`crate::http::Reason`].

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde_json::{Value, json};

use super::source::{Sources, Span};

/// The most errors that one run reports; those beyond are counted.
pub const ERRORS_MAX: usize = 100;

/// Lines longer than this in all are not shown, only their place.
const SHOWN_BYTES_MAX: usize = 8 * 1024;

/// The number of `RW-nnnn`. Declared once, beside its cause; each has a page in the manual.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(u16);

impl Code {
    /// The code `RW-nnnn`; ranges are in the manual's `words` page.
    pub const fn new(number: u16) -> Code {
        Code(number)
    }

    /// The bare number.
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RW-{:04}", self.0)
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The configuration is refused.
    Error,
    /// Worth knowing; nothing is refused.
    Note,
}

/// A place and what is to be said about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Label {
    /// Where.
    pub span: Span,
    /// What; may be empty.
    pub text: String,
}

/// One thing that is wrong: what, where, what stood there, what was expected, how to mend it, and why we care.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The code, with a page in the manual.
    pub code: Code,
    /// Error or note.
    pub severity: Severity,
    /// One sentence without a full stop.
    pub title: String,
    /// The place that is wrong.
    pub primary: Label,
    /// Other places that matter, such as the first of two duplicates.
    pub secondary: Vec<Label>,
    /// What was found; never a secret.
    pub found: Option<String>,
    /// What was expected.
    pub expected: Option<String>,
    /// What was probably meant: a name or a value to write instead.
    pub suggestion: Option<String>,
    /// How to mend it.
    pub fix: Option<String>,
    /// Why it is refused.
    pub why: Option<String>,
}

impl ConfigError {
    /// An error with a code, a title and a place; the builders below add the rest.
    pub fn new(code: Code, title: impl Into<String>, span: Span) -> ConfigError {
        ConfigError {
            code,
            severity: Severity::Error,
            title: title.into(),
            primary: Label { span, text: String::new() },
            secondary: Vec::new(),
            found: None,
            expected: None,
            suggestion: None,
            fix: None,
            why: None,
        }
    }

    /// A note: the same shape, refuses nothing.
    pub fn note(code: Code, title: impl Into<String>, span: Span) -> ConfigError {
        ConfigError { severity: Severity::Note, ..ConfigError::new(code, title, span) }
    }

    /// Says something beside the underlined place.
    pub fn label(mut self, text: impl Into<String>) -> Self {
        self.primary.text = text.into();
        self
    }

    /// Points at another place as well.
    pub fn also(mut self, span: Span, text: impl Into<String>) -> Self {
        self.secondary.push(Label { span, text: text.into() });
        self
    }

    /// What was found. Never pass a secret.
    pub fn found(mut self, text: impl Into<String>) -> Self {
        self.found = Some(text.into());
        self
    }

    /// What was expected.
    pub fn expected(mut self, text: impl Into<String>) -> Self {
        self.expected = Some(text.into());
        self
    }

    /// What was probably meant.
    pub fn suggest(mut self, text: impl Into<String>) -> Self {
        self.suggestion = Some(text.into());
        self
    }

    /// How to mend it.
    pub fn fix(mut self, text: impl Into<String>) -> Self {
        self.fix = Some(text.into());
        self
    }

    /// Why it is refused.
    pub fn why(mut self, text: impl Into<String>) -> Self {
        self.why = Some(text.into());
        self
    }
}

/// The errors and notes of one run, ordered by place, with the files they point into.
#[derive(Clone, Debug, Default)]
pub struct Errors {
    list: Vec<ConfigError>,
    beyond: usize,
    sources: Arc<Sources>,
    blots: Vec<Span>,
}

impl Errors {
    /// No errors yet, in these files; `blots` are the places whose text must not be shown.
    pub fn new(sources: Arc<Sources>, blots: Vec<Span>) -> Errors {
        Errors { list: Vec::new(), beyond: 0, sources, blots }
    }

    /// Adds one; beyond [`ERRORS_MAX`] it is only counted. The same thing said twice of one place is kept once.
    pub fn push(&mut self, error: ConfigError) {
        let at = self.list.partition_point(|e| e.primary.span <= error.primary.span);
        let same = |e: &&ConfigError| {
            e.primary.span == error.primary.span && e.code == error.code && e.title == error.title
        };
        if self.list[..at].iter().rev().take_while(|e| e.primary.span == error.primary.span).any(|e| same(&e))
        {
            return;
        }
        self.list.insert(at, error);
        if self.list.len() > ERRORS_MAX {
            self.list.pop();
            self.beyond += 1;
        }
    }

    /// Adds several.
    pub fn extend(&mut self, errors: impl IntoIterator<Item = ConfigError>) {
        errors.into_iter().for_each(|error| self.push(error));
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// How many are listed, at most [`ERRORS_MAX`].
    pub fn len(&self) -> usize {
        self.list.len()
    }

    /// How many more there were.
    pub fn beyond(&self) -> usize {
        self.beyond
    }

    /// In the order of their places.
    pub fn iter(&self) -> std::slice::Iter<'_, ConfigError> {
        self.list.iter()
    }

    /// The files that the spans point into.
    pub fn sources(&self) -> &Sources {
        &self.sources
    }

    /// All of them as text; `colour` with terminal colours. Ends with a line that counts them.
    pub fn render(&self, colour: bool) -> String {
        let mut out = String::new();
        for error in &self.list {
            out.push_str(&self.render_one(error, colour));
            out.push_str("\n\n");
        }
        let errors = self.list.iter().filter(|e| e.severity == Severity::Error).count() + self.beyond;
        if errors > 0 {
            let plural = if errors == 1 { "" } else { "s" };
            out.push_str(&format!("{errors} error{plural}"));
            if self.beyond > 0 {
                out.push_str(&format!(", the first {ERRORS_MAX} of them shown"));
            }
            out.push_str("; `ringwall help RW-nnnn` explains a code\n");
        }
        out
    }

    /// One of them as text, without a line break at the end.
    pub fn render_one(&self, error: &ConfigError, colour: bool) -> String {
        let name = match error.severity {
            Severity::Error => format!("error {}", error.code),
            Severity::Note => format!("note {}", error.code),
        };
        let level = match error.severity {
            Severity::Error => Level::ERROR,
            Severity::Note => Level::NOTE,
        };
        let label = self.label_of(error);
        let windows = self.windows(error, &label);
        let mut group = Group::with_title(level.with_name(name).primary_title(&error.title));
        for window in &windows {
            if window.text.len() > SHOWN_BYTES_MAX {
                // JSON in one line, perhaps: the place alone says more than the line.
                let place = self.sources.position(window.span);
                group = group.element(Origin::path(window.name).line(place.line).char_column(place.column));
                continue;
            }
            let mut snippet =
                Snippet::source(window.text.as_ref()).line_start(window.line).path(window.name).fold(true);
            for (primary, range, text) in &window.marks {
                let kind = if *primary { AnnotationKind::Primary } else { AnnotationKind::Context };
                let mark = kind.span(range.clone());
                snippet = snippet.annotation(if text.is_empty() { mark } else { mark.label(*text) });
            }
            group = group.element(snippet);
        }
        let footers = [
            ("found", &error.found),
            ("expected", &error.expected),
            ("why", &error.why),
            ("fix", &error.fix),
        ];
        for (name, text) in footers {
            if let Some(text) = text {
                group = group.element(Level::NOTE.with_name(name).message(text));
            }
        }
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.decor_style(DecorStyle::Ascii).render(&[group])
    }

    /// All of them as a JSON array: `code severity title file line column end_line end_column found expected
    /// suggestion fix why also`; what is absent is not there.
    pub fn to_json(&self) -> Value {
        Value::Array(self.list.iter().map(|error| self.one_to_json(error)).collect())
    }

    fn one_to_json(&self, error: &ConfigError) -> Value {
        let mut object = self.place_to_json(error.primary.span);
        object["code"] = json!(error.code.to_string());
        object["severity"] = json!(match error.severity {
            Severity::Error => "error",
            Severity::Note => "note",
        });
        object["title"] = json!(error.title);
        let optional = [
            ("found", &error.found),
            ("expected", &error.expected),
            ("suggestion", &error.suggestion),
            ("fix", &error.fix),
            ("why", &error.why),
        ];
        for (name, text) in optional {
            if let Some(text) = text {
                object[name] = json!(text);
            }
        }
        if !error.secondary.is_empty() {
            let also = error.secondary.iter().map(|label| {
                let mut place = self.place_to_json(label.span);
                place["text"] = json!(label.text);
                place
            });
            object["also"] = also.collect();
        }
        object
    }

    fn place_to_json(&self, span: Span) -> Value {
        let start = self.sources.position(span);
        let end = self.sources.position(Span { start: span.end, ..span });
        json!({
            "file": self.sources.name(span),
            "line": start.line, "column": start.column,
            "end_line": end.line, "end_column": end.column,
        })
    }

    fn label_of(&self, error: &ConfigError) -> String {
        let mut label = error.primary.text.clone();
        if let Some(suggestion) = &error.suggestion {
            if !label.is_empty() {
                label.push_str("; ");
            }
            label.push_str(&format!("did you mean `{suggestion}`?"));
        }
        label
    }

    /// The lines to show, one window per file; a label far from the primary one gets a window of its own.
    fn windows<'a>(&'a self, error: &'a ConfigError, label: &'a str) -> Vec<Window<'a>> {
        const NEAR_LINES: usize = 12;
        let mut windows: Vec<Window<'a>> = Vec::new();
        let primary = std::iter::once((true, error.primary.span, label));
        let rest = error.secondary.iter().map(|l| (false, l.span, l.text.as_str()));
        for (is_primary, span, text) in primary.chain(rest) {
            let Some(source) = self.sources.file(span.file) else { continue };
            let first = source.position(span.start as usize).line;
            // Long values (a whole map) are shown by their first line.
            let end = (span.end as usize).min(source.line(first).end).max(span.start as usize);
            let range = span.start as usize..end;
            let near = windows.iter_mut().find(|w| {
                w.span.file == span.file
                    && first.abs_diff(w.line) <= NEAR_LINES
                    && first.abs_diff(w.line_last) <= NEAR_LINES
            });
            match near {
                Some(window) => {
                    window.line = window.line.min(first);
                    window.line_last = window.line_last.max(first);
                    window.marks.push((is_primary, range, text));
                }
                None => windows.push(Window {
                    name: source.name(),
                    span,
                    line: first,
                    line_last: first,
                    text: Cow::Borrowed(""),
                    marks: vec![(is_primary, range, text)],
                }),
            }
        }
        for window in &mut windows {
            let Some(source) = self.sources.file(window.span.file) else { continue };
            let start = source.line(window.line).start;
            let end = source.line(window.line_last).end;
            window.text = self.blotted(source.text(), window.span, start, end);
            for (_, range, _) in &mut window.marks {
                let from = range.start.saturating_sub(start).min(end - start);
                let to = range.end.saturating_sub(start).clamp(from, end - start);
                *range = from..to;
            }
        }
        windows
    }

    /// `text[start..end]` with every blot in it painted over, byte for byte.
    fn blotted<'a>(&self, text: &'a str, file: Span, start: usize, end: usize) -> Cow<'a, str> {
        let shown = &text[start..end];
        let mut bytes: Option<Vec<u8>> = None;
        for blot in self.blots.iter().filter(|blot| blot.file == file.file) {
            let from = (blot.start as usize).clamp(start, end) - start;
            let to = (blot.end as usize).clamp(start, end) - start;
            if from < to {
                bytes.get_or_insert_with(|| shown.as_bytes().to_vec())[from..to].fill(b'*');
            }
        }
        match bytes {
            // Blots begin and end on character boundaries, so the rest is still UTF-8.
            Some(bytes) => Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()),
            None => Cow::Borrowed(shown),
        }
    }
}

struct Window<'a> {
    name: &'a str,
    span: Span,
    line: usize,
    line_last: usize,
    text: Cow<'a, str>,
    marks: Vec<(bool, std::ops::Range<usize>, &'a str)>,
}

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(false))
    }
}

impl std::error::Error for Errors {}

impl<'a> IntoIterator for &'a Errors {
    type Item = &'a ConfigError;
    type IntoIter = std::slice::Iter<'a, ConfigError>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::source::{FileId, Source};
    use super::*;

    const CODE: Code = Code::new(1304);

    fn errors(text: &str, blots: Vec<Span>) -> Errors {
        let mut sources = Sources::default();
        sources.add(Source::new("ringwall.yaml", Path::new("."), text).unwrap()).unwrap();
        Errors::new(Arc::new(sources), blots)
    }

    fn span(start: usize, end: usize) -> Span {
        Span::new(FileId::default(), start, end)
    }

    #[test]
    fn an_error_is_shown_with_its_line() {
        let mut errors = errors("a: 1\npeople: { oidc: https://x/ }\n", vec![]);
        errors.push(
            ConfigError::new(CODE, "audience is missing", span(15, 19))
                .label("add `audience`")
                .why("RFC 8725")
                .fix("name it"),
        );
        let text = errors.render(false);
        assert_eq!(
            text,
            "error RW-1304: audience is missing\n \
             --> ringwall.yaml:2:11\n  \
             |\n\
             2 | people: { oidc: https://x/ }\n  \
             |           ^^^^ add `audience`\n  \
             |\n  \
             = why: RFC 8725\n  \
             = fix: name it\n\n\
             1 error; `ringwall help RW-nnnn` explains a code\n"
        );
    }

    #[test]
    fn what_is_blotted_is_never_shown() {
        let text = "pepper: hunter2 # x\n";
        let mut errors = errors(text, vec![span(8, 15)]);
        errors.push(ConfigError::new(CODE, "a", span(8, 15)));
        errors.push(ConfigError::new(CODE, "b", span(0, 6)));
        let shown = errors.render(false);
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("pepper: ******* # x"), "{shown}");
        assert!(!errors.to_json().to_string().contains("hunter2"));
    }

    #[test]
    fn errors_are_ordered_bounded_and_said_once() {
        let text = "x".repeat(1_000);
        let mut errors = errors(&text, vec![]);
        for at in (0..ERRORS_MAX + 5).rev() {
            errors.push(ConfigError::new(CODE, "t", span(at, at + 1)));
            errors.push(ConfigError::new(CODE, "t", span(at, at + 1)));
        }
        assert_eq!(errors.len(), ERRORS_MAX);
        assert!(errors.beyond() >= 5);
        assert!(errors.iter().zip(errors.iter().skip(1)).all(|(a, b)| a.primary.span < b.primary.span));
    }

    #[test]
    fn a_very_long_line_is_not_shown_but_its_place_is() {
        let text = format!("a\n{}", "x".repeat(100_000));
        let mut errors = errors(&text, vec![]);
        errors.push(ConfigError::new(CODE, "t", span(50_000, 50_001)).found("x"));
        let shown = errors.render(false);
        assert!(shown.len() < 300 && shown.contains("ringwall.yaml:2:49999"), "{shown}");
    }

    #[test]
    fn odd_places_do_not_panic() {
        for text in ["", "\n", "é", "a\r\nb", "\u{1f600}\t\u{200d}x"] {
            let mut errors = errors(text, vec![span(0, 10_000)]);
            errors.push(ConfigError::new(CODE, "t", span(0, 0)));
            errors.push(ConfigError::new(CODE, "t", span(text.len(), text.len())));
            errors.push(ConfigError::new(CODE, "t", span(0, text.len())).also(span(9_999, 10_000), "far"));
            assert!(errors.render(false).contains("RW-1304"));
            assert!(errors.render(true).contains("RW-1304"));
        }
    }
}
