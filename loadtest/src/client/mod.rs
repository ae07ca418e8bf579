//! The load generator: HTTP/1.1, HTTP/2 or WebSocket over plain TCP or TLS, any number of connections on one epoll loop and one thread.
//!
//! For: being cheap and exact. Requests are whole byte strings made beforehand; answers are checked to the last byte. Over
//! HTTP/2 a connection has as many places for requests as it may have streams; what waits for one socket goes out together.
//! Not for: features; it follows no redirect and keeps no cookie. Called by `compare`, `idle` and `run`.

mod multiplex;
pub mod response;
mod schedule;
pub mod tls;
pub mod websocket;

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

use self::multiplex::{Multiplex, Over, Request};
use self::response::Response;
use self::websocket::{Came, Echoes};
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

/// How requests and answers are carried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1: one request at a time on a connection.
    Http1,
    /// HTTP/2, by ALPN where there is TLS, else known beforehand: as many requests at once as it has streams.
    Http2 {
        /// Streams of a connection.
        streams: usize,
    },
    /// WebSocket over HTTP/1.1: one message at a time on a connection, which must come back.
    WebSocket,
}

impl Protocol {
    /// Requests that may be under way on a connection.
    fn places(self) -> usize {
        match self {
            Self::Http1 | Self::WebSocket => 1,
            Self::Http2 { streams } => streams.max(1),
        }
    }

    /// What is offered in the handshake.
    pub fn alpn(self) -> &'static [u8] {
        match self {
            Self::Http1 | Self::WebSocket => b"http/1.1",
            Self::Http2 { .. } => b"h2",
        }
    }
}

/// What is to be sent where.
#[derive(Clone)]
pub struct Target {
    /// Where to connect.
    pub address: SocketAddr,
    /// TLS and the name to ask for; `None`: plain.
    pub tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// How.
    pub protocol: Protocol,
    /// WebSocket: the request of a handshake. Empty otherwise.
    pub opening: Arc<[u8]>,
    /// Whole requests as HTTP/1.1 has them, or frames of WebSocket, sent in turn. Never empty.
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
    /// The requests, over HTTP/2.
    requests: Vec<Request>,
    /// Connections that wait for a request, longest first; each as often as it has places for one.
    idle: VecDeque<usize>,
    /// Connections over HTTP/2 that have something to send.
    unsent: Vec<usize>,
    /// Exchanges that ended just now.
    over: Vec<Over>,
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
    /// WebSocket was asked for.
    Upgrading,
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
    /// WebSocket: what came back.
    echoes: Echoes,
    /// HTTP/2: what happens on the connection, once it stands.
    multiplex: Option<Box<Multiplex>>,
    /// HTTP/2: requests that wait for the connection, or for a stream, and when they were due.
    waiting: VecDeque<(usize, u64)>,
    /// HTTP/2: it is among those that have something to send.
    is_unsent: bool,
}

impl<'a> Client<'a> {
    /// Makes `count` places for connections; none is opened yet. `stop` ends any run early.
    ///
    /// # Errors
    /// epoll cannot be had, or what is to be sent is no request.
    pub fn new(target: &'a Target, count: usize, stop: &'a AtomicBool) -> io::Result<Self> {
        let connections = (0..count).map(|_| Connection::new()).collect();
        let requests = match target.protocol {
            Protocol::Http1 | Protocol::WebSocket => Vec::new(),
            Protocol::Http2 { .. } => {
                target.requests.iter().map(|whole| Request::of(whole)).collect::<io::Result<_>>()?
            }
        };
        Ok(Self {
            target,
            stop,
            epoll: Epoll::new(256)?,
            connections,
            requests,
            idle: (0..count).collect(),
            unsent: Vec::new(),
            over: Vec::new(),
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
        // One place of each connection after the other: few requests are spread over all of them.
        let active = active.min(self.connections.len());
        self.idle = (0..self.target.protocol.places()).flat_map(|_| 0..active).collect();
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
        self.send_all();
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
        if self.is_multiplexed() {
            self.connections[slot].waiting.push_back((request, due_ns));
            self.serve_waiting(slot);
            return;
        }
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
                return self.stands(slot);
            }
        }
        if event.readable {
            self.receive(slot, event.ended)?;
        }
        let connection = &self.connections[slot];
        if event.writable && connection.multiplex.is_some() {
            self.has_to_send(slot);
        } else if event.writable
            && matches!(connection.phase, Phase::Busy | Phase::Upgrading)
            && !self.is_multiplexed()
            && connection.sent < connection.outgoing(self.target).len()
        {
            self.send(slot)?;
        } else if event.writable && self.connections[slot].tls.is_some() {
            self.connections[slot].flush_tls()?;
        }
        Ok(())
    }

    /// The connection is made: what it was made for is sent.
    fn stands(&mut self, slot: usize) -> Result<(), Failure> {
        let now_ns = self.now_ns();
        let connection = &mut self.connections[slot];
        connection.phase = Phase::Busy;
        let streams = match self.target.protocol {
            Protocol::Http1 => return self.send(slot),
            Protocol::WebSocket => {
                connection.phase = Phase::Upgrading;
                connection.echoes = Echoes::default();
                return self.send(slot);
            }
            Protocol::Http2 { streams } => streams,
        };
        if connection.tls.as_ref().is_some_and(|tls| tls.alpn_protocol() != Some(b"h2")) {
            return Err(Fault::Protocol.into());
        }
        let secure = connection.tls.is_some();
        connection.multiplex = Some(Box::new(Multiplex::new(streams, secure, now_ns)));
        self.has_to_send(slot);
        Ok(())
    }

    /// Sends what the socket takes of the current request.
    fn send(&mut self, slot: usize) -> Result<(), Failure> {
        let connection = &mut self.connections[slot];
        let request = connection.outgoing(self.target);
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
                // What the handshake ends with goes before the first request.
                connection.flush_tls()?;
                self.stands(slot)?;
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
        if self.is_multiplexed() {
            return self.frames(slot, bytes);
        }
        let connection = &mut self.connections[slot];
        if self.target.protocol == Protocol::WebSocket
            && matches!(connection.phase, Phase::Busy | Phase::Upgrading)
        {
            return match connection.echoes.receive(bytes, &self.target.expect)? {
                Came::Part => Ok(()),
                Came::Open => {
                    (connection.phase, connection.sent, connection.response.status) = (Phase::Busy, 0, 101);
                    self.send(slot)
                }
                Came::Echo => {
                    self.complete(slot);
                    Ok(())
                }
            };
        }
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
        if let Protocol::Http2 { .. } = self.target.protocol {
            let idle = connection.multiplex.as_ref().is_some_and(|multiplex| multiplex.under_way() == 0);
            if !idle {
                return Err(Failure::Closed);
            }
            self.drop_connection(slot);
            self.serve_waiting(slot);
            return Ok(());
        }
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
        let (due_ns, status) = (connection.due_ns.take().unwrap_or(now_ns), connection.response.status);
        self.count(status, due_ns, now_ns);
        let connection = &mut self.connections[slot];
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

    /// A request was answered as expected.
    fn count(&mut self, status: u16, due_ns: u64, now_ns: u64) {
        *self.tally.statuses.entry(status).or_default() += 1;
        if let Some(counting) = self.counting {
            self.tally.requests += 1;
            if due_ns >= counting.from_ns && due_ns < counting.until_ns {
                let latency_ns = now_ns.saturating_sub(due_ns);
                self.tally.latencies.record(latency_ns);
                self.tally.in_time += u64::from(latency_ns <= IN_TIME.as_nanos() as u64);
            }
        }
        self.busy -= 1;
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
        if self.is_multiplexed() {
            self.lost(slot, &failure);
            return;
        }
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
        connection.multiplex = None;
    }

    // HTTP/2.

    fn is_multiplexed(&self) -> bool {
        matches!(self.target.protocol, Protocol::Http2 { .. })
    }

    /// Requests wait for this connection: it is made if there is none, or has something to send.
    fn serve_waiting(&mut self, slot: usize) {
        let connection = &self.connections[slot];
        if connection.waiting.is_empty() {
            return;
        }
        if connection.multiplex.is_some() {
            self.has_to_send(slot);
        } else if connection.phase == Phase::Closed
            && let Err(failure) = self.open(slot)
        {
            self.lost(slot, &failure);
        }
    }

    fn has_to_send(&mut self, slot: usize) {
        let connection = &mut self.connections[slot];
        if !connection.is_unsent {
            connection.is_unsent = true;
            self.unsent.push(slot);
        }
    }

    /// Sends what has come together, of each connection at once.
    fn send_all(&mut self) {
        while let Some(slot) = self.unsent.pop() {
            self.connections[slot].is_unsent = false;
            if let Err(failure) = self.connections[slot].send_frames(&self.requests) {
                self.lost(slot, &failure);
            }
        }
    }

    /// Takes bytes of the server; what ended with them goes on.
    fn frames(&mut self, slot: usize, bytes: &[u8]) -> Result<(), Failure> {
        let now_ns = self.now_ns();
        let connection = &mut self.connections[slot];
        let Some(multiplex) = &mut connection.multiplex else { return Err(Failure::Unasked) };
        let mut over = std::mem::take(&mut self.over);
        let taken = multiplex.receive(bytes, now_ns, &self.requests, &self.target.expect, &mut over);
        let served = !self.target.keep_alive && !over.is_empty();
        if taken.is_ok() && multiplex.under_way() == 0 && (multiplex.is_closing() || served) {
            if let Some(tls) = &mut connection.tls {
                tls.send_close_notify();
                let _ = connection.flush_tls();
            }
            self.drop_connection(slot);
        } else {
            self.has_to_send(slot);
        }
        for Over { due_ns, outcome } in over.drain(..) {
            match outcome {
                Ok(status) => self.count(status, due_ns, now_ns),
                Err(failure) => self.lose_one(&failure),
            }
            self.next(slot, now_ns);
        }
        self.over = over;
        if taken.is_ok() {
            self.serve_waiting(slot);
        }
        taken
    }

    fn lose_one(&mut self, failure: &Failure) {
        *self.tally.errors.entry(failure.to_string()).or_default() += 1;
        self.busy -= 1;
    }

    /// Gives up a connection: each request that was under way on it has failed, or, where there was none, those that waited
    /// for it. Others that wait get a new one.
    fn lost(&mut self, slot: usize, failure: &Failure) {
        let connection = &mut self.connections[slot];
        let mut count = connection.multiplex.as_ref().map_or(0, |multiplex| multiplex.under_way());
        if count == 0 {
            count = connection.waiting.len();
            connection.waiting.clear();
        }
        self.drop_connection(slot);
        if count == 0 {
            *self.tally.errors.entry(failure.to_string()).or_default() += 1;
        }
        for _ in 0..count {
            self.lose_one(failure);
        }
        if self.tally.error_count() <= self.errors_max {
            for _ in 0..count {
                self.next(slot, self.now_ns());
            }
            self.serve_waiting(slot);
        }
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
            echoes: Echoes::default(),
            multiplex: None,
            waiting: VecDeque::new(),
            is_unsent: false,
        }
    }

    /// What is being sent, over anything but HTTP/2.
    fn outgoing<'t>(&self, target: &'t Target) -> &'t [u8] {
        if self.phase == Phase::Upgrading { &target.opening } else { &target.requests[self.request] }
    }

    /// Sends what HTTP/2 has to send, as far as the socket takes it.
    fn send_frames(&mut self, requests: &[Request]) -> Result<(), Failure> {
        loop {
            let Some(multiplex) = &mut self.multiplex else { return Ok(()) };
            if !multiplex.is_closing() {
                multiplex.go_on(&mut self.waiting, requests);
            }
            if multiplex.pending().is_empty() {
                return Ok(());
            }
            while !multiplex.pending().is_empty() {
                if let Some(tls) = &mut self.tls {
                    let taken = tls.writer().write(multiplex.pending())?;
                    multiplex.took(taken);
                    if flush_tls(tls, &mut self.stream)? || taken == 0 {
                        return Ok(());
                    }
                } else if let Some(stream) = &mut self.stream {
                    match stream.write(multiplex.pending()) {
                        Ok(taken) => multiplex.took(taken),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                        Err(error) => return Err(error.into()),
                    }
                } else {
                    return Ok(());
                }
            }
        }
    }

    /// Sends what TLS has to send; answers whether the socket is full.
    fn flush_tls(&mut self) -> io::Result<bool> {
        match &mut self.tls {
            Some(tls) => flush_tls(tls, &mut self.stream),
            None => Ok(false),
        }
    }
}

fn flush_tls(tls: &mut ClientConnection, stream: &mut Option<TcpStream>) -> io::Result<bool> {
    let Some(stream) = stream else { return Ok(false) };
    while tls.wants_write() {
        match tls.write_tls(stream) {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        }
    }
    Ok(false)
}

/// Why a connection was given up.
#[derive(Debug)]
pub enum Failure {
    /// The socket.
    Io(io::Error),
    /// The handshake, or what came in it.
    Tls(String),
    /// The answer, or the stream.
    Fault(Fault),
    /// The server ended the connection.
    Closed,
    /// Bytes without a request.
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
        thread::spawn(move || backend::serve(&listener, None));
        address
    }

    fn target(address: SocketAddr, requests: &[&str], body: &[u8]) -> Target {
        Target {
            address,
            tls: None,
            requests: requests.iter().map(|request| request.as_bytes().to_vec()).collect(),
            protocol: Protocol::Http1,
            opening: Arc::from([]),
            expect: Expect { status: Some(200), body: Some(body.into()), ..Expect::default() },
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
        let ours = tls::for_measuring(made.cert.der().clone(), Protocol::Http1).unwrap();
        target.tls = Some((ours, name.clone()));
        for keep_alive in [true, false] {
            target.keep_alive = keep_alive;
            let tally = drive(&target, Pace::Closed, 2);
            assert!(tally.errors.is_empty(), "{:?}", tally.errors);
            assert!(tally.requests > 3);
        }
        let other = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
        target.tls = Some((tls::for_measuring(other.cert.der().clone(), Protocol::Http1).unwrap(), name));
        let tally = drive(&target, Pace::Open(100.0), 1);
        assert!(
            tally.requests == 0 && tally.errors.keys().any(|error| error.contains("certificate")),
            "{:?}",
            tally.errors
        );
    }

    /// The backend, with TLS too: its addresses, and its certificate.
    fn secure_backend() -> (SocketAddr, SocketAddr, rustls::pki_types::CertificateDer<'static>) {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let ((plain, plain_address), (secure, secure_address)) = (listener(), listener());
        thread::spawn(move || backend::serve(&plain, Some(&(secure, Arc::new(config)))));
        (plain_address, secure_address, made.cert.der().clone())
    }

    /// The target over HTTP/2, in plain text and with TLS.
    fn both_http2(streams: usize, make: impl Fn(SocketAddr) -> Target) -> [Target; 2] {
        let (plain, secure, certificate) = secure_backend();
        let protocol = Protocol::Http2 { streams };
        let (mut plain, mut secure) = (make(plain), make(secure));
        (plain.protocol, secure.protocol) = (protocol, protocol);
        let config = tls::for_measuring(certificate, protocol).unwrap();
        secure.tls = Some((config, ServerName::try_from(HOST).unwrap()));
        [plain, secure]
    }

    #[test]
    fn http2_carries_many_requests_at_once_in_plain_text_and_with_tls() {
        let requests =
            ["GET /a HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n", "POST /b HTTP/1.1\r\nHost: a\r\n\r\nbody"];
        for target in both_http2(10, |address| target(address, &requests, backend::SMALL_BODY)) {
            for pace in [Pace::Closed, Pace::Open(500.0)] {
                let tally = drive(&target, pace, 3);
                assert!(tally.errors.is_empty(), "{:?}", tally.errors);
                assert!(tally.requests > 50, "{}", tally.requests);
                assert_eq!(tally.statuses.keys().copied().collect::<Vec<_>>(), [200]);
            }
        }
    }

    #[test]
    fn http2_bodies_of_any_length_go_both_ways() {
        for (path, length) in
            [("/1m", 1 << 20), ("/bytes/16384", 16_384), ("/bytes/0", 0), ("/bytes/100000", 100_000)]
        {
            let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
            let body = backend::large_body();
            for target in both_http2(4, |address| target(address, &[&request], &body[..length])) {
                let tally = drive(&target, Pace::Closed, 2);
                assert!(tally.errors.is_empty() && tally.requests > 3, "{path}: {:?}", tally.errors);
            }
        }
        for mut target in both_http2(4, |address| target(address, &[""], backend::SMALL_BODY)) {
            let mut request = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1048576\r\n\r\n".to_vec();
            request.extend(backend::large_body());
            target.requests = [request].into();
            let tally = drive(&target, Pace::Closed, 2);
            assert!(tally.errors.is_empty() && tally.requests > 3, "{:?}", tally.errors);
        }
    }

    #[test]
    fn a_grpc_answer_must_say_that_all_is_well() {
        let call = "POST /a.B/C HTTP/1.1\r\nHost: a\r\nContent-Type: application/grpc\r\nTE: trailers\r\n\r\n\0\0\0\0\0";
        for mut target in both_http2(5, |address| target(address, &[call], backend::GRPC_BODY)) {
            target.expect.grpc = true;
            let tally = drive(&target, Pace::Closed, 2);
            assert!(tally.errors.is_empty() && tally.requests > 50, "{:?}", tally.errors);
            target.requests = [b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec()].into();
            target.expect.body = None;
            let tally = drive(&target, Pace::Open(100.0), 1);
            assert!(tally.requests == 0 && tally.errors.contains_key("no grpc-status"), "{:?}", tally.errors);
        }
    }

    #[test]
    fn http2_answers_that_are_wrong_are_counted_one_by_one_and_the_connection_goes_on() {
        for mut target in
            both_http2(5, |address| target(address, &["GET / HTTP/1.1\r\nHost: a\r\n\r\n"], b"else"))
        {
            let tally = drive(&target, Pace::Open(200.0), 2);
            assert!(tally.requests == 0 && tally.errors.contains_key("body differs"), "{:?}", tally.errors);
            (target.expect.body, target.expect.status) = (None, Some(204));
            let tally = drive(&target, Pace::Open(200.0), 2);
            assert!(tally.requests == 0 && tally.errors.contains_key("status 200"), "{:?}", tally.errors);
        }
    }

    #[test]
    fn a_burst_over_http2_sends_one_request_on_each_connection() {
        for target in both_http2(1, |address| {
            target(address, &["GET / HTTP/1.1\r\nHost: a\r\n\r\n"], backend::SMALL_BODY)
        }) {
            let stop = AtomicBool::new(false);
            let mut client = Client::new(&target, 50, &stop).unwrap();
            for at_once in [7, 50] {
                let tally = client.once_each(0..50, at_once, Duration::from_secs(10)).unwrap();
                assert_eq!((tally.requests, tally.error_count()), (50, 0), "{:?}", tally.errors);
            }
        }
    }

    /// A server that says `answer` to each connection once a request has come, whatever it is.
    fn scripted(answer: &'static [u8]) -> Target {
        let (listener, address) = listener();
        thread::spawn(move || {
            while let Ok((mut stream, _)) = listener.accept() {
                let mut buffer = [0; 4_000];
                let _ = stream.read(&mut buffer);
                let _ = stream.write_all(answer);
                // What the client says of it, until it ends.
                let _ = stream.set_read_timeout(Some(Duration::from_millis(300)));
                while matches!(stream.read(&mut buffer), Ok(n) if n > 0) {}
            }
        });
        let mut target = target(address, &["GET / HTTP/1.1\r\nHost: a\r\n\r\n"], b"");
        target.protocol = Protocol::Http2 { streams: 2 };
        target
    }

    #[test]
    fn resets_and_goodbyes_of_a_server_are_failures_by_their_names() {
        const RESET: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x04\x03\0\0\0\0\x01\0\0\0\x07";
        const GOODBYE: &[u8] = b"\0\0\0\x04\0\0\0\0\0\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\x0b";
        const NOT_HTTP2: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
        for (answer, error) in [
            (RESET, "stream reset: REFUSED_STREAM"),
            (GOODBYE, "request not acted on: the server goes away"),
            (NOT_HTTP2, "HTTP/2 fault of the server: "),
        ] {
            let tally = drive(&scripted(answer), Pace::Open(20.0), 1);
            let seen = tally.errors.keys().any(|seen| seen.starts_with(error));
            assert!(tally.requests == 0 && seen, "{error}: {:?}", tally.errors);
        }
    }

    #[test]
    fn websocket_messages_come_back_in_plain_text_and_with_tls() {
        let (plain, secure, certificate) = secure_backend();
        let config = tls::for_measuring(certificate, Protocol::WebSocket).unwrap();
        for (address, tls) in [(plain, None), (secure, Some((config, ServerName::try_from(HOST).unwrap())))] {
            for length in [0, 1, 125, 126, 65_535, 65_536, 1 << 20] {
                let payload = &backend::large_body()[..length];
                let mut target = target(address, &[""], payload);
                target.protocol = Protocol::WebSocket;
                target.opening = websocket::opening(HOST, "/echo", "").into();
                target.requests = [crate::websocket::message(payload)].into();
                target.tls.clone_from(&tls);
                let tally = drive(&target, Pace::Closed, 3);
                assert!(tally.errors.is_empty() && tally.requests > 3, "{length}: {:?}", tally.errors);
                let tally = drive(&target, Pace::Open(50.0), 3);
                assert!(tally.errors.is_empty() && tally.requests > 3, "{length}: {:?}", tally.errors);
            }
            let mut target = target(address, &["x"], b"");
            target.protocol = Protocol::WebSocket;
            target.opening = websocket::opening(HOST, "/no", "").into();
            target.tls = tls;
            let tally = drive(&target, Pace::Open(50.0), 1);
            assert!(tally.requests == 0 && tally.error_count() > 0);
        }
    }

    #[test]
    fn a_handshake_without_http2_is_a_failure() {
        let (_, secure, certificate) = secure_backend();
        let mut target = target(secure, &["GET / HTTP/1.1\r\nHost: a\r\n\r\n"], backend::SMALL_BODY);
        target.protocol = Protocol::Http2 { streams: 2 };
        let config = tls::for_measuring(certificate, Protocol::Http1).unwrap();
        target.tls = Some((config, ServerName::try_from(HOST).unwrap()));
        let tally = drive(&target, Pace::Open(50.0), 1);
        assert!(tally.errors.contains_key("the handshake settled on another protocol"), "{:?}", tally.errors);
    }
}
