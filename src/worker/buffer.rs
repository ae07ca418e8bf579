//! Buffers are leased from a per-core pool only while bytes are present: an idle connection holds none.
//!
//! Two classes: [`SMALL`] holds a head and what came with it, [`LARGE`] carries streamed bodies. A lease goes back
//! when it is dropped; the pool keeps a bounded number of free buffers and gives the rest back to the allocator,
//! so that a burst does not stay.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

/// Capacity of a small buffer in bytes.
pub const SMALL: usize = 16 * 1024;
/// Capacity of a large buffer in bytes.
pub const LARGE: usize = 256 * 1024;
/// Free buffers kept per core at most: 4 MiB of small ones, 2 MiB of large ones.
const SMALL_FREE_MAX: usize = 256;
const LARGE_FREE_MAX: usize = 8;
/// Free small buffers that [`trim`] leaves alone.
const SMALL_FREE_MIN: usize = 16;

struct Pool {
    small: Vec<Vec<u8>>,
    large: Vec<Vec<u8>>,
    /// The fewest small ones that were free since the last [`trim`]: so many nobody has needed.
    spare: usize,
}

thread_local! {
    static POOL: RefCell<Pool> = const { RefCell::new(Pool { small: Vec::new(), large: Vec::new(), spare: 0 }) };
}

/// A leased byte buffer: a `Vec<u8>` that finds its way back to the pool of its core.
#[derive(Debug, Default)]
pub struct Buffer {
    bytes: Vec<u8>,
}

impl Buffer {
    /// A buffer without memory: leases nothing until it is replaced.
    pub const fn empty() -> Buffer {
        Buffer { bytes: Vec::new() }
    }

    /// Leases an empty buffer of [`SMALL`] capacity.
    pub fn small() -> Buffer {
        let free = POOL.with_borrow_mut(|pool| {
            let free = pool.small.pop();
            pool.spare = pool.spare.min(pool.small.len());
            free
        });
        Buffer { bytes: free.unwrap_or_else(|| Vec::with_capacity(SMALL)) }
    }

    /// Leases an empty buffer of [`LARGE`] capacity.
    pub fn large() -> Buffer {
        let free = POOL.with_borrow_mut(|pool| pool.large.pop());
        Buffer { bytes: free.unwrap_or_else(|| Vec::with_capacity(LARGE)) }
    }

    /// Takes the vector out, for an operation that wants to own it; [`Buffer::restore`] puts it back.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Puts back a vector that [`Buffer::take`] gave.
    pub fn restore(&mut self, bytes: Vec<u8>) {
        debug_assert_eq!(self.bytes.capacity(), 0, "a buffer is restored once");
        self.bytes = bytes;
    }

    /// Returns a vector that [`Buffer::take`] gave to its pool.
    pub fn give_back(bytes: Vec<u8>) {
        drop(Buffer { bytes });
    }

    /// Removes the first `count` bytes by moving the rest to the front.
    pub fn consume(&mut self, count: usize) {
        let length = self.bytes.len();
        debug_assert!(count <= length);
        if count < length {
            self.bytes.copy_within(count.., 0);
        }
        self.bytes.truncate(length - count);
    }

    /// Whether this buffer holds memory.
    pub fn is_leased(&self) -> bool {
        self.bytes.capacity() != 0
    }
}

impl Deref for Buffer {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    #[inline]
    fn drop(&mut self) {
        if self.bytes.capacity() != 0 {
            self.rest();
        }
    }
}

impl Buffer {
    fn rest(&mut self) {
        let capacity = self.bytes.capacity();
        if capacity != SMALL && capacity != LARGE {
            return; // Grown past its class: the allocator's.
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        // The pool may be gone while a thread ends; the buffer then goes to the allocator.
        let _ = POOL.try_with(|pool| {
            let pool = &mut *pool.borrow_mut();
            let (free, most) = match capacity {
                SMALL => (&mut pool.small, SMALL_FREE_MAX),
                _ => (&mut pool.large, LARGE_FREE_MAX),
            };
            if free.len() < most {
                free.push(bytes);
            }
        });
    }
}

/// Gives half of the small buffers that nobody has needed since the last call back to the allocator.
pub fn trim() {
    POOL.with_borrow_mut(|pool| {
        let idle = pool.spare.div_ceil(2);
        let kept = pool.small.len().saturating_sub(idle).max(SMALL_FREE_MIN);
        // The bottom of the stack is what has rested longest.
        let surplus = pool.small.len().saturating_sub(kept);
        pool.small.drain(..surplus);
        pool.spare = pool.small.len();
    });
}

/// Bytes of free buffers that the pool of this core holds.
pub fn pooled_bytes() -> usize {
    POOL.with_borrow(|pool| pool.small.len() * SMALL + pool.large.len() * LARGE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_lease_is_leased_again_and_empty() {
        let mut one = Buffer::small();
        one.extend_from_slice(b"abc");
        let address = one.as_ptr();
        drop(one);
        let two = Buffer::small();
        assert_eq!(two.as_ptr(), address);
        assert!(two.is_empty());
    }

    #[test]
    fn the_pool_keeps_a_bounded_number() {
        let burst: Vec<Buffer> = (0..SMALL_FREE_MAX * 3).map(|_| Buffer::small()).collect();
        drop(burst);
        assert!(pooled_bytes() <= SMALL_FREE_MAX * SMALL + LARGE_FREE_MAX * LARGE);
    }

    #[test]
    fn what_nobody_needs_is_given_back_little_by_little() {
        drop((0..200).map(|_| Buffer::small()).collect::<Vec<_>>());
        trim();
        let after_burst = pooled_bytes();
        for _ in 0..20 {
            drop((0..40).map(|_| Buffer::small()).collect::<Vec<_>>());
            trim();
        }
        let free = pooled_bytes() / SMALL;
        assert!(after_burst > pooled_bytes());
        assert!((40..=42).contains(&free), "{free}: what is used stays, the rest goes");
        for _ in 0..20 {
            trim();
        }
        assert_eq!(pooled_bytes() / SMALL, SMALL_FREE_MIN);
    }

    #[test]
    fn consume_keeps_the_rest() {
        let mut buffer = Buffer::small();
        buffer.extend_from_slice(b"headbody");
        buffer.consume(4);
        assert_eq!(&**buffer, b"body");
        buffer.consume(4);
        assert!(buffer.is_empty());
    }
}
