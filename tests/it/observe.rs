//! Rings, writer and metrics as an operator meets them: what is lost is counted, what stalls holds nobody up, what is
//! rotated stays whole, and Prometheus reads the page.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ringwall::http::Reason;
use ringwall::observe::{
    AccessRecord, AdminRecord, ApiNames, AuditSink, Decision, ExemplarId, Exposition, Family, Handshake,
    LogConfig, LogFormat, LogRings, Method, Mode, Names, OperationId, Registry, RequestId, RingSizes, Sink,
    TokenCache, Writer, rings,
};
use serde_json::Value;

/// How long a test waits for what must come.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder that goes with the test.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new(name: &str) -> Folder {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("ringwall-{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder for the test");
        Folder(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _best_effort = fs::remove_dir_all(&self.0);
    }
}

/// Whether a program of others is there; in CI it must be.
pub fn installed(program: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|paths| std::env::split_paths(&paths).any(|folder| folder.join(program).is_file()));
    assert!(
        found || std::env::var("CI").as_deref() != Ok("true"),
        "CI has no {program}; tests/run installs it"
    );
    if !found {
        println!("NOT RUN: {program} is not installed");
    }
    found
}

fn config(access: &Path) -> LogConfig {
    LogConfig {
        access: Some(Sink::File(access.to_owned())),
        format: LogFormat::Json,
        audit: AuditSink::Off,
        now_ms: || 1_795_297_261_042,
    }
}

fn start(
    rings: LogRings,
    config: &LogConfig,
) -> (Vec<ringwall::observe::CoreLog>, ringwall::observe::AdminLog, Writer) {
    let writer = Writer::start(rings.drain, config, Arc::default()).expect("the writer starts");
    (rings.cores, rings.admin, writer)
}

fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for: {what}");
        thread::sleep(Duration::from_millis(2));
    }
}

fn numbered(number: u64) -> AccessRecord<'static> {
    AccessRecord {
        time_ms: number,
        method: Method::Get,
        path: b"/v1/orders",
        status: 200,
        ..AccessRecord::default()
    }
}

fn lines(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("the log is there");
    assert!(text.is_empty() || text.ends_with('\n'), "the last line is whole");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")))
        .collect()
}

fn is_access(line: &Value) -> bool {
    line.get("event").is_none()
}

#[test]
fn many_cores_lose_nothing_that_is_not_counted() {
    const CORES: usize = 4;
    const PUSHES: u64 = 30_000;
    let folder = Folder::new("stress");
    let path = folder.path("access.jsonl");
    let rings = rings(CORES, RingSizes { access_bytes: 64 << 10, audit_bytes: 0 });
    let (cores, _admin, writer) = start(rings, &config(&path));
    let pushers: Vec<_> = cores
        .into_iter()
        .enumerate()
        .map(|(core, log)| {
            thread::spawn(move || {
                let subject = format!("core-{core}");
                let mut kept = 0u64;
                for number in 0..PUSHES {
                    let path = "/x".repeat(1 + number as usize % 40);
                    let record = AccessRecord {
                        subject: subject.as_bytes(),
                        path: path.as_bytes(),
                        ..numbered(number)
                    };
                    kept += u64::from(log.push(&record));
                    if number % 512 == 0 {
                        thread::sleep(Duration::from_millis(1));
                    }
                }
                kept
            })
        })
        .collect();
    let kept: Vec<u64> = pushers.into_iter().map(|pusher| pusher.join().expect("a core ends")).collect();
    let stats = writer.stats();
    assert!(writer.stop(PATIENCE));
    let lines = lines(&path);
    for (core, kept) in kept.iter().enumerate() {
        let subject = format!("core-{core}");
        let mine: Vec<_> = lines.iter().filter(|line| line["subject"] == subject.as_str()).collect();
        assert_eq!(mine.len() as u64, *kept);
        assert!(mine.is_sorted_by_key(|line| line["time"].as_str()), "the order of a core is kept");
        let told: u64 = lines
            .iter()
            .filter(|line| line["event"] == "log_records_lost" && line["core"] == core)
            .filter_map(|line| line["lost"].as_u64())
            .sum();
        assert_eq!(told, PUSHES - kept, "losses are told, once");
    }
    assert_eq!(stats.access_records(), kept.iter().sum::<u64>());
    assert_eq!(stats.bytes(), fs::metadata(&path).expect("the log").len());
}

#[test]
fn a_pipe_that_nobody_reads_holds_up_no_core_and_its_losses_are_told() {
    let folder = Folder::new("pipe");
    let path = folder.path("access.fifo");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo runs").success());
    // Opened for reading and writing, so that the pipe has a reader that does not read.
    let reader = fs::OpenOptions::new().read(true).write(true).open(&path).expect("the pipe opens");
    let audit = folder.path("audit.jsonl");
    let config = LogConfig { audit: AuditSink::Own(Sink::File(audit.clone())), ..config(&path) };
    let rings = rings(1, RingSizes { access_bytes: 64 << 10, audit_bytes: 64 << 10 });
    let mut registry = Registry::new(1, &[]);
    registry.watch_rings(&rings.drain);
    let (cores, _admin, writer) = start(rings, &config);
    registry.watch_writer(writer.stats());

    const PUSHES: u64 = 100_000;
    let before = Instant::now();
    let lost = (0..PUSHES).filter(|number| !cores[0].push(&numbered(*number))).count() as u64;
    let each = before.elapsed() / PUSHES as u32;
    assert!(lost > PUSHES / 2, "a stalled sink takes little: lost {lost}");
    assert!(each < Duration::from_micros(20), "a push waited: {each:?} each");
    assert!(
        registry
            .page(Exposition::Text, 0)
            .contains(&format!("ringwall_log_records_lost_total{{core=\"0\"}} {lost}\n"))
    );

    // The audit log goes on.
    assert_eq!(cores[0].audit(&AccessRecord { reason: "key_unknown", ..numbered(1) }), Ok(()));
    wait_for("the audit line", || fs::read_to_string(&audit).is_ok_and(|text| text.contains("key_unknown")));

    // Once somebody reads, all that was kept comes out whole, and the loss is told.
    let (mut told, mut seen, mut read) = (0, 0, BufReader::new(reader));
    while told < lost {
        let mut line = String::new();
        read.read_line(&mut line).expect("text");
        let line: Value = serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line}"));
        match is_access(&line) {
            true => seen += 1,
            false => {
                assert_eq!(
                    (line["event"].as_str(), line["code"].as_str()),
                    (Some("log_records_lost"), Some("RW-6050"))
                );
                told += line["lost"].as_u64().expect("a number");
            }
        }
    }
    assert_eq!((told, seen <= PUSHES - lost), (lost, true));
    let rest = thread::spawn(move || {
        let mut seen = seen;
        while seen < PUSHES - lost {
            let mut line = String::new();
            read.read_line(&mut line).expect("text");
            seen += u64::from(is_access(&serde_json::from_str(&line).expect("JSON")));
        }
        seen
    });
    assert_eq!(rest.join().expect("the reader ends"), PUSHES - lost);
    assert!(writer.stop(PATIENCE));
}

#[test]
fn a_pipe_may_find_its_reader_later() {
    let folder = Folder::new("late");
    let path = folder.path("access.fifo");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo runs").success());
    let (cores, _admin, writer) = start(rings(1, RingSizes::default()), &config(&path));
    assert!(cores[0].push(&numbered(7)));
    let mut line = String::new();
    BufReader::new(fs::File::open(&path).expect("a reader comes")).read_line(&mut line).expect("text");
    assert!(line.contains("\"time\":\"1970-01-01T00:00:00.007Z\""), "{line}");
    assert!(writer.stop(PATIENCE));
}

#[test]
fn a_full_disk_is_counted_and_survived() {
    let folder = Folder::new("full");
    let (cores, _admin, writer) = start(rings(1, RingSizes::default()), &config(Path::new("/dev/full")));
    assert!(cores[0].push(&numbered(1)));
    wait_for("a failed write", || writer.stats().errors() > 0);
    // As if room came back: the waiting line goes to the new sink.
    let path = folder.path("access.jsonl");
    writer.configure(&config(&path)).expect("a good sink");
    assert!(cores[0].push(&numbered(2)));
    wait_for("both lines", || fs::read_to_string(&path).is_ok_and(|text| text.lines().count() == 2));
    assert_eq!(lines(&path)[0]["time"], "1970-01-01T00:00:00.001Z");
    let failed = writer.configure(&config(&folder.path("no/such/folder.jsonl")));
    let told = failed.expect_err("no such folder").to_string();
    assert!(told.contains("RW-6052") && told.contains("no/such/folder.jsonl"), "{told}");
    assert!(cores[0].push(&numbered(3)));
    assert!(writer.stop(PATIENCE));
    assert_eq!(lines(&path).len(), 3);
}

#[test]
fn a_rotated_file_and_its_successor_hold_whole_lines() {
    let folder = Folder::new("rotate");
    let (path, rotated) = (folder.path("access.jsonl"), folder.path("access.jsonl.1"));
    let (mut cores, _admin, writer) = start(rings(1, RingSizes::default()), &config(&path));
    assert_eq!(fs::metadata(&path).expect("the log").permissions().mode() & 0o137, 0, "at most 0640");
    let log = cores.remove(0);
    let stop = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&stop);
    let pusher = thread::spawn(move || {
        let mut kept = 0usize;
        while !until.load(Ordering::Relaxed) {
            kept += usize::from(log.push(&numbered(kept as u64)));
            if kept.is_multiple_of(64) {
                thread::sleep(Duration::from_micros(200));
            }
        }
        kept
    });
    wait_for("the first lines", || fs::metadata(&path).is_ok_and(|data| data.len() > 50_000));
    fs::rename(&path, &rotated).expect("renamed");
    writer.reopen(|_| ());
    wait_for("the new file", || fs::metadata(&path).is_ok_and(|data| data.len() > 50_000));
    stop.store(true, Ordering::Relaxed);
    let kept = pusher.join().expect("the core ends");
    assert!(writer.stop(PATIENCE));
    let numbers: Vec<_> = lines(&rotated)
        .iter()
        .chain(&lines(&path))
        .filter(|line| is_access(line))
        .map(|line| line["time"].as_str().expect("a time").to_owned())
        .collect();
    assert_eq!(numbers.len(), kept);
    assert!(numbers.is_sorted_by(|a, b| a < b), "each line once, in order");
}

#[test]
fn refusals_and_administrative_actions_are_audited() {
    let folder = Folder::new("audit");
    let (access, audit) = (folder.path("access.jsonl"), folder.path("audit.jsonl"));
    let own = LogConfig { audit: AuditSink::Own(Sink::File(audit.clone())), ..config(&access) };
    let (cores, admin, writer) = start(rings(2, RingSizes::default()), &own);
    const REFUSED: Reason = Reason::client("scope_missing", 3107, 403, "Scope missing");
    let mut refusal = numbered(5);
    refusal.set_reason(&REFUSED, Mode::Enforce);
    assert_eq!(cores[1].audit(&refusal), Ok(()));
    let action = AdminRecord {
        time_ms: 6,
        config: 3,
        action: "reload",
        actor: "uid 0\n\"forged\"",
        object: "ringwall.yaml",
        outcome: "ok",
        detail: "",
    };
    assert_eq!(admin.push(&action), Ok(()));
    wait_for("both lines", || fs::read_to_string(&audit).is_ok_and(|text| text.lines().count() == 2));
    let mut found = lines(&audit);
    found.sort_by_key(|line| line["time"].as_str().map(str::to_owned));
    let [refusal, action] = found.as_slice() else { panic!("two lines") };
    assert_eq!(
        (&refusal["event"], &refusal["code"], &refusal["mode"]),
        (&"refusal".into(), &"RW-3107".into(), &"enforce".into())
    );
    assert!(refusal.get("duration_us").is_none(), "not known yet");
    assert_eq!(
        (&action["event"], &action["action"], &action["config"]),
        (&"admin".into(), &"reload".into(), &3.into())
    );
    assert_eq!(action["actor"], "uid 0\n\"forged\"");
    assert!(lines(&access).is_empty());

    // Without a sink of its own it shares the access log's.
    writer.configure(&LogConfig { audit: AuditSink::Access, ..config(&access) }).expect("a good sink");
    wait_for("the shared line", || {
        let _kept = cores[0].audit(&AccessRecord { reason: "key_unknown", ..numbered(8) });
        fs::read_to_string(&access).is_ok_and(|text| text.contains("\"event\":\"refusal\""))
    });
    assert!(writer.stop(PATIENCE));
}

#[test]
fn a_full_audit_ring_is_an_answer_not_a_wait() {
    let rings = rings(1, RingSizes { access_bytes: 0, audit_bytes: 0 });
    let folder = Folder::new("auditfull");
    let path = folder.path("audit.fifo");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo runs").success());
    let mut registry = Registry::new(1, &[]);
    registry.watch_rings(&rings.drain);
    let config = LogConfig { access: None, audit: AuditSink::Own(Sink::File(path)), ..config(Path::new("")) };
    let (cores, _admin, writer) = start(rings, &config);
    let mut refused = 0u64;
    let start = Instant::now();
    while refused < 1000 {
        refused += u64::from(cores[0].audit(&numbered(1)).is_err());
        assert!(start.elapsed() < PATIENCE, "the ring never fills");
    }
    assert!(cores[0].push(&numbered(1)), "no access log, nothing kept, nothing lost");
    let page = registry.page(Exposition::Text, 0);
    assert!(page.contains(&format!("ringwall_audit_records_lost_total{{core=\"0\"}} {refused}\n")), "{page}");
    assert!(page.contains("ringwall_log_records_lost_total{core=\"0\"} 0\n"), "{page}");
    assert!(!writer.stop(Duration::from_millis(50)), "what nobody reads cannot be written in time");
}

fn names(apis: &[(&str, &[&str])], upstream: &str) -> Names {
    Names {
        listeners: vec!["[::]:443".to_owned()],
        apis: apis
            .iter()
            .map(|(name, operations)| ApiNames {
                name: (*name).to_owned(),
                operations: operations.iter().map(|name| (*name).to_owned()).collect(),
            })
            .collect(),
        logins: vec!["people".to_owned()],
        upstreams: vec![upstream.to_owned()],
    }
}

#[test]
fn names_keep_their_ids_over_reloads_and_rest_before_others_get_them() {
    const TEN_MINUTES_MS: u64 = 600_000;
    let mut registry = Registry::new(2, &[]);
    let core = registry.take_core(0).expect("the core's handle");
    assert!(registry.take_core(0).is_none(), "a counter has one writer");
    let first = registry.register(&names(&[("a", &["x", "y"]), ("b", &["x"])], "u"), 0);
    let (a_y, b_x) = (first.apis[0].operations[1], first.apis[1].operations[0]);
    core.request(a_y, Method::Get, 200, 1_000, 1_000);
    core.request(b_x, Method::Get, 200, 1_000, 1_000);
    core.connection_opened(first.listeners[0]);
    let second = registry.register(&names(&[("b", &["z", "x"])], "u"), 1_000);
    assert_eq!(second.apis[0].operations[1], b_x, "the place in the list does not matter");
    assert_eq!((second.listeners[0], second.upstreams[0]), (first.listeners[0], first.upstreams[0]));
    core.connection_closed(second.listeners[0]);
    drop(first);
    let gone = "ringwall_http_requests_total{api=\"a\",operation=\"y\",method=\"GET\",status=\"200\"} 1\n";
    let page = registry.page(Exposition::Text, 2_000);
    assert!(page.contains(gone), "{page}");
    assert!(page.contains("ringwall_connections{listener=\"[::]:443\"} 0\n"), "{page}");
    let third = registry.register(&names(&[("c", &["new"]), ("b", &["x"])], "u"), 3_000);
    assert_ne!(third.apis[0].operations[0], a_y, "an id rests before another name gets it");
    let page = registry.page(Exposition::Text, 2_000 + TEN_MINUTES_MS);
    assert!(!page.contains(gone), "{page}");
    let fourth = registry.register(&names(&[("d", &["p", "q", "r"])], "u"), 3_000 + TEN_MINUTES_MS);
    let fourth = &fourth.apis[0];
    assert!(fourth.operations.contains(&a_y) || fourth.unmatched == a_y, "rested ids are used again");
    let page = registry.page(Exposition::Text, 3_000 + TEN_MINUTES_MS);
    assert!(!page.contains("api=\"d\""), "with their counters at zero");
    assert!(page.contains(
        "ringwall_http_requests_total{api=\"b\",operation=\"x\",method=\"GET\",status=\"200\"} 1\n"
    ));
}

#[test]
fn more_names_than_ids_share_the_nameless_one() {
    let mut registry = Registry::new(1, &[]);
    let listeners = (0..1030).map(|port| format!("[::]:{port}")).collect();
    let ids = registry.register(&Names { listeners, ..Names::default() }, 0);
    assert_eq!(ids.listeners.iter().filter(|id| id.number() == 0).count(), 7);
    assert!(registry.page(Exposition::Text, 0).contains("ringwall_metrics_names_without_id 7\n"));
}

/// A registry in which everything was counted once.
fn busy_registry() -> Registry {
    let mut registry = Registry::new(2, &["rate", "schema"]);
    let ids = registry
        .register(&names(&[("orders \"eu\"\\\n", &["getOrder", "listOrders"]), ("raw", &[])], "u"), 0);
    let (targets, alive) = registry.register_targets("u", &["http://127.0.0.1:1".to_owned()], 0);
    let rings = rings(2, RingSizes::default());
    registry.watch_rings(&rings.drain);
    const REFUSED: Reason = Reason::client("scope_missing", 3107, 403, "Scope missing");
    for number in 0..2 {
        let core = registry.take_core(number).expect("the core's handle");
        for (at, operation) in
            ids.apis[0].operations.iter().chain([&ids.apis[1].unmatched, &OperationId::NONE]).enumerate()
        {
            for status in [200, 304, 404, 0] {
                core.request(*operation, Method::Get, status, 300_000 << at, 4_000);
            }
            core.exemplar(
                *operation,
                300_000 << at,
                ExemplarId::Request(RequestId([7; 16])),
                1_795_297_261_042,
            );
        }
        core.exemplar(ids.apis[0].operations[0], 1 << 40, ExemplarId::Trace([9; 16]), 1_795_297_261_042);
        core.request(ids.apis[0].operations[0], Method::of(b"PROPFIND"), 200, 1 << 40, 1);
        core.refusal(&REFUSED, Mode::Enforce);
        core.refusal(&REFUSED, Mode::Observe);
        core.decision(1, Mode::Observe, Decision::Unknown);
        core.upstream_request(targets[0], 200);
        core.upstream_request(targets[0], 0);
        core.retry(ids.upstreams[0]);
        core.connection_opened(ids.listeners[0]);
        core.handshake(ids.listeners[0], Handshake::Full);
        core.tokens(TokenCache::Hit, 1);
        core.panic();
        core.busy(300_000_000, 900_000_000);
    }
    registry.add_source(|samples| {
        samples.push(Family::DriverInfo, &[("core", "0"), ("driver", "io_uring")], 1.0);
        samples.push(Family::ConfigGeneration, &[], 3.0);
        samples.push(Family::LimitTableUsed, &[("policy", "address")], 0.25);
        samples.push(Family::CertificateExpiry, &[("listener", "[::]:443")], 1.9e9);
        let target = [("upstream", "u"), ("target", "http://127.0.0.1:1")];
        samples.push(Family::UpstreamConnections, &target, 2.0);
        samples.push(Family::UpstreamUp, &target, 1.0);
    });
    drop(alive);
    registry
}

#[test]
fn the_page_sums_the_cores() {
    let page = busy_registry().page(Exposition::Text, 0);
    for line in [
        r#"ringwall_http_requests_total{api="orders \"eu\"\\\n",operation="getOrder",method="GET",status="304"} 2"#,
        r#"ringwall_http_requests_total{api="raw",method="GET",status="404"} 2"#,
        r#"ringwall_http_requests_total{method="GET",status="0"} 2"#,
        r#"ringwall_http_request_duration_seconds_bucket{api="raw",le="0.001"} 0"#,
        r#"ringwall_http_request_duration_seconds_bucket{api="raw",le="0.0025"} 8"#,
        r#"ringwall_http_request_duration_seconds_count{api="raw"} 8"#,
        r#"ringwall_http_request_duration_seconds_sum{api="raw"} 0.0096"#,
        r#"ringwall_overhead_seconds_bucket{api="raw",le="0.000005"} 8"#,
        r#"ringwall_refusals_total{reason="scope_missing",mode="observe"} 2"#,
        r#"ringwall_policy_decisions_total{policy="schema",mode="observe",status="unknown"} 2"#,
        r#"ringwall_upstream_requests_total{upstream="u",target="http://127.0.0.1:1",status="none"} 2"#,
        r#"ringwall_upstream_connections{upstream="u",target="http://127.0.0.1:1"} 2"#,
        r#"ringwall_retries_total{upstream="u"} 2"#,
        r#"ringwall_tls_handshakes_total{listener="[::]:443",status="full"} 2"#,
        r#"ringwall_token_cache_total{status="hit"} 2"#,
        r#"ringwall_panics_total{core="1"} 1"#,
        r#"ringwall_core_busy_ratio{core="1"} 0.25"#,
        r#"ringwall_limit_table_used_ratio{policy="address"} 0.25"#,
        r#"ringwall_certificate_expiry_timestamp_seconds{listener="[::]:443"} 1900000000"#,
        r#"ringwall_build_info{version="0.1.0"} 1"#,
    ] {
        assert!(page.contains(&format!("{line}\n")), "no {line} in\n{page}");
    }
    assert!(!page.contains("# {"), "exemplars are for OpenMetrics");
}

#[test]
fn promtool_has_nothing_to_say() {
    if !installed("promtool") {
        return;
    }
    let mut check = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool runs");
    let page = busy_registry().page(Exposition::Text, 0);
    check.stdin.take().expect("a pipe").write_all(page.as_bytes()).expect("promtool reads");
    let output = check.wait_with_output().expect("promtool ends");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success() && said.is_empty(), "{}\n{page}", String::from_utf8_lossy(&said));
}

/// Answers every request on a loopback port with the page in the form that was asked for, until dropped.
struct Scraped {
    port: u16,
    accepts: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
}

impl Scraped {
    fn new(mut registry: Registry) -> Scraped {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let (accepts, stop) = (Arc::<Mutex<Vec<String>>>::default(), Arc::<AtomicBool>::default());
        let (seen, until) = (Arc::clone(&accepts), Arc::clone(&stop));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if until.load(Ordering::Relaxed) {
                    return;
                }
                let mut stream = stream.expect("a connection");
                let (mut accept, mut path) = (String::new(), String::new());
                for line in BufReader::new(stream.try_clone().expect("a second handle")).lines() {
                    let line = line.unwrap_or_default();
                    if line.is_empty() {
                        break;
                    }
                    if let Some(target) = line.strip_prefix("GET ") {
                        path = target.to_owned();
                    }
                    if line.to_ascii_lowercase().starts_with("accept:") {
                        accept = line["accept:".len()..].trim().to_owned();
                    }
                }
                // Prometheus has no switch for the text form of old; the path stands for a client that wants it.
                let form =
                    if path.starts_with("/text") { Exposition::Text } else { Exposition::of_accept(&accept) };
                let page = registry.page(form, 0);
                seen.lock().expect("not poisoned").push(form.content_type().to_owned());
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: {}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    form.content_type(),
                    page.len()
                );
                let _client_may_leave =
                    stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(page.as_bytes()));
            }
        });
        Scraped { port, accepts, stop }
    }
}

impl Drop for Scraped {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _wakes_the_server = std::net::TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn ask(port: u16, path: &str) -> Option<Value> {
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").as_bytes()).ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
}

#[test]
fn a_real_prometheus_takes_both_forms() {
    if !installed("prometheus") {
        return;
    }
    let folder = Folder::new("prometheus");
    let scraped = Scraped::new(busy_registry());
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address").port();
    let config = folder.path("prometheus.yml");
    let target = format!("static_configs: [{{ targets: ['127.0.0.1:{}'] }}]", scraped.port);
    let text = format!(
        "global: {{ scrape_interval: 500ms, scrape_timeout: 400ms }}\nscrape_configs:\n  \
         - {{ job_name: open, metrics_path: /open, {target} }}\n  - {{ job_name: text, metrics_path: /text, {target} }}\n"
    );
    fs::write(&config, text).expect("written");
    let mut prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!("--storage.tsdb.path={}", folder.path("data").display()))
        .arg(format!("--web.listen-address=127.0.0.1:{free}"))
        .arg("--enable-feature=exemplar-storage")
        .stdout(Stdio::null())
        .stderr(fs::File::create(folder.path("stderr")).expect("a file"))
        .spawn()
        .expect("prometheus runs");
    let mut problem = String::new();
    let start = Instant::now();
    let good = loop {
        if start.elapsed() > Duration::from_secs(60) {
            break false;
        }
        thread::sleep(Duration::from_millis(200));
        let Some(targets) = ask(free, "/api/v1/targets") else { continue };
        let active = targets["data"]["activeTargets"].as_array().cloned().unwrap_or_default();
        problem = active
            .iter()
            .map(|target| format!("{} {}\n", target["labels"]["job"], target["lastError"]))
            .collect();
        if active.len() != 2 || active.iter().any(|target| target["health"] == "unknown") {
            continue;
        }
        if active.iter().any(|target| target["health"] != "up") {
            break false;
        }
        let query = "/api/v1/query?query=count%20by%20(job)(%7B__name__%3D~%22ringwall_.%2B%22%7D)";
        let counts = ask(free, query).map(|answer| answer["data"]["result"].clone());
        let counts: Vec<String> = counts
            .and_then(|list| list.as_array().cloned())
            .unwrap_or_default()
            .iter()
            .filter_map(|one| one["value"][1].as_str().map(str::to_owned))
            .collect();
        let exemplars = ask(
            free,
            "/api/v1/query_exemplars?query=ringwall_http_request_duration_seconds_bucket&start=1795297000&end=1795298000",
        );
        let exemplars = exemplars.map(|answer| answer["data"].to_string()).unwrap_or_default();
        problem = format!("series by job: {counts:?}\nexemplars: {exemplars}");
        if counts.len() == 2 && counts[0] == counts[1] && counts[0] != "0" {
            break true;
        }
    };
    let log = fs::read_to_string(folder.path("stderr")).unwrap_or_default();
    prometheus.kill().expect("it was running");
    prometheus.wait().expect("it ends");
    assert!(good, "{problem}\n{log}");
    let forms = scraped.accepts.lock().expect("not poisoned").clone();
    assert!(forms.iter().any(|form| form.starts_with("application/openmetrics-text")), "{forms:?}");
    assert!(forms.iter().any(|form| form.starts_with("text/plain")), "{forms:?}");
}
