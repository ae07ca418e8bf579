//! Limits on requests in flight of one key, over real sockets and two cores: never more than the bound, and every seat comes
//! back, whatever ends the request.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::node::{Client, Node, Origin, PATIENCE, Reply, comes_to, fetch, response};

fn config(origin: SocketAddr, limits: &str, more: &str) -> String {
    format!(
        "upstreams: {{ app: \"http://{origin}\" }}\n\
         apis:\n  app:\n    to: app\n    raw: \"a test\"\n    allow: [{{ who: anyone }}]\n    limits: [{limits}]\n{more}"
    )
}

fn by_key(most: u32) -> String {
    format!("{{ per: \"header:X-Key\", concurrency: {most} }}")
}

fn get(key: &str) -> String {
    format!("GET /a HTTP/1.1\r\nHost: a\r\nX-Key: {key}\r\nConnection: close\r\n\r\n")
}

fn refused() -> (u16, String) {
    (429, "concurrency_exceeded".to_owned())
}

/// Asks until somebody has left; how it was answered then.
fn once_there_is_room(node: &Node, key: &str) -> u16 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = node.ask(&get(key));
        if answer.status != 429 {
            return answer.status;
        }
        assert_eq!(answer.refusal(), refused());
        assert!(Instant::now() < deadline, "the seat never came back");
        thread::sleep(Duration::from_millis(5));
    }
}

/// An origin that takes its time and knows how many requests of each key it works on at once, and how many it ever did.
fn counting(takes: Duration) -> (Origin, Arc<Mutex<HashMap<String, (u32, u32)>>>) {
    let keys: Arc<Mutex<HashMap<String, (u32, u32)>>> = Arc::default();
    let inside = Arc::clone(&keys);
    let origin = Origin::start(move |seen| {
        let key = seen.field("x-key").expect("a key").to_owned();
        let change = |by: fn(&mut (u32, u32))| {
            by(inside.lock().expect("no panic").entry(key.clone()).or_default());
        };
        change(|(now, most)| {
            *now += 1;
            *most = (*most).max(*now);
        });
        thread::sleep(takes);
        change(|(now, _)| *now -= 1);
        Reply::Bytes(response("200 OK", "done"))
    });
    (origin, keys)
}

#[test]
fn requests_in_flight_of_a_key_never_exceed_their_bound_over_all_cores_and_keys_are_apart() {
    for most in [1, 3] {
        let (origin, keys) = counting(Duration::from_millis(4));
        let node = Node::start(&config(origin.address, &by_key(most), ""));
        let address = node.address;
        let clients: Vec<_> = (0..16)
            .map(|number| {
                thread::spawn(move || {
                    let key = ["a", "b"][number % 2];
                    let mut client = Client::new(TcpStream::connect(address).expect("connected"));
                    let mut admitted = 0;
                    for _ in 0..60 {
                        client.send(format!("GET /a HTTP/1.1\r\nHost: a\r\nX-Key: {key}\r\n\r\n"));
                        let answer = client.answer();
                        match answer.status {
                            200 => admitted += 1,
                            _ => assert_eq!(answer.refusal(), refused()),
                        }
                    }
                    admitted
                })
            })
            .collect();
        let admitted: u32 = clients.into_iter().map(|client| client.join().expect("no panic")).sum();
        let keys = keys.lock().expect("no panic").clone();
        assert_eq!(keys.len(), 2);
        // The bound was reached, and never passed; nobody is left behind.
        assert!(keys.values().all(|&(now, peak)| now == 0 && peak == most), "{keys:?}");
        assert!(admitted >= 2 * most);
        for key in ["a", "b"] {
            assert_eq!(node.ask(&get(key)).status, 200, "all seats came back");
        }
    }
}

/// An origin that answers each request when it is told to, or dies instead.
struct Slow {
    address: SocketAddr,
    /// One for each request that has come: what it is sent is what the origin says, and then it closes.
    came: Receiver<Sender<&'static str>>,
}

impl Slow {
    fn start() -> Slow {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let (sender, came) = channel::<Sender<&'static str>>();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let sender = sender.clone();
                thread::spawn(move || {
                    let mut lines = BufReader::new(stream.try_clone().expect("a handle")).lines();
                    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                    let (say, said) = channel();
                    if sender.send(say).is_ok() {
                        let _ = stream.write_all(said.recv().unwrap_or_default().as_bytes());
                    }
                });
            }
        });
        Slow { address, came }
    }

    fn next(&self) -> Sender<&'static str> {
        self.came.recv_timeout(PATIENCE).expect("a request comes")
    }
}

const DONE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok";

#[test]
fn who_has_as_many_in_flight_as_may_be_is_refused_at_once_and_told_which_limit() {
    let slow = Slow::start();
    let node = Node::start(&config(slow.address, &by_key(1), ""));
    let mut first = node.connect();
    first.send(get("a"));
    let origin = slow.next();
    let answer = node.ask(&get("a"));
    assert_eq!(answer.refusal(), refused());
    assert!(answer.text().contains("\"code\":\"RW-3250\""), "{}", answer.text());
    let policy = "\"per header:x-key at once\";q=1;qu=\"concurrent-requests\"";
    assert_eq!(answer.field("ratelimit-policy"), Some(policy));
    assert_eq!(answer.field("ratelimit"), Some("\"per header:x-key at once\";r=0"));
    assert_eq!(answer.field("retry-after"), None, "nobody knows when");
    // Another key has its own.
    let mut other = node.connect();
    other.send(get("b"));
    slow.next().send(DONE).expect("it waits");
    let answer = other.answer();
    assert_eq!((answer.status, answer.field("ratelimit")), (200, None));
    assert_eq!(answer.field("ratelimit-policy"), Some(policy));
    origin.send(DONE).expect("it waits");
    assert_eq!(first.answer().status, 200);
    let lines = node.log(3);
    let line = lines.iter().find(|line| line["status"] == 429).expect("a line");
    assert_eq!((&line["reason"], &line["code"]), (&"concurrency_exceeded".into(), &"RW-3250".into()));
    comes_to(1.0, || {
        let page = fetch(&node, "/metrics");
        let wanted = "ringwall_refusals_total{reason=\"concurrency_exceeded\",mode=\"enforce\"} ";
        page.lines().find_map(|line| line.strip_prefix(wanted)?.parse().ok()).unwrap_or(0.0)
    });
}

#[test]
fn the_seat_of_a_client_that_goes_away_within_its_answer_is_free_again() {
    let first = AtomicBool::new(true);
    let origin = Origin::start(move |_| match first.swap(false, Ordering::SeqCst) {
        true => Reply::Drip {
            first: b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
            then: b"1\r\nx\r\n".to_vec(),
            every: Duration::from_millis(5),
        },
        false => Reply::Bytes(response("200 OK", "done")),
    });
    let node = Node::start(&config(origin.address, &by_key(1), ""));
    let mut endless = node.connect();
    endless.send(get("a"));
    assert!(endless.head().starts_with("HTTP/1.1 200"));
    // As long as it is sent.
    for _ in 0..5 {
        assert_eq!(node.ask(&get("a")).refusal(), refused());
    }
    drop(endless);
    assert_eq!(once_there_is_room(&node, "a"), 200);
}

#[test]
fn a_client_that_goes_away_unanswered_has_its_seat_until_that_is_known() {
    let slow = Slow::start();
    let node = Node::start(&config(slow.address, &by_key(1), ""));
    let mut gone = node.connect();
    gone.send(get("a"));
    let origin = slow.next();
    drop(gone);
    for _ in 0..5 {
        assert_eq!(node.ask(&get("a")).refusal(), refused(), "never more than the bound at the origin");
    }
    origin.send(DONE).expect("it works");
    let deadline = Instant::now() + PATIENCE;
    loop {
        let mut client = node.connect();
        client.send(get("a"));
        // Either it is refused or it comes to the origin.
        match slow.came.recv_timeout(Duration::from_millis(200)) {
            Ok(origin) => {
                origin.send(DONE).expect("it waits");
                break assert_eq!(client.answer().status, 200);
            }
            Err(_) => assert_eq!(client.answer().refusal(), refused()),
        }
        assert!(Instant::now() < deadline, "the seat never came back");
    }
}

/// How the client of [`what_nobody_waits_for`] goes.
enum Leave {
    /// With everything read: its system says that it has ended its side.
    Close,
    /// With something unread: its system resets the connection.
    Reset,
}

fn what_nobody_waits_for(leave: &Leave) {
    // The first request is never answered: the origin waits for the end of its connection. The next ones are.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    let (came, comes) = channel();
    let (ended, ends) = channel();
    thread::spawn(move || {
        for (number, mut stream) in listener.incoming().flatten().enumerate() {
            let mut lines = BufReader::new(stream.try_clone().expect("a handle")).lines();
            while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
            if number > 0 {
                let _ = stream.write_all(DONE.as_bytes());
                continue;
            }
            let _ = came.send(());
            let ended = ended.clone();
            thread::spawn(move || {
                while matches!(stream.read(&mut [0; 64]), Ok(1..)) {}
                let _ = ended.send(());
            });
        }
    });
    let node = Node::start(&config(address, &by_key(1), ""));
    let mut client = node.connect();
    match leave {
        Leave::Close => client.send(get("a")),
        Leave::Reset => {
            let head =
                "PUT /a HTTP/1.1\r\nHost: a\r\nX-Key: a\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\n";
            client.send(head);
            let invited = client.into_stream();
            assert!(invited.peek(&mut [0; 8]).is_ok_and(|count| count > 0), "it is told to go on");
            (&invited).write_all(b"x").expect("sent");
            client = Client::new(invited);
        }
    }
    comes.recv_timeout(PATIENCE).expect("a request comes");
    assert_eq!(node.ask(&get("a")).refusal(), refused());
    let gone = Instant::now();
    drop(client);
    ends.recv_timeout(PATIENCE).expect("the origin is told that nobody waits");
    // Who may still read is given some time; who has reset is not.
    let given = gone.elapsed();
    let expected = match leave {
        Leave::Close => Duration::from_millis(2_900)..Duration::from_secs(8),
        Leave::Reset => Duration::ZERO..Duration::from_secs(5),
    };
    assert!(expected.contains(&given), "{given:?}");
    assert_eq!(once_there_is_room(&node, "a"), 200);
    let gone = |line: &serde_json::Value| line["reason"] == "client_gone" && line["code"] == "RW-2200";
    assert!(node.log(3).iter().any(gone));
}

#[test]
fn an_answer_that_nobody_waits_for_is_given_up_and_its_seat_is_free() {
    what_nobody_waits_for(&Leave::Close);
    what_nobody_waits_for(&Leave::Reset);
}

#[test]
fn a_client_that_has_only_nothing_more_to_ask_gets_its_answer() {
    let slow = Slow::start();
    let node = Node::start(&config(slow.address, &by_key(1), ""));
    let mut client = node.connect();
    client.send(get("a"));
    client.end_sending();
    let origin = slow.next();
    thread::sleep(Duration::from_secs(1));
    origin.send(DONE).expect("it waits");
    assert_eq!(client.answer().status, 200);
}

#[test]
fn an_upstream_that_dies_leaves_no_seat_taken() {
    let slow = Slow::start();
    let node = Node::start(&config(slow.address, &by_key(1), ""));
    for said in ["", "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut", "nonsense\r\n\r\n"] {
        let mut client = node.connect();
        // Not repeated: what an upstream may have done is not asked for twice.
        client.send(
            "POST /a HTTP/1.1\r\nHost: a\r\nX-Key: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
        let origin = slow.next();
        assert_eq!(node.ask(&get("a")).refusal(), refused());
        origin.send(said).expect("it waits");
        client.rest();
        let mut client = node.connect();
        client.send(get("a"));
        slow.next().send(DONE).expect("it waits");
        assert_eq!(client.answer().status, 200, "after {said:?}");
    }
}

#[test]
fn a_body_that_does_not_come_holds_a_seat_until_its_deadline() {
    let origin = Origin::plain();
    let limits = by_key(1);
    let node =
        Node::start(&config(origin.address, &limits, "    timeouts: { total: 400ms, stream_idle: 300ms }\n"));
    let deadline = Instant::now() + PATIENCE;
    let mut uploads = Vec::new();
    loop {
        let mut client = node.connect();
        client.send("POST /a HTTP/1.1\r\nHost: a\r\nX-Key: a\r\nContent-Length: 100\r\n\r\nfew");
        uploads.push(client);
        // Unless the next one was there before it.
        if node.ask(&get("a")).status == 429 {
            break;
        }
        assert!(Instant::now() < deadline, "a body that is awaited is in flight");
    }
    assert_eq!(once_there_is_room(&node, "a"), 200);
    assert!(uploads.iter_mut().all(|client| [408, 429, 504].contains(&client.answer().status)));
}

#[test]
fn what_is_in_flight_stays_counted_over_a_reload_and_a_lower_bound_is_for_who_comes() {
    let slow = Slow::start();
    let mut node = Node::start(&config(slow.address, &by_key(2), ""));
    let ask = || {
        let mut client = node.connect();
        client.send(get("a"));
        (client, slow.next())
    };
    let (mut one, first) = ask();
    let (mut two, second) = ask();
    // Another place in the list, and another bound.
    let limits = |most| format!("{{ per: address, rate: 1000/s }}, {}", by_key(most));
    node.rewrite(&config(slow.address, &limits(1), ""));
    node.wait_for("RW-6003");
    assert_eq!(node.ask(&get("a")).refusal(), refused());
    first.send(DONE).expect("it waits");
    assert_eq!(one.answer().status, 200);
    assert_eq!(node.ask(&get("a")).refusal(), refused(), "the other one is still there");
    second.send(DONE).expect("it waits");
    assert_eq!(two.answer().status, 200);
    let (mut three, third) = {
        let mut client = node.connect();
        client.send(get("a"));
        (client, slow.next())
    };
    // A higher bound lets in more at once.
    node.rewrite(&config(slow.address, &limits(2), ""));
    node.wait_for("RW-6003");
    let mut four = node.connect();
    four.send(get("a"));
    let fourth = slow.next();
    assert_eq!(node.ask(&get("a")).refusal(), refused());
    for (client, origin) in [(&mut three, third), (&mut four, fourth)] {
        origin.send(DONE).expect("it waits");
        assert_eq!(client.answer().status, 200);
    }
}

#[test]
fn who_is_refused_by_another_policy_takes_no_seat() {
    let slow = Slow::start();
    let limits = "{ per: address, concurrency: 1 }, { per: \"header:X-Key\", rate: 3/h }";
    let node = Node::start(&config(slow.address, limits, ""));
    let mut first = node.connect();
    first.send(get("a"));
    let origin = slow.next();
    // What is refused for want of a seat costs the rate nothing.
    for _ in 0..5 {
        assert_eq!(node.ask(&get("a")).refusal(), refused());
    }
    origin.send(DONE).expect("it waits");
    assert_eq!(first.answer().status, 200);
    for _ in 0..2 {
        let mut client = node.connect();
        client.send(get("a"));
        slow.next().send(DONE).expect("it waits");
        assert_eq!(client.answer().status, 200);
    }
    // What the rate refuses leaves its seat, also where it is one of many on a connection whose client does not read.
    let mut deaf = node.connect();
    deaf.send("GET /a HTTP/1.1\r\nHost: a\r\nX-Key: a\r\n\r\n".repeat(50));
    for _ in 0..5 {
        assert_eq!(node.ask(&get("a")).refusal(), (429, "rate_exceeded".to_owned()));
    }
    let mut other = node.connect();
    other.send(get("b"));
    slow.next().send(DONE).expect("it waits");
    assert_eq!(other.answer().status, 200);
}

#[test]
fn an_observed_limit_refuses_nobody_and_says_what_it_would_have() {
    let slow = Slow::start();
    let limits = "{ per: \"header:X-Key\", concurrency: 1, mode: observe }";
    let node = Node::start(&config(slow.address, limits, ""));
    let mut clients: Vec<(Client, Sender<&str>)> = (0..3)
        .map(|_| {
            let mut client = node.connect();
            client.send(get("a"));
            (client, slow.next())
        })
        .collect();
    for (client, origin) in &mut clients {
        origin.send(DONE).expect("it waits");
        let answer = client.answer();
        assert_eq!((answer.status, answer.field("ratelimit-policy")), (200, None));
    }
    let would = "ringwall_refusals_total{reason=\"concurrency_exceeded\",mode=\"observe\"} ";
    comes_to(2.0, || {
        let page = fetch(&node, "/metrics");
        page.lines().find_map(|line| line.strip_prefix(would)?.parse().ok()).unwrap_or(0.0)
    });
}
