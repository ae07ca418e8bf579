//! The HTML page: one file, no script, nothing fetched; the plots are SVG drawn here.
//!
//! Called by `report`.

use std::fmt::Write as _;

use super::{floor_of, outcomes, said};
use crate::compare::{Comparison, Measured, Series};

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1b2530;--soft:#5d6b79;--line:#d5dce3;--paper:#fff;--own:#c2410c;--pump:#8896a5;--peer:#2f6f9f}
@media(prefers-color-scheme:dark){:root{--ink:#e6ebf0;--soft:#9aa8b5;--line:#37424d;--paper:#14191e;--own:#fb923c;--pump:#7b8894;--peer:#6cb2e0}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:72rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.5rem;border-top:1px solid var(--line);padding-top:1rem}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px;margin:.5rem 0}
th,td{padding:.2rem .6rem;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
th:first-child,td:first-child{text-align:left}th{color:var(--soft);font-weight:500}
.missed{color:#b91c1c;font-weight:600}.reached{color:#15803d}.loud{background:#b91c1c;color:#fff;padding:.6rem 1rem;font-weight:700}
.soft{color:var(--soft)}pre{white-space:pre-wrap;font-size:12px}svg{max-width:100%;height:auto}
svg text{fill:var(--ink);font:12px system-ui,sans-serif}svg .soft{fill:var(--soft)}.scroll{overflow-x:auto}";

/// The whole page.
pub fn page(comparison: &Comparison) -> String {
    let mut out = String::new();
    out += "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">";
    out += "<meta name=\"viewport\" content=\"width=device-width,initial-scale=1\"><title>Ringwall beside its peers</title>";
    let _ = write!(out, "<style>{STYLE}</style><h1>Ringwall beside its peers</h1>");
    let _ = write!(
        out,
        "<p>CPU time per request of each proxy on one pinned core, against the same backend on another; medians of {} alternating \
         rounds of {} s, whiskers from the least to the greatest. The floor is the fastest byte pump of the run.</p>",
        comparison.rounds, comparison.seconds
    );
    let _ = write!(
        out,
        "<p class=\"soft\">{}{}<br><code>ringwall-loadtest {}</code></p>",
        escaped(&comparison.machine),
        if comparison.real_time { "; SCHED_FIFO" } else { "" },
        escaped(&comparison.command)
    );
    match &comparison.driver {
        Some(Ok(driver)) => {
            let _ = write!(out, "<p>Ringwall's data threads ran on <b>{}</b>.</p>", escaped(driver));
        }
        Some(Err(instead)) => {
            let _ = write!(out, "<p class=\"loud\">FELL BACK: not io_uring but {}</p>", escaped(instead));
        }
        None => {}
    }
    out += "<table><tr><th>contender<th>version";
    for (name, version) in &comparison.versions {
        let _ = write!(out, "<tr><td>{}<td>{}", escaped(name), escaped(version));
    }
    out += "</table>";
    for measured in &comparison.scenarios {
        scenario(&mut out, measured);
    }
    if !comparison.notes.is_empty() {
        out += "<h2>Notes</h2>";
        for note in &comparison.notes {
            let _ = write!(out, "<pre>{}</pre>", escaped(note));
        }
    }
    out
}

fn scenario(out: &mut String, measured: &Measured) {
    let _ = write!(
        out,
        "<h2>{} <span class=\"soft\">{}</span></h2>",
        escaped(&measured.scenario.title),
        escaped(&measured.scenario.name)
    );
    for (bar, outcome) in outcomes(measured) {
        let class = match outcome {
            Some(ratio) if ratio <= bar.at_most => "reached",
            Some(_) => "missed",
            None => "soft",
        };
        let _ = write!(out, "<div class=\"{class}\">{}</div>", escaped(&said(&bar, outcome)));
    }
    if !measured.idle.is_empty() {
        idle(out, measured);
    }
    for (series, what) in [
        (&measured.saturation, format!("Closed loop, {} connections", measured.scenario.connections)),
        (&measured.common_rate, format!("Open loop, {:.0} requests/s", measured.rate.unwrap_or(0.0))),
    ] {
        if !series.is_empty() {
            let _ = write!(out, "<h3>{what}</h3>");
            bars(out, series, measured.scenario.per.unit());
            table(out, series, measured.scenario.per.unit());
            if std::ptr::eq(series, &raw const measured.common_rate) {
                curves(out, series);
            }
        }
    }
}

fn table(out: &mut String, all: &[Series], unit: &str) {
    let floor = floor_of(all);
    let _ = write!(
        out,
        "<div class=\"scroll\"><table><tr><th>contender<th>CPU µs/{unit}<th>min–max<th>user µs<th>× floor<th>req/s<th>busy<th>p50 µs<th>p99 µs\
         <th>p99.9 µs<th>PSS MB<th>generator µs<th>backend µs"
    );
    for series in all {
        let _ = write!(out, "<tr><td>{}", escaped(&series.contender));
        let Some(cpu) = series.spread(|round| round.cpu_us) else {
            *out += "<td colspan=\"12\">every round void";
            continue;
        };
        let ratio = floor.map_or("–".to_owned(), |floor| format!("{:.2}", cpu.median / floor));
        let _ = write!(out, "<td>{:.2}<td>{:.2}–{:.2}", cpu.median, cpu.min, cpu.max);
        let mut cell = |figure: &dyn Fn(&crate::compare::Round) -> f64, digits: usize| {
            let median = series.spread(figure).map_or(f64::NAN, |spread| spread.median);
            let _ = write!(out, "<td>{median:.digits$}");
        };
        cell(&|r| r.cpu_user_us, 2);
        let _ = write!(out, "<td>{ratio}");
        let mut cell = |figure: &dyn Fn(&crate::compare::Round) -> f64, digits: usize| {
            let median = series.spread(figure).map_or(f64::NAN, |spread| spread.median);
            let _ = write!(out, "<td>{median:.digits$}");
        };
        cell(&|r| r.rate, 0);
        cell(&|r| r.busy, 2);
        cell(&|r| r.latency.p50_us, 0);
        cell(&|r| r.latency.p99_us, 0);
        cell(&|r| r.latency.p999_us, 0);
        cell(&|r| r.pss_bytes as f64 / 1e6, 1);
        cell(&|r| r.generator_us, 2);
        cell(&|r| r.backend_us, 2);
    }
    *out += "</table></div>";
}

fn idle(out: &mut String, measured: &Measured) {
    *out += "<div class=\"scroll\"><table><tr><th>contender<th>base MB<th>B per connection<th>after a burst<th>burst MB<th>closed MB<th>given back<th>CPU µs/req<th>p99 µs<th>";
    for result in &measured.idle {
        let _ = write!(
            out,
            "<tr><td>{}<td>{:.1}<td>{:.0}<td>{:.0}<td>{:.1}<td>{:.1}<td>{:.0} %<td>{:.2}<td>{:.0}<td>{}",
            escaped(&result.contender),
            result.base_bytes as f64 / 1e6,
            result.per_connection(),
            result.per_connection_settled(),
            result.burst_bytes as f64 / 1e6,
            result.closed_bytes as f64 / 1e6,
            result.given_back() * 100.0,
            result.cpu_us,
            result.latency.p99_us,
            escaped(result.void.as_deref().unwrap_or(""))
        );
    }
    *out += "</table></div>";
}

fn colour(series: &Series) -> &'static str {
    if series.contender.starts_with("ringwall") {
        "var(--own)"
    } else if series.is_pump {
        "var(--pump)"
    } else {
        "var(--peer)"
    }
}

/// CPU time as horizontal bars with whiskers, and the floor as a line.
fn bars(out: &mut String, all: &[Series], unit: &str) {
    const LEFT: f64 = 150.0;
    const WIDTH: f64 = 560.0;
    const ROW: f64 = 24.0;
    let spreads: Vec<_> =
        all.iter().filter_map(|series| Some((series, series.spread(|r| r.cpu_us)?))).collect();
    let Some(most) = spreads.iter().map(|(_, spread)| spread.max).max_by(f64::total_cmp) else { return };
    let x = |value: f64| LEFT + value / most * WIDTH;
    let height = ROW * spreads.len() as f64 + 8.0;
    let _ = write!(
        out,
        "<svg viewBox=\"0 0 800 {height:.0}\" width=\"800\" role=\"img\" aria-label=\"CPU time per {unit}\">"
    );
    for (row, (series, spread)) in spreads.iter().enumerate() {
        let top = row as f64 * ROW + 4.0;
        let middle = top + ROW / 2.0 - 2.0;
        let _ = write!(
            out,
            "<text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>\
             <rect x=\"{LEFT}\" y=\"{top:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"{}\"/>\
             <path d=\"M{:.1} {middle:.1}H{:.1}\" stroke=\"var(--ink)\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\">{:.1}</text>",
            LEFT - 6.0,
            middle + 4.0,
            escaped(&series.contender),
            x(spread.median) - LEFT,
            ROW - 6.0,
            colour(series),
            x(spread.min),
            x(spread.max),
            x(spread.max) + 6.0,
            middle + 4.0,
            spread.median
        );
    }
    if let Some(floor) = floor_of(all) {
        let _ = write!(
            out,
            "<path d=\"M{0:.1} 0V{height:.0}\" stroke=\"var(--soft)\" stroke-dasharray=\"3 3\"/>",
            x(floor)
        );
    }
    *out += "</svg>";
}

/// Latency against the fraction of requests that were no slower, on logarithmic axes.
fn curves(out: &mut String, all: &[Series]) {
    const LEFT: f64 = 60.0;
    const TOP: f64 = 10.0;
    const WIDTH: f64 = 560.0;
    const HEIGHT: f64 = 220.0;
    const DASHES: [&str; 4] = ["", "6 3", "2 3", "8 3 2 3"];
    // The median round by p99 stands for all of them.
    let shown: Vec<_> = all
        .iter()
        .filter_map(|series| {
            let mut rounds: Vec<_> = series.rounds.iter().filter(|round| round.void.is_none()).collect();
            rounds.sort_by(|a, b| a.latency.p99_us.total_cmp(&b.latency.p99_us));
            Some((series, rounds.get(rounds.len() / 2)?.curve.clone()))
        })
        .filter(|(_, curve)| curve.len() > 1)
        .collect();
    let points = || shown.iter().flat_map(|(_, curve)| curve);
    let (Some(least), Some(most)) = (
        points().map(|point| point.1.max(1.0)).min_by(f64::total_cmp),
        points().map(|point| point.1.max(1.0)).max_by(f64::total_cmp),
    ) else {
        return;
    };
    let nines = points().map(|point| -(1.0 - point.0).log10()).fold(1.0, f64::max);
    let (low, high) = (least.log10().floor(), most.log10().ceil().max(least.log10().floor() + 1.0));
    let x = |quantile: f64| LEFT + -(1.0 - quantile).log10() / nines * WIDTH;
    let y = |us: f64| TOP + (high - us.max(1.0).log10()) / (high - low) * HEIGHT;
    let _ = write!(
        out,
        "<svg viewBox=\"0 0 800 {:.0}\" width=\"800\" role=\"img\" aria-label=\"latency by percentile\">",
        TOP + HEIGHT + 24.0
    );
    let mut decade = low;
    while decade <= high {
        let at = y(10f64.powf(decade));
        let _ = write!(
            out,
            "<path d=\"M{LEFT} {at:.1}H{:.1}\" stroke=\"var(--line)\"/><text x=\"{:.0}\" y=\"{:.1}\" text-anchor=\"end\" class=\"soft\">{} µs</text>",
            LEFT + WIDTH,
            LEFT - 4.0,
            at + 4.0,
            10f64.powf(decade)
        );
        decade += 1.0;
    }
    for (label, quantile) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("p99.99", 0.9999)]
    {
        if -(1.0 - f64::log10(1.0)) <= nines && x(quantile) <= LEFT + WIDTH + 1.0 {
            let _ = write!(
                out,
                "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"middle\" class=\"soft\">{label}</text>",
                x(quantile),
                TOP + HEIGHT + 18.0
            );
        }
    }
    for (row, (series, curve)) in shown.iter().enumerate() {
        let path: Vec<String> = curve.iter().map(|(q, us)| format!("{:.1},{:.1}", x(*q), y(*us))).collect();
        let dash = DASHES[row % DASHES.len()];
        let label_y = TOP + 14.0 + row as f64 * 18.0;
        let _ = write!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"1.6\" stroke-dasharray=\"{dash}\"/>\
             <path d=\"M{1:.0} {2:.1}h24\" stroke=\"{3}\" stroke-width=\"1.6\" stroke-dasharray=\"{dash}\"/>\
             <text x=\"{4:.0}\" y=\"{5:.1}\">{6}</text>",
            path.join(" "),
            colour(series),
            label_y - 4.0,
            colour(series),
            LEFT + WIDTH + 48.0,
            label_y,
            escaped(&series.contender),
        );
    }
    *out += "</svg>";
}

/// Text as it may stand between tags and in quoted attributes.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::{Round, Series};
    use crate::scenario::Scenario;
    use crate::stats::Latencies;
    use std::path::Path;

    #[test]
    fn text_is_escaped() {
        assert_eq!(escaped("a<b>&\"c\"'"), "a&lt;b&gt;&amp;&quot;c&quot;&#39;");
    }

    fn series(name: &str, is_pump: bool, cpu_us: f64) -> Series {
        let mut latencies = Latencies::new();
        for us in 1..2_000u64 {
            latencies.record(us * 1_000);
        }
        let round = |void: Option<&str>, cpu_us: f64| Round {
            void: void.map(str::to_owned),
            requests: 1,
            rate: 1.0,
            cpu_us,
            cpu_user_us: 1.0,
            busy: 1.0,
            generator_us: 1.0,
            backend_us: 1.0,
            pss_bytes: 1,
            latency: latencies.summary(),
            curve: latencies.curve(),
        };
        Series {
            contender: name.to_owned(),
            is_pump,
            rounds: vec![round(None, cpu_us), round(Some("1 × <error>"), 1_000.0), round(None, cpu_us)],
        }
    }

    #[test]
    fn a_page_is_whole_escapes_what_programs_say_and_fetches_nothing() {
        let scenarios = Scenario::all(&Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")).unwrap();
        let scenario = scenarios.into_iter().find(|scenario| scenario.name == "jwt").unwrap();
        let all = || {
            vec![
                series("ringwall", false, 10.0),
                series("pump", true, 10.0),
                series("nginx-http", false, 16.0),
            ]
        };
        let measured = Measured {
            scenario,
            saturation: all(),
            common_rate: all(),
            rate: Some(1_000.0),
            idle: Vec::new(),
        };
        assert_eq!(measured.best(&["floor".to_owned()]), Some(10.0));
        let comparison = Comparison {
            unix_time: 0,
            command: "compare --peer x=<script>".to_owned(),
            machine: "m".to_owned(),
            real_time: false,
            rounds: 2,
            seconds: 1.0,
            versions: [("nginx-http".to_owned(), "<b>1".to_owned())].into(),
            driver: Some(Err("epoll".to_owned())),
            notes: vec!["a <note>".to_owned()],
            scenarios: vec![measured],
        };
        let page = page(&comparison);
        assert!(!page.contains("<script") && !page.contains("<b>1") && !page.contains("<note>"));
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="));
        assert!(page.contains("FELL BACK") && page.contains("<svg") && page.contains("polyline"));
        assert!(page.contains("reached: ringwall 1.00 × floor"));
        assert!(!page.contains("NaN"), "a plot must have numbers");
    }
}
