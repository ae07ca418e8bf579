//! WebSocket for the generator: the handshake of a connection, then one message after the other, each of which must come back.
//!
//! Sans-IO. Called by `client`. Not for: anything but echoes; a frame that nobody asked for, a ping too, is a fault.

use super::response::{Expect, Fault};
use crate::websocket::{BINARY, CLOSE, CONTINUATION, HEAD_BYTES_MAX, Head, KEY, accept};

/// Longest head of an answer to the handshake.
const ANSWER_BYTES_MAX: usize = 16 * 1024;

/// A request that asks for it; `fields` are lines.
pub fn opening(host: &str, path: &str, fields: &str) -> Vec<u8> {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: {KEY}\r\n{fields}\r\n"
    )
    .into_bytes()
}

/// What was read of one connection.
#[derive(Default)]
pub struct Echoes {
    open: bool,
    /// The answer to the handshake, or the head of a frame, of which the end has not come yet.
    partial: Vec<u8>,
    /// Of the frame that comes: bytes to come, and whether the message ends with it.
    frame: Option<(u64, bool)>,
    /// Bytes of the message that came.
    seen: usize,
}

/// What bytes came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Came {
    /// More must come.
    Part,
    /// The handshake is over: messages can be sent.
    Open,
    /// The message is back.
    Echo,
}

impl Echoes {
    /// Takes bytes, of which there must be none behind an echo.
    ///
    /// # Errors
    /// They are not what was expected.
    pub fn receive(&mut self, mut bytes: &[u8], expect: &Expect) -> Result<Came, Fault> {
        if !self.open {
            self.partial.extend_from_slice(bytes);
            let Some(end) = memchr::memmem::find(&self.partial, b"\r\n\r\n") else {
                let long = self.partial.len() > ANSWER_BYTES_MAX;
                return if long { Err(Fault::Head) } else { Ok(Came::Part) };
            };
            if end + 4 < self.partial.len() {
                return Err(Fault::Frame);
            }
            accepted(&self.partial)?;
            self.partial.clear();
            self.open = true;
            return Ok(Came::Open);
        }
        while !bytes.is_empty() {
            let (left, fin) = match self.frame {
                Some(frame) => frame,
                None => {
                    let have = self.partial.len();
                    let more = bytes.len().min(HEAD_BYTES_MAX - have);
                    self.partial.extend_from_slice(&bytes[..more]);
                    let Some((head, used)) = Head::parse(&self.partial) else { return Ok(Came::Part) };
                    // RFC 6455 §5.1: a server does not mask.
                    let goes_on = if self.seen == 0 { BINARY } else { CONTINUATION };
                    if head.opcode == CLOSE {
                        return Err(Fault::Closed(close_code(&self.partial[used..])));
                    }
                    if head.mask.is_some() || head.opcode != goes_on {
                        return Err(Fault::Frame);
                    }
                    self.partial.clear();
                    bytes = &bytes[used - have..];
                    (head.length, head.fin)
                }
            };
            let now = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            let end = self.seen + now;
            if let Some(body) = &expect.body
                && body.get(self.seen..end) != Some(&bytes[..now])
            {
                return Err(Fault::Body);
            }
            (self.seen, bytes) = (end, &bytes[now..]);
            let left = left - now as u64;
            self.frame = (left > 0).then_some((left, fin));
            if left == 0 && fin {
                let whole = expect.body.as_ref().is_none_or(|body| body.len() == self.seen);
                self.seen = 0;
                return match (whole, bytes.is_empty()) {
                    (false, _) => Err(Fault::Body),
                    (true, false) => Err(Fault::Frame),
                    (true, true) => Ok(Came::Echo),
                };
            }
        }
        Ok(Came::Part)
    }
}

/// RFC 6455 §4.1: the answer to the handshake.
fn accepted(answer: &[u8]) -> Result<(), Fault> {
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut head = httparse::Response::new(&mut fields);
    if !matches!(head.parse(answer), Ok(httparse::Status::Complete(_))) {
        return Err(Fault::Head);
    }
    let status = head.code.unwrap_or(0);
    let right = accept(KEY.as_bytes());
    let accepted = head.headers.iter().any(|field| {
        field.name.eq_ignore_ascii_case("sec-websocket-accept") && field.value == right.as_bytes()
    });
    match (status, accepted) {
        (101, true) => Ok(()),
        (101, false) => Err(Fault::Head),
        _ => Err(Fault::Status(status)),
    }
}

/// RFC 6455 §5.5.1, if it came in the same bytes; 1005 is that there is none.
fn close_code(payload: &[u8]) -> u16 {
    payload.first_chunk().map_or(1005, |code| u16::from_be_bytes(*code))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Echoes {
        Echoes { open: true, ..Echoes::default() }
    }

    fn frame(opcode: u8, fin: bool, payload: &[u8]) -> Vec<u8> {
        let mut frame = Vec::new();
        Head { fin, opcode, mask: None, length: payload.len() as u64 }.push(&mut frame);
        frame.extend_from_slice(payload);
        frame
    }

    #[test]
    fn an_echo_is_known_wherever_it_is_cut_and_in_parts() {
        let body: Vec<u8> = (0..300u32).map(|n| n as u8).collect();
        let expect = Expect { body: Some(body.clone().into()), ..Expect::default() };
        let whole = frame(BINARY, true, &body);
        let parts = [frame(BINARY, false, &body[..100]), frame(CONTINUATION, true, &body[100..])].concat();
        for bytes in [whole, parts] {
            for cut in 1..bytes.len() {
                let mut echoes = open();
                assert_eq!(echoes.receive(&bytes[..cut], &expect), Ok(Came::Part), "{cut}");
                assert_eq!(echoes.receive(&bytes[cut..], &expect), Ok(Came::Echo), "{cut}");
                assert_eq!(echoes.receive(&bytes, &expect), Ok(Came::Echo));
            }
        }
    }

    #[test]
    fn what_is_no_echo_is_a_fault() {
        let expect = Expect { body: Some(b"ab"[..].into()), ..Expect::default() };
        for (bytes, fault) in [
            (frame(BINARY, true, b"ac"), Fault::Body),
            (frame(BINARY, true, b"abc"), Fault::Body),
            (frame(BINARY, true, b"a"), Fault::Body),
            (frame(0x9, true, b""), Fault::Frame),
            (frame(CLOSE, true, &1009u16.to_be_bytes()), Fault::Closed(1009)),
            ([frame(BINARY, true, b"ab"), frame(BINARY, true, b"ab")].concat(), Fault::Frame),
        ] {
            assert_eq!(open().receive(&bytes, &expect), Err(fault));
        }
        let refused = b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(Echoes::default().receive(refused, &expect), Err(Fault::Status(403)));
        let unproven = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n";
        assert_eq!(Echoes::default().receive(unproven, &expect), Err(Fault::Head));
    }
}
