//! `listen[]`: where requests come in, and how the connection becomes private.

use std::time::Duration;

use ipnet::IpNet;

use super::Exception;
use super::login::CertificateName;
use crate::config::bind::{Bind, FromNode, Spanned, not_in_this_version};
use crate::config::error::{Code, ConfigError};
use crate::config::node::{Node, NodeKind};
use crate::config::shape::{Key, Shape, Table};
use crate::config::source::Span;
use crate::config::unit::{Address, FilePath, HostName};
use crate::http::{Protocol, Protocols};

/// Not the mode of a file, or of none.
pub const PERMISSIONS: Code = Code::new(1130);
/// `redirect` of a listener is not `https`.
pub const REDIRECT: Code = Code::new(1105);

/// A protocol stands twice on one listener.
pub const PROTOCOL_TWICE: Code = Code::new(1110);

/// The certificates of one listener ask different things of clients.
pub const CLIENT_CA_DIFFERS: Code = Code::new(1150);

/// One address to listen on.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The address.
    pub address: Spanned<Address>,
    /// The names that are served here; empty: any valid Host.
    pub domains: Vec<Spanned<HostName>>,
    /// How the connection becomes private; `None` was left out, which only a redirect may.
    pub tls: Option<Spanned<Tls>>,
    /// What is spoken here; see [`Listener::protocols_in_force`].
    pub protocols: Option<Spanned<Protocols>>,
    /// Every request is answered with a redirect to `https://` (port 443); where it was written.
    pub redirect: Option<Span>,
    /// Why requests may come in without TLS.
    pub insecure: Option<Exception>,
    /// Peers whose `X-Forwarded-*`, `Forwarded` and request ids count.
    pub trusted_proxies: Vec<Spanned<IpNet>>,
    /// How long clients may take.
    pub timeouts: ClientTimeouts,
    /// The field of trusted proxies that names the client.
    pub client_address: Option<Spanned<ClientAddress>>,
    /// Connections begin with a header of the PROXY protocol, from trusted proxies only.
    pub proxy_protocol: Option<Spanned<ProxyProtocol>>,
    /// Who may connect; nobody said: everybody.
    pub allow_addresses: Vec<Spanned<AddressEntry>>,
    /// The mode of a Unix socket's file; 0660.
    pub permissions: Option<Spanned<Permissions>>,
    /// Who may not.
    pub deny_addresses: Vec<Spanned<AddressEntry>>,
    /// The whole map.
    pub span: Span,
}

impl Listener {
    /// [`Listener::protocols`], or its default: either under TLS, where the client chooses by ALPN, else HTTP/1.1.
    pub fn protocols_in_force(&self) -> Protocols {
        let is_private = self.tls.as_ref().is_some_and(|tls| !matches!(tls.value, Tls::None));
        match &self.protocols {
            Some(protocols) => protocols.value,
            None if is_private => Protocols::BOTH,
            None => Protocols::HTTP1,
        }
    }
}

/// How long clients may take; `None` takes the default.
#[derive(Clone, Copy, Debug, Default)]
pub struct ClientTimeouts {
    /// For the TLS handshake; 5 s.
    pub handshake: Option<Duration>,
    /// For the head of a request, from its first byte; 10 s.
    pub head: Option<Duration>,
    /// Before the first request and between two; 60 s.
    pub idle: Option<Duration>,
}

impl ClientTimeouts {
    /// [`ClientTimeouts::handshake`], or its default.
    pub fn handshake_in_force(&self) -> Duration {
        self.handshake.unwrap_or(Duration::from_secs(5))
    }

    /// [`ClientTimeouts::head`], or its default.
    pub fn head_in_force(&self) -> Duration {
        self.head.unwrap_or(Duration::from_secs(10))
    }

    /// [`ClientTimeouts::idle`], or its default.
    pub fn idle_in_force(&self) -> Duration {
        self.idle.unwrap_or(Duration::from_secs(60))
    }
}

/// The field of trusted proxies that names the client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ClientAddress {
    /// `X-Forwarded-For`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// The versions of the PROXY protocol that are understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyProtocol {
    /// The text of version 1.
    V1,
    /// The binary header of version 2.
    V2,
    /// Either.
    Any,
}

/// Networks, by themselves or in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AddressEntry {
    /// A network, or one address.
    Network(IpNet),
    /// A file of them, one a line; watched.
    File(FilePath),
}

/// How a connection becomes private.
#[derive(Clone, Debug)]
pub enum Tls {
    /// Certificates from files; the first is the one for names that none of them has.
    Files(Vec<Certificate>),
    /// A certificate made at start, which nobody trusts: for development.
    SelfSigned,
    /// Not at all.
    None,
}

/// A certificate with its key, both in PEM files.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The chain, leaf first.
    pub cert: Spanned<FilePath>,
    /// The private key; readable by its owner and group only.
    pub key: Spanned<FilePath>,
    /// What is asked of clients: of all of them, whichever certificate they are shown.
    pub clients: Option<Spanned<ClientCa>>,
    /// The whole map.
    pub span: Span,
}

/// What a listener asks of its clients: certificates, and which.
#[derive(Clone, Debug)]
pub struct ClientCa {
    /// The authorities whose certificates are accepted.
    pub file: Spanned<FilePath>,
    /// A client without a certificate is refused; if not, it is let in, and operations decide.
    pub required: bool,
    /// Revocation lists; if there are any, each certificate of a chain must be in the charge of one.
    pub crl: Vec<Spanned<FilePath>>,
    /// Most certificates of authorities between a client's and one of the file.
    pub depth: u64,
    /// Of these one must fit a name of the certificate; empty: any does.
    pub names: Vec<Spanned<CertificateName>>,
}

impl ClientCa {
    /// Most authorities between a client's certificate and one of the file, where nothing is said.
    pub const DEPTH: u64 = 3;

    /// Whether both ask the same, wherever they are written.
    fn is_like(&self, other: &ClientCa) -> bool {
        let same = |a: &[Spanned<FilePath>], b: &[Spanned<FilePath>]| {
            a.iter().map(|file| &file.value).eq(b.iter().map(|file| &file.value))
        };
        self.file.value == other.file.value
            && self.required == other.required
            && self.depth == other.depth
            && same(&self.crl, &other.crl)
            && self.names.iter().map(|name| &name.value).eq(other.names.iter().map(|name| &name.value))
    }
}

/// Keys of `listen[]`.
pub static LISTENER: Table = Table {
    what: "a listener",
    place: "listen[]",
    keys: &[
        Key::required("address", Address::SHAPE, "an IP address with a port, or a Unix socket"),
        Key::optional("permissions", Permissions::SHAPE, "the mode of a Unix socket's file: who may connect")
            .default("\"0660\""),
        Key::optional("domains", <Vec<HostName>>::SHAPE, "the names served here; others are answered 421")
            .default("any valid Host"),
        Key::optional("tls", Tls::SHAPE, "certificate and key, `self-signed`, or `none`"),
        Key::optional(
            "protocols",
            Protocols::SHAPE,
            "what is spoken here: by ALPN under TLS, else as the client begins",
        )
        .default("`[http1, http2]` with TLS, else `http1`"),
        Key::optional(
            "redirect",
            Shape::Word(&["https"]),
            "answer every request with a redirect to `https://`",
        ),
        Key::optional("insecure", Exception::SHAPE, "why `tls: none` is accepted here, and until when"),
        Key::optional(
            "trusted_proxies",
            <Vec<Proxy>>::SHAPE,
            "peers whose forwarding fields count; `unix`: whoever comes over a Unix socket",
        )
        .default("none"),
        Key::optional("timeouts", ClientTimeouts::SHAPE, "how long clients may take"),
        Key::optional("client_address", ClientAddress::SHAPE, "their field that names the client")
            .default("x_forwarded_for"),
        Key::optional(
            "proxy_protocol",
            ProxyProtocol::SHAPE,
            "connections begin with a PROXY header, from `trusted_proxies` only",
        )
        .default("none is expected"),
        Key::optional(
            "allow_addresses",
            <Vec<AddressEntry>>::SHAPE,
            "networks, and files of networks, that may connect",
        )
        .default("everybody"),
        Key::optional(
            "deny_addresses",
            <Vec<AddressEntry>>::SHAPE,
            "networks, and files of networks, that may not; the longest prefix counts",
        )
        .default("nobody"),
    ],
};

/// Keys of `listen[].timeouts`.
pub static TIMEOUTS: Table = Table {
    what: "a listener's timeouts",
    place: "listen[].timeouts",
    keys: &[
        Key::optional("handshake", Duration::SHAPE, "for the TLS handshake")
            .default("5s")
            .bounds("100ms", "1min"),
        Key::optional("head", Duration::SHAPE, "for the head of a request, from its first byte; then 408")
            .default("10s")
            .bounds("100ms", "5min"),
        Key::optional("idle", Duration::SHAPE, "before the first request of a connection and between two")
            .default("60s")
            .bounds("100ms", "1h"),
    ],
};

/// Keys of an entry of `listen[].allow_addresses` and `listen[].deny_addresses`.
pub static ADDRESS_FILE: Table = Table {
    what: "a file of networks",
    place: "listen[].allow_addresses[]",
    keys: &[Key::required(
        "file",
        FilePath::SHAPE,
        "a text of networks, one a line, `#` begins a comment; changes count at once",
    )],
};

/// Keys of `listen[].tls`.
pub static CERTIFICATE: Table = Table {
    what: "a certificate",
    place: "listen[].tls",
    keys: &[
        Key::required("cert", FilePath::SHAPE, "the certificate chain in PEM, leaf first"),
        Key::required("key", FilePath::SHAPE, "the private key in PEM, not readable by others"),
        Key::optional(
            "client_ca",
            ClientCa::SHAPE,
            "ask clients for certificates that an authority of this PEM file has issued",
        )
        .default("none is asked for"),
    ],
};

/// Keys of `listen[].tls.client_ca`.
pub static CLIENT_CA: Table = Table {
    what: "what is asked of clients",
    place: "listen[].tls.client_ca",
    keys: &[
        Key::required("file", FilePath::SHAPE, "the authorities, in PEM"),
        Key::optional(
            "required",
            Shape::Bool,
            "refuse clients without a certificate; if not, they are let in, and only operations whose `allow` names an `mtls` login want one",
        )
        .default("true"),
        Key::optional(
            "crl",
            <Vec<FilePath>>::SHAPE,
            "revocation lists, in PEM or DER; watched, and in force without a reload. Each certificate of a chain needs one, and one that is past its next update refuses",
        )
        .default("none"),
        Key::optional(
            "depth",
            Shape::Int,
            "the most certificates of authorities between a client's and one of the file",
        )
        .default("3")
        .bounds("0", "6"),
        Key::optional(
            "names",
            <Vec<CertificateName>>::SHAPE,
            "one of these must fit a name of the certificate",
        )
        .default("any that the authorities have issued"),
    ],
};

impl FromNode for ClientCa {
    const SHAPE: Shape = Shape::Either(&[FilePath::SHAPE, Shape::Map(&CLIENT_CA)]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        if node.scalar().is_some() {
            let file = FromNode::from_node(node, bind)?;
            let (crl, names) = (Vec::new(), Vec::new());
            return Some(ClientCa { file, required: true, crl, depth: ClientCa::DEPTH, names });
        }
        bind.map(node, &CLIENT_CA, |m| {
            Some(ClientCa {
                required: m.optional("required").unwrap_or(true),
                crl: m.optional("crl").unwrap_or_default(),
                depth: m.optional("depth").unwrap_or(ClientCa::DEPTH),
                names: m.optional("names").unwrap_or_default(),
                file: m.required("file")?,
            })
        })
    }
}

impl FromNode for Listener {
    const SHAPE: Shape = Shape::Map(&LISTENER);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &LISTENER, |m| {
            let redirect = m.optional::<Spanned<ToHttps>>("redirect").map(|redirect| redirect.span);
            let domains = m.optional("domains").unwrap_or_default();
            let span = m.span();
            // What was refused is not missing: something stands in for it, and the rest is still checked.
            let tls = match m.optional("tls") {
                None if m.attempted("tls") => Some(Spanned::new(Tls::SelfSigned, span)),
                tls => tls,
            };
            let protocols = m.optional("protocols");
            let redirect = match redirect {
                None if m.attempted("redirect") && tls.is_none() => Some(span),
                redirect => redirect,
            };
            let insecure = match m.optional("insecure") {
                None if m.attempted("insecure") => Some(Exception::refused(span)),
                insecure => insecure,
            };
            let trusted_proxies: Vec<Spanned<Proxy>> = m.optional("trusted_proxies").unwrap_or_default();
            let trusted_proxies: Vec<Spanned<IpNet>> =
                trusted_proxies.into_iter().map(|proxy| Spanned::new(proxy.value.0, proxy.span)).collect();
            let permissions = m.optional("permissions");
            // What was refused is not missing.
            let refused = trusted_proxies.is_empty() && m.attempted("trusted_proxies");
            let client_address = m.optional("client_address").filter(|_| !refused);
            let proxy_protocol = m.optional("proxy_protocol").filter(|_| !refused);
            let allow_addresses: Vec<_> = m.optional("allow_addresses").unwrap_or_default();
            let deny_addresses: Vec<_> = m.optional("deny_addresses").unwrap_or_default();
            let timeouts = m.optional("timeouts").unwrap_or_default();
            let address = m.required("address")?;
            Some(Listener {
                address,
                domains,
                tls,
                protocols,
                redirect,
                insecure,
                trusted_proxies,
                client_address,
                proxy_protocol,
                allow_addresses,
                deny_addresses,
                permissions,
                timeouts,
                span: m.span(),
            })
        })
    }
}

impl FromNode for ClientTimeouts {
    const SHAPE: Shape = Shape::Map(&TIMEOUTS);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &TIMEOUTS, |m| {
            Some(ClientTimeouts {
                handshake: m.optional("handshake"),
                head: m.optional("head"),
                idle: m.optional("idle"),
            })
        })
    }
}

/// A network of proxies. `unix` stands for the address that no TCP connection comes from.
struct Proxy(IpNet);

impl FromNode for Proxy {
    const SHAPE: Shape = Shape::Text("an IP address, a network such as `10.0.0.0/8`, or `unix`");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        match node.scalar() {
            Some(scalar) if scalar.text == "unix" => {
                Some(Proxy(IpNet::from(crate::sys::socket::UNIX_PEER.ip())))
            }
            _ => IpNet::from_node(node, bind).map(Proxy),
        }
    }
}

/// The mode of a file: `0660`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Permissions(pub u32);

impl FromNode for Permissions {
    const SHAPE: Shape = Shape::Pattern("^0[0-7]{3}$", "0660");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "four octal digits such as `\"0660\"`";
        let text = bind.text(node, EXPECTED)?;
        let digits = text.len() == 4 && text.starts_with('0');
        match u32::from_str_radix(text, 8) {
            Ok(mode) if digits => Some(Permissions(mode)),
            _ => {
                crate::config::bind::malformed(bind, node, PERMISSIONS, "this is no mode of a file", EXPECTED)
            }
        }
    }
}

struct ToHttps;

impl FromNode for ToHttps {
    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        let text = bind.text(node, "`https`")?;
        if text == "https" {
            return Some(ToHttps);
        }
        crate::config::bind::malformed(
            bind,
            node,
            REDIRECT,
            "a listener redirects to `https` only",
            "`redirect: https`; other redirects belong to an operation",
        )
    }
}

impl FromNode for Protocols {
    const SHAPE: Shape = Shape::OneOrMany(&Protocol::SHAPE);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        let errors = bind.error_count();
        let written: Vec<Spanned<Protocol>> = FromNode::from_node(node, bind)?;
        for (at, protocol) in written.iter().enumerate() {
            if let Some(first) = written[..at].iter().find(|first| first.value == protocol.value) {
                bind.error(
                    ConfigError::new(PROTOCOL_TWICE, "a protocol stands twice", protocol.span)
                        .also(first.span, "first here")
                        .fix("delete one of the two"),
                );
            }
        }
        let has = |protocol| written.iter().any(|one| one.value == protocol);
        let protocols = Protocols { http1: has(Protocol::Http1), http2: has(Protocol::Http2) };
        (bind.error_count() == errors).then_some(protocols)
    }
}

impl FromNode for Protocol {
    const SHAPE: Shape = Shape::Word(&["http1", "http2"]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.word(node, &[("http1", Protocol::Http1), ("http2", Protocol::Http2)])
    }
}

impl FromNode for ClientAddress {
    const SHAPE: Shape = Shape::Word(&["x_forwarded_for", "forwarded"]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        let words =
            [("x_forwarded_for", ClientAddress::XForwardedFor), ("forwarded", ClientAddress::Forwarded)];
        bind.word(node, &words)
    }
}

impl FromNode for ProxyProtocol {
    const SHAPE: Shape = Shape::Word(&["v1", "v2", "any"]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.word(node, &[("v1", ProxyProtocol::V1), ("v2", ProxyProtocol::V2), ("any", ProxyProtocol::Any)])
    }
}

impl FromNode for AddressEntry {
    const SHAPE: Shape = Shape::Either(&[IpNet::SHAPE, Shape::Map(&ADDRESS_FILE)]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        match &node.kind {
            NodeKind::Map(_) => bind.map(node, &ADDRESS_FILE, |m| m.required("file").map(AddressEntry::File)),
            _ => IpNet::from_node(node, bind).map(AddressEntry::Network),
        }
    }
}

impl FromNode for Tls {
    const SHAPE: Shape = Shape::Either(&[
        Shape::Word(&["self-signed", "none"]),
        Shape::Map(&CERTIFICATE),
        Shape::OneOrMany(&Shape::Map(&CERTIFICATE)),
    ]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        match &node.kind {
            NodeKind::Scalar(scalar) if scalar.text == "acme" => {
                bind.error(not_in_this_version(
                    "`tls: acme`",
                    "certificates fetched by Ringwall itself",
                    node.span,
                ));
                None
            }
            NodeKind::Scalar(_) => bind
                .word(node, &[("self-signed", false), ("none", true)])
                .map(|none| if none { Tls::None } else { Tls::SelfSigned }),
            NodeKind::Refused => None,
            NodeKind::List(_) | NodeKind::Map(_) => {
                let certificates: Vec<Certificate> = FromNode::from_node(node, bind)?;
                ask_the_same(&certificates, bind);
                (!certificates.is_empty()).then_some(Tls::Files(certificates))
            }
        }
    }
}

impl FromNode for Certificate {
    const SHAPE: Shape = Shape::Map(&CERTIFICATE);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &CERTIFICATE, |m| {
            let (cert, key) = (m.required("cert"), m.required("key"));
            let clients = match m.optional("client_ca") {
                // What was refused is not missing: nobody is let in by a slip.
                None if m.attempted("client_ca") => return None,
                clients => clients,
            };
            Some(Certificate { cert: cert?, key: key?, clients, span: m.span() })
        })
    }
}

/// Who asks for one name and then sends requests for another is on one connection: what is asked of clients counts for the
/// listener, so it is written the same everywhere.
fn ask_the_same(certificates: &[Certificate], bind: &mut Bind<'_>) {
    let Some((first, others)) = certificates.split_first() else { return };
    for other in others {
        let same = match (&first.clients, &other.clients) {
            (None, None) => true,
            (Some(one), Some(two)) => one.is_like(two),
            _ => false,
        };
        if !same {
            bind.error(
                ConfigError::new(
                    CLIENT_CA_DIFFERS,
                    "the certificates of one listener ask different things of clients",
                    other.clients.as_ref().map_or(other.span, |clients| clients.span),
                )
                .also(first.clients.as_ref().map_or(first.span, |clients| clients.span), "and here")
                .expected("the same `client_ca` beside each certificate of the listener")
                .fix("move what is asked of some clients only to a listener of its own, or say `required: false` and let `allow` decide")
                .why("a connection that was opened for one name could be used for another"),
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::read::read;
    use crate::config::source::{FileId, Source, Sources};

    /// What `text` stands for, and the codes of what is wrong with it.
    fn protocols(text: &str) -> (Option<Protocols>, Vec<u16>) {
        let source = Source::new("a.yaml", std::path::Path::new(""), text).expect("a source");
        let root = read(&source, FileId::default(), &|_| None).root.expect("a value");
        let sources = Sources::default();
        let mut bind = Bind::new(&sources, &[]);
        let protocols = Protocols::from_node(&root, &mut bind);
        (protocols, bind.into_parts().0.iter().map(|error| error.code.number()).collect())
    }

    #[test]
    fn protocols_are_a_list_without_repetition() {
        for (text, expected) in [
            ("http1", Ok(Protocols::HTTP1)),
            ("[http1]", Ok(Protocols::HTTP1)),
            ("http2", Ok(Protocols::HTTP2)),
            ("[http1, http2]", Ok(Protocols::BOTH)),
            ("[http2, http1]", Ok(Protocols::BOTH)),
            ("[http2, http2]", Err(vec![1110])),
            ("[http1, http1]", Err(vec![1110])),
            ("[]", Err(vec![1025])),
            ("[http1, h2]", Err(vec![1017])),
            ("http3", Err(vec![1017])),
            ("{ http1: true }", Err(vec![1006])),
        ] {
            let expected = match expected {
                Ok(protocols) => (Some(protocols), Vec::new()),
                Err(codes) => (None, codes),
            };
            assert_eq!(protocols(text), expected, "{text}");
        }
    }

    #[test]
    fn without_a_word_tls_has_both_and_plain_connections_http1() {
        for (rest, expected) in [
            ("tls: self-signed", Protocols::BOTH),
            ("tls: { cert: a.pem, key: a.key }", Protocols::BOTH),
            ("tls: none", Protocols::HTTP1),
            ("redirect: https", Protocols::HTTP1),
            ("tls: self-signed, protocols: http1", Protocols::HTTP1),
        ] {
            let text = format!(
                "ringwall: 1\nlisten: {{ address: \"127.0.0.1:80\", {rest} }}\n\
                 upstreams: {{ a: \"http://127.0.0.1:1\" }}\n\
                 apis: {{ a: {{ to: a, raw: \"a test\", allow: [{{ who: anyone }}] }} }}"
            );
            let loaded =
                crate::config::parse_str("a.yaml", &text).unwrap_or_else(|errors| panic!("{errors}"));
            assert_eq!(loaded.config.listen[0].protocols_in_force(), expected, "{rest}");
        }
    }
}
