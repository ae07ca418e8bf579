//! Clients that ask one thing after the other without a pause, and count everything that is not a whole, good answer.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::node::PATIENCE;

/// What clients have met.
#[derive(Debug, Default)]
pub struct Tally {
    pub answers: u64,
    /// Connections that were opened.
    pub connections: u64,
    /// Answers that said that the connection ends.
    pub farewells: u64,
    /// Everything that a user would have noticed.
    pub failures: Vec<String>,
}

/// What a client does when nobody listens any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenRefused {
    /// That is a failure.
    Fails,
    /// That is the end.
    Ends,
}

/// Clients at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Tally>>,
}

impl Load {
    /// `kept` clients ask over connections that they keep as long as they may, `fresh` ones over a new one each time. They take
    /// the paths in turn.
    pub fn start(
        address: SocketAddr,
        kept: usize,
        fresh: usize,
        paths: &[&str],
        when_refused: WhenRefused,
    ) -> Load {
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(AtomicU64::new(0));
        let clients = (0..kept + fresh).map(|index| {
            let (stop, answers) = (Arc::clone(&stop), Arc::clone(&answers));
            let end = if index < kept { "" } else { "Connection: close\r\n" };
            let requests: Vec<String> =
                paths.iter().map(|path| format!("GET {path} HTTP/1.1\r\nHost: a\r\n{end}\r\n")).collect();
            std::thread::spawn(move || client(address, index, &requests, when_refused, &stop, &answers))
        });
        Load { clients: clients.collect(), stop, answers }
    }

    /// Waits until so many more answers have come.
    pub fn more(&self, count: u64) {
        let (before, deadline) = (self.answers.load(Ordering::Relaxed), Instant::now() + PATIENCE);
        while self.answers.load(Ordering::Relaxed) < before + count {
            assert!(Instant::now() < deadline, "no {count} answers in time");
            assert!(self.clients.iter().any(|client| !client.is_finished()), "all clients have ended");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Has the clients finish what they are at. What they have met, all together.
    pub fn end(self) -> Tally {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Tally::default();
        for client in self.clients {
            let one = client.join().expect("no panic");
            all.answers += one.answers;
            all.connections += one.connections;
            all.farewells += one.farewells;
            all.failures.extend(one.failures);
        }
        all
    }
}

fn client(
    address: SocketAddr,
    index: usize,
    requests: &[String],
    when_refused: WhenRefused,
    stop: &AtomicBool,
    answers: &AtomicU64,
) -> Tally {
    let mut tally = Tally::default();
    let mut connection: Option<BufReader<TcpStream>> = None;
    for request in requests.iter().cycle().skip(index) {
        if stop.load(Ordering::Relaxed) || tally.failures.len() >= 5 {
            break;
        }
        let mut stream = match connection.take() {
            Some(stream) => stream,
            None => match TcpStream::connect(address) {
                Ok(stream) => {
                    tally.connections += 1;
                    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
                    stream.set_nodelay(true).expect("no delay");
                    BufReader::new(stream)
                }
                Err(_) if when_refused == WhenRefused::Ends => break,
                Err(error) => {
                    tally.failures.push(format!("connect: {error}"));
                    continue;
                }
            },
        };
        match ask(&mut stream, request) {
            Ok(keeps) => {
                tally.answers += 1;
                tally.farewells += u64::from(!keeps);
                answers.fetch_add(1, Ordering::Relaxed);
                connection = keeps.then_some(stream);
            }
            Err(why) => {
                tally.failures.push(format!("client {index}, after {} answers: {why}", tally.answers))
            }
        }
    }
    tally
}

/// Whether the connection may be used again.
fn ask(stream: &mut BufReader<TcpStream>, request: &str) -> Result<bool, String> {
    stream.get_mut().write_all(request.as_bytes()).map_err(|error| format!("send: {error}"))?;
    let (mut status, mut length, mut keeps, mut head) = (String::new(), 0, true, String::new());
    loop {
        let mut line = String::new();
        match stream.read_line(&mut line) {
            Ok(0) => return Err(format!("the end in the head, after {head:?}")),
            Ok(_) if line == "\r\n" => break,
            Ok(_) if status.is_empty() => status.clone_from(&line),
            Ok(_) => {
                let field = line.to_ascii_lowercase();
                if let Some(value) = field.strip_prefix("content-length:") {
                    length = value.trim().parse().map_err(|_| line.clone())?;
                }
                keeps &= field.trim() != "connection: close";
            }
            Err(error) => return Err(format!("head: {error}")),
        }
        head.push_str(&line);
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).map_err(|error| format!("body: {error}"))?;
    match status.starts_with("HTTP/1.1 200 ") {
        true => Ok(keeps),
        false => Err(format!("{head}{}", String::from_utf8_lossy(&body))),
    }
}
