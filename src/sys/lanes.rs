//! Sixteen bytes looked at as one.
//!
//! For: the scanners of the HTTP/1 codec. Not for: anything that needs more than compare and collect.
//!
//! Why `unsafe`: the instructions of SSE2, which every x86-64 CPU has, are `unsafe` to call from functions that do not
//! name them as a target feature, and those that do are not inlined into their callers' loops. Measured against the
//! same scans on 64-bit words (instructions for a head of 718 bytes, `benches/parser.rs`): see that bench's record in
//! the history. Elsewhere the same operations are loops over an array, which compilers turn into vectors.

#[cfg(target_arch = "x86_64")]
pub use sse2::Lanes;

#[cfg(not(target_arch = "x86_64"))]
pub use portable::Lanes;

#[cfg(target_arch = "x86_64")]
mod sse2 {
    use std::{
        arch::x86_64::{
            __m128i, _mm_add_epi8, _mm_and_si128, _mm_andnot_si128, _mm_cmpeq_epi8, _mm_cmpgt_epi8,
            _mm_loadu_si128, _mm_movemask_epi8, _mm_or_si128, _mm_set1_epi8,
        },
        ops::{BitAnd, BitOr},
    };

    /// Sixteen bytes, or sixteen answers of all ones (yes) or all zeros (no).
    #[derive(Clone, Copy)]
    pub struct Lanes(__m128i);

    impl Lanes {
        /// These bytes.
        #[inline(always)]
        pub fn of(bytes: &[u8; 16]) -> Lanes {
            // SAFETY: SSE2 is part of x86-64; an unaligned load of 16 bytes from a reference to 16 bytes.
            Lanes(unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) })
        }

        #[inline(always)]
        fn all(byte: u8) -> __m128i {
            // SAFETY: SSE2 is part of x86-64; no memory is touched.
            unsafe { _mm_set1_epi8(byte as i8) }
        }

        /// Which bytes are `byte`.
        #[inline(always)]
        pub fn equal(self, byte: u8) -> Lanes {
            // SAFETY: SSE2 is part of x86-64; no memory is touched.
            Lanes(unsafe { _mm_cmpeq_epi8(self.0, Lanes::all(byte)) })
        }

        /// Which bytes lie in `first..=last`; the range must hold fewer than 128 values.
        #[inline(always)]
        pub fn within(self, first: u8, last: u8) -> Lanes {
            debug_assert!(first <= last && last - first < 127);
            // The range is moved to the top of the signed bytes, where one compare tells it from all others.
            let (shift, below) = (Lanes::all(127u8.wrapping_sub(last)), Lanes::all(126 - (last - first)));
            // SAFETY: SSE2 is part of x86-64; no memory is touched.
            let moved = unsafe { _mm_add_epi8(self.0, shift) };
            // SAFETY: SSE2 is part of x86-64; no memory is touched.
            Lanes(unsafe { _mm_cmpgt_epi8(moved, below) })
        }

        /// The bytes with these bits set in each.
        #[inline(always)]
        pub fn with_bits(self, bits: u8) -> Lanes {
            self | Lanes(Lanes::all(bits))
        }

        /// The answers of `self` where `other` says no.
        #[inline(always)]
        pub fn but_not(self, other: Lanes) -> Lanes {
            // SAFETY: SSE2 is part of x86-64; no memory is touched.
            Lanes(unsafe { _mm_andnot_si128(other.0, self.0) })
        }

        /// The answers as bits: bit `i` for byte `i`; bits 16–31 are zero.
        #[inline(always)]
        pub fn bits(self) -> u32 {
            // SAFETY: SSE2 is part of x86-64; no memory is touched.
            unsafe { _mm_movemask_epi8(self.0) as u32 }
        }
    }

    impl BitOr for Lanes {
        type Output = Lanes;
        #[inline(always)]
        fn bitor(self, other: Lanes) -> Lanes {
            // SAFETY: SSE2 is part of x86-64; no memory is touched.
            Lanes(unsafe { _mm_or_si128(self.0, other.0) })
        }
    }

    impl BitAnd for Lanes {
        type Output = Lanes;
        #[inline(always)]
        fn bitand(self, other: Lanes) -> Lanes {
            // SAFETY: SSE2 is part of x86-64; no memory is touched.
            Lanes(unsafe { _mm_and_si128(self.0, other.0) })
        }
    }
}

/// The same without instructions of any one CPU; also the oracle of the tests.
#[cfg(any(test, not(target_arch = "x86_64")))]
#[allow(dead_code, reason = "on x86-64 only the tests use it")]
mod portable {
    use std::ops::{BitAnd, BitOr};

    /// Sixteen bytes, or sixteen answers of all ones (yes) or all zeros (no).
    #[derive(Clone, Copy)]
    pub struct Lanes([u8; 16]);

    impl Lanes {
        /// These bytes.
        #[inline(always)]
        pub fn of(bytes: &[u8; 16]) -> Lanes {
            Lanes(*bytes)
        }

        #[inline(always)]
        fn yes(self, is: impl Fn(u8) -> bool) -> Lanes {
            Lanes(self.0.map(|byte| if is(byte) { 0xff } else { 0 }))
        }

        #[inline(always)]
        fn zip(self, other: Lanes, combine: impl Fn(u8, u8) -> u8) -> Lanes {
            Lanes(std::array::from_fn(|i| combine(self.0[i], other.0[i])))
        }

        /// Which bytes are `byte`.
        #[inline(always)]
        pub fn equal(self, byte: u8) -> Lanes {
            self.yes(|lane| lane == byte)
        }

        /// Which bytes lie in `first..=last`; the range must hold fewer than 128 values.
        #[inline(always)]
        pub fn within(self, first: u8, last: u8) -> Lanes {
            self.yes(|lane| lane.wrapping_sub(first) <= last - first)
        }

        /// The bytes with these bits set in each.
        #[inline(always)]
        pub fn with_bits(self, bits: u8) -> Lanes {
            Lanes(self.0.map(|byte| byte | bits))
        }

        /// The answers of `self` where `other` says no.
        #[inline(always)]
        pub fn but_not(self, other: Lanes) -> Lanes {
            self.zip(other, |a, b| a & !b)
        }

        /// The answers as bits: bit `i` for byte `i`; bits 16–31 are zero.
        #[inline(always)]
        pub fn bits(self) -> u32 {
            self.0.iter().enumerate().fold(0, |bits, (i, lane)| bits | u32::from(lane >> 7) << i)
        }
    }

    impl BitOr for Lanes {
        type Output = Lanes;
        #[inline(always)]
        fn bitor(self, other: Lanes) -> Lanes {
            self.zip(other, |a, b| a | b)
        }
    }

    impl BitAnd for Lanes {
        type Output = Lanes;
        #[inline(always)]
        fn bitand(self, other: Lanes) -> Lanes {
            self.zip(other, |a, b| a & b)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Lanes, portable};

    #[test]
    fn every_byte_is_judged_alike_with_and_without_vectors() {
        for byte in 0..=255u8 {
            let bytes: [u8; 16] =
                std::array::from_fn(|i| byte.wrapping_mul(i as u8 | 1).wrapping_add(i as u8));
            let (fast, slow) = (Lanes::of(&bytes), portable::Lanes::of(&bytes));
            assert_eq!(fast.bits(), slow.bits());
            assert_eq!(fast.equal(byte).bits(), slow.equal(byte).bits());
            for (first, last) in
                [(0, 0x1f), (0x21, 0x7a), (b'a', b'z'), (0x7f, 0x7f), (0xf0, 0xff), (byte, byte)]
            {
                assert_eq!(
                    fast.within(first, last).bits(),
                    slow.within(first, last).bits(),
                    "{first} {last} {bytes:?}"
                );
            }
            assert_eq!(fast.with_bits(0x20).equal(byte).bits(), slow.with_bits(0x20).equal(byte).bits());
            let (a, b) = (fast.within(0, 0x40), fast.within(0x30, 0x60));
            let (c, d) = (slow.within(0, 0x40), slow.within(0x30, 0x60));
            assert_eq!((a | b).bits(), (c | d).bits());
            assert_eq!((a & b).bits(), (c & d).bits());
            assert_eq!(a.but_not(b).bits(), c.but_not(d).bits());
        }
    }
}
