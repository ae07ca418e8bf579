//! What requests cost in allocations on a data thread: nothing, once it is warm; and what a connection that rests holds.
//!
//! Real data threads, sockets, backend and log; an allocator that counts what the data threads ask of it and nobody else.
//! Each scenario runs 100,000 requests after it is warm. What a core does by time and not by request (the wheel of
//! deadlines, the tick) is allowed a small number in all. rustls allocates for every record: over TLS the number per request
//! is bounded and printed.
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64_simd::URL_SAFE_NO_PAD;
use mimalloc::MiMalloc;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use ringwall::control::{Control, Options, exchange};
use ringwall::jose::KeySet;
use ringwall::observe::{
    AuditSink, LogConfig, LogFormat, Registry, RequestIds, RingSizes, Sink, Writer, rings,
};
use ringwall::policy::identify::jwt::parse_keys;
use ringwall::snapshot::compile::{Kept, compile};
use ringwall::snapshot::names::SnapshotNames;
use ringwall::sys::socket::{accept, listen};
use ringwall::worker::core::Node;
use ringwall::worker::desk::Order;
use ringwall::worker::driver::Loop;
use ringwall::worker::run::{BACKLOG, Seat, run};
use ringwall::worker::state::CoreState;
use ringwall::worker::{Buffer, Socket, Wanted, clock};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// Counted requests of one scenario.
const REQUESTS: usize = 100_000;
const CONNECTIONS: usize = 32;
/// Requests that are sent at once on a connection, so that the machine and not the round trip sets the pace.
const PIPELINED: usize = 8;
/// Until pools, caches and connections to the backend are what the load needs.
const WARM: Duration = Duration::from_secs(1);
/// What two cores may allocate by time while a scenario runs, however many requests there are: pools that were trimmed in a
/// quiet tenth of a second and are needed again. One for every two hundred requests; usually there are a few in all.
const BY_TIME_MAX: u64 = 500;
/// What rustls may allocate for a request and its response: a record in, a record out.
const TLS_PER_REQUEST_MAX: f64 = 2.1;
const CORES: usize = 2;

// ---- counting

struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
/// Bytes that data threads hold, each piece as large as mimalloc makes it.
static HELD: AtomicI64 = AtomicI64::new(0);

thread_local! {
    static IS_DATA_THREAD: Cell<bool> = const { Cell::new(false) };
}

fn is_counted() -> bool {
    // A thread that ends has no thread-locals any more, and is not counted.
    IS_DATA_THREAD.try_with(Cell::get).unwrap_or(false)
}

/// What mimalloc takes for a piece of so many bytes: four sizes between two powers of two, and none that is no multiple of 16.
fn taken(bytes: usize) -> i64 {
    let step = (bytes.next_power_of_two() / 8).max(16);
    bytes.next_multiple_of(step) as i64
}

fn let_go(bytes: usize) {
    if is_counted() {
        HELD.fetch_sub(taken(bytes), Ordering::Relaxed);
    }
}

fn count(bytes: usize) {
    if is_counted() {
        HELD.fetch_add(taken(bytes), Ordering::Relaxed);
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        if TELL.load(Ordering::Relaxed) > 0 {
            tell();
        }
    }
}

/// How many more allocations are told with the place they come from. `RINGWALL_WHO_ALLOCATES=5` with `--nocapture` tells
/// five of each scenario.
static TELL: AtomicU64 = AtomicU64::new(0);

#[cold]
fn tell() {
    // Telling allocates.
    IS_DATA_THREAD.set(false);
    if TELL.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
        eprintln!("allocated at\n{}", std::backtrace::Backtrace::force_capture());
    }
    IS_DATA_THREAD.set(true);
}

// SAFETY: everything is passed on to mimalloc as it came; counting touches no memory of the caller.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller keeps the contract, which is mimalloc's.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: as in `alloc`.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let_go(layout.size());
        count(size);
        // SAFETY: as in `alloc`; the pointer came from mimalloc.
        unsafe { MiMalloc.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        let_go(layout.size());
        // SAFETY: as in `realloc`.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }
}

// ---- the node

/// A directory of a scenario's own, removed when dropped.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("ringwall-allocations-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Place(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A driver that the environment names, else the best.
fn wanted() -> Wanted {
    let name = std::env::var("RINGWALL_TEST_DRIVER").unwrap_or_else(|_| "auto".to_owned());
    Wanted::parse(&name).expect("a driver")
}

/// What `ringwall run` puts together, with data threads that are counted.
struct Running {
    address: SocketAddr,
    node: Arc<Node>,
    cores: Vec<JoinHandle<std::io::Result<()>>>,
    writer: Option<Writer>,
    _control: Control<KeySet>,
    _place: Place,
}

impl Running {
    fn start(place: Place, text: &str) -> Running {
        let loaded = ringwall::config::load::load(&place.write("ringwall.yaml", text))
            .unwrap_or_else(|errors| panic!("{}", errors.render(false)));
        let roots = exchange::trust_roots(None).expect("roots");
        let tls = exchange::tls_config(roots).expect("TLS");
        let control = Control::start(Options::new(tls, Arc::new(parse_keys))).expect("a control thread");
        let mut snapshot = compile(&loaded.config, 1, &mut Kept::default(), Some(control.parts()))
            .unwrap_or_else(|errors| panic!("{errors:?}"));
        let mut registry = Registry::new(CORES, ringwall::policy::NAMES);
        snapshot.names = SnapshotNames::register(&snapshot, &mut registry, 0);
        let logs = rings(CORES, RingSizes::default());
        let log = LogConfig {
            access: Some(Sink::File(place.0.join("access.jsonl"))),
            format: LogFormat::Json,
            audit: AuditSink::Off,
            now_ms: clock::unix_ms,
        };
        let writer = Writer::start(logs.drain, &log, registry.directory()).expect("a writer");
        let listener = snapshot.listeners[0].id;
        let node = Arc::new(Node::with_desks(snapshot, CORES).expect("desks"));
        let mut address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        for desk in &node.desks {
            let socket = ringwall::sys::socket::listen(address, BACKLOG).expect("a port");
            address = socket.local_addr().expect("bound");
            desk.lay(Order::Listen { listener, socket, lent: false }).expect("room");
        }
        let mut cores = Vec::new();
        for (index, log) in logs.cores.into_iter().enumerate() {
            let counters = registry.take_core(index).expect("counters");
            let node = Arc::clone(&node);
            let (started, starting) = mpsc::channel();
            cores.push(thread::spawn(move || {
                IS_DATA_THREAD.set(true);
                let state = CoreState::new(log, counters, RequestIds::new().expect("randomness"));
                let seat = Seat { index, cpu: None, driver: wanted(), node, state };
                run(seat, |choice| started.send(choice.driver).expect("somebody waits"))
            }));
            starting.recv().expect("the core runs");
        }
        Running { address, node, cores, writer: Some(writer), _control: control, _place: place }
    }

    fn end(mut self) {
        self.node.draining.store(true, Ordering::Release);
        for core in self.cores.drain(..) {
            core.join().expect("no panic").expect("no error");
        }
        assert!(self.writer.take().expect("until now").stop(Duration::from_secs(5)));
        assert_eq!(self.node.panics.load(Ordering::Relaxed), 0);
    }
}

// ---- the backend

/// Answers every request with 200 and a short body, on a thread of its own that is not counted.
fn backend() -> SocketAddr {
    const ANSWER: &[u8] =
        b"HTTP/1.1 200 OK\r\nServer: backend\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello";
    let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 512).expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        let (mut event_loop, choice) = Loop::build(Wanted::Auto).expect("a driver");
        event_loop.block_on(async move {
            let raw = listener.try_clone().expect("a second handle");
            let listener = Rc::new(monoio::net::TcpListener::from_std(listener).expect("registered"));
            while listener.readable(false).await.is_ok() {
                while let Ok((stream, _)) = accept(raw.as_fd(), choice.driver.wants_nonblocking()) {
                    let socket = Socket::new(stream, choice.driver).expect("registered");
                    monoio::spawn(async move {
                        let (mut buffer, mut out) = (Buffer::large(), Buffer::large());
                        while let Ok(1..) = socket.recv(&mut buffer).await {
                            while let Some(bytes) = message(&buffer) {
                                buffer.consume(bytes);
                                out.extend_from_slice(ANSWER);
                            }
                            let length = out.len();
                            if socket.send(&mut out, 0..length).await.is_err() {
                                return;
                            }
                            out.clear();
                        }
                    });
                }
            }
        });
    });
    address
}

/// Bytes of the message that `bytes` begin with, head and body, if it is here.
fn message(bytes: &[u8]) -> Option<usize> {
    let head = memchr::memmem::find(bytes, b"\r\n\r\n")? + 4;
    let mut length = 0;
    for line in bytes[..head].split(|&byte| byte == b'\n') {
        if line.len() > 15 && line[..15].eq_ignore_ascii_case(b"content-length:") {
            length = std::str::from_utf8(&line[15..]).ok()?.trim().parse().ok()?;
        }
    }
    (bytes.len() >= head + length).then_some(head + length)
}

// ---- the client

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

struct Client {
    streams: Vec<(Box<dyn Stream>, Vec<u8>)>,
}

impl Client {
    fn new(mut connect: impl FnMut() -> Box<dyn Stream>) -> Client {
        Client { streams: (0..CONNECTIONS).map(|_| (connect(), Vec::new())).collect() }
    }

    /// Sends each of the requests in turn, `count` in all and `pipelined` at once, and reads as many answers, each of which
    /// is 200.
    fn ask(&mut self, requests: &[Vec<u8>], pipelined: usize, count: usize) {
        let mut next = 0;
        while next < count {
            for (stream, _) in &mut self.streams {
                let mut batch = Vec::new();
                for _ in 0..pipelined {
                    batch.extend_from_slice(&requests[next % requests.len()]);
                    next += 1;
                }
                stream.write_all(&batch).expect("sent");
                stream.flush().expect("sent");
            }
            for (stream, rest) in &mut self.streams {
                for _ in 0..pipelined {
                    answer(stream.as_mut(), rest);
                }
            }
        }
    }
}

fn answer(stream: &mut dyn Stream, rest: &mut Vec<u8>) {
    let mut buffer = [0; 8 * 1024];
    loop {
        if let Some(bytes) = message(rest) {
            assert!(rest.starts_with(b"HTTP/1.1 200 "), "{}", String::from_utf8_lossy(rest));
            rest.drain(..bytes);
            return;
        }
        let count = stream.read(&mut buffer).expect("an answer");
        assert!(count > 0, "the end instead of an answer");
        rest.extend_from_slice(&buffer[..count]);
    }
}

fn plain(address: SocketAddr) -> Box<dyn Stream> {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_nodelay(true).expect("no delay");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    Box::new(stream)
}

/// Warms the node up, runs the counted requests, ends it; allocations of its data threads meanwhile.
fn allocations(
    running: Running,
    requests: &[Vec<u8>],
    pipelined: usize,
    connect: impl FnMut() -> Box<dyn Stream>,
) -> u64 {
    let mut client = Client::new(connect);
    counted(running, move |count| client.ask(requests, pipelined, count))
}

/// The same of requests that `ask` makes, as many as it is told.
fn counted(running: Running, mut ask: impl FnMut(usize)) -> u64 {
    let begun = Instant::now();
    while begun.elapsed() < WARM {
        ask(2_000);
    }
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    let tell = std::env::var("RINGWALL_WHO_ALLOCATES").ok().and_then(|count| count.parse().ok());
    TELL.store(tell.unwrap_or(0), Ordering::Relaxed);
    let begun = Instant::now();
    ask(REQUESTS);
    let took = begun.elapsed();
    let allocated = ALLOCATIONS.load(Ordering::Relaxed) - before;
    TELL.store(0, Ordering::Relaxed);
    println!("{allocated} allocations in {REQUESTS} requests, {took:.1?}");
    drop(ask);
    running.end();
    allocated
}

/// One scenario after the other: they share the counter.
fn alone() -> std::sync::MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

// ---- the scenarios

const PROXY: &str = "apis: { app: { to: app, raw: \"a test\", allow: [{ who: anyone }] } }";

fn config(listen: &str, more: &str) -> String {
    format!(
        "ringwall: 1\nlisten: {listen}\nupstreams: {{ app: \"http://{}\" }}\n{more}\nnode: {{ cores: {CORES} }}\n",
        backend()
    )
}

const LISTEN: &str = "{ address: \"127.0.0.1:0\", tls: none }";

fn get(more: &str) -> Vec<u8> {
    format!(
        "GET /orders/17?expand=lines HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: test\r\nAccept: */*\r\n{more}\r\n"
    )
    .into_bytes()
}

fn post(more: &str, body: &str) -> Vec<u8> {
    format!(
        "POST /orders HTTP/1.1\r\nHost: api.example.com\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n{more}\r\n{body}",
        body.len()
    )
    .into_bytes()
}

#[test]
fn a_plain_request_allocates_nothing() {
    let _alone = alone();
    let running = Running::start(Place::new("plain"), &config(LISTEN, PROXY));
    let address = running.address;
    let allocated = allocations(running, &[get("")], PIPELINED, || plain(address));
    assert!(allocated <= BY_TIME_MAX, "{allocated} allocations");
}

#[test]
fn a_post_of_1_kib_allocates_nothing() {
    let _alone = alone();
    let running = Running::start(Place::new("post"), &config(LISTEN, PROXY));
    let address = running.address;
    let allocated = allocations(running, &[post("", &"x".repeat(1_024))], PIPELINED, || plain(address));
    assert!(allocated <= BY_TIME_MAX, "{allocated} allocations");
}

const ISSUER: &str = "https://login.example.com/";

/// A key set in `keys.json`, and tokens of different subjects under it.
fn tokens(place: &Place) -> Vec<String> {
    let random = SystemRandom::new();
    let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("a key");
    let key = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).expect("a key");
    // SEC 1 §2.3.3: an uncompressed point is 0x04, x, y.
    let point = key.public_key().as_ref();
    let base64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode_to_string(bytes);
    let set = serde_json::json!({"keys": [{
        "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "k",
        "x": base64(&point[1..33]), "y": base64(&point[33..65]),
    }]});
    place.write("keys.json", &set.to_string());
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let header = base64(br#"{"alg":"ES256","typ":"JWT","kid":"k"}"#);
    (0..16)
        .map(|caller| {
            let claims = serde_json::json!({
                "iss": ISSUER, "aud": "orders", "sub": format!("caller-{caller}"), "scope": "orders.read orders.write",
                "iat": now_s - 10, "exp": now_s + 3_600,
            });
            let signed = format!("{header}.{}", base64(claims.to_string().as_bytes()));
            let signature = key.sign(&random, signed.as_bytes()).expect("signed");
            format!("{signed}.{}", base64(signature.as_ref()))
        })
        .collect()
}

fn with_login(operations: &str) -> String {
    format!(
        "login: {{ people: {{ jwt: keys.json, issuer: \"{ISSUER}\", audience: orders, algorithms: ES256 }} }}
apis:
  orders:
    to: app
    operations:
{operations}
    allow: [{{ who: people, scope: orders.read }}]
    limits: [{{ per: identity, rate: 1000000/s }}, {{ per: address, rate: 1000000000/s }},
      {{ per: identity, concurrency: 1000 }}, {{ per: address, concurrency: 1000 }}]
    headers:
      request: {{ set: {{ X-Gateway: test }}, remove: [X-Debug] }}
      response: {{ set: {{ X-Frame-Options: DENY }}, remove: [Server] }}"
    )
}

fn bearer(token: &str) -> String {
    format!("X-Debug: 1\r\nAuthorization: Bearer {token}\r\n")
}

// ---- HTTP/2

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = u32::try_from(payload.len()).expect("a frame").to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// What begins a connection of a peer that sets no bound.
fn settings() -> Vec<u8> {
    let windows = [0, 4, 0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0, 4, 0];
    [frame(4, 0, 0, &windows), frame(8, 0, 0, &0x7fff_0000_u32.to_be_bytes())].concat()
}

/// Takes the frames off the front of what was received: kind, flags, stream.
fn frames(received: &mut Vec<u8>, mut each: impl FnMut(u8, u8, u32)) {
    let mut at = 0;
    while let Some(&[a, b, c, kind, flags, d, e, f, g]) = received[at..].first_chunk::<9>() {
        let end = at + 9 + u32::from_be_bytes([0, a, b, c]) as usize;
        if end > received.len() {
            break;
        }
        each(kind, flags, u32::from_be_bytes([d, e, f, g]));
        at = end;
    }
    received.drain(..at);
}

/// A client of HTTP/2: `streams` requests at once on each of its connections.
struct Multiplexer {
    connections: Vec<(Box<dyn Stream>, Vec<u8>, u32)>,
    streams: usize,
    scheme: u8,
}

/// Indexed fields of the static table.
const SCHEME_HTTP: u8 = 0x86;
const SCHEME_HTTPS: u8 = 0x87;

impl Multiplexer {
    fn new(
        mut connect: impl FnMut() -> Box<dyn Stream>,
        scheme: u8,
        connections: usize,
        streams: usize,
    ) -> Multiplexer {
        let connect = |_| {
            let mut stream = connect();
            // The server speaks first: what it says is acknowledged before it is read, so that no connection waits for others.
            stream.write_all(&[PREFACE, &settings(), &frame(4, 1, 0, b"")].concat()).expect("sent");
            (stream, Vec::new(), 1)
        };
        Multiplexer { connections: (0..connections).map(connect).collect(), streams, scheme }
    }

    fn ask(&mut self, count: usize) {
        // GET, and two literals that enter no table.
        let mut head = vec![0x82, self.scheme, 0x01, 15];
        head.extend_from_slice(b"api.example.com");
        head.extend_from_slice(&[0x04, 23]);
        head.extend_from_slice(b"/orders/17?expand=lines");
        let mut asked = 0;
        while asked < count {
            for (stream, _, next) in &mut self.connections {
                let mut batch = Vec::new();
                for _ in 0..self.streams {
                    batch.extend_from_slice(&frame(HEADERS, 4 | END_STREAM, *next, &head));
                    *next += 2;
                }
                stream.write_all(&batch).expect("sent");
                asked += self.streams;
            }
            for (stream, received, _) in &mut self.connections {
                let mut answered = 0;
                while answered < self.streams {
                    let mut buffer = [0; 16 * 1024];
                    let count = stream.read(&mut buffer).expect("an answer");
                    assert!(count > 0, "the end instead of an answer");
                    received.extend_from_slice(&buffer[..count]);
                    frames(received, |kind, flags, _| {
                        assert!(!matches!(kind, 3 | 7), "a reset or the end instead of an answer");
                        answered += usize::from(kind < 2 && flags & END_STREAM != 0);
                    });
                }
            }
        }
    }
}

/// A backend that speaks HTTP/2, on threads of its own that are not counted.
fn http2_backend() -> SocketAddr {
    let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 512).expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            stream.set_nodelay(true).expect("no delay");
            thread::spawn(move || {
                let mut preface = [0; PREFACE.len()];
                let _ = stream.read_exact(&mut preface);
                let mut out = settings();
                let (mut received, mut buffer) = (Vec::new(), [0; 64 * 1024]);
                while stream.write_all(&out).is_ok()
                    && let Ok(count @ 1..) = stream.read(&mut buffer)
                {
                    out.clear();
                    received.extend_from_slice(&buffer[..count]);
                    frames(&mut received, |kind, flags, stream| {
                        if kind == 4 && flags == 0 {
                            out.extend_from_slice(&frame(4, 1, 0, b""));
                        } else if kind == HEADERS {
                            // 200, and five bytes.
                            out.extend_from_slice(&frame(HEADERS, 4, stream, &[0x88]));
                            out.extend_from_slice(&frame(0, END_STREAM, stream, b"hello"));
                        }
                    });
                }
            });
        }
    });
    address
}

const LISTEN_HTTP2: &str = "{ address: \"127.0.0.1:0\", tls: none, protocols: http2 }";

#[test]
fn a_request_on_a_stream_allocates_nothing() {
    let _alone = alone();
    let running = Running::start(Place::new("stream"), &config(LISTEN_HTTP2, PROXY));
    let address = running.address;
    let mut client = Multiplexer::new(|| plain(address), SCHEME_HTTP, 8, 16);
    let allocated = counted(running, move |count| client.ask(count));
    assert!(allocated <= BY_TIME_MAX, "{allocated} allocations");
}

#[test]
fn a_request_on_streams_of_both_sides_allocates_nothing() {
    let _alone = alone();
    let text = format!(
        "ringwall: 1\nlisten: {LISTEN_HTTP2}\nupstreams: {{ app: {{ targets: \"http://{}\", protocol: http2 }} }}
{PROXY}\nnode: {{ cores: {CORES} }}\n",
        http2_backend()
    );
    let running = Running::start(Place::new("streams"), &text);
    let address = running.address;
    let mut client = Multiplexer::new(|| plain(address), SCHEME_HTTP, 8, 16);
    let allocated = counted(running, move |count| client.ask(count));
    assert!(allocated <= BY_TIME_MAX, "{allocated} allocations");
}

#[test]
fn a_token_a_limit_and_edits_allocate_nothing() {
    let _alone = alone();
    let place = Place::new("jwt");
    let tokens = tokens(&place);
    let running = Running::start(place, &config(LISTEN, &with_login("      getOrder: GET /orders/{id}")));
    let address = running.address;
    let requests: Vec<Vec<u8>> = tokens.iter().map(|token| get(&bearer(token))).collect();
    let allocated = allocations(running, &requests, PIPELINED, || plain(address));
    assert!(allocated <= BY_TIME_MAX, "{allocated} allocations");
}

/// Every kind of value, nested, with the keywords that documents use.
const SCHEMA: &str = r##"{
  "type": "object",
  "properties": {
    "id": { "type": "string", "minLength": 8, "maxLength": 64 },
    "status": { "enum": ["pending", "paid", "shipped"] },
    "created_at": { "type": "string", "pattern": "^[0-9]{4}-[0-9]{2}-[0-9]{2}T" },
    "customer": { "$ref": "#/$defs/customer" },
    "note": { "type": ["string", "null"] },
    "lines": { "type": "array", "minItems": 1, "maxItems": 50, "items": { "$ref": "#/$defs/line" } },
    "total": { "type": "number", "minimum": 0 }
  },
  "required": ["id", "status", "customer", "lines"],
  "additionalProperties": false,
  "$defs": {
    "customer": {
      "type": "object",
      "properties": { "id": { "type": "integer" }, "email": { "type": "string" }, "name": { "type": "string" } },
      "required": ["id"], "additionalProperties": false
    },
    "line": {
      "type": "object",
      "properties": {
        "sku": { "type": "string", "pattern": "^[A-Z]{3}-[0-9]+$" },
        "quantity": { "type": "integer", "minimum": 1 },
        "price": { "anyOf": [{ "type": "number" }, { "type": "string" }] }
      },
      "required": ["sku", "quantity"]
    }
  }
}"##;

/// About 1 KiB that [`SCHEMA`] admits.
fn order(number: usize) -> String {
    let lines: Vec<String> = (0..19)
        .map(|line| {
            format!(r#"{{"sku":"ABC-{}","quantity":{},"price":{line}.5}}"#, number * 100 + line, line + 1)
        })
        .collect();
    let order = format!(
        r#"{{"id":"1738f7d9-8d11-46ca-a0f2-{number:012}","status":"pending","created_at":"2026-03-01T09:00:11Z","customer":{{"id":{number},"email":"user{number}@example.com","name":"Zo\u00eb Müller"}},"note":null,"lines":[{}],"total":1234.56}}"#,
        lines.join(",")
    );
    assert!((1_000..1_100).contains(&order.len()), "{} bytes", order.len());
    order
}

#[test]
fn a_token_a_limit_and_a_schema_allocate_nothing() {
    let _alone = alone();
    let place = Place::new("schema");
    place.write("order.schema.json", SCHEMA);
    let tokens = tokens(&place);
    let operation = "      createOrder: { match: POST /orders, body: { schema: order.schema.json } }";
    let running = Running::start(place, &config(LISTEN, &with_login(operation)));
    let address = running.address;
    let requests: Vec<Vec<u8>> =
        tokens.iter().enumerate().map(|(number, token)| post(&bearer(token), &order(number))).collect();
    let allocated = allocations(running, &requests, PIPELINED, || plain(address));
    assert!(allocated <= BY_TIME_MAX, "{allocated} allocations");
}

/// Clients that trust `server`, show `own` and speak `protocol`, where one is named.
fn secure(
    address: SocketAddr,
    server: &rcgen::Certificate,
    own: Option<(&rcgen::Certificate, &rcgen::KeyPair)>,
    protocol: Option<&str>,
) -> impl FnMut() -> Box<dyn Stream> + use<> {
    let mut roots = RootCertStore::empty();
    roots.add(server.der().clone()).expect("a root");
    let client = ClientConfig::builder_with_provider(ringwall::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let mut client = match own {
        None => client.with_no_client_auth(),
        Some((own, key)) => {
            let key = key.serialize_der().try_into().expect("PKCS#8");
            client.with_client_auth_cert(vec![own.der().clone()], key).expect("a certificate and its key")
        }
    };
    client.alpn_protocols = protocol.into_iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let client = Arc::new(client);
    move || {
        let stream = TcpStream::connect(address).expect("connected");
        stream.set_nodelay(true).expect("no delay");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        let name = ServerName::try_from("api.example.com").expect("a name");
        let connection = ClientConnection::new(Arc::clone(&client), name).expect("a client");
        Box::new(StreamOwned::new(connection, stream)) as Box<dyn Stream>
    }
}

#[test]
fn over_tls_only_rustls_allocates_and_a_bounded_number() {
    let _alone = alone();
    let place = Place::new("tls");
    let made = rcgen::generate_simple_self_signed(["api.example.com".to_owned()]).expect("a certificate");
    place.write("c.pem", &made.cert.pem());
    place.write("k.pem", &made.signing_key.serialize_pem());
    let listen = "{ address: \"127.0.0.1:0\", domains: [api.example.com], tls: { cert: c.pem, key: k.pem } }";
    let running = Running::start(place, &config(listen, PROXY));
    let connect = secure(running.address, &made.cert, None, None);
    // The path is that of the plain request, which allocates nothing: all of this is rustls'. One request at a time, so that
    // each is a record of its own.
    let per_request = allocations(running, &[get("")], 1, connect) as f64 / REQUESTS as f64;
    println!("over TLS {per_request:.2} allocations a request");
    assert!(per_request <= TLS_PER_REQUEST_MAX, "{per_request} allocations a request");
}

/// The certificate of the connection, its revocation list, a login by it, a limit and `Client-Cert`: nothing more than TLS alone.
#[test]
fn a_login_by_certificate_allocates_nothing_more() {
    let _alone = alone();
    let place = Place::new("certificates");
    let made = rcgen::generate_simple_self_signed(["api.example.com".to_owned()]).expect("a certificate");
    place.write("c.pem", &made.cert.pem());
    place.write("k.pem", &made.signing_key.serialize_pem());
    let mut authority = rcgen::CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority_key = rcgen::KeyPair::generate().expect("a key");
    place.write("ca.pem", &authority.self_signed(&authority_key).expect("made").pem());
    let issuer = rcgen::Issuer::from_params(&authority, &authority_key);
    let own_key = rcgen::KeyPair::generate().expect("a key");
    let own = rcgen::CertificateParams::new(vec!["shop.partners.test".to_owned()]).expect("a name");
    let own = own.signed_by(&own_key, &issuer).expect("made");
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2026, 1, 1),
        next_update: rcgen::date_time_ymd(2096, 1, 1),
        crl_number: rcgen::SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    place.write("list.pem", &list.signed_by(&issuer).expect("made").pem().expect("PEM"));
    let listen = "{ address: \"127.0.0.1:0\", domains: [api.example.com], \
                  tls: { cert: c.pem, key: k.pem, client_ca: { file: ca.pem, crl: list.pem } } }";
    let more = "login: { partners: { mtls: ca.pem, names: \"dns:*.partners.test\", passthrough: true } }
apis:
  app:
    to: app
    raw: \"a test\"
    allow: [{ who: partners }]
    limits: [{ per: identity, rate: 1000000/s }]";
    let running = Running::start(place, &config(listen, more));
    let connect = secure(running.address, &made.cert, Some((&own, &own_key)), None);
    let per_request = allocations(running, &[get("")], 1, connect) as f64 / REQUESTS as f64;
    println!("with a client's certificate {per_request:.2} allocations a request");
    assert!(per_request <= TLS_PER_REQUEST_MAX, "{per_request} allocations a request");
}

// ---- connections that rest

/// Connections that rest beside each other.
const RESTING: usize = 100;
/// Requests at once on each of them, now and then.
const BURST: usize = 20;
/// What one of HTTP/2 over TLS may hold, bytes; most of it is what one of HTTP/1.1 holds too, and that is TLS. What the
/// allocator cannot give back comes on top; `loadtest compare --scenario idle_h2` measures all of it.
const RESTING_HTTP2_BYTES_MAX: i64 = 8_000;
/// How often what is held is looked at, how many looks alike make it settled, and how many there are.
const LOOK: Duration = Duration::from_millis(100);
const LOOKS_ALIKE: usize = 15;
const LOOKS_MAX: usize = 300;

/// What data threads hold once nothing changes any more: longer than connections and pools take to give things back.
fn settled() -> i64 {
    let (mut held, mut alike) = (0, 0);
    for _ in 0..LOOKS_MAX {
        thread::sleep(LOOK);
        let now = HELD.load(Ordering::Relaxed);
        alike = if now == held { alike + 1 } else { 0 };
        held = now;
        if alike == LOOKS_ALIKE {
            return held;
        }
    }
    panic!("what is held never settles");
}

#[test]
fn a_connection_of_http2_that_rests_holds_little() {
    let _alone = alone();
    let place = Place::new("resting");
    let made = rcgen::generate_simple_self_signed(["api.example.com".to_owned()]).expect("a certificate");
    place.write("c.pem", &made.cert.pem());
    place.write("k.pem", &made.signing_key.serialize_pem());
    let listen = "{ address: \"127.0.0.1:0\", domains: [api.example.com], tls: { cert: c.pem, key: k.pem } }";
    let running = Running::start(place, &config(listen, PROXY));
    let mut connect = secure(running.address, &made.cert, None, Some("h2"));
    let mut clients = |streams| Multiplexer::new(&mut connect, SCHEME_HTTPS, RESTING, streams);
    // Connections to the backend stay when clients go: as many as there will be.
    clients(BURST).ask(4 * BURST * RESTING);
    let before = settled();
    let mut client = clients(1);
    client.ask(RESTING);
    let after_one = held_by_each(RESTING, before, RESTING_HTTP2_BYTES_MAX);
    client.streams = BURST;
    client.ask(4 * BURST * RESTING);
    let after_burst = held_by_each(RESTING, before, RESTING_HTTP2_BYTES_MAX);
    println!("a connection that rests holds {after_one} bytes, after a burst {after_burst}");
    drop(client);
    running.end();
    assert!(after_one <= RESTING_HTTP2_BYTES_MAX, "{after_one} bytes");
    assert!(after_burst <= RESTING_HTTP2_BYTES_MAX, "{after_burst} bytes after a burst");
}

/// The bytes held for each of so many that rest, beyond what was held `before`, once they are `most`, or will not be any more: what
/// happens by time, some seconds after the last message, is waited for, and no longer.
fn held_by_each(count: usize, before: i64, most: i64) -> i64 {
    let by_each = || (HELD.load(Ordering::Relaxed) - before) / count as i64;
    for _ in 0..LOOKS_MAX {
        if by_each() <= most {
            break;
        }
        thread::sleep(LOOK);
    }
    by_each()
}

// ---- tunnels that rest

const WEBSOCKET: &str =
    "apis: { app: { to: app, raw: \"a test\", websocket: { idle: 1h }, allow: [{ who: anyone }] } }";
/// A text under a mask of zeros, and how it comes back.
const HELLO: &[u8] = b"\x81\x85\0\0\0\0hello";
const HELLO_BACK: &[u8] = b"\x81\x05hello";
/// What one may hold, bytes, on both sides of it.
const RESTING_TUNNEL_BYTES_MAX: i64 = 14_000;
/// The same of one from a client of HTTP/2, and of one to an upstream of HTTP/2, on a connection of its own.
const RESTING_TUNNEL_FROM_HTTP2_BYTES_MAX: i64 = 15_900;
const RESTING_TUNNEL_TO_HTTP2_BYTES_MAX: i64 = 16_800;
/// Tunnels that rest beside each other: so many that what pools keep anyhow does not matter.
const TUNNELS: usize = 300;
/// Tunnels in one connection of a client of HTTP/2.
const IN_ONE: usize = 10;

/// Takes a WebSocket on each connection, and answers each [`HELLO`].
fn greeting_backend() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    let greet = |mut stream: TcpStream| {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            if stream.read_exact(&mut byte).is_err() {
                return;
            }
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).expect("text");
        let is_key = |(name, _): &(&str, &str)| name.eq_ignore_ascii_case("sec-websocket-key");
        let (_, key) = head.lines().filter_map(|line| line.split_once(": ")).find(is_key).expect("a key");
        let accepted = ring::digest::digest(
            &ring::digest::SHA1_FOR_LEGACY_USE_ONLY,
            format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
        );
        let accepted = base64_simd::STANDARD.encode_to_string(accepted.as_ref());
        let answer = format!(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Accept: {accepted}\r\n\r\n"
        );
        let mut hello = [0; HELLO.len()];
        let mut sent = stream.write_all(answer.as_bytes());
        while sent.is_ok() && stream.read_exact(&mut hello).is_ok() {
            sent = stream.write_all(HELLO_BACK);
        }
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || greet(stream));
        }
    });
    address
}

/// The same over HTTP/2.
fn greeting_backend_http2() -> SocketAddr {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    let greet = |mut stream: TcpStream| {
        // SETTINGS_ENABLE_CONNECT_PROTOCOL, and an acknowledgement before there is anything to acknowledge.
        let first = [frame(4, 0, 0, &[0, 8, 0, 0, 0, 1]), frame(4, 1, 0, b"")].concat();
        let mut sent = stream.write_all(&first);
        let mut preface = [0; PREFACE.len()];
        let _ = stream.read_exact(&mut preface);
        let (mut received, mut buffer) = (Vec::new(), [0; 4_096]);
        while sent.is_ok()
            && let Ok(count @ 1..) = stream.read(&mut buffer)
        {
            received.extend_from_slice(&buffer[..count]);
            let mut answers = Vec::new();
            frames(&mut received, |kind, _, number| match kind {
                // `:status: 200`.
                HEADERS => answers.extend_from_slice(&frame(HEADERS, 4, number, &[0x88])),
                0 => answers.extend_from_slice(&frame(0, 0, number, HELLO_BACK)),
                _ => {}
            });
            sent = stream.write_all(&answers);
        }
    };
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || greet(stream));
        }
    });
    address
}

/// The bytes held for a tunnel on which nothing is under way, of those that `open` opens and that have carried a message each, once
/// they are `most`, or will not be any more.
fn a_tunnel_holds(
    listen: &str,
    upstream: &str,
    open: impl Fn(SocketAddr, usize) -> Vec<Box<dyn Stream>>,
    most: i64,
) -> i64 {
    let text = format!(
        "ringwall: 1\nlisten: {listen}\nupstreams: {{ app: {upstream} }}\n{WEBSOCKET}\nnode: {{ cores: {CORES} }}\n"
    );
    let running = Running::start(Place::new("tunnels"), &text);
    // Who comes first finds nothing that others have left, but what every core has.
    drop(open(running.address, IN_ONE));
    let before = settled();
    let held = open(running.address, TUNNELS);
    let held_by_one = held_by_each(TUNNELS, before, most);
    drop(held);
    running.end();
    held_by_one
}

#[test]
fn a_tunnel_that_rests_holds_little() {
    let _alone = alone();
    let handshake = "GET /ws HTTP/1.1\r\nHost: api.example.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";
    let over_http1 = |address, count| {
        let open = |_| {
            let mut stream = plain(address);
            stream.write_all(handshake.as_bytes()).expect("sent");
            let mut received = Vec::new();
            while !received.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                stream.read_exact(&mut byte).expect("an answer");
                received.push(byte[0]);
            }
            assert!(received.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&received));
            stream.write_all(HELLO).expect("sent");
            let mut back = [0; HELLO_BACK.len()];
            stream.read_exact(&mut back).expect("a message");
            assert_eq!(back, HELLO_BACK);
            stream
        };
        (0..count).map(open).collect()
    };
    let over_http2 = |address, count: usize| {
        let string = |text: &[u8]| [&[text.len() as u8][..], text].concat();
        let head = [
            &[0x02][..],
            &string(b"CONNECT"),
            &[0x00],
            &string(b":protocol"),
            &string(b"websocket"),
            &[SCHEME_HTTP, 0x01],
            &string(b"api.example.com"),
            &[0x04],
            &string(b"/ws"),
            &[0x00],
            &string(b"sec-websocket-version"),
            &string(b"13"),
        ]
        .concat();
        let open = |_| {
            let mut stream = plain(address);
            let mut batch = [PREFACE, &settings(), &frame(4, 1, 0, b"")].concat();
            for number in 0..IN_ONE as u32 {
                batch.extend_from_slice(&frame(HEADERS, 4, 2 * number + 1, &head));
                batch.extend_from_slice(&frame(0, 0, 2 * number + 1, HELLO));
            }
            stream.write_all(&batch).expect("sent");
            let (mut received, mut greeted) = (Vec::new(), 0);
            while greeted < IN_ONE {
                let mut buffer = [0; 4_096];
                let count = stream.read(&mut buffer).expect("an answer");
                assert!(count > 0, "the end instead of an answer");
                received.extend_from_slice(&buffer[..count]);
                frames(&mut received, |kind, _, _| greeted += usize::from(kind == 0));
            }
            stream
        };
        (0..count / IN_ONE).map(open).collect()
    };
    let to_http1 = format!("\"http://{}\"", greeting_backend());
    let to_http2 = format!("{{ targets: [\"http://{}\"], protocol: http2 }}", greeting_backend_http2());
    let listen = "{ address: \"127.0.0.1:0\", tls: none, protocols: [http2] }";
    let bounds =
        [RESTING_TUNNEL_BYTES_MAX, RESTING_TUNNEL_FROM_HTTP2_BYTES_MAX, RESTING_TUNNEL_TO_HTTP2_BYTES_MAX];
    let held = [
        a_tunnel_holds(LISTEN, &to_http1, over_http1, bounds[0]),
        a_tunnel_holds(listen, &to_http1, over_http2, bounds[1]),
        a_tunnel_holds(LISTEN, &to_http2, over_http1, bounds[2]),
    ];
    let told = "HTTP/1.1 to HTTP/1.1, HTTP/2 to HTTP/1.1, HTTP/1.1 to HTTP/2";
    println!("a tunnel that rests holds {held:?} bytes, from {told}");
    assert!(held.iter().zip(bounds).all(|(bytes, most)| *bytes <= most), "{held:?} of {bounds:?}: {told}");
}
