//! What lasts ends with the right to it (AN-18), and only then: WebSockets, streams of events, downloads and calls of gRPC, over
//! HTTP/1.1 and HTTP/2, to origins of both, when a token runs out, a key is deleted, a caller blocked, an issuer's key taken back, a
//! grant or an operation taken out of the configuration.
//!
//! Clients and origins are Python's (`tests/conformance/websocket/lasting.py`): `websockets`, `h2`, grpcio.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64_simd::URL_SAFE_NO_PAD as BASE64URL;
use jiff::Timestamp;
use ring::hmac;

use crate::node::{Node, PATIENCE, Place, comes_to, new_key, refusals, text_of};

/// From a revocation, or from `exp`, to the end of what it was the right to.
const AT_MOST_MS: i128 = 1_000;
const SECRET: [u8; 32] = [7; 32];
const LISTEN: &str = "\n  - { address: \"127.0.0.1:0\", tls: none }\n  \
    - { address: \"127.0.0.1:0\", tls: none, protocols: [http2] }";
/// Everything but the WebSockets ends as a response does.
const RESPONSES: f64 = 9.0;
const WEBSOCKETS: f64 = 4.0;
/// What nothing has been answered to is refused as if it came now.
const UPLOADS: f64 = 6.0;

/// A script that does what it is told.
struct Script {
    child: Child,
    says: BufReader<ChildStdout>,
    hears: Option<ChildStdin>,
}

impl Script {
    fn start(arguments: &[String]) -> Script {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let python = std::env::var_os("RINGWALL_PYTHON");
        let python = python.map_or_else(|| folder.join("target/venv/bin/python"), PathBuf::from);
        assert!(python.is_file(), "{} is not there; `tests/run install` installs it", python.display());
        let mut child = Command::new(python)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(folder.join("tests/conformance/websocket/lasting.py"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("python");
        let says = BufReader::new(child.stdout.take().expect("piped"));
        let hears = child.stdin.take();
        Script { child, says, hears }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.says.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }

    /// Opens one of each kind with this field.
    fn open(&mut self, field: &str) {
        writeln!(self.hears.as_mut().expect("piped"), "{field}").expect("it listens");
        assert_eq!(self.line(), "open");
    }

    /// How each of them stands: after all have ended (`wait`), or now (`state`).
    fn ask(&mut self, word: &str) -> BTreeMap<String, String> {
        writeln!(self.hears.as_mut().expect("piped"), "{word}").expect("it listens");
        serde_json::from_str(&self.line()).expect("JSON")
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        drop(self.hears.take());
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A node before the origins.
struct Served {
    node: Node,
    config: String,
    key: String,
    _origin: Script,
    /// What is timed has the machine for itself, as far as this file can see to that.
    _alone: MutexGuard<'static, ()>,
}

fn keys(kid: &str) -> String {
    let key = BASE64URL.encode_to_string(SECRET);
    format!(r#"{{"keys":[{{"kty":"oct","alg":"HS256","kid":"{kid}","k":"{key}"}}]}}"#)
}

/// A token that ends at `exp`.
fn token(exp: i64) -> String {
    let text = |text: &str| BASE64URL.encode_to_string(text.as_bytes());
    let claims = format!(r#"{{"iss":"https://i.example/","aud":"all","sub":"ann","exp":{exp}}}"#);
    let signed = format!("{}.{}", text(r#"{"alg":"HS256","kid":"k"}"#), text(&claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &SECRET), signed.as_bytes());
    format!("{signed}.{}", BASE64URL.encode_to_string(tag.as_ref()))
}

fn bearer(exp: i64) -> String {
    format!("Authorization:Bearer {}", token(exp))
}

impl Served {
    fn start() -> Served {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut origin = Script::start(&["origin".to_owned()]);
        let said = origin.line();
        let ports: Vec<u16> = said.split(' ').map(|port| port.parse().expect("a port")).collect();
        let [one, two, calls, sockets, sockets2] = ports[..] else { panic!("{said}") };
        let place = Place::new();
        place.write("pepper", "0123456789abcdef0123456789abcdef");
        place.write("keys.json", &keys("k"));
        place.write("any.json", "{}");
        let key = new_key(place.path(), "shop", &[]);
        let config = format!(
            r#"upstreams:
  one: "http://127.0.0.1:{one}"
  two: {{ targets: ["http://127.0.0.1:{two}"], protocol: http2 }}
  calls: {{ targets: ["http://127.0.0.1:{calls}"], protocol: http2 }}
  sockets: "http://127.0.0.1:{sockets}"
  sockets2: {{ targets: ["http://127.0.0.1:{sockets2}"], protocol: http2 }}
login:
  keys: {{ api_key: X-API-Key, store: partners.keys, pepper: "secret:file:pepper" }}
  people: {{ jwt: keys.json, issuer: "https://i.example/", audience: all, algorithms: [HS256], skew: 0s }}
apis:
  one: {{ to: one, operations: {{ upload: POST /upload, hold: {{ match: POST /hold, body: {{ schema: any.json }} }}, events: GET /events, download: GET /download, flood: GET /flood }}, allow: [{{ who: [keys, people] }}] }}
  two: {{ base: /two, to: two, raw: "a test", allow: [{{ who: [keys, people] }}] }}
  sockets: {{ base: /socket, to: sockets, raw: "a test", websocket: true, allow: [{{ who: [keys, people] }}] }}
  sockets2: {{ base: /socket2, to: sockets2, raw: "a test", websocket: true, allow: [{{ who: [keys, people] }}] }}
  calls: {{ base: /lasting.Calls, to: calls, raw: "gRPC", allow: [{{ who: [keys, people] }}] }}"#
        );
        let node = Node::start_in(place, LISTEN, &config);
        Served { node, config, key: format!("X-API-Key:{key}"), _origin: origin, _alone: alone }
    }

    fn client(&self) -> Script {
        let [one, two] = [0, 1].map(|at| self.node.addresses[at].port().to_string());
        let arguments = ["hold", "--http1", &one, "--http2", &two];
        let mut script = Script::start(&arguments.map(str::to_owned));
        assert_eq!(script.line(), "ready");
        script
    }

    /// One of each kind, open.
    fn hold(&self, header: &str) -> Script {
        let mut script = self.client();
        script.open(header);
        script
    }

    fn reload(&mut self, from: &str, to: &str) -> Timestamp {
        assert!(self.config.contains(from), "{from}");
        self.config = self.config.replace(from, to);
        let begun = Timestamp::now();
        self.node.place.write("ringwall.yaml", &text_of(LISTEN, &self.config));
        self.node.signal("HUP");
        // A file that has changed is read without a signal as well, so that there may be a line of the time before.
        loop {
            let said = said_at(&self.node.wait_for("RW-6003"));
            if said.as_millisecond() >= begun.as_millisecond() {
                return said;
            }
        }
    }

    /// All of them end, and say why; by the node's own clock within a second of `since`.
    /// `refused` is with what status and reason a request is refused that comes now.
    fn all_end_since(&self, since: Timestamp, refused: (u16, &str), held: &mut Script) {
        comes_to(RESPONSES, || refusals(&self.node, "exchange_revoked"));
        comes_to(UPLOADS, || refusals(&self.node, refused.1));
        let answer = format!("{} {}", refused.0, refused.1);
        let status = if refused.0 == 401 { "UNAUTHENTICATED" } else { "PERMISSION_DENIED" };
        comes_to(WEBSOCKETS, || refusals(&self.node, "websocket_credential"));
        for (kind, end) in held.ask("wait") {
            let expected: &[&str] = match kind.as_str() {
                "websocket h1" | "websocket h2" | "websocket h1 to h2" | "websocket h2 to h2" => {
                    &["3000 websocket_credential"]
                }
                // The chunk that ends it, or what is left of its length, never comes.
                "events h1" | "events h1 to h2" | "download h1" => &["cut"],
                "stalled h1" => &["cut", "reset"],
                // INTERNAL_ERROR, as for whatever breaks in the midst of a response.
                "events h2" | "events h2 to h2" | "download h2" => &["reset 2"],
                "call" | "conversation" => &["UNAUTHENTICATED RW-2219 exchange_revoked"],
                "upload h1" | "upload h1 to h2" | "held h1" | "upload h2" | "upload h2 to h2" => &[&answer],
                "gather" if end.starts_with(status) && end.ends_with(refused.1) => continue,
                _ => &[],
            };
            assert!(expected.contains(&end.as_str()), "{kind}: {end}");
        }
        let lines = self.node.log((RESPONSES + WEBSOCKETS + UPLOADS) as usize);
        for line in &lines {
            let reason =
                match (line["messages"].is_u64(), line["status"] == refused.0 && line["reason"] == refused.1)
                {
                    (true, _) => "websocket_credential",
                    (false, true) => refused.1,
                    (false, false) => "exchange_revoked",
                };
            assert!(line["reason"] == reason && line["subject"].is_string(), "{line}");
            let at: Timestamp = line["time"].as_str().expect("a time").parse().expect("a time");
            let after = at.duration_since(since);
            assert!(after.as_millis() < AT_MOST_MS, "{after:?}: {line}");
        }
    }
}

/// When the node said so.
fn said_at(line: &str) -> Timestamp {
    line.split(' ').next().expect("a word").parse().expect("a time")
}

#[test]
fn they_end_when_their_token_does() {
    let served = Served::start();
    let mut others = served.hold(&bearer(4_000_000_000));
    let mut held = served.client();
    let exp = Timestamp::now().as_second() + 5;
    held.open(&bearer(exp));
    let state = held.ask("state");
    assert!(state.values().all(|end| end == "open"), "{state:?}");
    assert!(Timestamp::now().as_second() < exp, "they were opened in time, and did not end before");
    served.all_end_since(Timestamp::from_second(exp).expect("a time"), (401, "token_expired"), &mut held);
    assert!(others.ask("state").values().all(|end| end == "open"), "{:?}", others.ask("state"));
}

#[test]
fn they_end_when_their_key_is_deleted_and_those_of_others_do_not() {
    let mut served = Served::start();
    let mut held = served.hold(&served.key);
    let mut others = served.hold(&bearer(4_000_000_000));
    served.node.place.write("partners.keys", "");
    let since = said_at(&served.node.wait_for("RW-6016"));
    served.all_end_since(since, (401, "api_key_unknown"), &mut held);
    assert!(others.ask("state").values().all(|end| end == "open"), "{:?}", others.ask("state"));
}

#[test]
fn they_end_when_their_caller_is_blocked_and_those_of_others_do_not() {
    let served = Served::start();
    let mut held = served.hold(&bearer(4_000_000_000));
    let mut others = served.hold(&served.key);
    let control = served.node.place.path().join("control.sock");
    let output = Command::new(env!("CARGO_BIN_EXE_ringwall"))
        .args(["block", "add", "--identity", "people/ann", "--reason", "stolen", "--for", "1h", "--control"])
        .arg(control)
        .output()
        .expect("ringwall block");
    assert!(output.status.success(), "{output:?}");
    served.all_end_since(Timestamp::now(), (403, "identity_blocked"), &mut held);
    assert!(others.ask("state").values().all(|end| end == "open"), "{:?}", others.ask("state"));
}

#[test]
fn they_end_when_their_issuer_takes_the_key_back_that_signed_their_token() {
    let mut served = Served::start();
    let mut held = served.hold(&bearer(4_000_000_000));
    let mut others = served.hold(&served.key);
    served.node.place.write("keys.json", &keys("another"));
    let since = said_at(&served.node.wait_for("RW-6010"));
    served.all_end_since(since, (401, "key_unknown"), &mut held);
    assert!(others.ask("state").values().all(|end| end == "open"), "{:?}", others.ask("state"));
}

#[test]
fn they_end_when_a_reload_takes_their_issuer_away_and_not_before() {
    let mut served = Served::start();
    let mut held = served.hold(&bearer(4_000_000_000));
    // A reload that changes nothing for them, and longer than until each has been judged again.
    served.reload("audience: all", "audience: [all, other]");
    std::thread::sleep(Duration::from_millis(1_200));
    assert!(held.ask("state").values().all(|end| end == "open"), "{:?}", held.ask("state"));
    let since = served.reload("https://i.example/", "https://other.example/");
    served.all_end_since(since, (401, "token_issuer"), &mut held);
}

#[test]
fn what_has_no_end_of_its_own_ends_with_its_operation_and_a_download_goes_on() {
    let mut served = Served::start();
    let mut held = served.hold(&served.key);
    served.reload("events: GET /events, download: GET /download, flood: GET /flood", "other: GET /other");
    for name in ["two", "socket", "lasting.Calls"] {
        served.reload(&format!("base: /{name}"), &format!("base: /no/{name}"));
    }
    let goes_on = |kind: &str| {
        kind.starts_with("download")
            || kind.starts_with("upload")
            || ["stalled h1", "held h1"].contains(&kind)
    };
    let begun = Instant::now();
    let state = loop {
        let state = held.ask("state");
        if state.iter().all(|(kind, end)| goes_on(kind) || end != "open") {
            break state;
        }
        assert!(begun.elapsed() < PATIENCE, "{state:?}");
        std::thread::sleep(Duration::from_millis(20));
    };
    assert_eq!(state["websocket h1"], "1001 websocket_drained", "{state:?}");
    assert_eq!((state["events h1"].as_str(), state["events h2"].as_str()), ("cut", "reset 2"), "{state:?}");
    assert_eq!((state["download h1"].as_str(), state["download h2"].as_str()), ("open", "open"), "{state:?}");
}
