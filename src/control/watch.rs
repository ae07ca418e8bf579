//! Which files changed: configuration, certificates, key stores, key sets.
//!
//! inotify watches *directories*: an editor replaces a file by a rename, Kubernetes swaps a `..data` symlink
//! beside it, and a watch on the file itself would follow the old inode into the void. Every symlink on the way
//! to a file has its directory watched too. Of what happens in a directory only what happens to the names that matter
//! counts: a log that is written beside them puts nothing off. An event only says "look": after [`QUIET`] without another
//! one the files' stamps are compared, and the subscribers of those that differ are told. Where inotify is not to be
//! had (its limits, some network file systems) the stamps are compared every [`POLL`] anyway.
//!
//! Not for deciding what a change means. Called by `keys` (key-set files) and by the supervisor.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant, SystemTime};

use notify::event::{AccessKind, AccessMode};
use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::exchange::AbortOnDrop;
use super::process_log::{Code, Line};

/// How long files must be quiet before they are looked at: one save is several events.
pub const QUIET: Duration = Duration::from_millis(250);
/// The longest that a steady stream of events can put a look off.
pub const QUIET_MAX: Duration = Duration::from_secs(2);
/// How often stamps are compared without any event; every two seconds where inotify fails.
pub const POLL: Duration = Duration::from_secs(10);
const POLL_ALONE: Duration = Duration::from_secs(2);
/// The most symlinks that are followed on the way to one file (Linux itself follows 40).
const SYMLINKS_MAX: usize = 40;

/// inotify is not available; stamps are compared every two seconds instead.
pub const WATCH_POLLS: Code = Code::new(6020, "file changes are found by polling, inotify is not available");

/// What tells two versions of a file apart without reading it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    modified: Option<SystemTime>,
    changed: (i64, i64),
}

impl Stamp {
    /// `None` for a file that is not there.
    fn of(path: &Path) -> Option<Stamp> {
        use std::os::unix::fs::MetadataExt as _;
        let metadata = std::fs::metadata(path).ok()?;
        Some(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: metadata.modified().ok(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        })
    }
}

/// When to look, given when events came. Time in, decisions out.
#[derive(Debug, Default)]
pub struct Debounce {
    burst: Option<(Instant, Instant)>,
}

impl Debounce {
    /// An event came.
    pub fn event(&mut self, now: Instant) {
        let first = self.burst.map_or(now, |(first, _)| first);
        self.burst = Some((first, now));
    }

    /// When to look; `None` while nothing happened.
    pub fn due(&self) -> Option<Instant> {
        self.burst.map(|(first, last)| (last + QUIET).min(first + QUIET_MAX))
    }

    /// We look now: the burst is over.
    pub fn settle(&mut self) {
        self.burst = None;
    }
}

type OnChange = Arc<dyn Fn(&[PathBuf]) + Send + Sync>;

struct Subscribed {
    files: Vec<(PathBuf, Option<Stamp>)>,
    on_change: OnChange,
}

#[derive(Default)]
struct Subscriptions {
    last: u64,
    by_id: HashMap<u64, Subscribed>,
}

#[derive(Default)]
struct Shared {
    subscriptions: Mutex<Subscriptions>,
    /// The set of files changed: watch other directories.
    resubscribed: Notify,
    /// The kernel reported something.
    event: Notify,
    /// Look now, whatever the debounce says.
    look: Notify,
    /// What the kernel's reports are about, where they matter: names in real directories, and the directories themselves.
    entries: Mutex<BTreeSet<PathBuf>>,
}

/// The watcher. Clones share it; its task ends with the last clone and subscription.
#[derive(Clone)]
pub struct Watcher {
    shared: Arc<Shared>,
    _task: Arc<AbortOnDrop>,
}

/// Files under watch; dropping it ends the watch.
pub struct Subscription {
    id: u64,
    watcher: Watcher,
}

impl Watcher {
    /// A watcher that works on `runtime`.
    pub fn new(runtime: &Handle) -> Watcher {
        let shared = Arc::<Shared>::default();
        let task = runtime.spawn(watch(shared.clone()));
        Watcher { shared, _task: Arc::new(AbortOnDrop(task)) }
    }

    /// Calls `on_change` on the control thread with those of `files` that changed, appeared or vanished since
    /// now. It must not wait.
    pub fn subscribe(
        &self,
        files: Vec<PathBuf>,
        on_change: impl Fn(&[PathBuf]) + Send + Sync + 'static,
    ) -> Subscription {
        let files = files.into_iter().map(|path| (path.clone(), Stamp::of(&path))).collect();
        let mut subscriptions = self.shared.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        subscriptions.last += 1;
        let id = subscriptions.last;
        subscriptions.by_id.insert(id, Subscribed { files, on_change: Arc::new(on_change) });
        drop(subscriptions);
        self.shared.resubscribed.notify_one();
        Subscription { id, watcher: self.clone() }
    }

    /// Compares all stamps now: what HUP does.
    pub fn look(&self) {
        self.shared.look.notify_one();
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let shared = &self.watcher.shared;
        let mut subscriptions = shared.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = subscriptions.by_id.remove(&self.id);
        drop(subscriptions);
        // Its callback may own things whose drop comes back here; so it goes after the lock.
        drop(gone);
        shared.resubscribed.notify_one();
    }
}

impl Shared {
    fn files(&self) -> Vec<PathBuf> {
        let subscriptions = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        subscriptions.by_id.values().flat_map(|one| one.files.iter().map(|(path, _)| path.clone())).collect()
    }

    /// Whether something happened that may be a change; where the kernel does not say to what, it may.
    fn matters(&self, paths: &[PathBuf]) -> bool {
        let entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        paths.is_empty() || paths.iter().any(|path| entries.contains(path))
    }

    /// Compares stamps and tells the subscribers of files that differ.
    fn compare(&self) {
        let mut calls: Vec<(OnChange, Vec<PathBuf>)> = Vec::new();
        let mut subscriptions = self.subscriptions.lock().unwrap_or_else(PoisonError::into_inner);
        for subscribed in subscriptions.by_id.values_mut() {
            let mut changed = Vec::new();
            for (path, stamp) in &mut subscribed.files {
                let now = Stamp::of(path);
                if now != *stamp {
                    *stamp = now;
                    changed.push(path.clone());
                }
            }
            if !changed.is_empty() {
                calls.push((subscribed.on_change.clone(), changed));
            }
        }
        drop(subscriptions);
        for (on_change, changed) in calls {
            on_change(&changed);
        }
    }
}

async fn watch(shared: Arc<Shared>) {
    let mut inotify = Directories::new(&shared);
    let mut debounce = Debounce::default();
    loop {
        let poll = if inotify.works() { POLL } else { POLL_ALONE };
        let due = debounce.due();
        let settled = async {
            match due {
                Some(due) => tokio::time::sleep_until(due.into()).await,
                None => tokio::time::sleep(poll).await,
            }
        };
        tokio::select! {
            () = shared.event.notified() => {
                debounce.event(Instant::now());
                continue;
            }
            () = shared.resubscribed.notified() => {
                // What changed before the directory was followed is found by the look that is due now.
                inotify.follow(&shared.files());
                debounce.event(Instant::now());
                continue;
            }
            () = shared.look.notified() => {}
            () = settled => {}
        }
        debounce.settle();
        shared.compare();
        // A swapped symlink leads to other directories.
        inotify.follow(&shared.files());
    }
}

/// The directories that inotify watches for us.
struct Directories {
    shared: Weak<Shared>,
    watcher: Option<RecommendedWatcher>,
    /// Path and inode: a directory that was replaced under its name is another one.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    complained: bool,
}

impl Directories {
    fn new(shared: &Arc<Shared>) -> Directories {
        let weak = Arc::downgrade(shared);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // An error or an overflow is a reason to look, too.
            let Some(shared) = weak.upgrade() else { return };
            if event.is_ok_and(|event| is_read_only(event.kind) || !shared.matters(&event.paths)) {
                return;
            }
            shared.event.notify_one();
        });
        let mut directories = Directories {
            shared: Arc::downgrade(shared),
            watcher: None,
            watched: BTreeMap::new(),
            complained: false,
        };
        match watcher {
            Ok(watcher) => directories.watcher = Some(watcher),
            Err(error) => directories.complain(&error),
        }
        directories
    }

    fn works(&self) -> bool {
        !self.complained
    }

    /// Watches exactly the directories that matter for `files`.
    fn follow(&mut self, files: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        let mut entries: BTreeSet<PathBuf> = files.iter().flat_map(|file| entries_of(file)).collect();
        let directories: BTreeSet<PathBuf> =
            entries.iter().filter_map(|entry| entry.parent().map(Path::to_owned)).collect();
        entries.extend(directories.iter().cloned());
        if let Some(shared) = self.shared.upgrade() {
            // Before the watches: nothing that they report is missed.
            *shared.entries.lock().unwrap_or_else(PoisonError::into_inner) = entries;
        }
        let wanted: BTreeMap<PathBuf, (u64, u64)> = directories
            .into_iter()
            .filter_map(|path| Stamp::of(&path).map(|stamp| (path, (stamp.device, stamp.inode))))
            .collect();
        for (gone, inode) in &self.watched {
            if wanted.get(gone) != Some(inode) {
                // A directory that was removed has lost its watch already.
                let _ = watcher.unwatch(gone);
            }
        }
        let mut watched = BTreeMap::new();
        let mut failed = None;
        for (directory, inode) in wanted {
            if self.watched.get(&directory) != Some(&inode)
                && let Err(error) = watcher.watch(&directory, RecursiveMode::NonRecursive)
            {
                failed = Some(error);
                continue;
            }
            watched.insert(directory, inode);
        }
        self.watched = watched;
        match failed {
            Some(error) => self.complain(&error),
            None => self.complained = false,
        }
    }

    fn complain(&mut self, error: &notify::Error) {
        if !self.complained {
            Line::warn(WATCH_POLLS).with("why", error).emit();
        }
        self.complained = true;
    }
}

fn is_read_only(kind: EventKind) -> bool {
    match kind {
        EventKind::Access(AccessKind::Close(AccessMode::Write)) => false,
        EventKind::Access(_) => true,
        _ => false,
    }
}

/// The names, in real directories, whose change can change what `file` means: its own, and those of every symlink on the
/// way.
fn entries_of(file: &Path) -> BTreeSet<PathBuf> {
    let mut entries = BTreeSet::new();
    let Ok(absolute) = std::path::absolute(file) else { return entries };
    let mut pending = vec![absolute];
    let mut links = 0;
    while let Some(path) = pending.pop() {
        let mut walked = PathBuf::new();
        let mut components = path.components().peekable();
        while let Some(component) = components.next() {
            if component == Component::ParentDir {
                walked.pop();
                continue;
            }
            let parent = walked.clone();
            walked.push(component);
            let is_last = components.peek().is_none();
            let target = std::fs::read_link(&walked).ok();
            if is_last || target.is_some() {
                // The real directory: two spellings must not be two watches.
                if let (Ok(real), Some(name)) = (parent.canonicalize(), walked.file_name()) {
                    entries.insert(real.join(name));
                }
            }
            if let Some(target) = target {
                links += 1;
                if links <= SYMLINKS_MAX {
                    let rest: PathBuf = components.by_ref().collect();
                    let next = parent.join(target);
                    pending.push(if rest.as_os_str().is_empty() { next } else { next.join(rest) });
                }
                break;
            }
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_settles_after_quiet_and_a_stream_after_the_bound() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let mut debounce = Debounce::default();
        assert_eq!(debounce.due(), None);
        debounce.event(at(0));
        debounce.event(at(200));
        assert_eq!(debounce.due(), Some(at(450)));
        for event in 0..40 {
            debounce.event(at(200 + event * 100));
        }
        assert_eq!(debounce.due(), Some(at(2000)));
        debounce.settle();
        assert_eq!(debounce.due(), None);
    }

    #[test]
    fn reading_a_file_is_no_change() {
        assert!(is_read_only(EventKind::Access(AccessKind::Open(AccessMode::Any))));
        assert!(is_read_only(EventKind::Access(AccessKind::Close(AccessMode::Read))));
        assert!(!is_read_only(EventKind::Access(AccessKind::Close(AccessMode::Write))));
        assert!(!is_read_only(EventKind::Any));
    }
}
