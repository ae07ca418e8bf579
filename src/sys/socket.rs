//! Socket calls that monoio does not offer, or offers with a trap: bounded `accept4`, non-blocking `recv`,
//! `send` and `peek` on sockets that the ring sees as blocking, and listeners with `SO_REUSEPORT`.
//!
//! All of them return at once: on a socket that would block they answer `ErrorKind::WouldBlock`.

use std::io;
use std::mem::{self, MaybeUninit};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::path::Path;

use crate::sys::address::{Address, UNIX_PATH_BYTES_MAX};

/// What a peek at the receive queue showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peek {
    /// Bytes are waiting.
    Data,
    /// Nothing yet, the peer is still there.
    Empty,
    /// The peer has closed its side, or reset the connection.
    Closed,
}

/// Whether the peer of a connection is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It is, as far as anybody can tell.
    There,
    /// It has ended its side: it may still read, or have gone.
    Listening,
    /// It has reset the connection, or closed a Unix socket.
    Gone,
}

/// Which directions of a socket [`shutdown`] ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shutdown {
    /// No more receiving: a pending receive returns 0.
    Read,
    /// No more sending: the peer sees the end.
    Write,
    /// Both.
    Both,
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_size(result: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// Bytes for a client that the system takes before it has sent them, about: more wait here, or stay with who sends them. Without a
/// bound a client that reads slowly is owed up to `tcp_wmem` of the system's memory, and what is urgent waits behind it. What is on
/// the way and not acknowledged does not count, so that a long line is filled all the same.
const UNSENT_BYTES_MAX: libc::c_int = 256 * 1024;

/// Opens a listening socket with `SO_REUSEADDR`, `SO_REUSEPORT` (one per core) and `CLOEXEC`; non-blocking.
///
/// # Errors
/// Those of [`bind`] and [`start_listening`].
pub fn listen(address: SocketAddr, backlog: i32) -> io::Result<std::net::TcpListener> {
    let socket = bind(address)?;
    start_listening(&socket, backlog)?;
    Ok(socket)
}

/// The first half of [`listen`]: the address is taken, and nobody can connect yet.
///
/// # Errors
/// Those of `socket`, `setsockopt` and `bind`.
pub fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = stream_socket(&address, true)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    set_option(&socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    // Both are inherited by accepted sockets on Linux: one call here instead of one per connection.
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    set_option(&socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)?;
    if address.is_ipv6() && address.ip().is_unspecified() {
        // `[::]` serves both families, as operators expect of it.
        set_option(&socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 0)?;
    }
    let (storage, length) = to_sockaddr(&address);
    // SAFETY: `storage` is a valid sockaddr of `length` bytes for the duration of the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const storage).cast(), length) })?;
    Ok(std::net::TcpListener::from(socket))
}

/// As [`bind`], a Unix socket, whose path must be free; non-blocking and `CLOEXEC`. The type says TCP; what is done with it
/// is the same.
///
/// # Errors
/// Those of `socket` and `bind`.
pub fn bind_unix(path: &Path) -> io::Result<std::net::TcpListener> {
    let socket = family_socket(libc::AF_UNIX, true)?;
    let (storage, length) = unix_sockaddr(path)?;
    // SAFETY: `storage` is a valid sockaddr of `length` bytes for the duration of the call.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const storage).cast(), length) })?;
    Ok(std::net::TcpListener::from(socket))
}

/// Where a listening socket of either kind is.
///
/// # Errors
/// Those of `getsockname`; a Unix socket without a path.
pub fn bound_address(socket: &std::net::TcpListener) -> io::Result<Address> {
    if option(socket, libc::SOL_SOCKET, libc::SO_DOMAIN)? != libc::AF_UNIX {
        return socket.local_addr().map(Address::Tcp);
    }
    let unix = std::os::unix::net::UnixListener::from(OwnedFd::from(socket.try_clone()?));
    match unix.local_addr()?.as_pathname() {
        Some(path) => Ok(Address::from(path)),
        None => Err(io::Error::new(io::ErrorKind::InvalidInput, "a Unix socket without a path")),
    }
}

/// The second half of [`listen`]. On a socket that listens already it changes the backlog.
///
/// # Errors
/// Those of `listen`.
pub fn start_listening(socket: &std::net::TcpListener, backlog: i32) -> io::Result<()> {
    // SAFETY: plain integers.
    check(unsafe { libc::listen(socket.as_raw_fd(), backlog) }).map(|_| ())
}

/// Makes a listening socket of somebody else's making what [`listen`] would have made, as far as that can be had later; the
/// address is not looked at.
///
/// # Errors
/// It is no TCP or Unix socket that listens, or those of `setsockopt` and `fcntl`.
pub fn adopt_listener(socket: &std::net::TcpListener) -> io::Result<()> {
    let is_tcp = option(socket, libc::SOL_SOCKET, libc::SO_PROTOCOL)? == libc::IPPROTO_TCP;
    let is_stream = option(socket, libc::SOL_SOCKET, libc::SO_TYPE)? == libc::SOCK_STREAM;
    let is_unix = option(socket, libc::SOL_SOCKET, libc::SO_DOMAIN)? == libc::AF_UNIX && is_stream;
    if !(is_tcp || is_unix) || option(socket, libc::SOL_SOCKET, libc::SO_ACCEPTCONN)? == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no TCP or Unix socket that listens"));
    }
    if is_tcp {
        set_option(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    }
    socket.set_nonblocking(true)
}

/// Lets nobody begin a connection to this listening socket any more: what would begin one (`SYN`) is dropped, as if the network
/// had lost it, while connections that have begun are completed and may be accepted. For a socket that is closed soon after:
/// whoever waits in its queue by then is reset. It holds for all descriptors of the socket, in whatever process.
///
/// # Errors
/// Those of `setsockopt`: the socket stays as it was.
pub fn begin_nothing(socket: BorrowedFd<'_>) -> io::Result<()> {
    /// RFC 9293 §3.1: the flags are in the fourteenth byte of the header, where the filter of a TCP socket begins to read.
    const FLAGS_BYTE: u32 = 13;
    const SYN: u32 = 0x02;
    let step = |code: u32, jt: u8, jf: u8, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = [
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_ABS, 0, 0, FLAGS_BYTE),
        step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, SYN),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, u32::MAX),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    let length = mem::size_of::<libc::sock_fprog>() as libc::socklen_t;
    // SAFETY: `filter` points at a program of its length; the kernel copies both during the call.
    check(unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_ATTACH_FILTER,
            (&raw const filter).cast(),
            length,
        )
    })
    .map(|_| ())
}

/// Whether more sockets may share the address of this one (`SO_REUSEPORT`).
pub fn shares_its_address(socket: &std::net::TcpListener) -> bool {
    option(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT).is_ok_and(|value| value != 0)
}

/// Whether an operation failed because this process or this machine has no more descriptors or memory: that says nothing of
/// whom it was meant for.
pub fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

/// Starts a connection without waiting: the socket becomes writable when it is there or has failed
/// (then [`take_error`] tells). It is non-blocking; what the driver wants of it afterwards is the caller's to set.
///
/// # Errors
/// Those of `socket` and `connect`, except that the connection is under way. `WouldBlock` is a Unix socket whose queue
/// is full: there is nothing to wait for, but it may be tried again.
pub fn connect_start(address: &Address) -> io::Result<std::net::TcpStream> {
    let (socket, (storage, length)) = match address {
        Address::Tcp(address) => {
            let socket = stream_socket(address, true)?;
            set_option(&socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
            (socket, to_sockaddr(address))
        }
        Address::Unix(path) => (family_socket(libc::AF_UNIX, true)?, unix_sockaddr(path)?),
    };
    // SAFETY: `storage` is a valid sockaddr of `length` bytes for the duration of the call.
    match check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const storage).cast(), length) }) {
        Ok(_) => {}
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => {}
        Err(error) => return Err(error),
    }
    // The type says TCP; what is done with it (receive, send, shut down) is the same for every stream socket.
    Ok(std::net::TcpStream::from(socket))
}

fn stream_socket(address: &SocketAddr, nonblocking: bool) -> io::Result<OwnedFd> {
    family_socket(if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }, nonblocking)
}

fn family_socket(family: libc::c_int, nonblocking: bool) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_STREAM | libc::SOCK_CLOEXEC | if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    // SAFETY: plain integers; the descriptor is checked before it is owned.
    let fd = check(unsafe { libc::socket(family, flags, 0) })?;
    // SAFETY: `fd` was just returned to us and nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn set_option(socket: &impl AsRawFd, level: i32, name: i32, value: libc::c_int) -> io::Result<()> {
    let length = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` lives across the call and `length` is its size.
    check(unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), length) })
        .map(|_| ())
}

/// The error a socket holds (`SO_ERROR`), taken from it: after a connection became writable, `None` means
/// that it stands.
///
/// # Errors
/// Those of `getsockopt`.
pub fn take_error(fd: BorrowedFd<'_>) -> io::Result<Option<io::Error>> {
    let value = option(&fd, libc::SOL_SOCKET, libc::SO_ERROR)?;
    Ok((value != 0).then(|| io::Error::from_raw_os_error(value)))
}

fn option(socket: &impl AsRawFd, level: i32, name: i32) -> io::Result<libc::c_int> {
    let mut value: libc::c_int = 0;
    let mut length = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` and `length` are valid for writes and agree in size.
    check(unsafe {
        libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut length)
    })?;
    Ok(value)
}

/// Makes a socket blocking or not. The ring wants blocking sockets (a non-blocking one fails a pending
/// operation with EAGAIN), epoll wants the others.
///
/// # Errors
/// Those of `fcntl`.
pub fn set_nonblocking(fd: BorrowedFd<'_>, nonblocking: bool) -> io::Result<()> {
    // SAFETY: plain integers.
    let flags = check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_GETFL) })?;
    let wanted = if nonblocking { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    // SAFETY: plain integers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, wanted) }).map(|_| ())
}

/// The peer of a connection over a Unix socket: no TCP connection comes from this address.
pub const UNIX_PEER: SocketAddr = SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, 0, 0, 0));

/// Accepts one connection if one is waiting. The accepted socket is `CLOEXEC`, and non-blocking if asked.
///
/// # Errors
/// `WouldBlock` when nobody waits; else those of `accept4` (ECONNABORTED, EMFILE, …).
pub fn accept(listener: BorrowedFd<'_>, nonblocking: bool) -> io::Result<(std::net::TcpStream, SocketAddr)> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    let flags = libc::SOCK_CLOEXEC | if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    // SAFETY: `storage` is writable for `length` bytes.
    let fd = check(unsafe {
        libc::accept4(listener.as_raw_fd(), storage.as_mut_ptr().cast(), &raw mut length, flags)
    })?;
    // SAFETY: `fd` was just returned to us and nobody else owns it.
    let stream = unsafe { std::net::TcpStream::from_raw_fd(fd) };
    // SAFETY: zeroed storage is a valid `sockaddr_storage`; the kernel wrote a prefix of it.
    let storage = unsafe { storage.assume_init() };
    let address = match i32::from(storage.ss_family) {
        libc::AF_UNIX => UNIX_PEER,
        _ => from_sockaddr(&storage).ok_or_else(|| io::Error::other("accepted a socket of no family"))?,
    };
    Ok((stream, address))
}

/// Receives what is there into the spare capacity of `buffer`, at most `limit` bytes, and extends it.
/// `Ok(0)` is the end of the stream. Never waits.
///
/// # Errors
/// `WouldBlock` when nothing is there; else those of `recv`.
pub fn recv_now(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>, limit: usize) -> io::Result<usize> {
    let spare = buffer.spare_capacity_mut();
    let wanted = spare.len().min(limit);
    debug_assert!(wanted > 0, "a receive into a full buffer would read as the end of the stream");
    // SAFETY: the spare capacity is writable for `wanted` bytes.
    let received = check_size(unsafe {
        libc::recv(fd.as_raw_fd(), spare.as_mut_ptr().cast(), wanted, libc::MSG_DONTWAIT)
    })?;
    // SAFETY: the kernel wrote `received` ≤ `wanted` bytes behind the current length.
    unsafe { buffer.set_len(buffer.len() + received) };
    Ok(received)
}

/// Copies what is there into the spare capacity of `buffer`, as much as fits, and extends it; it stays in the queue.
/// `Ok(0)` is the end of the stream. Never waits.
///
/// # Errors
/// As [`recv_now`].
pub fn peek_now(fd: BorrowedFd<'_>, buffer: &mut Vec<u8>) -> io::Result<usize> {
    let spare = buffer.spare_capacity_mut();
    debug_assert!(!spare.is_empty(), "a look into a full buffer would read as the end of the stream");
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: the spare capacity is writable for its length.
    let seen =
        check_size(unsafe { libc::recv(fd.as_raw_fd(), spare.as_mut_ptr().cast(), spare.len(), flags) })?;
    // SAFETY: the kernel wrote `seen` bytes, no more than were spare, behind the current length.
    unsafe { buffer.set_len(buffer.len() + seen) };
    Ok(seen)
}

/// The address that a socket has on this machine.
///
/// # Errors
/// Those of `getsockname`; a family that is none of IP.
pub fn local_address(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let mut storage = MaybeUninit::<libc::sockaddr_storage>::zeroed();
    let mut length = mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t;
    // SAFETY: `storage` is writable for `length` bytes.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), storage.as_mut_ptr().cast(), &raw mut length) })?;
    // SAFETY: zeroed storage is a valid `sockaddr_storage`; the kernel wrote a prefix of it.
    let storage = unsafe { storage.assume_init() };
    from_sockaddr(&storage).ok_or_else(|| io::Error::other("a socket of no IP family"))
}

/// Sends as much of `bytes` as the socket takes now. Never waits, never raises SIGPIPE.
///
/// # Errors
/// `WouldBlock` when the send buffer is full; else those of `send`.
pub fn send_now(fd: BorrowedFd<'_>, bytes: &[u8], more: bool) -> io::Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | if more { libc::MSG_MORE } else { 0 };
    // SAFETY: `bytes` is readable for its length.
    check_size(unsafe { libc::send(fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), flags) })
}

/// Sends as much of the two slices, in order, as the socket takes now, in one call.
///
/// # Errors
/// As [`send_now`].
pub fn send_two_now(fd: BorrowedFd<'_>, first: &[u8], second: &[u8]) -> io::Result<usize> {
    let mut slices = [
        libc::iovec { iov_base: first.as_ptr().cast_mut().cast(), iov_len: first.len() },
        libc::iovec { iov_base: second.as_ptr().cast_mut().cast(), iov_len: second.len() },
    ];
    // SAFETY: all-zero is a valid msghdr; the fields that matter are set below.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = slices.as_mut_ptr();
    message.msg_iovlen = slices.len() as _;
    // SAFETY: the message points at two iovecs over readable slices that outlive the call; sendmsg only reads.
    check_size(unsafe {
        libc::sendmsg(fd.as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    })
}

/// Bytes that were sent and that the peer has not acknowledged yet; 0 where that cannot be told.
pub fn unacknowledged(fd: BorrowedFd<'_>) -> u64 {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ (SIOCOUTQ of a socket, tcp(7)) writes one int, for which there is room.
    let result = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCOUTQ, &raw mut bytes) };
    if result < 0 { 0 } else { u64::from(bytes.unsigned_abs()) }
}

/// Looks at the receive queue without taking anything.
pub fn peek(fd: BorrowedFd<'_>) -> Peek {
    let mut byte = 0u8;
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: one writable byte.
    match check_size(unsafe { libc::recv(fd.as_raw_fd(), (&raw mut byte).cast(), 1, flags) }) {
        Ok(0) => Peek::Closed,
        Ok(_) => Peek::Data,
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Peek::Empty,
        Err(_) => Peek::Closed,
    }
}

/// Whether the peer of a connection is still there, whatever of what it sent has not been received. Takes nothing off the
/// socket.
pub fn presence(fd: BorrowedFd<'_>) -> Presence {
    let mut asked = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLRDHUP, revents: 0 };
    // SAFETY: one writable `pollfd`; it does not wait.
    let told = check(unsafe { libc::poll(&raw mut asked, 1, 0) }).unwrap_or(0);
    match asked.revents {
        _ if told == 0 => Presence::There,
        told if told & (libc::POLLERR | libc::POLLHUP | libc::POLLNVAL) != 0 => Presence::Gone,
        _ => Presence::Listening,
    }
}

/// Ends one or both directions; pending operations on the socket complete. An error means that the peer has
/// gone already, which is what the caller wanted.
pub fn shutdown(fd: BorrowedFd<'_>, how: Shutdown) {
    let how = match how {
        Shutdown::Read => libc::SHUT_RD,
        Shutdown::Write => libc::SHUT_WR,
        Shutdown::Both => libc::SHUT_RDWR,
    };
    // SAFETY: plain integers.
    let _ = unsafe { libc::shutdown(fd.as_raw_fd(), how) };
}

/// Whether the close of a socket, whoever closes it, resets the connection (`SO_LINGER` 0).
pub fn reset_on_close(fd: BorrowedFd<'_>, reset: bool) {
    let linger = libc::linger { l_onoff: libc::c_int::from(reset), l_linger: 0 };
    let length = mem::size_of::<libc::linger>() as libc::socklen_t;
    // SAFETY: `linger` lives across the call and `length` is its size. Failure leaves an ordinary close.
    let _ = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            length,
        )
    };
}

/// Resets the connection now; whoever waits for it is told.
pub fn abort(fd: BorrowedFd<'_>) {
    // SAFETY: all-zero is a valid sockaddr.
    let mut nobody: libc::sockaddr = unsafe { mem::zeroed() };
    nobody.sa_family = libc::AF_UNSPEC as libc::sa_family_t;
    let length = mem::size_of::<libc::sockaddr>() as libc::socklen_t;
    // SAFETY: `nobody` lives across the call and `length` is its size. "Connecting" to nobody is how a TCP socket is taken
    // apart at once (connect(2)); failure means that it already is, or that it is a Unix socket, which knows no reset.
    if unsafe { libc::connect(fd.as_raw_fd(), &raw const nobody, length) } != 0 {
        shutdown(fd, Shutdown::Both);
    }
}

fn to_sockaddr(address: &SocketAddr) -> (libc::sockaddr_storage, libc::socklen_t) {
    // SAFETY: all-zero is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    match address {
        SocketAddr::V4(v4) => {
            let plain = libc::sockaddr_in {
                sin_family: libc::AF_INET as libc::sa_family_t,
                sin_port: v4.port().to_be(),
                sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(v4.ip().octets()) },
                sin_zero: [0; 8],
            };
            // SAFETY: sockaddr_storage is larger and at least as aligned as sockaddr_in.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in>().write(plain) };
            (storage, mem::size_of::<libc::sockaddr_in>() as libc::socklen_t)
        }
        SocketAddr::V6(v6) => {
            let plain = libc::sockaddr_in6 {
                sin6_family: libc::AF_INET6 as libc::sa_family_t,
                sin6_port: v6.port().to_be(),
                sin6_flowinfo: v6.flowinfo(),
                sin6_addr: libc::in6_addr { s6_addr: v6.ip().octets() },
                sin6_scope_id: v6.scope_id(),
            };
            // SAFETY: sockaddr_storage is larger and at least as aligned as sockaddr_in6.
            unsafe { (&raw mut storage).cast::<libc::sockaddr_in6>().write(plain) };
            (storage, mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t)
        }
    }
}

fn unix_sockaddr(path: &Path) -> io::Result<(libc::sockaddr_storage, libc::socklen_t)> {
    use std::os::unix::ffi::OsStrExt as _;
    let bytes = path.as_os_str().as_bytes();
    if bytes.is_empty() || bytes.len() > UNIX_PATH_BYTES_MAX || bytes.contains(&0) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not the path of a Unix socket"));
    }
    // SAFETY: all-zero is a valid sockaddr_un.
    let mut plain: libc::sockaddr_un = unsafe { mem::zeroed() };
    plain.sun_family = libc::AF_UNIX as libc::sa_family_t;
    for (place, byte) in plain.sun_path.iter_mut().zip(bytes) {
        *place = *byte as libc::c_char;
    }
    // SAFETY: all-zero is a valid sockaddr_storage.
    let mut storage: libc::sockaddr_storage = unsafe { mem::zeroed() };
    // SAFETY: sockaddr_storage is larger and at least as aligned as sockaddr_un.
    unsafe { (&raw mut storage).cast::<libc::sockaddr_un>().write(plain) };
    let length = mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
    Ok((storage, length as libc::socklen_t))
}

fn from_sockaddr(storage: &libc::sockaddr_storage) -> Option<SocketAddr> {
    match i32::from(storage.ss_family) {
        libc::AF_INET => {
            // SAFETY: the family says that the kernel wrote a sockaddr_in.
            let v4 = unsafe { (&raw const *storage).cast::<libc::sockaddr_in>().read() };
            let ip = Ipv4Addr::from(v4.sin_addr.s_addr.to_ne_bytes());
            Some(SocketAddr::V4(SocketAddrV4::new(ip, u16::from_be(v4.sin_port))))
        }
        libc::AF_INET6 => {
            // SAFETY: the family says that the kernel wrote a sockaddr_in6.
            let v6 = unsafe { (&raw const *storage).cast::<libc::sockaddr_in6>().read() };
            let ip = Ipv6Addr::from(v6.sin6_addr.s6_addr);
            // A client of a dual-stack listener is the IPv4 address it is: limits and logs see one form.
            Some(match ip.to_ipv4_mapped() {
                Some(v4) => SocketAddr::V4(SocketAddrV4::new(v4, u16::from_be(v6.sin6_port))),
                None => SocketAddr::V6(SocketAddrV6::new(
                    ip,
                    u16::from_be(v6.sin6_port),
                    v6.sin6_flowinfo,
                    v6.sin6_scope_id,
                )),
            })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    fn loopback() -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, 0))
    }

    #[test]
    fn accept_says_would_block_then_the_peer() {
        let listener = listen(loopback(), 8).expect("listen");
        let nobody = accept(listener.as_fd(), true).expect_err("nobody waits");
        assert_eq!(nobody.kind(), io::ErrorKind::WouldBlock);
        let client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let (_, peer) = accept(listener.as_fd(), true).expect("accept");
        assert_eq!(peer, client.local_addr().expect("local"));
    }

    #[test]
    fn what_a_client_does_not_read_is_bounded() {
        let listener = listen(loopback(), 8).expect("listen");
        let client = std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let (mut served, _) = loop {
            match accept(listener.as_fd(), true) {
                Ok(accepted) => break accepted,
                Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
            }
        };
        let mut taken = 0;
        while let Ok(count) = served.write(&[0; 16 * 1024]) {
            taken += count;
            assert!(taken < 64 << 20, "the system takes whatever there is");
        }
        // What the client's end holds has been sent, and is acknowledged; the system takes a segment beyond the bound.
        let unread = unacknowledged(served.as_fd());
        let bound = u64::from(UNSENT_BYTES_MAX.unsigned_abs()) + 128 * 1024;
        assert!(unread <= bound, "{unread} of {taken} bytes wait in the system, {bound} at most");
        drop(client);
    }

    #[test]
    fn two_listeners_share_a_port() {
        let one = listen(loopback(), 8).expect("listen");
        let two = listen(one.local_addr().expect("bound"), 8).expect("SO_REUSEPORT");
        assert_eq!(one.local_addr().expect("bound"), two.local_addr().expect("bound"));
    }

    #[test]
    fn where_nothing_begins_what_has_begun_is_accepted() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = listen(address.parse().expect("an address"), 8) else {
                println!("NOT RUN: {address} is not of this machine");
                continue;
            };
            let bound = listener.local_addr().expect("bound");
            let before = std::net::TcpStream::connect(bound).expect("connect");
            begin_nothing(listener.as_fd()).expect("a filter");
            let soon = std::time::Duration::from_millis(100);
            let late = std::net::TcpStream::connect_timeout(&bound, soon).expect_err("nobody answers");
            assert_eq!(late.kind(), io::ErrorKind::TimedOut);
            let (mut server, peer) = accept(listener.as_fd(), false).expect("accept");
            assert_eq!(peer, before.local_addr().expect("local"));
            // The connection goes on without the filter, and without the listener.
            drop(listener);
            server.write_all(b"x").expect("write");
            assert_eq!((&before).read(&mut [0; 1]).expect("read"), 1);
        }
    }

    #[test]
    fn ipv6_wildcard_serves_ipv4_and_names_it_so() {
        let listener = listen("[::]:0".parse().expect("address"), 8).expect("listen");
        let port = listener.local_addr().expect("bound").port();
        let _client = std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connect");
        let (_, peer) = accept(listener.as_fd(), true).expect("accept");
        assert!(peer.is_ipv4());
    }

    #[test]
    fn recv_send_and_peek_never_wait() {
        let listener = listen(loopback(), 8).expect("listen");
        let mut client =
            std::net::TcpStream::connect(listener.local_addr().expect("bound")).expect("connect");
        let (mut server, _) = accept(listener.as_fd(), false).expect("accept");
        let mut buffer = Vec::with_capacity(8);
        assert_eq!(peek(server.as_fd()), Peek::Empty);
        let nothing = recv_now(server.as_fd(), &mut buffer, 8).expect_err("nothing there");
        assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
        assert_eq!(send_two_now(client.as_fd(), b"he", b"llo").expect("send"), 5);
        let mut first = [0; 1];
        server.read_exact(&mut first).expect("one byte, so that the rest is surely there");
        assert_eq!(peek(server.as_fd()), Peek::Data);
        assert_eq!(peek_now(server.as_fd(), &mut buffer).expect("peek"), 4);
        buffer.clear();
        assert_eq!(recv_now(server.as_fd(), &mut buffer, 2).expect("recv"), 2);
        assert_eq!(recv_now(server.as_fd(), &mut buffer, 8).expect("recv"), 2);
        assert_eq!(buffer, b"ello");
        server.write_all(b"bye").expect("write");
        let mut answer = [0; 3];
        client.read_exact(&mut answer).expect("read");
        drop(client);
        let mut rest = [0; 1];
        assert_eq!(server.read(&mut rest).expect("end"), 0);
        assert_eq!(peek(server.as_fd()), Peek::Closed);
    }

    #[test]
    fn a_unix_socket_is_connected_to_and_one_that_nobody_has_is_not() {
        let path = std::env::temp_dir().join(format!("ringwall-connect-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let address = Address::from(&*path);
        let absent = connect_start(&address).expect_err("nobody there");
        assert_eq!(absent.kind(), io::ErrorKind::NotFound);
        let listener = std::os::unix::net::UnixListener::bind(&path).expect("bound");
        let mut client = connect_start(&address).expect("connected");
        let (mut server, _) = listener.accept().expect("accepted");
        client.write_all(b"hello").expect("sent");
        let mut received = [0; 5];
        server.read_exact(&mut received).expect("received");
        drop(listener);
        let gone = connect_start(&address).expect_err("nobody listens");
        assert_eq!(gone.kind(), io::ErrorKind::ConnectionRefused);
        let _ = std::fs::remove_file(&path);
        let long = Address::from(Path::new(&"a".repeat(UNIX_PATH_BYTES_MAX + 1)));
        assert_eq!(connect_start(&long).expect_err("too long").kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn a_refused_connection_is_told_by_take_error() {
        let gone = {
            let listener = listen(loopback(), 8).expect("listen");
            listener.local_addr().expect("bound")
        };
        match connect_start(&gone.into()) {
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused),
            Ok(stream) => {
                let mut poll = libc::pollfd { fd: stream.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
                // SAFETY: one valid pollfd.
                assert_eq!(unsafe { libc::poll(&raw mut poll, 1, 5_000) }, 1);
                let error = take_error(stream.as_fd()).expect("getsockopt").expect("refused");
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
            }
        }
    }
}
