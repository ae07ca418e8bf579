//! Upstreams that fail: who is asked, what is sent again, what is refused, over real sockets.

use std::collections::HashSet;
use std::net::TcpListener;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::node::{Client, Node, Origin, PATIENCE, Place, Reply, response};

/// A node before `origins`, with these keys of the upstream.
fn node(origins: &[&Origin], keys: &str) -> Node {
    Node::start(&config(&origins.iter().map(|origin| url(origin)).collect::<Vec<_>>(), keys))
}

fn config(targets: &[String], keys: &str) -> String {
    format!(
        "upstreams: {{ app: {{ targets: [{}], {keys} }} }}\n\
         apis: {{ app: {{ to: app, raw: \"a test\", allow: [{{ who: anyone }}] }} }}",
        targets.join(", ")
    )
}

fn url(origin: &Origin) -> String {
    format!("\"http://{}\"", origin.address)
}

/// An address where nobody listens, for as long as the listener is kept: bound, and never accepting.
fn refusing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    format!("\"http://{}\"", listener.local_addr().expect("bound"))
}

const GET: &str = "GET /a HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";

fn post(id: u32, field: &str) -> String {
    format!("POST /{id} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{field}Content-Length: 2\r\n\r\nhi")
}

fn bare_post(id: u32) -> String {
    format!("POST /{id} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
}

/// Closes each connection with its first request, unanswered.
fn closing() -> Origin {
    Origin::start(|_| Reply::Last(Vec::new()))
}

fn paths(origin: &Origin) -> Vec<String> {
    origin.seen.try_iter().filter_map(|seen| seen.head.split(' ').nth(1).map(str::to_owned)).collect()
}

#[test]
fn a_request_whose_member_dies_under_it_goes_elsewhere_if_twice_is_as_good_as_once() {
    let (dying, well) = (closing(), Origin::plain());
    let node = node(&[&dying, &well], "balance: round_robin, eject: { after: 0 }, retry: { budget: 100% }");
    for _ in 0..20 {
        assert_eq!(node.ask(GET).status, 200);
    }
    assert!(!paths(&dying).is_empty());
    paths(&well);

    // A POST may have been done before its connection died: it is lost, and never done twice.
    let answers: Vec<u16> = (0..20).map(|id| node.ask(&post(id, "")).status).collect();
    let seen: Vec<String> = paths(&dying).into_iter().chain(paths(&well)).collect();
    assert!(answers.contains(&502) && answers.contains(&200), "{answers:?}");
    assert_eq!(seen.iter().collect::<HashSet<_>>().len(), seen.len(), "{seen:?}");

    // Unless its sender says that its receiver can tell.
    for id in 100..120 {
        assert_eq!(node.ask(&post(id, "Idempotency-Key: \"k\"\r\n")).status, 200);
    }
}

#[test]
fn a_member_that_does_not_answer_in_its_time_is_given_up_for_another() {
    let (silent, well) = (Origin::start(|_| Reply::Silence), Origin::plain());
    let node = node(
        &[&silent, &well],
        "balance: round_robin, eject: { after: 0 }, retry: { per_try: 100ms, tries: 2, budget: 100% }, timeouts: { first_byte: 400ms }",
    );
    for _ in 0..6 {
        assert_eq!(node.ask(GET).status, 200);
    }
    assert!(!paths(&silent).is_empty());
    let answers: Vec<(u16, String)> = (0..2).map(|id| node.ask(&post(id, "")).refusal()).collect();
    assert!(
        answers.iter().any(|(status, reason)| *status == 504 && reason == "upstream_first_byte"),
        "{answers:?}"
    );
}

#[test]
fn a_member_that_hangs_for_the_whole_time_is_left_out_too() {
    let (silent, well) = (Origin::start(|_| Reply::Silence), Origin::plain());
    let text = config(&[url(&silent), url(&well)], "balance: round_robin, eject: { after: 2, time: 1h }")
        .replace("raw: \"a test\"", "raw: \"a test\", timeouts: { total: 150ms }");
    let mut node = Node::start_on_one_core(&text);
    let answers: Vec<u16> = (0..12).map(|_| node.ask(GET).status).collect();
    assert_eq!(answers.iter().filter(|status| **status == 504).count(), 2, "{answers:?}");
    assert_eq!(answers.iter().filter(|status| **status == 200).count(), 10, "{answers:?}");
    node.wait_for("RW-6160");
}

#[test]
fn a_status_can_mean_ask_again() {
    let (busy, well) = (Origin::start(|_| Reply::Bytes(response("503 Busy", "no"))), Origin::plain());
    let node = node(&[&busy, &well], "balance: round_robin, retry: { on: [503], budget: 100% }");
    for _ in 0..10 {
        assert_eq!(node.ask(GET).status, 200);
    }
    assert!(paths(&busy).len() >= 5);
    // What is not to be done twice is not asked again, whatever the status.
    let statuses: HashSet<u16> = (0..4).map(|id| node.ask(&post(id, "")).status).collect();
    assert_eq!(statuses, HashSet::from([200, 503]));
    // Nor where all of it is still here, because there is no body.
    paths(&busy);
    paths(&well);
    let statuses: HashSet<u16> = (200..204).map(|id| node.ask(&bare_post(id)).status).collect();
    let seen: Vec<String> = paths(&busy).into_iter().chain(paths(&well)).collect();
    assert_eq!((seen.len(), statuses), (4, HashSet::from([200, 503])), "{seen:?}");
    // Where everybody says so, the last one is believed.
    let alone = Node::start(&config(&[url(&busy)], "retry: { on: [503], tries: 2, pause: 0ms }"));
    let answer = alone.ask(GET);
    assert_eq!((answer.status, answer.text().as_str()), (503, "no"));
    assert_eq!(alone.log(1)[0]["tries"], 2);
}

#[test]
fn a_kept_connection_that_was_timed_out_says_so_of_the_time_before() {
    const TIMED_OUT: &[u8] =
        b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
    let used = Mutex::new(HashSet::new());
    let origin = Origin::start(move |seen| match used.lock().expect("no panic").insert(seen.connection) {
        true => Reply::Bytes(response("200 OK", "hello")),
        false => Reply::Last(TIMED_OUT.to_vec()),
    });
    let node = Node::start_on_one_core(&config(&[url(&origin)], "eject: { after: 0 }"));
    assert_eq!(node.ask(GET).status, 200);
    assert_eq!(node.ask(GET).status, 200, "asked again over a new connection");
    assert_eq!(node.ask(&post(1, "")).status, 408, "what may have been done is not");
}

#[test]
fn what_fails_altogether_is_not_asked_much_more_often() {
    const REQUESTS: usize = 300;
    let (one, two) = (closing(), closing());
    let node = node(&[&one, &two], "eject: { after: 0 }, retry: { pause: 0ms }");
    for _ in 0..REQUESTS {
        assert_eq!(node.ask(GET).refusal(), (502, "upstream_closed".to_owned()));
    }
    let asked = paths(&one).len() + paths(&two).len();
    // A fifth, or three for a core that was asked less than fifteen times.
    assert!((REQUESTS + 20..=REQUESTS * 12 / 10 + 6).contains(&asked), "{asked}");
}

#[test]
fn connections_that_are_kept_unused_are_bounded_over_all_cores() {
    let busy = Busy::start(Duration::from_millis(30));
    let node = node(&[&busy.origin], "pool: { idle: 3 }");
    assert!(crowd(&node, 24, 2).iter().all(|(status, _)| *status == 200));
    // Two of the first core, one of the second.
    let open = || {
        let page = crate::node::fetch(&node, "/metrics");
        let line = page.lines().find(|line| line.starts_with("ringwall_upstream_connections{"));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(-1.0)
    };
    crate::node::comes_to(3.0, open);
}

#[test]
fn a_core_does_not_keep_what_another_one_needs() {
    let origin = Origin::plain();
    let node = node(&[&origin], "pool: { connections: 1 }");
    // Some on each core; who has been served has left a kept connection there.
    let mut clients: Vec<Client> = (0..12).map(|_| node.connect()).collect();
    for round in 0..2 {
        for client in &mut clients {
            let begun = Instant::now();
            loop {
                client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
                let answer = client.answer();
                if answer.status == 200 {
                    break;
                }
                assert_eq!((answer.status, answer.reason().as_str()), (503, "upstream_connections"));
                // A kept connection is left for longer.
                assert!(begun.elapsed() < PATIENCE, "round {round}: never");
                thread::sleep(Duration::from_millis(25));
            }
        }
    }
}

#[test]
fn a_failing_upstream_is_left_alone_and_comes_back_when_it_is_well() {
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let origin = Origin::start(move |_| {
        let status = if is_well.load(Ordering::Relaxed) { "200 OK" } else { "500 Broken" };
        Reply::Bytes(response(status, "x"))
    });
    let mut node = node(&[&origin], "breaker: { failures: 50%, least: 5, rest: 1s, probes: 2 }");
    for _ in 0..5 {
        assert_eq!(node.ask(GET).status, 500);
    }
    let refused = node.ask(GET);
    assert_eq!(refused.refusal(), (503, "breaker_open".to_owned()));
    assert_eq!(refused.field("retry-after"), Some("1"));
    assert_eq!(paths(&origin).len(), 5, "it is left alone");
    // It fails the first one after its rest: another rest, twice as long.
    while node.ask(GET).status == 503 {
        thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(paths(&origin).len(), 1);
    well.store(true, Ordering::Relaxed);
    while node.ask(GET).status == 503 {
        thread::sleep(Duration::from_millis(10));
    }
    for _ in 0..10 {
        assert_eq!(node.ask(GET).status, 200);
    }
    node.wait_for("RW-6162");
    node.wait_for("RW-6163");
}

#[test]
fn one_that_fails_more_than_the_others_is_left_out_and_warms_up_when_it_is_back() {
    let well = Arc::new(AtomicBool::new(false));
    let is_well = Arc::clone(&well);
    let failing = Origin::start(move |seen| {
        let fails = !is_well.load(Ordering::Relaxed) && seen.head.contains("/odd");
        Reply::Bytes(response(if fails { "500 Broken" } else { "200 OK" }, "x"))
    });
    let origins = [Origin::plain(), Origin::plain()];
    let text = config(
        &[url(&failing), url(&origins[0]), url(&origins[1])],
        "balance: round_robin, slow_start: 1h, eject: { server_errors: true, after: 1000, failures: 40%, time: 300ms }",
    );
    let mut node = Node::start_on_one_core(&text);
    // Every second request to it fails, never two in a row: only the comparison finds that.
    let mut client = node.connect();
    let mut number = 0;
    while !node.lines_so_far().any(|line| line.contains("RW-6160")) {
        for _ in 0..100 {
            number += 1;
            let path = if number % 6 < 3 { "odd" } else { "even" };
            client.send(format!("GET /{path} HTTP/1.1\r\nHost: a\r\n\r\n"));
            client.answer();
        }
        node.read_lines();
    }
    well.store(true, Ordering::Relaxed);
    node.wait_for("RW-6161");
    paths(&failing);
    for _ in 0..210 {
        client.send("GET /even HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.answer().status, 200);
    }
    // A tenth of its share, which is a third.
    assert!((5..=15).contains(&paths(&failing).len()), "it warms up");
}

/// An origin that takes its time and knows how many it works on at once.
struct Busy {
    origin: Origin,
    most: Arc<AtomicU32>,
}

impl Busy {
    fn start(takes: Duration) -> Busy {
        let most = Arc::new(AtomicU32::new(0));
        let (now, peak) = (AtomicU32::new(0), Arc::clone(&most));
        let origin = Origin::start(move |_| {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::sleep(takes);
            now.fetch_sub(1, Ordering::SeqCst);
            Reply::Bytes(response("200 OK", "done"))
        });
        Busy { origin, most }
    }
}

/// So many clients, each with so many requests over a connection of its own; the statuses and reasons of all.
fn crowd(node: &Node, clients: usize, each: usize) -> Vec<(u16, String)> {
    let address = node.address;
    let answers = Arc::new(Mutex::new(Vec::new()));
    let threads: Vec<_> = (0..clients)
        .map(|_| {
            let answers = Arc::clone(&answers);
            thread::spawn(move || {
                let mut client = Client::new(std::net::TcpStream::connect(address).expect("connected"));
                for _ in 0..each {
                    client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
                    let answer = client.answer();
                    let reason = if answer.status == 200 { String::new() } else { answer.reason() };
                    answers.lock().expect("no panic").push((answer.status, reason));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|thread| thread.join().expect("no panic"));
    std::mem::take(&mut *answers.lock().expect("no panic"))
}

#[test]
fn requests_in_flight_never_exceed_their_bound_over_all_cores_and_nobody_in_line_is_forgotten() {
    for most in [1, 3] {
        let busy = Busy::start(Duration::from_millis(2));
        let node = node(&[&busy.origin], &format!("breaker: {{ requests: {most}, queue: 100, wait: 15s }}"));
        let answers = crowd(&node, 16, 12);
        assert!(answers.iter().all(|(status, _)| *status == 200), "{answers:?}");
        assert_eq!(answers.len(), 16 * 12);
        assert_eq!(busy.most.load(Ordering::SeqCst), most);
    }
}

#[test]
fn who_finds_no_place_is_told_at_once_or_after_a_while() {
    let busy = Busy::start(Duration::from_millis(500));
    let node = node(&[&busy.origin], "breaker: { requests: 2, queue: 3, wait: 20ms }");
    let answers = crowd(&node, 12, 2);
    let count = |wanted: &str| answers.iter().filter(|(_, reason)| reason == wanted).count();
    assert!(
        count("upstream_busy") > 0 && count("upstream_queue_timeout") > 0 && count("") >= 2,
        "{answers:?}"
    );
    assert_eq!(count("upstream_busy") + count("upstream_queue_timeout") + count(""), answers.len());
    assert_eq!(busy.most.load(Ordering::SeqCst), 2);
    // All places come back.
    assert!(crowd(&node, 2, 3).iter().all(|(status, _)| *status == 200));
}

#[test]
fn the_place_of_a_client_that_went_away_is_free_again() {
    let first = AtomicBool::new(true);
    let origin = Origin::start(move |_| match first.swap(false, Ordering::SeqCst) {
        true => Reply::Drip {
            first: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
            then: b"1\r\nx\r\n".to_vec(),
            every: Duration::from_millis(5),
        },
        false => Reply::Bytes(response("200 OK", "done")),
    });
    let node = node(&[&origin], "breaker: { requests: 1, queue: 0 }");
    let mut endless = node.connect();
    endless.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(endless.head().starts_with("HTTP/1.1 200"));
    assert_eq!(node.ask(GET).refusal(), (503, "upstream_busy".to_owned()));
    drop(endless);
    while node.ask(GET).status == 503 {
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_is_in_flight_stays_counted_over_a_reload() {
    let (is_asked, may_answer) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let (asked, may) = (Arc::clone(&is_asked), Arc::clone(&may_answer));
    let busy = Origin::start(move |_| {
        asked.store(true, Ordering::SeqCst);
        while !may.load(Ordering::SeqCst) {
            thread::sleep(Duration::from_millis(1));
        }
        Reply::Bytes(response("200 OK", "done"))
    });
    let other = Origin::plain();
    let keys = |queue| format!("breaker: {{ requests: 1, queue: {queue} }}");
    let mut node = node(&[&busy], &keys(0));
    let mut slow = node.connect();
    slow.send(GET);
    while !is_asked.load(Ordering::SeqCst) {
        thread::sleep(Duration::from_millis(1));
    }
    // One that is refused, and knows nothing of the upstream, takes nothing away from the next.
    node.rewrite("upstreams: { other: \"http://127.0.0.1:1\" }\napis: { app: { to: app } }");
    node.wait_for("RW-6004");
    node.rewrite(&config(&[url(&other), url(&busy)], &keys(0)));
    node.wait_for("RW-6003");
    assert_eq!(node.ask(GET).refusal(), (503, "upstream_busy".to_owned()));
    may_answer.store(true, Ordering::SeqCst);
    assert_eq!(slow.answer().status, 200);
    assert_eq!(node.ask(GET).status, 200);
}

#[test]
fn a_member_that_refuses_is_left_out() {
    let well = Origin::plain();
    let text = config(
        &[refusing(), url(&well)],
        "balance: round_robin, eject: { after: 3, time: 1h }, retry: { tries: 2 }",
    );
    let mut node = Node::start_on_one_core(&text);
    for id in 0..40 {
        // Nothing was sent to the one that refused: even a POST goes elsewhere.
        assert_eq!(node.ask(&post(id, "")).status, 200);
    }
    let lines = node.log(40);
    let twice = lines.iter().filter(|line| line["tries"] == 2).count();
    assert_eq!(twice, 3, "three in a row, then no more");
    node.wait_for("RW-6160");
    let page = crate::node::fetch(&node, "/metrics");
    assert!(
        page.lines().any(|line| line.starts_with("ringwall_upstream_ejected") && line.ends_with(" 1")),
        "{page}"
    );
}

/// An answer after which the connection ends: the next request needs another one.
fn parting() -> Origin {
    Origin::start(|_| {
        Reply::Last(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx".to_vec())
    })
}

/// How many descriptors the node may have from now on.
fn descriptors(node: &Node, most: u32) {
    let mut command = Command::new("prlimit");
    command.args(["--pid", &node.child.id().to_string(), &format!("--nofile={most}:")]);
    assert!(command.status().expect("prlimit").success());
}

#[test]
fn a_node_without_descriptors_blames_nobody() {
    let origins = [parting(), parting()];
    let text = config(
        &origins.iter().map(url).collect::<Vec<_>>(),
        "health: { get: /healthz, every: 100ms }, eject: { after: 1, time: 1h }, \
         breaker: { failures: 1%, least: 1, rest: 1min }",
    );
    let mut node = Node::start_on_one_core(&text);
    let ask = |client: &mut Client| {
        client.send("GET /a HTTP/1.1\r\nHost: a\r\n\r\n");
        client.answer()
    };
    let mut clients: Vec<Client> = (0..6).map(|_| node.connect()).collect();
    clients.iter_mut().for_each(|client| assert_eq!(ask(client).status, 200));
    descriptors(&node, 3);
    for client in &mut clients {
        assert_eq!(ask(client).refusal(), (503, "node_exhausted".to_owned()));
    }
    // Probes come to nothing as well, more of them than take a member down.
    thread::sleep(Duration::from_millis(500));
    descriptors(&node, 1_024);
    for _ in 0..6 {
        assert_eq!(node.ask(GET).status, 200);
    }
    node.read_lines();
    let blamed = |line: &&str| ["RW-6042", "RW-6160", "RW-6162"].iter().any(|code| line.contains(code));
    assert_eq!(node.lines_so_far().find(blamed), None);
    let lines = node.log(18);
    let (refused, tries): (Vec<_>, Vec<_>) = lines
        .iter()
        .filter(|line| line["reason"] == "node_exhausted")
        .map(|line| (line["code"].clone(), line["tries"].as_u64().unwrap_or(1)))
        .unzip();
    assert!(refused.iter().all(|code| code == "RW-4031") && refused.len() == 6, "{refused:?}");
    assert_eq!(tries, [1; 6], "the other member is not asked with what is not there");
    let page = crate::node::fetch(&node, "/metrics");
    assert!(page.lines().any(|line| line.contains("node_exhausted") && line.ends_with(" 6")), "{page}");
}

#[test]
fn weights_are_shares_and_a_spare_is_asked_only_without_the_others() {
    let (heavy, light, spare) = (Origin::plain(), Origin::plain(), Origin::plain());
    let targets = [
        format!("{{ url: {}, weight: 3 }}", url(&heavy)),
        url(&light),
        format!("{{ url: {}, priority: 1 }}", url(&spare)),
    ];
    let node = Node::start_on_one_core(&config(&targets, "balance: round_robin"));
    (0..40).for_each(|_| assert_eq!(node.ask(GET).status, 200));
    assert_eq!([&heavy, &light, &spare].map(|origin| paths(origin).len()), [30, 10, 0]);

    let targets = [refusing(), format!("{{ url: {}, priority: 1 }}", url(&spare))];
    let node = Node::start_on_one_core(&config(&targets, "retry: { tries: 2 }"));
    (0..5).for_each(|_| assert_eq!(node.ask(GET).status, 200));
    assert_eq!(paths(&spare).len(), 5);
}

#[test]
fn a_cookie_leads_back_to_the_same_server_without_telling_where_it_is() {
    let origins = [Origin::plain(), Origin::plain(), Origin::plain()];
    let place = Place::new();
    place.write("sticky", "a secret of at least some length");
    let text = config(
        &origins.iter().map(url).collect::<Vec<_>>(),
        "balance: { sticky: { cookie: at, key: \"secret:file:sticky\" } }",
    );
    let node = Node::start_in(place, "{ address: \"127.0.0.1:0\", tls: none }", &text);
    let ask = |cookie: &str| {
        let answer = node.ask(&format!("GET /a HTTP/1.1\r\nHost: a\r\n{cookie}Connection: close\r\n\r\n"));
        let at = origins.iter().position(|origin| !paths(origin).is_empty()).expect("one of them");
        (at, answer.field("set-cookie").map(str::to_owned))
    };
    let (first, cookie) = ask("");
    let cookie = cookie.expect("a cookie");
    let (pair, attributes) = cookie.split_once(';').expect("attributes");
    assert!(attributes.contains("HttpOnly") && !attributes.contains("Secure"), "{attributes}");
    assert!(pair.strip_prefix("at=").is_some_and(|value| {
        value.len() == 16 && !value.contains(&origins[first].address.port().to_string())
    }));
    for _ in 0..10 {
        assert_eq!(ask(&format!("Cookie: other=1; {pair}; more=2\r\n")), (first, None));
    }
    // One that was made up leads nowhere in particular, and is replaced.
    assert!(ask("Cookie: at=0123456789abcdef\r\n").1.is_some());
    let seen: HashSet<usize> = (0..40).map(|_| ask("").0).collect();
    assert_eq!(seen.len(), 3, "who has no cookie may go anywhere");
}

#[test]
fn the_same_value_of_a_field_goes_to_the_same_server() {
    let origins = [Origin::plain(), Origin::plain(), Origin::plain()];
    let node = node(&origins.each_ref(), "balance: { hash: \"header:X-Tenant\" }");
    let at = |tenant: usize| {
        let request =
            format!("GET /a HTTP/1.1\r\nHost: a\r\nX-Tenant: t{tenant}\r\nConnection: close\r\n\r\n");
        assert_eq!(node.ask(&request).status, 200);
        origins.iter().position(|origin| !paths(origin).is_empty()).expect("one of them")
    };
    let first: Vec<usize> = (0..20).map(at).collect();
    let second: Vec<usize> = (0..20).map(at).collect();
    assert_eq!(first, second);
    assert_eq!(first.iter().collect::<HashSet<_>>().len(), 3);
}

#[test]
fn an_upstream_that_finds_its_own_bound_is_kept_busy_and_its_queue_short() {
    // Works on four at once, 5 ms each; the others wait in it.
    let (free, wakes) = (Arc::new(Mutex::new(4_u32)), Arc::new(std::sync::Condvar::new()));
    let origin = Origin::start(move |_| {
        let mut places = free.lock().expect("no panic");
        while *places == 0 {
            places = wakes.wait(places).expect("no panic");
        }
        *places -= 1;
        drop(places);
        thread::sleep(Duration::from_millis(5));
        *free.lock().expect("no panic") += 1;
        wakes.notify_one();
        Reply::Bytes(response("200 OK", "done"))
    });
    let node = node(&[&origin], "breaker: { requests: adaptive, queue: 4, wait: 20ms }");
    // Few at first, so that it is known what an answer takes; then many more than it can do.
    crowd(&node, 2, 100);
    let answers = crowd(&node, 40, 100);
    let done = answers.iter().filter(|(status, _)| *status == 200).count();
    let refused = answers.iter().filter(|(status, _)| *status == 503).count();
    assert_eq!(done + refused, answers.len());
    assert!(done > 100 && refused > 100, "{done} answered, {refused} refused");
    let longest = node
        .log(4_200)
        .iter()
        .filter(|line| line["status"] == 200)
        .skip(1_000)
        .map(|line| line["upstream_us"].as_u64().unwrap_or(0))
        .max();
    assert!(longest < Some(1_000_000), "{longest:?} µs in the upstream");
}
