//! The gateway under test: checked, started, reloaded, upgraded, ended.
//!
//! Called by `faults`, on its main thread only. Whatever became of it, dropping this ends its process group.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::contender::replaced;
use crate::sys;

/// How long it may take to start.
const START_MAX: Duration = Duration::from_secs(30);
/// How long it may take to end.
const END_MAX: Duration = Duration::from_secs(40);

/// What a gateway's configuration is made of.
#[derive(Clone, Debug)]
pub struct Template {
    /// Its program.
    pub program: PathBuf,
    /// `--driver`.
    pub driver: String,
    /// A folder of its own.
    pub directory: PathBuf,
    /// Where it listens.
    pub listen: SocketAddrV4,
    /// Where it tells its metrics.
    pub metrics: SocketAddrV4,
    /// Data threads.
    pub cores: usize,
    /// What the scenario says, with names in double braces.
    pub text: String,
    /// How many operations `{{ROUTES}}` has.
    pub routes: usize,
    /// Values of the other names.
    pub values: BTreeMap<&'static str, String>,
}

/// A running gateway.
pub struct Gateway {
    template: Template,
    child: Child,
    version: u64,
}

impl Template {
    /// Asks the program whether it takes this configuration.
    ///
    /// # Errors
    /// What it says against it.
    pub fn check(&self) -> Result<(), String> {
        let file = self.write(1)?;
        let output =
            Command::new(&self.program).arg("check").arg("-c").arg(file).stdin(Stdio::null()).output();
        let output = output.map_err(|error| format!("{}: {error}", self.program.display()))?;
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).trim_end().to_owned())
    }

    /// Starts it and waits until it accepts.
    ///
    /// # Errors
    /// It cannot be started, ends at once, or does not listen in time.
    pub fn start(self) -> Result<Gateway, String> {
        let wrong = |error: std::io::Error| format!("gateway: {error}");
        let file = self.write(1)?;
        let output = File::create(self.directory.join("gateway.txt")).map_err(wrong)?;
        let mut command = Command::new(&self.program);
        command.arg("run").arg("-c").arg(file).args(["--driver", &self.driver]).stdin(Stdio::null());
        command.stdout(output.try_clone().map_err(wrong)?).stderr(output);
        let child = sys::spawn(&mut command, None).map_err(wrong)?;
        let mut gateway = Gateway { template: self, child, version: 1 };
        for address in [gateway.template.listen, gateway.template.metrics] {
            let begin = Instant::now();
            while TcpStream::connect_timeout(&SocketAddr::V4(address), Duration::from_millis(200)).is_err() {
                if gateway.child.try_wait().is_ok_and(|status| status.is_some())
                    || begin.elapsed() > START_MAX
                {
                    return Err(format!(
                        "the gateway does not listen on {address}. {}",
                        gateway.last_words()
                    ));
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        Ok(gateway)
    }

    fn write(&self, version: u64) -> Result<PathBuf, String> {
        let directory = self.directory.display();
        let mut values = self.values.clone();
        values.insert("VERSION", version.to_string());
        values.insert("ROUTES", routes(self.routes, version));
        let text =
            replaced(&self.text, &values).map_err(|name| format!("nothing is called {{{{{name}}}}}"))?;
        let text = format!(
            "ringwall: 1\nlisten: {{ address: \"{}\", tls: none }}\nlog: {{ file: \"{directory}/access.jsonl\" }}\n\
             node: {{ cores: {}, metrics: \"{}\", control: \"{directory}/control.sock\" }}\n{text}",
            self.listen, self.cores, self.metrics
        );
        // A file that is replaced whole is never read half.
        let (next, file) = (self.directory.join("next.yaml"), self.directory.join("ringwall.yaml"));
        fs::write(&next, text).and_then(|()| fs::rename(&next, &file)).map_err(|error| error.to_string())?;
        Ok(file)
    }
}

/// Operations `r` (which is called) and others, which no two versions share.
fn routes(count: usize, version: u64) -> String {
    let mut routes = "getNumber: \"GET /{id}\", postNumber: \"POST /{id}\"".to_owned();
    for route in 0..count {
        routes += &format!(", other{route}v{version}: \"GET /version{version}/{route}/{{id}}\"");
    }
    routes
}

impl Gateway {
    /// Puts another configuration in the place of the one that runs, and asks for it.
    ///
    /// # Errors
    /// What the gateway says against it.
    pub fn reload(&mut self) -> Result<(), String> {
        self.version += 1;
        self.template.write(self.version)?;
        self.ask(&["reload", "--wait"])
    }

    /// Asks for a new process.
    ///
    /// # Errors
    /// What the gateway says against it.
    pub fn upgrade(&mut self) -> Result<(), String> {
        self.ask(&["upgrade"])
    }

    fn ask(&self, verb: &[&str]) -> Result<(), String> {
        let control = self.template.directory.join("control.sock");
        let output = Command::new(&self.template.program)
            .args(verb)
            .arg("--control")
            .arg(control)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).trim_end().to_owned())
    }

    /// SIGTERM.
    ///
    /// # Errors
    /// It is gone already.
    pub fn term(&self) -> Result<(), String> {
        sys::signal(self.child.id().cast_signed(), libc::SIGTERM).map_err(|error| error.to_string())
    }

    /// Waits for its end: how long that took, and its status.
    pub fn end(&mut self) -> (f64, f64) {
        let begin = Instant::now();
        while begin.elapsed() < END_MAX {
            if let Ok(Some(status)) = self.child.try_wait() {
                return (begin.elapsed().as_secs_f64(), status.code().map_or(f64::NAN, f64::from));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        (f64::INFINITY, f64::NAN)
    }

    /// Whether its first process runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// The end of what it printed.
    pub fn last_words(&self) -> String {
        let text = fs::read(self.template.directory.join("gateway.txt")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(2_000)..]).into_owned();
        format!("The gateway printed:\n{}", text.trim_end())
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let group = -self.child.id().cast_signed();
        // Also a process that took over from the first.
        let _ = sys::signal(group, libc::SIGTERM);
        let begin = Instant::now();
        while sys::signal(group, 0).is_ok() && begin.elapsed() < Duration::from_secs(2) {
            let _ = self.child.try_wait();
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = sys::signal(group, libc::SIGKILL);
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_of_two_versions_have_two_in_common() {
        let operations = |version| routes(3, version).split(", ").map(str::to_owned).collect::<Vec<_>>();
        let (one, two) = (operations(1), operations(2));
        assert_eq!(one.len(), 5);
        assert_eq!(one.iter().filter(|operation| two.contains(operation)).count(), 2);
    }
}
