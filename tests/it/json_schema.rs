//! JSON Schema: the official suite, refusals, and the `jsonschema` crate as an oracle.

use std::collections::BTreeMap;
use std::path::Path;

use ringwall::json::{
    BODY_DEPTH, BODY_DUPLICATE_KEY, BODY_JSON, BODY_JSON_SIZE, BODY_UTF8, JsonLimits, Kind, NodeId, Tree,
};
use ringwall::schema::{BODY_SCHEMA, BODY_SCHEMA_COST, Draft, Options, Program, SchemaError, Scratch};

use crate::json_schema_generator::Generator;
use crate::shared;

const EXPECTED: &str = include_str!("../conformance/json-schema/expected.txt");

/// Every group of every file (formats aside, which are remarks here). A schema with a keyword that is not judged must
/// be refused with that keyword's name; everything else must give the suite's verdict, in both runs.
#[test]
fn the_official_suite_gives_its_verdicts() {
    let Some(suite) = shared("conformance/json-schema") else { return };
    let mut expected = expectations();
    let mut problems = Vec::new();
    let mut counts = (0, 0);
    for (folder, draft) in [("draft7", Draft::Draft7), ("draft2020-12", Draft::Draft202012)] {
        for part in ["", "optional"] {
            let folder = Path::new(folder).join(part);
            let mut files: Vec<_> = std::fs::read_dir(suite.join(&folder))
                .expect("the suite is complete")
                .map(|entry| entry.expect("it can be listed").file_name())
                .filter(|name| Path::new(name).extension().is_some_and(|extension| extension == "json"))
                .collect();
            files.sort();
            for file in files {
                let name = folder.join(&file).to_string_lossy().into_owned();
                let bytes = std::fs::read(suite.join(&name)).expect("it can be read");
                run_file(&name, &bytes, draft, &mut expected, &mut problems, &mut counts);
            }
        }
    }
    for (id, (keyword, used)) in &expected {
        if !used {
            problems
                .push(format!("{id}  # {keyword}: is expected to fail, but passes or is no longer there"));
        }
    }
    println!("JSON Schema suite: {} verdicts, {} schemas refused as expected", counts.0, counts.1);
    assert!(problems.is_empty(), "{} problems:\n{}", problems.len(), problems.join("\n"));
    assert!(counts.0 > 1500, "only {} verdicts: the suite is not complete", counts.0);
}

/// id → (keyword that the refusal must name, whether it was met).
fn expectations() -> BTreeMap<String, (String, bool)> {
    EXPECTED
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| {
            let (id, reason) = line.split_once("  # ").unwrap_or_else(|| panic!("no reason: {line}"));
            let (keyword, why) = reason.split_once(": ").unwrap_or_else(|| panic!("no keyword: {line}"));
            assert!(!why.is_empty(), "no reason: {line}");
            (id.to_owned(), (keyword.to_owned(), false))
        })
        .collect()
}

fn run_file(
    name: &str,
    bytes: &[u8],
    draft: Draft,
    expected: &mut BTreeMap<String, (String, bool)>,
    problems: &mut Vec<String>,
    counts: &mut (usize, usize),
) {
    let mut tree = Tree::new();
    let limits = JsonLimits { depth_max: 200, ..JsonLimits::default() };
    tree.read(bytes, &limits).unwrap_or_else(|error| panic!("{name}: {error:?}"));
    let mut scratch = Scratch::new();
    for group in tree.elements(tree.root()) {
        let title = string(&tree, group, "description");
        let schema = tree.source(tree.member(group, "schema").expect("a schema"));
        let own = format!("{name}: {title}");
        let id = if expected.contains_key(&own) { &own } else { name };
        let program = match Program::compile(schema, Options { draft }) {
            Ok(compiled) => compiled.program,
            Err(errors) => {
                match expected.get_mut(id) {
                    Some((keyword, used)) if errors.iter().any(|error| error.keyword == *keyword) => {
                        *used = true;
                        counts.1 += 1;
                    }
                    _ => problems.push(format!("{own}  # {}: {}", errors[0].keyword, errors[0].message)),
                }
                continue;
            }
        };
        // A whole file is listed only where each of its schemas is refused.
        if let Some((_, used)) = expected.get_mut(id) {
            problems.push(format!("{own}: is expected to be refused, but compiles"));
            *used = true;
        }
        for test in tree.elements(tree.member(group, "tests").expect("tests")) {
            let data = tree.source(tree.member(test, "data").expect("data"));
            let valid = tree.kind(tree.member(test, "valid").expect("valid")) == Kind::Bool(true);
            let fast = program.check(data.as_bytes(), &limits, &mut scratch);
            let tape = program.check_on_tape(data.as_bytes(), &limits, &mut scratch);
            let exact = program.check_exactly(data.as_bytes(), &limits, &mut scratch);
            counts.0 += 1;
            if fast.is_ok() != valid || tape.is_ok() != valid || exact.is_ok() != valid {
                let test = string(&tree, test, "description");
                problems.push(format!("{own}: {test}: should be {valid}, is {fast:?} and {exact:?}"));
            }
        }
    }
}

fn string<'a>(tree: &'a Tree, node: NodeId, name: &str) -> &'a str {
    tree.member(node, name).map_or("", |node| tree.string(node))
}

fn program(schema: &str) -> Program {
    Program::compile(schema, Options::default())
        .unwrap_or_else(|errors| panic!("{schema}: {errors:?}"))
        .program
}

fn errors(schema: &str) -> Vec<SchemaError> {
    Program::compile(schema, Options::default()).map(|_| ()).expect_err(schema)
}

#[test]
fn a_refusal_names_all_places() {
    let program = program(
        r#"{"type": "object", "required": ["id", "to"], "additionalProperties": false, "properties": {
            "id": {"type": "integer", "minimum": 1}, "to": {"type": "array", "items": {"pattern": "^a"}}, "x/y": {"enum": [1, "b"]}}}"#,
    );
    let body = br#"{"id": 0, "x/y": 2, "more": null, "to": ["a", "b"]}"#;
    let violation =
        program.check(body, &JsonLimits::default(), &mut Scratch::new()).expect_err("it is invalid");
    assert_eq!(violation.reason, BODY_SCHEMA);
    let found: Vec<_> =
        violation.errors.iter().map(|error| (error.pointer.as_str(), error.keyword)).collect();
    let want =
        [("/id", "minimum"), ("/x~1y", "enum"), ("/more", "additionalProperties"), ("/to/1", "pattern")];
    assert_eq!(found, want);
    let violation =
        program.check(b"{}", &JsonLimits::default(), &mut Scratch::new()).expect_err("it is invalid");
    let found: Vec<_> =
        violation.errors.iter().map(|error| (error.pointer.as_str(), error.keyword)).collect();
    assert_eq!(found, [("/id", "required"), ("/to", "required")]);
}

/// RQ-02: what two parsers may read differently is refused before the schema's verdict, wherever it stands.
#[test]
fn ambiguity_is_refused_before_the_verdict() {
    let mut scratch = Scratch::new();
    for schema in [
        "true",
        "{}",
        r#"{"type": "object", "properties": {"a": {}}}"#,
        r#"{"properties": {"a": {"type": "integer"}, "b": {"type": "object"}}, "required": ["a"]}"#,
        r#"{"anyOf": [{"type": "array"}, {"type": "object", "maxProperties": 9}]}"#,
        r#"{"oneOf": [{"required": ["zzz"]}, {"minProperties": 1}]}"#,
        r#"{"not": {"type": "null"}}"#,
        r##"{"$ref": "#/$defs/x", "$defs": {"x": {"additionalProperties": {"$ref": "#/$defs/x"}}}}"##,
        r#"{"allOf": [{"patternProperties": {"^a": true}}], "type": "object"}"#,
        r#"{"type": "null"}"#,
    ] {
        let program = program(schema);
        for (body, reason) in [
            (&br#"{"a": 1, "a": 2}"#[..], BODY_DUPLICATE_KEY),
            (br#"{"a": 1, "\u0061": 2}"#, BODY_DUPLICATE_KEY),
            (br#"{"a": 1, "b": {"c": [{"d": 1, "e": 2, "d": 3}]}}"#, BODY_DUPLICATE_KEY),
            (br#"{"a": {"q": 1, "q": 1}}"#, BODY_DUPLICATE_KEY),
            (br#"{"a": 1, "x": 1, "y": 2, "x": 1}"#, BODY_DUPLICATE_KEY),
            (br#"{"a": 1"#, BODY_JSON),
            (b"", BODY_JSON),
            (b"{\"a\": \"\xc3\"}", BODY_UTF8),
            (br#"{"a": "\ud800"}"#, BODY_UTF8),
        ] {
            let violation = program.check(body, &JsonLimits::default(), &mut scratch).expect_err(schema);
            assert_eq!(violation.reason, reason, "{schema} {}", String::from_utf8_lossy(body));
        }
        let deep = "[".repeat(65) + &"]".repeat(65);
        let violation =
            program.check(deep.as_bytes(), &JsonLimits::default(), &mut scratch).expect_err(schema);
        assert_eq!(violation.reason, BODY_DEPTH);
        let limits = JsonLimits { bytes_max: 3, ..JsonLimits::default() };
        assert_eq!(program.check(b"1234", &limits, &mut scratch).expect_err(schema).reason, BODY_JSON_SIZE);
    }
}

#[test]
fn numbers_are_judged_exactly() {
    let mut scratch = Scratch::new();
    for (schema, body, valid) in [
        (r#"{"type": "integer"}"#, "1.0", true),
        (r#"{"type": "integer"}"#, "1.00000000000000000000000001", false),
        (r#"{"type": "integer"}"#, "123456789012345678901234567890", true),
        (r#"{"type": "integer"}"#, "1e400", true),
        (r#"{"type": "integer"}"#, "1e-400", false),
        (r#"{"maximum": 9007199254740992}"#, "9007199254740993", false),
        (r#"{"maximum": 9007199254740992}"#, "9007199254740993.0", false),
        (r#"{"maximum": 0.3}"#, "0.30000000000000000000001", false),
        (r#"{"maximum": 0.3}"#, "0.3", true),
        (r#"{"exclusiveMaximum": 0.3}"#, "0.3", false),
        (r#"{"minimum": 0}"#, "-0", true),
        (r#"{"minimum": 0}"#, "-0.0", true),
        (r#"{"minimum": 0}"#, "-1e-400", false),
        (r#"{"exclusiveMinimum": 0}"#, "1e-400", true),
        (r#"{"maximum": 18446744073709551615}"#, "18446744073709551615", true),
        (r#"{"maximum": 18446744073709551615}"#, "18446744073709551616", false),
        (r#"{"minimum": -9223372036854775808}"#, "-9223372036854775809", false),
        (r#"{"multipleOf": 0.01}"#, "19.99", true),
        (r#"{"multipleOf": 0.01}"#, "19.999", false),
        (r#"{"multipleOf": 0.01}"#, "7", true),
        (r#"{"multipleOf": 2.5}"#, "7", false),
        (r#"{"const": 1}"#, "1.0", true),
        (r#"{"const": 1.5}"#, "15e-1", true),
        (r#"{"enum": [0]}"#, "-0.0", true),
        (r#"{"enum": [0]}"#, "false", false),
        (r#"{"const": 9007199254740993}"#, "9007199254740992.0", false),
        (r#"{"uniqueItems": true}"#, "[1, 1.0]", false),
        (r#"{"uniqueItems": true}"#, "[9007199254740992, 9007199254740993, 9007199254740992.5]", true),
        (r#"{"uniqueItems": true}"#, "[0, false, null, \"\", [], {}]", true),
    ] {
        let program = program(schema);
        let result = program.check(body.as_bytes(), &JsonLimits::default(), &mut scratch);
        assert_eq!(result.is_ok(), valid, "{schema} {body} {result:?}");
    }
}

#[test]
fn unknown_keywords_are_named_with_their_place() {
    let schema = "{\n  \"type\": \"object\",\n  \"properties\": {\n    \"ä\": {\"minLenght\": 3, \"contains\": true},\n    \"b\": {\"type\": \"strin\"}\n  }\n}";
    let errors = errors(schema);
    let found: Vec<_> =
        errors.iter().map(|error| (error.keyword.as_str(), error.line, error.column)).collect();
    assert_eq!(found, [("minLenght", 4, 11), ("contains", 4, 27), ("type", 5, 19)]);
    assert_eq!(errors[0].help, "did you mean \"minLength\"?");
    assert!(errors[1].message.contains("not in this version"), "{}", errors[1].message);
    assert!(errors[2].message.contains("\"strin\""), "{}", errors[2].message);
}

#[test]
fn schemas_that_cannot_be_understood_are_refused() {
    for (schema, keyword) in [
        (r#"{"type": []}"#, "type"),
        (r#"{"minLength": -1}"#, "minLength"),
        (r#"{"minLength": 1.5}"#, "minLength"),
        (r#"{"multipleOf": 0}"#, "multipleOf"),
        (r#"{"pattern": "(?=a)"}"#, "pattern"),
        (r#"{"patternProperties": {"(a)\\1": true}}"#, "patternProperties"),
        (r#"{"allOf": []}"#, "allOf"),
        (r#"{"enum": 1}"#, "enum"),
        (r#"{"required": ["a", "a"]}"#, "required"),
        (r#"{"required": "a"}"#, "required"),
        (r##"{"$ref": "#/$defs/no"}"##, "$ref"),
        (r##"{"$ref": "https://example.com/other.json"}"##, "$ref"),
        (r##"{"$ref": "#"}"##, "$ref"),
        (r##"{"allOf": [{"anyOf": [{"$ref": "#"}]}]}"##, "$ref"),
        (r#"{"$schema": "http://json-schema.org/draft-04/schema#"}"#, "$schema"),
        (r#"{"items": [true]}"#, "items"),
        (r#"{"additionalItems": false}"#, "additionalItems"),
        (r#"{"$schema": "http://json-schema.org/draft-07/schema#", "prefixItems": [true]}"#, "prefixItems"),
        (r#"{"type": "object", "type": "object"}"#, ""),
        (r#"{"type": "object",}"#, ""),
        (r#"[]"#, ""),
        (r#"{"properties": {"a": 1}}"#, ""),
    ] {
        assert_eq!(errors(schema)[0].keyword, keyword, "{schema}");
    }
}

#[test]
fn formats_are_remarks_with_a_note() {
    let compiled =
        Program::compile(r#"{"format": "email", "default": 1}"#, Options::default()).expect("it compiles");
    assert_eq!(compiled.notes.len(), 1);
    assert_eq!((compiled.notes[0].keyword.as_str(), compiled.notes[0].column), ("format", 2));
    assert!(compiled.program.check(b"\"no\"", &JsonLimits::default(), &mut Scratch::new()).is_ok());
}

/// Schema and body together could ask for more than either: the steps are counted.
#[test]
fn blow_ups_end_at_the_bound() {
    let limits = JsonLimits { steps_max: 100_000, ..JsonLimits::default() };
    // Each level tries both branches, each branch both below: 2^60 without a bound.
    let program = program(
        r##"{"$ref": "#/$defs/x", "$defs": {"x": {"anyOf": [
            {"items": {"$ref": "#/$defs/x"}, "maxItems": 1, "minItems": 1}, {"items": {"$ref": "#/$defs/x"}, "minItems": 1}]}}}"##,
    );
    let deep = "[".repeat(60) + "[]" + &"]".repeat(60);
    let violation = program.check(deep.as_bytes(), &limits, &mut Scratch::new()).expect_err("too costly");
    assert_eq!(violation.reason, BODY_SCHEMA_COST);
    // Valid and large is not costly.
    let wide = format!("[{}[1]]", "[1],".repeat(30_000));
    let list = crate::json_schema::program(
        r#"{"items": {"items": {"type": "integer"}, "uniqueItems": true}, "uniqueItems": false}"#,
    );
    let result = list.check(wide.as_bytes(), &JsonLimits::default(), &mut Scratch::new());
    assert!(result.is_ok(), "{result:?}");
}

/// Levels of the body times schemas of one value: the stack of a data thread (2 MiB, as here) must hold the worst.
#[test]
fn deep_bodies_with_long_chains_of_schemas_do_not_overflow_the_stack() {
    for chain in [1, 31, 2100] {
        for keyword in ["allOf", "anyOf", "oneOf"] {
            let links: Vec<String> = (0..chain)
                .map(|index| {
                    format!(r##""c{index}": {{"{keyword}": [{{"$ref": "#/$defs/c{}"}}]}}"##, index + 1)
                })
                .collect();
            let program = program(&format!(
                r##"{{"$ref": "#/$defs/c0", "$defs": {{{}, "c{chain}": {{"items": {{"$ref": "#/$defs/c0"}}, "properties": {{"a": {{"$ref": "#/$defs/c0"}}}}}}}}}}"##,
                links.join(",")
            ));
            for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
                for (depth, bound) in [(64, 64), (512, 512)] {
                    let limits = JsonLimits { depth_max: bound, ..JsonLimits::default() };
                    let body = open.repeat(depth) + "0" + &close.repeat(depth);
                    let mut scratch = Scratch::new();
                    let results = [
                        program.check(body.as_bytes(), &limits, &mut scratch),
                        program.check_on_tape(body.as_bytes(), &limits, &mut scratch),
                        program.check_exactly(body.as_bytes(), &limits, &mut scratch),
                    ];
                    for result in results {
                        let reason = result.err().map(|violation| violation.reason);
                        assert!(
                            reason.is_none() || reason == Some(BODY_SCHEMA_COST),
                            "{chain} {depth}: {reason:?}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn one_scratch_serves_many_programs_and_giant_bodies() {
    let mut scratch = Scratch::new();
    let programs: Vec<_> = (0..300)
        .map(|index| program(&format!(r#"{{"properties": {{"p{index}": {{"pattern": "^(a+|b)*{index}$"}}}}, "required": ["p{index}"]}}"#)))
        .collect();
    for _ in 0..2 {
        for (index, program) in programs.iter().enumerate() {
            let body =
                format!("{{\"p{index}\": \"aab{index}\", \"filler\": \"{}\"}}", "x".repeat(index * 2000));
            assert!(program.check(body.as_bytes(), &JsonLimits::default(), &mut scratch).is_ok());
            assert!(program.check(b"{}", &JsonLimits::default(), &mut scratch).is_err());
        }
    }
}

#[test]
fn objects_of_more_than_64_names_work() {
    let names: Vec<String> = (0..200).map(|index| format!("n{index}")).collect();
    let properties: Vec<String> =
        names.iter().map(|name| format!("\"{name}\": {{\"type\": \"integer\"}}")).collect();
    let required: Vec<String> = names.iter().skip(50).map(|name| format!("\"{name}\"")).collect();
    let program = program(&format!(
        "{{\"properties\": {{{}}}, \"required\": [{}], \"additionalProperties\": false}}",
        properties.join(","),
        required.join(",")
    ));
    let mut scratch = Scratch::new();
    let mut check = |range: std::ops::Range<usize>, last: &str| {
        let members: Vec<String> = range.map(|index| format!("\"n{index}\": {index}")).collect();
        let body = format!("{{{}{last}}}", members.join(","));
        program
            .check(body.as_bytes(), &JsonLimits::default(), &mut scratch)
            .map_err(|violation| violation.reason)
    };
    assert_eq!(check(0..200, ""), Ok(()));
    assert_eq!(check(50..200, ""), Ok(()));
    assert_eq!(check(51..200, ""), Err(BODY_SCHEMA));
    assert_eq!(check(0..200, ", \"other\": 1"), Err(BODY_SCHEMA));
    assert_eq!(check(0..200, ", \"n70\": 70"), Err(BODY_DUPLICATE_KEY));
}

/// Random schemas over the whole vocabulary, random bodies: the oracle's verdict, and both runs agree.
#[test]
fn random_schemas_agree_with_the_oracle() {
    let cases = std::env::var("RINGWALL_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(3000);
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut judged = (0, 0);
    for case in 0..cases {
        let bytes: Vec<u8> = (0..600)
            .map(|_| {
                seed ^= seed << 13;
                seed ^= seed >> 7;
                seed ^= seed << 17;
                (seed >> 24) as u8
            })
            .collect();
        let mut generator = Generator::new(&bytes);
        let (schema, bodies) = generator.case();
        match crate::json_schema_generator::differ(&schema, &bodies) {
            Ok((valid, all)) => judged = (judged.0 + valid, judged.1 + all),
            Err(problem) => panic!("case {case}: {problem}"),
        }
    }
    println!("oracle: {} bodies, {} of them valid", judged.1, judged.0);
    assert!(judged.1 > cases && judged.0 * 20 > judged.1, "the generator makes too few cases: {judged:?}");
}
