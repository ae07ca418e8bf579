//! Health probes of targets under TLS: sent by the control thread, verified as requests are.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

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
        let place = Place::new();
        place.write("ca.pem", ca);
        let config = format!(
            "upstreams:\n  app: {{ targets: [\"https://{}\"], ca: ca.pem, health: {{ get: /healthz, every: 100ms }} }}\n\
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
