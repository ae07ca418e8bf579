//! Patterns: ECMA-262 regular expressions, matched in linear time.
//!
//! What it is for: the keywords `pattern` and `patternProperties`. JSON Schema means ECMA-262 with the `u` flag, unanchored.
//! What differs from Rust's syntax is translated (`\d`, `\w`, `\s`, `\b`, `.`, `$`, `\cX`, `\u…`); lookaround and
//! backreferences cannot run in linear time and are errors.
//!
//! Most patterns of real schemas never reach a regex engine: sequences of byte classes with counts
//! (`^[A-Z]{2}$`, `^SKU-[0-9]{6}$`, `^.{1,64}$`, `^x-`) are matched by one walk over the string without backtracking.
//!
//! What it is not for: routes or configuration. Who calls it: the compiler and both runs of [`super`].

use regex_automata::{Input, meta, util::syntax};

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    matcher: Matcher,
}

/// One core's memory for the patterns of one program that need the engine: made at first use, bounded by
/// [`Pattern::CACHE_BYTES_MAX`] for each of them.
#[derive(Debug, Default)]
pub(super) struct Caches(Vec<Option<Box<meta::Cache>>>);

#[derive(Debug)]
enum Matcher {
    /// Matches everything.
    Always,
    /// `^literal`
    Prefix(Box<[u8]>),
    /// `^literal$`
    Exact(Box<[u8]>),
    /// `^…$` of ASCII classes, each position with at most two ranges.
    Fixed(Fixed),
    /// Classes with counts, anchored at the start.
    Sequence(Sequence),
    /// One character of a class, anywhere.
    Contains(Class),
    /// One of several.
    Either(Box<[Matcher]>),
    /// All others; the index is that of the cache.
    Engine(Box<meta::Regex>, usize),
}

impl Pattern {
    /// The most one core keeps for one pattern's lazily built automaton.
    pub(super) const CACHE_BYTES_MAX: usize = 256 << 10;
    /// The most a compiled pattern may take; above it the schema is refused.
    const COMPILED_BYTES_MAX: usize = 2 << 20;

    /// Compiles the text of a pattern. `engines` counts the patterns of the program that need a cache.
    ///
    /// # Errors
    /// One sentence about what cannot be had.
    pub(super) fn compile(text: &str, engines: &mut usize) -> Result<Pattern, String> {
        let ast = Parser { characters: text.chars().collect(), at: 0, groups: 0 }.parse()?;
        if let Some(matcher) = simple(&ast) {
            return Ok(Pattern { matcher });
        }
        let mut translated = String::new();
        ast.write(&mut translated);
        let regex = meta::Regex::builder()
            .configure(
                meta::Config::new()
                    .nfa_size_limit(Some(Self::COMPILED_BYTES_MAX))
                    .onepass_size_limit(Some(Self::COMPILED_BYTES_MAX))
                    .hybrid_cache_capacity(Self::CACHE_BYTES_MAX)
                    .which_captures(regex_automata::nfa::thompson::WhichCaptures::Implicit)
                    .utf8_empty(false),
            )
            .syntax(syntax::Config::new().utf8(false).nest_limit(250))
            .build(&translated)
            .map_err(|error| match error.size_limit() {
                Some(_) => "the pattern is too large when compiled".to_owned(),
                None => {
                    use std::error::Error;
                    match error.source() {
                        Some(source) => last_line(&source.to_string()),
                        None => last_line(&error.to_string()),
                    }
                }
            })?;
        *engines += 1;
        Ok(Pattern { matcher: Matcher::Engine(Box::new(regex), *engines - 1) })
    }

    /// Whether the pattern occurs in `subject`, which is UTF-8. O(length); allocates only the first time on a core.
    #[inline]
    pub(super) fn is_match(&self, subject: &[u8], caches: &mut Caches) -> bool {
        self.matcher.is_match(subject, caches)
    }
}

/// The engine's messages span lines with a picture; the last line says what is wrong.
fn last_line(message: &str) -> String {
    message.lines().last().unwrap_or(message).trim_start_matches("error: ").to_owned()
}

impl Matcher {
    fn is_match(&self, subject: &[u8], caches: &mut Caches) -> bool {
        match self {
            Matcher::Always => true,
            Matcher::Prefix(prefix) => subject.starts_with(prefix),
            Matcher::Exact(exact) => subject == &exact[..],
            Matcher::Fixed(fixed) => fixed.is_match(subject),
            Matcher::Sequence(sequence) => sequence.is_match(subject),
            Matcher::Contains(class) => characters(subject).any(|character| class.contains(character as u32)),
            Matcher::Either(matchers) => matchers.iter().any(|matcher| matcher.is_match(subject, caches)),
            Matcher::Engine(regex, index) => {
                if caches.0.len() <= *index {
                    caches.0.resize_with(*index + 1, || None);
                }
                let cache = caches.0[*index].get_or_insert_with(|| Box::new(regex.create_cache()));
                regex.search_half_with(cache, &Input::new(subject).earliest(true)).is_some()
            }
        }
    }
}

/// The characters of a subject, which is UTF-8.
fn characters(subject: &[u8]) -> impl Iterator<Item = char> + '_ {
    std::str::from_utf8(subject).unwrap_or_default().chars()
}

/// A string of one length, each byte within one of two ranges: compared many bytes at a time.
#[derive(Debug)]
struct Fixed {
    /// `[first, width, first, width]` of each position, as four arrays.
    low: Box<[u8]>,
    low_width: Box<[u8]>,
    high: Box<[u8]>,
    high_width: Box<[u8]>,
}

impl Fixed {
    const LEN_MAX: usize = 256;

    fn is_match(&self, bytes: &[u8]) -> bool {
        let len = self.low.len();
        if bytes.len() != len {
            return false;
        }
        if len >= 16 {
            return self.is_match_in_lanes::<16>(bytes);
        }
        if len >= 8 {
            return self.is_match_in_lanes::<8>(bytes);
        }
        let mut bad = false;
        let positions = self.low.iter().zip(&self.low_width).zip(self.high.iter().zip(&self.high_width));
        for (byte, ((low, low_width), (high, high_width))) in bytes.iter().zip(positions) {
            bad |= (byte.wrapping_sub(*low) > *low_width) & (byte.wrapping_sub(*high) > *high_width);
        }
        !bad
    }

    #[inline(always)]
    fn is_match_in_lanes<const LANES: usize>(&self, bytes: &[u8]) -> bool {
        let len = bytes.len();
        let mut at = 0;
        loop {
            if self.lanes_differ::<LANES>(bytes, at) {
                return false;
            }
            if at + LANES >= len {
                return true;
            }
            // The last lanes overlap the ones before.
            at = (at + LANES).min(len - LANES);
        }
    }

    /// So many positions at once; the compiler makes vector instructions of it.
    #[inline(always)]
    fn lanes_differ<const LANES: usize>(&self, bytes: &[u8], at: usize) -> bool {
        let bytes = lanes::<LANES>(bytes, at);
        let (low, low_width) = (lanes::<LANES>(&self.low, at), lanes::<LANES>(&self.low_width, at));
        let (high, high_width) = (lanes::<LANES>(&self.high, at), lanes::<LANES>(&self.high_width, at));
        let mut bad = 0_u8;
        for lane in 0..LANES {
            let outside_low = (bytes[lane].wrapping_sub(low[lane]) > low_width[lane]) as u8;
            let outside_high = (bytes[lane].wrapping_sub(high[lane]) > high_width[lane]) as u8;
            bad |= outside_low & outside_high;
        }
        bad != 0
    }
}

#[inline(always)]
fn lanes<const LANES: usize>(bytes: &[u8], at: usize) -> &[u8; LANES] {
    // Both callers stay within the length.
    bytes.get(at..).and_then(<[u8]>::first_chunk).unwrap_or(&[0; LANES])
}

/// Classes with counts where at each character at most one step can go on: no backtracking is ever needed.
#[derive(Debug)]
struct Sequence {
    steps: Box<[Step]>,
    /// For each byte, the steps' classes it belongs to, by bit. Bytes above 127 stand for all characters above it.
    table: Box<[u8; 256]>,
    /// A class holds some characters above 127 and not others: such subjects are walked by character.
    by_character: bool,
    /// Whether the subject must end where the sequence does.
    to_the_end: bool,
}

#[derive(Debug)]
struct Step {
    class: Class,
    bit: u8,
    min: u32,
    max: u32,
    /// A bounded step whose class holds more than ASCII counts characters, not bytes.
    counts_characters: bool,
}

impl Sequence {
    const STEPS_MAX: usize = 64;
    const CLASSES_MAX: usize = 8;

    fn new(steps: &[(Class, u32, u32)], to_the_end: bool) -> Option<Sequence> {
        let mut steps: Vec<_> = steps.to_vec();
        if !to_the_end {
            // Without an end, what may be left out is, and the last step needs no more than its least.
            while steps.last().is_some_and(|&(_, min, _)| min == 0) {
                steps.pop();
            }
            if let Some((_, min, max)) = steps.last_mut() {
                *max = *min;
            }
        }
        if steps.len() > Self::STEPS_MAX {
            return None;
        }
        for (index, (class, min, max)) in steps.iter().enumerate() {
            if min == max {
                continue;
            }
            for (later, later_min, _) in &steps[index + 1..] {
                if class.overlaps(later) {
                    return None;
                }
                if *later_min > 0 {
                    break;
                }
            }
        }
        let mut classes: Vec<Class> = Vec::new();
        let mut table = Box::new([0_u8; 256]);
        let mut by_character = false;
        let mut compiled = Vec::new();
        for (class, min, max) in steps {
            let number = match classes.iter().position(|known| *known == class) {
                Some(number) => number,
                None => {
                    classes.push(class.clone());
                    classes.len() - 1
                }
            };
            if number >= Self::CLASSES_MAX {
                return None;
            }
            let bit = 1 << number;
            for byte in 0..128_u32 {
                if class.contains(byte) {
                    table[byte as usize] |= bit;
                }
            }
            match class.above_ascii() {
                Above::None => {}
                Above::All => (128..256).for_each(|byte: usize| table[byte] |= bit),
                Above::Some => by_character = true,
            }
            let counts_characters =
                class.above_ascii() != Above::None && !(min <= 1 && (max == u32::MAX || max == 0));
            compiled.push(Step { class, bit, min, max, counts_characters });
        }
        Some(Sequence { steps: compiled.into(), table, by_character, to_the_end })
    }

    fn is_match(&self, bytes: &[u8]) -> bool {
        if self.by_character && !bytes.is_ascii() {
            return self.is_match_by_character(bytes);
        }
        let mut at = 0;
        for step in &self.steps {
            let start = at;
            if step.counts_characters {
                let mut count = 0;
                while at < bytes.len() && self.table[bytes[at] as usize] & step.bit != 0 {
                    if count == step.max && bytes[at] & 0xc0 != 0x80 {
                        break;
                    }
                    count += u32::from(bytes[at] & 0xc0 != 0x80);
                    at += 1;
                }
                if count < step.min {
                    return false;
                }
            } else {
                let end = bytes.len().min(start.saturating_add(step.max as usize));
                while at < end && self.table[bytes[at] as usize] & step.bit != 0 {
                    at += 1;
                }
                if at - start < step.min as usize {
                    return false;
                }
            }
        }
        !self.to_the_end || at == bytes.len()
    }

    #[cold]
    fn is_match_by_character(&self, subject: &[u8]) -> bool {
        let mut rest = characters(subject).peekable();
        for step in &self.steps {
            let mut count = 0;
            while count < step.max
                && let Some(&character) = rest.peek()
                && step.class.contains(character as u32)
            {
                rest.next();
                count = count.saturating_add(1);
            }
            if count < step.min {
                return false;
            }
        }
        !self.to_the_end || rest.peek().is_none()
    }
}

/// A set of characters: sorted, disjoint ranges of code points, or (with properties) what only the engine knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Class {
    ranges: Vec<(u32, u32)>,
    /// `\p{…}` as written; complete only in the engine.
    properties: Vec<String>,
    negated: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Above {
    None,
    Some,
    All,
}

impl Class {
    const LAST: u32 = 0x10ffff;

    fn of(ranges: &[(u32, u32)]) -> Class {
        let mut class = Class { ranges: ranges.to_vec(), ..Class::default() };
        class.normalize();
        class
    }

    fn digit() -> Class {
        Class::of(&[(0x30, 0x39)])
    }

    fn word() -> Class {
        Class::of(&[(0x30, 0x39), (0x41, 0x5a), (0x5f, 0x5f), (0x61, 0x7a)])
    }

    /// ECMA-262 WhiteSpace and LineTerminator: wider than ASCII, and with U+FEFF.
    fn space() -> Class {
        Class::of(&[
            (0x09, 0x0d),
            (0x20, 0x20),
            (0xa0, 0xa0),
            (0x1680, 0x1680),
            (0x2000, 0x200a),
            (0x2028, 0x2029),
            (0x202f, 0x202f),
            (0x205f, 0x205f),
            (0x3000, 0x3000),
            (0xfeff, 0xfeff),
        ])
    }

    /// `.` without the `s` flag: all but LineTerminator.
    fn dot() -> Class {
        Class::of(&[(0x0a, 0x0a), (0x0d, 0x0d), (0x2028, 0x2029)]).complement()
    }

    fn normalize(&mut self) {
        self.ranges.sort_unstable();
        let mut merged: Vec<(u32, u32)> = Vec::with_capacity(self.ranges.len());
        for &(first, last) in &self.ranges {
            match merged.last_mut() {
                Some(previous) if first <= previous.1.saturating_add(1) => previous.1 = previous.1.max(last),
                _ => merged.push((first, last)),
            }
        }
        self.ranges = merged;
    }

    /// All other characters. Only for a class without properties.
    fn complement(&self) -> Class {
        let mut ranges = Vec::new();
        let mut next = 0;
        for &(first, last) in &self.ranges {
            if next < first {
                ranges.push((next, first - 1));
            }
            next = last + 1;
        }
        if next <= Self::LAST {
            ranges.push((next, Self::LAST));
        }
        Class { ranges, ..Class::default() }
    }

    fn contains(&self, code: u32) -> bool {
        self.ranges.iter().any(|&(first, last)| first <= code && code <= last)
    }

    fn overlaps(&self, other: &Class) -> bool {
        self.ranges.iter().any(|a| other.ranges.iter().any(|b| a.0 <= b.1 && b.0 <= a.1))
    }

    fn above_ascii(&self) -> Above {
        match self.ranges.last() {
            None => Above::None,
            Some(&(_, last)) if last < 128 => Above::None,
            Some(&(first, Self::LAST)) if first <= 128 => Above::All,
            Some(_) => Above::Some,
        }
    }

    /// The one character of the class.
    fn single(&self) -> Option<char> {
        match self.ranges[..] {
            [(first, last)] if first == last => char::from_u32(first),
            _ => None,
        }
    }

    fn is_plain(&self) -> bool {
        self.properties.is_empty()
    }

    fn write(&self, out: &mut String) {
        if self.is_plain() && self.ranges.is_empty() {
            // The empty class matches nothing.
            out.push_str("[^\\x{0}-\\x{10ffff}]");
            return;
        }
        out.push_str(if self.negated { "[^" } else { "[" });
        for &(first, last) in &self.ranges {
            // Surrogates are no characters to the engine.
            for (first, last) in [(first, last.min(0xd7ff)), (first.max(0xe000), last)] {
                if first <= last {
                    out.push_str(&format!("\\x{{{first:x}}}-\\x{{{last:x}}}"));
                }
            }
        }
        self.properties.iter().for_each(|property| out.push_str(property));
        out.push(']');
    }
}

/// A parsed pattern.
#[derive(Clone, Debug)]
enum Ast {
    Empty,
    Class(Class),
    Start,
    End,
    /// `\b` (true) or `\B`.
    Boundary(bool),
    Repeat(Box<Ast>, u32, u32),
    Concat(Vec<Ast>),
    Either(Vec<Ast>),
}

impl Ast {
    /// Writes the pattern in the engine's syntax.
    fn write(&self, out: &mut String) {
        match self {
            Ast::Empty => out.push_str("(?:)"),
            Ast::Class(class) => class.write(out),
            Ast::Start => out.push_str("\\A"),
            Ast::End => out.push_str("\\z"),
            Ast::Boundary(true) => out.push_str("(?-u:\\b)"),
            Ast::Boundary(false) => out.push_str("(?-u:\\B)"),
            Ast::Repeat(inner, min, max) => {
                out.push_str("(?:");
                inner.write(out);
                out.push(')');
                match (min, max) {
                    (0, &u32::MAX) => out.push('*'),
                    (1, &u32::MAX) => out.push('+'),
                    (min, &u32::MAX) => out.push_str(&format!("{{{min},}}")),
                    (min, max) => out.push_str(&format!("{{{min},{max}}}")),
                }
            }
            Ast::Concat(parts) => parts.iter().for_each(|part| part.write(out)),
            Ast::Either(parts) => {
                for (index, part) in parts.iter().enumerate() {
                    out.push_str(if index == 0 { "(?:" } else { "|" });
                    part.write(out);
                }
                out.push(')');
            }
        }
    }
}

/// The matcher of a pattern that needs no engine.
fn simple(ast: &Ast) -> Option<Matcher> {
    const BRANCHES_MAX: usize = 16;
    let mut branches = vec![Vec::new()];
    distribute(ast, &mut branches, BRANCHES_MAX)?;
    let mut matchers = branches.iter().map(|branch| simple_branch(branch)).collect::<Option<Vec<_>>>()?;
    match matchers.len() {
        1 => matchers.pop(),
        _ => Some(Matcher::Either(matchers.into())),
    }
}

/// Multiplies alternatives out, so that each branch is a plain sequence.
fn distribute(ast: &Ast, branches: &mut Vec<Vec<Ast>>, max: usize) -> Option<()> {
    match ast {
        Ast::Empty => {}
        Ast::Class(class) if !class.is_plain() => return None,
        Ast::Class(_) | Ast::Start | Ast::End => {
            branches.iter_mut().for_each(|branch| branch.push(ast.clone()))
        }
        Ast::Boundary(_) => return None,
        Ast::Repeat(inner, min, max_count) => match &**inner {
            Ast::Class(class) if class.is_plain() => {
                branches.iter_mut().for_each(|branch| branch.push(ast.clone()));
            }
            _ if (*min, *max_count) == (0, 1) => {
                let mut with = branches.clone();
                distribute(inner, &mut with, max)?;
                branches.extend(with);
            }
            _ if min == max_count && *min <= 16 => {
                for _ in 0..*min {
                    distribute(inner, branches, max)?;
                }
            }
            _ => return None,
        },
        Ast::Concat(parts) => {
            for part in parts {
                distribute(part, branches, max)?;
            }
        }
        Ast::Either(parts) => {
            let before = std::mem::take(branches);
            for part in parts {
                let mut with = before.clone();
                distribute(part, &mut with, max)?;
                branches.extend(with);
            }
        }
    }
    let length: usize = branches.iter().map(Vec::len).sum();
    (branches.len() <= max && length <= 4 * Fixed::LEN_MAX).then_some(())
}

fn simple_branch(branch: &[Ast]) -> Option<Matcher> {
    let (start, rest) = match branch {
        [Ast::Start, rest @ ..] => (true, rest),
        rest => (false, rest),
    };
    let (end, rest) = match rest {
        [rest @ .., Ast::End] => (true, rest),
        rest => (false, rest),
    };
    let mut steps: Vec<(Class, u32, u32)> = Vec::new();
    for part in rest {
        let (class, min, max) = match part {
            Ast::Class(class) => (class, 1, 1),
            Ast::Repeat(inner, min, max) => match &**inner {
                Ast::Class(class) => (class, *min, *max),
                _ => return None,
            },
            _ => return None,
        };
        // `aa*` and `a{2}a` are one step.
        match steps.last_mut() {
            Some((last, last_min, last_max)) if last == class => {
                *last_min = last_min.saturating_add(min);
                *last_max = if *last_max == u32::MAX || max == u32::MAX {
                    u32::MAX
                } else {
                    last_max.saturating_add(max)
                };
            }
            _ => steps.push((class.clone(), min, max)),
        }
    }
    if !start {
        // Unanchored: one needed character of a class, or nothing needed at all.
        return match (&steps[..], end) {
            ([], _) => Some(Matcher::Always),
            ([(_, 0, u32::MAX)], _) => Some(Matcher::Always),
            ([(_, 0, _)], false) => Some(Matcher::Always),
            ([(class, 1, _)], false) => Some(Matcher::Contains(class.clone())),
            _ => None,
        };
    }
    let literal: Option<String> = steps.iter().try_fold(String::new(), |mut literal, (class, min, max)| {
        let character = class.single()?;
        if min != max || *min as usize + literal.len() > Fixed::LEN_MAX {
            return None;
        }
        (0..*min).for_each(|_| literal.push(character));
        Some(literal)
    });
    if let Some(literal) = literal {
        let bytes: Box<[u8]> = literal.into_bytes().into();
        return Some(if end { Matcher::Exact(bytes) } else { Matcher::Prefix(bytes) });
    }
    if end && let Some(fixed) = fixed(&steps) {
        return Some(Matcher::Fixed(fixed));
    }
    Sequence::new(&steps, end).map(Matcher::Sequence)
}

fn fixed(steps: &[(Class, u32, u32)]) -> Option<Fixed> {
    let (mut low, mut low_width, mut high, mut high_width) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (class, min, max) in steps {
        if min != max || class.above_ascii() != Above::None || low.len() + *min as usize > Fixed::LEN_MAX {
            return None;
        }
        let (first, second) = match class.ranges[..] {
            [first] => (first, first),
            [first, second] => (first, second),
            _ => return None,
        };
        for _ in 0..*min {
            low.push(first.0 as u8);
            low_width.push((first.1 - first.0) as u8);
            high.push(second.0 as u8);
            high_width.push((second.1 - second.0) as u8);
        }
    }
    Some(Fixed {
        low: low.into(),
        low_width: low_width.into(),
        high: high.into(),
        high_width: high_width.into(),
    })
}

/// Reads ECMA-262 patterns (RegExp with the `u` flag; needless escapes of punctuation and lone `{`, `}`, `]` are
/// taken literally, as browsers do without the flag and as many schemas are written).
struct Parser {
    characters: Vec<char>,
    at: usize,
    groups: usize,
}

impl Parser {
    const GROUPS_MAX: usize = 64;

    fn parse(mut self) -> Result<Ast, String> {
        let ast = self.either()?;
        match self.peek() {
            None => Ok(ast),
            Some(_) => Err(self.wrong("a `)` without its `(`")),
        }
    }

    fn either(&mut self) -> Result<Ast, String> {
        let mut parts = vec![self.concat()?];
        while self.take('|') {
            parts.push(self.concat()?);
        }
        Ok(if parts.len() == 1 { parts.remove(0) } else { Ast::Either(parts) })
    }

    fn concat(&mut self) -> Result<Ast, String> {
        let mut parts = Vec::new();
        while let Some(character) = self.peek() {
            if character == '|' || character == ')' {
                break;
            }
            let atom = self.atom()?;
            parts.push(self.repeat(atom)?);
        }
        Ok(match parts.len() {
            0 => Ast::Empty,
            1 => parts.remove(0),
            _ => Ast::Concat(parts),
        })
    }

    fn atom(&mut self) -> Result<Ast, String> {
        let Some(character) = self.next() else { return Ok(Ast::Empty) };
        Ok(match character {
            '^' => Ast::Start,
            '$' => Ast::End,
            '.' => Ast::Class(Class::dot()),
            '(' => return self.group(),
            '[' => Ast::Class(self.class()?),
            '\\' => return self.escape(),
            '*' | '+' | '?' => {
                self.at -= 1;
                return Err(self.wrong("a quantifier with nothing before it"));
            }
            character => literal(character),
        })
    }

    fn group(&mut self) -> Result<Ast, String> {
        if self.take('?') {
            match self.next() {
                Some(':') => {}
                Some('=' | '!') => return Err(lookaround()),
                Some('<') => {
                    if let Some('=' | '!') = self.peek() {
                        return Err(lookaround());
                    }
                    while let Some(character) = self.next() {
                        if character == '>' {
                            break;
                        }
                        if !(character.is_alphanumeric() || character == '_' || character == '$') {
                            return Err(self.wrong("a malformed name of a group"));
                        }
                    }
                }
                _ => return Err(self.wrong("a group that ECMA-262 does not have")),
            }
        }
        self.groups += 1;
        if self.groups > Self::GROUPS_MAX {
            return Err("groups are nested too deeply".to_owned());
        }
        let inner = self.either()?;
        self.groups -= 1;
        if !self.take(')') {
            return Err(self.wrong("a `(` without its `)`"));
        }
        Ok(inner)
    }

    fn repeat(&mut self, atom: Ast) -> Result<Ast, String> {
        let (min, max) = match self.peek() {
            Some('*') => (0, u32::MAX),
            Some('+') => (1, u32::MAX),
            Some('?') => (0, 1),
            Some('{') => match self.counts() {
                Some((min, max, length)) => {
                    self.at += length - 1;
                    (min, max)
                }
                None => return Ok(atom),
            },
            _ => return Ok(atom),
        };
        self.at += 1;
        // Lazy or greedy is the same to a yes or no.
        self.take('?');
        if let Some('*' | '+') = self.peek() {
            return Err(self.wrong("a quantifier after a quantifier"));
        }
        if min > max {
            return Err(self.wrong("a range of counts out of order"));
        }
        match atom {
            Ast::Start | Ast::End | Ast::Boundary(_) => Err(self.wrong("a quantifier after an assertion")),
            atom => Ok(Ast::Repeat(Box::new(atom), min, max)),
        }
    }

    /// `{n}`, `{n,}` or `{n,m}` at the reading position, with its length; anything else is a literal brace.
    fn counts(&self) -> Option<(u32, u32, usize)> {
        let mut at = self.at + 1;
        let mut number = || {
            let start = at;
            let mut value: u32 = 0;
            while let Some(digit) = self.characters.get(at).and_then(|character| character.to_digit(10)) {
                value = value.saturating_mul(10).saturating_add(digit).min(u32::MAX - 1);
                at += 1;
            }
            let next = self.characters.get(at).copied();
            at += 1;
            ((at - 1 > start).then_some(value), next)
        };
        let (min, max) = match number() {
            (Some(min), Some('}')) => (min, min),
            (Some(min), Some(',')) => match number() {
                (Some(max), Some('}')) => (min, max),
                (None, Some('}')) => (min, u32::MAX),
                _ => return None,
            },
            _ => return None,
        };
        Some((min, max, at - self.at))
    }

    fn escape(&mut self) -> Result<Ast, String> {
        Ok(match self.peek() {
            Some('b') => {
                self.at += 1;
                Ast::Boundary(true)
            }
            Some('B') => {
                self.at += 1;
                Ast::Boundary(false)
            }
            Some('1'..='9' | 'k') => {
                return Err("a backreference cannot be matched in linear time".to_owned());
            }
            _ => Ast::Class(self.class_escape()?),
        })
    }

    /// What follows a backslash, inside or outside of brackets, as a class.
    fn class_escape(&mut self) -> Result<Class, String> {
        let Some(character) = self.next() else { return Err(self.wrong("a lone backslash at the end")) };
        let code = match character {
            'd' => return Ok(Class::digit()),
            'D' => return Ok(Class::digit().complement()),
            'w' => return Ok(Class::word()),
            'W' => return Ok(Class::word().complement()),
            's' => return Ok(Class::space()),
            'S' => return Ok(Class::space().complement()),
            'p' | 'P' => return self.property(character),
            't' => 0x09,
            'n' => 0x0a,
            'v' => 0x0b,
            'f' => 0x0c,
            'r' => 0x0d,
            '0' if !self.peek().is_some_and(|next| next.is_ascii_digit()) => 0,
            'c' => match self.next() {
                Some(letter) if letter.is_ascii_alphabetic() => letter as u32 % 32,
                _ => return Err(self.wrong("`\\c` without a letter")),
            },
            'x' => self.hexadecimal(2)?,
            'u' => self.unicode()?,
            character if character.is_ascii_alphanumeric() => {
                return Err(self.wrong("an escape that ECMA-262 does not have"));
            }
            character => character as u32,
        };
        Ok(Class::of(&[(code, code)]))
    }

    fn property(&mut self, letter: char) -> Result<Class, String> {
        let mut name = String::new();
        if !self.take('{') {
            return Err(self.wrong("`\\p` without `{…}`"));
        }
        loop {
            match self.next() {
                Some('}') => break,
                Some(character) if character.is_ascii_alphanumeric() || matches!(character, '_' | '=') => {
                    name.push(character);
                }
                _ => return Err(self.wrong("a malformed Unicode property")),
            }
        }
        if name.is_empty() {
            return Err(self.wrong("a Unicode property without a name"));
        }
        Ok(Class { properties: vec![format!("\\{letter}{{{name}}}")], ..Class::default() })
    }

    fn unicode(&mut self) -> Result<u32, String> {
        if self.take('{') {
            let mut code = 0_u32;
            let mut digits = 0;
            while let Some(digit) = self.peek().and_then(|character| character.to_digit(16)) {
                code = code.saturating_mul(16).saturating_add(digit);
                digits += 1;
                self.at += 1;
            }
            if !self.take('}') || digits == 0 || char::from_u32(code).is_none() {
                return Err(self.wrong("a malformed `\\u{…}`"));
            }
            return Ok(code);
        }
        let high = self.hexadecimal(4)?;
        if (0xd800..0xdc00).contains(&high) && self.characters[self.at..].starts_with(&['\\', 'u']) {
            let back = self.at;
            self.at += 2;
            if let Ok(low) = self.hexadecimal(4)
                && (0xdc00..0xe000).contains(&low)
            {
                return Ok(0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00));
            }
            self.at = back;
        }
        Ok(high)
    }

    fn hexadecimal(&mut self, digits: usize) -> Result<u32, String> {
        let mut code = 0;
        for _ in 0..digits {
            let Some(digit) = self.next().and_then(|character| character.to_digit(16)) else {
                return Err(self.wrong("too few hexadecimal digits"));
            };
            code = code * 16 + digit;
        }
        Ok(code)
    }

    /// After `[`.
    fn class(&mut self) -> Result<Class, String> {
        let negated = self.take('^');
        let mut class = Class::default();
        loop {
            if self.take(']') {
                break;
            }
            let first = self.class_atom()?;
            if self.peek() == Some('-') && !matches!(self.characters.get(self.at + 1), None | Some(']')) {
                self.at += 1;
                let last = self.class_atom()?;
                match (first.ranges.as_slice(), last.ranges.as_slice()) {
                    (&[(from, a)], &[(b, to)]) if from == a && b == to => {
                        if from > to {
                            return Err(self.wrong("a range of characters out of order"));
                        }
                        class.ranges.push((from, to));
                        continue;
                    }
                    // `[\w-.]`: the hyphen is one of the characters, as without the `u` flag.
                    _ => {
                        class.ranges.push((0x2d, 0x2d));
                        class.ranges.extend(last.ranges);
                        class.properties.extend(last.properties);
                    }
                }
            }
            class.ranges.extend(first.ranges);
            class.properties.extend(first.properties);
        }
        class.normalize();
        if !negated {
            return Ok(class);
        }
        if class.is_plain() {
            return Ok(class.complement());
        }
        class.negated = true;
        Ok(class)
    }

    fn class_atom(&mut self) -> Result<Class, String> {
        match self.next() {
            None => Err(self.wrong("a `[` without its `]`")),
            Some('\\') => match self.peek() {
                Some('b') => {
                    self.at += 1;
                    Ok(Class::of(&[(0x08, 0x08)]))
                }
                _ => self.class_escape(),
            },
            Some(character) => Ok(Class::of(&[(character as u32, character as u32)])),
        }
    }

    fn peek(&self) -> Option<char> {
        self.characters.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let character = self.peek();
        self.at += usize::from(character.is_some());
        character
    }

    fn take(&mut self, character: char) -> bool {
        let found = self.peek() == Some(character);
        self.at += usize::from(found);
        found
    }

    fn wrong(&self, what: &str) -> String {
        format!("{what} (at character {} of the pattern)", self.at + 1)
    }
}

fn literal(character: char) -> Ast {
    Ast::Class(Class::of(&[(character as u32, character as u32)]))
}

fn lookaround() -> String {
    "lookahead and lookbehind cannot be matched in linear time".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, subject: &str) -> bool {
        let pattern = Pattern::compile(pattern, &mut 0).unwrap_or_else(|error| panic!("{pattern}: {error}"));
        pattern.is_match(subject.as_bytes(), &mut Caches::default())
    }

    /// The pattern by the engine alone: the oracle of the walks.
    fn engine(pattern: &str, subject: &str) -> bool {
        let ast = Parser { characters: pattern.chars().collect(), at: 0, groups: 0 }.parse().unwrap();
        let mut translated = String::new();
        ast.write(&mut translated);
        meta::Regex::new(&translated)
            .unwrap_or_else(|error| panic!("{translated}: {error}"))
            .is_match(subject)
    }

    const CHEAP: &[&str] = &[
        "",
        "^",
        "$",
        "^$",
        "^a",
        "^abc$",
        "^abc",
        ".+",
        ".*",
        "^.*$",
        "^.{2,4}$",
        "^[A-Z]{2}$",
        "^[A-Z]{3}$",
        "^SKU-[0-9]{6}$",
        "^\\+[0-9]{6,15}$",
        "^[^@]+@[^@]+$",
        "^[0-9a-f-]{36}$",
        "^[a-z]+(-[a-z]+)?$",
        "^(a|b|cd)$",
        "^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$",
        "^\\S+$",
        "^\\s*\\S",
        "[0-9]",
        "^[^é]{1,2}$",
        "^é+$",
        "^x-",
        "^(foo|ba[rz]){2}$",
        "^a?b?c?$",
        "^[a-z]{2,}",
        "^aa*$",
        "\\S",
        "^\\d{4}-\\d{2}-\\d{2}$",
        "^[\\w.-]+$",
        "^v?[0-9]+$",
        "^\\u00e9$",
        "^a{0}$",
    ];

    const SUBJECTS: &[&str] = &[
        "",
        "a",
        "b",
        "ab",
        "abc",
        "abcd",
        "cd",
        "A",
        "AB",
        "ABC",
        "ÄB",
        "é",
        "éé",
        "ééé",
        "\n",
        "a\nb",
        "ab\n",
        " ",
        " x",
        "\u{2028}",
        "a\u{2028}",
        "\u{a0}",
        "SKU-123456",
        "SKU-12345",
        "SKU-12345x",
        "+491234567",
        "+49123",
        "+1234567890123456",
        "a@b",
        "@b",
        "a@@b",
        "a@b@c",
        "ä@ö",
        "1738f7d9-8d11-46ca-a0f2-90c1d3ac94af",
        "1738f7d9-8d11-36ca-a0f2-90c1d3ac94af",
        "1738f7d9-8d11-46ca-c0f2-90c1d3ac94af",
        "1738f7d98d1146caa0f290c1d3ac94af",
        "ab-cd",
        "ab-",
        "x-y",
        "foobar",
        "foobaz",
        "foo",
        "2024-01-31",
        "2024-1-31",
        "9",
        "v12",
        "v",
        "aaaa",
        "😀",
        "😀😀",
        "😀😀😀",
        "0",
        "_-.",
        "ac",
        "ca",
        "\u{feff}",
    ];

    #[test]
    fn walks_agree_with_the_engine() {
        for pattern in CHEAP {
            let compiled = Pattern::compile(pattern, &mut 0).unwrap();
            assert!(!matches!(compiled.matcher, Matcher::Engine(..)), "{pattern} should not need the engine");
            for subject in SUBJECTS {
                assert_eq!(matches(pattern, subject), engine(pattern, subject), "{pattern} {subject:?}");
            }
        }
    }

    #[test]
    fn ecma_meanings_are_kept() {
        for (pattern, subject, want) in [
            ("^\\d$", "\u{9ea}", false),
            ("^\\w$", "é", false),
            ("\\bfoo\\b", "a foo b", true),
            ("\\bfoo\\b", "éfooé", true),
            ("^\\cC$", "\u{3}", true),
            ("^\\p{Letter}cole", "École", true),
            ("^\\p{Letter}cole", "Écolé", false),
            ("\\p{Letter}cole", "Les Écoles", true),
            ("\\p{Letter}cole", "Les écoles", true),
            ("^\\p{digit}+$", "৪২", true),
            ("^[^\\p{L}]$", "1", true),
            ("^\\ud83d\\udc32*$", "🐲🐲", true),
            ("^🐲*$", "🐲🐲", true),
            ("^a.c$", "a\u{2028}c", false),
            ("^a{2$", "a{2", true),
            ("^[\\w-.]+$", "a-b.c", true),
            ("a+b+(ab)*c", "xaabbababc", true),
            ("^[]$", "", false),
            ("^[^]$", "\n", true),
            ("^(a+)+$", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", false),
            ("(?:^|,)x(?:,|$)", "a,x", true),
            ("(?<year>\\d{4})", "in 2024", true),
        ] {
            assert_eq!(matches(pattern, subject), want, "{pattern} {subject}");
        }
    }

    #[test]
    fn what_cannot_be_linear_is_refused() {
        for (pattern, word) in [
            ("(?=a)", "lookahead"),
            ("(?<!a)b", "lookahead"),
            ("(a)\\1", "backreference"),
            ("(?<n>a)\\k<n>", "backreference"),
            ("a**", "quantifier"),
            ("*a", "quantifier"),
            ("(a", "`(`"),
            ("a)", "`)`"),
            ("[a", "`[`"),
            ("\\", "backslash"),
            ("\\y", "escape"),
            ("\\p{Nope}", "ropert"),
            ("[b-a]", "order"),
            ("a{3,2}", "order"),
            ("^\\b(\\p{L}{1000}){1000}", "large"),
        ] {
            let error = Pattern::compile(pattern, &mut 0).expect_err(pattern);
            assert!(error.contains(word), "{pattern}: {error}");
        }
    }
}
