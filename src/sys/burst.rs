//! Many sends in one system call, over as soon as the call is.

use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, opcode, types};

/// Messages that one call sends at most.
pub const BURST_MAX: usize = 256;

/// A ring that holds nothing between two calls.
pub struct Burst {
    ring: IoUring,
    /// What became of each message of the last call, as the kernel says it.
    results: Vec<i32>,
    broken: bool,
}

impl Burst {
    /// An idle ring for the calling thread.
    ///
    /// # Errors
    /// io_uring is barred here, or no memory or descriptor is left.
    pub fn new() -> io::Result<Burst> {
        let mut builder = IoUring::builder();
        builder.setup_clamp().setup_coop_taskrun().setup_single_issuer();
        let entries = BURST_MAX as u32;
        let ring = builder.build(entries).or_else(|_| IoUring::new(entries))?;
        Ok(Burst { ring, results: Vec::with_capacity(BURST_MAX), broken: false })
    }

    /// Sends each message on its socket, as much of it as that takes now; [`Burst::results`] says what became of each. Never
    /// waits for a peer, never raises SIGPIPE. Messages past [`BURST_MAX`] are not looked at.
    pub fn send<'a>(&mut self, messages: impl Iterator<Item = (BorrowedFd<'a>, &'a [u8])>) {
        self.results.clear();
        let mut queued = 0;
        for (socket, bytes) in messages.take(BURST_MAX) {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            let send = opcode::Send::new(types::Fd(socket.as_raw_fd()), bytes.as_ptr(), length)
                .flags(libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
                .build()
                .user_data(self.results.len() as u64);
            // SAFETY: `bytes` and the socket outlive this call, and this call does not end before the kernel has told the
            // end of every entry that it has taken; a ring that it has not taken all from is not used again.
            match unsafe { self.ring.submission().push(&send) } {
                Ok(()) => queued += 1,
                Err(_) => self.broken = true,
            }
            self.results.push(-libc::EAGAIN);
        }
        self.finish(queued);
    }

    /// What became of each message of the last call, in order: how much of it has left, or the error; `WouldBlock` for one
    /// that the kernel would not look at.
    pub fn results(&self) -> impl Iterator<Item = io::Result<usize>> {
        self.results.iter().map(|&result| match usize::try_from(result) {
            Ok(count) => Ok(count),
            Err(_) => Err(io::Error::from_raw_os_error(-result)),
        })
    }

    /// Whether the kernel has refused to go on: the ring is of no more use.
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Hands all entries over and takes all completions. A send with `MSG_DONTWAIT` ends while it is handed over, so that
    /// nothing is waited for here but the call itself.
    fn finish(&mut self, queued: usize) {
        let mut ended = 0;
        while ended < queued && !self.broken {
            match self.ring.submit_and_wait(queued - ended) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.broken = true,
                Ok(_) => {}
            }
            ended += self.reap();
        }
        if self.broken {
            // What the kernel has not taken it never will; what it has taken it tells the end of.
            let taken = queued - self.ring.submission().len();
            while ended < taken {
                std::hint::spin_loop();
                ended += self.reap();
            }
        }
    }

    fn reap(&mut self) -> usize {
        let mut ended = 0;
        for completion in self.ring.completion() {
            if let Some(result) = self.results.get_mut(completion.user_data() as usize) {
                *result = completion.result();
            }
            ended += 1;
        }
        ended
    }
}

impl fmt::Debug for Burst {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Burst").field("broken", &self.broken).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    use super::*;

    #[test]
    fn each_message_is_told_what_became_of_it() {
        let Ok(mut burst) = Burst::new() else {
            println!("NOT RUN: bursts (io_uring is barred)");
            return;
        };
        let pairs: Vec<_> = (0..BURST_MAX + 3).map(|_| UnixStream::pair().expect("a pair")).collect();
        let text = |index: usize| format!("message {index}").into_bytes();
        let texts: Vec<_> = (0..pairs.len()).map(text).collect();
        for _ in 0..3 {
            let messages = pairs.iter().zip(&texts).map(|((to, _), text)| (to.as_fd(), &text[..]));
            burst.send(messages);
            let results: Vec<_> = burst.results().collect();
            assert_eq!(results.len(), BURST_MAX, "no more than fit");
            for (index, result) in results.into_iter().enumerate() {
                assert_eq!(result.expect("sent"), texts[index].len());
                let mut seen = vec![0; texts[index].len()];
                (&pairs[index].1).read_exact(&mut seen).expect("received");
                assert_eq!(seen, texts[index]);
            }
        }
    }

    #[test]
    fn full_sockets_and_dead_ones_do_not_hold_up_the_others() {
        let Ok(mut burst) = Burst::new() else {
            println!("NOT RUN: bursts (io_uring is barred)");
            return;
        };
        let (full, _full_end) = UnixStream::pair().expect("a pair");
        full.set_nonblocking(true).expect("set");
        while (&full).write(&[0; 4096]).is_ok() {}
        full.set_nonblocking(false).expect("set");
        let (dead, _) = UnixStream::pair().expect("a pair");
        let (well, mut well_end) = UnixStream::pair().expect("a pair");
        let large = vec![b'x'; 16 << 20];
        let (slow, slow_end) = UnixStream::pair().expect("a pair");
        let messages: [(&UnixStream, &[u8]); 4] =
            [(&full, b"a"), (&dead, b"b"), (&well, b"c"), (&slow, &large)];
        burst.send(messages.iter().map(|(to, bytes)| (to.as_fd(), *bytes)));
        let results: Vec<_> = burst.results().collect();
        assert_eq!(results[0].as_ref().map_err(io::Error::kind), Err(io::ErrorKind::WouldBlock));
        assert_eq!(results[1].as_ref().map_err(io::Error::kind), Err(io::ErrorKind::BrokenPipe));
        assert_eq!(results[2].as_ref().ok(), Some(&1));
        assert!(
            matches!(results[3], Ok(1..) | Err(_))
                && results[3].as_ref().is_ok_and(|count| *count < large.len())
        );
        let mut seen = [0];
        well_end.read_exact(&mut seen).expect("received");
        assert!(!burst.is_broken());
        drop(slow_end);
    }
}
