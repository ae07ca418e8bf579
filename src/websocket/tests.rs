//! The laws of RFC 6455 for an intermediary, section by section, and the Autobahn test suite's cases 1.1.1 to 7.13.2 as far
//! as an intermediary has a say in them.

use super::*;
use crate::http::Reason;
use crate::worker::buffer::Buffer;
use filter::Kind;
use frame::{HEAD_BYTES_MAX, Mask};

const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
/// The word of Autobahn's cases, with its accent in a character of its own: eleven bytes.
const KOSME: &[u8] = b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5";
const SENDERS: [Sender; 2] = [Sender::Client, Sender::Upstream];

/// A frame with this first byte.
fn frame(sender: Sender, first: u8, payload: &[u8]) -> Vec<u8> {
    let mask = (sender == Sender::Client).then_some(Mask::of(KEY));
    let mut room = [0; HEAD_BYTES_MAX];
    let head = frame::write_head(&mut room, frame::Opcode::Text, payload.len(), mask);
    room[0] = first;
    let mut bytes = room[..head].to_vec();
    bytes.extend_from_slice(payload);
    mask.unwrap_or_default().apply(&mut bytes[head..]);
    bytes
}

fn stream(sender: Sender, frames: &[(u8, &[u8])]) -> Vec<u8> {
    frames.iter().flat_map(|(first, payload)| frame(sender, *first, payload)).collect()
}

/// Shows the pieces to a filter: what passes, and what comes of it.
fn show<'a>(
    filter: &mut Filter,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    judge: &mut impl Judge,
) -> (Vec<u8>, Then) {
    let mut passed = Vec::new();
    for piece in pieces {
        let mut out = Buffer::empty();
        let verdict = filter.pass(piece, &mut out, 0, judge);
        match verdict.onward {
            Onward::Prefix(count) => passed.extend_from_slice(&piece[..count]),
            Onward::Out => passed.extend_from_slice(&out),
        }
        if verdict.then != Then::GoOn {
            return (passed, verdict.then);
        }
    }
    (passed, Then::GoOn)
}

/// What is expected of a case.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    /// All of it passes.
    Passes,
    /// It passes up to the Close frame, which is the frame of this position.
    Closes(usize),
    /// So many frames pass, and then this code.
    Fails(usize, u16),
}

/// A case for both directions: whole, a frame at a time, 997 bytes at a time, and byte by byte if that is bearable.
fn case(name: &str, frames: &[(u8, &[u8])], expected: Expected) {
    for sender in SENDERS {
        let all = stream(sender, frames);
        let singles: Vec<Vec<u8>> = frames.iter().map(|one| stream(sender, &[*one])).collect();
        let mut cuts: Vec<Vec<&[u8]>> =
            vec![vec![&all], singles.iter().map(Vec::as_slice).collect(), all.chunks(997).collect()];
        if all.len() < 2_000 {
            cuts.push(all.chunks(1).collect());
        }
        for look in [Look::Text, Look::Messages] {
            for pieces in &cuts {
                let mut filter =
                    Filter::new(Rules { look, message_bytes_max: 1 << 20, ..Rules::new(sender) });
                let (passed, then) = show(&mut filter, pieces.iter().copied(), &mut ());
                let count = match expected {
                    Expected::Passes => frames.len(),
                    Expected::Closes(at) => at + 1,
                    Expected::Fails(count, _) => count,
                };
                // A message that is held may pass in another form, and one without an end not at all.
                if look == Look::Text
                    || frames[..count].iter().all(|(first, _)| first & 0x80 != 0 && first & 0xf != 0)
                {
                    let sure: usize = singles[..count].iter().map(Vec::len).sum();
                    assert_eq!(passed[..sure], all[..sure], "{name} {sender:?} {look:?}");
                    match expected {
                        // Of the frame that is refused something may have gone on before its flaw was seen.
                        Expected::Fails(_, 1007) => assert!(all.starts_with(&passed), "{name}"),
                        _ => assert_eq!(passed.len(), sure, "{name} {sender:?} {look:?}"),
                    }
                }
                let ending = match then {
                    Then::End(ending) => Some(match sender {
                        Sender::Client => ending.client.number(),
                        Sender::Upstream => ending.upstream.number(),
                    }),
                    _ => None,
                };
                match expected {
                    Expected::Passes => assert_eq!(then, Then::GoOn, "{name} {sender:?}"),
                    Expected::Closes(_) => assert_eq!(then, Then::Closed, "{name} {sender:?}"),
                    Expected::Fails(_, code) => assert_eq!(ending, Some(code), "{name} {sender:?} {look:?}"),
                }
            }
        }
    }
}

use Expected::{Closes, Fails, Passes};

#[test]
fn autobahn_1_messages_of_every_size() {
    for (number, len) in [0, 125, 126, 127, 128, 65_535, 65_536, 65_536].into_iter().enumerate() {
        case(&format!("1.1.{}", number + 1), &[(0x81, &b"*".repeat(len))], Passes);
        case(&format!("1.2.{}", number + 1), &[(0x82, &b"\xfe".repeat(len))], Passes);
    }
}

#[test]
fn autobahn_2_pings_and_pongs() {
    case("2.1", &[(0x89, b"")], Passes);
    case("2.2", &[(0x89, b"Hello, world!")], Passes);
    case("2.3", &[(0x89, b"\x00\xff\xfe\xfd\xfc\xfb\x00\xff")], Passes);
    case("2.4, 2.6", &[(0x89, &[0xfe; 125])], Passes);
    case("2.5", &[(0x89, &[0xfe; 126])], Fails(0, 1002));
    case("2.7", &[(0x8a, b"")], Passes);
    case("2.8", &[(0x8a, b"unsolicited pong payload")], Passes);
    case("2.9", &[(0x8a, b"unsolicited pong payload"), (0x89, b"ping payload")], Passes);
    let pings: Vec<String> = (0..10).map(|number| format!("payload-{number}")).collect();
    let pings: Vec<(u8, &[u8])> = pings.iter().map(|payload| (0x89, payload.as_bytes())).collect();
    case("2.10, 2.11", &pings, Passes);
}

#[test]
fn autobahn_3_reserved_bits() {
    case("3.1", &[(0xc1, b"Hello, world!")], Fails(0, 1002));
    let then = |name, first: u8, payload: &'static [u8]| {
        case(name, &[(0x81, b"Hello, world!"), (first, payload), (0x89, b"")], Fails(1, 1002));
    };
    then("3.2", 0xa1, b"Hello, world!");
    then("3.3", 0xb1, b"Hello, world!");
    then("3.4", 0xc1, b"Hello, world!");
    case("3.5", &[(0xd2, b"\x00\xff\xfe")], Fails(0, 1002));
    case("3.6", &[(0xe9, b"Hello, world!")], Fails(0, 1002));
    case("3.7", &[(0xf8, b"")], Fails(0, 1002));
}

#[test]
fn autobahn_4_reserved_opcodes() {
    for (group, opcodes) in [(1, [3, 4, 5, 6, 7]), (2, [11, 12, 13, 14, 15])] {
        for (number, opcode) in opcodes.into_iter().enumerate() {
            let name = format!("4.{group}.{}", number + 1);
            let payload: &[u8] = if number % 2 == 0 { b"" } else { b"reserved opcode payload" };
            match number {
                0 | 1 => case(&name, &[(0x80 | opcode, payload)], Fails(0, 1002)),
                _ => case(
                    &name,
                    &[(0x81, b"Hello, world!"), (0x80 | opcode, payload), (0x89, b"")],
                    Fails(1, 1002),
                ),
            }
        }
    }
}

#[test]
fn autobahn_5_fragments() {
    let (one, two) = (&b"fragment1"[..], &b"fragment2"[..]);
    case("5.1", &[(0x09, one), (0x80, two)], Fails(0, 1002));
    case("5.2", &[(0x0a, one), (0x80, two)], Fails(0, 1002));
    case("5.3 to 5.5", &[(0x01, one), (0x80, two)], Passes);
    case("5.6 to 5.8", &[(0x01, one), (0x89, b"ping payload"), (0x80, two)], Passes);
    case("5.9 to 5.11", &[(0x80, one), (0x81, b"Hello, world!")], Fails(0, 1002));
    case("5.12 to 5.14", &[(0x00, one), (0x81, b"Hello, world!")], Fails(0, 1002));
    case("5.15", &[(0x01, one), (0x80, two), (0x00, b"fragment3"), (0x81, b"fragment4")], Fails(2, 1002));
    case("5.16", &[(0x00, one), (0x01, two), (0x80, b"fragment3")], Fails(0, 1002));
    case("5.17", &[(0x80, one), (0x01, two), (0x80, b"fragment3")], Fails(0, 1002));
    case("5.18", &[(0x01, one), (0x81, two)], Fails(1, 1002));
    case(
        "5.19, 5.20",
        &[
            (0x01, one),
            (0x00, two),
            (0x89, b"pongme 1!"),
            (0x00, b"fragment3"),
            (0x00, b"fragment4"),
            (0x89, b"pongme 2!"),
            (0x80, b"fragment5"),
        ],
        Passes,
    );
}

#[test]
fn autobahn_6_1_to_6_4_texts_in_fragments() {
    case("6.1.1", &[(0x81, b"")], Passes);
    case("6.1.2", &[(0x01, b""), (0x00, b""), (0x80, b"")], Passes);
    case("6.1.3", &[(0x01, b""), (0x00, b"middle frame payload"), (0x80, b"")], Passes);
    let text = "Hello-µ@ßöäüàá-UTF-8!!".as_bytes();
    case("6.2.1", &[(0x81, text)], Passes);
    case("6.2.2", &[(0x01, &text[..12]), (0x80, &text[12..])], Passes);
    let octets = |text: &'static [u8]| -> Vec<(u8, &'static [u8])> {
        let last = text.len() - 1;
        let first = |at| if at == 0 { 0x01 } else { 0x00 } | if at == last { 0x80 } else { 0x00 };
        text.chunks(1).enumerate().map(|(at, octet)| (first(at), octet)).collect()
    };
    case("6.2.3", &octets("Hello-µ@ßöäüàá-UTF-8!!".as_bytes()), Passes);
    case("6.2.4", &octets(KOSME), Passes);
    const INVALID: &[u8] =
        b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80\x65\x64\x69\x74\x65\x64";
    case("6.3.1", &[(0x81, INVALID)], Fails(0, 1007));
    // The second byte of a surrogate cannot come behind 0xed: the fragments before it have passed.
    case("6.3.2", &octets(INVALID), Fails(12, 1007));
    const BEYOND: &[u8] = b"\xf4\x90\x80\x80";
    let start = KOSME;
    case("6.4.1", &[(0x01, start), (0x00, BEYOND), (0x80, b"edited")], Fails(1, 1007));
    case(
        "6.4.2",
        &[(0x01, start), (0x00, &BEYOND[..1]), (0x00, &BEYOND[1..]), (0x80, b"edited")],
        Fails(2, 1007),
    );
}

#[test]
fn autobahn_6_4_3_and_6_4_4_a_text_fails_within_its_frame() {
    for sender in SENDERS {
        let text = [KOSME, b"\xf4\x90\x80\x80edited"].concat();
        let all = frame(sender, 0x81, &text);
        // Up to the byte that can still become a character all is well; the next one ends it, long before the frame ends.
        let wrong = all.len() - text.len() + 12;
        let mut filter = Filter::new(Rules { look: Look::Text, ..Rules::new(sender) });
        let (passed, then) = show(&mut filter, all[..wrong].chunks(1), &mut ());
        assert_eq!((passed.len(), then), (wrong, Then::GoOn));
        let (passed, then) = show(&mut filter, [&all[wrong..=wrong]], &mut ());
        let Then::End(ending) = then else { panic!("{then:?}") };
        assert_eq!(
            (passed.len(), ending.reason.token.ends_with("websocket_text") || sender == Sender::Upstream),
            (0, true)
        );
        // The other side has the beginning of a frame: no Close frame can stand there.
        let mut other = Filter::new(Rules::new(match sender {
            Sender::Client => Sender::Upstream,
            Sender::Upstream => Sender::Client,
        }));
        let farewell = match sender {
            Sender::Client => ending.close(&mut filter, &mut other, KEY),
            Sender::Upstream => ending.close(&mut other, &mut filter, KEY),
        };
        assert_eq!(farewell.to_upstream.is_some(), sender == Sender::Upstream);
        assert_eq!(farewell.to_client.is_some(), sender == Sender::Client);
    }
}

/// Cases 6.5 to 6.23: valid and invalid UTF-8, each as one frame and an octet a fragment.
#[test]
fn autobahn_6_5_to_6_23_utf_8() {
    let kosme = KOSME;
    let mut valid: Vec<(String, Vec<u8>)> = Vec::new();
    let mut invalid: Vec<(String, Vec<u8>)> = Vec::new();
    // 6.5.1 to 6.5.5: a valid text, cut in two at different places: our cases cut everywhere.
    valid.push(("6.5".into(), kosme.to_vec()));
    // 6.6: all prefixes.
    for len in 1..=kosme.len() {
        let prefix = kosme[..len].to_vec();
        let list = if std::str::from_utf8(&prefix).is_ok() { &mut valid } else { &mut invalid };
        list.push((format!("6.6.{len}"), prefix));
    }
    assert_eq!(valid.len(), 1 + 5, "6.6.2, 6.6.5, 6.6.7, 6.6.9 and 6.6.11");
    let add = |list: &mut Vec<(String, Vec<u8>)>, group: &str, texts: &[&[u8]]| {
        for (number, text) in texts.iter().enumerate() {
            list.push((format!("{group}.{}", number + 1), text.to_vec()));
        }
    };
    add(&mut valid, "6.7", &[b"\x00", b"\xc2\x80", b"\xe0\xa0\x80", b"\xf0\x90\x80\x80"]);
    add(&mut invalid, "6.8", &[b"\xf8\x88\x80\x80\x80", b"\xfc\x84\x80\x80\x80\x80"]);
    add(&mut valid, "6.9", &[b"\x7f", b"\xdf\xbf", b"\xef\xbf\xbf", b"\xf4\x8f\xbf\xbf"]);
    add(&mut invalid, "6.10", &[b"\xf7\xbf\xbf\xbf", b"\xfb\xbf\xbf\xbf\xbf", b"\xfd\xbf\xbf\xbf\xbf\xbf"]);
    add(&mut valid, "6.11", &[b"\xed\x9f\xbf", b"\xee\x80\x80", b"\xef\xbf\xbd", b"\xf4\x8f\xbf\xbf"]);
    add(&mut invalid, "6.11.5", &[b"\xf4\x90\x80\x80"]);
    for number in 1..=8usize {
        let text: Vec<u8> = match number {
            1 => vec![0x80],
            2 => vec![0xbf],
            8 => (0x80..=0xbf).collect(),
            _ => [0x80, 0xbf].into_iter().cycle().take(number - 1).collect(),
        };
        invalid.push((format!("6.12.{number}"), text));
    }
    for (number, starts) in
        [0xc0..=0xdf_u8, 0xe0..=0xef, 0xf0..=0xf7, 0xf8..=0xfb, 0xfc..=0xfd].into_iter().enumerate()
    {
        let text = starts.flat_map(|start| [start, b' ']).collect();
        invalid.push((format!("6.13.{}", number + 1), text));
    }
    let lacking: [&[u8]; 10] = [
        b"\xc0",
        b"\xe0\x80",
        b"\xf0\x80\x80",
        b"\xf8\x80\x80\x80",
        b"\xfc\x80\x80\x80\x80",
        b"\xdf",
        b"\xef\xbf",
        b"\xf7\xbf\xbf",
        b"\xfb\xbf\xbf\xbf",
        b"\xfd\xbf\xbf\xbf\xbf",
    ];
    add(&mut invalid, "6.14", &lacking);
    add(&mut invalid, "6.15", &[&lacking.concat()]);
    add(&mut invalid, "6.16", &[b"\xfe", b"\xff", b"\xfe\xfe\xff\xff"]);
    add(
        &mut invalid,
        "6.17",
        &[
            b"\xc0\xaf",
            b"\xe0\x80\xaf",
            b"\xf0\x80\x80\xaf",
            b"\xf8\x80\x80\x80\xaf",
            b"\xfc\x80\x80\x80\x80\xaf",
        ],
    );
    add(
        &mut invalid,
        "6.18",
        &[
            b"\xc1\xbf",
            b"\xe0\x9f\xbf",
            b"\xf0\x8f\xbf\xbf",
            b"\xf8\x87\xbf\xbf\xbf",
            b"\xfc\x83\xbf\xbf\xbf\xbf",
        ],
    );
    add(
        &mut invalid,
        "6.19",
        &[
            b"\xc0\x80",
            b"\xe0\x80\x80",
            b"\xf0\x80\x80\x80",
            b"\xf8\x80\x80\x80\x80",
            b"\xfc\x80\x80\x80\x80\x80",
        ],
    );
    let surrogates: [&[u8]; 7] = [
        b"\xed\xa0\x80",
        b"\xed\xad\xbf",
        b"\xed\xae\x80",
        b"\xed\xaf\xbf",
        b"\xed\xb0\x80",
        b"\xed\xbe\x80",
        b"\xed\xbf\xbf",
    ];
    add(&mut invalid, "6.20", &surrogates);
    for (number, (high, low)) in
        [(0, 4), (0, 6), (1, 4), (1, 6), (2, 4), (2, 6), (3, 4), (3, 6)].into_iter().enumerate()
    {
        invalid.push((format!("6.21.{}", number + 1), [surrogates[high], surrogates[low]].concat()));
    }
    let no_characters = (0..=0x10u32).flat_map(|plane| [plane << 16 | 0xfffe, plane << 16 | 0xffff]);
    for (number, code) in no_characters.enumerate() {
        let text = char::from_u32(code).expect("a scalar value").to_string();
        valid.push((format!("6.22.{}", number + 1), text.into_bytes()));
    }
    for code in 0xfff9..=0xffffu32 {
        let text = char::from_u32(code).expect("a scalar value").to_string();
        valid.push((format!("6.23.{}", code - 0xfff8), text.into_bytes()));
    }
    assert!(valid.len() >= 56 && invalid.len() >= 60);
    for (name, text) in &valid {
        case(name, &[(0x81, text)], Passes);
        case(name, &octets_of(text), Passes);
    }
    for (name, text) in &invalid {
        case(name, &[(0x81, text)], Fails(0, 1007));
        // The octet that is refused: the first one with which no valid text begins, or the last one.
        let refused = (1..=text.len())
            .find(
                |len| matches!(std::str::from_utf8(&text[..*len]), Err(error) if error.error_len().is_some()),
            )
            .unwrap_or(text.len());
        case(name, &octets_of(text), Fails(refused - 1, 1007));
    }
}

fn octets_of(text: &[u8]) -> Vec<(u8, &[u8])> {
    let last = text.len() - 1;
    let first = |at| if at == 0 { 0x01 } else { 0x00 } | if at == last { 0x80 } else { 0x00 };
    text.chunks(1).enumerate().map(|(at, octet)| (first(at), octet)).collect()
}

#[test]
fn autobahn_7_1_nothing_passes_behind_a_close_frame() {
    let close = (0x88, &b"\x03\xe8"[..]);
    case("7.1.1", &[(0x81, b"Hello World!"), close], Closes(1));
    case("7.1.2", &[close, close], Closes(0));
    case("7.1.3", &[close, (0x89, b"")], Closes(0));
    case("7.1.4", &[close, (0x81, b"Hello World!")], Closes(0));
    case("7.1.5", &[(0x01, b"fragment1"), close, (0x80, b"fragment2")], Closes(1));
    case("7.1.6", &[(0x81, &b"a".repeat(256 << 10)), close, (0x89, b"")], Closes(1));
    // What comes behind it is not even judged.
    case("7.1.4, malformed", &[close, (0xff, b"Hello World!")], Closes(0));
}

#[test]
fn autobahn_7_3_and_7_5_close_frames() {
    case("7.3.1", &[(0x88, b"")], Closes(0));
    case("7.3.2", &[(0x88, b"a")], Fails(0, 1002));
    case("7.3.3", &[(0x88, b"\x03\xe8")], Closes(0));
    case("7.3.4", &[(0x88, b"\x03\xe8Hello World!")], Closes(0));
    case("7.3.5", &[(0x88, &[b"\x03\xe8", &b"*".repeat(123)[..]].concat())], Closes(0));
    case("7.3.6", &[(0x88, &[b"\x03\xe8", &b"*".repeat(124)[..]].concat())], Fails(0, 1002));
    let invalid = b"\x03\xe8\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited";
    for sender in SENDERS {
        let mut filter = Filter::new(Rules::new(sender));
        let (passed, then) = show(&mut filter, [&frame(sender, 0x88, invalid)[..]], &mut ());
        let Then::End(ending) = then else { panic!("7.5.1: {then:?}") };
        assert!(passed.is_empty());
        assert!([ending.client, ending.upstream].contains(&CloseCode::INVALID_DATA));
    }
}

#[test]
fn autobahn_7_7_to_7_13_codes() {
    let close = |code: u16| code.to_be_bytes();
    for code in [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 3000, 3999, 4000, 4999] {
        case(&format!("7.7 {code}"), &[(0x88, &close(code))], Closes(0));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535] {
        case(&format!("7.9, 7.13 {code}"), &[(0x88, &close(code))], Fails(0, 1002));
    }
}

#[test]
fn rfc_6455_5_1_clients_mask_and_servers_do_not() {
    for sender in SENDERS {
        let other = SENDERS[usize::from(sender == Sender::Client)];
        for first in [0x81, 0x82, 0x88, 0x89, 0x8a] {
            let mut filter = Filter::new(Rules::new(sender));
            let (passed, then) = show(&mut filter, [&frame(other, first, b"")[..]], &mut ());
            let Then::End(ending) = then else { panic!("{then:?}") };
            let expected =
                if sender == Sender::Client { "websocket_mask" } else { "upstream_websocket_frame" };
            assert_eq!((passed.len(), ending.reason.token), (0, expected));
        }
    }
}

#[test]
fn rfc_6455_5_2_lengths_are_minimal() {
    for sender in SENDERS {
        let masked = if sender == Sender::Client { 0x80 } else { 0 };
        for (bytes, passes) in [
            (vec![0x82, masked | 126, 0, 125], false),
            (vec![0x82, masked | 126, 0, 126], true),
            (vec![0x82, masked | 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], false),
            (vec![0x82, masked | 127, 0, 0, 0, 0, 0, 1, 0, 0], true),
            (vec![0x82, masked | 127, 0x80, 0, 0, 0, 0, 1, 0, 0], false),
        ] {
            let head = [&bytes[..], &KEY[..usize::from(masked > 0) * 4]].concat();
            for pieces in [vec![&head[..]], head.chunks(1).collect()] {
                let mut filter = Filter::new(Rules::new(sender));
                let (passed, then) = show(&mut filter, pieces, &mut ());
                let expected = if passes { head.len() } else { 0 };
                assert_eq!((passed.len(), then == Then::GoOn), (expected, passes), "{bytes:x?}");
            }
        }
    }
}

#[test]
fn rfc_6455_5_2_rsv1_where_compression_was_agreed_upon() {
    for (deflate, look, frames, passes) in [
        (true, Look::Heads, &[(0xc1, &b"\xff"[..]), (0x42, b"a"), (0x80, b"b")][..], true),
        (false, Look::Heads, &[(0xc1, b"a")], false),
        (true, Look::Text, &[(0xc1, b"a")], false),
        (true, Look::Heads, &[(0x41, b"a"), (0xc0, b"b")], false),
        (true, Look::Heads, &[(0xc9, b"a")], false),
        (true, Look::Heads, &[(0xa1, b"a")], false),
        (true, Look::Heads, &[(0x91, b"a")], false),
    ] {
        for sender in SENDERS {
            let mut filter = Filter::new(Rules { deflate, look, ..Rules::new(sender) });
            let (_, then) = show(&mut filter, [&stream(sender, frames)[..]], &mut ());
            assert_eq!(then == Then::GoOn, passes, "{frames:x?}");
        }
    }
}

#[test]
fn rfc_6455_5_4_a_message_within_a_message_is_refused_and_pings_are_not() {
    case("two messages", &[(0x01, b"a"), (0x02, b"b")], Fails(1, 1002));
    case("ping", &[(0x01, b"a"), (0x89, b"b"), (0x8a, b"c"), (0x80, b"d")], Passes);
}

#[test]
fn rfc_6455_7_1_1_both_sides_are_told_once() {
    let both = || (Filter::new(Rules::new(Sender::Client)), Filter::new(Rules::new(Sender::Upstream)));
    let (mut up, mut down) = both();
    let farewell = Ending::CREDENTIAL.close(&mut up, &mut down, KEY);
    let to_client = farewell.to_client.unwrap();
    assert_eq!(to_client.as_slice(), frame(Sender::Upstream, 0x88, b"\x0b\xb8websocket_credential"));
    let to_upstream = farewell.to_upstream.unwrap();
    assert_eq!(to_upstream.as_slice(), frame(Sender::Client, 0x88, b"\x03\xe9websocket_credential"));
    let again = Ending::DRAINED.close(&mut up, &mut down, KEY);
    assert!(again.to_client.is_none() && again.to_upstream.is_none());
    assert!(up.is_over() && down.is_over());
    assert_eq!(show(&mut up, [&frame(Sender::Client, 0x81, b"late")[..]], &mut ()), (vec![], Then::Closed));
    // The client has said Close, the upstream has not answered yet: only the client waits for a word.
    let (mut up, mut down) = both();
    let close = frame(Sender::Client, 0x88, b"\x03\xe8");
    assert_eq!(show(&mut up, [&close[..]], &mut ()), (close, Then::Closed));
    let farewell = Ending::UPSTREAM_CUT.close(&mut up, &mut down, KEY);
    assert!(farewell.to_upstream.is_none());
    assert_eq!(farewell.to_client.unwrap().as_slice()[2..4], [0x03, 0xf6]);
    // In the midst of a frame nothing can be said; between fragments it can.
    let (mut up, mut down) = both();
    let half = frame(Sender::Upstream, 0x82, b"half");
    let _ = show(&mut down, [&half[..4]], &mut ());
    let _ = show(&mut up, [&frame(Sender::Client, 0x01, b"fragment")[..]], &mut ());
    let farewell = Ending::LIFETIME.close(&mut up, &mut down, KEY);
    assert!(farewell.to_client.is_none() && farewell.to_upstream.is_some());
    // The beginning of a head has not gone on.
    let (mut up, mut down) = both();
    assert_eq!(show(&mut down, [&half[..1]], &mut ()), (vec![], Then::GoOn));
    assert!(Ending::IDLE.close(&mut up, &mut down, KEY).to_client.is_some());
}

#[test]
fn a_message_is_bounded_over_all_its_fragments() {
    for look in [Look::Heads, Look::Text, Look::Messages] {
        for sender in SENDERS {
            for (sizes, passes) in [
                (&[10][..], true),
                (&[11], false),
                (&[4, 6], true),
                (&[4, 7], false),
                (&[10, 0], true),
                (&[0, 11], false),
            ] {
                let last = sizes.len() - 1;
                let payloads: Vec<Vec<u8>> = sizes.iter().map(|size| vec![b'a'; *size]).collect();
                let frames: Vec<(u8, &[u8])> = payloads
                    .iter()
                    .enumerate()
                    .map(|(at, payload)| (u8::from(at == 0) | u8::from(at == last) << 7, &payload[..]))
                    .collect();
                let mut filter = Filter::new(Rules { look, message_bytes_max: 10, ..Rules::new(sender) });
                // A message before it leaves nothing behind.
                let first = frame(sender, 0x82, b"0123456789");
                assert_eq!(show(&mut filter, [&first[..]], &mut ()), (first, Then::GoOn));
                let (_, then) = show(&mut filter, [&stream(sender, &frames)[..]], &mut ());
                match then {
                    Then::End(ending) => {
                        assert!(!passes, "{sizes:?}");
                        let offender = if sender == Sender::Client { ending.client } else { ending.upstream };
                        assert_eq!(offender, CloseCode::TOO_BIG);
                    }
                    _ => assert!(passes, "{sizes:?}"),
                }
            }
        }
    }
}

#[test]
fn a_frame_that_declares_too_much_is_refused_before_its_first_byte() {
    let mut room = [0; HEAD_BYTES_MAX];
    let head = frame::write_head(&mut room, frame::Opcode::Binary, 1 << 40, Some(Mask::of(KEY)));
    let mut filter = Filter::new(Rules::new(Sender::Client));
    let (passed, then) = show(&mut filter, [&room[..head]], &mut ());
    assert!(passed.is_empty());
    assert_eq!(
        then,
        Then::End(Ending::by(Sender::Client, CloseCode::TOO_BIG, &filter::WEBSOCKET_MESSAGE_SIZE))
    );
}

#[test]
fn fragments_are_bounded_by_count() {
    let mut filter = Filter::new(Rules::new(Sender::Upstream));
    let empty = frame(Sender::Upstream, 0x00, b"");
    let mut many = frame(Sender::Upstream, 0x02, b"");
    for _ in 1..filter::FRAGMENTS_MAX {
        many.extend_from_slice(&empty);
    }
    assert_eq!(show(&mut filter, [&many[..]], &mut ()), (many, Then::GoOn));
    let (_, then) = show(&mut filter, [&empty[..]], &mut ());
    let Then::End(ending) = then else { panic!("{then:?}") };
    assert_eq!((ending.upstream, ending.client), (CloseCode::POLICY, CloseCode::BAD_GATEWAY));
}

#[test]
fn control_frames_have_a_budget_that_time_refills() {
    for sender in SENDERS {
        let mut filter = Filter::new(Rules { control_per_s: 10, control_burst: 3, ..Rules::new(sender) });
        let ping = frame(sender, 0x89, b"a");
        let mut at = |now_ms| {
            let mut out = Buffer::empty();
            filter.pass(&ping, &mut out, now_ms, &mut ()).then
        };
        let start = 1_000_000;
        assert!([at(start), at(start), at(start)].iter().all(|then| *then == Then::GoOn), "a burst of three");
        assert_eq!(at(start + 100), Then::GoOn, "one more after a tenth of a second");
        let Then::End(ending) = at(start + 199) else { panic!("five in two tenths") };
        let code = if sender == Sender::Client { ending.client } else { ending.upstream };
        assert_eq!(code, CloseCode::POLICY);
    }
    // Data is not counted, and neither is the Close frame.
    let mut filter = Filter::new(Rules { control_burst: 1, ..Rules::new(Sender::Client) });
    let all = stream(Sender::Client, &[(0x89, b""), (0x81, b"a"), (0x81, b"b"), (0x88, b"")]);
    assert_eq!(show(&mut filter, [&all[..]], &mut ()), (all, Then::Closed));
}

/// Lets `left` messages in, and none that says "no".
struct Policies {
    left: u32,
    seen: Vec<(Kind, Vec<u8>)>,
}

const TOO_MANY: &Reason = &close::WEBSOCKET_OVERLOAD;
const FORBIDDEN: &Reason = &crate::schema::BODY_SCHEMA;

impl Judge for Policies {
    fn admit(&mut self, _: Kind) -> Result<(), &'static Reason> {
        self.left = self.left.checked_sub(1).ok_or(TOO_MANY)?;
        Ok(())
    }

    fn message(&mut self, kind: Kind, payload: &[u8]) -> Result<(), &'static Reason> {
        self.seen.push((kind, payload.to_vec()));
        if payload == b"no" { Err(FORBIDDEN) } else { Ok(()) }
    }
}

#[test]
fn the_judge_decides_about_every_message_before_it_begins() {
    for sender in SENDERS {
        for look in [Look::Heads, Look::Text, Look::Messages] {
            let mut judge = Policies { left: 2, seen: Vec::new() };
            let mut filter = Filter::new(Rules { look, ..Rules::new(sender) });
            let good = stream(sender, &[(0x01, b"a"), (0x89, b""), (0x00, b"b"), (0x80, b"c"), (0x82, b"d")]);
            let (_, then) = show(&mut filter, [&good[..]], &mut judge);
            assert_eq!((then, filter.messages()), (Then::GoOn, 2));
            let (passed, then) = show(&mut filter, [&frame(sender, 0x81, b"e")[..]], &mut judge);
            assert!(passed.is_empty());
            assert_eq!(then, Then::End(Ending::by(sender, CloseCode::POLICY, TOO_MANY)));
            let expected = match look {
                Look::Messages => vec![(Kind::Text, b"abc".to_vec()), (Kind::Binary, b"d".to_vec())],
                _ => vec![],
            };
            assert_eq!(judge.seen, expected);
        }
    }
}

#[test]
fn a_refused_message_does_not_reach_the_other_side() {
    for sender in SENDERS {
        for frames in [&[(0x81, &b"no"[..])][..], &[(0x01, b"n"), (0x89, b"ping"), (0x80, b"o")]] {
            let good = frame(sender, 0x81, b"yes");
            let bad = stream(sender, frames);
            let all = [&good[..], &bad].concat();
            for cut in 0..=all.len() {
                let mut judge = Policies { left: 9, seen: Vec::new() };
                let mut filter = Filter::new(Rules { look: Look::Messages, ..Rules::new(sender) });
                let (passed, then) = show(&mut filter, [&all[..cut], &all[cut..]], &mut judge);
                assert_eq!(then, Then::End(Ending::by(sender, CloseCode::POLICY, FORBIDDEN)), "{cut}");
                let mut expected = good.clone();
                if frames.len() > 1 {
                    expected.extend(frame(sender, 0x89, b"ping"));
                }
                assert_eq!(passed, expected, "{cut}");
                assert_eq!(filter.held_bytes(), 0);
                assert!(filter.close(CloseCode::POLICY, "a", KEY).is_some(), "it stands between frames");
            }
        }
    }
}

#[test]
fn a_held_message_goes_on_as_one_frame_and_one_piece_untouched() {
    for sender in SENDERS {
        let mut judge = Policies { left: 9, seen: Vec::new() };
        let mut filter = Filter::new(Rules { look: Look::Messages, ..Rules::new(sender) });
        let whole = stream(sender, &[(0x81, b"whole"), (0x82, b""), (0x89, b"p")]);
        let mut out = Buffer::empty();
        let verdict = filter.pass(&whole, &mut out, 0, &mut judge);
        assert_eq!(verdict, Verdict { onward: Onward::Prefix(whole.len()), then: Then::GoOn });
        assert!(!out.is_leased(), "in place");
        let fragments = stream(sender, &[(0x01, b"ab"), (0x8a, b"pong"), (0x00, b""), (0x80, &[b'c'; 300])]);
        for pieces in [vec![&fragments[..]], fragments.chunks(7).collect()] {
            let (passed, then) = show(&mut filter, pieces, &mut judge);
            let text = [&b"ab"[..], &[b'c'; 300]].concat();
            assert_eq!(then, Then::GoOn);
            assert_eq!(passed, [frame(sender, 0x8a, b"pong"), frame(sender, 0x81, &text)].concat());
            assert_eq!(judge.seen.last(), Some(&(Kind::Text, text)));
            assert_eq!(filter.held_bytes(), 0, "the memory goes back");
        }
    }
}

#[test]
fn an_invalid_text_in_one_piece_leaves_nothing_behind_and_the_other_side_is_told() {
    for sender in SENDERS {
        let all = stream(sender, &[(0x81, b"good"), (0x81, b"bad \xff")]);
        let mut filter = Filter::new(Rules { look: Look::Text, ..Rules::new(sender) });
        let (passed, then) = show(&mut filter, [&all[..]], &mut ());
        assert!(matches!(then, Then::End(_)));
        assert_eq!(passed, frame(sender, 0x81, b"good"));
        assert!(filter.close(CloseCode::GOING_AWAY, "a", KEY).is_some());
        // The same behind a head that was cut, when all of it goes through the buffer.
        let mut filter = Filter::new(Rules { look: Look::Text, ..Rules::new(sender) });
        let (passed, _) = show(&mut filter, [&all[..1], &all[1..]], &mut ());
        assert_eq!(passed, frame(sender, 0x81, b"good"));
        assert!(filter.close(CloseCode::GOING_AWAY, "a", KEY).is_some());
    }
}

#[test]
fn payloads_pass_untouched_where_nobody_looks() {
    for sender in SENDERS {
        let all = stream(sender, &[(0x81, b"\xff\xfe not a text"), (0x02, &[7; 70_000]), (0x80, b"")]);
        let mut filter = Filter::new(Rules::new(sender));
        let mut out = Buffer::empty();
        let verdict = filter.pass(&all, &mut out, 0, &mut ());
        assert_eq!(verdict, Verdict { onward: Onward::Prefix(all.len()), then: Then::GoOn });
        assert!(!out.is_leased());
    }
}

#[test]
fn a_filter_is_small() {
    let bytes = size_of::<Filter>();
    assert!(bytes <= 300, "{bytes}");
}

mod any_stream {
    use proptest::prelude::*;

    use super::*;

    /// Frames that are mostly well-formed.
    fn frames() -> impl Strategy<Value = Vec<u8>> {
        let first = prop_oneof![
            6 => prop::sample::select(vec![0x81u8, 0x82, 0x01, 0x02, 0x00, 0x80]),
            2 => prop::sample::select(vec![0x89u8, 0x8a, 0x88, 0xc1]),
            1 => any::<u8>()
        ];
        let payload = prop_oneof![
            4 => prop::collection::vec(0x20u8..0x7f, 0..200),
            2 => "[aé€🌍]{0,60}".prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..140)
        ];
        let one = (first, payload, any::<bool>());
        (prop::collection::vec(one, 0..12), any::<bool>()).prop_map(|(frames, client)| {
            let sender = SENDERS[usize::from(!client)];
            let mut all = vec![u8::from(!client)];
            for (first, payload, swapped) in frames {
                let other = swapped && payload.len() % 19 == 3;
                let sender = if other { SENDERS[usize::from(client)] } else { sender };
                all.extend(frame(sender, first, &payload));
            }
            all
        })
    }

    proptest! {
        #[test]
        fn obeys_the_laws(stream in frames(), flags in any::<u8>(), size in any::<u8>(), cut in any::<u8>()) {
            let (sender, stream) = stream.split_first().unwrap();
            laws::frames(&[&[flags & !1 | sender, size, cut], stream].concat());
        }
    }
}
