//! JSON numbers as exact decimals, for the places where a binary float would decide wrongly.
//!
//! What it is for: bounds and constants of schemas, and numbers of bodies that are near one. What it is not for:
//! arithmetic on the hot path; the tape's integers are compared as integers there.
//!
//! Who calls it: the schema compiler, and the exact run over a body after the fast one could not decide.

use std::cmp::Ordering;

/// An exact number `±0.d₁d₂d₃… × 10^point`, without leading or trailing zero digits. Zero has no digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decimal {
    negative: bool,
    /// Each 0..=9.
    digits: Vec<u8>,
    point: i64,
}

impl Decimal {
    /// Exponents beyond ±2⁵⁸ are held there: no body that fits in memory can tell the difference by its digits.
    const POINT_MAX: i64 = 1 << 58;

    /// Reads the text of a JSON number, whose syntax the caller has checked (RFC 8259 §6).
    pub fn of_text(text: &str) -> Decimal {
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (mantissa, exponent) = match text.find(['e', 'E']) {
            Some(at) => (&text[..at], exponent_of(&text[at + 1..])),
            None => (text, 0),
        };
        let whole = mantissa.find('.').unwrap_or(mantissa.len());
        let mut digits: Vec<u8> =
            mantissa.bytes().filter(u8::is_ascii_digit).map(|digit| digit - b'0').collect();
        let leading = digits.iter().take_while(|&&digit| digit == 0).count();
        digits.drain(..leading);
        while digits.last() == Some(&0) {
            digits.pop();
        }
        if digits.is_empty() {
            return Decimal { negative: false, digits, point: 0 };
        }
        let point = (whole as i64 - leading as i64).saturating_add(exponent);
        Decimal { negative, digits, point: point.clamp(-Self::POINT_MAX, Self::POINT_MAX) }
    }

    /// The exact value of an integer.
    pub fn of_integer(value: i128) -> Decimal {
        Decimal::of_text(&value.to_string())
    }

    /// The value times `10^digits`.
    pub fn shifted(&self, digits: u32) -> Decimal {
        Decimal { point: self.point + if self.is_zero() { 0 } else { i64::from(digits) }, ..self.clone() }
    }

    /// Whether the value is below zero.
    pub fn is_negative(&self) -> bool {
        self.negative
    }

    /// Whether the value is zero (`-0` is).
    pub fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    /// Whether the value has no fraction: `1`, `1.0` and `1e3` are integers (JSON Schema, "integer").
    pub fn is_integer(&self) -> bool {
        self.digits.len() as i64 <= self.point.max(0)
    }

    /// The value, where it is an integer that fits.
    pub fn to_integer(&self) -> Option<i128> {
        if !self.is_integer() || self.point > 39 {
            return None;
        }
        let mut value: i128 = 0;
        for index in 0..self.point as usize {
            let digit = i128::from(self.digits.get(index).copied().unwrap_or(0));
            value = value.checked_mul(10)?.checked_add(digit)?;
        }
        Some(if self.negative { -value } else { value })
    }

    /// The greatest integer not above the value, held within ±2¹²⁶.
    pub fn floor(&self) -> i128 {
        let whole = self.truncated();
        if self.negative && !self.is_integer() { whole - 1 } else { whole }
    }

    /// The least integer not below the value, held within ±2¹²⁶.
    pub fn ceiling(&self) -> i128 {
        let whole = self.truncated();
        if !self.negative && !self.is_integer() { whole + 1 } else { whole }
    }

    /// The nearest binary float (infinite where the value is beyond the range).
    pub fn to_float(&self) -> f64 {
        // The standard library rounds decimal text correctly, whatever its length.
        self.text().parse().unwrap_or(f64::NAN)
    }

    /// One text for each value: equal values have equal texts, different ones different texts.
    pub fn text(&self) -> String {
        if self.is_zero() {
            return "0".to_owned();
        }
        let mut text = String::with_capacity(self.digits.len() + 24);
        if self.negative {
            text.push('-');
        }
        text.push_str("0.");
        text.extend(self.digits.iter().map(|digit| (digit + b'0') as char));
        text.push('e');
        text.push_str(&self.point.to_string());
        text
    }

    /// Whether `self / divisor` is an integer, exactly. `None` where the divisor is zero or has more than 37
    /// digits (no schema of this world has one; the compiler refuses it).
    ///
    /// Cost: O(digits of the value + log of the exponent).
    pub fn is_multiple_of(&self, divisor: &Decimal) -> Option<bool> {
        let modulus = divisor.significand()?;
        if self.is_zero() {
            return Some(true);
        }
        // value = X·10^a, divisor = M·10^b, neither X nor M ending in a zero digit.
        let a = self.point - self.digits.len() as i64;
        let b = divisor.point - divisor.digits.len() as i64;
        if a < b {
            // X would have to be a multiple of ten, which it is not.
            return Some(false);
        }
        let mut rest: u128 = 0;
        for &digit in &self.digits {
            rest = (rest * 10 + u128::from(digit)) % modulus;
        }
        let scale = power(10 % modulus, (a - b) as u64, modulus);
        Some(product(rest, scale, modulus) == 0)
    }

    /// The digits as one whole number, where at most 37 of them.
    fn significand(&self) -> Option<u128> {
        if self.is_zero() || self.digits.len() > 37 {
            return None;
        }
        Some(self.digits.iter().fold(0, |value, &digit| value * 10 + u128::from(digit)))
    }

    fn truncated(&self) -> i128 {
        const FAR: i128 = 1 << 126;
        if self.point > 37 {
            return if self.negative { -FAR } else { FAR };
        }
        let mut value: i128 = 0;
        for index in 0..self.point.max(0) as usize {
            value = value * 10 + i128::from(self.digits.get(index).copied().unwrap_or(0));
        }
        let value = value.min(FAR);
        if self.negative { -value } else { value }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Decimal) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Decimal) -> Ordering {
        match (self.is_zero(), other.is_zero()) {
            (true, true) => return Ordering::Equal,
            (true, false) => return if other.negative { Ordering::Greater } else { Ordering::Less },
            (false, true) => return if self.negative { Ordering::Less } else { Ordering::Greater },
            (false, false) => {}
        }
        if self.negative != other.negative {
            return if self.negative { Ordering::Less } else { Ordering::Greater };
        }
        let magnitude = self.point.cmp(&other.point).then_with(|| self.digits.cmp(&other.digits));
        if self.negative { magnitude.reverse() } else { magnitude }
    }
}

/// The exponent's value, held where it cannot overflow.
fn exponent_of(text: &str) -> i64 {
    let (negative, digits) = match text.as_bytes() {
        [b'-', ..] => (true, &text[1..]),
        [b'+', ..] => (false, &text[1..]),
        _ => (false, text),
    };
    let mut value: i64 = 0;
    for digit in digits.bytes() {
        value = (value * 10 + i64::from(digit - b'0')).min(Decimal::POINT_MAX);
    }
    if negative { -value } else { value }
}

/// `base^exponent mod modulus`.
fn power(mut base: u128, mut exponent: u64, modulus: u128) -> u128 {
    let mut result = 1 % modulus;
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = product(result, base, modulus);
        }
        base = product(base, base, modulus);
        exponent >>= 1;
    }
    result
}

/// `a·b mod modulus` without overflow, for a modulus below 2¹²⁷.
fn product(mut a: u128, mut b: u128, modulus: u128) -> u128 {
    let mut result = 0;
    a %= modulus;
    while b > 0 {
        if b & 1 == 1 {
            result = (result + a) % modulus;
        }
        a = (a + a) % modulus;
        b >>= 1;
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decimal(text: &str) -> Decimal {
        Decimal::of_text(text)
    }

    #[test]
    fn equal_values_have_one_form() {
        for group in [
            &["0", "-0", "0.0", "0e99999999999999999999", "-0.000e-7"][..],
            &["1", "1.0", "10e-1", "0.1e1", "1E0", "100e-2"],
            &["-1200", "-1.2e3", "-12e+2", "-1200.000"],
            &["1e400", "10e399", "0.1e401"],
        ] {
            for text in group {
                assert_eq!(decimal(text), decimal(group[0]), "{text}");
                assert_eq!(decimal(text).text(), decimal(group[0]).text(), "{text}");
            }
        }
    }

    #[test]
    fn order_is_exact() {
        let ascending = [
            "-1e400",
            "-9007199254740993.5",
            "-9007199254740993",
            "-1.5",
            "-1",
            "-1e-400",
            "0",
            "1e-400",
            "0.5",
            "1",
            "1.00000000000000000000001",
            "9",
            "10",
            "9007199254740992",
            "9007199254740993",
            "18446744073709551616",
            "1e400",
        ];
        for (i, a) in ascending.iter().enumerate() {
            for (j, b) in ascending.iter().enumerate() {
                assert_eq!(decimal(a).cmp(&decimal(b)), i.cmp(&j), "{a} {b}");
            }
        }
    }

    #[test]
    fn integers_are_known_by_value() {
        for (text, integer) in [
            ("1", Some(1)),
            ("1.0", Some(1)),
            ("-3e2", Some(-300)),
            ("1.5", None),
            ("15e-1", None),
            ("1e-1", None),
            ("170141183460469231731687303715884105727", Some(i128::MAX)),
            ("170141183460469231731687303715884105728", None),
        ] {
            assert_eq!(decimal(text).to_integer(), integer, "{text}");
        }
        assert!(decimal("1e400").is_integer());
        assert!(!decimal("1.00000000000000000000000001").is_integer());
        assert_eq!((decimal("1.5").floor(), decimal("1.5").ceiling()), (1, 2));
        assert_eq!((decimal("-1.5").floor(), decimal("-1.5").ceiling()), (-2, -1));
        assert_eq!((decimal("0.2").floor(), decimal("-0.2").ceiling()), (0, 0));
        assert_eq!(decimal("1e400").floor(), 1 << 126);
    }

    #[test]
    fn multiples_are_decimal() {
        for (value, divisor, multiple) in [
            ("19.99", "0.01", true),
            ("19.995", "0.01", false),
            ("0.0075", "0.0001", true),
            ("0.00751", "0.0001", false),
            ("1e308", "0.123456789", false),
            ("12391239123", "1e-8", true),
            ("9007199254740993", "2", false),
            ("1e400", "3", false),
            ("3e400", "3", true),
            ("0", "7", true),
            ("-21", "7", true),
            ("4.5", "1.5", true),
            ("1", "1000", false),
        ] {
            assert_eq!(decimal(value).is_multiple_of(&decimal(divisor)), Some(multiple), "{value} {divisor}");
        }
        assert_eq!(decimal("1").is_multiple_of(&decimal("0")), None);
    }
}
