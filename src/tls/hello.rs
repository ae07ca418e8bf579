//! Our own look at the ClientHello (RFC 8446 §4.1.2, RFC 5246 §7.4.1.2), before anything is made for the client.
//!
//! It says whom the client wants to speak to, so that the listener's profile is chosen, or the client refused, by bytes
//! alone: no session, no key share, no certificate. What else is in the hello is rustls' affair; the look is strict about
//! all that it walks through, and bounded: one message of at most 16 KiB in at most 32 records.

use std::ops::Range;

use rustls::server::Acceptor;

/// The largest ClientHello that is looked at, in bytes, its header included. Post-quantum ones take two or three KiB.
pub const HELLO_BYTES_MAX: usize = 16 * 1024;
/// Records that it may come in.
pub const RECORDS_MAX: usize = 32;
/// Bytes before a fragment: type, version, length.
const RECORD_HEADER_BYTES: usize = 5;
/// Most bytes of a plaintext record (RFC 8446 §5.1).
const FRAGMENT_BYTES_MAX: usize = 1 << 14;
/// Bytes before the message: type and length.
const MESSAGE_HEADER_BYTES: usize = 4;

const CONTENT_HANDSHAKE: u8 = 22;
const MESSAGE_CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
const EXTENSION_PRE_SHARED_KEY: u16 = 41;
const NAME_HOST: u8 = 0;

/// What the bytes are, so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Look {
    /// The beginning of a ClientHello.
    Partial,
    /// A whole one.
    Complete(Hello),
}

/// What a ClientHello says that the choice of a profile depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The host that is wanted (RFC 6066 §3), in lower case.
    pub server_name: Option<Box<str>>,
    /// Whether it lists protocols to be spoken inside (RFC 7301 §3.1).
    pub has_alpn: bool,
}

/// Why the bytes are no ClientHello that we go on with; as the alert that the client is told (RFC 8446 §6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alert {
    /// Not a handshake, or another message.
    UnexpectedMessage = 10,
    /// A record longer than it may be.
    RecordOverflow = 22,
    /// What is said cannot be: an extension twice, something behind the last one.
    IllegalParameter = 47,
    /// Lengths do not add up, or it is too large.
    DecodeError = 50,
    /// A version before TLS 1.0.
    ProtocolVersion = 70,
    /// Nobody of that name is here.
    UnrecognizedName = 112,
    /// Nothing is spoken here that the client has named.
    NoApplicationProtocol = 120,
}

impl Alert {
    /// The record that tells a client, fatal.
    pub fn record(self) -> [u8; 7] {
        [21, 3, 3, 0, 2, 2, self as u8]
    }
}

/// Looks at what a client sent first.
///
/// # Errors
/// [`Alert`]: it is no ClientHello, or one beyond the bounds.
pub fn look(bytes: &[u8]) -> Result<Look, Alert> {
    let mut fragments: [Range<usize>; RECORDS_MAX] = [const { 0..0 }; RECORDS_MAX];
    let mut count = 0;
    let mut at = 0;
    let mut gathered = 0;
    loop {
        let rest = &bytes[at..];
        let Some(fragment) = fragment(rest)? else { return Ok(Look::Partial) };
        let Some(place) = fragments.get_mut(count) else { return Err(Alert::DecodeError) };
        *place = at + fragment.start..at + fragment.end;
        count += 1;
        gathered += fragment.len();
        at += fragment.end;
        if gathered < MESSAGE_HEADER_BYTES {
            continue;
        }
        let mut header = [0; MESSAGE_HEADER_BYTES];
        header.iter_mut().zip(inside(bytes, &fragments[..count])).for_each(|(to, byte)| *to = byte);
        let length = message_length(header)?;
        if gathered >= length {
            let message = match &fragments[..count] {
                [only] => &bytes[only.start..only.start + length],
                several => &inside(bytes, several).take(length).collect::<Vec<u8>>(),
            };
            return hello(&message[MESSAGE_HEADER_BYTES..]).map(Look::Complete);
        }
    }
}

/// The fragment of the record that `bytes` begin with, if all of it is here.
fn fragment(bytes: &[u8]) -> Result<Option<Range<usize>>, Alert> {
    if bytes.first().is_some_and(|&content| content != CONTENT_HANDSHAKE) {
        return Err(Alert::UnexpectedMessage);
    }
    if bytes.get(1).is_some_and(|&major| major != 3) {
        return Err(Alert::ProtocolVersion);
    }
    let Some(header) = bytes.first_chunk::<RECORD_HEADER_BYTES>() else { return Ok(None) };
    let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
    match length {
        // RFC 8446 §5.1: no fragment of a handshake is empty.
        0 => Err(Alert::UnexpectedMessage),
        1..=FRAGMENT_BYTES_MAX if bytes.len() >= RECORD_HEADER_BYTES + length => {
            Ok(Some(RECORD_HEADER_BYTES..RECORD_HEADER_BYTES + length))
        }
        1..=FRAGMENT_BYTES_MAX => Ok(None),
        _ => Err(Alert::RecordOverflow),
    }
}

/// What the fragments hold, one after the other.
fn inside(bytes: &[u8], fragments: &[Range<usize>]) -> impl Iterator<Item = u8> {
    fragments.iter().flat_map(|range| &bytes[range.clone()]).copied()
}

/// The length of the message, its header included.
fn message_length(header: [u8; MESSAGE_HEADER_BYTES]) -> Result<usize, Alert> {
    let [kind, high, middle, low] = header;
    if kind != MESSAGE_CLIENT_HELLO {
        return Err(Alert::UnexpectedMessage);
    }
    let length = MESSAGE_HEADER_BYTES + u32::from_be_bytes([0, high, middle, low]) as usize;
    if length > HELLO_BYTES_MAX { Err(Alert::DecodeError) } else { Ok(length) }
}

/// Takes things off the front.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], Alert> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or(Alert::DecodeError)?;
        self.0 = rest;
        Ok(taken)
    }

    fn u8(&mut self) -> Result<usize, Alert> {
        Ok(usize::from(self.take(1)?[0]))
    }

    fn u16(&mut self) -> Result<u16, Alert> {
        let bytes = self.take(2)?;
        Ok(u16::from_be_bytes([bytes[0], bytes[1]]))
    }

    /// A vector whose length stands before it in two bytes.
    fn vector(&mut self) -> Result<Cursor<'a>, Alert> {
        let length = self.u16()?;
        Ok(Cursor(self.take(usize::from(length))?))
    }
}

fn hello(body: &[u8]) -> Result<Hello, Alert> {
    let mut body = Cursor(body);
    let _legacy_version = body.u16()?;
    body.take(32)?;
    let session_id = body.u8()?;
    if session_id > 32 {
        return Err(Alert::DecodeError);
    }
    body.take(session_id)?;
    let suites = body.vector()?;
    if suites.0.is_empty() || !suites.0.len().is_multiple_of(2) {
        return Err(Alert::DecodeError);
    }
    let compressions = body.u8()?;
    if compressions == 0 {
        return Err(Alert::DecodeError);
    }
    body.take(compressions)?;
    let mut found = Hello { server_name: None, has_alpn: false };
    if body.0.is_empty() {
        return Ok(found); // Before TLS 1.3 there may be no extensions.
    }
    let mut extensions = body.vector()?;
    if !body.0.is_empty() {
        return Err(Alert::DecodeError);
    }
    let mut seen = Seen::default();
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let data = extensions.vector()?;
        if !seen.first(kind) {
            return Err(Alert::IllegalParameter);
        }
        match kind {
            EXTENSION_SERVER_NAME => found.server_name = server_name(data)?,
            EXTENSION_ALPN => found.has_alpn = true,
            // RFC 8446 §4.2.11: it is the last one.
            EXTENSION_PRE_SHARED_KEY if !extensions.0.is_empty() => return Err(Alert::IllegalParameter),
            _ => {}
        }
    }
    Ok(found)
}

/// RFC 6066 §3: a list of names, no two of one type; the only type is a host name.
fn server_name(mut data: Cursor<'_>) -> Result<Option<Box<str>>, Alert> {
    let mut list = data.vector()?;
    if !data.0.is_empty() || list.0.is_empty() {
        return Err(Alert::DecodeError);
    }
    let mut host = None;
    while !list.0.is_empty() {
        let kind = list.u8()?;
        let name = list.vector()?.0;
        if kind != usize::from(NAME_HOST) {
            continue;
        }
        if host.is_some() {
            return Err(Alert::IllegalParameter);
        }
        let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b':');
        if name.is_empty() || name.len() > 255 || !name.iter().all(plain) {
            return Err(Alert::IllegalParameter);
        }
        host = Some(name.iter().map(|byte| char::from(byte.to_ascii_lowercase())).collect::<String>().into());
    }
    Ok(host)
}

/// Extensions that were met. Types below 64 and a few others; a client that sends more of its own than that is not judged.
#[derive(Default)]
struct Seen {
    low: u64,
    others: [u16; 16],
    count: usize,
}

impl Seen {
    /// Whether `kind` is met for the first time, as far as is known.
    fn first(&mut self, kind: u16) -> bool {
        if kind < 64 {
            let bit = 1 << kind;
            let first = self.low & bit == 0;
            self.low |= bit;
            return first;
        }
        if self.others[..self.count].contains(&kind) {
            return false;
        }
        if let Some(place) = self.others.get_mut(self.count) {
            *place = kind;
            self.count += 1;
        }
        true
    }
}

/// What holds for whatever a client sends first; for the fuzz target `client_hello` and its replay.
///
/// # Panics
/// If the verdict on a whole hello changes with what follows it, a beginning of one is refused, or rustls reads another
/// name or finds protocols where we find none.
pub fn client_hello(data: &[u8]) {
    let whole = look(data);
    for cut in [data.len() / 3, data.len() / 2, data.len().saturating_sub(1)] {
        match (look(&data[..cut]), &whole) {
            (Ok(Look::Partial), _) => {}
            (told, whole) => assert_eq!(&told, whole, "cut at {cut}"),
        }
    }
    let Ok(Look::Complete(hello)) = whole else { return };
    let mut acceptor = Acceptor::default();
    let mut wire = data;
    while !wire.is_empty() && acceptor.read_tls(&mut wire).is_ok_and(|count| count > 0) {
        match Acceptor::accept(&mut acceptor) {
            Ok(Some(accepted)) => {
                assert_eq!(accepted.client_hello().alpn().is_some(), hello.has_alpn, "{hello:?}");
                let name = accepted.client_hello().server_name().map(str::to_ascii_lowercase);
                // rustls ignores names that are no DNS names.
                assert!(
                    name.is_none() || name.as_deref() == hello.server_name.as_deref(),
                    "{name:?} {hello:?}"
                );
                return;
            }
            Ok(None) => {}
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn real(name: &str) -> Vec<u8> {
        let config = rustls::ClientConfig::builder_with_provider(crate::tls::provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        let name = rustls::pki_types::ServerName::try_from(name.to_owned()).expect("a name");
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).expect("a client");
        let mut wire = Vec::new();
        client.write_tls(&mut wire).expect("written");
        wire
    }

    /// The message of `wire`, in records of `size` bytes.
    fn fragmented(wire: &[u8], size: usize) -> Vec<u8> {
        wire[RECORD_HEADER_BYTES..]
            .chunks(size)
            .flat_map(|chunk| [&[22, 3, 1], &(chunk.len() as u16).to_be_bytes()[..], chunk].concat())
            .collect()
    }

    fn complete(name: Option<&str>) -> Result<Look, Alert> {
        Ok(Look::Complete(Hello { server_name: name.map(Into::into), has_alpn: false }))
    }

    /// A hello with these extensions.
    fn with(extensions: &[(u16, &[u8])]) -> Vec<u8> {
        let mut all = Vec::new();
        for (kind, data) in extensions {
            all.extend_from_slice(&kind.to_be_bytes());
            all.extend_from_slice(&(data.len() as u16).to_be_bytes());
            all.extend_from_slice(data);
        }
        let mut body = [&[3, 3][..], &[7; 32], &[0], &[0, 2, 0x13, 1], &[1, 0]].concat();
        body.extend_from_slice(&(all.len() as u16).to_be_bytes());
        body.extend_from_slice(&all);
        let mut message = vec![1, 0];
        message.extend_from_slice(&(body.len() as u16).to_be_bytes());
        message.extend_from_slice(&body);
        let mut wire = vec![22, 3, 1];
        wire.extend_from_slice(&(message.len() as u16).to_be_bytes());
        wire.extend_from_slice(&message);
        wire
    }

    /// The extension that names a host.
    fn named(name: &[u8]) -> Vec<u8> {
        let entry = [&[0][..], &(name.len() as u16).to_be_bytes(), name].concat();
        [&(entry.len() as u16).to_be_bytes()[..], &entry].concat()
    }

    #[test]
    fn a_real_hello_is_known_wherever_it_is_cut_and_however_it_is_fragmented() {
        let wire = real("API.example.com");
        for cut in 0..wire.len() {
            assert_eq!(look(&wire[..cut]), Ok(Look::Partial), "{cut}");
        }
        assert_eq!(look(&wire), complete(Some("api.example.com")));
        let followed = [&wire[..], b"what follows is not looked at"].concat();
        assert_eq!(look(&followed), complete(Some("api.example.com")));
        let least = (wire.len() - RECORD_HEADER_BYTES).div_ceil(RECORDS_MAX);
        for size in [least, 50, 100, 1000] {
            let pieces = fragmented(&wire, size);
            assert_eq!(look(&pieces), complete(Some("api.example.com")), "{size}");
            assert_eq!(look(&pieces[..pieces.len() - 1]), Ok(Look::Partial), "{size}");
            client_hello(&pieces);
        }
        assert_eq!(look(&fragmented(&wire, 1)), Err(Alert::DecodeError), "more records than we follow");
        client_hello(&wire);
        assert_eq!(look(&real("127.0.0.1")), complete(None), "an address is no name");
    }

    #[test]
    fn what_is_no_hello_is_refused_at_its_first_byte_if_it_can_be() {
        assert_eq!(look(b""), Ok(Look::Partial));
        assert_eq!(look(b"GET / HTTP/1.1\r\n"), Err(Alert::UnexpectedMessage));
        assert_eq!(look(&[21]), Err(Alert::UnexpectedMessage));
        assert_eq!(look(&[22, 2]), Err(Alert::ProtocolVersion));
        assert_eq!(look(&[22, 3, 1, 0, 0]), Err(Alert::UnexpectedMessage));
        assert_eq!(look(&[22, 3, 1, 0x40, 1]), Err(Alert::RecordOverflow));
        assert_eq!(look(&[22, 3, 1, 0, 4, 2, 0, 0, 0]), Err(Alert::UnexpectedMessage), "a ServerHello");
        assert_eq!(look(&[22, 3, 1, 0, 4, 1, 0, 0x40, 0]), Err(Alert::DecodeError), "larger than it may be");
        assert_eq!(look(&[22, 3, 1, 0, 4, 1, 0, 0, 0]), Err(Alert::DecodeError), "an empty one");
    }

    #[test]
    fn extensions_are_walked_strictly() {
        assert_eq!(look(&with(&[])), complete(None));
        assert_eq!(look(&with(&[(0, &named(b"A.test"))])), complete(Some("a.test")));
        assert_eq!(
            look(&with(&[(0x0a0a, b""), (0, &named(b"a.test")), (0x1a1a, b"x")])),
            complete(Some("a.test"))
        );
        for twice in [0, 16, 0x0a0a] {
            let name = named(b"a");
            let data: &[u8] = if twice == 0 { &name } else { b"" };
            assert_eq!(look(&with(&[(twice, data), (twice, data)])), Err(Alert::IllegalParameter), "{twice}");
        }
        assert_eq!(look(&with(&[(41, b""), (16, b"")])), Err(Alert::IllegalParameter), "behind the last");
        let listed = Hello { server_name: None, has_alpn: true };
        assert_eq!(look(&with(&[(16, b"\0\x03\x02h2"), (41, b"")])), Ok(Look::Complete(listed)));
        for bad in [&b""[..], b"\0", b"\0\0", b"\0\x05\0\0\x01a", b"\0\x04\0\0\x01ab"] {
            assert_eq!(look(&with(&[(0, bad)])), Err(Alert::DecodeError), "{bad:?}");
        }
        for bad in [&b""[..], b"a b", b"a\0b", "ä".as_bytes(), &[b'a'; 256]] {
            assert_eq!(look(&with(&[(0, &named(bad))])), Err(Alert::IllegalParameter), "{bad:?}");
        }
        let two = [&[0, 8][..], b"\0\0\x01a", b"\0\0\x01b"].concat();
        assert_eq!(look(&with(&[(0, &two)])), Err(Alert::IllegalParameter), "two hosts");
        let mut cut = with(&[(16, b"abc")]);
        let end = cut.len() - 5;
        cut[end] = 9;
        assert_eq!(look(&cut), Err(Alert::DecodeError), "an extension longer than the rest");
    }

    #[test]
    fn more_extensions_than_are_remembered_are_no_fault() {
        let many: Vec<(u16, &[u8])> = (0..100).map(|kind| (1000 + kind, &b""[..])).collect();
        assert_eq!(look(&with(&many)), complete(None));
    }
}
