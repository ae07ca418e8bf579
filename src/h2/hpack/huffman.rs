//! The Huffman code of RFC 7541 Appendix B.
//!
//! For: string literals, of which nearly all that browsers and libraries send are coded. Not for: choosing whether to code.
//!
//! The code is canonical: codes of one length follow one another in the order of their symbols, and those of the next
//! length follow these. So the lengths say everything, and the tables are computed from them when this is compiled.
//!
//! **Decoding** looks [`WINDOW`] bits up at once, which yields one or two symbols; the rare longer codes (controls and
//! bytes above 0x7F, mostly) are found by comparing with the first code of each length. 8 KiB of tables.

/// Bits that are looked up at once. With eleven, two symbols come out of one look if one has five bits and the other no
/// more than six: letters, digits and the marks of paths. Twelve made long strings a sixth faster, heads no faster, and the
/// table twice as large.
const WINDOW: u32 = 11;
/// The shortest code.
const SHORTEST: u32 = 5;
/// The longest code.
const LONGEST: u32 = 30;
/// The symbol that no string may hold (RFC 7541 §5.2).
const END_OF_STRING: usize = 256;

/// RFC 7541 Appendix B: how many bits the code of each symbol has.
#[rustfmt::skip]
const LENGTHS: [u8; 257] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25, 19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// What the lengths say.
struct Canonical {
    /// The code of each symbol, right-aligned.
    codes: [u32; 257],
    /// The symbols in the order of their codes.
    sorted: [u16; 257],
    /// For each length one past its last code, as the upper bits of 32.
    limits: [u64; LONGEST as usize + 1],
    /// For each length its first code.
    first: [u32; LONGEST as usize + 1],
    /// For each length the position in `sorted` of its first code.
    position: [usize; LONGEST as usize + 1],
}

const CANONICAL: Canonical = {
    let mut found = Canonical {
        codes: [0; 257],
        sorted: [0; 257],
        limits: [0; LONGEST as usize + 1],
        first: [0; LONGEST as usize + 1],
        position: [0; LONGEST as usize + 1],
    };
    let (mut code, mut next) = (0u32, 0);
    let mut length = SHORTEST;
    while length <= LONGEST {
        found.first[length as usize] = code;
        found.position[length as usize] = next;
        let mut symbol = 0;
        while symbol < 257 {
            if LENGTHS[symbol] as u32 == length {
                found.codes[symbol] = code;
                found.sorted[next] = symbol as u16;
                code += 1;
                next += 1;
            }
            symbol += 1;
        }
        found.limits[length as usize] = (code as u64) << (32 - length);
        code <<= 1;
        length += 1;
    }
    // A complete code: nothing is left over.
    assert!(next == 257 && found.limits[LONGEST as usize] == 1 << 32);
    found
};

/// The code of each byte, and above bit 32 its length.
static CODES: [u64; 256] = {
    let mut codes = [0; 256];
    let mut symbol = 0;
    while symbol < 256 {
        codes[symbol] = CANONICAL.codes[symbol] as u64 | (LENGTHS[symbol] as u64) << 32;
        symbol += 1;
    }
    codes
};

static LIMITS: [u64; LONGEST as usize + 1] = CANONICAL.limits;
static FIRST: [u32; LONGEST as usize + 1] = CANONICAL.first;
static POSITION: [usize; LONGEST as usize + 1] = CANONICAL.position;
static SORTED: [u16; 257] = CANONICAL.sorted;

/// What a window of bits begins with: in bits 0–7 the length of its codes, 8–15 the first symbol, 16–23 the second, 24–31 the
/// bits that the symbols take. All zero: a code longer than the window.
static WINDOWS: [u32; 1 << WINDOW] = {
    let mut windows = [0u32; 1 << WINDOW];
    let mut symbol = 0;
    while symbol < 256 {
        let length = LENGTHS[symbol] as u32;
        if length <= WINDOW {
            let first = (CANONICAL.codes[symbol] << (WINDOW - length)) as usize;
            let mut at = 0;
            while at < 1 << (WINDOW - length) {
                windows[first + at] = length | (symbol as u32) << 8 | 8 << 24;
                at += 1;
            }
        }
        symbol += 1;
    }
    let alone = windows;
    let mut at = 0;
    while at < 1 << WINDOW {
        let length = alone[at] & 0xff;
        if length != 0 {
            let behind = alone[at << length & ((1 << WINDOW) - 1)];
            let both = length + (behind & 0xff);
            if behind != 0 && both <= WINDOW {
                windows[at] = both | alone[at] & 0xff00 | (behind & 0xff00) << 8 | 16 << 24;
            }
        }
        at += 1;
    }
    windows
};

/// How many bytes `bytes` takes when coded.
#[inline]
pub fn encoded_len(bytes: &[u8]) -> usize {
    bits(bytes).div_ceil(8)
}

/// How many bits `bytes` takes when coded.
#[inline]
pub fn bits(bytes: &[u8]) -> usize {
    bytes.iter().map(|byte| usize::from(LENGTHS[usize::from(*byte)])).sum()
}

/// Appends the coded form of these bytes one behind the other.
#[inline]
pub fn encode(parts: &[&[u8]], out: &mut Vec<u8>) {
    let (mut code, mut have) = (0u64, 0u32);
    for part in parts {
        for byte in *part {
            // Fewer than 32 bits wait, and a code has at most 30.
            let coded = CODES[usize::from(*byte)];
            let length = (coded >> 32) as u32;
            code = code << length | u64::from(coded as u32);
            have += length;
            if have >= 32 {
                have -= 32;
                out.extend_from_slice(&((code >> have) as u32).to_be_bytes());
            }
        }
    }
    // RFC 7541 §5.2: filled up with the first bits of the code of the end, which are ones.
    let padding = have.wrapping_neg() % 8;
    let last = (code << padding | ((1 << padding) - 1)) << (32 - have - padding);
    let last = (last as u32).to_be_bytes();
    out.extend_from_slice(last.get(..(have + padding) as usize / 8).unwrap_or_default());
}

/// Appends what `encoded` stands for: at most 8/5 of its length. `false`, and nothing appended, if it holds the code of the
/// end, breaks off within a code, or is not filled up with fewer than eight ones (RFC 7541 §5.2).
#[inline]
pub fn decode(encoded: &[u8], out: &mut Vec<u8>) -> bool {
    let start = out.len();
    // Eight bytes are written at a time.
    out.resize(start + encoded.len() * 8 / SHORTEST as usize + 8, 0);
    let length = out.get_mut(start..).and_then(|place| decode_into(encoded, place));
    out.truncate(start + length.unwrap_or(0));
    length.is_some()
}

/// [`decode`] into a place that is large enough; says how many bytes it came to.
fn decode_into(encoded: &[u8], place: &mut [u8]) -> Option<usize> {
    let mut rest = encoded;
    // The bits that are next, from the highest down. More of them may be right than `have` says, none is wrong but zeros.
    let (mut bits, mut have) = (0u64, 0u32);
    let mut at = 0;
    loop {
        if let Some(chunk) = rest.first_chunk::<8>() {
            bits |= u64::from_be_bytes(*chunk) >> have;
            let taken = (63 - have) / 8;
            rest = rest.get(taken as usize..)?;
            have += 8 * taken;
        } else {
            while have < 56
                && let Some((byte, behind)) = rest.split_first()
            {
                bits |= u64::from(*byte) << (56 - have);
                have += 8;
                rest = behind;
            }
            if rest.is_empty() {
                return decode_end(bits, have, place, at);
            }
        }
        // At least 56 bits are there: four windows, whose symbols fit into eight bytes. What a window does not know has no
        // symbol and no length, and neither have those behind it, which look at the same bits.
        let (mut symbols, mut filled, mut found) = (0u64, 0, 0);
        for _ in 0..4 {
            found = WINDOWS[(bits >> (64 - WINDOW)) as usize];
            symbols |= u64::from((found >> 8) as u16) << filled;
            filled += found >> 24;
            // Shifts look at the lower six bits alone, which is all of the length: the next look waits for nothing else.
            bits = bits.wrapping_shl(found);
            have -= found & 0xff;
        }
        place.get_mut(at..)?.first_chunk_mut::<8>()?.copy_from_slice(&symbols.to_le_bytes());
        at += filled as usize / 8;
        if found == 0 && have >= LONGEST {
            let (symbol, length) = long_code(bits)?;
            *place.get_mut(at)? = symbol;
            at += 1;
            bits <<= length;
            have -= length;
        }
    }
}

/// The last bits, symbol by symbol.
fn decode_end(bits: u64, have: u32, place: &mut [u8], mut at: usize) -> Option<usize> {
    let (mut bits, mut have) = (bits, have);
    while have > 0 {
        // What is behind the end reads as ones.
        let filled = bits | u64::MAX >> have;
        let found = WINDOWS[(filled >> (64 - WINDOW)) as usize];
        let (symbol, length) = match found {
            // RFC 7541 §5.2: "A padding strictly longer than 7 bits MUST be treated as a decoding error", and so one that is
            // not made of ones.
            0 if filled == u64::MAX && have < 8 => return Some(at),
            0 => long_code(filled)?,
            _ => ((found >> 8) as u8, u32::from(LENGTHS[(found >> 8) as usize & 0xff])),
        };
        if length > have {
            return None;
        }
        *place.get_mut(at)? = symbol;
        at += 1;
        bits <<= length;
        have -= length;
    }
    Some(at)
}

/// The symbol whose code `bits` begins with, and that code's length; `None` for the end.
#[inline(never)]
fn long_code(bits: u64) -> Option<(u8, u32)> {
    let window = (bits >> 32) as u32;
    let mut length = WINDOW + 1;
    while length < LONGEST && u64::from(window) >= LIMITS[length as usize] {
        length += 1;
    }
    let of_length = (window >> (32 - length)).checked_sub(FIRST[length as usize])?;
    let symbol = *SORTED.get(POSITION[length as usize] + of_length as usize)?;
    (usize::from(symbol) < END_OF_STRING).then_some((symbol as u8, length))
}

/// Bit by bit, as the appendix reads: the oracle.
#[doc(hidden)]
pub fn decode_slowly(encoded: &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let (mut code, mut length) = (0u32, 0u8);
    for bit in encoded.iter().flat_map(|byte| (0..8).rev().map(move |place| byte >> place & 1)) {
        (code, length) = (code << 1 | u32::from(bit), length + 1);
        let symbol = (0..257).find(|symbol| LENGTHS[*symbol] == length && CANONICAL.codes[*symbol] == code);
        if let Some(symbol) = symbol {
            out.push(u8::try_from(symbol).ok()?);
            (code, length) = (0, 0);
        }
    }
    (length < 8 && code == (1 << length) - 1).then_some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(encoded: &[u8]) -> Option<Vec<u8>> {
        let mut out = b"before".to_vec();
        let fine = decode(encoded, &mut out);
        let out = out.strip_prefix(b"before").expect("what was there stays").to_vec();
        let found = fine.then_some(out.clone());
        assert!(fine || out.is_empty());
        assert_eq!(found, decode_slowly(encoded), "{encoded:02x?}");
        found
    }

    #[test]
    fn codes_are_those_of_the_appendix() {
        for (symbol, code, length) in [
            (0, 0x1ff8, 13),
            (b'\n' as usize, 0x3fff_fffc, 30),
            (b' ' as usize, 0x14, 6),
            (b'0' as usize, 0x0, 5),
            (b'9' as usize, 0x1f, 6),
            (b':' as usize, 0x5c, 7),
            (b'A' as usize, 0x21, 6),
            (b'Z' as usize, 0xfd, 8),
            (b'\\' as usize, 0x7fff0, 19),
            (b'|' as usize, 0x7fc, 11),
            (b'a' as usize, 0x3, 5),
            (b'z' as usize, 0x7b, 7),
            (0x7f, 0xfff_fffc, 28),
            (0x80, 0xf_ffe6, 20),
            (0xc3, 0x7_fff1, 19),
            (0xff, 0x3ff_ffee, 26),
            (256, 0x3fff_ffff, 30),
        ] {
            assert_eq!((CANONICAL.codes[symbol], LENGTHS[symbol]), (code, length), "{symbol}");
        }
    }

    #[test]
    fn every_string_comes_back() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        for round in 0..3000 {
            let mut bytes = Vec::new();
            for _ in 0..round % 70 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let byte = (random >> 56) as u8;
                // Printable, anything, or one that has a long code.
                bytes.push(match random >> 40 & 7 {
                    0..=4 => b' ' + byte % 95,
                    5 | 6 => byte,
                    _ => byte % 32,
                });
            }
            let mut encoded = b"x".to_vec();
            let cut = bytes.len() / 3;
            encode(&[&bytes[..cut], b"", &bytes[cut..]], &mut encoded);
            assert_eq!(encoded.len() - 1, encoded_len(&bytes));
            assert_eq!(both(&encoded[1..]), Some(bytes));
        }
    }

    #[test]
    fn every_pair_and_every_byte_repeated_comes_back() {
        for a in 0..=255u8 {
            for b in 0..=255u8 {
                let mut encoded = Vec::new();
                encode(&[&[a, b]], &mut encoded);
                let mut out = Vec::new();
                assert!(decode(&encoded, &mut out) && out == [a, b], "{a} {b}");
            }
            for count in 0..40 {
                let bytes = vec![a; count];
                let mut encoded = Vec::new();
                encode(&[&bytes], &mut encoded);
                assert_eq!(both(&encoded), Some(bytes));
            }
        }
    }

    #[test]
    fn what_is_no_string_is_refused_as_the_oracle_does() {
        // Padding of zeros, of eight ones, the code of the end, a code that breaks off.
        for encoded in [
            &[0b0001_1000][..],
            &[0b0001_1110],
            &[0xff],
            &[0x1f, 0xff],
            &[0xff, 0xff, 0xff, 0xff],
            &[0xff, 0xff, 0xff, 0xfc],
            &[0x1f, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0xfe],
            &[0xff, 0xc0],
        ] {
            assert_eq!(both(encoded), None, "{encoded:02x?}");
        }
        assert_eq!(both(&[0b0001_1111]), Some(b"a".to_vec()));
        assert_eq!(both(&[]), Some(Vec::new()));
        let mut random = 1u64;
        for round in 0..40_000 {
            let mut bytes = Vec::new();
            for place in 0..round % 23 {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                bytes.push((random >> 56) as u8 | if place % 5 < round % 5 { 0xf0 } else { 0 });
            }
            both(&bytes);
        }
    }

    #[test]
    fn every_two_bytes_are_read_as_the_oracle_does() {
        for encoded in 0..=u16::MAX {
            both(&encoded.to_be_bytes());
        }
    }
}
