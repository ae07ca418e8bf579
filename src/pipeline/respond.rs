//! Sending the response back: edits and security fields, one framing of ours, and the upstream's connection returned to its
//! pool when both messages are over.

use crate::h1::body::{Incoming, Origin, RESPONSE_SIZE, transfer};
use crate::h1::encode::{CONNECTION_CLOSE, CONNECTION_KEEP_ALIVE, encode_response};
use crate::http::field::Known;
use crate::http::{BodyLength, Method, Version, forward as law};
use crate::pipeline::exchange::Exchange;
use crate::pipeline::fail::Fail;
use crate::pipeline::forward::{Broken, Lent, Route};
use crate::pipeline::serve::Client;
use crate::policy::respond::headers::{secure_response, takes_strict_transport};
use crate::worker::Buffer;
use crate::worker::core::Core;

/// What a response head gains at most beside the lines of policies: security fields, framing, a chunk's head.
const HEAD_ROOM: usize = 512;

/// Sends the response whose head stands in `x.response`. Says whether the client's connection may be kept.
///
/// # Errors
/// Either side failed, and the client has seen part of the response; or nothing of it, because it is too large.
pub async fn respond(
    x: &mut Exchange,
    client: &Client<'_>,
    incoming: &Incoming,
    lent: Lent,
    route: &Route<'_>,
    core: &Core,
) -> Result<bool, Broken> {
    let response_max = route.operation.response_max;
    // What is declared to be too long is refused while nothing of it has been passed on.
    if matches!(x.response.table.framing, BodyLength::Length(length) if length > response_max) {
        return Err(Broken::Before(Fail::Upstream(RESPONSE_SIZE)));
    }
    let old_client = x.request.table.version == Version::Http10;
    let upstream_framing = x.response.table.framing;
    let times = &route.operation.timeouts;
    let lifetime = if is_event_stream(x) { times.lifetime_of_events } else { times.lifetime };
    let framing = client_framing(x, old_client);
    // An early response leaves the rest of the request's body behind it, where nobody will read it.
    let keep = x.request.table.keep_alive
        && lent.request_sent
        && incoming.is_complete()
        && framing != BodyLength::UntilClose
        && client.goes_on(core);

    // What came with the head leaves with it.
    let mut out = Buffer::of(x.response.bytes.len() + x.response_inserts.len() + HEAD_ROOM);
    let lines_bytes = x.response_inserts.len();
    let dated = x.response.table.fields.has(Known::Date);
    if !dated && !route.operation.response_edits.decided().contains(Known::Date) {
        // RFC 9110 §6.6.1: who forwards a response without it says when it came.
        core.state.borrow_mut().date.push(&mut x.response_inserts, core.clock.unix_seconds());
    }
    encode_head(x, route, framing, keep, old_client, &mut out);
    x.facts.status = x.response.table.status;
    // The head has been written anew: what was received now only serves the body behind it.
    let received = std::mem::take(&mut x.response.bytes);
    let mut body =
        Incoming::within(upstream_framing, Origin::Upstream, received, lent.head_bytes, response_max);
    body.set_times(times.stream_idle, core.coarse_ms() + lifetime);
    if x.request.table.te_trailers {
        body.keep_trailers();
    }
    let open_ended = framing == BodyLength::UntilClose;
    if open_ended {
        client.transport.socket().set_open_ended(true);
    }
    let sent =
        transfer(&mut body, &lent.connection.transport, client.transport, &mut out, framing, core).await;
    if open_ended && sent.is_ok() {
        // It is whole only once the socket has taken its end, which may have been posted.
        let socket = client.transport.socket();
        if let Err(error) = socket.settle().await {
            return Err(Broken::After(Fail::client(socket.expired(), Some(&error))));
        }
        socket.set_open_ended(false);
    }
    match sent {
        Ok(count) => {
            x.facts.bytes_out += count;
            client.transport.socket().clear_deadline();
            let reusable = x.response.table.keep_alive
                && lent.request_sent
                && !x.request.table.body_unanticipated
                && !may_be_left_over(x)
                && body.rest().is_empty();
            if !lent.request_sent {
                // Nobody shall take what was sent of the request for all of it.
                lent.connection.transport.socket().set_open_ended(true);
            }
            if reusable && upstream_framing != BodyLength::UntilClose {
                route.upstream.keep(lent.guard.member(), lent.connection, core.coarse_ms());
            }
            drop(lent.guard);
            Ok(keep)
        }
        Err(fail) if !body.has_begun() => {
            // The client has not seen a byte of it: it gets an answer of ours instead.
            x.response_inserts.truncate(lines_bytes);
            client.transport.socket().set_open_ended(false);
            Err(Broken::Before(fail))
        }
        Err(fail) => Err(Broken::After(fail)),
    }
}

/// Whether the upstream may have taken the chunks of the request for something else: RFC 9112 §6.1 has them sent only to who
/// is known to understand HTTP/1.1, and this one has just said that it does not.
fn may_be_left_over(x: &Exchange) -> bool {
    x.response.table.version == Version::Http10 && x.request.table.framing == BodyLength::Chunked
}

/// Whether the response is a stream of events that is meant to last (HTML, server-sent events).
fn is_event_stream(x: &Exchange) -> bool {
    const TYPE: &[u8] = b"text/event-stream";
    let value = x.response.table.fields.value(&x.response.bytes, Known::ContentType).unwrap_or_default();
    let (start, rest) = value.split_at(value.len().min(TYPE.len()));
    start.eq_ignore_ascii_case(TYPE) && matches!(rest.first(), None | Some(b';' | b' ' | b'\t'))
}

/// The framing that the client gets.
fn client_framing(x: &Exchange, old_client: bool) -> BodyLength {
    let response = &x.response.table;
    match response.framing {
        // HEAD and 304 tell the length that there would be (RFC 9110 §8.6); nothing follows.
        BodyLength::None if x.method() == Method::Head || response.status == 304 => BodyLength::None,
        // RFC 9112 §6.1: an HTTP/1.0 client knows no chunks.
        BodyLength::Chunked | BodyLength::UntilClose if old_client => BodyLength::UntilClose,
        BodyLength::UntilClose => BodyLength::Chunked,
        framing => framing,
    }
}

/// Encodes the head of the response as the client gets it.
pub fn encode_head(
    x: &mut Exchange,
    route: &Route<'_>,
    framing: BodyLength,
    keep: bool,
    old_client: bool,
    out: &mut Buffer,
) {
    let mut skip = law::response_skip(&x.response.table).union(x.response_skip);
    let mut inserts = std::mem::take(&mut x.response_inserts);
    let fields = &x.response.table.fields;
    route.operation.response_edits.apply(fields, &x.response.bytes, &mut skip, &mut inserts);
    let strict = x.secure && route.operation.strict_transport && takes_strict_transport(x.host());
    let decided = route.operation.response_edits.decided();
    let status = x.response.table.status;
    secure_response(status, fields, &x.response.bytes, decided, strict, &mut skip, &mut inserts);
    if !keep {
        inserts.extend_from_slice(CONNECTION_CLOSE);
    } else if old_client {
        inserts.extend_from_slice(CONNECTION_KEEP_ALIVE);
    }
    // What HEAD and 304 declare is written as it would be; a body of no length is written as one.
    let declared = match (x.response.table.framing, x.response.table.status) {
        (BodyLength::None, 100..=199 | 204) => BodyLength::None,
        (BodyLength::None, _) => match x.response.table.declared {
            BodyLength::UntilClose => BodyLength::None,
            // RFC 9112 §6.1: not even the name of a transfer coding for an HTTP/1.0 client.
            BodyLength::Chunked if old_client => BodyLength::None,
            declared => declared,
        },
        _ => framing,
    };
    encode_response(out, x.response.table.status, &x.response.bytes, fields, &skip, &inserts, declared);
    x.response_inserts = inserts;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::parse::{Parse, parse_response};
    use crate::http::HeadLimits;

    #[test]
    fn a_stream_of_events_is_known_by_its_type() {
        for (value, is) in [
            ("text/event-stream", true),
            ("Text/Event-Stream; charset=utf-8", true),
            ("text/event-stream ;x=y", true),
            ("text/event-streams", false),
            ("text/event-strea", false),
            ("application/json", false),
        ] {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {value}\r\n\r\n");
            let mut x = Exchange::new();
            let parsed =
                parse_response(head.as_bytes(), &HeadLimits::DEFAULT, Method::Get, &mut x.response.table);
            assert_eq!(parsed, Ok(Parse::Complete { head_bytes: head.len() }));
            x.response.bytes = Buffer::of(head.len());
            x.response.bytes.extend_from_slice(head.as_bytes());
            assert_eq!(is_event_stream(&x), is, "{value}");
        }
    }
}
