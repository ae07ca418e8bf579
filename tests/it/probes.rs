//! Health probes: one prober per node and target, whose verdict holds for all cores at once; under TLS, verified as requests
//! are.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::control_issuer::eventually;
use crate::discovery::{Backend, Load, get, node_of, text_of, told, two_backends};
use crate::node::{Node, Place};

/// An origin under TLS whose answers have the status that it is told.
struct Secure {
    address: SocketAddr,
    status: Arc<AtomicU16>,
    /// Its certificate, which signs for itself, as PEM.
    certificate: String,
}

fn made() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made")
}

impl Secure {
    fn start() -> Secure {
        let made = made();
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).expect("a key");
        let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a pair");
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let status = Arc::new(AtomicU16::new(200));
        let told = Arc::clone(&status);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (config, told) = (Arc::clone(&config), Arc::clone(&told));
                thread::spawn(move || {
                    let session = ServerConnection::new(config).expect("a session");
                    let mut stream = BufReader::new(StreamOwned::new(session, socket));
                    let mut line = String::new();
                    while stream.read_line(&mut line).is_ok_and(|count| count > 0) {
                        if line == "\r\n" {
                            let status = told.load(Ordering::Relaxed);
                            let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok");
                            let _ = stream.get_mut().write_all(answer.as_bytes());
                        }
                        line.clear();
                    }
                });
            }
        });
        Secure { address, status, certificate: made.cert.pem() }
    }

    fn node(&self, ca: &str) -> Node {
        self.probed_by(ca, "get: /healthz")
    }

    fn probed_by(&self, ca: &str, ask: &str) -> Node {
        let place = Place::new();
        place.write("ca.pem", ca);
        let config = format!(
            "upstreams:\n  app: {{ targets: [\"https://{}\"], ca: ca.pem, health: {{ {ask}, every: 100ms }} }}\n\
             apis: {{ app: {{ to: app, raw: \"a test\", allow: [{{ who: anyone }}] }} }}",
            self.address
        );
        Node::start_in(place, "{ address: \"127.0.0.1:0\", tls: none }", &config)
    }
}

fn status(node: &Node) -> u16 {
    node.ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n").status
}

#[test]
fn a_target_under_tls_is_probed_and_goes_down_and_up() {
    let origin = Secure::start();
    let mut node = origin.node(&origin.certificate);
    assert_eq!(status(&node), 200);
    origin.status.store(500, Ordering::Relaxed);
    let down = node.wait_for("RW-6042");
    assert!(down.contains("status 500"), "{down}");
    assert!(crate::node::fetch(&node, "/metrics").contains("ringwall_upstream_up{upstream=\"app\""));
    origin.status.store(204, Ordering::Relaxed);
    node.wait_for("RW-6043");
}

#[test]
fn a_probe_trusts_whom_requests_trust() {
    let origin = Secure::start();
    let mut node = origin.node(&made().cert.pem());
    let down = node.wait_for("RW-6042");
    assert!(down.contains("TLS failed"), "{down}");
    // The right authority, in the same file: that is another trust, for probes and for requests.
    let next = node.place.write("next.pem", &origin.certificate);
    std::fs::rename(next, node.place.path().join("ca.pem")).expect("renamed");
    node.wait_for("RW-6003");
    assert_eq!(status(&node), 200);
}

#[test]
fn a_handshake_is_asked_for_where_that_is_enough() {
    let origin = Secure::start();
    // Whatever it would answer to a GET: nobody asks.
    origin.status.store(500, Ordering::Relaxed);
    let node = origin.probed_by(&origin.certificate, "connect: tls");
    thread::sleep(Duration::from_millis(500));
    assert!(
        !crate::node::fetch(&node, "/metrics")
            .contains("ringwall_upstream_up{upstream=\"app\",target=\"https://127.0.0.1:0\"} 0")
    );
    assert_eq!(status(&node), 500);
    let mut node = origin.probed_by(&made().cert.pem(), "connect: tls");
    assert!(told(&mut node, "RW-6042", 1).contains("TLS failed"));
}

/// A node on four cores.
fn on_four_cores(upstream: &str) -> Node {
    let text = text_of(upstream, None).replace("cores: 2", "cores: 4");
    Node::start_whole(Place::new(), &text, &[])
}

#[test]
fn an_origin_sees_the_configured_rate_however_many_cores_there_are() {
    let (backend, address) = Backend::tcp("one", "127.0.0.1:0");
    let node = on_four_cores(&format!(
        "{{ targets: \"http://{address}\", health: {{ get: /healthz, every: 100ms }} }}"
    ));
    // Every core has a connection of its own to it.
    let load = Load::on(&node, 8);
    eventually("the first probe", || !backend.probed().is_empty());
    thread::sleep(Duration::from_secs(5));
    let probed = backend.probed();
    load.end();
    let whole: Vec<&Instant> =
        probed.iter().take_while(|at| at.duration_since(probed[0]) < Duration::from_secs(5)).collect();
    assert!((48..=52).contains(&whole.len()), "50 in 5 s: {}", whole.len());
    let pauses: Vec<u128> =
        probed.windows(2).map(|pair| pair[1].duration_since(pair[0]).as_millis()).collect();
    let early = pauses.iter().filter(|pause| **pause < 97).count();
    let late = pauses.iter().filter(|pause| **pause > 103).count();
    assert!(early >= 5 && late >= 5, "by chance a little early, a little late: {pauses:?}");
}

#[test]
fn all_cores_agree_on_a_verdict_within_50_ms() {
    let (one, two, port) = two_backends();
    let node = on_four_cores(&format!(
        "{{ targets: [\"http://127.0.0.2:{port}\", \"http://127.0.0.3:{port}\"], balance: round_robin, \
         health: {{ get: /healthz, every: 200ms }} }}"
    ));
    let load = Load::on(&node, 8);
    eventually("both serve", || one.count() > 100 && two.count() > 100);
    two.health.store(503, Ordering::Relaxed);
    let said_at = Instant::now();
    let failed = || two.probed().into_iter().filter(|at| *at > said_at).collect::<Vec<Instant>>();
    eventually("two probes have failed", || failed().len() >= 3);
    thread::sleep(Duration::from_millis(300));
    let verdict = failed()[1];
    let last = two.heads.lock().expect("not poisoned").last().expect("a request").0;
    let lag = last.saturating_duration_since(verdict);
    assert!(lag < Duration::from_millis(50), "{lag:?} after the probe that decided");
    let after = two.count();
    thread::sleep(Duration::from_millis(200));
    assert_eq!(two.count(), after, "nobody asks one that is down");

    two.health.store(204, Ordering::Relaxed);
    eventually("it is asked again", || two.count() > after);
    load.end();
}

#[test]
fn statuses_host_and_port_of_a_probe_are_its_own() {
    let (backend, address) = Backend::tcp("one", "127.0.0.2:0");
    let (management, management_at) = Backend::tcp("management", "127.0.0.2:0");
    management.health.store(404, Ordering::Relaxed);
    let upstream = format!(
        "{{ targets: \"http://{address}\", health: {{ get: \"/healthz?deep=1\", every: 100ms, timeout: 90ms, \
         status: [204, 400-404], host: probe.example, port: {}, down_after: 3, up_after: 2 }} }}",
        management_at.port()
    );
    let mut node = node_of(Place::new(), &upstream, None);
    eventually("probed", || management.probed().len() > 4);
    assert_eq!(get(&node).text(), "one");
    assert!(backend.probed().is_empty());
    let head = management.probes.lock().expect("not poisoned")[0].1.to_ascii_lowercase();
    assert!(head.starts_with("get /healthz?deep=1 ") && head.contains("host: probe.example\r\n"), "{head}");
    let before = management.probed().len();
    management.health.store(200, Ordering::Relaxed);
    let down = told(&mut node, "RW-6042", 1);
    assert!(down.contains("status 200") && management.probed().len() >= before + 3, "{down}");
    let before = management.probed().len();
    management.health.store(204, Ordering::Relaxed);
    told(&mut node, "RW-6043", 1);
    assert!(management.probed().len() >= before + 2);
}

#[test]
fn a_connection_is_enough_where_nothing_else_is_asked() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let upstream = format!("{{ targets: \"http://{address}\", health: {{ connect: tcp, every: 100ms }} }}");
    let mut node = node_of(Place::new(), &upstream, None);
    let (_, _) = listener.accept().expect("a probe");
    drop(listener);
    let down = told(&mut node, "RW-6042", 1);
    assert!(down.contains("cannot connect"), "{down}");
}

#[test]
fn who_comes_to_others_is_proven_before_it_is_asked() {
    let (one, two, port) = two_backends();
    two.health.store(503, Ordering::Relaxed);
    let place = Place::new();
    place.write("targets.yaml", &format!("- http://127.0.0.2:{port}\n"));
    let mut node =
        node_of(place, "{ targets: \"file:targets.yaml\", health: { get: /healthz, every: 300ms } }", None);
    let load = Load::on(&node, 2);
    let next = node.place.write("next", &format!("- http://127.0.0.2:{port}\n- http://127.0.0.3:{port}\n"));
    std::fs::rename(next, node.place.path().join("targets.yaml")).expect("renamed");
    node.wait_for("RW-6112");
    told(&mut node, "RW-6042", 1);
    let before = one.count();
    eventually("the other one serves", || one.count() > before + 20);
    assert_eq!(two.count(), 0, "not one request went to who was not proven");
    two.health.store(200, Ordering::Relaxed);
    eventually("it is asked once it is", || two.count() > 20);
    load.end();
}
