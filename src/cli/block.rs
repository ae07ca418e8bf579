//! `ringwall block add|remove|list`: refuses an address, an identity, a key or an operation on all cores of the running process, at
//! once.
//!
//! Goes over the control socket. Exit 0: it is in force (or told). Exit 1: it is not, with the reason, or nobody was reached.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use jiff::Timestamp;

use super::reload::{ask, complain};
use crate::control::block::{Command, Kind, Record, Which, Written};
use crate::control::socket::{Request, Response, Verb};

/// The arguments.
#[derive(Clone, Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: BlockVerb,
    /// The control socket of the process [default: /run/ringwall/control.sock, then the one below
    /// $XDG_RUNTIME_DIR]
    #[arg(long, value_name = "PATH", env = "RINGWALL_CONTROL", global = true)]
    control: Option<PathBuf>,
    /// One line of JSON instead of words
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Clone, Debug, Subcommand)]
enum BlockVerb {
    /// Refuse something from now on; established connections of an address are ended
    Add(Add),
    /// Let something be again
    Remove(Remove),
    /// Show what is blocked
    List,
}

#[derive(Clone, Debug, Args)]
struct Add {
    #[command(flatten)]
    what: What,
    /// For how long: `90s`, `10min`, `12h`, `7day` [default: until it is removed]
    #[arg(long = "for", value_name = "TIME", conflicts_with = "until")]
    period: Option<String>,
    /// Until when: `2027-01-31T12:00:00Z`
    #[arg(long, value_name = "WHEN")]
    until: Option<Timestamp>,
    /// Why, for whoever finds it in a log
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
}

#[derive(Clone, Debug, Args)]
struct Remove {
    /// The number of the block, as `list` shows it
    #[arg(value_name = "NUMBER", conflicts_with_all = ["address", "identity", "key", "operation"],
          required_unless_present_any = ["address", "identity", "key", "operation"])]
    id: Option<u64>,
    #[command(flatten)]
    what: Maybe,
}

/// Exactly one of them.
#[derive(Clone, Debug, Args)]
#[group(required = true, multiple = false)]
struct What {
    /// An address, or a network such as `203.0.113.0/24`
    #[arg(long, value_name = "ADDRESS", visible_alias = "prefix")]
    address: Option<String>,
    /// An identity: the login, a slash, the subject
    #[arg(long, value_name = "LOGIN/SUBJECT")]
    identity: Option<String>,
    /// The id of an API key, or the `kid` of the key that signed a token
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// An operation, or a whole API
    #[arg(long, value_name = "API[/OPERATION]")]
    operation: Option<String>,
}

/// At most one of them.
#[derive(Clone, Debug, Args)]
#[group(multiple = false)]
struct Maybe {
    /// The address or network that was blocked
    #[arg(long, value_name = "ADDRESS", visible_alias = "prefix")]
    address: Option<String>,
    /// The identity that was blocked
    #[arg(long, value_name = "LOGIN/SUBJECT")]
    identity: Option<String>,
    /// The key that was blocked
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// The operation or API that was blocked
    #[arg(long, value_name = "API[/OPERATION]")]
    operation: Option<String>,
}

impl What {
    fn written(&self) -> Option<Written> {
        written([&self.address, &self.identity, &self.key, &self.operation])
    }
}

impl Maybe {
    fn written(&self) -> Option<Written> {
        written([&self.address, &self.identity, &self.key, &self.operation])
    }
}

fn written(names: [&Option<String>; 4]) -> Option<Written> {
    let kinds = [Kind::Address, Kind::Identity, Kind::Key, Kind::Operation];
    kinds.into_iter().zip(names).find_map(|(kind, name)| Some(Written { kind, name: name.clone()? }))
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> ExitCode {
    let command = match command(&arguments.verb, Timestamp::now()) {
        Ok(command) => command,
        Err(why) => {
            eprintln!("ringwall block: {why}");
            return ExitCode::from(2);
        }
    };
    let request = Request { block: Some(command.clone()), ..Request::from(Verb::Block) };
    let response = ask(arguments.control.as_deref(), &request);
    if arguments.json {
        println!("{}", serde_json::to_string(&response).unwrap_or_default());
    } else if response.ok {
        super::say(&told(&command, &response));
    } else {
        complain(&response);
        eprintln!("nothing was changed");
    }
    if response.ok && response.result["kept"] == false {
        eprintln!("it ends with the process: it could not be written down, see the process log (RW-6095)");
    }
    if response.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn command(verb: &BlockVerb, now: Timestamp) -> Result<Command, String> {
    match verb {
        BlockVerb::List => Ok(Command::List),
        BlockVerb::Add(add) => {
            let what = add.what.written().ok_or("say what is to be blocked")?;
            what.read()?;
            let now_s = u64::try_from(now.as_second()).unwrap_or(0);
            let until_s = match (&add.period, &add.until) {
                (Some(period), _) => Some(
                    now_s
                        + seconds(period).ok_or_else(|| {
                            format!("`{period}` is not a time such as `90s`, `10min`, `12h` or `7day`")
                        })?,
                ),
                (None, Some(until)) => Some(u64::try_from(until.as_second()).unwrap_or(0)),
                (None, None) => None,
            };
            Ok(Command::Add { what, until_s, reason: add.reason.clone() })
        }
        BlockVerb::Remove(remove) => match (remove.id, remove.what.written()) {
            (Some(id), _) => Ok(Command::Remove(Which::Id(id))),
            (None, Some(what)) => Ok(Command::Remove(Which::What(what))),
            (None, None) => Err("say which block is to be removed".to_owned()),
        },
    }
}

/// `90s`, `10min` (or `10m`), `12h`, `7day` (or `7d`): seconds, more than none.
fn seconds(period: &str) -> Option<u64> {
    let digits = period.len() - period.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = period.split_at(digits);
    let unit_s: u64 = match unit {
        "s" => 1,
        "min" | "m" => 60,
        "h" => 3_600,
        "day" | "d" => 86_400,
        _ => return None,
    };
    // Ten thousand years are for ever.
    number.parse::<u64>().ok()?.checked_mul(unit_s).filter(|seconds| (1..=315_360_000_000).contains(seconds))
}

fn told(command: &Command, response: &Response) -> String {
    let record = |value: &serde_json::Value| serde_json::from_value::<Record>(value.clone()).ok();
    match command {
        Command::Add { .. } => match record(&response.result["block"]) {
            Some(record) => format!("blocked: {}\n", line(&record)),
            None => "blocked\n".to_owned(),
        },
        Command::Remove(_) => match record(&response.result["block"]) {
            Some(record) => format!("no longer blocked: {}\n", record.what()),
            None => "no longer blocked\n".to_owned(),
        },
        Command::List => {
            let none = Vec::new();
            let all = response.result["blocks"].as_array().unwrap_or(&none);
            let lines: Vec<String> =
                all.iter().filter_map(record).map(|record| line(&record) + "\n").collect();
            if lines.is_empty() { "nothing is blocked\n".to_owned() } else { lines.concat() }
        }
    }
}

/// `3 address 203.0.113.0/24 until 2027-01-31T12:00:00Z, by user 0 since …: why`
fn line(record: &Record) -> String {
    let moment = |seconds: u64| {
        let moment = i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
        moment.map_or_else(|| "?".to_owned(), |moment| moment.to_string())
    };
    let mut text = format!("{} {}", record.id, record.what());
    if let Some(until) = record.until {
        text.push_str(&format!(" until {}", moment(until)));
    }
    text.push_str(&format!(", by user {} since {}", record.by, moment(record.since)));
    if !record.reason.is_empty() {
        text.push_str(&format!(": {}", record.reason));
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        arguments: Arguments,
    }

    fn parsed(line: &str) -> Result<Command, String> {
        let line = Line::try_parse_from(["block"].into_iter().chain(line.split(' ')));
        let line = line.map_err(|error| error.to_string())?;
        command(&line.arguments.verb, Timestamp::from_second(1_000).expect("a moment"))
    }

    #[test]
    fn lines_become_commands() {
        let what = |kind, name: &str| Written { kind, name: name.to_owned() };
        let add = |what, until_s| Command::Add { what, until_s, reason: String::new() };
        for (line, expected) in [
            ("list", Command::List),
            ("add --address 192.0.2.1", add(what(Kind::Address, "192.0.2.1"), None)),
            ("add --prefix 192.0.2.0/24 --for 10m", add(what(Kind::Address, "192.0.2.0/24"), Some(1_600))),
            ("add --identity people/a --for 2h", add(what(Kind::Identity, "people/a"), Some(8_200))),
            ("add --key k1 --until 1970-01-01T01:00:00Z", add(what(Kind::Key, "k1"), Some(3_600))),
            ("add --operation orders/create", add(what(Kind::Operation, "orders/create"), None)),
            ("remove 7", Command::Remove(Which::Id(7))),
            ("remove --key k1", Command::Remove(Which::What(what(Kind::Key, "k1")))),
        ] {
            assert_eq!(parsed(line), Ok(expected), "{line}");
        }
        for line in [
            "add",
            "add --for 10m",
            "add --address 192.0.2.1 --key k",
            "add --address 10.0.0.1/8",
            "add --address 192.0.2.1 --for 10",
            "add --address 192.0.2.1 --for 0s",
            "add --address 192.0.2.1 --for 10m --until 2027-01-01T00:00:00Z",
            "add --identity alice",
            "remove",
            "remove 7 --key k1",
            "remove --key k1 --address 192.0.2.1",
            "purge",
        ] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }
}
