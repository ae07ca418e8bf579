//! WebSockets through a node: with a client and an origin that others wrote, over HTTP/1.1 and HTTP/2, in the clear and over TLS; and
//! under what happens to a node: a reload, a drain, keys that go, addresses and keys that are blocked.
//!
//! The cases stand in `tests/conformance/websocket`: `suite.py` has what a client and an operator want to be so, `autobahn.py` the list of
//! the Autobahn test suite. Both run the origin themselves.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::nginx::free_address;
use crate::node::{Node, PATIENCE, Place, comes_to, metric, new_key, refusals, text_of};

/// At least so many cases have to have run, or something has left them out.
const CASES_MIN: usize = 112;
/// Of those that are about upstreams of HTTP/2, from clients of either.
const CONNECT_CASES: usize = 30;
/// The same of Autobahn's list, over HTTP/1.1 and HTTP/2, from both ends.
const AUTOBAHN_CASES: usize = 1_854;

const SCHEMA: &str = include_str!("../../src/cli/demo/order.schema.json");
const LISTEN: &str = "\n  - { address: \"127.0.0.1:0\", tls: none }\n  \
    - { address: \"127.0.0.1:0\", tls: { cert: c.pem, key: k.pem } }\n  \
    - { address: \"127.0.0.1:0\", tls: none, protocols: [http2] }\n  \
    - { address: \"127.0.0.1:0\", tls: { cert: c.pem, key: k.pem }, protocols: [http1] }";
const LISTEN_PLAIN: &str = "\n  - { address: \"127.0.0.1:0\", tls: none }\n  \
    - { address: \"127.0.0.1:0\", tls: none, protocols: [http2] }";
const APIS: &str = r#"
login: { keys: { api_key: X-API-Key, store: partners.keys, pepper: "secret:file:pepper" } }
apis:
  echo: { base: /echo, to: app, raw: "a test", websocket: true, allow: [{ who: anyone }] }
  plain: { base: /plain, to: app, raw: "a test", allow: [{ who: anyone }] }
  closed: { base: /closed, to: app, raw: "a test", websocket: true, allow: [{ who: keys }] }
  seats: { base: /seats, to: app, raw: "a test", websocket: true, limits: [{ per: address, concurrency: 2 }], allow: [{ who: anyone }] }
  large: { base: /large, to: app, raw: "a test", websocket: true, sizes: { message: 4MiB }, allow: [{ who: anyone }] }
  small: { base: /small, to: app, raw: "a test", websocket: { compression: false }, sizes: { message: 4KiB }, allow: [{ who: anyone }] }
  various:
    to: app
    operations:
      rate: { match: "GET /rate/", websocket: { rate: 5/min } }
      schema: { match: "GET /schema/", websocket: { schema: order.schema.json } }
      judged: { match: "GET /judged/", websocket: { schema: any.schema.json } }
      idle: { match: "GET /idle/", websocket: { idle: 1s } }
      short: { match: "GET /short/", websocket: { lifetime: 1s } }
      origins: { match: "GET /origins/", websocket: { origins: ["https://shop.example"] } }
    allow: [{ who: anyone }]"#;

fn config(origin: SocketAddr) -> String {
    format!("upstreams: {{ app: \"http://{origin}\" }}{APIS}")
}

fn config_http2(origin: SocketAddr) -> String {
    format!("upstreams: {{ app: {{ targets: [\"http://{origin}\"], protocol: http2 }} }}{APIS}")
}

/// A place with what the configuration names, and a key of `partners.keys`.
fn place() -> (Place, String) {
    let place = Place::new();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    place.write("c.pem", &made.cert.pem());
    place.write("k.pem", &made.signing_key.serialize_pem());
    place.write("order.schema.json", SCHEMA);
    place.write("any.schema.json", "{}");
    place.write("pepper", "0123456789abcdef0123456789abcdef");
    let key = new_key(place.path(), "shop", &[]);
    (place, key)
}

/// Where `tests/run install` puts the packages.
fn python(script: &str) -> Command {
    let python = match std::env::var_os("RINGWALL_PYTHON") {
        Some(python) => PathBuf::from(python),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python"),
    };
    assert!(python.is_file(), "{} is not there; `tests/run install` installs it", python.display());
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/websocket").join(script));
    command
}

/// Every case, from clients of HTTP/1.1 and HTTP/2, to an origin of HTTP/1.1, or one of HTTP/2 `before` it.
fn every_case_passes(before: Option<SocketAddr>) {
    let origin = free_address();
    let config = before.map_or_else(|| config(origin), config_http2);
    let node = Node::start_in(place().0, LISTEN, &config);
    let mut command = python("suite.py");
    command.arg("cases");
    for (name, address) in ["--plain", "--tls", "--h2c"].into_iter().zip(&node.addresses) {
        command.args([name, &address.port().to_string()]);
    }
    if let Some(before) = before {
        command.args(["--bridge", &before.to_string()]);
    }
    let passed = all_pass(command.args(["--origin", &origin.to_string()]));
    assert!(passed >= CASES_MIN, "{passed}");
    comes_to(0.0, || metric(&node, "ringwall_tunnels", &[]));
    assert_eq!(metric(&node, "ringwall_panics_total", &["core=\"0\""]), 0.0);
    assert!(refusals(&node, "websocket_rate") >= 4.0);
}

#[test]
fn every_case_of_the_suite_passes_to_an_upstream_of_http1() {
    every_case_passes(None);
}

#[test]
fn every_case_of_the_suite_passes_to_an_upstream_of_http2() {
    every_case_passes(Some(free_address()));
}

#[test]
fn upstreams_of_http2_are_asked_held_up_reset_and_refused() {
    let [takes, bare, silent, by_node] = [(); 4].map(|()| free_address());
    let config = format!(
        "upstreams:\n  takes: {{ targets: [\"http://{takes}\"], protocol: http2 }}\n  \
         bare: {{ targets: [\"http://{bare}\"], protocol: http2 }}\n  \
         silent: {{ targets: [\"http://{silent}\"], protocol: http2, timeouts: {{ connect: 500ms }} }}\n  \
         node: {{ targets: [\"http://{by_node}\"], protocol: http2 }}\napis:\n{}",
        ["takes", "bare", "silent", "node"]
            .map(|name| format!(
                "  {name}: {{ base: /{name}, to: {name}, raw: \"a test\", websocket: true, allow: [{{ who: anyone }}] }}\n"
            ))
            .concat()
    );
    let node = Node::start_in(Place::new(), LISTEN_PLAIN, &config);
    let mut command = python("connect.py");
    for (name, address) in ["--http1", "--http2"].into_iter().zip(&node.addresses) {
        command.args([name, &address.port().to_string()]);
    }
    command.args(["--pid", &node.child.id().to_string()]);
    for (name, address) in [("--takes", takes), ("--bare", bare), ("--silent", silent), ("--node", by_node)] {
        command.args([name, &address.to_string()]);
    }
    assert_eq!(all_pass(&mut command), CONNECT_CASES);
    comes_to(0.0, || metric(&node, "ringwall_tunnels", &[]));
    comes_to(0.0, || metric(&node, "ringwall_upstream_connections", &["upstream=\"takes\""]));
}

/// Runs every case of a suite; how many there were.
fn all_pass(suite: &mut Command) -> usize {
    let Output { stdout, stderr, status } = suite.stdin(Stdio::null()).output().expect("python");
    let stderr = String::from_utf8_lossy(&stderr);
    let said = String::from_utf8(stdout).expect("text");
    let records: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let failed: Vec<_> = records.iter().filter(|record| record["state"] != "passed").collect();
    assert!(failed.is_empty() && status.success(), "{failed:#?}\n{stderr}");
    records.len()
}

#[test]
fn every_case_of_autobahns_list_comes_to_what_it_must() {
    autobahns_cases(None);
}

#[test]
fn every_case_of_autobahns_list_comes_to_what_it_must_at_an_upstream_of_http2() {
    autobahns_cases(Some(free_address()));
}

fn autobahns_cases(before: Option<SocketAddr>) {
    let origin = free_address();
    let config = before.map_or_else(|| config(origin), config_http2);
    let node = Node::start_in(place().0, LISTEN, &config);
    let mut command = python("autobahn.py");
    if let Some(before) = before {
        command.args(["--bridge", &before.to_string()]);
    }
    for (name, address) in ["--plain", "--tls", "--h2c"].into_iter().zip(&node.addresses) {
        if name != "--tls" {
            command.args([name, &address.port().to_string()]);
        }
    }
    let begun = Instant::now();
    assert_eq!(all_pass(command.args(["--origin", &origin.to_string()])), AUTOBAHN_CASES);
    println!("{AUTOBAHN_CASES} cases in {:?}", begun.elapsed());
    // Those that broke the law are told of, each by its reason.
    for reason in ["reserved", "mask", "length", "control", "continuation", "close", "text", "message_size"] {
        assert!(refusals(&node, &format!("websocket_{reason}")) >= 2.0, "{reason}");
    }
    comes_to(0.0, || metric(&node, "ringwall_tunnels", &[]));
    assert_eq!(metric(&node, "ringwall_panics_total", &["core=\"0\""]), 0.0);
}

/// A page that opens WebSockets and listens to events; over HTTP/2 they are streams of the page's own connection.
fn serves_chromium(listener: usize, protocol: &str, status: u64) {
    let origin = free_address();
    let node = Node::start_in(place().0, LISTEN, &config(origin));
    let mut command = python("browser.py");
    let port = node.addresses[listener].port().to_string();
    command.args(["--port", &port, "--origin", &origin.to_string()]);
    assert_eq!(all_pass(&mut command), 6);
    let lines = node.log(13);
    let opened: Vec<_> = lines.iter().filter(|line| line["messages"].is_u64()).collect();
    assert_eq!(opened.len(), 4, "{lines:?}");
    assert!(opened.iter().all(|line| line["protocol"] == protocol && line["status"] == status), "{opened:?}");
}

#[test]
fn chromium_opens_them_and_hears_events_over_http1() {
    serves_chromium(3, "HTTP/1.1", 101);
}

#[test]
fn chromium_opens_them_and_hears_events_over_http2() {
    serves_chromium(1, "HTTP/2", 200);
}

const HANDSHAKE: &str = "GET /schema/ HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// Reads until `end` has come; all that did.
fn read_until(stream: &mut TcpStream, end: &[u8]) -> Vec<u8> {
    let mut received = Vec::new();
    while memchr::memmem::find(&received, end).is_none() {
        let mut byte = [0; 1];
        let read = stream.read_exact(&mut byte);
        assert!(read.is_ok(), "{read:?} behind {}", String::from_utf8_lossy(&received));
        received.push(byte[0]);
    }
    received
}

fn asks_plainly(stream: &mut TcpStream) -> bool {
    stream.write_all(b"GET /plain/ HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("sent");
    read_until(stream, b"\r\n\r\nplain").starts_with(b"HTTP/1.1 200 ")
}

/// A connection of HTTP/1.1 that is kept.
fn keeps_a_connection(to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert!(asks_plainly(&mut stream));
    stream
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).expect("a frame").to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// A connection of HTTP/2 with a WebSocket in it.
fn shares_a_connection(to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let (settings, acknowledged) = (frame(4, 0, 0, b""), frame(4, 1, 0, b""));
    let hello = frame(0, 0, 1, b"\x81\x85\0\0\0\0hello");
    let preface = &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..];
    let first = [preface, &settings, &acknowledged, &http2_handshake(1, "/echo/"), &hello].concat();
    stream.write_all(&first).expect("sent");
    let _ = read_until(&mut stream, b"\x81\x05hello");
    stream
}

/// The handshake of a client of HTTP/2, in literals that enter no table.
fn http2_handshake(number: u32, path: &str) -> Vec<u8> {
    let mut block = vec![0x86];
    for (name, value) in [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":authority", "localhost"),
        (":path", path),
        ("sec-websocket-version", "13"),
    ] {
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).expect("short"));
            block.extend_from_slice(text.as_bytes());
        }
    }
    frame(1, 4, number, &block)
}

/// A handshake on a connection that is there: the answer, which says that there is no room.
fn refuses_one_more(stream: &mut TcpStream, handshake: &[u8]) -> String {
    stream.write_all(handshake).expect("sent");
    // A brace alone may be part of a coded field.
    let mut answer = read_until(stream, br#""reason":"websocket_overload""#);
    answer.extend(read_until(stream, b"}"));
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.contains("\"status\":503"), "{answer}");
    answer
}

/// Opens a WebSocket by hand; `None`: the node lets nobody in.
fn opens(to: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(to).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    stream.write_all(HANDSHAKE.as_bytes()).ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0; 1];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    if head.starts_with(b"HTTP/1.1 503 ") {
        return None;
    }
    assert!(head.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&head));
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    Some(stream)
}

/// Sends all but the end of a message that is held for its schema, and waits until the node has it: whether it holds it. If not,
/// it says that there is no room.
fn holds_half(stream: &mut TcpStream) -> bool {
    const LENGTH: usize = (1 << 20) - 1;
    // Text, not the last fragment, under a mask of zeros; behind it a Ping, for which the held message makes way.
    let mut frames = vec![0x01, 0xff];
    frames.extend_from_slice(&(LENGTH as u64).to_be_bytes());
    frames.extend_from_slice(&[0; 4]);
    frames.resize(frames.len() + LENGTH, b' ');
    frames.extend_from_slice(&[0x89, 0x80, 0, 0, 0, 0]);
    // Who is ended on the way takes no more of it.
    let _ = stream.write_all(&frames);
    let mut head = [0; 2];
    stream.read_exact(&mut head).expect("a Pong, or an end");
    if head == [0x8a, 0] {
        return true;
    }
    let mut why = [0; 20];
    stream.read_exact(&mut why).expect("a reason");
    assert!(head == [0x88, 20] && why[..2] == [0x03, 0xf5] && &why[2..] == b"websocket_overload", "{why:x?}");
    false
}

#[test]
fn short_of_memory_a_node_ends_those_whose_messages_it_would_have_to_hold_with_1013() {
    const BOUND_KIB: u64 = 96 << 10;
    let origin = free_address();
    let more = "control: control.sock, memory: 96MiB, connections: { all: 4000 }";
    let text = text_of(LISTEN, &config(origin)).replace("control: control.sock", more);
    let node = Node::start_whole(place().0, &text, &[]);
    let mut held = Held::open(&node, origin, 3, "/echo/", &[]);
    let (mut kept, mut shared) = (keeps_a_connection(node.address), shares_a_connection(node.addresses[2]));
    // They are open before memory is short, when nobody would be let in: they alone may then take more than there is.
    let mut halves: Vec<_> = (0..120).map(|_| opens(node.address).expect("room")).collect();
    let mut senders = halves.iter_mut();
    let mut told = false;
    while !(told && metric(&node, "ringwall_accepts_paused", &[]) == 1.0) {
        // One that rests would be let go.
        assert!(asks_plainly(&mut kept));
        if !holds_half(senders.next().expect("memory for fewer than there are")) {
            told = true;
            // It measures ten times a second what there is, and holds no more than that until then.
            std::thread::sleep(Duration::from_millis(100));
        }
    }
    assert!(refusals(&node, "websocket_overload") >= 1.0);
    // On connections that are there nothing more is opened either, and everything else goes on.
    let refused = refuses_one_more(&mut kept, HANDSHAKE.as_bytes());
    assert!(refused.starts_with("HTTP/1.1 503 ") && refused.contains("\r\nRetry-After: 5\r\n"), "{refused}");
    refuses_one_more(&mut shared, &http2_handshake(3, "/schema/"));
    assert!(asks_plainly(&mut kept));
    // Who holds nothing goes on, and the process never had more than it may.
    assert_eq!(held.ask("echo"), "echoed");
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.child.id())).expect("a status");
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a high-water mark");
    let most_kib: u64 = most.trim().trim_end_matches(" kB").parse().expect("a number");
    assert!(most_kib <= BOUND_KIB, "{most_kib} KiB");
    // With room again others are let in, and heard to their end: 1008, for spaces are no JSON.
    drop(halves);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut close = [0; 4];
        if let Some(mut later) = opens(node.address)
            && holds_half(&mut later)
        {
            later.write_all(&[0x80, 0x80, 0, 0, 0, 0]).expect("the last fragment");
            later.read_exact(&mut close).expect("an end");
            if close == [0x88, 18, 0x03, 0xf0] {
                break;
            }
        }
        assert!(Instant::now() < deadline, "{close:x?}");
    }
}

/// Some WebSockets that are held open by others.
struct Held {
    child: Child,
    says: BufReader<ChildStdout>,
    hears: Option<ChildStdin>,
}

impl Held {
    fn open(node: &Node, origin: SocketAddr, count: usize, path: &str, how: &[&str]) -> Held {
        let place = if how.contains(&"--h2") { 2 } else { 0 };
        let url = format!("ws://127.0.0.1:{}{path}", node.addresses[place].port());
        let mut command = python("suite.py");
        command.args(["hold", &count.to_string(), "--url", &url, "--origin", &origin.to_string()]);
        let mut child =
            command.args(how).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python");
        let says = BufReader::new(child.stdout.take().expect("piped"));
        let hears = child.stdin.take();
        let mut held = Held { child, says, hears };
        assert_eq!(held.line(), "open");
        held
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }

    fn ask(&mut self, word: &str) -> String {
        self.tell(word);
        self.line()
    }

    fn tell(&mut self, word: &str) {
        let hears = self.hears.as_mut().expect("piped");
        writeln!(hears, "{word}").expect("it listens");
    }

    /// Waits until all are closed; in the same way, which is told.
    fn closed(&mut self, count: usize) -> String {
        let said: serde_json::Value = serde_json::from_str(&self.ask("wait")).expect("JSON");
        let ways = said.as_object().expect("a map");
        assert_eq!(ways.values().next(), Some(&serde_json::json!(count)), "{said}");
        ways.keys().next().expect("one").clone()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.hears.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn what_was_sent_before_a_cut_is_on_record() {
    let origin = free_address();
    let node = Node::start_in(place().0, LISTEN, &config(origin));
    let _held = Held::open(&node, origin, 1, "/echo/", &[]);
    let mut stream = TcpStream::connect(node.address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let handshake = HANDSHAKE.replace("/schema/", "/echo/");
    let hello = b"\x81\x85\0\0\0\0hello";
    stream.write_all(&[handshake.as_bytes(), hello].concat()).expect("sent");
    let mut received = read_until(&mut stream, b"\x81\x05hello");
    // It goes without a word, but for hearing what it is told.
    stream.shutdown(Shutdown::Write).expect("an end");
    stream.read_to_end(&mut received).expect("the rest");
    let received = received.len();
    let line = &node.log(1)[0];
    assert_eq!(line["reason"], "websocket_client_cut", "{line}");
    assert_eq!(
        (&line["bytes_out"], &line["bytes_in"]),
        (&received.into(), &(handshake.len() + hello.len()).into()),
        "{line}"
    );
}

#[test]
fn a_reload_leaves_all_of_them_alone() {
    for how in [&[][..], &["--h2"]] {
        let origin = free_address();
        let mut node = Node::start_in(place().0, LISTEN, &config(origin));
        let mut held = Held::open(&node, origin, 60, "/echo/", how);
        comes_to(60.0, || metric(&node, "ringwall_tunnels", &[]));
        for round in 0..3 {
            let changed = config(origin).replace("concurrency: 2", &format!("concurrency: {}", round + 3));
            node.place.write("ringwall.yaml", &text_of(LISTEN, &changed));
            node.signal("HUP");
            node.wait_for("RW-6003");
            // Longer than until each has been judged again.
            std::thread::sleep(Duration::from_millis(900));
            assert_eq!(held.ask("echo"), "echoed", "{how:?} {round}");
        }
        assert_eq!(metric(&node, "ringwall_tunnels", &[]), 60.0);
    }
}

#[test]
fn a_drain_closes_all_of_them_with_1001() {
    for how in [&[][..], &["--h2"]] {
        let origin = free_address();
        let mut node = Node::start_in(place().0, LISTEN, &config(origin));
        let mut held = Held::open(&node, origin, 40, "/echo/", how);
        node.signal("TERM");
        assert_eq!(held.closed(40), "(1001, 'websocket_drained')", "{how:?}");
        let begun = Instant::now();
        while node.child.try_wait().expect("a child").is_none() {
            assert!(begun.elapsed() < Duration::from_secs(8), "{how:?}: it stays");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// Opens ten with `key`, takes it away, and expects their end within a second.
fn ends_with_its_key(how: &[&str], take_away: impl FnOnce(&mut Node)) {
    let origin = free_address();
    let (place, key) = place();
    let mut node = Node::start_in(place, LISTEN, &config(origin));
    let header = format!("X-API-Key:{key}");
    let mut held = Held::open(&node, origin, 10, "/closed/", &[&["--header", &header], how].concat());
    assert_eq!(held.ask("echo"), "echoed");
    take_away(&mut node);
    let begun = Instant::now();
    assert_eq!(held.closed(10), "(3000, 'websocket_credential')");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    comes_to(10.0, || refusals(&node, "websocket_credential").min(10.0));
}

#[test]
fn they_end_when_their_key_is_deleted() {
    for how in [&[][..], &["--h2"]] {
        ends_with_its_key(how, |node| {
            node.place.write("partners.keys", "");
            node.wait_for("RW-6016");
        });
    }
}

#[test]
fn they_end_when_their_key_is_blocked() {
    ends_with_its_key(&[], |node| {
        let control = node.place.path().join("control.sock");
        let output = Command::new(env!("CARGO_BIN_EXE_ringwall"))
            .args(["block", "add", "--key", "key-of-shop", "--reason", "stolen", "--for", "1h", "--control"])
            .arg(control)
            .output()
            .expect("ringwall block");
        assert!(output.status.success(), "{output:?}");
    });
}

#[test]
fn they_end_when_a_reload_takes_their_grant_away_and_not_before() {
    ends_with_its_key(&[], |node| {
        let text = std::fs::read_to_string(node.place.path().join("ringwall.yaml")).expect("text");
        let changed = text.replace("allow: [{ who: keys }]", "allow: [{ who: keys, role: reseller }]");
        node.place.write("ringwall.yaml", &changed);
        node.signal("HUP");
        node.wait_for("RW-6003");
    });
}

#[test]
fn they_end_when_their_key_expires() {
    let origin = free_address();
    let (place, key) = place();
    let store = std::fs::read_to_string(place.path().join("partners.keys")).expect("a store");
    let expires = jiff::Timestamp::now() + jiff::SignedDuration::from_secs(4);
    let expires = jiff::Timestamp::from_second(expires.as_second()).expect("a time");
    let line = store.trim_end().trim_end_matches('}').to_owned() + &format!(r#","expires":"{expires}"}}"#);
    place.write("partners.keys", &(line + "\n"));
    let node = Node::start_in(place, LISTEN, &config(origin));
    let header = format!("X-API-Key:{key}");
    let mut held = Held::open(&node, origin, 10, "/closed/", &["--header", &header]);
    assert!(jiff::Timestamp::now() < expires, "it was opened in time");
    assert_eq!(held.ask("echo"), "echoed");
    assert_eq!(held.closed(10), "(3000, 'websocket_credential')");
    let late = jiff::Timestamp::now().duration_since(expires);
    assert!((0..1_000).contains(&late.as_millis()), "{late:?}");
}
