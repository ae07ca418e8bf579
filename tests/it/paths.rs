//! One path for everybody: thousands of spellings of a few paths, of which each is refused or is the same path to the
//! router, the log, the upstream, and every way in which servers are known to read paths.

use std::collections::BTreeSet;

use crate::desync::{LISTEN, Recorder, config};
use crate::node::{Node, PATIENCE, Place};

/// Pieces between slashes: plain ones, those that mean something in a path, and other spellings of both.
const PIECES: &[&str] = &[
    "",
    "a",
    "A",
    "%61",
    "%41",
    "private",
    "Private",
    "%70rivate",
    "privat%65",
    "files",
    "fil%65s",
    "fixed",
    ".",
    "..",
    "...",
    "%2e",
    "%2E",
    "%2e%2e",
    ".%2e",
    "%2E.",
    "%252e",
    "%252e%252e",
    "%25%32%65",
    "%%32%65",
    "%u002e",
    "a.",
    ".a",
    "a..b",
    ";",
    "a;b",
    "..;",
    ";a",
    "%3b",
    "%253b",
    "\\",
    "..\\",
    "%5c",
    "%5C..",
    "%255c",
    "%2f",
    "%2F",
    "a%2fb",
    "..%2f",
    "%2f..",
    "%252f",
    "%c0%ae",
    "%c0%ae%c0%ae",
    "%c0%af",
    "%e0%80%ae",
    "%e0%80%af",
    "%c1%9c",
    "%ef%bc%8f",
    "%c3%a9",
    "%C3%A9",
    "%c3",
    "%ff",
    "%ed%a0%80",
    "%00",
    "a%00",
    "%0d%0a",
    "%09",
    "%7f",
    "%c2%85",
    "%25",
    "%2525",
    "%25a",
    "%2541",
    "%20",
    "%2520",
    "+",
    "*",
    "~",
    "%7e",
    "%7E",
    "@",
    ":",
    "a:b",
    "%40",
    "!$&'()*,=",
    "%",
    "%g1",
    "%4",
    "%+1",
    "\u{e9}",
    "{x}",
    "a|b",
    "a^b",
    "`",
    "\"",
    "<",
    "a?b",
    "?",
    "a?/../b",
    "#",
    "a#b",
    "%23",
    "%3f",
    "%253f",
    "[",
    "%5b",
    "a=b",
];

/// What stands between them.
const SEPARATORS: &[&str] = &["/", "/", "/", "//", "/./", "/../", "\\", "%2f", ";/", "/%2e/"];

/// Each piece alone and in front of a third of the others, then mixtures.
pub fn corpus() -> Vec<String> {
    let mut all = Vec::new();
    for (at, first) in PIECES.iter().enumerate() {
        all.push(format!("/{first}"));
        all.push(format!("/{first}/"));
        all.extend(PIECES.iter().skip(at % 3).step_by(3).map(|second| format!("/{first}/{second}")));
    }
    // A generator of our own (xorshift), so that the corpus is the same everywhere and always.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut choose = |count: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 33) as usize % count
    };
    for _ in 0..2_500 {
        let prefix =
            ["/", "/", "/", "", "http://a.example/", "HTTP://A.example:80/", "//", "http://b.example/"]
                [choose(8)];
        let mut path = prefix.to_owned();
        for at in 0..=choose(4) {
            if at > 0 {
                path += SEPARATORS[choose(SEPARATORS.len())];
            }
            path += PIECES[choose(PIECES.len())];
        }
        all.push(path);
    }
    let mut seen = BTreeSet::new();
    // What is no single word of a request line is tested elsewhere.
    all.retain(|path| !path.is_empty() && seen.insert(path.clone()));
    all
}

/// Percent-decodes once; what is no escape stays.
pub fn decoded(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        let digits = path.get(at + 1..at + 3).and_then(|digits| std::str::from_utf8(digits).ok());
        let code = digits
            .filter(|digits| !digits.starts_with('+'))
            .and_then(|digits| u8::from_str_radix(digits, 16).ok());
        match code.filter(|_| *byte == b'%') {
            Some(code) => {
                out.push(code);
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

/// Resolves dots as RFC 3986 §5.2.4 does, and leaves empty segments and parameters out, as many do.
fn resolved(path: &[u8]) -> Vec<u8> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let parts: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
    let directory = matches!(parts.last(), Some(&(b"" | b"." | b"..")));
    for part in &parts {
        let name = part.split(|byte| *byte == b';').next().unwrap_or_default();
        match name {
            b"" | b"." => {}
            b".." => drop(segments.pop()),
            name => segments.push(name),
        }
    }
    let mut out = Vec::new();
    for segment in &segments {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if directory || out.is_empty() {
        out.push(b'/');
    }
    out
}

/// Lenient UTF-8: two and three bytes that are longer than they need be.
fn without_overlong(path: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut at = 0;
    while let Some(byte) = path.get(at) {
        match (byte, path.get(at + 1), path.get(at + 2)) {
            (0xc0 | 0xc1, Some(low @ 0x80..0xc0), _) => {
                out.push((byte & 1) << 6 | low & 0x3f);
                at += 2;
            }
            (0xe0, Some(middle @ 0x80..0x82), Some(low @ 0x80..0xc0)) => {
                out.push((middle & 1) << 6 | low & 0x3f);
                at += 3;
            }
            _ => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    out
}

/// What servers make of a path: each way is one that some server has had, by accident or for good.
fn readings(path: &[u8]) -> BTreeSet<Vec<u8>> {
    let once = decoded(path);
    let slashes = |path: &[u8]| -> Vec<u8> {
        path.iter().map(|byte| if *byte == b'\\' { b'/' } else { *byte }).collect()
    };
    let up_to = |path: &[u8], end: u8| path.split(|byte| *byte == end).next().unwrap_or_default().to_vec();
    BTreeSet::from([
        once.clone(),
        decoded(&once),
        resolved(&once),
        resolved(&decoded(&once)),
        decoded(&resolved(path)),
        resolved(&slashes(&once)),
        slashes(&decoded(&once)),
        without_overlong(&once),
        resolved(&without_overlong(&once)),
        up_to(&once, 0),
        up_to(&once, b';'),
        up_to(&once, b'\r'),
        decoded(&up_to(path, b'#')),
    ])
}

/// Whose path it is: the longest base that fits.
fn api(path: &[u8]) -> &'static str {
    let below =
        |base: &[u8]| path.strip_prefix(base).is_some_and(|rest| matches!(rest.first(), None | Some(b'/')));
    match () {
        () if below(b"/private") => "private",
        () if below(b"/files") => "files",
        () if below(b"/fixed") => "fixed",
        () => "app",
    }
}

#[test]
fn every_spelling_is_one_path_or_refused() {
    let corpus = corpus();
    assert!(corpus.len() >= 5_000, "{}", corpus.len());
    let origin = Recorder::start();
    let text = crate::node::text_of(LISTEN, &config(origin.address)).replace("cores: 2", "cores: 1");
    let node = Node::start_whole(Place::new(), &text, &[]);
    let mut client = node.connect();
    let mut outcomes = Vec::new();
    for (index, target) in corpus.iter().enumerate() {
        let host = ["a.example", "a.example", "A.EXAMPLE", "a.example:80", "a.example."][index % 5];
        client.send(format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        let answer = client.answer();
        let arrived =
            (answer.status == 200).then(|| origin.arrived.recv_timeout(PATIENCE).expect("a request").head);
        if answer.field("connection") == Some("close") {
            client = node.connect();
        }
        outcomes.push((target, host, answer.status, arrived));
    }
    assert!(origin.arrived.try_recv().is_err(), "a request that nobody answered for");
    let log = node.log(corpus.len());
    assert_eq!(log.len(), corpus.len());
    let mut counts = [0; 3];
    for ((target, host, status, arrived), entry) in outcomes.iter().zip(&log) {
        let told = format!("{target:?}: {status}, {entry}");
        assert_eq!(entry["status"], *status, "{told}");
        let Some(head) = arrived else {
            match status {
                400 => {
                    let reason = entry["reason"].as_str().expect("a reason");
                    assert!(
                        ["path_", "target_", "host_", "version_"].iter().any(|kind| reason.starts_with(kind)),
                        "{told}"
                    );
                    counts[0] += 1;
                }
                // Ours to answer, and only where the one reading of the path is below that base.
                403 | 404 => {
                    let path = entry["path"].as_str().expect("a path").split('?').next().unwrap_or_default();
                    let base = if *status == 403 { "private" } else { "fixed" };
                    let all: BTreeSet<_> = readings(path.as_bytes()).iter().map(|path| api(path)).collect();
                    assert_eq!(all, BTreeSet::from([base]), "{told}");
                    counts[1] += 1;
                }
                _ => panic!("{told}"),
            }
            continue;
        };
        counts[2] += 1;
        assert_ne!(*host, "a.example.", "{told}");
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let received = line.split(|byte| *byte == b' ').nth(1).expect("a target");
        let path = received.split(|byte| *byte == b'?').next().unwrap_or_default();
        let logged = entry["path"].as_str().expect("a path").split('?').next().unwrap_or_default();
        assert_eq!(String::from_utf8_lossy(path), logged, "{told}");
        let operation = entry["operation"].as_str().expect("an operation");
        let read = readings(path);
        if operation == "files" {
            // Only here may it hold `%2F`: whoever takes that for a slash is still below the same base.
            assert!(read.iter().all(|path| api(path) == "files"), "{told}: {read:?}");
        } else {
            assert_eq!(read, BTreeSet::from([decoded(path)]), "{told}");
            assert_eq!(api(&decoded(path)), operation, "{told}");
        }
        // It says what the client said.
        let sent = target.split('?').next().unwrap_or_default();
        let sent = match sent.split_once("://") {
            Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]),
            None => sent,
        };
        assert_eq!(decoded(path), decoded(sent.as_bytes()), "{told}");
    }
    println!("{} refused, {} answered, {} forwarded", counts[0], counts[1], counts[2]);
    assert!(counts[0] > 3_000 && counts[1] > 20 && counts[2] > 300, "{counts:?}");
}
