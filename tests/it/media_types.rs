//! What a body says that it is: one type of those that are listed, or 415, before anybody has seen a byte of it.

use crate::node::{Node, Origin, fetch, metric};

fn start(origin: &Origin) -> Node {
    Node::start_before(
        origin.address,
        &[("any.schema.json", "{}")],
        "apis:
  app:
    to: app
    allow: [{ who: anyone }]
    operations:
      open: POST /open
      json: { match: POST /json, body: { types: application/json } }
      form: { match: POST /form, body: { types: [multipart/form-data, application/x-www-form-urlencoded] } }
      latin: { match: POST /latin, body: { types: text/plain, charsets: [utf-8, iso-8859-1] } }
      schema: { match: POST /schema, body: { schema: any.schema.json } }
      patch: { match: PATCH /schema, body: { schema: any.schema.json, types: application/merge-patch+json } }
      watched: { match: POST /watched, body: { types: application/json, mode: observe } }",
    )
}

/// Status, and the reason of a refusal.
fn post(node: &Node, path: &str, fields: &str) -> (u16, String) {
    let method = if fields.contains("merge-patch") { "PATCH" } else { "POST" };
    let answer =
        node.ask(&format!("{method} {path} HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: 2\r\n\r\n{{}}"));
    let accept = answer.field("accept").is_some();
    let (status, said) = answer.refusal();
    assert_eq!(accept, said == "content_type_unlisted", "{}", answer.head);
    (status, said)
}

#[test]
fn a_listed_type_passes_as_it_came_and_any_other_is_415() {
    let origin = Origin::plain();
    let node = start(&origin);
    for (path, value) in [
        ("/json", "application/json"),
        ("/json", "Application/JSON;charset=\"UTF-8\""),
        ("/json", "application/json; profile=\"a;b\""),
        ("/form", "multipart/form-data; boundary=----WebKitFormBoundaryAbc123"),
        ("/form", "application/x-www-form-urlencoded"),
        ("/latin", "text/plain; charset=ISO-8859-1"),
        ("/schema", "application/vnd.api+json"),
        ("/schema", "application/merge-patch+json"),
        ("/open", "nonsense, of all kinds; a=1; a=2"),
    ] {
        assert_eq!(post(&node, path, &format!("Content-Type: {value}\r\n")).0, 200, "{path} {value}");
        let seen = origin.next();
        assert_eq!((seen.field("content-type"), seen.body.as_slice()), (Some(value), &b"{}"[..]), "{path}");
    }
    for (path, value, reason) in [
        ("/json", "text/html", "content_type_unlisted"),
        ("/json", "*/*", "content_type_unlisted"),
        ("/json", "unknown/unknown", "content_type_unlisted"),
        ("/json", "application/jsonx", "content_type_unlisted"),
        ("/json", "application/json; charset=utf-7", "content_type_charset"),
        ("/json", "application/json; charset=utf-16", "content_type_charset"),
        ("/json", "application/json; charset=ibm037", "content_type_charset"),
        ("/json", "application/json; charset=", "content_type_syntax"),
        ("/json", "application/json; charset=utf-8; charset=utf-7", "content_type_syntax"),
        ("/json", "application/json, text/html", "content_type_syntax"),
        ("/json", "json", "content_type_syntax"),
        ("/json", "", "content_type_syntax"),
        ("/json", "application/json; boundary=a", "content_type_boundary"),
        ("/schema", "application/json; charset=utf-16", "content_type_charset"),
        ("/schema", "application/json; charset=utf-8; charset=utf-16", "content_type_syntax"),
        ("/schema", "text/json", "body_content_type"),
        ("/schema", "application/merge-patch+json; boundary=a", "content_type_boundary"),
    ] {
        let answer = post(&node, path, &format!("Content-Type: {value}\r\n"));
        assert_eq!(answer, (415, reason.to_owned()), "{path} {value}");
    }
    assert!(origin.saw_nothing_more());
    let page = fetch(&node, "/metrics");
    assert!(page.contains("policy=\"content_type\""), "{page}");
}

#[test]
fn a_missing_or_repeated_type_is_415() {
    let origin = Origin::plain();
    let node = start(&origin);
    let twice = "Content-Type: application/json\r\nContent-Type: application/json\r\n";
    let mixed = "Content-Type: application/json\r\ncontent-type: text/xml\r\n";
    for (path, fields, reason) in [
        ("/json", "", "content_type_missing"),
        ("/json", twice, "content_type_duplicate"),
        ("/json", mixed, "content_type_duplicate"),
        ("/schema", "", "body_content_type"),
        // The first is JSON, and is what was judged; an upstream might read the last.
        ("/schema", mixed, "content_type_duplicate"),
        (
            "/schema",
            "Content-Type: application/json\r\nContent-Encoding: identity\r\nContent-Encoding: gzip\r\n",
            "body_content_type",
        ),
    ] {
        assert_eq!(post(&node, path, fields), (415, reason.to_owned()), "{path} {fields}");
    }
    // One that looks like it to CGI is no second type, and does not get through either.
    let (status, reason) =
        post(&node, "/json", "Content-Type: application/json\r\nContent_Type: text/xml\r\n");
    assert_eq!((status, reason.as_str()), (400, "field_ambiguous"));
    assert!(origin.saw_nothing_more());
    let lines = node.log(7);
    // Two cores write; each of them in its order.
    assert_eq!(lines.iter().filter(|line| line["status"] == 415).count(), 6, "{lines:?}");
    let twice = lines.iter().find(|line| line["reason"] == "content_type_duplicate").expect("a line");
    assert_eq!((&twice["status"], &twice["code"]), (&415.into(), &"RW-3371".into()));
}

#[test]
fn boundaries_that_servers_find_differently_are_415() {
    let origin = Origin::plain();
    let node = start(&origin);
    for (parameters, reason) in [
        ("", "content_type_boundary"),
        ("; boundary=", "content_type_syntax"),
        ("; boundary=\"\"", "content_type_boundary"),
        ("; boundary=a; boundary=b", "content_type_syntax"),
        ("; boundary=a; Boundary=b", "content_type_syntax"),
        ("; boundary*=utf-8''a", "content_type_syntax"),
        ("; boundary*0=a; boundary*1=b", "content_type_syntax"),
        ("; boundary=\"a\\b\"", "content_type_syntax"),
        ("; boundary=\"a", "content_type_syntax"),
        ("; boundary=a\"b", "content_type_syntax"),
        ("; boundary=\"a b\"", "content_type_boundary"),
        ("; boundary=\"a \"", "content_type_boundary"),
        ("; boundary=\"a;b\"", "content_type_boundary"),
        ("; boundary=a{", "content_type_syntax"),
        ("; boundary=a#", "content_type_boundary"),
        ("; boundary =a", "content_type_syntax"),
        ("; boundary=a;", "content_type_boundary"),
        ("; ; boundary=a", "content_type_boundary"),
        (", boundary=a", "content_type_syntax"),
        ("; x=\"boundary=b\"", "content_type_boundary"),
        (&format!("; boundary={}", "a".repeat(71)), "content_type_boundary"),
    ] {
        let answer = post(&node, "/form", &format!("Content-Type: multipart/form-data{parameters}\r\n"));
        assert_eq!(answer, (415, reason.to_owned()), "{parameters}");
    }
    assert!(origin.saw_nothing_more());
    let longest = format!("Content-Type: multipart/form-data; boundary=\"{}\"\r\n", "a".repeat(70));
    assert_eq!(post(&node, "/form", &longest).0, 200);
}

#[test]
fn what_has_no_body_needs_no_type_and_what_is_observed_is_not_refused() {
    let origin = Origin::plain();
    let node = start(&origin);
    assert_eq!(node.ask("POST /json HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n").status, 200);
    // Nobody knows yet that nothing will come.
    let chunked = node.ask("POST /json HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n");
    assert_eq!(chunked.refusal(), (415, "content_type_missing".to_owned()));
    assert_eq!(post(&node, "/watched", "Content-Type: text/html\r\n").0, 200);
    // A client that waits to be invited is told no, and keeps its body.
    let mut waiting = node.connect();
    waiting.send("POST /json HTTP/1.1\r\nHost: a\r\nContent-Type: text/html\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n");
    assert_eq!(waiting.answer().refusal(), (415, "content_type_unlisted".to_owned()));
}

#[test]
fn a_schema_of_a_whole_api_asks_nothing_of_methods_that_bring_no_body() {
    let origin = Origin::plain();
    let node = Node::start_before(
        origin.address,
        &[("any.schema.json", r#"{ "type": "object", "required": ["a"] }"#)],
        "apis:
  app: { to: app, raw: \"a test\", body: { schema: any.schema.json }, allow: [{ who: anyone }] }",
    );
    for method in ["GET", "DELETE", "OPTIONS"] {
        assert_eq!(node.ask(&format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n")).status, 200, "{method}");
        origin.next();
    }
    // What is there is judged, and where one is wanted none is not enough.
    for (request, expected) in [
        (
            "DELETE / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
            (422, "body_schema"),
        ),
        (
            "DELETE / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
            (415, "body_content_type"),
        ),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", (415, "body_content_type")),
        (
            "POST / HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n",
            (400, "body_json"),
        ),
        ("PUT / HTTP/1.1\r\nHost: a\r\n\r\n", (415, "body_content_type")),
    ] {
        assert_eq!(node.ask(request).refusal(), (expected.0, expected.1.to_owned()), "{request}");
    }
    assert!(origin.saw_nothing_more());
}

#[test]
fn what_only_observes_holds_no_more_than_a_mebibyte_and_says_that_it_does_not_know() {
    let origin = Origin::plain();
    let node = Node::start_before(
        origin.address,
        &[("any.schema.json", r#"{ "type": "object" }"#)],
        "apis:
  app:
    to: app
    raw: \"a test\"
    sizes: { body: 16MiB }
    body: { schema: any.schema.json, mode: observe }
    allow: [{ who: anyone }]",
    );
    let counted = |result: &str| {
        let labels = ["policy=\"body\"", "mode=\"observe\"", &format!("\"{result}\"")];
        metric(&node, "ringwall_policy_decisions_total", &labels)
    };
    let body: Vec<u8> = (0..3u32 << 20).map(|at| (at % 251) as u8).collect();
    let mut client = node.connect();
    client.send(format!("POST /length HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len()));
    client.send(&body);
    assert_eq!(client.answer().status, 200);
    let seen = origin.next();
    assert!(seen.body == body && seen.field("transfer-encoding").is_none());
    client.send("POST /chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    for piece in body.chunks(70_001) {
        client.send(format!("{:x}\r\n", piece.len()));
        client.send(piece);
        client.send("\r\n");
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.answer().status, 200);
    let seen = origin.next();
    assert!(seen.body == body && seen.field("content-length").is_none());
    assert_eq!((counted("unknown"), counted("refused")), (2.0, 0.0));
    // A short one is judged, passes all the same, and the connection goes on.
    client.send(
        "POST /short HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n[]",
    );
    assert_eq!(client.answer().status, 200);
    assert_eq!(origin.next().body, b"[]");
    assert_eq!((counted("unknown"), counted("refused")), (2.0, 1.0));
}
