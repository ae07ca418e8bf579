//! Emergency blocks: what `ringwall block` adds and removes, kept over restarts, ended to the second.
//!
//! A verb changes the list, puts it in force on all cores at once (they look at one number, at each request and ten times a second),
//! and then writes it to a file of its own, whole and at once. A start reads that file before anybody is let in; one that is there
//! and cannot be read stops the start, because what it held would silently be open. Who did what is told in the process log and
//! put on record.
//!
//! The file is the list: a process looks every second whether another has changed it, so that while one hands over to another
//! both know the same.
//!
//! Blocks are dealt with on the control thread and not by the supervisor, which may be busy with a reload for seconds.
//!
//! Not for deciding about requests ([`crate::policy::admit::blocks`]). Called by the control socket.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::private_file::{PrivateFileError, read_private};
use super::process_log::{Code, Line};
use super::socket::{Complaint, Response};
use crate::accept::prefixes::Network;
use crate::policy::admit::blocks::{BlockCell, Blocks, What};
use crate::worker::clock::unix_ms;

/// Most blocks at a time.
pub const BLOCKS_MAX: usize = 10_000;
/// Most bytes of one name, and of a reason.
pub const TEXT_BYTES_MAX: usize = 512;
/// Most bytes of the file.
const FILE_BYTES_MAX: u64 = 32 << 20;
/// How often the file is looked at.
const EVERY: Duration = Duration::from_secs(1);

/// What is to be blocked is not well said.
pub const BLOCK_MALFORMED: Code = Code::new(1850, "this cannot be blocked");
/// The file of blocks cannot be used.
pub const BLOCKS_UNREADABLE: Code = Code::new(1851, "the file of blocks cannot be used");
/// There is no such block.
pub const BLOCK_UNKNOWN: Code = Code::new(1852, "there is no such block");
/// There are as many blocks as there may be.
pub const BLOCKS_FULL: Code = Code::new(1853, "there are too many blocks");
/// Nobody keeps blocks in this process.
pub const BLOCKS_ABSENT: Code = Code::new(1854, "this process takes no blocks");

/// A block is in force.
pub const BLOCK_ADDED: Code = Code::new(6092, "blocked");
/// A block was taken back.
pub const BLOCK_REMOVED: Code = Code::new(6093, "no longer blocked");
/// The time of a block is over.
pub const BLOCK_ENDED: Code = Code::new(6094, "the time of a block is over");
/// Blocks are in force and could not be written down.
pub const BLOCKS_NOT_KEPT: Code =
    Code::new(6095, "blocks could not be written down and end with this process");
/// Another process has changed the list.
pub const BLOCKS_TAKEN: Code = Code::new(6097, "blocks of another process are in force");
/// The file of blocks was changed and cannot be used.
pub const BLOCKS_REFUSED: Code =
    Code::new(6098, "the changed file of blocks is refused, what was blocked stays so");
/// Blocks of an earlier process are in force.
pub const BLOCKS_KEPT: Code = Code::new(6096, "blocks of an earlier process are in force");

/// What is blocked, as it is written: its kind and its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Written {
    /// `address`, `identity`, `key` or `operation`.
    pub kind: Kind,
    /// `192.0.2.0/24`, `LOGIN/SUBJECT`, the id, `API` or `API/OPERATION`.
    pub name: String,
}

/// A kind of thing that can be blocked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// An address or a network.
    Address,
    /// A login and a subject.
    Identity,
    /// The id of a key.
    Key,
    /// An API, or an operation of one.
    Operation,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Address => "address",
            Kind::Identity => "identity",
            Kind::Key => "key",
            Kind::Operation => "operation",
        }
    }
}

impl Written {
    /// What it means.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(&self) -> Result<What, String> {
        let name = self.name.as_str();
        if name.is_empty() || name.len() > TEXT_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(format!("a name has 1 to {TEXT_BYTES_MAX} bytes and no control characters"));
        }
        match self.kind {
            Kind::Address => match Network::parse(name.as_bytes()) {
                Ok(network) if network.is_all() => Err(format!("{name} is everybody")),
                Ok(network) => Ok(What::Address(network)),
                Err(what) => Err(format!("{name} {what}")),
            },
            Kind::Identity => match name.split_once('/') {
                Some((login, subject)) if !login.is_empty() && !subject.is_empty() => {
                    Ok(What::Identity { login: login.into(), subject: subject.into() })
                }
                _ => Err(format!("{name} is no identity: write LOGIN/SUBJECT")),
            },
            Kind::Key => Ok(What::Key(name.into())),
            Kind::Operation => match name.split_once('/') {
                None => Ok(What::Operation { api: name.into(), operation: None }),
                Some((api, operation)) if !api.is_empty() && !operation.is_empty() => {
                    Ok(What::Operation { api: api.into(), operation: Some(operation.into()) })
                }
                Some(_) => Err(format!("{name} is no operation: write API or API/OPERATION")),
            },
        }
    }

    /// The one way to write it.
    fn of(what: &What) -> Written {
        let (kind, name) = match what {
            What::Address(network) => (Kind::Address, network.to_string()),
            What::Identity { login, subject } => (Kind::Identity, format!("{login}/{subject}")),
            What::Key(id) => (Kind::Key, id.to_string()),
            What::Operation { api, operation: None } => (Kind::Operation, api.to_string()),
            What::Operation { api, operation: Some(operation) } => {
                (Kind::Operation, format!("{api}/{operation}"))
            }
        };
        Written { kind, name }
    }
}

impl fmt::Display for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.name(), self.name)
    }
}

/// What is asked of the list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Block this; what is blocked already gets the new end and reason.
    Add {
        /// What.
        what: Written,
        /// Unix seconds from which it is no longer blocked; never, if there are none.
        until_s: Option<u64>,
        /// Why.
        reason: String,
    },
    /// Block this no longer.
    Remove(Which),
    /// Say what is blocked.
    List,
}

/// Which block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Which {
    /// The one of this number.
    Id(u64),
    /// The one of this.
    What(Written),
}

/// One block, as it is kept and as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Its number.
    pub id: u64,
    /// Of what kind what is blocked is.
    pub kind: Kind,
    /// What it is called.
    pub name: String,
    /// Why.
    pub reason: String,
    /// Who asked for it: a user's number.
    pub by: u32,
    /// Since when.
    #[serde(with = "moment")]
    pub since: u64,
    /// Until when; absent is until it is removed.
    #[serde(default, with = "maybe_moment", skip_serializing_if = "Option::is_none")]
    pub until: Option<u64>,
}

impl Record {
    /// What is blocked.
    pub fn what(&self) -> Written {
        Written { kind: self.kind, name: self.name.clone() }
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Kept {
    /// The version of this form.
    ringwall_blocks: u32,
    /// The number of the next block.
    next: u64,
    blocks: Vec<Record>,
}

/// The list.
pub struct Blocklist {
    cell: Arc<BlockCell>,
    file: Option<PathBuf>,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    records: BTreeMap<u64, (What, Record)>,
    next: u64,
    /// Counts what was published.
    published: u64,
    /// What a core may still be looking at.
    replaced: Vec<Arc<Blocks>>,
    /// The file as it was last read or written.
    seen: Option<Stamp>,
}

/// What tells two versions of the file apart.
type Stamp = (u64, u64, i64, i64);

fn stamp(file: &fs::Metadata) -> Stamp {
    (file.dev(), file.ino(), file.mtime(), file.mtime_nsec())
}

fn stamp_at(path: &Path) -> Option<Stamp> {
    fs::metadata(path).ok().as_ref().map(stamp)
}

/// What a command has done, for the record.
pub struct Done {
    /// The answer.
    pub response: Response,
    /// `block_add` or `block_remove`, and what; nothing where nothing was changed.
    pub action: Option<(&'static str, String)>,
}

/// Does what user `by` asks of a list, if there is one and something is asked.
pub fn perform(list: Option<&Blocklist>, command: Option<&Command>, by: u32) -> Done {
    match (list, command) {
        (Some(list), Some(command)) => list.perform(command, by),
        (None, _) => Done::refused(BLOCKS_ABSENT, "blocks are for processes that serve".to_owned()),
        (_, None) => Done::refused(BLOCK_MALFORMED, "nothing is asked".to_owned()),
    }
}

impl Done {
    fn refused(code: Code, message: String) -> Done {
        let complaint = Complaint { code: code.to_string(), message, ..Complaint::default() };
        Done { response: Response::failed(vec![complaint]), action: None }
    }
}

impl Blocklist {
    /// The list that is kept in `file`, put in force in `cell`. Without a file it is not kept.
    ///
    /// # Errors
    /// The file is there and cannot be used: what it held is not to be open.
    pub fn open(cell: Arc<BlockCell>, file: Option<PathBuf>) -> Result<Arc<Blocklist>, String> {
        let mut state = State { next: 1, ..State::default() };
        if let Some(path) = &file {
            // Before it is read: a change meanwhile is another one.
            state.seen = stamp_at(path);
            load(path, &mut state).map_err(|why| {
                format!(
                    "{BLOCKS_UNREADABLE}: {}: {why}; mend it, or remove it if nothing is to be blocked",
                    path.display()
                )
            })?;
        }
        let list = Blocklist { cell, file, state: Mutex::new(state), changed: Notify::new() };
        {
            let mut state = list.lock();
            list.end(&mut state, unix_ms() / 1000);
            list.publish(&mut state);
            if !state.records.is_empty() {
                Line::warn(BLOCKS_KEPT).with("count", state.records.len()).emit();
            }
        }
        Ok(Arc::new(list))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what user `by` asks. Writes a file.
    pub fn perform(&self, command: &Command, by: u32) -> Done {
        let now_s = unix_ms() / 1000;
        let refused = Done::refused;
        let mut state = self.lock();
        // What another process has written down since is not to be written over.
        if self.follow(&mut state) {
            self.publish(&mut state);
        }
        let (action, record, code) = match command {
            Command::List => {
                let all: Vec<&Record> = state.records.values().map(|(_, record)| record).collect();
                let response = Response::done(serde_json::json!({ "blocks": all }));
                return Done { response, action: None };
            }
            Command::Add { what, until_s, reason } => {
                let what = match what.read() {
                    Ok(what) => what,
                    Err(why) => return refused(BLOCK_MALFORMED, why),
                };
                if reason.len() > TEXT_BYTES_MAX || reason.chars().any(char::is_control) {
                    let why =
                        format!("a reason has at most {TEXT_BYTES_MAX} bytes and no control characters");
                    return refused(BLOCK_MALFORMED, why);
                }
                if until_s.is_some_and(|until_s| until_s <= now_s) {
                    return refused(BLOCK_MALFORMED, "its end is over already".to_owned());
                }
                // What cannot be written as a date could not be read again, and would stop the next start.
                if until_s.is_some_and(|until_s| moment_of(until_s).is_none()) {
                    return refused(BLOCK_MALFORMED, "its end is beyond the year 9999".to_owned());
                }
                let known = state.records.iter().find(|(_, (known, _))| *known == what).map(|(id, _)| *id);
                if known.is_none() && state.records.len() >= BLOCKS_MAX {
                    let why = format!("{BLOCKS_MAX} are blocked already; block a network, or deny_addresses");
                    return refused(BLOCKS_FULL, why);
                }
                let id = known.unwrap_or_else(|| {
                    state.next += 1;
                    state.next - 1
                });
                let Written { kind, name } = Written::of(&what);
                let record =
                    Record { id, kind, name, reason: reason.clone(), by, since: now_s, until: *until_s };
                state.records.insert(id, (what, record.clone()));
                ("block_add", record, BLOCK_ADDED)
            }
            Command::Remove(which) => {
                let id = match which {
                    Which::Id(id) => state.records.contains_key(id).then_some(*id),
                    Which::What(what) => match what.read() {
                        Ok(what) => {
                            state.records.iter().find(|(_, (known, _))| *known == what).map(|(id, _)| *id)
                        }
                        Err(why) => return refused(BLOCK_MALFORMED, why),
                    },
                };
                let Some((_, record)) = id.and_then(|id| state.records.remove(&id)) else {
                    return refused(BLOCK_UNKNOWN, "`ringwall block list` says what is blocked".to_owned());
                };
                ("block_remove", record, BLOCK_REMOVED)
            }
        };
        // In force first: what a disk says of it comes second.
        self.publish(&mut state);
        let kept = self.keep(&mut state);
        drop(state);
        self.changed.notify_one();
        let line = Line::warn(code).with("id", record.id).with("what", record.what()).with("by_uid", by);
        let line = match record.until.and_then(moment_of) {
            Some(until) if action == "block_add" => line.with("until", until),
            _ => line,
        };
        line.with("reason", &record.reason).emit();
        let detail = format!("{} {}: {}", record.id, record.what(), record.reason);
        let result = serde_json::json!({ "block": record, "kept": kept });
        Done { response: Response::done(result), action: Some((action, detail)) }
    }

    /// Puts the list in force.
    fn publish(&self, state: &mut State) {
        state.published += 1;
        let blocks = Blocks::new(state.records.values().map(|(what, _)| what));
        let before = self.cell.publish(blocks, state.published);
        state.replaced.push(before);
        state.replaced.retain(|blocks| Arc::strong_count(blocks) > 1);
    }

    /// Takes out what is over. Whether anything was.
    fn end(&self, state: &mut State, now_s: u64) -> bool {
        let over: Vec<u64> = state
            .records
            .iter()
            .filter(|(_, (_, record))| record.until.is_some_and(|until_s| until_s <= now_s))
            .map(|(id, _)| *id)
            .collect();
        for id in &over {
            if let Some((_, record)) = state.records.remove(id) {
                Line::info(BLOCK_ENDED).with("id", id).with("what", record.what()).emit();
            }
        }
        !over.is_empty()
    }

    /// Writes the list down. Whether it is there to stay.
    fn keep(&self, state: &mut State) -> bool {
        let Some(path) = &self.file else {
            Line::warn(BLOCKS_NOT_KEPT).with("why", "there is no place for them: set node.state").emit();
            return false;
        };
        let kept = Kept {
            ringwall_blocks: 1,
            next: state.next,
            blocks: state.records.values().map(|(_, record)| record.clone()).collect(),
        };
        match write(path, &kept) {
            Ok(written) => {
                state.seen = Some(written);
                true
            }
            Err(error) => {
                Line::error(BLOCKS_NOT_KEPT).with("file", path.display()).with("why", error).emit();
                false
            }
        }
    }

    /// How many blocks are in force.
    pub fn len(&self) -> usize {
        self.lock().records.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the list of the file, if another process has changed it. Whether it had.
    fn follow(&self, state: &mut State) -> bool {
        let Some(path) = &self.file else { return false };
        let now = stamp_at(path);
        if now.is_none() || now == state.seen {
            return false;
        }
        let mut next = State { next: state.next, ..State::default() };
        match load(path, &mut next) {
            Ok(()) => {
                state.records = next.records;
                state.next = state.next.max(next.next);
                Line::warn(BLOCKS_TAKEN).with("count", state.records.len()).emit();
            }
            Err(why) => Line::error(BLOCKS_REFUSED).with("file", path.display()).with("why", why).emit(),
        }
        state.seen = now;
        true
    }

    /// Ends blocks whose time is over, and follows the file, for ever. Runs on the control thread.
    ///
    /// # Errors
    /// Never.
    pub async fn tend(self: Arc<Blocklist>) -> io::Result<()> {
        loop {
            let next_s = self.lock().records.values().filter_map(|(_, record)| record.until).min();
            let wait = match next_s {
                // Every second at least: the clock may be set, and another process may have changed the file.
                Some(next_s) => Duration::from_millis((next_s * 1000).saturating_sub(unix_ms())).min(EVERY),
                None => EVERY,
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.changed.notified() => continue,
            }
            let list = Arc::clone(&self);
            let _ = tokio::task::spawn_blocking(move || {
                let mut state = list.lock();
                let followed = list.follow(&mut state);
                // What is over is left out when the file is read, so it need not be written for that.
                if list.end(&mut state, unix_ms() / 1000) || followed {
                    list.publish(&mut state);
                }
            })
            .await;
        }
    }
}

fn load(path: &Path, state: &mut State) -> Result<(), String> {
    let bytes = match read_private(path, FILE_BYTES_MAX) {
        Ok(bytes) => bytes,
        Err(PrivateFileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error.to_string()),
    };
    let kept: Kept = serde_json::from_slice(&bytes).map_err(|error| error.to_string())?;
    if kept.ringwall_blocks != 1 {
        return Err(format!("it is of version {}, not 1", kept.ringwall_blocks));
    }
    for record in kept.blocks {
        let what = record.what().read().map_err(|why| format!("block {}: {why}", record.id))?;
        if record.id >= kept.next || state.records.insert(record.id, (what, record.clone())).is_some() {
            return Err(format!("the number {} is not right", record.id));
        }
    }
    state.next = kept.next;
    Ok(())
}

/// Writes a file whole or not at all, readable by its owner alone. What it is known by.
fn write(path: &Path, kept: &Kept) -> io::Result<Stamp> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let fresh = PathBuf::from(name);
    let _ = fs::remove_file(&fresh);
    let written = (|| {
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&fresh)?;
        serde_json::to_writer_pretty(&mut file, kept)?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        let written = stamp(&file.metadata()?);
        fs::rename(&fresh, path)?;
        // The name, too, is to survive.
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            File::open(parent)?.sync_all()?;
        }
        Ok(written)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&fresh);
    }
    written
}

/// The date and time, if there is one.
fn moment_of(seconds: u64) -> Option<Timestamp> {
    i64::try_from(seconds).ok().and_then(|seconds| Timestamp::from_second(seconds).ok())
}

mod moment {
    use serde::de::Error as _;
    use serde::ser::Error as _;
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(seconds: &u64, to: S) -> Result<S::Ok, S::Error> {
        match super::moment_of(*seconds) {
            Some(moment) => to.collect_str(&moment),
            None => Err(S::Error::custom("beyond the year 9999")),
        }
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        let moment: jiff::Timestamp = text.parse().map_err(D::Error::custom)?;
        u64::try_from(moment.as_second()).map_err(D::Error::custom)
    }
}

mod maybe_moment {
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(seconds: &Option<u64>, to: S) -> Result<S::Ok, S::Error> {
        match seconds {
            Some(seconds) => super::moment::serialize(seconds, to),
            None => to.serialize_none(),
        }
    }

    pub(super) fn deserialize<'d, D: Deserializer<'d>>(from: D) -> Result<Option<u64>, D::Error> {
        super::moment::deserialize(from).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    fn file() -> PathBuf {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ringwall-blocks-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        std::env::temp_dir().join(name)
    }

    fn written(kind: Kind, name: &str) -> Written {
        Written { kind, name: name.to_owned() }
    }

    fn add(list: &Blocklist, kind: Kind, name: &str, until_s: Option<u64>) -> Response {
        let command = Command::Add { what: written(kind, name), until_s, reason: "why".to_owned() };
        list.perform(&command, 7).response
    }

    #[test]
    fn a_list_is_kept_over_a_restart_in_one_spelling() {
        let path = file();
        let cell = Arc::new(BlockCell::default());
        let list = Blocklist::open(Arc::clone(&cell), Some(path.clone())).unwrap();
        assert!(add(&list, Kind::Address, "::ffff:192.0.2.0/120", None).ok);
        assert!(add(&list, Kind::Identity, "people/a/b c", Some(unix_ms() / 1000 + 1000)).ok);
        assert!(add(&list, Kind::Operation, "orders/create", None).ok);
        assert!(add(&list, Kind::Address, "192.0.2.0/24", None).ok, "the same again is no other");
        assert_eq!((list.len(), cell.number()), (3, 5));
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);

        let cell = Arc::new(BlockCell::default());
        let list = Blocklist::open(Arc::clone(&cell), Some(path.clone())).unwrap();
        assert_eq!((list.len(), cell.number()), (3, 1));
        assert!(cell.address("192.0.2.77".parse().unwrap()).is_err());
        assert!(list.perform(&Command::Remove(Which::Id(1)), 7).response.ok);
        assert!(cell.address("192.0.2.77".parse().unwrap()).is_ok());
        // Numbers are not given again.
        let response = add(&list, Kind::Key, "k", None);
        assert_eq!(response.result["block"]["id"], 4);
        assert_eq!(response.result["kept"], true);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_read_stops_the_start() {
        let path = file();
        for text in [
            "",
            "{}",
            "{\"ringwall_blocks\":2,\"next\":1,\"blocks\":[]}",
            "{\"ringwall_blocks\":1,\"next\":1,\"blocks\":[{\"id\":1}]}",
            "{\"ringwall_blocks\":1,\"next\":2,\"blocks\":[{\"id\":1,\"kind\":\"address\",\"name\":\"x\",\"reason\":\"\",\
             \"by\":0,\"since\":\"2026-01-01T00:00:00Z\"}]}",
        ] {
            use std::os::unix::fs::PermissionsExt as _;
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let opened = Blocklist::open(Arc::default(), Some(path.clone()));
            let why = opened.err().unwrap_or_else(|| panic!("{text}"));
            assert!(why.starts_with("RW-1851: ") && why.contains(&path.display().to_string()), "{why}");
        }
        fs::write(&path, "{\"ringwall_blocks\":1,\"next\":1,\"blocks\":[]}").unwrap();
        assert!(Blocklist::open(Arc::default(), Some(path.clone())).is_ok());
        {
            use std::os::unix::fs::PermissionsExt as _;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        }
        assert!(Blocklist::open(Arc::default(), Some(path.clone())).is_err(), "others could change it");
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn two_processes_with_one_file_know_the_same() {
        let path = file();
        let [old, new] = [(), ()].map(|()| {
            let cell = Arc::new(BlockCell::default());
            (Blocklist::open(Arc::clone(&cell), Some(path.clone())).unwrap(), cell)
        });
        let look = |(list, _): &(Arc<Blocklist>, Arc<BlockCell>)| {
            let mut state = list.lock();
            let followed = list.follow(&mut state);
            if followed {
                list.publish(&mut state);
            }
            followed
        };
        assert!(add(&old.0, Kind::Address, "192.0.2.1", None).ok);
        assert!(look(&new) && !look(&new) && !look(&old), "once, and not by who wrote it");
        assert!(new.1.address("192.0.2.1".parse().unwrap()).is_err());
        assert!(add(&new.0, Kind::Key, "k", None).ok);
        assert!(new.0.perform(&Command::Remove(Which::Id(1)), 7).response.ok);
        assert!(look(&old) && old.1.address("192.0.2.1".parse().unwrap()).is_ok());
        assert_eq!((old.0.len(), new.0.len()), (1, 1));
        // Who adds before it has looked does not write over what the other one has added.
        assert!(add(&new.0, Kind::Key, "of the new one", None).ok);
        assert!(add(&old.0, Kind::Address, "192.0.2.2", None).ok);
        assert!(look(&new) && new.1.address("192.0.2.2".parse().unwrap()).is_err());
        assert_eq!((old.0.len(), new.0.len()), (3, 3));
        // What nobody can read changes nothing.
        fs::write(&path, "{").unwrap();
        assert!(look(&old) && old.0.len() == 3 && !look(&old));
        fs::remove_file(&path).unwrap();
        assert!(!look(&old) && old.0.len() == 3);
    }

    #[test]
    fn an_end_that_cannot_be_written_down_is_refused() {
        const LAST_S: u64 = 253_402_207_200;
        let path = file();
        let list = Blocklist::open(Arc::default(), Some(path.clone())).unwrap();
        for until_s in [LAST_S + 1, 315_360_000_000, i64::MAX as u64, u64::MAX] {
            assert_eq!(add(&list, Kind::Key, "k", Some(until_s)).errors[0].code, "RW-1850", "{until_s}");
        }
        assert!(add(&list, Kind::Key, "k", Some(LAST_S)).ok);
        assert_eq!(Blocklist::open(Arc::default(), Some(path.clone())).unwrap().len(), 1);
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let list = Blocklist::open(Arc::default(), Some(file())).unwrap();
        for (kind, name) in [
            (Kind::Address, "0.0.0.0/0"),
            (Kind::Address, "::/0"),
            (Kind::Address, "10.0.0.1/8"),
            (Kind::Address, "host"),
            (Kind::Address, ""),
            (Kind::Identity, "alice"),
            (Kind::Identity, "/alice"),
            (Kind::Identity, "people/"),
            (Kind::Operation, "/x"),
            (Kind::Operation, "x/"),
            (Kind::Key, "a\nb"),
        ] {
            let response = add(&list, kind, name, None);
            assert_eq!(response.errors[0].code, "RW-1850", "{name}");
        }
        assert_eq!(add(&list, Kind::Key, "k", Some(1)).errors[0].code, "RW-1850");
        let unknown = list.perform(&Command::Remove(Which::Id(9)), 7);
        assert_eq!(unknown.response.errors[0].code, "RW-1852");
        assert!(unknown.action.is_none() && list.is_empty());
    }

    #[test]
    fn the_end_holds_to_the_second() {
        let list = Blocklist::open(Arc::default(), None).unwrap();
        let now_s = unix_ms() / 1000;
        assert!(add(&list, Kind::Key, "k", Some(now_s + 100)).ok);
        assert!(!list.end(&mut list.lock(), now_s + 99));
        assert!(list.end(&mut list.lock(), now_s + 100));
        assert!(list.is_empty());
    }
}
