//! The load-test harness: Ringwall beside its peers on one pinned core each, and load on any URL.
//!
//! For: figures that anybody can repeat. `compare`, `attack` and `faults` start everything themselves; `run` drives a server that is already
//! there; `pump` and `backend` are what `compare` starts. Not for: production use of any of them.

mod attack;
mod backend;
mod client;
mod compare;
mod contender;
mod faults;
mod idle;
mod material;
mod process;
mod pump;
mod report;
mod run;
mod scenario;
mod stats;
mod suite;
#[expect(unsafe_code, reason = "the system calls that std does not offer; nowhere else")]
mod sys;
mod websocket;
mod yaml;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use clap::{Parser, Subcommand};

/// Load tests for HTTP proxies. Everything stays on this machine, except what `run` is pointed at.
///
/// Install the peers first: loadtest/setup. Then:
///   cargo build --release && cargo run --release -p ringwall-loadtest -- compare
#[derive(Parser)]
#[command(version, verbatim_doc_comment)]
struct CommandLine {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Measure Ringwall, a byte pump, nginx, HAProxy, Envoy and Caddy: CPU time per request, latency, memory.
    Compare(compare::Options),
    /// Put load on any URL, as fast as it answers or at a constant rate.
    Run(run::Options),
    /// Attack Ringwall, and its peers, and see what is left for good clients.
    Attack(attack::Options),
    /// Break upstreams and change the gateway under load: calls lost, failed, doubled, and goodput.
    Faults(faults::Options),
    /// The byte pump alone.
    Pump(pump::Options),
    /// The backend alone.
    Backend(backend::Options),
    /// An origin that fails on command, alone.
    #[command(hide = true)]
    Origin(faults::origin::Options),
}

fn main() -> ExitCode {
    let verb = CommandLine::parse().verb;
    let done = match &verb {
        Verb::Pump(options) => pump::run(options).map_err(|error| error.to_string()),
        Verb::Backend(options) => backend::run(options).map_err(|error| error.to_string()),
        Verb::Origin(options) => faults::origin::run(options).map_err(|error| error.to_string()),
        Verb::Compare(_) | Verb::Run(_) | Verb::Attack(_) | Verb::Faults(_) => {
            stop_flag().and_then(|stop| match &verb {
                Verb::Compare(options) => compare::run(options, &stop),
                Verb::Attack(options) => attack::run(options, &stop),
                Verb::Faults(options) => faults::run(options, &stop),
                Verb::Run(options) => run::run(options, &stop),
                _ => Ok(()),
            })
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringwall-loadtest: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Set by the first INT or TERM, so that every child is ended in order; the second one ends this process at once (its
/// children then get SIGTERM from the kernel).
fn stop_flag() -> Result<Arc<AtomicBool>, String> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, 130, Arc::clone(&stop))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&stop)))
            .map_err(|error| error.to_string())?;
    }
    Ok(stop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_one() {
        CommandLine::command().debug_assert();
    }
}
