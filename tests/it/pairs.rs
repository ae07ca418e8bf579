//! What is true whatever is spoken: HTTP/1.1 or HTTP/2 with clients, HTTP/1.1 or HTTP/2 with upstreams, in all four pairs.
//!
//! One list of demands, asked of each pair over real sockets. What differs between the protocols (that one says it with a close and
//! the other with RST_STREAM) is in [`client`] and [`origin`], and nowhere below. The other side of HTTP/2 is the `h2` crate's.

mod client;
mod origin;
mod upstreams;
mod wire;

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use client::{Ask, Client, To};
use hyper::body::Bytes;
use origin::{CUT_BYTES, Origin};

use crate::node::{Node, PATIENCE, Place, new_key, text_of};

/// What clients ask for, and what certificates say.
const NAME: &str = "localhost";
/// No demand takes longer.
const TOGETHER: Duration = Duration::from_secs(120);

/// What is spoken with one side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Speaks {
    Http1,
    Http2,
}

impl Speaks {
    fn alpn(self) -> &'static [u8] {
        match self {
            Speaks::Http1 => b"http/1.1",
            Speaks::Http2 => b"h2",
        }
    }

    /// The base of the API whose upstream speaks it.
    fn base(self) -> &'static str {
        match self {
            Speaks::Http1 => "/one",
            Speaks::Http2 => "/two",
        }
    }
}

const BOTH: [Speaks; 2] = [Speaks::Http1, Speaks::Http2];

/// A body in which what is missing, doubled or swapped shows.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at % 251) as u8 ^ (at >> 16) as u8).collect()
}

/// Runs to the end, or fails: nothing here waits for anything but the other side.
fn run(future: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        tokio::time::timeout(TOGETHER, future).await.expect("it comes to an end");
    });
}

/// A future that must be over soon.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("{what} does not come"))
}

/// A node between clients and two origins, one for each protocol.
struct Between {
    node: Node,
    to: To,
    one: Origin,
    two: Origin,
}

const PLAIN: &str = "{ address: \"127.0.0.1:0\", tls: none, protocols: [http1, http2] }";
const TLS: &str = "{ address: \"127.0.0.1:0\", tls: { cert: c.pem, key: k.pem } }";

/// Both APIs, with more keys for each of them.
fn apis(more: &str) -> String {
    let api = |name: &str| {
        format!("  {name}: {{ base: /{name}, to: {name}, raw: a test, sizes: {{ body: 64MiB }}, {more} }}\n")
    };
    format!("apis:\n{}{}", api("one"), api("two"))
}

const ANYONE: &str = "allow: [{ who: anyone }]";

impl Between {
    async fn start(secure: bool) -> Between {
        Between::start_with(secure, Place::new(), &apis(ANYONE)).await
    }

    async fn start_with(secure: bool, place: Place, apis: &str) -> Between {
        let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).expect("a certificate");
        place.write("c.pem", &made.cert.pem());
        place.write("k.pem", &made.signing_key.serialize_pem());
        let tls = |speaks: Speaks| {
            let key = made.signing_key.serialize_der().try_into().expect("PKCS#8");
            let mut config = rustls::ServerConfig::builder_with_provider(ringwall::tls::provider())
                .with_safe_default_protocol_versions()
                .expect("versions")
                .with_no_client_auth()
                .with_single_cert(vec![made.cert.der().clone()], key)
                .expect("a certificate and its key");
            config.alpn_protocols = vec![speaks.alpn().to_vec()];
            secure.then(|| Arc::new(config))
        };
        let one = Origin::start(Speaks::Http1, tls(Speaks::Http1)).await;
        let two = Origin::start(Speaks::Http2, tls(Speaks::Http2)).await;
        let upstream = |origin: &Origin, protocol: &str| match secure {
            false => format!("{{ targets: [\"http://{}\"], protocol: {protocol} }}", origin.address),
            true => format!(
                "{{ targets: [\"https://{NAME}:{}\"], ca: c.pem, protocol: {protocol}, addresses: 127.0.0.1/32 }}",
                origin.address.port()
            ),
        };
        let config = format!(
            "upstreams:\n  one: {}\n  two: {}\n{apis}",
            upstream(&one, "http1"),
            upstream(&two, "http2")
        );
        let node = Node::start_in(place, if secure { TLS } else { PLAIN }, &config);
        let to = To { address: node.address, trust: secure.then(|| made.cert.der().clone()) };
        Between { node, to, one, two }
    }

    async fn client(&self, speaks: Speaks) -> Client {
        Client::connect(speaks, &self.to).await
    }

    fn origin(&mut self, speaks: Speaks) -> &mut Origin {
        match speaks {
            Speaks::Http1 => &mut self.one,
            Speaks::Http2 => &mut self.two,
        }
    }
}

/// Asks the same of all four pairs, each over a new connection of the client.
macro_rules! each_pair {
    ($between:ident, |$client:ident, $base:ident, $pair:ident| $body:block) => {
        for inner in BOTH {
            for outer in BOTH {
                let $pair = format!("{outer:?} to {inner:?}");
                let $base = inner.base();
                #[allow(unused_mut, reason = "some only look")]
                let mut $client = $between.client(outer).await;
                $body
            }
        }
    };
}

async fn bodies(secure: bool) {
    let between = Between::start(secure).await;
    each_pair!(between, |client, base, pair| {
        for size in [0, 1, (64 << 10) - 1, 64 << 10, 1 << 20, 8 << 20] {
            let body = Bytes::from(pattern(size));
            for length in [true, false] {
                let got = client.ask(&Ask::post(format!("{base}/echo"), body.clone(), length)).await;
                assert_eq!((got.status, got.whole), (200, true), "{pair}, {size} bytes there and back");
                assert!(got.body == body, "{pair}: {} of {size} bytes came back", got.body.len());
                let way = if length { "size" } else { "stream" };
                let got = client.ask(&Ask::get(format!("{base}/{way}/{size}"))).await;
                assert_eq!((got.status, got.whole), (200, true), "{pair}, {way}/{size}");
                assert!(got.body == body, "{pair}: {} of {size} bytes", got.body.len());
                let said = got.field("content-length").map(str::to_owned);
                assert_eq!(said, length.then(|| size.to_string()), "{pair}, {way}/{size}");
            }
        }
        // What is said of the length of a body is what the origin hears, and nothing that was not said.
        for (length, said) in [(true, Some("5")), (false, None)] {
            let seen = client.ask(&Ask::post(format!("{base}/seen"), "hello", length)).await.json();
            let fields = seen["fields"].as_array().expect("fields").clone();
            let found = fields
                .iter()
                .find(|field| field[0] == "content-length")
                .map(|field| field[1].as_str().expect("text"));
            assert_eq!((found, &seen["bytes"]), (said, &5.into()), "{pair}: {seen}");
        }
    });
}

#[test]
fn bodies_of_all_sizes_go_both_ways() {
    run(bodies(false));
}

#[test]
fn bodies_of_all_sizes_go_both_ways_under_tls() {
    run(bodies(true));
}

#[test]
fn heads_without_bodies_say_what_they_said() {
    run(async {
        let between = Between::start(false).await;
        each_pair!(between, |client, base, pair| {
            let got = client.ask(&Ask::head(format!("{base}/size/1000"))).await;
            assert_eq!((got.status, got.whole, got.body.len()), (200, true, 0), "{pair}");
            assert_eq!(got.field("content-length"), Some("1000"), "{pair}");
            let got = client.ask(&Ask::head(format!("{base}/stream/1000"))).await;
            assert_eq!((got.status, got.whole, got.field("content-length")), (200, true, None), "{pair}");
            for status in [204, 304] {
                let got = client.ask(&Ask::get(format!("{base}/bare/{status}"))).await;
                assert_eq!((got.status, got.whole, got.body.len()), (status, true, 0), "{pair}");
                assert_eq!(got.field("x-bare"), Some("yes"), "{pair}");
                assert_eq!(got.field("content-length"), (status == 304).then_some("10"), "{pair}");
            }
            // Nothing of a body that was never sent is left on the connection.
            let got = client.ask(&Ask::get(format!("{base}/size/5"))).await;
            assert_eq!((got.status, got.body.len()), (200, 5), "{pair}");
        });
    });
}

#[test]
fn trailers_of_answers_come_to_who_takes_them_and_those_of_requests_end_here() {
    run(async {
        let between = Between::start(false).await;
        each_pair!(between, |client, base, pair| {
            let got = client.ask(&Ask::get(format!("{base}/trailers")).with("te", "trailers")).await;
            assert_eq!((got.status, got.whole, &got.body[..]), (200, true, &b"with trailers"[..]), "{pair}");
            assert_eq!(got.trailers, [("x-sum".to_owned(), "12".to_owned())], "{pair}");
            let got = client.ask(&Ask::get(format!("{base}/trailers"))).await;
            assert_eq!((got.whole, &got.body[..]), (true, &b"with trailers"[..]), "{pair}");
            assert_eq!(got.trailers, [], "{pair}");
            // RFC 9110 §6.5.1: a recipient that does not know what they are for drops them.
            let ask =
                Ask { trailers: vec![("x-check", "1")], ..Ask::post(format!("{base}/seen"), "hello", false) };
            let seen = client.ask(&ask).await.json();
            assert_eq!((&seen["bytes"], &seen["trailers"]), (&5.into(), &serde_json::json!([])), "{pair}");
        });
    });
}

#[test]
fn interim_answers_come_before_the_final_one() {
    run(async {
        let between = Between::start(false).await;
        each_pair!(between, |client, base, pair| {
            for ask in [Ask::get(format!("{base}/hints")), Ask::post(format!("{base}/hints"), "hello", true)]
            {
                let got = client.ask(&ask).await;
                let link = ("link".to_owned(), "</style.css>; rel=preload".to_owned());
                assert_eq!(got.interim, [(103, vec![link])], "{pair}");
                assert_eq!((got.status, got.whole, &got.body[..]), (200, true, &b"hinted"[..]), "{pair}");
            }
        });
    });
}

#[test]
fn an_answer_that_comes_before_the_request_has_ended_is_passed_on_whole() {
    run(async {
        let between = Between::start(false).await;
        each_pair!(between, |client, base, pair| {
            for length in [true, false] {
                let got = client.ask(&Ask::post(format!("{base}/early"), pattern(8 << 20), length)).await;
                assert_eq!((got.status, got.whole, &got.body[..]), (413, true, &b"enough"[..]), "{pair}");
            }
            let got = client.ask(&Ask::get(format!("{base}/size/5"))).await;
            assert_eq!((got.status, got.body.len()), (200, 5), "{pair}");
        });
    });
}

/// How soon an upstream hears of a client that has gone. A stream says so at once; a connection of HTTP/1.1 is looked at every three
/// seconds, because what may follow a request is not read while it is answered, and one that has ended only its side, as a close looks
/// at first, has three seconds more.
fn stops_within(outer: Speaks) -> Duration {
    Duration::from_secs(if outer == Speaks::Http1 { 9 } else { 2 })
}

#[test]
fn who_leaves_stops_the_work_for_it() {
    run(async {
        let mut between = Between::start(false).await;
        for inner in BOTH {
            for outer in BOTH {
                let pair = format!("{outer:?} to {inner:?}");
                for (word, bytes) in [("hold", 0), ("flood", 100_000)] {
                    let path = format!("{}/{word}?{outer:?}", inner.base());
                    let client = between.client(outer).await;
                    let mut left = {
                        let origin = between.origin(inner);
                        let asked = Box::pin(async { while origin.next().await.path != path {} });
                        client.ask_and_leave(&Ask::get(&path), bytes, asked).await
                    };
                    let begun = Instant::now();
                    let again = match &mut left {
                        Client::Http1 { .. } => {
                            drop(left);
                            None
                        }
                        Client::Http2 { .. } => Some(left),
                    };
                    soon(&pair, between.origin(inner).stopped(&path)).await;
                    let took = begun.elapsed();
                    assert!(took < stops_within(outer), "{pair}, {word}: the origin was told after {took:?}");
                    // Its connection is as good as before.
                    if let Some(mut again) = again {
                        let got = again.ask(&Ask::get(format!("{}/size/5", inner.base()))).await;
                        assert_eq!((got.status, got.body.len()), (200, 5), "{pair}");
                    }
                }
            }
        }
    });
}

#[test]
fn an_upstream_that_breaks_off_is_told_of_or_seen() {
    run(async {
        let mut between = Between::start(false).await;
        each_pair!(between, |client, base, pair| {
            // Before its head: nothing was seen of an answer, so one of ours can be. What is not idempotent is asked once.
            let _ = (between.one.came(), between.two.came());
            let got = client.ask(&Ask::post(format!("{base}/reset"), "hello", true)).await;
            assert_eq!(got.status, 502, "{pair}");
            assert!(
                ["upstream_closed", "upstream_reset"].contains(&&*got.refusal().1),
                "{pair}: {:?}",
                got.refusal()
            );
            let came = between.one.came().len() + between.two.came().len();
            assert_eq!(came, 1, "{pair}");
            let got = client.ask(&Ask::get(format!("{base}/reset"))).await;
            assert_eq!(got.status, 502, "{pair}");
            // Behind it: that something is missing can be seen.
            for way in ["size", "stream"] {
                let got = client.ask(&Ask::get(format!("{base}/cut/{way}"))).await;
                assert_eq!((got.status, got.whole), (200, false), "{pair}, {way}");
                assert!(got.body.len() <= CUT_BYTES, "{pair}, {way}");
            }
            let got = client.ask(&Ask::get(format!("{base}/short"))).await;
            assert!(!got.whole, "{pair}: {got:?}");
        });
    });
}

#[test]
fn cookies_arrive_in_one_field_and_host_once() {
    run(async {
        let between = Between::start(false).await;
        let authority = format!("{NAME}:{}", between.to.address.port());
        each_pair!(between, |client, base, pair| {
            let ask = Ask::get(format!("{base}/seen?a=b%20c&d"));
            let ask = match pair.starts_with("Http1") {
                // RFC 6265 §5.4: one field, in HTTP/1.1.
                true => ask.with("cookie", "a=1; b=2; c=3"),
                // RFC 9113 §8.2.3.
                false => ask.with("cookie", "a=1").with("x-between", "y").with("cookie", "b=2; c=3"),
            };
            let seen = client.ask(&ask).await.json();
            let fields: Vec<(String, String)> =
                serde_json::from_value(seen["fields"].clone()).expect("fields");
            let all = |name: &str| -> Vec<&str> {
                fields.iter().filter(|(found, _)| found == name).map(|(_, value)| value.as_str()).collect()
            };
            // Towards HTTP/2 it may be in pieces; an application puts them together as we do.
            assert_eq!(all("cookie").join("; "), "a=1; b=2; c=3", "{pair}");
            if pair.ends_with("Http1") {
                assert_eq!(all("cookie").len(), 1, "{pair}");
            }
            assert_eq!(all("host"), [authority.as_str()], "{pair}");
            assert_eq!(seen["path"], format!("{base}/seen?a=b%20c&d"), "{pair}");
            for name in ["connection", "te", "keep-alive", "upgrade", "proxy-connection"] {
                assert_eq!(all(name), [""; 0], "{pair}: {name}");
            }
            assert_eq!(all("x-forwarded-for"), ["127.0.0.1"], "{pair}");
            assert_eq!(all("x-forwarded-host"), [NAME], "{pair}");
        });
    });
}

#[test]
fn a_host_that_is_not_the_authority_is_refused() {
    run(async {
        let mut between = Between::start(false).await;
        let authority = format!("{NAME}:{}", between.to.address.port());
        for inner in BOTH {
            let mut client = between.client(Speaks::Http2).await;
            let ask = |host: &str| Ask::get(format!("{}/size/5", inner.base())).with("host", host);
            assert_eq!(client.ask(&ask(&authority)).await.status, 200);
            let _ = (between.one.came(), between.two.came());
            let got = client.try_ask(&ask("b.example")).await;
            assert!(got.as_ref().is_none_or(|got| got.status == 400), "{got:?}");
            assert_eq!(between.one.came().len() + between.two.came().len(), 0);
        }
    });
}

#[test]
fn a_length_that_is_not_that_of_the_body_makes_no_request() {
    run(async {
        let between = Between::start(false).await;
        for inner in BOTH {
            for said in ["4", "6", "0", "5, 5", "+5", "18446744073709551616"] {
                let mut client = between.client(Speaks::Http2).await;
                let ask =
                    Ask::post(format!("{}/echo", inner.base()), "hello", false).with("content-length", said);
                let got = client.try_ask(&ask).await;
                assert!(
                    got.as_ref().is_none_or(|got| got.status == 400 || !got.whole),
                    "{said} to {inner:?}: {got:?}"
                );
                let got = client.ask(&Ask::get(format!("{}/size/5", inner.base()))).await;
                assert_eq!((got.status, got.body.len()), (200, 5), "{said} to {inner:?}");
            }
        }
    });
}

#[test]
fn refusals_are_the_same_whatever_is_spoken() {
    run(async {
        let place = Place::new();
        place.write("pepper", "0123456789abcdef0123456789abcdef");
        place.write("any.schema.json", r#"{ "type": "object", "required": ["topic"] }"#);
        let key = new_key(place.path(), "acme", &[]);
        let api = |name: &str| {
            format!(
                "  {name}:\n    base: /{name}\n    to: {name}\n    sizes: {{ body: 1KiB }}\n    allow: [{{ who: partners }}]\n    \
                 limits: [{{ per: [api, \"header:X-Turn\"], rate: 1/h, burst: 1, do: [once] }}]\n    operations:\n      \
                 seen: {{ match: POST /seen, body: {{ schema: any.schema.json, types: application/json }} }}\n      \
                 once: GET /size/5\n"
            )
        };
        let apis = format!(
            "login: {{ partners: {{ api_key: X-API-Key, store: partners.keys, pepper: \"secret:file:pepper\" }} }}\n\
             apis:\n{}{}",
            api("one"),
            api("two")
        );
        let mut between = Between::start_with(false, place, &apis).await;
        let json = |path: String, body: &'static str| {
            Ask::post(path, body, true).with("content-type", "application/json")
        };
        let mut all = Vec::new();
        each_pair!(between, |client, base, pair| {
            let key = || key.trim().to_owned();
            let mut found = Vec::new();
            let once = || Ask::get(format!("{base}/size/5")).with("x-turn", pair.clone());
            for ask in [
                once(),
                once().with("x-api-key", "rwk_nobody"),
                json(format!("{base}/seen"), "{}").with("x-api-key", key()),
                json(format!("{base}/seen"), "{\"topic\":1,\"topic\":2}").with("x-api-key", key()),
                json(format!("{base}/seen"), "{").with("x-api-key", key()),
                Ask::post(format!("{base}/seen"), "hello", true).with("x-api-key", key()),
                Ask::post(format!("{base}/seen"), pattern(2_000), true)
                    .with("content-type", "application/json")
                    .with("x-api-key", key()),
                Ask::post(format!("{base}/seen"), pattern(2_000), false)
                    .with("content-type", "application/json")
                    .with("x-api-key", key()),
                Ask::get(format!("{base}/seen")).with("x-api-key", key()),
                Ask::get(format!("{base}/nowhere")).with("x-api-key", key()),
                once().with("x-api-key", key()),
                once().with("x-api-key", key()),
            ] {
                let got = client.ask(&ask).await;
                assert!(got.whole, "{pair}: {got:?}");
                found.push(got.refusal());
            }
            let came = between.one.came().len() + between.two.came().len();
            assert_eq!(came, 1, "{pair}: only what was let reaches an origin");
            all.push((pair, found));
        });
        let statuses: Vec<u16> = all[0].1.iter().map(|(status, _)| *status).collect();
        assert_eq!(statuses, [401, 401, 422, 400, 400, 415, 413, 413, 405, 404, 200, 429], "{:?}", all[0]);
        for (pair, found) in &all[1..] {
            assert_eq!(*found, all[0].1, "{pair}");
        }
    });
}

/// What the log says of a request is the same too, but for what is spoken.
#[test]
fn the_log_says_the_same_of_all() {
    run(async {
        let between = Between::start(false).await;
        each_pair!(between, |client, base, pair| {
            assert_eq!(
                client.ask(&Ask::post(format!("{base}/echo?a"), "hello", true)).await.status,
                200,
                "{pair}"
            );
        });
        let log = between.node.log(4);
        for protocol in ["HTTP/1.1", "HTTP/2"] {
            assert_eq!(
                log.iter().filter(|entry| entry["protocol"] == protocol).count(),
                2,
                "{protocol}: {log:?}"
            );
        }
        for entry in &log {
            assert_eq!((&entry["status"], &entry["method"]), (&200.into(), &"POST".into()), "{entry}");
            assert_eq!((&entry["host"], &entry["tries"]), (&NAME.into(), &1.into()), "{entry}");
            assert!(entry.get("reason").is_none(), "{entry}");
            for bytes in ["bytes_in", "bytes_out"] {
                assert!(entry[bytes].as_u64() > Some(5), "{bytes}: {entry}");
            }
        }
        assert_eq!(log.len(), 4);
    });
}

/// Writes the configuration anew with these protocols, and waits until it runs.
fn reload(node: &mut Node, config: &str, protocols: &str) {
    let listen = format!("{{ address: \"127.0.0.1:0\", tls: none, protocols: {protocols} }}");
    let next = node.place.write("next.yaml", &text_of(&listen, config));
    std::fs::rename(next, node.place.path().join("ringwall.yaml")).expect("renamed");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_ringwall"));
    command.args(["reload", "--wait", "--control"]).arg(node.place.path().join("control.sock"));
    assert!(command.output().expect("ringwall reload").status.success());
}

const FIXED: &str = "apis: { a: { operations: { one: { match: GET /one, respond: { status: 200, body: here } } }, \
                     allow: [{ who: anyone }] } }";

/// A connection of HTTP/2 that has rested for a second is looked at, and ended if what it speaks is spoken no more, before anybody asks
/// on it again. Some less, as the clocks differ.
const RESTS: Duration = Duration::from_millis(900);

#[test]
fn what_a_reload_takes_away_ends_with_the_next_answer() {
    run(async {
        let mut node = Node::start_in(Place::new(), PLAIN, FIXED);
        let to = To { address: node.address, trust: None };
        for (kept, speaks) in [("http1", Speaks::Http2), ("http2", Speaks::Http1)] {
            let begun = Instant::now();
            let [one, two] = loop {
                reload(&mut node, FIXED, "[http1, http2]");
                let mut clients =
                    [Client::connect(Speaks::Http1, &to).await, Client::connect(Speaks::Http2, &to).await];
                let rests_since = Instant::now();
                for client in &mut clients {
                    let got = client.ask(&Ask::get("/one")).await;
                    assert_eq!((got.status, got.keeps), (200, true));
                }
                reload(&mut node, FIXED, kept);
                let mut answered = true;
                for client in &mut clients {
                    answered &= client.ask(&Ask::get("/one")).await.status == 200;
                }
                if answered {
                    break clients;
                }
                assert!(rests_since.elapsed() >= RESTS, "who was let in before is answered once more");
                assert!(begun.elapsed() < PATIENCE, "the machine is too slow to see that");
            };
            let (goes, mut stays) = if speaks == Speaks::Http1 { (one, two) } else { (two, one) };
            assert!(soon("the end", goes.ends()).await, "{speaks:?}");
            let got = stays.ask(&Ask::get("/one")).await;
            assert_eq!((got.status, got.keeps), (200, true), "the other stays");
        }
    });
}

#[test]
fn a_node_that_drains_ends_what_is_under_way_first() {
    run(async {
        for outer in BOTH {
            let mut between = Between::start(false).await;
            let mut idle = between.client(outer).await;
            assert_eq!(idle.ask(&Ask::get("/one/size/5")).await.status, 200);
            let mut busy = between.client(outer).await;
            let _ = between.one.came();
            // A body that has not ended: the answer to it is under way.
            let ask = Ask::get("/two/stream/3000000");
            let asking = busy.ask(&ask);
            let ending = async {
                between.two.next().await;
                between.node.signal("TERM");
            };
            let (got, ()) = tokio::join!(asking, ending);
            assert_eq!((got.status, got.whole, got.body.len()), (200, true, 3_000_000), "{outer:?}");
            assert!(soon("the end of the idle one", idle.ends()).await, "{outer:?}");
            assert!(soon("the end of the busy one", busy.ends()).await, "{outer:?}");
            let status = between.node.child.wait().expect("it ends");
            assert!(status.success(), "{status}");
        }
    });
}
