//! The backend's HTTP/2: the streams of one connection, on [`ringwall::h2`] in the role of a server.
//!
//! Called by `backend`. Bodies of requests are consumed as they come; answers go out as windows let them, those of many streams
//! in one write. A gRPC call is answered with one message and the trailers that say that all is well.

use std::io;

use ringwall::h2::blocks::Compression;
use ringwall::h2::connection::{Decoded, Section, Undecodable};
use ringwall::h2::hpack::{Error, Line, Pseudo, Sharing};
use ringwall::h2::{Connection, ErrorCode, Event, FieldBlocks, Role, Settings, StreamId, StreamKey};
use ringwall::http::{BodyLength, Known};

use super::{Answers, Asked, Transport};

/// Streams that a proxy may open at once.
const STREAMS: u32 = 1_024;
/// What one may send before its bytes are looked at, which they are at once.
const STREAM_WINDOW: u32 = 2 << 20;
/// The same of all streams.
const CONNECTION_WINDOW: u32 = 32 << 20;
/// Most bytes of a head that are looked at.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes that wait for the socket before answers wait for them.
const OUTPUT_BYTES: usize = 256 * 1024;

/// The streams of a connection.
pub struct Streams {
    connection: Connection,
    compression: Compression,
    arena: Vec<u8>,
    /// By the slots of their streams.
    exchanges: Vec<Exchange>,
    output: Vec<u8>,
    sent: usize,
}

#[derive(Clone, Copy, Default)]
struct Exchange {
    asked: Asked,
    /// How much of the answer's body went.
    sent: usize,
    /// A request that still comes, or an answer that still goes.
    is_open: bool,
}

struct Blocks<'a> {
    compression: &'a mut Compression,
    arena: &'a mut Vec<u8>,
    asked: Asked,
}

impl FieldBlocks for Blocks<'_> {
    fn decode(&mut self, _: Section, _: StreamId, _: bool, block: &[u8]) -> Result<Decoded, Undecodable> {
        let (mut asked, mut is_get, mut is_grpc) = (Asked::Small, false, false);
        self.arena.clear();
        let decoded =
            self.compression.decoder.decode(block, HEAD_BYTES_MAX, self.arena, |arena, line: Line| {
                let value = line.value(arena);
                match (line.pseudo, line.known) {
                    (Pseudo::Method, _) => is_get = value == b"GET",
                    (Pseudo::Path, _) => asked = Asked::of_target(value),
                    (_, Known::ContentType) => is_grpc = value.starts_with(b"application/grpc"),
                    _ => {}
                }
                true
            });
        self.asked = match (is_get, is_grpc) {
            (true, _) => asked,
            (false, true) => Asked::Grpc,
            (false, false) => Asked::Small,
        };
        match decoded {
            Ok(_) => Ok(Decoded::default()),
            Err(Error::Churn) => Err(Undecodable::Churn),
            Err(_) => Err(Undecodable::Malformed),
        }
    }

    fn encoder_table_bytes(&mut self, bytes: u32) {
        self.compression.encoder.limit(bytes);
    }
}

impl Streams {
    /// Those of a connection that begins.
    pub fn new() -> Self {
        let settings = Settings {
            streams_max: STREAMS,
            stream_window: STREAM_WINDOW,
            stream_window_max: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
            ..Settings::DEFAULT
        };
        let mut output = Vec::new();
        let connection = Connection::new(Role::Server, &settings, 0, &mut output);
        Self {
            connection,
            compression: Compression::new(Sharing::Many),
            arena: Vec::new(),
            exchanges: Vec::new(),
            output,
            sent: 0,
        }
    }

    /// Takes bytes and answers what is whole. The time is in milliseconds.
    ///
    /// # Errors
    /// The socket failed, or the connection is over.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        now_ms: u64,
        answers: &mut Answers,
        transport: &mut Transport,
    ) -> io::Result<()> {
        let mut at = 0;
        loop {
            let mut blocks =
                Blocks { compression: &mut self.compression, arena: &mut self.arena, asked: Asked::Small };
            let received = self.connection.receive(&bytes[at..], now_ms, &mut blocks, &mut self.output);
            let asked = blocks.asked;
            let (taken, event) = match received {
                Ok(taken) => taken,
                Err(gone) => {
                    // What the proxy did wrong is worth a line: nothing of it is expected.
                    eprintln!("backend: HTTP/2: {}", gone.reason.token);
                    let _ = self.flush(transport);
                    return Err(io::ErrorKind::InvalidData.into());
                }
            };
            at += taken;
            match event {
                Event::Idle => break,
                Event::Head { stream, end, .. } => {
                    let slot = stream.slot();
                    if self.exchanges.len() <= slot {
                        self.exchanges.resize(slot + 1, Exchange::default());
                    }
                    self.exchanges[slot] = Exchange { asked, sent: 0, is_open: true };
                    if end {
                        self.answer(stream, answers);
                    }
                }
                Event::Data { stream, bytes: part, end } => {
                    self.connection.consumed(stream, part.len(), &mut self.output);
                    if end {
                        self.answer(stream, answers);
                    }
                }
                Event::Trailers { stream } => self.answer(stream, answers),
                Event::Reset { stream, .. } => {
                    if let Some(exchange) = self.exchanges.get_mut(stream.slot()) {
                        exchange.is_open = false;
                    }
                }
                Event::Settings | Event::Informational { .. } | Event::GoAway { .. } | Event::Pong { .. } => {
                }
            }
        }
        self.send(answers, transport)
    }

    /// The head of an answer, and its body if it fits.
    fn answer(&mut self, stream: StreamKey, answers: &mut Answers) {
        let asked = self.exchanges.get(stream.slot()).map_or(Asked::Small, |exchange| exchange.asked);
        let length = answers.body(asked).len() as u64;
        let encoder = &mut self.compression.encoder;
        let sent = self.connection.send_head(stream, false, &mut self.output, |out| {
            let mut block = encoder.block(out);
            block.status(200);
            block.lines(asked.kind_line());
            if asked != Asked::Grpc {
                block.length(BodyLength::Length(length));
            }
        });
        if sent.is_ok() {
            self.body(stream, answers);
        }
    }

    /// Sends what windows let of a body; its turn comes again for the rest.
    fn body(&mut self, stream: StreamKey, answers: &mut Answers) {
        let Some(exchange) = self.exchanges.get_mut(stream.slot()).filter(|exchange| exchange.is_open) else {
            self.connection.want(stream, false);
            return;
        };
        let is_grpc = exchange.asked == Asked::Grpc;
        let rest = &answers.body(exchange.asked)[exchange.sent..];
        let Ok(taken) = self.connection.data_head(stream, rest.len(), !is_grpc, &mut self.output) else {
            exchange.is_open = false;
            self.connection.want(stream, false);
            return;
        };
        self.output.extend_from_slice(&rest[..taken]);
        exchange.sent += taken;
        let done = taken == rest.len();
        if done {
            exchange.is_open = false;
        }
        self.connection.want(stream, !done);
        if done && is_grpc {
            let encoder = &mut self.compression.encoder;
            let ended = self.connection.send_trailers(stream, &mut self.output, |out| {
                encoder.block(out).lines(b"grpc-status: 0\r\n");
            });
            if ended.is_err() {
                self.connection.reset(stream, ErrorCode::INTERNAL_ERROR, &mut self.output);
            }
        }
    }

    /// Sends what the socket and the windows take.
    ///
    /// # Errors
    /// The socket failed.
    pub fn send(&mut self, answers: &mut Answers, transport: &mut Transport) -> io::Result<()> {
        loop {
            while self.output.len() - self.sent < OUTPUT_BYTES
                && let Some(stream) = self.connection.next_writable()
            {
                self.body(stream, answers);
            }
            if self.output.is_empty() || !self.flush(transport)? {
                return Ok(());
            }
        }
    }

    /// Sends what is in the output; says whether all of it went.
    fn flush(&mut self, transport: &mut Transport) -> io::Result<bool> {
        while self.sent < self.output.len() {
            match transport.write(&self.output[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(true)
    }
}
