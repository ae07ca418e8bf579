//! Strict base64url without padding, as RFC 7515 §2 asks for it.
//!
//! Not for Basic credentials or anything else that allows padding, white space or the other alphabet.
//! Called by the JWS and JWK parsers.

use base64_simd::{AsOut, URL_SAFE_NO_PAD};

/// Decodes `text` into the front of `room` and returns the decoded bytes.
///
/// `None` where `text` holds a byte outside the alphabet (padding, white space, line breaks), has a length
/// no encoder makes (1 mod 4), leaves unused bits that are not zero, or does not fit. So every byte sequence
/// has one encoding, and a token cannot be written in two ways.
pub fn decode<'r>(text: &[u8], room: &'r mut [u8]) -> Option<&'r [u8]> {
    if decoded_bytes(text.len())? > room.len() {
        return None;
    }
    // RFC 4648 §3.5: decoders MAY reject non-zero pad bits; base64-simd does, and a test here holds it to it.
    URL_SAFE_NO_PAD.decode(text, room.as_out()).ok().map(|decoded| &*decoded)
}

/// As [`decode`], into a new vector; one allocation.
pub fn decode_to_vec(text: &[u8]) -> Option<Vec<u8>> {
    decoded_bytes(text.len())?;
    URL_SAFE_NO_PAD.decode_to_vec(text).ok()
}

/// Encodes `bytes` without padding.
pub fn encode(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode_to_string(bytes)
}

/// How many bytes `encoded` characters stand for; `None` for a length that no encoder makes.
pub fn decoded_bytes(encoded: usize) -> Option<usize> {
    match encoded % 4 {
        0 => Some(encoded / 4 * 3),
        2 => Some(encoded / 4 * 3 + 1),
        3 => Some(encoded / 4 * 3 + 2),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_round_trips() {
        let bytes: Vec<u8> = (0..=255).cycle().take(600).collect();
        for end in 0..bytes.len() {
            let text = encode(&bytes[..end]);
            let mut room = [0; 600];
            assert_eq!(decode(text.as_bytes(), &mut room), Some(&bytes[..end]));
            assert_eq!(decode_to_vec(text.as_bytes()).as_deref(), Some(&bytes[..end]));
        }
    }

    #[test]
    fn only_the_canonical_form_is_accepted() {
        let mut room = [0; 64];
        let refused: [&[u8]; 13] = [
            b"A", b"AAAAA", b"AA==", b"AAA=", b"AA=", b"A A", b" AAA", b"AAA\n", b"A+AA", b"A/AA", b"A\0AA",
            b"A\x80AA", b"AA.A",
        ];
        for text in refused {
            assert_eq!(decode(text, &mut room), None, "{text:?}");
            assert_eq!(decode_to_vec(text), None, "{text:?}");
        }
        // Unused bits: of the last character of a 2-group only the top two bits count, of a 3-group four.
        let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        for prefix in ["", "AAAA", "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"] {
            for (value, last) in alphabet.iter().enumerate() {
                let two = [prefix.as_bytes(), b"A", &[*last]].concat();
                assert_eq!(decode(&two, &mut room).is_some(), value % 16 == 0);
                let three = [prefix.as_bytes(), b"AA", &[*last]].concat();
                assert_eq!(decode(&three, &mut room).is_some(), value % 4 == 0);
            }
        }
    }

    #[test]
    fn room_is_a_bound() {
        assert!(decode(b"AAAA", &mut [0; 3]).is_some());
        assert!(decode(b"AAAA", &mut [0; 2]).is_none());
    }
}
