//! `ringwall completions SHELL`: a completion script, made from the command line's own description.

use std::process::ExitCode;

use clap::{Args, Command};
use clap_complete::Shell;

/// The arguments of `completions`.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// The shell
    shell: Shell,
}

/// Prints the script.
pub fn run(arguments: &Arguments, mut command: Command) -> ExitCode {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut command, "ringwall", &mut script);
    super::say(&String::from_utf8_lossy(&script));
    ExitCode::SUCCESS
}
