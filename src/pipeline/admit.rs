//! Which operation a request means: the canonical target, the listener's domains, the router.

use std::net::IpAddr;

use crate::http::Reason;
use crate::http::field::Known;
use crate::http::forwarded::{self, ClientField};
use crate::http::target::{EncodedSlash, canonical};
use crate::pipeline::exchange::Exchange;
use crate::pipeline::serve::Client;
use crate::route::Lookup;
use crate::snapshot::{Listener, Operation, Snapshot};

/// The host is not served here.
pub const HOST_UNKNOWN: Reason = Reason::client("host_unknown", 2120, 421, "This host is not served here");
/// No operation has this path.
pub const ROUTE_UNKNOWN: Reason = Reason::client("route_unknown", 2121, 404, "Not found");
/// The path has operations, but not with this method.
pub const METHOD_UNKNOWN: Reason = Reason::client("method_unknown", 2122, 405, "Method not allowed");
/// This listener only sends clients to its TLS twin.
pub const TLS_REQUIRED: Reason = Reason::client("tls_required", 2123, 308, "Use https");

/// Finds the operation. Fills in the client's address, the canonical target and the operation's index.
///
/// # Errors
/// The reason to refuse the request with.
pub fn operation<'s>(
    x: &mut Exchange,
    client: &Client<'_>,
    snapshot: &'s Snapshot,
) -> Result<&'s Operation, Reason> {
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
            Ok(operation)
        }
        Lookup::HostUnknown => Err(HOST_UNKNOWN),
        Lookup::NotFound => Err(ROUTE_UNKNOWN),
        Lookup::MethodNotAllowed { allow } => {
            // RFC 9110 §15.5.6: a 405 must say what is allowed.
            x.answer_inserts.extend_from_slice(b"allow: ");
            allow.write(&mut x.answer_inserts);
            x.answer_inserts.extend_from_slice(b"\r\n");
            Err(METHOD_UNKNOWN)
        }
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

/// The connection's source, or whom trusted proxies name ([`forwarded::client`]).
fn client_address(x: &mut Exchange, listener: &Listener) -> IpAddr {
    let source = x.source.ip();
    if listener.trusted_proxies.is_empty() || !x.hearsay {
        return source;
    }
    let known = match listener.client_field {
        ClientField::XForwardedFor => Known::XForwardedFor,
        ClientField::Forwarded => Known::Forwarded,
    };
    let Exchange { request, hops, .. } = x;
    let lines = request.table.fields.find_all(known).rev().map(|(_, field)| field.value().of(&request.bytes));
    forwarded::client(
        source,
        listener.client_field,
        lines,
        |address| listener.trusted_proxies.contains(address),
        hops,
    )
}
