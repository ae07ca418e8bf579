//! A stream as an exchange sees it: a transport like any other, on which heads and bodies are sent and received.
//!
//! For: [`crate::worker::Transport`]. Not for: whose turn it is and what may be said when ([`super::mux`], [`super::connection`]).
//!
//! **Heads.** What the pipeline sends begins with a head in the one form that our encoder has for HTTP/1.1; here its lines become
//! a field block, at the moment in which it takes its place in the byte sequence (RFC 9113 §4.3). Framing is ours on either side:
//! `Content-Length` stays what it was, the end of the message is that of the stream.
//!
//! **Bodies.** What is sent waits in the buffer that it came in until windows let it go. What was received is handed out in the
//! buffer that it was copied into from the connection's, and the window opens again when the reader comes for more: it has passed
//! on what it had.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::ops::Range;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use memchr::memmem;

use crate::h2::blocks::Compression;
use crate::h2::connection::{Cause, NotOpened};
use crate::h2::frame::ErrorCode;
use crate::h2::mux::{self, Inner, Mux};
use crate::h2::{Role, StreamKey};
use crate::http::head::ResponseTable;
use crate::http::{BodyLength, Reason};
use crate::pipeline::exchange::Head;
use crate::websocket::handshake::PROTOCOL;
use crate::worker::buffer::SMALL;
use crate::worker::pace::Pace;
use crate::worker::sweep::{self, Due, Watched};
use crate::worker::{Buffer, Deadline};

/// Places in the queues of a stream that is kept for the next exchange.
const QUEUED_KEPT: usize = 4;

/// What heads end with.
const HEAD_END: &[u8] = b"\r\n\r\n";

/// Why nothing more can be said or heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The peer has reset the stream.
    Reset(ErrorCode),
    /// The peer has not acted on the request: it may be sent again.
    Unprocessed,
    /// The peer broke the rules.
    Fault(Reason),
    /// The connection has ended; for a fault of the peer, if it is an upstream and it was at fault.
    Lost(Option<Reason>),
}

impl Over {
    /// As whoever works on the stream is told of it.
    fn error(self) -> io::Error {
        match self {
            Over::Fault(reason) | Over::Lost(Some(reason)) => {
                io::Error::new(io::ErrorKind::ConnectionReset, Faulty(reason))
            }
            Over::Reset(_) | Over::Unprocessed | Over::Lost(None) => io::ErrorKind::ConnectionReset.into(),
        }
    }
}

/// The peer of a stream broke the rules: why, as part of an error.
#[derive(Clone, Copy, Debug)]
pub struct Faulty(pub Reason);

impl std::fmt::Display for Faulty {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.title)
    }
}

impl std::error::Error for Faulty {}

/// A stream.
#[derive(Debug, Default)]
pub struct Stream {
    key: Cell<Option<StreamKey>>,
    due: Due,
    pace: Pace,
    /// Bytes of bodies that have been framed.
    sent: Cell<u64>,
    /// Who works for it: the upstream that is asked for this client, in its turn of then ([`Due::turn`]).
    works: RefCell<Option<(Weak<dyn Watched>, u32)>>,
    /// Whether it stands in the line of its connection, or has been called from there.
    stands: Cell<bool>,
    called: Cell<bool>,
    halves: RefCell<Halves>,
}

/// What was received and what waits to be sent.
#[derive(Debug, Default)]
struct Halves {
    /// What came before `received`, where many streams share what their connection may hold.
    before: VecDeque<Buffer>,
    received: Buffer,
    /// Bytes that the reader has and that are not consumed yet.
    read: usize,
    ended: bool,
    trailers: Buffer,
    /// Whether one of those may never be in a table.
    secret_trailers: bool,
    /// Heads of the response that have come, interim ones before the final one.
    heads: VecDeque<Box<Head<ResponseTable>>>,
    over: Option<Over>,
    reader: Option<Waker>,
    head_sent: bool,
    end_sent: bool,
    pending: Buffer,
    from: usize,
    to: usize,
    /// The message ends with what is pending, and with these trailers.
    last: Option<Buffer>,
    /// Whether one of those may never be in a table.
    secret_last: bool,
    writer: Option<Waker>,
}

impl Halves {
    /// Lets go of everything, but for the room of queues.
    fn clear(&mut self) {
        self.before.clear();
        self.heads.clear();
        if self.before.capacity().max(self.heads.capacity()) > QUEUED_KEPT {
            self.before.shrink_to(QUEUED_KEPT);
            self.heads.shrink_to(QUEUED_KEPT);
        }
        let Halves { received, read, ended, trailers, over, reader, head_sent, end_sent, .. } = self;
        for buffer in [received, trailers, &mut self.pending] {
            if buffer.is_leased() {
                *buffer = Buffer::empty();
            }
        }
        (*read, *ended, *over, *reader) = (0, false, None, None);
        (self.secret_trailers, self.secret_last) = (false, false);
        (*head_sent, *end_sent) = (false, false);
        (self.from, self.to, self.last, self.writer) = (0, 0, None, None);
    }

    /// Whether there is something of a body for its reader.
    fn has_received(&self) -> bool {
        !self.received.is_empty() || !self.before.is_empty()
    }

    fn drop_received(&mut self) {
        self.before.clear();
        self.received = Buffer::empty();
    }

    /// All that was to be sent has been framed.
    fn is_framed(&self) -> bool {
        self.from == self.to && self.last.is_none()
    }
}

impl Stream {
    /// Which it is, once it is open.
    pub fn key(&self) -> Option<StreamKey> {
        self.key.get()
    }

    pub(super) fn set_key(&self, key: StreamKey) {
        self.key.set(Some(key));
    }

    /// Makes it fit for another exchange.
    pub(super) fn reset(&self) {
        self.key.set(None);
        self.due.reset();
        self.pace.clear();
        self.sent.set(0);
        self.stands.set(false);
        self.called.set(false);
        *self.works.borrow_mut() = None;
        self.halves.borrow_mut().clear();
    }

    /// There is no room for it: it stands in line, and may have before.
    pub(super) fn stand(&self) -> bool {
        self.stands.replace(true)
    }

    /// Whether it was called, and comes now.
    pub(super) fn comes(&self) -> bool {
        self.called.replace(false)
    }

    /// Whether it stands in line.
    pub(super) fn stands(&self) -> bool {
        self.stands.get()
    }

    /// It stands there no longer.
    pub(super) fn leave_line(&self) {
        self.stands.set(false);
    }

    /// There is room for it.
    pub(super) fn call(&self) {
        self.stands.set(false);
        self.called.set(true);
        if let Some(writer) = self.halves.borrow_mut().writer.take() {
            writer.wake();
        }
    }

    /// The exchange is over: whatever it held, or was owed, goes.
    pub(super) fn let_go(&self) {
        self.due.clear();
        *self.works.borrow_mut() = None;
        let mut halves = self.halves.borrow_mut();
        let over = halves.over.or(Some(Over::Lost(None)));
        halves.clear();
        halves.over = over;
    }

    /// Nothing more can be said or heard: whoever waits is told, whoever works for nobody is stopped at once.
    pub(super) fn end(&self, over: Over) {
        let mut halves = self.halves.borrow_mut();
        halves.over.get_or_insert(over);
        halves.reader.take().into_iter().chain(halves.writer.take()).for_each(Waker::wake);
        // What came whole is its reader's still.
        if !halves.ended {
            halves.drop_received();
        }
        drop(halves);
        self.abandon();
    }

    /// Nobody waits for what is worked on for it.
    fn abandon(&self) {
        let works = self.works.borrow_mut().take();
        if let Some((works, turn)) = works
            && let Some(works) = works.upgrade()
            && works.due().turn() == turn
        {
            sweep::end(&*works, Deadline::Abandoned);
        }
    }

    /// Bytes of a body have come.
    pub(super) fn came(&self, inner: &Inner, bytes: &[u8], end: bool) {
        let mut halves = self.halves.borrow_mut();
        if !bytes.is_empty() {
            let halves = &mut *halves;
            let room = halves.received.capacity() - halves.received.len();
            if !halves.received.is_leased() {
                halves.received = Buffer::of(if inner.is_crowded() { bytes.len() } else { SMALL });
            } else if room < bytes.len() && inner.is_crowded() {
                // No more memory than there are bytes.
                let full = std::mem::replace(&mut halves.received, Buffer::small());
                halves.before.push_back(full);
            }
            while halves.received.capacity() - halves.received.len() < bytes.len() && halves.received.widen()
            {
            }
            halves.received.extend_from_slice(bytes);
        }
        halves.ended |= end;
        if let Some(reader) = halves.reader.take() {
            reader.wake();
        }
    }

    /// Trailers have come, as lines, and with them the end.
    pub(super) fn trailers_came(&self, lines: &[u8], never_indexed: bool) {
        let mut halves = self.halves.borrow_mut();
        halves.secret_trailers = never_indexed;
        halves.trailers = Buffer::of(lines.len());
        halves.trailers.extend_from_slice(lines);
        halves.ended = true;
        if let Some(reader) = halves.reader.take() {
            reader.wake();
        }
    }

    /// The head of a response has come; `end`: and nothing follows.
    pub(super) fn response_came(&self, head: Box<Head<ResponseTable>>, end: bool) {
        let mut halves = self.halves.borrow_mut();
        halves.heads.push_back(head);
        halves.ended |= end;
        if let Some(reader) = halves.reader.take() {
            reader.wake();
        }
    }

    /// It is this stream's turn: what is pending goes, as far as there is room.
    pub(super) fn send_pending(&self, inner: &mut Inner) {
        let mut halves = self.halves.borrow_mut();
        let Some(key) = self.key.get() else { return };
        let sent = self.send_some(&mut halves, inner, key);
        if sent.is_err() {
            halves.over.get_or_insert(Over::Lost(None));
        }
        if sent.is_err() || halves.from == halves.to {
            inner.connection.want(key, false);
            if let Some(writer) = halves.writer.take() {
                writer.wake();
            }
        }
    }

    /// Appends what there is room for of what is pending, and the end behind it.
    fn send_some(&self, halves: &mut Halves, inner: &mut Inner, key: StreamKey) -> io::Result<()> {
        let gone = |_| io::Error::from(io::ErrorKind::ConnectionReset);
        mux::lease(&mut inner.out);
        let ends_here = halves.last.as_ref().is_some_and(|trailers| trailers.is_empty());
        if halves.from < halves.to || ends_here {
            let rest = &halves.pending[halves.from..halves.to];
            let taken = inner.send_data(key, rest, ends_here).map_err(gone)?;
            halves.from += taken;
            self.sent.set(self.sent.get() + taken as u64);
        }
        if halves.from == halves.to
            && let Some(trailers) = halves.last.take()
        {
            halves.end_sent = true;
            *self.works.borrow_mut() = None;
            if !trailers.is_empty() {
                let Inner { connection, compression, out, .. } = inner;
                mux::lease_for(trailers.len(), out);
                let block = |out: &mut Vec<u8>| {
                    let mut block = compression.encoder.block(out);
                    block.set_never_indexed(halves.secret_last);
                    block.lines(&trailers);
                };
                connection.send_trailers(key, out, block).map_err(gone)?;
            }
        }
        Ok(())
    }
}

impl Watched for Stream {
    fn due(&self) -> &Due {
        &self.due
    }

    fn expire(&self) {
        // One that stands in line for its connection is its own writer, too.
        let mut halves = self.halves.borrow_mut();
        halves.reader.take().into_iter().chain(halves.writer.take()).for_each(Waker::wake);
    }

    fn is_at_rest(self: Rc<Stream>) -> bool {
        true
    }

    fn reprieve(&self, now_ms: u64) -> Option<u64> {
        self.pace.reprieve(&self.due, now_ms, || self.sent.get())
    }

    fn note_pace(&self) {
        self.pace.note(|| self.sent.get());
    }
}

/// A stream and its connection, as long as an exchange needs them. What is left of the stream ends when this is dropped.
#[derive(Debug)]
pub struct StreamTransport {
    mux: Rc<Mux>,
    stream: Rc<Stream>,
    /// What the peer is told if the exchange ends before its messages do.
    code: Cell<ErrorCode>,
    /// Whether the request says that trailers are welcome.
    takes_trailers: Cell<bool>,
    /// Whether a field of what is sent may never be in a table.
    never_indexed: Cell<bool>,
    /// Whether the request asks for a WebSocket.
    connects: Cell<bool>,
    /// How long the head is that is sent next, if it is known; otherwise it is looked where it ends.
    head_bytes: Cell<usize>,
}

impl StreamTransport {
    /// An exchange on the stream `key`, or on one that is opened with its first head.
    pub(super) fn begin(mux: &Rc<Mux>, key: Option<StreamKey>) -> StreamTransport {
        let code = if mux.role == Role::Server { ErrorCode::INTERNAL_ERROR } else { ErrorCode::CANCEL };
        StreamTransport {
            stream: mux.begin(key),
            mux: Rc::clone(mux),
            code: Cell::new(code),
            takes_trailers: Cell::new(false),
            never_indexed: Cell::new(false),
            connects: Cell::new(false),
            head_bytes: Cell::new(0),
        }
    }

    /// The peer's message ended with its head.
    pub(super) fn ended(&self) {
        self.stream.halves.borrow_mut().ended = true;
    }

    /// The connection.
    pub fn mux(&self) -> &Rc<Mux> {
        &self.mux
    }

    /// Sets the deadline of this stream: at `at_ms` everything that waits on it ends.
    pub fn set_deadline(&self, sweep: &sweep::Sweep, kind: Deadline, at_ms: u64) {
        self.stream.pace.clear();
        if let Some(Deadline::Head | Deadline::Body) = self.stream.due.passed() {
            // The answer (408) must still get out: unlike a socket a stream has not been shut down.
            self.stream.due.take_passed();
        }
        sweep.set(&self.stream, kind, at_ms);
    }

    /// Takes the deadline away.
    pub fn clear_deadline(&self) {
        self.stream.due.clear();
    }

    /// The deadline that has passed, of the stream or of all its connection.
    pub fn expired(&self) -> Option<Deadline> {
        self.stream.due.passed().or_else(|| self.mux.transport.expired())
    }

    /// Whether it stood in line for its connection until the time for an answer had passed.
    pub fn found_no_place(&self) -> bool {
        let late = matches!(self.stream.due.passed(), Some(Deadline::FirstByte | Deadline::StreamIdle));
        late && self.stream.stands()
    }

    /// As [`crate::worker::Socket::set_pace`]; what counts is what the peer's windows have let go.
    pub fn set_pace(&self, bytes: u32, window_ms: u32, end_ms: u64) {
        self.stream.pace.set(bytes, window_ms, end_ms);
    }

    /// Whatever is asked for this client from now on is ended when the client resets the stream.
    pub fn set_works<W: Watched + 'static>(&self, works: &Rc<W>) {
        let watched: Rc<dyn Watched> = Rc::<W>::clone(works);
        *self.stream.works.borrow_mut() = Some((Rc::downgrade(&watched), works.due().turn()));
        if self.over().is_some() {
            self.stream.abandon();
        }
    }

    /// What is asked for this client is ended at once, as if it had reset the stream.
    pub fn abandon_works(&self) {
        self.stream.abandon();
    }

    /// What the sweep knows it by.
    pub fn watched(&self) -> &Rc<impl Watched + 'static> {
        &self.stream
    }

    /// Its deadline.
    pub(crate) fn due(&self) -> &Due {
        &self.stream.due
    }

    /// Has `waker` told when the stream is over, or its deadline passes. Something that is received tells it, too.
    pub(super) fn wake_at_end(&self, waker: &Waker) {
        self.stream.halves.borrow_mut().reader = Some(waker.clone());
    }

    /// Why nothing more can be said or heard, if so.
    pub fn over(&self) -> Option<Over> {
        self.stream.halves.borrow().over
    }

    /// Whether many streams of its connection are open.
    pub fn is_crowded(&self) -> bool {
        self.mux.inner().is_crowded()
    }

    /// Whether the peer has said all of its message.
    pub fn has_ended(&self) -> bool {
        self.stream.halves.borrow().ended
    }

    /// Whether all of our message has been framed.
    pub fn is_sent(&self) -> bool {
        self.stream.halves.borrow().end_sent
    }

    /// Receives what is there of a body, or waits for it; an empty one is the end.
    ///
    /// # Errors
    /// The stream, or its connection, is over.
    pub async fn recv_leased(&self) -> io::Result<Buffer> {
        poll_fn(|context| self.poll_received(context)).await
    }

    fn poll_received(&self, context: &Context<'_>) -> Poll<io::Result<Buffer>> {
        let halves = &mut *self.stream.halves.borrow_mut();
        let read = std::mem::take(&mut halves.read);
        if read > 0
            && let Some(key) = self.stream.key()
        {
            let mut inner = self.mux.inner();
            let Inner { connection, out, .. } = &mut *inner;
            let (before, leased) = (out.len(), out.is_leased());
            if !leased {
                mux::lease(out);
            }
            connection.consumed(key, read, out);
            let grew = out.len() > before;
            if !grew && !leased {
                *out = Buffer::empty();
            }
            // What lingered for its reader has made room.
            inner.let_some_on();
            drop(inner);
            if grew {
                self.mux.wake();
            }
        }
        if halves.has_received() {
            let first = halves.before.pop_front();
            let received = first.unwrap_or_else(|| std::mem::take(&mut halves.received));
            halves.read = received.len();
            return Poll::Ready(Ok(received));
        }
        if halves.ended || self.stream.due.passed().is_some() {
            return Poll::Ready(Ok(Buffer::empty()));
        }
        if let Some(over) = halves.over {
            return Poll::Ready(Err(over.error()));
        }
        halves.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// The trailers that ended the message that was received, as lines; empty without.
    pub fn take_trailers(&self) -> Buffer {
        std::mem::take(&mut self.stream.halves.borrow_mut().trailers)
    }

    /// Whether one of the trailers that were received may never be in a table.
    pub fn has_secret_trailers(&self) -> bool {
        self.stream.halves.borrow().secret_trailers
    }

    /// Receives the head of a response, interim ones included, into `head`, whose memory is kept for the next one.
    ///
    /// # Errors
    /// The stream, or its connection, is over.
    pub fn poll_response(
        &self,
        head: &mut Head<ResponseTable>,
        context: &Context<'_>,
    ) -> Poll<io::Result<()>> {
        let mut halves = self.stream.halves.borrow_mut();
        if let Some(mut come) = halves.heads.pop_front() {
            std::mem::swap(head, &mut come);
            come.bytes = Buffer::empty();
            self.mux.inner().keep_head(come);
            return Poll::Ready(Ok(()));
        }
        let over = self.stream.due.passed().map(|_| Over::Lost(None)).or(halves.over);
        if let Some(over) = over {
            return Poll::Ready(Err(over.error()));
        }
        halves.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// Sends `buffer[range]`, of which the first that is ever sent, and each behind an interim one, begins with a head.
    ///
    /// # Errors
    /// The stream is over, or its deadline has passed.
    pub async fn send(&self, buffer: &mut Buffer, range: Range<usize>) -> io::Result<()> {
        self.put(buffer, range, None).await
    }

    /// Sends `buffer`, and with it the end of the message, behind which come `trailers` (lines).
    ///
    /// # Errors
    /// As [`StreamTransport::send`].
    pub async fn end(&self, buffer: &mut Buffer, trailers: &[u8]) -> io::Result<()> {
        let mut last = Buffer::empty();
        if !trailers.is_empty() {
            last = Buffer::of(trailers.len());
            last.extend_from_slice(trailers);
        }
        let range = 0..buffer.len();
        self.put(buffer, range, Some(last)).await
    }

    async fn put(
        &self,
        buffer: &mut Buffer,
        range: Range<usize>,
        mut last: Option<Buffer>,
    ) -> io::Result<()> {
        let mut from = range.start;
        let mut first = true;
        poll_fn(|context| {
            // What has left is well, whatever has become of the stream since.
            if !first && self.stream.halves.borrow().is_framed() {
                *buffer = std::mem::take(&mut self.stream.halves.borrow_mut().pending);
                return Poll::Ready(Ok(()));
            }
            if let Some(error) = self.failure() {
                if !first {
                    // What was held stays whole: it may be sent on another stream.
                    *buffer = std::mem::take(&mut self.stream.halves.borrow_mut().pending);
                }
                return Poll::Ready(Err(error));
            }
            if first {
                while !self.stream.halves.borrow().head_sent {
                    match self.send_head(&buffer[from..range.end], &last) {
                        Ok(Some(bytes)) => from += bytes,
                        Ok(None) => {
                            self.stream.halves.borrow_mut().writer = Some(context.waker().clone());
                            return Poll::Pending;
                        }
                        Err(error) => return Poll::Ready(Err(error)),
                    }
                    // An interim head is all of what was sent with it.
                    if from == range.end {
                        break;
                    }
                }
                first = false;
                let mut halves = self.stream.halves.borrow_mut();
                if halves.end_sent || !halves.head_sent || (from == range.end && last.is_none()) {
                    return Poll::Ready(Ok(()));
                }
                let Some(key) = self.stream.key() else {
                    return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
                };
                (halves.pending, halves.from, halves.to) = (std::mem::take(buffer), from, range.end);
                (halves.last, halves.secret_last) = (last.take(), self.never_indexed.get());
                let mut inner = self.mux.inner();
                let sent = self.stream.send_some(&mut halves, &mut inner, key);
                let waits = halves.from < halves.to;
                if waits {
                    inner.connection.want(key, true);
                }
                drop(inner);
                self.mux.wake();
                if let Err(error) = sent {
                    *buffer = std::mem::take(&mut halves.pending);
                    return Poll::Ready(Err(error));
                }
            }
            let mut halves = self.stream.halves.borrow_mut();
            if !halves.is_framed() {
                halves.writer = Some(context.waker().clone());
                return Poll::Pending;
            }
            *buffer = std::mem::take(&mut halves.pending);
            Poll::Ready(Ok(()))
        })
        .await
    }

    fn failure(&self) -> Option<io::Error> {
        if self.stream.due.passed().is_some() {
            return Some(io::ErrorKind::TimedOut.into());
        }
        let over = self.stream.halves.borrow().over;
        over.or_else(|| self.mux.inner().over.then_some(Over::Lost(None))).map(Over::error)
    }

    /// Sends the head that `bytes` begin with; how long it was. `None`: the request waits for a place.
    fn send_head(&self, bytes: &[u8], last: &Option<Buffer>) -> io::Result<Option<usize>> {
        let told = self.head_bytes.take().checked_sub(HEAD_END.len());
        let is_end = |end: &usize| bytes.get(*end..*end + HEAD_END.len()) == Some(HEAD_END);
        let Some(end) = told.filter(is_end).or_else(|| memmem::find(bytes, HEAD_END)) else {
            debug_assert!(false, "heads are sent whole");
            return Err(io::ErrorKind::InvalidData.into());
        };
        let head = HeadLines::of(&bytes[..end + 2]);
        let length = end + 4;
        let ends = length == bytes.len() && last.as_ref().is_some_and(|trailers| trailers.is_empty());
        let sent = match self.mux.role {
            Role::Server => self.send_response_head(&head, ends),
            Role::Client => self.send_request_head(&head, ends),
        };
        self.mux.wake();
        Ok(sent?.then_some(length))
    }

    fn send_response_head(&self, head: &HeadLines<'_>, ends: bool) -> io::Result<bool> {
        let gone = |_| io::Error::from(io::ErrorKind::ConnectionReset);
        let status = head.status();
        let Some(key) = self.stream.key() else { return Err(io::ErrorKind::NotConnected.into()) };
        let mut inner = self.mux.inner();
        let Inner { connection, compression, out, .. } = &mut *inner;
        mux::lease_for(head.lines.len(), out);
        let block = |out: &mut Vec<u8>| {
            let mut block = compression.encoder.block(out);
            block.status(status);
            block.set_never_indexed(self.never_indexed.get());
            block.head_lines(head.lines);
            block.length(head.length);
        };
        if status < 200 {
            return connection.send_informational(key, out, block).map(|()| true).map_err(gone);
        }
        connection.send_head(key, ends, out, block).map_err(gone)?;
        let mut halves = self.stream.halves.borrow_mut();
        (halves.head_sent, halves.end_sent) = (true, ends);
        if ends {
            *self.stream.works.borrow_mut() = None;
        }
        Ok(true)
    }

    fn send_request_head(&self, head: &HeadLines<'_>, ends: bool) -> io::Result<bool> {
        let (method, target) = head.request();
        let connects = self.connects.get();
        // RFC 8441 §5: "CONNECT" where a request of HTTP/1.1 has GET.
        let method = if connects { b"CONNECT" } else { method };
        let secure = self.mux.transport.is_tls();
        let block = |compression: &mut Compression, out: &mut Vec<u8>| {
            let mut block = compression.encoder.block(out);
            block.method(method);
            if connects {
                block.protocol(PROTOCOL);
            }
            block.scheme(secure);
            block.authority(head.host());
            block.path(target, None);
            block.set_never_indexed(self.never_indexed.get());
            block.head_lines(head.lines);
            block.length(head.length);
            if self.takes_trailers.get() {
                block.te_trailers();
            }
        };
        let lines_bytes = target.len() + head.lines.len();
        match self.mux.open(&self.stream, method, ends, lines_bytes, block) {
            Ok(()) => {
                let mut halves = self.stream.halves.borrow_mut();
                (halves.head_sent, halves.end_sent) = (true, ends);
                Ok(true)
            }
            Err(NotOpened::Full) => Ok(false),
            Err(NotOpened::Over) => {
                self.stream.halves.borrow_mut().over = Some(Over::Unprocessed);
                Err(io::ErrorKind::ConnectionReset.into())
            }
        }
    }

    /// Whether the request says that trailers are welcome (RFC 9110 §10.1.4), which is no line of its head.
    pub fn set_takes_trailers(&self, takes: bool) {
        self.takes_trailers.set(takes);
    }

    /// The request asks for a WebSocket: it is sent as an extended CONNECT (RFC 8441).
    pub fn set_connects(&self) {
        self.connects.set(true);
    }

    /// Whether a field of the heads, or the trailers, that are sent from now on came as one that may never be in a table.
    pub fn set_never_indexed(&self, never_indexed: bool) {
        self.never_indexed.set(never_indexed);
    }

    /// Says how long the head is that what is sent next begins with, so that it need not be looked for.
    pub fn set_head_bytes(&self, head_bytes: usize) {
        self.head_bytes.set(head_bytes);
    }

    /// Whether the stream is over; `context` is told when it is, or when something is received, which nobody else waits for.
    pub(crate) fn poll_over(&self, context: &Context<'_>) -> Poll<()> {
        if self.over().is_some() {
            return Poll::Ready(());
        }
        self.wake_at_end(context.waker());
        Poll::Pending
    }

    /// Says how the stream ends if its messages are not over: by whose fault.
    pub fn set_code(&self, code: ErrorCode) {
        self.code.set(code);
    }
}

impl Drop for StreamTransport {
    fn drop(&mut self) {
        // RFC 9113 §8.1: a response that is complete while the request is not takes nothing back.
        let code = if self.is_sent() && self.mux.role == Role::Server {
            ErrorCode::NO_ERROR
        } else {
            self.code.get()
        };
        self.mux.conclude(&self.stream, code);
    }
}

/// What an event of the connection means for a stream.
pub(super) fn over_of(code: ErrorCode, cause: Cause) -> Over {
    match cause {
        Cause::Unprocessed => Over::Unprocessed,
        Cause::Peer if code == ErrorCode::REFUSED_STREAM => Over::Unprocessed,
        Cause::Peer => Over::Reset(code),
        Cause::Fault(reason) => Over::Fault(reason),
    }
}

/// A head of ours, in its one form, without the empty line.
struct HeadLines<'a> {
    first: &'a [u8],
    /// Without the framing line.
    lines: &'a [u8],
    length: BodyLength,
}

impl<'a> HeadLines<'a> {
    fn of(head: &'a [u8]) -> HeadLines<'a> {
        let first_end = memchr::memchr(b'\n', head).map_or(head.len(), |at| at + 1);
        let (first, mut lines) = head.split_at(first_end);
        // The framing line is the last one, and ours.
        let last = memchr::memrchr(b'\n', &lines[..lines.len().saturating_sub(1)]).map_or(0, |at| at + 1);
        let mut length = BodyLength::UntilClose;
        if let Some(digits) = lines[last..].strip_prefix(b"Content-Length: ")
            && let Some(count) = digits.strip_suffix(b"\r\n").and_then(atoi)
        {
            length = BodyLength::Length(count);
            lines = &lines[..last];
        }
        HeadLines { first: first.strip_suffix(b"\r\n").unwrap_or(first), lines, length }
    }

    /// Of a status line.
    fn status(&self) -> u16 {
        self.first.get(9..12).and_then(atoi).and_then(|status| u16::try_from(status).ok()).unwrap_or(500)
    }

    /// Method and target of a request line.
    fn request(&self) -> (&'a [u8], &'a [u8]) {
        let line = self.first.strip_suffix(b" HTTP/1.1").unwrap_or(self.first);
        let space = memchr::memchr(b' ', line).unwrap_or(line.len());
        let (method, target) = line.split_at(space);
        (method, target.get(1..).unwrap_or_default())
    }

    /// The value of a line, found by its name in any case.
    fn value(&self, name: &[u8]) -> Option<&'a [u8]> {
        let mut rest = self.lines;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, behind) = rest.split_at(end + 1);
            rest = behind;
            if let Some((found, value)) = line.split_at_checked(name.len())
                && found.eq_ignore_ascii_case(name)
                && let Some(value) = value.strip_prefix(b":")
            {
                return Some(value.trim_ascii());
            }
        }
        None
    }

    fn host(&self) -> &'a [u8] {
        self.value(b"host").unwrap_or_default()
    }
}

fn atoi(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || digits.len() > 19 {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, digit| {
        digit.is_ascii_digit().then(|| number * 10 + u64::from(digit - b'0'))
    })
}
