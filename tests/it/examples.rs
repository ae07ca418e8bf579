//! The examples of `config/examples` at work: the committed text, changed only where a machine of tests differs from the one
//! that it is written for, with real keys, certificates, upstreams and clients.

use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use crate::control_issuer::eventually;
use crate::nginx::{Nginx, free_address};
use crate::node::{Answer, Node, Place, fetch, new_key};
use crate::openid::{ORDERS, Provider};

const DROP_IN: &str = include_str!("../../config/examples/drop-in-proxy.yaml");
const KEYS: &str = include_str!("../../config/examples/keys-and-limits.yaml");
const TOKENS: &str = include_str!("../../config/examples/tokens.yaml");
const SCHEMA: &str = include_str!("../../src/cli/demo/order.schema.json");

const ORDER: &str = r#"{"customer":"acme","items":[{"sku":"ABC-1234","quantity":2}]}"#;

/// The text of an example with each of these words exchanged; each stands there once. What is added keeps tests out of each
/// other's way.
fn adapted(example: &str, changes: &[(&str, &str)]) -> String {
    let mut text = example.to_owned();
    for (written, here) in changes {
        assert_eq!(text.matches(written).count(), 1, "{written} in\n{example}");
        text = text.replace(written, here);
    }
    text + "node: { metrics: \"127.0.0.2:0\", control: control.sock }\n"
}

fn openssl(place: &Place, arguments: &str) -> String {
    let output = Command::new("openssl").args(arguments.split(' ')).current_dir(place.path()).output();
    let output = output.expect("openssl");
    assert!(output.status.success(), "{arguments}: {output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Makes an authority in `ca.pem` and `ca.key`.
fn authority(place: &Place) -> PathBuf {
    openssl(
        place,
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=ca -keyout ca.key \
         -out ca.pem",
    );
    place.path().join("ca.pem")
}

/// Makes a certificate of that authority in `NAME.pem` and `NAME.key`.
fn certificate(place: &Place, name: &str, subject: &str) {
    openssl(
        place,
        &format!(
            "req -x509 -CA ca.pem -CAkey ca.key -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 \
             -subj /CN={name} -addext subjectAltName={subject} -addext basicConstraints=critical,CA:FALSE \
             -keyout {name}.key -out {name}.pem"
        ),
    );
}

/// curl as an outsider has it, who knows a name and an authority.
struct Outsider {
    host: &'static str,
    port: u16,
    authority: PathBuf,
}

impl Outsider {
    fn of(node: &Node, host: &'static str) -> Outsider {
        Outsider { host, port: node.address.port(), authority: node.place.path().join("ca.pem") }
    }

    fn curl(&self, host: &str, path: &str, more: &[&str]) -> std::process::Output {
        let (port, authority) = (self.port, &self.authority);
        Command::new("curl")
            .args(["-s", "-S", "--max-time", "20", "--path-as-is", "--cacert"])
            .arg(authority)
            .args(["--resolve", &format!("{host}:{port}:127.0.0.1")])
            .args(more)
            .arg(format!("https://{host}:{port}{path}"))
            .output()
            .expect("curl")
    }

    /// The last head and its body.
    fn ask(&self, path: &str, more: &[&str]) -> Answer {
        let more = [&["-i"], more].concat();
        let output = self.curl(self.host, path, &more);
        let mut rest = &output.stdout[..];
        loop {
            let end = rest.windows(4).position(|four| four == b"\r\n\r\n");
            let end = end.unwrap_or_else(|| panic!("{path}: {output:?}")) + 4;
            let head = String::from_utf8(rest[..end].to_vec()).expect("text");
            let status: u16 =
                head.split(' ').nth(1).and_then(|digits| digits.parse().ok()).expect("a status");
            rest = &rest[end..];
            if status >= 200 {
                return Answer { status, head, body: rest.to_vec() };
            }
        }
    }

    /// Status and `Retry-After` of many requests on one connection, as fast as they are answered.
    fn burst(&self, path: &str, count: u32, more: &[&str]) -> Vec<(u16, Option<u32>)> {
        let head = ["-o", "/dev/null", "-w", "%{http_code} %header{retry-after}\n"];
        let path = format!("{path}?n=[1-{count}]");
        let output = self.curl(self.host, &path, &[&head, more].concat());
        let text = String::from_utf8(output.stdout).expect("text");
        let answers: Vec<_> = text
            .lines()
            .map(|line| {
                let (status, after) = line.split_once(' ').expect("two words");
                (status.parse().expect("a status"), after.parse().ok())
            })
            .collect();
        assert_eq!(answers.len(), count as usize, "{text}");
        answers
    }
}

#[test]
fn the_drop_in_proxy_serves_every_path_of_its_host_and_no_other_host() {
    let place = Place::new();
    authority(&place);
    certificate(&place, "shop", "DNS:shop.example.com");
    let nginx = Nginx::start(
        "location / { add_header X-From nginx always; return 200 \"$request_method $request_uri $http_host\"; }
         location /missing { return 404 \"no such page\"; }",
    );
    let target = format!("http://{}", nginx.address);
    let text = adapted(DROP_IN, &[("[::]:443", "127.0.0.1:0"), ("http://127.0.0.1:3000", &target)]);
    let node = Node::start_whole(place, &text, &[]);
    let outsider = Outsider::of(&node, "shop.example.com");
    let host = format!("shop.example.com:{}", outsider.port);

    for path in ["/", "/a/b/c?d=e&f=g", "/%C3%A9t%C3%A9", "/admin/", "/x.php?q=1"] {
        let answer = outsider.ask(path, &[]);
        assert_eq!((answer.status, answer.text()), (200, format!("GET {path} {host}")));
        assert_eq!(answer.field("X-From"), Some("nginx"));
    }
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let answer = outsider.ask("/cart", &["-X", method, "-d", "a=b"]);
        assert_eq!((answer.status, answer.text()), (200, format!("{method} /cart {host}")));
    }
    let missing = outsider.ask("/missing", &[]);
    assert_eq!((missing.status, missing.text().as_str()), (404, "no such page"), "the application's own 404");

    let other = outsider.ask("/", &["-H", "Host: other.example.com"]);
    assert_eq!(other.refusal(), (421, "host_unknown".to_owned()));
    // Whoever asks for another name gets no certificate at all.
    let unnamed = outsider.curl("other.example.com", "/", &[]);
    assert_eq!(unnamed.status.code(), Some(35), "{unnamed:?}");
    assert!(!nginx.log().contains("other.example.com"));
}

/// The example with keys, in front of two targets.
struct Shop {
    node: Node,
    outsider: Outsider,
    targets: [Nginx; 2],
}

impl Shop {
    /// Runs it with a key for each identity and its roles.
    fn start<const N: usize>(keys: [(&str, &[&str]); N]) -> (Shop, [String; N]) {
        let place = Place::new();
        authority(&place);
        certificate(&place, "api", "DNS:api.example.com");
        let pepper = openssl(&place, "rand -base64 32");
        let pepper = place.write("pepper", &pepper);
        let keys = keys.map(|(identity, roles)| new_key(place.path(), identity, roles));
        place.write("order.schema.json", SCHEMA);
        // Each says which it is and what it was told, but for the health page.
        let server = "location = /healthz { return 204; }
             location / {
               set $code 200; if ($request_method = POST) { set $code 201; }
               if ($code = 201) { return 201 \"$server_addr $request_uri [$http_x_api_key] $http_x_ringwall_subject\"; }
               return 200 \"$server_addr $request_uri [$http_x_api_key] $http_x_ringwall_subject\";
             }";
        let targets = [Nginx::start(server), Nginx::start(server)];
        let text = adapted(
            KEYS,
            &[
                ("[::]:443", "127.0.0.1:0"),
                ("http://10.0.3.11:8080", &format!("http://{}", targets[0].address)),
                ("http://10.0.3.12:8080", &format!("http://{}", targets[1].address)),
                ("/etc/ringwall/pepper", pepper.to_str().expect("text")),
                ("/var/log/ringwall/access.jsonl", "access.jsonl"),
            ],
        );
        let node = Node::start_whole(place, &text, &[]);
        let outsider = Outsider::of(&node, "api.example.com");
        (Shop { node, outsider, targets }, keys)
    }

    fn list(&self, key: &str) -> Answer {
        self.outsider.ask("/v1/orders", &["-H", &field(key)])
    }

    fn create(&self, key: &str, order: &str) -> Answer {
        let json = "Content-Type: application/json";
        self.outsider.ask("/v1/orders", &["-H", &field(key), "-H", json, "--data-binary", order])
    }

    /// The target that answers, by its address.
    fn target(&self, key: &str) -> Option<String> {
        let answer = self.list(key);
        (answer.status == 200).then(|| answer.text().split(' ').next().expect("a word").to_owned())
    }
}

fn field(key: &str) -> String {
    format!("X-API-Key: {key}")
}

#[test]
fn keys_open_what_their_roles_say_and_bodies_must_fit_the_schema() {
    let (shop, [acme, mall]) = Shop::start([("acme", &[]), ("mall", &["reseller"])]);
    let outsider = &shop.outsider;

    let listed = shop.list(&acme);
    assert_eq!(listed.status, 200);
    // The base is kept, who it is is told, and the key is not.
    assert!(listed.text().ends_with(" /v1/orders [] acme"), "{}", listed.text());
    let one = outsider.ask("/v1/orders/17", &["-H", &field(&acme)]);
    assert_eq!(one.status, 200);
    assert!(one.text().ends_with(" /v1/orders/17 [] acme"), "{}", one.text());

    let answers = [
        (outsider.ask("/v1/orders", &[]), 401, "credential_missing"),
        (shop.list("rwk_nothing"), 401, "api_key_malformed"),
        (shop.create(&acme, ORDER), 403, "role_missing"),
        (outsider.ask("/v1/invoices", &["-H", &field(&acme)]), 404, "route_unknown"),
        (outsider.ask("/orders", &["-H", &field(&acme)]), 404, "route_unknown"),
        (outsider.ask("/v1/orders", &["-H", &field(&acme), "-X", "DELETE"]), 405, "method_unknown"),
        (shop.create(&mall, "{\"customer\":"), 400, "body_json"),
    ];
    for (answer, status, reason) in &answers {
        assert_eq!(answer.refusal(), (*status, (*reason).to_owned()));
    }
    assert!(answers[0].0.field("WWW-Authenticate").is_some(), "{}", answers[0].0.head);
    let allowed = answers[5].0.field("Allow").expect("what is allowed");
    assert!(allowed.contains("GET") && allowed.contains("POST") && !allowed.contains("DELETE"), "{allowed}");

    let created = shop.create(&mall, ORDER);
    assert_eq!(created.status, 201);
    assert!(created.text().ends_with(" /v1/orders [] mall"), "{}", created.text());
    let invalid = shop.create(&mall, &ORDER.replace("\"quantity\":2", "\"quantity\":0"));
    assert_eq!(invalid.refusal(), (422, "body_schema".to_owned()));
    let problem: serde_json::Value = serde_json::from_slice(&invalid.body).expect("a problem");
    assert_eq!(problem["errors"][0]["pointer"], "/items/0/quantity", "{problem}");

    // The bound is on the byte; a schema has nothing to say about spaces.
    let fitting = ORDER.to_owned() + &" ".repeat((64 << 10) - ORDER.len());
    assert_eq!(shop.create(&mall, &fitting).status, 201);
    let big = shop.node.place.write("big.json", &(fitting + " "));
    for framing in ["Expect:", "Transfer-Encoding: chunked"] {
        let upload = format!("@{}", big.display());
        let more = ["-H", &field(&mall), "-H", framing, "-H", "Content-Type: application/json"];
        let refused = outsider.ask("/v1/orders", &[&more[..], &["--data-binary", &upload]].concat());
        assert_eq!(refused.refusal(), (413, "body_size".to_owned()), "{framing}");
    }

    let lines = shop.node.log(14);
    for (id, status) in
        [("key-of-acme", 200), ("key-of-acme", 403), ("key-of-mall", 201), ("key-of-mall", 413)]
    {
        assert!(lines.iter().any(|line| line["key_id"] == id && line["status"] == status), "{id} {status}");
    }
    let log = std::fs::read_to_string(shop.node.place.path().join("access.jsonl")).expect("a log");
    let store = std::fs::read_to_string(shop.node.place.path().join("partners.keys")).expect("a store");
    for key in [&acme, &mall] {
        // Neither whole nor in its secret part.
        let secret = key.rsplit('_').next().expect("a part");
        assert!(secret.len() > 40 && !log.contains(secret) && !store.contains(secret), "{log}");
    }
    assert!(!log.contains("rwk_"), "{log}");
    let both = shop.targets[0].log() + &shop.targets[1].log();
    assert_eq!(both.matches("\"POST ").count(), 2, "what is refused is not sent: {both}");
}

#[test]
fn a_key_works_as_soon_as_it_is_made_and_no_longer_than_it_is_kept() {
    let (mut shop, [acme]) = Shop::start([("acme", &[])]);
    assert_eq!(shop.list(&acme).status, 200);
    let place = shop.node.place.path().to_owned();
    let mall = new_key(&place, "mall", &["reseller"]);
    shop.node.wait_for("RW-6016");
    assert_eq!(shop.list(&mall).status, 200);
    let revoke = Command::new(env!("CARGO_BIN_EXE_ringwall"))
        .args(["keys", "revoke", "key-of-acme", "--store", "partners.keys"])
        .current_dir(place)
        .output()
        .expect("ringwall keys");
    assert!(revoke.status.success(), "{revoke:?}");
    shop.node.wait_for("RW-6016");
    assert_eq!(shop.list(&acme).status, 401);
    assert_eq!(shop.create(&mall, ORDER).status, 201);
}

#[test]
fn an_address_has_fifty_requests_a_second_whoever_asks() {
    let (shop, [_]) = Shop::start([("acme", &[])]);
    let mut answers = Vec::new();
    eventually("a refusal", || {
        answers.extend(shop.outsider.burst("/v1/orders", 200, &[]));
        answers.iter().any(|(status, _)| *status == 429)
    });
    for (count, (status, after)) in answers.iter().enumerate() {
        match status {
            401 => assert_eq!(*after, None),
            429 => assert!(count >= 50 && after.is_some_and(|after| after >= 1), "{count}: {after:?}"),
            _ => panic!("{status}"),
        }
    }
    let lines = shop.node.log(answers.len());
    assert!(lines.iter().any(|line| line["status"] == 429 && line["reason"] == "rate_exceeded"));
    // It comes back by itself.
    eventually("the next second", || shop.outsider.ask("/v1/orders", &[]).status == 401);
}

#[test]
fn a_key_has_its_burst_and_another_one_has_its_own() {
    let (shop, [acme, mall]) = Shop::start([("acme", &[]), ("mall", &["reseller"])]);
    let begun = Instant::now();
    let answers = shop.outsider.burst("/v1/orders", 40, &["-H", &field(&acme)]);
    assert!(answers[..20].iter().all(|answer| *answer == (200, None)), "{answers:?}");
    let later = begun.elapsed().as_secs() as usize * 100 / 60 + 2;
    let admitted = answers.iter().filter(|(status, _)| *status == 200).count();
    assert!(admitted <= 20 + later && admitted < 40, "{later}: {answers:?}");
    assert!(answers.iter().all(|(status, after)| (*status == 429) == after.is_some()), "{answers:?}");

    // The third limit of the example only looks on: five orders a minute, and nobody is refused a sixth.
    for _ in 0..7 {
        let created = shop.create(&mall, ORDER);
        assert_eq!(created.status, 201);
        assert!(created.field("RateLimit").is_some(), "{}", created.head);
    }
    let observed = "ringwall_policy_decisions_total{policy=\"limits\",mode=\"observe\",status=\"refused\"}";
    let metrics = fetch(&shop.node, "/metrics");
    assert!(metrics.lines().any(|line| line.starts_with(observed)), "{metrics}");
}

#[test]
fn a_target_that_does_not_answer_its_health_page_is_left_out_until_it_does() {
    let dead = |dead: usize| {
        let (mut shop, [acme]) = Shop::start([("acme", &[])]);
        let addresses = [0, 1].map(|at: usize| shop.targets[at].address.ip().to_string());
        let (gone, left) = (&addresses[dead], &addresses[1 - dead]);
        let both = |shop: &Shop| {
            for address in &addresses {
                eventually("a turn of each", || shop.target(&acme).as_ref() == Some(address));
            }
        };
        both(&shop);
        shop.targets[dead].end();
        assert!(shop.node.wait_for("RW-6042").contains(gone));
        for _ in 0..4 {
            assert_eq!(shop.target(&acme).as_ref(), Some(left));
        }
        shop.targets[dead].begin();
        assert!(shop.node.wait_for("RW-6043").contains(gone));
        both(&shop);
        for target in &shop.targets {
            assert!(target.log().contains("\"GET /healthz HTTP/1.1\" 204"), "{}", target.log());
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| dead(0));
        scope.spawn(|| dead(1));
    });
}

#[test]
fn people_with_tokens_of_a_provider_reach_an_upstream_with_tls_of_its_own() {
    let place = Place::new();
    let ca = authority(&place);
    certificate(&place, "api", "DNS:api.example.com");
    certificate(&place, "provider", "IP:127.0.0.1");
    let file = |name: &str| place.path().join(name);
    let provider = Provider::start_tls(&file("provider.pem"), &file("provider.key"), &ca);
    let address = free_address();
    let inside = Place::new();
    let internal = std::fs::read_to_string(authority(&inside)).expect("PEM");
    certificate(&inside, "orders", &format!("IP:{}", address.ip()));
    place.write("internal-ca.pem", &internal);
    let server = format!(
        "ssl_certificate {dir}/orders.pem; ssl_certificate_key {dir}/orders.key;
         location / {{ return 200 \"$request_uri $http_x_user [$http_authorization]\"; }}",
        dir = inside.path().display()
    );
    let _nginx = Nginx::start_at(address, "ssl", &server);
    let text = adapted(
        TOKENS,
        &[
            ("[::]:443", "127.0.0.1:0"),
            ("[::]:80", "127.0.0.1:0"),
            ("https://orders.internal:8443", &format!("https://{address}")),
            ("https://login.example.com/", &provider.issuer),
        ],
    );
    // The authority of the provider is one that this machine trusts.
    let node = Node::start_whole(place, &text, &[("SSL_CERT_FILE", &ca)]);
    let outsider = Outsider::of(&node, "api.example.com");
    let authorization = |scope| format!("Authorization: Bearer {}", provider.token(ORDERS, scope));

    let read = authorization("orders.read");
    let listed = outsider.ask("/v2/orders?state=open", &["-H", &read, "-H", "X-User: mallory"]);
    assert_eq!((listed.status, listed.text().as_str()), (200, "/api/orders?state=open shop []"));
    let refused = outsider.ask("/v2/orders", &["-H", &read, "-d", "{}"]);
    assert_eq!(refused.refusal(), (403, "scope_missing".to_owned()));
    let created = outsider.ask("/v2/orders", &["-H", &authorization("orders.write"), "-d", "{}"]);
    assert_eq!((created.status, created.text().as_str()), (200, "/api/orders shop []"));
    assert_eq!(outsider.ask("/v2/orders", &[]).status, 401);

    let plain = node.addresses[1];
    let moved = Command::new("curl")
        .args(["-s", "-o", "/dev/null", "-w", "%{http_code} %{redirect_url}"])
        .args(["-H", "Host: api.example.com"])
        .arg(format!("http://{plain}/v2/orders?state=open"))
        .output()
        .expect("curl");
    let moved = String::from_utf8_lossy(&moved.stdout).into_owned();
    assert_eq!(moved, "308 https://api.example.com/v2/orders?state=open");
}
