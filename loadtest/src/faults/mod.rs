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
use std::path::Path;
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
use crate::suite::{self, Paths};
use crate::sys;

/// Options of the `faults` subcommand.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Which scenarios, and how.
    #[command(flatten)]
    pub suite: suite::Choice,
}

/// Runs it and writes the report.
///
/// # Errors
/// A law was broken, a scenario could not be run, or it was interrupted.
pub fn run(options: &Options, stop: &AtomicBool) -> Result<(), String> {
    sys::raise_open_files();
    let suite = &options.suite;
    let all = Scenario::all(&suite.folder("faults"))?;
    let Some(mut chosen) = suite.chosen(all, |scenario| (&scenario.name, &scenario.title))? else {
        return Ok(());
    };
    let Paths { ringwall, out, .. } = Paths::find(suite.ringwall.as_deref(), suite.out.as_deref())?;
    let mut report = Report::new(suite);
    report.print_head();
    if suite.short {
        // What is only about speed says nothing in the short form.
        chosen.retain(|scenario| scenario.short > 0.0);
        chosen = chosen.into_iter().map(Scenario::shortened).collect();
    }
    for scenario in &chosen {
        let variants = match scenario.variants.as_slice() {
            [] => vec![String::new()],
            variants => variants.to_vec(),
        };
        for variant in &variants {
            let stage = Stage { options: suite, ringwall: &ringwall, out: &out, scenario, variant };
            let rounds = (0..scenario.rounds.max(1)).map(|_| stage.run(stop));
            match rounds.collect::<Result<Vec<_>, _>>() {
                Ok(rounds) => {
                    let Some(outcome) = Outcome::of_rounds(rounds) else { continue };
                    outcome.print();
                    report.outcomes.push(outcome);
                }
                Err(why) if stop.load(Ordering::Relaxed) => return Err(why),
                // The others are not kept from being run.
                Err(why) => {
                    println!("\n{}: NOT DONE: {why}", scenario.name);
                    report.not_done.push(format!("{}: not done: {why}", scenario.name));
                }
            }
        }
    }
    let written = report.write(&out).map_err(|error| format!("{}: {error}", out.display()))?;
    println!("raw: {}", written.display());
    report.verdict(suite.strict)
}

/// One run of one scenario.
struct Stage<'a> {
    options: &'a suite::Choice,
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
            // A binary from elsewhere may be older than the scenario.
            if self.options.ringwall.is_none() {
                return Err(format!("its configuration is refused: {why}"));
            }
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
