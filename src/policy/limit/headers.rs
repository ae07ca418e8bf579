//! What a client is told about its limits: the values of `RateLimit-Policy`, `RateLimit` and `Retry-After`.
//!
//! The first two are structured-field lists (RFC 9651) as in draft-ietf-httpapi-ratelimit-headers-10, one item
//! per limit: `"name";q=100;w=60` and `"name";r=50;t=30`. **A client that obeys them is never refused:** `r` more
//! requests are admitted at once and at any later time, one more after `t` seconds, and after `Retry-After`.
//! So everything is rounded towards later and fewer.
//!
//! A limit on requests in flight is one whose unit is such requests, `"name";q=10;qu="concurrent-requests"`. A client that
//! counts its own needs nothing more, so `RateLimit` speaks of it only where it refused: `"name";r=0`. No time is said, as
//! nobody knows when one ends.
//!
//! `q` is the burst and `w` the time in which a whole burst is granted: `rate: 100/min, burst: 20` says
//! `q=20;w=12`, since a client that sent 100 at once would be refused.
//!
//! Items are appended to a buffer of the caller, at most [`item_bytes_max`] bytes each and [`SEPARATOR`]
//! between two; nothing is allocated if there is room. Called by the limit policy.

use super::{
    gcra::Rate,
    table::{Admitted, Charge},
};

/// The greatest integer of a structured field (RFC 9651 §3.3.1).
const INTEGER_MAX: u64 = 999_999_999_999_999;

const SECOND_NS: u64 = 1_000_000_000;

/// What stands between two items of a list.
pub const SEPARATOR: &[u8] = b", ";

/// The most bytes that one item of a limit of this name takes.
pub const fn item_bytes_max(name: &str) -> usize {
    // Quotes and escapes + `;q=` and `;w=` with 15 digits each.
    2 + 2 * name.len() + 2 * (3 + 15)
}

/// Appends the item of `RateLimit-Policy` of a limit on requests in flight: `"name";q=10;qu="concurrent-requests"`.
pub fn write_policy_in_flight(out: &mut Vec<u8>, name: &Name, most: u32) {
    out.extend_from_slice(&name.0);
    out.extend_from_slice(b";q=");
    write_integer(out, u64::from(most));
    out.extend_from_slice(b";qu=\"concurrent-requests\"");
}

/// Appends the item of `RateLimit` of a limit on requests in flight that refused: `"name";r=0`.
pub fn write_none_left(out: &mut Vec<u8>, name: &Name) {
    out.extend_from_slice(&name.0);
    out.extend_from_slice(b";r=0");
}

/// Appends a limit's item of `RateLimit-Policy`: `"name";q=100;w=60`.
pub fn write_policy(out: &mut Vec<u8>, name: &Name, rate: &Rate) {
    out.extend_from_slice(&name.0);
    out.extend_from_slice(b";q=");
    write_integer(out, rate.burst());
    out.extend_from_slice(b";w=");
    write_integer(out, rate.window_s());
}

/// Appends a limit's item of `RateLimit`: `"name";r=50;t=30`. `t` is left out when the bucket is full:
/// no more will become available.
pub fn write_limit(out: &mut Vec<u8>, name: &Name, rate: &Rate, charge: &Charge, now_ns: u64) {
    let (remaining, wait_ns) = match charge {
        Charge::Admitted(Admitted { tat_ns, .. }) => {
            (rate.remaining(*tat_ns, now_ns), rate.next_token_ns(*tat_ns, now_ns))
        }
        Charge::Refused { retry_after_ns } => (0, *retry_after_ns),
    };
    out.extend_from_slice(&name.0);
    out.extend_from_slice(b";r=");
    write_integer(out, remaining);
    if wait_ns > 0 {
        out.extend_from_slice(b";t=");
        write_integer(out, seconds_up(wait_ns));
    }
}

/// Appends the value of `Retry-After` (RFC 9110 §10.2.3), in seconds: at least 1.
pub fn write_retry_after(out: &mut Vec<u8>, retry_after_ns: u64) {
    write_integer(out, seconds_up(retry_after_ns).max(1));
}

fn seconds_up(ns: u64) -> u64 {
    ns.div_ceil(SECOND_NS)
}

/// A limit's name as a structured-field string (RFC 9651 §3.3.3), quotes included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(Box<[u8]>);

impl Name {
    /// Quotes and escapes a name.
    pub fn new(name: &str) -> Name {
        let mut out = vec![b'"'];
        for &byte in name.as_bytes() {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                b' '..=b'~' => out.push(byte),
                // A string of a structured field is ASCII; what is not cannot be said.
                _ => out.push(b'?'),
            }
        }
        out.push(b'"');
        Name(out.into())
    }
}

fn write_integer(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value.min(INTEGER_MAX)).as_bytes());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::policy::limit::{
        fingerprint::{FingerprintKey, LimitId},
        table::Table,
    };

    const S: u64 = SECOND_NS;

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_values_are_structured_fields() {
        let rate = Rate::new(100, 60 * S, 100).unwrap();
        assert_eq!(text(|out| write_policy(out, &Name::new("per-key"), &rate)), r#""per-key";q=100;w=60"#);
        let half = Rate::new(100, 60 * S, 20).unwrap();
        let both = text(|out| {
            write_policy(out, &Name::new("a"), &rate);
            out.extend_from_slice(SEPARATOR);
            write_policy(out, &Name::new("b"), &half);
        });
        assert_eq!(both, r#""a";q=100;w=60, "b";q=20;w=12"#);
        let refused = Charge::Refused { retry_after_ns: 1 };
        assert_eq!(text(|out| write_limit(out, &Name::new("a"), &rate, &refused, 0)), r#""a";r=0;t=1"#);
        let never = Charge::Refused { retry_after_ns: u64::MAX };
        assert_eq!(
            text(|out| write_limit(out, &Name::new(r#"a"\é"#), &rate, &never, 0)),
            r#""a\"\\??";r=0;t=18446744074"#
        );
        assert_eq!(text(|out| write_retry_after(out, 1)), "1");
        assert_eq!(text(|out| write_retry_after(out, S + 1)), "2");
        assert_eq!(text(|out| write_retry_after(out, u64::MAX)), "18446744074");
    }

    #[test]
    fn a_full_bucket_names_no_time() {
        let rate = Rate::new(10, S, 10).unwrap();
        let old = Charge::Admitted(Admitted { tat_ns: S, cost_ns: 0, charged_at_ns: 0, shared: false });
        assert_eq!(text(|out| write_limit(out, &Name::new("a"), &rate, &old, 2 * S)), r#""a";r=10"#);
    }

    #[test]
    fn an_item_stays_below_its_bound() {
        let rate = Rate::new(1, crate::policy::limit::gcra::SPAN_NS_MAX, 1).unwrap();
        for name in ["", "plain", r#""\"\"#] {
            let mut out = Vec::new();
            write_policy(&mut out, &Name::new(name), &rate);
            assert!(out.len() <= item_bytes_max(name));
            let mut out = Vec::new();
            write_limit(&mut out, &Name::new(name), &rate, &Charge::Refused { retry_after_ns: u64::MAX }, 0);
            assert!(out.len() <= item_bytes_max(name));
        }
    }

    /// What a client reads: the integer after `;name=`.
    fn parameter(value: &str, name: &str) -> Option<u64> {
        value
            .split(';')
            .find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
            .map(|text| text.parse().unwrap())
    }

    proptest! {
        /// RL-03: a client that sends what `r` allows, or waits `t` or `Retry-After`, is never refused.
        #[test]
        fn a_client_that_obeys_is_never_refused(
            count in 1u64..200, period_s in 1u64..100, burst in 1u64..50,
            choices in prop::collection::vec((0u64..4, 0u64..3 * S), 1..200),
        ) {
            let rate = Rate::new(count, period_s * S, burst).unwrap();
            let table = Table::with_key(1, FingerprintKey::fixed(1, 2));
            let who = table.fingerprint(LimitId::new("limit"), b"client");
            let (mut now, mut allowed) = (S, 1);
            for (choice, pause) in choices {
                // Anybody may be refused when nothing is allowed; who waits as told is not.
                let charge = table.charge(who, &rate, now);
                prop_assert!(charge.is_admitted() || allowed == 0);
                let value = text(|out| write_limit(out, &Name::new("x"), &rate, &charge, now));
                let (r, t) = (parameter(&value, "r").unwrap(), parameter(&value, "t"));
                prop_assert!(r <= burst);
                allowed = r;
                now += match (choice, charge) {
                    (0, _) => 0,
                    (1, _) => pause,
                    (_, Charge::Refused { retry_after_ns }) => {
                        let told: u64 = text(|out| write_retry_after(out, retry_after_ns)).parse().unwrap();
                        prop_assert_eq!(Some(told), t);
                        allowed = 1;
                        told * S
                    }
                    (_, Charge::Admitted(_)) => {
                        allowed = r + 1;
                        t.unwrap_or(0) * S
                    }
                };
            }
        }
    }
}
