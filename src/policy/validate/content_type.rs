//! `body: {types, charsets}`: what a body may say that it is.
//!
//! # What it does
//! Lets a body pass only where its one `Content-Type` is well-formed, is one of the listed types, and names no charset but the
//! listed ones; a multipart type must have a boundary that every reader finds alike. Judged on the head, before the body is
//! read. A request without a body is not asked for a type.
//!
//! # Configuration
//! `body: { types: [application/json, multipart/form-data], charsets: [utf-8] }`. Types are whole: no wildcard, and none that
//! makes readers guess. `charsets` is `utf-8` by default; a type without `charset` passes. `mode: observe` counts and lets
//! pass.
//!
//! # Answers
//! 415 `content_type_missing`, `content_type_duplicate`, `content_type_syntax`, `content_type_boundary`,
//! `content_type_unlisted` (with `Accept`: what is listed), `content_type_charset`.
//!
//! # Cost
//! One pass over the value, one comparison per listed type; no allocation.
//!
//! # References
//! RFC 9110 §8.3, §12.5.1, §15.5.16; RFC 2046 §5.1.1; WHATWG MIME Sniffing; OWASP API8.

use crate::config::model::Body;
use crate::http::Reason;
use crate::http::field::Known;
use crate::http::media_type::{CONTENT_TYPE_DUPLICATE, Flaw, MediaType};
use crate::pipeline::exchange::Exchange;
use crate::policy::{Policy, Verdict};
use crate::worker::state::CoreState;

/// A body that does not say what it is.
pub const CONTENT_TYPE_MISSING: Reason =
    Reason::client("content_type_missing", 3370, 415, "Content-Type is missing");
/// Not a media type as written.
pub const CONTENT_TYPE_SYNTAX: Reason =
    Reason::client("content_type_syntax", 3372, 415, "Content-Type is malformed");
/// A type that the operation does not take.
pub const CONTENT_TYPE_UNLISTED: Reason =
    Reason::client("content_type_unlisted", 3373, 415, "This media type is not accepted");
/// A charset that the operation does not take.
pub const CONTENT_TYPE_CHARSET: Reason =
    Reason::client("content_type_charset", 3374, 415, "This charset is not accepted");
/// A multipart type without a boundary that all readers find alike, or a boundary of another type.
pub const CONTENT_TYPE_BOUNDARY: Reason =
    Reason::client("content_type_boundary", 3375, 415, "The boundary in Content-Type is malformed");

/// What bodies may say that they are.
#[derive(Clone, Debug)]
pub struct ContentType {
    types: Vec<Box<[u8]>>,
    charsets: Vec<Box<[u8]>>,
    /// The value of `Accept` in a 415.
    accept: Box<[u8]>,
}

impl ContentType {
    /// From what an operation's `body` lists; `None` if it lists no types.
    pub fn compile(body: &Body) -> Option<ContentType> {
        let lower = |text: &str| text.to_ascii_lowercase().into_bytes().into_boxed_slice();
        let types: Vec<Box<[u8]>> = body.types.iter().map(|one| lower(one.as_str())).collect();
        (!types.is_empty()).then(|| ContentType {
            charsets: body.charsets_in_force().map(lower).collect(),
            accept: types.join(&b", "[..]).into_boxed_slice(),
            types,
        })
    }
}

impl Policy for ContentType {
    const NAME: &'static str = "content_type";

    fn apply(&self, x: &mut Exchange, _core: &mut CoreState) -> Verdict {
        if x.request.table.framing.is_empty() {
            return Verdict::Continue;
        }
        let declared = match declared(x) {
            Ok(declared) => declared,
            Err(reason) => return Verdict::Refuse(reason),
        };
        if !self.types.iter().any(|listed| declared.is(listed)) {
            if x.enforcing() {
                // RFC 9110 §15.5.16: how the client learns what would be taken.
                x.insert_answer(b"accept", &self.accept);
            }
            return Verdict::Refuse(&CONTENT_TYPE_UNLISTED);
        }
        let charset = declared.charset;
        match charset.is_none_or(|charset| self.charsets.iter().any(|one| charset.eq_ignore_ascii_case(one)))
        {
            true => Verdict::Continue,
            false => Verdict::Refuse(&CONTENT_TYPE_CHARSET),
        }
    }
}

/// The one media type that the request says its body has.
///
/// # Errors
/// There is none, more than one, or one that readers may read differently.
pub fn declared(x: &Exchange) -> Result<MediaType<'_>, &'static Reason> {
    let value = x.field(Known::ContentType).ok_or(&CONTENT_TYPE_MISSING)?;
    if x.fields().is_repeated(Known::ContentType) {
        return Err(&CONTENT_TYPE_DUPLICATE);
    }
    MediaType::parse(value).map_err(|flaw| match flaw {
        Flaw::Syntax => &CONTENT_TYPE_SYNTAX,
        Flaw::Boundary => &CONTENT_TYPE_BOUNDARY,
    })
}
