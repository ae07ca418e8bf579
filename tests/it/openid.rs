//! Logins by a real OpenID provider, from discovery to the death of the provider. It is the npm package `oidc-provider`, run
//! by `openid_provider.mjs` beside this file.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use crate::control_issuer::eventually;
use crate::node::{Answer, Node, Origin, PATIENCE, Place, Server};

/// Resources of the provider. The first two are for us.
pub const ORDERS: &str = "urn:orders";
const ORDERS_ES256: &str = "urn:orders:es256";
/// For us, for three seconds.
const ORDERS_BRIEF: &str = "urn:orders:brief";
/// For us, but nothing that can be verified without asking.
const ORDERS_OPAQUE: &str = "urn:orders:opaque";
/// For somebody else.
const BILLING: &str = "urn:billing";

/// A running provider. It ends when its input is closed, which the end of the test's process does too.
pub struct Provider {
    /// As it stands in the tokens and in the configuration.
    pub issuer: String,
    process: Server,
    input: ChildStdin,
    lines: Receiver<String>,
    /// Who signed for its certificate, if it has one.
    authority: Option<PathBuf>,
    place: Place,
}

impl Provider {
    fn start() -> Provider {
        Provider::launch(None)
    }

    /// With TLS: the PEM files of a certificate, of its key, and of the authority that signed for it.
    pub fn start_tls(certificate: &Path, key: &Path, authority: &Path) -> Provider {
        Provider::launch(Some((certificate, key, authority)))
    }

    fn launch(tls: Option<(&Path, &Path, &Path)>) -> Provider {
        let place = Place::new();
        let modules = node_modules();
        let complaints = std::fs::File::create(place.path().join("stderr")).expect("a file");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/openid_provider.mjs");
        let mut command = Command::new("node");
        command.arg(script).arg(modules).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(complaints);
        if let Some((certificate, key, _)) = tls {
            command.arg(certificate).arg(key);
        }
        let mut process: Child =
            command.spawn().unwrap_or_else(|error| panic!("node: {error}; `tests/run install` installs it"));
        let input = process.stdin.take().expect("piped");
        let output = process.stdout.take().expect("piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let authority = tls.map(|(_, _, authority)| authority.to_owned());
        let process = Server(process);
        let mut provider = Provider { issuer: String::new(), process, input, lines, authority, place };
        provider.issuer = provider.line("issuer ");
        provider
    }

    /// The next line, which begins with `what`; the rest of it.
    fn line(&self, what: &str) -> String {
        let line = self.lines.recv_timeout(PATIENCE);
        let rest = line.as_deref().ok().and_then(|line| line.strip_prefix(what));
        let Some(rest) = rest else {
            let complaints = std::fs::read_to_string(self.place.path().join("stderr"));
            panic!("the provider said {line:?} where it should say {what:?}; {}", complaints.expect("text"));
        };
        rest.to_owned()
    }

    /// Has a command of the script done.
    fn told(&mut self, command: &str) {
        writeln!(self.input, "{command}").expect("it listens");
        assert_eq!(self.line("done "), command);
    }

    /// A token for a resource, as a client gets one with its own credentials.
    pub fn token(&self, resource: &str, scope: &str) -> String {
        let mut command = Command::new("curl");
        command.args(["-s", "-S", "--max-time", "20", "-d", "grant_type=client_credentials"]);
        command.args(["-d", "client_id=shop", "-d", "client_secret=not-a-secret-of-anybody"]);
        command.arg("--data-urlencode").arg(format!("resource={resource}"));
        command.arg("--data-urlencode").arg(format!("scope={scope}"));
        if let Some(authority) = &self.authority {
            command.arg("--cacert").arg(authority);
        }
        let output =
            command.arg(format!("{}/token", self.issuer.trim_end_matches('/'))).output().expect("curl");
        let answer: serde_json::Value =
            serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
        answer["access_token"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    /// Its process ends at once, without a word to anybody.
    fn die(&mut self) {
        self.process.0.kill().expect("it ran");
        self.process.0.wait().expect("it ended");
    }
}

/// Where `tests/run install` puts the package.
fn node_modules() -> PathBuf {
    let modules = match std::env::var_os("RINGWALL_NODE_MODULES") {
        Some(modules) => PathBuf::from(modules),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/node/node_modules"),
    };
    let package = modules.join("oidc-provider/package.json");
    assert!(package.is_file(), "{} is not there; `tests/run install` installs it", package.display());
    modules
}

/// An API whose callers this issuer knows, with more about the login and the API.
fn config(issuer: &str, origin: &Origin, login: &str, api: &str) -> String {
    format!(
        "upstreams: {{ orders: \"http://{}\" }}\n\
         login: {{ people: {{ oidc: \"{issuer}\", audience: orders-api{login} }} }}\n\
         apis:\n  orders:\n    to: orders\n    operations:\n      listOrders: GET /orders\n      \
         createOrder: POST /orders\n    allow:\n      \
         - {{ who: people, scope: orders.read, do: [listOrders] }}\n      \
         - {{ who: people, scope: orders.write, do: [createOrder] }}\n{api}",
        origin.address
    )
}

fn started(provider: &Provider, origin: &Origin) -> Node {
    Node::start(&config(&provider.issuer, origin, "", ""))
}

/// Asks for the orders with these fields, each with its line end.
fn list(node: &Node, fields: &str) -> Answer {
    node.ask(&format!("GET /orders HTTP/1.1\r\nHost: a\r\n{fields}\r\n"))
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}\r\n")
}

fn status(node: &Node, token: &str) -> u16 {
    list(node, &bearer(token)).status
}

#[test]
fn a_token_of_a_discovered_issuer_is_admitted_where_its_scope_reaches() {
    let (provider, origin) = (Provider::start(), Origin::plain());
    let node = started(&provider, &origin);
    // The very first request: the keys were there before it.
    for (count, resource) in [ORDERS, ORDERS_ES256].into_iter().enumerate() {
        let read = provider.token(resource, "orders.read");
        let answer = list(&node, &bearer(&read));
        assert_eq!((answer.status, answer.text().as_str()), (200, "hello"), "{resource}");
        let seen = origin.next();
        assert_eq!(seen.field("X-Ringwall-Subject"), Some("shop"));
        assert_eq!(seen.field("X-Ringwall-Issuer"), Some(provider.issuer.as_str()));
        assert_eq!(seen.field("X-Ringwall-Scopes"), Some("orders.read"));
        assert_eq!(seen.field("X-Ringwall-Login"), Some("people"));
        assert_eq!(seen.field("Authorization"), None);
        assert!(!seen.head.contains(&read), "{}", seen.head);

        let create = |token: &str| {
            let authorization = bearer(token);
            node.ask(&format!(
                "POST /orders HTTP/1.1\r\nHost: a\r\n{authorization}Content-Length: 2\r\n\r\n{{}}"
            ))
        };
        let refused = create(&read);
        assert_eq!(refused.refusal(), (403, "scope_missing".to_owned()));
        let both = provider.token(resource, "orders.read orders.write");
        assert_eq!(create(&both).status, 200);
        let seen = origin.next();
        assert_eq!(seen.field("X-Ringwall-Scopes"), Some("orders.read orders.write"));
        assert_eq!(seen.body, b"{}");
        assert!(origin.saw_nothing_more());

        let lines = node.log(3 * (count + 1));
        let of = |status: u16| lines.iter().rfind(|line| line["status"] == status).expect("a line");
        assert_eq!((&of(200)["login"], &of(200)["subject"]), (&"people".into(), &"shop".into()));
        assert_eq!(of(403)["reason"], "scope_missing");
    }
    let log = std::fs::read_to_string(node.place.path().join("access.jsonl")).expect("a log");
    assert!(!log.contains("eyJ"), "a token in {log}");
}

#[test]
fn what_is_no_token_for_this_api_is_refused_and_goes_nowhere() {
    let (provider, origin) = (Provider::start(), Origin::plain());
    let node = started(&provider, &origin);
    let good = provider.token(ORDERS_ES256, "orders.read");
    let (signed, signature) = good.rsplit_once('.').expect("a signature");
    let (header, claims) = signed.split_once('.').expect("a header");
    // The first character has six whole bits of the signature.
    let other = if signature.starts_with('A') { 'B' } else { 'A' };
    let forged = format!("{signed}.{other}{}", &signature[1..]);
    let foreign = provider.token(ORDERS_ES256, "orders.write");
    let exchanged = format!("{header}.{}.{signature}", foreign.split('.').nth(1).expect("claims"));
    // {"alg":"none","typ":"at+jwt"}
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.{claims}.");
    let refused = [
        ("credential_missing", String::new()),
        ("credential_unreadable", "Authorization: Basic c2hvcDpzaG9w\r\n".to_owned()),
        ("token_signature", bearer(&forged)),
        ("token_signature", bearer(&exchanged)),
        ("token_algorithm", bearer(&unsigned)),
        ("token_audience", bearer(&provider.token(BILLING, "orders.read"))),
        ("token_malformed", bearer(&provider.token(ORDERS_OPAQUE, "orders.read"))),
    ];
    for (count, (reason, fields)) in refused.iter().enumerate() {
        let answer = list(&node, fields);
        assert_eq!(answer.refusal(), (401, (*reason).to_owned()), "{fields}");
        let challenge = answer.field("WWW-Authenticate").expect("how to do better");
        assert!(challenge.starts_with("Bearer"), "{challenge}");
        // RFC 6750 §3.1: a request without a credential is told of no error.
        let told = challenge.contains("error=\"invalid_token\"");
        assert_eq!(told, *reason != "credential_missing", "{reason}: {challenge}");
        assert_eq!(node.log(count + 1)[count]["reason"], *reason);
    }
    assert_eq!(list(&node, &bearer(&good).repeat(2)).status, 400);
    assert!(origin.saw_nothing_more());
    assert_eq!(status(&node, &good), 200);
}

#[test]
fn an_identity_that_the_client_claims_never_reaches_the_origin() {
    let (provider, origin) = (Provider::start(), Origin::plain());
    let renamed = "    identity: { X-User: subject, X-Realm: issuer }\n";
    let node = Node::start(&config(&provider.issuer, &origin, "", renamed));
    let mut fields = bearer(&provider.token(ORDERS, "orders.read"));
    for name in ["X-User", "x_user", "X-Realm", "X-Ringwall-Subject", "X-Ringwall-Roles", "X_Ringwall_Scopes"]
    {
        fields += &format!("{name}: mallory\r\n");
    }
    for name in ["Remote-User", "X-Forwarded-User", "X-Auth-Request-Email", "X-Client-Cert"] {
        fields += &format!("{name}: mallory\r\n");
    }
    assert_eq!(list(&node, &fields).status, 200);
    let seen = origin.next();
    assert!(!seen.head.contains("mallory"), "{}", seen.head);
    assert_eq!(seen.field("X-User"), Some("shop"));
    assert_eq!(seen.field("X-Realm"), Some(provider.issuer.as_str()));
    assert_eq!(seen.field("X-Ringwall-Subject"), None);
}

#[test]
fn a_token_that_passthrough_lets_by_reaches_the_origin_as_it_came() {
    let (provider, origin) = (Provider::start(), Origin::plain());
    let node = Node::start(&config(&provider.issuer, &origin, ", passthrough: true", ""));
    let token = provider.token(ORDERS, "orders.read");
    assert_eq!(status(&node, &token), 200);
    assert_eq!(origin.next().field("Authorization"), Some(format!("Bearer {token}").as_str()));
}

#[test]
fn a_token_that_runs_out_is_refused_though_it_was_known() {
    let (provider, origin) = (Provider::start(), Origin::plain());
    let node = Node::start(&config(&provider.issuer, &origin, ", skew: 2s", ""));
    let token = provider.token(ORDERS_BRIEF, "orders.read");
    assert_eq!(status(&node, &token), 200);
    eventually("the end of the token", || status(&node, &token) != 200);
    assert_eq!(list(&node, &bearer(&token)).refusal(), (401, "token_expired".to_owned()));
}

#[test]
fn a_new_key_is_found_at_its_first_use_and_an_old_one_goes_when_the_key_set_drops_it() {
    let (mut provider, origin) = (Provider::start(), Origin::plain());
    // Unknown keys make a node ask once in 30 s: one node for each of the two changes.
    let (rotated, retired) = (started(&provider, &origin), started(&provider, &origin));
    let old = provider.token(ORDERS, "orders.read");
    let unused = provider.token(ORDERS, "orders.read");
    assert_eq!((status(&rotated, &old), status(&retired, &old)), (200, 200));

    provider.told("rotate");
    for resource in [ORDERS, ORDERS_ES256] {
        let new = provider.token(resource, "orders.read");
        eventually("the new key", || status(&rotated, &new) == 200);
    }
    // Known or not, what the old key signed is good as long as the provider shows that key.
    assert_eq!((status(&rotated, &old), status(&rotated, &unused)), (200, 200));

    provider.told("retire");
    let new = provider.token(ORDERS, "orders.read");
    eventually("the new key", || status(&retired, &new) == 200);
    for gone in [&old, &unused] {
        assert_eq!(list(&retired, &bearer(gone)).refusal(), (401, "key_unknown".to_owned()));
    }
    assert_eq!((status(&rotated, &old), status(&rotated, &unused)), (200, 200));
}

#[test]
fn the_keys_outlive_their_provider_and_reloads_without_it() {
    let (mut provider, origin) = (Provider::start(), Origin::plain());
    let mut node = started(&provider, &origin);
    let known = provider.token(ORDERS, "orders.read");
    let unused: Vec<_> = (0..3).map(|_| provider.token(ORDERS_ES256, "orders.read")).collect();
    provider.told("rotate");
    let stranger = provider.token(ORDERS, "orders.read");
    assert_eq!(status(&node, &known), 200);
    provider.die();

    assert_eq!((status(&node, &known), status(&node, &unused[0])), (200, 200));
    // A key that cannot be had any more is asked for in vain, and that takes nothing away.
    assert_eq!(list(&node, &bearer(&stranger)).refusal(), (401, "key_unknown".to_owned()));
    node.wait_for("RW-6011");
    assert_eq!((status(&node, &known), status(&node, &unused[1])), (200, 200));

    node.signal("HUP");
    node.wait_for("RW-6003");
    assert_eq!(status(&node, &known), 200);
    // A reload that changes something else of the API, and one that is asked for by its verb.
    node.rewrite(&config(&provider.issuer, &origin, "", "    identity: { X-User: subject }\n"));
    node.wait_for("RW-6003");
    let reload = Command::new(env!("CARGO_BIN_EXE_ringwall"))
        .args(["reload", "--control"])
        .arg(node.place.path().join("control.sock"))
        .output()
        .expect("ringwall reload");
    assert!(reload.status.success(), "{reload:?}");
    assert_eq!((status(&node, &known), status(&node, &unused[2])), (200, 200));
    // That was the configuration after the reloads.
    let seen = origin.seen.try_iter().last().expect("a request");
    assert_eq!(seen.field("X-User"), Some("shop"));
}

#[test]
fn a_node_that_is_there_before_its_provider_admits_nobody_until_it_has_the_keys() {
    let (mut provider, origin) = (Provider::start(), Origin::plain());
    let token = provider.token(ORDERS, "orders.read");
    provider.told("hide");
    let node = started(&provider, &origin);
    assert_eq!(list(&node, &bearer(&token)).refusal(), (503, "keys_unavailable".to_owned()));
    assert_eq!(list(&node, "").status, 401);
    assert!(origin.saw_nothing_more());
    provider.told("show");
    eventually("the keys", || status(&node, &token) == 200);
}

#[test]
fn an_issuer_is_the_providers_own_word_to_the_last_slash() {
    let (provider, origin) = (Provider::start(), Origin::plain());
    let token = provider.token(ORDERS, "orders.read");
    let mut node = Node::start(&config(&format!("{}/", provider.issuer), &origin, "", ""));
    // Which of the two lines comes first is open.
    let refused = |line: &str| line.contains("RW-6012") && line.contains(&provider.issuer);
    if !node.lines_so_far().any(refused) {
        assert!(refused(&node.wait_for("RW-6012")));
    }
    assert_eq!(list(&node, &bearer(&token)).refusal(), (503, "keys_unavailable".to_owned()));
    assert!(origin.saw_nothing_more());
}
