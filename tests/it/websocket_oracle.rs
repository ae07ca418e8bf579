//! The filter of WebSocket frames beside tungstenite: what it writes passes, cut anywhere, and of what is spoiled both say the same.
//!
//! Deliberate differences, each with a test here: we refuse lengths that are not minimal (tungstenite takes them) and Close
//! frames with codes that may not travel (it answers them with 1002, and reports no error), take no mask on trust from a
//! frame that has not arrived, and fail texts at their first wrong byte (it waits for the end of the frame, which may never
//! come). We take 1014, which it does not, and say nothing of what comes behind a Close frame.

use std::io::{self, Read, Write};

use proptest::prelude::*;
use ringwall::websocket::{Ending, Filter, Judge, Look, Onward, Rules, Sender, Then};
use ringwall::worker::buffer::Buffer;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame};
use tungstenite::protocol::{Role, WebSocket, WebSocketConfig};
use tungstenite::{Error, Message, error::ProtocolError};

const SENDERS: [Sender; 2] = [Sender::Client, Sender::Upstream];
const MESSAGE_BYTES_MAX: usize = 1000;

/// One end of a wire: reads what was put there, keeps what is written.
#[derive(Default)]
struct Wire {
    incoming: io::Cursor<Vec<u8>>,
    written: Vec<u8>,
}

impl Read for Wire {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        self.incoming.read(room)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What tungstenite writes for these messages.
fn written(sender: Sender, messages: &[Message]) -> Vec<u8> {
    let role = if sender == Sender::Client { Role::Client } else { Role::Server };
    let mut socket = WebSocket::from_raw_socket(Wire::default(), role, None);
    for message in messages {
        match message {
            // Fragments: every one of which tungstenite takes as it is.
            Message::Frame(frame) => socket.write(Message::Frame(frame.clone())).unwrap(),
            Message::Close(close) => {
                let _ = socket.close(close.clone());
            }
            message => socket.write(message.clone()).unwrap(),
        }
        let _ = socket.flush();
    }
    socket.into_inner().written
}

/// What tungstenite reads from a peer who sends these bytes and then is gone: its messages, and whether it refused.
fn read(sender: Sender, bytes: &[u8]) -> (Vec<Message>, bool) {
    let role = if sender == Sender::Client { Role::Server } else { Role::Client };
    let config = WebSocketConfig::default().max_message_size(Some(MESSAGE_BYTES_MAX));
    let wire = Wire { incoming: io::Cursor::new(bytes.to_vec()), written: Vec::new() };
    let mut socket = WebSocket::from_raw_socket(wire, role, Some(config));
    let mut messages = Vec::new();
    loop {
        match socket.read() {
            Ok(message) => {
                messages.push(message);
                if matches!(messages.last(), Some(Message::Close(_))) {
                    return (messages, false);
                }
            }
            Err(Error::Protocol(ProtocolError::ResetWithoutClosingHandshake)) => return (messages, false),
            Err(Error::Protocol(_) | Error::Utf8(_) | Error::Capacity(_)) => return (messages, true),
            Err(_) => return (messages, false),
        }
    }
}

struct Everybody;

impl Judge for Everybody {
    fn admit(&mut self, _: ringwall::websocket::filter::Kind) -> Result<(), &'static ringwall::http::Reason> {
        Ok(())
    }

    fn message(
        &mut self,
        _: ringwall::websocket::filter::Kind,
        _: &[u8],
    ) -> Result<(), &'static ringwall::http::Reason> {
        Ok(())
    }
}

/// What passes the filter, and whether it refused.
fn passed<'a>(
    sender: Sender,
    look: Look,
    pieces: impl IntoIterator<Item = &'a [u8]>,
) -> (Vec<u8>, Option<Ending>) {
    let rules = Rules {
        look,
        message_bytes_max: MESSAGE_BYTES_MAX as u64,
        control_burst: u32::MAX,
        ..Rules::new(sender)
    };
    let mut filter = Filter::new(rules);
    let mut all = Vec::new();
    for piece in pieces {
        let mut out = Buffer::empty();
        let verdict = filter.pass(piece, &mut out, 0, &mut Everybody);
        match verdict.onward {
            Onward::Prefix(count) => all.extend_from_slice(&piece[..count]),
            Onward::Out => all.extend_from_slice(&out),
        }
        if let Then::End(ending) = verdict.then {
            return (all, Some(ending));
        }
    }
    (all, None)
}

fn messages() -> impl Strategy<Value = Vec<Message>> {
    let fragment = |fin: bool, data: Data| {
        prop::collection::vec(0x20u8..0x7f, 0..40)
            .prop_map(move |payload| vec![Message::Frame(Frame::message(payload, OpCode::Data(data), fin))])
    };
    let fragmented =
        (fragment(false, Data::Text), fragment(false, Data::Continue), fragment(true, Data::Continue))
            .prop_map(|(first, second, third)| [first, second, third].concat());
    let control = prop::collection::vec(any::<u8>(), 0..125);
    let one = prop_oneof![
        4 => "[ -~é€🌍]{0,120}".prop_map(|text| vec![Message::text(text)]),
        3 => prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| vec![Message::binary(bytes)]),
        2 => fragmented,
        1 => control.prop_map(|bytes| vec![Message::Ping(bytes.into())])
    ];
    let close = prop::option::of((1000u16..1004, "[a-zé]{0,40}"));
    (prop::collection::vec(one, 0..8), close, any::<bool>()).prop_map(|(messages, close, says)| {
        let mut messages = messages.concat();
        if let Some((code, reason)) = close {
            let close = CloseFrame { code: CloseCode::from(code), reason: reason.into() };
            messages.push(Message::Close(says.then_some(close)));
        }
        messages
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Two looks, every place to cut; a third that holds what was cut passes the same messages.
    #[test]
    fn what_tungstenite_writes_passes_cut_anywhere(messages in messages(), client in any::<bool>()) {
        let sender = SENDERS[usize::from(!client)];
        let bytes = written(sender, &messages);
        prop_assume!(bytes.len() < 4_000);
        let expected = read(sender, &bytes);
        for at in 0..=bytes.len() {
            for look in [Look::Heads, Look::Text] {
                let (all, ending) = passed(sender, look, [&bytes[..at], &bytes[at..]]);
                prop_assert_eq!((ending, all == bytes), (None, true), "at {}", at);
            }
            let (all, ending) = passed(sender, Look::Messages, [&bytes[..at], &bytes[at..]]);
            prop_assert_eq!(ending, None);
            if at % 16 == 0 {
                prop_assert_eq!(&read(sender, &all), &expected);
            }
        }
        let (all, ending) = passed(sender, Look::Text, bytes.chunks(1));
        prop_assert_eq!((ending, all == bytes), (None, true));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, ..ProptestConfig::default() })]

    /// One byte is another: both refuse, or neither does and tungstenite reads what it would have read.
    #[test]
    fn what_is_spoiled_is_judged_alike(
        messages in messages(),
        client in any::<bool>(),
        at in any::<prop::sample::Index>(),
        head in any::<bool>(),
        bit in 0u8..8,
    ) {
        let sender = SENDERS[usize::from(!client)];
        let mut bytes = written(sender, &messages);
        prop_assume!(!bytes.is_empty());
        // Half of the time in the first head, where most bits mean something.
        let place = if head { at.index(bytes.len().min(14)) } else { at.index(bytes.len()) };
        bytes[place] ^= 1 << bit;
        let (read_messages, refuses) = read(sender, &bytes);
        let (whole, ending) = passed(sender, Look::Text, [&bytes[..]]);
        let (_, in_bytes) = passed(sender, Look::Text, bytes.chunks(1));
        prop_assert_eq!(ending, in_bytes, "however it is cut");
        match ending {
            None => {
                prop_assert!(!refuses, "tungstenite refuses {:x?}", bytes);
                prop_assert_eq!(read(sender, &whole).0, read_messages);
            }
            Some(ending) => prop_assert!(
                refuses || is_deliberate(sender, &bytes, ending),
                "only we refuse {:x?}: {:?}", bytes, ending
            ),
        }
    }
}

/// What we refuse and tungstenite does not, or not yet.
fn is_deliberate(sender: Sender, bytes: &[u8], ending: Ending) -> bool {
    let offender = if sender == Sender::Client { ending.client } else { ending.upstream }.number();
    match (ending.reason.token, offender) {
        ("websocket_length" | "websocket_close", _) => true,
        // It reads the whole frame before it looks at anything, its head included: what is wrong may be in a frame that does not
        // end. Ours is refused at once; whether it would be there is shown by filling the frame up.
        _ => {
            let mut filled = bytes.to_vec();
            filled.resize(bytes.len() + 70_000, 0);
            read(sender, &filled).1 || ending.reason.code == 4307 && length_or_close(bytes)
        }
    }
}

/// For upstreams, whose flaws are one reason: whether a frame has a long length or is a Close frame.
fn length_or_close(bytes: &[u8]) -> bool {
    let mut at = 0;
    while let [first, second, rest @ ..] = &bytes[at.min(bytes.len())..] {
        let length = match (second & 0x7f, rest) {
            (126, [a, b, ..]) if usize::from(*a) * 256 + usize::from(*b) < 126 => return true,
            (126, [a, b, ..]) => 2 + usize::from(*a) * 256 + usize::from(*b),
            (127, _) => return true,
            (126, _) => return false,
            (length, _) => usize::from(length),
        };
        if first & 0x0f == 8 {
            return true;
        }
        at += 2 + length;
    }
    false
}

#[test]
fn where_the_two_differ_on_purpose() {
    let judge = |bytes: &[u8]| {
        let ours = passed(Sender::Upstream, Look::Text, [bytes]).1.map(|ending| ending.upstream.number());
        (read(Sender::Upstream, bytes).1, ours)
    };
    // A length of 5 in two bytes, and in eight.
    assert_eq!(judge(b"\x82\x7e\x00\x05Hello"), (false, Some(1002)));
    assert_eq!(judge(b"\x82\x7f\x00\x00\x00\x00\x00\x00\x00\x05Hello"), (false, Some(1002)));
    // A code that may not travel.
    assert_eq!(judge(b"\x88\x02\x03\xed"), (false, Some(1002)));
    // Bad gateway, which tungstenite reads as a code without a name, and takes for 1002.
    assert_eq!(judge(b"\x88\x02\x03\xf6"), (false, None));
    // A text that is wrong already, in a frame that is not all there.
    assert_eq!(judge(b"\x81\x05a\xff"), (false, Some(1007)));
    // A head that is wrong already.
    assert_eq!(judge(b"\x83"), (false, Some(1002)));
    // Behind a Close frame neither reads on.
    assert_eq!(judge(b"\x88\x00\xff\xff"), (false, None));
}

#[test]
fn our_close_frames_are_read_by_tungstenite() {
    let (mut up, mut down) =
        (Filter::new(Rules::new(Sender::Client)), Filter::new(Rules::new(Sender::Upstream)));
    let farewell = Ending::CREDENTIAL.close(&mut up, &mut down, [9, 8, 7, 6]);
    for (sender, frame, code) in [
        (Sender::Client, farewell.to_upstream.unwrap(), 1001),
        (Sender::Upstream, farewell.to_client.unwrap(), 3000),
    ] {
        let (messages, refuses) = read(sender, frame.as_slice());
        let close = CloseFrame { code: CloseCode::from(code), reason: "websocket_credential".into() };
        assert_eq!((messages, refuses), (vec![Message::Close(Some(close))], false));
        assert!(matches!(frame.as_slice()[0] & 0x0f, 8));
    }
    assert_eq!(u8::from(OpCode::Control(Control::Close)), 8);
}
