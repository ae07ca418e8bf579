//! Frames of WebSocket (RFC 6455), as far as messages that come back need them.
//!
//! Sans-IO. Called by `client`, which masks its frames beforehand, and by `backend`, which sends them back. Not for: extensions,
//! closing in order.

use base64_simd::STANDARD;
use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

/// The key of every handshake of ours: the sample of RFC 6455 §1.3.
pub const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
/// The longest head of a frame.
pub const HEAD_BYTES_MAX: usize = 14;

/// A message in parts goes on.
pub const CONTINUATION: u8 = 0x0;
/// A message of bytes.
pub const BINARY: u8 = 0x2;
/// The end.
pub const CLOSE: u8 = 0x8;
/// Is anybody there?
pub const PING: u8 = 0x9;
/// Yes.
pub const PONG: u8 = 0xa;

const FIN: u8 = 0x80;
const MASKED: u8 = 0x80;

/// The head of a frame (RFC 6455 §5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The message ends with it.
    pub fin: bool,
    /// What it is.
    pub opcode: u8,
    /// What its payload is masked with.
    pub mask: Option<[u8; 4]>,
    /// Bytes of its payload.
    pub length: u64,
}

impl Head {
    /// Reads one, and says how many bytes it has; `None` if more must come.
    pub fn parse(bytes: &[u8]) -> Option<(Self, usize)> {
        let (first, second) = (*bytes.first()?, *bytes.get(1)?);
        let (length, at) = match second & 0x7f {
            126 => (u64::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?)), 4),
            127 => (u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?), 10),
            length => (u64::from(length), 2),
        };
        let (mask, at) = if second & MASKED == 0 {
            (None, at)
        } else {
            (Some(bytes.get(at..at + 4)?.try_into().ok()?), at + 4)
        };
        Some((Self { fin: first & FIN != 0, opcode: first & 0x0f, mask, length }, at))
    }

    /// Writes it.
    pub fn push(&self, out: &mut Vec<u8>) {
        out.push(self.opcode | if self.fin { FIN } else { 0 });
        let masked = if self.mask.is_some() { MASKED } else { 0 };
        match self.length {
            length @ ..126 => out.push(masked | length as u8),
            length @ 126..=0xffff => {
                out.push(masked | 126);
                out.extend_from_slice(&(length as u16).to_be_bytes());
            }
            length => {
                out.push(masked | 127);
                out.extend_from_slice(&length.to_be_bytes());
            }
        }
        out.extend(self.mask.into_iter().flatten());
    }
}

/// A message in one frame, as a client sends it. The mask is always the same: nothing here can be mistaken for HTTP.
pub fn message(payload: &[u8]) -> Vec<u8> {
    let mask = [0x37, 0xfa, 0x21, 0x3d];
    let head = Head { fin: true, opcode: BINARY, mask: Some(mask), length: payload.len() as u64 };
    let mut frame = Vec::with_capacity(payload.len() + HEAD_BYTES_MAX);
    head.push(&mut frame);
    let at = frame.len();
    frame.extend_from_slice(payload);
    unmask(&mut frame[at..], mask, 0);
    frame
}

/// Masks or unmasks bytes of a payload (RFC 6455 §5.3), of which `before` came earlier.
pub fn unmask(bytes: &mut [u8], mut mask: [u8; 4], before: u64) {
    mask.rotate_left((before % 4) as usize);
    let [a, b, c, d] = mask;
    let whole = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut words = bytes.chunks_exact_mut(8);
    for word in &mut words {
        if let Ok(value) = <[u8; 8]>::try_from(&*word) {
            word.copy_from_slice(&(u64::from_ne_bytes(value) ^ whole).to_ne_bytes());
        }
    }
    for (byte, mask) in words.into_remainder().iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= mask;
    }
}

/// What a server answers to a key (RFC 6455 §4.2.2).
pub fn accept(key: &[u8]) -> String {
    let joined = [key, b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"].concat();
    STANDARD.encode_to_string(digest(&SHA1_FOR_LEGACY_USE_ONLY, &joined))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_samples_of_the_rfc_are_read_and_written() {
        assert_eq!(accept(KEY.as_bytes()), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        // RFC 6455 §5.7.
        let masked = [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58];
        let (head, at) = Head::parse(&masked).unwrap();
        let mut payload = masked[at..].to_vec();
        unmask(&mut payload, head.mask.unwrap(), 0);
        assert_eq!((head.fin, head.opcode, head.length, &payload[..]), (true, 1, 5, &b"Hello"[..]));
        for (length, bytes) in
            [(256u64, &[0x82u8, 0x7e, 1, 0][..]), (65_536, &[0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0])]
        {
            let head = Head { fin: true, opcode: BINARY, mask: None, length };
            let mut written = Vec::new();
            head.push(&mut written);
            assert_eq!(written, bytes);
            assert_eq!(Head::parse(bytes), Some((head, bytes.len())));
            assert!((0..bytes.len()).all(|cut| Head::parse(&bytes[..cut]).is_none()));
        }
    }

    #[test]
    fn a_payload_is_unmasked_wherever_it_is_cut() {
        let payload: Vec<u8> = (0..100).collect();
        let frame = message(&payload);
        let (head, at) = Head::parse(&frame).unwrap();
        for cut in 0..payload.len() {
            let mut bytes = frame[at..].to_vec();
            let (first, second) = bytes.split_at_mut(cut);
            unmask(first, head.mask.unwrap(), 0);
            unmask(second, head.mask.unwrap(), cut as u64);
            assert_eq!(bytes, payload);
        }
    }
}
