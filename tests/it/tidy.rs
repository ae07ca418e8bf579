//! The architecture, held by reading the sources: which module may name what.
//!
//! Comments and string literals do not count, and neither do test modules (they come last in a file). A file that
//! may do what its module may not is listed beside the rule, with the reason; a listed file that no longer needs it
//! fails too, so that no exception outlives its cause.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A law: these words, nowhere but there.
struct Law {
    what: &'static str,
    /// Paths or identifiers; each must be whole, as in `tokio` but not `tokio_rustls`.
    words: &'static [&'static str],
    scope: Scope,
    /// Text that marks a file of `policy/` as one that may.
    policy_with: Option<&'static str>,
    /// Files beside the scope that may, and why.
    exceptions: &'static [(&'static str, &'static str)],
}

/// Folders end in `/`; all are relative to `src/`.
enum Scope {
    OnlyIn(&'static [&'static str]),
    NowhereIn(&'static [&'static str]),
}

/// What runs on data threads.
pub const DATA_THREADS: &[&str] = &[
    "accept/",
    "grpc/",
    "h1/",
    "h2/",
    "http/",
    "jose/",
    "json/",
    "pipeline/",
    "policy/",
    "route/",
    "schema/",
    "tls/",
    "upstream/",
    "websocket/",
    "worker/",
];

const LAWS: &[Law] = &[
    Law {
        what: "what the operator wrote is not seen by a request",
        words: &["crate::config"],
        scope: Scope::OnlyIn(&[
            "cli/",
            "config/",
            "control/supervisor.rs",
            "control/supervisor/",
            "snapshot/compile.rs",
            "snapshot/compile/",
        ]),
        // A policy is one file, with its `compile` in it or beside it.
        policy_with: Some("fn compile"),
        exceptions: &[("fuzzing.rs", "the entry point of the fuzzer of the reader")],
    },
    Law {
        what: "the event loop is named only where bytes move",
        words: &["monoio"],
        scope: Scope::OnlyIn(&["accept/", "sys/", "worker/"]),
        policy_with: None,
        exceptions: &[],
    },
    Law {
        what: "tokio and what stands on it run on the control thread",
        words: &["tokio", "hyper", "hyper_util", "tokio_rustls", "hickory_resolver", "notify::"],
        scope: Scope::OnlyIn(&["control/"]),
        policy_with: None,
        exceptions: &[],
    },
    Law {
        what: "no serialisation framework on the hot path",
        words: &["serde", "serde_json"],
        scope: Scope::NowhereIn(DATA_THREADS),
        policy_with: None,
        exceptions: &[("jose/fuzz.rs", "the oracle of the fuzzer; no request comes here")],
    },
    Law {
        what: "unsafe code has one home",
        words: &["unsafe", "unsafe_code"],
        scope: Scope::OnlyIn(&["sys/"]),
        policy_with: None,
        exceptions: &[("lib.rs", "where it is denied to everybody else")],
    },
    Law {
        what: "the wall clock is passed in",
        words: &["SystemTime", "Timestamp::now", "Zoned::now", "sys::thread::unix_ns"],
        scope: Scope::OnlyIn(&["cli/", "control/", "observe/writer.rs", "sys/", "worker/clock.rs"]),
        policy_with: None,
        exceptions: &[(
            "config/load.rs",
            "the day of today, against which the ends of exceptions are judged",
        )],
    },
    Law {
        what: "a data thread waits for no other thread",
        words: &["Mutex", "RwLock", "Condvar", "Barrier", "OnceLock", "LazyLock", "thread::sleep"],
        scope: Scope::NowhereIn(DATA_THREADS),
        policy_with: None,
        exceptions: &[("jose/fuzz.rs", "the keys of the fuzzer, made once; no request comes here")],
    },
    Law {
        what: "nothing is left for later",
        words: &["todo!", "unimplemented!", "dbg!", "println!"],
        scope: Scope::OnlyIn(&["cli/"]),
        policy_with: None,
        exceptions: &[],
    },
];

#[test]
fn every_module_names_only_what_it_may() {
    let root = root().join("src");
    let mut broken = Vec::new();
    let mut needed = BTreeSet::new();
    for file in sources(&root) {
        let place = file.strip_prefix(&root).expect("below src").display().to_string();
        // Whole files of tests are declared with `#[cfg(test)] mod NAME;`.
        if declared_for_tests(&file) {
            continue;
        }
        let text = fs::read_to_string(&file).expect("a source is text");
        let code = bare(&text);
        for law in LAWS {
            let within = |folders: &[&str]| {
                folders.iter().any(|folder| {
                    if folder.ends_with('/') { place.starts_with(folder) } else { place == *folder }
                })
            };
            let allowed = match law.scope {
                Scope::OnlyIn(folders) => within(folders),
                Scope::NowhereIn(folders) => !within(folders),
            };
            let compiles =
                law.policy_with.is_some_and(|text| place.starts_with("policy/") && code.contains(text));
            if allowed || compiles {
                continue;
            }
            for (number, line) in code.lines().enumerate() {
                let Some(word) = law.words.iter().find(|word| names(line, word)) else { continue };
                if law.exceptions.iter().any(|(exception, _)| *exception == place) {
                    needed.insert((law.what, place.clone()));
                } else {
                    broken.push(format!("src/{place}:{}: {word}: {}", number + 1, law.what));
                }
            }
        }
    }
    for law in LAWS {
        for (exception, why) in law.exceptions {
            if !needed.contains(&(law.what, (*exception).to_owned())) {
                broken.push(format!("src/{exception} needs no exception ({why}): {}", law.what));
            }
        }
    }
    assert!(broken.is_empty(), "\n{}", broken.join("\n"));
}

/// What is committed says nothing of the machine it was made on.
#[test]
fn committed_files_name_no_machine() {
    // In two parts each, so that this file does not name them.
    let words: Vec<String> = [
        ("/ro", "ot/"),
        ("/ho", "me/"),
        ("/wo", "rk/"),
        ("crates", ".io/"),
        ("static.crates", ".io"),
        ("pypi", ".org"),
        ("files.python", "hosted.org"),
        ("registry.npm", "js.org"),
        ("deb.deb", "ian.org"),
    ]
    .iter()
    .map(|(one, two)| format!("{one}{two}"))
    .collect();
    let mut found = Vec::new();
    for name in committed() {
        // cargo writes the lock files.
        if name.ends_with("Cargo.lock") || name.starts_with("fuzz/corpus/") {
            continue;
        }
        let Ok(text) = fs::read_to_string(root().join(&name)) else { continue };
        for (number, line) in text.lines().enumerate() {
            if let Some(word) = words.iter().find(|word| line.contains(word.as_str())) {
                found.push(format!("{name}:{}: {word}", number + 1));
            }
        }
    }
    assert!(found.is_empty(), "\n{}", found.join("\n"));
}

#[test]
fn every_module_opens_with_what_it_is_for() {
    let root = root();
    let mut silent = Vec::new();
    for folder in ["src", "loadtest/src", "tests/it"] {
        for file in sources(&root.join(folder)) {
            let text = fs::read_to_string(&file).expect("a source is text");
            if !text.starts_with("//!") {
                silent.push(file.strip_prefix(&root).expect("below the root").display().to_string());
            }
        }
    }
    assert!(silent.is_empty(), "no `//!` at the top of\n{}", silent.join("\n"));
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// The names of the files that git keeps; of a tree without git, of all sources.
fn committed() -> Vec<String> {
    let listed = Command::new("git").arg("-C").arg(root()).args(["ls-files", "-z"]).output();
    if let Ok(output) = listed
        && output.status.success()
    {
        return String::from_utf8_lossy(&output.stdout)
            .split('\0')
            .filter(|name| !name.is_empty())
            .map(str::to_owned)
            .collect();
    }
    ["src", "tests", "benches", "loadtest", "fuzz/fuzz_targets"]
        .iter()
        .flat_map(|folder| sources(&root().join(folder)))
        .map(|file| file.strip_prefix(root()).expect("below the root").display().to_string())
        .collect()
}

pub fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}

/// Whether the parent module says `#[cfg(test)] mod NAME;`.
pub fn declared_for_tests(file: &Path) -> bool {
    let name = file.file_stem().expect("a name").to_str().expect("an ASCII name");
    let folder = file.parent().expect("a folder");
    let mut parents = vec![folder.join("mod.rs"), folder.join("lib.rs")];
    parents.push(folder.with_extension("rs"));
    parents.iter().filter(|parent| parent.as_path() != file).any(|parent| {
        let Ok(text) = fs::read_to_string(parent) else { return false };
        let mut lines = text.lines().map(str::trim).peekable();
        while let Some(line) = lines.next() {
            let Some(next) = lines.peek() else { return false };
            if (line == "#[cfg(test)]" || line.starts_with("#[cfg(all(test"))
                && next.trim_start_matches("pub(crate) ").trim_start_matches("pub ") == format!("mod {name};")
            {
                return true;
            }
        }
        false
    })
}

/// The code of a file: without comments, without the contents of strings, without the test modules at its end. Lines
/// keep their numbers.
pub fn bare(text: &str) -> String {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let taken = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |at| at + 2)
        } else if let Some(hashes) = raw_string(rest) {
            let end = format!("\"{}", "#".repeat(hashes));
            let open = rest.find('"').expect("a raw string opens") + 1;
            rest[open..].find(&end).map_or(rest.len(), |at| open + at + end.len())
        } else if c == '"' {
            string(rest)
        } else if c == '\'' {
            character(rest)
        } else {
            // An identifier goes whole, so that the r of `for"` opens no raw string.
            let word = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            let taken = if word == 0 { c.len_utf8() } else { word };
            out.push_str(&rest[..taken]);
            rest = &rest[taken..];
            continue;
        };
        out.extend(rest[..taken].chars().filter(|c| *c == '\n'));
        out.push(' ');
        rest = &rest[taken..];
    }
    out
}

/// How many `#` a raw string here has.
fn raw_string(text: &str) -> Option<usize> {
    let text = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = text.bytes().take_while(|byte| *byte == b'#').count();
    text[hashes..].starts_with('"').then_some(hashes)
}

/// The length of the string literal that begins here.
fn string(text: &str) -> usize {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of the character literal that begins here, or 1 for the tick of a lifetime.
fn character(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    match characters.next() {
        Some((_, '\\')) => {
            let _escaped = characters.next();
            text[3.min(text.len())..].find('\'').map_or(1, |at| at + 4)
        }
        Some(_) => match characters.next() {
            Some((at, '\'')) => at + 1,
            _ => 1,
        },
        None => 1,
    }
}

/// Whether a line names a word as a whole.
pub fn names(line: &str, word: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let after = line[at + word.len()..].chars().next();
        !before.is_some_and(part) && (word.ends_with([':', '!']) || !after.is_some_and(part))
    })
}

#[test]
fn the_reader_of_sources_sees_code_only() {
    let text = concat!(
        "use tokio::net; // monoio\n",
        "let a = \"serde \\\" Mutex\"; let b = '\"'; let c: &'static str = r#\"unsafe \" \"#;\n",
        "/* RwLock\n */ let d = b'\\''; let e = '\\u{1F600}'; SystemTime\n",
        "#[cfg(test)]\nmod tests {\n tokio }\n",
    );
    let code = bare(text);
    assert!(code.contains("tokio::net") && code.contains("SystemTime"), "{code}");
    for hidden in ["monoio", "serde", "Mutex", "unsafe", "RwLock"] {
        assert!(!code.contains(hidden), "{hidden} in {code}");
    }
    assert_eq!(code.matches("tokio").count(), 1);
    assert_eq!(code.lines().position(|line| line.contains("SystemTime")), Some(3));
    assert!(names("use tokio::x", "tokio") && !names("use tokio_rustls", "tokio"));
    assert!(!names("print_unsafe()", "unsafe") && names("println!(x)", "println!"));
    assert!(!names("eprintln!(x)", "println!"));
}
