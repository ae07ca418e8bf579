//! `traceparent` of W3C Trace Context: read what a client sent, write what goes upstream.
//!
//! Sans-IO. Not for: `tracestate` (forwarded as it came) and sampling decisions. Called by `pipeline`.

use super::request_id::{hex_digits, push_hex};

/// A valid `traceparent` (W3C Trace Context §3.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// 16 bytes, not all zero.
    pub trace_id: [u8; 16],
    /// 8 bytes, not all zero; the span of the sender.
    pub parent_id: [u8; 8],
    /// The flags as sent; bit 0 is `sampled`.
    pub flags: u8,
}

/// `00-` + 32 + `-` + 16 + `-` + 2.
const LENGTH: usize = 55;

impl TraceParent {
    /// Reads a field value; `None` means that the field must be ignored (§3.2.2.2: a new trace is started).
    pub fn parse(value: &[u8]) -> Option<TraceParent> {
        let (head, rest) = value.split_at_checked(LENGTH)?;
        let version = hex_digits::<1>(head.get(..2)?)?[0];
        // §3.2.2.1: version ff is invalid; version 00 is exactly 55 bytes; a later one may go on after a dash.
        let length_is_right =
            if version == 0 { rest.is_empty() } else { rest.first().is_none_or(|b| *b == b'-') };
        if version == 0xff || !length_is_right || head[2] != b'-' || head[35] != b'-' || head[52] != b'-' {
            return None;
        }
        let trace_id = hex_digits::<16>(&head[3..35])?;
        let parent_id = hex_digits::<8>(&head[36..52])?;
        let flags = hex_digits::<1>(&head[53..55])?[0];
        if trace_id == [0; 16] || parent_id == [0; 8] {
            return None;
        }
        // §3.2.2.5: only the flags this version knows may be passed on.
        Some(TraceParent { trace_id, parent_id, flags: if version == 0 { flags } else { flags & 1 } })
    }

    /// The same trace as seen by the upstream: our span is its parent.
    pub fn child(self, span_id: [u8; 8]) -> TraceParent {
        TraceParent { parent_id: span_id, ..self }
    }

    /// Whether the sender recorded this trace.
    pub fn sampled(self) -> bool {
        self.flags & 1 == 1
    }

    /// The field value, version 00.
    pub fn format(self) -> [u8; LENGTH] {
        let mut value = *b"00-00000000000000000000000000000000-0000000000000000-00";
        push_hex(&mut value[3..35], &self.trace_id);
        push_hex(&mut value[36..52], &self.parent_id);
        push_hex(&mut value[53..55], &[self.flags]);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &[u8] = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_good_value_goes_round() {
        let parsed = TraceParent::parse(GOOD).expect("valid");
        assert!(parsed.sampled());
        assert_eq!(parsed.format().as_slice(), GOOD);
        assert_eq!(&parsed.child([0xab; 8]).format()[36..52], b"abababababababab");
    }

    #[test]
    fn what_the_recommendation_calls_invalid_is_ignored() {
        let bad: &[&[u8]] = &[
            b"",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-011",
            b"ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            b"00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            b"00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"00-4bf92f3577b34da6a3ce929d0e0e4736 00f067aa0ba902b7-01",
            b"0g-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            b"01-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01x",
        ];
        for value in bad {
            assert_eq!(TraceParent::parse(value), None, "{}", String::from_utf8_lossy(value));
        }
    }

    #[test]
    fn a_later_version_is_read_as_far_as_known() {
        let later = TraceParent::parse(b"cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-ff-what");
        assert_eq!(later.expect("valid").flags, 1);
    }
}
