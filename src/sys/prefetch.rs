//! Telling the processor what will be needed soon.
//!
//! Between two turns of the loop the kernel works through as much memory as a second-level cache holds, so what belongs to
//! one connection is cold whenever its turn comes. Its pieces hang together by pointers, and a walk along them pays for
//! one line after the other; asked for ahead, they come side by side. A prefetch changes nothing but time: it never
//! faults, whatever stands at the address. Where there is no way to ask, nothing is.

use std::future::{Future, poll_fn};
use std::pin::pin;

/// Bytes that the processor fetches together.
const LINE: usize = 64;
/// Lines that are asked for at once at most: more than that the processor does not keep under way.
const LINES_MAX: usize = 32;

/// Where something lies.
#[derive(Clone, Copy, Debug)]
pub struct Lines {
    start: *const i8,
    bytes: usize,
}

impl Lines {
    /// Where `what` lies; its first 2 KiB.
    #[inline]
    pub fn of<T: ?Sized>(what: &T) -> Lines {
        let bytes = size_of_val(what).min(LINES_MAX * LINE);
        Lines { start: std::ptr::from_ref(what).cast(), bytes }
    }

    /// Asks for it.
    #[inline]
    pub fn fetch(self) {
        for offset in (0..self.bytes).step_by(LINE) {
            ask_for(self.start.wrapping_add(offset));
        }
    }

    /// Runs `future` and asks for this each time before it goes on.
    pub async fn before<F: Future>(self, future: F) -> F::Output {
        let mut future = pin!(future);
        poll_fn(|context| {
            self.fetch();
            future.as_mut().poll(context)
        })
        .await
    }
}

#[inline]
fn ask_for(address: *const i8) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and cannot fault, wherever it points.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(address) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_for_what_is_gone_or_never_was_is_no_fault() {
        let lines = {
            let gone = vec![0_u8; 1 << 20];
            Lines::of(&gone[..])
        };
        assert_eq!(lines.bytes, LINES_MAX * LINE);
        lines.fetch();
        Lines { start: std::ptr::null(), bytes: 4096 }.fetch();
        Lines { start: std::ptr::without_provenance(usize::MAX - 100), bytes: 2048 }.fetch();
        Lines::of(&()).fetch();
        Lines::of(&0_u8).fetch();
    }
}
