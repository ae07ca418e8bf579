//! How long a caller waits: `grpc-timeout`, read and written.
//!
//! For: the pipeline, which ends a call when either the caller's time or the operation's is over ([`deadline_ns`]), and tells
//! the upstream what is left. Not for: clocks, which it reads.

use std::time::Duration;

use crate::http::{FieldSet, Reason, RequestTable};

/// The caller's timeout cannot be read, or there are several.
pub const GRPC_TIMEOUT_SYNTAX: Reason =
    Reason::client("grpc_timeout_syntax", 2450, 400, "grpc-timeout is malformed");
/// The time is over that the caller gave the call.
pub const GRPC_DEADLINE: Reason =
    Reason::client("grpc_deadline", 2457, 504, "The caller's deadline has passed");

/// The field's name.
pub const NAME: &str = "grpc-timeout";
/// Most digits of a timeout (PROTOCOL-HTTP2, "Requests", TimeoutValue).
pub const DIGITS_MAX: usize = 8;
/// The largest number that fits.
const NUMBER_MAX: u128 = 99_999_999;

/// The units, from the finest, with their nanoseconds.
const UNITS: [(u8, u128); 6] = [
    (b'n', 1),
    (b'u', 1_000),
    (b'm', 1_000_000),
    (b'S', 1_000_000_000),
    (b'M', 60_000_000_000),
    (b'H', 3_600_000_000_000),
];

/// The timeout of a request; `None` if it has none, and then the call may take for ever as far as its caller is concerned.
///
/// # Errors
/// [`GRPC_TIMEOUT_SYNTAX`], also where there are two: nobody knows which of them the next one takes.
pub fn of(table: &RequestTable, head: &[u8]) -> Result<Option<Duration>, Reason> {
    let mut values = table.fields.find_names(head, NAME.as_bytes()).map(|(_, value)| value);
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => parse(value).map(Some).ok_or(GRPC_TIMEOUT_SYNTAX),
        (Some(_), Some(_)) => Err(GRPC_TIMEOUT_SYNTAX),
    }
}

/// Reads a timeout: one to eight digits and a unit, nothing else. Zero is a timeout that is over: PROTOCOL-HTTP2 wants a
/// positive number, but clients round down what is left to them.
pub fn parse(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=DIGITS_MAX).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let (_, unit_ns) = UNITS.into_iter().find(|(letter, _)| letter == unit)?;
    let number = digits.iter().fold(0, |number, digit| number * 10 + u128::from(digit - b'0'));
    // At most 99,999,999 hours, which are 3.6e11 seconds.
    let ns = number * unit_ns;
    Some(Duration::new((ns / 1_000_000_000) as u64, (ns % 1_000_000_000) as u32))
}

/// Appends the value for what is left, in the finest unit in which eight digits suffice, rounded up: the upstream may not give
/// up before we do, and gets less than one unit more, 0.01 ‰ of what it has. More than 99,999,999 hours are that many.
pub fn push(left: Duration, out: &mut Vec<u8>) {
    let ns = left.as_nanos();
    let fits = UNITS.into_iter().find(|(_, unit_ns)| ns.div_ceil(*unit_ns) <= NUMBER_MAX);
    let (letter, number) = match fits {
        Some((letter, unit_ns)) => (letter, ns.div_ceil(unit_ns) as u32),
        None => (b'H', NUMBER_MAX as u32),
    };
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
    out.push(letter);
}

/// Has the request say what is left instead of what its caller said: the caller's fields go to `skip`, ours to `inserts`.
pub fn forward(
    table: &RequestTable,
    head: &[u8],
    left: Duration,
    skip: &mut FieldSet,
    inserts: &mut Vec<u8>,
) {
    for (index, _) in table.fields.find_names(head, NAME.as_bytes()) {
        skip.insert(index);
    }
    inserts.extend_from_slice(NAME.as_bytes());
    inserts.extend_from_slice(b": ");
    push(left, inserts);
    inserts.extend_from_slice(b"\r\n");
}

/// When a call ends that began at `started_ns`: when its caller's time is over, or the `total` of its operation, whichever is
/// first. A caller can only shorten what the operator allows.
pub fn deadline_ns(started_ns: u64, timeout: Option<Duration>, total: Duration) -> u64 {
    let allowed = timeout.map_or(total, |timeout| timeout.min(total));
    started_ns.saturating_add(u64::try_from(allowed.as_nanos()).unwrap_or(u64::MAX))
}

/// Whether it is the caller's own deadline that ends the call, so that the reason is [`GRPC_DEADLINE`] and not the operation's.
pub fn is_callers(timeout: Option<Duration>, total: Duration) -> bool {
    timeout.is_some_and(|timeout| timeout <= total)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(left: Duration) -> String {
        let mut out = Vec::new();
        push(left, &mut out);
        String::from_utf8(out).expect("ASCII")
    }

    #[test]
    fn timeouts_are_read() {
        // PROTOCOL-HTTP2 "Requests", Timeout.
        for (value, expected) in [
            ("1S", Duration::from_secs(1)),
            ("0n", Duration::ZERO),
            ("0H", Duration::ZERO),
            ("00000001m", Duration::from_millis(1)),
            ("100m", Duration::from_millis(100)),
            ("99999999n", Duration::from_nanos(99_999_999)),
            ("99999999u", Duration::from_micros(99_999_999)),
            ("2M", Duration::from_secs(120)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(parse(value.as_bytes()), Some(expected), "{value}");
        }
        for value in [
            "",
            "S",
            "1",
            "1s",
            "1h",
            "1U",
            "1N",
            "123456789S",
            "000000001S",
            "-1S",
            "+1S",
            "1.5S",
            " 1S",
            "1S ",
            "1 S",
            "1SS",
            "0x1S",
            "１S",
            "1S,2S",
            "infinity",
        ] {
            assert_eq!(parse(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn what_is_left_is_rounded_up_by_less_than_a_unit() {
        for (left, expected) in [
            (Duration::ZERO, "0n"),
            (Duration::from_nanos(1), "1n"),
            (Duration::from_nanos(99_999_999), "99999999n"),
            (Duration::from_nanos(100_000_000), "100000u"),
            (Duration::from_nanos(100_000_001), "100001u"),
            (Duration::from_micros(99_999_999), "99999999u"),
            (Duration::from_nanos(99_999_999_001), "100000m"),
            (Duration::from_secs(100), "100000m"),
            (Duration::from_secs(99_999), "99999000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::from_secs(99_999_999), "99999999S"),
            (Duration::from_secs(100_000_000), "1666667M"),
            (Duration::from_secs(99_999_999 * 60 + 1), "1666667H"),
            (Duration::from_secs(99_999_999 * 3600), "99999999H"),
            (Duration::from_secs(99_999_999 * 3600 + 1), "99999999H"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(pushed(left), expected, "{left:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_no_less_and_hardly_more() {
        let mut state = 1u64;
        for _ in 0..100_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let left = Duration::from_nanos(state >> (state >> 58));
            let text = pushed(left);
            let read = parse(text.as_bytes()).expect("our own");
            assert!(read >= left, "{text}");
            assert!((read - left).as_nanos() * 99_999 <= left.as_nanos(), "{left:?} {text}");
            assert_eq!(pushed(read), text);
        }
    }

    #[test]
    fn a_caller_shortens_and_never_lengthens() {
        let total = Duration::from_secs(60);
        let second = Duration::from_secs(1);
        assert_eq!(deadline_ns(5, None, total), 60_000_000_005);
        assert_eq!(deadline_ns(5, Some(second), total), 1_000_000_005);
        assert_eq!(deadline_ns(5, Some(second * 61), total), 60_000_000_005);
        assert_eq!(deadline_ns(5, Some(Duration::ZERO), total), 5);
        assert_eq!(deadline_ns(u64::MAX - 1, Some(Duration::MAX), Duration::MAX), u64::MAX);
        assert!(is_callers(Some(second), total) && is_callers(Some(total), total));
        assert!(!is_callers(Some(second * 61), total) && !is_callers(None, total));
    }

    #[test]
    fn a_request_has_one_timeout_or_none() {
        use crate::h1::parse::parse_request;
        use crate::http::HeadLimits;
        for (fields, expected) in [
            ("", Ok(None)),
            ("grpc-timeout: 5S\r\n", Ok(Some(Duration::from_secs(5)))),
            ("Grpc-Timeout: 5S\r\n", Ok(Some(Duration::from_secs(5)))),
            ("grpc-timeout: 5\r\n", Err(GRPC_TIMEOUT_SYNTAX)),
            ("grpc-timeout:\r\n", Err(GRPC_TIMEOUT_SYNTAX)),
            ("grpc-timeout: 5S\r\ngrpc-timeout: 5S\r\n", Err(GRPC_TIMEOUT_SYNTAX)),
            ("grpc-timeouts: 5\r\n", Ok(None)),
        ] {
            let head = format!("POST /a/b HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n{fields}\r\n");
            let mut table = RequestTable::new();
            parse_request(head.as_bytes(), &HeadLimits::DEFAULT, &mut table).expect("a head");
            assert_eq!(of(&table, head.as_bytes()), expected, "{fields}");
            let (mut skip, mut inserts) = (FieldSet::EMPTY, b"a: 1\r\n".to_vec());
            forward(&table, head.as_bytes(), Duration::from_millis(1500), &mut skip, &mut inserts);
            assert_eq!(inserts, b"a: 1\r\ngrpc-timeout: 1500000u\r\n");
            assert_eq!(skip.len(), fields.to_ascii_lowercase().matches("grpc-timeout:").count());
        }
    }
}
