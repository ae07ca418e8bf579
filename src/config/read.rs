//! From text to tree: YAML 1.2 (and so JSON) without the parts that surprise.
//!
//! Refused with an explanation: anchors, aliases, merge keys, tags, directives, several documents, duplicate keys,
//! keys that are not text, tabs as indentation, plain values that run over lines, control and bidirectional
//! characters. `${NAME}` in plain and double-quoted values is replaced from the environment.
//!
//! A syntax error ends a YAML parse. So that one run still reports all errors, the top-level section that holds
//! it is blanked out and the rest is read again; [`Read::lost`] names the sections that could not be read.

use hashbrown::HashMap;
use saphyr_parser::{Event, Parser, ScalarStyle, ScanError};

use super::error::{Code, ConfigError};
use super::node::{Entry, Key, Node, NodeKind, Scalar};
use super::source::{CHARACTER, FileId, Source, Span, TOO_LARGE};

/// The text is not YAML.
pub const SYNTAX: Code = Code::new(1001);
/// A tab where YAML wants spaces.
pub const TAB: Code = Code::new(1002);
/// A key stands twice in one map.
pub const DUPLICATE_KEY: Code = Code::new(1004);
/// Anchors, aliases and merge keys are not read.
pub const ALIAS: Code = Code::new(1011);
/// Tags are not read.
pub const TAG: Code = Code::new(1012);
/// A file holds one document, without directives.
pub const DOCUMENTS: Code = Code::new(1013);
/// A value without quotes runs over several lines.
pub const RUNS_OVER: Code = Code::new(1023);
/// A key is a list, a map or nothing.
pub const KEY_NOT_TEXT: Code = Code::new(1024);
/// A variable of the environment is not set.
pub const VARIABLE_UNSET: Code = Code::new(1905);
/// `${` is not followed by a name and `}`.
pub const VARIABLE_SYNTAX: Code = Code::new(1910);

/// Lists and maps within each other, at most.
pub const DEPTH_MAX: usize = 32;
/// Values in one file, at most.
pub const NODES_MAX: usize = 1_000_000;
/// Syntax errors after which one file is given up.
const SYNTAX_ERRORS_MAX: usize = 20;

/// Where `${NAME}` comes from.
pub type Environment<'e> = &'e dyn Fn(&str) -> Option<String>;

/// What became of one file.
pub struct Read {
    /// The tree, if enough could be read to have one.
    pub root: Option<Node>,
    /// Top-level keys whose sections hold a syntax error: known to be there, contents unknown.
    pub lost: Vec<String>,
    /// All errors, in no particular order.
    pub errors: Vec<ConfigError>,
}

/// Reads one file. Never panics, whatever the text; every span lies inside the file.
pub fn read(source: &Source, file: FileId, environment: Environment<'_>) -> Read {
    let mut errors = characters(source, file);
    if !errors.is_empty() {
        // The parser takes NUL for the end of the file: reading on would drop what follows without a word.
        return Read { root: None, lost: Vec::new(), errors };
    }
    let places = Places::new(source.text(), file);
    let mut text = source.text().to_owned();
    let mut lost = Vec::new();
    for _ in 0..SYNTAX_ERRORS_MAX {
        let mut tree = Tree {
            source: source.text(),
            places: &places,
            environment,
            errors: Vec::new(),
            open: Vec::new(),
            root: None,
            nodes: 0,
        };
        match tree.run(&text) {
            Ok(()) => {
                errors.append(&mut tree.errors);
                return Read { root: tree.root, lost, errors };
            }
            Err(Stop::Refused(error)) => {
                errors.append(&mut tree.errors);
                errors.push(*error);
                return Read { root: None, lost, errors };
            }
            Err(Stop::Syntax(error)) => {
                let at = places.byte(error.marker().index());
                let outermost = tree.open.iter().find_map(Open::bracket);
                let innermost = tree.open.iter().rev().find_map(Open::bracket);
                // A bracket that is never closed is noticed only in a later section: the fault lies in its own.
                let section = |at: usize| section_at(source, at).map(|section| section.first);
                let unclosed = innermost
                    .zip(outermost)
                    .filter(|(_, outermost)| section(outermost.start as usize) != section(at));
                let at = unclosed.map_or(at, |(_, outermost)| outermost.start as usize);
                errors.push(match unclosed {
                    Some((innermost, _)) => unclosed_bracket(source, innermost),
                    None => explain(source, file, &error, at, innermost),
                });
                // In JSON, or a map in braces, there are no sections to tell apart.
                if matches!(tree.open.first(), Some(open) if open.bracket().is_some()) {
                    return Read { root: None, lost, errors };
                }
                match blank_section(source, &mut text, at) {
                    Some(key) if !lost.contains(&key) => lost.push(key),
                    _ => return Read { root: None, lost, errors },
                }
            }
        }
    }
    Read { root: None, lost, errors }
}

/// Characters that a reader cannot see, or sees in another order than the machine.
fn characters(source: &Source, file: FileId) -> Vec<ConfigError> {
    let odd = |c: char| {
        (c.is_control() && !matches!(c, '\t' | '\n' | '\r'))
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' | '\u{2028}' | '\u{2029}')
    };
    let found = source.text().char_indices().filter(|&(_, c)| odd(c)).take(10);
    found
        .map(|(at, c)| {
            ConfigError::new(
                CHARACTER,
                "an invisible character stands in the file",
                Span::new(file, at, at + c.len_utf8()),
            )
            .found(format!("U+{:04X}", c as u32))
            .expected("printable text, spaces and line breaks")
            .fix("delete it, or write it as an escape in double quotes")
            .why("control and bidirectional characters make a file read differently from what it means")
        })
        .collect()
}

/// From the parser's character counts to byte offsets.
struct Places {
    file: FileId,
    /// The byte of each character; empty if all are one byte.
    bytes: Vec<u32>,
    len: usize,
}

impl Places {
    fn new(text: &str, file: FileId) -> Places {
        let bytes = match text.is_ascii() {
            true => Vec::new(),
            false => text.char_indices().map(|(at, _)| at as u32).collect(),
        };
        Places { file, bytes, len: text.len() }
    }

    fn byte(&self, character: usize) -> usize {
        match self.bytes.is_empty() {
            true => character.min(self.len),
            false => self.bytes.get(character).map_or(self.len, |&at| at as usize),
        }
    }

    fn span(&self, span: saphyr_parser::Span) -> Span {
        Span::new(self.file, self.byte(span.start.index()), self.byte(span.end.index()))
    }
}

enum Stop {
    Syntax(ScanError),
    Refused(Box<ConfigError>),
}

/// A list or map whose end has not come yet.
enum Open {
    List {
        start: Span,
        bracket: bool,
        items: Vec<Node>,
    },
    Map {
        start: Span,
        bracket: bool,
        entries: Vec<Entry>,
        /// Key → index in `entries`, kept once there are many.
        index: HashMap<String, usize>,
        key: Option<Key>,
        /// The key was refused: its value is read and dropped.
        skip: bool,
    },
}

impl Open {
    /// Where its bracket is; `None` if it is told by indentation, or by its first key.
    fn bracket(&self) -> Option<Span> {
        match self {
            Open::List { start, bracket: true, .. } | Open::Map { start, bracket: true, .. } => {
                Some(Span { end: start.start + 1, ..*start })
            }
            Open::List { .. } | Open::Map { .. } => None,
        }
    }
}

/// Builds the tree from the parser's events with a stack of its own: depth is a bound, not a recursion.
struct Tree<'a> {
    source: &'a str,
    places: &'a Places,
    environment: Environment<'a>,
    errors: Vec<ConfigError>,
    open: Vec<Open>,
    root: Option<Node>,
    nodes: usize,
}

impl Tree<'_> {
    fn run(&mut self, text: &str) -> Result<(), Stop> {
        let mut parser = Parser::new_from_str(text);
        let mut documents = 0;
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(Stop::Syntax)?;
            let span = self.places.span(span);
            match event {
                Event::DocumentStart(explicit) => {
                    documents += 1;
                    if documents > 1 {
                        return Err(Stop::Refused(Box::new(
                            ConfigError::new(DOCUMENTS, "a second document begins", span)
                                .expected("one document in one file")
                                .fix("put it in a file of its own and name that under `include`"),
                        )));
                    }
                    if explicit {
                        self.no_directives(span);
                    }
                }
                Event::Alias(_) => {
                    self.errors.push(alias(span));
                    self.value(Node { span, kind: NodeKind::Refused });
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.decorations(span, anchor, tag.is_some());
                    self.scalar(&text, style, span)?;
                }
                Event::SequenceStart(anchor, tag) => {
                    self.decorations(span, anchor, tag.is_some());
                    let bracket = self.source.as_bytes().get(span.start as usize) == Some(&b'[');
                    self.start(Open::List { start: span, bracket, items: Vec::new() })?;
                }
                Event::MappingStart(anchor, tag) => {
                    self.decorations(span, anchor, tag.is_some());
                    let bracket = self.source.as_bytes().get(span.start as usize) == Some(&b'{');
                    self.start(Open::Map {
                        start: span,
                        bracket,
                        entries: Vec::new(),
                        index: HashMap::new(),
                        key: None,
                        skip: false,
                    })?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.end(span),
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            }
        }
        Ok(())
    }

    fn count(&mut self, span: Span) -> Result<(), Stop> {
        self.nodes += 1;
        if self.nodes > NODES_MAX {
            return Err(Stop::Refused(Box::new(
                ConfigError::new(TOO_LARGE, "there are too many values in one file", span)
                    .expected("at most 1,000,000 values"),
            )));
        }
        Ok(())
    }

    fn start(&mut self, open: Open) -> Result<(), Stop> {
        let span = match &open {
            Open::List { start, .. } | Open::Map { start, .. } => *start,
        };
        self.count(span)?;
        if self.open.len() >= DEPTH_MAX {
            return Err(Stop::Refused(Box::new(
                ConfigError::new(TOO_LARGE, "lists and maps are nested too deeply", span)
                    .expected("at most 32 levels"),
            )));
        }
        self.open.push(open);
        Ok(())
    }

    fn end(&mut self, end: Span) {
        let Some(open) = self.open.pop() else { return };
        // The closing token may carry the space behind it.
        let closed = matches!(self.source.as_bytes().get(end.start as usize), Some(b']' | b'}'));
        let end = Span { end: end.start + u32::from(closed), ..end };
        let node = match open {
            Open::List { start, bracket, items } => {
                let last = items.last().map_or(start, |item| item.span);
                let span = if bracket { start.to(end) } else { start.to(last) };
                Node { span, kind: NodeKind::List(items) }
            }
            Open::Map { start, bracket, entries, .. } => {
                let last = entries.last().map_or(start, |entry| entry.key.span.to(entry.value.span));
                let span = if bracket { start.to(end) } else { start.to(last) };
                Node { span, kind: NodeKind::Map(entries) }
            }
        };
        self.value(node);
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, span: Span) -> Result<(), Stop> {
        self.count(span)?;
        let written = &self.source[span.range()];
        let plain = style == ScalarStyle::Plain;
        let errors_before = self.errors.len();
        if plain && written.contains('\n') {
            self.errors.push(runs_over(span));
        }
        let key_next = matches!(self.open.last(), Some(Open::Map { key: None, .. }));
        if key_next && plain && text == "<<" {
            self.errors.push(alias(span));
        }
        // The parser stands `~` in for a value that is not there.
        let text = if plain && span.start == span.end { "" } else { text };
        let (text, substituted) = match style {
            _ if key_next => (text.to_owned(), false),
            ScalarStyle::Plain | ScalarStyle::DoubleQuoted => self.substitute(text, span),
            ScalarStyle::SingleQuoted | ScalarStyle::Literal | ScalarStyle::Folded => {
                (text.to_owned(), false)
            }
        };
        let refused = self.errors.len() > errors_before && !key_next;
        let kind = match refused {
            true => NodeKind::Refused,
            false => NodeKind::Scalar(Scalar { text, plain, substituted }),
        };
        self.value(Node { span, kind });
        Ok(())
    }

    /// Hands a finished value to the list or map that waits for it.
    fn value(&mut self, node: Node) {
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map { entries, index, key, skip, .. }) => match key.take() {
                Some(key) if *skip => {
                    *skip = false;
                    drop(key);
                }
                Some(key) => {
                    // A missing value has no place: it is where its key is.
                    let value = match node.span.start == node.span.end && node.is_null() {
                        true => Node { span: key.span, ..node },
                        false => node,
                    };
                    entries.push(Entry { key, value });
                }
                None => {
                    let span = node.span;
                    let text = match node.kind {
                        NodeKind::Scalar(scalar) if !(scalar.plain && scalar.text.is_empty()) => scalar.text,
                        NodeKind::Scalar(_) | NodeKind::List(_) | NodeKind::Map(_) | NodeKind::Refused => {
                            self.errors.push(
                                ConfigError::new(KEY_NOT_TEXT, "a key is not text", span)
                                    .expected("a name followed by `:`"),
                            );
                            *skip = true;
                            *key = Some(Key { text: String::new(), span });
                            return;
                        }
                    };
                    match index.get(&text) {
                        Some(&first) => {
                            self.errors.push(
                                ConfigError::new(
                                    DUPLICATE_KEY,
                                    format!("`{text}` stands twice in one map"),
                                    span,
                                )
                                .label("again here")
                                .also(entries[first].key.span, "first here")
                                .fix("keep one of them")
                                .why("other readers silently take the last one, and a protection is gone"),
                            );
                            *skip = true;
                        }
                        None => {
                            index.insert(text.clone(), entries.len());
                        }
                    }
                    *key = Some(Key { text, span });
                }
            },
        }
    }

    fn decorations(&mut self, span: Span, anchor: usize, tag: bool) {
        if anchor > 0 {
            self.errors.push(alias(span));
        }
        if tag {
            self.errors.push(
                ConfigError::new(TAG, "a tag (`!…`) stands before a value", span)
                    .expected("values without tags")
                    .fix("delete the tag; text that starts with `!` needs quotes"),
            );
        }
    }

    fn no_directives(&mut self, document: Span) {
        let mut at = 0;
        for line in self.source[..document.start as usize].split_inclusive('\n') {
            if line.starts_with('%') {
                let span = Span::new(document.file, at, at + line.trim_end().len());
                self.errors.push(
                    ConfigError::new(DOCUMENTS, "a YAML directive (`%…`) stands in the file", span)
                        .fix("delete it"),
                );
            }
            at += line.len();
        }
    }

    /// `${NAME}` → the variable; `$${` → `${`. Returns whether anything was replaced.
    fn substitute(&mut self, text: &str, span: Span) -> (String, bool) {
        let mut out = String::with_capacity(text.len());
        let mut substituted = false;
        let mut rest = text;
        while let Some(at) = rest.find("${") {
            if rest[..at].ends_with('$') {
                out.push_str(&rest[..at - 1]);
                out.push_str("${");
                rest = &rest[at + 2..];
                continue;
            }
            out.push_str(&rest[..at]);
            let name = rest[at + 2..].split_once('}').map(|(name, _)| name);
            let Some(name) = name.filter(|name| is_variable(name)) else {
                self.errors.push(
                    ConfigError::new(VARIABLE_SYNTAX, "`${` is not followed by the name of a variable", span)
                        .expected("`${NAME}`: letters, digits and `_`, without a default")
                        .fix("write `$${` for the characters themselves"),
                );
                return (String::new(), true);
            };
            match (self.environment)(name) {
                Some(value) => out.push_str(&value),
                None => self.errors.push(
                    ConfigError::new(VARIABLE_UNSET, format!("the variable `{name}` is not set"), span).fix(
                        format!("set {name} in the environment of the process, or write the value here"),
                    ),
                ),
            }
            substituted = true;
            rest = &rest[at + 2 + name.len() + 1..];
        }
        out.push_str(rest);
        (out, substituted)
    }
}

fn is_variable(name: &str) -> bool {
    name.bytes().next().is_some_and(|b| b.is_ascii_alphabetic() || b == b'_')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

fn alias(span: Span) -> ConfigError {
    ConfigError::new(ALIAS, "anchors (`&`), aliases (`*`) and merge keys (`<<`) are not read", span)
        .expected("each value written where it applies")
        .fix("write the value out; text that starts with `&` or `*` needs quotes")
        .why("a value that acts at a distance is easy to widen by accident, and expands without bound")
}

fn runs_over(span: Span) -> ConfigError {
    ConfigError::new(RUNS_OVER, "a value without quotes runs over several lines", span)
        .label("a comma or a `:` is probably missing")
        .fix("put text of several lines in quotes, or use `>`")
}

fn unclosed_bracket(source: &Source, bracket: Span) -> ConfigError {
    let written = &source.text()[bracket.range()];
    ConfigError::new(SYNTAX, format!("this `{written}` is not closed"), bracket)
        .expected(if written == "[" { "a `]` in the same section" } else { "a `}` in the same section" })
        .fix("check the commas and brackets")
}

/// What the parser's error means to somebody who is not writing a parser.
fn explain(source: &Source, file: FileId, error: &ScanError, at: usize, open: Option<Span>) -> ConfigError {
    let text = source.text();
    let line = source.position(at).line;
    let range = source.line(line);
    // The parser may stand after the place that matters, at the end of the file for instance.
    let at = at.min(text.len());
    let end = text[at..].char_indices().nth(1).map_or(text.len(), |(next, _)| at + next);
    let span = Span::new(file, at, if text[at..end].contains(['\n', '\r']) { at } else { end });
    if let Some(tab) = indentation_tab(source, line) {
        return ConfigError::new(TAB, "a tab stands where YAML wants spaces", Span::new(file, tab, tab + 1))
            .expected("spaces")
            .fix("replace the tab by spaces; most editors can do it for the whole file");
    }
    let info = error.info();
    if info.contains("anchor") {
        return alias(span);
    }
    let written = text[range.clone()].trim_start();
    let base = ConfigError::new(SYNTAX, "this is not YAML", span).found(info.to_owned());
    let base = match open {
        Some(open) if at >= text.trim_end().len() => base.also(open, "opened here, never closed"),
        _ => base,
    };
    if info.contains("mapping values are not allowed") || info.contains("illegal placement of ':'") {
        return base.fix(
            "give each `key: value` a line of its own at the right depth, or put text with `: ` in quotes",
        );
    }
    if written.starts_with(['@', '`', '%']) || info.contains("unexpected character") {
        return base.fix("put text that starts with a special character in quotes");
    }
    if info.contains("flow") || info.contains("',' or") || info.contains("trailing content") {
        return base.fix("check the commas and brackets of this `{…}` or `[…]`");
    }
    if info.contains("quoted scalar") {
        return base.fix("close the quotes; in double quotes a backslash is written `\\\\`");
    }
    if info.contains("simple key") || info.contains("expected key") || info.contains("indentation") {
        return base.fix("check the indentation, and that a `:` with a space follows the key");
    }
    base
}

/// The first tab in the indentation of a line or of the one before it.
fn indentation_tab(source: &Source, line: usize) -> Option<usize> {
    [line, line.saturating_sub(1)].into_iter().filter(|&line| line > 0).find_map(|line| {
        let range = source.line(line);
        let text = &source.text()[range.clone()];
        let indentation = text.len() - text.trim_start_matches([' ', '\t']).len();
        text[..indentation].find('\t').filter(|_| indentation < text.len()).map(|at| range.start + at)
    })
}

/// A top-level key and the lines up to the next.
struct Section {
    key: String,
    first: usize,
    bytes: std::ops::Range<usize>,
}

fn section_at(source: &Source, at: usize) -> Option<Section> {
    let top_level = |line: usize| {
        let written = &source.text()[source.line(line)];
        let key = written.split_once(':')?.0.trim_end().trim_matches(['"', '\'']);
        let named = key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'))
            || !key.is_ascii() && !key.contains(char::is_whitespace);
        (named && !key.is_empty() && written.starts_with(|c: char| !c.is_whitespace()))
            .then(|| key.to_owned())
    };
    let line = source.position(at).line;
    let (first, key) = (1..=line).rev().find_map(|line| top_level(line).map(|key| (line, key)))?;
    let next = (line + 1..=source.lines()).find(|&line| top_level(line).is_some());
    let end = next.map_or(source.text().len(), |next| source.line(next).start);
    Some(Section { key, first, bytes: source.line(first).start..end })
}

/// Paints the top-level section around `at` over with spaces, character by character, so that every other place
/// keeps its position. Returns its key; `None` if there is no such section, or it is blank already.
fn blank_section(source: &Source, text: &mut String, at: usize) -> Option<String> {
    let section = section_at(source, at)?;
    let blank: String = source.text()[section.bytes.clone()]
        .chars()
        .map(|c| if matches!(c, '\n' | '\r') { c } else { ' ' })
        .collect();
    // The parser counts characters, and so does `Places`: bytes before may already have become fewer.
    let from = byte_of_character(text, source.text()[..section.bytes.start].chars().count());
    let to = byte_of_character(text, source.text()[..section.bytes.end].chars().count());
    if text[from..to] == blank {
        return None;
    }
    text.replace_range(from..to, &blank);
    Some(section.key)
}

fn byte_of_character(text: &str, character: usize) -> usize {
    text.char_indices().nth(character).map_or(text.len(), |(at, _)| at)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parse(text: &str) -> (Source, Read) {
        let source = Source::new("t.yaml", Path::new("."), text).unwrap();
        let environment = |name: &str| match name {
            "PORT" => Some("8080".to_owned()),
            "HOST" => Some("a.example.com".to_owned()),
            _ => None,
        };
        let read = read(&source, FileId::default(), &environment);
        (source, read)
    }

    fn codes(text: &str) -> Vec<(Code, usize, usize)> {
        let (source, read) = parse(text);
        let place = |e: &ConfigError| source.position(e.primary.span.start as usize);
        read.errors.iter().map(|e| (e.code, place(e).line, place(e).column)).collect()
    }

    fn ok(text: &str) -> Node {
        let (_, read) = parse(text);
        assert_eq!(read.errors, vec![], "{text}");
        read.root.unwrap()
    }

    #[test]
    fn a_tree_keeps_the_place_of_every_value() {
        let text = "a: 1\nü: { b: [x, \"y\"] }\nc:\n  - d: e\n    f: g\n\nh: i\n";
        let (source, read) = parse(text);
        assert_eq!(read.errors, vec![]);
        let root = read.root.unwrap();
        let written = |node: &Node| source.text()[node.span.range()].to_owned();
        assert_eq!(written(root.get("ü").unwrap()), "{ b: [x, \"y\"] }");
        assert_eq!(written(root.get("ü").unwrap().get("b").unwrap()), "[x, \"y\"]");
        assert_eq!(written(root.get("c").unwrap()), "- d: e\n    f: g");
        assert_eq!(written(root.get("h").unwrap()), "i");
        assert_eq!(written(&root), text.trim_end());
    }

    #[test]
    fn json_is_read() {
        let root = ok(r#"{"ringwall": 1, "a": {"b": [1, true, "x\ny", null]}, "c":"d"}"#);
        assert!(root.get("a").unwrap().get("b").is_some());
        assert_eq!(root.get("c").unwrap().scalar().unwrap().text, "d");
    }

    #[test]
    fn what_surprises_is_refused_with_its_place() {
        for (text, code, line, column) in [
            ("a: 1\nb: 2\na: 3\n", DUPLICATE_KEY, 3, 1),
            ("a: { x: 1, x: 2 }\n", DUPLICATE_KEY, 1, 12),
            ("a: &x 1\n", ALIAS, 1, 7),
            ("a: *x\n", ALIAS, 1, 4),
            ("<<: { a: 1 }\n", ALIAS, 1, 1),
            ("a: !!str 1\n", TAG, 1, 10),
            ("a: 1\n---\nb: 2\n", DOCUMENTS, 2, 1),
            ("%YAML 1.2\n---\na: 1\n", DOCUMENTS, 1, 1),
            ("a: one\n  two\n", RUNS_OVER, 1, 4),
            ("a: { b: c\n  d }\n", RUNS_OVER, 1, 9),
            ("? [a]\n: 1\n", KEY_NOT_TEXT, 1, 3),
            ("a:\n\tb: 1\n", TAB, 2, 1),
            ("a: \u{202e}x\n", CHARACTER, 1, 4),
            ("a: x\u{0}\nb: 1\n", CHARACTER, 1, 5),
            ("a: ${NOPE}\n", VARIABLE_UNSET, 1, 4),
            ("a: ${PORT\n", VARIABLE_SYNTAX, 1, 4),
            ("a: ${PORT:-80}\n", VARIABLE_SYNTAX, 1, 4),
        ] {
            assert!(codes(text).contains(&(code, line, column)), "{text:?}: {:?}", codes(text));
        }
    }

    #[test]
    fn depth_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(codes(&nested(DEPTH_MAX)).is_empty());
        assert_eq!(codes(&nested(DEPTH_MAX + 1))[0].0, TOO_LARGE);
        assert!(!codes(&"[".repeat(100_000)).is_empty());
    }

    #[test]
    fn variables_are_replaced_except_in_single_quotes() {
        let root = ok("a: ${PORT}\nb: \"${HOST}:${PORT}\"\nc: '${HOST}'\nd: $${HOST} $5\n");
        let scalar = |key: &str| root.get(key).unwrap().scalar().unwrap().clone();
        assert_eq!(scalar("a").text, "8080");
        assert!(scalar("a").substituted && scalar("a").plain);
        assert_eq!(scalar("b").text, "a.example.com:8080");
        assert_eq!(scalar("c").text, "${HOST}");
        assert_eq!((scalar("d").text.as_str(), scalar("d").substituted), ("${HOST} $5", false));
    }

    #[test]
    fn a_syntax_error_loses_only_its_section() {
        let text = "a: { x: 1\nb: 2\nü: 3\nc: [ä, }\nd: 4\n";
        let (source, read) = parse(text);
        assert_eq!(read.lost, ["a", "c"], "{:?}", read.errors);
        let root = read.root.unwrap();
        for (key, value) in [("b", "2"), ("ü", "3"), ("d", "4")] {
            let node = root.get(key).unwrap_or_else(|| panic!("{key}"));
            assert_eq!(&source.text()[node.span.range()], value);
        }
    }

    #[test]
    fn a_missing_value_is_where_its_key_is() {
        let (source, read) = parse("a:\nb: 1\n");
        let root = read.root.unwrap();
        let a = root.get("a").unwrap();
        assert!(a.is_null());
        assert_eq!(&source.text()[a.span.range()], "a");
    }
}
