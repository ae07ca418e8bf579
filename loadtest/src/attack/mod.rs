//! `attack`: good clients at a fixed rate, with and without an attack beside them; what is left of their goodput.
//!
//! The gateway has one core to itself, the backend, the good clients and the attacker share another, of which they may
//! use 70 %: beyond that the generator would be measured, and the round is void. Windows with and without the attack
//! alternate. Good clients are of three kinds: those that keep their TLS connections (nearly all requests), and those
//! that come anew with each request, plain and with TLS, who feel a full queue of the listener first. Beside attacks over
//! HTTP/2 a part of those that keep their connections speak HTTP/2 too.

mod attacker;
mod crafted;
mod http2;
mod report;
mod scenario;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use clap::Args;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use self::attacker::{Done, Plan};
use self::report::{Report, Result as AttackResult, Round, Window};
use self::scenario::{Kind, Listener, Scenario};
use crate::backend::SMALL_BODY;
use crate::client::{Client, Expect, Pace, Protocol, Tally, Target, Watch, tls};
use crate::contender::{Contender, Places, Running, start_backend};
use crate::material::{HOST, Material};
use crate::process::{Cpu, Turns, rss_bytes, stolen_ns};
use crate::stats::Latencies;
use crate::suite::{self, Paths};
use crate::sys;

/// Good clients over HTTP/2, beside attacks over it: connections, and requests at once on each.
const HTTP2_CONNECTIONS: (usize, usize) = (4, 8);
const HTTP2: Protocol = Protocol::Http2 { streams: HTTP2_CONNECTIONS.1 };
/// Their part of all requests.
const HTTP2_SHARE: f64 = 0.4;
/// Good clients that keep their connections.
const KEPT_CONNECTIONS: usize = 32;
/// Requests a second of good clients that come anew, plain; of their rate at most [`NEW_SHARE`].
const NEW_RATE: f64 = 200.0;
/// The same with TLS: a handshake each.
const NEW_TLS_RATE: f64 = 20.0;
/// What those that come anew may be of all.
const NEW_SHARE: f64 = 0.05;
/// How many of those may be under way.
const NEW_CONNECTIONS: usize = 64;
/// What the load may use of its core.
const LOAD_BUSY_MAX: f64 = 0.7;
/// What it may use of it without an attack: the attacker needs the rest.
const LOAD_BUSY_QUIET_MAX: f64 = 0.4;
/// How long of a window others may have a core that gateway or load want: beyond that it is they who took the goodput.
const OTHERS_MAX: f64 = 0.3;
/// The same while good requests are weighed: what comes of it holds for all windows.
const OTHERS_CALM: f64 = 0.1;
/// How often a calmer moment is looked for.
const WEIGHINGS: usize = 5;
/// How much busier than was asked for good requests alone may keep the gateway's core: beyond that they were not weighed.
const BUSY_BEYOND: f64 = 0.2;
/// The first rate that is tried, of that at saturation.
const FIRST_SHARE: f64 = 0.25;
/// The part of their goodput that good clients must keep.
pub const KEPT_MIN: f64 = 0.95;
/// Below this it is no noise.
pub const KEPT_GROSS: f64 = 0.5;
/// Descriptors that are not for the attacker.
const DESCRIPTORS_LEFT: u64 = 1_000;

/// Options of the `attack` subcommand.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Which scenarios, and how.
    #[command(flatten)]
    pub suite: suite::Choice,
    /// Attack nginx and HAProxy too, where they are installed.
    #[arg(long)]
    pub peer: bool,
    /// Length of a window in seconds.
    #[arg(long, default_value_t = 4.0)]
    pub seconds: f64,
    /// Rounds: a window without the attack and one with it.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// How busy good requests alone keep the gateway's core: their rate follows.
    #[arg(long, default_value_t = 0.5)]
    pub busy: f64,
    /// The rate of good requests a second, instead.
    #[arg(long)]
    pub rate: Option<f64>,
    /// CPU of the gateway.
    #[arg(long, default_value_t = 0)]
    pub proxy_cpu: usize,
    /// CPU of everything else.
    #[arg(long, default_value_t = 1)]
    pub load_cpu: usize,
    /// Run everything before all normal work of this machine (SCHED_FIFO): for machines that are not idle.
    #[arg(long)]
    pub real_time: bool,
    /// Folder of the configurations.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/peers"))]
    pub configurations: PathBuf,
}

/// Runs it and writes the report.
///
/// # Errors
/// A law was broken, a scenario could not be run, or it was interrupted.
pub fn run(options: &Options, stop: &AtomicBool) -> Result<(), String> {
    let descriptors = sys::raise_open_files();
    let suite = &options.suite;
    let all = Scenario::all(&suite.folder("attack"))?;
    let Some(chosen) = suite.chosen(all, |scenario| (&scenario.name, &scenario.title))? else {
        return Ok(());
    };
    let Paths { ringwall, target, out } = Paths::find(suite.ringwall.as_deref(), suite.out.as_deref())?;
    let work = suite::work(&out)?;
    let material = Material::make(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    let places = Places {
        peers: options.configurations.clone(),
        work,
        target,
        ringwall,
        driver: suite.driver.clone(),
        way: "direct-ring".to_owned(),
        cpu: options.proxy_cpu,
    };
    let (mut contenders, _) = Contender::installed(&places, &[]);
    contenders.retain(|contender| match contender.kind.name {
        "ringwall" => true,
        "nginx-http" | "haproxy-http" => options.peer,
        _ => false,
    });
    if contenders.first().is_none_or(|contender| contender.kind.family != "ringwall") {
        return Err(format!("{}: no such program", places.ringwall.display()));
    }
    let machine = crate::compare::machine();
    if std::thread::available_parallelism().is_ok_and(|cpus| cpus.get() < 2) {
        println!("NOT RUN: attack: it takes two CPUs");
        return Ok(());
    }
    if !core_affinity::set_for_current(core_affinity::CoreId { id: options.load_cpu }) {
        return Err(format!("cannot run on CPU {}", options.load_cpu));
    }
    if options.real_time {
        sys::real_time(2).map_err(|error| format!("--real-time: {error}"))?;
    }
    sys::exact_timers();
    let certificate = material.certificate.clone();
    let bench = Bench {
        seconds: if suite.short { 0.5 } else { options.seconds },
        rounds: if suite.short { 1 } else { options.rounds },
        measuring: tls::for_measuring(certificate.clone(), Protocol::Http1)
            .map_err(|error| error.to_string())?,
        measuring_http2: tls::for_measuring(certificate.clone(), HTTP2).map_err(|error| error.to_string())?,
        renegotiating: tls::for_renegotiating(certificate).map_err(|error| error.to_string())?,
        options,
        places,
        material,
        descriptors,
        stop,
    };
    let mut report = Report::new(suite.short, &contenders, machine);
    report.print_head();
    for contender in &contenders {
        let peer = contender.kind.family != "ringwall";
        let Calibrated { rate, saturated_us, alone_us, others } = bench.calibrate(contender)?;
        report.rates.insert(contender.name.clone(), rate);
        println!(
            "\n{}: a good request costs {saturated_us:.1} CPU µs at saturation, {alone_us:.1} at a quarter of that rate; \
             {rate:.0}/s from here on; others had a core for {:.0} % of that time",
            contender.name,
            others * 100.0
        );
        report::print_columns();
        let wanted = || chosen.iter().filter(|scenario| scenario.peers || !peer);
        let without_http2 = match wanted().any(|scenario| scenario.kind.is_http2()) {
            true => bench.without_http2(contender)?,
            false => None,
        };
        for scenario in wanted() {
            if scenario.kind.is_http2()
                && let Some(why) = &without_http2
            {
                println!("{:22} NOT RUN: it does not speak HTTP/2: {why}", scenario.name);
                report.without_http2.push(format!("{}: {}", contender.name, scenario.name));
                continue;
            }
            match bench.scenario(contender, scenario, rate) {
                Ok(result) => {
                    result.print();
                    report.results.push(result);
                }
                Err(why) if stop.load(Ordering::Relaxed) => return Err(why),
                // The others are not kept from being run.
                Err(why) => {
                    println!("{:22} NOT DONE: {why}", scenario.name);
                    report.not_done.push(format!("{}: {}: not done: {why}", contender.name, scenario.name));
                }
            }
        }
    }
    let written = report.write(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    println!("raw: {}", written.display());
    if let Some(line) = report.not_told() {
        println!("{line}");
    }
    report.verdict(suite.strict)
}

/// What good requests cost, and how many are sent.
struct Calibrated {
    /// Good requests a second.
    rate: f64,
    /// CPU µs of one in a closed loop.
    saturated_us: f64,
    /// In the open loop.
    alone_us: f64,
    /// How long others had a core meanwhile.
    others: f64,
}

struct Bench<'a> {
    options: &'a Options,
    places: Places,
    material: Material,
    measuring: Arc<ClientConfig>,
    measuring_http2: Arc<ClientConfig>,
    renegotiating: Arc<ClientConfig>,
    descriptors: u64,
    seconds: f64,
    rounds: usize,
    stop: &'a AtomicBool,
}

impl Bench<'_> {
    /// Starts a backend and the contender before it.
    fn start(&self, contender: &Contender) -> Result<(Running, Running), String> {
        let backend = start_backend(&self.places.work, &self.material, self.options.load_cpu)?;
        let running = contender.start(&self.places, &self.material, &backend, Some("attack"))?;
        match self.answers(&self.good(&running, Some(&running.tls), true))? {
            None => Ok((backend, running)),
            Some(error) => Err(format!("{}: {error}. {}", contender.name, running.last_words())),
        }
    }

    /// Waits until a good request is answered; what was wrong with the last one, if none is.
    fn answers(&self, target: &Target) -> Result<Option<String>, String> {
        let mut last = None;
        for _ in 0..20 {
            let mut client = Client::new(target, 1, self.stop).map_err(|error| error.to_string())?;
            let tally = client.once_each(0..1, 1, Duration::from_secs(5)).map_err(interrupted)?;
            last = tally.errors.into_keys().next();
            if last.is_none() {
                break;
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(last)
    }

    /// Why good clients cannot speak HTTP/2 with it, if they cannot.
    fn without_http2(&self, contender: &Contender) -> Result<Option<String>, String> {
        let (_backend, running) = self.start(contender)?;
        self.answers(&self.good_http2(&running))
    }

    /// Good clients that keep their connections, over HTTP/2.
    fn good_http2(&self, running: &Running) -> Target {
        let target = self.good(running, Some(&running.tls), true);
        let tls = target.tls.map(|(_, name)| (Arc::clone(&self.measuring_http2), name));
        Target { tls, protocol: HTTP2, ..target }
    }

    /// Good clients: with TLS at that address, or plain.
    fn good(&self, running: &Running, tls: Option<&std::net::SocketAddrV4>, keep_alive: bool) -> Target {
        let requests = self.material.tokens.iter().enumerate().map(|(number, token)| {
            format!(
                "GET /v1/orders/{number} HTTP/1.1\r\nHost: {HOST}\r\nAccept: */*\r\nAuthorization: Bearer {token}\r\n\r\n"
            )
            .into_bytes()
        });
        let name = ServerName::try_from(HOST).ok().filter(|_| tls.is_some());
        Target {
            address: SocketAddr::V4(*tls.unwrap_or(&running.plain)),
            tls: name.map(|name| (Arc::clone(&self.measuring), name)),
            requests: requests.collect(),
            protocol: Protocol::Http1,
            opening: Arc::from([]),
            expect: Expect { status: Some(200), body: Some(SMALL_BODY.into()), ..Expect::default() },
            keep_alive,
            many_sources: false,
        }
    }

    /// The rate of good requests at which the gateway's core is as busy as was asked for. It is not that part of the
    /// rate at saturation: a request that comes alone costs more than one of many. All that follows hangs on it: of
    /// several moments the calmest counts.
    fn calibrate(&self, contender: &Contender) -> Result<Calibrated, String> {
        let (backend, running) = self.start(contender)?;
        let target = self.good(&running, Some(&running.tls), true);
        let mut weighed: Option<(f64, f64)> = None;
        let mut errors = BTreeMap::new();
        for _ in 0..WEIGHINGS {
            let mut client =
                Client::new(&target, KEPT_CONNECTIONS, self.stop).map_err(|error| error.to_string())?;
            let mut meter = self.meter(&running, None);
            let spans = (Duration::from_millis(500), Duration::from_secs(1));
            let tally =
                client.drive(Pace::Closed, KEPT_CONNECTIONS, spans, &mut meter).map_err(interrupted)?;
            meter.end();
            if let Some(wrong) = tally.errors.keys().find(|error| report::is_wrong(error)) {
                return Err(format!("{}: not attacked yet, and: {wrong}", contender.name));
            }
            if tally.error_count() > 0 || tally.requests == 0 {
                errors = tally.errors;
                continue;
            }
            let saturated_us = meter.spent_ns.0 as f64 / 1e3 / tally.requests as f64;
            if weighed.is_none_or(|(_, others)| meter.others() < others) {
                weighed = Some((saturated_us, meter.others()));
            }
            if meter.others() <= OTHERS_CALM {
                break;
            }
        }
        let Some((saturated_us, _)) = weighed else {
            return Err(format!("{}: not calibrated: {errors:?}", contender.name));
        };
        let first = self.options.rate.unwrap_or(FIRST_SHARE * 1e6 / saturated_us);
        let mut calmest: Option<Window> = None;
        for _ in 0..WEIGHINGS {
            let window = self.window(&running, &backend, first, false)?;
            if calmest.as_ref().is_none_or(|calmest| window.others() < calmest.others()) {
                calmest = Some(window);
            }
            if calmest.as_ref().is_some_and(|calmest| calmest.others() <= OTHERS_CALM) {
                break;
            }
        }
        let Some(window) = calmest else { return Err(format!("{}: not calibrated", contender.name)) };
        let more = (self.options.busy / window.busy).min(LOAD_BUSY_QUIET_MAX / window.load_busy);
        let rate = self.options.rate.unwrap_or(first * more.clamp(0.1, 2.0));
        Ok(Calibrated { rate, saturated_us, alone_us: window.cpu_us, others: window.others() })
    }

    fn scenario(
        &self,
        contender: &Contender,
        scenario: &Scenario,
        rate: f64,
    ) -> Result<AttackResult, String> {
        let (backend, mut running) = self.start(contender)?;
        let connections =
            scenario.connections.min(self.descriptors.saturating_sub(DESCRIPTORS_LEFT) as usize);
        let http2 = scenario.kind.is_http2();
        let tls = match (scenario.kind, scenario.listener) {
            _ if http2 => Some(Arc::clone(&self.measuring_http2)),
            (Kind::Renegotiation, _) => Some(Arc::clone(&self.renegotiating)),
            (_, Listener::Tls) => Some(Arc::clone(&self.measuring)),
            _ => None,
        };
        let hello = crafted::client_hello(tls.as_ref().unwrap_or(&self.measuring));
        let plan = Plan {
            address: SocketAddr::V4(match scenario.listener {
                Listener::Plain => running.plain,
                Listener::Tls => running.tls,
                Listener::Trusted => running.trusted,
            }),
            scenario: scenario.clone(),
            connections,
            tls,
            hello: hello.map_err(|error| error.to_string())?.into(),
            token: self.material.tokens.first().cloned().unwrap_or_default(),
        };
        let ramp = Duration::from_secs_f64(if self.options.suite.short {
            scenario.ramp_seconds / 4.0
        } else {
            scenario.ramp_seconds
        });
        let mut rounds = Vec::new();
        let rss_before = rss_bytes(running.pid());
        let mut rss_peak = rss_before;
        for _ in 0..self.rounds {
            let without = self.window(&running, &backend, rate, http2)?;
            let ended = AtomicBool::new(false);
            let (with, done) = std::thread::scope(|scope| {
                let attacker = scope.spawn(|| {
                    if self.options.real_time {
                        let _ = sys::real_time(1);
                    } else {
                        sys::go_last();
                    }
                    attacker::attack(&plan, &ended)
                });
                std::thread::sleep(ramp);
                let with = self.window(&running, &backend, rate, http2);
                ended.store(true, Ordering::Relaxed);
                (with, attacker.join())
            });
            let (with, done) = (with?, done.map_err(|_| "the attacker panicked".to_owned())?);
            let done: Done = done.map_err(|error| error.to_string())?;
            rss_peak = rss_peak.max(with.rss_peak);
            rounds.push(Round { without, with, done });
            running.trim_log();
            std::thread::sleep(Duration::from_secs_f64(if self.options.suite.short { 0.2 } else { 1.0 }));
        }
        let after = self.window(&running, &backend, rate, http2)?;
        let alive = running.runs();
        Ok(AttackResult {
            contender: contender.name.clone(),
            scenario: scenario.clone(),
            connections,
            rate,
            busy_max: self.options.rate.map_or(self.options.busy + BUSY_BEYOND, |_| f64::INFINITY),
            rounds,
            after,
            alive,
            refusals: running.refusals(),
            rss: [rss_before, rss_peak, rss_bytes(running.pid())],
            words: if alive { String::new() } else { running.last_words() },
        })
    }

    fn meter<'a>(&self, gateway: &'a Running, backend: Option<&'a Running>) -> Meter<'a> {
        Meter::new(gateway, backend, [self.options.proxy_cpu, self.options.load_cpu])
    }

    /// All good clients for the length of a window, some of them over HTTP/2 if that is asked for.
    fn window(&self, running: &Running, backend: &Running, rate: f64, http2: bool) -> Result<Window, String> {
        let new_rate = NEW_RATE.min(rate * NEW_SHARE);
        let new_tls_rate = NEW_TLS_RATE.min(rate * NEW_SHARE / 10.0);
        let kept_rate = rate - new_rate - new_tls_rate;
        let http2_rate = if http2 { kept_rate * HTTP2_SHARE } else { 0.0 };
        let mut targets = vec![
            (self.good(running, Some(&running.tls), true), kept_rate - http2_rate, KEPT_CONNECTIONS),
            (self.good(running, None, false), new_rate, NEW_CONNECTIONS),
            (self.good(running, Some(&running.tls), false), new_tls_rate, NEW_CONNECTIONS),
        ];
        if http2 {
            targets.push((self.good_http2(running), http2_rate, HTTP2_CONNECTIONS.0));
        }
        let Some((kept, others)) = targets.split_first() else { return Err("no good clients".to_owned()) };
        let spans = (Duration::from_secs_f64(0.3), Duration::from_secs_f64(self.seconds));
        let drive = |(target, rate, connections): &(Target, f64, usize), watch: &mut dyn Watch| {
            let mut client = Client::new(target, *connections, self.stop)?.undeterred();
            client.drive(Pace::Open(*rate), *connections, spans, watch)
        };
        let mut meter = self.meter(running, Some(backend));
        // A thread that has ended has no CPU time any more: all end together.
        let all_done = Barrier::new(targets.len());
        let tallies: std::io::Result<Vec<Tally>> = std::thread::scope(|scope| {
            let others = others.iter().map(|other| {
                scope.spawn(|| {
                    sys::exact_timers();
                    let tally = drive(other, &mut Nobody);
                    all_done.wait();
                    tally
                })
            });
            let others: Vec<_> = others.collect();
            let mut tallies = vec![drive(kept, &mut meter)];
            meter.end();
            all_done.wait();
            for other in others {
                tallies
                    .push(other.join().unwrap_or_else(|_| Err(std::io::Error::other("a client panicked"))));
            }
            tallies.into_iter().collect()
        });
        let tallies = tallies.map_err(interrupted)?;
        Ok(window_of(&tallies, &meter, self.seconds))
    }
}

fn window_of(tallies: &[Tally], meter: &Meter<'_>, seconds: f64) -> Window {
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    let mut latencies = Latencies::new();
    for tally in tallies {
        latencies.add(&tally.latencies);
        for (error, count) in &tally.errors {
            *errors.entry(error.clone()).or_default() += count;
        }
    }
    // As they are put together in `Bench::window`: kept, twice those that come anew, over HTTP/2.
    let (new, http2) = tallies[1..].split_at(2);
    let in_time: u64 = tallies.iter().map(|tally| tally.in_time).sum();
    Window {
        due: tallies.iter().map(|tally| tally.due).sum(),
        in_time,
        new_due: new.iter().map(|tally| tally.due).sum(),
        new_in_time: new.iter().map(|tally| tally.in_time).sum(),
        http2_due: http2.iter().map(|tally| tally.due).sum(),
        http2_in_time: http2.iter().map(|tally| tally.in_time).sum(),
        errors,
        latency: latencies.summary(),
        cpu_us: meter.spent_ns.0 as f64 / 1e3 / in_time.max(1) as f64,
        busy: meter.spent_ns.0 as f64 / 1e9 / seconds,
        load_busy: meter.spent_ns.1 as f64 / 1e9 / seconds,
        gateway_others: meter.others.gateway,
        load_others: meter.others.load,
        rss_peak: meter.rss_peak,
    }
}

/// CPU time and memory over a window, and what others had meanwhile.
struct Meter<'a> {
    gateway: &'a Running,
    backend: Option<&'a Running>,
    cpus: [usize; 2],
    before: (u64, u64),
    /// Of the gateway, and of all the rest.
    spent_ns: (u64, u64),
    /// When it was made: what others have of the warm-up makes requests of the window late.
    made: Moment,
    opened: Moment,
    others: Others,
    rss_peak: u64,
    looked: Instant,
}

/// The part of a span in which others had a core that somebody of ours wanted.
#[derive(Clone, Copy, Default)]
struct Others {
    gateway: f64,
    load: f64,
}

/// What everybody had of the two cores so far.
#[derive(Clone, Copy)]
struct Moment {
    at: Instant,
    gateway: Turns,
    client: Turns,
    backend: Turns,
    /// Nanoseconds of the gateway, and of all the rest.
    spent_ns: (u64, u64),
    stolen_ns: [u64; 2],
}

impl Moment {
    fn since(&self, earlier: &Self) -> Others {
        let span_ns = (self.at - earlier.at).as_nanos().max(1) as f64;
        let gateway_ns = self.spent_ns.0.saturating_sub(earlier.spent_ns.0);
        let load_ns = self.spent_ns.1.saturating_sub(earlier.spent_ns.1);
        let gateway = self.gateway.since(earlier.gateway).waited_for_others_ns(gateway_ns);
        let client = self.client.since(earlier.client).waited_for_others_ns(load_ns);
        let backend = self.backend.since(earlier.backend).waited_for_others_ns(load_ns);
        let stolen = |cpu: usize| self.stolen_ns[cpu].saturating_sub(earlier.stolen_ns[cpu]);
        Others {
            gateway: gateway.max(stolen(0)) as f64 / span_ns,
            load: client.max(backend).max(stolen(1)) as f64 / span_ns,
        }
    }
}

impl<'a> Meter<'a> {
    fn new(gateway: &'a Running, backend: Option<&'a Running>, cpus: [usize; 2]) -> Self {
        let made = Self::moment(gateway, backend, cpus);
        Self {
            gateway,
            backend,
            cpus,
            before: (0, 0),
            spent_ns: (0, 0),
            made,
            opened: made,
            others: Others::default(),
            rss_peak: 0,
            looked: Instant::now(),
        }
    }

    fn moment(gateway: &Running, backend: Option<&Running>, cpus: [usize; 2]) -> Moment {
        Moment {
            at: Instant::now(),
            gateway: Turns::of_busiest(gateway.pid()),
            client: Turns::of_this_thread(),
            backend: backend.map(|backend| Turns::of_busiest(backend.pid())).unwrap_or_default(),
            spent_ns: Self::sample(gateway, backend),
            stolen_ns: cpus.map(stolen_ns),
        }
    }

    /// What others had: of the window, of it with its warm-up, and with the time until its last answer too. Whichever is
    /// most: a stall before the window is over before much of it is measured, one in it is little of all.
    fn look_at_others(&mut self) {
        let now = Self::moment(self.gateway, self.backend, self.cpus);
        for earlier in [self.made, self.opened] {
            let others = now.since(&earlier);
            self.others.gateway = self.others.gateway.max(others.gateway);
            self.others.load = self.others.load.max(others.load);
        }
    }

    /// The last answer has come.
    fn end(&mut self) {
        self.look_at_others();
    }

    fn others(&self) -> f64 {
        self.others.gateway.max(self.others.load)
    }

    fn sample(gateway: &Running, backend: Option<&Running>) -> (u64, u64) {
        // The children of this process are the gateway and the backend: its own threads are counted alone.
        let own = Cpu::alone(std::process::id()).total_ns;
        let backend = backend.map_or(0, |backend| Cpu::of(backend.pid()).total_ns);
        (Cpu::of(gateway.pid()).total_ns, own + backend)
    }
}

impl Watch for Meter<'_> {
    fn window_opens(&mut self) {
        self.opened = Self::moment(self.gateway, self.backend, self.cpus);
        self.before = self.opened.spent_ns;
    }

    fn window_closes(&mut self) {
        let after = Self::sample(self.gateway, self.backend);
        self.spent_ns = (after.0.saturating_sub(self.before.0), after.1.saturating_sub(self.before.1));
        self.look_at_others();
        self.rss_peak = self.rss_peak.max(rss_bytes(self.gateway.pid()));
    }

    fn progress(&mut self, _done: f64, _tally: &Tally) {
        if self.looked.elapsed() > Duration::from_millis(250) {
            self.looked = Instant::now();
            self.rss_peak = self.rss_peak.max(rss_bytes(self.gateway.pid()));
        }
    }
}

/// Looks at nothing.
struct Nobody;
impl Watch for Nobody {}

fn interrupted(error: std::io::Error) -> String {
    if error.kind() == std::io::ErrorKind::Interrupted { "interrupted".to_owned() } else { error.to_string() }
}
