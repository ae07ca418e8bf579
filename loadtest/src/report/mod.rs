//! What was measured, told: tables on standard output, a self-contained HTML page, raw JSON.
//!
//! Called by `compare`.

mod html;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::compare::{Comparison, Measured, Series};
use crate::scenario::Bar;

/// Where the reports are.
pub struct Written {
    /// The page.
    pub html: PathBuf,
    /// The raw figures.
    pub json: PathBuf,
}

/// Writes `compare-TIME.html` and `.json`, and a copy of each as `compare-latest`.
///
/// # Errors
/// A file cannot be written.
pub fn write(comparison: &Comparison, directory: &Path) -> io::Result<Written> {
    let name = format!("compare-{}", comparison.unix_time);
    let written = Written {
        html: directory.join(format!("{name}.html")),
        json: directory.join(format!("{name}.json")),
    };
    let json = serde_json::to_string_pretty(comparison).map_err(io::Error::other)?;
    let page = html::page(comparison);
    for (path, latest, text) in
        [(&written.json, "compare-latest.json", &json), (&written.html, "compare-latest.html", &page)]
    {
        fs::write(path, text)?;
        fs::write(directory.join(latest), text)?;
    }
    Ok(written)
}

/// The heading.
pub fn print_head(comparison: &Comparison) {
    println!("{}", comparison.machine);
    println!(
        "{} rounds of {} s, alternating{}",
        comparison.rounds,
        comparison.seconds,
        if comparison.real_time { ", SCHED_FIFO" } else { "" }
    );
    for (name, version) in &comparison.versions {
        println!("  {name:16} {version}");
    }
}

/// Loudly: these figures are not those of io_uring.
pub fn fell_back(contender: &str, instead: &str) {
    let line = "!".repeat(78);
    println!("{line}\n!!! FELL BACK: {contender} does not run on io_uring but on: {instead}\n{line}");
}

/// A scenario's tables.
pub fn print_scenario(measured: &Measured) {
    println!("\n{}: {}", measured.scenario.name, measured.scenario.title);
    if measured.scenario.idle.is_some() {
        print_idle(measured);
        return;
    }
    println!("  closed loop, {} connections", measured.scenario.connections);
    print_series(measured, &measured.saturation);
    if let Some(rate) = measured.rate {
        println!("  open loop, {rate:.0} requests/s offered to all");
        print_series(measured, &measured.common_rate);
    }
    for (bar, outcome) in outcomes(measured) {
        println!("  {}", said(&bar, outcome));
    }
}

/// A bar and, if both sides were measured, Ringwall's ratio.
pub fn outcomes(measured: &Measured) -> Vec<(Bar, Option<f64>)> {
    let own = measured.best(&["ringwall".to_owned()]);
    let outcome = |bar: &Bar| Some(own? / measured.best(&bar.of)?);
    measured.scenario.bars.iter().map(|bar| (bar.clone(), outcome(bar))).collect()
}

/// One bar as a sentence.
pub fn said(bar: &Bar, outcome: Option<f64>) -> String {
    let of = if bar.of.len() > 1 { format!("the best of {}", bar.of.join(", ")) } else { bar.of.join("") };
    match outcome {
        Some(ratio) => {
            let verdict = if ratio <= bar.at_most { "reached" } else { "MISSED" };
            format!("{verdict}: ringwall {ratio:.2} × {of} (bar: {:.2})", bar.at_most)
        }
        None => format!("not measured: ringwall against {of} (bar: {:.2})", bar.at_most),
    }
}

fn print_series(measured: &Measured, all: &[Series]) {
    let unit = measured.scenario.per.unit();
    let floor = floor_of(all);
    println!(
        "  {:24} {:>9} {:>15} {:>8} {:>7} {:>8} {:>5} {:>7} {:>7} {:>8} {:>7} {:>9} {:>8}",
        "",
        format!("CPU µs/{unit}"),
        "min–max",
        "user µs",
        "× floor",
        "req/s",
        "busy",
        "p50 µs",
        "p99 µs",
        "p99.9 µs",
        "PSS MB",
        "generator",
        "backend"
    );
    for series in all {
        let Some(cpu) = series.spread(|round| round.cpu_us) else {
            println!("  {:24} every round void", series.contender);
            continue;
        };
        let median = |figure: &dyn Fn(&crate::compare::Round) -> f64| {
            series.spread(figure).map_or(f64::NAN, |s| s.median)
        };
        let ratio = floor.map_or("-".to_owned(), |floor| format!("{:.2}", cpu.median / floor));
        let void = series.rounds.iter().filter(|round| round.void.is_some()).count();
        println!(
            "  {:24} {:>9.2} {:>15} {:>8.2} {ratio:>7} {:>8.0} {:>5.2} {:>7.0} {:>7.0} {:>8.0} {:>7.1} {:>9.2} {:>8.2}{}",
            series.contender,
            cpu.median,
            format!("{:.2}–{:.2}", cpu.min, cpu.max),
            median(&|r| r.cpu_user_us),
            median(&|r| r.rate),
            median(&|r| r.busy),
            median(&|r| r.latency.p50_us),
            median(&|r| r.latency.p99_us),
            median(&|r| r.latency.p999_us),
            median(&|r| r.pss_bytes as f64 / 1e6),
            median(&|r| r.generator_us),
            median(&|r| r.backend_us),
            if void > 0 { format!("  ({void} rounds void)") } else { String::new() }
        );
    }
}

/// The fastest byte pump of these.
pub fn floor_of(all: &[Series]) -> Option<f64> {
    let pumps = all.iter().filter(|series| series.is_pump);
    pumps.filter_map(|series| series.spread(|r| r.cpu_us)).map(|spread| spread.median).min_by(f64::total_cmp)
}

fn print_idle(measured: &Measured) {
    println!(
        "  {:16} {:>8} {:>12} {:>14} {:>9} {:>9} {:>10} {:>10} {:>8}",
        "",
        "base MB",
        "B/connection",
        "after a burst",
        "burst MB",
        "closed MB",
        "given back",
        "CPU µs/req",
        "p99 µs"
    );
    for result in &measured.idle {
        println!(
            "  {:16} {:>8.1} {:>12.0} {:>14.0} {:>9.1} {:>9.1} {:>9.0}% {:>10.2} {:>8.0}{}",
            result.contender,
            result.base_bytes as f64 / 1e6,
            result.per_connection(),
            result.per_connection_settled(),
            result.burst_bytes as f64 / 1e6,
            result.closed_bytes as f64 / 1e6,
            result.given_back() * 100.0,
            result.cpu_us,
            result.latency.p99_us,
            result.void.as_ref().map_or(String::new(), |why| format!("  VOID: {why}"))
        );
        if let Some(idle) = measured.scenario.idle.filter(|_| result.contender == "ringwall") {
            let verdict = if result.per_connection_settled() <= idle.bytes_at_most && result.void.is_none() {
                "reached"
            } else {
                "MISSED"
            };
            println!(
                "  {verdict}: ringwall {:.0} B per idle connection after a burst (bar: {:.0})",
                result.per_connection_settled(),
                idle.bytes_at_most
            );
        }
    }
}
