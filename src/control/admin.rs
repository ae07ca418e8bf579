//! The listener for metrics and health: `/metrics`, `/livez`, `/readyz`.
//!
//! On 127.0.0.1:9901 by default, or on a Unix socket; plain HTTP/1.1 by hyper on the control thread. What it says comes from two
//! closures; it knows no metric. It changes nothing: verbs go over the Unix socket. Connections, their life and
//! the time for a head are bounded, so that a scraper gone wild cannot take the control thread's time.
//!
//! On a loopback address a `Host` that is a name other than `localhost` is refused (421): otherwise a web page
//! could read the metrics through a name that it points at 127.0.0.1 (DNS rebinding).

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener as StdUnixListener;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{self, HeaderValue};
use hyper::service::service_fn;
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::listeners::unix_socket;
use super::process_log::{Code, Line};
use super::socket::SocketFile;
use crate::sys::address::Address;
use crate::sys::socket::start_listening;

/// The most connections at once; more wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 32;
/// The time for one request head, and for an idle kept connection.
pub const HEAD_TIME_MAX: Duration = Duration::from_secs(5);
/// The longest life of one connection.
pub const CONNECTION_TIME_MAX: Duration = Duration::from_secs(60);
/// The most bytes of a request head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Who may connect to a Unix socket beside root: the user that Ringwall runs as, and its group.
const MODE: u32 = 0o660;
/// Connections that wait at a Unix socket to be accepted.
const BACKLOG: i32 = 128;

/// The metrics listener is ready.
pub const ADMIN_LISTENS: Code = Code::new(6025, "metrics and health are served");

/// The two exposition formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// Prometheus text format 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0, with exemplars; ends in `# EOF`.
    OpenMetrics,
}

impl Format {
    /// The media type of the answer.
    pub fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }

    /// The format that an `Accept` field asks for. OpenMetrics where it is acceptable in version 1.0.0 (or none
    /// stated) and at least as welcome as plain text; Prometheus text otherwise.
    pub fn negotiate(accept: Option<&str>) -> Format {
        let Some(accept) = accept else { return Format::Prometheus };
        let (mut open, mut text) = (0, 0);
        for range in accept.split(',').take(64) {
            let mut parts = range.split(';').map(str::trim);
            let name = parts.next().unwrap_or("");
            let (mut quality, mut version) = (1000, None);
            for parameter in parts {
                let Some((key, value)) = parameter.split_once('=') else { continue };
                match key.trim() {
                    key if key.eq_ignore_ascii_case("q") => quality = quality_thousandths(value.trim()),
                    key if key.eq_ignore_ascii_case("version") => {
                        version = Some(value.trim().trim_matches('"'))
                    }
                    _ => {}
                }
            }
            if name.eq_ignore_ascii_case("application/openmetrics-text") {
                if matches!(version, None | Some("1.0.0")) {
                    open = open.max(quality);
                }
            } else if name.eq_ignore_ascii_case("text/plain") || name == "text/*" || name == "*/*" {
                text = text.max(quality);
            }
        }
        if open > 0 && open >= text { Format::OpenMetrics } else { Format::Prometheus }
    }
}

/// RFC 9110 §12.4.2: `0.xyz` or `1.000`, in thousandths; what is not a weight counts as zero.
fn quality_thousandths(value: &str) -> u32 {
    match value.parse::<f32>() {
        Ok(quality) if (0.0..=1.0).contains(&quality) => (quality * 1000.0) as u32,
        _ => 0,
    }
}

/// What the listener says.
#[derive(Clone)]
pub struct Pages {
    /// The body of `/metrics`.
    pub metrics: Arc<dyn Fn(Format) -> String + Send + Sync>,
    /// Whether this node takes traffic; the reason where it does not (no detail of the inside: anybody who
    /// reaches the port reads it).
    pub ready: Arc<dyn Fn() -> Result<(), String> + Send + Sync>,
}

/// A bound listener, not yet served: so that it can be bound before privileges are dropped.
pub struct Admin {
    listener: StdListener,
    address: Address,
    /// Of a Unix socket; goes away with its last holder.
    file: Option<Arc<SocketFile>>,
}

impl Admin {
    /// Binds `address`. Port 0 takes a free one. A Unix socket replaces a file that nobody listens on, and nothing else; it
    /// belongs to `owner` (user and group) where privileges are about to be dropped.
    ///
    /// # Errors
    /// The address cannot be bound.
    pub fn bind(address: &Address, owner: Option<(u32, u32)>) -> io::Result<Admin> {
        match address {
            Address::Tcp(address) => Admin::of(StdListener::bind(address)?, None),
            Address::Unix(path) => {
                let listener = unix_socket(path, MODE, owner)?;
                start_listening(&listener, BACKLOG)?;
                Admin::of(listener, Some((Arc::clone(path), SocketFile::at(path)?)))
            }
        }
    }

    /// Takes a socket over that another process has bound at `address` and listens on. Its file stays that one's until
    /// [said otherwise](SocketFile::set_lent).
    ///
    /// # Errors
    /// Those of `fcntl`, `getsockname` and `lstat`.
    pub fn adopt(listener: StdListener, address: &Address) -> io::Result<Admin> {
        let file = match address {
            Address::Tcp(_) => None,
            Address::Unix(path) => {
                let file = SocketFile::at(path)?;
                file.set_lent(true);
                Some((Arc::clone(path), file))
            }
        };
        Admin::of(listener, file)
    }

    fn of(listener: StdListener, file: Option<(Arc<std::path::Path>, SocketFile)>) -> io::Result<Admin> {
        listener.set_nonblocking(true)?;
        let (address, file) = match file {
            Some((path, file)) => (Address::Unix(path), Some(Arc::new(file))),
            None => (Address::Tcp(listener.local_addr()?), None),
        };
        Ok(Admin { listener, address, file })
    }

    /// The bound address.
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// The file of a Unix socket.
    pub fn file(&self) -> Option<Arc<SocketFile>> {
        self.file.clone()
    }

    /// A second handle on the listening socket.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn try_clone_listener(&self) -> io::Result<StdListener> {
        self.listener.try_clone()
    }

    /// Serves `pages`, for ever. Runs on the control thread.
    ///
    /// # Errors
    /// The runtime does not take the listener.
    pub async fn serve(self, pages: Pages) -> io::Result<()> {
        let Admin { listener, address, file: _file } = self;
        let pages = Served { pages, names_refused: address.ip().is_some_and(|ip| ip.is_loopback()) };
        let permits = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let listens = || Line::info(ADMIN_LISTENS).with("address", &address).emit();
        match address {
            Address::Tcp(_) => {
                let listener = TcpListener::from_std(listener)?;
                listens();
                while let Ok(permit) = permits.clone().acquire_owned().await {
                    pages.attend(listener.accept().await.map(|(stream, _)| stream), permit).await;
                }
            }
            Address::Unix(_) => {
                let listener = UnixListener::from_std(StdUnixListener::from(OwnedFd::from(listener)))?;
                listens();
                while let Ok(permit) = permits.clone().acquire_owned().await {
                    pages.attend(listener.accept().await.map(|(stream, _)| stream), permit).await;
                }
            }
        }
        Ok(())
    }
}

/// What is said, and to whom.
struct Served {
    pages: Pages,
    names_refused: bool,
}

impl Served {
    /// Serves whoever was accepted, aside.
    async fn attend<S>(&self, accepted: io::Result<S>, permit: OwnedSemaphorePermit)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(stream) = accepted else {
            // Out of descriptors, most likely: give others time to close some.
            return tokio::time::sleep(Duration::from_millis(100)).await;
        };
        let (pages, names_refused) = (self.pages.clone(), self.names_refused);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = answer(&request, &pages, names_refused);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME_MAX)
                .max_buf_size(HEAD_BYTES_MAX)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(CONNECTION_TIME_MAX, connection).await;
            drop(permit);
        });
    }
}

fn answer(request: &Request<Incoming>, pages: &Pages, names_refused: bool) -> Response<Full<Bytes>> {
    const TEXT: &str = "text/plain; charset=utf-8";
    if names_refused && !is_local_host(request.headers()) {
        return respond(StatusCode::MISDIRECTED_REQUEST, TEXT, "not this host\n".to_owned());
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, String::new());
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/metrics" => {
            let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
            let format = Format::negotiate(accept);
            respond(StatusCode::OK, format.content_type(), (pages.metrics)(format))
        }
        "/livez" => respond(StatusCode::OK, TEXT, "ok\n".to_owned()),
        "/readyz" => match (pages.ready)() {
            Ok(()) => respond(StatusCode::OK, TEXT, "ok\n".to_owned()),
            Err(why) => respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{why}\n")),
        },
        _ => respond(StatusCode::NOT_FOUND, TEXT, "not found\n".to_owned()),
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    fields.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether `Host` is absent, an address, or `localhost`.
fn is_local_host(fields: &HeaderMap) -> bool {
    let mut hosts = fields.get_all(header::HOST).iter();
    let (host, more) = (hosts.next(), hosts.next());
    let Some(host) = host else { return true };
    let Ok(host) = host.to_str() else { return false };
    if more.is_some() {
        return false;
    }
    if host.parse::<SocketAddr>().is_ok() {
        return true;
    }
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_accept() {
        let prometheus_3 = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
             application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        for (accept, expected) in [
            (None, Format::Prometheus),
            (Some("*/*"), Format::Prometheus),
            (Some("text/plain"), Format::Prometheus),
            (Some("application/openmetrics-text"), Format::OpenMetrics),
            (Some("application/openmetrics-text; version=\"1.0.0\""), Format::OpenMetrics),
            (Some("application/openmetrics-text; version=2.0.0"), Format::Prometheus),
            (Some("application/openmetrics-text;q=0"), Format::Prometheus),
            (Some("application/openmetrics-text;q=0.1, text/plain;q=0.9"), Format::Prometheus),
            (Some(prometheus_3), Format::OpenMetrics),
            (Some("application/openmetrics-text;q=NaN,,;;="), Format::Prometheus),
        ] {
            assert_eq!(Format::negotiate(accept), expected, "{accept:?}");
        }
    }

    #[test]
    fn a_foreign_name_is_no_local_host() {
        let host = |value: &str| {
            let mut fields = HeaderMap::new();
            fields.insert(header::HOST, HeaderValue::from_str(value).expect("a field value"));
            is_local_host(&fields)
        };
        for good in ["localhost", "LocalHost:9901", "127.0.0.1:9901", "127.0.0.1", "[::1]:9901", "[::1]"] {
            assert!(host(good), "{good}");
        }
        for bad in ["evil.test", "evil.test:9901", "localhost.evil.test", "127.0.0.1.evil.test", ""] {
            assert!(!host(bad), "{bad}");
        }
        assert!(is_local_host(&HeaderMap::new()));
    }
}
