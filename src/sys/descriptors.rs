//! Descriptors that go from one process to another: with a message over a Unix socket, or by being there at the start.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// The most descriptors of one message (the kernel takes 253).
pub const DESCRIPTORS_MAX: usize = 64;

/// Bytes that the control part of a message with so many descriptors takes, and room to align it.
const CONTROL_BYTES: usize = 1024;

/// Room for the control part of a message, aligned as the kernel wants it.
#[repr(C, align(16))]
struct ControlPart([u8; CONTROL_BYTES]);

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Has the kernel make room for descriptors up to the number `most` now. Its table grows by doubling, and in a process of
/// several threads whoever opens the one too many waits until no processor can be looking at the old table: 10 to 20 ms in
/// which a core serves nobody, at 512 connections, at 1,024, and so on.
///
/// # Errors
/// There may not be so many, or there is no memory.
pub fn make_room(most: RawFd) -> io::Result<()> {
    let (one, _other) = pair()?;
    // SAFETY: plain integers; the copy is owned by nobody else.
    let far =
        unsafe { OwnedFd::from_raw_fd(check(libc::fcntl(one.as_raw_fd(), libc::F_DUPFD_CLOEXEC, most))?) };
    drop(far);
    Ok(())
}

/// Two ends of a connection that keeps messages apart (`SOCK_SEQPACKET`); both `CLOEXEC`, both blocking.
///
/// # Errors
/// Those of `socketpair`.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [-1; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `ends` is writable for two descriptors.
    check(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, ends.as_mut_ptr()) })?;
    // SAFETY: the call has just made both, and nobody else owns them.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Sends one message with `descriptors`, at most [`DESCRIPTORS_MAX`].
///
/// # Errors
/// Those of `sendmsg`; too many descriptors.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
    if descriptors.len() > DESCRIPTORS_MAX {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut slice = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    let mut control = ControlPart([0; CONTROL_BYTES]);
    // SAFETY: all-zero is a valid msghdr; the fields that matter are set below.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    if !descriptors.is_empty() {
        let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
        let payload = (numbers.len() * mem::size_of::<RawFd>()) as libc::c_uint;
        // SAFETY: plain arithmetic.
        let space = unsafe { libc::CMSG_SPACE(payload) } as usize;
        debug_assert!(space <= CONTROL_BYTES, "64 descriptors take 272 bytes");
        message.msg_control = (&raw mut control.0).cast();
        message.msg_controllen = space as _;
        // SAFETY: the control part is there, aligned, and has room for a header and its payload.
        let header = unsafe { &mut *libc::CMSG_FIRSTHDR(&raw const message) };
        header.cmsg_level = libc::SOL_SOCKET;
        header.cmsg_type = libc::SCM_RIGHTS;
        // SAFETY: plain arithmetic.
        header.cmsg_len = unsafe { libc::CMSG_LEN(payload) } as _;
        // SAFETY: behind the header there is room for `payload` bytes, by `space`.
        let place = unsafe { libc::CMSG_DATA(header) };
        // SAFETY: both are `payload` bytes long and do not overlap.
        unsafe { std::ptr::copy_nonoverlapping(numbers.as_ptr().cast::<u8>(), place, payload as usize) };
    }
    loop {
        // SAFETY: the message points at parts that outlive the call; sendmsg only reads.
        let sent = unsafe { libc::sendmsg(socket.as_raw_fd(), &raw const message, libc::MSG_NOSIGNAL) };
        match usize::try_from(sent) {
            Ok(count) if count == bytes.len() => return Ok(()),
            Ok(_) => return Err(io::ErrorKind::WriteZero.into()),
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
}

/// Receives one message into `buffer`, and the descriptors that came with it, all `CLOEXEC`. No byte: the other end is gone.
///
/// # Errors
/// Those of `recvmsg`; a message that did not fit.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
    let mut slice = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut control = ControlPart([0; CONTROL_BYTES]);
    // SAFETY: all-zero is a valid msghdr; the fields that matter are set below.
    let mut message: libc::msghdr = unsafe { mem::zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control.0).cast();
    message.msg_controllen = CONTROL_BYTES as _;
    let received = loop {
        let flags = libc::MSG_CMSG_CLOEXEC;
        // SAFETY: the message points at writable parts of the lengths that it names.
        let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
        match usize::try_from(received) {
            Ok(count) => break count,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    };
    let mut descriptors = Vec::new();
    // SAFETY: the kernel has filled the control part and set its length.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(&raw const message) };
    while !header.is_null() {
        // SAFETY: it is not null, so it points into the control part.
        let found = unsafe { &*header };
        if found.cmsg_level == libc::SOL_SOCKET && found.cmsg_type == libc::SCM_RIGHTS {
            // SAFETY: plain arithmetic.
            let head = unsafe { libc::CMSG_LEN(0) } as usize;
            let count = (found.cmsg_len as usize).saturating_sub(head) / mem::size_of::<RawFd>();
            // SAFETY: behind the header lie `count` descriptors.
            let first = unsafe { libc::CMSG_DATA(header) }.cast::<RawFd>();
            for at in 0..count {
                // SAFETY: within the payload, which need not be aligned for a descriptor.
                let number = unsafe { first.add(at).read_unaligned() };
                // SAFETY: the kernel has just made it for this process, and nobody else owns it.
                descriptors.push(unsafe { OwnedFd::from_raw_fd(number) });
            }
        }
        // SAFETY: `header` is one of this message.
        header = unsafe { libc::CMSG_NXTHDR(&raw const message, header) };
    }
    if message.msg_flags & (libc::MSG_TRUNC | libc::MSG_CTRUNC) != 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a message that is too large"));
    }
    Ok((received, descriptors))
}

/// Takes a descriptor that this process was started with, and keeps it from processes that it starts. Each can be had once:
/// meant for the start of the process, when nothing else can have that number.
///
/// # Errors
/// There is no such descriptor, or it was taken before.
pub fn take_passed(number: RawFd) -> io::Result<OwnedFd> {
    static TAKEN: [AtomicBool; 1024 + 3] = [const { AtomicBool::new(false) }; 1024 + 3];
    let place = usize::try_from(number).ok().and_then(|number| TAKEN.get(number));
    if place.is_none_or(|taken| taken.swap(true, Ordering::Relaxed)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: plain integers; it fails where there is no such descriptor.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: it is open, whoever started us meant it for us, and it is taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Takes what this process was given as standard input, and has it read nothing from then on.
///
/// # Errors
/// Those of `open` and `dup`.
pub fn take_standard_input() -> io::Result<OwnedFd> {
    let nothing = std::fs::File::open("/dev/null")?;
    // SAFETY: plain integers; the result is checked before it is owned.
    let number = check(unsafe { libc::fcntl(libc::STDIN_FILENO, libc::F_DUPFD_CLOEXEC, 3) })?;
    // SAFETY: the call has just made it, and nobody else owns it.
    let taken = unsafe { OwnedFd::from_raw_fd(number) };
    // SAFETY: plain integers; standard input belongs to nobody in particular.
    check(unsafe { libc::dup2(nothing.as_raw_fd(), libc::STDIN_FILENO) })?;
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn room_for_descriptors_is_made_and_no_more_than_there_may_be() {
        make_room(1_000).expect("room");
        assert!(make_room(RawFd::MAX).is_err());
    }

    #[test]
    fn descriptors_arrive_with_their_message() {
        let (one, other) = pair().expect("a pair");
        let (mut reading, mut writing) = std::io::pipe().expect("a pipe");
        send(one.as_fd(), b"here", &[writing.as_fd(), one.as_fd()]).expect("sent");
        send(one.as_fd(), b"nothing", &[]).expect("sent");
        let mut buffer = [0; 64];
        let (count, descriptors) = receive(other.as_fd(), &mut buffer).expect("received");
        assert_eq!((&buffer[..count], descriptors.len()), (&b"here"[..], 2));
        let (count, none) = receive(other.as_fd(), &mut buffer).expect("received");
        assert_eq!((&buffer[..count], none.len()), (&b"nothing"[..], 0));
        writing.write_all(b"a").expect("written");
        drop(writing);
        let passed = descriptors.into_iter().next().expect("one");
        std::fs::File::from(passed).write_all(b"b").expect("written");
        let mut text = String::new();
        reading.read_to_string(&mut text).expect("to the end: no copy is left open");
        assert_eq!(text, "ab");
    }

    #[test]
    fn as_many_as_are_allowed_and_no_more() {
        let (one, other) = pair().expect("a pair");
        let many = vec![other.as_fd(); DESCRIPTORS_MAX + 1];
        assert!(send(one.as_fd(), b"x", &many).is_err());
        send(one.as_fd(), b"x", &many[..DESCRIPTORS_MAX]).expect("sent");
        let (_, descriptors) = receive(other.as_fd(), &mut [0; 8]).expect("received");
        assert_eq!(descriptors.len(), DESCRIPTORS_MAX);
    }

    #[test]
    fn the_end_is_told_and_a_cut_message_is_an_error() {
        let (one, other) = pair().expect("a pair");
        send(one.as_fd(), b"too long", &[one.as_fd()]).expect("sent");
        assert!(receive(other.as_fd(), &mut [0; 4]).is_err());
        drop(one);
        let (count, descriptors) = receive(other.as_fd(), &mut [0; 4]).expect("the end");
        assert_eq!((count, descriptors.len()), (0, 0));
    }

    #[test]
    fn what_was_not_passed_cannot_be_taken() {
        assert!(take_passed(-1).is_err() && take_passed(100_000).is_err());
        assert!(take_passed(1000).is_err(), "nothing has this number here");
    }
}
