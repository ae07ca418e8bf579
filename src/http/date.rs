//! `Date` as HTTP writes it, made at most once a second.
//!
//! For: whoever sends a response that has none (RFC 9110 §6.6.1: an origin server must, and so must who forwards one without
//! it). Not for: reading dates, the clock itself. Cost: a comparison and a copy of 37 bytes; a division or so once a second.

/// The line of the current second.
#[derive(Clone, Debug)]
pub struct DateLine {
    /// Seconds since 1970 that `line` tells.
    second: u64,
    line: [u8; LINE_BYTES],
}

const LINE_BYTES: usize = 37;
const DAYS: [&[u8; 3]; 7] = [b"Thu", b"Fri", b"Sat", b"Sun", b"Mon", b"Tue", b"Wed"];
const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

impl DateLine {
    /// The line of the first second of 1970.
    pub fn new() -> DateLine {
        DateLine { second: 0, line: written(0) }
    }

    /// Appends `date: Sun, 06 Nov 1994 08:49:37 GMT` CRLF for `unix_s`, seconds since 1970.
    #[inline]
    pub fn push(&mut self, out: &mut Vec<u8>, unix_s: u64) {
        if unix_s != self.second {
            self.second = unix_s;
            self.line = written(unix_s);
        }
        out.extend_from_slice(&self.line);
    }
}

impl Default for DateLine {
    fn default() -> DateLine {
        DateLine::new()
    }
}

/// RFC 9110 §5.6.7: `IMF-fixdate`.
#[cold]
fn written(unix_s: u64) -> [u8; LINE_BYTES] {
    let (days, second) = (unix_s / 86_400, unix_s % 86_400);
    let (year, month, day) = civil(days);
    let mut line = *b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n";
    line[6..9].copy_from_slice(DAYS[(days % 7) as usize]);
    put(&mut line, 11, day);
    line[14..17].copy_from_slice(MONTHS[(month - 1) as usize]);
    put(&mut line, 18, year / 100);
    put(&mut line, 20, year % 100);
    put(&mut line, 23, second / 3_600);
    put(&mut line, 26, second / 60 % 60);
    put(&mut line, 29, second % 60);
    line
}

/// Two digits.
fn put(line: &mut [u8; LINE_BYTES], at: usize, number: u64) {
    line[at] = b'0' + (number / 10 % 10) as u8;
    line[at + 1] = b'0' + (number % 10) as u8;
}

/// Year, month and day of the Gregorian calendar, `days` after 1 January 1970. Years are counted from March, so that the day
/// that leap years add is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_TO_1970: u64 = 719_468;
    const CYCLE: u64 = 146_097;
    let days = days + DAYS_TO_1970;
    let (cycle, of_cycle) = (days / CYCLE, days % CYCLE);
    let year_of_cycle = (of_cycle - of_cycle / 1_460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let of_year = of_cycle - (365 * year_of_cycle + year_of_cycle / 4 - year_of_cycle / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = cycle * 400 + year_of_cycle + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_day_is_the_one_of_the_calendar() {
        let mut date = DateLine::new();
        // Every day to the year 2400, each at another second of it.
        for day in 0..157_000u64 {
            let unix_s = day * 86_400 + day * 7_919 % 86_400;
            let moment = jiff::Timestamp::from_second(unix_s as i64).expect("a moment");
            let expected =
                moment.to_zoned(jiff::tz::TimeZone::UTC).strftime("date: %a, %d %b %Y %H:%M:%S GMT\r\n");
            let mut out = Vec::new();
            date.push(&mut out, unix_s);
            assert_eq!(String::from_utf8(out).expect("text"), expected.to_string());
        }
    }

    #[test]
    fn a_second_has_one_line() {
        let (mut date, mut out) = (DateLine::new(), Vec::new());
        date.push(&mut out, 0);
        date.push(&mut out, 784_111_777);
        date.push(&mut out, 784_111_777);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "date: Thu, 01 Jan 1970 00:00:00 GMT\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             date: Sun, 06 Nov 1994 08:49:37 GMT\r\n"
        );
    }
}
