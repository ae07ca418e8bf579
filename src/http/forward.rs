//! The forwarding law: which fields of a message end here, and what we write in their place.
//!
//! For: the request's path, once per direction, whatever the codec. Not for: the operator's own `headers: set/remove`,
//! framing fields (the encoders write those), refusing (what is refused never gets here).
//!
//! | field of a request | fate |
//! |---|---|
//! | Connection and what it names, Keep-Alive, TE, Trailer, Upgrade, Expect, Proxy-\*, HTTP2-Settings (RFC 9110 §7.6.1) | dropped |
//! | Content-Length, Transfer-Encoding | dropped, written anew |
//! | Forwarded, X-Forwarded-\*, X-Real-IP | dropped, written anew; a trusted proxy's values are handed in to be kept |
//! | X-HTTP-Method-Override and its like, X-Original-URL, X-Rewrite-URL | dropped: the origin must see what was authorised |
//! | X-Ringwall-\*, Remote-User, X-User\* … (see [`is_identity`]) | dropped, underscore twins and any case included |
//! | everything else | forwarded as it came |
//!
//! Cost: a few words of set arithmetic and one byte test per unknown field name.

use std::net::IpAddr;

use super::{
    RequestTable, ResponseTable,
    address::push_address,
    field::{FieldSet, FieldTable, Known, KnownSet, are_twins, twin_of},
};

/// Names that the operator gives to identity fields (`identity: {X-User: subject}`), to be stripped like our own.
#[derive(Clone, Debug, Default)]
pub struct RenamedIdentity {
    names: Vec<Box<[u8]>>,
    known: u128,
}

impl RenamedIdentity {
    /// From the names in any case. Made once per configuration.
    pub fn new<'a>(names: impl IntoIterator<Item = &'a [u8]>) -> RenamedIdentity {
        let mut renamed = RenamedIdentity::default();
        for name in names {
            renamed.known |= 1 << (Known::of(name) as u32);
            renamed.names.push(name.into());
        }
        renamed
    }

    fn has(&self, name: &[u8]) -> bool {
        self.names.iter().any(|renamed| are_twins(renamed, name))
    }
}

/// The fields of a request that do not go upstream.
#[inline]
pub fn request_skip(head: &[u8], table: &RequestTable, renamed: &RenamedIdentity) -> FieldSet {
    let fields = &table.fields;
    let mut skip =
        fields.hop_by_hop().union(fields.forwarding()).union(fields.overriding()).union(table.nominated);
    for index in fields.others().iter() {
        let Some(field) = fields.as_slice().get(index) else { break };
        let name = field.name().of(head);
        if is_identity(name) || is_forwarding_prefix(name) {
            skip.insert(index);
        }
    }
    if !fields.odd().is_empty() || !renamed.names.is_empty() {
        skip = skip.union(unusual_skip(head, fields, renamed));
    }
    skip
}

/// The fields of a response that do not go downstream.
#[inline]
pub fn response_skip(table: &ResponseTable) -> FieldSet {
    table.fields.hop_by_hop().union(table.nominated)
}

/// Twins of overriding fields, and renamed identity.
#[cold]
fn unusual_skip(head: &[u8], fields: &FieldTable, renamed: &RenamedIdentity) -> FieldSet {
    let mut skip = FieldSet::EMPTY;
    for field in fields.iter(head) {
        let twin = if fields.odd().contains(field.index) { twin_of(field.name) } else { Known::Other };
        // The request id is ours too, and stands under its own name only.
        let overriding = twin.is_override() || twin == Known::XRequestId;
        let known = field.known != Known::Other && renamed.known >> (field.known as u32) & 1 == 0;
        if overriding || !known && renamed.has(field.name) {
            skip.insert(field.index);
        }
    }
    skip
}

/// Whether a field's name is one by which origins are told who the caller is. Such fields are only ever ours: those of
/// clients are stripped on every path. Case does not matter, and any byte besides letters and digits counts as `-`.
#[inline]
pub fn is_identity(name: &[u8]) -> bool {
    // Most names end here.
    match name.first() {
        Some(b'x' | b'X') => {
            matches!(
                name.get(2),
                Some(b'r' | b'R' | b'u' | b'U' | b'a' | b'A' | b'c' | b'C' | b's' | b'S' | b'f' | b'F')
            ) && is_identity_name(name)
        }
        Some(b'r' | b'R' | b'c' | b'C') => is_identity_name(name),
        _ => false,
    }
}

fn is_identity_name(name: &[u8]) -> bool {
    const PREFIXES: [&[u8]; 8] = [
        b"x-ringwall-",
        b"x-user",
        b"x-auth-",
        b"x-authenticated-",
        b"x-consumer-",
        b"x-client-cert",
        b"x-ssl-",
        b"client-cert",
    ];
    const NAMES: [&[u8]; 4] = [b"remote-user", b"x-remote-user", b"x-forwarded-user", b"x-forwarded-email"];
    PREFIXES.iter().any(|prefix| name.get(..prefix.len()).is_some_and(|start| are_twins(start, prefix)))
        || NAMES.iter().any(|whole| are_twins(name, whole))
}

/// `X-Forwarded-*` beyond those that [`Known`] lists.
#[inline]
fn is_forwarding_prefix(name: &[u8]) -> bool {
    const PREFIX: &[u8] = b"x-forwarded-";
    matches!(name, [b'x' | b'X', _, b'f' | b'F', ..])
        && name.get(..PREFIX.len()).is_some_and(|start| are_twins(start, PREFIX))
}

/// Known fields that may stand in trailers: their definitions allow it.
const TRAILERS: KnownSet = KnownSet::of(&[
    Known::Etag,
    Known::ContentDigest,
    Known::Digest,
    Known::ServerTiming,
    Known::ProxyStatus,
]);

/// Whether a field may not stand in trailers (RFC 9110 §6.5.1): anything by which a recipient frames, routes,
/// authenticates, caches or interprets a message, and every twin of such a name.
pub fn is_forbidden_trailer(name: &[u8]) -> bool {
    let known = twin_of(name);
    let allowed = known == Known::Other || TRAILERS.contains(known) && Known::of(name) == known;
    !allowed || is_identity(name) || is_forwarding_prefix(name)
}

/// Appends one line `name: value` CRLF. The caller vouches that neither holds a control.
#[inline]
pub fn push_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    debug_assert!(!name.is_empty() && !name.iter().chain(value).any(|b| matches!(b, b'\r' | b'\n' | 0)));
    out.reserve(name.len() + value.len() + 4);
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// What is told about the client in forwarding fields.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Its address.
    pub address: IpAddr,
    /// `http` or `https`: how it reached us.
    pub proto: &'a [u8],
    /// The host it asked for, with its port if it gave one.
    pub host: &'a [u8],
}

/// RFC 7239 §6.2: the identity of whoever comes over a Unix socket.
const UNKNOWN: &[u8] = b"unknown";

/// Appends `X-Forwarded-For`: the hops that trusted proxies named, the client first, and then where the connection comes from.
pub fn x_forwarded_for(out: &mut Vec<u8>, hops: impl Iterator<Item = IpAddr>, client: &Client<'_>) {
    out.extend_from_slice(b"X-Forwarded-For: ");
    for hop in hops {
        push_address(out, hop);
        out.extend_from_slice(b", ");
    }
    match client.address.is_unspecified() {
        true => out.extend_from_slice(UNKNOWN),
        false => push_address(out, client.address),
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends `X-Forwarded-Proto` and `X-Forwarded-Host`.
#[inline]
pub fn x_forwarded_proto_host(out: &mut Vec<u8>, client: &Client<'_>) {
    push_field(out, b"X-Forwarded-Proto", client.proto);
    if !client.host.is_empty() {
        push_field(out, b"X-Forwarded-Host", client.host);
    }
}

/// Appends `Forwarded` (RFC 7239): an element for each hop that trusted proxies named, the client first, then this one's `for`,
/// `host` and `proto`.
pub fn forwarded(out: &mut Vec<u8>, hops: impl Iterator<Item = IpAddr>, client: &Client<'_>) {
    out.extend_from_slice(b"Forwarded: ");
    for hop in hops {
        push_for(out, hop);
        out.extend_from_slice(b", ");
    }
    push_for(out, client.address);
    if !client.host.is_empty() {
        let quoted = client.host.iter().any(|b| matches!(b, b':' | b'['));
        out.extend_from_slice(if quoted { b";host=\"" } else { b";host=" });
        out.extend_from_slice(client.host);
        if quoted {
            out.push(b'"');
        }
    }
    out.extend_from_slice(b";proto=");
    out.extend_from_slice(client.proto);
    out.extend_from_slice(b"\r\n");
}

/// RFC 7239 §6: an IPv6 address stands in brackets, and as those and colons are no token bytes, in quotes.
fn push_for(out: &mut Vec<u8>, address: IpAddr) {
    if address.is_unspecified() {
        out.extend_from_slice(b"for=");
        return out.extend_from_slice(UNKNOWN);
    }
    out.extend_from_slice(if address.is_ipv6() { b"for=\"[" } else { b"for=" });
    push_address(out, address);
    if address.is_ipv6() {
        out.extend_from_slice(b"]\"");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        h1::parse::{Parse, parse_request},
        http::HeadLimits,
    };

    /// The names that are forwarded.
    fn forwarded_names(lines: &str, renamed: &[&str]) -> Vec<String> {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        let mut table = RequestTable::new();
        let parsed = parse_request(head.as_bytes(), &HeadLimits::DEFAULT, &mut table);
        assert_eq!(parsed, Ok(Parse::Complete { head_bytes: head.len() }), "{lines}");
        let renamed = RenamedIdentity::new(renamed.iter().map(|name| name.as_bytes()));
        let skip = request_skip(head.as_bytes(), &table, &renamed);
        let kept = table.fields.iter(head.as_bytes()).filter(|f| !skip.contains(f.index));
        kept.map(|f| String::from_utf8_lossy(f.name).into_owned()).collect()
    }

    #[test]
    fn hop_by_hop_fields_end_here() {
        let lines = "Connection: x-a, keep-alive, te\r\nKeep-Alive: 5\r\nTE: trailers\r\nTrailer: x-t\r\n\
            Upgrade: websocket\r\nExpect: 100-continue\r\nProxy-Connection: x\r\nProxy-Authorization: y\r\n\
            HTTP2-Settings: z\r\nX-A: 1\r\nx-a: 2\r\nX-B: 3\r\nContent-Length: 0\r\n";
        assert_eq!(forwarded_names(lines, &[]), ["Host", "X-B"]);
    }

    #[test]
    fn claims_about_hops_and_overrides_end_here() {
        let lines = "Forwarded: for=a\r\nX-Forwarded-For: 1\r\nx-forwarded-host: 2\r\nX-FORWARDED-PROTO: 3\r\n\
            X-Forwarded-Anything: 4\r\nX-Real-IP: 5\r\nX-HTTP-Method-Override: DELETE\r\nX-Original-URL: /\r\n\
            X_HTTP_Method: DELETE\r\nx.rewrite.url: /\r\nX-Forward: kept\r\n";
        assert_eq!(forwarded_names(lines, &[]), ["Host", "X-Forward"]);
    }

    #[test]
    fn identity_fields_end_here_in_every_spelling() {
        for name in [
            "X-Ringwall-Subject",
            "x-ringwall-anything",
            "X_Ringwall_Subject",
            "X.Ringwall.Subject",
            "Remote-User",
            "REMOTE_USER",
            "X-Remote-User",
            "X-User",
            "x-user-id",
            "X-Username",
            "X-Userinfo",
            "X_User",
            "X-Auth-Request-Email",
            "X-Authenticated-User",
            "X-Forwarded-User",
            "X_Forwarded_Email",
            "X-Consumer-Id",
            "X-Client-Cert",
            "X-Client-Certificate",
            "X-SSL-Client-DN",
            "Client-Cert",
            "Client-Cert-Chain",
            "client_cert",
        ] {
            assert!(is_identity(name.as_bytes()), "{name}");
            assert_eq!(forwarded_names(&format!("{name}: a\r\n"), &[]), ["Host"], "{name}");
        }
        for name in [
            "X-Use",
            "X-Auth",
            "X-SSL",
            "Remote-Users",
            "XUser",
            "X",
            "x-",
            "Client",
            "X-Request-Id",
            "X-Api-Key",
        ] {
            assert!(!is_identity(name.as_bytes()), "{name}");
            assert_eq!(forwarded_names(&format!("{name}: a\r\n"), &[]), ["Host", name]);
        }
        // Both spellings of one identity are stripped, not refused.
        assert_eq!(forwarded_names("X-User: a\r\nX_User: b\r\n", &[]), ["Host"]);
    }

    #[test]
    fn renamed_identity_fields_end_here() {
        let lines = "x-caller: a\r\nX_Caller: a\r\nVia: b\r\nX-Callers: c\r\n";
        let lines = lines.replace("X_Caller: a\r\n", "");
        assert_eq!(forwarded_names(&lines, &["X-Caller"]), ["Host", "Via", "X-Callers"]);
        assert_eq!(forwarded_names("X_Caller: a\r\n", &["X-Caller"]), ["Host"]);
        assert_eq!(forwarded_names("via: a\r\nDate: b\r\n", &["Via"]), ["Host", "Date"]);
    }

    #[test]
    fn trailers_that_change_the_message_are_forbidden() {
        for name in [
            "Content-Length",
            "transfer_encoding",
            "Host",
            "Authorization",
            "Set-Cookie",
            "Content-Type",
            "TE",
            "X-Forwarded-For",
            "X-Forwarded-Foo",
            "X-User",
            "Cache-Control",
            "e_tag",
            "server_timing",
            "Via",
        ] {
            let allowed = name == "e_tag";
            assert_eq!(is_forbidden_trailer(name.as_bytes()), !allowed, "{name}");
        }
        for name in
            ["grpc-status", "grpc-message", "X-Checksum", "ETag", "Content-Digest", "Server-Timing", "x_y"]
        {
            assert!(!is_forbidden_trailer(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn who_comes_over_a_unix_socket_is_unknown() {
        let mut out = Vec::new();
        let client = Client { address: IpAddr::from([0_u16; 8]), proto: b"http", host: b"" };
        x_forwarded_for(&mut out, std::iter::empty(), &client);
        forwarded(&mut out, [IpAddr::from([192, 0, 2, 7])].into_iter(), &client);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "X-Forwarded-For: unknown\r\nForwarded: for=192.0.2.7, for=unknown;proto=http\r\n"
        );
    }

    #[test]
    fn forwarding_fields_are_written_in_the_form_of_their_rfc() {
        let mut out = Vec::new();
        let client = Client { address: IpAddr::from([192, 0, 2, 7]), proto: b"https", host: b"a.example" };
        x_forwarded_for(&mut out, std::iter::empty(), &client);
        let hops: [IpAddr; 2] = ["2001:db8::7".parse().unwrap(), IpAddr::from([10, 0, 0, 3])];
        x_forwarded_for(&mut out, hops.into_iter(), &client);
        x_forwarded_proto_host(&mut out, &client);
        forwarded(&mut out, std::iter::empty(), &client);
        let client = Client { address: "2001:db8::1".parse().unwrap(), proto: b"http", host: b"[::1]:8080" };
        forwarded(&mut out, hops.into_iter(), &client);
        assert_eq!(
            String::from_utf8_lossy(&out),
            "X-Forwarded-For: 192.0.2.7\r\n\
             X-Forwarded-For: 2001:db8::7, 10.0.0.3, 192.0.2.7\r\n\
             X-Forwarded-Proto: https\r\nX-Forwarded-Host: a.example\r\n\
             Forwarded: for=192.0.2.7;host=a.example;proto=https\r\n\
             Forwarded: for=\"[2001:db8::7]\", for=10.0.0.3, for=\"[2001:db8::1]\";host=\"[::1]:8080\";proto=http\r\n"
        );
    }
}
