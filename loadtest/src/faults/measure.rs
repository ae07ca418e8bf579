//! What a run amounts to: every call and every origin's ledger in, numbers and verdicts out.
//!
//! No sockets, no clock. Called by `faults`.
//!
//! | measure | |
//! |---|---|
//! | `sent` | calls, but for those that found no free connection |
//! | `good` | answered by the origin, with the body that belongs to the call |
//! | `failed`, `failed_get`, `failed_post` | answered by the gateway itself with 5xx |
//! | `honest_failed` | of those, calls that no origin did anything bad to |
//! | `origin_failed` | the origin's own failure, passed on |
//! | `lost` | the connection ended without a byte though it was fresh, or an origin had seen the call |
//! | `raced` | the connection, a kept one, ended without a byte, and no origin has seen the call: it may be sent again |
//! | `late` | no answer within the patience |
//! | `cut` | an answer that ended visibly too soon |
//! | `unreached` | nobody took the connection |
//! | `crossed` | an answer to somebody else, or bytes that nobody asked for |
//! | `malformed` | bytes that are no HTTP answer |
//! | `unclean` | answers of the gateway without status 502, 503 or 504 and a reason |
//! | `believed` | lies that reached the client as if they were answers |
//! | `odd` | answers without a body and not 200 that came from an origin |
//! | `doubled` | POSTs whose head reached origins more than once |
//! | `repeated` | other methods' calls that did |
//! | `unreadable` | requests that an origin could not read |
//! | `extra_load` | tries that reached origins, by calls that did, less one |
//! | `goodput` | good answers that ended in the phase, by what slots and delays allow |
//! | `good_share` | good, by sent |
//! | `p50_ms`, `p99_ms`, `max_ms` | latency of good calls, from when they were due |
//! | `recovery_s` | from the phase's beginning until the last call due in it that was not good |
//! | `in_flight` | the most requests that one origin had at once |
//! | `imbalance` | most and least requests of an origin, their difference by their mean |
//! | `versions` | configurations that answered |
//! | `version_lag_ms` | how long a call got the old configuration after another had got the new one |
//! | `changes_failed` | reloads and upgrades that were refused |
//! | `exit_s` | from TERM to the end of the gateway |
//! | `exit_status` | 0 if it ended in order |
//! | `unsent` | calls without a free connection: the generator's own bound |

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::caller::{Call, Calls, Outcome};
use super::fate::lie;
use super::ledger::Ledger;
use super::scenario::Law;
use crate::stats::Latencies;

/// All measures.
pub const NAMES: [&str; 35] = [
    "sent",
    "good",
    "failed",
    "failed_get",
    "failed_post",
    "honest_failed",
    "origin_failed",
    "lost",
    "raced",
    "late",
    "cut",
    "unreached",
    "crossed",
    "malformed",
    "unclean",
    "believed",
    "odd",
    "doubled",
    "repeated",
    "unreadable",
    "extra_load",
    "goodput",
    "good_share",
    "p50_ms",
    "p99_ms",
    "max_ms",
    "recovery_s",
    "in_flight",
    "imbalance",
    "versions",
    "version_lag_ms",
    "changes_failed",
    "exit_s",
    "exit_status",
    "unsent",
];

/// All that is known of a run.
pub struct Run {
    /// From the caller.
    pub calls: Calls,
    /// From the origins.
    pub ledger: Ledger,
    /// Requests a second that slots and delays allow; 0: no bound.
    pub capacity: f64,
    /// The most requests at once, of each origin.
    pub in_flight: Vec<u64>,
    /// Requests that reached each origin.
    pub begun: Vec<u64>,
    /// Requests that no origin could read.
    pub unreadable: u64,
    /// Reloads and upgrades that were refused.
    pub changes_failed: u64,
    /// Seconds from TERM to the end.
    pub exit_s: f64,
    /// The gateway's status at the end.
    pub exit_status: f64,
}

/// A span of time, in nanoseconds.
#[derive(Clone, Copy, Debug)]
pub struct Span {
    /// Its beginning.
    pub from_ns: u64,
    /// Its end.
    pub until_ns: u64,
}

impl Span {
    /// All of it.
    pub const ALL: Self = Self { from_ns: 0, until_ns: u64::MAX };

    fn holds(self, at_ns: u64) -> bool {
        (self.from_ns..self.until_ns).contains(&at_ns)
    }
}

impl Run {
    /// One measure; `None`: there is no such.
    pub fn measure(&self, name: &str, span: Span) -> Option<f64> {
        let due = || self.calls.calls.iter().filter(move |call| span.holds(call.due_ns));
        let count = |which: &dyn Fn(&Call) -> bool| due().filter(|call| which(call)).count() as f64;
        let refused = |call: &Call| matches!(call.outcome, Outcome::Refused(500.., _));
        let seen = |call: &Call| self.ledger.of(call.id);
        Some(match name {
            "sent" => count(&|call| call.outcome != Outcome::Unsent),
            "unsent" => count(&|call| call.outcome == Outcome::Unsent),
            "good" => count(&|call| call.outcome == Outcome::Good),
            "good_share" => {
                count(&|call| call.outcome == Outcome::Good) / count(&|call| call.outcome != Outcome::Unsent)
            }
            "failed" => count(&refused),
            "failed_get" => count(&|call| refused(call) && !call.post),
            "failed_post" => count(&|call| refused(call) && call.post),
            "honest_failed" => count(&|call| {
                !matches!(call.outcome, Outcome::Good | Outcome::Unsent | Outcome::Aborted)
                    && !seen(call).unkind
            }),
            "origin_failed" => count(&|call| call.outcome == Outcome::OriginFailed),
            "lost" => count(&|call| match call.outcome {
                Outcome::Closed { kept } => !kept || seen(call).begun > 0,
                _ => false,
            }),
            "raced" => count(&|call| call.outcome == Outcome::Closed { kept: true } && seen(call).begun == 0),
            "late" => count(&|call| call.outcome == Outcome::Late),
            "cut" => count(&|call| call.outcome == Outcome::Cut),
            "unreached" => count(&|call| call.outcome == Outcome::Unreached),
            "crossed" => count(&|call| call.outcome == Outcome::Crossed),
            "malformed" => count(&|call| call.outcome == Outcome::Malformed),
            "unclean" => count(&|call| match call.outcome {
                Outcome::Refused(status, reason) => {
                    !(502..=504).contains(&status) || self.calls.reasons[reason].is_empty()
                }
                _ => false,
            }),
            "believed" => {
                count(&|call| call.outcome == Outcome::Good && seen(call).lied && !lie(call.id).answers)
            }
            "odd" => count(&|call| matches!(call.outcome, Outcome::Odd(_))),
            "doubled" => count(&|call| call.post && seen(call).begun > 1),
            "repeated" => count(&|call| !call.post && seen(call).begun > 1),
            "unreadable" => self.unreadable as f64,
            "extra_load" => {
                let tries: u32 = due().map(|call| seen(call).begun).sum();
                f64::from(tries) / count(&|call| call.outcome != Outcome::Unsent) - 1.0
            }
            "goodput" => {
                let last_ns = self.calls.calls.iter().map(|call| call.end_ns).max().unwrap_or(0);
                let seconds = (span.until_ns.min(last_ns).saturating_sub(span.from_ns)) as f64 / 1e9;
                let good = self.calls.calls.iter().filter(|call| call.outcome == Outcome::Good);
                good.filter(|call| span.holds(call.end_ns)).count() as f64 / seconds / self.capacity
            }
            "p50_ms" => self.latencies(span).quantile_us(0.5) / 1e3,
            "p99_ms" => self.latencies(span).quantile_us(0.99) / 1e3,
            "max_ms" => self.latencies(span).quantile_us(1.0) / 1e3,
            "recovery_s" => {
                let bad = due().filter(|call| !matches!(call.outcome, Outcome::Good | Outcome::Aborted));
                bad.map(|call| (call.due_ns - span.from_ns) as f64 / 1e9).fold(0.0, f64::max)
            }
            "in_flight" => self.in_flight.iter().copied().max().unwrap_or(0) as f64,
            "imbalance" => {
                let (most, least) = (self.begun.iter().max()?, self.begun.iter().min()?);
                let mean = self.begun.iter().sum::<u64>() as f64 / self.begun.len() as f64;
                (most - least) as f64 / mean
            }
            "versions" => {
                let versions = self.calls.calls.iter().filter_map(|call| call.version);
                versions.collect::<BTreeSet<_>>().len() as f64
            }
            "version_lag_ms" => self.version_lag_ms(),
            "changes_failed" => self.changes_failed as f64,
            "exit_s" => self.exit_s,
            "exit_status" => self.exit_status,
            _ => return None,
        })
    }

    fn latencies(&self, span: Span) -> Latencies {
        let mut latencies = Latencies::new();
        for call in self.calls.calls.iter().filter(|call| call.outcome == Outcome::Good) {
            if span.holds(call.due_ns) {
                latencies.record(call.end_ns - call.due_ns);
            }
        }
        latencies
    }

    /// The longest that an old version was still given to a call that was sent after the new one had been seen.
    fn version_lag_ms(&self) -> f64 {
        let mut first_ns: BTreeMap<u64, u64> = BTreeMap::new();
        let versions = || self.calls.calls.iter().filter_map(|call| Some((call.version?, call)));
        for (version, call) in versions() {
            let first = first_ns.entry(version).or_insert(u64::MAX);
            *first = (*first).min(call.end_ns);
        }
        let lag_ns = versions().filter_map(|(version, call)| {
            let newer = first_ns.range(version + 1..).map(|(_, first_ns)| *first_ns).min()?;
            Some(call.due_ns.saturating_sub(newer))
        });
        lag_ns.max().unwrap_or(0) as f64 / 1e6
    }

    /// How often each outcome that is not good occurred, with the gateway's reasons, and the lie that led to it.
    pub fn outcomes(&self) -> BTreeMap<String, u64> {
        let mut outcomes = BTreeMap::new();
        for call in &self.calls.calls {
            let name = match call.outcome {
                Outcome::Good => continue,
                Outcome::Refused(status, reason) => format!("{status} {}", self.calls.reasons[reason]),
                Outcome::Odd(status) => format!("{status} without a body"),
                Outcome::Closed { kept: false } => "closed without a byte".to_owned(),
                Outcome::Closed { kept: true } => "closed without a byte (kept)".to_owned(),
                other => format!("{other:?}").to_lowercase(),
            };
            let lied = self.ledger.of(call.id).lied;
            let name = if lied { format!("{} → {name}", lie(call.id).name) } else { name };
            *outcomes.entry(name).or_default() += 1;
        }
        outcomes
    }

    /// Judges one law.
    pub fn judge(&self, law: &Law, phases: &BTreeMap<String, [f64; 2]>) -> Verdict {
        let span = |phase: &Option<String>| {
            phase.as_ref().and_then(|name| phases.get(name)).map_or(Span::ALL, |[from_s, until_s]| Span {
                from_ns: (from_s * 1e9) as u64,
                until_ns: (until_s * 1e9) as u64,
            })
        };
        let mut value = self.measure(&law.of, span(&law.phase)).unwrap_or(f64::NAN);
        if law.against.is_some() {
            value /= self.measure(&law.of, span(&law.against)).unwrap_or(f64::NAN);
        }
        // What could not be measured holds no law.
        let within = |bound: f64| match law.at_most {
            Some(_) => value <= bound,
            None => value >= bound,
        };
        let bound = law.at_most.or(law.at_least).unwrap_or(f64::NAN);
        let kind = match (within(bound), law.speed, law.gross) {
            (true, ..) => Kind::Held,
            (false, true, None) => Kind::Missed,
            (false, true, Some(gross)) if within(gross) => Kind::Missed,
            (false, ..) => Kind::Broken,
        };
        Verdict { law: law.clone(), value, kind }
    }
}

/// A law and what came of it.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// The law.
    pub law: Law,
    /// What was measured.
    pub value: f64,
    /// Whether it holds.
    pub kind: Kind,
}

/// Whether a law holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It does.
    Held,
    /// It does not, and is about speed.
    Missed,
    /// It does not.
    Broken,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::faults::fate::Fate;
    use crate::faults::ledger::{Step, Writer};

    fn run(outcomes: &[(bool, Outcome)], seen: &[(u64, u32)]) -> Run {
        let path = std::env::temp_dir().join(format!(
            "ringwall-loadtest-measure-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let mut writer = Writer::open(&path).unwrap();
        for &(id, times) in seen {
            for _ in 0..times {
                writer.write(id, Step::Begun, false, Fate::Answer).unwrap();
            }
        }
        let mut ledger = Ledger::default();
        ledger.read(&path).unwrap();
        std::fs::remove_file(path).unwrap();
        let calls = outcomes.iter().enumerate().map(|(index, &(post, outcome))| Call {
            id: index as u64 + 1,
            post,
            due_ns: index as u64 * 1_000_000_000,
            end_ns: index as u64 * 1_000_000_000 + 2_000_000,
            outcome,
            version: None,
        });
        Run {
            calls: Calls {
                calls: calls.collect(),
                reasons: vec![String::new(), "upstream_closed".to_owned()],
                crossed: Vec::new(),
            },
            ledger,
            capacity: 1.0,
            in_flight: vec![3, 4],
            begun: vec![110, 90],
            unreadable: 0,
            changes_failed: 0,
            exit_s: 0.0,
            exit_status: 0.0,
        }
    }

    fn law(of: &str, at_most: f64, speed: bool, gross: Option<f64>) -> Law {
        Law {
            of: of.to_owned(),
            phase: None,
            against: None,
            at_most: Some(at_most),
            at_least: None,
            only: Vec::new(),
            speed,
            gross,
        }
    }

    #[test]
    fn every_name_is_measured_and_no_other() {
        let run = run(&[(false, Outcome::Good)], &[]);
        for name in NAMES {
            assert!(run.measure(name, Span::ALL).is_some(), "{name}");
        }
        assert!(run.measure("nothing", Span::ALL).is_none());
    }

    #[test]
    fn a_call_without_an_answer_is_lost_unless_nobody_saw_it_and_the_connection_was_kept() {
        let kept = Outcome::Closed { kept: true };
        let run = run(&[(false, kept), (false, kept), (true, Outcome::Closed { kept: false })], &[(1, 1)]);
        assert_eq!(run.measure("lost", Span::ALL), Some(2.0));
        assert_eq!(run.measure("raced", Span::ALL), Some(1.0));
    }

    #[test]
    fn a_post_is_doubled_and_another_method_repeated() {
        let run = run(
            &[(true, Outcome::Good), (false, Outcome::Good), (true, Outcome::Good)],
            &[(1, 2), (2, 2), (3, 1)],
        );
        assert_eq!(run.measure("doubled", Span::ALL), Some(1.0));
        assert_eq!(run.measure("repeated", Span::ALL), Some(1.0));
        assert!((run.measure("extra_load", Span::ALL).unwrap() - 2.0 / 3.0).abs() < 1e-9);
    }

    #[test]
    fn recovery_ends_with_the_last_call_that_was_not_good() {
        let bad = Outcome::Refused(502, 1);
        let run = run(&[(false, bad), (false, Outcome::Good), (false, bad), (false, Outcome::Good)], &[]);
        let span = Span { from_ns: 1_000_000_000, until_ns: u64::MAX };
        assert_eq!(run.measure("recovery_s", span), Some(1.0));
        assert_eq!(run.measure("failed", span), Some(1.0));
        assert_eq!(run.measure("unclean", Span::ALL), Some(0.0));
    }

    #[test]
    fn a_law_of_speed_is_missed_before_it_is_broken_and_what_is_no_number_holds_nothing() {
        let run = run(&[(false, Outcome::Refused(500, 0)); 3], &[]);
        let none = BTreeMap::new();
        assert_eq!(run.judge(&law("failed", 3.0, false, None), &none).kind, Kind::Held);
        assert_eq!(run.judge(&law("failed", 2.0, false, None), &none).kind, Kind::Broken);
        assert_eq!(run.judge(&law("failed", 2.0, true, None), &none).kind, Kind::Missed);
        assert_eq!(run.judge(&law("failed", 1.0, true, Some(2.0)), &none).kind, Kind::Broken);
        assert_eq!(run.judge(&law("p99_ms", 1e9, false, None), &none).kind, Kind::Broken);
        assert_eq!(run.measure("unclean", Span::ALL), Some(3.0));
    }

    #[test]
    fn the_old_version_after_the_new_one_is_a_lag() {
        let mut run = run(&[(false, Outcome::Good); 3], &[]);
        for (call, version) in run.calls.calls.iter_mut().zip([1, 2, 1]) {
            call.version = Some(version);
        }
        // The second ended at 1.002 s, the third was due at 2 s.
        assert_eq!(run.measure("version_lag_ms", Span::ALL), Some(998.0));
    }
}
