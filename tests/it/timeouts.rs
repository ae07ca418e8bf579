//! The times that an operation grants: each ends its exchange, and says which it was.

use std::time::Duration;

use crate::node::{Node, Origin, Reply, response};

/// `first_byte` of the upstream is far away, so that what ends an exchange is the operation's.
fn start(origin: &Origin) -> Node {
    Node::start(&format!(
        "upstreams: {{ app: {{ targets: [\"http://{}\"], timeouts: {{ first_byte: 50s }} }} }}
apis:
  app:
    to: app
    timeouts: {{ stream_idle: 300ms }}
    allow: [{{ who: anyone }}]
    operations:
      silent: {{ match: GET /silent, timeouts: {{ extend: {{ first_byte: 200ms }} }} }}
      half: {{ match: GET /half, timeouts: {{ extend: {{ first_byte: 200ms, total: 500ms }} }} }}
      stalled: GET /stalled
      endless: {{ match: GET /endless, timeouts: {{ extend: {{ lifetime: 1s }} }} }}
      upload: {{ match: POST /upload, timeouts: {{ extend: {{ total: 500ms }} }} }}
      pause: POST /pause
  inherited:
    base: /inherited
    to: app
    raw: \"a test\"
    timeouts: {{ first_byte: 200ms }}
    allow: [{{ who: anyone }}]",
        origin.address
    ))
}

fn origin() -> Origin {
    Origin::start(|seen| match seen.head.split(' ').nth(1).unwrap_or_default() {
        "/half" => Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Le".to_vec()),
        "/stalled" => Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc".to_vec()),
        "/endless" => Reply::Drip {
            first: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
            then: b"1\r\nx\r\n".to_vec(),
            every: Duration::from_millis(100),
        },
        "/pause" => Reply::Bytes(response("200 OK", &seen.body.len().to_string())),
        _ => Reply::Silence,
    })
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

#[test]
fn before_the_head_of_the_answer_a_timeout_is_an_answer() {
    let origin = origin();
    let node = start(&origin);
    for (path, reason) in [
        ("/silent", "upstream_first_byte"),
        ("/inherited", "upstream_first_byte"),
        // The first byte came in time, the rest of the head did not.
        ("/half", "exchange_timeout"),
    ] {
        let answer = node.ask(&get(path));
        assert_eq!((answer.status, answer.reason().as_str()), (504, reason), "{path}");
    }
    // The upstream waits for a body that does not come: that is the client's time.
    let answer = node.ask("POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nabc");
    assert_eq!((answer.status, answer.reason().as_str()), (408, "client_body_timeout"));
}

#[test]
fn after_the_head_a_timeout_cuts_the_answer_and_is_logged() {
    let origin = origin();
    let node = start(&origin);
    for (path, reason, body) in
        [("/stalled", "upstream_stream_idle", "abc"), ("/endless", "exchange_lifetime", "1\r\nx\r\n")]
    {
        let mut client = node.connect();
        client.send(get(path));
        assert!(client.head().starts_with("HTTP/1.1 200 "), "{path}");
        let rest = client.rest();
        assert!(rest.starts_with(body.as_bytes()) && !rest.ends_with(b"0\r\n\r\n"), "{path}: {rest:?}");
        let line = node.log(1 + usize::from(path == "/endless")).pop().expect("a line");
        assert_eq!((&line["status"], &line["reason"]), (&200.into(), &reason.into()), "{path}");
    }
    let line = &node.log(2)[1];
    assert!(line["duration_us"].as_u64() >= Some(1_000_000), "{line}");
}

#[test]
fn an_upstream_is_not_blamed_for_a_client_that_pauses() {
    let origin = origin();
    let node = start(&origin);
    let mut client = node.connect();
    client.send("POST /pause HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabc");
    // Longer than `stream_idle`, which is about the answer.
    std::thread::sleep(Duration::from_millis(700));
    client.send("def");
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str()), (200, "6"));
}
