//! An origin that fails on command: HTTP/1.1 on one epoll loop, in a process of its own, so that `kill -9` is real.
//!
//! It is told by lines on its standard input (`set NAME=VALUE …`, `stats`), answers each with one line, and ends when
//! that input does. Each request it sees goes into its ledger at once. Serving takes `delay_us` in one of `slots`
//! slots, whatever CPU there is: capacity is a number, not a machine. Not for: speed (`backend` is). Called by the
//! `origin` subcommand, which `faults` starts.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;

use super::fate::{Fate, STOLEN, Settings, answer, body_of, failure_of, lie, share_of};
use super::ledger::{Step, Writer};
use crate::sys::{self, Epoll};

/// Longest request head that is accepted.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes one read takes at most.
const READ_BYTES: usize = 64 * 1024;
/// The token of the listener.
const LISTENER: u64 = u64::MAX;
/// The token of the standard input.
const COMMANDS: u64 = u64::MAX - 1;
/// When a stray answer follows.
const LATER_NS: u64 = 3_000_000;

/// Options of the `origin` subcommand.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Address to listen on.
    #[arg(long)]
    pub listen: SocketAddr,
    /// File that each request is written to.
    #[arg(long, value_name = "FILE")]
    pub ledger: PathBuf,
    /// Its number, told in the answers.
    #[arg(long, default_value_t = 0)]
    pub number: u64,
    /// How it behaves: NAME=VALUE …
    #[arg(long, default_value = "")]
    pub set: String,
}

/// Serves until its input ends.
///
/// # Errors
/// The listener cannot be bound, epoll fails, or the ledger cannot be written.
pub fn run(options: &Options) -> io::Result<()> {
    sys::raise_open_files();
    sys::exact_timers();
    let mut settings = Settings::default();
    settings.apply(&options.set).map_err(io::Error::other)?;
    let mut origin = Origin {
        options: options.clone(),
        listener: None,
        epoll: Epoll::new(1_024)?,
        ledger: Writer::open(&options.ledger)?,
        connections: Vec::new(),
        free: Vec::new(),
        timers: BinaryHeap::new(),
        waiting: VecDeque::new(),
        serving: 0,
        stats: Stats::default(),
        settings,
        start: Instant::now(),
    };
    origin.listen()?;
    origin.epoll.add_level(io::stdin().as_raw_fd(), COMMANDS)?;
    println!("ready");
    origin.serve()
}

#[derive(Default)]
struct Stats {
    in_flight: usize,
    in_flight_max: usize,
    begun: u64,
    answered: u64,
    accepted: u64,
    /// Requests sent behind another that was not answered yet, or that do not parse: always a mistake.
    unreadable: u64,
}

struct Origin {
    options: Options,
    listener: Option<TcpListener>,
    epoll: Epoll,
    ledger: Writer,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    timers: BinaryHeap<Reverse<(u64, usize, u64, Due)>>,
    /// Requests for which no slot is free, oldest first: connection and its request's number.
    waiting: VecDeque<(usize, u64)>,
    serving: usize,
    stats: Stats,
    settings: Settings,
    start: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    /// The request in its slot is served.
    Served,
    /// The connection has been idle long enough.
    Idle,
    /// A stray answer.
    Later,
}

struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    /// Bytes of the request's body that have not come.
    body_left: u64,
    /// The request under way.
    request: Option<Request>,
    /// Counts requests and connections in this place: a timer of an earlier one is stale.
    turn: u64,
    serving: bool,
    ends: bool,
}

#[derive(Clone, Copy)]
struct Request {
    id: u64,
    post: bool,
    fate: Fate,
}

/// The connection is over.
struct Over;

impl Origin {
    fn serve(&mut self) -> io::Result<()> {
        let mut buffer = vec![0; READ_BYTES];
        loop {
            let now_ns = self.now_ns();
            let wait_us = self.timers.peek().map(|Reverse((at_ns, ..))| at_ns.saturating_sub(now_ns) / 1_000);
            for index in 0..self.epoll.wait(wait_us)? {
                let event = self.epoll.event(index);
                match event.token {
                    LISTENER => self.accept(),
                    COMMANDS => {
                        if !self.command()? {
                            return Ok(());
                        }
                    }
                    token => {
                        let slot = token as usize;
                        let over = (event.writable && self.flush(slot).is_err())
                            || (event.readable && self.receive(slot, &mut buffer)?.is_err());
                        if over {
                            self.close(slot);
                        }
                    }
                }
            }
            self.fire()?;
        }
    }

    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    fn listen(&mut self) -> io::Result<()> {
        if self.settings.refuse {
            self.listener = None;
        } else if self.listener.is_none() {
            let listener = TcpListener::bind(self.options.listen)?;
            listener.set_nonblocking(true)?;
            self.epoll.add_level(listener.as_raw_fd(), LISTENER)?;
            self.listener = Some(listener);
        }
        Ok(())
    }

    /// Reads one command; `false`: the input has ended.
    fn command(&mut self) -> io::Result<bool> {
        let mut line = String::new();
        if io::stdin().read_line(&mut line)? == 0 {
            return Ok(false);
        }
        let line = line.trim();
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let said = match verb {
            "set" => match self.settings.apply(rest) {
                Ok(()) => {
                    self.listen()?;
                    self.begin_waiting();
                    "ok".to_owned()
                }
                Err(error) => format!("error {error}"),
            },
            "stats" => {
                let stats = &self.stats;
                let said = format!(
                    "{{\"in_flight\":{},\"in_flight_max\":{},\"begun\":{},\"answered\":{},\"accepted\":{},\"unreadable\":{}}}",
                    stats.in_flight,
                    stats.in_flight_max,
                    stats.begun,
                    stats.answered,
                    stats.accepted,
                    stats.unreadable
                );
                self.stats.in_flight_max = self.stats.in_flight;
                said
            }
            _ => format!("error no such command: {verb}"),
        };
        println!("{said}");
        io::stdout().flush()?;
        Ok(true)
    }

    fn accept(&mut self) {
        while let Some(Ok(stream)) = self.listener.as_ref().map(sys::accept_now) {
            let _ = stream.set_nodelay(true);
            let slot = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.stats.accepted += 1;
            if self.epoll.add(stream.as_raw_fd(), slot as u64).is_err() {
                self.free.push(slot);
                continue;
            }
            self.connections[slot] = Some(Connection {
                stream,
                input: Vec::new(),
                output: Vec::new(),
                body_left: 0,
                request: None,
                turn: self.stats.accepted << 32,
                serving: false,
                ends: false,
            });
        }
    }

    fn close(&mut self, slot: usize) {
        let Some(connection) = self.connections[slot].take() else { return };
        self.free.push(slot);
        if connection.request.is_some() {
            self.stats.in_flight -= 1;
        }
        if connection.serving {
            self.serving -= 1;
            self.begin_waiting();
        }
    }

    /// Reads until the socket is empty.
    fn receive(&mut self, slot: usize, buffer: &mut [u8]) -> io::Result<Result<(), Over>> {
        loop {
            let Some(connection) = self.connections[slot].as_mut() else { return Ok(Ok(())) };
            match connection.stream.read(buffer) {
                Ok(0) => return Ok(Err(Over)),
                Ok(n) => {
                    connection.input.extend_from_slice(&buffer[..n]);
                    if self.take(slot)?.is_err() {
                        return Ok(Err(Over));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Ok(())),
                Err(_) => return Ok(Err(Over)),
            }
        }
    }

    /// Takes what has arrived: the rest of a body, or a head.
    fn take(&mut self, slot: usize) -> io::Result<Result<(), Over>> {
        let Some(connection) = self.connections[slot].as_mut() else { return Ok(Ok(())) };
        if connection.body_left > 0 {
            let now = connection.input.len().min(usize::try_from(connection.body_left).unwrap_or(usize::MAX));
            connection.input.drain(..now);
            connection.body_left -= now as u64;
            if connection.body_left == 0 {
                return self.received(slot);
            }
            return Ok(Ok(()));
        }
        if connection.input.is_empty() {
            return Ok(Ok(()));
        }
        let head = memchr::memmem::find(&connection.input, b"\r\n\r\n");
        let Some(end) = head.filter(|_| connection.request.is_none()) else {
            let wrong = connection.request.is_some() || connection.input.len() > HEAD_BYTES_MAX;
            self.stats.unreadable += u64::from(wrong);
            return Ok(if wrong { Err(Over) } else { Ok(()) });
        };
        let read = read_head(&connection.input[..end + 4]);
        connection.input.drain(..end + 4);
        let Some((id, post, length)) = read else {
            self.stats.unreadable += 1;
            return Ok(Err(Over));
        };
        let Some(id) = id else {
            let status = if self.settings.healthy { 200 } else { 503 };
            connection.output.extend(answer(status, "{}", self.options.number));
            return Ok(self.flush(slot));
        };
        let fate = self.settings.fate(id);
        connection.request = Some(Request { id, post, fate });
        connection.turn += 1;
        connection.body_left = length;
        self.stats.begun += 1;
        self.stats.in_flight += 1;
        self.stats.in_flight_max = self.stats.in_flight_max.max(self.stats.in_flight);
        self.ledger.write(id, Step::Begun, post, fate)?;
        if length == 0 { self.received(slot) } else { self.take(slot) }
    }

    fn received(&mut self, slot: usize) -> io::Result<Result<(), Over>> {
        let Some(connection) = self.connections[slot].as_mut() else { return Ok(Ok(())) };
        let Some(request) = connection.request else { return Ok(Ok(())) };
        let turn = connection.turn;
        self.ledger.write(request.id, Step::Received, request.post, request.fate)?;
        if !connection.input.is_empty() {
            self.stats.unreadable += 1;
            return Ok(Err(Over));
        }
        self.waiting.push_back((slot, turn));
        self.begin_waiting();
        Ok(Ok(()))
    }

    /// Gives free slots to those that wait.
    fn begin_waiting(&mut self) {
        while self.settings.slots == 0 || self.serving < self.settings.slots {
            let Some((slot, turn)) = self.waiting.pop_front() else { return };
            let Some(connection) = self.connections[slot].as_mut().filter(|c| c.turn == turn) else {
                continue;
            };
            connection.serving = true;
            self.serving += 1;
            let at_ns = self.now_ns() + self.settings.delay_us * 1_000;
            self.timers.push(Reverse((at_ns, slot, turn, Due::Served)));
        }
    }

    /// Does what is due.
    fn fire(&mut self) -> io::Result<()> {
        let now_ns = self.now_ns();
        while let Some(&Reverse((at_ns, slot, turn, due))) = self.timers.peek() {
            if at_ns > now_ns {
                return Ok(());
            }
            self.timers.pop();
            let Some(connection) = self.connections[slot].as_mut().filter(|c| c.turn == turn) else {
                continue;
            };
            let over = match due {
                Due::Served => self.answer(slot)?,
                Due::Idle if connection.request.is_none() => Err(Over),
                Due::Idle => Ok(()),
                Due::Later => {
                    // Behind the next request nobody could tell it from the answer to that.
                    if connection.stream.peek(&mut [0]).is_err() {
                        connection.output.extend(STOLEN.bytes());
                    }
                    self.flush(slot)
                }
            };
            if over.is_err() {
                self.close(slot);
            }
        }
        Ok(())
    }

    fn answer(&mut self, slot: usize) -> io::Result<Result<(), Over>> {
        let Some(connection) = self.connections[slot].as_mut() else { return Ok(Ok(())) };
        let Some(request) = connection.request else { return Ok(Ok(())) };
        connection.serving = false;
        self.serving -= 1;
        let body = body_of(request.id);
        let whole = answer(200, &body, self.options.number);
        let half = whole.len() - body.len() / 2;
        match request.fate {
            Fate::Hang => {
                self.begin_waiting();
                return Ok(Ok(()));
            }
            Fate::Answer => connection.output.extend(whole),
            Fate::Fail => {
                let failure = failure_of(request.id);
                connection.output.extend(answer(self.settings.fail_status, &failure, self.options.number));
            }
            Fate::ResetBefore => sys::reset_on_close(&connection.stream)?,
            Fate::ResetInside | Fate::Cut => {
                connection.output.extend(&whole[..half]);
                let _ = connection.stream.write(&connection.output);
                if request.fate == Fate::ResetInside {
                    sys::reset_on_close(&connection.stream)?;
                }
            }
            Fate::Lie => {
                let lie = lie(request.id);
                connection.output.extend(lie.bytes);
                connection.ends = lie.ends;
            }
            Fate::Stray => {
                connection.output.extend(whole);
                let at_ns = self.start.elapsed().as_nanos() as u64 + LATER_NS;
                self.timers.push(Reverse((at_ns, slot, connection.turn, Due::Later)));
            }
        }
        connection.request = None;
        let turn = connection.turn;
        let over = matches!(request.fate, Fate::ResetBefore | Fate::ResetInside | Fate::Cut);
        self.stats.in_flight -= 1;
        self.stats.answered += 1;
        self.ledger.write(request.id, Step::Answered, request.post, request.fate)?;
        self.begin_waiting();
        if over || self.flush(slot).is_err() {
            return Ok(Err(Over));
        }
        if self.settings.idle_close_us > 0 {
            let idle_us = share_of(request.id, 3) * self.settings.idle_close_us as f64;
            let at_ns = self.now_ns() + (idle_us * 1_000.0) as u64;
            self.timers.push(Reverse((at_ns, slot, turn, Due::Idle)));
        }
        Ok(Ok(()))
    }

    fn flush(&mut self, slot: usize) -> Result<(), Over> {
        let Some(connection) = self.connections[slot].as_mut() else { return Ok(()) };
        while !connection.output.is_empty() {
            match connection.stream.write(&connection.output) {
                Ok(n) => {
                    connection.output.drain(..n);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Over),
            }
        }
        if connection.ends { Err(Over) } else { Ok(()) }
    }
}

/// Id (none: a health probe), whether it is a POST, and the length of the body. Whatever a gateway should never send
/// (a chunked body, for one: no client here sends any) is not readable.
fn read_head(head: &[u8]) -> Option<(Option<u64>, bool, u64)> {
    let mut fields = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut fields);
    if !request.parse(head).ok()?.is_complete() {
        return None;
    }
    let path = request.path?;
    let id = match path.rsplit('/').next()? {
        "healthz" => None,
        number => Some(number.parse().ok()?),
    };
    let mut length = 0;
    for field in request.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            length = str::from_utf8(field.value).ok()?.parse().ok()?;
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            return None;
        }
    }
    Some((id, request.method? == "POST", length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_read_and_what_should_never_come_is_not() {
        assert_eq!(read_head(b"GET /r/17 HTTP/1.1\r\nHost: a\r\n\r\n"), Some((Some(17), false, 0)));
        assert_eq!(
            read_head(b"POST /r/18 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"),
            Some((Some(18), true, 5))
        );
        assert_eq!(read_head(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n"), Some((None, false, 0)));
        assert_eq!(read_head(b"GET /r/x HTTP/1.1\r\nHost: a\r\n\r\n"), None);
        assert_eq!(read_head(b"POST /r/1 HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), None);
    }
}
