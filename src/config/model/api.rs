//! `apis.X` and its operations: what is served, and where it goes.

use super::policy::How;
use super::{Allow, Body, HeaderEdits, Limit, Maintenance, Reason, Scoped, Sizes, Timeouts, WebSocket};
use crate::config::bind::{Bind, FromNode, Named, Spanned, malformed};
use crate::config::error::{Code, ConfigError};
use crate::config::node::{Node, NodeKind};
use crate::config::shape::{Key, Shape, Table};
use crate::config::source::Span;
use crate::config::unit::{self, BasePath, HeaderName, HeaderValue, HostName, Match, Url};
use crate::http;

use super::policy::FieldMap;

/// An API does not say what it serves, or says it twice.
pub const SURFACE: Code = Code::new(1401);
/// An operation is answered in two ways.
pub const ACTIONS: Code = Code::new(1409);
/// `closed` is something else than `true`.
pub const CLOSED: Code = Code::new(1416);
/// The status of an answer or redirect is out of place.
pub const STATUS: Code = Code::new(1426);
/// A method that cannot be listed.
pub const METHODS: Code = Code::new(1437);
/// What a redirect keeps has no place behind its target.
pub const REDIRECT_KEEP: Code = Code::new(1439);
/// The target of a redirect is not one.
pub const REDIRECT_TARGET: Code = Code::new(1421);

/// One API.
#[derive(Clone, Debug)]
pub struct Api {
    /// The hosts it is served on; empty: all domains of the listeners.
    pub host: Vec<Spanned<HostName>>,
    /// The path it lives below; the longest that fits wins.
    pub base: Spanned<BasePath>,
    /// Where its requests go; `None` only if no operation is forwarded, or it is closed.
    pub to: Option<To>,
    /// What it serves. `None` only in a draft: it was refused, or belongs to a later version.
    pub surface: Option<Surface>,
    /// Who may do what; `None` only if it is closed.
    pub allow: Option<Allow>,
    /// Limits by rate.
    pub limits: Vec<Limit>,
    /// Bounds on sizes.
    pub sizes: Option<Sizes>,
    /// Edits to fields.
    pub headers: Option<HeaderEdits>,
    /// Times.
    pub timeouts: Option<Timeouts>,
    /// What the body of every operation must be.
    pub body: Option<Body>,
    /// The methods that a raw API serves; empty: all.
    pub methods: Vec<Spanned<RawMethod>>,
    /// A time in which it serves nothing.
    pub maintenance: Option<Maintenance>,
    /// WebSockets, if it is raw.
    pub websocket: Option<WebSocket>,
    /// What becomes of `%2F` in a path.
    pub encoded_slash: Option<Spanned<EncodedSlash>>,
    /// Other names for identity fields: (field, what it holds).
    pub identity: Vec<(Spanned<HeaderName>, Spanned<IdentityField>)>,
    /// Which keys were written: a key that was refused is not missing.
    pub written: Written,
    /// The whole map.
    pub span: Span,
}

/// Keys whose absence is checked elsewhere.
#[derive(Clone, Copy, Debug, Default)]
pub struct Written {
    /// `allow`
    pub allow: bool,
    /// `to`
    pub to: bool,
    /// `closed`
    pub closed: bool,
    /// The first key of the map.
    pub head: Span,
}

/// What an API serves.
#[derive(Clone, Debug)]
pub enum Surface {
    /// These operations; everything else is 404 or 405.
    Operations(Named<Operation>),
    /// Every path and method below its base, for a reason.
    Raw(Spanned<String>),
    /// Nothing: everything below its base is 403.
    Closed(Span),
}

/// A method that a raw API may serve. GET brings HEAD with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawMethod(pub http::Method);

/// Where the requests of an API go.
#[derive(Clone, Debug)]
pub struct To {
    /// The name of the upstream.
    pub upstream: Spanned<String>,
    /// Replaces the API's base; `None`: the path goes on as it came.
    pub path: Option<Spanned<BasePath>>,
    /// Which Host goes upstream.
    pub host: ClientHost,
}

/// Which Host goes upstream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientHost {
    /// The one that the client sent.
    #[default]
    Client,
    /// That of the target.
    Upstream,
}

/// What becomes of `%2F` in a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EncodedSlash {
    /// 400.
    Refuse,
    /// It goes on as it is, part of its segment.
    Keep,
}

/// What an identity field holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IdentityField {
    /// Who it is.
    Subject,
    /// Who says so.
    Issuer,
    /// A person, a key, a workload.
    Kind,
    /// The name of the login.
    Login,
    /// The scopes.
    Scopes,
    /// The roles.
    Roles,
}

/// One operation.
#[derive(Clone, Debug)]
pub struct Operation {
    /// What a request must look like.
    pub matches: Spanned<Match>,
    /// What happens with it.
    pub route: Route,
    /// Why it may have a tail `{+name}`.
    pub raw: Option<Spanned<String>>,
    /// What its body must be.
    pub body: Option<Scoped<Body>>,
    /// What becomes of `%2F` in its path; `None`: what its API says.
    pub encoded_slash: Option<Spanned<EncodedSlash>>,
    /// Limits by rate.
    pub limits: Option<Scoped<Vec<Limit>>>,
    /// Bounds on sizes.
    pub sizes: Option<Scoped<Sizes>>,
    /// Edits to fields.
    pub headers: Option<Scoped<HeaderEdits>>,
    /// Times.
    pub timeouts: Option<Scoped<Timeouts>>,
    /// It is opened as a WebSocket, and as nothing else.
    pub websocket: Option<WebSocket>,
    /// The whole value.
    pub span: Span,
}

/// What happens with an operation.
#[derive(Clone, Debug)]
pub enum Route {
    /// It is forwarded.
    Forward,
    /// It is answered with a redirect.
    Redirect(Redirect),
    /// It is answered.
    Respond(Respond),
}

/// A redirect.
#[derive(Clone, Debug)]
pub struct Redirect {
    /// Where to: an absolute URL, or a path on the same host.
    pub to: Spanned<String>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// What of the request's target goes behind it.
    pub keep: Keep,
}

/// What of a request's target goes behind that of a redirect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Keep {
    /// Nothing: everybody is sent to one place.
    #[default]
    Nothing,
    /// The query.
    Query,
    /// The path and the query.
    Path,
}

/// An answer of our own.
#[derive(Clone, Debug)]
pub struct Respond {
    /// 200 to 599.
    pub status: u16,
    /// The body; may be empty.
    pub body: String,
    /// Its media type.
    pub content_type: HeaderValue,
}

impl Api {
    /// Its operations; none if it is raw or closed.
    pub fn operations(&self) -> Option<&Named<Operation>> {
        match &self.surface {
            Some(Surface::Operations(operations)) => Some(operations),
            _ => None,
        }
    }

    /// Whether everything below its base is refused.
    pub fn is_closed(&self) -> bool {
        matches!(self.surface, Some(Surface::Closed(_)))
    }

    /// The sizes of an operation, or of the API itself, with what it inherits.
    pub fn sizes_of(&self, operation: Option<&Operation>) -> Sizes {
        let outer = self.sizes.unwrap_or_default();
        match operation.and_then(|operation| operation.sizes.as_ref()) {
            None => outer,
            Some(Scoped { how: How::Extend, value, .. }) => outer.extended(*value),
            Some(Scoped { value, .. }) => *value,
        }
    }

    /// The times of an operation, or of the API itself, with what it inherits.
    pub fn timeouts_of(&self, operation: Option<&Operation>) -> Timeouts {
        let outer = self.timeouts.unwrap_or_default();
        match operation.and_then(|operation| operation.timeouts.as_ref()) {
            None => outer,
            Some(Scoped { how: How::Extend, value, .. }) => outer.extended(*value),
            Some(Scoped { value, .. }) => *value,
        }
    }

    /// The edits of an operation, or of the API itself, with what it inherits.
    pub fn headers_of(&self, operation: Option<&Operation>) -> HeaderEdits {
        let outer = self.headers.clone().unwrap_or_default();
        match operation.and_then(|operation| operation.headers.as_ref()) {
            None => outer,
            Some(Scoped { how: How::Extend, value, .. }) => outer.extended(value),
            Some(Scoped { value, .. }) => value.clone(),
        }
    }

    /// The body of an operation, or of the API itself.
    pub fn body_of<'a>(&'a self, operation: Option<&'a Operation>) -> Option<&'a Body> {
        match operation.and_then(|operation| operation.body.as_ref()) {
            Some(body) => Some(&body.value),
            None => self.body.as_ref(),
        }
    }

    /// What holds for WebSockets of an operation, or of the API itself.
    pub fn websocket_of<'a>(&'a self, operation: Option<&'a Operation>) -> Option<&'a WebSocket> {
        operation.map_or(self.websocket.as_ref(), |operation| operation.websocket.as_ref())
    }

    /// Whether an operation, or the API itself, takes `%2F` in its path.
    pub fn keeps_encoded_slash(&self, operation: Option<&Operation>) -> bool {
        let inner = operation.and_then(|operation| operation.encoded_slash);
        inner.or(self.encoded_slash).is_some_and(|slash| slash.value == EncodedSlash::Keep)
    }

    /// The limits of the API that an operation keeps. Those of [`Operation::limits`] come on top.
    pub fn limits_of(&self, operation: Option<&Operation>) -> &[Limit] {
        match operation.and_then(|operation| operation.limits.as_ref()) {
            Some(Scoped { how: How::Replace, .. }) => &[],
            _ => &self.limits,
        }
    }
}

/// Keys of `apis.X`.
pub static API: Table = Table {
    what: "an API",
    place: "apis.X",
    keys: &[
        Key::optional("host", <Vec<HostName>>::SHAPE, "the hosts it is served on")
            .default("all domains of the listeners"),
        Key::optional("base", BasePath::SHAPE, "the path it lives below; the longest that fits wins")
            .default("/"),
        Key::optional("to", To::SHAPE, "the upstream that its requests go to"),
        Key::optional("operations", Shape::Named(&Operation::SHAPE), "what it serves, by name"),
        Key::optional(
            "raw",
            Shape::Text("why"),
            "serve every path and method below the base, for this reason",
        ),
        Key::optional("closed", Shape::Bool, "answer 403 to everything below the base"),
        Key::optional("allow", Allow::SHAPE, "who may do what; nobody else gets in"),
        Key::optional("limits", <Vec<Limit>>::SHAPE, "limits by rate, or by requests in flight"),
        Key::optional("sizes", Sizes::SHAPE, "bounds on sizes"),
        Key::optional("headers", HeaderEdits::SHAPE, "fields to set and remove"),
        Key::optional("timeouts", Timeouts::SHAPE, "times"),
        Key::optional("body", Body::SHAPE, "what the body of every operation must be"),
        Key::optional(
            "methods",
            <Vec<RawMethod>>::SHAPE,
            "the methods that a raw API serves; others are 405",
        )
        .default("all but CONNECT and TRACE"),
        Key::optional("maintenance", Maintenance::SHAPE, "answer 503 for a while, for this reason"),
        Key::optional("websocket", WebSocket::SHAPE, "let clients of a raw API open WebSockets")
            .default("who asks for one gets an ordinary answer"),
        Key::optional("encoded_slash", EncodedSlash::SHAPE, "what becomes of `%2F` in a path")
            .default("refuse"),
        Key::optional("identity", Shape::Named(&IdentityField::SHAPE), "other names for the identity fields")
            .default("`X-Ringwall-Subject` and so on"),
        Key::later("spec", "operations from an OpenAPI document"),
        Key::later("responses", "the contract of answers"),
        Key::later("unknown", "what becomes of undeclared parameters"),
        Key::later("security", "the document's security schemes"),
        Key::later("version", "versions and their sunset"),
        Key::later("cors", "requests from other origins"),
        Key::later("owner", "checks on single objects"),
        Key::later("ai", "models behind one API"),
        Key::later("guard", "content of prompts and answers"),
        Key::later("cache", "caching"),
    ],
};

/// Keys of `apis.X.to`.
pub static TO: Table = Table {
    what: "the long form of `to`",
    place: "apis.X.to",
    keys: &[
        Key::required("upstream", Shape::Text("the name of an upstream"), "the name of an upstream"),
        Key::optional("path", BasePath::SHAPE, "replaces the API's `base` on the way")
            .default("the path goes on as it came"),
        Key::optional("host", ClientHost::SHAPE, "which Host goes upstream").default("client"),
    ],
};

/// Keys of `operations.H`.
pub static OPERATION: Table = Table {
    what: "an operation",
    place: "operations.H",
    keys: &[
        Key::required("match", Match::SHAPE, "a method and a path below the base; GET implies HEAD"),
        Key::optional("body", <Scoped<Body>>::SHAPE, "what the body must be"),
        Key::optional("limits", <Scoped<Vec<Limit>>>::SHAPE, "limits by rate, or by requests in flight"),
        Key::optional("sizes", <Scoped<Sizes>>::SHAPE, "bounds on sizes"),
        Key::optional("headers", <Scoped<HeaderEdits>>::SHAPE, "fields to set and remove"),
        Key::optional("timeouts", <Scoped<Timeouts>>::SHAPE, "times"),
        Key::optional("encoded_slash", EncodedSlash::SHAPE, "what becomes of `%2F` in its path")
            .default("what its API says"),
        Key::optional("redirect", Redirect::SHAPE, "answer with a redirect"),
        Key::optional("respond", Respond::SHAPE, "answer without an upstream"),
        Key::optional("raw", Shape::Text("why"), "why the template may end in a tail `{+name}`"),
        Key::optional("websocket", WebSocket::SHAPE, "it is opened as a WebSocket, and as nothing else")
            .default("who asks for one gets an ordinary answer"),
        Key::later("responses", "the contract of answers"),
    ],
};

/// Keys of the long form of `operations.H.redirect`.
pub static REDIRECT: Table = Table {
    what: "a redirect",
    place: "operations.H.redirect",
    keys: &[
        Key::required(
            "to",
            Shape::Text("a URL, or a path on the same host"),
            "an absolute URL, or a path on the same host",
        ),
        Key::optional("status", Shape::Int, "301, 302, 303, 307 or 308").default("308"),
        Key::optional(
            "keep",
            Keep::SHAPE,
            "what of the request goes behind it: `path` with query, or `query`",
        )
        .default("nothing"),
    ],
};

/// Keys of `operations.H.respond`.
pub static RESPOND: Table = Table {
    what: "an answer",
    place: "operations.H.respond",
    keys: &[
        Key::required("status", Shape::Int, "the status, 200 to 599"),
        Key::optional("body", Shape::Text("text"), "the body").default("empty"),
        Key::optional("content_type", HeaderValue::SHAPE, "its media type")
            .default("text/plain; charset=utf-8"),
    ],
};

impl FromNode for Api {
    const SHAPE: Shape = Shape::Map(&API);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &API, |m| {
            let written =
                Written { allow: m.attempted("allow"), to: m.attempted("to"), closed: m.attempted("closed"), head: m.head_span() };
            let base = m.optional("base").unwrap_or(Spanned::new(BasePath::default(), m.span()));
            let identity = m.optional::<FieldMap<Spanned<IdentityField>>>("identity");
            let kinds = ["operations", "raw", "closed"];
            let surface = match m.one_of(SURFACE, &kinds) {
                Some(_) if m.has("spec") => None,
                Some("operations") => match m.node("operations") {
                    Some(node) => m.bind().named(node, "operation").map(Surface::Operations),
                    None => None,
                },
                Some("raw") => m
                    .optional::<Spanned<Reason>>("raw")
                    .map(|reason| Surface::Raw(Spanned::new(reason.value.0, reason.span))),
                Some(_) => m.optional::<Spanned<Closed>>("closed").map(|closed| Surface::Closed(closed.span)),
                None => {
                    if !kinds.iter().any(|key| m.attempted(key)) && !m.has("spec") {
                        let head = m.head_span();
                        m.error(
                            ConfigError::new(SURFACE, "the API does not say what it serves", head)
                                .expected("exactly one of `operations`, `raw` and `closed`")
                                .fix("list its operations; `raw: \"why\"` serves every path, `closed: true` none"),
                        );
                    }
                    None
                }
            };
            if let Some(Surface::Operations(operations)) = &surface
                && operations.names().next().is_none()
            {
                let span = m.key_span("operations").unwrap_or(m.span());
                m.error(
                    ConfigError::new(SURFACE, "the API has no operations", span)
                        .expected("at least one operation such as `listOrders: GET /orders`"),
                );
            }
            Some(Api {
                host: m.optional("host").unwrap_or_default(),
                base,
                to: m.optional("to"),
                surface,
                allow: m.optional("allow"),
                limits: m.optional("limits").unwrap_or_default(),
                sizes: m.optional("sizes"),
                headers: m.optional("headers"),
                timeouts: m.optional("timeouts"),
                body: m.optional("body"),
                methods: m.optional("methods").unwrap_or_default(),
                maintenance: m.optional("maintenance"),
                websocket: m.optional("websocket"),
                encoded_slash: m.optional("encoded_slash"),
                identity: identity.map(|map| map.0).unwrap_or_default(),
                written,
                span: m.span(),
            })
        })
    }
}

struct Closed;

impl FromNode for Closed {
    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        match bool::from_node(node, bind)? {
            true => Some(Closed),
            false => malformed(
                bind,
                node,
                CLOSED,
                "`closed: false` says nothing",
                "`closed: true`, or `operations` or `raw` with `allow`",
            ),
        }
    }
}

/// Short form: the name of the upstream.
impl FromNode for To {
    const SHAPE: Shape = Shape::Either(&[Shape::Text("the name of an upstream"), Shape::Map(&TO)]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        if !matches!(node.kind, NodeKind::Map(_)) {
            let name = bind.text(node, "the name of an upstream, or `{ upstream, path, host }`")?;
            let upstream = Spanned::new(name.to_owned(), node.span);
            return Some(To { upstream, path: None, host: ClientHost::Client });
        }
        bind.map(node, &TO, |m| {
            let path = m.optional("path");
            let host = m.optional("host").unwrap_or_default();
            Some(To { upstream: m.required("upstream")?, path, host })
        })
    }
}

impl FromNode for ClientHost {
    const SHAPE: Shape = Shape::Word(&["client", "upstream"]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.word(node, &[("client", ClientHost::Client), ("upstream", ClientHost::Upstream)])
    }
}

impl FromNode for EncodedSlash {
    const SHAPE: Shape = Shape::Word(&["refuse", "keep"]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.word(node, &[("refuse", EncodedSlash::Refuse), ("keep", EncodedSlash::Keep)])
    }
}

impl FromNode for IdentityField {
    const SHAPE: Shape = Shape::Word(&["subject", "issuer", "kind", "login", "scopes", "roles"]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.word(
            node,
            &[
                ("subject", IdentityField::Subject),
                ("issuer", IdentityField::Issuer),
                ("kind", IdentityField::Kind),
                ("login", IdentityField::Login),
                ("scopes", IdentityField::Scopes),
                ("roles", IdentityField::Roles),
            ],
        )
    }
}

/// Short form: `GET /orders/{id}`.
impl FromNode for Operation {
    const SHAPE: Shape = Shape::Either(&[Match::SHAPE, Shape::Map(&OPERATION)]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        if !matches!(node.kind, NodeKind::Map(_)) && !node.is_null() {
            return Some(Operation {
                matches: FromNode::from_node(node, bind)?,
                route: Route::Forward,
                raw: None,
                body: None,
                encoded_slash: None,
                limits: None,
                sizes: None,
                headers: None,
                timeouts: None,
                websocket: None,
                span: node.span,
            });
        }
        bind.map(node, &OPERATION, |m| {
            let raw =
                m.optional::<Spanned<Reason>>("raw").map(|reason| Spanned::new(reason.value.0, reason.span));
            // What was refused is not missing: something stands in for it, and the rest is still checked.
            let raw = match (raw, m.node("raw")) {
                (None, Some(node)) => Some(Spanned::new(String::new(), node.span)),
                (raw, _) => raw,
            };
            let route = match m.one_of(ACTIONS, &["redirect", "respond"]) {
                Some("redirect") => m.optional("redirect").map(Route::Redirect),
                Some(_) => m.optional("respond").map(Route::Respond),
                None => Some(Route::Forward),
            };
            let body = m.optional("body");
            let encoded_slash = m.optional("encoded_slash");
            let limits = m.optional("limits");
            let sizes = m.optional("sizes");
            let headers = m.optional("headers");
            let timeouts = m.optional("timeouts");
            let websocket = m.optional("websocket");
            let matches = m.required("match")?;
            let route = route.unwrap_or_else(|| Route::Respond(Respond::refused()));
            Some(Operation {
                matches,
                route,
                raw,
                body,
                encoded_slash,
                limits,
                sizes,
                headers,
                timeouts,
                websocket,
                span: m.span(),
            })
        })
    }
}

/// Short form: where to.
impl FromNode for Redirect {
    const SHAPE: Shape =
        Shape::Either(&[Shape::Text("a URL, or a path on the same host"), Shape::Map(&REDIRECT)]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        if !matches!(node.kind, NodeKind::Map(_)) {
            return redirect_target(node, bind).map(|to| Redirect { to, status: 308, keep: Keep::Nothing });
        }
        bind.map(node, &REDIRECT, |m| {
            let status = match m.node("status") {
                None => Some(308),
                // RFC 9110 §15.4: the redirects that a client follows by itself.
                Some(node) => status(
                    node,
                    m.bind(),
                    |status| matches!(status, 301 | 302 | 303 | 307 | 308),
                    "301, 302, 303, 307 or 308",
                ),
            };
            let keep = m.optional::<Keep>("keep").unwrap_or_default();
            let Some(to) = m.node("to") else {
                m.missing("to");
                return None;
            };
            let to = redirect_target(to, m.bind())?;
            if keep != Keep::Nothing && to.contains(['?', '#']) {
                m.error(
                    ConfigError::new(REDIRECT_KEEP, "what is kept cannot go behind a query", to.span)
                        .expected("a target without `?` and `#`, or no `keep`"),
                );
            }
            Some(Redirect { to, status: status?, keep })
        })
    }
}

impl FromNode for Keep {
    const SHAPE: Shape = Shape::Word(&["path", "query"]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.word(node, &[("path", Keep::Path), ("query", Keep::Query)])
    }
}

impl FromNode for RawMethod {
    const SHAPE: Shape = Shape::Word(&["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "QUERY"]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS or QUERY";
        let text = bind.text(node, EXPECTED)?;
        match (unit::Method::parse(text), http::Method::of(text.as_bytes())) {
            (Ok(_), http::Method::Other) => {
                malformed(bind, node, METHODS, format!("`{text}` cannot be listed"), EXPECTED)
            }
            (Ok(_), method) => Some(RawMethod(method)),
            (Err((problem, _)), _) => malformed(bind, node, METHODS, problem, EXPECTED),
        }
    }
}

fn redirect_target(node: &Node, bind: &mut Bind<'_>) -> Option<Spanned<String>> {
    const EXPECTED: &str = "an absolute URL such as `https://www.example.com/`, or a path on the same host";
    let text = bind.text(node, EXPECTED)?;
    // `//host` would be another host, and so would `/\host` to a browser.
    let path = text.starts_with('/')
        && !text.starts_with("//")
        && Url::parse(&format!("https://host{text}")).is_ok();
    if !path && let Err(problem) = Url::parse(text) {
        return malformed(bind, node, REDIRECT_TARGET, format!("the redirect {problem}"), EXPECTED);
    }
    Some(Spanned::new(text.to_owned(), node.span))
}

fn status(node: &Node, bind: &mut Bind<'_>, fits: impl Fn(u64) -> bool, expected: &str) -> Option<u16> {
    let status = u64::from_node(node, bind)?;
    match fits(status) {
        true => u16::try_from(status).ok(),
        false => malformed(bind, node, STATUS, format!("the status {status} is out of place here"), expected),
    }
}

impl Respond {
    /// Stands for an answer that was refused; never in a `Config`.
    fn refused() -> Respond {
        Respond { status: 500, body: String::new(), content_type: HeaderValue::literal("text/plain") }
    }
}

impl FromNode for Respond {
    const SHAPE: Shape = Shape::Map(&RESPOND);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &RESPOND, |m| {
            let body = match m.node("body") {
                Some(node) => m.bind().text(node, "text").map(str::to_owned),
                None => Some(String::new()),
            };
            let content_type = m.optional::<HeaderValue>("content_type");
            let content_type =
                content_type.unwrap_or_else(|| HeaderValue::literal("text/plain; charset=utf-8"));
            let Some(node) = m.node("status") else {
                m.missing("status");
                return None;
            };
            // RFC 9110 §15.2: an answer in the 100s is not a final one.
            let status = status(node, m.bind(), |status| (200..=599).contains(&status), "200 to 599");
            Some(Respond { status: status?, body: body?, content_type })
        })
    }
}
