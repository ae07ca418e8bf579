//! The backend's HTTP/1.1: requests are taken apart as far as it takes to know where they end and what is asked for.
//!
//! Called by `backend`. Not for: strictness; it believes the proxy in front of it.

use std::io;

use super::websocket::Echo;
use super::{Answers, Asked, Transport};

/// Longest request head that is accepted.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// What a connection is about to do.
#[derive(Default)]
pub struct Requests {
    /// A head of which the end has not come yet.
    partial: Vec<u8>,
    /// Bytes of the request's body still to drain.
    body_left: u64,
    /// The answer owed once the body is drained.
    owed: Asked,
    /// An answer that the socket did not take whole: which, and how much of it went.
    pending: Option<(Asked, usize)>,
    /// From here on it is WebSocket.
    upgraded: bool,
}

impl Requests {
    /// Takes bytes and answers each whole request.
    ///
    /// # Errors
    /// The socket failed, or this backend does not understand what came.
    pub fn receive(
        &mut self,
        bytes: &[u8],
        answers: &mut Answers,
        transport: &mut Transport,
    ) -> io::Result<()> {
        if self.partial.is_empty() {
            let used = self.take(bytes, answers, transport)?;
            self.partial.extend_from_slice(&bytes[used..]);
        } else {
            let mut joined = std::mem::take(&mut self.partial);
            joined.extend_from_slice(bytes);
            let used = self.take(&joined, answers, transport)?;
            self.partial.extend_from_slice(&joined[used..]);
        }
        if self.partial.len() > HEAD_BYTES_MAX { Err(io::ErrorKind::InvalidData.into()) } else { Ok(()) }
    }

    /// What came behind a request for WebSocket that was granted; `None` if there was none.
    pub fn upgraded(&mut self) -> Option<Vec<u8>> {
        self.upgraded.then(|| std::mem::take(&mut self.partial))
    }

    /// Consumes whole requests and body bytes; what is left is the beginning of a head.
    fn take(
        &mut self,
        mut bytes: &[u8],
        answers: &mut Answers,
        transport: &mut Transport,
    ) -> io::Result<usize> {
        let all = bytes.len();
        while !bytes.is_empty() {
            if self.body_left > 0 {
                let now = bytes.len().min(usize::try_from(self.body_left).unwrap_or(usize::MAX));
                self.body_left -= now as u64;
                bytes = &bytes[now..];
                if self.body_left == 0 {
                    self.answer(self.owed, answers, transport)?;
                }
                continue;
            }
            let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { break };
            let head = &bytes[..end + 4];
            bytes = &bytes[end + 4..];
            let is_get = head.starts_with(b"GET ");
            if is_get
                && target(head).ends_with(b"/echo")
                && let Some(key) = field(head, b"sec-websocket-key")
            {
                let welcome = Echo::welcome(key);
                if transport.write(&welcome)? < welcome.len() {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                self.upgraded = true;
                break;
            }
            let asked = if is_get { Asked::of_target(target(head)) } else { Asked::Small };
            let length = if is_get { 0 } else { content_length(head)? };
            if length > 0 {
                (self.body_left, self.owed) = (length, asked);
            } else {
                self.answer(asked, answers, transport)?;
            }
        }
        Ok(all - bytes.len())
    }

    fn answer(&mut self, asked: Asked, answers: &mut Answers, transport: &mut Transport) -> io::Result<()> {
        if self.pending.is_some() {
            // Pipelining is nothing that any contender does to its upstream.
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.pending = Some((asked, 0));
        self.send(answers, transport)
    }

    /// Sends what the socket takes of the answer that is owed.
    ///
    /// # Errors
    /// The socket failed.
    pub fn send(&mut self, answers: &mut Answers, transport: &mut Transport) -> io::Result<()> {
        let Some((asked, mut sent)) = self.pending.take() else { return Ok(()) };
        let answer = answers.whole(asked);
        while sent < answer.len() {
            match transport.write(&answer[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.pending = Some((asked, sent));
                    return Ok(());
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn target(head: &[u8]) -> &[u8] {
    head.split(|&b| b == b' ').nth(1).unwrap_or_default()
}

fn field<'h>(head: &'h [u8], wanted: &[u8]) -> Option<&'h [u8]> {
    head.split(|&b| b == b'\n').find_map(|line| {
        let colon = memchr::memchr(b':', line)?;
        line[..colon].eq_ignore_ascii_case(wanted).then(|| line[colon + 1..].trim_ascii())
    })
}

/// The declared length of the body. A chunked body is refused: no contender is configured to send one.
fn content_length(head: &[u8]) -> io::Result<u64> {
    for line in head.split(|&b| b == b'\n') {
        let Some(colon) = memchr::memchr(b':', line) else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if name.eq_ignore_ascii_case(b"content-length") {
            let value = str::from_utf8(value).ok().and_then(|value| value.parse().ok());
            return value.ok_or_else(|| io::ErrorKind::InvalidData.into());
        }
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a chunked request body"));
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_length_is_found_in_any_case_and_chunked_is_refused() {
        assert_eq!(
            content_length(b"POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH:  12 \r\n\r\n").unwrap(),
            12
        );
        assert_eq!(content_length(b"POST / HTTP/1.1\r\nHost: a:80\r\n\r\n").unwrap(), 0);
        assert!(content_length(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n").is_err());
        assert!(content_length(b"POST / HTTP/1.1\r\nContent-Length: +5x\r\n\r\n").is_err());
    }
}
