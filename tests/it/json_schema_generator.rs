//! Schemas over the whole judged vocabulary and bodies near them, from a string of choices; and the comparison of our
//! verdicts with those of the `jsonschema` crate. Shared by the property test and the fuzz target `json_schema`.

use ringwall::json::JsonLimits;
use ringwall::schema::{BODY_SCHEMA, Draft, Options, Program, Scratch};

/// Turns bytes into choices; when they run out, every choice is the first.
pub struct Generator<'a> {
    bytes: &'a [u8],
    depth: u32,
    modern: bool,
}

const NAMES: &[&str] =
    &["a", "b", "id", "name", "x-y", "é", "a_rather_long_property_name", "a_rather_long_property_nama", ""];
const STRINGS: &[&str] = &[
    "",
    "a",
    "ab",
    "abc",
    "A",
    "é",
    "éé",
    "😀",
    "123",
    "SKU-123456",
    "x@y",
    "foo bar",
    "\\n",
    "\\u0061",
    "null",
];
const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "2",
    "3",
    "10",
    "1.5",
    "-0.5",
    "1.0",
    "-0",
    "2e0",
    "100",
    "0.25",
    "4294967296",
    "-7",
    "9e15",
];
const PATTERNS: &[&str] = &[
    "^a",
    "a$",
    "^[a-z]+$",
    "^[A-Z]{1,3}$",
    "^.{1,2}$",
    ".",
    "^SKU-[0-9]{6}$",
    "^[^@]+@[^@]+$",
    "b|c",
    "^(a|ab)(c|bcd)?$",
    "\\\\d+",
    "^\\\\S*$",
    "",
    "^é",
];
const TYPES: &[&str] = &["null", "boolean", "integer", "number", "string", "array", "object"];

impl<'a> Generator<'a> {
    pub fn new(bytes: &'a [u8]) -> Generator<'a> {
        Generator { bytes, depth: 0, modern: true }
    }

    /// A schema and some bodies.
    pub fn case(&mut self) -> (String, Vec<String>) {
        self.modern = self.below(3) > 0;
        let mut definitions = Vec::new();
        for name in ["p", "q"] {
            definitions.push(format!("\"{name}\": {}", self.schema()));
        }
        let schema = self.schema();
        let (uri, place) = match self.modern {
            true => ("https://json-schema.org/draft/2020-12/schema", "$defs"),
            false => ("http://json-schema.org/draft-07/schema#", "definitions"),
        };
        let schema = match schema.strip_prefix('{') {
            Some(rest) => {
                let comma = if rest == "}" { "" } else { "," };
                format!("{{\"$schema\": \"{uri}\", \"{place}\": {{{}}}{comma}{rest}", definitions.join(","))
            }
            None => schema,
        };
        let bodies = (0..1 + self.below(6)).map(|_| self.value()).collect();
        (schema, bodies)
    }

    fn below(&mut self, bound: usize) -> usize {
        match self.bytes {
            [first, rest @ ..] => {
                self.bytes = rest;
                *first as usize % bound
            }
            [] => 0,
        }
    }

    fn pick<'s>(&mut self, from: &[&'s str]) -> &'s str {
        from[self.below(from.len())]
    }

    fn schema(&mut self) -> String {
        if self.depth > 3 {
            return ["true", "{}", "false"][self.below(7).saturating_sub(4)].to_owned();
        }
        self.depth += 1;
        let schema = match self.below(12) {
            0 => "true".to_owned(),
            1 if self.below(4) == 0 => "false".to_owned(),
            2 => format!(
                "{{\"$ref\": \"#/{}/{}\"}}",
                if self.modern { "$defs" } else { "definitions" },
                self.pick(&["p", "q"])
            ),
            _ => {
                let mut keywords: Vec<(String, String)> = Vec::new();
                for _ in 0..1 + self.below(4) {
                    let (name, value) = self.keyword();
                    if !name.is_empty() && !keywords.iter().any(|(known, _)| *known == name) {
                        keywords.push((name, value));
                    }
                }
                let keywords: Vec<String> =
                    keywords.into_iter().map(|(name, value)| format!("\"{name}\": {value}")).collect();
                format!("{{{}}}", keywords.join(", "))
            }
        };
        self.depth -= 1;
        schema
    }

    fn keyword(&mut self) -> (String, String) {
        let (name, value) = match self.below(32) {
            0..=3 => ("type", format!("\"{}\"", self.pick(TYPES))),
            4 => ("type", format!("[\"{}\", \"{}\"]", self.pick(&TYPES[..3]), self.pick(&TYPES[3..]))),
            5 | 6 => ("enum", self.values()),
            7 => ("const", self.value()),
            8 => ("multipleOf", self.pick(&["1", "2", "3", "0.5", "0.25", "1.5", "1e1"]).to_owned()),
            9 => ("minimum", self.pick(NUMBERS).to_owned()),
            10 => ("maximum", self.pick(NUMBERS).to_owned()),
            11 => ("exclusiveMinimum", self.pick(NUMBERS).to_owned()),
            12 => ("exclusiveMaximum", self.pick(NUMBERS).to_owned()),
            13 => ("minLength", self.below(4).to_string()),
            14 => ("maxLength", self.below(4).to_string()),
            15 => ("pattern", format!("\"{}\"", self.pick(PATTERNS))),
            16 => ("items", self.schema()),
            17 if self.modern => ("prefixItems", self.schemas()),
            17 => ("items", self.schemas()),
            18 if !self.modern => ("additionalItems", self.schema()),
            18 => ("minItems", self.below(3).to_string()),
            19 => ("maxItems", self.below(4).to_string()),
            20 => ("uniqueItems", "true".to_owned()),
            21..=23 => ("properties", self.properties(NAMES)),
            24 => ("patternProperties", self.properties(&["^a", "^x-", "^.$", "é", "name"])),
            25 => ("additionalProperties", self.schema()),
            26 => {
                let mut names: Vec<&str> = (0..1 + self.below(2)).map(|_| self.pick(NAMES)).collect();
                names.sort_unstable();
                names.dedup();
                ("required", format!("{names:?}"))
            }
            27 => (["minProperties", "maxProperties"][self.below(2)], self.below(4).to_string()),
            28 => ("allOf", self.schemas()),
            29 => ("anyOf", self.schemas()),
            30 => ("oneOf", self.schemas()),
            _ => ("not", self.schema()),
        };
        (name.to_owned(), value)
    }

    fn schemas(&mut self) -> String {
        let schemas: Vec<String> = (0..1 + self.below(3)).map(|_| self.schema()).collect();
        format!("[{}]", schemas.join(", "))
    }

    fn properties(&mut self, names: &[&str]) -> String {
        let mut members: Vec<(&str, String)> = Vec::new();
        for _ in 0..1 + self.below(4) {
            let name = self.pick(names);
            if !members.iter().any(|(known, _)| *known == name) {
                members.push((name, self.schema()));
            }
        }
        let members: Vec<String> =
            members.into_iter().map(|(name, schema)| format!("\"{name}\": {schema}")).collect();
        format!("{{{}}}", members.join(", "))
    }

    fn values(&mut self) -> String {
        let values: Vec<String> = (0..1 + self.below(4)).map(|_| self.value()).collect();
        format!("[{}]", values.join(", "))
    }

    fn value(&mut self) -> String {
        if self.depth > 4 {
            return self.pick(NUMBERS).to_owned();
        }
        self.depth += 1;
        let value = match self.below(12) {
            0 => "null".to_owned(),
            1 => ["true", "false"][self.below(2)].to_owned(),
            2..=4 => self.pick(NUMBERS).to_owned(),
            5..=7 => format!("\"{}\"", self.pick(STRINGS)),
            8 | 9 => {
                let elements: Vec<String> = (0..self.below(5)).map(|_| self.value()).collect();
                format!("[{}]", elements.join(","))
            }
            _ => {
                let mut members: Vec<(&str, String)> = Vec::new();
                for _ in 0..self.below(5) {
                    let name = self.pick(NAMES);
                    if !members.iter().any(|(known, _)| *known == name) {
                        members.push((name, self.value()));
                    }
                }
                let members: Vec<String> =
                    members.into_iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
                format!("{{{}}}", members.join(","))
            }
        };
        self.depth -= 1;
        value
    }
}

/// Compares the verdicts on all bodies; counts (valid, all). A schema that only we refuse is no difference: we refuse
/// endless references and keywords that are not judged.
///
/// # Errors
/// What differs.
pub fn differ(schema: &str, bodies: &[String]) -> Result<(usize, usize), String> {
    let Ok(compiled) = Program::compile(schema, Options { draft: Draft::Draft202012 }) else {
        return Ok((0, 0));
    };
    let Ok(value) = serde_json::from_str::<serde_json::Value>(schema) else {
        return Err(format!("serde_json does not read the schema {schema}"));
    };
    let Ok(oracle) = jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .should_validate_formats(false)
        .build(&value)
    else {
        return Ok((0, 0));
    };
    let mut scratch = Scratch::new();
    let limits = JsonLimits::default();
    let mut counts = (0, 0);
    for body in bodies {
        let fast = compiled.program.check(body.as_bytes(), &limits, &mut scratch);
        let exact = compiled.program.check_exactly(body.as_bytes(), &limits, &mut scratch);
        let tape = compiled.program.check_on_tape(body.as_bytes(), &limits, &mut scratch);
        if fast.is_ok() != exact.is_ok() || tape.is_ok() != exact.is_ok() {
            return Err(format!("{schema}\n{body}\nthe runs differ: {fast:?} {tape:?} {exact:?}"));
        }
        match &fast {
            Err(violation) if violation.reason != BODY_SCHEMA => continue,
            Err(violation) if violation.errors.is_empty() => {
                return Err(format!("{schema}\n{body}\nno place is named"));
            }
            _ => {}
        }
        let Ok(value) = serde_json::from_str::<serde_json::Value>(body) else { continue };
        if oracle.is_valid(&value) != fast.is_ok() {
            return Err(format!("{schema}\n{body}\nthe oracle says {}, ours {fast:?}", fast.is_err()));
        }
        counts.0 += usize::from(fast.is_ok());
        counts.1 += 1;
    }
    Ok(counts)
}
