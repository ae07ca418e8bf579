//! Which operation a request means: the canonical target, the listener's domains, the router.

use std::net::IpAddr;

use crate::http::field::Known;
use crate::http::target::{EncodedSlash, canonical};
use crate::http::{Method, Reason};
use crate::pipeline::exchange::Exchange;
use crate::pipeline::serve::Client;
use crate::route::{Lookup, MethodSet};
use crate::snapshot::{Listener, Operation, Snapshot};

/// The host is not served here.
pub const HOST_UNKNOWN: Reason = Reason::client("host_unknown", 2120, 421, "This host is not served here");
/// No operation has this path.
pub const ROUTE_UNKNOWN: Reason = Reason::client("route_unknown", 2121, 404, "Not found");
/// The path has operations, but not with this method.
pub const METHOD_UNKNOWN: Reason = Reason::client("method_unknown", 2122, 405, "Method not allowed");
/// This listener only sends clients to its TLS twin.
pub const TLS_REQUIRED: Reason = Reason::client("tls_required", 2123, 308, "Use https");

/// What a request means.
#[derive(Clone, Copy, Debug)]
pub enum Meant<'s> {
    /// This operation.
    Operation(&'s Operation),
    /// OPTIONS of a path that has operations, none of which is called so: it asks which methods there are, and `Allow` says
    /// it (RFC 9110 §9.3.7).
    Methods,
}

/// Finds the operation. Fills in the client's address, the canonical target and the operation's index.
///
/// # Errors
/// The reason to refuse the request with.
pub fn operation<'s>(
    x: &mut Exchange,
    client: &Client<'_>,
    snapshot: &'s Snapshot,
) -> Result<Meant<'s>, Reason> {
    x.client = client_address(x, client.listener);
    x.target = canonical(&x.request.bytes, &x.request.table, EncodedSlash::Refuse, &mut x.canonical)?;
    if !client.listener.serves(x.host()) {
        return Err(HOST_UNKNOWN);
    }
    if client.listener.redirect {
        redirect(x);
        return Err(TLS_REQUIRED);
    }
    match snapshot.router.find(x.host(), x.path(), x.method()) {
        Lookup::Found { value, .. } => {
            let operation = snapshot.operations.get(value as usize).ok_or(ROUTE_UNKNOWN)?;
            x.operation = value;
            x.api = operation.api;
            match operation.methods {
                Some(methods) if !methods.contains(x.method()) => allowed(x, methods),
                _ => Ok(Meant::Operation(operation)),
            }
        }
        Lookup::HostUnknown => Err(HOST_UNKNOWN),
        Lookup::NotFound => Err(ROUTE_UNKNOWN),
        Lookup::MethodNotAllowed { allow } => allowed(x, allow),
    }
}

/// The path is served, but not with this method: what it may be asked is told either way.
#[cold]
fn allowed<'s>(x: &mut Exchange, methods: MethodSet) -> Result<Meant<'s>, Reason> {
    // RFC 9110 §15.5.6: a 405 must say what is allowed.
    x.answer_inserts.extend_from_slice(b"allow: ");
    methods.with(Method::Options).write(&mut x.answer_inserts);
    x.answer_inserts.extend_from_slice(b"\r\n");
    match x.method() {
        Method::Options => Ok(Meant::Methods),
        _ => Err(METHOD_UNKNOWN),
    }
}

/// The same place under https, for a listener that serves nothing else.
fn redirect(x: &mut Exchange) {
    let (target, canonical, bytes) = (x.target, &x.canonical, &x.request.bytes);
    let out = &mut x.answer_inserts;
    out.extend_from_slice(b"location: https://");
    out.extend_from_slice(target.host.of(bytes, canonical));
    out.extend_from_slice(target.path.of(bytes, canonical));
    if let Some(query) = target.query {
        out.push(b'?');
        out.extend_from_slice(query.of(bytes));
    }
    out.extend_from_slice(b"\r\n");
}

/// The peer, or, where trusted proxies speak for it, the nearest address in `X-Forwarded-For` that is not itself a
/// trusted proxy: read from the right, because everything to the left of that was written by somebody unknown.
fn client_address(x: &Exchange, listener: &Listener) -> IpAddr {
    let peer = x.peer.ip();
    let trusted = |address: &IpAddr| listener.trusted_proxies.iter().any(|network| network.contains(address));
    if listener.trusted_proxies.is_empty() || !trusted(&peer) {
        return peer;
    }
    let mut nearest = peer;
    let mut values: [&[u8]; 8] = [&[]; 8];
    let mut count = 0;
    for (_, field) in x.fields().find_all(Known::XForwardedFor) {
        if count < values.len() {
            values[count] = field.value().of(x.head_bytes());
            count += 1;
        }
    }
    for value in values[..count].iter().rev() {
        for member in value.rsplit(|&byte| byte == b',') {
            let Some(address) = parse_address(member.trim_ascii()) else { return nearest };
            nearest = address;
            if !trusted(&address) {
                return nearest;
            }
        }
    }
    nearest
}

/// An address as proxies write it: bare, with a port, or an IPv6 address in brackets.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    if let Ok(socket) = text.parse::<std::net::SocketAddr>() {
        return Some(socket.ip().to_canonical());
    }
    text.strip_prefix('[')?.strip_suffix(']')?.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_the_forms_that_proxies_write() {
        assert_eq!(parse_address(b"192.0.2.1"), "192.0.2.1".parse().ok());
        assert_eq!(parse_address(b"192.0.2.1:80"), "192.0.2.1".parse().ok());
        assert_eq!(parse_address(b"[2001:db8::1]"), "2001:db8::1".parse().ok());
        assert_eq!(parse_address(b"[2001:db8::1]:443"), "2001:db8::1".parse().ok());
        assert_eq!(parse_address(b"::ffff:192.0.2.1"), "192.0.2.1".parse().ok());
        assert_eq!(parse_address(b"unknown"), None);
        assert_eq!(parse_address(b""), None);
    }
}
