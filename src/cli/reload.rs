//! `ringwall reload`: asks the running process to read its configuration again, and says how it went.
//!
//! Goes over the control socket. Exit 0: the new configuration runs. Exit 1: the old one still runs, with every
//! error, or nobody was reached.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::control::process_log::Code;
use crate::control::socket::{Complaint, Response, Verb, call, default_paths};

/// Nobody was reached over the control socket.
pub const NOT_REACHED: Code = Code::new(6026, "no running process was reached");

/// The arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
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
    let response = ask(arguments, Verb::Reload);
    if arguments.json {
        println!("{}", serde_json::to_string(&response).unwrap_or_default());
    } else if response.ok {
        match response.result.get("generation").and_then(serde_json::Value::as_u64) {
            Some(generation) => println!("reloaded: generation {generation} runs"),
            None => println!("reloaded"),
        }
    } else {
        for error in &response.errors {
            eprintln!("{}", words(error));
        }
        eprintln!("not reloaded: the old configuration still runs");
    }
    if response.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn ask(arguments: &Arguments, verb: Verb) -> Response {
    let paths = match &arguments.control {
        Some(path) => vec![path.clone()],
        None => default_paths(),
    };
    let mut tried = Vec::new();
    for path in paths {
        match call(&path, verb) {
            Ok(response) => return response,
            Err(error) => tried.push(format!("{}: {error}", path.display())),
        }
    }
    let message = format!("{} ({})", NOT_REACHED.message, tried.join("; "));
    Response::failed(vec![Complaint { code: NOT_REACHED.to_string(), message, ..Complaint::default() }])
}

fn words(error: &Complaint) -> String {
    if let Some(rendered) = &error.rendered {
        return rendered.clone();
    }
    let mut place = String::new();
    if let Some(file) = &error.file {
        place.push_str(file);
        for number in [error.line, error.column].into_iter().flatten() {
            place.push_str(&format!(":{number}"));
        }
        place.push_str(": ");
    }
    format!("{place}{}: {}", error.code, error.message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_place() {
        let mut error =
            Complaint { code: "RW-1001".to_owned(), message: "no".to_owned(), ..Complaint::default() };
        assert_eq!(words(&error), "RW-1001: no");
        error.file = Some("a.yaml".to_owned());
        error.line = Some(3);
        error.column = Some(7);
        assert_eq!(words(&error), "a.yaml:3:7: RW-1001: no");
        error.rendered = Some("shown".to_owned());
        assert_eq!(words(&error), "shown");
    }
}
