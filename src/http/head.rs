//! The head of a message, parsed: offsets into its bytes and the few facts that decide what happens next.
//!
//! For: the codecs, which fill these tables, and everything behind them, which reads them beside the head's bytes.
//! Not for: the bytes themselves, the canonical target ([`super::target`]), what is forwarded ([`super::forward`]).
//!
//! A table is made once and used again: [`RequestTable::reset`] keeps the memory (no allocation per message).

use super::Reason;
use super::field::{FieldSet, FieldTable, Span};
use super::target::{Authority, authority};

/// A request method. Tokens are case-sensitive (RFC 9110 §9.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(missing_docs, reason = "each variant is the method it spells")]
pub enum Method {
    #[default]
    Get,
    Head,
    Post,
    Put,
    Delete,
    Patch,
    Options,
    Query,
    /// Refused by every codec (RFC 9110 §9.3.6: a gateway is no tunnel).
    Connect,
    /// Refused by every codec (RFC 9110 §9.3.8: it reflects what the client cannot see).
    Trace,
    /// Any other token; its bytes are in [`RequestTable::method_span`].
    Other,
}

impl Method {
    /// Every method that has a name.
    pub const ALL: [Method; 10] = [
        Method::Get,
        Method::Head,
        Method::Post,
        Method::Put,
        Method::Delete,
        Method::Patch,
        Method::Options,
        Method::Query,
        Method::Connect,
        Method::Trace,
    ];

    /// The method of exactly these bytes; `Other` if it is none of ours.
    pub fn of(token: &[u8]) -> Method {
        match token {
            b"GET" => Method::Get,
            b"HEAD" => Method::Head,
            b"POST" => Method::Post,
            b"PUT" => Method::Put,
            b"DELETE" => Method::Delete,
            b"PATCH" => Method::Patch,
            b"OPTIONS" => Method::Options,
            b"QUERY" => Method::Query,
            b"CONNECT" => Method::Connect,
            b"TRACE" => Method::Trace,
            _ => Method::Other,
        }
    }

    /// The token; empty for `Other`.
    pub fn name(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Delete => "DELETE",
            Method::Patch => "PATCH",
            Method::Options => "OPTIONS",
            Method::Query => "QUERY",
            Method::Connect => "CONNECT",
            Method::Trace => "TRACE",
            Method::Other => "",
        }
    }

    /// Sending it twice has the effect of sending it once (RFC 9110 §9.2.2); unknown methods do not.
    pub fn is_idempotent(self) -> bool {
        !matches!(self, Method::Post | Method::Patch | Method::Connect | Method::Other)
    }

    /// Defines what its content means (RFC 9110 §9.3, RFC 5789), so that every origin reads it.
    pub fn anticipates_body(self) -> bool {
        matches!(self, Method::Post | Method::Put | Method::Patch | Method::Query)
    }

    /// Asks for nothing to change (RFC 9110 §9.2.1); unknown methods may.
    pub fn is_safe(self) -> bool {
        matches!(self, Method::Get | Method::Head | Method::Options | Method::Trace | Method::Query)
    }
}

/// The version in the first line of a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the version it spells")]
pub enum Version {
    Http10,
    #[default]
    Http11,
    Http2,
}

/// Where a message's body ends (RFC 9112 §6.3). Decided in one place per direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BodyLength {
    /// There is no body and no framing field.
    #[default]
    None,
    /// Exactly this many bytes, as `Content-Length` says; may be 0.
    Length(u64),
    /// `Transfer-Encoding: chunked`.
    Chunked,
    /// Everything until the connection closes, which only responses can have; in HTTP/2 until the stream ends.
    UntilClose,
}

impl BodyLength {
    /// Whether not one byte of body follows the head.
    #[inline]
    pub fn is_empty(self) -> bool {
        matches!(self, BodyLength::None | BodyLength::Length(0))
    }
}

/// Bounds of a head, and the few choices an operator has about what is let in.
#[derive(Clone, Debug)]
pub struct HeadLimits {
    /// Longest request target in bytes; longer is 414. Default 8 KiB.
    pub target_bytes_max: usize,
    /// Longest head in bytes, first line and the final empty line included; longer is 431 (502 from an upstream).
    /// Default 32 KiB, at most 65,535.
    pub head_bytes_max: usize,
    /// Most fields; more is 431 (502 from an upstream). Default 100, at most 128.
    pub fields_max: usize,
    /// Accept an HTTP/1.0 request without `Host`. Default no: there is nothing to route it by.
    pub http10_without_host: bool,
    /// Accept a body on GET and HEAD, where it has no meaning (RFC 9110 §9.3.1) and origins that ignore it read it as
    /// the next request. Default no.
    pub body_on_get: bool,
    /// Accept bytes 0x80–0xFF in field values (`obs-text`, RFC 9110 §5.5) as opaque data. Default yes: browsers and
    /// origins send them in cookies and file names; framing and routing fields never may hold them.
    pub obs_text: bool,
}

impl HeadLimits {
    /// The defaults.
    pub const DEFAULT: HeadLimits = HeadLimits {
        target_bytes_max: 8 << 10,
        head_bytes_max: 32 << 10,
        fields_max: 100,
        http10_without_host: false,
        body_on_get: false,
        obs_text: true,
    };
}

impl Default for HeadLimits {
    fn default() -> HeadLimits {
        HeadLimits::DEFAULT
    }
}

/// How far the parser has come with a head of which a part is still to arrive.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub stage: Stage,
    /// Offset of the first line that is not parsed yet; everything before it is in the table.
    pub line: u16,
    /// Bytes that were there when the parser last looked.
    pub seen: u16,
    /// Whether the bytes from `line` to `seen` hold no LF.
    pub waiting: bool,
}

/// See [`Progress`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Nothing seen, or the last message is over.
    #[default]
    Start,
    /// The first line is incomplete.
    FirstLine,
    /// The first line is done.
    Fields,
}

/// A request head. All spans are offsets into the bytes it was parsed from.
#[derive(Clone, Debug, Default)]
pub struct RequestTable {
    /// The method.
    pub method: Method,
    /// The method's token.
    pub method_span: Span,
    /// The target exactly as it was sent; [`super::target::canonical`] makes it usable.
    pub target_span: Span,
    /// The path within the target if the target is already in canonical origin-form, otherwise empty. A hint that
    /// saves [`super::target::canonical`] its work.
    pub plain_path: Span,
    /// The version.
    pub version: Version,
    /// The fields.
    pub fields: FieldTable,
    /// Where the body ends; `UntilClose` only in HTTP/2, where it is the end of the stream.
    pub framing: BodyLength,
    /// The client wants to use the connection again.
    pub keep_alive: bool,
    /// There is a body, and the method is none that anticipates one: an origin that does not read it would take it for the
    /// next request, so that its connection serves no other.
    pub body_unanticipated: bool,
    /// The client waits for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// The client asks to switch protocols: HTTP/1.1, `Connection: upgrade` and an `Upgrade` field.
    pub upgrade: bool,
    /// The protocol asked for is exactly `websocket`.
    pub websocket: bool,
    /// The client takes trailers (`TE: trailers`).
    pub te_trailers: bool,
    /// A field came as one that may never be in a table (RFC 7541 §6.2.3), and is not of a kind that never is.
    pub never_indexed: bool,
    /// Host from the `Host` field, without port; an IPv6 literal with its brackets. Empty only for HTTP/1.0 without
    /// `Host`, where [`HeadLimits::http10_without_host`] lets that in.
    pub host: Span,
    /// Port from the `Host` field, 1–65535; 0 = none given.
    pub port: u16,
    /// The bytes of `host` are in canonical form already (lower case, no IPv6 literal).
    pub host_plain: bool,
    /// Positions of the fields that `Connection` names (RFC 9110 §7.6.1), which therefore end here.
    pub nominated: FieldSet,
    pub(crate) progress: Progress,
    /// The last host that was judged with this table.
    pub(crate) judged: JudgedHost,
}

/// A host that was found to be well-formed, so that the next request for it is spared the judgement: a table is used
/// again and again, and a node serves few hosts. Kept by [`RequestTable::reset`]: what is valid does not change.
#[derive(Clone, Debug, Default)]
pub(crate) struct JudgedHost {
    bytes: [u8; 32],
    len: usize,
    found: Authority,
}

impl JudgedHost {
    /// What [`authority`] says of `host`.
    ///
    /// # Errors
    /// Those of [`authority`].
    #[inline]
    pub(crate) fn judge(&mut self, host: &[u8]) -> Result<Authority, Reason> {
        if self.len != 0 && self.bytes.get(..self.len) == Some(host) {
            return Ok(self.found);
        }
        let found = authority(host)?;
        self.len = 0;
        if let Some(place) = self.bytes.get_mut(..host.len()) {
            place.copy_from_slice(host);
            (self.len, self.found) = (host.len(), found);
        }
        Ok(found)
    }
}

impl RequestTable {
    /// An empty table; its only allocation is that of [`FieldTable`].
    pub fn new() -> RequestTable {
        RequestTable::default()
    }

    /// Makes the table ready for the next head. The parser does so itself when it begins one; call it when a head that
    /// was only partly there is given up.
    #[inline]
    pub fn reset(&mut self) {
        self.fields.clear();
        self.method = Method::Get;
        self.method_span = Span::default();
        self.target_span = Span::default();
        self.plain_path = Span::default();
        self.version = Version::Http11;
        self.framing = BodyLength::None;
        self.keep_alive = false;
        self.body_unanticipated = false;
        self.expect_continue = false;
        self.upgrade = false;
        self.websocket = false;
        self.te_trailers = false;
        self.never_indexed = false;
        self.host = Span::default();
        self.port = 0;
        self.host_plain = false;
        self.nominated = FieldSet::EMPTY;
        self.progress = Progress::default();
    }
}

/// A response head. All spans are offsets into the bytes it was parsed from.
#[derive(Clone, Debug, Default)]
pub struct ResponseTable {
    /// Status code, 100–599.
    pub status: u16,
    /// The reason phrase, possibly empty; never forwarded.
    pub reason_span: Span,
    /// The version.
    pub version: Version,
    /// The fields.
    pub fields: FieldTable,
    /// Where the body ends, for this request's method and this status.
    pub framing: BodyLength,
    /// What the framing fields say regardless of method and status: what a HEAD or 304 response declares about a body
    /// that it does not carry. Give it to the encoder as the framing of such a response.
    pub declared: BodyLength,
    /// The upstream leaves the connection open after this response.
    pub keep_alive: bool,
    /// `Connection: upgrade` and an `Upgrade` field are present.
    pub upgrade: bool,
    /// As in [`RequestTable::never_indexed`].
    pub never_indexed: bool,
    /// Positions of the fields that `Connection` names, which therefore end here.
    pub nominated: FieldSet,
    pub(crate) progress: Progress,
}

impl ResponseTable {
    /// An empty table; its only allocation is that of [`FieldTable`].
    pub fn new() -> ResponseTable {
        ResponseTable::default()
    }

    /// Makes the table ready for the next head; see [`RequestTable::reset`].
    #[inline]
    pub fn reset(&mut self) {
        self.fields.clear();
        self.status = 0;
        self.reason_span = Span::default();
        self.version = Version::Http11;
        self.framing = BodyLength::None;
        self.declared = BodyLength::None;
        self.keep_alive = false;
        self.upgrade = false;
        self.never_indexed = false;
        self.nominated = FieldSet::EMPTY;
        self.progress = Progress::default();
    }
}
