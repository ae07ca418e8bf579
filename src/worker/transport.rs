//! A byte stream to a peer: a socket, bare or under TLS. Codecs and bodies read and write here and do not know which.

use std::io;
use std::ops::Range;
use std::rc::Rc;

use crate::observe::{Alpn, TlsVersion};
use crate::sys::socket::Shutdown;
use crate::tls::TlsStream;
use crate::tls::client_certificates::ClientCertificate;
use crate::worker::buffer::Buffer;
use crate::worker::socket::Socket;

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

/// A connected byte stream.
#[derive(Debug)]
pub enum Transport {
    /// TCP alone.
    Plain(Socket),
    /// TLS over TCP.
    Tls(Box<TlsStream>),
}

impl Transport {
    /// The socket below: deadlines and shutdowns act on it.
    pub fn socket(&self) -> &Socket {
        match self {
            Transport::Plain(socket) => socket,
            Transport::Tls(stream) => stream.socket(),
        }
    }

    /// Whether it is TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self, Transport::Tls(_))
    }

    /// What was agreed with the peer about TLS, for records.
    pub fn agreed(&self) -> Agreed {
        match self {
            Transport::Plain(_) => Agreed::default(),
            Transport::Tls(stream) => {
                let session = stream.session();
                Agreed {
                    version: match session.version() {
                        Some(rustls::ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
                        _ => TlsVersion::Tls13,
                    },
                    alpn: if session.has_alpn() { Alpn::Http11 } else { Alpn::None },
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
            Transport::Tls(stream) => stream.recv(buffer).await,
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
        }
    }

    /// Whether a kept connection can be used for another request: nothing to receive, and nobody gone.
    pub fn is_quiet(&self) -> bool {
        match self {
            Transport::Plain(socket) => socket.is_quiet(),
            Transport::Tls(stream) => stream.is_quiet(),
        }
    }

    /// Whether the peer has ended its side and all that it sent has been received, as far as that can be told at no cost:
    /// under TLS the session may hold more than the socket.
    pub fn is_over(&self) -> bool {
        match self {
            Transport::Plain(socket) => socket.is_over(),
            Transport::Tls(_) => false,
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
