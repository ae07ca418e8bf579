//! The files of a configuration, and places in them.
//!
//! Every value that was read keeps a [`Span`], so that any later stage can point at what the operator wrote.
//! Nothing here interprets the text. The reader (`read`), the binder and every compile step use it.

use std::path::{Path, PathBuf};

use super::error::{Code, ConfigError};

/// One file is refused beyond this many bytes: a configuration, not a data set.
pub const FILE_BYTES_MAX: usize = 8 * 1024 * 1024;
/// All files of one configuration together are refused beyond this many bytes.
pub const TOTAL_BYTES_MAX: usize = 32 * 1024 * 1024;
/// The most files one configuration may consist of, the first one included.
pub const FILES_MAX: usize = 64;

/// The file, all files together, the depth or the number of values is beyond a bound.
pub const TOO_LARGE: Code = Code::new(1018);
/// The file holds a character that has no business in a configuration, or is not UTF-8.
pub const CHARACTER: Code = Code::new(1019);
/// A file cannot be read.
pub const FILE_UNREADABLE: Code = Code::new(1020);

/// Which of the files of a configuration: an index into [`Sources`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileId(u32);

/// A range of bytes in one file: `start` inclusive, `end` exclusive, both on character boundaries.
///
/// Spans order by file, then by place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Span {
    /// The file.
    pub file: FileId,
    /// The first byte.
    pub start: u32,
    /// One past the last byte.
    pub end: u32,
}

impl Span {
    /// The span from `start` to `end` (bytes) of `file`; an `end` before `start` gives an empty span.
    pub fn new(file: FileId, start: usize, end: usize) -> Span {
        let start = u32::try_from(start).unwrap_or(u32::MAX);
        let end = u32::try_from(end).unwrap_or(u32::MAX);
        Span { file, start, end: end.max(start) }
    }

    /// The smallest span that covers both; `other` is ignored if it lies in another file.
    pub fn to(self, other: Span) -> Span {
        if self.file != other.file {
            return self;
        }
        Span { file: self.file, start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// The bytes as a range of the file's text.
    pub fn range(self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// A line and a column, both from 1; columns count characters, as editors do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

/// One file: its name, where relative paths in it start, its text without a byte order mark.
#[derive(Debug)]
pub struct Source {
    name: String,
    directory: PathBuf,
    text: String,
    line_starts: Vec<u32>,
}

impl Source {
    /// A source named `name` in messages, whose relative paths start at `directory`.
    ///
    /// # Errors
    /// [`TOO_LARGE`] beyond [`FILE_BYTES_MAX`].
    pub fn new(name: &str, directory: &Path, text: &str) -> Result<Source, ConfigError> {
        if text.len() > FILE_BYTES_MAX {
            return Err(ConfigError::new(TOO_LARGE, format!("{name} is larger than 8 MiB"), Span::default())
                .found(format!("{} bytes", text.len()))
                .expected("at most 8 MiB in one file")
                .fix("split it with `include`, and keep data (schemas, keys) in files of their own"));
        }
        let text = text.strip_prefix('\u{feff}').unwrap_or(text).to_owned();
        let mut line_starts = vec![0];
        line_starts.extend(memchr::memchr_iter(b'\n', text.as_bytes()).map(|at| at as u32 + 1));
        Ok(Source { name: name.to_owned(), directory: directory.to_owned(), text, line_starts })
    }

    /// The name as messages show it: the path as it was given.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The whole text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where a byte offset lies. `O(log lines)`, and the characters before it in its line.
    pub fn position(&self, offset: usize) -> Position {
        let offset = self.floor_char(offset);
        let line = self.line_starts.partition_point(|&start| start as usize <= offset);
        let start = self.line_starts[line.saturating_sub(1)] as usize;
        Position { line, column: self.text[start..offset].chars().count() + 1 }
    }

    /// The bytes of a line (from 1) without its line break; empty beyond the last.
    pub fn line(&self, line: usize) -> std::ops::Range<usize> {
        let Some(&start) = line.checked_sub(1).and_then(|at| self.line_starts.get(at)) else {
            return self.text.len()..self.text.len();
        };
        let end = self.line_starts.get(line).map_or(self.text.len(), |&next| next as usize - 1);
        let end = if self.text[start as usize..end].ends_with('\r') { end - 1 } else { end };
        start as usize..end
    }

    /// How many lines there are, at least one.
    pub fn lines(&self) -> usize {
        self.line_starts.len()
    }

    fn floor_char(&self, offset: usize) -> usize {
        let mut at = offset.min(self.text.len());
        while !self.text.is_char_boundary(at) {
            at -= 1;
        }
        at
    }
}

/// All files of one configuration, in the order in which they were read; the first is the one that was named.
#[derive(Debug, Default)]
pub struct Sources {
    files: Vec<Source>,
    bytes: usize,
}

impl Sources {
    /// Adds a file.
    ///
    /// # Errors
    /// [`TOO_LARGE`] beyond [`FILES_MAX`] files or [`TOTAL_BYTES_MAX`] bytes; the error has no place of its own.
    pub fn add(&mut self, source: Source) -> Result<FileId, ConfigError> {
        if self.files.len() >= FILES_MAX || self.bytes + source.text.len() > TOTAL_BYTES_MAX {
            return Err(ConfigError::new(
                TOO_LARGE,
                "the configuration consists of too many files",
                Span::default(),
            )
            .found(format!("{} files, {} bytes", self.files.len() + 1, self.bytes + source.text.len()))
            .expected("at most 64 files and 32 MiB in all"));
        }
        self.bytes += source.text.len();
        self.files.push(source);
        Ok(FileId(self.files.len() as u32 - 1))
    }

    /// The file of an id; the first file for an id of other sources; `None` only if there are no files.
    pub fn file(&self, id: FileId) -> Option<&Source> {
        self.files.get(id.0 as usize).or_else(|| self.files.first())
    }

    /// The files in the order in which they were read.
    pub fn files(&self) -> &[Source] {
        &self.files
    }

    /// Line and column of a span's first byte.
    pub fn position(&self, span: Span) -> Position {
        self.file(span.file)
            .map_or(Position { line: 1, column: 1 }, |source| source.position(span.start as usize))
    }

    /// The name of the file of a span; empty without files.
    pub fn name(&self, span: Span) -> &str {
        self.file(span.file).map_or("", Source::name)
    }

    /// What was written at a span; empty if the span is not of these sources.
    pub fn text(&self, span: Span) -> &str {
        self.file(span.file).and_then(|source| source.text.get(span.range())).unwrap_or("")
    }

    /// `path` as seen from the file of `span`: relative paths start at the directory of the file they stand in.
    pub fn resolve(&self, span: Span, path: &str) -> PathBuf {
        match self.file(span.file) {
            Some(source) => source.directory.join(path),
            None => PathBuf::from(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_count_characters_and_lines_start_at_one() {
        let source = Source::new("a.yaml", Path::new("."), "é: 1\r\nß: ü x\n").unwrap();
        assert_eq!(source.position(0), Position { line: 1, column: 1 });
        assert_eq!(source.position("é: 1\r\nß: ü ".len()), Position { line: 2, column: 6 });
        assert_eq!(source.position(10_000), Position { line: 3, column: 1 });
        assert_eq!(&source.text()[source.line(1)], "é: 1");
        assert_eq!(&source.text()[source.line(2)], "ß: ü x");
        assert_eq!(source.line(9), source.text().len()..source.text().len());
    }

    #[test]
    fn an_offset_inside_a_character_belongs_to_it() {
        let source = Source::new("a.yaml", Path::new("."), "ü").unwrap();
        assert_eq!(source.position(1).column, 1);
    }

    #[test]
    fn relative_paths_start_at_the_directory_of_their_file() {
        let mut sources = Sources::default();
        let id = sources.add(Source::new("conf/a.yaml", Path::new("conf"), "x").unwrap()).unwrap();
        let span = Span::new(id, 0, 1);
        assert_eq!(sources.resolve(span, "keys/a"), Path::new("conf/keys/a"));
        assert_eq!(sources.resolve(span, "/keys/a"), Path::new("/keys/a"));
    }

    #[test]
    fn the_number_of_files_is_bounded() {
        let mut sources = Sources::default();
        for _ in 0..FILES_MAX {
            sources.add(Source::new("a", Path::new("."), "").unwrap()).unwrap();
        }
        let error = sources.add(Source::new("a", Path::new("."), "").unwrap()).unwrap_err();
        assert_eq!(error.code, TOO_LARGE);
    }
}
