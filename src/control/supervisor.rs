//! The life of a node: read the configuration, bind, drop privileges, start the threads, then do what the operator
//! wants until it ends.
//!
//! The supervisor is the main thread. It compiles reloads aside, so that probes, fetches and metrics go on meanwhile, and a
//! configuration that is not in order changes nothing. It keeps what ran before until nobody else does, so that the data threads
//! free nothing large, and hands the listening sockets to a process that takes over ([`super::handover`]).

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::accept::caps::{Bounds, Caps};
use crate::accept::pressure::Level;
use crate::config::bind::Spanned;
use crate::config::error::{Code as ConfigCode, ConfigError, Errors};
use crate::config::load::Loaded;
use crate::config::model::{self as written, Config};
use crate::config::unit;
use crate::control::admin::{Admin, Format, Pages};
use crate::control::block::Blocklist;
use crate::control::guard::{ROOM, ROOM_LESS};
use crate::control::handover::{
    self, Estate, Failure, HANDED_OVER, Inheritance, Item, Program, READY_TIME_MAX, Successor, Takes,
    UPGRADE_BEGUN, UPGRADE_FAILED,
};
use crate::control::keys::KeySource;
use crate::control::listeners::{Doors, Plan, Refused};
use crate::control::process_log::{Code, Line};
use crate::control::service_manager::{State, notify, passed_sockets, refuse_sockets, watchdog};
use crate::control::signals::Signals;
use crate::control::socket::{Complaint, ControlSocket, Response, SocketFile, default_paths};
use crate::control::watch::Subscription;
use crate::control::{
    Control, Event, Faces, Options as ControlOptions, ReloadCause, Reply, Serving, exchange,
};
use crate::jose::KeySet;
use crate::jose::jwks::Origin;
use crate::observe::{
    AdminLog, AdminRecord, AuditSink, Exposition, Family, LOG_NOT_REOPENED, LogConfig, LogFormat, Registry,
    RequestIds, RingSizes, Sink, Writer, rings,
};
use crate::policy;
use crate::policy::admit::blocks::Blocks;
use crate::policy::limit::table::Table;
use crate::snapshot::Snapshot;
use crate::snapshot::compile::{Kept, addresses, compile};
use crate::snapshot::names::SnapshotNames;
use crate::sys::address::Address;
use crate::sys::privileges::{self, User};
use crate::worker::core::Node;
use crate::worker::driver::{Choice, Driver, Wanted};
use crate::worker::run::Seat;
use crate::worker::state::CoreState;

/// The node serves.
pub const NODE_READY: Code = Code::new(6001, "ready");
/// Which driver a core runs on, and why.
pub const DRIVER_CHOSEN: Code = Code::new(6002, "driver");
/// A reload was done.
pub const RELOADED: Code = Code::new(6003, "the new configuration runs");
/// A reload was refused.
pub const RELOAD_REFUSED: Code = Code::new(6004, "the new configuration is refused, the old one goes on");
/// The node drains.
pub const DRAINING: Code = Code::new(6005, "draining");
/// The node has ended.
pub const NODE_ENDED: Code = Code::new(6006, "ended");
/// The node runs as root because it was not told as whom else.
pub const RUNS_AS_ROOT: Code =
    Code::new(6007, "running as root: set node.user to give that up after binding");
/// An exception of the configuration has ended.
pub const EXCEPTION_ENDED: Code = Code::new(6008, "an exception has ended and is still in force");
/// The control socket cannot be had.
pub const NO_CONTROL_SOCKET: Code =
    Code::new(6009, "no control socket: `ringwall reload` will not reach this process");
/// The log files were opened again.
pub const LOGS_REOPENED: Code = Code::new(6060, "log files opened again");
/// Something that changes only with a restart was changed.
pub const NEEDS_RESTART: Code =
    Code::new(6061, "a part of `node` changes only with an upgrade or a restart; the old one stays");
/// The node cannot start.
pub const CANNOT_START: Code = Code::new(6062, "cannot start");
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

/// Descriptors of a process whose limit cannot be read.
const DESCRIPTORS: u64 = 1_024;
/// Descriptors that a process needs beside its connections: metrics, control, files, fetches.
const DESCRIPTORS_OWN: u64 = 96;
/// Those of a core, beside its listeners: rings, sets, doorbells.
const DESCRIPTORS_PER_CORE: u64 = 8;

/// The configuration runs, and there is something to say of it.
pub const CONFIG_NOTE: Code = Code::new(6064, "a note on the configuration");
/// The counters of limits take a lock.
pub const LIMITS_LOCK: Code =
    Code::new(6065, "no 128-bit compare-and-swap on this machine: limits work and are slow");

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

/// Why a node does not start.
#[derive(Debug)]
pub enum StartError {
    /// The configuration is not in order.
    Config(Errors),
    /// The system refused something.
    System(String),
}

impl From<io::Error> for StartError {
    fn from(error: io::Error) -> StartError {
        StartError::System(error.to_string())
    }
}

fn system(what: &str) -> impl Fn(&dyn std::fmt::Display) -> StartError {
    move |error| StartError::System(format!("{what}: {error}"))
}

/// Starts a node: when this returns, all cores accept. One that was started to take over from another process says so to that
/// one, whether it can or not.
///
/// # Errors
/// The configuration, or what the system refused.
pub fn start(settings: Settings) -> Result<Running, StartError> {
    // First of all: the directory may change, and descriptors that were passed are found by their numbers.
    let program = Program::of_this_process();
    let mut inheritance = match settings.hands_over {
        true => match Inheritance::of_this_process().map_err(StartError::System)? {
            Some(inheritance) => inheritance,
            None => Inheritance { lent: passed_sockets(), ..Inheritance::default() },
        },
        false => Inheritance::default(),
    };
    let predecessor = inheritance.predecessor.take();
    let ready = |takes: Takes| match &predecessor {
        Some(predecessor) => predecessor.ready(takes).map_err(StartError::System),
        None => Ok(()),
    };
    let succeeds = predecessor.is_some();
    let started = start_with(settings, program, inheritance, succeeds, ready);
    if let (Err(error), Some(predecessor)) = (&started, &predecessor) {
        predecessor.failed(match error {
            StartError::Config(errors) => complaints(errors),
            StartError::System(why) => vec![complaint(CANNOT_START, why.clone())],
        });
    }
    started
}

fn start_with(
    settings: Settings,
    program: io::Result<Program>,
    mut inheritance: Inheritance,
    succeeds: bool,
    ready: impl FnOnce(Takes) -> Result<(), StartError>,
) -> Result<Running, StartError> {
    let mut loaded = settings.source.load().map_err(StartError::Config)?;
    if settings.strict {
        loaded = loaded.refuse_expired().map_err(StartError::Config)?;
    } else {
        for error in loaded.expired.iter() {
            let place = loaded.sources.position(error.primary.span);
            Line::error(EXCEPTION_ENDED).with("line", place.line).with("what", &error.title).emit();
        }
    }
    let config = &loaded.config;
    privileges::harden().map_err(|error| system("hardening the process")(&error))?;
    let descriptors = privileges::raise_descriptor_limit().unwrap_or(DESCRIPTORS);

    // Everything that needs privileges comes first.
    let wanted = addresses(config);
    let cores = core_count(config);
    let mut doors = Doors::new(cores.len());
    let unavailable_here = |why: Refused| refused(&loaded, vec![unavailable(config, &why)]);
    let plan = doors.bind(&wanted, &mut inheritance.lent).map_err(unavailable_here)?;
    refuse_sockets(std::mem::take(&mut inheritance.lent));
    let signals = Signals::register()?;
    let admin = bind_admin(config, inheritance.metrics.take())?;
    let socket = bind_socket(config, &settings, inheritance.control.take());
    let mut faces = FacesKept::default();
    if let Some((wanted, admin, _)) = &admin {
        faces.metrics = Some(MetricsKept {
            wanted: wanted.clone(),
            bound: admin.address().clone(),
            listener: admin.try_clone_listener()?,
            file: admin.file(),
        });
    }
    if let Some((socket, _)) = &socket {
        faces.control = Some((socket.file(), socket.path().to_owned(), socket.try_clone_listener()?));
    }
    let takes = Takes {
        control: socket.as_ref().is_some_and(|(_, inherited)| *inherited),
        metrics: admin.as_ref().is_some_and(|(_, _, inherited)| *inherited),
    };
    drop_privileges(config, &settings)?;

    let roots = exchange::trust_roots(None).map_err(StartError::System)?;
    let tls = exchange::tls_config(roots).map_err(|error| system("TLS for our own fetches")(&error))?;
    let mut options: ControlOptions<KeySet> = ControlOptions::new(tls, Arc::new(parse_keys));
    options.servers = config.node.resolver.iter().map(|server| server.value).collect();
    let registry = Arc::new(Mutex::new(Registry::new(cores.len(), policy::NAMES)));
    let naming = Arc::clone(&registry);
    options.name_targets =
        Arc::new(move |upstream, names| lock(&naming).register_targets(upstream, names, now_ms()));
    let control = Control::start(options).map_err(|error| StartError::System(error.to_string()))?;

    // What changes from here on is found when there is time for it.
    let subscription = match &settings.source {
        Source::File(_) => Some(control.watch_config(files_of(&loaded))),
        Source::Text { .. } => None,
    };

    let mut kept = Kept::of(cores.len());
    let generation = inheritance.generation + 1;
    let mut snapshot = compile(config, generation, &mut kept, Some(control.parts()))
        .map_err(|errors| refused(&loaded, errors))?;
    tell(kept.take_notes());
    control.settle(SETTLE_MAX);
    if !Table::is_lock_free() {
        Line::warn(LIMITS_LOCK).emit();
    }
    snapshot.names = SnapshotNames::register(&snapshot, &mut lock(&registry), now_ms());
    let listeners: Vec<u32> = snapshot.listeners.iter().map(|listener| listener.id).collect();
    let logs = rings(cores.len(), RingSizes::default());
    lock(&registry).watch_rings(&logs.drain);
    let directory = lock(&registry).directory();
    let writer = Writer::start(logs.drain, &log_config(config, settings.silent_log), directory)
        .map_err(|error| StartError::System(format!("{}: {}", error.sink, error.source)))?;
    lock(&registry).watch_writer(writer.stats());

    let room = room(config, descriptors, cores.len());
    // A reload may ask for more than now, up to what the descriptors give room for.
    let most = Bounds::within(u32::try_from(descriptors).unwrap_or(u32::MAX), None, None, 1).all;
    let node = Node::with_desks(snapshot, cores.len())?.with_caps(Caps::new(room, most));
    let node = Arc::new(node);
    kept.running = Some(node.snapshot.load_full());
    node.pressure.want_memory(config.node.memory.as_ref().map_or(0, |memory| memory.value.bytes()));
    control.guard(Arc::clone(&node), descriptors);
    // Before anybody is let in.
    let kept_in = blocks_file(config, faces.control.as_ref().map(|(_, path, _)| path.as_path()));
    let blocks = Blocklist::open(Arc::clone(&node.blocks), kept_in).map_err(StartError::System)?;
    let alive = Arc::new(AtomicUsize::new(0));
    let mut threads = Vec::new();
    let mut choices = Vec::new();
    let driver = settings.driver.unwrap_or_else(|| driver_of(config));
    for ((index, cpu), log) in cores.iter().enumerate().zip(logs.cores) {
        let metrics = lock(&registry)
            .take_core(index)
            .ok_or_else(|| StartError::System("a core has no counters".into()))?;
        let ids =
            RequestIds::new().map_err(|_| StartError::System("no randomness for request ids".into()))?;
        let seat = Core0 { index, cpu: *cpu, driver, node: Arc::clone(&node) };
        let (started, starting) = mpsc::sync_channel(1);
        let alive_there = Arc::clone(&alive);
        let thread = std::thread::Builder::new().name(format!("core-{index}")).spawn(move || {
            alive_there.fetch_add(1, Ordering::Relaxed);
            let result = crate::worker::run::run(seat.seat(CoreState::new(log, metrics, ids)), |choice| {
                let _ = started.send(choice);
            });
            alive_there.fetch_sub(1, Ordering::Relaxed);
            result
        })?;
        match starting.recv() {
            Ok(choice) => {
                if !settings.quiet {
                    Line::info(DRIVER_CHOSEN)
                        .with("core", index)
                        .with("driver", choice.driver)
                        .with("why_not_better", if choice.reason.is_empty() { "-" } else { &choice.reason })
                        .emit();
                }
                choices.push(choice);
                threads.push(thread);
            }
            Err(_) => {
                let why = thread.join().map_or_else(
                    |_| "it panicked".to_owned(),
                    |result| result.err().map_or_else(|| "it ended".to_owned(), |error| error.to_string()),
                );
                return Err(StartError::System(format!("data thread {index}: {why}")));
            }
        }
    }

    let reload_ok = Arc::new(AtomicBool::new(true));
    let told = Arc::new(Told { configs_alive: AtomicUsize::new(1), spread_us: AtomicU64::new(0) });
    add_sources(&mut lock(&registry), &node, &choices, loaded.expired.len(), &reload_ok, &told);

    // Nobody has been let in so far. From here on nothing is refused any more.
    ready(takes)?;
    plan.listen().map_err(unavailable_here)?;
    doors.open(plan, &listeners, &node.desks)?;
    if let Some((file, ..)) = &faces.control {
        file.set_lent(false);
    }
    if let Some(file) = faces.metrics.as_ref().and_then(|metrics| metrics.file.as_ref()) {
        file.set_lent(false);
    }
    if let Some(path) = &settings.pid_file {
        write_pid(path);
    }
    let (admin, socket) = (admin.map(|(_, admin, _)| admin), socket.map(|(socket, _)| socket));
    let metrics_address = admin.as_ref().map(|admin| admin.address().clone());
    faces.serving = Some(control.serve(Faces {
        signals: Some(signals),
        admin: admin.map(|admin| (admin, pages(&registry, &node))),
        socket,
        blocks: Some(blocks),
    }));
    let _ = notify(State::Ready, "serving");
    if !settings.quiet {
        Line::info(ROOM)
            .with("all", room.all)
            .with("core", room.core)
            .with("address", room.address)
            .with("descriptors", descriptors)
            .emit();
        let mut line =
            Line::info(NODE_READY).with("version", env!("CARGO_PKG_VERSION")).with("cores", cores.len());
        for address in doors.addresses() {
            line = line.with("listen", address);
        }
        if let Some(address) = metrics_address {
            line = line.with("metrics", address);
        }
        line.emit();
    }
    Ok(Running {
        drain: config.node.drain_in_force(),
        descriptors,
        reload_ok,
        told,
        node,
        control,
        registry,
        writer,
        admin_log: logs.admin,
        kept,
        settings,
        program,
        threads,
        alive,
        subscription,
        doors,
        faces,
        choices,
        fixed: fixed(&loaded.config),
        loaded,
        before: None,
        generation,
        old: Vec::new(),
        upgrade: None,
        reload_later: false,
        succeeds,
    })
}

/// What a data thread is given, before its state exists.
struct Core0 {
    index: usize,
    cpu: Option<usize>,
    driver: Wanted,
    node: Arc<Node>,
}

impl Core0 {
    fn seat(self, state: CoreState) -> Seat {
        Seat { index: self.index, cpu: self.cpu, driver: self.driver, node: self.node, state }
    }
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

/// A shared secret is believed from a file only.
fn parse_keys(bytes: &[u8], source: &KeySource) -> Result<KeySet, String> {
    let origin = match source {
        KeySource::File(_) => Origin::File,
        KeySource::Url(_) | KeySource::Issuer(_) => Origin::Url,
    };
    KeySet::parse(bytes, origin).map_err(|error| error.to_string())
}

fn now_ms() -> u64 {
    crate::sys::thread::monotonic_ns() / 1_000_000
}

fn refused(loaded: &Loaded, errors: Vec<ConfigError>) -> StartError {
    let mut all = Errors::new(Arc::clone(&loaded.sources), Vec::new());
    all.extend(errors);
    StartError::Config(all)
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

fn driver_of(config: &Config) -> Wanted {
    match config.node.driver.as_ref().map(|driver| driver.value) {
        None | Some(written::Driver::Auto) => Wanted::Auto,
        Some(written::Driver::IoUring) => Wanted::Only(Driver::Tuned),
        Some(written::Driver::Epoll) => Wanted::Only(Driver::Epoll),
    }
}

/// The CPUs to run on: as many as `node.cores` says, else as many as the affinity mask and the quota of the cgroup allow.
fn core_count(config: &Config) -> Vec<Option<usize>> {
    let usable = crate::sys::thread::usable_cpus().unwrap_or_default();
    let quota = quota_of(Path::new("/sys/fs/cgroup")).unwrap_or(usize::MAX);
    let count = match &config.node.cores {
        Some(cores) => usize::try_from(cores.value).unwrap_or(1),
        None => usable.len().min(quota),
    };
    // More threads than CPUs are not pinned: two on one CPU would starve each other.
    (0..count.max(1)).map(|index| usable.get(index).copied().filter(|_| count <= usable.len())).collect()
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

/// CPUs that the cgroup grants, rounded up; `None` without a quota.
fn quota_of(cgroup: &Path) -> Option<usize> {
    if let Ok(text) = std::fs::read_to_string(cgroup.join("cpu.max")) {
        return parse_quota(&text);
    }
    let read = |name: &str| std::fs::read_to_string(cgroup.join("cpu").join(name)).ok();
    parse_quota(&format!("{} {}", read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim()))
}

fn parse_quota(text: &str) -> Option<usize> {
    let mut words = text.split_whitespace();
    let quota: u64 = words.next()?.parse().ok()?;
    let period: u64 = words.next()?.parse().ok().filter(|&period| period > 0)?;
    usize::try_from(quota.div_ceil(period).max(1)).ok()
}

/// The address as it is configured, the listener there, and whether that is the one that is handed over.
fn bind_admin(
    config: &Config,
    inherited: Option<(Address, TcpListener)>,
) -> Result<Option<(Address, Admin, bool)>, StartError> {
    let address = match config.node.metrics.as_ref().map(|metrics| &metrics.value) {
        None => SocketAddr::from(([127, 0, 0, 1], 9901)).into(),
        Some(written::Metrics::At(unit::Address::Tcp(address))) => (*address).into(),
        Some(written::Metrics::At(unit::Address::Unix(path))) => path.as_path().into(),
        Some(written::Metrics::Nowhere) => return Ok(None),
    };
    let inherited = inherited.filter(|(wanted, _)| *wanted == address);
    if let Some(admin) = inherited.and_then(|(wanted, listener)| Admin::adopt(listener, &wanted).ok()) {
        return Ok(Some((address, admin, true)));
    }
    match Admin::bind(&address, owner(config)) {
        Ok(admin) => Ok(Some((address, admin, false))),
        Err(error) => Err(StartError::System(format!("node.metrics: {address}: {error}"))),
    }
}

/// Whose files are to be that are made before privileges are dropped.
fn owner(config: &Config) -> Option<(u32, u32)> {
    let name = config.node.user.as_ref()?;
    User::find(&name.value).ok().map(|user| (user.user, user.group))
}

/// The control socket, and whether it is the one that is handed over.
fn bind_socket(
    config: &Config,
    settings: &Settings,
    inherited: Option<(PathBuf, UnixListener)>,
) -> Option<(ControlSocket, bool)> {
    let fits = |path: &PathBuf| match &config.node.control {
        Some(wanted) => *path == wanted.value.0,
        None => default_paths().contains(path),
    };
    if let Some((path, listener)) = inherited.filter(|(path, _)| fits(path))
        && let Ok(socket) = ControlSocket::adopt(listener, &path)
    {
        return Some((socket, true));
    }
    let owner = owner(config);
    let socket = match &config.node.control {
        Some(path) => match ControlSocket::bind(&path.value.0, owner) {
            Ok(socket) => Some(socket),
            Err(error) => {
                Line::warn(NO_CONTROL_SOCKET).with("why", error).emit();
                None
            }
        },
        None if matches!(settings.source, Source::Text { .. }) => None,
        None => ControlSocket::bind_default(owner),
    };
    socket.map(|socket| (socket, false))
}

/// Where blocks are kept: in the directory for what is to survive, or else beside the control socket, which they come over.
fn blocks_file(config: &Config, control: Option<&Path>) -> Option<PathBuf> {
    match &config.node.state {
        Some(directory) => Some(directory.value.0.join("blocks.json")),
        None => control.map(|path| {
            let mut name = path.as_os_str().to_owned();
            name.push(".blocks");
            PathBuf::from(name)
        }),
    }
}

fn drop_privileges(config: &Config, settings: &Settings) -> Result<(), StartError> {
    match &config.node.user {
        Some(name) => {
            let user = User::find(&name.value).map_err(|error| StartError::System(error.to_string()))?;
            privileges::drop_to(&user).map_err(|error| StartError::System(error.to_string()))?;
        }
        None if privileges::effective_user() == 0 && !settings.quiet => Line::warn(RUNS_AS_ROOT).emit(),
        None => {}
    }
    Ok(())
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

fn add_sources(
    registry: &mut Registry,
    node: &Arc<Node>,
    choices: &[Choice],
    expired: usize,
    reload_ok: &Arc<AtomicBool>,
    told: &Arc<Told>,
) {
    let (reload_ok, told) = (Arc::clone(reload_ok), Arc::clone(told));
    let drivers: Vec<&'static str> = choices.iter().map(|choice| choice.driver.name()).collect();
    let node = Arc::clone(node);
    registry.add_source(move |samples| {
        for (core, driver) in drivers.iter().enumerate() {
            samples.push(Family::DriverInfo, &[("core", &core.to_string()), ("driver", driver)], 1.0);
        }
        samples.push(Family::ConfigGeneration, &[], node.generation.load(Ordering::Relaxed) as f64);
        let reloaded = f64::from(u8::from(reload_ok.load(Ordering::Relaxed)));
        samples.push(Family::ConfigLastReloadSuccess, &[], reloaded);
        let spread_us = told.spread_us.load(Ordering::Relaxed);
        samples.push(Family::ConfigSpread, &[], spread_us as f64 / 1e6);
        samples.push(Family::ConfigsAlive, &[], told.configs_alive.load(Ordering::Relaxed) as f64);
        samples.push(Family::ExceptionsExpired, &[], expired as f64);
        samples.push(Family::Blocks, &[], node.blocks.look(Blocks::len) as f64);
        samples.push(Family::ConnectionsMax, &[], f64::from(node.caps.bounds().all));
        for (what, used, most, resource) in [
            ("memory", Family::MemoryUsed, Family::MemoryMax, &node.pressure.memory),
            ("descriptors", Family::DescriptorsUsed, Family::DescriptorsMax, &node.pressure.descriptors),
        ] {
            let figures = resource.figures();
            samples.push(used, &[], figures.0 as f64);
            samples.push(most, &[], figures.1 as f64);
            let short = resource.level() > Level::Easy;
            samples.push(Family::AcceptsPaused, &[("reason", what)], f64::from(u8::from(short)));
        }
        let snapshot = node.snapshot.load();
        for listener in &snapshot.listeners {
            if let Some(tls) = &listener.tls {
                let expiry = tls.not_after_s as f64;
                samples.push(Family::CertificateExpiry, &[("listener", &listener.name)], expiry);
                if let Some(lists) = tls.clients().and_then(|clients| clients.lists()) {
                    let ends = lists.next_update_s as f64;
                    samples.push(Family::ClientCrlExpiry, &[("listener", &listener.name)], ends);
                }
            }
        }
        let now_ns = crate::sys::thread::monotonic_ns();
        let tables = [
            ("address", snapshot.tables.minted.used_ratio(now_ns)),
            ("identity", snapshot.tables.identities.used_ratio(now_ns)),
            ("connection", node.arrivals.used_ratio(now_ns)),
        ];
        for (keys, used_ratio) in tables {
            samples.push(Family::LimitTableUsed, &[("policy", keys)], used_ratio);
        }
        for upstream in &snapshot.upstreams {
            if let Some(valid) = upstream.files_are_valid() {
                let labels = [("upstream", &*upstream.name)];
                samples.push(Family::UpstreamTargetsValid, &labels, f64::from(u8::from(valid)));
            }
            let labels = [("upstream", &*upstream.name)];
            if let Some(slots) = &upstream.slots {
                samples.push(Family::UpstreamInFlight, &labels, f64::from(slots.in_flight()));
                samples.push(Family::UpstreamInFlightMax, &labels, f64::from(slots.limit()));
            }
            if let Some(breaker) = &upstream.breaker {
                let open = breaker.state() != crate::upstream::breaker::State::Closed;
                samples.push(Family::BreakerOpen, &labels, f64::from(u8::from(open)));
            }
            let now_ms = crate::sys::thread::monotonic_ns() / 1_000_000;
            for seat in &upstream.members().seats {
                let member = &seat.member;
                let ejected = f64::from(u8::from(member.record.is_out(now_ms)));
                let labels = [("upstream", &*upstream.name), ("target", member.name())];
                samples.push(Family::UpstreamConnections, &labels, f64::from(member.open()));
                samples.push(Family::UpstreamUp, &labels, f64::from(u8::from(member.is_up())));
                samples.push(Family::UpstreamEjected, &labels, ejected);
            }
        }
    });
}

fn lock(registry: &Mutex<Registry>) -> std::sync::MutexGuard<'_, Registry> {
    registry.lock().unwrap_or_else(PoisonError::into_inner)
}

fn pages(registry: &Arc<Mutex<Registry>>, node: &Arc<Node>) -> Pages {
    let registry = Arc::clone(registry);
    let node = Arc::clone(node);
    Pages {
        metrics: Arc::new(move |format| {
            let form = match format {
                Format::Prometheus => Exposition::Text,
                Format::OpenMetrics => Exposition::OpenMetrics,
            };
            lock(&registry).page(form, now_ms())
        }),
        ready: Arc::new(move || match (node.draining.load(Ordering::Relaxed), node.pressure.told()) {
            (true, _) => Err("draining".to_owned()),
            (false, Some(what)) => Err(format!("short of {what}")),
            (false, None) => Ok(()),
        }),
    }
}

/// For tests and tools: the snapshot that runs now.
pub fn current(running: &Running) -> Arc<Snapshot> {
    running.node.snapshot.load_full()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotas_are_rounded_up_and_may_be_absent() {
        assert_eq!(parse_quota("150000 100000\n"), Some(2));
        assert_eq!(parse_quota("50000 100000"), Some(1));
        assert_eq!(parse_quota("max 100000"), None);
        assert_eq!(parse_quota("-1 100000"), None);
        assert_eq!(parse_quota("100000 0"), None);
    }
}
