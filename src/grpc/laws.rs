//! What must hold for every input: the laws that the fuzz target runs and the tests replay.
//!
//! For: [`crate::fuzzing`] and tests. Not for: the data path. Everything is compared with a slow reader that is written the
//! obvious way, and with itself cut differently.

use super::filter::Filter;
use super::message::{Limits, Messages};
use super::status::{self, Status};
use super::style::Style;
use super::web::{GRPC_WEB_BASE64, TRAILERS_FLAG, TextDecoder, Translator};
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
        assert_eq!(refused, expected.flaw.is_some());
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
    /// What is wrong with the one behind that, as the end of the reason's token says it.
    flaw: Option<&'static str>,
    whole: bool,
}

fn oracle(bytes: &[u8], limits: Limits) -> Walked {
    let mut found = Walked { count: 0, end: 0, flaw: None, whole: false };
    loop {
        let Some(rest) = bytes.get(found.end..) else { return found };
        let [flag, a, b, c, d, ..] = *rest else {
            found.whole = rest.is_empty();
            return found;
        };
        let length = u32::from_be_bytes([a, b, c, d]);
        found.flaw = match flag {
            2.. => Some("_flag"),
            1 if !limits.compressed => Some("_compressed"),
            _ if length > limits.message_bytes_max => Some("_size"),
            _ => None,
        };
        if found.flaw.is_some() {
            return found;
        }
        found.count += 1;
        found.end += 5 + length as usize;
    }
}

/// One direction of a call as it passes a [`Filter`], cut anywhere: what passes is the beginning of what was sent, decoded; nothing
/// of a refused message but a part of its prefix; and whoever was refused stays so. The first byte chooses limits, style and
/// direction, the second how the bytes are cut and what the trailers say.
pub fn filter(data: &[u8]) {
    let [choice, step, bytes @ ..] = data else { return };
    let limits = Limits { message_bytes_max: 1 << (choice & 15), compressed: choice & 16 != 0 };
    let style = Style::ALL[usize::from(choice >> 5) % Style::ALL.len()];
    let is_response = choice & 128 != 0;
    let trailers: &[u8] = if step & 128 == 0 { b"a: b\r\ngrpc-status: 5\r\n" } else { b"a: b\r\n" };
    let is_text = style == Style::WebText && !is_response;
    // The first group that is none, if there is one, ends what can be decoded.
    let (mut plain, mut is_base64) = (bytes.to_vec(), true);
    if is_text {
        let groups = bytes.chunks(4).map(|group| base64_simd::STANDARD.decode_to_vec(group));
        plain = groups.map_while(Result::ok).flatten().collect();
        is_base64 = bytes.chunks(4).all(|group| base64_simd::STANDARD.decode_to_vec(group).is_ok());
    }
    let expected = oracle(&plain, limits);
    for step in [usize::from(step % 17) + 1, bytes.len().max(1)] {
        let mut filter = match is_response {
            true => Filter::of_response(style, limits),
            false => Filter::of_request(style, limits),
        };
        let mut passed = Vec::new();
        let refused = bytes.chunks(step).find_map(|piece| {
            let mut piece = piece.to_vec();
            let result = filter.pass(&mut piece);
            passed.extend_from_slice(&piece[..result.unwrap_or(0)]);
            result.err()
        });
        let ended = filter.finish(trailers);
        let verdict = refused.map_or(ended, Err);
        // What was decoded of a group that turns out to be none has passed.
        assert!(passed.starts_with(&plain[..plain.len().min(passed.len())]));
        assert!(passed.len() <= plain.len() + if is_base64 { 0 } else { 2 });
        match verdict {
            Ok(()) => {
                assert!(is_base64 && expected.whole && expected.flaw.is_none());
                assert_eq!(passed, plain);
                assert_eq!(filter.status(), is_response.then_some(Status::NotFound));
                assert!(!is_response || trailers.ends_with(b"5\r\n"));
            }
            Err(reason) if reason == GRPC_WEB_BASE64 => assert!(!is_base64),
            Err(reason) if reason == status::GRPC_STATUS_MISSING => {
                assert!(is_response && expected.whole && !trailers.ends_with(b"5\r\n"));
                assert!(filter.is_at_boundary());
            }
            Err(reason) => {
                let whose = if is_response { "grpc_response" } else { "grpc_message" };
                let flaw = reason.token.strip_prefix(whose).expect("of this direction");
                // What follows what is no base64 may make it another message.
                match expected.flaw {
                    Some(expected) => assert_eq!(flaw, expected),
                    None => assert!(flaw == "_truncated" && !expected.whole || !is_base64),
                }
                if is_base64 && flaw != "_truncated" {
                    assert!((expected.end..expected.end + 5).contains(&passed.len()));
                }
                assert_eq!(filter.pass(&mut [b'A'; 4]), Err(reason), "refused once, refused for ever");
                assert_eq!(filter.finish(b"grpc-status: 0\r\n"), Err(reason));
            }
        }
        if is_base64 {
            assert_eq!(filter.is_at_boundary(), is_boundary(&plain, passed.len()));
        }
    }
}

/// Whether `at` is where a message ends, or the first one begins.
fn is_boundary(bytes: &[u8], at: usize) -> bool {
    let mut end = 0;
    while end < at {
        let Some(&[_, a, b, c, d]) = bytes.get(end..end + 5) else { return false };
        end += 5 + u32::from_be_bytes([a, b, c, d]) as usize;
    }
    end == at
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
            filter(&data);
        }
    }
}
