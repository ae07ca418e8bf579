//! What became of the calls, told: a table on standard output, raw JSON.
//!
//! Called by `faults`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use super::fails;
use super::measure::{Kind, NAMES, Run, Span, Verdict};
use super::scenario::Scenario;
use crate::suite::Choice;

/// The columns of the table.
const COLUMNS: [(&str, &str); 13] = [
    ("sent", "sent"),
    ("good", "good"),
    ("failed_get", "GET 5xx"),
    ("failed_post", "POST 5xx"),
    ("origin_failed", "origin's"),
    ("lost", "lost"),
    ("late", "late"),
    ("cut", "cut"),
    ("raced", "raced"),
    ("crossed", "crossed"),
    ("doubled", "doubled"),
    ("repeated", "repeated"),
    ("p99_ms", "p99 ms"),
];

/// All that was run.
#[derive(Serialize)]
pub struct Report {
    /// When it began, seconds since 1970.
    pub unix_time: u64,
    /// The command line.
    pub command: String,
    /// CPU model, kernel, number of CPUs.
    pub machine: String,
    /// The short form.
    pub short: bool,
    /// One for each scenario and variant.
    pub outcomes: Vec<Outcome>,
    /// What could not be run to its end, and why.
    pub not_done: Vec<String>,
}

/// What came of one run.
#[derive(Serialize)]
pub struct Outcome {
    /// Scenario, and variant if it has some.
    pub name: String,
    /// One line about it.
    pub title: String,
    /// Why it was not run.
    pub not_run: Option<String>,
    /// Every measure over the whole run.
    pub measures: BTreeMap<&'static str, f64>,
    /// How often each outcome that is not good occurred.
    pub outcomes: BTreeMap<String, u64>,
    /// The most requests at once, of each origin.
    pub in_flight: Vec<u64>,
    /// Requests of each origin.
    pub begun: Vec<u64>,
    /// What must hold.
    pub verdicts: Vec<Verdict>,
    /// What went wrong in the script.
    pub notes: Vec<String>,
}

impl Outcome {
    /// One that was run.
    pub fn of(name: String, scenario: &Scenario, variant: &str, run: &Run, notes: Vec<String>) -> Self {
        let laws = scenario
            .laws
            .iter()
            .filter(|law| law.only.is_empty() || law.only.iter().any(|only| only == variant));
        Self {
            name,
            title: scenario.title.clone(),
            not_run: None,
            measures: NAMES
                .iter()
                .filter_map(|name| Some((*name, run.measure(name, Span::ALL)?)))
                .filter(|(_, value)| value.is_finite())
                .collect(),
            outcomes: run.outcomes(),
            in_flight: run.in_flight.clone(),
            begun: run.begun.clone(),
            verdicts: laws.map(|law| run.judge(law, &scenario.phases)).collect(),
            notes,
        }
    }

    /// That of several rounds, which is the first of them but for its verdicts: of a law of speed the median counts, because the
    /// machine may do something else in one of them; any other must hold in each.
    pub fn of_rounds(rounds: Vec<Self>) -> Option<Self> {
        let mut rounds = rounds.into_iter();
        let mut first = rounds.next()?;
        let mut verdicts: Vec<Vec<Verdict>> =
            std::mem::take(&mut first.verdicts).into_iter().map(|verdict| vec![verdict]).collect();
        for round in rounds {
            verdicts.iter_mut().zip(round.verdicts).for_each(|(all, verdict)| all.push(verdict));
            first.notes.extend(round.notes);
            first.not_run = first.not_run.or(round.not_run);
        }
        let counts = |mut all: Vec<Verdict>| {
            all.sort_by(|one, two| one.value.total_cmp(&two.value));
            let at = match all.first()?.law.speed {
                true => all.len() / 2,
                false => all.iter().position(|verdict| verdict.kind != Kind::Held).unwrap_or(0),
            };
            Some(all.swap_remove(at))
        };
        first.verdicts = verdicts.into_iter().filter_map(counts).collect();
        Some(first)
    }

    /// One that the gateway's version does not know.
    pub fn not_run(name: String, scenario: &Scenario, why: String) -> Self {
        Self {
            name,
            title: scenario.title.clone(),
            not_run: Some(why),
            measures: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            in_flight: Vec::new(),
            begun: Vec::new(),
            verdicts: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Its part of the table.
    pub fn print(&self) {
        println!("\n{}: {}", self.name, self.title);
        if let Some(why) = &self.not_run {
            println!("NOT RUN: faults {}: the gateway does not take its configuration", self.name);
            println!("{}", indented(why));
            return;
        }
        let of = |name: &str| self.measures.get(name).copied().unwrap_or(f64::NAN);
        let heads: Vec<String> = COLUMNS.iter().map(|(_, head)| format!("{head:>9}")).collect();
        let values: Vec<String> =
            COLUMNS
                .iter()
                .map(|(name, _)| {
                    if *name == "p99_ms" { format!("{:>9.2}", of(name)) } else { format!("{:>9}", of(name)) }
                })
                .collect();
        println!(" {}\n {}", heads.join(""), values.join(""));
        if !self.outcomes.is_empty() {
            let told: Vec<String> =
                self.outcomes.iter().map(|(what, count)| format!("{count} × {what}")).collect();
            println!("  {}", told.join(", "));
        }
        println!("  origins: requests {:?}, most at once {:?}", self.begun, self.in_flight);
        for verdict in &self.verdicts {
            println!("  {}", said(verdict));
        }
        for note in &self.notes {
            println!("  note: {}", indented(note).trim_start());
        }
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}

/// One verdict as a line.
fn said(verdict: &Verdict) -> String {
    let law = &verdict.law;
    let word = match verdict.kind {
        Kind::Held => "held  ",
        Kind::Missed => "MISSED",
        Kind::Broken => "BROKEN",
    };
    let of = match (&law.phase, &law.against) {
        (None, _) => law.of.clone(),
        (Some(phase), None) => format!("{} in {phase}", law.of),
        (Some(phase), Some(against)) => format!("{} in {phase} / in {against}", law.of),
    };
    let bound = match (law.at_most, law.at_least) {
        (Some(bound), _) => format!("at most {bound}"),
        (_, Some(bound)) => format!("at least {bound}"),
        _ => String::new(),
    };
    format!("{word} {of} = {:.3} ({bound})", verdict.value)
}

impl Report {
    /// One without outcomes.
    pub fn new(suite: &Choice) -> Self {
        Self {
            unix_time: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
            command: std::env::args().skip(1).collect::<Vec<_>>().join(" "),
            machine: crate::compare::machine(),
            short: suite.short,
            outcomes: Vec::new(),
            not_done: Vec::new(),
        }
    }

    /// The heading.
    pub fn print_head(&self) {
        println!("{}{}", self.machine, if self.short { ", short form" } else { "" });
    }

    /// Writes `faults-TIME.json` and `faults-latest.json`.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn write(&self, directory: &Path) -> io::Result<PathBuf> {
        let json = serde_json::to_string_pretty(self).map_err(io::Error::other)?;
        let path = directory.join(format!("faults-{}.json", self.unix_time));
        fs::write(&path, &json)?;
        fs::write(directory.join("faults-latest.json"), &json)?;
        Ok(path)
    }

    /// One line for all.
    ///
    /// # Errors
    /// The laws that were broken.
    pub fn verdict(&self, strict: bool) -> Result<(), String> {
        let ran = self.outcomes.iter().filter(|outcome| outcome.not_run.is_none());
        let (mut laws, mut missed, mut broken) = (0, 0, self.not_done.clone());
        for outcome in ran.clone() {
            for verdict in &outcome.verdicts {
                laws += 1;
                missed += usize::from(verdict.kind == Kind::Missed);
                if fails(verdict.kind, strict) {
                    broken.push(format!("{}: {}", outcome.name, said(verdict)));
                }
            }
            broken.extend(outcome.notes.iter().map(|note| format!("{}: {note}", outcome.name)));
        }
        println!("{} scenarios, {laws} laws, {missed} missed, {} broken", ran.count(), broken.len());
        if broken.is_empty() { Ok(()) } else { Err(broken.join("\n  ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::scenario::Law;

    #[test]
    fn of_rounds_the_median_counts_for_speed_and_the_worst_for_anything_else() {
        let law = |speed| Law {
            of: "p99_ms".to_owned(),
            phase: None,
            against: None,
            at_most: Some(1.2),
            at_least: None,
            only: Vec::new(),
            speed,
            gross: None,
        };
        let round = |value: f64| {
            let scenario: Scenario = serde_json::from_str(
                r#"{ "title": "a", "load": [], "origins": [], "gateway": "", "laws": [] }"#,
            )
            .unwrap();
            let mut outcome = Outcome::not_run("a".to_owned(), &scenario, String::new());
            let kind = |no| if value <= 1.2 { Kind::Held } else { no };
            outcome.verdicts = vec![
                Verdict { law: law(true), value, kind: kind(Kind::Missed) },
                Verdict { law: law(false), value, kind: kind(Kind::Broken) },
            ];
            outcome
        };
        let kinds = |values: &[f64]| {
            let outcome = Outcome::of_rounds(values.iter().copied().map(round).collect()).unwrap();
            [outcome.verdicts[0].kind, outcome.verdicts[1].kind]
        };
        assert_eq!(kinds(&[1.1, 1.0, 9.0]), [Kind::Held, Kind::Broken]);
        assert_eq!(kinds(&[9.0, 1.0, 9.0]), [Kind::Missed, Kind::Broken]);
        assert_eq!(kinds(&[1.0, f64::NAN, f64::NAN])[0], Kind::Missed, "what is no number is not small");
        assert_eq!(kinds(&[1.0]), [Kind::Held; 2]);
    }
}
