//! Log lines: whatever bytes a client sends, a JSON line is one JSON object of one line whose fields stay apart, and a
//! combined line is what readers of that format accept.

use std::collections::BTreeMap;

use regex_automata::meta::Regex;
use ringwall::observe::{
    AccessRecord, ApiNames, Flags, Formatter, LogFormat, Method, Mode, Names, Protocol, Registry, RequestId,
    TlsVersion,
};
use serde_json::Value;

/// A small generator, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % below
    }

    fn hostile(&mut self, pieces_max: usize) -> Vec<u8> {
        const PIECES: [&[u8]; 30] = [
            b"\"",
            b"\\",
            b"\n",
            b"\r\n",
            b"\0",
            b"\x1b[2J",
            b"\x7f",
            b"\xff",
            b"\xc0\xaf",
            b"\xed\xa0\x80",
            b"\xf4\x90\x80\x80",
            "é".as_bytes(),
            "\u{202e}".as_bytes(),
            "\u{2028}".as_bytes(),
            "\u{85}".as_bytes(),
            "𝄞".as_bytes(),
            b"\",\"status\":200,\"x\":\"",
            b"\"}\n{\"time\":\"forged\"}",
            b"' OR 1=1",
            b"${jndi:ldap://x}",
            b"%00",
            b"%0a",
            b" ",
            b"- - [",
            b"] \"GET /",
            b"<script>",
            b"&a=b",
            b"/../",
            b"plain",
            b"\t",
        ];
        let mut text = Vec::new();
        for _ in 0..self.next(pieces_max + 1) {
            match self.next(3) {
                0 => text.push(self.next(256) as u8),
                _ => text.extend_from_slice(PIECES[self.next(PIECES.len())]),
            }
        }
        text
    }
}

fn line(format: LogFormat, record: &AccessRecord<'_>) -> String {
    let registry = Registry::new(1, &[]);
    let mut out = Vec::new();
    Formatter::default().access(format, record, &registry.directory().table(), &mut out);
    String::from_utf8(out).expect("a line is UTF-8")
}

fn object(line: &str) -> BTreeMap<String, Value> {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))
}

#[test]
fn every_field_is_in_its_place_under_its_name() {
    let mut registry = Registry::new(1, &[]);
    let ids = registry.register(
        &Names {
            listeners: vec!["[::]:443".to_owned()],
            apis: vec![ApiNames {
                name: "orders \"eu\"".to_owned(),
                operations: vec!["getOrder".to_owned()],
            }],
            logins: vec!["people".to_owned()],
            upstreams: vec!["orders".to_owned()],
        },
        0,
    );
    let (targets, _alive) = registry.register_targets("orders", &["http://10.0.3.11:8080".to_owned()], 0);
    let record = AccessRecord {
        time_ms: 1_795_297_261_042,
        request_id: RequestId::parse(b"0199c2a1-7b6a-7000-8000-0123456789ab").expect("an id"),
        trace_id: [0x4b; 16],
        listener: ids.listeners[0],
        client: Some("203.0.113.9".parse().expect("address")),
        peer: Some("[2001:db8::7]:4711".parse().expect("address")),
        tls: TlsVersion::Tls13,
        alpn: ringwall::observe::Alpn::Http11,
        protocol: Protocol::Http11,
        method: Method::Get,
        host: b"api.example.com",
        path: b"/v1/orders/7",
        query: Some(b"expand=lines&access_token=abc"),
        api: ids.apis[0].api,
        operation: ids.apis[0].operations[0],
        status: 403,
        code: 3107,
        reason: "scope_missing",
        mode: Mode::Enforce,
        login: ids.logins[0],
        subject: b"alice",
        key_id: b"k1",
        upstream: ids.upstreams[0],
        target: targets[0],
        tries: 2,
        bytes_in: 10,
        bytes_out: 20,
        duration_us: 30,
        overhead_us: 4,
        upstream_us: 25,
        flags: Flags::CLIENT_REUSED.with(Flags::UPSTREAM_REUSED),
        config: 9,
        ..AccessRecord::default()
    };
    let mut out = Vec::new();
    Formatter::default().access(LogFormat::Json, &record, &registry.directory().table(), &mut out);
    assert_eq!(
        String::from_utf8(out).expect("text"),
        concat!(
            r#"{"time":"2026-11-21T21:41:01.042Z","request_id":"0199c2a1-7b6a-7000-8000-0123456789ab","#,
            r#""trace_id":"4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b4b","listener":"[::]:443","client":"203.0.113.9","#,
            r#""peer":"[2001:db8::7]:4711","tls":"1.3","alpn":"http/1.1","protocol":"HTTP/1.1","method":"GET","#,
            r#""host":"api.example.com","path":"/v1/orders/7?expand=lines&access_token=REDACTED","#,
            r#""api":"orders \"eu\"","operation":"getOrder","status":403,"reason":"scope_missing","#,
            r#""code":"RW-3107","mode":"enforce","login":"people","subject":"alice","key_id":"k1","#,
            r#""upstream":"orders","target":"http://10.0.3.11:8080","tries":2,"bytes_in":10,"bytes_out":20,"#,
            r#""duration_us":30,"overhead_us":4,"upstream_us":25,"flags":["client_reused","upstream_reused"],"#,
            r#""config":9}"#,
            "\n"
        )
    );
}

#[test]
fn hostile_strings_stay_inside_their_json_fields() {
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for round in 0..20_000 {
        let strings: Vec<_> = (0..7).map(|_| random.hostile(8)).collect();
        let record = AccessRecord {
            time_ms: round,
            request_id: RequestId([1; 16]),
            client_request_id: &strings[0],
            method: Method::Other,
            method_name: &strings[1],
            host: &strings[2],
            path: &strings[3],
            query: Some(&strings[4]),
            subject: &strings[5],
            key_id: &strings[6],
            status: 200,
            ..AccessRecord::default()
        };
        let text = line(LogFormat::Json, &record);
        assert_eq!(text.chars().filter(|c| c.is_control()).collect::<String>(), "\n", "{text:?}");
        assert!(text.ends_with("}\n") && !text.contains(['\u{2028}', '\u{202e}']), "{text:?}");
        let fields = object(&text);
        for name in fields.keys() {
            const KNOWN: [&str; 13] = [
                "time",
                "request_id",
                "method",
                "host",
                "path",
                "subject",
                "key_id",
                "status",
                "bytes_in",
                "bytes_out",
                "duration_us",
                "overhead_us",
                "flags",
            ];
            assert!(KNOWN.contains(&name.as_str()), "{name} was forged: {text}");
        }
        assert_eq!(fields["status"], 200);
        // What is neither redacted nor broken UTF-8 comes back as it was.
        for (name, sent) in [("method", &strings[1]), ("host", &strings[2]), ("subject", &strings[5])] {
            let expected = String::from_utf8_lossy(sent);
            let found = fields.get(name).and_then(Value::as_str).unwrap_or("");
            assert_eq!(found, expected, "{text}");
        }
    }
}

/// The strictest reading of the format: no quote or backslash in a field that is not `\xNN`.
const COMBINED: &str = r#"^([0-9a-f.:]+|-) - ((?:[!#-\[\]-~]|\\x[0-9A-F]{2})+) \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d \+0000\] "(?:-|((?:[!#-\[\]-~]|\\x[0-9A-F]{2})+) ((?:[!#-\[\]-~]|\\x[0-9A-F]{2})+)(?: HTTP/[123]\.[01])?)" (\d{3}) (\d+|-) "((?:[ !#-\[\]-~]|\\x[0-9A-F]{2})+)" "((?:[ !#-\[\]-~]|\\x[0-9A-F]{2})+)"\n$"#;

#[test]
fn hostile_strings_stay_inside_their_combined_fields() {
    let strict = Regex::new(COMBINED).expect("a good pattern");
    let mut random = Random(0x1234_5678_9abc_def1);
    for round in 0..20_000u64 {
        let strings: Vec<_> = (0..6).map(|_| random.hostile(8)).collect();
        let record = AccessRecord {
            time_ms: round * 86_400_123,
            client: (round % 3 != 0).then(|| "2001:db8::1".parse().expect("address")),
            method: if round % 2 == 0 { Method::Other } else { Method::Post },
            method_name: &strings[0],
            protocol: [Protocol::None, Protocol::Http11, Protocol::Http2][round as usize % 3],
            path: &strings[1],
            query: Some(&strings[2]),
            subject: &strings[3],
            referer: &strings[4],
            user_agent: &strings[5],
            status: if round % 5 == 0 { 0 } else { 200 },
            bytes_out: round % 4,
            ..AccessRecord::default()
        };
        let text = line(LogFormat::Combined, &record);
        assert!(strict.is_match(&text), "{text:?}");
    }
}

#[test]
fn no_known_secret_reaches_a_line_of_either_format() {
    const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl";
    const KEY: &str = "rwk_abcdefgh_0123456789012345678901234567890123456789012abcdef";
    for secret in [JWT, KEY] {
        let path = format!("/files/{secret}");
        let query = format!("token=hunter2&x={secret}&{secret}");
        let referer = format!("https://a.example/{secret}?password=hunter2#access_token=hunter2");
        let agent = format!("agent {secret}");
        let record = AccessRecord {
            method: Method::Get,
            client_request_id: secret.as_bytes(),
            host: secret.as_bytes(),
            path: path.as_bytes(),
            query: Some(query.as_bytes()),
            subject: secret.as_bytes(),
            key_id: secret.as_bytes(),
            referer: referer.as_bytes(),
            user_agent: agent.as_bytes(),
            ..AccessRecord::default()
        };
        for format in [LogFormat::Json, LogFormat::Combined] {
            let text = line(format, &record);
            assert!(!text.contains(&secret[..12]) && !text.contains("hunter2"), "{text}");
            assert!(text.contains("REDACTED"), "{text}");
        }
    }
}

#[test]
fn goaccess_reads_every_combined_line() {
    if !super::observe::installed("goaccess") {
        return;
    }
    let mut random = Random(77);
    let mut log = String::new();
    const LINES: u64 = 500;
    for round in 0..LINES {
        let (path, query, agent) = (random.hostile(4), random.hostile(4), random.hostile(4));
        let path = [b"/", path.as_slice()].concat();
        log.push_str(&line(
            LogFormat::Combined,
            &AccessRecord {
                time_ms: 1_795_297_261_042 + round,
                client: Some("203.0.113.9".parse().expect("address")),
                method: Method::Get,
                protocol: Protocol::Http11,
                path: &path,
                query: Some(&query),
                subject: if round % 2 == 0 { b"alice" } else { b"" },
                user_agent: &agent,
                status: 200,
                bytes_out: round,
                ..AccessRecord::default()
            },
        ));
    }
    let folder = super::observe::Folder::new("goaccess");
    let file = folder.path("access.log");
    std::fs::write(&file, log).expect("written");
    let output = std::process::Command::new("goaccess")
        .args(["--no-global-config", "--log-format=COMBINED", "-o"])
        .arg(folder.path("report.json"))
        .arg(&file)
        .output()
        .expect("goaccess runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report = std::fs::read_to_string(folder.path("report.json")).expect("a report");
    let report: Value = serde_json::from_str(&report).expect("JSON");
    assert_eq!(report["general"]["total_requests"], LINES);
    assert_eq!(report["general"]["failed_requests"], 0);
    assert_eq!(report["general"]["valid_requests"], LINES);
}
