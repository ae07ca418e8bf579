//! What holds for every stream of bytes, however it is cut: the filter beside a decoder that is plain enough to be believed.
//!
//! For: the fuzz target `websocket_frames`, its corpus, and tests.

use super::filter::{Filter, Judge, Kind, Look, Onward, Rules, Then};
use super::frame::Sender;
use super::{CloseCode, Ending};
use crate::http::Reason;
use crate::schema::BODY_SCHEMA;
use crate::worker::buffer::Buffer;

/// Three bytes of rules (sender, look, compression, how many messages and control frames are let in, a byte that no message
/// may hold; largest message; how the stream is cut), then a stream.
pub fn frames(data: &[u8]) {
    let [flags, size, cut, stream @ ..] = data else { return };
    let mut rules = Rules::new(if flags & 1 == 0 { Sender::Client } else { Sender::Upstream });
    rules.look = [Look::Heads, Look::Text, Look::Messages, Look::Messages][usize::from(flags >> 1 & 3)];
    rules.deflate = flags & 8 != 0;
    rules.message_bytes_max = u64::from(*size) << (size % 9);
    rules.control_burst = 3;
    let policies = Policies { left: u32::from(flags >> 4) * 2, forbidden: b'!' };
    let expected = plainly(stream, &rules, policies);
    let pieces = |next: &mut dyn FnMut() -> usize| {
        let mut rest = stream;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(next().clamp(1, rest.len()));
            pieces.push(piece);
            rest = behind;
        }
        pieces
    };
    let mut state = u32::from(*cut) + 1;
    let mut random = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as usize % 40 + 1
    };
    for pieces in [pieces(&mut || usize::MAX), pieces(&mut || 1), pieces(&mut random)] {
        check(stream, &rules, policies, &pieces, &expected);
    }
}

/// One way to cut the stream.
fn check(stream: &[u8], rules: &Rules, mut policies: Policies, pieces: &[&[u8]], expected: &Plain) {
    let mut filter = Filter::new(*rules);
    let mut passed = Vec::new();
    let mut then = Then::GoOn;
    for piece in pieces {
        let mut out = Buffer::empty();
        let verdict = filter.pass(piece, &mut out, 0, &mut policies);
        match verdict.onward {
            Onward::Prefix(count) => passed.extend_from_slice(&piece[..count]),
            Onward::Out => passed.extend_from_slice(&out),
        }
        assert!(filter.held_bytes() <= 2 * rules.message_bytes_max as usize + (17 << 10));
        match then {
            Then::GoOn => then = verdict.then,
            // Nothing follows an end.
            _ => assert_eq!((verdict.onward, verdict.then), (Onward::Prefix(0), Then::Closed)),
        }
    }
    assert_eq!(then, expected.then);
    if rules.look < Look::Messages {
        // What passes is what came: without the last frame as far as it was refused.
        assert!(stream.starts_with(&passed));
        let least = if matches!(then, Then::End(_)) { expected.frame_start } else { expected.passable };
        assert!((least..=expected.passable).contains(&passed.len()), "{} of {expected:?}", passed.len());
    } else {
        let again = Rules { look: Look::Heads, control_burst: u32::MAX, ..*rules };
        let seen = plainly(&passed, &again, Policies { left: u32::MAX, forbidden: 0 });
        assert!(!matches!(seen.then, Then::End(_)), "{seen:?}");
        assert_eq!(seen.events, expected.events);
    }
    // The last word is a Close frame, or none can be said.
    let closed = then == Then::Closed;
    let last = filter.close(CloseCode::GOING_AWAY, "a", [1, 2, 3, 4]);
    if let Some(close) = last {
        assert!(!closed);
        passed.extend_from_slice(close.as_slice());
        let all = Rules { look: Look::Heads, control_burst: u32::MAX, ..*rules };
        let seen = plainly(&passed, &all, Policies { left: u32::MAX, forbidden: 0 });
        assert_eq!((seen.then, seen.passable), (Then::Closed, passed.len()));
    }
    assert!(filter.close(CloseCode::GOING_AWAY, "a", [1, 2, 3, 4]).is_none(), "a second Close frame");
}

/// Lets so many messages in, and none with a certain byte.
#[derive(Clone, Copy)]
struct Policies {
    left: u32,
    forbidden: u8,
}

impl Judge for Policies {
    fn admit(&mut self, _: Kind) -> Result<(), &'static Reason> {
        self.left = self.left.checked_sub(1).ok_or(&BODY_SCHEMA)?;
        Ok(())
    }

    fn message(&mut self, _: Kind, payload: &[u8]) -> Result<(), &'static Reason> {
        if payload.contains(&self.forbidden) { Err(&BODY_SCHEMA) } else { Ok(()) }
    }
}

#[derive(Debug, PartialEq)]
enum Event {
    Control(u8, Vec<u8>),
    Message(u8, Vec<u8>),
}

/// What a stream means.
#[derive(Debug)]
struct Plain {
    events: Vec<Event>,
    then: Then,
    /// How many bytes of it may go on, if payloads need not wait.
    passable: usize,
    /// Where the last frame that was looked at begins.
    frame_start: usize,
}

/// Decodes a stream that is all there, bit by bit as RFC 6455 §5.2 draws it.
fn plainly(stream: &[u8], rules: &Rules, mut policies: Policies) -> Plain {
    let mut plain = Plain { events: Vec::new(), then: Then::GoOn, passable: 0, frame_start: 0 };
    plain.then = decode(stream, rules, &mut policies, &mut plain).unwrap_or_else(|code_and_token| {
        let (code, token) = code_and_token;
        Then::End(named(rules.sender, code, token))
    });
    plain
}

/// The ending of this code and token: found among those there are, so that no reason is named twice.
fn named(sender: Sender, code: u16, token: &str) -> Ending {
    use super::{filter, frame};
    let code = CloseCode::of_frame(code).expect("a code");
    let all = [
        &frame::WEBSOCKET_RESERVED,
        &frame::WEBSOCKET_MASK,
        &frame::WEBSOCKET_LENGTH,
        &frame::WEBSOCKET_CONTROL,
        &frame::WEBSOCKET_CONTINUATION,
        &frame::WEBSOCKET_CLOSE,
        &filter::WEBSOCKET_TEXT,
        &filter::WEBSOCKET_MESSAGE_SIZE,
        &filter::WEBSOCKET_CONTROL_RATE,
        &BODY_SCHEMA,
    ];
    let reason = all.into_iter().find(|reason| reason.token.ends_with(token)).expect("a reason");
    let message = ["text", "message_size", "control_rate"].contains(&token);
    Ending::by(
        sender,
        code,
        match sender {
            Sender::Upstream if reason.code == BODY_SCHEMA.code => reason,
            Sender::Upstream if message => &filter::UPSTREAM_WEBSOCKET_MESSAGE,
            Sender::Upstream => &frame::UPSTREAM_WEBSOCKET_FRAME,
            Sender::Client => reason,
        },
    )
}

fn decode(
    stream: &[u8],
    rules: &Rules,
    policies: &mut Policies,
    plain: &mut Plain,
) -> Result<Then, (u16, &'static str)> {
    let deflate = rules.deflate && rules.look == Look::Heads;
    let mut open: Option<u8> = None;
    let mut message: Vec<u8> = Vec::new();
    let (mut declared, mut pings) = (0u64, 0);
    let mut at = 0;
    loop {
        (plain.frame_start, plain.passable) = (at, at);
        let Some(first) = stream.get(at) else { return Ok(Then::GoOn) };
        let opcode = first % 16;
        let control = opcode >= 8;
        if (3..8).contains(&opcode) || opcode > 10 || first >> 4 & 3 != 0 {
            return Err((1002, "reserved"));
        }
        if first >> 6 & 1 == 1 && !(deflate && (opcode == 1 || opcode == 2)) {
            return Err((1002, "reserved"));
        }
        let fin = first >> 7 == 1;
        if control && !fin {
            return Err((1002, "websocket_control"));
        }
        if !control && (opcode == 0 && open.is_none() || opcode > 0 && open.is_some()) {
            return Err((1002, "continuation"));
        }
        let Some(second) = stream.get(at + 1) else { return Ok(Then::GoOn) };
        if (second >> 7 == 1) != (rules.sender == Sender::Client) {
            return Err((1002, "mask"));
        }
        let mut length = u64::from(second % 128);
        if control && length > 125 {
            return Err((1002, "websocket_control"));
        }
        at += 2;
        let more = [2, 8, 0][usize::from(second % 128 != 126) + usize::from(second % 128 < 126)];
        if more > 0 {
            let Some(bytes) = stream.get(at..at + more) else { return Ok(Then::GoOn) };
            length = bytes.iter().fold(0, |length, byte| length << 8 | u64::from(*byte));
            if more == 2 && length < 126 || more == 8 && (length < 65_536 || length >> 63 == 1) {
                return Err((1002, "length"));
            }
            at += more;
        }
        let mut key = [0; 4];
        if rules.sender == Sender::Client {
            let Some(bytes) = stream.get(at..at + 4) else { return Ok(Then::GoOn) };
            key.copy_from_slice(bytes);
            at += 4;
        }
        let rest = &stream[at..];
        let here = rest.len().min(usize::try_from(length).unwrap_or(usize::MAX));
        let payload: Vec<u8> = rest[..here].iter().enumerate().map(|(i, byte)| byte ^ key[i % 4]).collect();
        let whole = here as u64 == length;
        if control {
            if !whole {
                return Ok(Then::GoOn);
            }
            at += here;
            if opcode != 8 {
                pings += 1;
                if pings > rules.control_burst {
                    return Err((1008, "control_rate"));
                }
                plain.events.push(Event::Control(opcode, payload));
                continue;
            }
            if payload.len() == 1 {
                return Err((1002, "websocket_close"));
            }
            if let [high, low, text @ ..] = &payload[..] {
                let code = u16::from(*high) * 256 + u16::from(*low);
                if !(1000..=4999).contains(&code)
                    || (1004..=1006).contains(&code)
                    || (1015..=2999).contains(&code)
                {
                    return Err((1002, "websocket_close"));
                }
                if std::str::from_utf8(text).is_err() {
                    return Err((1007, "websocket_close"));
                }
            }
            plain.passable = at;
            plain.events.push(Event::Control(opcode, payload));
            return Ok(Then::Closed);
        }
        if opcode > 0 {
            policies.admit(Kind::Text).map_err(|reason| (1008, reason.token))?;
            (open, declared) = (Some(opcode), 0);
            message.clear();
        }
        declared += length;
        if declared > rules.message_bytes_max {
            return Err((1009, "message_size"));
        }
        message.extend_from_slice(&payload);
        at += here;
        plain.passable = at;
        if open == Some(1) && rules.look >= Look::Text {
            let valid = match std::str::from_utf8(&message) {
                Ok(_) => true,
                Err(error) => error.error_len().is_none() && !(fin && whole),
            };
            if !valid {
                return Err((1007, "text"));
            }
        }
        if !whole {
            return Ok(Then::GoOn);
        }
        if fin {
            if rules.look == Look::Messages {
                policies.message(Kind::Text, &message).map_err(|reason| (1008, reason.token))?;
            }
            plain.events.push(Event::Message(open.take().unwrap_or_default(), std::mem::take(&mut message)));
        }
    }
}
