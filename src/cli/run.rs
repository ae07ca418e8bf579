//! `ringwall run`: serves a configuration until it is told to end.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::control::supervisor::{Settings, Source, StartError, start};
use crate::worker::Wanted;

/// The arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The configuration [default: ./ringwall.yaml, then /etc/ringwall/ringwall.yaml]
    #[arg(short, long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The driver: auto, io_uring, io_uring-plain or epoll; overrides `node.driver`
    #[arg(long, value_name = "DRIVER", value_parser = driver)]
    pub driver: Option<Wanted>,
    /// Write the number of the process that serves to this file; after an upgrade that of the new one
    #[arg(long, value_name = "FILE")]
    pub pid_file: Option<PathBuf>,
    /// Refuse to start while an exception of the configuration has ended
    #[arg(long)]
    pub strict: bool,
}

/// Reads `--driver`.
///
/// # Errors
/// What would have been understood.
pub fn driver(text: &str) -> Result<Wanted, String> {
    Wanted::parse(text).ok_or_else(|| "expected auto, io_uring, io_uring-plain or epoll".to_owned())
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> ExitCode {
    let path = match super::config_path(arguments.config.as_deref()) {
        Ok(path) => path,
        Err(message) => {
            eprintln!("ringwall: {message}");
            return ExitCode::from(2);
        }
    };
    let settings = Settings {
        source: Source::File(path),
        driver: arguments.driver,
        strict: arguments.strict,
        quiet: false,
        silent_log: false,
        pid_file: arguments.pid_file.clone(),
        hands_over: true,
    };
    match start(settings) {
        Ok(running) => exit_code(running.supervise()),
        Err(error) => {
            tell(&error);
            ExitCode::FAILURE
        }
    }
}

/// 0 when everything that was begun was finished.
pub fn exit_code(clean: bool) -> ExitCode {
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Says why a node does not start.
pub fn tell(error: &StartError) {
    match error {
        StartError::Config(errors) => {
            eprint!("{}", errors.render(super::colour()));
        }
        StartError::System(message) => eprintln!("ringwall: {message}"),
    }
}
