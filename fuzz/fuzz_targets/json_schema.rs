//! JSON Schema against the `jsonschema` crate: same verdict. The bytes are choices of a generator; they are also
//! tried as they are, as a schema, a zero byte and a body.
#![no_main]

#[path = "../../tests/it/json_schema_generator.rs"]
mod json_schema_generator;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    ringwall::fuzzing::json_schema(data);
    let (schema, bodies) = json_schema_generator::Generator::new(data).case();
    if let Err(problem) = json_schema_generator::differ(&schema, &bodies) {
        panic!("{problem}");
    }
});
