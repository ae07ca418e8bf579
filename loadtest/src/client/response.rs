//! A response, as its bytes arrive: status and every body byte are checked, nothing is kept.
//!
//! Sans-IO. For: `client`. Not for: leniency; what does not parse, or is not what was expected, is a fault that voids
//! the round.

use std::fmt;
use std::sync::Arc;

/// Most fields a head may have.
const FIELDS_MAX: usize = 100;
/// Longest head.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// What every answer must be.
#[derive(Clone, Debug, Default)]
pub struct Expect {
    /// The status; `None`: any.
    pub status: Option<u16>,
    /// The body, byte for byte; `None`: any.
    pub body: Option<Arc<[u8]>>,
    /// The answers have no body whatever their head says: they answer HEAD.
    pub no_body: bool,
    /// The answers are gRPC's, over HTTP/2: their trailers must say that all is well.
    pub grpc: bool,
}

/// Why an answer does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The head does not parse, is too long, or its framing is contradictory.
    Head,
    /// A chunk does not parse.
    Chunk,
    /// Another status than expected.
    Status(u16),
    /// Another body than expected.
    Body,
    /// The connection ended inside the answer.
    Cut,
    /// HTTP/2: the server ended the stream, with this code.
    Reset(u32),
    /// HTTP/2: the server went away before it acted on the request.
    Unprocessed,
    /// HTTP/2: the server went away, with this code.
    GoAway(u32),
    /// HTTP/2: what the server sent is a fault of this name.
    Connection(&'static str),
    /// gRPC: the status in the trailers, if there is one.
    Grpc(Option<u32>),
    /// The handshake settled on another protocol than was asked for.
    Protocol,
    /// WebSocket: a frame that nobody asked for.
    Frame,
    /// WebSocket: the server ended it, with this code.
    Closed(u16),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Head => f.write_str("malformed response head"),
            Self::Chunk => f.write_str("malformed chunk"),
            Self::Status(status) => write!(f, "status {status}"),
            Self::Body => f.write_str("body differs"),
            Self::Cut => f.write_str("connection ended inside a response"),
            Self::Reset(code) => write!(f, "stream reset: {}", error_code(*code)),
            Self::Unprocessed => f.write_str("request not acted on: the server goes away"),
            Self::GoAway(code) => write!(f, "the server goes away: {}", error_code(*code)),
            Self::Connection(token) => write!(f, "HTTP/2 fault of the server: {token}"),
            Self::Grpc(None) => f.write_str("no grpc-status"),
            Self::Grpc(Some(status)) => write!(f, "grpc-status {status}"),
            Self::Protocol => f.write_str("the handshake settled on another protocol"),
            Self::Frame => f.write_str("a WebSocket frame that nobody asked for"),
            Self::Closed(code) => write!(f, "WebSocket closed with {code}"),
        }
    }
}

/// As RFC 9113 §7 calls it.
fn error_code(code: u32) -> String {
    const NAMES: [&str; 14] = [
        "NO_ERROR",
        "PROTOCOL_ERROR",
        "INTERNAL_ERROR",
        "FLOW_CONTROL_ERROR",
        "SETTINGS_TIMEOUT",
        "STREAM_CLOSED",
        "FRAME_SIZE_ERROR",
        "REFUSED_STREAM",
        "CANCEL",
        "COMPRESSION_ERROR",
        "CONNECT_ERROR",
        "ENHANCE_YOUR_CALM",
        "INADEQUATE_SECURITY",
        "HTTP_1_1_REQUIRED",
    ];
    NAMES.get(code as usize).map_or_else(|| format!("{code:#x}"), |name| (*name).to_owned())
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum At {
    Head,
    /// Body bytes left.
    Length(u64),
    /// In the line before a chunk.
    ChunkLine,
    /// Chunk bytes left.
    Chunk(u64),
    /// CRLF after a chunk: bytes left of it.
    ChunkEnd(u8),
    /// In the trailer section.
    Trailer,
    /// The body ends with the connection.
    Close,
}

/// One response being read.
#[derive(Debug)]
pub struct Response {
    at: At,
    /// A head or a line of which the end has not come yet.
    partial: Vec<u8>,
    body_seen: usize,
    /// The status, once the head was read.
    pub status: u16,
    /// The connection cannot carry another request.
    pub close: bool,
    /// What was kept of the body, at most as many bytes as [`Response::keeping`] was told.
    pub kept: Vec<u8>,
    keep_bytes: usize,
    /// The number in the last response's `X-Version`, if it was kept.
    pub version: Option<u64>,
}

impl Response {
    /// One of which nothing was read.
    pub fn new() -> Self {
        Self::keeping(0)
    }

    /// One that keeps the first `bytes` of each body, for those who judge answers one by one.
    pub fn keeping(bytes: usize) -> Self {
        Self {
            at: At::Head,
            partial: Vec::new(),
            body_seen: 0,
            status: 0,
            close: false,
            kept: Vec::new(),
            keep_bytes: bytes,
            version: None,
        }
    }

    /// Nothing was read yet.
    pub fn untouched(&self) -> bool {
        self.at == At::Head && self.partial.is_empty()
    }

    /// Takes bytes; answers how many were used and whether the response is complete. `self` is ready for the next
    /// response after a complete one, except for `status` and `close`, which stay to be read.
    ///
    /// # Errors
    /// See [`Fault`].
    pub fn feed(&mut self, bytes: &[u8], expect: &Expect) -> Result<(usize, bool), Fault> {
        let mut used = 0;
        loop {
            let rest = &bytes[used..];
            match self.at {
                At::Head => {
                    if rest.is_empty() {
                        return Ok((used, false));
                    }
                    let (taken, framing) = self.head(rest, expect)?;
                    used += taken;
                    match framing {
                        None => return Ok((used, false)),
                        Some(At::Length(0)) => return self.finish(used, expect),
                        Some(at) => (self.at, self.body_seen) = (at, 0),
                    }
                }
                At::Length(left) | At::Chunk(left) => {
                    if rest.is_empty() {
                        return Ok((used, false));
                    }
                    let now = rest.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                    self.body(&rest[..now], expect)?;
                    used += now;
                    let left = left - now as u64;
                    if let At::Length(_) = self.at {
                        if left == 0 {
                            return self.finish(used, expect);
                        }
                        self.at = At::Length(left);
                    } else {
                        self.at = if left == 0 { At::ChunkEnd(2) } else { At::Chunk(left) };
                    }
                }
                At::ChunkEnd(left) => {
                    let Some(&byte) = rest.first() else { return Ok((used, false)) };
                    if byte != if left == 2 { b'\r' } else { b'\n' } {
                        return Err(Fault::Chunk);
                    }
                    used += 1;
                    self.at = if left == 2 { At::ChunkEnd(1) } else { At::ChunkLine };
                }
                At::ChunkLine | At::Trailer => {
                    let end = memchr::memchr(b'\n', rest);
                    self.partial.extend_from_slice(&rest[..end.map_or(rest.len(), |end| end + 1)]);
                    if self.partial.len() > HEAD_BYTES_MAX {
                        return Err(Fault::Chunk);
                    }
                    let Some(end) = end else { return Ok((bytes.len(), false)) };
                    used += end + 1;
                    let line = std::mem::take(&mut self.partial);
                    let line = line.strip_suffix(b"\r\n").ok_or(Fault::Chunk)?;
                    if self.at == At::Trailer {
                        if line.is_empty() {
                            return self.finish(used, expect);
                        }
                    } else {
                        self.at = match chunk_bytes(line).ok_or(Fault::Chunk)? {
                            0 => At::Trailer,
                            left => At::Chunk(left),
                        };
                    }
                }
                At::Close => {
                    self.body(rest, expect)?;
                    return Ok((bytes.len(), false));
                }
            }
        }
    }

    /// The connection ended; answers whether that completes the response.
    ///
    /// # Errors
    /// [`Fault::Cut`] if it does not, [`Fault::Body`] if the body was too short.
    pub fn end(&mut self, expect: &Expect) -> Result<(), Fault> {
        if self.at != At::Close {
            return Err(Fault::Cut);
        }
        self.close = true;
        self.finish(0, expect).map(drop)
    }

    fn finish(&mut self, used: usize, expect: &Expect) -> Result<(usize, bool), Fault> {
        self.at = At::Head;
        let seen = std::mem::take(&mut self.body_seen);
        if !expect.no_body && expect.body.as_ref().is_some_and(|body| body.len() != seen) {
            return Err(Fault::Body);
        }
        Ok((used, true))
    }

    fn body(&mut self, bytes: &[u8], expect: &Expect) -> Result<(), Fault> {
        let end = self.body_seen + bytes.len();
        if let Some(body) = &expect.body
            && body.get(self.body_seen..end) != Some(bytes)
        {
            return Err(Fault::Body);
        }
        self.body_seen = end;
        let room = self.keep_bytes - self.kept.len();
        self.kept.extend_from_slice(&bytes[..bytes.len().min(room)]);
        Ok(())
    }

    /// Reads a head, or keeps the beginning of one: bytes taken, and what follows.
    fn head(&mut self, bytes: &[u8], expect: &Expect) -> Result<(usize, Option<At>), Fault> {
        if self.partial.is_empty() {
            match self.parse(bytes, expect)? {
                Some((length, at)) => return Ok((length, Some(at))),
                None => self.partial.extend_from_slice(bytes),
            }
        } else {
            let before = self.partial.len();
            self.partial.extend_from_slice(bytes);
            let partial = std::mem::take(&mut self.partial);
            match self.parse(&partial, expect)? {
                Some((length, at)) => return Ok((length - before, Some(at))),
                None => self.partial = partial,
            }
        }
        if self.partial.len() > HEAD_BYTES_MAX { Err(Fault::Head) } else { Ok((bytes.len(), None)) }
    }

    fn parse(&mut self, bytes: &[u8], expect: &Expect) -> Result<Option<(usize, At)>, Fault> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut head = httparse::Response::new(&mut fields);
        let httparse::Status::Complete(length) = head.parse(bytes).map_err(|_| Fault::Head)? else {
            return Ok(None);
        };
        let status = head.code.ok_or(Fault::Head)?;
        if (100..200).contains(&status) {
            // An interim answer: the final one follows. What was taken is taken; nothing else changes.
            let (more, at) = match self.parse(&bytes[length..], expect)? {
                Some(next) => next,
                None => return Ok(None),
            };
            return Ok(Some((length + more, at)));
        }
        self.status = status;
        self.close = head.version == Some(0);
        self.kept.clear();
        self.version = None;
        let (mut declared, mut chunked) = (None, false);
        for field in head.headers.iter() {
            if field.name.eq_ignore_ascii_case("content-length") {
                let value =
                    str::from_utf8(field.value).ok().and_then(|value| value.trim().parse::<u64>().ok());
                declared = Some(value.ok_or(Fault::Head)?);
            } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = field.value.eq_ignore_ascii_case(b"chunked");
            } else if field.name.eq_ignore_ascii_case("connection") {
                self.close |= field.value.eq_ignore_ascii_case(b"close");
            } else if self.keep_bytes > 0 && field.name.eq_ignore_ascii_case("x-version") {
                self.version = str::from_utf8(field.value).ok().and_then(|value| value.parse().ok());
            }
        }
        if expect.status.is_some_and(|expected| expected != status) {
            return Err(Fault::Status(status));
        }
        // RFC 9112 §6.3: which answers have no body, then Transfer-Encoding before Content-Length.
        let at = match (chunked, declared) {
            _ if expect.no_body || status == 204 || status == 304 => At::Length(0),
            (true, Some(_)) => return Err(Fault::Head),
            (true, None) => At::ChunkLine,
            (false, Some(length)) => At::Length(length),
            (false, None) => At::Close,
        };
        Ok(Some((length, at)))
    }
}

fn chunk_bytes(line: &[u8]) -> Option<u64> {
    let digits = line.split(|&byte| byte == b';').next()?.trim_ascii_end();
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u64::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expect(body: &[u8]) -> Expect {
        Expect { status: Some(200), body: Some(body.into()), ..Expect::default() }
    }

    /// Feeds `bytes` cut in two at every place; each must give the same end.
    fn every_cut(bytes: &[u8], expect: &Expect) -> Result<bool, Fault> {
        let mut verdicts = Vec::new();
        for cut in 0..=bytes.len() {
            let mut response = Response::new();
            let verdict = response.feed(&bytes[..cut], expect).and_then(|(used, done)| {
                if done {
                    assert_eq!(used, cut);
                    return Ok(true);
                }
                assert_eq!(used, cut);
                response.feed(&bytes[cut..], expect).map(|(used, done)| {
                    assert!(!done || cut + used == bytes.len());
                    done
                })
            });
            verdicts.push(verdict);
        }
        assert!(verdicts.windows(2).all(|pair| pair[0] == pair[1]), "{verdicts:?}");
        verdicts[0].clone()
    }

    #[test]
    fn content_length_and_chunked_are_read_wherever_they_are_cut() {
        let plain = b"HTTP/1.1 200 OK\r\nServer: x\r\ncontent-length: 5\r\n\r\nhello";
        assert_eq!(every_cut(plain, &expect(b"hello")), Ok(true));
        let chunked =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\nA: b\r\n\r\n";
        assert_eq!(every_cut(chunked, &expect(b"hello")), Ok(true));
        let interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(every_cut(interim, &expect(b"")), Ok(true));
    }

    #[test]
    fn another_status_or_body_is_a_fault() {
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";
        for body in [&b"hell"[..], b"hello!", b"jello", b""] {
            assert_eq!(Response::new().feed(answer, &expect(body)), Err(Fault::Body), "{body:?}");
        }
        let refused = b"HTTP/1.1 429 Too Many Requests\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(Response::new().feed(refused, &expect(b"")), Err(Fault::Status(429)));
    }

    #[test]
    fn what_does_not_parse_is_a_fault() {
        for bad in [
            &b"HTP/1.1 200 OK\r\n\r\n"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            assert_eq!(Response::new().feed(bad, &Expect::default()), Err(Fault::Head));
        }
        for bad in [&b"x\r\n"[..], b"\r\n", b"2\nab", b"2\r\nabc\r\n", b"fffffffffffffffff\r\n"] {
            let mut all = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            all.extend_from_slice(bad);
            assert_eq!(Response::new().feed(&all, &Expect::default()), Err(Fault::Chunk));
        }
    }

    #[test]
    fn the_end_completes_only_a_body_without_framing() {
        let mut response = Response::new();
        assert_eq!(response.feed(b"HTTP/1.0 200 OK\r\n\r\nhel", &expect(b"hello")), Ok((22, false)));
        assert_eq!(response.feed(b"lo", &expect(b"hello")), Ok((2, false)));
        assert_eq!(response.end(&expect(b"hello")), Ok(()));
        assert!(response.close);
        let mut response = Response::new();
        response.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhe", &expect(b"hello")).unwrap();
        assert_eq!(response.end(&expect(b"hello")), Err(Fault::Cut));
    }

    #[test]
    fn an_answer_to_head_has_no_body() {
        let expect = Expect { status: Some(200), no_body: true, ..Expect::default() };
        let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
        assert_eq!(Response::new().feed(head, &expect), Ok((head.len(), true)));
    }
}
