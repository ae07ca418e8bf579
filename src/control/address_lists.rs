//! The address lists of listeners: read, watched, swapped.
//!
//! A list is what a listener says in `allow_addresses` and `deny_addresses`: networks, and files of them. Its files are watched; a
//! change is read and compiled on a thread of its own (a million prefixes take a fifth of a second), swapped in whole, and what it
//! replaces is freed here when no core looks at it any more. A file with a bad line changes nothing, and is told.
//!
//! A file should be replaced by a rename: one that is written in place is read when it has been quiet for a quarter of a second,
//! and a file that is cut short then is a shorter list.
//!
//! Not for deciding about connections ([`crate::accept::gate`]). Called by the snapshot's compiler and by the supervisor.

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use super::process_log::{Code, Line};
use super::watch::{Subscription, Watcher};
use crate::accept::gate::Gate;
use crate::accept::prefixes::{AddressSet, LineError, Network, PREFIXES_MAX, Prefixes, Verdict};
use crate::sys::file::open_regular;

/// Most bytes of one file.
pub const LIST_BYTES_MAX: u64 = 256 << 20;
/// Bad lines that one message names.
const LINES_TOLD_MAX: usize = 3;

/// A changed address list is in force.
pub const LIST_TAKEN: Code = Code::new(6090, "a changed address list is in force");
/// An address list that changed cannot be used; the last good one stays.
pub const LIST_REFUSED: Code = Code::new(6091, "a changed address list is refused, the last good one stays");

/// What a list is made of. Two listeners that say the same share one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Source {
    /// Networks that were written in the configuration.
    pub networks: Vec<(Network, Verdict)>,
    /// Files of them.
    pub files: Vec<(PathBuf, Verdict)>,
    /// What holds for addresses that are in none of them.
    pub otherwise: Verdict,
}

/// Why a list cannot be used: which file, and what is wrong with it.
#[derive(Debug)]
pub struct ListError {
    /// The file.
    pub file: PathBuf,
    /// `FILE:LINE: …` for the operator, the first lines of all that are wrong.
    pub what: String,
}

impl Source {
    /// Reads the files and compiles all of it.
    ///
    /// # Errors
    /// The first file that cannot be used.
    pub fn read(&self) -> Result<AddressSet, ListError> {
        let mut prefixes = Prefixes::new();
        for (network, verdict) in &self.networks {
            prefixes.add(*network, *verdict);
        }
        for (path, verdict) in &self.files {
            let fail = |what: String| ListError { file: path.clone(), what };
            let text = read(path).map_err(|why| fail(format!("{}: {why}", path.display())))?;
            prefixes.read(&text, *verdict).map_err(|errors| fail(in_words(path, &errors)))?;
        }
        Ok(prefixes.compile(self.otherwise))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    let file = open_regular(path).map_err(|error| error.to_string())?;
    let metadata = file.metadata().map_err(|error| error.to_string())?;
    let mut text = Vec::with_capacity(usize::try_from(metadata.len().min(LIST_BYTES_MAX)).unwrap_or(0) + 1);
    file.take(LIST_BYTES_MAX + 1).read_to_end(&mut text).map_err(|error| error.to_string())?;
    if text.len() as u64 > LIST_BYTES_MAX {
        return Err(format!("it is longer than {LIST_BYTES_MAX} bytes"));
    }
    Ok(text)
}

fn in_words(path: &Path, errors: &[LineError]) -> String {
    let told = errors.iter().take(LINES_TOLD_MAX);
    let mut words: Vec<String> =
        told.map(|error| format!("{}:{}: it {}", path.display(), error.line, error.what)).collect();
    if errors.len() > LINES_TOLD_MAX {
        words.push(format!("and {} more lines", errors.len() - LINES_TOLD_MAX));
    }
    if errors.iter().any(|error| error.what.contains("too many")) {
        words.push(format!("a list holds {PREFIXES_MAX} prefixes at most"));
    }
    words.join("; ")
}

/// A list that is kept up to date.
#[derive(Debug)]
struct List {
    source: Source,
    gate: Arc<Gate>,
    /// Held while a change is read, so that the last change is the one that stays.
    changing: Mutex<()>,
    /// Sets that a core may still look at.
    replaced: Mutex<Vec<Arc<AddressSet>>>,
}

impl List {
    fn renew(&self) {
        let _alone = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        match self.source.read() {
            Ok(set) => {
                let (prefixes, bytes) = (set.prefixes(), set.bytes());
                let before = self.gate.renew(set);
                self.replaced.lock().unwrap_or_else(PoisonError::into_inner).push(before);
                Line::info(LIST_TAKEN)
                    .with("files", self.files())
                    .with("prefixes", prefixes)
                    .with("bytes", bytes)
                    .with("ms", start.elapsed().as_millis())
                    .emit();
            }
            Err(error) => Line::error(LIST_REFUSED).with("why", error.what).emit(),
        }
    }

    fn files(&self) -> String {
        let files: Vec<String> =
            self.source.files.iter().map(|(path, _)| path.display().to_string()).collect();
        files.join(",")
    }

    fn tend(&self) {
        let mut replaced = self.replaced.lock().unwrap_or_else(PoisonError::into_inner);
        replaced.retain(|set| Arc::strong_count(set) > 1);
    }
}

/// What a watch knows of its list.
#[derive(Default)]
struct Watched {
    list: Weak<List>,
    /// A file changed before there was a list.
    changed: bool,
}

/// All lists of the node.
#[derive(Default)]
pub struct AddressLists {
    lists: HashMap<Source, (Arc<List>, Option<Subscription>)>,
    /// Lists that no configuration names any more and an old snapshot may still hold.
    retired: Vec<Arc<List>>,
}

impl std::fmt::Debug for AddressLists {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.lists.keys()).finish()
    }
}

impl AddressLists {
    /// The gate of what a listener says. One that is known already is not read again: its files are watched, if there is a
    /// watcher.
    ///
    /// # Errors
    /// A file cannot be used.
    pub fn gate(&mut self, source: &Source, watcher: Option<&Watcher>) -> Result<Arc<Gate>, ListError> {
        if let Some((list, _)) = self.lists.get(source) {
            return Ok(Arc::clone(&list.gate));
        }
        // Watched before it is read: no change falls between the two.
        let cell: Arc<Mutex<Watched>> = Arc::default();
        let files: Vec<PathBuf> = source.files.iter().map(|(path, _)| path.clone()).collect();
        let subscription = watcher.filter(|_| !files.is_empty()).map(|watcher| {
            let cell = Arc::clone(&cell);
            watcher.subscribe(files, move |_| {
                let mut watched = cell.lock().unwrap_or_else(PoisonError::into_inner);
                match watched.list.upgrade() {
                    // Nothing else on the control thread waits for a long list.
                    Some(list) => drop(tokio::task::spawn_blocking(move || list.renew())),
                    None => watched.changed = true,
                }
            })
        });
        let list = Arc::new(List {
            source: source.clone(),
            gate: Arc::new(Gate::new(source.read()?)),
            changing: Mutex::default(),
            replaced: Mutex::default(),
        });
        let changed = {
            let mut watched = cell.lock().unwrap_or_else(PoisonError::into_inner);
            watched.list = Arc::downgrade(&list);
            watched.changed
        };
        if changed {
            list.renew();
        }
        let gate = Arc::clone(&list.gate);
        self.lists.insert(source.clone(), (list, subscription));
        Ok(gate)
    }

    /// Only these are named by the configuration from now on.
    pub fn retain(&mut self, named: &[Source]) {
        let gone: Vec<Source> = self.lists.keys().filter(|known| !named.contains(known)).cloned().collect();
        for source in gone {
            self.retired.extend(self.lists.remove(&source).map(|(list, _)| list));
        }
    }

    /// Frees what no core looks at any more. Called every second or so.
    pub fn tend(&mut self) {
        self.lists.values().for_each(|(list, _)| list.tend());
        self.retired.retain(|list| {
            list.tend();
            Arc::strong_count(&list.gate) > 1
        });
    }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    fn network(text: &str) -> Network {
        Network::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn lists_that_are_named_again_are_the_same_and_others_go_when_nobody_holds_them() {
        let source = |text: &str| Source {
            networks: vec![(network(text), Verdict::Out)],
            files: Vec::new(),
            otherwise: Verdict::In,
        };
        let mut lists = AddressLists::default();
        let gate = lists.gate(&source("10.0.0.0/8"), None).unwrap();
        assert!(Arc::ptr_eq(&gate, &lists.gate(&source("10.0.0.0/8"), None).unwrap()));
        let other = lists.gate(&source("192.0.2.1"), None).unwrap();
        assert!(!Arc::ptr_eq(&gate, &other));
        lists.retain(&[source("192.0.2.1")]);
        lists.tend();
        assert_eq!((lists.lists.len(), lists.retired.len()), (1, 1), "a snapshot still holds it");
        drop(gate);
        lists.tend();
        assert_eq!(lists.retired.len(), 0);
        assert!(other.admit(IpAddr::from([192, 0, 2, 1])).is_err());
        assert!(other.admit(IpAddr::from([192, 0, 2, 2])).is_ok());
    }

    #[test]
    fn a_set_that_a_core_looks_at_is_kept_until_it_does_not() {
        let source = Source { networks: Vec::new(), files: Vec::new(), otherwise: Verdict::In };
        let mut lists = AddressLists::default();
        lists.gate(&source, None).unwrap();
        let (list, _) = &lists.lists[&source];
        list.renew();
        let held = list.replaced.lock().unwrap()[0].clone();
        list.tend();
        assert_eq!(list.replaced.lock().unwrap().len(), 1);
        drop(held);
        list.tend();
        assert_eq!(list.replaced.lock().unwrap().len(), 0);
    }

    #[test]
    fn a_bad_line_is_told_with_its_file() {
        let path = std::env::temp_dir().join(format!("ringwall-list-{}", std::process::id()));
        std::fs::write(&path, "10.0.0.0/8\n10.0.0.1/8\nx\ny\nz\n").unwrap();
        let files = vec![(path.clone(), Verdict::Out)];
        let source = Source { networks: Vec::new(), files, otherwise: Verdict::In };
        let error = source.read().unwrap_err();
        let place = path.display();
        assert!(
            error.what.starts_with(&format!("{place}:2: it has bits beyond its prefix; {place}:3: ")),
            "{}",
            error.what
        );
        assert!(error.what.ends_with("; and 1 more lines"), "{}", error.what);
        std::fs::remove_file(&path).unwrap();
        assert!(source.read().unwrap_err().what.contains("No such file"));
    }
}
