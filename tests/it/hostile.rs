//! Clients that mean harm: each ends with a reason of its own, and a client that does not is served meanwhile.
//!
//! Every attack is bounded in count and time; addresses are those of the loopback network, each another client.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::node::{
    Client, Node, Origin, PATIENCE, Place, Reply, comes_to, fetch, metric, new_key, refusals, response,
    text_of, with_driver,
};

const NAME: &str = "a.test";
const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const PLAIN: &str = "address: \"127.0.0.1:0\", tls: none";
const TLS: &str = "address: \"127.0.0.1:0\", domains: [a.test], tls: { cert: c.pem, key: k.pem }";

fn raw(origin: &Origin) -> String {
    format!(
        "upstreams: {{ app: \"http://{}\" }}\n\
         apis: {{ app: {{ to: app, raw: \"a test\", allow: [{{ who: anyone }}] }} }}",
        origin.address
    )
}

/// A node whose listener and `node` say more than those of other tests.
fn start(place: Place, listen: &str, node: &str, config: &str) -> Node {
    Node::start_whole(place, &whole(listen, node, config), &[])
}

fn whole(listen: &str, node: &str, config: &str) -> String {
    text_of(&format!("{{ {listen} }}"), config)
        .replace("control: control.sock", &format!("control: control.sock{node}"))
}

/// Connects from an address of one's own.
pub fn connect_from(source: Ipv4Addr, to: SocketAddr) -> std::io::Result<TcpStream> {
    connect_with(source, to, None)
}

/// The same, with a receive buffer of so many bytes.
fn connect_with(source: Ipv4Addr, to: SocketAddr, buffer: Option<u32>) -> std::io::Result<TcpStream> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let socket = tokio::net::TcpSocket::new_v4()?;
        if let Some(bytes) = buffer {
            socket.set_recv_buffer_size(bytes)?;
        }
        socket.bind(SocketAddr::from((source, 0)))?;
        let stream = socket.connect(to).await?.into_std()?;
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    })
}

fn address(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 1 + (number >> 16) as u8, (number >> 8) as u8, number as u8)
}

/// Whether the other side has ended the connection by now, or does within a second.
pub fn is_ended(stream: &mut TcpStream) -> bool {
    is_ended_within(Duration::from_secs(1), stream)
}

/// Whether it does at all: for what has to, however busy the machine is.
pub fn comes_to_an_end(stream: &mut TcpStream) -> bool {
    is_ended_within(PATIENCE, stream)
}

fn is_ended_within(time: Duration, stream: &mut TcpStream) -> bool {
    stream.set_read_timeout(Some(time)).expect("a timeout");
    match stream.read(&mut [0; 1]) {
        Ok(count) => count == 0,
        Err(error) => !matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
    }
}

/// Records of the access log with this reason, once there are so many.
pub fn records(node: &Node, reason: &str, count: usize) -> Vec<serde_json::Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let found: Vec<_> =
            node.log(0).into_iter().filter(|line| line["reason"].as_str() == Some(reason)).collect();
        if found.len() >= count {
            return found;
        }
        assert!(Instant::now() < deadline, "{} of {count} with {reason}: {:?}", found.len(), node.log(0));
        thread::sleep(Duration::from_millis(20));
    }
}

/// Bytes of the node's own memory. The metric may be that of its cgroup, which others share.
fn resident(node: &Node) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.child.id())).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory");
    let kib = line.trim().trim_end_matches(" kB").parse::<f64>().expect("a number");
    kib * 1_024.0
}

/// For how long this thread and those of the node were ready to run and others had the cores (Documentation/scheduler/sched-stats,
/// "/proc/<pid>/schedstat").
fn waited_for_cores(node: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{node}/task")).expect("it runs");
    let threads = threads.flatten().map(|thread| thread.path()).chain(["/proc/thread-self".into()]);
    let waited = threads.filter_map(|thread| {
        let text = std::fs::read_to_string(thread.join("schedstat")).ok()?;
        text.split(' ').nth(1)?.parse::<u64>().ok()
    });
    Duration::from_nanos(waited.sum())
}

/// A client that asks again and again while `attack` runs: every answer must be 200.
fn good_while<T>(node: &Node, attack: impl FnOnce() -> T) -> T {
    let (mut client, node) = (node.connect(), node.child.id());
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    thread::scope(|scope| {
        let good = scope.spawn(move || {
            let mut served = 0;
            while stopped.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                let (begun, waited) = (Instant::now(), waited_for_cores(node));
                client.send(GET);
                assert_eq!(client.answer().status, 200);
                // What others take of the machine meanwhile is not the attack's.
                let took = begun.elapsed().saturating_sub(waited_for_cores(node).saturating_sub(waited));
                assert!(took < Duration::from_secs(2), "served, but after {took:?} of {:?}", begun.elapsed());
                served += 1;
                thread::sleep(Duration::from_millis(5));
            }
            served
        });
        let result = attack();
        drop(stop);
        assert!(good.join().expect("the good client is served") > 0);
        result
    })
}

#[test]
fn an_address_has_as_many_connections_as_it_may_and_others_are_served() {
    let origin = Origin::plain();
    let mut node = start(Place::new(), PLAIN, ", connections: { all: 64, address: 4 }", &raw(&origin));
    let (greedy, modest) = (Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 0, 3));
    let mut held: Vec<Client> =
        (0..4).map(|_| Client::new(connect_from(greedy, node.address).expect("connected"))).collect();
    for client in &mut held {
        client.send(GET);
        assert_eq!(client.answer().status, 200);
    }
    for _ in 0..3 {
        // The reset may come before the kernel tells of the connection.
        if let Ok(mut fifth) = connect_from(greedy, node.address) {
            let _ = fifth.write_all(GET.as_bytes());
            assert!(comes_to_an_end(&mut fifth), "one more than there may be");
        }
    }
    let mut other = Client::new(connect_from(modest, node.address).expect("connected"));
    other.send(GET);
    assert_eq!(other.answer().status, 200);
    // Those that are in go on.
    for client in &mut held {
        client.send(GET);
        assert_eq!(client.answer().status, 200);
    }
    let told = records(&node, "connections_address", 3);
    assert!(told.iter().all(|line| line["client"] == "127.0.0.2" && line["code"] == "RW-2207"), "{told:?}");
    comes_to(3.0, || refusals(&node, "connections_address"));
    let line = node.wait_for("RW-6150");
    assert!(line.contains("reason=connections_address") && line.contains("127.0.0.2*"), "{line}");
    // Who leaves makes room.
    drop(held.pop());
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Ok(mut again) = connect_from(greedy, node.address)
            && again.write_all(GET.as_bytes()).is_ok()
            && !is_ended(&mut again)
        {
            break;
        }
        assert!(Instant::now() < deadline, "there is room again");
    }
}

#[test]
fn connections_through_a_trusted_proxy_are_those_of_many() {
    let origin = Origin::plain();
    let listen = format!("{PLAIN}, trusted_proxies: [127.0.0.2/32]");
    let node = start(Place::new(), &listen, ", connections: { all: 64, address: 2 }", &raw(&origin));
    let mut clients: Vec<Client> = (0..10)
        .map(|_| Client::new(connect_from(Ipv4Addr::new(127, 0, 0, 2), node.address).expect("connected")))
        .collect();
    for client in &mut clients {
        client.send(GET);
        assert_eq!(client.answer().status, 200);
    }
}

/// An API that only the holder of a key may call, and its key.
fn with_key(place: &Place, origin: &Origin) -> (String, String) {
    place.write("pepper", "0123456789abcdef0123456789abcdef");
    let key = new_key(place.path(), "acme", &[]);
    let config = format!(
        "login: {{ partners: {{ api_key: X-API-Key, store: partners.keys, pepper: \"secret:file:pepper\" }} }}\n\
         upstreams: {{ app: \"http://{}\" }}\n\
         apis: {{ app: {{ to: app, raw: \"a test\", allow: [{{ who: partners }}], \
         limits: [{{ per: identity, rate: 100000/s }}] }} }}",
        origin.address
    );
    (config, format!("GET / HTTP/1.1\r\nHost: a.test\r\nX-API-Key: {key}\r\n\r\n"))
}

#[test]
fn a_flood_of_addresses_takes_the_place_of_its_own_and_of_nobody_known() {
    let origin = Origin::plain();
    let place = Place::new();
    let (config, request) = with_key(&place, &origin);
    let node = start(place, PLAIN, ", connections: { all: 40, core: 40 }", &config);
    let mut known: Vec<Client> = (0..6).map(|_| node.connect()).collect();
    for client in &mut known {
        client.send(&request);
        assert_eq!(client.answer().status, 200);
    }
    // Each from another address, as each of a botnet or of a provider's /48 would be.
    let mut flood = Vec::new();
    for number in 0..400 {
        if let Ok(stream) = connect_from(address(number), node.address) {
            flood.push(stream);
        }
        if number % 100 == 50 {
            for client in &mut known {
                client.send(&request);
                assert_eq!(client.answer().status, 200, "an established client is served");
            }
        }
    }
    assert!(metric(&node, "ringwall_connections", &[]) <= 40.0);
    // The flood stays, and somebody new is served all the same, at once or at the second or third attempt.
    let served = (0..10).any(|_| {
        let mut client = Client::new(TcpStream::connect(node.address).expect("connected"));
        client.try_send(request.as_bytes());
        client.rest_until_quiet().starts_with(b"HTTP/1.1 200")
    });
    assert!(served, "the flood has left no room");
    // The known ones are let go for nobody, however long they are idle beside the others.
    thread::sleep(Duration::from_secs(4));
    for client in &mut known {
        client.send(&request);
        assert_eq!(client.answer().status, 200, "an established client is served");
    }
    // Counted and not logged: of what is told in a second the flood that was not let in takes the most.
    let spared = || refusals(&node, "connection_spared");
    let deadline = Instant::now() + PATIENCE;
    while spared() < 1.0 {
        assert!(Instant::now() < deadline, "nobody was let go");
        thread::sleep(Duration::from_millis(20));
    }
    drop(flood);
}

#[test]
fn slowloris_ends_with_408_and_silence_with_the_end_of_its_time() {
    let origin = Origin::plain();
    let listen = format!("{PLAIN}, timeouts: {{ head: 500ms, idle: 1s }}");
    let mut node = start(Place::new(), &listen, "", &raw(&origin));
    let (mut dripping, silent) = good_while(&node, || {
        let silent: Vec<TcpStream> =
            (0..20).map(|_| TcpStream::connect(node.address).expect("connected")).collect();
        let mut dripping: Vec<TcpStream> =
            (0..50).map(|_| TcpStream::connect(node.address).expect("connected")).collect();
        for byte in b"GET / HTTP/1.1\r\nHost: a.test\r\nX-Slow: " {
            for stream in &mut dripping {
                let _ = stream.write_all(&[*byte]);
            }
            thread::sleep(Duration::from_millis(30));
        }
        (dripping, silent)
    });
    for stream in &mut dripping {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&answer));
    }
    assert_eq!(records(&node, "client_head_timeout", 50).len(), 50);
    for mut stream in silent {
        assert!(comes_to_an_end(&mut stream));
    }
    let told = records(&node, "client_silent", 10);
    assert!(told[0]["duration_us"].as_u64() >= Some(1_000_000) && told[0]["peer"].is_string(), "{}", told[0]);
    assert!(told[0].get("status").is_none() && told[0].get("method").is_none(), "{}", told[0]);
    comes_to(20.0, || refusals(&node, "client_silent"));
    assert!(node.wait_for("RW-6151").contains("reason=client_"));
}

#[test]
fn a_slow_body_ends_though_it_never_stops() {
    let origin = Origin::plain();
    let node = start(Place::new(), PLAIN, "", &raw(&origin));
    let mut slow = node.connect();
    slow.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\n");
    let begun = Instant::now();
    let mut stream = slow.into_stream();
    stream.set_read_timeout(Some(Duration::from_millis(100))).expect("a timeout");
    let mut answer = [0; 12];
    // 500 bytes a second: half of what is wanted.
    let read = loop {
        let _ = stream.write_all(&[b'x'; 50]);
        match stream.read(&mut answer) {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted
                ) => {}
            read => break read.expect("an answer"),
        }
        assert!(begun.elapsed() < Duration::from_secs(15), "it goes on and on");
    };
    assert_eq!(&answer[..read], b"HTTP/1.1 408");
    assert!(begun.elapsed() > Duration::from_secs(9), "after {:?}", begun.elapsed());
    assert_eq!(records(&node, "client_body_timeout", 1).len(), 1);
}

/// A long answer, longer than what two kernels take of it by themselves.
const LONG: usize = 48 << 20;

fn long() -> Origin {
    let body = response("200 OK", &"x".repeat(LONG));
    Origin::start(move |seen| match seen.head.starts_with("GET /long") {
        true => Reply::Bytes(body.clone()),
        false => Reply::Bytes(response("200 OK", "hello")),
    })
}

fn long_config(origin: &Origin) -> String {
    raw(origin).replace("raw: \"a test\"", "raw: \"a test\", timeouts: { stream_idle: 1500ms }")
}

#[test]
fn who_does_not_read_is_cut_and_who_reads_slowly_is_not() {
    let origin = long();
    let node = start(Place::new(), PLAIN, "", &long_config(&origin));
    let request = GET.replace("GET /", "GET /long");
    good_while(&node, || {
        let mut deaf = node.connect();
        deaf.send(&request);
        assert!(deaf.head().starts_with("HTTP/1.1 200"));
        let line = records(&node, "client_read_timeout", 1).remove(0);
        assert!(line["bytes_out"].as_u64() < Some(LONG as u64) && line["code"] == "RW-2203", "{line}");
        assert!(deaf.rest().len() < LONG);
    });
    // 160 KiB a second is far more than is wanted, and far less than a piece in each window.
    let stream = connect_with(Ipv4Addr::LOCALHOST, node.address, Some(16 << 10)).expect("connected");
    let mut slow = Client::new(stream);
    slow.send(&request);
    let head = slow.head();
    assert!(head.starts_with("HTTP/1.1 200"));
    let mut left = LONG - slow.read_slowly(16 << 10, Duration::from_millis(100), Duration::from_secs(6));
    left -= slow.rest_of(left);
    assert_eq!(left, 0, "{:?}", node.log(0).last());
    assert_eq!(records(&node, "client_read_timeout", 1).len(), 1);
}

struct Tls {
    config: Arc<ClientConfig>,
}

impl Tls {
    fn new(place: &Place) -> Tls {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate");
        place.write("c.pem", &made.cert.pem());
        place.write("k.pem", &made.signing_key.serialize_pem());
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a root");
        let config = ClientConfig::builder_with_provider(ringwall::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Tls { config: Arc::new(config) }
    }

    fn session(&self, name: &str) -> ClientConnection {
        let name = ServerName::try_from(name.to_owned()).expect("a name");
        ClientConnection::new(Arc::clone(&self.config), name).expect("a client")
    }

    fn hello(&self, name: &str) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.session(name).write_tls(&mut bytes).expect("a vector");
        bytes
    }

    fn connect(&self, node: &Node) -> StreamOwned<ClientConnection, TcpStream> {
        let stream = TcpStream::connect(node.address).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        StreamOwned::new(self.session(NAME), stream)
    }
}

fn ask(stream: &mut StreamOwned<ClientConnection, TcpStream>) -> std::io::Result<String> {
    stream.write_all(GET.as_bytes())?;
    stream.flush()?;
    let mut bytes = [0; 4096];
    let count = stream.read(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes[..count]).into_owned())
}

#[test]
fn each_handshake_that_comes_to_nothing_has_its_reason() {
    let origin = Origin::plain();
    let place = Place::new();
    let tls = Tls::new(&place);
    let listen = format!("{TLS}, timeouts: {{ handshake: 500ms }}");
    let mut node = start(place, &listen, "", &raw(&origin));
    let hello = tls.hello(NAME);
    let send = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(node.address).expect("connected");
        stream.write_all(bytes).expect("sent");
        stream
    };
    let mut good = tls.connect(&node);
    assert!(ask(&mut good).expect("an answer").starts_with("HTTP/1.1 200"));

    let mut stalled = vec![send(b""), send(&hello[..1]), send(&hello[..hello.len() - 1])];
    // A whole hello, and then nothing, or only the start of the next flight.
    stalled.push(send(&hello));
    stalled.push(send(&[&hello[..], &[20, 3, 3, 0, 1, 1, 23, 3, 3, 1]].concat()));
    let begun = Instant::now();
    for stream in &mut stalled {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let _ = stream.read_to_end(&mut Vec::new());
    }
    assert!(begun.elapsed() < Duration::from_secs(3));
    assert_eq!(records(&node, "client_handshake_timeout", 5).len(), 5);

    let mut plain = send(GET.as_bytes());
    let mut alert = Vec::new();
    let _ = plain.read_to_end(&mut alert);
    assert_eq!(alert, [21, 3, 3, 0, 2, 2, 10], "unexpected_message");
    records(&node, "client_hello", 1);
    let _other = send(&tls.hello("b.test"));
    records(&node, "client_server_name", 1);
    drop(send(&hello));
    records(&node, "client_handshake_left", 1);
    // A record of application data, where the client's Finished should be.
    let _broken = send(&[&hello[..], &[23, 3, 3, 0, 40], &[7; 40]].concat());
    records(&node, "client_handshake_failed", 1);
    // A probe that connects and goes is nobody's business.
    let before = node.log(0).len();
    drop(TcpStream::connect(node.address).expect("connected"));
    assert!(ask(&mut good).expect("an answer").starts_with("HTTP/1.1 200"));
    assert_eq!(node.log(before + 1).len(), before + 1);
    assert!(node.wait_for("RW-6151").contains("reason=client_"));
}

#[test]
fn a_hello_in_pieces_without_end_is_refused() {
    let origin = Origin::plain();
    let place = Place::new();
    let tls = Tls::new(&place);
    let node = start(place, TLS, "", &raw(&origin));
    let mut stream = TcpStream::connect(node.address).expect("connected");
    stream.set_nodelay(true).expect("no delay");
    let hello = tls.hello(NAME);
    for byte in &hello[..hello.len() - 1] {
        if stream.write_all(&[*byte]).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    records(&node, "client_hello", 1);
}

#[test]
fn records_of_one_byte_are_served_and_changes_of_keys_without_end_are_not() {
    let origin = Origin::plain();
    let place = Place::new();
    let tls = Tls::new(&place);
    let node = start(place, TLS, "", &raw(&origin));
    let good = || {
        let mut good = tls.connect(&node);
        assert!(ask(&mut good).expect("an answer").starts_with("HTTP/1.1 200"));
    };
    // A head and a body of 20,000 records of one byte each, all at once.
    let mut tiny = tls.connect(&node);
    assert!(ask(&mut tiny).expect("an answer").starts_with("HTTP/1.1 200"));
    let body = "x".repeat(20_000);
    let request = format!("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    for byte in request.as_bytes() {
        tiny.conn.writer().write_all(&[*byte]).expect("taken");
        if tiny.conn.wants_write() {
            tiny.conn.write_tls(&mut tiny.sock).expect("sent");
        }
    }
    good();
    let mut answer = [0; 12];
    tiny.read_exact(&mut answer).unwrap_or_else(|error| panic!("{error}: {:?}", node.log(0)));
    assert_eq!(&answer, b"HTTP/1.1 200");

    let mut turning = tls.connect(&node);
    assert!(ask(&mut turning).expect("an answer").starts_with("HTTP/1.1 200"));
    let ended = (0..200).any(|_| {
        turning.conn.refresh_traffic_keys().expect("TLS 1.3");
        turning.flush().is_err() || {
            thread::sleep(Duration::from_millis(1));
            false
        }
    }) || ask(&mut turning).is_err();
    assert!(ended, "200 changes of keys");
    records(&node, "client_records", 1);
    good();
}

#[test]
fn renegotiation_is_not_had() {
    let origin = Origin::plain();
    let place = Place::new();
    let tls = Tls::new(&place);
    let node = start(place, TLS, "", &raw(&origin));
    let mut command = Command::new("openssl");
    command.args(["s_client", "-tls1_2", "-servername", NAME, "-connect", &node.address.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("openssl");
    let mut input = child.stdin.take().expect("piped");
    // A line that begins with R asks for a renegotiation.
    for _ in 0..5 {
        thread::sleep(Duration::from_millis(200));
        if input.write_all(b"R\n").is_err() {
            break;
        }
    }
    drop(input);
    let output = child.wait_with_output().expect("it ends");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    assert!(text.contains("RENEGOTIATING") && text.contains("no renegotiation"), "{text}");
    let mut good = tls.connect(&node);
    assert!(ask(&mut good).expect("an answer").starts_with("HTTP/1.1 200"));
}

#[test]
fn thousands_of_idle_connections_and_churn_leave_others_alone() {
    let origin = Origin::plain();
    let node = start(Place::new(), PLAIN, "", &raw(&origin));
    let before = resident(&node);
    let idle = good_while(&node, || {
        let idle: Vec<TcpStream> =
            (0..2_000).map(|_| TcpStream::connect(node.address).expect("connected")).collect();
        for number in 0..2_000 {
            let mut stream = TcpStream::connect(node.address).expect("connected");
            if number % 2 == 0 {
                let _ = stream.write_all(b"GET / HTTP/1.1\r\nHo");
            }
        }
        idle
    });
    // What the churn needed is given back little by little.
    let deadline = Instant::now() + PATIENCE;
    let each = loop {
        thread::sleep(Duration::from_millis(300));
        let each = (resident(&node) - before) / idle.len() as f64;
        if each < 8_192.0 || Instant::now() > deadline {
            break each;
        }
    };
    println!("{each:.0} bytes for an idle connection, churn included");
    assert!(each < 8_192.0, "{each} bytes for an idle connection");
    assert_eq!(metric(&node, "ringwall_panics_total", &[]), 0.0);
}

/// What a client costs that stops in the middle of something, in bytes of ours, by what it stopped in.
#[test]
fn a_client_that_stops_half_way_costs_little() {
    const EACH: usize = 500;
    let origin = Origin::plain();
    let post = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\nabc".as_slice();
    let head = b"GET / HTTP/1.1\r\nHost: a.t".as_slice();
    // Of a hello so many bytes, or without TLS these.
    let stops = [
        ("before the hello", Ok(0), 5_120.0),
        ("in the hello", Ok(100), 9_216.0),
        ("behind the hello", Ok(usize::MAX), 24_576.0),
        ("in a head", Err(head), 20_480.0),
        ("in a body", Err(post), 28_672.0),
    ];
    for (what, sent, most) in stops {
        let place = Place::new();
        let tls = Tls::new(&place);
        let listen = match sent {
            Ok(_) => format!("{TLS}, timeouts: {{ handshake: 30s }}"),
            Err(_) => format!("{PLAIN}, timeouts: {{ head: 30s }}"),
        };
        let node = start(place, &listen, "", &raw(&origin));
        let hello = tls.hello(NAME);
        let bytes = match sent {
            Ok(count) => &hello[..count.min(hello.len())],
            Err(bytes) => bytes,
        };
        let open = |count: usize| -> Vec<TcpStream> {
            let one = |_| {
                let mut stream = TcpStream::connect(node.address).expect("connected");
                stream.write_all(bytes).expect("sent");
                stream
            };
            (0..count).map(one).collect()
        };
        let used = |connections: usize| {
            let deadline = Instant::now() + PATIENCE;
            while metric(&node, "ringwall_connections", &[]) < connections as f64 {
                assert!(Instant::now() < deadline, "{connections} connections");
                thread::sleep(Duration::from_millis(20));
            }
            // Two looks of the control thread.
            thread::sleep(Duration::from_millis(600));
            resident(&node)
        };
        // What is needed once is there.
        let warm = open(100);
        let before = used(100);
        let stopped = open(EACH);
        let each = (used(100 + EACH) - before) / EACH as f64;
        println!("{each:.0} bytes for a client that stops {what}");
        assert!(each <= most, "{each} bytes for a client that stops {what}");
        drop((warm, stopped));
    }
}

#[test]
fn heads_without_end_are_refused_and_others_served() {
    let origin = Origin::plain();
    let node = start(Place::new(), PLAIN, "", &raw(&origin));
    good_while(&node, || {
        for (fields, status) in [
            ("X: y\r\n".repeat(200), 431),
            (format!("X: {}\r\n", "y".repeat(60_000)), 431),
            (format!("{}: y\r\n", "X".repeat(60_000)), 431),
        ] {
            for _ in 0..20 {
                let mut client = node.connect();
                client.try_send(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n").as_bytes());
                assert_eq!(client.answer().status, status);
            }
        }
    });
}

/// `ringwall run` under a limit of open files.
fn limited(files: u32) -> Command {
    let inner = with_driver(Command::new(env!("CARGO_BIN_EXE_ringwall")));
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("ulimit -n {files}; exec \"$0\" \"$@\""));
    command.arg(inner.get_program()).args(inner.get_args());
    command.process_group(0);
    command
}

#[test]
fn with_few_descriptors_a_node_has_few_connections_and_answers_on() {
    let origin = Origin::plain();
    let text = whole(PLAIN, "", &raw(&origin));
    let mut node = Node::launch(Place::new(), &text, limited(320));
    let room = node.lines_so_far().find(|line| line.contains("RW-6154")).expect("told at start").to_owned();
    let all: f64 =
        room.split("all=").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).expect("a number");
    assert!((16.0..200.0).contains(&all), "{room}");
    let mut good = node.connect();
    good.send(GET);
    assert_eq!(good.answer().status, 200);
    let mut flood: Vec<TcpStream> = Vec::new();
    for number in 0..600 {
        flood.extend(connect_from(address(number), node.address));
    }
    assert!(metric(&node, "ringwall_connections", &[]) <= all);
    assert!(metric(&node, "ringwall_descriptors_used", &[]) < 320.0 * 0.9);
    assert_eq!(fetch(&node, "/readyz"), "ok\n");
    good.send(GET);
    assert_eq!(good.answer().status, 200);
    drop(flood);
    let mut later = node.connect();
    later.send(GET);
    assert_eq!(later.answer().status, 200);
    // Whoever was reset was told of.
    let refused = metric(&node, "ringwall_refusals_total", &["reason=\"connection"]);
    assert!(refused >= 100.0, "{refused}");
    node.signal("TERM");
    node.wait_for("RW-6006");
}

#[test]
fn a_bound_above_what_descriptors_allow_is_lowered_and_told() {
    let origin = Origin::plain();
    let text = whole(PLAIN, ", connections: { all: 5000 }", &raw(&origin));
    let node = Node::launch(Place::new(), &text, limited(320));
    assert!(node.lines_so_far().any(|line| line.contains("RW-6155") && line.contains("wanted=5000")));
    assert!(metric(&node, "ringwall_connections_max", &[]) < 320.0);
}

#[test]
fn short_of_memory_a_node_pauses_holds_no_bodies_and_goes_on() {
    const BODY: usize = 1 << 20;
    const BOUND: f64 = 96.0 * 1_048_576.0;
    let origin = Origin::plain();
    let place = Place::new();
    place.write("s.json", "{ \"type\": \"object\" }");
    let config = format!(
        "upstreams: {{ app: \"http://{}\" }}\n\
         apis: {{ app: {{ to: app, allow: [{{ who: anyone }}], sizes: {{ body: 2MiB }}, operations: {{ get: GET /, \
         put: {{ match: POST /, body: {{ schema: s.json }} }} }} }} }}",
        origin.address
    );
    let mut node = start(place, PLAIN, ", memory: 96MiB, connections: { all: 4000 }", &config);
    let mut good = node.connect();
    good.send(GET);
    assert_eq!(good.answer().status, 200);
    // Bodies that are all but whole, held for the schema: more than fit.
    let head = format!(
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        BODY + 1
    );
    let body = vec![b' '; BODY];
    let mut held = Vec::new();
    for number in 0..160 {
        let Ok(mut stream) = connect_from(address(number), node.address) else { continue };
        stream.set_write_timeout(Some(Duration::from_millis(100))).expect("a timeout");
        let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
        held.push(stream);
        if number > 100 && fetch(&node, "/readyz") != "ok\n" {
            break;
        }
    }
    assert!(node.wait_for("RW-6152").contains("of=memory"));
    assert_eq!(fetch(&node, "/readyz"), "short of memory\n");
    assert_eq!(metric(&node, "ringwall_accepts_paused", &["reason=\"memory\""]), 1.0);
    // The process never had more than it may.
    let status = std::fs::read_to_string(format!("/proc/{}/status", node.child.id())).expect("a status");
    let most = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a high-water mark");
    let most: f64 = most.trim().trim_end_matches(" kB").parse::<f64>().expect("a number") * 1024.0;
    println!("{:.1} MiB of {:.0}", most / 1_048_576.0, BOUND / 1_048_576.0);
    assert!(most <= BOUND, "{most} of {BOUND}");
    // Who is in is served.
    good.send(GET);
    assert_eq!(good.answer().status, 200);
    drop(held);
    node.wait_for("RW-6153");
    assert_eq!(fetch(&node, "/readyz"), "ok\n");
    let mut later = node.connect();
    later.send(GET);
    assert_eq!(later.answer().status, 200);
}
