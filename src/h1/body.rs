//! Bodies in motion: from one transport to the other, decoded and framed anew, with back-pressure both ways.
//!
//! One loop, [`transfer`], serves uploads and downloads. It holds two buffers at most: what was received and not yet
//! decoded, and what is ready to be sent. A receive starts only when everything before it has been sent: that is the
//! back-pressure. Large pieces of a body that keeps its framing are sent from the buffer they were received in.

use std::cell::Cell;
use std::io;
use std::ops::Range;

use crate::accept::pressure::Level;
use crate::grpc::Filter;
use crate::h1::chunked::{Body, Step};
use crate::h1::encode::{CHUNK_END, CHUNK_HEAD_BYTES_MAX, chunk_head, push_last_chunk};
use crate::h1::flaw::Side;
use crate::http::{BodyLength, Reason};
use crate::pipeline::calls::push_frame;
use crate::pipeline::fail::Fail;
use crate::snapshot::Timeouts;
use crate::worker::buffer::{LARGE, SMALL};
use crate::worker::core::Core;
use crate::worker::transport::POST_BYTES_MAX;
use crate::worker::{Buffer, Deadline, Transport, bulk, turn};

/// The body is larger than the operation admits.
pub const BODY_SIZE: Reason = Reason::client("body_size", 2060, 413, "The request body is too large");

/// The response is larger than the operation admits.
pub const RESPONSE_SIZE: Reason =
    Reason::upstream("response_size", 3440, 502, "The upstream's response is too large");

/// Pieces up to this many bytes are gathered with what is already waiting to be sent, so that a small message leaves in
/// one write.
const GATHER_BYTES_MAX: usize = POST_BYTES_MAX;
/// Fewer bytes are not encoded for themselves, as long as there are more.
const ENCODE_BYTES_MIN: usize = 768;
/// Room that gathered pieces leave in a buffer for the framing around them.
const GATHER_ROOM: usize = 64;
/// What is left of a body, up to this many bytes, is received in a buffer of its own size.
const SMALL_BYTES: u64 = SMALL as u64;
/// A client must send at least this much of a body in each [`PROGRESS_MS`] that we wait for it.
const PROGRESS_BYTES: u64 = 10 * 1024;
/// The window over which a client's progress is measured, in milliseconds: 1 KiB/s over 10 s.
const PROGRESS_MS: u64 = 10_000;
/// A client must take at least this much of a response in each second that we wait for it, over windows of `stream_idle`.
const READ_BYTES_PER_S: u64 = 1024;

/// Whose body it is, which decides deadlines and blame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A request's body, from the client.
    Client,
    /// A response's body, from the upstream.
    Upstream,
}

/// A body while it is received.
#[derive(Debug)]
pub struct Incoming {
    body: Body,
    origin: Origin,
    buffer: Buffer,
    /// First byte of `buffer` that has not been decoded.
    at: usize,
    /// Decoded bytes so far.
    decoded: u64,
    /// Raw bytes received since this body began, what came with the head included.
    received: u64,
    /// How many of them the last receive got.
    last: usize,
    /// Most decoded bytes.
    limit: u64,
    /// Bytes that have been given to the other side.
    passed_on: u64,
    /// Whether anything of the message has been given to the other side, and whether some of it is on its way there.
    begun: bool,
    leaving: Cell<bool>,
    /// How long either side may be idle, in milliseconds.
    stream_idle_ms: u64,
    /// When this message must be over, in monotonic milliseconds.
    end_ms: u64,
    /// Whether it is received in small pieces, because many others are on the way to the same connection.
    frugal: bool,
    /// Whether what came behind the last chunk is sent on.
    trailers_kept: bool,
    /// Trailers that came beside the body, as lines.
    beside: Buffer,
    /// The client's progress: with this body, if it is its own, or else in taking it.
    window: Window,
    /// What the messages of a call pass.
    filter: Option<Filter>,
}

/// Progress over a window of waiting: time in which the other side, or we, kept the client waiting does not count.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    /// Milliseconds that we have waited in this window, and bytes that came of it.
    waited_ms: u64,
    bytes: u64,
}

impl Window {
    /// We have waited, and got, or were rid of, so much. With `enough` bytes another window begins.
    fn advance(&mut self, waited_ms: u64, bytes: u64, enough: u64) {
        self.waited_ms += waited_ms;
        self.bytes += bytes;
        if self.bytes >= enough {
            *self = Window::default();
        }
    }
}

/// What [`Incoming::piece`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Decoded data, a range of the buffer.
    Data(Range<usize>),
    /// Nothing more is here.
    Wanting,
    /// The body is over.
    End,
}

impl Incoming {
    /// A body that begins with `start`, the bytes that were received behind the head. At most `limit` bytes of data are
    /// admitted.
    pub fn new(framing: BodyLength, origin: Origin, start: &[u8], limit: u64) -> Incoming {
        let mut buffer = Buffer::empty();
        if !start.is_empty() {
            buffer = Buffer::of(start.len());
            buffer.extend_from_slice(start);
        }
        Incoming::within(framing, origin, buffer, 0, limit)
    }

    /// A body that begins in `buffer` at `at`, where the head before it is of no more use.
    pub fn within(framing: BodyLength, origin: Origin, buffer: Buffer, at: usize, limit: u64) -> Incoming {
        let body = match origin {
            Origin::Client => Body::of_request(framing),
            Origin::Upstream => Body::of_response(framing),
        };
        Incoming {
            body,
            origin,
            received: (buffer.len() - at) as u64,
            last: 0,
            buffer,
            at,
            decoded: 0,
            limit,
            begun: false,
            passed_on: 0,
            leaving: Cell::new(false),
            stream_idle_ms: Timeouts::DEFAULT.stream_idle,
            end_ms: u64::MAX,
            frugal: false,
            trailers_kept: false,
            beside: Buffer::empty(),
            window: Window::default(),
            filter: None,
        }
    }

    /// Sets how much data is admitted, before any has been decoded.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = limit;
    }

    /// Sets how long either side may be idle (milliseconds), and when the message must be over (monotonic milliseconds).
    pub fn set_times(&mut self, stream_idle_ms: u64, end_ms: u64) {
        self.stream_idle_ms = stream_idle_ms;
        self.end_ms = end_ms;
    }

    /// Has trailers sent on. Otherwise they end here, as RFC 9110 §6.5.1 lets them: a recipient that merges them into the
    /// fields would get what no policy has seen, and one that did not ask for them (`TE: trailers`) has no use for them.
    pub fn keep_trailers(&mut self) {
        self.trailers_kept = true;
    }

    /// Has the messages of a call pass `filter`, before any has been decoded. Its client may be silent for as long as either side
    /// may.
    pub fn set_filter(&mut self, filter: Filter) {
        self.filter = Some(filter);
    }

    /// What the messages of a call pass.
    pub fn filter_mut(&mut self) -> Option<&mut Filter> {
        self.filter.as_mut()
    }

    /// Decodes what is here.
    ///
    /// # Errors
    /// The framing is broken, the body is larger than it may be, or it is that of a call and its messages may not pass.
    #[inline]
    pub fn piece(&mut self) -> Result<Piece, Fail> {
        if self.filter.is_some() { self.piece_of_call() } else { self.next_piece() }
    }

    /// The next piece of which the filter lets something pass.
    #[inline(never)]
    fn piece_of_call(&mut self) -> Result<Piece, Fail> {
        loop {
            let piece = match &self.filter {
                Some(filter) => filter.verdict().map_err(|reason| self.blame(reason)),
                None => Ok(()),
            };
            piece?;
            let piece = self.next_piece()?;
            let Some(filter) = &mut self.filter else { return Ok(piece) };
            let passed = match &piece {
                Piece::Data(range) => filter.pass(&mut self.buffer[range.clone()]),
                Piece::Wanting => return Ok(piece),
                Piece::End => {
                    let beside = &self.beside;
                    filter.finish(if beside.is_empty() { self.body.trailers() } else { beside }).map(|()| 0)
                }
            };
            match (passed, piece) {
                (Err(reason), _) => return Err(self.blame(reason)),
                (Ok(0), Piece::Data(_)) => {}
                (Ok(bytes), Piece::Data(range)) => return Ok(Piece::Data(range.start..range.start + bytes)),
                (Ok(_), piece) => return Ok(piece),
            }
        }
    }

    #[inline]
    fn next_piece(&mut self) -> Result<Piece, Fail> {
        let (piece, consumed) = match self
            .body
            .decode(self.buffer.get(self.at..).unwrap_or_default())
            .map_err(|reason| self.blame(reason))?
        {
            Step::Data { start, end, consumed } => (Piece::Data(self.at + start..self.at + end), consumed),
            Step::NeedMore { consumed } => (Piece::Wanting, consumed),
            Step::End { consumed } => (Piece::End, consumed),
        };
        self.at += consumed;
        if let Piece::Data(range) = &piece {
            self.decoded += range.len() as u64;
            if self.decoded > self.limit {
                return Err(match self.origin {
                    Origin::Client => Fail::Client(BODY_SIZE),
                    Origin::Upstream => Fail::Upstream(RESPONSE_SIZE),
                });
            }
        }
        Ok(piece)
    }

    /// Receives more, after everything here has been decoded and used.
    ///
    /// # Errors
    /// The sender has gone, is too slow, or ended before its body did. The end of a body that lasts until the close is no
    /// error: [`Incoming::piece`] then says so.
    pub async fn receive(&mut self, from: &Transport, core: &Core) -> Result<(), Fail> {
        self.receive_beside(from, &Cell::new(false), core).await
    }

    /// The same for one of two directions. Once `both` are under way the deadline of `from` is the other's, which sends to it.
    async fn receive_beside(&mut self, from: &Transport, both: &Cell<bool>, core: &Core) -> Result<(), Fail> {
        let used = self.at == self.buffer.len();
        if used {
            // All of it is used: whoever keeps us waiting, or waits for its turn, holds no buffer.
            self.buffer = Buffer::empty();
            self.at = 0;
        }
        turn::step().await;
        if let Some(bytes) = self.large_piece() {
            bulk::share(bytes, core.driver).await;
        }
        let begun_ms = core.coarse_ms();
        if !both.get() {
            self.set_deadline(from, core);
        }
        let received = if used {
            let short = self.frugal || core.node.pressure.worst() > Level::Easy;
            let left = self.body.left().unwrap_or(u64::MAX);
            let lease = || match left {
                0..=SMALL_BYTES => Buffer::of(left as usize),
                _ if short => Buffer::small(),
                _ => Buffer::large(),
            };
            let leased = from.recv_leased(lease).await;
            leased.map(|buffer| {
                self.buffer = buffer;
                self.buffer.len()
            })
        } else {
            if self.buffer.len() == self.buffer.capacity() {
                self.buffer.consume(self.at);
                self.at = 0;
            }
            from.recv(&mut self.buffer).await
        };
        match received {
            Ok(0) => {
                if let Some(deadline) = from.expired() {
                    return Err(self.lost(Some(deadline), None));
                }
                self.beside = from.take_trailers();
                self.body.close().map_err(|reason| self.blame(reason))
            }
            Ok(count) => {
                self.received += count as u64;
                self.last = count;
                // Whoever sends answers only for the time in which we wait for it, not for that in which we wait for the
                // other side to take what it has sent.
                if both.get() {
                    return Ok(());
                }
                from.clear_deadline();
                if self.origin == Origin::Client {
                    let waited_ms = core.coarse_ms().saturating_sub(begun_ms);
                    self.window.advance(waited_ms, count as u64, PROGRESS_BYTES);
                }
                Ok(())
            }
            Err(error) => Err(self.lost(from.expired(), Some(&error))),
        }
    }

    /// How many bytes the next receive is taken to move, if the message is large: it says so itself, or has become it. Taken
    /// for what the last one moved: whoever sends a large message slowly uses up no more of a turn than it moves.
    fn large_piece(&self) -> Option<usize> {
        let left = self.body.left();
        let whole = self.received.saturating_add(left.unwrap_or(0));
        let most = left.map_or(LARGE, |left| usize::try_from(left).unwrap_or(LARGE).min(LARGE));
        let next = if self.last == 0 { LARGE } else { self.last };
        (whole >= bulk::LARGE_FROM).then_some(next.min(most))
    }

    fn set_deadline(&mut self, from: &Transport, core: &Core) {
        match self.origin {
            Origin::Client => {
                // Who calls sends when it has something to say.
                let grant_ms = match self.filter {
                    None => PROGRESS_MS.saturating_sub(self.window.waited_ms),
                    Some(_) => self.stream_idle_ms,
                };
                let until_ms = core.coarse_ms() + grant_ms;
                core.deadline(from, Deadline::Body, until_ms.min(self.end_ms));
            }
            Origin::Upstream => self.set_progress_deadline(from, core),
        }
    }

    /// Whoever reads or writes a piece of the message must make progress, and the whole of it has an end.
    fn set_progress_deadline(&self, side: &Transport, core: &Core) {
        self.set_deadline_within(side, self.stream_idle_ms, core);
    }

    fn set_deadline_within(&self, side: &Transport, grant_ms: u64, core: &Core) {
        let idle_ms = core.coarse_ms() + grant_ms;
        match (idle_ms < self.end_ms, self.origin) {
            (true, _) => core.deadline(side, Deadline::StreamIdle, idle_ms),
            (false, Origin::Client) => core.deadline(side, Deadline::Total, self.end_ms),
            (false, Origin::Upstream) => core.deadline(side, Deadline::Lifetime, self.end_ms),
        }
    }

    /// Sets the deadline for sending a piece: an upstream may take `stream_idle` for it; a client must take what it owes of
    /// its window, and then of the next ones, until the end.
    fn set_send_deadline(&self, to: &Transport, core: &Core) {
        if self.origin == Origin::Client {
            return self.set_progress_deadline(to, core);
        }
        let left_ms = self.stream_idle_ms.saturating_sub(self.window.waited_ms);
        self.set_deadline_within(to, left_ms, core);
        let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
        to.set_pace(narrow(self.owed_bytes()), narrow(self.stream_idle_ms), self.end_ms);
    }

    /// What a client must take in a window.
    fn owed_bytes(&self) -> u64 {
        (self.stream_idle_ms * READ_BYTES_PER_S / 1_000).max(1)
    }

    /// A piece begins to be sent.
    fn sends(&self, to: &Transport, both: &Cell<bool>, core: &Core) {
        self.leaving.set(true);
        if !both.get() {
            self.set_send_deadline(to, core);
        }
    }

    /// A piece has been sent: until the next one is here, which is timed on its own side, whoever took it owes nothing. Where the
    /// other direction waits for it, it has shown that it lives.
    fn was_taken(&mut self, to: &Transport, begun_ms: u64, count: usize, both: &Cell<bool>, core: &Core) {
        self.leaving.set(false);
        self.passed_on += count as u64;
        if both.get() {
            return to.prolong(Deadline::StreamIdle, core.coarse_ms() + self.stream_idle_ms);
        }
        to.clear_deadline();
        self.sent(begun_ms, count, core);
    }

    /// A piece has been sent.
    fn sent(&mut self, begun_ms: u64, count: usize, core: &Core) {
        if self.origin == Origin::Upstream {
            let waited_ms = core.coarse_ms().saturating_sub(begun_ms);
            self.window.advance(waited_ms, count as u64, self.owed_bytes());
        }
    }

    fn blame(&self, reason: Reason) -> Fail {
        match self.origin {
            Origin::Client => Fail::Client(reason),
            Origin::Upstream => Fail::Upstream(reason),
        }
    }

    fn lost(&self, deadline: Option<Deadline>, error: Option<&io::Error>) -> Fail {
        match self.origin {
            Origin::Client => Fail::client(deadline, error),
            Origin::Upstream => Fail::upstream(deadline, error),
        }
    }

    /// Whether its data leave in base64.
    #[inline]
    fn is_encoded(&mut self) -> bool {
        self.filter.as_mut().is_some_and(|filter| filter.encoder().is_some())
    }

    /// Puts the trailers of a call behind its messages, where its client finds them there.
    #[inline(never)]
    fn push_last_frame(&mut self, chunked: bool, out: &mut Buffer) {
        let Some(translator) = self.filter.as_mut().and_then(Filter::translator) else { return };
        let trailers = if self.beside.is_empty() { self.body.trailers() } else { &self.beside };
        push_frame(translator, trailers, chunked, out);
        self.trailers_kept = false;
    }

    /// Whether [`transfer`] has given anything of the message to the other side: before it has, all can still be taken back.
    pub fn has_begun(&self) -> bool {
        self.begun
    }

    /// Whether a piece was on its way when [`transfer`] ended or was given up: then nothing can be said behind it.
    pub fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// Whether the last byte has been decoded, and what came behind it is here.
    pub fn is_complete(&self) -> bool {
        // A piece whose sending was given up has gone, and all that was in the buffer with it.
        self.body.is_complete() && self.at <= self.buffer.len()
    }

    /// Bytes of the message, as it is framed there, that have been given to the other side; of a piece that broke off none.
    pub fn passed_on(&self) -> u64 {
        self.passed_on
    }

    /// Decoded bytes so far.
    pub fn decoded(&self) -> u64 {
        self.decoded
    }

    /// Raw bytes received so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The bytes of `range`, as [`Incoming::piece`] gave it.
    pub fn bytes(&self, range: Range<usize>) -> &[u8] {
        &self.buffer[range]
    }

    /// What came behind the end of the body: the start of the next message.
    pub fn rest(&self) -> &[u8] {
        self.buffer.get(self.at..).unwrap_or_default()
    }

    /// Lines of the trailer section.
    pub fn trailers(&self) -> &[u8] {
        if self.beside.is_empty() { self.body.trailers() } else { &self.beside }
    }

    /// Which side of the codec's reasons this body belongs to.
    pub fn side(&self) -> Side {
        match self.origin {
            Origin::Client => Side::Client,
            Origin::Upstream => Side::Upstream,
        }
    }
}

/// Sends what `out` holds (an encoded head) and then the whole body, framed as `framing` says. `both` says
/// that the other direction of the exchange is under way on the same two transports: then their deadlines are its affair.
///
/// # Errors
/// Either side, whichever failed first. Once something has been sent the caller must cut the message.
pub async fn transfer(
    incoming: &mut Incoming,
    from: &Transport,
    to: &Transport,
    out: &mut Buffer,
    framing: BodyLength,
    both: &Cell<bool>,
    core: &Core,
) -> Result<(), Fail> {
    let chunked = framing == BodyLength::Chunked;
    loop {
        match incoming.piece()? {
            Piece::Data(range) if incoming.is_encoded() => {
                send_encoded(incoming, range, to, out, chunked, both, core).await?;
            }
            Piece::Data(range) => {
                if chunked {
                    let mut head = [0; CHUNK_HEAD_BYTES_MAX];
                    out.extend_from_slice(chunk_head(range.len(), &mut head));
                }
                if out.len() + range.len() <= GATHER_BYTES_MAX.min(out.capacity().saturating_sub(GATHER_ROOM))
                {
                    out.extend_from_slice(incoming.bytes(range));
                } else {
                    flush(incoming, out, to, both, core).await?;
                    let length = range.len();
                    let begun_ms = core.coarse_ms();
                    incoming.sends(to, both, core);
                    incoming.begun = true;
                    to.send(&mut incoming.buffer, range)
                        .await
                        .map_err(|error| lost(incoming.origin, to, &error))?;
                    incoming.was_taken(to, begun_ms, length, both, core);
                }
                if chunked {
                    out.extend_from_slice(CHUNK_END);
                }
            }
            Piece::Wanting => {
                flush(incoming, out, to, both, core).await?;
                incoming.frugal = to.is_crowded();
                incoming.receive_beside(from, both, core).await?;
            }
            Piece::End => {
                if incoming.filter.is_some() {
                    incoming.push_last_frame(chunked, out);
                }
                let trailers = if incoming.trailers_kept { incoming.trailers() } else { b"" };
                if !trailers.is_empty()
                    && let (Some(from), Some(to)) = (from.stream(), to.stream())
                {
                    to.set_never_indexed(from.has_secret_trailers());
                }
                if chunked {
                    push_last_chunk(out, trailers);
                }
                // Nothing more is expected of this side: it may now wait for the other as long as that takes.
                if !both.get() {
                    from.clear_deadline();
                }
                let length = out.len();
                let begun_ms = core.coarse_ms();
                // A request is sent once it has left; a small answer may leave later.
                let waits = incoming.origin == Origin::Client;
                match waits || length > POST_BYTES_MAX {
                    true => incoming.sends(to, both, core),
                    false => incoming.set_progress_deadline(to, core),
                }
                incoming.leaving.set(true);
                let ended = to.end(out, trailers, waits).await;
                incoming.begun = true;
                ended.map_err(|error| lost(incoming.origin, to, &error))?;
                match waits || length > POST_BYTES_MAX {
                    true => incoming.was_taken(to, begun_ms, length, both, core),
                    false => incoming.passed_on += length as u64,
                }
                out.clear();
                return Ok(());
            }
        }
    }
}

/// Sends data in base64, by way of `out`.
async fn send_encoded(
    incoming: &mut Incoming,
    range: Range<usize>,
    to: &Transport,
    out: &mut Buffer,
    chunked: bool,
    both: &Cell<bool>,
    core: &Core,
) -> Result<(), Fail> {
    let mut at = range.start;
    while at < range.end {
        // Three bytes become four.
        let room = out.capacity().saturating_sub(out.len() + GATHER_ROOM) / 4 * 3;
        if room < ENCODE_BYTES_MIN.min(range.end - at) && !out.is_empty() {
            flush(incoming, out, to, both, core).await?;
            continue;
        }
        let end = range.end.min(at + room.max(ENCODE_BYTES_MIN));
        let Incoming { filter, buffer, .. } = &mut *incoming;
        let Some(encoder) = filter.as_mut().and_then(Filter::encoder) else { break };
        if chunked {
            let mut head = [0; CHUNK_HEAD_BYTES_MAX];
            out.extend_from_slice(chunk_head((end - at).div_ceil(3) * 4, &mut head));
        }
        encoder.data(&buffer[at..end], out);
        if chunked {
            out.extend_from_slice(CHUNK_END);
        }
        at = end;
    }
    Ok(())
}

async fn flush(
    incoming: &mut Incoming,
    out: &mut Buffer,
    to: &Transport,
    both: &Cell<bool>,
    core: &Core,
) -> Result<(), Fail> {
    let length = out.len();
    if length == 0 {
        return Ok(());
    }
    let begun_ms = core.coarse_ms();
    incoming.sends(to, both, core);
    incoming.begun = true;
    to.send(out, 0..length).await.map_err(|error| lost(incoming.origin, to, &error))?;
    incoming.was_taken(to, begun_ms, length, both, core);
    out.clear();
    Ok(())
}

/// The receiving side of a transfer failed: the other one than the body's origin.
fn lost(origin: Origin, to: &Transport, error: &io::Error) -> Fail {
    match origin {
        Origin::Client => Fail::upstream(to.expired(), Some(error)),
        Origin::Upstream => Fail::client(to.expired(), Some(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(framing: BodyLength, received: u64, last: usize) -> Incoming {
        let mut incoming = Incoming::new(framing, Origin::Client, b"", u64::MAX);
        (incoming.received, incoming.last) = (received, last);
        incoming
    }

    #[test]
    fn a_large_message_is_charged_for_what_it_moves_not_for_what_it_promises() {
        let large = bulk::LARGE_FROM;
        let piece = |framing, received, last| after(framing, received, last).large_piece();
        // Nothing is known of the first receive but what is left.
        assert_eq!(piece(BodyLength::Length(large - 1), 0, 0), None);
        assert_eq!(piece(BodyLength::Length(large), 0, 0), Some(LARGE.min(large as usize)));
        assert_eq!(piece(BodyLength::Length(10 << 20), 0, 0), Some(LARGE));
        // A kilobyte at a time, of a message that says that it is as large as can be said.
        for whole in [10 << 20, u64::MAX - 1, u64::MAX] {
            assert_eq!(piece(BodyLength::Length(whole), 1_024, 1_024), Some(1_024), "{whole}");
        }
        // Without a length it is large once it is.
        assert_eq!(piece(BodyLength::Chunked, large - 1, 1_024), None);
        assert_eq!(piece(BodyLength::Chunked, large, 1_024), Some(1_024));
        // Never more than is left.
        assert_eq!(piece(BodyLength::Length(5), large, LARGE), Some(5));
    }
}
