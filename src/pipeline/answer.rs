//! Answers of our own: RFC 9457 problems with code, reason and request id, and fixed answers. Never an internal detail.

use crate::h1::body::Incoming;
use crate::h1::encode::{CONNECTION_CLOSE, CONNECTION_KEEP_ALIVE, push_framing, push_status_line};
use crate::http::field::Known;
use crate::http::{BodyLength, Fault, Method, Reason, Version};
use crate::pipeline::calls::{self, Calling};
use crate::pipeline::exchange::Exchange;
use crate::pipeline::fail::Fail;
use crate::pipeline::serve::{Client, End, finish};
use crate::policy::admit::maintenance::MAINTENANCE;
use crate::policy::respond::headers::{secure_answer, takes_strict_transport};
use crate::snapshot::Keep;
use crate::worker::core::Core;
use crate::worker::{Buffer, Deadline};

/// The refusal could not be put on record.
pub const AUDIT_FULL: Reason =
    Reason::ringwall("audit_full", 5001, 503, "The request cannot be put on record now");

/// Refuses the request: the client gets a problem, the log the reason.
pub async fn refuse(
    x: &mut Exchange,
    client: &Client<'_>,
    incoming: &mut Incoming,
    reason: Reason,
    core: &Core,
) -> End {
    if x.call.is_none() {
        // Of what was refused for its head nothing has been asked yet.
        x.call = Calling::of(x);
    }
    let reason = calls::whose(x, reason, core);
    let reason = put_on_record(x, client, reason, core);
    x.facts.reason = Some(reason);
    if let Some(calling) = x.call {
        return refuse_call(x, client, incoming, &calling, &reason, core).await;
    }
    let mut body = Buffer::head();
    problem(x, &reason, &mut body);
    proxy_status(x, &reason);
    x.insert_answer(b"cache-control", b"no-store");
    fixed(x, client, incoming, reason.status, &body, "application/problem+json", core).await
}

/// Refuses a call: a head that is trailers as well (PROTOCOL-HTTP2, "Responses", Trailers-Only), in gRPC-Web too. What the log
/// says is the status that others would have got.
async fn refuse_call(
    x: &mut Exchange,
    client: &Client<'_>,
    incoming: &mut Incoming,
    calling: &Calling,
    reason: &Reason,
    core: &Core,
) -> End {
    let mut lines = std::mem::take(&mut x.answer_inserts);
    calls::push_lines(x, reason, &mut lines);
    x.answer_inserts = lines;
    let end = fixed(x, client, incoming, 200, b"", calling.call.answer.answer_type(), core).await;
    if x.facts.status != 0 {
        x.facts.status = reason.status;
    }
    end
}

/// Puts a refusal on record before it is answered; gives the reason to answer with. Where the record cannot be kept that is
/// another one (unless `audit.on_full: drop`), so that nobody who floods the audit log goes on learning what is refused.
fn put_on_record(x: &mut Exchange, client: &Client<'_>, reason: Reason, core: &Core) -> Reason {
    let state = core.state.borrow();
    if !state.log.wants_audit() {
        return reason;
    }
    x.facts.reason = Some(reason);
    x.facts.status = reason.status;
    x.facts.audited = true;
    let kept = state.audit(x, client.listener.id, client.view, &core.clock);
    if kept || !client.view.snapshot.refuse_unrecorded {
        return reason;
    }
    // What was refused counts all the same.
    state.metrics.refusal(&reason, crate::observe::Mode::Enforce);
    x.answer_inserts.clear();
    x.violations.clear();
    AUDIT_FULL
}

/// The exchange failed before anything of a response was sent.
pub async fn failed(
    x: &mut Exchange,
    client: &Client<'_>,
    incoming: &mut Incoming,
    fail: Fail,
    core: &Core,
) -> End {
    let reason = fail.reason();
    if reason.status == 499 {
        x.facts.reason = Some(reason);
        return End::close();
    }
    refuse(x, client, incoming, reason, core).await
}

/// Sends an answer with `body`. A request whose body has not been read to its end costs the connection, so that
/// what remains of it is never taken for a request.
pub async fn fixed(
    x: &mut Exchange,
    client: &Client<'_>,
    incoming: &mut Incoming,
    status: u16,
    body: &[u8],
    content_type: &str,
    core: &Core,
) -> End {
    // What has already arrived of the body is passed over.
    while matches!(incoming.piece(), Ok(crate::h1::body::Piece::Data(_))) {}
    let broken = x.facts.reason.is_some_and(|reason| ends_connection(x.request.table.version, &reason));
    let keep = x.request.table.keep_alive && incoming.is_complete() && !broken && client.goes_on(core);
    if !x.decided.contains(Known::Date) {
        core.state.borrow_mut().date.push(&mut x.answer_inserts, core.clock.unix_seconds());
    }
    let mut out = Buffer::of(body.len() + x.answer_inserts.len() + x.response_inserts.len() + 512);
    let named = x.secure && takes_strict_transport(x.host());
    let strict =
        named && x.operation(&client.view.snapshot).is_none_or(|operation| operation.strict_transport);
    encode(x, status, body, content_type, keep, strict, &mut out);
    let length = out.len();
    let until_ms = core.coarse_ms() + client.stream_idle_ms(x);
    core.deadline(client.transport, Deadline::StreamIdle, until_ms);
    let sent = client.transport.end(&mut out, b"", false).await;
    x.facts.status = status;
    if sent.is_err() {
        return End::close();
    }
    x.facts.bytes_out += length as u64;
    finish(incoming, keep)
}

fn encode(
    x: &mut Exchange,
    status: u16,
    body: &[u8],
    content_type: &str,
    keep: bool,
    strict_transport: bool,
    out: &mut Buffer,
) {
    push_status_line(out, status);
    if !keep {
        out.extend_from_slice(CONNECTION_CLOSE);
    } else if x.request.table.version == Version::Http10 {
        out.extend_from_slice(CONNECTION_KEEP_ALIVE);
    }
    if !content_type.is_empty() && !x.decided.contains(Known::ContentType) {
        out.extend_from_slice(b"content-type: ");
        out.extend_from_slice(content_type.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(&x.answer_inserts);
    out.extend_from_slice(&x.response_inserts);
    secure_answer(x.decided, strict_transport, out);
    match status {
        // RFC 9110 §8.6: no Content-Length in a 204.
        204 => push_framing(out, BodyLength::None),
        // What is all head has no body whose length could be said, where the stream says that it ends.
        200 if x.call.is_some() && x.request.table.version == Version::Http2 => {
            push_framing(out, BodyLength::None);
        }
        _ => push_framing(out, BodyLength::Length(body.len() as u64)),
    }
    if x.method() != Method::Head && status != 204 && status != 304 {
        out.extend_from_slice(body);
    }
}

/// Says where a redirect leads: to `location`, and whatever of the request's own target is kept. The host is always that of the
/// configuration: what follows it begins with the slash of a canonical path, or with a question mark.
pub fn redirect(x: &mut Exchange, location: &str, keep: Keep) {
    let mut out = std::mem::take(&mut x.answer_inserts);
    out.extend_from_slice(b"location: ");
    out.extend_from_slice(location.as_bytes());
    if keep == Keep::Path {
        out.extend_from_slice(x.path());
    }
    if let Some(query) = x.query().filter(|_| keep != Keep::Nothing) {
        out.push(b'?');
        out.extend_from_slice(query);
    }
    out.extend_from_slice(b"\r\n");
    x.answer_inserts = out;
}

/// What was blocked in an emergency: a proxy may have brought it among others.
const IN_PASSING: std::ops::Range<u16> = 2250..2260;

/// Whether the connection ends with a refusal. In HTTP/1.1 it does where there is doubt about where the next message begins,
/// or about the peer. In HTTP/2 frames say where messages end, whatever is in them: an answer never costs more than its stream,
/// and what costs the connection is not answered but said with GOAWAY.
fn ends_connection(version: Version, reason: &Reason) -> bool {
    if version == Version::Http2 {
        return false;
    }
    (2000..2120).contains(&reason.code)
        || (2180..2200).contains(&reason.code)
        || (2200..2300).contains(&reason.code) && !IN_PASSING.contains(&reason.code)
}

/// The problem document of a reason (RFC 9457).
fn problem(x: &Exchange, reason: &Reason, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"urn:ringwall:RW-");
    push_number(out, reason.code);
    out.extend_from_slice(b"\",\"title\":\"");
    out.extend_from_slice(reason.title.as_bytes());
    out.extend_from_slice(b"\",\"status\":");
    push_number(out, reason.status);
    out.extend_from_slice(b",\"code\":\"RW-");
    push_number(out, reason.code);
    out.extend_from_slice(b"\",\"reason\":\"");
    out.extend_from_slice(reason.token.as_bytes());
    out.extend_from_slice(b"\",\"request_id\":\"");
    out.extend_from_slice(&x.request_id);
    out.push(b'"');
    if !x.violations.is_empty() {
        out.extend_from_slice(b",\"errors\":[");
        for (index, (pointer, token)) in x.violations.iter().enumerate() {
            if index > 0 {
                out.push(b',');
            }
            out.extend_from_slice(b"{\"pointer\":");
            push_json_string(out, pointer);
            out.extend_from_slice(b",\"reason\":\"");
            out.extend_from_slice(token.as_bytes());
            out.extend_from_slice(b"\"}");
        }
        out.push(b']');
    }
    out.push(b'}');
}

/// `Proxy-Status` (RFC 9209): that it was us, and the kind of error.
fn proxy_status(x: &mut Exchange, reason: &Reason) {
    let error = match (reason.fault, reason.status) {
        (Fault::Client, 400 | 431 | 414 | 413 | 501 | 505) => "http_request_error",
        (Fault::Client, _) => "http_request_denied",
        (Fault::Upstream, 504) => "connection_timeout",
        (Fault::Upstream, 503) => "connection_limit_reached",
        (Fault::Upstream, _) if reason.code >= 4200 => "http_protocol_error",
        (Fault::Upstream, _) if reason.code == 4000 => "connection_refused",
        (Fault::Upstream, _) if reason.code == 4001 => "dns_error",
        (Fault::Upstream, _) => "connection_terminated",
        (Fault::Ringwall, _) if *reason == MAINTENANCE => "destination_unavailable",
        (Fault::Ringwall, _) => "proxy_internal_error",
    };
    let out = &mut x.answer_inserts;
    out.extend_from_slice(b"proxy-status: ringwall; error=");
    out.extend_from_slice(error.as_bytes());
    out.extend_from_slice(b"; details=\"RW-");
    push_number(out, reason.code);
    out.extend_from_slice(b"\"\r\n");
}

fn push_number(out: &mut Vec<u8>, number: u16) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

/// A JSON string: pointers hold names that a client chose.
fn push_json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            0..=0x1f => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_in_http_1_does_an_answer_end_the_connection() {
        let ends = |version, code| ends_connection(version, &Reason::client("reason", code, 400, ""));
        for (code, expected) in
            [(2000, true), (2060, true), (2119, true), (2120, false), (2180, true), (2240, true)]
                .into_iter()
                .chain([(2249, true), (2250, false), (2260, true), (2300, false), (3000, false)])
        {
            for version in [Version::Http10, Version::Http11] {
                assert_eq!(ends(version, code), expected, "{code}");
            }
            assert!(!ends(Version::Http2, code), "{code}");
        }
    }
}
