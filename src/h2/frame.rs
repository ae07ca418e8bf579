//! The layout of frames (RFC 9113 §4.1, §6): nine bytes of head, a payload of a kind.
//!
//! For: [`super::connection`] and what tests it. Nothing is copied: a payload is a slice of what was received.

/// Bytes of a frame's head.
pub const FRAME_HEAD_BYTES: usize = 9;
/// The largest payload that every endpoint must take, which we never raise (RFC 9113 §4.2, §6.5.2).
pub const FRAME_BYTES_DEFAULT: u32 = 16_384;
/// The largest payload that a peer may be asked to take.
pub const FRAME_BYTES_MOST: u32 = 16_777_215;
/// What a client sends first (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The last frame of a message in this direction. DATA, HEADERS.
pub const END_STREAM: u8 = 0x1;
/// SETTINGS, PING: the answer to one.
pub const ACK: u8 = 0x1;
/// HEADERS, CONTINUATION, PUSH_PROMISE: no CONTINUATION follows.
pub const END_HEADERS: u8 = 0x4;
/// DATA, HEADERS, PUSH_PROMISE.
pub const PADDED: u8 = 0x8;
/// HEADERS: five bytes of priority precede the block.
pub const PRIORITY: u8 = 0x20;

/// The number of a stream: 31 bits, 0 for the connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StreamId(pub u32);

impl StreamId {
    /// The connection itself.
    pub const CONNECTION: StreamId = StreamId(0);
    /// The largest there is.
    pub const LAST: StreamId = StreamId(0x7fff_ffff);

    /// Whether it is the connection's.
    pub fn is_connection(self) -> bool {
        self.0 == 0
    }

    /// Whether a client opens streams with such numbers (RFC 9113 §5.1.1).
    pub fn is_of_client(self) -> bool {
        self.0 & 1 == 1
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Bytes of a body.
    Data,
    /// A field block begins: a head or trailers.
    Headers,
    /// The priority of RFC 7540, which means nothing any more.
    Priority,
    /// The end of a stream before its time.
    Reset,
    /// What the sender wants the receiver to obey.
    Settings,
    /// A request that a server makes up.
    PushPromise,
    /// A question whether the other side lives.
    Ping,
    /// The end of a connection is near.
    GoAway,
    /// More may be sent.
    WindowUpdate,
    /// A field block goes on.
    Continuation,
    /// RFC 9218 §7.1.
    PriorityUpdate,
    /// Anything else is skipped (RFC 9113 §5.5).
    Unknown,
}

impl Kind {
    /// What the byte stands for.
    pub fn of(byte: u8) -> Kind {
        match byte {
            0x0 => Kind::Data,
            0x1 => Kind::Headers,
            0x2 => Kind::Priority,
            0x3 => Kind::Reset,
            0x4 => Kind::Settings,
            0x5 => Kind::PushPromise,
            0x6 => Kind::Ping,
            0x7 => Kind::GoAway,
            0x8 => Kind::WindowUpdate,
            0x9 => Kind::Continuation,
            0x10 => Kind::PriorityUpdate,
            _ => Kind::Unknown,
        }
    }

    /// The byte that stands for it. An unknown kind is the first that nobody uses.
    pub fn byte(self) -> u8 {
        match self {
            Kind::Data => 0x0,
            Kind::Headers => 0x1,
            Kind::Priority => 0x2,
            Kind::Reset => 0x3,
            Kind::Settings => 0x4,
            Kind::PushPromise => 0x5,
            Kind::Ping => 0x6,
            Kind::GoAway => 0x7,
            Kind::WindowUpdate => 0x8,
            Kind::Continuation => 0x9,
            Kind::PriorityUpdate => 0x10,
            Kind::Unknown => 0xff,
        }
    }
}

/// The head of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHead {
    /// Bytes of the payload.
    pub length: u32,
    /// What it is.
    pub kind: Kind,
    /// Bits whose meaning depends on the kind; those without one are ignored.
    pub flags: u8,
    /// Whose it is.
    pub stream: StreamId,
}

impl FrameHead {
    /// Reads one. The reserved bit of the stream's number is ignored (RFC 9113 §4.1).
    pub fn parse(bytes: &[u8; FRAME_HEAD_BYTES]) -> FrameHead {
        let [a, b, c, kind, flags, s, t, u, v] = *bytes;
        FrameHead {
            length: u32::from_be_bytes([0, a, b, c]),
            kind: Kind::of(kind),
            flags,
            stream: StreamId(u32::from_be_bytes([s & 0x7f, t, u, v])),
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> [u8; FRAME_HEAD_BYTES] {
        let [_, a, b, c] = self.length.to_be_bytes();
        let [s, t, u, v] = self.stream.0.to_be_bytes();
        [a, b, c, self.kind.byte(), self.flags, s, t, u, v]
    }

    /// Whether a flag is set.
    pub fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }
}

/// Why a stream or a connection ends (RFC 9113 §7). Numbers that nobody knows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorCode(pub u32);

#[allow(missing_docs, reason = "the names are those of RFC 9113 §7")]
impl ErrorCode {
    pub const NO_ERROR: ErrorCode = ErrorCode(0x0);
    pub const PROTOCOL_ERROR: ErrorCode = ErrorCode(0x1);
    pub const INTERNAL_ERROR: ErrorCode = ErrorCode(0x2);
    pub const FLOW_CONTROL_ERROR: ErrorCode = ErrorCode(0x3);
    pub const SETTINGS_TIMEOUT: ErrorCode = ErrorCode(0x4);
    pub const STREAM_CLOSED: ErrorCode = ErrorCode(0x5);
    pub const FRAME_SIZE_ERROR: ErrorCode = ErrorCode(0x6);
    pub const REFUSED_STREAM: ErrorCode = ErrorCode(0x7);
    pub const CANCEL: ErrorCode = ErrorCode(0x8);
    pub const COMPRESSION_ERROR: ErrorCode = ErrorCode(0x9);
    pub const CONNECT_ERROR: ErrorCode = ErrorCode(0xa);
    pub const ENHANCE_YOUR_CALM: ErrorCode = ErrorCode(0xb);
    pub const INADEQUATE_SECURITY: ErrorCode = ErrorCode(0xc);
    pub const HTTP_1_1_REQUIRED: ErrorCode = ErrorCode(0xd);
}

/// Appends the head of a frame.
pub fn push_head(out: &mut Vec<u8>, length: usize, kind: Kind, flags: u8, stream: StreamId) {
    debug_assert!(length <= FRAME_BYTES_MOST as usize);
    out.extend_from_slice(&FrameHead { length: length as u32, kind, flags, stream }.bytes());
}

/// Appends RST_STREAM (RFC 9113 §6.4).
pub fn push_reset(out: &mut Vec<u8>, stream: StreamId, code: ErrorCode) {
    push_head(out, 4, Kind::Reset, 0, stream);
    out.extend_from_slice(&code.0.to_be_bytes());
}

/// Appends SETTINGS (RFC 9113 §6.5).
pub fn push_settings(out: &mut Vec<u8>, settings: impl Iterator<Item = (u16, u32)>) {
    let at = out.len();
    push_head(out, 0, Kind::Settings, 0, StreamId::CONNECTION);
    for (name, value) in settings {
        out.extend_from_slice(&name.to_be_bytes());
        out.extend_from_slice(&value.to_be_bytes());
    }
    let length = out.len() - at - FRAME_HEAD_BYTES;
    write_head(
        out,
        at,
        FrameHead { length: length as u32, kind: Kind::Settings, flags: 0, stream: StreamId(0) },
    );
}

/// Appends PING (RFC 9113 §6.7).
pub fn push_ping(out: &mut Vec<u8>, payload: [u8; 8], ack: bool) {
    push_head(out, 8, Kind::Ping, if ack { ACK } else { 0 }, StreamId::CONNECTION);
    out.extend_from_slice(&payload);
}

/// Appends GOAWAY (RFC 9113 §6.8); `debug` is for people at the other end.
pub fn push_goaway(out: &mut Vec<u8>, last: StreamId, code: ErrorCode, debug: &[u8]) {
    push_head(out, 8 + debug.len(), Kind::GoAway, 0, StreamId::CONNECTION);
    out.extend_from_slice(&last.0.to_be_bytes());
    out.extend_from_slice(&code.0.to_be_bytes());
    out.extend_from_slice(debug);
}

/// Appends WINDOW_UPDATE (RFC 9113 §6.9); `increment` is 1 to 2^31 − 1.
pub fn push_window_update(out: &mut Vec<u8>, stream: StreamId, increment: u32) {
    debug_assert!(increment != 0 && increment <= 0x7fff_ffff);
    push_head(out, 4, Kind::WindowUpdate, 0, stream);
    out.extend_from_slice(&increment.to_be_bytes());
}

/// Appends a field block as HEADERS and as many CONTINUATION frames as payloads of at most `frame_bytes_max` need
/// (RFC 9113 §4.3). The block is written where it is sent from; only one that must be split is moved.
pub fn push_block(
    out: &mut Vec<u8>,
    stream: StreamId,
    end: bool,
    frame_bytes_max: u32,
    block: impl FnOnce(&mut Vec<u8>),
) {
    let at = out.len();
    out.extend_from_slice(&[0; FRAME_HEAD_BYTES]);
    block(out);
    debug_assert!(out.len() >= at + FRAME_HEAD_BYTES, "a block only appends");
    let end_stream = if end { END_STREAM } else { 0 };
    let length = out.len().saturating_sub(at + FRAME_HEAD_BYTES);
    let most = frame_bytes_max as usize;
    if length <= most {
        let flags = END_HEADERS | end_stream;
        write_head(out, at, FrameHead { length: length as u32, kind: Kind::Headers, flags, stream });
        return;
    }
    // From the last piece to the first, so that each byte moves once.
    let pieces = length.div_ceil(most);
    out.resize(out.len() + (pieces - 1) * FRAME_HEAD_BYTES, 0);
    for piece in (0..pieces).rev() {
        let from = at + FRAME_HEAD_BYTES + piece * most;
        let bytes = (length - piece * most).min(most);
        let head = at + piece * (most + FRAME_HEAD_BYTES);
        out.copy_within(from..from + bytes, head + FRAME_HEAD_BYTES);
        let kind = if piece == 0 { Kind::Headers } else { Kind::Continuation };
        let first = if piece == 0 { end_stream } else { 0 };
        let last = if piece + 1 == pieces { END_HEADERS } else { 0 };
        write_head(out, head, FrameHead { length: bytes as u32, kind, flags: first | last, stream });
    }
}

/// Writes a head over the nine bytes at `at`, which are there.
fn write_head(out: &mut [u8], at: usize, head: FrameHead) {
    if let Some(place) = out.get_mut(at..at + FRAME_HEAD_BYTES) {
        place.copy_from_slice(&head.bytes());
    }
}

/// What is left of a payload without its padding (RFC 9113 §6.1, §6.2), or `None` where the padding is as long as the
/// payload or longer.
pub fn unpadded(payload: &[u8]) -> Option<&[u8]> {
    let (&padding, rest) = payload.split_first()?;
    rest.get(..rest.len().checked_sub(usize::from(padding))?)
}

/// Four bytes as a number.
pub fn number(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        for kind in (0..=0x10).map(Kind::of).filter(|kind| *kind != Kind::Unknown) {
            for (length, stream) in [(0, 0), (1, 1), (16_384, 0x7fff_ffff), (FRAME_BYTES_MOST, 77)] {
                let head = FrameHead { length, kind, flags: 0x5, stream: StreamId(stream) };
                assert_eq!(FrameHead::parse(&head.bytes()), head);
            }
        }
    }

    #[test]
    fn section_4_1_the_reserved_bit_is_ignored() {
        let head = FrameHead::parse(&[0, 0, 4, 8, 0, 0x80, 0, 0, 3]);
        assert_eq!(head.stream, StreamId(3));
    }

    #[test]
    fn section_4_3_a_block_is_split_at_the_frame_size_of_the_peer() {
        for length in [0, 1, 99, 100, 101, 199, 200, 201, 1000] {
            let block: Vec<u8> = (0..length).map(|at| at as u8).collect();
            let mut out = b"before".to_vec();
            push_block(&mut out, StreamId(5), true, 100, |out| out.extend_from_slice(&block));
            let mut rest = &out[6..];
            let mut whole = Vec::new();
            let mut first = true;
            loop {
                let head = FrameHead::parse(rest.first_chunk().unwrap());
                assert_eq!(head.kind, if first { Kind::Headers } else { Kind::Continuation });
                assert_eq!(head.stream, StreamId(5));
                assert_eq!(head.has(END_STREAM), first, "only HEADERS can end a stream");
                assert!(head.length <= 100 && (first || head.length > 0));
                let end = FRAME_HEAD_BYTES + head.length as usize;
                whole.extend_from_slice(&rest[FRAME_HEAD_BYTES..end]);
                rest = &rest[end..];
                first = false;
                if head.has(END_HEADERS) {
                    break;
                }
            }
            assert!(rest.is_empty());
            assert_eq!(whole, block);
        }
    }

    #[test]
    fn section_6_1_padding_is_shorter_than_the_payload() {
        assert_eq!(unpadded(b""), None);
        assert_eq!(unpadded(b"\x00"), Some(&b""[..]));
        assert_eq!(unpadded(b"\x01"), None);
        assert_eq!(unpadded(b"\x01a"), Some(&b""[..]));
        assert_eq!(unpadded(b"\x01ab"), Some(&b"a"[..]));
        assert_eq!(unpadded(b"\x03ab"), None);
    }
}
