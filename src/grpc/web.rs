//! gRPC-Web and gRPC, translated into each other as the bytes go by (PROTOCOL-WEB).
//!
//! For: the pipeline, where a client speaks gRPC-Web and its upstream gRPC: what comes from the client passes [`TextDecoder`]
//! where it is text; what goes to it passes a [`Translator`], which ends it with the trailers. Messages lie alike in both
//! protocols ([`super::message`] walks them on the upstream's side of this). Not for: content types ([`super::style`]), CORS.
//!
//! Cost: in binary no byte of a message is touched or copied; text is decoded in place and encoded into the buffer it leaves
//! from. Nothing is held back but the bits of a character that do not make a byte yet, so that a stream is as prompt as its
//! upstream.

use base64_simd::STANDARD_NO_PAD;
use memchr::memchr;

use super::status::Status;
use super::style::Style;
use crate::http::{Known, Reason};

/// The body of a gRPC-Web call in text is not base64.
pub const GRPC_WEB_BASE64: Reason =
    Reason::client("grpc_web_base64", 2456, 400, "The gRPC-Web text is not base64");

/// The flag of the frame that holds the trailers (PROTOCOL-WEB, "Message framing").
pub const TRAILERS_FLAG: u8 = 0x80;
/// The longest trailers that are put into a frame; lines behind them are left out, and the status is never among them.
pub const TRAILERS_BYTES_MAX: usize = 64 << 10;

/// Decodes base64 in place, however it is cut. A text may end with padding anywhere and another begin behind it: who sends a
/// stream pads what it flushes (PROTOCOL-WEB, "Text-encoded (response) streams").
///
/// Strict otherwise: no white space, no other alphabet, no bits behind the end, always padded.
#[derive(Clone, Copy, Debug, Default)]
pub struct TextDecoder {
    /// Characters of the current group of four that have been taken.
    have: u8,
    /// Bits of them that have not been given out: 6, 4 or 2.
    bits: u8,
    /// One `=` has been taken, and another must follow.
    padded: bool,
}

impl TextDecoder {
    /// Decodes the next characters; the first so many bytes of `piece` are what they stand for. Each byte is given out with the
    /// character that completes it.
    ///
    /// # Errors
    /// [`GRPC_WEB_BASE64`]; the decoder and the piece are of no further use.
    pub fn decode(&mut self, piece: &mut [u8]) -> Result<usize, Reason> {
        let (mut read, mut written) = (0, 0);
        while read < piece.len() {
            if self.have == 0 {
                let rest = &piece[read..];
                // Groups that are whole and not padded, at once.
                let run = memchr(b'=', rest).unwrap_or(rest.len()) & !3;
                if run > 0 {
                    let text = &mut piece[read..read + run];
                    let bytes = STANDARD_NO_PAD.decode_inplace(text).map_err(|_| GRPC_WEB_BASE64)?.len();
                    piece.copy_within(read..read + bytes, written);
                    read += run;
                    written += bytes;
                    continue;
                }
            }
            if let Some(byte) = self.take(piece[read])? {
                // Never in front of `read`: a character gives at most one byte.
                piece[written] = byte;
                written += 1;
            }
            read += 1;
        }
        Ok(written)
    }

    /// Takes one character; gives the byte that it completes.
    fn take(&mut self, character: u8) -> Result<Option<u8>, Reason> {
        if character == b'=' {
            // RFC 4648 §3.5: bits behind the end may be refused where they are not zero.
            match (self.have, self.bits) {
                (2, 0) if !self.padded => self.padded = true,
                (2 | 3, 0) => *self = TextDecoder::default(),
                _ => return Err(GRPC_WEB_BASE64),
            }
            return Ok(None);
        }
        let value = match character {
            b'A'..=b'Z' => character - b'A',
            b'a'..=b'z' => character - b'a' + 26,
            b'0'..=b'9' => character - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return Err(GRPC_WEB_BASE64),
        };
        if self.padded {
            return Err(GRPC_WEB_BASE64);
        }
        let (byte, bits) = match self.have {
            0 => (None, value),
            1 => (Some(self.bits << 2 | value >> 4), value & 0b1111),
            2 => (Some(self.bits << 4 | value >> 2), value & 0b11),
            _ => (Some(self.bits << 6 | value), 0),
        };
        self.have = (self.have + 1) & 3;
        self.bits = bits;
        Ok(byte)
    }

    /// Tells that the body is over.
    ///
    /// # Errors
    /// It ended within a group.
    pub fn finish(&self) -> Result<(), Reason> {
        if self.have == 0 { Ok(()) } else { Err(GRPC_WEB_BASE64) }
    }
}

/// Base64 whose pieces decode on their own once they are flushed.
#[derive(Clone, Copy, Debug, Default)]
struct TextEncoder {
    held: [u8; 2],
    have: usize,
}

impl TextEncoder {
    fn push(&mut self, mut bytes: &[u8], out: &mut Vec<u8>) {
        while self.have > 0
            && let Some((&byte, rest)) = bytes.split_first()
        {
            bytes = rest;
            match self.held.get_mut(self.have) {
                Some(place) => {
                    *place = byte;
                    self.have += 1;
                }
                None => {
                    STANDARD_NO_PAD.encode_append([self.held[0], self.held[1], byte], out);
                    self.have = 0;
                }
            }
        }
        let (groups, rest) = bytes.split_at(bytes.len() - bytes.len() % 3);
        STANDARD_NO_PAD.encode_append(groups, out);
        for &byte in rest {
            self.held[self.have & 1] = byte;
            self.have += 1;
        }
    }

    fn flush(&mut self, out: &mut Vec<u8>) {
        let have = std::mem::take(&mut self.have);
        if let Some(held) = self.held.get(..have).filter(|held| !held.is_empty()) {
            STANDARD_NO_PAD.encode_append(held, out);
            out.extend_from_slice(&b"=="[..3 - have]);
        }
    }
}

/// The body of a response on its way to a client of gRPC-Web.
///
/// A response whose head has the status already (Trailers-Only) has no body, and needs no translator: it goes as it is, with
/// its content type rewritten.
#[derive(Clone, Copy, Debug)]
pub struct Translator {
    is_text: bool,
    ended: bool,
}

impl Translator {
    /// One for the style that the client wants. `None` for gRPC itself, where nothing is to be done.
    pub fn to(style: Style) -> Option<Translator> {
        style.is_web().then_some(Translator { is_text: style == Style::WebText, ended: false })
    }

    /// Whether data leave as they came, so that they need not pass [`Translator::data`].
    pub fn passes_data(&self) -> bool {
        !self.is_text
    }

    /// Appends what the client gets for these bytes of the body; as text it decodes on its own.
    pub fn data(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        debug_assert!(!self.ended, "trailers are the last frame");
        if !self.is_text {
            return out.extend_from_slice(piece);
        }
        let mut encoder = TextEncoder::default();
        encoder.push(piece, out);
        encoder.flush(out);
    }

    /// Appends the last frame: the trailers, lines `name: value` CR LF as codecs and [`super::Status::push`] make them. Names
    /// are lower case in it, as PROTOCOL-WEB, "HTTP wire protocols", demands; fields of connections are left out. Later
    /// trailers are ignored: there is one end.
    ///
    /// Only behind whole messages ([`super::Messages::at_boundary`]): elsewhere the client would take the frame for a part of
    /// one, and the body has to be cut.
    pub fn end(&mut self, trailers: &[u8], out: &mut Vec<u8>) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        // At most [`TRAILERS_BYTES_MAX`].
        let length = lines(trailers).map(|(name, value)| name.len() + value.len() + 4).sum::<usize>() as u32;
        let mut encoder = TextEncoder::default();
        let is_text = self.is_text;
        let mut put = |bytes: &[u8]| match is_text {
            true => encoder.push(bytes, out),
            false => out.extend_from_slice(bytes),
        };
        put(&[TRAILERS_FLAG]);
        put(&length.to_be_bytes());
        for (name, value) in lines(trailers) {
            let mut lower = [0; 64];
            for part in name.chunks(lower.len()) {
                let lower = &mut lower[..part.len()];
                lower.copy_from_slice(part);
                lower.make_ascii_lowercase();
                put(lower);
            }
            put(b": ");
            put(value);
            put(b"\r\n");
        }
        encoder.flush(out);
    }

    /// Whether the trailers have been written.
    pub fn has_ended(&self) -> bool {
        self.ended
    }
}

/// The fields of trailers that go into the frame: the status first, so that no other field can push it out.
fn lines(trailers: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut room = TRAILERS_BYTES_MAX;
    let status = fields(trailers).filter(|(name, _)| is_status(name)).take(1);
    let others = fields(trailers).filter(|(name, _)| !is_status(name));
    status.chain(others).take_while(move |(name, value)| {
        let left = room.checked_sub(name.len() + value.len() + 4);
        room = left.unwrap_or(0);
        left.is_some()
    })
}

fn is_status(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(super::status::STATUS_NAME.as_bytes())
}

fn fields(trailers: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    let mut rest = trailers;
    let lines = std::iter::from_fn(move || {
        let (line, after) = rest.split_at(memchr(b'\n', rest)?);
        rest = &after[1..];
        Some(line)
    });
    lines.filter_map(|line| {
        let line = line.strip_suffix(b"\r")?;
        let colon = memchr(b':', line).filter(|&at| at > 0)?;
        let (name, value) = line.split_at(colon);
        let known = Known::of(name);
        let goes = !known.is_framing() && !known.is_hop_by_hop();
        goes.then_some((name, value[1..].trim_ascii()))
    })
}

/// The status that trailers have: without one, an upstream has ended the call as it may not.
pub fn status_of(trailers: &[u8]) -> Option<Status> {
    fields(trailers).find(|(name, _)| is_status(name)).map(|(_, value)| Status::parse(value))
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::framed;
    use super::*;

    fn decoded(text: &[u8], cuts: &[usize]) -> Result<Vec<u8>, Reason> {
        let mut decoder = TextDecoder::default();
        let mut out = Vec::new();
        let mut from = 0;
        for &to in cuts.iter().chain([&text.len()]) {
            let mut piece = text[from..to].to_vec();
            let bytes = decoder.decode(&mut piece)?;
            out.extend_from_slice(&piece[..bytes]);
            from = to;
        }
        decoder.finish().map(|()| out)
    }

    #[test]
    fn text_is_decoded_wherever_it_is_cut() {
        // PROTOCOL-WEB "Text-encoded (response) streams": padding where a buffer was flushed. The vectors are RFC 4648 §10.
        for (text, expected) in [
            ("", ""),
            ("Zg==", "f"),
            ("Zm8=", "fo"),
            ("Zm9v", "foo"),
            ("Zm9vYg==", "foob"),
            ("Zm9vYmE=", "fooba"),
            ("Zm9vYmFy", "foobar"),
            ("Zg==Zg==", "ff"),
            ("Zm8=Zm9vYmFyZm9vYmFyZg==Zm9v", "fofoobarfoobarffoo"),
        ] {
            let text = text.as_bytes();
            for first in 0..=text.len() {
                for second in first..=text.len() {
                    let found = decoded(text, &[first, second]);
                    assert_eq!(found.as_deref(), Ok(expected.as_bytes()), "{first} {second}");
                }
            }
            let everywhere: Vec<usize> = (0..text.len()).collect();
            assert_eq!(decoded(text, &everywhere).as_deref(), Ok(expected.as_bytes()));
        }
    }

    #[test]
    fn what_is_not_base64_is_refused_wherever_it_is_cut() {
        for text in [
            "Z", "Zg", "Zg=", "Zm8", "=", "==", "====", "Z===", "Zg=a", "Zg=a====", "Zg===", "Zm8==",
            "Zm9v=", "Zh==", "Zm9=", "Zm9v\n", "Zm 9v", "Zm9-", "Zm9_", "Zm9v====", "\u{e9}", "Zm9v\0",
            "A===", "Zg= =",
        ] {
            let text = text.as_bytes();
            for cut in 0..=text.len() {
                assert_eq!(decoded(text, &[cut]), Err(GRPC_WEB_BASE64), "{text:?} {cut}");
            }
        }
    }

    #[test]
    fn text_is_encoded_in_pieces_that_decode_on_their_own() {
        for split in 0..=12 {
            let (first, second) = b"hello, world".split_at(split);
            let mut translator = Translator::to(Style::WebText).expect("web");
            assert!(!translator.passes_data());
            let (mut one, mut two) = (Vec::new(), Vec::new());
            translator.data(first, &mut one);
            translator.data(second, &mut two);
            let decode = |text: &[u8]| base64_simd::STANDARD.decode_to_vec(text).expect("base64");
            assert_eq!((&decode(&one)[..], &decode(&two)[..]), (first, second));
            assert_eq!(decoded(&[one, two].concat(), &[]).as_deref(), Ok(&b"hello, world"[..]));
        }
    }

    #[test]
    fn an_encoder_cut_anywhere_says_the_same() {
        let bytes: Vec<u8> = (0..40).collect();
        let whole = base64_simd::STANDARD.encode_to_string(&bytes);
        for first in 0..=bytes.len() {
            for second in first..=bytes.len() {
                let (mut encoder, mut out) = (TextEncoder::default(), Vec::new());
                for piece in [&bytes[..first], &bytes[first..second], &bytes[second..]] {
                    encoder.push(piece, &mut out);
                }
                encoder.flush(&mut out);
                assert_eq!(out, whole.as_bytes(), "{first} {second}");
            }
        }
    }

    const TRAILERS: &[u8] = b"Grpc-Message: not now\r\nX-Trace-Bin: AAEC\r\ngrpc-status: 14\r\n";
    const FRAME: &[u8] = b"grpc-status: 14\r\ngrpc-message: not now\r\nx-trace-bin: AAEC\r\n";

    #[test]
    fn trailers_are_the_last_frame() {
        // PROTOCOL-WEB "Message framing": flag 0x80, an HTTP/1 block without the final empty line, lower case.
        let expected = framed(TRAILERS_FLAG, FRAME);
        let mut binary = Translator::to(Style::Web).expect("web");
        assert!(binary.passes_data() && !binary.has_ended());
        let mut out = framed(0, b"message");
        binary.end(TRAILERS, &mut out);
        binary.end(TRAILERS, &mut out);
        assert!(binary.has_ended());
        assert_eq!(out, [framed(0, b"message"), expected.clone()].concat());
        let mut text = Translator::to(Style::WebText).expect("web");
        let mut out = Vec::new();
        text.end(TRAILERS, &mut out);
        assert_eq!(out, base64_simd::STANDARD.encode_to_string(expected).into_bytes());
        assert!(Translator::to(Style::Grpc).is_none());
    }

    #[test]
    fn only_what_belongs_to_the_call_is_in_the_frame() {
        let frame = |trailers: &[u8]| {
            let mut out = Vec::new();
            Translator::to(Style::Web).expect("web").end(trailers, &mut out);
            String::from_utf8(out.split_off(5)).expect("text")
        };
        let long = "N".repeat(200);
        for (trailers, expected) in [
            ("", ""),
            (
                "a: 1\r\nconnection: close\r\ntransfer-encoding: chunked\r\ncontent-length: 5\r\nb: 2\r\n",
                "a: 1\r\nb: 2\r\n",
            ),
            ("a:1\r\n", "a: 1\r\n"),
            ("a:\r\n", "a: \r\n"),
            ("a: x:y\r\n", "a: x:y\r\n"),
            (": 1\r\nno colon\r\ncut: off", ""),
            ("grpc-status: 0\r\ngrpc-status: 1\r\n", "grpc-status: 0\r\n"),
            (&format!("{long}: 1\r\n"), &format!("{}: 1\r\n", "n".repeat(200))),
        ] {
            assert_eq!(frame(trailers.as_bytes()), expected);
        }
        let huge = format!("a: {}\r\nb: 1\r\ngrpc-status: 7\r\n", "x".repeat(TRAILERS_BYTES_MAX));
        assert_eq!(frame(huge.as_bytes()), "grpc-status: 7\r\n");
    }

    #[test]
    fn a_missing_status_is_seen() {
        assert!(status_of(b"a: 1\r\nGRPC-Status: 0\r\n") == Some(Status::Ok));
        assert_eq!(status_of(b""), None);
        assert_eq!(status_of(b"a: grpc-status: 0\r\nx-grpc-status: 0\r\n"), None);
    }
}
