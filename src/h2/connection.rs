//! One HTTP/2 connection, without the connection: bytes and time in, events and bytes out (RFC 9113 §4–§8).
//!
//! For: the task that owns the socket, in either role. Not for: what fields mean, which is a [`FieldBlocks`]' business, nor what
//! to answer, which is the caller's.
//!
//! **Receiving.** [`Connection::receive`] takes all of what it is given, however it was cut, or returns at an [`Event`] and says
//! how much it took; the caller acts and calls again with the rest. DATA is passed on as it comes, as slices of the input. Every
//! field block is given to the [`FieldBlocks`] exactly once and in order of arrival, also those of streams that are refused: the
//! tables of both ends stay the same whatever the caller does.
//!
//! **Sending.** Everything is appended to `out`, the one sequence of bytes that leaves. Answers to frames are never
//! larger than what asked for them, or one RST_STREAM, so a caller that writes `out` before it reads again holds a bounded amount. What is subject to
//! flow control is taken only as far as windows reach; [`Connection::want`] and [`Connection::next_writable`] say whose turn it is.
//!
//! **Flow control.** What arrived is held until the caller says that it was [`Connection::consumed`]; at most
//! [`Settings::connection_window`] bytes are held, unless the caller has more for others [`Connection::make_room`]. What is held of a stream that is reset, by either side, is given back by
//! itself, and must be let go of.
//!
//! **Time** is what the caller says it is; [`Connection::next_deadline`] says when [`Connection::tick`] has something to do.
//!
//! Memory: under 1 KiB without streams, 40 bytes a stream, a frame or a field block that came in pieces (≤ 16 KiB, ≤
//! [`Settings::block_bytes_max`]). No allocation per request once these have grown; [`Connection::shrink`] gives them back.

use super::budget::{Budget, Budgets, CHURN_BYTES, LATE_BYTES, TINY_BYTES};
use super::flaw::Flaw;
use super::flow::{ReceiveWindow, SendWindow, WINDOW_DEFAULT};
use super::frame::{
    self, ACK, END_HEADERS, END_STREAM, ErrorCode, FRAME_BYTES_DEFAULT, FRAME_HEAD_BYTES, FrameHead, Kind,
    PADDED, PREFACE, StreamId,
};
use super::priority::Priority;
use super::settings::{self, PeerSettings, Settings};
use super::streams::{Past, StreamKey, Streams, state};
use crate::http::Reason;

/// CONTINUATION frames in a field block. Those who need any fill 16 KiB each.
pub const CONTINUATIONS_MAX: u8 = 16;
/// Settings in one frame. There are ten that anybody knows.
pub const SETTINGS_IN_FRAME_MAX: u32 = 64;
/// The largest DATA that we send, whatever the peer takes: others want their turn.
pub const DATA_BYTES_MAX: usize = FRAME_BYTES_DEFAULT as usize;
/// Requests that a client opens before the server has said how many it takes (RFC 9113 §6.5.2 recommends no less).
const STREAMS_BEFORE_SETTINGS: u32 = 100;
/// Streams beyond what we grant that are refused for nothing while the client cannot know what that is: some assume no bound
/// until our settings have come.
const REFUSED_BEFORE_SETTINGS: u32 = 1_024;
/// How long a graceful end waits for what the peer had sent before it knew, milliseconds.
const GOODBYE_MS: u64 = 1_000;

/// Which end we are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// The peer is a client and sends requests.
    Server,
    /// The peer is an upstream and answers ours.
    Client,
}

/// What a field block is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Section {
    /// The head of a request.
    Request,
    /// The head of the response to a request of ours, informational ones included.
    Response(StreamKey),
    /// The trailers of a message whose head came.
    Trailers(StreamKey),
    /// Of no use: it is decoded for the table's sake only.
    Discarded,
}

/// What the connection must know of a decoded field block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// Why it is malformed or too large (RFC 9113 §8.1.1). The table was updated nevertheless.
    pub flaw: Option<Reason>,
    /// Content-Length, if there is one.
    pub content_length: Option<u64>,
    /// The status of a response; 0 otherwise.
    pub status: u16,
    /// Bytes that it put into the dynamic table, in the measure of RFC 7541 §4.1.
    pub inserted_bytes: u32,
    /// Bytes beyond the largest head that it decoded to, in the measure of RFC 9113 §6.5.2.
    pub excess_bytes: u32,
}

/// A field block that cannot be decoded: the tables of both ends differ from now on, or would cost too much to keep alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Undecodable {
    /// It violates RFC 7541.
    Malformed,
    /// It makes far more work than it has bytes.
    Churn,
}

/// What turns field blocks into heads. It keeps the head that it decoded until the event that follows has been acted on.
pub trait FieldBlocks {
    /// One whole block; called exactly once for each, in order of arrival. With `end` the stream ends with it.
    ///
    /// # Errors
    /// The connection cannot go on (RFC 9113 §4.3).
    fn decode(
        &mut self,
        section: Section,
        stream: StreamId,
        end: bool,
        block: &[u8],
    ) -> Result<Decoded, Undecodable>;

    /// The peer's SETTINGS_HEADER_TABLE_SIZE, each time that it is said: how large a table the encoder may use.
    fn encoder_table_bytes(&mut self, bytes: u32);
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<'b> {
    /// Nothing more: all of the input was taken.
    Idle,
    /// The peer's settings came, or changed.
    Settings,
    /// A request, or the final head of a response, was decoded. Only a request can have a `flaw`: it waits for an answer, or to be
    /// reset.
    Head {
        /// Whose.
        stream: StreamKey,
        /// Whether there is no body.
        end: bool,
        /// What is wrong with it.
        flaw: Option<Reason>,
    },
    /// The head of an informational response (1xx) was decoded.
    Informational {
        /// Whose.
        stream: StreamKey,
    },
    /// Bytes of a body. They are held until they are consumed.
    Data {
        /// Whose.
        stream: StreamKey,
        /// Perhaps a part of a frame; empty only at the end.
        bytes: &'b [u8],
        /// Whether the body is over, and the message with it.
        end: bool,
    },
    /// Trailers were decoded, and the message is over.
    Trailers {
        /// Whose.
        stream: StreamKey,
    },
    /// The stream is over before its time. What was held of it is given back, unless its end had come.
    Reset {
        /// Whose.
        stream: StreamKey,
        /// What was said, by whoever said it.
        code: ErrorCode,
        /// Who ended it, and why.
        cause: Cause,
    },
    /// The peer opens no more streams, or takes none beyond `last`. Each of ours that it has not seen is [`Event::Reset`] next.
    GoAway {
        /// The last stream that it may have acted on.
        last: StreamId,
        /// Why.
        code: ErrorCode,
    },
    /// A PING of [`Connection::keep_alive`] was answered.
    Pong {
        /// After so many milliseconds.
        round_trip_ms: u64,
    },
}

/// Who ended a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The peer. With [`ErrorCode::REFUSED_STREAM`] it has not acted on the request, which may be sent again.
    Peer,
    /// The peer goes away and has not acted on it: it may be sent again.
    Unprocessed,
    /// We, for a fault of the peer.
    Fault(Reason),
}

/// The stream is over: nothing can be sent on it. Or it was never the caller's to do what it tried to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamGone;

/// The connection is over, for a fault of the peer. `out` says so to it; it remains to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone {
    /// What for the log and the metrics.
    pub reason: Reason,
    /// What the peer was told.
    pub code: ErrorCode,
}

/// Why a request cannot be sent on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotOpened {
    /// As many streams are open as the server, or we, allow: later.
    Full,
    /// The connection is going away, or has no numbers left: on another one.
    Over,
}

/// A request to be sent.
#[derive(Clone, Copy, Debug, Default)]
pub struct Opening {
    /// Whether it has no body.
    pub end: bool,
    /// Whether its method is HEAD, so that the response has no body either.
    pub head_request: bool,
}

/// Where in the byte sequence we are.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// So many bytes of the preface came.
    Preface(usize),
    /// In a frame's head.
    Head,
    /// In the payload of a frame that is acted on as a whole.
    Payload(FrameHead),
    /// Before the first byte of DATA that is padded, which says by how much.
    Padding(FrameHead),
    /// In the data of DATA.
    Data(DataLeft),
    /// In so many bytes that are of no use.
    Skip(u32),
}

#[derive(Clone, Copy, Debug)]
struct DataLeft {
    stream: StreamKey,
    bytes: u32,
    /// Padding behind it.
    padding: u32,
    end: bool,
}

/// A field block of which CONTINUATION frames are to come.
#[derive(Clone, Copy, Debug)]
struct Assembly {
    stream: StreamId,
    end: bool,
    continuations: u8,
}

/// What a step came to.
enum Step<'b> {
    /// All was taken, and more is needed.
    Wanting,
    /// So many bytes were taken.
    On(usize),
    /// So many bytes were taken, and this happened.
    Event(usize, Event<'b>),
}

/// Why we sent a PING.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PingFor {
    KeepAlive,
    Goodbye,
}

/// A PING that is not answered.
#[derive(Clone, Copy, Debug)]
struct Ping {
    what: PingFor,
    payload: [u8; 8],
    sent_ms: u64,
    due_ms: u64,
}

/// One connection.
#[derive(Debug)]
pub struct Connection {
    role: Role,
    phase: Phase,
    ours: Settings,
    peer: PeerSettings,
    /// The first SETTINGS of the peer came.
    settled: bool,
    /// When our settings must be acknowledged; `None` once they are.
    settings_due_ms: Option<u64>,
    streams: Streams,
    receive: ReceiveWindow,
    send: SendWindow,
    budgets: Budgets,
    /// A frame's head, as far as it came.
    head: [u8; FRAME_HEAD_BYTES],
    head_bytes: u8,
    /// A frame's payload that came in pieces.
    stash: Vec<u8>,
    assembly: Option<Assembly>,
    /// The field block of the assembly.
    block: Vec<u8>,
    /// When the field block that is coming must be whole; `None` while none is.
    block_due_ms: Option<u64>,
    /// The last stream that the client opened: the peer's as a server, ours as a client.
    last: StreamId,
    /// The last stream that we told the peer we would act on.
    goaway_sent: Option<StreamId>,
    goaway_received: Option<StreamId>,
    /// Streams beyond `goaway_received` remain to be told of, from this slot on.
    sweeping: Option<usize>,
    ping: Option<Ping>,
    pings: u32,
    refused: u32,
    now_ms: u64,
    gone: Option<Flaw>,
}

impl Connection {
    /// A connection that begins: what we say first is appended to `out`.
    pub fn new(role: Role, settings: &Settings, now_ms: u64, out: &mut Vec<u8>) -> Connection {
        let ours = settings.sound();
        if role == Role::Client {
            out.extend_from_slice(PREFACE);
        }
        frame::push_settings(out, ours.said(role == Role::Server));
        if ours.connection_window > WINDOW_DEFAULT {
            // RFC 9113 §6.9.2: the window of the connection is no setting.
            frame::push_window_update(out, StreamId::CONNECTION, ours.connection_window - WINDOW_DEFAULT);
        }
        Connection {
            role,
            phase: if role == Role::Server { Phase::Preface(0) } else { Phase::Head },
            peer: PeerSettings::INITIAL,
            settled: false,
            settings_due_ms: Some(now_ms.saturating_add(ours.acknowledged_within_ms)),
            streams: Streams::new(ours.streams_max),
            receive: ReceiveWindow::new(ours.connection_window),
            send: SendWindow::new(WINDOW_DEFAULT),
            budgets: Budgets::new(),
            head: [0; FRAME_HEAD_BYTES],
            head_bytes: 0,
            stash: Vec::new(),
            assembly: None,
            block: Vec::new(),
            block_due_ms: None,
            last: StreamId::CONNECTION,
            goaway_sent: None,
            goaway_received: None,
            sweeping: None,
            ping: None,
            pings: 0,
            refused: 0,
            now_ms,
            gone: None,
            ours,
        }
    }

    /// Takes bytes of the peer, up to the first event: says how many. All of them were taken where the event is
    /// [`Event::Idle`]; after any other it is to be called again, with what is left, even if that is nothing.
    ///
    /// # Errors
    /// The connection is over; nothing more is taken, now or later.
    pub fn receive<'b>(
        &mut self,
        input: &'b [u8],
        now_ms: u64,
        blocks: &mut impl FieldBlocks,
        out: &mut Vec<u8>,
    ) -> Result<(usize, Event<'b>), Gone> {
        self.now_ms = now_ms;
        if let Some(flaw) = self.gone {
            return Err(self.gone_for(flaw));
        }
        let mut at = 0;
        loop {
            if let Some(from) = self.sweeping
                && let Some(event) = self.sweep(from, out)
            {
                return Ok((at, event));
            }
            match self.step(&input[at..], blocks, out) {
                Ok(Step::On(bytes)) => at += bytes,
                Ok(Step::Wanting) => return Ok((input.len(), Event::Idle)),
                Ok(Step::Event(bytes, event)) => return Ok((at + bytes, event)),
                Err(flaw) => return Err(self.fail(flaw, out)),
            }
        }
    }

    // Sending.

    /// Client: opens a stream with a request, whose field block the closure appends. It is called only if the request is sent.
    ///
    /// # Errors
    /// The connection takes no request, now or ever.
    pub fn open(
        &mut self,
        opening: Opening,
        out: &mut Vec<u8>,
        block: impl FnOnce(&mut Vec<u8>),
    ) -> Result<StreamKey, NotOpened> {
        let next = if self.last.is_connection() { StreamId(1) } else { StreamId(self.last.0 + 2) };
        debug_assert_eq!(self.role, Role::Client);
        let over = self.role == Role::Server
            || self.gone.is_some()
            || self.goaway_received.is_some()
            || self.goaway_sent.is_some()
            || next > StreamId::LAST;
        if over {
            return Err(NotOpened::Over);
        }
        if self.openable() == 0 {
            return Err(NotOpened::Full);
        }
        let (receive, send) = (self.ours.stream_window, self.peer.stream_window);
        let key = self.streams.insert(next, receive, send).ok_or(NotOpened::Full)?;
        self.last = next;
        if let Some(stream) = self.streams.live(key) {
            stream.set(state::HEAD_SENT);
            if opening.end {
                stream.set(state::END_SENT);
            }
            if opening.head_request {
                stream.set(state::HEAD_REQUEST);
            }
        }
        self.earn_for_stream();
        self.push_block(next, opening.end, out, block);
        Ok(key)
    }

    /// Client: requests that can be sent now.
    pub fn openable(&self) -> u32 {
        let theirs = if self.settled { self.peer.streams_max } else { STREAMS_BEFORE_SETTINGS };
        let most = self.ours.streams_max.min(theirs);
        if self.streams.is_full() { 0 } else { most.saturating_sub(self.streams.open()) }
    }

    /// Server: the final head of a response, whose field block the closure appends. With `end` there is nothing more.
    ///
    /// # Errors
    /// The stream is over, or has its head: the closure was not called.
    pub fn send_head(
        &mut self,
        key: StreamKey,
        end: bool,
        out: &mut Vec<u8>,
        block: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), StreamGone> {
        self.unanswered(key)?.set(state::HEAD_SENT);
        self.push_block(key.id(), end, out, block);
        if end {
            self.end_sent(key, out);
        } else {
            self.streams.arm(key);
        }
        Ok(())
    }

    /// Server: an informational head (1xx), before the final one.
    ///
    /// # Errors
    /// The stream is over, or has its final head: the closure was not called.
    pub fn send_informational(
        &mut self,
        key: StreamKey,
        out: &mut Vec<u8>,
        block: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), StreamGone> {
        self.unanswered(key)?;
        self.push_block(key.id(), false, out, block);
        Ok(())
    }

    /// The trailers, which end the message. All of its body must have been sent.
    ///
    /// # Errors
    /// The stream is over, has no head yet, or was ended: the closure was not called.
    pub fn send_trailers(
        &mut self,
        key: StreamKey,
        out: &mut Vec<u8>,
        block: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), StreamGone> {
        self.sending(key)?;
        self.push_block(key.id(), true, out, block);
        self.end_sent(key, out);
        Ok(())
    }

    /// Bytes of a body, as many as the windows let; says how many. With `end`, they are the last ones if all were taken. The end
    /// alone needs no window.
    ///
    /// # Errors
    /// The stream is over, has no head yet, or was ended.
    pub fn send_data(
        &mut self,
        key: StreamKey,
        bytes: &[u8],
        end: bool,
        out: &mut Vec<u8>,
    ) -> Result<usize, StreamGone> {
        let mut sent = 0;
        loop {
            let rest = &bytes[sent..];
            let taken = self.data_head(key, rest.len(), end, out)?;
            out.extend_from_slice(&rest[..taken]);
            sent += taken;
            if taken == 0 || sent == bytes.len() {
                return Ok(sent);
            }
        }
    }

    /// The head of one DATA frame for up to `bytes` bytes, at most [`DATA_BYTES_MAX`]; says for how many. Exactly those must
    /// follow it in the byte sequence, before anything else. If none can be sent now nothing is written.
    ///
    /// # Errors
    /// The stream is over, has no head yet, or was ended.
    pub fn data_head(
        &mut self,
        key: StreamKey,
        bytes: usize,
        end: bool,
        out: &mut Vec<u8>,
    ) -> Result<usize, StreamGone> {
        let connection = self.send.left();
        let stream = self.sending(key)?;
        let window = stream.send.left().min(connection);
        let taken = bytes.min(window).min(DATA_BYTES_MAX);
        if taken == 0 && bytes != 0 {
            self.streams.arm(key);
            return Ok(0);
        }
        if taken == 0 && !end {
            return Ok(0);
        }
        stream.send.take(taken);
        let stream_left = stream.send.left();
        self.send.take(taken);
        let end = end && taken == bytes;
        let flags = if end { END_STREAM } else { 0 };
        frame::push_head(out, taken, Kind::Data, flags, key.id());
        // What the peer may send in return: see the table of budgets.
        self.budgets.earn_whole(Budget::Ping, 1);
        let unhindered = if bytes <= window { 2 } else { 0 };
        self.budgets.earn_whole(Budget::WindowUpdate, unhindered + taken as u32 / 256);
        if end {
            self.end_sent(key, out);
        } else if stream_left == 0 {
            self.streams.arm(key);
        }
        Ok(taken)
    }

    /// How many bytes of a body the windows let now.
    pub fn sendable(&self, key: StreamKey) -> usize {
        let stream = self.streams.look(key).filter(|stream| stream.can_send());
        stream.map_or(0, |stream| stream.send.left().min(self.send.left()))
    }

    /// Whether the caller has bytes of a body to send on this stream, from now on until it says otherwise or ends it. Its turn
    /// comes once its head was sent.
    pub fn want(&mut self, key: StreamKey, wants: bool) {
        let Some(stream) = self.streams.live(key) else { return };
        if stream.is(state::WANTS) != wants && !(wants && stream.is(state::END_SENT)) {
            stream.flip(state::WANTS);
            self.streams.arm(key);
        }
    }

    /// The stream whose turn it is to send, among those that want to and can. The caller sends something on it, or says that it
    /// does not want to; else it may be named again and again.
    pub fn next_writable(&mut self) -> Option<StreamKey> {
        if self.send.left() == 0 { None } else { self.streams.next_ready() }
    }

    /// What a client said about the order of responses (RFC 9218).
    pub fn prioritise(&mut self, key: StreamKey, priority: Priority) {
        self.streams.prioritise(key, priority);
    }

    /// Ends a stream before its time. What was held of it is given back. On a stream that is over it does nothing.
    pub fn reset(&mut self, key: StreamKey, code: ErrorCode, out: &mut Vec<u8>) {
        if self.streams.look(key).is_some() {
            self.abandon(key, code, out);
        } else if let Some(stream) = self.streams.held(key) {
            let held = stream.receive.held();
            self.streams.free(key);
            self.give_back(held, out);
        }
    }

    /// So many bytes of a body that were received are held no longer: the peer may send as many more. WINDOW_UPDATE is sent
    /// when half a window has come together.
    pub fn consumed(&mut self, key: StreamKey, bytes: usize, out: &mut Vec<u8>) {
        let most = self.ours.stream_window_max;
        let Some(stream) = self.streams.held(key) else { return };
        let bytes = stream.receive.consume(bytes);
        if stream.is(state::LINGERS) {
            if stream.receive.held() == 0 {
                self.streams.free(key);
            }
        } else if stream.wants_more()
            && let Some(increment) = stream.receive.grant(most)
        {
            frame::push_window_update(out, key.id(), increment);
        }
        self.give_back(bytes, out);
    }

    /// Where streams that nobody reads hold half of what all may: lets as much again come, for the others, up to what all streams
    /// may hold together. For a caller that has the memory.
    pub fn make_room(&mut self, out: &mut Vec<u8>) {
        let most = self.ours.streams_max.saturating_mul(self.ours.stream_window_max);
        if self.receive.is_half_held()
            && let Some(increment) = self.receive.double(most)
        {
            frame::push_window_update(out, StreamId::CONNECTION, increment);
        }
    }

    /// Asks whether the peer lives: it must answer within so many milliseconds. Nothing happens while a PING is unanswered.
    pub fn keep_alive(&mut self, within_ms: u64, now_ms: u64, out: &mut Vec<u8>) {
        self.now_ms = now_ms;
        if self.ping.is_none() && self.gone.is_none() {
            self.push_ping(PingFor::KeepAlive, within_ms, out);
        }
    }

    /// Ends the connection without losing a request: the peer is told to open no more streams, and one round trip later which
    /// was the last that counts (RFC 9113 §6.8). Then it is [`Connection::is_drained`] when the last stream is over. A client
    /// has nothing to wait for.
    pub fn shutdown(&mut self, now_ms: u64, out: &mut Vec<u8>) {
        self.now_ms = now_ms;
        if self.goaway_sent.is_some() || self.gone.is_some() {
            return;
        }
        match self.role {
            Role::Client => self.goaway(ErrorCode::NO_ERROR, b"", out),
            Role::Server => {
                self.goaway_sent = Some(StreamId::LAST);
                frame::push_goaway(out, StreamId::LAST, ErrorCode::NO_ERROR, b"");
                self.push_ping(PingFor::Goodbye, GOODBYE_MS, out);
            }
        }
    }

    /// Tells the peer that what it opened so far is all that counts, and why. Streams that are open go on.
    pub fn goaway(&mut self, code: ErrorCode, debug: &[u8], out: &mut Vec<u8>) {
        let last = match self.role {
            Role::Server => self.goaway_sent.unwrap_or(StreamId::LAST).min(self.last),
            // Only what it pushed would count.
            Role::Client => StreamId::CONNECTION,
        };
        self.goaway_sent = Some(last);
        frame::push_goaway(out, last, code, debug);
    }

    // Time.

    /// When [`Connection::tick`] should be called, in monotonic milliseconds.
    pub fn next_deadline(&self) -> Option<u64> {
        let ping = self.ping.map(|ping| ping.due_ms);
        [self.settings_due_ms, self.block_due_ms, ping].into_iter().flatten().min()
    }

    /// What happens by time alone: a graceful end goes on, or the peer has not answered.
    ///
    /// # Errors
    /// The connection is over.
    pub fn tick(&mut self, now_ms: u64, out: &mut Vec<u8>) -> Result<(), Gone> {
        self.now_ms = now_ms;
        if let Some(flaw) = self.gone {
            return Err(self.gone_for(flaw));
        }
        if self.settings_due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
            return Err(self.fail(Flaw::SettingsTimeout, out));
        }
        if self.block_due_ms.is_some_and(|due_ms| due_ms <= now_ms) {
            return Err(self.fail(Flaw::BlockTimeout, out));
        }
        if let Some(ping) = self.ping.filter(|ping| ping.due_ms <= now_ms) {
            match ping.what {
                PingFor::KeepAlive => return Err(self.fail(Flaw::PingTimeout, out)),
                PingFor::Goodbye => {
                    self.ping = None;
                    self.goaway(ErrorCode::NO_ERROR, b"", out);
                }
            }
        }
        Ok(())
    }

    // What there is to know.

    /// What the peer asked for.
    pub fn peer(&self) -> &PeerSettings {
        &self.peer
    }

    /// Whether the peer's settings have come.
    pub fn is_settled(&self) -> bool {
        self.settled
    }

    /// Streams that are open.
    pub fn streams_open(&self) -> u32 {
        self.streams.open()
    }

    /// Streams that were refused because too many were open.
    pub fn streams_refused(&self) -> u32 {
        self.refused
    }

    /// Bytes that were received and not consumed, at most [`Settings::connection_window`].
    pub fn held(&self) -> u32 {
        self.receive.held()
    }

    /// Whether the peer goes away, or we do: no stream is opened any more.
    pub fn is_closing(&self) -> bool {
        // RFC 9113 §5.1.1: nor where there are no numbers left.
        let used_up = self.last >= StreamId::LAST;
        used_up || self.goaway_received.is_some() || self.goaway_sent.is_some() || self.gone.is_some()
    }

    /// Whether a graceful end has come to its end.
    pub fn is_drained(&self) -> bool {
        let told = self.goaway_sent.is_some_and(|last| last != StreamId::LAST || self.last == last)
            || self.goaway_received.is_some();
        self.gone.is_some() || (told && self.sweeping.is_none() && self.streams.open() == 0)
    }

    /// What was ever charged to a budget, for metrics.
    pub fn charged(&self, budget: Budget) -> u32 {
        self.budgets.total(budget)
    }

    /// Bytes of memory that it holds besides itself.
    pub fn memory(&self) -> usize {
        self.streams.memory() + self.stash.capacity() + self.block.capacity()
    }

    /// Gives back memory that an idle connection has no use for.
    pub fn shrink(&mut self) {
        self.streams.shrink();
        if self.stash.is_empty() {
            self.stash = Vec::new();
        }
        if self.block.is_empty() {
            self.block = Vec::new();
        }
    }

    // Receiving: frames.

    fn step<'b>(
        &mut self,
        rest: &'b [u8],
        blocks: &mut impl FieldBlocks,
        out: &mut Vec<u8>,
    ) -> Result<Step<'b>, Flaw> {
        match self.phase {
            Phase::Head => {
                let (head, bytes) = match rest.first_chunk() {
                    Some(head) if self.head_bytes == 0 => (FrameHead::parse(head), FRAME_HEAD_BYTES),
                    _ => {
                        let have = usize::from(self.head_bytes);
                        let bytes = rest.len().min(FRAME_HEAD_BYTES - have);
                        self.head[have..have + bytes].copy_from_slice(&rest[..bytes]);
                        self.head_bytes += bytes as u8;
                        if have + bytes < FRAME_HEAD_BYTES {
                            return Ok(Step::Wanting);
                        }
                        self.head_bytes = 0;
                        (FrameHead::parse(&self.head), bytes)
                    }
                };
                Ok(match self.begin(head, out)? {
                    None => Step::On(bytes),
                    Some(event) => Step::Event(bytes, event),
                })
            }
            Phase::Data(left) => Ok(self.data(left, rest, out)),
            Phase::Payload(head) => {
                let length = head.length as usize;
                if self.stash.is_empty()
                    && let Some(payload) = rest.get(..length)
                {
                    self.phase = Phase::Head;
                    let event = self.payload(head, payload, blocks, out)?;
                    return Ok(event.map_or(Step::On(length), |event| Step::Event(length, event)));
                }
                let bytes = rest.len().min(length - self.stash.len());
                self.stash.extend_from_slice(&rest[..bytes]);
                if self.stash.len() < length {
                    return Ok(Step::Wanting);
                }
                self.phase = Phase::Head;
                let mut stash = std::mem::take(&mut self.stash);
                let event = self.payload(head, &stash, blocks, out);
                stash.clear();
                self.stash = stash;
                Ok(event?.map_or(Step::On(bytes), |event| Step::Event(bytes, event)))
            }
            Phase::Padding(head) => {
                let Some(&padding) = rest.first() else { return Ok(Step::Wanting) };
                // RFC 9113 §6.1: as much padding as payload, or more, is a PROTOCOL_ERROR. The byte itself is payload.
                let padding = 1 + u32::from(padding);
                if padding > head.length {
                    return Err(Flaw::Padding);
                }
                let event = self.begin_data(head, padding, out)?;
                Ok(event.map_or(Step::On(1), |event| Step::Event(1, event)))
            }
            Phase::Skip(left) => {
                let bytes = rest.len().min(left as usize);
                let left = left - bytes as u32;
                self.phase = if left == 0 { Phase::Head } else { Phase::Skip(left) };
                Ok(if left == 0 { Step::On(bytes) } else { Step::Wanting })
            }
            Phase::Preface(have) => {
                let wanted = &PREFACE[have..];
                let bytes = rest.len().min(wanted.len());
                if rest[..bytes] != wanted[..bytes] {
                    return Err(Flaw::Preface);
                }
                let have = have + bytes;
                self.phase = if have == PREFACE.len() { Phase::Head } else { Phase::Preface(have) };
                Ok(if have == PREFACE.len() { Step::On(bytes) } else { Step::Wanting })
            }
        }
    }

    /// A frame begins: all that can be said from its head is.
    fn begin(&mut self, head: FrameHead, out: &mut Vec<u8>) -> Result<Option<Event<'static>>, Flaw> {
        // RFC 9113 §3.4: the first frame of either side is SETTINGS, and not an acknowledgement.
        if !self.settled && (head.kind != Kind::Settings || head.has(ACK)) {
            return Err(Flaw::FrameOrder);
        }
        // RFC 9113 §6.10: nothing comes between the frames of a field block.
        if let Some(assembly) = &self.assembly
            && (head.kind != Kind::Continuation || head.stream != assembly.stream)
        {
            return Err(Flaw::FrameOrder);
        }
        // RFC 9113 §4.2: our SETTINGS_MAX_FRAME_SIZE is what it is at the least.
        if head.length > FRAME_BYTES_DEFAULT {
            return Err(Flaw::FrameSize);
        }
        let of_connection = head.stream.is_connection();
        let right_stream = match head.kind {
            Kind::Data | Kind::Headers | Kind::Priority | Kind::Reset | Kind::Continuation => !of_connection,
            Kind::Settings | Kind::Ping | Kind::GoAway | Kind::PriorityUpdate => of_connection,
            Kind::PushPromise | Kind::WindowUpdate | Kind::Unknown => true,
        };
        if !right_stream {
            return Err(Flaw::FrameStream);
        }
        self.phase = Phase::Payload(head);
        match head.kind {
            Kind::Data if !head.has(PADDED) => return self.begin_data(head, 0, out),
            Kind::Data if head.length == 0 => return Err(Flaw::FrameSize),
            Kind::Data => self.phase = Phase::Padding(head),
            // Until the end of its block nothing else can come (RFC 9113 §4.3): the peer has to come to it.
            Kind::Headers => {
                self.block_due_ms = Some(self.now_ms.saturating_add(self.ours.block_within_ms));
            }
            Kind::Continuation => {
                let Some(assembly) = &mut self.assembly else { return Err(Flaw::FrameOrder) };
                assembly.continuations += 1;
                if assembly.continuations > CONTINUATIONS_MAX {
                    return Err(Flaw::BlockFrames);
                }
                if self.block.len() + head.length as usize > self.ours.block_bytes_max as usize {
                    return Err(Flaw::BlockSize);
                }
            }
            Kind::Priority => {
                self.phase = Phase::Skip(head.length);
                self.charge(Budget::Priority, 1)?;
                // RFC 9113 §6.3: a stream error; where there is no stream to end, the connection's.
                if head.length != 5 {
                    let key = self.streams.find(head.stream).ok_or(Flaw::FrameSize)?;
                    return self.fault(key, Flaw::FrameSize, out).map(Some);
                }
            }
            Kind::Reset | Kind::WindowUpdate if head.length != 4 => return Err(Flaw::FrameSize),
            Kind::Ping if head.length != 8 => return Err(Flaw::FrameSize),
            Kind::GoAway if head.length < 8 => return Err(Flaw::FrameSize),
            Kind::PriorityUpdate if head.length < 4 => return Err(Flaw::FrameSize),
            Kind::Settings if head.has(ACK) && head.length != 0 => return Err(Flaw::FrameSize),
            Kind::Settings if !head.length.is_multiple_of(6) => return Err(Flaw::FrameSize),
            Kind::Settings if head.length / 6 > SETTINGS_IN_FRAME_MAX => return Err(Flaw::SettingsFlood),
            // RFC 9218 §7.1: servers send none.
            Kind::PriorityUpdate if self.role == Role::Client => return Err(Flaw::PriorityUpdate),
            // RFC 9113 §8.4: a client cannot push; we told servers not to (§6.5.2).
            Kind::PushPromise => return Err(Flaw::Push),
            Kind::Reset | Kind::WindowUpdate | Kind::Ping | Kind::GoAway | Kind::PriorityUpdate => {}
            Kind::Settings => {}
            Kind::Unknown => {
                self.charge(Budget::Unknown, 1)?;
                self.phase = Phase::Skip(head.length);
            }
        }
        Ok(None)
    }

    /// A whole payload came.
    fn payload(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        blocks: &mut impl FieldBlocks,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, Flaw> {
        let number = frame::number(payload);
        match head.kind {
            Kind::Headers => self.headers(head, payload, blocks, out),
            Kind::Continuation => self.continuation(head, payload, blocks, out),
            Kind::Settings => self.settings(head, payload, blocks, out),
            Kind::Ping => self.pinged(head, payload, out),
            Kind::GoAway => self.goaway_came(payload),
            Kind::Reset => self.reset_came(head.stream, ErrorCode(number.ok_or(Flaw::FrameSize)?), out),
            Kind::WindowUpdate => self.window_update(head.stream, number.ok_or(Flaw::FrameSize)?, out),
            Kind::PriorityUpdate => self.priority_update(payload),
            // Never whole: they were refused, skipped or passed on when they began.
            Kind::Data | Kind::Priority | Kind::PushPromise | Kind::Unknown => Ok(None),
        }
    }

    // Receiving: field blocks.

    fn headers(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        blocks: &mut impl FieldBlocks,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, Flaw> {
        let mut fragment = payload;
        if head.has(PADDED) {
            fragment = if payload.is_empty() {
                Err(Flaw::FrameSize)
            } else {
                frame::unpadded(payload).ok_or(Flaw::Padding)
            }?;
        }
        if head.has(frame::PRIORITY) {
            // RFC 9113 §5.3.2: it means nothing, but has its five bytes.
            fragment = fragment.get(5..).ok_or(Flaw::FrameSize)?;
        }
        let end = head.has(END_STREAM);
        if head.has(END_HEADERS) {
            return self.block(head.stream, end, fragment, blocks, out);
        }
        self.assembly = Some(Assembly { stream: head.stream, end, continuations: 0 });
        self.block.clear();
        self.block.extend_from_slice(fragment);
        Ok(None)
    }

    fn continuation(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        blocks: &mut impl FieldBlocks,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, Flaw> {
        self.block.extend_from_slice(payload);
        if !head.has(END_HEADERS) {
            return Ok(None);
        }
        let Some(Assembly { stream, end, .. }) = self.assembly.take() else { return Ok(None) };
        let mut block = std::mem::take(&mut self.block);
        let event = self.block(stream, end, &block, blocks, out);
        block.clear();
        self.block = block;
        event
    }

    /// A whole field block came: it is decoded on every path out of here on which the connection lives.
    fn block(
        &mut self,
        id: StreamId,
        end: bool,
        block: &[u8],
        blocks: &mut impl FieldBlocks,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, Flaw> {
        self.block_due_ms = None;
        if let Some(key) = self.streams.find(id) {
            let bits = self.streams.look(key).map_or(0, |stream| stream.bits());
            // RFC 9113 §5.1: half-closed (remote).
            if bits & state::END_RECEIVED != 0 {
                self.decode(blocks, Section::Discarded, id, end, block)?;
                return self.fault(key, Flaw::StreamClosed, out).map(Some);
            }
            if bits & state::HEAD_RECEIVED == 0 {
                return self.response(key, end, block, blocks, out);
            }
            return self.trailers(key, end, block, blocks, out).map(Some);
        }
        let opens = self.role == Role::Server && id.is_of_client() && id > self.last;
        if opens {
            return self.request(id, end, block, blocks, out);
        }
        match self.role {
            // RFC 9113 §5.1.1: clients use odd numbers; servers none, as they may not push.
            _ if !id.is_of_client() => Err(Flaw::StreamIdOrder),
            Role::Client if id > self.last => Err(Flaw::StreamIdle),
            _ => match self.streams.past(id) {
                Past::Ended => Err(Flaw::StreamClosed),
                // RFC 9113 §5.1.1: numbers only grow; a lower one was used or given up. What a server answers late was asked
                // for: clients that give up many requests must not cost the others their connection.
                Past::Forgotten if self.role == Role::Server && !self.is_ignored(id) => {
                    Err(Flaw::StreamIdOrder)
                }
                Past::Forgotten | Past::Reset => {
                    self.charge_late(block)?;
                    self.decode(blocks, Section::Discarded, id, end, block)?;
                    Ok(None)
                }
            },
        }
    }

    fn request(
        &mut self,
        id: StreamId,
        end: bool,
        block: &[u8],
        blocks: &mut impl FieldBlocks,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, Flaw> {
        self.last = id;
        // RFC 9113 §6.8: beyond the last stream that we act on everything is ignored, but decoded.
        if self.is_ignored(id) {
            self.charge_late(block)?;
            self.decode(blocks, Section::Discarded, id, end, block)?;
            return Ok(None);
        }
        let (receive, send) = (self.ours.stream_window, self.peer.stream_window);
        let full = self.streams.open() >= self.ours.streams_max || self.streams.is_full();
        if full {
            self.decode(blocks, Section::Discarded, id, end, block)?;
            return self.refuse(id, end, out).map(|()| None);
        }
        let decoded = self.decode(blocks, Section::Request, id, end, block)?;
        let Some(key) = self.streams.insert(id, receive, send) else {
            return self.refuse(id, end, out).map(|()| None);
        };
        self.earn_for_stream();
        if id >= StreamId::LAST {
            // RFC 9113 §5.1.1: for what is asked from now on there is no number; the client is told to open another connection.
            self.goaway(ErrorCode::NO_ERROR, b"", out);
        }
        let role = self.role;
        let Some(stream) = self.streams.live(key) else { return Ok(None) };
        stream.set(state::HEAD_RECEIVED);
        stream.expect(decoded.content_length);
        let mut flaw = decoded.flaw;
        if end {
            stream.set(state::END_RECEIVED);
            // RFC 9113 §8.1.1: a length is promised, and nothing comes.
            if !stream.bring(0, true) {
                flaw = flaw.or(Some(Flaw::BodyLength.of(role)));
            }
        }
        if flaw.is_some() {
            self.charge(Budget::Fault, 1)?;
        }
        Ok(Some(Event::Head { stream: key, end, flaw }))
    }

    fn response(
        &mut self,
        key: StreamKey,
        end: bool,
        block: &[u8],
        blocks: &mut impl FieldBlocks,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, Flaw> {
        let decoded = self.decode(blocks, Section::Response(key), key.id(), end, block)?;
        if let Some(reason) = decoded.flaw {
            return self.fault_for(key, ErrorCode::PROTOCOL_ERROR, reason, out).map(Some);
        }
        if decoded.status < 200 {
            // RFC 9113 §8.1: an informational head does not end the stream.
            if end {
                return self.fault(key, Flaw::InformationalEnd, out).map(Some);
            }
            self.charge(Budget::Informational, 1)?;
            return Ok(Some(Event::Informational { stream: key }));
        }
        let Some(stream) = self.streams.live(key) else { return Ok(None) };
        stream.set(state::HEAD_RECEIVED);
        // RFC 9110 §6.4.1: these have no body, whatever Content-Length says.
        let bodiless = stream.is(state::HEAD_REQUEST) || matches!(decoded.status, 204 | 304);
        stream.expect(if bodiless { Some(0) } else { decoded.content_length });
        if end {
            if !stream.bring(0, true) {
                return self.fault(key, Flaw::BodyLength, out).map(Some);
            }
            self.end_received(key, out);
        }
        Ok(Some(Event::Head { stream: key, end, flaw: None }))
    }

    fn trailers(
        &mut self,
        key: StreamKey,
        end: bool,
        block: &[u8],
        blocks: &mut impl FieldBlocks,
        out: &mut Vec<u8>,
    ) -> Result<Event<'static>, Flaw> {
        // RFC 9113 §8.1: a field block after the first frames of a body ends the stream, or the message is malformed.
        if !end {
            self.decode(blocks, Section::Discarded, key.id(), end, block)?;
            return self.fault(key, Flaw::TrailersOpen, out);
        }
        let decoded = self.decode(blocks, Section::Trailers(key), key.id(), end, block)?;
        if let Some(reason) = decoded.flaw {
            return self.fault_for(key, ErrorCode::PROTOCOL_ERROR, reason, out);
        }
        if self.streams.live(key).is_some_and(|stream| !stream.bring(0, true)) {
            return self.fault(key, Flaw::BodyLength, out);
        }
        self.end_received(key, out);
        Ok(Event::Trailers { stream: key })
    }

    fn decode(
        &mut self,
        blocks: &mut impl FieldBlocks,
        section: Section,
        id: StreamId,
        end: bool,
        block: &[u8],
    ) -> Result<Decoded, Flaw> {
        let decoded = blocks.decode(section, id, end, block).map_err(|undecodable| match undecodable {
            Undecodable::Malformed => Flaw::Compression,
            Undecodable::Churn => Flaw::TableChurn,
        })?;
        if decoded.inserted_bytes != 0 {
            self.charge(Budget::Churn, decoded.inserted_bytes.div_ceil(CHURN_BYTES))?;
        }
        if decoded.excess_bytes != 0 {
            self.charge(Budget::Excess, decoded.excess_bytes.div_ceil(1024))?;
        }
        Ok(decoded)
    }

    /// RFC 9113 §5.1.2: one stream more than we grant.
    fn refuse(&mut self, id: StreamId, end: bool, out: &mut Vec<u8>) -> Result<(), Flaw> {
        frame::push_reset(out, id, ErrorCode::REFUSED_STREAM);
        self.refused = self.refused.wrapping_add(1);
        if end {
            self.streams.note_ended(id);
        } else {
            self.note_reset(id);
        }
        // Before it has acknowledged our settings the client cannot know (§8.7 has it try again). Nor can it know of streams
        // that are over but for what we hold of them.
        let unknown = self.settings_due_ms.is_some() && self.refused <= REFUSED_BEFORE_SETTINGS;
        let is_ours = self.streams.open() < self.ours.streams_max;
        if unknown || is_ours { Ok(()) } else { self.charge(Budget::Fault, 1) }
    }

    // Receiving: bodies.

    /// DATA begins. All of its payload counts against both windows, padding included (RFC 9113 §6.9.1). The first byte of
    /// `padding`, if there is any, is the one that said so and has been taken.
    fn begin_data(
        &mut self,
        head: FrameHead,
        padding: u32,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, Flaw> {
        let bytes = head.length - padding;
        let padding_left = padding.saturating_sub(1);
        let end = head.has(END_STREAM);
        self.phase = Phase::Skip(bytes + padding_left);
        if !self.receive.receive(head.length) {
            return Err(Flaw::WindowExceeded);
        }
        if bytes == 0 && !end {
            self.charge(Budget::Empty, 1)?;
        } else if bytes < TINY_BYTES && !end && self.role == Role::Server {
            self.charge(Budget::Tiny, 1)?;
        } else {
            self.budgets.earn(Budget::Empty, bytes / 1024);
            self.budgets.earn(Budget::Tiny, bytes / 256);
        }
        let Some(key) = self.streams.find(head.stream) else {
            if self.is_idle(head.stream) {
                return Err(Flaw::StreamIdle);
            }
            // RFC 9113 §5.1: what comes behind the end is an error, what was in flight when we reset is not.
            if self.streams.past(head.stream) == Past::Ended {
                return Err(Flaw::StreamClosed);
            }
            self.charge(Budget::Late, 1)?;
            self.give_back(head.length, out);
            return Ok(None);
        };
        let Some(stream) = self.streams.live(key) else { return Ok(None) };
        let flaw = if stream.is(state::END_RECEIVED) {
            Some(Flaw::StreamClosed)
        } else if !stream.is(state::HEAD_RECEIVED) {
            Some(Flaw::BodyBeforeHead)
        } else if !stream.bring(bytes, end) {
            Some(Flaw::BodyLength)
        } else if !stream.receive.receive(head.length) {
            Some(Flaw::WindowExceeded)
        } else {
            None
        };
        if let Some(flaw) = flaw {
            self.give_back(head.length, out);
            return self.fault(key, flaw, out).map(Some);
        }
        self.phase = Phase::Data(DataLeft { stream: key, bytes, padding: padding_left, end });
        if padding != 0 {
            self.consumed(key, padding as usize, out);
        }
        Ok(None)
    }

    /// Data of DATA, as it comes.
    fn data<'b>(&mut self, mut left: DataLeft, rest: &'b [u8], out: &mut Vec<u8>) -> Step<'b> {
        let taken = rest.len().min(left.bytes as usize);
        if taken == 0 && left.bytes != 0 {
            return Step::Wanting;
        }
        left.bytes -= taken as u32;
        let over = left.bytes == 0;
        self.phase = match left {
            DataLeft { bytes: 0, padding: 0, .. } => Phase::Head,
            DataLeft { bytes: 0, padding, .. } => Phase::Skip(padding),
            _ => Phase::Data(left),
        };
        let stream = left.stream;
        // It may have been reset since the frame began: then all of the frame has been given back.
        if self.streams.look(stream).is_none() {
            return Step::On(taken);
        }
        let end = over && left.end;
        if end {
            self.end_received(stream, out);
        } else if taken == 0 {
            return Step::On(0);
        }
        Step::Event(taken, Event::Data { stream, bytes: &rest[..taken], end })
    }

    // Receiving: control.

    fn settings(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        blocks: &mut impl FieldBlocks,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, Flaw> {
        if head.has(ACK) {
            if self.settings_due_ms.take().is_none() {
                self.charge(Budget::Settings, 1)?;
            }
            return Ok(None);
        }
        self.charge(Budget::Settings, 1 + head.length / (6 * 16))?;
        let window = self.peer.stream_window;
        for setting in payload.as_chunks::<6>().0 {
            let [a, b, value @ ..] = *setting;
            let (name, value) = (u16::from_be_bytes([a, b]), u32::from_be_bytes(value));
            self.peer.set(name, value, self.role == Role::Client)?;
            // RFC 7541 §4.2: the encoder must say the smallest size in between, too.
            if name == settings::HEADER_TABLE_SIZE {
                blocks.encoder_table_bytes(value);
            }
        }
        // RFC 9113 §6.9.2: all streams' windows move by the difference; only the last value of a frame is seen.
        let delta = i64::from(self.peer.stream_window) - i64::from(window);
        if delta != 0 && !self.streams.shift_windows(delta) {
            return Err(Flaw::WindowOverflow);
        }
        self.settled = true;
        frame::push_head(out, 0, Kind::Settings, ACK, StreamId::CONNECTION);
        Ok(Some(Event::Settings))
    }

    fn pinged(
        &mut self,
        head: FrameHead,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, Flaw> {
        let Some(payload) = payload.first_chunk() else { return Err(Flaw::FrameSize) };
        if !head.has(ACK) {
            self.charge(Budget::Ping, 1)?;
            // RFC 9113 §6.7: with the same payload.
            frame::push_ping(out, *payload, true);
            return Ok(None);
        }
        let Some(ping) = self.ping.take_if(|ping| ping.payload == *payload) else {
            self.charge(Budget::Ping, 1)?;
            return Ok(None);
        };
        if ping.what == PingFor::Goodbye {
            self.goaway(ErrorCode::NO_ERROR, b"", out);
            return Ok(None);
        }
        Ok(Some(Event::Pong { round_trip_ms: self.now_ms.saturating_sub(ping.sent_ms) }))
    }

    fn goaway_came(&mut self, payload: &[u8]) -> Result<Option<Event<'static>>, Flaw> {
        self.charge(Budget::GoAway, 1)?;
        let last = frame::number(payload).ok_or(Flaw::FrameSize)? & 0x7fff_ffff;
        let code = payload.get(4..).and_then(frame::number).ok_or(Flaw::FrameSize)?;
        let last = StreamId(last);
        // RFC 9113 §6.8: the last stream never grows.
        if self.goaway_received.is_some_and(|before| last > before) {
            return Err(Flaw::GoAwayOrder);
        }
        self.goaway_received = Some(last);
        self.sweeping = (self.role == Role::Client).then_some(0);
        Ok(Some(Event::GoAway { last, code: ErrorCode(code) }))
    }

    /// The next of our streams that the peer will not act on.
    fn sweep(&mut self, from: usize, out: &mut Vec<u8>) -> Option<Event<'static>> {
        let found = self.goaway_received.and_then(|last| self.streams.beyond(last, from));
        // None is opened any more, so that none comes to be behind us.
        self.sweeping = found.map(|key| key.slot() + 1);
        let key = found?;
        self.note_reset(key.id());
        self.close(key, false, out);
        Some(Event::Reset { stream: key, code: ErrorCode::REFUSED_STREAM, cause: Cause::Unprocessed })
    }

    fn reset_came(
        &mut self,
        id: StreamId,
        code: ErrorCode,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, Flaw> {
        let Some(key) = self.streams.find(id) else {
            if self.is_idle(id) {
                return Err(Flaw::StreamIdle);
            }
            self.charge(Budget::Late, 1)?;
            return Ok(None);
        };
        let bits = self.streams.look(key).map_or(0, |stream| stream.bits());
        if self.role == Role::Server && bits & state::END_SENT == 0 {
            self.charge(Budget::Reset, 1)?;
        }
        // What came whole is the caller's still; of the rest it has no use.
        self.close(key, bits & state::END_RECEIVED != 0, out);
        if bits & state::END_RECEIVED == 0 {
            self.streams.note_ended(id);
        }
        Ok(Some(Event::Reset { stream: key, code, cause: Cause::Peer }))
    }

    fn window_update(
        &mut self,
        id: StreamId,
        increment: u32,
        out: &mut Vec<u8>,
    ) -> Result<Option<Event<'static>>, Flaw> {
        self.charge(Budget::WindowUpdate, 1)?;
        let increment = increment & 0x7fff_ffff;
        if id.is_connection() {
            // RFC 9113 §6.9, §6.9.1: errors of the connection.
            if increment == 0 {
                return Err(Flaw::WindowIncrement);
            }
            return if self.send.widen(increment) { Ok(None) } else { Err(Flaw::WindowOverflow) };
        }
        let Some(key) = self.streams.find(id) else {
            // RFC 9113 §5.1: for streams that are over it is ignored.
            return if self.is_idle(id) { Err(Flaw::StreamIdle) } else { Ok(None) };
        };
        let Some(stream) = self.streams.live(key) else { return Ok(None) };
        if increment == 0 {
            return self.fault(key, Flaw::WindowIncrement, out).map(Some);
        }
        if !stream.send.widen(increment) {
            return self.fault(key, Flaw::WindowOverflow, out).map(Some);
        }
        self.streams.arm(key);
        Ok(None)
    }

    fn priority_update(&mut self, payload: &[u8]) -> Result<Option<Event<'static>>, Flaw> {
        self.charge(Budget::Priority, 1)?;
        let id = StreamId(frame::number(payload).ok_or(Flaw::FrameSize)? & 0x7fff_ffff);
        // RFC 9218 §7.1: of a stream, and not of a push that was never promised.
        if !id.is_of_client() {
            return Err(Flaw::PriorityUpdate);
        }
        let priority = Priority::parse(payload.get(4..).unwrap_or_default());
        if let Some(key) = self.streams.find(id) {
            self.streams.prioritise(key, priority);
        } else if id > self.last {
            self.streams.prioritise_early(id, priority);
        }
        Ok(None)
    }

    // Ends.

    /// The peer is done.
    fn end_received(&mut self, key: StreamKey, out: &mut Vec<u8>) {
        if let Some(stream) = self.streams.live(key) {
            stream.set(state::END_RECEIVED);
            self.settle(key, out);
        }
    }

    /// We are done.
    fn end_sent(&mut self, key: StreamKey, out: &mut Vec<u8>) {
        if let Some(stream) = self.streams.live(key) {
            stream.set(state::END_SENT);
            self.settle(key, out);
        }
        self.want(key, false);
    }

    /// A stream whose both sides are done is over.
    fn settle(&mut self, key: StreamKey, out: &mut Vec<u8>) {
        if self.streams.look(key).is_some_and(|stream| stream.is(state::END_RECEIVED | state::END_SENT)) {
            self.budgets.earn(Budget::Reset, 1);
            self.budgets.earn(Budget::Fault, 1);
            self.close(key, true, out);
        }
    }

    /// The peer is at fault on a stream, which ends (RFC 9113 §5.4.2).
    fn fault(&mut self, key: StreamKey, flaw: Flaw, out: &mut Vec<u8>) -> Result<Event<'static>, Flaw> {
        let reason = flaw.of(self.role);
        self.fault_for(key, flaw.code(), reason, out)
    }

    fn fault_for(
        &mut self,
        key: StreamKey,
        code: ErrorCode,
        reason: Reason,
        out: &mut Vec<u8>,
    ) -> Result<Event<'static>, Flaw> {
        self.charge(Budget::Fault, 1)?;
        self.abandon(key, code, out);
        Ok(Event::Reset { stream: key, code, cause: Cause::Fault(reason) })
    }

    /// We end a live stream before its time.
    fn abandon(&mut self, key: StreamKey, code: ErrorCode, out: &mut Vec<u8>) {
        frame::push_reset(out, key.id(), code);
        if self.streams.look(key).is_some_and(|stream| !stream.is(state::END_RECEIVED)) {
            self.note_reset(key.id());
        }
        self.close(key, false, out);
    }

    /// A live stream is over; with `linger` what is held of it stays held.
    fn close(&mut self, key: StreamKey, linger: bool, out: &mut Vec<u8>) {
        let held = self.streams.close(key, linger);
        self.give_back(held, out);
    }

    /// The peer may have sent more on a stream that we reset.
    fn note_reset(&mut self, id: StreamId) {
        self.streams.note_reset(id);
        self.budgets.earn_whole(Budget::Late, 64);
    }

    /// So many bytes are held no longer by anybody: the connection's window opens by as much.
    fn give_back(&mut self, bytes: u32, out: &mut Vec<u8>) {
        self.receive.consume(bytes as usize);
        if let Some(increment) = self.receive.grant(0) {
            frame::push_window_update(out, StreamId::CONNECTION, increment);
        }
    }

    /// The connection ends for a fault of the peer (RFC 9113 §5.4.1).
    #[cold]
    fn fail(&mut self, flaw: Flaw, out: &mut Vec<u8>) -> Gone {
        self.gone = Some(flaw);
        let gone = self.gone_for(flaw);
        self.goaway(gone.code, gone.reason.token.as_bytes(), out);
        gone
    }

    fn gone_for(&self, flaw: Flaw) -> Gone {
        Gone { reason: flaw.of(self.role), code: flaw.code() }
    }

    // Small things.

    fn charge(&mut self, budget: Budget, count: u32) -> Result<(), Flaw> {
        self.budgets.charge(budget, count, self.now_ms)
    }

    /// A field block came for a stream that is over.
    fn charge_late(&mut self, block: &[u8]) -> Result<(), Flaw> {
        self.charge(Budget::Late, 1 + block.len() as u32 / LATE_BYTES)
    }

    /// A stream was opened: what usually goes with one is no abuse.
    fn earn_for_stream(&mut self) {
        for (budget, count) in [
            (Budget::Priority, 2),
            (Budget::WindowUpdate, 2),
            (Budget::Unknown, 1),
            (Budget::Empty, 1),
            (Budget::Tiny, 2),
            (Budget::Late, 2),
            (Budget::Churn, 8 * 1024 / CHURN_BYTES),
            (Budget::Informational, 4),
        ] {
            self.budgets.earn_whole(budget, count);
        }
    }

    /// Whether a stream was never opened.
    fn is_idle(&self, id: StreamId) -> bool {
        !id.is_of_client() || id > self.last
    }

    /// Whether we said that we would not act on a stream.
    fn is_ignored(&self, id: StreamId) -> bool {
        self.goaway_sent.is_some_and(|last| self.role == Role::Server && id > last)
    }

    /// The live stream of a key, if its final head can be sent.
    fn unanswered(&mut self, key: StreamKey) -> Result<&mut super::streams::Stream, StreamGone> {
        self.streams.live(key).filter(|stream| !stream.is(state::HEAD_SENT)).ok_or(StreamGone)
    }

    /// The live stream of a key, if its body can be sent.
    fn sending(&mut self, key: StreamKey) -> Result<&mut super::streams::Stream, StreamGone> {
        self.streams.live(key).filter(|stream| stream.can_send()).ok_or(StreamGone)
    }

    fn push_block(&mut self, id: StreamId, end: bool, out: &mut Vec<u8>, block: impl FnOnce(&mut Vec<u8>)) {
        self.budgets.earn_whole(Budget::Ping, 1);
        frame::push_block(out, id, end, self.peer.frame_bytes_max, block);
    }

    fn push_ping(&mut self, what: PingFor, within_ms: u64, out: &mut Vec<u8>) {
        self.pings = self.pings.wrapping_add(1);
        let [a, b, c, d] = self.pings.to_be_bytes();
        let payload = [b'r', b'i', b'n', b'g', a, b, c, d];
        let due_ms = self.now_ms.saturating_add(within_ms);
        self.ping = Some(Ping { what, payload, sent_ms: self.now_ms, due_ms });
        frame::push_ping(out, payload, false);
    }
}
