//! The audit log of a running node: every refusal is on record before it is answered, or it is answered otherwise.

use std::io::{BufRead, BufReader};
use std::process::Command;
use std::time::Instant;

use crate::node::{Client, Node, Origin, PATIENCE, Place, metric};

/// Requests that are sent before their answers are read.
const BATCH: usize = 200;
/// More than any ring and pipe holds.
const REQUESTS_MAX: usize = 30_000;

fn start(origin: &Origin, more: &str) -> Node {
    let place = Place::new();
    let made = Command::new("mkfifo").arg(place.path().join("audit.fifo")).status().expect("mkfifo");
    assert!(made.success());
    let config = format!(
        "upstreams: {{ app: \"http://{}\" }}\n\
         apis: {{ app: {{ to: app, operations: {{ one: GET /one }}, allow: [{{ who: anyone }}] }} }}\n\
         audit: {{ file: audit.fifo{more} }}",
        origin.address
    );
    Node::start_in(place, "{ address: \"127.0.0.1:0\", tls: none }", &config)
}

/// The statuses of so many refused requests on one connection, and so on one core.
fn refused(client: &mut Client, count: usize) -> Vec<(u16, String)> {
    let mut statuses = Vec::new();
    for _ in 0..count {
        client.send("GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
    }
    for _ in 0..count {
        let answer = client.answer();
        statuses.push((answer.status, answer.reason()));
    }
    statuses
}

fn lost(node: &Node) -> u64 {
    metric(node, "ringwall_audit_records_lost_total", &[]) as u64
}

#[test]
fn a_refusal_that_cannot_be_put_on_record_is_answered_503() {
    let origin = Origin::plain();
    let node = start(&origin, "");
    let mut client = node.connect();
    let (mut on_record, mut sent) = (0, 0);
    // Nobody reads the pipe: pipe, writer and ring fill up.
    loop {
        assert!(sent < REQUESTS_MAX, "a full ring is an answer");
        let statuses = refused(&mut client, BATCH);
        sent += BATCH;
        on_record += statuses.iter().filter(|(status, _)| *status == 404).count();
        if let Some((_, reason)) = statuses.iter().find(|(status, _)| *status == 503) {
            assert_eq!(reason, "audit_full");
            break;
        }
    }
    // What is not refused goes on, and the log of all requests tells the rest.
    assert_eq!(node.ask("GET /one HTTP/1.1\r\nHost: a\r\n\r\n").status, 200);
    let lines = node.log(sent + 1);
    let full = lines.iter().filter(|line| line["reason"] == "audit_full").count();
    assert_eq!(full, sent - on_record);
    assert_eq!(lost(&node), full as u64);

    // A reader comes: nothing that was answered as refused is missing, and refusals are answered as such again.
    let pipe = std::fs::File::open(node.place.path().join("audit.fifo")).expect("the pipe");
    let mut records = BufReader::new(pipe).lines();
    let mut next = || -> serde_json::Value {
        serde_json::from_str(&records.next().expect("a line").expect("text")).expect("JSON")
    };
    let mut seen = 0;
    while seen < on_record {
        let record = next();
        if record["reason"] == "route_unknown" {
            assert_eq!((&record["status"], &record["path"]), (&404.into(), &"/nowhere".into()));
            seen += 1;
        }
    }
    let deadline = Instant::now() + PATIENCE;
    while refused(&mut client, 1)[0].0 != 404 {
        assert!(Instant::now() < deadline, "there is room again");
    }
    while next()["reason"] != "route_unknown" {}
}

#[test]
fn with_drop_a_refusal_is_answered_as_ever() {
    let origin = Origin::plain();
    let node = start(&origin, ", on_full: drop");
    let mut client = node.connect();
    let mut sent = 0;
    while lost(&node) == 0 {
        assert!(sent < REQUESTS_MAX, "the ring fills up");
        let statuses = refused(&mut client, BATCH);
        sent += BATCH;
        assert!(statuses.iter().all(|status| *status == (404, "route_unknown".to_owned())), "{statuses:?}");
    }
}

#[test]
fn what_administrators_do_is_on_record() {
    let origin = Origin::plain();
    let config = |why: &str| {
        format!(
            "upstreams: {{ app: \"http://{}\" }}\n\
             apis: {{ app: {{ to: app, raw: \"{why}\", allow: [{{ who: anyone }}] }} }}\naudit: {{ file: audit.jsonl }}",
            origin.address
        )
    };
    let mut node = Node::start(&config("a test"));
    node.rewrite(&config("another test"));
    node.wait_for("RW-6003");
    node.rewrite("apis: 7");
    node.wait_for("RW-6004");
    let path = node.place.path().join("audit.jsonl");
    let deadline = Instant::now() + PATIENCE;
    let records: Vec<serde_json::Value> = loop {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let whole = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect::<Vec<_>>();
        if whole.len() >= 2 {
            break whole;
        }
        assert!(Instant::now() < deadline, "two records: {text}");
        std::thread::yield_now();
    };
    assert_eq!((&records[0]["action"], &records[0]["outcome"]), (&"reload".into(), &"ok".into()));
    assert_eq!((&records[1]["action"], &records[1]["outcome"]), (&"reload".into(), &"refused".into()));
    assert_eq!(records[1]["actor"], "file");
}
