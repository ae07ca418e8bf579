//! `ringwall help`: the manual, offline. A topic is a chapter, a code (`RW-1304`, `1304`) or a reason's token.

use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use crate::config::shape::nearest;
use crate::manual::{self, Page};

/// The arguments of `help`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// A chapter, a code such as `RW-1304`, or a reason such as `token_expired` [default: what there is]
    topic: Option<String>,
    /// Write JSON
    #[arg(long)]
    json: bool,
}

/// Prints the page.
pub fn run(arguments: &Arguments) -> ExitCode {
    let Some(topic) = arguments.topic.as_deref() else {
        overview(arguments.json);
        return ExitCode::SUCCESS;
    };
    if let Some(page) = code(topic) {
        show(&format!("RW-{:04}", page.code), page.title, page.text, arguments.json);
        return ExitCode::SUCCESS;
    }
    if let Some(chapter) = manual::all().iter().find(|chapter| chapter.name == topic) {
        show(chapter.name, chapter.title(), chapter.text, arguments.json);
        return ExitCode::SUCCESS;
    }
    let chapters = manual::all().iter().map(|chapter| chapter.name);
    match nearest(topic, chapters) {
        Some(near) => eprintln!("there is no chapter `{topic}`: did you mean `{near}`?"),
        None => eprintln!("there is no chapter and no code `{topic}`: `ringwall help` lists what there is"),
    }
    ExitCode::FAILURE
}

/// The page of a code, with or without `RW-`, or of a reason's token.
fn code(topic: &str) -> Option<Page> {
    let digits = topic.strip_prefix("RW-").or_else(|| topic.strip_prefix("rw-")).unwrap_or(topic);
    match digits.parse::<u16>() {
        Ok(number) => manual::page(number),
        Err(_) => manual::pages().find(|page| page.token() == Some(topic)),
    }
}

fn show(name: &str, title: &str, text: &str, json: bool) {
    match json {
        true => super::say(&format!("{}\n", json!({ "topic": name, "title": title, "text": text }))),
        false => super::say(text.trim_start()),
    }
}

fn overview(json: bool) {
    if json {
        let chapters: Vec<_> = manual::all()
            .iter()
            .map(|chapter| json!({ "topic": chapter.name, "title": chapter.title() }))
            .collect();
        let codes: Vec<_> = manual::pages()
            .map(|page| json!({ "code": format!("RW-{:04}", page.code), "title": page.title }))
            .collect();
        super::say(&format!("{}\n", json!({ "chapters": chapters, "codes": codes })));
        return;
    }
    let mut out = String::from("Chapters (`ringwall help TOPIC`):\n\n");
    let width = manual::all().iter().map(|chapter| chapter.name.len()).max().unwrap_or(0);
    for chapter in manual::all() {
        out.push_str(&format!("  {:width$}  {}\n", chapter.name, chapter.title()));
    }
    out.push_str("\nCodes (`ringwall help RW-nnnn`):\n\n");
    for page in manual::pages() {
        out.push_str(&format!("  RW-{:04}  {}\n", page.code, page.title));
    }
    super::say(&out);
}
