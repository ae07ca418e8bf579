//! `ringwall block`: refused on every core within a second, listed, removed, ended to the second, kept over a restart.

use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::node::{Client, Node, Origin, PATIENCE, Place, fetch, text_of};

const LISTEN: &str = "{ address: \"127.0.0.1:0\", tls: none, trusted_proxies: [127.0.0.9] }";
const CONFIG: &str = "apis:\n  a:\n    operations:\n      one: { match: GET /one, respond: { status: 200, body: one } }\n      \
                      two: { match: GET /two, respond: { status: 200, body: two } }\n    allow: [{ who: anyone }]";

fn block(node: &Node, arguments: &str) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_ringwall"))
        .arg("block")
        .args(arguments.split(' ').filter(|word| !word.is_empty()))
        .arg("--control")
        .arg(node.place.path().join("control.sock"))
        .output()
        .expect("ringwall block");
    println!("{arguments}: {}{}", text(&output.stdout), text(&output.stderr));
    output
}

fn done(node: &Node, arguments: &str) -> String {
    let output = block(node, arguments);
    assert!(output.status.success(), "{arguments}: {output:?}");
    text(&output.stdout)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a client at this address gets; `None` when its connection ends without an answer.
fn status(node: &Node, from: &str, path: &str, fields: &[&str]) -> Option<String> {
    let mut curl = Command::new("curl");
    curl.args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20", "--interface", from]);
    for field in fields {
        curl.args(["-H", field]);
    }
    let output = curl.arg(format!("http://{}{path}", node.address)).output().expect("curl");
    output.status.success().then(|| text(&output.stdout))
}

fn ok() -> Option<String> {
    Some("200".to_owned())
}

/// Waits until something is so, a second at most: what is promised.
fn within_a_second(what: &str, is_so: impl Fn() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < Duration::from_secs(1), "not within a second: {what}");
    }
}

/// Connections enough that every core of two has some, but for one time in a million.
fn many(node: &Node) -> Vec<Client> {
    (0..20)
        .map(|_| {
            let mut client = node.connect();
            client.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.answer().status, 200);
            client
        })
        .collect()
}

#[test]
fn a_blocked_address_is_out_on_every_core_and_back_when_it_is_removed() {
    let mut node = Node::start_in(Place::new(), LISTEN, CONFIG);
    let standing = many(&node);
    let start = Instant::now();
    let told = done(&node, "add --address 127.0.0.1 --reason scanner");
    assert!(
        told.starts_with("blocked: 1 address 127.0.0.1, by user ") && told.ends_with(": scanner\n"),
        "{told}"
    );
    // Nobody new is let in, on whichever core; who is in is ended.
    for _ in 0..20 {
        assert_eq!(status(&node, "127.0.0.1", "/one", &[]), None);
    }
    for mut client in standing {
        assert!(client.is_closed());
    }
    assert!(start.elapsed() < PATIENCE);
    assert_eq!(status(&node, "127.0.0.2", "/one", &[]), ok(), "nobody else is");
    assert!(fetch(&node, "/metrics").contains("ringwall_blocks 1\n"));
    let line = node.wait_for("RW-6092");
    assert!(
        line.contains("what=\"address 127.0.0.1\"")
            && line.contains("by_uid=")
            && line.contains("reason=scanner"),
        "{line}"
    );
    assert!(done(&node, "list").starts_with("1 address 127.0.0.1, by user "));

    assert_eq!(done(&node, "remove 1"), "no longer blocked: address 127.0.0.1\n");
    within_a_second("let in again", || status(&node, "127.0.0.1", "/one", &[]) == ok());
    assert_eq!(done(&node, "list"), "nothing is blocked\n");
    let again = block(&node, "remove 1");
    assert_eq!(again.status.code(), Some(1));
    assert!(text(&again.stderr).contains("RW-1852"));
}

#[test]
fn established_connections_are_ended_within_a_second_also_in_the_middle_of_an_answer() {
    let origin = Origin::start(|_| crate::node::Reply::Drip {
        first: b"HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n".to_vec(),
        then: vec![b'x'; 1000],
        every: Duration::from_millis(5),
    });
    let config = format!(
        "upstreams: {{ app: \"http://{}\" }}\napis:\n  app:\n    to: app\n    operations: {{ one: GET /one }}\n    \
         allow: [{{ who: anyone }}]",
        origin.address
    );
    let node = Node::start_in(Place::new(), LISTEN, &config);
    let mut busy = node.connect();
    busy.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    busy.head();
    let mut idle = node.connect();
    done(&node, "add --prefix 127.0.0.0/29");
    let start = Instant::now();
    assert!(busy.rest().len() < 100_000_000 && idle.is_closed());
    assert!(start.elapsed() < Duration::from_secs(1), "{:?}", start.elapsed());
    assert_eq!(node.log(1)[0]["reason"], "address_blocked", "{:?}", node.log(1));
}

#[test]
fn whom_a_trusted_proxy_names_and_what_is_meant_are_refused_with_a_reason() {
    let node = Node::start_in(Place::new(), LISTEN, CONFIG);
    done(&node, "add --address 192.0.2.0/24");
    done(&node, "add --operation a/two");
    let named = |address: &str, path: &str| {
        status(&node, "127.0.0.9", path, &[&format!("X-Forwarded-For: {address}")])
    };
    assert_eq!(named("192.0.2.77", "/one").as_deref(), Some("403"));
    assert_eq!(named("192.0.3.77", "/one"), ok());
    assert_eq!(named("192.0.3.77", "/two").as_deref(), Some("403"));
    // Who is no trusted proxy names nobody.
    assert_eq!(status(&node, "127.0.0.1", "/one", &["X-Forwarded-For: 192.0.2.77"]), ok());
    let mut reasons: Vec<String> =
        node.log(4).iter().filter_map(|line| line["reason"].as_str().map(str::to_owned)).collect();
    reasons.sort_unstable();
    assert_eq!(reasons, ["address_blocked", "operation_blocked"]);
    done(&node, "add --operation a");
    assert_eq!(named("192.0.3.77", "/one").as_deref(), Some("403"));
    // The proxy's connection is not ended for one of many.
    let mut client = node.connect();
    client.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\nGET /two HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().refusal(), (403, "operation_blocked".to_owned()));
    assert_eq!(client.answer().refusal(), (403, "operation_blocked".to_owned()));
}

#[test]
fn a_block_ends_to_the_second() {
    let mut node = Node::start_in(Place::new(), LISTEN, CONFIG);
    done(&node, "add --operation a/one --for 2s");
    let start = Instant::now();
    let asked = |node: &Node| node.ask("GET /one HTTP/1.1\r\nHost: a\r\n\r\n").status;
    assert_eq!(asked(&node), 403);
    node.wait_for("RW-6094");
    let lasted = start.elapsed();
    // Whole seconds: added somewhere within one.
    assert!(lasted > Duration::from_millis(900) && lasted < Duration::from_millis(2_500), "{lasted:?}");
    within_a_second("open again", || asked(&node) == 200);
}

#[test]
fn blocks_survive_a_restart_and_a_damaged_file_is_no_start() {
    let mut node = Node::start_in(Place::new(), LISTEN, CONFIG);
    done(&node, "add --address 127.0.0.4 --reason kept");
    done(&node, "add --operation a/two --for 1s");
    let file = node.place.path().join("control.sock.blocks");
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(&file).expect("the file").permissions().mode() & 0o777, 0o600);
    }
    // As hard as it gets.
    node.child.kill().expect("killed");
    node.child.wait().expect("ended");
    let second = Place::new();
    std::fs::copy(&file, second.path().join("control.sock.blocks")).expect("copied");
    std::thread::sleep(Duration::from_millis(1_100));
    let node = Node::start_in(second, LISTEN, CONFIG);
    assert!(node.lines_so_far().any(|line| line.contains("RW-6096") && line.contains("count=1")));
    assert_eq!(status(&node, "127.0.0.4", "/one", &[]), None);
    assert_eq!(status(&node, "127.0.0.5", "/two", &[]), ok(), "that one's time is over");
    assert!(done(&node, "list").contains("address 127.0.0.4") && done(&node, "list").contains(": kept"));

    let third = Place::new();
    third.write("control.sock.blocks", "{\"ringwall_blocks\":1,\"next\":2,");
    let config = third.write("ringwall.yaml", &text_of(LISTEN, CONFIG));
    let output =
        Command::new(env!("CARGO_BIN_EXE_ringwall")).arg("run").arg("-c").arg(config).output().expect("run");
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("RW-1851"), "{}", text(&output.stderr));
}

#[test]
fn an_identity_and_a_key_are_refused_once_they_are_proven() {
    let place = Place::new();
    place.write("pepper", "0123456789abcdef0123456789abcdef");
    let key = |identity: &str, id: &str| {
        let pepper = format!("secret:file:{}", place.path().join("pepper").display());
        let output = Command::new(env!("CARGO_BIN_EXE_ringwall"))
            .args([
                "keys",
                "new",
                "--json",
                "--identity",
                identity,
                "--id",
                id,
                "--pepper",
                &pepper,
                "--store",
            ])
            .arg(place.path().join("keys"))
            .output()
            .expect("ringwall keys new");
        assert!(output.status.success(), "{output:?}");
        let made: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
        made["key"].as_str().expect("a key").to_owned()
    };
    let (alice, also_alice, bob) = (key("alice", "k1"), key("alice", "k2"), key("bob", "k3"));
    let config = "login:\n  partners: { api_key: X-API-Key, store: keys, pepper: \"secret:file:pepper\" }\napis:\n  a:\n    \
                  operations: { one: { match: GET /one, respond: { status: 200, body: one } } }\n    allow: [{ who: partners }]";
    let mut node = Node::start_in(place, LISTEN, config);
    let ask = |node: &Node, key: &str| {
        node.ask(&format!("GET /one HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n\r\n")).refusal()
    };
    assert_eq!(ask(&node, &alice).0, 200);
    done(&node, "add --key k1 --for 10min --reason leaked");
    assert_eq!(ask(&node, &alice), (403, "key_blocked".to_owned()));
    assert_eq!((ask(&node, &also_alice).0, ask(&node, &bob).0), (200, 200));
    done(&node, "add --identity partners/alice --until 2999-01-01T00:00:00Z");
    assert_eq!(ask(&node, &also_alice), (403, "identity_blocked".to_owned()));
    assert_eq!(ask(&node, &bob).0, 200);
    // A wrong key is a wrong key, whoever is blocked.
    assert_eq!(ask(&node, &alice.replace("rwk_", "rwx_")).0, 401);
    let lines = node.log(7);
    assert!(lines.iter().any(|line| line["reason"] == "key_blocked" && line["key_id"] == "k1"), "{lines:?}");
    done(&node, "remove --identity partners/alice");
    done(&node, "remove --key k1");
    assert_eq!(ask(&node, &alice).0, 200);
    assert!(node.wait_for("RW-6093").contains("what=\"identity partners/alice\""));
}

#[test]
fn who_blocked_what_and_why_is_on_record_and_so_is_who_was_refused() {
    let config = format!("audit: {{ file: audit.jsonl }}\n{CONFIG}");
    let node = Node::start_in(Place::new(), LISTEN, &config);
    done(&node, "add --operation a/two --reason incident-7");
    assert_eq!(
        node.ask("GET /two HTTP/1.1\r\nHost: a\r\n\r\n").refusal(),
        (403, "operation_blocked".to_owned())
    );
    done(&node, "remove --operation a/two");
    let deadline = Instant::now() + PATIENCE;
    let path = node.place.path().join("audit.jsonl");
    loop {
        let audit = std::fs::read_to_string(&path).unwrap_or_default();
        let has =
            |one: &str, other: &str| audit.lines().any(|line| line.contains(one) && line.contains(other));
        if has("block_add", "operation a/two: incident-7")
            && has("block_add", "uid ")
            && has("block_remove", "operation a/two")
            && has("operation_blocked", "RW-2253")
        {
            break;
        }
        assert!(Instant::now() < deadline, "{audit}");
        std::thread::yield_now();
    }
}
