//! What a node depends on dies, and the page `outages` of the manual holds: what goes on, what does not, and that no gate
//! opens. Row by row; where another file has the test, its row here names it:
//!
//! * an issuer's keys: `openid::the_keys_outlive_their_provider_and_reloads_without_it`,
//!   `openid::a_node_that_is_there_before_its_provider_admits_nobody_until_it_has_the_keys`,
//!   `control_keys::an_issuer_in_trouble_takes_no_key_away`;
//! * the reader of the audit log: `audit::a_refusal_that_cannot_be_put_on_record_is_answered_503`;
//! * a revocation list: `client_certificates::a_list_that_has_ended_is_remarked_and_lets_nobody_in`;
//! * address lists: `addresses::the_longest_prefix_says_who_may_connect_and_a_changed_file_counts_at_once`;
//! * a damaged file of blocks: `block::blocks_survive_a_restart_and_a_damaged_file_is_no_start`;
//! * a bad certificate: `certificates::a_changed_certificate_is_shown_and_an_unfit_one_is_not`.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use crate::control_issuer::eventually;
use crate::name_server::{Mood, NameServer};
use crate::node::{
    Answer, Client, Node, Origin, PATIENCE, Place, Reply, Server, fetch, metric, new_key, response,
};

/// A node with a gate of every kind, and a key to it.
struct Guarded {
    node: Node,
    key: String,
}

/// What the name server knows.
const NAME: &str = "app.ringwall-test.internal";

const LISTEN: &str = "{ address: \"127.0.0.1:0\", tls: none }";

fn config(target: &str) -> String {
    format!(
        "upstreams: {{ app: {target} }}
login: {{ partners: {{ api_key: X-API-Key, store: partners.keys, pepper: \"secret:file:pepper\" }} }}
apis:
  app:
    to: app
    allow: [{{ who: partners }}]
    operations:
      get: GET /x
      create: {{ match: POST /x, body: {{ schema: order.schema.json }} }}
  closed: {{ base: /closed, closed: true }}"
    )
}

/// What the configuration names.
fn place() -> (Place, String) {
    let place = Place::new();
    place.write("pepper", "0123456789abcdef0123456789abcdef");
    place.write("order.schema.json", r#"{ "type": "object", "required": ["customer"] }"#);
    let key = new_key(place.path(), "acme", &[]);
    (place, key)
}

impl Guarded {
    fn start(origin: &Origin) -> Guarded {
        Guarded::start_with(&config(&format!("\"http://{}\"", origin.address)))
    }

    fn start_with(config: &str) -> Guarded {
        let (place, key) = place();
        Guarded { node: Node::start_in(place, LISTEN, config), key }
    }

    fn get(&self, key: &str) -> Answer {
        self.node.ask(&get(key))
    }

    fn create(&self, body: &str) -> Answer {
        let fields = format!("X-API-Key: {}\r\nContent-Type: application/json\r\n", self.key);
        self.node.ask(&format!(
            "POST /x HTTP/1.1\r\nHost: a\r\n{fields}Content-Length: {}\r\n\r\n{body}",
            body.len()
        ))
    }

    /// Who may is served, and nobody else.
    #[track_caller]
    fn serves(&self) {
        assert_eq!(self.get(&self.key).status, 200);
        assert_eq!(self.create(r#"{"customer":"a"}"#).status, 200);
        self.gates_are_shut();
    }

    /// Nobody gets in who may not.
    #[track_caller]
    fn gates_are_shut(&self) {
        assert_eq!(
            self.node.ask("GET /x HTTP/1.1\r\nHost: a\r\n\r\n").refusal(),
            refusal(401, "credential_missing")
        );
        // One letter of a real one is another.
        let forged = self.key.replacen("rwk_", "rwk_A", 1);
        assert_eq!(self.get(&forged).status, 401);
        assert_eq!(self.create(r#"{"nobody":"a"}"#).refusal(), refusal(422, "body_schema"));
        assert_eq!(self.node.ask("GET /closed HTTP/1.1\r\nHost: a\r\n\r\n").status, 403);
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.node.place.path().join(name)
    }

    fn reload(&self) -> Output {
        Command::new(env!("CARGO_BIN_EXE_ringwall"))
            .args(["reload", "--control"])
            .arg(self.path("control.sock"))
            .output()
            .expect("ringwall reload")
    }
}

fn get(key: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: a\r\nX-API-Key: {key}\r\n\r\n")
}

fn refusal(status: u16, reason: &str) -> (u16, String) {
    (status, reason.to_owned())
}

#[test]
fn an_upstream_that_dies_is_502_behind_shut_gates_and_served_again_when_it_is_back() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound");
    drop(listener);
    let guarded = Guarded::start_with(&config(&format!("\"http://{address}\"")));
    assert_eq!(guarded.get(&guarded.key).refusal(), refusal(502, "upstream_refused"));
    guarded.gates_are_shut();
    assert!(
        fetch(&guarded.node, "/readyz").starts_with("ok")
            || metric(&guarded.node, "ringwall_refusals_total", &[]) > 0.0
    );
    // It comes back where it was, and nobody has to be told.
    let listener = TcpListener::bind(address).expect("the port is free");
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut client = Client::new(stream);
            let _ = client.head();
            client.try_send(&response("200 OK", "back"));
        }
    });
    eventually("the upstream is served again", || guarded.get(&guarded.key).status == 200);
    guarded.gates_are_shut();
}

#[test]
fn known_addresses_outlive_the_name_server_and_unknown_ones_are_502_until_it_is_back() {
    let origin = Origin::plain();
    let names = NameServer::start(1, 1);
    names.addresses(NAME, &["127.0.0.1"]);
    let target = format!(
        "{{ targets: [\"http://{NAME}:{}\"], insecure: {{ reason: \"a test\", until: 2999-01-01 }} }}",
        origin.address.port()
    );
    let written = crate::node::text_of(LISTEN, &config(&target))
        .replace("node: {", &format!("node: {{ resolver: \"{}\",", names.address));
    let (first, key) = place();
    let mut guarded = Guarded { node: Node::start_whole(first, &written, &[]), key };
    eventually("the name is known", || guarded.get(&guarded.key).status == 200);
    names.be(Mood::Silent);
    // Past the time to live of the answer, which was a second, and past a reload.
    guarded.node.wait_for("RW-6040");
    guarded.serves();
    assert!(guarded.reload().status.success());
    guarded.serves();

    // A node that has never heard of the address starts, and refuses until it has.
    let (second, key) = place();
    let late = Guarded { node: Node::start_whole(second, &written, &[]), key };
    let (status, reason) = late.get(&late.key).refusal();
    assert!(matches!(status, 502 | 503) && reason.starts_with("upstream_"), "{status} {reason}");
    late.gates_are_shut();
    names.be(Mood::Answers);
    eventually("the name resolves", || late.get(&late.key).status == 200);
    late.serves();
}

#[test]
fn a_control_socket_that_is_gone_takes_a_verb_away_and_nothing_else() {
    let origin = Origin::plain();
    let mut guarded = Guarded::start(&origin);
    guarded.serves();
    std::fs::remove_file(guarded.path("control.sock")).expect("removed");
    let told = guarded.reload();
    assert_eq!(told.status.code(), Some(1), "{told:?}");
    guarded.serves();
    guarded.node.signal("HUP");
    guarded.node.wait_for("RW-6003");
    guarded.serves();
}

#[test]
fn files_that_are_gone_or_unfit_change_nothing_until_they_are_fit() {
    let origin = Origin::plain();
    let mut guarded = Guarded::start(&origin);
    guarded.serves();
    // Each on its own: gone, garbled, and back. A file that is read again by itself may be told at once.
    for name in ["order.schema.json", "pepper", "ringwall.yaml"] {
        let path = guarded.path(name);
        let good = std::fs::read(&path).expect("it is there");
        std::fs::remove_file(&path).expect("removed");
        let told = guarded.reload();
        assert_eq!(told.status.code(), Some(1), "{name}: {told:?}");
        guarded.serves();
        assert!(fetch(&guarded.node, "/metrics").contains("ringwall_config_last_reload_success 0"), "{name}");
        if name != "pepper" {
            std::fs::write(&path, "{ \"type\": [").expect("written");
            assert_eq!(guarded.reload().status.code(), Some(1), "{name}");
            guarded.serves();
        }
        std::fs::write(&path, good).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        let told = guarded.reload();
        assert!(told.status.success(), "{name}: {told:?}");
        guarded.serves();
    }
    guarded.node.wait_for("RW-6004");
}

#[test]
fn a_key_store_that_is_gone_or_garbled_takes_no_key_away_and_gives_none() {
    let origin = Origin::plain();
    let mut guarded = Guarded::start(&origin);
    let path = guarded.path("partners.keys");
    let good = std::fs::read(&path).expect("the store");
    for bad in [None, Some("garbage\n"), Some("{\"id\":1}\n")] {
        match bad {
            None => std::fs::remove_file(&path).expect("removed"),
            Some(text) => {
                let next = guarded.node.place.write("next.keys", text);
                std::fs::rename(next, &path).expect("renamed");
            }
        }
        guarded.node.wait_for("RW-6014");
        guarded.serves();
    }
    // Back, with one more key in it: that one is in force, and the old one still is.
    let next = guarded.path("next.keys");
    std::fs::write(&next, good).expect("written");
    std::fs::set_permissions(&next, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    std::fs::rename(next, &path).expect("renamed");
    let another = new_key(guarded.node.place.path(), "other", &[]);
    eventually("the new key", || guarded.get(&another).status == 200);
    guarded.serves();
}

#[test]
fn a_disk_without_room_holds_up_no_request() {
    let origin = Origin::plain();
    let (place, key) = place();
    let text = crate::node::text_of(LISTEN, &config(&format!("\"http://{}\"", origin.address)));
    let text = text.replace("file: access.jsonl", "file: /dev/full");
    let mut guarded = Guarded { node: Node::start_whole(place, &text, &[]), key };
    guarded.serves();
    guarded.node.wait_for("RW-6053");
    // More than the ring holds: what cannot be kept is counted, and nobody waits for it.
    let mut client = guarded.node.connect();
    let begun = Instant::now();
    while metric(&guarded.node, "ringwall_log_records_lost_total", &[]) == 0.0 {
        assert!(begun.elapsed() < 3 * PATIENCE, "the ring fills up");
        client.send(get(&guarded.key).repeat(200));
        for _ in 0..200 {
            assert_eq!(client.answer().status, 200);
        }
    }
    guarded.serves();
}

#[test]
fn an_audit_log_without_room_refuses_what_it_would_have_told_and_admits_nobody() {
    let origin = Origin::plain();
    let (place, key) = place();
    let text = crate::node::text_of(LISTEN, &config(&format!("\"http://{}\"", origin.address)));
    let text = format!("{text}audit: {{ file: /dev/full }}\n");
    let mut guarded = Guarded { node: Node::start_whole(place, &text, &[]), key };
    let mut client = guarded.node.connect();
    let begun = Instant::now();
    let mut full = false;
    while !full {
        assert!(begun.elapsed() < 3 * PATIENCE, "the ring fills up");
        client.send("GET /x HTTP/1.1\r\nHost: a\r\n\r\n".repeat(200));
        for _ in 0..200 {
            let (status, reason) = client.answer().refusal();
            full |= reason == "audit_full";
            assert!(matches!(status, 401 | 503), "{status} {reason}");
        }
    }
    guarded.node.wait_for("RW-6053");
    // Who may is not refused, and so served; who may not is refused, one way or the other.
    client.send(get(&guarded.key));
    assert_eq!(client.answer().status, 200);
    client.send("GET /closed HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.answer().refusal(), refusal(503, "audit_full"));
    assert!(metric(&guarded.node, "ringwall_audit_records_lost_total", &[]) > 0.0);
}

#[test]
fn a_reader_of_the_log_that_dies_is_missed_by_nobody_and_the_next_one_goes_on() {
    let origin = Origin::plain();
    let (place, key) = place();
    let pipe = place.path().join("access.pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let text = crate::node::text_of(LISTEN, &config(&format!("\"http://{}\"", origin.address)));
    let text = text.replace("file: access.jsonl", "file: access.pipe");
    let reader = |pipe: &Path| {
        let child = Command::new("cat").arg(pipe).stdout(Stdio::piped()).spawn().expect("cat");
        let mut server = Server(child);
        let lines = BufReader::new(server.0.stdout.take().expect("piped")).lines();
        (server, lines)
    };
    let (first, mut lines) = reader(&pipe);
    let guarded = Guarded { node: Node::start_whole(place, &text, &[]), key };
    guarded.serves();
    assert!(lines.next().expect("a line").expect("text").contains("\"status\":200"));
    drop(first);
    for _ in 0..20 {
        guarded.serves();
    }
    let (_second, mut lines) = reader(&pipe);
    assert_eq!(guarded.get(&guarded.key).status, 200);
    assert!(lines.next().expect("a line").expect("text").starts_with('{'));
    guarded.serves();
}

#[test]
fn a_process_log_that_nobody_reads_any_more_ends_nothing() {
    let origin = Origin::plain();
    let (place, key) = place();
    let text = crate::node::text_of(LISTEN, &config(&format!("\"http://{}\"", origin.address)));
    let file = place.write("ringwall.yaml", &text);
    let child = Command::new(env!("CARGO_BIN_EXE_ringwall"))
        .args(["run", "-c"])
        .arg(file)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("ringwall");
    let mut server = Server(child);
    let mut lines = BufReader::new(server.0.stderr.take().expect("piped")).lines();
    let ready =
        lines.by_ref().map_while(Result::ok).find(|line| line.contains("RW-6001")).expect("it starts");
    let address: SocketAddr = ready
        .split_whitespace()
        .find_map(|word| word.strip_prefix("listen="))
        .and_then(|word| word.parse().ok())
        .expect("an address");
    drop(lines);
    let ask = |text: &str| {
        let mut client = Client::new(TcpStream::connect(address).expect("connected"));
        client.send(text);
        client.answer().status
    };
    // Each of these says something that nobody hears.
    for _ in 0..3 {
        let told = Command::new(env!("CARGO_BIN_EXE_ringwall"))
            .args(["reload", "--control"])
            .arg(place.path().join("control.sock"))
            .output()
            .expect("ringwall reload");
        assert!(told.status.success(), "{told:?}");
        assert_eq!((ask(&get(&key)), ask("GET /x HTTP/1.1\r\nHost: a\r\n\r\n")), (200, 401));
    }
    assert!(server.0.try_wait().expect("its state").is_none(), "it runs");
}

#[test]
fn a_target_that_dies_with_its_probe_is_left_out_and_taken_back() {
    let dead = Arc::new(AtomicBool::new(false));
    let dies = Arc::clone(&dead);
    let ill =
        Origin::start(move |seen| match (dies.load(Ordering::Relaxed), seen.head.contains("/healthz")) {
            (true, _) => Reply::Last(response("500 Internal Server Error", "ill")),
            (false, true) => Reply::Bytes(response("200 OK", "")),
            (false, false) => Reply::Bytes(response("200 OK", "first")),
        });
    let well = Origin::start(|_| Reply::Bytes(response("200 OK", "second")));
    let target = format!(
        "{{ targets: [\"http://{}\", \"http://{}\"], balance: round_robin, health: {{ get: /healthz, every: 100ms }} }}",
        ill.address, well.address
    );
    let mut guarded = Guarded::start_with(&config(&target));
    eventually("the first is asked", || guarded.get(&guarded.key).text() == "first");
    dead.store(true, Ordering::Relaxed);
    guarded.node.wait_for("RW-6042");
    for _ in 0..20 {
        let answer = guarded.get(&guarded.key);
        assert_eq!((answer.status, answer.text().as_str()), (200, "second"));
    }
    guarded.gates_are_shut();
    dead.store(false, Ordering::Relaxed);
    guarded.node.wait_for("RW-6043");
    eventually("the first is asked again", || guarded.get(&guarded.key).text() == "first");
}

#[test]
fn a_block_that_cannot_be_written_down_is_in_force_all_the_same() {
    let origin = Origin::plain();
    let mut guarded = Guarded::start(&origin);
    guarded.serves();
    // Where the file would be, nothing can be put.
    std::fs::create_dir_all(guarded.path("control.sock.blocks").join("in the way")).expect("a directory");
    let added = Command::new(env!("CARGO_BIN_EXE_ringwall"))
        .args(["block", "add", "--operation", "app/get", "--reason", "a test", "--control"])
        .arg(guarded.path("control.sock"))
        .output()
        .expect("ringwall block");
    println!("{added:?}");
    guarded.node.wait_for("RW-6095");
    eventually("the block is in force", || {
        guarded.get(&guarded.key).refusal() == refusal(403, "operation_blocked")
    });
    assert_eq!(guarded.create(r#"{"customer":"a"}"#).status, 200);
    assert_eq!(guarded.create(r#"{"nobody":"a"}"#).refusal(), refusal(422, "body_schema"));
    assert_eq!(guarded.get("rwk_nobody").status, 403, "whoever asks");
}
