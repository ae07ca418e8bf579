//! `body: {schema}`: the body is what its schema says.
//!
//! # What it does
//! Holds the body, up to the operation's `sizes.body`, and judges it as JSON: one text, valid Unicode, bounded depth, no name
//! twice in one object, and what the schema asks for. GET, HEAD, DELETE and OPTIONS without a body pass. The upstream sees the very bytes that were judged, or none.
//!
//! # Configuration
//! `body: { schema: order.schema.json }`, the path relative to the configuration; JSON Schema draft 7 or 2020-12 (the
//! default). `mode: observe` counts and lets pass; it holds no more than 1 MiB, and counts a longer body as `unknown`.
//!
//! # Answers
//! 415 `body_content_type` unless the body is declared as JSON without an encoding, and those of [`super::content_type`] where
//! its type is declared twice, malformed, or with another charset than UTF-8; 400 for what is not JSON, 413 for what is too
//! long, 422 `body_schema` with the places for what is JSON but not what was asked for.
//!
//! # Cost
//! One copy, one parse, about one step per value; no allocation for a body that passes.
//!
//! # References
//! RFC 8259, RFC 7493; JSON Schema 2020-12; OWASP API8.

use std::sync::Arc;

use crate::config::bind::Spanned;
use crate::config::error::{Code, ConfigError};
use crate::config::unit::FilePath;
use crate::http::field::Known;
use crate::http::{Method, Reason};
use crate::json::{self, JsonLimits};
use crate::pipeline::exchange::Exchange;
use crate::policy::validate::content_type::{CONTENT_TYPE_CHARSET, CONTENT_TYPE_MISSING, declared};
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
    /// Reads and compiles the file that an operation's `body` names.
    ///
    /// # Errors
    /// The file, or everything that is wrong with the schema: keyword, line and column.
    pub fn compile(
        schema: &Spanned<FilePath>,
        bytes_max: u64,
        depth_max: u64,
    ) -> Result<JsonSchema, Vec<ConfigError>> {
        use std::io::Read;
        let path = &schema.value.0;
        let mut text = String::new();
        let read = crate::sys::file::open_regular(path)
            .and_then(|file| file.take(SCHEMA_BYTES_MAX + 1).read_to_string(&mut text));
        let unreadable = match read {
            Err(error) => Some(error.to_string()),
            Ok(count) if count as u64 > SCHEMA_BYTES_MAX => Some("it is larger than 4 MiB".to_owned()),
            Ok(_) => None,
        };
        if let Some(why) = unreadable {
            let title = format!("the schema {} cannot be read: {why}", path.display());
            return Err(vec![ConfigError::new(SCHEMA_FILE, title, schema.span)]);
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
                    let mut told = ConfigError::new(SCHEMA, format!("{place}: {what}"), schema.span);
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

    /// Whether `text` is JSON, and what the schema asks for.
    pub fn is_met(&self, text: &[u8], scratch: &mut super::PerCore) -> bool {
        self.program.check(text, &self.limits, scratch).is_ok()
    }
}

impl Policy for JsonSchema {
    const NAME: &'static str = "body";

    fn apply(&self, x: &mut Exchange, core: &mut CoreState) -> Verdict {
        // RFC 9110 §9.3: a method whose content has no meaning comes without any; whatever it does bring is judged.
        let brings_none = matches!(x.method(), Method::Get | Method::Head | Method::Delete | Method::Options);
        if brings_none && x.request.table.framing.is_empty() {
            return Verdict::Continue;
        }
        if let Err(reason) = is_plain_json(x) {
            return Verdict::Refuse(reason);
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

/// Whether the upstream will read the very text that is judged here: JSON in UTF-8 (RFC 8259 §8.1), not encoded.
fn is_plain_json(x: &Exchange) -> Result<(), &'static Reason> {
    let declared = match declared(x) {
        Err(missing) if *missing == CONTENT_TYPE_MISSING => return Err(&BODY_CONTENT_TYPE),
        declared => declared?,
    };
    let mut codings = x.fields().find_all(Known::ContentEncoding);
    let encoded = codings.any(|(_, field)| {
        let coding = field.value().of(x.head_bytes());
        !coding.eq_ignore_ascii_case(b"identity")
    });
    if encoded || !declared.is_json() {
        return Err(&BODY_CONTENT_TYPE);
    }
    match declared.charset.is_none_or(|charset| charset.eq_ignore_ascii_case(b"utf-8")) {
        true => Ok(()),
        false => Err(&CONTENT_TYPE_CHARSET),
    }
}
