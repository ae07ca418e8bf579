//! A running node becomes another one, and nobody notices: routes, listeners and versions under load.

use std::fmt::Write as _;
use std::net::TcpStream;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::load::{Load, WhenRefused};
use crate::node::{Client, Node, Origin, PATIENCE, Place, Reply, fetch, response, text_of};

/// `ringwall reload` with these arguments.
fn reload(node: &Node, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringwall"))
        .arg("reload")
        .args(arguments)
        .arg("--control")
        .arg(node.place.path().join("control.sock"))
        .output()
        .expect("ringwall reload")
}

/// What it says of a reload that went well.
fn reloaded(node: &Node, arguments: &[&str]) -> serde_json::Value {
    let output = reload(node, &[arguments, &["--json", "--wait"]].concat());
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert!(output.status.success() && told["ok"] == true, "{told}");
    assert_eq!(told["result"]["everywhere"], true, "{told}");
    told["result"].clone()
}

/// A configuration whose one answer is `body`.
fn answering(body: &str) -> String {
    format!(
        "apis: {{ a: {{ operations: {{ one: {{ match: GET /one, respond: {{ status: 200, body: {body} }} }} }}, \
         allow: [{{ who: anyone }}] }} }}"
    )
}

/// Writes a whole configuration over the one that runs.
fn rewrite(node: &Node, listen: &str, config: &str) {
    let next = node.place.write("next.yaml", &text_of(listen, config));
    std::fs::rename(next, node.place.path().join("ringwall.yaml")).expect("renamed");
}

const PLAIN: &str = "{ address: \"127.0.0.1:0\", tls: none }";

fn get(node: &Node, path: &str) -> (u16, String) {
    let answer = node.ask(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
    (answer.status, answer.text())
}

/// The value of a metric without labels.
fn metric(node: &Node, name: &str) -> f64 {
    let page = fetch(node, "/metrics");
    let line = page.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("no {name} in {page}"))
}

#[test]
fn a_bad_file_changes_nothing_and_all_its_errors_are_told_with_their_places() {
    let node = Node::start(&answering("before"));
    let first = reloaded(&node, &[]);
    rewrite(&node, PLAIN, "apis:\n  a: { bse: /x, allow: 7 }\n  b: { to: nowhere, raw: \"a test\" }");
    let bad = reload(&node, &["--wait", "--json"]);
    assert_eq!(bad.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&bad.stdout).expect("JSON");
    let errors = told["errors"].as_array().expect("errors");
    assert!(errors.len() >= 3, "{told}");
    for error in errors {
        assert!(error["file"].as_str().is_some_and(|file| file.ends_with("ringwall.yaml")), "{error}");
        assert!(error["line"].as_u64() >= Some(3) && error["column"].as_u64() >= Some(1), "{error}");
        assert!(error["code"].as_str().is_some_and(|code| code.starts_with("RW-1")), "{error}");
    }
    // For people: as `check` shows them.
    let words = reload(&node, &[]);
    assert_eq!(words.status.code(), Some(1));
    let text = String::from_utf8_lossy(&words.stderr).into_owned();
    assert!(text.contains("ringwall.yaml:4:8") && text.contains("not reloaded"), "{text}");
    assert_eq!(get(&node, "/one"), (200, "before".to_owned()));
    assert_eq!(metric(&node, "ringwall_config_generation"), first["generation"].as_f64().expect("a number"));
    assert_eq!(metric(&node, "ringwall_config_last_reload_success"), 0.0);
}

#[test]
fn listeners_come_move_and_go_without_a_restart() {
    let mut node = Node::start(&answering("here"));
    let first = node.address;
    let mut kept = node.connect();
    kept.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(kept.answer().field("connection"), None);

    // One comes.
    let two = format!("[{PLAIN}, {{ address: \"127.0.0.3:0\", tls: none }}]");
    rewrite(&node, &two, &answering("here"));
    reloaded(&node, &[]);
    let opened = node.wait_for("RW-6070");
    let second: std::net::SocketAddr =
        opened.split_once("address=").expect("an address").1.trim().parse().expect("one");
    for address in [first, second] {
        let mut client = Client::new(TcpStream::connect(address).expect("listened on"));
        client.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.answer().status, 200);
    }
    let page = fetch(&node, "/metrics");
    assert!(page.contains("ringwall_connections{listener=\"127.0.0.3:0\"}"), "{page}");

    // The first goes, as one that moves does; who is connected there has one more answer.
    rewrite(&node, "{ address: \"127.0.0.3:0\", tls: none }", &answering("there"));
    reloaded(&node, &[]);
    let closed = node.wait_for("RW-6071");
    assert!(closed.contains(&first.to_string()), "{closed}");
    kept.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    let last = kept.answer();
    assert_eq!((last.status, last.text().as_str(), last.field("connection")), (200, "there", Some("close")));
    assert!(kept.is_closed());
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(first).is_ok() {
        assert!(Instant::now() < deadline, "{first} is still listened on");
    }
    let mut client = Client::new(TcpStream::connect(second).expect("listened on"));
    client.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().text(), "there");

    // And comes back, at another free port.
    rewrite(&node, &two, &answering("again"));
    reloaded(&node, &[]);
    node.wait_for("RW-6070");
    client.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().field("connection"), None, "the second stays as it was");
}

#[test]
fn a_connection_is_what_it_was_made_as_whatever_its_listener_is_now() {
    let origin = Origin::start(|_| Reply::Bytes(response("200 OK", "ok")));
    let config = format!(
        "upstreams: {{ app: \"http://{}\" }}\napis: {{ app: {{ to: app, raw: \"a test\", allow: [{{ who: anyone }}] }} }}",
        origin.address
    );
    let mut node = Node::start(&config);
    let mut plain = node.connect();
    let request = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    plain.send(request);
    assert_eq!(plain.answer().field("connection"), None);
    rewrite(&node, "{ address: \"127.0.0.1:0\", tls: self-signed }", &config);
    reloaded(&node, &[]);
    node.wait_for("RW-6003");
    // Nobody can have it read that it was TLS, and it has this one answer more.
    plain.send(request);
    let last = plain.answer();
    assert_eq!((last.status, last.field("connection")), (200, Some("close")));
    assert_eq!(last.field("strict-transport-security"), None);
    assert!(plain.is_closed());
    let protocols: Vec<String> = origin
        .seen
        .try_iter()
        .map(|seen| seen.field("x-forwarded-proto").unwrap_or_default().to_owned())
        .collect();
    assert_eq!(protocols, ["http", "http"]);
}

#[test]
fn listeners_that_come_and_go_leave_no_descriptor_behind() {
    let node = Node::start(&answering("here"));
    let two = format!("[{PLAIN}, {{ address: \"127.0.0.3:0\", tls: none }}]");
    let open = || std::fs::read_dir(format!("/proc/{}/fd", node.child.id())).map(|list| list.count());
    if open().is_err() {
        println!("NOT RUN: descriptors of a node (not root)");
        return;
    }
    // What is opened once, for the first reload or some time after the start, is open then.
    reloaded(&node, &[]);
    let mut before = open().expect("it runs");
    let settled = Instant::now() + Duration::from_millis(500);
    while Instant::now() < settled {
        before = before.max(open().expect("it runs"));
        std::thread::sleep(Duration::from_millis(20));
    }
    for round in 0..10 {
        rewrite(&node, if round % 2 == 0 { &two } else { PLAIN }, &answering("here"));
        reloaded(&node, &[]);
    }
    // Each socket takes a moment to close: who waits there is let in.
    let deadline = Instant::now() + PATIENCE;
    while open().expect("it runs") > before {
        assert!(Instant::now() < deadline, "{before} descriptors have become {:?}", open());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(get(&node, "/one").0, 200);
}

#[test]
fn who_waits_at_a_listener_that_goes_is_let_in() {
    let mut node = Node::start(&answering("here"));
    let (first, two) = (node.address, format!("[{PLAIN}, {{ address: \"127.0.0.3:0\", tls: none }}]"));
    let load = Load::start(first, 2, 4, &["/one"], WhenRefused::Ends);
    load.more(200);
    rewrite(&node, &two, &answering("here"));
    reloaded(&node, &[]);
    load.more(200);
    rewrite(&node, "{ address: \"127.0.0.3:0\", tls: none }", &answering("here"));
    reloaded(&node, &[]);
    node.wait_for("RW-6071");
    let tally = load.end();
    assert!(tally.failures.is_empty(), "{tally:?}");
    assert!(tally.farewells >= 2, "those that are kept are told: {tally:?}");
}

#[test]
fn an_address_that_cannot_be_had_refuses_the_reload_and_opens_nothing() {
    let node = Node::start(&answering("before"));
    let holder = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = holder.local_addr().expect("bound");
    let listen = format!(
        "\n  - {PLAIN}\n  - {{ address: \"127.0.0.3:0\", tls: none }}\n  - {{ address: \"{taken}\", tls: none }}"
    );
    rewrite(&node, &listen, &answering("after"));
    let refused = reload(&node, &["--json"]);
    assert_eq!(refused.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&refused.stdout).expect("JSON");
    assert_eq!(
        (&told["errors"][0]["code"], &told["errors"][0]["line"]),
        (&"RW-1190".into(), &5.into()),
        "{told}"
    );
    assert_eq!(get(&node, "/one"), (200, "before".to_owned()));
    assert!(!fetch(&node, "/metrics").contains("127.0.0.3"));
    // Mended: the port is free now.
    drop(holder);
    reloaded(&node, &[]);
    let mut client = Client::new(TcpStream::connect(taken).expect("listened on"));
    client.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().text(), "after");
}

#[test]
fn a_rollback_brings_back_what_ran_before_and_the_file_stays() {
    let mut node = Node::start(&answering("one"));
    let nothing = reload(&node, &["--rollback", "--json"]);
    assert_eq!(nothing.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nothing.stdout).contains("RW-1862"), "{nothing:?}");
    rewrite(&node, PLAIN, &answering("two"));
    reloaded(&node, &[]);
    rewrite(&node, PLAIN, &answering("three"));
    reloaded(&node, &[]);
    assert_eq!(get(&node, "/one").1, "three");
    let back = reloaded(&node, &["--rollback"]);
    assert!(back["generation"].as_u64() > Some(3), "{back}");
    node.wait_for("RW-6079");
    assert_eq!(get(&node, "/one").1, "two");
    assert_eq!(reloaded(&node, &[])["cores"], 2);
    assert_eq!(get(&node, "/one").1, "three");
}

#[test]
fn counters_of_limits_survive_reloads() {
    let limited = |body: &str| {
        answering(body).replace("allow:", "limits: [{ per: address, rate: 4/min, burst: 4 }], allow:")
    };
    let node = Node::start(&limited("a"));
    let mut statuses = vec![get(&node, "/one").0, get(&node, "/one").0];
    for body in ["b", "c", "d"] {
        rewrite(&node, PLAIN, &limited(body));
        reloaded(&node, &[]);
        statuses.push(get(&node, "/one").0);
    }
    assert_eq!(statuses, [200, 200, 200, 200, 429]);
}

#[test]
fn configurations_that_pile_up_in_memory_are_told_and_freed() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::start(move |_| {
        let _ = wait.lock().expect("nobody panics").recv();
        Reply::Bytes(response("200 OK", "at last"))
    });
    let config = |version: usize| {
        format!(
            "upstreams: {{ app: \"http://{}\" }}\n\
             apis: {{ a: {{ to: app, raw: \"version {version}\", allow: [{{ who: anyone }}] }} }}",
            origin.address
        )
    };
    let mut node = Node::start(&config(0));
    let mut waiting = Vec::new();
    for version in 1..=9 {
        // Each holds what ran when it began.
        let mut client = node.connect();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        waiting.push(client);
        under_way(&node, version);
        rewrite(&node, PLAIN, &config(version));
        reloaded(&node, &[]);
    }
    let told = node.wait_for("RW-6076");
    assert!(told.contains("configurations=9"), "{told}");
    assert!(metric(&node, "ringwall_config_alive") >= 9.0);
    drop(go);
    waiting.iter_mut().for_each(|client| assert_eq!(client.answer().text(), "at last"));
    let deadline = Instant::now() + PATIENCE;
    while metric(&node, "ringwall_config_alive") > 1.0 {
        assert!(Instant::now() < deadline, "{} are never freed", metric(&node, "ringwall_config_alive"));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until so many requests are with the origin.
fn under_way(node: &Node, count: usize) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = fetch(node, "/metrics");
        let open = page.lines().find(|line| line.starts_with("ringwall_upstream_connections"));
        if open.is_some_and(|line| line.ends_with(&format!(" {count}"))) {
            return;
        }
        assert!(Instant::now() < deadline, "{page}");
    }
}

/// So many routes, of which the last two are asked for.
fn routes(count: usize, version: usize, origin: &Origin) -> String {
    let mut text = format!(
        "upstreams: {{ app: \"http://{}\" }}\napis:\n  a:\n    to: app\n    operations:\n",
        origin.address
    );
    for route in 0..count {
        // Half of them change their place with each version.
        let place = if route % 2 == 0 { route } else { route + version % 7 };
        let _ = writeln!(text, "      r{route}: GET /r{route}/v{place}/{{id}}");
    }
    let _ = write!(
        text,
        "      one: {{ match: GET /one, respond: {{ status: 200, body: v{version} }} }}\n      two: GET /two\n    \
         limits: [{{ per: address, rate: 1000000/s }}]\n    allow: [{{ who: anyone }}]"
    );
    text
}

/// The form of the issue, 10,000 routes swapped every second for a minute, takes
/// `RINGWALL_FULL=1 cargo test --release --test it -- change::thousands --nocapture`.
#[test]
fn thousands_of_routes_are_swapped_under_load_and_nobody_notices() {
    let full = std::env::var_os("RINGWALL_FULL").is_some();
    let (count, swaps, every) = match full {
        true => (10_000, 60, Duration::from_secs(1)),
        false => (2_000, 12, Duration::from_millis(200)),
    };
    let origin = Origin::start(|_| Reply::Bytes(response("200 OK", "hello")));
    let node = Node::start_in(Place::new(), PLAIN, &routes(count, 0, &origin));
    let load = Load::start(node.address, 6, 2, &["/one", "/two"], WhenRefused::Fails);
    load.more(500);
    let mut spreads = Vec::new();
    for version in 1..=swaps {
        let begun = Instant::now();
        rewrite(&node, PLAIN, &routes(count, version, &origin));
        let told = reloaded(&node, &[]);
        spreads.push(told["spread_us"].as_u64().expect("all cores"));
        assert_eq!(get(&node, "/one").1, format!("v{version}"));
        std::thread::sleep(every.saturating_sub(begun.elapsed()));
    }
    load.more(500);
    let tally = load.end();
    spreads.sort_unstable();
    let page = fetch(&node, "/metrics");
    let histogram: Vec<&str> =
        page.lines().filter(|line| line.starts_with("ringwall_config_switch_seconds")).collect();
    println!(
        "{} answers over {} connections, {} failed; a change reaches every core in {} µs (median), {} µs (most)\n{}",
        tally.answers,
        tally.connections,
        tally.failures.len(),
        spreads[spreads.len() / 2],
        spreads[spreads.len() - 1],
        histogram.join("\n")
    );
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert!(tally.farewells <= 2 * tally.connections, "no kept connection is ended by a reload");
    assert!(spreads[spreads.len() - 1] < 100_000, "{spreads:?}");
    // No turn of a core was held up for a millisecond. The machine may be: another process has the CPU for a while, which
    // counts as well, so a few slow ones are no fault of ours where the CPUs are not our own.
    let bucket = |bound: &str| {
        let line = histogram.iter().find(|line| line.contains(&format!("le=\"{bound}\""))).expect("a bucket");
        line.rsplit(' ').next().and_then(|count| count.parse::<u64>().ok()).expect("a count")
    };
    let (quick, all) = (bucket("0.001"), bucket("+Inf"));
    assert!(all >= 2 * swaps as u64, "{histogram:?}");
    assert!(all - quick <= all / 10, "{histogram:?}");
    let deadline = Instant::now() + PATIENCE;
    while metric(&node, "ringwall_config_alive") > 1.0 {
        assert!(Instant::now() < deadline, "old configurations are never freed");
        std::thread::sleep(Duration::from_millis(20));
    }
}
