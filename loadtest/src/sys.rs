//! The only `unsafe` of the harness: the few system calls that std does not offer in a safe form.
//!
//! For: non-blocking receive and send on a socket that monoio owns, `accept4`, epoll, signals to a child, and
//! what a child sets up between fork and exec. Not for: anything that std, monoio or core_affinity can do.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, SocketAddrV6, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};

use monoio::io::OwnedReadHalf;

/// Turns the `-1` of a system call into the error it left in `errno`.
fn checked(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Receives what is there, without waiting whatever the mode of the socket. `Ok(0)` is the end of the stream.
///
/// # Errors
/// `WouldBlock` if nothing is there; else what `recv` reports.
pub fn receive_now(fd: RawFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of one live, exclusively borrowed slice.
    let n = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), libc::MSG_DONTWAIT) };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n.unsigned_abs()) }
}

/// Sends what the socket takes now, without waiting and without SIGPIPE.
///
/// # Errors
/// `WouldBlock` if its buffer is full; else what `send` reports.
pub fn send_now(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: pointer and length are those of one live slice, which the kernel only reads.
    let n = unsafe {
        libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    if n < 0 { Err(io::Error::last_os_error()) } else { Ok(n.unsigned_abs()) }
}

/// The stream behind a read half, for its `readable`, which a half does not offer.
pub fn stream_of(half: &OwnedReadHalf<monoio::net::TcpStream>) -> &monoio::net::TcpStream {
    // SAFETY: a half only ever lends its stream for the length of one call that submits an operation; all of this
    // happens on one thread, and `&TcpStream` methods do not touch what those calls change.
    unsafe { &*half.0.get() }
}

/// Accepts one connection, non-blocking and closed on exec, in one system call.
///
/// # Errors
/// `WouldBlock` if none waits; else what `accept4` reports.
pub fn accept_now(listener: &TcpListener) -> io::Result<TcpStream> {
    // SAFETY: null address pointers tell the kernel not to write an address.
    let fd = checked(unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            std::ptr::null_mut(),
            std::ptr::null_mut(),
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    })?;
    // SAFETY: the descriptor is new and nobody else's.
    Ok(unsafe { TcpStream::from_raw_fd(fd) })
}

/// Begins a connection without waiting for it, from the IPv4 address `source` if one is given.
///
/// # Errors
/// What `socket`, `bind` or `connect` report, except that the connection is still being made.
pub fn connect_now(to: SocketAddr, source: Option<Ipv4Addr>) -> io::Result<TcpStream> {
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    // SAFETY: no pointers are passed.
    let fd = checked(unsafe {
        libc::socket(family, libc::SOCK_STREAM | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC, 0)
    })?;
    // SAFETY: the descriptor is new and nobody else's.
    let stream = unsafe { TcpStream::from_raw_fd(fd) };
    if let Some(source) = source.filter(|_| to.is_ipv4()) {
        let on: libc::c_int = 1;
        // SAFETY: pointer and length are those of one live integer.
        checked(unsafe {
            libc::setsockopt(
                fd,
                libc::IPPROTO_IP,
                libc::IP_BIND_ADDRESS_NO_PORT,
                (&raw const on).cast(),
                size_of::<libc::c_int>() as libc::socklen_t,
            )
        })?;
        let address = v4(SocketAddrV4::new(source, 0));
        // SAFETY: pointer and length are those of one live `sockaddr_in`.
        checked(unsafe {
            libc::bind(fd, (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
        })?;
    }
    let connected = match to {
        SocketAddr::V4(to) => {
            let address = v4(to);
            // SAFETY: pointer and length are those of one live `sockaddr_in`.
            unsafe {
                libc::connect(fd, (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
            }
        }
        SocketAddr::V6(to) => {
            let address = v6(to);
            // SAFETY: pointer and length are those of one live `sockaddr_in6`.
            unsafe {
                libc::connect(fd, (&raw const address).cast(), size_of_val(&address) as libc::socklen_t)
            }
        }
    };
    match checked(connected) {
        Ok(_) => Ok(stream),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(stream),
        Err(error) => Err(error),
    }
}

fn v4(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

fn v6(address: SocketAddrV6) -> libc::sockaddr_in6 {
    libc::sockaddr_in6 {
        sin6_family: libc::AF_INET6 as libc::sa_family_t,
        sin6_port: address.port().to_be(),
        sin6_flowinfo: address.flowinfo(),
        sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
        sin6_scope_id: address.scope_id(),
    }
}

/// An epoll instance.
pub struct Epoll {
    fd: OwnedFd,
    events: Vec<libc::epoll_event>,
}

/// What happened to the descriptor that was added under `token`.
#[derive(Clone, Copy, Debug)]
pub struct Event {
    /// The number given to [`Epoll::add`].
    pub token: u64,
    /// Bytes, an end of stream or an error can be read.
    pub readable: bool,
    /// The socket takes bytes, or is connected, or has failed.
    pub writable: bool,
    /// The other side has ended, or the connection has failed: reading must go on until that is seen.
    pub ended: bool,
}

impl Epoll {
    /// Makes an instance that reports at most `batch` events a turn.
    ///
    /// # Errors
    /// What `epoll_create1` reports.
    pub fn new(batch: usize) -> io::Result<Self> {
        // SAFETY: no pointers are passed.
        let fd = checked(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })?;
        // SAFETY: the descriptor is new and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { fd, events: vec![libc::epoll_event { events: 0, u64: 0 }; batch.max(1)] })
    }

    /// Watches a descriptor for both directions, edge-triggered: each change is reported once.
    ///
    /// # Errors
    /// What `epoll_ctl` reports.
    pub fn add(&self, fd: RawFd, token: u64) -> io::Result<()> {
        let interest = libc::EPOLLIN | libc::EPOLLOUT | libc::EPOLLRDHUP | libc::EPOLLET;
        self.control(libc::EPOLL_CTL_ADD, fd, interest, token)
    }

    /// Watches a descriptor for reading only, level-triggered: listeners, timers.
    ///
    /// # Errors
    /// What `epoll_ctl` reports.
    pub fn add_level(&self, fd: RawFd, token: u64) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN, token)
    }

    fn control(
        &self,
        operation: libc::c_int,
        fd: RawFd,
        interest: libc::c_int,
        token: u64,
    ) -> io::Result<()> {
        let mut event = libc::epoll_event { events: interest.cast_unsigned(), u64: token };
        // SAFETY: the pointer is to one live event.
        checked(unsafe { libc::epoll_ctl(self.fd.as_raw_fd(), operation, fd, &raw mut event) })?;
        Ok(())
    }

    /// Waits until something happens, at most `timeout_us` microseconds (`None`: for ever; rounded by the kernel to
    /// its timer slack), and reports how many events [`Epoll::event`] has.
    ///
    /// # Errors
    /// What `epoll_pwait2` reports, except an interruption, which counts as no events.
    pub fn wait(&mut self, timeout_us: Option<u64>) -> io::Result<usize> {
        let timeout = timeout_us.map(|us| libc::timespec {
            tv_sec: (us / 1_000_000).cast_signed(),
            tv_nsec: (us % 1_000_000 * 1_000).cast_signed(),
        });
        let timeout: *const libc::timespec = timeout.as_ref().map_or(std::ptr::null(), |t| t);
        // SAFETY: the events pointer and count are those of one live, exclusively borrowed vector; the timeout is null
        // or lives to the end of this function.
        let n = checked(unsafe {
            libc::epoll_pwait2(
                self.fd.as_raw_fd(),
                self.events.as_mut_ptr(),
                self.events.len() as libc::c_int,
                timeout,
                std::ptr::null(),
            )
        });
        match n {
            Ok(n) => Ok(n.unsigned_abs() as usize),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// The event at `index` of the last [`Epoll::wait`].
    pub fn event(&self, index: usize) -> Event {
        let event = self.events[index];
        let (flags, token) = (event.events.cast_signed(), event.u64);
        let failed = flags & (libc::EPOLLERR | libc::EPOLLHUP) != 0;
        let ended = failed || flags & libc::EPOLLRDHUP != 0;
        Event {
            token,
            readable: ended || flags & libc::EPOLLIN != 0,
            writable: failed || flags & libc::EPOLLOUT != 0,
            ended,
        }
    }
}

/// Gives the calling thread, and what it starts from now on, the CPU before all normal work on this machine, and before
/// threads with a lower `priority` (1 to 99).
///
/// # Errors
/// What `sched_setscheduler` reports: it takes privileges.
pub fn real_time(priority: i32) -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the pointer is to one live `sched_param`.
    checked(unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) }).map(drop)
}

/// Lets all other normal threads go before the calling one.
pub fn go_last() {
    // SAFETY: no pointers are passed; 0 is the calling thread.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 15) };
}

/// Bounds what the kernel buffers of what a connection receives: `bytes`, doubled by it, at least some 2 KiB.
///
/// # Errors
/// What `setsockopt` reports.
pub fn receive_little(stream: &TcpStream, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: pointer and length are those of one live integer.
    checked(unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_RCVBUF,
            (&raw const bytes).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Makes the connection end in a reset when it is closed, whatever is still unsent.
///
/// # Errors
/// What `setsockopt` reports.
pub fn reset_on_close(stream: &TcpStream) -> io::Result<()> {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: pointer and length are those of one live `linger`.
    checked(unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        )
    })
    .map(drop)
}

/// Starts a child in a process group of its own, on one CPU if one is given, which dies with the thread that started it
/// (so start children from the main thread).
///
/// # Errors
/// What fork and exec report, or that the child could not be pinned.
pub fn spawn(command: &mut Command, cpu: Option<usize>) -> io::Result<Child> {
    command.process_group(0);
    let parent = std::process::id();
    let setup = move || {
        if let Some(cpu) = cpu {
            // SAFETY: an all-zero set is an empty one.
            let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
            if cpu >= libc::CPU_SETSIZE as usize {
                return Err(io::ErrorKind::InvalidInput.into());
            }
            // SAFETY: the set is live and `cpu` was checked against its size above.
            unsafe { libc::CPU_SET(cpu, &mut set) };
            // SAFETY: pointer and size are those of one live set.
            checked(unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set) })?;
        }
        // SAFETY: no pointers are passed.
        checked(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) })?;
        // SAFETY: no pointers are passed.
        if unsafe { libc::getppid() }.cast_unsigned() != parent {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        Ok(())
    };
    // SAFETY: the closure only makes system calls, which are async-signal-safe, and allocates nothing.
    unsafe { command.pre_exec(setup) };
    command.spawn()
}

/// Sends a signal to one process, or to a whole process group if `pid` is negative.
///
/// # Errors
/// What `kill` reports, e.g. that it is gone.
pub fn signal(pid: i32, signal: libc::c_int) -> io::Result<()> {
    // SAFETY: no pointers are passed.
    checked(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// Raises the soft limit of open files to the hard one and returns it.
pub fn raise_open_files() -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer is to one live `rlimit`.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return 0;
    }
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the pointer is to one live `rlimit`.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) };
    limit.rlim_cur
}

/// Keeps the CPU time that timer slack would add out of latencies: wake-ups of this thread are due to 1 µs.
pub fn exact_timers() {
    // SAFETY: no pointers are passed.
    unsafe { libc::prctl(libc::PR_SET_TIMERSLACK, 1_000u64) };
}
