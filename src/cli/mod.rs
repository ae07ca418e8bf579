//! The command line: one file per verb.
//!
//! A verb is a module with `Arguments` (clap) and `run(&Arguments) -> ExitCode`. Exit codes: 0 done, 1 invalid or
//! failed, 2 the command itself was wrong (clap's own). Nothing here decides anything about requests.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

pub mod block;
pub mod check;
pub mod completions;
pub mod demo;
pub mod help;
pub mod keys;
pub mod reload;
pub mod run;
pub mod schema;
pub mod upgrade;

/// A secure API gateway and L7 edge proxy in one binary
#[derive(Parser, Debug)]
#[command(
    name = "ringwall",
    version,
    max_term_width = 100,
    disable_help_subcommand = true,
    args_conflicts_with_subcommands = true,
    after_help = "`ringwall help TOPIC` prints the manual, `ringwall help RW-nnnn` explains a code."
)]
struct CommandLine {
    /// Check the configuration; the same as `ringwall check`
    #[arg(short = 't')]
    test: bool,
    #[command(flatten)]
    check: check::Arguments,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Serve a demo on this machine: nothing else needed (also without any verb)
    Demo(demo::Arguments),
    /// Serve a configuration until told to end
    Run(run::Arguments),
    /// Report every error of a configuration at once
    Check(check::Arguments),
    /// Have the running process read its configuration again
    Reload(reload::Arguments),
    /// Have the running process hand over to a new one without losing a connection
    Upgrade(upgrade::Arguments),
    /// Block addresses, identities, keys and operations at once, and list what is blocked
    Block(block::Arguments),
    /// Make, rotate, revoke and list API keys
    Keys(keys::Arguments),
    /// Print the JSON Schema of the configuration, for editors
    Schema(schema::Arguments),
    /// Print a chapter of the manual, or explain a code
    Help(help::Arguments),
    /// Print the version
    Version,
    /// Print a completion script for a shell
    Completions(completions::Arguments),
}

/// Runs the command line of this process.
pub fn main() -> ExitCode {
    crate::sys::memory::small_pages();
    let command = CommandLine::parse();
    match &command.verb {
        Some(Verb::Demo(arguments)) => demo::run(arguments),
        Some(Verb::Run(arguments)) => run::run(arguments),
        Some(Verb::Check(arguments)) => check::run(arguments),
        Some(Verb::Reload(arguments)) => reload::run(arguments),
        Some(Verb::Upgrade(arguments)) => upgrade::run(arguments),
        Some(Verb::Block(arguments)) => block::run(arguments),
        Some(Verb::Keys(arguments)) => keys::run(arguments),
        Some(Verb::Schema(arguments)) => schema::run(arguments),
        Some(Verb::Help(arguments)) => help::run(arguments),
        Some(Verb::Version) => {
            say(&format!("{}\n", version()));
            ExitCode::SUCCESS
        }
        Some(Verb::Completions(arguments)) => completions::run(arguments, CommandLine::command()),
        None if command.test => check::run(&command.check),
        None => demo::run(&demo::Arguments::default()),
    }
}

/// Writes to standard output. A reader that has gone (`ringwall help | head`) is no error.
pub fn say(text: &str) {
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}

/// `ringwall 0.1.0`
pub fn version() -> String {
    format!("ringwall {}", env!("CARGO_PKG_VERSION"))
}

/// Where a configuration is looked for, after `-c` and `RINGWALL_CONFIG`.
pub const CONFIG_PATHS: [&str; 2] = ["ringwall.yaml", "/etc/ringwall/ringwall.yaml"];

/// The path of the configuration: the one given, that of `RINGWALL_CONFIG`, or the first of [`CONFIG_PATHS`] that is
/// there.
///
/// # Errors
/// A sentence for the operator if none was given and none is there.
pub fn config_path(given: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(path) = given {
        return Ok(path.to_owned());
    }
    if let Some(path) = std::env::var_os("RINGWALL_CONFIG").filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    let found = CONFIG_PATHS.iter().map(Path::new).find(|path| path.exists());
    found.map(Path::to_owned).ok_or_else(|| {
        format!(
            "there is no configuration: neither {} exists; name one with `-c`",
            CONFIG_PATHS.join(" nor ")
        )
    })
}

/// Whether errors are shown in colour: on a terminal, unless `NO_COLOR` is set (no-color.org).
pub fn colour() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn t_is_check() {
        let command = CommandLine::try_parse_from(["ringwall", "-t", "-c", "x.yaml"]).unwrap();
        assert!(command.test && command.verb.is_none());
        assert_eq!(command.check.config.as_deref(), Some(Path::new("x.yaml")));
        assert!(CommandLine::try_parse_from(["ringwall", "-t", "check"]).is_err());
    }

    #[test]
    fn a_given_path_is_taken_as_it_is() {
        assert_eq!(config_path(Some(Path::new("/nowhere.yaml"))).unwrap(), Path::new("/nowhere.yaml"));
    }
}
