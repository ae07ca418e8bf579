//! Key sets, kept up to date off the data path.
//!
//! One keeper per source: a JWKS file (watched), a JWKS URL, or an OIDC issuer (discovery). Each is a task of
//! its own, so that a slow issuer delays nobody else's keys. A keeper fetches at once, publishes by arc-swap,
//! and fetches again as its [`schedule`] says. What it never does: take keys away. An unreachable issuer, a bad
//! document, a key set without a usable key leave the last good set where it is.
//!
//! A data thread that meets an unknown key id calls [`Keeper::ask`]: one atomic swap, and one `send` for the
//! first of them per fetch. So forged ids cost nothing and cause one fetch per cool-down.
//!
//! Called by the snapshot's compiler, which holds a [`Keeper`] for as long as the snapshot lives; two snapshots
//! with the same source share one keeper, so a reload neither fetches again nor forgets.

pub mod discovery;
pub mod schedule;

use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use self::discovery::DiscoveryError;
use self::schedule::{Cause, Schedule, Times};
use super::address_guard::Origin;
use super::doorbell::{Bell, Ear, Heard, doorbell};
use super::exchange::AbortOnDrop;
use super::fetch::{Client, FetchError, Url, UrlError};
use super::process_log::{Code, Line};
use super::watch::{Subscription, Watcher};
use crate::jose::{self, KeySet};
use crate::sys::file::read_regular;

/// The largest key file, in bytes.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// A key set was published.
pub const KEYS_PUBLISHED: Code = Code::new(6010, "key set published");
/// A key set could not be had; what was known stays.
pub const KEYS_UNAVAILABLE: Code = Code::new(6011, "key set not available, what was known stays");
/// A key set was had, but is not usable; what was known stays.
pub const KEYS_REFUSED: Code = Code::new(6012, "key set refused, what was known stays");

/// A key of a set is not used: its kind is not understood or not fit.
pub const KEY_LEFT_OUT: Code = Code::new(6013, "a key of the set is not used");

/// Where a key set comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeySource {
    /// A JWKS file, watched.
    File(PathBuf),
    /// The URL of a JWKS, written by the operator.
    Url(Url),
    /// An OIDC issuer, exactly as its tokens spell it.
    Issuer(String),
}

impl KeySource {
    /// A key set at `url`.
    ///
    /// # Errors
    /// The URL may not be fetched.
    pub fn url(url: &str) -> Result<KeySource, UrlError> {
        Url::parse(url).map(KeySource::Url)
    }

    /// The key set of `issuer`.
    ///
    /// # Errors
    /// The issuer is no URL below which a discovery document may be fetched.
    pub fn issuer(issuer: &str) -> Result<KeySource, UrlError> {
        discovery::document_url(issuer).map(|_| KeySource::Issuer(issuer.to_owned()))
    }
}

impl fmt::Display for KeySource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeySource::File(path) => write!(f, "{}", path.display()),
            KeySource::Url(url) => write!(f, "{url}"),
            KeySource::Issuer(issuer) => f.write_str(issuer),
        }
    }
}

/// What the data threads see.
#[derive(Debug)]
pub struct PublishedKeys<K> {
    /// Unique in this process over all keepers, growing; 0 until the first good set. A token cached under
    /// another generation is a miss.
    pub generation: u64,
    /// The keys; none until the first good set.
    pub set: Option<Arc<K>>,
    /// When the issuer last confirmed them.
    pub fetched_at: Option<Instant>,
}

/// Counters of one keeper, for metrics. Relaxed: each is a number, not a promise.
#[derive(Debug, Default)]
pub struct KeeperCounts {
    /// Fetches begun.
    pub fetches: AtomicU64,
    /// Fetches that brought no usable set.
    pub failures: AtomicU64,
}

/// One source's keys. The fetching ends with the last holder.
pub struct Keeper<K> {
    // Dropped in this order: the task goes before the bell that it listens to.
    _task: AbortOnDrop,
    _watching: Option<Subscription>,
    bell: Bell,
    shared: Arc<Shared<K>>,
}

struct Shared<K> {
    source: KeySource,
    published: ArcSwap<PublishedKeys<K>>,
    /// Set by whoever asks first, cleared when a fetch begins: one ring per fetch, however many ask.
    asked: AtomicBool,
    changed: Notify,
    settled: tokio::sync::watch::Sender<bool>,
    counts: KeeperCounts,
}

impl<K> Keeper<K> {
    /// The keys as of now. One load of an arc-swap.
    pub fn current(&self) -> arc_swap::Guard<Arc<PublishedKeys<K>>> {
        self.shared.published.load()
    }

    /// The cell itself, for a reader that wants `arc_swap::Cache`.
    pub fn cell(&self) -> &ArcSwap<PublishedKeys<K>> {
        &self.shared.published
    }

    /// A token names a key id that the current set does not have. For data threads: never waits; the first
    /// call after a fetch costs one `send`, every other one an atomic swap.
    pub fn ask(&self) {
        // The load keeps a flood of forged ids from fighting over the cache line.
        let asked = &self.shared.asked;
        if !asked.load(Ordering::Relaxed) && !asked.swap(true, Ordering::AcqRel) {
            self.bell.ring();
        }
    }

    /// Where the keys come from.
    pub fn source(&self) -> &KeySource {
        &self.shared.source
    }

    /// Counters for metrics.
    pub fn counts(&self) -> &KeeperCounts {
        &self.shared.counts
    }

    /// Waits until the first fetch ended, well or badly: whoever wants keys before the first request.
    pub async fn settled(&self) {
        let mut settled = self.shared.settled.subscribe();
        let _ = settled.wait_for(|&settled| settled).await;
    }
}

/// Makes a key set of a document's bytes, knowing where it came from (a shared secret is believed from a file
/// only). An unusable document, or one without a usable key, is an error.
pub type ParseKeys<K> = Arc<dyn Fn(&[u8], &KeySource) -> Result<K, String> + Send + Sync>;

/// The parser for verification keys. A set that was fetched must not hold shared secrets; keys that are not
/// understood are left out and named in the log.
pub fn verification_keys() -> ParseKeys<KeySet> {
    Arc::new(|document, source| {
        let origin = match source {
            KeySource::File(_) => jose::Origin::File,
            KeySource::Url(_) | KeySource::Issuer(_) => jose::Origin::Url,
        };
        let set = KeySet::parse(document, origin).map_err(|error| error.to_string())?;
        for note in set.notes() {
            Line::info(KEY_LEFT_OUT).with("source", source).with("why", note).emit();
        }
        Ok(set)
    })
}

/// All keepers in use.
pub struct Keys<K> {
    runtime: Handle,
    client: Arc<Client>,
    watcher: Watcher,
    parse: ParseKeys<K>,
    times: Times,
    on_publish: Arc<dyn Fn() + Send + Sync>,
    by_source: Mutex<HashMap<KeySource, Weak<Keeper<K>>>>,
}

impl<K: Send + Sync + 'static> Keys<K> {
    /// Keepers that run on `runtime`, fetch with `client`, parse with `parse`, and call `on_publish` after each
    /// new generation (to ring doorbells).
    pub fn new(
        runtime: Handle,
        client: Arc<Client>,
        watcher: Watcher,
        parse: ParseKeys<K>,
        times: Times,
        on_publish: Arc<dyn Fn() + Send + Sync>,
    ) -> Keys<K> {
        Keys { runtime, client, watcher, parse, times, on_publish, by_source: Mutex::default() }
    }

    /// The keeper of `source`; the first caller starts it.
    ///
    /// # Errors
    /// No descriptor is left for its doorbell.
    pub fn keeper(&self, source: KeySource) -> std::io::Result<Arc<Keeper<K>>> {
        let mut by_source = self.by_source.lock().unwrap_or_else(PoisonError::into_inner);
        by_source.retain(|_, keeper| keeper.strong_count() > 0);
        if let Some(keeper) = by_source.get(&source).and_then(Weak::upgrade) {
            return Ok(keeper);
        }
        let (bell, ear) = doorbell()?;
        let empty = PublishedKeys { generation: 0, set: None, fetched_at: None };
        let shared = Arc::new(Shared {
            source: source.clone(),
            published: ArcSwap::from_pointee(empty),
            asked: AtomicBool::new(false),
            changed: Notify::new(),
            settled: tokio::sync::watch::Sender::new(false),
            counts: KeeperCounts::default(),
        });
        let watching = match &source {
            KeySource::File(path) => {
                let shared = shared.clone();
                Some(self.watcher.subscribe(vec![path.clone()], move |_| shared.changed.notify_one()))
            }
            KeySource::Url(_) | KeySource::Issuer(_) => None,
        };
        let work = Work {
            shared: shared.clone(),
            client: self.client.clone(),
            parse: self.parse.clone(),
            on_publish: self.on_publish.clone(),
            schedule: Schedule::new(self.times, Instant::now(), RandomState::new().hash_one(0)),
            discovered: None,
            last_document: Vec::new(),
            complained: false,
        };
        let task = AbortOnDrop(self.runtime.spawn(work.run(ear)));
        let keeper = Arc::new(Keeper { shared, bell, _watching: watching, _task: task });
        by_source.insert(source, Arc::downgrade(&keeper));
        Ok(keeper)
    }

    /// Waits until the first fetch of every keeper in use ended, well or badly.
    pub async fn settled(&self) {
        let keepers: Vec<_> = {
            let by_source = self.by_source.lock().unwrap_or_else(PoisonError::into_inner);
            by_source.values().filter_map(Weak::upgrade).collect()
        };
        for keeper in keepers {
            keeper.settled().await;
        }
    }
}

/// A generation that no other set of this process has.
fn next_generation() -> u64 {
    static LAST: AtomicU64 = AtomicU64::new(0);
    LAST.fetch_add(1, Ordering::Relaxed) + 1
}

/// How often keys have been published, by all keepers: who was let in by one that may be no more asks when this has changed.
static RENEWALS: AtomicU64 = AtomicU64::new(0);

/// Counts how often the keys of an issuer have changed.
#[inline]
pub fn renewals() -> u64 {
    RENEWALS.load(Ordering::Acquire)
}

/// Why there is no new key set.
#[derive(Debug)]
enum KeysError {
    File(String),
    Url(UrlError),
    Fetch(FetchError),
    Discovery(DiscoveryError),
    Unusable(String),
}

impl fmt::Display for KeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeysError::File(why) | KeysError::Unusable(why) => f.write_str(why),
            KeysError::Url(why) => write!(f, "{why}"),
            KeysError::Fetch(why) => write!(f, "{why}"),
            KeysError::Discovery(why) => write!(f, "{why}"),
        }
    }
}

/// The task of one keeper.
struct Work<K> {
    shared: Arc<Shared<K>>,
    client: Arc<Client>,
    parse: ParseKeys<K>,
    on_publish: Arc<dyn Fn() + Send + Sync>,
    schedule: Schedule,
    /// What discovery said last; forgotten by a failure and by a regular refresh.
    discovered: Option<(Url, Origin)>,
    last_document: Vec<u8>,
    complained: bool,
}

impl<K: Send + Sync + 'static> Work<K> {
    async fn run(mut self, ear: Ear) {
        let ear = ear.try_clone().and_then(|second| {
            let stream = tokio::net::UnixStream::from_std(ear.into_stream())?;
            Ok((stream, second))
        });
        loop {
            // The flag is cleared before the fetch begins: an id that turns up meanwhile asks anew.
            if self.shared.asked.swap(false, Ordering::AcqRel) {
                self.schedule.ask();
            }
            if self.schedule.begin(Instant::now()) == Cause::Due {
                // A regular refresh asks the issuer anew where its keys are; an unknown id only fetches the keys.
                self.discovered = None;
            }
            self.fetch_once().await;
            self.shared.settled.send_replace(true);
            self.wait_until_due(ear.as_ref().ok()).await;
        }
    }

    async fn wait_until_due(&mut self, ear: Option<&(tokio::net::UnixStream, Ear)>) {
        loop {
            let due = self.schedule.due();
            if due <= Instant::now() {
                return;
            }
            let heard = async {
                match ear {
                    Some((stream, ear)) => {
                        let _ = stream.readable().await;
                        let mut heard = Heard::Silence;
                        // Tells tokio that the readiness is used up once the socket is empty.
                        let _ = stream.try_io(tokio::io::Interest::READABLE, || {
                            heard = ear.drain();
                            Err::<(), _>(std::io::ErrorKind::WouldBlock.into())
                        });
                        if heard == Heard::Gone {
                            // The keeper is being dropped and this task with it. The end of a stream is
                            // readable for ever: asking again would never give the thread back.
                            std::future::pending::<()>().await;
                        }
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep_until(due.into()) => return,
                () = self.shared.changed.notified() => self.schedule.reread(Instant::now()),
                () = heard => self.schedule.ask(),
            }
        }
    }

    async fn fetch_once(&mut self) {
        self.shared.counts.fetches.fetch_add(1, Ordering::Relaxed);
        let outcome = match self.document().await {
            Ok((document, max_age)) => self.publish(document).map(|()| max_age),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(max_age) => {
                self.complained = false;
                self.schedule.succeeded(Instant::now(), max_age);
            }
            Err(error) => {
                self.shared.counts.failures.fetch_add(1, Ordering::Relaxed);
                self.discovered = None;
                self.schedule.failed(Instant::now());
                // The first failure is news; the same trouble at each retry is a warning's weight less.
                let code = match error {
                    KeysError::Unusable(_) | KeysError::Discovery(_) => KEYS_REFUSED,
                    _ => KEYS_UNAVAILABLE,
                };
                let line = if self.complained { Line::info(code) } else { Line::warn(code) };
                let generation = self.shared.published.load().generation;
                line.with("source", &self.shared.source)
                    .with("generation", generation)
                    .with("why", error)
                    .emit();
                self.complained = true;
            }
        }
    }

    async fn document(&mut self) -> Result<(Vec<u8>, Option<Duration>), KeysError> {
        let (url, origin) = match &self.shared.source {
            KeySource::File(path) => {
                let body = read_regular(path, FILE_BYTES_MAX);
                return body.map(|body| (body, None)).map_err(|error| KeysError::File(error.to_string()));
            }
            KeySource::Url(url) => (url.clone(), Origin::Written),
            KeySource::Issuer(issuer) => match &self.discovered {
                Some(discovered) => discovered.clone(),
                None => {
                    let at = discovery::document_url(issuer).map_err(KeysError::Url)?;
                    let document = self.client.fetch(&at, Origin::Written).await.map_err(KeysError::Fetch)?;
                    let found =
                        discovery::key_set_url(issuer, &at, &document.body).map_err(KeysError::Discovery)?;
                    self.discovered.insert(found).clone()
                }
            },
        };
        let document = self.client.fetch(&url, origin).await.map_err(KeysError::Fetch)?;
        Ok((document.body, document.max_age))
    }

    /// Publishes what `document` holds; the same document again only confirms the keys that are there.
    fn publish(&mut self, document: Vec<u8>) -> Result<(), KeysError> {
        let current = self.shared.published.load_full();
        let fetched_at = Some(Instant::now());
        if current.generation != 0 && self.last_document == document {
            let confirmed =
                PublishedKeys { generation: current.generation, set: current.set.clone(), fetched_at };
            self.shared.published.store(Arc::new(confirmed));
            return Ok(());
        }
        // A keeper that panicked would keep its keys for ever: a document must not be able to do that.
        let parsed = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (self.parse)(&document, &self.shared.source)
        }));
        let parsed = parsed.unwrap_or_else(|_| Err("the parser panicked".to_owned()));
        let set = parsed.map_err(KeysError::Unusable)?;
        let generation = next_generation();
        self.shared.published.store(Arc::new(PublishedKeys {
            generation,
            set: Some(Arc::new(set)),
            fetched_at,
        }));
        RENEWALS.fetch_add(1, Ordering::Release);
        self.last_document = document;
        Line::info(KEYS_PUBLISHED).with("source", &self.shared.source).with("generation", generation).emit();
        (self.on_publish)();
        Ok(())
    }
}
