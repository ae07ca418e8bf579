//! The law of single frames (RFC 6455 §5): heads, in the order in which their bytes arrive, and the mask.
//!
//! For: the filter. Not for: what is in a message, sizes, rates, the payload of Close frames.
//!
//! A head is judged as far as it is there: a wrong first byte is refused before the second one arrives. Nothing is stored but
//! whether a message is open; whoever calls keeps the bytes of a head until they are all there.

use super::close::{CloseCode, Ending};
use crate::http::Reason;

/// A bit or an opcode that nobody has agreed upon.
pub const WEBSOCKET_RESERVED: Reason =
    Reason::client("websocket_reserved", 2420, 400, "A frame uses what is reserved");
/// A frame of a client that is not masked.
pub const WEBSOCKET_MASK: Reason = Reason::client("websocket_mask", 2421, 400, "A frame is not masked");
/// A length that is not written in the shortest form, or has its highest bit set.
pub const WEBSOCKET_LENGTH: Reason =
    Reason::client("websocket_length", 2422, 400, "The length of a frame is malformed");
/// A control frame that is fragmented or longer than 125 bytes.
pub const WEBSOCKET_CONTROL: Reason =
    Reason::client("websocket_control", 2423, 400, "A control frame is malformed");
/// A fragment without a beginning, or a message within another.
pub const WEBSOCKET_CONTINUATION: Reason =
    Reason::client("websocket_continuation", 2424, 400, "The fragments of a message are out of order");
/// A Close frame of one byte, with a code that may not travel, or with a text that is not UTF-8.
pub const WEBSOCKET_CLOSE: Reason =
    Reason::client("websocket_close", 2425, 400, "A Close frame is malformed");
/// The upstream broke the law of frames.
pub const UPSTREAM_WEBSOCKET_FRAME: Reason =
    Reason::upstream("upstream_websocket_frame", 4307, 502, "The upstream sent a malformed frame");

/// Longest head: two bytes, a length of eight, a mask of four.
pub const HEAD_BYTES_MAX: usize = 14;
/// Longest payload of a control frame (RFC 6455 §5.5).
pub const CONTROL_BYTES_MAX: usize = 125;

/// Whose frames these are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender {
    /// The client's; masked.
    Client,
    /// The upstream's; not masked.
    Upstream,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is the frame it spells")]
pub enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    /// RFC 6455 §5.2; `None` for the reserved ones.
    fn of(nibble: u8) -> Option<Opcode> {
        Some(match nibble {
            0x0 => Opcode::Continuation,
            0x1 => Opcode::Text,
            0x2 => Opcode::Binary,
            0x8 => Opcode::Close,
            0x9 => Opcode::Ping,
            0xa => Opcode::Pong,
            _ => return None,
        })
    }

    /// Whether frames of it may stand between the fragments of a message.
    #[inline]
    pub fn is_control(self) -> bool {
        matches!(self, Opcode::Close | Opcode::Ping | Opcode::Pong)
    }
}

/// How a frame is malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// A reserved bit or opcode.
    Reserved,
    /// Masked by the upstream, or not by the client.
    Mask,
    /// A length in another than the shortest form, or above 2^63 − 1.
    Length,
    /// A control frame that is long or fragmented.
    Control,
    /// Fragments out of order.
    Continuation,
    /// The payload of a Close frame.
    Close,
    /// The text in a Close frame.
    CloseText,
}

impl Flaw {
    /// What becomes of the tunnel (RFC 6455 §7.1.7: the connection is failed).
    #[cold]
    pub fn ending(self, sender: Sender) -> Ending {
        let reason = match (sender, self) {
            (Sender::Upstream, _) => &UPSTREAM_WEBSOCKET_FRAME,
            (_, Flaw::Reserved) => &WEBSOCKET_RESERVED,
            (_, Flaw::Mask) => &WEBSOCKET_MASK,
            (_, Flaw::Length) => &WEBSOCKET_LENGTH,
            (_, Flaw::Control) => &WEBSOCKET_CONTROL,
            (_, Flaw::Continuation) => &WEBSOCKET_CONTINUATION,
            (_, Flaw::Close | Flaw::CloseText) => &WEBSOCKET_CLOSE,
        };
        let code = match self {
            // RFC 6455 §8.1: text that is not UTF-8 fails the connection, and 1007 is its code.
            Flaw::CloseText => CloseCode::INVALID_DATA,
            _ => CloseCode::PROTOCOL_ERROR,
        };
        Ending::by(sender, code, reason)
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last frame of its message.
    pub fin: bool,
    /// RSV1: the message is compressed (RFC 7692).
    pub rsv1: bool,
    /// What it is.
    pub opcode: Opcode,
    /// Bytes of this head, 2–14.
    pub bytes: u8,
    /// Bytes of the payload.
    pub payload: u64,
    /// The mask.
    pub mask: Mask,
}

/// What the bytes at hand begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// A whole head.
    Head(Head),
    /// Nothing wrong so far; with this many bytes in all more can be said.
    More(usize),
}

/// The law that the frames of one direction obey.
#[derive(Clone, Copy, Debug)]
pub struct Law {
    sender: Sender,
    /// `permessage-deflate` was agreed upon.
    deflate: bool,
    /// The message that is open between two frames.
    open: Option<Opcode>,
}

impl Law {
    /// The law for `sender`, before its first frame. `deflate`: RSV1 has the meaning of RFC 7692.
    pub fn new(sender: Sender, deflate: bool) -> Law {
        Law { sender, deflate, open: None }
    }

    /// Judges the head that `bytes` begin with, as far as they go.
    ///
    /// # Errors
    /// The first flaw, in the order of the bytes.
    #[inline(always)]
    pub fn judge(&self, bytes: &[u8]) -> Result<Found, Flaw> {
        let Some(&first) = bytes.first() else { return Ok(Found::More(2)) };
        let (fin, rsv1) = (first & 0x80 != 0, first & 0x40 != 0);
        let opcode = Opcode::of(first & 0x0f).ok_or(Flaw::Reserved)?;
        // RFC 7692 §6: RSV1 stands on the first frame of a message. RFC 6455 §5.2: without an agreement nowhere.
        if first & 0x30 != 0 || rsv1 && !(self.deflate && matches!(opcode, Opcode::Text | Opcode::Binary)) {
            return Err(Flaw::Reserved);
        }
        // RFC 6455 §5.5: "MUST NOT be fragmented".
        if opcode.is_control() {
            if !fin {
                return Err(Flaw::Control);
            }
        } else if (opcode == Opcode::Continuation) != self.open.is_some() {
            // RFC 6455 §5.4: fragments of one message are not interleaved with those of another.
            return Err(Flaw::Continuation);
        }
        let Some(&second) = bytes.get(1) else { return Ok(Found::More(2)) };
        let masked = second & 0x80 != 0;
        // RFC 6455 §5.1: a server closes upon a frame that is not masked, a client upon one that is.
        if masked != (self.sender == Sender::Client) {
            return Err(Flaw::Mask);
        }
        let short = second & 0x7f;
        if opcode.is_control() && usize::from(short) > CONTROL_BYTES_MAX {
            return Err(Flaw::Control);
        }
        let length_end = match short {
            126 => 4,
            127 => 10,
            _ => 2,
        };
        // RFC 6455 §5.2: "the minimal number of bytes MUST be used", and the most significant bit is 0.
        let payload = match short {
            126 => {
                let Some(length) = bytes.get(2..).and_then(<[u8]>::first_chunk) else {
                    return Ok(Found::More(4));
                };
                let length = u64::from(u16::from_be_bytes(*length));
                if length < 126 {
                    return Err(Flaw::Length);
                }
                length
            }
            127 => {
                let Some(length) = bytes.get(2..).and_then(<[u8]>::first_chunk) else {
                    return Ok(Found::More(10));
                };
                let length = u64::from_be_bytes(*length);
                if length < 1 << 16 || length > i64::MAX as u64 {
                    return Err(Flaw::Length);
                }
                length
            }
            short => u64::from(short),
        };
        let mut head = Head { fin, rsv1, opcode, bytes: length_end, payload, mask: Mask::NONE };
        if masked {
            let end = usize::from(length_end);
            let Some(key) = bytes.get(end..).and_then(<[u8]>::first_chunk) else {
                return Ok(Found::More(end + 4));
            };
            head.mask = Mask::of(*key);
            head.bytes += 4;
        }
        Ok(Found::Head(head))
    }

    /// A frame that was judged has begun: what the next one must be.
    #[inline]
    pub fn begin(&mut self, head: &Head) {
        self.open = match head.opcode {
            _ if head.opcode.is_control() => self.open,
            _ if head.fin => None,
            Opcode::Continuation => self.open,
            first => Some(first),
        };
    }

    /// Judges the payload of a Close frame, which is not masked (any more).
    ///
    /// # Errors
    /// It is one byte, its code may not travel, or its text is not UTF-8.
    pub fn judge_close(payload: &[u8]) -> Result<(), Flaw> {
        match payload {
            // RFC 6455 §7.1.5: no code is `1005`, which is not said aloud.
            [] => Ok(()),
            [_] => Err(Flaw::Close),
            [high, low, text @ ..] => {
                CloseCode::of_frame(u16::from_be_bytes([*high, *low])).ok_or(Flaw::Close)?;
                // RFC 6455 §5.5.1: the text is UTF-8, and a frame holds all of it.
                std::str::from_utf8(text).map(drop).map_err(|_| Flaw::CloseText)
            }
        }
    }
}

/// Writes the head of a final frame to the front of `room` and returns how many bytes it has.
pub fn write_head(
    room: &mut [u8; HEAD_BYTES_MAX],
    opcode: Opcode,
    payload: usize,
    mask: Option<Mask>,
) -> usize {
    let masked = if mask.is_some() { 0x80 } else { 0 };
    room[0] = 0x80
        | match opcode {
            Opcode::Continuation => 0x0,
            Opcode::Text => 0x1,
            Opcode::Binary => 0x2,
            Opcode::Close => 0x8,
            Opcode::Ping => 0x9,
            Opcode::Pong => 0xa,
        };
    let end = match payload {
        0..=125 => {
            room[1] = masked | payload as u8;
            2
        }
        126..=0xffff => {
            room[1] = masked | 126;
            room[2..4].copy_from_slice(&(payload as u16).to_be_bytes());
            4
        }
        _ => {
            room[1] = masked | 127;
            room[2..10].copy_from_slice(&(payload as u64).to_be_bytes());
            10
        }
    };
    let Some(mask) = mask else { return end };
    room[end..end + 4].copy_from_slice(&mask.bytes());
    end + 4
}

/// The mask of the byte that is next (RFC 6455 §5.3): four bytes, over and over; zeros where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mask(u32);

impl Mask {
    /// No mask: frames of an upstream.
    pub const NONE: Mask = Mask(0);

    /// The mask whose first byte is the first of these.
    #[inline]
    pub fn of(key: [u8; 4]) -> Mask {
        Mask(u32::from_le_bytes(key))
    }

    /// Its bytes, as a head holds them.
    #[inline]
    pub fn bytes(self) -> [u8; 4] {
        self.0.to_le_bytes()
    }

    /// Whether it changes nothing.
    #[inline]
    pub fn is_none(self) -> bool {
        self.0 == 0
    }

    /// The mask of what lies `bytes` further on.
    #[inline]
    pub fn behind(self, bytes: usize) -> Mask {
        Mask(self.0.rotate_right(bytes as u32 % 4 * 8))
    }

    /// Masks `bytes`, or unmasks them. Eight at a time, which compilers make more.
    #[inline]
    pub fn apply(self, bytes: &mut [u8]) {
        if self.is_none() {
            return;
        }
        let word = self.word();
        let (words, rest) = bytes.as_chunks_mut::<8>();
        for bytes in words {
            *bytes = (u64::from_le_bytes(*bytes) ^ word).to_le_bytes();
        }
        for (byte, key) in rest.iter_mut().zip(word.to_le_bytes()) {
            *byte ^= key;
        }
    }

    /// The mask of eight bytes, the first in the lowest place.
    #[inline]
    pub(super) fn word(self) -> u64 {
        u64::from(self.0) << 32 | u64::from(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Law {
        Law::new(Sender::Upstream, false)
    }

    #[test]
    fn heads_are_read_at_every_length_and_wanted_byte_by_byte() {
        for payload in [0, 1, 125, 126, 127, 65_535, 65_536, 1 << 40] {
            for mask in [None, Some(Mask::of([1, 2, 3, 4]))] {
                let mut room = [0; HEAD_BYTES_MAX];
                let bytes = write_head(&mut room, Opcode::Binary, payload, mask);
                let law = Law::new(if mask.is_some() { Sender::Client } else { Sender::Upstream }, false);
                let mut wanted = 0;
                for at in 0..bytes {
                    let Ok(Found::More(more)) = law.judge(&room[..at]) else { panic!("{payload} at {at}") };
                    assert!(more > at && more <= bytes && more >= wanted, "{payload} at {at}: {more}");
                    wanted = more;
                }
                let head = Head {
                    fin: true,
                    rsv1: false,
                    opcode: Opcode::Binary,
                    bytes: bytes as u8,
                    payload: payload as u64,
                    mask: mask.unwrap_or_default(),
                };
                assert_eq!(law.judge(&room[..bytes]), Ok(Found::Head(head)));
                assert_eq!(law.judge(&room), Ok(Found::Head(head)), "what follows does not matter");
            }
        }
    }

    #[test]
    fn rfc_6455_5_2_the_shortest_length_is_the_only_one() {
        for (bytes, flaw) in [
            (&[0x82, 126, 0, 125][..], Some(Flaw::Length)),
            (&[0x82, 126, 0, 126], None),
            (&[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff], Some(Flaw::Length)),
            (&[0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0], None),
            (&[0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], None),
            (&[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], Some(Flaw::Length)),
        ] {
            assert_eq!(server().judge(bytes).err(), flaw, "{bytes:x?}");
        }
    }

    #[test]
    fn a_head_is_refused_at_its_first_wrong_byte() {
        assert_eq!(server().judge(&[0x83]), Err(Flaw::Reserved));
        assert_eq!(server().judge(&[0x09]), Err(Flaw::Control));
        assert_eq!(server().judge(&[0x80]), Err(Flaw::Continuation));
        assert_eq!(server().judge(&[0x81, 0x80]), Err(Flaw::Mask));
        assert_eq!(server().judge(&[0x89, 126]), Err(Flaw::Control));
        assert_eq!(Law::new(Sender::Client, false).judge(&[0x81, 0x00]), Err(Flaw::Mask));
    }

    #[test]
    fn masking_twice_changes_nothing_and_agrees_with_the_definition() {
        for len in 0..70 {
            let plain: Vec<u8> = (0..len).map(|i| (i * 7) as u8).collect();
            for behind in 0..8 {
                let mask = Mask::of([0x12, 0x34, 0x56, 0x78]).behind(behind);
                let mut masked = plain.clone();
                mask.apply(&mut masked);
                let defined = plain
                    .iter()
                    .enumerate()
                    .map(|(i, byte)| byte ^ [0x12, 0x34, 0x56, 0x78][(i + behind) % 4]);
                assert!(masked.iter().copied().eq(defined));
                mask.apply(&mut masked);
                assert_eq!(masked, plain);
            }
        }
    }
}
