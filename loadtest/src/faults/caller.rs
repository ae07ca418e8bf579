//! Calls with a number each, at fixed rates whatever comes back, and what became of every one of them.
//!
//! Plain HTTP/1.1 on one epoll loop and one thread of its own, so that nothing the script does meanwhile (starting an
//! origin, reloading the gateway) holds a call back. No call is ever repeated here: what the gateway loses is lost.
//! Called by `faults`.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::fate::{body_of, failure_of, share_of};
use crate::client::response::{Fault, Response};
use crate::client::{Expect, Schedule};
use crate::material::HOST;
use crate::sys::{self, Epoll};

/// Bytes one read takes at most.
const READ_BYTES: usize = 64 * 1024;
/// Bytes of a body that are looked at: those of an origin are shorter.
const KEPT_BYTES: usize = 4 * 1024;

/// Crossed calls that are told one by one.
const CROSSED_TOLD_MAX: usize = 5;

/// What is called, and how often.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the gateway listens.
    pub address: SocketAddr,
    /// Path before the call's number, e.g. `/r/`.
    pub path: String,
    /// Rates, one after the other: calls a second, and until when.
    pub rates: Vec<(f64, u64)>,
    /// Methods with their shares, and the bytes of their bodies.
    pub methods: Vec<Method>,
    /// The connections that are used in turn.
    pub connections: usize,
    /// The most that are opened when all are busy.
    pub connections_max: usize,
    /// A call that has no answer by then is given up.
    pub patience_ns: u64,
    /// This share of calls is given up…
    pub abort_share: f64,
    /// …that long after it was sent.
    pub abort_after_ns: u64,
}

/// One of the methods.
#[derive(Clone, Debug)]
pub struct Method {
    /// Its name.
    pub name: String,
    /// Of all calls.
    pub share: f64,
    /// Bytes of the body.
    pub body_bytes: usize,
}

/// One call.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// Its number.
    pub id: u64,
    /// It is a POST: twice would be wrong.
    pub post: bool,
    /// When it was due.
    pub due_ns: u64,
    /// When its fate was known.
    pub end_ns: u64,
    /// What became of it.
    pub outcome: Outcome,
    /// The configuration that answered, if it said so.
    pub version: Option<u64>,
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Still under way.
    Pending,
    /// The origin's own answer to it.
    Good,
    /// An answer of the gateway's own: status and the index of the reason in [`Calls::reasons`].
    Refused(u16, usize),
    /// The origin's failure, passed on.
    OriginFailed,
    /// A whole answer without a body, or with another status than 200, that the gateway passed on.
    Odd(u16),
    /// A whole answer to somebody else, or of nobody: must never be.
    Crossed,
    /// Bytes that are no answer: must never be.
    Malformed,
    /// An answer that ended before its end, visibly.
    Cut,
    /// The connection ended without a byte. `kept`: it had carried calls before, so the gateway may just have closed it.
    Closed {
        /// See above.
        kept: bool,
    },
    /// Nobody took the connection.
    Unreached,
    /// No answer in time.
    Late,
    /// Given up on purpose.
    Aborted,
    /// No connection was free: the generator's own bound.
    Unsent,
}

/// All calls.
#[derive(Debug, Default)]
pub struct Calls {
    /// In the order in which they were due.
    pub calls: Vec<Call>,
    /// Reasons of the gateway's own answers.
    pub reasons: Vec<String>,
    /// What the first few crossed calls got instead of their answers.
    pub crossed: Vec<String>,
}

impl Calls {
    fn crossed(&mut self, call: Option<usize>, status: u16, body: &[u8]) -> Outcome {
        if self.crossed.len() < CROSSED_TOLD_MAX {
            let id = call.map_or(0, |call| self.calls[call].id);
            let body = String::from_utf8_lossy(&body[..body.len().min(60)]).into_owned();
            self.crossed.push(format!("call {id} got {status} {body:?}"));
        }
        Outcome::Crossed
    }

    fn reason(&mut self, body: &[u8]) -> usize {
        let reason = reason_in(body).unwrap_or_default();
        self.reasons.iter().position(|known| *known == reason).unwrap_or_else(|| {
            self.reasons.push(reason.to_owned());
            self.reasons.len() - 1
        })
    }
}

/// The reason in a problem of the gateway's.
fn reason_in(body: &[u8]) -> Option<&str> {
    let text = str::from_utf8(body).ok().filter(|text| text.contains("urn:ringwall:"))?;
    text.split_once("\"reason\":\"")?.1.split('"').next()
}

/// Calls until the last rate is over and the last call has its outcome; `start` is time zero.
///
/// # Errors
/// epoll failed, or `stop` was set.
pub fn call(plan: &Plan, start: Instant, stop: &AtomicBool) -> io::Result<Calls> {
    sys::exact_timers();
    let mut caller = Caller {
        plan,
        start,
        epoll: Epoll::new(1_024)?,
        lines: Vec::new(),
        idle: VecDeque::new(),
        closed: Vec::new(),
        deadlines: VecDeque::new(),
        aborts: VecDeque::new(),
        under_way: 0,
        turn: 0,
        calls: Calls::default(),
        buffer: vec![0; READ_BYTES],
    };
    let mut from_ns = 0;
    for &(rate, until_ns) in &plan.rates {
        let mut schedule = Schedule::new(from_ns, rate);
        loop {
            let now_ns = caller.now_ns();
            while let Some(due_ns) = schedule.take(now_ns.min(until_ns.saturating_sub(1))) {
                caller.begin(due_ns);
            }
            if now_ns >= until_ns {
                break;
            }
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            caller.turn(schedule.next_ns().min(until_ns))?;
        }
        from_ns = until_ns;
    }
    while caller.under_way > 0 {
        if stop.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Interrupted.into());
        }
        let soon_ns = caller.now_ns() + 50_000_000;
        caller.turn(soon_ns)?;
    }
    Ok(caller.calls)
}

struct Caller<'a> {
    plan: &'a Plan,
    start: Instant,
    epoll: Epoll,
    lines: Vec<Line>,
    /// Connections that carry nothing, longest first.
    idle: VecDeque<usize>,
    /// Places without a connection.
    closed: Vec<usize>,
    /// When calls are given up, soonest first: place and turn.
    deadlines: VecDeque<(u64, usize, u64)>,
    aborts: VecDeque<(u64, usize, u64)>,
    under_way: usize,
    turn: u64,
    calls: Calls,
    buffer: Vec<u8>,
}

/// A connection and the call on it.
struct Line {
    stream: Option<TcpStream>,
    connected: bool,
    /// It has carried a call to its end.
    kept: bool,
    /// Which call, as an index.
    call: Option<usize>,
    request: Vec<u8>,
    sent: usize,
    response: Response,
    /// Counts calls and connections here, so that late events and deadlines are told apart.
    turn: u64,
}

impl Caller<'_> {
    fn now_ns(&self) -> u64 {
        self.start.elapsed().as_nanos() as u64
    }

    /// Waits until `until_ns`, or a deadline, or something happens.
    fn turn(&mut self, until_ns: u64) -> io::Result<()> {
        let next_ns =
            [self.deadlines.front(), self.aborts.front()].into_iter().flatten().map(|due| due.0).min();
        let wake_ns = next_ns.map_or(until_ns, |next_ns| next_ns.min(until_ns));
        for index in 0..self.epoll.wait(Some(wake_ns.saturating_sub(self.now_ns()).div_ceil(1_000)))? {
            let event = self.epoll.event(index);
            let slot = event.token as usize;
            if self.lines[slot].stream.is_none() {
                continue;
            }
            if event.writable
                && let Err(outcome) = self.writable(slot)
            {
                self.finish(slot, outcome, false);
                continue;
            }
            if event.readable {
                self.readable(slot);
            }
        }
        let now_ns = self.now_ns();
        while let Some(&(at_ns, slot, turn)) = self.deadlines.front().filter(|due| due.0 <= now_ns) {
            debug_assert!(at_ns <= now_ns);
            self.deadlines.pop_front();
            if self.lines[slot].turn == turn {
                self.finish(slot, Outcome::Late, false);
            }
        }
        while let Some(&(_, slot, turn)) = self.aborts.front().filter(|due| due.0 <= now_ns) {
            self.aborts.pop_front();
            if self.lines[slot].turn == turn {
                self.finish(slot, Outcome::Aborted, false);
            }
        }
        Ok(())
    }

    /// Sends the next call.
    fn begin(&mut self, due_ns: u64) {
        let id = self.calls.calls.len() as u64 + 1;
        let mut dice = share_of(id, 11);
        let method = self.plan.methods.iter().find(|method| {
            dice -= method.share;
            dice < 0.0
        });
        let Some(method) = method.or(self.plan.methods.last()) else { return };
        let post = method.name == "POST";
        let index = self.calls.calls.len();
        self.calls.calls.push(Call {
            id,
            post,
            due_ns,
            end_ns: due_ns,
            outcome: Outcome::Unsent,
            version: None,
        });
        let open = self.lines.len() - self.closed.len();
        // All places are used in turn, so that calls come from as many connections as the plan says.
        let used_again = if open >= self.plan.connections { self.idle.pop_front() } else { None };
        let slot = match used_again {
            Some(slot) => slot,
            None if open < self.plan.connections_max => self.closed.pop().unwrap_or_else(|| {
                self.lines.push(Line::new());
                self.lines.len() - 1
            }),
            None => return,
        };
        self.calls.calls[index].outcome = Outcome::Pending;
        self.under_way += 1;
        self.turn += 1;
        let line = &mut self.lines[slot];
        (line.call, line.sent, line.turn) = (Some(index), 0, self.turn);
        line.request = request(&method.name, &self.plan.path, id, method.body_bytes);
        let now_ns = self.start.elapsed().as_nanos() as u64;
        self.deadlines.push_back((now_ns + self.plan.patience_ns, slot, self.turn));
        if share_of(id, 12) < self.plan.abort_share {
            self.aborts.push_back((now_ns + self.plan.abort_after_ns, slot, self.turn));
        }
        let sent = if line.stream.is_some() { self.writable(slot) } else { self.open(slot) };
        if let Err(outcome) = sent {
            self.finish(slot, outcome, false);
        }
    }

    fn open(&mut self, slot: usize) -> Result<(), Outcome> {
        let stream = sys::connect_now(self.plan.address, None).map_err(|_| Outcome::Unreached)?;
        let _ = stream.set_nodelay(true);
        self.epoll.add(stream.as_raw_fd(), slot as u64).map_err(|_| Outcome::Unsent)?;
        let line = &mut self.lines[slot];
        (line.stream, line.connected, line.kept) = (Some(stream), false, false);
        line.response = Response::keeping(KEPT_BYTES);
        Ok(())
    }

    fn writable(&mut self, slot: usize) -> Result<(), Outcome> {
        let line = &mut self.lines[slot];
        let Some(stream) = &mut line.stream else { return Ok(()) };
        if !line.connected {
            if !matches!(stream.take_error(), Ok(None)) {
                return Err(Outcome::Unreached);
            }
            line.connected = true;
        }
        while line.call.is_some() && line.sent < line.request.len() {
            match stream.write(&line.request[line.sent..]) {
                Ok(n) => line.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                // An answer that came before the end of the request may still be there to read.
                Err(_) if line.response.untouched() => {
                    self.readable(slot);
                    break;
                }
                Err(_) => return Err(Outcome::Cut),
            }
        }
        Ok(())
    }

    fn readable(&mut self, slot: usize) {
        loop {
            let line = &mut self.lines[slot];
            let Some(stream) = &mut line.stream else { return };
            let read = stream.read(&mut self.buffer);
            let untouched = line.response.untouched();
            let closed = match line.call {
                None => None,
                Some(_) if !line.connected => Some(Outcome::Unreached),
                Some(_) if untouched => Some(Outcome::Closed { kept: line.kept }),
                Some(_) => Some(Outcome::Cut),
            };
            match read {
                Ok(0) if line.call.is_some() && line.response.end(&Expect::default()).is_ok() => {
                    let outcome = self.judge(slot);
                    self.finish(slot, outcome, false);
                    return;
                }
                Ok(n) if n > 0 => match line.response.feed(&self.buffer[..n], &Expect::default()) {
                    // Nobody asked for it: a stray answer would reach the next call.
                    _ if line.call.is_none() => {
                        self.drop_idle(slot);
                        return;
                    }
                    Ok((_, false)) => {}
                    Ok((used, true)) => {
                        let clean = used == n;
                        let keep = clean && !line.response.close && line.sent == line.request.len();
                        let (status, call) = (line.response.status, line.call);
                        let outcome = if clean {
                            self.judge(slot)
                        } else {
                            self.calls.crossed(call, status, &self.buffer[used..n])
                        };
                        self.finish(slot, outcome, keep);
                        if !keep {
                            return;
                        }
                    }
                    Err(Fault::Cut) => {
                        self.finish(slot, Outcome::Cut, false);
                        return;
                    }
                    Err(_) => {
                        self.finish(slot, Outcome::Malformed, false);
                        return;
                    }
                },
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                _ => {
                    match closed {
                        Some(outcome) => self.finish(slot, outcome, false),
                        None => self.drop_idle(slot),
                    }
                    return;
                }
            }
        }
    }

    /// What a whole answer is.
    fn judge(&mut self, slot: usize) -> Outcome {
        let line = &mut self.lines[slot];
        let Some(call) = line.call else { return Outcome::Crossed };
        let (status, body) = (line.response.status, std::mem::take(&mut line.response.kept));
        let id = self.calls.calls[call].id;
        self.calls.calls[call].version = line.response.version;
        if status == 200 && body == body_of(id).as_bytes() {
            Outcome::Good
        } else if body == failure_of(id).as_bytes() {
            Outcome::OriginFailed
        } else if reason_in(&body).is_some() {
            Outcome::Refused(status, self.calls.reason(&body))
        } else if body.is_empty() && status != 200 {
            Outcome::Odd(status)
        } else {
            self.calls.crossed(Some(call), status, &body)
        }
    }

    /// Writes the outcome down; the connection goes on if `keep`.
    fn finish(&mut self, slot: usize, outcome: Outcome, keep: bool) {
        let now_ns = self.now_ns();
        let line = &mut self.lines[slot];
        if let Some(call) = line.call.take() {
            let call = &mut self.calls.calls[call];
            (call.outcome, call.end_ns) = (outcome, now_ns);
            self.under_way -= 1;
        }
        line.turn = 0;
        if keep {
            line.kept = true;
            self.idle.push_back(slot);
        } else {
            line.stream = None;
            self.closed.push(slot);
        }
    }

    fn drop_idle(&mut self, slot: usize) {
        self.idle.retain(|idle| *idle != slot);
        self.lines[slot].stream = None;
        self.closed.push(slot);
    }
}

impl Line {
    fn new() -> Self {
        Self {
            stream: None,
            connected: false,
            kept: false,
            call: None,
            request: Vec::new(),
            sent: 0,
            response: Response::keeping(KEPT_BYTES),
            turn: 0,
        }
    }
}

fn request(method: &str, path: &str, id: u64, body_bytes: usize) -> Vec<u8> {
    let mut request = format!("{method} {path}{id} HTTP/1.1\r\nHost: {HOST}\r\n").into_bytes();
    if body_bytes > 0 {
        request.extend(format!("Content-Type: text/plain\r\nContent-Length: {body_bytes}\r\n\r\n").bytes());
        request.extend(std::iter::repeat_n(b'p', body_bytes));
    } else {
        request.extend(b"\r\n");
    }
    request
}
