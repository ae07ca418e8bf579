//! Who may connect, by lists of networks that change while the node runs; and who the client is behind trusted proxies.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::node::{Answer, Node, Origin, PATIENCE, Place, comes_to, metric, refusals};

const ANSWER: &str = "apis:\n  a:\n    operations: { one: { match: GET /one, respond: { status: 200, body: one } } }\n    \
                      allow: [{ who: anyone }]";

/// The status that a client with this address of its own gets; `None` when the connection ends without an answer.
fn status(node: &Node, scheme: &str, from: &str) -> Option<String> {
    let output = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "20", "-k", "--interface", from])
        .arg(format!("{scheme}://127.0.0.1:{}/one", node.address.port()))
        .output()
        .expect("curl");
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Puts a list in the place of another at once.
fn replace(place: &Place, name: &str, text: &str) {
    let next = place.write("next.list", text);
    std::fs::rename(next, place.path().join(name)).expect("renamed");
}

#[test]
fn the_longest_prefix_says_who_may_connect_and_a_changed_file_counts_at_once() {
    let place = Place::new();
    place.write("abuse.list", "# who attacks us\n127.0.0.64/26 ; a feed\n::ffff:127.0.0.3\n");
    let listen = "{ address: \"127.0.0.1:0\", tls: none, allow_addresses: [127.0.0.0/25, 127.0.0.77], \
                  deny_addresses: [127.0.0.9, { file: abuse.list }] }";
    let mut node = Node::start_in(place, listen, ANSWER);
    let ok = Some("200".to_owned());
    for (from, expected) in [
        ("127.0.0.1", &ok),
        ("127.0.0.3", &None),
        ("127.0.0.9", &None),
        ("127.0.0.65", &None),
        ("127.0.0.77", &ok),
        ("127.0.0.128", &None),
    ] {
        assert_eq!(&status(&node, "http", from), expected, "{from}");
    }
    comes_to(4.0, || refusals(&node, "address_denied"));

    replace(&node.place, "abuse.list", "127.0.0.4\n");
    let told = node.wait_for("RW-6090");
    assert!(told.contains("prefixes=4"), "{told}");
    assert_eq!(status(&node, "http", "127.0.0.3"), ok);
    assert_eq!(status(&node, "http", "127.0.0.4"), None);

    // A bad line changes nothing, and is told with its place.
    replace(&node.place, "abuse.list", "127.0.0.5\n127.0.0.0/33\n");
    let told = node.wait_for("RW-6091");
    assert!(told.contains("abuse.list:2: it has a prefix that is longer than its address"), "{told}");
    assert_eq!((status(&node, "http", "127.0.0.5"), status(&node, "http", "127.0.0.4")), (ok.clone(), None));
    std::fs::remove_file(node.place.path().join("abuse.list")).expect("removed");
    node.wait_for("RW-6091");
    assert_eq!(status(&node, "http", "127.0.0.4"), None);
    replace(&node.place, "abuse.list", "");
    node.wait_for("RW-6090");
    assert_eq!(status(&node, "http", "127.0.0.4"), ok);
    assert_eq!(metric(&node, "ringwall_config_generation", &[]), 1.0, "nothing was reloaded");
}

#[test]
fn who_is_denied_costs_no_handshake() {
    let listen = "{ address: \"[::]:0\", tls: self-signed, deny_addresses: [127.0.0.2] }";
    let node = Node::start_in(Place::new(), listen, ANSWER);
    assert_eq!(status(&node, "https", "127.0.0.1"), Some("200".to_owned()));
    let handshakes = || metric(&node, "ringwall_tls_handshakes_total", &[]);
    let before = handshakes();
    for _ in 0..5 {
        // To the dual-stack socket this client is ::ffff:127.0.0.2.
        assert_eq!(status(&node, "https", "127.0.0.2"), None);
    }
    assert_eq!(handshakes(), before);
    comes_to(5.0, || refusals(&node, "address_denied"));
}

#[test]
fn a_list_that_cannot_be_read_is_an_error_with_its_place() {
    let place = Place::new();
    place.write("list", "10.0.0.0/8\n10.0.0.1/8\n");
    let config = format!(
        "ringwall: 1\nlisten:\n  address: 127.0.0.1:0\n  tls: none\n  deny_addresses: {{ file: list }}\n{ANSWER}\n"
    );
    let file = place.write("ringwall.yaml", &config);
    let output = Command::new(env!("CARGO_BIN_EXE_ringwall")).arg("check").arg("-c").arg(file).output();
    let output = output.expect("ringwall check");
    let told =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(told.contains("RW-1170") && told.contains("list:2: it has bits beyond its prefix"), "{told}");
    assert!(told.contains("ringwall.yaml:5:"), "{told}");
}

/// A list of half a million is swapped while a client goes on asking: nothing fails and nobody waits for it.
#[test]
fn nobody_waits_for_a_long_list() {
    let place = Place::new();
    place.write("long.list", "192.0.2.1\n");
    let listen = "{ address: \"127.0.0.1:0\", tls: none, deny_addresses: { file: long.list } }";
    let mut node = Node::start_in(place, listen, ANSWER);
    let long: String =
        (0..500_000u32).map(|n| format!("{}\n", std::net::Ipv4Addr::from(0x0b00_0000 + n * 3))).collect();
    replace(&node.place, "long.list", &long);
    let mut longest = Duration::ZERO;
    let mut told = String::new();
    let until = Instant::now() + PATIENCE;
    while !told.contains("RW-6090") {
        assert!(Instant::now() < until, "the list is never taken");
        let start = Instant::now();
        let answer = node.ask("GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(answer.status, 200);
        longest = longest.max(start.elapsed());
        told = node.line_so_far().unwrap_or_default();
    }
    println!("{told}; the longest of the requests meanwhile took {longest:?}");
    assert!(told.contains("prefixes=500000"), "{told}");
    // Reading and compiling take longer than this without an optimiser: it was not on a data thread.
    assert!(longest < Duration::from_millis(250), "{longest:?}");
}

fn forwarding(origin: &Origin) -> String {
    format!(
        "upstreams: {{ app: \"http://{}\" }}\napis:\n  app:\n    to: app\n    operations: {{ one: GET /one }}\n    \
         allow: [{{ who: anyone }}]\n    limits: [{{ per: address, rate: 2/min }}]",
        origin.address
    )
}

fn ask(node: &Node, fields: &str) -> Answer {
    node.ask(&format!("GET /one HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
}

#[test]
fn a_stranger_who_names_an_address_is_himself_for_limits_log_and_upstream() {
    let origin = Origin::plain();
    let listen = "{ address: \"127.0.0.1:0\", tls: none, trusted_proxies: [10.0.0.0/8] }";
    let node = Node::start_in(Place::new(), listen, &forwarding(&origin));
    for (forged, expected) in [(1, 200), (2, 200), (3, 429), (4, 429)] {
        let fields = format!(
            "X-Forwarded-For: 192.0.2.{forged}, 10.0.0.1\r\nForwarded: for=192.0.2.{forged}\r\nX-Real-IP: 192.0.2.{forged}\r\n"
        );
        assert_eq!(ask(&node, &fields).status, expected, "{forged}");
    }
    let seen = origin.next();
    assert_eq!(seen.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!((seen.field("forwarded"), seen.field("x-real-ip")), (None, None));
    for line in node.log(4) {
        assert_eq!(line["client"], "127.0.0.1", "{line}");
    }
}

#[test]
fn trusted_proxies_name_the_client_and_nobody_left_of_it_is_told_on() {
    let origin = Origin::plain();
    let listen = "{ address: \"127.0.0.1:0\", tls: none, trusted_proxies: [127.0.0.0/8, 10.0.0.0/8] }";
    let node = Node::start_in(Place::new(), listen, &forwarding(&origin));
    let sent = "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: garbage, 192.0.2.7\r\nX-Forwarded-For: ::ffff:10.0.0.1\r\n\
                Forwarded: for=198.51.100.1\r\n";
    // Its limit is that of 192.0.2.7, whatever stands left of it.
    assert_eq!(ask(&node, sent).status, 200);
    assert_eq!(origin.next().field("x-forwarded-for"), Some("192.0.2.7, 10.0.0.1, 127.0.0.1"));
    assert_eq!(ask(&node, &sent.replace("6.6.6.6", "7.7.7.7")).status, 200);
    assert_eq!(ask(&node, "X-Forwarded-For: 192.0.2.7\r\n").status, 429);
    assert_eq!(ask(&node, "X-Forwarded-For: 192.0.2.8\r\n").status, 200);
    // What names nobody ends at the proxy that wrote it.
    assert_eq!(ask(&node, "X-Forwarded-For: 192.0.2.9, unknown\r\n").status, 200);
    let lines = node.log(5);
    // Two cores write them, each in its order.
    let mut clients: Vec<_> = lines.iter().map(|line| line["client"].as_str().unwrap_or_default()).collect();
    clients.sort_unstable();
    assert_eq!(clients, ["127.0.0.1", "192.0.2.7", "192.0.2.7", "192.0.2.7", "192.0.2.8"]);
    assert!(lines[0]["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")), "{}", lines[0]);
}

#[test]
fn the_listener_says_which_of_the_two_fields_counts() {
    let origin = Origin::plain();
    let listen =
        "{ address: \"127.0.0.1:0\", tls: none, trusted_proxies: [127.0.0.0/8], client_address: forwarded }";
    let node = Node::start_in(Place::new(), listen, &forwarding(&origin));
    let sent = "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=7.7.7.7;host=\", \r\nForwarded: for=\"[2001:db8::7]:443\";proto=https\r\n";
    assert_eq!(ask(&node, sent).status, 200);
    assert_eq!(origin.next().field("x-forwarded-for"), Some("2001:db8::7, 127.0.0.1"));
    assert_eq!(node.log(1)[0]["client"], "2001:db8::7");
}
