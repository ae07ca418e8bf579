//! HTTP/1.1 heads: bytes in, tables of offsets out.
//!
//! For: `downstream` (requests) and `upstream` (responses). Not for: bodies ([`super::chunked`]), where they end
//! ([`super::framing`]), the target's canonical form ([`crate::http::target`]).
//!
//! **Law.** One pass from left to right, no copy, no allocation. A head is accepted only if every recipient that obeys
//! RFC 9112 cuts it in the same places; none of the leniency that RFC 9112 offers recipients is taken. What an error
//! is called depends only on the bytes before it, never on how they were cut into reads.
//!
//! **Slow clients.** Lines that are complete are never looked at again. While a line is incomplete a call costs a
//! search for LF in the new bytes alone, so that a head sent byte by byte costs as much as one sent whole. That search
//! cannot disagree with the parser: no line ends without LF, and what ends is read by the parser.

use super::{
    flaw::{Flaw, Side},
    framing,
};
use crate::http::{
    HeadLimits, Known, Method, Reason, RequestTable, ResponseTable, Span, Version,
    field::{FIELD_NAME_BYTES_MAX, FIELDS_MAX, Field, FieldTable},
    head::{Progress, Stage},
    scan, target,
};

/// The request line is not `method SP target SP version`.
pub const REQUEST_LINE: Reason = Reason::client("request_line", 2000, 400, "The request line is malformed");
/// The method is no token, or longer than 32 bytes.
pub const METHOD_SYNTAX: Reason = Reason::client("method_syntax", 2001, 400, "The method is malformed");
/// No version (HTTP/0.9), or one that is not `HTTP/` digit `.` digit.
pub const VERSION_SYNTAX: Reason =
    Reason::client("version_syntax", 2002, 400, "The HTTP version is malformed");
/// A version other than 1.0 and 1.1.
pub const VERSION_UNSUPPORTED: Reason =
    Reason::client("version_unsupported", 2003, 505, "The HTTP version is not supported");
/// An empty line before the request line (RFC 9112 §2.2 would have it skipped).
pub const LINE_EMPTY: Reason = Reason::client("line_empty", 2005, 400, "An empty line before the request");
/// The target is longer than `sizes.target`.
pub const TARGET_SIZE: Reason = Reason::client("target_size", 2006, 414, "The target is too long");

/// The status line is malformed.
pub const RESPONSE_LINE: Reason =
    Reason::upstream("response_line", 4200, 502, "The upstream's response is malformed");
/// A response version other than 1.0 and 1.1.
pub const RESPONSE_VERSION: Reason =
    Reason::upstream("response_version", 4201, 502, "The upstream's HTTP version is not supported");
/// A status code outside 100–599.
pub const RESPONSE_STATUS: Reason =
    Reason::upstream("response_status", 4202, 502, "The upstream's status code is malformed");

/// Longest method in bytes; the longest registered one has 18.
pub const METHOD_BYTES_MAX: usize = 32;

/// What a call of a parser came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parse {
    /// The head is not complete. Call again with the same bytes and more behind them.
    Partial,
    /// The head is complete.
    Complete {
        /// Its length; the body starts there.
        head_bytes: usize,
    },
}

/// Parses the request head at the start of `bytes`.
///
/// After [`Parse::Partial`] call again with the same table and a slice that begins with the same bytes. After anything
/// else the next call begins a new head; spans stay valid until then.
///
/// # Errors
/// The reason to refuse the request with: 400, 414, 417, 431, 501 or 505. The connection cannot be used again.
#[inline]
pub fn parse_request(bytes: &[u8], limits: &HeadLimits, out: &mut RequestTable) -> Result<Parse, Reason> {
    let window = window(bytes, limits);
    if out.progress.stage == Stage::Start || usize::from(out.progress.seen) > window.len() {
        out.reset();
    } else if still_waiting(&mut out.progress, window, limits) {
        return Ok(Parse::Partial);
    }
    let parsed = request_head(window, limits, out);
    match parsed {
        Ok(Some(head_bytes)) => {
            out.progress = Progress::default();
            Ok(Parse::Complete { head_bytes })
        }
        Ok(None) if window.len() < head_bytes_max(limits) => {
            remember(&mut out.progress, window);
            Ok(Parse::Partial)
        }
        Ok(None) => {
            let first_line = out.progress.stage == Stage::FirstLine;
            out.progress = Progress::default();
            Err(if first_line { TARGET_SIZE } else { Flaw::HeadSize.of(Side::Client) })
        }
        Err(reason) => {
            out.progress = Progress::default();
            Err(reason)
        }
    }
}

/// Parses the response head at the start of `bytes`, the answer to a request of method `method`. Calls go on as with
/// [`parse_request`]. Interim responses (1xx) are heads of their own: the final one follows.
///
/// # Errors
/// The reason for answering 502. The upstream connection cannot be used again.
#[inline]
pub fn parse_response(
    bytes: &[u8],
    limits: &HeadLimits,
    method: Method,
    out: &mut ResponseTable,
) -> Result<Parse, Reason> {
    let window = window(bytes, limits);
    if out.progress.stage == Stage::Start || usize::from(out.progress.seen) > window.len() {
        out.reset();
    } else if still_waiting(&mut out.progress, window, limits) {
        return Ok(Parse::Partial);
    }
    let parsed = response_head(window, limits, method, out);
    match parsed {
        Ok(Some(head_bytes)) => {
            out.progress = Progress::default();
            Ok(Parse::Complete { head_bytes })
        }
        Ok(None) if window.len() < head_bytes_max(limits) => {
            remember(&mut out.progress, window);
            Ok(Parse::Partial)
        }
        Ok(None) => {
            out.progress = Progress::default();
            Err(Flaw::HeadSize.of(Side::Upstream))
        }
        Err(reason) => {
            out.progress = Progress::default();
            Err(reason)
        }
    }
}

/// Offsets are `u16`, whatever the configuration says.
#[inline(always)]
fn head_bytes_max(limits: &HeadLimits) -> usize {
    limits.head_bytes_max.min(usize::from(u16::MAX))
}

/// The bytes that may belong to the head: the parser never looks further, so that its verdict is the same whether
/// more has arrived or not.
#[inline(always)]
fn window<'a>(bytes: &'a [u8], limits: &HeadLimits) -> &'a [u8] {
    &bytes[..bytes.len().min(head_bytes_max(limits))]
}

/// Whether the line that was incomplete still is, so that there is nothing to do. When a bound is reached the parser
/// itself must look: an error inside the bound comes before the bound.
fn still_waiting(progress: &mut Progress, window: &[u8], limits: &HeadLimits) -> bool {
    let bound = match progress.stage {
        Stage::FirstLine => limits.target_bytes_max.min(head_bytes_max(limits)),
        Stage::Start | Stage::Fields => head_bytes_max(limits),
    };
    if !progress.waiting || window.len() >= bound {
        return false;
    }
    let fresh = &window[usize::from(progress.seen)..];
    if memchr::memchr(b'\n', fresh).is_some() {
        return false;
    }
    progress.seen = window.len() as u16;
    true
}

fn remember(progress: &mut Progress, window: &[u8]) {
    progress.seen = window.len() as u16;
    progress.waiting = memchr::memchr(b'\n', &window[usize::from(progress.line)..]).is_none();
}

/// The whole head, or what of it is new. `None`: more bytes are needed.
#[inline(always)]
fn request_head(bytes: &[u8], limits: &HeadLimits, out: &mut RequestTable) -> Result<Option<usize>, Reason> {
    if out.progress.stage != Stage::Fields {
        out.progress.stage = Stage::FirstLine;
        match request_line(bytes, limits, out)? {
            None => return Ok(None),
            Some(end) => {
                out.progress = Progress { stage: Stage::Fields, line: end as u16, ..Progress::default() }
            }
        }
    }
    let start = usize::from(out.progress.line);
    match field_lines(bytes, start, limits, &mut out.fields, Side::Client)? {
        Lines::More { line } => {
            out.progress.line = line as u16;
            Ok(None)
        }
        Lines::End { at } => {
            framing::settle_request(bytes, limits, out)?;
            Ok(Some(at))
        }
    }
}

/// RFC 9112 §3: `method SP request-target SP HTTP-version CRLF`, one space each.
#[inline(always)]
fn request_line(bytes: &[u8], limits: &HeadLimits, out: &mut RequestTable) -> Result<Option<usize>, Reason> {
    let method_end = match bytes.first_chunk::<5>() {
        Some([b'G', b'E', b'T', b' ', _]) => {
            out.method = Method::Get;
            3
        }
        Some(b"POST ") => {
            out.method = Method::Post;
            4
        }
        _ => match other_method(bytes)? {
            None => return Ok(None),
            Some((method, end)) => {
                out.method = method;
                end
            }
        },
    };
    out.method_span = Span { start: 0, len: method_end as u16 };
    let start = method_end + 1;
    let found = target::scan(bytes, start);
    if found.end - start > limits.target_bytes_max {
        return Err(TARGET_SIZE);
    }
    match bytes.get(found.end) {
        None => return Ok(None),
        Some(b' ') if found.end > start => {}
        Some(byte) => return Err(target_flaw(*byte)),
    }
    out.target_span = Span::new(start, found.end);
    if found.plain {
        out.plain_path = Span::new(start, found.path_end);
    }
    let at = found.end + 1;
    match bytes.get(at..at + 10) {
        Some(b"HTTP/1.1\r\n") => out.version = Version::Http11,
        Some(b"HTTP/1.0\r\n") => out.version = Version::Http10,
        _ => return unusual_version(&bytes[at..]),
    }
    Ok(Some(at + 10))
}

#[cold]
fn target_flaw(byte: u8) -> Reason {
    match byte {
        b' ' | b'\t' => REQUEST_LINE,
        // HTTP/0.9: a request line of two words.
        b'\r' | b'\n' => VERSION_SYNTAX,
        _ => target::refused_byte(byte),
    }
}

/// A method that is not one of the most frequent, and where it ends. CONNECT and TRACE never get further.
#[inline(never)]
fn other_method(bytes: &[u8]) -> Result<Option<(Method, usize)>, Reason> {
    if let Some(b'\r' | b'\n') = bytes.first() {
        return Err(LINE_EMPTY);
    }
    let end = scan::token(bytes, 0);
    if end > METHOD_BYTES_MAX {
        return Err(METHOD_SYNTAX);
    }
    match bytes.get(end) {
        None => return Ok(None),
        Some(b' ') if end > 0 => {}
        Some(_) => return Err(METHOD_SYNTAX),
    }
    let token = &bytes[..end];
    match Method::of(token) {
        Method::Connect | Method::Trace => Err(target::METHOD_REFUSED),
        Method::Other if Method::ALL.iter().any(|m| token.eq_ignore_ascii_case(m.name().as_bytes())) => {
            Err(target::METHOD_CASE)
        }
        method => Ok(Some((method, end))),
    }
}

/// What stands where `HTTP/1.1` CRLF was expected. `None` only while fewer than those ten bytes and no LF are there.
#[cold]
fn unusual_version(rest: &[u8]) -> Result<Option<usize>, Reason> {
    let line = &rest[..rest.len().min(10)];
    let line = match line.iter().position(|byte| *byte == b'\n') {
        Some(end) => &line[..=end],
        None if line.len() < 10 => return Ok(None),
        None => line,
    };
    Err(match line {
        [b' ', ..] => REQUEST_LINE,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor, ending @ ..]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            match ending {
                b"\r\n" => VERSION_UNSUPPORTED,
                [b'\n', ..] | [b'\r', ..] => Flaw::LineEnding.of(Side::Client),
                _ => VERSION_SYNTAX,
            }
        }
        _ => VERSION_SYNTAX,
    })
}

#[inline(always)]
fn response_head(
    bytes: &[u8],
    limits: &HeadLimits,
    method: Method,
    out: &mut ResponseTable,
) -> Result<Option<usize>, Reason> {
    if out.progress.stage != Stage::Fields {
        out.progress.stage = Stage::FirstLine;
        match status_line(bytes, out)? {
            None => return Ok(None),
            Some(end) => {
                out.progress = Progress { stage: Stage::Fields, line: end as u16, ..Progress::default() }
            }
        }
    }
    let start = usize::from(out.progress.line);
    match field_lines(bytes, start, limits, &mut out.fields, Side::Upstream)? {
        Lines::More { line } => {
            out.progress.line = line as u16;
            Ok(None)
        }
        Lines::End { at } => {
            framing::settle_response(bytes, method, out)?;
            Ok(Some(at))
        }
    }
}

/// RFC 9112 §4: `HTTP-version SP status-code SP [ reason-phrase ] CRLF`. The second space may be missing where the
/// phrase is empty: many origins leave it out, and nothing can be read in two ways by that.
#[inline(always)]
fn status_line(bytes: &[u8], out: &mut ResponseTable) -> Result<Option<usize>, Reason> {
    let Some(start) = bytes.first_chunk::<13>() else { return short_status_line(bytes) };
    out.version = match &start[..9] {
        b"HTTP/1.1 " => Version::Http11,
        b"HTTP/1.0 " => Version::Http10,
        other => return Err(status_line_flaw(other)),
    };
    let digits = &start[9..12];
    if !digits.iter().all(u8::is_ascii_digit) || !(b'1'..=b'5').contains(&digits[0]) {
        return Err(RESPONSE_STATUS);
    }
    out.status = digits.iter().fold(0, |status, digit| status * 10 + u16::from(digit - b'0'));
    let reason_start = match start[12] {
        b' ' => 13,
        b'\r' => 12,
        b'\n' => return Err(Flaw::LineEnding.of(Side::Upstream)),
        digit if digit.is_ascii_digit() => return Err(RESPONSE_STATUS),
        _ => return Err(RESPONSE_LINE),
    };
    let mut at = reason_start;
    loop {
        at = scan::control(bytes, at);
        match (bytes.get(at), bytes.get(at + 1)) {
            (Some(b'\r'), Some(b'\n')) => break,
            (None, _) | (Some(b'\r'), None) => return Ok(None),
            (Some(b'\t'), _) => at += 1,
            (Some(b'\r' | b'\n'), _) => return Err(Flaw::LineEnding.of(Side::Upstream)),
            _ => return Err(RESPONSE_LINE),
        }
    }
    out.reason_span = Span::new(reason_start, at);
    Ok(Some(at + 2))
}

/// Fewer than the 13 bytes of the shortest status line: rubbish is not waited for.
#[cold]
fn short_status_line(bytes: &[u8]) -> Result<Option<usize>, Reason> {
    let known = bytes.len().min(5);
    if bytes[..known] != b"HTTP/"[..known] || bytes.contains(&b'\n') {
        return Err(status_line_flaw(bytes));
    }
    Ok(None)
}

#[cold]
fn status_line_flaw(start: &[u8]) -> Reason {
    match start {
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor, b' ', ..]
            if major.is_ascii_digit()
                && minor.is_ascii_digit()
                && !(*major == b'1' && matches!(minor, b'0' | b'1')) =>
        {
            RESPONSE_VERSION
        }
        _ => RESPONSE_LINE,
    }
}

/// What [`field_lines`] came to.
enum Lines {
    /// The line at this offset is incomplete; those before it are in the table.
    More { line: usize },
    /// The empty line was found; the head ends at this offset.
    End { at: usize },
}

#[inline(always)]
fn field_lines(
    bytes: &[u8],
    start: usize,
    limits: &HeadLimits,
    fields: &mut FieldTable,
    side: Side,
) -> Result<Lines, Reason> {
    let fields_max = limits.fields_max.min(FIELDS_MAX);
    let mut at = start;
    loop {
        match field_line(bytes, at, limits.obs_text, side)? {
            Line::More => return Ok(Lines::More { line: at }),
            Line::Empty => return Ok(Lines::End { at: at + 2 }),
            Line::Field { field, regular, odd, next } => {
                if fields.len() >= fields_max || !fields.push(field, regular, odd) {
                    return Err(Flaw::FieldCount.of(side));
                }
                at = next;
            }
        }
    }
}

/// What stands at the start of a line in a field section.
pub(super) enum Line {
    /// The line is incomplete.
    More,
    /// CRLF: the section ends.
    Empty,
    /// A field.
    Field {
        /// Its offsets.
        field: Field,
        /// It is of the form `Name: value` CRLF, with exactly one space.
        regular: bool,
        /// Its name has a byte besides letters, digits and hyphens.
        odd: bool,
        /// Offset of the next line.
        next: usize,
    },
}

/// RFC 9112 §5: `field-name ":" OWS field-value OWS CRLF`; the one place where a field line is read.
#[inline(always)]
pub(super) fn field_line(bytes: &[u8], line: usize, obs_text: bool, side: Side) -> Result<Line, Reason> {
    let mut name_end = scan::name(bytes, line);
    let mut odd = false;
    match bytes.get(name_end) {
        Some(b':') if name_end > line => {}
        Some(b'\r') if name_end == line => {
            return match bytes.get(line + 1) {
                None => Ok(Line::More),
                Some(b'\n') => Ok(Line::Empty),
                Some(_) => Err(Flaw::LineEnding.of(side)),
            };
        }
        _ => match odd_name(bytes, line, side)? {
            None => return Ok(Line::More),
            Some(end) => {
                name_end = end;
                odd = true;
            }
        },
    }
    if name_end - line > FIELD_NAME_BYTES_MAX {
        return Err(Flaw::NameSize.of(side));
    }
    let known = Known::of(&bytes[line..name_end]);
    let mut value_start = name_end + 1;
    let mut regular = bytes.get(value_start) == Some(&b' ');
    value_start += usize::from(regular);
    while let Some(b' ' | b'\t') = bytes.get(value_start) {
        regular = false;
        value_start += 1;
    }
    let mut end = value_start;
    loop {
        end = scan::control(bytes, end);
        match (bytes.get(end), bytes.get(end + 1)) {
            (Some(b'\r'), Some(b'\n')) => break,
            (None, _) | (Some(b'\r'), None) => return Ok(Line::More),
            (Some(b'\t'), _) => end += 1,
            (Some(b'\r' | b'\n'), _) => return Err(Flaw::LineEnding.of(side)),
            (Some(_), _) => return Err(Flaw::ValueControl.of(side)),
        }
    }
    let next = end + 2;
    while end > value_start && matches!(bytes[end - 1], b' ' | b'\t') {
        regular = false;
        end -= 1;
    }
    if !obs_text && !bytes[value_start..end].is_ascii() {
        return Err(Flaw::ValueObsText.of(side));
    }
    regular &= end > value_start;
    let field = Field {
        name_start: line as u16,
        value_start: value_start as u16,
        value_len: (end - value_start) as u16,
        name_len: (name_end - line) as u8,
        known,
    };
    Ok(Line::Field { field, regular, odd, next })
}

/// A name that holds more than letters, digits and hyphens, or no name at all.
#[cold]
fn odd_name(bytes: &[u8], line: usize, side: Side) -> Result<Option<usize>, Reason> {
    let end = scan::token(bytes, line);
    let flaw = match bytes.get(end) {
        None => return Ok(None),
        Some(b':') if end > line => return Ok(Some(end)),
        // RFC 9112 §5.2: a line that starts with white space continues the one before; behind the first line it would
        // be a field that only some see (§2.2).
        Some(b' ' | b'\t') if end == line => Flaw::Folded,
        // RFC 9112 §5.1: "no whitespace is allowed between the field name and colon".
        Some(b' ' | b'\t') => Flaw::NameSpace,
        Some(b'\n') => Flaw::LineEnding,
        Some(_) => Flaw::NameSyntax,
    };
    Err(flaw.of(side))
}
