//! Doorbells: one thread tells another "look again", without waiting and without a lock.
//!
//! A bell is a pair of non-blocking sockets; ringing writes one byte, a full buffer means that it already rings.
//! What there is to see travels elsewhere (an arc-swap, a flag, a bounded queue); the bell carries nothing.
//! Control → core: the control thread keeps the [`Bell`], the core polls the [`Ear`]'s descriptor. Core →
//! control: the other way round. Rings are rare (a reload, a new key id), so a socket pair from the standard
//! library is preferred to an eventfd with unsafe code around it; a ring costs one `send`, about 1 µs.

use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::net::UnixStream;

/// The end that rings. Share it by `Arc`; every method takes `&self`.
#[derive(Debug)]
pub struct Bell {
    stream: UnixStream,
}

/// The end that hears.
#[derive(Debug)]
pub struct Ear {
    stream: UnixStream,
}

/// What an ear heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heard {
    /// Nothing since the last look.
    Silence,
    /// At least one ring.
    Ring,
    /// The bell is gone and there is nothing left to hear. The socket stays readable from now on: whoever polls
    /// it must stop, or spin.
    Gone,
}

/// A new bell and its ear.
///
/// # Errors
/// No descriptor is left.
pub fn doorbell() -> io::Result<(Bell, Ear)> {
    let (ringing, hearing) = UnixStream::pair()?;
    ringing.set_nonblocking(true)?;
    hearing.set_nonblocking(true)?;
    Ok((Bell { stream: ringing }, Ear { stream: hearing }))
}

impl Bell {
    /// Rings. Never blocks; a bell that rings already, or that nobody hears any more, stays as it is.
    pub fn ring(&self) {
        let _ = (&self.stream).write(&[1]);
    }
}

impl Ear {
    /// Takes all rings so far. Never blocks. Drain *before* looking at what changed, so that a ring in between
    /// is not lost.
    pub fn drain(&self) -> Heard {
        drain(&self.stream)
    }

    /// The socket itself, to hand to an event loop. It is non-blocking.
    pub fn into_stream(self) -> UnixStream {
        self.stream
    }

    /// A second handle on the same socket: one for the event loop, one to [`drain`](Ear::drain).
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone(&self) -> io::Result<Ear> {
        Ok(Ear { stream: self.stream.try_clone()? })
    }
}

impl AsRawFd for Ear {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

impl AsFd for Ear {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn drain(mut stream: &UnixStream) -> Heard {
    let mut rings = [0; 64];
    let mut heard = Heard::Silence;
    // A socket pair holds a few hundred one-byte messages at most, so this ends even while somebody rings.
    for _ in 0..1024 {
        match stream.read(&mut rings) {
            Ok(0) if heard == Heard::Silence => return Heard::Gone,
            Ok(0) => break,
            Ok(_) => heard = Heard::Ring,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    heard
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_are_heard_once_however_many_there_were() {
        let (bell, ear) = doorbell().expect("a pair");
        assert_eq!(ear.drain(), Heard::Silence);
        for _ in 0..100_000 {
            bell.ring();
        }
        assert_eq!(ear.drain(), Heard::Ring);
        assert_eq!(ear.drain(), Heard::Silence);
        bell.ring();
        assert_eq!(ear.drain(), Heard::Ring);
    }

    #[test]
    fn an_end_that_is_gone_does_no_harm() {
        let (bell, ear) = doorbell().expect("a pair");
        drop(ear);
        bell.ring();
        let (bell, ear) = doorbell().expect("a pair");
        bell.ring();
        drop(bell);
        assert_eq!(ear.drain(), Heard::Ring);
        assert_eq!(ear.drain(), Heard::Gone);
    }
}
