//! Requests of HTTP/2 written down as HTTP/1.1 stay the one request that they are, or are none: the corpus `tests/desync/*.h2`, in
//! frames that are made here byte by byte, to an origin that records every byte.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;

use crate::desync::{Recorder, config};
use crate::desync_cases::unescape;
use crate::node::{Node, PATIENCE, Place, text_of};

pub const LISTEN: &str = "{ address: \"127.0.0.1:0\", tls: none, domains: [a.example], protocols: http2 }";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// RFC 7541 §6.1 and appendix A: entry 8 is `:status: 200`.
const STATUS_200: u8 = 0x88;

type Field = (Vec<u8>, Vec<u8>);

#[derive(Debug, Default, PartialEq)]
enum Outcome {
    Forwarded,
    #[default]
    Nothing,
    Either,
}

#[derive(Debug, Default)]
struct Case {
    name: String,
    source: String,
    fields: Vec<Field>,
    data: Option<Vec<u8>>,
    trailers: Vec<Field>,
    outcome: Outcome,
    arrives: Vec<u8>,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/desync");
    let mut files: Vec<_> =
        std::fs::read_dir(folder).expect("tests/desync").map(|e| e.unwrap().path()).collect();
    files.sort();
    let mut cases = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "h2")) {
        read(&std::fs::read_to_string(file).expect("text"), &mut cases);
    }
    cases
}

fn read(text: &str, cases: &mut Vec<Case>) {
    for (number, line) in text.lines().enumerate() {
        let place = format!("line {}", number + 1);
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if word.is_empty() || word == "#" {
            continue;
        }
        if word == "case" {
            assert!(cases.iter().all(|case: &Case| case.name != rest), "{rest} is there twice");
            cases.push(Case { name: rest.to_owned(), ..Case::default() });
            continue;
        }
        let case = cases.last_mut().unwrap_or_else(|| panic!("{place}: no case yet"));
        let field = || {
            let (name, value) = rest.split_once(' ').unwrap_or((rest, ""));
            (unescape(name, &place), unescape(value, &place))
        };
        match word {
            "from" => case.source = rest.to_owned(),
            ":" => case.fields.push(field()),
            "~" => case.trailers.push(field()),
            "=" => case.data = Some(unescape(rest, &place)),
            "<" => case.arrives = unescape(rest, &place),
            "forwarded" => case.outcome = Outcome::Forwarded,
            "nothing" => case.outcome = Outcome::Nothing,
            "either" => case.outcome = Outcome::Either,
            other => panic!("{place}: {other}"),
        }
    }
}

impl Case {
    /// All fields, those that every request has first.
    fn section(&self) -> Vec<Field> {
        let usual: [(&[u8], &[u8]); 4] =
            [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a.example"), (b":path", b"/x")];
        let given = |name: &[u8]| self.fields.iter().any(|(found, _)| found == name);
        let mut section: Vec<Field> = usual
            .iter()
            .filter(|(name, _)| !given(name))
            .map(|(name, value)| (name.to_vec(), value.to_vec()))
            .collect();
        // A pseudo-field stands where a request would have it, unless the case has put another field before it.
        section.extend(self.fields.iter().cloned());
        section
    }

    fn first(&self, name: &[u8]) -> Vec<u8> {
        let found = self.section().into_iter().find(|(found, _)| found == name);
        found.map(|(_, value)| value).unwrap_or_default()
    }

    fn frames(&self) -> Vec<u8> {
        let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        frame(&mut out, SETTINGS, 0, 0, b"");
        let alone = self.data.is_none() && self.trailers.is_empty();
        let end = |last: bool| if last { END_STREAM } else { 0 };
        frame(&mut out, HEADERS, END_HEADERS | end(alone), 1, &block(&self.section()));
        if let Some(data) = &self.data {
            frame(&mut out, DATA, end(self.trailers.is_empty()), 1, data);
        }
        if !self.trailers.is_empty() {
            frame(&mut out, HEADERS, END_HEADERS | END_STREAM, 1, &block(&self.trailers));
        }
        out
    }
}

fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    out.extend_from_slice(&u32::try_from(payload.len()).expect("small").to_be_bytes()[1..]);
    out.extend_from_slice(&[kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

/// RFC 7541 §6.2.2: literals with new names, which can be any bytes.
fn block(fields: &[Field]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            // RFC 7541 §5.1, a prefix of 7 bits.
            match text.len() {
                length @ ..127 => block.push(length as u8),
                length => {
                    block.push(127);
                    let mut rest = length - 127;
                    while rest >= 128 {
                        block.push((rest % 128) as u8 | 128);
                        rest /= 128;
                    }
                    block.push(rest as u8);
                }
            }
            block.extend_from_slice(text);
        }
    }
    block
}

/// What a client gets.
#[derive(Debug, PartialEq)]
enum Got {
    /// A whole answer; `well`: 200.
    Answered { well: bool },
    /// The stream, or the connection, has ended.
    Ended,
}

/// Sends a case on a connection of its own, and waits for what comes of it.
fn send(address: SocketAddr, case: &Case) -> Got {
    let mut client = TcpStream::connect(address).expect("connected");
    client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    client.set_nodelay(true).expect("no delay");
    client.write_all(&case.frames()).expect("sent");
    let mut well = None;
    loop {
        let mut head = [0; 9];
        if client.read_exact(&mut head).is_err() {
            return Got::Ended;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        let mut payload = vec![0; length];
        client.read_exact(&mut payload).expect("a whole frame");
        match head[3] {
            // Interim ones come before it.
            HEADERS => well = Some(payload.first() == Some(&STATUS_200)),
            RST_STREAM | GOAWAY if well.is_none() => return Got::Ended,
            _ => {}
        }
        if matches!(head[3], HEADERS | DATA) && head[4] & END_STREAM != 0 {
            return Got::Answered { well: well.expect("a head") };
        }
    }
}

/// Sends all of them; how many lines of the log that makes, at least.
pub fn send_all(address: SocketAddr) -> usize {
    let cases = cases();
    cases.iter().map(|case| send(address, case)).filter(|got| *got == Got::Answered { well: true }).count()
}

#[test]
fn the_corpus_says_where_it_comes_from() {
    let cases = cases();
    assert!(cases.iter().all(|case| !case.source.is_empty()));
    let nothing = cases.iter().filter(|case| case.outcome == Outcome::Nothing).count();
    assert!(cases.len() >= 80 && nothing >= 70, "{nothing} of {}", cases.len());
}

#[test]
fn requests_of_http2_are_the_same_request_or_none_in_http1() {
    let origin = Recorder::start();
    let node = Node::start_whole(Place::new(), &text_of(LISTEN, &config(origin.address)), &[]);
    let (mut ids, mut wrong) = (Vec::new(), Vec::new());
    for case in cases() {
        let got = send(node.address, &case);
        let answered = got == Got::Answered { well: true };
        let expected = match case.outcome {
            Outcome::Forwarded => answered,
            Outcome::Nothing => !answered,
            Outcome::Either => true,
        };
        if !expected {
            wrong.push(format!("{}: {:?} but {got:?}", case.name, case.outcome));
        }
        if answered {
            // The origin had it before it answered.
            let arrived = origin.arrived.recv_timeout(PATIENCE).expect("a request");
            let head = String::from_utf8(arrived.head).expect("text");
            let line = format!(
                "{} {} HTTP/1.1\r\n",
                String::from_utf8_lossy(&case.first(b":method")),
                String::from_utf8_lossy(&case.first(b":path"))
            );
            if !head.starts_with(&line) {
                wrong.push(format!("{}: the origin saw {head:?}", case.name));
            }
            if case.outcome == Outcome::Forwarded {
                assert_eq!(String::from_utf8_lossy(&arrived.body), String::from_utf8_lossy(&case.arrives));
            }
            assert!(arrived.trailers.is_empty(), "{}: trailers go upstream", case.name);
            let id = head.lines().find_map(|line| line.strip_prefix("X-Request-Id: ")).expect("an id");
            ids.push(id.to_owned());
        }
        if let Ok(more) = origin.arrived.try_recv() {
            wrong.push(format!("{}: the origin saw {:?}", case.name, String::from_utf8_lossy(&more.head)));
        }
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    // Nothing of them comes late: what is asked now is what arrives next.
    let last = Case { fields: vec![(b":path".to_vec(), b"/last".to_vec())], ..Case::default() };
    assert_eq!(send(node.address, &last), Got::Answered { well: true });
    let arrived = origin.arrived.recv_timeout(PATIENCE).expect("a request");
    assert!(arrived.head.starts_with(b"GET /last HTTP/1.1\r\n"), "{arrived:?}");
    // What arrived is what was logged as answered, each once.
    let good = || node.log(ids.len() + 1).iter().filter(|entry| entry["status"] == 200).count();
    let deadline = std::time::Instant::now() + PATIENCE;
    while good() <= ids.len() {
        assert!(std::time::Instant::now() < deadline, "{} of {} logged", good(), ids.len() + 1);
    }
    for entry in node.log(0).iter().filter(|entry| entry["status"] == 200 && entry["path"] != "/last") {
        let id = entry["request_id"].as_str().expect("an id");
        let at = ids.iter().position(|found| found == id).unwrap_or_else(|| panic!("nobody saw {entry}"));
        ids.swap_remove(at);
    }
    assert!(ids.is_empty(), "not logged: {ids:?}");
}
