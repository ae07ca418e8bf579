//! The programs under test: which there are, how each is started with its committed configuration, how it ends.
//!
//! Called by `compare`. A contender lives as long as its [`Running`]; dropping that ends it, by its id.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::material::{AUDIENCE, HOST, ISSUER, Material};
use crate::sys;

/// How long a contender may take until its listener accepts.
const START_MAX: Duration = Duration::from_secs(15);
/// How long it may take to end before it is killed.
const STOP_MAX: Duration = Duration::from_secs(3);

/// A kind of contender.
#[derive(Debug)]
pub struct Kind {
    /// As scenarios and tables name it.
    pub name: &'static str,
    /// The folder of its configurations under `peers/`, and its program.
    pub family: &'static str,
    /// The configuration it takes unless the scenario says otherwise.
    config: &'static str,
    /// How its configuration files end; nothing if it has none.
    pub ending: &'static str,
    /// It moves bytes and knows no HTTP: one of those that make the floor.
    pub is_pump: bool,
}

const fn kind(
    name: &'static str,
    family: &'static str,
    config: &'static str,
    ending: &'static str,
    is_pump: bool,
) -> Kind {
    Kind { name, family, config, ending, is_pump }
}

/// All of them, in the order of the tables.
pub const KINDS: [Kind; 9] = [
    kind("ringwall", "ringwall", "default", "yaml", false),
    kind("pump", "pump", "", "", true),
    kind("nginx-stream", "nginx", "stream", "conf", true),
    kind("haproxy-tcp", "haproxy", "tcp", "cfg", true),
    kind("nginx-http", "nginx", "http", "conf", false),
    kind("haproxy-http", "haproxy", "http", "cfg", false),
    kind("envoy", "envoy", "default", "yaml", false),
    kind("caddy", "caddy", "default", "caddyfile", false),
    kind("h2o", "h2o", "default", "conf", false),
];

/// A contender that is there: a kind and a build of it.
#[derive(Clone, Debug)]
pub struct Contender {
    /// The kind's name, with `@LABEL` for an additional build.
    pub name: String,
    /// What it is.
    pub kind: &'static Kind,
    /// Its program.
    pub program: PathBuf,
    /// What the program says its version is.
    pub version: String,
}

/// Where programs and configurations are found, and what they get.
#[derive(Clone, Debug)]
pub struct Places {
    /// `loadtest/peers`.
    pub peers: PathBuf,
    /// Where each contender gets a folder of its own.
    pub work: PathBuf,
    /// The build directory: `venv/bin` there is searched first.
    pub target: PathBuf,
    /// Ringwall's binary.
    pub ringwall: PathBuf,
    /// Ringwall's and the pump's `--driver`.
    pub driver: String,
    /// The pump's `--way`.
    pub way: String,
    /// The CPU that the contender gets.
    pub cpu: usize,
}

impl Contender {
    /// Those that are installed; for the others a line that says what is missing.
    pub fn installed(places: &Places, peers: &[(String, PathBuf)]) -> (Vec<Self>, Vec<String>) {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for kind in &KINDS {
            let replaced = peers.iter().find(|(name, _)| name == kind.family).map(|(_, path)| path.clone());
            match replaced.or_else(|| find(places, kind.family)) {
                Some(program) => found.push(Self::new(kind.name.to_owned(), kind, program)),
                None => missing.push(format!("{}: no program `{}` found", kind.name, kind.family)),
            }
            for (name, path) in peers {
                if let Some(label) = name.strip_prefix(kind.family).and_then(|rest| rest.strip_prefix('-')) {
                    found.push(Self::new(format!("{}@{label}", kind.name), kind, path.clone()));
                }
            }
        }
        for (name, _) in peers {
            let family = name.split('-').next().unwrap_or_default();
            if !KINDS.iter().any(|kind| kind.family == family) {
                missing
                    .push(format!("--peer {name}: not one of nginx, haproxy, envoy, caddy, h2o, ringwall"));
            }
        }
        (found, missing)
    }

    fn new(name: String, kind: &'static Kind, program: PathBuf) -> Self {
        let version = version(kind.family, &program);
        Self { name, kind, program, version }
    }

    /// Starts it, with the configuration `config` of its family if there is such, and waits until it accepts.
    ///
    /// # Errors
    /// The configuration cannot be written, the program cannot be started, ends at once, or does not listen in time: in
    /// each case with the end of what it printed.
    pub fn start(
        &self,
        places: &Places,
        material: &Material,
        backend: &Running,
        config: Option<&str>,
    ) -> Result<Running, String> {
        let directory = places.work.join(&self.name);
        let wrong = |error: io::Error| format!("{}: {}: {error}", self.name, directory.display());
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join("log")).map_err(wrong)?;
        let directory = fs::canonicalize(&directory).map_err(wrong)?;
        let [plain, tls, metrics, trusted] = free_ports().map_err(wrong)?;
        let file = if self.kind.ending.is_empty() {
            PathBuf::new()
        } else {
            let name = format!("{}.{}", config.unwrap_or(self.kind.config), self.kind.ending);
            let values = values(
                &directory,
                material,
                (backend.plain, backend.tls),
                (plain, tls, metrics, trusted),
                &places.peers.join(self.kind.family),
            );
            fill(&places.peers.join(self.kind.family).join(&name), &directory.join(&name), &values)?
        };
        let output = File::create(directory.join("output.txt")).map_err(wrong)?;
        let mut command = self.command(places, &file, &directory, plain, backend.plain);
        command.current_dir(&directory).stdin(Stdio::null());
        command.stdout(output.try_clone().map_err(wrong)?).stderr(output);
        let child = sys::spawn(&mut command, Some(places.cpu)).map_err(wrong)?;
        let mut running = Running {
            name: self.name.clone(),
            kind: self.kind,
            child,
            plain,
            tls,
            trusted,
            metrics,
            directory,
        };
        running.wait_for(plain)?;
        if running.kind.family == "ringwall" {
            running.wait_for(metrics)?;
        }
        Ok(running)
    }

    fn command(
        &self,
        places: &Places,
        file: &Path,
        directory: &Path,
        plain: SocketAddrV4,
        backend: SocketAddrV4,
    ) -> Command {
        let mut command = Command::new(&self.program);
        match self.kind.family {
            "pump" => command
                .args(["pump", "--listen", &plain.to_string(), "--to", &backend.to_string()])
                .args(["--driver", &places.driver, "--way", &places.way]),
            "ringwall" => command.arg("run").arg("-c").arg(file).args(["--driver", &places.driver]),
            "nginx" => command
                .arg("-c")
                .arg(file)
                .arg("-p")
                .arg(directory)
                .arg("-e")
                .arg(directory.join("error.log")),
            "haproxy" => command.arg("-db").arg("-f").arg(file),
            "h2o" => command.arg("-m").arg("worker").arg("-c").arg(file),
            "envoy" => command.arg("-c").arg(file).args([
                "--concurrency",
                "1",
                "--disable-hot-restart",
                "--log-level",
                "error",
            ]),
            _ => command
                .args(["run", "--adapter", "caddyfile", "--config"])
                .arg(file)
                .env("GOMAXPROCS", "1")
                .env("HOME", directory)
                .env("XDG_DATA_HOME", directory)
                .env("XDG_CONFIG_HOME", directory),
        };
        command
    }
}

/// Starts the backend on its CPU.
///
/// # Errors
/// It cannot be started or does not listen in time.
pub fn start_backend(work: &Path, material: &Material, cpu: usize) -> Result<Running, String> {
    let wrong = |error: io::Error| format!("backend: {error}");
    let directory = work.join("backend");
    fs::create_dir_all(&directory).map_err(wrong)?;
    let [address, tls, unused] = free_ports().map_err(wrong)?;
    let output = File::create(directory.join("output.txt")).map_err(wrong)?;
    let mut command = Command::new(std::env::current_exe().map_err(wrong)?);
    command.args(["backend", "--listen", &address.to_string(), "--tls", &tls.to_string()]);
    command.arg("--cert").arg(&material.certificate_file).arg("--key").arg(&material.key_file);
    command.stdin(Stdio::null());
    command.stdout(output.try_clone().map_err(wrong)?).stderr(output);
    let child = sys::spawn(&mut command, Some(cpu)).map_err(wrong)?;
    let mut running = Running {
        name: "backend".to_owned(),
        kind: &KINDS[1],
        child,
        plain: address,
        tls,
        trusted: unused,
        metrics: unused,
        directory,
    };
    running.wait_for(address)?;
    Ok(running)
}

/// A started process. Dropping it ends it.
pub struct Running {
    /// The contender's name.
    pub name: String,
    /// What it is.
    pub kind: &'static Kind,
    child: Child,
    /// Where it takes plain HTTP.
    pub plain: SocketAddrV4,
    /// Where it takes TLS.
    pub tls: SocketAddrV4,
    /// Where it takes plain HTTP and believes what the peer says of the client's address, if its configuration has that.
    pub trusted: SocketAddrV4,
    metrics: SocketAddrV4,
    directory: PathBuf,
}

impl Running {
    /// The id of its first process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Which driver Ringwall says its data threads run on, from its metrics: `Ok` if every one runs on io_uring.
    ///
    /// # Errors
    /// What it says instead.
    pub fn io_uring(&self) -> Result<String, String> {
        let text = fetch(self.metrics, "/metrics").map_err(|error| format!("no metrics: {error}"))?;
        driver_in(&text)
    }

    /// Refusals by reason, from Ringwall's metrics; empty for others.
    pub fn refusals(&self) -> BTreeMap<String, f64> {
        let text =
            if self.kind.family == "ringwall" { fetch(self.metrics, "/metrics") } else { Ok(String::new()) };
        refusals_in(&text.unwrap_or_default())
    }

    /// Whether its first process runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Forgets what a log on disk has gathered, so that long comparisons do not fill it.
    pub fn trim_log(&self) {
        if let Ok(log) = File::options().write(true).open(self.directory.join("log/access.jsonl")) {
            let _ = log.set_len(0);
        }
    }

    /// The end of what it printed.
    pub fn last_words(&self) -> String {
        let text = fs::read(self.directory.join("output.txt")).unwrap_or_default();
        let text = String::from_utf8_lossy(&text[text.len().saturating_sub(1_500)..]).into_owned();
        format!("{} printed:\n{}", self.name, text.trim_end())
    }

    fn wait_for(&mut self, address: SocketAddrV4) -> Result<(), String> {
        let begin = Instant::now();
        while TcpStream::connect_timeout(&address.into(), Duration::from_millis(200)).is_err() {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("{} ended at once ({status}). {}", self.name, self.last_words()));
            }
            if begin.elapsed() > START_MAX {
                return Err(format!("{} does not listen on {address}. {}", self.name, self.last_words()));
            }
            std::thread::sleep(Duration::from_millis(30));
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let pid = self.child.id().cast_signed();
        if let Ok(None) = self.child.try_wait() {
            let _ = sys::signal(pid, libc::SIGTERM);
        }
        let begin = Instant::now();
        while let Ok(None) = self.child.try_wait() {
            if begin.elapsed() > STOP_MAX {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // What is left of its group: itself if it did not listen, workers that outlived their master.
        let _ = sys::signal(-pid, libc::SIGKILL);
        let _ = self.child.wait();
    }
}

/// Loopback addresses that were free a moment ago.
pub fn free_ports<const N: usize>() -> io::Result<[SocketAddrV4; N]> {
    let held = [(); N].map(|()| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let mut addresses = [SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0); N];
    for (listener, address) in held.into_iter().zip(&mut addresses) {
        address.set_port(listener?.local_addr()?.port());
    }
    Ok(addresses)
}

fn find(places: &Places, family: &str) -> Option<PathBuf> {
    let program = |path: PathBuf| path.is_file().then_some(path);
    match family {
        "pump" => std::env::current_exe().ok(),
        "ringwall" => program(places.ringwall.clone()),
        "envoy" | "caddy" | "nginx" | "haproxy" | "h2o" => {
            let path = std::env::var_os("PATH").unwrap_or_default();
            let directories = std::env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
            program(places.target.join("venv/bin").join(family))
                .or_else(|| directories.map(|directory| directory.join(family)).find_map(program))
        }
        _ => None,
    }
}

fn version(family: &str, program: &Path) -> String {
    let argument = match family {
        "nginx" | "haproxy" => "-v",
        "caddy" | "ringwall" => "version",
        "envoy" | "h2o" => "--version",
        _ => return env!("CARGO_PKG_VERSION").to_owned(),
    };
    let Ok(output) = Command::new(program).arg(argument).stdin(Stdio::null()).output() else {
        return "unknown".to_owned();
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.bytes().any(|byte| byte.is_ascii_digit())).unwrap_or("unknown");
    // Some begin with their own path, which is nobody's business.
    let said = line.trim().trim_start_matches(&*program.to_string_lossy()).trim_start();
    said.chars().take(100).collect()
}

type Addresses = (SocketAddrV4, SocketAddrV4, SocketAddrV4, SocketAddrV4);

fn values(
    directory: &Path,
    material: &Material,
    (backend, backend_tls): (SocketAddrV4, SocketAddrV4),
    (plain, tls, metrics, trusted): Addresses,
    peers: &Path,
) -> BTreeMap<&'static str, String> {
    let peers = fs::canonicalize(peers).unwrap_or_else(|_| peers.to_owned());
    BTreeMap::from([
        ("PLAIN", plain.to_string()),
        ("PLAIN_PORT", plain.port().to_string()),
        ("TLS", tls.to_string()),
        ("TLS_PORT", tls.port().to_string()),
        ("TRUSTED", trusted.to_string()),
        ("METRICS", metrics.to_string()),
        ("BACKEND", backend.to_string()),
        ("BACKEND_PORT", backend.port().to_string()),
        ("BACKEND_TLS", backend_tls.to_string()),
        ("BACKEND_TLS_PORT", backend_tls.port().to_string()),
        ("DIR", directory.display().to_string()),
        ("PEER", peers.display().to_string()),
        ("CERT", material.certificate_file.display().to_string()),
        ("KEY", material.key_file.display().to_string()),
        ("CERT_AND_KEY", material.both_file.display().to_string()),
        ("JWKS", material.jwks_file.display().to_string()),
        ("ISSUER", ISSUER.to_owned()),
        ("AUDIENCE", AUDIENCE.to_owned()),
        ("HOST", HOST.to_owned()),
        ("NGINX_STREAM_MODULE", nginx_stream_module()),
    ])
}

/// Debian ships nginx's stream as a module; other builds have it inside.
fn nginx_stream_module() -> String {
    let module = "/usr/lib/nginx/modules/ngx_stream_module.so";
    if Path::new(module).exists() { format!("load_module {module};") } else { String::new() }
}

/// Writes the template `from` as `to` with each `{{NAME}}` replaced.
fn fill(from: &Path, to: &Path, values: &BTreeMap<&'static str, String>) -> Result<PathBuf, String> {
    let wrong = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
    let template = fs::read_to_string(from).map_err(|error| wrong(from, error))?;
    let text = replaced(&template, values)
        .map_err(|name| format!("{}: nothing is called {{{{{name}}}}}", from.display()))?;
    fs::write(to, text).map_err(|error| wrong(to, error))?;
    Ok(to.to_owned())
}

/// The template with each `{{NAME}}` replaced.
///
/// # Errors
/// The name that nothing is called.
pub fn replaced(template: &str, values: &BTreeMap<&'static str, String>) -> Result<String, String> {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else { break };
        text.push_str(before);
        text.push_str(values.get(name).ok_or_else(|| name.to_owned())?);
        rest = after;
    }
    Ok(text + rest)
}

/// One plain GET, for the metrics.
///
/// # Errors
/// Nobody answers in time.
pub fn fetch(address: SocketAddrV4, path: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address.into(), Duration::from_secs(2))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut text = Vec::new();
    stream.read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The counts of `ringwall_refusals_total` by reason, those that are not zero.
fn refusals_in(metrics: &str) -> BTreeMap<String, f64> {
    let mut refusals = BTreeMap::new();
    for line in metrics.lines().filter(|line| line.starts_with("ringwall_refusals_total{")) {
        let reason = line.split_once("reason=\"").and_then(|(_, rest)| rest.split('"').next());
        let count = line.rsplit(' ').next().and_then(|count| count.parse::<f64>().ok()).filter(|n| *n > 0.0);
        if let (Some(reason), Some(count)) = (reason, count) {
            *refusals.entry(reason.to_owned()).or_default() += count;
        }
    }
    refusals
}

/// The drivers in `ringwall_driver_info`, if all are io_uring.
fn driver_in(metrics: &str) -> Result<String, String> {
    let mut drivers: Vec<&str> = metrics
        .lines()
        .filter(|line| line.starts_with("ringwall_driver_info{") && !line.ends_with(" 0"))
        .filter_map(|line| line.split_once("driver=\"")?.1.split('"').next())
        .collect();
    drivers.sort_unstable();
    drivers.dedup();
    let named = drivers.join(", ");
    match drivers.as_slice() {
        [] => Err("the metrics name no driver".to_owned()),
        drivers if drivers.iter().all(|driver| driver.starts_with("io_uring")) => Ok(named),
        _ => Err(named),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_uring_is_believed_only_of_every_thread() {
        let line = |driver: &str, core: u8, on: u8| {
            format!("ringwall_driver_info{{core=\"{core}\",driver=\"{driver}\"}} {on}\n")
        };
        assert_eq!(driver_in(&line("io_uring", 0, 1)), Ok("io_uring".to_owned()));
        assert_eq!(driver_in(&(line("io_uring", 0, 1) + &line("epoll", 0, 0))), Ok("io_uring".to_owned()));
        assert_eq!(
            driver_in(&(line("io_uring", 0, 1) + &line("epoll", 1, 1))),
            Err("epoll, io_uring".to_owned())
        );
        assert!(driver_in("# TYPE ringwall_driver_info gauge\n").is_err());
    }

    #[test]
    fn refusals_add_up_over_operations() {
        let text = "ringwall_refusals_total{api=\"a\",reason=\"x\"} 2\nringwall_refusals_total{api=\"b\",reason=\"x\"} 3\n\
                    ringwall_refusals_total{api=\"b\",reason=\"y\"} 0\n";
        assert_eq!(refusals_in(text), BTreeMap::from([("x".to_owned(), 5.0)]));
    }

    #[test]
    fn templates_are_filled_and_unknown_names_refused() {
        let values = BTreeMap::from([("A", "1".to_owned()), ("B", "2".to_owned())]);
        assert_eq!(replaced("x{{A}}y{{B}}{ {{A}}", &values), Ok("x1y2{ 1".to_owned()));
        assert_eq!(replaced("{{C}}", &values), Err("C".to_owned()));
    }

    #[test]
    fn every_committed_template_is_filled() {
        let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
        let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 1);
        let directory = std::env::temp_dir().join(format!("ringwall-loadtest-fill-{}", std::process::id()));
        fs::create_dir_all(&directory).unwrap();
        let material = Material::make(&directory).unwrap();
        for kind in KINDS.iter().filter(|kind| !kind.ending.is_empty()) {
            let values = values(
                &directory,
                &material,
                (address, address),
                (address, address, address, address),
                &peers.join(kind.family),
            );
            for entry in fs::read_dir(peers.join(kind.family)).unwrap().flatten() {
                if entry.path().extension().is_some_and(|ending| ending == kind.ending) {
                    fill(&entry.path(), &directory.join("filled"), &values).unwrap();
                }
            }
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
