//! The PROXY protocol at work: who is behind a trusted proxy, told before TLS; and who is behind us, told to an upstream.

use std::process::{Command, Stdio};
use std::time::Instant;

use crate::nginx::{Nginx, free_address};
use crate::node::{Client, Node, Origin, PATIENCE, Place, Server, comes_to, refusals};

const ANSWER: &str = "apis:\n  a:\n    operations: { one: { match: GET /one, respond: { status: 200, body: one } } }\n    \
                      allow: [{ who: anyone }]";
const LISTEN: &str =
    "{ address: \"127.0.0.1:0\", tls: none, trusted_proxies: [127.0.0.0/8], proxy_protocol: any }";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const GET: &[u8] = b"GET /one HTTP/1.1\r\nHost: a\r\n\r\n";

/// Version 2, TCP over IPv4, from 192.0.2.1:56324.
fn binary() -> Vec<u8> {
    [SIGNATURE, &[0x21, 0x11, 0, 12, 192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 187]].concat()
}

#[test]
fn a_trusted_proxy_names_the_client() {
    let node = Node::start_in(Place::new(), LISTEN, ANSWER);
    let headers: [(&[u8], &str); 5] = [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n", "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 56324 443\r\n", "2001:db8::7"),
        (&binary(), "192.0.2.1"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (&[SIGNATURE, &[0x20, 0, 0, 0]].concat(), "127.0.0.1"),
    ];
    for (at, (header, expected)) in headers.into_iter().enumerate() {
        let mut client = node.connect();
        client.send([header, GET, GET].concat());
        assert_eq!((client.answer().status, client.answer().status), (200, 200));
        for line in &node.log(2 * at + 2)[2 * at..] {
            assert_eq!(line["client"], expected, "{line}");
            assert!(line["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{line}");
        }
    }
}

#[test]
fn a_header_may_come_byte_by_byte_and_not_a_byte_behind_it_is_lost() {
    let node = Node::start_in(Place::new(), LISTEN, ANSWER);
    for header in [b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n".to_vec(), binary()] {
        let mut client = node.connect();
        for byte in [&header, GET].concat() {
            client.send([byte]);
        }
        assert_eq!(client.answer().status, 200);
        for split in [1, header.len() - 1, header.len(), header.len() + 1] {
            let mut client = node.connect();
            let all = [&header, GET].concat();
            client.send(&all[..split]);
            std::thread::yield_now();
            client.send(&all[split..]);
            assert_eq!(client.answer().status, 200, "{split}");
        }
    }
}

#[test]
fn what_is_no_header_is_refused() {
    let node = Node::start_in(Place::new(), LISTEN, ANSWER);
    let wrong: [&[u8]; 5] = [
        GET,
        b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\n",
        b"PROXY TCP4 192.0.2.07 198.51.100.1 56324 443\r\n",
        &[SIGNATURE, &[0x21, 0x12, 0, 12], &[0; 12]].concat(),
        &[SIGNATURE, &[0x21, 0x11, 0xff, 0xff]].concat(),
    ];
    for header in wrong {
        let mut client = node.connect();
        client.send(header);
        assert_eq!(client.rest(), b"", "{header:?}");
    }
    comes_to(5.0, || refusals(&node, "proxy_malformed"));
    // Who comes and goes without a word (a health check of the balancer) is no refusal.
    node.connect().end_sending();
    let mut silent = node.connect();
    silent.end_sending();
    assert_eq!(silent.rest(), b"");
    comes_to(5.0, || refusals(&node, "proxy_malformed"));
    // Who begins and stays away is let go in time.
    let mut slow = node.connect();
    slow.send(b"PROXY TCP4 ");
    let start = Instant::now();
    assert_eq!(slow.rest(), b"");
    assert!(start.elapsed() < PATIENCE);
    comes_to(1.0, || refusals(&node, "proxy_timeout"));
}

#[test]
fn only_the_version_that_is_named_and_only_from_trusted_proxies() {
    let listen = "[{ address: \"127.0.0.1:0\", tls: none, trusted_proxies: [127.0.0.0/8], proxy_protocol: v2 }, \
                  { address: \"127.0.0.1:0\", tls: none, trusted_proxies: [10.0.0.0/8], proxy_protocol: any }]";
    let node = Node::start_in(Place::new(), listen, ANSWER);
    let mut client = node.connect();
    client.send([b"PROXY TCP4 192.0.2.7 198.51.100.1 56324 443\r\n", GET].concat());
    assert_eq!(client.rest(), b"");
    comes_to(1.0, || refusals(&node, "proxy_malformed"));
    let mut stranger = Client::new(std::net::TcpStream::connect(node.addresses[1]).expect("connected"));
    stranger.try_send(&[&binary(), GET].concat());
    assert_eq!(stranger.rest(), b"");
    comes_to(1.0, || refusals(&node, "proxy_untrusted"));
}

#[test]
fn the_lists_judge_whom_the_header_names_and_forwarding_fields_count_from_there() {
    let origin = Origin::plain();
    let listen = "{ address: \"127.0.0.1:0\", tls: none, trusted_proxies: [127.0.0.0/8, 10.0.0.0/8], \
                  proxy_protocol: any, deny_addresses: [192.0.2.0/24, 127.0.0.1] }";
    let config = format!(
        "upstreams: {{ app: \"http://{}\" }}\napis:\n  app:\n    to: app\n    operations: {{ one: GET /one }}\n    \
         allow: [{{ who: anyone }}]",
        origin.address
    );
    let node = Node::start_in(Place::new(), listen, &config);
    let mut denied = node.connect();
    denied.try_send(&[&binary(), GET].concat());
    assert_eq!(denied.rest(), b"");
    comes_to(1.0, || refusals(&node, "address_denied"));

    let with = |source: &str| {
        let mut client = node.connect();
        client.send(format!(
            "PROXY TCP4 {source} 198.51.100.1 56324 443\r\nGET /one HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n"
        ));
        assert_eq!(client.answer().status, 200);
        origin.next().field("x-forwarded-for").map(str::to_owned)
    };
    // Whom the balancer saw is a stranger: what he says does not count.
    assert_eq!(with("198.51.100.7").as_deref(), Some("198.51.100.7"));
    // It saw a proxy of ours, which says whom it saw.
    assert_eq!(with("10.0.0.9").as_deref(), Some("203.0.113.9, 10.0.0.9"));
}

#[test]
fn before_tls_and_from_a_real_haproxy() {
    let listen =
        "{ address: \"127.0.0.1:0\", tls: self-signed, trusted_proxies: [127.0.0.0/8], proxy_protocol: any }";
    let node = Node::start_in(Place::new(), listen, ANSWER);
    for (at, send) in ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn"].into_iter().enumerate() {
        let address = free_address();
        let text = format!(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 20s\n  timeout server 20s\n\
             frontend f\n  bind {address}\n  default_backend b\nbackend b\n  server s {} {send}\n",
            node.address
        );
        let file = node.place.write(&format!("haproxy-{at}.cfg"), &text);
        let mut command = Command::new("haproxy");
        command
            .arg("-db")
            .arg("-f")
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let _haproxy = Server(command.spawn().expect("haproxy"));
        let deadline = Instant::now() + PATIENCE;
        while std::net::TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "haproxy does not start");
            std::thread::yield_now();
        }
        let curl = Command::new("curl")
            .args(["-s", "-k", "--max-time", "20", "--interface", "127.0.0.33", "-w", "%{http_code}"])
            .arg(format!("https://{address}/one"))
            .output()
            .expect("curl");
        assert_eq!(String::from_utf8_lossy(&curl.stdout), "one200", "{send}");
        assert_eq!(node.log(at + 1)[at]["client"], "127.0.0.33", "{send}");
    }
}

/// What a real nginx is told by us; it says on which of its connections.
#[test]
fn an_upstream_is_told_the_client_and_each_connection_is_one_clients() {
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("made");
    let keys = Place::new();
    let pair =
        (keys.write("c.pem", &made.cert.pem()), keys.write("k.pem", &made.signing_key.serialize_pem()));
    let private = format!("ssl_certificate {}; ssl_certificate_key {};", pair.0.display(), pair.1.display());
    for (version, scheme) in [("v1", "http"), ("v2", "http"), ("v2", "https")] {
        let (listens, private) = match scheme {
            "https" => ("ssl proxy_protocol", private.as_str()),
            _ => ("proxy_protocol", ""),
        };
        let server = format!(
            "{private} {}",
            "location / { return 200 \"$proxy_protocol_addr:$proxy_protocol_port $proxy_protocol_server_port \
             $connection $http_x_forwarded_for [$http_forwarded]\"; }"
        );
        let nginx = Nginx::start_at(free_address(), listens, &server);
        let listen = "{ address: \"127.0.0.1:0\", tls: none, trusted_proxies: [127.0.0.0/8] }";
        let trust = match scheme {
            "https" => "ca: none\n    insecure: { reason: \"a test\", until: 2999-01-01 }\n    ",
            _ => "",
        };
        let config = format!(
            "upstreams:\n  app:\n    targets: [\"{scheme}://{}\"]\n    {trust}proxy_protocol: {version}\n    forwarded: true\n    \
             health: {{ get: /, every: 100ms }}\napis:\n  app:\n    to: app\n    operations: {{ one: GET /one }}\n    \
             allow: [{{ who: anyone }}]",
            nginx.address
        );
        let mut node = Node::start_in(Place::new(), listen, &config);
        println!("{version} {scheme}");
        let port = node.address.port();
        // One connection of a proxy, with the requests of two clients.
        let mut client = node.connect();
        let mut ask = |named: &str| {
            client.send(format!("GET /one HTTP/1.1\r\nHost: a.example\r\nX-Forwarded-For: {named}\r\n\r\n"));
            let answer = client.answer();
            assert_eq!(answer.status, 200, "{version}: {answer:?}");
            let text = answer.text();
            let connection = text.split(' ').nth(2).expect("a number").to_owned();
            (text, connection)
        };
        // nginx writes a port of 0 as nothing.
        let (first, one) = ask("192.0.2.7");
        assert_eq!(
            first,
            format!(
                "192.0.2.7: {port} {one} 192.0.2.7, 127.0.0.1 [for=192.0.2.7, for=127.0.0.1;host=a.example;proto=http]"
            )
        );
        let (second, two) = ask("192.0.2.8");
        assert!(second.starts_with("192.0.2.8: "), "{second}");
        let (_, again) = ask("192.0.2.7");
        let (_, again_two) = ask("192.0.2.8");
        assert!(one != two && one == again && two == again_two, "{one} {two} {again} {again_two}");
        // Who comes himself has a port.
        let mut himself = node.connect();
        himself.send("GET /one HTTP/1.1\r\nHost: a.example\r\n\r\n");
        let told = himself.answer().text();
        let socket = himself.into_stream();
        assert!(told.starts_with(&format!("{} ", socket.local_addr().expect("bound"))), "{told}");
        // Probes begin with a header, too: nginx answers nothing without one.
        let start = Instant::now();
        while nginx.log().matches("GET / ").count() < 5 {
            assert!(start.elapsed() < PATIENCE, "no probes: {}", nginx.log());
        }
        while let Some(line) = node.line_so_far() {
            assert!(!line.contains("RW-6042"), "{line}");
        }
    }
}
