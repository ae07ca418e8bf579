//! Our HTTP/2 connection against the `h2` crate over bytes in memory: our server and its client, our client and its server.

use std::collections::BTreeMap;
use std::time::Duration;

use h2::{RecvStream, client, server};
use hyper::{
    body::Bytes,
    http::{HeaderMap, Method as HttpMethod, Request, Response, StatusCode},
};
use ringwall::{
    h2::{
        Connection, ErrorCode, Event, Role, Settings, StreamKey,
        blocks::{Compression, RequestBlocks, ResponseBlocks},
        connection::{Cause, Opening},
        head::{Asked, Rules},
        hpack::Sharing,
    },
    http::{HeadLimits, Method, RequestTable, ResponseTable, target::Scheme},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const BIG: usize = 1 << 20;

fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at * 31 % 251) as u8).collect()
}

/// Runs to the end, or fails: nothing here waits for anything but the other side.
fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(60), future).await.expect("it comes to an end");
    });
}

// Our server.

/// What is sent in answer, as far as the windows let.
struct Answer {
    body: Vec<u8>,
    sent: usize,
    trailers: bool,
}

#[derive(Default)]
struct Served {
    echoes: BTreeMap<u32, Vec<u8>>,
    answers: BTreeMap<u32, Answer>,
    resets: Vec<(u32, ErrorCode)>,
}

/// Serves until the client goes. Reads at most `step` bytes at a time.
async fn serve(mut io: DuplexStream, step: usize, settings: Settings) -> Served {
    let (mut out, mut arena) = (Vec::new(), Vec::new());
    let mut table = RequestTable::new();
    let mut compression = Compression::new(Sharing::One);
    let mut connection = Connection::new(Role::Server, &settings, 1, &mut out);
    let limits = HeadLimits::DEFAULT;
    let mut served = Served::default();
    let mut buffer = vec![0; step];
    loop {
        // As long as there is something, before it reads again; the client may be gone, once it was told to go.
        let more = out.len() >= 64 * 1024;
        if io.write_all(&out).await.is_err() || connection.is_drained() {
            return served;
        }
        out.clear();
        if more {
            flush(&mut connection, &mut compression, &mut served, &mut out);
            continue;
        }
        let bytes = io.read(&mut buffer).await.unwrap_or(0);
        if bytes == 0 {
            assert_eq!(connection.held(), 0, "all that came was let go of");
            return served;
        }
        let mut rest = &buffer[..bytes];
        loop {
            let mut blocks = RequestBlocks {
                compression: &mut compression,
                rules: Rules { limits: &limits, scheme: Some(Scheme::Http), extended_connect: false },
                arena: &mut arena,
                table: &mut table,
                asked: Asked::default(),
            };
            let (taken, event) = connection.receive(rest, 1, &mut blocks, &mut out).expect("a good client");
            rest = &rest[taken..];
            match event {
                Event::Idle => break,
                Event::Head { stream, end, flaw } => {
                    assert_eq!(flaw, None);
                    let path = table.target_span.of(&arena).to_vec();
                    let (mut body, mut trailers) = (b"hello".to_vec(), false);
                    match &path[..] {
                        b"/echo" => {
                            assert!(!end);
                            served.echoes.insert(stream.id().0, Vec::new());
                            continue;
                        }
                        b"/hold" => continue,
                        b"/reset" => {
                            connection.reset(stream, ErrorCode::CANCEL, &mut out);
                            continue;
                        }
                        b"/big" => (body, trailers) = (pattern(BIG), true),
                        b"/hints" => {
                            let hints = |out: &mut Vec<u8>| {
                                let mut block = compression.encoder.block(out);
                                block.status(103);
                                block.lines(b"link: </style.css>; rel=preload\r\n");
                            };
                            connection.send_informational(stream, &mut out, hints).unwrap();
                        }
                        b"/goaway" => connection.shutdown(1, &mut out),
                        _ => {}
                    }
                    let length = body.len();
                    let head = |out: &mut Vec<u8>| {
                        let mut block = compression.encoder.block(out);
                        block.status(200);
                        block.lines(format!("x-path: {}\r\n", path.len()).as_bytes());
                        block.lines(b"server: ringwall\r\n");
                        block.length(ringwall::http::BodyLength::Length(length as u64));
                    };
                    connection.send_head(stream, false, &mut out, head).unwrap();
                    served.answers.insert(stream.id().0, Answer { body, sent: 0, trailers });
                    connection.want(stream, true);
                }
                Event::Data { stream, bytes, end } => {
                    served.echoes.get_mut(&stream.id().0).expect("only these have bodies").extend(bytes);
                    connection.consumed(stream, bytes.len(), &mut out);
                    if end {
                        echo(&mut connection, &mut compression, stream, &mut served, &mut out);
                    }
                }
                Event::Trailers { stream } => {
                    assert_eq!(arena, b"x-check: 1\r\n");
                    echo(&mut connection, &mut compression, stream, &mut served, &mut out);
                }
                Event::Reset { stream, code, cause } => {
                    assert_eq!(cause, Cause::Peer);
                    served.resets.push((stream.id().0, code));
                    served.answers.remove(&stream.id().0);
                }
                Event::Informational { .. } => unreachable!("clients send none"),
                Event::Settings | Event::GoAway { .. } | Event::Pong { .. } => {}
            }
        }
        flush(&mut connection, &mut compression, &mut served, &mut out);
    }
}

/// A bounded amount at a time, as a task would.
fn flush(connection: &mut Connection, compression: &mut Compression, served: &mut Served, out: &mut Vec<u8>) {
    while out.len() < 64 * 1024
        && let Some(stream) = connection.next_writable()
    {
        let answer = served.answers.get_mut(&stream.id().0).expect("it wants to send");
        let rest = &answer.body[answer.sent..];
        let piece = &rest[..rest.len().min(16_384)];
        let last = piece.len() == rest.len();
        answer.sent += connection.send_data(stream, piece, last && !answer.trailers, out).unwrap();
        if answer.sent == answer.body.len() {
            connection.want(stream, false);
            if answer.trailers {
                let trailers = |out: &mut Vec<u8>| compression.encoder.block(out).lines(b"x-sum: 7\r\n");
                connection.send_trailers(stream, out, trailers).unwrap();
            }
            served.answers.remove(&stream.id().0);
        }
    }
}

fn echo(
    connection: &mut Connection,
    compression: &mut Compression,
    stream: StreamKey,
    served: &mut Served,
    out: &mut Vec<u8>,
) {
    let body = served.echoes.remove(&stream.id().0).unwrap();
    let head = |out: &mut Vec<u8>| compression.encoder.block(out).status(200);
    connection.send_head(stream, false, out, head).unwrap();
    served.answers.insert(stream.id().0, Answer { body, sent: 0, trailers: true });
    connection.want(stream, true);
}

fn request(method: HttpMethod, path: &str) -> Request<()> {
    let uri = format!("http://api.example.com{path}");
    Request::builder().method(method).uri(uri).header("x-client", "h2").body(()).unwrap()
}

/// All of a body, granted anew as it comes.
async fn whole(mut body: RecvStream) -> Result<(Vec<u8>, Option<HeaderMap>), h2::Error> {
    let mut all = Vec::new();
    while let Some(bytes) = body.data().await {
        let bytes = bytes?;
        all.extend_from_slice(&bytes);
        body.flow_control().release_capacity(bytes.len())?;
    }
    Ok((all, body.trailers().await?))
}

/// Sends a body as the windows of the crate let, and trailers.
async fn upload(mut sink: h2::SendStream<Bytes>, mut body: Bytes) {
    while !body.is_empty() {
        sink.reserve_capacity(body.len());
        let room = std::future::poll_fn(|context| sink.poll_capacity(context)).await.unwrap().unwrap();
        sink.send_data(body.split_to(room.min(body.len())), false).unwrap();
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("x-check", "1".parse().unwrap());
    sink.send_trailers(trailers).unwrap();
}

async fn with_our_server<F: Future<Output = ()>>(
    builder: client::Builder,
    step: usize,
    act: impl FnOnce(client::SendRequest<Bytes>) -> F,
) -> Served {
    let (ours, theirs) = tokio::io::duplex(100_000);
    let ours = serve(ours, step, Settings::DEFAULT);
    let theirs = async {
        let (sender, connection) = builder.handshake::<_, Bytes>(theirs).await.unwrap();
        let ((), ended) = tokio::join!(act(sender), connection);
        ended.unwrap();
    };
    let (served, ()) = tokio::join!(ours, theirs);
    served
}

#[test]
fn their_client_asks_our_server_many_things_at_once() {
    run(async {
        for step in [1, 9, 1_000, 65_536] {
            with_our_server(client::Builder::new(), step, |sender| async move {
                let asks = (0..60).map(|number| {
                    let mut sender = sender.clone();
                    async move {
                        let path = ["/plain", "/hints", "/a/longer/path?with=query"][number % 3];
                        sender = sender.ready().await.unwrap();
                        let (response, _) =
                            sender.send_request(request(HttpMethod::GET, path), true).unwrap();
                        let response = response.await.unwrap();
                        assert_eq!(response.status(), StatusCode::OK);
                        assert_eq!(response.headers()["x-path"], path.len().to_string());
                        let (body, trailers) = whole(response.into_body()).await.unwrap();
                        assert_eq!((&body[..], trailers), (&b"hello"[..], None));
                    }
                });
                together(asks.collect()).await;
            })
            .await;
        }
    });
}

/// Many futures, each at its own pace.
async fn together(futures: Vec<impl Future<Output = ()>>) {
    let mut futures: Vec<_> = futures.into_iter().map(|future| Some(Box::pin(future))).collect();
    std::future::poll_fn(|context| {
        for place in &mut futures {
            if place.as_mut().is_some_and(|future| future.as_mut().poll(context).is_ready()) {
                *place = None;
            }
        }
        if futures.iter().all(Option::is_none) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

#[test]
fn bodies_pass_both_ways_through_windows_of_any_size() {
    run(async {
        for window in [1_000, 65_535, 4 << 20] {
            let mut builder = client::Builder::new();
            builder.initial_window_size(window).initial_connection_window_size(window.max(65_535));
            with_our_server(builder, 10_000, |sender| async move {
                let sent = Bytes::from(pattern(300_000));
                let up = async {
                    let mut sender = sender.clone().ready().await.unwrap();
                    let (response, sink) =
                        sender.send_request(request(HttpMethod::POST, "/echo"), false).unwrap();
                    let (response, ()) = tokio::join!(response, upload(sink, sent.clone()));
                    let (body, trailers) = whole(response.unwrap().into_body()).await.unwrap();
                    assert!(body == sent, "the echo");
                    assert_eq!(trailers.unwrap()["x-sum"], "7");
                };
                let down = async {
                    let mut sender = sender.clone().ready().await.unwrap();
                    let (response, _) = sender.send_request(request(HttpMethod::GET, "/big"), true).unwrap();
                    let (body, trailers) = whole(response.await.unwrap().into_body()).await.unwrap();
                    assert!(body == pattern(BIG), "the body");
                    assert_eq!(trailers.unwrap()["x-sum"], "7");
                };
                tokio::join!(up, down);
            })
            .await;
        }
    });
}

#[test]
fn resets_pass_both_ways() {
    run(async {
        let served = with_our_server(client::Builder::new(), 1_000, |mut sender| async move {
            let (response, _) = sender.send_request(request(HttpMethod::GET, "/reset"), true).unwrap();
            assert_eq!(response.await.unwrap_err().reason(), Some(h2::Reason::CANCEL));
            let (held, mut stream) = sender.send_request(request(HttpMethod::GET, "/hold"), true).unwrap();
            stream.send_reset(h2::Reason::CANCEL);
            assert!(held.await.is_err());
            // In the midst of a body.
            let (response, mut stream) = sender.send_request(request(HttpMethod::GET, "/big"), true).unwrap();
            let mut body = response.await.unwrap().into_body();
            assert!(body.data().await.unwrap().is_ok());
            stream.send_reset(h2::Reason::CANCEL);
            drop(body);
            let (response, _) = sender.send_request(request(HttpMethod::GET, "/plain"), true).unwrap();
            assert_eq!(whole(response.await.unwrap().into_body()).await.unwrap().0, b"hello");
        })
        .await;
        assert_eq!(served.resets, [(3, ErrorCode::CANCEL), (5, ErrorCode::CANCEL)]);
    });
}

#[test]
fn our_server_ends_gracefully() {
    run(async {
        with_our_server(client::Builder::new(), 1_000, |mut sender| async move {
            let (response, _) = sender.send_request(request(HttpMethod::GET, "/goaway"), true).unwrap();
            assert_eq!(whole(response.await.unwrap().into_body()).await.unwrap().0, b"hello");
        })
        .await;
    });
}

// Our client.

/// What came of a request.
#[derive(Debug, Default, PartialEq, Eq)]
struct Outcome {
    informational: usize,
    status: u16,
    body: Vec<u8>,
    trailers: Vec<u8>,
    reset: Option<(ErrorCode, Cause)>,
    over: bool,
}

/// A request: method, path, body.
type Wish = (Method, &'static str, Vec<u8>);

/// Sends requests, as many at once as may be, and takes what comes.
async fn ask(mut io: DuplexStream, step: usize, wishes: Vec<Wish>) -> Vec<Outcome> {
    let (mut out, mut arena) = (Vec::new(), Vec::new());
    let mut table = ResponseTable::new();
    let mut compression = Compression::new(Sharing::One);
    let mut connection = Connection::new(Role::Client, &Settings::DEFAULT, 1, &mut out);
    let limits = HeadLimits::DEFAULT;
    let mut methods = vec![Method::Get; 256];
    let mut outcomes: Vec<Outcome> = wishes.iter().map(|_| Outcome::default()).collect();
    let mut open: BTreeMap<u32, (usize, usize)> = BTreeMap::new();
    let mut next = 0;
    let mut buffer = vec![0; step];
    loop {
        // Who asks before the server has said how many it takes may be refused.
        let may_open = |connection: &Connection| connection.is_settled() && connection.openable() > 0;
        while let Some((method, path, body)) = wishes.get(next).filter(|_| may_open(&connection)) {
            let opening = Opening { end: body.is_empty(), head_request: *method == Method::Head };
            let opened = connection.open(opening, &mut out, |out| {
                let mut block = compression.encoder.block(out);
                block.method(match method {
                    Method::Head => b"HEAD",
                    Method::Post => b"POST",
                    _ => b"GET",
                });
                block.scheme(false);
                block.authority(b"api.example.com");
                block.path(path.as_bytes(), None);
                block.lines(b"x-client: ringwall\r\nauthorization: Bearer secret\r\n");
            });
            let Ok(stream) = opened else { break };
            methods[stream.slot()] = *method;
            open.insert(stream.id().0, (next, 0));
            connection.want(stream, !body.is_empty());
            next += 1;
        }
        while out.len() < 64 * 1024
            && let Some(stream) = connection.next_writable()
        {
            let (wish, sent) = open.get_mut(&stream.id().0).expect("it is open");
            let rest = &wishes[*wish].2[*sent..];
            let taken = connection.send_data(stream, rest, false, &mut out).unwrap();
            *sent += taken;
            if *sent == wishes[*wish].2.len() {
                let trailers = |out: &mut Vec<u8>| compression.encoder.block(out).lines(b"x-check: 1\r\n");
                connection.send_trailers(stream, &mut out, trailers).unwrap();
            }
        }
        let more = out.len() >= 64 * 1024;
        io.write_all(&out).await.unwrap();
        out.clear();
        if more {
            continue;
        }
        if next == wishes.len() && outcomes.iter().all(|outcome| outcome.over) {
            assert_eq!((connection.held(), connection.streams_open()), (0, 0));
            return outcomes;
        }
        let bytes = io.read(&mut buffer).await.unwrap();
        if bytes == 0 {
            return outcomes;
        }
        let mut rest = &buffer[..bytes];
        loop {
            let mut blocks = ResponseBlocks {
                compression: &mut compression,
                limits: &limits,
                methods: &methods,
                arena: &mut arena,
                table: &mut table,
            };
            let (taken, event) = connection.receive(rest, 1, &mut blocks, &mut out).expect("a good server");
            rest = &rest[taken..];
            let outcome = |stream: StreamKey| open[&stream.id().0].0;
            match event {
                Event::Idle => break,
                Event::Informational { stream } => outcomes[outcome(stream)].informational += 1,
                Event::Head { stream, end, .. } => {
                    let outcome = &mut outcomes[outcome(stream)];
                    (outcome.status, outcome.over) = (table.status, end);
                }
                Event::Data { stream, bytes, end } => {
                    let outcome = &mut outcomes[outcome(stream)];
                    outcome.body.extend_from_slice(bytes);
                    outcome.over = end;
                    connection.consumed(stream, bytes.len(), &mut out);
                }
                Event::Trailers { stream } => {
                    let outcome = &mut outcomes[outcome(stream)];
                    outcome.trailers.extend_from_slice(&arena);
                    outcome.over = true;
                }
                Event::Reset { stream, code, cause } => {
                    let outcome = &mut outcomes[outcome(stream)];
                    outcome.reset = Some((code, cause));
                    outcome.over = true;
                }
                Event::GoAway { .. } => {
                    // What was not sent never will be, on this connection.
                    outcomes[next..].iter_mut().for_each(|outcome| outcome.over = true);
                    next = wishes.len();
                }
                Event::Settings | Event::Pong { .. } => {}
            }
        }
    }
}

/// The crate's server: echoes bodies, refuses, resets, goes away.
async fn their_server(io: DuplexStream, builder: server::Builder) {
    let mut connection = builder.handshake::<_, Bytes>(io).await.unwrap();
    let mut working = Vec::new();
    loop {
        // Requests are worked on while others come.
        let accepted = std::future::poll_fn(|context| {
            working.retain_mut(|work: &mut std::pin::Pin<Box<dyn Future<Output = ()>>>| {
                work.as_mut().poll(context).is_pending()
            });
            connection.poll_accept(context)
        });
        let Some(accepted) = accepted.await else { return };
        let Ok((request, mut respond)) = accepted else { return };
        assert_eq!(request.headers()["authorization"], "Bearer secret");
        match request.uri().path() {
            "/reset" => respond.send_reset(h2::Reason::REFUSED_STREAM),
            "/goaway" => {
                connection.graceful_shutdown();
                let _ = respond.send_response(Response::new(()), true);
            }
            "/empty" => {
                let response = Response::builder().status(204).body(()).unwrap();
                let _ = respond.send_response(response, true);
            }
            "/length" => {
                let response = Response::builder().header("content-length", "12345").body(()).unwrap();
                let _ = respond.send_response(response, true);
            }
            _ => working.push(Box::pin(async move {
                let (body, trailers) = whole(request.into_body()).await.unwrap();
                assert_eq!(trailers.is_some(), !body.is_empty());
                let mut sink = respond.send_response(Response::new(()), false).unwrap();
                if body.is_empty() {
                    sink.send_data(Bytes::from_static(b"hello"), true).unwrap();
                } else {
                    upload(sink, body.into()).await;
                }
            })),
        }
    }
}

async fn with_their_server(builder: server::Builder, step: usize, wishes: Vec<Wish>) -> Vec<Outcome> {
    let (ours, theirs) = tokio::io::duplex(100_000);
    let served = their_server(theirs, builder);
    let asked = ask(ours, step, wishes);
    tokio::select! {
        outcomes = asked => outcomes,
        () = async { served.await; std::future::pending().await } => unreachable!(),
    }
}

#[test]
fn our_client_asks_their_server_many_things_at_once() {
    run(async {
        for (step, streams) in [(1, 3), (10, 100), (65_536, 1)] {
            let mut builder = server::Builder::new();
            builder.max_concurrent_streams(streams);
            let wishes = (0..80).map(|_| (Method::Get, "/plain", Vec::new())).collect();
            for outcome in with_their_server(builder, step, wishes).await {
                let hello =
                    Outcome { status: 200, body: b"hello".to_vec(), over: true, ..Outcome::default() };
                assert_eq!(outcome, hello);
            }
        }
    });
}

#[test]
fn our_client_sends_bodies_through_windows_of_any_size() {
    run(async {
        for window in [1_000, 65_535, 4 << 20] {
            let mut builder = server::Builder::new();
            builder.initial_window_size(window).initial_connection_window_size(window.max(65_535));
            let wishes: Vec<Wish> =
                [1, 999, 300_000, BIG].map(|bytes| (Method::Post, "/echo", pattern(bytes))).into();
            let bodies: Vec<Vec<u8>> = wishes.iter().map(|wish| wish.2.clone()).collect();
            for (outcome, body) in with_their_server(builder, 10_000, wishes).await.iter().zip(bodies) {
                assert_eq!((outcome.status, outcome.reset), (200, None));
                assert!(outcome.body == body, "{} of {}", outcome.body.len(), body.len());
                assert_eq!(outcome.trailers, b"x-check: 1\r\n");
            }
        }
    });
}

#[test]
fn responses_without_a_body_and_refused_requests() {
    run(async {
        let wishes: Vec<Wish> = vec![
            (Method::Head, "/length", Vec::new()),
            (Method::Get, "/empty", Vec::new()),
            (Method::Get, "/reset", Vec::new()),
            (Method::Get, "/plain", Vec::new()),
        ];
        let outcomes = with_their_server(server::Builder::new(), 100, wishes).await;
        assert_eq!((outcomes[0].status, outcomes[0].reset), (200, None));
        assert_eq!((outcomes[1].status, outcomes[1].reset), (204, None));
        assert_eq!(outcomes[2].reset, Some((ErrorCode::REFUSED_STREAM, Cause::Peer)));
        assert_eq!(outcomes[3].body, b"hello");
    });
}

#[test]
fn their_server_goes_away() {
    run(async {
        let mut wishes: Vec<Wish> = vec![(Method::Get, "/plain", Vec::new()); 3];
        wishes.push((Method::Get, "/goaway", Vec::new()));
        let outcomes = with_their_server(server::Builder::new(), 1_000, wishes).await;
        assert!(outcomes.iter().all(|outcome| outcome.status == 200 && outcome.over), "{outcomes:?}");
    });
}
