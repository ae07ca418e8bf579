//! monoio's TCP stream, made when the driver is first needed, with operations through a shared reference.
//!
//! A ring has nothing to know of a socket before its first operation, and most connections never need one: what is small
//! is received and sent without it. Such a descriptor stays ours and is closed by a plain call, where monoio's takes an
//! operation, its completion and a cancellation.
//!
//! `AsyncReadRent::read` asks for `&mut self` although it only clones the descriptor's `Rc` into the operation. Upload
//! and download are two futures over one socket, so we need both directions from `&self`; monoio's own split does
//! the same thing over an `UnsafeCell`.

use std::cell::{Cell, OnceCell, UnsafeCell};
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};

use monoio::BufResult;
use monoio::buf::{IoBuf, IoBufMut};
use monoio::io::{AsyncReadRent, AsyncWriteRent};
use monoio::net::TcpStream;

/// A connected stream whose operations all start from a shared reference.
pub struct Stream {
    /// Open as long as this is: in `own`, later in `driven`.
    fd: RawFd,
    own: Cell<Option<OwnedFd>>,
    driven: OnceCell<UnsafeCell<TcpStream>>,
}

impl Stream {
    /// Takes a connected socket for the driver of this thread; `registered`: that has to know it at once (epoll).
    ///
    /// # Errors
    /// When the driver cannot register the descriptor.
    pub fn new(stream: std::net::TcpStream, registered: bool) -> io::Result<Stream> {
        let fd = stream.as_raw_fd();
        let (own, driven) = match registered {
            true => (None, OnceCell::from(UnsafeCell::new(TcpStream::from_std(stream)?))),
            false => (Some(OwnedFd::from(stream)), OnceCell::new()),
        };
        Ok(Stream { fd, own: Cell::new(own), driven })
    }

    /// The stream of the driver, which owns the descriptor from now on.
    fn driven(&self) -> &UnsafeCell<TcpStream> {
        self.driven.get_or_init(|| {
            // A ring registers nothing, so this does not fail. If it did, the descriptor would be closed under its owner, and
            // its number could soon be somebody else's connection: better nothing goes on.
            let stream = self.own.take().map(|own| TcpStream::from_std(own.into()));
            let Some(Ok(stream)) = stream else { std::process::abort() };
            UnsafeCell::new(stream)
        })
    }

    /// Receives into `buffer` from its start; the operation owns the buffer until it is done.
    pub fn read<B: IoBufMut>(&self, buffer: B) -> impl Future<Output = BufResult<usize, B>> + '_ {
        // SAFETY: `read` uses the exclusive reference only to clone the descriptor into the operation before it
        // returns; the future it returns owns that clone and does not touch the stream. The type is `!Sync`, so no
        // other reference is in use during the call.
        unsafe { &mut *self.driven().get() }.read(buffer)
    }

    /// Sends from the start of `buffer`, as much as the socket takes; the operation owns the buffer until it is done.
    pub fn write<B: IoBuf>(&self, buffer: B) -> impl Future<Output = BufResult<usize, B>> + '_ {
        // SAFETY: as in `read`: the reference ends with the call, the operation owns a clone of the descriptor.
        unsafe { &mut *self.driven().get() }.write(buffer)
    }

    /// Waits until something can be received; holds no buffer.
    ///
    /// # Errors
    /// Those of the driver.
    pub async fn readable(&self) -> io::Result<()> {
        self.shared().readable(false).await
    }

    /// Waits until something can be sent.
    ///
    /// # Errors
    /// Those of the driver.
    pub async fn writable(&self) -> io::Result<()> {
        self.shared().writable(false).await
    }

    /// The descriptor, open as long as this stream is.
    pub fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: this owns the descriptor, one way or the other, and outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.fd) }
    }

    fn shared(&self) -> &TcpStream {
        // SAFETY: the only exclusive reference is made in `read` and `write`, for the length of a call that does not come
        // back here.
        unsafe { &*self.driven().get() }
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("fd", &self.fd()).finish()
    }
}

/// The same for a listening socket: its descriptor for `accept4`.
pub fn listener_fd(listener: &monoio::net::TcpListener) -> BorrowedFd<'_> {
    // SAFETY: the listener owns the descriptor and outlives the borrow.
    unsafe { BorrowedFd::borrow_raw(listener.as_raw_fd()) }
}
