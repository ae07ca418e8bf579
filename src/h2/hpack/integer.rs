//! Integers with a prefix (RFC 7541 §5.1).

use super::Error;

/// Most bytes behind the prefix: enough for 32 bits. Padding with zeros beyond that is refused, as is what does not fit.
const CONTINUATIONS_MAX: u32 = 5;

/// The integer at `at`, whose prefix has `prefix` bits (1–8), and where the next thing begins.
#[inline(always)]
pub fn read(block: &[u8], at: usize, prefix: u32) -> Result<(usize, usize), Error> {
    let mask = 0xff >> (8 - prefix);
    let Some(first) = block.get(at) else { return Err(Error::Truncated) };
    let value = first & mask;
    if value < mask { Ok((usize::from(value), at + 1)) } else { read_long(block, at + 1, value) }
}

#[inline(never)]
fn read_long(block: &[u8], mut at: usize, prefix: u8) -> Result<(usize, usize), Error> {
    let mut value = u64::from(prefix);
    for place in 0..CONTINUATIONS_MAX {
        let Some(byte) = block.get(at) else { return Err(Error::Truncated) };
        at += 1;
        value += u64::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            let value = u32::try_from(value).map_err(|_| Error::Integer)?;
            return Ok((value as usize, at));
        }
    }
    Err(Error::Integer)
}

/// Appends `value` behind the bits of `flags`, with a prefix of `prefix` bits (1–8).
#[inline(always)]
pub fn push(out: &mut Vec<u8>, flags: u8, prefix: u32, value: usize) {
    let mask = 0xffu8 >> (8 - prefix);
    if value < usize::from(mask) {
        out.push(flags | value as u8)
    } else {
        push_long(out, flags | mask, mask, value)
    }
}

#[inline(never)]
fn push_long(out: &mut Vec<u8>, first: u8, mask: u8, value: usize) {
    out.push(first);
    let mut left = value - usize::from(mask);
    while left >= 0x80 {
        out.push(left as u8 | 0x80);
        left >>= 7;
    }
    out.push(left as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_7541_c_1_the_examples() {
        for (value, prefix, bytes) in
            [(10, 5, &[0x0a][..]), (1337, 5, &[0x1f, 0x9a, 0x0a]), (42, 8, &[0x2a]), (31, 5, &[0x1f, 0])]
        {
            let mut out = Vec::new();
            push(&mut out, 0, prefix, value);
            assert_eq!(out, bytes);
            assert_eq!(read(bytes, 0, prefix), Ok((value, bytes.len())));
        }
    }

    #[test]
    fn every_integer_comes_back_and_no_prefix_of_it_is_one() {
        for prefix in 1..=8 {
            for value in (0..2000).chain([16_383, 16_384, u32::MAX as usize - 1, u32::MAX as usize]) {
                let mut out = vec![0xee];
                push(&mut out, 0, prefix, value);
                assert_eq!(read(&out, 1, prefix), Ok((value, out.len())));
                for end in 1..out.len() {
                    assert_eq!(read(&out[..end], 1, prefix), Err(Error::Truncated));
                }
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        // One more than the largest.
        assert_eq!(read(&[0x1f, 0xe1, 0xff, 0xff, 0xff, 0x0f], 0, 5), Err(Error::Integer));
        assert_eq!(read(&[0x1f, 0xe0, 0xff, 0xff, 0xff, 0x0f], 0, 5), Ok((u32::MAX as usize, 6)));
        assert_eq!(
            read(&[0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f], 0, 7),
            Err(Error::Integer)
        );
        // Zeros that mean nothing: four are waited for, five are not.
        assert_eq!(read(&[0x1f, 0x80, 0x80, 0x80, 0x80, 0x00], 0, 5), Ok((31, 6)));
        assert_eq!(read(&[0x1f, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00], 0, 5), Err(Error::Integer));
    }
}
