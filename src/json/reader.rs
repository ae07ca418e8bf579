//! A strict JSON reader that knows the place of every value and keeps numbers as text.
//!
//! What it is for: schemas (errors name line and column), and bodies that the fast parser refused or could not
//! hold exactly; it is the one that names the reason. What it is not for: the hot path.
//!
//! Who calls it: [`crate::schema`] and [`super::check_only`].
//!
//! A text becomes one flat table of nodes in document order, a member's name right before its value, so that no
//! depth of nesting costs stack. Worst case memory: 32 bytes per value plus the unescaped strings.

use std::cmp::Ordering;

use super::JsonLimits;

/// The index of a value (or of a member's name) in its [`Tree`].
pub type NodeId = u32;

/// What a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number; its text is kept.
    Number,
    /// A string, or the name of a member.
    String,
    /// An array.
    Array,
    /// An object: name, value, name, value, …
    Object,
}

/// A read text. Its storage can be used again for the next one.
#[derive(Debug, Default)]
pub struct Tree {
    nodes: Vec<Node>,
    text: String,
    /// Strings that held an escape, unescaped, one after the other.
    unescaped: String,
    open: Vec<Open>,
    order: Vec<NodeId>,
}

/// What is wrong with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// Not JSON.
    Syntax,
    /// A byte order mark (RFC 8259 §8.1: MUST NOT be added; we refuse what parsers disagree about).
    ByteOrderMark,
    /// Not UTF-8.
    Utf8,
    /// Half of a surrogate pair.
    Surrogate,
    /// Nested deeper than allowed.
    Depth,
    /// A name twice in one object.
    DuplicateKey,
    /// Longer than allowed.
    Size,
}

/// Why and where a text is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadError {
    /// What is wrong.
    pub fault: ReadFault,
    /// The byte at which it is wrong.
    pub offset: usize,
    /// For a duplicate name: the pointer to the member.
    pub pointer: Option<String>,
    /// One sentence for the operator.
    pub message: String,
}

#[derive(Clone, Copy, Debug)]
struct Node {
    kind: Kind,
    escaped: bool,
    /// The bytes of the value in the text (with quotes, for a string).
    start: u32,
    end: u32,
    /// One past the last node below this one.
    next: NodeId,
    /// Elements of an array, members of an object.
    len: u32,
    /// Where the unescaped string lies.
    string_start: u32,
    string_end: u32,
}

#[derive(Clone, Copy, Debug)]
struct Open {
    node: NodeId,
    object: bool,
}

impl Tree {
    /// An empty tree, to be filled by [`Tree::read`].
    pub fn new() -> Tree {
        Tree::default()
    }

    /// Reads `bytes` in place of what was read before.
    ///
    /// # Errors
    /// The first fault in the text; nothing of the tree may be used then.
    pub fn read(&mut self, bytes: &[u8], limits: &JsonLimits) -> Result<(), ReadError> {
        self.nodes.clear();
        self.text.clear();
        self.unescaped.clear();
        self.open.clear();
        if bytes.len() > limits.bytes_max.min(u32::MAX as usize) {
            return Err(fault(ReadFault::Size, limits.bytes_max, "the text is too long"));
        }
        if bytes.starts_with(b"\xef\xbb\xbf") {
            return Err(fault(ReadFault::ByteOrderMark, 0, "a byte order mark is not part of JSON"));
        }
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text.push_str(text),
            Err(error) => return Err(fault(ReadFault::Utf8, error.valid_up_to(), "not UTF-8")),
        }
        let text = std::mem::take(&mut self.text);
        let result = Reading { tree: self, bytes: text.as_bytes(), at: 0, depth_max: limits.depth() }.text();
        self.text = text;
        result?;
        self.refuse_duplicate_names()
    }

    /// Gives back what a giant text took.
    pub fn shrink(&mut self, bytes_kept: usize) {
        if self.text.capacity() > bytes_kept || self.nodes.capacity() > bytes_kept / 8 {
            *self = Tree::new();
        }
    }

    /// The outermost value.
    pub fn root(&self) -> NodeId {
        0
    }

    /// What the value is.
    pub fn kind(&self, node: NodeId) -> Kind {
        self.nodes[node as usize].kind
    }

    /// How many elements or members it has.
    pub fn len(&self, node: NodeId) -> usize {
        self.nodes[node as usize].len as usize
    }

    /// Whether nothing was read.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// How many values and names the text has.
    pub fn nodes(&self) -> usize {
        self.nodes.len()
    }

    /// The byte at which the value begins.
    pub fn offset(&self, node: NodeId) -> usize {
        self.nodes[node as usize].start as usize
    }

    /// The text of the value as it was written.
    pub fn source(&self, node: NodeId) -> &str {
        let node = &self.nodes[node as usize];
        &self.text[node.start as usize..node.end as usize]
    }

    /// The unescaped string; empty for what is not one.
    pub fn string(&self, node: NodeId) -> &str {
        let node = &self.nodes[node as usize];
        if node.kind != Kind::String {
            return "";
        }
        let from = if node.escaped { &self.unescaped } else { &self.text };
        &from[node.string_start as usize..node.string_end as usize]
    }

    /// The elements of an array, in order.
    pub fn elements(&self, node: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let array = &self.nodes[node as usize];
        let count = if array.kind == Kind::Array { array.len } else { 0 };
        let mut at = node + 1;
        (0..count).map(move |_| {
            let element = at;
            at = self.nodes[at as usize].next;
            element
        })
    }

    /// The members of an object, in order: (name, value).
    pub fn members(&self, node: NodeId) -> impl Iterator<Item = (NodeId, NodeId)> + '_ {
        let object = &self.nodes[node as usize];
        let count = if object.kind == Kind::Object { object.len } else { 0 };
        let mut at = node + 1;
        (0..count).map(move |_| {
            let name = at;
            at = self.nodes[name as usize + 1].next;
            (name, name + 1)
        })
    }

    /// The member with this name. O(members).
    pub fn member(&self, node: NodeId, name: &str) -> Option<NodeId> {
        self.members(node).find(|&(key, _)| self.string(key) == name).map(|(_, value)| value)
    }

    /// The line and column (both from 1, columns in characters) of a byte.
    pub fn position(&self, offset: usize) -> (usize, usize) {
        position(&self.text, offset)
    }

    /// One text for each value: names sorted, numbers in one form. Equal values, and no others, have equal texts.
    pub fn canonical(&self, node: NodeId) -> String {
        let mut out = String::new();
        self.write_canonical(node, &mut out);
        out
    }

    fn write_canonical(&self, node: NodeId, out: &mut String) {
        match self.kind(node) {
            Kind::Null => out.push_str("null"),
            Kind::Bool(true) => out.push_str("true"),
            Kind::Bool(false) => out.push_str("false"),
            Kind::Number => out.push_str(&super::Decimal::of_text(self.source(node)).text()),
            Kind::String => {
                // The length in front makes any content unambiguous without escapes.
                let string = self.string(node);
                out.push_str(&string.len().to_string());
                out.push('"');
                out.push_str(string);
            }
            Kind::Array => {
                out.push('[');
                for element in self.elements(node) {
                    self.write_canonical(element, out);
                    out.push(',');
                }
                out.push(']');
            }
            Kind::Object => {
                let mut members: Vec<_> = self.members(node).collect();
                members.sort_by(|a, b| self.string(a.0).cmp(self.string(b.0)));
                out.push('{');
                for (name, value) in members {
                    self.write_canonical(name, out);
                    out.push(':');
                    self.write_canonical(value, out);
                    out.push(',');
                }
                out.push('}');
            }
        }
    }

    /// RFC 8259 §4: names SHOULD be unique; parsers keep the first, the last or both, so we refuse.
    /// O(n log n) for an object of n members, whatever their names.
    fn refuse_duplicate_names(&mut self) -> Result<(), ReadError> {
        let mut order = std::mem::take(&mut self.order);
        let mut first: Option<NodeId> = None;
        for node in 0..self.nodes.len() as NodeId {
            if self.kind(node) != Kind::Object || self.len(node) < 2 {
                continue;
            }
            order.clear();
            order.extend(self.members(node).map(|(name, _)| name));
            order.sort_unstable_by(|&a, &b| match self.string(a).cmp(self.string(b)) {
                Ordering::Equal => a.cmp(&b),
                other => other,
            });
            for pair in order.windows(2) {
                if self.string(pair[0]) == self.string(pair[1]) && first.is_none_or(|first| pair[1] < first) {
                    first = Some(pair[1]);
                }
            }
        }
        order.clear();
        self.order = order;
        match first {
            None => Ok(()),
            Some(name) => {
                let message =
                    format!("the name {:?} appears twice in one object", cut(self.string(name), 64));
                let pointer = Some(self.pointer(name));
                Err(ReadError { fault: ReadFault::DuplicateKey, offset: self.offset(name), pointer, message })
            }
        }
    }

    /// The JSON Pointer of a value, or of a member by its name; cut as [`super::Finding`] says.
    pub fn pointer(&self, target: NodeId) -> String {
        let mut pointer = String::new();
        let mut node = self.root();
        'descend: while node < target {
            match self.kind(node) {
                Kind::Array => {
                    for (index, element) in self.elements(node).enumerate() {
                        if target < self.nodes[element as usize].next {
                            pointer.push('/');
                            pointer.push_str(&index.to_string());
                            node = element;
                            continue 'descend;
                        }
                    }
                }
                Kind::Object => {
                    for (name, value) in self.members(node) {
                        if target < self.nodes[value as usize].next {
                            push_token(&mut pointer, self.string(name));
                            node = value;
                            continue 'descend;
                        }
                    }
                }
                _ => {}
            }
            break;
        }
        pointer
    }
}

/// Appends one reference token of a JSON Pointer (RFC 6901 §3: `~` is `~0`, `/` is `~1`), and cuts what grows
/// beyond the bound.
pub(crate) fn push_token(pointer: &mut String, token: &str) {
    const MAX: usize = super::Finding::POINTER_BYTES_MAX;
    if pointer.ends_with('…') {
        return;
    }
    pointer.push('/');
    for character in token.chars() {
        match character {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            _ => pointer.push(character),
        }
        if pointer.len() > MAX {
            pointer.push('…');
            return;
        }
    }
}

/// The line and column (both from 1, columns in characters) of a byte of `text`.
pub(crate) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = &text.as_bytes()[..offset.min(text.len())];
    let line_start = memchr::memrchr(b'\n', before).map_or(0, |at| at + 1);
    let line = 1 + memchr::memchr_iter(b'\n', before).count();
    let column = 1 + before[line_start..].iter().filter(|&&byte| byte & 0xc0 != 0x80).count();
    (line, column)
}

/// At most `bytes` bytes of a string that a peer chose.
fn cut(string: &str, bytes: usize) -> &str {
    let mut end = string.len().min(bytes);
    while !string.is_char_boundary(end) {
        end -= 1;
    }
    &string[..end]
}

fn fault(fault: ReadFault, offset: usize, message: &str) -> ReadError {
    ReadError { fault, offset, pointer: None, message: message.to_owned() }
}

/// One run over a text.
struct Reading<'a> {
    tree: &'a mut Tree,
    bytes: &'a [u8],
    at: usize,
    depth_max: u32,
}

impl Reading<'_> {
    fn text(mut self) -> Result<(), ReadError> {
        self.skip_space();
        loop {
            // Here a value begins.
            let opened = self.value()?;
            if opened {
                continue;
            }
            // Here a value has ended: go up while scopes end.
            loop {
                self.skip_space();
                let Some(&Open { node, object }) = self.tree.open.last() else {
                    if self.at < self.bytes.len() {
                        return Err(self.syntax("nothing may follow the value"));
                    }
                    return Ok(());
                };
                self.tree.nodes[node as usize].len += 1;
                match (self.peek(), object) {
                    (Some(b','), false) => {
                        self.at += 1;
                        self.skip_space();
                        break;
                    }
                    (Some(b','), true) => {
                        self.at += 1;
                        self.skip_space();
                        self.name()?;
                        break;
                    }
                    (Some(b']'), false) | (Some(b'}'), true) => self.close(),
                    (_, false) => return Err(self.syntax("expected `,` or `]`")),
                    (_, true) => return Err(self.syntax("expected `,` or `}`")),
                }
            }
        }
    }

    /// Reads a value; `true` where it opened a scope whose first element is to be read next.
    fn value(&mut self) -> Result<bool, ReadError> {
        match self.peek() {
            Some(b'{') => self.open(true),
            Some(b'[') => self.open(false),
            Some(b'"') => self.string().map(|()| false),
            Some(b'-' | b'0'..=b'9') => self.number().map(|()| false),
            Some(b't') => self.word("true", Kind::Bool(true)),
            Some(b'f') => self.word("false", Kind::Bool(false)),
            Some(b'n') => self.word("null", Kind::Null),
            _ => Err(self.syntax("expected a value")),
        }
    }

    fn open(&mut self, object: bool) -> Result<bool, ReadError> {
        if self.tree.open.len() >= self.depth_max as usize {
            return Err(fault(ReadFault::Depth, self.at, "nested too deeply"));
        }
        let node = self.tree.nodes.len() as NodeId;
        self.push(if object { Kind::Object } else { Kind::Array }, self.at, self.at);
        self.tree.open.push(Open { node, object });
        self.at += 1;
        self.skip_space();
        match (self.peek(), object) {
            (Some(b'}'), true) | (Some(b']'), false) => {
                self.close();
                Ok(false)
            }
            (_, true) => self.name().map(|()| true),
            (_, false) => Ok(true),
        }
    }

    fn close(&mut self) {
        self.at += 1;
        if let Some(Open { node, .. }) = self.tree.open.pop() {
            let next = self.tree.nodes.len() as NodeId;
            let node = &mut self.tree.nodes[node as usize];
            node.end = self.at as u32;
            node.next = next;
        }
    }

    fn name(&mut self) -> Result<(), ReadError> {
        if self.peek() != Some(b'"') {
            return Err(self.syntax("expected a name in quotes"));
        }
        self.string()?;
        self.skip_space();
        if self.peek() != Some(b':') {
            return Err(self.syntax("expected `:`"));
        }
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    fn word(&mut self, word: &str, kind: Kind) -> Result<bool, ReadError> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.syntax("expected a value"));
        }
        let start = self.at;
        self.at += word.len();
        self.push(kind, start, self.at);
        Ok(false)
    }

    /// RFC 8259 §6: no leading zero, no `+`, digits on both sides of the point.
    fn number(&mut self) -> Result<(), ReadError> {
        let start = self.at;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return Err(self.syntax("expected a digit")),
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
        self.push(Kind::Number, start, self.at);
        Ok(())
    }

    fn digits(&mut self) -> Result<(), ReadError> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if start == self.at { Err(self.syntax("expected a digit")) } else { Ok(()) }
    }

    fn string(&mut self) -> Result<(), ReadError> {
        let start = self.at;
        self.at += 1;
        let unescaped_start = self.tree.unescaped.len();
        let mut escaped = false;
        let mut plain = self.at;
        loop {
            match self.peek() {
                None => return Err(self.syntax("the string does not end")),
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.append(plain);
                    self.escape()?;
                    plain = self.at;
                }
                Some(0..=0x1f) => return Err(self.syntax("control characters must be escaped in strings")),
                Some(_) => self.at += 1,
            }
        }
        if escaped {
            self.append(plain);
        }
        let end = self.at;
        self.at += 1;
        self.push(Kind::String, start, self.at);
        if let Some(node) = self.tree.nodes.last_mut() {
            node.escaped = escaped;
            (node.string_start, node.string_end) = match escaped {
                true => (unescaped_start as u32, self.tree.unescaped.len() as u32),
                false => (start as u32 + 1, end as u32),
            };
        }
        Ok(())
    }

    /// Appends the plain bytes before the reading position. They are whole characters: both ends are ASCII.
    fn append(&mut self, from: usize) {
        if let Ok(text) = std::str::from_utf8(&self.bytes[from..self.at]) {
            self.tree.unescaped.push_str(text);
        }
    }

    fn escape(&mut self) -> Result<(), ReadError> {
        let start = self.at;
        self.at += 1;
        let character = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                let first = self.four_hex()?;
                let code = match first {
                    0xd800..=0xdbff => {
                        let low = if self.bytes[self.at..].starts_with(b"\\u") {
                            self.at += 2;
                            self.four_hex()?
                        } else {
                            0
                        };
                        if !(0xdc00..=0xdfff).contains(&low) {
                            return Err(fault(ReadFault::Surrogate, start, "half of a surrogate pair"));
                        }
                        0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00)
                    }
                    code => code,
                };
                let Some(character) = char::from_u32(code) else {
                    return Err(fault(ReadFault::Surrogate, start, "half of a surrogate pair"));
                };
                self.tree.unescaped.push(character);
                return Ok(());
            }
            _ => return Err(self.syntax("no such escape")),
        };
        self.at += 1;
        self.tree.unescaped.push(character);
        Ok(())
    }

    fn four_hex(&mut self) -> Result<u32, ReadError> {
        let mut value = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| (byte as char).to_digit(16));
            let Some(digit) = digit else {
                return Err(self.syntax("expected four hexadecimal digits"));
            };
            value = value * 16 + digit;
            self.at += 1;
        }
        Ok(value)
    }

    fn push(&mut self, kind: Kind, start: usize, end: usize) {
        let next = self.tree.nodes.len() as NodeId + 1;
        let (start, end) = (start as u32, end as u32);
        let node = Node { kind, escaped: false, start, end, next, len: 0, string_start: 0, string_end: 0 };
        self.tree.nodes.push(node);
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn syntax(&self, message: &str) -> ReadError {
        fault(ReadFault::Syntax, self.at, message)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Tree {
        let mut tree = Tree::new();
        tree.read(text.as_bytes(), &JsonLimits::default()).unwrap();
        tree
    }

    #[test]
    fn values_know_their_place_and_text() {
        let tree = read("{ \"a\\u0062\": [1, -2.50e+1 , {\"x\":null}],\n \"ü\": \"\\ud83d\\ude00/\" }");
        let array = tree.member(tree.root(), "ab").unwrap();
        assert_eq!((tree.kind(array), tree.len(array)), (Kind::Array, 3));
        let elements: Vec<_> = tree.elements(array).collect();
        assert_eq!(tree.source(elements[1]), "-2.50e+1");
        assert_eq!(tree.pointer(tree.member(elements[2], "x").unwrap()), "/ab/2/x");
        let last = tree.member(tree.root(), "ü").unwrap();
        assert_eq!(tree.string(last), "😀/");
        assert_eq!(tree.position(tree.offset(last)), (2, 7));
    }

    #[test]
    fn duplicate_names_are_found_after_unescaping_and_named() {
        let mut tree = Tree::new();
        let error = tree.read(br#"[{"b/~":{"a":1,"\u0061":2}}]"#, &JsonLimits::default()).unwrap_err();
        assert_eq!((error.fault, error.offset), (ReadFault::DuplicateKey, 15));
        assert_eq!(error.pointer.as_deref(), Some("/0/b~1~0/a"));
    }

    #[test]
    fn canonical_texts_decide_equality() {
        for (a, b, equal) in [
            ("{\"a\":1,\"b\":[2.0]}", "{\"b\":[2],\"a\":10e-1}", true),
            ("[\"1\"]", "[1]", false),
            ("[\"a\",\"b\"]", "[\"a\\\",1\\\"b\"]", false),
            ("0", "-0.0", true),
            ("false", "0", false),
        ] {
            let (a, b) = (read(a), read(b));
            assert_eq!(a.canonical(0) == b.canonical(0), equal, "{} {}", a.canonical(0), b.canonical(0));
        }
    }

    #[test]
    fn a_tree_is_used_again() {
        let mut tree = read("[1,2,3]");
        assert!(tree.read(b"[1,", &JsonLimits::default()).is_err());
        tree.read(b"{\"k\":true}", &JsonLimits::default()).unwrap();
        assert_eq!(tree.kind(tree.member(0, "k").unwrap()), Kind::Bool(true));
    }
}
