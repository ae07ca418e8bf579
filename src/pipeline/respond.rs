//! Sending the response back: edits and security fields, one framing of ours, and the upstream's connection returned to its
//! pool when both messages are over.

use std::cell::Cell;
use std::pin::pin;
use std::rc::Rc;

use crate::h1::body::{Incoming, Origin, RESPONSE_SIZE, transfer};
use crate::h1::encode::{CONNECTION_CLOSE, CONNECTION_KEEP_ALIVE, encode_response};
use crate::http::field::Known;
use crate::http::{BodyLength, Method, Reason, Version, forward as law};
use crate::pipeline::calls;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::fail::Fail;
use crate::pipeline::forward::{Broken, Route};
use crate::pipeline::serve::Client;
use crate::pipeline::watch;
use crate::policy::respond::headers::{secure_response, takes_strict_transport};
use crate::worker::core::Core;
use crate::worker::{Buffer, Transport};

/// What a response head gains at most beside the lines of policies: security fields, framing, a chunk's head.
const HEAD_ROOM: usize = 512;

/// How a response was sent.
#[derive(Clone, Copy, Debug)]
pub struct Responded {
    /// Whether the client's connection may be kept.
    pub keep: bool,
    /// Whether nothing of the response is left on the upstream's connection, so that it may carry another, if the request has
    /// been sent to its end.
    pub clean: bool,
}

/// Sends the response whose head, of `head_bytes`, stands in `x.response`. `whole`: the request has been received and sent to its
/// end. `at_odds` is why its rest is refused, if it is, which ends the response, too.
///
/// # Errors
/// Either side failed, and the client has seen part of the response; or nothing of it, because it is too large.
#[expect(clippy::too_many_arguments, reason = "the two sides of an exchange, and what ends it")]
pub async fn respond(
    x: &mut Exchange,
    client: &Client<'_>,
    from: &Transport,
    head_bytes: usize,
    whole: bool,
    route: &Route<'_>,
    at_odds: &Cell<Option<Reason>>,
    core: &Rc<Core>,
) -> Result<Responded, Broken> {
    let response_max = route.operation.response_max;
    // What is declared to be too long is refused while nothing of it has been passed on.
    if matches!(x.response.table.framing, BodyLength::Length(length) if length > response_max) {
        return Err(Broken::Before(Fail::Upstream(RESPONSE_SIZE)));
    }
    let lines_bytes = x.response_inserts.len();
    let answering = match x.call {
        None => None,
        Some(_) => calls::answered(x, route.operation).map_err(Broken::Before)?,
    };
    let old_client = x.request.table.version == Version::Http10;
    let upstream_framing = from.extent(x.response.table.framing);
    let times = &route.operation.timeouts;
    let is_event_stream = is_event_stream(x);
    let lifetime = if is_event_stream { times.lifetime_of_events } else { times.lifetime };
    let stream = client.transport.stream();
    if let Some(stream) = stream {
        stream.set_never_indexed(x.response.table.never_indexed);
    }
    let streams = stream.is_some();
    let framing = match client_framing(x, old_client || streams, streams) {
        // The end of a body is where its trailers are.
        BodyLength::Length(_) | BodyLength::UntilClose | BodyLength::Chunked
            if answering.as_ref().is_some_and(|answering| answering.in_body) =>
        {
            if old_client || streams {
                BodyLength::UntilClose
            } else {
                BodyLength::Chunked
            }
        }
        framing => framing,
    };
    // An early response leaves the rest of the request's body behind it, where nobody will read it.
    let keep =
        x.request.table.keep_alive && whole && framing != BodyLength::UntilClose && client.goes_on(core);

    // What came with the head leaves with it.
    let mut out = Buffer::of(x.response.bytes.len() + x.response_inserts.len() + HEAD_ROOM);
    let dated = x.response.table.fields.has(Known::Date);
    if !dated && !route.operation.response_edits.decided().contains(Known::Date) {
        // RFC 9110 §6.6.1: who forwards a response without it says when it came.
        core.state.borrow_mut().date.push(&mut x.response_inserts, core.clock.unix_seconds());
    }
    encode_head(x, route, framing, keep, old_client, &mut out);
    if let Some(stream) = client.transport.stream() {
        stream.set_head_bytes(out.len());
    }
    x.facts.status = x.response.table.status;
    // The head has been written anew: what was received now only serves the body behind it.
    let received = std::mem::take(&mut x.response.bytes);
    let mut body = Incoming::within(upstream_framing, Origin::Upstream, received, head_bytes, response_max);
    body.set_times(times.stream_idle, calls::end_due_ms(x, core.coarse_ms() + lifetime));
    if x.request.table.te_trailers || answering.is_some() {
        body.keep_trailers();
    }
    if let Some(filter) = answering.and_then(|answering| answering.filter) {
        body.set_filter(filter);
    }
    let open_ended = framing == BodyLength::UntilClose && !streams;
    if open_ended {
        client.transport.set_open_ended(true);
    }
    let alone = Cell::new(false);
    let sent = {
        let sending = pin!(transfer(&mut body, from, client.transport, &mut out, framing, &alone, core));
        watch::while_it_may(x, client, is_event_stream || x.call.is_some(), sending, core).await
    };
    if open_ended && sent.is_ok() {
        // It is whole only once the socket has taken its end, which may have been posted.
        if let Err(error) = client.transport.settle().await {
            return Err(Broken::After(Fail::client(client.transport.expired(), Some(&error))));
        }
        client.transport.set_open_ended(false);
    }
    x.facts.bytes_out += body.passed_on();
    match sent.map_err(|fail| at_odds.get().map_or(fail, Fail::Client)) {
        Ok(()) => {
            client.transport.clear_deadline();
            if let Some(status) = body.filter_mut().and_then(|filter| filter.status()) {
                x.facts.grpc_status = Some(status.number());
            }
            let clean = x.response.table.keep_alive
                && !x.request.table.body_unanticipated
                && !may_be_left_over(x)
                && upstream_framing != BodyLength::UntilClose
                && body.rest().is_empty();
            Ok(Responded { keep, clean })
        }
        Err(fail) if !body.has_begun() => {
            // The client has not seen a byte of it: it gets an answer of ours instead.
            x.response_inserts.truncate(lines_bytes);
            client.transport.set_open_ended(false);
            calls::note_reset(x, from);
            Err(Broken::Before(fail))
        }
        Err(fail) => {
            if x.call.is_some() {
                if at_odds.get().is_none() {
                    calls::note_reset(x, from);
                }
                if let (Fail::Upstream(reason), _) | (_, Some(reason)) = (fail, at_odds.get())
                    && !body.is_leaving()
                {
                    calls::end(x, client, &mut body, out, framing, reason, core).await;
                }
            }
            Err(Broken::After(fail))
        }
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

/// The framing that the client gets. One that `knows_no_chunks` is told of the end by the end of its connection, or stream.
fn client_framing(x: &Exchange, knows_no_chunks: bool, streams: bool) -> BodyLength {
    let response = &x.response.table;
    match response.framing {
        // HEAD and 304 tell the length that there would be (RFC 9110 §8.6); nothing follows.
        BodyLength::None if x.method() == Method::Head || response.status == 304 => BodyLength::None,
        // A stream has said its end with its head, which a head of HTTP/1.1 says by a length.
        BodyLength::None if !streams && !matches!(response.status, 100..=199 | 204) => BodyLength::Length(0),
        // RFC 9112 §6.1, RFC 9113 §8.1.
        BodyLength::Chunked | BodyLength::UntilClose if knows_no_chunks => BodyLength::UntilClose,
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
            BodyLength::None => framing,
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
