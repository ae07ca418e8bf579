//! One HTTP/2 connection as the tasks of its core share it: one owner reads and writes, many exchanges speak on their streams.
//!
//! For: [`super::downstream`] and [`super::upstream`], which drive it, and [`super::stream`], through which an exchange speaks.
//! Not for: rules of the protocol ([`super::connection`]), what a request means.
//!
//! **Writing.** Whoever has something to say appends it to one buffer and wakes the owner, once; the owner is polled after all
//! that ran before it in the turn, and takes the buffer as it then is: the frames of many streams leave in one write. What is
//! subject to flow control, or finds the buffer full, waits at its stream; [`Inner::pump`] takes it from there in the order that
//! the core of the protocol names.
//!
//! **Memory.** The buffer takes [`OUT_BYTES`] of bodies; beyond [`OUT_BYTES_MOST`], which only answers to control frames can
//! reach, nothing is read until it has left. What a stream has received is bounded by its window. Nothing is held while nothing
//! is under way.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::h2::blocks::Compression;
use crate::h2::connection::{DATA_BYTES_MAX, NotOpened, Opening};
use crate::h2::frame::{ErrorCode, FRAME_HEAD_BYTES};
use crate::h2::hpack::Sharing;
use crate::h2::share::Share;
use crate::h2::stream::{Over, Stream};
use crate::h2::{Connection, Role, Settings, StreamKey};
use crate::http::{Method, Reason, ResponseTable};
use crate::pipeline::exchange::Head;
use crate::worker::sweep::{Due, Watched};
use crate::worker::{Buffer, Transport};

/// Frames of bodies that wait to be written, bytes: what one encryption of a TLS session takes.
const OUT_BYTES: usize = 64 * 1024;
/// All that waits to be written, bytes, before nothing more is read.
const OUT_BYTES_MOST: usize = 256 * 1024;
/// What the frame of a head takes beside its lines: its own head, pseudo-fields but for the target, `Content-Length`.
const HEAD_ROOM: usize = 128;
/// Streams at once from which on each of them receives in small buffers.
const MANY_STREAMS: u32 = 8;

/// Requests that are sent before an upstream has said how many it takes: those beyond that it would refuse, and of a body that is
/// on its way there is no second copy. Its settings come with the first it says.
const STREAMS_BEFORE_SETTINGS: u32 = 1;

/// Heads of responses, and streams of requests, that are kept for re-use, per connection: as many as come in one piece.
const HEADS_MAX: usize = 256;
const FREE_MAX: usize = 256;

/// One connection.
pub struct Mux {
    /// The byte stream below. Only the owner reads and writes it.
    pub transport: Transport,
    /// Which end we are.
    pub role: Role,
    /// What is to happen by time: silence, an end, what the protocol waits for.
    due: Due,
    inner: RefCell<Inner>,
    /// Who is woken: the owner's task, once it has run.
    owner: RefCell<Option<Waker>>,
    /// It has been woken and has not run since.
    woken: Cell<bool>,
    /// It reads no more until what there is to be written has left.
    holds_back: Cell<bool>,
    /// Something is on its way out.
    writes: Cell<bool>,
    /// It has given back what it had no use for.
    shrunk: Cell<bool>,
    /// Something has come, or left, since it was asked last whether it is quiet.
    stirred: Cell<bool>,
    /// Exchanges that have a stream.
    exchanges: Cell<usize>,
    /// Those of them that are with upstreams.
    share: Share,
    /// Those of them whose request has not been sent.
    unsent: Cell<u32>,
}

impl std::fmt::Debug for Mux {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mux").field("role", &self.role).field("exchanges", &self.exchanges.get()).finish()
    }
}

/// What changes.
#[derive(Debug)]
pub(super) struct Inner {
    pub connection: Connection,
    pub compression: Compression,
    pub out: Buffer,
    /// By slot. A stream that is over stays for the next one of its slot.
    pub streams: Vec<Rc<Stream>>,
    /// Nothing more can be said or heard.
    pub over: bool,
    /// The methods of requests, by slot: what a response to HEAD says of a body is none.
    pub methods: Vec<Method>,
    /// Heads of responses whose memory is free.
    #[expect(clippy::vec_box, reason = "each goes on as it is, into the queue of its stream")]
    heads: Vec<Box<Head<ResponseTable>>>,
    /// Who waits for a place to ask on, in the order in which they came.
    line: VecDeque<Rc<Stream>>,
    /// Those who were called from there and have not come yet: so many places are theirs.
    called: u32,
    /// Streams of ours that are over, for the next ones.
    free: Vec<Rc<Stream>>,
}

impl Mux {
    /// A connection that begins on `transport`.
    pub fn new(role: Role, transport: Transport, settings: &Settings, now_ms: u64) -> Rc<Mux> {
        let mut out = Buffer::head();
        let connection = Connection::new(role, settings, now_ms, &mut out);
        let sharing = if role == Role::Server { Sharing::One } else { Sharing::Many };
        Rc::new(Mux {
            transport,
            role,
            due: Due::default(),
            inner: RefCell::new(Inner {
                connection,
                compression: Compression::new(sharing),
                out,
                streams: Vec::new(),
                over: false,
                methods: Vec::new(),
                heads: Vec::new(),
                line: VecDeque::new(),
                called: 0,
                free: Vec::new(),
            }),
            owner: RefCell::default(),
            woken: Cell::new(false),
            holds_back: Cell::new(false),
            writes: Cell::new(false),
            shrunk: Cell::new(false),
            stirred: Cell::new(false),
            exchanges: Cell::new(0),
            share: Share::default(),
            unsent: Cell::new(0),
        })
    }

    pub(super) fn inner(&self) -> std::cell::RefMut<'_, Inner> {
        self.inner.borrow_mut()
    }

    /// Has the owner look, later in this turn, whatever it waits for.
    pub(super) fn wake(&self) {
        if !self.woken.replace(true)
            && let Some(owner) = &*self.owner.borrow()
        {
            owner.wake_by_ref();
        }
    }

    /// The owner runs: whoever wakes it from now on has it run once more.
    pub(super) fn runs(&self, waker: &Waker) {
        self.woken.set(false);
        let mut owner = self.owner.borrow_mut();
        if !owner.as_ref().is_some_and(|owner| owner.will_wake(waker)) {
            *owner = Some(waker.clone());
        }
    }

    /// What is ready to be written, as soon as there is something; nothing once the connection is over and all has left.
    pub(super) fn poll_outgoing(&self) -> Poll<Option<Buffer>> {
        let mut inner = self.inner();
        inner.pump();
        inner.let_some_on();
        self.writes.set(!inner.out.is_empty());
        if !inner.out.is_empty() {
            self.stir();
            let out = std::mem::take(&mut inner.out);
            drop(inner);
            if self.holds_back.replace(false) {
                // It was asked before this in the same turn, and had to say no.
                self.wake();
            }
            return Poll::Ready(Some(out));
        }
        if inner.out.is_leased() {
            // Memory that nothing is in.
            inner.out = Buffer::empty();
        }
        if inner.over { Poll::Ready(None) } else { Poll::Pending }
    }

    /// Whether little enough waits to be written that more may be read.
    pub(super) fn poll_calm(&self) -> Poll<()> {
        if self.inner().out.len() < OUT_BYTES_MOST {
            return Poll::Ready(());
        }
        self.holds_back.set(true);
        Poll::Pending
    }

    /// Whether something is on its way out.
    pub(super) fn writes(&self) -> bool {
        self.writes.get()
    }

    /// Whether nothing is under way, and all that was said has left. Has what was posted leave: for timers.
    pub(super) fn rests(&self) -> bool {
        let left = || self.inner().out.is_empty() && self.transport.socket().settled().unwrap_or(true);
        self.exchanges.get() == 0 && !self.writes.get() && left()
    }

    /// Something has come, or leaves.
    pub(super) fn stir(&self) {
        self.stirred.set(true);
    }

    /// Whether nothing has come or left since this was asked last, whatever is under way: streams on which nothing happens, as
    /// those of WebSockets mostly are.
    pub(super) fn is_quiet(&self) -> bool {
        !self.stirred.replace(false) && !self.writes.get() && self.inner().out.is_empty()
    }

    /// An exchange begins on the stream `key`, which the peer has opened, or on one that is to be opened.
    pub(super) fn begin(&self, key: Option<StreamKey>) -> Rc<Stream> {
        self.exchanges.set(self.exchanges.get() + 1);
        let Some(key) = key else {
            self.unsent.set(self.unsent.get() + 1);
            let free = self.inner().free.pop();
            return free.inspect(|stream| stream.reset()).unwrap_or_default();
        };
        let mut inner = self.inner();
        let slot = key.slot();
        while inner.streams.len() <= slot {
            inner.streams.push(Rc::default());
        }
        let stream = &mut inner.streams[slot];
        if Rc::strong_count(stream) == 1 {
            stream.reset();
        } else {
            // Whoever had it before is still on the way out.
            *stream = Rc::default();
        }
        stream.set_key(key);
        Rc::clone(stream)
    }

    /// Opens the stream of a request, whose field block `block` appends, of lines that come to `lines_bytes`.
    ///
    /// # Errors
    /// [`NotOpened`]. Where there is no room, the stream stands in line, and is called when there is.
    pub(super) fn open(
        &self,
        stream: &Rc<Stream>,
        method: &[u8],
        end: bool,
        lines_bytes: usize,
        block: impl FnOnce(&mut Compression, &mut Vec<u8>),
    ) -> Result<(), NotOpened> {
        let mut inner = self.inner();
        let was_called = stream.comes();
        inner.called -= u32::from(was_called);
        let places = inner.places();
        let Inner { connection, compression, out, called, .. } = &mut *inner;
        lease_for(lines_bytes, out);
        let opening = Opening { end, head_request: method == b"HEAD" };
        // Nobody takes the place of one who has waited for it.
        let taken = !connection.is_closing() && places <= if was_called { 0 } else { *called };
        let opened = match taken {
            true => Err(NotOpened::Full),
            false => connection.open(opening, out, |out| block(compression, out)),
        };
        match opened {
            Ok(key) => {
                stream.set_key(key);
                self.unsent.set(self.unsent.get().saturating_sub(1));
                let slot = key.slot();
                while inner.streams.len() <= slot {
                    inner.streams.push(Rc::default());
                    inner.methods.push(Method::Get);
                }
                inner.streams[slot] = Rc::clone(stream);
                inner.methods[slot] = Method::of(method);
                Ok(())
            }
            Err(NotOpened::Full) => {
                match (stream.stand(), was_called) {
                    (true, _) => {}
                    // The peer has changed its mind about how many it takes.
                    (false, true) => inner.line.push_front(Rc::clone(stream)),
                    (false, false) => inner.line.push_back(Rc::clone(stream)),
                }
                Err(NotOpened::Full)
            }
            Err(NotOpened::Over) => Err(NotOpened::Over),
        }
    }

    /// An exchange is over, however it ended: what is left of its stream goes with it.
    pub(super) fn conclude(&self, stream: &Rc<Stream>, code: ErrorCode) {
        self.exchanges.set(self.exchanges.get().saturating_sub(1));
        stream.let_go();
        let mut inner = self.inner();
        match stream.key() {
            Some(key) => {
                let Inner { connection, out, .. } = &mut *inner;
                lease(out);
                connection.reset(key, code, out);
            }
            None => {
                self.unsent.set(self.unsent.get().saturating_sub(1));
                inner.called -= u32::from(stream.comes());
                if stream.stands() {
                    inner.line.retain(|waiting| !Rc::ptr_eq(waiting, stream));
                }
            }
        }
        if self.role == Role::Client && inner.free.len() < FREE_MAX {
            inner.free.push(Rc::clone(stream));
        }
        // Who was called and has no use for the place passes it on.
        inner.let_some_on();
        drop(inner);
        self.wake();
    }

    /// Requests of a client that are with upstreams.
    pub(super) fn share(&self) -> &Share {
        &self.share
    }

    /// Exchanges that have a stream.
    pub fn exchanges(&self) -> usize {
        self.exchanges.get()
    }

    /// Requests that could be sent on it now, beside those that have been given a stream already.
    pub fn openable(&self) -> u32 {
        let inner = self.inner();
        if inner.over { 0 } else { inner.connection.openable().saturating_sub(self.unsent.get()) }
    }

    /// Whether nothing more can be said or heard.
    pub fn is_over(&self) -> bool {
        self.inner().over
    }

    /// Whether no request can be sent on it any more.
    pub fn is_closing(&self) -> bool {
        let inner = self.inner();
        inner.over || inner.connection.is_closing()
    }

    /// The connection is over: nothing more can be said or heard on any stream. `reason`: for this fault of the peer. Requests of
    /// a client that were under way have not earned its fault, which has a record of its own; those that an upstream leaves
    /// unanswered fail for it.
    pub(super) fn end(&self, reason: Option<Reason>) {
        let reason = reason.filter(|_| self.role == Role::Client);
        let mut inner = self.inner();
        inner.over = true;
        let streams = std::mem::take(&mut inner.streams);
        let line = std::mem::take(&mut inner.line);
        drop(inner);
        for stream in &streams {
            stream.end(Over::Lost(reason));
        }
        for stream in &line {
            // Of what was never sent nothing has been done.
            stream.leave_line();
            stream.end(Over::Unprocessed);
        }
        self.wake();
    }

    /// Whether it has given back what it had no use for since this was asked last.
    pub(super) fn take_shrunk(&self) -> bool {
        self.shrunk.replace(false)
    }

    /// Gives back what a connection that [rests](Mux::rests), or [is quiet](Mux::is_quiet), has no use for.
    pub(super) fn shrink(&self) {
        self.shrunk.set(true);
        let mut inner = self.inner();
        inner.connection.shrink();
        inner.compression.shrink();
        if inner.connection.streams_open() == 0 {
            (inner.streams, inner.methods) = (Vec::new(), Vec::new());
        }
        (inner.heads, inner.free) = (Vec::new(), Vec::new());
        inner.line.shrink_to_fit();
    }
}

impl Inner {
    /// Fills the buffer with what streams have to send, in the order in which it is their turn.
    pub fn pump(&mut self) {
        while self.out.len() < OUT_BYTES {
            let Some(key) = self.connection.next_writable() else { return };
            match self.streams.get(key.slot()).filter(|stream| stream.key() == Some(key)) {
                Some(stream) => {
                    let stream = Rc::clone(stream);
                    stream.send_pending(self);
                }
                None => self.connection.want(key, false),
            }
        }
    }

    /// Appends as much of `bytes` as there is room for, here and with the peer; says how much. With `end` they are the last ones.
    pub fn send_data(
        &mut self,
        key: StreamKey,
        bytes: &[u8],
        end: bool,
    ) -> Result<usize, super::connection::StreamGone> {
        let mut sent = 0;
        loop {
            let rest = &bytes[sent..];
            let room = OUT_BYTES.saturating_sub(self.out.len());
            let piece = rest.len().min(DATA_BYTES_MAX);
            if piece > 0 && room == 0 {
                return Ok(sent);
            }
            while self.out.capacity() - self.out.len() < piece + FRAME_HEAD_BYTES && self.out.widen() {}
            let is_last = end && piece == rest.len();
            let taken = self.connection.send_data(key, &rest[..piece], is_last, &mut self.out)?;
            sent += taken;
            if taken == 0 || sent == bytes.len() {
                return Ok(sent);
            }
        }
    }

    /// The stream of this name, if an exchange has it.
    pub fn stream(&self, key: StreamKey) -> Option<Rc<Stream>> {
        self.streams.get(key.slot()).filter(|stream| stream.key() == Some(key)).cloned()
    }

    /// A head to decode into.
    pub fn head(&mut self) -> Box<Head<ResponseTable>> {
        let mut head = self.heads.pop().unwrap_or_default();
        if !head.bytes.is_leased() {
            head.bytes = Buffer::head();
        }
        head
    }

    /// Keeps the memory of a head.
    pub fn keep_head(&mut self, head: Box<Head<ResponseTable>>) {
        if self.heads.len() < HEADS_MAX {
            self.heads.push(head);
        }
    }

    /// As many more may ask now as there are places: those who have waited for longest are called.
    pub fn let_some_on(&mut self) {
        if self.line.is_empty() {
            return;
        }
        // On one that goes away there will be none: all are called, to be told so, and ask on another.
        while self.connection.is_closing() || self.called < self.places() {
            let Some(stream) = self.line.pop_front() else { return };
            self.called += 1;
            stream.call();
        }
    }

    /// Requests that can be sent now.
    fn places(&self) -> u32 {
        let places = self.connection.openable();
        match self.connection.is_settled() {
            true => places,
            false => places.min(STREAMS_BEFORE_SETTINGS.saturating_sub(self.connection.streams_open())),
        }
    }

    /// Whether so many streams are open that none of them is to hold much.
    pub fn is_crowded(&self) -> bool {
        self.connection.streams_open() >= MANY_STREAMS
    }
}

/// Gives the outgoing bytes memory of the pool.
pub(super) fn lease(out: &mut Buffer) {
    if !out.is_leased() {
        *out = Buffer::head();
    }
}

/// The same, with room for a frame of a head, or trailers, whose lines come to so many bytes. Of what the pool has: a vector
/// that grew by itself would not go back there.
pub(super) fn lease_for(lines_bytes: usize, out: &mut Buffer) {
    lease(out);
    while out.capacity() - out.len() < lines_bytes + HEAD_ROOM && out.widen() {}
}

impl Watched for Mux {
    fn due(&self) -> &Due {
        &self.due
    }

    fn expire(&self) {
        self.wake();
    }

    fn is_at_rest(self: Rc<Mux>) -> bool {
        self.rests()
    }

    fn reprieve(&self, _: u64) -> Option<u64> {
        None
    }

    fn note_pace(&self) {}
}
