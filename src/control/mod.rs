//! The control thread: everything slow, so that the data threads never wait.
//!
//! One OS thread named `control` with a tokio current_thread runtime. Its parts know nothing of each other:
//! [`fetch`] (documents, guarded by [`address_guard`]), [`keys`] (key sets), [`dns`] and [`names`], [`health`], [`watch`]
//! (files), [`signals`], [`admin`] (metrics), [`socket`] (verbs). They publish immutable values through
//! arc-swap and ring a [`doorbell`]; a data thread never calls in here except to ring.
//!
//! [`Control::start`] makes the parts that a snapshot's compiler needs (keys, names, health, files);
//! [`Control::serve`] adds those that talk to the operator. What the operator wants arrives as [`Event`]s at
//! the supervisor, which decides: so a reload compiles on the supervisor's thread, and probes, fetches and
//! metrics go on meanwhile.

pub mod address_guard;
pub mod address_lists;
pub mod admin;
pub mod block;
pub mod dns;
pub mod doorbell;
pub mod exchange;
pub mod fetch;
pub mod guard;
pub mod handover;
pub mod health;
mod jitter;
pub mod keys;
pub mod listeners;
pub mod membership;
pub mod names;
pub mod private_file;
pub mod process_log;
pub mod service_manager;
pub mod signals;
pub mod socket;
pub mod supervisor;
pub mod targets_file;
pub mod watch;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};
use ipnet::IpNet;
use rustls::ClientConfig;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::AbortHandle;

use self::address_guard::AddressGuard;
use self::admin::{Admin, Pages};
use self::block::Blocklist;
use self::dns::{Resolve, SystemResolver};
use self::fetch::{Client, FetchLimits};
use self::handover::{Failure, Successor};
use self::health::Health;
use self::keys::schedule::Times;
use self::keys::{Keys, ParseKeys};
use self::membership::Membership;
use self::names::Names;
use self::process_log::{Code, Line};
use self::signals::{Signal, Signals};
use self::socket::{ControlSocket, Request, Response, Verb};
use self::watch::{Subscription, Watcher};
use crate::observe::TargetId;
use crate::upstream::NameTargets;
use crate::worker::core::Node;

/// A part of the control thread ended, which it never should.
pub const CONTROL_PART_ENDED: Code = Code::new(6030, "a part of the control thread ended");

/// Why a reload is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReloadCause {
    /// HUP.
    Signal,
    /// `ringwall reload`.
    Socket,
    /// These watched files changed.
    Files(Vec<PathBuf>),
}

/// Something for the supervisor to do.
#[derive(Debug)]
pub enum Event {
    /// Read the configuration again; say how it went.
    Reload(ReloadCause, Reply),
    /// Go back to the configuration before the one that runs; say how it went.
    Rollback(Reply),
    /// Hand over to a new process, of this program or that one; say how it went.
    Upgrade(Option<PathBuf>, Reply),
    /// How it went with the new process.
    Succession(Result<Successor, Failure>, Reply),
    /// Open the log files again.
    ReopenLogs(Reply),
    /// Drain: readiness off, no new connections, the deadline runs. The reply comes at once.
    Drain(Reply),
    /// End now.
    Stop,
    /// Say how things are.
    Status(Reply),
    /// Put on record what an administrator has done elsewhere.
    OnRecord {
        /// What.
        action: &'static str,
        /// Who: the number of a user.
        by: u32,
        /// To what, and why.
        detail: String,
    },
}

/// The place for the response to whoever asked. Where nobody waits (a signal), it is dropped.
#[derive(Debug)]
#[must_use = "whoever asked waits"]
pub struct Reply(Option<oneshot::Sender<Response>>);

impl Reply {
    /// Nobody waits.
    pub fn to_nobody() -> Reply {
        Reply(None)
    }

    /// Sends the response.
    pub fn send(self, response: Response) {
        if let Some(sender) = self.0 {
            // The asker may have gone; nothing is lost but the answer.
            let _ = sender.send(response);
        }
    }
}

/// What the control thread is started with.
pub struct Options<K> {
    /// The DNS servers of `node.resolver`; empty takes the system's.
    pub servers: Vec<SocketAddr>,
    /// A resolver instead of the real one, for tests.
    pub resolver: Option<Arc<dyn Resolve>>,
    /// Networks that our own fetches may reach beside the public internet.
    pub fetch_listed: Vec<IpNet>,
    /// TLS for our own fetches, from [`exchange::tls_config`].
    pub tls: Arc<ClientConfig>,
    /// What a fetch may cost.
    pub fetch_limits: FetchLimits,
    /// When key sets are fetched.
    pub key_times: Times,
    /// Makes a key set of a document's bytes.
    pub parse_keys: ParseKeys<K>,
    /// Called on the control thread after keys or addresses changed: rings the cores' doorbells.
    pub on_publish: Arc<dyn Fn() + Send + Sync>,
    /// Gives members of upstreams the ids that logs and metrics know them by; without it they have none.
    pub name_targets: NameTargets,
}

impl<K> Options<K> {
    /// Options with the defaults.
    pub fn new(tls: Arc<ClientConfig>, parse_keys: ParseKeys<K>) -> Options<K> {
        Options {
            servers: Vec::new(),
            resolver: None,
            fetch_listed: Vec::new(),
            tls,
            fetch_limits: FetchLimits::default(),
            key_times: Times::default(),
            parse_keys,
            on_publish: Arc::new(|| {}),
            name_targets: Arc::new(|_, names| (vec![TargetId::NONE; names.len()], Arc::default())),
        }
    }
}

/// What talks to the operator; each part may be absent.
#[derive(Default)]
pub struct Faces {
    /// Registered signals.
    pub signals: Option<Signals>,
    /// The bound metrics listener and what it says.
    pub admin: Option<(Admin, Pages)>,
    /// The bound control socket.
    pub socket: Option<ControlSocket>,
    /// What is blocked.
    pub blocks: Option<Arc<Blocklist>>,
}

/// Metrics and verbs as they are served. Dropping it changes nothing.
#[derive(Debug)]
pub struct Serving(Vec<AbortHandle>);

impl Serving {
    /// Takes no more of them; what has begun is finished. Signals are heard on.
    pub fn stop(self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// Why the control thread did not start.
#[derive(Debug)]
pub struct StartError(io::Error);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the control thread cannot start: {}", self.0)
    }
}

/// The parts that a snapshot's compiler uses. Cloned freely; usable from any thread but a data thread.
pub struct Parts<K> {
    /// Key sets.
    pub keys: Arc<Keys<K>>,
    /// Host names.
    pub names: Names,
    /// Health probes.
    pub health: Health,
    /// Who the members of upstreams are.
    pub membership: Membership,
    /// Files under watch.
    pub watcher: Watcher,
}

impl<K> Clone for Parts<K> {
    fn clone(&self) -> Parts<K> {
        Parts {
            keys: self.keys.clone(),
            names: self.names.clone(),
            health: self.health.clone(),
            membership: self.membership.clone(),
            watcher: self.watcher.clone(),
        }
    }
}

/// The running control thread. Dropping it ends the thread and everything on it.
pub struct Control<K> {
    parts: Parts<K>,
    runtime: Handle,
    events: (Sender<Event>, Receiver<Event>),
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl<K: Send + Sync + 'static> Control<K> {
    /// Starts the thread. It inherits the caller's CPU affinity, so start it before anything is pinned.
    ///
    /// # Errors
    /// No thread or no descriptor is left.
    pub fn start(options: Options<K>) -> Result<Control<K>, StartError> {
        let (started, starting) = mpsc::sync_channel(1);
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("control".to_owned())
            .spawn(move || {
                let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
                    Ok(runtime) => runtime,
                    Err(error) => return drop(started.send(Err(error))),
                };
                let parts = {
                    // hickory and the timers look for the runtime that they are made in.
                    let _inside = runtime.enter();
                    make_parts(runtime.handle(), options)
                };
                let _ = started.send(Ok((parts, runtime.handle().clone())));
                drop(started);
                // Ends when told to, or when the `Control` is gone.
                let _ = runtime.block_on(stopped);
            })
            .map_err(StartError)?;
        let (parts, runtime) = match starting.recv() {
            Ok(Ok(started)) => started,
            Ok(Err(error)) => return Err(StartError(error)),
            Err(_) => return Err(StartError(io::Error::other("it panicked"))),
        };
        Ok(Control { parts, runtime, events: unbounded(), stop: Some(stop), thread: Some(thread) })
    }

    /// Keys, names, health, files.
    pub fn parts(&self) -> &Parts<K> {
        &self.parts
    }

    /// What the operator wants, in order. Events come from signals, the socket and [`watch_config`]: as many
    /// as the operator makes, a handful.
    ///
    /// [`watch_config`]: Control::watch_config
    pub fn events(&self) -> &Receiver<Event> {
        &self.events.1
    }

    /// For another thread that has something for the supervisor to do.
    pub fn sender(&self) -> Sender<Event> {
        self.events.0.clone()
    }

    /// Watches the files that the configuration consists of; a change becomes [`Event::Reload`].
    pub fn watch_config(&self, files: Vec<PathBuf>) -> Subscription {
        let events = self.events.0.clone();
        self.parts.watcher.subscribe(files, move |changed| {
            let cause = ReloadCause::Files(changed.to_vec());
            let _ = events.send(Event::Reload(cause, Reply(None)));
        })
    }

    /// Begins to hear signals, serve metrics and take verbs.
    pub fn serve(&self, faces: Faces) -> Serving {
        let Faces { signals, admin, socket, blocks } = faces;
        if let Some(blocks) = &blocks {
            self.spawn("blocks", Arc::clone(blocks).tend());
        }
        let mut serving = Serving(Vec::new());
        if let Some(signals) = signals {
            let events = self.events.0.clone();
            let watcher = self.parts.watcher.clone();
            self.spawn(
                "signals",
                signals.listen(move |signal| {
                    let event = match signal {
                        Signal::Reload => {
                            // Key stores and key sets, too, are looked at again.
                            watcher.look();
                            Event::Reload(ReloadCause::Signal, Reply(None))
                        }
                        Signal::ReopenLogs => Event::ReopenLogs(Reply(None)),
                        Signal::Upgrade => Event::Upgrade(None, Reply(None)),
                        Signal::Drain => Event::Drain(Reply(None)),
                        Signal::Stop => Event::Stop,
                    };
                    let _ = events.send(event);
                }),
            );
        }
        if let Some((admin, pages)) = admin {
            serving.0.push(self.spawn("admin", admin.serve(pages)));
        }
        if let Some(socket) = socket {
            let events = self.events.0.clone();
            serving.0.push(self.spawn(
                "socket",
                socket.serve(move |request, sender| {
                    let reply = Reply(Some(sender));
                    let Request { verb, binary, block, by } = request;
                    let event = match verb {
                        // Not the supervisor's: it may be busy with a reload, and this is not to wait.
                        Verb::Block => {
                            let (blocks, events) = (blocks.clone(), events.clone());
                            drop(tokio::task::spawn_blocking(move || {
                                let done = block::perform(blocks.as_deref(), block.as_ref(), by);
                                if let Some((action, detail)) = done.action {
                                    let _ = events.send(Event::OnRecord { action, by, detail });
                                }
                                reply.send(done.response);
                            }));
                            return;
                        }
                        Verb::Rollback => Event::Rollback(reply),
                        Verb::Upgrade => Event::Upgrade(binary, reply),
                        Verb::Reload => Event::Reload(ReloadCause::Socket, reply),
                        Verb::Status => Event::Status(reply),
                        Verb::ReopenLogs => Event::ReopenLogs(reply),
                        Verb::Drain => Event::Drain(reply),
                    };
                    let _ = events.send(event);
                }),
            ));
        }
        serving
    }

    /// Waits until the keys and names that a new snapshot asked for were had, or could not be had, and no longer than
    /// `patience`: so the first request finds them. Not from the control thread itself.
    pub fn settle(&self, patience: Duration) {
        self.block_on(async {
            let settled = async {
                self.parts.keys.settled().await;
                self.parts.names.settled().await;
            };
            let _ = tokio::time::timeout(patience, settled).await;
        });
    }

    /// Runs `work` on the calling thread, with the timers and sockets of the control thread, and waits for it. Not
    /// from the control thread itself.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Looks after memory, descriptors and connections of `node`, whose process may have so many `descriptors`.
    pub fn guard(&self, node: Arc<Node>, descriptors: u64) {
        self.spawn("guard", guard::watch(node, descriptors));
    }

    fn spawn(
        &self,
        part: &'static str,
        work: impl Future<Output = io::Result<()>> + Send + 'static,
    ) -> AbortHandle {
        let running = self.runtime.spawn(work);
        let handle = running.abort_handle();
        self.runtime.spawn(async move {
            let ended = match running.await {
                Err(error) if error.is_cancelled() => Ok(()),
                ended => ended.map_err(io::Error::other).flatten(),
            };
            if let Err(error) = ended {
                Line::error(CONTROL_PART_ENDED).with("part", part).with("why", error).emit();
            }
        });
        handle
    }
}

impl<K> Drop for Control<K> {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn make_parts<K: Send + Sync + 'static>(runtime: &Handle, options: Options<K>) -> Parts<K> {
    let resolver = options
        .resolver
        .unwrap_or_else(|| Arc::new(SystemResolver::new(&options.servers)) as Arc<dyn Resolve>);
    let guard = AddressGuard::new(options.fetch_listed);
    let client = Arc::new(Client::new(resolver.clone(), guard, options.tls, options.fetch_limits));
    let watcher = Watcher::new(runtime);
    let membership = Membership::new(options.name_targets);
    runtime.spawn(membership.clone().attend());
    let refreshed = membership.clone();
    let on_publish = options.on_publish.clone();
    let on_change = Arc::new(move || {
        refreshed.refresh();
        on_publish();
    });
    let names = Names::new(runtime.clone(), resolver, on_change);
    let keys = Keys::new(
        runtime.clone(),
        client,
        watcher.clone(),
        options.parse_keys,
        options.key_times,
        options.on_publish,
    );
    let health = Health::new(runtime.clone());
    Parts { keys: Arc::new(keys), health, membership, names, watcher }
}
