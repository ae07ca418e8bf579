//! How a node comes to be: read the configuration, bind, drop privileges, start the threads; or take all of that over from another
//! process.
//!
//! Not for its life after that: that is the supervisor's ([`super::Running`]), which calls this once.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::RawFd;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use super::pages::{add_sources, pages};
use super::{
    FacesKept, MetricsKept, Running, SETTLE_MAX, Settings, Source, Told, complaint, complaints, files_of,
    fixed, lock, log_config, now_ms, room, tell, unavailable, write_pid,
};
use crate::accept::caps::{Bounds, Caps};
use crate::config::error::{ConfigError, Errors};
use crate::config::load::Loaded;
use crate::config::model::{self as written, Config};
use crate::config::unit;
use crate::control::admin::Admin;
use crate::control::block::Blocklist;
use crate::control::guard::ROOM;
use crate::control::handover::{Inheritance, Program, Takes};
use crate::control::keys::KeySource;
use crate::control::listeners::{Doors, Refused};
use crate::control::process_log::{Code, Line};
use crate::control::service_manager::{State, notify, passed_sockets, refuse_sockets};
use crate::control::signals::Signals;
use crate::control::socket::{ControlSocket, default_paths};
use crate::control::{Control, Faces, Options as ControlOptions, exchange};
use crate::jose::KeySet;
use crate::jose::jwks::Origin;
use crate::observe::{Registry, RequestIds, RingSizes, Writer, rings};
use crate::policy;
use crate::policy::limit::table::Table;
use crate::snapshot::compile::{Kept, addresses, compile};
use crate::snapshot::names::SnapshotNames;
use crate::sys::address::Address;
use crate::sys::descriptors::make_room;
use crate::sys::privileges::{self, User};
use crate::worker::core::Node;
use crate::worker::driver::{Driver, Wanted};
use crate::worker::run::Seat;
use crate::worker::state::CoreState;

/// The node serves.
pub const NODE_READY: Code = Code::new(6001, "ready");
/// Which driver a core runs on, and why.
pub const DRIVER_CHOSEN: Code = Code::new(6002, "driver");
/// The node runs as root because it was not told as whom else.
pub const RUNS_AS_ROOT: Code =
    Code::new(6007, "running as root: set node.user to give that up after binding");
/// An exception of the configuration has ended.
pub const EXCEPTION_ENDED: Code = Code::new(6008, "an exception has ended and is still in force");
/// The control socket cannot be had.
pub const NO_CONTROL_SOCKET: Code =
    Code::new(6009, "no control socket: `ringwall reload` will not reach this process");
/// The node cannot start.
pub const CANNOT_START: Code = Code::new(6062, "cannot start");
/// The counters of limits take a lock.
pub const LIMITS_LOCK: Code =
    Code::new(6065, "no 128-bit compare-and-swap on this machine: limits work and are slow");

/// Descriptors of a process whose limit cannot be read.
const DESCRIPTORS: u64 = 1_024;
/// Descriptors for which the kernel has room from the start, if there may be so many: 512 KiB of its memory.
const DESCRIPTORS_AT_ONCE: u64 = 65_536;

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
    // Not one more than there may be; a node with more connections than that bears with a table that grows.
    let _ = make_room(descriptors.min(DESCRIPTORS_AT_ONCE).saturating_sub(1) as RawFd);

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

/// A shared secret is believed from a file only.
fn parse_keys(bytes: &[u8], source: &KeySource) -> Result<KeySet, String> {
    let origin = match source {
        KeySource::File(_) => Origin::File,
        KeySource::Url(_) | KeySource::Issuer(_) => Origin::Url,
    };
    KeySet::parse(bytes, origin).map_err(|error| error.to_string())
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

fn refused(loaded: &Loaded, errors: Vec<ConfigError>) -> StartError {
    let mut all = Errors::new(Arc::clone(&loaded.sources), Vec::new());
    all.extend(errors);
    StartError::Config(all)
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
