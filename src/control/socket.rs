//! The control socket: verbs for the running process, from this host, from its owner.
//!
//! A Unix socket with mode 0600; each peer's credentials are checked besides (the same user, or root). One
//! request a connection, one line of JSON each way: `{"verb":"reload"}` → `{"ok":false,"errors":[…]}`. What a
//! verb does is the supervisor's; this part only carries it, with bounds on bytes, time and connections.
//!
//! The client side ([`call`]) blocks and needs no runtime; `ringwall reload` is its user.

use std::fmt;
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as StdListener, UnixStream as StdStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};

use super::block::Command;
use super::process_log::{Code, Line};
use crate::sys::privileges::effective_user;

/// The most bytes of a request line.
pub const REQUEST_BYTES_MAX: u64 = 4096;
/// The most bytes of a response line that the client reads.
pub const RESPONSE_BYTES_MAX: u64 = 4 << 20;
/// The time a peer has to send its request, and to take the response.
pub const PEER_TIME_MAX: Duration = Duration::from_secs(5);
/// The longest that a verb may take.
pub const VERB_TIME_MAX: Duration = Duration::from_secs(120);
/// The most connections at once.
pub const CONNECTIONS_MAX: usize = 8;
/// Where the socket is if the configuration does not say.
pub const DEFAULT_PATH: &str = "/run/ringwall/control.sock";

/// The control socket is ready.
pub const SOCKET_LISTENS: Code = Code::new(6022, "the control socket listens");
/// There is no control socket: `reload` by socket, `status` and `drain` do not work; signals do.
pub const SOCKET_SKIPPED: Code = Code::new(6023, "there is no control socket, only signals are heard");
/// A process of another user tried to use the control socket.
pub const SOCKET_PEER_REFUSED: Code = Code::new(6024, "a peer of the control socket was refused");

/// A request that no supervisor got, or answered in time.
pub const SOCKET_REQUEST_FAILED: Code = Code::new(6027, "the control socket could not do what was asked");

/// What may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Read the configuration again.
    Reload,
    /// Say how things are.
    Status,
    /// Open the log files again.
    ReopenLogs,
    /// Take no new connection, finish what runs.
    Drain,
    /// Go back to the configuration before the one that runs.
    Rollback,
    /// Hand over to a new process.
    Upgrade,
    /// Change, or tell, what is blocked.
    Block,
}

/// What is asked, with what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Request {
    /// What is asked.
    pub verb: Verb,
    /// Of [`Verb::Upgrade`]: another program than the one that runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<PathBuf>,
    /// Of [`Verb::Block`]: what.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<Command>,
    /// Who asks, as the kernel says: the number of a user.
    #[serde(skip)]
    pub by: u32,
}

impl From<Verb> for Request {
    fn from(verb: Verb) -> Request {
        Request { verb, binary: None, block: None, by: 0 }
    }
}

/// One thing that is wrong, as `check` would report it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Complaint {
    /// `RW-nnnn`.
    pub code: String,
    /// One sentence.
    pub message: String,
    /// The file, where one is at fault.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// The column, from 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub column: Option<u32>,
    /// The whole report with the line shown, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendered: Option<String>,
}

/// The answer to a verb.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Response {
    /// Whether it was done.
    pub ok: bool,
    /// Why not, all of it.
    #[serde(default)]
    pub errors: Vec<Complaint>,
    /// What there is to say: the generation after a reload, the status.
    #[serde(default, skip_serializing_if = "serde_json::Value::is_null")]
    pub result: serde_json::Value,
}

impl Response {
    /// Done, with something to say about it.
    pub fn done(result: serde_json::Value) -> Response {
        Response { ok: true, errors: Vec::new(), result }
    }

    /// Not done.
    pub fn failed(errors: Vec<Complaint>) -> Response {
        Response { ok: false, errors, result: serde_json::Value::Null }
    }

    fn refused(code: Code, message: &str) -> Response {
        let complaint =
            Complaint { code: code.to_string(), message: message.to_owned(), ..Complaint::default() };
        Response::failed(vec![complaint])
    }
}

/// Why the socket cannot be bound.
#[derive(Debug)]
pub enum SocketError {
    /// Another process answers on this path, or is about to.
    InUse(PathBuf),
    /// There is a file at this path that is no socket; it is left alone.
    NotASocket(PathBuf),
    /// The system refused: which path, and why.
    Io(PathBuf, io::Error),
}

impl fmt::Display for SocketError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SocketError::InUse(path) => write!(f, "{}: another process listens there", path.display()),
            SocketError::NotASocket(path) => write!(f, "{}: is a file, not a socket", path.display()),
            SocketError::Io(path, error) => write!(f, "{}: {error}", path.display()),
        }
    }
}

/// Where the socket may be when the configuration says nothing, best first: `/run/ringwall`, then the user's own
/// runtime directory.
pub fn default_paths() -> Vec<PathBuf> {
    let mut paths = vec![PathBuf::from(DEFAULT_PATH)];
    if let Some(directory) = std::env::var_os("XDG_RUNTIME_DIR").filter(|value| !value.is_empty()) {
        paths.push(Path::new(&directory).join("ringwall/control.sock"));
    }
    paths
}

/// A bound socket, not yet served. Its file goes away with it.
pub struct ControlSocket {
    listener: StdListener,
    file: Arc<SocketFile>,
}

/// The file of the socket, removed with its last holder if it is still ours.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: (u64, u64),
    /// It is another process's to remove.
    lent: AtomicBool,
}

impl SocketFile {
    /// The socket's file at `path`, ours from now on.
    ///
    /// # Errors
    /// Those of `lstat`.
    pub(super) fn at(path: &Path) -> io::Result<SocketFile> {
        let metadata = fs::symlink_metadata(path)?;
        let inode = (metadata.dev(), metadata.ino());
        Ok(SocketFile { path: path.to_owned(), inode, lent: AtomicBool::new(false) })
    }

    /// Says whether the file is another process's to remove.
    pub fn set_lent(&self, lent: bool) {
        self.lent.store(lent, Ordering::Relaxed);
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.lent.load(Ordering::Relaxed) {
            return;
        }
        let ours = fs::symlink_metadata(&self.path).is_ok_and(|now| (now.dev(), now.ino()) == self.inode);
        if ours {
            // A process that dropped its privileges may not be allowed to: the next start replaces it.
            let _ = fs::remove_file(&self.path);
        }
    }
}

impl ControlSocket {
    /// Binds `path`, mode 0600, for `owner` (user and group) where privileges are about to be dropped. A socket
    /// file that nobody answers on is replaced.
    ///
    /// # Errors
    /// See [`SocketError`].
    pub fn bind(path: &Path, owner: Option<(u32, u32)>) -> Result<ControlSocket, SocketError> {
        let io = |error| SocketError::Io(path.to_owned(), error);
        // Two processes that start together must not both find the file stale. The lock's file is opened
        // without following a link and never cut: somebody else may be able to write in this directory.
        let lock_path = with_suffix(path, ".lock");
        let lock = File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(libc::O_NOFOLLOW)
            .open(&lock_path)
            .map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(SocketError::InUse(path.to_owned())),
            Err(TryLockError::Error(error)) => return Err(io(error)),
        }
        let bound = Self::bind_locked(path, owner);
        let _ = fs::remove_file(&lock_path);
        bound
    }

    fn bind_locked(path: &Path, owner: Option<(u32, u32)>) -> Result<ControlSocket, SocketError> {
        let io = |error| SocketError::Io(path.to_owned(), error);
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => {
                return Err(SocketError::NotASocket(path.to_owned()));
            }
            Ok(_) if StdStream::connect(path).is_ok() => return Err(SocketError::InUse(path.to_owned())),
            Ok(_) | Err(_) => {}
        }
        // Under a name of its own until owner and mode are right, then moved over the old one in one step.
        let fresh = with_suffix(path, &format!(".{}", std::process::id()));
        let _ = fs::remove_file(&fresh);
        let listener = StdListener::bind(&fresh).map_err(io)?;
        let prepared = (|| {
            listener.set_nonblocking(true)?;
            fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
            if let Some((user, group)) = owner {
                std::os::unix::fs::chown(&fresh, Some(user), Some(group))?;
            }
            let metadata = fs::symlink_metadata(&fresh)?;
            fs::rename(&fresh, path)?;
            Ok((metadata.dev(), metadata.ino()))
        })();
        match prepared {
            Ok(inode) => {
                let file = SocketFile { path: path.to_owned(), inode, lent: AtomicBool::new(false) };
                Ok(ControlSocket { listener, file: Arc::new(file) })
            }
            Err(error) => {
                let _ = fs::remove_file(&fresh);
                Err(io(error))
            }
        }
    }

    /// Binds the first of [`default_paths`] that works, making its directory where it is missing; says loudly
    /// if none does.
    pub fn bind_default(owner: Option<(u32, u32)>) -> Option<ControlSocket> {
        let mut reasons = Vec::new();
        for path in default_paths() {
            if let Some(directory) = path.parent() {
                use std::os::unix::fs::DirBuilderExt as _;
                let _ = fs::DirBuilder::new().mode(0o755).create(directory);
            }
            match ControlSocket::bind(&path, owner) {
                Ok(socket) => return Some(socket),
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Line::warn(SOCKET_SKIPPED).with("why", reasons.join("; ")).emit();
        None
    }

    /// Takes a socket over that another process has bound at `path`. The file stays that one's until
    /// [said otherwise](SocketFile::set_lent).
    ///
    /// # Errors
    /// Those of `fcntl` and `lstat`.
    pub fn adopt(listener: StdListener, path: &Path) -> io::Result<ControlSocket> {
        listener.set_nonblocking(true)?;
        let file = SocketFile::at(path)?;
        file.set_lent(true);
        Ok(ControlSocket { listener, file: Arc::new(file) })
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.file.path
    }

    /// A second handle on the listening socket.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone_listener(&self) -> io::Result<StdListener> {
        self.listener.try_clone()
    }

    /// Its file.
    pub fn file(&self) -> Arc<SocketFile> {
        Arc::clone(&self.file)
    }

    /// Serves, for ever: each verb is handed to `on_verb` with the place for its response. Runs on the control
    /// thread. A dropped sender counts as "not done".
    ///
    /// # Errors
    /// The runtime does not take the listener.
    pub async fn serve(
        self,
        on_verb: impl Fn(Request, oneshot::Sender<Response>) + Send + Sync + 'static,
    ) -> io::Result<()> {
        let ControlSocket { listener, file } = self;
        let listener = UnixListener::from_std(listener)?;
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let on_verb = Arc::new(on_verb);
        Line::info(SOCKET_LISTENS).with("path", file.path.display()).emit();
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else { return Ok(()) };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(_) => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let on_verb = on_verb.clone();
            tokio::spawn(async move {
                serve_one(stream, &*on_verb).await;
                drop(permit);
            });
        }
    }
}

async fn serve_one(mut stream: UnixStream, on_verb: &(impl Fn(Request, oneshot::Sender<Response>) + Sync)) {
    let peer = stream.peer_cred().map(|peer| peer.uid());
    let response = match peer {
        Ok(user) if may_speak(user, effective_user()) => {
            match tokio::time::timeout(PEER_TIME_MAX, read_request(&mut stream)).await {
                Ok(Ok(request)) => perform(Request { by: user, ..request }, on_verb).await,
                Ok(Err(why)) => Response::refused(SOCKET_REQUEST_FAILED, &why),
                Err(_) => return,
            }
        }
        refused => {
            let user = refused.map_or(-1, i64::from);
            Line::warn(SOCKET_PEER_REFUSED).with("uid", user).emit();
            Response::refused(SOCKET_PEER_REFUSED, "you are neither root nor the user that Ringwall runs as")
        }
    };
    let mut line = serde_json::to_vec(&response).unwrap_or_else(|_| b"{\"ok\":false,\"errors\":[]}".to_vec());
    line.push(b'\n');
    let _ = tokio::time::timeout(PEER_TIME_MAX, async {
        let _ = stream.write_all(&line).await;
        let _ = stream.shutdown().await;
    })
    .await;
}

/// Root may, and the user that runs us. Nobody else, whatever the file's mode says.
fn may_speak(peer: u32, own: u32) -> bool {
    peer == 0 || peer == own
}

async fn read_request(stream: &mut UnixStream) -> Result<Request, String> {
    let mut line = Vec::new();
    let mut reader = tokio::io::BufReader::new(stream.take(REQUEST_BYTES_MAX));
    reader.read_until(b'\n', &mut line).await.map_err(|error| error.to_string())?;
    if line.pop() != Some(b'\n') {
        return Err("a request is one line of at most 4096 bytes".to_owned());
    }
    serde_json::from_slice(&line).map_err(|error| error.to_string())
}

async fn perform(request: Request, on_verb: &impl Fn(Request, oneshot::Sender<Response>)) -> Response {
    let (sender, receiver) = oneshot::channel();
    on_verb(request, sender);
    match tokio::time::timeout(VERB_TIME_MAX, receiver).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => Response::refused(SOCKET_REQUEST_FAILED, "the process is about to end"),
        Err(_) => Response::refused(
            SOCKET_REQUEST_FAILED,
            "it takes longer than 120 s and goes on; see the process log",
        ),
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Sends a verb to the process that listens on `path` and waits for its answer. Blocks; for the command line.
///
/// # Errors
/// Nobody listens, or what came back is no response.
pub fn call(path: &Path, request: impl Into<Request>) -> io::Result<Response> {
    let mut stream = StdStream::connect(path)?;
    stream.set_write_timeout(Some(PEER_TIME_MAX))?;
    // The server bounds the verb; this bounds a server that hangs.
    stream.set_read_timeout(Some(VERB_TIME_MAX + 2 * PEER_TIME_MAX))?;
    let mut request = serde_json::to_vec(&request.into())?;
    request.push(b'\n');
    // A server that refuses us answers and closes without reading: its answer counts, not our failure to write.
    let written = stream.write_all(&request);
    let mut line = Vec::new();
    let read = BufReader::new(stream.take(RESPONSE_BYTES_MAX)).read_until(b'\n', &mut line);
    if !line.ends_with(b"\n") {
        written?;
        read?;
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    serde_json::from_slice(&line).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_root_and_the_own_user_may_speak() {
        assert!(may_speak(0, 1000));
        assert!(may_speak(1000, 1000));
        assert!(!may_speak(1001, 1000));
        assert!(!may_speak(1000, 0), "an ordinary user may not command a process of root");
        assert!(!may_speak(u32::MAX, 1000));
    }

    #[test]
    fn verbs_are_spelled_with_hyphens_and_nothing_else_is_taken() {
        let verb = |text: &str| serde_json::from_str::<Request>(text).map(|request| request.verb).ok();
        assert_eq!(verb(r#"{"verb":"reopen-logs"}"#), Some(Verb::ReopenLogs));
        assert_eq!(verb(r#"{"verb":"reload"}"#), Some(Verb::Reload));
        for bad in [r#"{"verb":"Reload"}"#, r#"{"verb":"reload","force":true}"#, "{}", "[]", r#""reload""#] {
            assert_eq!(verb(bad), None, "{bad}");
        }
    }
}
