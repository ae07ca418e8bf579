//! What must hold for every input: the laws that the fuzz target runs and the tests replay.
//!
//! For: [`crate::fuzzing`] and tests. Not for: the data path. Everything is compared with a slow reader that is written the
//! obvious way, and with itself cut differently.

use super::message::{Limits, Messages};
use super::status::{self, Status};
use super::style::Style;
use super::web::{TRAILERS_FLAG, TextDecoder, Translator};
use super::{health, timeout};

/// The body of a call in all its forms. The first byte chooses limits, the second how the bytes are cut.
pub fn messages(data: &[u8]) {
    let [choice, step, bytes @ ..] = data else { return };
    let limits = Limits { message_bytes_max: 1 << (choice & 15), compressed: choice & 16 != 0 };
    let step = usize::from(step % 17) + 1;
    walked(bytes, limits, step);
    text(bytes, step);
    translated(bytes, step);
    values(bytes);
}

/// The walker agrees with the oracle, however the bytes are cut, and passes on nothing that was refused.
fn walked(bytes: &[u8], limits: Limits, step: usize) {
    let expected = oracle(bytes, limits);
    for step in [step, bytes.len().max(1)] {
        let mut messages = Messages::of_request(limits);
        let mut passed = 0;
        let refused = bytes.chunks(step).any(|piece| match messages.pass(piece) {
            Ok(()) => {
                passed += piece.len();
                false
            }
            Err(refused) => {
                assert!(refused.before < piece.len());
                passed += refused.before;
                true
            }
        });
        assert_eq!(messages.count(), expected.count);
        assert_eq!(refused, expected.refused);
        if refused {
            assert!((expected.end..expected.end + 5).contains(&passed));
        } else {
            assert_eq!((messages.at_boundary(), messages.finish().is_ok()), (expected.whole, expected.whole));
        }
    }
}

struct Walked {
    count: u64,
    /// Where the last message ends that is whole or was begun.
    end: usize,
    refused: bool,
    whole: bool,
}

fn oracle(bytes: &[u8], limits: Limits) -> Walked {
    let mut found = Walked { count: 0, end: 0, refused: false, whole: false };
    loop {
        let Some(rest) = bytes.get(found.end..) else { return found };
        let [flag, a, b, c, d, ..] = *rest else {
            found.whole = rest.is_empty();
            return found;
        };
        let length = u32::from_be_bytes([a, b, c, d]);
        if flag > 1 || flag == 1 && !limits.compressed || length > limits.message_bytes_max {
            found.refused = true;
            return found;
        }
        found.count += 1;
        found.end += 5 + length as usize;
    }
}

/// Whatever is taken for text is so however it is cut, and is what a decoder of one text after another makes of it.
fn text(bytes: &[u8], step: usize) {
    let decode = |step: usize| {
        let mut decoder = TextDecoder::default();
        let mut out = Vec::new();
        for piece in bytes.chunks(step) {
            let mut piece = piece.to_vec();
            let decoded = decoder.decode(&mut piece).ok()?;
            out.extend_from_slice(&piece[..decoded]);
        }
        decoder.finish().ok().map(|()| out)
    };
    let found = decode(step);
    assert_eq!(found, decode(bytes.len().max(1)));
    let mut expected = Some(Vec::new());
    for group in bytes.chunks(4) {
        let decoded = base64_simd::STANDARD.decode_to_vec(group).ok();
        expected = expected.zip(decoded).map(|(mut all, more)| {
            all.extend_from_slice(&more);
            all
        });
    }
    assert_eq!(found, expected);
}

/// A response in gRPC-Web is read back as what it was made from: the bytes as data cut into pieces, and as trailers.
fn translated(bytes: &[u8], step: usize) {
    let (data, trailers) = bytes.split_at(bytes.len() / 2);
    let trailers: Vec<u8> = trailers
        .chunks(step + 3)
        .flat_map(|value| [b"X-Name: ", &printable(value)[..], b"\r\n"].concat())
        .chain(*b"grpc-status: 0\r\n")
        .collect();
    let mut bodies = Style::ALL.into_iter().filter_map(Translator::to).map(|mut translator| {
        let mut out = Vec::new();
        for piece in data.chunks(step) {
            let before = out.len();
            translator.data(piece, &mut out);
            if !translator.passes_data() {
                let alone = base64_simd::STANDARD.decode_to_vec(&out[before..]).ok();
                assert_eq!(alone.as_deref(), Some(piece));
            }
        }
        translator.end(&trailers, &mut out);
        assert!(translator.has_ended());
        if !translator.passes_data() {
            let mut decoder = TextDecoder::default();
            let bytes = decoder.decode(&mut out).expect("our own text");
            assert_eq!(decoder.finish(), Ok(()));
            out.truncate(bytes);
        }
        out
    });
    let (binary, text) = (bodies.next().expect("binary"), bodies.next().expect("text"));
    assert_eq!(binary, text);
    let frame = binary.strip_prefix(data).expect("data pass as they are");
    let (&prefix, block) = frame.split_first_chunk::<5>().expect("a frame");
    assert_eq!(prefix[0], TRAILERS_FLAG);
    assert_eq!(prefix[1..], (block.len() as u32).to_be_bytes());
    assert!(block.starts_with(b"grpc-status: 0\r\n") && !block.windows(4).any(|end| end == b"\r\n\r\n"));
    assert_eq!(block.len(), trailers.len());
}

/// What a codec lets through in a value, and nothing that is trimmed.
fn printable(value: &[u8]) -> Vec<u8> {
    value.iter().map(|byte| byte & 0x3f | 0x40).map(|byte| byte.min(b'~')).collect()
}

/// Timeouts and messages survive being written and read; answers to probes are read without surprise.
fn values(bytes: &[u8]) {
    if let Some(left) = timeout::parse(bytes) {
        let mut out = Vec::new();
        timeout::push(left, &mut out);
        assert!(out.len() <= timeout::DIGITS_MAX + 1);
        let again = timeout::parse(&out).expect("our own");
        assert!(again >= left);
    }
    let mut message = Vec::new();
    status::push_decoded(bytes, &mut message);
    assert!(message.len() <= bytes.len());
    if let Ok(message) = std::str::from_utf8(bytes) {
        let (mut value, mut again) = (Vec::new(), Vec::new());
        status::push_encoded(message, &mut value);
        assert!(value.iter().all(|byte| matches!(byte, b' '..=b'~')) && value.trim_ascii() == value);
        status::push_decoded(&value, &mut again);
        assert_eq!(again, bytes);
    }
    let verdict = health::judge(200, Some(b"0"), bytes);
    assert_eq!(verdict.is_ok(), health::response(bytes) == Some(health::Serving::Serving));
    let _: Status = Status::parse(bytes);
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::framed;
    use super::*;

    /// A generator with a seed: the same inputs in every run.
    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % bound
        }
    }

    #[test]
    fn random_bodies_obey_the_laws() {
        let mut random = Random(7);
        for _ in 0..20_000 {
            let mut data = vec![random.below(256) as u8, random.below(256) as u8];
            for _ in 0..random.below(6) {
                let content: Vec<u8> = (0..random.below(40)).map(|_| random.below(256) as u8).collect();
                match random.below(5) {
                    0 => data.extend_from_slice(&content),
                    1 => data.extend_from_slice(base64_simd::STANDARD.encode_to_string(&content).as_bytes()),
                    2 => data.extend_from_slice(&framed(random.below(3) as u8, &content)),
                    _ => data.extend_from_slice(&framed(0, &content)),
                }
            }
            if random.below(4) == 0 {
                data.truncate(random.below(data.len() + 1));
            }
            messages(&data);
        }
    }
}
