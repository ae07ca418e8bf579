//! monoio's TCP stream with receives through a shared reference.
//!
//! `AsyncReadRent::read` asks for `&mut self` although it only clones the descriptor's `Rc` into the operation. Upload
//! and download are two futures over one socket, so we need both directions from `&self`; monoio's own split does
//! the same thing over an `UnsafeCell`.

use std::cell::UnsafeCell;
use std::fmt;
use std::future::Future;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use monoio::BufResult;
use monoio::buf::{IoBuf, IoBufMut};
use monoio::io::{AsyncReadRent, AsyncWriteRent};
use monoio::net::TcpStream;

/// A connected stream whose operations all start from a shared reference.
pub struct Stream {
    inner: UnsafeCell<TcpStream>,
}

impl Stream {
    /// Registers a connected socket with the driver of this thread.
    ///
    /// # Errors
    /// When the driver cannot register the descriptor.
    pub fn new(stream: std::net::TcpStream) -> io::Result<Stream> {
        Ok(Stream { inner: UnsafeCell::new(TcpStream::from_std(stream)?) })
    }

    /// Receives into `buffer` from its start; the operation owns the buffer until it is done.
    pub fn read<B: IoBufMut>(&self, buffer: B) -> impl Future<Output = BufResult<usize, B>> + '_ {
        // SAFETY: `read` uses the exclusive reference only to clone the descriptor into the operation before it
        // returns; the future it returns owns that clone and does not touch the stream. The type is `!Sync`, so no
        // other reference is in use during the call.
        unsafe { &mut *self.inner.get() }.read(buffer)
    }

    /// Sends from the start of `buffer`, as much as the socket takes; the operation owns the buffer until it is done.
    pub fn write<B: IoBuf>(&self, buffer: B) -> impl Future<Output = BufResult<usize, B>> + '_ {
        // SAFETY: as in `read`: the reference ends with the call, the operation owns a clone of the descriptor.
        unsafe { &mut *self.inner.get() }.write(buffer)
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
        // SAFETY: the stream owns the descriptor and outlives the borrow.
        unsafe { BorrowedFd::borrow_raw(self.shared().as_raw_fd()) }
    }

    fn shared(&self) -> &TcpStream {
        // SAFETY: the only exclusive reference is made in `read`, for the length of a call that does not come back
        // here.
        unsafe { &*self.inner.get() }
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
