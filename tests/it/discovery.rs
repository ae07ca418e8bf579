//! Where upstreams are: names, services, files of targets, Unix sockets; what of it is refused; and that traffic moves without
//! losing any.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::control_issuer::eventually;
use crate::name_server::{Mood, NameServer, Record};
use crate::nginx::free_address;
use crate::node::{Answer, Client, Node, PATIENCE, Place, Server, fetch};

/// An origin that answers everything with its name, wherever it listens.
pub struct Backend {
    pub name: &'static str,
    /// Requests so far.
    pub requests: Arc<AtomicU64>,
    /// Connections that are open now.
    pub connections: Arc<AtomicU64>,
    pub heads: Arc<Mutex<Vec<(Instant, String)>>>,
    /// When it was probed, and with what head; probes are no requests.
    pub probes: Arc<Mutex<Vec<(Instant, String)>>>,
    /// What it answers to probes.
    pub health: Arc<AtomicU16>,
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
        Backend {
            name,
            requests: Arc::default(),
            connections: Arc::default(),
            heads: Arc::default(),
            probes: Arc::default(),
            health: Arc::new(AtomicU16::new(200)),
        }
    }

    fn told(&self) -> Told {
        Told {
            name: self.name,
            requests: Arc::clone(&self.requests),
            connections: Arc::clone(&self.connections),
            heads: Arc::clone(&self.heads),
            probes: Arc::clone(&self.probes),
            health: Arc::clone(&self.health),
        }
    }

    pub fn count(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub fn open(&self) -> u64 {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn last_head(&self) -> String {
        self.heads.lock().expect("not poisoned").last().cloned().expect("a request").1
    }

    pub fn probed(&self) -> Vec<Instant> {
        self.probes.lock().expect("not poisoned").iter().map(|(at, _)| *at).collect()
    }
}

#[derive(Clone)]
struct Told {
    name: &'static str,
    requests: Arc<AtomicU64>,
    connections: Arc<AtomicU64>,
    heads: Arc<Mutex<Vec<(Instant, String)>>>,
    probes: Arc<Mutex<Vec<(Instant, String)>>>,
    health: Arc<AtomicU16>,
}

impl Told {
    fn serve(self, from: impl Read + Send + 'static, mut to: impl Write + Send + 'static) {
        self.connections.fetch_add(1, Ordering::Relaxed);
        thread::spawn(move || {
            let _open = Open(Arc::clone(&self.connections));
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
                if head.starts_with("GET /healthz") {
                    let status = self.health.load(Ordering::Relaxed);
                    self.probes
                        .lock()
                        .expect("not poisoned")
                        .push((Instant::now(), std::mem::take(&mut head)));
                    let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n");
                    if to.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                    continue;
                }
                self.requests.fetch_add(1, Ordering::Relaxed);
                self.heads.lock().expect("not poisoned").push((Instant::now(), std::mem::take(&mut head)));
                let text = [self.name.as_bytes(), &body].concat();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", text.len());
                if to.write_all(&[head.as_bytes(), &text].concat()).is_err() {
                    return;
                }
            }
        });
    }
}

/// Counts a connection until it ends, however it ends.
struct Open(Arc<AtomicU64>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A configuration with this upstream, whose names are asked of `names`.
pub fn text_of(upstream: &str, names: Option<&NameServer>) -> String {
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

/// The lines of the process log that hold `what`, once there are `count`, those from before it was ready included.
pub fn told(node: &mut Node, what: &str, count: usize) -> String {
    loop {
        let lines: Vec<&str> = node.lines_so_far().filter(|line| line.contains(what)).collect();
        if lines.len() >= count {
            return lines.join("\n");
        }
        node.wait_for(what);
    }
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
    assert!(backend.last_head().contains("Host: localhost\r\n"), "{}", backend.last_head());
    eventually("it is probed", || !backend.probed().is_empty());
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

/// Asks over kept connections, from as many threads, until it is stopped. Whatever is no whole answer of 200 ends the test.
pub struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<Vec<(Instant, String)>>>,
}

impl Load {
    pub fn on(node: &Node, threads: usize) -> Load {
        let (address, stop) = (node.address, Arc::new(AtomicBool::new(false)));
        let threads = (0..threads).map(|thread| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut client = Client::new(TcpStream::connect(address).expect("connected"));
                let mut answers = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let method = if thread % 2 == 0 { "GET" } else { "POST" };
                    client.send(format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"));
                    let answer = client.answer();
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    answers.push((Instant::now(), answer.text()));
                    thread::sleep(Duration::from_millis(1));
                }
                answers
            })
        });
        Load { threads: threads.collect(), stop }
    }

    /// All answers, when they came and from whom.
    pub fn end(self) -> Vec<(Instant, String)> {
        self.stop.store(true, Ordering::Relaxed);
        let whole = |thread: thread::JoinHandle<Vec<_>>| thread.join().expect("no request was lost");
        self.threads.into_iter().flat_map(whole).collect()
    }
}

/// Two origins at two addresses that have one port.
pub fn two_backends() -> (Backend, Backend, u16) {
    let (one, address) = Backend::tcp("one", "127.0.0.2:0");
    let (two, _) = Backend::tcp("two", ("127.0.0.3", address.port()));
    (one, two, address.port())
}

#[test]
fn a_changed_record_is_followed_within_its_ttl_and_no_request_is_lost() {
    let (one, two, port) = two_backends();
    let names = NameServer::start(1, 1);
    names.addresses("orders.test", &["127.0.0.2"]);
    let upstream = format!("{{ targets: \"http://orders.test:{port}\", {PLAIN} }}");
    let node = node_of(Place::new(), &upstream, Some(&names));
    let load = Load::on(&node, 4);
    for turn in 0..3 {
        let (address, to) = if turn % 2 == 0 { ("127.0.0.3", &two) } else { ("127.0.0.2", &one) };
        thread::sleep(Duration::from_millis(500));
        let (before, changed) = (to.count(), Instant::now());
        names.addresses("orders.test", &[address]);
        eventually("the other one is asked", || to.count() > before);
        let took = changed.elapsed();
        assert!(took < Duration::from_millis(1_500), "within the TTL of a second: {took:?}");
    }
    thread::sleep(Duration::from_millis(200));
    let last = one.count();
    thread::sleep(Duration::from_millis(300));
    assert_eq!(one.count(), last, "who is no member is not asked");
    eventually("its idle connections are closed", || one.open() == 0);
    assert!(load.end().len() > 200);
}

#[test]
fn a_resolver_that_fails_takes_nothing_away_and_is_followed_again_when_it_is_back() {
    let (one, two, port) = two_backends();
    let names = NameServer::start(1, 1);
    names.addresses("orders.test", &["127.0.0.2"]);
    let upstream = format!("{{ targets: \"http://orders.test:{port}\", {PLAIN} }}");
    let mut node = node_of(Place::new(), &upstream, Some(&names));
    let load = Load::on(&node, 2);
    names.be(Mood::Fails);
    let told = node.wait_for("RW-6040");
    assert!(told.contains("name=orders.test"), "{told}");
    names.be(Mood::Silent);
    thread::sleep(Duration::from_millis(2_500));
    let before = one.count();
    thread::sleep(Duration::from_millis(200));
    assert!(one.count() > before, "the last addresses stay");
    names.addresses("orders.test", &["127.0.0.3"]);
    names.be(Mood::Answers);
    node.wait_for("RW-6041");
    eventually("the new address is asked", || two.count() > 0);
    load.end();
    let told = node.lines_so_far().filter(|line| line.contains("RW-6040")).count();
    assert_eq!(told, 1, "once, not for each try");
}

#[test]
fn a_name_that_has_nothing_is_asked_as_often_as_its_soa_says_and_used_once_it_has() {
    let (one, _two, port) = two_backends();
    let names = NameServer::start(1, 3);
    let upstream = format!("{{ targets: \"http://orders.test:{port}\", {PLAIN} }}");
    let mut node = node_of(Place::new(), &upstream, Some(&names));
    assert_eq!(get(&node).refusal(), (502, "upstream_unresolved".to_owned()));
    assert!(told(&mut node, "RW-6040", 1).contains("there is no such record"));
    names.addresses("orders.test", &["127.0.0.2"]);
    node.wait_for("RW-6041");
    assert_eq!(get(&node).text(), "one");
    let asked = names.asked("orders.test");
    let pause = asked[1].duration_since(asked[0]);
    assert!((Duration::from_millis(2_650)..Duration::from_millis(6_000)).contains(&pause), "{pause:?}");

    // It is emptied again: what it had stays, until that has been so for long.
    names.addresses("orders.test", &[]);
    node.wait_for("RW-6040");
    assert_eq!(get(&node).text(), "one");
    assert_eq!(one.count(), 2);
}

#[test]
fn names_are_not_asked_in_step() {
    let names = NameServer::start(1, 1);
    let all: Vec<String> = (0..20).map(|number| format!("n{number}.test")).collect();
    for name in &all {
        names.addresses(name, &["127.0.0.2"]);
    }
    let targets: Vec<String> = all.iter().map(|name| format!("\"http://{name}:9\"")).collect();
    let upstream = format!("{{ targets: [{}], {PLAIN} }}", targets.join(", "));
    let _node = node_of(Place::new(), &upstream, Some(&names));
    eventually("six rounds", || all.iter().all(|name| names.asked(name).len() >= 6));
    let mut pauses = Vec::new();
    for name in &all {
        let asked = names.asked(name);
        pauses.extend(asked.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_millis()));
    }
    let early = pauses.iter().filter(|pause| (850..940).contains(*pause)).count();
    let late = pauses.iter().filter(|pause| (960..1_200).contains(*pause)).count();
    assert!(early > 5 && late > 5, "{pauses:?}");
    assert!(pauses.iter().all(|pause| *pause >= 850), "a TTL below a second counts as one: {pauses:?}");
}

fn service(priority: u16, weight: u16, port: u16, host: &'static str) -> Record {
    Record::Service { priority, weight, port, host }
}

#[test]
fn a_service_gives_hosts_ports_weights_and_who_stands_in() {
    let (one, one_at) = Backend::tcp("one", "127.0.0.2:0");
    let (two, two_at) = Backend::tcp("two", "127.0.0.3:0");
    let (three, three_at) = Backend::tcp("three", "127.0.0.4:0");
    let names = NameServer::start(1, 1);
    names.addresses("one.test", &["127.0.0.2"]);
    names.addresses("two.test", &["127.0.0.3"]);
    names.addresses("three.test", &["127.0.0.4"]);
    let first = [service(10, 3, one_at.port(), "one.test"), service(10, 1, two_at.port(), "two.test")];
    let stand_in = service(20, 0, three_at.port(), "three.test");
    names.set("_http._tcp.orders.test", &[&first[..], std::slice::from_ref(&stand_in)].concat());
    let upstream =
        format!("{{ targets: \"srv+http://_http._tcp.orders.test\", {PLAIN}, balance: round_robin }}");
    let mut node = node_of(Place::new(), &upstream, Some(&names));
    let mut client = node.connect();
    for _ in 0..40 {
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.answer().status, 200);
    }
    assert_eq!(
        (one.count(), two.count(), three.count()),
        (30, 10, 0),
        "weights are shares, priorities an order"
    );
    assert!(one.last_head().contains("Host: orders.test\r\n"), "{}", one.last_head());

    // The two go; who stood in is all there is. It is in nobody's way that requests run meanwhile.
    let load = Load::on(&node, 3);
    names.set("_http._tcp.orders.test", &[stand_in]);
    eventually("who stood in is asked", || three.count() > 0);
    eventually("the others have gone", || one.open() == 0 && two.open() == 0);
    // A host that cannot be found yet does not take the place of one that serves.
    names.set("_http._tcp.orders.test", &[service(1, 1, one_at.port(), "late.test"), first[1].clone()]);
    eventually("the one that is found is asked", || two.count() > 10);
    names.addresses("late.test", &["127.0.0.2"]);
    eventually("and the late one, in its turn", || one.count() > 30);
    load.end();

    // RFC 2782: "." says that there is no such service; what was known stays for a while.
    names.set("_http._tcp.orders.test", &[service(0, 0, 0, "")]);
    node.wait_for("name=_http._tcp.orders.test");
    assert_eq!(get(&node).status, 200);
}

#[test]
fn a_public_name_leads_to_no_private_address_unless_it_is_listed() {
    let (one, _two, port) = two_backends();
    let names = NameServer::start(60, 60);
    names.addresses("orders.example.com", &["127.0.0.2", "10.1.2.3"]);
    let upstream = format!("{{ targets: \"http://orders.example.com:{port}\", {PLAIN} }}");
    let mut node = node_of(Place::new(), &upstream, Some(&names));
    assert_eq!(get(&node).refusal(), (502, "upstream_address".to_owned()));
    let told = told(&mut node, "RW-6111", 2);
    for part in
        ["address=127.0.0.2 kind=loopback", "address=10.1.2.3 kind=private", "name=orders.example.com"]
    {
        assert!(told.contains(part), "{part} in {told}");
    }
    assert_eq!(one.count(), 0);
    assert!(node.log(1)[0]["code"] == "RW-4030");

    let listed =
        format!("{{ targets: \"http://orders.example.com:{port}\", {PLAIN}, addresses: 127.0.0.0/8 }}");
    let node = node_of(Place::new(), &listed, Some(&names));
    assert_eq!(get(&node).text(), "one");
}

/// What a record may say to make a gateway ask its own machine, or the cloud around it, for secrets.
const NOBODYS: [&str; 22] = [
    "169.254.169.254",
    "169.254.170.2",
    "169.254.1.1",
    "168.63.129.16",
    "100.100.100.200",
    "192.0.0.192",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "192.0.2.1",
    "198.18.0.1",
    "240.0.0.1",
    "::",
    "::ffff:169.254.169.254",
    "fe80::1",
    "fd00:ec2::254",
    "ff02::1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a9fe:a9fe",
    "2002:a9fe:a9fe::1",
    "2001:0:5ef5:79fd::1",
    "2001:db8::1",
];

#[test]
fn not_even_the_sites_own_names_lead_to_metadata_services_and_their_like() {
    let (one, _two, port) = two_backends();
    let names = NameServer::start(60, 60);
    names.addresses("orders.test", &[&NOBODYS[..], &["127.0.0.2"]].concat());
    names.set("_http._tcp.orders.test", &[service(0, 0, port, "orders.test")]);
    // The service's name is public: a record in it makes no private address of the site's own fit.
    names.set("_http._tcp.example.com", &[service(0, 0, port, "orders.test")]);
    for (target, answer) in [
        (format!("http://orders.test:{port}"), (200, "one")),
        ("srv+http://_http._tcp.orders.test".to_owned(), (200, "one")),
        ("srv+http://_http._tcp.example.com".to_owned(), (502, "upstream_address")),
    ] {
        let upstream = format!("{{ targets: \"{target}\", {PLAIN} }}");
        let mut node = node_of(Place::new(), &upstream, Some(&names));
        told(&mut node, "RW-6111", NOBODYS.len());
        for _ in 0..8 {
            assert_eq!(get(&node).refusal(), (answer.0, answer.1.to_owned()), "{target}");
        }
        let metrics = fetch(&node, "/metrics");
        let members = metrics.lines().filter(|line| line.starts_with("ringwall_upstream_up{")).count();
        assert_eq!(members, usize::from(answer.0 == 200), "{metrics}");
    }
    assert_eq!(one.count(), 16);
}

#[test]
fn a_file_of_targets_is_followed_without_a_reload_and_no_request_is_lost() {
    let (one, two, port) = two_backends();
    let place = Place::new();
    place.write("targets.yaml", &format!("- http://127.0.0.2:{port}\n"));
    let mut node = node_of(place, "{ targets: \"file:targets.yaml\" }", None);
    let generation = metric(&node, "ringwall_config_generation");
    let load = Load::on(&node, 4);
    let replace = |text: String| {
        let next = node.place.write("next", &text);
        std::fs::rename(next, node.place.path().join("targets.yaml")).expect("renamed");
    };
    for turn in 0..4 {
        let (host, to) = if turn % 2 == 0 { ("127.0.0.3", &two) } else { ("127.0.0.2", &one) };
        let (before, changed) = (to.count(), Instant::now());
        replace(format!("[\"http://{host}:{port}\"]"));
        eventually("the other one is asked", || to.count() > before);
        let took = changed.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}");
    }
    eventually("idle connections to who has gone are closed", || two.open() == 0);

    // One that is not in order changes nothing and is told with its place.
    replace(format!("- http://127.0.0.3:{port}\n- http://10.0.0.1:80\n- nonsense\n"));
    let valid = "ringwall_upstream_targets_valid{upstream=\"app\"}";
    eventually("told", || metric(&node, valid) == "0");
    let before = (one.count(), two.count());
    eventually("the last good one is asked", || one.count() > before.0 + 10);
    assert_eq!(two.count(), before.1);
    replace(format!("- http://127.0.0.2:{port}\n- http://127.0.0.3:{port}\n"));
    eventually("mended", || metric(&node, valid) == "1" && two.count() > before.1);
    load.end();
    assert_eq!(metric(&node, "ringwall_config_generation"), generation, "it is no reload");
    let told = node.wait_for("RW-6113");
    let told = told + &node.wait_for("RW-6113");
    assert!(
        told.contains("targets.yaml:2:3: RW-1203") && told.contains("targets.yaml:3:3: RW-1201"),
        "{told}"
    );

    // A pipe is no file, and nobody waits for who might write into it.
    let pipe = node.place.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    std::fs::rename(pipe, node.place.path().join("targets.yaml")).expect("renamed");
    assert!(node.wait_for("RW-6113").contains("RW-1020"));
    assert_eq!(metric(&node, valid), "0");
    assert_eq!(get(&node).status, 200);

    // Taken away altogether, it is no list; an empty list is one.
    std::fs::remove_file(node.place.path().join("targets.yaml")).expect("removed");
    assert!(node.wait_for("RW-6113").contains("RW-1020"));
    assert_eq!(get(&node).status, 200);
    let next = node.place.write("next", "[]");
    std::fs::rename(next, node.place.path().join("targets.yaml")).expect("renamed");
    node.wait_for("targets=0");
    assert_eq!(get(&node).refusal(), (503, "upstream_empty".to_owned()));
}

#[test]
fn weights_and_priorities_hold_in_files_and_for_files() {
    let (one, two, port) = two_backends();
    let (three, three_at) = Backend::tcp("three", "127.0.0.4:0");
    let place = Place::new();
    place.write(
        "blue.yaml",
        &format!("- {{ url: \"http://127.0.0.2:{port}\", weight: 2 }}\n- http://127.0.0.3:{port}\n"),
    );
    place.write("green.yaml", &format!("- http://{three_at}\n"));
    let upstream =
        "{ balance: round_robin, targets: [\"file:blue.yaml\", { url: \"file:green.yaml\", weight: 3 }] }";
    let node = node_of(place, upstream, None);
    let mut client = node.connect();
    let mut ask = |times: usize| {
        for _ in 0..times {
            client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(client.answer().status, 200);
        }
    };
    ask(60);
    assert_eq!((one.count(), two.count(), three.count()), (20, 10, 30));
    let next = node.place.write("next", &format!("- {{ url: \"http://{three_at}\", priority: 1 }}\n"));
    std::fs::rename(next, node.place.path().join("green.yaml")).expect("renamed");
    let mut node = node;
    node.wait_for("RW-6112");
    ask(30);
    assert_eq!((one.count(), two.count(), three.count()), (40, 20, 30));
}

#[test]
fn a_request_under_way_to_who_is_removed_is_answered() {
    let (_two, address) = Backend::tcp("two", "127.0.0.3:0");
    let slow = TcpListener::bind("127.0.0.2:0").expect("a port");
    let place = Place::new();
    place.write("targets.yaml", &format!("- http://{}\n", slow.local_addr().expect("bound")));
    let mut node = node_of(place, "\"file:targets.yaml\"", None);
    let mut client = node.connect();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    let (mut stream, _) = slow.accept().expect("accepted");
    assert!(stream.read(&mut [0; 4096]).expect("a request") > 0);
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").expect("sent");
    let next = node.place.write("next", &format!("- http://{address}\n"));
    std::fs::rename(next, node.place.path().join("targets.yaml")).expect("renamed");
    node.wait_for("RW-6112");
    assert_eq!(get(&node).text(), "two");
    stream.write_all(b"half").expect("sent");
    assert_eq!(client.answer().text(), "halfhalf");
    // It is nobody's any more, so it is not kept.
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert_eq!(stream.read(&mut [0; 1]).expect("the end"), 0);
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().text(), "two");
}

fn metric(node: &Node, name: &str) -> String {
    let page = fetch(node, "/metrics");
    let value = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.unwrap_or_else(|| panic!("{name} in {page}")).to_owned()
}

#[test]
fn check_reads_files_of_targets_too() {
    let place = Place::new();
    place.write("ringwall.yaml", &text_of("{ targets: \"file:targets.yaml\" }", None));
    let check = || {
        let output = Command::new(env!("CARGO_BIN_EXE_ringwall"))
            .args(["check", "-c"])
            .arg(place.path().join("ringwall.yaml"))
            .output()
            .expect("ringwall check");
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.code(), text)
    };
    let (code, text) = check();
    assert!(code == Some(1) && text.contains("RW-1020"), "{text}");
    place.write("targets.yaml", "- http://127.0.0.1:80\n- \"https://a.example/x\"\n- http://10.0.0.1\n");
    let (code, text) = check();
    assert_eq!(code, Some(1), "{text}");
    for part in ["RW-1202", "targets.yaml:2:3", "RW-1203", "targets.yaml:3:3"] {
        assert!(text.contains(part), "{part} in {text}");
    }
    place.write("targets.yaml", "- http://127.0.0.1:80\n");
    let (code, text) = check();
    assert_eq!(code, Some(0), "{text}");
}

/// dnsmasq as a site has it: addresses from a file that it reads again when it is told to, and a service on `port`.
fn dnsmasq(place: &Place, at: SocketAddr, port: u16) -> Server {
    let child = Command::new("dnsmasq")
        .args([
            "--keep-in-foreground",
            "--no-resolv",
            "--no-hosts",
            "--conf-file=/dev/null",
            "--bind-interfaces",
        ])
        .args(["--user=", "--pid-file=", "--local-ttl=1", "--local=/test/", "--log-facility=-"])
        .arg(format!("--listen-address={}", at.ip()))
        .arg(format!("--port={}", at.port()))
        .arg(format!("--addn-hosts={}", place.path().join("hosts").display()))
        .arg(format!("--srv-host=_http._tcp.orders.test,two.test,{port}"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("dnsmasq");
    eventually("dnsmasq listens", || TcpStream::connect(at).is_ok());
    Server(child)
}

#[test]
fn a_real_name_server_is_followed() {
    let (one, two, port) = two_backends();
    let (place, at) = (Place::new(), free_address());
    place.write("hosts", "127.0.0.2 orders.test\n127.0.0.3 two.test\n");
    let dnsmasq = dnsmasq(&place, at, port);
    let upstream = format!("{{ targets: \"http://orders.test:{port}\", {PLAIN} }}");
    let text = text_of(&upstream, None).replace("drain: 5s", &format!("drain: 5s, resolver: \"{at}\""));
    let node = Node::start_whole(Place::new(), &text, &[]);
    assert_eq!(get(&node).text(), "one");
    let load = Load::on(&node, 2);
    place.write("hosts", "127.0.0.3 orders.test\n127.0.0.3 two.test\n");
    let told = Command::new("kill").arg("-HUP").arg(dnsmasq.0.id().to_string()).status();
    assert!(told.expect("kill").success());
    let changed = Instant::now();
    eventually("the other one is asked", || two.count() > 0);
    assert!(changed.elapsed() < Duration::from_millis(1_500), "{:?}", changed.elapsed());
    // It dies: what it said stands.
    drop(dnsmasq);
    thread::sleep(Duration::from_millis(1_500));
    let before = two.count();
    eventually("traffic goes on", || two.count() > before + 20);
    assert!(load.end().len() > 100);
    assert!(one.count() > 0);
}

#[test]
fn services_of_a_real_name_server_are_found() {
    let (_one, two, port) = two_backends();
    let (place, at) = (Place::new(), free_address());
    place.write("hosts", "127.0.0.3 two.test\n");
    let _dnsmasq = dnsmasq(&place, at, port);
    let upstream = format!("{{ targets: \"srv+http://_http._tcp.orders.test\", {PLAIN} }}");
    let text = text_of(&upstream, None).replace("drain: 5s", &format!("drain: 5s, resolver: \"{at}\""));
    let node = Node::start_whole(Place::new(), &text, &[]);
    assert_eq!(get(&node).text(), "two");
    assert_eq!(two.count(), 1);
}

/// A client over the Unix socket at `path`.
fn over(path: &Path) -> std::os::unix::net::UnixStream {
    let stream = std::os::unix::net::UnixStream::connect(path).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

/// What is answered to a request that asks for the end of the connection.
fn exchange_over(path: &Path, request: &str) -> String {
    let mut stream = over(path);
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("to the end");
    answer
}

fn listening_on_unix(place: Place, more: &str, target: SocketAddr) -> Node {
    let text = text_of(&format!("\"http://{target}\""), None).replace(
        "listen: { address: \"127.0.0.1:0\", tls: none }",
        &format!(
            "listen: [{{ address: \"127.0.0.1:0\", tls: none }}, {{ address: \"unix:in.sock\", tls: none{more} }}]"
        ),
    );
    Node::start_whole(place, &text, &[])
}

#[test]
fn a_listener_on_a_unix_socket_serves_like_any_other() {
    use std::os::unix::fs::PermissionsExt as _;
    let (backend, address) = Backend::tcp("one", "127.0.0.1:0");
    let place = Place::new();
    let path = place.path().join("in.sock");
    // One that nobody listens on any more is no obstacle.
    drop(UnixListener::bind(&path).expect("a socket"));
    let node = listening_on_unix(place, ", permissions: \"0606\"", address);
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o606);
    let close = "GET /a HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.9\r\nConnection: close\r\n\r\n";
    // Each core has its share of the one queue, and all of it works.
    for _ in 0..20 {
        let answer = exchange_over(&path, close);
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("one"), "{answer}");
    }
    // Nobody is believed who was not trusted, and there is no address to tell.
    assert!(backend.last_head().contains("X-Forwarded-For: unknown\r\n"), "{}", backend.last_head());
    let log = node.log(20);
    assert!(log.iter().all(|line| line.get("client").is_none() && line.get("peer").is_none()), "{log:?}");
    assert!(log[0]["listener"].as_str().is_some_and(|name| name.ends_with("in.sock")), "{log:?}");

    // A body in both directions, a pipeline, and an end by the client.
    let mut stream = over(&path);
    let large = "x".repeat(1 << 20);
    stream
        .write_all(
            format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", large.len()).as_bytes(),
        )
        .expect("sent");
    let mut writer = stream.try_clone().expect("a second handle");
    let sent = thread::spawn(move || writer.write_all(large.as_bytes()).expect("sent"));
    let mut answer = vec![0; (1 << 20) + 3];
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut line = String::new();
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).expect("a line");
    }
    reader.read_exact(&mut answer).expect("the whole body");
    sent.join().expect("sent");
    assert!(answer.starts_with(b"onexxx"));
    stream
        .write_all(&[close.replace("close", "keep-alive").as_bytes(), close.as_bytes()].concat())
        .expect("sent");
    let mut both = String::new();
    reader.read_to_string(&mut both).expect("to the end");
    assert_eq!(both.matches("HTTP/1.1 200 OK").count(), 2, "{both}");

    // Trusted, it may say whom it speaks for.
    drop(node);
    let place = Place::new();
    let path = place.path().join("in.sock");
    let node = listening_on_unix(place, ", trusted_proxies: unix", address);
    exchange_over(&path, close);
    assert!(
        backend.last_head().contains("X-Forwarded-For: 192.0.2.9, unknown\r\n"),
        "{}",
        backend.last_head()
    );
    assert_eq!(node.log(1)[0]["client"], "192.0.2.9");
}

#[test]
fn a_unix_socket_in_use_is_not_taken_and_one_that_drains_loses_nobody() {
    let (backend, address) = Backend::tcp("one", "127.0.0.1:0");
    let place = Place::new();
    let path = place.path().join("in.sock");
    let mut node = listening_on_unix(place, "", address);
    let second = Place::new();
    let text = std::fs::read_to_string(node.place.path().join("ringwall.yaml")).expect("a configuration");
    let text = text.replace("unix:in.sock", &format!("unix:{}", path.display()));
    let output = Command::new(env!("CARGO_BIN_EXE_ringwall"))
        .args(["run", "-c"])
        .arg(second.write("ringwall.yaml", &text))
        .output()
        .expect("ringwall run");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && told.contains("somebody listens on it"), "{told}");
    assert!(exchange_over(&path, "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").ends_with("one"));

    // Who waits when the node ends is still served.
    let mut waiting: Vec<_> = (0..20).map(|_| over(&path)).collect();
    for stream in &mut waiting {
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("sent");
    }
    node.signal("TERM");
    for mut stream in waiting {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("to the end");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
    }
    node.wait_for("RW-6006");
    assert_eq!(backend.count(), 21);
    assert!(!path.exists(), "its file goes with it");
}

#[test]
fn a_unix_socket_that_is_no_longer_configured_is_gone_and_loses_nobody() {
    let (_backend, address) = Backend::tcp("one", "127.0.0.1:0");
    let place = Place::new();
    let path = place.path().join("in.sock");
    let node = listening_on_unix(place, "", address);
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let path = path.clone();
            thread::spawn(move || {
                let mut answers = 0;
                // Until there is no such file: then nobody is promised anything.
                while let Ok(mut stream) = std::os::unix::net::UnixStream::connect(&path) {
                    stream
                        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                        .expect("sent");
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).expect("to the end");
                    assert!(answer.ends_with("one"), "{answer:?}");
                    answers += 1;
                }
                answers
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(300));
    let text = std::fs::read_to_string(node.place.path().join("ringwall.yaml")).expect("a configuration");
    let next = node.place.write("next.yaml", &text.replace(", { address: \"unix:in.sock\", tls: none }", ""));
    std::fs::rename(next, node.place.path().join("ringwall.yaml")).expect("renamed");
    let answers: u64 = callers.into_iter().map(|caller| caller.join().expect("nobody was lost")).sum();
    assert!(answers > 50, "{answers}");
    assert!(!path.exists());
    assert_eq!(get(&node).text(), "one");
}
