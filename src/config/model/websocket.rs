//! `websocket` of an operation or a raw API: that it may be opened, and what holds for what passes.

use std::time::Duration;

use crate::config::bind::{Bind, FromNode, Spanned, malformed};
use crate::config::error::Code;
use crate::config::node::{Node, NodeKind};
use crate::config::shape::{Key, Shape, Table};
use crate::config::source::Span;
use crate::config::unit::{FilePath, Rate, Url};

/// `websocket` is something else than `true` or a map.
pub const WEBSOCKET_FALSE: Code = Code::new(1443);
/// Not the origin of a page.
pub const ORIGIN: Code = Code::new(1444);

/// What holds for WebSockets; what is `None` has its default.
#[derive(Clone, Debug, Default)]
pub struct WebSocket {
    /// Messages of a client; as many as it likes.
    pub rate: Option<Spanned<Rate>>,
    /// Without a byte in either direction; 60 s.
    pub idle: Option<Duration>,
    /// From the handshake to the end; 24 h.
    pub lifetime: Option<Duration>,
    /// Whose pages may open one; empty: those of any site.
    pub origins: Vec<Spanned<Origin>>,
    /// What each message of a client must be.
    pub schema: Option<Spanned<FilePath>>,
    /// Whether both ends may agree on compression.
    pub compression: Option<bool>,
    /// The whole value.
    pub span: Span,
}

/// [`WebSocket`] with the defaults filled in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WebSocketInForce {
    /// Without a byte in either direction.
    pub idle: Duration,
    /// From the handshake to the end.
    pub lifetime: Duration,
    /// Whether both ends may agree on compression.
    pub compression: bool,
}

impl WebSocket {
    /// With the defaults of the manual.
    pub fn in_force(&self) -> WebSocketInForce {
        WebSocketInForce {
            idle: self.idle.unwrap_or(Duration::from_secs(60)),
            lifetime: self.lifetime.unwrap_or(Duration::from_secs(24 * 3_600)),
            // Who judges messages must be able to read them.
            compression: self.compression.unwrap_or(true) && self.schema.is_none(),
        }
    }
}

/// Keys of the long form of `websocket`.
pub static WEBSOCKET: Table = Table {
    what: "the long form of `websocket`",
    place: "websocket",
    keys: &[
        Key::optional("rate", Rate::SHAPE, "messages of a client, for each WebSocket; more close with 1008")
            .default("as many as it likes"),
        Key::optional(
            "idle",
            Duration::SHAPE,
            "without a byte in either direction; then it closes with 1001",
        )
        .default("60s")
        .bounds("1s", "1day"),
        Key::optional("lifetime", Duration::SHAPE, "from the handshake to the end; then it closes with 1001")
            .default("24h")
            .bounds("1s", "7day"),
        Key::optional("origins", <Vec<Origin>>::SHAPE, "whose pages may open one; others get 403")
            .default("those of any site; clients that are no browsers name none, and pass"),
        Key::optional("schema", FilePath::SHAPE, "the JSON Schema of each message of a client; else 1008"),
        Key::optional("compression", Shape::Bool, "let both ends agree on `permessage-deflate`")
            .default("true, unless there is a `schema`"),
    ],
};

/// Short form: `true`.
impl FromNode for WebSocket {
    const SHAPE: Shape = Shape::Either(&[Shape::Bool, Shape::Map(&WEBSOCKET)]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        if !matches!(node.kind, NodeKind::Map(_)) {
            return match bool::from_node(node, bind)? {
                true => Some(WebSocket { span: node.span, ..WebSocket::default() }),
                false => malformed(
                    bind,
                    node,
                    WEBSOCKET_FALSE,
                    "`websocket: false` says nothing",
                    "`websocket: true`, or a map such as `{ rate: 100/s, idle: 5min }`",
                ),
            };
        }
        bind.map(node, &WEBSOCKET, |m| {
            Some(WebSocket {
                rate: m.optional("rate"),
                idle: m.optional("idle"),
                lifetime: m.optional("lifetime"),
                origins: m.optional("origins").unwrap_or_default(),
                schema: m.optional("schema"),
                compression: m.optional("compression"),
                span: m.span(),
            })
        })
    }
}

/// The origin of a page, as browsers write it (RFC 6454 §6.2): `https://shop.example.com`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(pub String);

impl FromNode for Origin {
    const SHAPE: Shape = Shape::Pattern("^https?://[^/?#@]+$", "https://shop.example.com");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "an origin such as `https://shop.example.com` or `https://localhost:8443`";
        let text = bind.text(node, EXPECTED)?;
        let authority = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
        let is_bare =
            authority.is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', '?', '#', '@', '*']));
        if !is_bare || Url::parse(text).is_err() {
            return malformed(bind, node, ORIGIN, "this is not the origin of a page", EXPECTED);
        }
        // RFC 6454 §6.1: a browser leaves the port of the scheme out.
        let plain = text.strip_suffix(if text.starts_with("https:") { ":443" } else { ":80" });
        Some(Origin(plain.unwrap_or(text).to_ascii_lowercase()))
    }
}
