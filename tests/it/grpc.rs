//! Calls of gRPC between a client and a server of the gRPC project (grpcio), and of gRPC-Web by hand: `grpc/*.py` beside this
//! file, which `tests/run install` has the packages of.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::node::{Node, Origin, PATIENCE, Place, Reply, Server, comes_to, new_key, refusals};

const LISTEN: &str = "{ address: \"127.0.0.1:0\", tls: none, protocols: [http1, http2] }";
const SERVICE: &str = "ringwall.e2e.v1.Calls";

/// Python with the packages.
pub fn python() -> Command {
    let python = match std::env::var_os("RINGWALL_PYTHON") {
        Some(python) => PathBuf::from(python),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python"),
    };
    assert!(python.is_file(), "{} is not there; `tests/run install` installs it", python.display());
    let mut command = Command::new(python);
    command.current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/grpc"));
    command.env("PYTHONDONTWRITEBYTECODE", "1");
    command
}

/// A server that ends when its input is closed, which the end of the test's process does too.
struct Upstream {
    port: u16,
    input: ChildStdin,
    lines: Receiver<String>,
    process: Server,
    place: Place,
}

impl Upstream {
    fn start() -> Upstream {
        Upstream::start_with(&[])
    }

    fn start_with(arguments: &[&str]) -> Upstream {
        let place = Place::new();
        let complaints = std::fs::File::create(place.path().join("stderr")).expect("a file");
        let mut command = python();
        command
            .arg("server.py")
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(complaints);
        let mut process: Child = command.spawn().expect("python");
        let input = process.stdin.take().expect("piped");
        let output = process.stdout.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let mut server = Upstream { port: 0, input, lines, process: Server(process), place };
        let line = server.line();
        server.port = line.strip_prefix("listening on ").expect("where").parse().expect("a port");
        server
    }

    fn line(&self) -> String {
        self.lines.recv_timeout(PATIENCE).unwrap_or_else(|error| {
            let complaints = std::fs::read_to_string(self.place.path().join("stderr"));
            panic!("{error}: {}", complaints.expect("text"))
        })
    }

    /// How the next call ended that the server was asked.
    fn ended(&self) -> Value {
        serde_json::from_str(&self.line()).expect("JSON")
    }

    /// Has its health service say so.
    fn says(&mut self, verb: &str) {
        writeln!(self.input, "{verb} {SERVICE}").expect("it listens");
    }

    /// A node before it, with more about its upstream and its API.
    fn behind(&self, place: Place, listen: &str, upstream: &str, api: &str, more: &str) -> Node {
        let port = self.port;
        let config = format!(
            "upstreams:\n  calls:\n    targets: [\"http://127.0.0.1:{port}\"]\n    protocol: http2\n{upstream}\
             apis:\n  calls:\n    to: calls\n    raw: \"gRPC\"\n{api}{more}"
        );
        Node::start_in(place, listen, &config)
    }

    fn plain(&self, api: &str) -> Node {
        self.behind(Place::new(), LISTEN, "", &format!("    allow: {{ who: anyone }}\n{api}"), "")
    }
}

/// Runs cases of a script; all of them must be in order.
fn run(script: &str, node: &Node, count: usize, arguments: &[&str]) {
    let mut command = python();
    command.arg(script).arg(node.address.to_string()).args(arguments);
    let output = command.output().expect("python");
    let text = String::from_utf8_lossy(&output.stdout);
    let good = text.lines().filter(|line| line.starts_with("ok ")).count();
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && good == count, "{good} of {count}: {text}{complaints}");
}

/// One call: its status, message, responses and metadata.
fn call(node: &Node, method: &str, request: &Value, metadata: &[&str]) -> Value {
    let mut command = python();
    command.args(["client.py", &node.address.to_string(), "--authority", "api.example.com"]);
    command.args(metadata.iter().flat_map(|pair| ["--metadata", pair]));
    let output = command.args(["--call", method, &request.to_string()]).output().expect("python");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// A unary call that is refused: its status, and the reason as the client and the log have it.
fn refused(node: &Node, request: &Value, metadata: &[&str]) -> (u64, String) {
    let answer = call(node, "Unary", request, metadata);
    let message = answer["message"].as_str().expect("a message");
    let parts = message.split_once(' ').and_then(|(code, rest)| Some((code, rest.split_once(": ")?.0)));
    let (code, token) = parts.unwrap_or_else(|| panic!("{answer}"));
    let trailing = &answer["trailing"];
    let details = trailing["grpc-status-details-bin"].as_str().expect("details");
    assert!(details.contains(&hex(&token.to_ascii_uppercase())), "{answer}");
    let id = trailing["x-request-id"].as_str().expect("a request id");
    let line = line_of(node, id);
    assert_eq!((&line["reason"], &line["code"]), (&json!(token), &json!(code)), "{line}");
    assert_eq!(line["grpc_status"], answer["status"], "{line}");
    assert!(line["status"].as_u64().expect("a status") >= 400, "{line}");
    (answer["status"].as_u64().expect("a status"), token.to_owned())
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

/// The line of the access log about a request.
fn line_of(node: &Node, id: &str) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(line) = node.log(0).into_iter().find(|line| line["request_id"] == id) {
            return line;
        }
        assert!(Instant::now() < deadline, "{id} is not in the log");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn calls_of_all_kinds_pass() {
    let server = Upstream::start();
    let node = server.plain("    sizes: { body: 64MiB }\n");
    run("client.py", &node, 25, &["--authority", "api.example.com"]);
    let lines = node.log(40);
    assert!(
        lines.iter().all(|line| line["protocol"] == "HTTP/2" && line["grpc_status"].is_u64()
            || line["reason"] == "client_gone"),
        "{lines:?}"
    );
    // Whoever gave up, or had no time any more, has stopped the server's work.
    let ended: Vec<Value> =
        server.lines.try_iter().filter_map(|line| serde_json::from_str(&line).ok()).collect();
    let cancelled = ended.iter().filter(|line| line["ended"] == "cancelled").count();
    assert!(cancelled >= 3, "{ended:?}");
}

#[test]
fn calls_pass_under_tls() {
    let server = Upstream::start();
    let place = Place::new();
    let (ca, listen) = under_tls(&place);
    let node = server.behind(place, &listen, "", "    allow: { who: anyone }\n", "");
    let cases = ["unary", "bidi_is_a_conversation", "large_messages", "metadata_both_ways"];
    let mut arguments = vec!["--ca", ca.to_str().expect("text"), "--authority", "api.example.com"];
    cases.iter().for_each(|case| arguments.extend(["--only", case]));
    run("client.py", &node, cases.len(), &arguments);
}

/// A certificate for a listener, which signs for itself.
fn under_tls(place: &Place) -> (PathBuf, String) {
    let made = rcgen::generate_simple_self_signed(["api.example.com".to_owned()]).expect("made");
    place.write("server.key", &made.signing_key.serialize_pem());
    let certificate = place.write("server.pem", &made.cert.pem());
    (certificate, "{ address: \"127.0.0.1:0\", tls: { cert: server.pem, key: server.key } }".to_owned())
}

#[test]
fn calls_of_grpc_web_are_translated() {
    let server = Upstream::start();
    for (more, protocol) in [(&[][..], "HTTP/1.1"), (&["--http2"], "HTTP/2")] {
        let node = server.plain("");
        run("web.py", &node, 20, &[&["--authority", "api.example.com"], more].concat());
        let lines = node.log(32);
        assert!(lines.iter().all(|line| line["protocol"] == protocol), "{lines:?}");
        for status in [0, 4, 7, 10, 13] {
            assert!(lines.iter().any(|line| line["grpc_status"] == status), "{status}: {lines:?}");
        }
    }
}

#[test]
fn refusals_are_statuses() {
    let server = Upstream::start();
    let place = Place::new();
    place.write("pepper", "sixteen bytes and more of it");
    let key = new_key(place.path(), "shop", &["buyer"]);
    let other = new_key(place.path(), "guest", &[]);
    let node = server.behind(
        place,
        LISTEN,
        "",
        "    allow: { who: partners, role: buyer }\n    limits: { per: identity, rate: 1/min, burst: 1 }\n",
        "login: { partners: { api_key: X-API-Key, store: partners.keys, pepper: \"secret:file:pepper\" } }\n",
    );
    let (key, other) = (format!("x-api-key={key}"), format!("x-api-key={other}"));
    let ask = |metadata: &[&str]| refused(&node, &json!({}), metadata);
    assert_eq!(ask(&[]), (16, "credential_missing".to_owned()));
    assert_eq!(ask(&["x-api-key=rwk_nothing"]).0, 16);
    assert_eq!(ask(&[&other]).0, 7);
    let answer = call(&node, "Unary", &json!({ "payload": "hello" }), &[&key]);
    assert_eq!((&answer["status"], &answer["responses"]), (&json!(0), &json!([5])), "{answer}");
    assert_eq!(ask(&[&key]), (8, "rate_exceeded".to_owned()));
    let answer = call(&node, "Unary", &json!({}), &[&key]);
    // Libraries keep `grpc-retry-pushback-ms` to themselves; the details say the same.
    let details = answer["trailing"]["grpc-status-details-bin"].as_str().expect("details");
    assert!(details.contains(&hex("google.rpc.RetryInfo")), "{answer}");
    comes_to(2.0, || refusals(&node, "rate_exceeded"));
}

#[test]
fn what_is_not_served_is_not_implemented() {
    let server = Upstream::start();
    let config = format!(
        "upstreams: {{ calls: {{ targets: [\"http://127.0.0.1:{}\"], protocol: http2 }} }}\napis:\n  calls:\n    to: calls\n    \
         allow: {{ who: anyone }}\n    operations:\n      stream: POST /{SERVICE}/ServerStream\n",
        server.port
    );
    let node = Node::start_in(Place::new(), LISTEN, &config);
    let answer = call(&node, "ClientStream", &json!({}), &[]);
    assert_eq!(answer["status"], 12, "{answer}");
    assert!(answer["message"].as_str().is_some_and(|message| message.contains("route_unknown")), "{answer}");
    let answer = call(&node, "ServerStream", &json!({ "count": 3, "bytes": 10 }), &[]);
    assert_eq!(answer["responses"], json!([10, 10, 10]), "{answer}");
}

#[test]
fn times_that_are_over_end_the_call_and_the_work_for_it() {
    let silent = Silent::start();
    let node = silent.node("    timeouts: { total: 400ms }\n");
    let begun = Instant::now();
    assert_eq!(
        refused(&node, &json!({ "wait_ms": 8_000, "timeout": 60 }), &[]),
        (4, "exchange_timeout".to_owned())
    );
    assert!(begun.elapsed() < Duration::from_secs(5));
    // What is told of the caller's time as well: it is shorter than the operation's, and longer than the first byte is waited for.
    let node = silent.node("    timeouts: { first_byte: 100ms }\n");
    let mut web = node.connect();
    web.send(web_request(&[("grpc-timeout", "700m")], 128));
    let answer = web.answer();
    assert_eq!((answer.status, answer.field("grpc-status")), (200, Some("4")), "{}", answer.text());
    assert_eq!(node.log(1)[0]["reason"], "grpc_deadline");
    let server = Upstream::start();
    // Without a deadline of its own the client hears of ours, here in gRPC-Web, whose clients watch no clock.
    let patient = server.plain("");
    let mut web = patient.connect();
    web.send(web_request(&[("grpc-timeout", "300m")], 8_000));
    let answer = web.answer();
    assert_eq!(answer.status, 200);
    assert!(String::from_utf8_lossy(&answer.body).contains("grpc-status: 4\r\n"), "{:?}", answer.body);
    let line = patient.log(1).remove(0);
    let reason = line["reason"].as_str();
    // The upstream was told of the time as well, and may have been first.
    assert!(reason.is_none_or(|reason| reason == "grpc_deadline"), "{line}");
    assert_eq!(line["grpc_status"], 4);
    assert_eq!(server.ended()["ended"], "cancelled");
}

/// A server of HTTP/2 that lets everybody in, and says nothing.
struct Silent(std::net::TcpListener);

impl Silent {
    fn start() -> Silent {
        Silent(std::net::TcpListener::bind("127.0.0.1:0").expect("a port"))
    }

    fn node(&self, api: &str) -> Node {
        let address = self.0.local_addr().expect("an address");
        let config = format!(
            "upstreams: {{ calls: {{ targets: [\"http://{address}\"], protocol: http2 }} }}\n\
             apis:\n  calls:\n    to: calls\n    raw: \"gRPC\"\n    allow: {{ who: anyone }}\n{api}"
        );
        Node::start_in(Place::new(), LISTEN, &config)
    }
}

/// A unary call in gRPC-Web whose server waits.
fn web_request(fields: &[(&str, &str)], wait_ms: u16) -> Vec<u8> {
    // Field 4 of the request, a varint of two bytes.
    let message = [0x20, wait_ms as u8 & 0x7f | 0x80, (wait_ms >> 7) as u8];
    let mut head = format!(
        "POST /{SERVICE}/Unary HTTP/1.1\r\nHost: api.example.com\r\nContent-Type: application/grpc-web+proto\r\n\
         Content-Length: 8\r\n"
    );
    fields.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
    head.push_str("\r\n");
    [head.as_bytes(), &[0, 0, 0, 0, 3], &message].concat()
}

#[test]
fn callers_that_say_nothing_sensible_about_time_are_refused() {
    let server = Upstream::start();
    let node = server.plain("");
    for (fields, status, reason) in [
        (&[("grpc-timeout", "5")][..], "13", "grpc_timeout_syntax"),
        (&[("grpc-timeout", "5S"), ("grpc-timeout", "6S")], "13", "grpc_timeout_syntax"),
        (&[("grpc-timeout", "0n")], "4", "grpc_deadline"),
    ] {
        let mut client = node.connect();
        client.send(web_request(fields, 128));
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("grpc-status")), (200, Some(status)), "{fields:?}");
        assert_eq!(answer.field("content-type"), Some("application/grpc-web+proto"));
        assert_eq!(answer.field("content-length"), Some("0"));
        assert!(answer.field("grpc-message").is_some_and(|message| message.contains(reason)));
    }
    assert!(server.lines.try_recv().is_err(), "nothing was forwarded");
}

#[test]
fn messages_are_bounded_both_ways() {
    let server = Upstream::start();
    let node = server.plain("    sizes: { message: 1KiB }\n");
    let small = json!({ "payload": "x".repeat(900), "bytes": 900 });
    assert_eq!(call(&node, "Unary", &small, &[])["responses"], json!([900]));
    assert_eq!(server.ended()["ended"], "ok");
    let large = json!({ "payload": "x".repeat(2_000) });
    assert_eq!(refused(&node, &large, &[]), (8, "grpc_message_size".to_owned()));
    assert!(server.lines.try_recv().is_err(), "nothing of the call was forwarded");
    let answer = call(&node, "Unary", &json!({ "bytes": 2_000 }), &[]);
    assert_eq!((&answer["status"], &answer["responses"]), (&json!(8), &json!([])), "{answer}");
    let message = answer["message"].as_str().expect("a message");
    assert!(
        message.contains("RW-4262 grpc_response_size"),
        "behind the head, and in front of the message: {answer}"
    );
    assert_eq!(answer["initial"]["x-initial"], "i", "{answer}");
    comes_to(1.0, || refusals(&node, "grpc_response_size"));
}

#[test]
fn who_does_not_answer_in_grpc_is_a_status() {
    // An origin of HTTP/1.1 where one of gRPC should be: what a caller of gRPC-Web gets of it is its own affair.
    let origin = Origin::start(|_| Reply::Bytes(crate::node::response("404 Not Found", "<html>")));
    let config = format!(
        "upstreams: {{ app: \"http://{}\" }}\napis: {{ calls: {{ to: app, raw: \"gRPC\", allow: [{{ who: anyone }}] }} }}\n",
        origin.address
    );
    let node = Node::start_in(Place::new(), LISTEN, &config);
    assert_eq!(refused(&node, &json!({}), &[]), (12, "grpc_response_type".to_owned()));
    let mut web = node.connect();
    web.send(web_request(&[], 128));
    assert_eq!(web.answer().status, 404);
    drop(origin);
    let gone = "upstreams: { app: { targets: [\"http://127.0.0.1:1\"], protocol: http2 } }\n\
        apis: { calls: { to: app, raw: \"gRPC\", allow: [{ who: anyone }] } }\n";
    let node = Node::start_in(Place::new(), LISTEN, gone);
    assert_eq!(refused(&node, &json!({}), &[]), (14, "upstream_refused".to_owned()));
}

#[test]
fn who_is_silent_in_a_conversation_is_not_cut_off_for_its_pace() {
    let server = Upstream::start();
    // Less than a body of any other kind must move in ten seconds, in which only one message goes each way.
    let node = server.plain("    timeouts: { stream_idle: 30s }\n");
    let mut command = python();
    command.args(["-c", CONVERSATION, &node.address.to_string()]);
    let output = command.output().expect("python");
    assert!(output.status.success(), "{output:?}");
}

/// Says something, is silent for longer than other bodies may be, and says something again.
const CONVERSATION: &str = r#"
import sys, time, grpc, calls_pb2 as pb, calls_pb2_grpc as rpc
calls = rpc.CallsStub(grpc.insecure_channel(sys.argv[1], [("grpc.default_authority", "api.example.com")]))
def requests():
    yield pb.Request(payload=b"first")
    time.sleep(12)
    yield pb.Request(payload=b"second")
assert [response.payload for response in calls.Bidi(requests())] == [b"first", b"second"]
"#;

#[test]
fn a_server_is_asked_for_its_health() {
    let mut server = Upstream::start();
    let health = |service: &str| format!("    health: {{ grpc: {service}, every: 100ms }}\n");
    let allow = "    allow: { who: anyone }\n";
    let mut node = server.behind(Place::new(), LISTEN, &health(SERVICE), allow, "");
    assert_eq!(call(&node, "Unary", &json!({}), &[])["status"], 0);
    server.says("down");
    let down = node.wait_for("RW-6042");
    assert!(down.contains("NOT_SERVING"), "{down}");
    server.says("up");
    node.wait_for("RW-6043");
    // The whole server says SERVING all the time; of another service it knows nothing.
    server.says("down");
    let whole = server.behind(Place::new(), LISTEN, &health("\"\""), allow, "");
    let mut other = server.behind(Place::new(), LISTEN, &health("no.such.Service"), allow, "");
    let down = other.wait_for("RW-6042");
    assert!(down.contains("grpc-status 5 (NOT_FOUND)"), "{down}");
    let page = crate::node::fetch(&whole, "/metrics");
    assert!(
        page.lines().any(|line| line.starts_with("ringwall_upstream_up{") && line.ends_with(" 1")),
        "{page}"
    );
}

#[test]
fn probes_with_get_speak_what_the_upstream_speaks() {
    // A node that speaks nothing but HTTP/2 stands for an origin.
    let origin = Node::start_in(
        Place::new(),
        "{ address: \"127.0.0.1:0\", tls: none, protocols: http2 }",
        "apis:\n  app:\n    operations:\n      healthz: { match: GET /healthz, respond: { status: 204 } }\n    \
         allow: { who: anyone }\n",
    );
    let config = |path: &str| {
        format!(
            "upstreams:\n  app:\n    targets: [\"http://{}\"]\n    protocol: http2\n    \
             health: {{ get: {path}, every: 100ms }}\n\
             apis: {{ app: {{ to: app, raw: \"a test\", allow: [{{ who: anyone }}] }} }}\n",
            origin.address
        )
    };
    let node = Node::start(&config("/healthz"));
    let mut other = Node::start(&config("/nothing"));
    let down = other.wait_for("RW-6042");
    assert!(down.contains("status 404"), "{down}");
    let page = crate::node::fetch(&node, "/metrics");
    assert!(
        page.lines().any(|line| line.starts_with("ringwall_upstream_up{") && line.ends_with(" 1")),
        "{page}"
    );
    let probed = origin.log(2).into_iter().find(|line| line["path"] == "/healthz").expect("a probe");
    assert_eq!((&probed["protocol"], &probed["status"]), (&json!("HTTP/2"), &json!(204)));
}

#[test]
fn an_upstream_that_dies_in_a_stream_leaves_a_status() {
    let server = Upstream::start();
    let node = server.plain("");
    let asked = json!({ "count": 200, "bytes": 10, "wait_ms": 50 });
    let mut process = server.process;
    let killer = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(2));
        process.0.kill().expect("it ran");
    });
    let answer = call(&node, "ServerStream", &asked, &[]);
    killer.join().expect("it was killed");
    assert_eq!(answer["status"], 14, "{answer}");
    assert!(answer["message"].as_str().is_some_and(|message| message.starts_with("RW-400")), "{answer}");
    assert!(answer["responses"].as_array().is_some_and(|responses| !responses.is_empty()), "{answer}");
    let line = line_of(&node, answer["trailing"]["x-request-id"].as_str().expect("an id"));
    assert_eq!((&line["status"], &line["grpc_status"]), (&json!(200), &json!(14)), "{line}");
}

#[test]
fn a_message_that_is_too_large_in_a_conversation_ends_it_with_a_status() {
    let server = Upstream::start();
    let node = server.plain("    sizes: { message: 1KiB }\n");
    let output = python().args(["-c", TOO_LARGE, &node.address.to_string()]).output().expect("python");
    assert!(output.status.success(), "{output:?}");
    let line = node.log(1).remove(0);
    assert_eq!((&line["reason"], &line["grpc_status"]), (&json!("grpc_message_size"), &json!(8)), "{line}");
    assert_eq!(server.ended()["ended"], "cancelled");
}

/// Says something small, hears an answer, and says something large.
const TOO_LARGE: &str = r#"
import sys, threading, grpc, calls_pb2 as pb, calls_pb2_grpc as rpc
calls = rpc.CallsStub(grpc.insecure_channel(sys.argv[1], [("grpc.default_authority", "api.example.com")]))
heard = threading.Event()
def requests():
    yield pb.Request(payload=b"small")
    assert heard.wait(10)
    yield pb.Request(payload=b"x" * 5_000)
call = calls.Bidi(requests())
assert next(call).payload == b"small"
heard.set()
try:
    next(call)
    raise SystemExit("an answer to what is too large")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
    assert error.details().startswith("RW-2453 grpc_message_size: "), error
    trailing = dict(error.trailing_metadata())
    assert b"GRPC_MESSAGE_SIZE" in trailing["grpc-status-details-bin"], trailing
"#;

#[test]
fn a_message_that_is_too_large_behind_part_of_an_answer_is_said_by_a_reset() {
    let upstream = Scripted::start();
    let node = upstream.node("    sizes: { message: 1KiB }\n");
    let output =
        python().args(["-c", TOO_LARGE_FOR_HALF, &node.address.to_string()]).output().expect("python");
    assert!(output.status.success(), "{output:?}");
    let line = node.log(1).remove(0);
    assert_eq!((&line["reason"], &line["grpc_status"]), (&json!("grpc_message_size"), &json!(8)), "{line}");
}

/// Hears half of a message, and says something large: there is no room for a status behind the half.
const TOO_LARGE_FOR_HALF: &str = r#"
import sys, threading, grpc, calls_pb2 as pb, calls_pb2_grpc as rpc
calls = rpc.CallsStub(grpc.insecure_channel(sys.argv[1], [("grpc.default_authority", "api.example.com")]))
heard = threading.Event()
def requests():
    yield pb.Request(payload=b"small")
    assert heard.wait(10)
    yield pb.Request(payload=b"x" * 5_000)
call = calls.Bidi(requests(), metadata=(("x-do", "half/hold"),))
call.initial_metadata()
heard.set()
try:
    next(call)
    raise SystemExit("an answer to what is too large")
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED, error
    assert "RW-2453" not in error.details(), error
"#;

/// A server of the `h2` crate that does what `x-do` of the request says, word by word: `head`, `message`, `half` (of one, behind
/// a head), `reset-N`, `ok` (the status, and the end), `end`, `trailers` (without a status), `bare` (a head that is the end), `hold` (nothing more).
struct Scripted {
    address: std::net::SocketAddr,
}

impl Scripted {
    fn start() -> Scripted {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        listener.set_nonblocking(true).expect("set");
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
                while let Ok((socket, _)) = listener.accept().await {
                    tokio::spawn(async move {
                        let mut server = h2::server::handshake(socket).await.expect("a handshake");
                        while let Some(Ok((request, respond))) = server.accept().await {
                            tokio::spawn(Scripted::act(request, respond));
                        }
                    });
                }
            });
        });
        Scripted { address }
    }

    async fn act(
        request: hyper::http::Request<h2::RecvStream>,
        mut respond: h2::server::SendResponse<hyper::body::Bytes>,
    ) {
        use hyper::body::Bytes;
        let head = || {
            let head = hyper::http::Response::builder().header("content-type", "application/grpc");
            head.body(()).expect("a head")
        };
        let text = request.headers()["x-do"].to_str().expect("text").to_owned();
        // The whole request is here before anything is done about it, but where a conversation is meant.
        let mut body = request.into_body();
        while !text.ends_with("hold")
            && let Some(Ok(piece)) = body.data().await
        {
            let _ = body.flow_control().release_capacity(piece.len());
        }
        let mut stream = None;
        for word in text.split('/') {
            // What was said before has left.
            tokio::time::sleep(Duration::from_millis(50)).await;
            match (word, &mut stream) {
                ("bare", _) => drop(respond.send_response(head(), true).expect("sent")),
                ("head", _) => stream = Some(respond.send_response(head(), false).expect("sent")),
                ("half", _) => {
                    let sent = stream.insert(respond.send_response(head(), false).expect("sent"));
                    sent.send_data(Bytes::from_static(b"\0\0\0\0\x09half"), false).expect("sent");
                }
                ("message", Some(sent)) => {
                    sent.send_data(Bytes::from_static(b"\0\0\0\0\0"), false).expect("sent");
                }
                ("ok", Some(sent)) => {
                    let mut trailers = hyper::http::HeaderMap::new();
                    trailers.insert("grpc-status", "0".parse().expect("a value"));
                    sent.send_trailers(trailers).expect("sent");
                }
                ("end", Some(sent)) => sent.send_data(Bytes::new(), true).expect("sent"),
                ("trailers", Some(sent)) => {
                    let mut trailers = hyper::http::HeaderMap::new();
                    trailers.insert("x-other", "1".parse().expect("a value"));
                    sent.send_trailers(trailers).expect("sent");
                }
                ("hold", _) => {
                    let _ = body.trailers().await;
                }
                (reset, sent) => {
                    let code: u32 = reset.strip_prefix("reset-").expect("a word").parse().expect("a code");
                    match sent {
                        Some(sent) => sent.send_reset(code.into()),
                        None => respond.send_reset(code.into()),
                    }
                }
            }
        }
    }

    fn node(&self, api: &str) -> Node {
        self.node_with("retry: { budget: 100% }", api)
    }

    fn node_with(&self, upstream: &str, api: &str) -> Node {
        let config = format!(
            "upstreams: {{ calls: {{ targets: [\"http://{}\"], protocol: http2, {upstream} }} }}\n\
             apis:\n  calls:\n    to: calls\n    raw: \"gRPC\"\n    allow: {{ who: anyone }}\n{api}",
            self.address
        );
        Node::start_in(Place::new(), LISTEN, &config)
    }
}

/// The status and message of a unary call for each `x-do`.
fn statuses(node: &Node, wishes: &[&str]) -> Vec<(u64, String)> {
    let mut command = python();
    let output = command.args(["-c", STATUSES, &node.address.to_string()]).args(wishes).output();
    let output = output.expect("python");
    let lines = String::from_utf8_lossy(&output.stdout);
    let statuses: Vec<(u64, String)> =
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(statuses.len(), wishes.len(), "{output:?}");
    statuses
}

/// Many calls over one connection.
const STATUSES: &str = r#"
import sys, json, grpc, calls_pb2 as pb, calls_pb2_grpc as rpc
options = [("grpc.default_authority", "api.example.com"), ("grpc.enable_retries", 0)]
calls = rpc.CallsStub(grpc.insecure_channel(sys.argv[1], options))
for wish in sys.argv[2:]:
    timeout = 20 if "timed" in wish else None
    call = calls.Bidi if "conversation" in wish else calls.Unary
    request = iter([pb.Request()]) if "conversation" in wish else pb.Request()
    try:
        list(call(request, timeout=timeout, metadata=(("x-do", wish),))) if "conversation" in wish else call(request, timeout=timeout, metadata=(("x-do", wish),))
        print(json.dumps([0, ""]), flush=True)
    except grpc.RpcError as error:
        print(json.dumps([error.code().value[0], error.details()]), flush=True)
"#;

#[test]
fn resets_of_upstreams_are_the_statuses_that_they_stand_for() {
    let upstream = Scripted::start();
    let node = upstream.node("");
    // PROTOCOL-HTTP2 "Errors", in the order of RFC 9113 §7.
    let expected = [13, 13, 13, 13, 13, 2, 13, 14, 1, 13, 13, 8, 7, 2];
    for before in ["", "head/", "head/message/"] {
        let wishes: Vec<String> = (0..expected.len()).map(|code| format!("{before}reset-{code}")).collect();
        let wishes: Vec<&str> = wishes.iter().map(String::as_str).collect();
        let found = statuses(&node, &wishes);
        for ((wish, expected), (status, message)) in wishes.iter().zip(expected).zip(found) {
            assert_eq!(status, expected, "{wish}: {message}");
            assert!(message.starts_with("RW-400"), "a status of ours, not a reset: {wish}: {message}");
        }
    }
    // Within a message only a reset can follow: the code says it, where there is one.
    let within = [(0, 13), (5, 13), (8, 1), (11, 8), (12, 13)];
    let wishes: Vec<String> = within.iter().map(|(code, _)| format!("half/reset-{code}")).collect();
    let wishes: Vec<&str> = wishes.iter().map(String::as_str).collect();
    for ((code, expected), (status, message)) in within.iter().zip(statuses(&node, &wishes)) {
        assert_eq!(status, *expected, "half/reset-{code}: {message}");
        assert!(!message.contains("RW-"), "nothing can follow: {message}");
    }
}

#[test]
fn an_end_without_a_status_is_unknown() {
    let upstream = Scripted::start();
    let node = upstream.node("");
    let wishes = ["bare", "head/end", "head/trailers", "head/message/end", "head/message/trailers"];
    for (wish, (status, message)) in wishes.iter().zip(statuses(&node, &wishes)) {
        assert_eq!(status, 2, "{wish}: {message}");
        assert!(message.starts_with("RW-4264 grpc_status_missing: "), "{wish}: {message}");
    }
    assert!(
        node.log(5).iter().all(|line| line["reason"] == "grpc_status_missing" && line["grpc_status"] == 2)
    );
    comes_to(5.0, || refusals(&node, "grpc_status_missing"));
}

/// A node before several servers, asked in turn.
fn in_turn(servers: &[&Upstream], more: &str) -> Node {
    let targets: Vec<String> =
        servers.iter().map(|server| format!("\"http://127.0.0.1:{}\"", server.port)).collect();
    let config = format!(
        "upstreams: {{ calls: {{ targets: [{}], protocol: http2, balance: round_robin, {more} }} }}\n\
         apis: {{ calls: {{ to: calls, raw: \"gRPC\", allow: [{{ who: anyone }}] }} }}\n",
        targets.join(", ")
    );
    Node::start_in(Place::new(), LISTEN, &config)
}

#[test]
fn a_server_whose_calls_say_that_it_is_in_trouble_is_left_out() {
    let well = Upstream::start();
    let eject = "eject: { server_errors: true, after: 3, time: 1h }";
    let (unary, conversation) = (["unary"; 20], ["conversation"; 20]);
    for (fail, more, wishes, left_out) in [
        ("14", None, unary, true),
        ("14", Some("--bare"), unary, true),
        ("14", None, conversation, true),
        ("13", Some("--bare"), conversation, true),
        ("2", None, unary, true),
        ("4", None, unary, true),
        // Its caller's own time: who gives too little has nobody left out.
        ("4", Some("--bare"), ["timed"; 20], false),
        ("5", None, unary, false),
        ("8", Some("--bare"), unary, false),
        ("12", Some("--bare"), unary, false),
    ] {
        let arguments: Vec<&str> = ["--fail", fail].into_iter().chain(more).collect();
        let failing = Upstream::start_with(&arguments);
        let node = in_turn(&[&failing, &well], eject);
        let found = statuses(&node, &wishes);
        let failed = found.iter().filter(|(status, _)| *status != 0).count();
        let case = format!("{arguments:?}, {}: {found:?}", wishes[0]);
        assert_eq!(failed, if left_out { 3 } else { 10 }, "{case}");
        assert!(
            found.iter().all(|(status, _)| [0, fail.parse().expect("a number")].contains(status)),
            "{case}"
        );
    }
    // Nobody is left out for it who is not told to.
    let failing = Upstream::start_with(&["--fail", "14"]);
    let node = in_turn(&[&failing, &well], "eject: { after: 3, time: 1h }");
    assert_eq!(statuses(&node, &unary).iter().filter(|(status, _)| *status == 14).count(), 10);
}

#[test]
fn an_upstream_whose_calls_say_that_it_is_in_trouble_is_left_alone() {
    let breaker = "breaker: { failures: 50%, least: 5, rest: 5min }";
    for more in [None, Some("--bare")] {
        let arguments: Vec<&str> = ["--fail", "14"].into_iter().chain(more).collect();
        let failing = Upstream::start_with(&arguments);
        let node = in_turn(&[&failing], breaker);
        let found = statuses(&node, &["unary"; 8]);
        assert!(found[..5].iter().all(|found| *found == (14, "as told".to_owned())), "{found:?}");
        let ours = found.iter().map(|(_, message)| message.contains("RW-4300 breaker_open"));
        assert!(ours.eq([false, false, false, false, false, true, true, true]), "{found:?}");
    }
    let well = Upstream::start_with(&["--fail", "5"]);
    let node = in_turn(&[&well], breaker);
    assert!(statuses(&node, &["unary"; 20]).iter().all(|(status, _)| *status == 5));
}

#[test]
fn a_stream_that_finds_out_whether_an_upstream_is_well_keeps_nobody_waiting_for_its_end() {
    let upstream = Scripted::start();
    let breaker = "breaker: { failures: 50%, least: 2, rest: 100ms, probes: 1 }, eject: { after: 0 }";
    let node = upstream.node_with(breaker, "");
    let output = python().args(["-c", PROBING, &node.address.to_string()]).output().expect("python");
    assert!(output.status.success(), "{output:?}");
}

/// Two failures, a stream that goes on, and a call beside it.
const PROBING: &str = r#"
import sys, threading, grpc, calls_pb2 as pb, calls_pb2_grpc as rpc
options = [("grpc.default_authority", "api.example.com"), ("grpc.enable_retries", 0)]
calls = rpc.CallsStub(grpc.insecure_channel(sys.argv[1], options))
over = threading.Event()
def requests():
    yield pb.Request()
    over.wait(20)
def refused(call):
    try:
        call()
        return None
    except grpc.RpcError as error:
        return error.details()
for _ in range(2):
    assert "RW-400" in refused(lambda: calls.Unary(pb.Request(), metadata=(("x-do", "reset-2"),)))
assert "RW-4300" in refused(lambda: calls.Unary(pb.Request(), metadata=(("x-do", "head/message/ok"),)))
while True:
    stream = calls.Bidi(requests(), metadata=(("x-do", "head/message/hold"),))
    why = refused(lambda: next(stream))
    if why is None:
        break
    assert "RW-4300" in why, why
calls.Unary(pb.Request(), metadata=(("x-do", "head/message/ok"),))
over.set()
"#;

#[test]
fn a_call_that_breaks_the_contract_of_its_operation_is_a_status() {
    let server = Upstream::start();
    let config = |body: &str| {
        format!(
            "upstreams: {{ calls: {{ targets: [\"http://127.0.0.1:{}\"], protocol: http2 }} }}\napis:\n  calls:\n    to: calls\n    \
             allow: {{ who: anyone }}\n    operations:\n      unary: {{ match: POST /{SERVICE}/Unary, body: {{ {body} }} }}\n",
            server.port
        )
    };
    for (body, reason) in
        [("schema: a.json", "body_content_type"), ("types: [application/json]", "content_type_unlisted")]
    {
        let place = Place::new();
        place.write("a.json", "{ \"type\": \"object\" }");
        let node = Node::start_in(place, LISTEN, &config(body));
        assert_eq!(refused(&node, &json!({}), &[]), (3, reason.to_owned()));
    }
    assert!(server.lines.try_recv().is_err(), "nothing was forwarded");
    let node = Node::start_in(Place::new(), LISTEN, &config("types: [application/grpc]"));
    assert_eq!(call(&node, "Unary", &json!({}), &[])["status"], 0);
}

#[test]
fn a_server_is_asked_for_its_health_under_tls() {
    let place = Place::new();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    let key = place.write("server.key", &made.signing_key.serialize_pem());
    let certificate = place.write("server.pem", &made.cert.pem());
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("made");
    place.write("other.pem", &other.cert.pem());
    let text = |path: &Path| path.to_str().expect("text").to_owned();
    let mut server = Upstream::start_with(&["--cert", &text(&certificate), "--key", &text(&key)]);
    let config = |ca: &str| {
        format!(
            "upstreams:\n  calls:\n    targets: [\"https://localhost:{}\"]\n    ca: {ca}\n    protocol: http2\n    \
             addresses: 127.0.0.1/32\n    health: {{ grpc: {SERVICE}, every: 100ms }}\n\
             apis: {{ calls: {{ to: calls, raw: \"gRPC\", allow: [{{ who: anyone }}] }} }}\n",
            server.port
        )
    };
    let certificate = |place: &Place| {
        place.write("server.pem", &made.cert.pem());
        place.write("other.pem", &other.cert.pem());
    };
    let (one, two) = (Place::new(), Place::new());
    [&one, &two].into_iter().for_each(certificate);
    let (trusting, wary) = (config("server.pem"), config("other.pem"));
    let mut node = Node::start_in(one, LISTEN, &trusting);
    assert_eq!(call(&node, "Unary", &json!({}), &[])["status"], 0);
    server.says("down");
    let down = node.wait_for("RW-6042");
    assert!(down.contains("NOT_SERVING"), "{down}");
    server.says("up");
    node.wait_for("RW-6043");
    assert_eq!(call(&node, "Unary", &json!({}), &[])["status"], 0);
    // Somebody else's certificate: it is not asked at all.
    let mut node = Node::start_in(two, LISTEN, &wary);
    let down = node.wait_for("RW-6042");
    assert!(!down.contains("SERVING"), "{down}");
}
