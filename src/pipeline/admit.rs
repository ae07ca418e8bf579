//! Which operation a request means: the canonical target, the listener's domains, the router.

use std::net::IpAddr;

use crate::http::field::Known;
use crate::http::forwarded::{self, ClientField};
use crate::http::target::{PATH_SLASH_ENCODED, Place, Scheme, TARGET_SCHEME, canonical, decode_slashes};
use crate::http::{Method, Reason};
use crate::pipeline::exchange::Exchange;
use crate::pipeline::serve::Client;
use crate::route::{Lookup, MethodSet};
use crate::snapshot::{Listener, Operation, Snapshot};
use crate::tls::ServerProfile;
use crate::worker::core::Core;

/// The host is not served here.
pub const HOST_UNKNOWN: Reason = Reason::client("host_unknown", 2120, 421, "This host is not served here");
/// No operation has this path.
pub const ROUTE_UNKNOWN: Reason = Reason::client("route_unknown", 2121, 404, "Not found");
/// The path has operations, but not with this method.
pub const METHOD_UNKNOWN: Reason = Reason::client("method_unknown", 2122, 405, "Method not allowed");
/// This listener only sends clients to its TLS twin.
pub const TLS_REQUIRED: Reason = Reason::client("tls_required", 2123, 308, "Use https");

/// Sees to the certificate of the client's connection, where its listener asks for one: what was true in the handshake need
/// not be true any more. Costs a branch where none is asked for.
///
/// # Errors
/// The reason to refuse the request with, which ends the connection.
pub fn certificate(x: &mut Exchange, client: &Client<'_>, core: &Core) -> Result<(), Reason> {
    let Some(clients) = client.listener.tls.as_ref().and_then(ServerProfile::clients) else { return Ok(()) };
    let now_s = core.clock.unix_ns(x.facts.started_ns) / 1_000_000_000;
    x.certificate = clients.admit(client.transport.client_certificate(), now_s).map_err(|reason| *reason)?;
    Ok(())
}

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
    x.target = canonical(&x.request.bytes, &x.request.table, snapshot.encoded_slash, &mut x.canonical)?;
    if let Some(scheme) = x.target.scheme {
        fits_connection(scheme, x, client.listener)?;
    }
    if !client.listener.serves(x.host()) {
        return Err(HOST_UNKNOWN);
    }
    if client.listener.redirect {
        redirect(x);
        return Err(TLS_REQUIRED);
    }
    if x.target.encoded_slash {
        keep_encoded_slash(x, snapshot)?;
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

/// RFC 9110 §7.4: a target in absolute-form that names another scheme than the one it came by was meant for somebody else.
/// A trusted proxy may have ended TLS before us.
fn fits_connection(scheme: Scheme, x: &Exchange, listener: &Listener) -> Result<(), Reason> {
    let secure = scheme == Scheme::Https;
    let ended_before = secure && listener.trusted_proxies.contains(x.peer.ip());
    if secure == x.secure || ended_before { Ok(()) } else { Err(TARGET_SCHEME) }
}

/// An encoded slash is kept where the operation asks for it, and where the path would be no other operation's if the slash
/// were one: an origin that makes no difference must not be led past what was authorised.
#[cold]
fn keep_encoded_slash(x: &mut Exchange, snapshot: &Snapshot) -> Result<(), Reason> {
    let kept = match snapshot.router.find(x.host(), x.path(), x.method()) {
        Lookup::Found { value, .. } => value,
        _ => return Err(PATH_SLASH_ENCODED),
    };
    if !snapshot.operations.get(kept as usize).is_some_and(|operation| operation.keeps_encoded_slash) {
        return Err(PATH_SLASH_ENCODED);
    }
    let mut scratch = std::mem::take(&mut x.canonical);
    let from = scratch.len();
    match x.target.path {
        Place::Head(span) => scratch.extend_from_slice(span.of(&x.request.bytes)),
        Place::Scratch(span) => scratch.extend_from_within(usize::from(span.start)..span.end()),
    }
    decode_slashes(&mut scratch, from);
    let host = x.target.host.of(&x.request.bytes, &scratch);
    let decoded = snapshot.router.find(host, &scratch[from..], x.method());
    let another = match decoded {
        Lookup::Found { value, .. } => value != kept,
        Lookup::MethodNotAllowed { .. } => true,
        Lookup::NotFound | Lookup::HostUnknown => false,
    };
    scratch.truncate(from);
    x.canonical = scratch;
    if another { Err(PATH_SLASH_ENCODED) } else { Ok(()) }
}

/// The same place under https, for a listener that serves nothing else.
fn redirect(x: &mut Exchange) {
    let (target, canonical, bytes) = (x.target, &x.canonical, &x.request.bytes);
    let out = &mut x.answer_inserts;
    out.extend_from_slice(b"location: https://");
    out.extend_from_slice(target.host.of(bytes, canonical));
    // RFC 9112 §3.2.4: who asks about the server as a whole is led to its URI without a path, which means that again.
    let path = target.path.of(bytes, canonical);
    if path != b"*" {
        out.extend_from_slice(path);
    }
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
