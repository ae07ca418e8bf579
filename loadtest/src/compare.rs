//! `compare`: Ringwall beside its peers, each on one pinned core against the same backend on the other core.
//!
//! For every scenario all contenders are started, rounds alternate over them (A B C A B C …), first in a closed loop at
//! saturation, then in an open loop at one rate for all. A round with any error is void and reported.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use serde::Serialize;

use crate::backend;
use crate::client::{Client, Expect, Pace, Protocol, Tally, Target, Watch, tls};
use crate::contender::{Contender, Places, Running, start_backend};
use crate::idle::{self, IdleResult};
use crate::material::{HOST, Material};
use crate::process::{Cpu, pss_bytes};
use crate::report;
use crate::scenario::{Answer, Per, Scenario};
use crate::stats::{LatencySummary, Spread};
use crate::suite::{self, Paths};
use crate::sys;

/// The common rate is this part of what the slowest contender reached, unless one is given.
const COMMON_RATE_SHARE: f64 = 0.7;

/// Options of the `compare` subcommand.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Ringwall's binary [default: beside this program].
    #[arg(long, value_name = "PATH")]
    pub ringwall: Option<PathBuf>,
    /// Measure another build: NAME=PATH. A family's name (nginx, haproxy, envoy, caddy, ringwall) replaces its program,
    /// a name such as haproxy-3.4 adds contenders.
    #[arg(long = "peer", value_name = "NAME=PATH", value_parser = named_path)]
    pub peers: Vec<(String, PathBuf)>,
    /// Only these scenarios, comma-separated [default: all].
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub scenario: Vec<String>,
    /// Only these contenders, comma-separated [default: all that are installed].
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub only: Vec<String>,
    /// Rounds over all contenders.
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,
    /// Length of a measured window in seconds.
    #[arg(long, default_value_t = 2.0)]
    pub seconds: f64,
    /// Seconds before each window that do not count.
    #[arg(long, default_value_t = 0.5)]
    pub warm_up: f64,
    /// The common offered rate in requests a second [default: 0.7 of what the slowest contender reaches].
    #[arg(long)]
    pub rate: Option<f64>,
    /// Measure at saturation only.
    #[arg(long)]
    pub saturation_only: bool,
    /// CPU of the contenders.
    #[arg(long, default_value_t = 0)]
    pub proxy_cpu: usize,
    /// CPU of generator and backend.
    #[arg(long, default_value_t = 1)]
    pub load_cpu: usize,
    /// Driver of Ringwall and of the pump: auto, io_uring, io_uring-plain, epoll.
    #[arg(long, default_value = "auto")]
    pub driver: String,
    /// How the pump moves bytes.
    #[arg(long, default_value = "direct-ring")]
    pub way: String,
    /// Run everything before all normal work of this machine (SCHED_FIFO): for machines that are not idle.
    #[arg(long)]
    pub real_time: bool,
    /// Folder of the scenarios.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios"))]
    pub scenarios: PathBuf,
    /// Folder of the configurations.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/peers"))]
    pub configurations: PathBuf,
    /// Folder for reports and raw figures [default: target/loadtest].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

fn named_path(text: &str) -> Result<(String, PathBuf), String> {
    let (name, path) = text.split_once('=').ok_or("expected NAME=PATH")?;
    let path = std::fs::canonicalize(path).map_err(|error| format!("{path}: {error}"))?;
    Ok((name.to_owned(), path))
}

/// Everything that was measured, as it is kept.
#[derive(Serialize)]
pub struct Comparison {
    /// When it began, seconds since 1970.
    pub unix_time: u64,
    /// The command line.
    pub command: String,
    /// CPU model, kernel, number of CPUs.
    pub machine: String,
    /// SCHED_FIFO was used.
    pub real_time: bool,
    /// Rounds and seconds of each.
    pub rounds: usize,
    /// Length of a window.
    pub seconds: f64,
    /// Contender → version.
    pub versions: BTreeMap<String, String>,
    /// The driver Ringwall ran on, or why that is not io_uring.
    pub driver: Option<Result<String, String>>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
    /// By scenario, in order.
    pub scenarios: Vec<Measured>,
}

/// One scenario's figures.
#[derive(Serialize)]
pub struct Measured {
    /// What it was.
    pub scenario: Scenario,
    /// Closed loop.
    pub saturation: Vec<Series>,
    /// Open loop.
    pub common_rate: Vec<Series>,
    /// The rate of the open loop, requests a second.
    pub rate: Option<f64>,
    /// Memory, for that kind of scenario.
    pub idle: Vec<IdleResult>,
}

/// One contender's rounds.
#[derive(Serialize)]
pub struct Series {
    /// Who.
    pub contender: String,
    /// It is one of those that make the floor.
    pub is_pump: bool,
    /// Every round, void ones included.
    pub rounds: Vec<Round>,
}

/// One measured window.
#[derive(Serialize)]
pub struct Round {
    /// Why it does not count.
    pub void: Option<String>,
    /// Answers.
    pub requests: u64,
    /// A second.
    pub rate: f64,
    /// CPU microseconds per request (or MiB): the process and its children, all threads.
    pub cpu_us: f64,
    /// The part of it in user space.
    pub cpu_user_us: f64,
    /// Of the contender's core.
    pub busy: f64,
    /// CPU microseconds per request of the generator.
    pub generator_us: f64,
    /// CPU microseconds per request of the backend.
    pub backend_us: f64,
    /// Proportional set size at the end, bytes.
    pub pss_bytes: u64,
    /// Latencies.
    pub latency: LatencySummary,
    /// The whole distribution: fraction at or below, microseconds.
    pub curve: Vec<(f64, f64)>,
}

impl Series {
    /// One figure over the rounds that count.
    pub fn spread(&self, figure: impl Fn(&Round) -> f64) -> Option<Spread> {
        Spread::of(self.rounds.iter().filter(|round| round.void.is_none()).map(figure))
    }
}

impl Measured {
    /// The median CPU time of the fastest of these, in the closed loop; `floor` stands for the byte pumps.
    pub fn best(&self, of: &[String]) -> Option<f64> {
        let counts = |series: &&Series| {
            of.iter().any(|name| *name == series.contender || (name == "floor" && series.is_pump))
        };
        let medians = self.saturation.iter().filter(counts).filter_map(|s| s.spread(|r| r.cpu_us));
        medians.map(|spread| spread.median).min_by(f64::total_cmp)
    }
}

/// Runs it and writes the reports.
///
/// # Errors
/// Nothing could be measured, or it was interrupted; a contender that fails is a note, not an error.
pub fn run(options: &Options, stop: &AtomicBool) -> Result<(), String> {
    sys::raise_open_files();
    let Paths { ringwall, target, out } = Paths::find(options.ringwall.as_deref(), options.out.as_deref())?;
    let work = suite::work(&out)?;
    let material = Material::make(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    let places = Places {
        peers: options.configurations.clone(),
        work,
        target,
        ringwall,
        driver: options.driver.clone(),
        way: options.way.clone(),
        cpu: options.proxy_cpu,
    };
    let mut scenarios = Scenario::all(&options.scenarios)?;
    scenarios.retain(|scenario| options.scenario.is_empty() || options.scenario.contains(&scenario.name));
    if scenarios.is_empty() {
        return Err("no such scenario".to_owned());
    }
    let (mut contenders, notes) = Contender::installed(&places, &options.peers);
    contenders.retain(|contender| options.only.is_empty() || options.only.contains(&contender.name));
    let mut comparison = Comparison {
        unix_time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
        machine: machine(),
        real_time: options.real_time,
        rounds: options.rounds,
        seconds: options.seconds,
        versions: contenders.iter().map(|c| (c.name.clone(), c.version.clone())).collect(),
        driver: None,
        notes,
        scenarios: Vec::new(),
    };
    if !core_affinity::set_for_current(core_affinity::CoreId { id: options.load_cpu }) {
        comparison.notes.push(format!("could not pin the generator to CPU {}", options.load_cpu));
    }
    if options.real_time {
        sys::real_time(1).map_err(|error| format!("--real-time: {error}"))?;
    }
    sys::exact_timers();
    report::print_head(&comparison);
    let tls = |protocol| tls::for_measuring(material.certificate.clone(), protocol);
    let tls_configs = (
        tls(Protocol::Http1).map_err(|error| error.to_string())?,
        tls(Protocol::Http2 { streams: 1 }).map_err(|error| error.to_string())?,
    );
    let bench = Bench { options, places, material, tls_configs, stop };
    for scenario in &scenarios {
        let measured = bench.scenario(scenario, &contenders, &mut comparison)?;
        report::print_scenario(&measured);
        comparison.scenarios.push(measured);
    }
    for note in &comparison.notes {
        println!("note: {note}");
    }
    let written = report::write(&comparison, &out).map_err(|error| format!("{}: {error}", out.display()))?;
    println!("report: {}\nraw:    {}", written.html.display(), written.json.display());
    Ok(())
}

struct Bench<'a> {
    options: &'a Options,
    places: Places,
    material: Material,
    /// For HTTP/1.1, and for HTTP/2.
    tls_configs: (Arc<ClientConfig>, Arc<ClientConfig>),
    stop: &'a AtomicBool,
}

impl Bench<'_> {
    fn scenario(
        &self,
        scenario: &Scenario,
        contenders: &[Contender],
        comparison: &mut Comparison,
    ) -> Result<Measured, String> {
        let requests = scenario.requests(&self.options.scenarios, &self.material)?;
        let requests: Arc<[Vec<u8>]> = requests.into();
        let backend = start_backend(&self.places.work, &self.material, self.options.load_cpu)?;
        let mut running = Vec::new();
        for contender in
            contenders.iter().filter(|c| scenario.contenders.iter().any(|name| name == c.kind.name))
        {
            let config = scenario.config_of(contender.kind);
            match contender.start(&self.places, &self.material, &backend, config) {
                Ok(started) => {
                    let target = self.target(scenario, &started, &requests)?;
                    match self.probe(&target) {
                        Ok(()) => running.push((started, target)),
                        Err(error) if error == "interrupted" => return Err(error),
                        Err(error) => {
                            let words = started.last_words();
                            comparison.notes.push(format!(
                                "{}: {} left out: {error}. {words}",
                                scenario.name, contender.name
                            ));
                        }
                    }
                }
                Err(error) => comparison.notes.push(format!("{}: left out: {error}", scenario.name)),
            }
        }
        self.assert_driver(&running, comparison);
        let mut measured = Measured {
            scenario: scenario.clone(),
            saturation: Vec::new(),
            common_rate: Vec::new(),
            rate: None,
            idle: Vec::new(),
        };
        if let Some(what) = scenario.idle {
            for (started, target) in &running {
                let bar = progress(&format!("{}: {}", scenario.name, started.name));
                match idle::measure(what, started, target, &bar, self.stop) {
                    Ok(result) => measured.idle.push(result),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                        return Err("interrupted".to_owned());
                    }
                    Err(error) => {
                        comparison.notes.push(format!("{}: {}: {error}", scenario.name, started.name))
                    }
                }
                bar.finish_and_clear();
            }
            return Ok(measured);
        }
        measured.saturation = self.rounds(scenario, &running, &backend, Pace::Closed)?;
        if !self.options.saturation_only {
            let reached = measured.saturation.iter().filter_map(|s| s.spread(|r| r.rate)).map(|s| s.median);
            let rate = self
                .options
                .rate
                .or_else(|| reached.min_by(f64::total_cmp).map(|rate| rate * COMMON_RATE_SHARE));
            if let Some(rate) = rate.filter(|rate| *rate > 0.0) {
                measured.common_rate = self.rounds(scenario, &running, &backend, Pace::Open(rate))?;
                measured.rate = Some(rate);
            }
        }
        for series in measured.saturation.iter().chain(&measured.common_rate) {
            for (number, round) in series.rounds.iter().enumerate() {
                if let Some(why) = &round.void {
                    comparison.notes.push(format!(
                        "{}: {}: round {} void: {why}",
                        scenario.name,
                        series.contender,
                        number + 1
                    ));
                }
            }
        }
        Ok(measured)
    }

    fn target(
        &self,
        scenario: &Scenario,
        running: &Running,
        requests: &Arc<[Vec<u8>]>,
    ) -> Result<Target, String> {
        let name = ServerName::try_from(HOST).map_err(|error| error.to_string())?;
        let message = scenario.message();
        let body: Arc<[u8]> = match scenario.answer {
            _ if message.is_some() => message.unwrap_or_default().into(),
            Answer::Small => backend::SMALL_BODY.into(),
            Answer::Large => backend::large_body().into(),
            Answer::Grpc => backend::GRPC_BODY.into(),
        };
        let protocol = scenario.protocol();
        let tls_config = match protocol {
            Protocol::Http1 | Protocol::WebSocket => &self.tls_configs.0,
            Protocol::Http2 { .. } => &self.tls_configs.1,
        };
        Ok(Target {
            address: SocketAddr::V4(if scenario.tls { running.tls } else { running.plain }),
            tls: scenario.tls.then(|| (Arc::clone(tls_config), name)),
            protocol,
            opening: scenario.opening(&self.material).into(),
            requests: Arc::clone(requests),
            expect: Expect {
                status: Some(200),
                body: Some(body),
                no_body: scenario.method == "HEAD",
                grpc: scenario.answer == Answer::Grpc,
            },
            keep_alive: scenario.keep_alive,
            many_sources: !scenario.keep_alive,
        })
    }

    /// Every request once: it must be answered as expected before anything is measured.
    fn probe(&self, target: &Target) -> Result<(), String> {
        let mut last = String::new();
        for _ in 0..20 {
            let mut client = Client::new(target, 1, self.stop).map_err(|error| error.to_string())?;
            let mut good = true;
            for _ in 0..target.requests.len() {
                let tally = client.once_each(0..1, 1, Duration::from_secs(5)).map_err(interrupted)?;
                if let Some((error, _)) = tally.errors.first_key_value() {
                    (last, good) = (error.clone(), false);
                    break;
                }
            }
            if good {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        Err(last)
    }

    fn assert_driver(&self, running: &[(Running, Target)], comparison: &mut Comparison) {
        for (started, _) in running.iter().filter(|(started, _)| started.kind.family == "ringwall") {
            let driver = started.io_uring();
            if let Err(instead) = &driver
                && !matches!(self.options.driver.as_str(), "epoll")
            {
                report::fell_back(&started.name, instead);
                comparison
                    .notes
                    .push(format!("FELL BACK: {} does not run on io_uring but on: {instead}", started.name));
            }
            comparison.driver = Some(driver);
        }
    }

    fn rounds(
        &self,
        scenario: &Scenario,
        running: &[(Running, Target)],
        backend: &Running,
        pace: Pace,
    ) -> Result<Vec<Series>, String> {
        let mut series: Vec<Series> = running
            .iter()
            .map(|(started, _)| Series {
                contender: started.name.clone(),
                is_pump: started.kind.is_pump,
                rounds: Vec::new(),
            })
            .collect();
        let loop_name = match pace {
            Pace::Closed => "saturation".to_owned(),
            Pace::Open(rate) => format!("{rate:.0}/s"),
        };
        for number in 0..self.options.rounds {
            for ((started, target), series) in running.iter().zip(&mut series) {
                let bar = progress(&format!(
                    "{}: {loop_name}: round {}/{}: {}",
                    scenario.name,
                    number + 1,
                    self.options.rounds,
                    started.name
                ));
                let round =
                    self.round(scenario, (started, target), backend, pace, &bar).map_err(interrupted)?;
                bar.finish_and_clear();
                series.rounds.push(round);
            }
        }
        Ok(series)
    }

    fn round(
        &self,
        scenario: &Scenario,
        (started, target): (&Running, &Target),
        backend: &Running,
        pace: Pace,
        bar: &ProgressBar,
    ) -> io::Result<Round> {
        let mut client = Client::new(target, scenario.connections, self.stop)?;
        let mut meter = Meter {
            contender: started.pid(),
            backend: backend.pid(),
            bar,
            before: Sample::default(),
            spent: Sample::default(),
        };
        let spans =
            (Duration::from_secs_f64(self.options.warm_up), Duration::from_secs_f64(self.options.seconds));
        let tally = client.drive(pace, scenario.connections, spans, &mut meter)?;
        let pss_bytes = pss_bytes(started.pid());
        drop(client);
        started.trim_log();
        Ok(round_of(scenario, &tally, &meter.spent, pss_bytes))
    }
}

fn round_of(scenario: &Scenario, tally: &Tally, spent: &Sample, pss_bytes: u64) -> Round {
    let mib = match (scenario.per, scenario.answer, scenario.body_bytes) {
        (Per::Request, ..) => 1.0,
        (Per::Mib, Answer::Large, _) => backend::LARGE_BODY_BYTES as f64 / f64::from(1 << 20),
        (Per::Mib, Answer::Small | Answer::Grpc, body) => body.unwrap_or(0) as f64 / f64::from(1 << 20),
    };
    let units = tally.requests as f64 * mib;
    let cpu_us = spent.contender.total_ns as f64 / 1e3 / units;
    let void = if tally.error_count() > 0 {
        let errors: Vec<String> =
            tally.errors.iter().map(|(what, count)| format!("{count} × {what}")).collect();
        Some(errors.join(", "))
    } else if tally.requests == 0 {
        Some("no answer inside the window".to_owned())
    } else {
        None
    };
    Round {
        void,
        requests: tally.requests,
        rate: tally.rate(),
        cpu_us,
        cpu_user_us: cpu_us * spent.contender.user_share(),
        busy: spent.contender.total_ns as f64 / 1e9 / tally.seconds,
        generator_us: spent.generator_ns as f64 / 1e3 / units,
        backend_us: spent.backend.total_ns as f64 / 1e3 / units,
        pss_bytes,
        latency: tally.latencies.summary(),
        curve: tally.latencies.curve(),
    }
}

/// CPU time of all three at one moment, or between two.
#[derive(Clone, Copy, Default)]
struct Sample {
    contender: Cpu,
    backend: Cpu,
    generator_ns: u64,
}

struct Meter<'a> {
    contender: u32,
    backend: u32,
    bar: &'a ProgressBar,
    before: Sample,
    spent: Sample,
}

impl Meter<'_> {
    fn sample(&self) -> Sample {
        Sample {
            contender: Cpu::of(self.contender),
            backend: Cpu::of(self.backend),
            generator_ns: Cpu::of_this_thread_ns(),
        }
    }
}

impl Watch for Meter<'_> {
    fn window_opens(&mut self) {
        self.before = self.sample();
    }

    fn window_closes(&mut self) {
        let after = self.sample();
        self.spent = Sample {
            contender: after.contender.since(self.before.contender),
            backend: after.backend.since(self.before.backend),
            generator_ns: after.generator_ns.saturating_sub(self.before.generator_ns),
        };
    }

    fn progress(&mut self, done: f64, _tally: &Tally) {
        self.bar.set_position((done * 100.0) as u64);
    }
}

/// A bar of 100 steps.
pub fn progress(what: &str) -> ProgressBar {
    let bar = ProgressBar::new(100);
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {msg}") {
        bar.set_style(style);
    }
    bar.set_message(what.to_owned());
    bar
}

fn interrupted(error: io::Error) -> String {
    if error.kind() == io::ErrorKind::Interrupted { "interrupted".to_owned() } else { error.to_string() }
}

/// CPU model, number of CPUs, kernel, load.
pub fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or("CPU", |(_, m)| m.trim());
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let cpus = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default();
    format!("{model}, {cpus} CPUs, Linux {}, load average at the start {load}", kernel.trim())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::Tally;

    fn scenario(yaml: &str) -> Scenario {
        let value = crate::yaml::value(&format!("title: t\npath: /\ncontenders: []\n{yaml}")).unwrap();
        serde_json::from_value(value).unwrap()
    }

    fn spent(contender_ns: u64) -> Sample {
        Sample {
            contender: Cpu { total_ns: contender_ns, user_ticks: 1, system_ticks: 3 },
            ..Sample::default()
        }
    }

    #[test]
    fn cpu_time_is_per_request_or_per_mib() {
        let mut tally = Tally::new();
        (tally.requests, tally.seconds) = (100, 2.0);
        let round = round_of(&scenario(""), &tally, &spent(1_000_000), 7);
        assert_eq!((round.cpu_us, round.cpu_user_us, round.rate, round.pss_bytes), (10.0, 2.5, 50.0, 7));
        assert_eq!(round.busy, 0.0005);
        assert!(round.void.is_none());
        let half =
            round_of(&scenario("per: mib\nbody_bytes: 524288\nmethod: POST\n"), &tally, &spent(1_000_000), 0);
        assert_eq!(half.cpu_us, 20.0);
        let large = round_of(&scenario("per: mib\nanswer: large\n"), &tally, &spent(1_000_000), 0);
        assert_eq!(large.cpu_us, 10.0);
    }

    #[test]
    fn any_error_and_no_answer_make_a_round_void() {
        let mut tally = Tally::new();
        tally.seconds = 1.0;
        assert!(round_of(&scenario(""), &tally, &spent(1), 0).void.is_some());
        tally.requests = 1_000_000;
        tally.errors.insert("status 502".to_owned(), 1);
        assert_eq!(round_of(&scenario(""), &tally, &spent(1), 0).void.as_deref(), Some("1 × status 502"));
    }

    #[test]
    fn a_peer_is_a_name_and_a_path_that_exists() {
        assert_eq!(named_path("nginx=/").unwrap().0, "nginx");
        assert!(named_path("nginx").is_err());
        assert!(named_path("nginx=/no/such/program").is_err());
    }
}
