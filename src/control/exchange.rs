//! One request over one connection: what key fetches and health probes share.
//!
//! hyper's client of HTTP/1.1 or HTTP/2 on a stream that the caller connected (so the caller decides which address). Every
//! bound is the caller's: body bytes here, total time by dropping the future. Redirects are never followed,
//! encodings never asked for.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, Response, StatusCode, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::http::Protocol;
use crate::sys::address::Address;
use crate::sys::file::read_regular;
use crate::sys::socket::is_exhaustion;

/// The most fields of a response head.
const FIELDS_MAX: usize = 100;
/// The most bytes that hyper buffers for a response head.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// A response that arrived whole.
#[derive(Debug)]
pub struct Answered {
    /// The status, whatever it is.
    pub status: StatusCode,
    /// The fields.
    pub fields: HeaderMap,
    /// The body, at most the asked-for number of bytes.
    pub body: Vec<u8>,
    /// What stood behind it.
    pub trailers: HeaderMap,
}

/// Why an exchange came to nothing.
#[derive(Debug)]
pub enum ExchangeError {
    /// No TCP connection: the system's words.
    Connect(String),
    /// No descriptor or memory for one, which says nothing of the other side: the system's words.
    Exhausted(String),
    /// No TLS: bad certificate, wrong name, no common version.
    Tls(String),
    /// Not HTTP, or cut short.
    Http(String),
    /// The body is longer than the bound.
    TooLarge {
        /// The bound in bytes.
        bytes_max: usize,
    },
}

impl fmt::Display for ExchangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ExchangeError::Connect(why) => write!(f, "cannot connect: {why}"),
            ExchangeError::Exhausted(why) => write!(f, "no connection could be made: {why}"),
            ExchangeError::Tls(why) => write!(f, "TLS failed: {why}"),
            ExchangeError::Http(why) => write!(f, "HTTP failed: {why}"),
            ExchangeError::TooLarge { bytes_max } => write!(f, "the body is longer than {bytes_max} bytes"),
        }
    }
}

/// A byte stream of either kind.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

/// How a TLS connection is verified.
#[derive(Clone)]
pub struct TlsTo {
    /// Roots and versions, from [`tls_config`].
    pub config: Arc<ClientConfig>,
    /// The name that the certificate must carry; also sent as SNI if it is not an address.
    pub name: ServerName<'static>,
}

/// A connection.
pub struct Connected {
    /// Its bytes.
    pub stream: Box<dyn Stream>,
    /// What was agreed on by ALPN, under TLS.
    pub agreed: Option<Protocol>,
}

/// Connects to `address`, sends `first`, with TLS on top where asked.
///
/// # Errors
/// [`ExchangeError::Connect`], [`ExchangeError::Exhausted`] or [`ExchangeError::Tls`].
pub async fn connect(
    address: &Address,
    first: &[u8],
    tls: Option<&TlsTo>,
) -> Result<Connected, ExchangeError> {
    let refused = |error: std::io::Error| match is_exhaustion(&error) {
        true => ExchangeError::Exhausted(error.to_string()),
        false => ExchangeError::Connect(error.to_string()),
    };
    let mut stream: Box<dyn Stream> = match address {
        Address::Tcp(address) => {
            let stream = TcpStream::connect(address).await.map_err(refused)?;
            let _ = stream.set_nodelay(true);
            Box::new(stream)
        }
        Address::Unix(path) => Box::new(UnixStream::connect(path).await.map_err(refused)?),
    };
    if !first.is_empty() {
        stream.write_all(first).await.map_err(refused)?;
    }
    match tls {
        None => Ok(Connected { stream, agreed: None }),
        Some(tls) => {
            let connector = TlsConnector::from(tls.config.clone());
            let stream = connector
                .connect(tls.name.clone(), stream)
                .await
                .map_err(|error| ExchangeError::Tls(error.to_string()))?;
            let agreed = stream.get_ref().1.alpn_protocol().and_then(Protocol::of_alpn);
            Ok(Connected { stream: Box::new(stream), agreed })
        }
    }
}

/// What is asked.
pub struct Asked<'a> {
    /// The method.
    pub method: Method,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Whom: a host, with a port where it is not the usual one.
    pub authority: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// Fields beside those that every request has.
    pub fields: &'a [(&'static str, &'a str)],
    /// The body.
    pub body: Vec<u8>,
}

/// Sends `GET target` in HTTP/1.1 and reads the whole answer; the connection is closed afterwards.
///
/// # Errors
/// As [`ask`].
pub async fn get(
    stream: Box<dyn Stream>,
    authority: &str,
    target: &str,
    accept: &str,
    body_bytes_max: usize,
) -> Result<Answered, ExchangeError> {
    let fields = &[("accept", accept)];
    let asked = Asked { method: Method::GET, scheme: "http", authority, target, fields, body: Vec::new() };
    ask(stream, Protocol::Http1, asked, body_bytes_max).await
}

/// Sends a request in `protocol` and reads the whole answer; the connection is closed afterwards.
///
/// # Errors
/// [`ExchangeError::Http`] or [`ExchangeError::TooLarge`].
pub async fn ask(
    stream: Box<dyn Stream>,
    protocol: Protocol,
    asked: Asked<'_>,
    body_bytes_max: usize,
) -> Result<Answered, ExchangeError> {
    let Asked { method, scheme, authority, target, fields, body } = asked;
    let mut request = Request::builder().method(method);
    request = match protocol {
        Protocol::Http1 => {
            request.uri(target).header(header::HOST, authority).header(header::CONNECTION, "close")
        }
        // RFC 9113 §8.3.1: what HTTP/1.1 says in Host and nowhere.
        Protocol::Http2 => request.uri(format!("{scheme}://{authority}{target}")),
    };
    request = request.header(header::USER_AGENT, concat!("ringwall/", env!("CARGO_PKG_VERSION")));
    request = fields.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    let request = request.body(Full::new(Bytes::from(body))).map_err(http)?;
    let stream = TokioIo::new(stream);
    // The errors of the connections reach the caller through `send_request` or the body.
    match protocol {
        Protocol::Http1 => {
            let mut builder = hyper::client::conn::http1::Builder::new();
            builder.max_headers(FIELDS_MAX).max_buf_size(HEAD_BYTES_MAX);
            let (mut sender, connection) = builder.handshake(stream).await.map_err(http)?;
            let _driver = AbortOnDrop(tokio::spawn(async move {
                let _ = connection.await;
            }));
            read(sender.send_request(request).await.map_err(http)?, body_bytes_max).await
        }
        Protocol::Http2 => {
            let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
            builder.max_header_list_size(HEAD_BYTES_MAX as u32);
            let (mut sender, connection) = builder.handshake(stream).await.map_err(http)?;
            let _driver = AbortOnDrop(tokio::spawn(async move {
                let _ = connection.await;
            }));
            read(sender.send_request(request).await.map_err(http)?, body_bytes_max).await
        }
    }
}

fn http(error: impl fmt::Display) -> ExchangeError {
    ExchangeError::Http(error.to_string())
}

async fn read(response: Response<Incoming>, body_bytes_max: usize) -> Result<Answered, ExchangeError> {
    let (head, mut incoming) = response.into_parts();
    let too_large = ExchangeError::TooLarge { bytes_max: body_bytes_max };
    if hyper::body::Body::size_hint(&incoming).lower() > body_bytes_max as u64 {
        return Err(too_large);
    }
    let (mut body, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = incoming.frame().await {
        match frame.map_err(http)?.into_data() {
            Ok(data) if data.len() > body_bytes_max - body.len() => return Err(too_large),
            Ok(data) => body.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().unwrap_or_default(),
        }
    }
    Ok(Answered { status: head.status, fields: head.headers, body, trailers })
}

/// Runs `work` for at most `bound`.
///
/// # Errors
/// `None` if time ran out.
pub async fn within<T>(bound: Duration, work: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(bound, work).await.ok()
}

/// A client side of TLS 1.2 and 1.3 on ring that trusts `roots` and offers `http/1.1`.
///
/// # Errors
/// ring does not offer the default versions: cannot happen with the features we build.
pub fn tls_config(roots: RootCertStore) -> Result<Arc<ClientConfig>, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// Most bytes of a file of trusted roots.
pub const ROOTS_BYTES_MAX: u64 = 4 << 20;

/// Trusted roots: those of `ca` (PEM), or the system's (`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured).
///
/// # Errors
/// The file cannot be read, holds no certificate, or holds one that is no trust anchor. System certificates
/// that cannot be used are skipped, as every client does.
pub fn trust_roots(ca: Option<&Path>) -> Result<RootCertStore, String> {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject as _;

    let mut roots = RootCertStore::empty();
    match ca {
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        Some(path) => {
            let pem = read_regular(path, ROOTS_BYTES_MAX)
                .map_err(|error| format!("{}: {error}", path.display()))?;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                let certificate = certificate.map_err(|error| format!("{}: {error}", path.display()))?;
                roots.add(certificate).map_err(|error| format!("{}: {error}", path.display()))?;
            }
            if roots.is_empty() {
                return Err(format!("{}: holds no certificate", path.display()));
            }
        }
    }
    Ok(roots)
}

/// Ends a task with its owner.
pub(super) struct AbortOnDrop(pub(super) tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
