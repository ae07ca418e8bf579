//! What can be wrong with both requests and responses, and the reason it becomes for either side.
//!
//! For: the parser, the framing rules and the body decoder, which are the same code for both directions. A flaw in a
//! request is the client's fault (400 and its kin), the same flaw in a response is the upstream's (502).

use crate::http::Reason;

/// Who sent the message that is being read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// A request: the client sent it.
    Client,
    /// A response: the upstream sent it.
    Upstream,
}

/// A fault of a message, whoever sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's reasons below are documented")]
pub enum Flaw {
    LineEnding,
    HeadSize,
    FieldCount,
    NameSyntax,
    NameSize,
    NameSpace,
    Folded,
    ValueControl,
    ValueObsText,
    Twin,
    Ambiguous,
    Duplicate,
    FramingConflict,
    LengthDuplicate,
    LengthSyntax,
    CodingDuplicate,
    CodingSyntax,
    CodingUnknown,
    CodingVersion,
    BodyUnexpected,
    BodyTruncated,
    ChunkSize,
    ChunkOverflow,
    ChunkExtension,
    ChunkExtensionSize,
    ChunkEnding,
    TrailerSize,
    TrailerForbidden,
    ConnectionSyntax,
    ConnectionNominated,
    UpgradeSyntax,
}

impl Flaw {
    /// The reason it becomes when `side` sent the message.
    #[cold]
    pub fn of(self, side: Side) -> Reason {
        let (client, upstream) = match self {
            Flaw::LineEnding => (LINE_ENDING, RESPONSE_LINE_ENDING),
            Flaw::HeadSize => (HEAD_SIZE, RESPONSE_HEAD_SIZE),
            Flaw::FieldCount => (FIELD_COUNT, RESPONSE_FIELD_COUNT),
            Flaw::NameSyntax => (FIELD_NAME_SYNTAX, RESPONSE_FIELD_NAME),
            Flaw::NameSize => (FIELD_NAME_SIZE, RESPONSE_FIELD_NAME),
            Flaw::NameSpace => (FIELD_NAME_SPACE, RESPONSE_FIELD_SPACE),
            Flaw::Folded => (FIELD_FOLDED, RESPONSE_FIELD_FOLDED),
            Flaw::ValueControl => (FIELD_VALUE_CONTROL, RESPONSE_FIELD_VALUE),
            Flaw::ValueObsText => (FIELD_VALUE_OBS_TEXT, RESPONSE_FIELD_VALUE),
            Flaw::Twin => (FIELD_TWIN, RESPONSE_FIELD_TWIN),
            Flaw::Ambiguous => (FIELD_AMBIGUOUS, RESPONSE_FIELD_TWIN),
            Flaw::Duplicate => (FIELD_DUPLICATE, RESPONSE_FIELD_DUPLICATE),
            Flaw::FramingConflict => (FRAMING_CONFLICT, RESPONSE_FRAMING_CONFLICT),
            Flaw::LengthDuplicate => (CONTENT_LENGTH_DUPLICATE, RESPONSE_LENGTH_DUPLICATE),
            Flaw::LengthSyntax => (CONTENT_LENGTH_SYNTAX, RESPONSE_LENGTH_SYNTAX),
            Flaw::CodingDuplicate => (TRANSFER_ENCODING_DUPLICATE, RESPONSE_CODING_SYNTAX),
            Flaw::CodingSyntax => (TRANSFER_ENCODING_SYNTAX, RESPONSE_CODING_SYNTAX),
            Flaw::CodingUnknown => (TRANSFER_CODING_UNKNOWN, RESPONSE_CODING_UNKNOWN),
            Flaw::CodingVersion => (TRANSFER_ENCODING_VERSION, RESPONSE_CODING_VERSION),
            Flaw::BodyUnexpected => (BODY_UNEXPECTED, RESPONSE_BODY_FORBIDDEN),
            Flaw::BodyTruncated => (BODY_TRUNCATED, RESPONSE_BODY_TRUNCATED),
            Flaw::ChunkSize => (CHUNK_SIZE_SYNTAX, RESPONSE_CHUNK_SIZE),
            Flaw::ChunkOverflow => (CHUNK_SIZE_OVERFLOW, RESPONSE_CHUNK_SIZE),
            Flaw::ChunkExtension => (CHUNK_EXTENSION_SYNTAX, RESPONSE_CHUNK_EXTENSION),
            Flaw::ChunkExtensionSize => (CHUNK_EXTENSION_SIZE, RESPONSE_CHUNK_EXTENSION),
            Flaw::ChunkEnding => (CHUNK_ENDING, RESPONSE_CHUNK_ENDING),
            Flaw::TrailerSize => (TRAILER_SIZE, RESPONSE_TRAILER_SIZE),
            Flaw::TrailerForbidden => (TRAILER_FORBIDDEN, RESPONSE_TRAILER_FORBIDDEN),
            Flaw::ConnectionSyntax => (CONNECTION_SYNTAX, RESPONSE_CONNECTION),
            Flaw::ConnectionNominated => (CONNECTION_NOMINATED, RESPONSE_CONNECTION),
            Flaw::UpgradeSyntax => (UPGRADE_SYNTAX, RESPONSE_CONNECTION),
        };
        match side {
            Side::Client => client,
            Side::Upstream => upstream,
        }
    }
}

/// A bare CR or a bare LF (RFC 9112 §2.2; we take none of the leniency offered there).
pub const LINE_ENDING: Reason = Reason::client("line_ending", 2004, 400, "A line does not end with CR LF");
/// The head is longer than `sizes.head`.
pub const HEAD_SIZE: Reason = Reason::client("head_size", 2007, 431, "The head is too large");
/// More fields than `sizes.fields`.
pub const FIELD_COUNT: Reason = Reason::client("field_count", 2008, 431, "There are too many fields");
/// A field line without colon, or a name that is no token.
pub const FIELD_NAME_SYNTAX: Reason =
    Reason::client("field_name_syntax", 2009, 400, "A field name is malformed");
/// A field name of more than 255 bytes.
pub const FIELD_NAME_SIZE: Reason = Reason::client("field_name_size", 2010, 431, "A field name is too long");
/// White space in a name or before its colon (RFC 9112 §5.1).
pub const FIELD_NAME_SPACE: Reason =
    Reason::client("field_name_space", 2011, 400, "White space in a field name");
/// A line that continues the one before (obs-fold, RFC 9112 §5.2).
pub const FIELD_FOLDED: Reason = Reason::client("field_folded", 2012, 400, "A field is folded over lines");
/// NUL or another control in a value (RFC 9110 §5.5).
pub const FIELD_VALUE_CONTROL: Reason =
    Reason::client("field_value_control", 2013, 400, "A control in a field value");
/// A byte above 0x7F in a value where the operator does not let that in.
pub const FIELD_VALUE_OBS_TEXT: Reason =
    Reason::client("field_value_obs_text", 2014, 400, "A field value is not ASCII");
/// `Content_Length` and its like: not the field, but taken for it behind CGI or WSGI.
pub const FIELD_TWIN: Reason = Reason::client("field_twin", 2015, 400, "A field name imitates another");
/// Two fields whose names become one where `-` and `_` are the same.
pub const FIELD_AMBIGUOUS: Reason =
    Reason::client("field_ambiguous", 2016, 400, "Two field names are too much alike");
/// A field that may stand only once.
pub const FIELD_DUPLICATE: Reason =
    Reason::client("field_duplicate", 2017, 400, "A field was sent more than once");
/// Content-Length beside Transfer-Encoding (RFC 9112 §6.1).
pub const FRAMING_CONFLICT: Reason =
    Reason::client("framing_conflict", 2020, 400, "Both Content-Length and Transfer-Encoding");
/// More than one Content-Length, alike or not.
pub const CONTENT_LENGTH_DUPLICATE: Reason =
    Reason::client("content_length_duplicate", 2021, 400, "Content-Length was sent more than once");
/// Not a plain decimal number up to 2^63 − 1.
pub const CONTENT_LENGTH_SYNTAX: Reason =
    Reason::client("content_length_syntax", 2022, 400, "Content-Length is malformed");
/// More than one Transfer-Encoding field, or `chunked` twice.
pub const TRANSFER_ENCODING_DUPLICATE: Reason =
    Reason::client("transfer_encoding_duplicate", 2023, 400, "Transfer-Encoding was sent more than once");
/// Transfer-Encoding that is no list of codings, or where `chunked` is not last.
pub const TRANSFER_ENCODING_SYNTAX: Reason =
    Reason::client("transfer_encoding_syntax", 2024, 400, "Transfer-Encoding is malformed");
/// A transfer coding other than `chunked` (RFC 9112 §6.1: 501).
pub const TRANSFER_CODING_UNKNOWN: Reason =
    Reason::client("transfer_coding_unknown", 2025, 501, "The transfer coding is not supported");
/// Transfer-Encoding in HTTP/1.0 (RFC 9112 §6.1: the framing is faulty).
pub const TRANSFER_ENCODING_VERSION: Reason =
    Reason::client("transfer_encoding_version", 2026, 400, "Transfer-Encoding in HTTP/1.0");
/// A body on a method that has none.
pub const BODY_UNEXPECTED: Reason = Reason::client("body_unexpected", 2028, 400, "This method takes no body");
/// The client closed before the end of its body.
pub const BODY_TRUNCATED: Reason = Reason::client("body_truncated", 2029, 400, "The body ended early");
/// A chunk size that is no hexadecimal number followed by CR LF or an extension.
pub const CHUNK_SIZE_SYNTAX: Reason =
    Reason::client("chunk_size_syntax", 2030, 400, "A chunk size is malformed");
/// A chunk size beyond 2^63 − 1, or of more than 16 digits.
pub const CHUNK_SIZE_OVERFLOW: Reason =
    Reason::client("chunk_size_overflow", 2031, 400, "A chunk size is too large");
/// A chunk extension outside the grammar of RFC 9112 §7.1.1.
pub const CHUNK_EXTENSION_SYNTAX: Reason =
    Reason::client("chunk_extension_syntax", 2032, 400, "A chunk extension is malformed");
/// Chunk extensions beyond their bound.
pub const CHUNK_EXTENSION_SIZE: Reason =
    Reason::client("chunk_extension_size", 2033, 400, "Chunk extensions are too long");
/// Chunk data that is not followed by CR LF.
pub const CHUNK_ENDING: Reason = Reason::client("chunk_ending", 2034, 400, "A chunk does not end with CR LF");
/// Trailers longer than 8 KiB or with too many fields.
pub const TRAILER_SIZE: Reason = Reason::client("trailer_size", 2040, 431, "The trailers are too large");
/// A trailer that could change framing, routing, identity or meaning (RFC 9110 §6.5.1).
pub const TRAILER_FORBIDDEN: Reason =
    Reason::client("trailer_forbidden", 2041, 400, "A field is forbidden in trailers");
/// Connection is no list of tokens, or too long a list.
pub const CONNECTION_SYNTAX: Reason =
    Reason::client("connection_syntax", 2050, 400, "Connection is malformed");
/// Connection names a field that is not the connection's (RFC 9110 §7.6.1).
pub const CONNECTION_NOMINATED: Reason =
    Reason::client("connection_nominated", 2051, 400, "Connection names an end-to-end field");
/// Upgrade is no list of protocols.
pub const UPGRADE_SYNTAX: Reason = Reason::client("upgrade_syntax", 2053, 400, "Upgrade is malformed");

/// A bare CR or LF from an upstream.
pub const RESPONSE_LINE_ENDING: Reason =
    Reason::upstream("response_line_ending", 4203, 502, "The upstream's response is malformed");
/// The response head is longer than the bound.
pub const RESPONSE_HEAD_SIZE: Reason =
    Reason::upstream("response_head_size", 4204, 502, "The upstream's response head is too large");
/// The response has too many fields.
pub const RESPONSE_FIELD_COUNT: Reason =
    Reason::upstream("response_field_count", 4205, 502, "The upstream's response has too many fields");
/// A malformed or overlong field name from an upstream.
pub const RESPONSE_FIELD_NAME: Reason =
    Reason::upstream("response_field_name", 4206, 502, "The upstream's response is malformed");
/// White space in a field name from an upstream.
pub const RESPONSE_FIELD_SPACE: Reason =
    Reason::upstream("response_field_space", 4207, 502, "The upstream's response is malformed");
/// obs-fold from an upstream.
pub const RESPONSE_FIELD_FOLDED: Reason =
    Reason::upstream("response_field_folded", 4208, 502, "The upstream's response is malformed");
/// A control in a value from an upstream.
pub const RESPONSE_FIELD_VALUE: Reason =
    Reason::upstream("response_field_value", 4209, 502, "The upstream's response is malformed");
/// A twin of a framing field, or two fields too much alike, from an upstream.
pub const RESPONSE_FIELD_TWIN: Reason =
    Reason::upstream("response_field_twin", 4210, 502, "The upstream's response is ambiguous");
/// Content-Length beside Transfer-Encoding from an upstream.
pub const RESPONSE_FRAMING_CONFLICT: Reason =
    Reason::upstream("response_framing_conflict", 4211, 502, "The upstream's response is ambiguous");
/// More than one Content-Length from an upstream.
pub const RESPONSE_LENGTH_DUPLICATE: Reason =
    Reason::upstream("response_length_duplicate", 4212, 502, "The upstream's response is ambiguous");
/// A malformed Content-Length from an upstream.
pub const RESPONSE_LENGTH_SYNTAX: Reason =
    Reason::upstream("response_length_syntax", 4213, 502, "The upstream's response is malformed");
/// A malformed or repeated Transfer-Encoding from an upstream.
pub const RESPONSE_CODING_SYNTAX: Reason =
    Reason::upstream("response_coding_syntax", 4214, 502, "The upstream's response is malformed");
/// A transfer coding other than `chunked` from an upstream.
pub const RESPONSE_CODING_UNKNOWN: Reason =
    Reason::upstream("response_coding_unknown", 4215, 502, "The upstream's transfer coding is not supported");
/// Transfer-Encoding in an HTTP/1.0 response.
pub const RESPONSE_CODING_VERSION: Reason =
    Reason::upstream("response_coding_version", 4216, 502, "The upstream's response is ambiguous");
/// A 1xx or 204 response that declares a body (RFC 9110 §8.6, RFC 9112 §6.1).
pub const RESPONSE_BODY_FORBIDDEN: Reason =
    Reason::upstream("response_body_forbidden", 4217, 502, "The upstream sent a body where there is none");
/// The upstream closed before the end of its body.
pub const RESPONSE_BODY_TRUNCATED: Reason =
    Reason::upstream("response_body_truncated", 4218, 502, "The upstream's response ended early");
/// A malformed or overlarge chunk size from an upstream.
pub const RESPONSE_CHUNK_SIZE: Reason =
    Reason::upstream("response_chunk_size", 4219, 502, "The upstream's response is malformed");
/// A malformed or overlong chunk extension from an upstream.
pub const RESPONSE_CHUNK_EXTENSION: Reason =
    Reason::upstream("response_chunk_extension", 4220, 502, "The upstream's response is malformed");
/// Chunk data from an upstream that is not followed by CR LF.
pub const RESPONSE_CHUNK_ENDING: Reason =
    Reason::upstream("response_chunk_ending", 4221, 502, "The upstream's response is malformed");
/// Trailers from an upstream beyond their bound.
pub const RESPONSE_TRAILER_SIZE: Reason =
    Reason::upstream("response_trailer_size", 4222, 502, "The upstream's trailers are too large");
/// A forbidden trailer from an upstream.
pub const RESPONSE_TRAILER_FORBIDDEN: Reason =
    Reason::upstream("response_trailer_forbidden", 4223, 502, "The upstream sent a forbidden trailer");
/// Connection or Upgrade from an upstream is malformed or names an end-to-end field.
pub const RESPONSE_CONNECTION: Reason =
    Reason::upstream("response_connection", 4224, 502, "The upstream's response is malformed");
/// A field from an upstream that may stand only once.
pub const RESPONSE_FIELD_DUPLICATE: Reason =
    Reason::upstream("response_field_duplicate", 4225, 502, "The upstream's response is ambiguous");
