//! From the tree to types: every error collected, none masked.
//!
//! A type that can be written in a configuration implements [`FromNode`]; a map is taken apart with [`Bind::map`]
//! and a [`Table`] of its keys. A value that is wrong is reported once and left out, and binding goes on with what
//! is beside it. Used by `model` and by the `Config` of a policy; knows nothing of what the keys mean.

use std::collections::{HashMap, HashSet};
use std::fmt::Display;
use std::ops::Deref;

use super::error::{Code, ConfigError};
use super::node::{Entry, Meaning, Node, NodeKind};
use super::shape::{Key, Presence, Shape, Table, distance, nearest};
use super::source::{Sources, Span};

/// There is no such key.
pub const KEY_UNKNOWN: Code = Code::new(1003);
/// A key that must be there is not.
pub const KEY_MISSING: Code = Code::new(1005);
/// The value is of another kind than the key wants.
pub const TYPE: Code = Code::new(1006);
/// `yes`, `no`, `on`, `off` where a boolean is meant.
pub const BOOLEAN: Code = Code::new(1007);
/// A number, size or time is outside its bounds.
pub const OUT_OF_RANGE: Code = Code::new(1008);
/// The key belongs to a later version.
pub const LATER: Code = Code::new(1009);
/// A key has no value.
pub const NO_VALUE: Code = Code::new(1014);
/// The value is not one of the words that the key knows.
pub const WORD: Code = Code::new(1017);
/// A list or map is empty that must not be.
pub const EMPTY: Code = Code::new(1025);
/// A name of the operator's choice is not one.
pub const NAME: Code = Code::new(1028);

/// Names of listeners, upstreams, logins, APIs and operations are at most this long, in characters.
pub const NAME_CHARACTERS_MAX: usize = 64;

/// Errors, and notes, that one run keeps before they are ordered by place.
pub const REPORTS_MAX: usize = 10_000;

/// A type that can be written in a configuration.
pub trait FromNode: Sized {
    /// What it looks like, for `ringwall schema`.
    const SHAPE: Shape = Shape::Any;

    /// Reads it. `None` only after an error was reported to `bind`.
    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self>;

    /// Its size in the unit of its bounds (count, bytes, milliseconds); `None` if it has none.
    fn measure(&self) -> Option<u128> {
        None
    }
}

/// A value and where it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// The place.
    pub span: Span,
}

impl<T> Spanned<T> {
    /// A value with its place.
    pub const fn new(value: T, span: Span) -> Spanned<T> {
        Spanned { value, span }
    }
}

impl<T> Deref for Spanned<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

/// Things under names of the operator's choice, in the order written.
#[derive(Clone, Debug)]
pub struct Named<T> {
    /// The whole map; empty if it was not written.
    pub span: Span,
    entries: Vec<(Spanned<String>, T)>,
    index: HashMap<String, usize>,
    /// Names whose value was refused: they exist, so that nobody is told that they do not.
    broken: HashSet<String>,
}

impl<T> Default for Named<T> {
    fn default() -> Self {
        Named { span: Span::default(), entries: Vec::new(), index: HashMap::new(), broken: HashSet::new() }
    }
}

impl<T> Named<T> {
    /// The thing of that name.
    pub fn get(&self, name: &str) -> Option<&T> {
        self.index.get(name).map(|&at| &self.entries[at].1)
    }

    /// Whether the name was written, even if its value was refused.
    pub fn knows(&self, name: &str) -> bool {
        self.index.contains_key(name) || self.broken.contains(name)
    }

    /// All, in the order written.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Spanned<String>, &T)> {
        self.entries.iter().map(|(name, value)| (name, value))
    }

    /// All names that were written, those with a refused value last.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|(name, _)| name.value.as_str()).chain(self.broken.iter().map(String::as_str))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The index of a name in [`Named::iter`].
    pub fn position(&self, name: &str) -> Option<usize> {
        self.index.get(name).copied()
    }
}

/// Collects what is wrong while a tree becomes types.
pub struct Bind<'s> {
    sources: &'s Sources,
    tables: &'static [&'static Table],
    errors: Vec<ConfigError>,
    notes: Vec<ConfigError>,
    blots: Vec<Span>,
}

impl<'s> Bind<'s> {
    /// Nothing wrong yet. `tables` are those in which an unknown key is looked for, to say where it belongs.
    pub fn new(sources: &'s Sources, tables: &'static [&'static Table]) -> Bind<'s> {
        Bind { sources, tables, errors: Vec::new(), notes: Vec::new(), blots: Vec::new() }
    }

    /// The files that were read.
    pub fn sources(&self) -> &'s Sources {
        self.sources
    }

    /// Reports an error. Beyond [`REPORTS_MAX`] nothing is kept.
    pub fn error(&mut self, error: ConfigError) {
        if self.errors.len() < REPORTS_MAX {
            self.errors.push(error);
        }
    }

    /// Reports a note. Beyond [`REPORTS_MAX`] nothing is kept.
    pub fn note(&mut self, note: ConfigError) {
        if self.notes.len() < REPORTS_MAX {
            self.notes.push(note);
        }
    }

    /// Never show the text of this place: it is a secret, or may be one.
    pub fn blot(&mut self, span: Span) {
        self.blots.push(span);
    }

    /// How many errors there are so far.
    pub fn error_count(&self) -> usize {
        self.errors.len()
    }

    /// Errors, notes and blots, in the order in which they were reported.
    pub fn into_parts(self) -> (Vec<ConfigError>, Vec<ConfigError>, Vec<Span>) {
        (self.errors, self.notes, self.blots)
    }

    /// What stands there, in words; never what came from the environment.
    pub fn found(&self, node: &Node) -> String {
        let scalar = match &node.kind {
            NodeKind::List(items) if items.is_empty() => return "an empty list".into(),
            NodeKind::List(_) => return "a list".into(),
            NodeKind::Map(entries) => {
                let keys: Vec<&str> = entries.iter().take(4).map(|entry| entry.key.text.as_str()).collect();
                return match keys.as_slice() {
                    [] => "an empty map".into(),
                    [key] => format!("a map with the key `{key}`"),
                    keys => format!("a map with the keys `{}`", keys.join("`, `")),
                };
            }
            NodeKind::Refused => return "a value that cannot be read".into(),
            NodeKind::Scalar(scalar) => scalar,
        };
        let written = self.sources.text(node.span).lines().next().unwrap_or("");
        let shown: String = written.chars().take(60).collect();
        let dots = if shown.len() < written.len() { "…" } else { "" };
        let from = if scalar.substituted { ", whose value from the environment is not shown" } else { "" };
        match scalar.meaning() {
            Meaning::Null => "no value".into(),
            Meaning::Bool(_) => format!("the boolean `{shown}`"),
            Meaning::Int(_) | Meaning::Float(_) => format!("the number `{shown}`{dots}{from}"),
            Meaning::Text(_) => format!("`{shown}`{dots}{from}"),
        }
    }

    /// Reports that a value is of the wrong kind; says it in the best words for what was found. Returns `None`.
    pub fn mismatch<T>(&mut self, node: &Node, expected: impl Into<String>) -> Option<T> {
        if node.is_refused() {
            return None;
        }
        let expected = expected.into();
        let found = self.found(node);
        let error = match node.scalar().map(|scalar| scalar.meaning()) {
            Some(Meaning::Null) => ConfigError::new(NO_VALUE, "a key has no value", node.span)
                .fix("give it a value, or leave the key out"),
            _ => ConfigError::new(TYPE, format!("expected {expected}"), node.span),
        };
        self.error(error.found(found).expected(expected));
        None
    }

    /// The text of a scalar: any but null and booleans, numbers as they are written.
    pub fn text<'n>(&mut self, node: &'n Node, expected: &str) -> Option<&'n str> {
        match node.scalar() {
            Some(scalar) => match scalar.meaning() {
                Meaning::Null => self.mismatch(node, expected),
                Meaning::Bool(_) => {
                    let found = self.found(node);
                    self.error(
                        ConfigError::new(TYPE, format!("expected {expected}"), node.span)
                            .found(found)
                            .expected(expected)
                            .fix("put it in quotes if it is meant as text"),
                    );
                    None
                }
                Meaning::Int(_) | Meaning::Float(_) | Meaning::Text(_) => Some(&scalar.text),
            },
            None => self.mismatch(node, expected),
        }
    }

    /// One of a few words.
    pub fn word<T: Copy>(&mut self, node: &Node, words: &[(&'static str, T)]) -> Option<T> {
        let list = words.iter().map(|(word, _)| format!("`{word}`")).collect::<Vec<_>>();
        let expected = one_of(&list);
        let text = self.text(node, &expected)?;
        if let Some((_, value)) = words.iter().find(|(word, _)| *word == text) {
            return Some(*value);
        }
        let found = self.found(node);
        let mut error =
            ConfigError::new(WORD, format!("{found} is not one of the words known here"), node.span)
                .found(found)
                .expected(expected);
        if let Some(near) = nearest(text, words.iter().map(|(word, _)| *word)) {
            error = error.suggest(near);
        }
        self.error(error);
        None
    }

    /// Takes a map apart. Keys that are not in `table` are reported first; then `body` takes what it knows.
    /// `None` if the node is no map, or `body` says so.
    pub fn map<T>(
        &mut self,
        node: &Node,
        table: &'static Table,
        body: impl FnOnce(&mut MapBinder<'_, '_, '_>) -> Option<T>,
    ) -> Option<T> {
        let Some(entries) = node.entries() else {
            let required: Vec<String> = table
                .keys
                .iter()
                .filter(|key| key.presence == Presence::Required)
                .map(|key| format!("`{}`", key.name))
                .collect();
            let with =
                if required.is_empty() { String::new() } else { format!(" with {}", all_of(&required)) };
            return self.mismatch(node, format!("{}: a map{with}", table.what));
        };
        let meant = entries.iter().filter_map(|entry| self.known(entry, table, entries)).collect();
        let mut binder = MapBinder { bind: self, node, entries, table, meant };
        body(&mut binder)
    }

    /// Reports a key that the table has not, or has for later. Returns the key that was probably meant.
    fn known(&mut self, entry: &Entry, table: &'static Table, siblings: &[Entry]) -> Option<&'static str> {
        let name = entry.key.text.as_str();
        match table.key(name) {
            Some(key) if key.presence == Presence::Later => {
                self.error(not_in_this_version(&format!("`{name}`"), key.doc, entry.key.span));
                None
            }
            Some(_) => None,
            None => {
                let all: Vec<String> = table.present().map(|key| format!("`{}`", key.name)).collect();
                let mut error = ConfigError::new(
                    KEY_UNKNOWN,
                    format!("{} has no key `{}`", table.what, shorten(name)),
                    entry.key.span,
                )
                .found(format!("`{}`", shorten(name)))
                .expected(if all.is_empty() { "no keys".into() } else { one_of(&all) });
                let free =
                    table.present().filter(|key| siblings.iter().all(|other| other.key.text != key.name));
                let near = nearest(name, free.map(|key| key.name))
                    .or_else(|| nearest(name, table.present().map(|key| key.name)));
                let elsewhere = self.tables.iter().find(|other| {
                    other.place != table.place
                        && other.key(name).is_some_and(|key| key.presence != Presence::Later)
                });
                let slip = near.is_some_and(|near| distance(name, near) <= 1);
                if let (Some(other), false) = (elsewhere, slip) {
                    error = error.fix(format!("`{name}` is a key of `{}`: move it there", other.place));
                } else if let Some(near) = near {
                    error = error.suggest(near);
                } else {
                    error = error.fix("delete it; `ringwall schema` lists all keys");
                }
                self.error(error.why("a key that is silently ignored is a protection that is silently gone"));
                near
            }
        }
    }

    /// A map of names to values. A value that is refused leaves its name known.
    pub fn named<T: FromNode>(&mut self, node: &Node, what: &str) -> Option<Named<T>> {
        let Some(entries) = node.entries() else {
            return self.mismatch(node, format!("a map from the name of each {what} to what it is"));
        };
        let mut named = Named { span: node.span, ..Named::default() };
        for entry in entries {
            let name = &entry.key.text;
            if !is_name(name) {
                self.error(
                    ConfigError::new(NAME, format!("`{}` is not a name", shorten(name)), entry.key.span)
                        .expected("a letter, then letters, digits, `_`, `-` or `.`; at most 64 in all")
                        .why("names appear in logs, metrics and limits"),
                );
            }
            match T::from_node(&entry.value, self) {
                Some(value) => {
                    named.index.insert(name.clone(), named.entries.len());
                    named.entries.push((Spanned::new(name.clone(), entry.key.span), value));
                }
                None => {
                    named.broken.insert(name.clone());
                }
            }
        }
        Some(named)
    }

    /// Checks a value against bounds written as the operator would write them.
    fn in_bounds<T: FromNode>(&mut self, value: &T, node: &Node, key: &Key) -> bool {
        let (Some((least, greatest)), Some(measure)) = (key.bounds, value.measure()) else { return true };
        let bound = |text: &str| {
            let mut quiet = Bind::new(self.sources, &[]);
            T::from_node(&Node::text(text, Span::default()), &mut quiet).and_then(|bound| bound.measure())
        };
        let (low, high) = (bound(least), bound(greatest));
        debug_assert!(low.is_some() && high.is_some(), "the bounds of `{}` are not values of it", key.name);
        if low.is_none_or(|low| low <= measure) && high.is_none_or(|high| measure <= high) {
            return true;
        }
        let found = self.found(node);
        self.error(
            ConfigError::new(OUT_OF_RANGE, format!("`{}` is out of its bounds", key.name), node.span)
                .found(found)
                .expected(format!("{least} to {greatest}")),
        );
        false
    }
}

/// Takes one map apart, key by key.
pub struct MapBinder<'a, 's, 'n> {
    bind: &'a mut Bind<'s>,
    node: &'n Node,
    entries: &'n [Entry],
    table: &'static Table,
    /// Keys that an unknown key was taken for: reported already, so not missing.
    meant: Vec<&'static str>,
}

impl<'a, 's, 'n> MapBinder<'a, 's, 'n> {
    /// The value of a key that must be there; reported if it is not. `None` after an error.
    pub fn required<T: FromNode>(&mut self, key: &'static str) -> Option<T> {
        if self.node(key).is_none() {
            self.missing(key);
        }
        self.optional(key)
    }

    /// The value of a key, if it is there and right; reported if it is wrong or out of its bounds.
    pub fn optional<T: FromNode>(&mut self, key: &'static str) -> Option<T> {
        debug_assert!(self.table.key(key).is_some(), "`{key}` is not in the table of {}", self.table.place);
        let node = self.node(key)?;
        let value = T::from_node(node, self.bind)?;
        match self.table.key(key) {
            Some(key) if !self.bind.in_bounds(&value, node, key) => None,
            _ => Some(value),
        }
    }

    /// Reports that a key is missing, unless it was written with a slip that was reported.
    pub fn missing(&mut self, key: &'static str) {
        if self.attempted(key) {
            return;
        }
        let doc = self.table.key(key).map_or("", |key| key.doc);
        let error = ConfigError::new(
            KEY_MISSING,
            format!("{} needs the key `{key}`", self.table.what),
            self.head_span(),
        )
        .expected(format!("`{key}`: {doc}"));
        self.bind.error(error);
    }

    /// The node of a key.
    pub fn node(&self, key: &str) -> Option<&'n Node> {
        self.entries.iter().find(|entry| entry.key.text == key).map(|entry| &entry.value)
    }

    /// The place of a key itself.
    pub fn key_span(&self, key: &str) -> Option<Span> {
        self.entries.iter().find(|entry| entry.key.text == key).map(|entry| entry.key.span)
    }

    /// Whether a key is there.
    pub fn has(&self, key: &str) -> bool {
        self.node(key).is_some()
    }

    /// Whether a key is there, or was written with a slip that was reported.
    pub fn attempted(&self, key: &str) -> bool {
        self.has(key) || self.meant.contains(&key)
    }

    /// The place of the whole map.
    pub fn span(&self) -> Span {
        self.node.span
    }

    /// The place to point at when something about the whole map is wrong: its first key.
    pub fn head_span(&self) -> Span {
        self.entries.first().map_or(self.node.span, |entry| entry.key.span)
    }

    /// The binder itself, for errors and nested values.
    pub fn bind(&mut self) -> &mut Bind<'s> {
        self.bind
    }

    /// Reports an error.
    pub fn error(&mut self, error: ConfigError) {
        self.bind.error(error);
    }

    /// Which one of `keys` is there; reported with `code` if there are several. `None` if there is none or many.
    pub fn one_of(&mut self, code: Code, keys: &[&'static str]) -> Option<&'static str> {
        let present: Vec<&'static str> = keys.iter().copied().filter(|key| self.has(key)).collect();
        match present.as_slice() {
            [] => None,
            [one] => Some(one),
            [first, second, ..] => {
                let quoted: Vec<String> = keys.iter().map(|key| format!("`{key}`")).collect();
                let mut error = ConfigError::new(
                    code,
                    format!("`{first}` and `{second}` exclude each other"),
                    self.key_span(second).unwrap_or(self.node.span),
                )
                .expected(format!("exactly one of {}", all_of(&quoted)))
                .fix("keep the one that is meant");
                if let Some(span) = self.key_span(first) {
                    error = error.also(span, "the other one");
                }
                self.bind.error(error);
                None
            }
        }
    }
}

/// The error for what Ringwall will have, but does not have yet.
pub fn not_in_this_version(what: &str, doc: &str, span: Span) -> ConfigError {
    let mut error = ConfigError::new(LATER, format!("{what} is not in this version"), span)
        .fix("leave it out until a version of Ringwall has it")
        .why("what cannot be enforced is not accepted");
    if !doc.is_empty() {
        error = error.label(doc);
    }
    error
}

/// A letter, then letters, digits, `_`, `-`, `.`: safe in logs, metrics and paths.
pub fn is_name(text: &str) -> bool {
    text.len() <= NAME_CHARACTERS_MAX
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'))
}

/// `a`, `b` or `c`.
pub fn one_of(words: &[String]) -> String {
    join(words, "or")
}

/// `a`, `b` and `c`.
pub fn all_of(words: &[String]) -> String {
    join(words, "and")
}

fn join(words: &[String], last: &str) -> String {
    match words {
        [] => String::new(),
        [one] => one.clone(),
        [head @ .., tail] => format!("{} {last} {tail}", head.join(", ")),
    }
}

fn shorten(text: &str) -> String {
    let short: String = text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if short.len() < text.len() { format!("{short}…") } else { short }
}

impl<T: FromNode> FromNode for Spanned<T> {
    const SHAPE: Shape = T::SHAPE;

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        T::from_node(node, bind).map(|value| Spanned::new(value, node.span))
    }

    fn measure(&self) -> Option<u128> {
        self.value.measure()
    }
}

/// A list; one of it may be written without brackets. An empty list is an error.
impl<T: FromNode> FromNode for Vec<T> {
    const SHAPE: Shape = Shape::OneOrMany(&T::SHAPE);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        match &node.kind {
            NodeKind::List(items) if items.is_empty() => {
                bind.error(
                    ConfigError::new(EMPTY, "an empty list says nothing", node.span)
                        .expected("at least one value")
                        .fix("leave the key out if it is not needed"),
                );
                None
            }
            NodeKind::List(items) => Some(items.iter().filter_map(|item| T::from_node(item, bind)).collect()),
            NodeKind::Scalar(_) | NodeKind::Map(_) => T::from_node(node, bind).map(|one| vec![one]),
            NodeKind::Refused => None,
        }
    }
}

/// `true` or `false`, no other spelling.
impl FromNode for bool {
    const SHAPE: Shape = Shape::Bool;

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        let expected = "`true` or `false`";
        let meaning = node.scalar().map(|scalar| scalar.meaning());
        match meaning {
            Some(Meaning::Bool(value)) => Some(value),
            Some(Meaning::Text(text)) => {
                let suggestion = match text.to_ascii_lowercase().as_str() {
                    "yes" | "on" | "y" | "true" | "enabled" => Some("true"),
                    "no" | "off" | "n" | "false" | "disabled" => Some("false"),
                    _ => None,
                };
                let Some(suggestion) = suggestion else { return bind.mismatch(node, expected) };
                let found = bind.found(node);
                bind.error(
                    ConfigError::new(BOOLEAN, "a boolean is `true` or `false`, unquoted", node.span)
                        .found(found)
                        .expected(expected)
                        .suggest(suggestion)
                        .why("`yes`, `no`, `on` and `off` mean different things to different readers"),
                );
                None
            }
            _ => bind.mismatch(node, expected),
        }
    }
}

/// A whole number from 0.
impl FromNode for u64 {
    const SHAPE: Shape = Shape::Int;

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        match node.scalar().map(|scalar| scalar.meaning()) {
            Some(Meaning::Int(value)) => match u64::try_from(value) {
                Ok(value) => Some(value),
                Err(_) => bind.mismatch(node, "a whole number, 0 or greater"),
            },
            _ => bind.mismatch(node, "a whole number"),
        }
    }

    fn measure(&self) -> Option<u128> {
        Some(u128::from(*self))
    }
}

/// Text; numbers are taken as written, booleans and nothing are errors.
impl FromNode for String {
    const SHAPE: Shape = Shape::Text("text");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        let text = bind.text(node, "text")?;
        if text.trim().is_empty() {
            bind.error(ConfigError::new(NO_VALUE, "the text is empty", node.span).expected("text"));
            return None;
        }
        Some(text.to_owned())
    }
}

/// Reports a value that has the right kind but not the right form. Returns `None`.
pub fn malformed<T>(
    bind: &mut Bind<'_>,
    node: &Node,
    code: Code,
    problem: impl Display,
    expected: impl Into<String>,
) -> Option<T> {
    let found = bind.found(node);
    bind.error(ConfigError::new(code, problem.to_string(), node.span).found(found).expected(expected));
    None
}
