//! The corpus of `tests/desync`: its files, read.

use std::path::Path;

/// A message, or several on one connection, and what becomes of it.
#[derive(Debug)]
pub struct Case {
    /// File and name.
    pub name: String,
    /// Where it comes from.
    pub source: String,
    /// What the client sends (a request's case).
    pub sent: Vec<u8>,
    /// Whether the client then ends its sending.
    pub ends: bool,
    /// What becomes of it, in order.
    pub outcomes: Vec<Outcome>,
    /// The method that is answered (a response's case).
    pub asked: String,
    /// What the origin sends, in pieces.
    pub answer: Vec<Vec<u8>>,
    /// Whether the origin then closes.
    pub closes: bool,
    /// Whether the connection to the origin is used again.
    pub kept: Option<bool>,
}

/// What becomes of a message.
#[derive(Debug, PartialEq)]
pub enum Outcome {
    Forwarded { head: Vec<u8>, body: Vec<u8> },
    Refused(u16, String),
    Broken(u16, String),
    Aborted(u16, String),
    Answered(u16, String),
    Nothing(String),
    Closed,
    Gives(u16, String),
    Cut(String),
}

/// All cases of requests, or those of responses.
pub fn cases(of_responses: bool) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/desync");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("tests/desync").map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "case")) {
        let stem = file.file_stem().and_then(|stem| stem.to_str()).expect("a name");
        if stem.starts_with("responses") == of_responses {
            read(stem, &std::fs::read_to_string(file).expect("text"), &mut cases);
        }
    }
    cases
}

fn read(file: &str, text: &str, cases: &mut Vec<Case>) {
    let from = cases.len();
    for (number, line) in text.lines().enumerate() {
        let place = format!("{file}.case:{}", number + 1);
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word.is_empty() || word == "#" {
            continue;
        }
        if word == "case" {
            let name = format!("{file}/{rest}");
            assert!(cases[from..].iter().all(|case| case.name != name), "{place}: {name} is there twice");
            cases.push(Case {
                name,
                source: String::new(),
                sent: Vec::new(),
                ends: false,
                outcomes: Vec::new(),
                asked: "GET".to_owned(),
                answer: vec![Vec::new()],
                closes: false,
                kept: None,
            });
            continue;
        }
        let case = cases[from..].last_mut().unwrap_or_else(|| panic!("{place}: no case yet"));
        let refusal = || {
            let (status, reason) = rest.split_once(' ').unwrap_or((rest, ""));
            (status.parse().unwrap_or_else(|_| panic!("{place}: a status")), reason.to_owned())
        };
        let bytes = || unescape(rest, &place);
        let crlf = || [bytes(), b"\r\n".to_vec()].concat();
        match (word, case.outcomes.last_mut()) {
            ("from", _) => case.source = rest.to_owned(),
            (">", None) => case.sent.extend(crlf()),
            ("|", None) => case.sent.extend(bytes()),
            ("end", None) => case.ends = true,
            ("asked", None) => case.asked = rest.to_owned(),
            ("<", Some(Outcome::Forwarded { head, .. })) => head.extend(crlf()),
            ("=", Some(Outcome::Forwarded { body, .. })) => body.extend(bytes()),
            ("<", None) => case.answer.last_mut().expect("one").extend(crlf()),
            ("=", None) => case.answer.last_mut().expect("one").extend(bytes()),
            ("later", None) => case.answer.push(Vec::new()),
            ("close", None) => case.closes = true,
            ("kept" | "dropped", _) => case.kept = Some(word == "kept"),
            ("forwarded", _) => {
                case.outcomes.push(Outcome::Forwarded { head: Vec::new(), body: Vec::new() });
            }
            ("refused", _) => case.outcomes.push(Outcome::Refused(refusal().0, refusal().1)),
            ("broken", _) => case.outcomes.push(Outcome::Broken(refusal().0, refusal().1)),
            ("aborted", _) => case.outcomes.push(Outcome::Aborted(refusal().0, refusal().1)),
            ("answered", _) => case.outcomes.push(Outcome::Answered(refusal().0, refusal().1)),
            ("gives", _) => {
                let (status, text) = refusal();
                let text = String::from_utf8_lossy(&unescape(&text, &place)).into_owned();
                case.outcomes.push(Outcome::Gives(status, text));
            }
            ("cut", _) => case.outcomes.push(Outcome::Cut(rest.to_owned())),
            ("nothing", _) => case.outcomes.push(Outcome::Nothing(rest.to_owned())),
            ("closed", _) => case.outcomes.push(Outcome::Closed),
            _ => panic!("{place}: `{line}` means nothing here"),
        }
    }
}

pub fn unescape(text: &str, place: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.extend_from_slice(&rest.as_bytes()[..at]);
        let escape = rest.as_bytes().get(at + 1).unwrap_or_else(|| panic!("{place}: half an escape"));
        let mut taken = 2;
        match escape {
            b'r' => out.push(b'\r'),
            b'n' => out.push(b'\n'),
            b't' => out.push(b'\t'),
            b'\\' => out.push(b'\\'),
            b'x' => {
                let digits = rest.get(at + 2..at + 4).unwrap_or_default();
                out.push(u8::from_str_radix(digits, 16).unwrap_or_else(|_| panic!("{place}: {digits}")));
                taken = 4;
            }
            b'(' => {
                let inner = rest[at + 2..].split_once(')').unwrap_or_else(|| panic!("{place}: unclosed")).0;
                let (count, text) = inner.split_once(' ').unwrap_or_else(|| panic!("{place}: {inner}"));
                let count: usize = count.parse().unwrap_or_else(|_| panic!("{place}: {count}"));
                out.extend(unescape(text, place).repeat(count));
                taken = inner.len() + 3;
            }
            other => panic!("{place}: \\{}", char::from(*other)),
        }
        rest = &rest[at + taken..];
    }
    out.extend_from_slice(rest.as_bytes());
    out
}
