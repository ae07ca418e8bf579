//! From the bytes of a body to the verdict of its schema, against the best of the field, in one run.
//!
//! `cargo bench --bench schema` prints nanoseconds per body: medians of alternating rounds, and ratios. With
//! `--test` or `--once` everything runs once. `--callgrind NAME` runs one contender a fixed number of times, for
//! counting instructions. The run also judges mutants of the bodies and holds each verdict against the oracle's.
//!
//! Contenders, all starting from the bytes that a connection received, which they may not change:
//! `tape`: a copy and simd-json's tape with re-used buffers, no validation; `serde`: serde_json and the
//! `jsonschema` crate; `over_tape`: `jsonschema` on the same tape through its public `Json` trait; `ours`.

use std::borrow::Cow;
use std::hint::black_box;
use std::path::PathBuf;
use std::time::Instant;

use jsonschema::JsonType;
use jsonschema::json::{Array, Json, JsonNumber, Node as JsonNode, NodeIdentity, Object};
use ringwall::json::{JsonLimits, check_only};
use ringwall::schema::{Options, Program, Scratch};
use serde_json::Value;
use simd_json::{Buffers, Node, StaticNode, Tape};

const ROUNDS: usize = 9;
const LIMITS: JsonLimits = JsonLimits { bytes_max: 16 << 20, depth_max: 64, steps_max: u64::MAX };

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let once = has("--test") || has("--once");
    let Some(corpus) = corpus() else {
        println!("NOT RUN: bench (no RINGWALL_SHARED)");
        return;
    };
    if let Some(at) = arguments.iter().position(|argument| argument == "--callgrind") {
        return callgrind(&corpus, arguments.get(at + 1).map_or("ours", String::as_str));
    }
    for (name, case) in &corpus {
        compare(name, case, once);
    }
    mutants(&corpus[0].1);
}

struct Case {
    schema: String,
    bodies: Vec<Vec<u8>>,
}

/// order1k as it is, order16k and order1m made of it.
fn corpus() -> Option<Vec<(&'static str, Case)>> {
    let shared = std::env::var("RINGWALL_SHARED").unwrap_or_else(|_| "../shared".to_owned());
    let folder = PathBuf::from(shared).join("corpus/json-bench/order1k");
    let schema = std::fs::read_to_string(folder.join("schema.json")).ok()?;
    let lines = std::fs::read_to_string(folder.join("instances.jsonl")).ok()?;
    let orders: Vec<&str> = lines.lines().collect();
    let many = |count: usize, from: usize| {
        let orders: Vec<&str> = (0..count).map(|index| orders[(from + index) % orders.len()]).collect();
        format!("[{}]", orders.join(",")).into_bytes()
    };
    let list = schema_of_many(&schema);
    Some(vec![
        ("order1k", Case { schema, bodies: orders.iter().map(|order| order.as_bytes().to_vec()).collect() }),
        (
            "order16k",
            Case { schema: list.clone(), bodies: (0..13).map(|index| many(16, index * 16)).collect() },
        ),
        ("order1m", Case { schema: list, bodies: vec![many(1000, 0)] }),
    ])
}

fn schema_of_many(schema: &str) -> String {
    let mut order: Value = serde_json::from_str(schema).expect("the corpus holds JSON");
    let definitions = order["$defs"].take();
    order.as_object_mut().expect("an object").remove("$schema");
    order.as_object_mut().expect("an object").remove("$defs");
    serde_json::json!({ "type": "array", "items": order, "$defs": definitions }).to_string()
}

/// All contenders over one case.
struct Contenders {
    program: Program,
    scratch: Scratch,
    bare: ringwall::json::Scratch,
    serde: jsonschema::Validator,
    over_tape: jsonschema::Validator<TapeJson>,
    input: Vec<u8>,
    buffers: Buffers,
    tape: Tape<'static>,
}

impl Contenders {
    fn new(case: &Case) -> Contenders {
        let schema: Value = serde_json::from_str(&case.schema).expect("the corpus holds JSON");
        Contenders {
            program: Program::compile(&case.schema, Options::default()).expect("the schema compiles").program,
            scratch: Scratch::new(),
            bare: ringwall::json::Scratch::new(),
            serde: jsonschema::validator_for(&schema).expect("the schema compiles"),
            over_tape: jsonschema::options_for::<TapeJson>().build(&schema).expect("the schema compiles"),
            input: Vec::new(),
            buffers: Buffers::new(1 << 20),
            tape: Tape(Vec::new()),
        }
    }

    const NAMES: [&'static str; 5] = ["tape", "serde", "over_tape", "hardening", "ours"];

    fn run(&mut self, name: &str, body: &[u8]) -> bool {
        match name {
            "tape" => self.with_tape(body, |_, _| true),
            "serde" => serde_json::from_slice::<Value>(body).is_ok_and(|value| self.serde.is_valid(&value)),
            "over_tape" => self.with_tape(body, |validator, tape| validator.is_valid(At { tape, at: 0 })),
            "hardening" => check_only(body, &LIMITS, &mut self.bare).is_ok(),
            "ours" => self.program.check(body, &LIMITS, &mut self.scratch).is_ok(),
            _ => panic!("no contender {name}"),
        }
    }

    fn with_tape(
        &mut self,
        body: &[u8],
        judge: impl FnOnce(&jsonschema::Validator<TapeJson>, &[Node<'_>]) -> bool,
    ) -> bool {
        self.input.clear();
        self.input.extend_from_slice(body);
        self.input.resize(body.len() + simd_json::INPUT_PADDING, 0);
        let mut tape = std::mem::replace(&mut self.tape, Tape(Vec::new())).reset();
        let parsed = simd_json::fill_tape_padded(&mut self.input, body.len(), &mut self.buffers, &mut tape);
        let valid = parsed.is_ok() && judge(&self.over_tape, black_box(&tape.0));
        self.tape = tape.reset();
        valid
    }
}

fn compare(name: &str, case: &Case, once: bool) {
    let mut contenders = Contenders::new(case);
    let bytes: usize = case.bodies.iter().map(Vec::len).sum();
    let repeats = if once { 1 } else { (40_000_000 / bytes).max(1) };
    let rounds = if once { 1 } else { ROUNDS };
    let mut times = vec![Vec::new(); Contenders::NAMES.len()];
    for round in 0..=rounds {
        for (contender, times) in Contenders::NAMES.iter().zip(&mut times) {
            let start = Instant::now();
            for _ in 0..if round == 0 { 1 } else { repeats } {
                for body in &case.bodies {
                    assert!(
                        black_box(contenders.run(contender, black_box(body))),
                        "{contender} refuses a valid body"
                    );
                }
            }
            // The first round only warms up.
            if round > 0 {
                times.push(start.elapsed().as_nanos() as f64 / (repeats * case.bodies.len()) as f64);
            }
        }
    }
    let medians: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    println!(
        "{name}: {} bytes on average, medians of {rounds} alternating rounds",
        bytes / case.bodies.len()
    );
    for ((contender, median), times) in Contenders::NAMES.iter().zip(&medians).zip(&times) {
        let (least, most) = (times[0], times[times.len() - 1]);
        println!(
            "  {contender:<10} {median:>12.0} ns  ({least:.0}–{most:.0})  {:>5.2} × tape",
            median / medians[0]
        );
    }
    println!(
        "  ours: {:.2} × tape, {:.2} × faster than jsonschema over the tape",
        medians[4] / medians[0],
        medians[2] / medians[4]
    );
}

fn median(times: &mut [f64]) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn callgrind(corpus: &[(&'static str, Case)], contender: &str) {
    const TIMES: usize = 1000;
    let case = &corpus[0].1;
    let mut contenders = Contenders::new(case);
    for body in case.bodies.iter().cycle().take(TIMES) {
        black_box(contenders.run(contender, black_box(body)));
    }
}

/// Each body is changed at one place, one after the other; every verdict must be the oracle's.
fn mutants(case: &Case) {
    let mut contenders = Contenders::new(case);
    let (mut judged, mut valid) = (0, 0);
    for (index, body) in case.bodies.iter().enumerate() {
        let document: Value = serde_json::from_slice(body).expect("the corpus holds JSON");
        let mut places = Vec::new();
        collect_pointers(&document, String::new(), &mut places);
        for step in 0..4 {
            let mut mutant = document.clone();
            let place = &places[(index * 7 + step * 13) % places.len()];
            mutate(&mut mutant, place, index + step * 3);
            let want = contenders.serde.is_valid(&mutant);
            let text = mutant.to_string().into_bytes();
            assert_eq!(contenders.run("ours", &text), want, "{place} of {}", String::from_utf8_lossy(&text));
            assert_eq!(contenders.run("over_tape", &text), want);
            judged += 1;
            valid += usize::from(want);
        }
    }
    println!("mutants: {judged} judged, {valid} valid, each with the oracle's verdict");
}

fn collect_pointers(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            members.iter().for_each(|(name, value)| collect_pointers(value, format!("{at}/{name}"), places));
        }
        Value::Array(elements) => {
            elements
                .iter()
                .enumerate()
                .for_each(|(index, value)| collect_pointers(value, format!("{at}/{index}"), places));
        }
        _ => {}
    }
    if !at.is_empty() {
        places.push(at);
    }
}

fn mutate(document: &mut Value, place: &str, kind: usize) {
    let (parent, name) = place.rsplit_once('/').expect("a pointer");
    let old = document.pointer(place).expect("it was found").clone();
    let new = match kind % 8 {
        0 => Value::Null,
        1 => match old {
            Value::Number(_) => serde_json::json!(-1),
            _ => serde_json::json!(7),
        },
        2 => match old {
            Value::String(text) => Value::String(format!("{text}x")),
            other => serde_json::json!([other]),
        },
        3 => match old {
            Value::String(text) => Value::String(text.chars().skip(1).collect()),
            other => other,
        },
        4 => serde_json::json!(1e9),
        5 => serde_json::json!(true),
        6 => {
            if let Some(parent) = document.pointer_mut(parent) {
                match parent {
                    Value::Object(members) => {
                        members.remove(name);
                    }
                    Value::Array(elements) => elements.push(old),
                    _ => {}
                }
            }
            return;
        }
        _ => {
            if let Some(Value::Object(members)) = document.pointer_mut(parent) {
                members.insert("unknown".to_owned(), old);
            }
            return;
        }
    };
    *document.pointer_mut(place).expect("it was found") = new;
}

/// `jsonschema` on simd-json's tape.
struct TapeJson;

#[derive(Clone, Copy)]
struct At<'a> {
    tape: &'a [Node<'a>],
    at: usize,
}

impl<'a> At<'a> {
    #[inline]
    fn after(self) -> usize {
        match self.tape[self.at] {
            Node::Object { count, .. } | Node::Array { count, .. } => self.at + 1 + count,
            _ => self.at + 1,
        }
    }
}

impl Json for TapeJson {
    type Node<'a> = At<'a>;
    type PreparedKey = String;
    // A lookup is a scan of the object: one pass over the members is cheaper than two lookups.
    const KEYS_PER_LOOKUP: usize = 8;
    type StringBuffer = ();

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>(_: &mut (), string: &str, f: impl FnOnce(At<'_>) -> T) -> T {
        f(At { tape: &[Node::String(string)], at: 0 })
    }
}

impl<'a> JsonNode<'a, TapeJson> for At<'a> {
    type Object = At<'a>;
    type Array = At<'a>;
    type Number = TapeNumber;

    #[inline]
    fn as_object(&self) -> Option<At<'a>> {
        matches!(self.tape[self.at], Node::Object { .. }).then_some(*self)
    }
    #[inline]
    fn as_array(&self) -> Option<At<'a>> {
        matches!(self.tape[self.at], Node::Array { .. }).then_some(*self)
    }
    #[inline]
    fn as_string(&self) -> Option<Cow<'a, str>> {
        match self.tape[self.at] {
            Node::String(value) => Some(Cow::Borrowed(value)),
            _ => None,
        }
    }
    #[inline]
    fn as_number(&self) -> Option<TapeNumber> {
        match self.tape[self.at] {
            Node::Static(number @ (StaticNode::U64(_) | StaticNode::I64(_) | StaticNode::F64(_))) => {
                Some(TapeNumber(number))
            }
            _ => None,
        }
    }
    #[inline]
    fn as_boolean(&self) -> Option<bool> {
        match self.tape[self.at] {
            Node::Static(StaticNode::Bool(value)) => Some(value),
            _ => None,
        }
    }
    #[inline]
    fn is_null(&self) -> bool {
        matches!(self.tape[self.at], Node::Static(StaticNode::Null))
    }
    #[inline]
    fn json_type(&self) -> JsonType {
        match self.tape[self.at] {
            Node::String(_) => JsonType::String,
            Node::Object { .. } => JsonType::Object,
            Node::Array { .. } => JsonType::Array,
            Node::Static(StaticNode::Null) => JsonType::Null,
            Node::Static(StaticNode::Bool(_)) => JsonType::Boolean,
            Node::Static(_) => JsonType::Number,
        }
    }
    fn equals_value(&self, expected: &Value) -> bool {
        match (self.tape[self.at], expected) {
            (Node::String(value), Value::String(expected)) => value == expected,
            (Node::String(_), _) | (_, Value::String(_)) => false,
            _ => jsonschema::json::cmp::equal(&self.to_value(), expected),
        }
    }
    fn to_value(&self) -> Cow<'a, Value> {
        Cow::Owned(match self.tape[self.at] {
            Node::String(value) => Value::String(value.to_owned()),
            Node::Object { .. } => Value::Object(
                self.members()
                    .map(|(name, value)| (name.to_owned(), value.to_value().into_owned()))
                    .collect(),
            ),
            Node::Array { .. } => {
                Value::Array(self.elements().map(|element| element.to_value().into_owned()).collect())
            }
            Node::Static(StaticNode::Null) => Value::Null,
            Node::Static(StaticNode::Bool(value)) => Value::Bool(value),
            Node::Static(number) => Value::Number(TapeNumber(number).to_number().into_owned()),
        })
    }
    fn identity(&self) -> Option<NodeIdentity> {
        Some(NodeIdentity::new(&raw const self.tape[self.at] as usize))
    }
}

impl<'a> Object<'a, TapeJson> for At<'a> {
    type Node = At<'a>;
    type MemberName = &'a str;
    type MembersIter = Members<'a>;

    #[inline]
    fn len(&self) -> usize {
        match self.tape[self.at] {
            Node::Object { len, .. } => len,
            _ => 0,
        }
    }
    #[inline]
    fn get(&self, key: &String) -> Option<At<'a>> {
        self.members().find(|(name, _)| *name == key).map(|(_, value)| value)
    }
    #[inline]
    fn members(&self) -> Members<'a> {
        Members { next: At { tape: self.tape, at: self.at + 1 }, left: Object::len(self) }
    }
}

impl<'a> Array<'a, TapeJson> for At<'a> {
    type Node = At<'a>;
    type ElementsIter = Elements<'a>;

    #[inline]
    fn len(&self) -> usize {
        match self.tape[self.at] {
            Node::Array { len, .. } => len,
            _ => 0,
        }
    }
    #[inline]
    fn elements(&self) -> Elements<'a> {
        Elements { next: At { tape: self.tape, at: self.at + 1 }, left: Array::len(self) }
    }
    fn is_unique(&self) -> bool {
        let strings: Option<Vec<Cow<'a, str>>> = self.elements().map(|element| element.as_string()).collect();
        match strings {
            Some(strings) if strings.len() <= 16 => {
                strings.iter().enumerate().all(|(index, string)| !strings[..index].contains(string))
            }
            _ => {
                let values: Vec<Cow<'a, Value>> = self.elements().map(|element| element.to_value()).collect();
                jsonschema::json::unique::is_unique(&values)
            }
        }
    }
}

struct Members<'a> {
    next: At<'a>,
    left: usize,
}

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, At<'a>);
    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        self.left = self.left.checked_sub(1)?;
        let Node::String(name) = self.next.tape[self.next.at] else { return None };
        let value = At { at: self.next.at + 1, ..self.next };
        self.next.at = value.after();
        Some((name, value))
    }
}

struct Elements<'a> {
    next: At<'a>,
    left: usize,
}

impl<'a> Iterator for Elements<'a> {
    type Item = At<'a>;
    #[inline]
    fn next(&mut self) -> Option<At<'a>> {
        self.left = self.left.checked_sub(1)?;
        let element = self.next;
        self.next.at = element.after();
        Some(element)
    }
}

struct TapeNumber(StaticNode);

impl JsonNumber for TapeNumber {
    #[inline]
    fn as_u64(&self) -> Option<u64> {
        match self.0 {
            StaticNode::U64(value) => Some(value),
            StaticNode::I64(value) => u64::try_from(value).ok(),
            _ => None,
        }
    }
    #[inline]
    fn as_i64(&self) -> Option<i64> {
        match self.0 {
            StaticNode::U64(value) => i64::try_from(value).ok(),
            StaticNode::I64(value) => Some(value),
            _ => None,
        }
    }
    #[inline]
    fn as_f64(&self) -> Option<f64> {
        match self.0 {
            StaticNode::U64(value) => Some(value as f64),
            StaticNode::I64(value) => Some(value as f64),
            StaticNode::F64(value) => Some(value),
            _ => None,
        }
    }
    fn as_str(&self) -> Cow<'_, str> {
        Cow::Owned(self.to_number().to_string())
    }
    fn to_number(&self) -> Cow<'_, serde_json::Number> {
        Cow::Owned(match self.0 {
            StaticNode::U64(value) => value.into(),
            StaticNode::I64(value) => value.into(),
            StaticNode::F64(value) => serde_json::Number::from_f64(value).unwrap_or_else(|| 0.into()),
            _ => 0.into(),
        })
    }
    #[inline]
    fn is_integer(&self) -> bool {
        match self.0 {
            StaticNode::F64(value) => value.fract() == 0.0,
            _ => true,
        }
    }
}
