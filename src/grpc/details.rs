//! The details of a status, for programs: `grpc-status-details-bin`, a `google.rpc.Status` in base64.
//!
//! For: [`super::status`]. So a caller finds the reason token, the code and the request id of a refusal where its library looks
//! for them, and not by reading the message: `ErrorInfo` (the token in upper case, as its documentation wants it; domain
//! `ringwall`; the code), `RequestInfo`, `RetryInfo` where another attempt makes sense at a known time, `BadRequest` where a
//! body broke its schema (google.rpc, `status.proto` and `error_details.proto`).

use base64_simd::STANDARD_NO_PAD;

use super::status::{self, Refusal};
use super::wire::{push_bytes, push_message, push_number};

/// The field's name.
pub const NAME: &str = "grpc-status-details-bin";

/// The longest details before they are encoded: violations that would make them longer are left out. Clients take 8 KiB of
/// metadata where nothing else is said (PROTOCOL-HTTP2, "Responses").
pub const DETAILS_BYTES_MAX: usize = 3 << 10;
/// What a violation takes beside its pointer and token, at most.
const VIOLATION_BYTES: usize = 32;

/// The domain of our reasons.
const DOMAIN: &[u8] = b"ringwall";

/// Appends the line; `scratch` is emptied, and used.
pub(super) fn push(refusal: &Refusal<'_>, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    let Refusal { reason, status, request_id, again_ms, violations } = *refusal;
    scratch.clear();
    push_number(1, u64::from(status.number()), scratch);
    push_message(2, scratch, |out| status::push_message(reason, out));
    push_any("type.googleapis.com/google.rpc.ErrorInfo", scratch, |out| {
        push_message(1, out, |out| out.extend(reason.token.bytes().map(|byte| byte.to_ascii_uppercase())));
        push_bytes(2, DOMAIN, out);
        push_message(3, out, |out| {
            push_bytes(1, b"code", out);
            push_message(2, out, |out| status::push_code(reason, out));
        });
    });
    push_any("type.googleapis.com/google.rpc.RequestInfo", scratch, |out| push_bytes(1, request_id, out));
    if let Some(again_ms) = again_ms {
        // A Duration has at most 10,000 years.
        let again_ms = again_ms.min(i32::MAX as u64);
        push_any("type.googleapis.com/google.rpc.RetryInfo", scratch, |out| {
            push_message(1, out, |out| {
                push_number(1, again_ms / 1_000, out);
                push_number(2, again_ms % 1_000 * 1_000_000, out);
            });
        });
    }
    if !violations.is_empty() {
        let mut room = DETAILS_BYTES_MAX.saturating_sub(scratch.len() + 2 * VIOLATION_BYTES);
        push_any("type.googleapis.com/google.rpc.BadRequest", scratch, |out| {
            for (pointer, token) in violations {
                let bytes = pointer.len() + token.len() + VIOLATION_BYTES;
                let Some(left) = room.checked_sub(bytes) else { break };
                room = left;
                push_message(1, out, |out| {
                    push_bytes(1, pointer.as_bytes(), out);
                    push_bytes(2, token.as_bytes(), out);
                });
            }
        });
    }
    out.extend_from_slice(NAME.as_bytes());
    out.extend_from_slice(b": ");
    // PROTOCOL-HTTP2, "Requests", Custom-Metadata: implementations should emit un-padded values.
    STANDARD_NO_PAD.encode_append(scratch, out);
    out.extend_from_slice(b"\r\n");
}

/// Appends a detail: a `google.protobuf.Any`.
fn push_any(url: &str, out: &mut Vec<u8>, write: impl FnOnce(&mut Vec<u8>)) {
    push_message(3, out, |out| {
        push_bytes(1, url.as_bytes(), out);
        push_message(2, out, write);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::Status;
    use crate::http::Reason;

    const REASON: Reason = Reason::client("rate_exceeded", 3201, 429, "Too many requests");

    fn pushed(again_ms: Option<u64>, violations: &[(String, &'static str)]) -> Vec<u8> {
        let request_id = b"019a0000-0000-7000-8000-000000000001";
        let status = Status::of(&REASON);
        let refusal = Refusal { reason: &REASON, status, request_id, again_ms, violations };
        let mut out = Vec::new();
        push(&refusal, &mut vec![1, 2, 3], &mut out);
        let value =
            out.strip_prefix(b"grpc-status-details-bin: ").and_then(|line| line.strip_suffix(b"\r\n"));
        STANDARD_NO_PAD.decode_to_vec(value.expect("a line")).expect("base64")
    }

    #[test]
    fn details_are_those_of_googles_own_classes() {
        // status_pb2.Status with the four messages of error_details_pb2 packed into it, by googleapis-common-protos 1.76.0:
        // SerializeToString(deterministic=True), text for text.
        let expected: &[&[u8]] = &[
            b"\x08\x08\x12\x28RW-3201 rate_exceeded: Too many requests",
            b"\x1a\x56\x0a\x28type.googleapis.com/google.rpc.ErrorInfo\x12\x2a\x0a\x0dRATE_EXCEEDED",
            b"\x12\x08ringwall\x1a\x0f\x0a\x04code\x12\x07RW-3201",
            b"\x1a\x54\x0a\x2atype.googleapis.com/google.rpc.RequestInfo",
            b"\x12\x26\x0a\x24019a0000-0000-7000-8000-000000000001",
            b"\x1a\x36\x0a\x28type.googleapis.com/google.rpc.RetryInfo\x12\x0a\x0a\x08\x08\x01\x10\x80\xca\xb5\xee\x01",
            b"\x1a\x42\x0a\x29type.googleapis.com/google.rpc.BadRequest\x12\x15\x0a\x13\x0a\x08/items/0\x12\x07minimum",
        ];
        let violations = [("/items/0".to_owned(), "minimum")];
        assert_eq!(pushed(Some(1_500), &violations), expected.concat());
        assert_eq!(pushed(None, &[]), expected[..5].concat());
    }

    #[test]
    fn details_are_bounded_whatever_the_body_held() {
        let violations: Vec<_> = (0..1_000).map(|index| (format!("/{index:0>90}"), "maximum")).collect();
        let some = pushed(Some(u64::MAX), &violations);
        assert!((DETAILS_BYTES_MAX / 2..=DETAILS_BYTES_MAX).contains(&some.len()), "{}", some.len());
        let one = [("/".repeat(100_000), "maximum")];
        assert!(pushed(Some(0), &one).len() <= DETAILS_BYTES_MAX);
    }
}
