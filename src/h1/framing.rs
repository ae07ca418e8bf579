//! Where a message ends, and whether the connection lives on: decided here and nowhere else (RFC 9112 §6.3, §9.3).
//!
//! For: the parser, once a head is complete. Not for: reading bodies ([`super::chunked`]), HTTP/2 (which frames
//! itself).
//!
//! Stricter than RFC 9112 where it allows repair: every message that two recipients could cut differently is refused.

use super::flaw::{Flaw, Side};
use crate::http::{
    BodyLength, HeadLimits, Known, Method, Reason, RequestTable, ResponseTable, Version,
    field::{Field, FieldSet, FieldTable, are_twins, is_word, twin_of},
    forward::{is_forbidden_trailer, is_identity},
    media_type::CONTENT_TYPE_DUPLICATE,
    scan,
    target::{HOST_DUPLICATE, HOST_MISSING},
};

/// `Upgrade` names HTTP/2 in cleartext (RFC 9113 §3.1 withdrew it): a way to tunnel past every check.
pub const UPGRADE_H2C: Reason = Reason::client("upgrade_h2c", 2052, 400, "Upgrading to h2c is refused");
/// Expect is no single token.
pub const EXPECT_SYNTAX: Reason = Reason::client("expect_syntax", 2054, 400, "Expect is malformed");
/// An expectation other than `100-continue` (RFC 9110 §10.1.1).
pub const EXPECT_UNKNOWN: Reason =
    Reason::client("expect_unknown", 2055, 417, "The expectation is not supported");

/// Most options in one message's Connection fields.
pub const CONNECTION_OPTIONS_MAX: usize = 32;

/// Settles a complete request head: host, framing, persistence, expectations.
#[inline(always)]
pub(crate) fn settle_request(
    head: &[u8],
    limits: &HeadLimits,
    table: &mut RequestTable,
) -> Result<(), Reason> {
    settle_host(head, limits, table)?;
    table.keep_alive = table.version == Version::Http11;
    if !table.fields.odd().is_empty() {
        refuse_twins(head, &table.fields, Side::Client)?;
    }
    if table.fields.repeated_single() {
        return Err(match table.fields.is_repeated(Known::ContentType) {
            true => CONTENT_TYPE_DUPLICATE,
            false => Flaw::Duplicate.of(Side::Client),
        });
    }
    if table.fields.has_notable() {
        settle_notable(head, limits, table)?;
    }
    Ok(())
}

/// RFC 9112 §3.2: exactly one valid Host, otherwise 400.
#[inline(always)]
fn settle_host(head: &[u8], limits: &HeadLimits, table: &mut RequestTable) -> Result<(), Reason> {
    let Some(host) = table.fields.find(Known::Host) else {
        let tolerated = table.version == Version::Http10 && limits.http10_without_host;
        return if tolerated { Ok(()) } else { Err(HOST_MISSING) };
    };
    if table.fields.is_repeated(Known::Host) {
        return Err(HOST_DUPLICATE);
    }
    let span = host.value();
    let found = table.judged.judge(span.of(head))?;
    table.host = crate::http::Span { start: span.start, len: found.host_len as u16 };
    table.port = found.port;
    table.host_plain = found.plain;
    Ok(())
}

fn settle_notable(head: &[u8], limits: &HeadLimits, table: &mut RequestTable) -> Result<(), Reason> {
    let fields = &table.fields;
    table.framing = declared(head, fields, table.version, Side::Client)?;
    // RFC 9110 §9.3.1: content of a GET has no meaning, and an origin that does not read it takes it for a request.
    if !table.framing.is_empty() && matches!(table.method, Method::Get | Method::Head) && !limits.body_on_get
    {
        return Err(Flaw::BodyUnexpected.of(Side::Client));
    }
    table.body_unanticipated = !table.framing.is_empty() && !table.method.anticipates_body();
    let mut upgrade = false;
    if fields.has(Known::Connection) {
        let connection = connection(head, fields, Side::Client)?;
        // RFC 9112 §9.3: `close` wins; HTTP/1.0 persists only if it asks to.
        table.keep_alive = !connection.close && (table.version == Version::Http11 || connection.keep_alive);
        table.nominated = connection.nominated;
        upgrade = connection.upgrade;
    }
    if fields.has(Known::Upgrade) {
        for (_, field) in fields.find_all(Known::Upgrade) {
            check_upgrade(field.value().of(head), Side::Client)?;
        }
        table.upgrade = upgrade && table.version == Version::Http11;
        table.websocket = table.upgrade
            && !fields.is_repeated(Known::Upgrade)
            && fields.value(head, Known::Upgrade).is_some_and(|value| is_word(value, b"websocket"));
    }
    // RFC 9110 §10.1.1: an expectation in HTTP/1.0 is ignored (it is stripped like any other).
    if fields.has(Known::Expect) && table.version == Version::Http11 {
        let value = fields.value(head, Known::Expect).unwrap_or_default();
        if fields.is_repeated(Known::Expect) || !scan::is_token(value) {
            return Err(EXPECT_SYNTAX);
        }
        if !is_word(value, b"100-continue") {
            return Err(EXPECT_UNKNOWN);
        }
        table.expect_continue = !table.framing.is_empty();
    }
    for (_, field) in fields.find_all(Known::Te) {
        table.te_trailers |= scan::members(field.value().of(head)).any(|m| is_word(m, b"trailers"));
    }
    if fields.has(Known::Trailer) { refuse_announced_trailers(head, fields, Side::Client) } else { Ok(()) }
}

/// Settles a complete response head for a request of this method.
#[inline]
pub(crate) fn settle_response(head: &[u8], method: Method, table: &mut ResponseTable) -> Result<(), Reason> {
    let side = Side::Upstream;
    let fields = &table.fields;
    if !fields.odd().is_empty() {
        refuse_twins(head, fields, side)?;
    }
    table.declared = declared(head, fields, table.version, side)?;
    let mut upgrade = false;
    table.keep_alive = table.version == Version::Http11;
    if fields.has(Known::Connection) {
        let connection = connection(head, fields, side)?;
        table.keep_alive = !connection.close && (table.version == Version::Http11 || connection.keep_alive);
        table.nominated = connection.nominated;
        upgrade = connection.upgrade;
    }
    if fields.has(Known::Upgrade) {
        for (_, field) in fields.find_all(Known::Upgrade) {
            check_upgrade(field.value().of(head), side)?;
        }
        table.upgrade = upgrade;
    }
    if fields.has(Known::Trailer) {
        refuse_announced_trailers(head, fields, side)?;
    }
    // RFC 9112 §6.3, in its order.
    table.framing = match table.status {
        // RFC 9110 §8.6 and RFC 9112 §6.1 forbid both fields here. A 204 with `Content-Length: 0` says nothing that is
        // not so; anything more is a body that somebody might read.
        100..=199 | 204 => {
            if !table.declared.is_empty() {
                return Err(Flaw::BodyUnexpected.of(side));
            }
            table.declared = BodyLength::None;
            BodyLength::None
        }
        304 => BodyLength::None,
        _ if method == Method::Head => BodyLength::None,
        // RFC 9110 §9.3.6: what both fields say in it is ignored; what follows is no content.
        200..=299 if method == Method::Connect => {
            table.declared = BodyLength::None;
            BodyLength::UntilClose
        }
        _ => match table.declared {
            BodyLength::None => BodyLength::UntilClose,
            declared => declared,
        },
    };
    table.keep_alive &= table.framing != BodyLength::UntilClose;
    Ok(())
}

/// What the framing fields of a message say.
#[inline]
fn declared(head: &[u8], fields: &FieldTable, version: Version, side: Side) -> Result<BodyLength, Reason> {
    if fields.has(Known::TransferEncoding) {
        check_transfer_encoding(head, fields, version, side)?;
        return Ok(BodyLength::Chunked);
    }
    let Some(field) = fields.find(Known::ContentLength) else { return Ok(BodyLength::None) };
    if fields.is_repeated(Known::ContentLength) {
        return Err(Flaw::LengthDuplicate.of(side));
    }
    match content_length(field.value().of(head)) {
        Some(length) if !has_tab_around(head, field) => Ok(BodyLength::Length(length)),
        _ => Err(Flaw::LengthSyntax.of(side)),
    }
}

/// A decimal number up to 2^63 − 1 (origins that count in signed integers must agree): digits only, no sign, no list,
/// no leading zero (which some read as octal).
#[inline]
pub(super) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 19 || value[0] == b'0' && value.len() > 1 {
        return None;
    }
    let mut length = 0u64;
    for digit in value {
        if !digit.is_ascii_digit() {
            return None;
        }
        // 19 digits cannot overflow a u64.
        length = length * 10 + u64::from(digit - b'0');
    }
    (length <= i64::MAX as u64).then_some(length)
}

/// RFC 9112 §6.1: `chunked`, once, alone, in HTTP/1.1, and without Content-Length.
fn check_transfer_encoding(
    head: &[u8],
    fields: &FieldTable,
    version: Version,
    side: Side,
) -> Result<(), Reason> {
    if fields.has(Known::ContentLength) {
        return Err(Flaw::FramingConflict.of(side));
    }
    if version == Version::Http10 {
        return Err(Flaw::CodingVersion.of(side));
    }
    if fields.is_repeated(Known::TransferEncoding) {
        return Err(Flaw::CodingDuplicate.of(side));
    }
    let Some(field) = fields.find(Known::TransferEncoding) else { return Ok(()) };
    let value = field.value().of(head);
    if has_tab_around(head, field) {
        return Err(Flaw::CodingSyntax.of(side));
    }
    if is_word(value, b"chunked") {
        return Ok(());
    }
    let mut chunked = 0;
    let mut last_is_chunked = false;
    for coding in value.split(|byte| *byte == b',').map(scan::trim) {
        if !scan::is_token(coding) {
            return Err(Flaw::CodingSyntax.of(side));
        }
        last_is_chunked = is_word(coding, b"chunked");
        chunked += usize::from(last_is_chunked);
    }
    Err(match (chunked, last_is_chunked) {
        (2.., _) => Flaw::CodingDuplicate,
        (1, false) => Flaw::CodingSyntax,
        _ => Flaw::CodingUnknown,
    }
    .of(side))
}

/// Whether the white space around a value holds a tab: legal, but the oldest way to hide a framing field from one of
/// two parsers, and no honest sender's habit.
fn has_tab_around(head: &[u8], field: &Field) -> bool {
    let before = head.get(field.name().end() + 1..usize::from(field.value_start)).unwrap_or_default();
    let behind = head.get(field.value().end()..).unwrap_or_default();
    before.contains(&b'\t') || behind.iter().take_while(|byte| **byte != b'\r').any(|byte| *byte == b'\t')
}

/// What Connection says (RFC 9110 §7.6.1).
#[derive(Clone, Copy, Debug, Default)]
struct Connection {
    close: bool,
    keep_alive: bool,
    upgrade: bool,
    nominated: FieldSet,
}

#[inline]
fn connection(head: &[u8], fields: &FieldTable, side: Side) -> Result<Connection, Reason> {
    let mut found = Connection::default();
    // Nearly all are one of these two words.
    if let (Some(value), false) =
        (fields.value(head, Known::Connection), fields.is_repeated(Known::Connection))
    {
        found.keep_alive = is_word(value, b"keep-alive");
        found.close = is_word(value, b"close");
        if found.keep_alive || found.close {
            return Ok(found);
        }
    }
    let mut options = 0;
    for (_, field) in fields.find_all(Known::Connection) {
        for option in scan::members(field.value().of(head)) {
            options += 1;
            if options > CONNECTION_OPTIONS_MAX || !scan::is_token(option) {
                return Err(Flaw::ConnectionSyntax.of(side));
            }
            if is_word(option, b"keep-alive") {
                found.keep_alive = true;
                continue;
            }
            if is_word(option, b"close") {
                found.close = true;
                continue;
            }
            match Known::of(option) {
                Known::Upgrade => found.upgrade = true,
                Known::Other => {
                    fields.find_names(head, option).for_each(|(index, _)| found.nominated.insert(index))
                }
                known if known.is_hop_by_hop() => {}
                // "A sender MUST NOT send a connection option corresponding to a field that is intended for all
                // recipients": obeying would let a client take Authorization, Host or Content-Length off its request.
                _ => return Err(Flaw::ConnectionNominated.of(side)),
            }
        }
    }
    Ok(found)
}

/// RFC 9110 §7.8: protocols are `name ["/" version]`, both tokens.
fn check_upgrade(value: &[u8], side: Side) -> Result<(), Reason> {
    for protocol in scan::members(value) {
        let (name, version) = match protocol.iter().position(|byte| *byte == b'/') {
            Some(slash) => (&protocol[..slash], Some(&protocol[slash + 1..])),
            None => (protocol, None),
        };
        if !scan::is_token(name) || !version.is_none_or(scan::is_token) {
            return Err(Flaw::UpgradeSyntax.of(side));
        }
        // Origins announce `h2,h2c` in responses; it is stripped there.
        if side == Side::Client && (name.eq_ignore_ascii_case(b"h2c") || name.eq_ignore_ascii_case(b"h2")) {
            return Err(UPGRADE_H2C);
        }
    }
    Ok(())
}

/// A Trailer field that announces what would be refused when it comes.
fn refuse_announced_trailers(head: &[u8], fields: &FieldTable, side: Side) -> Result<(), Reason> {
    for (_, field) in fields.find_all(Known::Trailer) {
        if scan::members(field.value().of(head)).any(is_forbidden_trailer) {
            return Err(Flaw::TrailerForbidden.of(side));
        }
    }
    Ok(())
}

/// Refuses names that are another name to a peer that does not tell `-` from `_` (or from `.`, `~` and the rest).
/// Identity fields are not looked at: those are stripped, whatever they look like.
#[cold]
fn refuse_twins(head: &[u8], fields: &FieldTable, side: Side) -> Result<(), Reason> {
    for index in fields.odd().iter() {
        let Some(odd) = fields.as_slice().get(index) else { break };
        let name = odd.name().of(head);
        if is_identity(name) {
            continue;
        }
        let twin = twin_of(name);
        if twin == Known::Host || twin.is_framing() || twin.is_hop_by_hop() || twin.is_forwarding() {
            return Err(Flaw::Twin.of(side));
        }
        let ambiguous = fields
            .iter(head)
            .any(|other| !other.name.eq_ignore_ascii_case(name) && are_twins(other.name, name));
        if ambiguous {
            return Err(Flaw::Ambiguous.of(side));
        }
    }
    Ok(())
}
