//! Finding the first byte that matters, many bytes at a time.
//!
//! For: the HTTP/1 parser and the target's canonical form. Not for: searching one byte (that is `memchr`).
//!
//! Sixteen bytes at a time ([`Lanes`]), and a table of 256 classes for the bytes that are left.

use crate::sys::lanes::Lanes;

/// Offset of the first byte at or after `at` that is a control (0x00–0x1F, HTAB included, or 0x7F); `bytes.len()` if
/// there is none.
#[inline(always)]
pub fn control(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    let mut left = rest;
    while let Some((chunk, behind)) = left.split_first_chunk::<16>() {
        let lanes = Lanes::of(chunk);
        let found = (lanes.within(0, 0x1f) | lanes.equal(0x7f)).bits();
        if found != 0 {
            return at + (rest.len() - left.len()) + found.trailing_zeros() as usize;
        }
        left = behind;
    }
    control_in_the_end(bytes, bytes.len() - left.len())
}

/// [`control`] in the last fifteen bytes, which are looked at together with those before them.
#[inline(never)]
fn control_in_the_end(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    if let Some(chunk) = bytes.last_chunk::<16>()
        && rest.len() < 16
    {
        let lanes = Lanes::of(chunk);
        let found = (lanes.within(0, 0x1f) | lanes.equal(0x7f)).bits() >> (16 - rest.len()) | 1 << rest.len();
        return at + found.trailing_zeros() as usize;
    }
    at + rest.iter().position(|byte| *byte < 0x20 || *byte == 0x7f).unwrap_or(rest.len())
}

/// Bytes of a field name: 0 = not a token byte, 1 = letter, digit or hyphen, 2 = any other token byte
/// (RFC 9110 §5.6.2).
pub const NAME: [u8; 256] = {
    let mut table = [0; 256];
    let mut i = 0;
    while i < 256 {
        let byte = i as u8;
        if byte.is_ascii_alphanumeric() || byte == b'-' {
            table[i] = 1;
        } else if matches!(
            byte,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        ) {
            table[i] = 2;
        }
        i += 1;
    }
    table
};

/// How many letters, digits and hyphens `bytes` begins with.
#[inline(always)]
pub fn name(bytes: &[u8]) -> usize {
    if let Some(chunk) = bytes.first_chunk::<16>() {
        let lanes = Lanes::of(chunk);
        let letter = lanes.with_bits(0x20).within(b'a', b'z');
        let other = !(letter | lanes.within(b'0', b'9') | lanes.equal(b'-')).bits() & 0xffff;
        if other != 0 {
            return other.trailing_zeros() as usize;
        }
    }
    long_name(bytes)
}

/// [`name`] byte by byte, for names of 16 bytes and more and for the end of what has arrived.
#[inline(never)]
fn long_name(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| NAME[usize::from(*byte)] != 1).unwrap_or(bytes.len())
}

/// Offset of the first byte at or after `at` that is no token byte; `bytes.len()` if none.
#[inline]
pub fn token(bytes: &[u8], at: usize) -> usize {
    let rest = bytes.get(at..).unwrap_or_default();
    at + rest.iter().position(|byte| NAME[usize::from(*byte)] == 0).unwrap_or(rest.len())
}

/// Whether `bytes` is a token (RFC 9110 §5.6.2): at least one byte, all of them token bytes.
#[inline]
pub fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && token(bytes, 0) == bytes.len()
}

/// Whether `bytes` holds only bytes of a token68 (RFC 9110 §11.2), the `=` at its end apart. Two looks at the bytes in
/// the middle do no harm, so that what is left at the end is seen sixteen at a time as well.
#[inline]
pub fn is_token68(bytes: &[u8]) -> bool {
    let is = |chunk: &[u8; 16]| {
        let lanes = Lanes::of(chunk);
        let letter = lanes.with_bits(0x20).within(b'a', b'z');
        // `+`, `-`, `.`, `/` and the digits lie side by side, with a comma among them.
        let digit = lanes.within(b'+', b'9').but_not(lanes.equal(b','));
        (letter | digit | lanes.equal(b'_') | lanes.equal(b'~')).bits() == 0xffff
    };
    match bytes.last_chunk::<16>() {
        Some(last) => bytes.as_chunks::<16>().0.iter().all(is) && is(last),
        None => bytes
            .iter()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-'..=b'/' | b'_' | b'~')),
    }
}

/// `value` without the spaces and tabs around it (OWS, RFC 9110 §5.6.3).
#[inline]
pub fn trim(value: &[u8]) -> &[u8] {
    let mut value = value;
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The members of a comma-separated list, white space around them removed; empty ones are left out, as RFC 9110
/// §5.6.1.2 asks of recipients. A quoted comma separates too: only for lists of tokens.
pub fn members(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim).filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token68_is_told_at_every_place_and_length() {
        for byte in 0..=255u8 {
            let is = byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
            for len in [1, 2, 15, 16, 17, 31, 32, 33, 50] {
                for at in [0, len / 2, len - 1] {
                    assert_eq!(is_token68(&with(len, at, byte)), is, "{byte:#x} at {at} of {len}");
                }
            }
        }
        assert!(is_token68(b""));
    }

    /// A buffer with `byte` at `at` among letters.
    fn with(len: usize, at: usize, byte: u8) -> Vec<u8> {
        let mut bytes = vec![b'a'; len];
        bytes[at] = byte;
        bytes
    }

    #[test]
    fn every_byte_is_found_or_passed_at_every_place() {
        for byte in 0..=255u8 {
            for at in 0..40 {
                let bytes = with(40, at, byte);
                for start in [0, at.saturating_sub(3), at] {
                    let stops = byte < 0x20 || byte == 0x7f;
                    assert_eq!(control(&bytes, start), if stops { at } else { 40 }, "{byte} {at} {start}");
                    let stops = !(byte.is_ascii_alphanumeric() || byte == b'-');
                    assert_eq!(
                        start + name(&bytes[start..]),
                        if stops { at } else { 40 },
                        "{byte} {at} {start}"
                    );
                }
            }
        }
        // The first of several, whatever stands before it.
        let bytes = [0x80, 0xff, b' ', 0x21, 0x80, 0x1f, 0x7f, 0x00];
        assert_eq!((control(&bytes, 0), control(&bytes, 6), control(&bytes, 8)), (5, 6, 8));
    }

    #[test]
    fn lists_are_cut_at_commas() {
        assert_eq!(members(b" a ,, \tb\t,c d,").collect::<Vec<_>>(), [&b"a"[..], b"b", b"c d"]);
        assert_eq!(members(b"").count(), 0);
        assert_eq!(trim(b" \t "), b"");
        assert!(is_token(b"a_1") && !is_token(b"") && !is_token(b"a b"));
    }
}
