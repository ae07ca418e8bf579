//! Large bodies through TLS over real sockets, in records of all sizes, towards the client and towards the upstream.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use crate::hostile::records;
use crate::node::{Client, Node, Origin, PATIENCE, Place, Reply};

const NAME: &str = "a.test";
/// Not a multiple of any record or buffer.
const SIZE: usize = (5 << 20) + 4_321;
/// Sizes of single writes, each a record of its own: a full one with small ones behind it, over and over.
const MIXED: &[usize] = &[16_384, 1, 2, 3, 100, 16_384, 16_383, 5, 512, 4_096, 1, 1, 1, 9_000];

/// A certificate for [`NAME`], in `c.pem` and `k.pem`.
struct Identity {
    made: rcgen::CertifiedKey<rcgen::KeyPair>,
}

impl Identity {
    fn new(place: &Place) -> Identity {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate");
        place.write("c.pem", &made.cert.pem());
        place.write("k.pem", &made.signing_key.serialize_pem());
        Identity { made }
    }

    fn client(&self, fragment: Option<usize>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.made.cert.der().clone()).expect("a root");
        let mut config = ClientConfig::builder_with_provider(ringwall::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.max_fragment_size = fragment;
        Arc::new(config)
    }

    fn server(&self, fragment: Option<usize>) -> Arc<ServerConfig> {
        let key = self.made.signing_key.serialize_der().try_into().expect("PKCS#8");
        let mut config = ServerConfig::builder_with_provider(ringwall::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![self.made.cert.der().clone()], key)
            .expect("a certificate and its key");
        config.max_fragment_size = fragment;
        Arc::new(config)
    }
}

fn connect(address: SocketAddr, config: Arc<ClientConfig>) -> StreamOwned<ClientConnection, TcpStream> {
    let stream = TcpStream::connect(address).expect("connected");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_nodelay(true).expect("no delay");
    let name = ServerName::try_from(NAME).expect("a name");
    StreamOwned::new(ClientConnection::new(config, name).expect("a client"), stream)
}

/// The bytes of a body: what is missing, doubled or swapped shows.
fn body() -> Vec<u8> {
    (0..SIZE).map(|at| (at % 251) as u8 ^ (at >> 16) as u8).collect()
}

/// Writes in the pieces of [`MIXED`], or at once.
fn write(stream: &mut impl Write, bytes: &[u8], mixed: bool) {
    if !mixed {
        return stream.write_all(bytes).expect("sent");
    }
    let mut rest = bytes;
    for size in MIXED.iter().cycle() {
        let (piece, later) = rest.split_at(rest.len().min(*size));
        stream.write_all(piece).expect("sent");
        rest = later;
        if rest.is_empty() {
            return;
        }
    }
}

/// Reads a head, and a body as long as the head says.
fn read(stream: &mut impl Read) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    let head_bytes = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut buffer) {
            Ok(0) => return None,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return None,
            Err(error) => panic!("reading a head: {error}"),
        }
    };
    let body = bytes.split_off(head_bytes);
    let head = String::from_utf8(bytes).expect("text").to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.parse().expect("a length"));
    let mut body = body;
    while body.len() < length {
        let count = stream.read(&mut buffer).expect("more of the body");
        assert!(count > 0, "cut at {} of {length}", body.len());
        body.extend_from_slice(&buffer[..count]);
    }
    assert_eq!(body.len(), length, "more than was announced");
    Some((head, body))
}

fn config(target: &str, more: &str) -> String {
    format!(
        "upstreams: {{ app: {{ targets: [\"{target}\"], timeouts: {{ first_byte: 20s }}{more} }} }}\n\
         apis: {{ app: {{ to: app, raw: \"a test\", sizes: {{ body: 16MiB }}, allow: [{{ who: anyone }}] }} }}"
    )
}

#[test]
fn large_bodies_of_a_tls_client_go_both_ways_in_records_of_all_sizes() {
    let origin = Origin::start(|seen| {
        Reply::Bytes(if seen.head.starts_with("PUT") { framed(&seen.body) } else { framed(&body()) })
    });
    let place = Place::new();
    let identity = Identity::new(&place);
    let listen =
        format!("{{ address: \"127.0.0.1:0\", domains: [{NAME}], tls: {{ cert: c.pem, key: k.pem }} }}");
    let node = Node::start_in(place, &listen, &config(&format!("http://{}", origin.address), ""));
    let body = body();
    for (fragment, mixed) in [(None, false), (Some(512), false), (None, true), (Some(512), true)] {
        // Everything over one connection: what a feed left over would show in the next exchange.
        let mut client = connect(node.address, identity.client(fragment));
        for round in 0..2 {
            let head = format!("PUT /up HTTP/1.1\r\nHost: {NAME}\r\nContent-Length: {SIZE}\r\n\r\n");
            write(&mut client, head.as_bytes(), false);
            write(&mut client, &body, mixed);
            client.flush().expect("flushed");
            let (head, echoed) = read(&mut client).expect("an answer");
            assert!(head.starts_with("http/1.1 200"), "{head}");
            assert!(echoed == body, "upload and echo, {fragment:?}, mixed {mixed}, round {round}");
            write(&mut client, format!("GET /down HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes(), false);
            client.flush().expect("flushed");
            let (_, downloaded) = read(&mut client).expect("an answer");
            assert!(downloaded == body, "download, {fragment:?}, round {round}");
        }
    }
}

fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// An origin under TLS that sends back what it was sent, in records of the same sizes.
fn echo(config: Arc<ServerConfig>, mixed: bool) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = listener.local_addr().expect("bound");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let config = Arc::clone(&config);
            thread::spawn(move || {
                stream.set_nodelay(true).expect("no delay");
                let connection = ServerConnection::new(config).expect("a server");
                let mut stream = StreamOwned::new(connection, stream);
                while let Some((_, body)) = read(&mut stream) {
                    write(&mut stream, &framed(&body), mixed);
                    stream.flush().expect("flushed");
                }
            });
        }
    });
    address
}

#[test]
fn large_bodies_to_a_tls_upstream_go_both_ways_in_records_of_all_sizes() {
    let body = body();
    for (fragment, mixed) in [(None, true), (Some(512), false)] {
        let place = Place::new();
        let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        place.write("ca.pem", &made.cert.pem());
        let identity = Identity { made };
        let address = echo(identity.server(fragment), mixed);
        let listen = "{ address: \"127.0.0.1:0\", tls: none }";
        let node = Node::start_in(place, listen, &config(&format!("https://{address}"), ", ca: ca.pem"));
        let mut client = node.connect();
        for round in 0..2 {
            client.send(format!("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"));
            client.send(&body);
            let answer = client.answer();
            assert_eq!(answer.status, 200, "{}", answer.text());
            assert!(answer.body == body, "{fragment:?}, mixed {mixed}, round {round}");
        }
    }
}

#[test]
fn a_client_that_says_goodbye_and_stays_is_let_go() {
    let origin = Origin::plain();
    let place = Place::new();
    let identity = Identity::new(&place);
    let listen =
        format!("{{ address: \"127.0.0.1:0\", domains: [{NAME}], tls: {{ cert: c.pem, key: k.pem }} }}");
    let node = Node::start_in(place, &listen, &config(&format!("http://{}", origin.address), ""));
    let mut client = connect(node.address, identity.client(None));
    client.write_all(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes()).expect("sent");
    client.flush().expect("flushed");
    assert!(read(&mut client).expect("an answer").0.starts_with("http/1.1 200"));
    // The end of TLS, but not of TCP.
    client.conn.send_close_notify();
    client.flush().expect("flushed");
    assert!(Client::new(client.sock).is_closed());
}

const LISTEN: &str = "{ address: \"127.0.0.1:0\", domains: [a.test], tls: { cert: c.pem, key: k.pem } }";

/// A client that offers this in ALPN.
fn offering(identity: &Identity, offered: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = Arc::unwrap_or_clone(identity.client(None));
    config.alpn_protocols = offered.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

#[test]
fn the_log_says_what_alpn_agreed_on_and_who_agrees_on_nothing_is_refused() {
    let origin = Origin::plain();
    let place = Place::new();
    let identity = Identity::new(&place);
    let node = Node::start_in(place, LISTEN, &config(&format!("http://{}", origin.address), ""));
    let lists: [(&[&[u8]], Option<&str>); 3] =
        [(&[b"http/1.1"], Some("http/1.1")), (&[], None), (&[b"http/1.0", b"http/1.1"], Some("http/1.1"))];
    for (count, (offered, agreed)) in lists.into_iter().enumerate() {
        let mut client = connect(node.address, offering(&identity, offered));
        client.write_all(format!("GET / HTTP/1.1\r\nHost: {NAME}\r\n\r\n").as_bytes()).expect("sent");
        assert!(read(&mut client).expect("an answer").0.starts_with("http/1.1 200"));
        assert_eq!(client.conn.alpn_protocol(), agreed.map(str::as_bytes));
        let log = node.log(count + 1);
        assert_eq!(log[count].get("alpn").and_then(|alpn| alpn.as_str()), agreed, "{:?}", log[count]);
        assert_eq!(log[count]["tls"], "1.3");
    }
    // Nobody here speaks that.
    let mut client = connect(node.address, offering(&identity, &[b"h3"]));
    let error = client.write_all(b"x").and_then(|()| client.flush()).and_then(|()| client.read(&mut [0]));
    let error = error.expect_err("no handshake").to_string();
    assert!(error.to_ascii_lowercase().contains("noapplicationprotocol"), "{error}");
    let record = records(&node, "client_alpn", 1).remove(0);
    assert_eq!(record["code"], "RW-2218", "{record}");
}

#[test]
fn an_upstream_that_insists_on_another_protocol_gets_no_request() {
    let place = Place::new();
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    place.write("ca.pem", &made.cert.pem());
    let identity = Identity { made };
    let taking = |name: &[u8]| {
        let mut config = Arc::unwrap_or_clone(identity.server(None));
        config.alpn_protocols = vec![name.to_vec()];
        echo(Arc::new(config), false)
    };
    let (http1, http2) = (taking(b"http/1.1"), taking(b"h2"));
    let api = |name: &str| {
        format!("{name}: {{ base: /{name}, to: {name}, raw: \"a test\", allow: [{{ who: anyone }}] }}")
    };
    let text = format!(
        "upstreams:\n  one: {{ targets: [\"https://{http1}\"], ca: ca.pem, protocol: http1 }}\n  \
         two: {{ targets: [\"https://{http2}\"], ca: ca.pem }}\napis:\n  {}\n  {}",
        api("one"),
        api("two")
    );
    let node = Node::start_in(place, "{ address: \"127.0.0.1:0\", tls: none }", &text);
    assert_eq!(node.ask("GET /one HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    let refused = node.ask("GET /two HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(refused.refusal(), (502, "upstream_protocol".to_owned()), "{}", refused.text());
    assert_eq!(records(&node, "upstream_protocol", 1)[0]["code"], "RW-4227");
}
