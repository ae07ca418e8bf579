//! Where upstreams are: names, services, files of targets, Unix sockets; what of it is refused; and that traffic moves without
//! losing any.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::control_issuer::eventually;
use crate::name_server::NameServer;
use crate::node::{Answer, Node, PATIENCE, Place, fetch};

/// An origin that answers everything with its name, wherever it listens.
pub struct Backend {
    pub name: &'static str,
    /// Requests so far, and the connections that they came over.
    pub requests: Arc<AtomicU64>,
    pub connections: Arc<AtomicU64>,
    pub heads: Arc<Mutex<Vec<String>>>,
}

impl Backend {
    pub fn tcp(name: &'static str, address: impl std::net::ToSocketAddrs) -> (Backend, SocketAddr) {
        let listener = TcpListener::bind(address).expect("a port");
        let address = listener.local_addr().expect("bound");
        let backend = Backend::of(name);
        let told = backend.told();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = stream.set_nodelay(true);
                told.clone().serve(stream.try_clone().expect("a second handle"), stream);
            }
        });
        (backend, address)
    }

    fn unix(name: &'static str, path: &Path) -> Backend {
        let listener = UnixListener::bind(path).expect("a socket");
        let backend = Backend::of(name);
        let told = backend.told();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                told.clone().serve(stream.try_clone().expect("a second handle"), stream);
            }
        });
        backend
    }

    fn of(name: &'static str) -> Backend {
        Backend { name, requests: Arc::default(), connections: Arc::default(), heads: Arc::default() }
    }

    fn told(&self) -> Told {
        Told {
            name: self.name,
            requests: Arc::clone(&self.requests),
            connections: Arc::clone(&self.connections),
            heads: Arc::clone(&self.heads),
        }
    }

    pub fn count(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    fn last_head(&self) -> String {
        self.heads.lock().expect("not poisoned").last().cloned().expect("a request")
    }
}

#[derive(Clone)]
struct Told {
    name: &'static str,
    requests: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Told {
    fn serve(self, from: impl Read + Send + 'static, mut to: impl Write + Send + 'static) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        thread::spawn(move || {
            let mut from = BufReader::new(from);
            let mut head = String::new();
            while from.read_line(&mut head).is_ok_and(|count| count > 0) {
                if !head.ends_with("\r\n\r\n") {
                    continue;
                }
                let length = head.lines().find_map(|line| {
                    let (name, value) = line.split_once(':')?;
                    name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse().ok())?
                });
                let mut body = vec![0; length.unwrap_or(0)];
                if from.read_exact(&mut body).is_err() {
                    return;
                }
                self.requests.fetch_add(1, Ordering::Relaxed);
                self.heads.lock().expect("not poisoned").push(std::mem::take(&mut head));
                let text = [self.name.as_bytes(), &body].concat();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
                if to.write_all(&[head.as_bytes(), &text].concat()).is_err() {
                    return;
                }
            }
        });
    }
}

/// A configuration with this upstream, whose names are asked of `names`.
fn text_of(upstream: &str, names: Option<&NameServer>) -> String {
    let resolver = match names {
        Some(names) => format!(", resolver: \"{}\"", names.address),
        None => String::new(),
    };
    format!(
        "ringwall: 1\nlisten: {{ address: \"127.0.0.1:0\", tls: none }}\nupstreams:\n  app: {upstream}\n\
         apis: {{ app: {{ to: {{ upstream: app, host: upstream }}, raw: \"a test\", allow: [{{ who: anyone }}] }} }}\n\
         log: {{ file: access.jsonl }}\n\
         node: {{ metrics: \"127.0.0.2:0\", cores: 2, control: control.sock, drain: 5s, limit_memory: 1MiB{resolver} }}\n"
    )
}

pub fn node_of(place: Place, upstream: &str, names: Option<&NameServer>) -> Node {
    Node::start_whole(place, &text_of(upstream, names), &[])
}

/// `key: value`s that say why plain targets by name are accepted.
pub const PLAIN: &str = "insecure: { reason: \"a test\", until: 2099-12-31 }";

pub fn get(node: &Node) -> Answer {
    node.ask("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
}

#[test]
fn an_upstream_on_a_unix_socket_is_one_like_any_other() {
    let place = Place::new();
    let backend = Backend::unix("here", &place.path().join("app.sock"));
    let mut node =
        node_of(place, "{ targets: \"unix:app.sock\", health: { get: /healthz, every: 100ms } }", None);
    let mut client = node.connect();
    for _ in 0..3 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "hereabc"));
    }
    let large = "x".repeat(1 << 20);
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{large}", large.len()));
    assert_eq!(client.answer().body.len(), large.len() + 4);
    assert!(backend.last_head().contains("Host: localhost\r\n") || backend.last_head().contains("/healthz"));
    let log = node.log(1);
    assert!(log[0]["target"].as_str().is_some_and(|target| target.starts_with("unix:")), "{log:?}");
    assert!(fetch(&node, "/metrics").contains("target=\"unix:"), "it has its metrics");

    // Nobody listens any more: its probe says so, and who asks is told.
    std::fs::remove_file(node.place.path().join("app.sock")).expect("removed");
    node.wait_for("RW-6042");
    drop(client);
    let mut statuses = Vec::new();
    eventually("refused", || {
        statuses.push(get(&node).refusal());
        statuses.last().is_some_and(|(status, reason)| *status == 502 && reason == "upstream_refused")
    });
}

#[test]
fn a_unix_socket_whose_queue_is_full_is_waited_for() {
    let place = Place::new();
    let path = place.path().join("app.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    // A backlog of 0 has room for one.
    // std's `UnixListener` has no backlog to set: the queue is filled instead.
    let mut waiting = Vec::new();
    loop {
        match ringwall::sys::socket::connect_start(&path.as_path().into()) {
            Ok(stream) => waiting.push(stream),
            Err(error) => {
                assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
                break;
            }
        }
        assert!(waiting.len() < 10_000, "a queue has an end");
    }
    let node = node_of(place, "{ targets: \"unix:app.sock\", timeouts: { connect: 300ms } }", None);
    assert_eq!(get(&node).refusal(), (504, "upstream_connect_timeout".to_owned()));
    let mut client = node.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut line = [0; 4096];
                while stream.read(&mut line).is_ok_and(|count| count > 0) {
                    let _ = stream.write_all(b"HTTP/1.1 204 X\r\n\r\n");
                }
            });
        }
    });
    drop(waiting);
    assert_eq!(client.answer().status, 204);
}

/// A listener on `address` whose queue is full, so that whoever connects is not heard; and those who fill it.
fn black_hole(address: &str) -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let listener = ringwall::sys::socket::listen(address.parse().expect("an address"), 0).expect("listens");
    let address = listener.local_addr().expect("bound");
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&address, Duration::from_millis(200)) {
        waiting.push(stream);
        assert!(waiting.len() < 16, "a queue of none is full soon");
    }
    (address, listener, waiting)
}

#[test]
fn a_family_that_leads_nowhere_costs_a_quarter_of_a_second_and_no_request() {
    let (hole, _listener, _waiting) = black_hole("[::1]:0");
    let (backend, _) = Backend::tcp("four", ("127.0.0.1", hole.port()));
    let names = NameServer::start(60, 60);
    names.addresses("dual.test", &["127.0.0.1", "::1"]);
    let upstream =
        format!("{{ targets: \"http://dual.test:{}\", {PLAIN}, balance: round_robin }}", hole.port());
    let node = node_of(Place::new(), &upstream, Some(&names));
    let mut slow = 0;
    for _ in 0..8 {
        let started = Instant::now();
        // No keep-alive towards us; and the upstream's connection is kept, so some of these need no new one.
        let answer = get(&node);
        assert_eq!((answer.status, answer.text().as_str()), (200, "four"));
        let took = started.elapsed();
        assert!(took < Duration::from_millis(900), "{took:?}");
        slow += usize::from(took >= Duration::from_millis(240));
    }
    assert!(slow >= 1, "round robin asked the black hole at least once");
    assert_eq!(backend.count(), 8);
    let log = node.log(8);
    let target = format!("http://127.0.0.1:{}", hole.port());
    assert!(log.iter().all(|line| line["target"] == target.as_str() && line["tries"] == 1), "{log:?}");
}

#[test]
fn a_family_that_refuses_gives_way_at_once() {
    let (_backend, address) = Backend::tcp("four", "127.0.0.1:0");
    let names = NameServer::start(60, 60);
    names.addresses("dual.test", &["127.0.0.1", "::1"]);
    let upstream =
        format!("{{ targets: \"http://dual.test:{}\", {PLAIN}, balance: round_robin }}", address.port());
    let node = node_of(Place::new(), &upstream, Some(&names));
    for _ in 0..6 {
        let mut client = node.connect();
        // A POST is not sent twice; here not a byte of it has left.
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nConnection: close\r\n\r\n!");
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "four!"));
    }
    assert!(node.log(6).iter().all(|line| line["tries"] == 1));
}

#[test]
fn when_both_families_lead_nowhere_the_deadline_holds() {
    let (hole, _listener, _waiting) = black_hole("[::1]:0");
    let listener = ringwall::sys::socket::listen(SocketAddr::from(([127, 0, 0, 1], hole.port())), 0);
    let listener = listener.expect("listens");
    let mut waiting = Vec::new();
    let four = listener.local_addr().expect("bound");
    while let Ok(stream) = TcpStream::connect_timeout(&four, Duration::from_millis(200)) {
        waiting.push(stream);
    }
    let names = NameServer::start(60, 60);
    names.addresses("dual.test", &["127.0.0.1", "::1"]);
    let upstream = format!(
        "{{ targets: \"http://dual.test:{}\", {PLAIN}, timeouts: {{ connect: 600ms }} }}",
        hole.port()
    );
    let node = node_of(Place::new(), &upstream, Some(&names));
    let started = Instant::now();
    assert_eq!(get(&node).refusal(), (504, "upstream_connect_timeout".to_owned()));
    assert!(started.elapsed() < PATIENCE / 2, "{:?}", started.elapsed());
}
