//! A file of targets: read with the configuration, then followed without a reload.
//!
//! The file is watched; what it holds after a change is taken whole or not at all: a file that is not in order changes
//! nothing, is told with its place, and counts as not valid until it is mended. Members that are no longer in it drain like
//! those of a name that resolves otherwise.
//!
//! Not for what stands in it: that is the reader's, which the snapshot's compiler hands in. Called by it, which holds the
//! [`TargetsFile`] for as long as the upstream lives.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use arc_swap::ArcSwap;

use super::process_log::{Code, Line};
use super::watch::{Subscription, Watcher};
use crate::upstream::Origin;

/// A changed file of targets is in force.
pub const TARGETS_TAKEN: Code = Code::new(6112, "a changed file of targets is in force");
/// A changed file of targets is not in order.
pub const TARGETS_REFUSED: Code =
    Code::new(6113, "a changed file of targets is refused, the last good targets stay");

/// Reads the file; or says what is wrong with it, a line each, with its place.
pub type ReadTargets = Arc<dyn Fn() -> Result<Vec<Origin>, Vec<String>> + Send + Sync>;

/// The targets of one file, kept up to date while somebody holds this.
pub struct TargetsFile {
    path: PathBuf,
    current: ArcSwap<Vec<Origin>>,
    valid: AtomicBool,
    read: ReadTargets,
    watch: std::sync::OnceLock<Subscription>,
}

impl TargetsFile {
    /// The file at `path`, of which `first` has been read. `on_change` is called on the control thread after a change was
    /// taken.
    pub fn follow(
        path: &Path,
        first: Vec<Origin>,
        read: ReadTargets,
        watcher: &Watcher,
        on_change: Arc<dyn Fn() + Send + Sync>,
    ) -> Arc<TargetsFile> {
        let file = Arc::new(TargetsFile {
            path: path.to_owned(),
            current: ArcSwap::from_pointee(first),
            valid: AtomicBool::new(true),
            read,
            watch: std::sync::OnceLock::new(),
        });
        let followed = Arc::downgrade(&file);
        let subscription = watcher.subscribe(vec![path.to_owned()], move |_| {
            if let Some(file) = Weak::upgrade(&followed) {
                file.look(&*on_change);
            }
        });
        let _ = file.watch.set(subscription);
        file
    }

    /// The file, as it was written.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its targets as of the last time that it was in order.
    pub fn current(&self) -> arc_swap::Guard<Arc<Vec<Origin>>> {
        self.current.load()
    }

    /// Whether what the file holds now is in force.
    pub fn is_valid(&self) -> bool {
        self.valid.load(Ordering::Relaxed)
    }

    /// Reads it again, and takes what it holds if that is in order.
    fn look(&self, on_change: &(dyn Fn() + Send + Sync)) {
        let read = (self.read)();
        self.valid.store(read.is_ok(), Ordering::Relaxed);
        match read {
            Ok(origins) => {
                let count = origins.len();
                self.current.store(Arc::new(origins));
                on_change();
                Line::info(TARGETS_TAKEN).with("file", self.path.display()).with("targets", count).emit();
            }
            Err(problems) => {
                for why in problems {
                    Line::error(TARGETS_REFUSED).with("file", self.path.display()).with("why", why).emit();
                }
            }
        }
    }
}

impl std::fmt::Debug for TargetsFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TargetsFile").field("path", &self.path).finish_non_exhaustive()
    }
}
