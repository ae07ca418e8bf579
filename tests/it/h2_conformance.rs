//! The suite of `tests/conformance/h2` against a node, over TLS and in cleartext: every case passes, in the narrow sense that
//! RFC 9113 names first. And the clients that other people wrote, through a node to the same origin.
//!
//! The frames are made by Python's `hyperframe` and `hpack`; the suite runs the origin behind the node itself.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::nginx::free_address;
use crate::node::{Node, Place};

/// At least so many cases have to have run, or something has left them out.
const CASES_MIN: usize = 400;
const UPSTREAM_CASES_MIN: usize = 120;
/// What no node of ours has a use for, over any transport: each says why in its record.
const LEFT_OUT_MAX: usize = 8;

/// A node with a listener over TLS and one for prior knowledge, both before the origin that the suite runs.
fn start(origin: SocketAddr) -> Node {
    let place = Place::new();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    place.write("c.pem", &made.cert.pem());
    place.write("k.pem", &made.signing_key.serialize_pem());
    let listen = "\n  - { address: \"127.0.0.1:0\", domains: [localhost], tls: { cert: c.pem, key: k.pem } }\n  \
                  - { address: \"127.0.0.1:0\", domains: [localhost], tls: none, protocols: [http2] }";
    // Large bodies have to come through; everything else is as it is for everybody.
    let config = format!(
        "upstreams: {{ app: \"http://{origin}\" }}\n\
         apis:\n  app: {{ to: app, raw: a test, allow: [{{ who: anyone }}], sizes: {{ body: 64MiB }} }}"
    );
    Node::start_in(place, listen, &config)
}

/// Where `tests/run install` puts the packages.
fn python() -> PathBuf {
    let python = match std::env::var_os("RINGWALL_PYTHON") {
        Some(python) => PathBuf::from(python),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python"),
    };
    assert!(python.is_file(), "{} is not there; `tests/run install` installs it", python.display());
    python
}

/// Runs a script of the suite, which ends by itself; its records and its sum.
fn run(script: &str, arguments: &[&str]) -> (Vec<serde_json::Value>, serde_json::Value) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/h2").join(script);
    let mut command = Command::new(python());
    command.arg(script).arg("--json").args(arguments).stdin(Stdio::null());
    let Output { stdout, stderr, .. } = command.output().expect("python");
    let said = String::from_utf8(stdout).expect("text");
    let mut records: Vec<serde_json::Value> =
        said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let sum = records.pop().unwrap_or_else(|| panic!("nothing said: {}", String::from_utf8_lossy(&stderr)));
    (records, sum)
}

/// What failed, a line each.
fn failures(records: &[serde_json::Value]) -> String {
    let failed = records.iter().filter(|record| record["state"] == "failed");
    failed
        .map(|record| format!("{}: {} came: {}\n", record["id"], record["expected"], record["came"]))
        .collect()
}

fn conforms(tls: bool) {
    let origin = free_address();
    let node = start(origin);
    let address = node.addresses[usize::from(!tls)];
    let (port, origin) = (address.port().to_string(), origin.to_string());
    let authority = format!("localhost:{port}");
    let drain = format!("{}:TERM", node.child.id());
    let mut arguments = vec!["--narrow", "--host", "127.0.0.1", "--port", &port, "--authority", &authority];
    arguments.extend(["--origin", &origin, "--drain", &drain]);
    if tls {
        arguments.push("--tls");
    }
    let (records, sum) = run("__main__.py", &arguments);
    assert_eq!(sum["failed"], 0, "\n{}", failures(&records));
    let passed = records.iter().filter(|record| record["state"] == "passed").count();
    assert!(passed >= CASES_MIN, "{passed} of {} cases: {sum}", records.len());
    assert!(records.len() - passed <= LEFT_OUT_MAX, "{sum}");
}

#[test]
fn every_case_of_the_suite_passes_over_tls() {
    conforms(true);
}

#[test]
fn every_case_of_the_suite_passes_with_prior_knowledge() {
    conforms(false);
}

/// The other role: what upstreams may and may not say, as an upstream that is told frame by frame.
#[test]
fn every_case_of_an_upstream_passes() {
    let origin = free_address();
    let config = format!(
        "upstreams: {{ app: {{ targets: [\"http://{origin}\"], protocol: http2 }} }}\n\
         apis:\n  app: {{ to: app, raw: a test, allow: [{{ who: anyone }}] }}"
    );
    let node = Node::start(&config);
    let (port, origin) = (node.address.port().to_string(), origin.to_string());
    let (records, sum) = run("upstream.py", &["--port", &port, "--origin", &origin]);
    assert_eq!(sum["failed"], 0, "\n{}", failures(&records));
    assert!(records.len() >= UPSTREAM_CASES_MIN, "{sum}");
}

fn serves_clients(tls: bool, expected: usize) {
    let origin = free_address();
    let node = start(origin);
    let port = node.addresses[usize::from(!tls)].port().to_string();
    let origin = origin.to_string();
    let mut arguments = vec!["--name", "localhost", "--port", &port, "--origin", &origin];
    if tls {
        arguments.push("--tls");
    }
    let (records, sum) = run("clients.py", &arguments);
    assert_eq!(sum["failed"], 0, "\n{}", failures(&records));
    for record in records.iter().filter(|record| record["state"] == "left out") {
        let why = record["came"].as_str().expect("text");
        assert!(std::env::var("CI").as_deref() != Ok("true") || why.contains("over TLS only"), "{record}");
        println!("NOT RUN: {why}");
    }
    let passed = records.iter().filter(|record| record["state"] == "passed").count();
    assert!(passed >= expected, "{passed} of {}: {sum}", records.len());
}

#[test]
fn clients_that_others_wrote_are_served_over_tls() {
    serves_clients(true, 20);
}

#[test]
fn clients_that_others_wrote_are_served_with_prior_knowledge() {
    serves_clients(false, 20);
}
