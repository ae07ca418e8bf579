//! Calls of gRPC and gRPC-Web on their way through the pipeline: what is decided of them once, how long they may take, how they
//! are refused, and how they end where their upstream does not end them.
//!
//! For: the other stages, each of which asks one question here where it has a call before it ([`Exchange::call`]). Not for: the
//! protocol itself ([`crate::grpc`]), which does without an exchange.

use std::time::Duration;

use crate::grpc::message::{Limits, MESSAGE_BYTES_MAX};
use crate::grpc::status::{
    GRPC_RESPONSE_TYPE, GRPC_STATUS_MISSING, Refusal, STATUS_NAME, push_refusal, retry_after_ms,
};
use crate::grpc::timeout::{self, GRPC_DEADLINE};
use crate::grpc::web::Translator;
use crate::grpc::{Call, Filter, Status, Style};
use crate::h1::body::Incoming;
use crate::h1::encode::{CHUNK_END, CHUNK_HEAD_BYTES_MAX, chunk_head, push_last_chunk};
use crate::h2::stream::Over;
use crate::http::field::Known;
use crate::http::{BodyLength, Reason};
use crate::pipeline::exchange::Exchange;
use crate::pipeline::fail::{EXCHANGE_LIFETIME, EXCHANGE_TIMEOUT, Fail};
use crate::pipeline::forward::Broken;
use crate::pipeline::respond::Responded;
use crate::pipeline::serve::Client;
use crate::snapshot::{Operation, Timeouts};
use crate::upstream::connect::is_our_own;
use crate::worker::core::Core;
use crate::worker::{Buffer, Deadline, Transport};

/// A call under way.
#[derive(Clone, Copy, Debug)]
pub struct Calling {
    /// What it is.
    pub call: Call,
    /// Whether it is translated: it came as gRPC-Web, and its upstream speaks gRPC.
    translated: bool,
    /// When its caller's time is over, in monotonic nanoseconds; `u64::MAX` where it has not said so.
    deadline_ns: u64,
    /// Bytes of the lines that go upstream with it, without what is left of its time.
    lines_bytes: usize,
    /// What it comes to, where more is known than its reason says.
    status: Option<Status>,
}

impl Calling {
    /// The call that a request is, if it is one.
    #[inline]
    pub fn of(x: &Exchange) -> Option<Calling> {
        let call = Call::of(&x.request.table, &x.request.bytes)?;
        Some(Calling { call, translated: false, deadline_ns: u64::MAX, lines_bytes: 0, status: None })
    }

    /// The status that the upstream's own answer came to is of no more use: it is asked again.
    pub fn forget_answer(&mut self) {
        self.status = None;
    }

    /// Whether a status says that who answered is in trouble. That time was over says so only where it was not the caller's: who
    /// calls with too little of it has nobody left out.
    fn is_trouble(&self, status: Status) -> bool {
        status.is_server_error() && (status != Status::DeadlineExceeded || self.deadline_ns == u64::MAX)
    }

    /// When its caller's time is over, in monotonic milliseconds.
    fn deadline_ms(&self) -> u64 {
        self.deadline_ns / 1_000_000
    }
}

/// Reads how long the caller waits.
///
/// # Errors
/// It cannot be read, or is over.
pub fn read_deadline(x: &mut Exchange) -> Result<(), Reason> {
    let Some(calling) = &mut x.call else { return Ok(()) };
    if let Some(timeout) = timeout::of(&x.request.table, &x.request.bytes)? {
        calling.deadline_ns = timeout::deadline_ns(x.facts.started_ns, Some(timeout), Duration::MAX);
        if timeout.is_zero() {
            return Err(GRPC_DEADLINE);
        }
    }
    Ok(())
}

/// When the head of the response has to be here, in monotonic milliseconds: at the end of the operation's `total`, or of the time
/// that the caller has given it, whichever is first.
pub fn head_due_ms(x: &Exchange, times: &Timeouts) -> u64 {
    let total_ms = x.facts.started_ns / 1_000_000 + times.total;
    x.call.as_ref().map_or(total_ms, |calling| calling.deadline_ms().min(total_ms))
}

/// The times of an attempt. A caller that has said how long it waits is not cut short by `first_byte`.
pub fn times(x: &Exchange, times: &Timeouts) -> Timeouts {
    match &x.call {
        Some(calling) if calling.deadline_ns < u64::MAX => Timeouts { first_byte: times.total, ..*times },
        _ => *times,
    }
}

/// When the whole of a response has to be here that has come to its head now.
pub fn end_due_ms(x: &Exchange, end_ms: u64) -> u64 {
    x.call.as_ref().map_or(end_ms, |calling| calling.deadline_ms().min(end_ms))
}

/// The reason of a failure: where a time was over, whose it was.
pub fn whose(x: &Exchange, reason: Reason, core: &Core) -> Reason {
    match &x.call {
        Some(calling)
            if (reason == EXCHANGE_TIMEOUT || reason == EXCHANGE_LIFETIME)
                && core.now_ms() >= calling.deadline_ms() =>
        {
            GRPC_DEADLINE
        }
        _ => reason,
    }
}

/// The largest body of a request. That of a call is a stream of messages, each of which has a bound of its own: the sum of them
/// has one where the operator has said so, or a policy wants to have all of it.
pub fn body_max(x: &Exchange, operation: &Operation) -> u64 {
    match &x.call {
        Some(_) if !operation.chain.wants_body() => operation.call_max,
        _ => operation.body_max,
    }
}

/// Has the messages of a request walked, and translated where its upstream speaks gRPC (`translates`).
pub fn enter(x: &mut Exchange, incoming: &mut Incoming, operation: &Operation, translates: bool) {
    let Some(calling) = &mut x.call else { return };
    let style = calling.call.style;
    calling.translated = style.is_web() && translates;
    if calling.translated || style == Style::Grpc {
        let limits = Limits::of(&x.request.table.fields, &x.request.bytes, message_max(operation));
        incoming.set_filter(Filter::of_request(style, limits));
        if style == Style::WebText {
            // What is decoded has another length than was announced.
            x.request.table.framing = match x.request.table.framing {
                BodyLength::Length(_) => BodyLength::UntilClose,
                framing => framing,
            };
        }
    }
}

fn message_max(operation: &Operation) -> u32 {
    operation.message_max.unwrap_or(MESSAGE_BYTES_MAX)
}

/// The lines and fields with which a call goes upstream, beside those of every request. Once, for all attempts.
pub fn prepare(x: &mut Exchange) {
    let Some(calling) = &mut x.call else { return };
    if calling.translated {
        x.request.table.fields.find_all(Known::ContentType).for_each(|(index, _)| x.skip.insert(index));
        calling.call.push_upstream_type(&x.request.bytes, &mut x.inserts);
    }
    calling.lines_bytes = x.inserts.len();
}

/// Tells the upstream what is left of the caller's time, or of what the operation allows at all, if that is less.
pub fn tell_time_left(x: &mut Exchange, times: &Timeouts, core: &Core) {
    let Some(calling) = x.call.filter(|calling| calling.deadline_ns < u64::MAX) else { return };
    let left = Duration::from_nanos(calling.deadline_ns.saturating_sub(core.clock.now_ns()));
    let allowed = Duration::from_millis(times.total.saturating_add(times.lifetime));
    x.inserts.truncate(calling.lines_bytes);
    let head = &x.request.bytes;
    timeout::forward(&x.request.table, head, left.min(allowed), &mut x.skip, &mut x.inserts);
}

/// Notes what the reset of an upstream's stream says.
pub fn note_reset(x: &mut Exchange, from: &Transport) {
    if let Some(calling) = &mut x.call
        && let Some(Over::Reset(code)) = from.stream().and_then(|stream| stream.over())
    {
        calling.status = Some(Status::from_reset(code));
    }
}

/// Whether the head of a response to a call says that who answered is in trouble; `None`: its end does ([`ends_in_trouble`]).
/// `by_http` is what its HTTP status says.
pub fn begins_in_trouble(x: &Exchange, by_http: bool) -> Option<bool> {
    let Some(calling) = &x.call else { return Some(by_http) };
    let (table, head) = (&x.response.table, &x.response.bytes);
    if table.status != 200 || calling.call.style.is_web() && !calling.translated {
        return Some(by_http);
    }
    table.fields.find_name(head, STATUS_NAME.as_bytes()).map(|value| calling.is_trouble(Status::parse(value)))
}

/// Whether a call whose response had begun has ended in a way that says that who answered is in trouble. What its client did,
/// or we, says nothing of it.
pub fn ends_in_trouble(x: &Exchange, responded: &Result<Responded, Broken>) -> bool {
    let Some(calling) = &x.call else { return false };
    let status = match responded {
        Ok(_) => x.facts.grpc_status.and_then(|number| Status::ALL.get(usize::from(number)).copied()),
        Err(Broken::Before(Fail::Upstream(reason)) | Broken::After(Fail::Upstream(reason)))
            if !is_our_own(*reason) =>
        {
            Some(calling.status.unwrap_or_else(|| Status::of(reason)))
        }
        Err(_) => None,
    };
    status.is_some_and(|status| calling.is_trouble(status))
}

/// What becomes of a response to a call.
pub struct Answering {
    /// What its body passes.
    pub filter: Option<Filter>,
    /// Whether its trailers go into its body.
    pub in_body: bool,
}

/// Judges the head of a response to a call, and has its content type be what the client wants. `None`: it is none, or not looked
/// into.
///
/// # Errors
/// It is no answer to a call: nothing of it may be sent.
pub fn answered(x: &mut Exchange, operation: &Operation) -> Result<Option<Answering>, Fail> {
    let Some(calling) = &mut x.call else { return Ok(None) };
    if calling.call.style.is_web() && !calling.translated {
        return Ok(None);
    }
    let (table, head) = (&x.response.table, &x.response.bytes);
    let content_type = table.fields.value(head, Known::ContentType).unwrap_or_default();
    let lines_bytes = x.response_inserts.len();
    if !calling.call.push_response_type(content_type, &mut x.response_inserts) {
        calling.status = Some(Status::from_http(table.status));
        return Err(Fail::Upstream(GRPC_RESPONSE_TYPE));
    }
    if calling.translated {
        table.fields.find_all(Known::ContentType).for_each(|(index, _)| x.response_skip.insert(index));
    } else {
        x.response_inserts.truncate(lines_bytes);
    }
    // PROTOCOL-HTTP2, "Responses": Trailers-Only, which is a head.
    if let Some(value) = table.fields.find_name(head, STATUS_NAME.as_bytes()) {
        x.facts.grpc_status = Some(Status::parse(value).number());
        return Ok(Some(Answering { filter: None, in_body: false }));
    }
    if table.framing == BodyLength::None {
        x.response_inserts.truncate(lines_bytes);
        return Err(Fail::Upstream(GRPC_STATUS_MISSING));
    }
    let limits = Limits::of(&table.fields, head, message_max(operation));
    let filter = Some(Filter::of_response(calling.call.answer, limits));
    Ok(Some(Answering { filter, in_body: calling.translated }))
}

/// Appends the lines of a refusal (or of a failure behind the head of the response) to those of the answer, and says what it comes to.
pub fn push_lines(x: &mut Exchange, reason: &Reason, out: &mut Vec<u8>) -> Status {
    let status = x.call.and_then(|calling| calling.status).unwrap_or_else(|| Status::of(reason));
    let again_ms = retry_after_ms(out);
    let (request_id, violations) = (&x.request_id, &x.violations);
    let mut scratch = Buffer::head();
    push_refusal(&Refusal { reason, status, request_id, again_ms, violations }, &mut scratch, out);
    x.facts.grpc_status = Some(status.number());
    status
}

/// A call has failed behind the head of its response: if the client has whole messages it gets a status behind them, as if the
/// upstream had sent it; else its stream is reset with the code that says it. `out` is what was still to be sent, framed as
/// `framing` says.
pub async fn end(
    x: &mut Exchange,
    client: &Client<'_>,
    body: &mut Incoming,
    mut out: Buffer,
    framing: BodyLength,
    reason: Reason,
    core: &Core,
) {
    let reason = whose(x, reason, core);
    let mut lines = Buffer::head();
    let status = push_lines(x, &reason, &mut lines);
    let streams = client.transport.stream();
    let filter = body.filter_mut().filter(|filter| filter.is_at_boundary());
    // A length that was announced leaves no room for another end.
    let Some(filter) = filter.filter(|_| !matches!(framing, BodyLength::Length(_))) else {
        if let Some(stream) = streams {
            stream.set_code(status.reset_code());
        }
        return;
    };
    let chunked = framing == BodyLength::Chunked;
    if let Some(translator) = filter.translator() {
        push_frame(translator, &lines, chunked, &mut out);
        lines.clear();
    }
    if chunked {
        push_last_chunk(&mut out, &lines);
    }
    let until_ms = core.coarse_ms() + client.stream_idle_ms(x);
    core.deadline(client.transport, Deadline::StreamIdle, until_ms);
    if client.transport.end(&mut out, &lines, true).await.is_ok() && framing == BodyLength::UntilClose {
        client.transport.set_open_ended(false);
    }
}

/// A call is cut off behind the head of its response, and nothing has said why yet: the code of the reset does.
pub fn cut(x: &mut Exchange, client: &Client<'_>, reason: &Reason) {
    if x.call.is_none() || x.facts.grpc_status.is_some() {
        return;
    }
    let status = Status::of(reason);
    x.facts.grpc_status = Some(status.number());
    if let Some(stream) = client.transport.stream() {
        stream.set_code(status.reset_code());
    }
}

/// Appends the trailers as the last frame of a gRPC-Web body.
pub fn push_frame(translator: &mut Translator, trailers: &[u8], chunked: bool, out: &mut Buffer) {
    if !chunked {
        return translator.end(trailers, out);
    }
    let mut frame = Buffer::of(trailers.len() * 3 / 2 + 16);
    translator.end(trailers, &mut frame);
    let mut head = [0; CHUNK_HEAD_BYTES_MAX];
    out.extend_from_slice(chunk_head(frame.len(), &mut head));
    out.extend_from_slice(&frame);
    out.extend_from_slice(CHUNK_END);
}
