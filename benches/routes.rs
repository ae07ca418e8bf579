//! What finding a route costs, against `matchit` on its own ground: templates that it can express, one host, no
//! methods.
//!
//! The routes are the templates of `corpus/openapi/github-rest-api.json` (`RINGWALL_SHARED`, default `../shared`)
//! under as many prefixes as make 50,000; without it, made-up ones of the same shapes.
//!
//! `cargo bench --bench routes [-- --once | --callgrind NAME] [--routes COUNT]`: `--callgrind` looks up each of 1,000
//! paths once (`valgrind --tool=callgrind --toggle-collect='*find_*'` counts nothing else).

use std::{hint::black_box, time::Instant};

use ringwall::{
    http::Method,
    route::{Lookup, Router, RouterBuilder, Template},
};

const ROUTES: usize = 50_000;
const ROUNDS: usize = 7;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let count =
        arguments.iter().position(|argument| argument == "--routes").and_then(|at| arguments.get(at + 1));
    let templates = templates(count.and_then(|count| count.parse().ok()).unwrap_or(ROUTES));
    let paths = paths(&templates);
    let callgrind = arguments.iter().position(|argument| argument == "--callgrind");
    let once = arguments.iter().any(|argument| argument == "--once" || argument == "--test");
    if let Some(at) = callgrind {
        // Only the contender that is counted is built.
        match arguments.get(at + 1).map(String::as_str) {
            Some("nothing") => _ = black_box((ours(&templates[..1]), theirs(&templates[..1]))),
            Some("ringwall") => _ = find_ours(&ours(&templates), &paths),
            Some("matchit") => _ = find_theirs(&theirs(&templates), &paths),
            name => eprintln!("no contender {name:?}: nothing, ringwall, matchit"),
        }
        return;
    }
    let start = Instant::now();
    let ours = ours(&templates);
    let built_ms = start.elapsed().as_millis();
    let theirs = theirs(&templates);
    println!(
        "{} templates, {} paths; built in {built_ms} ms, {} bytes, at most {} visits",
        templates.len(),
        paths.len(),
        ours.bytes(),
        ours.visits_max()
    );
    assert_eq!(find_ours(&ours, &paths), find_theirs(&theirs, &paths), "both find the same");
    let (rounds, repeats) = if once { (1, 1) } else { (ROUNDS, 500) };
    let mut results = [Vec::new(), Vec::new()];
    for _ in 0..rounds {
        let start = Instant::now();
        (0..repeats).for_each(|_| _ = black_box(find_ours(&ours, &paths)));
        results[0].push(start.elapsed().as_nanos() as f64 / (repeats * paths.len()) as f64);
        let start = Instant::now();
        (0..repeats).for_each(|_| _ = black_box(find_theirs(&theirs, &paths)));
        results[1].push(start.elapsed().as_nanos() as f64 / (repeats * paths.len()) as f64);
    }
    let medians = results.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    });
    println!("ringwall {:8.1} ns a lookup", medians[0]);
    println!("matchit  {:8.1} ns a lookup, ratio {:.2}", medians[1], medians[0] / medians[1]);
}

fn ours(templates: &[String]) -> Router {
    let mut builder = RouterBuilder::new();
    let base = builder.base(None, "/").expect("a base");
    for (value, template) in templates.iter().enumerate() {
        builder.add(base, template, Method::Get, value as u32).expect("no two are the same");
    }
    builder.build().expect("few choices")
}

fn theirs(templates: &[String]) -> matchit::Router<u32> {
    let mut router = matchit::Router::new();
    for (value, template) in templates.iter().enumerate() {
        router.insert(template, value as u32).expect("no two are the same");
    }
    router
}

#[inline(never)]
fn find_ours(router: &Router, paths: &[String]) -> (u64, usize) {
    let mut sum = (0, 0);
    for path in paths {
        if let Lookup::Found { value, parameters } = router.find(b"host", path.as_bytes(), Method::Get) {
            sum = (sum.0 + u64::from(value), sum.1 + parameters.len());
        }
    }
    sum
}

#[inline(never)]
fn find_theirs(router: &matchit::Router<u32>, paths: &[String]) -> (u64, usize) {
    let mut sum = (0, 0);
    for path in paths {
        if let Ok(found) = router.at(path) {
            sum = (sum.0 + u64::from(*found.value), sum.1 + found.params.len());
        }
    }
    sum
}

/// Templates that both can express.
fn templates(count: usize) -> Vec<String> {
    let root =
        std::env::var_os("RINGWALL_SHARED").map_or_else(|| "../shared".into(), std::path::PathBuf::from);
    let from_corpus = std::fs::read(root.join("corpus/openapi/github-rest-api.json"))
        .ok()
        .and_then(|text| serde_json::from_slice::<serde_json::Value>(&text).ok())
        .and_then(|document| Some(document.get("paths")?.as_object()?.keys().cloned().collect::<Vec<_>>()));
    let mut shapes = from_corpus.unwrap_or_else(|| {
        println!("NOT RUN on the GitHub templates (no RINGWALL_SHARED): made-up ones");
        (0..800)
            .map(|i| {
                ["/r#", "/r#/{id}", "/r#/{id}/items", "/r#/{id}/items/{item}"][i % 4]
                    .replace('#', &(i / 4).to_string())
            })
            .collect()
    });
    // matchit has one parameter a segment, and one name for all parameters at a place.
    shapes.retain(|shape| Template::parse(shape).is_ok() && !shape.contains("}.") && !shape.contains("}-"));
    for shape in &mut shapes {
        let mut named = String::new();
        for (index, part) in shape.split('{').enumerate() {
            match part.split_once('}') {
                Some((_, rest)) => named.push_str(&format!("{{p{index}}}{rest}")),
                None => named.push_str(part),
            }
        }
        *shape = named;
    }
    shapes.sort();
    shapes.dedup();
    (0..)
        .flat_map(|prefix| shapes.iter().map(move |shape| format!("/v{prefix}{shape}")))
        .take(count)
        .collect()
}

/// A thousand paths, spread over the templates, with parameters as they are in life.
fn paths(templates: &[String]) -> Vec<String> {
    let values = ["octocat", "hello-world", "1347", "6dcb09b5b57875f334f61aebed695e2e4193db5e", "main"];
    (0..1_000)
        .map(|number| {
            let mut value = number;
            let template = &templates[number * 7919 % templates.len()];
            template.split('/').skip(1).fold(String::new(), |mut path, segment| {
                path.push('/');
                match segment.starts_with('{') {
                    true => {
                        value += 1;
                        path.push_str(values[value % values.len()]);
                    }
                    false => path.push_str(segment),
                }
                path
            })
        })
        .collect()
}
