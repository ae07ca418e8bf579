//! A TCP connection on one core: owned receives through the driver, direct sends, and a deadline.
//!
//! * **Receiving** waits without a buffer and then takes what is there in a direct call ([`Socket::recv`]).
//! * **Sending** goes through the driver with a buffer that the operation owns ([`Socket::send`]). Of the four
//!   combinations of direct calls and ring operations this one was the cheapest in a byte pump.
//! * **A deadline** never drops an operation in flight (bytes that had arrived would be lost): it marks the
//!   socket and shuts it down, and whatever waits on it completes.

use std::cell::Cell;
use std::io;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use monoio::buf::{IoBuf, IoBufMut};

use crate::sys::socket::{self, Peek, Shutdown};
use crate::sys::stream::Stream;
use crate::worker::buffer::Buffer;
use crate::worker::driver::Driver;
use crate::worker::sweep::Sweep;

/// What a deadline was about; the reason of the answer or of the log follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// The TLS handshake of a client.
    Handshake,
    /// The head of a request.
    Head,
    /// The progress of a request body.
    Body,
    /// Nothing happens between two requests.
    Idle,
    /// Connecting to an upstream, its TLS handshake included.
    Connect,
    /// The first byte of a response.
    FirstByte,
    /// The progress of a response body, either side.
    StreamIdle,
    /// The time that a whole exchange may take.
    Total,
    /// The node drains, and its time is up.
    Drain,
}

/// A connected socket, shared between its task and the sweep that watches its deadline.
#[derive(Debug)]
pub struct Socket {
    shared: Rc<Shared>,
}

#[derive(Debug)]
pub(super) struct Shared {
    stream: Stream,
    /// Whether the socket is non-blocking, that is, driven by epoll.
    nonblocking: bool,
    /// When the deadline passes, monotonic milliseconds; 0 is never.
    pub(super) deadline_ms: Cell<u64>,
    kind: Cell<Deadline>,
    /// The slot of the sweep in which this socket is due to be looked at; 0 is none.
    pub(super) due_tick: Cell<u64>,
    fired: Cell<bool>,
}

impl Socket {
    /// Wraps a connected stream, which must be blocking or not as the driver wants it. Must be called on a thread that
    /// runs that driver.
    ///
    /// # Errors
    /// When the driver cannot register the descriptor.
    pub fn new(stream: std::net::TcpStream, driver: Driver) -> io::Result<Socket> {
        let nonblocking = driver.wants_nonblocking();
        Ok(Socket {
            shared: Rc::new(Shared {
                stream: Stream::new(stream)?,
                nonblocking,
                deadline_ms: Cell::new(0),
                kind: Cell::new(Deadline::Idle),
                due_tick: Cell::new(0),
                fired: Cell::new(false),
            }),
        })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.shared.fd()
    }

    /// Sets the deadline: at `at_ms` (monotonic milliseconds) everything that waits on this socket ends.
    pub fn set_deadline(&self, sweep: &Sweep, kind: Deadline, at_ms: u64) {
        self.shared.kind.set(kind);
        self.shared.deadline_ms.set(at_ms.max(1));
        sweep.watch(&self.shared, at_ms);
    }

    /// Takes the deadline away.
    pub fn clear_deadline(&self) {
        self.shared.deadline_ms.set(0);
    }

    /// The deadline that has passed, if one has.
    pub fn expired(&self) -> Option<Deadline> {
        self.shared.fired.get().then(|| self.shared.kind.get())
    }

    /// Waits until bytes (or the end) can be received; holds no buffer.
    ///
    /// # Errors
    /// Those of the driver.
    pub async fn readable(&self) -> io::Result<()> {
        self.shared.stream.readable().await
    }

    /// Receives at least one byte behind what `buffer` holds, as much as fits; `Ok(0)` is the end.
    ///
    /// On the ring this is a poll and a direct receive, which measures as cheap as a receive operation (the kernel
    /// polls for that one as well) and loses nothing when the future is dropped. On epoll the operation is tried
    /// first, so the buffer is lost when the future is dropped before it is done.
    ///
    /// # Errors
    /// Those of `recv`; `InvalidInput` when the buffer has no room.
    pub async fn recv(&self, buffer: &mut Buffer) -> io::Result<usize> {
        let filled = buffer.len();
        let capacity = buffer.capacity();
        if filled == capacity {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if self.shared.nonblocking {
            let slice = buffer.take().slice_mut(filled..capacity);
            let (result, slice) = self.shared.stream.read(slice).await;
            buffer.restore(slice.into_inner());
            return result;
        }
        loop {
            self.shared.stream.readable().await?;
            match self.recv_now(buffer) {
                Err(error) if would_block(&error) => {}
                result => return result,
            }
        }
    }

    /// Receives what is already there, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there, else those of `recv`.
    pub fn recv_now(&self, buffer: &mut Buffer) -> io::Result<usize> {
        socket::recv_now(self.fd(), buffer, usize::MAX)
    }

    /// Sends `buffer[range]` and keeps the buffer. The operation goes through the driver: on the ring the sends of a turn
    /// leave in one system call.
    ///
    /// # Errors
    /// Those of `send`; how much has left is then unknown.
    pub async fn send(&self, buffer: &mut Buffer, range: Range<usize>) -> io::Result<()> {
        let end = range.end.min(buffer.len());
        let mut sent = range.start;
        while sent < end {
            let slice = buffer.take().slice(sent..end);
            let (result, slice) = self.shared.stream.write(slice).await;
            buffer.restore(slice.into_inner());
            match result {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => sent += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends what the socket takes of `bytes` without waiting: for last words on a connection that is closed next.
    pub fn send_last(&self, bytes: &[u8]) {
        let _ = socket::send_now(self.fd(), bytes, false);
    }

    /// Waits until the socket can be written: for a connection under way.
    ///
    /// # Errors
    /// Those of the driver.
    pub async fn writable(&self) -> io::Result<()> {
        self.shared.stream.writable().await
    }

    /// Whether a kept connection is still fit for use.
    pub fn peek(&self) -> Peek {
        socket::peek(self.fd())
    }

    /// The error that a connection attempt ended with.
    ///
    /// # Errors
    /// Those of `getsockopt`.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        socket::take_error(self.fd())
    }

    /// Tells the socket what the driver wants: blocking for the ring, non-blocking for epoll.
    ///
    /// # Errors
    /// Those of `fcntl`.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        socket::set_nonblocking(self.fd(), nonblocking)
    }

    /// Ends one or both directions.
    pub fn shutdown(&self, how: Shutdown) {
        socket::shutdown(self.fd(), how);
    }

    /// Makes the coming close visible as a reset.
    pub fn reset_on_close(&self) {
        socket::reset_on_close(self.fd());
    }
}

impl Shared {
    fn fd(&self) -> BorrowedFd<'_> {
        self.stream.fd()
    }

    /// Whether what is waited for is a next request.
    pub(super) fn is_idle(&self) -> bool {
        self.kind.get() == Deadline::Idle
    }

    /// The deadline has passed.
    pub(super) fn expire(&self) {
        self.fired.set(true);
        let how = match self.kind.get() {
            // The answer (408) must still get out.
            Deadline::Head | Deadline::Body => Shutdown::Read,
            _ => Shutdown::Both,
        };
        socket::shutdown(self.fd(), how);
    }
}

/// Whether an error only says "not now".
fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
