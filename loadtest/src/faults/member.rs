//! One origin's process: started, told what to do, killed without a warning, started again at the same address.
//!
//! Called by `faults`, on its main thread only (a child dies with the thread that started it).

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;

use crate::sys;

/// A member.
pub struct Member {
    /// Where it listens, when it does.
    pub address: SocketAddrV4,
    /// What it wrote of each request.
    pub ledger: PathBuf,
    number: usize,
    settings: String,
    process: Option<Process>,
    /// What processes that were killed had counted, as far as anybody had asked.
    gone: Stats,
}

struct Process {
    child: Child,
    commands: ChildStdin,
    said: BufReader<ChildStdout>,
}

/// What an origin counts.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct Stats {
    /// The most requests at once.
    pub in_flight_max: u64,
    /// Requests of which the head arrived.
    pub begun: u64,
    /// Requests that could not be read.
    pub unreadable: u64,
}

impl Member {
    /// Starts it.
    ///
    /// # Errors
    /// It cannot be started, or does not say that it is ready.
    pub fn start(
        address: SocketAddrV4,
        ledger: PathBuf,
        number: usize,
        settings: String,
    ) -> Result<Self, String> {
        let mut member = Self { address, ledger, number, settings, process: None, gone: Stats::default() };
        member.begin()?;
        Ok(member)
    }

    /// Starts it again, as it was first told to behave.
    ///
    /// # Errors
    /// It cannot be started, or does not say that it is ready.
    pub fn begin(&mut self) -> Result<(), String> {
        let wrong = |error: std::io::Error| format!("origin {}: {error}", self.number);
        let errors = File::options().create(true).append(true).open(self.ledger.with_extension("txt"));
        let mut command = Command::new(std::env::current_exe().map_err(wrong)?);
        command.args(["origin", "--listen", &self.address.to_string(), "--number", &self.number.to_string()]);
        command.args(["--set", &self.settings]).arg("--ledger").arg(&self.ledger);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(errors.map_err(wrong)?);
        let mut child = sys::spawn(&mut command, None).map_err(wrong)?;
        let (Some(commands), Some(said)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(format!("origin {}: no pipes", self.number));
        };
        self.process = Some(Process { child, commands, said: BufReader::new(said) });
        match self.hear()?.as_str() {
            "ready" => Ok(()),
            other => Err(format!("origin {}: said {other:?} at its start", self.number)),
        }
    }

    /// Tells it how to behave from now on.
    ///
    /// # Errors
    /// It does not accept that, or is not there.
    pub fn set(&mut self, settings: &str) -> Result<(), String> {
        match self.ask(&format!("set {settings}"))?.as_str() {
            "ok" => Ok(()),
            other => Err(format!("origin {}: {other}", self.number)),
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Ok(stats) = self.count() {
            self.gone = stats;
        }
        if let Some(mut process) = self.process.take() {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }

    /// Any signal.
    ///
    /// # Errors
    /// It is not there.
    pub fn signal(&self, signal: i32) -> Result<(), String> {
        let process = self.process.as_ref().ok_or_else(|| format!("origin {} does not run", self.number))?;
        sys::signal(process.child.id().cast_signed(), signal).map_err(|error| error.to_string())
    }

    /// What it and those before it counted; the calls just before a kill are in the ledger only.
    pub fn stats(&mut self) -> Stats {
        self.count().unwrap_or(self.gone)
    }

    fn count(&mut self) -> Result<Stats, String> {
        let said = self.ask("stats")?;
        let now: Stats = serde_json::from_str(&said).map_err(|error| format!("{said}: {error}"))?;
        Ok(Stats {
            in_flight_max: now.in_flight_max.max(self.gone.in_flight_max),
            begun: now.begun + self.gone.begun,
            unreadable: now.unreadable + self.gone.unreadable,
        })
    }

    fn ask(&mut self, command: &str) -> Result<String, String> {
        let process = self.process.as_mut().ok_or_else(|| format!("origin {} does not run", self.number))?;
        writeln!(process.commands, "{command}")
            .map_err(|error| format!("origin {}: {error}", self.number))?;
        self.hear()
    }

    fn hear(&mut self) -> Result<String, String> {
        let process = self.process.as_mut().ok_or_else(|| format!("origin {} does not run", self.number))?;
        let mut line = String::new();
        match process.said.read_line(&mut line) {
            Ok(n) if n > 0 => Ok(line.trim_end().to_owned()),
            _ => {
                let errors = std::fs::read_to_string(self.ledger.with_extension("txt")).unwrap_or_default();
                Err(format!("origin {}: it has ended: {}", self.number, errors.trim_end()))
            }
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.child.kill();
            let _ = process.child.wait();
        }
    }
}
