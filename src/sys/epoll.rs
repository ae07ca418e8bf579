//! An edge-triggered epoll set: what became receivable since it was last asked.

use std::fmt;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// Events that one call takes at most.
pub const EVENTS_MAX: usize = 256;

/// A set of descriptors.
#[derive(Debug)]
pub struct Epoll {
    fd: OwnedFd,
}

/// Room for what [`Epoll::take`] finds.
pub struct Events {
    list: Box<[libc::epoll_event; EVENTS_MAX]>,
    count: usize,
}

/// Something happened to a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What the member was entered with.
    pub token: u64,
    /// The peer has ended its side, or the connection.
    pub ended: bool,
}

impl Epoll {
    /// An empty set.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Epoll> {
        // SAFETY: plain integers; a result that is no error is a descriptor that nobody else owns.
        unsafe {
            let fd = libc::epoll_create1(libc::EPOLL_CLOEXEC);
            if fd < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(Epoll { fd: OwnedFd::from_raw_fd(fd) })
        }
    }

    /// Enters a socket. What has arrived already is told as well; it leaves when its last descriptor is closed.
    ///
    /// # Errors
    /// `ENOSPC` past `fs.epoll.max_user_watches`, `ENOMEM`.
    pub fn enter(&self, fd: BorrowedFd<'_>, token: u64) -> io::Result<()> {
        let events = (libc::EPOLLIN | libc::EPOLLRDHUP | libc::EPOLLET) as u32;
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: both descriptors are open; `event` is read only.
        let result = unsafe {
            libc::epoll_ctl(self.fd.as_raw_fd(), libc::EPOLL_CTL_ADD, fd.as_raw_fd(), &raw mut event)
        };
        if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Takes what has happened, without waiting; whether there may be more.
    ///
    /// # Errors
    /// Those of `epoll_wait`; none is expected.
    pub fn take(&self, events: &mut Events) -> io::Result<bool> {
        // SAFETY: the list has room for as many events as are said.
        let count = unsafe {
            libc::epoll_wait(self.fd.as_raw_fd(), events.list.as_mut_ptr(), EVENTS_MAX as libc::c_int, 0)
        };
        events.count = usize::try_from(count).unwrap_or(0);
        if count < 0 { Err(io::Error::last_os_error()) } else { Ok(events.count == EVENTS_MAX) }
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Events {
    /// No events, with room for [`EVENTS_MAX`].
    pub fn new() -> Events {
        Events { list: Box::new([libc::epoll_event { events: 0, u64: 0 }; EVENTS_MAX]), count: 0 }
    }

    /// What was taken last.
    pub fn iter(&self) -> impl Iterator<Item = Event> + '_ {
        const ENDED: u32 = (libc::EPOLLRDHUP | libc::EPOLLHUP | libc::EPOLLERR) as u32;
        self.list[..self.count]
            .iter()
            .map(|event| Event { token: event.u64, ended: event.events & ENDED != 0 })
    }
}

impl Default for Events {
    fn default() -> Events {
        Events::new()
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    fn taken(epoll: &Epoll) -> Vec<Event> {
        let mut events = Events::new();
        assert!(!epoll.take(&mut events).expect("taken"));
        events.iter().collect()
    }

    #[test]
    fn each_arrival_is_told_once_and_the_end_is_told() {
        let epoll = Epoll::new().expect("a set");
        let (mut socket, mut peer) = UnixStream::pair().expect("a pair");
        peer.write_all(b"early").expect("sent");
        epoll.enter(socket.as_fd(), 7).expect("entered");
        assert_eq!(taken(&epoll), [Event { token: 7, ended: false }]);
        assert_eq!(taken(&epoll), [], "what was told is not told again, read or not");
        peer.write_all(b"more").expect("sent");
        assert_eq!(taken(&epoll), [Event { token: 7, ended: false }]);
        assert_eq!(socket.read(&mut [0; 64]).expect("read"), 9);
        drop(peer);
        assert_eq!(taken(&epoll), [Event { token: 7, ended: true }]);
        assert!(epoll.enter(socket.as_fd(), 8).is_err(), "it is a member");
        drop(socket);
        assert_eq!(taken(&epoll), []);
    }
}
