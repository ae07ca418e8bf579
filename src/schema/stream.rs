//! The first run: judging the text itself, while reading it, without a tape.
//!
//! What it is for: bodies as clients really send them. One pass over the bytes reads and judges at once, guided by the
//! plan: a name is compared in place with the one that came here the last time, a string is looked at where it
//! lies, nothing is written anywhere. It costs less than building the tape alone.
//!
//! What it is not for: anything rare. Whatever is not plain (an escape in a name or in a string with a pattern, a
//! number with an exponent, a dozen unlisted names, malformed text) is [`Verdict::Unsure`], and the tape decides.
//! It never calls a text well-formed that the strict reader would refuse: tests and the fuzz target hold it to that.
//!
//! Who calls it: [`super::Program::check`].

use std::cell::Cell;

use super::model::Types;
use super::pattern::{Caches, Pattern};
use super::program::{
    Flat, Key, Memory, NAMES, NOTHING, Name, NumberOp, NumberPlan, ObjectPlan, Plan, Rest, StringOp, Verdict,
    characters_within, length_within,
};
use crate::sys::lanes::Lanes;

/// Judges `text`, which is UTF-8, with no more than `depth_max` levels.
pub(super) fn judge(
    flat: &Flat,
    patterns: &[Pattern],
    text: &str,
    depth_max: u32,
    caches: &mut Caches,
    memory: &mut Memory,
    steps: u64,
) -> Verdict {
    memory.prepare(flat);
    let Memory { following, spans } = memory;
    spans.clear();
    let following = Cell::from_mut(&mut following[..]).as_slice_of_cells();
    let bytes = text.as_bytes();
    let mut run = Run { flat, patterns, bytes, depth: depth_max, caches, following, spans, steps };
    let start = run.skip_space(0);
    match run.judge(flat.root, start) {
        End::INVALID => Verdict::Invalid,
        End::UNSURE => Verdict::Unsure,
        End(end) if run.skip_space(end) == bytes.len() => Verdict::Valid,
        _ => Verdict::Unsure,
    }
}

/// Where a valid value ends, or that it is not valid, or that the tape must say. One register.
#[derive(Clone, Copy, PartialEq, Eq)]
struct End(usize);

impl End {
    const INVALID: End = End(usize::MAX);
    const UNSURE: End = End(usize::MAX - 1);

    #[inline(always)]
    fn is_valid(self) -> bool {
        self.0 < End::UNSURE.0
    }

    #[inline(always)]
    fn only_if(self, valid: bool) -> End {
        if valid { self } else { End::INVALID }
    }
}

struct Run<'a> {
    flat: &'a Flat,
    patterns: &'a [Pattern],
    /// The text; every span between quotes is UTF-8 of its own.
    bytes: &'a [u8],
    /// How many levels may still be opened.
    depth: u32,
    caches: &'a mut Caches,
    following: &'a [Cell<u16>],
    /// Unlisted names and unique elements of what is open, to be compared with the next ones.
    spans: &'a mut Vec<(u32, u32)>,
    steps: u64,
}

/// A string in the text: what is between the quotes, and how many bytes of it escapes take more than the characters
/// they stand for.
#[derive(Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
    escapes: usize,
}

/// How many bytes are looked at together.
const LANES: usize = 16;
/// Unlisted names and unique elements are compared with one another up to this many; the tape hashes more.
const PAIRWISE_MAX: usize = 12;

impl<'a> Run<'a> {
    /// Judges the value that begins at `at`.
    #[inline(always)]
    fn judge(&mut self, plan: u32, at: usize) -> End {
        let flat = self.flat;
        let plan = &flat.plans[plan as usize];
        let end = match self.byte(at) {
            b'"' => {
                if plan.types & Types::STRING == 0 {
                    return End::INVALID;
                }
                let Some(span) = self.string(at) else { return End::UNSURE };
                self.text(plan, span)
            }
            b'-' | b'0'..=b'9' => self.number(plan, at),
            b'{' => {
                if plan.types & Types::OBJECT == 0 {
                    return End::INVALID;
                }
                match plan.object {
                    NOTHING => End(at),
                    NAMES => self.skip(at),
                    object => self.object(object, at),
                }
            }
            b'[' => {
                if plan.types & Types::ARRAY == 0 {
                    return End::INVALID;
                }
                match plan.array {
                    NOTHING => End(at),
                    NAMES => self.skip(at),
                    array => self.array(array, at),
                }
            }
            b't' => self.word(at, b"true").only_if(plan.types & Types::TRUE != 0),
            b'f' => self.word(at, b"false").only_if(plan.types & Types::FALSE != 0),
            b'n' => self.word(at, b"null").only_if(plan.types & Types::NULL != 0),
            _ => return End::UNSURE,
        };
        if !end.is_valid() || plan.rest.0 == plan.rest.1 {
            return end;
        }
        self.rest(plan.rest, at, end)
    }

    #[inline(always)]
    fn text(&mut self, plan: &Plan, span: Span) -> End {
        let flat = self.flat;
        let end = End(span.end + 1);
        let value = self.slice(span);
        match plan.string {
            StringOp::Any => end,
            StringOp::Length { min, max } if span.escapes == 0 => end.only_if(length_within(value, min, max)),
            StringOp::Length { min, max } => end.only_if(characters_within(value, span.escapes, min, max)),
            _ if span.escapes > 0 => End::UNSURE,
            StringOp::Set(set) => end.only_if(flat.sets[set as usize].contains(value)),
            StringOp::Match(pattern) => match self.matches(pattern, value) {
                Some(matches) => end.only_if(matches),
                None => End::UNSURE,
            },
            StringOp::All(string) => {
                let plan = &flat.strings[string as usize];
                let in_sets = || plan.sets.iter().all(|&set| flat.sets[set as usize].contains(value));
                if !length_within(value, plan.min, plan.max) || !in_sets() {
                    return End::INVALID;
                }
                match plan.pattern.map_or(Some(true), |pattern| self.matches(pattern, value)) {
                    Some(matches) => end.only_if(matches),
                    None => End::UNSURE,
                }
            }
        }
    }

    #[inline(never)]
    fn object(&mut self, object: u32, at: usize) -> End {
        let flat = self.flat;
        let plan = &flat.objects[object as usize];
        let names = &flat.names[plan.names.0 as usize..plan.names.1 as usize];
        // One slot before any name, one after each.
        let following = &self.following[plan.slots as usize..][..=names.len()];
        if plan.constant || names.len() > 64 || self.depth == 0 {
            return End::UNSURE;
        }
        self.depth -= 1;
        let unlisted_from = self.spans.len();
        let mut seen = 0_u64;
        let mut count = 0_u64;
        let mut slot = 0;
        let mut at = at + 1;
        loop {
            // The name that came here the last time, right here, with its colon: nearly always.
            at = self.skip_space(at);
            let expected = following[slot].get() as usize;
            let found = match names.get(expected) {
                Some(name) if self.is_here(name, at) => {
                    at += name.key.len + 3;
                    Some((expected, name))
                }
                _ => {
                    match self.byte(at) {
                        b'"' => {}
                        b'}' if count == 0 => break,
                        _ => return End::UNSURE,
                    }
                    let Some(span) = self.string(at) else { return End::UNSURE };
                    at = self.skip_space(span.end + 1);
                    if span.escapes > 0 || self.byte(at) != b':' {
                        return End::UNSURE;
                    }
                    at += 1;
                    let name = self.slice(span);
                    let found = plan.find(names, Key::of(name), name);
                    let found = found.and_then(|index| Some((index, names.get(index)?)));
                    match found {
                        Some((index, _)) => following[slot].set(index as u16),
                        None if plan.closed && plan.patterns.is_empty() => return End::INVALID,
                        None if !self.remember(span.start, span.end, unlisted_from) => return End::UNSURE,
                        None => {}
                    }
                    found
                }
            };
            at = self.skip_space(at);
            count += 1;
            let end = match found {
                Some((index, name)) => {
                    if seen & (1 << index) != 0 {
                        return End::UNSURE;
                    }
                    seen |= 1 << index;
                    slot = index + 1;
                    self.judge(name.plan, at)
                }
                None => self.unlisted(plan, at),
            };
            if !end.is_valid() {
                // Another branch may begin anew: what this one read is paid for.
                return if self.charge(count) { end } else { End::UNSURE };
            }
            at = match self.byte(end.0) {
                b',' => end.0 + 1,
                b'}' => {
                    at = end.0;
                    break;
                }
                _ => {
                    at = self.skip_space(end.0);
                    match self.byte(at) {
                        b',' => at + 1,
                        b'}' => break,
                        _ => return End::UNSURE,
                    }
                }
            };
        }
        if !self.charge(count + 1) {
            return End::UNSURE;
        }
        self.depth += 1;
        if self.spans.len() > unlisted_from {
            self.spans.truncate(unlisted_from);
        }
        End(at + 1).only_if(seen & plan.required == plan.required && plan.min <= count && count <= plan.max)
    }

    /// Whether `"name":` stands here.
    #[inline(always)]
    fn is_here(&self, name: &Name, at: usize) -> bool {
        match self.bytes.get(at..).and_then(<[u8]>::first_chunk::<{ LANES + 1 }>) {
            // The opening quote, and the name with the closing quote and the colon.
            Some([b'"', rest @ ..]) if u128::from_le_bytes(*rest) & name.mask == name.quoted => true,
            Some(_) if !name.is_long => false,
            _ => self.is_here_slowly(name, at),
        }
    }

    /// The same for long names and at the end of the text.
    fn is_here_slowly(&self, name: &Name, at: usize) -> bool {
        let Some(rest) = self.bytes.get(at..) else { return false };
        name.is_plain
            && rest
                .strip_prefix(b"\"")
                .and_then(|rest| rest.strip_prefix(name.long.as_bytes()))
                .is_some_and(|rest| rest.starts_with(b"\":"))
    }

    /// A member whose name the schema does not list: the last of the remembered spans.
    #[inline(never)]
    fn unlisted(&mut self, plan: &ObjectPlan, at: usize) -> End {
        let mut known = None;
        if let Some(&(start, end)) = self.spans.last() {
            let name = &self.bytes[start as usize..end as usize];
            for &(pattern, schema) in &plan.patterns {
                match self.matches(pattern, name) {
                    Some(true) => {}
                    Some(false) => continue,
                    None => return End::UNSURE,
                }
                let end = self.judge_again(schema, at);
                if !end.is_valid() {
                    return end;
                }
                known = Some(end);
            }
        }
        match known {
            Some(end) => end,
            None if plan.closed => End::INVALID,
            None => self.judge_again(plan.additional, at),
        }
    }

    /// Keeps a span unless its bytes were kept before, or too many were.
    #[inline(never)]
    fn remember(&mut self, start: usize, end: usize, from: usize) -> bool {
        let bytes = self.bytes;
        let kept = &self.spans[from..];
        let value = &bytes[start..end];
        if kept.len() == PAIRWISE_MAX
            || kept.iter().any(|&(start, end)| bytes[start as usize..end as usize] == *value)
        {
            return false;
        }
        self.spans.push((start as u32, end as u32));
        true
    }

    #[inline(never)]
    fn array(&mut self, array: u32, at: usize) -> End {
        let flat = self.flat;
        let plan = &flat.arrays[array as usize];
        if plan.constant || self.depth == 0 {
            return End::UNSURE;
        }
        self.depth -= 1;
        let prefix = &flat.lists[plan.prefix.0 as usize..plan.prefix.1 as usize];
        let unique_from = self.spans.len();
        let mut count = 0;
        let mut at = self.skip_space(at + 1);
        if self.byte(at) != b']' {
            loop {
                if !self.charge(1) {
                    return End::UNSURE;
                }
                if count == plan.max {
                    return End::INVALID;
                }
                let schema = prefix.get(count as usize).copied().unwrap_or(plan.items);
                let end = self.judge(schema, at);
                if !end.is_valid() {
                    return end;
                }
                if plan.unique && !self.is_new(at, end.0, unique_from) {
                    return End::UNSURE;
                }
                count += 1;
                at = self.skip_space(end.0);
                match self.byte(at) {
                    b',' => at = self.skip_space(at + 1),
                    b']' => break,
                    _ => return End::UNSURE,
                }
            }
        }
        self.depth += 1;
        self.spans.truncate(unique_from);
        End(at + 1).only_if(plan.min <= count && count <= plan.max)
    }

    /// Whether an element is surely none of the earlier ones. Only for plain strings are equal bytes equal values.
    fn is_new(&mut self, start: usize, end: usize, from: usize) -> bool {
        let value = &self.bytes[start..end];
        value.first() == Some(&b'"') && !value.contains(&b'\\') && self.remember(start, end, from)
    }

    /// The other schemas of the value at `start`, which ends at `end` if the plan itself read it.
    #[inline(never)]
    fn rest(&mut self, rest: (u32, u32), start: usize, end: End) -> End {
        let flat = self.flat;
        // Schemas of one value nest as levels do: the same stack bounds both.
        if self.depth == 0 || !self.charge(1) {
            return End::UNSURE;
        }
        self.depth -= 1;
        // A plan that left the value to others has a schema among them that reads it to its end.
        let mut furthest = end.0;
        for rest in &flat.rest[rest.0 as usize..rest.1 as usize] {
            match *rest {
                Rest::Plan(plan) => {
                    let end = self.branch(plan, start);
                    if !end.is_valid() {
                        return end;
                    }
                    furthest = furthest.max(end.0);
                }
                Rest::AnyOf(from, to) => {
                    let mut met = false;
                    for &plan in &flat.lists[from as usize..to as usize] {
                        match self.branch(plan, start) {
                            End::INVALID => continue,
                            End::UNSURE => return End::UNSURE,
                            End(end) => furthest = furthest.max(end),
                        }
                        met = true;
                        break;
                    }
                    if !met {
                        return End::INVALID;
                    }
                }
                Rest::OneOf(from, to) => {
                    let mut met = 0;
                    for &plan in &flat.lists[from as usize..to as usize] {
                        match self.branch(plan, start) {
                            End::INVALID => continue,
                            End::UNSURE => return End::UNSURE,
                            End(end) => furthest = furthest.max(end),
                        }
                        met += 1;
                        if met > 1 {
                            break;
                        }
                    }
                    if met != 1 {
                        return End::INVALID;
                    }
                }
                Rest::Not(plan) => match self.branch(plan, start) {
                    End::INVALID => {}
                    End::UNSURE => return End::UNSURE,
                    _ => return End::INVALID,
                },
                Rest::Never => return End::INVALID,
            }
        }
        self.depth += 1;
        End(furthest)
    }

    /// A judgement that may fail without the whole failing.
    fn branch(&mut self, plan: u32, start: usize) -> End {
        let (depth, spans) = (self.depth, self.spans.len());
        let end = self.judge_again(plan, start);
        self.depth = depth;
        self.spans.truncate(spans);
        end
    }

    /// [`Run::judge`] without a copy of its code in the caller.
    #[inline(never)]
    fn judge_again(&mut self, plan: u32, at: usize) -> End {
        self.judge(plan, at)
    }

    #[inline(always)]
    fn matches(&mut self, pattern: u32, value: &[u8]) -> Option<bool> {
        if !self.charge(value.len() as u64 / 16) {
            return None;
        }
        Some(self.patterns[pattern as usize].is_match(value, self.caches))
    }

    /// RFC 8259 §6. Integers and short decimals are judged exactly; others are for the tape.
    #[inline(always)]
    fn number(&mut self, plan: &Plan, at: usize) -> End {
        if plan.types & Types::NUMBER == 0 {
            return End::INVALID;
        }
        let negative = self.byte(at) == b'-';
        let start = at + usize::from(negative);
        let (whole, end) = self.digits(start, 0);
        let digits = end - start;
        // A leading zero stands alone; 18 digits always fit.
        if digits == 0 || digits > 18 || digits > 1 && self.byte(start) == b'0' {
            return End::UNSURE;
        }
        if let b'.' | b'e' | b'E' = self.byte(end) {
            return self.decimal(plan, negative, whole, start, end);
        }
        let value = if negative { -whole } else { whole };
        let valid = match plan.number {
            _ if plan.types & Types::INTEGER == 0 => false,
            NumberOp::Any => true,
            NumberOp::Range { min, max, .. } => min <= value && value <= max,
            NumberOp::Full(number) => match self.flat.integer(number, i128::from(value)) {
                Verdict::Valid => true,
                Verdict::Invalid => false,
                Verdict::Unsure => return End::UNSURE,
            },
        };
        End(end).only_if(valid)
    }

    /// Digits from `at`, appended to `value`, and where they end; the caller refuses more than fit.
    #[inline(always)]
    fn digits(&self, at: usize, value: i64) -> (i64, usize) {
        let (mut value, mut at) = (value, at);
        loop {
            let digit = self.byte(at).wrapping_sub(b'0');
            if digit > 9 {
                return (value, at);
            }
            value = value.wrapping_mul(10).wrapping_add(i64::from(digit));
            at += 1;
        }
    }

    /// A number with a fraction of up to nine digits, as whole billionths.
    #[inline(never)]
    fn decimal(&mut self, plan: &Plan, negative: bool, whole: i64, start: usize, point: usize) -> End {
        if self.byte(point) != b'.' {
            return End::UNSURE;
        }
        let (value, end) = self.digits(point + 1, whole);
        let places = end - point - 1;
        let too_long = places > NumberPlan::PLACES as usize || end - start > 19;
        if places == 0 || too_long || matches!(self.byte(end), b'e' | b'E') {
            return End::UNSURE;
        }
        let unit = 10_i128.pow(NumberPlan::PLACES);
        let billionths = i128::from(value) * 10_i128.pow(NumberPlan::PLACES - places as u32);
        let billionths = if negative { -billionths } else { billionths };
        let kind = if billionths % unit == 0 { Types::INTEGER } else { Types::FRACTION };
        if plan.types & kind == 0 {
            return End::INVALID;
        }
        match plan.number {
            NumberOp::Any => End(end),
            NumberOp::Range { plan, .. } | NumberOp::Full(plan) => {
                match self.flat.numbers[plan as usize].judge_billionths(billionths) {
                    Verdict::Valid => End(end),
                    Verdict::Invalid => End::INVALID,
                    Verdict::Unsure => End::UNSURE,
                }
            }
        }
    }

    /// Passes over a value that no schema looks into, and compares the names within.
    #[inline(never)]
    fn skip(&mut self, at: usize) -> End {
        match self.byte(at) {
            b'"' => match self.string(at) {
                Some(span) => End(span.end + 1),
                None => End::UNSURE,
            },
            b'-' | b'0'..=b'9' => self.skip_number(at),
            b't' => self.word(at, b"true"),
            b'f' => self.word(at, b"false"),
            b'n' => self.word(at, b"null"),
            b'[' => self.skip_members(at, b']'),
            b'{' => self.skip_members(at, b'}'),
            _ => End::UNSURE,
        }
    }

    fn skip_members(&mut self, at: usize, close: u8) -> End {
        if self.depth == 0 {
            return End::UNSURE;
        }
        self.depth -= 1;
        let names_from = self.spans.len();
        let mut at = self.skip_space(at + 1);
        if self.byte(at) != close {
            loop {
                if close == b'}' {
                    if self.byte(at) != b'"' {
                        return End::UNSURE;
                    }
                    let Some(span) = self.string(at) else { return End::UNSURE };
                    at = self.skip_space(span.end + 1);
                    let new = span.escapes == 0 && self.remember(span.start, span.end, names_from);
                    if !new || self.byte(at) != b':' {
                        return End::UNSURE;
                    }
                    at = self.skip_space(at + 1);
                }
                let end = self.skip(at);
                if !end.is_valid() || !self.charge(1) {
                    return End::UNSURE;
                }
                at = self.skip_space(end.0);
                match self.byte(at) {
                    b',' => at = self.skip_space(at + 1),
                    byte if byte == close => break,
                    _ => return End::UNSURE,
                }
            }
        }
        self.depth += 1;
        self.spans.truncate(names_from);
        End(at + 1)
    }

    fn skip_number(&self, at: usize) -> End {
        let start = at + usize::from(self.byte(at) == b'-');
        let (_, mut end) = self.digits(start, 0);
        if end == start || end - start > 1 && self.byte(start) == b'0' {
            return End::UNSURE;
        }
        if self.byte(end) == b'.' {
            let start = end + 1;
            (_, end) = self.digits(start, 0);
            if end == start {
                return End::UNSURE;
            }
        }
        if let b'e' | b'E' = self.byte(end) {
            let start = end + 1 + usize::from(matches!(self.byte(end + 1), b'+' | b'-'));
            (_, end) = self.digits(start, 0);
            if end == start {
                return End::UNSURE;
            }
        }
        End(end)
    }

    /// The string that begins at `at`. `None` if it is not one, or holds a surrogate.
    #[inline(always)]
    fn string(&self, at: usize) -> Option<Span> {
        let start = at + 1;
        let mut at = start;
        while let Some(chunk) = self.bytes.get(at..).and_then(<[u8]>::first_chunk::<LANES>) {
            let lane = first_special(chunk);
            if lane == LANES {
                at += LANES;
                continue;
            }
            if self.bytes[at + lane] == b'"' {
                return Some(Span { start, end: at + lane, escapes: 0 });
            }
            at += lane;
            break;
        }
        self.string_slowly(start, at)
    }

    /// The same, byte by byte from `at`: near the end of the text, or after an escape was met.
    #[inline(never)]
    fn string_slowly(&self, start: usize, at: usize) -> Option<Span> {
        let mut at = at;
        let mut escapes = 0;
        loop {
            match *self.bytes.get(at)? {
                b'"' => return Some(Span { start, end: at, escapes }),
                b'\\' => match *self.bytes.get(at + 1)? {
                    b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => {
                        at += 2;
                        escapes += 1;
                    }
                    b'u' => {
                        let mut code = 0;
                        for &digit in self.bytes.get(at + 2..at + 6)? {
                            code = code * 16 + (digit as char).to_digit(16)?;
                        }
                        if (0xd800..0xe000).contains(&code) {
                            return None;
                        }
                        at += 6;
                        escapes += 5;
                    }
                    _ => return None,
                },
                0..=0x1f => return None,
                _ => at += 1,
            }
        }
    }

    #[inline(always)]
    fn slice(&self, span: Span) -> &'a [u8] {
        // `string` found both ends within the text, in this order.
        &self.bytes[span.start..span.end]
    }

    #[inline(always)]
    fn word(&self, at: usize, word: &[u8]) -> End {
        match self.bytes.get(at..) {
            Some(rest) if rest.starts_with(word) => End(at + word.len()),
            _ => End::UNSURE,
        }
    }

    /// The byte at `at`; zero, which no text may hold outside of strings, after the end.
    #[inline(always)]
    fn byte(&self, at: usize) -> u8 {
        match self.bytes.get(at) {
            Some(&byte) => byte,
            None => 0,
        }
    }

    /// The first byte from `at` that is not space.
    #[inline(always)]
    fn skip_space(&self, at: usize) -> usize {
        if self.byte(at) > b' ' { at } else { self.skip_space_slowly(at) }
    }

    #[inline(never)]
    fn skip_space_slowly(&self, at: usize) -> usize {
        let mut at = at;
        while let b' ' | b'\n' | b'\r' | b'\t' = self.byte(at) {
            at += 1;
        }
        at
    }

    #[inline(always)]
    fn charge(&mut self, steps: u64) -> bool {
        if self.steps <= steps {
            return false;
        }
        self.steps -= steps;
        true
    }
}

/// The first quote, backslash or control character, or [`LANES`].
#[inline(always)]
fn first_special(chunk: &[u8; LANES]) -> usize {
    let bytes = Lanes::of(chunk);
    let special = bytes.equal(b'"') | bytes.equal(b'\\') | bytes.within(0, 0x1f);
    // The bit above the lanes ends the search.
    (special.bits() | 1 << LANES).trailing_zeros() as usize
}
