//! The life of a node: read the configuration, bind, drop privileges, start the threads, then do what the operator
//! wants until it ends.
//!
//! The supervisor is the main thread. It compiles reloads aside, so that probes, fetches and metrics go on meanwhile, and a
//! configuration that is not in order changes nothing. It keeps what ran before until nobody else does, so that the data threads
//! free nothing large, and hands the listening sockets to a process that takes over ([`super::handover`]).

use std::io;
use std::net::TcpListener;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::accept::caps::Bounds;
use crate::config::bind::Spanned;
use crate::config::error::{Code as ConfigCode, ConfigError, Errors};
use crate::config::load::Loaded;
use crate::config::model::{self as written, Config};
use crate::control::guard::ROOM_LESS;
use crate::control::handover::{
    self, Estate, Failure, HANDED_OVER, Item, Program, READY_TIME_MAX, Successor, UPGRADE_BEGUN,
    UPGRADE_FAILED,
};
use crate::control::listeners::{Doors, Plan, Refused};
use crate::control::process_log::{Code, Line};
use crate::control::service_manager::{State, notify, watchdog};
use crate::control::socket::{Complaint, Response, SocketFile};
use crate::control::watch::Subscription;
use crate::control::{Control, Event, ReloadCause, Reply, Serving};
use crate::jose::KeySet;
use crate::observe::{
    AdminLog, AdminRecord, AuditSink, LOG_NOT_REOPENED, LogConfig, LogFormat, Registry, Sink, Writer,
};
use crate::snapshot::Snapshot;
use crate::snapshot::compile::{Kept, addresses, compile};
use crate::snapshot::names::SnapshotNames;
use crate::sys::address::Address;
use crate::worker::core::Node;
use crate::worker::driver::{Choice, Driver, Wanted};

mod pages;
mod start;

pub use self::start::{
    CANNOT_START, DRIVER_CHOSEN, EXCEPTION_ENDED, LIMITS_LOCK, NO_CONTROL_SOCKET, NODE_READY, RUNS_AS_ROOT,
    StartError, start,
};

/// A reload was done.
pub const RELOADED: Code = Code::new(6003, "the new configuration runs");
/// A reload was refused.
pub const RELOAD_REFUSED: Code = Code::new(6004, "the new configuration is refused, the old one goes on");
/// The node drains.
pub const DRAINING: Code = Code::new(6005, "draining");
/// The node has ended.
pub const NODE_ENDED: Code = Code::new(6006, "ended");
/// The log files were opened again.
pub const LOGS_REOPENED: Code = Code::new(6060, "log files opened again");
/// Something that changes only with a restart was changed.
pub const NEEDS_RESTART: Code =
    Code::new(6061, "a part of `node` changes only with an upgrade or a restart; the old one stays");
/// A data thread has ended on its own.
pub const CORE_ENDED: Code = Code::new(6063, "a data thread has ended");

/// A listener was opened.
pub const LISTENER_OPENED: Code = Code::new(6070, "a listener was opened");
/// A listener was closed.
pub const LISTENER_CLOSED: Code = Code::new(6071, "a listener takes no more connections");
/// Configurations pile up in memory.
pub const CONFIGS_PILE_UP: Code = Code::new(6076, "many old configurations are still in use");
/// A core does not take a configuration that was published.
pub const CORE_LATE: Code = Code::new(6077, "a core has not taken the new configuration yet");
/// The configuration before runs again.
pub const ROLLED_BACK: Code =
    Code::new(6079, "the configuration before runs again; the file still holds the other one");
/// The file of the process's number cannot be written.
pub const NO_PID_FILE: Code = Code::new(6080, "the file for the number of the process cannot be written");

/// An address that cannot be listened on.
pub const ADDRESS_UNAVAILABLE: ConfigCode = ConfigCode::new(1190);
/// Another process takes over already, or this one ends.
pub const UPGRADE_REFUSED: Code = Code::new(1860, "this process cannot hand over now");
/// The new process did not take over.
pub const UPGRADE_UNDONE: Code = Code::new(1861, "the new process did not take over");
/// There is nothing to go back to.
pub const NOTHING_BEFORE: Code = Code::new(1862, "there is no configuration before the one that runs");
/// Nothing is read again while another process takes over.
pub const RELOAD_DURING_UPGRADE: Code =
    Code::new(1863, "another process takes over, which has read the configuration by itself");

/// Nothing is read again by a process that ends.
pub const RELOAD_WHILE_ENDING: Code = Code::new(1864, "this process is about to end and reads nothing again");

/// More configurations in memory than this are an alarm.
const CONFIGS_ALIVE_MAX: usize = 8;
/// How long a reload waits for all cores.
const SPREAD_TIME_MAX: Duration = Duration::from_secs(1);
/// How often it looks.
const SPREAD_LOOK: Duration = Duration::from_micros(100);
/// A core that had no turn for so long is stuck: the service manager is not told that all is well.
const CORE_STUCK_MS: u64 = 5_000;

/// How long a start and a reload wait for new key sets and names before they go on without.
const SETTLE_MAX: Duration = Duration::from_secs(2);

/// Descriptors that a process needs beside its connections: metrics, control, files, fetches.
const DESCRIPTORS_OWN: u64 = 96;
/// Those of a core, beside its listeners: rings, sets, doorbells.
const DESCRIPTORS_PER_CORE: u64 = 8;

/// The configuration runs, and there is something to say of it.
pub const CONFIG_NOTE: Code = Code::new(6064, "a note on the configuration");

/// Where the configuration comes from.
#[derive(Clone, Debug)]
pub enum Source {
    /// A file, read again at each reload.
    File(PathBuf),
    /// A text that does not change: the demo's.
    Text {
        /// What messages call it.
        name: String,
        /// The configuration.
        text: String,
    },
}

impl Source {
    fn load(&self) -> Result<Loaded, Errors> {
        match self {
            Source::File(path) => crate::config::load::load(path),
            Source::Text { name, text } => crate::config::load::parse_str(name, text),
        }
    }
}

/// How a node is started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The configuration.
    pub source: Source,
    /// A driver that overrides `node.driver`.
    pub driver: Option<Wanted>,
    /// Refuse to start with an exception that has ended.
    pub strict: bool,
    /// Nothing about the process is said on stderr but errors.
    pub quiet: bool,
    /// The access log goes nowhere unless it is configured.
    pub silent_log: bool,
    /// A file for the number of the process that serves.
    pub pid_file: Option<PathBuf>,
    /// Another process may take over, and this one may have been started to.
    pub hands_over: bool,
}

/// A node that runs.
pub struct Running {
    node: Arc<Node>,
    control: Control<KeySet>,
    registry: Arc<Mutex<Registry>>,
    writer: Writer,
    admin_log: AdminLog,
    kept: Kept,
    settings: Settings,
    program: io::Result<Program>,
    threads: Vec<JoinHandle<io::Result<()>>>,
    alive: Arc<AtomicUsize>,
    subscription: Option<Subscription>,
    doors: Doors,
    faces: FacesKept,
    choices: Vec<Choice>,
    drain: Duration,
    descriptors: u64,
    reload_ok: Arc<AtomicBool>,
    told: Arc<Told>,
    /// What runs, and what ran before it.
    loaded: Loaded,
    before: Option<Loaded>,
    /// What is read at the start only, as it was then.
    fixed: String,
    /// The last generation that was given out.
    generation: u64,
    /// Snapshots that ran before and are still in use.
    old: Vec<Arc<Snapshot>>,
    /// A process is starting that is to take over.
    upgrade: Option<Upgrade>,
    /// The configuration changed meanwhile.
    reload_later: bool,
    /// This process was started to take over.
    succeeds: bool,
}

/// A process that is starting to take over.
struct Upgrade {
    /// The connection to it, once there is one.
    link: Option<UnixStream>,
    /// Who waits for it.
    thread: JoinHandle<()>,
}

impl Upgrade {
    /// It is not wanted any more, and ends: by itself, or within a second.
    fn give_up(self) {
        if let Some(link) = self.link {
            handover::stop(&link);
            let _ = link.shutdown(std::net::Shutdown::Both);
        }
        let _ = self.thread.join();
    }
}

/// What the supervisor keeps of the faces, to hand them over.
#[derive(Default)]
struct FacesKept {
    serving: Option<Serving>,
    metrics: Option<MetricsKept>,
    control: Option<(Arc<SocketFile>, PathBuf, UnixListener)>,
}

/// Where metrics and health are served.
struct MetricsKept {
    /// As the configuration has it.
    wanted: Address,
    bound: Address,
    listener: TcpListener,
    /// Of a Unix socket.
    file: Option<Arc<SocketFile>>,
}

/// Numbers of the supervisor, for the metrics.
#[derive(Default)]
struct Told {
    configs_alive: AtomicUsize,
    spread_us: AtomicU64,
}

impl Running {
    /// The addresses that are listened on, in the order of the configuration.
    pub fn addresses(&self) -> Vec<Address> {
        self.doors.addresses()
    }

    /// The address of `/metrics`.
    pub fn metrics_address(&self) -> Option<&Address> {
        self.faces.metrics.as_ref().map(|metrics| &metrics.bound)
    }

    /// The drivers of the cores.
    pub fn drivers(&self) -> impl Iterator<Item = Driver> + '_ {
        self.choices.iter().map(|choice| choice.driver)
    }

    /// Does what the operator wants until the node ends.
    pub fn supervise(mut self) -> bool {
        let mut draining: Option<Instant> = None;
        let watchdog = watchdog(self.succeeds);
        loop {
            let wait = match draining {
                None => watchdog.map_or(TURN, |every| every.min(TURN)),
                Some(_) => Duration::from_millis(50),
            };
            match self.control.events().recv_timeout(wait) {
                Ok(Event::Reload(cause, reply)) => self.reload(&cause, reply),
                Ok(Event::Rollback(reply)) => self.roll_back(reply),
                Ok(Event::Upgrade(binary, reply)) => {
                    self.begin_upgrade(binary.as_deref(), draining.is_some(), reply);
                }
                Ok(Event::Succession(outcome, reply)) => {
                    if self.succeeded(outcome, draining.is_some(), reply) {
                        draining = Some(Instant::now() + self.drain);
                        self.begin_drain(false);
                    }
                }
                Ok(Event::ReopenLogs(reply)) => {
                    self.on_record("reopen", "", "ok", "");
                    self.writer.reopen(move |all| match all {
                        true => {
                            Line::info(LOGS_REOPENED).emit();
                            reply.send(Response::done(serde_json::Value::Null));
                        }
                        // Which, and why, the writer has told.
                        false => reply.send(Response::failed(vec![Complaint {
                            code: LOG_NOT_REOPENED.to_string(),
                            message: "not every log file could be opened again; the node's log says which"
                                .to_owned(),
                            ..Complaint::default()
                        }])),
                    });
                }
                Ok(Event::Drain(reply)) => {
                    if draining.is_none() {
                        draining = Some(Instant::now() + self.drain);
                        self.begin_drain(true);
                    }
                    reply.send(Response::done(serde_json::Value::Null));
                }
                Ok(Event::Status(reply)) => reply.send(Response::done(self.status())),
                Ok(Event::OnRecord { action, by, detail }) => {
                    self.on_record(action, &format!("uid {by}"), "ok", &detail);
                }
                Ok(Event::Stop) => return self.end(true),
                Err(_) => {}
            }
            self.kept.tend();
            self.free_old();
            let alive = self.alive.load(Ordering::Relaxed);
            match draining {
                Some(deadline) if alive == 0 || Instant::now() >= deadline => return self.end(alive == 0),
                None if alive < self.threads.len() => {
                    Line::error(CORE_ENDED).with("alive", alive).with("of", self.threads.len()).emit();
                    return self.end(false);
                }
                _ => {}
            }
            if watchdog.is_some() && self.all_cores_live() {
                let _ = notify(State::Alive, "");
            }
        }
    }

    /// No more connections; `ends`: the service does, and not only this process.
    fn begin_drain(&mut self, ends: bool) {
        self.subscription = None;
        // The last descriptor of a listening socket is to be that of its core, or of the process that has taken over.
        self.doors.leave(&[], ends);
        self.node.handed_over.store(!ends, Ordering::Relaxed);
        // Who reads that the node drains finds it draining.
        self.node.draining.store(true, Ordering::Release);
        self.node.ring();
        if !self.settings.quiet {
            Line::info(DRAINING).with("deadline_s", self.drain.as_secs()).emit();
        }
        if ends {
            let _ = notify(State::Stopping, "draining");
        }
        self.on_record("drain", "", "ok", "");
    }

    /// Whether every core has had a turn lately.
    fn all_cores_live(&self) -> bool {
        let now_ms = now_ms();
        self.node.desks.iter().all(|desk| now_ms.saturating_sub(desk.alive_ms()) < CORE_STUCK_MS)
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({
            "version": env!("CARGO_PKG_VERSION"),
            "process": std::process::id(),
            "generation": self.node.generation.load(Ordering::Relaxed),
            "configurations": self.old.len() + 1,
            "draining": self.node.draining.load(Ordering::Relaxed),
            "listen": self.addresses().iter().map(ToString::to_string).collect::<Vec<_>>(),
            "drivers": self.choices.iter().map(|choice| choice.driver.name()).collect::<Vec<_>>(),
        })
    }

    /// Reads the configuration again. What is not in order is told and changes nothing.
    pub fn reload(&mut self, cause: &ReloadCause, reply: Reply) {
        if let Some(why) = self.reads_nothing() {
            self.reload_later = true;
            Line::warn(why).with("cause", format!("{cause:?}")).emit();
            return reply.send(failed(why));
        }
        let _ = notify(State::Reloading, "reloading");
        match self.settings.source.load().and_then(Loaded::refuse_expired).and_then(|loaded| {
            self.take(loaded, true).inspect(|_| self.reload_ok.store(true, Ordering::Relaxed))
        }) {
            Ok(taken) => {
                Line::info(RELOADED)
                    .with("generation", taken.generation)
                    .with("cause", format!("{cause:?}"))
                    .emit();
                self.on_record("reload", actor(cause), "ok", "");
                reply.send(taken.response());
            }
            Err(errors) => {
                // Before it is told: whoever reads of it finds the metric saying the same.
                self.reload_ok.store(false, Ordering::Relaxed);
                Line::error(RELOAD_REFUSED)
                    .with("errors", errors.len())
                    .with("cause", format!("{cause:?}"))
                    .emit();
                eprint!("{}", errors.render(false));
                let first = errors.iter().next().map(|error| error.title.clone()).unwrap_or_default();
                self.on_record("reload", actor(cause), "refused", &first);
                reply.send(Response::failed(complaints(&errors)));
            }
        }
        let _ = notify(State::Ready, "serving");
    }

    /// Why no configuration is taken now. One that is taken by a process that drains would open its listeners again, perhaps beside
    /// those of the process that has taken over.
    fn reads_nothing(&self) -> Option<Code> {
        match (self.node.draining.load(Ordering::Relaxed), &self.upgrade) {
            (true, _) => Some(RELOAD_WHILE_ENDING),
            (false, Some(_)) => Some(RELOAD_DURING_UPGRADE),
            (false, None) => None,
        }
    }

    /// Goes back to the configuration before the one that runs: what was written then, with the files that it names (keys,
    /// certificates, schemas) as they are now. Asked again, it goes forth again.
    fn roll_back(&mut self, reply: Reply) {
        if let Some(why) = self.reads_nothing() {
            return reply.send(failed(why));
        }
        let Some(before) = self.before.clone() else { return reply.send(failed(NOTHING_BEFORE)) };
        let _ = notify(State::Reloading, "rolling back");
        match before.refuse_expired().and_then(|before| self.take(before, false)) {
            Ok(taken) => {
                Line::warn(ROLLED_BACK).with("generation", taken.generation).emit();
                self.on_record("rollback", "socket", "ok", "");
                reply.send(taken.response());
            }
            Err(errors) => {
                Line::error(RELOAD_REFUSED).with("errors", errors.len()).with("cause", "Rollback").emit();
                self.on_record("rollback", "socket", "refused", "");
                reply.send(Response::failed(complaints(&errors)));
            }
        }
        let _ = notify(State::Ready, "serving");
    }

    /// Compiles a configuration and lets it run on every core. `watch`: from now on its files are those that are watched.
    fn take(&mut self, loaded: Loaded, watch: bool) -> Result<Taken, Errors> {
        if watch && self.subscription.is_some() {
            // Before they are read, so that no change falls between; and also where something is wrong with them, so that
            // mending it is noticed.
            self.subscription = Some(self.control.watch_config(files_of(&loaded)));
        }
        let generation = self.generation + 1;
        let refuse = |errors: Vec<ConfigError>| {
            let mut all = Errors::new(Arc::clone(&loaded.sources), Vec::new());
            all.extend(errors);
            all
        };
        let unavailable_here = |why: Refused| refuse(vec![unavailable(&loaded.config, &why)]);
        let wanted = addresses(&loaded.config);
        let plan = self.doors.bind(&wanted, &mut Vec::new()).map_err(unavailable_here)?;
        let mut snapshot = compile(&loaded.config, generation, &mut self.kept, Some(self.control.parts()))
            .map_err(refuse)?;
        plan.listen().map_err(unavailable_here)?;
        tell(self.kept.take_notes());
        if fixed(&loaded.config) != self.fixed {
            Line::warn(NEEDS_RESTART).emit();
        }
        self.control.settle(SETTLE_MAX);
        snapshot.names = SnapshotNames::register(&snapshot, &mut self.registry_lock(), now_ms());
        self.generation = generation;
        let spread = self.publish(snapshot, plan, wanted.len());
        let _ = self.writer.configure(&log_config(&loaded.config, self.settings.silent_log));
        let config = &loaded.config;
        self.node.caps.set(room(config, self.descriptors, self.threads.len()));
        let memory = config.node.memory.as_ref().map_or(0, |memory| memory.value.bytes());
        self.node.pressure.want_memory(memory);
        self.drain = config.node.drain_in_force();
        self.before = Some(std::mem::replace(&mut self.loaded, loaded));
        Ok(Taken { generation, spread, cores: self.node.desks.len() })
    }

    /// Lets a snapshot run, whose first `live` listeners are those of the configuration, and waits until it does on every
    /// core. How long that took; nothing if one is late.
    fn publish(&mut self, snapshot: Snapshot, plan: Plan, live: usize) -> Option<Duration> {
        let snapshot = Arc::new(snapshot);
        let generation = snapshot.generation;
        let (stay, go) = snapshot.listeners.split_at(live.min(snapshot.listeners.len()));
        let stay: Vec<u32> = stay.iter().map(|listener| listener.id).collect();
        for address in self.doors.leave(&stay, true) {
            Line::info(LISTENER_CLOSED).with("address", address).emit();
        }
        for listener in go.iter().filter(|listener| !listener.is_leaving()) {
            listener.leaving_ms.store(now_ms().max(1), Ordering::Relaxed);
        }
        let begun = Instant::now();
        self.old.push(self.node.publish(Arc::clone(&snapshot)));
        self.kept.running = Some(snapshot);
        match self.doors.open(plan, &stay, &self.node.desks) {
            Ok(opened) => {
                opened.iter().for_each(|address| Line::info(LISTENER_OPENED).with("address", address).emit())
            }
            Err(error) => Line::error(CORE_LATE).with("why", error).emit(),
        }
        let spread = loop {
            let late = self.node.desks.iter().position(|desk| desk.generation() != generation);
            match late {
                None => break Some(begun.elapsed()),
                Some(core) if begun.elapsed() >= SPREAD_TIME_MAX => {
                    Line::warn(CORE_LATE).with("core", core).with("generation", generation).emit();
                    break None;
                }
                Some(_) => std::thread::sleep(SPREAD_LOOK),
            }
        };
        let us = spread.unwrap_or_else(|| begun.elapsed()).as_micros();
        self.told.spread_us.store(u64::try_from(us).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.free_old();
        spread
    }

    /// Frees what ran before and nobody uses any more. Here, and by nobody else: a large one takes longer than a data thread has.
    fn free_old(&mut self) {
        let before = self.told.configs_alive.load(Ordering::Relaxed);
        self.old.retain(|snapshot| Arc::strong_count(snapshot) > 1);
        let alive = self.old.len() + 1;
        self.told.configs_alive.store(alive, Ordering::Relaxed);
        if alive > CONFIGS_ALIVE_MAX && before <= CONFIGS_ALIVE_MAX {
            let oldest = self.old.first().map_or(0, |snapshot| snapshot.generation);
            Line::warn(CONFIGS_PILE_UP).with("configurations", alive).with("oldest", oldest).emit();
        }
    }

    /// Starts a process that is to take over, on a thread of its own; how it went comes back as an event.
    fn begin_upgrade(&mut self, binary: Option<&Path>, draining: bool, reply: Reply) {
        let refused = match &self.program {
            _ if draining => Err("it is about to end".to_owned()),
            _ if self.upgrade.is_some() => Err("another process takes over already".to_owned()),
            _ if !self.settings.hands_over => Err("only `ringwall run` can be upgraded".to_owned()),
            // Whatever has the number 1 takes all others with it when it ends.
            _ if std::process::id() == 1 => Err(
                "it is process 1 of its container, which would end with it: start a new container, or an init before Ringwall"
                    .to_owned(),
            ),
            Err(error) => Err(format!("its own program is not known: {error}")),
            Ok(program) => match binary {
                Some(path) => program.with_path(path),
                None => Ok(program.clone()),
            },
        };
        let begun = refused.and_then(|program| self.estate().map(|estate| (program, estate)));
        let (program, estate) = match begun {
            Ok(begun) => begun,
            Err(why) => {
                Line::error(UPGRADE_FAILED).with("why", &why).emit();
                let message = format!("{}: {why}", UPGRADE_REFUSED.message);
                return reply.send(Response::failed(vec![complaint(UPGRADE_REFUSED, message)]));
            }
        };
        Line::info(UPGRADE_BEGUN).with("program", program.path().display()).emit();
        let events = self.control.sender();
        let (told, tells) = mpsc::sync_channel(1);
        let spawned = std::thread::Builder::new().name("handover".to_owned()).spawn(move || {
            let outcome = program.start(&estate, READY_TIME_MAX, |link| {
                let _ = told.send(link);
            });
            let _ = events.send(Event::Succession(outcome, reply));
        });
        match spawned {
            Ok(thread) => self.upgrade = Some(Upgrade { link: tells.recv().ok(), thread }),
            Err(error) => Line::error(UPGRADE_FAILED).with("why", error).emit(),
        }
    }

    /// Everything that this process listens on.
    fn estate(&self) -> Result<Estate, String> {
        let told = |error: io::Error| error.to_string();
        let mut estate = Estate { generation: self.generation, sockets: Vec::new() };
        for (wanted, socket, by_manager) in self.doors.sockets() {
            let item = Item::Listener { wanted: wanted.to_string(), by_manager };
            estate.sockets.push((item, socket.try_clone().map_err(told)?.into()));
        }
        if let Some(MetricsKept { wanted, listener, .. }) = &self.faces.metrics {
            let item = Item::Metrics(wanted.to_string());
            estate.sockets.push((item, listener.try_clone().map_err(told)?.into()));
        }
        if let Some((_, path, socket)) = &self.faces.control {
            let socket = socket.try_clone().map_err(told)?;
            estate.sockets.push((Item::Control(path.clone()), socket.into()));
        }
        Ok(estate)
    }

    /// A process is ready to take over, or none is. Whether this one has handed over to it.
    fn succeeded(&mut self, outcome: Result<Successor, Failure>, draining: bool, reply: Reply) -> bool {
        self.upgrade = None;
        let handed_over = outcome.and_then(|successor| {
            if draining {
                successor.dismiss();
                return Err(Failure::new("this process was told to end meanwhile"));
            }
            let (process, version) = (successor.process(), successor.version.clone());
            let takes = successor.takes;
            // From here on only the new one is asked; what waits in the queues is its. The service manager is told of nobody who
            // has not begun: it would end the service with a main process that is gone.
            successor.go()?;
            let _ = notify(State::HandedOverTo(process), "serving");
            if let Some(serving) = self.faces.serving.take() {
                serving.stop();
            }
            if let (true, Some((file, ..))) = (takes.control, &self.faces.control) {
                file.set_lent(true);
            }
            if let (true, Some(metrics)) = (takes.metrics, &self.faces.metrics) {
                metrics.file.iter().for_each(|file| file.set_lent(true));
            }
            Ok((process, version))
        });
        match handed_over {
            Ok((process, version)) => {
                Line::info(HANDED_OVER).with("to", process).with("version", &version).emit();
                self.on_record("upgrade", "", "ok", &version);
                reply.send(Response::done(serde_json::json!({ "process": process, "version": version })));
                self.faces = FacesKept::default();
                true
            }
            Err(failure) => {
                Line::error(UPGRADE_FAILED).with("why", &failure.why).emit();
                self.on_record("upgrade", "", "refused", &failure.why);
                let mut errors = failure.errors;
                if errors.is_empty() {
                    errors.push(complaint(
                        UPGRADE_UNDONE,
                        format!("{}: {}", UPGRADE_UNDONE.message, failure.why),
                    ));
                }
                reply.send(Response::failed(errors));
                if std::mem::take(&mut self.reload_later) && !draining {
                    self.reload(&ReloadCause::Signal, Reply::to_nobody());
                }
                false
            }
        }
    }

    /// Puts what an administrator did on record. A full ring is counted; an action is not undone for it.
    fn on_record(&self, action: &str, actor: &str, outcome: &str, detail: &str) {
        let _ = self.admin_log.push(&AdminRecord {
            time_ms: crate::worker::clock::unix_ms(),
            config: self.node.generation.load(Ordering::Relaxed),
            action,
            actor,
            outcome,
            detail,
            ..AdminRecord::default()
        });
    }

    fn registry_lock(&self) -> std::sync::MutexGuard<'_, Registry> {
        lock(&self.registry)
    }

    /// Ends the node: the log is written out, the threads end with the process.
    fn end(mut self, clean: bool) -> bool {
        // A core may still be at something that uses them; they go with the process.
        std::mem::forget(std::mem::take(&mut self.old));
        if let Some(upgrade) = self.upgrade.take() {
            upgrade.give_up();
        }
        if let Some(path) = &self.settings.pid_file {
            remove_pid(path);
        }
        let written = self.writer.stop(Duration::from_secs(2));
        if !self.settings.quiet {
            Line::info(NODE_ENDED).with("drained", clean).with("log_complete", written).emit();
        }
        clean
    }
}

/// How long the supervisor waits for something to do before it looks after everything.
const TURN: Duration = Duration::from_secs(1);

/// A configuration that was taken.
struct Taken {
    generation: u64,
    /// How long it took until every core ran it; nothing if one is late.
    spread: Option<Duration>,
    cores: usize,
}

impl Taken {
    fn response(&self) -> Response {
        Response::done(serde_json::json!({
            "generation": self.generation,
            "cores": self.cores,
            "everywhere": self.spread.is_some(),
            "spread_us": self.spread.map(|spread| u64::try_from(spread.as_micros()).unwrap_or(u64::MAX)),
        }))
    }
}

/// What of a configuration is read at the start only.
fn fixed(config: &Config) -> String {
    let node = &config.node;
    let parts = (
        (node.cores.as_ref().map(|cores| cores.value), node.driver.as_ref().map(|driver| driver.value)),
        (node.user.as_ref().map(|user| user.value.clone()), node.limit_memory_in_force()),
        node.metrics.as_ref().map(|metrics| metrics.value.clone()),
        node.control.as_ref().map(|control| control.value.0.clone()),
        node.resolver.iter().map(|server| server.value).collect::<Vec<_>>(),
    );
    format!("{parts:?}")
}

/// The error of an address that the system refuses.
fn unavailable(config: &Config, why: &Refused) -> ConfigError {
    let title = format!("`{}` cannot be listened on: {}", why.address, why.error);
    let span = config.listen.get(why.place).map(|listener| listener.address.span).unwrap_or_default();
    let fix = match why.error.kind() {
        io::ErrorKind::AddrInUse => "stop the other program that listens there, or take another port or path",
        io::ErrorKind::AddrNotAvailable => "take an address of this machine, or `[::]` for all of them",
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 take CAP_NET_BIND_SERVICE, which a process that became `node.user` has given up: restart it"
        }
        _ => "see what the system says",
    };
    ConfigError::new(ADDRESS_UNAVAILABLE, title, span).fix(fix)
}

fn complaint(code: Code, message: String) -> Complaint {
    Complaint { code: code.to_string(), message, ..Complaint::default() }
}

fn failed(code: Code) -> Response {
    Response::failed(vec![complaint(code, code.message.to_owned())])
}

/// Says which process serves. Under another name first: whoever reads it finds a number.
fn write_pid(path: &Path) {
    let mut next = path.as_os_str().to_owned();
    next.push(".next");
    let written = std::fs::write(&next, format!("{}\n", std::process::id()))
        .and_then(|()| std::fs::rename(&next, path));
    if let Err(error) = written {
        Line::error(NO_PID_FILE).with("file", path.display()).with("why", error).emit();
    }
}

/// Takes the file away, unless another process has taken over and written its own number.
fn remove_pid(path: &Path) {
    let ours = std::fs::read_to_string(path).is_ok_and(|text| text.trim() == std::process::id().to_string());
    if ours {
        let _ = std::fs::remove_file(path);
    }
}

/// Says what is worth knowing of a configuration that is in order.
fn tell(notes: Vec<ConfigError>) {
    for note in notes {
        Line::warn(CONFIG_NOTE).with("note", note.code).with("what", &note.title).emit();
    }
}

/// Who wanted a reload, for the audit log.
fn actor(cause: &ReloadCause) -> &'static str {
    match cause {
        ReloadCause::Signal => "signal",
        ReloadCause::Socket => "socket",
        ReloadCause::Files(_) => "file",
    }
}

fn now_ms() -> u64 {
    crate::sys::thread::monotonic_ns() / 1_000_000
}

fn complaints(errors: &Errors) -> Vec<Complaint> {
    errors
        .iter()
        .map(|error| {
            let place = errors.sources().position(error.primary.span);
            Complaint {
                code: error.code.to_string(),
                message: error.title.clone(),
                file: Some(errors.sources().name(error.primary.span).to_owned()),
                line: u32::try_from(place.line).ok(),
                column: u32::try_from(place.column).ok(),
                rendered: Some(errors.render_one(error, false)),
            }
        })
        .collect()
}

/// The files whose change is a reload: those of the configuration, and those that it names and that are read with it.
/// Key stores, key sets and revocation lists are watched by whoever keeps them.
fn files_of(loaded: &Loaded) -> Vec<PathBuf> {
    let config = &loaded.config;
    let mut files: Vec<PathBuf> =
        loaded.sources.files().iter().map(|source| PathBuf::from(source.name())).collect();
    for tls in config.listen.iter().filter_map(|listener| listener.tls.as_ref()) {
        if let written::Tls::Files(pairs) = &tls.value {
            files.extend(pairs.iter().flat_map(|pair| [pair.cert.value.0.clone(), pair.key.value.0.clone()]));
            files.extend(pairs.iter().filter_map(|pair| Some(pair.clients.as_ref()?.file.value.0.clone())));
        }
    }
    for (_, login) in config.login.iter() {
        if let written::Method::Mtls(certificates) = &login.method {
            files.push(certificates.ca.value.0.clone());
        }
    }
    for (_, upstream) in config.upstreams.iter() {
        if let written::Trust::File(path) = &upstream.trust {
            files.push(path.value.0.clone());
        }
    }
    for (_, api) in config.apis.iter() {
        let operations = api.operations().into_iter().flat_map(|operations| operations.iter());
        let inner = operations.filter_map(|(_, operation)| operation.body.as_ref()).map(|body| &body.value);
        let schemas = api.body.iter().chain(inner).filter_map(|body| body.schema.as_ref());
        files.extend(schemas.map(|schema| schema.value.0.clone()));
    }
    files
}

/// How many connections there may be: what is configured, as far as the descriptors allow.
fn room(config: &Config, descriptors: u64, cores: usize) -> Bounds {
    let own = DESCRIPTORS_OWN + cores as u64 * (config.listen.len() as u64 + DESCRIPTORS_PER_CORE);
    let upstreams = config
        .upstreams
        .iter()
        .map(|(_, upstream)| upstream.pool.connections_in_force() * upstream.targets.len().max(1) as u64);
    let fits = Bounds::that_fit(descriptors, own, upstreams.sum(), cores);
    let narrow = |number: &Spanned<u64>| u32::try_from(number.value).unwrap_or(u32::MAX);
    let written = &config.node.connections;
    let all = match written.all.as_ref().map(narrow) {
        Some(wanted) if wanted > fits.all => {
            Line::warn(ROOM_LESS)
                .with("wanted", wanted)
                .with("room", fits.all)
                .with("descriptors", descriptors)
                .emit();
            fits.all
        }
        Some(wanted) => wanted,
        None => fits.all,
    };
    Bounds::within(all, written.core.as_ref().map(narrow), written.address.as_ref().map(narrow), cores)
}

fn log_config(config: &Config, silent: bool) -> LogConfig {
    let sink = |target: &written::LogTarget| match target {
        written::LogTarget::Stdout => Sink::Stdout,
        written::LogTarget::File(path) => Sink::File(path.value.0.clone()),
    };
    let (access, format) = match &config.log {
        Some(log) => (
            Some(sink(&log.file)),
            match log.format {
                written::LogFormat::Json => LogFormat::Json,
                written::LogFormat::Combined => LogFormat::Combined,
            },
        ),
        None if silent => (None, LogFormat::Json),
        None => (Some(Sink::Stdout), LogFormat::Json),
    };
    let audit = match &config.audit {
        Some(audit) => AuditSink::Own(sink(&audit.file)),
        None => AuditSink::Off,
    };
    LogConfig { access, format, audit, now_ms: crate::worker::clock::unix_ms }
}

fn lock(registry: &Mutex<Registry>) -> std::sync::MutexGuard<'_, Registry> {
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For tests and tools: the snapshot that runs now.
pub fn current(running: &Running) -> Arc<Snapshot> {
    running.node.snapshot.load_full()
}
