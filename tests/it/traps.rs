//! The traps of the event loop, seen from outside a running node: what a client, an operator and the kernel see.
//!
//! The others are in `traps_loop`, on a loop of our own, and in `traps_source`, which proves of what is not used
//! that it is not used.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::node::{Node, Origin, PATIENCE, Place, Reply, response, text_of};

/// Answers `/one` by itself and forwards the rest.
fn config(target: SocketAddr) -> String {
    format!(
        "upstreams: {{ app: {{ targets: [\"http://{target}\"], timeouts: {{ first_byte: 300ms }} }} }}\n\
         apis:\n  app:\n    to: app\n    operations:\n      \
         one: {{ match: GET /one, respond: {{ status: 200, body: x }} }}\n      two: GET /two\n      \
         endless: GET /endless\n    allow: [{{ who: anyone }}]"
    )
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n")
}

fn metrics(node: &Node) -> String {
    let mut stream = TcpStream::connect(node.metrics).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", node.metrics);
    stream.write_all(request.as_bytes()).expect("sent");
    let mut page = String::new();
    stream.read_to_string(&mut page).expect("a page");
    page
}

/// Waits until `is` holds.
fn until(what: &str, mut is: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        thread::yield_now();
    }
}

// ---- the ladder

/// Runs a program under a seccomp filter in which `io_uring_setup` (425 everywhere) fails with EPERM, as in a container.
const WITHOUT_IO_URING: &str = r#"
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
step = lambda code, jt, jf, k: struct.pack("HBBI", code, jt, jf, k)
# Load the number of the call; if it is 425, fail with EPERM (1), else allow.
program = step(0x20, 0, 0, 0) + step(0x15, 0, 1, 425) + step(0x06, 0, 0, 0x00050001) + step(0x06, 0, 0, 0x7fff0000)
text = ctypes.create_string_buffer(program, len(program))
filter = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(text)), 16)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(filter), 0, 0):
    sys.exit("no seccomp: " + os.strerror(ctypes.get_errno()))
os.execv(sys.argv[1], sys.argv[1:])
"#;

fn without_io_uring() -> Command {
    let mut command = Command::new("python3");
    command.arg("-c").arg(WITHOUT_IO_URING).arg(env!("CARGO_BIN_EXE_ringwall")).arg("run");
    command
}

#[test]
fn where_io_uring_is_barred_epoll_runs_and_every_step_is_given_its_reason() {
    let origin = Origin::plain();
    let place = Place::new();
    let text = text_of("{ address: \"127.0.0.1:0\", tls: none }", &config(origin.address));
    // Both cores say what they run on before the node is ready.
    let mut node = Node::launch(place, &text, without_io_uring());
    let chosen: Vec<&str> = node.lines_so_far().filter(|line| line.contains("RW-6002")).collect();
    assert_eq!(chosen.len(), 2, "{chosen:?}");
    for line in chosen {
        assert!(line.contains("driver=epoll"), "{line}");
        assert!(line.contains("io_uring: ") && line.contains("io_uring-plain: "), "{line}");
    }
    assert_eq!(node.ask(&get("/two")).text(), "hello");
    let page = metrics(&node);
    assert!(page.contains("ringwall_driver_info{core=\"1\",driver=\"epoll\"} 1"), "{page}");
    node.signal("TERM");
    node.wait_for("RW-6006");
}

#[test]
fn a_driver_that_was_asked_for_is_had_or_nothing_starts() {
    let origin = Origin::plain();
    let place = Place::new();
    let text = text_of("{ address: \"127.0.0.1:0\", tls: none }", &config(origin.address));
    let file = place.write("ringwall.yaml", &text);
    for driver in ["io_uring", "io_uring-plain"] {
        let output =
            without_io_uring().args(["--driver", driver, "-c"]).arg(&file).output().expect("python3");
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("no driver works here") && told.contains(driver), "{told}");
    }
}

// ---- starvation

/// An upstream that never answers, except that it never stops answering `/endless`.
fn endless() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut head = [0; 4096];
                let count = stream.read(&mut head).unwrap_or(0);
                if !head[..count].starts_with(b"GET /endless") {
                    let _ = stream.read(&mut head);
                    return;
                }
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                let chunk = [b"10000\r\n", &[b'x'; 0x10000][..], b"\r\n"].concat();
                while stream.write_all(&chunk).is_ok() {}
            });
        }
    });
    address
}

/// A connection over which bytes go both ways without end.
struct Flood {
    stream: TcpStream,
    stop: Arc<AtomicBool>,
    received: Arc<AtomicU64>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Flood {
    /// Sends `first`, and then `again` over and over, where it is not empty; reads whatever comes.
    fn start(node: &Node, first: &str, again: &str) -> Flood {
        let stream = TcpStream::connect(node.address).expect("connected");
        let mut writer = stream.try_clone().expect("a second handle");
        let mut reader = stream.try_clone().expect("a third handle");
        let stop = Arc::new(AtomicBool::new(false));
        let received = Arc::new(AtomicU64::new(0));
        let (first, again) = (first.to_owned(), again.to_owned());
        let (stop_there, received_there) = (Arc::clone(&stop), Arc::clone(&received));
        let threads = vec![
            thread::spawn(move || {
                writer.write_all(first.as_bytes()).expect("sent");
                while !again.is_empty() && !stop_there.load(Ordering::Relaxed) {
                    if writer.write_all(again.as_bytes()).is_err() {
                        return;
                    }
                }
            }),
            thread::spawn(move || {
                let mut buffer = vec![0; 1 << 20];
                while let Ok(count @ 1..) = reader.read(&mut buffer) {
                    received_there.fetch_add(count as u64, Ordering::Relaxed);
                }
            }),
        ];
        let flood = Flood { stream, stop, received, threads };
        flood.goes_on();
        flood
    }

    /// Waits until more has come.
    fn goes_on(&self) {
        let before = self.received.load(Ordering::Relaxed);
        until("the flood goes on", || self.received.load(Ordering::Relaxed) > before + 1_000_000);
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.stream.shutdown(Shutdown::Both);
        self.threads.into_iter().for_each(|thread| thread.join().expect("ended"));
    }
}

/// Accept, I/O and timers of the one core go on.
fn everybody_else_is_served(node: &Node) {
    let mut kept = node.connect();
    for _ in 0..50 {
        assert_eq!(node.ask(&get("/one")).status, 200);
        kept.send(get("/one"));
        assert_eq!(kept.answer().status, 200);
    }
    // The upstream says nothing: only a timer ends this.
    let late = node.ask(&get("/two"));
    assert_eq!((late.status, late.reason().as_str()), (504, "upstream_first_byte"));
}

#[test]
fn a_client_that_pipelines_without_end_starves_neither_others_nor_timers() {
    let node = Node::start_on_one_core(&config(endless()));
    let flood = Flood::start(&node, "", &get("/one").repeat(2_000));
    everybody_else_is_served(&node);
    flood.goes_on();
    flood.end();
}

#[test]
fn a_body_without_end_starves_neither_others_nor_timers() {
    let node = Node::start_on_one_core(&config(endless()));
    let flood = Flood::start(&node, &get("/endless"), "");
    everybody_else_is_served(&node);
    flood.goes_on();
    flood.end();
}

// ---- accept and close

/// The sockets of the node's port as the kernel lists them: state and inode.
fn sockets(node: &Node) -> Vec<(String, u64)> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
    let port = format!(":{:04X}", node.address.port());
    table
        .lines()
        .filter_map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let local = words.get(1)?.ends_with(&port);
            local.then(|| (words[3].to_owned(), words[9].parse().expect("an inode")))
        })
        .collect()
}

const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";

/// Inodes of the sockets that the node has open, with the flags of their descriptors.
fn descriptors(node: &Node) -> Vec<(u64, u64)> {
    let process = format!("/proc/{}", node.child.id());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(format!("{process}/fd")).expect("a running node").flatten() {
        let Ok(target) = std::fs::read_link(entry.path()) else { continue };
        let target = target.display().to_string();
        let Some(inode) = target.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']')) else {
            continue;
        };
        let number = entry.file_name().into_string().expect("a number");
        let Ok(info) = std::fs::read_to_string(format!("{process}/fdinfo/{number}")) else { continue };
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).expect("flags").trim();
        found.push((inode.parse().expect("a number"), u64::from_str_radix(flags, 8).expect("octal")));
    }
    found
}

/// Whether we may look at the node's descriptors: it lets nobody trace it, so only root may.
fn may_look(node: &Node) -> bool {
    let may = std::fs::read_dir(format!("/proc/{}/fd", node.child.id())).is_ok();
    if !may {
        println!("NOT RUN: descriptors of a node (not root)");
    }
    may
}

/// Sockets of the node's port in `state` that the node itself holds.
fn held(node: &Node, state: &str) -> usize {
    let open: Vec<u64> = descriptors(node).into_iter().map(|(inode, _)| inode).collect();
    sockets(node).iter().filter(|(found, inode)| found == state && open.contains(inode)).count()
}

#[test]
fn no_socket_of_the_node_outlives_an_exec() {
    const CLOEXEC: u64 = 0o2000000;
    let origin = Origin::plain();
    let node = Node::start(&config(origin.address));
    if !may_look(&node) {
        return;
    }
    let mut clients: Vec<_> = (0..20).map(|_| node.connect()).collect();
    for client in &mut clients {
        client.send(get("/two"));
        assert_eq!(client.answer().status, 200);
    }
    assert_eq!(held(&node, ESTABLISHED), 20);
    let open = descriptors(&node);
    // Listening sockets, clients, connections to the origin, the control socket and the metrics page.
    assert!(open.len() >= 20 + 2 + 1 + 2, "{open:?}");
    // The process was given its standard error by us.
    for (inode, flags) in open {
        assert!(flags & CLOEXEC != 0, "socket {inode} has flags {flags:o}");
    }
}

#[test]
fn a_drained_node_holds_no_socket_but_those_at_work_and_its_port_is_free_at_once() {
    let (go, wait) = mpsc::channel::<()>();
    let (arrived, arrival) = mpsc::channel();
    let wait = Mutex::new(wait);
    let origin = Origin::start(move |seen| {
        if seen.head.contains("/two") {
            let _ = arrived.send(());
            // Until the test has seen what it came for.
            let _ = wait.lock().expect("one thread at a time").recv_timeout(PATIENCE);
        }
        Reply::Bytes(response("200 OK", "done"))
    });
    let mut node = Node::start(&config(origin.address).replace("300ms", "20s"));
    if !may_look(&node) {
        return;
    }
    assert_eq!(held(&node, LISTEN), 2, "one for each core");
    let mut idle: Vec<_> = (0..30).map(|_| node.connect()).collect();
    for client in &mut idle {
        client.send(get("/one"));
        assert_eq!(client.answer().status, 200);
    }
    // These have said nothing yet, and may not even have been accepted.
    let mut silent: Vec<_> = (0..30).map(|_| node.connect()).collect();
    let mut busy = node.connect();
    busy.send(get("/two"));
    arrival.recv_timeout(PATIENCE).expect("the origin is asked");

    node.signal("TERM");
    node.wait_for("RW-6005");
    for client in idle.iter_mut().chain(&mut silent) {
        assert!(client.is_closed());
    }
    until("only the request under way is left", || (held(&node, LISTEN), held(&node, ESTABLISHED)) == (0, 1));
    // The old process lives and serves; the port is another's. This listener does not share it (no SO_REUSEPORT).
    let next = TcpListener::bind(node.address).expect("the port is free");
    let client = TcpStream::connect(node.address).expect("connected");
    let (_, peer) = next.accept().expect("nobody else takes it");
    assert_eq!(peer, client.local_addr().expect("local"));

    go.send(()).expect("the origin waits");
    assert_eq!(busy.answer().text(), "done");
    assert!(node.child.wait().expect("ended").success());
}

#[test]
fn connections_that_come_and_go_leave_no_descriptor_behind() {
    let origin = Origin::plain();
    let node = Node::start(&config(origin.address));
    if !may_look(&node) {
        return;
    }
    for round in 0..50 {
        let mut client = node.connect();
        match round % 5 {
            // Gone before it is accepted, perhaps.
            0 => {}
            1 => client.send(get("/one")),
            2 => client.send("GET /half HTTP/1.1\r\nHo"),
            3 => client.end_sending(),
            _ => {
                client.send(get("/two"));
                assert_eq!(client.answer().status, 200);
            }
        }
    }
    until("all are closed", || held(&node, ESTABLISHED) == 0 && open_connections(&node) == 0);
    assert_eq!(node.ask(&get("/one")).status, 200);
}

fn open_connections(node: &Node) -> u64 {
    metrics(node)
        .lines()
        .filter(|line| line.starts_with("ringwall_connections{"))
        .map(|line| line.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number") as u64)
        .sum()
}

// ---- partial writes

/// Small messages are handed to the socket without waiting for the end of it; one that is full takes a part of them.
#[test]
fn answers_that_a_full_socket_took_in_part_are_completed() {
    const COUNT: usize = 1_500;
    let body = "0123456789".repeat(1_000);
    let answer = response("200 OK", &body);
    let origin = Origin::start(move |_| Reply::Bytes(answer.clone()));
    let node = Node::start(&config(origin.address));
    let mut client = node.connect();
    client.send(get("/two").repeat(COUNT - 1));
    client.send("GET /two HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    // Nobody reads, until the node cannot go on.
    while origin.seen.recv_timeout(Duration::from_millis(300)).is_ok() {}
    for number in 0..COUNT {
        let answer = client.answer();
        assert!(answer.status == 200 && answer.text() == body, "answer {number}: {}", answer.head);
    }
    assert!(client.is_closed());
    assert_eq!(node.log(COUNT).len(), COUNT);
}

// ---- readable is not data

#[test]
fn an_end_or_a_reset_between_two_requests_is_no_request() {
    let origin = Origin::plain();
    let node = Node::start(&config(origin.address));
    // The end, before and after a request.
    drop(node.connect());
    let mut ends = node.connect();
    ends.send(get("/one"));
    assert_eq!(ends.answer().status, 200);
    drop(ends);
    // A socket that is closed with bytes unread resets the connection.
    let mut resets = node.connect();
    resets.send(get("/one"));
    assert_eq!(&resets.head()[..12], "HTTP/1.1 200");
    let unread = node.connect();
    let mut raw = unread.into_stream();
    raw.write_all(get("/two").as_bytes()).expect("sent");
    until("the answer is here", || matches!(raw.peek(&mut [0; 8]), Ok(8)));
    drop(raw);
    drop(resets);
    until("all are gone", || open_connections(&node) == 0);
    assert_eq!(node.ask(&get("/one")).status, 200);
    // Four requests, four lines: nobody's silence was taken for a request.
    let log = node.log(4);
    assert!(log.len() == 4 && log.iter().all(|line| line["status"] == 200), "{log:?}");
}
