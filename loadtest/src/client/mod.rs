//! The load generator: HTTP/1.1 over plain TCP or TLS, any number of connections on one epoll loop and one thread.
//!
//! For: being cheap and exact. Requests are whole byte strings made beforehand; answers are checked to the last byte.
//! Not for: features; it follows no redirect and keeps no cookie. Called by `compare`, `idle` and `run`.

pub mod response;
mod schedule;
pub mod tls;

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};

pub use self::response::{Expect, Fault};
pub use self::schedule::{Pace, Schedule};

use self::response::Response;
use crate::stats::Latencies;
use crate::sys::{self, Epoll, Event};

/// Bytes one read takes at most.
const READ_BYTES: usize = 256 * 1024;
/// A run that has seen so many errors is given up.
const ERRORS_MAX: u64 = 1_000;
/// How long the requests of an open loop may take after its end before they count as unanswered.
const DRAIN: Duration = Duration::from_secs(5);
/// An answer later than this, counted from when the request was due, is no good to anybody.
pub const IN_TIME: Duration = Duration::from_secs(1);
/// Connections that leave addresses in TIME_WAIT are spread over so many source addresses.
const SOURCES: u32 = 200;

/// What is to be sent where.
#[derive(Clone)]
pub struct Target {
    /// Where to connect.
    pub address: SocketAddr,
    /// TLS and the name to ask for; `None`: plain.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// Whole requests, sent in turn. Never empty.
    pub requests: Arc<[Vec<u8>]>,
    /// What each answer must be.
    pub expect: Expect,
    /// One connection carries many requests; `false`: each request has its own.
    pub keep_alive: bool,
    /// Connect from many loopback addresses, so that ports do not run out.
    pub many_sources: bool,
}

/// How a run was.
#[derive(Clone)]
pub struct Tally {
    /// Answers inside the window.
    pub requests: u64,
    /// Length of the window in seconds.
    pub seconds: f64,
    /// Latencies of them: from sending (closed loop) or from when they were due (open loop) to the last byte.
    pub latencies: Latencies,
    /// How often each status was seen, warm-up included.
    pub statuses: BTreeMap<u16, u64>,
    /// How often each error was seen, warm-up included.
    pub errors: BTreeMap<String, u64>,
    /// Bytes received from the server inside the window, as seen by the socket.
    pub bytes_received: u64,
    /// Open loop: requests that became due inside the window.
    pub due: u64,
    /// Open loop: those of them that were answered as expected within [`IN_TIME`].
    pub in_time: u64,
}

impl Tally {
    /// One that counted nothing.
    pub fn new() -> Self {
        Self {
            requests: 0,
            seconds: 0.0,
            latencies: Latencies::new(),
            statuses: BTreeMap::new(),
            errors: BTreeMap::new(),
            bytes_received: 0,
            due: 0,
            in_time: 0,
        }
    }

    /// All errors together.
    pub fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.requests as f64 / self.seconds
    }
}

/// Who looks on: samples are taken exactly where the measured window begins and ends.
pub trait Watch {
    /// The warm-up is over.
    fn window_opens(&mut self) {}
    /// The window is over; connections are still open.
    fn window_closes(&mut self) {}
    /// Several times a second; `done` is the part of the whole run that is over, 0 to 1.
    fn progress(&mut self, _done: f64, _tally: &Tally) {}
}

/// A set of connections to one target.
pub struct Client<'a> {
    target: &'a Target,
    stop: &'a AtomicBool,
    epoll: Epoll,
    connections: Vec<Connection>,
    /// Connections that wait for a request, longest first.
    idle: VecDeque<usize>,
    /// A closed loop is running: whoever finishes goes on at once.
    closed_loop: bool,
    next_request: usize,
    opened: u32,
    busy: usize,
    start: Instant,
    /// Latencies and requests count from here on (by due time in an open loop, by end otherwise).
    counting: Option<Counting>,
    tally: Tally,
    buffer: Vec<u8>,
    plain: Vec<u8>,
    errors_max: u64,
}

#[derive(Clone, Copy)]
struct Counting {
    /// Requests that became due earlier do not count.
    from_ns: u64,
    /// Requests that became due later do not count.
    until_ns: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Closed,
    Connecting,
    Handshaking,
    Idle,
    Busy,
}

struct Connection {
    stream: Option<TcpStream>,
    tls: Option<Box<ClientConnection>>,
    phase: Phase,
    /// Tells events of an earlier socket in the same place apart.
    generation: u32,
    /// The request being sent, and how much of it went.
    request: usize,
    sent: usize,
    /// A request waits for this connection to be made: when it was due.
    due_ns: Option<u64>,
    response: Response,
}

impl<'a> Client<'a> {
    /// Makes `count` places for connections; none is opened yet. `stop` ends any run early.
    ///
    /// # Errors
    /// epoll cannot be had.
    pub fn new(target: &'a Target, count: usize, stop: &'a AtomicBool) -> io::Result<Self> {
        let connections = (0..count).map(|_| Connection::new()).collect();
        Ok(Self {
            target,
            stop,
            epoll: Epoll::new(256)?,
            connections,
            idle: (0..count).collect(),
            closed_loop: false,
            next_request: 0,
            opened: 0,
            busy: 0,
            start: Instant::now(),
            counting: None,
            tally: Tally::new(),
            buffer: vec![0; READ_BYTES],
            plain: vec![0; if target.tls.is_some() { READ_BYTES } else { 0 }],
            errors_max: ERRORS_MAX,
        })
    }

    /// Goes on whatever fails: for runs in which failures are what is measured.
    pub fn undeterred(mut self) -> Self {
        self.errors_max = u64::MAX;
        self
    }

    /// Sends one request on each of the connections `range`, at most `at_once` at a time, and waits for the answers.
    ///
    /// # Errors
    /// epoll failed, `stop` was set, or it took longer than `limit`.
    pub fn once_each(
        &mut self,
        range: std::ops::Range<usize>,
        at_once: usize,
        limit: Duration,
    ) -> io::Result<Tally> {
        self.tally = Tally::new();
        self.closed_loop = false;
        self.counting = Some(Counting { from_ns: 0, until_ns: u64::MAX });
        let begin_ns = self.now_ns();
        let mut waiting = range;
        loop {
            let now_ns = self.now_ns();
            while self.busy < at_once
                && let Some(slot) = waiting.next()
            {
                self.begin(slot, now_ns);
            }
            if self.busy == 0 {
                break;
            }
            if now_ns - begin_ns > limit.as_nanos() as u64 || self.tally.error_count() > self.errors_max {
                *self.tally.errors.entry("unanswered".to_owned()).or_default() += self.busy as u64;
                break;
            }
            self.check_stop()?;
            self.turn(100_000)?;
        }
        self.idle = (0..self.connections.len()).collect();
        self.counting = None;
        self.tally.seconds = (self.now_ns() - begin_ns) as f64 / 1e9;
        Ok(std::mem::replace(&mut self.tally, Tally::new()))
    }

    /// Keeps the first `active` connections at `pace` for `warm_up` and then for the measured window.
    ///
    /// # Errors
    /// epoll failed, or `stop` was set.
    pub fn drive(
        &mut self,
        pace: Pace,
        active: usize,
        (warm_up, window): (Duration, Duration),
        watch: &mut dyn Watch,
    ) -> io::Result<Tally> {
        self.tally = Tally::new();
        self.counting = None;
        self.idle = (0..active.min(self.connections.len())).collect();
        let begin_ns = self.now_ns();
        let opens_ns = begin_ns + warm_up.as_nanos() as u64;
        let closes_ns = opens_ns + window.as_nanos() as u64;
        let mut schedule = match pace {
            Pace::Closed => None,
            Pace::Open(rate) => Some(Schedule::new(begin_ns, rate)),
        };
        self.closed_loop = schedule.is_none();
        if self.closed_loop {
            while let Some(slot) = self.idle.pop_front() {
                self.begin(slot, begin_ns);
            }
        }
        let (mut opened_ns, mut received) = (None, 0);
        let mut progress_ns = begin_ns;
        loop {
            let now_ns = self.now_ns();
            if opened_ns.is_none() && now_ns >= opens_ns {
                watch.window_opens();
                let opened = self.now_ns();
                opened_ns = Some(opened);
                received = self.tally.bytes_received;
                // In an open loop what became due before the window is left out, whenever it was answered.
                let from_ns = if schedule.is_some() { opens_ns } else { 0 };
                self.counting = Some(Counting {
                    from_ns,
                    until_ns: if schedule.is_some() { closes_ns } else { u64::MAX },
                });
            }
            if now_ns >= closes_ns || self.tally.error_count() > self.errors_max {
                break;
            }
            if now_ns - progress_ns > 100_000_000 {
                progress_ns = now_ns;
                watch.progress((now_ns - begin_ns) as f64 / (closes_ns - begin_ns) as f64, &self.tally);
                self.check_stop()?;
            }
            let mut wake_ns =
                if opened_ns.is_none() { opens_ns } else { closes_ns }.min(now_ns + 100_000_000);
            if let Some(schedule) = &mut schedule {
                while !self.idle.is_empty()
                    && let Some(due_ns) = schedule.take(now_ns)
                    && let Some(slot) = self.idle.pop_front()
                {
                    self.begin(slot, due_ns);
                }
                if !self.idle.is_empty() {
                    wake_ns = wake_ns.min(schedule.next_ns());
                }
            }
            self.turn(wake_ns.saturating_sub(self.now_ns()) / 1_000)?;
        }
        let closed_ns = self.now_ns();
        watch.window_closes();
        self.closed_loop = false;
        self.tally.seconds = (closed_ns - opened_ns.unwrap_or(closed_ns)) as f64 / 1e9;
        self.tally.bytes_received -= received;
        let (requests, bytes_received) = (self.tally.requests, self.tally.bytes_received);
        if let Some(mut schedule) = schedule {
            // What was due inside the window is waited for: its latency counts, however late it is.
            let give_up_ns = closed_ns + DRAIN.as_nanos() as u64;
            loop {
                let now_ns = self.now_ns();
                while !self.idle.is_empty()
                    && let Some(due_ns) = schedule.take(closes_ns)
                    && let Some(slot) = self.idle.pop_front()
                {
                    self.begin(slot, due_ns);
                }
                let overdue = schedule.overdue(closes_ns);
                if (overdue == 0 && self.busy == 0) || self.tally.error_count() > self.errors_max {
                    break;
                }
                if now_ns > give_up_ns {
                    *self.tally.errors.entry("unanswered".to_owned()).or_default() +=
                        overdue + self.busy as u64;
                    break;
                }
                self.check_stop()?;
                self.turn(10_000)?;
            }
        }
        self.counting = None;
        let mut tally = std::mem::replace(&mut self.tally, Tally::new());
        (tally.requests, tally.bytes_received) = (requests, bytes_received);
        if let Pace::Open(rate) = pace {
            tally.due = (rate * window.as_secs_f64()).round() as u64;
        }
        Ok(tally)
    }

    /// Closes all connections.
    pub fn close(&mut self) {
        for slot in 0..self.connections.len() {
            self.drop_connection(slot);
        }
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn check_stop(&self) -> io::Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(io::ErrorKind::Interrupted.into()) } else { Ok(()) }
    }

    /// Waits at most `timeout_us` and handles what happened.
    fn turn(&mut self, timeout_us: u64) -> io::Result<()> {
        for index in 0..self.epoll.wait(Some(timeout_us))? {
            let event = self.epoll.event(index);
            let (slot, generation) = ((event.token & 0xffff_ffff) as usize, (event.token >> 32) as u32);
            if self.connections[slot].generation != generation || self.connections[slot].stream.is_none() {
                continue;
            }
            if let Err(error) = self.advance(slot, event) {
                self.failed(slot, error);
            }
        }
        Ok(())
    }

    /// Sends the next request on a connection, which is made first if need be.
    fn begin(&mut self, slot: usize, due_ns: u64) {
        self.busy += 1;
        let request = self.next_request;
        self.next_request = (request + 1) % self.target.requests.len();
        let connection = &mut self.connections[slot];
        (connection.request, connection.sent, connection.due_ns) = (request, 0, Some(due_ns));
        let done = match connection.phase {
            Phase::Idle => {
                connection.phase = Phase::Busy;
                self.send(slot)
            }
            _ => self.open(slot),
        };
        if let Err(error) = done {
            self.failed(slot, error);
        }
    }

    fn open(&mut self, slot: usize) -> Result<(), Failure> {
        self.opened = self.opened.wrapping_add(1);
        let source =
            self.target.many_sources.then(|| Ipv4Addr::from(0x7f00_0001 + 256 + self.opened % SOURCES));
        let stream = sys::connect_now(self.target.address, source)?;
        let connection = &mut self.connections[slot];
        connection.generation = connection.generation.wrapping_add(1);
        connection.response = Response::new();
        connection.phase = Phase::Connecting;
        if let Some((config, name)) = &self.target.tls {
            let tls = ClientConnection::new(Arc::clone(config), name.clone()).map_err(io::Error::other)?;
            connection.tls = Some(Box::new(tls));
        }
        self.epoll.add(stream.as_raw_fd(), u64::from(connection.generation) << 32 | slot as u64)?;
        connection.stream = Some(stream);
        Ok(())
    }

    fn advance(&mut self, slot: usize, event: Event) -> Result<(), Failure> {
        let connection = &mut self.connections[slot];
        if connection.phase == Phase::Connecting {
            let Some(stream) = connection.stream.as_ref().filter(|_| event.writable) else { return Ok(()) };
            if let Some(error) = stream.take_error()? {
                return Err(error.into());
            }
            stream.set_nodelay(true)?;
            if connection.tls.is_some() {
                connection.phase = Phase::Handshaking;
                connection.flush_tls()?;
            } else {
                connection.phase = Phase::Busy;
                return self.send(slot);
            }
        }
        if event.readable {
            self.receive(slot, event.ended)?;
        }
        let connection = &self.connections[slot];
        if event.writable
            && connection.phase == Phase::Busy
            && connection.sent < self.target.requests[connection.request].len()
        {
            self.send(slot)?;
        } else if event.writable && self.connections[slot].tls.is_some() {
            self.connections[slot].flush_tls()?;
        }
        Ok(())
    }

    /// Sends what the socket takes of the current request.
    fn send(&mut self, slot: usize) -> Result<(), Failure> {
        let connection = &mut self.connections[slot];
        let request = &self.target.requests[connection.request];
        while connection.sent < request.len() {
            let rest = &request[connection.sent..];
            if let Some(tls) = &mut connection.tls {
                let taken = tls.writer().write(rest)?;
                connection.sent += taken;
                let blocked = connection.flush_tls()?;
                if blocked || taken == 0 {
                    return Ok(());
                }
            } else if let Some(stream) = &mut connection.stream {
                match stream.write(rest) {
                    Ok(n) => connection.sent += n,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Reads until the socket is empty (it is edge-triggered): a short read says so, except before the end.
    fn receive(&mut self, slot: usize, ended: bool) -> Result<(), Failure> {
        let generation = self.connections[slot].generation;
        loop {
            let connection = &mut self.connections[slot];
            let Some(stream) = connection.stream.as_mut().filter(|_| connection.generation == generation)
            else {
                return Ok(());
            };
            let n = match stream.read(&mut self.buffer) {
                Ok(n) => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            self.tally.bytes_received += n as u64;
            if n == 0 {
                return self.ended(slot);
            }
            if connection.tls.is_some() {
                self.decrypt(slot, n)?;
            } else {
                let buffer = std::mem::take(&mut self.buffer);
                let taken = self.answer(slot, &buffer[..n]);
                self.buffer = buffer;
                taken?;
            }
            if n < READ_BYTES && !ended {
                return Ok(());
            }
        }
    }

    fn decrypt(&mut self, slot: usize, received: usize) -> Result<(), Failure> {
        let mut from = 0;
        let generation = self.connections[slot].generation;
        while from < received {
            let connection = &mut self.connections[slot];
            let Some(tls) = connection.tls.as_mut().filter(|_| connection.generation == generation) else {
                return Ok(());
            };
            from += tls.read_tls(&mut &self.buffer[from..received])?;
            let state = tls.process_new_packets().map_err(|error| Failure::Tls(error.to_string()))?;
            let plain = state.plaintext_bytes_to_read();
            if connection.phase == Phase::Handshaking && !tls.is_handshaking() {
                connection.phase = Phase::Busy;
                self.send(slot)?;
            } else if tls.wants_write() {
                connection.flush_tls()?;
            }
            if plain > 0 {
                let mut buffer = std::mem::take(&mut self.plain);
                let mut taken = Ok(());
                let mut left = plain;
                while left > 0 && taken.is_ok() {
                    let connection = &mut self.connections[slot];
                    let Some(tls) = connection.tls.as_mut().filter(|_| connection.generation == generation)
                    else {
                        break;
                    };
                    match tls.reader().read(&mut buffer) {
                        Ok(0) | Err(_) => break,
                        Ok(n) => {
                            left -= n.min(left);
                            taken = self.answer(slot, &buffer[..n]);
                        }
                    }
                }
                self.plain = buffer;
                taken?;
            }
        }
        Ok(())
    }

    /// Takes bytes of an answer; goes on if it is complete.
    fn answer(&mut self, slot: usize, bytes: &[u8]) -> Result<(), Failure> {
        let connection = &mut self.connections[slot];
        if connection.phase != Phase::Busy {
            return Err(Failure::Unasked);
        }
        let (used, done) = connection.response.feed(bytes, &self.target.expect)?;
        if !done {
            return Ok(());
        }
        if used < bytes.len() {
            return Err(Failure::Unasked);
        }
        self.complete(slot);
        Ok(())
    }

    fn ended(&mut self, slot: usize) -> Result<(), Failure> {
        let connection = &mut self.connections[slot];
        match connection.phase {
            // A server may close a connection that carries nothing.
            Phase::Idle => {
                self.drop_connection(slot);
                Ok(())
            }
            Phase::Busy if !connection.response.untouched() => {
                connection.response.end(&self.target.expect)?;
                self.complete(slot);
                Ok(())
            }
            _ => Err(Failure::Closed),
        }
    }

    fn complete(&mut self, slot: usize) {
        let now_ns = self.now_ns();
        let connection = &mut self.connections[slot];
        let due_ns = connection.due_ns.take().unwrap_or(now_ns);
        *self.tally.statuses.entry(connection.response.status).or_default() += 1;
        if let Some(counting) = self.counting {
            self.tally.requests += 1;
            if due_ns >= counting.from_ns && due_ns < counting.until_ns {
                self.tally.latencies.record(now_ns - due_ns);
                self.tally.in_time += u64::from(now_ns - due_ns <= IN_TIME.as_nanos() as u64);
            }
        }
        self.busy -= 1;
        if connection.response.close || !self.target.keep_alive {
            if let Some(tls) = &mut connection.tls {
                tls.send_close_notify();
                let _ = connection.flush_tls();
            }
            self.drop_connection(slot);
        } else {
            connection.phase = Phase::Idle;
        }
        self.next(slot, now_ns);
    }

    fn next(&mut self, slot: usize, now_ns: u64) {
        if self.closed_loop {
            self.begin(slot, now_ns);
        } else {
            self.idle.push_back(slot);
        }
    }

    /// Counts an error; the connection is given up and its place goes on.
    fn failed(&mut self, slot: usize, failure: Failure) {
        *self.tally.errors.entry(failure.to_string()).or_default() += 1;
        let had_request = self.connections[slot].due_ns.take().is_some();
        self.drop_connection(slot);
        if had_request {
            self.busy -= 1;
            // Not at once: a server that refuses would be asked again without end inside this call.
            if self.tally.error_count() <= self.errors_max {
                self.next(slot, self.now_ns());
            }
        }
    }

    fn drop_connection(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        (connection.stream, connection.tls, connection.phase) = (None, None, Phase::Closed);
    }
}

impl Connection {
    fn new() -> Self {
        Self {
            stream: None,
            tls: None,
            phase: Phase::Closed,
            generation: 0,
            request: 0,
            sent: 0,
            due_ns: None,
            response: Response::new(),
        }
    }

    /// Sends what TLS has to send; answers whether the socket is full.
    fn flush_tls(&mut self) -> io::Result<bool> {
        let (Some(tls), Some(stream)) = (&mut self.tls, &mut self.stream) else { return Ok(false) };
        while tls.wants_write() {
            match tls.write_tls(stream) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

/// Why a connection was given up.
#[derive(Debug)]
enum Failure {
    Io(io::Error),
    Tls(String),
    Fault(Fault),
    Closed,
    Unasked,
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Fault> for Failure {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(error) => write!(f, "{error}"),
            Self::Tls(error) => write!(f, "TLS: {error}"),
            Self::Fault(fault) => write!(f, "{fault}"),
            Self::Closed => f.write_str("connection closed without an answer"),
            Self::Unasked => f.write_str("bytes that nobody asked for"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backend;
    use crate::material::HOST;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::{ServerConfig, ServerConnection, Stream};
    use std::net::TcpListener;
    use std::thread;

    const SPANS: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(200));

    fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    fn backend() -> SocketAddr {
        let (listener, address) = listener();
        thread::spawn(move || backend::serve(&listener));
        address
    }

    fn target(address: SocketAddr, requests: &[&str], body: &[u8]) -> Target {
        Target {
            address,
            tls: None,
            requests: requests.iter().map(|request| request.as_bytes().to_vec()).collect(),
            expect: Expect { status: Some(200), body: Some(body.into()), no_body: false },
            keep_alive: true,
            many_sources: false,
        }
    }

    #[derive(Default)]
    struct Windows(u32, u32);
    impl Watch for Windows {
        fn window_opens(&mut self) {
            self.0 += 1;
        }
        fn window_closes(&mut self) {
            self.1 += 1;
        }
    }

    fn drive(target: &Target, pace: Pace, connections: usize) -> Tally {
        let stop = AtomicBool::new(false);
        let mut windows = Windows::default();
        let mut client = Client::new(target, connections, &stop).unwrap();
        let tally = client.drive(pace, connections, SPANS, &mut windows).unwrap();
        assert_eq!((windows.0, windows.1), (1, 1));
        tally
    }

    #[test]
    fn a_closed_loop_is_answered_with_and_without_keep_alive() {
        let mut target = target(
            backend(),
            &["GET /a HTTP/1.1\r\nHost: a\r\n\r\n", "GET /b HTTP/1.1\r\nHost: a\r\n\r\n"],
            backend::SMALL_BODY,
        );
        for keep_alive in [true, false] {
            (target.keep_alive, target.many_sources) = (keep_alive, !keep_alive);
            let tally = drive(&target, Pace::Closed, 4);
            assert!(tally.errors.is_empty(), "{:?}", tally.errors);
            assert!(tally.requests > 50, "{}", tally.requests);
            assert_eq!(tally.statuses.keys().copied().collect::<Vec<_>>(), [200]);
        }
    }

    #[test]
    fn large_bodies_go_both_ways() {
        let address = backend();
        let down = target(address, &["GET /1m HTTP/1.1\r\nHost: a\r\n\r\n"], &backend::large_body());
        let mut up = target(address, &[""], backend::SMALL_BODY);
        let mut request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n".to_vec();
        request.extend(backend::large_body());
        up.requests = [request].into();
        for target in [down, up] {
            let tally = drive(&target, Pace::Closed, 3);
            assert!(tally.errors.is_empty(), "{:?}", tally.errors);
            assert!(tally.requests > 3);
        }
    }

    #[test]
    fn an_open_loop_offers_its_rate() {
        let target = target(backend(), &["GET / HTTP/1.1\r\nHost: a\r\n\r\n"], backend::SMALL_BODY);
        let tally = drive(&target, Pace::Open(500.0), 8);
        assert!(tally.errors.is_empty(), "{:?}", tally.errors);
        // 100 are due inside the window; a busy machine answers some of the last ones after it.
        assert!((50..=110).contains(&tally.requests), "{}", tally.requests);
    }

    #[test]
    fn a_stall_is_seen_by_every_request_that_was_due_meanwhile() {
        let (listener, address) = listener();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = [0; 1_000];
            for answer in 0.. {
                if !matches!(stream.read(&mut buffer), Ok(n) if n > 0) {
                    return;
                }
                if answer == 10 {
                    thread::sleep(Duration::from_millis(100));
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
        });
        // One connection and one stall of half the window: measured from sending, one request of 200 would be slow.
        let target = target(address, &["GET / HTTP/1.1\r\nHost: a\r\n\r\n"], b"");
        let tally = drive(&target, Pace::Open(1_000.0), 1);
        assert!(tally.errors.is_empty(), "{:?}", tally.errors);
        assert!(tally.latencies.quantile_us(0.75) > 20_000.0, "{}", tally.latencies.quantile_us(0.75));
    }

    #[test]
    fn what_is_wrong_is_counted_and_never_an_answer() {
        let address = backend();
        let another_body = target(address, &["GET / HTTP/1.1\r\nHost: a\r\n\r\n"], b"something else");
        assert!(drive(&another_body, Pace::Open(200.0), 2).errors.contains_key("body differs"));
        let (listener, closed) = listener();
        drop(listener);
        let refused = target(closed, &["GET / HTTP/1.1\r\nHost: a\r\n\r\n"], b"");
        let tally = drive(&refused, Pace::Closed, 2);
        assert!(tally.error_count() > 0 && tally.requests == 0);
    }

    #[test]
    fn a_burst_sends_one_request_on_each_connection() {
        let target = target(backend(), &["GET / HTTP/1.1\r\nHost: a\r\n\r\n"], backend::SMALL_BODY);
        let stop = AtomicBool::new(false);
        let mut client = Client::new(&target, 100, &stop).unwrap();
        for at_once in [7, 100] {
            let tally = client.once_each(0..100, at_once, Duration::from_secs(10)).unwrap();
            assert_eq!((tally.requests, tally.error_count()), (100, 0));
        }
        stop.store(true, Ordering::Relaxed);
        assert_eq!(
            client.once_each(0..100, 1, Duration::from_secs(10)).err().unwrap().kind(),
            io::ErrorKind::Interrupted
        );
    }

    #[test]
    fn tls_carries_requests_with_and_without_keep_alive_and_knows_its_certificate() {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let config = Arc::new(config);
        let (listener, address) = listener();
        thread::spawn(move || {
            while let Ok((mut socket, _)) = listener.accept() {
                let config = Arc::clone(&config);
                thread::spawn(move || {
                    let mut tls = ServerConnection::new(config).unwrap();
                    let mut stream = Stream::new(&mut tls, &mut socket);
                    let mut buffer = [0; 1_000];
                    while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {
                        if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                            return;
                        }
                    }
                });
            }
        });
        let name = ServerName::try_from(HOST).unwrap();
        let mut target = target(address, &["GET / HTTP/1.1\r\nHost: a\r\n\r\n"], b"ok");
        let ours = tls::for_measuring(made.cert.der().clone()).unwrap();
        target.tls = Some((ours, name.clone()));
        for keep_alive in [true, false] {
            target.keep_alive = keep_alive;
            let tally = drive(&target, Pace::Closed, 2);
            assert!(tally.errors.is_empty(), "{:?}", tally.errors);
            assert!(tally.requests > 3);
        }
        let other = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
        target.tls = Some((tls::for_measuring(other.cert.der().clone()).unwrap(), name));
        let tally = drive(&target, Pace::Open(100.0), 1);
        assert!(
            tally.requests == 0 && tally.errors.keys().any(|error| error.contains("certificate")),
            "{:?}",
            tally.errors
        );
    }
}
