//! `faults`: upstreams that die, hang, lie and return, and a gateway that is changed meanwhile; what became of every call.
//!
//! Each scenario starts origins of its own, a gateway, and a caller that numbers its calls; a script breaks things at
//! set times; then calls and the origins' ledgers are laid side by side. Calls lost, crossed or doubled break a law
//! on any machine; goodput and latency are judged under `--strict`, or when they are grossly off.

mod caller;
mod fate;
mod gateway;
mod ledger;
mod measure;
mod member;
pub mod origin;
mod report;
mod scenario;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use clap::Args;

use self::caller::{Calls, Plan};
use self::fate::Settings;
use self::gateway::{Gateway, Template};
use self::ledger::Ledger;
use self::measure::{Kind, Run};
use self::member::Member;
use self::report::{Outcome, Report};
use self::scenario::{Act, Change, Scenario};
use crate::contender::free_ports;
use crate::sys;

/// Options of the `faults` subcommand.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Only these scenarios [default: all].
    #[arg(value_name = "SCENARIO")]
    pub scenarios: Vec<String>,
    /// Ringwall's binary [default: beside this program].
    #[arg(long, value_name = "PATH")]
    pub ringwall: Option<PathBuf>,
    /// Ringwall's `--driver`.
    #[arg(long, default_value = "auto")]
    pub driver: String,
    /// Shorter stretches: for every change, not for figures.
    #[arg(long)]
    pub short: bool,
    /// What is about speed must hold too.
    #[arg(long)]
    pub strict: bool,
    /// Only print what there is.
    #[arg(long)]
    pub list: bool,
    /// Folder of the scenarios.
    #[arg(long, value_name = "DIR", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios/faults"))]
    pub folder: PathBuf,
    /// Folder for reports and raw figures [default: target/loadtest].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

/// Runs it and writes the report.
///
/// # Errors
/// A law was broken, a scenario could not be run, or it was interrupted.
pub fn run(options: &Options, stop: &AtomicBool) -> Result<(), String> {
    sys::raise_open_files();
    let executable = std::env::current_exe().map_err(|error| error.to_string())?;
    let directory = executable.parent().unwrap_or(Path::new("."));
    let out = options.out.clone().unwrap_or_else(|| directory.parent().unwrap_or(directory).join("loadtest"));
    let ringwall = match &options.ringwall {
        Some(path) => {
            fs::canonicalize(path).map_err(|error| format!("--ringwall {}: {error}", path.display()))?
        }
        None => directory.join("ringwall"),
    };
    let all = Scenario::all(&options.folder)?;
    let names: Vec<&str> = all.iter().map(|scenario| scenario.name.as_str()).collect();
    if let Some(unknown) = options.scenarios.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(format!("{unknown}: no such scenario; there are {}", names.join(", ")));
    }
    if options.list {
        for scenario in &all {
            println!("{:24} {}", scenario.name, scenario.title);
        }
        return Ok(());
    }
    let mut report = Report::new(options);
    report.print_head();
    // What is only about speed says nothing in the short form.
    let left_out = |scenario: &Scenario| options.short && scenario.short == 0.0;
    let named =
        |scenario: &Scenario| options.scenarios.is_empty() || options.scenarios.contains(&scenario.name);
    let chosen = |scenario: &&Scenario| named(scenario) && !left_out(scenario);
    for scenario in all.iter().filter(chosen) {
        let scenario = if options.short { scenario.clone().shortened() } else { scenario.clone() };
        let variants = match scenario.variants.as_slice() {
            [] => vec![String::new()],
            variants => variants.to_vec(),
        };
        for variant in &variants {
            let stage = Stage { options, ringwall: &ringwall, out: &out, scenario: &scenario, variant };
            let outcome = stage.run(stop)?;
            outcome.print();
            report.outcomes.push(outcome);
        }
    }
    let written = report.write(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    println!("raw: {}", written.display());
    report.verdict(options.strict)
}

/// One run of one scenario.
struct Stage<'a> {
    options: &'a Options,
    ringwall: &'a Path,
    out: &'a Path,
    scenario: &'a Scenario,
    variant: &'a str,
}

impl Stage<'_> {
    fn run(&self, stop: &AtomicBool) -> Result<Outcome, String> {
        let scenario = self.scenario;
        let name = match self.variant {
            "" => scenario.name.clone(),
            variant => format!("{}:{variant}", scenario.name),
        };
        let directory = self.out.join("work").join(name.replace(':', "-"));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&directory).map_err(|error| format!("{}: {error}", directory.display()))?;
        let directory = fs::canonicalize(&directory).map_err(|error| error.to_string())?;
        let [listen, metrics, origins @ ..] = free_ports::<6>().map_err(|error| error.to_string())?;
        if scenario.origins.len() > origins.len() {
            return Err(format!("{name}: at most {} origins", origins.len()));
        }
        let origins = &origins[..scenario.origins.len()];
        let urls: Vec<String> = origins.iter().map(|address| format!("\"http://{address}\"")).collect();
        let mut values = BTreeMap::from([
            ("VARIANT", self.variant.to_owned()),
            ("ORIGINS", urls.join(", ")),
            ("DIR", directory.display().to_string()),
        ]);
        for (name, address) in ["ORIGIN0", "ORIGIN1", "ORIGIN2", "ORIGIN3"].into_iter().zip(origins) {
            values.insert(name, address.to_string());
        }
        let template = Template {
            program: self.ringwall.to_owned(),
            driver: self.options.driver.clone(),
            directory: directory.clone(),
            listen,
            metrics,
            cores: scenario.cores,
            text: scenario.gateway.clone(),
            routes: scenario.routes,
            values,
        };
        if let Err(why) = template.check() {
            return Ok(Outcome::not_run(name, scenario, why));
        }
        let mut members = Vec::new();
        for (number, (address, settings)) in origins.iter().zip(&scenario.origins).enumerate() {
            let ledger = directory.join(format!("origin-{number}.ledger"));
            let settings = format!("salt={number} {}", Settings::words(settings));
            members.push(Member::start(*address, ledger, number, settings)?);
        }
        let mut gateway = template.start()?;
        let plan = self.plan(SocketAddr::V4(listen));
        let mut notes = Vec::new();
        // A moment ahead, so that both begin at the same time.
        let start = Instant::now() + Duration::from_millis(100);
        let done = AtomicBool::new(false);
        let (calls, changed) = std::thread::scope(|scope| {
            let caller = scope.spawn(|| {
                std::thread::sleep(start.saturating_duration_since(Instant::now()));
                let calls = caller::call(&plan, start, stop);
                done.store(true, Ordering::Release);
                calls
            });
            let changed = self.play(start, &mut members, &mut gateway, &mut notes, stop);
            (caller.join(), changed)
        });
        let calls =
            calls.map_err(|_| "the caller panicked".to_owned())?.map_err(|error| error.to_string())?;
        if !changed.terminated && !changed.upgraded && !gateway.runs() {
            notes.push(format!("the gateway has ended by itself. {}", gateway.last_words()));
        }
        self.outcome(name, calls, &mut members, &changed, notes)
    }

    fn plan(&self, address: SocketAddr) -> Plan {
        let scenario = self.scenario;
        let mut until_s = 0.0;
        let rates = scenario.load.iter().map(|stretch| {
            until_s += stretch.seconds;
            (stretch.rate, (until_s * 1e9) as u64)
        });
        Plan {
            address,
            path: "/r/".to_owned(),
            rates: rates.collect(),
            methods: scenario
                .methods
                .iter()
                .map(|method| caller::Method {
                    name: method.method.clone(),
                    share: method.share,
                    body_bytes: method.body_bytes,
                })
                .collect(),
            connections: scenario.connections,
            connections_max: scenario.connections_max,
            patience_ns: scenario.patience_ms * 1_000_000,
            abort_share: scenario.abort.map_or(0.0, |abort| abort.share),
            abort_after_ns: scenario.abort.map_or(0, |abort| abort.after_ms * 1_000_000),
        }
    }

    /// Does what the script says, when it says so.
    fn play(
        &self,
        start: Instant,
        members: &mut [Member],
        gateway: &mut Gateway,
        notes: &mut Vec<String>,
        stop: &AtomicBool,
    ) -> Changed {
        let mut changed = Changed { refused: 0, terminated: false, upgraded: false, exit: (0.0, 0.0) };
        for (at_s, step) in self.scenario.steps() {
            std::thread::sleep(
                (start + Duration::from_secs_f64(at_s)).saturating_duration_since(Instant::now()),
            );
            if stop.load(Ordering::Relaxed) {
                break;
            }
            if let Some(member) = step.origin.and_then(|origin| members.get_mut(origin)) {
                let mut done = match step.act {
                    None => Ok(()),
                    Some(Act::Kill) => {
                        member.kill();
                        Ok(())
                    }
                    Some(Act::Start) => member.begin(),
                    Some(Act::Hang) => member.signal(libc::SIGSTOP),
                    Some(Act::Resume) => member.signal(libc::SIGCONT),
                };
                if !step.set.is_empty() {
                    done = done.and_then(|()| member.set(&Settings::words(&step.set)));
                }
                if let Err(error) = done {
                    notes.push(format!("at {at_s} s: {error}"));
                }
            }
            let result = match step.gateway {
                None => Ok(()),
                Some(Change::Reload) => gateway.reload(),
                Some(Change::Upgrade) => {
                    changed.upgraded = true;
                    gateway.upgrade()
                }
                Some(Change::Term) => {
                    changed.terminated = true;
                    let told = gateway.term();
                    changed.exit = gateway.end();
                    told
                }
            };
            if let Err(error) = result {
                changed.refused += 1;
                notes.push(format!("at {at_s} s: {error}"));
            }
        }
        changed
    }

    fn outcome(
        &self,
        name: String,
        calls: Calls,
        members: &mut [Member],
        changed: &Changed,
        mut notes: Vec<String>,
    ) -> Result<Outcome, String> {
        let mut ledger = Ledger::default();
        let mut stats = Vec::new();
        for member in members.iter_mut() {
            stats.push(member.stats());
            ledger.read(&member.ledger).map_err(|error| error.to_string())?;
        }
        let capacity = |settings: &BTreeMap<String, serde_json::Value>| {
            let mut read = Settings::default();
            let known = read.apply(&Settings::words(settings));
            if known.is_ok() && read.delay_us > 0 {
                read.slots as f64 * 1e6 / read.delay_us as f64
            } else {
                0.0
            }
        };
        let run = Run {
            calls,
            ledger,
            capacity: self.scenario.origins.iter().map(capacity).sum(),
            in_flight: stats.iter().map(|stats| stats.in_flight_max).collect(),
            begun: stats.iter().map(|stats| stats.begun).collect(),
            unreadable: stats.iter().map(|stats| stats.unreadable).sum(),
            changes_failed: changed.refused,
            exit_s: changed.exit.0,
            exit_status: changed.exit.1,
        };
        notes.extend(run.calls.crossed.iter().cloned());
        Ok(Outcome::of(name, self.scenario, self.variant, &run, notes))
    }
}

/// What became of the script's changes to the gateway.
struct Changed {
    refused: u64,
    terminated: bool,
    upgraded: bool,
    exit: (f64, f64),
}

/// Whether a kind of verdict fails the run.
fn fails(kind: Kind, strict: bool) -> bool {
    match kind {
        Kind::Held => false,
        Kind::Missed => strict,
        Kind::Broken => true,
    }
}
