//! The attacker: any number of connections on one epoll loop and one thread, each act at its due time whatever the
//! gateway does.
//!
//! It behaves as badly as its kind says and reads as little as it can; it knows an answer only by its first bytes.
//! Called by `attack`, on a thread of its own.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use serde::Serialize;

use super::crafted::{self, Renegotiation};
use super::http2::Abuse;
use super::scenario::{Kind, Scenario};
use crate::client::Schedule;
use crate::material::HOST;
use crate::sys::{self, Epoll};

/// Bytes one read takes at most.
const READ_BYTES: usize = 64 * 1024;
/// What a slow reader takes at an act.
const SLOW_READ_BYTES: usize = 64;
/// What the kernel may keep for a slow reader.
const SLOW_BUFFER_BYTES: i32 = 2_048;
/// Bytes of an upload in small records.
const UPLOAD_BYTES: usize = 1 << 20;
/// Records of one act.
const RECORDS: usize = 64;
/// Acts and connections that were due more than this ago are given up: the rate was too high for the attacker.
const BEHIND_NS: u64 = 500_000_000;
/// The longest wait: the end must be seen.
const WAIT_US: u64 = 20_000;

/// Who is attacked, how.
#[derive(Clone)]
pub struct Plan {
    /// What is done.
    pub scenario: Scenario,
    /// Connections at most, after descriptors were counted.
    pub connections: usize,
    /// The listener.
    pub address: SocketAddr,
    /// For listeners with TLS.
    pub tls: Option<Arc<ClientConfig>>,
    /// Half of it stalls a handshake; sent again in a connection, it is a renegotiation.
    pub hello: Arc<[u8]>,
    /// A token whose signature is replaced.
    pub token: String,
}

/// What an attacker did.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Done {
    /// Connections opened.
    pub opened: u64,
    /// TCP connections that were refused or reset before they stood.
    pub refused: u64,
    /// TLS handshakes completed.
    pub handshakes: u64,
    /// Acts.
    pub acts: u64,
    /// Acts for which no connection was ready, or that were too late.
    pub held_back: u64,
    /// Connections that the gateway ended.
    pub ended_by_gateway: u64,
    /// Answers, or first parts of them.
    pub answers: u64,
    /// Connections open at the end.
    pub open: usize,
    /// How long it went on.
    pub seconds: f64,
}

/// Attacks until `stop`.
///
/// # Errors
/// epoll failed, or a TLS configuration is of no use.
pub fn attack(plan: &Plan, stop: &AtomicBool) -> io::Result<Done> {
    sys::exact_timers();
    let mut attacker = Attacker {
        plan,
        name: ServerName::try_from(HOST).map_err(io::Error::other)?,
        epoll: Epoll::new(1_024)?,
        lines: Vec::new(),
        closed: Vec::new(),
        ready: VecDeque::new(),
        start: Instant::now(),
        number: 0,
        done: Done::default(),
        buffer: vec![0; READ_BYTES],
    };
    attacker.run(stop)?;
    attacker.done.open = attacker.open();
    attacker.done.seconds = attacker.start.elapsed().as_secs_f64();
    Ok(attacker.done)
}

struct Attacker<'a> {
    plan: &'a Plan,
    name: ServerName<'static>,
    epoll: Epoll,
    lines: Vec<Line>,
    closed: Vec<usize>,
    /// Connections that may act, longest first; some of them may have ended since.
    ready: VecDeque<(usize, u32)>,
    start: Instant,
    number: u64,
    done: Done,
    buffer: Vec<u8>,
}

/// A connection.
struct Line {
    stream: Option<TcpStream>,
    tls: Option<Box<ClientConnection>>,
    renegotiation: Option<Renegotiation>,
    abuse: Option<Abuse>,
    phase: Phase,
    /// Bytes that the socket has not taken.
    output: Vec<u8>,
    /// Of an upload.
    left: usize,
    generation: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Connecting,
    Handshaking,
    Standing,
}

impl Attacker<'_> {
    fn run(&mut self, stop: &AtomicBool) -> io::Result<()> {
        let scenario = &self.plan.scenario;
        let mut opens = Schedule::new(0, scenario.opens_per_second);
        let mut acts = Schedule::new(0, scenario.acts_per_second);
        while !stop.load(Ordering::Relaxed) {
            let now_ns = self.start.elapsed().as_nanos() as u64;
            while let Some(due_ns) = opens.take(now_ns) {
                if self.open() < self.plan.connections && now_ns - due_ns < BEHIND_NS {
                    self.connect();
                }
            }
            while let Some(due_ns) = acts.take(now_ns) {
                if now_ns - due_ns >= BEHIND_NS || !self.act() {
                    self.done.held_back += 1;
                }
            }
            let next_ns = opens.next_ns().min(acts.next_ns());
            let now_ns = self.start.elapsed().as_nanos() as u64;
            let wait_us = (next_ns.saturating_sub(now_ns) / 1_000).min(WAIT_US);
            for index in 0..self.epoll.wait(Some(wait_us))? {
                let event = self.epoll.event(index);
                let (slot, generation) = ((event.token & 0xffff_ffff) as usize, (event.token >> 32) as u32);
                if self.lines[slot].generation == generation && self.lines[slot].stream.is_some() {
                    self.advance(slot, event);
                }
            }
        }
        Ok(())
    }

    fn open(&self) -> usize {
        self.lines.len() - self.closed.len()
    }

    /// Opens a connection; answers its place.
    fn connect(&mut self) -> Option<usize> {
        self.number += 1;
        self.done.opened += 1;
        // 127.1.0.0 and up: good clients are 127.0.0.1.
        let source = 0x7f01_0000 + (self.number % u64::from(self.plan.scenario.sources)) as u32;
        let Ok(stream) = sys::connect_now(self.plan.address, Some(Ipv4Addr::from(source))) else {
            self.done.refused += 1;
            return None;
        };
        if self.plan.scenario.kind == Kind::SlowRead {
            let _ = sys::receive_little(&stream, SLOW_BUFFER_BYTES);
        }
        let slot = self.closed.pop().unwrap_or_else(|| {
            self.lines.push(Line::new());
            self.lines.len() - 1
        });
        let line = &mut self.lines[slot];
        line.generation = line.generation.wrapping_add(1);
        if self.epoll.add(stream.as_raw_fd(), u64::from(line.generation) << 32 | slot as u64).is_err() {
            self.closed.push(slot);
            return None;
        }
        (line.phase, line.left, line.renegotiation) = (Phase::Connecting, 0, None);
        line.abuse = self.plan.scenario.kind.is_http2().then(|| Abuse::new(self.plan.scenario.kind));
        line.output.clear();
        line.stream = Some(stream);
        line.tls = match &self.plan.tls {
            Some(config) if self.plan.scenario.kind != Kind::HandshakeStall => {
                let tls = ClientConnection::new(Arc::clone(config), self.name.clone());
                tls.ok().map(|mut tls| {
                    // An act may be larger than what is kept by default; there is never more than one.
                    tls.set_buffer_limit(None);
                    Box::new(tls)
                })
            }
            _ => None,
        };
        Some(slot)
    }

    fn advance(&mut self, slot: usize, event: sys::Event) {
        let line = &mut self.lines[slot];
        if line.phase == Phase::Connecting {
            let Some(stream) = line.stream.as_ref().filter(|_| event.writable) else { return };
            if !matches!(stream.take_error(), Ok(None)) {
                self.done.refused += 1;
                self.close(slot);
                return;
            }
            let _ = stream.set_nodelay(true);
            if line.tls.is_some() {
                line.phase = Phase::Handshaking;
                if line.flush().is_err() {
                    self.ended(slot);
                    return;
                }
            } else {
                line.phase = Phase::Standing;
                self.stands(slot);
            }
        } else if event.writable && line.flush().is_err() {
            self.ended(slot);
            return;
        }
        // A slow reader reads at its acts only, and learns of the end when it writes or reads.
        if self.plan.scenario.kind == Kind::SlowRead && !event.ended {
            return;
        }
        if event.readable {
            self.receive(slot);
        }
    }

    fn receive(&mut self, slot: usize) {
        loop {
            let line = &mut self.lines[slot];
            let Some(stream) = &mut line.stream else { return };
            let n = match stream.read(&mut self.buffer) {
                Ok(n) if n > 0 => n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => {
                    self.ended(slot);
                    return;
                }
            };
            if let Some(tls) = &mut line.tls {
                let mut from = 0;
                let mut answered = false;
                while from < n {
                    let read = tls.read_tls(&mut &self.buffer[from..n]);
                    let state = tls.process_new_packets();
                    let (Ok(read), Ok(state)) = (read, state) else {
                        self.ended(slot);
                        return;
                    };
                    from += read;
                    if state.plaintext_bytes_to_read() > 0 {
                        let mut sink = vec![0; state.plaintext_bytes_to_read()];
                        let _ = tls.reader().read(&mut sink);
                        answered = true;
                    }
                }
                let stands = line.phase == Phase::Handshaking && !tls.is_handshaking();
                if line.flush().is_err() {
                    self.ended(slot);
                    return;
                }
                if stands {
                    self.lines[slot].phase = Phase::Standing;
                    self.done.handshakes += 1;
                    self.stands(slot);
                } else if answered {
                    self.answered(slot);
                }
            } else if line.phase == Phase::Standing {
                self.answered(slot);
            }
        }
    }

    /// The connection stands.
    fn stands(&mut self, slot: usize) {
        let number = self.number;
        let line = &mut self.lines[slot];
        let sent = match self.plan.scenario.kind {
            Kind::Slowloris => line.send(&crafted::slow_head()),
            Kind::SlowBody => line.send(&crafted::upload(UPLOAD_BYTES)),
            Kind::SlowRead => line.send(&crafted::file()),
            Kind::HandshakeStall => line.send(&self.plan.hello[..self.plan.hello.len() / 2]),
            Kind::Idle | Kind::FreshAddresses => line.send(&crafted::item("")),
            Kind::HeaderBomb => line.send(&crafted::bomb(number)),
            Kind::BadRequests => line.send(&crafted::bad(number)),
            Kind::ConnectionChurn => {
                if number.is_multiple_of(3) {
                    let _ = line.send(&crafted::slow_head());
                } else if number % 3 == 1
                    && let Some(stream) = &line.stream
                {
                    let _ = sys::reset_on_close(stream);
                }
                self.close(slot);
                return;
            }
            Kind::Renegotiation => {
                let keys = line.tls.take().map(|tls| Renegotiation::of(*tls));
                match keys {
                    Some(Ok(keys)) => {
                        line.renegotiation = Some(keys);
                        Ok(())
                    }
                    _ => Err(io::ErrorKind::InvalidData.into()),
                }
            }
            Kind::TlsRecordFlood | Kind::KeyUpdates | Kind::TokenFlood | Kind::FreshPrefixes => Ok(()),
            _ => match line.abuse.as_mut().map(Abuse::opening) {
                Some(opening) => line.send(&opening),
                None => Ok(()),
            },
        };
        if sent.is_err() {
            self.ended(slot);
            return;
        }
        // The others have nothing more to do on a connection, or wait for an answer first.
        let acts = !matches!(
            self.plan.scenario.kind,
            Kind::HandshakeStall | Kind::Idle | Kind::FreshAddresses | Kind::HeaderBomb | Kind::BadRequests
        );
        if acts {
            self.ready.push_back((slot, self.lines[slot].generation));
        }
    }

    /// Something came back.
    fn answered(&mut self, slot: usize) {
        self.done.answers += 1;
        match self.plan.scenario.kind {
            Kind::HeaderBomb | Kind::TokenFlood | Kind::FreshPrefixes => {
                self.ready.push_back((slot, self.lines[slot].generation));
            }
            // A gateway that took a bad request for a good one keeps the connection, which would lower the rate.
            Kind::FreshAddresses | Kind::BadRequests => self.close(slot),
            _ => {}
        }
    }

    /// One act; `false`: no connection is ready for it.
    fn act(&mut self) -> bool {
        let kind = self.plan.scenario.kind;
        let ready = loop {
            match self.ready.pop_front() {
                Some((slot, generation)) => {
                    let line = &self.lines[slot];
                    if line.generation == generation && line.stream.is_some() {
                        break Some(slot);
                    }
                }
                None => break None,
            }
        };
        let Some(slot) = ready else {
            // These bring their own connection.
            let brings = matches!(
                kind,
                Kind::ConnectionChurn | Kind::HeaderBomb | Kind::BadRequests | Kind::FreshAddresses
            );
            let acted = brings && self.open() < self.plan.connections && self.connect().is_some();
            self.done.acts += u64::from(acted);
            return acted;
        };
        self.number += 1;
        self.done.acts += 1;
        let number = self.number;
        let line = &mut self.lines[slot];
        let mut again = true;
        let acted = match kind {
            _ if kind.is_http2() => line.abuse(number),
            Kind::SlowRead => {
                match line.stream.as_mut().map(|stream| stream.read(&mut self.buffer[..SLOW_READ_BYTES])) {
                    Some(Ok(n)) if n > 0 => Ok(()),
                    Some(Err(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
                    _ => Err(io::ErrorKind::UnexpectedEof.into()),
                }
            }
            Kind::TlsRecordFlood => line.small_records(),
            Kind::Renegotiation => {
                match line.renegotiation.as_mut().map(|keys| keys.record(&self.plan.hello)) {
                    Some(Ok(record)) => line.send(&record),
                    _ => Err(io::ErrorKind::InvalidData.into()),
                }
            }
            Kind::KeyUpdates => match line.tls.as_mut().map(|tls| tls.refresh_traffic_keys()) {
                Some(Ok(())) => line.flush(),
                _ => Err(io::ErrorKind::InvalidData.into()),
            },
            Kind::HeaderBomb => {
                again = false;
                line.send(&crafted::bomb(number))
            }
            Kind::TokenFlood => {
                again = false;
                line.send(&crafted::forged(&self.plan.token, number))
            }
            Kind::FreshPrefixes => {
                again = false;
                line.send(&crafted::forwarded(number))
            }
            _ => line.send(b"s"),
        };
        match acted {
            Ok(()) if again => self.ready.push_back((slot, self.lines[slot].generation)),
            Ok(()) => {}
            Err(_) => self.ended(slot),
        }
        true
    }

    /// The gateway has ended a connection.
    fn ended(&mut self, slot: usize) {
        if self.lines[slot].stream.is_some() {
            self.done.ended_by_gateway += 1;
            self.close(slot);
        }
    }

    fn close(&mut self, slot: usize) {
        let line = &mut self.lines[slot];
        if line.stream.take().is_some() {
            line.tls = None;
            line.renegotiation = None;
            self.closed.push(slot);
        }
    }
}

impl Line {
    fn new() -> Self {
        Self {
            stream: None,
            tls: None,
            renegotiation: None,
            abuse: None,
            phase: Phase::Connecting,
            output: Vec::new(),
            left: 0,
            generation: 0,
        }
    }

    /// Sends bytes, encrypted where that is due; what the socket does not take waits.
    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.tls {
            Some(tls) => tls.writer().write_all(bytes)?,
            None => self.output.extend_from_slice(bytes),
        }
        self.flush()
    }

    /// Sends what an abuse of HTTP/2 sends at an act. As long as the socket is full nothing is added.
    fn abuse(&mut self, number: u64) -> io::Result<()> {
        let is_full = self.tls.as_ref().is_some_and(|tls| tls.wants_write());
        match self.abuse.as_mut().filter(|_| !is_full).map(|abuse| abuse.act(number)) {
            Some(bytes) => self.send(&bytes),
            None => self.flush(),
        }
    }

    /// Sends bytes of an upload in records of their own; its head first, where one begins.
    fn small_records(&mut self) -> io::Result<()> {
        // As long as the socket is full nothing is added: the gateway's pace is the attacker's.
        if let Some(tls) = self.tls.as_mut().filter(|tls| !tls.wants_write()) {
            if self.left == 0 {
                self.left = UPLOAD_BYTES;
                tls.writer().write_all(&crafted::upload(UPLOAD_BYTES))?;
            }
            let records = self.left.min(RECORDS);
            for _ in 0..records {
                tls.writer().write_all(b"r")?;
            }
            self.left -= records;
        }
        self.flush()
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(stream) = &mut self.stream else { return Ok(()) };
        if let Some(tls) = &mut self.tls {
            while tls.wants_write() {
                match tls.write_tls(stream) {
                    Ok(_) => {}
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                    Err(error) => return Err(error),
                }
            }
        }
        while !self.output.is_empty() {
            match stream.write(&self.output) {
                Ok(n) => {
                    self.output.drain(..n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
