//! What of a message passes, how much of it, and what is added: fields of one hop, twins, bounds, security fields.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};

use crate::node::{Answer, Client, Node, Origin, PATIENCE, Place, Reply, response};

fn start(origin: &Origin, keys: &str) -> Node {
    let api = format!("apis: {{ app: {{ to: app, raw: \"a test\", allow: [{{ who: anyone }}]{keys} }} }}");
    Node::start_before(origin.address, &[], &api)
}

/// An origin whose answers have these lines.
fn saying(lines: &'static str) -> Origin {
    Origin::start(move |_| {
        Reply::Bytes(format!("HTTP/1.1 200 OK\r\n{lines}Content-Length: 2\r\n\r\nok").into_bytes())
    })
}

#[test]
fn fields_of_one_hop_and_those_that_connection_names_end_here_in_both_directions() {
    let origin = saying(
        "Connection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: Basic\r\n\
         Proxy-Connection: keep-alive\r\nUpgrade: h2c\r\nTE: trailers\r\nX-End: 1\r\n",
    );
    let node = start(&origin, "");
    let answer = node.ask(
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: X-Mine, keep-alive\r\nx-mine: 1\r\nX-MINE: 2\r\nProxy-Authorization: x\r\n\
         Proxy-Connection: close\r\nTE: trailers\r\nKeep-Alive: 1\r\nX-End: 1\r\n\r\n",
    );
    assert_eq!((answer.status, answer.text().as_str()), (200, "ok"));
    let seen = origin.next();
    for name in ["x-mine", "proxy-authorization", "proxy-connection", "te", "keep-alive", "connection"] {
        assert_eq!(seen.field(name), None, "{name} in {}", seen.head);
    }
    for name in
        ["x-hop", "keep-alive", "proxy-authenticate", "proxy-connection", "upgrade", "te", "connection"]
    {
        assert_eq!(answer.field(name), None, "{name} in {}", answer.head);
    }
    assert_eq!((seen.field("x-end"), answer.field("x-end")), (Some("1"), Some("1")));
}

#[test]
fn of_two_names_that_one_server_takes_for_the_same_not_both_pass() {
    let origin = Origin::plain();
    let node = start(&origin, "");
    let ask = |fields: &str| node.ask(&format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n"));
    // Identity: neither of them passes.
    assert_eq!(ask("X-User: a\r\nX_User: b\r\nX-End: 1\r\n").status, 200);
    let seen = origin.next();
    assert_eq!((seen.field("x-user"), seen.field("x_user"), seen.field("x-end")), (None, None, Some("1")));
    for fields in ["X-Tenant: a\r\nX_Tenant: b\r\n", "X_Tenant: a\r\nX.Tenant: b\r\n"] {
        assert_eq!(ask(fields).refusal(), (400, "field_ambiguous".to_owned()), "{fields}");
    }
    for fields in ["Content_Length: 5\r\n", "Transfer_Encoding: chunked\r\n", "X_Forwarded_For: 6.6.6.6\r\n"]
    {
        assert_eq!(ask(fields).refusal(), (400, "field_twin".to_owned()), "{fields}");
    }
    assert!(origin.saw_nothing_more());
    // Alone it is a name like any other.
    assert_eq!(ask("X_Tenant: a\r\n").status, 200);
    assert_eq!(origin.next().field("x_tenant"), Some("a"));
}

/// Bounds that are narrower, wider and by an operation's own word, in one configuration.
const BOUNDS: &str = "
apis:
  narrow:
    base: /narrow
    to: app
    sizes: { target: 64B, head: 512B, fields: 6 }
    allow: [{ who: anyone }]
    operations:
      get: GET /x/{a}
      wide: { match: \"GET /wide/{a}\", sizes: { extend: { target: 9000B, head: 40000B, fields: 110 } } }
  usual: { base: /usual, to: app, raw: \"a test\", allow: [{ who: anyone }] }";

#[test]
fn the_bounds_of_a_head_are_those_of_its_operation_to_the_byte() {
    let origin = Origin::plain();
    let node = Node::start_before(origin.address, &[], BOUNDS);
    let ask = |path: &str, target: usize, head: usize, fields: usize| {
        let path = format!("{path}{}", "a".repeat(target - path.len()));
        let mut text = format!("GET {path} HTTP/1.1\r\nHost: a\r\n");
        for field in 1..fields {
            text.push_str(&format!("X-{field}: 1\r\n"));
        }
        let padding = head.checked_sub(text.len() + "\r\n".len()).expect("a head that fits");
        // What is left goes into the value of the last field.
        text.truncate(text.len() - 2);
        text.push_str(&"1".repeat(padding));
        text.push_str("\r\n\r\n");
        assert_eq!(text.len(), head);
        node.ask(&text).refusal()
    };
    let refused = |status: u16, reason: &str| (status, reason.to_owned());
    let ok = refused(200, "hello");
    for (path, target, head, fields) in
        [("/narrow/x/", 64, 512, 6), ("/narrow/wide/", 9000, 40000, 110), ("/usual/", 8192, 32768, 100)]
    {
        assert_eq!(ask(path, target, head, 2), ok, "{path}");
        assert_eq!(ask(path, 20, head, fields), ok, "{path}");
        assert_eq!(ask(path, target + 1, head, 2), refused(414, "target_size"), "{path}");
        assert_eq!(ask(path, 20, head + 1, 2), refused(431, "head_size"), "{path}");
        assert_eq!(ask(path, 20, head, fields + 1), refused(431, "field_count"), "{path}");
    }
    for _ in 0..6 {
        origin.next();
    }
    assert!(origin.saw_nothing_more());
}

/// An origin that tells what it gets, piece by piece, and how that ended.
struct Ear {
    address: std::net::SocketAddr,
    heard: Receiver<Heard>,
}

#[derive(Debug, PartialEq)]
enum Heard {
    Bytes(Vec<u8>),
    End,
    Reset,
}

impl Ear {
    fn start() -> Ear {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let (sender, heard) = channel();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                loop {
                    let mut buffer = vec![0; 64 * 1024];
                    let heard = match stream.read(&mut buffer) {
                        Ok(0) => Heard::End,
                        Ok(count) => Heard::Bytes(buffer[..count].to_vec()),
                        Err(error) if error.kind() == ErrorKind::ConnectionReset => Heard::Reset,
                        Err(error) => panic!("{error}"),
                    };
                    let over = !matches!(heard, Heard::Bytes(_));
                    if sender.send(heard).is_err() || over {
                        break;
                    }
                }
            }
        });
        Ear { address, heard }
    }

    fn until(&self, what: &str) -> String {
        let mut all = String::new();
        while !all.contains(what) {
            match self.heard.recv_timeout(PATIENCE).expect("the origin hears something") {
                Heard::Bytes(bytes) => all.push_str(&String::from_utf8(bytes).expect("text")),
                ended => panic!("{ended:?} after {all:?}"),
            }
        }
        all
    }
}

#[test]
fn a_body_past_its_bound_is_stopped_at_the_byte_and_its_upload_reset() {
    let ear = Ear::start();
    let node = Node::start_before(
        ear.address,
        &[("any.schema.json", "{}")],
        "apis:
  app:
    to: app
    sizes: { body: 1000B }
    allow: [{ who: anyone }]
    operations:
      stream: POST /stream
      held: { match: POST /held, body: { schema: any.schema.json } }",
    );
    let too_large = (413, "body_size".to_owned());
    // Declared: nobody hears of it, and the client keeps its body.
    for path in ["/stream", "/held"] {
        let mut client = node.connect();
        client.send(format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 1001\r\nExpect: 100-continue\r\n\r\n"
        ));
        let answer = client.answer();
        assert_eq!(answer.field("connection"), Some("close"));
        assert_eq!(answer.refusal(), too_large, "{path}");
    }
    // Held: nobody hears of it either, however it comes.
    let mut client = node.connect();
    client.send("POST /held HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
    for _ in 0..11 {
        client.send(format!("64\r\n{}\r\n", " ".repeat(100)));
    }
    assert_eq!(client.answer().refusal(), too_large);
    assert!(ear.heard.try_recv().is_err());

    // Streamed: what is within the bound has gone, not a byte more, and the message ends in a reset.
    let mut client = node.connect();
    client.send("POST /stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n");
    client.send(format!("3e8\r\n{}\r\n", "w".repeat(1000)));
    let heard = ear.until(&"w".repeat(1000));
    assert!(heard.starts_with("POST /stream HTTP/1.1\r\n"), "{heard}");
    client.send("1\r\nX\r\n");
    assert_eq!(client.answer().refusal(), too_large);
    loop {
        match ear.heard.recv_timeout(PATIENCE).expect("an end") {
            Heard::Bytes(bytes) => assert_eq!(bytes, b"\r\n", "nothing but the end of a chunk"),
            Heard::Reset => break,
            Heard::End => panic!("a close, which could be the end of a message"),
        }
    }
    // The same whether the last byte comes alone, or with others.
    let mut client = node.connect();
    client.send(format!(
        "POST /stream HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3e9\r\n{}",
        "w".repeat(1001)
    ));
    assert_eq!(client.answer().refusal(), too_large);
    let line = node.log(5).pop().expect("a line");
    assert_eq!((&line["reason"], &line["status"]), (&"body_size".into(), &413.into()));
}

#[test]
fn a_body_at_its_bound_passes() {
    let origin = Origin::plain();
    let node = start(&origin, ", sizes: { body: 1000B }");
    let body = "w".repeat(1000);
    for framed in [
        format!("Content-Length: 1000\r\n\r\n{body}"),
        format!("Transfer-Encoding: chunked\r\n\r\n3e8\r\n{body}\r\n0\r\n\r\n"),
    ] {
        assert_eq!(node.ask(&format!("POST / HTTP/1.1\r\nHost: a\r\n{framed}")).status, 200);
        assert_eq!(origin.next().body, body.as_bytes());
    }
}

#[test]
fn a_response_past_its_bound_is_refused_or_visibly_cut() {
    let origin = Origin::start(|seen| {
        let body =
            "r".repeat(seen.head.split(['/', ' ']).nth(3).and_then(|size| size.parse().ok()).unwrap_or(0));
        let half = body.len() / 2;
        let (first, second) = body.split_at(half);
        match seen.head.split('/').nth(1).unwrap_or_default() {
            "length" => Reply::Bytes(response("200 OK", &body)),
            "drip HTTP" => Reply::Drip {
                first: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
                then: format!("1f4\r\n{}\r\n", "r".repeat(500)).into_bytes(),
                every: std::time::Duration::from_millis(20),
            },
            "chunked" => Reply::Bytes(
                format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{first}\r\n{:x}\r\n{second}\r\n0\r\n\r\n", first.len(), second.len())
                    .into_bytes(),
            ),
            _ => Reply::Last(format!("HTTP/1.1 200 OK\r\n\r\n{body}").into_bytes()),
        }
    });
    let node = start(&origin, ", sizes: { response: 2000B }");
    for framing in ["length", "chunked", "close"] {
        let answer = node.ask(&format!("GET /{framing}/2000 HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!((answer.status, answer.body.len()), (200, 2000), "{framing}");
    }
    // What is known to be too long before anything of it has left is not begun.
    for framing in ["length", "chunked", "close"] {
        let answer = node.ask(&format!("GET /{framing}/2002 HTTP/1.1\r\nHost: a\r\n\r\n"));
        let policies = answer.head.to_ascii_lowercase().matches("content-security-policy:").count();
        assert_eq!((policies, answer.refusal()), (1, (502, "response_size".to_owned())), "{framing}");
    }
    // A HEAD tells the length of what is not sent.
    let mut client = node.connect();
    client.send("HEAD /length/0 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer_to("HEAD").status, 200);
    let mut client = node.connect();
    client.send("GET /drip HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.head().starts_with("HTTP/1.1 200 "));
    let rest = client.rest();
    let sent = rest.iter().filter(|&&byte| byte == b'r').count();
    assert!((1500..=2000).contains(&sent) && !rest.ends_with(b"0\r\n\r\n"), "{sent}");
    let cut = |line: &serde_json::Value| line["status"] == 200 && line["reason"] == "response_size";
    assert!(node.log(8).iter().any(cut), "{:?}", node.log(8));
    // An old client knows no chunks: the end of the connection is all it has, and so it is a reset.
    let mut old = node.connect();
    old.send("GET /drip HTTP/1.0\r\nHost: a\r\n\r\n");
    let mut all = Vec::new();
    let error = old.into_stream().read_to_end(&mut all).expect_err("a reset");
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn answers_are_secured_where_nobody_has_said_otherwise() {
    let origin = saying("Server: secret/1.0\r\nX-Powered-By: secret\r\n");
    let node = start(&origin, "");
    let usual = |answer: &Answer| {
        assert_eq!(answer.field("x-content-type-options"), Some("nosniff"), "{}", answer.head);
        assert_eq!(answer.field("referrer-policy"), Some("no-referrer"), "{}", answer.head);
        assert_eq!(
            answer.field("content-security-policy"),
            Some("frame-ancestors 'none'"),
            "{}",
            answer.head
        );
        assert_eq!(answer.field("strict-transport-security"), None, "{}", answer.head);
        assert!(!answer.head.contains("secret") && answer.field("server").is_none(), "{}", answer.head);
    };
    usual(&node.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n"));
    // Ours as well, also of a request that nobody could read.
    usual(&node.ask("GET / HTTP/1.1\r\nHost: a\r\nX Y: z\r\n\r\n"));
    usual(&node.ask("GET /../ HTTP/1.1\r\nHost: a\r\n\r\n"));

    // An upstream that says who may frame it is not overruled, whichever word it has for it.
    let framed = saying("X-Frame-Options: SAMEORIGIN\r\n");
    let node = start(&framed, "");
    assert_eq!(node.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").field("content-security-policy"), None);
    let policy = saying("Content-Security-Policy: default-src 'self'\r\n");
    let node = start(&policy, "");
    let answer = node.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let policies = answer.head.to_ascii_lowercase().matches("content-security-policy:").count();
    assert!(policies == 2 && answer.head.contains("frame-ancestors 'none'"), "{}", answer.head);

    // The operator's word is the last.
    let node = start(
        &origin,
        ", headers: { response: { set: { Content-Security-Policy: \"frame-ancestors 'self'\", Server: mine }, remove: [Referrer-Policy] } }",
    );
    let answer = node.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let policies = answer.head.to_ascii_lowercase().matches("content-security-policy:").count();
    assert_eq!((policies, answer.field("content-security-policy")), (1, Some("frame-ancestors 'self'")));
    assert_eq!((answer.field("referrer-policy"), answer.field("server")), (None, Some("mine")));
    assert_eq!(answer.field("x-content-type-options"), Some("nosniff"));
}

#[test]
fn strict_transport_is_said_over_tls_and_to_names() {
    let origin = Origin::plain();
    let config = format!(
        "upstreams: {{ app: \"http://{}\" }}\n\
         apis: {{ app: {{ to: app, raw: \"a test\", allow: [{{ who: anyone }}] }}, no: {{ base: /no, closed: true }} }}",
        origin.address
    );
    let node = Node::start_in(Place::new(), "{ address: \"127.0.0.1:0\", tls: self-signed }", &config);
    let port = node.address.port();
    for (host, path, said) in [
        ("localhost", "/", false),
        ("127.0.0.1", "/", false),
        ("app.example.com", "/", true),
        // Ours as well.
        ("app.example.com", "/no", true),
        ("localhost", "/no", false),
        // Nobody knows for whom that was.
        ("app.example.com", "/%zz", false),
    ] {
        let output = Command::new("curl")
            .args(["-s", "-k", "-i", "--max-time", "20", "--path-as-is", "--connect-to"])
            .arg(format!("::127.0.0.1:{port}"))
            .arg(format!("https://{host}:{port}{path}"))
            .output()
            .expect("curl");
        let text = String::from_utf8_lossy(&output.stdout).to_ascii_lowercase();
        assert!(text.starts_with("http/2 "), "{host}: {output:?}");
        assert_eq!(
            text.contains("strict-transport-security: max-age=31536000\r\n"),
            said,
            "{host}{path}: {text}"
        );
    }
}

#[test]
fn a_client_gets_its_413_though_it_goes_on_sending() {
    let origin = Origin::plain();
    let node = start(&origin, ", sizes: { body: 1000B }");
    let mut client: Client = node.connect();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    client.try_send(&[b'x'; 50_000]);
    assert_eq!(client.answer().refusal(), (413, "body_size".to_owned()));
    assert!(origin.saw_nothing_more());
}

#[test]
fn every_answer_has_one_date() {
    let seconds = |answer: &Answer| {
        let date = answer.field("date").unwrap_or_else(|| panic!("a date in {}", answer.head));
        assert_eq!(answer.head.to_ascii_lowercase().matches("\r\ndate:").count(), 1, "{}", answer.head);
        let date = date.strip_suffix(" GMT").expect("GMT");
        let moment = jiff::fmt::strtime::parse("%a, %d %b %Y %H:%M:%S", date).expect("RFC 9110 §5.6.7");
        moment.to_datetime().expect("whole").to_zoned(jiff::tz::TimeZone::UTC).expect("a moment").timestamp()
    };
    let near = |moment: jiff::Timestamp| {
        let off = (jiff::Timestamp::now().as_second() - moment.as_second()).abs();
        assert!(off <= 5, "{off} s off");
    };
    let origin = saying("");
    let node = start(&origin, "");
    near(seconds(&node.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n")));
    near(seconds(&node.ask("GET /../ HTTP/1.1\r\nHost: a\r\n\r\n")));
    near(seconds(&node.ask("nonsense\r\n\r\n")));
    // An upstream's own is its own; so is an operator's.
    let old = saying("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\n");
    let node = start(&old, "");
    assert_eq!(seconds(&node.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n")).as_second(), 784_111_777);
    let node = start(&origin, ", headers: { response: { remove: Date } }");
    assert_eq!(node.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").field("date"), None);
}
