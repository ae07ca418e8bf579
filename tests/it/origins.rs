//! The corpus of `tests/desync` through Ringwall to servers that nobody here wrote: none of them sees a request that
//! Ringwall did not log as one, with the same method and path.
//!
//! Each request that goes upstream bears the id that stands in the log, and each server writes the ids that it saw: a
//! request that somebody smuggled bears none, or one twice.

use std::collections::HashMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::desync::{LISTEN, config};
use crate::desync_cases::cases;
use crate::downgrade;
use crate::nginx::free_address;
use crate::node::{Node, PATIENCE, Place, Server};
use crate::paths::{corpus, decoded};

/// A server of somebody else's, and where it writes what it is asked: lines `ID METHOD TARGET`, more behind them or not.
struct Foreign {
    server: Server,
    log: PathBuf,
    _place: Place,
}

impl Foreign {
    /// Starts what `prepare` makes of an address, a place for its files, and the file that its log must be.
    fn start(address: SocketAddr, prepare: impl FnOnce(&Place, &Path) -> Command) -> Foreign {
        let place = Place::new();
        let log = place.path().join("asked.log");
        std::fs::write(&log, "").expect("a log");
        open_to_all(place.path());
        open_to_all(&log);
        let mut command = prepare(&place, &log);
        let errors = std::fs::File::create(place.path().join("stderr")).expect("a file");
        command.stdin(Stdio::null()).stderr(errors).env("HOME", place.path());
        command.env("XDG_DATA_HOME", place.path()).env("XDG_CONFIG_HOME", place.path());
        let name = command.get_program().to_owned();
        let server = Server(command.spawn().unwrap_or_else(|error| panic!("{name:?}: {error}")));
        let foreign = Foreign { server, log, _place: place };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(address).is_err() {
            let errors = std::fs::read_to_string(foreign.log.with_file_name("stderr")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{name:?} does not listen: {errors}");
            std::thread::sleep(Duration::from_millis(5));
        }
        foreign
    }

    /// Ends it in its own way, so that it writes what it still holds; gives the lines of its log.
    fn end(mut self) -> Vec<String> {
        self.ask_to_end();
        let deadline = Instant::now() + PATIENCE;
        while self.server.0.try_wait().expect("its state").is_none() {
            assert!(Instant::now() < deadline, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
        let text = std::fs::read(&self.log).expect("its log");
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }

    fn ask_to_end(&self) {
        let _ = Command::new("kill").arg("-TERM").arg(self.server.0.id().to_string()).status();
    }
}

impl Drop for Foreign {
    /// Where a test fails, servers with children still end them.
    fn drop(&mut self) {
        if matches!(self.server.0.try_wait(), Ok(None)) {
            self.ask_to_end();
            let deadline = Instant::now() + Duration::from_secs(5);
            while matches!(self.server.0.try_wait(), Ok(None)) && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

/// A server that is told all by a file: the last of its arguments, with what `text` says of its address, its folder and its log.
fn configured(
    address: SocketAddr,
    (program, arguments): (&str, &[&str]),
    file: &str,
    text: impl FnOnce(&str, &str) -> String,
) -> Foreign {
    Foreign::start(address, |place, log| {
        let file = place.write(file, &text(path_in_text(place.path()), path_in_text(log)));
        let mut command = Command::new(program);
        command.args(arguments).arg(file).current_dir(place.path()).stdout(Stdio::null());
        command
    })
}

fn path_in_text(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// Servers that are started by root leave it behind.
fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777)).expect("its mode");
}

/// Sends the whole corpus, that of HTTP/2 too, through a node to `address` and compares the two logs. `line` makes the form of the
/// others of a log line that has another.
fn compare(address: SocketAddr, foreign: Foreign, line: impl Fn(&str) -> String) {
    let text = crate::node::text_of(&format!("[{LISTEN}, {}]", downgrade::LISTEN), &config(address));
    let mut node = Node::start_whole(Place::new(), &text, &[]);
    let cases = cases(false);
    let mut lines = 0;
    for case in &cases {
        let mut client = TcpStream::connect(node.address).expect("connected");
        client.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let _ = client.write_all(&case.sent);
        let _ = client.shutdown(std::net::Shutdown::Write);
        let mut answers = Vec::new();
        let _ = std::io::Read::read_to_end(&mut client, &mut answers);
        lines +=
            case.outcomes.iter().filter(|outcome| **outcome != crate::desync_cases::Outcome::Closed).count();
    }
    lines += downgrade::send_all(node.addresses[1]);
    // All that was sent is logged when it has ended, whatever became of it.
    node.signal("TERM");
    assert!(node.child.wait().expect("it ends").success());
    let log = node.log(lines);
    drop(node);
    let seen: Vec<String> = foreign.end().iter().map(|text| line(text)).collect();

    // What Ringwall says it sent: method, path, how often, and whether an answer came of it.
    let mut sent: HashMap<&str, (&str, &str, u64)> = HashMap::new();
    let mut answered = 0;
    for entry in log.iter().filter(|entry| entry["tries"].as_u64().unwrap_or_default() > 0) {
        let word = |name: &str| entry[name].as_str().unwrap_or_else(|| panic!("{name} in {entry}"));
        let of = (word("method"), word("path"), entry["tries"].as_u64().unwrap_or_default());
        assert!(sent.insert(word("request_id"), of).is_none(), "an id twice: {entry}");
        answered += usize::from(entry["reason"].is_null());
    }
    assert!(answered > 60, "{answered} of {} answered: {log:#?}", sent.len());
    let mut times: HashMap<&str, u64> = HashMap::new();
    let mut nameless = 0;
    for line in &seen {
        let mut words = line.split(' ');
        let mut word = || words.next().unwrap_or_default();
        let (id, method, target) = (word(), word(), word());
        if (id, method, target) == ("-", "", "") {
            // A request with a method that this server does not know, and of which it tells no more.
            nameless += 1;
            continue;
        }
        let (sent_method, sent_path, tries) =
            sent.get(id).unwrap_or_else(|| panic!("nobody sent {line:?}; {} requests were sent", sent.len()));
        // What an origin says of an empty query is its own affair.
        let plain = |target: &'_ str| target.strip_suffix('?').unwrap_or(target).to_owned();
        assert_eq!((method, plain(target)), (*sent_method, plain(sent_path)), "{line}");
        let count = times.entry(id).or_default();
        *count += 1;
        assert!(*count <= *tries, "{line}: {count} times, sent {tries} times");
    }
    let strange = sent.iter().filter(|(id, of)| of.0 == "HELLO" && !times.contains_key(*id)).count();
    assert!(
        nameless <= strange,
        "{nameless} lines without id and method, {strange} requests that they could be"
    );
    println!("{} cases, {} requests sent, {} seen", cases.len(), sent.len(), seen.len());
    // It did tell what it saw.
    assert!(times.len() + nameless >= answered, "{} of {answered} seen", times.len());
}

fn as_it_is(line: &str) -> String {
    line.to_owned()
}

#[test]
fn nginx_sees_what_was_logged() {
    let address = free_address();
    let foreign = configured(address, ("nginx", &["-p", ".", "-c"]), "nginx.conf", |dir, log| {
        format!(
            "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/error.log; events {{}}
             http {{ log_format asked '$http_x_request_id $request'; access_log {log} asked;
               client_body_temp_path {dir}/b; proxy_temp_path {dir}/p; fastcgi_temp_path {dir}/f;
               uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s; underscores_in_headers on;
               server {{ listen {address}; location / {{ return 200 ok; }} }} }}"
        )
    });
    compare(address, foreign, as_it_is);
}

/// nginx tells beside each target what it reads in it, slashes merged, dots resolved, escapes decoded: of what Ringwall lets
/// through that is the path of the log, decoded and no more.
#[test]
fn nginx_reads_each_path_as_it_was_logged() {
    let address = free_address();
    let foreign = configured(address, ("nginx", &["-p", ".", "-c"]), "nginx.conf", |dir, log| {
        format!(
            "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/error.log; events {{}}
             http {{ log_format asked escape=none '$http_x_request_id $request_uri $uri';
               access_log {log} asked; client_body_temp_path {dir}/b; proxy_temp_path {dir}/p;
               fastcgi_temp_path {dir}/f; uwsgi_temp_path {dir}/u; scgi_temp_path {dir}/s;
               server {{ listen {address}; location / {{ return 200 ok; }} }} }}"
        )
    });
    let node = Node::start_whole(Place::new(), &crate::node::text_of(LISTEN, &config(address)), &[]);
    let corpus = corpus();
    let mut client = node.connect();
    for target in &corpus {
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a.example\r\n\r\n"));
        if client.answer().field("connection") == Some("close") {
            client = node.connect();
        }
    }
    let log = node.log(corpus.len());
    let logged: HashMap<&str, &str> = log
        .iter()
        .filter(|entry| entry["status"] == 200)
        .map(|entry| (entry["request_id"].as_str().expect("an id"), entry["path"].as_str().expect("a path")))
        .collect();
    let seen = foreign.end();
    assert!(seen.len() == logged.len() && seen.len() > 300, "{} seen, {} logged", seen.len(), logged.len());
    for line in &seen {
        let mut words = line.splitn(3, ' ');
        let mut word = || words.next().unwrap_or_default();
        let (id, target, read) = (word(), word(), word());
        let path = target.split('?').next().unwrap_or_default();
        assert_eq!(logged.get(id).and_then(|path| path.split('?').next()), Some(path), "{line}");
        let merged = String::from_utf8(decoded(path.as_bytes())).expect("UTF-8");
        // Kept encoded slashes are slashes to nginx, which merges them where it is not told otherwise.
        let merged = if path.starts_with("/files") { merged.replace("//", "/") } else { merged };
        assert_eq!(merged, read, "{line}");
    }
}

#[test]
fn apache_sees_what_was_logged() {
    let address = free_address();
    let foreign = configured(address, ("apache2", &["-DFOREGROUND", "-f"]), "apache.conf", |dir, log| {
        format!(
            "ServerRoot /usr/lib/apache2
             LoadModule mpm_event_module modules/mod_mpm_event.so
             LoadModule authz_core_module modules/mod_authz_core.so
             ServerName a.example\nListen {address}\nPidFile {dir}/apache.pid\nErrorLog {dir}/error.log
             DefaultRuntimeDir {dir}\nMutex file:{dir}\nUser www-data\nGroup www-data
             StartServers 1\nThreadsPerChild 16\nMaxRequestWorkers 16\nMinSpareThreads 1\nMaxSpareThreads 16
             KeepAlive On\nKeepAliveTimeout 10\nTimeout 10\nAllowEncodedSlashes NoDecode
             DocumentRoot {dir}\nLogFormat \"%{{X-Request-Id}}i %r\" asked\nCustomLog {log} asked\n"
        )
    });
    compare(address, foreign, as_it_is);
}

#[test]
fn haproxy_sees_what_was_logged() {
    let address = free_address();
    let foreign = Foreign::start(address, |place, log| {
        let text = format!(
            "global\n  log stdout format raw local0\ndefaults\n  mode http\n  timeout client 10s\n  timeout connect 1s
  timeout server 10s\nfrontend all\n  bind {address}\n  log global\n  option dontlognull
  http-request capture req.hdr(x-request-id) len 64\n  log-format \"%[capture.req.hdr(0)] %HM %HU\"
  http-request return status 200 content-type text/plain string ok\n"
        );
        let file = place.write("haproxy.cfg", &text);
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(file).stdout(std::fs::File::create(log).expect("its log"));
        command
    });
    compare(address, foreign, as_it_is);
}

#[test]
fn lighttpd_sees_what_was_logged() {
    let address = free_address();
    let foreign = configured(address, ("lighttpd", &["-D", "-f"]), "lighttpd.conf", |dir, log| {
        format!(
            "server.modules = ( \"mod_accesslog\" )\nserver.document-root = \"{dir}\"\nserver.bind = \"{host}\"
server.port = {port}\nserver.errorlog = \"{dir}/error.log\"\naccesslog.filename = \"{log}\"
accesslog.format = \"%{{X-Request-Id}}i %r\"\n",
            host = address.ip(),
            port = address.port(),
        )
    });
    compare(address, foreign, as_it_is);
}

#[test]
fn caddy_sees_what_was_logged() {
    let address = free_address();
    let foreign = configured(
        address,
        ("caddy", &["run", "--adapter", "caddyfile", "--config"]),
        "Caddyfile",
        |_, log| {
            format!(
                "{{\n  admin off\n  auto_https off\n}}
http://:{port} {{\n  bind {host}\n  log {{\n    output file {log}\n    format json\n  }}\n  respond ok\n}}\n",
                host = address.ip(),
                port = address.port(),
            )
        },
    );
    compare(address, foreign, |line| {
        let entry: serde_json::Value = serde_json::from_str(line).expect("JSON");
        let request = &entry["request"];
        let id = request["headers"]["X-Request-Id"][0].as_str().unwrap_or("-");
        let word = |name: &str| request[name].as_str().unwrap_or("-").to_owned();
        format!("{id} {} {}", word("method"), word("uri"))
    });
}

/// A script of `tests/it/origins` with the address and the log as its arguments.
fn script(program: &str, file: &str, address: SocketAddr) -> Foreign {
    Foreign::start(address, |_, log| {
        let mut command = Command::new(program);
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/origins").join(file));
        command.args([address.ip().to_string(), address.port().to_string()]).arg(log).stdout(Stdio::null());
        command
    })
}

#[test]
fn node_js_sees_what_was_logged() {
    let address = free_address();
    compare(address, script("node", "server.mjs", address), as_it_is);
}

#[test]
fn http_server_of_python_sees_what_was_logged() {
    let address = free_address();
    compare(address, script("python3", "server.py", address), as_it_is);
}

#[test]
fn gunicorn_sees_what_was_logged() {
    let address = free_address();
    let foreign = Foreign::start(address, |_, log| {
        let mut command = Command::new("gunicorn");
        command.arg("--bind").arg(address.to_string()).args(["--worker-class", "gthread", "--threads", "8"]);
        command.args(["--keep-alive", "10", "--graceful-timeout", "1", "--worker-tmp-dir", "/dev/shm"]);
        command.args(["--access-logformat", "%({x-request-id}i)s %(r)s", "--access-logfile"]).arg(log);
        command.arg("--pythonpath").arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/origins"));
        command.arg("app:app").env("PYTHONDONTWRITEBYTECODE", "1").stdout(Stdio::null());
        command
    });
    compare(address, foreign, as_it_is);
}
