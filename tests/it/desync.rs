//! One meaning per message: the corpus of `tests/desync` over real sockets, with an origin that records every byte.
//!
//! What is refused reaches no upstream and ends the connection; what is forwarded arrives as exactly the requests that the
//! corpus names, in one form; the log has one line for each and no other.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use crate::desync_cases::{Case, Outcome, cases};
use crate::node::{Node, PATIENCE, Place};

/// What every case is sent to.
pub fn config(origin: SocketAddr) -> String {
    format!(
        "upstreams: {{ app: \"http://{origin}\" }}
apis:
  app: {{ to: app, raw: a test, allow: [{{ who: anyone }}], sizes: {{ body: 64KiB }} }}
  files: {{ base: /files, to: app, raw: a test, allow: [{{ who: anyone }}], encoded_slash: keep }}
  private: {{ base: /private, closed: true }}
  fixed:
    base: /fixed
    to: app
    allow: [{{ who: anyone }}]
    operations:
      page: {{ match: GET /page, respond: {{ status: 200, body: fixed }} }}
      form: {{ match: POST /page, respond: {{ status: 200, body: fixed }} }}"
    )
}

pub const LISTEN: &str = "{ address: \"127.0.0.1:0\", tls: none, domains: [a.example] }";

/// A request as it arrived at the recording origin.
#[derive(Debug)]
pub struct Arrived {
    pub head: Vec<u8>,
    pub body: Vec<u8>,
    pub trailers: Vec<u8>,
    /// Bytes of it on the wire.
    bytes: usize,
}

/// An origin that answers whole requests and forgets no byte.
pub struct Recorder {
    pub address: SocketAddr,
    pub arrived: Receiver<Arrived>,
    /// All bytes that arrived, of whole requests or not.
    bytes: Arc<AtomicUsize>,
    /// Of each connection that ended within a request: whether by a reset.
    cut: Receiver<bool>,
}

impl Recorder {
    pub fn start() -> Recorder {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let (sender, arrived) = channel();
        let (cutter, cut) = channel();
        let bytes = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&bytes);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (sender, cutter, counter) = (sender.clone(), cutter.clone(), Arc::clone(&counter));
                thread::spawn(move || record(stream, &sender, &cutter, &counter));
            }
        });
        Recorder { address, arrived, bytes, cut }
    }
}

fn record(mut stream: TcpStream, sender: &Sender<Arrived>, cutter: &Sender<bool>, counter: &AtomicUsize) {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 << 10];
    let _ = stream.set_nodelay(true);
    loop {
        let count = match stream.read(&mut buffer) {
            Ok(count @ 1..) => count,
            end => {
                if !bytes.is_empty() {
                    let _ = cutter.send(end.is_err());
                }
                return;
            }
        };
        counter.fetch_add(count, Ordering::SeqCst);
        bytes.extend_from_slice(&buffer[..count]);
        while let Some(arrived) = whole_request(&bytes) {
            bytes.drain(..arrived.bytes);
            let is_head = arrived.head.starts_with(b"HEAD ");
            if sender.send(arrived).is_err() {
                return;
            }
            let body = if is_head { "" } else { "ok" };
            let _ =
                stream.write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{body}").as_bytes());
        }
    }
}

/// The first request of `bytes`, if all of it is there. What it accepts is the one form in which Ringwall writes, and
/// nothing else: that is a law of its own.
fn whole_request(bytes: &[u8]) -> Option<Arrived> {
    let end = find(bytes, b"\r\n\r\n")? + 4;
    let head = &bytes[..end];
    assert!(!head.iter().enumerate().any(|(at, byte)| match byte {
        b'\n' => at == 0 || head[at - 1] != b'\r',
        b'\r' => head.get(at + 1) != Some(&b'\n'),
        byte => *byte < b' ' && *byte != b'\t' || *byte == 0x7f,
    }));
    let mut fields: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in String::from_utf8_lossy(&head[..end - 4]).split("\r\n").skip(1) {
        let (name, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line:?} is no `Name: value`"));
        assert_eq!((name.trim(), value.trim()), (name, value));
        fields.entry(name.to_ascii_lowercase().replace('_', "-")).or_default().push(value.to_owned());
    }
    let all = |name: &str| fields.get(name).map(Vec::as_slice).unwrap_or_default();
    assert_eq!(all("host").len(), 1, "{fields:?}");
    for name in ["keep-alive", "te", "trailer", "upgrade", "expect", "proxy-connection", "http2-settings"] {
        assert!(all(name).is_empty(), "{name} in {fields:?}");
    }
    assert!(matches!(all("connection"), [] | [_]) && all("connection").iter().all(|value| value == "close"));
    let (length, coding) = (all("content-length"), all("transfer-encoding"));
    let (mut body, mut trailers) = (Vec::new(), Vec::new());
    let mut at = end;
    match (length, coding) {
        ([], []) => {}
        ([length], []) => {
            let count: usize = length.parse().expect("a length");
            assert_eq!(count.to_string(), *length);
            body = bytes.get(end..end + count)?.to_vec();
            at = end + count;
        }
        ([], [coding]) if coding == "chunked" => loop {
            let line = find(&bytes[at..], b"\r\n")?;
            let digits = std::str::from_utf8(&bytes[at..at + line]).expect("digits");
            let count = usize::from_str_radix(digits, 16).expect("hexadecimal");
            assert_eq!(format!("{count:x}"), digits, "one form of sizes");
            at += line + 2;
            if count == 0 {
                let line = find(&bytes[at - 2..], b"\r\n\r\n")?;
                trailers = bytes[at..at + line].to_vec();
                at += line + 2;
                break;
            }
            body.extend_from_slice(bytes.get(at..at + count)?);
            assert_eq!(bytes.get(at + count..at + count + 2)?, b"\r\n");
            at += count + 2;
        },
        _ => panic!("two framings: {fields:?}"),
    }
    Some(Arrived { head: head.to_vec(), body, trailers, bytes: at })
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// The head without the four fields that Ringwall adds, which must be there once each and be true.
fn without_ours(head: &[u8]) -> (Vec<u8>, String) {
    let mut kept = Vec::new();
    let mut ours: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut host = Vec::new();
    for line in head.split_inclusive(|byte| *byte == b'\n') {
        let name = String::from_utf8_lossy(line.split(|byte| *byte == b':').next().unwrap_or_default())
            .to_lowercase();
        let value = line.get(name.len() + 2..line.len() - 2).unwrap_or_default().to_vec();
        if ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"].contains(&&*name) {
            assert_eq!(ours.insert(name.clone(), value), None, "{name} twice");
            continue;
        }
        if name == "host" {
            host = value.split(|byte| *byte == b':').next().unwrap_or_default().to_vec();
        }
        kept.extend_from_slice(line);
    }
    assert_eq!(ours.get("x-forwarded-for").map(Vec::as_slice), Some(&b"127.0.0.1"[..]));
    assert_eq!(ours.get("x-forwarded-proto").map(Vec::as_slice), Some(&b"http"[..]));
    assert_eq!(ours.get("x-forwarded-host"), Some(&host));
    let id = ours.get("x-request-id").expect("a request id");
    (kept, String::from_utf8_lossy(id).into_owned())
}

/// A line that the log must have.
#[derive(Debug)]
struct Line {
    /// Whose it is; seen where it is missing.
    #[expect(dead_code, reason = "shown when a line is not as it should be")]
    case: String,
    status: Option<u16>,
    reason: String,
    /// Method, host and path with query, of what went upstream, and its request id.
    forwarded: Option<[String; 4]>,
}

/// How a case is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Delivery {
    /// In one piece.
    Whole,
    /// In pieces of so many bytes.
    Pieces(usize),
}

/// Sends a case and checks what comes of it; gives the lines that the log must have.
fn run(case: &Case, node: &Node, origin: &Recorder, delivery: Delivery, lines: &mut Vec<Line>) {
    println!("{} {delivery:?}", case.name);
    let before = origin.bytes.load(Ordering::SeqCst);
    let mut client = node.connect();
    match delivery {
        Delivery::Whole => client.try_send(&case.sent),
        Delivery::Pieces(bytes) => case.sent.chunks(bytes).for_each(|piece| client.try_send(piece)),
    }
    if case.ends {
        client.end_sending();
    }
    let mut open = true;
    let mut accounted = 0;
    for outcome in &case.outcomes {
        assert!(open || *outcome == Outcome::Closed, "{} goes on behind the end", case.name);
        let line = |status, reason: &str, forwarded| Line {
            case: case.name.clone(),
            status,
            reason: reason.to_owned(),
            forwarded,
        };
        match outcome {
            Outcome::Forwarded { head, body } => {
                let arrived = origin.arrived.recv_timeout(PATIENCE).expect("a request");
                accounted += arrived.bytes;
                let (kept, id) = without_ours(&arrived.head);
                assert_eq!(String::from_utf8_lossy(&kept), String::from_utf8_lossy(head), "{}", case.name);
                assert_eq!(kept, *head);
                assert_eq!(String::from_utf8_lossy(&arrived.body), String::from_utf8_lossy(body));
                assert!(arrived.trailers.is_empty(), "{}: trailers go upstream", case.name);
                let text = String::from_utf8_lossy(head).into_owned();
                let mut words = text.split([' ', '\r']);
                let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
                let mut answer = client.answer_to(method);
                while answer.status < 200 {
                    answer = client.answer_to(method);
                }
                assert_eq!(answer.status, 200, "{}: {}", case.name, answer.text());
                let host = text.lines().find_map(|line| line.strip_prefix("Host: ")).unwrap_or_default();
                let host = host.split(':').next().unwrap_or_default();
                let forwarded = [method, host, path, &id].map(str::to_owned);
                lines.push(line(Some(200), "", Some(forwarded)));
            }
            Outcome::Refused(status, reason)
            | Outcome::Broken(status, reason)
            | Outcome::Aborted(status, reason)
            | Outcome::Answered(status, reason) => {
                let mut answer =
                    client.answer_to(if case.sent.starts_with(b"HEAD ") { "HEAD" } else { "GET" });
                while answer.status < 200 {
                    answer = client.answer();
                }
                let ours = matches!(outcome, Outcome::Answered(..));
                if case.sent.starts_with(b"HEAD ") {
                    assert_eq!(answer.status, *status, "{}", case.name);
                } else {
                    assert_eq!(answer.refusal(), (*status, reason.clone()), "{}", case.name);
                }
                open = answer.field("connection") != Some("close");
                assert!(ours || !open, "{}: {}", case.name, answer.head);
                lines.push(line(Some(*status), if *status == 200 { "" } else { reason }, None));
                if !open && delivery != Delivery::Whole {
                    // The body that would have been passed over was not there yet: nothing behind it is read.
                    break;
                }
            }
            Outcome::Nothing(reason) => {
                open = false;
                lines.push(line(None, reason, None));
            }
            Outcome::Closed => open = false,
            Outcome::Gives(..) | Outcome::Cut(..) => panic!("{} is no response", case.name),
        }
    }
    if open {
        client.end_sending();
    }
    assert_eq!(String::from_utf8_lossy(&client.rest()), "", "{}: more than was asked for", case.name);
    if may_leave_a_part(case, delivery) {
        if delivery == Delivery::Whole {
            // A part of a request ends in a reset, so that nobody takes it for a whole one.
            let reset = origin.cut.recv_timeout(PATIENCE).expect("the origin's connection ends");
            assert!(reset, "{}: an orderly end of half a request", case.name);
        }
    } else {
        let left = origin.bytes.load(Ordering::SeqCst) - before;
        assert_eq!(left, accounted, "{}: bytes reached the origin", case.name);
    }
    if let Ok(more) = origin.arrived.try_recv() {
        panic!("{}: one request too many: {:?}", case.name, String::from_utf8_lossy(&more.head));
    }
}

/// A body that comes in pieces goes on in pieces: what was right before its flaw may have left.
fn may_leave_a_part(case: &Case, delivery: Delivery) -> bool {
    match case.outcomes.last() {
        Some(Outcome::Broken(..)) => delivery != Delivery::Whole,
        outcome => matches!(outcome, Some(Outcome::Aborted(..))),
    }
}

/// The log has these lines and no other.
fn check_log(node: &Node, lines: &[Line]) {
    let log = node.log(lines.len());
    for (entry, line) in log.iter().zip(lines) {
        assert_eq!(entry["reason"].as_str().unwrap_or_default(), line.reason, "{line:?}: {entry}");
        if let Some(status) = line.status {
            assert_eq!(entry["status"], status, "{line:?}: {entry}");
        }
        if let Some([method, host, path, id]) = &line.forwarded {
            for (field, value) in [("method", method), ("host", host), ("path", path), ("request_id", id)] {
                assert_eq!(entry[field], **value, "{line:?}: {entry}");
            }
        }
    }
    assert_eq!(log.len(), lines.len(), "{:?}", &log[lines.len()..]);
}

#[test]
fn the_corpus_is_large_and_says_where_it_comes_from() {
    let (mut all, mut refused) = (0, 0);
    for case in cases(false).iter().chain(&cases(true)) {
        assert!(!case.source.is_empty() && !case.outcomes.is_empty(), "{} is half a case", case.name);
        let passes =
            |outcome: &Outcome| matches!(outcome, Outcome::Forwarded { .. } | Outcome::Gives(200, _));
        all += 1;
        refused += usize::from(!case.outcomes.iter().any(passes));
    }
    assert!(all >= 500 && refused >= 400, "{refused} of {all}");
}

fn requests(delivery: impl Fn(usize, &Case) -> Delivery) {
    let origin = Recorder::start();
    // One core writes its lines in the order of its requests.
    let text = crate::node::text_of(LISTEN, &config(origin.address)).replace("cores: 2", "cores: 1");
    let node = Node::start_whole(Place::new(), &text, &[]);
    let (mut lines, mut failed) = (Vec::new(), Vec::new());
    let cases = cases(false);
    let mut cases: Vec<_> =
        cases.iter().enumerate().map(|(index, case)| (case, delivery(index, case))).collect();
    // The origin may get a part late: those that may leave one come last, where nothing counts its bytes any more.
    cases.sort_by_key(|(case, delivery)| may_leave_a_part(case, *delivery));
    for (case, delivery) in cases {
        let run = std::panic::AssertUnwindSafe(|| run(case, &node, &origin, delivery, &mut lines));
        if std::panic::catch_unwind(run).is_err() {
            failed.push(&*case.name.clone().leak());
            // What is under way of it does not disturb the next.
            while origin.arrived.recv_timeout(Duration::from_millis(200)).is_ok() {}
        }
    }
    assert!(failed.is_empty(), "{} cases: {failed:?}", failed.len());
    check_log(&node, &lines);
    drop(node);
    while let Ok(reset) = origin.cut.recv_timeout(Duration::from_millis(200)) {
        assert!(reset, "an orderly end of half a request");
    }
}

#[test]
fn requests_have_one_meaning() {
    requests(|_, _| Delivery::Whole);
}

#[test]
fn requests_in_pieces_have_the_same_meaning() {
    requests(|index, case| Delivery::Pieces(if case.sent.len() > 2000 { 997 } else { index % 7 + 1 }));
}

/// What the origin of the responses did.
#[derive(Debug, PartialEq)]
enum Did {
    /// A request for this path came over the connection of this number.
    Asked(String, usize),
    /// All pieces of an answer have been sent.
    Answered,
}

/// An origin that answers `/N` as the Nth case says, and `/probe` with the word.
fn script(cases: &[Case]) -> (SocketAddr, Receiver<Did>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    let answers: Arc<Vec<_>> =
        Arc::new(cases.iter().map(|case| (case.answer.clone(), case.closes)).collect());
    let (sender, did) = channel();
    thread::spawn(move || {
        for (connection, stream) in listener.incoming().flatten().enumerate() {
            let (sender, answers) = (sender.clone(), Arc::clone(&answers));
            thread::spawn(move || play(stream, connection, &answers, &sender));
        }
    });
    (address, did)
}

fn play(mut stream: TcpStream, connection: usize, answers: &[(Vec<Vec<u8>>, bool)], sender: &Sender<Did>) {
    let _ = stream.set_nodelay(true);
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        bytes.extend_from_slice(&buffer[..count]);
        let Some(request) = whole_request(&bytes) else { continue };
        bytes.drain(..request.bytes);
        let head = String::from_utf8_lossy(&request.head).into_owned();
        let path = head.split([' ', '/']).nth(2).unwrap_or_default().to_owned();
        let _ = sender.send(Did::Asked(path.clone(), connection));
        let Some((pieces, closes)) = path.parse().ok().and_then(|at: usize| answers.get(at)) else {
            // Its connection ends with it, so that each case has one of its own.
            let probe = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nprobe";
            let _ = stream.write_all(probe);
            return;
        };
        for (index, piece) in pieces.iter().enumerate() {
            if index > 0 {
                // What comes later comes when the former has been dealt with.
                thread::sleep(Duration::from_millis(15));
            }
            let _ = stream.write_all(piece);
        }
        if *closes {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
        let _ = sender.send(Did::Answered);
        if *closes {
            return;
        }
    }
}

/// Asks for a case and checks what comes of it; gives the reason that the log must have.
fn ask(case: &Case, path: &str, node: &Node, did: &Receiver<Did>) -> String {
    let next = || did.recv_timeout(PATIENCE).expect("the origin does something");
    let mut client = node.connect();
    client.send(format!("{} /{path} HTTP/1.1\r\nHost: a.example\r\n\r\n", case.asked));
    let mut reason = String::new();
    for outcome in &case.outcomes {
        match outcome {
            Outcome::Gives(status, text) => {
                let mut answer = client.answer_to(&case.asked);
                while answer.status < 200 {
                    answer = client.answer_to(&case.asked);
                }
                assert_eq!(answer.status, *status, "{}: {}", case.name, answer.text());
                if *status >= 500 {
                    reason = text.clone();
                }
                if case.asked != "HEAD" {
                    assert_eq!(answer.refusal().1, *text, "{}", case.name);
                }
                for ended in
                    ["keep-alive", "te", "trailer", "upgrade", "x-hop", "proxy-authenticate", "set-cookie"]
                {
                    assert_eq!(answer.field(ended), None, "{}: {}", case.name, answer.head);
                }
                let framings = answer.head.to_ascii_lowercase();
                let count = |name: &str| framings.lines().filter(|line| line.starts_with(name)).count();
                assert!(count("content-length:") + count("transfer-encoding:") <= 1, "{framings}");
                assert!(answer.field("connection").is_none_or(|value| value == "close"), "{framings}");
            }
            Outcome::Cut(told) => {
                reason = told.clone();
                let head = client.head().to_ascii_lowercase();
                let body = client.rest();
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let seen_to_be_cut = match length {
                    Some(length) => body.len() < length.parse().expect("a length"),
                    None => head.contains("transfer-encoding: chunked") && !body.ends_with(b"0\r\n\r\n"),
                };
                assert!(
                    seen_to_be_cut,
                    "{}: {head}{:?} passes for whole",
                    case.name,
                    String::from_utf8_lossy(&body)
                );
            }
            other => panic!("{}: {other:?} is not of a response", case.name),
        }
    }
    let Did::Asked(asked, connection) = next() else { panic!("{}: nothing was asked", case.name) };
    assert_eq!(asked, path);
    while next() != Did::Answered {}
    // Whoever comes next gets its own answer, over the same connection only if that is clean.
    let probe = node.ask("GET /probe HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert_eq!((probe.status, probe.text().as_str()), (200, "probe"), "{}", case.name);
    let Did::Asked(asked, again) = next() else { panic!("{}: no probe", case.name) };
    assert_eq!(asked, "probe");
    assert_eq!(Some(again == connection), case.kept, "{}: whether the connection is used again", case.name);
    reason
}

#[test]
fn responses_have_one_meaning() {
    let cases = cases(true);
    let (origin, did) = script(&cases);
    let text = crate::node::text_of(LISTEN, &config(origin)).replace("cores: 2", "cores: 1");
    let node = Node::start_whole(Place::new(), &text, &[]);
    let (mut reasons, mut failed) = (Vec::new(), Vec::new());
    for (index, case) in cases.iter().enumerate() {
        println!("{}", case.name);
        let ask = std::panic::AssertUnwindSafe(|| ask(case, &index.to_string(), &node, &did));
        match std::panic::catch_unwind(ask) {
            Ok(reason) => reasons.push((&case.name, reason)),
            Err(_) => {
                failed.push(&case.name);
                while did.recv_timeout(Duration::from_millis(200)).is_ok() {}
            }
        }
    }
    assert!(failed.is_empty(), "{} cases: {failed:?}", failed.len());
    let log = node.log(2 * cases.len());
    assert_eq!(log.len(), 2 * cases.len());
    let of_cases = log.iter().filter(|entry| entry["path"] != "/probe");
    for (entry, (name, reason)) in of_cases.zip(&reasons) {
        assert_eq!(entry["reason"].as_str().unwrap_or_default(), reason, "{name}: {entry}");
    }
}

/// An origin that hands each connection to `talk`, with its number.
fn talk(talk: impl Fn(usize, TcpStream) + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    let talk = Arc::new(talk);
    thread::spawn(move || {
        for (number, stream) in listener.incoming().flatten().enumerate() {
            let talk = Arc::clone(&talk);
            thread::spawn(move || talk(number, stream));
        }
    });
    address
}

/// Reads up to the end of a head; gives what came.
fn read_head(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    while find(&bytes, b"\r\n\r\n").is_none() {
        match stream.read(&mut buffer) {
            Ok(count @ 1..) => bytes.extend_from_slice(&buffer[..count]),
            _ => break,
        }
    }
    bytes
}

fn node_before(origin: SocketAddr) -> Node {
    let text = crate::node::text_of(LISTEN, &config(origin)).replace("cores: 2", "cores: 1");
    Node::start_whole(Place::new(), &text, &[])
}

/// Kettle, HTTP/1.1 Must Die (2025): an answer before the request is over leaves the rest of it for the next one.
#[test]
fn an_early_answer_is_the_last_of_both_connections() {
    let (sender, ends) = channel();
    let origin = talk(move |_, mut stream| {
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nearly");
        let mut rest = Vec::new();
        let end = stream.read_to_end(&mut rest).map_err(|error| error.kind());
        let _ = sender.send((end, rest));
    });
    let node = node_before(origin);
    let mut client = node.connect();
    client.send("POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 100\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.text().as_str(), answer.field("connection")), ("early", Some("close")));
    // The rest of the body, which looks like a request, reaches nobody.
    client.try_send(b"GET /smuggled HTTP/1.1\r\nHost: a.example\r\n\r\n");
    assert!(client.is_closed());
    let (end, rest) = ends.recv_timeout(PATIENCE).expect("the end of the origin's connection");
    assert_eq!(
        (end, rest),
        (Err(std::io::ErrorKind::ConnectionReset), Vec::new()),
        "no orderly end of half a request"
    );
    assert_eq!(node.log(1).len(), 1);
}

#[test]
fn who_has_begun_to_answer_is_not_asked_again() {
    let (sender, connections) = channel();
    let origin = talk(move |number, mut stream| {
        let _ = sender.send(number);
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nfirst");
        read_head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    });
    let node = node_before(origin);
    let request = "GET /x HTTP/1.1\r\nHost: a.example\r\n\r\n";
    assert_eq!(node.ask(request).text(), "first");
    let mut client = node.connect();
    client.send(request);
    assert_eq!(client.answer().status, 103);
    assert_eq!(client.answer().refusal(), (502, "upstream_closed".to_owned()));
    assert_eq!(connections.try_iter().collect::<Vec<_>>(), [0], "over one connection");
}

/// RFC 9112 §6.1: an HTTP/1.0 client knows no transfer codings, not even by name.
#[test]
fn old_clients_are_not_told_of_chunks_that_they_do_not_get() {
    let origin = talk(|_, mut stream| {
        while !read_head(&mut stream).is_empty() {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        }
    });
    let node = node_before(origin);
    for (version, coding) in [("1.0", None), ("1.1", Some("chunked"))] {
        let mut client = node.connect();
        client.send(format!("HEAD /x HTTP/{version}\r\nHost: a.example\r\n\r\n"));
        assert_eq!(client.answer_to("HEAD").field("transfer-encoding"), coding, "{version}");
    }
}

/// What an operator sets or removes has no twin (RFC 3875 §4.1.18: CGI and its heirs read `-` and `_` alike).
#[test]
fn edits_hold_for_twins_of_their_names() {
    let origin = Recorder::start();
    let node = Node::start(&format!(
        "upstreams: {{ app: \"http://{}\" }}
apis:
  app:
    to: app
    raw: a test
    allow: [{{ who: anyone }}]
    headers: {{ request: {{ set: {{ X-Env: prod }}, remove: [X-Debug] }} }}",
        origin.address
    ));
    let lines = "X_Env: dev\r\nX.Debug: 1\r\nX-Mine: 1\r\n";
    assert_eq!(node.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).status, 200);
    let (head, _) = without_ours(&origin.arrived.recv_timeout(PATIENCE).expect("a request").head);
    let head = String::from_utf8_lossy(&head).into_owned();
    assert_eq!(head, "GET / HTTP/1.1\r\nX-Env: prod\r\nHost: a\r\nX-Mine: 1\r\n\r\n");
}

/// The example that keeps encoded slashes: in their place, and nowhere that a slash would be somebody else's.
#[test]
fn an_encoded_slash_is_kept_where_it_could_not_be_a_slash() {
    let origin = Recorder::start();
    let example = include_str!("../../config/examples/encoded-slash.yaml");
    let at = example.find("apis:").expect("APIs");
    let node =
        Node::start(&format!("upstreams: {{ registry: \"http://{}\" }}\n{}", origin.address, &example[at..]));
    let get = |path: &str| node.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")).refusal();
    for (sent, received) in [
        ("/@scope%2fname", "/@scope%2Fname"),
        ("/@scope%2Fname/-/name-1.0.tgz", "/@scope%2Fname/-/name-1.0.tgz"),
        ("/-/all", "/-/all"),
    ] {
        assert_eq!(get(sent).0, 200, "{sent}");
        let head = origin.arrived.recv_timeout(PATIENCE).expect("a request").head;
        assert!(
            head.starts_with(format!("GET {received} ").as_bytes()),
            "{:?}",
            String::from_utf8_lossy(&head)
        );
    }
    for (refused, reason) in [
        // If it were a slash, this would be `all`, which takes none; and this an archive.
        ("/-%2Fall", "path_slash_encoded"),
        ("/a%2F-%2Fb", "path_slash_encoded"),
        ("/-/all%2F", "path_slash_encoded"),
        ("/%2e%2e%2Fname", "path_dot_segment"),
        ("/a%2F..", "path_dot_segment"),
        ("/a%252Fb", "path_encoded_twice"),
    ] {
        assert_eq!(get(refused), (400, reason.to_owned()), "{refused}");
    }
    assert!(origin.arrived.try_recv().is_err());
}

/// RFC 9112 §6.1: an HTTP/1.0 server that does not know chunks has them before it as its next request.
#[test]
fn an_old_origin_that_was_sent_chunks_is_not_used_again() {
    let (sender, connections) = channel();
    let origin = talk(move |number, mut stream| {
        while !read_head(&mut stream).is_empty() {
            let _ = sender.send(number);
            let _ =
                stream.write_all(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok");
        }
    });
    let node = node_before(origin);
    let plain = "POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 0\r\n\r\n";
    let chunked = "POST /x HTTP/1.1\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    for (request, connection) in [(plain, 0), (chunked, 0), (plain, 1), (plain, 1)] {
        assert_eq!(node.ask(request).text(), "ok");
        assert_eq!(connections.recv_timeout(PATIENCE), Ok(connection), "{request:?}");
    }
}
