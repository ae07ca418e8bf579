//! What upstreams of HTTP/2 may do that those of HTTP/1.1 cannot: refuse one stream, leave in good order, take few streams at once,
//! fall silent. Whatever is spoken with clients comes to the same.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use h2::Reason;
use hyper::body::Bytes;
use hyper::http::Response;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::client::{Ask, Client, To};
use super::origin::Origin;
use super::{ANYONE, BOTH, PLAIN, Speaks, run, soon};
use crate::node::{Node, Place, metric};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A node before an upstream of HTTP/2, with more keys for it.
fn before(address: SocketAddr, more: &str) -> (Node, To) {
    let config = format!(
        "upstreams: {{ app: {{ targets: [\"http://{address}\"], protocol: http2{more} }} }}\n\
         apis: {{ app: {{ base: /two, to: app, raw: a test, {ANYONE} }} }}"
    );
    let node = Node::start_in(Place::new(), PLAIN, &config);
    let to = To { address: node.address, trust: None };
    (node, to)
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// An upstream that is told frame by frame what to say.
struct Scripted(TcpStream);

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    bytes: usize,
}

impl Scripted {
    /// The next connection, up to its first request; the stream of that.
    async fn asked(listener: &TcpListener) -> (Scripted, u32) {
        let mut scripted = Scripted::over(listener).await;
        let stream = scripted.head().await;
        (scripted, stream)
    }

    async fn over(listener: &TcpListener) -> Scripted {
        let (mut socket, _) = listener.accept().await.expect("a connection");
        let mut preface = [0; 24];
        socket.read_exact(&mut preface).await.expect("a preface");
        assert_eq!(&preface, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        let mut scripted = Scripted(socket);
        scripted.send(SETTINGS, 0, 0, b"").await;
        scripted
    }

    /// The stream of the next request, all of which has come.
    async fn head(&mut self) -> u32 {
        let mut found = 0;
        loop {
            let frame = self.frame().await.expect("a frame");
            match frame.kind {
                SETTINGS if frame.flags & ACK == 0 => self.send(SETTINGS, ACK, 0, b"").await,
                HEADERS => found = frame.stream,
                _ => {}
            }
            if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 && frame.stream == found
            {
                return found;
            }
        }
    }

    async fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        self.0.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        self.0.read_exact(&mut vec![0; length]).await.ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some(Frame { kind: head[3], flags: head[4], stream, bytes: length })
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        frame.extend_from_slice(&[kind, flags]);
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(payload);
        let _ = self.0.write_all(&frame).await;
    }

    /// 200 with `hello`.
    async fn answer(&mut self, stream: u32) {
        // RFC 7541 appendix A: entry 8 is `:status: 200`.
        self.send(HEADERS, END_HEADERS, stream, &[0x88]).await;
        self.send(DATA, END_STREAM, stream, b"hello").await;
    }

    async fn goaway(&mut self, last: u32) {
        self.send(GOAWAY, 0, 0, &[last.to_be_bytes(), [0; 4]].concat()).await;
    }
}

/// Requests of all kinds that can be sent again, whatever they ask for, because they were not begun.
fn requests() -> [Ask; 3] {
    [Ask::get("/two/a"), Ask::post("/two/a", "hello", true), Ask::post("/two/a", vec![b'a'; 12_000], true)]
}

#[test]
fn a_stream_that_was_refused_is_asked_again() {
    run(async {
        for outer in BOTH {
            for ask in requests() {
                let (listener, address) = listen().await;
                let (node, to) = before(address, "");
                let upstream = async {
                    let (mut scripted, stream) = Scripted::asked(&listener).await;
                    let refused = (Reason::REFUSED_STREAM.into(), stream);
                    scripted.send(RST_STREAM, 0, refused.1, &u32::to_be_bytes(refused.0)).await;
                    let stream = scripted.head().await;
                    scripted.answer(stream).await;
                    scripted
                };
                let asking = async { Client::connect(outer, &to).await.ask(&ask).await };
                let (got, _scripted) = soon("an answer", async { tokio::join!(asking, upstream) }).await;
                assert_eq!((got.status, &got.body[..]), (200, &b"hello"[..]), "{outer:?} {}", ask.method);
                assert_eq!(node.log(1)[0]["tries"], 2, "{outer:?}");
            }
        }
    });
}

/// Of a body that is too large to be held until it is answered nothing is there any more: the refusal stays.
#[test]
fn what_is_not_here_any_more_is_not_asked_again() {
    run(async {
        for outer in BOTH {
            for leaves in [false, true] {
                let (listener, address) = listen().await;
                let (node, to) = before(address, "");
                let upstream = async {
                    let (mut scripted, stream) = Scripted::asked(&listener).await;
                    match leaves {
                        true => scripted.goaway(0).await,
                        false => {
                            let refused = u32::from(Reason::REFUSED_STREAM).to_be_bytes();
                            scripted.send(RST_STREAM, 0, stream, &refused).await;
                        }
                    }
                    scripted
                };
                let ask = Ask::post("/two/a", vec![b'a'; 20_000], true);
                let asking = async { Client::connect(outer, &to).await.ask(&ask).await };
                let (got, _scripted) = soon("an answer", async { tokio::join!(asking, upstream) }).await;
                assert_eq!(got.status, 502, "{outer:?}, leaves: {leaves}");
                assert_eq!(node.log(1)[0]["tries"], 1, "{outer:?}, leaves: {leaves}");
            }
        }
    });
}

/// What is wrong with an answer has its name, whether it costs the stream or the connection.
#[test]
fn an_answer_that_is_none_is_refused_by_name() {
    const PUSH_PROMISE: u8 = 5;
    let head = |fields: &[u8]| (HEADERS, END_HEADERS | END_STREAM, fields.to_vec());
    let cases = [
        (head(b"\0\x07:status\x0299"), "response_status"),
        (head(b"\x88\x88"), "response_pseudo_field"),
        (head(b"\x88\0\x01x\x03a\r\n"), "response_field_value"),
        ((DATA, END_STREAM, b"hello".to_vec()), "upstream_h2_heads"),
        ((PUSH_PROMISE, END_HEADERS, vec![0, 0, 0, 2, 0x88]), "upstream_h2_streams"),
        ((HEADERS, END_HEADERS, vec![0xff]), "upstream_h2_compression"),
    ];
    run(async {
        for outer in BOTH {
            for ((kind, flags, payload), reason) in &cases {
                let (listener, address) = listen().await;
                let (node, to) = before(address, "");
                let upstream = async {
                    let (mut scripted, stream) = Scripted::asked(&listener).await;
                    scripted.send(*kind, *flags, stream, payload).await;
                    scripted
                };
                let ask = Ask::post("/two/a", "hello", true);
                let asking = async { Client::connect(outer, &to).await.ask(&ask).await };
                let (got, _scripted) = soon("an answer", async { tokio::join!(asking, upstream) }).await;
                assert_eq!(got.refusal(), (502, (*reason).to_owned()), "{outer:?}");
                assert_eq!(node.log(1)[0]["reason"], *reason, "{outer:?}");
            }
        }
    });
}

/// Of a body that is on its way a piece is with the upstream's connection when its answer turns out to be none: what is left of it
/// here is passed over like any other.
#[test]
fn an_answer_that_is_none_ends_an_upload_in_the_middle() {
    run(async {
        for (outer, inner) in [(0, 0), (0, 1), (1, 0), (1, 1)].map(|(a, b)| (BOTH[a], BOTH[b])) {
            let (listener, address) = listen().await;
            let protocol = if inner == Speaks::Http1 { "http1" } else { "http2" };
            let config = format!(
                "upstreams: {{ app: {{ targets: [\"http://{address}\"], protocol: {protocol} }} }}\n\
                 apis: {{ app: {{ to: app, raw: a test, sizes: {{ body: 64MiB }}, {ANYONE} }} }}"
            );
            let node = Node::start_in(Place::new(), PLAIN, &config);
            let to = To { address: node.address, trust: None };
            let upstream = async {
                if inner == Speaks::Http2 {
                    let mut scripted = Scripted::over(&listener).await;
                    let stream = loop {
                        let frame = scripted.frame().await.expect("a frame");
                        if frame.kind == HEADERS {
                            break frame.stream;
                        }
                    };
                    // All that may come without a window.
                    let mut windows = 0;
                    while windows < 65_535 {
                        let frame = scripted.frame().await.expect("a frame");
                        windows += if frame.kind == DATA { frame.bytes } else { 0 };
                    }
                    // More interim heads than may be, none of which ends the stream.
                    for _ in 0..20 {
                        scripted.send(HEADERS, END_HEADERS, stream, b"\x08\x03103").await;
                    }
                    return scripted.0;
                }
                let (mut socket, _) = listener.accept().await.expect("a connection");
                let mut head = [0; 1];
                socket.read_exact(&mut head).await.expect("a request");
                socket.write_all(b"HTTP/1.1 none\r\n\r\n").await.expect("sent");
                socket
            };
            let ask = Ask::post("/a", vec![b'a'; 32 << 20], true);
            let asking = async { Client::connect(outer, &to).await.ask(&ask).await };
            let (got, _socket) = soon("an answer", async { tokio::join!(asking, upstream) }).await;
            assert_eq!(got.status, 502, "{outer:?} {inner:?} {:?}", got.refusal());
            assert_eq!(metric(&node, "ringwall_panics_total", &[]), 0.0, "{outer:?} {inner:?}");
        }
    });
}

/// RFC 7541 §6.2.3: an intermediary has to use the same representation.
#[test]
fn what_may_never_be_in_a_table_may_not_further_on_either() {
    use std::io::{BufRead, BufReader, Write};
    use std::process::Stdio;
    let mut command = crate::grpc::python();
    command.arg("../pairs/secrets.py").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut process = crate::node::Server(command.spawn().expect("python"));
    let mut lines = BufReader::new(process.0.stdout.take().expect("piped")).lines();
    let port = lines.next().expect("a line").expect("text").parse().expect("a port");
    let (_node, to) = before(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), "");
    writeln!(process.0.stdin.take().expect("piped"), "{}", to.address).expect("it listens");
    let lines = lines.map(|line| serde_json::from_str(&line.expect("text")).expect("JSON"));
    let found: Vec<[Vec<String>; 2]> = lines.collect();
    for [asked, answered] in &found[..2] {
        let has = |name: &str| asked.iter().chain(answered).any(|found| found == name);
        assert!(["accept", "x-token", "x-reply-token", "x-end-token"].into_iter().all(has), "{found:?}");
    }
    assert!(found.len() == 3 && found[2].iter().all(Vec::is_empty), "{found:?}");
}

#[test]
fn what_an_upstream_that_leaves_has_not_begun_is_asked_elsewhere() {
    run(async {
        for outer in BOTH {
            for ask in requests() {
                let (listener, address) = listen().await;
                let (_node, to) = before(address, "");
                let upstream = async {
                    let (mut first, _) = Scripted::asked(&listener).await;
                    first.goaway(0).await;
                    let (mut second, stream) = Scripted::asked(&listener).await;
                    second.answer(stream).await;
                    (first, second)
                };
                let asking = async { Client::connect(outer, &to).await.ask(&ask).await };
                let (got, _both) = soon("an answer", async { tokio::join!(asking, upstream) }).await;
                assert_eq!((got.status, &got.body[..]), (200, &b"hello"[..]), "{outer:?} {}", ask.method);
            }
        }
    });
}

#[test]
fn what_an_upstream_that_leaves_has_begun_is_answered() {
    run(async {
        let (listener, address) = listen().await;
        let (_node, to) = before(address, "");
        let upstream = async {
            let (mut first, stream) = Scripted::asked(&listener).await;
            first.goaway(stream).await;
            first.answer(stream).await;
            // Nothing more is begun there.
            let (mut second, stream) = Scripted::asked(&listener).await;
            second.answer(stream).await;
            (first, second)
        };
        let asking = async {
            let mut client = Client::connect(Speaks::Http2, &to).await;
            for ask in [Ask::post("/two/a", "hello", true), Ask::post("/two/b", "hello", true)] {
                let got = client.ask(&ask).await;
                assert_eq!((got.status, &got.body[..]), (200, &b"hello"[..]));
            }
        };
        soon("an answer", async { tokio::join!(asking, upstream) }).await;
    });
}

#[test]
fn a_connection_that_is_lost_is_a_502_or_another_try() {
    run(async {
        for outer in BOTH {
            // What may have been done is not done twice.
            let (listener, address) = listen().await;
            let (node, to) = before(address, "");
            let upstream = async { drop(Scripted::asked(&listener).await) };
            let asking =
                async { Client::connect(outer, &to).await.ask(&Ask::post("/two/a", "hello", true)).await };
            let (got, ()) = soon("an answer", async { tokio::join!(asking, upstream) }).await;
            assert_eq!(got.status, 502, "{outer:?}");
            assert!(
                ["upstream_closed", "upstream_reset"].contains(&&*got.refusal().1),
                "{:?}",
                got.refusal()
            );
            assert_eq!(node.log(1)[0]["tries"], 1);

            // A connection that was kept, and is found dead by a request that may be sent again.
            let upstream = async {
                let (mut first, stream) = Scripted::asked(&listener).await;
                first.answer(stream).await;
                first.head().await;
                drop(first);
                let (mut second, stream) = Scripted::asked(&listener).await;
                second.answer(stream).await;
                second
            };
            let asking = async {
                let mut client = Client::connect(outer, &to).await;
                for _ in 0..2 {
                    let got = client.ask(&Ask::get("/two/a")).await;
                    assert_eq!((got.status, &got.body[..]), (200, &b"hello"[..]), "{outer:?}");
                }
            };
            soon("an answer", async { tokio::join!(asking, upstream) }).await;
        }
    });
}

#[test]
fn an_upstream_that_takes_one_stream_at_a_time_gets_one_at_a_time() {
    run(async {
        let (listener, address) = listen().await;
        let config = format!(
            "upstreams: {{ app: {{ targets: [\"http://{address}\"], protocol: http2, pool: {{ connections: 1 }} }} }}\n\
             apis: {{ app: {{ base: /two, to: app, raw: a test, {ANYONE} }} }}"
        );
        let node = Node::start_on_one_core(&config);
        let to = To { address: node.address, trust: None };
        let upstream = tokio::spawn(async move {
            let (socket, _) = listener.accept().await.expect("a connection");
            let mut builder = h2::server::Builder::new();
            builder.max_concurrent_streams(1);
            let mut server = builder.handshake::<_, Bytes>(socket).await.expect("a handshake");
            let mut served = Vec::new();
            // The crate refuses what is beyond its bound: then it would not be served here.
            while let Some(Ok((request, mut respond))) = server.accept().await {
                served.push(request.uri().path().to_owned());
                let mut sink = respond.send_response(Response::new(()), false).expect("sent");
                sink.send_data(Bytes::from_static(b"hello"), true).expect("sent");
                if served.len() == 30 {
                    server.graceful_shutdown();
                }
            }
            served
        });
        // Behind the first answer it is known what the upstream takes.
        assert_eq!(Client::connect(Speaks::Http1, &to).await.ask(&Ask::get("/two/first")).await.status, 200);
        let asks = (1..30).map(|number| {
            let to = to.clone();
            tokio::spawn(async move {
                let mut client = Client::connect(Speaks::Http1, &to).await;
                let got = client.ask(&Ask::get(format!("/two/{number}"))).await;
                assert_eq!(
                    (got.status, &got.body[..]),
                    (200, &b"hello"[..]),
                    "{number}: {:?}",
                    got.refusal()
                );
            })
        });
        for ask in asks.collect::<Vec<_>>() {
            soon("an answer", ask).await.expect("answered");
        }
        let mut served = soon("the end", upstream).await.expect("served");
        served.sort();
        served.dedup();
        assert_eq!(served.len(), 30, "each once: {served:?}");
        let log = node.log(30);
        assert!(log.iter().all(|entry| entry["tries"] == 1), "nobody was refused");
    });
}

#[test]
fn an_old_connection_begins_nothing() {
    run(async {
        let mut origin = Origin::start(Speaks::Http2, None).await;
        let (_node, to) = before(origin.address, ", pool: { age: 1s }");
        let mut client = Client::connect(Speaks::Http2, &to).await;
        let begun = Instant::now();
        assert_eq!(client.ask(&Ask::get("/two/size/5")).await.status, 200);
        let first = origin.next().await.connection;
        // How old it is, only time can say.
        loop {
            assert_eq!(client.ask(&Ask::get("/two/size/5")).await.status, 200);
            if origin.next().await.connection != first {
                break;
            }
            assert!(begun.elapsed() < crate::node::PATIENCE, "the connection is never too old");
        }
        assert!(begun.elapsed().as_millis() >= 900, "after {:?}", begun.elapsed());
    });
}

#[test]
fn an_upstream_that_is_silent_is_asked_whether_it_lives() {
    run(async {
        let (listener, address) = listen().await;
        let (_node, to) = before(address, ", timeouts: { first_byte: 1min }");
        let upstream = async {
            let (mut dead, _) = Scripted::asked(&listener).await;
            // It says nothing any more: what comes is that question, and then the end.
            let mut asked = 0;
            while let Some(frame) = dead.frame().await {
                asked += usize::from(frame.kind == PING && frame.flags & ACK == 0);
            }
            asked
        };
        let asking = async {
            let mut client = Client::connect(Speaks::Http2, &to).await;
            client.ask(&Ask::post("/two/a", "hello", true)).await
        };
        let begun = Instant::now();
        let (got, asked) = tokio::join!(asking, upstream);
        assert!(asked >= 1, "no PING came");
        assert_eq!(got.refusal(), (504, "upstream_h2_ping_timeout".to_owned()));
        assert!(begun.elapsed().as_secs() < 50, "not because time was up: {:?}", begun.elapsed());
    });
}

#[test]
fn a_server_of_node_is_an_upstream_like_any() {
    use std::io::BufRead;
    use std::process::{Command, Stdio};
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/pairs/server.mjs");
    let mut command = Command::new("node");
    let process = command.arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
    let mut process = crate::node::Server(process.expect("node"));
    let mut line = String::new();
    std::io::BufReader::new(process.0.stdout.take().expect("piped")).read_line(&mut line).expect("a line");
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, line.trim().parse().expect("a port")));
    let (_node, to) = before(address, "");
    run(async {
        for outer in BOTH {
            let mut client = Client::connect(outer, &to).await;
            for (bytes, length) in [(0, true), (1, false), (70_000, true), (1_000_000, false)] {
                let body = super::pattern(bytes);
                let got = client.ask(&Ask::post("/two/echo", body.clone(), length)).await;
                assert_eq!((got.status, got.whole), (200, true), "{outer:?}, {bytes}");
                assert!(got.body == body, "{outer:?}: {} of {bytes} bytes came back", got.body.len());
            }
            for method in [Ask::get("/two/size/100000"), Ask::head("/two/size/100000")] {
                let got = client.ask(&method).await;
                let bytes = if method.method == "HEAD" { 0 } else { 100_000 };
                assert_eq!((got.status, got.whole, got.body.len()), (200, true, bytes), "{outer:?}");
                assert_eq!(got.field("content-length"), Some("100000"), "{outer:?}");
            }
            let got = client.ask(&Ask::get("/two/trailers").with("te", "trailers")).await;
            assert_eq!((got.whole, &got.body[..]), (true, &b"with trailers"[..]), "{outer:?}");
            assert_eq!(got.trailers, [("x-sum".to_owned(), "12".to_owned())], "{outer:?}");
            let got = client.ask(&Ask::get("/two/hints")).await;
            let link = ("link".to_owned(), "</style.css>; rel=preload".to_owned());
            assert_eq!((got.interim, &got.body[..]), (vec![(103, vec![link])], &b"hinted"[..]), "{outer:?}");
            for status in [204, 304, 404] {
                let got = client.ask(&Ask::get(format!("/two/bare/{status}"))).await;
                assert_eq!((got.status, got.whole, got.body.len()), (status, true, 0), "{outer:?}");
            }
            let ask = Ask::post("/two/seen", "hello", true).with("cookie", "a=1").with("cookie", "b=2");
            let seen = client.ask(&ask).await.json();
            assert_eq!(
                (&seen["bytes"], &seen["cookie"]),
                (&5.into(), &"a=1; b=2".into()),
                "{outer:?}: {seen}"
            );
            assert_eq!((&seen[":method"], &seen[":path"]), (&"POST".into(), &"/two/seen".into()), "{seen}");
            assert_eq!(client.ask(&Ask::post("/two/reset", "hello", true)).await.status, 502, "{outer:?}");
            assert_eq!(client.ask(&Ask::get("/two/size/5")).await.body.len(), 5, "{outer:?}");
        }
    });
}
