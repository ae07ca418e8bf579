//! What is broken, when, and what must hold meanwhile: one file per scenario under `loadtest/scenarios/faults`.
//!
//! ```yaml
//! title: kill -9 of one of two                      # one line
//! load: [{ rate: 1000, seconds: 8 }]                # calls a second, one stretch after the other
//! short: 0.5                                        # all times but delays, times this, under --short; 0: left out
//! connections: 32                                   # used in turn; at most `connections_max` when all are busy
//! patience_ms: 5000                                 # then a call is `late`
//! methods: [{ method: GET, share: 0.7 }, { method: POST, share: 0.3, body_bytes: 300 }]
//! abort: { share: 0.1, after_ms: 5 }                # calls that are given up by the caller
//! origins: [{ delay_us: 1000 }, { delay_us: 1000 }] # processes of their own; settings as `fate::Settings`
//! cores: 2                                          # the gateway's
//! variants: [round_robin, ewma]                     # once with each in the place of {{VARIANT}}
//! rounds: 3                                         # so often: of a law of speed the median counts, any other holds each time
//! gateway: |                                        # what follows `listen`, `node` and `log`
//!   upstreams: { app: { targets: [{{ORIGINS}}] } }
//! routes: 10000                                     # operations in the place of {{ROUTES}}, others at each reload
//! script:                                           # in order of time; `every` and `until` repeat
//!   - { at: 2, origin: 0, do: kill }                # kill, start, stop (TERM), hang (SIGSTOP), resume
//!   - { at: 3, origin: 0, set: { fail: 1.0 } }
//!   - { at: 4, gateway: reload, every: 1, until: 8 }   # reload, upgrade, term
//! phases: { healthy: [0, 2], dead: [2, 5] }
//! laws:                                             # see `measure` for what there is
//!   - { of: failed_get, at_most: 0 }
//!   - { of: p99_ms, in: dead, against: healthy, at_most: 1.2, speed: true, gross: 10 }
//! ```

use std::collections::BTreeMap;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::fate::Settings;
use crate::suite;

/// One scenario, as written.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The file's name without number and ending.
    #[serde(skip_deserializing)]
    pub name: String,
    /// One line about it.
    pub title: String,
    /// Stretches of constant rates.
    pub load: Vec<Stretch>,
    /// What times are multiplied with in the short form.
    #[serde(default = "half")]
    pub short: f64,
    /// Connections used in turn.
    #[serde(default = "connections")]
    pub connections: usize,
    /// The most of them.
    #[serde(default = "connections_max")]
    pub connections_max: usize,
    /// How long a call waits.
    #[serde(default = "patience_ms")]
    pub patience_ms: u64,
    /// With their shares.
    #[serde(default = "methods")]
    pub methods: Vec<Method>,
    /// Calls given up on purpose.
    #[serde(default)]
    pub abort: Option<Abort>,
    /// The members.
    pub origins: Vec<BTreeMap<String, Value>>,
    /// The gateway's data threads.
    #[serde(default = "cores")]
    pub cores: usize,
    /// Once with each.
    #[serde(default)]
    pub variants: Vec<String>,
    /// So often.
    #[serde(default = "rounds")]
    pub rounds: usize,
    /// The gateway's configuration.
    pub gateway: String,
    /// How many operations `{{ROUTES}}` stands for.
    #[serde(default)]
    pub routes: usize,
    /// The same in the short form.
    #[serde(default)]
    pub routes_short: Option<usize>,
    /// What happens.
    #[serde(default)]
    pub script: Vec<Step>,
    /// Named spans of time, in seconds.
    #[serde(default)]
    pub phases: BTreeMap<String, [f64; 2]>,
    /// What must hold.
    pub laws: Vec<Law>,
}

/// A stretch of one rate.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Stretch {
    /// Calls a second.
    pub rate: f64,
    /// For how long.
    pub seconds: f64,
}

/// A method.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// Its name.
    pub method: String,
    /// Of all calls.
    pub share: f64,
    /// Bytes of its body.
    #[serde(default)]
    pub body_bytes: usize,
}

/// Calls given up on purpose.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Abort {
    /// Of all calls.
    pub share: f64,
    /// So long after they were sent.
    pub after_ms: u64,
}

/// Something happens.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// When, in seconds.
    pub at: f64,
    /// To this origin.
    #[serde(default)]
    pub origin: Option<usize>,
    /// Its process.
    #[serde(default, rename = "do")]
    pub act: Option<Act>,
    /// Its settings.
    #[serde(default)]
    pub set: BTreeMap<String, Value>,
    /// To the gateway.
    #[serde(default)]
    pub gateway: Option<Change>,
    /// Again and again after so many seconds…
    #[serde(default)]
    pub every: Option<f64>,
    /// …until then.
    #[serde(default)]
    pub until: Option<f64>,
}

/// What happens to an origin's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Act {
    /// SIGKILL.
    Kill,
    /// Started again.
    Start,
    /// SIGSTOP: connections stay, nobody answers.
    Hang,
    /// SIGCONT.
    Resume,
}

/// What happens to the gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    /// A new configuration.
    Reload,
    /// A new process.
    Upgrade,
    /// SIGTERM.
    Term,
}

/// What must hold.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Law {
    /// A measure.
    pub of: String,
    /// In this phase; without one: of the whole run.
    #[serde(default, rename = "in")]
    pub phase: Option<String>,
    /// As a ratio to the same in that phase.
    #[serde(default)]
    pub against: Option<String>,
    /// The bound above.
    #[serde(default)]
    pub at_most: Option<f64>,
    /// The bound below.
    #[serde(default)]
    pub at_least: Option<f64>,
    /// Only of these variants.
    #[serde(default)]
    pub only: Vec<String>,
    /// It is about speed: a machine that does something else meanwhile may break it. Enforced by `--strict` only…
    #[serde(default)]
    pub speed: bool,
    /// …but never so far.
    #[serde(default)]
    pub gross: Option<f64>,
}

fn half() -> f64 {
    0.5
}
fn connections() -> usize {
    32
}
fn connections_max() -> usize {
    2_000
}
fn patience_ms() -> u64 {
    5_000
}
fn cores() -> usize {
    2
}
fn rounds() -> usize {
    1
}
fn methods() -> Vec<Method> {
    vec![
        Method { method: "GET".to_owned(), share: 0.7, body_bytes: 0 },
        Method { method: "POST".to_owned(), share: 0.3, body_bytes: 300 },
    ]
}

impl Scenario {
    /// Reads all scenarios of a folder, in the order of their files.
    ///
    /// # Errors
    /// A file cannot be read or is no scenario: which, and why.
    pub fn all(folder: &Path) -> Result<Vec<Self>, String> {
        suite::read_all(folder, |scenario: &mut Self, name| {
            scenario.name = name;
            scenario.check()
        })
    }

    fn check(&self) -> Result<(), String> {
        for origin in &self.origins {
            Settings::default().apply(&Settings::words(origin))?;
        }
        for step in &self.script {
            Settings::default().apply(&Settings::words(&step.set))?;
            if step.origin.is_some_and(|origin| origin >= self.origins.len()) {
                return Err(format!("at {}: there is no such origin", step.at));
            }
        }
        for law in &self.laws {
            let known =
                |phase: &Option<String>| phase.as_ref().is_none_or(|name| self.phases.contains_key(name));
            if !known(&law.phase) || !known(&law.against) {
                return Err(format!("{}: there is no such phase", law.of));
            }
            if law.at_most.is_some() == law.at_least.is_some() {
                return Err(format!("{}: either at_most or at_least", law.of));
            }
        }
        Ok(())
    }

    /// The same in the short form.
    pub fn shortened(mut self) -> Self {
        let scale = self.short;
        for stretch in &mut self.load {
            stretch.seconds *= scale;
        }
        for step in &mut self.script {
            step.at *= scale;
            step.until = step.until.map(|until| until * scale);
        }
        for phase in self.phases.values_mut() {
            *phase = phase.map(|at| at * scale);
        }
        self.routes = self.routes_short.unwrap_or(self.routes);
        self
    }

    /// Every step at its time, repetitions written out, in order.
    pub fn steps(&self) -> Vec<(f64, &Step)> {
        let mut steps = Vec::new();
        for step in &self.script {
            steps.push((step.at, step));
            if let (Some(every), Some(until)) = (step.every.filter(|every| *every > 0.0), step.until) {
                let mut at = step.at + every;
                while at < until {
                    steps.push((at, step));
                    at += every;
                }
            }
        }
        steps.sort_by(|a, b| a.0.total_cmp(&b.0));
        steps
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::measure;

    #[test]
    fn every_committed_scenario_is_one() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/faults");
        let scenarios = Scenario::all(&directory).unwrap();
        assert!(scenarios.len() >= 7);
        for scenario in scenarios {
            for law in &scenario.laws {
                assert!(measure::NAMES.contains(&law.of.as_str()), "{}: {}", scenario.name, law.of);
                assert!(law.only.iter().all(|variant| scenario.variants.contains(variant)), "{}", law.of);
            }
            let short = scenario.clone().shortened();
            assert!(short.load[0].seconds <= scenario.load[0].seconds);
            assert!(short.steps().windows(2).all(|pair| pair[0].0 <= pair[1].0));
        }
    }
}
