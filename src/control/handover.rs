//! One process takes over from another without a connection lost: the listening sockets go over a Unix socket.
//!
//! The old process ([`Program::start`], [`Successor`]) starts the new one with one end of a connection as its standard input,
//! sends it what it listens on, and goes on serving. The new one ([`Inheritance`]) reads its configuration, starts its cores,
//! and says that it is ready, or what is wrong; nobody is accepted by it before it is told to go on. The sockets are the same for
//! both, so whoever waits in their queues is accepted by the one or the other; they are never shut down.
//!
//! ```text
//! old → new   Hello, then Parcels of descriptors
//! new → old   Ready, or Failed
//! old → new   Go, or Stop; the end of the connection means that the old one is gone, and the new one goes on
//! ```
//!
//! Counters of limits, verified tokens and kept connections are not handed over: they begin anew. Called by the supervisor;
//! blocks, so the old side runs on a thread of its own.

use std::ffi::OsString;
use std::io;
use std::net::TcpListener;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::listeners::Lent;
use super::process_log::{Code, Line};
use super::socket::Complaint;
use crate::sys::address::Address;
use crate::sys::descriptors::{DESCRIPTORS_MAX, pair, receive, send, take_standard_input};
use crate::sys::socket::adopt_listener;

/// Another process begins to take over.
pub const UPGRADE_BEGUN: Code = Code::new(6072, "another process is started to take over");
/// Another process has taken over.
pub const HANDED_OVER: Code =
    Code::new(6073, "another process has taken over, this one ends what it has begun");
/// No other process has taken over.
pub const UPGRADE_FAILED: Code = Code::new(6074, "no other process has taken over, this one goes on");
/// This process has taken over from another one.
pub const TAKEN_OVER: Code = Code::new(6075, "this process takes over");

/// How long the new process may take until it is ready.
pub const READY_TIME_MAX: Duration = Duration::from_secs(60);
/// How long the new process waits to be told to go on.
const GO_TIME_MAX: Duration = Duration::from_secs(60);
/// Tells the new process that its standard input is the connection to the old one.
const VARIABLE: &str = "RINGWALL_HANDOVER";
/// What we say over the connection. Another number is another protocol, and refused.
const PROTOCOL: u32 = 1;
/// The most bytes of a message.
const MESSAGE_BYTES_MAX: usize = 64 << 10;
/// The most sockets that are taken.
const SOCKETS_MAX: usize = 4096;
/// Of a new process that fails, so much is told of why.
const COMPLAINTS_MAX: usize = 50;
const COMPLAINT_BYTES_MAX: usize = 512;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Message {
    Hello { protocol: u32, version: String, process: u32, generation: u64, sockets: usize },
    Parcel { items: Vec<Item> },
    Ready { protocol: u32, version: String, process: u32, takes: Takes },
    Failed { errors: Vec<Complaint> },
    Go,
    Stop,
}

/// Which sockets of the old process the new one serves: their files are then its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Takes {
    /// The control socket.
    pub control: bool,
    /// That of metrics and health.
    pub metrics: bool,
}

/// What a descriptor is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// A listening socket for requests.
    Listener {
        /// The address as the configuration has it.
        wanted: String,
        /// The service manager listens on it as well.
        by_manager: bool,
    },
    /// The listening socket of metrics and health, and its address as the configuration has it.
    Metrics(String),
    /// The control socket.
    Control(PathBuf),
}

/// What the old process hands over.
#[derive(Debug, Default)]
pub struct Estate {
    /// The generation that runs.
    pub generation: u64,
    /// Sockets, and what they are.
    pub sockets: Vec<(Item, OwnedFd)>,
}

/// A program with its arguments.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    arguments: Vec<OsString>,
}

/// A process that is ready to take over, and waits.
#[derive(Debug)]
pub struct Successor {
    link: UnixStream,
    child: Child,
    /// What it says of its version.
    pub version: String,
    /// What it serves of what it was given.
    pub takes: Takes,
}

/// Why there is no successor.
#[derive(Debug)]
pub struct Failure {
    /// One sentence.
    pub why: String,
    /// What the new process said is wrong with its configuration.
    pub errors: Vec<Complaint>,
}

impl Failure {
    /// One that is told in a sentence.
    pub fn new(why: impl Into<String>) -> Failure {
        Failure { why: why.into(), errors: Vec::new() }
    }
}

impl Program {
    /// This process's program and arguments. The path as it was called, so that another program put in its place, or a link
    /// that was led elsewhere, is what is started. To be called at the start: later the directory may be another.
    pub fn of_this_process() -> io::Result<Program> {
        let mut words = std::env::args_os();
        let called = words.next().map(PathBuf::from).filter(|path| path.components().count() > 1);
        let path = match called {
            Some(path) => std::path::absolute(path)?,
            None => std::env::current_exe()?,
        };
        Ok(Program { path, arguments: words.collect() })
    }

    /// The same arguments for another program.
    ///
    /// # Errors
    /// A sentence: it is no program that we start.
    pub fn with_path(&self, path: &Path) -> Result<Program, String> {
        let told = |why: &str| format!("{}: {why}", path.display());
        let metadata = std::fs::metadata(path).map_err(|error| told(&error.to_string()))?;
        match metadata.permissions().mode() {
            _ if !path.is_absolute() => Err(told("not an absolute path")),
            _ if !metadata.is_file() => Err(told("not a file")),
            mode if mode & 0o111 == 0 => Err(told("not executable")),
            // What it becomes has our rights: whoever can write it would have them.
            mode if mode & 0o022 != 0 => Err(told("its group or others can write it")),
            _ => Ok(Program { path: path.to_owned(), arguments: self.arguments.clone() }),
        }
    }

    /// The program.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Starts it, hands `estate` over and waits until it is ready. `told` gets a handle on the connection first, over which it can
    /// be [stopped](stop). A process that is not ready in time is ended.
    ///
    /// # Errors
    /// Why it is not ready; it has ended.
    pub fn start(
        &self,
        estate: &Estate,
        patience: Duration,
        told: impl FnOnce(UnixStream),
    ) -> Result<Successor, Failure> {
        let (ours, theirs) = pair().map_err(|error| Failure::new(format!("socketpair: {error}")))?;
        let link = UnixStream::from(ours);
        told(link.try_clone().map_err(|error| Failure::new(error.to_string()))?);
        let mut child = Command::new(&self.path)
            .args(&self.arguments)
            .env(VARIABLE, "1")
            // Those were for this process.
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDS")
            .env_remove("LISTEN_FDNAMES")
            .stdin(Stdio::from(theirs))
            .spawn()
            .map_err(|error| Failure::new(format!("{}: {error}", self.path.display())))?;
        match negotiate(&link, estate, Instant::now() + patience) {
            Ok((version, takes)) => Ok(Successor { link, child, version, takes }),
            Err(mut failure) => {
                // It may be about to end by itself, and then says best why.
                drop(link);
                match wait(&mut child, Duration::from_secs(1)) {
                    Some(status) if failure.errors.is_empty() => {
                        failure.why = format!("{}; the new process has ended: {status}", failure.why);
                    }
                    Some(_) => {}
                    None => {
                        let _ = child.kill();
                        let _ = child.wait();
                    }
                }
                Err(failure)
            }
        }
    }
}

fn negotiate(link: &UnixStream, estate: &Estate, deadline: Instant) -> Result<(String, Takes), Failure> {
    let lost = |error: io::Error| Failure::new(format!("the new process could not be told: {error}"));
    let hello = Message::Hello {
        protocol: PROTOCOL,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process: std::process::id(),
        generation: estate.generation,
        sockets: estate.sockets.len(),
    };
    say(link, &hello, &[], deadline).map_err(lost)?;
    for sockets in estate.sockets.chunks(DESCRIPTORS_MAX) {
        let items = sockets.iter().map(|(item, _)| item.clone()).collect();
        let descriptors: Vec<_> = sockets.iter().map(|(_, socket)| socket.as_fd()).collect();
        say(link, &Message::Parcel { items }, &descriptors, deadline).map_err(lost)?;
    }
    match hear(link, deadline) {
        Ok(Some((Message::Ready { protocol: PROTOCOL, version, takes, .. }, _))) => Ok((version, takes)),
        Ok(Some((Message::Failed { errors }, _))) => {
            let why = errors.first().map_or("it said nothing", |first| &first.message);
            Err(Failure { why: format!("the new process cannot start: {why}"), errors })
        }
        Ok(Some(_)) => Err(Failure::new("the new process speaks another protocol")),
        Ok(None) => Err(Failure::new("the new process closed the connection")),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            Err(Failure::new("the new process was not ready in time"))
        }
        Err(error) => Err(Failure::new(format!("the new process could not be heard: {error}"))),
    }
}

impl Successor {
    /// Its process.
    pub fn process(&self) -> u32 {
        self.child.id()
    }

    /// Lets it go on: from now on it accepts, and this process should not.
    ///
    /// # Errors
    /// It is gone.
    pub fn go(mut self) -> Result<(), Failure> {
        let told = say(&self.link, &Message::Go, &[], Instant::now() + Duration::from_secs(1));
        match (told, self.child.try_wait()) {
            (Ok(()), Ok(None)) => Ok(()),
            (_, Ok(Some(status))) => Err(Failure::new(format!("the new process has ended: {status}"))),
            (Err(error), _) | (_, Err(error)) => Err(Failure::new(error.to_string())),
        }
    }

    /// It is not wanted any more.
    pub fn dismiss(mut self) {
        stop(&self.link);
        if wait(&mut self.child, Duration::from_secs(1)).is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Tells a process that was started to take over that it is not wanted.
pub fn stop(link: &UnixStream) {
    let _ = say(link, &Message::Stop, &[], Instant::now() + Duration::from_secs(1));
}

fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            _ => return None,
        }
    }
}

/// The connection of the new process to the old one.
#[derive(Debug)]
pub struct Predecessor {
    link: UnixStream,
    /// The old process.
    pub process: u32,
    /// What it says of its version.
    pub version: String,
}

/// What this process was given at its start.
#[derive(Debug, Default)]
pub struct Inheritance {
    /// Listening sockets for requests.
    pub lent: Vec<Lent>,
    /// The listening socket of metrics and health, and the address as the configuration had it.
    pub metrics: Option<(Address, TcpListener)>,
    /// The control socket and its path.
    pub control: Option<(PathBuf, UnixListener)>,
    /// The generation that the old process runs.
    pub generation: u64,
    /// Who to tell.
    pub predecessor: Option<Predecessor>,
}

impl Inheritance {
    /// What the process before this one hands over; `None` where this one was not started to take over.
    ///
    /// # Errors
    /// A sentence: what was handed over cannot be had.
    pub fn of_this_process() -> Result<Option<Inheritance>, String> {
        match std::env::var_os(VARIABLE) {
            Some(_) => {
                let told = |error: io::Error| format!("what the old process hands over: {error}");
                Inheritance::receive(UnixStream::from(take_standard_input().map_err(told)?))
                    .map(Some)
                    .map_err(told)
            }
            None => Ok(None),
        }
    }

    fn receive(link: UnixStream) -> io::Result<Inheritance> {
        let deadline = Instant::now() + READY_TIME_MAX;
        let strange = || io::Error::new(io::ErrorKind::InvalidData, "it speaks another protocol");
        let Some((Message::Hello { protocol: PROTOCOL, version, process, generation, sockets }, _)) =
            hear(&link, deadline)?
        else {
            return Err(strange());
        };
        let mut inheritance = Inheritance { generation, ..Inheritance::default() };
        let mut left = sockets.min(SOCKETS_MAX);
        while left > 0 {
            let Some((Message::Parcel { items }, descriptors)) = hear(&link, deadline)? else {
                return Err(strange());
            };
            if items.is_empty() || items.len() != descriptors.len() {
                return Err(strange());
            }
            left = left.saturating_sub(items.len());
            for (item, descriptor) in items.into_iter().zip(descriptors) {
                inheritance.take(item, descriptor)?;
            }
        }
        inheritance.predecessor = Some(Predecessor { link, process, version });
        Ok(inheritance)
    }

    fn take(&mut self, item: Item, descriptor: OwnedFd) -> io::Result<()> {
        match item {
            Item::Listener { wanted, by_manager } => {
                let socket = TcpListener::from(descriptor);
                adopt_listener(&socket)?;
                let wanted: Address = wanted.parse().map_err(io::Error::other)?;
                let bound = match &wanted {
                    // Its file was moved to its place when it was made: the kernel knows another name.
                    Address::Unix(_) => wanted.clone(),
                    Address::Tcp(_) => Address::Tcp(socket.local_addr()?),
                };
                self.lent.push(Lent { wanted, bound, socket, by_manager });
            }
            Item::Metrics(wanted) => {
                let wanted = wanted.parse().map_err(io::Error::other)?;
                self.metrics = Some((wanted, TcpListener::from(descriptor)));
            }
            Item::Control(path) => self.control = Some((path, UnixListener::from(descriptor))),
        }
        Ok(())
    }
}

impl Predecessor {
    /// Says that this process is ready, and waits to be told to go on. `takes`: what it serves of what it was given.
    ///
    /// # Errors
    /// A sentence: it is not to go on.
    pub fn ready(&self, takes: Takes) -> Result<(), String> {
        let ready = Message::Ready {
            protocol: PROTOCOL,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            process: std::process::id(),
            takes,
        };
        // Where nobody hears it: what was said before is still to be read.
        let _ = say(&self.link, &ready, &[], Instant::now() + GO_TIME_MAX);
        match hear(&self.link, Instant::now() + GO_TIME_MAX) {
            Ok(Some((Message::Go, _))) => {}
            // It is gone without a word, and somebody has to serve.
            Ok(None) => {}
            Ok(Some(_)) => return Err("the old process does not want to be succeeded".to_owned()),
            Err(error) => return Err(format!("the old process says nothing: {error}")),
        }
        Line::info(TAKEN_OVER).with("from", self.process).with("version_before", &self.version).emit();
        Ok(())
    }

    /// Says why this process does not start.
    pub fn failed(&self, mut errors: Vec<Complaint>) {
        errors.truncate(COMPLAINTS_MAX);
        for error in &mut errors {
            // The whole text is on standard error, which is the old process's as well.
            error.rendered = None;
            error.message.truncate(error.message.floor_char_boundary(COMPLAINT_BYTES_MAX));
        }
        let _ = say(&self.link, &Message::Failed { errors }, &[], Instant::now() + Duration::from_secs(1));
    }
}

fn say(
    link: &UnixStream,
    message: &Message,
    descriptors: &[std::os::fd::BorrowedFd<'_>],
    deadline: Instant,
) -> io::Result<()> {
    link.set_write_timeout(Some(left_until(deadline)))?;
    send(link.as_fd(), &serde_json::to_vec(message)?, descriptors)
}

/// The next message; `None` at the end of the connection.
fn hear(link: &UnixStream, deadline: Instant) -> io::Result<Option<(Message, Vec<OwnedFd>)>> {
    link.set_read_timeout(Some(left_until(deadline)))?;
    let mut buffer = vec![0; MESSAGE_BYTES_MAX];
    match receive(link.as_fd(), &mut buffer) {
        Ok((0, _)) => Ok(None),
        Ok((count, descriptors)) => Ok(Some((serde_json::from_slice(&buffer[..count])?, descriptors))),
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
        Err(error) => Err(error),
    }
}

/// Never zero, which would mean for ever.
fn left_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    const TAKES: Takes = Takes { control: true, metrics: false };

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn estate(sockets: usize) -> Estate {
        let mut estate = Estate { generation: 7, sockets: Vec::new() };
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        for _ in 0..sockets {
            let socket = crate::sys::socket::listen(nowhere, 1).expect("a port");
            let item = Item::Listener { wanted: nowhere.to_string(), by_manager: false };
            estate.sockets.push((item, socket.into()));
        }
        let metrics = TcpListener::bind(nowhere).expect("a port");
        estate.sockets.push((Item::Metrics(nowhere.to_string()), metrics.into()));
        estate
    }

    /// Both sides, the new one as a thread that does `then`.
    fn between(
        sockets: usize,
        then: impl FnOnce(Inheritance) + Send + 'static,
    ) -> (Result<(String, Takes), Failure>, UnixStream) {
        let (ours, theirs) = pair().expect("a pair");
        let (ours, theirs) = (UnixStream::from(ours), UnixStream::from(theirs));
        let heir = std::thread::spawn(move || then(Inheritance::receive(theirs).expect("received")));
        let result = negotiate(&ours, &estate(sockets), soon());
        if result.is_ok() {
            say(&ours, &Message::Go, &[], soon()).expect("told");
        }
        heir.join().expect("no panic");
        (result, ours)
    }

    #[test]
    fn more_sockets_than_a_message_holds_arrive_with_their_names() {
        let (result, _) = between(DESCRIPTORS_MAX + 3, |inheritance| {
            assert_eq!(inheritance.lent.len(), DESCRIPTORS_MAX + 3);
            assert!(inheritance.lent.iter().all(|lent| lent.bound.port() != 0 && lent.wanted.port() == 0));
            assert!(inheritance.metrics.is_some() && inheritance.control.is_none());
            assert_eq!(inheritance.generation, 7);
            inheritance.predecessor.expect("somebody").ready(TAKES).expect("told to go on");
        });
        let (version, takes) = result.expect("ready");
        assert_eq!((version.as_str(), takes), (env!("CARGO_PKG_VERSION"), TAKES));
    }

    #[test]
    fn what_is_wrong_is_told_within_bounds() {
        let (result, _) = between(1, |inheritance| {
            let error = Complaint { message: "é".repeat(4096), line: Some(3), ..Complaint::default() };
            inheritance.predecessor.expect("somebody").failed(vec![error; 1000]);
        });
        let failure = result.expect_err("it failed");
        assert_eq!(failure.errors.len(), COMPLAINTS_MAX);
        assert!(failure.errors.iter().all(|error| error.line == Some(3)), "{failure:?}");
    }

    #[test]
    fn one_that_is_gone_is_no_successor_and_one_that_is_silent_neither() {
        let (result, _) = between(1, drop);
        assert!(result.expect_err("gone").why.contains("closed"));
        let (ours, _theirs) = pair().expect("a pair");
        let failure =
            negotiate(&UnixStream::from(ours), &estate(1), Instant::now() + Duration::from_millis(50));
        assert!(failure.expect_err("silent").why.contains("in time"));
    }

    #[test]
    fn the_new_one_goes_on_without_the_old_one_but_not_against_its_will() {
        for (stopped, goes_on) in [(false, true), (true, false)] {
            let (ours, theirs) = pair().expect("a pair");
            let ours = UnixStream::from(ours);
            if stopped {
                stop(&ours);
            }
            drop(ours);
            let predecessor =
                Predecessor { link: UnixStream::from(theirs), process: 1, version: String::new() };
            assert_eq!(predecessor.ready(TAKES).is_ok(), goes_on);
        }
    }

    #[test]
    fn a_program_that_others_can_write_is_not_started() {
        let program = Program::of_this_process().expect("a program");
        assert!(program.path().is_absolute());
        let path = std::env::temp_dir().join(format!("ringwall-program-{}", std::process::id()));
        std::fs::write(&path, "").expect("written");
        for (mode, fit) in [(0o755, true), (0o700, true), (0o775, false), (0o777, false), (0o600, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its mode");
            assert_eq!(program.with_path(&path).is_ok(), fit, "{mode:o}");
        }
        std::fs::remove_file(&path).expect("removed");
        for wrong in [path.as_path(), Path::new("/"), Path::new("ringwall")] {
            assert!(program.with_path(wrong).is_err(), "{}", wrong.display());
        }
    }
}
