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
    method_of(&bytes[..end]).map(|method| Some((method, end)))
}

/// The method of a token that may be forwarded.
///
/// # Errors
/// [`target::METHOD_REFUSED`], [`target::METHOD_CASE`].
pub(crate) fn method_of(token: &[u8]) -> Result<Method, Reason> {
    match Method::of(token) {
        Method::Connect | Method::Trace => Err(target::METHOD_REFUSED),
        Method::Other if Method::ALL.iter().any(|m| token.eq_ignore_ascii_case(m.name().as_bytes())) => {
            Err(target::METHOD_CASE)
        }
        method => Ok(method),
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
    let protocol = bytes.len().min(5);
    if bytes[..protocol] != b"HTTP/"[..protocol] {
        return Err(RESPONSE_LINE);
    }
    match bytes.get(..9) {
        Some(b"HTTP/1.1 " | b"HTTP/1.0 ") if bytes[9..].iter().all(u8::is_ascii_digit) => Ok(None),
        Some(b"HTTP/1.1 " | b"HTTP/1.0 ") => Err(RESPONSE_STATUS),
        Some(version) => Err(status_line_flaw(version)),
        None if bytes.contains(&b'\n') => Err(RESPONSE_LINE),
        None => Ok(None),
    }
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

/// Not inlined: a loop of its own keeps its registers, and `bytes` a length that is not computed anew.
#[inline(never)]
fn field_lines(
    bytes: &[u8],
    start: usize,
    limits: &HeadLimits,
    fields: &mut FieldTable,
    side: Side,
) -> Result<Lines, Reason> {
    let fields_max = limits.fields_max.min(FIELDS_MAX);
    let obs_text = limits.obs_text;
    let mut at = start;
    loop {
        if let Some((field, next)) = regular_line(bytes, at, obs_text) {
            if fields.len() >= fields_max || !fields.push(field, true, false) {
                return Err(Flaw::FieldCount.of(side));
            }
            at = next;
            continue;
        }
        if let Some([b'\r', b'\n', ..]) = bytes.get(at..) {
            return Ok(Lines::End { at: at + 2 });
        }
        match field_line(bytes, at, obs_text, side)? {
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

/// The fast way through what nearly all lines are: a name of letters, digits and hyphens, `: `, a value without
/// controls and white space at its ends, CRLF. `None` says nothing but that [`field_line`] has to look.
#[inline(always)]
fn regular_line(bytes: &[u8], line: usize, obs_text: bool) -> Option<(Field, usize)> {
    let rest = bytes.get(line..)?;
    let name_len = scan::name(rest);
    let (name, rest) = rest.split_at_checked(name_len)?;
    let (separator, value) = rest.split_first_chunk::<2>()?;
    let value_len = scan::control(value, 0);
    let (value, rest) = value.split_at_checked(value_len)?;
    if separator != b": " || rest.first_chunk::<2>() != Some(b"\r\n") {
        return None;
    }
    if *value.first()? == b' '
        || *value.last()? == b' '
        || name.is_empty()
        || name.len() > FIELD_NAME_BYTES_MAX
    {
        return None;
    }
    if !obs_text && !value.is_ascii() {
        return None;
    }
    let value_start = line + name_len + 2;
    let field = Field {
        name_start: line as u16,
        value_start: value_start as u16,
        value_len: value_len as u16,
        name_len: name_len as u8,
        known: Known::of(name),
    };
    Some((field, value_start + value_len + 2))
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

/// RFC 9112 §5: `field-name ":" OWS field-value OWS CRLF`, in all its forms; the law that [`regular_line`] hastens.
#[inline(never)]
pub(super) fn field_line(bytes: &[u8], line: usize, obs_text: bool, side: Side) -> Result<Line, Reason> {
    let mut name_end = line + scan::name(bytes.get(line..).unwrap_or_default());
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
    while let Some(b' ' | b'\t') = bytes.get(value_start) {
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
        end -= 1;
    }
    if !obs_text && !bytes[value_start..end].is_ascii() {
        return Err(Flaw::ValueObsText.of(side));
    }
    let regular = bytes[name_end + 1..value_start] == *b" " && end + 2 == next && end > value_start;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{h1::laws, http::BodyLength};

    const LIMITS: HeadLimits = HeadLimits::DEFAULT;

    fn parse(head: &str) -> Result<RequestTable, &'static str> {
        parse_with(head, &LIMITS)
    }

    fn parse_with(head: &str, limits: &HeadLimits) -> Result<RequestTable, &'static str> {
        for cut in 0..9 {
            laws::heads(&[&[0, cut][..], head.as_bytes()].concat());
        }
        let mut table = RequestTable::new();
        match parse_request(head.as_bytes(), limits, &mut table) {
            Ok(Parse::Complete { head_bytes }) => {
                assert_eq!(head_bytes, head.len());
                Ok(table)
            }
            Ok(Parse::Partial) => Err("partial"),
            Err(reason) => {
                assert!(matches!(reason.status, 400 | 414 | 417 | 431 | 501 | 505));
                Err(reason.token)
            }
        }
    }

    /// A POST with these field lines.
    fn post(lines: &str) -> Result<RequestTable, &'static str> {
        parse(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))
    }

    /// A GET with these field lines.
    fn get(lines: &str) -> Result<RequestTable, &'static str> {
        parse(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"))
    }

    #[test]
    fn a_request_becomes_offsets() {
        let head = "PATCH /a/b?c=d HTTP/1.1\r\nHost: Example.com:81\r\nX-Odd_Name:\t x y \t\r\nEmpty:\r\n\
            Content-Length: 12\r\n\r\n";
        let table = parse(head).unwrap();
        let bytes = head.as_bytes();
        assert_eq!((table.method, table.method_span.of(bytes)), (Method::Patch, &b"PATCH"[..]));
        assert_eq!(table.target_span.of(bytes), b"/a/b?c=d");
        assert_eq!(table.plain_path.of(bytes), b"/a/b");
        assert_eq!((table.host.of(bytes), table.port, table.host_plain), (&b"Example.com"[..], 81, false));
        assert_eq!((table.framing, table.keep_alive), (BodyLength::Length(12), true));
        let fields: Vec<_> = table.fields.iter(bytes).map(|f| (f.name, f.value)).collect();
        assert_eq!(fields[1..3], [(&b"X-Odd_Name"[..], &b"x y"[..]), (b"Empty", b"")]);
        assert_eq!(table.fields.find_name(bytes, b"x-odd_name"), Some(&b"x y"[..]));
        assert_eq!(table.fields.find_name(bytes, b"CONTENT-LENGTH"), Some(&b"12"[..]));
        assert_eq!(table.fields.find_name(bytes, b"nothing"), None);
        assert_eq!(table.fields.irregular().iter().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(table.fields.odd().iter().collect::<Vec<_>>(), [1]);
    }

    #[test]
    fn every_prefix_of_a_head_is_partial_and_nothing_behind_it_matters() {
        let head = "POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
        for len in 0..head.len() {
            assert_eq!(parse(&head[..len]).err(), Some("partial"), "{len}");
        }
        for rest in ["GET", "\0", "\r\n", " x"] {
            let mut table = RequestTable::new();
            let bytes = format!("{head}{rest}");
            let parsed = parse_request(bytes.as_bytes(), &LIMITS, &mut table);
            assert_eq!(parsed, Ok(Parse::Complete { head_bytes: head.len() }));
        }
    }

    #[test]
    fn a_table_is_used_again_without_leftovers() {
        let mut table = RequestTable::new();
        let busy = b"OPTIONS * HTTP/1.0\r\nHost: A:1\r\nConnection: x, keep-alive\r\nX: y\r\nContent-Length: 3\r\n\r\n";
        let plain = b"GET /p HTTP/1.1\r\nHost: b\r\n\r\n";
        for bytes in [&busy[..], b"GET / HTTP/1.1\r\nBad\r\n", b"GET /partial HTTP/1.1\r\nHo"] {
            let _ = parse_request(bytes, &LIMITS, &mut table);
            table.reset();
            assert!(parse_request(plain, &LIMITS, &mut table).is_ok());
            assert_eq!((table.method, table.port, table.framing), (Method::Get, 0, BodyLength::None));
            assert_eq!((table.fields.len(), table.nominated.len(), table.keep_alive), (1, 0, true));
        }
        // After an end of either kind the next head begins by itself.
        assert!(parse_request(b"GET / HTTP/1.1\r\nBad\r\n", &LIMITS, &mut table).is_err());
        assert_eq!(
            parse_request(plain, &LIMITS, &mut table),
            Ok(Parse::Complete { head_bytes: plain.len() })
        );
        assert_eq!(
            parse_request(plain, &LIMITS, &mut table),
            Ok(Parse::Complete { head_bytes: plain.len() })
        );
    }

    #[test]
    fn request_lines_are_exact() {
        for (line, reason) in [
            ("\r\nGET / HTTP/1.1", "line_empty"),
            ("\nGET / HTTP/1.1", "line_empty"),
            (" GET / HTTP/1.1", "method_syntax"),
            ("GET", "method_syntax"),
            ("GET ", "version_syntax"),
            ("GET /", "version_syntax"),
            ("GET / ", "version_syntax"),
            ("GET  / HTTP/1.1", "request_line"),
            ("GET /  HTTP/1.1", "request_line"),
            ("GET\t/ HTTP/1.1", "method_syntax"),
            ("GET /\tHTTP/1.1", "request_line"),
            ("GET / HTTP/1.1 ", "version_syntax"),
            ("GET / HTTP/1.1\r", "line_ending"),
            ("GET / x HTTP/1.1", "version_syntax"),
            ("G@T / HTTP/1.1", "method_syntax"),
            ("G\0T / HTTP/1.1", "method_syntax"),
            ("GÉT / HTTP/1.1", "method_syntax"),
            ("\u{16}\u{3}\u{1}", "method_syntax"),
            ("get / HTTP/1.1", "method_case"),
            ("Post / HTTP/1.1", "method_case"),
            ("connect a:80 HTTP/1.1", "method_case"),
            ("CONNECT a:80 HTTP/1.1", "method_refused"),
            ("TRACE / HTTP/1.1", "method_refused"),
            ("GET / HTTP/1.2", "version_unsupported"),
            ("GET / HTTP/2.0", "version_unsupported"),
            ("GET / HTTP/0.9", "version_unsupported"),
            ("PRI * HTTP/2.0", "version_unsupported"),
            ("GET / HTTP/1.10", "version_syntax"),
            ("GET / HTTP/11", "version_syntax"),
            ("GET / HTTP/1,1", "version_syntax"),
            ("GET / http/1.1", "version_syntax"),
            ("GET / HTTP/a.b", "version_syntax"),
            ("GET / HTTP/1.", "version_syntax"),
            ("GET / HTTPS/1.1", "version_syntax"),
            ("GET / X", "version_syntax"),
            ("GET /#a HTTP/1.1", "target_fragment"),
            ("GET /\0 HTTP/1.1", "path_control"),
            ("GET /\u{e9} HTTP/1.1", "target_character"),
        ] {
            assert_eq!(parse(&format!("{line}\r\nHost: a\r\n\r\n")).err(), Some(reason), "{line:?}");
        }
        assert_eq!(parse("GET / HTTP/1.1\nHost: a\r\n\r\n").err(), Some("line_ending"));
        assert_eq!(parse("GET /\n").err(), Some("version_syntax"));
        assert_eq!(parse("PROPFIND / HTTP/1.1\r\nHost: a\r\n\r\n").unwrap().method, Method::Other);
    }

    #[test]
    fn rubbish_is_refused_at_its_first_wrong_byte() {
        for (bytes, reason) in [
            (&b"\x16\x03\x01"[..], METHOD_SYNTAX),
            (b"\r", LINE_EMPTY),
            (b"GET /\x01", target::PATH_CONTROL),
            (b"GET / X\r\n", VERSION_SYNTAX),
            (b"GET / HTTP/1.1\r\n ", Flaw::Folded.of(Side::Client)),
            (b"GET / HTTP/1.1\r\nA ", Flaw::NameSpace.of(Side::Client)),
            (b"GET / HTTP/1.1\r\nA: \x00", Flaw::ValueControl.of(Side::Client)),
        ] {
            assert_eq!(parse_request(bytes, &LIMITS, &mut RequestTable::new()), Err(reason));
        }
    }

    #[test]
    fn a_method_has_a_bound() {
        for (len, expected) in [(31, None), (32, None), (33, Some("method_syntax"))] {
            let head = format!("{} / HTTP/1.1\r\nHost: a\r\n\r\n", "M".repeat(len));
            assert_eq!(parse(&head).err(), expected);
        }
        let unended = "M".repeat(33);
        assert_eq!(parse(&unended).err(), Some("method_syntax"));
    }

    #[test]
    fn a_target_has_a_bound() {
        for (len, expected) in [(8191, None), (8192, None), (8193, Some("target_size"))] {
            let head = format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(len - 1));
            assert_eq!(parse(&head).err(), expected, "{len}");
        }
        // It does not take the end of the line to see it.
        assert_eq!(parse(&format!("GET /{}", "a".repeat(8192))).err(), Some("target_size"));
        assert_eq!(parse(&format!("GET /{}", "a".repeat(8191))).err(), Some("partial"));
        // A head that is smaller than the largest target ends in the target.
        let small = HeadLimits { head_bytes_max: 100, ..LIMITS };
        let mut table = RequestTable::new();
        assert_eq!(parse_request(&[b'M'; 20], &small, &mut table), Ok(Parse::Partial));
        table.reset();
        let bytes = format!("GET /{}", "a".repeat(200));
        assert_eq!(parse_request(bytes.as_bytes(), &small, &mut table), Err(TARGET_SIZE));
    }

    #[test]
    fn a_head_has_a_bound() {
        let head = |len: usize| {
            let start = "GET / HTTP/1.1\r\nHost: a\r\nX: ";
            format!("{start}{}\r\n\r\n", "x".repeat(len - start.len() - 4))
        };
        for (len, expected) in [(32_767, None), (32_768, None), (32_769, Some("head_size"))] {
            assert_eq!(parse(&head(len)).err(), expected, "{len}");
        }
        // The operator's bound cannot exceed what offsets can say.
        let wide = HeadLimits { head_bytes_max: 1 << 20, ..LIMITS };
        assert_eq!(parse_with(&head(65_535), &wide).err(), None);
        assert_eq!(parse_with(&head(65_536), &wide).err(), Some("head_size"));
        // An error inside the bound comes before the bound.
        let mut bad = head(40_000);
        bad.replace_range(30_000..30_001, "\0");
        assert_eq!(parse(&bad).err(), Some("field_value_control"));
    }

    #[test]
    fn fields_have_a_bound() {
        let head = |count: usize| get(&"X: y\r\n".repeat(count - 1));
        assert_eq!(head(99).err(), None);
        assert_eq!(head(100).err(), None);
        assert_eq!(head(101).err(), Some("field_count"));
        let wide = HeadLimits { fields_max: 1000, ..LIMITS };
        let lines =
            |count: usize| format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: y\r\n".repeat(count - 1));
        assert_eq!(parse_with(&lines(128), &wide).err(), None);
        assert_eq!(parse_with(&lines(129), &wide).err(), Some("field_count"));
    }

    #[test]
    fn a_name_has_a_bound() {
        for (len, expected) in [(254, None), (255, None), (256, Some("field_name_size"))] {
            assert_eq!(get(&format!("{}: x\r\n", "n".repeat(len))).err(), expected, "{len}");
        }
    }

    #[test]
    fn field_lines_are_exact() {
        for (lines, reason) in [
            (" folded: x\r\n", "field_folded"),
            ("\tfolded: x\r\n", "field_folded"),
            ("A: b\r\n c\r\n", "field_folded"),
            ("A: b\r\n\tc\r\n", "field_folded"),
            ("A : b\r\n", "field_name_space"),
            ("A\t: b\r\n", "field_name_space"),
            ("A b: c\r\n", "field_name_space"),
            (": b\r\n", "field_name_syntax"),
            ("A\r\n", "field_name_syntax"),
            ("A(b): c\r\n", "field_name_syntax"),
            ("A\0: c\r\n", "field_name_syntax"),
            ("Ä: c\r\n", "field_name_syntax"),
            ("A\u{b}: c\r\n", "field_name_syntax"),
            ("\"A\": c\r\n", "field_name_syntax"),
            ("A: b\nC: d\r\n", "line_ending"),
            ("A: b\rC: d\r\n", "line_ending"),
            ("A: b\r\r\n", "line_ending"),
            ("A\n", "line_ending"),
            ("A: b\n\r\n", "line_ending"),
            ("\rA: b\r\n", "line_ending"),
            ("\nA: b\r\n", "line_ending"),
            ("A: \0\r\n", "field_value_control"),
            ("A: b\u{b}c\r\n", "field_value_control"),
            ("A: b\u{1b}\r\n", "field_value_control"),
            ("A: b\u{7f}\r\n", "field_value_control"),
        ] {
            assert_eq!(get(lines).err(), Some(reason), "{lines:?}");
        }
        for lines in
            ["A:b\r\n", "A:\r\n", "A: \t \r\n", "A: b\tc\r\n", "A: \u{e9}\r\n", "!#$%&'*+.^_`|~09: x\r\n"]
        {
            assert_eq!(get(lines).err(), None, "{lines:?}");
        }
        let ascii = HeadLimits { obs_text: false, ..LIMITS };
        let head = "GET / HTTP/1.1\r\nHost: a\r\nA: \u{e9}\r\n\r\n";
        assert_eq!(parse_with(head, &ascii).err(), Some("field_value_obs_text"));
    }

    #[test]
    fn every_control_is_refused_everywhere() {
        for control in (0..0x20).chain([0x7f]).map(char::from).filter(|c| *c != '\t') {
            for head in [
                format!("GE{control}T / HTTP/1.1\r\nHost: a\r\n\r\n"),
                format!("GET /{control} HTTP/1.1\r\nHost: a\r\n\r\n"),
                format!("GET /?{control} HTTP/1.1\r\nHost: a\r\n\r\n"),
                format!("GET / HTTP/1.1{control}\r\nHost: a\r\n\r\n"),
                format!("GET / HTTP/1.1\r\nHo{control}st: a\r\n\r\n"),
                format!("GET / HTTP/1.1\r\nHost: a{control}\r\n\r\n"),
                format!("GET / HTTP/1.1\r\nHost: a\r\nX: {control}b\r\n\r\n"),
                format!("GET / HTTP/1.1\r\nHost: a\r\nX: 123456789{control}b123456789\r\n\r\n"),
            ] {
                let refused = parse(&head);
                assert!(refused.is_err_and(|token| token != "partial"), "{head:?}");
            }
        }
    }

    #[test]
    fn host_stands_exactly_once() {
        assert_eq!(parse("GET / HTTP/1.1\r\n\r\n").err(), Some("host_missing"));
        assert_eq!(parse("GET / HTTP/1.1\r\nHost:\r\n\r\n").err(), Some("host_missing"));
        assert_eq!(get("Host: a\r\n").err(), Some("host_duplicate"));
        assert_eq!(get("hOST: b\r\n").err(), Some("host_duplicate"));
        assert_eq!(parse("GET / HTTP/1.0\r\n\r\n").err(), Some("host_missing"));
        let lenient = HeadLimits { http10_without_host: true, ..LIMITS };
        assert!(parse_with("GET / HTTP/1.0\r\n\r\n", &lenient).unwrap().host.is_empty());
        assert_eq!(parse_with("GET / HTTP/1.1\r\n\r\n", &lenient).err(), Some("host_missing"));
        assert_eq!(parse_with("GET / HTTP/1.0\r\nHost: a b\r\n\r\n", &lenient).err(), Some("host_syntax"));
    }

    #[test]
    fn framing_has_one_reading_or_none() {
        for (lines, framing) in [
            ("", BodyLength::None),
            ("Content-Length: 0\r\n", BodyLength::Length(0)),
            ("content-length:5\r\n", BodyLength::Length(5)),
            ("Content-Length:  10 \r\n", BodyLength::Length(10)),
            ("Content-Length: 9223372036854775807\r\n", BodyLength::Length(i64::MAX as u64)),
            ("Transfer-Encoding: chunked\r\n", BodyLength::Chunked),
            ("transfer-encoding:CHUNKED\r\n", BodyLength::Chunked),
        ] {
            assert_eq!(post(lines).map(|table| table.framing), Ok(framing), "{lines:?}");
        }
        for (lines, reason) in [
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "framing_conflict"),
            ("Transfer-Encoding: chunked\r\nContent-Length: 0\r\n", "framing_conflict"),
            ("Transfer-Encoding: identity\r\nContent-Length: 5\r\n", "framing_conflict"),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", "content_length_duplicate"),
            ("Content-Length: 5\r\nContent-Length: 6\r\n", "content_length_duplicate"),
            ("Content-Length: 0\r\ncontent-length:\r\n", "content_length_duplicate"),
            ("Content-Length:\r\n", "content_length_syntax"),
            ("Content-Length: 5, 5\r\n", "content_length_syntax"),
            ("Content-Length: 5,\r\n", "content_length_syntax"),
            ("Content-Length: +5\r\n", "content_length_syntax"),
            ("Content-Length: -5\r\n", "content_length_syntax"),
            ("Content-Length: 0x5\r\n", "content_length_syntax"),
            ("Content-Length: 5 5\r\n", "content_length_syntax"),
            ("Content-Length: 5;a\r\n", "content_length_syntax"),
            ("Content-Length: \"5\"\r\n", "content_length_syntax"),
            ("Content-Length: 5.0\r\n", "content_length_syntax"),
            ("Content-Length: 5e1\r\n", "content_length_syntax"),
            ("Content-Length: 1_0\r\n", "content_length_syntax"),
            ("Content-Length: 05\r\n", "content_length_syntax"),
            ("Content-Length: 00\r\n", "content_length_syntax"),
            ("Content-Length: \u{663}\r\n", "content_length_syntax"),
            ("Content-Length: 5\u{a0}\r\n", "content_length_syntax"),
            ("Content-Length:\t5\r\n", "content_length_syntax"),
            ("Content-Length: 5\t\r\n", "content_length_syntax"),
            ("Content-Length: 5 \t \r\n", "content_length_syntax"),
            ("Content-Length: 9223372036854775808\r\n", "content_length_syntax"),
            ("Content-Length: 18446744073709551621\r\n", "content_length_syntax"),
            ("Content-Length: 99999999999999999999999999\r\n", "content_length_syntax"),
            ("Transfer-Encoding: gzip\r\n", "transfer_coding_unknown"),
            ("Transfer-Encoding: gzip, chunked\r\n", "transfer_coding_unknown"),
            ("Transfer-Encoding: identity\r\n", "transfer_coding_unknown"),
            ("Transfer-Encoding: xchunked\r\n", "transfer_coding_unknown"),
            ("Transfer-Encoding: chunke\r\n", "transfer_coding_unknown"),
            ("Transfer-Encoding: chunked, gzip\r\n", "transfer_encoding_syntax"),
            ("Transfer-Encoding: chunked, identity\r\n", "transfer_encoding_syntax"),
            ("Transfer-Encoding: chunked, chunked\r\n", "transfer_encoding_duplicate"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "transfer_encoding_duplicate"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n", "transfer_encoding_duplicate"),
            ("Transfer-Encoding:\r\n", "transfer_encoding_syntax"),
            ("Transfer-Encoding: ,chunked\r\n", "transfer_encoding_syntax"),
            ("Transfer-Encoding: chunked,\r\n", "transfer_encoding_syntax"),
            ("Transfer-Encoding: \"chunked\"\r\n", "transfer_encoding_syntax"),
            ("Transfer-Encoding: 'chunked'\r\n", "transfer_coding_unknown"),
            ("Transfer-Encoding: chunked;a=b\r\n", "transfer_encoding_syntax"),
            ("Transfer-Encoding: chun ked\r\n", "transfer_encoding_syntax"),
            ("Transfer-Encoding: chunked\u{a0}\r\n", "transfer_encoding_syntax"),
            ("Transfer-Encoding:\tchunked\r\n", "transfer_encoding_syntax"),
            ("Transfer-Encoding: chunked\t\r\n", "transfer_encoding_syntax"),
            ("Transfer-Encoding: chunked\u{b}\r\n", "field_value_control"),
            ("Transfer-Encoding: \u{b}chunked\r\n", "field_value_control"),
            ("Transfer-Encoding: chunked\u{0}\r\n", "field_value_control"),
            ("Transfer-Encoding : chunked\r\n", "field_name_space"),
            ("Transfer-Encoding\r\n: chunked\r\n", "field_name_syntax"),
            (" Transfer-Encoding: chunked\r\n", "field_folded"),
            ("X: y\r\n Transfer-Encoding: chunked\r\n", "field_folded"),
            ("X: y\rTransfer-Encoding: chunked\r\n", "line_ending"),
            ("X: y\nTransfer-Encoding: chunked\r\n", "line_ending"),
            ("Transfer_Encoding: chunked\r\n", "field_twin"),
            ("Transfer.Encoding: chunked\r\n", "field_twin"),
            ("Content_Length: 5\r\n", "field_twin"),
            ("content_length: 5\r\nContent-Length: 5\r\n", "field_twin"),
        ] {
            assert_eq!(post(lines).err(), Some(reason), "{lines:?}");
        }
        assert_eq!(
            parse("POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n").err(),
            Some("transfer_encoding_version")
        );
    }

    #[test]
    fn get_and_head_have_no_body() {
        for method in ["GET", "HEAD"] {
            for (lines, expected) in [
                ("Content-Length: 0\r\n", None),
                ("Content-Length: 1\r\n", Some("body_unexpected")),
                ("Transfer-Encoding: chunked\r\n", Some("body_unexpected")),
            ] {
                let head = format!("{method} / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
                assert_eq!(parse(&head).err(), expected, "{head:?}");
                let lenient = HeadLimits { body_on_get: true, ..LIMITS };
                assert_eq!(parse_with(&head, &lenient).err(), None);
            }
        }
        for method in ["DELETE", "OPTIONS", "PUT", "PATCH", "QUERY", "PROPFIND"] {
            let head = format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
            assert_eq!(parse(&head).map(|t| t.framing), Ok(BodyLength::Length(1)));
        }
    }

    #[test]
    fn twins_and_lookalikes_are_refused() {
        for (lines, expected) in [
            ("X_Forwarded_For: 1\r\n", Some("field_twin")),
            ("X.Forwarded.Host: 1\r\n", Some("field_twin")),
            ("X-Real_IP: 1\r\n", Some("field_twin")),
            ("Keep_Alive: 1\r\n", Some("field_twin")),
            ("X_A: 1\r\nX-A: 2\r\n", Some("field_ambiguous")),
            ("x-a: 1\r\nX.A: 2\r\n", Some("field_ambiguous")),
            ("X_A: 1\r\nx_a: 2\r\n", None),
            ("X_A: 1\r\nX-B: 2\r\n", None),
            ("User_Agent: 1\r\n", None),
            ("User_Agent: 1\r\nUser-Agent: 2\r\n", Some("field_ambiguous")),
            ("X_User: 1\r\nX-User: 2\r\n", None),
            ("Authorization: a\r\nAuthorization: b\r\n", Some("field_duplicate")),
            ("Cookie: a\r\nCookie: b\r\n", None),
        ] {
            assert_eq!(get(lines).err(), expected, "{lines:?}");
        }
    }

    #[test]
    fn connection_says_what_happens_to_the_connection() {
        for (version, lines, keep_alive) in [
            ("1.1", "", true),
            ("1.1", "Connection: close\r\n", false),
            ("1.1", "Connection: CLOSE\r\n", false),
            ("1.1", "Connection: keep-alive, close\r\n", false),
            ("1.1", "Connection: keep-alive\r\nConnection: close\r\n", false),
            ("1.1", "Connection: ,close,\r\n", false),
            ("1.1", "Connection: x-close\r\n", true),
            ("1.0", "", false),
            ("1.0", "Connection: keep-alive\r\n", true),
            ("1.0", "Connection: Keep-Alive, close\r\n", false),
        ] {
            let head = format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n");
            assert_eq!(parse(&head).map(|t| t.keep_alive), Ok(keep_alive), "{head:?}");
        }
        for (lines, reason) in [
            ("Connection: authorization\r\n", "connection_nominated"),
            ("Connection: close, Content-Length\r\n", "connection_nominated"),
            ("Connection: host\r\n", "connection_nominated"),
            ("Connection: transfer-encoding\r\n", "connection_nominated"),
            ("Connection: cookie\r\n", "connection_nominated"),
            ("Connection: x-forwarded-for\r\n", "connection_nominated"),
            ("Connection: cache-control\r\n", "connection_nominated"),
            ("Connection: a b\r\n", "connection_syntax"),
            ("Connection: close;a\r\n", "connection_syntax"),
            ("Connection: \"close\"\r\n", "connection_syntax"),
            ("Connection: cl\u{f6}se\r\n", "connection_syntax"),
        ] {
            assert_eq!(get(lines).err(), Some(reason), "{lines:?}");
        }
        let options = |count: usize| format!("Connection: {}\r\n", vec!["x"; count].join(","));
        assert_eq!(get(&options(31)).err(), None);
        assert_eq!(get(&options(32)).err(), None);
        assert_eq!(get(&options(33)).err(), Some("connection_syntax"));
        let table = get("X-A: 1\r\nConnection: x-a, x-b, keep-alive\r\nX-a: 2\r\n").unwrap();
        assert_eq!(table.nominated.iter().collect::<Vec<_>>(), [1, 3]);
    }

    #[test]
    fn upgrades_are_named_and_h2c_is_refused() {
        for (lines, upgrade, websocket) in [
            ("Connection: upgrade\r\nUpgrade: websocket\r\n", true, true),
            ("Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n", true, true),
            ("Connection: upgrade\r\nUpgrade: foo/2, websocket\r\n", true, false),
            ("Upgrade: websocket\r\n", false, false),
            ("Connection: upgrade\r\n", false, false),
        ] {
            let table = get(lines).unwrap();
            assert_eq!((table.upgrade, table.websocket), (upgrade, websocket), "{lines:?}");
        }
        for (lines, reason) in [
            ("Connection: upgrade\r\nUpgrade: h2c\r\n", "upgrade_h2c"),
            ("Upgrade: H2C\r\n", "upgrade_h2c"),
            ("Upgrade: websocket, h2c\r\n", "upgrade_h2c"),
            ("Upgrade: websocket\r\nUpgrade: h2c\r\n", "upgrade_h2c"),
            ("Upgrade: h2c/1\r\n", "upgrade_h2c"),
            ("Upgrade: h2\r\n", "upgrade_h2c"),
            ("Upgrade: a b\r\n", "upgrade_syntax"),
            ("Upgrade: a/b/c\r\n", "upgrade_syntax"),
            ("Upgrade: /a\r\n", "upgrade_syntax"),
        ] {
            assert_eq!(get(lines).err(), Some(reason), "{lines:?}");
        }
        let table =
            parse("GET / HTTP/1.0\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n").unwrap();
        assert!(!table.upgrade && !table.websocket);
    }

    #[test]
    fn expect_is_100_continue_or_refused() {
        let with_body = "Content-Length: 5\r\nExpect: 100-Continue\r\n";
        assert!(post(with_body).unwrap().expect_continue);
        assert!(!post("Expect: 100-continue\r\n").unwrap().expect_continue);
        for (lines, reason) in [
            ("Expect: 200-ok\r\n", "expect_unknown"),
            ("Expect: 100-continue, 100-continue\r\n", "expect_syntax"),
            ("Expect: y 100-continue\r\n", "expect_syntax"),
            ("Expect:\r\n", "expect_syntax"),
            ("Expect: 100-continue\r\nExpect: 100-continue\r\n", "expect_syntax"),
            ("Expect: 100-continue;a\r\n", "expect_syntax"),
        ] {
            assert_eq!(post(lines).err(), Some(reason), "{lines:?}");
        }
        let old =
            parse("POST / HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n").unwrap();
        assert!(!old.expect_continue);
    }

    #[test]
    fn te_and_trailer_are_read() {
        assert!(get("TE: trailers\r\n").unwrap().te_trailers);
        assert!(get("TE: gzip;q=0.5, Trailers\r\n").unwrap().te_trailers);
        assert!(!get("TE: gzip\r\n").unwrap().te_trailers);
        assert_eq!(post("Trailer: X-Sum\r\n").err(), None);
        assert_eq!(post("Trailer: X-Sum, Content-Length\r\n").err(), Some("trailer_forbidden"));
        assert_eq!(post("Trailer: transfer_encoding\r\n").err(), Some("trailer_forbidden"));
    }

    fn respond(method: Method, head: &str) -> Result<ResponseTable, &'static str> {
        let head_only = u8::from(method == Method::Head) << 2 | 1;
        for cut in 0..9 {
            laws::heads(&[&[head_only, cut][..], head.as_bytes()].concat());
        }
        let mut table = ResponseTable::new();
        match parse_response(head.as_bytes(), &LIMITS, method, &mut table) {
            Ok(Parse::Complete { head_bytes }) => {
                assert_eq!(head_bytes, head.len());
                Ok(table)
            }
            Ok(Parse::Partial) => Err("partial"),
            Err(reason) => {
                assert_eq!(reason.status, 502);
                Err(reason.token)
            }
        }
    }

    #[test]
    fn status_lines_are_exact_but_for_an_empty_phrase() {
        for (line, status, phrase) in [
            ("HTTP/1.1 200 OK", 200, "OK"),
            ("HTTP/1.1 200 ", 200, ""),
            ("HTTP/1.1 200", 200, ""),
            ("HTTP/1.0 404 Not\tFound \u{e9}", 404, "Not\tFound \u{e9}"),
            ("HTTP/1.1 599 X", 599, "X"),
        ] {
            let head = format!("{line}\r\n\r\n");
            let table = respond(Method::Get, &head).unwrap();
            assert_eq!((table.status, table.reason_span.of(head.as_bytes())), (status, phrase.as_bytes()));
        }
        for (line, reason) in [
            ("HTTP/1.1 099 X", "response_status"),
            ("HTTP/1.1 600 X", "response_status"),
            ("HTTP/1.1 20 X", "response_status"),
            ("HTTP/1.1 2000 X", "response_status"),
            ("HTTP/1.1 2x0 X", "response_status"),
            ("HTTP/1.1 +20 X", "response_status"),
            ("HTTP/1.1  200 X", "response_status"),
            ("HTTP/1.1\t200 X", "response_line"),
            ("HTTP/2.0 200 X", "response_version"),
            ("HTTP/1.2 200 X", "response_version"),
            ("HTTP/0.9 200 X", "response_version"),
            ("http/1.1 200 X", "response_line"),
            ("ICY 200 OK XXXX", "response_line"),
            ("HTTP/1.1 200-X", "response_line"),
            ("HTTP/1.1 200 \0", "response_line"),
            ("HTTP/1.1 200 a\u{7f}", "response_line"),
            ("HTTP/1.1 200 a\rb", "response_line_ending"),
            ("HTTP/1.1 200\n", "response_line_ending"),
            ("HTTP/1.1 200 a\nSet-Cookie: b", "response_line_ending"),
            ("\r\nHTTP/1.1 200 OK", "response_line"),
            ("<html>", "response_line"),
            ("HTTP/1.1\r\n", "response_line"),
        ] {
            assert_eq!(respond(Method::Get, &format!("{line}\r\n\r\n")).err(), Some(reason), "{line:?}");
        }
        let head = "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n";
        for len in 0..head.len() {
            assert_eq!(respond(Method::Get, &head[..len]).err(), Some("partial"), "{len}");
        }
    }

    #[test]
    fn response_bodies_end_as_rfc_9112_6_3_says() {
        use BodyLength::{Chunked, Length, None as Nothing, UntilClose};
        let length = "Content-Length: 5\r\n";
        let chunked = "Transfer-Encoding: chunked\r\n";
        for (method, status, lines, framing, declared) in [
            (Method::Get, 200, length, Length(5), Length(5)),
            (Method::Get, 200, chunked, Chunked, Chunked),
            (Method::Get, 200, "", UntilClose, Nothing),
            (Method::Get, 500, "", UntilClose, Nothing),
            (Method::Get, 205, "Content-Length: 0\r\n", Length(0), Length(0)),
            (Method::Head, 200, length, Nothing, Length(5)),
            (Method::Head, 200, chunked, Nothing, Chunked),
            (Method::Head, 200, "", Nothing, Nothing),
            (Method::Get, 304, length, Nothing, Length(5)),
            (Method::Get, 304, "", Nothing, Nothing),
            (Method::Get, 204, "", Nothing, Nothing),
            (Method::Get, 204, "Content-Length: 0\r\n", Nothing, Nothing),
            (Method::Get, 100, "", Nothing, Nothing),
            (Method::Get, 101, "Connection: upgrade\r\nUpgrade: websocket\r\n", Nothing, Nothing),
        ] {
            let table = respond(method, &format!("HTTP/1.1 {status} X\r\n{lines}\r\n")).unwrap();
            assert_eq!((table.framing, table.declared), (framing, declared), "{method:?} {status} {lines:?}");
            assert_eq!(table.keep_alive, framing != UntilClose);
            assert_eq!(table.upgrade, status == 101);
        }
        for (status, lines, reason) in [
            (204, length, "response_body_forbidden"),
            (204, chunked, "response_body_forbidden"),
            (100, length, "response_body_forbidden"),
            (101, chunked, "response_body_forbidden"),
            (200, "Content-Length: 5\r\nContent-Length: 5\r\n", "response_length_duplicate"),
            (200, "Content-Length: 5, 5\r\n", "response_length_syntax"),
            (200, "Content-Length: +5\r\n", "response_length_syntax"),
            (200, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "response_framing_conflict"),
            (304, "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "response_framing_conflict"),
            (200, "Transfer-Encoding: gzip, chunked\r\n", "response_coding_unknown"),
            (200, "Transfer-Encoding: chunked, chunked\r\n", "response_coding_syntax"),
            (200, "Transfer-Encoding: chunked, gzip\r\n", "response_coding_syntax"),
            (200, "A: b\r\n c\r\n", "response_field_folded"),
            (200, "A: b\nSet-Cookie: c\r\n", "response_line_ending"),
            (200, "A : b\r\n", "response_field_space"),
            (200, "A\r\n", "response_field_name"),
            (200, "A: \0\r\n", "response_field_value"),
            (200, "Content_Length: 5\r\n", "response_field_twin"),
            (200, "Connection: set-cookie\r\n", "response_connection"),
            (200, "Trailer: content-length\r\n", "response_trailer_forbidden"),
        ] {
            let head = format!("HTTP/1.1 {status} X\r\n{lines}\r\n");
            assert_eq!(respond(Method::Get, &head).err(), Some(reason), "{head:?}");
        }
        let old = format!("HTTP/1.0 200 OK\r\n{chunked}\r\n");
        assert_eq!(respond(Method::Get, &old).err(), Some("response_coding_version"));
        let old = format!("HTTP/1.0 200 OK\r\n{length}\r\n");
        assert!(!respond(Method::Get, &old).unwrap().keep_alive);
        let old = format!("HTTP/1.0 200 OK\r\n{length}Connection: keep-alive\r\n\r\n");
        assert!(respond(Method::Get, &old).unwrap().keep_alive);
        // Origins announce h2c; that is not the client's doing and is stripped.
        assert!(
            respond(Method::Get, "HTTP/1.1 200 OK\r\nUpgrade: h2,h2c\r\nConnection: Upgrade\r\n\r\n").is_ok()
        );
    }

    #[test]
    fn response_heads_have_bounds() {
        let lines = |count: usize| format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(count));
        assert_eq!(respond(Method::Get, &lines(100)).err(), None);
        assert_eq!(respond(Method::Get, &lines(101)).err(), Some("response_field_count"));
        let head = |len: usize| format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(len - 24));
        assert_eq!(respond(Method::Get, &head(32_768)).err(), None);
        assert_eq!(respond(Method::Get, &head(32_769)).err(), Some("response_head_size"));
        let phrase = format!("HTTP/1.1 200 {}", "x".repeat(40_000));
        assert_eq!(respond(Method::Get, &phrase).err(), Some("response_head_size"));
    }

    #[test]
    fn a_head_sent_byte_by_byte_costs_what_it_costs_whole() {
        // Not a clock: a line that is parsed is not parsed again, and an incomplete one only when its LF has come.
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X-Filler: 0123456789\r\n".repeat(90));
        let mut table = RequestTable::new();
        for len in 1..head.len() {
            assert_eq!(parse_request(&head.as_bytes()[..len], &LIMITS, &mut table), Ok(Parse::Partial));
            let line = usize::from(table.progress.line);
            assert!(line == 0 || head.as_bytes()[line - 1] == b'\n');
            let lines = head.as_bytes()[..len].iter().filter(|b| **b == b'\n').count();
            assert_eq!(table.fields.len(), lines.saturating_sub(1));
            assert_eq!(usize::from(table.progress.seen), len);
        }
        assert!(matches!(parse_request(head.as_bytes(), &LIMITS, &mut table), Ok(Parse::Complete { .. })));
    }

    /// What we accept, httparse accepts, with the same fields.
    fn httparse_agrees(bytes: &[u8]) -> bool {
        let mut table = RequestTable::new();
        let Ok(Parse::Complete { head_bytes }) = parse_request(bytes, &LIMITS, &mut table) else {
            return false;
        };
        let mut headers = [httparse::EMPTY_HEADER; 128];
        let mut request = httparse::Request::new(&mut headers);
        assert_eq!(request.parse(bytes), Ok(httparse::Status::Complete(head_bytes)));
        assert_eq!(request.method.unwrap().as_bytes(), table.method_span.of(bytes));
        assert_eq!(request.path.unwrap().as_bytes(), table.target_span.of(bytes));
        assert_eq!(request.version, Some(u8::from(table.version == Version::Http11)));
        let ours: Vec<_> = table.fields.iter(bytes).map(|f| (f.name, f.value)).collect();
        let theirs: Vec<_> = request.headers.iter().map(|h| (h.name.as_bytes(), h.value)).collect();
        assert_eq!(ours, theirs);
        true
    }

    #[test]
    fn httparse_agrees_with_what_is_accepted() {
        use proptest::{prelude::*, test_runner::TestRunner};
        let piece = prop::sample::select(vec![
            "GET",
            "POST",
            " ",
            "  ",
            "/",
            "/a?b",
            "*",
            "HTTP/1.1",
            "HTTP/1.0",
            "\r\n",
            "\r\n",
            "\n",
            "\r",
            "Host: a",
            "Host",
            ":",
            ": ",
            "a",
            "X-A: b",
            "X-A:\tb\t",
            "Content-Length: 5",
            "Transfer-Encoding: chunked",
            "chunked",
            "Connection: close",
            "\t",
            "\0",
            "\u{e9}",
            "_",
            "\r\n\r\n",
            "Expect: 100-continue",
            "x_y: z",
        ]);
        let lines = prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat());
        let sane = (any::<bool>(), lines).prop_map(|(start, lines)| {
            if start { format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}") } else { lines }
        });
        let mut runner = TestRunner::new(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::with_cases(20_000)
        });
        let accepted = std::cell::Cell::new(0u32);
        runner
            .run(&sane, |text| {
                for (choice, cut) in [(0, 0), (2, 1), (1, 2), (5, 3)] {
                    laws::heads(&[&[choice, cut][..], text.as_bytes()].concat());
                }
                laws::round_trip(&[&[0][..], text.as_bytes()].concat());
                laws::stream(&[&[3][..], text.as_bytes()].concat());
                accepted.set(accepted.get() + u32::from(httparse_agrees(text.as_bytes())));
                Ok(())
            })
            .unwrap();
        assert!(
            accepted.get() > 500,
            "too few of the generated heads are accepted to say anything: {accepted:?}"
        );
    }
}
