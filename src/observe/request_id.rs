//! Request ids: UUIDv7 (RFC 9562 §5.7), one generator per core.
//!
//! An id is unique and sorts by time; within one core it is strictly increasing. It is no secret and must not be used
//! as one: after the seed it comes from a fast generator, not from the kernel, so that a request costs no system
//! call. Sans-IO: the time is passed in. Called by `pipeline` once per request.

use ring::rand::{SecureRandom, SystemRandom};

/// A request id: 16 bytes in network order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub [u8; 16]);

impl RequestId {
    /// No id.
    pub const NONE: RequestId = RequestId([0; 16]);

    /// The 36-byte text form, lower case.
    #[inline]
    pub fn format(self) -> [u8; 36] {
        let mut text = [b'-'; 36];
        let id = &self.0;
        push_hex(&mut text[0..8], &id[0..4]);
        push_hex(&mut text[9..13], &id[4..6]);
        push_hex(&mut text[14..18], &id[6..8]);
        push_hex(&mut text[19..23], &id[8..10]);
        push_hex(&mut text[24..36], &id[10..16]);
        text
    }

    /// Reads the 36-byte text form of any UUID, either case; `None` for anything else.
    pub fn parse(text: &[u8]) -> Option<RequestId> {
        if text.len() != 36 || [8, 13, 18, 23].iter().any(|at| text[*at] != b'-') {
            return None;
        }
        let mut digits = [0u8; 32];
        let without_dashes = text.iter().filter(|byte| **byte != b'-');
        if without_dashes.clone().count() != digits.len() {
            return None;
        }
        for (digit, byte) in digits.iter_mut().zip(without_dashes) {
            *digit = byte.to_ascii_lowercase();
        }
        hex_digits::<16>(&digits).map(RequestId)
    }
}

/// The generator of one core.
pub struct RequestIds {
    last_ms: u64,
    /// The 74 bits after the time, as one number; strictly increasing within a millisecond (RFC 9562 §6.2 method 2).
    tail: u128,
    state: [u64; 2],
}

/// 12 bits of `rand_a` and 62 of `rand_b`.
const TAIL_BITS: u32 = 74;

impl RequestIds {
    /// A generator seeded by the operating system.
    ///
    /// # Errors
    /// If the system has no random bytes.
    pub fn new() -> Result<RequestIds, ring::error::Unspecified> {
        let mut seed = [0u8; 16];
        SystemRandom::new().fill(&mut seed)?;
        Ok(RequestIds::seeded(u128::from_le_bytes(seed)))
    }

    /// A generator with a given seed, for tests.
    pub fn seeded(seed: u128) -> RequestIds {
        // The all-zero state is the one that the generator cannot leave.
        RequestIds { last_ms: 0, tail: 0, state: [seed as u64 | 1, (seed >> 64) as u64] }
    }

    /// The next id. `now_ms` is wall-clock Unix milliseconds; a clock that steps back does not take ids back.
    #[inline]
    pub fn next(&mut self, now_ms: u64) -> RequestId {
        if now_ms > self.last_ms {
            self.last_ms = now_ms;
            // The top bit stays clear, so that a millisecond has 2^73 of room to count up in.
            self.tail = self.random_128() >> (128 - TAIL_BITS + 1);
        } else {
            self.tail += u128::from(self.random_64() >> 32) + 1;
            if self.tail >> TAIL_BITS != 0 {
                self.last_ms += 1;
                self.tail = self.random_128() >> (128 - TAIL_BITS + 1);
            }
        }
        let high = (self.last_ms << 16) | 0x7000 | (self.tail >> 62) as u64;
        let low = (self.tail as u64 & (u64::MAX >> 2)) | 1 << 63;
        let mut id = [0; 16];
        id[..8].copy_from_slice(&high.to_be_bytes());
        id[8..].copy_from_slice(&low.to_be_bytes());
        RequestId(id)
    }

    /// A span id for `traceparent`: 8 random bytes, not all zero.
    pub fn span_id(&mut self) -> [u8; 8] {
        (self.random_64() | 1).to_be_bytes()
    }

    /// A trace id for `traceparent`: 16 random bytes, not all zero.
    pub fn trace_id(&mut self) -> [u8; 16] {
        (self.random_128() | 1).to_be_bytes()
    }

    fn random_128(&mut self) -> u128 {
        u128::from(self.random_64()) << 64 | u128::from(self.random_64())
    }

    /// xoroshiro128++: 2^128 − 1 states, passes the usual test batteries.
    #[inline]
    fn random_64(&mut self) -> u64 {
        let [a, mut b] = self.state;
        let value = a.wrapping_add(b).rotate_left(17).wrapping_add(a);
        b ^= a;
        self.state = [a.rotate_left(49) ^ b ^ (b << 21), b.rotate_left(28)];
        value
    }
}

const HEX: &[u8; 16] = b"0123456789abcdef";

const HEX_PAIRS: [[u8; 2]; 256] = {
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [HEX[byte >> 4], HEX[byte & 15]];
        byte += 1;
    }
    pairs
};

/// Writes two lower-case digits per byte; `out` is twice as long as `bytes`.
#[inline]
pub(super) fn push_hex(out: &mut [u8], bytes: &[u8]) {
    for (pair, byte) in out.as_chunks_mut::<2>().0.iter_mut().zip(bytes) {
        *pair = HEX_PAIRS[usize::from(*byte)];
    }
}

/// Reads exactly `2 * N` lower-case digits.
pub(super) fn hex_digits<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let (pairs, rest) = digits.as_chunks::<2>();
    if pairs.len() != N || !rest.is_empty() {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
        *byte = digit(*high)? << 4 | digit(*low)?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_version_7_with_the_time_in_front() {
        let mut ids = RequestIds::seeded(7);
        let id = ids.next(0x0198_1234_5678);
        assert_eq!(&id.0[..6], &[0x01, 0x98, 0x12, 0x34, 0x56, 0x78]);
        assert_eq!(id.0[6] >> 4, 7);
        assert_eq!(id.0[8] >> 6, 0b10);
        let text = id.format();
        assert_eq!(&text[..15], b"01981234-5678-7");
        assert_eq!(RequestId::parse(&text), Some(id));
    }

    #[test]
    fn ids_increase_within_a_millisecond_and_when_the_clock_steps_back() {
        let mut ids = RequestIds::seeded(1);
        let mut last = RequestId::NONE;
        for step in 0..200_000u64 {
            let id = ids.next(if step % 1000 == 999 { 5 } else { 1_000 + step / 500 });
            assert!(id > last);
            assert_eq!((id.0[6] >> 4, id.0[8] >> 6), (7, 0b10));
            last = id;
        }
    }

    #[test]
    fn the_end_of_a_millisecond_runs_into_the_next() {
        let mut ids = RequestIds::seeded(3);
        let first = ids.next(9);
        ids.tail = (1 << TAIL_BITS) - 1;
        let second = ids.next(9);
        assert!(second > first);
        assert_eq!(second.0[5], 10);
    }

    #[test]
    fn two_cores_do_not_meet() {
        let (mut one, mut two) = (RequestIds::new().expect("seed"), RequestIds::new().expect("seed"));
        let ids: std::collections::HashSet<_> =
            (0..50_000).flat_map(|_| [one.next(1), two.next(1)]).map(|id| id.0).collect();
        assert_eq!(ids.len(), 100_000);
    }

    #[test]
    fn only_the_36_byte_form_is_read() {
        for bad in [
            "",
            "0198123456787abc8def0123456789ab",
            "0198123-45678-7abc-8def-0123456789ab",
            "01981234-5678-7abc-8def-0123456789a-",
            "01981234-5678-7abc-8def-0123456789ag",
            "01981234-5678-7abc-8def-0123456789ab0",
        ] {
            assert_eq!(RequestId::parse(bad.as_bytes()), None, "{bad}");
        }
        assert!(RequestId::parse(b"01981234-5678-7ABC-8DEF-0123456789AB").is_some());
    }
}
