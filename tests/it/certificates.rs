//! Certificates of a running node: watched, exchanged without a restart, and kept where the new ones are not fit; and what is
//! said of keys that are slow to sign with.

use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::node::{Client, Node, PATIENCE, Place};

const CONFIG: &str = "apis:\n  a:\n    operations: { one: { match: GET /one, respond: { status: 200, body: one } } }\n    \
                      allow: [{ who: anyone }]";

/// A certificate for `a.test` that signs for itself, and its key, as PEM.
fn pair() -> (String, String, CertificateDer<'static>) {
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("made");
    (made.cert.pem(), made.signing_key.serialize_pem(), made.cert.der().clone())
}

/// Whether the node shows `certificate` to a client that trusts no other.
fn shows(address: SocketAddr, certificate: &CertificateDer<'static>) -> bool {
    let mut roots = RootCertStore::empty();
    roots.add(certificate.clone()).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = "a.test".try_into().expect("a name");
    let session = ClientConnection::new(Arc::new(config), name).expect("a session");
    let socket = TcpStream::connect(address).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut stream = StreamOwned::new(session, socket);
    let asked = std::io::Write::write_all(
        &mut stream,
        b"GET /one HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n",
    );
    let mut answer = String::new();
    let _ = std::io::Read::read_to_string(&mut stream, &mut answer);
    match asked {
        Ok(()) => {
            assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
            true
        }
        Err(_) => false,
    }
}

/// Puts a file in the place of another at once, as tools that renew certificates do.
fn replace(place: &Place, name: &str, text: &str) {
    let next = place.write("next.pem", text);
    std::fs::rename(next, place.path().join(name)).expect("renamed");
}

#[test]
fn a_changed_certificate_is_shown_and_an_unfit_one_is_not() {
    let (first, second, third) = (pair(), pair(), pair());
    let place = Place::new();
    place.write("c.pem", &first.0);
    place.write("k.pem", &first.1);
    let listen = "{ address: \"127.0.0.1:0\", domains: [a.test], tls: { cert: c.pem, key: k.pem } }";
    let mut node = Node::start_in(place, listen, CONFIG);
    assert!(shows(node.address, &first.2));

    replace(&node.place, "c.pem", &second.0);
    replace(&node.place, "k.pem", &second.1);
    node.wait_for("RW-6003");
    assert!(shows(node.address, &second.2) && !shows(node.address, &first.2));

    // A certificate without its key: the pair before stays, and why is told.
    replace(&node.place, "c.pem", &third.0);
    node.wait_for("RW-6004");
    node.wait_for("RW-1120");
    assert!(shows(node.address, &second.2));
    assert!(crate::node::fetch(&node, "/metrics").contains("ringwall_config_last_reload_success 0"));

    // The key follows, and with it the new pair.
    replace(&node.place, "k.pem", &third.1);
    node.wait_for("RW-6003");
    assert!(shows(node.address, &third.2));
}

#[test]
fn a_connection_survives_a_new_certificate() {
    let (first, second) = (pair(), pair());
    let place = Place::new();
    place.write("c.pem", &first.0);
    place.write("k.pem", &first.1);
    let listen = "[{ address: \"127.0.0.1:0\", tls: none }, \
                  { address: \"127.0.0.3:0\", domains: [a.test], tls: { cert: c.pem, key: k.pem } }]";
    let mut node = Node::start_in(place, listen, CONFIG);
    let mut client = Client::new(TcpStream::connect(node.address).expect("connected"));
    let ask = |client: &mut Client| {
        client.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.answer().text(), "one");
    };
    ask(&mut client);
    replace(&node.place, "k.pem", &second.1);
    replace(&node.place, "c.pem", &second.0);
    node.wait_for("RW-6003");
    ask(&mut client);
    assert!(shows(node.addresses[1], &second.2));
}

#[test]
fn a_key_that_is_slow_to_sign_with_is_remarked() {
    let place = Place::new();
    for bits in ["2048", "3072"] {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", &format!("rsa:{bits}"), "-nodes", "-days", "2"])
            .args(["-subj", "/CN=a.test", "-addext", "subjectAltName=DNS:a.test", "-keyout"])
            .arg(place.path().join(format!("k{bits}.pem")))
            .arg("-out")
            .arg(place.path().join(format!("c{bits}.pem")))
            .output()
            .expect("openssl");
        assert!(made.status.success(), "{made:?}");
        let listen =
            format!("listen: {{ address: \"127.0.0.1:0\", tls: {{ cert: c{bits}.pem, key: k{bits}.pem }} }}");
        let file = place.write("check.yaml", &format!("ringwall: 1\n{listen}\n{CONFIG}\n"));
        let check = Command::new(env!("CARGO_BIN_EXE_ringwall"))
            .args(["check", "--json", "-c"])
            .arg(&file)
            .output()
            .expect("ringwall check");
        assert!(check.status.success(), "{check:?}");
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert_eq!(said.contains("RW-1121"), bits == "3072", "{said}");
    }
    let listen = "{ address: \"127.0.0.1:0\", tls: { cert: c3072.pem, key: k3072.pem } }";
    let node = Node::start_in(place, listen, CONFIG);
    assert!(node.lines_so_far().any(|line| line.contains("RW-6064") && line.contains("RW-1121")));
}
