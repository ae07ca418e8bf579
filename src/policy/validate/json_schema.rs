//! `body: {schema}`: the body is what its schema says.
//!
//! # What it does
//! Holds the body, up to the operation's `sizes.body`, and judges it as JSON: one text, valid Unicode, bounded depth, no name
//! twice in one object, and what the schema asks for. The upstream sees the very bytes that were judged, or none.
//!
//! # Configuration
//! `body: { schema: order.schema.json }`, the path relative to the configuration; JSON Schema draft 7 or 2020-12 (the
//! default). `mode: observe` counts and lets pass.
//!
//! # Answers
//! 415 `body_content_type` unless the body is declared as JSON without an encoding; 400 for what is not JSON, 413 for what is too
//! long, 422 `body_schema` with the places for what is JSON but not what was asked for.
//!
//! # Cost
//! One copy, one parse, about one step per value; no allocation for a body that passes.
//!
//! # References
//! RFC 8259, RFC 7493; JSON Schema 2020-12; OWASP API8.

use std::sync::Arc;

use crate::config::error::{Code, ConfigError};
use crate::config::model::Body;
use crate::http::Reason;
use crate::http::field::Known;
use crate::json::{self, JsonLimits};
use crate::pipeline::exchange::Exchange;
use crate::policy::{Policy, Verdict};
use crate::schema::{Options, Program};
use crate::worker::state::CoreState;

/// The body is not declared to be JSON, or is encoded.
pub const BODY_CONTENT_TYPE: Reason =
    Reason::client("body_content_type", 3340, 415, "The body must be application/json without an encoding");
/// The schema's file cannot be read.
pub const SCHEMA_FILE: Code = Code::new(1701);
/// The schema cannot be compiled.
pub const SCHEMA: Code = Code::new(1702);
/// Bytes of a schema's file.
const SCHEMA_BYTES_MAX: u64 = 4 << 20;

/// A compiled schema.
#[derive(Clone, Debug)]
pub struct JsonSchema {
    program: Arc<Program>,
    limits: JsonLimits,
}

impl JsonSchema {
    /// Reads and compiles what an operation's `body` names.
    ///
    /// # Errors
    /// The file, or everything that is wrong with the schema: keyword, line and column.
    pub fn compile(body: &Body, bytes_max: u64, depth_max: u64) -> Result<JsonSchema, Vec<ConfigError>> {
        use std::io::Read;
        let path = &body.schema.value.0;
        let mut text = String::new();
        let read = std::fs::File::open(path)
            .and_then(|file| file.take(SCHEMA_BYTES_MAX + 1).read_to_string(&mut text));
        let unreadable = match read {
            Err(error) => Some(error.to_string()),
            Ok(count) if count as u64 > SCHEMA_BYTES_MAX => Some("it is larger than 4 MiB".to_owned()),
            Ok(_) => None,
        };
        if let Some(why) = unreadable {
            let title = format!("the schema {} cannot be read: {why}", path.display());
            return Err(vec![ConfigError::new(SCHEMA_FILE, title, body.schema.span)]);
        }
        let compiled = Program::compile(&text, Options::default()).map_err(|errors| {
            errors
                .iter()
                .map(|error| {
                    let place = format!("{}:{}:{}", path.display(), error.line, error.column);
                    let what = match error.keyword.is_empty() {
                        true => error.message.clone(),
                        false => format!("`{}`: {}", error.keyword, error.message),
                    };
                    let mut told = ConfigError::new(SCHEMA, format!("{place}: {what}"), body.schema.span);
                    if !error.help.is_empty() {
                        told = told.fix(error.help.clone());
                    }
                    told
                })
                .collect::<Vec<_>>()
        })?;
        let limits = JsonLimits {
            bytes_max: usize::try_from(bytes_max).unwrap_or(usize::MAX),
            depth_max: u32::try_from(depth_max).unwrap_or(u32::MAX),
            ..JsonLimits::default()
        };
        Ok(JsonSchema { program: Arc::new(compiled.program), limits })
    }
}

impl Policy for JsonSchema {
    const NAME: &'static str = "body";

    fn apply(&self, x: &mut Exchange, core: &mut CoreState) -> Verdict {
        let declared = x.field(Known::ContentType).is_some_and(is_json);
        let encoded =
            x.field(Known::ContentEncoding).is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity"));
        if !declared || encoded {
            return Verdict::Refuse(&BODY_CONTENT_TYPE);
        }
        match self.program.check(&x.body, &self.limits, &mut core.validate) {
            Ok(()) => Verdict::Continue,
            Err(violation) => {
                if x.enforcing() {
                    x.violations
                        .extend(violation.errors.into_iter().map(|error| (error.pointer, error.keyword)));
                }
                Verdict::Refuse(reason_of(violation.reason))
            }
        }
    }
}

/// The declared constant of a reason that was handed over by value.
fn reason_of(reason: Reason) -> &'static Reason {
    const DECLARED: [&Reason; 7] = [
        &json::BODY_JSON,
        &json::BODY_DUPLICATE_KEY,
        &json::BODY_DEPTH,
        &json::BODY_UTF8,
        &json::BODY_JSON_SIZE,
        &crate::schema::BODY_SCHEMA,
        &crate::schema::BODY_SCHEMA_COST,
    ];
    DECLARED.into_iter().find(|declared| declared.code == reason.code).unwrap_or(&crate::schema::BODY_SCHEMA)
}

/// `application/json` or a type with the suffix `+json`, whatever its parameters (RFC 6839 §3.1).
fn is_json(value: &[u8]) -> bool {
    let essence = value.split(|&byte| byte == b';').next().unwrap_or_default().trim_ascii();
    if essence.eq_ignore_ascii_case(b"application/json") {
        return true;
    }
    let suffix = essence.len().checked_sub(5).map(|start| &essence[start..]);
    essence.contains(&b'/') && suffix.is_some_and(|suffix| suffix.eq_ignore_ascii_case(b"+json"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_what_is_declared_as_json() {
        for json in ["application/json", "Application/JSON; charset=utf-8", "application/problem+json"] {
            assert!(is_json(json.as_bytes()), "{json}");
        }
        for other in ["", "text/plain", "application/x-www-form-urlencoded", "+json", "application/jsonx"] {
            assert!(!is_json(other.as_bytes()), "{other}");
        }
    }
}
