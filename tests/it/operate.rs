//! What an operator does to a running node: reload, bad reload, drain, rotation; with curl and a real nginx.

use std::process::Command;
use std::time::Instant;

use crate::nginx::Nginx;
use crate::node::{Node, Origin, Place, fetch, response};

fn config(origin: &Origin, body: &str) -> String {
    format!(
        "upstreams: {{ app: \"http://{}\" }}\napis:\n  app:\n    to: app\n    operations:\n      \
         one: {{ match: GET /one, respond: {{ status: 200, body: {body} }} }}\n      two: GET /two\n    \
         allow: [{{ who: anyone }}]",
        origin.address
    )
}

fn get(node: &Node, path: &str) -> (u16, String) {
    let answer = node.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    (answer.status, answer.text())
}

#[test]
fn a_good_reload_takes_effect_and_a_bad_one_changes_nothing() {
    let origin = Origin::plain();
    let mut node = Node::start(&config(&origin, "before"));
    assert_eq!(get(&node, "/one"), (200, "before".to_owned()));
    // The file is watched: replacing it is enough.
    node.rewrite(&config(&origin, "after"));
    node.wait_for("RW-6003");
    assert_eq!(get(&node, "/one"), (200, "after".to_owned()));
    node.rewrite("upstreams: {}\napis: { broken: { bse: /x } }");
    node.wait_for("RW-6004");
    assert_eq!(get(&node, "/one"), (200, "after".to_owned()));
    let metrics = Command::new("curl")
        .arg("-s")
        .arg(format!("http://{}/metrics", node.metrics))
        .output()
        .expect("curl");
    let metrics = String::from_utf8_lossy(&metrics.stdout).into_owned();
    assert!(metrics.contains("ringwall_config_last_reload_success 0"), "{metrics}");
    node.rewrite(&config(&origin, "again"));
    node.wait_for("RW-6003");
    assert_eq!(get(&node, "/one"), (200, "again".to_owned()));
}

#[test]
fn reload_over_the_control_socket_tells_the_errors() {
    let origin = Origin::plain();
    let node = Node::start(&config(&origin, "x"));
    let socket = node.place.path().join("control.sock");
    let reload = || {
        Command::new(env!("CARGO_BIN_EXE_ringwall"))
            .args(["reload", "--json", "--control"])
            .arg(&socket)
            .output()
            .expect("ringwall reload")
    };
    let good = reload();
    assert!(good.status.success(), "{good:?}");
    node.rewrite("apis: 7");
    let bad = reload();
    assert_eq!(bad.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&bad.stdout).expect("JSON");
    assert!(told["errors"].as_array().is_some_and(|errors| !errors.is_empty()), "{told}");
    assert!(told["errors"][0]["line"].is_u64(), "{told}");
}

#[test]
fn term_drains_and_answers_what_is_under_way() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::start(move |seen| {
        if seen.head.contains("/two") {
            // Until the test has seen that the node drains.
            let _ = wait.lock().expect("one thread at a time").recv_timeout(crate::node::PATIENCE);
        }
        crate::node::Reply::Bytes(response("200 OK", "done"))
    });
    let mut node = Node::start(&config(&origin, "x"));
    let mut idle = node.connect();
    idle.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(idle.answer().status, 200);
    let mut busy = node.connect();
    busy.send("GET /two HTTP/1.1\r\nHost: a\r\n\r\n");
    // It is under way once its connection to the origin stands; the drain may begin before or after that.
    node.signal("TERM");
    node.wait_for("RW-6005");
    assert!(idle.is_closed());
    go.send(()).expect("the origin waits");
    let answer = busy.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "done"));
    assert_eq!(answer.field("connection"), Some("close"));
    assert!(node.child.wait().expect("ended").success());
}

#[test]
fn who_was_let_in_before_the_end_may_still_ask_once() {
    let origin = Origin::plain();
    let mut node = Node::start(&config(&origin, "x"));
    let mut silent = node.connect();
    // The tick that finds the node draining finds this connection among those that wait.
    let open = |node: &Node| {
        fetch(node, "/metrics").lines().any(|line| line.starts_with(OPEN) && line.ends_with(" 1"))
    };
    const OPEN: &str = "ringwall_connections";
    let deadline = Instant::now() + crate::node::PATIENCE;
    while !open(&node) {
        assert!(Instant::now() < deadline, "never accepted: {}", fetch(&node, "/metrics"));
    }
    node.signal("TERM");
    node.wait_for("RW-6005");
    silent.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = silent.answer();
    assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    assert!(node.child.wait().expect("ended").success());
}

#[test]
fn logs_are_opened_again_after_a_rotation() {
    let origin = Origin::plain();
    let mut node = Node::start(&config(&origin, "x"));
    get(&node, "/one");
    node.log(1);
    let log = node.place.path().join("access.jsonl");
    std::fs::rename(&log, node.place.path().join("access.1")).expect("rotated");
    node.signal("USR1");
    node.wait_for("RW-6060");
    get(&node, "/two");
    let line = &node.log(1)[0];
    assert_eq!(line["path"], "/two");
}

#[test]
fn metrics_and_health_are_served() {
    let origin = Origin::plain();
    let node = Node::start(&config(&origin, "x"));
    get(&node, "/one");
    let fetch = |path: &str| {
        let output =
            Command::new("curl").args(["-s", "-f"]).arg(format!("http://{}{path}", node.metrics)).output();
        let output = output.expect("curl");
        assert!(output.status.success(), "{path}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    fetch("/livez");
    fetch("/readyz");
    let page = fetch("/metrics");
    let wanted = std::env::var("RINGWALL_TEST_DRIVER").unwrap_or_else(|_| "io_uring".to_owned());
    assert!(page.contains(&format!("ringwall_driver_info{{core=\"0\",driver=\"{wanted}\"}} 1")), "{page}");
    assert!(
        page.contains(
            "ringwall_http_requests_total{api=\"app\",operation=\"one\",method=\"GET\",status=\"200\"} 1"
        ),
        "{page}"
    );
}

#[test]
fn curl_and_openssl_speak_tls_with_it() {
    let place = Place::new();
    let (key, cert) = (place.path().join("k.pem"), place.path().join("c.pem"));
    let made = Command::new("openssl")
        .args([
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "2",
        ])
        .args(["-subj", "/CN=a.test", "-addext", "subjectAltName=DNS:a.test,DNS:b.test", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&cert)
        .output()
        .expect("openssl");
    assert!(made.status.success(), "{made:?}");
    let origin = Origin::plain();
    let listen = "{ address: \"127.0.0.1:0\", domains: [a.test, b.test], tls: { cert: c.pem, key: k.pem } }";
    let node = Node::start_in(place, listen, &config(&origin, "private"));
    let port = node.address.port();
    let cert = node.place.path().join("c.pem");
    let curl = |host: &str, more: &[&str]| {
        Command::new("curl")
            .args(["-s", "--cacert"])
            .arg(&cert)
            .args(["--resolve", &format!("{host}:{port}:127.0.0.1")])
            .args(more)
            .arg(format!("https://{host}:{port}/one"))
            .output()
            .expect("curl")
    };
    assert_eq!(curl("a.test", &[]).stdout, b"private");
    // Two connections are on two cores, perhaps: the log has them in any order unless the first is waited for.
    node.log(1);
    assert_eq!(curl("b.test", &["--tls-max", "1.2"]).stdout, b"private");
    assert_eq!(curl("b.test", &["--http1.1"]).stdout, b"private");
    let agreed: Vec<_> = node.log(3).iter().map(|line| (line["tls"].clone(), line["alpn"].clone())).collect();
    let all = [("1.3", "h2"), ("1.2", "h2"), ("1.3", "http/1.1")];
    assert_eq!(agreed, all.map(|(version, protocol)| (version.into(), protocol.into())));
    // A name that is not served gets no certificate; a host beside the one of the connection is misdirected.
    assert!(!curl("c.test", &[]).status.success());
    let misdirected = curl("a.test", &["-H", "Host: c.test", "-o", "/dev/null", "-w", "%{http_code}"]);
    assert_eq!(misdirected.stdout, b"421");
    let secure = curl("a.test", &["-D", "-"]);
    assert!(String::from_utf8_lossy(&secure.stdout).contains("strict-transport-security"), "{secure:?}");
    let session = Command::new("sh")
        .arg("-c")
        .arg(format!(
            "openssl s_client -connect 127.0.0.1:{port} -servername a.test -alpn http/1.1 </dev/null 2>&1"
        ))
        .output()
        .expect("openssl s_client");
    let session = String::from_utf8_lossy(&session.stdout).into_owned();
    assert!(session.contains("ALPN protocol: http/1.1"), "{session}");
    // By the hello alone, before anything is made for the client.
    for name in ["-servername c.test", "-noservername"] {
        let refused = Command::new("sh")
            .arg("-c")
            .arg(format!("openssl s_client -connect 127.0.0.1:{port} {name} </dev/null 2>&1"))
            .output()
            .expect("openssl s_client");
        let told = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert!(told.contains("unrecognized name") && told.contains("no peer certificate"), "{name}: {told}");
    }
    let mut plain = node.connect();
    plain.send("GET /one HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!(plain.rest(), [21, 3, 3, 0, 2, 2, 10], "an alert: that was no handshake");
}

#[test]
fn who_waits_to_be_accepted_when_the_node_is_told_to_go_is_let_in() {
    let origin = Origin::plain();
    let node = Node::start(&config(&origin, "in"));
    node.signal("STOP");
    let mut clients: Vec<_> = (0..40).map(|_| node.connect()).collect();
    for client in &mut clients {
        client.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    node.signal("TERM");
    node.signal("CONT");
    for client in &mut clients {
        let answer = client.answer();
        assert_eq!((answer.status, answer.text()), (200, "in".to_owned()));
    }
}

#[test]
fn a_real_nginx_is_a_real_upstream() {
    let nginx = Nginx::start("location / { return 200 \"nginx $request_method $uri\"; }");
    let node = Node::start(&format!(
        "upstreams: {{ app: \"http://{}\" }}\n\
         apis: {{ app: {{ to: app, raw: \"a test\", allow: [{{ who: anyone }}] }} }}",
        nginx.address
    ));
    let mut client = node.connect();
    for path in ["/a", "/b%20c", "/d?e=f"] {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = client.answer();
        assert_eq!(answer.status, 200);
        assert!(answer.text().starts_with("nginx GET /"), "{}", answer.text());
    }
    client.send("POST /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    assert_eq!(client.answer().text(), "nginx POST /x");
}
