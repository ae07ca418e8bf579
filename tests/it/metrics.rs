//! Every family of `/metrics` has a source: after traffic of all kinds none is empty that should not be.

use std::net::TcpListener;
use std::process::Command;
use std::time::Instant;

use base64_simd::URL_SAFE_NO_PAD as BASE64URL;
use ring::hmac;
use ringwall::observe::{FAMILIES, Family};

use crate::node::{Client, Node, Origin, PATIENCE, Place};

const SECRET: [u8; 32] = [7; 32];
/// Different keys of each kind.
const KEYS: usize = 60;

/// A token of the login `people` below.
fn token(subject: &str, tenant: &str, secret: &[u8]) -> String {
    let text = |text: &str| BASE64URL.encode_to_string(text.as_bytes());
    let claims = format!(
        r#"{{"iss":"https://i.example/","aud":"orders","sub":"{subject}","exp":4000000000,"org":{{"tenant":"{tenant}"}}}}"#
    );
    let signed = format!("{}.{}", text(r#"{"alg":"HS256","kid":"k"}"#), text(&claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", BASE64URL.encode_to_string(tag.as_ref()))
}

/// A place with the key set of [`token`].
fn place() -> Place {
    let place = Place::new();
    let key = BASE64URL.encode_to_string(SECRET);
    place.write("keys.json", &format!(r#"{{"keys":[{{"kty":"oct","alg":"HS256","kid":"k","k":"{key}"}}]}}"#));
    place
}

const LOGIN: &str = "login: { people: { jwt: keys.json, issuer: \"https://i.example/\", audience: orders, algorithms: [HS256] } }";

fn ask(client: &mut Client, path: &str, token: &str) -> (u16, String) {
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n\r\n"));
    let answer = client.answer();
    let reason = if answer.status == 200 { String::new() } else { answer.reason() };
    (answer.status, reason)
}

/// The sum of a family's samples on a page, buckets left out.
fn sum(page: &str, name: &str) -> Option<f64> {
    let samples = page.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let rest = rest.strip_prefix("_count").unwrap_or(rest);
        (rest.starts_with('{') || rest.starts_with(' '))
            .then(|| line.rsplit(' ').next()?.parse::<f64>().ok())?
    });
    samples.fold(None, |sum, value| Some(sum.unwrap_or(0.0) + value))
}

#[test]
fn every_family_has_a_source() {
    let origin = Origin::plain();
    // A target where nobody listens, so that a request is sent again.
    let dead = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("bound");
    let place = place();
    let (asking, list_ends_s) = crate::client_certificates::asking(&place, "127.0.0.4");
    let listen = format!(
        "[{{ address: \"127.0.0.1:0\", tls: none }}, {{ address: \"127.0.0.3:0\", tls: self-signed }}, {asking}]"
    );
    let config = format!(
        "upstreams:\n  app: {{ targets: [\"http://{}\", \"http://{dead}\"], balance: round_robin,\n    breaker: {{ requests: 100, failures: 100% }} }}\n  \
         listed: \"file:targets.yaml\"\n{LOGIN}
apis:
  app:
    to: app
    operations: {{ one: GET /one, two: GET /two }}
    allow: [{{ who: people }}]
    limits:
      - {{ per: \"header:X-Key\", rate: 1/min, burst: 20, do: [one] }}
      - {{ per: identity, rate: 3/min, do: [two] }}
audit: {{ file: audit.jsonl }}",
        origin.address
    );
    place.write("targets.yaml", "[]");
    let node = Node::start_in(place, &listen, &config);

    // One connection, so one core: what it has cached is asked again.
    let mut client = node.connect();
    let good = token("ann", "t1", &SECRET);
    for _ in 0..4 {
        assert_eq!(ask(&mut client, "/one", &good).0, 200);
    }
    let bad = token("ann", "t1", b"another secret, as long as it gets");
    for _ in 0..2 {
        assert_eq!(ask(&mut client, "/one", &bad), (401, "token_signature".to_owned()));
    }
    for _ in 0..3 {
        assert_eq!(ask(&mut client, "/two", &good).0, 200);
    }
    assert_eq!(ask(&mut client, "/two", &good), (429, "rate_exceeded".to_owned()));
    // Keys enough that the sample of a table which the metric takes holds some.
    for number in 0..KEYS {
        let another = token(&format!("user{number}"), "t1", &SECRET);
        assert_eq!(ask(&mut client, "/two", &another).0, 200);
        client.send(format!(
            "GET /one HTTP/1.1\r\nHost: a\r\nX-Key: {number}\r\nAuthorization: Bearer {good}\r\n\r\n"
        ));
        assert_eq!(client.answer().status, 200);
    }
    let over_tls = Command::new("curl")
        .args(["-s", "-k", "-o", "/dev/null", "-w", "%{http_code}"])
        .arg(format!("https://{}/one", node.addresses[1]))
        .output()
        .expect("curl");
    assert_eq!(over_tls.stdout, b"401");

    // Another configuration, for the cores to go over to.
    node.signal("HUP");

    // What should not have happened.
    let quiet = [
        Family::AcceptsPaused,
        Family::UpstreamEjected,
        Family::UpstreamInFlight,
        Family::BreakerOpen,
        Family::ExceptionsExpired,
        Family::LogRecordsLost,
        Family::AuditRecordsLost,
        Family::LogRecordsTruncated,
        Family::LogWriteErrors,
        Family::NoticesLost,
        Family::CountsLost,
        Family::NamesWithoutId,
        Family::Panics,
        Family::Tunnels,
        Family::Blocks,
    ];
    // Some are told ten times a second, and the busy ratio is taken over a second.
    let deadline = Instant::now() + PATIENCE;
    let page = loop {
        let page = crate::node::fetch(&node, "/metrics");
        let waiting: Vec<_> = FAMILIES
            .iter()
            .filter(|spec| {
                let found = sum(&page, spec.name);
                if quiet.contains(&spec.family) {
                    found != Some(0.0)
                } else {
                    found.is_none_or(|sum| sum <= 0.0)
                }
            })
            .map(|spec| spec.name)
            .collect();
        if waiting.is_empty() {
            break page;
        }
        assert!(Instant::now() < deadline, "{waiting:?} in\n{page}");
        std::thread::yield_now();
    };
    for line in [
        format!("ringwall_token_cache_total{{status=\"hit\"}} {}", 7 + KEYS).as_str(),
        format!("ringwall_token_cache_total{{status=\"miss\"}} {}", 2 + KEYS).as_str(),
        "ringwall_token_cache_total{status=\"refused\"} 1",
        "ringwall_refusals_total{reason=\"rate_exceeded\",mode=\"enforce\"} 1",
        "ringwall_upstream_requests_total{upstream=\"app\",",
        "ringwall_retries_total{upstream=\"app\"} ",
        "ringwall_limit_table_used_ratio{policy=\"address\"} 0.0",
        "ringwall_limit_table_used_ratio{policy=\"identity\"} 0.0",
    ] {
        assert!(page.contains(line), "no {line} in\n{page}");
    }
    let open =
        format!("ringwall_upstream_connections{{upstream=\"app\",target=\"http://{}\"}} 1", origin.address);
    assert!(page.contains(&open), "no {open} in\n{page}");
    let closed = format!("ringwall_upstream_connections{{upstream=\"app\",target=\"http://{dead}\"}} 0");
    assert!(page.contains(&closed), "no {closed} in\n{page}");
    let expiry = format!("ringwall_certificate_expiry_timestamp_seconds{{listener=\"{}\"}} ", "127.0.0.3:0");
    let end = page.lines().find_map(|line| line.strip_prefix(&expiry)?.parse::<f64>().ok());
    assert!(end.is_some_and(|end| end > 1.7e9 && end < 1e11), "{end:?} in\n{page}");
    let list =
        format!("ringwall_client_crl_expiry_timestamp_seconds{{listener=\"127.0.0.4:0\"}} {list_ends_s}\n");
    assert!(page.contains(&list), "no {list} in\n{page}");
}

#[test]
fn a_limit_counts_by_a_claim_of_the_token() {
    let origin = Origin::plain();
    let config = format!(
        "upstreams: {{ app: \"http://{}\" }}\n{LOGIN}
apis:
  app:
    to: app
    raw: \"a test\"
    allow: [{{ who: people }}]
    limits: [{{ per: \"claim:/org/tenant\", rate: 2/min }}]",
        origin.address
    );
    let node = Node::start_in(place(), "{ address: \"127.0.0.1:0\", tls: none }", &config);
    let mut client = node.connect();
    assert_eq!(ask(&mut client, "/", &token("ann", "t1", &SECRET)).0, 200);
    assert_eq!(ask(&mut client, "/", &token("bob", "t1", &SECRET)).0, 200);
    // The tenant's two are spent, whoever asks, also by a token that is cached.
    for subject in ["ann", "bob", "eve"] {
        let (status, reason) = ask(&mut client, "/", &token(subject, "t1", &SECRET));
        assert_eq!((status, reason.as_str()), (429, "rate_exceeded"), "{subject}");
    }
    assert_eq!(ask(&mut client, "/", &token("ann", "t2", &SECRET)).0, 200);
}

#[test]
fn the_log_has_the_canonical_path_and_a_redacted_query() {
    let origin = Origin::plain();
    let node = Node::start(&format!(
        "upstreams: {{ app: \"http://{}\" }}\napis: {{ app: {{ to: app, raw: \"a test\", allow: [{{ who: anyone }}] }} }}",
        origin.address
    ));
    let jwt = token("ann", "t1", &SECRET);
    // On one connection, hence on one core: the log keeps the order of a core, not that of the node.
    let mut client = node.connect();
    for target in
        ["/a/%7Eb?page=2&access_token=hunter2&state=1".to_owned(), format!("/x?next={jwt}"), "/y".to_owned()]
    {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.answer().status, 200, "{target}");
    }
    let paths: Vec<String> =
        node.log(3).iter().map(|line| line["path"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!(paths[0], "/a/~b?page=2&access_token=REDACTED&state=1");
    assert!(paths[1].starts_with("/x?next=") && !paths[1].contains(&jwt[..40]), "{}", paths[1]);
    assert_eq!(paths[2], "/y");
}
