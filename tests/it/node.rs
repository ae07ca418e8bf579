//! A real `ringwall run` in a process of its own, a scripted origin behind it, and a client that writes raw bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// Nothing in these tests takes as long as this, unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A directory of a test's own, removed when dropped.
pub struct Place(PathBuf);

impl Place {
    pub fn new() -> Place {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("ringwall-it-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).expect("a directory");
        Place(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.0.join(name);
        std::fs::write(&path, text).expect("a file");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        path
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A running node.
pub struct Node {
    pub child: Child,
    pub address: SocketAddr,
    /// Of all listeners, in the order of the configuration.
    pub addresses: Vec<SocketAddr>,
    pub metrics: SocketAddr,
    pub place: Place,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Node {
    /// Runs `config`, in which `listen` and `node` are left to us, until it says that it is ready.
    pub fn start(config: &str) -> Node {
        Node::start_in(Place::new(), "{ address: \"127.0.0.1:0\", tls: none }", config)
    }

    /// Runs it before `origin`, its upstream `app`, with these files beside the configuration and `more` below.
    pub fn start_before(origin: SocketAddr, files: &[(&str, &str)], more: &str) -> Node {
        let place = Place::new();
        for (name, text) in files {
            place.write(name, text);
        }
        let config = format!("upstreams: {{ app: \"http://{origin}\" }}\n{more}");
        Node::start_in(place, "{ address: \"127.0.0.1:0\", tls: none }", &config)
    }

    pub fn start_in(place: Place, listen: &str, config: &str) -> Node {
        Node::start_whole(place, &text_of(listen, config), &[])
    }

    /// Runs a configuration to which nothing is added, with these variables in its environment.
    pub fn start_whole(place: Place, text: &str, environment: &[(&str, &Path)]) -> Node {
        let mut command = with_driver(Command::new(env!("CARGO_BIN_EXE_ringwall")));
        command.envs(environment.iter().copied());
        Node::launch(place, text, command)
    }

    /// Runs `config` on one core: what one connection does, another can see.
    pub fn start_on_one_core(config: &str) -> Node {
        let text = text_of("{ address: \"127.0.0.1:0\", tls: none }", config).replace("cores: 2", "cores: 1");
        Node::launch(Place::new(), &text, with_driver(Command::new(env!("CARGO_BIN_EXE_ringwall"))))
    }

    /// Runs the configuration `text` with a program that is told `run` and what belongs to it.
    pub fn launch(place: Place, text: &str, command: Command) -> Node {
        Node::launch_with(place, text, command, Stdio::null(), Stdio::null())
    }

    /// The same, with something to read and to write.
    pub fn launch_with(place: Place, text: &str, mut command: Command, input: Stdio, output: Stdio) -> Node {
        let file = place.write("ringwall.yaml", text);
        command.arg("-c").arg(file).stdin(input).stdout(output).stderr(Stdio::piped());
        let mut child = command.spawn().expect("ringwall starts");
        let stderr = child.stderr.take().expect("piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        let nowhere = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let addresses = Vec::new();
        let mut node =
            Node { child, address: nowhere, addresses, metrics: nowhere, place, lines, seen: Vec::new() };
        let ready = node.wait_for("RW-6001");
        let word = |name: &str| {
            let (_, rest) =
                ready.split_once(&format!(" {name}=")).unwrap_or_else(|| panic!("{name} in {ready}"));
            rest.split_whitespace().next().expect("a word").parse().expect("an address")
        };
        node.address = word("listen");
        let listens = ready.split_whitespace().filter_map(|word| word.strip_prefix("listen="));
        // A Unix socket is no such address.
        let listens = listens.filter(|address| !address.starts_with("unix:"));
        node.addresses = listens.map(|address| address.parse().expect("an address")).collect();
        if !ready.contains(" metrics=unix:") {
            node.metrics = word("metrics");
        }
        node
    }

    /// Writes another configuration over the one that runs.
    pub fn rewrite(&self, config: &str) {
        // A file that is replaced whole is never read half.
        let next = self.place.write("next.yaml", &text_of("{ address: \"127.0.0.1:0\", tls: none }", config));
        std::fs::rename(next, self.place.path().join("ringwall.yaml")).expect("renamed");
    }

    /// Waits for a line of the process log that holds `what`.
    pub fn wait_for(&mut self, what: &str) -> String {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => {
                    self.seen.push(line.clone());
                    if line.contains(what) {
                        return line;
                    }
                }
                Err(_) => panic!("no line with {what}; there were:\n{}", self.seen.join("\n")),
            }
        }
    }

    /// The next line of the process log, if there is one by now.
    pub fn line_so_far(&mut self) -> Option<String> {
        let line = self.lines.try_recv().ok()?;
        self.seen.push(line.clone());
        Some(line)
    }

    /// The lines of the process log that [`Node::wait_for`] has passed.
    /// Takes in what the process log says now, without waiting.
    pub fn read_lines(&mut self) {
        self.seen.extend(self.lines.try_iter());
    }

    pub fn lines_so_far(&self) -> impl Iterator<Item = &str> {
        self.seen.iter().map(String::as_str)
    }

    pub fn signal(&self, name: &str) {
        let done = Command::new("kill").arg(format!("-{name}")).arg(self.child.id().to_string()).status();
        assert!(done.expect("kill").success());
    }

    pub fn connect(&self) -> Client {
        Client::new(TcpStream::connect(self.address).expect("connected"))
    }

    /// One request on a connection of its own.
    pub fn ask(&self, request: &str) -> Answer {
        let mut client = self.connect();
        client.send(request);
        client.answer()
    }

    /// The lines of the access log so far, once there are `count`.
    pub fn log(&self, count: usize) -> Vec<serde_json::Value> {
        let path = self.place.path().join("access.jsonl");
        let deadline = std::time::Instant::now() + PATIENCE;
        loop {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            // What is behind the last line feed is still being written.
            let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
            let lines: Vec<_> = whole.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            if lines.len() >= count {
                return lines;
            }
            assert!(std::time::Instant::now() < deadline, "{} of {count} lines: {text}", lines.len());
            thread::yield_now();
        }
    }
}

/// Reads until what is read is `expected`, or time is up: what a core counts is on the page a moment after its client has seen it.
pub fn comes_to(expected: f64, read: impl Fn() -> f64) {
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut found = read();
    while found != expected && std::time::Instant::now() < deadline {
        thread::sleep(Duration::from_millis(20));
        found = read();
    }
    assert_eq!(found, expected);
}

/// What the node says to operators at `path`.
pub fn fetch(node: &Node, path: &str) -> String {
    let mut client = Client::new(TcpStream::connect(node.metrics).expect("connected"));
    client.send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", node.metrics));
    client.answer().text()
}

/// The sum of a metric over those of its samples that hold all of `labels`.
pub fn metric(node: &Node, name: &str, labels: &[&str]) -> f64 {
    let page = fetch(node, "/metrics");
    let samples = page.lines().filter_map(|line| line.strip_prefix(name));
    let asked = samples
        .filter(|rest| rest.starts_with([' ', '{']) && labels.iter().all(|label| rest.contains(label)));
    asked.map(|rest| rest.rsplit(' ').next().expect("a value").parse::<f64>().expect("a number")).sum()
}

/// How often the node has refused for that reason.
pub fn refusals(node: &Node, reason: &str) -> f64 {
    metric(node, "ringwall_refusals_total", &[&format!("reason=\"{reason}\"")])
}

/// A key as `ringwall keys new` shows it, in the store `partners.keys` and under the pepper `pepper` of a folder.
pub fn new_key(place: &Path, identity: &str, roles: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwall"));
    command.args(["keys", "new", "--store", "partners.keys", "--identity", identity]);
    command.args(["--id", &format!("key-of-{identity}"), "--pepper", "secret:file:pepper"]);
    for role in roles {
        command.args(["--role", role]);
    }
    let output = command.current_dir(place).output().expect("ringwall keys");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text").trim().to_owned()
}

/// `ringwall run` with the driver that is tested, if one is named.
pub fn with_driver(mut command: Command) -> Command {
    command.arg("run");
    if let Ok(driver) = std::env::var("RINGWALL_TEST_DRIVER") {
        command.arg("--driver").arg(driver);
    }
    command
}

pub fn text_of(listen: &str, config: &str) -> String {
    format!(
        "ringwall: 1\nlisten: {listen}\n{config}\nlog: {{ file: access.jsonl }}\n\
         node: {{ metrics: \"127.0.0.2:0\", cores: 2, control: control.sock, drain: 10s, limit_memory: 1MiB }}\n"
    )
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Another program's process, ended with the test that needs it, however that ends.
pub struct Server(pub Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client that writes what it is told, byte for byte.
pub struct Client {
    stream: TcpStream,
    reader: BufReader<TcpStream>,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a field, whatever its case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// Status and reason; of an answer that is no problem of ours, what it says instead.
    pub fn refusal(&self) -> (u16, String) {
        let body: Option<serde_json::Value> = serde_json::from_slice(&self.body).ok();
        let reason = body.and_then(|body| body["reason"].as_str().map(str::to_owned));
        (self.status, reason.unwrap_or_else(|| self.text()))
    }

    pub fn reason(&self) -> String {
        let body: serde_json::Value = serde_json::from_slice(&self.body).expect("a problem");
        body["reason"].as_str().expect("a reason").to_owned()
    }
}

impl Client {
    pub fn new(stream: TcpStream) -> Client {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        let reader = BufReader::new(stream.try_clone().expect("a second handle"));
        Client { stream, reader }
    }

    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("sent");
    }

    /// Sends what may not be wanted any more.
    pub fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    pub fn end_sending(&self) {
        self.stream.shutdown(std::net::Shutdown::Write).expect("half closed");
    }

    /// One head, up to its empty line.
    pub fn head(&mut self) -> String {
        let mut head = String::new();
        loop {
            let before = head.len();
            let count = self.reader.read_line(&mut head).expect("a line");
            assert!(count > 0, "the connection ended in a head: {head:?}");
            if &head[before..] == "\r\n" {
                return head;
            }
        }
    }

    /// One response to anything but HEAD.
    pub fn answer(&mut self) -> Answer {
        self.answer_to("GET")
    }

    pub fn answer_to(&mut self, method: &str) -> Answer {
        let head = self.head();
        let status: u16 = head.get(9..12).and_then(|digits| digits.parse().ok()).expect("a status");
        let mut answer = Answer { status, head, body: Vec::new() };
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return answer;
        }
        let length = answer.field("content-length").map(|value| value.parse::<usize>().expect("a length"));
        if answer.field("transfer-encoding") == Some("chunked") {
            assert!(length.is_none(), "two framings: {}", answer.head);
            answer.body = self.chunks();
        } else if let Some(length) = length {
            answer.body = vec![0; length];
            self.reader.read_exact(&mut answer.body).expect("the whole body");
        } else {
            self.reader.read_to_end(&mut answer.body).expect("to the end");
        }
        answer
    }

    fn chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let mut line = String::new();
            self.reader.read_line(&mut line).expect("a chunk's size");
            let size = usize::from_str_radix(line.trim_end(), 16).expect("hexadecimal");
            let mut chunk = vec![0; size + 2];
            if size == 0 {
                // Trailers, if any, and the empty line.
                loop {
                    let mut trailer = String::new();
                    assert!(self.reader.read_line(&mut trailer).expect("a line") > 0, "cut in the trailers");
                    if trailer == "\r\n" {
                        return body;
                    }
                }
            }
            self.reader.read_exact(&mut chunk).expect("a chunk");
            body.extend_from_slice(&chunk[..size]);
        }
    }

    /// The socket itself; what was read ahead is lost.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// Everything up to the end of the connection, however it ends.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        let _ = self.reader.read_to_end(&mut rest);
        rest
    }

    /// What comes until nothing has come for half a second, or no more will.
    pub fn rest_until_quiet(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        self.stream.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
        let _ = self.reader.read_to_end(&mut rest);
        rest
    }

    /// Reads at most so many bytes at each interval, for so long; how many there were.
    pub fn read_slowly(&mut self, bytes: usize, every: Duration, duration: Duration) -> usize {
        let mut buffer = vec![0; bytes];
        let end = std::time::Instant::now() + duration;
        let mut all = 0;
        while std::time::Instant::now() < end {
            all += self.reader.read(&mut buffer).expect("more");
            thread::sleep(every);
        }
        all
    }

    /// Reads up to so many bytes more; how many there were.
    pub fn rest_of(&mut self, bytes: usize) -> usize {
        let mut rest = Vec::new();
        let _ = (&mut self.reader).take(bytes as u64).read_to_end(&mut rest);
        rest.len()
    }

    /// Whether nothing more comes: the other side has closed.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.reader.read(&mut [0; 1]), Ok(0) | Err(_))
    }
}

/// A request as an origin saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub head: String,
    pub body: Vec<u8>,
    /// Which connection it came over, from 0.
    pub connection: usize,
}

impl Seen {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// What an origin does with a request.
pub enum Reply {
    /// Sends these bytes and keeps the connection.
    Bytes(Vec<u8>),
    /// Sends these bytes and closes.
    Last(Vec<u8>),
    /// Says nothing and keeps the connection open.
    Silence,
    /// Sends one thing, and then another again and again, until nobody takes it.
    Drip { first: Vec<u8>, then: Vec<u8>, every: Duration },
}

/// An HTTP/1.1 origin that does what a closure says.
pub struct Origin {
    pub address: SocketAddr,
    pub seen: Receiver<Seen>,
}

impl Origin {
    pub fn start(reply: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Origin {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let (sender, seen) = channel();
        let reply = std::sync::Arc::new(reply);
        thread::spawn(move || {
            for (connection, stream) in listener.incoming().flatten().enumerate() {
                let (sender, reply) = (sender.clone(), std::sync::Arc::clone(&reply));
                thread::spawn(move || {
                    let mut client = Client::new(stream);
                    while let Some(request) = read_request(&mut client, connection) {
                        let answer = reply(&request);
                        let _ = sender.send(request);
                        match answer {
                            Reply::Bytes(bytes) => client.try_send(&bytes),
                            Reply::Last(bytes) => return client.try_send(&bytes),
                            Reply::Silence => {}
                            Reply::Drip { first, then, every } => {
                                client.try_send(&first);
                                while client.stream.write_all(&then).is_ok() {
                                    thread::sleep(every);
                                }
                                return;
                            }
                        }
                    }
                });
            }
        });
        Origin { address, seen }
    }

    /// An origin that answers everything with 200 and a short text.
    pub fn plain() -> Origin {
        Origin::start(|_| Reply::Bytes(response("200 OK", "hello")))
    }

    pub fn next(&self) -> Seen {
        self.seen.recv_timeout(PATIENCE).expect("the origin sees a request")
    }

    pub fn saw_nothing_more(&self) -> bool {
        self.seen.try_recv().is_err()
    }
}

pub fn response(status: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn read_request(client: &mut Client, connection: usize) -> Option<Seen> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if client.reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
        if &head[before..] == "\r\n" {
            break;
        }
    }
    let mut seen = Seen { head, body: Vec::new(), connection };
    if seen.field("transfer-encoding").is_some() {
        seen.body = client.chunks();
    } else if let Some(length) = seen.field("content-length") {
        seen.body = vec![0; length.parse().ok()?];
        client.reader.read_exact(&mut seen.body).ok()?;
    }
    Some(seen)
}
