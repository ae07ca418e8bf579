//! Methods: what is not listed is 405, HEAD and OPTIONS follow from what is, and nothing but the method is the method.

use crate::node::{Answer, Node, Origin, Reply, response};

fn echo() -> Origin {
    Origin::start(|seen| Reply::Bytes(response("200 OK", seen.head.lines().next().unwrap_or_default())))
}

fn start(origin: &Origin) -> Node {
    Node::start(&format!(
        "upstreams: {{ app: \"http://{}\" }}
apis:
  orders:
    base: /v1
    to: app
    operations:
      list: GET /orders
      create: POST /orders
      get: GET /orders/{{id}}
      ask: OPTIONS /asked
      asked: GET /asked
      put: PUT /only
    allow: [{{ who: anyone }}]
  page: {{ base: /page, to: app, raw: \"a test\", methods: [GET, POST], allow: [{{ who: anyone }}] }}
  any: {{ base: /any, to: app, raw: \"a test\", allow: [{{ who: anyone }}] }}
  closed: {{ base: /closed, closed: true }}",
        origin.address
    ))
}

fn ask(node: &Node, line: &str) -> Answer {
    let mut client = node.connect();
    client.send(format!("{line} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
    client.answer_to(line.split(' ').next().unwrap_or_default())
}

#[test]
fn what_is_not_listed_is_405_with_what_is() {
    let origin = echo();
    let node = start(&origin);
    for (line, allow) in [
        ("PUT /v1/orders", "GET, HEAD, POST, OPTIONS"),
        ("DELETE /v1/orders/7", "GET, HEAD, OPTIONS"),
        ("PROPFIND /v1/orders", "GET, HEAD, POST, OPTIONS"),
        ("BREW /v1/orders", "GET, HEAD, POST, OPTIONS"),
        // HEAD follows from GET, and from nothing else.
        ("HEAD /v1/only", "PUT, OPTIONS"),
        ("GET /v1/only", "PUT, OPTIONS"),
        ("DELETE /page/x", "GET, HEAD, POST, OPTIONS"),
        ("BREW /page/x", "GET, HEAD, POST, OPTIONS"),
    ] {
        let answer = ask(&node, line);
        assert_eq!((answer.status, answer.field("allow")), (405, Some(allow)), "{line}: {}", answer.head);
        if !line.starts_with("HEAD") {
            assert_eq!(answer.reason(), "method_unknown", "{line}");
        }
    }
    assert_eq!(ask(&node, "BREW /v1/nothing").status, 404);
    assert_eq!(ask(&node, "BREW /closed/x").status, 403);
    assert!(origin.saw_nothing_more());
    // Where nothing is listed everything passes, by name.
    assert_eq!(ask(&node, "BREW /any/x").text(), "BREW /any/x HTTP/1.1");
}

#[test]
fn head_follows_from_get() {
    let origin = echo();
    let node = start(&origin);
    for path in ["/v1/orders", "/v1/orders/7", "/page/x"] {
        let answer = ask(&node, &format!("HEAD {path}"));
        assert_eq!(answer.status, 200, "{path}: {}", answer.head);
        assert!(origin.next().head.starts_with(&format!("HEAD {path} ")));
    }
}

#[test]
fn options_follows_from_what_is_listed_and_is_forwarded_where_it_is_listed() {
    let origin = echo();
    let node = start(&origin);
    for (path, allow) in [("/v1/orders", "GET, HEAD, POST, OPTIONS"), ("/page/x", "GET, HEAD, POST, OPTIONS")]
    {
        let answer = ask(&node, &format!("OPTIONS {path}"));
        assert_eq!((answer.status, answer.field("allow")), (204, Some(allow)), "{path}: {}", answer.head);
        assert_eq!((answer.field("content-length"), answer.field("connection")), (None, None));
        assert_eq!(answer.field("x-content-type-options"), Some("nosniff"));
    }
    assert!(origin.saw_nothing_more());
    assert_eq!(ask(&node, "OPTIONS /v1/asked").text(), "OPTIONS /v1/asked HTTP/1.1");
    assert_eq!(ask(&node, "OPTIONS /any/x").text(), "OPTIONS /any/x HTTP/1.1");
    assert_eq!(ask(&node, "OPTIONS /v1/nothing").status, 404);
    assert_eq!(ask(&node, "OPTIONS /closed/x").status, 403);
    // The connection goes on behind an answer without a body.
    let mut client = node.connect();
    client.send("OPTIONS /v1/orders HTTP/1.1\r\nHost: a\r\n\r\nGET /v1/orders HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((client.answer().status, client.answer().status), (204, 200));
    let log = node.log(6);
    assert!(log.iter().any(|line| line["status"] == 204 && line["reason"].is_null()), "{log:?}");
}

#[test]
fn trace_and_connect_are_refused_and_a_wrong_case_is_no_method() {
    let origin = echo();
    let node = start(&origin);
    for (line, reason) in [
        ("TRACE /any/x", "method_refused"),
        ("CONNECT a:443", "method_refused"),
        ("trace /any/x", "method_case"),
        ("get /any/x", "method_case"),
    ] {
        let mut client = node.connect();
        client.send(format!("{line} HTTP/1.1\r\nHost: a\r\n\r\nGET /any/behind HTTP/1.1\r\nHost: a\r\n\r\n"));
        let answer = client.answer();
        assert_eq!((answer.status, answer.reason().as_str()), (400, reason), "{line}");
        // Nobody knows what is behind it.
        assert!(client.rest().is_empty(), "{line}");
    }
    assert!(origin.saw_nothing_more());
}

#[test]
fn fields_that_say_another_method_change_nothing_and_reach_nobody() {
    let origin = echo();
    let node = start(&origin);
    for field in [
        "X-HTTP-Method-Override",
        "x-http-method-override",
        "X_HTTP_Method_Override",
        "X-HTTP-Method",
        "X-Method-Override",
        "X.Method.Override",
    ] {
        let mut client = node.connect();
        client.send(format!("GET /v1/orders HTTP/1.1\r\nHost: a\r\n{field}: DELETE\r\nX-Kept: yes\r\n\r\n"));
        assert_eq!(client.answer().text(), "GET /v1/orders HTTP/1.1", "{field}");
        let seen = origin.next();
        assert!(!seen.head.to_ascii_lowercase().contains("delete"), "{field} in {}", seen.head);
        assert_eq!(seen.field("x-kept"), Some("yes"));
        // And it opens nothing that is closed.
        let mut client = node.connect();
        client.send(format!(
            "DELETE /v1/orders HTTP/1.1\r\nHost: a\r\n{field}: GET\r\nContent-Length: 0\r\n\r\n"
        ));
        assert_eq!(client.answer().status, 405, "{field}");
    }
    assert!(origin.saw_nothing_more());
}
