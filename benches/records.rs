//! What a record costs: to the core that pushes it, to the writer that makes a line of it, and what counting costs.
//!
//! `cargo bench --bench records` prints medians of alternating rounds; `--once` or `--test` runs each contender once;
//! `--callgrind NAME` runs one contender a thousand times.

use std::hint::black_box;
use std::time::{Duration, Instant};

use ringwall::observe::{
    AccessRecord, Alpn, ApiNames, AuditSink, CoreLog, CoreMetrics, ExemplarId, Formatter, LogConfig,
    LogDrain, LogFormat, Method, NameTable, Names, OperationId, Protocol, RegisteredNames, Registry,
    RequestId, RequestIds, RingSizes, Sink, TargetId, TlsVersion, Writer, rings,
};

const ROUNDS: usize = 9;
const BATCH: usize = 2_000;
const CONTENDERS: [&str; 8] =
    ["push", "push+json", "push+combined", "json", "combined", "count", "count+exemplar", "request_id"];

struct Bench {
    log: CoreLog,
    drain: LogDrain,
    metrics: CoreMetrics,
    names: std::sync::Arc<NameTable>,
    ids: RegisteredNames,
    targets: (Vec<TargetId>, std::sync::Arc<()>),
    request_ids: RequestIds,
    formatter: Formatter,
    out: Vec<u8>,
}

impl Bench {
    fn new() -> Bench {
        let mut registry = Registry::new(1, &["rate"]);
        let ids = registry.register(
            &Names {
                listeners: vec!["[::]:443".to_owned()],
                apis: vec![ApiNames {
                    name: "orders".to_owned(),
                    operations: vec!["listOrders".to_owned(), "getOrder".to_owned()],
                }],
                logins: vec!["people".to_owned()],
                upstreams: vec!["orders".to_owned()],
            },
            0,
        );
        let targets = registry.register_targets("orders", &["http://10.0.3.11:8080".to_owned()], 0);
        let mut rings = rings(1, RingSizes::default());
        rings.drain.keep_access();
        Bench {
            log: rings.cores.remove(0),
            drain: rings.drain,
            metrics: registry.take_core(0).expect("the core's handle"),
            names: registry.directory().table(),
            ids,
            targets,
            request_ids: RequestIds::seeded(7),
            formatter: Formatter::default(),
            out: Vec::with_capacity(2 << 20),
        }
    }

    fn record(&self, number: u64) -> AccessRecord<'static> {
        AccessRecord {
            time_ms: 1_795_297_261_042 + number / 60,
            request_id: RequestId([0x5a; 16]),
            listener: self.ids.listeners[0],
            client: Some([203, 0, 113, 9].into()),
            peer: Some(([203, 0, 113, 9], 51_234).into()),
            tls: TlsVersion::Tls13,
            alpn: Alpn::Http11,
            protocol: Protocol::Http11,
            method: Method::Get,
            host: b"api.example.com",
            path: b"/v1/orders/8dd1c2f4",
            query: Some(b"expand=lines&page=2"),
            api: self.ids.apis[0].api,
            operation: self.ids.apis[0].operations[1],
            status: 200,
            login: self.ids.logins[0],
            subject: b"4fd2a1c0-alice",
            upstream: self.ids.upstreams[0],
            target: self.targets.0[0],
            tries: 1,
            bytes_out: 1_024,
            duration_us: 843,
            overhead_us: 12,
            upstream_us: 790,
            config: 3,
            referer: b"https://shop.example.com/cart",
            user_agent: b"Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
            ..AccessRecord::default()
        }
    }

    /// Runs `count` of one contender; nanoseconds spent in what is measured.
    fn run(&mut self, contender: &str, count: usize) -> u64 {
        let record = self.record(1);
        // The JSON format does not want these, so the pipeline does not copy them.
        let plain = AccessRecord { referer: b"", user_agent: b"", ..record.clone() };
        self.out.clear();
        let start = Instant::now();
        match contender {
            "push" | "push+json" | "push+combined" => {
                let combined = contender == "push+combined";
                let format = if combined { LogFormat::Combined } else { LogFormat::Json };
                let record = if combined { &record } else { &plain };
                for _ in 0..count {
                    black_box(self.log.push(black_box(record)));
                }
                let pushed = start.elapsed();
                let made = self.drain.format_all(format, &mut self.formatter, &self.names, &mut self.out);
                assert_eq!(made, count, "the ring holds a batch");
                black_box(&self.out);
                if contender == "push" {
                    return pushed.as_nanos() as u64;
                }
            }
            "json" | "combined" => {
                let (format, record) = match contender {
                    "json" => (LogFormat::Json, &plain),
                    _ => (LogFormat::Combined, &record),
                };
                for _ in 0..count {
                    self.formatter.access(format, black_box(record), &self.names, &mut self.out);
                }
                black_box(&self.out);
            }
            "count" | "count+exemplar" => {
                let operation: OperationId = self.ids.apis[0].operations[1];
                for number in 0..count as u64 {
                    let duration_ns = black_box(500_000 + number * 997);
                    self.metrics.request(operation, Method::Get, 200, duration_ns, 11_000);
                    if contender == "count+exemplar" {
                        let id = ExemplarId::Request(record.request_id);
                        self.metrics.exemplar(operation, duration_ns, id, record.time_ms);
                    }
                }
            }
            _ => {
                for number in 0..count as u64 {
                    black_box(self.request_ids.next(black_box(record.time_ms + number / 60)).format());
                }
            }
        }
        start.elapsed().as_nanos() as u64
    }
}

/// CPU time of the thread named `writer`, nanoseconds, from its schedstat.
fn writer_cpu_ns() -> Option<u64> {
    let tasks = std::fs::read_dir("/proc/self/task").ok()?;
    tasks.filter_map(Result::ok).find_map(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).ok()?;
        let stat = std::fs::read_to_string(task.path().join("schedstat")).ok()?;
        (name.trim() == "writer").then(|| stat.split_whitespace().next()?.parse().ok())?
    })
}

/// A core that pushes at a steady rate and a writer that writes to a file: what the writer's thread costs, all in.
fn writer_cost(file: &std::path::Path, per_second: u64, seconds: u64) {
    let bench = Bench::new();
    let rings = rings(1, RingSizes::default());
    let config = LogConfig {
        access: Some(Sink::File(file.to_owned())),
        format: LogFormat::Json,
        audit: AuditSink::Off,
        now_ms: || 0,
    };
    let writer = Writer::start(rings.drain, &config, std::sync::Arc::default()).expect("the writer starts");
    let (mut pushed, mut lost) = (0u64, 0u64);
    let start = Instant::now();
    let before = writer_cpu_ns().unwrap_or(0);
    while start.elapsed() < Duration::from_secs(seconds) {
        let due = start.elapsed().as_micros() as u64 * per_second / 1_000_000;
        while pushed < due {
            let mut record = bench.record(pushed);
            record.referer = b"";
            record.user_agent = b"";
            lost += u64::from(!rings.cores[0].push(&record));
            pushed += 1;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    std::thread::sleep(Duration::from_millis(60));
    let cpu = writer_cpu_ns().unwrap_or(0) - before;
    let stats = writer.stats();
    let each = cpu.checked_div(pushed).unwrap_or(0);
    println!(
        "writer at {per_second:>6}/s to {}: {each} ns a record ({:.2} % of a core), {} bytes a line, {lost} of {pushed} lost",
        file.display(),
        cpu as f64 / seconds as f64 / 1e7,
        stats.bytes() / stats.access_records().max(1),
    );
    writer.stop(Duration::from_secs(5));
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let mut bench = Bench::new();
    if let Some(at) = arguments.iter().position(|argument| argument == "--callgrind") {
        let name = arguments.get(at + 1).expect("--callgrind NAME");
        bench.run(name, 1_000);
        return;
    }
    let once = arguments.iter().any(|argument| argument == "--once" || argument == "--test");
    let (rounds, repeats) = if once { (1, 1) } else { (ROUNDS, 100) };
    let mut times = vec![Vec::new(); CONTENDERS.len()];
    for _ in 0..rounds {
        for (contender, times) in CONTENDERS.iter().zip(&mut times) {
            let spent: u64 = (0..repeats).map(|_| bench.run(contender, BATCH)).sum();
            times.push(spent as f64 / (repeats * BATCH) as f64);
        }
    }
    for (contender, times) in CONTENDERS.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        let (low, high) = (times[0], times[times.len() - 1]);
        println!("{contender:<16}{:>8.1} ns  ({low:.1} – {high:.1})", times[times.len() / 2]);
    }
    if !once {
        let file = std::env::temp_dir().join(format!("ringwall-records-{}.jsonl", std::process::id()));
        for rate in [0, 1_000, 20_000, 60_000] {
            writer_cost(std::path::Path::new("/dev/null"), rate, 3);
            writer_cost(&file, rate, 3);
            let _best_effort = std::fs::remove_file(&file);
        }
    }
}
