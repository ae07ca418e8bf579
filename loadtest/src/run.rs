//! `run`: load on any URL, closed or open loop, and what came back.

use std::io::Read;
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use indicatif::ProgressBar;
use rustls::pki_types::ServerName;
use serde_json::json;

use crate::backend;
use crate::client::{Client, Expect, Pace, Protocol, Tally, Target, Watch, tls, websocket};
use crate::compare::progress;
use crate::sys;

/// Options of the `run` subcommand.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// http:// or https:// URL.
    #[arg(long)]
    pub url: String,
    /// Requests a second, evenly spaced (open loop) [default: as fast as answers come (closed loop)].
    #[arg(long)]
    pub rate: Option<f64>,
    /// Connections.
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// Seconds that count.
    #[arg(long, default_value_t = 10.0)]
    pub duration: f64,
    /// Seconds before them that do not.
    #[arg(long, default_value_t = 1.0)]
    pub warm_up: f64,
    /// Method.
    #[arg(long, default_value = "GET")]
    pub method: String,
    /// A field to send, `NAME: VALUE`; may be repeated.
    #[arg(long = "header", value_name = "FIELD")]
    pub headers: Vec<String>,
    /// A file to send as the body; `-` is standard input.
    #[arg(long, value_name = "FILE")]
    pub body: Option<PathBuf>,
    /// HTTP/2, with so many requests at once on each connection: by ALPN with https, else as known beforehand [default:
    /// HTTP/1.1].
    #[arg(long, value_name = "N")]
    pub streams: Option<usize>,
    /// WebSocket, with messages of so many bytes instead of requests: each must come back.
    #[arg(long, value_name = "BYTES", conflicts_with_all = ["streams", "method", "body", "no_keep_alive", "status"])]
    pub websocket: Option<usize>,
    /// A connection per request.
    #[arg(long)]
    pub no_keep_alive: bool,
    /// The status that every answer must have [default: any].
    #[arg(long)]
    pub status: Option<u16>,
    /// PEM file of roots to trust [default: the system's].
    #[arg(long, value_name = "FILE")]
    pub cacert: Option<PathBuf>,
    /// CPU to run on [default: any].
    #[arg(long)]
    pub cpu: Option<usize>,
    /// Print one JSON object instead of lines.
    #[arg(long)]
    pub json: bool,
}

/// Runs it and prints what came back.
///
/// # Errors
/// The URL or the body cannot be used, it was interrupted, or any request failed.
pub fn run(options: &Options, stop: &AtomicBool) -> Result<(), String> {
    sys::raise_open_files();
    sys::exact_timers();
    if let Some(id) = options.cpu
        && !core_affinity::set_for_current(core_affinity::CoreId { id })
    {
        return Err(format!("cannot run on CPU {id}"));
    }
    let url = Url::parse(&options.url)?;
    let body = match &options.body {
        None => Vec::new(),
        Some(path) if path.as_os_str() == "-" => {
            let mut body = Vec::new();
            std::io::stdin().read_to_end(&mut body).map_err(|error| error.to_string())?;
            body
        }
        Some(path) => std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?,
    };
    let protocol = match (options.websocket, options.streams) {
        (Some(_), _) => Protocol::WebSocket,
        (None, Some(streams)) => Protocol::Http2 { streams },
        (None, None) => Protocol::Http1,
    };
    let message: Option<Vec<u8>> =
        options.websocket.map(|length| backend::large_body().into_iter().cycle().take(length).collect());
    let tls = if url.tls {
        let name = url.host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let name = ServerName::try_from(name).map_err(|error| error.to_string())?;
        Some((tls::verifying(options.cacert.as_deref(), protocol).map_err(|error| error.to_string())?, name))
    } else {
        None
    };
    let target = Target {
        address: url.resolve()?,
        tls,
        protocol,
        opening: match message {
            Some(_) => websocket::opening(&url.authority, &url.target, &fields(options)?).into(),
            None => Arc::from([]),
        },
        requests: Arc::from([match &message {
            Some(message) => crate::websocket::message(message),
            None => request(options, &url, &body)?,
        }]),
        expect: Expect {
            status: options.status,
            no_body: options.method == "HEAD",
            body: message.map(Arc::from),
            ..Expect::default()
        },
        keep_alive: !options.no_keep_alive,
        many_sources: false,
    };
    let pace = options.rate.map_or(Pace::Closed, Pace::Open);
    let mut client =
        Client::new(&target, options.connections.max(1), stop).map_err(|error| error.to_string())?;
    let bar = progress(&options.url);
    let spans = (Duration::from_secs_f64(options.warm_up), Duration::from_secs_f64(options.duration));
    let tally = client.drive(pace, options.connections.max(1), spans, &mut Bar(&bar));
    bar.finish_and_clear();
    let tally = tally.map_err(|error| error.to_string())?;
    print(options, &tally);
    if tally.error_count() > 0 { Err(format!("{} requests failed", tally.error_count())) } else { Ok(()) }
}

fn print(options: &Options, tally: &Tally) {
    let latency = tally.latencies.summary();
    if options.json {
        let figures = json!({
            "url": options.url, "rate_offered": options.rate, "connections": options.connections, "streams": options.streams,
            "requests": tally.requests, "seconds": tally.seconds, "rate": tally.rate(),
            "bytes_received": tally.bytes_received, "latency": latency,
            "statuses": tally.statuses, "errors": tally.errors,
        });
        println!("{figures}");
        return;
    }
    println!(
        "{} answers in {:.2} s: {:.0}/s, {:.1} MiB/s",
        tally.requests,
        tally.seconds,
        tally.rate(),
        tally.bytes_received as f64 / tally.seconds / f64::from(1 << 20)
    );
    let from = if options.rate.is_some() { "from when each was due" } else { "from sending" };
    println!(
        "latency µs ({from}): p50 {:.0}  p90 {:.0}  p99 {:.0}  p99.9 {:.0}  max {:.0}",
        latency.p50_us, latency.p90_us, latency.p99_us, latency.p999_us, latency.max_us
    );
    for (status, count) in &tally.statuses {
        println!("status {status}: {count}");
    }
    for (error, count) in &tally.errors {
        println!("error: {error}: {count}");
    }
}

fn request(options: &Options, url: &Url, body: &[u8]) -> Result<Vec<u8>, String> {
    let mut request = format!("{} {} HTTP/1.1\r\n", options.method, url.target);
    let given = |name: &str| {
        options
            .headers
            .iter()
            .any(|field| field.split(':').next().is_some_and(|n| n.trim().eq_ignore_ascii_case(name)))
    };
    if !given("host") {
        request += &format!("Host: {}\r\n", url.authority);
    }
    if !given("accept") {
        request += "Accept: */*\r\n";
    }
    request += &fields(options)?;
    if !body.is_empty() || matches!(options.method.as_str(), "POST" | "PUT" | "PATCH") {
        request += &format!("Content-Length: {}\r\n", body.len());
    }
    request += "\r\n";
    let mut request = request.into_bytes();
    request.extend_from_slice(body);
    Ok(request)
}

/// Those of `--header`, as lines.
fn fields(options: &Options) -> Result<String, String> {
    let mut lines = String::new();
    for field in &options.headers {
        if !field.contains(':') || field.contains(['\r', '\n']) {
            return Err(format!("--header {field:?}: expected NAME: VALUE"));
        }
        lines += &format!("{field}\r\n");
    }
    Ok(lines)
}

struct Bar<'a>(&'a ProgressBar);

impl Watch for Bar<'_> {
    fn progress(&mut self, done: f64, tally: &Tally) {
        self.0.set_position((done * 100.0) as u64);
        self.0.set_message(format!(
            "{} answers, {} errors",
            tally.statuses.values().sum::<u64>(),
            tally.error_count()
        ));
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Url {
    tls: bool,
    /// Host and, if it is not the default, port: as Host has it.
    authority: String,
    host: String,
    port: u16,
    target: String,
}

impl Url {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text}: expected http://HOST[:PORT][/PATH] or https://…");
        let (scheme, rest) = text.split_once("://").ok_or_else(wrong)?;
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(wrong()),
        };
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        let ok = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if authority.is_empty() || authority.contains('@') || !ok(authority) || !ok(&target) {
            return Err(wrong());
        }
        let after_host = authority.rfind(']').map_or(0, |bracket| bracket + 1);
        let (host, port) = match authority[after_host..].rfind(':') {
            Some(colon) => {
                let (host, port) = authority.split_at(after_host + colon);
                (host, port[1..].parse().map_err(|_| wrong())?)
            }
            None => (authority, if tls { 443 } else { 80 }),
        };
        if host.is_empty() {
            return Err(wrong());
        }
        Ok(Self { tls, authority: authority.to_owned(), host: host.to_owned(), port, target })
    }

    fn resolve(&self) -> Result<SocketAddr, String> {
        let host = self.host.trim_start_matches('[').trim_end_matches(']');
        let addresses: Vec<SocketAddr> =
            (host, self.port).to_socket_addrs().map_err(|error| format!("{}: {error}", self.host))?.collect();
        let first = addresses.iter().find(|address| address.is_ipv4()).or(addresses.first());
        first.copied().ok_or_else(|| format!("{}: no address", self.host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url = Url::parse("https://api.example.com/v1/a?b=c#d").unwrap();
        assert_eq!((url.tls, url.port, url.target.as_str()), (true, 443, "/v1/a?b=c"));
        let url = Url::parse("http://[::1]:8080").unwrap();
        assert_eq!(
            (url.host.as_str(), url.port, url.target.as_str(), url.authority.as_str()),
            ("[::1]", 8080, "/", "[::1]:8080")
        );
        let url = Url::parse("http://localhost?x").unwrap();
        assert_eq!((url.port, url.target.as_str()), (80, "/?x"));
        for bad in [
            "localhost",
            "ftp://a/",
            "http://",
            "http://a:b/",
            "http://u@a/",
            "http://a/ b",
            "http://:80/",
            "http://a\r\n/",
        ] {
            assert!(Url::parse(bad).is_err(), "{bad:?}");
        }
    }
}
