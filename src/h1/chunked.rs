//! Bodies: which of the bytes behind a head belong to its message (RFC 9112 §6, §7).
//!
//! For: both directions; a message's [`Body`] is made from its [`BodyLength`] and fed with whatever arrives. Not for:
//! deciding the length ([`super::framing`]), limits on the body as a whole (the caller counts what it is given).
//!
//! Sans-IO and without copies: data are handed out as ranges of the input. Chunk extensions are checked and dropped,
//! as RFC 9112 §7.1.1 allows: what we send is framed anew. Trailers are kept (at most [`TRAILER_BYTES_MAX`]), as lines
//! ready to be written behind our own last chunk.

use std::mem;

use super::{
    flaw::{Flaw, Side},
    parse::{Line, field_line},
};
use crate::http::{BodyLength, Reason, forward::is_forbidden_trailer, scan::NAME};

/// Longest trailer section in bytes, its line ends included.
pub const TRAILER_BYTES_MAX: usize = 8 << 10;
/// Most fields in a trailer section.
pub const TRAILER_FIELDS_MAX: u8 = 64;
/// Longest extensions of one chunk in bytes.
pub const EXTENSION_BYTES_MAX: u32 = 256;
/// Longest extensions of all chunks of one message in bytes.
pub const EXTENSIONS_BYTES_MAX: u32 = 64 << 10;
/// Most digits of a chunk size, leading zeros included.
pub const CHUNK_SIZE_DIGITS_MAX: u8 = 16;

/// What a call of `decode` came to. Offsets are into that call's input; the caller drops `consumed` bytes of it and
/// calls again with the rest (unless `NeedMore` or `End`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// `input[start..end]` is data of the body, never empty.
    Data {
        /// First byte of data.
        start: usize,
        /// One past the last byte of data.
        end: usize,
        /// Bytes of the input that are dealt with.
        consumed: usize,
    },
    /// The input is used up (`consumed` is its length) and the body goes on.
    NeedMore {
        /// Bytes of the input that are dealt with.
        consumed: usize,
    },
    /// The body is over; the rest of the input belongs to the next message.
    End {
        /// Bytes of the input that are dealt with.
        consumed: usize,
    },
}

/// A message's body while it is read.
#[derive(Clone, Debug, Default)]
pub enum Body {
    /// There is none.
    #[default]
    None,
    /// This many bytes are still to come.
    Length {
        /// Bytes still to come.
        left: u64,
        /// Who sends it.
        side: Side,
    },
    /// Chunks are still to come, or the last has been.
    Chunked(Chunked),
    /// Whatever comes until the connection closes, which has happened if `closed`.
    UntilClose {
        /// The connection has closed: the body is over.
        closed: bool,
    },
}

impl Body {
    /// The body of a request, from [`crate::http::RequestTable::framing`].
    pub fn of_request(framing: BodyLength) -> Body {
        Body::new(framing, Side::Client)
    }

    /// The body of a response, from [`crate::http::ResponseTable::framing`].
    pub fn of_response(framing: BodyLength) -> Body {
        Body::new(framing, Side::Upstream)
    }

    fn new(framing: BodyLength, side: Side) -> Body {
        match framing {
            BodyLength::None => Body::None,
            BodyLength::Length(left) => Body::Length { left, side },
            BodyLength::Chunked => Body::Chunked(Chunked::new(side)),
            BodyLength::UntilClose => Body::UntilClose { closed: false },
        }
    }

    /// Says what the next bytes are. An empty input is fine.
    ///
    /// # Errors
    /// The reason to cut the message with; only chunked bodies have any.
    #[inline]
    pub fn decode(&mut self, input: &[u8]) -> Result<Step, Reason> {
        match self {
            Body::None => Ok(Step::End { consumed: 0 }),
            Body::Length { left: 0, .. } => Ok(Step::End { consumed: 0 }),
            Body::Length { left, .. } => {
                let end = usize::try_from(*left).unwrap_or(usize::MAX).min(input.len());
                *left -= end as u64;
                Ok(data(0, end))
            }
            Body::Chunked(chunked) => chunked.decode(input),
            Body::UntilClose { closed: true } => Ok(Step::End { consumed: 0 }),
            Body::UntilClose { closed: false } => Ok(data(0, input.len())),
        }
    }

    /// Bytes that are still to come, where that is known.
    #[inline]
    pub fn left(&self) -> Option<u64> {
        match self {
            Body::Length { left, .. } => Some(*left),
            _ => None,
        }
    }

    /// Tells that the sender has closed its side.
    ///
    /// # Errors
    /// The body was not over: what was sent is a fragment and must not pass for the whole (RFC 9112 §8).
    pub fn close(&mut self) -> Result<(), Reason> {
        if let Body::UntilClose { closed } = self {
            *closed = true;
        }
        let side = match self {
            _ if self.is_complete() => return Ok(()),
            Body::Length { side, .. } => *side,
            Body::Chunked(chunked) => chunked.side,
            Body::None | Body::UntilClose { .. } => Side::Upstream,
        };
        Err(Flaw::BodyTruncated.of(side))
    }

    /// Whether the last byte of the body has been decoded.
    #[inline]
    pub fn is_complete(&self) -> bool {
        match self {
            Body::None | Body::Length { left: 0, .. } => true,
            Body::Length { .. } => false,
            Body::Chunked(chunked) => chunked.is_complete(),
            Body::UntilClose { closed } => *closed,
        }
    }

    /// The trailers received, as lines `Name: value` CRLF without the final empty line; empty before the end.
    pub fn trailers(&self) -> &[u8] {
        match self {
            Body::Chunked(chunked) => chunked.trailers(),
            _ => &[],
        }
    }
}

/// A range of data, or the need for more where it is empty.
#[inline(always)]
fn data(start: usize, end: usize) -> Step {
    if start == end { Step::NeedMore { consumed: end } } else { Step::Data { start, end, consumed: end } }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the digits of a chunk size.
    Size,
    /// Behind the `;` of an extension.
    ExtensionStart,
    /// In an extension's name.
    ExtensionName,
    /// Behind the `=` of an extension.
    ExtensionValue,
    /// In an extension's value, a token.
    ExtensionToken,
    /// In an extension's value, a quoted string.
    ExtensionQuoted,
    /// Behind a backslash in a quoted string.
    ExtensionPair,
    /// Behind the closing quote.
    ExtensionEnd,
    /// Behind the CR of a chunk's first line.
    SizeLineFeed,
    /// In the data.
    Data,
    /// Behind the data.
    DataReturn,
    /// Behind the CR behind the data.
    DataLineFeed,
    /// In the trailer section.
    Trailers,
    /// Behind the final empty line.
    Done,
}

/// A decoder of `chunked` (RFC 9112 §7.1). 64 bytes; allocates only if trailers come.
#[derive(Clone, Debug)]
pub struct Chunked {
    state: State,
    side: Side,
    digits: u8,
    trailer_fields: u8,
    extension_bytes: u32,
    extensions_bytes: u32,
    line_start: u32,
    /// Of the size while it is read, then of the data still to come.
    left: u64,
    trailers: Vec<u8>,
}

impl Chunked {
    /// A decoder at the start of a body that `side` sends.
    pub fn new(side: Side) -> Chunked {
        Chunked {
            state: State::Size,
            side,
            digits: 0,
            trailer_fields: 0,
            extension_bytes: 0,
            extensions_bytes: 0,
            line_start: 0,
            left: 0,
            trailers: Vec::new(),
        }
    }

    /// Whether the final empty line has been decoded.
    #[inline]
    pub fn is_complete(&self) -> bool {
        self.state == State::Done
    }

    /// See [`Body::trailers`].
    pub fn trailers(&self) -> &[u8] {
        if self.is_complete() { &self.trailers } else { &[] }
    }

    /// Says what the next bytes are.
    ///
    /// # Errors
    /// The reason to cut the message with. The decoder must not be used after that.
    #[inline]
    pub fn decode(&mut self, input: &[u8]) -> Result<Step, Reason> {
        let mut at = 0;
        while let Some(&byte) = input.get(at) {
            match self.state {
                State::Data => {
                    let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(input.len() - at);
                    self.left -= len as u64;
                    if self.left == 0 {
                        self.state = State::DataReturn;
                    }
                    return Ok(data(at, at + len));
                }
                State::Size => match HEXADECIMAL[usize::from(byte)] {
                    digit @ 0..16 => {
                        self.digits += 1;
                        // RFC 9112 §7.1: "recipients MUST anticipate potentially large hexadecimal numerals".
                        if self.digits > CHUNK_SIZE_DIGITS_MAX || self.left > (i64::MAX as u64) >> 4 {
                            return Err(Flaw::ChunkOverflow.of(self.side));
                        }
                        self.left = self.left << 4 | u64::from(digit);
                    }
                    _ if self.digits == 0 => return Err(Flaw::ChunkSize.of(self.side)),
                    _ => match byte {
                        b'\r' => self.state = State::SizeLineFeed,
                        b';' => {
                            self.extension_bytes = 0;
                            self.state = State::ExtensionStart;
                        }
                        _ => return Err(Flaw::ChunkSize.of(self.side)),
                    },
                },
                State::SizeLineFeed => {
                    if byte != b'\n' {
                        return Err(Flaw::LineEnding.of(self.side));
                    }
                    self.digits = 0;
                    self.state = if self.left == 0 { State::Trailers } else { State::Data };
                }
                State::DataReturn => {
                    if byte != b'\r' {
                        return Err(Flaw::ChunkEnding.of(self.side));
                    }
                    self.state = State::DataLineFeed;
                }
                State::DataLineFeed => {
                    if byte != b'\n' {
                        return Err(Flaw::ChunkEnding.of(self.side));
                    }
                    self.state = State::Size;
                }
                State::Trailers => {
                    at += self.take_trailers(&input[at..])?;
                    continue;
                }
                State::Done => return Ok(Step::End { consumed: at }),
                _ => self.extension(byte)?,
            }
            at += 1;
        }
        Ok(if self.is_complete() { Step::End { consumed: at } } else { Step::NeedMore { consumed: at } })
    }

    /// RFC 9112 §7.1.1: `*( ";" chunk-ext-name [ "=" ( token / quoted-string ) ] )`, without the "bad white space" that
    /// nobody may send, and bounded.
    #[inline(never)]
    fn extension(&mut self, byte: u8) -> Result<(), Reason> {
        self.extension_bytes += 1;
        self.extensions_bytes += 1;
        if self.extension_bytes > EXTENSION_BYTES_MAX || self.extensions_bytes > EXTENSIONS_BYTES_MAX {
            return Err(Flaw::ChunkExtensionSize.of(self.side));
        }
        let token = NAME[usize::from(byte)] != 0;
        let text = byte == b'\t' || byte >= b' ' && byte != 0x7f;
        self.state = match (self.state, byte) {
            (State::ExtensionStart | State::ExtensionName, _) if token => State::ExtensionName,
            (State::ExtensionName, b'=') => State::ExtensionValue,
            (State::ExtensionValue, b'"') => State::ExtensionQuoted,
            (State::ExtensionValue | State::ExtensionToken, _) if token => State::ExtensionToken,
            (State::ExtensionQuoted, b'"') => State::ExtensionEnd,
            (State::ExtensionQuoted, b'\\') => State::ExtensionPair,
            (State::ExtensionQuoted | State::ExtensionPair, _) if text => State::ExtensionQuoted,
            (State::ExtensionName | State::ExtensionToken | State::ExtensionEnd, b';') => {
                State::ExtensionStart
            }
            (State::ExtensionName | State::ExtensionToken | State::ExtensionEnd, b'\r') => {
                State::SizeLineFeed
            }
            (_, b'\n') => return Err(Flaw::LineEnding.of(self.side)),
            _ => return Err(Flaw::ChunkExtension.of(self.side)),
        };
        Ok(())
    }

    /// Takes one line of the trailer section, or what of it is there; says how many bytes that were.
    #[inline(never)]
    fn take_trailers(&mut self, input: &[u8]) -> Result<usize, Reason> {
        // The usual case: no trailers, and the empty line has arrived with the last chunk.
        if self.trailers.is_empty() && input.starts_with(b"\r\n") {
            self.state = State::Done;
            return Ok(2);
        }
        let found = memchr::memchr(b'\n', input);
        let taken = found.map_or(input.len(), |end| end + 1);
        if self.trailers.len() + taken > TRAILER_BYTES_MAX {
            return Err(Flaw::TrailerSize.of(self.side));
        }
        self.trailers.extend_from_slice(&input[..taken]);
        if found.is_some() {
            self.finish_trailer_line()?;
        }
        Ok(taken)
    }

    /// Checks the line at `line_start` and puts it into the form in which it is sent on.
    fn finish_trailer_line(&mut self) -> Result<(), Reason> {
        let start = self.line_start as usize;
        match field_line(&self.trailers, start, true, self.side)? {
            Line::Empty => {
                self.trailers.truncate(start);
                self.state = State::Done;
            }
            Line::Field { field, regular, .. } => {
                self.trailer_fields += 1;
                if self.trailer_fields > TRAILER_FIELDS_MAX {
                    return Err(Flaw::TrailerSize.of(self.side));
                }
                if is_forbidden_trailer(field.name().of(&self.trailers)) {
                    return Err(Flaw::TrailerForbidden.of(self.side));
                }
                if !regular {
                    let sent = mem::take(&mut self.trailers);
                    self.trailers.reserve(sent.len() + 1);
                    self.trailers.extend_from_slice(&sent[..start]);
                    self.trailers.extend_from_slice(field.name().of(&sent));
                    self.trailers.extend_from_slice(b": ");
                    self.trailers.extend_from_slice(field.value().of(&sent));
                    self.trailers.extend_from_slice(b"\r\n");
                }
                self.line_start = self.trailers.len() as u32;
            }
            // The line holds its LF, so that it cannot be incomplete; it would be a flaw to read on.
            Line::More => return Err(Flaw::LineEnding.of(self.side)),
        }
        Ok(())
    }
}

/// The value of a hexadecimal digit; 255 for other bytes.
const HEXADECIMAL: [u8; 256] = {
    let mut table = [255; 256];
    let mut i = 0;
    while i < 256 {
        let byte = i as u8;
        table[i] = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            b'A'..=b'F' => byte - b'A' + 10,
            _ => 255,
        };
        i += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::laws;

    /// Content, trailers and what is left over; or the token of the refusal; `partial` if the body goes on.
    fn decode(bytes: &[u8]) -> Result<(Vec<u8>, String, Vec<u8>), &'static str> {
        for cut in 0..9 {
            laws::chunked(&[&[1, cut][..], bytes].concat());
            laws::chunked(&[&[2, cut][..], bytes].concat());
        }
        let mut body = Body::of_request(BodyLength::Chunked);
        let mut content = Vec::new();
        let mut rest = bytes;
        loop {
            match body.decode(rest).map_err(|reason| reason.token)? {
                Step::Data { start, end, consumed } => {
                    content.extend_from_slice(&rest[start..end]);
                    rest = &rest[consumed..];
                }
                Step::NeedMore { .. } => return Err("partial"),
                Step::End { consumed } => {
                    let trailers = String::from_utf8_lossy(body.trailers()).into_owned();
                    return Ok((content, trailers, rest[consumed..].to_vec()));
                }
            }
        }
    }

    #[test]
    fn chunks_become_content() {
        for (bytes, content, rest) in [
            ("0\r\n\r\n", "", ""),
            ("5\r\nhello\r\n0\r\n\r\nGET", "hello", "GET"),
            ("3\r\nabc\r\nA\r\n0123456789\r\n0\r\n\r\n", "abc0123456789", ""),
            ("00000003\r\nabc\r\n000\r\n\r\n", "abc", ""),
            ("1;a\r\nx\r\n1;a=b;c=\"d;\\\"\\\\ \t\"\r\ny\r\n0;e\r\n\r\n", "xy", ""),
            ("2\r\n\r\n\r\n0\r\n\r\n", "\r\n", ""),
        ] {
            let expected = (content.as_bytes().to_vec(), String::new(), rest.as_bytes().to_vec());
            assert_eq!(decode(bytes.as_bytes()), Ok(expected), "{bytes:?}");
            let end = bytes.len() - rest.len();
            for len in 0..end {
                assert_eq!(decode(&bytes.as_bytes()[..len]), Err("partial"), "{bytes:?} {len}");
            }
        }
    }

    #[test]
    fn chunk_framing_is_exact() {
        for (bytes, reason) in [
            ("\r\n", "chunk_size_syntax"),
            ("\n", "chunk_size_syntax"),
            ("g\r\n", "chunk_size_syntax"),
            (" 5\r\n", "chunk_size_syntax"),
            ("5 \r\n", "chunk_size_syntax"),
            ("5\t\r\n", "chunk_size_syntax"),
            ("5 ;a\r\n", "chunk_size_syntax"),
            ("+5\r\n", "chunk_size_syntax"),
            ("-1\r\n", "chunk_size_syntax"),
            ("0x5\r\n", "chunk_size_syntax"),
            ("5_0\r\n", "chunk_size_syntax"),
            ("5,5\r\n", "chunk_size_syntax"),
            ("5\n", "chunk_size_syntax"),
            ("5\r5", "line_ending"),
            ("5\r\r\n", "line_ending"),
            ("0\n\r\n", "chunk_size_syntax"),
            ("0\r\n\n", "line_ending"),
            ("0\r\n\rX", "partial"),
            ("0\r\n\rX\n", "line_ending"),
            ("5\r\nhelloX", "chunk_ending"),
            ("5\r\nhello\n", "chunk_ending"),
            ("5\r\nhello\rX", "chunk_ending"),
            ("5\r\nhello0\r\n", "chunk_ending"),
            ("5\r\nhello\r\n\r\n", "chunk_size_syntax"),
            ("FFFFFFFFFFFFFFFF\r\n", "chunk_size_overflow"),
            ("8000000000000000\r\n", "chunk_size_overflow"),
            ("10000000000000005\r\n", "chunk_size_overflow"),
            ("00000000000000005\r\n", "chunk_size_overflow"),
            ("5;\r\n", "chunk_extension_syntax"),
            ("5; a\r\n", "chunk_extension_syntax"),
            ("5;a \r\n", "chunk_extension_syntax"),
            ("5;=b\r\n", "chunk_extension_syntax"),
            ("5;a=\r\n", "chunk_extension_syntax"),
            ("5;a==b\r\n", "chunk_extension_syntax"),
            ("5;a=b=c\r\n", "chunk_extension_syntax"),
            ("5;a=\"b\r\n", "chunk_extension_syntax"),
            ("5;a=\"b\"c\r\n", "chunk_extension_syntax"),
            ("5;a=\"b\\\r\n", "chunk_extension_syntax"),
            ("5;a\0\r\n", "chunk_extension_syntax"),
            ("5;a=\"\u{7f}\"\r\n", "chunk_extension_syntax"),
            ("5;a\n", "line_ending"),
            ("5;a\nhello\r\n", "line_ending"),
            ("5;a\rX", "line_ending"),
            ("5;\n", "line_ending"),
            ("5;a=\"\n\"\r\n", "line_ending"),
        ] {
            assert_eq!(decode(bytes.as_bytes()), Err(reason), "{bytes:?}");
        }
        assert_eq!(decode(b"7FFFFFFFFFFFFFFF\r\n"), Err("partial"));
        assert_eq!(decode(b"0000000000000005\r\n"), Err("partial"));
    }

    #[test]
    fn extensions_have_bounds() {
        let bytes = |len: usize| format!("1;{}\r\nx\r\n0\r\n\r\n", "a".repeat(len));
        // The CR counts too.
        assert!(decode(bytes(254).as_bytes()).is_ok());
        assert!(decode(bytes(255).as_bytes()).is_ok());
        assert_eq!(decode(bytes(256).as_bytes()), Err("chunk_extension_size"));
        let bytes = |chunks: usize| format!("1;{}\r\nx\r\n", "a".repeat(255)).repeat(chunks);
        assert_eq!(decode(bytes(256).as_bytes()), Err("partial"));
        assert_eq!(decode(bytes(257).as_bytes()), Err("chunk_extension_size"));
    }

    #[test]
    fn trailers_are_kept_in_one_form() {
        let (_, trailers, rest) =
            decode(b"1\r\nx\r\n0\r\nX-Sum:1\r\nGrpc-Status: 0\r\ny_z:\r\n\r\nGET").unwrap();
        assert_eq!(trailers, "X-Sum: 1\r\nGrpc-Status: 0\r\ny_z: \r\n");
        assert_eq!(rest, b"GET");
        for (line, reason) in [
            ("Content-Length: 5", "trailer_forbidden"),
            ("transfer-encoding: chunked", "trailer_forbidden"),
            ("Content_Length: 5", "trailer_forbidden"),
            ("Host: a", "trailer_forbidden"),
            ("Authorization: a", "trailer_forbidden"),
            ("X-User: a", "trailer_forbidden"),
            ("X-Forwarded-For: a", "trailer_forbidden"),
            (" X: folded", "field_folded"),
            ("X : a", "field_name_space"),
            ("X", "field_name_syntax"),
            ("X: \0", "field_value_control"),
            ("X: a\rb", "line_ending"),
            ("X: a\nY: b", "line_ending"),
        ] {
            assert_eq!(decode(format!("0\r\n{line}\r\n\r\n").as_bytes()), Err(reason), "{line:?}");
        }
    }

    #[test]
    fn trailers_have_bounds() {
        let bytes = |len: usize| format!("0\r\nX: {}\r\n\r\n", "a".repeat(len - 7));
        assert!(decode(bytes(TRAILER_BYTES_MAX - 1).as_bytes()).is_ok());
        assert!(decode(bytes(TRAILER_BYTES_MAX).as_bytes()).is_ok());
        assert_eq!(decode(bytes(TRAILER_BYTES_MAX + 1).as_bytes()), Err("trailer_size"));
        let unended = format!("0\r\nX: {}", "a".repeat(TRAILER_BYTES_MAX));
        assert_eq!(decode(unended.as_bytes()), Err("trailer_size"));
        let bytes = |count: usize| format!("0\r\n{}\r\n", "X: a\r\n".repeat(count));
        assert!(decode(bytes(63).as_bytes()).is_ok());
        assert!(decode(bytes(64).as_bytes()).is_ok());
        assert_eq!(decode(bytes(65).as_bytes()), Err("trailer_size"));
    }

    #[test]
    fn a_length_is_exact() {
        let mut body = Body::of_request(BodyLength::Length(5));
        assert_eq!(body.decode(b""), Ok(Step::NeedMore { consumed: 0 }));
        assert_eq!(body.decode(b"abc"), Ok(Step::Data { start: 0, end: 3, consumed: 3 }));
        assert!(!body.is_complete());
        assert_eq!(body.clone().close().unwrap_err().token, "body_truncated");
        assert_eq!(body.decode(b"deGET /"), Ok(Step::Data { start: 0, end: 2, consumed: 2 }));
        assert!(body.is_complete() && body.close().is_ok());
        assert_eq!(body.decode(b"GET /"), Ok(Step::End { consumed: 0 }));
        for framing in [BodyLength::None, BodyLength::Length(0)] {
            let mut body = Body::of_response(framing);
            assert!(body.is_complete());
            assert_eq!(body.decode(b"HTTP"), Ok(Step::End { consumed: 0 }));
        }
    }

    #[test]
    fn a_body_until_close_ends_with_the_connection_and_others_are_cut_by_it() {
        let mut body = Body::of_response(BodyLength::UntilClose);
        assert_eq!(body.decode(b"abc"), Ok(Step::Data { start: 0, end: 3, consumed: 3 }));
        assert!(!body.is_complete());
        assert!(body.close().is_ok() && body.is_complete());
        assert_eq!(body.decode(b"abc"), Ok(Step::End { consumed: 0 }));
        let mut body = Body::of_response(BodyLength::Chunked);
        assert_eq!(body.decode(b"3\r\nab"), Ok(Step::Data { start: 3, end: 5, consumed: 5 }));
        assert_eq!(body.close().unwrap_err().token, "response_body_truncated");
        let mut body = Body::of_response(BodyLength::Length(1));
        assert_eq!(body.close().unwrap_err().status, 502);
    }
}
