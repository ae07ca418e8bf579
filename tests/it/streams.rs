//! Answers and uploads without end: nothing waits for what has not come yet, nothing is kept of what has gone, with every
//! policy that there is.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use hyper::body::Bytes;
use hyper::http::Request;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::node::{Client, Node, PATIENCE, Place, new_key};

/// Events of a lockstep.
const EVENTS: usize = 200;
/// What passes in each direction of a long message.
const LONG_BYTES: u64 = 256 << 20;
/// What the node may need more after that than before it. Its buffers are counted in hundreds of KiB.
const GROWTH_BYTES_MAX: u64 = 6 << 20;

/// The same for a hundred streams of a connection of HTTP/2 that take nothing.
const STREAMS_GROWTH_BYTES_MAX: u64 = 100 * (64 << 10);

/// An origin that sends one piece whenever it is told to, and nothing in between.
struct Stepper {
    address: SocketAddr,
    go: Sender<Vec<u8>>,
}

impl Stepper {
    fn start() -> Stepper {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let (go, pieces) = channel::<Vec<u8>>();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.set_nodelay(true).expect("no delay");
            let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
            read_request(&mut reader);
            for piece in pieces {
                if stream.write_all(&piece).is_err() {
                    return;
                }
            }
        });
        Stepper { address, go }
    }

    fn send(&self, piece: impl Into<Vec<u8>>) {
        self.go.send(piece.into()).expect("the origin waits");
    }
}

/// Reads a head and a body with a length.
fn read_request(reader: &mut BufReader<TcpStream>) {
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).expect("a line");
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if line == "\r\n" {
            break;
        }
    }
    reader.read_exact(&mut vec![0; length]).expect("the body");
}

/// A place with a key store, a schema and a certificate; and the key.
fn place() -> (Place, String, rcgen::Certificate) {
    let place = Place::new();
    place.write("pepper", "0123456789abcdef0123456789abcdef");
    place.write("any.schema.json", r#"{ "type": "object", "required": ["topic"] }"#);
    let key = new_key(place.path(), "acme", &[]);
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("a certificate");
    place.write("c.pem", &made.cert.pem());
    place.write("k.pem", &made.signing_key.serialize_pem());
    (place, key, made.cert)
}

/// Everything that can be asked of an exchange, asked of this one.
fn config(origin: SocketAddr) -> String {
    format!(
        "upstreams: {{ app: \"http://{origin}\" }}
login: {{ partners: {{ api_key: X-API-Key, store: partners.keys, pepper: \"secret:file:pepper\" }} }}
apis:
  app:
    to: app
    sizes: {{ body: 1GiB, response: 1GiB }}
    headers: {{ request: {{ set: {{ X-A: b }} }}, response: {{ set: {{ X-B: c }}, remove: [X-C] }} }}
    limits:
      - {{ per: address, rate: 10000/s }}
      - {{ per: identity, rate: 10000/s, mode: observe }}
    allow: [{{ who: partners }}]
    operations:
      events: {{ match: POST /events, body: {{ schema: any.schema.json, types: application/json }} }}
      down: GET /down
      up: {{ match: PUT /up, body: {{ types: application/octet-stream }} }}"
    )
}

fn request(key: &str) -> String {
    format!(
        "POST /events HTTP/1.1\r\nHost: a.test\r\nX-API-Key: {key}\r\nContent-Type: application/json\r\n\
         Content-Length: 13\r\n\r\n{{\"topic\":\"a\"}}"
    )
}

/// Reads until what was read ends with `end`.
fn until(stream: &mut impl Read, end: &[u8]) -> Vec<u8> {
    let mut all = Vec::new();
    let mut byte = [0; 1];
    while !all.ends_with(end) {
        stream.read_exact(&mut byte).expect("what the origin has sent arrives");
        all.push(byte[0]);
    }
    all
}

/// Each event arrives while the origin holds the next one back: whoever waited for more would wait for ever. Gives the least
/// time that one took.
fn lockstep(stepper: &Stepper, stream: &mut (impl Read + Write), request: &str, framed: bool) -> Duration {
    stream.write_all(request.as_bytes()).expect("sent");
    stream.flush().expect("sent");
    let framing = if framed { "Transfer-Encoding: chunked\r\n" } else { "" };
    stepper.send(format!("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{framing}\r\n"));
    let head = until(stream, b"\r\n\r\n");
    assert!(head.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(&head));
    let mut least = PATIENCE;
    for number in 0..EVENTS {
        let event = format!("data: {number}\n\n");
        let begun = Instant::now();
        match framed {
            true => stepper.send(format!("{:x}\r\n{event}\r\n", event.len())),
            false => stepper.send(event.as_str()),
        }
        let got = until(stream, format!("data: {number}\n\n").as_bytes());
        least = least.min(begun.elapsed());
        assert!(got.len() < 40, "{}", String::from_utf8_lossy(&got));
    }
    least
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_nodelay(true).expect("no delay");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

#[test]
fn an_event_arrives_while_the_origin_holds_the_next_one_under_every_policy() {
    let direct = {
        let stepper = Stepper::start();
        lockstep(&stepper, &mut connect(stepper.address), &request("none"), true)
    };
    for framed in [true, false] {
        let stepper = Stepper::start();
        let (place, key, _) = place();
        let node = Node::start_in(place, "{ address: \"127.0.0.1:0\", tls: none }", &config(stepper.address));
        let through = lockstep(&stepper, &mut connect(node.address), &request(&key), framed);
        let added = through.saturating_sub(direct);
        println!("an event takes {direct:?} directly, {through:?} through the node (the least of {EVENTS})");
        assert!(added < Duration::from_millis(1), "{added:?} added to {direct:?}");
    }
}

#[test]
fn an_event_arrives_under_tls_while_the_origin_holds_the_next_one() {
    let stepper = Stepper::start();
    let (place, key, certificate) = place();
    let listen = "{ address: \"127.0.0.1:0\", domains: [a.test], tls: { cert: c.pem, key: k.pem } }";
    let node = Node::start_in(place, listen, &config(stepper.address));
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).expect("a root");
    let config = ClientConfig::builder_with_provider(ringwall::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("a.test").expect("a name");
    let client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut stream = StreamOwned::new(client, connect(node.address));
    lockstep(&stepper, &mut stream, &request(&key), true);
}

#[test]
fn what_was_sent_of_an_answer_that_is_cut_is_on_record() {
    const PART: usize = 30_000;
    let (stepper, (place, key, _)) = (Stepper::start(), place());
    let node = Node::start_in(place, "{ address: \"127.0.0.1:0\", tls: none }", &config(stepper.address));
    let mut stream = connect(node.address);
    let request = format!("GET /down HTTP/1.1\r\nHost: a.test\r\nX-API-Key: {key}\r\n\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    stepper.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 2 * PART));
    let head = until(&mut stream, b"\r\n\r\n").len();
    stepper.send(vec![b'd'; PART]);
    stream.read_exact(&mut vec![0; PART]).expect("the first half");
    // The origin goes.
    drop(stepper);
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(rest, b"", "an answer that is cut gains nothing");
    let line = &node.log(1)[0];
    assert!(line["status"] == 200 && line["reason"].is_string(), "{line}");
    assert_eq!(line["bytes_out"], head + PART, "{line}");
}

/// The most memory that the node has had at once, in bytes.
fn peak(node: &Node) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.child.id())).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a high-water mark");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") * 1024
}

/// An origin that sends without end, or takes without end; tells how much.
struct Endless {
    address: SocketAddr,
    sent: Arc<AtomicU64>,
    taken: Receiver<u64>,
}

impl Endless {
    fn start() -> Endless {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let (sender, taken) = channel();
        let sent = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&sent);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let (sender, counted) = (sender.clone(), Arc::clone(&counted));
                thread::spawn(move || {
                    let head = until(&mut stream, b"\r\n\r\n");
                    if head.starts_with(b"GET ") {
                        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
                        let _ = stream.write_all(head.as_bytes());
                        let event = [b"data: ", &[b'd'; 0x10000 - 8][..], b"\n\n"].concat();
                        let chunk = [&b"10000\r\n"[..], &event, b"\r\n"].concat();
                        while stream.write_all(&chunk).is_ok() {
                            counted.fetch_add(0x10000, Ordering::Relaxed);
                        }
                        return;
                    }
                    // Everything there is, framing included.
                    let mut buffer = vec![0; 256 * 1024];
                    let mut count = 0;
                    let mut last = Vec::new();
                    while !last.ends_with(b"0\r\n\r\n") {
                        let read = stream.read(&mut buffer).unwrap_or(0);
                        if read == 0 {
                            return;
                        }
                        count += read as u64;
                        last.extend_from_slice(&buffer[read.saturating_sub(5)..read]);
                        last.drain(..last.len().saturating_sub(5));
                    }
                    let _ = sender.send(count);
                    let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
                });
            }
        });
        Endless { address, sent, taken }
    }

    /// Waits until nobody takes anything of what it sends; how much that was.
    fn stalls(&self) -> u64 {
        let mut last = 0;
        loop {
            thread::sleep(Duration::from_millis(100));
            let now = self.sent.load(Ordering::Relaxed);
            if now == last && now > 0 {
                return now;
            }
            last = now;
        }
    }
}

/// Events that come on a stream, read as slowly as its reader likes: the window opens for what it has read.
struct Events(h2::RecvStream);

impl Events {
    async fn open(client: &h2::client::SendRequest<Bytes>, key: &str) -> Events {
        let request = Request::get("http://a/down").header("x-api-key", key).body(()).expect("a request");
        let mut client = client.clone().ready().await.expect("a place");
        let (answer, _) = client.send_request(request, true).expect("sent");
        let answer = answer.await.expect("an answer");
        assert_eq!(answer.status(), 200);
        Events(answer.into_body())
    }

    /// Reads so many bytes at the least.
    async fn read(&mut self, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            let piece = self.0.data().await.expect("more").expect("no reset");
            self.0.flow_control().release_capacity(piece.len()).expect("as much as came");
            left = left.saturating_sub(piece.len());
        }
    }
}

#[test]
fn events_that_a_hundred_streams_of_a_connection_do_not_take_wait_at_their_origin() {
    const STREAMS: usize = 100;
    const READ_BYTES: usize = 32 << 20;
    let origin = Endless::start();
    let (place, key, _) = place();
    let listen = "{ address: \"127.0.0.1:0\", tls: none, protocols: [http2] }";
    let node = Node::start_in(place, listen, &config(origin.address));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = runtime.block_on(async {
        let socket = tokio::net::TcpStream::connect(node.address).await.expect("connected");
        // What streams do not read is not to take from each other.
        let mut builder = h2::client::Builder::new();
        let handshake = builder.initial_connection_window_size(1 << 30).handshake(socket);
        let (client, connection) = handshake.await.expect("HTTP/2");
        tokio::spawn(connection);
        client
    });
    // What a first exchange needs is there before anything is measured.
    let mut first = runtime.block_on(Events::open(&client, &key));
    runtime.block_on(first.read(READ_BYTES));
    let before = peak(&node);
    let read = runtime.block_on(async {
        let mut all = Vec::new();
        for _ in 0..STREAMS {
            all.push(Events::open(&client, &key).await);
        }
        // The runtime stands still from here on: nobody reads the connection either.
        all
    });
    let last = origin.stalls();
    let stalled = peak(&node);
    let mut all = read;
    runtime.block_on(async {
        for events in &mut all {
            events.read(256 << 10).await;
        }
        first.read(READ_BYTES).await;
    });
    origin.stalls();
    let after = peak(&node);
    println!(
        "peak {before} with one stream, {stalled} with {STREAMS} that stall ({last} sent), {after} when all had read on"
    );
    assert!(after - before < STREAMS_GROWTH_BYTES_MAX, "{before} became {after}");
}

#[test]
fn a_stream_of_256_mebibytes_each_way_leaves_the_memory_of_the_node_as_it_was() {
    let origin = Endless::start();
    let (place, key, _) = place();
    let node = Node::start_in(place, "{ address: \"127.0.0.1:0\", tls: none }", &config(origin.address));
    let credential = format!("Host: a\r\nX-API-Key: {key}\r\n");
    // What a first exchange needs is there before anything is measured.
    let upload = |pieces: u64| {
        let mut stream = connect(node.address);
        let head = "Content-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n";
        stream.write_all(format!("PUT /up HTTP/1.1\r\n{credential}{head}\r\n").as_bytes()).expect("sent");
        let chunk = [b"10000\r\n".to_vec(), vec![b'u'; 0x10000], b"\r\n".to_vec()].concat();
        for _ in 0..pieces {
            stream.write_all(&chunk).expect("sent");
        }
        stream.write_all(b"0\r\n\r\n").expect("sent");
        let taken = origin.taken.recv_timeout(3 * PATIENCE).expect("all of it");
        assert!(taken > pieces * 0x10000, "{taken}");
        assert_eq!(Client::new(stream).answer().status, 204);
    };
    upload(16);
    let before = peak(&node);
    upload(LONG_BYTES / 0x10000);
    let uploaded = peak(&node);

    let mut stream = connect(node.address);
    stream.write_all(format!("GET /down HTTP/1.1\r\n{credential}\r\n").as_bytes()).expect("sent");
    // A client that does not read yet: the origin is held up, and nothing piles up between them.
    let last = origin.stalls();
    let stalled = peak(&node);
    assert!(last < 64 << 20, "{last} bytes are somewhere");
    let mut read = 0;
    let mut buffer = vec![0; 256 * 1024];
    while read < LONG_BYTES {
        let count = stream.read(&mut buffer).expect("more");
        assert!(count > 0, "it ended after {read}");
        read += count as u64;
    }
    let after = peak(&node);
    println!(
        "peak {before} before, {uploaded} after the upload, {stalled} stalled, {after} after the download"
    );
    assert!(after - before < GROWTH_BYTES_MAX, "{before} became {after}");
}
