//! What the subcommands that run scenarios have in common: which scenarios, from where, with which Ringwall, to where.
//!
//! Called by `compare`, `attack` and `faults`. Not for: what a scenario means.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use serde::de::DeserializeOwned;

use crate::yaml;

/// Options of every subcommand whose scenarios hold laws.
#[derive(Args, Clone, Debug)]
pub struct Choice {
    /// Only these scenarios [default: all].
    #[arg(value_name = "SCENARIO")]
    pub scenarios: Vec<String>,
    /// Ringwall's binary [default: beside this program].
    #[arg(long, value_name = "PATH")]
    pub ringwall: Option<PathBuf>,
    /// Ringwall's `--driver`.
    #[arg(long, default_value = "auto")]
    pub driver: String,
    /// One round of short stretches: for every change, not for figures.
    #[arg(long)]
    pub short: bool,
    /// What is about speed must hold too.
    #[arg(long)]
    pub strict: bool,
    /// Only print what there is.
    #[arg(long)]
    pub list: bool,
    /// Folder of the scenarios [default: that of the sources].
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Folder for reports and raw figures [default: target/loadtest].
    #[arg(long, value_name = "DIR")]
    pub out: Option<PathBuf>,
}

impl Choice {
    /// The folder of the scenarios: the one that was named, or that one below `scenarios` of the sources.
    pub fn folder(&self, name: &str) -> PathBuf {
        let of_the_sources = || Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios").join(name);
        self.folder.clone().unwrap_or_else(of_the_sources)
    }

    /// Those of `all` that were asked for; `None` where they were only to be listed. `told` gives name and title of one.
    ///
    /// # Errors
    /// A name that none has.
    pub fn chosen<S>(
        &self,
        mut all: Vec<S>,
        told: impl Fn(&S) -> (&str, &str),
    ) -> Result<Option<Vec<S>>, String> {
        let names: Vec<&str> = all.iter().map(|scenario| told(scenario).0).collect();
        if let Some(unknown) = self.scenarios.iter().find(|name| !names.contains(&name.as_str())) {
            return Err(format!("{unknown}: no such scenario; there are {}", names.join(", ")));
        }
        if self.list {
            for (name, title) in all.iter().map(&told) {
                println!("{name:24} {title}");
            }
            return Ok(None);
        }
        all.retain(|scenario| {
            self.scenarios.is_empty() || self.scenarios.iter().any(|name| name == told(scenario).0)
        });
        Ok(Some(all))
    }
}

/// Reads all scenarios of a folder, in the order of their files. `named` gives one the name of its file, without number
/// and ending, and may refuse it.
///
/// # Errors
/// A file cannot be read or is no scenario: which, and why.
pub fn read_all<S: DeserializeOwned>(
    folder: &Path,
    named: impl Fn(&mut S, String) -> Result<(), String>,
) -> Result<Vec<S>, String> {
    let entries = fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    paths.sort();
    let read = |path: &Path| -> Result<S, String> {
        let text = fs::read_to_string(path).map_err(|error| error.to_string())?;
        let mut scenario = serde_json::from_value(yaml::value(&text)?).map_err(|error| error.to_string())?;
        let stem = path.file_stem().unwrap_or_default().to_string_lossy();
        named(&mut scenario, stem.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-').to_owned())?;
        Ok(scenario)
    };
    paths.iter().map(|path| read(path).map_err(|error| format!("{}: {error}", path.display()))).collect()
}

/// Where things are.
pub struct Paths {
    /// Ringwall's binary.
    pub ringwall: PathBuf,
    /// Cargo's folder of targets, in which this program is.
    pub target: PathBuf,
    /// For reports.
    pub out: PathBuf,
}

impl Paths {
    /// Those that were named, or those beside this program.
    ///
    /// # Errors
    /// This program or the named binary is not where it should be.
    pub fn find(ringwall: Option<&Path>, out: Option<&Path>) -> Result<Self, String> {
        let executable = std::env::current_exe().map_err(|error| error.to_string())?;
        let directory = executable.parent().unwrap_or(Path::new("."));
        let target = directory.parent().unwrap_or(directory).to_owned();
        // Contenders are started in folders of their own: a path must not depend on where this one was.
        let ringwall = match ringwall {
            Some(path) => {
                fs::canonicalize(path).map_err(|error| format!("--ringwall {}: {error}", path.display()))?
            }
            None => directory.join("ringwall"),
        };
        let out = out.map_or_else(|| target.join("loadtest"), Path::to_owned);
        Ok(Self { ringwall, target, out })
    }
}

/// A folder below that of reports, for what is needed meanwhile; it is made.
///
/// # Errors
/// It cannot be made.
pub fn work(out: &Path) -> Result<PathBuf, String> {
    let work = out.join("work");
    fs::create_dir_all(&work).map_err(|error| format!("{}: {error}", work.display()))?;
    fs::canonicalize(&work).map_err(|error| error.to_string())
}
