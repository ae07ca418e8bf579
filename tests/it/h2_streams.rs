//! What many exchanges on one HTTP/2 connection do to each other: nothing. Who stalls, gives up or waits in line costs nobody else
//! anything, and whoever nobody waits for any more is stopped at once. Frames are written here byte for byte.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::http::{Request, Response};
use ringwall::h2::hpack::laws::Naive;

use crate::node::{Client, Node, Origin, PATIENCE, Place, Reply, metric, response};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const CANCEL: [u8; 4] = [0, 0, 0, 8];
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
/// Longer than anything takes that is not waited for, shorter than what would be waited for otherwise.
const SOON: Duration = Duration::from_secs(4);

#[derive(Debug)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

/// One end of a connection.
struct Peer {
    stream: TcpStream,
    table: Naive,
}

impl Peer {
    /// A client that says these settings.
    fn client(address: SocketAddr, settings: &[(u16, u32)]) -> Peer {
        let mut peer = Peer::over(TcpStream::connect(address).expect("connected"));
        peer.write(PREFACE);
        peer.settings(settings);
        peer
    }

    fn over(stream: TcpStream) -> Peer {
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Peer { stream, table: Naive::new() }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    fn settings(&mut self, settings: &[(u16, u32)]) {
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()].concat())
            .collect();
        self.write(&frame(SETTINGS, 0, 0, &payload));
    }

    /// The next frame that is not only of the connection; those are answered.
    fn next(&mut self) -> Option<Frame> {
        loop {
            let frame = self.read()?;
            match frame.kind {
                SETTINGS if frame.flags == 0 => self.try_write(&self::frame(SETTINGS, 1, 0, b"")),
                PING if frame.flags == 0 => self.try_write(&self::frame(PING, 1, 0, &frame.payload)),
                SETTINGS | PING => {}
                WINDOW_UPDATE if frame.stream == 0 => {}
                _ => return Some(frame),
            }
        }
    }

    fn try_write(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    fn read(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.stream.read_exact(&mut head).ok()?;
        let number = |bytes: &[u8]| bytes.iter().fold(0_u32, |number, byte| number << 8 | u32::from(*byte));
        let mut payload = vec![0; number(&head[..3]) as usize];
        self.stream.read_exact(&mut payload).ok()?;
        Some(Frame { kind: head[3], flags: head[4], stream: number(&head[5..]) & 0x7fff_ffff, payload })
    }

    /// The status of the next response on a stream, and its whole body; whatever else comes is passed over. The windows of this
    /// stream are opened again.
    fn answer(&mut self, stream: u32) -> (String, Vec<u8>) {
        let (mut status, mut body) = (String::new(), Vec::new());
        loop {
            let frame =
                self.next().unwrap_or_else(|| panic!("no end of stream {stream}, which said {status:?}"));
            if frame.kind == HEADERS {
                let fields = self.table.decode(&frame.payload).expect("a field block");
                if frame.stream == stream && status.is_empty() {
                    let found = fields.iter().find(|(name, _)| name == b":status").expect("a status");
                    status = String::from_utf8_lossy(&found.1).into_owned();
                }
            }
            if frame.kind == DATA && !frame.payload.is_empty() && frame.stream == stream {
                let bytes = u32::try_from(frame.payload.len()).expect("a frame").to_be_bytes();
                let updates =
                    [self::frame(WINDOW_UPDATE, 0, 0, &bytes), self::frame(WINDOW_UPDATE, 0, stream, &bytes)];
                self.try_write(&updates.concat());
                body.extend_from_slice(&frame.payload);
            }
            assert!(frame.kind != GOAWAY || frame.payload[7] == 0, "{frame:?}");
            if frame.stream == stream {
                assert_ne!(frame.kind, RESET, "{frame:?} after {status:?}");
                if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                    return (status, body);
                }
            }
        }
    }

    /// Waits for a frame of this kind on a stream.
    fn wait_for(&mut self, kind: u8, stream: u32) -> Frame {
        loop {
            let frame = self.next().expect("more");
            if frame.kind == HEADERS {
                self.table.decode(&frame.payload).expect("a field block");
            }
            if (frame.kind, frame.stream) == (kind, stream) {
                return frame;
            }
        }
    }

    fn get(&mut self, stream: u32, path: &str) {
        self.write(&request(stream, "GET", path, true));
    }
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    let mut bytes = length[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Literals without indexing (RFC 7541 §6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut block = Vec::new();
    for (name, value) in fields {
        block.push(0);
        for text in [name, value] {
            assert!(text.len() < 127);
            block.push(text.len() as u8);
            block.extend_from_slice(text.as_bytes());
        }
    }
    block
}

fn request(stream: u32, method: &str, path: &str, end: bool) -> Vec<u8> {
    let fields = [(":method", method), (":scheme", "http"), (":authority", "a.test"), (":path", path)];
    frame(HEADERS, if end { END_HEADERS | END_STREAM } else { END_HEADERS }, stream, &block(&fields))
}

/// What an upstream over HTTP/2 is asked and what becomes of it.
#[derive(Debug, PartialEq)]
enum Heard {
    /// A connection, by its number.
    Connected,
    /// A request for this path.
    Asked(String),
    Reset,
}

/// An upstream over HTTP/2 that says these settings and answers as `answer` says, which gets the path and the stream.
fn upstream(
    settings: &'static [(u16, u32)],
    answer: impl Fn(&str, u32) -> Vec<u8> + Send + Sync + Clone + 'static,
) -> (SocketAddr, Receiver<Heard>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    let (sender, heard) = channel();
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (sender, answer) = (sender.clone(), answer.clone());
            thread::spawn(move || attend(stream, settings, &sender, &answer));
        }
    });
    (address, heard)
}

fn attend(
    stream: TcpStream,
    settings: &[(u16, u32)],
    heard: &Sender<Heard>,
    answer: &impl Fn(&str, u32) -> Vec<u8>,
) {
    let mut peer = Peer::over(stream);
    let mut preface = [0; PREFACE.len()];
    if peer.stream.read_exact(&mut preface).is_err() {
        return;
    }
    let _ = heard.send(Heard::Connected);
    peer.settings(settings);
    while let Some(frame) = peer.next() {
        match frame.kind {
            HEADERS => {
                let fields = peer.table.decode(&frame.payload).expect("a field block");
                let path = fields.iter().find(|(name, _)| name == b":path").expect("a path");
                let path = String::from_utf8_lossy(&path.1).into_owned();
                let bytes = answer(&path, frame.stream);
                let _ = heard.send(Heard::Asked(path));
                peer.try_write(&bytes);
            }
            RESET => drop(heard.send(Heard::Reset)),
            _ => {}
        }
    }
}

/// A response whose body is what it was asked for.
fn echo(path: &str, stream: u32) -> Vec<u8> {
    let head = frame(HEADERS, END_HEADERS, stream, &block(&[(":status", "200")]));
    [head, frame(DATA, END_STREAM, stream, path.as_bytes())].concat()
}

fn node(target: &str, more: &str) -> Node {
    let listen =
        "{ address: \"127.0.0.1:0\", tls: none, protocols: [http1, http2], timeouts: { head: 500ms } }";
    let config = format!(
        "upstreams: {{ app: {{ {target} }} }}
apis: {{ app: {{ to: app, raw: \"a test\", allow: [{{ who: anyone }}]{more} }} }}"
    );
    let text =
        crate::node::text_of(listen, &config).replace("cores: 2", "cores: 1").replace("1MiB", "256MiB");
    Node::start_whole(Place::new(), &text, &[])
}

fn before(origin: SocketAddr) -> String {
    format!("targets: \"http://{origin}\"")
}

fn before_h2(origin: SocketAddr) -> String {
    format!("targets: \"http://{origin}\", protocol: http2")
}

/// CVE-2023-44487: what is taken back before anybody has been asked costs no upstream anything.
#[test]
fn a_request_that_is_taken_back_in_the_same_breath_reaches_nobody() {
    let origin = Origin::plain();
    let node = node(&before(origin.address), "");
    let mut peer = Peer::client(node.address, &[]);
    let mut bytes = Vec::new();
    for stream in (1..100).step_by(2) {
        bytes.extend(request(stream, "GET", "/taken-back", true));
        bytes.extend(frame(RESET, 0, stream, &CANCEL));
    }
    bytes.extend(request(101, "GET", "/kept", true));
    peer.write(&bytes);
    assert_eq!(peer.answer(101).0, "200");
    assert!(origin.next().head.starts_with("GET /kept "));
    assert!(origin.saw_nothing_more());
    assert_eq!(metric(&node, "ringwall_panics_total", &[]), 0.0);
}

#[test]
fn a_client_that_gives_up_ends_what_is_asked_for_it() {
    let (address, heard) = upstream(&[], |_, _| Vec::new());
    let silent = Origin::start(|_| Reply::Silence);
    for target in [before_h2(address), before(silent.address)] {
        let node = node(&target, "");
        let mut peer = Peer::client(node.address, &[]);
        peer.get(1, "/slow");
        if target.contains("http2") {
            assert_eq!(heard.recv_timeout(PATIENCE), Ok(Heard::Connected));
            assert_eq!(heard.recv_timeout(PATIENCE), Ok(Heard::Asked("/slow".to_owned())));
            peer.write(&frame(RESET, 0, 1, &CANCEL));
            assert_eq!(heard.recv_timeout(SOON), Ok(Heard::Reset));
        } else {
            silent.next();
            peer.write(&frame(RESET, 0, 1, &CANCEL));
        }
        let begun = Instant::now();
        let line = &node.log(1)[0];
        assert_eq!(line["reason"], "client_gone", "{line}");
        assert!(begun.elapsed() < SOON);
    }
}

/// Who breaks the rules on its stream has not gone: the record says what it did.
#[test]
fn a_stream_that_ends_for_a_fault_says_which() {
    let (address, _heard) = upstream(&[], |_, _| Vec::new());
    let node = node(&before_h2(address), "");
    let mut client = Peer::client(node.address, &[]);
    client.write(&request(1, "POST", "/a", false));
    client.write(&[frame(DATA, 0, 1, b"hello"), frame(WINDOW_UPDATE, 0, 1, &[0; 4])].concat());
    client.wait_for(RESET, 1);
    let record = &node.log(1)[0];
    assert_eq!(
        (&record["reason"], &record["code"]),
        (&"h2_window_increment".into(), &"RW-2317".into()),
        "{record}"
    );
    assert_eq!(crate::node::refusals(&node, "client_gone"), 0.0);
}

/// Nothing else can come before a field block's end (RFC 9113 §4.3): it has the deadline of a head, whatever else is under way.
#[test]
fn a_block_that_does_not_end_has_a_deadline_of_its_own() {
    let (address, _heard) =
        upstream(&[], |path, stream| if path == "/held" { Vec::new() } else { echo(path, stream) });
    let node = node(&before_h2(address), "");
    let whole = request(5, "GET", "/", true);
    let unended = frame(HEADERS, END_STREAM, 5, &whole[9..]);
    let trailers = frame(HEADERS, END_STREAM, 3, &block(&[("x-sum", "7")]));
    for (number, half) in
        [&unended[..], &whole[..whole.len() - 1], &whole[..9], &trailers].into_iter().enumerate()
    {
        let mut peer = Peer::client(node.address, &[]);
        // With the answer our settings have come and were acknowledged: nothing more is to be said in between.
        peer.get(1, "/");
        assert_eq!(peer.answer(1).0, "200");
        peer.write(&request(3, "POST", "/held", false));
        let begun = Instant::now();
        peer.write(half);
        let goaway = peer.wait_for(GOAWAY, 0);
        assert_eq!(goaway.payload[..8], [0, 0, 0, 3, 0, 0, 0, 11], "the last that counts, ENHANCE_YOUR_CALM");
        assert!(
            begun.elapsed() >= Duration::from_millis(400) && begun.elapsed() < SOON,
            "{:?}",
            begun.elapsed()
        );
        assert!(peer.next().is_none(), "the connection ends");
        // Its own record, and those of the request before and of the one that it took along.
        let lines = node.log(3 * (number + 1));
        let told = lines[3 * number..].iter().filter(|line| line["reason"] == "client_head_timeout");
        assert_eq!(told.count(), 1, "{lines:?}");
        assert_eq!(crate::node::refusals(&node, "client_head_timeout"), (number + 1) as f64);
    }
}

/// The same of an upstream, whose streams would wait for each other's end.
#[test]
fn an_upstreams_block_that_does_not_end_takes_its_connection_and_no_more() {
    let (address, heard) = upstream(&[], |path, stream| match path {
        "/half" => frame(HEADERS, 0, stream, &block(&[(":status", "200")])),
        "/beside" => Vec::new(),
        _ => echo(path, stream),
    });
    let node = node(&before_h2(address), "");
    let mut peer = Peer::client(node.address, &[]);
    for (stream, path) in [(1, "/beside"), (3, "/half")] {
        peer.write(&request(stream, "POST", path, true));
        while heard.recv_timeout(PATIENCE) != Ok(Heard::Asked(path.to_owned())) {}
    }
    let begun = Instant::now();
    // In whatever order.
    let mut unanswered = vec![1, 3];
    while !unanswered.is_empty() {
        let frame = peer.next().expect("more");
        if frame.kind == HEADERS {
            peer.table.decode(&frame.payload).expect("a field block");
            unanswered.retain(|stream| *stream != frame.stream);
        }
    }
    // Ten seconds, where each of them would have thirty.
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
    let reasons: Vec<_> =
        node.log(2).iter().map(|line| (line["status"].clone(), line["reason"].clone())).collect();
    assert_eq!(reasons, vec![(504.into(), "upstream_h2_block_timeout".into()); 2]);
    peer.get(5, "/after");
    assert_eq!(peer.answer(5), ("200".to_owned(), b"/after".to_vec()));
    // What is said of streams of a connection that has ended says nothing.
    let asked: Vec<_> = heard.try_iter().filter(|heard| *heard != Heard::Reset).collect();
    assert_eq!(asked, [Heard::Connected, Heard::Asked("/after".to_owned())]);
}

/// The whole request is waited for, which a stream can be told that has not been shut down by that.
#[test]
fn a_body_that_does_not_come_is_answered_408() {
    let origin = Origin::plain();
    let node = node(&before(origin.address), "");
    let mut peer = Peer::client(node.address, &[]);
    // Whether a body follows is not known before its end.
    peer.write(&request(1, "GET", "/", false));
    let (status, body) = peer.answer(1);
    assert_eq!(status, "408");
    assert!(String::from_utf8_lossy(&body).contains("client_body_timeout"));
    peer.get(3, "/");
    assert_eq!(peer.answer(3).0, "200");
}

/// Who was sent got no answer in time; who was never sent, no place: as in a queue before the upstream.
#[test]
fn who_waits_in_line_for_an_upstream_has_a_deadline() {
    // What is sent before this is heard is sent.
    let (address, heard) = upstream(&[(MAX_CONCURRENT_STREAMS, 0)], |_, _| Vec::new());
    let target =
        format!("{}, pool: {{ connections: 1 }}, timeouts: {{ first_byte: 1s }}", before_h2(address));
    let node = node(&target, ", timeouts: { stream_idle: 1s }");
    let mut peer = Peer::client(node.address, &[]);
    let begun = Instant::now();
    peer.write(&request(1, "POST", "/held", true));
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Heard::Connected));
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Heard::Asked("/held".to_owned())));
    // With a body that is on its way the head waits for no first byte yet.
    peer.write(&[request(3, "POST", "/waits", false), frame(DATA, 0, 3, b"hello")].concat());
    for stream in [5, 7] {
        peer.get(stream, "/waits");
    }
    let reasons: Vec<_> = node
        .log(4)
        .iter()
        .map(|line| (line["path"].clone(), line["status"].clone(), line["reason"].clone()))
        .collect();
    let told = |path: &str| reasons.iter().filter(|(of, ..)| of == path).collect::<Vec<_>>();
    let (unanswered, no_place) = ("upstream_first_byte".into(), "upstream_queue_timeout".into());
    assert_eq!(told("/held"), [&("/held".into(), 504.into(), unanswered)]);
    assert_eq!(told("/waits"), [&("/waits".into(), 503.into(), no_place); 3]);
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
    assert_eq!(heard.try_iter().filter(|heard| matches!(heard, Heard::Asked(_))).count(), 0);
    // RFC 9110 §10.2.3.
    let mut client = node.connect();
    client.send("GET /waits HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")), "{}", answer.text());
    assert_eq!(answer.reason(), "upstream_queue_timeout");
}

/// One place at a time, for many who come at once: each is asked for once, in order, and whoever gives up in between leaves no gap.
#[test]
fn who_waits_in_line_for_an_upstream_comes_to_its_turn() {
    let (address, heard) = upstream(&[(MAX_CONCURRENT_STREAMS, 1)], echo);
    let node = node(&format!("{}, pool: {{ connections: 1 }}", before_h2(address)), "");
    let mut peer = Peer::client(node.address, &[]);
    peer.get(1, "/1");
    assert_eq!(peer.answer(1).0, "200");
    let mut bytes = Vec::new();
    for stream in (3..103).step_by(2) {
        bytes.extend(request(stream, "GET", &format!("/{stream}"), true));
        if stream % 10 == 5 {
            bytes.extend(frame(RESET, 0, stream, &CANCEL));
        }
    }
    peer.write(&bytes);
    let mut left: Vec<u32> = (3..103).step_by(2).filter(|stream| stream % 10 != 5).collect();
    let wanted: Vec<String> = left.iter().map(|stream| format!("/{stream}")).collect();
    while !left.is_empty() {
        let frame = peer.next().expect("more");
        assert_ne!((frame.kind, frame.stream % 10 == 5), (RESET, false), "{frame:?}");
        if frame.kind == DATA && frame.flags & END_STREAM != 0 {
            left.retain(|stream| *stream != frame.stream);
        }
    }
    let asked: Vec<String> = heard
        .try_iter()
        .filter_map(|heard| match heard {
            Heard::Asked(path) if path != "/1" => Some(path),
            _ => None,
        })
        .collect();
    assert_eq!(asked, wanted);
}

/// RFC 7541 §6.2.3: what came as a field that may never be in a table goes on as such, in both directions.
#[test]
fn what_may_never_be_indexed_stays_so_on_its_way() {
    const SECRET: &[u8] = b"\x10\x09x-session\x03abc";
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    let origin = thread::spawn(move || {
        let mut peer = Peer::over(listener.accept().expect("a connection").0);
        peer.stream.read_exact(&mut [0; PREFACE.len()]).expect("a preface");
        peer.settings(&[]);
        let asked = peer.next().expect("a request");
        assert_eq!(asked.kind, HEADERS);
        let block = [b"\x88", SECRET].concat();
        peer.write(&frame(HEADERS, END_HEADERS | END_STREAM, asked.stream, &block));
        // Until the other side has it.
        let _ = peer.next();
        asked.payload
    });
    let node = node(&before_h2(address), "");
    let mut peer = Peer::client(node.address, &[]);
    let head = block(&[(":method", "GET"), (":scheme", "http"), (":authority", "a.test"), (":path", "/")]);
    peer.write(&frame(HEADERS, END_HEADERS | END_STREAM, 1, &[&head, SECRET].concat()));
    let answer = peer.wait_for(HEADERS, 1).payload;
    drop((peer, node));
    for block in [origin.join().expect("asked"), answer] {
        let fields = Naive::new().decode(&block).expect("a field block");
        let at = fields.iter().position(|(name, _)| name == b"x-session").expect("it came");
        assert_eq!(fields[at].1, b"abc");
        assert_eq!(representation(&block, at) & 0xf0, 0x10, "{block:x?}");
    }
}

/// The first byte of the field at this position, where no number is longer than its prefix.
fn representation(block: &[u8], position: usize) -> u8 {
    let string = |at: usize| at + 1 + usize::from(block[at] & 0x7f);
    let mut at = 0;
    for _ in 0..position {
        let first = block[at];
        let prefix = if first & 0x40 != 0 { 0x3f } else { 0x0f };
        at += 1;
        if first & 0x80 == 0 {
            at = if first & prefix == 0 { string(at) } else { at + usize::from(first & prefix == prefix) };
            at = string(at);
        }
    }
    block[at]
}

/// A connection that takes nothing more is none to wait for: what is under way on it may take for ever.
#[test]
fn who_waits_in_line_for_a_connection_that_goes_away_asks_on_another() {
    let held_or_echoed = |path: &str, stream| if path == "/held" { Vec::new() } else { echo(path, stream) };
    let (address, heard) = upstream(&[(MAX_CONCURRENT_STREAMS, 1)], held_or_echoed);
    let node = node(&format!("{}, pool: {{ age: 1s }}", before_h2(address)), "");
    let mut peer = Peer::client(node.address, &[]);
    // As many connections as there may be to one member, each of which has all that it takes.
    for stream in [1, 3, 5, 7] {
        peer.get(stream, "/held");
        assert_eq!(heard.recv_timeout(PATIENCE), Ok(Heard::Connected));
        assert_eq!(heard.recv_timeout(PATIENCE), Ok(Heard::Asked("/held".to_owned())));
    }
    peer.get(9, "/waits");
    assert_eq!(peer.answer(9), ("200".to_owned(), b"/waits".to_vec()));
    assert_eq!(heard.try_iter().collect::<Vec<_>>(), [Heard::Connected, Heard::Asked("/waits".to_owned())]);
}

/// RFC 9113 §8.7: whatever it is, what has not been acted on may be sent again.
#[test]
fn what_an_upstream_has_not_acted_on_is_sent_again() {
    for refusal in [(GOAWAY, 0, vec![0; 8]), (RESET, 1, vec![0, 0, 0, 7])] {
        let first = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(true));
        let (address, heard) = upstream(&[], move |path, stream| {
            let (kind, of_stream, payload) = &refusal;
            match first.swap(false, std::sync::atomic::Ordering::Relaxed) {
                true => frame(*kind, 0, stream * of_stream, payload),
                false => echo(path, stream),
            }
        });
        let node = node(&before_h2(address), "");
        let mut peer = Peer::client(node.address, &[]);
        peer.write(&request(1, "POST", "/once", true));
        assert_eq!(peer.answer(1), ("200".to_owned(), b"/once".to_vec()));
        let asked = heard.try_iter().filter(|heard| matches!(heard, Heard::Asked(_))).count();
        assert_eq!(asked, 2, "the second of them was answered");
    }
}

/// A port on which nobody answers: its queue is full.
fn nowhere() -> (TcpListener, Vec<TcpStream>) {
    let listener =
        ringwall::sys::socket::listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 1).expect("a port");
    let address = listener.local_addr().expect("bound");
    let mut queued = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(300)) {
        queued.push(stream);
    }
    (listener, queued)
}

#[test]
fn who_waits_for_a_connection_that_cannot_be_opened_does_not_try_for_itself() {
    let (listener, _queued) = nowhere();
    let target = format!(
        "{}, timeouts: {{ connect: 700ms }}, retry: {{ tries: 1 }}",
        before_h2(listener.local_addr().expect("bound"))
    );
    let node = node(&target, "");
    let mut peer = Peer::client(node.address, &[]);
    let begun = Instant::now();
    let streams: Vec<u32> = (1..40).step_by(2).collect();
    let bytes: Vec<u8> = streams.iter().flat_map(|stream| request(*stream, "GET", "/", true)).collect();
    peer.write(&bytes);
    for stream in streams {
        // The first answers may be read while another is looked for: those are in order.
        assert_eq!(peer.answer(stream).0, "504");
    }
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

/// Its place is the next one's at once, not when its time is up.
#[test]
fn who_gives_up_while_it_waits_for_an_upstream_makes_room() {
    let (address, heard) = upstream(&[], |path, stream| match path {
        "/held" => Vec::new(),
        path => echo(path, stream),
    });
    let breaker = "breaker: { requests: 1, queue: 1, wait: 20s }";
    let node = node(&format!("{}, {breaker}", before_h2(address)), "");
    let mut peer = Peer::client(node.address, &[]);
    peer.get(1, "/held");
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Heard::Connected));
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(Heard::Asked("/held".to_owned())));
    peer.get(3, "/waits");
    // It waits once whoever comes next finds no room to wait.
    peer.get(5, "/too-many");
    assert_eq!(peer.answer(5).0, "503");
    let begun = Instant::now();
    peer.write(&frame(RESET, 0, 3, &CANCEL));
    let gone = |line: &serde_json::Value| line["reason"] == "client_gone";
    assert_eq!(node.log(2).into_iter().filter(gone).count(), 1);
    peer.get(7, "/next");
    peer.write(&frame(RESET, 0, 1, &CANCEL));
    assert_eq!(peer.answer(7), ("200".to_owned(), b"/next".to_vec()));
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

#[test]
fn who_gives_up_while_another_opens_a_connection_goes_at_once() {
    let (listener, _queued) = nowhere();
    let address = listener.local_addr().expect("bound");
    let node =
        node(&format!("{}, timeouts: {{ connect: 10s }}, retry: {{ tries: 1 }}", before_h2(address)), "");
    let mut peer = Peer::client(node.address, &[]);
    peer.get(1, "/opens");
    peer.get(3, "/waits");
    // Both are on their way when this is answered.
    peer.write(&frame(PING, 0, 0, b"together"));
    while peer.read().expect("an answer").kind != PING {}
    let begun = Instant::now();
    peer.write(&frame(RESET, 0, 3, &CANCEL));
    let line = node.log(1).remove(0);
    assert_eq!((&line["reason"], &line["path"]), (&"client_gone".into(), &"/waits".into()), "{line}");
    assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
}

/// Uploads that nobody takes hold what came of them, and nobody else's.
#[test]
fn stalled_uploads_do_not_stop_another() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming().flatten() {
            let mut client = Client::new(stream);
            let head = client.head();
            if head.starts_with("POST /stalled") {
                kept.push(client);
                continue;
            }
            let mut left = 300_000;
            while left > 0 {
                left -= client.rest_of(left);
            }
            client.send(response("200 OK", "all of it"));
        }
    });
    let node = node(&before(address), ", sizes: { body: 64MiB }");
    let mut peer = Peer::client(node.address, &[]);
    let mut windows: std::collections::BTreeMap<u32, i64> = std::collections::BTreeMap::new();
    let mut connection = 65_535_i64;
    let streams: Vec<u32> = (1..120).step_by(2).collect();
    for stream in &streams {
        peer.write(&request(*stream, "POST", "/stalled", false));
        windows.insert(*stream, 65_535);
    }
    // As much as windows let, on all of them, until nothing more may be sent.
    peer.stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    let piece = vec![b'x'; 16_384];
    let mut stalled = 0;
    let mut quiet = 0;
    while quiet < 4 && stalled < 200 << 20 {
        for (stream, window) in &mut windows {
            let bytes = (*window).min(connection).min(piece.len() as i64);
            if bytes > 0 {
                peer.stream.write_all(&frame(DATA, 0, *stream, &piece[..bytes as usize])).expect("sent");
                *window -= bytes;
                connection -= bytes;
                stalled += bytes;
            }
        }
        let may = windows.values().any(|window| *window > 0) && connection > 0;
        match peer.read() {
            Some(Frame { kind: WINDOW_UPDATE, stream, payload, .. }) => {
                let bytes = i64::from(u32::from_be_bytes(payload[..4].try_into().expect("four")));
                match stream {
                    0 => connection += bytes,
                    stream => *windows.get_mut(&stream).expect("ours") += bytes,
                }
                quiet = 0;
            }
            Some(Frame { kind: SETTINGS, flags: 0, .. }) => peer.write(&frame(SETTINGS, 1, 0, b"")),
            Some(Frame { kind: PING, flags: 0, payload, .. }) => peer.write(&frame(PING, 1, 0, &payload)),
            Some(frame) => assert!(!matches!(frame.kind, GOAWAY | RESET), "{frame:?}"),
            None if may => {}
            None => quiet += 1,
        }
    }
    peer.stream.set_read_timeout(Some(SOON)).expect("a timeout");
    // Another one, of 300,000 bytes.
    let mut window = 65_535_i64;
    let mut left = 300_000_i64;
    peer.write(&request(999, "POST", "/whole", false));
    while left > 0 {
        let bytes = left.min(window).min(connection).min(piece.len() as i64);
        if bytes > 0 {
            left -= bytes;
            window -= bytes;
            connection -= bytes;
            let flags = if left == 0 { END_STREAM } else { 0 };
            peer.write(&frame(DATA, flags, 999, &piece[..bytes as usize]));
            continue;
        }
        let frame = peer.read().unwrap_or_else(|| {
            panic!("stuck behind {stalled} bytes: windows of {window} and {connection}, {left} left")
        });
        match (frame.kind, frame.stream) {
            (WINDOW_UPDATE, at @ (0 | 999)) => {
                let bytes = i64::from(u32::from_be_bytes(frame.payload[..4].try_into().expect("four")));
                *(if at == 0 { &mut connection } else { &mut window }) += bytes;
            }
            (PING, _) if frame.flags == 0 => peer.write(&self::frame(PING, 1, 0, &frame.payload)),
            (GOAWAY, _) => panic!("{frame:?}"),
            _ => {}
        }
    }
    assert_eq!(peer.answer(999), ("200".to_owned(), b"all of it".to_vec()));
}

/// Clients that do not read hold what came for them; their upstream's connection is everybody's.
#[test]
fn stalled_downloads_do_not_stop_another_on_the_same_upstream_connection() {
    const BYTES: usize = 65_000;
    let (address, _heard) = upstream(&[], |path, stream| {
        if path == "/small" {
            return echo(path, stream);
        }
        let mut bytes = frame(HEADERS, END_HEADERS, stream, &block(&[(":status", "200")]));
        for piece in vec![b'x'; BYTES].chunks(16_384) {
            bytes.extend(frame(DATA, 0, stream, piece));
        }
        bytes
    });
    let node = node(&format!("{}, pool: {{ connections: 1 }}", before_h2(address)), "");
    // Each grants nothing: all of it stays on the way.
    let mut stalled = Peer::client(node.address, &[(INITIAL_WINDOW_SIZE, 0)]);
    for stream in (1..80).step_by(2) {
        stalled.get(stream, "/large");
        stalled.wait_for(HEADERS, stream);
    }
    let mut other = Peer::client(node.address, &[]);
    for stream in (1..20).step_by(2) {
        other.get(stream, "/small");
        assert_eq!(other.answer(stream), ("200".to_owned(), b"/small".to_vec()));
    }
}

/// A listener goes while a request of it is under way: that is finished.
#[test]
fn what_is_under_way_on_a_listener_that_goes_is_finished() {
    let (address, _seen) = {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let (sender, seen) = channel();
        thread::spawn(move || {
            let mut client = Client::new(listener.accept().expect("a connection").0);
            let _ = sender.send(client.head());
            let mut left = 200_000;
            while left > 0 {
                match client.rest_of(left) {
                    0 => return,
                    bytes => left -= bytes,
                }
            }
            client.send(response("200 OK", "all of it"));
        });
        (address, seen)
    };
    let config = |listen: &str| {
        let config = format!(
            "upstreams: {{ app: \"http://{address}\" }}
apis: {{ app: {{ to: app, raw: \"a test\", allow: [{{ who: anyone }}] }} }}"
        );
        crate::node::text_of(listen, &config).replace("cores: 2", "cores: 1")
    };
    let both = "[{ address: \"127.0.0.1:0\", tls: none }, { address: \"127.0.0.3:0\", tls: none, protocols: http2 }]";
    let mut node = Node::start_whole(Place::new(), &config(both), &[]);
    let mut peer = Peer::client(node.addresses[1], &[]);
    let mut window = 65_535_i64;
    let mut connection = window;
    peer.write(&request(1, "POST", "/whole", false));
    let piece = vec![b'x'; 10_000];
    let mut left = 200_000_i64;
    let mut told = false;
    while left > 0 {
        let bytes = left.min(window).min(connection).min(piece.len() as i64);
        if bytes > 0 {
            left -= bytes;
            window -= bytes;
            connection -= bytes;
            peer.write(&frame(DATA, if left == 0 { END_STREAM } else { 0 }, 1, &piece[..bytes as usize]));
        }
        if left == 150_000 && !told {
            told = true;
            let next = node.place.write("next.yaml", &config("[{ address: \"127.0.0.1:0\", tls: none }]"));
            std::fs::rename(next, node.place.path().join("ringwall.yaml")).expect("renamed");
            node.signal("HUP");
            node.wait_for("RW-6003");
        }
        if bytes == 0 || told {
            peer.stream
                .set_read_timeout(Some(if bytes == 0 { SOON } else { Duration::from_millis(20) }))
                .expect("set");
            match peer.read() {
                Some(Frame { kind: WINDOW_UPDATE, stream, payload, .. }) => {
                    let bytes = i64::from(u32::from_be_bytes(payload[..4].try_into().expect("four")));
                    *(if stream == 0 { &mut connection } else { &mut window }) += bytes;
                }
                Some(Frame { kind: PING, flags: 0, payload, .. }) => peer.write(&frame(PING, 1, 0, &payload)),
                Some(frame) => assert!(!matches!(frame.kind, RESET), "{frame:?}"),
                None => assert!(bytes > 0, "stuck with {left} bytes left"),
            }
        }
    }
    peer.stream.set_read_timeout(Some(SOON)).expect("set");
    assert_eq!(peer.answer(1).1, b"all of it");
}

/// Numbers that are the same each time (Numerical Recipes' generator).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}

/// An upstream of the `h2` crate that sends back what it receives as it comes.
async fn echo_server(listener: tokio::net::TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut builder = h2::server::Builder::new();
            builder.max_concurrent_streams(12);
            let Ok(mut connection) = builder.handshake::<_, Bytes>(stream).await else { return };
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    let Ok(mut sending) = respond.send_response(Response::new(()), false) else {
                        return;
                    };
                    while let Some(Ok(piece)) = body.data().await {
                        let _ = body.flow_control().release_capacity(piece.len());
                        if send_all(&mut sending, piece, false).await.is_none() {
                            return;
                        }
                    }
                    let _ = sending.send_data(Bytes::new(), true);
                });
            }
        });
    }
}

/// Sends as windows let; `None`: the stream is over.
async fn send_all(to: &mut h2::SendStream<Bytes>, mut bytes: Bytes, end: bool) -> Option<()> {
    while !bytes.is_empty() {
        to.reserve_capacity(bytes.len());
        let room = std::future::poll_fn(|context| to.poll_capacity(context)).await?.ok()?;
        let piece = bytes.split_to(room.min(bytes.len()));
        let is_last = end && bytes.is_empty();
        to.send_data(piece, is_last).ok()?;
    }
    Some(())
}

/// What one stream of the test does: sends `bytes` in pieces, reads them back slowly or quickly, and may give up at some point.
async fn one_of_many(mut client: h2::client::SendRequest<Bytes>, seed: u64) -> Result<(), String> {
    let mut chance = Chance(seed.wrapping_mul(0x9e37_79b9));
    let bytes = if chance.below(3) == 0 { chance.below(400_000) + 1 } else { chance.below(3_000) + 1 };
    let gives_up = (chance.below(4) == 0).then(|| chance.below(bytes));
    let body: Vec<u8> = (0..bytes).map(|at| (at.wrapping_mul(seed | 1) >> 3) as u8).collect();
    client = client.ready().await.map_err(|error| format!("{seed}: {error}"))?;
    let request = Request::post("http://a.test/echo").body(()).expect("a request");
    let (answer, mut sending) =
        client.send_request(request, false).map_err(|error| format!("{seed}: {error}"))?;
    let sent = async {
        let mut at = 0;
        while at < body.len() {
            let next = body.len().min(at + 1 + chance.below(30_000) as usize);
            if gives_up.is_some_and(|point| next as u64 > point) {
                sending.send_reset(h2::Reason::CANCEL);
                return;
            }
            let piece = Bytes::copy_from_slice(&body[at..next]);
            if send_all(&mut sending, piece, next == body.len()).await.is_none() {
                return;
            }
            at = next;
            if chance.below(8) == 0 {
                tokio::time::sleep(Duration::from_millis(chance.below(20))).await;
            }
        }
    };
    let mut slowness = Chance(seed);
    let came = async {
        let answer = answer.await.map_err(|error| error.to_string())?;
        if answer.status() != 200 {
            return Err(answer.status().to_string());
        }
        let mut back = answer.into_body();
        let mut came = Vec::new();
        while let Some(piece) = back.data().await {
            let piece = piece.map_err(|error| error.to_string())?;
            came.extend_from_slice(&piece);
            if slowness.below(6) == 0 {
                tokio::time::sleep(Duration::from_millis(slowness.below(10))).await;
            }
            back.flow_control().release_capacity(piece.len()).map_err(|error| error.to_string())?;
        }
        Ok(came)
    };
    let (came, ()) = tokio::join!(came, sent);
    match (came, gives_up) {
        (Ok(came), None) if came == body => Ok(()),
        (Ok(came), Some(_)) if body.starts_with(&came) => Ok(()),
        (Err(_), Some(_)) => Ok(()),
        (Ok(came), _) => Err(format!("{seed}: {} of {bytes} bytes, or others", came.len())),
        (Err(error), None) => Err(format!("{seed}: {error}")),
    }
}

/// Uploads and downloads at once, of all sizes, slow and quick, some given up in the middle: what is not given up arrives whole,
/// nothing hangs, and at the end nothing is left.
#[test]
fn many_streams_at_once_lose_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let collects = Origin::start(|seen| {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", seen.body.len());
        Reply::Bytes([head.as_bytes(), &seen.body].concat())
    });
    runtime.block_on(async {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        let echoes = listener.local_addr().expect("bound");
        tokio::spawn(echo_server(listener));
        for target in [before_h2(echoes), before(collects.address)] {
            let mut node = node(&target, "");
            for (window, connection) in [(65_535, 65_535), (4_096, 65_535), (1 << 20, 4 << 20)] {
                let stream = tokio::net::TcpStream::connect(node.address).await.expect("connected");
                let mut builder = h2::client::Builder::new();
                builder.initial_window_size(window).initial_connection_window_size(connection);
                let (client, driven) = builder.handshake(stream).await.expect("settings");
                let driven = tokio::spawn(driven);
                let all: Vec<_> = (0..60)
                    .map(|seed| tokio::spawn(one_of_many(client.clone(), seed + u64::from(window))))
                    .collect();
                for one in all {
                    let done = tokio::time::timeout(PATIENCE, one).await;
                    let done = done.unwrap_or_else(|_| panic!("hangs: {target}, windows of {window}"));
                    done.expect("no panic")
                        .unwrap_or_else(|error| panic!("{target}, windows of {window}: {error}"));
                }
                drop(client);
                let _ = driven.await;
            }
            assert_eq!(metric(&node, "ringwall_panics_total", &[]), 0.0);
            // With nothing left it ends as soon as it is told to.
            let begun = Instant::now();
            node.signal("TERM");
            assert!(node.child.wait().expect("ends").success());
            assert!(begun.elapsed() < SOON, "{:?}", begun.elapsed());
        }
    });
}
