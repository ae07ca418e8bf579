//! One direction of a tunnel: what of the bytes that arrived may go on, what waits, and when it is over.
//!
//! For: the tunnel, which has one for each direction and shows it every piece that it receives, once. Not for: sending,
//! waiting, time.
//!
//! **What goes on is what came**, and mostly in place: [`Onward::Prefix`] says how many bytes of the piece go on untouched.
//! Held back are only the beginnings of heads (13 bytes at most) and of control frames (130), because a frame that is refused
//! must not have begun on the other side; and, with [`Look::Messages`], messages until they are judged. Then
//! [`Onward::Out`] says that what goes on was put together in a buffer.
//!
//! **Messages that are judged whole** pass in place if they arrive as one frame within one piece. Others are collected,
//! unmasked, at most [`Rules::message_bytes_max`] of them, judged, and go on as one frame under the mask that the client chose
//! for their first one. RFC 6455 §5.4 lets an intermediary change the fragmentation where no extension was agreed upon;
//! none ever is in this case. Control frames between the fragments pass at once.
//!
//! **Bounds**: bytes of a message, fragments of a message, control frames over time; how many messages over time, the
//! [`Judge`] decides. With compression the bytes are those that travel, compressed.
//!
//! Cost: some 150 instructions a frame, whatever its length; with texts one more per three bytes of ASCII. No allocation but for leases of
//! [`Buffer`]s, and beyond 256 KiB theirs.

use super::close::{CloseCode, CloseFrame, Ending};
use super::frame::{
    CONTROL_BYTES_MAX, Flaw, Found, HEAD_BYTES_MAX, Head, Law, Mask, Opcode, Sender, write_head,
};
use super::text::Text;
use crate::http::Reason;
use crate::worker::buffer::Buffer;

/// A text message that is not UTF-8.
pub const WEBSOCKET_TEXT: Reason = Reason::client("websocket_text", 2426, 400, "A text message is not UTF-8");
/// A message with more bytes than may be.
pub const WEBSOCKET_MESSAGE_SIZE: Reason =
    Reason::client("websocket_message_size", 2428, 413, "A message is too large");
/// A message of more fragments than may be.
pub const WEBSOCKET_FRAGMENTS: Reason =
    Reason::client("websocket_fragments", 2429, 400, "A message has too many fragments");
/// More pings and pongs than may be.
pub const WEBSOCKET_CONTROL_RATE: Reason =
    Reason::client("websocket_control_rate", 2430, 429, "Too many control frames");
/// The upstream sent a message that is too large, not UTF-8, in too many fragments, or too many control frames.
pub const UPSTREAM_WEBSOCKET_MESSAGE: Reason = Reason::upstream(
    "upstream_websocket_message",
    4308,
    502,
    "The upstream sent a message that may not pass",
);

/// Most fragments of one message: a megabyte in pieces of 16 bytes.
pub const FRAGMENTS_MAX: u32 = 65_536;
/// Most bytes of a message that is held, whatever the rules say. 16 MiB.
pub const HELD_BYTES_MAX: u64 = 16 << 20;
/// Longest control frame of a client.
const CONTROL_FRAME_BYTES_MAX: usize = 2 + 4 + CONTROL_BYTES_MAX;

/// How much of what passes is looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Look {
    /// Heads and control frames. Payloads pass unseen, and may be compressed.
    #[default]
    Heads,
    /// Text messages must be UTF-8.
    Text,
    /// And each message is judged whole ([`Judge::message`]) before its first byte goes on.
    Messages,
}

/// What holds in one direction.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    /// Whose frames pass.
    pub sender: Sender,
    /// How much is looked at.
    pub look: Look,
    /// `permessage-deflate` was agreed upon ([`Agreed::deflate`](super::handshake::Agreed)). Has no effect unless `look` is
    /// [`Look::Heads`].
    pub deflate: bool,
    /// Most bytes of a message's payload, over all its fragments. Default 1 MiB; with [`Look::Messages`] at most
    /// [`HELD_BYTES_MAX`].
    pub message_bytes_max: u64,
    /// Pings and pongs per second, over time. Default 20; at least 1.
    pub control_per_s: u32,
    /// Pings and pongs at once. Default 200; at least 1.
    pub control_burst: u32,
}

impl Rules {
    /// The defaults.
    pub fn new(sender: Sender) -> Rules {
        Rules {
            sender,
            look: Look::Heads,
            deflate: false,
            message_bytes_max: 1 << 20,
            control_per_s: 20,
            control_burst: 200,
        }
    }
}

/// The kinds of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8.
    Text,
    /// Anything.
    Binary,
}

/// What the policies say. Refusals close with 1008.
pub trait Judge {
    /// A message begins: called once, before anything of it goes on. The place to charge a rate.
    ///
    /// # Errors
    /// Why the tunnel ends.
    fn admit(&mut self, kind: Kind) -> Result<(), &'static Reason>;

    /// A whole message, unmasked, before anything of it goes on. Only with [`Look::Messages`].
    ///
    /// # Errors
    /// Why the tunnel ends.
    fn message(&mut self, kind: Kind, payload: &[u8]) -> Result<(), &'static Reason>;
}

/// Nobody asks.
impl Judge for () {
    #[inline]
    fn admit(&mut self, _: Kind) -> Result<(), &'static Reason> {
        Ok(())
    }

    fn message(&mut self, _: Kind, _: &[u8]) -> Result<(), &'static Reason> {
        Ok(())
    }
}

/// What becomes of a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub struct Verdict {
    /// What goes on now.
    pub onward: Onward,
    /// And then.
    pub then: Then,
}

/// What goes on of a piece. What does not is kept in the filter, or dropped behind the end: the piece is done with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Onward {
    /// So many bytes of the piece, as they are; may be 0.
    Prefix(usize),
    /// What was appended to `out`, and nothing of the piece.
    Out,
}

/// What happens after a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// The next one may come.
    GoOn,
    /// The sender's Close frame has gone on: nothing more goes this way (RFC 6455 §5.5.1). What still arrives is read and
    /// dropped. When the other direction is closed as well, the tunnel is over.
    Closed,
    /// A law was broken: send what goes on, then [`Ending::close`].
    End(Ending),
}

/// The state of one direction.
#[derive(Debug)]
pub struct Filter {
    rules: Rules,
    law: Law,
    state: State,
    kind: Kind,
    /// The frame whose payload is arriving is the last of its message.
    fin: bool,
    /// Of the frame whose payload is arriving: bytes to come, and their mask.
    left: u64,
    mask: Mask,
    /// Payload bytes of the open message that its heads have declared, and its fragments.
    message_bytes: u64,
    fragments: u32,
    text: Text,
    /// When the control frames so far are paid for.
    paid_ms: u64,
    /// The beginning of a head, or of a control frame.
    partial: [u8; CONTROL_FRAME_BYTES_MAX],
    partial_len: u8,
    /// The message that is held: room for a head, then the payload, unmasked. Empty, and without memory, if there is none.
    held: Buffer,
    /// The mask of its first frame.
    held_mask: Mask,
    messages: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Bytes pass.
    Open,
    /// A Close frame went this way, the sender's or ours.
    Closed,
    /// Over without a Close frame; one can be sent.
    Ended,
    /// Over, in the midst of a frame.
    Cut,
}

impl Filter {
    /// Before the first byte behind the handshake.
    pub fn new(mut rules: Rules) -> Filter {
        rules.deflate &= rules.look == Look::Heads;
        if rules.look == Look::Messages {
            rules.message_bytes_max = rules.message_bytes_max.min(HELD_BYTES_MAX);
        }
        Filter {
            law: Law::new(rules.sender, rules.deflate),
            rules,
            state: State::Open,
            kind: Kind::Binary,
            fin: true,
            left: 0,
            mask: Mask::NONE,
            message_bytes: 0,
            fragments: 0,
            text: Text::new(),
            paid_ms: 0,
            partial: [0; CONTROL_FRAME_BYTES_MAX],
            partial_len: 0,
            held: Buffer::empty(),
            held_mask: Mask::NONE,
            messages: 0,
        }
    }

    /// Judges a piece that has arrived, of any length, cut anywhere. `out` is empty; what cannot go on in place is appended to
    /// it (one that holds no memory leases some). `now_ms` is of any clock that does not go back.
    pub fn pass(&mut self, piece: &[u8], out: &mut Buffer, now_ms: u64, judge: &mut impl Judge) -> Verdict {
        debug_assert!(out.is_empty());
        let mut emit = Emit { piece, prefix: 0, out, moved: false, frame: None };
        let then = match self.state {
            State::Open => match self.walk(&mut emit, now_ms, judge) {
                Ok(()) if self.state == State::Closed => Then::Closed,
                Ok(()) => Then::GoOn,
                Err(ending) => {
                    // Of a frame that began in this piece nothing has gone on; that of an earlier one stays without an end.
                    let is_passing = self.left > 0 && !self.is_holding();
                    let is_cut = is_passing && !emit.take_back();
                    self.state = if is_cut { State::Cut } else { State::Ended };
                    self.held = Buffer::empty();
                    Then::End(ending)
                }
            },
            State::Closed | State::Ended | State::Cut => Then::Closed,
        };
        Verdict { onward: if emit.moved { Onward::Out } else { Onward::Prefix(emit.prefix) }, then }
    }

    /// Messages that have begun.
    pub fn messages(&self) -> u64 {
        self.messages
    }

    /// Bytes of memory that a held message takes.
    pub fn held_bytes(&self) -> usize {
        self.held.capacity()
    }

    /// Whether nothing more goes this way.
    pub fn is_over(&self) -> bool {
        self.state != State::Open
    }

    /// Whether it ended in the midst of a frame, so that only the end of the transport can tell its receiver.
    pub fn is_cut(&self) -> bool {
        self.state == State::Cut
    }

    /// Ends this direction with a Close frame for its receiver, if one can stand here. See [`Ending::close`].
    pub(super) fn close(&mut self, code: CloseCode, text: &'static str, key: [u8; 4]) -> Option<CloseFrame> {
        let cut = self.state == State::Open && self.left > 0 && !self.is_holding();
        self.held = Buffer::empty();
        if cut || matches!(self.state, State::Closed | State::Cut) {
            self.state = if cut { State::Cut } else { self.state };
            return None;
        }
        self.state = State::Closed;
        // What the client sent goes upstream, where frames of ours are masked as well.
        Some(CloseFrame::new(code, text, (self.rules.sender == Sender::Client).then_some(key)))
    }

    fn walk(&mut self, emit: &mut Emit<'_>, now_ms: u64, judge: &mut impl Judge) -> Result<(), Ending> {
        let piece = emit.piece;
        let mut at = 0;
        while at < piece.len() && self.state == State::Open {
            let rest = &piece[at..];
            if self.left > 0 {
                at += self.payload(rest, at, emit, judge)?;
            } else if self.partial_len > 0 {
                at += self.complete(rest, emit, now_ms, judge)?;
            } else {
                at += self.begin(rest, at, emit, now_ms, judge)?;
            }
        }
        Ok(())
    }

    /// A frame begins in the piece: `rest` of it, from `at`. How many bytes that takes.
    #[inline(always)]
    fn begin(
        &mut self,
        rest: &[u8],
        at: usize,
        emit: &mut Emit<'_>,
        now_ms: u64,
        judge: &mut impl Judge,
    ) -> Result<usize, Ending> {
        let Found::Head(head) = self.judge(rest)? else { return Ok(self.keep(rest)) };
        let head_bytes = usize::from(head.bytes);
        if head.opcode.is_control() {
            // At most 125 bytes.
            let Some(frame) = rest.get(..head_bytes + head.payload as usize) else {
                return Ok(self.keep(rest));
            };
            self.control(&head, frame, now_ms)?;
            emit.piece(at, frame.len());
            return Ok(frame.len());
        }
        self.data(&head, judge)?;
        if self.rules.look == Look::Messages {
            if head.fin
                && head.opcode != Opcode::Continuation
                && let Some(payload) = rest[head_bytes..].get(..head.payload as usize)
            {
                self.left = 0;
                self.judge_in_place(payload, &head, judge)?;
                emit.piece(at, head_bytes + payload.len());
                return Ok(head_bytes + payload.len());
            }
            self.hold(&head);
            self.end_of_frame(emit, judge)?;
            return Ok(head_bytes);
        }
        let mut count = head_bytes;
        if self.rules.look == Look::Heads {
            // What is here of the payload goes with its head: nobody looks.
            let here = (rest.len() - head_bytes).min(usize::try_from(self.left).unwrap_or(usize::MAX));
            self.left -= here as u64;
            count += here;
        } else {
            emit.mark();
        }
        emit.piece(at, count);
        Ok(count)
    }

    /// More of a head, or of a control frame, that has begun in an earlier piece. How many bytes that takes.
    #[cold]
    fn complete(
        &mut self,
        rest: &[u8],
        emit: &mut Emit<'_>,
        now_ms: u64,
        judge: &mut impl Judge,
    ) -> Result<usize, Ending> {
        let mut partial = self.partial;
        let mut have = usize::from(self.partial_len);
        let mut taken = 0;
        let head = loop {
            let wanted = match self.judge(&partial[..have])? {
                Found::More(wanted) => wanted,
                Found::Head(head) => {
                    let payload = if head.opcode.is_control() { head.payload as usize } else { 0 };
                    let wanted = usize::from(head.bytes) + payload;
                    if have >= wanted {
                        break head;
                    }
                    wanted
                }
            };
            let more = rest[taken..].len().min(wanted - have);
            partial[have..have + more].copy_from_slice(&rest[taken..taken + more]);
            (have, taken) = (have + more, taken + more);
            if have < wanted {
                // Whatever of it is there may be wrong already.
                self.judge(&partial[..have])?;
                (self.partial, self.partial_len) = (partial, have as u8);
                return Ok(taken);
            }
        };
        self.partial_len = 0;
        let frame = &partial[..have];
        if head.opcode.is_control() {
            self.control(&head, frame, now_ms)?;
            emit.insert(frame);
            return Ok(taken);
        }
        self.data(&head, judge)?;
        if self.rules.look == Look::Messages {
            self.hold(&head);
            self.end_of_frame(emit, judge)?;
        } else {
            emit.mark();
            emit.insert(frame);
        }
        Ok(taken)
    }

    /// Payload of the frame that has begun. How many bytes that takes.
    #[inline]
    fn payload(
        &mut self,
        rest: &[u8],
        at: usize,
        emit: &mut Emit<'_>,
        judge: &mut impl Judge,
    ) -> Result<usize, Ending> {
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(rest.len());
        let bytes = &rest[..count];
        if self.rules.look >= Look::Text && self.kind == Kind::Text && !self.text.push(bytes, self.mask) {
            return Err(self.breach(CloseCode::INVALID_DATA, &WEBSOCKET_TEXT));
        }
        if count as u64 == self.left {
            self.end_of_text()?;
        }
        if self.is_holding() {
            let start = self.held.len();
            append(&mut self.held, bytes);
            self.mask.apply(&mut self.held[start..]);
        } else {
            emit.piece(at, count);
        }
        self.left -= count as u64;
        self.mask = self.mask.behind(count);
        self.end_of_frame(emit, judge)?;
        Ok(count)
    }

    /// The last byte of a frame is about to go on: if it is the last of a text, no character may lack its end.
    #[inline]
    fn end_of_text(&self) -> Result<(), Ending> {
        if self.fin && self.rules.look >= Look::Text && self.kind == Kind::Text && !self.text.is_whole() {
            return Err(self.breach(CloseCode::INVALID_DATA, &WEBSOCKET_TEXT));
        }
        Ok(())
    }

    /// Lets a held message go if it is complete.
    #[inline]
    fn end_of_frame(&mut self, emit: &mut Emit<'_>, judge: &mut impl Judge) -> Result<(), Ending> {
        if self.left == 0 && self.fin && self.is_holding() { self.release(emit, judge) } else { Ok(()) }
    }

    #[inline(always)]
    fn judge(&self, bytes: &[u8]) -> Result<Found, Ending> {
        self.law.judge(bytes).map_err(|flaw| flaw.ending(self.rules.sender))
    }

    /// Keeps the beginning of a head or of a control frame; all of `rest`.
    #[cold]
    fn keep(&mut self, rest: &[u8]) -> usize {
        // A control frame that is not all there is shorter than the longest one.
        let count = rest.len().min(self.partial.len());
        self.partial[..count].copy_from_slice(&rest[..count]);
        self.partial_len = count as u8;
        count
    }

    /// A whole control frame.
    fn control(&mut self, head: &Head, frame: &[u8], now_ms: u64) -> Result<(), Ending> {
        if head.opcode != Opcode::Close {
            // A cell of GCRA (the rate's whole state is when what was spent is paid for).
            let interval = u64::from(1000 / self.rules.control_per_s.clamp(1, 1000));
            let burst = u64::from(self.rules.control_burst.max(1));
            let paid_ms = self.paid_ms.max(now_ms) + interval;
            if paid_ms - now_ms > interval * burst {
                return Err(self.breach(CloseCode::POLICY, &WEBSOCKET_CONTROL_RATE));
            }
            self.paid_ms = paid_ms;
            return Ok(());
        }
        let mut payload = [0; CONTROL_BYTES_MAX];
        let payload = &mut payload[..head.payload as usize];
        payload.copy_from_slice(&frame[usize::from(head.bytes)..]);
        head.mask.apply(payload);
        Law::judge_close(payload).map_err(|flaw: Flaw| flaw.ending(self.rules.sender))?;
        self.state = State::Closed;
        // A message without an end is none: nobody is owed it.
        self.held = Buffer::empty();
        Ok(())
    }

    /// A data frame begins.
    #[inline(always)]
    fn data(&mut self, head: &Head, judge: &mut impl Judge) -> Result<(), Ending> {
        if head.opcode != Opcode::Continuation {
            self.kind = if head.opcode == Opcode::Text { Kind::Text } else { Kind::Binary };
            judge
                .admit(self.kind)
                .map_err(|reason| Ending::by(self.rules.sender, CloseCode::POLICY, reason))?;
            self.messages += 1;
            (self.message_bytes, self.fragments, self.text) = (0, 0, Text::new());
        }
        self.fragments += 1;
        if self.fragments > FRAGMENTS_MAX {
            return Err(self.breach(CloseCode::POLICY, &WEBSOCKET_FRAGMENTS));
        }
        // What is declared counts: of a frame that would be too large not even the head goes on.
        if head.payload > self.rules.message_bytes_max - self.message_bytes {
            return Err(self.breach(CloseCode::TOO_BIG, &WEBSOCKET_MESSAGE_SIZE));
        }
        self.message_bytes += head.payload;
        self.law.begin(head);
        (self.fin, self.left, self.mask) = (head.fin, head.payload, head.mask);
        if head.payload == 0 { self.end_of_text() } else { Ok(()) }
    }

    /// A message that lies in the piece as one frame.
    fn judge_in_place(&mut self, payload: &[u8], head: &Head, judge: &mut impl Judge) -> Result<(), Ending> {
        if self.kind == Kind::Text && !(self.text.push(payload, head.mask) && self.text.is_whole()) {
            return Err(self.breach(CloseCode::INVALID_DATA, &WEBSOCKET_TEXT));
        }
        let judged = match self.rules.sender {
            Sender::Upstream => judge.message(self.kind, payload),
            Sender::Client => {
                let mut plain = Buffer::of(payload.len());
                plain.extend_from_slice(payload);
                head.mask.apply(&mut plain);
                judge.message(self.kind, &plain)
            }
        };
        judged.map_err(|reason| Ending::by(self.rules.sender, CloseCode::POLICY, reason))
    }

    #[inline]
    fn is_holding(&self) -> bool {
        !self.held.is_empty()
    }

    /// Begins to hold a message, or goes on.
    fn hold(&mut self, head: &Head) {
        if !self.is_holding() {
            append(&mut self.held, &[0; HEAD_BYTES_MAX]);
            self.held_mask = head.mask;
        }
    }

    /// The message that is held is complete: judges it and lets it go, as one frame.
    fn release(&mut self, emit: &mut Emit<'_>, judge: &mut impl Judge) -> Result<(), Ending> {
        let mut held = std::mem::take(&mut self.held);
        let payload = &mut held[HEAD_BYTES_MAX..];
        judge
            .message(self.kind, payload)
            .map_err(|reason| Ending::by(self.rules.sender, CloseCode::POLICY, reason))?;
        self.held_mask.apply(payload);
        let opcode = if self.kind == Kind::Text { Opcode::Text } else { Opcode::Binary };
        let mask = (self.rules.sender == Sender::Client).then_some(self.held_mask);
        let mut room = [0; HEAD_BYTES_MAX];
        let head = write_head(&mut room, opcode, payload.len(), mask);
        let start = HEAD_BYTES_MAX - head;
        held[start..HEAD_BYTES_MAX].copy_from_slice(&room[..head]);
        emit.insert(&held[start..]);
        Ok(())
    }

    /// The sender broke a bound. Of an upstream all of them are one reason.
    #[cold]
    fn breach(&self, code: CloseCode, reason: &'static Reason) -> Ending {
        match self.rules.sender {
            Sender::Client => Ending::by(Sender::Client, code, reason),
            Sender::Upstream => Ending::by(Sender::Upstream, code, &UPSTREAM_WEBSOCKET_MESSAGE),
        }
    }
}

/// Appends to a buffer that goes on from class to class before the allocator has to help.
fn append(buffer: &mut Buffer, bytes: &[u8]) {
    if !buffer.is_leased() {
        *buffer = Buffer::of(bytes.len());
    }
    while buffer.capacity() - buffer.len() < bytes.len() && buffer.widen() {}
    buffer.extend_from_slice(bytes);
}

/// What goes on: a prefix of the piece as long as that is all there is to say, then a buffer.
struct Emit<'a> {
    piece: &'a [u8],
    prefix: usize,
    out: &'a mut Buffer,
    moved: bool,
    /// Where the frame that is passing began, if in this piece: in the buffer or not, and how far in.
    frame: Option<(bool, usize)>,
}

impl Emit<'_> {
    /// `count` bytes of the piece, from `at`.
    #[inline]
    fn piece(&mut self, at: usize, count: usize) {
        if !self.moved && at == self.prefix {
            self.prefix += count;
        } else {
            self.insert(&self.piece[at..at + count]);
        }
    }

    /// Bytes that are not of the piece, or not next to what has gone on of it.
    fn insert(&mut self, bytes: &[u8]) {
        if !self.moved {
            append(self.out, &self.piece[..self.prefix]);
            self.moved = true;
        }
        append(self.out, bytes);
    }

    /// A frame begins here.
    #[inline]
    fn mark(&mut self) {
        self.frame = Some((self.moved, if self.moved { self.out.len() } else { self.prefix }));
    }

    /// Takes the last frame back, if it began in this piece.
    fn take_back(&mut self) -> bool {
        match self.frame {
            // The buffer was empty at first: what was before it moved there to its front.
            Some((_, start)) if self.moved => self.out.truncate(start),
            Some((_, start)) => self.prefix = start,
            None => return false,
        }
        true
    }
}
