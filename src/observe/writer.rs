//! The writer thread: drains the rings of all cores, makes lines of their records and writes them.
//!
//! For: everything slow about logs. Not for: data threads, which never wake it and never wait for it. Started by
//! `cli`, told about signals and new configurations by `control`.
//!
//! It sleeps between passes, from 1 to 25 ms: shorter as the rings fill, longer as they stay empty, so that a core
//! pays nothing for waking it. Lines are gathered up to 256 KiB and written at once. A sink that does not take them
//! (a full pipe, a full disk) is tried again later; meanwhile the rings fill, then records are lost, counted, and the
//! loss is written as soon as something can be. Pipes and terminals are written without blocking, so that one that
//! nobody reads does not hold up the audit log.
//!
//! Memory: 256 KiB and one line per sink, beside the rings.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::{JoinHandle, park_timeout};
use std::time::{Duration, Instant};

use super::exposition::Family;
use super::format::{Formatter, LogFormat};
use super::names::{Directory, NameTable};
use super::record::{Decoded, Flags, LogDrain, decode};
use super::ring::Consumer;
use crate::control::process_log::{Code, Line};

const ACCESS_RECORDS_LOST: Code = Code::new(6050, "access records lost, their ring was full");
const AUDIT_RECORDS_LOST: Code = Code::new(6051, "audit records lost, their ring was full");
const LOG_NOT_OPENED: Code = Code::new(6052, "log not opened");
const LOG_NOT_WRITTEN: Code = Code::new(6053, "log not written, trying again");
/// A file could not be opened anew; the one that is open goes on.
pub const LOG_NOT_REOPENED: Code = Code::new(6054, "log not reopened, going on with the file that is open");

/// Lines are written when this many bytes are gathered, or nothing more is waiting.
const BATCH_BYTES: usize = 256 << 10;
/// Longest text of notices kept for a standard error that does not take them.
const NOTICE_BYTES_MAX: usize = 64 << 10;
/// Shortest and longest sleep.
const NAP_MIN: Duration = Duration::from_millis(1);
const NAP_MAX: Duration = Duration::from_millis(25);
/// Sleep while a sink does not take what it should.
const NAP_BLOCKED: Duration = Duration::from_millis(10);
/// First and longest pause after a failed write.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// Losses are told at most this often.
const LOSS_PERIOD: Duration = Duration::from_secs(1);
/// A failing sink is told of at most this often.
const NOTICE_PERIOD: Duration = Duration::from_secs(10);
/// How long a socket as standard output may hold up a write.
const SOCKET_WAIT: Duration = Duration::from_millis(50);

/// Where lines go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, appended to; made with mode 0640 if it is not there. A FIFO works too.
    File(PathBuf),
}

/// Where audit records go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditSink {
    /// Nowhere; cores do not record them.
    Off,
    /// Among the lines of the access log if that is JSON, else to standard error.
    Access,
    /// A sink of their own.
    Own(Sink),
}

/// What the writer writes.
#[derive(Clone, Debug)]
pub struct LogConfig {
    /// The access log; `None` = cores do not record requests.
    pub access: Option<Sink>,
    /// Form of access log lines.
    pub format: LogFormat,
    /// The audit log; always JSON lines.
    pub audit: AuditSink,
    /// Wall clock in Unix milliseconds, for lines of the writer's own.
    pub now_ms: fn() -> u64,
}

/// A log could not be opened.
#[derive(Debug)]
pub struct WriterError {
    /// Which: a path, or the name of a standard stream.
    pub sink: String,
    /// Why.
    pub source: io::Error,
}

impl std::fmt::Display for WriterError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RW-{} {}: {}: {}", LOG_NOT_OPENED.number, LOG_NOT_OPENED.message, self.sink, self.source)
    }
}

impl std::error::Error for WriterError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// What the writer did so far; read by the registry.
#[derive(Debug, Default)]
pub struct WriterStats {
    access_records: AtomicU64,
    audit_records: AtomicU64,
    truncated: AtomicU64,
    errors: AtomicU64,
    bytes: AtomicU64,
    notices_lost: AtomicU64,
}

impl WriterStats {
    /// Access records made into lines.
    pub fn access_records(&self) -> u64 {
        self.access_records.load(Ordering::Relaxed)
    }

    /// Audit records made into lines.
    pub fn audit_records(&self) -> u64 {
        self.audit_records.load(Ordering::Relaxed)
    }

    /// Failed writes and openings.
    pub fn errors(&self) -> u64 {
        self.errors.load(Ordering::Relaxed)
    }

    /// Bytes that sinks took.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn of(&self, family: Family) -> u64 {
        match family {
            Family::LogRecords => &self.access_records,
            Family::AuditRecords => &self.audit_records,
            Family::LogRecordsTruncated => &self.truncated,
            Family::LogWriteErrors => &self.errors,
            Family::LogBytes => &self.bytes,
            _ => &self.notices_lost,
        }
        .load(Ordering::Relaxed)
    }
}

/// The handle of the writer thread, for the control thread. Dropping it ends the thread within a second.
#[derive(Debug)]
pub struct Writer {
    commands: Sender<Command>,
    thread: JoinHandle<()>,
    stats: Arc<WriterStats>,
}

enum Command {
    Configure(Box<Outputs>),
    Reopen(Box<dyn FnOnce(bool) + Send>),
    Stop(Instant),
}

impl Writer {
    /// Opens the sinks and starts the thread. From now on the cores' records are kept.
    ///
    /// # Errors
    /// If a sink cannot be opened or no thread can be made.
    pub fn start(
        drain: LogDrain,
        config: &LogConfig,
        directory: Arc<Directory>,
    ) -> Result<Writer, WriterError> {
        let outputs = Outputs::open(config)?;
        let notices = Output::open(Sink::Stderr)?;
        let (commands, received) = channel();
        let stats = Arc::new(WriterStats::default());
        let mut thread = Thread {
            drain,
            outputs,
            notices,
            notice_stats: WriterStats::default(),
            directory,
            received,
            stats: Arc::clone(&stats),
            formatter: Formatter::default(),
            scratch: Vec::with_capacity(8 << 10),
            first_ring: 0,
            told: Told::default(),
        };
        thread.want();
        let builder = std::thread::Builder::new().name("writer".to_owned());
        let thread = builder
            .spawn(move || thread.run())
            .map_err(|source| WriterError { sink: "writer thread".to_owned(), source })?;
        Ok(Writer { commands, thread, stats })
    }

    /// Goes over to another configuration; what is waiting for the old sinks is written to them first, if they take it.
    ///
    /// # Errors
    /// If a sink cannot be opened; then nothing changes.
    pub fn configure(&self, config: &LogConfig) -> Result<(), WriterError> {
        self.tell(Command::Configure(Box::new(Outputs::open(config)?)));
        Ok(())
    }

    /// Opens the files anew, for log rotation, then tells `done` whether all of them are. A file that cannot be opened is kept
    /// as it is, and that is told.
    pub fn reopen(&self, done: impl FnOnce(bool) + Send + 'static) {
        self.tell(Command::Reopen(Box::new(done)));
    }

    /// What it did so far.
    pub fn stats(&self) -> Arc<WriterStats> {
        Arc::clone(&self.stats)
    }

    /// Writes what the rings hold and ends the thread. False: not all was written within `patience`.
    pub fn stop(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        self.tell(Command::Stop(deadline));
        // A thread that is stuck in a write to a dead disk cannot be joined; it dies with the process.
        while !self.thread.is_finished() {
            if Instant::now() > deadline + NAP_MAX {
                return false;
            }
            std::thread::sleep(NAP_MIN);
        }
        self.thread.join().is_ok() && Instant::now() <= deadline
    }

    fn tell(&self, command: Command) {
        // The thread ends only after `stop`, which consumes this handle.
        let _gone = self.commands.send(command);
        self.thread.thread().unpark();
    }
}

struct Outputs {
    access: Option<Output>,
    format: LogFormat,
    audit: Audit,
    now_ms: fn() -> u64,
}

enum Audit {
    Off,
    WithAccess,
    Own(Output),
}

impl Outputs {
    fn open(config: &LogConfig) -> Result<Outputs, WriterError> {
        let access = config.access.clone().map(Output::open).transpose()?;
        let shared = access.is_some() && config.format == LogFormat::Json;
        let audit = match &config.audit {
            AuditSink::Off => Audit::Off,
            AuditSink::Access if shared => Audit::WithAccess,
            AuditSink::Access => Audit::Own(Output::open(Sink::Stderr)?),
            // Two handles on one sink would cut each other's lines.
            AuditSink::Own(sink) if config.access.as_ref() == Some(sink) => Audit::WithAccess,
            AuditSink::Own(sink) => Audit::Own(Output::open(sink.clone())?),
        };
        Ok(Outputs { access, format: config.format, audit, now_ms: config.now_ms })
    }

    fn each(&mut self) -> impl Iterator<Item = &mut Output> {
        let audit = match &mut self.audit {
            Audit::Own(output) => Some(output),
            _ => None,
        };
        self.access.iter_mut().chain(audit)
    }
}

struct Thread {
    drain: LogDrain,
    outputs: Outputs,
    notices: Output,
    /// Of the notices alone: they are no log.
    notice_stats: WriterStats,
    directory: Arc<Directory>,
    received: Receiver<Command>,
    stats: Arc<WriterStats>,
    formatter: Formatter,
    scratch: Vec<u8>,
    /// Which ring is drained first; moves on, so that a busy core does not starve the others.
    first_ring: usize,
    told: Told,
}

/// What was already said about losses and failures.
#[derive(Default)]
struct Told {
    access_lost: Vec<u64>,
    audit_lost: Vec<u64>,
    losses_at: Option<Instant>,
    failure_at: Option<Instant>,
}

/// How a pass over the rings ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pass {
    /// Nothing is waiting.
    Dry,
    /// More is waiting and the sinks take it.
    More,
    /// A sink does not take more now.
    Blocked,
}

impl Thread {
    fn run(&mut self) {
        let mut nap = NAP_MIN;
        let mut stop_at = None;
        loop {
            stop_at = self.obey(stop_at);
            let now = Instant::now();
            let fill = self
                .drain
                .access
                .iter()
                .chain(&self.drain.audit)
                .map(Consumer::fill_ratio)
                .fold(0.0, f64::max);
            let pass = self.pass(now);
            self.tell_losses(now);
            self.notices.flush(now, &self.notice_stats);
            if stop_at.is_some_and(|deadline| pass == Pass::Dry || now >= deadline) {
                return self.finish();
            }
            nap = match pass {
                Pass::More => continue,
                Pass::Blocked => NAP_BLOCKED,
                Pass::Dry if fill > 0.2 => (nap / 2).max(NAP_MIN),
                Pass::Dry if fill < 0.05 => (nap * 5 / 4).min(NAP_MAX),
                Pass::Dry => nap.min(NAP_MAX),
            };
            park_timeout(nap);
        }
    }

    /// Tells the last losses.
    fn finish(&mut self) {
        let now = Instant::now();
        self.told.losses_at = None;
        self.tell_losses(now);
        self.notices.flush(now, &self.notice_stats);
        for output in self.outputs.each() {
            output.flush(now, &self.stats);
        }
    }

    /// Carries out what the control thread asked for; the deadline, once there is one.
    fn obey(&mut self, mut stop_at: Option<Instant>) -> Option<Instant> {
        loop {
            match self.received.try_recv() {
                Ok(Command::Configure(outputs)) => self.configure(*outputs),
                Ok(Command::Reopen(done)) => {
                    done(self.reopen());
                }
                Ok(Command::Stop(deadline)) => stop_at = Some(deadline),
                Err(TryRecvError::Empty) => return stop_at,
                // The handle was dropped.
                Err(TryRecvError::Disconnected) => {
                    return stop_at.or_else(|| Some(Instant::now() + Duration::from_secs(1)));
                }
            }
        }
    }

    fn configure(&mut self, outputs: Outputs) {
        // Records that were pushed under the old configuration belong to its sinks.
        self.pass(Instant::now());
        let mut old = std::mem::replace(&mut self.outputs, outputs);
        // What the old sink did not take goes to the new one of its kind, from the start of the line it stopped in.
        if let (Some(old), Some(new)) = (&mut old.access, &mut self.outputs.access) {
            old.rewind();
            new.pending.extend_from_slice(&old.pending[old.sent..]);
        }
        if let (Audit::Own(old), Audit::Own(new)) = (&mut old.audit, &mut self.outputs.audit) {
            old.rewind();
            new.pending.extend_from_slice(&old.pending[old.sent..]);
        }
        self.want();
    }

    fn want(&self) {
        let wanted = &self.drain.wanted;
        wanted.access.store(self.outputs.access.is_some(), Ordering::Relaxed);
        wanted.audit.store(!matches!(self.outputs.audit, Audit::Off), Ordering::Relaxed);
        let agent = self.outputs.access.is_some() && self.outputs.format == LogFormat::Combined;
        wanted.agent.store(agent, Ordering::Relaxed);
    }

    /// Whether all files are open anew.
    fn reopen(&mut self) -> bool {
        let now = Instant::now();
        // What was recorded before the rotation belongs to the old file, as far as it can be had at once.
        self.pass(now);
        let mut failures = Vec::new();
        for output in self.outputs.each() {
            if let Err(error) = output.reopen() {
                self.stats.errors.fetch_add(1, Ordering::Relaxed);
                failures.push(error);
            }
        }
        let all = failures.is_empty();
        for failure in failures {
            self.notice(Line::warn(LOG_NOT_REOPENED).with("log", failure.sink).with("error", failure.source));
        }
        all
    }

    /// Drains until the rings are dry, a sink blocks, or a batch was written.
    fn pass(&mut self, now: Instant) -> Pass {
        let Thread { drain, outputs, formatter, scratch, stats, .. } = self;
        let names = self.directory.table();
        self.first_ring = self.first_ring.wrapping_add(1);
        let first = self.first_ring;
        let format = outputs.format;
        // The audit rings first: they are small and their loss is dearer.
        let mut lines = Lines { formatter, scratch, names: &names, stats, first, now };
        let audit = match (&mut outputs.audit, &mut outputs.access) {
            (Audit::Own(output), _) | (Audit::WithAccess, Some(output)) => {
                lines.gather(&mut drain.audit, output, Kind::Audit)
            }
            _ => discard(&mut drain.audit),
        };
        let access = match &mut outputs.access {
            Some(output) => lines.gather(&mut drain.access, output, Kind::Access(format)),
            None => discard(&mut drain.access),
        };
        let failures: Vec<_> = self.outputs.each().filter_map(|output| output.failure.take()).collect();
        for failure in failures {
            if self.told.failure_at.is_none_or(|at| now >= at + NOTICE_PERIOD) {
                self.told.failure_at = Some(now);
                let WriterError { sink, source } = failure;
                self.notice(Line::error(LOG_NOT_WRITTEN).with("log", sink).with("error", source));
            }
        }
        match (audit, access) {
            (Pass::Blocked, _) | (_, Pass::Blocked) => Pass::Blocked,
            (Pass::More, _) | (_, Pass::More) => Pass::More,
            _ => Pass::Dry,
        }
    }

    fn tell_losses(&mut self, now: Instant) {
        if self.told.losses_at.is_some_and(|at| now < at + LOSS_PERIOD) {
            return;
        }
        self.told.losses_at = Some(now);
        let now_ms = (self.outputs.now_ms)();
        let access = news(&self.drain.access, &mut self.told.access_lost);
        let audit = news(&self.drain.audit, &mut self.told.audit_lost);
        for (core, lost) in access {
            self.notice(Line::error(ACCESS_RECORDS_LOST).with("core", core).with("lost", lost));
            if let (Some(output), LogFormat::Json) = (&mut self.outputs.access, self.outputs.format) {
                let event = "log_records_lost";
                self.formatter.lost(
                    now_ms,
                    event,
                    ACCESS_RECORDS_LOST.number,
                    core,
                    lost,
                    &mut output.pending,
                );
            }
        }
        for (core, lost) in audit {
            self.notice(Line::error(AUDIT_RECORDS_LOST).with("core", core).with("lost", lost));
            if let (Audit::Own(output), _) | (Audit::WithAccess, Some(output)) =
                (&mut self.outputs.audit, &mut self.outputs.access)
            {
                let event = "audit_records_lost";
                self.formatter.lost(
                    now_ms,
                    event,
                    AUDIT_RECORDS_LOST.number,
                    core,
                    lost,
                    &mut output.pending,
                );
            }
        }
    }

    /// A line of the process log, through a handle that does not block.
    fn notice(&mut self, line: Line) {
        let now_ms = i64::try_from((self.outputs.now_ms)()).unwrap_or(0);
        let now = jiff::Timestamp::from_millisecond(now_ms).unwrap_or_default();
        self.notices.append_bounded(line.render(now).as_bytes(), &self.stats);
    }
}

/// Losses since they were last told, by ring.
fn news(rings: &[Consumer], told: &mut Vec<u64>) -> Vec<(usize, u64)> {
    told.resize(rings.len(), 0);
    let mut news = Vec::new();
    for (core, (ring, told)) in rings.iter().zip(told).enumerate() {
        let lost = ring.losses().load();
        if lost != *told {
            news.push((core, lost.wrapping_sub(*told)));
            *told = lost;
        }
    }
    news
}

fn discard(rings: &mut [Consumer]) -> Pass {
    for ring in rings {
        ring.drain(|_| true);
    }
    Pass::Dry
}

#[derive(Clone, Copy)]
enum Kind {
    Access(LogFormat),
    Audit,
}

/// What one pass needs to make lines.
struct Lines<'a> {
    formatter: &'a mut Formatter,
    scratch: &'a mut Vec<u8>,
    names: &'a NameTable,
    stats: &'a WriterStats,
    first: usize,
    now: Instant,
}

impl Lines<'_> {
    /// Moves records from the rings into the output until the rings are dry or a batch is full, and writes it.
    fn gather(&mut self, rings: &mut [Consumer], output: &mut Output, kind: Kind) -> Pass {
        output.flush(self.now, self.stats);
        if output.pending.len() >= BATCH_BYTES {
            return Pass::Blocked;
        }
        let (mut records, mut truncated) = (0, 0);
        let count = rings.len();
        for at in 0..count {
            let ring = &mut rings[(self.first + at) % count];
            records += ring.drain(|words| {
                if let Some(decoded) = decode(words, self.scratch) {
                    if let Decoded::Access(record) = &decoded {
                        truncated += u64::from(record.flags.has(Flags::TRUNCATED));
                    }
                    match (kind, &decoded) {
                        (Kind::Access(format), Decoded::Access(record)) => {
                            self.formatter.access(format, record, self.names, &mut output.pending);
                        }
                        _ => self.formatter.audit(&decoded, self.names, &mut output.pending),
                    }
                }
                output.pending.len() < BATCH_BYTES
            });
            if output.pending.len() >= BATCH_BYTES {
                break;
            }
        }
        let counter = match kind {
            Kind::Access(_) => &self.stats.access_records,
            Kind::Audit => &self.stats.audit_records,
        };
        counter.fetch_add(records as u64, Ordering::Relaxed);
        self.stats.truncated.fetch_add(truncated, Ordering::Relaxed);
        let full = output.pending.len() >= BATCH_BYTES;
        output.flush(self.now, self.stats);
        match (output.pending.is_empty(), full) {
            (true, false) => Pass::Dry,
            (true, true) => Pass::More,
            (false, _) => Pass::Blocked,
        }
    }
}

/// An open sink and what it has not taken yet.
struct Output {
    sink: Sink,
    /// `None`: a FIFO that nobody reads yet.
    handle: Option<Handle>,
    /// Whole lines; emptied only when all of it was taken.
    pending: Vec<u8>,
    /// How much of `pending` the sink has taken.
    sent: usize,
    retry_at: Option<Instant>,
    pause: Duration,
    /// What went wrong last, until it is told.
    failure: Option<WriterError>,
}

enum Handle {
    File(File),
    Socket(UnixStream),
}

impl Output {
    fn open(sink: Sink) -> Result<Output, WriterError> {
        let handle = open(&sink)?;
        Ok(Output {
            sink,
            handle,
            pending: Vec::new(),
            sent: 0,
            retry_at: None,
            pause: RETRY_MIN,
            failure: None,
        })
    }

    /// Opens a file anew; the line that was half written to the old one is written whole to the new one.
    fn reopen(&mut self) -> Result<(), WriterError> {
        if matches!(self.sink, Sink::File(_)) {
            self.handle = open(&self.sink)?;
            self.rewind();
            self.retry_at = None;
        }
        Ok(())
    }

    /// Back to the start of the line that was being written.
    fn rewind(&mut self) {
        self.sent = memchr::memrchr(b'\n', &self.pending[..self.sent]).map_or(0, |end| end + 1);
    }

    /// Writes what is pending, as far as the sink takes it now.
    fn flush(&mut self, now: Instant, stats: &WriterStats) {
        if self.pending.is_empty() || self.retry_at.is_some_and(|at| now < at) {
            return;
        }
        if self.handle.is_none() {
            match open(&self.sink) {
                Ok(Some(handle)) => self.handle = Some(handle),
                Ok(None) => return self.retry_later(now),
                Err(error) => return self.fail(now, stats, error.source),
            }
        }
        while self.sent < self.pending.len() {
            let rest = &self.pending[self.sent..];
            let written = match &mut self.handle {
                Some(Handle::File(file)) => file.write(rest),
                Some(Handle::Socket(socket)) => socket.write(rest),
                None => return,
            };
            match written {
                Ok(0) => return self.fail(now, stats, io::Error::from(ErrorKind::WriteZero)),
                Ok(count) => {
                    self.sent += count;
                    stats.bytes.fetch_add(count as u64, Ordering::Relaxed);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return,
                Err(error) => {
                    if error.kind() == ErrorKind::BrokenPipe && matches!(self.sink, Sink::File(_)) {
                        // The reader of a FIFO left; the next one gets whole lines.
                        self.handle = None;
                        self.rewind();
                    }
                    return self.fail(now, stats, error);
                }
            }
        }
        self.pending.clear();
        self.sent = 0;
        self.pause = RETRY_MIN;
        self.retry_at = None;
    }

    /// Appends if there is room, else counts.
    fn append_bounded(&mut self, text: &[u8], stats: &WriterStats) {
        if self.pending.len() + text.len() > NOTICE_BYTES_MAX {
            stats.notices_lost.fetch_add(1, Ordering::Relaxed);
        } else {
            self.pending.extend_from_slice(text);
        }
    }

    fn fail(&mut self, now: Instant, stats: &WriterStats, error: io::Error) {
        stats.errors.fetch_add(1, Ordering::Relaxed);
        self.failure = Some(WriterError { sink: self.sink.name(), source: error });
        self.retry_later(now);
    }

    fn retry_later(&mut self, now: Instant) {
        self.retry_at = Some(now + self.pause);
        self.pause = (self.pause * 2).min(RETRY_MAX);
    }
}

impl Sink {
    fn name(&self) -> String {
        match self {
            Sink::Stdout => "standard output".to_owned(),
            Sink::Stderr => "standard error".to_owned(),
            Sink::File(path) => path.display().to_string(),
        }
    }
}

fn open(sink: &Sink) -> Result<Option<Handle>, WriterError> {
    let opened = match sink {
        Sink::Stdout => open_standard(io::stdout().as_fd(), 1).map(Some),
        Sink::Stderr => open_standard(io::stderr().as_fd(), 2).map(Some),
        Sink::File(path) => {
            let mut options = OpenOptions::new();
            // Non-blocking means nothing to a regular file and everything to a FIFO.
            options.append(true).create(true).mode(0o640).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
            match options.open(path) {
                Ok(file) => Ok(Some(Handle::File(file))),
                // fifo(7): opening for writing without a reader.
                Err(error) if error.raw_os_error() == Some(libc::ENXIO) => Ok(None),
                Err(error) => Err(error),
            }
        }
    };
    opened.map_err(|source| WriterError { sink: sink.name(), source })
}

/// A handle of our own on a standard stream. Setting O_NONBLOCK on the stream itself would change it for whoever else
/// holds it, so a pipe or terminal is opened once more; a socket cannot be, it gets a time limit.
fn open_standard(stream: BorrowedFd<'_>, number: u32) -> io::Result<Handle> {
    let own = stream.try_clone_to_owned()?;
    let file = File::from(own);
    let kind = file.metadata()?.file_type();
    if kind.is_fifo() || kind.is_char_device() {
        let mut options = OpenOptions::new();
        options.write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
        // May be refused (a pipe of another user): then writes may block, which only fills the rings.
        return Ok(Handle::File(options.open(format!("/proc/self/fd/{number}")).unwrap_or(file)));
    }
    if kind.is_socket() {
        let socket = UnixStream::from(std::os::fd::OwnedFd::from(file));
        socket.set_write_timeout(Some(SOCKET_WAIT))?;
        return Ok(Handle::Socket(socket));
    }
    Ok(Handle::File(file))
}
