//! A socket under a TLS session.

use std::cell::{Cell, OnceCell, RefCell};
use std::io;
use std::ops::Range;
use std::rc::Rc;

use crate::tls::client_certificates::ClientCertificate;
use crate::tls::records::Records;
use crate::tls::session::Session;
use crate::worker::{Buffer, Socket, turn};

/// Plaintext that is encrypted at once; more is sent in several rounds, so that memory stays bounded.
const ROUND_BYTES: usize = 64 * 1024;
/// Records that cost as much as a step of a task: a full receive has two, one of the smallest has seven hundred.
const RECORDS_PER_STEP: u32 = 16;
/// What records add to the plaintext of a round: headers and tags, five records at most.
const RECORD_ROOM: usize = 256;

/// Plaintext that is posted in one small buffer, record headers and tags included.
const POST_BYTES_MAX: usize = 15 * 1024;

/// An encrypted byte stream.
#[derive(Debug)]
pub struct TlsStream {
    socket: Socket,
    /// Borrowed only between two waits.
    session: RefCell<Session>,
    closed: Cell<bool>,
    /// Where the peer's records stand.
    records: Cell<Records>,
    /// What the client has shown in the handshake.
    certificate: OnceCell<Rc<ClientCertificate>>,
}

impl TlsStream {
    /// Couples a session with its socket.
    pub fn new(socket: Socket, session: Session) -> TlsStream {
        TlsStream {
            socket,
            session: RefCell::new(session),
            closed: Cell::new(false),
            records: Cell::default(),
            certificate: OnceCell::new(),
        }
    }

    /// What the client has shown in the handshake, where it was asked.
    pub fn client_certificate(&self) -> Option<&Rc<ClientCertificate>> {
        self.certificate.get()
    }

    /// Keeps what the client has shown, for as long as the connection lives. Called once, after the handshake.
    pub fn keep_client_certificate(&self, certificate: ClientCertificate) {
        let _ = self.certificate.set(Rc::new(certificate));
    }

    /// The socket below.
    pub fn socket(&self) -> &Socket {
        &self.socket
    }

    /// The session.
    pub fn session(&self) -> std::cell::Ref<'_, Session> {
        self.session.borrow()
    }

    /// Completes the handshake.
    ///
    /// # Errors
    /// `InvalidData` when the peer broke the protocol (it has been told why), `UnexpectedEof` when it left, else those of
    /// the socket.
    pub async fn handshake(&self) -> io::Result<()> {
        self.flush().await?;
        while self.session.borrow().is_handshaking() {
            self.receive(|_| 0).await?;
            self.flush().await?;
        }
        Ok(())
    }

    /// Waits until there may be something to receive.
    ///
    /// # Errors
    /// Those of the driver.
    pub async fn readable(&self) -> io::Result<()> {
        // A peer that has said its last word may keep the socket open: there is nothing to wait for.
        if self.closed.get() || self.session.borrow().has_plaintext() {
            return Ok(());
        }
        self.socket.readable().await
    }

    /// Receives at least one byte behind what `buffer` holds; `Ok(0)` is the end, whether `close_notify` said so or the
    /// socket did.
    ///
    /// # Errors
    /// As [`TlsStream::handshake`].
    pub async fn recv(&self, buffer: &mut Buffer) -> io::Result<usize> {
        let begin = buffer.len();
        loop {
            self.session.borrow_mut().take_plaintext(buffer);
            if buffer.len() > begin || self.closed.get() {
                return Ok(buffer.len() - begin);
            }
            self.receive(|plain| append(buffer, plain)).await?;
            if self.session.borrow().wants_write() {
                self.flush().await?;
            }
        }
    }

    /// Receives into a buffer that is leased when there is plaintext for it, not before; an empty one is the end.
    ///
    /// # Errors
    /// As [`TlsStream::recv`].
    pub async fn recv_leased(&self, lease: impl Fn() -> Buffer) -> io::Result<Buffer> {
        if self.session.borrow().has_plaintext() {
            let mut buffer = lease();
            self.session.borrow_mut().take_plaintext(&mut buffer);
            return Ok(buffer);
        }
        let mut leased = None;
        while leased.is_none() && !self.closed.get() {
            self.receive(|plain| append(leased.get_or_insert_with(&lease), plain)).await?;
            if self.session.borrow().wants_write() {
                self.flush().await?;
            }
        }
        Ok(leased.unwrap_or_default())
    }

    /// Receives once. What comes is given to `take`, which says how much of it there was room for.
    async fn receive(&self, take: impl FnMut(&[u8]) -> usize) -> io::Result<()> {
        // Records need not hold anything, so that a loop of receives is bounded by nothing else.
        turn::step().await;
        // Whoever stops in the middle of a flight or of a record holds no buffer of ours.
        let mut wire = self.socket.recv_leased(Buffer::small).await?;
        if wire.is_empty() {
            self.closed.set(true);
            return match self.session.borrow().is_handshaking() {
                true => Err(io::ErrorKind::UnexpectedEof.into()),
                // Both our codecs see where a message ends without the close, but for a body that lasts until then.
                false => Ok(()),
            };
        }
        let mut records = self.records.get();
        turn::spend(records.count(&wire) / RECORDS_PER_STEP);
        self.records.set(records);
        self.feed(&mut wire, take)
    }

    /// Takes in what the peer sent and somebody else received.
    ///
    /// # Errors
    /// `InvalidData` when the peer broke the protocol; it has been told why.
    pub fn take_in(&self, wire: &mut [u8]) -> io::Result<()> {
        self.feed(wire, |_| 0)
    }

    fn feed(&self, wire: &mut [u8], take: impl FnMut(&[u8]) -> usize) -> io::Result<()> {
        let fed = self.session.borrow_mut().feed(wire, take);
        match fed {
            Ok(fed) => {
                if fed.closed {
                    self.closed.set(true);
                }
                Ok(())
            }
            Err(error) => {
                // The alert, if the peer still wants to hear it.
                let mut alert = Buffer::head();
                self.session.borrow_mut().take_wire(&mut alert);
                self.socket.send_last(&alert);
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }

    /// Encrypts and sends `buffer[range]`.
    ///
    /// # Errors
    /// Those of the socket.
    pub async fn send(&self, buffer: &mut Buffer, range: Range<usize>) -> io::Result<()> {
        let mut rest = &buffer[range];
        let mut wire = Buffer::of(rest.len().min(ROUND_BYTES) + RECORD_ROOM);
        while !rest.is_empty() {
            let (round, later) = rest.split_at(rest.len().min(ROUND_BYTES));
            rest = later;
            self.session.borrow_mut().encrypt(round, &mut wire)?;
            let end = wire.len();
            self.socket.send(&mut wire, 0..end).await?;
            wire.clear();
        }
        Ok(())
    }

    /// Encrypts what `buffer` holds and hands it over to be sent, without waiting for the end of it.
    ///
    /// # Errors
    /// As [`Socket::post`].
    pub async fn post(&self, buffer: &mut Buffer) -> io::Result<()> {
        if buffer.len() > POST_BYTES_MAX {
            let end = buffer.len();
            return self.send(buffer, 0..end).await;
        }
        let mut wire = Buffer::of(buffer.len() + RECORD_ROOM);
        self.session.borrow_mut().encrypt(buffer, &mut wire)?;
        self.socket.post(&mut wire).await
    }

    async fn flush(&self) -> io::Result<()> {
        let mut wire = Buffer::empty();
        if self.session.borrow().wants_write() {
            wire = Buffer::small();
            self.session.borrow_mut().take_wire(&mut wire);
        }
        let end = wire.len();
        if end > 0 {
            self.socket.send(&mut wire, 0..end).await?;
        }
        Ok(())
    }

    /// Tells the peer that nothing more comes, without waiting.
    pub fn close(&self) {
        let mut wire = Buffer::head();
        let mut session = self.session.borrow_mut();
        session.close();
        session.take_wire(&mut wire);
        self.socket.send_last(&wire);
    }

    /// Whether a kept connection can be used again. Records that are not ours to answer (tickets) are taken in.
    pub fn is_quiet(&self) -> bool {
        while !self.socket.is_quiet() {
            let mut wire = Buffer::small();
            match self.socket.recv_now(&mut wire) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) | Err(_) => return false,
                Ok(_) => match self.session.borrow_mut().feed(&mut wire, |_| 0) {
                    Ok(fed) if !fed.closed && !self.session.borrow().has_plaintext() => {}
                    _ => return false,
                },
            }
        }
        !self.closed.get() && !self.session.borrow().has_plaintext()
    }
}

/// Appends as much as there is room for without more memory; how much.
fn append(buffer: &mut Buffer, plain: &[u8]) -> usize {
    let taken = plain.len().min(buffer.capacity() - buffer.len());
    buffer.extend_from_slice(&plain[..taken]);
    taken
}
