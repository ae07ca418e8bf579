//! What a client and an origin see of one another through Ringwall, over real sockets.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use crate::node::{Node, Origin, Reply, fetch, response};

fn open(origin: &Origin) -> Node {
    Node::start(&raw(origin, ""))
}

fn raw(origin: &Origin, more: &str) -> String {
    format!(
        "upstreams: {{ app: {{ targets: [\"http://{}\"], timeouts: {{ first_byte: 500ms, connect: 500ms }} }} }}\n\
         apis: {{ app: {{ to: app, raw: \"a test\", allow: [{{ who: anyone }}]{more} }} }}",
        origin.address
    )
}

#[test]
fn a_request_and_its_response_go_through_and_are_logged() {
    let origin = Origin::plain();
    let node = open(&origin);
    let answer = node.ask("GET /a/b?c=d HTTP/1.1\r\nHost: example.com\r\nX-Mine: yes\r\n\r\n");
    assert_eq!((answer.status, answer.text().as_str()), (200, "hello"));
    let seen = origin.next();
    assert!(seen.head.starts_with("GET /a/b?c=d HTTP/1.1\r\n"), "{}", seen.head);
    assert_eq!(seen.field("host"), Some("example.com"));
    assert_eq!(seen.field("x-mine"), Some("yes"));
    assert_eq!(seen.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(seen.field("x-forwarded-proto"), Some("http"));
    let line = &node.log(1)[0];
    assert_eq!(line["status"], 200);
    assert_eq!(line["path"], "/a/b?c=d");
    assert_eq!(line["request_id"], seen.field("x-request-id").expect("an id"));
}

#[test]
fn hop_by_hop_forwarding_and_identity_fields_of_a_client_end_here() {
    let origin = Origin::plain();
    let node = open(&origin);
    let answer = node.ask(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n\
         X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-Ringwall-Subject: root\r\n\
         X_Ringwall_Subject: root\r\nX-User-Id: root\r\nRemote-User: root\r\nX-Request-Id: mine\r\n\r\n",
    );
    assert_eq!(answer.status, 200);
    let seen = origin.next();
    for gone in [
        "x-hop",
        "keep-alive",
        "te",
        "forwarded",
        "x-real-ip",
        "x-ringwall-subject",
        "x_ringwall_subject",
        "x-user-id",
        "remote-user",
    ] {
        assert_eq!(seen.field(gone), None, "{gone} in {}", seen.head);
    }
    assert_eq!(seen.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_ne!(seen.field("x-request-id"), Some("mine"));
}

#[test]
fn bodies_go_both_ways_in_both_framings() {
    let origin = Origin::start(|seen| {
        if seen.head.contains("/chunked") {
            Reply::Bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n".to_vec())
        } else {
            Reply::Bytes(response("200 OK", &seen.body.len().to_string()))
        }
    });
    let node = open(&origin);
    let length = node.ask("POST /l HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabcde");
    assert_eq!(length.text(), "5");
    assert_eq!(origin.next().body, b"abcde");
    let chunked = node.ask("POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x=1\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
    assert_eq!(chunked.text(), "5");
    let seen = origin.next();
    assert_eq!(seen.body, b"abcde");
    assert!(!seen.head.contains("x=1"));
    let answer = node.ask("GET /chunked HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(answer.text(), "hello world");
    assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
}

#[test]
fn a_large_body_streams_both_ways() {
    const SIZE: usize = 3 << 20;
    let origin = Origin::start(|seen| {
        assert!(seen.body.iter().enumerate().all(|(at, &byte)| byte == (at % 251) as u8));
        Reply::Bytes(response("200 OK", &"x".repeat(SIZE)))
    });
    // Time enough for an origin that reads and checks all of it on a busy machine.
    let node = Node::start(&raw(&origin, ", sizes: { body: 8MiB }").replace("500ms", "15s"));
    let mut client = node.connect();
    client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"));
    let body: Vec<u8> = (0..SIZE).map(|at| (at % 251) as u8).collect();
    client.send(&body);
    let answer = client.answer();
    assert_eq!((answer.status, answer.body.len()), (200, SIZE));
    assert_eq!(origin.next().body.len(), SIZE);
}

#[test]
fn responses_without_a_body_end_with_their_head() {
    let origin = Origin::start(|seen| {
        Reply::Bytes(match seen.head.split(' ').nth(1) {
            Some("/204") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            Some("/304") => b"HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n".to_vec(),
            _ => b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n".to_vec(),
        })
    });
    let node = open(&origin);
    let mut client = node.connect();
    client.send("HEAD /h HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.answer_to("HEAD");
    assert_eq!((head.status, head.field("content-length")), (200, Some("7")));
    client.send("GET /204 HTTP/1.1\r\nHost: a\r\n\r\n");
    let none = client.answer();
    assert_eq!((none.status, none.field("content-length")), (204, None));
    client.send("GET /304 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().status, 304);
    client.send("HEAD /h HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer_to("HEAD").status, 200);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let origin = Origin::start(|seen| {
        let path = seen.head.split(' ').nth(1).unwrap_or_default().to_owned();
        Reply::Bytes(response("200 OK", &path))
    });
    let node = open(&origin);
    let mut client = node.connect();
    client.send("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nPOST /2 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabcGET /3 HTTP/1.1\r\nHost: a\r\n\r\n");
    for expected in ["/1", "/2", "/3"] {
        assert_eq!(client.answer().text(), expected);
    }
    // What stands behind a refused request is never read as one.
    client.send("GET /a//b HTTP/1.1\r\nHost: a\r\n\r\nGET /4 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().status, 400);
    assert!(client.is_closed());
}

#[test]
fn a_client_that_expects_100_gets_it_only_if_its_body_is_wanted() {
    let origin = Origin::plain();
    let node = Node::start(&raw(&origin, ", sizes: { body: 10B }"));
    let mut client = node.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 100 "));
    client.send("body");
    assert_eq!(client.answer().status, 200);
    let seen = origin.next();
    assert_eq!((seen.field("expect"), seen.body.as_slice()), (None, &b"body"[..]));
    client.send("POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n");
    assert_eq!(client.answer().status, 413);
    assert!(origin.saw_nothing_more());
}

#[test]
fn a_body_is_cut_at_its_bound_whatever_its_framing() {
    let origin = Origin::plain();
    let node = Node::start(&raw(&origin, ", sizes: { body: 10B }"));
    let exact = node
        .ask("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n");
    assert_eq!(exact.status, 200);
    origin.next();
    let more = node
        .ask("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n0123456789x\r\n0\r\n\r\n");
    assert_eq!((more.status, more.reason().as_str()), (413, "body_size"));
    let told = node.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 11\r\n\r\n0123456789x");
    assert_eq!(told.status, 413);
    assert!(origin.saw_nothing_more());
}

#[test]
fn old_clients_get_what_they_understand() {
    let origin = Origin::start(|_| {
        Reply::Bytes(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n".to_vec())
    });
    let node = open(&origin);
    let mut client = node.connect();
    client.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    let answer = client.answer();
    assert_eq!((answer.text().as_str(), answer.field("transfer-encoding")), ("hi", None));
    assert!(client.is_closed());
}

#[test]
fn a_response_that_lasts_until_the_close_is_framed_anew() {
    let origin =
        Origin::start(|_| Reply::Last(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nto the end".to_vec()));
    let node = open(&origin);
    let mut client = node.connect();
    for _ in 0..2 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let answer = client.answer();
        assert_eq!(
            (answer.text().as_str(), answer.field("transfer-encoding")),
            ("to the end", Some("chunked"))
        );
    }
}

#[test]
fn a_response_that_is_cut_short_is_visibly_cut() {
    let origin =
        Origin::start(|_| Reply::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort".to_vec()));
    let node = open(&origin);
    let mut client = node.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let head = client.head();
    assert!(head.contains("Content-Length: 100"), "{head}");
    let log = node.log(1);
    assert_eq!(log[0]["reason"], "response_body_truncated", "{log:?}");
}

#[test]
fn an_answer_that_only_the_close_ends_is_cut_by_a_reset() {
    let origin = Origin::start(|seen| {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n".to_vec();
        match seen.head.split(' ').nth(1) {
            Some("/whole") => Reply::Bytes([head, b"0\r\n\r\n".to_vec()].concat()),
            Some("/endless") => Reply::Drip {
                first: head,
                then: [b"ffff\r\n".to_vec(), vec![b'x'; 0xffff], b"\r\n".to_vec()].concat(),
                every: Duration::ZERO,
            },
            _ => Reply::Last(head),
        }
    });
    let node = Node::start(&raw(&origin, ", timeouts: { stream_idle: 300ms }"));
    let all = |path: &str, pause: &dyn Fn()| {
        let mut client = node.connect();
        // A client that knows no chunks.
        client.send(format!("GET {path} HTTP/1.0\r\nHost: a\r\n\r\n"));
        pause();
        let mut bytes = Vec::new();
        let result = client.into_stream().read_to_end(&mut bytes);
        (result.map_err(|error| error.kind()), bytes)
    };
    let (result, bytes) = all("/whole", &|| ());
    assert!(result.is_ok() && bytes.ends_with(b"\r\n\r\nhello"), "{result:?}");
    let (result, _) = all("/cut", &|| ());
    assert_eq!(result, Err(ErrorKind::ConnectionReset), "a close would say that this is all");
    // A client that does not read is cut the same way, from our side.
    let (result, _) = all("/endless", &|| {
        let log = node.log(3);
        assert_eq!(log[2]["reason"], "client_read_timeout", "{log:?}");
    });
    assert_eq!(result, Err(ErrorKind::ConnectionReset));
}

#[test]
fn an_answer_that_only_the_close_ends_is_whole_once_its_end_has_left() {
    const PIECE: usize = 8 << 10;
    let piece = || [format!("{PIECE:x}\r\n").into_bytes(), vec![b'x'; PIECE], b"\r\n".to_vec()].concat();
    let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    // Sends so many pieces, slowly enough for each to be passed on by itself, and the end with the last one.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]);
            let count: usize = request.split(['/', ' ']).find_map(|part| part.parse().ok()).unwrap_or(0);
            let _ = stream.write_all(&head);
            for left in (0..count).rev() {
                let end: &[u8] = if left == 0 { b"0\r\n\r\n" } else { b"" };
                if stream.write_all(&[&piece(), end].concat()).is_err() {
                    break;
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    });
    let ask = |count: usize| {
        let node = Node::start(&format!(
            "upstreams: {{ app: \"http://{address}\" }}
apis: {{ app: {{ to: app, raw: \"a test\", allow: [{{ who: anyone }}], timeouts: {{ stream_idle: 300ms }} }} }}"
        ));
        let mut client = node.connect();
        client.send(format!("GET /{count} HTTP/1.0\r\nHost: a\r\n\r\n"));
        // Nothing is read before the exchange is over, and the node with it.
        let line = node.log(1).remove(0);
        node.signal("KILL");
        let mut bytes = Vec::new();
        let result = client.into_stream().read_to_end(&mut bytes);
        let body = bytes.iter().rev().take_while(|byte| **byte == b'x').count();
        (line, result.map(|_| body).map_err(|error| error.kind()))
    };
    // Up to the last piece that the kernel takes for a client that does not read, and the first one that it does not.
    let (mut whole, mut cut) = (1_usize, 4_096_usize);
    while cut - whole > 1 {
        let count = whole.midpoint(cut);
        match ask(count) {
            (_, Ok(body)) => {
                assert_eq!(body, count * PIECE, "a close says that this is all");
                whole = count;
            }
            (line, Err(kind)) => {
                assert_eq!(kind, ErrorKind::ConnectionReset);
                assert_eq!(line["reason"], "client_read_timeout", "{line}");
                cut = count;
            }
        }
    }
    assert!(whole > 1 && cut < 4_096, "{whole} pieces");
}

#[test]
fn a_client_that_has_finished_sending_gets_all_its_answers() {
    const COUNTER: &str = "ringwall_http_requests_total{api=\"app\",operation=\"fixed\"";
    let origin = Origin::plain();
    let body = "x".repeat(8000);
    let node = Node::start(&format!(
        "upstreams: {{ app: \"http://{}\" }}
apis:
  app:
    to: app
    allow: [{{ who: anyone }}]
    operations:
      fixed: {{ match: GET /, respond: {{ status: 200, body: \"{body}\" }} }}",
        origin.address
    ));
    let answered = || -> usize {
        let page = fetch(&node, "/metrics");
        let line = page.lines().find(|line| line.starts_with(COUNTER));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
    };
    // Asks so many times and reads nothing until no more are answered; gives how many were.
    let ask = |count: usize| {
        let start = answered();
        let mut client = node.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(count));
        client.end_sending();
        let mut before = 0;
        while before == 0 || before != answered() - start {
            before = answered() - start;
            std::thread::sleep(Duration::from_millis(100));
        }
        (client, before)
    };
    // As many as the kernel takes for a client that does not read, and the one that it does not take whole.
    let (_, most) = ask(3000);
    assert!((10..300).contains(&most), "{most}");
    for count in [most - 1, most, most + 1, most + 2] {
        let (mut client, _) = ask(count);
        for answer in 1..=count {
            assert_eq!(client.answer().text().len(), body.len(), "{answer} of {count}");
        }
        assert!(client.is_closed());
    }
}

#[test]
fn kept_connections_are_used_again_and_dead_ones_are_noticed() {
    let origin = Origin::start(|seen| match seen.head.contains("/last") {
        // Says that it stays and does not: what a restart of an origin looks like.
        true => Reply::Last(response("200 OK", "bye")),
        false => Reply::Bytes(response("200 OK", "hello")),
    });
    let config = raw(&origin, "");
    let node = Node::start(&config);
    let mut client = node.connect();
    let ask = |client: &mut crate::node::Client, path: &str| {
        client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        client.answer().status
    };
    assert_eq!(ask(&mut client, "/1"), 200);
    assert_eq!(ask(&mut client, "/2"), 200);
    let (one, two) = (origin.next(), origin.next());
    assert_eq!(one.connection, two.connection);
    for _ in 0..20 {
        assert_eq!(ask(&mut client, "/last"), 200);
        assert_eq!(ask(&mut client, "/3"), 200);
    }
}

#[test]
fn upstream_failures_have_their_own_reasons() {
    let silent = Origin::start(|_| Reply::Silence);
    let node = open(&silent);
    let late = node.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((late.status, late.reason().as_str()), (504, "upstream_first_byte"));
    let closing = Origin::start(|_| Reply::Last(Vec::new()));
    let node = open(&closing);
    let closed = node.ask("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
    assert_eq!(closed.status, 502, "{}", closed.text());
    let broken = Origin::start(|_| {
        Reply::Last(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx".to_vec())
    });
    let node = open(&broken);
    let refused = node.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(refused.status, 502, "{}", refused.text());
    assert!(refused.field("proxy-status").is_some_and(|status| status.starts_with("ringwall; error=")));
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound")
    };
    let node = Node::start(&format!(
        "upstreams: {{ app: \"http://{nobody}\" }}\napis: {{ app: {{ to: app, raw: \"a test\", allow: [{{ who: anyone }}] }} }}"
    ));
    let unreachable = node.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((unreachable.status, unreachable.reason().as_str()), (502, "upstream_refused"));
}

#[test]
fn an_early_response_is_passed_on_and_ends_the_connection() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        for mut stream in listener.incoming().flatten() {
            // Answers after the head, whatever may follow.
            let mut head = [0; 1024];
            let _ = stream.read(&mut head);
            let _ = stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno");
            let _ = stream.read(&mut head);
        }
    });
    let node = Node::start(&format!(
        "upstreams: {{ app: \"http://{address}\" }}\napis: {{ app: {{ to: app, raw: \"a test\", allow: [{{ who: anyone }}] }} }}"
    ));
    let mut client = node.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nonly the beginning");
    let answer = client.answer();
    assert_eq!(
        (answer.status, answer.text().as_str(), answer.field("connection")),
        (401, "no", Some("close"))
    );
}

#[test]
fn a_client_that_has_finished_sending_still_gets_its_answer() {
    let origin = Origin::plain();
    let node = open(&origin);
    let mut client = node.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.end_sending();
    assert_eq!(client.answer().text(), "hello");
}

#[test]
fn interim_responses_reach_the_clients_that_know_them() {
    let origin = Origin::start(|_| {
        Reply::Bytes(
            b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec(),
        )
    });
    let node = open(&origin);
    let mut client = node.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().status, 103);
    assert_eq!(client.answer().text(), "ok");
    let mut old = node.connect();
    old.send("GET / HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(old.answer().text(), "ok");
}

#[test]
fn what_a_response_may_not_tell_its_interim_ones_do_not_tell_either() {
    let origin = Origin::start(|_| {
        let fields = "Link: </a.css>\r\nServer: Origin/1.0\r\nX-Powered-By: it\r\nX-Inside: 10.0.0.7\r\n\
             X-Set: theirs\r\nConnection: x-hop\r\nX-Hop: 1\r\n";
        let text = format!(
            "HTTP/1.1 103 Early Hints\r\n{fields}\r\nHTTP/1.1 200 OK\r\n{fields}Content-Length: 2\r\n\r\nok"
        );
        Reply::Bytes(text.into_bytes())
    });
    let edits = ", headers: { response: { remove: [X-Inside], set: { X-Set: ours } } }";
    let node = Node::start(&raw(&origin, edits));
    let mut client = node.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.head(), "HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n");
    let last = client.answer();
    assert_eq!(
        (last.field("x-set"), last.field("x-inside"), last.field("server")),
        (Some("ours"), None, None)
    );
}

#[test]
fn routes_methods_hosts_and_closed_corners() {
    let origin =
        Origin::start(|seen| Reply::Bytes(response("200 OK", seen.head.lines().next().unwrap_or_default())));
    let node = Node::start(&format!(
        "upstreams: {{ app: \"http://{}\" }}
apis:
  orders:
    base: /v1
    to: {{ upstream: app, path: /api }}
    host: [api.example.com]
    operations:
      list: GET /orders
      get: GET /orders/{{id}}
      old: {{ match: GET /old, redirect: \"https://example.com/new\" }}
      gone: {{ match: GET /gone, respond: {{ status: 503, body: later }} }}
    allow: [{{ who: anyone }}]
  private: {{ base: /v1/private, host: [api.example.com], closed: true }}",
        origin.address
    ));
    let ask = |line: &str| node.ask(&format!("{line} HTTP/1.1\r\nHost: api.example.com\r\n\r\n"));
    assert_eq!(ask("GET /v1/orders/7").text(), "GET /api/orders/7 HTTP/1.1");
    assert_eq!(ask("GET /v1/orders").status, 200);
    assert_eq!(ask("GET /v1/nothing").status, 404);
    let method = ask("DELETE /v1/orders/7");
    assert_eq!((method.status, method.field("allow")), (405, Some("GET, HEAD, OPTIONS")));
    let old = ask("GET /v1/old");
    assert_eq!(old.field("location"), Some("https://example.com/new"), "{}", old.head);
    let gone = ask("GET /v1/gone");
    assert_eq!((gone.status, gone.text().as_str()), (503, "later"));
    let closed = ask("GET /v1/private/x");
    assert_eq!(closed.status, 403, "{}", closed.text());
    assert_eq!(node.ask("GET /v1/orders HTTP/1.1\r\nHost: other.example.com\r\n\r\n").status, 421);
}

#[test]
fn header_edits_and_security_fields() {
    let origin = Origin::start(|_| {
        Reply::Bytes(b"HTTP/1.1 200 OK\r\nServer: secret/1.0\r\nX-Content-Type-Options: mine\r\nX-Drop: 1\r\nContent-Length: 0\r\n\r\n".to_vec())
    });
    let node = Node::start(&raw(
        &origin,
        ", headers: { request: { set: { X-Env: prod }, remove: [X-Debug] }, response: { set: { X-By: edge }, remove: [X-Drop] } }",
    ));
    let answer = node.ask("GET / HTTP/1.1\r\nHost: a\r\nX-Env: dev\r\nX-Debug: 1\r\n\r\n");
    let seen = origin.next();
    assert_eq!((seen.field("x-env"), seen.field("x-debug")), (Some("prod"), None));
    assert_eq!(
        (answer.field("x-by"), answer.field("x-drop"), answer.field("server")),
        (Some("edge"), None, None)
    );
    assert_eq!(answer.field("x-content-type-options"), Some("mine"));
    assert!(answer.field("content-security-policy").is_some());
    assert_eq!(answer.field("strict-transport-security"), None);
}
