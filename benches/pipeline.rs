//! What one request costs between its bytes and its record, without IO: parse, admit, policies, prepare and encode the
//! request, parse the response, encode it, record it.
//!
//! `cargo bench --bench pipeline`: nanoseconds per request and stage, medians of rounds. With `--once` (or `--test`) each
//! scenario runs once. With `--callgrind NAME [N]` only that scenario runs, N times (default 1,000), after it is warm: each
//! stage is a function that is never inlined, so that under `valgrind --tool=callgrind --toggle-collect='*Bench::counted*'`
//! the inclusive counts of `parse`, `admit`, `policies`, `encode`, `answer`, `respond` and `record` are those of its stages.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use base64_simd::URL_SAFE_NO_PAD;
use ring::hmac;
use ringwall::control::{Control, Options, exchange};
use ringwall::h1::downstream::Link;
use ringwall::h1::parse::{Parse, parse_request, parse_response};
use ringwall::http::{BodyLength, HeadLimits, Method};
use ringwall::jose::KeySet;
use ringwall::observe::{Formatter, LogDrain, LogFormat, NameTable, Registry, RequestIds, RingSizes, rings};
use ringwall::pipeline::exchange::Exchange;
use ringwall::pipeline::serve::Client;
use ringwall::pipeline::whence::Whence;
use ringwall::pipeline::{admit, forward, respond};
use ringwall::policy::Verdict;
use ringwall::policy::identify::jwt::parse_keys;
use ringwall::snapshot::compile::{Kept, compile};
use ringwall::snapshot::names::SnapshotNames;
use ringwall::snapshot::{Action, CoreView, Snapshot};
use ringwall::sys::socket::{accept, listen};
use ringwall::worker::core::{Core, Node};
use ringwall::worker::driver::Loop;
use ringwall::worker::state::CoreState;
use ringwall::worker::{Buffer, Driver, Socket, Transport, Wanted};

const ROUNDS: usize = 11;
/// Requests between two drains of the log: the ring holds more.
const BATCH: usize = 2_000;
const SCENARIOS: [&str; 3] = ["plain", "jwt", "schema"];
const STAGES: [&str; 7] = ["parse", "admit", "policies", "encode", "answer", "respond", "record"];

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
Server: origin\r\n\
Date: Tue, 14 May 2024 09:30:00 GMT\r\n\
Content-Type: application/json; charset=utf-8\r\n\
Content-Length: 1024\r\n\
Connection: keep-alive\r\n\
Cache-Control: no-store\r\n\
ETag: \"5f3c-61a9\"\r\n\
\r\n";

const CONFIG: &str = r#"
ringwall: 1
listen: { address: "127.0.0.1:0", tls: none }
upstreams: { backend: "http://127.0.0.1:1" }
login:
  people: { jwt: keys.json, issuer: "https://login.example.com/", audience: orders, algorithms: HS256 }
apis:
  plain: { base: /plain, to: backend, raw: "a bench", allow: { who: anyone } }
  jwt:
    base: /jwt
    to: backend
    operations: { getOrder: "GET /orders/{id}" }
    allow: [{ who: people, scope: orders.read }]
    limits: [{ per: identity, rate: 1000000000/s }]
    headers:
      request: { set: { X-Gateway: bench }, remove: [X-Debug] }
      response: { set: { X-Frame-Options: DENY }, remove: [Server] }
  schema:
    base: /schema
    to: backend
    operations: { createOrder: { match: POST /orders, body: { schema: order.schema.json } } }
    allow: [{ who: people, scope: orders.read }]
    limits: [{ per: identity, rate: 1000000000/s }]
node: { cores: 1 }
"#;

const SCHEMA: &str = r#"{
  "type": "object", "required": ["id", "status", "lines"], "additionalProperties": false,
  "properties": {
    "id": { "type": "string", "minLength": 8, "maxLength": 64 },
    "status": { "enum": ["pending", "paid", "shipped"] },
    "lines": { "type": "array", "minItems": 1, "maxItems": 50, "items": {
      "type": "object", "required": ["sku", "quantity"], "additionalProperties": false,
      "properties": {
        "sku": { "type": "string", "pattern": "^[A-Z]{3}-[0-9]+$" },
        "quantity": { "type": "integer", "minimum": 1 },
        "price": { "type": "number", "minimum": 0 }
      }
    } }
  }
}"#;

/// One core with one connection that nothing is received from or sent to.
struct Bench {
    core: Rc<Core>,
    view: Rc<CoreView>,
    link: Link,
    drain: LogDrain,
    names: Arc<NameTable>,
    formatter: Formatter,
    lines: Vec<u8>,
    token: String,
    _peer: TcpStream,
    _control: Control<KeySet>,
    _directory: Directory,
    /// Whoever drops it last frees the configuration: not the view, which is a core's.
    _snapshot: Arc<Snapshot>,
}

impl Bench {
    /// Must be called on a thread that runs `driver`.
    fn new(driver: Driver) -> Bench {
        let directory = Directory::new();
        directory.write("ringwall.yaml", CONFIG);
        directory.write("order.schema.json", SCHEMA);
        let secret = [7; 32];
        directory.write(
            "keys.json",
            &format!(r#"{{"keys":[{{"kty":"oct","alg":"HS256","kid":"k","k":"{}"}}]}}"#, base64(&secret)),
        );
        let loaded = ringwall::config::load::load(&directory.0.join("ringwall.yaml"))
            .unwrap_or_else(|errors| panic!("{}", errors.render(false)));
        let tls = exchange::trust_roots(None)
            .and_then(|roots| exchange::tls_config(roots).map_err(|error| error.to_string()));
        let control =
            Control::start(Options::new(tls.expect("TLS"), Arc::new(parse_keys))).expect("a control thread");
        let mut snapshot = compile(&loaded.config, 1, &mut Kept::default(), Some(control.parts()))
            .unwrap_or_else(|errors| panic!("{errors:?}"));
        let mut registry = Registry::new(1, ringwall::policy::NAMES);
        snapshot.names = SnapshotNames::register(&snapshot, &mut registry, 0);
        let mut logs = rings(1, RingSizes::default());
        logs.drain.keep_access();
        let state = CoreState::new(
            logs.cores.remove(0),
            registry.take_core(0).expect("counters"),
            RequestIds::seeded(7),
        );
        let core_listener = snapshot.listeners[0].id;
        let core = Rc::new(Core::new(0, driver, Arc::new(Node::new(snapshot)), state));

        let listener = listen(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), 1).expect("a port");
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (stream, peer) = accept(listener.as_fd(), driver.wants_nonblocking()).expect("accepted");
        let transport = Transport::Plain(Socket::new(stream, driver).expect("registered"));
        let snapshot = Arc::clone(&core.view().snapshot);
        let mut bench = Bench {
            view: core.view(),
            core,
            link: Link {
                transport,
                whence: Whence { peer, announced: None, listener: core_listener },
                used: true,
                known: false,
            },
            drain: logs.drain,
            names: registry.directory().table(),
            formatter: Formatter::default(),
            lines: Vec::with_capacity(4 << 20),
            token: token(&secret),
            _peer: client,
            _control: control,
            _directory: directory,
            _snapshot: snapshot,
        };
        // The control thread reads the keys in its own time.
        let request = bench.request("jwt");
        while !bench.is_admitted(&request) {
            std::thread::yield_now();
        }
        bench
    }

    fn request(&self, scenario: &str) -> Request {
        let fields = "Host: api.example.com\r\n\
            User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
            Accept: application/json\r\nAccept-Encoding: gzip, br\r\nX-Debug: 1\r\n";
        let login = format!("Authorization: Bearer {}\r\n", self.token);
        let (head, body) = match scenario {
            "plain" => (format!("GET /plain/orders/17?expand=lines HTTP/1.1\r\n{fields}\r\n"), String::new()),
            "jwt" => {
                (format!("GET /jwt/orders/17?expand=lines HTTP/1.1\r\n{fields}{login}\r\n"), String::new())
            }
            "schema" => {
                let lines: Vec<String> = (0..18)
                    .map(|n| format!(r#"{{"sku":"ABC-{n}000","quantity":{},"price":{n}.25}}"#, n + 1))
                    .collect();
                let body =
                    format!(r#"{{"id":"1738f7d9-8d11-46ca","status":"paid","lines":[{}]}}"#, lines.join(","));
                let head = format!(
                    "POST /schema/orders HTTP/1.1\r\n{fields}{login}Content-Type: application/json\r\n\
                     Content-Length: {}\r\n\r\n",
                    body.len()
                );
                (head, body)
            }
            name => panic!("no scenario {name}: {SCENARIOS:?}"),
        };
        Request { head: head.into_bytes(), body: body.into_bytes() }
    }

    fn is_admitted(&mut self, request: &Request) -> bool {
        let mut x = self.core.exchange();
        begin(&mut x, &self.link, &self.core, request);
        parse(&mut x);
        admit(&mut x, &self.link, &self.view);
        let verdict = policies(&mut x, &self.view, &self.core);
        self.core.release(x);
        matches!(verdict, Verdict::Continue)
    }

    /// One request, from its bytes to its record. What a stage took is added to `times` in nanoseconds, if it is asked for.
    fn serve(&mut self, request: &Request, times: Option<&mut [u64; STAGES.len()]>) {
        let mut watch = Watch { times, last: None, stage: 0 };
        let mut x = self.core.exchange();
        begin(&mut x, &self.link, &self.core, request);
        watch.start();
        parse(&mut x);
        watch.lap();
        admit(&mut x, &self.link, &self.view);
        watch.lap();
        let verdict = policies(&mut x, &self.view, &self.core);
        watch.lap();
        assert!(matches!(verdict, Verdict::Continue), "{verdict:?}");
        let mut out = Buffer::small();
        encode(&mut x, &self.view, &mut out);
        watch.lap();
        black_box(&out);
        answer(&mut x);
        watch.lap();
        out.clear();
        respond(&mut x, &self.view, &mut out);
        watch.lap();
        black_box(&out);
        record(&mut x, &self.link, &self.view, &self.core);
        watch.lap();
        self.core.release(x);
    }

    /// What callgrind collects.
    #[inline(never)]
    fn counted(&mut self, request: &Request, count: usize) {
        (0..count).for_each(|_| self.serve(request, None));
    }

    /// Empties the log's ring, as the writer does.
    fn empty_log(&mut self) -> usize {
        self.lines.clear();
        self.drain.format_all(LogFormat::Json, &mut self.formatter, &self.names, &mut self.lines)
    }
}

struct Request {
    head: Vec<u8>,
    body: Vec<u8>,
}

struct Watch<'a> {
    times: Option<&'a mut [u64; STAGES.len()]>,
    last: Option<Instant>,
    stage: usize,
}

impl Watch<'_> {
    fn start(&mut self) {
        self.last = self.times.is_some().then(Instant::now);
    }

    fn lap(&mut self) {
        if let (Some(times), Some(last)) = (&mut self.times, self.last) {
            let now = Instant::now();
            times[self.stage] += (now - last).as_nanos() as u64;
            self.stage += 1;
            // The reading of the clock belongs to nobody.
            self.last = Some(Instant::now());
        }
    }
}

// ---- the stages, as `pipeline::serve` has them

/// What a connection does before: not counted as a stage.
fn begin(x: &mut Exchange, link: &Link, core: &Core, request: &Request) {
    x.peer = link.whence.peer;
    x.client = link.whence.peer.ip();
    x.facts.started_ns = core.clock.now_ns();
    core.state.borrow_mut().identify_request(x, core.clock.unix_ns(x.facts.started_ns) / 1_000_000);
    x.request.bytes = Buffer::small();
    x.request.bytes.extend_from_slice(black_box(&request.head));
    if !request.body.is_empty() {
        x.body = Buffer::small();
        x.body.extend_from_slice(black_box(&request.body));
    }
}

#[inline(never)]
fn parse(x: &mut Exchange) {
    let parsed = parse_request(&x.request.bytes, &HeadLimits::DEFAULT, &mut x.request.table);
    assert_eq!(parsed, Ok(Parse::Complete { head_bytes: x.request.bytes.len() }));
}

#[inline(never)]
fn admit(x: &mut Exchange, link: &Link, view: &CoreView) {
    let listener = &view.snapshot.listeners[0];
    let client = Client { transport: &link.transport, listener, view };
    let found = admit::operation(x, &client, &view.snapshot);
    assert!(found.is_ok(), "{:?}", found.err());
}

#[inline(never)]
fn policies(x: &mut Exchange, view: &CoreView, core: &Core) -> Verdict {
    let operation = &view.snapshot.operations[x.operation as usize];
    let mut state = core.state.borrow_mut();
    state.now_ns = x.facts.started_ns;
    state.now_s = core.clock.unix_ns(x.facts.started_ns) / 1_000_000_000;
    match operation.chain.run_head(x, &mut state) {
        Verdict::Continue if operation.chain.wants_body() => operation.chain.run_body(x, &mut state),
        verdict => verdict,
    }
}

fn route<'a>(x: &Exchange, view: &'a CoreView) -> forward::Route<'a> {
    let operation = &view.snapshot.operations[x.operation as usize];
    let Action::Forward { upstream, rewrite, host_of_upstream } = &operation.action else {
        panic!("it is forwarded")
    };
    forward::Route {
        operation,
        api: &view.snapshot.apis[operation.api as usize],
        upstream: &view.upstreams[*upstream],
        upstream_index: *upstream,
        rewrite: rewrite.as_ref(),
        host_of_upstream: *host_of_upstream,
        tunnel: None,
    }
}

#[inline(never)]
fn encode(x: &mut Exchange, view: &CoreView, out: &mut Buffer) {
    let route = route(x, view);
    forward::prepare(x, &route);
    x.facts.upstream = route.upstream_index as u32 + 1;
    let framing = match x.body.len() {
        0 => BodyLength::None,
        length => BodyLength::Length(length as u64),
    };
    forward::encode(
        x,
        &route,
        route.upstream.upstream.members().seats[0].member.key.authority.as_bytes(),
        framing,
        out,
    );
    out.extend_from_slice(&x.body);
}

#[inline(never)]
fn answer(x: &mut Exchange) {
    x.response.bytes = Buffer::small();
    x.response.bytes.extend_from_slice(black_box(RESPONSE));
    let method: Method = x.method();
    let parsed = parse_response(&x.response.bytes, &HeadLimits::DEFAULT, method, &mut x.response.table);
    assert_eq!(parsed, Ok(Parse::Complete { head_bytes: RESPONSE.len() }));
}

#[inline(never)]
fn respond(x: &mut Exchange, view: &CoreView, out: &mut Buffer) {
    let route = route(x, view);
    let framing = x.response.table.framing;
    respond::encode_head(x, &route, framing, true, false, out);
    x.facts.status = x.response.table.status;
}

#[inline(never)]
fn record(x: &mut Exchange, link: &Link, view: &CoreView, core: &Core) {
    core.state.borrow_mut().record(x, link.whence.listener, link.used, view, &core.clock);
}

// ---- what they need

/// A directory of our own, removed when dropped.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Directory {
        let path = std::env::temp_dir().join(format!("ringwall-pipeline-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Directory(path)
    }

    fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _best_effort = std::fs::remove_dir_all(&self.0);
    }
}

fn base64(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode_to_string(bytes)
}

fn token(secret: &[u8]) -> String {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
    let claims = serde_json::json!({
        "iss": "https://login.example.com/", "aud": "orders", "sub": "caller", "scope": "orders.read",
        "iat": now_s - 10, "exp": now_s + 36_000,
    });
    let header = base64(br#"{"alg":"HS256","kid":"k"}"#);
    let signed = format!("{header}.{}", base64(claims.to_string().as_bytes()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", base64(tag.as_ref()))
}

fn run(arguments: &[String], driver: Driver) {
    let mut bench = Bench::new(driver);
    if let Some(at) = arguments.iter().position(|argument| argument == "--callgrind") {
        let name = arguments.get(at + 1).expect("--callgrind NAME [N]");
        let count = arguments.get(at + 2).map_or(1_000, |count| count.parse().expect("a number"));
        let request = bench.request(name);
        (0..100).for_each(|_| bench.serve(&request, None));
        bench.empty_log();
        return bench.counted(&request, count);
    }
    let once = arguments.iter().any(|argument| argument == "--once" || argument == "--test");
    for scenario in SCENARIOS {
        let request = bench.request(scenario);
        let (rounds, count) = if once { (1, 1) } else { (ROUNDS, BATCH) };
        let mut wholes = Vec::new();
        let mut stages = vec![Vec::new(); STAGES.len()];
        for _ in 0..rounds {
            let start = Instant::now();
            bench.counted(&request, count);
            wholes.push(start.elapsed().as_nanos() as f64 / count as f64);
            assert_eq!(bench.empty_log(), count, "every request has its record");
            let mut times = [0; STAGES.len()];
            (0..count).for_each(|_| bench.serve(&request, Some(&mut times)));
            assert_eq!(bench.empty_log(), count, "every request has its record");
            for (stage, time) in stages.iter_mut().zip(times) {
                stage.push(time as f64 / count as f64);
            }
        }
        println!("{scenario}: {} bytes of head, {} of body", request.head.len(), request.body.len());
        tell("whole", &mut wholes);
        STAGES.iter().zip(&mut stages).for_each(|(name, times)| tell(name, times));
    }
}

fn tell(name: &str, times: &mut [f64]) {
    times.sort_by(f64::total_cmp);
    let (low, high) = (times[0], times[times.len() - 1]);
    println!("  {name:<10}{:>8.1} ns  ({low:.1} – {high:.1})", times[times.len() / 2]);
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let (mut event_loop, choice) = Loop::build(Wanted::Only(Driver::Epoll)).expect("epoll");
    event_loop.block_on(async { run(&arguments, choice.driver) });
}
