//! Records into lines: JSON, or the combined format of NCSA and Apache.
//!
//! For: the writer thread, which appends lines to its buffer. Not for: deciding what is recorded. Nothing here
//! allocates in steady state and nothing goes through `fmt` except IPv6 addresses.
//!
//! A JSON line is always one line of valid UTF-8 and valid JSON, whatever bytes a client sent: control characters,
//! line separators and bidirectional controls are escaped, invalid UTF-8 becomes U+FFFD. A combined line has its
//! quotes, backslashes, control bytes and bytes above 0x7e as `\xNN`, so that no field can end early.

use std::net::IpAddr;

use super::names::{Kind, NameTable};
use super::record::{AccessRecord, AdminRecord, Alpn, Decoded, Flags, Method, Mode, Protocol, TlsVersion};
use super::redact::{redact_query, redact_shapes, redact_url, redacted};
use super::request_id::push_hex;
use crate::http::address::push_address;

/// Form of access log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// One JSON object a line, with the fields of `conventions`.
    #[default]
    Json,
    /// NCSA combined, as goaccess and others read it.
    Combined,
}

/// What a JSON line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineKind {
    Access,
    /// A refusal in the audit log: no answer was sent yet, so there are no sizes and durations.
    Refusal,
}

/// Makes lines; keeps scratch and the text of the current second.
pub struct Formatter {
    second: u64,
    /// `2026-11-21T21:41:01.`
    rfc3339: [u8; 20],
    /// `21/Nov/2026:21:41:01 +0000`
    clf: [u8; 26],
    scratch: Vec<u8>,
    numbers: itoa::Buffer,
}

impl Default for Formatter {
    fn default() -> Formatter {
        Formatter {
            second: 0,
            rfc3339: *b"1970-01-01T00:00:00.",
            clf: *b"01/Jan/1970:00:00:00 +0000",
            scratch: Vec::with_capacity(8 << 10),
            numbers: itoa::Buffer::new(),
        }
    }
}

impl Formatter {
    /// Appends one line for an access record.
    pub fn access(
        &mut self,
        format: LogFormat,
        record: &AccessRecord<'_>,
        names: &NameTable,
        out: &mut Vec<u8>,
    ) {
        match format {
            LogFormat::Json => self.json(LineKind::Access, record, names, out),
            LogFormat::Combined => self.combined(record, out),
        }
    }

    /// Appends one line for a record of the audit ring.
    pub(super) fn audit(&mut self, record: &Decoded<'_>, names: &NameTable, out: &mut Vec<u8>) {
        match record {
            Decoded::Access(record) => self.json(LineKind::Refusal, record, names, out),
            Decoded::Admin(record) => self.admin(record, out),
        }
    }

    /// Appends a line that tells of lost records.
    pub(super) fn lost(
        &mut self,
        time_ms: u64,
        event: &str,
        code: u16,
        core: usize,
        lost: u64,
        out: &mut Vec<u8>,
    ) {
        self.time(time_ms, out);
        self.text(out, b",\"event\":\"", event.as_bytes());
        self.number(out, b"\",\"code\":\"RW-", u64::from(code));
        self.number(out, b"\",\"core\":", core as u64);
        self.number(out, b",\"lost\":", lost);
        out.extend_from_slice(b"}\n");
    }

    /// Fields in the order of `conventions`; absent = not there.
    pub(super) fn json(
        &mut self,
        kind: LineKind,
        record: &AccessRecord<'_>,
        names: &NameTable,
        out: &mut Vec<u8>,
    ) {
        out.reserve(1024);
        self.time(record.time_ms, out);
        if kind == LineKind::Refusal {
            out.extend_from_slice(b",\"event\":\"refusal\"");
        }
        if !record.client_request_id.is_empty() {
            out.extend_from_slice(b",\"request_id\":");
            push_json_string(out, &redacted(record.client_request_id));
        } else if record.request_id.0 != [0; 16] {
            self.text(out, b",\"request_id\":\"", &record.request_id.format());
            out.push(b'"');
        }
        if record.trace_id != [0; 16] {
            let mut hex = [0; 32];
            push_hex(&mut hex, &record.trace_id);
            self.text(out, b",\"trace_id\":\"", &hex);
            out.push(b'"');
        }
        named(out, b",\"listener\":", names, Kind::Listener, record.listener.0);
        let mut client_start = 0;
        if let Some(client) = record.client {
            out.extend_from_slice(b",\"client\":\"");
            client_start = out.len();
            push_address(out, client);
            out.push(b'"');
        }
        if let Some(peer) = record.peer {
            out.extend_from_slice(b",\"peer\":\"");
            match peer.ip() {
                // Without a proxy in front the peer is the client, whose address was just written.
                ip @ IpAddr::V4(_) if record.client == Some(ip) => {
                    let client_end = out.len() - b"\",\"peer\":\"".len();
                    out.extend_from_within(client_start..client_end);
                }
                IpAddr::V4(_) => push_address(out, peer.ip()),
                IpAddr::V6(_) => {
                    out.push(b'[');
                    push_address(out, peer.ip());
                    out.push(b']');
                }
            }
            self.number(out, b":", u64::from(peer.port()));
            out.push(b'"');
        }
        out.extend_from_slice(match record.tls {
            TlsVersion::None => b"".as_slice(),
            TlsVersion::Tls12 => b",\"tls\":\"1.2\"",
            TlsVersion::Tls13 => b",\"tls\":\"1.3\"",
        });
        out.extend_from_slice(match record.alpn {
            Alpn::None => b"".as_slice(),
            Alpn::Http11 => b",\"alpn\":\"http/1.1\"",
            Alpn::H2 => b",\"alpn\":\"h2\"",
            Alpn::H3 => b",\"alpn\":\"h3\"",
        });
        out.extend_from_slice(match record.protocol {
            Protocol::None => b"".as_slice(),
            Protocol::Http10 => b",\"protocol\":\"HTTP/1.0\"",
            Protocol::Http11 => b",\"protocol\":\"HTTP/1.1\"",
            Protocol::Http2 => b",\"protocol\":\"HTTP/2\"",
            Protocol::Http3 => b",\"protocol\":\"HTTP/3\"",
        });
        let method = method_of(record);
        if !method.is_empty() {
            out.extend_from_slice(b",\"method\":");
            push_json_string(out, method);
        }
        if !record.host.is_empty() {
            out.extend_from_slice(b",\"host\":");
            push_json_string(out, &redacted(record.host));
        }
        if !record.path.is_empty() || record.query.is_some() {
            self.target(record);
            out.extend_from_slice(b",\"path\":");
            push_json_string(out, &self.scratch);
        }
        named(out, b",\"api\":", names, Kind::Api, record.api.0);
        named(out, b",\"operation\":", names, Kind::Operation, record.operation.0);
        if record.status != 0 {
            self.number(out, b",\"status\":", u64::from(record.status));
        }
        if let Some(status) = record.grpc_status {
            self.number(out, b",\"grpc_status\":", u64::from(status));
        }
        if !record.reason.is_empty() {
            out.extend_from_slice(b",\"reason\":");
            push_json_string(out, record.reason.as_bytes());
        }
        if record.code != 0 {
            self.number(out, b",\"code\":\"RW-", u64::from(record.code));
            out.push(b'"');
        }
        if record.mode != Mode::Off {
            self.text(out, b",\"mode\":\"", record.mode.name().as_bytes());
            out.push(b'"');
        }
        named(out, b",\"login\":", names, Kind::Login, record.login.0);
        if !record.subject.is_empty() {
            out.extend_from_slice(b",\"subject\":");
            push_json_string(out, &redacted(record.subject));
        }
        if !record.key_id.is_empty() {
            out.extend_from_slice(b",\"key_id\":");
            push_json_string(out, &redacted(record.key_id));
        }
        named(out, b",\"upstream\":", names, Kind::Upstream, record.upstream.0);
        named(out, b",\"target\":", names, Kind::Target, record.target.0);
        if record.tries != 0 {
            self.number(out, b",\"tries\":", u64::from(record.tries));
        }
        if kind == LineKind::Access {
            self.number(out, b",\"bytes_in\":", record.bytes_in);
            self.number(out, b",\"bytes_out\":", record.bytes_out);
            self.number(out, b",\"duration_us\":", record.duration_us);
            self.number(out, b",\"overhead_us\":", u64::from(record.overhead_us));
            if record.upstream_us != 0 {
                self.number(out, b",\"upstream_us\":", record.upstream_us);
            }
            if record.flags.0 & Flags::UPGRADED.0 != 0 {
                self.number(out, b",\"messages\":", record.messages);
            }
        }
        if record.flags != Flags::default() {
            push_flags(out, record.flags);
        }
        if record.config != 0 {
            self.number(out, b",\"config\":", record.config);
        }
        out.extend_from_slice(b"}\n");
    }

    fn admin(&mut self, record: &AdminRecord<'_>, out: &mut Vec<u8>) {
        self.time(record.time_ms, out);
        out.extend_from_slice(b",\"event\":\"admin\"");
        let fields: [(&[u8], &str); 5] = [
            (b",\"action\":", record.action),
            (b",\"actor\":", record.actor),
            (b",\"object\":", record.object),
            (b",\"outcome\":", record.outcome),
            (b",\"detail\":", record.detail),
        ];
        for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
            out.extend_from_slice(name);
            push_json_string(out, &redacted(value.as_bytes()));
        }
        if record.config != 0 {
            self.number(out, b",\"config\":", record.config);
        }
        out.extend_from_slice(b"}\n");
    }

    /// `%h - %u %t "%r" %>s %b "%{Referer}i" "%{User-agent}i"`.
    fn combined(&mut self, record: &AccessRecord<'_>, out: &mut Vec<u8>) {
        match record.client.or(record.peer.map(|peer| peer.ip())) {
            Some(client) => push_address(out, client),
            None => out.push(b'-'),
        }
        out.extend_from_slice(b" - ");
        push_combined(out, &redacted(record.subject), true);
        self.set_second(record.time_ms / 1000);
        self.text(out, b" [", &self.clf);
        out.extend_from_slice(b"] \"");
        let method = method_of(record);
        if method.is_empty() {
            // The head was not understood; there is no request line to show.
            out.push(b'-');
        } else {
            push_combined(out, method, true);
            out.push(b' ');
            self.target(record);
            push_combined(out, &self.scratch, true);
            out.extend_from_slice(match record.protocol {
                Protocol::None => b"".as_slice(),
                Protocol::Http10 => b" HTTP/1.0",
                Protocol::Http11 => b" HTTP/1.1",
                Protocol::Http2 => b" HTTP/2.0",
                Protocol::Http3 => b" HTTP/3.0",
            });
        }
        out.extend_from_slice(b"\" ");
        if record.status == 0 {
            // As others do where the client left before an answer; a dash would not be a number.
            out.extend_from_slice(b"499");
        } else {
            self.number(out, b"", u64::from(record.status));
        }
        if record.bytes_out == 0 {
            out.extend_from_slice(b" - \"");
        } else {
            self.number(out, b" ", record.bytes_out);
            out.extend_from_slice(b" \"");
        }
        self.scratch.clear();
        redact_url(record.referer, &mut self.scratch);
        push_combined(out, &self.scratch, false);
        out.extend_from_slice(b"\" \"");
        push_combined(out, &redacted(record.user_agent), false);
        out.extend_from_slice(b"\"\n");
    }

    /// Path and redacted query into the scratch.
    fn target(&mut self, record: &AccessRecord<'_>) {
        self.scratch.clear();
        redact_shapes(record.path, &mut self.scratch);
        if let Some(query) = record.query {
            self.scratch.push(b'?');
            redact_query(query, &mut self.scratch);
        }
    }

    /// `{"time":"…"`, RFC 3339 in UTC with milliseconds.
    fn time(&mut self, time_ms: u64, out: &mut Vec<u8>) {
        self.set_second(time_ms / 1000);
        let ms = time_ms % 1000;
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(&self.rfc3339);
        out.extend_from_slice(&[digit(ms / 100), digit(ms / 10), digit(ms), b'Z', b'"']);
    }

    fn set_second(&mut self, second: u64) {
        if second == self.second {
            return;
        }
        self.second = second;
        let (year, month, day) = date_of(second / 86_400);
        let in_day = second % 86_400;
        let (hour, minute, second) = (in_day / 3600, in_day / 60 % 60, in_day % 60);
        let year_digits = [digit(year / 1000), digit(year / 100), digit(year / 10), digit(year)];
        self.rfc3339[0..4].copy_from_slice(&year_digits);
        self.clf[7..11].copy_from_slice(&year_digits);
        self.clf[3..6].copy_from_slice(MONTHS[month as usize - 1]);
        let pairs = [
            (5, None, month),
            (8, Some(0), day),
            (11, Some(12), hour),
            (14, Some(15), minute),
            (17, Some(18), second),
        ];
        for (at, clf_at, value) in pairs {
            let two = [digit(value / 10), digit(value)];
            self.rfc3339[at..at + 2].copy_from_slice(&two);
            if let Some(at) = clf_at {
                self.clf[at..at + 2].copy_from_slice(&two);
            }
        }
    }

    #[inline]
    fn number(&mut self, out: &mut Vec<u8>, before: &[u8], value: u64) {
        out.extend_from_slice(before);
        out.extend_from_slice(self.numbers.format(value).as_bytes());
    }

    #[inline]
    fn text(&self, out: &mut Vec<u8>, before: &[u8], text: &[u8]) {
        out.extend_from_slice(before);
        out.extend_from_slice(text);
    }
}

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];

#[inline]
fn digit(value: u64) -> u8 {
    b'0' + (value % 10) as u8
}

/// Year, month and day of a day count since 1970-01-01 (proleptic Gregorian), by eras of 400 years that start in
/// March, so that the leap day comes last.
fn date_of(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * march_month + 2) / 5 + 1;
    let month = if march_month < 10 { march_month + 3 } else { march_month - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn method_of<'a>(record: &AccessRecord<'a>) -> &'a [u8] {
    match record.method {
        Method::Other => record.method_name,
        named => named.name().as_bytes(),
    }
}

fn named(out: &mut Vec<u8>, field: &[u8], names: &NameTable, kind: Kind, id: u32) {
    if id == 0 {
        return;
    }
    // Operation 0 of an API ("none matched") has no name and is left out like all that has none.
    if let Some(json) = names.json(kind, id) {
        out.extend_from_slice(field);
        out.extend_from_slice(json);
    }
}

#[cold]
fn push_flags(out: &mut Vec<u8>, flags: Flags) {
    out.extend_from_slice(b",\"flags\":[");
    let mut comma = false;
    for (_, name) in Flags::NAMES.iter().filter(|(flag, _)| flags.has(*flag)) {
        if comma {
            out.push(b',');
        }
        comma = true;
        out.push(b'"');
        out.extend_from_slice(name.as_bytes());
        out.push(b'"');
    }
    out.push(b']');
}

/// Bytes that stand for themselves in a JSON string of ASCII.
static PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0x20;
    while byte < 0x7f {
        plain[byte] = byte != b'"' as usize && byte != b'\\' as usize;
        byte += 1;
    }
    plain
};

/// Whether eight bytes all stand for themselves, told by arithmetic on all at once. Says no too often never matters.
#[inline]
fn plain_word(word: u64) -> bool {
    const ONES: u64 = u64::MAX / 255;
    const HIGH: u64 = ONES << 7;
    // The high bit of a byte is set in `x - 1` or `x` itself if x is zero, or above 0x80.
    let zero = |bytes: u64| bytes.wrapping_sub(ONES) & !bytes;
    let control = word.wrapping_sub(ONES * 0x20);
    let quote = zero(word ^ (ONES * u64::from(b'"')));
    let backslash = zero(word ^ (ONES * u64::from(b'\\')));
    // 0x7f and everything above it.
    let high = word.wrapping_add(ONES) | word;
    (control | quote | backslash | high) & HIGH == 0
}

/// The number of bytes at the start that may be copied as they are.
#[inline]
fn plain_prefix(bytes: &[u8]) -> usize {
    let (words, _) = bytes.as_chunks::<8>();
    let plain = words.iter().take_while(|word| plain_word(u64::from_le_bytes(**word))).count() * 8;
    let rest = &bytes[plain..];
    plain + rest.iter().position(|byte| !PLAIN[usize::from(*byte)]).unwrap_or(rest.len())
}

/// Appends a quoted JSON string for any bytes.
pub(super) fn push_json_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    let plain = plain_prefix(bytes);
    out.extend_from_slice(&bytes[..plain]);
    if plain < bytes.len() {
        push_json_slow(out, &bytes[plain..]);
    }
    out.push(b'"');
}

#[cold]
fn push_json_slow(out: &mut Vec<u8>, bytes: &[u8]) {
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                '\n' => out.extend_from_slice(b"\\n"),
                '\r' => out.extend_from_slice(b"\\r"),
                '\t' => out.extend_from_slice(b"\\t"),
                plain if !is_dangerous(plain) => {
                    out.extend_from_slice(plain.encode_utf8(&mut [0; 4]).as_bytes());
                }
                other => {
                    for unit in other.encode_utf16(&mut [0; 2]) {
                        let mut hex = [0; 4];
                        push_hex(&mut hex, &unit.to_be_bytes());
                        out.extend_from_slice(b"\\u");
                        out.extend_from_slice(&hex);
                    }
                }
            }
        }
        if !chunk.invalid().is_empty() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
}

/// Valid in JSON but able to deceive a terminal, a viewer or a splitter of lines: C0, DEL and C1 controls, line and
/// paragraph separators, zero-width and bidirectional controls, the byte order mark, tags.
fn is_dangerous(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

/// Appends a field of the combined format; `-` if empty. `word`: a space would end the field.
fn push_combined(out: &mut Vec<u8>, bytes: &[u8], word: bool) {
    if bytes.is_empty() {
        return out.push(b'-');
    }
    for byte in bytes {
        if PLAIN[usize::from(*byte)] && !(word && *byte == b' ') {
            out.push(*byte);
        } else {
            let mut hex = [0; 2];
            push_hex(&mut hex, &[*byte]);
            out.extend_from_slice(b"\\x");
            out.extend_from_slice(&hex.map(|digit| digit.to_ascii_uppercase()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::RequestId;

    fn json_string(bytes: &[u8]) -> String {
        let mut out = Vec::new();
        push_json_string(&mut out, bytes);
        String::from_utf8(out).expect("always UTF-8")
    }

    #[test]
    fn dates_agree_with_a_calendar_library() {
        let mut formatter = Formatter::default();
        let far = 4_102_444_800;
        let seconds =
            (0..far).step_by(86_400 * 13 + 3_607).chain([951_782_400, 951_868_799, 1_709_164_800, far]);
        for second in seconds {
            formatter.set_second(second);
            let time = jiff::Timestamp::from_second(second as i64).expect("in range");
            assert_eq!(
                String::from_utf8_lossy(&formatter.rfc3339),
                time.strftime("%Y-%m-%dT%H:%M:%S.").to_string()
            );
            assert_eq!(
                String::from_utf8_lossy(&formatter.clf),
                time.strftime("%d/%b/%Y:%H:%M:%S +0000").to_string()
            );
        }
    }

    #[test]
    fn strings_are_always_json_of_one_line() {
        assert_eq!(json_string(b"plain /v1?x=y"), "\"plain /v1?x=y\"");
        assert_eq!(json_string(b"a\"b\\c\nd\r\t\x00\x1b\x7f"), r#""a\"b\\c\nd\r\t\u0000\u001b\u007f""#);
        assert_eq!(json_string("é✓𝄞".as_bytes()), "\"é✓𝄞\"");
        assert_eq!(json_string(b"\xff\xfeab\xc3"), "\"\\ufffd\\ufffdab\\ufffd\"");
        assert_eq!(
            json_string("\u{2028}\u{202e}\u{85}\u{e0041}".as_bytes()),
            r#""\u2028\u202e\u0085\udb40\udc41""#
        );
        for byte in 0..=255u8 {
            let text = json_string(&[b'a', byte, b'b']);
            serde_json::from_str::<String>(&text).expect("valid");
            assert!(!text.contains(|c: char| c.is_control()));
        }
    }

    #[test]
    fn the_plain_prefix_is_found_at_every_place() {
        for byte in 0..=255u8 {
            for at in 0..20 {
                for before in [b' ', b'a', b'~', b'!', b'#', b'[', b']'] {
                    let mut bytes = [before; 20];
                    bytes[at] = byte;
                    let expected = bytes.iter().position(|byte| !PLAIN[usize::from(*byte)]).unwrap_or(20);
                    assert_eq!(plain_prefix(&bytes), expected, "{byte:#x} at {at} after {before:#x}");
                }
            }
        }
    }

    #[test]
    fn absent_fields_are_not_there() {
        let mut out = Vec::new();
        Formatter::default().access(
            LogFormat::Json,
            &AccessRecord::default(),
            &NameTable::default(),
            &mut out,
        );
        assert_eq!(
            String::from_utf8_lossy(&out),
            "{\"time\":\"1970-01-01T00:00:00.000Z\",\"bytes_in\":0,\"bytes_out\":0,\"duration_us\":0,\"overhead_us\":0}\n"
        );
    }

    #[test]
    fn a_combined_line_is_what_apache_writes() {
        let record = AccessRecord {
            time_ms: 971_211_336_000,
            request_id: RequestId([1; 16]),
            client: Some("127.0.0.1".parse().expect("address")),
            method: Method::Get,
            protocol: Protocol::Http10,
            path: b"/apache_pb.gif",
            query: Some(b"key=1&b=2"),
            subject: b"frank",
            status: 200,
            bytes_out: 2326,
            referer: b"http://www.example.com/start.html",
            user_agent: b"Mozilla/4.08 [en] (Win98; I ;Nav)",
            ..AccessRecord::default()
        };
        let mut out = Vec::new();
        Formatter::default().access(LogFormat::Combined, &record, &NameTable::default(), &mut out);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "127.0.0.1 - frank [10/Oct/2000:20:55:36 +0000] \"GET /apache_pb.gif?key=REDACTED&b=2 HTTP/1.0\" 200 \
             2326 \"http://www.example.com/start.html\" \"Mozilla/4.08 [en] (Win98; I ;Nav)\"\n"
        );
    }
}
