//! HTTP/2 for the generator: the exchanges of one connection, as their bytes arrive and leave.
//!
//! Sans-IO, on [`ringwall::h2`] in the role of a client: the codec that the gateway itself runs on is as cheap as the generator
//! must be. What both sides might get wrong alike is not for a load test to find but for those with other people's codecs
//! (`tests/it`). Called by `client`. Every answer is checked as over HTTP/1.1: status and every byte of the body; a gRPC answer
//! must also say in its trailers that it is well.

use std::collections::VecDeque;
use std::io;

use ringwall::h2::blocks::Compression;
use ringwall::h2::connection::{Cause, Decoded, NotOpened, Opening, Section, Undecodable};
use ringwall::h2::hpack::{Encoder, Error, Line, Marks, Pseudo, Sharing};
use ringwall::h2::{Connection, ErrorCode, Event, FieldBlocks, Role, Settings, StreamId, StreamKey};
use ringwall::http::{BodyLength, Known};

use super::Failure;
use super::response::{Expect, Fault};

/// What a stream may send before its bytes are looked at, which they are at once: no server shall wait for the generator.
const STREAM_WINDOW: u32 = 2 << 20;
/// The same of all streams.
const CONNECTION_WINDOW: u32 = 32 << 20;
/// Most bytes of a head that are looked at.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes that wait for the socket before bodies wait for them.
const OUTPUT_BYTES: usize = 128 * 1024;
/// What is wrong with a name or a value that no server may send (RFC 9113 §8.2).
const FORBIDDEN: Marks =
    Marks::NAME_SYNTAX.and(Marks::NAME_UPPER).and(Marks::VALUE_CONTROL).and(Marks::VALUE_EDGE);

/// A request, as HTTP/2 has it.
pub struct Request {
    method: Vec<u8>,
    authority: Vec<u8>,
    path: Vec<u8>,
    /// `name: value` CRLF each.
    lines: Vec<u8>,
    te_trailers: bool,
    body: Vec<u8>,
}

impl Request {
    /// That which a whole request of HTTP/1.1 says.
    ///
    /// # Errors
    /// It is none.
    pub fn of(whole: &[u8]) -> io::Result<Self> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidInput, "not a request");
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut head = httparse::Request::new(&mut fields);
        let httparse::Status::Complete(length) = head.parse(whole).map_err(|_| wrong())? else {
            return Err(wrong());
        };
        let mut request = Self {
            method: head.method.ok_or_else(wrong)?.as_bytes().to_vec(),
            authority: Vec::new(),
            path: head.path.ok_or_else(wrong)?.as_bytes().to_vec(),
            lines: Vec::new(),
            te_trailers: false,
            body: whole[length..].to_vec(),
        };
        for field in head.headers.iter() {
            if field.name.eq_ignore_ascii_case("host") {
                request.authority = field.value.to_vec();
            } else if field.name.eq_ignore_ascii_case("te") {
                request.te_trailers = field.value.eq_ignore_ascii_case(b"trailers");
            } else {
                for part in [field.name.to_ascii_lowercase().as_bytes(), b": ", field.value, b"\r\n"] {
                    request.lines.extend_from_slice(part);
                }
            }
        }
        Ok(request)
    }

    fn write(&self, secure: bool, encoder: &mut Encoder, out: &mut Vec<u8>) {
        let mut block = encoder.block(out);
        block.method(&self.method);
        block.scheme(secure);
        block.authority(&self.authority);
        block.path(&self.path, None);
        block.lines(&self.lines);
        if !self.body.is_empty() {
            block.length(BodyLength::Length(self.body.len() as u64));
        }
        if self.te_trailers {
            block.te_trailers();
        }
    }
}

/// The end of an exchange.
pub struct Over {
    /// When the request was due.
    pub due_ns: u64,
    /// The status of an answer that is as expected.
    pub outcome: Result<u16, Failure>,
}

/// The requests of one connection that stands.
pub struct Multiplex {
    connection: Connection,
    compression: Compression,
    arena: Vec<u8>,
    secure: bool,
    /// By the slots of their streams.
    exchanges: Vec<Option<Exchange>>,
    under_way: usize,
    output: Vec<u8>,
    /// How much of the output went.
    sent: usize,
}

struct Exchange {
    due_ns: u64,
    request: usize,
    /// How much of the request's body went.
    sent: usize,
    status: u16,
    /// How much of the answer's body came.
    seen: usize,
    grpc_status: Option<u32>,
}

/// What a head or trailers said that matters here.
#[derive(Clone, Copy, Default)]
struct Said {
    status: u16,
    grpc_status: Option<u32>,
    malformed: bool,
}

struct Blocks<'a> {
    compression: &'a mut Compression,
    arena: &'a mut Vec<u8>,
    said: Said,
}

impl FieldBlocks for Blocks<'_> {
    fn decode(&mut self, _: Section, _: StreamId, _: bool, block: &[u8]) -> Result<Decoded, Undecodable> {
        let (mut said, mut content_length) = (Said::default(), None);
        self.arena.clear();
        let decoded =
            self.compression.decoder.decode(block, HEAD_BYTES_MAX, self.arena, |arena, line: Line| {
                said.malformed |= line.marks.has(FORBIDDEN);
                let number = || str::from_utf8(line.value(arena)).ok()?.parse::<u64>().ok();
                if line.pseudo == Pseudo::Status {
                    said.status = number().and_then(|status| u16::try_from(status).ok()).unwrap_or(0);
                } else if line.known == Known::ContentLength {
                    content_length = number();
                    said.malformed |= content_length.is_none();
                } else if line.value_len < 10 && line.name(arena) == b"grpc-status" {
                    said.grpc_status = number().map(|status| status as u32);
                }
                true
            });
        self.said = said;
        match decoded {
            Ok(_) => Ok(Decoded { content_length, status: said.status, ..Decoded::default() }),
            Err(Error::Churn) => Err(Undecodable::Churn),
            Err(_) => Err(Undecodable::Malformed),
        }
    }

    fn encoder_table_bytes(&mut self, bytes: u32) {
        self.compression.encoder.limit(bytes);
    }
}

impl Multiplex {
    /// That of a connection that stands now, for `streams` requests at once.
    pub fn new(streams: usize, secure: bool, now_ns: u64) -> Self {
        let settings = Settings {
            streams_max: streams.clamp(1, 10_000) as u32,
            stream_window: STREAM_WINDOW,
            stream_window_max: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
            ..Settings::DEFAULT
        };
        let mut output = Vec::new();
        let connection = Connection::new(Role::Client, &settings, now_ns / 1_000_000, &mut output);
        Self {
            connection,
            compression: Compression::new(Sharing::One),
            arena: Vec::new(),
            secure,
            exchanges: Vec::new(),
            under_way: 0,
            output,
            sent: 0,
        }
    }

    /// Requests that wait for their answers.
    pub fn under_way(&self) -> usize {
        self.under_way
    }

    /// No further request can be sent: the connection is to be replaced once none is under way.
    pub fn is_closing(&self) -> bool {
        self.connection.is_closing()
    }

    /// Takes bytes of the server. What ended with them is appended to `over`.
    ///
    /// # Errors
    /// The connection is of no use any more; what is under way on it has failed.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        now_ns: u64,
        requests: &[Request],
        expect: &Expect,
        over: &mut Vec<Over>,
    ) -> Result<(), Failure> {
        let mut at = 0;
        loop {
            let mut blocks =
                Blocks { compression: &mut self.compression, arena: &mut self.arena, said: Said::default() };
            let (taken, event) = self
                .connection
                .receive(&bytes[at..], now_ns / 1_000_000, &mut blocks, &mut self.output)
                .map_err(|gone| Failure::Fault(Fault::Connection(gone.reason.token)))?;
            let said = blocks.said;
            at += taken;
            // How the stream of the event stands now: whether its answer is complete, or wrong.
            let (stream, end) = match event {
                Event::Idle => return Ok(()),
                Event::Settings | Event::Informational { .. } | Event::Pong { .. } => continue,
                Event::GoAway { code: ErrorCode::NO_ERROR, .. } => continue,
                // What is under way may still be answered; what was not acted on is reset next.
                Event::GoAway { code, .. } if self.under_way == 0 => {
                    return Err(Failure::Fault(Fault::GoAway(code.0)));
                }
                Event::GoAway { .. } => continue,
                Event::Reset { stream, code, cause } => {
                    let fault = match cause {
                        Cause::Peer => Fault::Reset(code.0),
                        Cause::Unprocessed => Fault::Unprocessed,
                        Cause::Fault(reason) => Fault::Connection(reason.token),
                    };
                    self.end(stream, Err(fault), over);
                    continue;
                }
                Event::Head { stream, end, .. } => {
                    let judged = self.exchange(stream).map(|exchange| {
                        exchange.status = said.status;
                        exchange.grpc_status = said.grpc_status;
                        head_fault(said, expect)
                    });
                    if let Some(Some(fault)) = judged {
                        self.end(stream, Err(fault), over);
                        continue;
                    }
                    (stream, end)
                }
                Event::Data { stream, bytes: part, end } => {
                    let good = self.exchange(stream).is_none_or(|exchange| {
                        let from = exchange.seen;
                        exchange.seen += part.len();
                        expect
                            .body
                            .as_ref()
                            .is_none_or(|body| body.get(from..from + part.len()) == Some(part))
                    });
                    self.connection.consumed(stream, part.len(), &mut self.output);
                    if !good {
                        self.end(stream, Err(Fault::Body), over);
                        continue;
                    }
                    (stream, end)
                }
                Event::Trailers { stream } => {
                    if let Some(exchange) = self.exchange(stream) {
                        exchange.grpc_status = said.grpc_status.or(exchange.grpc_status);
                    }
                    (stream, true)
                }
            };
            if end && let Some(exchange) = self.exchange(stream) {
                let verdict = complete(exchange, expect, requests);
                self.end(stream, verdict, over);
            }
        }
    }

    /// Sends what waits, as far as the server takes requests and windows let bodies.
    pub fn go_on(&mut self, waiting: &mut VecDeque<(usize, u64)>, requests: &[Request]) {
        while let Some(&(number, due_ns)) = waiting.front() {
            if self.pending().len() > OUTPUT_BYTES {
                return;
            }
            // Whoever sends more before the server has said how many it takes has some of them refused (RFC 9113 §5.1.2).
            if self.under_way > 0 && !self.connection.is_settled() {
                break;
            }
            let request = &requests[number];
            let opening = Opening { end: request.body.is_empty(), head_request: request.method == b"HEAD" };
            let (encoder, secure) = (&mut self.compression.encoder, self.secure);
            let opened =
                self.connection.open(opening, &mut self.output, |out| request.write(secure, encoder, out));
            let stream = match opened {
                Ok(stream) => stream,
                Err(NotOpened::Full | NotOpened::Over) => break,
            };
            waiting.pop_front();
            if self.exchanges.len() <= stream.slot() {
                self.exchanges.resize_with(stream.slot() + 1, || None);
            }
            self.under_way += 1;
            self.exchanges[stream.slot()] =
                Some(Exchange { due_ns, request: number, sent: 0, status: 0, seen: 0, grpc_status: None });
            if !request.body.is_empty() {
                self.connection.want(stream, true);
            }
        }
        while self.pending().len() <= OUTPUT_BYTES
            && let Some(stream) = self.connection.next_writable()
        {
            let Some(exchange) = self.exchanges.get_mut(stream.slot()).and_then(Option::as_mut) else {
                self.connection.want(stream, false);
                continue;
            };
            let rest = &requests[exchange.request].body[exchange.sent..];
            match self.connection.data_head(stream, rest.len(), true, &mut self.output) {
                Ok(taken) => {
                    self.output.extend_from_slice(&rest[..taken]);
                    exchange.sent += taken;
                    if taken == rest.len() || taken == 0 {
                        self.connection.want(stream, false);
                    }
                }
                Err(_) => self.connection.want(stream, false),
            }
        }
    }

    /// Bytes for the socket.
    pub fn pending(&self) -> &[u8] {
        &self.output[self.sent..]
    }

    /// The socket took so many of them.
    pub fn took(&mut self, bytes: usize) {
        self.sent += bytes;
        if self.sent == self.output.len() {
            self.output.clear();
            self.sent = 0;
        }
    }

    fn exchange(&mut self, stream: StreamKey) -> Option<&mut Exchange> {
        self.exchanges.get_mut(stream.slot()).and_then(Option::as_mut)
    }

    /// An exchange is over; its stream is given up if the connection does not know that yet.
    fn end(&mut self, stream: StreamKey, outcome: Result<u16, Fault>, over: &mut Vec<Over>) {
        let Some(exchange) = self.exchanges.get_mut(stream.slot()).and_then(Option::take) else { return };
        self.under_way -= 1;
        self.connection.reset(stream, ErrorCode::CANCEL, &mut self.output);
        over.push(Over { due_ns: exchange.due_ns, outcome: outcome.map_err(Failure::Fault) });
    }
}

fn head_fault(said: Said, expect: &Expect) -> Option<Fault> {
    if said.malformed || !(200..600).contains(&said.status) {
        Some(Fault::Head)
    } else if expect.status.is_some_and(|expected| expected != said.status) {
        Some(Fault::Status(said.status))
    } else {
        None
    }
}

/// The answer is whole: is it what was expected?
fn complete(exchange: &Exchange, expect: &Expect, requests: &[Request]) -> Result<u16, Fault> {
    let no_body = expect.no_body || requests[exchange.request].method == b"HEAD";
    if expect.grpc && exchange.grpc_status != Some(0) {
        Err(Fault::Grpc(exchange.grpc_status))
    } else if !no_body && expect.body.as_ref().is_some_and(|body| body.len() != exchange.seen) {
        Err(Fault::Body)
    } else {
        Ok(exchange.status)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_says_the_same_over_either_protocol() {
        let whole =
            b"POST /a?b=c HTTP/1.1\r\nHost: h:1\r\nTE: trailers\r\nX-Y: z\r\nContent-Length: 2\r\n\r\nok";
        let request = Request::of(whole).unwrap();
        let mut encoder = Encoder::new(Sharing::One);
        let mut block = Vec::new();
        request.write(true, &mut encoder, &mut block);
        let mut lines = Vec::new();
        ringwall::h2::hpack::Decoder::new().decode(&block, HEAD_BYTES_MAX, &mut lines, |_, _| true).unwrap();
        assert_eq!(
            String::from_utf8(lines).unwrap(),
            ":method: POST\r\n:scheme: https\r\n:authority: h:1\r\n:path: /a?b=c\r\nx-y: z\r\ncontent-length: 2\r\nte: trailers\r\n"
        );
        assert_eq!(request.body, b"ok");
        assert!(Request::of(b"nothing").is_err());
    }
}
