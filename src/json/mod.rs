//! JSON as it must be before anything else looks at it: well-formed, bounded, unambiguous.
//!
//! What it is for: reading a body once per request and refusing, before any verdict of a schema, what two
//! parsers could read in two ways: malformed text, text that is not UTF-8, lone surrogates, duplicate names,
//! more depth or bytes than allowed (RFC 8259, RFC 7493). The bytes that are forwarded are the bytes received:
//! nothing here changes them, the fast parser works on a padded copy.
//!
//! What it is not for: making values for programs (no serde, no tree of owned strings), repairing, formatting.
//!
//! Who calls it: [`crate::schema`], and policies that harden bodies without a schema ([`check_only`]).
//!
//! Two readers stand side by side. [`scratch`] drives simd-json and yields its tape: the hot path. [`reader`] is
//! strict, exact (numbers stay text) and knows the place of every value: it reads schemas, it names the reason
//! of a refusal, and it settles what the tape cannot hold (numbers beyond 64 bits).

mod number;
mod reader;
mod scratch;

pub use number::Decimal;
pub use reader::{Kind, NodeId, ReadError, ReadFault, Tree};
pub(crate) use reader::{position, push_token};
pub use scratch::{Node, Parsed, Scratch, StaticNode, after, hashes_are_unique};

use crate::http::Reason;

/// The text is not JSON (RFC 8259), begins with a byte order mark, or is empty.
pub const BODY_JSON: Reason = Reason::client("body_json", 3300, 400, "The body is not well-formed JSON");
/// An object names one member twice (names are compared after unescaping; RFC 7493 §2.3).
pub const BODY_DUPLICATE_KEY: Reason =
    Reason::client("body_duplicate_key", 3301, 400, "The body names one member of an object twice");
/// Objects and arrays are nested deeper than [`JsonLimits::depth_max`].
pub const BODY_DEPTH: Reason = Reason::client("body_depth", 3302, 400, "The body is nested too deeply");
/// The text is not UTF-8, or a string holds half of a surrogate pair (RFC 7493 §2.1).
pub const BODY_UTF8: Reason = Reason::client("body_utf8", 3303, 400, "The body is not valid Unicode text");
/// The text is longer than [`JsonLimits::bytes_max`].
pub const BODY_JSON_SIZE: Reason =
    Reason::client("body_json_size", 3304, 413, "The body is longer than this operation reads as JSON");

/// What a body may cost. Every field is a bound that a peer would otherwise choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonLimits {
    /// The most bytes of one text. Default 1 MiB, never above 4 GiB − 1 (positions are 32-bit).
    pub bytes_max: usize,
    /// The most objects and arrays inside one another. Default 64, clamped to 1..=512.
    pub depth_max: u32,
    /// The most steps that judging one body may take, a step being about one value visited or sixteen bytes of
    /// text matched. Default 4,000,000 (some tens of milliseconds in the worst case); a 1 KiB order takes about 100.
    pub steps_max: u64,
}

impl JsonLimits {
    /// Above this the recursion over a document would need more stack than a data thread has.
    pub const DEPTH_MAX: u32 = 512;

    /// The depth that is really applied.
    pub fn depth(&self) -> u32 {
        self.depth_max.clamp(1, Self::DEPTH_MAX)
    }
}

impl Default for JsonLimits {
    fn default() -> JsonLimits {
        JsonLimits { bytes_max: 1 << 20, depth_max: 64, steps_max: 4_000_000 }
    }
}

/// One place in a body where something is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// A JSON Pointer (RFC 6901) into the body; cut at [`Finding::POINTER_BYTES_MAX`] bytes.
    pub pointer: String,
    /// The keyword of the schema that is not met, or the token of the reason.
    pub keyword: &'static str,
}

impl Finding {
    /// A pointer is built from names that the peer chose: more than this is cut, with `…` at the end.
    pub const POINTER_BYTES_MAX: usize = 256;
}

/// Why a body is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The reason of the answer.
    pub reason: Reason,
    /// The byte at which reading stopped, where that is known.
    pub offset: Option<usize>,
    /// The places, in document order, at most [`Violation::FINDINGS_MAX`]; empty where only the reason is known.
    pub errors: Vec<Finding>,
}

impl Violation {
    /// More findings than this are counted by nobody: the first ones are enough to mend a body.
    pub const FINDINGS_MAX: usize = 16;

    /// A violation that has a reason and nothing else.
    pub fn of(reason: Reason) -> Violation {
        Violation { reason, offset: None, errors: Vec::new() }
    }
}

impl From<ReadError> for Violation {
    fn from(error: ReadError) -> Violation {
        let reason = match error.fault {
            ReadFault::Syntax | ReadFault::ByteOrderMark => BODY_JSON,
            ReadFault::Utf8 | ReadFault::Surrogate => BODY_UTF8,
            ReadFault::Depth => BODY_DEPTH,
            ReadFault::DuplicateKey => BODY_DUPLICATE_KEY,
            ReadFault::Size => BODY_JSON_SIZE,
        };
        let errors = match error.pointer {
            Some(pointer) => vec![Finding { pointer, keyword: reason.token }],
            None => Vec::new(),
        };
        Violation { reason, offset: Some(error.offset), errors }
    }
}

/// Checks that `body` is one well-formed, bounded, unambiguous JSON text, without any schema.
///
/// Cost: one copy, one parse, one look at each name. No allocation once `scratch` is warm.
///
/// # Errors
/// The reason, and for a duplicate name its pointer.
pub fn check_only(body: &[u8], limits: &JsonLimits, scratch: &mut Scratch) -> Result<(), Violation> {
    if body.len() > limits.bytes_max {
        return Err(Violation::of(BODY_JSON_SIZE));
    }
    let verdict = scratch.parse(body, limits, |parsed| parsed.names_are_unique(0));
    match verdict {
        Some(true) => Ok(()),
        // Malformed, ambiguous, or a legal number that the tape cannot hold: the exact reader knows which.
        Some(false) | None => scratch.read(body, limits).map(|_| ()).map_err(Violation::from),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(body: &[u8]) -> Option<Reason> {
        reason_within(body, &JsonLimits::default())
    }

    fn reason_within(body: &[u8], limits: &JsonLimits) -> Option<Reason> {
        check_only(body, limits, &mut Scratch::new()).err().map(|violation| violation.reason)
    }

    #[test]
    fn legal_texts_pass() {
        for text in [
            "null",
            " true ",
            "0",
            "-0",
            "1e400",
            "-1E-400",
            "123456789012345678901234567890",
            "\"\"",
            "[]",
            "{}",
            "{\"a\":{\"a\":1},\"b\":[{\"a\":1},{\"a\":2}]}",
            "\"\\ud83d\\ude00\"",
            "[1,2.5,\"\\u0000\"]",
        ] {
            assert_eq!(reason(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn each_fault_has_its_reason() {
        for (text, want) in [
            (&b""[..], BODY_JSON),
            (b" ", BODY_JSON),
            (b"{", BODY_JSON),
            (b"[1,]", BODY_JSON),
            (b"1 2", BODY_JSON),
            (b"01", BODY_JSON),
            (b"\xef\xbb\xbf{}", BODY_JSON),
            (b"\"\xff\"", BODY_UTF8),
            (b"\"\\ud800\"", BODY_UTF8),
            (b"\"\\udc00\\ud800\"", BODY_UTF8),
            (b"{\"a\":1,\"a\":2}", BODY_DUPLICATE_KEY),
            (b"{\"a\":1,\"\\u0061\":2}", BODY_DUPLICATE_KEY),
            (b"[[{\"x\":{\"\":1,\"\":1}}]]", BODY_DUPLICATE_KEY),
        ] {
            assert_eq!(reason(text), Some(want), "{}", String::from_utf8_lossy(text));
        }
    }

    #[test]
    fn depth_is_refused_one_past_the_bound() {
        for depth in [1_u32, 2, 63, 64, 65] {
            let limits = JsonLimits { depth_max: 64, ..JsonLimits::default() };
            let text = "[".repeat(depth as usize) + &"]".repeat(depth as usize);
            assert_eq!(
                reason_within(text.as_bytes(), &limits),
                (depth > 64).then_some(BODY_DEPTH),
                "{depth}"
            );
            let text = "{\"a\":".repeat(depth as usize) + "1" + &"}".repeat(depth as usize);
            assert_eq!(
                reason_within(text.as_bytes(), &limits),
                (depth > 64).then_some(BODY_DEPTH),
                "{depth}"
            );
        }
        let bomb = vec![b'['; 1 << 20];
        assert_eq!(reason(&bomb), Some(BODY_DEPTH));
        // Brackets within strings nest nothing.
        let quoted = format!("\"{}\"", "[".repeat(1000));
        assert_eq!(reason(quoted.as_bytes()), None);
    }

    #[test]
    fn size_is_refused_one_past_the_bound() {
        let limits = JsonLimits { bytes_max: 10, ..JsonLimits::default() };
        assert_eq!(reason_within(b"[1,2,3,45]", &limits), None);
        assert_eq!(reason_within(b"[1,2,3,456]", &limits), Some(BODY_JSON_SIZE));
    }

    #[test]
    fn many_names_are_compared_without_squaring() {
        let mut text = String::from("{");
        for index in 0..50_000 {
            text.push_str(&format!("\"n{index}\":1,"));
        }
        let unique = format!("{text}\"z\":1}}");
        assert_eq!(reason(unique.as_bytes()), None);
        let twice = format!("{text}\"n7\":1}}");
        let violation =
            check_only(twice.as_bytes(), &JsonLimits::default(), &mut Scratch::new()).unwrap_err();
        assert_eq!(violation.reason, BODY_DUPLICATE_KEY);
        assert_eq!(violation.errors[0].pointer, "/n7");
    }
}
