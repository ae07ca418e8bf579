//! YAML as JSON values: scenario files are read with the parser that the tree has already, then by serde.
//!
//! For: the small, trusted files of this harness. Not for: a gateway's configuration, which needs spans. Called by
//! `suite`.

use saphyr_parser::{Event, Parser, ScalarStyle};
use serde_json::{Map, Number, Value};

/// Reads one document. Anchors and tags are refused: no scenario needs them.
///
/// # Errors
/// What is wrong and on which line.
pub fn value(text: &str) -> Result<Value, String> {
    let mut open: Vec<Open> = Vec::new();
    let mut root = None;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|error| error.to_string())?;
        let line = span.start.line();
        let done = match event {
            Event::Scalar(text, style, 0, None) => scalar(&text, style),
            Event::SequenceStart(0, None) => {
                open.push(Open::List(Vec::new()));
                continue;
            }
            Event::MappingStart(0, None) => {
                open.push(Open::Map(Map::new(), None));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => match open.pop() {
                Some(Open::List(list)) => Value::Array(list),
                Some(Open::Map(map, None)) => Value::Object(map),
                _ => return Err(format!("line {line}: a collection ends that was not open")),
            },
            Event::Alias(_) | Event::Scalar(..) | Event::SequenceStart(..) | Event::MappingStart(..) => {
                return Err(format!("line {line}: anchors, aliases and tags are not supported"));
            }
            _ => continue,
        };
        match open.last_mut() {
            None => root = Some(done),
            Some(Open::List(list)) => list.push(done),
            Some(Open::Map(map, key)) => match (key.take(), done) {
                (None, Value::String(name)) => *key = Some(name),
                (None, other) => *key = Some(other.to_string()),
                (Some(name), value) => {
                    if map.insert(name.clone(), value).is_some() {
                        return Err(format!("line {line}: `{name}` is written twice"));
                    }
                }
            },
        }
    }
    root.ok_or_else(|| "the file is empty".to_owned())
}

enum Open {
    List(Vec<Value>),
    Map(Map<String, Value>, Option<String>),
}

fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::String(text.to_owned());
    }
    match text {
        "" | "~" | "null" => Value::Null,
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        _ => text
            .parse::<i64>()
            .map(Value::from)
            .ok()
            .or_else(|| text.parse::<f64>().ok().and_then(Number::from_f64).map(Value::Number))
            .unwrap_or_else(|| Value::String(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn blocks_flows_and_scalars_become_json() {
        let read =
            value("a: 1\nb: [x, 1.5, true, null, '7']\nc: { d: e }\nf:\n  - g: h\n    i: ~\n").unwrap();
        assert_eq!(
            read,
            json!({"a": 1, "b": ["x", 1.5, true, null, "7"], "c": {"d": "e"}, "f": [{"g": "h", "i": null}]})
        );
    }

    #[test]
    fn duplicates_anchors_and_nothing_are_refused() {
        assert!(value("a: 1\na: 2\n").unwrap_err().contains("twice"));
        assert!(value("a: &x 1\n").is_err());
        assert!(value("").is_err());
        assert!(value("a: [").is_err());
    }
}
