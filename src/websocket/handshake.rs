//! The opening handshake, from between the two ends (RFC 6455 §4, RFC 8441 §5).
//!
//! For: the tunnel, before it is one. Not for: who may open it (the request passed every policy), the rest of both heads
//! (the forwarding law deals with them), anything after the handshake.
//!
//! **The law.** What makes the handshake is ours on both sides: `Upgrade`, `Connection`, and every `Sec-WebSocket-*` but the
//! subprotocols end here and are written anew. So HTTP/1.1 and HTTP/2 meet in all four pairs: over HTTP/2 there is neither key
//! nor accept, and towards HTTP/1.1 a client of HTTP/2 gets a key of ours. An upstream must accept exactly what was asked:
//! our key, a subprotocol that the client offered, an extension that was offered.
//!
//! **Extensions.** `permessage-deflate` (RFC 7692) is the only one that is let through, and only where nobody has to see into
//! messages ([`Look::Heads`]) and the client offers nothing else. What is offered goes on as it came; else nothing is
//! offered, and both ends speak plainly, as every end must be able to. Limits on the size of messages then count the
//! bytes that travel: **a compressed message may be some thousand times larger for whoever inflates it**. Who wants the limit to
//! hold for what the upstream sees looks at texts ([`Look::Text`]) or messages.

use base64_simd::{AsOut, STANDARD, STANDARD_NO_PAD};
use ring::digest;

use super::filter::Look;
use crate::http::{
    BodyLength, FieldSet, Known, Method, Reason, RequestTable, ResponseTable, Span, Version,
    field::{FieldTable, KnownSet, is_word},
    scan,
};

/// A request without the wish to switch, where nothing else is spoken.
pub const WEBSOCKET_REQUIRED: Reason =
    Reason::client("websocket_required", 2400, 426, "This operation speaks WebSocket only");
/// A handshake with another method than GET (RFC 6455 §4.1).
pub const WEBSOCKET_METHOD: Reason =
    Reason::client("websocket_method", 2401, 400, "A WebSocket is opened by GET");
/// `Sec-WebSocket-Key` is missing, stands more than once, or is not 16 bytes in base64.
pub const WEBSOCKET_KEY: Reason =
    Reason::client("websocket_key", 2402, 400, "Sec-WebSocket-Key is malformed");
/// Another version than 13, over HTTP/1.1.
pub const WEBSOCKET_VERSION: Reason =
    Reason::client("websocket_version", 2403, 426, "Only version 13 of WebSocket is spoken");
/// Another version than 13, over HTTP/2, where nothing can be upgraded.
pub const WEBSOCKET_VERSION_CONNECT: Reason =
    Reason::client("websocket_version_connect", 2404, 400, "Only version 13 of WebSocket is spoken");
/// `Sec-WebSocket-Extensions` is no list of extensions.
pub const WEBSOCKET_EXTENSIONS: Reason =
    Reason::client("websocket_extensions", 2405, 400, "Sec-WebSocket-Extensions is malformed");
/// `Sec-WebSocket-Protocol` is no list of tokens.
pub const WEBSOCKET_PROTOCOL: Reason =
    Reason::client("websocket_protocol", 2406, 400, "Sec-WebSocket-Protocol is malformed");
/// A handshake with a body: readers could begin with the frames at two places.
pub const WEBSOCKET_BODY: Reason =
    Reason::client("websocket_body", 2407, 400, "A WebSocket is opened without a body");
/// A page of an origin that is not listed (RFC 6455 §10.2).
pub const WEBSOCKET_ORIGIN: Reason =
    Reason::client("websocket_origin", 2408, 403, "Pages of this origin may not open a WebSocket here");
/// An extended CONNECT for another protocol (RFC 9220 §3).
pub const CONNECT_PROTOCOL: Reason =
    Reason::client("connect_protocol", 2409, 501, "Only WebSocket is tunnelled");

/// The upstream's 101 does not switch to WebSocket.
pub const UPSTREAM_WEBSOCKET_SWITCH: Reason =
    Reason::upstream("upstream_websocket_switch", 4303, 502, "The upstream switched to something else");
/// The upstream's `Sec-WebSocket-Accept` is not the answer to the key.
pub const UPSTREAM_WEBSOCKET_ACCEPT: Reason =
    Reason::upstream("upstream_websocket_accept", 4304, 502, "The upstream did not accept the WebSocket key");
/// The upstream chose a subprotocol that the client did not offer.
pub const UPSTREAM_WEBSOCKET_PROTOCOL: Reason =
    Reason::upstream("upstream_websocket_protocol", 4305, 502, "The upstream chose an unknown subprotocol");
/// The upstream chose an extension that was not offered.
pub const UPSTREAM_WEBSOCKET_EXTENSION: Reason =
    Reason::upstream("upstream_websocket_extension", 4306, 502, "The upstream chose an unknown extension");

/// What an answer of 426 carries besides (RFC 6455 §4.4, RFC 9110 §15.5.22), as lines. Of [`WEBSOCKET_VERSION_CONNECT`] only
/// the first field applies.
pub const UPGRADE_REQUIRED_LINES: &[u8] =
    b"Sec-WebSocket-Version: 13\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n";

/// What is asked for, in `:protocol` (RFC 8441 §5).
pub const PROTOCOL: &[u8] = b"websocket";
/// The one version (RFC 6455 §4.1), as the value of `Sec-WebSocket-Version`.
pub const VERSION: &[u8] = b"13";

const DEFLATE: &[u8] = b"permessage-deflate";
/// RFC 6455 §1.3: what a server appends to the key, so that nobody answers who does not know WebSocket.
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// The value of `Sec-WebSocket-Key`: 16 bytes that are used once, in base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Key([u8; 24]);

impl Key {
    /// From 16 random bytes: for an upstream whose client did not have to bring a key.
    pub fn of_nonce(nonce: [u8; 16]) -> Key {
        let mut text = [0; 24];
        let _ = STANDARD.encode(&nonce, text.as_mut_slice().as_out());
        Key(text)
    }

    fn of_field(value: &[u8]) -> Option<Key> {
        let text: [u8; 24] = value.try_into().ok()?;
        // RFC 6455 §4.2.1: 16 bytes when decoded. Unused bits that are set are refused: one nonce has one text.
        let [digits @ .., b'=', b'='] = &text else { return None };
        let mut nonce = [0; 18];
        let decoded = STANDARD_NO_PAD.decode(digits, nonce.as_mut_slice().as_out()).ok()?;
        (decoded.len() == 16).then_some(Key(text))
    }

    /// As it stands in the field.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The `Sec-WebSocket-Accept` that answers it (RFC 6455 §4.2.2).
    pub fn accept_value(&self) -> Accept {
        // Not for security: it only shows that the server knows WebSocket.
        let mut context = digest::Context::new(&digest::SHA1_FOR_LEGACY_USE_ONLY);
        context.update(&self.0);
        context.update(GUID);
        let mut text = [0; 28];
        let _ = STANDARD.encode(context.finish().as_ref(), text.as_mut_slice().as_out());
        Accept(text)
    }
}

/// The value of `Sec-WebSocket-Accept`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accept([u8; 28]);

impl Accept {
    /// As it stands in the field.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A handshake that a client has begun, judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The client's key; `None` over HTTP/2.
    pub key: Option<Key>,
    /// What it offers in `Sec-WebSocket-Extensions` is offered to the upstream: see the module.
    pub offers_deflate: bool,
}

/// Judges an upgrade over HTTP/1.1 (RFC 6455 §4.2.1).
///
/// # Errors
/// Why it is refused; with 426 go [`UPGRADE_REQUIRED_LINES`].
pub fn judge_upgrade(head: &[u8], table: &RequestTable, look: Look) -> Result<Opening, &'static Reason> {
    let fields = &table.fields;
    let names_websocket = fields.find_all(Known::Upgrade).any(|(_, field)| {
        scan::members(field.value().of(head)).any(|protocol| is_word(protocol, b"websocket"))
    });
    // The table says `upgrade` for HTTP/1.1 with `Connection: upgrade` only.
    if !table.upgrade || !names_websocket {
        return Err(&WEBSOCKET_REQUIRED);
    }
    if table.method != Method::Get {
        return Err(&WEBSOCKET_METHOD);
    }
    if !is_version_13(head, fields) {
        return Err(&WEBSOCKET_VERSION);
    }
    let key = match fields.is_repeated(Known::SecWebsocketKey) {
        true => None,
        false => fields.value(head, Known::SecWebsocketKey).and_then(Key::of_field),
    };
    let offers_deflate = judge_offers(head, table, look)?;
    Ok(Opening { key: Some(key.ok_or(&WEBSOCKET_KEY)?), offers_deflate })
}

/// Judges an extended CONNECT over HTTP/2 (RFC 8441 §5): `protocol` is the value of `:protocol`, `arena` holds the fields.
///
/// # Errors
/// Why it is refused.
pub fn judge_connect(
    arena: &[u8],
    table: &RequestTable,
    protocol: &[u8],
    look: Look,
) -> Result<Opening, &'static Reason> {
    // RFC 8441 §5: "websocket", in lower case, as the registry of upgrade tokens has it.
    if protocol != PROTOCOL {
        return Err(&CONNECT_PROTOCOL);
    }
    if !is_version_13(arena, &table.fields) {
        return Err(&WEBSOCKET_VERSION_CONNECT);
    }
    Ok(Opening { key: None, offers_deflate: judge_offers(arena, table, look)? })
}

/// Judges where the page comes from that opens the WebSocket: no other rule of browsers does, since WebSockets are not subject
/// to CORS (RFC 6455 §10.2). `allowed` are origins as browsers write them (`https://shop.example.com`). Who sends no
/// `Origin` is no browser, and passes.
///
/// # Errors
/// The origin is not allowed.
pub fn judge_origin<'a>(
    head: &[u8],
    fields: &FieldTable,
    allowed: impl IntoIterator<Item = &'a [u8]>,
) -> Result<(), &'static Reason> {
    let Some(origin) = fields.value(head, Known::Origin) else { return Ok(()) };
    let is_allowed = !fields.is_repeated(Known::Origin)
        && allowed.into_iter().any(|allowed| allowed.eq_ignore_ascii_case(origin));
    if is_allowed { Ok(()) } else { Err(&WEBSOCKET_ORIGIN) }
}

/// The fields of a request, or of its answer, that end here because we write them, in union with those that the forwarding
/// law names.
pub fn skip(fields: &FieldTable) -> FieldSet {
    const OURS: KnownSet = KnownSet::of(&[
        Known::SecWebsocketKey,
        Known::SecWebsocketAccept,
        Known::SecWebsocketVersion,
        Known::SecWebsocketExtensions,
    ]);
    let mut skip = FieldSet::EMPTY;
    if fields.has_any(&OURS) {
        for (index, field) in fields.as_slice().iter().enumerate() {
            if OURS.contains(field.known) {
                skip.insert(index);
            }
        }
    }
    skip
}

impl Opening {
    /// What the upstream is asked, as fields with names in lower case.
    ///
    /// `head` and `fields` are the client's. `key` goes to HTTP/1.1 only: the client's, or [`Key::of_nonce`].
    pub fn fields<'a>(
        &self,
        head: &'a [u8],
        fields: &'a FieldTable,
        key: Option<&'a Key>,
    ) -> impl Iterator<Item = (&'static [u8], &'a [u8])> {
        let offered = self.offers_deflate.then(|| values(head, fields, Known::SecWebsocketExtensions));
        let extensions = offered.into_iter().flatten();
        std::iter::once((&b"sec-websocket-version"[..], VERSION))
            .chain(key.map(|key| (&b"sec-websocket-key"[..], key.as_bytes())))
            .chain(extensions.map(|value| (&b"sec-websocket-extensions"[..], value)))
    }

    /// Appends the lines that ask an upstream: with a key one of HTTP/1.1 to switch, without one an upstream of HTTP/2.
    pub fn push_lines(&self, out: &mut Vec<u8>, head: &[u8], fields: &FieldTable, key: Option<&Key>) {
        if key.is_some() {
            out.extend_from_slice(SWITCH_LINES);
        }
        for (name, value) in self.fields(head, fields, key) {
            crate::http::forward::push_field(out, name, value);
        }
    }
}

const SWITCH_LINES: &[u8] = b"Connection: Upgrade\r\nUpgrade: websocket\r\n";

/// An answer by which an upstream has accepted, judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// `permessage-deflate` is in use: for [`super::Rules::deflate`] of both directions.
    pub deflate: bool,
    /// The subprotocol, in the upstream's head; its field goes on to the client like any other.
    pub protocol: Option<Span>,
}

/// What an answer is measured against.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The client's head.
    pub head: &'a [u8],
    /// Its fields.
    pub fields: &'a FieldTable,
    /// What it began.
    pub opening: Opening,
}

/// Judges a 101 from an upstream that was asked with `key` over HTTP/1.1 (RFC 6455 §4.1, what a client validates). Any other
/// status is an ordinary answer and does not belong here.
///
/// # Errors
/// Why the upstream's answer is no switch to WebSocket.
pub fn judge_switch(
    head: &[u8],
    table: &ResponseTable,
    key: &Key,
    asked: &Asked<'_>,
) -> Result<Agreed, &'static Reason> {
    let fields = &table.fields;
    let names_websocket = !fields.is_repeated(Known::Upgrade)
        && fields.value(head, Known::Upgrade).is_some_and(|value| is_word(value, b"websocket"));
    if table.status != 101 || table.version != Version::Http11 || !table.upgrade || !names_websocket {
        return Err(&UPSTREAM_WEBSOCKET_SWITCH);
    }
    let accepts = !fields.is_repeated(Known::SecWebsocketAccept)
        && fields.value(head, Known::SecWebsocketAccept) == Some(key.accept_value().as_bytes());
    if !accepts {
        return Err(&UPSTREAM_WEBSOCKET_ACCEPT);
    }
    judge_agreement(head, fields, asked)
}

/// Judges the answer of an upstream that was asked over HTTP/2. A status that is not 2xx is an ordinary answer and does not
/// belong here.
///
/// # Errors
/// Why the upstream's answer is none to what was asked.
pub fn judge_connected(
    arena: &[u8],
    table: &ResponseTable,
    asked: &Asked<'_>,
) -> Result<Agreed, &'static Reason> {
    if !(200..300).contains(&table.status) {
        return Err(&UPSTREAM_WEBSOCKET_SWITCH);
    }
    judge_agreement(arena, &table.fields, asked)
}

impl Agreed {
    /// What the client is told, as fields: the upstream's extensions, and `accept` if the client sent a key.
    pub fn fields<'a>(
        &self,
        head: &'a [u8],
        fields: &'a FieldTable,
        accept: Option<&'a Accept>,
    ) -> impl Iterator<Item = (&'static [u8], &'a [u8])> {
        let agreed = self.deflate.then(|| values(head, fields, Known::SecWebsocketExtensions));
        accept
            .map(|accept| (&b"sec-websocket-accept"[..], accept.as_bytes()))
            .into_iter()
            .chain(agreed.into_iter().flatten().map(|value| (&b"sec-websocket-extensions"[..], value)))
    }

    /// Appends the lines of the answer to a client: with `accept` of the 101 of HTTP/1.1. `head` and `fields` are the upstream's.
    pub fn push_lines(&self, out: &mut Vec<u8>, head: &[u8], fields: &FieldTable, accept: Option<&Accept>) {
        if accept.is_some() {
            out.extend_from_slice(SWITCH_LINES);
        }
        for (name, value) in self.fields(head, fields, accept) {
            crate::http::forward::push_field(out, name, value);
        }
    }
}

fn is_version_13(head: &[u8], fields: &FieldTable) -> bool {
    !fields.is_repeated(Known::SecWebsocketVersion)
        && fields.value(head, Known::SecWebsocketVersion) == Some(VERSION)
}

/// Judges what both kinds of handshakes have in common; whether `permessage-deflate` may be offered.
fn judge_offers(head: &[u8], table: &RequestTable, look: Look) -> Result<bool, &'static Reason> {
    // RFC 9113 §8.5: a CONNECT has no content; RFC 9110 §7.8: an upgrade follows the whole request.
    if table.framing != BodyLength::None {
        return Err(&WEBSOCKET_BODY);
    }
    let fields = &table.fields;
    // RFC 6455 §4.1, 1#token; whether one stands there twice is the server's to judge.
    for value in values(head, fields, Known::SecWebsocketProtocol) {
        if scan::members(value).next().is_none() || !scan::members(value).all(scan::is_token) {
            return Err(&WEBSOCKET_PROTOCOL);
        }
    }
    let mut offers = 0;
    let mut plain = look == Look::Heads;
    for value in values(head, fields, Known::SecWebsocketExtensions) {
        // RFC 6455 §9.1: what does not obey the grammar fails the connection, even if nobody would use it.
        for extension in extensions(value).ok_or(&WEBSOCKET_EXTENSIONS)? {
            offers += 1;
            plain &= is_deflate(extension);
        }
    }
    Ok(plain && offers > 0)
}

fn judge_agreement(head: &[u8], fields: &FieldTable, asked: &Asked<'_>) -> Result<Agreed, &'static Reason> {
    let mut chosen = 0;
    for value in values(head, fields, Known::SecWebsocketExtensions) {
        for extension in extensions(value).ok_or(&UPSTREAM_WEBSOCKET_EXTENSION)? {
            chosen += 1;
            if !asked.opening.offers_deflate || chosen > 1 || !is_deflate(extension) {
                return Err(&UPSTREAM_WEBSOCKET_EXTENSION);
            }
        }
    }
    let protocol = fields.find(Known::SecWebsocketProtocol).map(|field| field.value());
    if let Some(protocol) = protocol {
        // RFC 6455 §4.1: "a subprotocol that was not present in the client's handshake" fails the connection.
        let was_offered = values(asked.head, asked.fields, Known::SecWebsocketProtocol)
            .flat_map(scan::members)
            .any(|offered| offered == protocol.of(head));
        if fields.is_repeated(Known::SecWebsocketProtocol) || !was_offered {
            return Err(&UPSTREAM_WEBSOCKET_PROTOCOL);
        }
    }
    Ok(Agreed { deflate: chosen > 0, protocol })
}

fn values<'a>(head: &'a [u8], fields: &'a FieldTable, known: Known) -> impl Iterator<Item = &'a [u8]> {
    fields.find_all(known).map(move |(_, field)| field.value().of(head))
}

/// The extensions that a field lists, with their parameters; `None` if it is no such list (RFC 6455 §9.1). Values in quotes are
/// tokens as well, so that a comma or a semicolon always separates.
fn extensions(value: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let is_parameter = |parameter: &[u8]| match parameter.iter().position(|byte| *byte == b'=') {
        None => scan::is_token(parameter),
        Some(at) => {
            let value = scan::trim(&parameter[at + 1..]);
            let value = match value {
                [b'"', inner @ .., b'"'] => inner,
                plain => plain,
            };
            scan::is_token(scan::trim(&parameter[..at])) && scan::is_token(value)
        }
    };
    let is_extension = |extension: &[u8]| {
        let mut parts = extension.split(|byte| *byte == b';').map(scan::trim);
        parts.next().is_some_and(scan::is_token) && parts.all(is_parameter)
    };
    let whole = scan::members(value).next().is_some() && scan::members(value).all(is_extension);
    whole.then(|| scan::members(value))
}

fn is_deflate(extension: &[u8]) -> bool {
    let name = extension.split(|byte| *byte == b';').next().unwrap_or_default();
    scan::trim(name).eq_ignore_ascii_case(DEFLATE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h1::parse::{Parse, parse_request, parse_response};
    use crate::http::HeadLimits;

    const GOOD: &str = "Host: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n";

    fn request(text: &str) -> (Vec<u8>, RequestTable) {
        let mut table = RequestTable::new();
        let parsed = parse_request(text.as_bytes(), &HeadLimits::DEFAULT, &mut table);
        assert_eq!(parsed, Ok(Parse::Complete { head_bytes: text.len() }), "{text}");
        (text.as_bytes().to_vec(), table)
    }

    fn judged(line: &str, fields: &str, look: Look) -> Result<Opening, &'static str> {
        let (head, table) = request(&format!("{line}\r\n{fields}\r\n"));
        judge_upgrade(&head, &table, look).map_err(|reason| reason.token)
    }

    fn get(fields: &str) -> Result<Opening, &'static str> {
        judged("GET /chat HTTP/1.1", fields, Look::Heads)
    }

    #[test]
    fn rfc_6455_1_3_the_sample_key_has_the_sample_accept() {
        let key = get(GOOD).unwrap().key.unwrap();
        assert_eq!(key.accept_value().as_bytes(), b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(Key::of_nonce(*b"the sample nonce"), key);
    }

    #[test]
    fn rfc_6455_4_2_1_what_a_client_must_send() {
        assert!(get(&GOOD.replace("websocket", "WebSocket")).is_ok());
        assert!(get(&GOOD.replace("websocket", "foo/1, websocket")).is_ok());
        assert!(get(&GOOD.replace("Connection: Upgrade", "Connection: keep-alive, upgrade")).is_ok());
        for (from, to, token) in [
            ("Upgrade: websocket\r\n", "", "websocket_required"),
            ("Upgrade: websocket", "Upgrade: chat", "websocket_required"),
            ("Upgrade: websocket", "Upgrade: websockets", "websocket_required"),
            ("Upgrade: websocket", "Upgrade: websocket/13", "websocket_required"),
            ("Connection: Upgrade\r\n", "", "websocket_required"),
            ("Connection: Upgrade", "Connection: keep-alive", "websocket_required"),
            ("Sec-WebSocket-Version: 13\r\n", "", "websocket_version"),
            ("Version: 13", "Version: 8", "websocket_version"),
            ("Version: 13", "Version: 13, 8", "websocket_version"),
            ("Version: 13", "Version: 013", "websocket_version"),
            ("Version: 13\r\n", "Version: 13\r\nSec-WebSocket-Version: 13\r\n", "websocket_version"),
            ("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n", "", "websocket_key"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "", "websocket_key"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZQ", "websocket_key"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZR==", "websocket_key"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25j", "websocket_key"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZSE=", "websocket_key"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZSBub25jZSEh", "websocket_key"),
            ("dGhlIHNhbXBsZSBub25jZQ==", "dGhl-HNhbXBsZSBub25jZQ==", "websocket_key"),
        ] {
            let fields = GOOD.replace(from, to);
            assert_ne!(fields, GOOD);
            assert_eq!(get(&fields), Err(token), "{fields}");
        }
        let upgrade = |line| judged(line, GOOD, Look::Heads);
        assert_eq!(upgrade("OPTIONS / HTTP/1.1"), Err("websocket_method"));
        assert_eq!(upgrade("HEAD / HTTP/1.1"), Err("websocket_method"));
        assert_eq!(upgrade("GET / HTTP/1.0"), Err("websocket_required"));
        let body = format!("{GOOD}Content-Length: 0\r\n");
        assert_eq!(get(&body), Err("websocket_body"), "even an empty one: nobody sends it");
        for status in [(&WEBSOCKET_REQUIRED, 426), (&WEBSOCKET_VERSION, 426), (&WEBSOCKET_KEY, 400)] {
            assert_eq!(status.0.status, status.1);
        }
    }

    #[test]
    fn rfc_8441_5_an_extended_connect_needs_neither_key_nor_upgrade() {
        // Any table will do: the parser of HTTP/1.1 makes one as well.
        let (head, mut table) = request("GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Version: 13\r\n\r\n");
        table.method = Method::Connect;
        let connect = |protocol: &[u8]| judge_connect(&head, &table, protocol, Look::Heads);
        assert_eq!(connect(b"websocket"), Ok(Opening { key: None, offers_deflate: false }));
        assert_eq!(connect(b"connect-udp"), Err(&CONNECT_PROTOCOL));
        assert_eq!(connect(b"WebSocket"), Err(&CONNECT_PROTOCOL));
        let (head, table) = request("GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Version: 8\r\n\r\n");
        assert_eq!(judge_connect(&head, &table, b"websocket", Look::Heads), Err(&WEBSOCKET_VERSION_CONNECT));
    }

    #[test]
    fn rfc_6455_9_1_extensions_are_offered_where_nobody_looks_inside() {
        let offer = |lines: &str, look| judged("GET / HTTP/1.1", &format!("{GOOD}{lines}"), look);
        let deflate = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
        assert!(offer(deflate, Look::Heads).unwrap().offers_deflate);
        assert!(!offer(deflate, Look::Text).unwrap().offers_deflate);
        assert!(!offer(deflate, Look::Messages).unwrap().offers_deflate);
        assert!(!offer("", Look::Heads).unwrap().offers_deflate);
        let two =
            "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=10, permessage-deflate\r\n";
        assert!(offer(two, Look::Heads).unwrap().offers_deflate);
        for other in ["permessage-deflate, foo", "foo", "x-webkit-deflate-frame", "permessage-bzip2;a=\"1\""]
        {
            let line = format!("Sec-WebSocket-Extensions: {other}\r\n");
            assert!(!offer(&line, Look::Heads).unwrap().offers_deflate, "{other}");
        }
        for wrong in
            ["", ",", "a b", "a;", "a;b=", "a;=b", "a;b=\"", "a;b=\"c d\"", "a;b=\"c,d\"", "a,b c", ";"]
        {
            let line = format!("Sec-WebSocket-Extensions: {wrong}\r\n");
            assert_eq!(offer(&line, Look::Text), Err("websocket_extensions"), "{wrong}");
        }
    }

    #[test]
    fn rfc_6455_4_1_subprotocols_are_tokens() {
        let offer = |value: &str| get(&format!("{GOOD}Sec-WebSocket-Protocol: {value}\r\n"));
        assert!(offer("chat, superchat").is_ok());
        for wrong in ["", ",", "a b", "a, \"b\"", "a/b"] {
            assert_eq!(offer(wrong), Err("websocket_protocol"), "{wrong}");
        }
    }

    #[test]
    fn rfc_6455_10_2_pages_of_other_origins_are_refused() {
        let judge = |origin: &str| {
            let (head, table) = request(&format!("GET / HTTP/1.1\r\nHost: a\r\n{origin}\r\n"));
            judge_origin(&head, &table.fields, [&b"https://a.example"[..], b"https://b.example"])
        };
        assert_eq!(judge(""), Ok(()));
        assert_eq!(judge("Origin: https://b.example\r\n"), Ok(()));
        for origin in ["https://a.example.evil", "http://a.example", "null", "", "https://a.example:444"] {
            assert_eq!(judge(&format!("Origin: {origin}\r\n")), Err(&WEBSOCKET_ORIGIN), "{origin}");
        }
    }

    /// Client's fields, upstream's answer: what is agreed.
    fn answered(offers: &str, answer: &str, look: Look) -> Result<Agreed, &'static str> {
        let (head, table) = request(&format!("GET / HTTP/1.1\r\n{GOOD}{offers}\r\n"));
        let opening = judge_upgrade(&head, &table, look).unwrap();
        let mut response = ResponseTable::new();
        let parsed = parse_response(answer.as_bytes(), &HeadLimits::DEFAULT, Method::Get, &mut response);
        assert_eq!(parsed, Ok(Parse::Complete { head_bytes: answer.len() }), "{answer}");
        let asked = Asked { head: &head, fields: &table.fields, opening };
        judge_switch(answer.as_bytes(), &response, &opening.key.unwrap(), &asked)
            .map_err(|reason| reason.token)
    }

    const SWITCH: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";

    #[test]
    fn rfc_6455_4_1_what_an_upstream_must_answer() {
        let answer = |text: String| answered("", &format!("{text}\r\n"), Look::Heads);
        assert_eq!(answer(SWITCH.to_owned()), Ok(Agreed { deflate: false, protocol: None }));
        assert!(answer(SWITCH.replace("websocket", "WebSocket")).is_ok());
        for (from, to, token) in [
            ("Upgrade: websocket", "Upgrade: chat", "upstream_websocket_switch"),
            ("Upgrade: websocket", "Upgrade: websocket, chat", "upstream_websocket_switch"),
            ("Upgrade: websocket\r\n", "", "upstream_websocket_switch"),
            ("Connection: Upgrade\r\n", "", "upstream_websocket_switch"),
            ("HTTP/1.1 101", "HTTP/1.0 101", "upstream_websocket_switch"),
            ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "s3pPLMBiTxaQ9kYGzzhZRbK+xOp=", "upstream_websocket_accept"),
            ("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n", "", "upstream_websocket_accept"),
            ("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "dGhlIHNhbXBsZSBub25jZQ==", "upstream_websocket_accept"),
        ] {
            let text = SWITCH.replacen(from, to, 1);
            assert_ne!(text, SWITCH);
            assert_eq!(answer(text), Err(token), "{to}");
        }
        let twice = format!("{SWITCH}Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n");
        assert_eq!(answer(twice), Err("upstream_websocket_accept"));
    }

    #[test]
    fn an_upstream_chooses_from_what_was_offered() {
        let deflate = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits\r\n";
        let chooses = |offers, line: &str, look| answered(offers, &format!("{SWITCH}{line}\r\n"), look);
        let agreed = chooses(deflate, "Sec-WebSocket-Extensions: permessage-deflate\r\n", Look::Heads);
        assert_eq!(agreed, Ok(Agreed { deflate: true, protocol: None }));
        assert_eq!(chooses(deflate, "", Look::Heads), Ok(Agreed { deflate: false, protocol: None }));
        let unknown = Err("upstream_websocket_extension");
        for (offers, line, look) in [
            ("", "Sec-WebSocket-Extensions: permessage-deflate\r\n", Look::Heads),
            (deflate, "Sec-WebSocket-Extensions: permessage-deflate\r\n", Look::Text),
            (deflate, "Sec-WebSocket-Extensions: foo\r\n", Look::Heads),
            (deflate, "Sec-WebSocket-Extensions: permessage-deflate, permessage-deflate\r\n", Look::Heads),
            (deflate, "Sec-WebSocket-Extensions: permessage-deflate;\r\n", Look::Heads),
        ] {
            assert_eq!(chooses(offers, line, look), unknown, "{line}");
        }
        let protocols = "Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Protocol: third\r\n";
        for (offers, line, expected) in [
            (protocols, "Sec-WebSocket-Protocol: superchat\r\n", true),
            (protocols, "Sec-WebSocket-Protocol: third\r\n", true),
            (protocols, "", true),
            (protocols, "Sec-WebSocket-Protocol: Chat\r\n", false),
            (protocols, "Sec-WebSocket-Protocol: chat, superchat\r\n", false),
            (protocols, "Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Protocol: chat\r\n", false),
            ("", "Sec-WebSocket-Protocol: chat\r\n", false),
        ] {
            let agreed = chooses(offers, line, Look::Heads);
            let head = format!("{SWITCH}{line}\r\n");
            match agreed {
                Ok(agreed) => {
                    let chosen = agreed.protocol.map(|span| span.of(head.as_bytes()));
                    assert_eq!(chosen, line.split(": ").nth(1).map(|value| value.trim_end().as_bytes()));
                }
                Err(token) => assert_eq!(token, "upstream_websocket_protocol"),
            }
            assert_eq!(agreed.is_ok(), expected, "{line}");
        }
    }

    #[test]
    fn what_makes_the_handshake_is_written_by_us() {
        let offers = "Sec-WebSocket-Extensions: permessage-deflate\r\nSec-WebSocket-Accept: x\r\n\
            Sec-WebSocket-Protocol: chat\r\n";
        let (head, table) = request(&format!("GET / HTTP/1.1\r\n{GOOD}{offers}\r\n"));
        let skip = skip(&table.fields).union(table.fields.hop_by_hop());
        let kept: Vec<_> =
            table.fields.iter(&head).filter(|f| !skip.contains(f.index)).map(|f| f.known).collect();
        assert_eq!(kept, [Known::Host, Known::SecWebsocketProtocol]);
        let opening = judge_upgrade(&head, &table, Look::Heads).unwrap();
        let mut out = Vec::new();
        opening.push_lines(&mut out, &head, &table.fields, Some(&Key::of_nonce([0; 16])));
        assert_eq!(
            String::from_utf8_lossy(&out),
            "Connection: Upgrade\r\nUpgrade: websocket\r\nsec-websocket-version: 13\r\n\
             sec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\nsec-websocket-extensions: permessage-deflate\r\n"
        );
        let opening = judge_upgrade(&head, &table, Look::Text).unwrap();
        let names: Vec<_> = opening.fields(&head, &table.fields, None).collect();
        assert_eq!(names, [(&b"sec-websocket-version"[..], &b"13"[..])]);
    }
}
