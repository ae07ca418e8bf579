//! WebSockets through a node: with a client and an origin that others wrote, over HTTP/1.1 and HTTP/2, in the clear and over TLS; and
//! under what happens to a node: a reload, a drain, keys that go, addresses and keys that are blocked.
//!
//! The cases stand in `tests/conformance/websocket/suite.py`, which runs the origin itself.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::nginx::free_address;
use crate::node::{Node, Place, comes_to, metric, new_key, refusals, text_of};

/// At least so many cases have to have run, or something has left them out.
const CASES_MIN: usize = 112;

const SCHEMA: &str = include_str!("../../src/cli/demo/order.schema.json");
const LISTEN: &str = "\n  - { address: \"127.0.0.1:0\", tls: none }\n  \
    - { address: \"127.0.0.1:0\", tls: { cert: c.pem, key: k.pem } }\n  \
    - { address: \"127.0.0.1:0\", tls: none, protocols: [http2] }";
const APIS: &str = r#"
login: { keys: { api_key: X-API-Key, store: partners.keys, pepper: "secret:file:pepper" } }
apis:
  echo: { base: /echo, to: app, raw: "a test", websocket: true, allow: [{ who: anyone }] }
  plain: { base: /plain, to: app, raw: "a test", allow: [{ who: anyone }] }
  closed: { base: /closed, to: app, raw: "a test", websocket: true, allow: [{ who: keys }] }
  seats: { base: /seats, to: app, raw: "a test", websocket: true, limits: [{ per: address, concurrency: 2 }], allow: [{ who: anyone }] }
  small: { base: /small, to: app, raw: "a test", websocket: { compression: false }, sizes: { message: 4KiB }, allow: [{ who: anyone }] }
  various:
    to: app
    operations:
      rate: { match: "GET /rate/", websocket: { rate: 5/min } }
      schema: { match: "GET /schema/", websocket: { schema: order.schema.json } }
      idle: { match: "GET /idle/", websocket: { idle: 1s } }
      short: { match: "GET /short/", websocket: { lifetime: 1s } }
      origins: { match: "GET /origins/", websocket: { origins: ["https://shop.example"] } }
    allow: [{ who: anyone }]"#;

fn config(origin: SocketAddr) -> String {
    format!("upstreams: {{ app: \"http://{origin}\" }}{APIS}")
}

/// A place with what the configuration names, and a key of `partners.keys`.
fn place() -> (Place, String) {
    let place = Place::new();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    place.write("c.pem", &made.cert.pem());
    place.write("k.pem", &made.signing_key.serialize_pem());
    place.write("order.schema.json", SCHEMA);
    place.write("pepper", "0123456789abcdef0123456789abcdef");
    let key = new_key(place.path(), "shop", &[]);
    (place, key)
}

/// Where `tests/run install` puts the packages.
fn python() -> Command {
    let python = match std::env::var_os("RINGWALL_PYTHON") {
        Some(python) => PathBuf::from(python),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python"),
    };
    assert!(python.is_file(), "{} is not there; `tests/run install` installs it", python.display());
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/websocket/suite.py"));
    command
}

#[test]
fn every_case_of_the_suite_passes_over_http1_and_http2() {
    let origin = free_address();
    let node = Node::start_in(place().0, LISTEN, &config(origin));
    let mut command = python();
    command.arg("cases").stdin(Stdio::null());
    for (name, address) in ["--plain", "--tls", "--h2c"].into_iter().zip(&node.addresses) {
        command.args([name, &address.port().to_string()]);
    }
    let output: Output = command.args(["--origin", &origin.to_string()]).output().expect("python");
    let said = String::from_utf8(output.stdout).expect("text");
    let records: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let failed: Vec<_> = records.iter().filter(|record| record["state"] != "passed").collect();
    assert!(failed.is_empty(), "{failed:#?}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(records.len() >= CASES_MIN, "{}\n{}", records.len(), String::from_utf8_lossy(&output.stderr));
    comes_to(0.0, || metric(&node, "ringwall_tunnels", &[]));
    assert_eq!(metric(&node, "ringwall_panics_total", &["core=\"0\""]), 0.0);
    assert!(refusals(&node, "websocket_rate") >= 4.0);
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
        let mut command = python();
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
