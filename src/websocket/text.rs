//! Whether a text is UTF-8 (RFC 6455 §8.1), told while it arrives, in pieces and under its mask.
//!
//! For: the filter. Not for: JSON, whose engine reads the text again.
//!
//! Fails at the first byte that no valid text can have there (Autobahn asks for that), not at the end of the message. ASCII is
//! recognised without unmasking it: a byte is ASCII if its highest bit is that of its mask. What is not is unmasked into half
//! a kilobyte of stack and read by `simdutf8`.

use super::frame::Mask;

/// Bytes that are unmasked at a time.
const PIECE: usize = 512;

/// A text of which a part has been seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Text {
    /// The beginning of a character whose end has not arrived.
    begun: [u8; 4],
    len: u8,
}

impl Text {
    /// Before its first byte.
    pub fn new() -> Text {
        Text::default()
    }

    /// Whether `bytes` may come next, under this mask. After a no the text is over.
    #[inline]
    pub fn push(&mut self, bytes: &[u8], mask: Mask) -> bool {
        if self.len == 0 && ascii(bytes, mask) == bytes.len() {
            return true;
        }
        self.push_any(bytes, mask)
    }

    /// Whether the text may end here.
    #[inline]
    pub fn is_whole(&self) -> bool {
        self.len == 0
    }

    fn push_any(&mut self, mut bytes: &[u8], mut mask: Mask) -> bool {
        loop {
            while self.len > 0 {
                let Some((byte, rest)) = bytes.split_first() else { return true };
                if !self.finish(byte ^ mask.bytes()[0]) {
                    return false;
                }
                (bytes, mask) = (rest, mask.behind(1));
            }
            let skipped = ascii(bytes, mask);
            (bytes, mask) = (&bytes[skipped..], mask.behind(skipped));
            if bytes.is_empty() {
                return true;
            }
            if mask.is_none() {
                return self.read(bytes);
            }
            let mut room = [0; PIECE];
            let (piece, rest) = bytes.split_at(bytes.len().min(PIECE));
            let plain = &mut room[..piece.len()];
            plain.copy_from_slice(piece);
            mask.apply(plain);
            if !self.read(plain) {
                return false;
            }
            (bytes, mask) = (rest, mask.behind(piece.len()));
        }
    }

    /// One more byte of a character that has begun.
    fn finish(&mut self, byte: u8) -> bool {
        // Three bytes at most are without an end: the fourth is the end of the longest character, or wrong.
        self.begun[usize::from(self.len & 3)] = byte;
        self.len += 1;
        match std::str::from_utf8(&self.begun[..usize::from(self.len.min(4))]) {
            Ok(_) => {
                self.len = 0;
                true
            }
            Err(error) => error.error_len().is_none(),
        }
    }

    /// Plain bytes at the beginning of a character.
    fn read(&mut self, plain: &[u8]) -> bool {
        let (whole, begun) = plain.split_at(plain.len() - unfinished(plain));
        simdutf8::basic::from_utf8(whole).is_ok() && begun.iter().all(|byte| self.finish(*byte))
    }
}

/// How many bytes at the end belong to a character that would go on.
fn unfinished(plain: &[u8]) -> usize {
    for (back, byte) in plain.iter().rev().take(3).enumerate() {
        let needs = match byte {
            0x80..=0xbf => continue,
            0xc0..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xff => 4,
            0x00..=0x7f => 1,
        };
        return if needs > back + 1 { back + 1 } else { 0 };
    }
    0
}

/// How many bytes at the beginning are ASCII under the mask; may be fewer than there are, by less than 64, unless all are.
#[inline]
fn ascii(bytes: &[u8], mask: Mask) -> usize {
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let word = mask.word();
    let high = |words: &[[u8; 8]]| {
        words.iter().fold(0, |found, bytes| found | (u64::from_le_bytes(*bytes) ^ word)) & HIGH != 0
    };
    let (blocks, rest) = bytes.as_chunks::<64>();
    for (at, block) in blocks.iter().enumerate() {
        if high(block.as_chunks::<8>().0) {
            return at * 64;
        }
    }
    let (words, last) = rest.as_chunks::<8>();
    let last = last.iter().zip(word.to_le_bytes()).fold(0, |found, (byte, key)| found | (byte ^ key));
    if high(words) || last & 0x80 != 0 { bytes.len() - rest.len() } else { bytes.len() }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whole, in every two pieces, byte by byte: the same answer, that of the standard library.
    fn judge(text: &[u8]) -> bool {
        let expected = std::str::from_utf8(text).is_ok();
        for mask in [[0; 4], [0x81, 0x02, 0xf3, 0x74], [0xff; 4]].map(Mask::of) {
            let mut masked = text.to_vec();
            mask.apply(&mut masked);
            for at in 0..=text.len() {
                let mut seen = Text::new();
                let (one, two) = masked.split_at(at);
                let valid = seen.push(one, mask) && seen.push(two, mask.behind(at)) && seen.is_whole();
                assert_eq!(valid, expected, "{text:x?} at {at}");
            }
            let mut seen = Text::new();
            let valid = masked.iter().enumerate().all(|(at, byte)| seen.push(&[*byte], mask.behind(at)))
                && seen.is_whole();
            assert_eq!(valid, expected, "{text:x?}");
        }
        expected
    }

    #[test]
    fn every_short_sequence_is_judged_like_the_standard_library_does() {
        const EDGES: [u8; 22] = [
            0x00, 0x41, 0x7f, 0x80, 0x8f, 0x90, 0x9f, 0xa0, 0xbf, 0xc0, 0xc1, 0xc2, 0xdf, 0xe0, 0xe1, 0xed,
            0xef, 0xf0, 0xf1, 0xf4, 0xf5, 0xff,
        ];
        for a in EDGES {
            judge(&[a]);
            for b in EDGES {
                judge(&[a, b]);
                for c in EDGES {
                    judge(&[a, b, c]);
                }
            }
        }
        for a in [0xf0, 0xf1, 0xf3, 0xf4, 0xf5] {
            for b in EDGES {
                for c in [0x7f, 0x80, 0xbf, 0xc0] {
                    for d in [0x7f, 0x80, 0xbf, 0xc0] {
                        judge(&[a, b, c, d, 0x41]);
                    }
                }
            }
        }
    }

    #[test]
    fn long_texts_are_judged_at_every_place() {
        let mut text = "Grüße, Κόσμε, 世界, 🌍 and plain words to fill a block of sixty-four. ".repeat(20);
        assert!(judge(text.as_bytes()));
        text.truncate(700);
        let bytes = text.into_bytes();
        for at in (0..bytes.len()).step_by(13) {
            let mut broken = bytes.clone();
            broken[at] = 0xff;
            let mut seen = Text::new();
            assert!(!seen.push(&broken, Mask::NONE), "{at}");
            let mut seen = Text::new();
            let mask = Mask::of([9, 200, 7, 130]);
            mask.apply(&mut broken);
            assert!(!seen.push(&broken, mask), "{at}");
        }
    }

    #[test]
    fn an_end_within_a_character_is_no_end() {
        let mut seen = Text::new();
        assert!(seen.push("€".as_bytes().split_at(2).0, Mask::NONE) && !seen.is_whole());
        assert!(seen.push(&[0xac], Mask::NONE) && seen.is_whole());
    }

    #[test]
    fn what_cannot_become_valid_fails_at_once() {
        // Autobahn 6.4: the fifth character would lie above U+10FFFF; known with its second byte.
        let mut seen = Text::new();
        assert!(seen.push(&[0xce, 0xba, 0xf4], Mask::NONE));
        assert!(!seen.push(&[0x90], Mask::NONE));
    }
}
