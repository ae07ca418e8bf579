//! How often an address may connect, and what else is judged of a connection before anything is done for it.
//!
//! Rates are of tokens an hour, so that no clock has to be waited for: what an address has is its burst.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ringwall::accept::proxy_protocol::{Announced, PROXY_TIMEOUT, Versions, receive};
use ringwall::worker::{Deadline, Sweep};

use crate::hostile::{comes_to_an_end, connect_from, is_ended, records};
use crate::node::{Client, Node, Place, comes_to, fetch, metric, refusals, text_of};
use crate::traps_loop::{connected, in_time, on_loop, wanted};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const PLAIN: &str = "{ address: \"127.0.0.1:0\", tls: none }";
const TLS: &str = "{ address: \"127.0.0.1:0\", tls: self-signed }";
const ANSWER: &str = "apis: { a: { operations: { one: { match: GET /, respond: { status: 200, body: hello } } }, \
                      allow: [{ who: anyone }] } }";

const GREEDY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const MODEST: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 3);

/// A configuration with these listeners and these `node.connections`.
fn whole(listen: &str, connections: &str) -> String {
    let with = format!("control: control.sock, connections: {{ {connections} }}");
    text_of(listen, ANSWER).replace("control: control.sock", &with)
}

fn start(listen: &str, connections: &str) -> Node {
    Node::start_whole(Place::new(), &whole(listen, connections), &[])
}

fn ringwall(node: &Node, arguments: &str) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringwall"))
        .args(arguments.split(' '))
        .arg("--control")
        .arg(node.place.path().join("control.sock"))
        .output()
        .expect("ringwall")
}

/// Has the node run with other `node.connections`, on every core.
fn reload(node: &Node, listen: &str, connections: &str) {
    let next = node.place.write("next.yaml", &whole(listen, connections));
    std::fs::rename(next, node.place.path().join("ringwall.yaml")).expect("renamed");
    let output = ringwall(node, "reload --wait");
    assert!(output.status.success(), "{output:?}");
}

/// A connection from `source` on which a request was answered; `None` if it was not let in.
fn served(source: Ipv4Addr, to: SocketAddr) -> Option<Client> {
    // The reset may come before the kernel tells of the connection.
    let mut client = Client::new(connect_from(source, to).ok()?);
    client.try_send(GET.as_bytes());
    match client.rest_of(12) {
        12 => Some(client),
        _ => None,
    }
}

fn is_reset(source: Ipv4Addr, to: SocketAddr) -> bool {
    connect_from(source, to).map_or(true, |mut stream| is_ended(&mut stream))
}

#[test]
fn an_address_opens_as_many_as_it_may_over_all_listeners_and_others_are_served() {
    let listen = format!("[{PLAIN}, {TLS}]");
    let mut node = start(&listen, "address_rate: 4/h");
    let (plain, tls) = (node.addresses[0], node.addresses[1]);
    let mut held: Vec<Client> = (0..2).map(|_| served(GREEDY, plain).expect("let in")).collect();
    let shaking: Vec<_> = (0..2).map(|_| connect_from(GREEDY, tls).expect("connected")).collect();
    // A core that has not come by yet lets in no one else for it.
    comes_to(4.0, || metric(&node, "ringwall_connections", &[]));
    for address in [plain, tls, plain, tls] {
        assert!(is_reset(GREEDY, address), "one more than there may be");
    }
    assert!(served(MODEST, plain).is_some(), "another address is served");
    // Those that are in go on, and closing some makes no room: they have come.
    for client in &mut held {
        client.send(GET);
        assert!(client.rest_of(12) == 12);
    }
    drop((held, shaking));
    comes_to(0.0, || metric(&node, "ringwall_connections", &[]));
    assert!(is_reset(GREEDY, plain));

    let told = records(&node, "connections_rate", 5);
    assert!(told.iter().all(|line| line["client"] == "127.0.0.2" && line["code"] == "RW-2217"), "{told:?}");
    assert!(told.iter().all(|line| line.get("status").is_none()), "{told:?}");
    comes_to(5.0, || refusals(&node, "connections_rate"));
    comes_to(2.0, || metric(&node, "ringwall_tls_handshakes_total", &["status=\"failed\""]));
    let line = node.wait_for("RW-6150");
    assert!(line.contains("reason=connections_rate") && line.contains("127.0.0.2*"), "{line}");
    // Of two addresses a sample of the table most likely shows nothing.
    assert!(fetch(&node, "/metrics").contains("ringwall_limit_table_used_ratio{policy=\"connection\"} "));

    // A reload changes the burst and forgets nobody: of ten at once, four have come.
    reload(&node, &listen, "address_rate: 4/h, address_burst: 10");
    assert_eq!((0..20).filter(|_| served(GREEDY, plain).is_some()).count(), 6);
    reload(&node, &listen, "all: 1000");
    assert_eq!((0..20).filter(|_| served(GREEDY, plain).is_some()).count(), 20, "no rate");
}

#[test]
fn of_connections_that_come_and_go_on_all_cores_at_once_not_one_more_gets_in() {
    let node = start(PLAIN, "address_rate: 50/h");
    let address = node.address;
    let let_in = AtomicU32::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    if served(GREEDY, address).is_some() {
                        let_in.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    assert_eq!(let_in.load(Ordering::Relaxed), 50);
    comes_to(150.0, || refusals(&node, "connections_rate"));
    comes_to(0.0, || metric(&node, "ringwall_connections", &[]));
}

#[test]
fn in_time_an_address_is_let_in_again_and_no_sooner() {
    let node = start(PLAIN, "address_rate: 10/s, address_burst: 2");
    let begun = Instant::now();
    let mut let_in = 0;
    while let_in < 12 {
        assert!(begun.elapsed() < Duration::from_secs(20), "{let_in} are let in");
        let_in += u32::from(served(GREEDY, node.address).is_some());
    }
    assert!(
        begun.elapsed() >= Duration::from_millis(990),
        "ten after the burst of two: {:?}",
        begun.elapsed()
    );
}

#[test]
fn trusted_proxies_are_many_and_whom_they_name_is_counted() {
    let trusted = "trusted_proxies: [127.0.0.2]";
    let listen = format!(
        "[{{ address: \"127.0.0.1:0\", tls: none, {trusted} }}, \
         {{ address: \"127.0.0.1:0\", tls: none, {trusted}, proxy_protocol: any }}, \
         {{ address: \"unix:app.sock\", tls: none }}]"
    );
    let node = start(&listen, "address_rate: 2/h");
    let (plain, spoken_for) = (node.addresses[0], node.addresses[1]);
    assert_eq!((0..10).filter(|_| served(GREEDY, plain).is_some()).count(), 10, "a balancer");
    assert_eq!((0..10).filter(|_| served(MODEST, plain).is_some()).count(), 2);
    for _ in 0..5 {
        let mut local = UnixStream::connect(node.place.path().join("app.sock")).expect("connected");
        local.write_all(GET.as_bytes()).expect("sent");
        let mut start = [0; 12];
        std::io::Read::read_exact(&mut local, &mut start).expect("a Unix socket has no address");
    }
    let through = |header: &str| {
        let mut client = Client::new(connect_from(GREEDY, spoken_for).expect("connected"));
        client.try_send(format!("{header}\r\n{GET}").as_bytes());
        client.rest_of(12) == 12
    };
    let named = |source: &str, destination: &str, family: &str| {
        let header = format!("PROXY {family} {source} {destination} 50000 443");
        (0..6).filter(|_| through(&header)).count()
    };
    assert_eq!((0..10).filter(|_| through("PROXY UNKNOWN")).count(), 10, "health checks of the balancer");
    assert_eq!(named("192.0.2.7", "192.0.2.1", "TCP4"), 2);
    assert_eq!(named("192.0.2.8", "192.0.2.1", "TCP4"), 2);
    assert_eq!(named("2001:db8::7", "2001:db8::1", "TCP6"), 2);
    assert_eq!(named("2001:db8::8", "2001:db8::1", "TCP6"), 0, "the same /64");
    assert_eq!(named("2001:db8:0:1::8", "2001:db8::1", "TCP6"), 2);
    // The /48 has 32 of its own.
    let others = (2..40)
        .filter(|subnet| through(&format!("PROXY TCP6 2001:db8:0:{subnet:x}::7 2001:db8::1 50000 443")));
    assert_eq!(others.count(), 28);
    let told = records(&node, "connections_rate", 1);
    assert!(told.iter().any(|line| line["client"] == "192.0.2.7"), "{told:?}");
    comes_to(0.0, || metric(&node, "ringwall_connections", &[]));
}

#[test]
fn one_more_of_an_address_that_has_enough_takes_nobodys_place() {
    let node = start(PLAIN, "all: 64, address: 20");
    let mut silent: Vec<_> =
        (0..10).map(|_| connect_from(MODEST, node.address).expect("connected")).collect();
    let held: Vec<Client> = (0..20).map(|_| served(GREEDY, node.address).expect("let in")).collect();
    comes_to(30.0, || metric(&node, "ringwall_connections", &[]));
    // 30 of 33 are near the bound: who comes now takes the place of the one that has been silent for longest.
    reload(&node, PLAIN, "all: 33, address: 20");
    for _ in 0..5 {
        assert!(is_reset(GREEDY, node.address));
    }
    comes_to(5.0, || refusals(&node, "connections_address"));
    comes_to(30.0, || metric(&node, "ringwall_connections", &[]));
    assert_eq!(refusals(&node, "connection_spared"), 0.0);
    // Somebody who may come does take it.
    assert!(served(Ipv4Addr::new(127, 0, 0, 4), node.address).is_some());
    records(&node, "connection_spared", 1);
    assert!(silent.iter_mut().any(is_ended));
    drop(held);
}

#[test]
fn a_block_ends_handshakes_and_announcements_and_is_their_reason() {
    let listen = format!(
        "[{TLS}, {{ address: \"127.0.0.1:0\", tls: none, trusted_proxies: [127.0.0.2], proxy_protocol: any }}]"
    );
    let node = start(&listen, "all: 100");
    let mut standing: Vec<_> = node
        .addresses
        .iter()
        .zip([&b"\x16\x03\x01"[..], b"PROXY TCP4 "])
        .map(|(address, half)| {
            let mut stream = connect_from(GREEDY, *address).expect("connected");
            stream.write_all(half).expect("sent");
            stream
        })
        .collect();
    comes_to(2.0, || metric(&node, "ringwall_connections", &[]));
    let output = ringwall(&node, "block add --address 127.0.0.2 --reason test");
    assert!(output.status.success(), "{output:?}");
    assert!(standing.iter_mut().all(comes_to_an_end));
    assert_eq!(records(&node, "address_blocked", 2).len(), 2);
    let others = ["client_handshake_left", "proxy_timeout", "client_handshake_timeout"];
    assert!(node.log(2).iter().all(|line| !others.iter().any(|other| line["reason"] == *other)));
    comes_to(0.0, || metric(&node, "ringwall_connections", &[]));
}

#[test]
fn a_header_that_comes_as_its_time_ends_is_late() {
    in_time(|| {
        on_loop(wanted(), |driver| async move {
            let (in_time, mut peer) = connected(driver);
            peer.write_all(b"PROXY UNKNOWN\r\n").expect("sent");
            assert_eq!(receive(&in_time, Versions::Any).await, Ok(Announced::Nobody));
            let (late, mut peer) = connected(driver);
            peer.write_all(b"PROXY UNKNOWN\r\n").expect("sent");
            let sweep = Sweep::new(0);
            late.set_deadline(&sweep, Deadline::Handshake, 100);
            sweep.advance(300);
            assert_eq!(receive(&late, Versions::Any).await, Err(Some(PROXY_TIMEOUT)));
        });
    });
}

#[test]
fn a_burst_that_would_take_decades_is_refused_with_its_place() {
    let place = Place::new();
    let text = whole(PLAIN, "address_rate: 1/day, address_burst: 10000000");
    let file = place.write("ringwall.yaml", &text);
    let mut check = Command::new(env!("CARGO_BIN_EXE_ringwall"));
    let output = check.args(["check", "--json", "-c"]).arg(file).output().expect("ringwall check");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let told = told.to_string();
    let column = text.lines().last().expect("a line").find("10000000").expect("the burst") + 1;
    assert!(told.contains("RW-1611") && told.contains(&format!("\"column\":{column}")), "{told}");
}
