//! Large shared memory that starts as zeros and costs nothing until it is touched.
#![allow(unsafe_code)]

use std::sync::atomic::AtomicU64;

use portable_atomic::AtomicU128;

/// Eight 128-bit atomic words on a pair of cache lines (adjacent-line prefetch makes the pair one miss).
#[repr(C, align(128))]
pub struct LinePair(pub [AtomicU128; 8]);

/// `count` line pairs of zeros. Pages become resident only as they are written, so a large table that is
/// never used takes no memory.
pub fn zeroed_line_pairs(count: usize) -> Box<[LinePair]> {
    let pairs = Box::<[LinePair]>::new_zeroed_slice(count);
    // SAFETY: all-zero bytes are a valid `LinePair`: it consists of eight `AtomicU128`, which have the same
    // in-memory representation as `u128` (documented by portable-atomic), and no padding (8 × 16 = 128).
    unsafe { pairs.assume_init() }
}

/// Eight 64-bit atomic words on a cache line.
#[repr(C, align(64))]
pub struct Line(pub [AtomicU64; 8]);

/// `count` lines of zeros, resident as they are written.
pub fn zeroed_lines(count: usize) -> Box<[Line]> {
    let lines = Box::<[Line]>::new_zeroed_slice(count);
    // SAFETY: all-zero bytes are a valid `Line`: it consists of eight `AtomicU64`, which have the same in-memory
    // representation as `u64`, and no padding (8 × 8 = 64).
    unsafe { lines.assume_init() }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;

    #[test]
    fn lines_are_aligned_and_zero() {
        let lines = zeroed_lines(100);
        assert_eq!(size_of::<Line>(), 64);
        assert_eq!(lines.as_ptr().addr() % 64, 0);
        assert!(lines.iter().all(|line| line.0.iter().all(|word| word.load(Ordering::Relaxed) == 0)));
    }

    #[test]
    fn line_pairs_are_aligned_and_zero() {
        let pairs = zeroed_line_pairs(100);
        assert_eq!(size_of::<LinePair>(), 128);
        assert_eq!(pairs.as_ptr().addr() % 128, 0);
        assert!(pairs.iter().all(|pair| pair.0.iter().all(|word| word.load(Ordering::Relaxed) == 0)));
    }
}
