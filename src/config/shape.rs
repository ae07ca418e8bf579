//! The tables that say which keys there are: one source for the binder, `ringwall schema` and the manual.
//!
//! A [`Table`] lists the keys of one map. The binder refuses what is not in it, suggests from it, and checks the
//! bounds written in it; the JSON Schema is generated from it.

/// What a value may look like, as far as a schema can say it.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// Anything.
    Any,
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Int,
    /// Text without a pattern, with what it is for.
    Text(&'static str),
    /// Text that matches a pattern (ECMA 262), with an example.
    Pattern(&'static str, &'static str),
    /// One of these words.
    Word(&'static [&'static str]),
    /// A map with these keys.
    Map(&'static Table),
    /// A map from names of the operator's choice to this.
    Named(&'static Shape),
    /// A list, or one of it without brackets.
    OneOrMany(&'static Shape),
    /// This, or a map whose one key `extend` or `replace` holds it.
    Scoped(&'static Shape),
    /// One of several.
    Either(&'static [Shape]),
}

/// The keys of one map.
#[derive(Debug)]
pub struct Table {
    /// What the map is, with its article, for messages: `a listener`.
    pub what: &'static str,
    /// Where it stands, for messages: `listen[]`.
    pub place: &'static str,
    /// The keys, in the order in which the manual shows them.
    pub keys: &'static [Key],
}

/// Whether a key must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// The map is an error without it.
    Required,
    /// It may be left out.
    Optional,
    /// Ringwall will have it; this version refuses it by name.
    Later,
}

/// One key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The name.
    pub name: &'static str,
    /// Whether it must be there.
    pub presence: Presence,
    /// What its value looks like.
    pub shape: Shape,
    /// One sentence for the manual and for editors.
    pub doc: &'static str,
    /// What holds without it, in words; empty if there is nothing to say.
    pub default: &'static str,
    /// The least and the greatest value, written as the operator would; checked by the binder.
    pub bounds: Option<(&'static str, &'static str)>,
}

impl Key {
    /// A key that must be there.
    pub const fn required(name: &'static str, shape: Shape, doc: &'static str) -> Key {
        Key { name, presence: Presence::Required, shape, doc, default: "", bounds: None }
    }

    /// A key that may be left out.
    pub const fn optional(name: &'static str, shape: Shape, doc: &'static str) -> Key {
        Key { name, presence: Presence::Optional, shape, doc, default: "", bounds: None }
    }

    /// A key of a later version: known, refused by name.
    pub const fn later(name: &'static str, doc: &'static str) -> Key {
        Key { name, presence: Presence::Later, shape: Shape::Any, doc, default: "", bounds: None }
    }

    /// What holds without the key.
    pub const fn default(self, default: &'static str) -> Key {
        Key { default, ..self }
    }

    /// The least and the greatest value, in the unit of the key.
    pub const fn bounds(self, least: &'static str, greatest: &'static str) -> Key {
        Key { bounds: Some((least, greatest)), ..self }
    }
}

impl Table {
    /// The key of that name, of this version or a later one.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }

    /// The keys that this version has.
    pub fn present(&self) -> impl Iterator<Item = &'static Key> {
        self.keys.iter().filter(|key| key.presence != Presence::Later)
    }
}

/// How many single edits (insert, delete, replace, swap of neighbours) lie between two words: the optimal string
/// alignment distance. Both are cut at 64 characters, which bounds the cost.
pub fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).flat_map(char::to_lowercase).collect();
    let b: Vec<char> = b.chars().take(64).flat_map(char::to_lowercase).collect();
    let mut before: Vec<usize> = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &x) in a.iter().enumerate() {
        let mut row = vec![i + 1; b.len() + 1];
        for (j, &y) in b.iter().enumerate() {
            let same = usize::from(x != y);
            row[j + 1] = (last[j] + same).min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// The candidate that was probably meant: near enough for its length, the nearest first.
pub fn nearest<'c>(written: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let flat = |text: &str| text.replace(['-', '_', ' '], "").to_lowercase();
    candidates
        .into_iter()
        .map(|candidate| {
            let plural = written.trim_end_matches('s') == candidate.trim_end_matches('s');
            let twin = flat(written) == flat(candidate) || plural;
            (if twin { 0 } else { distance(written, candidate) }, candidate)
        })
        .filter(|(edits, candidate)| {
            let length = candidate.chars().count().max(written.chars().count());
            *edits <= (length / 3).clamp(1, 4) && *edits < candidate.chars().count()
        })
        .min_by_key(|(edits, _)| *edits)
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, edits) in [
            ("", "", 0),
            ("abc", "abc", 0),
            ("abc", "acb", 1),
            ("listen", "lsiten", 1),
            ("upstream", "upstreams", 1),
            ("kitten", "sitting", 3),
            ("Rate", "rate", 0),
        ] {
            assert_eq!(distance(a, b), edits, "{a} {b}");
            assert_eq!(distance(b, a), edits, "{b} {a}");
        }
    }

    #[test]
    fn the_nearest_word_is_suggested_and_a_far_one_is_not() {
        let keys = ["listen", "upstreams", "login", "apis", "log"];
        assert_eq!(nearest("lsiten", keys), Some("listen"));
        assert_eq!(nearest("upstream", keys), Some("upstreams"));
        assert_eq!(nearest("Log-in", keys), Some("login"));
        assert_eq!(nearest("banana", keys), None);
        assert_eq!(nearest("x", ["y"]), None);
    }
}
