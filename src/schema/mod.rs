//! JSON Schema: compiled once, judged on the tape.
//!
//! What it is for: the verdict on a JSON body before anything is forwarded, at a small part of the cost of
//! parsing it. Drafts 7 and 2020-12, for the keywords listed in [`Program::compile`]. What it is not for: coercion,
//! defaults, output formats, fetching other schemas.
//!
//! Who calls it: the policy `validate/json_schema` and `ringwall check`.
//!
//! Two programs come out of one schema. The flat one runs over simd-json's tape and says valid, invalid, or
//! that it cannot tell. Only then the exhaustive one runs over an exact reading of the body: it has the last
//! word and finds the places. Duplicate names, depth and size are refused before the schema's verdict counts.

mod exact;
mod model;
mod pattern;
mod program;
mod stream;
mod uri;

use std::sync::atomic::{AtomicU64, Ordering};

pub use model::Draft;

use self::exact::Exact;
use self::model::Model;
use self::pattern::Caches;
use self::program::{Flat, Memory, Verdict};
use crate::http::Reason;
use crate::json::{self, BODY_JSON_SIZE, Finding, JsonLimits, Violation};

/// The body is well-formed and does not meet its schema.
pub const BODY_SCHEMA: Reason =
    Reason::client("body_schema", 3310, 422, "The body does not match its schema");
/// Judging the body took more than [`JsonLimits::steps_max`] steps.
pub const BODY_SCHEMA_COST: Reason =
    Reason::client("body_schema_cost", 3311, 400, "The body takes too long to match against its schema");

/// How many judgements may be open inside one another: a bound for the stack, above what 512 levels of a document
/// and any sane schema need.
const NEST_MAX: u32 = 2000;

/// A compiled schema. Immutable; one for all cores.
#[derive(Debug)]
pub struct Program {
    id: u64,
    model: Model,
    flat: Flat,
}

/// How a schema is to be read.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The draft of a schema without `$schema`. Default: 2020-12.
    pub draft: Draft,
}

impl Default for Options {
    fn default() -> Options {
        Options { draft: Draft::Draft202012 }
    }
}

/// A program, and what the operator should know about its schema.
#[derive(Debug)]
pub struct Compiled {
    /// What judges.
    pub program: Program,
    /// What was accepted but does not do what one might think.
    pub notes: Vec<Note>,
}

/// A remark about a schema that is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// The byte of the schema.
    pub offset: usize,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The keyword it is about.
    pub keyword: String,
    /// One sentence.
    pub message: String,
}

/// Why a schema is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaError {
    /// The byte of the schema.
    pub offset: usize,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// The keyword at fault; empty where there is none (the text is not JSON, or no schema stands there).
    pub keyword: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it; may be empty.
    pub help: String,
}

impl Program {
    /// Compiles the text of a schema.
    ///
    /// Judged: `type enum const multipleOf minimum maximum exclusiveMinimum exclusiveMaximum minLength maxLength
    /// pattern items prefixItems additionalItems minItems maxItems uniqueItems properties patternProperties
    /// additionalProperties required minProperties maxProperties allOf anyOf oneOf not $ref`, `true` and `false`.
    /// Remarks: `$schema $id $anchor $comment $defs definitions title description default examples deprecated
    /// readOnly writeOnly format`. Anything else is an error: what is ignored would let through what it forbids.
    ///
    /// # Errors
    /// All that is wrong, in the order of the text.
    pub fn compile(text: &str, options: Options) -> Result<Compiled, Vec<SchemaError>> {
        static IDS: AtomicU64 = AtomicU64::new(1);
        let (model, notes) = model::load(text, options.draft, &mut 0)?;
        let flat = Flat::new(&model);
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        Ok(Compiled { program: Program { id, model, flat }, notes })
    }

    /// Judges a body.
    ///
    /// Cost: one copy, simd-json's parse, about one step per value; no allocation for a valid body once `scratch` is
    /// warm. A refused body costs some five times as much: it is read again to say where.
    ///
    /// # Errors
    /// The reason, with the places where the body does not meet the schema.
    pub fn check(&self, body: &[u8], limits: &JsonLimits, scratch: &mut Scratch) -> Result<(), Violation> {
        if body.len() > limits.bytes_max {
            return Err(Violation::of(BODY_JSON_SIZE));
        }
        let cache = scratch.cache(self.id);
        let Scratch { json, caches, .. } = scratch;
        let Cache { patterns, memory, .. } = &mut caches[cache];
        if let Ok(text) = std::str::from_utf8(body) {
            let (flat, known) = (&self.flat, &self.model.patterns);
            match stream::judge(flat, known, text, limits.depth(), patterns, memory, limits.steps_max) {
                Verdict::Valid => return Ok(()),
                Verdict::Invalid => return self.settle(body, limits, Some(Verdict::Invalid), json, patterns),
                Verdict::Unsure => {}
            }
        }
        self.check_on_tape(body, limits, scratch)
    }

    /// Without the first run: also a plain enough version for tests.
    #[doc(hidden)]
    pub fn check_on_tape(
        &self,
        body: &[u8],
        limits: &JsonLimits,
        scratch: &mut Scratch,
    ) -> Result<(), Violation> {
        let cache = scratch.cache(self.id);
        let Scratch { json, caches, .. } = scratch;
        let Cache { patterns, memory, .. } = &mut caches[cache];
        let mut steps = limits.steps_max;
        let verdict = json.parse(body, limits, |parsed| {
            self.flat.judge(&self.model.patterns, parsed, patterns, memory, &mut steps)
        });
        match verdict {
            Some(Verdict::Valid) => Ok(()),
            Some(_) if steps == 0 => Err(Violation::of(BODY_SCHEMA_COST)),
            verdict => self.settle(body, limits, verdict, json, patterns),
        }
    }

    /// Only the exhaustive run: the plain version that [`Program::check`] must agree with.
    #[doc(hidden)]
    pub fn check_exactly(
        &self,
        body: &[u8],
        limits: &JsonLimits,
        scratch: &mut Scratch,
    ) -> Result<(), Violation> {
        let cache = scratch.cache(self.id);
        let Scratch { json, caches, .. } = scratch;
        self.settle(body, limits, None, json, &mut caches[cache].patterns)
    }

    #[cold]
    #[inline(never)]
    fn settle(
        &self,
        body: &[u8],
        limits: &JsonLimits,
        fast: Option<Verdict>,
        json: &mut json::Scratch,
        patterns: &mut Caches,
    ) -> Result<(), Violation> {
        let tree = json.read(body, limits)?;
        match exact::judge(&self.model, tree, patterns, limits.steps_max) {
            Exact::Invalid(errors) => Err(Violation { reason: BODY_SCHEMA, offset: None, errors }),
            Exact::TooCostly => Err(Violation::of(BODY_SCHEMA_COST)),
            Exact::Valid => {
                debug_assert_ne!(fast, Some(Verdict::Invalid), "the two runs disagree");
                match fast {
                    // They cannot disagree; if they do, the stricter one counts.
                    Some(Verdict::Invalid) => {
                        let errors = vec![Finding { pointer: String::new(), keyword: BODY_SCHEMA.token }];
                        Err(Violation { reason: BODY_SCHEMA, offset: None, errors })
                    }
                    _ => Ok(()),
                }
            }
        }
    }
}

/// For the fuzz target: a schema, a zero byte, a body.
#[doc(hidden)]
pub fn replay(data: &[u8]) {
    let Some(split) = data.iter().position(|&byte| byte == 0) else { return };
    let Ok(schema) = std::str::from_utf8(&data[..split]) else { return };
    let body = &data[split + 1..];
    let limits = JsonLimits { steps_max: 200_000, ..JsonLimits::default() };
    let mut scratch = Scratch::new();
    if let Ok(compiled) = Program::compile(schema, Options::default()) {
        let fast = compiled.program.check(body, &limits, &mut scratch).map_err(|violation| violation.reason);
        let exact =
            compiled.program.check_exactly(body, &limits, &mut scratch).map_err(|violation| violation.reason);
        // The two count steps differently.
        if fast != Err(BODY_SCHEMA_COST) && exact != Err(BODY_SCHEMA_COST) {
            assert_eq!(fast, exact);
        }
    }
}

/// What one core needs to judge bodies: buffers, pattern caches, remembered orders of names.
///
/// Bounded: the buffers as [`json::Scratch`] says, and at most [`Scratch::PROGRAMS_MAX`] programs' caches; the one
/// that was not used for the longest time makes room.
#[derive(Default)]
pub struct Scratch {
    json: json::Scratch,
    caches: Vec<Cache>,
    last: usize,
    clock: u64,
}

struct Cache {
    program: u64,
    used: u64,
    patterns: Caches,
    memory: Memory,
}

impl Scratch {
    /// How many programs leave something behind on a core.
    pub const PROGRAMS_MAX: usize = 256;

    /// Empty; it grows with the first bodies.
    pub fn new() -> Scratch {
        Scratch::default()
    }

    /// The buffers for bodies without a schema ([`json::check_only`]).
    pub fn json(&mut self) -> &mut json::Scratch {
        &mut self.json
    }

    #[inline]
    fn cache(&mut self, program: u64) -> usize {
        self.clock += 1;
        if self.caches.get(self.last).is_none_or(|cache| cache.program != program) {
            self.last = self.find_cache(program);
        }
        self.caches[self.last].used = self.clock;
        self.last
    }

    fn find_cache(&mut self, program: u64) -> usize {
        if let Some(known) = self.caches.iter().position(|cache| cache.program == program) {
            return known;
        }
        let fresh = Cache { program, used: 0, patterns: Caches::default(), memory: Memory::default() };
        if self.caches.len() < Self::PROGRAMS_MAX {
            self.caches.push(fresh);
            return self.caches.len() - 1;
        }
        let oldest = (0..self.caches.len()).min_by_key(|&index| self.caches[index].used).unwrap_or(0);
        self.caches[oldest] = fresh;
        oldest
    }
}
