//! JSON itself: JSONTestSuite, the project's own probes of ambiguity, and that both readers always agree.

use ringwall::http::Reason;
use ringwall::json::{
    BODY_DEPTH, BODY_DUPLICATE_KEY, BODY_JSON, BODY_UTF8, JsonLimits, Scratch, Tree, Violation, check_only,
};

use crate::shared;

const EXPECTED: &str = include_str!("../conformance/json-parsing/expected.txt");

/// The verdict, which the fast way and the exact reader must share.
fn verdict(bytes: &[u8]) -> Result<(), Reason> {
    let limits = JsonLimits::default();
    let fast = check_only(bytes, &limits, &mut Scratch::new()).map_err(|violation| violation.reason);
    let exact = Tree::new().read(bytes, &limits).map_err(|error| Violation::from(error).reason);
    assert_eq!(fast, exact, "the readers disagree about {:?}", String::from_utf8_lossy(bytes));
    if let Err(reason) = fast {
        assert_eq!(reason.status, 400);
    }
    fast
}

#[test]
fn the_parsing_suite_gives_its_verdicts() {
    let Some(suite) = shared("conformance/json-parsing") else { return };
    let expected: Vec<(&str, &str)> = EXPECTED
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'))
        .map(|line| line.split_once("  # ").unwrap_or_else(|| panic!("no reason: {line}")))
        .collect();
    let mut met = Vec::new();
    let mut problems = Vec::new();
    let mut count = 0;
    for folder in ["test_parsing", "test_transform"] {
        for entry in std::fs::read_dir(suite.join(folder)).expect("the suite is complete") {
            let path = entry.expect("it can be listed").path();
            let name = path.file_name().expect("a name").to_string_lossy().into_owned();
            let verdict = verdict(&std::fs::read(&path).expect("it can be read"));
            count += 1;
            let want = match name.as_bytes() {
                [b'y', b'_', ..] => Ok(()),
                [b'n', b'_', ..] => Err(BODY_JSON),
                _ => chosen(&name),
            };
            // How a refused text is refused is ours to say, if it is malformed at all.
            let same = verdict.is_ok() == want.is_ok() && (name.starts_with("n_") || verdict == want);
            let id = format!("{folder}/{name}");
            match (same, expected.iter().any(|(known, _)| *known == id)) {
                (true, false) => {}
                (false, true) => met.push(id),
                (true, true) => problems.push(format!("{id}: is expected to fail, but passes")),
                (false, false) => problems.push(format!("{id}: {verdict:?}")),
            }
        }
    }
    problems.extend(
        expected
            .iter()
            .filter(|(id, _)| !met.iter().any(|met| met == id))
            .map(|(id, _)| format!("{id}: not met")),
    );
    println!("JSON parsing suite: {count} texts");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    assert!(count > 300, "only {count} texts: the suite is not complete");
}

/// Where the suite leaves the choice, this is ours.
fn chosen(name: &str) -> Result<(), Reason> {
    if name.contains("duplicate") || name.contains("same_key") {
        return Err(BODY_DUPLICATE_KEY);
    }
    if name.contains("nested_arrays") {
        return Err(BODY_DEPTH);
    }
    if name.contains("BOM_empty_object") {
        return Err(BODY_JSON);
    }
    // Numbers of any size are JSON; what is not Unicode text is refused.
    let number = name.contains("number");
    let unusual_but_whole = name.contains("nfc") || name.contains("nfd") || name.contains("escaped_NULL");
    if number || unusual_but_whole { Ok(()) } else { Err(BODY_UTF8) }
}

#[test]
fn own_probes_of_ambiguity_are_decided_once() {
    let Some(suite) = shared("conformance/json-parsing") else { return };
    let text = std::fs::read(suite.join("differential-own.json")).expect("it can be read");
    let probes: serde_json::Value = serde_json::from_slice(&text).expect("it is JSON");
    let mut problems = Vec::new();
    for probe in probes.as_array().expect("an array") {
        let (name, want) = (probe["name"].as_str().expect("a name"), probe["want"].as_str().expect("a want"));
        let bytes = match (probe["base64"].as_str(), probe["bytes"].as_u64()) {
            (Some(text), _) => base64(text),
            (None, Some(length)) => brackets(name, length as usize),
            (None, None) => panic!("{name} has no bytes"),
        };
        let verdict = verdict(&bytes);
        match (want, verdict) {
            ("accept", Ok(())) | ("reject", Err(_)) => {}
            // Policy: numbers of any size pass; names twice, depth and half surrogates do not.
            ("policy", verdict) => {
                let passes = name.starts_with("num-") || name == "depth-arr-64";
                if verdict.is_ok() != passes {
                    problems.push(format!(
                        "{name}: {verdict:?} {:?}",
                        String::from_utf8_lossy(&bytes[..bytes.len().min(80)])
                    ));
                }
            }
            (want, verdict) => {
                problems.push(format!(
                    "{name}: want {want}: {verdict:?} {:?}",
                    String::from_utf8_lossy(&bytes[..bytes.len().min(80)])
                ));
            }
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Texts with one byte changed, inserted or removed: whatever they have become, both readers say the same.
#[test]
fn both_readers_agree_on_mutants() {
    let seeds = [
        r#"{"a":[1,-2.5e+3,true,false,null,"x\n\u00e9\ud83d\ude00",{}],"b":{"a":"","c":[[],{"d":0}]},"e":12345678901234567890}"#,
        "[0.0,-0,1E400,1e-400,\"\\\\\\\"\\/\\b\\f\\r\\t\",\"é😀\",[[[]]],{\"\":{\"\":0}}]",
    ];
    let bytes = b"{}[]:,\"\\/u0189dDabfnrtelsE+-. \n\t\r\0\x1f\x7f\x80\xbf\xc3\xe2\xed\xa0\xf4\xff";
    for seed in seeds {
        for at in 0..seed.len() {
            for &byte in bytes {
                let mut mutant = seed.as_bytes().to_vec();
                mutant[at] = byte;
                let _ = verdict(&mutant);
                mutant[at] = seed.as_bytes()[at];
                mutant.insert(at, byte);
                let _ = verdict(&mutant);
            }
            let mut mutant = seed.as_bytes().to_vec();
            mutant.remove(at);
            let _ = verdict(&mutant);
            let _ = verdict(&seed.as_bytes()[..at]);
        }
    }
}

/// The probes that are too long to be written out: opened so often, and closed again unless they are not meant to be.
fn brackets(name: &str, length: usize) -> Vec<u8> {
    let (open, middle, close) = if name.contains("obj") { ("{\"a\":", "1", "}") } else { ("[", "", "]") };
    if name.starts_with("open-only") {
        return open.repeat(length / open.len()).into_bytes();
    }
    let depth = (length - middle.len()) / (open.len() + close.len());
    (open.repeat(depth) + middle + &close.repeat(depth)).into_bytes()
}

fn base64(text: &str) -> Vec<u8> {
    base64_simd::STANDARD.decode_to_vec(text).expect("base64")
}
