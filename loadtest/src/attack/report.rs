//! What attacks left of good clients' goodput, told: a table on standard output, raw JSON.
//!
//! Called by `attack`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::attacker::Done;
use super::scenario::{Kind, Scenario};
use super::{KEPT_GROSS, KEPT_MIN, LOAD_BUSY_MAX, OTHERS_MAX};
use crate::contender::Contender;
use crate::stats::{LatencySummary, Spread};

/// Errors of good clients that must never be: another's bytes, or no HTTP.
const WRONG: [&str; 4] =
    ["body differs", "malformed response head", "malformed chunk", "bytes that nobody asked for"];

/// Whether an error of a good client is one that must never be.
pub fn is_wrong(error: &str) -> bool {
    WRONG.contains(&error) || error.starts_with("HTTP/2 fault of the server")
}

/// All that was measured.
#[derive(Serialize)]
pub struct Report {
    /// When it began, seconds since 1970.
    pub unix_time: u64,
    /// The command line.
    pub command: String,
    /// CPU model, kernel, number of CPUs.
    pub machine: String,
    /// Contender → version.
    pub versions: BTreeMap<String, String>,
    /// The short form.
    pub short: bool,
    /// Good requests a second.
    pub rates: BTreeMap<String, f64>,
    /// One for each contender and scenario.
    pub results: Vec<Result>,
    /// What could not be run to its end, and why.
    pub not_done: Vec<String>,
    /// Attacks over HTTP/2 on who does not speak it.
    pub without_http2: Vec<String>,
}

/// What came of one scenario.
#[derive(Serialize)]
pub struct Result {
    /// Who was attacked.
    pub contender: String,
    /// How.
    pub scenario: Scenario,
    /// Connections at most, after descriptors were counted.
    pub connections: usize,
    /// Good requests offered a second.
    pub rate: f64,
    /// How busy good requests alone may keep the gateway's core: beyond that they were not weighed rightly.
    pub busy_max: f64,
    /// Windows without and with the attack.
    pub rounds: Vec<Round>,
    /// One more window when it was over.
    pub after: Window,
    /// The contender runs at the end.
    pub alive: bool,
    /// By reason, from its metrics.
    pub refusals: BTreeMap<String, f64>,
    /// Resident memory before, at the most, and after, bytes.
    pub rss: [u64; 3],
    /// What it printed before it ended, if it did.
    pub words: String,
}

/// Two windows.
#[derive(Serialize)]
pub struct Round {
    /// Without the attack.
    pub without: Window,
    /// With it.
    pub with: Window,
    /// What the attacker did, its ramp included.
    pub done: Done,
}

/// What good clients got in a window.
#[derive(Serialize)]
pub struct Window {
    /// Requests that were due.
    pub due: u64,
    /// Those answered as expected within a second.
    pub in_time: u64,
    /// The same of clients that come anew.
    pub new_due: u64,
    /// The same of clients that come anew.
    pub new_in_time: u64,
    /// The same of clients over HTTP/2; none where the attack is not over it.
    pub http2_due: u64,
    /// The same of clients over HTTP/2.
    pub http2_in_time: u64,
    /// What went wrong.
    pub errors: BTreeMap<String, u64>,
    /// From when requests were due.
    pub latency: LatencySummary,
    /// The gateway's CPU µs per good answer, whatever it was spent on.
    pub cpu_us: f64,
    /// Of the gateway's core.
    pub busy: f64,
    /// Of the core of clients, backend and attacker.
    pub load_busy: f64,
    /// The part of the time in which the gateway's busiest thread was ready to run and others had its core: of the window,
    /// of it with its warm-up or with the time until the last answer, whichever is most.
    pub gateway_others: f64,
    /// The same of the good clients and the backend, and their core.
    pub load_others: f64,
    /// The gateway's resident memory, the most of several looks, bytes.
    pub rss_peak: u64,
}

impl Window {
    /// How much of the time others had a core that somebody of ours wanted.
    pub fn others(&self) -> f64 {
        self.gateway_others.max(self.load_others)
    }

    /// The part of what was due that was answered in time.
    fn share(&self) -> f64 {
        self.in_time as f64 / self.due.max(1) as f64
    }

    /// The same of clients that come anew.
    fn new_share(&self) -> f64 {
        self.new_in_time as f64 / self.new_due.max(1) as f64
    }

    /// The same of clients over HTTP/2.
    fn http2_share(&self) -> f64 {
        if self.http2_due == 0 { 1.0 } else { self.http2_in_time as f64 / self.http2_due as f64 }
    }

    /// What is told of it where a law was broken.
    fn words(&self) -> String {
        let errors: Vec<String> =
            self.errors.iter().map(|(error, count)| format!(", {count} × {error}")).collect();
        format!(
            "{} of {} in time, p99 {:.0} ms, core {:.0} %, load {:.0} %, others {:.0} and {:.0} %{}",
            self.in_time,
            self.due,
            self.latency.p99_us / 1e3,
            self.busy * 100.0,
            self.load_busy * 100.0,
            self.gateway_others * 100.0,
            self.load_others * 100.0,
            errors.concat()
        )
    }
}

impl Round {
    /// Nobody else had a core for so long that it could be felt.
    fn is_calm(&self) -> bool {
        self.without.others().max(self.with.others()) <= OTHERS_MAX
    }
}

/// The median of a figure over rounds.
fn median(rounds: &[&Round], figure: impl Fn(&Round) -> f64) -> f64 {
    Spread::of(rounds.iter().map(|round| figure(round))).map_or(f64::NAN, |spread| spread.median)
}

/// Goodput with the attack by that without; of all, and of those that come anew, or speak HTTP/2, whichever lost more.
fn ratios(rounds: &[&Round]) -> (f64, f64) {
    let new = median(rounds, |round| round.with.new_share() / round.without.new_share());
    let http2 = median(rounds, |round| round.with.http2_share() / round.without.http2_share());
    (
        median(rounds, |round| round.with.share() / round.without.share()),
        // Unlike `f64::min`, what is no number stays none.
        if new.is_nan() || new < http2 { new } else { http2 },
    )
}

/// What is to be said of a result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Kept,
    Missed,
    /// The load was too much for its core, or the machine too busy for the good clients alone: nothing is known.
    Void(&'static str),
    Broken(&'static str),
}

impl Result {
    /// The rounds from which something can be learned.
    fn calm(&self) -> Vec<&Round> {
        self.rounds.iter().filter(|round| round.is_calm()).collect()
    }

    fn wrong(&self) -> u64 {
        let windows = self.rounds.iter().flat_map(|round| [&round.without, &round.with]).chain([&self.after]);
        windows.flat_map(|window| &window.errors).filter(|(error, _)| is_wrong(error)).map(|(_, n)| n).sum()
    }

    /// Good requests refused with 429: their addresses and callers were known before.
    fn limited(&self) -> u64 {
        let windows = self.rounds.iter().map(|round| &round.with);
        windows.filter_map(|window| window.errors.get("status 429")).sum()
    }

    /// What must never be is broken on the busiest machine. What is lost while others had a core that somebody of ours wanted
    /// is lost to them: of that nothing is known.
    fn verdict(&self) -> Verdict {
        if !self.alive {
            return Verdict::Broken("the process has ended");
        }
        if self.wrong() > 0 {
            return Verdict::Broken("a good client got what is not its answer");
        }
        if matches!(self.scenario.kind, Kind::FreshPrefixes | Kind::FreshAddresses) && self.limited() > 0 {
            return Verdict::Broken("fresh addresses made known ones refused");
        }
        let calm = self.calm();
        if calm.is_empty() {
            return Verdict::Void("others had a core");
        }
        let of_calm = |figure: fn(&Round) -> f64| median(&calm, figure);
        let (all, new) = ratios(&calm);
        let after_is_calm = self.after.others() <= OTHERS_MAX;
        if of_calm(|round| round.without.share()) < KEPT_MIN {
            Verdict::Void("the machine is too busy even without the attack")
        } else if of_calm(|round| round.without.busy) > self.busy_max {
            Verdict::Void("good requests alone keep the core too busy")
        } else if self.after.share() < KEPT_GROSS && after_is_calm {
            Verdict::Broken("good clients are not served after the attack")
        } else if of_calm(|round| round.with.load_busy) > LOAD_BUSY_MAX {
            Verdict::Void("the load used more than 70 % of its core")
        } else if all.min(new) < KEPT_GROSS || all.is_nan() || new.is_nan() {
            Verdict::Broken("less than half of the goodput is left")
        } else if !after_is_calm {
            Verdict::Void("others had a core after the attack")
        } else if all.min(new) < KEPT_MIN {
            Verdict::Missed
        } else {
            Verdict::Kept
        }
    }

    /// The figures that a broken law was judged by.
    fn words(&self) -> String {
        let rounds = self.rounds.iter().map(|round| {
            format!("\n    without: {}\n    with:    {}", round.without.words(), round.with.words())
        });
        rounds.chain([format!("\n    after:   {}", self.after.words())]).collect()
    }

    /// Its lines of the table.
    pub fn print(&self) {
        let rounds: Vec<&Round> = self.rounds.iter().collect();
        let (all, new) = ratios(&rounds);
        let median = |figure: &dyn Fn(&Round) -> f64| median(&rounds, figure);
        let per_second = |window: &Window| window.share() * self.rate;
        let attack_us = |round: &Round| {
            let acts = (round.done.acts + round.done.opened) as f64;
            (round.with.busy - round.without.busy) * 1e6 * round.done.seconds / acts
        };
        let said = match self.verdict() {
            Verdict::Kept => "kept".to_owned(),
            Verdict::Missed => "MISSED".to_owned(),
            Verdict::Void(why) => format!("VOID: {why}"),
            Verdict::Broken(why) => format!("BROKEN: {why}"),
        };
        println!(
            "{:22} {:>7.0} {:>7.0} {:>5.1} {:>5.1} {:>6.2} {:>6.2} {:>7.2} {:>7.2} {:>6.1} {:>6.1} {:>7.1} {:>4.0} {:>4.0} {:>5} {:>5} {:>5}  {said}",
            self.scenario.name,
            median(&|round| per_second(&round.without)),
            median(&|round| per_second(&round.with)),
            all * 100.0,
            new * 100.0,
            median(&|round| round.without.latency.p50_us) / 1e3,
            median(&|round| round.with.latency.p50_us) / 1e3,
            median(&|round| round.without.latency.p99_us) / 1e3,
            median(&|round| round.with.latency.p99_us) / 1e3,
            median(&|round| round.without.cpu_us),
            median(&|round| round.with.cpu_us),
            median(&attack_us),
            median(&|round| round.with.busy) * 100.0,
            median(&|round| round.with.load_busy) * 100.0,
            self.rss[0] >> 20,
            self.rss[1] >> 20,
            self.rss[2] >> 20,
        );
        let sum =
            |figure: &dyn Fn(&Done) -> u64| self.rounds.iter().map(|round| figure(&round.done)).sum::<u64>();
        println!(
            "    did: {} connections opened ({} at once at most, {} open at the end), {} handshakes, {} acts, {} answers; {} held back, {} refused, {} ended by the gateway",
            sum(&|done| done.opened),
            self.connections,
            self.rounds.last().map_or(0, |round| round.done.open),
            sum(&|done| done.handshakes),
            sum(&|done| done.acts),
            sum(&|done| done.answers),
            sum(&|done| done.held_back),
            sum(&|done| done.refused),
            sum(&|done| done.ended_by_gateway)
        );
        let told = |counts: &BTreeMap<String, f64>| {
            counts.iter().map(|(what, count)| format!("{count} × {what}")).collect::<Vec<_>>().join(", ")
        };
        if !self.refusals.is_empty() {
            println!("    refused: {}", told(&self.refusals));
        }
        let mut errors = BTreeMap::new();
        for (error, count) in self.rounds.iter().flat_map(|round| &round.with.errors) {
            *errors.entry(error.clone()).or_default() += *count as f64;
        }
        if !errors.is_empty() {
            println!("    good clients, attacked: {}", told(&errors));
        }
        println!(
            "    others had {:.0} % of the gateway's core, {:.0} % of the load's, while it was wanted",
            median(&|round| round.without.gateway_others.max(round.with.gateway_others)) * 100.0,
            median(&|round| round.without.load_others.max(round.with.load_others)) * 100.0
        );
        if !self.words.is_empty() {
            println!("    {}", self.words);
        }
    }
}

/// The heading of the table.
pub fn print_columns() {
    println!(
        "{:22} {:>15} {:>11} {:>13} {:>15} {:>13} {:>7} {:>9} {:>17}",
        "", "goodput/s", "kept % of", "p50 ms", "p99 ms", "CPU µs/good", "µs an", "core %", "RSS MiB"
    );
    println!(
        "{:22} {:>7} {:>7} {:>5} {:>5} {:>6} {:>6} {:>7} {:>7} {:>6} {:>6} {:>7} {:>4} {:>4} {:>5} {:>5} {:>5}",
        "",
        "without",
        "with",
        "all",
        "new",
        "w/o",
        "with",
        "w/o",
        "with",
        "w/o",
        "with",
        "act",
        "gw",
        "load",
        "start",
        "peak",
        "end"
    );
}

impl Report {
    /// One without results.
    pub fn new(short: bool, contenders: &[Contender], machine: String) -> Self {
        Self {
            unix_time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            machine,
            versions: contenders.iter().map(|c| (c.name.clone(), c.version.clone())).collect(),
            short,
            rates: BTreeMap::new(),
            results: Vec::new(),
            not_done: Vec::new(),
            without_http2: Vec::new(),
        }
    }

    /// The heading.
    pub fn print_head(&self) {
        println!("{}{}", self.machine, if self.short { ", short form" } else { "" });
        for (name, version) in &self.versions {
            println!("  {name:16} {version}");
        }
    }

    /// Writes `attack-TIME.json` and `attack-latest.json`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, directory: &Path) -> io::Result<PathBuf> {
        let json = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        let path = directory.join(format!("attack-{}.json", self.unix_time));
        fs::write(&path, &json)?;
        fs::write(directory.join("attack-latest.json"), &json)?;
        Ok(path)
    }

    /// What tells nothing of goodput, if there is any: a line for whoever runs it.
    pub fn not_told(&self) -> Option<String> {
        let own = self.results.iter().filter(|result| result.contender == "ringwall");
        let void = own.clone().filter(|result| matches!(result.verdict(), Verdict::Void(_))).count();
        let all = own.count();
        (void > 0)
            .then(|| format!("NOT RUN: attack: {void} of {all} tell nothing of goodput; their rows say why"))
    }

    /// One line for all; only Ringwall is judged.
    ///
    /// # Errors
    /// What was broken, or missed if `strict`.
    pub fn verdict(&self, strict: bool) -> std::result::Result<(), String> {
        let own = || self.results.iter().filter(|result| result.contender == "ringwall");
        let void = own().filter(|result| matches!(result.verdict(), Verdict::Void(_))).count();
        let count = |verdict: Verdict| own().filter(|result| result.verdict() == verdict).count();
        let failed = own().filter_map(|result| match result.verdict() {
            Verdict::Broken(why) => Some(format!("{}: {why}{}", result.scenario.name, result.words())),
            Verdict::Missed if strict => {
                Some(format!("{}: goodput below {:.0} %", result.scenario.name, KEPT_MIN * 100.0))
            }
            Verdict::Void(why) if strict => Some(format!("{}: void: {why}", result.scenario.name)),
            _ => None,
        });
        let mut failed: Vec<String> = self.not_done.iter().cloned().chain(failed).collect();
        let without_http2 = self.without_http2.iter().filter(|what| what.starts_with("ringwall: ")).count();
        if without_http2 > 0 {
            let told = format!("{without_http2} attacks over HTTP/2, which this Ringwall does not speak");
            println!("NOT RUN: attack: {told}");
            failed.extend(strict.then_some(told));
        }
        println!(
            "ringwall: {} attacks, {} kept {:.0} % of the goodput, {} missed it, {} void, {} broken; {} not done",
            own().count(),
            count(Verdict::Kept),
            KEPT_MIN * 100.0,
            count(Verdict::Missed),
            void,
            own().filter(|result| matches!(result.verdict(), Verdict::Broken(_))).count(),
            self.not_done.len()
        );
        if failed.is_empty() { Ok(()) } else { Err(failed.join("\n  ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::Latencies;

    fn window(in_time: u64, load_busy: f64, error: Option<&str>) -> Window {
        Window {
            due: 1_000,
            in_time,
            new_due: 50,
            new_in_time: in_time / 20,
            http2_due: 0,
            http2_in_time: 0,
            errors: error.map(|error| (error.to_owned(), 1)).into_iter().collect(),
            latency: Latencies::new().summary(),
            cpu_us: 10.0,
            busy: 0.5,
            load_busy,
            gateway_others: 0.0,
            load_others: 0.0,
            rss_peak: 0,
        }
    }

    fn result(with: Window, after: u64, alive: bool) -> Result {
        let scenario = serde_json::json!({"title": "t", "kind": "fresh_prefixes", "connections": 1});
        Result {
            contender: "ringwall".to_owned(),
            scenario: serde_json::from_value(scenario).unwrap(),
            connections: 1,
            rate: 1_000.0,
            busy_max: 0.7,
            rounds: vec![Round { without: window(1_000, 0.3, None), with, done: Done::default() }],
            after: window(after, 0.3, None),
            alive,
            refusals: BTreeMap::new(),
            rss: [0; 3],
            words: String::new(),
        }
    }

    #[test]
    fn a_window_is_kept_missed_void_or_broken() {
        let verdict = |with, after, alive| result(with, after, alive).verdict();
        assert_eq!(verdict(window(960, 0.6, None), 1_000, true), Verdict::Kept);
        assert_eq!(verdict(window(900, 0.6, None), 1_000, true), Verdict::Missed);
        assert!(matches!(verdict(window(100, 0.8, None), 1_000, true), Verdict::Void(_)));
        let mut busy = result(window(100, 0.3, None), 1_000, true);
        busy.rounds[0].without.in_time = 900;
        assert!(matches!(busy.verdict(), Verdict::Void(_)));
        for broken in [
            verdict(window(400, 0.6, None), 1_000, true),
            verdict(window(960, 0.6, None), 400, true),
            verdict(window(960, 0.6, None), 1_000, false),
            verdict(window(960, 0.6, Some("body differs")), 1_000, true),
            verdict(window(960, 0.6, Some("status 429")), 1_000, true),
        ] {
            assert!(matches!(broken, Verdict::Broken(_)), "{broken:?}");
        }
    }

    /// A window like that one, with others on the gateway's core or on that of the load for half of it.
    fn disturbed(of_gateway: bool, window: Window) -> Window {
        let others = if of_gateway { (0.5, 0.0) } else { (0.0, 0.5) };
        Window { gateway_others: others.0, load_others: others.1, ..window }
    }

    #[test]
    fn what_was_lost_while_others_had_a_core_is_not_known() {
        let void = |result: &Result| matches!(result.verdict(), Verdict::Void(_));
        for of_gateway in [true, false] {
            let lost = result(disturbed(of_gateway, window(100, 0.3, None)), 1_000, true);
            assert!(void(&lost), "in the window");
            let mut lost = result(window(1_000, 0.3, None), 1_000, true);
            lost.after = disturbed(of_gateway, window(100, 0.3, None));
            assert!(void(&lost), "after the attack");
            // What good clients had without the attack is what the rest is measured by.
            let mut lost = result(window(400, 0.3, None), 1_000, true);
            lost.rounds[0].without = disturbed(of_gateway, window(1_000, 0.3, None));
            assert!(void(&lost), "before the attack");
        }
        let mut heavy = result(window(400, 0.6, None), 1_000, true);
        heavy.rounds[0].without.busy = 0.9;
        assert!(void(&heavy), "weighed in a busy moment, the rate is too high");
        // A little of it takes no goodput.
        let mut lost = result(window(400, 0.6, None), 1_000, true);
        (lost.rounds[0].with.gateway_others, lost.rounds[0].with.load_others) = (0.2, 0.2);
        assert!(matches!(lost.verdict(), Verdict::Broken(_)));
    }

    #[test]
    fn no_noise_excuses_what_must_never_be() {
        for of_gateway in [true, false] {
            for (error, alive) in [
                (Some("body differs"), true),
                (Some("malformed chunk"), true),
                (Some("status 429"), true),
                (None, false),
            ] {
                let mut broken = result(disturbed(of_gateway, window(100, 0.9, error)), 1_000, alive);
                broken.after = disturbed(of_gateway, window(100, 0.9, None));
                assert!(matches!(broken.verdict(), Verdict::Broken(_)), "{error:?}");
            }
        }
    }

    #[test]
    fn one_calm_round_is_enough_to_break_a_law() {
        let mut lost = result(window(400, 0.6, None), 1_000, true);
        for _ in 0..2 {
            lost.rounds.push(Round {
                without: window(1_000, 0.3, None),
                with: disturbed(true, window(1_000, 0.3, None)),
                done: Done::default(),
            });
        }
        assert!(matches!(lost.verdict(), Verdict::Broken(_)));
        // That the moment after it was busy changes nothing of it.
        lost.after = disturbed(true, window(100, 0.3, None));
        assert!(matches!(lost.verdict(), Verdict::Broken(_)));
        // Two busy rounds in which nothing was left say nothing of the one in which all was.
        let mut kept = result(window(1_000, 0.6, None), 1_000, true);
        for _ in 0..2 {
            kept.rounds.push(Round {
                without: window(1_000, 0.3, None),
                with: disturbed(false, window(0, 0.3, None)),
                done: Done::default(),
            });
        }
        assert_eq!(kept.verdict(), Verdict::Kept);
    }

    #[test]
    fn only_what_is_broken_fails_and_the_rest_if_strict() {
        let options = |result| {
            let report = Report {
                unix_time: 0,
                command: String::new(),
                machine: String::new(),
                versions: BTreeMap::new(),
                short: false,
                rates: BTreeMap::new(),
                results: vec![result],
                not_done: Vec::new(),
                without_http2: Vec::new(),
            };
            (report.verdict(false).is_ok(), report.verdict(true).is_ok())
        };
        assert_eq!(options(result(window(990, 0.6, None), 1_000, true)), (true, true));
        assert_eq!(options(result(window(900, 0.6, None), 1_000, true)), (true, false));
        assert_eq!(options(result(window(900, 0.9, None), 1_000, true)), (true, false));
        assert_eq!(options(result(window(900, 0.6, None), 0, true)), (false, false));
        let mut report = Report::new(true, &[], String::new());
        report.without_http2.push("nginx-http: h2_ping_flood".to_owned());
        assert!(report.verdict(true).is_ok(), "only Ringwall is judged");
        report.without_http2.push("ringwall: h2_ping_flood".to_owned());
        assert!(report.verdict(false).is_ok() && report.verdict(true).is_err());
        report.not_done.push("ringwall: slowloris: not done: it does not listen".to_owned());
        assert_eq!(report.verdict(false).unwrap_err(), report.not_done[0]);
        // Whoever reads the end of a log alone must see what it was.
        report.results.push(result(window(400, 0.6, Some("connection reset")), 1_000, true));
        let said = report.verdict(false).unwrap_err();
        assert!(said.contains("less than half") && said.contains("400 of 1000"), "{said}");
        assert!(said.contains("connection reset"), "{said}");
    }
}
