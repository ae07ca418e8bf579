//! How a tunnel ends: the codes, what each side is told, and the frame that tells it.
//!
//! For: the filter, which finds flaws, and the tunnel, which knows the other causes (a credential that has expired, a drain,
//! a side that went away). Not for: the closing handshake of two ends that agree; their Close frames pass like any other
//! frame, and the filter says [`Then::Closed`](super::filter::Then::Closed).
//!
//! Whoever broke the rules hears which; the other side hears that its peer has gone: `1001` the upstream, `1014` (bad
//! gateway) the client. The codes are those of IANA's "WebSocket Close Code Number Registry":
//!
//! | what happened | to the client | to the upstream |
//! |---|---|---|
//! | a frame is malformed | 1002, or 1014 where it was the upstream's | 1001, or 1002 |
//! | a text is not UTF-8 | 1007, or 1014 | 1001, or 1007 |
//! | a message is too large | 1009, or 1014 | 1001, or 1009 |
//! | a message breaks a policy; too many; too many pings | 1008, or 1014 | 1001, or 1008 |
//! | the credential expired or was revoked | 3000 | 1001 |
//! | drain, idle, lifetime | 1001 | 1001 |
//! | the node is overloaded | 1013 | 1001 |
//! | a side left without a Close frame | 1014 | 1001 |
//!
//! The text behind the code is the token of the reason, which is in the log as well.

use super::filter::Filter;
use super::frame::{Mask, Sender};
use crate::http::Reason;

/// Why a connection is closed, in two bytes (RFC 6455 §7.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode(u16);

impl CloseCode {
    /// This end, or the one behind it, goes away.
    pub const GOING_AWAY: CloseCode = CloseCode(1001);
    /// The protocol was broken.
    pub const PROTOCOL_ERROR: CloseCode = CloseCode(1002);
    /// A text that is not UTF-8.
    pub const INVALID_DATA: CloseCode = CloseCode(1007);
    /// A message that a policy refuses.
    pub const POLICY: CloseCode = CloseCode(1008);
    /// A message that is larger than may be.
    pub const TOO_BIG: CloseCode = CloseCode(1009);
    /// Overloaded: to be tried again later.
    pub const TRY_AGAIN_LATER: CloseCode = CloseCode(1013);
    /// A gateway had an invalid answer from its upstream, or none any more.
    pub const BAD_GATEWAY: CloseCode = CloseCode(1014);
    /// What 401 is to a request.
    pub const UNAUTHORIZED: CloseCode = CloseCode(3000);

    /// The code that stands in a Close frame, if it may stand there.
    ///
    /// RFC 6455 §7.4: 1004 to 1006 and 1015 never travel, 1016 to 2999 are for revisions of the protocol, which this is not,
    /// 3000 to 3999 are registered by libraries and 4000 to 4999 private.
    pub fn of_frame(code: u16) -> Option<CloseCode> {
        matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999).then_some(CloseCode(code))
    }

    /// The number.
    pub fn number(self) -> u16 {
        self.0
    }
}

/// The end of a tunnel that its two ends did not ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Why; for the log.
    pub reason: &'static Reason,
    /// What the client is told.
    pub client: CloseCode,
    /// What the upstream is told.
    pub upstream: CloseCode,
}

/// The credential by which the tunnel was opened has expired or was revoked.
pub const WEBSOCKET_CREDENTIAL: Reason =
    Reason::client("websocket_credential", 2440, 401, "The credential of the WebSocket has expired");
/// The node, or the listener, ends its work.
pub const WEBSOCKET_DRAINED: Reason =
    Reason::ringwall("websocket_drained", 2441, 503, "The gateway ends its WebSockets");
/// Nothing came for too long.
pub const WEBSOCKET_IDLE: Reason = Reason::client("websocket_idle", 2442, 408, "The WebSocket was idle");
/// It lasted as long as it may.
pub const WEBSOCKET_LIFETIME: Reason =
    Reason::ringwall("websocket_lifetime", 2443, 503, "The WebSocket lasted as long as it may");
/// The node has no room for what it is asked to hold.
pub const WEBSOCKET_OVERLOAD: Reason =
    Reason::ringwall("websocket_overload", 2444, 503, "The gateway has no room for the WebSocket");
/// The client's side ended without a Close frame.
pub const WEBSOCKET_CLIENT_CUT: Reason =
    Reason::client("websocket_client_cut", 2445, 499, "The client left without a Close frame");
/// The upstream's side ended without a Close frame.
pub const UPSTREAM_WEBSOCKET_CUT: Reason =
    Reason::upstream("upstream_websocket_cut", 4309, 502, "The upstream left without a Close frame");

impl Ending {
    /// The credential has expired or was revoked (AN-18): the client may come again with another.
    pub const CREDENTIAL: Ending = Ending {
        reason: &WEBSOCKET_CREDENTIAL,
        client: CloseCode::UNAUTHORIZED,
        upstream: CloseCode::GOING_AWAY,
    };
    /// A drain.
    pub const DRAINED: Ending = Ending::both(&WEBSOCKET_DRAINED, CloseCode::GOING_AWAY);
    /// Idle for too long.
    pub const IDLE: Ending = Ending::both(&WEBSOCKET_IDLE, CloseCode::GOING_AWAY);
    /// The end of its lifetime.
    pub const LIFETIME: Ending = Ending::both(&WEBSOCKET_LIFETIME, CloseCode::GOING_AWAY);
    /// No memory, or no time.
    pub const OVERLOAD: Ending = Ending::both(&WEBSOCKET_OVERLOAD, CloseCode::TRY_AGAIN_LATER);
    /// The client's side of the transport ended before a Close frame came.
    pub const CLIENT_CUT: Ending = Ending::both(&WEBSOCKET_CLIENT_CUT, CloseCode::GOING_AWAY);
    /// The upstream's side of the transport ended before a Close frame came.
    pub const UPSTREAM_CUT: Ending = Ending::both(&UPSTREAM_WEBSOCKET_CUT, CloseCode::BAD_GATEWAY);

    const fn both(reason: &'static Reason, client: CloseCode) -> Ending {
        Ending { reason, client, upstream: CloseCode::GOING_AWAY }
    }

    /// `sender` did what `code` stands for.
    pub fn by(sender: Sender, code: CloseCode, reason: &'static Reason) -> Ending {
        match sender {
            Sender::Client => Ending { reason, client: code, upstream: CloseCode::GOING_AWAY },
            Sender::Upstream => Ending { reason, client: CloseCode::BAD_GATEWAY, upstream: code },
        }
    }

    /// Ends both directions: `up` is the filter from the client, `down` that from the upstream. `key` masks the frame that
    /// goes upstream (RFC 6455 §5.3: fresh and unpredictable). Nothing passes either filter afterwards.
    pub fn close(&self, up: &mut Filter, down: &mut Filter, key: [u8; 4]) -> Farewell {
        Farewell {
            to_client: down.close(self.client, self.reason.token, key),
            to_upstream: up.close(self.upstream, self.reason.token, key),
        }
    }
}

/// What is sent last. `None`: that side has had a Close frame, or is in the midst of a frame, so that nothing but the end of
/// the transport can tell it.
#[derive(Clone, Copy, Debug)]
pub struct Farewell {
    /// To the client.
    pub to_client: Option<CloseFrame>,
    /// To the upstream.
    pub to_upstream: Option<CloseFrame>,
}

/// A Close frame, ready to be sent.
#[derive(Clone, Copy, Debug)]
pub struct CloseFrame {
    bytes: [u8; CloseFrame::BYTES_MAX],
    len: u8,
}

impl CloseFrame {
    /// Head, mask, code, and a token of a reason.
    pub const BYTES_MAX: usize = 2 + 4 + 2 + CloseFrame::TEXT_BYTES_MAX;
    /// Longest text behind the code: tokens of reasons are not longer.
    pub const TEXT_BYTES_MAX: usize = 32;

    /// `text` is cut at [`CloseFrame::TEXT_BYTES_MAX`]; it is ASCII. With a `key` the frame is masked, as a client's must be.
    pub(super) fn new(code: CloseCode, text: &'static str, key: Option<[u8; 4]>) -> CloseFrame {
        let text = text.as_bytes();
        let text = &text[..text.len().min(CloseFrame::TEXT_BYTES_MAX)];
        let mut bytes = [0; CloseFrame::BYTES_MAX];
        let mut len = 0;
        let payload = 2 + text.len() as u8;
        let masked = if key.is_some() { 0x80 } else { 0 };
        let mut push = |piece: &[u8]| {
            bytes[len..len + piece.len()].copy_from_slice(piece);
            len += piece.len();
        };
        push(&[0x88, masked | payload]);
        push(key.as_ref().map_or(&[], |key| &key[..]));
        push(&code.0.to_be_bytes());
        push(text);
        if let Some(key) = key {
            Mask::of(key).apply(&mut bytes[6..len]);
        }
        CloseFrame { bytes, len: len as u8 }
    }

    /// Its bytes.
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_6455_7_4_which_codes_may_travel() {
        let valid =
            [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999];
        let refused = [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535];
        for code in valid {
            assert_eq!(CloseCode::of_frame(code).map(CloseCode::number), Some(code));
        }
        for code in refused {
            assert_eq!(CloseCode::of_frame(code), None, "{code}");
        }
    }

    #[test]
    fn a_close_frame_is_masked_towards_the_upstream_only() {
        let plain = CloseFrame::new(CloseCode::TOO_BIG, "websocket_message_size", None);
        assert_eq!(plain.as_slice()[..4], [0x88, 24, 0x03, 0xf1]);
        assert_eq!(&plain.as_slice()[4..], b"websocket_message_size");
        let masked = CloseFrame::new(CloseCode::GOING_AWAY, "a", Some([1, 2, 3, 4]));
        assert_eq!(masked.as_slice(), [0x88, 0x83, 1, 2, 3, 4, 0x03 ^ 1, 0xe9 ^ 2, b'a' ^ 3]);
        let long = "0123456789012345678901234567890123456789";
        assert_eq!(
            CloseFrame::new(CloseCode::POLICY, long, Some([0; 4])).as_slice().len(),
            CloseFrame::BYTES_MAX
        );
    }
}
