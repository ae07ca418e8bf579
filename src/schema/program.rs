//! The flat program: a yes, a no, or "the exact run must say", over the tape, without allocation.
//!
//! What it is for: the verdict on nearly every body. What it is not for: saying what is wrong and where; numbers
//! whose binary float lies on a bound. Both are left to [`super::exact`].
//!
//! Who calls it: [`super::Program::check`].
//!
//! # Shape
//!
//! Each schema becomes one [`Plan`] of fixed size in one table: which kinds of values it admits, one instruction
//! for strings, one for numbers, one plan for arrays, one for objects, and a list of the schemas that judge the
//! same value. So a value costs one branch on its kind and the one instruction that is left for it: `type`,
//! `enum`, `const`, bounds and patterns are folded into it at compile time. A `$ref` that stands alone is the plan
//! it leads to, and costs nothing.
//!
//! An object is one loop over its members. Names are compared as two packed words and their length; the name
//! that followed the last time, on this core, is tried first. A bit per name makes `required` one comparison and
//! a name that appears twice an early end.
//!
//! # Names that appear twice
//!
//! A body with a duplicate name must be refused wherever it is, also where the schema does not look. Every plan
//! therefore promises: if it says [`Verdict::Valid`], each object within the value was looked at. A plan without
//! instructions for arrays or objects looks at all names below it.

use std::hash::BuildHasher;

use super::model::{Constant, ConstantValue, Keywords, Model, SchemaId, Types};
use super::pattern::{Caches, Pattern};
use crate::json::{Decimal, Node, Parsed, StaticNode, after, hashes_are_unique};

/// What the fast run says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Valid,
    Invalid,
    /// The exact run must say: a name twice, equal hashes, a float on a bound, or no steps left.
    Unsure,
}

use Verdict::{Invalid, Unsure, Valid};

/// The compiled form of a [`Model`].
#[derive(Debug)]
pub(super) struct Flat {
    pub(super) plans: Vec<Plan>,
    pub(super) root: u32,
    pub(super) strings: Vec<StringPlan>,
    pub(super) sets: Vec<StringSet>,
    pub(super) numbers: Vec<NumberPlan>,
    pub(super) arrays: Vec<ArrayPlan>,
    pub(super) objects: Vec<ObjectPlan>,
    pub(super) names: Vec<Name>,
    pub(super) rest: Vec<Rest>,
    pub(super) lists: Vec<u32>,
    /// How many slots for remembered names a core needs.
    pub(super) slots: usize,
}

/// One schema.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plan {
    pub(super) types: u8,
    pub(super) string: StringOp,
    pub(super) number: NumberOp,
    /// An index, or [`NOTHING`], or [`NAMES`].
    pub(super) array: u32,
    pub(super) object: u32,
    pub(super) rest: (u32, u32),
}

/// Some other schema looks at what is inside.
pub(super) const NOTHING: u32 = u32::MAX;
/// Nobody looks at what is inside: the names there still may not repeat.
pub(super) const NAMES: u32 = u32::MAX - 1;

#[derive(Clone, Copy, Debug)]
pub(super) enum StringOp {
    Any,
    /// Between so many characters.
    Length {
        min: u32,
        max: u32,
    },
    /// One of a set.
    Set(u32),
    /// A pattern.
    Match(u32),
    /// Several of these.
    All(u32),
}

#[derive(Debug)]
pub(super) struct StringPlan {
    pub(super) min: u32,
    pub(super) max: u32,
    pub(super) sets: Vec<u32>,
    pub(super) pattern: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum NumberOp {
    Any,
    /// Integers within 64 bits; floats are for the plan.
    Range {
        min: i64,
        max: i64,
        plan: u32,
    },
    Full(u32),
}

#[derive(Debug)]
pub(super) struct NumberPlan {
    /// The least and greatest integer.
    min: i128,
    max: i128,
    /// The bounds as floats: a float below or above is certain, an equal one is not.
    float_min: f64,
    float_max: f64,
    multiple: Multiple,
    /// The values of each `enum` and `const`.
    sets: Vec<NumberSet>,
    /// The same bounds and values for numbers of at most [`NumberPlan::PLACES`] decimal places, counted in the last one.
    billionths_min: i128,
    billionths_max: i128,
    billionths_of: Option<i128>,
    billionths_sets: Vec<Vec<i128>>,
}

#[derive(Debug)]
enum Multiple {
    Any,
    /// `value · scale` must be a multiple of `of`.
    Of {
        scale: i128,
        of: i128,
    },
    /// Only the exact run can say.
    Unknown,
}

#[derive(Debug)]
struct NumberSet {
    integers: Vec<i128>,
    /// All values as floats.
    floats: Vec<f64>,
}

#[derive(Debug)]
pub(super) struct ArrayPlan {
    pub(super) min: u64,
    pub(super) max: u64,
    pub(super) unique: bool,
    /// Ranges of [`Flat::lists`].
    pub(super) prefix: (u32, u32),
    pub(super) items: u32,
    /// `enum` or `const` holds an array.
    pub(super) constant: bool,
}

#[derive(Debug)]
pub(super) struct ObjectPlan {
    pub(super) min: u64,
    pub(super) max: u64,
    /// A range of [`Flat::names`].
    pub(super) names: (u32, u32),
    /// One bit for each name; for more than 64 names the exact positions are in `required_many`.
    pub(super) required: u64,
    pub(super) required_many: Vec<u32>,
    /// Positions of names by hash, for objects of many names.
    pub(super) table: Vec<u16>,
    /// Patterns for names that are not listed, with their plans.
    pub(super) patterns: Vec<(u32, u32)>,
    pub(super) additional: u32,
    /// Whether `additional` admits nothing.
    pub(super) closed: bool,
    pub(super) constant: bool,
    pub(super) slots: u32,
}

/// A name that the schema lists.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) key: Key,
    pub(super) plan: u32,
    /// All of it, for names above 16 bytes.
    pub(super) long: Box<str>,
    /// The name, a closing quote and a colon, as they stand in a text, for names of up to 14 bytes.
    pub(super) quoted: u128,
    /// The bytes of `quoted` that count; zero for a longer name, and for one that needs escapes.
    pub(super) mask: u128,
    /// Whether the name can stand in a text without escapes.
    pub(super) is_plain: bool,
    /// Whether it is longer than `quoted` can hold.
    pub(super) is_long: bool,
}

/// A name packed into two words; with its length they are unique up to 16 bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) low: u64,
    pub(super) high: u64,
    pub(super) len: usize,
}

#[derive(Debug)]
pub(super) struct StringSet {
    keys: Vec<(Key, Box<str>)>,
    table: Vec<u16>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Rest {
    Plan(u32),
    AnyOf(u32, u32),
    OneOf(u32, u32),
    Not(u32),
    Never,
}

impl NumberPlan {
    /// Decimal places that are judged without floats.
    pub(super) const PLACES: u32 = 9;

    /// Judges a number given in billionths, exactly.
    pub(super) fn judge_billionths(&self, value: i128) -> Verdict {
        if value < self.billionths_min || value > self.billionths_max {
            return Invalid;
        }
        if !self.billionths_sets.iter().all(|set| set.contains(&value)) {
            return Invalid;
        }
        match (&self.multiple, self.billionths_of) {
            (Multiple::Any, _) => Valid,
            (_, Some(of)) => verdict(value % of == 0),
            (_, None) => Unsure,
        }
    }
}

/// What one core remembers of a program.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// For each name of each object, the position of the name that came after it the last time.
    pub(super) following: Vec<u16>,
    /// Spans of the text that the first run compares.
    pub(super) spans: Vec<(u32, u32)>,
}

impl Flat {
    /// Compiles a model whose references are known to end.
    pub(super) fn new(model: &Model) -> Flat {
        let mut lowering = Lowering {
            model,
            flat: Flat {
                plans: Vec::new(),
                root: 0,
                strings: Vec::new(),
                sets: Vec::new(),
                numbers: Vec::new(),
                arrays: Vec::new(),
                objects: Vec::new(),
                names: Vec::new(),
                rest: Vec::new(),
                lists: Vec::new(),
                slots: 0,
            },
            plans: vec![None; model.schemas.len()],
            any: None,
            waiting: Vec::new(),
            caches: Caches::default(),
        };
        lowering.flat.root = lowering.plan(0);
        while let Some((schema, plan)) = lowering.waiting.pop() {
            let lowered = lowering.lower(schema);
            lowering.flat.plans[plan as usize] = lowered;
        }
        lowering.flat
    }

    /// Judges an integer by the numbered plan.
    pub(super) fn integer(&self, number: u32, value: i128) -> Verdict {
        let plan = &self.numbers[number as usize];
        if value < plan.min || value > plan.max {
            return Invalid;
        }
        if !plan.sets.iter().all(|set| set.integers.contains(&value)) {
            return Invalid;
        }
        match plan.multiple {
            Multiple::Any => Valid,
            Multiple::Of { scale, of } => match value.checked_mul(scale) {
                Some(scaled) => verdict(scaled % of == 0),
                None => Unsure,
            },
            Multiple::Unknown => Unsure,
        }
    }

    /// Judges a parsed body. `steps` is what is left of the bound, zero where it did not suffice.
    #[inline]
    pub(super) fn judge(
        &self,
        patterns: &[Pattern],
        parsed: &mut Parsed<'_, '_>,
        caches: &mut Caches,
        memory: &mut Memory,
        steps: &mut u64,
    ) -> Verdict {
        memory.prepare(self);
        let mut run = Run { flat: self, patterns, parsed, caches, memory, steps: *steps, nest: 0 };
        let verdict = run.judge(self.root, 0);
        *steps = run.steps;
        verdict
    }
}

impl Memory {
    /// Before anything was seen, names are expected in the order in which the schema lists them.
    #[inline(always)]
    pub(super) fn prepare(&mut self, flat: &Flat) {
        if self.following.len() != flat.slots {
            self.fill(flat);
        }
    }

    #[cold]
    fn fill(&mut self, flat: &Flat) {
        self.following.clear();
        self.following.resize(flat.slots, 0);
        for object in &flat.objects {
            for index in 0..=(object.names.1 - object.names.0) {
                self.following[(object.slots + index) as usize] = index as u16;
            }
        }
    }
}

struct Run<'a, 's, 'de> {
    flat: &'a Flat,
    patterns: &'a [Pattern],
    parsed: &'a mut Parsed<'s, 'de>,
    caches: &'a mut Caches,
    memory: &'a mut Memory,
    steps: u64,
    nest: u32,
}

impl<'de> Run<'_, '_, 'de> {
    /// Judges the value at node `at`.
    #[inline(always)]
    fn judge(&mut self, plan: u32, at: usize) -> Verdict {
        let flat = self.flat;
        let plan = &flat.plans[plan as usize];
        let verdict = match self.parsed.tape[at] {
            Node::String(value) => {
                if plan.types & Types::STRING == 0 {
                    return Invalid;
                }
                match plan.string {
                    StringOp::Any => Valid,
                    StringOp::Length { min, max } => verdict(length_within(value.as_bytes(), min, max)),
                    StringOp::Set(set) => verdict(flat.sets[set as usize].contains(value.as_bytes())),
                    StringOp::Match(pattern) => self.matches(pattern, value),
                    StringOp::All(string) => self.string(string, value),
                }
            }
            Node::Static(StaticNode::U64(value)) => match plan.number {
                _ if plan.types & Types::INTEGER == 0 => return Invalid,
                NumberOp::Any => Valid,
                NumberOp::Range { min, max, .. } => {
                    verdict(value <= i64::MAX as u64 && min <= value as i64 && value as i64 <= max)
                }
                NumberOp::Full(number) => self.flat.integer(number, i128::from(value)),
            },
            Node::Static(StaticNode::I64(value)) => match plan.number {
                _ if plan.types & Types::INTEGER == 0 => return Invalid,
                NumberOp::Any => Valid,
                NumberOp::Range { min, max, .. } => verdict(min <= value && value <= max),
                NumberOp::Full(number) => self.flat.integer(number, i128::from(value)),
            },
            Node::Static(StaticNode::F64(value)) => self.float(plan, value),
            Node::Static(StaticNode::Bool(value)) => {
                verdict(plan.types & if value { Types::TRUE } else { Types::FALSE } != 0)
            }
            Node::Static(StaticNode::Null) => verdict(plan.types & Types::NULL != 0),
            Node::Object { len, .. } => {
                if plan.types & Types::OBJECT == 0 {
                    return Invalid;
                }
                match plan.object {
                    NOTHING => Valid,
                    NAMES => self.names_below(at),
                    object => self.object(object, at, len),
                }
            }
            Node::Array { len, .. } => {
                if plan.types & Types::ARRAY == 0 {
                    return Invalid;
                }
                match plan.array {
                    NOTHING => Valid,
                    NAMES => self.names_below(at),
                    array => self.array(array, at, len),
                }
            }
        };
        if verdict != Valid || plan.rest.0 == plan.rest.1 {
            return verdict;
        }
        self.rest(plan.rest, at)
    }

    fn object(&mut self, object: u32, at: usize, len: usize) -> Verdict {
        let flat = self.flat;
        let plan = &flat.objects[object as usize];
        if (len as u64) < plan.min || len as u64 > plan.max {
            return Invalid;
        }
        if plan.constant || !self.enter(len) {
            return Unsure;
        }
        let names = &flat.names[plan.names.0 as usize..plan.names.1 as usize];
        if names.len() > 64 {
            return self.wide_object(plan, names, at, len);
        }
        let mut seen = 0_u64;
        let mut unknown = 0_usize;
        let mut slot = plan.slots as usize;
        let mut node = at + 1;
        for _ in 0..len {
            let Node::String(name) = self.parsed.tape[node] else { return Unsure };
            let name = name.as_bytes();
            let key = Key::of(name);
            let expected = self.memory.following[slot] as usize;
            let found = match names.get(expected) {
                Some(candidate) if candidate.is(key, name) => Some(expected),
                _ => plan.find(names, key, name),
            };
            let verdict = match found {
                Some(index) => {
                    if seen & (1 << index) != 0 {
                        return Unsure;
                    }
                    seen |= 1 << index;
                    if index != expected {
                        self.memory.following[slot] = index as u16;
                    }
                    slot = plan.slots as usize + index + 1;
                    self.judge(names[index].plan, node + 1)
                }
                None => {
                    unknown += 1;
                    self.unlisted(plan, node)
                }
            };
            if verdict != Valid {
                return verdict;
            }
            node = after(self.parsed.tape, node + 1);
        }
        if seen & plan.required != plan.required {
            return Invalid;
        }
        if unknown > 1 && !self.parsed.object_names_are_unique(at, len) {
            return Unsure;
        }
        self.nest -= 1;
        Valid
    }

    /// An object of which the schema lists more than 64 names.
    #[cold]
    fn wide_object(&mut self, plan: &ObjectPlan, names: &[Name], at: usize, len: usize) -> Verdict {
        if !self.parsed.object_names_are_unique(at, len) {
            return Unsure;
        }
        let mut required = 0;
        let mut node = at + 1;
        for _ in 0..len {
            let Node::String(name) = self.parsed.tape[node] else { return Unsure };
            let verdict = match plan.find(names, Key::of(name.as_bytes()), name.as_bytes()) {
                Some(index) => {
                    // Names are unique here, so each required one counts once.
                    required += usize::from(plan.required_many.binary_search(&(index as u32)).is_ok());
                    self.judge(names[index].plan, node + 1)
                }
                None => self.unlisted(plan, node),
            };
            if verdict != Valid {
                return verdict;
            }
            node = after(self.parsed.tape, node + 1);
        }
        if required != plan.required_many.len() {
            return Invalid;
        }
        self.nest -= 1;
        Valid
    }

    /// A member whose name the schema does not list.
    fn unlisted(&mut self, plan: &ObjectPlan, node: usize) -> Verdict {
        let Node::String(name) = self.parsed.tape[node] else { return Unsure };
        let value = node + 1;
        let mut known = false;
        for &(pattern, schema) in &plan.patterns {
            match self.matches(pattern, name) {
                Valid => known = true,
                Invalid => continue,
                Unsure => return Unsure,
            }
            let verdict = self.judge_again(schema, value);
            if verdict != Valid {
                return verdict;
            }
        }
        if known {
            return Valid;
        }
        if plan.closed {
            return Invalid;
        }
        self.judge_again(plan.additional, value)
    }

    fn array(&mut self, array: u32, at: usize, len: usize) -> Verdict {
        let flat = self.flat;
        let plan = &flat.arrays[array as usize];
        if (len as u64) < plan.min || len as u64 > plan.max {
            return Invalid;
        }
        if plan.constant || !self.enter(len) {
            return Unsure;
        }
        let prefix = &flat.lists[plan.prefix.0 as usize..plan.prefix.1 as usize];
        let mut node = at + 1;
        for &schema in prefix.iter().take(len) {
            let verdict = self.judge_again(schema, node);
            if verdict != Valid {
                return verdict;
            }
            node = after(self.parsed.tape, node);
        }
        for _ in prefix.len()..len {
            let verdict = self.judge(plan.items, node);
            if verdict != Valid {
                return verdict;
            }
            node = after(self.parsed.tape, node);
        }
        if plan.unique && len > 1 {
            let verdict = self.unique(at, len);
            if verdict != Valid {
                return verdict;
            }
        }
        self.nest -= 1;
        Valid
    }

    /// Whether the elements differ. Two that may be equal are for the exact run: a refusal needs it anyway.
    fn unique(&mut self, at: usize, len: usize) -> Verdict {
        const PAIRWISE_MAX: usize = 8;
        let tape = self.parsed.tape;
        if len <= PAIRWISE_MAX {
            let mut strings = [""; PAIRWISE_MAX];
            let mut all = true;
            for (index, slot) in strings.iter_mut().enumerate().take(len) {
                // Strings have one node each.
                match tape.get(at + 1 + index) {
                    Some(Node::String(value)) => *slot = value,
                    _ => {
                        all = false;
                        break;
                    }
                }
            }
            if all {
                for index in 1..len {
                    let value = strings[index];
                    if strings[..index].iter().any(|other| other.len() == value.len() && *other == value) {
                        return Unsure;
                    }
                }
                return Valid;
            }
        }
        let count = after(tape, at) - at;
        if !self.charge(count as u64) {
            return Unsure;
        }
        let base = self.parsed.names.len();
        let mut node = at + 1;
        for _ in 0..len {
            let hash = hash(tape, self.parsed.hasher, node);
            self.parsed.names.push((hash, node as u32));
            node = after(tape, node);
        }
        let unique = hashes_are_unique(&mut self.parsed.names[base..]);
        self.parsed.names.truncate(base);
        if unique { Valid } else { Unsure }
    }

    #[inline(never)]
    fn rest(&mut self, rest: (u32, u32), at: usize) -> Verdict {
        let flat = self.flat;
        if !self.enter(1) {
            return Unsure;
        }
        for rest in &flat.rest[rest.0 as usize..rest.1 as usize] {
            let verdict = match *rest {
                Rest::Plan(plan) => self.judge_again(plan, at),
                Rest::AnyOf(from, to) => {
                    let mut result = Invalid;
                    for &plan in &flat.lists[from as usize..to as usize] {
                        match self.branch(plan, at) {
                            Invalid => {}
                            decided => {
                                result = decided;
                                break;
                            }
                        }
                    }
                    result
                }
                Rest::OneOf(from, to) => {
                    let mut met = 0;
                    for &plan in &flat.lists[from as usize..to as usize] {
                        match self.branch(plan, at) {
                            Invalid => {}
                            Unsure => return Unsure,
                            Valid => met += 1,
                        }
                        if met > 1 {
                            break;
                        }
                    }
                    verdict(met == 1)
                }
                Rest::Not(plan) => match self.branch(plan, at) {
                    Valid => Invalid,
                    Invalid => Valid,
                    Unsure => Unsure,
                },
                Rest::Never => Invalid,
            };
            if verdict != Valid {
                return verdict;
            }
        }
        self.nest -= 1;
        Valid
    }

    /// A judgement that may fail without the whole failing.
    fn branch(&mut self, plan: u32, at: usize) -> Verdict {
        let nest = self.nest;
        let verdict = self.judge_again(plan, at);
        self.nest = nest;
        verdict
    }

    /// [`Run::judge`] without a copy of its code in the caller.
    #[inline(never)]
    fn judge_again(&mut self, plan: u32, at: usize) -> Verdict {
        self.judge(plan, at)
    }

    #[inline(never)]
    fn names_below(&mut self, at: usize) -> Verdict {
        let count = after(self.parsed.tape, at) - at;
        if !self.charge(count as u64) || !self.parsed.names_are_unique(at) {
            return Unsure;
        }
        Valid
    }

    #[inline]
    fn matches(&mut self, pattern: u32, value: &str) -> Verdict {
        let pattern = &self.patterns[pattern as usize];
        if !self.charge(value.len() as u64 / 16) {
            return Unsure;
        }
        verdict(pattern.is_match(value.as_bytes(), self.caches))
    }

    fn string(&mut self, string: u32, value: &str) -> Verdict {
        let flat = self.flat;
        let plan = &flat.strings[string as usize];
        if !length_within(value.as_bytes(), plan.min, plan.max) {
            return Invalid;
        }
        if !plan.sets.iter().all(|&set| flat.sets[set as usize].contains(value.as_bytes())) {
            return Invalid;
        }
        plan.pattern.map_or(Valid, |pattern| self.matches(pattern, value))
    }

    /// Rounding keeps order: a float beyond the rounded bound is beyond the bound. Where they are equal the
    /// text decides, which the tape no longer has.
    #[cold]
    fn float(&self, plan: &Plan, value: f64) -> Verdict {
        let fraction = value.fract() != 0.0;
        match (plan.types & Types::INTEGER != 0, plan.types & Types::FRACTION != 0) {
            (false, false) => return Invalid,
            // Only integers: 1.5 is none; 1.0 is one unless digits were rounded away.
            (true, false) => return if fraction { Invalid } else { Unsure },
            (false, true) if !fraction => return Unsure,
            _ => {}
        }
        let number = match plan.number {
            NumberOp::Any => return Valid,
            NumberOp::Range { plan, .. } | NumberOp::Full(plan) => &self.flat.numbers[plan as usize],
        };
        if value < number.float_min || value > number.float_max {
            return Invalid;
        }
        let on_a_bound = value == number.float_min || value == number.float_max;
        if on_a_bound || !matches!(number.multiple, Multiple::Any) {
            return Unsure;
        }
        for set in &number.sets {
            if !set.floats.contains(&value) {
                return Invalid;
            }
        }
        if number.sets.is_empty() { Valid } else { Unsure }
    }

    /// Goes one level down, and pays for `count` members.
    #[inline(always)]
    fn enter(&mut self, count: usize) -> bool {
        self.nest += 1;
        if self.nest >= super::NEST_MAX {
            self.steps = 0;
            return false;
        }
        self.charge(count as u64 + 1)
    }

    #[inline(always)]
    fn charge(&mut self, steps: u64) -> bool {
        if self.steps <= steps {
            self.steps = 0;
            return false;
        }
        self.steps -= steps;
        true
    }
}

#[inline(always)]
pub(super) fn verdict(valid: bool) -> Verdict {
    if valid { Valid } else { Invalid }
}

/// Characters are counted only where the number of bytes leaves it open: n bytes are n/4 to n characters.
#[inline(always)]
pub(super) fn length_within(value: &[u8], min: u32, max: u32) -> bool {
    let bytes = value.len();
    if bytes <= max as usize && bytes.div_ceil(4) >= min as usize {
        return true;
    }
    bytes >= min as usize && characters_within(value, 0, min, max)
}

/// The same for a string whose escapes take `escapes` bytes more than the characters they stand for.
#[inline(never)]
pub(super) fn characters_within(value: &[u8], escapes: usize, min: u32, max: u32) -> bool {
    let characters = value.iter().filter(|&&byte| byte & 0xc0 != 0x80).count() - escapes;
    min as usize <= characters && characters <= max as usize
}

impl Key {
    /// Two words that overlap in the middle: no loop and no byte beyond the name.
    #[inline(always)]
    pub(super) fn of(name: &[u8]) -> Key {
        let len = name.len();
        let (low, high) = match len {
            8.. => (word(name, 0), word(name, len - 8)),
            4..8 => (u64::from(half(name, 0)), u64::from(half(name, len - 4))),
            1..4 => (u64::from(name[0]) | u64::from(name[len / 2]) << 8 | u64::from(name[len - 1]) << 16, 0),
            0 => (0, 0),
        };
        Key { low, high, len }
    }

    #[inline(always)]
    fn hash(self) -> u64 {
        const MIX: u64 = 0x9e37_79b9_7f4a_7c15;
        let mixed = (self.low ^ self.high.rotate_left(29) ^ self.len as u64).wrapping_mul(MIX);
        mixed ^ mixed >> 32
    }
}

#[inline(always)]
fn word(bytes: &[u8], at: usize) -> u64 {
    match bytes[at..].first_chunk::<8>() {
        Some(chunk) => u64::from_le_bytes(*chunk),
        None => 0,
    }
}

#[inline(always)]
fn half(bytes: &[u8], at: usize) -> u32 {
    match bytes[at..].first_chunk::<4>() {
        Some(chunk) => u32::from_le_bytes(*chunk),
        None => 0,
    }
}

impl Name {
    fn new(name: &str, plan: u32) -> Name {
        let bytes = name.as_bytes();
        let is_plain = bytes.iter().all(|&byte| byte >= 0x20 && byte != b'"' && byte != b'\\');
        let mut quoted = [0_u8; 16];
        let mut mask = [0_u8; 16];
        let is_long = bytes.len() > 14;
        if is_plain && !is_long {
            quoted[..bytes.len()].copy_from_slice(bytes);
            quoted[bytes.len()..][..2].copy_from_slice(b"\":");
            mask[..bytes.len() + 2].fill(0xff);
        } else {
            // Nothing masked to zero is this.
            quoted[0] = 1;
        }
        let (quoted, mask) = (u128::from_le_bytes(quoted), u128::from_le_bytes(mask));
        Name { key: Key::of(bytes), plan, long: name.into(), quoted, mask, is_plain, is_long }
    }

    #[inline(always)]
    fn is(&self, key: Key, name: &[u8]) -> bool {
        self.key == key && (key.len <= 16 || self.long.as_bytes() == name)
    }
}

/// Up to this many names are searched one by one.
const LINEAR_MAX: usize = 6;
const EMPTY: u16 = u16::MAX;

impl ObjectPlan {
    #[inline]
    pub(super) fn find(&self, names: &[Name], key: Key, name: &[u8]) -> Option<usize> {
        if self.table.is_empty() {
            return names.iter().position(|candidate| candidate.is(key, name));
        }
        probe(&self.table, key, |index| names[index].is(key, name))
    }
}

impl StringSet {
    fn new(values: Vec<String>) -> StringSet {
        let keys: Vec<_> =
            values.into_iter().map(|value| (Key::of(value.as_bytes()), value.into_boxed_str())).collect();
        let table = table(keys.len(), |index| keys[index].0);
        StringSet { keys, table }
    }

    #[inline]
    pub(super) fn contains(&self, value: &[u8]) -> bool {
        let key = Key::of(value);
        let is = |known: &(Key, Box<str>)| known.0 == key && (key.len <= 16 || known.1.as_bytes() == value);
        if self.table.is_empty() {
            return self.keys.iter().any(is);
        }
        probe(&self.table, key, |index| is(&self.keys[index])).is_some()
    }
}

/// An open-addressed table of positions, at most half full; empty for few or for very many names.
fn table(len: usize, key: impl Fn(usize) -> Key) -> Vec<u16> {
    if len <= LINEAR_MAX || len >= EMPTY as usize {
        return Vec::new();
    }
    let mut table = vec![EMPTY; (2 * len).next_power_of_two()];
    let mask = table.len() - 1;
    for index in 0..len {
        let mut at = key(index).hash() as usize & mask;
        while table[at] != EMPTY {
            at = (at + 1) & mask;
        }
        table[at] = index as u16;
    }
    table
}

#[inline]
fn probe(table: &[u16], key: Key, is: impl Fn(usize) -> bool) -> Option<usize> {
    let mask = table.len() - 1;
    let mut at = key.hash() as usize & mask;
    loop {
        match table[at] {
            EMPTY => return None,
            index if is(index as usize) => return Some(index as usize),
            _ => at = (at + 1) & mask,
        }
    }
}

/// A hash that equal values share, in whatever order an object names its members.
fn hash(tape: &[Node<'_>], hasher: &hashbrown::DefaultHashBuilder, at: usize) -> u64 {
    match tape[at] {
        Node::String(value) => hasher.hash_one(value.as_bytes()),
        // 1 and 1.0 are equal, and 0 and -0.
        Node::Static(StaticNode::U64(value)) => hasher.hash_one((value as f64 + 0.0).to_bits()),
        Node::Static(StaticNode::I64(value)) => hasher.hash_one((value as f64 + 0.0).to_bits()),
        Node::Static(StaticNode::F64(value)) => hasher.hash_one((value + 0.0).to_bits()),
        Node::Static(StaticNode::Bool(value)) => hasher.hash_one((1_u8, value)),
        Node::Static(StaticNode::Null) => hasher.hash_one(2_u8),
        Node::Array { len, .. } => {
            let mut node = at + 1;
            let mut sum = 3_u64;
            for _ in 0..len {
                sum = hasher.hash_one((sum, hash(tape, hasher, node)));
                node = after(tape, node);
            }
            sum
        }
        Node::Object { len, .. } => {
            let mut node = at + 1;
            let mut sum = 4_u64;
            for _ in 0..len {
                let name = hash(tape, hasher, node);
                sum = sum.wrapping_add(hasher.hash_one((name, hash(tape, hasher, node + 1))));
                node = after(tape, node + 1);
            }
            hasher.hash_one((5_u8, sum))
        }
    }
}

/// One run of the compiler.
struct Lowering<'a> {
    model: &'a Model,
    flat: Flat,
    plans: Vec<Option<u32>>,
    any: Option<u32>,
    waiting: Vec<(SchemaId, u32)>,
    caches: Caches,
}

impl Lowering<'_> {
    /// The plan of a schema, to be lowered later if it is new.
    fn plan(&mut self, schema: SchemaId) -> u32 {
        let mut schema = schema;
        let mut hops = 0;
        // A `$ref` and nothing else is what it leads to.
        while let Some(target) = self.model.schemas[schema].only_reference() {
            schema = target;
            hops += 1;
            if hops > self.model.schemas.len() {
                break;
            }
        }
        if let Some(plan) = self.plans[schema] {
            return plan;
        }
        let plan = self.push(ANY);
        self.plans[schema] = Some(plan);
        self.waiting.push((schema, plan));
        plan
    }

    /// The plan of `true`.
    fn any(&mut self) -> u32 {
        if let Some(any) = self.any {
            return any;
        }
        let any = self.push(ANY);
        self.any = Some(any);
        any
    }

    /// The plan of a value that several schemas judge.
    fn all(&mut self, schemas: &[SchemaId]) -> u32 {
        match schemas {
            [] => self.any(),
            [one] => self.plan(*one),
            many => {
                let rest: Vec<Rest> = many.iter().map(|&schema| Rest::Plan(self.plan(schema))).collect();
                let rest = self.rest(rest);
                self.push(Plan { array: NOTHING, object: NOTHING, rest, ..ANY })
            }
        }
    }

    fn push(&mut self, plan: Plan) -> u32 {
        self.flat.plans.push(plan);
        self.flat.plans.len() as u32 - 1
    }

    fn rest(&mut self, rest: Vec<Rest>) -> (u32, u32) {
        let from = self.flat.rest.len() as u32;
        self.flat.rest.extend(rest);
        (from, self.flat.rest.len() as u32)
    }

    fn list(&mut self, schemas: &[SchemaId]) -> (u32, u32) {
        let plans: Vec<u32> = schemas.iter().map(|&schema| self.plan(schema)).collect();
        let from = self.flat.lists.len() as u32;
        self.flat.lists.extend(plans);
        (from, self.flat.lists.len() as u32)
    }

    fn lower(&mut self, schema: SchemaId) -> Plan {
        let model = self.model;
        let keywords = &model.schemas[schema];
        if keywords.never {
            return Plan { types: 0, array: NOTHING, object: NOTHING, ..ANY };
        }
        let mut types = keywords.types.unwrap_or(Types::ALL).0;
        for (_, values) in &keywords.one_of_values {
            types &= values.iter().fold(0, |types, constant| types | kind_of(constant));
        }
        // Schemas of the same value promise to look at the names inside.
        let inside =
            if keywords.in_place().any(|inner| Some(inner) != keywords.not) { NOTHING } else { NAMES };
        let (string, number) = (self.string(keywords), self.number(keywords));
        let array = self.array(keywords).unwrap_or(inside);
        let object = self.object(keywords).unwrap_or(inside);
        let mut rest = Vec::new();
        if let Some(reference) = keywords.reference {
            rest.push(Rest::Plan(self.plan(reference)));
        }
        rest.extend(keywords.all_of.iter().map(|&schema| Rest::Plan(self.plan(schema))));
        if !keywords.one_of.is_empty() {
            let (from, to) = self.list(&keywords.one_of);
            rest.push(Rest::OneOf(from, to));
        }
        if !keywords.any_of.is_empty() {
            let (from, to) = self.list(&keywords.any_of);
            rest.push(Rest::AnyOf(from, to));
        }
        if let Some(not) = keywords.not {
            rest.push(if model.schemas[not].demands_nothing() {
                Rest::Never
            } else {
                Rest::Not(self.plan(not))
            });
        }
        let rest = self.rest(rest);
        Plan { types, string, number, array, object, rest }
    }

    fn string(&mut self, keywords: &Keywords) -> StringOp {
        let min = keywords.min_length.unwrap_or(0).min(u64::from(u32::MAX)) as u32;
        let max = keywords.max_length.unwrap_or(u64::MAX).min(u64::from(u32::MAX)) as u32;
        let pattern = keywords.pattern.map(|pattern| pattern as u32);
        let mut sets = Vec::new();
        for (_, values) in &keywords.one_of_values {
            let strings = values.iter().filter_map(|constant| match &constant.value {
                ConstantValue::String(string) => Some(string.clone()),
                _ => None,
            });
            self.flat.sets.push(StringSet::new(strings.collect()));
            sets.push(self.flat.sets.len() as u32 - 1);
        }
        let bounded = min > 0 || max < u32::MAX;
        match (bounded, &sets[..], pattern) {
            (false, [], None) => StringOp::Any,
            (true, [], None) => StringOp::Length { min, max },
            (false, &[set], None) => StringOp::Set(set),
            (false, [], Some(pattern)) => StringOp::Match(pattern),
            _ => {
                self.flat.strings.push(StringPlan { min, max, sets, pattern });
                StringOp::All(self.flat.strings.len() as u32 - 1)
            }
        }
    }

    fn number(&mut self, keywords: &Keywords) -> NumberOp {
        /// Beyond every integer of the tape.
        const FAR: i128 = 1 << 126;
        let (mut min, mut max) = (-FAR, FAR);
        let (mut float_min, mut float_max) = (f64::NEG_INFINITY, f64::INFINITY);
        let (mut billionths_min, mut billionths_max) = (-FAR, FAR);
        if let Some(bound) = &keywords.minimum {
            min = min.max(bound.ceiling());
            float_min = float_min.max(bound.to_float());
            billionths_min = billionths_min.max(bound.shifted(NumberPlan::PLACES).ceiling());
        }
        if let Some(bound) = &keywords.exclusive_minimum {
            min = min.max(bound.floor() + 1);
            float_min = float_min.max(bound.to_float());
            billionths_min = billionths_min.max(bound.shifted(NumberPlan::PLACES).floor() + 1);
        }
        if let Some(bound) = &keywords.maximum {
            max = max.min(bound.floor());
            float_max = float_max.min(bound.to_float());
            billionths_max = billionths_max.min(bound.shifted(NumberPlan::PLACES).floor());
        }
        if let Some(bound) = &keywords.exclusive_maximum {
            max = max.min(bound.ceiling() - 1);
            float_max = float_max.min(bound.to_float());
            billionths_max = billionths_max.min(bound.shifted(NumberPlan::PLACES).ceiling() - 1);
        }
        let billionths = |number: &Decimal| number.shifted(NumberPlan::PLACES).to_integer();
        let billionths_of = keywords.multiple_of.as_ref().and_then(billionths);
        let mut billionths_sets: Vec<Vec<i128>> = Vec::new();
        let multiple = keywords.multiple_of.as_ref().map_or(Multiple::Any, multiple);
        let sets: Vec<NumberSet> = keywords
            .one_of_values
            .iter()
            .map(|(_, values)| {
                let numbers: Vec<&Decimal> = values
                    .iter()
                    .filter_map(|constant| match &constant.value {
                        ConstantValue::Number(number) => Some(number),
                        _ => None,
                    })
                    .collect();
                billionths_sets.push(numbers.iter().filter_map(|number| billionths(number)).collect());
                NumberSet {
                    integers: numbers.iter().filter_map(|number| number.to_integer()).collect(),
                    floats: numbers.iter().map(|number| number.to_float()).collect(),
                }
            })
            .collect();
        let plain = sets.is_empty() && matches!(multiple, Multiple::Any);
        if plain && min == -FAR && max == FAR {
            return NumberOp::Any;
        }
        self.flat.numbers.push(NumberPlan {
            min,
            max,
            float_min,
            float_max,
            multiple,
            sets,
            billionths_min,
            billionths_max,
            billionths_of,
            billionths_sets,
        });
        let plan = self.flat.numbers.len() as u32 - 1;
        let within_64 = |bound: i128, far: i128, end: i64| {
            if bound == far { Some(end) } else { i64::try_from(bound).ok() }
        };
        match (within_64(min, -FAR, i64::MIN), within_64(max, FAR, i64::MAX)) {
            // Without a maximum, integers from 2⁶³ need more than 64 signed bits.
            (Some(min), Some(max)) if plain && max < i64::MAX => NumberOp::Range { min, max, plan },
            _ => NumberOp::Full(plan),
        }
    }

    fn array(&mut self, keywords: &Keywords) -> Option<u32> {
        let constant = holds(keywords, &ConstantValue::Array);
        let bounded = keywords.min_items.is_some() || keywords.max_items.is_some() || keywords.unique_items;
        if !constant && !bounded && keywords.prefix_items.is_empty() && keywords.items.is_none() {
            return None;
        }
        let prefix = self.list(&keywords.prefix_items);
        let items = match keywords.items {
            Some((_, items)) => self.plan(items),
            None => self.any(),
        };
        let (min, max) = (keywords.min_items.unwrap_or(0), keywords.max_items.unwrap_or(u64::MAX));
        self.flat.arrays.push(ArrayPlan { min, max, unique: keywords.unique_items, prefix, items, constant });
        Some(self.flat.arrays.len() as u32 - 1)
    }

    fn object(&mut self, keywords: &Keywords) -> Option<u32> {
        let model = self.model;
        let constant = holds(keywords, &ConstantValue::Object);
        let listed = !keywords.properties.is_empty() || !keywords.required.is_empty();
        let bounded = keywords.min_properties.is_some() || keywords.max_properties.is_some();
        let others = !keywords.pattern_properties.is_empty() || keywords.additional_properties.is_some();
        if !constant && !listed && !bounded && !others {
            return None;
        }
        // Every listed name knows at compile time which schemas judge it.
        let mut names: Vec<(&str, Vec<SchemaId>)> = Vec::new();
        for (name, schema) in &keywords.properties {
            names.push((name, vec![*schema]));
        }
        let known: hashbrown::HashSet<&str> =
            keywords.properties.iter().map(|(name, _)| name.as_str()).collect();
        for name in keywords.required.iter().filter(|name| !known.contains(name.as_str())) {
            names.push((name, Vec::new()));
        }
        let mut compiled = Vec::new();
        for (name, mut schemas) in names {
            for &(pattern, schema) in &keywords.pattern_properties {
                if model.patterns[pattern].is_match(name.as_bytes(), &mut self.caches) {
                    schemas.push(schema);
                }
            }
            if schemas.is_empty() {
                schemas.extend(keywords.additional_properties);
            }
            let plan = self.all(&schemas);
            compiled.push(Name::new(name, plan));
        }
        let required_names: hashbrown::HashSet<&str> = keywords.required.iter().map(String::as_str).collect();
        let required_many: Vec<u32> = compiled
            .iter()
            .enumerate()
            .filter(|(_, name)| required_names.contains(&*name.long))
            .map(|(index, _)| index as u32)
            .collect();
        let required =
            required_many.iter().filter(|&&index| index < 64).fold(0, |bits, &index| bits | 1_u64 << index);
        let table = table(compiled.len(), |index| compiled[index].key);
        let patterns: Vec<(u32, u32)> = keywords
            .pattern_properties
            .iter()
            .map(|&(pattern, schema)| (pattern as u32, self.plan(schema)))
            .collect();
        let closed = keywords.additional_properties.is_some_and(|schema| model.schemas[schema].never);
        let additional = match keywords.additional_properties {
            Some(schema) => self.plan(schema),
            None => self.any(),
        };
        let from = self.flat.names.len() as u32;
        let slots = self.flat.slots as u32;
        self.flat.slots += compiled.len() + 1;
        self.flat.names.extend(compiled);
        self.flat.objects.push(ObjectPlan {
            min: keywords.min_properties.unwrap_or(0),
            max: keywords.max_properties.unwrap_or(u64::MAX),
            names: (from, self.flat.names.len() as u32),
            required,
            required_many,
            table,
            patterns,
            additional,
            closed,
            constant,
            slots,
        });
        Some(self.flat.objects.len() as u32 - 1)
    }
}

/// The plan of `true`: admits everything, and looks at all names.
const ANY: Plan = Plan {
    types: Types::ALL.0,
    string: StringOp::Any,
    number: NumberOp::Any,
    array: NAMES,
    object: NAMES,
    rest: (0, 0),
};

/// Whether `enum` or `const` holds such a container, so that only the exact run can compare.
fn holds(keywords: &Keywords, kind: &ConstantValue) -> bool {
    keywords.one_of_values.iter().any(|(_, values)| values.iter().any(|constant| constant.value == *kind))
}

fn kind_of(constant: &Constant) -> u8 {
    match &constant.value {
        ConstantValue::Null => Types::NULL,
        ConstantValue::Bool(false) => Types::FALSE,
        ConstantValue::Bool(true) => Types::TRUE,
        ConstantValue::Number(number) if number.is_integer() => Types::INTEGER,
        ConstantValue::Number(_) => Types::FRACTION,
        ConstantValue::String(_) => Types::STRING,
        ConstantValue::Array => Types::ARRAY,
        ConstantValue::Object => Types::OBJECT,
    }
}

fn multiple(of: &Decimal) -> Multiple {
    const DIGITS_MAX: u32 = 18;
    for digits in 0..=DIGITS_MAX {
        if let Some(whole) = of.shifted(digits).to_integer() {
            return Multiple::Of { scale: 10_i128.pow(digits), of: whole };
        }
    }
    Multiple::Unknown
}

impl Keywords {
    /// Where the schema is a reference and nothing else.
    fn only_reference(&self) -> Option<SchemaId> {
        let target = self.reference?;
        self.demands_only_references().then_some(target)
    }

    /// Whether the schema admits everything.
    fn demands_nothing(&self) -> bool {
        self.reference.is_none() && self.demands_only_references()
    }

    fn demands_only_references(&self) -> bool {
        !self.never
            && self.types.is_none()
            && self.one_of_values.is_empty()
            && self.multiple_of.is_none()
            && self.minimum.is_none()
            && self.maximum.is_none()
            && self.exclusive_minimum.is_none()
            && self.exclusive_maximum.is_none()
            && self.min_length.is_none()
            && self.max_length.is_none()
            && self.pattern.is_none()
            && self.prefix_items.is_empty()
            && self.items.is_none()
            && self.min_items.is_none()
            && self.max_items.is_none()
            && !self.unique_items
            && self.properties.is_empty()
            && self.pattern_properties.is_empty()
            && self.additional_properties.is_none()
            && self.required.is_empty()
            && self.min_properties.is_none()
            && self.max_properties.is_none()
            && self.all_of.is_empty()
            && self.any_of.is_empty()
            && self.one_of.is_empty()
            && self.not.is_none()
    }
}
