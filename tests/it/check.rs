//! What `ringwall check` tells an operator: the examples pass, and each of over a hundred slips in them is reported with
//! the right code at the right place, alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use jiff::civil::Date;
use ringwall::config::{Errors, Loaded, Loader};

use crate::client_certificates::{Authority, now_s};
use crate::node::{Place, new_key};

const DROP_IN: &str = include_str!("../../config/examples/drop-in-proxy.yaml");
const KEYS: &str = include_str!("../../config/examples/keys-and-limits.yaml");
const TOKENS: &str = include_str!("../../config/examples/tokens.yaml");
const OBSERVE: &str = include_str!("../../config/examples/observe-first.yaml");
const CLOSED: &str = include_str!("../../config/examples/closed-corner.yaml");
const BALANCER: &str = include_str!("../../config/examples/behind-a-load-balancer.yaml");
const BOUNDS: &str = include_str!("../../config/examples/bounds-on-clients.yaml");
const CERTIFICATES: &str = include_str!("../../config/examples/client-certificates.yaml");
const MAINTENANCE: &str = include_str!("../../config/examples/maintenance.yaml");
const UPLOADS: &str = include_str!("../../config/examples/uploads.yaml");
const SLASHES: &str = include_str!("../../config/examples/encoded-slash.yaml");
const WEBSOCKET: &str = include_str!("../../config/examples/websocket.yaml");

/// The third of the smallest forms that must work, most of which belongs to a later version.
const OPENAPI: &str = r#"
ringwall: 1
listen:
  - { address: "[::]:443", domains: [api.example.com], tls: { cert: api.pem, key: api.key } }
  - { address: "[::]:80", redirect: https }
upstreams:
  orders:
    targets: ["https://orders.internal:8443"]
    ca: internal-ca.pem
    health: { get: /healthz, every: 5s }
login:
  people:
    jwt: https://login.example.com/keys.json
    issuer: https://login.example.com/
    audience: orders-api
  partners: { api_key: X-API-Key, store: partners.keys, pepper: "secret:file:/etc/ringwall/pepper" }
apis:
  orders:
    spec: orders.openapi.yaml
    base: /v2
    to: orders
    security: { OAuth: people, ApiKey: partners }
    allow:
      - { who: people, scope: orders.read, do: [listOrders, getOrder] }
      - { who: people, scope: orders.write, do: [createOrder] }
      - { who: partners, role: reseller, do: [listOrders] }
    limits:
      - { per: identity, rate: 100/min, burst: 20 }
    responses: { body: refuse, properties: strip, mode: observe }
    version: { sunset: 2027-12-31 }
"#;

fn check(text: &str) -> Result<Loaded, Errors> {
    let environment = |name: &str| (name == "PEPPER").then(|| "from-the-environment".to_owned());
    let files = |_: &Path| -> io::Result<Vec<u8>> { Ok(text.as_bytes().to_vec()) };
    let today = Date::constant(2026, 11, 21);
    let loader = Loader { environment: &environment, files: &files, today };
    loader.load(Path::new("ringwall.yaml")).and_then(Loaded::refuse_expired)
}

/// (code, place in the text) of each error.
fn found(text: &str) -> Vec<(u16, usize)> {
    match check(text) {
        Ok(_) => Vec::new(),
        Err(errors) => errors.iter().map(|e| (e.code.number(), e.primary.span.start as usize)).collect(),
    }
}

/// The files of `config/examples` and what stands in them: whoever adds one adds it to the tests of all.
fn examples() -> BTreeMap<String, String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/examples");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: PathBuf| {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(&path).unwrap())
    };
    files.map(read).collect()
}

/// Those that are configurations.
fn configurations() -> BTreeMap<String, String> {
    let mut examples = examples();
    examples.retain(|_, text| text.lines().any(|line| line == "ringwall: 1"));
    assert!(examples.len() >= 16, "{:?}", examples.keys());
    examples
}

#[test]
fn the_examples_pass() {
    for (name, text) in configurations() {
        if let Err(errors) = check(&text) {
            panic!("{name}: {errors}");
        }
    }
}

/// What an example says that is beside it: certificates and keys by their names, lists, a store of keys, a schema.
fn surroundings(place: &Place, examples: &BTreeMap<String, String>) {
    let of_a_path = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let named = || {
        let words = examples.values().flat_map(|text| text.split(|c| !of_a_path(c)));
        words.filter(|word| !word.starts_with('.')).collect::<BTreeSet<_>>()
    };
    let domains = named().into_iter().filter(|word| word.ends_with(".example.com")).map(str::to_owned);
    let server = rcgen::generate_simple_self_signed(domains.collect::<Vec<_>>()).unwrap();
    let partners = Authority::root("partners");
    place.write("pepper", "0123456789abcdef0123456789abcdef");
    new_key(place.path(), "acme", &["reseller"]);
    for name in named() {
        let text = match name.rsplit_once('.').unwrap_or_default() {
            (stem, "pem") if stem.ends_with("-ca") => partners.pem.clone(),
            (_, "pem") => server.cert.pem(),
            (_, "key") => server.signing_key.serialize_pem(),
            (_, "crl") => partners.list(&[3], now_s() + 3_600),
            (_, "list") => "192.0.2.0/24\n".to_owned(),
            ("order.schema", "json") => include_str!("../../src/cli/demo/order.schema.json").to_owned(),
            _ => continue,
        };
        place.write(name, &text);
    }
}

#[test]
fn every_example_compiles_with_what_stands_beside_it() {
    let (examples, configurations) = (examples(), configurations());
    let place = Place::new();
    surroundings(&place, &examples);
    for (name, text) in &examples {
        // Only the place of what is not beside it differs, and the years: an example does not expire in a test.
        place.write(name, &text.replace("/etc/ringwall/", "").replace("until: 20", "until: 29"));
        let is_named = configurations.values().any(|text| text.contains(&format!("file:{name}")));
        assert!(configurations.contains_key(name) || is_named, "{name} is no configuration nor named by one");
    }
    for name in configurations.keys() {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_ringwall"))
            .args(["check", "-c", name])
            .env("STICKY_KEY", "0123456789abcdef0123456789abcdef")
            .env_remove("RINGWALL_CONFIG")
            .current_dir(place.path())
            .output()
            .unwrap();
        let (said, errors) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(0), "{name}: {said}{errors}");
        assert!(said.contains(&format!("{name} is ok")), "{name}: {said}");
        assert_eq!(errors, "", "{name} has something to remark");
    }
}

#[test]
fn the_examples_pass_as_json() {
    // The same document, written as JSON by hand.
    let text = r#"{"ringwall": 1,
 "listen": {"address": "[::]:443", "domains": ["shop.example.com"], "tls": {"cert": "shop.pem", "key": "shop.key"}},
 "upstreams": {"shop": "http://127.0.0.1:3000"},
 "apis": {"shop": {"to": "shop", "raw": "shop has no OpenAPI document yet", "allow": [{"who": "anyone"}]}}}"#;
    if let Err(errors) = check(text) {
        panic!("{errors}");
    }
}

#[test]
fn keys_of_later_versions_are_refused_by_name_and_nothing_else_is() {
    let later = ["spec:", "security:", "responses:", "version:"];
    let expected: Vec<(u16, usize)> = later.iter().map(|key| (1009, OPENAPI.find(key).unwrap())).collect();
    assert_eq!(found(OPENAPI), expected);
}

#[test]
fn every_key_of_a_later_version_says_so_where_it_stands() {
    for (text, anchor, key) in [
        (DROP_IN, "    to: shop\n", "    cors: { origins: [https://a.example.com] }\n"),
        (DROP_IN, "    to: shop\n", "    unknown: refuse\n"),
        (DROP_IN, "    to: shop\n", "    owner: { x: y }\n"),
        (DROP_IN, "upstreams", "secrets: { vault: x }\nupstreams"),
    ] {
        let inserted = if key.ends_with(anchor) { key.to_owned() } else { format!("{anchor}{key}") };
        let mutant = text.replacen(anchor, &inserted, 1);
        let errors = found(&mutant);
        assert_eq!(errors.len(), 1, "{key}: {errors:?}");
        assert_eq!(errors[0].0, 1009, "{key}");
        assert_eq!(mutant[errors[0].1..].split(':').next(), key.trim().split(':').next(), "{key}");
    }
}

/// HTTP/2 is asked for wherever it can be spoken; HTTP/1.1 in its place is never an error.
#[test]
fn http2_is_asked_for_where_it_can_be_spoken() {
    const UPSTREAM: &str = "    insecure: { reason: \"private VLAN";
    for (text, anchor, key, otherwise) in [
        (DROP_IN, "tls: {", "protocols: http2, ", None),
        (DROP_IN, "tls: {", "protocols: [http1, http2], ", None),
        (BALANCER, "trusted_proxies", "protocols: [http1, http2]\n  ", None),
        (TOKENS, "redirect: https", "protocols: [http1, http2], ", Some(1111)),
        (KEYS, UPSTREAM, "    protocol: http2\n", None),
        (KEYS, UPSTREAM, "    protocol: auto\n", Some(1211)),
    ] {
        let mutant = text.replacen(anchor, &format!("{key}{anchor}"), 1);
        let errors: Vec<u16> = found(&mutant).into_iter().map(|(code, _)| code).collect();
        match otherwise {
            None => assert_eq!(errors, [0; 0], "{key}"),
            // Once for each target.
            Some(code) => {
                assert!(!errors.is_empty() && errors.iter().all(|error| *error == code), "{key}: {errors:?}");
            }
        }
        let http1 =
            mutant.replace("[http1, http2]", "http1").replace("http2", "http1").replace("auto", "http1");
        assert_eq!(found(&http1), [], "{http1}");
    }
}

/// A slip: in this text, this becomes that, and these errors are reported, each with the text that it points at.
type Slip = (&'static str, &'static str, &'static str, &'static [(u16, &'static str)]);

const TLS: &str = "tls: { cert: shop.pem, key: shop.key }";
const ADDRESS: &str = "\"[::]:443\"";
const TARGET: &str = "\"http://127.0.0.1:3000\"";
const RAW: &str =
    "    raw: \"shop has no OpenAPI document yet\"     # the named reason for serving every path\n";
const ALLOW: &str = "    allow: [{ who: anyone }]\n";
const TO: &str = "    to: shop\n";
const LIST: &str = "GET /orders\n      getOrder";
const GET: &str = "GET /orders/{id}";
const POST: &str = "        match: POST /orders\n";
const INSECURE: &str = "    insecure: { reason: \"private VLAN, TLS planned\", until: 2027-06-30 }\n";

const SLIPS: &[Slip] = &[
    // The top.
    (DROP_IN, "ringwall: 1", "ringwal: 1", &[(1003, "ringwal:")]),
    (DROP_IN, "ringwall: 1\n", "", &[(1010, "listen:")]),
    (DROP_IN, "ringwall: 1", "ringwall: 2", &[(1010, "2\nlisten")]),
    (DROP_IN, "ringwall: 1", "ringwall: \"1\"", &[(1010, "\"1\"")]),
    (DROP_IN, "listen:", "lisen:", &[(1003, "lisen:")]),
    (DROP_IN, "apis:", "api:", &[(1003, "api:")]),
    (DROP_IN, "upstreams:", "upstream:", &[(1003, "upstream:")]),
    (DROP_IN, "listen:", "limits: []\nlisten:", &[(1003, "limits:")]),
    (DROP_IN, "ringwall: 1\n", "ringwall: 1\nringwall: 1 # again\n", &[(1004, "ringwall: 1 # again")]),
    // Syntax.
    (DROP_IN, "  shop:\n    to", "\tshop:\n    to", &[(1002, "\tshop")]),
    (DROP_IN, ADDRESS, "\"[::]:443", &[(1001, "{ address")]),
    (DROP_IN, ", domains:", " domains:", &[(1001, "domains:")]),
    (DROP_IN, "key: shop.key } }", "key: shop.key }", &[(1001, "{ address")]),
    (DROP_IN, "listen: {", "listen: &here {", &[(1011, "{ address")]),
    (DROP_IN, "upstreams: {", "upstreams: !!map {", &[(1012, "{ shop")]),
    (DROP_IN, ALLOW, "    allow: [{ who: anyone }]\n---\na: b\n", &[(1013, "---")]),
    (DROP_IN, "to: shop", "to: shop\n     cart", &[(1023, "shop\n     cart")]),
    (DROP_IN, "to: shop", "to:", &[(1014, "to:")]),
    (DROP_IN, "to: shop", "to: sh\u{202e}op", &[(1019, "\u{202e}")]),
    (DROP_IN, "to: shop", "to: ${SHOP}", &[(1905, "${SHOP}")]),
    (DROP_IN, "to: shop", "to: ${SHOP", &[(1910, "${SHOP")]),
    (DROP_IN, "  shop:\n", "  shop one:\n", &[(1028, "shop one:")]),
    // Listeners.
    (DROP_IN, "address:", "adress:", &[(1003, "adress:")]),
    (DROP_IN, ADDRESS, "\":443\"", &[(1032, "\":443\"")]),
    (DROP_IN, ADDRESS, "\"localhost:443\"", &[(1032, "\"localhost")]),
    (DROP_IN, ADDRESS, "443", &[(1032, "443,")]),
    (DROP_IN, ADDRESS, "\"[::]\"", &[(1032, "\"[::]\"")]),
    (DROP_IN, "[shop.example.com]", "[\"*.example.com\"]", &[(1035, "\"*.")]),
    (DROP_IN, "[shop.example.com]", "[shop_1.example.com]", &[(1034, "shop_1")]),
    (DROP_IN, "[shop.example.com]", "[shop.example.com:443]", &[(1034, "shop.example.com:")]),
    (DROP_IN, "[shop.example.com]", "[]", &[(1025, "[]")]),
    (DROP_IN, "[shop.example.com]", "[a.example.com, A.example.com]", &[(1107, "A.example")]),
    (DROP_IN, TLS, "tls: acme", &[(1009, "acme")]),
    (DROP_IN, TLS, "tls: selfsigned", &[(1017, "selfsigned")]),
    (DROP_IN, TLS, "tls: none", &[(1104, "none }")]),
    (DROP_IN, TLS, "tsl: none", &[(1003, "tsl:")]),
    (DROP_IN, ", tls: { cert: shop.pem, key: shop.key }", "", &[(1103, ADDRESS)]),
    (DROP_IN, ", key: shop.key", "", &[(1005, "cert:")]),
    (DROP_IN, "key: shop.key", "keyy: shop.key", &[(1003, "keyy:")]),
    (DROP_IN, "cert: shop.pem", "cert: shop.pem, cert: b.pem", &[(1004, "cert: b.pem")]),
    (DROP_IN, "key: shop.key", "key: shop.key, client_ca: [ca.pem, b.pem]", &[(1006, "[ca.pem")]),
    (DROP_IN, "key: shop.key", "key: shop.key, client_ca: { crl: a.crl }", &[(1005, "crl: a.crl")]),
    (DROP_IN, "key: shop.key", "key: shop.key, client_ca: { file: ca.pem, depth: 7 }", &[(1008, "7 }")]),
    (
        DROP_IN,
        "key: shop.key",
        "key: shop.key, client_ca: { file: ca.pem, names: \"dns:*\" }",
        &[(1151, "\"dns:*\"")],
    ),
    (
        DROP_IN,
        "key: shop.key",
        "key: shop.key, client_ca: { file: ca.pem, requird: true }",
        &[(1003, "requird")],
    ),
    (
        DROP_IN,
        TLS,
        "tls: [{ cert: shop.pem, key: shop.key, client_ca: ca.pem }, { cert: b.pem, key: b.key }]",
        &[(1150, "{ cert: b.pem")],
    ),
    (
        DROP_IN,
        TLS,
        "tls: [{ cert: a.pem, key: a.key, client_ca: ca.pem }, { cert: b.pem, key: b.key, client_ca: { file: ca.pem, required: false } }]",
        &[(1150, "{ file: ca.pem")],
    ),
    (
        CERTIFICATES,
        "    client_ca: { file: partners-ca.pem, crl: partners.crl, required: false }\n",
        "",
        &[(1381, "partners-ca.pem\n    names")],
    ),
    (
        CERTIFICATES,
        "    names: [\"dns:*.partners.example.com\"]\n",
        "    names: [\"*.partners.example.com\"]\n",
        &[(1151, "\"*.partners")],
    ),
    (
        CERTIFICATES,
        "    names: [",
        "    trust_domain: \"spiffe://a.example\"\n    names: [",
        &[(1383, "\"spiffe:")],
    ),
    (CERTIFICATES, "    names: [", "    subject: cn\n    names: [", &[(1017, "cn\n")]),
    (CERTIFICATES, "    names: [", "    store: partners.keys\n    names: [", &[(1310, "store:")]),
    (
        CERTIFICATES,
        "  people: {",
        "  others: { mtls: partners-ca.pem, names: \"dns:*.partners.example.com\" }\n  people: {",
        &[(1382, "partners-ca.pem, names: \"dns")],
    ),
    (DROP_IN, TLS, "tls: { cert: shop.pem, key: shop.key }, proxy_protocol: v2", &[(1171, "v2")]),
    (BALANCER, "[10.0.0.0/8]", "[10.0.0.0/8]\n  proxy_protocol: v3", &[(1017, "v3")]),
    (BALANCER, "trusted_proxies: [10.0.0.0/8]", "client_address: forwarded", &[(1172, "forwarded")]),
    (BALANCER, "trusted_proxies", "deny_addresses: 10.0.0.0/8\n  allow_addresses", &[(1173, "10.0.0.0/8\n")]),
    (BALANCER, "trusted_proxies: [10.0.0.0/8]", "deny_addresses: [abuse.list]", &[(1033, "abuse.list")]),
    (BALANCER, "trusted_proxies: [10.0.0.0/8]", "deny_addresses: { fil: abuse.list }", &[(1003, "fil:")]),
    (BALANCER, "10.0.0.0/8", "0.0.0.0/0", &[(1108, "0.0.0.0/0")]),
    (BALANCER, "10.0.0.0/8", "10.1.2.3/8", &[(1033, "10.1.2.3/8")]),
    (BALANCER, "10.0.0.0/8", "balancer", &[(1033, "balancer]")]),
    (BALANCER, "insecure: {", "insecrue: {", &[(1003, "insecrue")]),
    (TOKENS, "redirect: https", "redirect: http", &[(1105, "http }")]),
    (TOKENS, "redirect: https", "redirect: https, tls: self-signed", &[(1106, "https, tls")]),
    (TOKENS, "redirect: https", "redirect: https, trusted_proxies: 10.0.0.0/8", &[(1109, "10.0.0.0/8")]),
    (DROP_IN, TLS, "tls: self-signed, protocols: h2", &[(1017, "h2")]),
    (DROP_IN, TLS, "tls: self-signed, protocols: [http1, spdy]", &[(1017, "spdy")]),
    (DROP_IN, TLS, "tls: self-signed, protocols: []", &[(1025, "[]")]),
    (DROP_IN, TLS, "tls: self-signed, protocols: [http1, \"http1\"]", &[(1110, "\"http1\"")]),
    (DROP_IN, TLS, "tls: self-signed, protocol: http1", &[(1003, "protocol:")]),
    (KEYS, "    health:", "    protocol: h2\n    health:", &[(1017, "h2\n")]),
    (KEYS, "    health:", "    protocols: http1\n    health:", &[(1003, "protocols:")]),
    (TOKENS, "\"[::]:80\"", "\"[::]:443\" ", &[(1102, "\"[::]:443\" ,")]),
    // Upstreams.
    (DROP_IN, TARGET, "\"127.0.0.1:3000\"", &[(1201, "\"127.0.0.1:3000\"")]),
    (DROP_IN, TARGET, "\"ftp://127.0.0.1:3000\"", &[(1201, "\"ftp")]),
    (DROP_IN, TARGET, "\"http://a:b@127.0.0.1:3000\"", &[(1201, "\"http://a")]),
    (DROP_IN, TARGET, "\"http://127.0.0.1:99999\"", &[(1201, "\"http:")]),
    (DROP_IN, TARGET, "\"http://127.0.0.1:3000/api\"", &[(1202, "\"http:")]),
    (DROP_IN, TARGET, "\"http://10.0.0.1:3000\"", &[(1203, "\"http:")]),
    (DROP_IN, TARGET, "{ target: \"http://127.0.0.1:3000\" }", &[(1003, "target:")]),
    (DROP_IN, TARGET, "5", &[(1201, "5 }")]),
    (KEYS, "get: /healthz", "connect: tcp, get: /healthz", &[(1256, "connect: tcp, get")]),
    (KEYS, "get: /healthz, every", "every", &[(1256, "every: 5s }")]),
    (KEYS, "get: /healthz", "get: /healthz, status: [100-199]", &[(1257, "100-199]")]),
    (KEYS, "get: /healthz", "get: /healthz, status: [299-200]", &[(1257, "299-200")]),
    (KEYS, "get: /healthz", "connect: tcp, host: a", &[(1258, "host")]),
    (KEYS, "get: /healthz", "connect: udp", &[(1017, "udp")]),
    (KEYS, "get: /healthz", "get: /healthz, grpc: a.B", &[(1256, "grpc: a.B")]),
    (KEYS, "get: /healthz", "grpc: a.B, port: 9090, status: 200", &[(1258, "status: 200")]),
    (KEYS, "get: /healthz", "grpc: \"a..B\", port: 9090", &[(1258, "\"a..B\"")]),
    (KEYS, "get: /healthz", "grpc: \"\"", &[(1258, "\"http://10.0.3.11"), (1258, "\"http://10.0.3.12")]),
    (KEYS, "get: /healthz", "get: /healthz, timeout: 6s", &[(1258, "6s")]),
    (KEYS, "get: /healthz", "connect: tls", &[(1258, "\"http://10.0.3.11"), (1258, "\"http://10.0.3.12")]),
    (DROP_IN, TARGET, "{ targets: \"unix:/a\", health: { get: /, port: 80 } }", &[(1258, "\"unix")]),
    (DROP_IN, "domains:", "permissions: \"0660\", domains:", &[(1130, "\"0660")]),
    (DROP_IN, "\"[::]:443\", ", "\"unix:/a\", permissions: 660, ", &[(1130, "660")]),
    (DROP_IN, TARGET, "\"srv+https://_a._tcp.b:80\"", &[(1250, "\"srv+https")]),
    (DROP_IN, TARGET, "\"srv+https://127.0.0.1\"", &[(1250, "\"srv+https")]),
    (DROP_IN, TARGET, "\"srv+ftp://_a._tcp.b\"", &[(1250, "\"srv+ftp")]),
    (DROP_IN, TARGET, "\"srv+https://a:b@c\"", &[(1201, "\"srv+https")]),
    (DROP_IN, TARGET, "\"srv+http://_a._tcp.b\"", &[(1203, "\"srv+http")]),
    (DROP_IN, TARGET, "\"file:\"", &[(1251, "\"file:")]),
    (DROP_IN, TARGET, "\"https://169.254.169.254\"", &[(1252, "\"https:")]),
    (DROP_IN, TARGET, "\"https://[::ffff:169.254.169.254]\"", &[(1252, "\"https:")]),
    (DROP_IN, TARGET, "\"https://[64:ff9b::a9fe:a9fe]\"", &[(1252, "\"https:")]),
    (DROP_IN, TARGET, "{ targets: \"https://a.b\", addresses: \"::/0\" }", &[(1253, "\"::/0")]),
    (KEYS, INSECURE, "", &[(1203, "\"http://10.0.3.11"), (1203, "\"http://10.0.3.12")]),
    (KEYS, "2027-06-30", "2020-06-30", &[(1901, "2020-06-30")]),
    (KEYS, "2027-06-30", "2027-06-31", &[(1029, "2027-06-31")]),
    (KEYS, "2027-06-30", "soon", &[(1029, "soon")]),
    (KEYS, ", until: 2027-06-30", "", &[(1902, "reason:")]),
    (KEYS, "reason: \"private VLAN, TLS planned\"", "reason: \"-\"", &[(1908, "\"-\"")]),
    (KEYS, "{ reason: \"private VLAN, TLS planned\", until: 2027-06-30 }", "true", &[(1902, "true\n")]),
    (KEYS, "10.0.3.12", "10.0.3.11", &[(1207, "\"http://10.0.3.11:8080\"]")]),
    (KEYS, "get: /healthz", "get: healthz", &[(1208, "healthz")]),
    (KEYS, "every: 5s", "every: 5", &[(1015, "5 }\nlogin")]),
    (KEYS, "every: 5s", "every: 5sec", &[(1015, "5sec")]),
    (KEYS, "every: 5s", "every: 1ms", &[(1008, "1ms")]),
    (KEYS, "health:", "helth:", &[(1003, "helth:")]),
    (KEYS, "    health:", "    balance: random\n    health:", &[(1017, "random")]),
    (KEYS, "    health:", "    pool: { connections: 0 }\n    health:", &[(1008, "0 }\n    health")]),
    (TOKENS, "ca: internal-ca.pem", "ca: none", &[(1204, "none")]),
    (TOKENS, "https://orders.internal:8443", "http://127.0.0.1:8443", &[(1205, "internal-ca")]),
    // Logins.
    (KEYS, "api_key: X-API-Key", "api_key: Authorization", &[(1307, "Authorization")]),
    (KEYS, "api_key: X-API-Key", "api_key: X_API_Key", &[(1030, "X_API_Key")]),
    (KEYS, "api_key:", "apikey:", &[(1003, "apikey:")]),
    (KEYS, "api_key: X-API-Key, ", "", &[(1301, "store:")]),
    (KEYS, "store: partners.keys, ", "", &[(1005, "api_key:")]),
    (KEYS, "store: partners.keys", "store: partners.keys, jwt: keys.json", &[(1302, "jwt:")]),
    (KEYS, "store: partners.keys", "store: partners.keys, issuer: x", &[(1310, "issuer:")]),
    (KEYS, "store: partners.keys", "store: partners.keys, passthrough: yes", &[(1007, "yes")]),
    (KEYS, "store: partners.keys", "store: partners.keys, mtls: ca.pem", &[(1302, "mtls")]),
    (KEYS, "store: partners.keys", "store: partners.keys, trust_domain: a", &[(1310, "trust_domain")]),
    (KEYS, "\"secret:file:/etc/ringwall/pepper\"", "hunter2", &[(1904, "hunter2")]),
    (KEYS, "\"secret:file:/etc/ringwall/pepper\"", "\"${PEPPER}\"", &[(1903, "\"${PEPPER}")]),
    (KEYS, "\"secret:file:/etc/ringwall/pepper\"", "\"secret:vault:pepper\"", &[(1906, "\"secret:vault")]),
    (
        KEYS,
        "  partners: {",
        "  anyone: {",
        &[(1308, "anyone:"), (1502, "partners, do"), (1502, "partners, role")],
    ),
    (TOKENS, ", audience: orders-api", "", &[(1304, "oidc:")]),
    (TOKENS, "audience: orders-api", "audiance: orders-api", &[(1003, "audiance")]),
    (TOKENS, "\"https://login.example.com/\"", "\"http://login.example.com/\"", &[(1306, "\"http://login")]),
    (TOKENS, "\"https://login.example.com/\"", "login.example.com", &[(1036, "login.example.com,")]),
    (TOKENS, "audience: orders-api", "audience: orders-api, algorithms: [none]", &[(1309, "none]")]),
    (TOKENS, "audience: orders-api", "audience: orders-api, algorithms: [HS256]", &[(1305, "HS256")]),
    (TOKENS, "audience: orders-api", "audience: orders-api, algorithms: [ES265]", &[(1017, "ES265")]),
    (TOKENS, "audience: orders-api", "audience: orders-api, skew: 10min", &[(1008, "10min")]),
    (OBSERVE, "    issuer: \"https://login.example.com/\"\n", "", &[(1303, "jwt:")]),
    (
        OBSERVE,
        "mode: { observe: { reason: \"half of the clients still come without a token\", until: 2027-03-31 } }\napis",
        "mode: observe\napis",
        &[(1907, "observe\napis")],
    ),
    // APIs.
    (DROP_IN, "to: shop", "to: shap", &[(1403, "shap")]),
    (DROP_IN, "to: shop", "too: shop", &[(1003, "too:")]),
    (DROP_IN, TO, "", &[(1402, "shop:\n    raw")]),
    (DROP_IN, "to: shop", "to: { upstream: shop, path: /api/ }", &[(1411, "/api/")]),
    (DROP_IN, "to: shop", "to: { upstream: shop, host: server }", &[(1017, "server")]),
    (DROP_IN, RAW, "", &[(1401, "to: shop")]),
    (DROP_IN, RAW, "    raw: \"\"\n", &[(1908, "\"\"")]),
    (DROP_IN, RAW, "    raw: true\n", &[(1908, "true")]),
    (DROP_IN, RAW, "    closed: false\n", &[(1416, "false")]),
    (DROP_IN, RAW, "    raw: no document yet\n    closed: true\n", &[(1401, "closed:")]),
    (DROP_IN, RAW, "    spec: shop.yaml\n", &[(1009, "spec:")]),
    (DROP_IN, RAW, "    operations: {}\n", &[(1401, "operations:")]),
    (DROP_IN, TO, "    to: shop\n    base: /v1/\n", &[(1411, "/v1/")]),
    (DROP_IN, TO, "    to: shop\n    base: v1\n", &[(1411, "v1\n")]),
    (DROP_IN, TO, "    to: shop\n    host: shop.example.org\n", &[(1412, "shop.example.org")]),
    (
        DROP_IN,
        TO,
        "    to: shop\n    host: [shop.example.com, shop.example.com ]\n",
        &[(1417, "shop.example.com ]")],
    ),
    (DROP_IN, TO, "    to: shop\n    timeouts: { total: 30 }\n", &[(1015, "30 }")]),
    (DROP_IN, TO, "    to: shop\n    timeouts: { total: 5m }\n", &[(1015, "5m }")]),
    (DROP_IN, TO, "    to: shop\n    timeouts: { total: 2h }\n", &[(1008, "2h }")]),
    (DROP_IN, TO, "    to: shop\n    sizes: { head: 1MiB }\n", &[(1008, "1MiB")]),
    (DROP_IN, TO, "    to: shop\n    sizes: { fields: many }\n", &[(1006, "many")]),
    (DROP_IN, TO, "    to: shop\n    sizes: { fields: -1 }\n", &[(1006, "-1")]),
    (
        DROP_IN,
        TO,
        "    to: shop\n    headers: { request: { set: { Content-Length: 5 } } }\n",
        &[(1424, "Content-Length")],
    ),
    (
        DROP_IN,
        TO,
        "    to: shop\n    headers: { response: { remove: [Transfer-Encoding] } }\n",
        &[(1424, "Transfer")],
    ),
    (
        DROP_IN,
        TO,
        "    to: shop\n    headers: { request: { set: { X-Ringwall-Subject: a } } }\n",
        &[(1424, "X-Ring")],
    ),
    (
        DROP_IN,
        TO,
        "    to: shop\n    headers: { request: { set: { X-A: \"a\\nb\" } } }\n",
        &[(1031, "\"a\\nb")],
    ),
    (
        DROP_IN,
        TO,
        "    to: shop\n    headers: { request: { set: { X-A: b }, remove: x-a } }\n",
        &[(1419, "x-a")],
    ),
    (DROP_IN, TO, "    to: shop\n    headers: { set: { X-A: b } }\n", &[(1003, "set:")]),
    (DROP_IN, TO, "    to: shop\n    identity: { X-User: name }\n", &[(1017, "name }")]),
    (DROP_IN, TO, "    to: shop\n    identity: { Authorization: subject }\n", &[(1425, "Authorization")]),
    (DROP_IN, TO, "    to: shop\n    body: { schema: \"https://x/y.json\" }\n", &[(1037, "\"https://x")]),
    (CLOSED, "closed: true", "closed: yes", &[(1007, "yes")]),
    (CLOSED, "closed: true", "closed: true, allow: { who: anyone }", &[(1509, "{ who: anyone } }\n  moved")]),
    (CLOSED, "closed: true", "closed: true, to: shop", &[(1415, "shop }\n  moved")]),
    (CLOSED, "base: /private", "base: /old", &[(1404, "moved:")]),
    // Bodies, methods, maintenance, redirects.
    (
        SLASHES,
        "redirect: \"https://www.example.com/login\"",
        "redirect: \"https://www.example.com/login\", encoded_slash: keep",
        &[(1430, "keep }\n    allow")],
    ),
    (WEBSOCKET, "websocket: true", "websocket: false", &[(1443, "false")]),
    (WEBSOCKET, "https://admin.example.com", "https://*.example.com", &[(1444, "\"https://*")]),
    (WEBSOCKET, "https://admin.example.com", "https://admin.example.com/", &[(1444, "\"https://admin")]),
    (WEBSOCKET, "https://admin.example.com", "wss://admin.example.com", &[(1444, "\"wss:")]),
    (WEBSOCKET, "match: GET /prices", "match: POST /prices", &[(1445, "true")]),
    (WEBSOCKET, "websocket: true", "websocket: true, respond: { status: 200 }", &[(1445, "true")]),
    (
        WEBSOCKET,
        "websocket: true",
        "websocket: true, body: { types: [application/json] }",
        &[(1445, "{ types")],
    ),
    (
        WEBSOCKET,
        "    to: events\n",
        "    to: events\n    websocket: true\n",
        &[(1445, "true\n    operations")],
    ),
    (WEBSOCKET, "idle: 5min", "idle: 0s", &[(1008, "0s")]),
    (WEBSOCKET, "rate: 50/s", "rate: 50", &[(1601, "50\n")]),
    (CLOSED, "closed: true", "closed: true, websocket: true", &[(1415, "true }\n  moved")]),
    (DROP_IN, RAW, "    raw: a test\n    methods: [POST]\n    websocket: true\n", &[(1445, "true\n")]),
    (SLASHES, "/{name}\", encoded_slash: keep", "/{name}\", encoded_slash: decode", &[(1017, "decode")]),
    (CLOSED, "closed: true", "closed: true, encoded_slash: keep", &[(1415, "keep }\n  moved")]),
    (UPLOADS, "types: text/plain, ", "", &[(1435, "charsets: [utf-8, iso")]),
    (UPLOADS, "text/plain", "text", &[(1436, "text, charsets")]),
    (UPLOADS, "text/plain", "text/*", &[(1436, "text/*")]),
    (UPLOADS, "text/plain", "unknown/unknown", &[(1436, "unknown/unknown")]),
    (UPLOADS, "text/plain", "text/plain; charset=utf-8", &[(1436, "text/plain; charset")]),
    (UPLOADS, "image/png", "multipart/form-data; boundary=x", &[(1436, "multipart/form-data; boundary")]),
    (UPLOADS, "iso-8859-1", "\"utf 8\"", &[(1436, "\"utf 8\"")]),
    (UPLOADS, "types: text/plain", "types: text/plain, schema: s.json", &[(1436, "text/plain, schema")]),
    (UPLOADS, "response: 16MiB", "response: 2048GiB", &[(1008, "2048GiB")]),
    (UPLOADS, "    to: files\n", "    to: files\n    methods: GET\n", &[(1440, "GET\n    sizes")]),
    (MAINTENANCE, "methods: GET", "methods: GTE", &[(1437, "GTE")]),
    (MAINTENANCE, "methods: GET", "methods: [GET, TRACE]", &[(1437, "TRACE]")]),
    (MAINTENANCE, "methods: GET", "methods: PROPFIND", &[(1437, "PROPFIND")]),
    (MAINTENANCE, "2999-06-30T18:00Z", "2999-06-30T18:00", &[(1438, "2999-06-30T18:00,")]),
    (MAINTENANCE, "2999-06-30T18:00Z", "tomorrow", &[(1438, "tomorrow")]),
    (MAINTENANCE, "reason: \"the database moves\", ", "", &[(1005, "until:")]),
    (MAINTENANCE, "192.0.2.0/24", "192.0.2.1/24", &[(1033, "192.0.2.1/24")]),
    (
        MAINTENANCE,
        "\"https://shop.example.com/\"",
        "\"https://shop.example.com/?a=b\"",
        &[(1439, "\"https://shop.example.com/?")],
    ),
    (MAINTENANCE, "keep: path", "keep: all", &[(1017, "all }")]),
    (CLOSED, "closed: true", "closed: true, maintenance: a test", &[(1415, "a test }")]),
    (CLOSED, "closed: true", "closed: true, methods: GET", &[(1415, "GET }\n  moved")]),
    (
        DROP_IN,
        TO,
        "    to: shop\n    headers: { request: { set: { X-HTTP-Method-Override: PUT } } }\n",
        &[(1424, "X-HTTP-Method")],
    ),
    // Operations.
    (KEYS, LIST, "get /orders\n      getOrder", &[(1413, "get /orders")]),
    (KEYS, LIST, "/orders\n      getOrder", &[(1413, "/orders\n      getOrder")]),
    (KEYS, LIST, "GTE /orders\n      getOrder", &[(1413, "GTE")]),
    (KEYS, LIST, "TRACE /orders\n      getOrder", &[(1413, "TRACE")]),
    (KEYS, LIST, "GET orders\n      getOrder", &[(1407, "GET orders")]),
    (KEYS, LIST, "GET /orders?all\n      getOrder", &[(1407, "GET /orders?all")]),
    (KEYS, LIST, "GET /orders/../x\n      getOrder", &[(1407, "GET /orders/..")]),
    (KEYS, LIST, "[GET /orders]\n      getOrder", &[(1006, "[GET")]),
    (KEYS, GET, "GET /orders/{id", &[(1407, "GET /orders/{id")]),
    (KEYS, GET, "GET /orders/*", &[(1407, "GET /orders/*")]),
    (KEYS, GET, "GET /orders//{id}", &[(1407, "GET /orders//")]),
    (KEYS, GET, "GET /orders/{id}/{id}", &[(1407, "GET /orders/{id}/")]),
    (KEYS, GET, "GET /orders/%41", &[(1407, "GET /orders/%")]),
    (KEYS, GET, "GET /orders/{+rest}", &[(1406, "GET /orders/{+")]),
    (KEYS, GET, "GET /orders ", &[(1405, "GET /orders \n")]),
    (KEYS, GET, "{ match: \"GET /orders/{id}\", raw: because I can }", &[(1418, "because")]),
    (KEYS, POST, "", &[(1005, "body: { schema")]),
    (KEYS, "match: POST", "mtach: POST", &[(1003, "mtach")]),
    (KEYS, "schema: order", "shema: order", &[(1003, "shema")]),
    (KEYS, "64KiB", "64k", &[(1016, "64k")]),
    (KEYS, "64KiB", "64", &[(1016, "64 }")]),
    (KEYS, "sizes: { body: 64KiB }", "redirect: /x\n        respond: { status: 200 }", &[(1409, "respond")]),
    (KEYS, "sizes: { body: 64KiB }", "respond: { status: 99 }", &[(1426, "99")]),
    (KEYS, "sizes: { body: 64KiB }", "redirect: //evil.example", &[(1421, "//evil")]),
    (KEYS, "sizes: { body: 64KiB }", "sizes: { extend: { body: 1KiB }, head: 1KiB }", &[(1408, "head:")]),
    (KEYS, "    base: /v1\n", "    sizes: { head: 8KiB }\n", &[(1422, "{ body: 64KiB")]),
    (
        KEYS,
        "body: { schema: order.schema.json }",
        "body: { extend: { schema: a.json } }",
        &[(1423, "{ extend")],
    ),
    // Grants.
    (DROP_IN, ALLOW, "", &[(1501, "shop:\n    to")]),
    (DROP_IN, "allow:", "alow:", &[(1003, "alow:")]),
    (DROP_IN, "[{ who: anyone }]", "[]", &[(1506, "[]")]),
    (DROP_IN, "[{ who: anyone }]", "anyone", &[(1006, "anyone")]),
    (DROP_IN, "who: anyone", "hwo: anyone", &[(1003, "hwo")]),
    (DROP_IN, "who: anyone", "who: anyon", &[(1502, "anyon ")]),
    (DROP_IN, "who: anyone", "who: \"*\"", &[(1505, "\"*\"")]),
    (DROP_IN, "who: anyone", "who: true", &[(1006, "true")]),
    (DROP_IN, "who: anyone", "who: anyone, role: admin", &[(1504, "admin")]),
    (DROP_IN, "who: anyone", "who: anyone, mfa: true", &[(1009, "mfa")]),
    (DROP_IN, "who: anyone", "who: anyone, do: [x]", &[(1507, "x]")]),
    (KEYS, "do: [listOrders, getOrder]", "do: [listOrders, getOrdr]", &[(1503, "getOrdr")]),
    (KEYS, "do: [listOrders, getOrder]", "do: [\"*\"]", &[(1505, "\"*\"")]),
    (KEYS, "who: partners, role", "who: partner, role", &[(1502, "partner, role")]),
    (KEYS, "role: reseller", "rolle: reseller", &[(1003, "rolle")]),
    // Limits.
    (KEYS, "rate: 50/s", "rate: 50", &[(1601, "50 }")]),
    (KEYS, "rate: 50/s", "rate: 50/sec", &[(1601, "50/sec")]),
    (KEYS, "rate: 50/s", "rate: 0/s", &[(1601, "0/s")]),
    (KEYS, "rate: 50/s", "rate: 1M/month", &[(1601, "1M/month")]),
    (KEYS, "rate: 50/s", "quota: 50/s", &[(1005, "per: address"), (1009, "quota")]),
    (KEYS, "rate: 50/s", "concurrency: 0", &[(1008, "0 }\n      - { per: identity, rate: 100")]),
    (KEYS, "rate: 50/s", "concurrency: 1000001", &[(1008, "1000001")]),
    (KEYS, "rate: 50/s", "concurrency: many", &[(1006, "many")]),
    (KEYS, "rate: 50/s", "concurency: 5", &[(1003, "concurency")]),
    (KEYS, "rate: 50/s", "rate: 50/s, concurrency: 5", &[(1650, "5 }")]),
    (KEYS, "rate: 50/s", "concurrency: 5, burst: 7", &[(1650, "5, burst")]),
    (
        KEYS,
        "rate: 50/s",
        "concurrency: 5 }\n      - { per: address, concurrency: 6",
        &[(1603, "{ per: address, concurrency: 6")],
    ),
    (KEYS, "per: address", "per: ip", &[(1602, "ip,")]),
    (KEYS, "per: address", "per: [address, address ]", &[(1609, "address ]")]),
    (KEYS, "per: address", "per: claim:tenant", &[(1610, "claim:tenant")]),
    (KEYS, "per: address,  ", "", &[(1005, "rate: 50/s")]),
    (KEYS, "burst: 20", "burst: 0", &[(1008, "0 }\n      - { per: identity, rate: 5")]),
    (KEYS, "burst: 20", "burst: lots", &[(1006, "lots")]),
    (KEYS, "burst: 20", "do: [createOrder]", &[(1603, "{ per: identity, rate: 5/min")]),
    (KEYS, "do: [createOrder], mode", "do: [makeOrder], mode", &[(1607, "makeOrder")]),
    (KEYS, "do: [createOrder], mode", "who: partner, mode", &[(1606, "partner, mode")]),
    (KEYS, "mode: observe", "mode: watch", &[(1017, "watch")]),
    (
        KEYS,
        "sizes: { body: 64KiB }",
        "limits: { extend: { per: all, rate: 1/s, do: getOrder } }",
        &[(1608, "getOrder }")],
    ),
    (DROP_IN, TO, "    to: shop\n    limits: { per: identity, rate: 1/s }\n", &[(1605, "identity")]),
    (DROP_IN, TO, "    to: shop\n    limits: { per: all, rate: 1/s, do: x }\n", &[(1607, "x }")]),
    // Logs and the process.
    (KEYS, "log: { file:", "log: { fiel:", &[(1003, "fiel")]),
    (KEYS, "log: { file: /var/log/ringwall/access.jsonl }", "log: /var/log/x", &[(1006, "/var/log/x")]),
    (KEYS, "access.jsonl }", "access.jsonl, format: xml }", &[(1017, "xml")]),
    (
        KEYS,
        "access.jsonl }",
        "access.jsonl }\naudit: { file: /var/log/ringwall/access.jsonl }",
        &[(1801, "/var/log/ringwall/access.jsonl }\n#")],
    ),
    (KEYS, "log:", "node: { cores: 0 }\nlog:", &[(1008, "0 }\nlog")]),
    (KEYS, "log:", "node: { driver: uring }\nlog:", &[(1017, "uring")]),
    (KEYS, "log:", "node: { metrics: \"[::]:443\" }\nlog:", &[(1802, "\"[::]:443\" }\nlog")]),
    (BOUNDS, "address: 200", "address: 20001", &[(1840, "20001")]),
    (BOUNDS, "address: 200", "core: 30000", &[(1840, "30000")]),
    (BOUNDS, "address: 200", "address: 0", &[(1008, "0, address_rate")]),
    (BOUNDS, "all: 20000", "all: 15", &[(1008, "15,")]),
    (BOUNDS, "address_rate: 50/s", "address_rate: 50", &[(1601, "50, a")]),
    (BOUNDS, "address_rate: 50/s, address_burst: 500", "address_burst: 500", &[(1842, "500 }")]),
    (BOUNDS, "address_burst: 500", "address_burst: 0", &[(1008, "0 }")]),
    (BOUNDS, "memory: 1GiB", "memory: 100MiB", &[(1841, "100MiB")]),
    (BOUNDS, "memory: 1GiB", "memory: 1MiB", &[(1008, "1MiB")]),
    (BOUNDS, "head: 5s", "head: 10min", &[(1008, "10min")]),
    (BOUNDS, "handshake: 3s", "handshake: 99ms", &[(1008, "99ms")]),
    (KEYS, "log:", "node: { resolver: dns.example.com }\nlog:", &[(1806, "dns.example")]),
    (KEYS, "log:", "node: { drain: forever }\nlog:", &[(1015, "forever")]),
    (KEYS, "log:", "node: { limit_memory: 1KiB }\nlog:", &[(1008, "1KiB")]),
];

#[test]
fn every_slip_is_reported_alone_with_its_code_and_place() {
    assert!(SLIPS.len() >= 100, "{}", SLIPS.len());
    let mut wrong = Vec::new();
    for (text, from, to, expected) in SLIPS {
        assert!(text.contains(from), "{from:?} is not in its example");
        let mut mutant = text.replacen(from, to, 1);
        mutant.push_str("#\n");
        let expected: Vec<(u16, usize)> = expected
            .iter()
            .map(|(code, at)| {
                assert_eq!(
                    mutant.matches(at).count(),
                    1,
                    "{at:?} is not unique in the mutant {from:?} → {to:?}"
                );
                (*code, mutant.find(at).unwrap())
            })
            .collect();
        let mut got = found(&mutant);
        let mut wanted = expected.clone();
        got.sort_by_key(|&(code, at)| (at, code));
        wanted.sort_by_key(|&(code, at)| (at, code));
        if got != wanted {
            let shown = check(&mutant).err().map(|errors| errors.render(false)).unwrap_or_default();
            wrong.push(format!("{from:?} → {to:?}\n  wanted {wanted:?}\n  got    {got:?}\n{shown}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {} slips:\n{}", wrong.len(), SLIPS.len(), wrong.join("\n"));
}

#[test]
fn lines_and_columns_are_those_of_an_editor() {
    let mutant = KEYS.replace("getOrder]", "getOrdr]");
    let errors = check(&mutant).unwrap_err();
    let error = errors.iter().next().unwrap();
    let position = errors.sources().position(error.primary.span);
    let line = mutant.lines().nth(position.line - 1).unwrap();
    assert_eq!(line.chars().skip(position.column - 1).collect::<String>(), "getOrdr] }");
    let json = errors.to_json();
    assert_eq!(json[0]["code"], "RW-1503");
    assert_eq!(json[0]["line"], position.line);
    assert_eq!(json[0]["column"], position.column);
    assert_eq!(json[0]["suggestion"], "getOrder");
    assert!(
        errors.render(false).contains(&format!("--> ringwall.yaml:{}:{}", position.line, position.column))
    );
}

#[test]
fn all_errors_come_in_one_run_in_order_of_place() {
    let mutant = KEYS
        .replace("ringwall: 1", "ringwall: 3")
        .replace("every: 5s", "every: 5")
        .replace("X-API-Key", "Authorization")
        .replace("64KiB", "64k")
        .replace("do: [listOrders, getOrder]", "do: [nothing]")
        .replace("50/s", "50")
        .replace("access.jsonl }", "access.jsonl, format: xml }");
    let codes: Vec<u16> = found(&mutant).into_iter().map(|(code, _)| code).collect();
    assert_eq!(codes, [1010, 1015, 1307, 1016, 1503, 1601, 1017]);
}

#[test]
fn a_secret_in_the_wrong_place_is_never_shown() {
    for secret in ["hunter2", "\"secret:hunter2\""] {
        let mutant =
            KEYS.replace("\"secret:file:/etc/ringwall/pepper\"", secret).replace("X-API-Key", "Cookie");
        let errors = check(&mutant).unwrap_err();
        for shown in [errors.render(false), errors.render(true), errors.to_json().to_string()] {
            assert!(shown.contains("RW-1307") && !shown.contains("hunter2"), "{shown}");
        }
    }
    let mutant = KEYS.replace("POST /orders", "${PEPPER}");
    let errors = check(&mutant).unwrap_err();
    assert!(!errors.render(false).contains("from-the-environment"));
    assert!(!errors.to_json().to_string().contains("from-the-environment"));
}

#[test]
fn the_reference_file_passes_and_has_every_key() {
    const REFERENCE: &str = include_str!("../../config/ringwall.yaml");
    match check(REFERENCE) {
        Ok(loaded) => assert!(loaded.notes.is_empty(), "{}", loaded.notes),
        Err(errors) => panic!("{errors}"),
    }
    for table in ringwall::config::model::TABLES {
        for key in table.present() {
            let written = |prefix: &str| REFERENCE.contains(&format!("{prefix}{}: ", key.name));
            let block = REFERENCE.contains(&format!(" {}:\n", key.name))
                || REFERENCE.contains(&format!("\n{}:", key.name));
            assert!(written(" ") || written("\n") || block, "{}: `{}` is not shown", table.place, key.name);
        }
    }
}

#[test]
fn the_reference_file_and_the_examples_satisfy_the_schema_that_editors_use() {
    let schema = ringwall::config::json_schema::json_schema();
    let validator = jsonschema::validator_for(&schema).unwrap();
    let reference = include_str!("../../config/ringwall.yaml");
    for (name, text) in
        configurations().into_iter().chain([("ringwall.yaml".to_owned(), reference.to_owned())])
    {
        let value = to_json(&text);
        let errors: Vec<String> = validator
            .iter_errors(&value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{name}: {errors:#?}");
    }
    assert!(!validator.is_valid(&to_json(&DROP_IN.replace("allow:", "alow:"))));
    assert!(!validator.is_valid(&to_json(&DROP_IN.replace("ringwall: 1", "ringwall: 2"))));
}

/// The tree as JSON, by the core schema.
fn to_json(text: &str) -> serde_json::Value {
    use ringwall::config::node::Meaning;
    use ringwall::config::read::read;
    use ringwall::config::{FileId, Node, NodeKind, Source};
    fn convert(node: &Node) -> serde_json::Value {
        match &node.kind {
            NodeKind::List(items) => items.iter().map(convert).collect(),
            NodeKind::Map(entries) => {
                let entries = entries.iter().map(|entry| (entry.key.text.clone(), convert(&entry.value)));
                serde_json::Value::Object(entries.collect())
            }
            NodeKind::Scalar(scalar) => match scalar.meaning() {
                Meaning::Null => serde_json::Value::Null,
                Meaning::Bool(value) => value.into(),
                Meaning::Int(value) => value.into(),
                Meaning::Float(value) => value.into(),
                Meaning::Text(text) => text.into(),
            },
            NodeKind::Refused => serde_json::Value::Null,
        }
    }
    let source = Source::new("ringwall.yaml", Path::new(""), text).unwrap();
    convert(&read(&source, FileId::default(), &|_| None).root.unwrap())
}

/// A small fuzzer without a fuzzer: slips of the keyboard, at random but always the same. `RINGWALL_SLIPS` sets how many.
#[test]
fn random_slips_never_panic_and_point_into_the_file() {
    const PIECES: [&str; 34] = [
        " ", "\n", "\t", ":", ": ", "- ", ",", "{", "}", "[", "]", "\"", "'", "#", "&a ", "*a", "!t ", "|\n",
        ">\n", "? ", "<<: ", "---\n", "...\n", "%Y\n", "~", "null", "${A}", "${", "é", "\u{202e}", "\r\n",
        "0", "true", "secret:",
    ];
    let rounds = std::env::var("RINGWALL_SLIPS").ok().and_then(|rounds| rounds.parse().ok()).unwrap_or(600);
    let texts = [DROP_IN, KEYS, TOKENS, OBSERVE, CLOSED, OPENAPI, include_str!("../../config/ringwall.yaml")];
    let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
    let mut next = |below: usize| {
        // xorshift64: good enough to choose places.
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below.max(1) as u64) as usize
    };
    for _ in 0..rounds {
        let mut text = texts[next(texts.len())].to_owned();
        for _ in 0..=next(4) {
            let boundary = |text: &str, mut at: usize| {
                while !text.is_char_boundary(at) {
                    at -= 1;
                }
                at
            };
            let at = boundary(&text, next(text.len() + 1));
            match next(4) {
                0 => text.insert_str(at, PIECES[next(PIECES.len())]),
                1 => text.replace_range(at..boundary(&text, (at + next(40)).min(text.len())), ""),
                2 => text
                    .replace_range(at..boundary(&text, (at + 1).min(text.len())), PIECES[next(PIECES.len())]),
                _ => {
                    let end = boundary(&text, (at + next(60)).min(text.len()));
                    let piece = text[at..end].to_owned();
                    let to = boundary(&text, next(text.len() + 1));
                    text.insert_str(to, &piece);
                }
            }
        }
        let run = std::panic::catch_unwind(|| ringwall::fuzzing::config(text.as_bytes()));
        assert!(run.is_ok(), "this text panics:\n{text}");
    }
}

/// The binary itself, as an operator calls it.
fn ringwall(arguments: &[&str]) -> (i32, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_ringwall"))
        .args(arguments)
        .env_remove("RINGWALL_CONFIG")
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn the_verbs_answer_with_the_exit_codes_that_scripts_rely_on() {
    let folder = std::env::temp_dir().join(format!("ringwall-check-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let good = folder.join("good.yaml");
    let schema = r#"{ "type": "object", "properties": { "when": { "type": "string", "format": "date" } } }"#;
    std::fs::write(folder.join("order.json"), schema).unwrap();
    let text = "ringwall: 1\nlisten: { address: \"127.0.0.1:0\", tls: none }\nupstreams: { app: \"http://127.0.0.1:3000\" }\n\
                apis:\n  orders:\n    to: app\n    operations:\n      create: { match: POST /orders, body: { schema: order.json } }\n    \
                allow: { who: anyone }\n    limits: [{ per: address, rate: 100/min, burst: 20 }, { per: address, concurrency: 7 }]\n";
    std::fs::write(&good, text).unwrap();
    let good = good.to_str().unwrap();
    let (code, out, err) = ringwall(&["check", "-c", good]);
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("is ok") && out.contains("at most 120 in any one min"), "{out}");
    assert!(out.contains("limit per address at once: at most 7 in flight"), "{out}");
    assert!(err.contains("note RW-1703") && err.contains("format"), "{err}");
    let (code, out, _) = ringwall(&["check", "--json", "-c", good]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &value["ok"]), (0, &true.into()));
    assert_eq!(value["apis"][0]["limits"][0]["most_in_one_period"], 120);
    assert_eq!(value["apis"][0]["limits"][1]["concurrency"], 7);
    assert_eq!(value["notes"][0]["code"], "RW-1703");

    let bad = folder.join("bad.yaml");
    std::fs::write(&bad, text.replace("order.json", "gone.json")).unwrap();
    let (code, out, err) = ringwall(&["-t", "-c", bad.to_str().unwrap()]);
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("error RW-1701") && err.contains("bad.yaml:8:"), "{err}");
    std::fs::write(&bad, text.replace("who: anyone", "who: nobody")).unwrap();
    let (code, out, err) = ringwall(&["check", "--json", "-c", bad.to_str().unwrap()]);
    let value: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, err.as_str(), &value["ok"]), (1, "", &false.into()));
    assert_eq!(value["errors"][0]["code"], "RW-1502");

    assert_eq!(ringwall(&["check", "-c", "/nonexistent.yaml"]).0, 1);
    assert_eq!(ringwall(&["chekc"]).0, 2);
    assert_eq!(ringwall(&["check", "--nope"]).0, 2);
    let (code, out, _) = ringwall(&["version"]);
    assert!(code == 0 && out.starts_with("ringwall "));
    let (code, out, _) = ringwall(&["help", "RW-1304"]);
    assert!(code == 0 && out.starts_with("## RW-1304") && out.contains("audience"));
    let (code, out, _) = ringwall(&["help", "token_expired"]);
    assert!(code == 0 && out.contains("RW-3013"));
    let (code, _, err) = ringwall(&["help", "configurations"]);
    assert!(code == 1 && err.contains("did you mean `configuration`"), "{err}");
    let (code, out, _) = ringwall(&["schema"]);
    assert!(code == 0 && serde_json::from_str::<serde_json::Value>(&out).is_ok());
    assert!(ringwall(&["completions", "bash"]).1.contains("ringwall"));
    std::fs::remove_dir_all(&folder).unwrap();
}
