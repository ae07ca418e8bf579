//! Answers that no upstream gives: redirects, fixed answers, maintenance.

use std::process::Command;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use crate::node::{Answer, Node, Origin, PATIENCE, Place, Reply, fetch, response};

fn get(node: &Node, path: &str) -> Answer {
    node.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"))
}

#[test]
fn redirects_lead_where_the_configuration_says_whatever_is_asked() {
    let node = Node::start(
        "apis:
  moved:
    allow: [{ who: anyone }]
    operations:
      one: { match: GET /one, redirect: \"https://www.example.com/start\" }
      here: { match: POST /here, redirect: { to: /there, status: 303 } }
      query: { match: GET /query, redirect: { to: \"https://www.example.com/find\", status: 302, keep: query } }
      all: { match: \"GET /{+path}\", raw: \"everything has moved\", redirect: { to: \"https://www.example.com/\", status: 301, keep: path } }",
    );
    for (line, status, location) in [
        ("GET /one?x=1", 308, "https://www.example.com/start"),
        ("POST /here", 303, "/there"),
        ("GET /query?q=a%20b", 302, "https://www.example.com/find?q=a%20b"),
        ("GET /query", 302, "https://www.example.com/find"),
        ("GET /a/b?c=d", 301, "https://www.example.com/a/b?c=d"),
        ("GET /@evil.example/", 301, "https://www.example.com/@evil.example/"),
        (
            "GET /.evil.example?x=https://evil.example",
            301,
            "https://www.example.com/.evil.example?x=https://evil.example",
        ),
        ("GET http://a/b", 301, "https://www.example.com/b"),
    ] {
        let answer = node.ask(&format!("{line} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
        assert_eq!((answer.status, answer.field("location")), (status, Some(location)), "{line}");
        assert_eq!(answer.field("content-length"), Some("0"));
    }
    // What could change the host, or end the line, is no path that is ever canonical.
    for path in ["//evil.example/", "/%0d%0aSet-Cookie:%20a=b", "/\\evil.example", "/%2f%2fevil.example"] {
        let answer = get(&node, path);
        assert_eq!(
            (answer.status, answer.field("location"), answer.field("set-cookie")),
            (400, None, None),
            "{path}"
        );
    }
}

#[test]
fn a_listener_that_leads_to_https_keeps_host_path_and_query_and_nothing_else() {
    let origin = Origin::plain();
    let config = format!(
        "upstreams: {{ app: \"http://{}\" }}\napis: {{ app: {{ to: app, raw: \"a test\", allow: [{{ who: anyone }}] }} }}",
        origin.address
    );
    let node = Node::start_in(Place::new(), "{ address: \"127.0.0.1:0\", redirect: https }", &config);
    for (line, host, location) in [
        ("GET /a/b?c=d", "a.example", "https://a.example/a/b?c=d"),
        ("GET /a?", "a.example:8080", "https://a.example/a?"),
        ("GET http://a.example", "a.example", "https://a.example/"),
        // What is asked of the server as a whole has no path, which would otherwise end up in the host.
        ("OPTIONS *", "a.example", "https://a.example"),
        ("OPTIONS http://a.example", "a.example", "https://a.example"),
    ] {
        let answer = node.ask(&format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!((answer.status, answer.field("location")), (308, Some(location)), "{line}");
    }
}

#[test]
fn a_fixed_answer_is_given_without_an_upstream_and_with_the_edits_of_its_operation() {
    let node = Node::start(
        "apis:
  fixed:
    headers: { response: { set: { Cache-Control: max-age=60, X-Frame-Options: SAMEORIGIN } } }
    allow: [{ who: anyone }]
    operations:
      robots: { match: GET /robots.txt, respond: { status: 200, body: \"User-agent: *\\n\" } }
      gone: { match: DELETE /gone, respond: { status: 410 } }
      empty: { match: GET /empty, respond: { status: 204 } }
      json:
        match: GET /json
        respond: { status: 200, body: \"{}\", content_type: application/json }
        headers: { extend: { response: { set: { Content-Type: application/hal+json } } } }",
    );
    let robots = get(&node, "/robots.txt");
    assert_eq!((robots.status, robots.text().as_str()), (200, "User-agent: *\n"));
    assert_eq!(robots.field("content-type"), Some("text/plain; charset=utf-8"));
    assert_eq!(robots.field("cache-control"), Some("max-age=60"));
    assert_eq!(
        (robots.field("x-frame-options"), robots.field("content-security-policy")),
        (Some("SAMEORIGIN"), None)
    );
    assert_eq!(robots.field("x-content-type-options"), Some("nosniff"));
    let json = get(&node, "/json");
    assert_eq!(json.head.to_ascii_lowercase().matches("content-type:").count(), 1, "{}", json.head);
    assert_eq!(json.field("content-type"), Some("application/hal+json"));
    // One connection carries them all, and a body that nobody wants ends it.
    let mut client = node.connect();
    client.send("HEAD /robots.txt HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.answer_to("HEAD");
    assert_eq!((head.status, head.field("content-length")), (200, Some("14")));
    client.send("GET /empty HTTP/1.1\r\nHost: a\r\n\r\n");
    let empty = client.answer();
    assert_eq!((empty.status, empty.field("content-length")), (204, None));
    client.send("DELETE /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    let gone = client.answer();
    assert_eq!((gone.status, gone.field("connection")), (410, None));
    client.send("DELETE /gone HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc");
    let unread = client.answer();
    assert_eq!((unread.status, unread.field("connection")), (410, Some("close")));
    // A refusal is ours alone.
    assert_eq!(get(&node, "/nothing").field("cache-control"), Some("no-store"));
}

/// Two APIs, the first with these keys, and these of the node.
fn config(origin: &Origin, keys: &str) -> String {
    format!(
        "upstreams: {{ app: \"http://{}\" }}
login: {{ partners: {{ api_key: X-API-Key, store: partners.keys, pepper: \"secret:file:pepper\" }} }}
apis:
  shop: {{ base: /shop, to: app, raw: \"a test\", allow: [{{ who: anyone }}]{keys} }}
  secret:
    base: /secret
    to: app
    allow: [{{ who: partners }}]
    operations: {{ get: GET /x, fixed: {{ match: GET /fixed, respond: {{ status: 200 }} }} }}",
        origin.address
    )
}

fn start(origin: &Origin, keys: &str) -> Node {
    let place = crate::node::Place::new();
    place.write("partners.keys", "");
    place.write("pepper", "0123456789abcdef0123456789abcdef");
    Node::start_in(place, "{ address: \"127.0.0.1:0\", tls: none }", &config(origin, keys))
}

#[test]
fn an_api_goes_into_maintenance_and_out_again_by_a_reload_and_nobody_is_cut_off() {
    let (arrived, waits) = channel();
    let (go, wait) = channel::<()>();
    let (arrived, wait) = (std::sync::Mutex::new(arrived), std::sync::Mutex::new(wait));
    let origin = Origin::start(move |seen| {
        if seen.head.contains("/slow") {
            let _ = arrived.lock().expect("not poisoned").send(());
            let _ = wait.lock().expect("not poisoned").recv_timeout(PATIENCE);
        }
        Reply::Bytes(response("200 OK", "hello"))
    });
    let mut node = start(&origin, "");
    let mut slow = node.connect();
    slow.send("GET /shop/slow HTTP/1.1\r\nHost: a\r\n\r\n");
    waits.recv_timeout(PATIENCE).expect("it is under way");
    let mut kept = node.connect();
    kept.send("GET /shop/ HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(kept.answer().status, 200);
    origin.next();

    node.rewrite(&config(&origin, ", maintenance: \"the database moves\""));
    node.wait_for("RW-6003");
    // Also on a connection that has been served before, which it keeps.
    kept.send("GET /shop/ HTTP/1.1\r\nHost: a\r\n\r\n");
    let answer = kept.answer();
    assert_eq!((answer.field("retry-after"), answer.field("connection")), (Some("300"), None));
    assert_eq!(answer.field("content-type"), Some("application/problem+json"));
    assert!(answer.field("proxy-status").is_some_and(|status| status.contains("destination_unavailable")));
    assert!(!answer.text().contains("database"), "the reason is for operators: {}", answer.text());
    assert_eq!(answer.refusal(), (503, "maintenance".to_owned()));
    // Another API is served as ever: here, refused for its own reason.
    assert_eq!(get(&node, "/secret/x").refusal(), (401, "credential_missing".to_owned()));
    // What was under way is finished.
    go.send(()).expect("the origin waits");
    assert_eq!(slow.answer().text(), "hello");
    origin.next();
    assert!(origin.saw_nothing_more());
    let line = node.log(4).into_iter().find(|line| line["reason"] == "maintenance").expect("a line");
    assert_eq!(
        (&line["status"], &line["code"], &line["api"]),
        (&503.into(), &"RW-2150".into(), &"shop".into())
    );
    let page = fetch(&node, "/metrics");
    assert!(
        page.lines().any(|line| line.starts_with("ringwall_refusals_total") && line.contains("maintenance")),
        "{page}"
    );
    assert_eq!(Origin::plain().seen.try_iter().count(), 0);

    node.rewrite(&config(&origin, ""));
    node.wait_for("RW-6003");
    kept.send("GET /shop/ HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(kept.answer().status, 200);
}

#[test]
fn the_whole_node_is_in_maintenance_before_anything_is_asked() {
    let origin = Origin::plain();
    let mut node = start(&origin, "");
    let whole = |maintenance: &str| {
        let text =
            std::fs::read_to_string(node.place.path().join("ringwall.yaml")).expect("the configuration");
        text.replace("node: {", &format!("node: {{ maintenance: {maintenance},"))
    };
    let text = whole("{ reason: \"a test\", retry_after: 7s }");
    let next = node.place.write("next.yaml", &text);
    std::fs::rename(next, node.place.path().join("ringwall.yaml")).expect("renamed");
    node.wait_for("RW-6003");
    for path in ["/shop/", "/secret/x", "/secret/fixed"] {
        let answer = get(&node, path);
        assert_eq!(answer.field("retry-after"), Some("7"), "{path}");
        assert_eq!(answer.refusal(), (503, "maintenance".to_owned()), "{path}");
    }
    // What is not served at all is not in maintenance either, and the node is well.
    assert_eq!(get(&node, "/nothing").status, 404);
    assert!(fetch(&node, "/readyz").contains("ok") || !fetch(&node, "/readyz").is_empty());
    assert!(origin.saw_nothing_more());
}

#[test]
fn some_are_served_during_a_maintenance_and_all_are_when_its_time_is_up() {
    let origin = Origin::plain();
    let node = start(&origin, ", maintenance: { reason: \"a test\", except: [127.0.0.0/8, \"::1/128\"] }");
    assert_eq!(get(&node, "/shop/").status, 200);
    let node = start(&origin, ", maintenance: { reason: \"a test\", except: 192.0.2.0/24 }");
    assert_eq!(get(&node, "/shop/").status, 503);
    let node = start(&origin, ", maintenance: { reason: \"a test\", until: 2020-01-01 }");
    assert_eq!(get(&node, "/shop/").status, 200);

    // It ends by itself, and says when.
    let soon = jiff::Timestamp::now() + Duration::from_secs(3);
    let soon = jiff::Timestamp::from_second(soon.as_second()).expect("a moment");
    let node = start(&origin, &format!(", maintenance: {{ reason: \"a test\", until: \"{soon}\" }}"));
    let begun = Instant::now();
    loop {
        let answer = get(&node, "/shop/");
        if answer.status == 200 {
            break;
        }
        let left: u64 = answer.field("retry-after").and_then(|left| left.parse().ok()).expect("seconds");
        assert!((1..=3).contains(&left) && begun.elapsed() < PATIENCE, "{}", answer.head);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(jiff::Timestamp::now() >= soon);
}

#[test]
fn check_lists_what_is_in_maintenance() {
    let place = crate::node::Place::new();
    let check = |arguments: &[&str], text: &str| {
        let file = place.write("c.yaml", text);
        let mut command = Command::new(env!("CARGO_BIN_EXE_ringwall"));
        let output =
            command.arg("check").args(arguments).arg("-c").arg(file).output().expect("ringwall check");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let text = "ringwall: 1
listen: { address: \"127.0.0.1:0\", tls: none }
apis:
  shop:
    operations: { one: { match: GET /one, respond: { status: 200 } } }
    allow: { who: anyone }
    maintenance: { reason: the database moves, until: 2999-06-30T18:00Z, except: 10.0.0.0/8 }
node: { maintenance: the power goes }
";
    let (ok, out, _) = check(&[], text);
    let line = "in maintenance until 2999-06-30T18:00:00Z for all but 10.0.0.0/8 (\"the database moves\")";
    assert!(
        ok && out.contains(line) && out.contains("everything is in maintenance for all (\"the power goes\")"),
        "{out}"
    );
    let (ok, out, _) = check(&["--json"], text);
    let value: serde_json::Value = serde_json::from_str(&out).expect("JSON");
    assert!(ok && value["maintenance"]["reason"] == "the power goes", "{out}");
    assert_eq!(value["apis"][0]["maintenance"]["until"], "2999-06-30T18:00:00Z");
    // One that is over is a note, not an error: nothing fails because it has ended.
    let (ok, _, notes) = check(&[], &text.replace("2999-06-30T18:00Z", "2020-06-30"));
    assert!(ok && notes.contains("RW-1441"), "{notes}");
}
