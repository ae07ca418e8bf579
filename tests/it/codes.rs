//! Every code that the sources declare is unique, in its range, and has a page in the manual; every page has a code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ringwall::grpc::Status;
use ringwall::http::Reason;
use ringwall::manual;

/// A declaration of a code: number, token (empty for codes that are not of requests), where.
#[derive(Debug)]
struct Declared {
    code: u16,
    token: String,
    /// The HTTP status; 0 for codes that are not of requests.
    status: u16,
    place: String,
}

fn sources(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, out);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            out.push(path);
        }
    }
}

fn declared() -> Vec<Declared> {
    let mut files = Vec::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    sources(&root, &mut files);
    let mut found = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        // Test modules come last in a file, and make up codes of their own.
        let text = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
        let place = file.strip_prefix(&root).unwrap().display().to_string();
        for (at, _) in text.match_indices("Code::new(") {
            let digits: String =
                text[at + 10..].trim_start().chars().take_while(char::is_ascii_digit).collect();
            if let Ok(code) = digits.parse() {
                found.push(Declared { code, token: String::new(), status: 0, place: place.clone() });
            }
        }
        for maker in ["Reason::client(", "Reason::upstream(", "Reason::ringwall("] {
            for (at, _) in text.match_indices(maker) {
                let rest = text[at + maker.len()..].trim_start();
                let Some((token, rest)) = rest.strip_prefix('"').and_then(|rest| rest.split_once('"')) else {
                    continue;
                };
                let rest = rest.trim_start_matches([',', ' ', '\n']);
                let mut numbers = rest.split(',').map(|number| number.trim().parse());
                if let (Some(Ok(code)), Some(Ok(status))) = (numbers.next(), numbers.next()) {
                    found.push(Declared { code, token: token.to_owned(), status, place: place.clone() });
                }
            }
        }
    }
    found.sort_by_key(|declared| declared.code);
    found
}

#[test]
fn codes_and_tokens_are_unique_and_in_range() {
    let mut codes: BTreeMap<u16, String> = BTreeMap::new();
    let mut tokens: BTreeMap<String, String> = BTreeMap::new();
    let mut wrong = Vec::new();
    for Declared { code, token, status, place } in declared() {
        let here = format!("RW-{code:04} {token} in {place}");
        let range_fits = match code / 100 {
            10..=19 | 60 | 61 | 80 => token.is_empty() || code / 100 == 60,
            20..=24 | 30..=34 | 40..=43 | 50 => !token.is_empty(),
            _ => false,
        };
        if !range_fits {
            wrong.push(format!("{here} is out of its range"));
        }
        if !token.is_empty() && !(300..=599).contains(&status) {
            wrong.push(format!("{here} has the status {status}"));
        }
        let token_fits = token.len() <= 32
            && token.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if !token_fits {
            wrong.push(format!("{here}: the token is not one"));
        }
        if let Some(first) = codes.insert(code, here.clone()) {
            wrong.push(format!("{here} stands for {first} too"));
        }
        if !token.is_empty()
            && let Some(first) = tokens.insert(token, here.clone())
        {
            wrong.push(format!("{here} has the token of {first}"));
        }
    }
    assert!(codes.len() > 100);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn no_refusal_leaves_a_caller_of_grpc_without_a_status() {
    for Declared { code, token, status, place } in declared() {
        if token.is_empty() {
            continue;
        }
        let of = Status::of(&Reason::client("any", code, status, "Any"));
        // The one that says so.
        let unknown = token == "grpc_status_missing";
        assert_eq!(of == Status::Unknown, unknown, "RW-{code:04} {token} in {place}: {status}");
        assert_ne!(of, Status::Ok);
    }
}

#[test]
fn every_code_has_a_page_and_every_page_a_code() {
    let declared = declared();
    let mut wrong = Vec::new();
    for Declared { code, token, place, .. } in &declared {
        match manual::page(*code) {
            None => wrong.push(format!("RW-{code:04} {token} ({place}) has no page in src/manual/codes")),
            Some(page) if page.token().unwrap_or_default() != token => {
                wrong.push(format!(
                    "the page of RW-{code:04} speaks of `{}`, {place} of `{token}`",
                    page.title
                ));
            }
            Some(_) => {}
        }
    }
    for page in manual::pages() {
        if !declared.iter().any(|declared| declared.code == page.code) {
            wrong.push(format!("RW-{:04} {} has a page, but nothing declares it", page.code, page.title));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
