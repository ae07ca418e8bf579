//! From a path to a [`Config`]: read, follow `include`, bind, check; all errors at once.
//!
//! Called by the verbs and by reload, on the control thread or before there is one. The environment, the files and the
//! day come in through [`Loader`], so that tests and the fuzz target have their own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::civil::Date;

use super::bind::Bind;
use super::check;
use super::error::{Code, ConfigError, Errors};
use super::model::{Config, Draft, TABLES};
use super::node::{Entry, Meaning, Node, NodeKind};
use super::read::{Environment, read};
use super::source::{CHARACTER, FILE_BYTES_MAX, FILE_UNREADABLE, FileId, Source, Sources, Span};

/// A file cannot be included there.
pub const INCLUDE: Code = Code::new(1021);
/// Two files say the same thing.
pub const INCLUDE_CONFLICT: Code = Code::new(1022);

/// Files that include each other, at most so deep.
pub const INCLUDE_DEPTH_MAX: usize = 8;

/// A configuration without errors, and what is worth knowing about it.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration.
    pub config: Config,
    /// The files it came from.
    pub sources: Arc<Sources>,
    /// What refuses nothing but is worth knowing.
    pub notes: Errors,
    /// Exceptions whose `until` has passed: they fail `check` and reload; a start goes on with an error line for each.
    pub expired: Errors,
}

impl Loaded {
    /// For `check` and reload, where an exception that has ended is an error.
    ///
    /// # Errors
    /// The exceptions that have ended.
    pub fn refuse_expired(self) -> Result<Loaded, Errors> {
        if self.expired.is_empty() { Ok(self) } else { Err(self.expired) }
    }
}

/// What a configuration is read with.
#[derive(Clone, Copy)]
pub struct Loader<'e> {
    /// Where `${NAME}` comes from.
    pub environment: Environment<'e>,
    /// Where the bytes of a file come from.
    pub files: &'e dyn Fn(&Path) -> io::Result<Vec<u8>>,
    /// The day, in UTC, that exceptions are measured against.
    pub today: Date,
}

/// Reads the configuration at `path`, with this process's environment, files and clock.
///
/// # Errors
/// Everything that is wrong with it.
pub fn load(path: &Path) -> Result<Loaded, Errors> {
    this_process(|loader| loader.load(path))
}

/// Reads a configuration from text; `name` stands for the file in messages, relative paths start at the working
/// directory.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_str(name: &str, text: &str) -> Result<Loaded, Errors> {
    this_process(|loader| loader.parse_str(name, text))
}

/// The day in UTC.
pub fn today() -> Date {
    jiff::Timestamp::now().to_zoned(jiff::tz::TimeZone::UTC).date()
}

fn this_process<T>(body: impl FnOnce(Loader<'_>) -> T) -> T {
    let environment = |name: &str| std::env::var(name).ok();
    body(Loader { environment: &environment, files: &read_file, today: today() })
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    use io::Read;
    let mut bytes = Vec::new();
    crate::sys::file::open_regular(path)?.take(FILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

impl Loader<'_> {
    /// As [`load`], with what this loader holds.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration.
    pub fn load(&self, path: &Path) -> Result<Loaded, Errors> {
        let mut gather = Gather::new(self);
        let id = gather.open(path, None);
        self.finish(gather, id)
    }

    /// As [`parse_str`], with what this loader holds.
    ///
    /// # Errors
    /// Everything that is wrong with the configuration.
    pub fn parse_str(&self, name: &str, text: &str) -> Result<Loaded, Errors> {
        let mut gather = Gather::new(self);
        let id = gather.add(name, Path::new(""), text, None);
        self.finish(gather, id)
    }

    fn finish(&self, mut gather: Gather<'_>, id: Option<FileId>) -> Result<Loaded, Errors> {
        let mut root = id.and_then(|id| gather.read(id, 0));
        if root.is_none() && gather.errors.is_empty() {
            root = id.map(|id| Node::text("", Span::new(id, 0, 0)));
        }
        let Gather { sources, lost, mut errors, .. } = gather;
        let sources = Arc::new(sources);
        let mut bind = Bind::new(&sources, TABLES);
        let mut expired = Vec::new();
        let mut draft = Draft::default();
        if let Some(root) = &root {
            draft = Draft::bind(root, &lost, &mut bind);
            expired = check::check(&draft, &mut bind, self.today);
        }
        let (mut bound, notes, blots) = bind.into_parts();
        errors.append(&mut bound);
        let list = |found: Vec<ConfigError>| {
            let mut list = Errors::new(Arc::clone(&sources), blots.clone());
            list.extend(found);
            list
        };
        if errors.is_empty() {
            if let Some(config) = draft.finish() {
                let (notes, expired) = (list(notes), list(expired));
                return Ok(Loaded { config, sources, notes, expired });
            }
            // Each section that could not be read has said so: this is the net below that rule.
            errors.push(ConfigError::new(INCLUDE, "the configuration could not be read", Span::default()));
        }
        // In `check` everything is shown in one run, the exceptions that have ended too.
        errors.extend(expired);
        Err(list(errors))
    }
}

/// Reads the files and makes one tree of them.
struct Gather<'l> {
    loader: &'l Loader<'l>,
    sources: Sources,
    /// The files that are open, outermost first, and all that were.
    open: Vec<PathBuf>,
    seen: Vec<(PathBuf, Span)>,
    lost: Vec<String>,
    errors: Vec<ConfigError>,
}

impl<'l> Gather<'l> {
    fn new(loader: &'l Loader<'l>) -> Self {
        Gather {
            loader,
            sources: Sources::default(),
            open: Vec::new(),
            seen: Vec::new(),
            lost: Vec::new(),
            errors: Vec::new(),
        }
    }

    fn open(&mut self, path: &Path, by: Option<Span>) -> Option<FileId> {
        let name = path.display().to_string();
        let directory = path.parent().unwrap_or(Path::new(""));
        let bytes = match (self.loader.files)(path) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.errors.push(
                    ConfigError::new(
                        FILE_UNREADABLE,
                        format!("{name} cannot be read: {error}"),
                        by.unwrap_or_default(),
                    )
                    .fix(match by {
                        Some(_) => "paths are relative to the file that they stand in",
                        None => "name another file with `-c`",
                    }),
                );
                return None;
            }
        };
        match String::from_utf8(bytes) {
            Ok(text) => self.add(&name, directory, &text, by),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let text = String::from_utf8_lossy(error.as_bytes()).into_owned();
                let id = self.add(&name, directory, &text, by)?;
                // The replacement character takes three bytes.
                let at = at - if text.starts_with('\u{feff}') { 3 } else { 0 };
                self.errors.push(
                    ConfigError::new(CHARACTER, format!("{name} is not UTF-8"), Span::new(id, at, at + 3))
                        .fix("save it as UTF-8"),
                );
                None
            }
        }
    }

    fn add(&mut self, name: &str, directory: &Path, text: &str, by: Option<Span>) -> Option<FileId> {
        let added = Source::new(name, directory, text).and_then(|source| self.sources.add(source));
        match added {
            Ok(id) => Some(id),
            Err(mut error) => {
                error.primary.span = by.unwrap_or_default();
                self.errors.push(error);
                None
            }
        }
    }

    /// The tree of a file and of all that it includes.
    fn read(&mut self, id: FileId, depth: usize) -> Option<Node> {
        let source = self.sources.file(id)?;
        let path = PathBuf::from(source.name());
        let mut read = read(source, id, self.loader.environment);
        self.lost.append(&mut read.lost);
        self.errors.append(&mut read.errors);
        let mut root = read.root?;
        let NodeKind::Map(entries) = &mut root.kind else { return Some(root) };
        let Some(at) = entries.iter().position(|entry| entry.key.text == "include") else {
            return Some(root);
        };
        let include = entries.remove(at).value;
        self.open.push(path);
        for item in items(&include) {
            let Some(included) = self.include(item, depth) else { continue };
            self.merge(entries, included);
        }
        self.open.pop();
        Some(root)
    }

    fn include(&mut self, item: &Node, depth: usize) -> Option<Node> {
        let mut bind = Bind::new(&self.sources, &[]);
        let text = bind.text(item, "the path of a file to include").map(str::to_owned);
        let (mut errors, _, _) = bind.into_parts();
        self.errors.append(&mut errors);
        let path = self.sources.resolve(item.span, &text?);
        let refuse = |title: String| Some(ConfigError::new(INCLUDE, title, item.span));
        let shown = path.display().to_string();
        let problem = if shown.contains(['*', '?', '[']) {
            refuse("patterns are not expanded: name each file".into())
        } else if self.open.contains(&path) {
            refuse(format!("{shown} includes itself"))
        } else if let Some((_, first)) = self.seen.iter().find(|(seen, _)| *seen == path) {
            refuse(format!("{shown} is included twice")).map(|error| error.also(*first, "first here"))
        } else if depth + 1 >= INCLUDE_DEPTH_MAX {
            refuse(format!("files include each other more than {INCLUDE_DEPTH_MAX} deep"))
        } else {
            None
        };
        if let Some(problem) = problem {
            self.errors.push(problem);
            return None;
        }
        self.seen.push((path.clone(), item.span));
        let id = self.open(&path, Some(item.span))?;
        let root = self.read(id, depth + 1)?;
        if root.is_null() || root.entries().is_some() {
            return Some(root);
        }
        self.errors.push(
            ConfigError::new(INCLUDE, format!("{shown} is not a map"), root.span)
                .expected("sections such as `apis:` at the top of the file"),
        );
        None
    }

    /// Adds the sections of an included file: names and listeners add up, everything else may be said once.
    fn merge(&mut self, entries: &mut Vec<Entry>, included: Node) {
        let NodeKind::Map(included) = included.kind else { return };
        for entry in included {
            if entry.key.text == "ringwall" {
                // It says which format this file is written in; that of the first file counts for all.
                if entry.value.scalar().map(|scalar| scalar.meaning()) != Some(Meaning::Int(1)) {
                    let error = ConfigError::new(
                        super::model::VERSION,
                        "this version of the format is not known",
                        entry.value.span,
                    );
                    self.errors.push(error.expected("`1`, or nothing in an included file"));
                }
                continue;
            }
            let Some(first) = entries.iter_mut().find(|first| first.key.text == entry.key.text) else {
                entries.push(entry);
                continue;
            };
            match (entry.key.text.as_str(), &mut first.value.kind, entry.value.kind) {
                ("listen", _, kind) => {
                    let first_value = &mut first.value;
                    if !matches!(first_value.kind, NodeKind::List(_)) {
                        let one = first_value.clone();
                        first_value.kind = NodeKind::List(vec![one]);
                    }
                    if let NodeKind::List(items) = &mut first_value.kind {
                        match kind {
                            NodeKind::List(more) => items.extend(more),
                            kind => items.push(Node { span: entry.value.span, kind }),
                        }
                    }
                }
                ("upstreams" | "login" | "apis", NodeKind::Map(names), NodeKind::Map(more)) => {
                    for entry in more {
                        match names.iter().find(|first| first.key.text == entry.key.text) {
                            Some(first) => self.errors.push(conflict(&entry, first)),
                            None => names.push(entry),
                        }
                    }
                }
                (_, _, kind) => {
                    let value = Node { span: entry.value.span, kind };
                    self.errors.push(conflict(&Entry { key: entry.key, value }, first));
                }
            }
        }
    }
}

fn conflict(second: &Entry, first: &Entry) -> ConfigError {
    ConfigError::new(INCLUDE_CONFLICT, format!("`{}` stands in two files", second.key.text), second.key.span)
        .label("again here")
        .also(first.key.span, "first here")
        .fix("keep one of them; nothing is overridden")
        .why("an order of files that decides what holds is a protection that a file name can take away")
}

fn items(node: &Node) -> &[Node] {
    match &node.kind {
        NodeKind::List(items) => items,
        NodeKind::Scalar(_) | NodeKind::Map(_) | NodeKind::Refused => std::slice::from_ref(node),
    }
}

/// For the fuzz target `config`: whatever the text, nothing panics, every place lies inside the text on character
/// boundaries, and every error can be shown.
pub fn fuzz(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let environment = |name: &str| (name.len() < 4).then(|| "value".to_owned());
    let files = |_: &Path| Err(io::ErrorKind::NotFound.into());
    let loader = Loader { environment: &environment, files: &files, today: Date::constant(2026, 11, 21) };
    let errors = match loader.parse_str("fuzz.yaml", text) {
        Ok(loaded) => {
            assert!(loaded.config.apis.iter().all(|(_, api)| api.allow.is_some() || api.is_closed()));
            loaded.notes
        }
        Err(errors) => {
            assert!(!errors.is_empty(), "refused without a reason");
            errors
        }
    };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for error in &errors {
        let labels = std::iter::once(&error.primary).chain(&error.secondary);
        for label in labels {
            assert!(text.get(label.span.range()).is_some(), "a place outside the text: {error:?}");
        }
    }
    // Rendering costs much more than reading: a long text is shown by its first errors only.
    for error in errors.iter().take(8) {
        assert!(!errors.render_one(error, false).is_empty());
    }
    assert!(errors.to_json().is_array());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_files(files: &[(&str, &str)]) -> Result<Loaded, Errors> {
        let environment = |_: &str| None;
        let read = |path: &Path| {
            let found = files.iter().find(|(name, _)| Path::new(name) == path);
            found.map(|(_, text)| text.as_bytes().to_vec()).ok_or_else(|| io::ErrorKind::NotFound.into())
        };
        let today = Date::constant(2026, 11, 21);
        Loader { environment: &environment, files: &read, today }.load(Path::new(files[0].0))
    }

    fn codes(result: Result<Loaded, Errors>) -> Vec<(u16, String, usize)> {
        let errors = result.err().unwrap_or_default();
        let place = |e: &ConfigError| {
            let sources = errors.sources();
            (e.code.number(), sources.name(e.primary.span).to_owned(), sources.position(e.primary.span).line)
        };
        errors.iter().map(place).collect()
    }

    const SHOP: &str =
        "listen: { address: '127.0.0.1:80', tls: none }\nupstreams: { shop: 'http://127.0.0.1:3000' }\n";

    #[test]
    fn included_files_add_up() {
        let main = format!("ringwall: 1\ninclude: [conf/a.yaml, conf/b.yaml]\n{SHOP}");
        let a = "apis:\n  a: { base: /a, to: shop, raw: 'no document', allow: { who: anyone } }\n";
        let b = "ringwall: 1\ninclude: c.yaml\nlisten: { address: '127.0.0.1:81', tls: none }\n";
        let c = "apis:\n  c: { base: /c, to: shop, raw: 'no document', allow: { who: anyone } }\n";
        let files = [("m.yaml", main.as_str()), ("conf/a.yaml", a), ("conf/b.yaml", b), ("conf/c.yaml", c)];
        let loaded = with_files(&files).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(loaded.config.listen.len(), 2);
        assert_eq!(loaded.config.apis.names().collect::<Vec<_>>(), ["a", "c"]);
        assert_eq!(loaded.sources.files().len(), 4);
    }

    #[test]
    fn files_that_contradict_each_other_are_refused_with_both_places() {
        let main = format!("ringwall: 1\ninclude: a.yaml\n{SHOP}log: {{ file: x }}\n");
        let a = "upstreams:\n  shop: 'http://127.0.0.1:1'\nlog: { file: y }\napis: { c: { closed: true } }\n";
        let found = codes(with_files(&[("m.yaml", main.as_str()), ("a.yaml", a)]));
        assert_eq!(found, [(1022, "a.yaml".into(), 2), (1022, "a.yaml".into(), 3)]);
    }

    #[test]
    fn an_include_that_cannot_be_followed_is_refused_where_it_stands() {
        let main = "ringwall: 1\ninclude:\n  - m.yaml\n  - a.yaml\n  - a.yaml\n  - gone.yaml\n  - '*.yaml'\n";
        let main = format!("{main}{SHOP}apis: {{ c: {{ closed: true }} }}\n");
        let found = codes(with_files(&[("m.yaml", main.as_str()), ("a.yaml", "{}")]));
        let expected = [(1021, 3), (1021, 5), (1020, 6), (1021, 7)];
        assert_eq!(found, expected.map(|(code, line)| (code, "m.yaml".to_owned(), line)));
    }

    #[test]
    fn an_exception_that_has_ended_is_found_but_does_not_stop_a_start() {
        let text = "ringwall: 1\nlisten:\n  address: 0.0.0.0:80\n  tls: none\n  insecure: { reason: balancer, until: 2026-11-20 }\n";
        let text = format!("{text}apis: {{ c: {{ closed: true }} }}\n");
        let loaded = with_files(&[("m.yaml", &text)]).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(loaded.expired.len(), 1);
        assert_eq!(codes(loaded.refuse_expired()), [(1901, "m.yaml".into(), 5)]);
        let still = text.replace("2026-11-20", "2026-11-21");
        assert!(with_files(&[("m.yaml", &still)]).unwrap().expired.is_empty());
    }

    #[test]
    fn errors_beside_a_syntax_error_are_reported_and_none_is_made_up() {
        let text = "ringwall: 1\nlisten: { address: '127.0.0.1:80', tls: none }\nupstreams: { shop: [ }\napis:\n  shop:\n    to: shop\n    raw: no document\n    alow: { who: anyone }\n";
        let found = codes(with_files(&[("m.yaml", text)]));
        assert_eq!(found, [(1001, "m.yaml".into(), 3), (1003, "m.yaml".into(), 8)]);
    }

    #[test]
    fn what_is_not_utf8_is_pointed_at() {
        let environment = |_: &str| None;
        let files = |_: &Path| Ok(b"ringwall: 1\nlog: { file: \xff }\n".to_vec());
        let loader = Loader { environment: &environment, files: &files, today: Date::constant(2026, 11, 21) };
        assert_eq!(codes(loader.load(Path::new("m.yaml"))), [(1019, "m.yaml".into(), 2)]);
    }

    #[test]
    fn a_file_that_is_not_there_is_an_error_without_a_place() {
        let errors =
            with_files(&[("m.yaml", "")]).err().map(|errors| errors.render(false)).unwrap_or_default();
        assert!(errors.contains("RW-1010"), "{errors}");
        let errors = load(Path::new("/nonexistent/ringwall.yaml")).unwrap_err().render(false);
        assert!(errors.contains("RW-1020") && errors.contains("/nonexistent/ringwall.yaml"), "{errors}");
    }
}
