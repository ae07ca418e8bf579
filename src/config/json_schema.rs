//! The JSON Schema (2020-12) of the configuration, for editors: made from the tables that the binder reads by.
//!
//! It says what keys there are, what they mean and what their values look like. What must hold between the parts only
//! `ringwall check` knows; a file that satisfies the schema may still be refused.

use serde_json::{Map, Value, json};

use super::bind::NAME_CHARACTERS_MAX;
use super::model::TOP;
use super::shape::{Key, Presence, Shape, Table};

/// The schema.
pub fn json_schema() -> Value {
    let mut definitions = Map::new();
    let top = table(&TOP, &mut definitions);
    let mut schema = json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:ringwall:config:1",
        "title": "Ringwall configuration",
    });
    if let (Value::Object(schema), Value::Object(top)) = (&mut schema, top) {
        schema.extend(top);
        schema.insert("$defs".into(), Value::Object(definitions));
    }
    schema
}

fn table(table: &'static Table, definitions: &mut Map<String, Value>) -> Value {
    let mut properties = Map::new();
    let mut required = Vec::new();
    for key in table.present() {
        properties.insert(key.name.into(), property(key, definitions));
        if key.presence == Presence::Required {
            required.push(json!(key.name));
        }
    }
    let mut object = json!({
        "type": "object",
        "description": table.place,
        "properties": properties,
        "additionalProperties": false,
    });
    if !required.is_empty() {
        object["required"] = Value::Array(required);
    }
    object
}

fn property(key: &Key, definitions: &mut Map<String, Value>) -> Value {
    let mut text = key.doc.to_owned();
    if let Some((least, greatest)) = key.bounds
        && least != greatest
    {
        text.push_str(&format!("; {least} to {greatest}"));
    }
    if !key.default.is_empty() {
        text.push_str(&format!("; default: {}", key.default));
    }
    let mut schema = shape(key.shape, definitions);
    if let (Shape::Int, Some((least, greatest))) = (key.shape, key.bounds) {
        schema["minimum"] = json!(least.parse::<u64>().unwrap_or(0));
        schema["maximum"] = json!(greatest.parse::<u64>().unwrap_or(u64::MAX));
    }
    // Beside `$ref` and `anyOf` a description is an annotation of its own (2020-12 §7.7.1.1).
    schema["description"] = json!(text);
    schema
}

fn shape(shape_of: Shape, definitions: &mut Map<String, Value>) -> Value {
    match shape_of {
        Shape::Any => json!({}),
        Shape::Bool => json!({ "type": "boolean" }),
        Shape::Int => json!({ "type": "integer", "minimum": 0 }),
        Shape::Text(what) => json!({ "type": ["string", "number"], "title": what }),
        Shape::Pattern(pattern, example) => {
            json!({ "type": "string", "pattern": pattern, "examples": [example] })
        }
        Shape::Word(words) => json!({ "enum": words }),
        Shape::Map(map) => {
            let name = definition_name(map);
            if !definitions.contains_key(&name) {
                // First the name, so that a table that contains itself would end.
                definitions.insert(name.clone(), Value::Null);
                let value = table(map, definitions);
                definitions.insert(name.clone(), value);
            }
            json!({ "$ref": format!("#/$defs/{name}") })
        }
        Shape::Named(one) => json!({
            "type": "object",
            "additionalProperties": shape(*one, definitions),
            "propertyNames": { "maxLength": NAME_CHARACTERS_MAX.max(128) },
        }),
        Shape::OneOrMany(one) => {
            let one = shape(*one, definitions);
            json!({ "anyOf": [one, { "type": "array", "minItems": 1, "items": one }] })
        }
        Shape::Scoped(inner) => {
            let inner = shape(*inner, definitions);
            let only = |key: &str| {
                json!({
                    "type": "object",
                    "properties": { key: inner },
                    "required": [key],
                    "additionalProperties": false,
                })
            };
            json!({ "anyOf": [inner, only("extend"), only("replace")] })
        }
        Shape::Either(shapes) => {
            let all: Vec<Value> = shapes.iter().map(|one| shape(*one, definitions)).collect();
            json!({ "anyOf": all })
        }
    }
}

/// `listen[].tls` → `listen_item_tls`
fn definition_name(table: &Table) -> String {
    let mut name = String::new();
    for part in table
        .place
        .replace("[]", ".item")
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|part| !part.is_empty())
    {
        if !name.is_empty() {
            name.push('_');
        }
        name.push_str(part);
    }
    name
}

#[cfg(test)]
mod tests {
    use super::super::model::TABLES;
    use super::*;

    #[test]
    fn every_key_that_the_binder_knows_is_in_the_schema() {
        let schema = json_schema();
        for table in TABLES {
            let object = match table.place {
                "the top of the file" => &schema,
                _ => &schema["$defs"][definition_name(table)],
            };
            assert!(object.is_object(), "{} is not in the schema", table.place);
            let properties = object["properties"].as_object().unwrap();
            let keys: Vec<_> = table.present().map(|key| key.name).collect();
            for key in &keys {
                assert!(properties.contains_key(*key), "{}: {key}", table.place);
            }
            assert_eq!(properties.len(), keys.len(), "{}", table.place);
        }
        let definitions = schema["$defs"].as_object().unwrap();
        assert_eq!(definitions.len() + 1, TABLES.len(), "each table has a place of its own");
    }

    #[test]
    fn every_key_says_what_it_is_for() {
        for key in TABLES.iter().flat_map(|table| table.keys) {
            assert!(!key.doc.is_empty(), "{}", key.name);
        }
    }
}
