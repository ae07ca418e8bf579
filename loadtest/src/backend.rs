//! The backend that every contender forwards to: HTTP/1.1 keep-alive on one epoll loop, with fixed answers.
//!
//! For: being so cheap that it shares a core with the load generator and still outruns every proxy. Not for: strictness;
//! it believes the proxy in front of it. Called by the `backend` subcommand.
//!
//! | request | answer |
//! |---|---|
//! | `GET …/1m` | 200, 1 MiB of [`large_body`] |
//! | any other GET | 200, [`SMALL_BODY`] |
//! | POST, PUT with a body | the body is drained, then 200, [`SMALL_BODY`] |

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use clap::Args;

use crate::sys::{self, Epoll};

/// The body of every small answer.
pub const SMALL_BODY: &[u8] =
    br#"{"id":"ord_48213","state":"paid","total":{"amount":4999,"currency":"EUR"},"lines":3}"#;
/// The length of the large answer.
pub const LARGE_BODY_BYTES: usize = 1 << 20;
/// Bytes one read takes at most.
const READ_BYTES: usize = 128 * 1024;
/// Longest request head that is accepted.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// The token of the listener.
const LISTENER: u64 = u64::MAX;

/// Options of the `backend` subcommand.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Address to listen on.
    #[arg(long)]
    pub listen: SocketAddr,
}

/// 1 MiB that does not compress and repeats nowhere near: a counter mixed into bytes.
pub fn large_body() -> Vec<u8> {
    (0u64..LARGE_BODY_BYTES as u64 / 8)
        .flat_map(|n| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect()
}

/// Serves until the process is ended.
///
/// # Errors
/// The listener cannot be bound, or epoll fails.
pub fn run(options: &Options) -> io::Result<()> {
    sys::raise_open_files();
    serve(&TcpListener::bind(options.listen)?)
}

/// Serves a listener until epoll fails.
///
/// # Errors
/// epoll failed.
pub fn serve(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let mut epoll = Epoll::new(256)?;
    epoll.add_level(listener.as_raw_fd(), LISTENER)?;
    let answers = Answers::new();
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut buffer = vec![0u8; READ_BYTES];
    loop {
        for index in 0..epoll.wait(None)? {
            let event = epoll.event(index);
            if event.token == LISTENER {
                while let Ok(stream) = sys::accept_now(listener) {
                    let _ = stream.set_nodelay(true);
                    let slot = free.pop().unwrap_or_else(|| {
                        connections.push(None);
                        connections.len() - 1
                    });
                    if epoll.add(stream.as_raw_fd(), slot as u64).is_ok() {
                        connections[slot] = Some(Connection::new(stream));
                    } else {
                        free.push(slot);
                    }
                }
                continue;
            }
            let slot = event.token as usize;
            let Some(connection) = connections[slot].as_mut() else { continue };
            let done =
                (event.writable && connection.pending.is_some() && connection.flush(&answers).is_err())
                    || (event.readable && connection.read(&mut buffer, event.ended, &answers).is_err());
            if done {
                connections[slot] = None;
                free.push(slot);
            }
        }
    }
}

struct Answers {
    small: Vec<u8>,
    large: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let with_head = |kind: &str, body: &[u8]| {
            let mut answer =
                format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", body.len())
                    .into_bytes();
            answer.extend_from_slice(body);
            answer
        };
        Self {
            small: with_head("application/json", SMALL_BODY),
            large: with_head("application/octet-stream", &large_body()),
        }
    }

    fn of(&self, large: bool) -> &[u8] {
        if large { &self.large } else { &self.small }
    }
}

struct Connection {
    stream: TcpStream,
    /// A head of which the end has not come yet.
    partial: Vec<u8>,
    /// Bytes of the request's body still to drain.
    body_left: u64,
    /// The answer owed once the body is drained: is it the large one?
    owed: bool,
    /// An answer that the socket did not take whole: which, and how much of it went.
    pending: Option<(bool, usize)>,
}

impl Connection {
    fn new(stream: TcpStream) -> Self {
        Self { stream, partial: Vec::new(), body_left: 0, owed: false, pending: None }
    }

    /// Reads until the socket is empty (it is edge-triggered; a short read says so, except before the end) and answers
    /// each whole request.
    fn read(&mut self, buffer: &mut [u8], ended: bool, answers: &Answers) -> io::Result<()> {
        loop {
            let n = match self.stream.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            if self.partial.is_empty() {
                let used = self.take(&buffer[..n], answers)?;
                self.partial.extend_from_slice(&buffer[used..n]);
            } else {
                let mut joined = std::mem::take(&mut self.partial);
                joined.extend_from_slice(&buffer[..n]);
                let used = self.take(&joined, answers)?;
                self.partial.extend_from_slice(&joined[used..]);
            }
            if self.partial.len() > HEAD_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if n < buffer.len() && !ended {
                return Ok(());
            }
        }
    }

    /// Consumes whole requests and body bytes; what is left is the beginning of a head.
    fn take(&mut self, mut bytes: &[u8], answers: &Answers) -> io::Result<usize> {
        let all = bytes.len();
        while !bytes.is_empty() {
            if self.body_left > 0 {
                let now = bytes.len().min(usize::try_from(self.body_left).unwrap_or(usize::MAX));
                self.body_left -= now as u64;
                bytes = &bytes[now..];
                if self.body_left == 0 {
                    self.answer(self.owed, answers)?;
                }
                continue;
            }
            let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { break };
            let head = &bytes[..end + 4];
            bytes = &bytes[end + 4..];
            let large = head.starts_with(b"GET ") && target(head).ends_with(b"/1m");
            let length = if head.starts_with(b"GET ") { 0 } else { content_length(head)? };
            if length > 0 {
                (self.body_left, self.owed) = (length, large);
            } else {
                self.answer(large, answers)?;
            }
        }
        Ok(all - bytes.len())
    }

    fn answer(&mut self, large: bool, answers: &Answers) -> io::Result<()> {
        if self.pending.is_some() {
            // Pipelining is nothing that any contender does to its upstream.
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.pending = Some((large, 0));
        self.flush(answers)
    }

    fn flush(&mut self, answers: &Answers) -> io::Result<()> {
        let Some((large, mut sent)) = self.pending.take() else { return Ok(()) };
        let answer = answers.of(large);
        while sent < answer.len() {
            match self.stream.write(&answer[sent..]) {
                Ok(n) => sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.pending = Some((large, sent));
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

    #[test]
    fn large_body_has_its_length() {
        assert_eq!(large_body().len(), LARGE_BODY_BYTES);
    }
}
