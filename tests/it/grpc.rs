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
fn python() -> Command {
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
        let place = Place::new();
        let complaints = std::fs::File::create(place.path().join("stderr")).expect("a file");
        let mut command = python();
        command.arg("server.py").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(complaints);
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
    let node = server.plain("");
    run("web.py", &node, 20, &["--authority", "api.example.com"]);
    let lines = node.log(32);
    assert!(lines.iter().all(|line| line["protocol"] == "HTTP/1.1"), "{lines:?}");
    for status in [0, 4, 7, 10, 13] {
        assert!(lines.iter().any(|line| line["grpc_status"] == status), "{status}: {lines:?}");
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
fn a_message_that_is_too_large_in_a_conversation_is_said_by_a_reset() {
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
"#;
