//! The backend that every contender forwards to: HTTP/1.1 keep-alive and HTTP/2 on one epoll loop, with fixed answers.
//!
//! For: being so cheap that it shares a core with the load generator and still outruns every proxy. Not for: strictness;
//! it believes the proxy in front of it. Called by the `backend` subcommand.
//!
//! | request | answer |
//! |---|---|
//! | `GET …/1m` | 200, 1 MiB of [`large_body`] |
//! | `GET …/bytes/N` | 200, the first `N` bytes of it, at most 1 MiB |
//! | any other GET | 200, [`SMALL_BODY`] |
//! | `GET …/echo` that asks for WebSocket | every frame comes back |
//! | POST, PUT with a body | the body is drained, then 200, [`SMALL_BODY`] |
//! | the same over HTTP/2 with `content-type: application/grpc` | 200, [`GRPC_BODY`], `grpc-status: 0` |
//!
//! Which protocol a client speaks is known from its first bytes, in plain text and with TLS, where both are offered by ALPN.

mod http1;
mod http2;
mod websocket;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use clap::Args;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection};

use self::http1::Requests;
use self::http2::Streams;
use self::websocket::Echo;
use crate::sys::{self, Epoll};

/// The body of every small answer.
pub const SMALL_BODY: &[u8] =
    br#"{"id":"ord_48213","state":"paid","total":{"amount":4999,"currency":"EUR"},"lines":3}"#;
/// The body of every gRPC answer: one message, not compressed, of 11 bytes.
pub const GRPC_BODY: &[u8] = b"\0\0\0\0\x0b\n\tord_48213";
/// The length of the large answer.
pub const LARGE_BODY_BYTES: usize = 1 << 20;
/// Bytes one read takes at most.
const READ_BYTES: usize = 128 * 1024;
/// Answers of other lengths that are kept.
const SIZED_MAX: usize = 64;
/// What begins HTTP/2 (RFC 9113 §3.4): no method of HTTP/1.1 does.
const HTTP2_BEGIN: &[u8; 4] = b"PRI ";
/// The tokens of the listeners: plain, and with TLS.
const LISTENERS: [u64; 2] = [u64::MAX, u64::MAX - 1];

/// Options of the `backend` subcommand.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Address to listen on.
    #[arg(long)]
    pub listen: SocketAddr,
    /// Address to listen on with TLS.
    #[arg(long, value_name = "ADDRESS", requires_all = ["cert", "key"])]
    pub tls: Option<SocketAddr>,
    /// PEM file of the certificate.
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,
    /// PEM file of its key.
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
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
/// A listener cannot be bound, certificate or key cannot be used, or epoll fails.
pub fn run(options: &Options) -> io::Result<()> {
    sys::raise_open_files();
    let secure = match (options.tls, &options.cert, &options.key) {
        (Some(address), Some(certificate), Some(key)) => {
            Some((TcpListener::bind(address)?, tls_config(certificate, key)?))
        }
        _ => None,
    };
    serve(&TcpListener::bind(options.listen)?, secure.as_ref())
}

fn tls_config(certificate: &Path, key: &Path) -> io::Result<Arc<ServerConfig>> {
    let certificate = CertificateDer::from_pem_file(certificate).map_err(io::Error::other)?;
    let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .map_err(io::Error::other)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Serves a listener, and another one with TLS, until epoll fails.
///
/// # Errors
/// epoll failed.
pub fn serve(listener: &TcpListener, secure: Option<&(TcpListener, Arc<ServerConfig>)>) -> io::Result<()> {
    let mut epoll = Epoll::new(256)?;
    let listeners = [Some((listener, None)), secure.map(|(listener, config)| (listener, Some(config)))];
    for ((listener, _), token) in listeners.iter().flatten().zip(LISTENERS) {
        listener.set_nonblocking(true)?;
        epoll.add_level(listener.as_raw_fd(), token)?;
    }
    let mut answers = Answers::new();
    let mut connections: Vec<Option<Connection>> = Vec::new();
    let mut free: Vec<usize> = Vec::new();
    let mut buffer = vec![0u8; READ_BYTES];
    let start = Instant::now();
    loop {
        let ready = epoll.wait(None)?;
        let now_ms = start.elapsed().as_millis() as u64;
        for index in 0..ready {
            let event = epoll.event(index);
            if let Some(Some((listener, config))) =
                LISTENERS.iter().position(|token| *token == event.token).map(|at| listeners[at])
            {
                while let Ok(stream) = sys::accept_now(listener) {
                    let _ = stream.set_nodelay(true);
                    let Ok(transport) = Transport::new(stream, config) else { continue };
                    let slot = free.pop().unwrap_or_else(|| {
                        connections.push(None);
                        connections.len() - 1
                    });
                    if epoll.add(transport.stream.as_raw_fd(), slot as u64).is_ok() {
                        connections[slot] =
                            Some(Connection { transport, protocol: Protocol::Unknown(Vec::new()) });
                    } else {
                        free.push(slot);
                    }
                }
                continue;
            }
            let slot = event.token as usize;
            let Some(connection) = connections[slot].as_mut() else { continue };
            let done = (event.writable && connection.send(&mut answers).is_err())
                || (event.readable
                    && connection.read(&mut buffer, event.ended, now_ms, &mut answers).is_err());
            if done {
                connections[slot] = None;
                free.push(slot);
            }
        }
    }
}

/// What a request asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asked {
    /// [`SMALL_BODY`].
    #[default]
    Small,
    /// 1 MiB.
    Large,
    /// So many bytes.
    Bytes(u32),
    /// [`GRPC_BODY`].
    Grpc,
}

impl Asked {
    /// What the target of a GET says.
    fn of_target(target: &[u8]) -> Self {
        if target.ends_with(b"/1m") {
            return Self::Large;
        }
        let digits = target.iter().rev().take_while(|byte| byte.is_ascii_digit()).count();
        let (before, digits) = target.split_at(target.len() - digits);
        let bytes = str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u32>().ok());
        match bytes.filter(|bytes| before.ends_with(b"/bytes/") && *bytes as usize <= LARGE_BODY_BYTES) {
            Some(bytes) => Self::Bytes(bytes),
            None => Self::Small,
        }
    }

    /// Its Content-Type, as a line.
    fn kind_line(self) -> &'static [u8] {
        match self {
            Self::Small => b"Content-Type: application/json\r\n",
            Self::Large | Self::Bytes(_) => b"Content-Type: application/octet-stream\r\n",
            Self::Grpc => b"Content-Type: application/grpc\r\n",
        }
    }
}

/// All answers, whole.
pub struct Answers {
    large_body: Vec<u8>,
    small: Vec<u8>,
    large: Vec<u8>,
    /// Those of other lengths that were asked for.
    sized: Vec<(u32, Vec<u8>)>,
}

impl Answers {
    fn new() -> Self {
        let large_body = large_body();
        Self {
            small: whole(Asked::Small, SMALL_BODY),
            large: whole(Asked::Large, &large_body),
            sized: Vec::new(),
            large_body,
        }
    }

    /// Head and body, as HTTP/1.1 has them.
    fn whole(&mut self, asked: Asked) -> &[u8] {
        match asked {
            Asked::Small | Asked::Grpc => &self.small,
            Asked::Large => &self.large,
            Asked::Bytes(bytes) => {
                let at = self.sized.iter().position(|(length, _)| *length == bytes).unwrap_or_else(|| {
                    // An answer that is being sent may be forgotten and made again: it is the same.
                    if self.sized.len() == SIZED_MAX {
                        self.sized.clear();
                    }
                    self.sized.push((bytes, whole(asked, &self.large_body[..bytes as usize])));
                    self.sized.len() - 1
                });
                &self.sized[at].1
            }
        }
    }

    /// The body.
    fn body(&self, asked: Asked) -> &[u8] {
        match asked {
            Asked::Small => SMALL_BODY,
            Asked::Large => &self.large_body,
            Asked::Bytes(bytes) => &self.large_body[..bytes as usize],
            Asked::Grpc => GRPC_BODY,
        }
    }
}

fn whole(asked: Asked, body: &[u8]) -> Vec<u8> {
    let mut answer = b"HTTP/1.1 200 OK\r\n".to_vec();
    answer.extend_from_slice(asked.kind_line());
    answer.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
    answer.extend_from_slice(body);
    answer
}

struct Connection {
    transport: Transport,
    protocol: Protocol,
}

enum Protocol {
    /// Too few bytes have come to know.
    Unknown(Vec<u8>),
    Http1(Requests),
    Http2(Box<Streams>),
    WebSocket(Box<Echo>),
}

impl Connection {
    /// Reads until the socket is empty (it is edge-triggered; a short read says so, except before the end and with TLS) and
    /// answers each whole request.
    fn read(&mut self, buffer: &mut [u8], ended: bool, now_ms: u64, answers: &mut Answers) -> io::Result<()> {
        loop {
            let n = match self.transport.read(buffer) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            };
            self.receive(&buffer[..n], now_ms, answers)?;
            if n < buffer.len() && !ended && self.transport.tls.is_none() {
                return Ok(());
            }
        }
    }

    fn receive(&mut self, bytes: &[u8], now_ms: u64, answers: &mut Answers) -> io::Result<()> {
        match &mut self.protocol {
            Protocol::Http1(requests) => {
                requests.receive(bytes, answers, &mut self.transport)?;
                let Some(first) = requests.upgraded() else { return Ok(()) };
                self.protocol = Protocol::WebSocket(Box::default());
                self.receive(&first, now_ms, answers)
            }
            Protocol::WebSocket(echo) => echo.receive(bytes, &mut self.transport),
            Protocol::Http2(streams) => streams.receive(bytes, now_ms, answers, &mut self.transport),
            Protocol::Unknown(first) => {
                first.extend_from_slice(bytes);
                if first.len() < HTTP2_BEGIN.len() {
                    return Ok(());
                }
                let first = std::mem::take(first);
                self.protocol = if first.starts_with(HTTP2_BEGIN) {
                    Protocol::Http2(Box::new(Streams::new()))
                } else {
                    Protocol::Http1(Requests::default())
                };
                self.receive(&first, now_ms, answers)
            }
        }
    }

    /// The socket has room again.
    fn send(&mut self, answers: &mut Answers) -> io::Result<()> {
        self.transport.flush()?;
        match &mut self.protocol {
            Protocol::Http1(requests) => requests.send(answers, &mut self.transport),
            Protocol::Http2(streams) => streams.send(answers, &mut self.transport),
            Protocol::WebSocket(echo) => echo.send(&mut self.transport),
            Protocol::Unknown(_) => Ok(()),
        }
    }
}

/// A socket, with TLS or without.
pub struct Transport {
    stream: TcpStream,
    tls: Option<Box<ServerConnection>>,
}

impl Transport {
    fn new(stream: TcpStream, config: Option<&Arc<ServerConfig>>) -> io::Result<Self> {
        let tls = config
            .map(|config| ServerConnection::new(Arc::clone(config)).map(Box::new))
            .transpose()
            .map_err(io::Error::other)?;
        Ok(Self { stream, tls })
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(tls) = &mut self.tls else { return self.stream.read(buffer) };
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            if tls.read_tls(&mut self.stream)? == 0 {
                return Ok(0);
            }
            let processed = tls.process_new_packets();
            while tls.wants_write() && tls.write_tls(&mut self.stream).is_ok() {}
            processed.map_err(io::Error::other)?;
        }
    }

    /// Takes bytes, at least one; `WouldBlock` where the socket has no room for any.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.tls.is_none() {
            return self.stream.write(bytes);
        }
        self.flush()?;
        let Some(tls) = &mut self.tls else { return Ok(0) };
        if tls.wants_write() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let taken = tls.writer().write(bytes)?;
        self.flush()?;
        Ok(taken)
    }

    /// Sends what is encrypted already, as far as the socket takes it.
    fn flush(&mut self) -> io::Result<()> {
        let Some(tls) = &mut self.tls else { return Ok(()) };
        while tls.wants_write() {
            match tls.write_tls(&mut self.stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_body_has_its_length() {
        assert_eq!(large_body().len(), LARGE_BODY_BYTES);
    }

    #[test]
    fn a_target_may_say_how_long_its_answer_is() {
        let mut answers = Answers::new();
        assert_eq!(Asked::of_target(b"/v1/files/1m"), Asked::Large);
        assert_eq!(Asked::of_target(b"/v1/orders/48213"), Asked::Small);
        assert_eq!(Asked::of_target(b"/v1/bytes/"), Asked::Small);
        assert_eq!(Asked::of_target(b"/v1/bytes/1048577"), Asked::Small);
        for bytes in [0, 1, 16_384, 1_048_576] {
            let asked = Asked::of_target(format!("/v1/bytes/{bytes}").as_bytes());
            assert_eq!(asked, Asked::Bytes(bytes));
            assert_eq!(answers.body(asked).len(), bytes as usize);
            let whole = answers.whole(asked);
            assert!(whole.ends_with(&large_body()[..bytes as usize]) && whole.len() > bytes as usize);
        }
    }
}
