//! The request target and the host in their one canonical form.
//!
//! For: every codec, once per request. What [`canonical`] returns is what routes are matched on, what is authorised,
//! what is logged and what is sent upstream; whatever could be read in two ways is refused instead of repaired.
//! Not for: finding the route.
//!
//! | in the path | becomes |
//! |---|---|
//! | `%41`, `%7e` (unreserved, RFC 3986 §2.3) | the byte itself |
//! | `%c3%a9` | `%C3%A9`; it must be well-formed UTF-8 |
//! | `.` or `..` as a segment, `//`, `;`, `\`, NUL and controls, raw or encoded; `%2F`; `%25` before two hexadecimal digits | refused |
//! | anything else outside RFC 3986 `pchar` | refused |
//!
//! The query keeps its bytes: RFC 3986 characters, `[` and `]`, and well-formed escapes.
//! The host is lower case; an IPv6 literal is written as RFC 5952 says; no empty label, no dot at the end.
//!
//! Cost: nothing but a few loads when the parser has seen that the path is plain; otherwise one pass and one copy of
//! the path into the caller's scratch buffer.

use std::{
    io::Write as _,
    net::{Ipv4Addr, Ipv6Addr},
};

use super::{Method, Reason, RequestTable, field::Span};
use crate::sys::lanes::Lanes;

/// More than one Host field, none, or an empty one where one is required.
pub const HOST_MISSING: Reason = Reason::client("host_missing", 2100, 400, "Host is missing");
/// RFC 9112 §3.2: more than one Host field line.
pub const HOST_DUPLICATE: Reason =
    Reason::client("host_duplicate", 2101, 400, "Host was sent more than once");
/// Not a host name, an IPv4 address or an IPv6 literal.
pub const HOST_SYNTAX: Reason = Reason::client("host_syntax", 2102, 400, "Host is malformed");
/// The target names another host than the Host field.
pub const HOST_MISMATCH: Reason = Reason::client("host_mismatch", 2103, 400, "Host and target do not agree");
/// CONNECT and TRACE.
pub const METHOD_REFUSED: Reason = Reason::client("method_refused", 2104, 400, "This method is never served");
/// `get` is not `GET` (RFC 9110 §9.1), but there are origins that think so.
pub const METHOD_CASE: Reason = Reason::client("method_case", 2105, 400, "The method is in the wrong case");
/// Neither origin-form, absolute-form, nor `*` with OPTIONS.
pub const TARGET_FORM: Reason = Reason::client("target_form", 2106, 400, "The target's form is not accepted");
/// `user@` in an authority (RFC 9110 §4.2.4).
pub const TARGET_USERINFO: Reason = Reason::client("target_userinfo", 2107, 400, "The target names a user");
/// `#` in a target.
pub const TARGET_FRAGMENT: Reason = Reason::client("target_fragment", 2108, 400, "The target has a fragment");
/// A byte that RFC 3986 does not allow there.
pub const TARGET_CHARACTER: Reason =
    Reason::client("target_character", 2109, 400, "The target has a character that must be encoded");
/// `%` without two hexadecimal digits.
pub const TARGET_ESCAPE: Reason =
    Reason::client("target_escape", 2110, 400, "The target has a broken escape");
/// A segment `.` or `..`, raw or encoded.
pub const PATH_DOT_SEGMENT: Reason =
    Reason::client("path_dot_segment", 2111, 400, "The path has a dot segment");
/// `//`.
pub const PATH_EMPTY_SEGMENT: Reason =
    Reason::client("path_empty_segment", 2112, 400, "The path has an empty segment");
/// `\`, raw or encoded.
pub const PATH_BACKSLASH: Reason = Reason::client("path_backslash", 2113, 400, "The path has a backslash");
/// `%2F`.
pub const PATH_SLASH_ENCODED: Reason =
    Reason::client("path_slash_encoded", 2114, 400, "The path has an encoded slash");
/// `;`, raw or encoded.
pub const PATH_PARAMETER: Reason = Reason::client("path_parameter", 2115, 400, "The path has a semicolon");
/// NUL or another control, raw or encoded.
pub const PATH_CONTROL: Reason =
    Reason::client("path_control", 2116, 400, "The target has a control character");
/// Escapes above 0x7F that are not well-formed UTF-8, overlong forms included.
pub const PATH_UTF8: Reason = Reason::client("path_utf8", 2117, 400, "The path's escapes are not UTF-8");
/// An escape that becomes another one when decoded (`%252e`, `%2541`): an origin that decodes twice would see another
/// path than the one that was authorised.
pub const PATH_ENCODED_TWICE: Reason =
    Reason::client("path_encoded_twice", 2118, 400, "The path is encoded twice");
/// A port that is no number from 1 to 65535.
pub const HOST_PORT: Reason = Reason::client("host_port", 2119, 400, "The port is malformed");

/// Longest host name in bytes (RFC 1035 §2.3.4, without the final dot).
pub const HOST_BYTES_MAX: usize = 253;

/// Which form the target had (RFC 9112 §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// `/path?query`.
    Origin,
    /// `http://host/path`; its authority agrees with Host.
    Absolute,
    /// `*`, only with OPTIONS.
    Asterisk,
}

/// The scheme of an absolute-form target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the scheme it spells")]
pub enum Scheme {
    Http,
    Https,
}

/// Where canonical bytes lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the head: they were canonical already.
    Head(Span),
    /// In the scratch buffer given to [`canonical`].
    Scratch(Span),
}

impl Place {
    /// The bytes.
    #[inline]
    pub fn of<'a>(&self, head: &'a [u8], scratch: &'a [u8]) -> &'a [u8] {
        match self {
            Place::Head(span) => span.of(head),
            Place::Scratch(span) => span.of(scratch),
        }
    }
}

/// A target in canonical form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The form it was sent in.
    pub form: Form,
    /// The path; begins with `/`, or is `*`.
    pub path: Place,
    /// The query without its `?`, verbatim in the head; `None` if there is no `?`.
    pub query: Option<Span>,
    /// The host without port, lower case; an IPv6 literal with brackets. Empty only if the request had none.
    pub host: Place,
    /// The port; 0 = none given.
    pub port: u16,
    /// The scheme, if the target was in absolute-form. Whether it fits the listener is for the caller to judge.
    pub scheme: Option<Scheme>,
    /// The path holds `%2F`; only where [`EncodedSlash::Keep`] let it in. The route must allow it.
    pub encoded_slash: bool,
}

impl Default for Target {
    /// Nothing yet: every part is empty.
    fn default() -> Target {
        Target {
            form: Form::Origin,
            path: Place::Head(Span::default()),
            query: None,
            host: Place::Head(Span::default()),
            port: 0,
            scheme: None,
            encoded_slash: false,
        }
    }
}

/// The scheme of an absolute-form target is not that of the connection (RFC 9110 §7.4).
pub const TARGET_SCHEME: Reason =
    Reason::client("target_scheme", 2180, 400, "The target's scheme is not that of the connection");

/// What to do with `%2F` in a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EncodedSlash {
    /// 400. The default.
    #[default]
    Refuse,
    /// Keep it as `%2F` and say so in [`Target::encoded_slash`]: for configurations with a route that needs it.
    Keep,
}

/// Brings target and host of a request into canonical form. `scratch` is cleared and holds what had to be rewritten.
///
/// # Errors
/// One of this module's reasons, all 400.
#[inline]
pub fn canonical(
    head: &[u8],
    table: &RequestTable,
    encoded_slash: EncodedSlash,
    scratch: &mut Vec<u8>,
) -> Result<Target, Reason> {
    scratch.clear();
    if !table.plain_path.is_empty() && table.host_plain {
        return Ok(Target {
            form: Form::Origin,
            path: Place::Head(table.plain_path),
            query: query_behind(table.plain_path.end(), table.target_span),
            host: Place::Head(table.host),
            port: table.port,
            scheme: None,
            encoded_slash: false,
        });
    }
    rewritten(head, table, encoded_slash, scratch)
}

/// The query of a target whose path ends at `path_end`.
#[inline]
fn query_behind(path_end: usize, target: Span) -> Option<Span> {
    (path_end < target.end()).then(|| Span::new(path_end + 1, target.end()))
}

#[inline(never)]
fn rewritten(
    head: &[u8],
    table: &RequestTable,
    encoded_slash: EncodedSlash,
    scratch: &mut Vec<u8>,
) -> Result<Target, Reason> {
    let host = canonical_host(head, table, scratch)?;
    let target = table.target_span.of(head);
    let start = usize::from(table.target_span.start);
    let (form, scheme, path_start) = match target {
        [b'/', ..] => (Form::Origin, None, 0),
        b"*" if table.method == Method::Options => (Form::Asterisk, None, 0),
        _ => {
            let (scheme, authority_start) = scheme_of(target).ok_or(TARGET_FORM)?;
            let rest = &target[authority_start..];
            let path_start =
                authority_start + rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
            agrees_with_host(
                &target[authority_start..path_start],
                scheme,
                host.of(head, scratch),
                table.port,
            )?;
            (Form::Absolute, Some(scheme), path_start)
        }
    };
    let found = scan(target, path_start);
    if found.end != target.len() {
        return Err(refused_byte(target[found.end]));
    }
    if found.query_escape_broken {
        return Err(TARGET_ESCAPE);
    }
    let query = query_behind(start + found.path_end, table.target_span);
    let mut kept_slash = false;
    let path = match &target[path_start..found.path_end] {
        b"*" if form == Form::Asterisk => Place::Head(table.target_span),
        b"" => {
            // RFC 9112 §3.2.4: OPTIONS on an absolute-form without path and query asks about the whole server.
            let asterisk = table.method == Method::Options && query.is_none();
            scratch.push(if asterisk { b'*' } else { b'/' });
            Place::Scratch(Span::new(scratch.len() - 1, scratch.len()))
        }
        path if found.plain => {
            debug_assert!(path.starts_with(b"/"));
            Place::Head(Span::new(start + path_start, start + found.path_end))
        }
        path => {
            let from = scratch.len();
            kept_slash = canonical_path(path, encoded_slash, scratch)?;
            if scratch[from..] == *path {
                scratch.truncate(from);
                Place::Head(Span::new(start + path_start, start + found.path_end))
            } else {
                Place::Scratch(Span::new(from, scratch.len()))
            }
        }
    };
    Ok(Target { form, path, query, host, port: table.port, scheme, encoded_slash: kept_slash })
}

/// The scheme of an absolute-form target and where its authority starts.
fn scheme_of(target: &[u8]) -> Option<(Scheme, usize)> {
    let is =
        |scheme: &[u8]| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme));
    match () {
        () if is(b"http://") => Some((Scheme::Http, 7)),
        () if is(b"https://") => Some((Scheme::Https, 8)),
        () => None,
    }
}

/// RFC 9112 §3.2.2 lets a proxy replace Host by the target's authority; two parties that read different ones are a
/// routing attack, so both must be the same.
fn agrees_with_host(sent: &[u8], scheme: Scheme, host: &[u8], host_port: u16) -> Result<(), Reason> {
    if sent.is_empty() {
        return Err(TARGET_FORM);
    }
    let authority = authority(sent)?;
    let default_port = match scheme {
        Scheme::Http => 80,
        Scheme::Https => 443,
    };
    let port = |port: u16| if port == 0 { default_port } else { port };
    let name = &sent[..authority.host_len];
    let same = if name.starts_with(b"[") {
        ipv6(name)? == ipv6(host).map_err(|_| HOST_MISMATCH)?
    } else {
        name.eq_ignore_ascii_case(host)
    };
    if same && port(authority.port) == port(host_port) { Ok(()) } else { Err(HOST_MISMATCH) }
}

fn canonical_host(head: &[u8], table: &RequestTable, scratch: &mut Vec<u8>) -> Result<Place, Reason> {
    let host = table.host.of(head);
    if table.host_plain || host.is_empty() {
        return Ok(Place::Head(table.host));
    }
    let from = scratch.len();
    if host.starts_with(b"[") {
        // Writing to a Vec cannot fail. RFC 5952 is how Ipv6Addr is displayed.
        let _ = write!(scratch, "[{}]", ipv6(host)?);
    } else {
        scratch.extend_from_slice(host);
        scratch[from..].make_ascii_lowercase();
    }
    Ok(Place::Scratch(Span::new(from, scratch.len())))
}

/// What [`authority`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Authority {
    /// Length of the host in bytes, an IPv6 literal with its brackets.
    pub host_len: usize,
    /// The port; 0 = none given.
    pub port: u16,
    /// The host is in canonical form already.
    pub plain: bool,
}

/// Checks a host with optional port (`uri-host [ ":" port ]`, RFC 9110 §7.2), stricter than RFC 3986: names of
/// letters, digits, `-` and `_` in labels of 1–63 bytes (an internationalised name only as its A-labels), IPv4 in four
/// decimal parts, IPv6 in brackets without a zone; no empty port.
///
/// # Errors
/// [`HOST_MISSING`] if empty, [`HOST_SYNTAX`], [`HOST_PORT`], [`TARGET_USERINFO`].
#[inline]
pub fn authority(bytes: &[u8]) -> Result<Authority, Reason> {
    if is_plain_name(bytes) {
        return Ok(Authority { host_len: bytes.len(), port: 0, plain: true });
    }
    let mut plain = true;
    let mut label = 0;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match HOST[usize::from(*byte)] {
            LABEL => {}
            UPPER => plain = false,
            DOT => {
                // An empty label, and with it a dot at the start.
                if at == label || at - label > 63 {
                    return Err(HOST_SYNTAX);
                }
                label = at + 1;
            }
            _ => break,
        }
        at += 1;
    }
    if at == 0 {
        return unusual_authority(bytes);
    }
    let port = match bytes.get(at) {
        None => 0,
        Some(b':') => port(bytes, at + 1)?,
        Some(_) => return Err(unhostly(bytes)),
    };
    // The dot at the end is refused with the other empty labels: `example.com.` and `example.com` are the same host to
    // DNS and two to most tables of hosts.
    if at == label || at - label > 63 || at > HOST_BYTES_MAX {
        return Err(HOST_SYNTAX);
    }
    if bytes[label].is_ascii_digit() {
        number_at_the_end(&bytes[..at], &bytes[label..at])?;
    }
    Ok(Authority { host_len: at, port, plain })
}

/// Whether all of `bytes` is a name of 8–32 bytes in canonical form: what nearly every Host is, judged at once.
#[inline(always)]
fn is_plain_name(bytes: &[u8]) -> bool {
    let len = bytes.len();
    let (labels, dots) = if let (Some(start), Some(end)) =
        (bytes.first_chunk::<16>(), bytes.last_chunk::<16>())
        && len <= 32
    {
        let (start, end) = (label_and_dot_bits(start), label_and_dot_bits(end));
        // The overlap says the same twice.
        (start.0 | end.0 << (len - 16), start.1 | end.1 << (len - 16))
    } else if let (Some(start), Some(end)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>())
        && len < 16
    {
        let end = u128::from(u64::from_le_bytes(*end)) << ((len - 8) * 8);
        label_and_dot_bits(&(u128::from(u64::from_le_bytes(*start)) | end).to_le_bytes())
    } else {
        return false;
    };
    let all = u32::MAX >> (32 - len);
    // No empty label: no dot at either end, none behind another. Labels are below 64 bytes, for the whole is.
    let ends = dots & (1 | 1 << (len - 1)) == 0 && dots & dots << 1 == 0;
    // A last label that starts with a digit may be part of an address.
    let last = (u32::BITS - dots.leading_zeros()) as usize;
    (labels | dots) & all == all && ends && !bytes.get(last).is_none_or(u8::is_ascii_digit)
}

/// Which bytes are of a label in canonical form, and which are dots; zero bytes are neither.
#[inline(always)]
fn label_and_dot_bits(bytes: &[u8; 16]) -> (u32, u32) {
    let lanes = Lanes::of(bytes);
    let label = lanes.within(b'a', b'z') | lanes.within(b'0', b'9') | lanes.equal(b'-') | lanes.equal(b'_');
    (label.bits(), lanes.equal(b'.').bits())
}

/// What does not begin like a name: nothing at all, an IPv6 literal, or rubbish.
#[cold]
fn unusual_authority(bytes: &[u8]) -> Result<Authority, Reason> {
    match bytes.first() {
        None => Err(HOST_MISSING),
        Some(b'[') => {
            let end = bytes.iter().position(|byte| *byte == b']').ok_or(HOST_SYNTAX)? + 1;
            ipv6(&bytes[..end])?;
            let port = match bytes.get(end) {
                None => 0,
                Some(b':') => port(bytes, end + 1)?,
                Some(_) => return Err(HOST_SYNTAX),
            };
            Ok(Authority { host_len: end, port, plain: false })
        }
        Some(_) => Err(unhostly(bytes)),
    }
}

#[cold]
fn unhostly(bytes: &[u8]) -> Reason {
    if bytes.contains(&b'@') { TARGET_USERINFO } else { HOST_SYNTAX }
}

/// A host whose last label is a number is an IPv4 address to everybody who resolves it; only the form with four decimal
/// parts means the same to all (`127.1`, `0x7f.0.0.1` and `2130706433` do not).
#[cold]
fn number_at_the_end(host: &[u8], last: &[u8]) -> Result<(), Reason> {
    let digits = last.iter().all(u8::is_ascii_digit);
    let hexadecimal =
        matches!(last, [b'0', b'x' | b'X', rest @ ..] if rest.iter().all(u8::is_ascii_hexdigit));
    if !digits && !hexadecimal {
        return Ok(());
    }
    let text = str::from_utf8(host).map_err(|_| HOST_SYNTAX)?;
    text.parse::<Ipv4Addr>().map(|_| ()).map_err(|_| HOST_SYNTAX)
}

/// The address in an IPv6 literal with brackets.
fn ipv6(literal: &[u8]) -> Result<Ipv6Addr, Reason> {
    let inner = literal.strip_prefix(b"[").and_then(|rest| rest.strip_suffix(b"]")).ok_or(HOST_SYNTAX)?;
    str::from_utf8(inner).ok().and_then(|text| text.parse().ok()).ok_or(HOST_SYNTAX)
}

/// The port from `at` to the end: 1–65535 in decimal without leading zeros.
#[inline]
fn port(bytes: &[u8], at: usize) -> Result<u16, Reason> {
    let digits = bytes.get(at..).unwrap_or_default();
    if digits.is_empty() || digits.len() > 5 || digits[0] == b'0' {
        return Err(if digits.contains(&b'@') { TARGET_USERINFO } else { HOST_PORT });
    }
    let mut port = 0u32;
    for digit in digits {
        if !digit.is_ascii_digit() {
            return Err(if bytes.contains(&b'@') { TARGET_USERINFO } else { HOST_PORT });
        }
        port = port * 10 + u32::from(digit - b'0');
    }
    u16::try_from(port).map_err(|_| HOST_PORT)
}

const LABEL: u8 = 1;
const UPPER: u8 = 2;
const DOT: u8 = 3;
const HOST: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let byte = i as u8;
        table[i] = match byte {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => LABEL,
            b'A'..=b'Z' => UPPER,
            b'.' => DOT,
            _ => 0,
        };
        i += 1;
    }
    table
};

/// What [`scan`] found. Offsets are into the bytes it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The first byte that cannot stand in a target, or the length of the bytes.
    pub end: usize,
    /// The `?` before `end`, or `end`.
    pub path_end: usize,
    /// The path begins with `/` and is canonical as it stands, and the query is in order.
    pub plain: bool,
    /// The query has a `%` without two hexadecimal digits.
    pub query_escape_broken: bool,
}

/// Runs over a target in origin-form from `at` to the first byte that no target may hold. One pass.
#[inline(always)]
pub fn scan(bytes: &[u8], at: usize) -> Scan {
    let (path_end, path_plain) = scan_path(bytes, at);
    let mut end = path_end;
    let mut query_escape_broken = false;
    if bytes.get(end) == Some(&b'?') {
        (end, query_escape_broken) = scan_query(bytes, end + 1);
    }
    let plain = path_plain && !query_escape_broken && bytes.get(at) == Some(&b'/');
    Scan { end, path_end, plain, query_escape_broken }
}

/// Where a path that starts at `at` ends, and whether it can stay as it is.
#[inline(always)]
fn scan_path(bytes: &[u8], at: usize) -> (usize, bool) {
    let mut end = at;
    let mut unplain = 0;
    // Bit 0: the byte before `end` is a slash.
    let mut behind_slash = 0u32;
    loop {
        while let Some(chunk) = bytes.get(end..).and_then(|rest| rest.first_chunk::<16>()) {
            let lanes = Lanes::of(chunk);
            let slash = lanes.equal(b'/');
            // Bytes that need a look of their own: all that no path may hold, those that make it unplain, and a few
            // rare ones that share a range with them (`$`, `=`, `~`).
            let unusual = lanes.within(0x22, 0x25) | lanes.within(0x3b, 0x3f) | lanes.within(0x5b, 0x5e);
            let usual = lanes.within(0x21, 0x7a).but_not(unusual | lanes.equal(b'`'));
            let passed = (!usual.bits()).trailing_zeros();
            let behind = slash.bits() << 1 | behind_slash;
            let risky = (slash | lanes.equal(b'.')).bits();
            unplain |= behind & risky & ((1 << passed) - 1);
            behind_slash = behind >> passed & 1;
            end += passed as usize;
            if passed < 16 {
                break;
            }
        }
        let Some(byte) = bytes.get(end) else { break };
        let class = TARGET[usize::from(*byte)];
        if class >= QUESTION {
            break;
        }
        unplain |= u32::from(class & SPECIAL) | u32::from(class & RISKY != 0) & behind_slash;
        behind_slash = u32::from(class & SLASH != 0);
        end += 1;
    }
    (end, unplain == 0)
}

/// Where a query that starts at `at` ends, and whether it holds a broken escape.
#[inline(always)]
fn scan_query(bytes: &[u8], at: usize) -> (usize, bool) {
    let mut end = at;
    let mut broken = false;
    loop {
        while let Some(chunk) = bytes.get(end..).and_then(|rest| rest.first_chunk::<16>()) {
            let lanes = Lanes::of(chunk);
            let quotes = lanes.with_bits(1).equal(b'#') | lanes.equal(b'%') | lanes.equal(b'`');
            let brackets = lanes.with_bits(2).equal(b'>') | lanes.with_bits(2).equal(b'^');
            let usual = lanes.within(0x21, 0x7a).but_not(quotes | brackets);
            let passed = (!usual.bits()).trailing_zeros();
            end += passed as usize;
            if passed < 16 {
                break;
            }
        }
        let Some(byte) = bytes.get(end) else { break };
        if TARGET[usize::from(*byte)] & STOP != 0 {
            break;
        }
        if *byte == b'%' {
            let escape = bytes.get(end + 1..end + 3).unwrap_or_default();
            broken |= escape.len() < 2 || !escape.iter().all(u8::is_ascii_hexdigit);
        }
        end += 1;
    }
    (end, broken)
}

/// Why this byte, at which [`scan`] stopped, is refused.
#[cold]
pub fn refused_byte(byte: u8) -> Reason {
    match byte {
        b'#' => TARGET_FRAGMENT,
        b'\\' => PATH_BACKSLASH,
        0..=0x1f | 0x7f => PATH_CONTROL,
        _ => TARGET_CHARACTER,
    }
}

/// Must be looked at byte by byte when in a path.
const SPECIAL: u8 = 0x01;
const SLASH: u8 = 0x02;
/// Not plain behind a slash.
const RISKY: u8 = 0x04;
const QUESTION: u8 = 0x40;
const STOP: u8 = 0x80;
const TARGET: [u8; 256] = {
    let mut table = [STOP; 256];
    let mut i = 0;
    while i < 256 {
        let byte = i as u8;
        table[i] = match byte {
            b'/' => SLASH | RISKY,
            b'.' => RISKY,
            b'?' => QUESTION,
            b'%' | b';' | b'[' | b']' => SPECIAL,
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' => 0,
            b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b'=' | b':' | b'@' => 0,
            _ => STOP,
        };
        i += 1;
    }
    table
};

/// Appends the canonical form of a path; says whether it kept a `%2F`.
fn canonical_path(path: &[u8], encoded_slash: EncodedSlash, out: &mut Vec<u8>) -> Result<bool, Reason> {
    let mut kept_slash = false;
    let mut at = 0;
    let start = out.len();
    // Where the segment that is being written starts in `out`; the path starts with a slash.
    let mut segment = out.len();
    // The same, where an encoded slash ends a segment too: to whoever decodes it before it resolves dots.
    let mut part = out.len();
    while let Some(byte) = path.get(at) {
        match byte {
            b'/' => {
                if at > 0 {
                    close_segment(&out[part..])?;
                    if out.len() == segment {
                        return Err(PATH_EMPTY_SEGMENT);
                    }
                }
                out.push(b'/');
                segment = out.len();
                part = segment;
                at += 1;
            }
            b';' => return Err(PATH_PARAMETER),
            b'[' | b']' => return Err(TARGET_CHARACTER),
            b'%' => {
                let code = escape(path, at).ok_or(TARGET_ESCAPE)?;
                match code {
                    b'/' if encoded_slash == EncodedSlash::Refuse => return Err(PATH_SLASH_ENCODED),
                    b'/' => {
                        kept_slash = true;
                        close_segment(&out[part..])?;
                        push_escape(b'/', out);
                        part = out.len();
                    }
                    b'\\' => return Err(PATH_BACKSLASH),
                    b';' => return Err(PATH_PARAMETER),
                    0..=0x1f | 0x7f => return Err(PATH_CONTROL),
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => out.push(code),
                    0x80.. => {
                        at += 3 * push_utf8(path, at, code, out)?;
                        continue;
                    }
                    _ => push_escape(code, out),
                }
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    close_segment(&out[part..])?;
    // Only now: in `%25%32%65` the digits behind the percent sign are escapes themselves.
    let written = &out[start..];
    for at in memchr::memmem::find_iter(written, b"%25") {
        if matches!(written.get(at + 3..at + 5), Some([a, b]) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
        {
            return Err(PATH_ENCODED_TWICE);
        }
    }
    Ok(kept_slash)
}

fn close_segment(segment: &[u8]) -> Result<(), Reason> {
    if segment == b"." || segment == b".." { Err(PATH_DOT_SEGMENT) } else { Ok(()) }
}

/// The byte of the escape at `at`.
fn escape(path: &[u8], at: usize) -> Option<u8> {
    let digit = |offset: usize| path.get(at + offset).and_then(|byte| char::from(*byte).to_digit(16));
    if path.get(at) != Some(&b'%') {
        return None;
    }
    u8::try_from(digit(1)? << 4 | digit(2)?).ok()
}

fn push_escape(byte: u8, out: &mut Vec<u8>) {
    const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
    out.extend_from_slice(&[b'%', DIGITS[usize::from(byte >> 4)], DIGITS[usize::from(byte & 15)]]);
}

/// Turns every `%2F` of a canonical path, `bytes` from `from` on, into the slash that it stands for: the path as an origin
/// sees it that makes no difference.
pub fn decode_slashes(bytes: &mut Vec<u8>, from: usize) {
    let (mut read, mut write) = (from, from);
    while let Some(&byte) = bytes.get(read) {
        let slash = bytes[read..].starts_with(b"%2F");
        bytes[write] = if slash { b'/' } else { byte };
        read += if slash { 3 } else { 1 };
        write += 1;
    }
    bytes.truncate(write);
}

/// Copies one character written as escapes above 0x7F, in upper case; says how many escapes it took.
fn push_utf8(path: &[u8], at: usize, first: u8, out: &mut Vec<u8>) -> Result<usize, Reason> {
    let mut sequence = [first, 0, 0, 0];
    let len = match first {
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        // A continuation byte without a start, or a start that is only overlong or too large.
        _ => return Err(PATH_UTF8),
    };
    for (i, byte) in sequence.iter_mut().enumerate().take(len).skip(1) {
        *byte = escape(path, at + 3 * i).ok_or(PATH_UTF8)?;
    }
    let text = str::from_utf8(&sequence[..len]).map_err(|_| PATH_UTF8)?;
    if text.chars().any(char::is_control) {
        return Err(PATH_CONTROL);
    }
    sequence[..len].iter().for_each(|byte| push_escape(*byte, out));
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        h1::parse::{Parse, parse_request},
        http::HeadLimits,
    };

    /// The canonical path and host, or the token of the refusal, whoever refuses.
    fn of(
        method: &str,
        target: &str,
        host: &str,
        slash: EncodedSlash,
    ) -> Result<(String, String), &'static str> {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let mut table = RequestTable::new();
        let parsed = parse_request(head.as_bytes(), &HeadLimits::DEFAULT, &mut table).map_err(|r| r.token)?;
        assert_eq!(parsed, Parse::Complete { head_bytes: head.len() });
        let mut scratch = Vec::new();
        let found = canonical(head.as_bytes(), &table, slash, &mut scratch).map_err(|r| r.token)?;
        let text = |place: Place| String::from_utf8_lossy(place.of(head.as_bytes(), &scratch)).into_owned();
        let query = found.query.map(|q| format!("?{}", String::from_utf8_lossy(q.of(head.as_bytes()))));
        Ok((text(found.path) + &query.unwrap_or_default(), text(found.host)))
    }

    fn path(target: &str) -> Result<String, &'static str> {
        of("GET", target, "a.example", EncodedSlash::Refuse).map(|(path, _)| path)
    }

    #[test]
    fn paths_have_one_canonical_form() {
        for (sent, canonical) in [
            ("/", "/"),
            ("/a/b.c/~d_e-f/", "/a/b.c/~d_e-f/"),
            ("/a:b@c!$&'()*+,=d", "/a:b@c!$&'()*+,=d"),
            ("/%41%7e%2d%5F", "/A~-_"),
            ("/%c3%a9", "/%C3%A9"),
            ("/%f0%9f%98%80", "/%F0%9F%98%80"),
            ("/a%20b%40", "/a%20b%40"),
            ("/100%25", "/100%25"),
            ("/100%25zz", "/100%25zz"),
            ("/.well-known/x", "/.well-known/x"),
            ("/...", "/..."),
            ("/..a/.b/c..", "/..a/.b/c.."),
            ("/%2e%2ea", "/..a"),
            ("/a?", "/a?"),
            ("/a?b=/../c//d;e&f[g]=%2f%00?h", "/a?b=/../c//d;e&f[g]=%2f%00?h"),
            ("/?", "/?"),
            ("http://a.example/x?y", "/x?y"),
            ("HTTP://A.EXAMPLE:80/x", "/x"),
            ("http://a.example", "/"),
            ("http://a.example?q", "/?q"),
            ("http://a.example/%41", "/A"),
        ] {
            assert_eq!(path(sent).as_deref(), Ok(canonical), "{sent}");
        }
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_refused() {
        for (sent, reason) in [
            ("/.", "path_dot_segment"),
            ("/..", "path_dot_segment"),
            ("/a/../b", "path_dot_segment"),
            ("/a/./b", "path_dot_segment"),
            ("/a/..?q", "path_dot_segment"),
            ("/%2e/a", "path_dot_segment"),
            ("/%2E%2e", "path_dot_segment"),
            ("/.%2e/", "path_dot_segment"),
            ("//", "path_empty_segment"),
            ("//a", "path_empty_segment"),
            ("/a//b", "path_empty_segment"),
            ("/a/%2e//", "path_dot_segment"),
            ("/a\\b", "path_backslash"),
            ("/a%5cb", "path_backslash"),
            ("/a%5Cb", "path_backslash"),
            ("/a%2fb", "path_slash_encoded"),
            ("/a%2Fb", "path_slash_encoded"),
            ("/a;b=c", "path_parameter"),
            ("/a%3bb", "path_parameter"),
            ("/a%00", "path_control"),
            ("/a%0d%0aX", "path_control"),
            ("/a%7f", "path_control"),
            ("/a%c2%80", "path_control"),
            ("/a%c2%9f", "path_control"),
            ("/a\u{1}", "path_control"),
            ("/a\u{7f}", "path_control"),
            ("/%c0%ae", "path_utf8"),
            ("/%c0%af", "path_utf8"),
            ("/%c1%81", "path_utf8"),
            ("/%e0%80%ae", "path_utf8"),
            ("/%ed%a0%80", "path_utf8"),
            ("/%f4%90%80%80", "path_utf8"),
            ("/%f8%88%80%80%80", "path_utf8"),
            ("/%80", "path_utf8"),
            ("/%c3", "path_utf8"),
            ("/%c3a", "path_utf8"),
            ("/%c3%41", "path_utf8"),
            ("/%252e", "path_encoded_twice"),
            ("/%252E%252f", "path_encoded_twice"),
            ("/%255c", "path_encoded_twice"),
            ("/%2500", "path_encoded_twice"),
            ("/%25252e", "path_encoded_twice"),
            ("/%253b", "path_encoded_twice"),
            ("/%25%32%65", "path_encoded_twice"),
            ("/%25%32e", "path_encoded_twice"),
            ("/%25%31%62", "path_encoded_twice"),
            ("/%2541", "path_encoded_twice"),
            ("/%253f", "path_encoded_twice"),
            ("/%25c0%25ae", "path_encoded_twice"),
            ("/%", "target_escape"),
            ("/%4", "target_escape"),
            ("/%4g", "target_escape"),
            ("/%u002e", "target_escape"),
            ("/%+1", "target_escape"),
            ("/a?%", "target_escape"),
            ("/a?%4", "target_escape"),
            ("/a?b%zz", "target_escape"),
            ("/a#b", "target_fragment"),
            ("/a?b#c", "target_fragment"),
            ("#", "target_fragment"),
            ("/é", "target_character"),
            ("/a?é", "target_character"),
            ("/a\"b", "target_character"),
            ("/a?\"", "target_character"),
            ("/<a>", "target_character"),
            ("/a{b}", "target_character"),
            ("/a|b", "target_character"),
            ("/a^b", "target_character"),
            ("/a`b", "target_character"),
            ("/a[b]", "target_character"),
            ("/a?b\\c", "path_backslash"),
            ("*", "target_form"),
            ("a", "target_form"),
            ("a.example:80", "target_form"),
            ("?a", "target_form"),
            ("ftp://a.example/", "target_form"),
            ("http:/a.example/", "target_form"),
            ("http:///a", "target_form"),
            ("http://", "target_form"),
            ("http://u@a.example/", "target_userinfo"),
            ("http://u:p@a.example/", "target_userinfo"),
            ("http://a.example:80@b.example/", "target_userinfo"),
            ("http://b.example/", "host_mismatch"),
            ("http://a.example:81/", "host_mismatch"),
            ("https://a.example:80/", "host_mismatch"),
            ("http://a.example./", "host_syntax"),
            ("http://a.example:/", "host_port"),
        ] {
            assert_eq!(path(sent), Err(reason), "{sent}");
        }
    }

    #[test]
    fn an_asterisk_is_for_options() {
        assert_eq!(of("OPTIONS", "*", "a", EncodedSlash::Refuse), Ok(("*".into(), "a".into())));
        assert_eq!(of("OPTIONS", "http://a", "a", EncodedSlash::Refuse), Ok(("*".into(), "a".into())));
        assert_eq!(of("OPTIONS", "http://a/", "a", EncodedSlash::Refuse), Ok(("/".into(), "a".into())));
        assert_eq!(of("POST", "*", "a", EncodedSlash::Refuse), Err("target_form"));
        assert_eq!(of("OPTIONS", "*a", "a", EncodedSlash::Refuse), Err("target_form"));
    }

    #[test]
    fn an_encoded_slash_is_kept_only_where_it_is_asked_for() {
        let kept = of("GET", "/a%2fb", "a", EncodedSlash::Keep);
        assert_eq!(kept, Ok(("/a%2Fb".into(), "a".into())));
        // Neither does it hide a dot segment, nor does one stand beside it: who decodes it first would resolve that.
        for dots in ["/..%2f../..", "/..%2fa", "/a%2f..", "/a%2f%2e%2fb", "/a%2F.", "/a/%2e%2e%2f"] {
            assert_eq!(of("GET", dots, "a", EncodedSlash::Keep), Err("path_dot_segment"), "{dots}");
        }
        for kept in ["/a%2F%2Fb", "/https:%2F%2Fa.example%2F", "/%2F", "/a.%2F.b"] {
            assert_eq!(of("GET", kept, "a", EncodedSlash::Keep), Ok((kept.into(), "a".into())));
        }
        let mut path = b"x/a%2Fb%2F%20".to_vec();
        decode_slashes(&mut path, 1);
        assert_eq!(path, b"x/a/b/%20");
    }

    #[test]
    fn hosts_have_one_canonical_form() {
        for (sent, canonical) in [
            ("a", "a"),
            ("A.Example", "a.example"),
            ("a.example:8080", "a.example"),
            ("my_service-1.x", "my_service-1.x"),
            ("xn--bcher-kva.example", "xn--bcher-kva.example"),
            ("1.2.3.4", "1.2.3.4"),
            ("1.2.3.4:1", "1.2.3.4"),
            ("4u", "4u"),
            ("a.4u", "a.4u"),
            ("[::1]", "[::1]"),
            ("[0:0::0001]:443", "[::1]"),
            ("[2001:DB8::A]", "[2001:db8::a]"),
            ("a:1", "a"),
            ("a:65535", "a"),
        ] {
            assert_eq!(
                of("GET", "/", sent, EncodedSlash::Refuse),
                Ok(("/".into(), canonical.into())),
                "{sent}"
            );
        }
        assert_eq!(
            of("GET", "http://[0::1]/", "[::1]:80", EncodedSlash::Refuse),
            Ok(("/".into(), "[::1]".into()))
        );
        assert_eq!(of("GET", "http://[::1]/", "a", EncodedSlash::Refuse), Err("host_mismatch"));
    }

    #[test]
    fn hosts_that_are_none_are_refused() {
        let label = "a".repeat(63);
        let longest = format!("{label}.{label}.{label}.{}", "a".repeat(61));
        assert_eq!(longest.len(), HOST_BYTES_MAX);
        assert!(of("GET", "/", &longest, EncodedSlash::Refuse).is_ok());
        for (sent, reason) in [
            ("", "host_missing"),
            (".", "host_syntax"),
            ("a.", "host_syntax"),
            ("a.example.", "host_syntax"),
            ("a.example.:80", "host_syntax"),
            (".a", "host_syntax"),
            ("a..b", "host_syntax"),
            (&format!("{label}a.b"), "host_syntax"),
            (&format!("b.{label}a"), "host_syntax"),
            (&format!("{longest}a"), "host_syntax"),
            ("a b", "host_syntax"),
            ("a,b", "host_syntax"),
            ("a/b", "host_syntax"),
            ("a%2eb", "host_syntax"),
            ("b\u{fc}cher.example", "host_syntax"),
            ("http://a", "host_port"),
            ("u@a", "target_userinfo"),
            ("a:80@b", "target_userinfo"),
            (":80", "host_syntax"),
            ("a:", "host_port"),
            ("a:0", "host_port"),
            ("a:080", "host_port"),
            ("a:65536", "host_port"),
            ("a:123456", "host_port"),
            ("a:8o", "host_port"),
            ("a:+80", "host_port"),
            ("a:80:80", "host_port"),
            ("127.1", "host_syntax"),
            ("2130706433", "host_syntax"),
            ("0x7f.0.0.1", "host_syntax"),
            ("0x7f000001", "host_syntax"),
            ("1.2.3.04", "host_syntax"),
            ("1.2.3.256", "host_syntax"),
            ("1.2.3.4.5", "host_syntax"),
            ("a.0x1", "host_syntax"),
            ("[::1", "host_syntax"),
            ("[::1]a", "host_syntax"),
            ("[]", "host_syntax"),
            ("[fe80::1%eth0]", "host_syntax"),
            ("[v1.a]", "host_syntax"),
            ("[1.2.3.4]", "host_syntax"),
            ("::1", "host_syntax"),
            ("[::1]:", "host_port"),
        ] {
            assert_eq!(of("GET", "/", sent, EncodedSlash::Refuse), Err(reason), "{sent}");
        }
    }
}
