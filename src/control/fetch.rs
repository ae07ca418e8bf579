//! The one client for documents that Ringwall fetches on its own account: key sets and OIDC discovery.
//!
//! What it holds to, whoever calls: the URL is parsed strictly (no user information, no exotic spellings of
//! addresses); the name is resolved once and the connection goes to exactly the addresses that were judged by
//! [`AddressGuard`]; `https` is verified, `http` is for loopback only; redirects are not followed; body bytes
//! and total time are bounded; no proxy variable of the environment counts.
//!
//! Not for upstream traffic and not for health probes. Called by `control::keys`.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use hyper::{StatusCode, header};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::address_guard::{AddressGuard, AddressKind, Origin, kind};
use super::dns::{Resolve, host_name_error};
use super::exchange::{self, ExchangeError, TlsTo};
use crate::sys::address::Address;

/// The longest URL that is taken, in bytes.
pub const URL_BYTES_MAX: usize = 2048;
/// The most addresses of one name that are tried.
const ADDRESSES_TRIED_MAX: usize = 4;
/// The most time that one address may take to connect, so that a dead one leaves time for the next.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(3);

/// The host part of a URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Host {
    /// An address, in its one canonical spelling or in IPv6 brackets.
    Address(IpAddr),
    /// A name, lower case, without a trailing dot. Never something that some parser takes for an address.
    Name(String),
}

/// A URL that may be fetched, by its form.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url {
    secure: bool,
    host: Host,
    port: u16,
    target: String,
}

/// Why a URL is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UrlError {
    /// Longer than [`URL_BYTES_MAX`].
    TooLong,
    /// Neither `https://` nor `http://`.
    Scheme,
    /// A byte that has no place in a URL: a space, a control, a backslash, something beyond ASCII.
    Byte,
    /// `user@host`.
    UserInformation,
    /// `#…`.
    Fragment,
    /// No host, or one that is neither a host name nor an address in canonical form.
    Host,
    /// Not a number from 1 to 65535.
    Port,
    /// `http://` to a host that is not loopback.
    PlainText,
}

impl fmt::Display for UrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            UrlError::TooLong => "the URL is longer than 2048 bytes",
            UrlError::Scheme => "the URL begins with neither https:// nor http://",
            UrlError::Byte => "the URL holds a byte that must be percent-encoded",
            UrlError::UserInformation => "the URL holds user information (`user@host`)",
            UrlError::Fragment => "the URL holds a fragment (`#`)",
            UrlError::Host => "the URL's host is neither a host name nor a canonical address",
            UrlError::Port => "the URL's port is not a number from 1 to 65535",
            UrlError::PlainText => "http:// is for loopback addresses only",
        })
    }
}

impl Url {
    /// Parses an absolute `https` URL, or an `http` URL whose host is loopback by its spelling.
    ///
    /// # Errors
    /// See [`UrlError`]. Stricter than RFC 3986: what two parsers could read differently is refused.
    pub fn parse(text: &str) -> Result<Url, UrlError> {
        if text.len() > URL_BYTES_MAX {
            return Err(UrlError::TooLong);
        }
        if text.bytes().any(|byte| !(0x21..0x7f).contains(&byte) || b"\\\"<>^`{|}".contains(&byte)) {
            return Err(UrlError::Byte);
        }
        let (secure, rest) = if let Some(rest) = strip_prefix_any_case(text, "https://") {
            (true, rest)
        } else if let Some(rest) = strip_prefix_any_case(text, "http://") {
            (false, rest)
        } else {
            return Err(UrlError::Scheme);
        };
        if rest.contains('#') {
            return Err(UrlError::Fragment);
        }
        let (authority, target) = match rest.find(['/', '?']) {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        if authority.contains('@') {
            return Err(UrlError::UserInformation);
        }
        let (host, port) = split_port(authority)?;
        let host = parse_host(host)?;
        let port = match port {
            Some(digits) => parse_port(digits)?,
            None if secure => 443,
            None => 80,
        };
        if !secure && !is_loopback(&host) {
            return Err(UrlError::PlainText);
        }
        let target = match target.as_bytes().first() {
            None => "/".to_owned(),
            Some(b'?') => format!("/{target}"),
            Some(_) => target.to_owned(),
        };
        Ok(Url { secure, host, port, target })
    }

    /// The host.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port, 443 or 80 where none was written.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Whether this is `https`.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// Path and query as written.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Whether both name the same scheme, host and port.
    pub fn same_origin(&self, other: &Url) -> bool {
        self.secure == other.secure && self.host == other.host && self.port == other.port
    }

    fn authority(&self) -> String {
        let default = if self.secure { 443 } else { 80 };
        let host = match &self.host {
            Host::Name(name) => name.clone(),
            Host::Address(IpAddr::V4(v4)) => v4.to_string(),
            Host::Address(IpAddr::V6(v6)) => format!("[{v6}]"),
        };
        if self.port == default { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.secure { "https" } else { "http" };
        write!(f, "{scheme}://{}{}", self.authority(), self.target)
    }
}

/// Why a document was not fetched.
#[derive(Debug)]
pub enum FetchError {
    /// The URL cannot be fetched at all.
    Url(UrlError),
    /// The name has no address, or the resolver failed.
    Resolve(String),
    /// An address that must not be reached. If one address of a name is refused, all are.
    Refused {
        /// The address.
        address: IpAddr,
        /// What it is for.
        kind: AddressKind,
    },
    /// The exchange failed on the last address that was tried.
    Exchange(ExchangeError),
    /// Not done within the total time.
    Timeout(Duration),
    /// A redirect, which is not followed.
    Redirect(StatusCode),
    /// A status other than 200.
    Status(StatusCode),
    /// A `Content-Encoding` that was not asked for.
    Encoding,
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FetchError::Url(why) => write!(f, "{why}"),
            FetchError::Resolve(why) => write!(f, "cannot resolve: {why}"),
            FetchError::Refused { address, kind } => {
                write!(f, "the host resolves to {address}, a {kind} address, which is not listed")
            }
            FetchError::Exchange(why) => write!(f, "{why}"),
            FetchError::Timeout(bound) => write!(f, "not done within {} s", bound.as_secs_f32()),
            FetchError::Redirect(status) => write!(f, "redirected ({}): not followed", status.as_u16()),
            FetchError::Status(status) => write!(f, "status {}, expected 200", status.as_u16()),
            FetchError::Encoding => write!(f, "a content encoding that was not asked for"),
        }
    }
}

/// A fetched document.
#[derive(Debug)]
pub struct Document {
    /// The bytes.
    pub body: Vec<u8>,
    /// `max-age` of `Cache-Control`, zero for `no-store` and `no-cache`.
    pub max_age: Option<Duration>,
}

/// What one fetch may cost.
#[derive(Clone, Copy, Debug)]
pub struct FetchLimits {
    /// The most bytes of a body. Default 1 MiB.
    pub body_bytes_max: usize,
    /// The most time from resolving to the last byte. Default 10 s.
    pub total: Duration,
}

impl Default for FetchLimits {
    fn default() -> FetchLimits {
        FetchLimits { body_bytes_max: 1 << 20, total: Duration::from_secs(10) }
    }
}

/// The client. Cheap to share by `Arc`; holds no connection between fetches.
pub struct Client {
    resolver: Arc<dyn Resolve>,
    guard: AddressGuard,
    tls: Arc<ClientConfig>,
    limits: FetchLimits,
}

impl Client {
    /// A client that resolves with `resolver`, reaches what `guard` admits, and verifies with `tls`
    /// (made by [`exchange::tls_config`]).
    pub fn new(
        resolver: Arc<dyn Resolve>,
        guard: AddressGuard,
        tls: Arc<ClientConfig>,
        limits: FetchLimits,
    ) -> Client {
        Client { resolver, guard, tls, limits }
    }

    /// Fetches `url`. `origin` says whether the operator wrote this URL or some document did.
    ///
    /// # Errors
    /// See [`FetchError`].
    pub async fn fetch(&self, url: &Url, origin: Origin) -> Result<Document, FetchError> {
        match exchange::within(self.limits.total, self.fetch_unbounded(url, origin)).await {
            Some(result) => result,
            None => Err(FetchError::Timeout(self.limits.total)),
        }
    }

    async fn fetch_unbounded(&self, url: &Url, origin: Origin) -> Result<Document, FetchError> {
        let addresses = self.admitted_addresses(url, origin).await?;
        let tls = match url.secure {
            false => None,
            true => Some(TlsTo { config: self.tls.clone(), name: server_name(&url.host)? }),
        };
        let mut last = ExchangeError::Connect("no address".to_owned());
        for address in addresses.into_iter().take(ADDRESSES_TRIED_MAX) {
            let address = Address::from(SocketAddr::new(address, url.port));
            let connecting = exchange::connect(&address, b"", tls.as_ref());
            let stream = match exchange::within(CONNECT_TIME_MAX, connecting).await {
                Some(Ok(connected)) => connected.stream,
                Some(Err(error)) => {
                    last = error;
                    continue;
                }
                None => {
                    last = ExchangeError::Connect(format!("{address} does not answer"));
                    continue;
                }
            };
            // Past the connect there is no second try: the answer of one address is the answer.
            return self.exchange(url, stream).await;
        }
        Err(FetchError::Exchange(last))
    }

    /// Resolves once; these very addresses are connected to, so a second answer of the resolver (DNS
    /// rebinding) has no say.
    async fn admitted_addresses(&self, url: &Url, origin: Origin) -> Result<Vec<IpAddr>, FetchError> {
        let (addresses, origin) = match &url.host {
            Host::Address(address) => (vec![*address], origin),
            // RFC 6761 §6.3: `localhost` is this host; no resolver is asked.
            Host::Name(name) if is_localhost(name) => {
                (vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()], origin)
            }
            Host::Name(name) => {
                let answer = self.resolver.resolve(name).await;
                let answer = answer.map_err(|why| FetchError::Resolve(why.to_string()))?;
                (answer.addresses, Origin::Found)
            }
        };
        if addresses.is_empty() {
            return Err(FetchError::Resolve("no address".to_owned()));
        }
        for &address in &addresses {
            self.guard.admit(address, origin).map_err(|kind| FetchError::Refused { address, kind })?;
        }
        Ok(addresses)
    }

    async fn exchange(&self, url: &Url, stream: Box<dyn exchange::Stream>) -> Result<Document, FetchError> {
        let answered = exchange::get(
            stream,
            &url.authority(),
            &url.target,
            "application/json",
            self.limits.body_bytes_max,
        )
        .await
        .map_err(FetchError::Exchange)?;
        if answered.status.is_redirection() {
            return Err(FetchError::Redirect(answered.status));
        }
        if answered.status != StatusCode::OK {
            return Err(FetchError::Status(answered.status));
        }
        let encoded = |value: &header::HeaderValue| !value.as_bytes().eq_ignore_ascii_case(b"identity");
        if answered.fields.get_all(header::CONTENT_ENCODING).iter().any(encoded) {
            return Err(FetchError::Encoding);
        }
        let max_age = max_age(answered.fields.get_all(header::CACHE_CONTROL).iter().map(|v| v.as_bytes()));
        Ok(Document { body: answered.body, max_age })
    }
}

/// RFC 9111 §5.2.2, as far as a key set needs it.
fn max_age<'a>(fields: impl Iterator<Item = &'a [u8]>) -> Option<Duration> {
    let mut age = None;
    for field in fields {
        for directive in field.split(|&byte| byte == b',') {
            let directive = directive.trim_ascii();
            if directive.eq_ignore_ascii_case(b"no-store") || directive.eq_ignore_ascii_case(b"no-cache") {
                return Some(Duration::ZERO);
            }
            if let Some((name, value)) = directive.split_at_checked(8)
                && name.eq_ignore_ascii_case(b"max-age=")
            {
                let value = value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value);
                if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
                    continue;
                }
                // More digits than u32 holds: RFC 9111 §1.2.2 has the value taken as very large.
                let seconds = std::str::from_utf8(value).ok().and_then(|v| v.parse::<u32>().ok());
                age = Some(Duration::from_secs(seconds.unwrap_or(u32::MAX).into()));
            }
        }
    }
    age
}

fn strip_prefix_any_case<'a>(text: &'a str, prefix: &str) -> Option<&'a str> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn split_port(authority: &str) -> Result<(&str, Option<&str>), UrlError> {
    if authority.starts_with('[') {
        let end = authority.find(']').ok_or(UrlError::Host)?;
        let (host, rest) = authority.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => Ok((host, Some(port))),
            None if rest.is_empty() => Ok((host, None)),
            None => Err(UrlError::Host),
        };
    }
    match authority.split_once(':') {
        Some((host, port)) => Ok((host, Some(port))),
        None => Ok((authority, None)),
    }
}

fn parse_port(digits: &str) -> Result<u16, UrlError> {
    if digits.is_empty() || digits.len() > 5 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(UrlError::Port);
    }
    match digits.parse() {
        Ok(0) | Err(_) => Err(UrlError::Port),
        Ok(port) => Ok(port),
    }
}

fn parse_host(host: &str) -> Result<Host, UrlError> {
    if let Some(inside) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        // A zone (`%eth0`) does not parse: it has no meaning beyond this host.
        return inside.parse::<Ipv6Addr>().map(|v6| Host::Address(v6.into())).map_err(|_| UrlError::Host);
    }
    // The standard library takes exactly four decimal parts without leading zeros.
    if let Ok(v4) = host.parse::<Ipv4Addr>() {
        return Ok(Host::Address(v4.into()));
    }
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    match host_name_error(&name) {
        None => Ok(Host::Name(name)),
        Some(_) => Err(UrlError::Host),
    }
}

fn is_localhost(name: &str) -> bool {
    name == "localhost" || name.ends_with(".localhost")
}

fn is_loopback(host: &Host) -> bool {
    match host {
        Host::Address(address) => kind(*address) == AddressKind::Loopback,
        Host::Name(name) => is_localhost(name),
    }
}

fn server_name(host: &Host) -> Result<ServerName<'static>, FetchError> {
    match host {
        Host::Address(address) => Ok(ServerName::IpAddress((*address).into())),
        Host::Name(name) => ServerName::try_from(name.clone()).map_err(|_| FetchError::Url(UrlError::Host)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_has_one_reading() {
        for (text, canonical) in [
            ("https://idp.test", "https://idp.test/"),
            ("HTTPS://IdP.Test:443/a?b=c", "https://idp.test/a?b=c"),
            ("https://idp.test./keys", "https://idp.test/keys"),
            ("https://idp.test?x", "https://idp.test/?x"),
            ("https://idp.test:8443/%2e%2e/", "https://idp.test:8443/%2e%2e/"),
            ("https://[2606:4700:0:0::1111]/", "https://[2606:4700::1111]/"),
            ("https://1.1.1.1/", "https://1.1.1.1/"),
            ("http://127.0.0.1:8080/k", "http://127.0.0.1:8080/k"),
            ("http://[::1]/k", "http://[::1]/k"),
            ("http://localhost/k", "http://localhost/k"),
        ] {
            let url = Url::parse(text).expect(text);
            assert_eq!(url.to_string(), canonical, "{text}");
            assert_eq!(Url::parse(canonical), Ok(url), "{text}");
        }
    }

    #[test]
    fn a_url_that_somebody_could_read_otherwise_is_refused() {
        let long = format!("https://idp.test/{}", "a".repeat(URL_BYTES_MAX));
        for (text, expected) in [
            ("", UrlError::Scheme),
            ("idp.test", UrlError::Scheme),
            ("//idp.test", UrlError::Scheme),
            ("ftp://idp.test", UrlError::Scheme),
            ("file:///etc/passwd", UrlError::Scheme),
            ("gopher://127.0.0.1:6379/_x", UrlError::Scheme),
            ("https:/idp.test", UrlError::Scheme),
            ("https:\\\\idp.test", UrlError::Byte),
            (" https://idp.test", UrlError::Byte),
            ("https://idp.test/a b", UrlError::Byte),
            ("https://idp.test/\r\nHost: x", UrlError::Byte),
            ("https://idp.test\t/", UrlError::Byte),
            ("https://b\u{fc}cher.test", UrlError::Byte),
            ("https://idp\u{3002}test", UrlError::Byte),
            ("https://\u{2460}27.0.0.1", UrlError::Byte),
            ("https://user@idp.test", UrlError::UserInformation),
            ("https://idp.test@10.0.0.1/", UrlError::UserInformation),
            ("https://idp.test:443@10.0.0.1/", UrlError::UserInformation),
            ("https://idp.test#@10.0.0.1/", UrlError::Fragment),
            ("https://idp.test/#a", UrlError::Fragment),
            ("https://", UrlError::Host),
            ("https:///path", UrlError::Host),
            ("https://:443/", UrlError::Host),
            ("https://2130706433/", UrlError::Host),
            ("https://0x7f000001/", UrlError::Host),
            ("https://0x7f.0.0.1/", UrlError::Host),
            ("https://0177.0.0.1/", UrlError::Host),
            ("https://127.1/", UrlError::Host),
            ("https://127.0.0.1.5/", UrlError::Host),
            ("https://127.0.0.256/", UrlError::Host),
            ("https://a..b/", UrlError::Host),
            ("https://%31%32%37.0.0.1/", UrlError::Host),
            ("https://[fe80::1%25eth0]/", UrlError::Host),
            ("https://[::1/", UrlError::Host),
            ("https://[::1]x/", UrlError::Host),
            ("https://[127.0.0.1]/", UrlError::Host),
            ("https://idp.test:/", UrlError::Port),
            ("https://idp.test:0/", UrlError::Port),
            ("https://idp.test:65536/", UrlError::Port),
            ("https://idp.test:+80/", UrlError::Port),
            ("https://idp.test:80:90/", UrlError::Port),
            ("http://idp.test/", UrlError::PlainText),
            ("http://10.0.0.1/", UrlError::PlainText),
            ("http://169.254.169.254/latest/meta-data/", UrlError::PlainText),
            ("http://localhost.evil.test/", UrlError::PlainText),
            ("http://0.0.0.0/", UrlError::PlainText),
            (&long, UrlError::TooLong),
        ] {
            assert_eq!(Url::parse(text), Err(expected), "{text:?}");
        }
    }

    #[test]
    fn max_age_is_read_as_caching_says() {
        let age =
            |fields: &[&str]| max_age(fields.iter().map(|field| field.as_bytes())).map(|age| age.as_secs());
        assert_eq!(age(&[]), None);
        assert_eq!(age(&["public, max-age=600"]), Some(600));
        assert_eq!(age(&["Max-Age=\"600\"", "must-revalidate"]), Some(600));
        assert_eq!(age(&["max-age=600, no-store"]), Some(0));
        assert_eq!(age(&["no-cache"]), Some(0));
        assert_eq!(age(&["max-age=-1"]), None);
        assert_eq!(age(&["max-age="]), None);
        assert_eq!(age(&["s-maxage=5"]), None);
        assert_eq!(age(&["max-age=99999999999999999999"]), Some(u32::MAX.into()));
    }
}
