//! The load-test harness.
#![deny(unsafe_code)]

mod backend;
mod crude;
mod pump;
#[expect(unsafe_code, reason = "the system calls that std does not offer")]
mod sys;

use clap::{Parser, Subcommand};

#[derive(Parser)]
struct Cli {
    #[command(subcommand)]
    command: Verb,
}
#[derive(Subcommand)]
enum Verb {
    Pump(pump::Options),
    Backend(backend::Options),
    Crude(crude::Options),
}

fn main() {
    let result = match Cli::parse().command {
        Verb::Pump(options) => pump::run(&options),
        Verb::Backend(options) => backend::run(&options),
        Verb::Crude(options) => crude::run(&options),
    };
    if let Err(e) = result {
        eprintln!("{e}");
        std::process::exit(1)
    }
}
