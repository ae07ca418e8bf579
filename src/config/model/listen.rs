//! `listen[]`: where requests come in, and how the connection becomes private.

use ipnet::IpNet;

use super::Exception;
use crate::config::bind::{Bind, FromNode, Spanned, not_in_this_version};
use crate::config::error::Code;
use crate::config::node::{Node, NodeKind};
use crate::config::shape::{Key, Shape, Table};
use crate::config::source::Span;
use crate::config::unit::{Address, FilePath, HostName};

/// `redirect` of a listener is not `https`.
pub const REDIRECT: Code = Code::new(1105);

/// One address to listen on.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The address.
    pub address: Spanned<Address>,
    /// The names that are served here; empty: any valid Host.
    pub domains: Vec<Spanned<HostName>>,
    /// How the connection becomes private; `None` was left out, which only a redirect may.
    pub tls: Option<Spanned<Tls>>,
    /// Every request is answered with a redirect to `https://` (port 443); where it was written.
    pub redirect: Option<Span>,
    /// Why requests may come in without TLS.
    pub insecure: Option<Exception>,
    /// Peers whose `X-Forwarded-*`, `Forwarded` and request ids count.
    pub trusted_proxies: Vec<Spanned<IpNet>>,
    /// The whole map.
    pub span: Span,
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
    /// The whole map.
    pub span: Span,
}

/// Keys of `listen[]`.
pub static LISTENER: Table = Table {
    what: "a listener",
    place: "listen[]",
    keys: &[
        Key::required("address", Address::SHAPE, "an IP address with a port, or a Unix socket"),
        Key::optional("domains", <Vec<HostName>>::SHAPE, "the names served here; others are answered 421")
            .default("any valid Host"),
        Key::optional("tls", Tls::SHAPE, "certificate and key, `self-signed`, or `none`"),
        Key::optional(
            "redirect",
            Shape::Word(&["https"]),
            "answer every request with a redirect to `https://`",
        ),
        Key::optional("insecure", Exception::SHAPE, "why `tls: none` is accepted here, and until when"),
        Key::optional("trusted_proxies", <Vec<IpNet>>::SHAPE, "peers whose forwarding fields count")
            .default("none"),
        Key::later("proxy_protocol", "the PROXY protocol"),
    ],
};

/// Keys of `listen[].tls`.
pub static CERTIFICATE: Table = Table {
    what: "a certificate",
    place: "listen[].tls",
    keys: &[
        Key::required("cert", FilePath::SHAPE, "the certificate chain in PEM, leaf first"),
        Key::required("key", FilePath::SHAPE, "the private key in PEM, not readable by others"),
        Key::later("client_ca", "certificates of clients"),
    ],
};

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
            let redirect = match redirect {
                None if m.attempted("redirect") && tls.is_none() => Some(span),
                redirect => redirect,
            };
            let insecure = match m.optional("insecure") {
                None if m.attempted("insecure") => Some(Exception::refused(span)),
                insecure => insecure,
            };
            let trusted_proxies = m.optional("trusted_proxies").unwrap_or_default();
            let address = m.required("address")?;
            Some(Listener { address, domains, tls, redirect, insecure, trusted_proxies, span: m.span() })
        })
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
            Some(Certificate { cert: cert?, key: key?, span: m.span() })
        })
    }
}
