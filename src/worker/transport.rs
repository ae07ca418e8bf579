//! A byte stream to a peer: a socket, bare or under TLS. Codecs and bodies read and write here and do not know which.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use crate::h2::stream::{Over, StreamTransport};
use crate::http::{BodyLength, Protocol};
use crate::observe::{Alpn, TlsVersion};
use crate::sys::socket::Shutdown;
use crate::tls::TlsStream;
use crate::tls::client_certificates::ClientCertificate;
use crate::worker::buffer::Buffer;
use crate::worker::socket::{Deadline, Socket};
use crate::worker::sweep::Sweep;

/// What is left to be sent of a message, up to this many bytes, is posted: an idle socket takes it whole.
pub const POST_BYTES_MAX: usize = 12 * 1024;

/// What was agreed with a peer about TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agreed {
    /// The version.
    pub version: TlsVersion,
    /// The protocol inside.
    pub alpn: Alpn,
    /// Whether an earlier session was taken up again.
    pub resumed: bool,
}

/// What messages are sent and received on: a connected byte stream, or a stream of many on one.
#[derive(Debug)]
pub enum Transport {
    /// TCP alone.
    Plain(Socket),
    /// TLS over TCP.
    Tls(Box<TlsStream>),
    /// A stream of an HTTP/2 connection: it carries one exchange.
    Stream(StreamTransport),
}

impl Transport {
    /// The socket below. Of a stream that of its connection, which many share.
    pub fn socket(&self) -> &Socket {
        match self {
            Transport::Plain(socket) => socket,
            Transport::Tls(stream) => stream.socket(),
            Transport::Stream(stream) => stream.mux().transport.socket(),
        }
    }

    /// Whether it is TLS.
    pub fn is_tls(&self) -> bool {
        match self {
            Transport::Plain(_) => false,
            Transport::Tls(_) => true,
            Transport::Stream(stream) => stream.mux().transport.is_tls(),
        }
    }

    /// What is spoken on it.
    pub fn protocol(&self) -> Protocol {
        match self {
            Transport::Plain(_) | Transport::Tls(_) => Protocol::Http1,
            Transport::Stream(_) => Protocol::Http2,
        }
    }

    /// The stream, if it is one.
    pub fn stream(&self) -> Option<&StreamTransport> {
        match self {
            Transport::Stream(stream) => Some(stream),
            Transport::Plain(_) | Transport::Tls(_) => None,
        }
    }

    /// Sets the deadline: at `at_ms` (monotonic milliseconds) everything that waits on this transport ends.
    pub fn set_deadline(&self, sweep: &Sweep, kind: Deadline, at_ms: u64) {
        match self {
            Transport::Stream(stream) => stream.set_deadline(sweep, kind, at_ms),
            _ => self.socket().set_deadline(sweep, kind, at_ms),
        }
    }

    /// Moves a deadline about `kind`, if there is one, to `at_ms` at the earliest.
    pub fn prolong(&self, kind: Deadline, at_ms: u64) {
        match self {
            Transport::Stream(stream) => stream.due().prolong(kind, at_ms),
            _ => self.socket().prolong(kind, at_ms),
        }
    }

    /// Takes the deadline away.
    pub fn clear_deadline(&self) {
        match self {
            Transport::Stream(stream) => stream.clear_deadline(),
            _ => self.socket().clear_deadline(),
        }
    }

    /// The deadline that has passed, if one has.
    pub fn expired(&self) -> Option<Deadline> {
        match self {
            Transport::Stream(stream) => stream.expired(),
            _ => self.socket().expired(),
        }
    }

    /// Lets a slow peer go on as long as it keeps a pace ([`Socket::set_pace`]).
    pub fn set_pace(&self, bytes: u32, window_ms: u32, end_ms: u64) {
        match self {
            Transport::Stream(stream) => stream.set_pace(bytes, window_ms, end_ms),
            _ => self.socket().set_pace(bytes, window_ms, end_ms),
        }
    }

    /// Says that this upstream is asked for `client` from now on: when that goes away, what is under way here ends with
    /// [`Deadline::Abandoned`]. At once, where it can say so; else the sweep finds out ([`Socket::serve`]).
    pub fn serve(&self, client: &Transport) {
        match (self, client) {
            (Transport::Stream(stream), Transport::Stream(client)) => client.set_works(stream.watched()),
            (_, Transport::Stream(client)) => client.set_works(self.socket().shared()),
            (Transport::Stream(stream), _) => stream.due().serve(client.socket().shared()),
            _ => self.socket().serve(client.socket()),
        }
    }

    /// Waits for what is done for the peer, unless that is known to have given up before; then it is dropped.
    pub async fn unless_gone<T>(&self, wait: impl Future<Output = T>) -> Option<T> {
        let mut wait = pin!(wait);
        poll_fn(|context| match (wait.as_mut().poll(context), self.stream()) {
            (Poll::Ready(come), _) => Poll::Ready(Some(come)),
            (Poll::Pending, Some(stream)) => stream.poll_over(context).map(|()| None),
            (Poll::Pending, None) => Poll::Pending,
        })
        .await
    }

    /// Whether the peer is known to have given up: whatever would be done for it is in vain.
    pub fn is_gone(&self) -> bool {
        self.stream().is_some_and(|stream| stream.over().is_some())
    }

    /// Whether the connection below a stream has ended.
    pub fn is_lost(&self) -> bool {
        self.stream().is_some_and(|stream| matches!(stream.over(), Some(Over::Lost(_))))
    }

    /// Whether the time for an answer passed before there was room to ask.
    pub fn found_no_place(&self) -> bool {
        self.stream().is_some_and(StreamTransport::found_no_place)
    }

    /// Whether the peer is known not to have acted on what it was asked.
    pub fn is_unprocessed(&self) -> bool {
        self.stream().is_some_and(|stream| stream.over() == Some(Over::Unprocessed))
    }

    /// Whether it is one of so many that none of them is to hold much.
    pub fn is_crowded(&self) -> bool {
        self.stream().is_some_and(StreamTransport::is_crowded)
    }

    /// How a body of no known length is framed here: a stream says its end itself.
    pub fn framing(&self, framing: BodyLength) -> BodyLength {
        match (self, framing) {
            (Transport::Stream(_), BodyLength::Chunked) => BodyLength::UntilClose,
            (Transport::Plain(_) | Transport::Tls(_), BodyLength::UntilClose) => BodyLength::Chunked,
            (_, framing) => framing,
        }
    }

    /// Where a body that comes on it ends, if its head says `framing`: that of a stream with the stream, whose connection has
    /// held it to its length.
    pub fn extent(&self, framing: BodyLength) -> BodyLength {
        match (self, framing) {
            (Transport::Stream(_), BodyLength::Length(_)) => BodyLength::UntilClose,
            (_, framing) => framing,
        }
    }

    /// Says that a message is under way whose only end is that of the connection ([`Socket::set_open_ended`]). A stream that
    /// ends before its message is reset anyhow.
    pub fn set_open_ended(&self, under_way: bool) {
        if self.stream().is_none() {
            self.socket().set_open_ended(under_way);
        }
    }

    /// Waits for the end of what was posted.
    ///
    /// # Errors
    /// Those of `send`.
    pub async fn settle(&self) -> io::Result<()> {
        match self {
            Transport::Stream(_) => Ok(()),
            _ => self.socket().settle().await,
        }
    }

    /// Whether all of the message that was posted has left, as far as that can be had without waiting.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn settled(&self) -> io::Result<bool> {
        match self {
            Transport::Stream(stream) => Ok(stream.is_sent()),
            _ => self.socket().settled(),
        }
    }

    /// Its address on this machine.
    ///
    /// # Errors
    /// Those of `getsockname`.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        self.socket().local_address()
    }

    /// Sends `buffer`, the last of a message, and `trailers` (lines) behind it, where they are not in it already. What is small
    /// enough for an idle socket is posted, unless it `waits`.
    ///
    /// # Errors
    /// As [`Transport::send`].
    pub async fn end(&self, buffer: &mut Buffer, trailers: &[u8], waits: bool) -> io::Result<()> {
        match self {
            Transport::Stream(stream) => stream.end(buffer, trailers).await,
            _ if !waits && buffer.len() <= POST_BYTES_MAX => self.post(buffer).await,
            _ => {
                let length = buffer.len();
                self.send(buffer, 0..length).await
            }
        }
    }

    /// The trailers behind the message that was received to its end, where they did not come in it; as lines.
    pub fn take_trailers(&self) -> Buffer {
        self.stream().map(StreamTransport::take_trailers).unwrap_or_default()
    }

    /// What was agreed with the peer about TLS, for records.
    pub fn agreed(&self) -> Agreed {
        match self {
            Transport::Plain(_) => Agreed::default(),
            Transport::Stream(stream) => stream.mux().transport.agreed(),
            Transport::Tls(stream) => {
                let session = stream.session();
                Agreed {
                    version: match session.version() {
                        Some(rustls::ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
                        _ => TlsVersion::Tls13,
                    },
                    alpn: match session.protocol() {
                        None => Alpn::None,
                        Some(Protocol::Http1) => Alpn::Http11,
                        Some(Protocol::Http2) => Alpn::H2,
                    },
                    resumed: session.is_resumed(),
                }
            }
        }
    }

    /// The certificate that the client has shown in the handshake, where it was asked for one.
    pub fn client_certificate(&self) -> Option<&Rc<ClientCertificate>> {
        match self {
            Transport::Plain(_) => None,
            Transport::Tls(stream) => stream.client_certificate(),
            Transport::Stream(stream) => stream.mux().transport.client_certificate(),
        }
    }

    /// Waits until there may be something to receive; holds no buffer. Used while a connection is idle.
    ///
    /// # Errors
    /// Those of the driver.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Transport::Plain(socket) => socket.readable().await,
            Transport::Tls(stream) => stream.readable().await,
            Transport::Stream(_) => Ok(()),
        }
    }

    /// Receives at least one byte behind what `buffer` holds; `Ok(0)` is the end.
    ///
    /// # Errors
    /// Those of [`Socket::recv`]; under TLS also what the records break.
    pub async fn recv(&self, buffer: &mut Buffer) -> io::Result<usize> {
        match self {
            Transport::Plain(socket) => socket.recv(buffer).await,
            Transport::Tls(stream) => stream.recv(buffer).await,
            Transport::Stream(stream) => {
                let received = stream.recv_leased().await?;
                buffer.extend_from_slice(&received);
                Ok(received.len())
            }
        }
    }

    /// Receives into a buffer that is leased when something is there, not before; an empty one is the end.
    ///
    /// # Errors
    /// As [`Transport::recv`].
    pub async fn recv_leased(&self, lease: impl Fn() -> Buffer) -> io::Result<Buffer> {
        match self {
            Transport::Plain(socket) => socket.recv_leased(lease).await,
            Transport::Tls(stream) => stream.recv_leased(lease).await,
            Transport::Stream(stream) => stream.recv_leased().await,
        }
    }

    /// Receives what a client sent with its connection, without waiting; `None` when that can only be told by waiting.
    ///
    /// # Errors
    /// Those of `recv`; `UnexpectedEof` when there is nothing but the end.
    pub fn recv_first(&self) -> io::Result<Option<Buffer>> {
        let Transport::Plain(socket) = self else { return Ok(None) };
        let mut buffer = Buffer::head();
        match socket.recv_now(&mut buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) => Ok(Some(buffer)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// Receives what [`Transport::readable`] announced, or waits for it.
    ///
    /// # Errors
    /// As [`Transport::recv`].
    pub async fn recv_announced(&self, buffer: &mut Buffer) -> io::Result<usize> {
        match self {
            Transport::Plain(socket) => match socket.recv_now(buffer) {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) =>
                {
                    socket.recv(buffer).await
                }
                result => result,
            },
            Transport::Tls(_) | Transport::Stream(_) => self.recv(buffer).await,
        }
    }

    /// Sends `buffer[range]`, all of it.
    ///
    /// # Errors
    /// Those of [`Socket::send`].
    pub async fn send(&self, buffer: &mut Buffer, range: Range<usize>) -> io::Result<()> {
        match self {
            Transport::Plain(socket) => socket.send(buffer, range).await,
            Transport::Tls(stream) => stream.send(buffer, range).await,
            Transport::Stream(stream) => stream.send(buffer, range).await,
        }
    }

    /// Hands what `buffer` holds over to be sent at the end of this turn, without waiting for it ([`Socket::post`]).
    ///
    /// # Errors
    /// As [`Socket::post`].
    pub async fn post(&self, buffer: &mut Buffer) -> io::Result<()> {
        match self {
            Transport::Plain(socket) => socket.post(buffer).await,
            Transport::Tls(stream) => stream.post(buffer).await,
            Transport::Stream(stream) => {
                let length = buffer.len();
                stream.send(buffer, 0..length).await
            }
        }
    }

    /// Whether a kept connection can be used for another request: nothing to receive, and nobody gone.
    pub fn is_quiet(&self) -> bool {
        match self {
            Transport::Plain(socket) => socket.is_quiet(),
            Transport::Tls(stream) => stream.is_quiet(),
            Transport::Stream(_) => false,
        }
    }

    /// Whether the peer has ended its side and all that it sent has been received, as far as that can be told at no cost:
    /// under TLS the session may hold more than the socket.
    pub fn is_over(&self) -> bool {
        match self {
            Transport::Plain(socket) => socket.is_over(),
            Transport::Tls(_) | Transport::Stream(_) => false,
        }
    }

    /// Ends our side: the peer reads to the end of what was sent and then sees it.
    pub fn finish(&self) {
        if let Transport::Tls(stream) = self {
            stream.close();
        }
        self.socket().shutdown(Shutdown::Write);
    }
}
