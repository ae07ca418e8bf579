//! `ringwall reload`: asks the running process to read its configuration again, and says how it went.
//!
//! Goes over the control socket. Exit 0: the new configuration runs. Exit 1: the old one still runs, with every
//! error, or nobody was reached.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::control::process_log::Code;
use crate::control::socket::{Complaint, Request, Response, Verb, call, default_paths};

/// Nobody was reached over the control socket.
pub const NOT_REACHED: Code = Code::new(6026, "no running process was reached");

/// The arguments.
#[derive(Clone, Debug, clap::Args)]
pub struct Arguments {
    /// The control socket of the process [default: /run/ringwall/control.sock, then the one below
    /// $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "PATH", env = "RINGWALL_CONTROL")]
    pub control: Option<PathBuf>,
    /// Fail unless every core runs the new configuration within a second
    #[arg(long)]
    pub wait: bool,
    /// Go back to the configuration that ran before; the file stays as it is
    #[arg(long)]
    pub rollback: bool,
    /// One line of JSON instead of words
    #[arg(long)]
    pub json: bool,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> ExitCode {
    let verb = if arguments.rollback { Verb::Rollback } else { Verb::Reload };
    let response = ask(arguments.control.as_deref(), &verb.into());
    let late = response.ok && response.result["everywhere"] == false;
    if arguments.json {
        println!("{}", serde_json::to_string(&response).unwrap_or_default());
    } else if response.ok {
        println!("{}", done(&response));
    } else {
        complain(&response);
        eprintln!("not reloaded: the old configuration still runs");
    }
    match response.ok && !(arguments.wait && late) {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    }
}

/// What was done, in words.
fn done(response: &Response) -> String {
    let number = |name: &str| response.result.get(name).and_then(serde_json::Value::as_u64);
    let Some(generation) = number("generation") else { return "reloaded".to_owned() };
    let mut words = format!("reloaded: generation {generation} runs");
    match (number("cores"), number("spread_us")) {
        (Some(cores), Some(us)) => {
            words.push_str(&format!(" on all {cores} cores, {:.1} ms after it was ready", us as f64 / 1e3));
        }
        (Some(_), None) => words.push_str("; a core is late to take it, see the process log"),
        _ => {}
    }
    words
}

/// Says why something was not done.
pub fn complain(response: &Response) {
    for error in &response.errors {
        eprintln!("{}", words(error));
    }
}

/// Asks the process that listens on `control`, or where one listens by default.
pub fn ask(control: Option<&Path>, request: &Request) -> Response {
    let paths = match control {
        Some(path) => vec![path.to_owned()],
        None => default_paths(),
    };
    let mut tried = Vec::new();
    for path in paths {
        match call(&path, request.clone()) {
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
    fn what_was_done_is_told_with_what_is_known_of_it() {
        let told = |result: serde_json::Value| done(&Response::done(result));
        assert_eq!(told(serde_json::Value::Null), "reloaded");
        let spread =
            serde_json::json!({ "generation": 3, "cores": 2, "everywhere": true, "spread_us": 1250 });
        assert_eq!(told(spread), "reloaded: generation 3 runs on all 2 cores, 1.2 ms after it was ready");
        let late = serde_json::json!({ "generation": 3, "cores": 2, "everywhere": false, "spread_us": null });
        assert!(told(late).ends_with("a core is late to take it, see the process log"));
    }

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
