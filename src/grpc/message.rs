//! Where the messages of a call begin and end (PROTOCOL-HTTP2, "Requests", Length-Prefixed-Message).
//!
//! For: whoever passes the body of a call on, in either direction: each piece is walked before it leaves, and leaves as it
//! came. Not for: what stands in a message, nor decompressing it: the size of a compressed message is that of its compressed
//! form.
//!
//! Cost: per piece a few compares, per message a load of its prefix; no byte of a message is touched, nothing is copied or
//! held. A walker is 40 bytes.

use crate::http::{FieldTable, Reason};

/// A flag of a request's message that is neither 0 nor 1.
pub const GRPC_MESSAGE_FLAG: Reason =
    Reason::client("grpc_message_flag", 2451, 400, "A gRPC message has an unknown flag");
/// A compressed message in a request that does not say how it is compressed.
pub const GRPC_MESSAGE_COMPRESSED: Reason =
    Reason::client("grpc_message_compressed", 2452, 400, "A gRPC message is compressed and nothing says how");
/// A message of a request that is longer than its operation allows.
pub const GRPC_MESSAGE_SIZE: Reason =
    Reason::client("grpc_message_size", 2453, 413, "A gRPC message is too large");
/// A request that ends within a message.
pub const GRPC_MESSAGE_TRUNCATED: Reason =
    Reason::client("grpc_message_truncated", 2454, 400, "The last gRPC message is incomplete");

/// As [`GRPC_MESSAGE_FLAG`], of a response.
pub const GRPC_RESPONSE_FLAG: Reason =
    Reason::upstream("grpc_response_flag", 4260, 502, "A gRPC message of the upstream has an unknown flag");
/// As [`GRPC_MESSAGE_COMPRESSED`], of a response.
pub const GRPC_RESPONSE_COMPRESSED: Reason =
    Reason::upstream("grpc_response_compressed", 4261, 502, "The upstream does not say how it compresses");
/// As [`GRPC_MESSAGE_SIZE`], of a response.
pub const GRPC_RESPONSE_SIZE: Reason =
    Reason::upstream("grpc_response_size", 4262, 502, "A gRPC message of the upstream is too large");
/// As [`GRPC_MESSAGE_TRUNCATED`], of a response.
pub const GRPC_RESPONSE_TRUNCATED: Reason =
    Reason::upstream("grpc_response_truncated", 4263, 502, "The upstream's last gRPC message is incomplete");

/// Bytes of flag and length in front of each message.
pub const PREFIX_BYTES: usize = 5;
/// The longest message where nothing else is said: what clients and servers of gRPC take where they are not told otherwise.
pub const MESSAGE_BYTES_MAX: u32 = 4 << 20;

/// What is wrong, by who sent it.
#[derive(Debug)]
struct Flaws {
    flag: Reason,
    compressed: Reason,
    size: Reason,
    truncated: Reason,
}

static OF_REQUEST: Flaws = Flaws {
    flag: GRPC_MESSAGE_FLAG,
    compressed: GRPC_MESSAGE_COMPRESSED,
    size: GRPC_MESSAGE_SIZE,
    truncated: GRPC_MESSAGE_TRUNCATED,
};

static OF_RESPONSE: Flaws = Flaws {
    flag: GRPC_RESPONSE_FLAG,
    compressed: GRPC_RESPONSE_COMPRESSED,
    size: GRPC_RESPONSE_SIZE,
    truncated: GRPC_RESPONSE_TRUNCATED,
};

/// A message that is refused. The walker that found it is of no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub reason: Reason,
    /// How many bytes of the piece belong to messages before it: they may still be passed on.
    pub before: usize,
}

/// What is allowed of the messages of one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest message in bytes, without its prefix. Default [`MESSAGE_BYTES_MAX`].
    pub message_bytes_max: u32,
    /// The head has a `grpc-encoding`, so that messages may be compressed (PROTOCOL-HTTP2, "Requests": where it is omitted, the
    /// flag must be 0).
    pub compressed: bool,
}

impl Limits {
    /// Those of a message with this head. `identity` is the coding that is none.
    pub fn of(fields: &FieldTable, head: &[u8], message_bytes_max: u32) -> Limits {
        let coding = fields.find_name(head, b"grpc-encoding");
        let compressed = coding.is_some_and(|coding| !coding.eq_ignore_ascii_case(b"identity"));
        Limits { message_bytes_max, compressed }
    }
}

/// The messages of one direction of one call, as they go by.
#[derive(Clone, Debug)]
pub struct Messages {
    /// Bytes of the current message that are still to come.
    left: u32,
    /// How many bytes of `prefix` are there; less than [`PREFIX_BYTES`].
    have: u8,
    prefix: [u8; PREFIX_BYTES],
    limits: Limits,
    count: u64,
    flaws: &'static Flaws,
}

impl Messages {
    /// Those that a client sends.
    pub fn of_request(limits: Limits) -> Messages {
        Messages::new(limits, &OF_REQUEST)
    }

    /// Those that an upstream sends.
    pub fn of_response(limits: Limits) -> Messages {
        Messages::new(limits, &OF_RESPONSE)
    }

    fn new(limits: Limits, flaws: &'static Flaws) -> Messages {
        Messages { left: 0, have: 0, prefix: [0; PREFIX_BYTES], limits, count: 0, flaws }
    }

    /// Looks at the next bytes, however they are cut, before they are passed on as they are.
    ///
    /// # Errors
    /// A message is refused. Whatever was passed on of it is at most a part of its prefix.
    #[inline]
    pub fn pass(&mut self, mut piece: &[u8]) -> Result<(), Refused> {
        let whole = piece.len();
        loop {
            let within = piece.len().min(self.left as usize);
            // At most `left`.
            self.left -= within as u32;
            piece = &piece[within..];
            if piece.is_empty() {
                return Ok(());
            }
            let before = whole - piece.len();
            let prefix = match piece.split_first_chunk::<PREFIX_BYTES>() {
                Some((prefix, rest)) if self.have == 0 => {
                    piece = rest;
                    *prefix
                }
                _ => {
                    piece = self.fill(piece);
                    if usize::from(self.have) < PREFIX_BYTES {
                        return Ok(());
                    }
                    self.have = 0;
                    self.prefix
                }
            };
            self.begin(prefix).map_err(|reason| Refused { reason, before })?;
        }
    }

    /// Takes what is there of a prefix that comes in pieces, and gives back the rest.
    #[cold]
    fn fill<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let room = self.prefix.get_mut(usize::from(self.have)..).unwrap_or_default();
        let (taken, rest) = piece.split_at(room.len().min(piece.len()));
        room[..taken.len()].copy_from_slice(taken);
        self.have += taken.len() as u8;
        rest
    }

    #[inline]
    fn begin(&mut self, prefix: [u8; PREFIX_BYTES]) -> Result<(), Reason> {
        let [flag, length @ ..] = prefix;
        let length = u32::from_be_bytes(length);
        if flag > u8::from(self.limits.compressed) {
            return Err(if flag == 1 { self.flaws.compressed } else { self.flaws.flag });
        }
        if length > self.limits.message_bytes_max {
            return Err(self.flaws.size);
        }
        self.left = length;
        self.count += 1;
        Ok(())
    }

    /// Tells that the sender has ended its side.
    ///
    /// # Errors
    /// It ended within a message: what was sent is a fragment and must not pass for the whole.
    pub fn finish(&self) -> Result<(), Reason> {
        if self.at_boundary() { Ok(()) } else { Err(self.flaws.truncated) }
    }

    /// Whether what has gone by are whole messages. Only then can a status of ours follow; elsewhere the stream is reset, and
    /// the client makes a status of that ([`super::Status::reset_code`]).
    #[inline]
    pub fn at_boundary(&self) -> bool {
        self.left == 0 && self.have == 0
    }

    /// How many messages have begun.
    #[inline]
    pub fn count(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub const SMALL: Limits = Limits { message_bytes_max: 100, compressed: false };

    /// A message with its prefix.
    pub fn framed(flag: u8, message: &[u8]) -> Vec<u8> {
        let mut out = vec![flag];
        out.extend_from_slice(&(message.len() as u32).to_be_bytes());
        out.extend_from_slice(message);
        out
    }

    fn walked(stream: &[u8], limits: Limits) -> Result<(u64, bool), Refused> {
        let mut messages = Messages::of_request(limits);
        messages.pass(stream)?;
        Ok((messages.count(), messages.at_boundary()))
    }

    #[test]
    fn messages_are_counted_and_their_ends_known() {
        // PROTOCOL-HTTP2 "Requests": *Length-Prefixed-Message.
        assert_eq!(walked(b"", SMALL), Ok((0, true)));
        assert_eq!(walked(&framed(0, b""), SMALL), Ok((1, true)));
        assert_eq!(walked(&framed(0, b"hello"), SMALL), Ok((1, true)));
        assert_eq!(walked(&framed(0, b"hello")[..9], SMALL), Ok((1, false)));
        assert_eq!(walked(&framed(0, b"hello")[..4], SMALL), Ok((0, false)));
        let three = [framed(0, b"a"), framed(0, b""), framed(0, &[7; 100])].concat();
        assert_eq!(walked(&three, SMALL), Ok((3, true)));
        assert_eq!(Messages::of_request(SMALL).finish(), Ok(()));
    }

    #[test]
    fn messages_are_refused_at_their_prefix() {
        let compressed = Limits { compressed: true, ..SMALL };
        for (limits, flag, length, expected) in [
            (SMALL, 0, 100, None),
            (SMALL, 0, 101, Some(GRPC_MESSAGE_SIZE)),
            (SMALL, 0, u32::MAX, Some(GRPC_MESSAGE_SIZE)),
            (SMALL, 1, 0, Some(GRPC_MESSAGE_COMPRESSED)),
            (compressed, 1, 100, None),
            (compressed, 1, 101, Some(GRPC_MESSAGE_SIZE)),
            (compressed, 2, 0, Some(GRPC_MESSAGE_FLAG)),
            (SMALL, 2, 0, Some(GRPC_MESSAGE_FLAG)),
            // PROTOCOL-WEB "Message framing": trailers are for responses only.
            (SMALL, 0x80, 0, Some(GRPC_MESSAGE_FLAG)),
            (SMALL, 0xff, 0, Some(GRPC_MESSAGE_FLAG)),
            (Limits { message_bytes_max: 0, compressed: false }, 0, 1, Some(GRPC_MESSAGE_SIZE)),
            (Limits { message_bytes_max: u32::MAX, compressed: false }, 0, u32::MAX, None),
        ] {
            let mut stream = framed(0, b"");
            stream.push(flag);
            stream.extend_from_slice(&length.to_be_bytes());
            let found = walked(&stream, limits).err();
            assert_eq!(found.map(|refused| refused.reason), expected, "{flag} {length}");
            assert!(found.is_none_or(|refused| refused.before == PREFIX_BYTES));
        }
        let of_response = |stream: &[u8]| {
            let mut messages = Messages::of_response(SMALL);
            messages.pass(stream).map_err(|refused| refused.reason).and_then(|()| messages.finish())
        };
        assert_eq!(of_response(&[2, 0, 0, 0, 0]), Err(GRPC_RESPONSE_FLAG));
        assert_eq!(of_response(&[1, 0, 0, 0, 0]), Err(GRPC_RESPONSE_COMPRESSED));
        assert_eq!(of_response(&[0, 0, 0, 0, 101]), Err(GRPC_RESPONSE_SIZE));
        assert_eq!(of_response(&[0, 0, 0, 0, 1]), Err(GRPC_RESPONSE_TRUNCATED));
        assert_eq!(of_response(&[0, 0, 0, 0, 1, 1]), Ok(()));
    }

    #[test]
    fn where_the_bytes_are_cut_makes_no_difference() {
        let good = [framed(0, b"abc"), framed(0, b""), framed(0, &[1; 40])].concat();
        let bad = [framed(0, b"abc"), framed(3, b"")].concat();
        for (stream, refused_at) in [(&good, None), (&bad, Some(8))] {
            for first in 0..=stream.len() {
                for second in first..=stream.len() {
                    let mut messages = Messages::of_request(SMALL);
                    let mut passed = 0;
                    let mut refused = None;
                    for piece in [&stream[..first], &stream[first..second], &stream[second..]] {
                        match messages.pass(piece) {
                            Ok(()) => passed += piece.len(),
                            Err(found) => {
                                passed += found.before;
                                refused = Some(found.reason);
                                break;
                            }
                        }
                    }
                    match refused_at {
                        None => assert_eq!((refused, messages.count()), (None, 3)),
                        Some(at) => {
                            assert_eq!((refused, messages.count()), (Some(GRPC_MESSAGE_FLAG), 1));
                            assert!((at..at + PREFIX_BYTES).contains(&passed), "{passed}");
                        }
                    }
                }
            }
        }
        for end in 0..=good.len() {
            let mut messages = Messages::of_request(SMALL);
            messages.pass(&good[..end]).expect("in order");
            let whole = [0, 8, 13, good.len()].contains(&end);
            assert_eq!((messages.at_boundary(), messages.finish().is_ok()), (whole, whole), "{end}");
        }
    }

    #[test]
    fn messages_may_be_compressed_where_the_head_says_how() {
        use crate::h1::parse::parse_request;
        use crate::http::{HeadLimits, RequestTable};
        for (field, compressed) in [
            ("", false),
            ("grpc-encoding: gzip\r\n", true),
            ("Grpc-Encoding: identity\r\n", false),
            ("grpc-accept-encoding: gzip\r\n", false),
        ] {
            let head = format!("POST /a/b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n{field}\r\n");
            let mut table = RequestTable::new();
            parse_request(head.as_bytes(), &HeadLimits::DEFAULT, &mut table).expect("a head");
            let limits = Limits::of(&table.fields, head.as_bytes(), 7);
            assert_eq!(limits, Limits { message_bytes_max: 7, compressed }, "{field}");
        }
    }

    #[test]
    fn a_walker_is_small() {
        assert!(size_of::<Messages>() <= 40);
    }
}
