//! The life of a node: read the configuration, bind, drop privileges, start the threads, then do what the operator
//! wants until it ends.
//!
//! The supervisor is the main thread. It compiles reloads aside, so that probes, fetches and metrics go on meanwhile, and a
//! configuration that is not in order changes nothing.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::config::error::{ConfigError, Errors};
use crate::config::load::Loaded;
use crate::config::model::{self as written, Config};
use crate::config::unit::Address;
use crate::control::admin::{Admin, Format, Pages};
use crate::control::keys::KeySource;
use crate::control::process_log::{Code, Line};
use crate::control::service_manager::{State, notify};
use crate::control::signals::Signals;
use crate::control::socket::{Complaint, ControlSocket, Response};
use crate::control::watch::Subscription;
use crate::control::{Control, Event, Faces, Options as ControlOptions, ReloadCause, Reply, exchange};
use crate::jose::KeySet;
use crate::jose::jwks::Origin;
use crate::observe::{
    AdminLog, AdminRecord, AuditSink, Exposition, Family, LOG_NOT_REOPENED, LogConfig, LogFormat, Registry,
    RequestIds, RingSizes, Sink, Writer, rings,
};
use crate::policy;
use crate::policy::limit::table::Table;
use crate::snapshot::Snapshot;
use crate::snapshot::compile::{Kept, addresses, compile};
use crate::snapshot::names::SnapshotNames;
use crate::sys::privileges::{self, User};
use crate::worker::core::Node;
use crate::worker::driver::{Choice, Driver, Wanted};
use crate::worker::run::{Seat, listen_all};
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
pub const NEEDS_RESTART: Code = Code::new(6061, "listeners change only with a restart; the old ones stay");
/// The node cannot start.
pub const CANNOT_START: Code = Code::new(6062, "cannot start");
/// A data thread has ended on its own.
pub const CORE_ENDED: Code = Code::new(6063, "a data thread has ended");

/// How long a start and a reload wait for new key sets and names before they go on without.
const SETTLE_MAX: Duration = Duration::from_secs(2);

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
    threads: Vec<JoinHandle<io::Result<()>>>,
    alive: Arc<AtomicUsize>,
    subscription: Option<Subscription>,
    addresses: Vec<SocketAddr>,
    metrics_address: Option<SocketAddr>,
    wanted_addresses: Vec<SocketAddr>,
    choices: Vec<Choice>,
    drain: Duration,
    reload_ok: Arc<AtomicBool>,
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

/// Starts a node: when this returns, all cores accept.
///
/// # Errors
/// The configuration, or what the system refused.
pub fn start(settings: Settings) -> Result<Running, StartError> {
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
    let _ = privileges::raise_descriptor_limit();

    // Everything that needs privileges comes first.
    let wanted_addresses = addresses(config).map_err(|errors| refused(&loaded, errors))?;
    let cores = core_count(config);
    let listeners = listen_all(&wanted_addresses, cores.len())?;
    let bound: Vec<SocketAddr> = match listeners.first() {
        Some(first) => first.iter().map(|listener| listener.local_addr()).collect::<io::Result<_>>()?,
        None => Vec::new(),
    };
    let signals = Signals::register()?;
    let admin = bind_admin(config)?;
    let metrics_address = admin.as_ref().map(Admin::address);
    let socket = bind_socket(config, &settings);
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

    let mut kept = Kept::default();
    let mut snapshot =
        compile(config, 1, &mut kept, Some(control.parts())).map_err(|errors| refused(&loaded, errors))?;
    tell(kept.take_notes());
    control.settle(SETTLE_MAX);
    if !Table::is_lock_free() {
        Line::warn(LIMITS_LOCK).emit();
    }
    snapshot.names = SnapshotNames::register(&snapshot, &mut lock(&registry), now_ms());
    let logs = rings(cores.len(), RingSizes::default());
    lock(&registry).watch_rings(&logs.drain);
    let directory = lock(&registry).directory();
    let writer = Writer::start(logs.drain, &log_config(config, settings.silent_log), directory)
        .map_err(|error| StartError::System(format!("{}: {}", error.sink, error.source)))?;
    lock(&registry).watch_writer(writer.stats());

    let node = Arc::new(Node::new(snapshot));
    let alive = Arc::new(AtomicUsize::new(0));
    let mut threads = Vec::new();
    let mut choices = Vec::new();
    let wanted = settings.driver.unwrap_or_else(|| driver_of(config));
    for ((index, (cpu, listeners)), log) in cores.iter().zip(listeners).enumerate().zip(logs.cores) {
        let metrics = lock(&registry)
            .take_core(index)
            .ok_or_else(|| StartError::System("a core has no counters".into()))?;
        let ids =
            RequestIds::new().map_err(|_| StartError::System("no randomness for request ids".into()))?;
        let seat = Core0 { index, cpu: *cpu, wanted, listeners, node: Arc::clone(&node) };
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
    add_sources(&mut lock(&registry), &node, &choices, loaded.expired.len(), &reload_ok);
    control.serve(Faces {
        signals: Some(signals),
        admin: admin.map(|admin| (admin, pages(&registry, &node))),
        socket,
    });
    let subscription = match &settings.source {
        Source::File(_) => Some(control.watch_config(files_of(&loaded))),
        Source::Text { .. } => None,
    };
    let _ = notify(State::Ready, "serving");
    if !settings.quiet {
        let mut line =
            Line::info(NODE_READY).with("version", env!("CARGO_PKG_VERSION")).with("cores", cores.len());
        for address in &bound {
            line = line.with("listen", address);
        }
        if let Some(address) = metrics_address {
            line = line.with("metrics", address);
        }
        line.emit();
    }
    Ok(Running {
        drain: config.node.drain_in_force(),
        reload_ok,
        node,
        control,
        registry,
        writer,
        admin_log: logs.admin,
        kept,
        settings,
        threads,
        alive,
        subscription,
        addresses: bound,
        metrics_address,
        wanted_addresses,
        choices,
    })
}

/// What a data thread is given, before its state exists.
struct Core0 {
    index: usize,
    cpu: Option<usize>,
    wanted: Wanted,
    listeners: Vec<std::net::TcpListener>,
    node: Arc<Node>,
}

impl Core0 {
    fn seat(self, state: CoreState) -> Seat {
        Seat {
            index: self.index,
            cpu: self.cpu,
            driver: self.wanted,
            listeners: self.listeners,
            node: self.node,
            state,
        }
    }
}

impl Running {
    /// The addresses that are listened on, in the order of the configuration.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// The address of `/metrics`.
    pub fn metrics_address(&self) -> Option<SocketAddr> {
        self.metrics_address
    }

    /// The drivers of the cores.
    pub fn drivers(&self) -> impl Iterator<Item = Driver> + '_ {
        self.choices.iter().map(|choice| choice.driver)
    }

    /// Does what the operator wants until the node ends.
    pub fn supervise(mut self) -> bool {
        let mut draining: Option<Instant> = None;
        loop {
            let wait = match draining {
                None => Duration::from_secs(1),
                Some(_) => Duration::from_millis(50),
            };
            match self.control.events().recv_timeout(wait) {
                Ok(Event::Reload(cause, reply)) => self.reload(&cause, reply),
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
                        self.begin_drain();
                    }
                    reply.send(Response::done(serde_json::Value::Null));
                }
                Ok(Event::Status(reply)) => reply.send(Response::done(self.status())),
                Ok(Event::Stop) => return self.end(true),
                Err(_) => {}
            }
            self.kept.tend();
            let alive = self.alive.load(Ordering::Relaxed);
            match draining {
                Some(deadline) if alive == 0 || Instant::now() >= deadline => return self.end(alive == 0),
                None if alive < self.threads.len() => {
                    Line::error(CORE_ENDED).with("alive", alive).with("of", self.threads.len()).emit();
                    return self.end(false);
                }
                _ => {}
            }
        }
    }

    fn begin_drain(&self) {
        // Who reads that the node drains finds it draining.
        self.node.draining.store(true, Ordering::Release);
        if !self.settings.quiet {
            Line::info(DRAINING).with("deadline_s", self.drain.as_secs()).emit();
        }
        let _ = notify(State::Stopping, "draining");
        self.on_record("drain", "", "ok", "");
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({
            "generation": self.node.generation.load(Ordering::Relaxed),
            "draining": self.node.draining.load(Ordering::Relaxed),
            "listen": self.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "drivers": self.choices.iter().map(|choice| choice.driver.name()).collect::<Vec<_>>(),
        })
    }

    /// Reads the configuration again. What is not in order is told and changes nothing.
    pub fn reload(&mut self, cause: &ReloadCause, reply: Reply) {
        let _ = notify(State::Reloading, "reloading");
        match self.try_reload() {
            Ok(generation) => {
                Line::info(RELOADED)
                    .with("generation", generation)
                    .with("cause", format!("{cause:?}"))
                    .emit();
                self.on_record("reload", actor(cause), "ok", "");
                reply.send(Response::done(serde_json::json!({ "generation": generation })));
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

    fn try_reload(&mut self) -> Result<u64, Errors> {
        let loaded = self.settings.source.load()?.refuse_expired()?;
        if self.subscription.is_some() {
            // Before they are read, so that no change falls between; and also where something is wrong with them, so that
            // mending it is noticed.
            self.subscription = Some(self.control.watch_config(files_of(&loaded)));
        }
        let generation = self.node.generation.load(Ordering::Relaxed) + 1;
        let refuse = |errors: Vec<ConfigError>| {
            let mut all = Errors::new(Arc::clone(&loaded.sources), Vec::new());
            all.extend(errors);
            all
        };
        let wanted = addresses(&loaded.config).map_err(refuse)?;
        let mut snapshot = compile(&loaded.config, generation, &mut self.kept, Some(self.control.parts()))
            .map_err(refuse)?;
        tell(self.kept.take_notes());
        if wanted != self.wanted_addresses {
            Line::warn(NEEDS_RESTART).emit();
        }
        self.control.settle(SETTLE_MAX);
        snapshot.names = SnapshotNames::register(&snapshot, &mut self.registry_lock(), now_ms());
        self.reload_ok.store(true, Ordering::Relaxed);
        self.node.publish(snapshot);
        let _ = self.writer.configure(&log_config(&loaded.config, self.settings.silent_log));
        self.drain = loaded.config.node.drain_in_force();
        Ok(generation)
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
    fn end(self, clean: bool) -> bool {
        let written = self.writer.stop(Duration::from_secs(2));
        if !self.settings.quiet {
            Line::info(NODE_ENDED).with("drained", clean).with("log_complete", written).emit();
        }
        clean
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
                ..Complaint::default()
            }
        })
        .collect()
}

/// The files whose change is a reload: those of the configuration, and those that it names and that are read with it.
/// Key stores and key sets are watched by whoever keeps them.
fn files_of(loaded: &Loaded) -> Vec<PathBuf> {
    let config = &loaded.config;
    let mut files: Vec<PathBuf> =
        loaded.sources.files().iter().map(|source| PathBuf::from(source.name())).collect();
    for tls in config.listen.iter().filter_map(|listener| listener.tls.as_ref()) {
        if let written::Tls::Files(pairs) = &tls.value {
            files.extend(pairs.iter().flat_map(|pair| [pair.cert.value.0.clone(), pair.key.value.0.clone()]));
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
        files.extend(api.body.iter().chain(inner).map(|body| body.schema.value.0.clone()));
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

fn bind_admin(config: &Config) -> Result<Option<Admin>, StartError> {
    let address = match config.node.metrics.as_ref().map(|metrics| &metrics.value) {
        None => SocketAddr::from(([127, 0, 0, 1], 9901)),
        Some(written::Metrics::At(Address::Tcp(address))) => *address,
        Some(written::Metrics::At(Address::Unix(_))) => {
            return Err(StartError::System("node.metrics: a Unix socket is not in this version".into()));
        }
        Some(written::Metrics::Nowhere) => return Ok(None),
    };
    Admin::bind(address)
        .map(Some)
        .map_err(|error| StartError::System(format!("node.metrics: {address}: {error}")))
}

fn bind_socket(config: &Config, settings: &Settings) -> Option<ControlSocket> {
    let owner = config
        .node
        .user
        .as_ref()
        .and_then(|user| User::find(&user.value).ok())
        .map(|user| (user.user, user.group));
    match &config.node.control {
        Some(path) => match ControlSocket::bind(&path.value.0, owner) {
            Ok(socket) => Some(socket),
            Err(error) => {
                Line::warn(NO_CONTROL_SOCKET).with("why", error).emit();
                None
            }
        },
        None if matches!(settings.source, Source::Text { .. }) => None,
        None => ControlSocket::bind_default(owner),
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
) {
    let reload_ok = Arc::clone(reload_ok);
    let drivers: Vec<&'static str> = choices.iter().map(|choice| choice.driver.name()).collect();
    let node = Arc::clone(node);
    registry.add_source(move |samples| {
        for (core, driver) in drivers.iter().enumerate() {
            samples.push(Family::DriverInfo, &[("core", &core.to_string()), ("driver", driver)], 1.0);
        }
        samples.push(Family::ConfigGeneration, &[], node.generation.load(Ordering::Relaxed) as f64);
        let reloaded = f64::from(u8::from(reload_ok.load(Ordering::Relaxed)));
        samples.push(Family::ConfigLastReloadSuccess, &[], reloaded);
        samples.push(Family::ExceptionsExpired, &[], expired as f64);
        let snapshot = node.snapshot.load();
        for listener in &snapshot.listeners {
            if let Some(tls) = &listener.tls {
                let expiry = tls.not_after_s as f64;
                samples.push(Family::CertificateExpiry, &[("listener", &listener.name)], expiry);
            }
        }
        let now_ns = crate::sys::thread::monotonic_ns();
        let tables = [("address", &snapshot.tables.minted), ("identity", &snapshot.tables.identities)];
        for (keys, table) in tables {
            samples.push(Family::LimitTableUsed, &[("policy", keys)], table.used_ratio(now_ns));
        }
        for upstream in &snapshot.upstreams {
            for seat in &upstream.members().seats {
                let member = &seat.member;
                let labels = [("upstream", &*upstream.name), ("target", member.name())];
                samples.push(Family::UpstreamConnections, &labels, f64::from(member.open()));
                samples.push(Family::UpstreamUp, &labels, f64::from(u8::from(member.is_up())));
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
        ready: Arc::new(move || match node.draining.load(Ordering::Relaxed) {
            true => Err("draining".to_owned()),
            false => Ok(()),
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
