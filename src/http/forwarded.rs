//! Who the client is, as proxies tell it in `X-Forwarded-For` or `Forwarded` (RFC 7239).
//!
//! **The law.** The connection's own address is known. If it is a trusted proxy's, the last entry of the field was written by
//! that proxy and is believed; if that names a trusted proxy again, so is the entry before it; and so on, right to left. The first
//! address that is no trusted proxy's is the client's, and what stands left of it counts for nothing: it was written by
//! somebody unknown. An entry that names no address (`unknown`, an obfuscated `_name`, anything malformed) ends the walk at
//! the proxy that wrote it. Of the two fields only the one is read that the listener names: a proxy that writes one of
//! them passes the other on as a client sent it.
//!
//! A field is taken apart from its right end, quotes included, so that nothing a client wrote can change how what a proxy
//! appended is read. Several lines of one field are one list, in their order (RFC 9110 §5.3).
//!
//! Bound: [`ENTRIES_MAX`] entries are looked at. Cost: nothing without trusted proxies; else one pass over the entries that
//! are believed, no allocation but that of the list of hops, which is kept.
//!
//! Not for writing these fields (`forward` does). Called by the pipeline, once for each request.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Most entries that are looked at; what is left of them is not believed.
pub const ENTRIES_MAX: usize = 32;

/// The field that names the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientField {
    /// `X-Forwarded-For`: addresses.
    #[default]
    XForwardedFor,
    /// `Forwarded`: the `for` parameters.
    Forwarded,
}

/// The client of a connection that comes from `source`. `lines` are the values of the field, the last line first. The addresses
/// that were believed, nearest first and the client's last, are left in `hops`.
pub fn client<'v>(
    source: IpAddr,
    field: ClientField,
    lines: impl Iterator<Item = &'v [u8]>,
    trusted: impl Fn(IpAddr) -> bool,
    hops: &mut Vec<IpAddr>,
) -> IpAddr {
    hops.clear();
    if !trusted(source) {
        return source;
    }
    let mut nearest = source;
    for entry in lines.flat_map(|line| Entries::of(field, line)).take(ENTRIES_MAX) {
        // RFC 9110 §5.6.1.2: empty elements of a list are passed over.
        if entry.is_empty() {
            continue;
        }
        let named = match field {
            ClientField::XForwardedFor => node(entry),
            ClientField::Forwarded => for_of(entry),
        };
        let Some(address) = named else { break };
        hops.push(address);
        nearest = address;
        if !trusted(address) {
            break;
        }
    }
    nearest
}

/// The entries of one line from right to left, white space around them taken off.
struct Entries<'v> {
    rest: Option<&'v [u8]>,
    quotes: bool,
}

impl<'v> Entries<'v> {
    fn of(field: ClientField, line: &'v [u8]) -> Entries<'v> {
        Entries { rest: Some(line), quotes: field == ClientField::Forwarded }
    }
}

impl<'v> Iterator for Entries<'v> {
    type Item = &'v [u8];

    fn next(&mut self) -> Option<&'v [u8]> {
        let rest = self.rest?;
        let separator =
            if self.quotes { last_outside_quotes(rest, b',') } else { memchr::memrchr(b',', rest) };
        let (before, entry) = match separator {
            Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
            None => (None, rest),
        };
        self.rest = before;
        Some(entry.trim_ascii())
    }
}

/// The last `byte` that stands in no quoted string, as seen from the right end.
fn last_outside_quotes(text: &[u8], byte: u8) -> Option<usize> {
    let mut quoted = false;
    for at in (0..text.len()).rev() {
        if text[at] == b'"' {
            // RFC 9110 §5.6.4: within quotes, `\"` is a quote that does not end them.
            let slashes = text[..at].iter().rev().take_while(|byte| **byte == b'\\').count();
            if slashes % 2 == 0 {
                quoted = !quoted;
            }
        } else if text[at] == byte && !quoted {
            return Some(at);
        }
    }
    None
}

/// The address in the one `for` parameter of a forwarded-element (RFC 7239 §4).
fn for_of(element: &[u8]) -> Option<IpAddr> {
    let mut rest = Some(element);
    let mut found = None;
    while let Some(pairs) = rest {
        let (before, pair) = match last_outside_quotes(pairs, b';') {
            Some(at) => (Some(&pairs[..at]), &pairs[at + 1..]),
            None => (None, pairs),
        };
        rest = before;
        let pair = pair.trim_ascii();
        if pair.is_empty() {
            continue;
        }
        let at = memchr::memchr(b'=', pair)?;
        let (name, value) = (&pair[..at], &pair[at + 1..]);
        if name.is_empty() || !name.iter().all(|byte| is_token(*byte)) {
            return None;
        }
        let mut plain = [0; NODE_BYTES_MAX];
        let value = unquoted(value, &mut plain)?;
        if name.eq_ignore_ascii_case(b"for") {
            // RFC 7239 §4: each parameter once in an element.
            if found.is_some() {
                return None;
            }
            found = Some(node(value)?);
        }
    }
    found
}

/// More than the longest node: an IPv6 address in brackets and an obfuscated port.
const NODE_BYTES_MAX: usize = 256;

/// The content of a token or a quoted string.
fn unquoted<'v>(value: &'v [u8], plain: &'v mut [u8; NODE_BYTES_MAX]) -> Option<&'v [u8]> {
    let Some(inner) = value.strip_prefix(b"\"") else {
        // Colons and brackets want quotes; they are written without often enough, and mean the same.
        let fits = |byte: &u8| is_token(*byte) || matches!(byte, b':' | b'[' | b']');
        return (!value.is_empty() && value.iter().all(fits)).then_some(value);
    };
    let inner = inner.strip_suffix(b"\"")?;
    let mut length = 0;
    let mut bytes = inner.iter();
    while let Some(&byte) = bytes.next() {
        let byte = match byte {
            b'\\' => *bytes.next()?,
            b'"' => return None,
            byte => byte,
        };
        if byte < b' ' && byte != b'\t' || byte == 0x7f {
            return None;
        }
        *plain.get_mut(length)? = byte;
        length += 1;
    }
    plain.get(..length)
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// An address as proxies write it: bare, with a port, or an IPv6 address in brackets. IPv4 in IPv6 is IPv4.
fn node(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(address.to_canonical());
    }
    let (address, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            (IpAddr::V6(address.parse::<Ipv6Addr>().ok()?), port)
        }
        None => {
            let at = text.find(':')?;
            (IpAddr::V4(text[..at].parse::<Ipv4Addr>().ok()?), &text[at..])
        }
    };
    is_port(port).then_some(address.to_canonical())
}

/// Nothing, `:443`, or a port that is obfuscated (RFC 7239 §6).
fn is_port(text: &str) -> bool {
    let Some(port) = text.strip_prefix(':') else { return text.is_empty() };
    match port.strip_prefix('_') {
        Some(name) => {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        }
        None => {
            (1..=5).contains(&port.len())
                && port.bytes().all(|byte| byte.is_ascii_digit())
                && port.parse::<u16>().is_ok()
        }
    }
}

/// For the fuzzer: a chain of proxies is made of the data, with whatever a client may have sent before it.
///
/// The first byte chooses the field and the number of proxies, each next four bytes a proxy and how it writes; the rest is what
/// the client sent. Whatever that is, the client is whom the first trusted proxy saw.
pub fn replay(data: &[u8]) {
    let Some((&first, rest)) = data.split_first() else { return };
    let field = if first & 1 == 0 { ClientField::XForwardedFor } else { ClientField::Forwarded };
    let proxies = usize::from(first >> 1 & 7) + 1;
    let Some((chain, sent)) = rest.split_at_checked(proxies * 4) else { return };
    // What a head can hold in a field.
    let sent: Vec<u8> = sent.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n' | 0)).collect();
    let trusted = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.octets()[0] == 10,
        IpAddr::V6(v6) => v6.segments()[0] == 0xfd00,
    };
    // Whom each proxy saw: the first one the client, each other one the proxy before it.
    let mut lines: Vec<Vec<u8>> = sent.split(|byte| *byte == b'|').map(<[u8]>::to_vec).collect();
    let mut seen: Option<IpAddr> = None;
    for (at, how) in chain.chunks_exact(4).enumerate() {
        let address = match (at, how[0] & 1) {
            (0, 0) => IpAddr::from([192, 0, how[1], how[2]]),
            (0, _) => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, u16::from(how[1]), u16::from(how[2])]),
            (_, 0) => IpAddr::from([10, 0, how[1], how[2]]),
            (_, _) => IpAddr::from([0xfd00, 0, 0, 0, 0, 0, u16::from(how[1]), u16::from(how[2])]),
        };
        seen.get_or_insert(address);
        let entry = written(field, address, how[3]);
        match lines.last_mut().filter(|line| how[0] & 2 == 0 && !line.is_empty()) {
            Some(line) => {
                line.extend_from_slice(if how[0] & 4 == 0 { b", " } else { b"," });
                line.extend_from_slice(&entry);
            }
            None => lines.push(entry),
        }
    }
    let source = IpAddr::from([10, 255, 255, 255]);
    let mut hops = Vec::new();
    let values = || lines.iter().rev().map(Vec::as_slice);
    let found = client(source, field, values(), trusted, &mut hops);
    assert_eq!(
        Some(found),
        seen,
        "{:?}",
        lines.iter().map(|line| String::from_utf8_lossy(line)).collect::<Vec<_>>()
    );
    assert_eq!((hops.len(), hops.last()), (proxies, Some(&found)));
    // From anybody else nothing of it counts.
    let stranger = IpAddr::from([198, 51, 100, 1]);
    assert_eq!(client(stranger, field, values(), trusted, &mut hops), stranger);
    assert!(hops.is_empty());
    // What is read is of a form that the library knows too.
    if field == ClientField::XForwardedFor {
        for entry in sent.split(|byte| matches!(byte, b',' | b'|')) {
            let text = std::str::from_utf8(entry.trim_ascii()).unwrap_or_default();
            let theirs =
                text.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|a| a.ip()));
            // A scope is for one machine, an obfuscated port for nobody.
            if let Some(theirs) = theirs.filter(|_| !text.contains('%')) {
                assert_eq!(node(entry.trim_ascii()), Some(theirs.to_canonical()), "{text}");
            }
        }
    }
}

/// An entry as one of many proxies writes it.
fn written(field: ClientField, address: IpAddr, how: u8) -> Vec<u8> {
    let mapped = |address: IpAddr| match address {
        IpAddr::V4(v4) if how & 8 != 0 => v4.to_ipv6_mapped().into(),
        address => address,
    };
    let address = mapped(address);
    let port = match how & 3 {
        0 => String::new(),
        1 => ":443".to_owned(),
        2 if field == ClientField::Forwarded => ":_hidden".to_owned(),
        _ => ":65535".to_owned(),
    };
    let node = match address {
        IpAddr::V6(v6) if !port.is_empty() || field == ClientField::Forwarded => format!("[{v6}]{port}"),
        address => format!("{address}{port}"),
    };
    let text = match field {
        ClientField::XForwardedFor => node,
        ClientField::Forwarded => {
            let node = match how & 4 {
                // RFC 7239 §4: what holds colons is quoted; anything may be.
                0 if node.bytes().all(is_token) => node,
                0 => format!("\"{node}\""),
                _ => {
                    let escaped: String =
                        node.chars().map(|c| if c == ':' { "\\:".into() } else { c.to_string() }).collect();
                    format!("\"{escaped}\"")
                }
            };
            match how >> 4 & 3 {
                0 => format!("for={node}"),
                1 => format!("For={node};proto=https"),
                2 => format!("by=_x;host=\"a, b;\\\"c\\\\\"; for={node}"),
                _ => format!("proto=http; FOR={node} ;by=\"[fd00::1]:8080\";"),
            }
        }
    };
    text.into_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn trusted(address: IpAddr) -> bool {
        matches!(address, IpAddr::V4(v4) if v4.octets()[0] == 10)
    }

    fn found(source: &str, field: ClientField, lines: &[&str]) -> (String, usize) {
        let mut hops = Vec::new();
        let lines = lines.iter().rev().map(|line| line.as_bytes());
        let client = client(source.parse().unwrap(), field, lines, trusted, &mut hops);
        (client.to_string(), hops.len())
    }

    #[test]
    fn the_first_address_from_the_right_that_is_no_proxy() {
        let of = |source: &str, lines: &[&str]| found(source, ClientField::XForwardedFor, lines).0;
        assert_eq!(of("198.51.100.1", &["192.0.2.1"]), "198.51.100.1", "nobody trusts it");
        assert_eq!(of("10.0.0.1", &[]), "10.0.0.1");
        assert_eq!(of("10.0.0.1", &["192.0.2.1"]), "192.0.2.1");
        assert_eq!(of("10.0.0.1", &["6.6.6.6, 192.0.2.1, 10.0.0.2"]), "192.0.2.1");
        assert_eq!(of("10.0.0.1", &["6.6.6.6", "192.0.2.1", "10.0.0.2,10.0.0.3"]), "192.0.2.1");
        assert_eq!(of("10.0.0.1", &["10.0.0.3, 10.0.0.2"]), "10.0.0.3", "all are ours");
        assert_eq!(of("10.0.0.1", &["192.0.2.1,, ,\t10.0.0.2 ,"]), "192.0.2.1", "empty elements");
        assert_eq!(of("10.0.0.1", &["192.0.2.1", ""]), "192.0.2.1");
        for garbage in
            ["unknown", "_hidden", "1.2.3", "for=1.2.3.4", "192.0.2.1:99999", "\"192.0.2.1\"", "fe80::1%eth0"]
        {
            assert_eq!(
                of("10.0.0.1", &[&format!("192.0.2.1, {garbage}, 10.0.0.2")]),
                "10.0.0.2",
                "{garbage}"
            );
            assert_eq!(of("10.0.0.1", &[&format!("192.0.2.1, {garbage}")]), "10.0.0.1", "{garbage}");
        }
        for (form, expected) in [
            ("192.0.2.1:80", "192.0.2.1"),
            ("[2001:db8::1]", "2001:db8::1"),
            ("[2001:db8::1]:443", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
            ("::ffff:192.0.2.1", "192.0.2.1"),
            ("[::ffff:192.0.2.1]:1", "192.0.2.1"),
        ] {
            assert_eq!(of("10.0.0.1", &[form]), expected);
        }
        // A proxy that writes its own kind in IPv6 is the same proxy.
        assert_eq!(of("10.0.0.1", &["192.0.2.1, ::ffff:10.0.0.2"]), "192.0.2.1");
    }

    #[test]
    fn many_lines_do_not_push_the_last_one_out_of_sight() {
        let mut lines = vec!["6.6.6.6"; 60];
        lines.push("192.0.2.1");
        assert_eq!(found("10.0.0.1", ClientField::XForwardedFor, &lines), ("192.0.2.1".to_owned(), 1));
        let long = vec!["10.0.0.9"; 100].join(",");
        assert_eq!(
            found("10.0.0.1", ClientField::XForwardedFor, &[&long]),
            ("10.0.0.9".to_owned(), ENTRIES_MAX)
        );
    }

    #[test]
    fn elements_of_forwarded() {
        let of = |line: &str| found("10.0.0.1", ClientField::Forwarded, &[line]).0;
        for line in [
            "for=192.0.2.1",
            "for=6.6.6.6, for=192.0.2.1, for=10.0.0.2",
            "For=\"192.0.2.1:4711\"",
            "FOR=192.0.2.1:4711;proto=https",
            "for=\"192.0.2.1:_port\"",
            "proto=http;by=203.0.113.60;for=192.0.2.1;host=\"a,b;c\"",
            "for=\"\\192.0.2.1\" ; proto=http",
            "for=\"[::ffff:192.0.2.1]\"",
            "for=6.6.6.6;host=\", for=192.0.2.1",
            "for=\"6.6.6.6, for=192.0.2.1",
            "\\\", for=192.0.2.1",
            "for=192.0.2.1,",
        ] {
            assert_eq!(of(line), "192.0.2.1", "{line}");
        }
        assert_eq!(of("for=\"[2001:db8:cafe::17]:4711\""), "2001:db8:cafe::17");
        for line in [
            "for=unknown",
            "for=_gazonk",
            "for=\"_gazonk:80\"",
            "proto=https",
            "192.0.2.1",
            "for=192.0.2.1;for=192.0.2.1",
            "for",
            "for=",
            "for=\"\"",
            "for =192.0.2.1",
            "for= 192.0.2.1",
            "for=192.0.2.1;=x",
            "for=192.0.2.1;a b=c",
            "for=\"192.0.2.1",
            "for=192.0.2.1\"",
            "for=192.0.2.1;host=\"a\"b\"",
            "for=\"192.0.2.1:123456\"",
            "for=\"192.0.2.1:_\"",
        ] {
            assert_eq!(of(line), "10.0.0.1", "{line}");
        }
    }

    proptest! {
        #[test]
        fn nothing_that_a_client_sends_changes_whom_the_proxies_saw(
            first in any::<u8>(),
            chain in proptest::collection::vec(any::<u8>(), 32..33),
            sent in proptest::collection::vec(prop_oneof![
                any::<u8>(),
                proptest::sample::select(b"\"\\,;=:[]. |for_10".to_vec()),
            ], 0..60),
        ) {
            let proxies = usize::from(first >> 1 & 7) + 1;
            let mut data = vec![first];
            data.extend_from_slice(&chain[..proxies * 4]);
            data.extend_from_slice(&sent);
            replay(&data);
        }
    }
}
