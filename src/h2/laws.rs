//! What must hold for every input: the laws that the fuzz targets run and the tests replay.
//!
//! For: [`crate::fuzzing`] and tests. Not for: the data path. [`frames`] compares the connection with itself, bytes cut
//! differently; [`operations`] has two of them talk, and looks whether everything arrives.

use std::collections::BTreeMap;

use super::connection::{
    Cause, Connection, Decoded, Event, FieldBlocks, Gone, NotOpened, Opening, Role, Section, Undecodable,
};
use super::flaw;
use super::frame::{self, ErrorCode, PREFACE, StreamId};
use super::priority::Priority;
use super::settings::Settings;
use super::streams::StreamKey;

/// Field blocks in plain words, which say what a real one would come to: `status=200 length=5`, `broken`, `malformed`,
/// `inserted=9`, `excess=100`; anything else is ignored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Words {
    /// Every block so far.
    pub blocks: Vec<(Section, StreamId, Vec<u8>)>,
    /// Every size of the encoder's table so far.
    pub tables: Vec<u32>,
}

impl FieldBlocks for Words {
    fn decode(
        &mut self,
        section: Section,
        stream: StreamId,
        _: bool,
        block: &[u8],
    ) -> Result<Decoded, Undecodable> {
        self.blocks.push((section, stream, block.to_vec()));
        let mut decoded = Decoded::default();
        if let Section::Response(_) = section {
            decoded.status = 200;
        }
        for word in block.split(|byte| *byte == b' ') {
            let word = std::str::from_utf8(word).unwrap_or_default();
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            match name {
                "broken" => return Err(Undecodable::Malformed),
                "malformed" => decoded.flaw = Some(flaw::FRAME_ORDER),
                "status" => decoded.status = value.parse().unwrap_or(200).clamp(100, 599),
                "length" => decoded.content_length = value.parse().ok(),
                "inserted" => decoded.inserted_bytes = value.parse().unwrap_or_default(),
                "excess" => decoded.excess_bytes = value.parse().unwrap_or_default(),
                _ => {}
            }
        }
        Ok(decoded)
    }

    fn encoder_table_bytes(&mut self, bytes: u32) {
        self.tables.push(bytes);
    }
}

/// What was seen of a run, with DATA that came in pieces put together.
#[derive(Debug, Default, PartialEq, Eq)]
struct Seen {
    events: Vec<String>,
    data: BTreeMap<u32, Vec<u8>>,
    gone: Option<Gone>,
    words: Words,
    out: Vec<u8>,
}

/// Frames: what happens does not depend on how the bytes were cut, nothing panics, and what is held and said is bounded.
/// The first byte chooses the role and how the connection begins, the second how the bytes are cut.
pub fn frames(data: &[u8]) {
    let [choice, step, bytes @ ..] = data else { return };
    let role = if choice & 1 == 0 { Role::Server } else { Role::Client };
    let mut input = Vec::new();
    if choice & 2 == 0 {
        if role == Role::Server {
            input.extend_from_slice(PREFACE);
        }
        frame::push_settings(&mut input, [(0x4, 100_000)].into_iter());
    }
    input.extend_from_slice(bytes);
    let whole = run(role, &input, usize::MAX, *choice);
    let pieces = run(role, &input, usize::from(*step) + 1, *choice);
    assert_eq!(whole, pieces);
}

fn run(role: Role, input: &[u8], step: usize, choice: u8) -> Seen {
    let settings = Settings { streams_max: 8, ..Settings::DEFAULT };
    let mut seen = Seen::default();
    let mut connection = Connection::new(role, &settings, 1, &mut seen.out);
    if role == Role::Client {
        for number in 0..3 {
            let opening = Opening { end: number == 0, head_request: number == 1 };
            let _ = connection.open(opening, &mut seen.out, |out| out.extend_from_slice(b"request"));
        }
    }
    // What the connection says of itself, without what it was told to send.
    let mut said = 0;
    for piece in input.chunks(step.min(input.len().max(1))) {
        let mut rest = piece;
        loop {
            let before = seen.out.len();
            let (bytes, event) = match connection.receive(rest, 1, &mut seen.words, &mut seen.out) {
                Ok(received) => received,
                Err(gone) => {
                    seen.gone = Some(gone);
                    let again = connection.receive(b"more", 1, &mut seen.words, &mut seen.out);
                    assert_eq!(again, Err(gone), "what is gone stays gone");
                    return seen;
                }
            };
            rest = &rest[bytes..];
            said += seen.out.len() - before;
            if event == Event::Idle {
                assert!(rest.is_empty());
                break;
            }
            act(&mut connection, &event, &mut seen, choice);
        }
        assert!(connection.held() <= settings.connection_window);
        assert!(connection.streams_open() <= settings.streams_max);
    }
    assert!(said <= 100 + 3 * input.len(), "{said} for {}", input.len());
    seen
}

/// What a caller would do, as a function of what happened, but not of how DATA was cut.
fn act(connection: &mut Connection, event: &Event<'_>, seen: &mut Seen, choice: u8) {
    match event {
        Event::Data { stream, bytes, end } => {
            let all = seen.data.entry(stream.id().0).or_default();
            all.extend_from_slice(bytes);
            if *end {
                seen.events.push(format!("{stream:?}: end of {}", all.len()));
                connection.consumed(*stream, all.len(), &mut seen.out);
                let _ = connection.send_trailers(*stream, &mut seen.out, |_| ());
            }
            return;
        }
        Event::Head { stream, end, .. } => match (stream.id().0 / 2 + u32::from(choice >> 2)) % 4 {
            0 => connection.reset(*stream, ErrorCode::CANCEL, &mut seen.out),
            1 => drop(connection.send_head(*stream, true, &mut seen.out, |out| out.extend(b"answer"))),
            2 => {
                let _ = connection.send_head(*stream, false, &mut seen.out, |out| out.extend(b"answer"));
                let _ = connection.send_data(*stream, &[b'.'; 50_000], *end, &mut seen.out);
            }
            _ => {}
        },
        _ => {}
    }
    seen.events.push(format!("{event:?}"));
}

/// Operations on a pair of connections, with the bytes between them cut anywhere: nothing is lost, repeated or out of order, no
/// window is exceeded, neither finds fault with the other, and when both let go nothing remains.
pub fn operations(data: &[u8]) {
    let _ = talk(data);
}

/// What was talked of: streams, those that both ends finished, bytes that arrived.
#[derive(Debug, Default)]
struct Talk {
    streams: usize,
    finished: usize,
    bytes: usize,
}

fn talk(data: &[u8]) -> Option<Talk> {
    let mut pair = Pair::new(data.first().copied().unwrap_or_default());
    for operation in data.get(1..).unwrap_or_default().as_chunks::<3>().0.iter().take(4_000) {
        pair.operate(*operation).ok()?;
    }
    pair.drain()
}

/// A budget of one end is empty: random resets are no good manners.
struct Exhausted;

struct Pair {
    ends: [End; 2],
    now_ms: u64,
}

/// One end, and what it knows of its streams.
struct End {
    connection: Connection,
    words: Words,
    out: Vec<u8>,
    messages: BTreeMap<u32, Message>,
}

/// Both directions of a stream, as one end sees it.
#[derive(Debug)]
struct Message {
    key: StreamKey,
    /// Whether our head was sent.
    head: bool,
    /// Bytes that are to be sent, and that were.
    wanted: usize,
    sent: usize,
    /// Whether nothing will be added, and whether the end was sent.
    complete: bool,
    ended: bool,
    with_trailers: bool,
    /// What came, and what of it is held.
    received: usize,
    held: usize,
    end_received: bool,
    over: bool,
}

const CLIENT: usize = 0;
const SERVER: usize = 1;

/// The byte at a place of a body: differs for each stream and direction.
fn body_byte(id: u32, of_client: bool, at: usize) -> u8 {
    (at as u32).wrapping_mul(31).wrapping_add(id).wrapping_add(u32::from(of_client)) as u8
}

impl End {
    fn new(role: Role, settings: &Settings) -> End {
        let mut out = Vec::new();
        let connection = Connection::new(role, settings, 1, &mut out);
        End { connection, words: Words::default(), out, messages: BTreeMap::new() }
    }

    /// Sends what the windows let, in the order that the connection says.
    fn flush(&mut self, of_client: bool, turns: usize) {
        for _ in 0..turns {
            let Some(key) = self.connection.next_writable() else { return };
            let message = self.messages.get_mut(&key.id().0).expect("it was told of before");
            assert_eq!(message.key, key);
            let id = key.id().0;
            let body: Vec<u8> =
                (message.sent..message.wanted).map(|at| body_byte(id, of_client, at)).collect();
            let last = message.complete && !message.with_trailers;
            assert!(self.connection.sendable(key) > 0 && !body.is_empty());
            let sent = self.connection.send_data(key, &body, last, &mut self.out).expect("it is alive");
            assert!(sent > 0, "its turn came");
            message.sent += sent;
            if message.sent == message.wanted {
                message.ended |= last;
                self.connection.want(key, false);
            }
        }
    }

    /// Wants, or ends, as the message needs.
    fn push(&mut self, id: u32) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        if message.over || message.ended || !message.head {
            return;
        }
        if message.sent < message.wanted {
            self.connection.want(message.key, true);
        } else if message.complete && message.with_trailers {
            let trailers = |out: &mut Vec<u8>| out.extend_from_slice(b"trailers");
            self.connection.send_trailers(message.key, &mut self.out, trailers).expect("it is alive");
            message.ended = true;
        } else if message.complete {
            assert_eq!(self.connection.send_data(message.key, b"", true, &mut self.out), Ok(0));
            message.ended = true;
        }
    }

    fn consume(&mut self, id: u32, bytes: usize) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        let bytes = bytes.min(message.held);
        message.held -= bytes;
        self.connection.consumed(message.key, bytes, &mut self.out);
    }

    fn answer(&mut self, id: u32, kind: u8) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        if message.over || message.head {
            return;
        }
        if kind & 3 == 0 {
            let sent = self.connection.send_informational(message.key, &mut self.out, |out| {
                out.extend_from_slice(b"status=103");
            });
            sent.expect("it is alive");
        }
        // A head so large that it needs CONTINUATION, now and then.
        let filler = if kind & 0x7c == 0x7c { 40_000 } else { 3 };
        let sent = self.connection.send_head(message.key, false, &mut self.out, |out| {
            out.extend_from_slice(b"status=200 ");
            out.resize(out.len() + filler, b'x');
        });
        sent.expect("it is alive");
        message.head = true;
    }

    fn reset(&mut self, id: u32, code: ErrorCode) {
        let Some(message) = self.messages.get_mut(&id) else { return };
        self.connection.reset(message.key, code, &mut self.out);
        message.over = true;
        message.held = 0;
    }

    /// Takes bytes of the other end, and checks them.
    fn receive(&mut self, mut rest: &[u8], now_ms: u64, of_client: bool) -> Result<(), Exhausted> {
        loop {
            let received = self.connection.receive(rest, now_ms, &mut self.words, &mut self.out);
            let (bytes, event) = match received {
                Ok(received) => received,
                Err(gone) => {
                    assert_eq!(gone.code, ErrorCode::ENHANCE_YOUR_CALM, "{}", gone.reason.token);
                    return Err(Exhausted);
                }
            };
            rest = &rest[bytes..];
            match event {
                Event::Idle => return Ok(()),
                Event::Head { stream, end, flaw } => {
                    assert_eq!(flaw, None);
                    let fresh = || Message {
                        key: stream,
                        head: false,
                        wanted: 0,
                        sent: 0,
                        complete: false,
                        ended: false,
                        with_trailers: false,
                        received: 0,
                        held: 0,
                        end_received: false,
                        over: false,
                    };
                    let message = self.messages.entry(stream.id().0).or_insert_with(fresh);
                    assert_eq!(message.key, stream);
                    message.end_received = end;
                }
                Event::Data { stream, bytes, end } => {
                    let message = self.messages.get_mut(&stream.id().0).expect("a head came first");
                    assert!(!message.over && !message.end_received);
                    for byte in bytes {
                        assert_eq!(*byte, body_byte(stream.id().0, !of_client, message.received));
                        message.received += 1;
                    }
                    message.held += bytes.len();
                    message.end_received = end;
                }
                Event::Trailers { stream } => {
                    let message = self.messages.get_mut(&stream.id().0).expect("a head came first");
                    assert!(!message.over && !message.end_received);
                    message.end_received = true;
                }
                Event::Reset { stream, cause, .. } => {
                    assert!(matches!(cause, Cause::Peer | Cause::Unprocessed), "{cause:?}");
                    let message = self.messages.get_mut(&stream.id().0).expect("a head came first");
                    message.over = true;
                    // What came whole may be used still.
                    if !message.end_received {
                        message.held = 0;
                    }
                }
                Event::Informational { .. } | Event::Settings | Event::GoAway { .. } | Event::Pong { .. } => {
                }
            }
        }
    }
}

impl Pair {
    fn new(choice: u8) -> Pair {
        let small = Settings { streams_max: 5, connection_window: 70_000, ..Settings::DEFAULT };
        let settings = if choice & 1 == 0 { small } else { Settings::DEFAULT };
        let ends = [End::new(Role::Client, &Settings::DEFAULT), End::new(Role::Server, &settings)];
        Pair { ends, now_ms: 1 }
    }

    fn operate(&mut self, [operation, which, count]: [u8; 3]) -> Result<(), Exhausted> {
        let side = usize::from(which & 1);
        let amount = usize::from(count) * usize::from(count);
        let end = &mut self.ends[side];
        let ids: Vec<u32> = end.messages.iter().filter(|(_, m)| !m.over).map(|(id, _)| *id).collect();
        let id = ids.get(usize::from(which >> 1) % ids.len().max(1)).copied().unwrap_or_default();
        match operation % 12 {
            0 => self.open(count),
            1 if side == SERVER => end.answer(id, count),
            1..=3 => {
                if let Some(message) = end.messages.get_mut(&id).filter(|message| !message.complete) {
                    message.wanted += amount;
                    message.complete = operation % 12 == 3;
                    message.with_trailers = count & 1 == 1;
                }
                end.push(id);
            }
            4 => end.flush(side == CLIENT, usize::from(count % 8)),
            5 | 6 => self.carry(side, amount)?,
            7 => end.consume(id, amount),
            8 if count & 7 == 0 => end.reset(id, ErrorCode::CANCEL),
            8 => {}
            9 => end.connection.keep_alive(1_000_000, self.now_ms, &mut end.out),
            10 => {
                if let Some(message) = end.messages.get(&id) {
                    let priority = Priority { urgency: count & 7, incremental: count & 8 != 0 };
                    end.connection.prioritise(message.key, priority);
                }
            }
            _ if which == 0xff && count == 0xff => end.connection.shutdown(self.now_ms, &mut end.out),
            _ => self.now_ms += u64::from(count),
        }
        Ok(())
    }

    fn open(&mut self, kind: u8) {
        let client = &mut self.ends[CLIENT];
        let opening = Opening { end: kind & 1 == 1, head_request: false };
        let opened =
            client.connection.open(opening, &mut client.out, |out| out.extend_from_slice(b"request"));
        let key = match opened {
            Ok(key) => key,
            Err(NotOpened::Full | NotOpened::Over) => return,
        };
        let message = Message {
            key,
            head: true,
            wanted: 0,
            sent: 0,
            complete: opening.end,
            ended: opening.end,
            with_trailers: false,
            received: 0,
            held: 0,
            end_received: false,
            over: false,
        };
        assert!(client.messages.insert(key.id().0, message).is_none());
    }

    /// Bytes on their way from one end arrive at the other.
    fn carry(&mut self, from: usize, bytes: usize) -> Result<(), Exhausted> {
        let bytes = bytes.min(self.ends[from].out.len());
        let carried: Vec<u8> = self.ends[from].out.drain(..bytes).collect();
        let to = 1 - from;
        self.ends[to].receive(&carried, self.now_ms, to == CLIENT)?;
        let window = if to == SERVER { 1 << 20 } else { Settings::DEFAULT.connection_window };
        assert!(self.ends[to].connection.held() <= window);
        Ok(())
    }

    /// Both ends finish what was begun, and let go of everything.
    fn drain(mut self) -> Option<Talk> {
        for _ in 0..10_000 {
            let mut busy = false;
            for side in [CLIENT, SERVER] {
                let end = &mut self.ends[side];
                let ids: Vec<u32> = end.messages.keys().copied().collect();
                for id in ids {
                    if side == SERVER {
                        end.answer(id, 1);
                    }
                    end.consume(id, usize::MAX);
                    if let Some(message) = end.messages.get_mut(&id) {
                        message.complete = true;
                    }
                    end.push(id);
                }
                end.flush(side == CLIENT, usize::MAX);
                let bytes = end.out.len();
                busy |= bytes != 0;
                self.carry(side, bytes).ok()?;
            }
            if !busy {
                return Some(self.check());
            }
        }
        panic!("it does not come to an end");
    }

    fn check(&self) -> Talk {
        for (side, end) in self.ends.iter().enumerate() {
            assert_eq!(end.connection.streams_open(), 0, "end {side}: {:#?}", end.messages);
            assert_eq!(end.connection.held(), 0, "end {side}");
        }
        let [client, server] = &self.ends;
        let mut talk = Talk::default();
        for (id, ours) in &client.messages {
            talk.streams += 1;
            let Some(theirs) = server.messages.get(id) else {
                assert!(ours.over, "stream {id} never arrived");
                continue;
            };
            talk.bytes += ours.received + theirs.received;
            if ours.over || theirs.over {
                assert!(ours.received <= theirs.sent && theirs.received <= ours.sent);
                continue;
            }
            assert_eq!((ours.wanted, ours.sent, theirs.received), (ours.sent, ours.wanted, ours.sent));
            assert_eq!(
                (theirs.wanted, theirs.sent, ours.received),
                (theirs.sent, theirs.wanted, theirs.sent)
            );
            assert!(ours.ended && theirs.ended && ours.end_received && theirs.end_received);
            talk.finished += 1;
        }
        talk
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of no particular kind, the same each time.
    fn noise(seed: u64, length: usize) -> Vec<u8> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 24) as u8
        };
        (0..length).map(|_| next()).collect()
    }

    #[test]
    fn operations_at_random() {
        let mut sum = Talk::default();
        for seed in 0..200 {
            let talk = talk(&noise(seed, 1 + 3 * (seed as usize * 7 % 1_500))).unwrap_or_default();
            sum.streams += talk.streams;
            sum.finished += talk.finished;
            sum.bytes += talk.bytes;
        }
        assert!(sum.streams > 2_000 && sum.finished > 1_000 && sum.bytes > 10_000_000, "{sum:?}");
    }

    #[test]
    fn frames_at_random() {
        // Frames whose heads make sense, with payloads that do not.
        for seed in 0..3_000_u64 {
            let noise = noise(seed, 600);
            let mut data = vec![noise[0] & 0xfd, noise[1]];
            let mut rest = &noise[2..];
            while let [kind, flags, stream, length, more @ ..] = rest {
                let kind = frame::Kind::of(kind % 12);
                let length = match kind {
                    frame::Kind::Reset | frame::Kind::WindowUpdate => 4,
                    frame::Kind::Ping => 8,
                    frame::Kind::Settings if flags & 1 == 1 => 0,
                    frame::Kind::Settings => 6,
                    _ => usize::from(length % 40),
                };
                let stream = match kind {
                    frame::Kind::Settings | frame::Kind::Ping | frame::Kind::GoAway => 0,
                    _ => u32::from(stream % 14),
                };
                let payload = &more[..length.min(more.len())];
                frame::push_head(&mut data, payload.len(), kind, *flags, StreamId(stream));
                data.extend_from_slice(payload);
                rest = &more[payload.len()..];
            }
            frames(&data);
        }
    }
}
