//! Header blocks to the heads that all codecs share (RFC 9113 §8.2, §8.3).
//!
//! For: the HTTP/2 connection of either role, once per block, in the order of their arrival. Not for: frames, flow control,
//! comparing Content-Length with DATA (the connection counts; what to expect is [`RequestTable::framing`]).
//!
//! **Arena.** A head becomes bytes and a table of offsets into them, as a parsed HTTP/1.1 head is: everything behind the codec
//! works on it unchanged. Each field is a line `name: value` CRLF, all of them one behind the other behind the pseudo-fields,
//! so that they go to an HTTP/1.1 upstream in one copy. `:authority` stands among them as `host`; a Host field that says the
//! same is dropped. Cookies that came in pieces are one line (RFC 9113 §8.2.3).
//!
//! **Law.** Whatever comes out here can be written as an HTTP/1.1 head and be read back as the same: no name, value, method or
//! target holds a byte that would end a line or a word; a fuzz target holds it to that. What HTTP/1.1 refuses is refused here
//! for the same [`Reason`], by the same code where there is one.
//!
//! **Two kinds of failure.** [`Error`]: the connection's compression is lost, and the connection with it. A [`Reason`]: the
//! message is malformed or too large, a stream error (RFC 9113 §8.1.1) that can be answered; the block was decoded to its end
//! all the same.
//!
//! Cost: one copy of each byte, 4 more for each field; no allocation but the growth of the arena.

use super::hpack::{Decoder, Error, Line, Marks, Pseudo, is_secret};
use crate::{
    h1::{
        chunked::{TRAILER_BYTES_MAX, TRAILER_FIELDS_MAX},
        flaw::{Flaw, RESPONSE_CONNECTION, RESPONSE_FIELD_NAME, Side, UPGRADE_SYNTAX},
        framing::{settle_request, settle_response},
        parse::{METHOD_BYTES_MAX, METHOD_SYNTAX, RESPONSE_STATUS, TARGET_SIZE, method_of},
    },
    http::{
        BodyLength, Field, FieldTable, HeadLimits, Known, Method, Reason, RequestTable, ResponseTable, Span,
        Version,
        field::{FIELDS_MAX, KnownSet, is_word},
        forward::is_forbidden_trailer,
        scan,
        target::{
            self, HOST_DUPLICATE, HOST_MISMATCH, HOST_MISSING, HOST_SYNTAX, METHOD_REFUSED, Scheme,
            TARGET_FORM, TARGET_SCHEME,
        },
    },
};

/// `:method`, `:scheme` or `:path` is missing (RFC 9113 §8.3.1).
pub const PSEUDO_FIELD_MISSING: Reason =
    Reason::client("pseudo_field_missing", 2070, 400, "A pseudo-field is missing");
/// A pseudo-field that came before.
pub const PSEUDO_FIELD_DUPLICATE: Reason =
    Reason::client("pseudo_field_duplicate", 2071, 400, "A pseudo-field was sent more than once");
/// A pseudo-field that is none of a request, or `:protocol` without CONNECT.
pub const PSEUDO_FIELD_UNKNOWN: Reason =
    Reason::client("pseudo_field_unknown", 2072, 400, "A pseudo-field does not belong here");
/// A pseudo-field behind a field (RFC 9113 §8.3).
pub const PSEUDO_FIELD_ORDER: Reason =
    Reason::client("pseudo_field_order", 2073, 400, "A pseudo-field came too late");
/// A capital letter in a name (RFC 9113 §8.2.1).
pub const FIELD_NAME_CASE: Reason =
    Reason::client("field_name_case", 2074, 400, "A field name is not in lower case");
/// White space around a value (RFC 9113 §8.2.1).
pub const FIELD_VALUE_SPACE: Reason =
    Reason::client("field_value_space", 2075, 400, "White space around a field value");
/// Connection, Keep-Alive, Proxy-Connection, Transfer-Encoding or Upgrade (RFC 9113 §8.2.2).
pub const FIELD_OF_CONNECTION: Reason =
    Reason::client("field_of_connection", 2076, 400, "A field does not belong into HTTP/2");
/// TE says anything but `trailers` (RFC 9113 §8.2.2).
pub const TE_VALUE: Reason = Reason::client("te_value", 2077, 400, "TE asks for more than trailers");
/// `:status` is missing, came twice or late, or another pseudo-field came.
pub const RESPONSE_PSEUDO_FIELD: Reason =
    Reason::upstream("response_pseudo_field", 4226, 502, "The upstream's response is malformed");

/// RFC 9113 §8.2.2: what may not come, from either side.
const OF_CONNECTION: KnownSet = KnownSet::of(&[
    Known::Connection,
    Known::KeepAlive,
    Known::ProxyConnection,
    Known::TransferEncoding,
    Known::Upgrade,
]);

/// What makes any field malformed, whoever sends it.
const BROKEN: Marks =
    Marks::NAME_SYNTAX.and(Marks::NAME_UPPER).and(Marks::NAME_SIZE).and(Marks::VALUE_CONTROL);
/// What makes a field of a client malformed.
const MALFORMED: Marks = BROKEN.and(Marks::VALUE_EDGE);

/// What a request is judged by.
#[derive(Clone, Copy, Debug)]
pub struct Rules<'a> {
    /// The bounds, and what the operator lets in.
    pub limits: &'a HeadLimits,
    /// What `:scheme` has to be; `None` where somebody else ended TLS, who may say either.
    pub scheme: Option<Scheme>,
    /// We have said SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441 §3).
    pub extended_connect: bool,
}

/// What a request says besides its table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Asked {
    /// `:protocol` of an extended CONNECT (RFC 8441 §4), in the arena. Without it the method is never CONNECT.
    pub protocol: Option<Span>,
    /// GET or HEAD, and whether a body follows is not known yet: one byte of it is [`Flaw::BodyUnexpected`].
    pub bodiless: bool,
}

/// Decodes the block of a request into `arena` and `table`, both emptied first. `end`: the stream ends with it.
///
/// Without Content-Length and `end` the framing is [`BodyLength::UntilClose`]: until the stream ends. After a refusal the
/// table holds what was understood before it.
///
/// # Errors
/// Outside: the connection is lost. Inside: the reason to refuse the request with, 400, 414, 417 or 431.
#[inline]
pub fn request(
    decoder: &mut Decoder,
    block: &[u8],
    end: bool,
    rules: &Rules<'_>,
    arena: &mut Vec<u8>,
    table: &mut RequestTable,
) -> Result<Result<Asked, Reason>, Error> {
    arena.clear();
    table.reset();
    let mut asking = Asking {
        rules,
        table,
        refused: refused(rules.limits, MALFORMED),
        seen: 0,
        authority: Span::default(),
        protocol: None,
        cookie: None,
        in_fields: false,
        host_due: false,
        in_pieces: false,
        flaw: None,
    };
    let decoded =
        decoder.decode(block, list_bytes_max(rules.limits), arena, |arena, line| asking.take(arena, line))?;
    Ok(asking.finish(arena, decoded.over, end))
}

/// Decodes the block of a response to a request of method `method` into `arena` and `table`, both emptied first. `end`: the
/// stream ends with it. Interim responses are heads of their own.
///
/// # Errors
/// Outside: the connection is lost. Inside: the reason for answering 502.
#[inline]
pub fn response(
    decoder: &mut Decoder,
    block: &[u8],
    end: bool,
    limits: &HeadLimits,
    method: Method,
    arena: &mut Vec<u8>,
    table: &mut ResponseTable,
) -> Result<Result<(), Reason>, Error> {
    arena.clear();
    table.reset();
    let mut answering =
        Answering { limits, table, refused: refused(limits, BROKEN), in_fields: false, flaw: None };
    let decoded =
        decoder.decode(block, list_bytes_max(limits), arena, |arena, line| answering.take(arena, line))?;
    Ok(answering.finish(arena, decoded.over, end, method))
}

/// Decodes the block of trailers that `side` sent into `arena`, emptied first: lines `name: value` CRLF, as
/// [`crate::h1::chunked::Body::trailers`] has them. Says whether one of them may never be in a table, as
/// [`RequestTable::never_indexed`] does of heads.
///
/// # Errors
/// Outside: the connection is lost. Inside: the reason to cut the message with.
pub fn trailers(
    decoder: &mut Decoder,
    block: &[u8],
    side: Side,
    arena: &mut Vec<u8>,
) -> Result<Result<bool, Reason>, Error> {
    arena.clear();
    let (mut flaw, mut never_indexed) = (None, false);
    let mut left = TRAILER_FIELDS_MAX;
    // A list of that size has no more bytes in lines.
    let decoded = decoder.decode(block, TRAILER_BYTES_MAX, arena, |arena, mut line| {
        if side == Side::Upstream {
            trim(arena, &mut line);
        }
        let found = match left.checked_sub(1) {
            None => Some(Flaw::TrailerSize.of(side)),
            // RFC 9113 §8.1: "Trailers MUST NOT include pseudo-header fields".
            Some(_) if line.pseudo != Pseudo::None => Some(Flaw::TrailerForbidden.of(side)),
            Some(_) if line.marks.has(BROKEN) => Some(flaw_of(line.marks, side)),
            Some(_) if side == Side::Client && line.marks.has(MALFORMED) => Some(FIELD_VALUE_SPACE),
            Some(_) if is_forbidden_trailer(line.name(arena)) => Some(Flaw::TrailerForbidden.of(side)),
            Some(fewer) => {
                left = fewer;
                never_indexed |= line.never_indexed && !is_secret(line.known);
                None
            }
        };
        flaw = found;
        found.is_none()
    })?;
    let size = decoded.over.then(|| Flaw::TrailerSize.of(side));
    Ok(flaw.or(size).map_or(Ok(never_indexed), Err))
}

/// RFC 9113 §6.5.2: the size of a header list that is kept, which is what SETTINGS_MAX_HEADER_LIST_SIZE says. Offsets are
/// `u16`: as the list counts 32 bytes for a field and a line has 4 besides name and value, what fits into the list fits there.
#[inline]
pub fn list_bytes_max(limits: &HeadLimits) -> usize {
    limits.head_bytes_max.min(usize::from(u16::MAX))
}

/// The marks that make a field malformed, with what the operator does not let in.
#[inline]
fn refused(limits: &HeadLimits, malformed: Marks) -> Marks {
    if limits.obs_text { malformed } else { malformed.and(Marks::VALUE_OBS_TEXT) }
}

/// The worst of these marks.
#[cold]
fn flaw_of(marks: Marks, side: Side) -> Reason {
    let by_side = |client, upstream| match side {
        Side::Client => client,
        Side::Upstream => upstream,
    };
    match () {
        () if marks.has(Marks::NAME_SYNTAX) => Flaw::NameSyntax.of(side),
        () if marks.has(Marks::NAME_UPPER) => by_side(FIELD_NAME_CASE, RESPONSE_FIELD_NAME),
        () if marks.has(Marks::NAME_SIZE) => Flaw::NameSize.of(side),
        () if marks.has(Marks::VALUE_CONTROL) => Flaw::ValueControl.of(side),
        () if marks.has(Marks::VALUE_EDGE) && side == Side::Client => FIELD_VALUE_SPACE,
        () => Flaw::ValueObsText.of(side),
    }
}

/// Takes white space off the ends of a value that an upstream sent. RFC 9113 §8.2.1 has it malformed, and servers of gRPC send it
/// all the same: a `grpc-message` goes out as the application has it. Nobody reads it as something else: HTTP/1.1 knows no such
/// values, and has it taken off.
#[inline(always)]
fn trim(arena: &mut Vec<u8>, line: &mut Line) {
    if line.marks.has(Marks::VALUE_EDGE) {
        take_edges(arena, line);
    }
}

#[cold]
fn take_edges(arena: &mut Vec<u8>, line: &mut Line) {
    let is_space = |byte: &u8| matches!(byte, b' ' | b'\t');
    let value = line.value(arena);
    let before = value.iter().take_while(|byte| is_space(byte)).count();
    let kept = value.len() - before - value[before..].iter().rev().take_while(|byte| is_space(byte)).count();
    // It is the last line of the arena.
    let (start, to) = (line.value_start() + before, line.value_start());
    arena.copy_within(start..start + kept, to);
    arena.truncate(to + kept);
    arena.extend_from_slice(b"\r\n");
    line.value_len = kept as u32;
}

/// Adds the field of a line that lies directly behind the previous one.
#[inline(always)]
fn push(
    fields: &mut FieldTable,
    never_indexed: &mut bool,
    line: &Line,
    limits: &HeadLimits,
    side: Side,
) -> Result<(), Reason> {
    let index = fields.len();
    // Pieces of cookies and Host come on top of the list that was bounded.
    if line.end() > usize::from(u16::MAX) {
        return Err(Flaw::HeadSize.of(side));
    }
    let field = Field {
        name_start: line.start() as u16,
        value_start: line.value_start() as u16,
        value_len: line.value_len as u16,
        // Longer names are marked.
        name_len: line.name_len as u8,
        known: line.known,
    };
    if index >= limits.fields_max.min(FIELDS_MAX)
        || !fields.push(field, true, line.marks.has(Marks::NAME_ODD))
    {
        return Err(Flaw::FieldCount.of(side));
    }
    *never_indexed |= line.never_indexed && !is_secret(line.known);
    Ok(())
}

/// A span of the arena, of a line that is within the list.
#[inline]
fn value_span(line: &Line) -> Span {
    Span::new(line.value_start(), line.value_end())
}

/// A request while its lines come.
struct Asking<'a> {
    rules: &'a Rules<'a>,
    table: &'a mut RequestTable,
    refused: Marks,
    /// Bit `p` is set when pseudo-field `p` has come; bit 0 when Host has.
    seen: u8,
    /// `:authority`.
    authority: Span,
    protocol: Option<Span>,
    /// The cookie line at the end of the arena: not yet in the table, as more of it may come.
    cookie: Option<Line>,
    /// A field has come.
    in_fields: bool,
    /// `:authority` is still to be written as a line.
    host_due: bool,
    /// There are cookies that do not lie side by side.
    in_pieces: bool,
    flaw: Option<Reason>,
}

impl Asking<'_> {
    #[inline(always)]
    fn take(&mut self, arena: &mut Vec<u8>, line: Line) -> bool {
        let judged =
            if line.pseudo == Pseudo::None { self.field(arena, line) } else { self.pseudo(arena, &line) };
        match judged {
            Ok(()) => true,
            Err(reason) => {
                self.flaw = Some(reason);
                false
            }
        }
    }

    #[inline(always)]
    fn field(&mut self, arena: &mut Vec<u8>, line: Line) -> Result<(), Reason> {
        self.in_fields = true;
        if line.marks.has(self.refused) {
            return Err(flaw_of(line.marks, Side::Client));
        }
        match line.known {
            Known::Cookie => return self.crumb(arena, line),
            Known::Host => {
                if self.saw(0) {
                    return Err(HOST_DUPLICATE);
                }
                if !self.authority.is_empty() {
                    // RFC 9113 §8.3.1 lets a server repair what differs; two parties that read different ones are a routing
                    // attack.
                    if !self.authority.of(arena).eq_ignore_ascii_case(line.value(arena)) {
                        return Err(HOST_MISMATCH);
                    }
                    arena.truncate(line.start());
                    return Ok(());
                }
            }
            _ => {}
        }
        if let Some(cookie) = self.cookie.take() {
            self.push(&cookie)?;
        }
        self.push(&line)?;
        if self.host_due { self.push_host(arena) } else { Ok(()) }
    }

    #[inline(always)]
    fn push(&mut self, line: &Line) -> Result<(), Reason> {
        let RequestTable { fields, never_indexed, .. } = &mut *self.table;
        push(fields, never_indexed, line, self.rules.limits, Side::Client)
    }

    /// Whether what this bit stands for came before; it has come now.
    #[inline]
    fn saw(&mut self, bit: u8) -> bool {
        let before = self.seen >> bit & 1 != 0;
        self.seen |= 1 << bit;
        before
    }

    /// RFC 9113 §8.3, §8.3.1.
    #[inline]
    fn pseudo(&mut self, arena: &[u8], line: &Line) -> Result<(), Reason> {
        if self.in_fields {
            return Err(PSEUDO_FIELD_ORDER);
        }
        if self.saw(line.pseudo as u8) {
            return Err(PSEUDO_FIELD_DUPLICATE);
        }
        let value = line.value(arena);
        match line.pseudo {
            Pseudo::Method => {
                self.table.method_span = value_span(line);
                self.table.method = Method::of(value);
                match self.table.method {
                    Method::Get | Method::Post => {}
                    // Only with `:protocol`, which may be still to come.
                    Method::Connect if self.rules.extended_connect => {}
                    _ if value.len() > METHOD_BYTES_MAX || !scan::is_token(value) => {
                        return Err(METHOD_SYNTAX);
                    }
                    _ => self.table.method = method_of(value)?,
                }
            }
            Pseudo::Scheme => {
                let scheme = match value {
                    b"https" => Scheme::Https,
                    b"http" => Scheme::Http,
                    _ => return Err(TARGET_SCHEME),
                };
                if self.rules.scheme.is_some_and(|expected| expected != scheme) {
                    return Err(TARGET_SCHEME);
                }
            }
            Pseudo::Authority => {
                // Whether it is a host is judged as that of a Host field is; here only whether it can be a line.
                if value.is_empty() {
                    return Err(HOST_MISSING);
                }
                if line.marks.has(MALFORMED.and(Marks::VALUE_OBS_TEXT)) {
                    return Err(HOST_SYNTAX);
                }
                self.authority = value_span(line);
                self.host_due = true;
            }
            Pseudo::Path => {
                if value.len() > self.rules.limits.target_bytes_max {
                    return Err(TARGET_SIZE);
                }
                let start = line.value_start();
                // The CR behind it ends it.
                let found = target::scan(arena, start);
                if found.end != line.value_end() {
                    return Err(arena.get(found.end).map_or(TARGET_FORM, |byte| target::refused_byte(*byte)));
                }
                // Only `*` and what begins with a slash: what HTTP/1.1 calls the absolute-form has its parts elsewhere here.
                if !matches!(value, [b'/', ..] | b"*") {
                    return Err(TARGET_FORM);
                }
                self.table.target_span = value_span(line);
                if found.plain {
                    self.table.plain_path = Span::new(start, found.path_end);
                }
            }
            Pseudo::Protocol if self.rules.extended_connect => {
                if !scan::is_token(value) {
                    return Err(UPGRADE_SYNTAX);
                }
                self.protocol = Some(value_span(line));
            }
            Pseudo::Protocol | Pseudo::Status | Pseudo::Unknown | Pseudo::None => {
                return Err(PSEUDO_FIELD_UNKNOWN);
            }
        }
        Ok(())
    }

    /// RFC 9113 §8.2.3: pieces of cookies become one, joined by `; `. Those that come one behind the other, as all of them do
    /// from honest senders, are joined where they lie.
    #[inline(never)]
    fn crumb(&mut self, arena: &mut Vec<u8>, line: Line) -> Result<(), Reason> {
        let Some(first) = &mut self.cookie else {
            self.in_pieces |= self.table.fields.has(Known::Cookie);
            self.cookie = Some(line);
            return Ok(());
        };
        first.never_indexed |= line.never_indexed;
        if line.value_len == 0 {
            arena.truncate(line.start());
            return Ok(());
        }
        let mut to = first.value_end();
        if first.value_len > 0 {
            if let Some(end) = arena.get_mut(to..to + 2) {
                end.copy_from_slice(b"; ");
            }
            to += 2;
        }
        arena.copy_within(line.value_start()..line.end(), to);
        first.value_len = (to - first.value_start()) as u32 + line.value_len;
        arena.truncate(first.end());
        Ok(())
    }

    /// Writes `:authority` as the line of a Host field, at the end of the arena.
    fn push_host(&mut self, arena: &mut Vec<u8>) -> Result<(), Reason> {
        self.host_due = false;
        let start = arena.len();
        let authority = usize::from(self.authority.start)..self.authority.end();
        let line = Line {
            start: start as u32,
            name_len: 4,
            value_len: authority.len() as u32,
            known: Known::Host,
            pseudo: Pseudo::None,
            marks: Marks::default(),
            never_indexed: false,
        };
        arena.extend_from_slice(b"host: ");
        arena.extend_from_within(authority);
        arena.extend_from_slice(b"\r\n");
        self.push(&line)
    }

    /// What all lines come to.
    #[inline]
    fn finish(mut self, arena: &mut Vec<u8>, over: bool, end: bool) -> Result<Asked, Reason> {
        if let Some(reason) = self.flaw {
            return Err(reason);
        }
        if over {
            return Err(Flaw::HeadSize.of(Side::Client));
        }
        if let Some(cookie) = self.cookie.take() {
            self.push(&cookie)?;
        }
        if self.host_due {
            self.push_host(arena)?;
        }
        if self.in_pieces {
            self.join_pieces(arena)?;
        }
        const MANDATORY: u8 = 1 << Pseudo::Method as u8 | 1 << Pseudo::Scheme as u8 | 1 << Pseudo::Path as u8;
        if self.seen & MANDATORY != MANDATORY {
            return Err(PSEUDO_FIELD_MISSING);
        }
        let table = self.table;
        match (table.method, self.protocol) {
            (Method::Connect, None) => return Err(METHOD_REFUSED),
            (Method::Connect, Some(_)) | (_, None) => {}
            // RFC 8441 §4.
            (_, Some(_)) => return Err(PSEUDO_FIELD_UNKNOWN),
        }
        if table.target_span.of(arena) == b"*" && table.method != Method::Options {
            return Err(TARGET_FORM);
        }
        if !table.fields.hop_by_hop().is_empty() {
            settle_connection(arena, &table.fields)?;
        }
        // What is said of a message by its fields is the same in all versions.
        settle_request(arena, self.rules.limits, table)?;
        table.version = Version::Http2;
        table.keep_alive = true;
        let mut bodiless = false;
        match table.framing {
            // RFC 9113 §8.1.1: "does not equal the sum of the DATA frame payload lengths".
            BodyLength::Length(length) if end && length > 0 => {
                return Err(Flaw::BodyTruncated.of(Side::Client));
            }
            BodyLength::None if !end => {
                table.framing = BodyLength::UntilClose;
                table.body_unanticipated = !table.method.anticipates_body();
                table.expect_continue = table.fields.has(Known::Expect);
                bodiless =
                    matches!(table.method, Method::Get | Method::Head) && !self.rules.limits.body_on_get;
            }
            _ => {}
        }
        Ok(Asked { protocol: self.protocol, bodiless })
    }

    /// Joins cookies between which other fields came: in a line of its own behind all others. The table is made anew.
    #[cold]
    fn join_pieces(&mut self, arena: &mut Vec<u8>) -> Result<(), Reason> {
        let mut fields = [Field::default(); FIELDS_MAX];
        let sent = self.table.fields.as_slice();
        let count = sent.len();
        fields.iter_mut().zip(sent).for_each(|(to, from)| *to = *from);
        let odd = self.table.fields.odd();
        self.table.fields.clear();
        let start = arena.len();
        let mut joined = Line {
            start: start as u32,
            name_len: 6,
            value_len: 0,
            known: Known::Cookie,
            pseudo: Pseudo::None,
            marks: Marks::default(),
            never_indexed: false,
        };
        arena.extend_from_slice(b"cookie: ");
        // Behind a line that is left out the next one is written for itself.
        let mut behind_hole = false;
        for (index, field) in fields.iter().take(count).enumerate() {
            if field.known != Known::Cookie {
                self.table.fields.push(*field, !behind_hole, odd.contains(index));
                behind_hole = false;
                continue;
            }
            behind_hole = true;
            let value = usize::from(field.value_start)..field.value().end();
            if !value.is_empty() {
                if arena.len() > joined.value_start() {
                    arena.extend_from_slice(b"; ");
                }
                arena.extend_from_within(value);
            }
        }
        joined.value_len = (arena.len() - joined.value_start()) as u32;
        arena.extend_from_slice(b"\r\n");
        if joined.end() > usize::from(u16::MAX) {
            return Err(Flaw::HeadSize.of(Side::Client));
        }
        let field = Field {
            name_start: joined.start() as u16,
            value_start: joined.value_start() as u16,
            value_len: joined.value_len as u16,
            name_len: 6,
            known: Known::Cookie,
        };
        // There is room: two cookies at least were taken out.
        self.table.fields.push(field, false, false);
        Ok(())
    }
}

/// RFC 9113 §8.2.2.
#[inline(never)]
fn settle_connection(arena: &[u8], fields: &FieldTable) -> Result<(), Reason> {
    if fields.has_any(&OF_CONNECTION) {
        return Err(FIELD_OF_CONNECTION);
    }
    match fields.find_all(Known::Te).all(|(_, field)| is_word(field.value().of(arena), b"trailers")) {
        true => Ok(()),
        false => Err(TE_VALUE),
    }
}

/// A response while its lines come.
struct Answering<'a> {
    limits: &'a HeadLimits,
    table: &'a mut ResponseTable,
    refused: Marks,
    /// A field has come.
    in_fields: bool,
    flaw: Option<Reason>,
}

impl Answering<'_> {
    #[inline(always)]
    fn take(&mut self, arena: &mut Vec<u8>, mut line: Line) -> bool {
        if line.pseudo == Pseudo::None {
            trim(arena, &mut line);
        }
        match self.line(arena, &line) {
            Ok(()) => true,
            Err(reason) => {
                self.flaw = Some(reason);
                false
            }
        }
    }

    #[inline(always)]
    fn line(&mut self, arena: &[u8], line: &Line) -> Result<(), Reason> {
        if line.pseudo != Pseudo::None {
            return self.pseudo(arena, line);
        }
        self.in_fields = true;
        if line.marks.has(self.refused) {
            return Err(flaw_of(line.marks, Side::Upstream));
        }
        let ResponseTable { fields, never_indexed, .. } = &mut *self.table;
        push(fields, never_indexed, line, self.limits, Side::Upstream)
    }

    /// RFC 9113 §8.3.2: `:status` and no other, once and first.
    #[inline]
    fn pseudo(&mut self, arena: &[u8], line: &Line) -> Result<(), Reason> {
        if line.pseudo != Pseudo::Status || self.in_fields || self.table.status != 0 {
            return Err(RESPONSE_PSEUDO_FIELD);
        }
        match line.value(arena) {
            // RFC 9113 §8.6: there is no 101 in HTTP/2.
            b"101" => Err(RESPONSE_STATUS),
            [a @ b'1'..=b'5', b @ b'0'..=b'9', c @ b'0'..=b'9'] => {
                let digit = |byte: &u8| u16::from(byte - b'0');
                self.table.status = digit(a) * 100 + digit(b) * 10 + digit(c);
                Ok(())
            }
            _ => Err(RESPONSE_STATUS),
        }
    }

    #[inline]
    fn finish(self, arena: &[u8], over: bool, end: bool, method: Method) -> Result<(), Reason> {
        if let Some(reason) = self.flaw {
            return Err(reason);
        }
        if over {
            return Err(Flaw::HeadSize.of(Side::Upstream));
        }
        let table = self.table;
        if table.status == 0 {
            return Err(RESPONSE_PSEUDO_FIELD);
        }
        if !table.fields.hop_by_hop().is_empty() && table.fields.has_any(&OF_CONNECTION) {
            return Err(RESPONSE_CONNECTION);
        }
        settle_response(arena, method, table)?;
        table.version = Version::Http2;
        table.keep_alive = true;
        match table.framing {
            // RFC 9113 §8.1: an interim response is followed by another; §8.1.1: what was announced has to come.
            _ if end && table.status < 200 => return Err(Flaw::BodyTruncated.of(Side::Upstream)),
            BodyLength::Length(length) if end && length > 0 => {
                return Err(Flaw::BodyTruncated.of(Side::Upstream));
            }
            BodyLength::UntilClose if end => table.framing = BodyLength::None,
            _ => {}
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        h1::encode::{RequestLine, encode_request},
        h2::hpack::{Encoder, Sharing},
        http::field::FieldSet,
        http::target::{EncodedSlash, canonical},
    };

    const LIMITS: HeadLimits = HeadLimits::DEFAULT;
    const RULES: Rules<'static> =
        Rules { limits: &LIMITS, scheme: Some(Scheme::Https), extended_connect: false };

    /// A block of literals, exactly as they are given.
    fn block(fields: &[(&str, &str)]) -> Vec<u8> {
        let mut out = Vec::new();
        let string = |text: &str, out: &mut Vec<u8>| {
            let mut length = text.len();
            if length < 127 {
                out.push(length as u8);
            } else {
                out.push(127);
                length -= 127;
                while length >= 128 {
                    out.push(length as u8 | 128);
                    length >>= 7;
                }
                out.push(length as u8);
            }
            out.extend_from_slice(text.as_bytes());
        };
        for (name, value) in fields {
            out.push(0);
            string(name, &mut out);
            string(value, &mut out);
        }
        out
    }

    const GET: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/p?q")];

    fn judge(
        fields: &[(&str, &str)],
        end: bool,
        rules: &Rules<'_>,
    ) -> Result<(Vec<u8>, RequestTable, Asked), &'static str> {
        let (mut arena, mut table) = (Vec::new(), RequestTable::new());
        let asked = request(&mut Decoder::new(), &block(fields), end, rules, &mut arena, &mut table).unwrap();
        asked.map(|asked| (arena, table, asked)).map_err(|reason| reason.token)
    }

    fn get(fields: &[(&str, &str)]) -> Result<(Vec<u8>, RequestTable, Asked), &'static str> {
        judge(&[&GET[..], fields].concat(), true, &RULES)
    }

    fn post(fields: &[(&str, &str)], end: bool) -> Result<(Vec<u8>, RequestTable, Asked), &'static str> {
        judge(&[&[(":method", "POST")], &GET[1..], fields].concat(), end, &RULES)
    }

    /// The fields as they would go to an HTTP/1.1 upstream.
    fn written(arena: &[u8], table: &RequestTable) -> String {
        let mut scratch = Vec::new();
        let target = canonical(arena, table, EncodedSlash::Refuse, &mut scratch).unwrap();
        let line = RequestLine {
            method: table.method_span.of(arena),
            path: target.path.of(arena, &scratch),
            query: target.query.map(|query| query.of(arena)),
        };
        let mut out = Vec::new();
        encode_request(&mut out, &line, arena, &table.fields, &FieldSet::EMPTY, b"", BodyLength::None);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_request_becomes_the_table_that_http_1_1_gives() {
        let (arena, table, asked) =
            get(&[("accept", "*/*"), ("x_own", ""), ("content-length", "0")]).unwrap();
        assert_eq!((table.method, table.method_span.of(&arena)), (Method::Get, &b"GET"[..]));
        assert_eq!((table.target_span.of(&arena), table.plain_path.of(&arena)), (&b"/p?q"[..], &b"/p"[..]));
        assert_eq!((table.host.of(&arena), table.port, table.host_plain), (&b"a.example"[..], 0, true));
        assert_eq!(
            (table.framing, table.version, table.keep_alive),
            (BodyLength::Length(0), Version::Http2, true)
        );
        assert_eq!(asked, Asked::default());
        assert!(table.fields.irregular().is_empty());
        assert_eq!(table.fields.odd().iter().collect::<Vec<_>>(), [2]);
        assert_eq!(
            written(&arena, &table),
            "GET /p?q HTTP/1.1\r\naccept: */*\r\nhost: a.example\r\nx_own: \r\n\r\n"
        );
        // In any order of the pseudo-fields, and without a field.
        let (arena, table, _) = judge(
            &[(":authority", "A.example:81"), (":path", "/%41"), (":scheme", "https"), (":method", "PATCH")],
            false,
            &RULES,
        )
        .unwrap();
        assert_eq!((table.framing, table.body_unanticipated), (BodyLength::UntilClose, false));
        assert_eq!((table.host.of(&arena), table.port, table.host_plain), (&b"A.example"[..], 81, false));
        assert_eq!(
            written(&arena, &table),
            "PATCH /A HTTP/1.1\r\nhost: A.example:81\r\nContent-Length: 0\r\n\r\n"
        );
    }

    #[test]
    fn rfc_9113_8_3_pseudo_fields_come_first_once_and_all() {
        let without = |name: &str| GET.into_iter().filter(|(field, _)| *field != name).collect::<Vec<_>>();
        let with = |name: &'static str, value: &'static str| {
            GET.into_iter()
                .map(|field| if field.0 == name { (name, value) } else { field })
                .collect::<Vec<_>>()
        };
        let more = |fields: &[(&'static str, &'static str)]| [&GET[..], fields].concat();
        for (fields, reason) in [
            (without(":method"), "pseudo_field_missing"),
            (without(":scheme"), "pseudo_field_missing"),
            (without(":path"), "pseudo_field_missing"),
            (vec![], "pseudo_field_missing"),
            (without(":authority"), "host_missing"),
            (more(&[(":path", "/")]), "pseudo_field_duplicate"),
            (more(&[(":method", "GET")]), "pseudo_field_duplicate"),
            (more(&[(":authority", "a.example")]), "pseudo_field_duplicate"),
            (more(&[(":status", "200")]), "pseudo_field_unknown"),
            (more(&[(":protocol", "websocket")]), "pseudo_field_unknown"),
            (more(&[(":other", "a")]), "pseudo_field_unknown"),
            (more(&[(":", "a")]), "pseudo_field_unknown"),
            (more(&[(":Path", "/")]), "pseudo_field_unknown"),
            ([&[("accept", "a")], &GET[..]].concat(), "pseudo_field_order"),
            ([&GET[..3], &[("a", "b")], &GET[3..]].concat(), "pseudo_field_order"),
            (with(":method", ""), "method_syntax"),
            (with(":method", "GET /x"), "method_syntax"),
            (with(":method", "GET / HTTP/1.1\r\nx: y"), "method_syntax"),
            (with(":method", "get"), "method_case"),
            (with(":method", "TRACE"), "method_refused"),
            (with(":method", "CONNECT"), "method_refused"),
            (with(":scheme", "http"), "target_scheme"),
            (with(":scheme", "HTTPS"), "target_scheme"),
            (with(":scheme", "ftp"), "target_scheme"),
            (with(":scheme", ""), "target_scheme"),
            (with(":path", ""), "target_form"),
            (with(":path", "*"), "target_form"),
            (with(":path", "a"), "target_form"),
            (with(":path", "https://a.example/"), "target_form"),
            (with(":path", "/ HTTP/1.1\r\nx: y"), "target_character"),
            (with(":path", "/a b"), "target_character"),
            (with(":path", "/a?b c"), "target_character"),
            (with(":path", "/a\r\nb: c"), "path_control"),
            (with(":path", "/a\0"), "path_control"),
            (with(":path", "/a?\n"), "path_control"),
            (with(":path", "/a#b"), "target_fragment"),
            (with(":path", "/ü"), "target_character"),
            (with(":authority", ""), "host_missing"),
            (with(":authority", "a\r\nb: c"), "host_syntax"),
            (with(":authority", " a"), "host_syntax"),
            (with(":authority", "u@a.example"), "target_userinfo"),
            (with(":authority", "a.example:0"), "host_port"),
            (with(":authority", "a/b"), "host_syntax"),
        ] {
            assert_eq!(judge(&fields, true, &RULES).err(), Some(reason), "{fields:?}");
        }
        let either = Rules { scheme: None, ..RULES };
        assert!(judge(&with(":scheme", "http"), true, &either).is_ok());
        assert_eq!(judge(&with(":scheme", "x"), true, &either).err(), Some("target_scheme"));
        let asterisk = [(":method", "OPTIONS"), (":path", "*"), (":scheme", "https"), (":authority", "a")];
        assert_eq!(judge(&asterisk, true, &RULES).unwrap().1.method, Method::Options);
    }

    #[test]
    fn rfc_8441_4_a_connect_with_a_protocol() {
        let rules = Rules { extended_connect: true, ..RULES };
        let connect = [&[(":method", "CONNECT"), (":protocol", "websocket")], &GET[1..]].concat();
        let (arena, table, asked) = judge(&connect, false, &rules).unwrap();
        assert_eq!((table.method, asked.protocol.unwrap().of(&arena)), (Method::Connect, &b"websocket"[..]));
        assert_eq!(judge(&connect, false, &RULES).err(), Some("method_refused"));
        let without = [&[(":method", "CONNECT")], &GET[1..]].concat();
        assert_eq!(judge(&without, false, &rules).err(), Some("method_refused"));
        let get = [&[(":protocol", "websocket")], &GET[..]].concat();
        assert_eq!(judge(&get, false, &rules).err(), Some("pseudo_field_unknown"));
        let word = [&[(":method", "CONNECT"), (":protocol", "a b")], &GET[1..]].concat();
        assert_eq!(judge(&word, false, &rules).err(), Some("upgrade_syntax"));
        let short = [(":method", "CONNECT"), (":protocol", "websocket"), (":authority", "a.example")];
        assert_eq!(judge(&short, false, &rules).err(), Some("pseudo_field_missing"));
    }

    #[test]
    fn rfc_9113_8_2_names_and_values_are_exact() {
        let long = "a".repeat(256);
        for (name, value, reason) in [
            ("Accept", "a", "field_name_case"),
            ("aCcept", "a", "field_name_case"),
            ("", "a", "field_name_syntax"),
            ("a b", "a", "field_name_syntax"),
            ("a:", "a", "field_name_syntax"),
            ("a\r\nb", "a", "field_name_syntax"),
            ("a\0", "a", "field_name_syntax"),
            ("ä", "a", "field_name_syntax"),
            (&long, "a", "field_name_size"),
            ("a", "b\r\nc: d", "field_value_control"),
            ("a", "b\n", "field_value_control"),
            ("a", "\0", "field_value_control"),
            ("a", "b\u{1}", "field_value_control"),
            ("a", " b", "field_value_space"),
            ("a", "b ", "field_value_space"),
            ("a", "\tb", "field_value_space"),
            ("a", " ", "field_value_space"),
            ("connection", "close", "field_of_connection"),
            ("connection", "", "field_of_connection"),
            ("keep-alive", "5", "field_of_connection"),
            ("proxy-connection", "a", "field_of_connection"),
            ("transfer-encoding", "chunked", "field_of_connection"),
            ("transfer-encoding", "identity", "field_of_connection"),
            ("upgrade", "websocket", "field_of_connection"),
            ("te", "gzip", "te_value"),
            ("te", "trailers, gzip", "te_value"),
            ("te", "", "te_value"),
            ("transfer_encoding", "chunked", "field_twin"),
            ("content_length", "1", "field_twin"),
            ("content-length", "a", "content_length_syntax"),
            ("content-length", "+1", "content_length_syntax"),
            ("content-length", "1, 1", "content_length_syntax"),
            ("content-length", "5", "body_unexpected"),
            ("trailer", "content-length", "trailer_forbidden"),
            ("expect", "a", "expect_unknown"),
        ] {
            assert_eq!(get(&[(name, value)]).err(), Some(reason), "{name:?}: {value:?}");
        }
        for (name, value) in
            [("a", "b c\td"), ("a", ""), ("te", "trailers"), ("a_b", "c"), ("a", "ü"), ("a'", "b")]
        {
            assert!(get(&[(name, value)]).is_ok(), "{name}");
        }
        assert_eq!(get(&[("te", "trailers")]).map(|(_, table, _)| table.te_trailers), Ok(true));
        let ascii = HeadLimits { obs_text: false, ..LIMITS };
        let refused = judge(&[&GET[..], &[("a", "ü")]].concat(), true, &Rules { limits: &ascii, ..RULES });
        assert_eq!(refused.err(), Some("field_value_obs_text"));
        for (twice, reason) in [
            ([("authorization", "a"), ("authorization", "a")], "field_duplicate"),
            ([("content-length", "0"), ("content-length", "0")], "content_length_duplicate"),
            ([("content-type", "a/b"), ("content-type", "a/b")], "content_type_duplicate"),
            ([("x-a", "a"), ("x_a", "b")], "field_ambiguous"),
            ([("host", "a.example"), ("host", "a.example")], "host_duplicate"),
        ] {
            assert_eq!(get(&twice).err(), Some(reason), "{twice:?}");
        }
    }

    #[test]
    fn rfc_9113_8_3_1_authority_and_host_are_one() {
        let (arena, table, _) = get(&[("a", "b"), ("host", "A.Example"), ("c", "d")]).unwrap();
        assert_eq!(written(&arena, &table), "GET /p?q HTTP/1.1\r\na: b\r\nhost: a.example\r\nc: d\r\n\r\n");
        assert!(table.fields.irregular().is_empty());
        for host in ["b.example", "a.example:443", "", "a.example, a.example"] {
            assert_eq!(get(&[("host", host)]).err(), Some("host_mismatch"), "{host}");
        }
        let without = [GET[0], GET[1], GET[3]];
        let (arena, table, _) = judge(&[&without[..], &[("host", "b:1")]].concat(), true, &RULES).unwrap();
        assert_eq!((table.host.of(&arena), table.port, table.fields.len()), (&b"b"[..], 1, 1));
        let twice = judge(&[&without[..], &[("host", "b"), ("host", "b")]].concat(), true, &RULES);
        assert_eq!(twice.err(), Some("host_duplicate"));
        let empty = judge(&[&without[..], &[("host", "")]].concat(), true, &RULES);
        assert_eq!(empty.err(), Some("host_missing"));
    }

    #[test]
    fn rfc_9113_8_1_1_lengths_and_ends_agree() {
        for (fields, end, framing) in [
            (&[][..], true, Ok(BodyLength::None)),
            (&[], false, Ok(BodyLength::UntilClose)),
            (&[("content-length", "0")], true, Ok(BodyLength::Length(0))),
            (&[("content-length", "0")], false, Ok(BodyLength::Length(0))),
            (&[("content-length", "3")], false, Ok(BodyLength::Length(3))),
            (&[("content-length", "3")], true, Err("body_truncated")),
        ] {
            assert_eq!(post(fields, end).map(|(_, table, _)| table.framing), framing, "{fields:?} {end}");
        }
        let (_, table, asked) = judge(&GET, false, &RULES).unwrap();
        assert_eq!(
            (table.framing, table.body_unanticipated, asked.bodiless),
            (BodyLength::UntilClose, true, true)
        );
        let open = HeadLimits { body_on_get: true, ..LIMITS };
        assert!(!judge(&GET, false, &Rules { limits: &open, ..RULES }).unwrap().2.bodiless);
        let expecting = |end| post(&[("expect", "100-continue")], end).unwrap().1.expect_continue;
        assert!(expecting(false) && !expecting(true));
    }

    #[test]
    fn rfc_9113_8_2_3_cookies_are_joined_wherever_they_come() {
        let lines = |fields: &[(&str, &str)]| {
            let (arena, table, _) = get(fields).unwrap();
            let text = written(&arena, &table);
            text.split_once("HTTP/1.1\r\n").unwrap().1.replace("host: a.example\r\n", "")
        };
        assert_eq!(
            lines(&[("cookie", "a=b"), ("cookie", "c=d"), ("cookie", "e")]),
            "cookie: a=b; c=d; e\r\n\r\n"
        );
        assert_eq!(
            lines(&[("x", "y"), ("cookie", "a"), ("cookie", "b"), ("z", ""), ("w", "v")]),
            "x: y\r\ncookie: a; b\r\nz: \r\nw: v\r\n\r\n"
        );
        assert_eq!(
            lines(&[
                ("cookie", "a"),
                ("x", "1"),
                ("cookie", "b"),
                ("cookie", "c"),
                ("y", "2"),
                ("z", "3"),
                ("cookie", "d")
            ]),
            "x: 1\r\ny: 2\r\nz: 3\r\ncookie: a; b; c; d\r\n\r\n"
        );
        assert_eq!(
            lines(&[("cookie", ""), ("cookie", "a"), ("cookie", ""), ("cookie", "b")]),
            "cookie: a; b\r\n\r\n"
        );
        assert_eq!(
            lines(&[("cookie", ""), ("x", "1"), ("cookie", ""), ("cookie", "b"), ("x", "2"), ("cookie", "")]),
            "x: 1\r\nx: 2\r\ncookie: b\r\n\r\n"
        );
        assert_eq!(lines(&[("cookie", ""), ("cookie", "")]), "cookie: \r\n\r\n");
        // A hundred of them are one field.
        let many = vec![("cookie", "n=v"); 300];
        assert_eq!(get(&many).unwrap().1.fields.len(), 2);
        // A line that would be too long is refused, not cut.
        let limits = HeadLimits { head_bytes_max: 65_535, ..LIMITS };
        let long = "c".repeat(16_000);
        let fields =
            [&GET[..], &[("cookie", &long), ("x", "y"), ("cookie", &long), ("z", &long[..9000])]].concat();
        assert!(judge(&fields[..7], true, &Rules { limits: &limits, ..RULES }).is_ok());
        assert_eq!(judge(&fields, true, &Rules { limits: &limits, ..RULES }).err(), Some("head_size"));
    }

    #[test]
    fn bounds_are_those_of_http_1_1_and_exact() {
        let list = |fields: &[(&str, &str)]| {
            fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>()
        };
        let fields = [&GET[..], &[("a", "b")]].concat();
        let limits = HeadLimits { head_bytes_max: list(&fields), ..LIMITS };
        assert!(judge(&fields, true, &Rules { limits: &limits, ..RULES }).is_ok());
        let limits = HeadLimits { head_bytes_max: list(&fields) - 1, ..LIMITS };
        assert_eq!(judge(&fields, true, &Rules { limits: &limits, ..RULES }).err(), Some("head_size"));
        // Host counts as a field.
        let limits = HeadLimits { fields_max: 2, ..LIMITS };
        assert!(judge(&fields, true, &Rules { limits: &limits, ..RULES }).is_ok());
        let limits = HeadLimits { fields_max: 1, ..LIMITS };
        assert_eq!(judge(&fields, true, &Rules { limits: &limits, ..RULES }).err(), Some("field_count"));
        let most = vec![("a", "b"); 200];
        assert_eq!(get(&most).err(), Some("field_count"));
        let limits = HeadLimits { target_bytes_max: 4, ..LIMITS };
        assert!(judge(&GET, true, &Rules { limits: &limits, ..RULES }).is_ok());
        let limits = HeadLimits { target_bytes_max: 3, ..LIMITS };
        assert_eq!(judge(&GET, true, &Rules { limits: &limits, ..RULES }).err(), Some("target_size"));
        let largest = HeadLimits { head_bytes_max: usize::MAX, ..LIMITS };
        let long = "v".repeat(65_000);
        let rules = Rules { limits: &largest, ..RULES };
        assert!(judge(&[&GET[..], &[("a", &long)]].concat(), true, &rules).is_ok());
        assert_eq!(
            judge(&[&GET[..], &[("a", &long), ("b", &long)]].concat(), true, &rules).err(),
            Some("head_size")
        );
        // An authority that would be twice in the arena, and no longer fit.
        let authority = [GET[0], GET[1], (":authority", &long), GET[3]];
        assert_eq!(judge(&authority, true, &rules).err(), Some("head_size"));
    }

    #[test]
    fn a_refused_head_leaves_the_table_right_for_the_next() {
        let mut decoder = Decoder::new();
        let (mut arena, mut table) = (Vec::new(), RequestTable::new());
        // `a: b` and, behind a name that is refused, `c: d` go into the table.
        let refused =
            [&[0x82, 0x87, 0x84, 0x41, 1, b'a'][..], &[0x40, 1, b'A', 1, b'b'], &[0x40, 1, b'c', 1, b'd']]
                .concat();
        let found = request(&mut decoder, &refused, true, &RULES, &mut arena, &mut table).unwrap();
        assert_eq!(found.map_err(|reason| reason.token), Err("field_name_case"));
        assert_eq!(table.method, Method::Get);
        let found =
            request(&mut decoder, &[0x82, 0x87, 0x84, 0xc0, 0xbe], true, &RULES, &mut arena, &mut table)
                .unwrap();
        assert!(found.is_ok());
        assert_eq!(written(&arena, &table), "GET / HTTP/1.1\r\nc: d\r\nhost: a\r\n\r\n");
        // The name that was refused is so as an index.
        let found =
            request(&mut decoder, &[0x82, 0x87, 0x84, 0xc0, 0xbf], true, &RULES, &mut arena, &mut table)
                .unwrap();
        assert_eq!(found.map_err(|reason| reason.token), Err("field_name_case"));
        assert_eq!(
            request(&mut decoder, &[0xff], true, &RULES, &mut arena, &mut table),
            Err(Error::Truncated)
        );
    }

    #[test]
    fn rfc_7541_6_2_3_what_may_never_be_indexed_is_told() {
        let mut encoder = Encoder::new(Sharing::One);
        let mut out = Vec::new();
        let mut writing = encoder.block(&mut out);
        writing.method(b"GET");
        writing.scheme(true);
        writing.authority(b"a.example");
        writing.path(b"/", None);
        writing.lines(b"x-a: b\r\nauthorization: c\r\ncookie: d\r\nx-e: f\r\n");
        let (mut arena, mut table) = (Vec::new(), RequestTable::new());
        request(&mut Decoder::new(), &out, true, &RULES, &mut arena, &mut table).unwrap().unwrap();
        assert!(!table.never_indexed, "kinds that never are need not be told of");
        let mut told = vec![0x82, 0x87, 0x84, 0x41, 1, b'a'];
        told.extend(b"\x10\x03x-a\x01b\x00\x03x-e\x01f");
        request(&mut Decoder::new(), &told, true, &RULES, &mut arena, &mut table).unwrap().unwrap();
        assert!(table.never_indexed);
        // And nothing of such a head becomes an entry.
        let mut out = Vec::new();
        let mut encoder = Encoder::new(Sharing::One);
        let mut writing = encoder.block(&mut out);
        writing.set_never_indexed(table.never_indexed);
        writing.lines(b"x-a: b\r\nserver: f\r\n");
        let mut found = Vec::new();
        Decoder::new()
            .decode(&out, 1000, &mut Vec::new(), |arena, line| {
                found.push((String::from_utf8_lossy(line.name(arena)).into_owned(), line.never_indexed));
                true
            })
            .unwrap();
        assert_eq!(found, ["x-a", "server"].map(|name| (name.to_owned(), true)));
    }

    fn respond(fields: &[(&str, &str)], end: bool, method: Method) -> Result<ResponseTable, &'static str> {
        let (mut arena, mut table) = (Vec::new(), ResponseTable::new());
        let found =
            response(&mut Decoder::new(), &block(fields), end, &LIMITS, method, &mut arena, &mut table)
                .unwrap();
        found.map(|_| table).map_err(|reason| {
            assert_eq!(reason.status, 502);
            reason.token
        })
    }

    #[test]
    fn rfc_9113_8_3_2_a_response_has_a_status_and_nothing_else() {
        for (fields, end, reason) in [
            (&[][..], true, "response_pseudo_field"),
            (&[("a", "b")], true, "response_pseudo_field"),
            (&[(":status", "200"), (":status", "200")], true, "response_pseudo_field"),
            (&[("a", "b"), (":status", "200")], true, "response_pseudo_field"),
            (&[(":status", "200"), (":path", "/")], true, "response_pseudo_field"),
            (&[(":status", "101")], false, "response_status"),
            (&[(":status", "099")], true, "response_status"),
            (&[(":status", "600")], true, "response_status"),
            (&[(":status", "20")], true, "response_status"),
            (&[(":status", "2000")], true, "response_status"),
            (&[(":status", "+20")], true, "response_status"),
            (&[(":status", "200 OK")], true, "response_status"),
            (&[(":status", "103")], true, "response_body_truncated"),
            (&[(":status", "200"), ("content-length", "3")], true, "response_body_truncated"),
            (&[(":status", "200"), ("content-length", "x")], false, "response_length_syntax"),
            (&[(":status", "204"), ("content-length", "3")], true, "response_body_forbidden"),
            (&[(":status", "200"), ("connection", "close")], true, "response_connection"),
            (&[(":status", "200"), ("transfer-encoding", "chunked")], true, "response_connection"),
            (&[(":status", "200"), ("Server", "a")], true, "response_field_name"),
            (&[(":status", "200"), ("server", "a\r\nb: c")], true, "response_field_value"),
            (&[(":status", "200"), ("content_length", "1")], true, "response_field_twin"),
        ] {
            assert_eq!(respond(fields, end, Method::Get).err(), Some(reason), "{fields:?}");
        }
        let framing = |fields: &[(&str, &str)], end, method| {
            let table = respond(fields, end, method).unwrap();
            (table.status, table.framing, table.declared)
        };
        let (none, open) = (BodyLength::None, BodyLength::UntilClose);
        let three = BodyLength::Length(3);
        let length = [(":status", "200"), ("content-length", "3")];
        assert_eq!(framing(&[(":status", "200")], true, Method::Get), (200, none, none));
        assert_eq!(framing(&[(":status", "599")], false, Method::Get), (599, open, none));
        assert_eq!(framing(&[(":status", "100")], false, Method::Get), (100, none, none));
        assert_eq!(framing(&length, false, Method::Get), (200, three, three));
        assert_eq!(framing(&length, true, Method::Head), (200, none, three));
        assert_eq!(framing(&[(":status", "304"), length[1]], true, Method::Get), (304, none, three));
        assert_eq!(
            respond(&[(":status", "200"), ("cookie", "a"), ("cookie", "b")], true, Method::Get)
                .unwrap()
                .fields
                .len(),
            2
        );
    }

    #[test]
    fn white_space_around_values_of_upstreams_is_taken_off() {
        let fields = [
            (":status", "200"),
            ("a", " b c\t "),
            ("c", " \t"),
            ("content-length", " 3"),
            ("d", "e"),
            ("f", "g "),
        ];
        let (mut arena, mut table) = (Vec::new(), ResponseTable::new());
        let block_of = block(&fields);
        response(&mut Decoder::new(), &block_of, false, &LIMITS, Method::Get, &mut arena, &mut table)
            .unwrap()
            .unwrap();
        let lines = b"a: b c\r\nc: \r\ncontent-length: 3\r\nd: e\r\nf: g\r\n";
        assert!(arena.ends_with(lines), "{}", String::from_utf8_lossy(&arena));
        let values = table.fields.as_slice().iter().map(|field| field.value().of(&arena));
        assert!(values.eq([&b"b c"[..], b"", b"3", b"e", b"g"]));
        assert_eq!(table.framing, BodyLength::Length(3));
        let mut lines = Vec::new();
        // As a grpcio server sends what an application has said.
        let sent = [("grpc-status", "5"), ("grpc-message", " a b "), ("x", "y")];
        trailers(&mut Decoder::new(), &block(&sent), Side::Upstream, &mut lines).unwrap().unwrap();
        assert_eq!(lines, b"grpc-status: 5\r\ngrpc-message: a b\r\nx: y\r\n");
        let of_client = trailers(&mut Decoder::new(), &block(&sent), Side::Client, &mut lines).unwrap();
        assert_eq!(of_client.map_err(|reason| reason.token), Err("field_value_space"));
        assert_eq!(respond(&[(":status", " 200")], true, Method::Get).err(), Some("response_status"));
    }

    #[test]
    fn rfc_9113_8_1_trailers_are_those_that_http_1_1_takes() {
        let judge = |fields: &[(&str, &str)], side| {
            let mut arena = b"before".to_vec();
            let found = trailers(&mut Decoder::new(), &block(fields), side, &mut arena).unwrap();
            found.map(|_| String::from_utf8(arena).unwrap()).map_err(|reason| reason.token)
        };
        let fine = [("grpc-status", "0"), ("grpc-message", ""), ("etag", "a")];
        assert_eq!(judge(&fine, Side::Upstream).unwrap(), "grpc-status: 0\r\ngrpc-message: \r\netag: a\r\n");
        assert_eq!(judge(&[], Side::Client).unwrap(), "");
        for (field, reason) in [
            ((":path", "/"), "trailer_forbidden"),
            ((":status", "200"), "trailer_forbidden"),
            (("content-length", "3"), "trailer_forbidden"),
            (("connection", "close"), "trailer_forbidden"),
            (("authorization", "a"), "trailer_forbidden"),
            (("host", "a"), "trailer_forbidden"),
            (("x-user", "a"), "trailer_forbidden"),
            (("A", "a"), "field_name_case"),
            (("a", "b\r\nc: d"), "field_value_control"),
        ] {
            assert_eq!(judge(&[field], Side::Client).err(), Some(reason), "{field:?}");
        }
        assert_eq!(judge(&[(":status", "200")], Side::Upstream).err(), Some("response_trailer_forbidden"));
        assert!(judge(&vec![("a", "b"); 64], Side::Client).is_ok());
        assert_eq!(judge(&vec![("a", "b"); 65], Side::Client).err(), Some("trailer_size"));
        let long = "a".repeat(TRAILER_BYTES_MAX);
        assert!(judge(&[("a", &long[33..])], Side::Client).is_ok());
        assert_eq!(judge(&[("a", &long[32..])], Side::Client).err(), Some("trailer_size"));
    }
}
