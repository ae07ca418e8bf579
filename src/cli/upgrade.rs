//! `ringwall upgrade`: has the running process hand over to a new one, and says how it went.
//!
//! Goes over the control socket. The running process starts the program that it was started as, or the one that is named, with its
//! own arguments, and gives it its listening sockets. Exit 0: the new process serves, the old one ends what it has begun. Exit
//! 1: the old one goes on, with every error, or nobody was reached.

use std::path::PathBuf;
use std::process::ExitCode;

use super::reload::{ask, complain};
use crate::control::socket::{Request, Verb};

/// The arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The program to start [default: the one that the running process was started as]
    #[arg(long, value_name = "PATH")]
    pub binary: Option<PathBuf>,
    /// The control socket of the process [default: /run/ringwall/control.sock, then the one below
    /// $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "PATH", env = "RINGWALL_CONTROL")]
    pub control: Option<PathBuf>,
    /// One line of JSON instead of words
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> ExitCode {
    // Its directory may be another.
    let binary = match arguments.binary.as_ref().map(std::path::absolute).transpose() {
        Ok(binary) => binary,
        Err(error) => {
            eprintln!("ringwall: --binary: {error}");
            return ExitCode::from(2);
        }
    };
    let response = ask(arguments.control.as_deref(), &Request { binary, ..Request::from(Verb::Upgrade) });
    if arguments.json {
        println!("{}", serde_json::to_string(&response).unwrap_or_default());
    } else if response.ok {
        let process = response.result["process"].as_u64().unwrap_or_default();
        let version = response.result["version"].as_str().unwrap_or_default();
        println!("upgraded: process {process} serves, version {version}; the old one ends what it has begun");
    } else {
        complain(&response);
        eprintln!("not upgraded: the old process goes on");
    }
    if response.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
