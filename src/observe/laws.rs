//! What holds for every log line, whatever bytes a client sent; for the fuzz target `log_line` and its replay.

use super::format::{Formatter, LogFormat};
use super::record::{AccessRecord, Method, Mode, RingSizes, rings};
use super::request_id::RequestId;

/// The input is cut at its zero bytes into the strings of one record, which goes through a ring and both formats.
///
/// # Panics
/// If a JSON line is not one flat JSON object on one line of UTF-8 with only known fields, or a combined line has
/// other than six quotes or any byte that is not printable ASCII.
pub fn log_line(data: &[u8]) {
    let mut strings = data.split(|byte| *byte == 0);
    let mut next = || strings.next().unwrap_or(b"");
    let record = AccessRecord {
        request_id: RequestId([1; 16]),
        client_request_id: next(),
        method: Method::Other,
        method_name: next(),
        host: next(),
        path: next(),
        query: Some(next()),
        subject: next(),
        key_id: next(),
        referer: next(),
        user_agent: next(),
        status: 403,
        code: 3107,
        reason: "scope_missing",
        mode: Mode::Enforce,
        ..AccessRecord::default()
    };
    for format in [LogFormat::Json, LogFormat::Combined] {
        let mut rings = rings(1, RingSizes { access_bytes: 0, audit_bytes: 0 });
        rings.drain.keep_access();
        assert!(rings.cores[0].push(&record), "an empty ring has room for the longest record");
        let mut line = Vec::new();
        let made = rings.drain.format_all(format, &mut Formatter::default(), &Default::default(), &mut line);
        assert_eq!(made, 1);
        let line = std::str::from_utf8(&line).expect("a line is UTF-8");
        let line = line.strip_suffix('\n').expect("a line ends");
        match format {
            LogFormat::Json => {
                assert!(!line.contains(|c: char| c.is_control()), "{line:?}");
                assert_eq!(flat_object(line), Some(""), "{line:?}");
            }
            LogFormat::Combined => {
                assert!(line.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{line:?}");
                assert_eq!(line.matches('"').count(), 6, "{line:?}");
            }
        }
    }
}

/// Reads `{"known":value,…}` where a value is a string, a number or a list of strings; what follows it.
fn flat_object(text: &str) -> Option<&str> {
    const KNOWN: [&str; 16] = [
        "time",
        "request_id",
        "method",
        "host",
        "path",
        "status",
        "reason",
        "code",
        "mode",
        "subject",
        "key_id",
        "bytes_in",
        "bytes_out",
        "duration_us",
        "overhead_us",
        "flags",
    ];
    let mut rest = text.strip_prefix('{')?;
    let mut seen = Vec::new();
    loop {
        let (name, after) = string(rest)?;
        assert!(KNOWN.contains(&name) && !seen.contains(&name), "{name} is forged: {text:?}");
        seen.push(name);
        rest = value(after.strip_prefix(':')?)?;
        match rest.strip_prefix(',') {
            Some(after) => rest = after,
            None => return rest.strip_prefix('}'),
        }
    }
}

fn value(text: &str) -> Option<&str> {
    if text.starts_with('"') {
        return string(text).map(|(_, rest)| rest);
    }
    if let Some(mut rest) = text.strip_prefix('[') {
        loop {
            rest = string(rest)?.1;
            match rest.strip_prefix(',') {
                Some(after) => rest = after,
                None => return rest.strip_prefix(']'),
            }
        }
    }
    let rest = text.trim_start_matches(|c: char| c.is_ascii_digit());
    (rest.len() < text.len()).then_some(rest)
}

/// A JSON string (RFC 8259 §7), still escaped, and what follows it.
fn string(text: &str) -> Option<(&str, &str)> {
    let inside = text.strip_prefix('"')?;
    let mut characters = inside.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((&inside[..at], &inside[at + 1..])),
            '\\' => match characters.next()?.1 {
                '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't' => {}
                'u' => {
                    for _ in 0..4 {
                        characters.next().filter(|(_, digit)| digit.is_ascii_hexdigit())?;
                    }
                }
                _ => return None,
            },
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_law_itself_sees_what_is_wrong() {
        assert_eq!(flat_object(r#"{"time":"a\"\u00ff","status":1,"flags":["x","y"]}"#), Some(""));
        for bad in
            [r#"{"time":"a"b"}"#, r#"{"time":"a\x"}"#, r#"{"time":}"#, r#"{"time":"a""#, r#"{"flags":[]}"#]
        {
            assert_eq!(flat_object(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_law_holds_for_any_byte_anywhere() {
        for byte in 0..=255u8 {
            for field in 0..9 {
                let mut data = vec![b'a'];
                data.extend(std::iter::repeat_n(0, field));
                data.extend([b'x', byte, b'\\', byte]);
                log_line(&data);
            }
        }
    }
}
