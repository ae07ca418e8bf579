//! What a call comes to: the statuses of gRPC, which of them a refusal is, and how it is written.
//!
//! For: whoever answers a call in the place of its upstream, before or after the head of a response has gone; and gRPC-Web,
//! where a status has to be made of what another server answered. Not for: the upstream's own status, which is passed on.
//!
//! A refusal before anything has been sent is a Trailers-Only answer (PROTOCOL-HTTP2, "Responses"): HTTP status 200, the
//! content type of the call's style, and these lines, without a body. In gRPC-Web it has the same form (PROTOCOL-WEB,
//! "Message framing": trailers may be sent together with response headers). [`push_refusal`] appends the lines.

use super::details;
use super::message::{
    GRPC_RESPONSE_COMPRESSED, GRPC_RESPONSE_FLAG, GRPC_RESPONSE_SIZE, GRPC_RESPONSE_TRUNCATED,
};
use crate::h2::ErrorCode;
use crate::http::Reason;

/// The upstream ended a call without a status.
pub const GRPC_STATUS_MISSING: Reason =
    Reason::upstream("grpc_status_missing", 4264, 502, "The upstream ended the call without a status");

/// The upstream answered a call in something else than gRPC.
pub const GRPC_RESPONSE_TYPE: Reason =
    Reason::upstream("grpc_response_type", 4265, 502, "The upstream did not answer in gRPC");

/// The fields' names.
pub const STATUS_NAME: &str = "grpc-status";
/// See [`STATUS_NAME`].
pub const MESSAGE_NAME: &str = "grpc-message";

/// Longest `grpc-message` of ours before it is encoded; what is behind is cut off.
pub const MESSAGE_BYTES_MAX: usize = 1 << 10;

macro_rules! statuses {
    ($($variant:ident = $name:literal,)*) => {
        /// A status of gRPC (statuscodes), by number.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "each variant is the status it spells")]
        pub enum Status { $($variant,)* }

        impl Status {
            /// Every status; each at the place of its number.
            pub const ALL: [Status; 17] = [$(Status::$variant,)*];

            /// Its name in upper case, as the protocol's documents and tools spell it.
            pub fn name(self) -> &'static str {
                match self { $(Status::$variant => $name,)* }
            }
        }
    };
}

statuses! {
    Ok = "OK",
    Cancelled = "CANCELLED",
    Unknown = "UNKNOWN",
    InvalidArgument = "INVALID_ARGUMENT",
    DeadlineExceeded = "DEADLINE_EXCEEDED",
    NotFound = "NOT_FOUND",
    AlreadyExists = "ALREADY_EXISTS",
    PermissionDenied = "PERMISSION_DENIED",
    ResourceExhausted = "RESOURCE_EXHAUSTED",
    FailedPrecondition = "FAILED_PRECONDITION",
    Aborted = "ABORTED",
    OutOfRange = "OUT_OF_RANGE",
    Unimplemented = "UNIMPLEMENTED",
    Internal = "INTERNAL",
    Unavailable = "UNAVAILABLE",
    DataLoss = "DATA_LOSS",
    Unauthenticated = "UNAUTHENTICATED",
}

/// The code of `upstream_connect_timeout`, the one timeout after which the upstream has seen nothing of the call.
const CONNECT_TIMEOUT: u16 = 4100;
/// The code of `response_size`.
const RESPONSE_SIZE: u16 = 3440;

impl Status {
    /// The number that is sent.
    pub fn number(self) -> u8 {
        self as u8
    }

    /// The status of a refusal or failure of ours. This is the table; it says to the caller's library what it would do about it.
    ///
    /// | reason | status | because |
    /// |---|---|---|
    /// | 400 of the message, TLS, HTTP/2 or gRPC's framing (RW-20xx to RW-24xx) | `INTERNAL` | the caller's library is at fault, not what it was given; what clients make of HTTP 400 |
    /// | 400 of credentials (RW-30xx), 401 | `UNAUTHENTICATED` | a new credential may help |
    /// | other 400, 406, 411, 415, 422 | `INVALID_ARGUMENT` | wrong whatever the state of the server |
    /// | 403 | `PERMISSION_DENIED` | known, and not allowed |
    /// | 404, 405, 417, 421, 426, 501, 505 | `UNIMPLEMENTED` | no such method here |
    /// | 408, 504 | `DEADLINE_EXCEEDED` | time was over; but `UNAVAILABLE` where no connection to the upstream came to be: the call never began |
    /// | 409 | `ABORTED` | try the whole again |
    /// | 410 | `NOT_FOUND` | |
    /// | redirects (`tls_required`), 412, 428 | `FAILED_PRECONDITION` | no use to send it again as it is |
    /// | 413, 414, 431 | `RESOURCE_EXHAUSTED` | what servers of gRPC say of messages and metadata that are too large |
    /// | 416 | `OUT_OF_RANGE` | |
    /// | 429 | `RESOURCE_EXHAUSTED` | a quota of the caller's. Clients make `UNAVAILABLE` of a bare HTTP 429, which is what they are mostly configured to retry at once, and so to press on a limit; this they leave alone, unless `grpc-retry-pushback-ms` says when |
    /// | 499 | `CANCELLED` | |
    /// | 502, 503 | `UNAVAILABLE` | may be retried; but `RESOURCE_EXHAUSTED` for a response or message that is too large, `INTERNAL` for broken messages, `UNKNOWN` for a missing status: another attempt ends alike |
    /// | 500 | `INTERNAL` | |
    pub fn of(reason: &Reason) -> Status {
        use Status::*;
        match (reason.status, reason.code) {
            (400, 2000..2500) => Internal,
            (400, 3000..3100) | (401, _) => Unauthenticated,
            (502, code) if code == GRPC_RESPONSE_SIZE.code || code == RESPONSE_SIZE => ResourceExhausted,
            (502, code)
                if [GRPC_RESPONSE_FLAG, GRPC_RESPONSE_COMPRESSED, GRPC_RESPONSE_TRUNCATED]
                    .iter()
                    .any(|reason| reason.code == code) =>
            {
                Internal
            }
            (502, code) if code == GRPC_STATUS_MISSING.code => Unknown,
            (504, CONNECT_TIMEOUT) => Unavailable,
            (400 | 406 | 411 | 415 | 422, _) => InvalidArgument,
            (403, _) => PermissionDenied,
            (404 | 405 | 417 | 421 | 426 | 501 | 505, _) => Unimplemented,
            (408 | 504, _) => DeadlineExceeded,
            (409, _) => Aborted,
            (410, _) => NotFound,
            (300..400 | 412 | 428, _) => FailedPrecondition,
            (413 | 414 | 429 | 431, _) => ResourceExhausted,
            (416, _) => OutOfRange,
            (499, _) => Cancelled,
            (502 | 503, _) => Unavailable,
            (500, _) => Internal,
            _ => Unknown,
        }
    }

    /// What a client makes of an answer that is not gRPC (http-grpc-status-mapping). For gRPC-Web, whose clients need a status.
    pub fn from_http(status: u16) -> Status {
        match status {
            400 => Status::Internal,
            401 => Status::Unauthenticated,
            403 => Status::PermissionDenied,
            404 => Status::Unimplemented,
            429 | 502 | 503 | 504 => Status::Unavailable,
            _ => Status::Unknown,
        }
    }

    /// What the reset of a stream by an upstream means (PROTOCOL-HTTP2, "Errors"). STREAM_CLOSED has no mapping there, and
    /// neither have codes of later versions: `UNKNOWN`.
    pub fn from_reset(code: ErrorCode) -> Status {
        match code {
            ErrorCode::REFUSED_STREAM => Status::Unavailable,
            ErrorCode::CANCEL => Status::Cancelled,
            ErrorCode::ENHANCE_YOUR_CALM => Status::ResourceExhausted,
            ErrorCode::INADEQUATE_SECURITY => Status::PermissionDenied,
            ErrorCode::NO_ERROR
            | ErrorCode::PROTOCOL_ERROR
            | ErrorCode::INTERNAL_ERROR
            | ErrorCode::FLOW_CONTROL_ERROR
            | ErrorCode::SETTINGS_TIMEOUT
            | ErrorCode::FRAME_SIZE_ERROR
            | ErrorCode::COMPRESSION_ERROR
            | ErrorCode::CONNECT_ERROR => Status::Internal,
            _ => Status::Unknown,
        }
    }

    /// The code with which a stream is reset that ends within a message, so that no trailers can follow: the one of which the
    /// other side makes this status, or `INTERNAL`.
    pub fn reset_code(self) -> ErrorCode {
        match self {
            // PROTOCOL-HTTP2, "Client Cancellation": also where the server finds that the deadline has passed.
            Status::Cancelled | Status::DeadlineExceeded => ErrorCode::CANCEL,
            Status::ResourceExhausted => ErrorCode::ENHANCE_YOUR_CALM,
            // Never REFUSED_STREAM: something was processed.
            _ => ErrorCode::INTERNAL_ERROR,
        }
    }

    /// Whether it says that the server is in trouble, not the call: what is 500, 503 or 504 elsewhere. `UNKNOWN` is what servers
    /// make of an application that breaks; what a server has not implemented is no trouble (501).
    pub fn is_server_error(self) -> bool {
        use Status::*;
        matches!(self, Unknown | DeadlineExceeded | Internal | Unavailable | DataLoss)
    }

    /// Reads the value of `grpc-status`. Whatever is none of the 17 is `UNKNOWN`, as statuscodes has it.
    pub fn parse(value: &[u8]) -> Status {
        let number = match value {
            [digit @ b'0'..=b'9'] => usize::from(digit - b'0'),
            [b'1', digit @ b'0'..=b'9'] => 10 + usize::from(digit - b'0'),
            _ => return Status::Unknown,
        };
        Status::ALL.get(number).copied().unwrap_or(Status::Unknown)
    }

    /// Appends `grpc-status` and, where there is one, `grpc-message`, as lines.
    pub fn push(self, message: &str, out: &mut Vec<u8>) {
        out.extend_from_slice(STATUS_NAME.as_bytes());
        out.extend_from_slice(b": ");
        out.extend_from_slice(itoa::Buffer::new().format(self.number()).as_bytes());
        out.extend_from_slice(b"\r\n");
        if !message.is_empty() {
            out.extend_from_slice(MESSAGE_NAME.as_bytes());
            out.extend_from_slice(b": ");
            push_encoded(&message[..message.floor_char_boundary(MESSAGE_BYTES_MAX)], out);
            out.extend_from_slice(b"\r\n");
        }
    }
}

/// What is known of a refusal beside its reason.
#[derive(Clone, Copy, Debug)]
pub struct Refusal<'a> {
    /// Why.
    pub reason: &'a Reason,
    /// What it comes to: that of the reason, unless more is known.
    pub status: Status,
    /// The request id, 36 bytes of text.
    pub request_id: &'a [u8],
    /// When another attempt makes sense, in milliseconds, where that is known: see [`retry_after_ms`].
    pub again_ms: Option<u64>,
    /// Where the body broke its contract: pointer and reason token.
    pub violations: &'a [(String, &'static str)],
}

/// Appends the lines of a refusal: status, message, request id, when to try again, and the same for programs
/// (`grpc-status-details-bin`, see [`details`]). They stand in a Trailers-Only answer, or in the trailers of a response that has
/// begun and is between two messages. `scratch` is emptied and holds the details on their way.
pub fn push_refusal(refusal: &Refusal<'_>, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    let Refusal { reason, status, request_id, again_ms, .. } = *refusal;
    scratch.clear();
    push_message(reason, scratch);
    status.push(std::str::from_utf8(scratch).unwrap_or_default(), out);
    out.extend_from_slice(b"x-request-id: ");
    out.extend_from_slice(request_id);
    out.extend_from_slice(b"\r\n");
    if let Some(again_ms) = again_ms {
        // gRFC A6, "Pushback": an int32 in ASCII, not negative.
        out.extend_from_slice(b"grpc-retry-pushback-ms: ");
        out.extend_from_slice(itoa::Buffer::new().format(again_ms.min(i32::MAX as u64)).as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    details::push(refusal, scratch, out);
}

/// `RW-3201 rate_exceeded: Too many requests`.
pub(super) fn push_message(reason: &Reason, out: &mut Vec<u8>) {
    push_code(reason, out);
    out.push(b' ');
    out.extend_from_slice(reason.token.as_bytes());
    out.extend_from_slice(b": ");
    out.extend_from_slice(reason.title.as_bytes());
}

pub(super) fn push_code(reason: &Reason, out: &mut Vec<u8>) {
    out.extend_from_slice(b"RW-");
    out.extend_from_slice(itoa::Buffer::new().format(reason.code).as_bytes());
}

/// What a `retry-after` among encoded lines says, in milliseconds: what a policy has found out for HTTP serves gRPC too.
pub fn retry_after_ms(lines: &[u8]) -> Option<u64> {
    let value = lines.split(|&byte| byte == b'\n').find_map(|line| {
        let (name, rest) = line.split_at_checked("retry-after:".len())?;
        name.eq_ignore_ascii_case(b"retry-after:").then(|| rest.trim_ascii())
    })?;
    let seconds: u64 = std::str::from_utf8(value).ok()?.parse().ok()?;
    Some(seconds.saturating_mul(1_000))
}

/// Appends a message percent-encoded (PROTOCOL-HTTP2, "Responses", Percent-Encoded: all but printable ASCII and `%`). A space
/// at either end is encoded too, though it need not be: HTTP/2 refuses such values (RFC 9113 §8.2.1).
pub fn push_encoded(message: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    let message = message.as_bytes();
    let last = message.len().saturating_sub(1);
    let mut plain_from = 0;
    for (index, &byte) in message.iter().enumerate() {
        let plain = match byte {
            b' ' => index != 0 && index != last,
            b'%' => false,
            _ => matches!(byte, b'!'..=b'~'),
        };
        if !plain {
            out.extend_from_slice(&message[plain_from..index]);
            out.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
            plain_from = index + 1;
        }
    }
    out.extend_from_slice(&message[plain_from..]);
}

/// Appends what a `grpc-message` says. PROTOCOL-HTTP2 forbids to fail or to throw the message away: a broken escape stays as it
/// is. What comes out need not be UTF-8.
pub fn push_decoded(value: &[u8], out: &mut Vec<u8>) {
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let mut rest = value;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if let (b'%', &[high, low, ..]) = (byte, after)
            && let (Some(high), Some(low)) = (digit(high), digit(low))
        {
            out.push(high << 4 | low);
            rest = &after[2..];
        } else {
            out.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grpc::message::{GRPC_MESSAGE_FLAG, GRPC_MESSAGE_SIZE, GRPC_MESSAGE_TRUNCATED};
    use crate::grpc::timeout::{GRPC_DEADLINE, GRPC_TIMEOUT_SYNTAX};

    #[test]
    fn numbers_are_those_of_the_protocol() {
        // grpc.StatusCode of grpcio 1.85.1: number and name.
        for (number, name) in [
            (0, "OK"),
            (1, "CANCELLED"),
            (2, "UNKNOWN"),
            (3, "INVALID_ARGUMENT"),
            (4, "DEADLINE_EXCEEDED"),
            (5, "NOT_FOUND"),
            (6, "ALREADY_EXISTS"),
            (7, "PERMISSION_DENIED"),
            (8, "RESOURCE_EXHAUSTED"),
            (9, "FAILED_PRECONDITION"),
            (10, "ABORTED"),
            (11, "OUT_OF_RANGE"),
            (12, "UNIMPLEMENTED"),
            (13, "INTERNAL"),
            (14, "UNAVAILABLE"),
            (15, "DATA_LOSS"),
            (16, "UNAUTHENTICATED"),
        ] {
            let status = Status::ALL[number];
            assert_eq!((usize::from(status.number()), status.name()), (number, name));
            assert_eq!(Status::parse(number.to_string().as_bytes()), status);
            // Those that Envoy takes for 500, 503 and 504 (`Grpc::Utility::grpcToHttpStatus`).
            assert_eq!(status.is_server_error(), [2, 4, 13, 14, 15].contains(&number), "{name}");
        }
        for value in ["", "17", "99", "-1", "+1", "01", "00", "1 ", "100", "x", "1x"] {
            assert_eq!(Status::parse(value.as_bytes()), Status::Unknown, "{value}");
        }
    }

    #[test]
    fn refusals_have_the_status_of_their_cause() {
        use Status::*;
        const fn client(code: u16, status: u16) -> Reason {
            Reason::client("x", code, status, "X")
        }
        for (reason, expected) in [
            (client(2000, 400), Internal),
            (client(2300, 400), Internal),
            (GRPC_MESSAGE_FLAG, Internal),
            (GRPC_MESSAGE_TRUNCATED, Internal),
            (GRPC_TIMEOUT_SYNTAX, Internal),
            (GRPC_MESSAGE_SIZE, ResourceExhausted),
            (GRPC_DEADLINE, DeadlineExceeded),
            (client(2120, 421), Unimplemented),
            (client(2121, 404), Unimplemented),
            (client(2122, 405), Unimplemented),
            (client(2123, 308), FailedPrecondition),
            (client(2200, 499), Cancelled),
            (client(2202, 408), DeadlineExceeded),
            (client(3000, 401), Unauthenticated),
            (client(3001, 400), Unauthenticated),
            (client(3107, 403), PermissionDenied),
            (client(3201, 429), ResourceExhausted),
            (client(3300, 400), InvalidArgument),
            (client(3310, 422), InvalidArgument),
            (client(3370, 415), InvalidArgument),
            (client(2060, 413), ResourceExhausted),
            (client(2007, 431), ResourceExhausted),
            (client(3500, 409), Aborted),
            (crate::h1::body::RESPONSE_SIZE, ResourceExhausted),
            (GRPC_RESPONSE_SIZE, ResourceExhausted),
            (GRPC_RESPONSE_FLAG, Internal),
            (GRPC_STATUS_MISSING, Unknown),
            (Reason::upstream("x", 4000, 502, "X"), Unavailable),
            (Reason::upstream("x", 4100, 504, "X"), Unavailable),
            (Reason::upstream("x", 4101, 504, "X"), DeadlineExceeded),
            (Reason::upstream("x", 4300, 503, "X"), Unavailable),
            (Reason::ringwall("x", 5001, 503, "X"), Unavailable),
            (Reason::ringwall("x", 5000, 500, "X"), Internal),
        ] {
            assert_eq!(Status::of(&reason), expected, "{} {}", reason.code, reason.status);
        }
        assert_eq!(RESPONSE_SIZE, crate::h1::body::RESPONSE_SIZE.code);
    }

    #[test]
    fn other_answers_and_resets_become_what_clients_make_of_them() {
        // http-grpc-status-mapping.
        for (http, expected) in [
            (400, Status::Internal),
            (401, Status::Unauthenticated),
            (403, Status::PermissionDenied),
            (404, Status::Unimplemented),
            (429, Status::Unavailable),
            (502, Status::Unavailable),
            (503, Status::Unavailable),
            (504, Status::Unavailable),
            (200, Status::Unknown),
            (301, Status::Unknown),
            (500, Status::Unknown),
            (599, Status::Unknown),
        ] {
            assert_eq!(Status::from_http(http), expected, "{http}");
        }
        // PROTOCOL-HTTP2 "Errors", in the order of RFC 9113 §7.
        let of_codes = (0..=14).map(|code| Status::from_reset(ErrorCode(code)).number());
        assert!(of_codes.eq([13, 13, 13, 13, 13, 2, 13, 14, 1, 13, 13, 8, 7, 2, 2]));
        for status in [Status::Cancelled, Status::ResourceExhausted, Status::Internal] {
            assert_eq!(Status::from_reset(status.reset_code()), status);
        }
        assert_eq!(Status::DeadlineExceeded.reset_code(), ErrorCode::CANCEL);
    }

    fn encoded(message: &str) -> String {
        let mut out = Vec::new();
        push_encoded(message, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    fn decoded(value: &str) -> String {
        let mut out = Vec::new();
        push_decoded(value.as_bytes(), &mut out);
        String::from_utf8_lossy(&out).into_owned()
    }

    #[test]
    fn messages_are_percent_encoded() {
        // PROTOCOL-HTTP2 "Responses", Percent-Encoded: what a server of grpcio 1.85.1 sends, but for the spaces at the ends,
        // which it leaves as they are.
        for (message, value) in [
            ("", ""),
            ("Too many requests", "Too many requests"),
            ("100%", "100%25"),
            ("a\r\nb\0", "a%0D%0Ab%00"),
            ("my favorite character is \u{1f600}", "my favorite character is %F0%9F%98%80"),
            ("ä~\u{7f}", "%C3%A4~%7F"),
            (" a b ", "%20a b%20"),
            (" ", "%20"),
            ("!#$&'()*+,-./:;<=>?@[\\]^_`{|}\"", "!#$&'()*+,-./:;<=>?@[\\]^_`{|}\""),
        ] {
            assert_eq!(encoded(message), value);
            assert_eq!(decoded(value), message);
        }
    }

    #[test]
    fn broken_escapes_stay_as_they_are() {
        for (value, message) in [
            ("%", "%"),
            ("%2", "%2"),
            ("%zz", "%zz"),
            ("%%41", "%A"),
            ("%4g%41", "%4gA"),
            ("%c3%a4", "ä"),
            ("%ff", "\u{fffd}"),
            ("%+1", "%+1"),
        ] {
            assert_eq!(decoded(value), message, "{value}");
        }
    }

    #[test]
    fn a_refusal_is_lines_that_http_takes() {
        let reason = Reason::client("rate_exceeded", 3201, 429, "Too many requests");
        let id = b"019a0000-0000-7000-8000-000000000001";
        let status = Status::of(&reason);
        let refusal =
            Refusal { reason: &reason, status, request_id: id, again_ms: Some(1500), violations: &[] };
        let (mut scratch, mut out) = (b"left over".to_vec(), b"before: 1\r\n".to_vec());
        push_refusal(&refusal, &mut scratch, &mut out);
        let text = String::from_utf8(out).expect("ASCII");
        let (lines, details) = text.split_once("grpc-status-details-bin: ").expect("details");
        assert_eq!(
            lines,
            "before: 1\r\n\
             grpc-status: 8\r\n\
             grpc-message: RW-3201 rate_exceeded: Too many requests\r\n\
             x-request-id: 019a0000-0000-7000-8000-000000000001\r\n\
             grpc-retry-pushback-ms: 1500\r\n"
        );
        assert!(details.ends_with("\r\n") && !details.contains('='));
        out = Vec::new();
        push_refusal(&Refusal { again_ms: Some(u64::MAX), ..refusal }, &mut scratch, &mut out);
        assert!(String::from_utf8_lossy(&out).contains("pushback-ms: 2147483647\r\n"));
        out.clear();
        push_refusal(&Refusal { again_ms: None, ..refusal }, &mut scratch, &mut out);
        assert!(!String::from_utf8_lossy(&out).contains("pushback"));
    }

    #[test]
    fn long_messages_are_cut_between_characters() {
        let mut out = Vec::new();
        Status::Internal.push(&"ä".repeat(MESSAGE_BYTES_MAX), &mut out);
        assert_eq!(out.len(), "grpc-status: 13\r\ngrpc-message: \r\n".len() + 3 * MESSAGE_BYTES_MAX);
        out.clear();
        Status::Ok.push("", &mut out);
        assert_eq!(out, b"grpc-status: 0\r\n");
    }

    #[test]
    fn what_http_is_told_about_another_attempt_is_known() {
        for (lines, expected) in [
            ("", None),
            ("retry-after: 7\r\n", Some(7_000)),
            ("www-authenticate: Bearer\r\nRetry-After: 1\r\nallow: GET\r\n", Some(1_000)),
            ("x-retry-after: 7\r\n", None),
            ("retry-after: Fri, 31 Dec 1999 23:59:59 GMT\r\n", None),
            ("retry-after: -1\r\n", None),
            ("retry-after: 18446744073709551615\r\n", Some(u64::MAX)),
        ] {
            assert_eq!(retry_after_ms(lines.as_bytes()), expected, "{lines}");
        }
    }
}
