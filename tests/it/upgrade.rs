//! One process takes over from another, the service manager is told, and the end comes in order; under load.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use crate::load::{Load, WhenRefused};
use crate::node::{Client, Node, Origin, PATIENCE, Place, Reply, fetch, response, text_of};

const PLAIN: &str = "{ address: \"127.0.0.1:0\", tls: none }";

fn config(origin: &Origin, body: &str) -> String {
    format!(
        "upstreams: {{ app: \"http://{}\" }}\napis:\n  app:\n    to: app\n    operations:\n      \
         one: {{ match: GET /one, respond: {{ status: 200, body: {body} }} }}\n      two: GET /two\n    \
         allow: [{{ who: anyone }}]",
        origin.address
    )
}

fn get(address: SocketAddr, path: &str) -> String {
    let mut client = Client::new(TcpStream::connect(address).expect("connected"));
    client.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"));
    client.answer().text()
}

/// A process that was started by the one under test; ended with the test, however that ends.
struct Heir(u32);

impl Heir {
    fn is_there(&self) -> bool {
        // A process that has ended may wait for its parent to look.
        std::fs::read_to_string(format!("/proc/{}/stat", self.0))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with('Z'))
    }

    fn signal(&self, name: &str) {
        let _ = Command::new("kill")
            .args([&format!("-{name}"), &self.0.to_string()])
            .stderr(Stdio::null())
            .status();
    }

    fn until_gone(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.is_there() {
            assert!(Instant::now() < deadline, "process {} does not end", self.0);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Heir {
    fn drop(&mut self) {
        if self.is_there() {
            self.signal("KILL");
        }
    }
}

fn upgrade(node: &Node, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_ringwall"))
        .args(["upgrade", "--json"])
        .args(arguments)
        .arg("--control")
        .arg(node.place.path().join("control.sock"))
        .output()
        .expect("ringwall upgrade")
}

fn upgraded(node: &mut Node) -> Heir {
    let output = upgrade(node, &[]);
    let told: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let heir = Heir(told["result"]["process"].as_u64().unwrap_or_default() as u32);
    assert!(output.status.success(), "{told}; {:?}", node.lines_so_far().collect::<Vec<_>>());
    node.wait_for("RW-6073");
    heir
}

/// What the process that has the control socket says of itself.
fn status(node: &Node) -> serde_json::Value {
    let path = node.place.path().join("control.sock");
    ringwall::control::socket::call(&path, ringwall::control::socket::Verb::Status)
        .expect("a response")
        .result
}

#[test]
fn handovers_in_a_row_under_load_lose_no_request() {
    let origin = Origin::plain();
    let mut node = Node::start(&config(&origin, "x"));
    let load = Load::start(node.address, 5, 3, &["/one", "/two"], WhenRefused::Fails);
    load.more(500);
    let mut heirs: Vec<Heir> = Vec::new();
    // As many as the row of the specification wants take `RINGWALL_FULL=1`.
    let rounds = if std::env::var_os("RINGWALL_FULL").is_some() { 20 } else { 4 };
    for round in 0..rounds {
        let heir = upgraded(&mut node);
        assert_eq!(status(&node)["process"], heir.0, "the control socket is the new one's");
        assert_eq!(status(&node)["generation"], round + 2);
        load.more(500);
        // Its predecessor ends by itself, with all that it had begun.
        match heirs.last() {
            Some(before) => before.until_gone(),
            None => assert!(node.child.wait().expect("ended").success()),
        }
        heirs.push(heir);
        load.more(500);
    }
    let tally = load.end();
    println!("{} answers, {} connections, {} failed", tally.answers, tally.connections, tally.failures.len());
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert!(tally.connections > 8 + 5, "kept connections have moved");
    assert!(fetch(&node, "/metrics").contains(&format!("ringwall_config_generation {}\n", rounds + 1)));
    assert!(fetch(&node, "/readyz").starts_with("ok"));
    let last = heirs.last().expect("one");
    last.signal("TERM");
    last.until_gone();
    assert!(!node.place.path().join("control.sock").exists(), "the last one takes its socket's file away");
}

#[test]
fn a_unix_socket_is_handed_over_and_loses_no_request() {
    use std::io::{Read as _, Write as _};
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let origin = Origin::plain();
    let place = Place::new();
    let path = place.path().join("in.sock");
    let listen = "[{ address: \"127.0.0.1:0\", tls: none }, { address: \"unix:in.sock\", tls: none }]";
    let mut node = Node::start_in(place, listen, &config(&origin, "x"));
    let stop = Arc::new(AtomicBool::new(false));
    let callers: Vec<_> = (0..3)
        .map(|_| {
            let (stop, path) = (Arc::clone(&stop), path.clone());
            std::thread::spawn(move || {
                let mut answers = 0;
                while !stop.load(Ordering::Relaxed) {
                    let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("connected");
                    stream
                        .write_all(b"GET /two HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
                        .expect("sent");
                    let mut answer = String::new();
                    stream.read_to_string(&mut answer).expect("to the end");
                    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer:?}");
                    answers += 1;
                    std::thread::sleep(Duration::from_millis(1));
                }
                answers
            })
        })
        .collect();
    std::thread::sleep(Duration::from_millis(300));
    let heir = upgraded(&mut node);
    assert!(node.child.wait().expect("ended").success());
    std::thread::sleep(Duration::from_millis(300));
    let listens = status(&node)["listen"].to_string();
    assert!(listens.contains(&format!("unix:{}", path.display())), "{listens}");
    stop.store(true, Ordering::Relaxed);
    let answers: u32 = callers.into_iter().map(|caller| caller.join().expect("no request was lost")).sum();
    assert!(answers > 100, "{answers}");
    heir.signal("TERM");
    heir.until_gone();
}

#[test]
fn metrics_on_a_unix_socket_are_handed_over_and_their_file_goes_with_the_last_process() {
    use std::io::{Read as _, Write as _};
    let origin = Origin::plain();
    let text = text_of(PLAIN, &config(&origin, "x")).replace("\"127.0.0.2:0\"", "\"unix:metrics.sock\"");
    let place = Place::new();
    let path = place.path().join("metrics.sock");
    // One that nobody listens on any more is no obstacle.
    drop(std::os::unix::net::UnixListener::bind(&path).expect("a socket"));
    let mut node = Node::start_whole(place, &text, &[]);
    let page = |target: &str| {
        let mut stream = std::os::unix::net::UnixStream::connect(&path).expect("connected");
        let request = format!("GET {target} HTTP/1.1\r\nHost: metrics.example\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("to the end");
        answer
    };
    assert_eq!(std::fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o660);
    assert!(page("/readyz").ends_with("ok\n"));
    assert!(page("/metrics").contains("ringwall_config_generation 1\n"));
    let heir = upgraded(&mut node);
    assert!(node.child.wait().expect("ended").success());
    assert!(page("/metrics").contains("ringwall_config_generation 2\n"));
    // Elsewhere from the next one on: the file of the one before is gone with it.
    let next = node.place.write("next.yaml", &text.replace("metrics.sock", "elsewhere.sock"));
    std::fs::rename(next, node.place.path().join("ringwall.yaml")).expect("renamed");
    let second = upgraded(&mut node);
    heir.until_gone();
    assert!(!path.exists() && path.with_file_name("elsewhere.sock").exists());
    second.signal("TERM");
    second.until_gone();
    assert!(!path.with_file_name("elsewhere.sock").exists());
}

#[test]
fn usr2_hands_over_and_the_file_of_the_number_follows() {
    let origin = Origin::plain();
    let place = Place::new();
    let pid_file = place.path().join("ringwall.pid");
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwall"));
    command.arg("run").arg("--pid-file").arg(&pid_file);
    let mut node = Node::launch(place, &text_of(PLAIN, &config(&origin, "x")), command);
    let number = || std::fs::read_to_string(&pid_file).expect("a number").trim().parse::<u32>().expect("one");
    assert_eq!(number(), node.child.id());
    node.signal("USR2");
    let line = node.wait_for("RW-6073");
    let process = line.split_once(" to=").expect("to whom").1.split(' ').next().expect("a number");
    let heir = Heir(process.parse().expect("a number"));
    let deadline = Instant::now() + PATIENCE;
    while number() != heir.0 {
        assert!(Instant::now() < deadline, "the number is still that of {}", number());
    }
    assert!(node.child.wait().expect("ended").success());
    assert_eq!(number(), heir.0, "the old one leaves the number of the new one");
    assert_eq!(get(node.address, "/one"), "x");
    heir.signal("TERM");
    heir.until_gone();
    assert!(!pid_file.exists());
}

#[test]
fn a_new_process_that_cannot_start_changes_nothing_and_says_why() {
    let origin = Origin::plain();
    let mut node = Node::start(&config(&origin, "x"));
    let load = Load::start(node.address, 3, 2, &["/one", "/two"], WhenRefused::Fails);
    let good = node.place.path().join("ringwall.yaml");
    let text = std::fs::read_to_string(&good).expect("text");
    // A configuration that is not in order.
    node.rewrite("apis: 7");
    let refused = upgrade(&node, &[]);
    assert_eq!(refused.status.code(), Some(1));
    let told: serde_json::Value = serde_json::from_slice(&refused.stdout).expect("JSON");
    assert!(told["errors"][0]["line"].is_u64() && told["errors"][0]["code"] != "RW-1861", "{told}");
    node.wait_for("RW-6074");
    // An address that is taken.
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = format!("[{PLAIN}, {{ address: \"{}\", tls: none }}]", holder.local_addr().expect("bound"));
    node.place.write("ringwall.yaml", &text_of(&taken, &config(&origin, "x")));
    let refused = upgrade(&node, &[]);
    assert!(String::from_utf8_lossy(&refused.stdout).contains("RW-1190"), "{refused:?}");
    node.place.write("ringwall.yaml", &text);
    // Programs that end, that are none, or that anybody could have put there.
    let program = |name: &str, mode: u32, text: &str| {
        let path = node.place.write(name, text);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("its mode");
        path.display().to_string()
    };
    for (path, why) in [
        (program("ends", 0o755, "#!/bin/sh\nexit 3\n"), "exit status: 3"),
        (program("open", 0o777, "#!/bin/sh\nexit 3\n"), "others can write it"),
        (program("text", 0o644, "no program"), "not executable"),
        (program("strange", 0o755, "#!/nowhere/at/all\n"), "No such file"),
        ("/nowhere/at/all".to_owned(), "No such file"),
    ] {
        let refused = upgrade(&node, &["--binary", &path]);
        let text = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert!(refused.status.code() == Some(1) && text.contains(why), "{path}: {text}");
    }
    load.more(100);
    let tally = load.end();
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert_eq!(status(&node)["process"], node.child.id());
    // And then it goes, after all that.
    let heir = upgraded(&mut node);
    assert_eq!(status(&node)["process"], heir.0);
}

#[test]
fn a_process_that_ends_takes_along_who_was_to_take_over() {
    let origin = Origin::plain();
    let mut node = Node::start(&config(&origin, "x"));
    let number = node.place.path().join("number");
    let program =
        node.place.write("slow", &format!("#!/bin/sh\necho $$ > {}\nexec sleep 60\n", number.display()));
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("its mode");
    let asking = Command::new(env!("CARGO_BIN_EXE_ringwall"))
        .args(["upgrade", "--binary"])
        .arg(&program)
        .arg("--control")
        .arg(node.place.path().join("control.sock"))
        .stderr(Stdio::piped())
        .spawn()
        .expect("ringwall upgrade");
    let deadline = Instant::now() + PATIENCE;
    let heir = loop {
        if let Some(number) = std::fs::read_to_string(&number).ok().and_then(|text| text.trim().parse().ok())
        {
            break Heir(number);
        }
        assert!(Instant::now() < deadline, "it does not start");
    };
    // One at a time; and nothing is read meanwhile.
    let refused = upgrade(&node, &[]);
    assert!(String::from_utf8_lossy(&refused.stdout).contains("RW-1860"), "{refused:?}");
    assert_eq!(get(node.address, "/one"), "x");
    node.signal("HUP");
    node.wait_for("RW-1863");
    node.signal("TERM");
    node.signal("TERM");
    assert!(node.child.wait().expect("ended").success());
    heir.until_gone();
    assert!(!asking.wait_with_output().expect("ended").status.success());
}

#[test]
fn a_new_process_may_have_more_cores_or_fewer_and_other_listeners() {
    let origin = Origin::plain();
    let mut node = Node::start(&config(&origin, "x"));
    let load = Load::start(node.address, 3, 3, &["/one", "/two"], WhenRefused::Fails);
    let mut heirs = Vec::new();
    for cores in [1, 3, 2] {
        let two = format!("[{PLAIN}, {{ address: \"127.0.0.3:0\", tls: none }}]");
        let listen = if cores == 3 { two.as_str() } else { PLAIN };
        let text = text_of(listen, &config(&origin, "x")).replace("cores: 2", &format!("cores: {cores}"));
        let next = node.place.write("next.yaml", &text);
        std::fs::rename(next, node.place.path().join("ringwall.yaml")).expect("renamed");
        heirs.push(upgraded(&mut node));
        let told = status(&node);
        assert_eq!(told["drivers"].as_array().map(Vec::len), Some(cores));
        let listens = told["listen"].as_array().expect("addresses").clone();
        assert_eq!(
            (listens.len(), &listens[0]),
            (listen.matches("address").count(), &node.address.to_string().into())
        );
        load.more(300);
    }
    // Each of the queues that there were is served, also those of a process with more cores: fresh connections are spread over
    // all of them.
    let tally = load.end();
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    for _ in 0..100 {
        assert_eq!(get(node.address, "/one"), "x");
    }
}

#[test]
fn what_is_written_of_the_node_itself_takes_an_upgrade() {
    let origin = Origin::plain();
    let mut node = Node::start(&config(&origin, "x"));
    let text = text_of(PLAIN, &config(&origin, "y")).replace("cores: 2", "cores: 1");
    let next = node.place.write("next.yaml", &text);
    std::fs::rename(next, node.place.path().join("ringwall.yaml")).expect("renamed");
    node.wait_for("RW-6061");
    node.wait_for("RW-6003");
    assert_eq!(get(node.address, "/one"), "y", "all else is in force");
}

// ---- the end

#[test]
fn term_under_load_loses_no_request_and_kept_connections_are_told() {
    let origin = Origin::plain();
    let mut node = Node::start(&config(&origin, "x"));
    let load = Load::start(node.address, 8, 0, &["/one", "/two"], WhenRefused::Ends);
    load.more(1000);
    node.signal("TERM");
    assert!(node.child.wait().expect("ended").success(), "everything that was begun was finished");
    let tally = load.end();
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert!(tally.farewells >= 8, "each connection was told that it ends: {tally:?}");
}

#[test]
fn the_deadline_of_a_drain_is_kept_and_a_second_term_does_not_wait_for_it() {
    for (times, least, most) in
        [(1, Duration::from_secs(1), Duration::from_secs(4)), (2, Duration::ZERO, Duration::from_secs(1))]
    {
        let origin = Origin::start(|_| Reply::Silence);
        let text = text_of(PLAIN, &config(&origin, "x")).replace("drain: 10s", "drain: 1s");
        let mut node = Node::start_whole(Place::new(), &text, &[]);
        let mut stuck = node.connect();
        stuck.send("GET /two HTTP/1.1\r\nHost: a\r\n\r\n");
        origin.next();
        let begun = Instant::now();
        node.signal("TERM");
        node.wait_for("RW-6005");
        if times == 2 {
            node.signal("TERM");
        }
        let ended = node.child.wait().expect("ended");
        let took = begun.elapsed();
        assert!(took >= least && took < most, "{took:?}");
        // What was under way was not finished, and that is said; whoever asks twice wants it so.
        assert_eq!(ended.success(), times == 2);
        assert!(stuck.is_closed());
    }
}

// ---- the service manager

/// What the service manager would hear.
struct Manager {
    socket: UnixDatagram,
    path: std::path::PathBuf,
}

impl Manager {
    fn new(place: &Place) -> Manager {
        let path = place.path().join("notify");
        let socket = UnixDatagram::bind(&path).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Manager { socket, path }
    }

    /// The next message that is no sign of life.
    fn hears(&self) -> String {
        loop {
            let text = self.next();
            if text != "WATCHDOG=1\n" {
                return text;
            }
        }
    }

    fn next(&self) -> String {
        let mut buffer = [0; 1024];
        let count = self.socket.recv(&mut buffer).expect("a message");
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    }
}

#[test]
fn the_service_manager_hears_of_every_turn() {
    let origin = Origin::plain();
    let place = Place::new();
    let manager = Manager::new(&place);
    let notify = manager.path.clone();
    let environment: [(&str, &Path); 2] =
        [("NOTIFY_SOCKET", &notify), ("WATCHDOG_USEC", Path::new("300000"))];
    let mut node = Node::start_whole(place, &text_of(PLAIN, &config(&origin, "x")), &environment);
    assert!(manager.hears().starts_with("READY=1\n"));
    // Type=notify-reload: the time is that of the machine's clock that does not step back.
    let before = ringwall::sys::privileges::monotonic_microseconds();
    node.signal("HUP");
    let reloading = manager.hears();
    let time =
        reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|rest| rest.split('\n').next());
    let time: u64 = time.and_then(|time| time.parse().ok()).unwrap_or_else(|| panic!("{reloading}"));
    assert!(time >= before && time <= ringwall::sys::privileges::monotonic_microseconds());
    assert!(manager.hears().starts_with("READY=1\n"));
    // A bad reload is over as well.
    node.rewrite("apis: 7");
    assert!(manager.hears().starts_with("RELOADING=1\n"));
    assert!(manager.hears().starts_with("READY=1\n"));
    node.rewrite(&config(&origin, "x"));
    assert!(manager.hears().starts_with("RELOADING=1\n"));
    assert!(manager.hears().starts_with("READY=1\n"));
    // Signs of life, from every process in its time.
    while manager.next() != "WATCHDOG=1\n" {}
    let heir = upgraded(&mut node);
    // Two processes speak; the manager of a service takes the second message only if it comes after the first.
    let told = [manager.hears(), manager.hears()];
    for message in [format!("MAINPID={}\n", heir.0), "READY=1\n".to_owned()] {
        assert!(told.iter().any(|told| told.starts_with(&message)), "{message} in {told:?}");
    }
    assert!(node.child.wait().expect("ended").success());
    while manager.next() != "WATCHDOG=1\n" {}
    heir.signal("TERM");
    assert!(manager.hears().starts_with("STOPPING=1\n"), "the old one has not said that the service ends");
    heir.until_gone();
}

#[test]
fn sockets_of_the_service_manager_are_taken_by_their_addresses() {
    let origin = Origin::plain();
    let (ours, strange) = (TcpListener::bind("127.0.0.1:0"), TcpListener::bind("127.0.0.1:0"));
    let (ours, strange) = (ours.expect("a port"), strange.expect("a port"));
    let address = ours.local_addr().expect("bound");
    // Who connects before the service has started is not refused: that is what this is for.
    let mut early = Client::new(TcpStream::connect(address).expect("the manager listens"));
    early.send("GET /one HTTP/1.1\r\nHost: a\r\n\r\n");
    // As systemd does it: descriptors from 3 on, the number of the process in a variable.
    let mut command = Command::new("sh");
    command
        .args(["-c", "export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES=http:other; exec \"$0\" \"$@\" 4<&1 3<&0 </dev/null >/dev/null"])
        .arg(env!("CARGO_BIN_EXE_ringwall"))
        .arg("run");
    if let Ok(driver) = std::env::var("RINGWALL_TEST_DRIVER") {
        command.arg("--driver").arg(driver);
    }
    let listen = format!("{{ address: \"{address}\", tls: none }}");
    let input = Stdio::from(OwnedFd::from(ours.try_clone().expect("a second handle")));
    let output = Stdio::from(OwnedFd::from(strange.try_clone().expect("a second handle")));
    let text = text_of(&listen, &config(&origin, "x"));
    let mut node = Node::launch_with(Place::new(), &text, command, input, output);
    assert!(
        node.lines_so_far().any(|line| line.contains("RW-6078")
            && line.contains(&strange.local_addr().expect("bound").to_string())),
        "{:?}",
        node.lines_so_far().collect::<Vec<_>>()
    );
    assert_eq!(early.answer().text(), "x");
    drop(ours);
    // It cannot be bound a second time, so both cores share it; and so does the next process.
    let load = Load::start(address, 4, 4, &["/one", "/two"], WhenRefused::Fails);
    load.more(300);
    let heir = upgraded(&mut node);
    load.more(300);
    assert!(node.child.wait().expect("ended").success());
    load.more(300);
    let tally = load.end();
    assert!(tally.failures.is_empty(), "{:?}", tally.failures);
    assert_eq!(status(&node)["process"], heir.0);
}

#[test]
fn a_request_that_the_old_process_has_begun_is_finished_by_it() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let origin = Origin::start(move |seen| {
        if seen.head.contains("/two") {
            let _ = wait.lock().expect("one thread at a time").recv_timeout(PATIENCE);
        }
        Reply::Bytes(response("200 OK", "done"))
    });
    let mut node = Node::start(&config(&origin, "x"));
    let mut busy = node.connect();
    busy.send("GET /two HTTP/1.1\r\nHost: a\r\n\r\n");
    origin_has_it(&node);
    let heir = upgraded(&mut node);
    assert_eq!(get(node.address, "/one"), "x", "the new one serves");
    assert!(node.child.try_wait().expect("asked").is_none(), "the old one waits for what it has begun");
    // It takes no configuration any more, which would open its listeners again beside those of the new one.
    node.signal("HUP");
    node.wait_for("RW-1864");
    node.rewrite(&config(&origin, "y"));
    node.wait_for("RW-6003");
    for _ in 0..20 {
        assert_eq!(get(node.address, "/one"), "y");
    }
    go.send(()).expect("the origin waits");
    let answer = busy.answer();
    assert_eq!(
        (answer.status, answer.text().as_str(), answer.field("connection")),
        (200, "done", Some("close"))
    );
    assert!(node.child.wait().expect("ended").success());
    let taken = node.lines_so_far().filter(|line| line.contains("RW-6003") || line.contains("RW-6070"));
    assert_eq!(taken.count(), 1, "{:?}", node.lines_so_far().collect::<Vec<_>>());
    drop(heir);
}

/// Waits until a request is with the origin: a connection to it is open.
fn origin_has_it(node: &Node) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let page = fetch(node, "/metrics");
        let open = page.lines().filter(|line| line.starts_with("ringwall_upstream_connections"));
        if open.clone().any(|line| !line.ends_with(" 0")) {
            return;
        }
        assert!(Instant::now() < deadline, "{page}");
    }
}
