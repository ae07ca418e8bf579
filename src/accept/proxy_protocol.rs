//! The PROXY protocol, versions 1 and 2: who is behind a proxy that forwards connections, told before their first byte.
//!
//! In: [`parse`] reads a header, [`receive`] takes exactly it from a socket and not a byte of what follows. It is read only from
//! the listener's `trusted_proxies`, and must be there. Out: [`write()`] makes the header that an upstream is sent.
//!
//! | header says | the connection comes from |
//! |---|---|
//! | TCP over IPv4 or IPv6 | the source it names |
//! | LOCAL; UNKNOWN; no family, or a Unix socket | the proxy itself, whose forwarding fields then do not count: it does not know |
//! | datagrams, unknown commands and families, a wrong checksum | nobody: it is refused |
//!
//! Bounds: 107 bytes for version 1, as it says; [`HEADER_BYTES_MAX`] for version 2, whose extensions (TLVs) are passed over, their
//! lengths and the CRC-32c checked. Stricter than the text where it is lenient: one spelling of numbers, one space, no
//! version but those that the listener names.
//!
//! References: haproxy.org/download/2.9/doc/proxy-protocol.txt, §§2.1–2.2; RFC 3720 appendix B.4 (CRC-32c).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::accept::ends;
use crate::crc32::CASTAGNOLI;
use crate::http::Reason;
use crate::worker::{Buffer, Socket};

/// The peer is none of those that may send the header.
pub const PROXY_UNTRUSTED: Reason =
    Reason::client("proxy_untrusted", 2241, 403, "Only trusted proxies may connect here");
/// What should be a PROXY header is none.
pub const PROXY_MALFORMED: Reason =
    Reason::client("proxy_malformed", 2242, 400, "The PROXY header is malformed");
/// The PROXY header did not come in time.
pub const PROXY_TIMEOUT: Reason =
    Reason::client("proxy_timeout", 2243, 408, "The PROXY header did not come in time");

/// Most bytes of a header of version 2, extensions included.
pub const HEADER_BYTES_MAX: usize = 3072;
/// Most bytes of a header of version 1, its line end included.
const LINE_BYTES_MAX: usize = 107;
/// How a header of version 1 begins.
const LINE: &[u8] = b"PROXY ";
/// How a header of version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of version 2 before the addresses.
const FIXED_BYTES: usize = 16;
/// The extension that holds a CRC-32c of the whole header.
const TYPE_CRC32C: u8 = 0x03;

/// The versions that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Versions {
    /// Version 1, a line of text.
    V1,
    /// Version 2, binary.
    V2,
    /// Either.
    Any,
}

/// Where a connection comes from, as a header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Announced {
    /// From a client of the proxy.
    Client {
        /// Its address.
        source: SocketAddr,
        /// The address that it connected to.
        destination: SocketAddr,
    },
    /// From the proxy itself, or from somebody whom it does not know.
    Nobody,
}

impl Announced {
    /// Where the connection comes from, if `peer` is the proxy.
    pub fn source(&self, peer: SocketAddr) -> SocketAddr {
        match self {
            Announced::Client { source, .. } => *source,
            Announced::Nobody => peer,
        }
    }
}

/// How far a header is here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parse {
    /// More must come.
    Partial,
    /// It is all here.
    Complete {
        /// Its length.
        bytes: usize,
        /// What it says.
        announced: Announced,
    },
}

/// It is no header of the versions that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Reads a header at the start of `bytes`.
///
/// # Errors
/// As soon as no more bytes could make it one.
pub fn parse(bytes: &[u8], versions: Versions) -> Result<Parse, Malformed> {
    let may_be = |start: &[u8]| bytes.iter().zip(start).all(|(one, other)| one == other);
    if versions != Versions::V1 && may_be(SIGNATURE) && !bytes.is_empty() {
        return binary(bytes);
    }
    if versions != Versions::V2 && may_be(LINE) && !bytes.is_empty() {
        return line(bytes);
    }
    if bytes.is_empty() { Ok(Parse::Partial) } else { Err(Malformed) }
}

fn line(bytes: &[u8]) -> Result<Parse, Malformed> {
    let within = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = memchr::memchr(b'\n', within) else {
        return if within.len() == LINE_BYTES_MAX { Err(Malformed) } else { Ok(Parse::Partial) };
    };
    let text = within[..end].strip_suffix(b"\r").and_then(|line| line.strip_prefix(LINE)).ok_or(Malformed)?;
    let complete = |announced| Ok(Parse::Complete { bytes: end + 1, announced });
    // What stands behind UNKNOWN is to be ignored.
    if text == b"UNKNOWN" || text.starts_with(b"UNKNOWN ") {
        return complete(Announced::Nobody);
    }
    let text = std::str::from_utf8(text).map_err(|_| Malformed)?;
    let words: Vec<&str> = text.split(' ').collect();
    let [family, source, destination, source_port, destination_port] = words[..] else {
        return Err(Malformed);
    };
    let address = |text: &str| -> Result<IpAddr, Malformed> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().map(IpAddr::from),
            "TCP6" => text.parse::<Ipv6Addr>().map(|v6| IpAddr::from(v6).to_canonical()),
            _ => return Err(Malformed),
        }
        .map_err(|_| Malformed)
    };
    complete(Announced::Client {
        source: SocketAddr::new(address(source)?, port(source_port)?),
        destination: SocketAddr::new(address(destination)?, port(destination_port)?),
    })
}

fn port(text: &str) -> Result<u16, Malformed> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(Malformed)
}

fn binary(bytes: &[u8]) -> Result<Parse, Malformed> {
    let Some(fixed) = bytes.get(..FIXED_BYTES) else { return Ok(Parse::Partial) };
    let length = FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    let (command, family) = (fixed[12], fixed[13]);
    let addresses_bytes = match (command, family) {
        // LOCAL: all else is to be ignored.
        (0x20, _) => None,
        (0x21, 0x11) => Some(12),
        (0x21, 0x21) => Some(36),
        (0x21, 0x31) => Some(216),
        (0x21, 0x00) => None,
        _ => return Err(Malformed),
    };
    if length > HEADER_BYTES_MAX || addresses_bytes.is_some_and(|needed| length < FIXED_BYTES + needed) {
        return Err(Malformed);
    }
    let Some(header) = bytes.get(..length) else { return Ok(Parse::Partial) };
    let complete = |announced| Ok(Parse::Complete { bytes: length, announced });
    let Some(addresses_bytes) = addresses_bytes else { return complete(Announced::Nobody) };
    extensions(header, FIXED_BYTES + addresses_bytes)?;
    let addresses = &header[FIXED_BYTES..FIXED_BYTES + addresses_bytes];
    let number = |at: usize| u16::from_be_bytes([addresses[at], addresses[at + 1]]);
    complete(match family {
        0x11 => {
            let address =
                |at: usize| IpAddr::from(<[u8; 4]>::try_from(&addresses[at..at + 4]).unwrap_or_default());
            Announced::Client {
                source: SocketAddr::new(address(0), number(8)),
                destination: SocketAddr::new(address(4), number(10)),
            }
        }
        0x21 => {
            let address = |at: usize| {
                IpAddr::from(<[u8; 16]>::try_from(&addresses[at..at + 16]).unwrap_or_default()).to_canonical()
            };
            Announced::Client {
                source: SocketAddr::new(address(0), number(32)),
                destination: SocketAddr::new(address(16), number(34)),
            }
        }
        _ => Announced::Nobody,
    })
}

/// Passes over the extensions that begin at `from`; the checksum, where there is one, must be right.
fn extensions(header: &[u8], from: usize) -> Result<(), Malformed> {
    let mut at = from;
    let mut checked = false;
    while at < header.len() {
        let [kind, high, low] =
            *header.get(at..at + 3).and_then(|bytes| bytes.first_chunk()).ok_or(Malformed)?;
        let start = at + 3;
        let value =
            header.get(start..start + usize::from(u16::from_be_bytes([high, low]))).ok_or(Malformed)?;
        if kind == TYPE_CRC32C {
            let told = u32::from_be_bytes(value.try_into().map_err(|_| Malformed)?);
            // §2.2.3: computed with zeros in its own place.
            let crc = CASTAGNOLI.of(&[&header[..start], &[0; 4], &header[start + 4..]]);
            if std::mem::replace(&mut checked, true) || told != crc {
                return Err(Malformed);
            }
        }
        at = start + value.len();
    }
    Ok(())
}

/// Takes a header from a socket, and nothing behind it. The caller has set the deadline.
///
/// # Errors
/// The reason to refuse the connection with; none where the peer left without a word, or its connection broke.
pub async fn receive(socket: &Socket, versions: Versions) -> Result<Announced, Option<Reason>> {
    let lost = |_: io::Error| ends::cause(socket, PROXY_TIMEOUT);
    // No memory for who says nothing.
    socket.readable().await.map_err(lost)?;
    let mut header = Buffer::head();
    loop {
        let before = header.len();
        // Looked at first, so that of what is taken all is ours.
        let seen = socket.peek(&mut header).await.map_err(lost)?;
        if seen == 0 {
            let seen = (before > 0).then_some(PROXY_MALFORMED);
            return Err(ends::cause(socket, PROXY_TIMEOUT).or(seen));
        }
        match parse(&header, versions) {
            Ok(Parse::Complete { bytes, announced }) => {
                socket.pass_over(bytes - before).map_err(lost)?;
                // It may have come as its time ended: the socket is shut, and whatever waits on it next would be told.
                return ends::cause(socket, PROXY_TIMEOUT).map_or(Ok(announced), |reason| Err(Some(reason)));
            }
            Ok(Parse::Partial) => socket.pass_over(seen).map_err(lost)?,
            Err(Malformed) => return Err(Some(PROXY_MALFORMED)),
        }
    }
}

/// The version of a header that we send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Version {
    /// Version 1, a line of text.
    V1,
    /// Version 2, binary.
    V2,
}

/// Appends a header that says what `announced` does.
pub fn write(out: &mut Vec<u8>, version: Version, announced: &Announced) {
    match (version, announced) {
        (Version::V1, Announced::Nobody) => out.extend_from_slice(b"PROXY UNKNOWN\r\n"),
        (Version::V1, Announced::Client { source, destination }) => {
            use std::io::Write as _;
            let (source, destination) = alike(*source, *destination);
            let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (source.ip(), destination.ip());
            let _infallible =
                write!(out, "PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port());
        }
        (Version::V2, Announced::Nobody) => {
            out.extend_from_slice(SIGNATURE);
            out.extend_from_slice(&[0x20, 0, 0, 0]);
        }
        (Version::V2, Announced::Client { source, destination }) => {
            out.extend_from_slice(SIGNATURE);
            let (source, destination) = alike(*source, *destination);
            match (source.ip(), destination.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    out.extend_from_slice(&[0x21, 0x11, 0, 12]);
                    out.extend_from_slice(&from.octets());
                    out.extend_from_slice(&to.octets());
                }
                (from, to) => {
                    out.extend_from_slice(&[0x21, 0x21, 0, 36]);
                    out.extend_from_slice(&in_v6(from).octets());
                    out.extend_from_slice(&in_v6(to).octets());
                }
            }
            out.extend_from_slice(&source.port().to_be_bytes());
            out.extend_from_slice(&destination.port().to_be_bytes());
        }
    }
}

/// Two addresses in one family: an IPv4 address beside an IPv6 one is written in IPv6.
fn alike(one: SocketAddr, other: SocketAddr) -> (SocketAddr, SocketAddr) {
    if one.is_ipv4() == other.is_ipv4() {
        return (one, other);
    }
    let wide = |address: SocketAddr| SocketAddr::new(in_v6(address.ip()).into(), address.port());
    (wide(one), wide(other))
}

fn in_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    }
}

/// For the fuzzer: any bytes, and a header made of them.
pub fn replay(data: &[u8]) {
    for versions in [Versions::V1, Versions::V2, Versions::Any] {
        if let Ok(Parse::Complete { bytes, announced }) = parse(data, versions) {
            assert!(bytes <= data.len() && bytes <= HEADER_BYTES_MAX);
            assert_eq!(parse(&data[..bytes], versions), Ok(Parse::Complete { bytes, announced }));
            for shorter in 0..bytes {
                assert_eq!(parse(&data[..shorter], versions), Ok(Parse::Partial), "{shorter} of {bytes}");
            }
            for version in [Version::V1, Version::V2] {
                let mut again = Vec::new();
                write(&mut again, version, &announced);
                let bytes = again.len();
                again.extend_from_slice(b"GET / HTTP/1.1");
                assert_eq!(parse(&again, Versions::Any), Ok(Parse::Complete { bytes, announced }));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(source: &str, destination: &str) -> Announced {
        Announced::Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn whole(bytes: &[u8]) -> Result<Announced, Malformed> {
        let mut more = bytes.to_vec();
        more.extend_from_slice(b"\x16\x03\x01");
        for shorter in 0..bytes.len() {
            match parse(&bytes[..shorter], Versions::Any) {
                Ok(Parse::Partial) => {}
                Err(Malformed) => return Err(Malformed),
                Ok(complete) => panic!("{complete:?} after {shorter} bytes"),
            }
        }
        match parse(&more, Versions::Any)? {
            Parse::Partial => panic!("{bytes:?} is no end"),
            Parse::Complete { bytes: length, announced } => {
                assert_eq!(length, bytes.len());
                Ok(announced)
            }
        }
    }

    #[test]
    fn lines_of_version_1() {
        let v6 = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
        let longest = format!("PROXY UNKNOWN {v6} {v6} 65535 65535\r\n");
        assert_eq!(longest.len(), LINE_BYTES_MAX);
        for (line, expected) in [
            (
                "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\r\n",
                client("192.0.2.1:56324", "198.51.100.1:443"),
            ),
            ("PROXY TCP6 2001:db8::1 ::1 0 65535\r\n", client("[2001:db8::1]:0", "[::1]:65535")),
            ("PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n", client("192.0.2.1:1", "[::1]:2")),
            ("PROXY UNKNOWN\r\n", Announced::Nobody),
            ("PROXY UNKNOWN anything at all\r\n", Announced::Nobody),
            (&longest, Announced::Nobody),
        ] {
            assert_eq!(whole(line.as_bytes()), Ok(expected), "{line}");
        }
    }

    #[test]
    fn what_is_no_line_of_version_1() {
        for line in [
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443\n",
            "PROXY TCP4  192.0.2.1 198.51.100.1 56324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 \r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 56324 443 x\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 056324 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 +1 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.1 198.51.100.1 443\r\n",
            "PROXY TCP4 192.0.2.01 198.51.100.1 1 443\r\n",
            "PROXY TCP4 ::1 ::1 1 443\r\n",
            "PROXY TCP6 192.0.2.1 198.51.100.1 1 443\r\n",
            "PROXY TCP6 fe80::1%lo ::1 1 443\r\n",
            "PROXY UDP4 192.0.2.1 198.51.100.1 1 443\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY \r\n",
            "PROXY\r\n",
            "proxy TCP4 192.0.2.1 198.51.100.1 1 443\r\n",
            "GET / HTTP/1.1\r\n",
            "\r\nPROXY UNKNOWN\r\n",
        ] {
            assert_eq!(whole(line.as_bytes()), Err(Malformed), "{line}");
        }
        let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 200]].concat();
        assert_eq!(parse(&endless[..LINE_BYTES_MAX - 1], Versions::Any), Ok(Parse::Partial));
        assert_eq!(parse(&endless[..LINE_BYTES_MAX], Versions::Any), Err(Malformed));
        let late = [&endless[..LINE_BYTES_MAX - 1], b"\r\n"].concat();
        assert_eq!(parse(&late, Versions::Any), Err(Malformed), "its end lies behind the bound");
    }

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut header = SIGNATURE.to_vec();
        header.extend_from_slice(&[command, family]);
        header.extend_from_slice(&(rest.len() as u16).to_be_bytes());
        header.extend_from_slice(rest);
        header
    }

    const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0xdc, 4, 1, 187];

    #[test]
    fn headers_of_version_2() {
        let named = client("192.0.2.1:56324", "198.51.100.1:443");
        assert_eq!(whole(&header(0x21, 0x11, &V4)), Ok(named));
        let noop = [&V4[..], &[0x04, 0, 2, 9, 9], &[0xea, 0, 0]].concat();
        assert_eq!(whole(&header(0x21, 0x11, &noop)), Ok(named));
        let mut v6 = [0; 36];
        v6[..16].copy_from_slice(&"2001:db8::7".parse::<Ipv6Addr>().unwrap().octets());
        v6[16..32].copy_from_slice(&"::ffff:10.0.0.1".parse::<Ipv6Addr>().unwrap().octets());
        v6[32..].copy_from_slice(&[0, 80, 1, 187]);
        assert_eq!(whole(&header(0x21, 0x21, &v6)), Ok(client("[2001:db8::7]:80", "10.0.0.1:443")));
        for nobody in [
            header(0x20, 0x00, &[]),
            header(0x20, 0x11, &V4),
            header(0x20, 0xff, b"whatever"),
            header(0x21, 0x00, b"x"),
            header(0x21, 0x31, &[b'/'; 216]),
        ] {
            assert_eq!(whole(&nobody), Ok(Announced::Nobody));
        }
    }

    #[test]
    fn what_is_no_header_of_version_2() {
        let extended = |more: &[u8]| header(0x21, 0x11, &[&V4[..], more].concat());
        for wrong in [
            header(0x11, 0x11, &V4),
            header(0x22, 0x11, &V4),
            header(0x31, 0x11, &V4),
            header(0x21, 0x12, &V4),
            header(0x21, 0x22, &[0; 36]),
            header(0x21, 0x32, &[0; 216]),
            header(0x21, 0x13, &V4),
            header(0x21, 0x41, &V4),
            header(0x21, 0x11, &V4[..11]),
            header(0x21, 0x21, &[0; 35]),
            header(0x21, 0x31, &[0; 215]),
            extended(&[0x04]),
            extended(&[0x04, 0]),
            extended(&[0x04, 0, 1]),
            extended(&[0x04, 0, 2, 9]),
            extended(&[TYPE_CRC32C, 0, 3, 9, 9, 9]),
            extended(&[TYPE_CRC32C, 0, 4, 9, 9, 9, 9]),
            extended(&vec![0; HEADER_BYTES_MAX]),
        ] {
            assert_eq!(whole(&wrong), Err(Malformed), "{wrong:?}");
        }
        // The longest that is taken.
        let filler = HEADER_BYTES_MAX - FIXED_BYTES - V4.len() - 3;
        let mut most = vec![0x04];
        most.extend_from_slice(&(filler as u16).to_be_bytes());
        most.resize(3 + filler, 0);
        assert!(whole(&extended(&most)).is_ok());
    }

    #[test]
    fn the_checksum_is_checked() {
        let unsigned = header(0x21, 0x11, &[&V4[..], &[TYPE_CRC32C, 0, 4, 0, 0, 0, 0]].concat());
        let crc = CASTAGNOLI.of(&[&unsigned]);
        let mut signed = unsigned.clone();
        let at = signed.len() - 4;
        signed[at..].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(whole(&signed), Ok(client("192.0.2.1:56324", "198.51.100.1:443")));
        // But for the kind of the extension: another one says nothing of the rest.
        for at in (FIXED_BYTES..signed.len()).filter(|at| *at != signed.len() - 7) {
            let mut changed = signed.clone();
            changed[at] ^= 1;
            assert_ne!(parse(&changed, Versions::Any).ok(), parse(&signed, Versions::Any).ok(), "{at}");
        }
    }

    #[test]
    fn only_the_versions_that_are_wanted() {
        let (text, binary) = (b"PROXY UNKNOWN\r\n".as_slice(), header(0x20, 0, &[]));
        assert_eq!(parse(text, Versions::V2), Err(Malformed));
        assert_eq!(parse(&binary, Versions::V1), Err(Malformed));
        assert!(matches!(parse(text, Versions::V1), Ok(Parse::Complete { .. })));
        assert!(matches!(parse(&binary, Versions::V2), Ok(Parse::Complete { .. })));
    }

    #[test]
    fn what_we_write_is_read_as_it_was_meant() {
        for announced in [
            Announced::Nobody,
            client("192.0.2.1:1", "198.51.100.1:65535"),
            client("[2001:db8::1]:1", "[2001:db8::2]:0"),
            client("192.0.2.1:1", "[2001:db8::2]:443"),
            client("[2001:db8::2]:443", "192.0.2.1:1"),
        ] {
            for version in [Version::V1, Version::V2] {
                let mut out = Vec::new();
                write(&mut out, version, &announced);
                assert_eq!(whole(&out), Ok(announced));
                replay(&out);
            }
        }
        let mut out = Vec::new();
        write(&mut out, Version::V1, &client("192.0.2.1:1", "[2001:db8::2]:443"));
        assert_eq!(out, b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 1 443\r\n");
    }
}
