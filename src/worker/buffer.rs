//! Buffers are leased from a per-core pool only while bytes are present: an idle connection holds none.
//!
//! Three classes: [`HEAD`] holds a usual head and what came with it, [`SMALL`] the largest one and a TLS record,
//! [`LARGE`] carries streamed bodies. A lease goes back when it is dropped; the pool keeps a bounded number of free
//! buffers and gives the rest back to the allocator, so that a burst does not stay.

use std::cell::RefCell;
use std::ops::{Deref, DerefMut};

use crate::worker::spare::Spare;

/// Capacity of a buffer for a head in bytes. No multiple of a page: of buffers whose starts lie a power of two apart
/// only a handful fits into the sets of a cache.
pub const HEAD: usize = 3584;
/// Capacity of a small buffer in bytes.
pub const SMALL: usize = 17 * 1024;
/// Capacity of a large buffer in bytes.
pub const LARGE: usize = 256 * 1024;

/// Free buffers of one class.
struct Class {
    bytes: usize,
    free: Spare<Vec<u8>>,
}

impl Class {
    const fn new(bytes: usize, most: usize, least: usize) -> Class {
        Class { bytes, free: Spare::new(most, least) }
    }

    #[inline]
    fn lease(&mut self) -> Vec<u8> {
        self.free.take().unwrap_or_else(|| Vec::with_capacity(self.bytes))
    }
}

struct Pool {
    head: Class,
    small: Class,
    large: Class,
}

thread_local! {
    // At most 3.5 MiB, 2 MiB and 16 MiB per core, while the load needs as much.
    static POOL: RefCell<Pool> = const {
        RefCell::new(Pool {
            head: Class::new(HEAD, 1024, 128),
            small: Class::new(SMALL, 120, 8),
            large: Class::new(LARGE, 64, 2),
        })
    };
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

    /// Leases an empty buffer of [`HEAD`] capacity.
    #[inline]
    pub fn head() -> Buffer {
        Buffer { bytes: POOL.with_borrow_mut(|pool| pool.head.lease()) }
    }

    /// Leases an empty buffer of [`SMALL`] capacity.
    pub fn small() -> Buffer {
        Buffer { bytes: POOL.with_borrow_mut(|pool| pool.small.lease()) }
    }

    /// Leases an empty buffer of [`LARGE`] capacity.
    pub fn large() -> Buffer {
        Buffer { bytes: POOL.with_borrow_mut(|pool| pool.large.lease()) }
    }

    /// Leases an empty buffer of the smallest class that holds `bytes`; past the last it comes from the allocator.
    #[inline]
    pub fn of(bytes: usize) -> Buffer {
        match bytes {
            _ if bytes <= HEAD => Buffer::head(),
            _ if bytes <= SMALL => Buffer::small(),
            _ if bytes <= LARGE => Buffer::large(),
            _ => Buffer { bytes: Vec::with_capacity(bytes) },
        }
    }

    /// Moves what this buffer holds into one of the next class; whether there was one.
    pub fn widen(&mut self) -> bool {
        if self.bytes.capacity() >= LARGE {
            return false;
        }
        let mut wider = Buffer::of(self.bytes.capacity() + 1);
        wider.extend_from_slice(&self.bytes);
        *self = wider;
        true
    }

    /// Keeps what it holds in memory of just that size, for bytes that stay long: what was leased goes back.
    pub fn shrink(&mut self) {
        let mut kept = Vec::with_capacity(self.bytes.len());
        kept.extend_from_slice(&self.bytes);
        *self = Buffer { bytes: kept };
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
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        // The pool may be gone while a thread ends; the buffer then goes to the allocator.
        let _ = POOL.try_with(|pool| {
            let pool = &mut *pool.borrow_mut();
            let class = match bytes.capacity() {
                HEAD => &mut pool.head,
                SMALL => &mut pool.small,
                LARGE => &mut pool.large,
                _ => return, // Grown past its class: the allocator's.
            };
            class.free.give(bytes);
        });
    }
}

/// Gives buffers that nobody needs back to the allocator, little by little.
pub fn trim() {
    POOL.with_borrow_mut(|pool| {
        pool.head.free.trim();
        pool.small.free.trim();
        pool.large.free.trim();
    });
}

/// Bytes of free buffers that the pool of this core holds.
pub fn pooled_bytes() -> usize {
    POOL.with_borrow(|pool| {
        [&pool.head, &pool.small, &pool.large].iter().map(|class| class.free.len() * class.bytes).sum()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_lease_is_leased_again_and_empty() {
        for make in [Buffer::head, Buffer::small, Buffer::large] {
            let mut one = make();
            one.extend_from_slice(b"abc");
            let (address, capacity) = (one.as_ptr(), one.capacity());
            drop(one);
            let two = make();
            assert_eq!((two.as_ptr(), two.capacity()), (address, capacity));
            assert!(two.is_empty());
        }
    }

    #[test]
    fn the_class_follows_from_what_is_to_be_held() {
        for (bytes, capacity) in
            [(0, HEAD), (HEAD, HEAD), (HEAD + 1, SMALL), (SMALL + 1, LARGE), (LARGE + 1, LARGE + 1)]
        {
            assert_eq!(Buffer::of(bytes).capacity(), capacity);
        }
        let mut buffer = Buffer::head();
        buffer.extend_from_slice(b"abc");
        assert!(buffer.widen() && buffer.widen() && !buffer.widen());
        assert_eq!((&**buffer, buffer.capacity()), (&b"abc"[..], LARGE));
    }

    #[test]
    fn the_pool_keeps_a_bounded_number() {
        let burst: Vec<Buffer> = (0..3000).map(|_| Buffer::head()).collect();
        drop(burst);
        let burst: Vec<Buffer> = (0..300).map(|_| Buffer::small()).collect();
        drop(burst);
        assert!(pooled_bytes() <= 1024 * HEAD + 120 * SMALL);
    }

    #[test]
    fn what_stays_long_takes_no_more_than_it_is() {
        let mut buffer = Buffer::head();
        buffer.extend_from_slice(b"abc");
        buffer.shrink();
        assert_eq!((&**buffer, buffer.capacity()), (&b"abc"[..], 3));
        buffer.clear();
        buffer.shrink();
        assert!(!buffer.is_leased());
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
