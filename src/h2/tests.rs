//! The requirements of RFC 9113 §3–§8 that the core can break, by section; the budgets; flow control; both ends of an end.

use super::budget::{ALL, Budget};
use super::connection::{
    CONTINUATIONS_MAX, Cause, Connection, DATA_BYTES_MAX, Event, Gone, NotOpened, Opening, Role,
    SETTINGS_IN_FRAME_MAX, Section, StreamGone,
};
use super::flaw::{self, Flaw};
use super::frame::{
    self, ACK, END_HEADERS, END_STREAM, ErrorCode, FRAME_HEAD_BYTES, FrameHead, Kind, PADDED, PREFACE,
    PRIORITY, StreamId,
};
use super::laws::Words;
use super::priority::Priority;
use super::settings::Settings;
use super::streams::StreamKey;
use crate::pipeline::fail::CLIENT_HEAD_TIMEOUT;

// Frames, by hand.

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    out.extend([kind, flags]);
    out.extend(stream.to_be_bytes());
    out.extend(payload);
    out
}

fn data(stream: u32, flags: u8, payload: &[u8]) -> Vec<u8> {
    frame(0, flags, stream, payload)
}

fn headers(stream: u32, flags: u8, block: &str) -> Vec<u8> {
    frame(1, flags, stream, block.as_bytes())
}

/// A request without a body.
fn get(stream: u32) -> Vec<u8> {
    headers(stream, END_HEADERS | END_STREAM, "GET")
}

/// A request whose body follows.
fn post(stream: u32) -> Vec<u8> {
    headers(stream, END_HEADERS, "POST")
}

fn reset(stream: u32, code: ErrorCode) -> Vec<u8> {
    frame(3, 0, stream, &code.0.to_be_bytes())
}

fn settings(settings: &[(u16, u32)]) -> Vec<u8> {
    let mut payload = Vec::new();
    for (name, value) in settings {
        payload.extend(name.to_be_bytes());
        payload.extend(value.to_be_bytes());
    }
    frame(4, 0, 0, &payload)
}

fn ping(payload: &[u8; 8]) -> Vec<u8> {
    frame(6, 0, 0, payload)
}

fn goaway(last: u32, code: ErrorCode) -> Vec<u8> {
    frame(7, 0, 0, &[last.to_be_bytes(), code.0.to_be_bytes()].concat())
}

fn window(stream: u32, increment: u32) -> Vec<u8> {
    frame(8, 0, stream, &increment.to_be_bytes())
}

fn continuation(stream: u32, flags: u8, block: &str) -> Vec<u8> {
    frame(9, flags, stream, block.as_bytes())
}

/// A frame that we wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Written {
    kind: Kind,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

impl Written {
    fn number(&self) -> u32 {
        frame::number(&self.payload).unwrap()
    }
}

fn written(mut bytes: &[u8]) -> Vec<Written> {
    let mut frames = Vec::new();
    if let Some(rest) = bytes.strip_prefix(PREFACE) {
        bytes = rest;
    }
    while let Some(head) = bytes.first_chunk::<FRAME_HEAD_BYTES>() {
        let FrameHead { length, kind, flags, stream } = FrameHead::parse(head);
        let payload = bytes[9..9 + length as usize].to_vec();
        bytes = &bytes[9 + length as usize..];
        frames.push(Written { kind, flags, stream: stream.0, payload });
    }
    assert!(bytes.is_empty());
    frames
}

/// An event without borrowed bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Saw {
    Settings,
    Head(StreamKey, bool, bool),
    Informational(StreamKey),
    Data(StreamKey, Vec<u8>, bool),
    Trailers(StreamKey),
    Reset(StreamKey, ErrorCode, Cause),
    GoAway(u32, ErrorCode),
    Pong(u64),
}

/// One end under test.
struct Tested {
    connection: Connection,
    words: Words,
    out: Vec<u8>,
    now_ms: u64,
}

impl Tested {
    /// What comes first in either direction is over, and our settings are acknowledged.
    fn new(role: Role) -> Tested {
        Tested::with(role, &Settings::DEFAULT, &[])
    }

    fn with(role: Role, ours: &Settings, theirs: &[(u16, u32)]) -> Tested {
        let mut tested = Tested::fresh(role, ours);
        if role == Role::Server {
            assert_eq!(tested.feed(PREFACE), Ok(vec![]));
        }
        assert_eq!(tested.feed(&settings(theirs)), Ok(vec![Saw::Settings]));
        assert_eq!(tested.feed(&frame(4, ACK, 0, b"")), Ok(vec![]));
        tested.out.clear();
        tested
    }

    fn fresh(role: Role, ours: &Settings) -> Tested {
        let mut out = Vec::new();
        let connection = Connection::new(role, ours, 1_000, &mut out);
        Tested { connection, words: Words::default(), out, now_ms: 1_000 }
    }

    fn feed(&mut self, mut bytes: &[u8]) -> Result<Vec<Saw>, Gone> {
        let mut saw = Vec::new();
        loop {
            let (taken, event) =
                self.connection.receive(bytes, self.now_ms, &mut self.words, &mut self.out)?;
            bytes = &bytes[taken..];
            saw.push(match event {
                Event::Idle => return Ok(saw),
                Event::Settings => Saw::Settings,
                Event::Head { stream, end, flaw } => Saw::Head(stream, end, flaw.is_some()),
                Event::Informational { stream } => Saw::Informational(stream),
                Event::Data { stream, bytes, end } => Saw::Data(stream, bytes.to_vec(), end),
                Event::Trailers { stream } => Saw::Trailers(stream),
                Event::Reset { stream, code, cause } => Saw::Reset(stream, code, cause),
                Event::GoAway { last, code } => Saw::GoAway(last.0, code),
                Event::Pong { round_trip_ms } => Saw::Pong(round_trip_ms),
            });
        }
    }

    /// What was written since it was last asked.
    fn wrote(&mut self) -> Vec<Written> {
        let frames = written(&self.out);
        self.out.clear();
        frames
    }

    /// Server: a stream that the client opened.
    fn opened(&mut self, frames: &[u8]) -> StreamKey {
        match self.feed(frames).unwrap()[..] {
            [Saw::Head(stream, _, false)] => stream,
            ref saw => panic!("{saw:?}"),
        }
    }

    /// Client: a stream that we opened.
    fn open(&mut self, end: bool, head_request: bool) -> StreamKey {
        let opening = Opening { end, head_request };
        self.connection.open(opening, &mut self.out, |out| out.extend_from_slice(b"request")).unwrap()
    }

    fn answer(&mut self, stream: StreamKey, end: bool) -> Result<(), StreamGone> {
        self.connection.send_head(stream, end, &mut self.out, |out| out.extend_from_slice(b"status=200"))
    }
}

/// What a sequence of frames comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comes {
    /// GOAWAY with this code.
    Connection(ErrorCode),
    /// RST_STREAM with this code.
    Stream(u32, ErrorCode),
    /// Nothing is wrong.
    Fine,
}

const PROTOCOL: ErrorCode = ErrorCode::PROTOCOL_ERROR;
const SIZE: ErrorCode = ErrorCode::FRAME_SIZE_ERROR;
const FLOW: ErrorCode = ErrorCode::FLOW_CONTROL_ERROR;
const CLOSED: ErrorCode = ErrorCode::STREAM_CLOSED;
const HEADERS_END: u8 = END_HEADERS | END_STREAM;

fn come_to(tested: &mut Tested, frames: &[u8]) -> Comes {
    let result = tested.feed(frames);
    let wrote = tested.wrote();
    let goaway = wrote.iter().find(|frame| frame.kind == Kind::GoAway);
    let reset = wrote.iter().find(|frame| frame.kind == Kind::Reset);
    match (result, goaway, reset) {
        (Err(gone), Some(goaway), _) => {
            let code = ErrorCode(frame::number(&goaway.payload[4..]).unwrap());
            assert_eq!(code, gone.code);
            assert_eq!(&goaway.payload[8..], gone.reason.token.as_bytes());
            assert_eq!(wrote.last(), Some(goaway), "nothing follows a GOAWAY for a fault");
            Comes::Connection(code)
        }
        (Ok(saw), None, Some(reset)) => {
            let told = saw.iter().any(|saw| {
                matches!(saw, Saw::Reset(key, code, Cause::Fault(_)) if key.id().0 == reset.stream && code.0 == reset.number())
            });
            assert!(told || reset.number() == ErrorCode::REFUSED_STREAM.0, "{saw:?}");
            Comes::Stream(reset.stream, ErrorCode(reset.number()))
        }
        (Ok(_), None, None) => Comes::Fine,
        other => panic!("{other:?}"),
    }
}

/// A server is sent these frames, after the connection has begun.
#[test]
fn what_a_client_may_and_may_not_send() {
    use Comes::{Connection, Fine, Stream};
    let big = vec![b'x'; 16_384];
    let bigger = vec![b'x'; 16_385];
    let cases: Vec<(&str, Vec<u8>, Comes)> = vec![
        // §4: frames.
        ("4.1 unknown kinds are ignored", frame(0xfa, 0xff, 77, b"anything"), Fine),
        ("4.1 flags without a meaning are ignored", frame(6, 0xfe, 0, &[1; 8]), Fine),
        ("4.1 the reserved bit is ignored", headers(0x8000_0001, HEADERS_END, "GET"), Fine),
        ("4.2 16,384 bytes are taken", [post(1), data(1, 0, &big)].concat(), Fine),
        ("4.2 DATA beyond", [post(1), data(1, 0, &bigger)].concat(), Connection(SIZE)),
        ("4.2 HEADERS beyond", frame(1, HEADERS_END, 1, &bigger), Connection(SIZE)),
        ("4.2 unknown beyond", frame(0xfa, 0, 0, &bigger), Connection(SIZE)),
        (
            "4.3 a block that cannot be decoded",
            headers(1, HEADERS_END, "broken"),
            Connection(ErrorCode::COMPRESSION_ERROR),
        ),
        (
            "4.3 nor one in pieces",
            [headers(1, END_STREAM, "bro"), continuation(1, END_HEADERS, "ken")].concat(),
            Connection(ErrorCode::COMPRESSION_ERROR),
        ),
        (
            "4.3 trailers neither",
            [post(1), headers(1, HEADERS_END, "broken")].concat(),
            Connection(ErrorCode::COMPRESSION_ERROR),
        ),
        (
            "4.3 nor one of no use",
            [get(1), headers(1, HEADERS_END, "broken")].concat(),
            Connection(ErrorCode::COMPRESSION_ERROR),
        ),
        // §5.1: states.
        ("5.1 idle: DATA", data(1, 0, b"x"), Connection(PROTOCOL)),
        ("5.1 idle: RST_STREAM", reset(1, PROTOCOL), Connection(PROTOCOL)),
        ("5.1 idle: WINDOW_UPDATE", window(1, 1), Connection(PROTOCOL)),
        ("5.1 idle: CONTINUATION", continuation(1, END_HEADERS, "x"), Connection(PROTOCOL)),
        ("5.1 idle: PRIORITY", frame(2, 0, 1, &[0, 0, 0, 3, 9]), Fine),
        ("5.1 idle, even: DATA", data(2, 0, b"x"), Connection(PROTOCOL)),
        ("5.1 idle, even: WINDOW_UPDATE", window(2, 1), Connection(PROTOCOL)),
        ("5.1 half-closed: DATA", [get(1), data(1, 0, b"x")].concat(), Stream(1, CLOSED)),
        ("5.1 half-closed: HEADERS", [get(1), get(1)].concat(), Stream(1, CLOSED)),
        (
            "5.1 half-closed: CONTINUATION",
            [get(1), continuation(1, END_HEADERS, "x")].concat(),
            Connection(PROTOCOL),
        ),
        ("5.1 half-closed: WINDOW_UPDATE", [get(1), window(1, 1)].concat(), Fine),
        ("5.1 half-closed: PRIORITY", [get(1), frame(2, 0, 1, &[0; 5])].concat(), Fine),
        ("5.1 half-closed: RST_STREAM", [get(1), reset(1, ErrorCode::CANCEL)].concat(), Fine),
        (
            "5.1 half-closed by DATA: DATA",
            [post(1), data(1, END_STREAM, b""), data(1, 0, b"x")].concat(),
            Stream(1, CLOSED),
        ),
        (
            "5.1 reset: DATA",
            [post(1), reset(1, ErrorCode::CANCEL), data(1, 0, b"x")].concat(),
            Connection(CLOSED),
        ),
        ("5.1 reset: HEADERS", [post(1), reset(1, ErrorCode::CANCEL), get(1)].concat(), Connection(CLOSED)),
        ("5.1 reset: WINDOW_UPDATE", [post(1), reset(1, ErrorCode::CANCEL), window(1, 1)].concat(), Fine),
        (
            "5.1 reset: RST_STREAM",
            [post(1), reset(1, ErrorCode::CANCEL), reset(1, ErrorCode::CANCEL)].concat(),
            Fine,
        ),
        (
            "5.1 reset: PRIORITY",
            [post(1), reset(1, ErrorCode::CANCEL), frame(2, 0, 1, &[0; 5])].concat(),
            Fine,
        ),
        ("5.1.1 even numbers", get(2), Connection(PROTOCOL)),
        ("5.1.1 lower numbers", [get(5), get(3)].concat(), Connection(PROTOCOL)),
        ("5.1.1 numbers may be left out", [get(5), get(9)].concat(), Fine),
        ("5.1.1 WINDOW_UPDATE for one left out", [get(5), window(3, 1)].concat(), Fine),
        (
            "5.3.2 a stream that depends on itself",
            frame(1, HEADERS_END | PRIORITY, 1, b"\x00\x00\x00\x01\x09GET"),
            Fine,
        ),
        (
            "5.5 unknown kinds in a block",
            [headers(1, 0, "G"), frame(0xfa, 0, 0, b"")].concat(),
            Connection(PROTOCOL),
        ),
        ("5.5 unknown settings", settings(&[(0xfafa, 1)]), Fine),
        // §6.1: DATA.
        ("6.1 on the connection", data(0, 0, b"x"), Connection(PROTOCOL)),
        ("6.1 padding", [post(1), data(1, PADDED, b"\x02hello\0\0")].concat(), Fine),
        ("6.1 nothing but padding", [post(1), data(1, PADDED, b"\x02\0\0")].concat(), Fine),
        (
            "6.1 padding as long as the payload",
            [post(1), data(1, PADDED, b"\x03\0\0")].concat(),
            Connection(PROTOCOL),
        ),
        (
            "6.1 padding beyond the payload",
            [post(1), data(1, PADDED, b"\xff\0\0")].concat(),
            Connection(PROTOCOL),
        ),
        ("6.1 no room for the padding's length", [post(1), data(1, PADDED, b"")].concat(), Connection(SIZE)),
        // §6.2: HEADERS.
        ("6.2 on the connection", headers(0, HEADERS_END, "GET"), Connection(PROTOCOL)),
        ("6.2 padding", frame(1, HEADERS_END | PADDED, 1, b"\x02GET\0\0"), Fine),
        (
            "6.2 padding beyond the payload",
            frame(1, HEADERS_END | PADDED, 1, b"\x06GET\0\0"),
            Connection(PROTOCOL),
        ),
        ("6.2 no room for the padding's length", frame(1, HEADERS_END | PADDED, 1, b""), Connection(SIZE)),
        (
            "6.2 padding over the priority",
            frame(1, HEADERS_END | PADDED | PRIORITY, 1, b"\x01\0\0\0\0\0"),
            Connection(SIZE),
        ),
        ("6.2 no room for the priority", frame(1, HEADERS_END | PRIORITY, 1, b"\0\0\0\0"), Connection(SIZE)),
        ("6.2 DATA in a block", [headers(1, 0, "G"), data(1, 0, b"x")].concat(), Connection(PROTOCOL)),
        ("6.2 HEADERS in a block", [headers(1, 0, "G"), headers(3, 0, "G")].concat(), Connection(PROTOCOL)),
        ("6.2 PING in a block", [headers(1, 0, "G"), ping(&[0; 8])].concat(), Connection(PROTOCOL)),
        ("6.2 SETTINGS in a block", [headers(1, 0, "G"), settings(&[])].concat(), Connection(PROTOCOL)),
        // §6.3: PRIORITY.
        ("6.3 on the connection", frame(2, 0, 0, &[0; 5]), Connection(PROTOCOL)),
        ("6.3 four bytes", [post(1), frame(2, 0, 1, &[0; 4])].concat(), Stream(1, SIZE)),
        ("6.3 six bytes, no stream to end", frame(2, 0, 1, &[0; 6]), Connection(SIZE)),
        // §6.4: RST_STREAM.
        ("6.4 on the connection", reset(0, PROTOCOL), Connection(PROTOCOL)),
        ("6.4 three bytes", [post(1), frame(3, 0, 1, &[0; 3])].concat(), Connection(SIZE)),
        ("6.4 an unknown code", [post(1), reset(1, ErrorCode(0xdead_beef))].concat(), Fine),
        // §6.5: SETTINGS.
        ("6.5 on a stream", frame(4, 0, 1, b""), Connection(PROTOCOL)),
        ("6.5 acknowledgement with settings", frame(4, ACK, 0, &[0, 1, 0, 0, 0, 0]), Connection(SIZE)),
        ("6.5 five bytes", frame(4, 0, 0, &[0; 5]), Connection(SIZE)),
        ("6.5.2 ENABLE_PUSH", settings(&[(2, 2)]), Connection(PROTOCOL)),
        ("6.5.2 INITIAL_WINDOW_SIZE", settings(&[(4, 0x8000_0000)]), Connection(FLOW)),
        ("6.5.2 MAX_FRAME_SIZE below", settings(&[(5, 16_383)]), Connection(PROTOCOL)),
        ("6.5.2 MAX_FRAME_SIZE above", settings(&[(5, 16_777_216)]), Connection(PROTOCOL)),
        ("6.5.3 one after another", settings(&[(4, 0), (4, 1), (4, 0x7fff_ffff)]), Fine),
        // §6.6: PUSH_PROMISE.
        ("6.6 from a client", frame(5, END_HEADERS, 1, b"\0\0\0\x02GET"), Connection(PROTOCOL)),
        // §6.7: PING.
        ("6.7 on a stream", frame(6, 0, 1, &[0; 8]), Connection(PROTOCOL)),
        ("6.7 seven bytes", frame(6, 0, 0, &[0; 7]), Connection(SIZE)),
        ("6.7 nine bytes", frame(6, 0, 0, &[0; 9]), Connection(SIZE)),
        ("6.7 an answer to nothing", frame(6, ACK, 0, &[0; 8]), Fine),
        // §6.8: GOAWAY.
        ("6.8 on a stream", frame(7, 0, 1, &[0; 8]), Connection(PROTOCOL)),
        ("6.8 seven bytes", frame(7, 0, 0, &[0; 7]), Connection(SIZE)),
        ("6.8 twice", [goaway(8, PROTOCOL), goaway(6, PROTOCOL)].concat(), Fine),
        (
            "6.8 the last stream grows",
            [goaway(6, PROTOCOL), goaway(8, PROTOCOL)].concat(),
            Connection(PROTOCOL),
        ),
        ("6.8 requests go on behind it", [goaway(0, ErrorCode::NO_ERROR), get(1)].concat(), Fine),
        // §6.9: WINDOW_UPDATE.
        ("6.9 three bytes", frame(8, 0, 0, &[0; 3]), Connection(SIZE)),
        ("6.9 nothing, on the connection", window(0, 0), Connection(PROTOCOL)),
        ("6.9 nothing, on a stream", [get(1), window(1, 0)].concat(), Stream(1, PROTOCOL)),
        ("6.9 the reserved bit is ignored", window(0, 0x8000_0001), Fine),
        ("6.9.1 as large as it may be", window(0, 0x7fff_ffff - 65_535), Fine),
        ("6.9.1 beyond, on the connection", window(0, 0x7fff_ffff - 65_534), Connection(FLOW)),
        ("6.9.1 beyond, on a stream", [get(1), window(1, 0x7fff_ffff)].concat(), Stream(1, FLOW)),
        (
            "6.9.2 beyond, by a setting",
            [get(1), window(1, 10), settings(&[(4, 0x7fff_ffff)])].concat(),
            Connection(FLOW),
        ),
        // §6.10: CONTINUATION.
        (
            "6.10 on the connection",
            [headers(1, 0, "G"), continuation(0, END_HEADERS, "x")].concat(),
            Connection(PROTOCOL),
        ),
        (
            "6.10 on another stream",
            [headers(1, 0, "G"), continuation(3, END_HEADERS, "x")].concat(),
            Connection(PROTOCOL),
        ),
        (
            "6.10 in pieces",
            [headers(1, END_STREAM, "G"), continuation(1, 0, "E"), continuation(1, END_HEADERS, "T")]
                .concat(),
            Fine,
        ),
        ("6.10 without HEADERS", [get(1), continuation(1, END_HEADERS, "x")].concat(), Connection(PROTOCOL)),
        (
            "6.10 behind its end",
            [headers(1, 0, "G"), continuation(1, END_HEADERS, "x"), continuation(1, END_HEADERS, "x")]
                .concat(),
            Connection(PROTOCOL),
        ),
        (
            "6.10 DATA in between",
            [headers(1, 0, "G"), continuation(1, 0, "x"), data(1, 0, b"x")].concat(),
            Connection(PROTOCOL),
        ),
        // §8.1: messages.
        ("8.1 trailers", [post(1), data(1, 0, b"hello"), headers(1, HEADERS_END, "x")].concat(), Fine),
        ("8.1 trailers without a body", [post(1), headers(1, HEADERS_END, "x")].concat(), Fine),
        (
            "8.1 trailers that do not end the stream",
            [post(1), headers(1, END_HEADERS, "x")].concat(),
            Stream(1, PROTOCOL),
        ),
        (
            "8.1 malformed trailers",
            [post(1), headers(1, HEADERS_END, "malformed")].concat(),
            Stream(1, PROTOCOL),
        ),
        (
            "8.1.1 as long as it says",
            [headers(1, END_HEADERS, "length=5"), data(1, 0, b"he"), data(1, END_STREAM, b"llo")].concat(),
            Fine,
        ),
        (
            "8.1.1 as long, the end apart",
            [headers(1, END_HEADERS, "length=5"), data(1, 0, b"hello"), data(1, END_STREAM, b"")].concat(),
            Fine,
        ),
        (
            "8.1.1 as long, padded",
            [headers(1, END_HEADERS, "length=5"), data(1, END_STREAM | PADDED, b"\x02hello\0\0")].concat(),
            Fine,
        ),
        (
            "8.1.1 as long, then trailers",
            [headers(1, END_HEADERS, "length=5"), data(1, 0, b"hello"), headers(1, HEADERS_END, "x")]
                .concat(),
            Fine,
        ),
        (
            "8.1.1 shorter",
            [headers(1, END_HEADERS, "length=5"), data(1, END_STREAM, b"hell")].concat(),
            Stream(1, PROTOCOL),
        ),
        (
            "8.1.1 longer",
            [headers(1, END_HEADERS, "length=5"), data(1, 0, b"hello!")].concat(),
            Stream(1, PROTOCOL),
        ),
        (
            "8.1.1 longer at last",
            [headers(1, END_HEADERS, "length=5"), data(1, 0, b"hello"), data(1, END_STREAM, b"!")].concat(),
            Stream(1, PROTOCOL),
        ),
        (
            "8.1.1 shorter, then trailers",
            [headers(1, END_HEADERS, "length=5"), data(1, 0, b"hell"), headers(1, HEADERS_END, "x")].concat(),
            Stream(1, PROTOCOL),
        ),
        // RFC 9218.
        ("9218 7.1 PRIORITY_UPDATE", frame(0x10, 0, 0, b"\0\0\0\x01u=1"), Fine),
        (
            "9218 7.1 on a stream",
            [get(1), frame(0x10, 0, 1, b"\0\0\0\x01u=1")].concat(),
            Connection(PROTOCOL),
        ),
        ("9218 7.1 of the connection", frame(0x10, 0, 0, b"\0\0\0\0u=1"), Connection(PROTOCOL)),
        (
            "9218 7.1 of a push that was not promised",
            frame(0x10, 0, 0, b"\0\0\0\x02u=1"),
            Connection(PROTOCOL),
        ),
        ("9218 7.1 three bytes", frame(0x10, 0, 0, b"\0\0\0"), Connection(SIZE)),
        ("9218 7.1 a value that is none", frame(0x10, 0, 0, b"\0\0\0\x01\xff\xff"), Fine),
    ];
    for (name, frames, expected) in &cases {
        assert_eq!(come_to(&mut Tested::new(Role::Server), frames), *expected, "{name}");
        // However it was cut.
        for step in [1, 2, 7, 10] {
            let mut tested = Tested::new(Role::Server);
            let mut comes = Fine;
            for piece in frames.chunks(step) {
                comes = come_to(&mut tested, piece);
                if comes != Fine {
                    break;
                }
            }
            assert_eq!(comes, *expected, "{name}, by {step}");
        }
    }
    assert!(cases.len() > 100);
}

/// A client that sent a GET (1), a POST whose body goes on (3) and a HEAD (5) is sent these frames.
#[test]
fn what_a_server_may_and_may_not_send() {
    use Comes::{Connection, Fine, Stream};
    let cases: Vec<(&str, Vec<u8>, Comes)> = vec![
        ("5.1 DATA before the head", data(1, 0, b"x"), Stream(1, PROTOCOL)),
        ("5.1 DATA behind the end", [get(3), data(3, 0, b"x")].concat(), Stream(3, CLOSED)),
        ("5.1 DATA behind the end of both", [get(1), data(1, 0, b"x")].concat(), Connection(CLOSED)),
        ("5.1 HEADERS behind the end of both", [get(1), get(1)].concat(), Connection(CLOSED)),
        ("5.1 WINDOW_UPDATE behind the end of both", [get(1), window(1, 1)].concat(), Fine),
        ("5.1 a stream that was never opened: HEADERS", get(7), Connection(PROTOCOL)),
        ("5.1 a stream that was never opened: DATA", data(7, 0, b"x"), Connection(PROTOCOL)),
        ("5.1 a stream that was never opened: RST_STREAM", reset(7, PROTOCOL), Connection(PROTOCOL)),
        ("5.1.1 a stream of the server's", get(2), Connection(PROTOCOL)),
        ("6.5.2 a server pushes not", settings(&[(2, 1)]), Connection(PROTOCOL)),
        ("6.6 PUSH_PROMISE, as we said no", frame(5, END_HEADERS, 1, b"\0\0\0\x02GET"), Connection(PROTOCOL)),
        (
            "8.1 informational heads",
            [headers(1, END_HEADERS, "status=103"), headers(1, END_HEADERS, "status=100"), get(1)].concat(),
            Fine,
        ),
        ("8.1 an informational head that ends", headers(1, HEADERS_END, "status=103"), Stream(1, PROTOCOL)),
        (
            "8.1 DATA behind an informational head",
            [headers(1, END_HEADERS, "status=103"), data(1, 0, b"x")].concat(),
            Stream(1, PROTOCOL),
        ),
        (
            "8.1 two final heads",
            [headers(1, END_HEADERS, "status=200"), headers(1, END_HEADERS, "status=200")].concat(),
            Stream(1, PROTOCOL),
        ),
        ("8.1 a response before the request is over", headers(3, HEADERS_END, "status=413"), Fine),
        ("8.1.1 malformed", headers(1, HEADERS_END, "malformed"), Stream(1, PROTOCOL)),
        ("8.1.1 nothing of what was promised", headers(1, HEADERS_END, "length=5"), Stream(1, PROTOCOL)),
        ("8.1.1 HEAD promises nothing", headers(5, HEADERS_END, "length=5"), Fine),
        (
            "8.1.1 HEAD brings nothing",
            [headers(5, END_HEADERS, "length=5"), data(5, 0, b"hello")].concat(),
            Stream(5, PROTOCOL),
        ),
        (
            "8.1.1 HEAD ends apart",
            [headers(5, END_HEADERS, "length=5"), data(5, END_STREAM, b"")].concat(),
            Fine,
        ),
        ("8.1.1 304 promises nothing", headers(1, HEADERS_END, "status=304 length=5"), Fine),
        (
            "8.1.1 204 brings nothing",
            [headers(1, END_HEADERS, "status=204"), data(1, END_STREAM, b"x")].concat(),
            Stream(1, PROTOCOL),
        ),
        ("9218 7.1 PRIORITY_UPDATE", frame(0x10, 0, 0, b"\0\0\0\x01u=1"), Connection(PROTOCOL)),
    ];
    for (name, frames, expected) in cases {
        let mut tested = Tested::new(Role::Client);
        for (end, head) in [(true, false), (false, false), (true, true)] {
            tested.open(end, head);
        }
        tested.out.clear();
        assert_eq!(come_to(&mut tested, &frames), expected, "{name}");
    }
}

#[test]
fn section_3_4_the_preface() {
    let mut tested = Tested::fresh(Role::Server, &Settings::DEFAULT);
    assert_eq!(tested.feed(b"GET / HTTP/1.1\r\n").unwrap_err().reason, flaw::PREFACE);
    let mut tested = Tested::fresh(Role::Server, &Settings::DEFAULT);
    assert_eq!(tested.feed(&PREFACE[..23]), Ok(vec![]));
    assert_eq!(tested.feed(b"\r").unwrap_err().code, PROTOCOL);
}

#[test]
fn section_3_4_settings_come_first() {
    for role in [Role::Server, Role::Client] {
        for first in [ping(&[0; 8]), get(1), frame(4, ACK, 0, b""), window(0, 1), frame(0xfa, 0, 0, b"")] {
            let mut tested = Tested::fresh(role, &Settings::DEFAULT);
            if role == Role::Server {
                tested.feed(PREFACE).unwrap();
            }
            assert_eq!(tested.feed(&first).unwrap_err().reason, Flaw::FrameOrder.of(role));
        }
    }
}

#[test]
fn section_3_4_what_we_say_first() {
    let tested = Tested::fresh(Role::Client, &Settings::DEFAULT);
    assert!(tested.out.starts_with(PREFACE));
    for role in [Role::Server, Role::Client] {
        let mut tested = Tested::fresh(role, &Settings::DEFAULT);
        let wrote = tested.wrote();
        assert_eq!((wrote[0].kind, wrote[0].flags), (Kind::Settings, 0));
        assert_eq!((wrote[1].kind, wrote[1].number()), (Kind::WindowUpdate, 1_048_576 - 65_535));
        assert_eq!(wrote.len(), 2);
    }
}

#[test]
fn section_4_3_every_block_is_decoded_in_order() {
    let settings = Settings { streams_max: 1, ..Settings::DEFAULT };
    let mut tested = Tested::with(Role::Server, &settings, &[]);
    let stream = tested.opened(&post(1));
    // Refused, of a stream that we reset, behind the end, beyond the last.
    tested.feed(&get(3)).unwrap();
    tested.connection.reset(stream, ErrorCode::CANCEL, &mut tested.out);
    tested.feed(&headers(1, HEADERS_END, "late")).unwrap();
    tested.opened(&get(5));
    tested.feed(&headers(5, HEADERS_END, "behind")).unwrap();
    tested.connection.goaway(ErrorCode::NO_ERROR, b"", &mut tested.out);
    assert_eq!(
        tested.feed(&[headers(7, 0, "be"), continuation(7, END_HEADERS, "yond")].concat()),
        Ok(vec![])
    );
    let blocks: Vec<_> =
        tested.words.blocks.iter().map(|(section, id, block)| (*section, id.0, &block[..])).collect();
    let expected: [(Section, u32, &[u8]); 6] = [
        (Section::Request, 1, b"POST"),
        (Section::Discarded, 3, b"GET"),
        (Section::Discarded, 1, b"late"),
        (Section::Request, 5, b"GET"),
        (Section::Discarded, 5, b"behind"),
        (Section::Discarded, 7, b"beyond"),
    ];
    assert_eq!(blocks, expected);
}

#[test]
fn section_5_1_what_is_in_flight_when_we_reset_is_no_fault() {
    let mut tested = Tested::new(Role::Server);
    let stream = tested.opened(&post(1));
    tested.feed(&data(1, 0, &[1; 10_000])).unwrap();
    assert_eq!(tested.connection.held(), 10_000);
    tested.connection.reset(stream, ErrorCode::CANCEL, &mut tested.out);
    assert_eq!(tested.connection.held(), 0);
    let late =
        [data(1, 0, &[1; 16_384]), window(1, 5), headers(1, HEADERS_END, "x"), reset(1, PROTOCOL)].concat();
    assert_eq!(tested.feed(&late), Ok(vec![]));
    assert_eq!(tested.connection.held(), 0, "it counts, and is given back");
    // Nothing more can be sent, and nothing is.
    tested.out.clear();
    assert_eq!(tested.answer(stream, true), Err(StreamGone));
    assert_eq!(tested.connection.send_data(stream, b"x", true, &mut tested.out), Err(StreamGone));
    tested.connection.reset(stream, ErrorCode::CANCEL, &mut tested.out);
    tested.connection.consumed(stream, 7, &mut tested.out);
    assert!(tested.out.is_empty());
}

#[test]
fn section_5_1_a_reset_amid_data_gives_everything_back() {
    let mut tested = Tested::new(Role::Server);
    let stream = tested.opened(&post(1));
    let frame = data(1, END_STREAM | PADDED, &[&[4][..], &[7; 1_000], &[0; 4]].concat());
    assert_eq!(tested.feed(&frame[..500]), Ok(vec![Saw::Data(stream, vec![7; 490], false)]));
    assert_eq!(tested.connection.held(), 1_000, "padding is never held");
    tested.connection.reset(stream, ErrorCode::CANCEL, &mut tested.out);
    assert_eq!(tested.connection.held(), 0);
    let next = tested.feed(&[&frame[500..], &get(3)].concat()).unwrap();
    assert!(matches!(next[..], [Saw::Head(..)]), "{next:?}");
    assert_eq!(tested.connection.held(), 0);
}

#[test]
fn section_5_1_2_one_stream_more_is_refused() {
    let settings = Settings { streams_max: 2, ..Settings::DEFAULT };
    let mut tested = Tested::with(Role::Server, &settings, &[]);
    let first = tested.opened(&get(1));
    tested.opened(&get(3));
    assert_eq!(come_to(&mut tested, &get(5)), Comes::Stream(5, ErrorCode::REFUSED_STREAM));
    assert_eq!(come_to(&mut tested, &post(7)), Comes::Stream(7, ErrorCode::REFUSED_STREAM));
    assert_eq!(come_to(&mut tested, &data(7, 0, b"in flight")), Comes::Fine);
    assert_eq!((tested.connection.streams_open(), tested.connection.streams_refused()), (2, 2));
    tested.answer(first, true).unwrap();
    tested.opened(&get(9));
}

#[test]
fn section_5_1_2_a_client_that_cannot_know_how_many_is_not_at_fault() {
    // Not before our settings have come to it, within reason.
    let settled = [PREFACE.as_slice(), &settings(&[])].concat();
    let mut tested = Tested::fresh(Role::Server, &Settings::DEFAULT);
    tested.feed(&settled).unwrap();
    let (time, gone) = flood(&mut tested, 10_000, |n| get(2 * n + 1)).unwrap();
    assert_eq!(gone.reason, flaw::FAULT_FLOOD);
    assert_eq!(time, 128 + 1_024 + Budget::Fault.burst());
    let mut tested = Tested::fresh(Role::Server, &Settings::DEFAULT);
    tested.feed(&[settled, frame(4, ACK, 0, b"")].concat()).unwrap();
    let (time, gone) = flood(&mut tested, 10_000, |n| get(2 * n + 1)).unwrap();
    assert_eq!((time, gone.reason), (128 + Budget::Fault.burst(), flaw::FAULT_FLOOD));
    // Nor of what we hold of streams that are over.
    let ours = Settings { streams_max: 1, ..Settings::DEFAULT };
    let mut tested = Tested::with(Role::Server, &ours, &[]);
    let mut id = 1;
    while tested.connection.streams_refused() == 0 {
        let begin = [post(id), data(id, END_STREAM, b"held")].concat();
        if let [Saw::Head(stream, ..), ..] = tested.feed(&begin).unwrap()[..] {
            tested.answer(stream, true).unwrap();
        }
        id += 2;
    }
    assert_eq!(flood(&mut tested, 1_000, |n| get(id + 2 * n)), None);
}

#[test]
fn section_5_1_2_a_client_opens_as_many_as_the_server_takes() {
    let mut tested = Tested::fresh(Role::Client, &Settings::DEFAULT);
    assert_eq!(tested.connection.openable(), 100);
    tested.feed(&settings(&[(3, 2)])).unwrap();
    let first = tested.open(true, false);
    tested.open(true, false);
    let mut called = false;
    let opened = tested.connection.open(Opening::default(), &mut tested.out, |_| called = true);
    assert_eq!((opened, called), (Err(NotOpened::Full), false));
    tested.feed(&get(first.id().0)).unwrap();
    assert_eq!(tested.open(true, false).id(), StreamId(5));
    tested.feed(&settings(&[(3, 1_000)])).unwrap();
    assert_eq!(tested.connection.openable(), 126, "ours");
}

#[test]
fn section_6_4_a_reset_ends_the_stream_at_once() {
    let mut tested = Tested::new(Role::Server);
    let stream = tested.opened(&get(1));
    tested.answer(stream, false).unwrap();
    tested.connection.want(stream, true);
    assert_eq!(tested.connection.next_writable(), Some(stream));
    let saw = tested.feed(&reset(1, ErrorCode::CANCEL)).unwrap();
    assert_eq!(saw, [Saw::Reset(stream, ErrorCode::CANCEL, Cause::Peer)]);
    assert_eq!(tested.connection.next_writable(), None);
    assert_eq!(tested.connection.streams_open(), 0);
}

#[test]
fn section_6_5_3_settings_are_acknowledged_and_obeyed() {
    let mut tested = Tested::new(Role::Server);
    let saw = tested.feed(&settings(&[(1, 100), (1, 8_192), (5, 20_000), (6, 1_000), (8, 1)])).unwrap();
    assert_eq!(saw, [Saw::Settings]);
    let wrote = tested.wrote();
    assert_eq!(
        (wrote.len(), wrote[0].kind, wrote[0].flags, wrote[0].payload.len()),
        (1, Kind::Settings, ACK, 0)
    );
    assert_eq!(tested.words.tables, [100, 8_192], "each in turn: RFC 7541 §4.2");
    let peer = tested.connection.peer();
    assert_eq!(
        (peer.frame_bytes_max, peer.header_list_bytes_max, peer.connect_protocol),
        (20_000, 1_000, true)
    );
}

#[test]
fn section_6_5_3_ours_must_be_acknowledged_in_time() {
    let mut tested = Tested::fresh(Role::Server, &Settings::DEFAULT);
    assert_eq!(tested.connection.next_deadline(), Some(11_000));
    assert_eq!(tested.connection.tick(10_999, &mut tested.out), Ok(()));
    let gone = tested.connection.tick(11_000, &mut tested.out).unwrap_err();
    assert_eq!((gone.reason, gone.code), (flaw::SETTINGS_TIMEOUT, ErrorCode::SETTINGS_TIMEOUT));
    assert_eq!(Tested::new(Role::Server).connection.next_deadline(), None);
}

#[test]
fn section_6_7_a_ping_is_answered_with_its_payload() {
    let mut tested = Tested::new(Role::Client);
    assert_eq!(tested.feed(&ping(b"12345678")), Ok(vec![]));
    assert_eq!(
        tested.wrote(),
        [Written { kind: Kind::Ping, flags: ACK, stream: 0, payload: b"12345678".to_vec() }]
    );
}

#[test]
fn section_6_7_a_connection_is_kept_alive() {
    let mut tested = Tested::new(Role::Client);
    tested.connection.keep_alive(500, 2_000, &mut tested.out);
    tested.connection.keep_alive(500, 2_100, &mut tested.out);
    let wrote = tested.wrote();
    assert_eq!(wrote.len(), 1, "one at a time");
    assert_eq!(tested.connection.next_deadline(), Some(2_500));
    tested.now_ms = 2_400;
    assert_eq!(tested.feed(&frame(6, ACK, 0, b"not ours")), Ok(vec![]));
    assert_eq!(tested.feed(&frame(6, ACK, 0, &wrote[0].payload)), Ok(vec![Saw::Pong(400)]));
    assert_eq!(tested.connection.next_deadline(), None);
    tested.connection.keep_alive(500, 3_000, &mut tested.out);
    let gone = tested.connection.tick(3_500, &mut tested.out).unwrap_err();
    assert_eq!(gone.reason, flaw::UPSTREAM_PING_TIMEOUT);
}

#[test]
fn section_6_8_a_server_ends_gracefully() {
    let mut tested = Tested::new(Role::Server);
    let first = tested.opened(&get(1));
    tested.connection.shutdown(5_000, &mut tested.out);
    let wrote = tested.wrote();
    assert_eq!((wrote[0].kind, wrote[0].number()), (Kind::GoAway, 0x7fff_ffff));
    assert_eq!(wrote[1].kind, Kind::Ping);
    // What the client sent before it knew is served.
    let second = tested.opened(&get(3));
    tested.feed(&frame(6, ACK, 0, &wrote[1].payload)).unwrap();
    let last = tested.wrote();
    assert_eq!((last[0].kind, last[0].number()), (Kind::GoAway, 3));
    assert_eq!(tested.feed(&[post(5), data(5, END_STREAM, b"ignored"), get(7)].concat()), Ok(vec![]));
    assert!(!tested.connection.is_drained());
    tested.answer(first, true).unwrap();
    tested.answer(second, true).unwrap();
    assert!(tested.connection.is_drained() && tested.connection.is_closing());
    assert_eq!(tested.connection.held(), 0);
}

#[test]
fn section_5_1_1_who_has_no_number_left_is_told_to_open_another_connection() {
    let mut tested = Tested::new(Role::Server);
    let stream = tested.opened(&get(0x7fff_ffff));
    let wrote = tested.wrote();
    assert_eq!((wrote.len(), wrote[0].kind, wrote[0].number()), (1, Kind::GoAway, 0x7fff_ffff));
    assert!(tested.connection.is_closing() && !tested.connection.is_drained());
    tested.answer(stream, true).unwrap();
    assert!(tested.connection.is_drained());
}

#[test]
fn section_6_8_a_client_that_answers_no_ping_holds_up_no_end() {
    let mut tested = Tested::new(Role::Server);
    tested.connection.shutdown(5_000, &mut tested.out);
    tested.out.clear();
    let due_ms = tested.connection.next_deadline().unwrap();
    assert_eq!(tested.connection.tick(due_ms, &mut tested.out), Ok(()));
    assert_eq!(tested.wrote()[0].number(), 0);
    assert!(tested.connection.is_drained());
}

#[test]
fn section_6_8_what_the_server_has_not_seen_may_be_sent_again() {
    let mut tested = Tested::new(Role::Client);
    let streams = [false, true, true].map(|end| tested.open(end, false));
    let saw = tested.feed(&goaway(1, ErrorCode::NO_ERROR)).unwrap();
    assert_eq!(saw[0], Saw::GoAway(1, ErrorCode::NO_ERROR));
    let told = |stream| Saw::Reset(stream, ErrorCode::REFUSED_STREAM, Cause::Unprocessed);
    assert_eq!(saw[1..], [told(streams[1]), told(streams[2])]);
    let opened = tested.connection.open(Opening::default(), &mut tested.out, |_| ());
    assert_eq!(opened, Err(NotOpened::Over));
    // The first goes on.
    let saw = tested.feed(&get(1)).unwrap();
    assert_eq!(saw, [Saw::Head(streams[0], true, false)]);
    assert!(!tested.connection.is_drained());
    tested.connection.send_data(streams[0], b"", true, &mut tested.out).unwrap();
    assert!(tested.connection.is_drained());
}

#[test]
fn section_6_8_the_last_stream_can_become_a_lower_one() {
    let mut tested = Tested::new(Role::Client);
    let streams: Vec<StreamKey> = (0..6).map(|_| tested.open(true, false)).collect();
    // Slots are used anew, so that their order is not that of the numbers.
    tested.feed(&[get(1), get(5)].concat()).unwrap();
    let later: Vec<StreamKey> = (0..2).map(|_| tested.open(true, false)).collect();
    assert!(later[0].slot() < streams[3].slot());
    let resets = |saw: Vec<Saw>| {
        let mut ids: Vec<u32> = saw
            .into_iter()
            .filter_map(|saw| match saw {
                Saw::Reset(stream, _, Cause::Unprocessed) => Some(stream.id().0),
                _ => None,
            })
            .collect();
        ids.sort_unstable();
        ids
    };
    assert!(resets(tested.feed(&goaway(0x7fff_ffff, ErrorCode::NO_ERROR)).unwrap()).is_empty());
    assert_eq!(resets(tested.feed(&goaway(9, ErrorCode::NO_ERROR)).unwrap()), [11, 13, 15]);
    // Two of them before the first event is acted on.
    let both = [goaway(7, ErrorCode::NO_ERROR), goaway(3, ErrorCode::NO_ERROR)].concat();
    assert_eq!(resets(tested.feed(&both).unwrap()), [7, 9]);
    assert_eq!(tested.connection.streams_open(), 1);
}

#[test]
fn section_6_9_the_windows_of_the_peer_are_obeyed() {
    let mut tested = Tested::with(Role::Server, &Settings::DEFAULT, &[(4, 100)]);
    let stream = tested.opened(&get(1));
    assert_eq!(
        tested.connection.send_data(stream, b"x", false, &mut tested.out),
        Err(StreamGone),
        "no head yet"
    );
    tested.answer(stream, false).unwrap();
    assert_eq!(tested.connection.sendable(stream), 100);
    let body = vec![5; 70_000];
    assert_eq!(tested.connection.send_data(stream, &body, true, &mut tested.out), Ok(100));
    assert_eq!(tested.connection.send_data(stream, &body, true, &mut tested.out), Ok(0));
    let wrote = tested.wrote();
    assert_eq!((wrote.len(), wrote[1].kind, wrote[1].flags), (2, Kind::Data, 0));
    tested.connection.want(stream, true);
    assert_eq!(tested.connection.next_writable(), None);
    tested.feed(&window(1, 100_000)).unwrap();
    assert_eq!(tested.connection.next_writable(), Some(stream));
    assert_eq!(tested.connection.sendable(stream), 65_435, "the connection's");
    assert_eq!(tested.connection.send_data(stream, &body[100..], true, &mut tested.out), Ok(65_435));
    assert!(tested.wrote().iter().all(|frame| frame.payload.len() <= DATA_BYTES_MAX));
    assert_eq!(tested.connection.next_writable(), None);
    tested.feed(&window(0, 100_000)).unwrap();
    assert_eq!(tested.connection.send_data(stream, &body[65_535..], true, &mut tested.out), Ok(4_465));
    let wrote = tested.wrote();
    assert_eq!(wrote.last().unwrap().flags, END_STREAM);
    assert_eq!(tested.connection.streams_open(), 0);
}

#[test]
fn section_6_9_1_the_end_needs_no_window() {
    let mut tested = Tested::with(Role::Server, &Settings::DEFAULT, &[(4, 0)]);
    let stream = tested.opened(&get(1));
    tested.answer(stream, false).unwrap();
    tested.out.clear();
    assert_eq!(tested.connection.send_data(stream, b"x", true, &mut tested.out), Ok(0));
    assert!(tested.out.is_empty());
    assert_eq!(tested.connection.send_data(stream, b"", true, &mut tested.out), Ok(0));
    assert_eq!(tested.wrote()[0].flags, END_STREAM);
}

#[test]
fn section_6_9_2_a_setting_moves_all_windows() {
    let mut tested = Tested::new(Role::Server);
    let streams = [1, 3].map(|id| tested.opened(&get(id)));
    for stream in streams {
        tested.answer(stream, false).unwrap();
    }
    assert_eq!(tested.connection.send_data(streams[0], &[0; 1_000], false, &mut tested.out), Ok(1_000));
    tested.feed(&settings(&[(4, 600)])).unwrap();
    assert_eq!(streams.map(|stream| tested.connection.sendable(stream)), [0, 600]);
    tested.feed(&window(1, 400)).unwrap();
    assert_eq!(tested.connection.sendable(streams[0]), 0, "−400 + 400");
    tested.feed(&settings(&[(4, 601)])).unwrap();
    assert_eq!(streams.map(|stream| tested.connection.sendable(stream)), [1, 601]);
}

#[test]
fn section_6_9_more_than_a_window_is_refused() {
    let mut tested = Tested::new(Role::Server);
    tested.opened(&post(1));
    for _ in 0..3 {
        tested.feed(&data(1, 0, &[0; 16_384])).unwrap();
    }
    assert_eq!(come_to(&mut tested, &data(1, 0, &[0; 16_383])), Comes::Fine);
    assert_eq!(come_to(&mut tested, &data(1, 0, &[0; 1])), Comes::Stream(1, FLOW));
    assert_eq!(tested.connection.held(), 0);
    // And the connection's: 1 MiB is 16 streams' windows and 16 bytes.
    let mut tested = Tested::new(Role::Server);
    for id in 0..16 {
        tested.opened(&post(2 * id + 1));
        for bytes in [16_384, 16_384, 16_384, 16_383] {
            assert_eq!(come_to(&mut tested, &data(2 * id + 1, 0, &vec![0; bytes])), Comes::Fine);
        }
    }
    tested.opened(&post(33));
    assert_eq!(come_to(&mut tested, &data(33, 0, &[0; 16])), Comes::Fine);
    assert_eq!(come_to(&mut tested, &data(33, 0, &[0; 1])), Comes::Connection(FLOW));
}

#[test]
fn windows_open_only_as_bodies_are_consumed() {
    let mut tested = Tested::new(Role::Server);
    let stream = tested.opened(&post(1));
    for _ in 0..3 {
        tested.feed(&data(1, 0, &[0; 16_384])).unwrap();
    }
    assert!(tested.wrote().is_empty());
    tested.connection.consumed(stream, 32_766, &mut tested.out);
    assert!(tested.wrote().is_empty());
    tested.connection.consumed(stream, 1, &mut tested.out);
    let wrote = tested.wrote();
    assert_eq!((wrote.len(), wrote[0].stream, wrote[0].number()), (1, 1, 32_767));
    assert_eq!(tested.connection.held(), 3 * 16_384 - 32_767);
}

#[test]
fn a_body_that_is_complete_asks_for_no_more() {
    let mut tested = Tested::new(Role::Server);
    let stream = tested.opened(&headers(1, END_HEADERS, "length=49152"));
    for _ in 0..3 {
        tested.feed(&data(1, 0, &[0; 16_384])).unwrap();
    }
    tested.connection.consumed(stream, 49_152, &mut tested.out);
    assert!(tested.wrote().is_empty());
    assert_eq!(tested.connection.held(), 0);
}

#[test]
fn what_came_whole_is_held_until_it_is_consumed() {
    let mut tested = Tested::new(Role::Client);
    let stream = tested.open(true, false);
    tested.feed(&[headers(1, END_HEADERS, "status=200"), data(1, END_STREAM, &[1; 1_000])].concat()).unwrap();
    assert_eq!((tested.connection.streams_open(), tested.connection.held()), (0, 1_000));
    tested.connection.consumed(stream, 999, &mut tested.out);
    assert_eq!(tested.connection.held(), 1);
    tested.connection.consumed(stream, 1, &mut tested.out);
    assert_eq!(tested.connection.held(), 0);
    // Also where the server says that it wants no more of the request (RFC 9113 §8.1).
    let stream = tested.open(false, false);
    let early =
        [headers(3, END_HEADERS, "status=413"), data(3, END_STREAM, b"no"), reset(3, ErrorCode::NO_ERROR)];
    let saw = tested.feed(&early.concat()).unwrap();
    assert_eq!(saw[2], Saw::Reset(stream, ErrorCode::NO_ERROR, Cause::Peer));
    assert_eq!(tested.connection.held(), 2);
    tested.connection.reset(stream, ErrorCode::CANCEL, &mut tested.out);
    assert_eq!(tested.connection.held(), 0);
}

#[test]
fn heads_larger_than_a_frame_are_split() {
    let mut tested = Tested::new(Role::Server);
    let stream = tested.opened(&get(1));
    let sent = tested
        .connection
        .send_head(stream, true, &mut tested.out, |out| out.resize(out.len() + 40_000, b'x'));
    assert_eq!(sent, Ok(()));
    let kinds: Vec<_> = tested.wrote().iter().map(|f| (f.kind, f.flags, f.payload.len())).collect();
    let expected = [
        (Kind::Headers, END_STREAM, 16_384),
        (Kind::Continuation, 0, 16_384),
        (Kind::Continuation, END_HEADERS, 7_232),
    ];
    assert_eq!(kinds, expected);
}

#[test]
fn a_response_has_one_head() {
    let mut tested = Tested::new(Role::Server);
    let stream = tested.opened(&get(1));
    let informational = |tested: &mut Tested| {
        tested.connection.send_informational(stream, &mut tested.out, |out| out.extend_from_slice(b"103"))
    };
    assert_eq!(tested.connection.send_trailers(stream, &mut tested.out, |_| panic!()), Err(StreamGone));
    assert_eq!(informational(&mut tested), Ok(()));
    assert_eq!(tested.answer(stream, false), Ok(()));
    assert_eq!(tested.answer(stream, false), Err(StreamGone));
    assert_eq!(informational(&mut tested), Err(StreamGone));
    assert_eq!(tested.connection.send_trailers(stream, &mut tested.out, |_| ()), Ok(()));
    assert_eq!(tested.connection.send_trailers(stream, &mut tested.out, |_| panic!()), Err(StreamGone));
}

#[test]
fn a_flawed_request_waits_for_its_answer() {
    let mut tested = Tested::new(Role::Server);
    let saw = tested.feed(&headers(1, HEADERS_END, "malformed")).unwrap();
    let [Saw::Head(stream, true, true)] = saw[..] else { panic!("{saw:?}") };
    assert_eq!(tested.answer(stream, true), Ok(()));
    let saw = tested.feed(&headers(3, HEADERS_END, "length=7")).unwrap();
    assert!(matches!(saw[..], [Saw::Head(_, true, true)]), "§8.1.1: nothing of what was promised");
}

#[test]
fn priorities_order_what_is_sent() {
    let mut tested = Tested::new(Role::Server);
    tested.feed(&frame(0x10, 0, 0, b"\0\0\0\x05u=0")).unwrap();
    let streams = [1, 3, 5].map(|id| tested.opened(&get(id)));
    for stream in streams {
        tested.connection.want(stream, true);
        assert_eq!(tested.connection.next_writable(), None, "no head was sent");
    }
    for stream in streams {
        tested.answer(stream, false).unwrap();
    }
    assert_eq!(tested.connection.next_writable(), Some(streams[2]), "said before it came");
    tested.connection.prioritise(streams[1], Priority { urgency: 0, incremental: false });
    tested.connection.want(streams[2], false);
    assert_eq!(tested.connection.next_writable(), Some(streams[1]));
    tested.feed(&frame(0x10, 0, 0, b"\0\0\0\x03u=7")).unwrap();
    assert_eq!(tested.connection.next_writable(), Some(streams[0]));
}

// Abuse.

/// All streams that a client may have open.
const STREAMS_GRANTED: [u32; 128] = {
    let mut ids = [1; 128];
    let mut at = 1;
    while at < 128 {
        ids[at] = ids[at - 1] + 2;
        at += 1;
    }
    ids
};

/// Feeds the same again and again; says after how many times the connection ended, and why.
fn flood(tested: &mut Tested, most: u32, mut frames: impl FnMut(u32) -> Vec<u8>) -> Option<(u32, Gone)> {
    for time in 0..most {
        let bytes = frames(time);
        if let Err(gone) = tested.feed(&bytes) {
            return Some((time, gone));
        }
        assert!(tested.out.len() < 100_000 + 64 * most as usize);
    }
    None
}

#[test]
fn each_flood_has_its_own_end() {
    let opened = |ids: &[u32]| {
        let mut tested = Tested::new(Role::Server);
        for id in ids {
            tested.opened(&post(*id));
        }
        tested
    };
    type Frames = fn(u32) -> Vec<u8>;
    let floods: [(&[u32], Frames, Budget); 20] = [
        (&[], |n| [get(2 * n + 1), reset(2 * n + 1, ErrorCode::CANCEL)].concat(), Budget::Reset),
        // MadeYouReset: each of its kinds.
        (&[], |n| [get(2 * n + 1), window(2 * n + 1, 0)].concat(), Budget::Fault),
        (&[], |n| [get(2 * n + 1), data(2 * n + 1, 0, b"behind its end")].concat(), Budget::Fault),
        (&[], |n| [get(2 * n + 1), window(2 * n + 1, 0x7fff_ffff)].concat(), Budget::Fault),
        (
            &[],
            |n| [headers(2 * n + 1, END_HEADERS, "length=3"), data(2 * n + 1, 0, b"longer")].concat(),
            Budget::Fault,
        ),
        (&[], |n| [get(2 * n + 1), frame(2, 0, 2 * n + 1, &[0; 4])].concat(), Budget::Fault),
        // More than we grant, from one who knows how many that is.
        (&STREAMS_GRANTED, |n| get(2 * n + 257), Budget::Fault),
        (&[], |_| settings(&[(4, 1)]), Budget::Settings),
        (&[], |_| settings(&[]), Budget::Settings),
        // Answers to what was never asked.
        (&[], |_| frame(4, ACK, 0, b""), Budget::Settings),
        (&[], |_| frame(6, ACK, 0, &[0; 8]), Budget::Ping),
        (&[], |_| ping(&[0; 8]), Budget::Ping),
        (&[], |_| frame(2, 0, 1, &[0; 5]), Budget::Priority),
        (&[], |n| frame(0x10, 0, 0, &[&(2 * n + 1).to_be_bytes()[..], b"u=1"].concat()), Budget::Priority),
        (&[1], |_| window(1, 1), Budget::WindowUpdate),
        (&[], |_| window(0, 1), Budget::WindowUpdate),
        (&[], |_| frame(0xbb, 0, 0, b""), Budget::Unknown),
        (&[1], |_| data(1, 0, b""), Budget::Empty),
        (&[1], |_| data(1, 0, b"x"), Budget::Tiny),
        (&[], |n| goaway(0x7fff_ffff - n, ErrorCode::NO_ERROR), Budget::GoAway),
    ];
    for (ids, frames, budget) in floods {
        let mut tested = opened(ids);
        let (time, gone) = flood(&mut tested, 100_000, frames).expect("it ends");
        assert_eq!((gone.reason, gone.code), (budget.flaw().of(Role::Server), ErrorCode::ENHANCE_YOUR_CALM));
        assert!(time.abs_diff(budget.burst()) <= 3, "{budget:?}: {time}");
        assert!(tested.connection.charged(budget) > budget.burst());
    }
}

#[test]
fn what_is_late_has_an_end_too() {
    let mut tested = Tested::new(Role::Server);
    let stream = tested.opened(&post(1));
    tested.connection.reset(stream, ErrorCode::CANCEL, &mut tested.out);
    let (time, gone) = flood(&mut tested, 100_000, |_| data(1, 0, &[0; 100])).unwrap();
    assert_eq!(gone.reason, flaw::LATE_FLOOD);
    assert_eq!(time, Budget::Late.burst());
    // A stream is reset once; whoever says so again and again says nothing. Its answer pays for two frames behind its end.
    let mut tested = Tested::new(Role::Server);
    let stream = tested.opened(&get(1));
    tested.answer(stream, true).unwrap();
    let (time, gone) = flood(&mut tested, 100_000, |_| reset(1, ErrorCode::NO_ERROR)).unwrap();
    assert_eq!((time, gone.reason), (Budget::Late.burst(), flaw::LATE_FLOOD));
    // What a client opens behind the end that it was told of is not even begun.
    let mut tested = Tested::new(Role::Server);
    tested.connection.goaway(ErrorCode::NO_ERROR, b"", &mut tested.out);
    let (time, gone) = flood(&mut tested, 100_000, |n| get(2 * n + 1)).unwrap();
    assert_eq!((time, gone.reason), (Budget::Late.burst(), flaw::LATE_FLOOD));
}

/// What one frame has us say is no more than the frame, or one RST_STREAM: who does not read costs no more than he sends.
#[test]
fn no_frame_is_answered_with_more_than_it_is() {
    let frames: [(&str, Vec<u8>); 6] = [
        ("SETTINGS", settings(&[])),
        ("PING", ping(&[7; 8])),
        ("a request too many", get(261)),
        ("WINDOW_UPDATE of nothing", window(1, 0)),
        ("DATA on a stream that we reset", data(3, 0, b"x")),
        ("PRIORITY of a wrong size", frame(2, 0, 5, b"")),
    ];
    for (what, bytes) in frames {
        let mut tested = Tested::new(Role::Server);
        let streams: Vec<StreamKey> = STREAMS_GRANTED.iter().map(|id| tested.opened(&post(*id))).collect();
        tested.connection.reset(streams[1], ErrorCode::CANCEL, &mut tested.out);
        tested.opened(&post(259));
        tested.out.clear();
        tested.feed(&bytes).unwrap();
        assert!(
            tested.out.len() <= bytes.len().max(FRAME_HEAD_BYTES + 4),
            "{what}: {} of {}",
            tested.out.len(),
            bytes.len()
        );
    }
}

#[test]
fn what_many_small_frames_in_flight_bring_is_no_flood() {
    // Twenty calls that stream messages of a hundred bytes run into their deadline at once, a window of each in flight.
    let mut tested = Tested::new(Role::Server);
    let streams: Vec<StreamKey> = (0..20).map(|n| tested.opened(&post(2 * n + 1))).collect();
    for stream in &streams {
        tested.connection.reset(*stream, ErrorCode::CANCEL, &mut tested.out);
    }
    for stream in &streams {
        tested.feed(&data(stream.id().0, 0, &[0; 100]).repeat(655)).unwrap();
    }
    // Field blocks cost more, as they must be decoded.
    let stream = tested.opened(&post(101));
    tested.connection.reset(stream, ErrorCode::CANCEL, &mut tested.out);
    let block = "x".repeat(16_000);
    let (time, gone) = flood(&mut tested, 1_000, |_| headers(101, HEADERS_END, &block)).unwrap();
    assert_eq!(gone.reason, flaw::LATE_FLOOD);
    assert!(time < Budget::Late.burst() / 62, "{time}");
}

#[test]
fn requests_that_are_given_up_cost_no_connection_to_an_upstream() {
    let mut tested = Tested::new(Role::Client);
    for _ in 0..1_000 {
        let stream = tested.open(true, false);
        tested.connection.reset(stream, ErrorCode::CANCEL, &mut tested.out);
    }
    // Their answers were on their way all the same.
    for n in 0..1_000 {
        let answer = [headers(2 * n + 1, END_HEADERS, "status=200"), data(2 * n + 1, END_STREAM, b"late")];
        assert_eq!(tested.feed(&answer.concat()), Ok(vec![]));
    }
    assert_eq!(tested.connection.held(), 0);
}

#[test]
fn the_tables_work_has_an_end() {
    let mut tested = Tested::new(Role::Server);
    let (time, gone) =
        flood(&mut tested, 10_000, |n| headers(2 * n + 1, HEADERS_END, "inserted=257000")).unwrap();
    assert_eq!((time, gone.reason), (4, flaw::TABLE_CHURN));
    let mut tested = Tested::new(Role::Server);
    let (time, gone) =
        flood(&mut tested, 10_000, |n| headers(2 * n + 1, HEADERS_END, "excess=300000")).unwrap();
    assert_eq!((time, gone.reason), (3, flaw::FIELD_BOMB));
}

#[test]
fn a_block_has_bounds() {
    // CONTINUATION frames without end, empty ones too.
    for piece in ["", "x"] {
        let mut tested = Tested::new(Role::Server);
        tested.feed(&headers(1, 0, "x")).unwrap();
        let (time, gone) = flood(&mut tested, 100, |_| continuation(1, 0, piece)).unwrap();
        assert_eq!((time, gone.reason), (u32::from(CONTINUATIONS_MAX), flaw::BLOCK_FRAMES));
    }
    let mut tested = Tested::new(Role::Server);
    let piece = "x".repeat(16_384);
    tested.feed(&headers(1, 0, &piece)).unwrap();
    let (time, gone) = flood(&mut tested, 100, |_| continuation(1, 0, &piece)).unwrap();
    assert_eq!((time, gone.reason), (3, flaw::BLOCK_SIZE));
    assert!(tested.words.blocks.is_empty());
    // n − 1 and n are fine.
    let mut tested = Tested::new(Role::Server);
    tested.feed(&headers(1, END_STREAM, &piece)).unwrap();
    tested.feed(&[continuation(1, 0, &piece), continuation(1, 0, &piece)].concat()).unwrap();
    let saw = tested.feed(&continuation(1, END_HEADERS, &piece)).unwrap();
    assert!(matches!(saw[..], [Saw::Head(..)]));
}

#[test]
fn a_block_that_is_begun_has_to_end_in_time() {
    for (role, reason) in [(Role::Server, CLIENT_HEAD_TIMEOUT), (Role::Client, flaw::UPSTREAM_BLOCK_TIMEOUT)]
    {
        let settings = Settings { block_within_ms: 500, ..Settings::DEFAULT };
        // The head of the frame alone, half of the payload, the block without its end.
        let whole = headers(1, 0, "status=200");
        for (bytes, continued) in [(9, false), (12, false), (whole.len(), false), (whole.len(), true)] {
            let mut tested = Tested::with(role, &settings, &[]);
            if role == Role::Client {
                tested.open(true, false);
            }
            assert_eq!(tested.connection.next_deadline(), None);
            tested.feed(&whole[..bytes]).unwrap();
            // What comes of it later puts nothing off.
            tested.now_ms = 1_400;
            if continued {
                tested.feed(&continuation(1, 0, "")).unwrap();
            }
            assert_eq!(tested.connection.next_deadline(), Some(1_500));
            assert_eq!(tested.connection.tick(1_499, &mut tested.out), Ok(()));
            let gone = tested.connection.tick(1_500, &mut tested.out).unwrap_err();
            assert_eq!((gone.reason, gone.code), (reason, ErrorCode::ENHANCE_YOUR_CALM));
            assert_eq!(tested.wrote().last().unwrap().payload[..4], [0; 4], "it was not acted on");
        }
    }
    // One that has ended has no deadline, whatever it was.
    let mut tested = Tested::new(Role::Server);
    tested
        .feed(&[post(1), headers(1, END_STREAM, "check=1"), continuation(1, END_HEADERS, "")].concat())
        .unwrap();
    assert_eq!(tested.connection.next_deadline(), None);
    assert_eq!(come_to(&mut tested, &headers(1, HEADERS_END, "late=1")), Comes::Stream(1, CLOSED));
    assert_eq!(tested.connection.next_deadline(), None);
}

#[test]
fn settings_in_a_frame_have_a_bound() {
    let many = |count: u32| settings(&vec![(0xfa, 1); count as usize]);
    assert_eq!(come_to(&mut Tested::new(Role::Server), &many(SETTINGS_IN_FRAME_MAX)), Comes::Fine);
    let gone = Tested::new(Role::Server).feed(&many(SETTINGS_IN_FRAME_MAX + 1)).unwrap_err();
    assert_eq!(gone.reason, flaw::SETTINGS_FLOOD);
}

#[test]
fn an_upstream_has_bounds_too() {
    let mut tested = Tested::new(Role::Client);
    tested.open(true, false);
    let (time, gone) = flood(&mut tested, 1_000, |_| headers(1, END_HEADERS, "status=102")).unwrap();
    assert_eq!((time, gone.reason), (Budget::Informational.burst(), flaw::UPSTREAM_FLOOD));
    let gone = flood(&mut Tested::new(Role::Client), 10_000, |_| ping(&[0; 8])).unwrap().1;
    assert_eq!(gone.reason, flaw::UPSTREAM_FLOOD);
}

/// What good clients do, for as long and as fast as they like.
#[test]
fn good_manners_never_end_a_connection() {
    // A browser that leaves a page with all streams open, loads the next, and leaves that too.
    let mut tested = Tested::new(Role::Server);
    let mut id = 1;
    for _ in 0..2 {
        let ids: Vec<u32> = (0..128).map(|n| id + 2 * n).collect();
        id += 256;
        tested.feed(&ids.iter().flat_map(|id| get(*id)).collect::<Vec<u8>>()).unwrap();
        tested.feed(&ids.iter().flat_map(|id| reset(*id, ErrorCode::CANCEL)).collect::<Vec<u8>>()).unwrap();
    }
    // A proxy in front of us, one in six of whose clients give up, at full speed and without any time passing.
    for round in 0..20_000 {
        let stream = tested.opened(&get(id));
        if round % 6 == 5 {
            tested.feed(&reset(id, ErrorCode::CANCEL)).unwrap();
        } else {
            tested.answer(stream, true).unwrap();
        }
        id += 2;
        tested.out.clear();
    }
    // A proxy in front of us that indexes all there is, as Go's do: 4 KiB a request.
    for _ in 0..20_000 {
        let stream = tested.opened(&headers(id, HEADERS_END, "inserted=4096"));
        tested.answer(stream, true).unwrap();
        id += 2;
        tested.out.clear();
    }
    // gRPC: a stream of small messages both ways, a PING for each of ours (BDP), two WINDOW_UPDATE for each of ours.
    let stream = tested.opened(&post(id));
    tested.answer(stream, false).unwrap();
    tested.feed(&[window(0, 1_000_000), window(id, 1_000_000)].concat()).unwrap();
    for _ in 0..20_000 {
        tested.feed(&data(id, 0, &[0; 5])).unwrap();
        tested.connection.consumed(stream, 5, &mut tested.out);
        assert_eq!(tested.connection.send_data(stream, &[0; 7], false, &mut tested.out), Ok(7));
        tested.feed(&[ping(&[1; 8]), window(0, 7), window(id, 7)].concat()).unwrap();
        tested.out.clear();
    }
    // A client that grants each frame anew, and reads a large body.
    for _ in 0..20_000 {
        assert_eq!(tested.connection.send_data(stream, &[0; 16_384], false, &mut tested.out), Ok(16_384));
        tested.feed(&[window(0, 16_384), window(id, 16_384)].concat()).unwrap();
        tested.out.clear();
    }
    // Requests as Firefox sends them: PRIORITY, a window of its own, GREASE; the end of the body apart.
    for _ in 0..20_000 {
        id += 2;
        let update = frame(0x10, 0, 0, &[&id.to_be_bytes()[..], b"u=1"].concat());
        let begin = [update, post(id), window(id, 12_000_000), frame(0xfa, 0, id, b"grease")].concat();
        let saw = tested.feed(&begin).unwrap();
        let Saw::Head(stream, ..) = saw[0] else { panic!("{saw:?}") };
        tested.feed(&[data(id, 0, b""), data(id, 0, b"abc"), data(id, END_STREAM, b"")].concat()).unwrap();
        tested.connection.consumed(stream, 3, &mut tested.out);
        tested.answer(stream, true).unwrap();
        tested.out.clear();
    }
    // Ten changes of mind about the window, as gRPC adapts it.
    for bytes in 0..10 {
        tested.feed(&settings(&[(4, 65_535 << (bytes % 5))])).unwrap();
    }
}

#[test]
fn an_upstream_may_send_words_as_they_come() {
    let mut tested = Tested::new(Role::Client);
    let stream = tested.open(true, false);
    tested.feed(&headers(1, END_HEADERS, "status=200")).unwrap();
    for _ in 0..100_000 {
        assert_eq!(tested.feed(&data(1, 0, b"the ")), Ok(vec![Saw::Data(stream, b"the ".to_vec(), false)]));
        tested.connection.consumed(stream, 4, &mut tested.out);
        tested.out.clear();
    }
}

#[test]
fn windows_of_a_byte_are_an_attack() {
    let mut tested = Tested::with(Role::Server, &Settings::DEFAULT, &[(4, 1)]);
    let stream = tested.opened(&get(1));
    tested.answer(stream, false).unwrap();
    for time in 0.. {
        let _ = tested.connection.send_data(stream, &[0; 10_000], false, &mut tested.out);
        tested.out.clear();
        if let Err(gone) = tested.feed(&window(1, 1)) {
            assert_eq!(gone.reason, flaw::WINDOW_UPDATE_FLOOD);
            assert!(time <= Budget::WindowUpdate.burst() + 8);
            break;
        }
    }
}

#[test]
fn every_budget_has_its_own_reason() {
    let mut seen = Vec::new();
    for budget in ALL.into_iter().filter(|budget| *budget != Budget::Informational) {
        let reason = budget.flaw().of(Role::Server);
        assert!(reason.token.starts_with("h2_") && !seen.contains(&reason.code), "{reason:?}");
        seen.push(reason.code);
    }
}

#[test]
fn an_idle_connection_is_small() {
    assert!(size_of::<Connection>() <= 1_024, "{}", size_of::<Connection>());
    assert!(size_of::<Event<'_>>() <= 64, "{}", size_of::<Event<'_>>());
}
