//! `login.X`: how callers prove who they are.

use std::time::Duration;

use super::GateMode;
use crate::config::bind::{Bind, FromNode, Spanned, all_of};
use crate::config::error::{Code, ConfigError};
use crate::config::node::Node;
use crate::config::secret::SecretRef;
use crate::config::shape::{Key, Shape, Table};
use crate::config::source::Span;
use crate::config::unit::{FilePath, HeaderName, Url};

/// A login has no method.
pub const METHOD_MISSING: Code = Code::new(1301);
/// A login has two methods.
pub const METHODS: Code = Code::new(1302);
/// A token login does not say whose tokens it accepts.
pub const ISSUER_MISSING: Code = Code::new(1303);
/// A token login does not say for whom the tokens must be.
pub const AUDIENCE_MISSING: Code = Code::new(1304);
/// A key that belongs to another method.
pub const FOREIGN_KEY: Code = Code::new(1310);
/// An algorithm that is not known, or that protects nothing.
pub const ALGORITHM: Code = Code::new(1309);

/// One way to prove who one is.
#[derive(Clone, Debug)]
pub struct Login {
    /// The way.
    pub method: Method,
    /// The credential is forwarded to the upstream.
    pub passthrough: bool,
    /// Whether it enforces; if it only observes, a request without or with a bad credential goes on without identity.
    pub mode: GateMode,
    /// The whole map.
    pub span: Span,
}

/// How a caller proves who it is.
#[derive(Clone, Debug)]
pub enum Method {
    /// A key in a field of the request.
    ApiKey(ApiKeys),
    /// A signed token in `Authorization: Bearer`.
    Jwt(Tokens),
}

/// Keys in a field of the request.
#[derive(Clone, Debug)]
pub struct ApiKeys {
    /// The field.
    pub header: Spanned<HeaderName>,
    /// The key file: one JSON object a line.
    pub store: Spanned<FilePath>,
    /// What the hashes in the key file are keyed with.
    pub pepper: SecretRef,
}

/// Signed tokens.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// Where the keys are that tokens must be signed with.
    pub keys: Spanned<JwtKeys>,
    /// The `iss` that tokens must have, byte for byte.
    pub issuer: Spanned<String>,
    /// One of these must be in the token's `aud`; at least one.
    pub audience: Vec<Spanned<String>>,
    /// The algorithms that are accepted; empty: all but HMAC and ES384.
    pub algorithms: Vec<Spanned<Algorithm>>,
    /// How far clocks may differ.
    pub skew: Duration,
    /// Which claims say what.
    pub claims: Claims,
}

/// Where the keys of tokens are.
#[derive(Clone, Debug)]
pub enum JwtKeys {
    /// A JWKS file.
    File(FilePath),
    /// A JWKS at a URL.
    Url(Url),
    /// An OpenID provider, whose discovery document says where its JWKS is.
    Discovery(Url),
}

/// Which claims say what.
#[derive(Clone, Debug)]
pub struct Claims {
    /// The scopes: a space-separated text or a list.
    pub scope: String,
    /// The roles: a list, or one text.
    pub roles: String,
}

impl Default for Claims {
    fn default() -> Self {
        Claims { scope: "scope".into(), roles: "roles".into() }
    }
}

/// A signature algorithm of JWS (RFC 7518 §3.1, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Algorithm {
    /// HMAC with SHA-256.
    Hs256,
    /// HMAC with SHA-384.
    Hs384,
    /// HMAC with SHA-512.
    Hs512,
    /// RSA PKCS #1 v1.5 with SHA-256.
    Rs256,
    /// RSA PKCS #1 v1.5 with SHA-384.
    Rs384,
    /// RSA PKCS #1 v1.5 with SHA-512.
    Rs512,
    /// RSA PSS with SHA-256.
    Ps256,
    /// RSA PSS with SHA-384.
    Ps384,
    /// RSA PSS with SHA-512.
    Ps512,
    /// ECDSA over P-256.
    Es256,
    /// ECDSA over P-384.
    Es384,
    /// Ed25519.
    EdDsa,
}

const ALGORITHMS: [(&str, Algorithm); 12] = [
    ("ES256", Algorithm::Es256),
    ("ES384", Algorithm::Es384),
    ("EdDSA", Algorithm::EdDsa),
    ("PS256", Algorithm::Ps256),
    ("PS384", Algorithm::Ps384),
    ("PS512", Algorithm::Ps512),
    ("RS256", Algorithm::Rs256),
    ("RS384", Algorithm::Rs384),
    ("RS512", Algorithm::Rs512),
    ("HS256", Algorithm::Hs256),
    ("HS384", Algorithm::Hs384),
    ("HS512", Algorithm::Hs512),
];

impl Algorithm {
    /// As in the `alg` of a token.
    pub fn as_str(self) -> &'static str {
        ALGORITHMS.iter().find(|(_, algorithm)| *algorithm == self).map_or("", |(name, _)| name)
    }

    /// Whether whoever can verify can also sign.
    pub fn is_hmac(self) -> bool {
        matches!(self, Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512)
    }
}

impl FromNode for Algorithm {
    const SHAPE: Shape = Shape::Word(&[
        "ES256", "ES384", "EdDSA", "PS256", "PS384", "PS512", "RS256", "RS384", "RS512", "HS256", "HS384",
        "HS512",
    ]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        let text = bind.text(node, "a JWS algorithm such as `ES256`")?;
        if text.eq_ignore_ascii_case("none") {
            let found = bind.found(node);
            bind.error(
                ConfigError::new(ALGORITHM, "`none` accepts tokens that nobody signed", node.span)
                    .found(found)
                    .expected("a JWS algorithm such as `ES256`")
                    .why("RFC 8725 §3.2; anybody could write such a token"),
            );
            return None;
        }
        bind.word(node, &ALGORITHMS)
    }
}

/// The methods: the one that is there decides which other keys may be.
const METHOD_KEYS: [&str; 3] = ["api_key", "jwt", "oidc"];

/// Keys of `login.X`.
pub static LOGIN: Table = Table {
    what: "a login",
    place: "login.X",
    keys: &[
        Key::optional("api_key", HeaderName::SHAPE, "API keys, in this field of the request"),
        Key::optional("store", FilePath::SHAPE, "for `api_key`: the key file, which holds hashes only"),
        Key::optional("pepper", SecretRef::SHAPE, "for `api_key`: the secret that the hashes are keyed with"),
        Key::optional(
            "jwt",
            Shape::Text("a JWKS file, or its URL"),
            "signed tokens; their keys are in this JWKS file, or at this URL",
        ),
        Key::optional("oidc", Url::SHAPE, "signed tokens of this OpenID provider"),
        Key::optional("issuer", Shape::Text("an issuer"), "for `jwt`: the `iss` that tokens must have"),
        Key::optional(
            "audience",
            <Vec<String>>::SHAPE,
            "for `jwt` and `oidc`: one of these must be in the token's `aud`",
        ),
        Key::optional(
            "algorithms",
            <Vec<Algorithm>>::SHAPE,
            "for `jwt` and `oidc`: the algorithms that are accepted",
        )
        .default("RS256 RS384 RS512 PS256 PS384 PS512 ES256 EdDSA"),
        Key::optional("skew", Duration::SHAPE, "for `jwt` and `oidc`: how far clocks may differ")
            .default("30s")
            .bounds("0s", "5min"),
        Key::optional("claims", Claims::SHAPE, "for `jwt` and `oidc`: which claims hold scopes and roles"),
        Key::optional("passthrough", Shape::Bool, "forward the credential to the upstream").default("false"),
        Key::optional("mode", GateMode::SHAPE, "whether it enforces").default("enforce"),
        Key::later("mtls", "certificates of clients"),
        Key::later("trust_domain", "SPIFFE identities"),
    ],
};

/// Keys of `login.X.claims`.
pub static CLAIMS: Table = Table {
    what: "the names of claims",
    place: "login.X.claims",
    keys: &[
        Key::optional("scope", Shape::Text("a claim"), "the claim with the scopes").default("scope"),
        Key::optional("roles", Shape::Text("a claim"), "the claim with the roles").default("roles"),
    ],
};

impl FromNode for Claims {
    const SHAPE: Shape = Shape::Map(&CLAIMS);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &CLAIMS, |m| {
            let defaults = Claims::default();
            Some(Claims {
                scope: m.optional("scope").unwrap_or(defaults.scope),
                roles: m.optional("roles").unwrap_or(defaults.roles),
            })
        })
    }
}

impl FromNode for Login {
    const SHAPE: Shape = Shape::Map(&LOGIN);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.map(node, &LOGIN, |m| {
            let passthrough = m.optional("passthrough").unwrap_or(false);
            let mode = m.optional("mode").unwrap_or_default();
            let span = m.span();
            let method = m.one_of(METHODS, &METHOD_KEYS);
            let Some(method) = method else {
                let present = METHOD_KEYS.iter().any(|key| m.attempted(key)) || m.has("mtls");
                if !present {
                    let names: Vec<String> = METHOD_KEYS.iter().map(|key| format!("`{key}`")).collect();
                    let head = m.head_span();
                    m.error(
                        ConfigError::new(
                            METHOD_MISSING,
                            "the login does not say how callers prove who they are",
                            head,
                        )
                        .expected(format!("one of {}", all_of(&names))),
                    );
                }
                return None;
            };
            let foreign: &[&str] = match method {
                "api_key" => &["issuer", "audience", "algorithms", "skew", "claims"],
                "jwt" => &["store", "pepper"],
                _ => &["store", "pepper", "issuer"],
            };
            for key in foreign {
                if let Some(span) = m.key_span(key) {
                    let error = ConfigError::new(
                        FOREIGN_KEY,
                        format!("`{key}` has no meaning beside `{method}`"),
                        span,
                    )
                    .fix("delete it");
                    m.error(match *key {
                        "issuer" => error.why("the URL after `oidc` is the issuer"),
                        _ => error,
                    });
                }
            }
            let method = match method {
                "api_key" => {
                    let (header, store, pepper) =
                        (m.required("api_key"), m.required("store"), m.required("pepper"));
                    // What was refused has been reported: something stands in for it, and the field is still checked.
                    let store = store.unwrap_or_else(|| Spanned::new(FilePath(Default::default()), span));
                    let pepper = pepper.unwrap_or_else(|| SecretRef::refused(span));
                    Method::ApiKey(ApiKeys { header: header?, store, pepper })
                }
                method => Method::Jwt(tokens(m, method)?),
            };
            Some(Login { method, passthrough, mode, span })
        })
    }
}

fn tokens(m: &mut crate::config::bind::MapBinder<'_, '_, '_>, method: &'static str) -> Option<Tokens> {
    let method_span = m.key_span(method).unwrap_or(m.span());
    let algorithms = m.optional("algorithms").unwrap_or_default();
    let skew = m.optional("skew").unwrap_or(Duration::from_secs(30));
    let claims = m.optional("claims").unwrap_or_default();
    let (keys, issuer) = if method == "oidc" {
        let url: Option<Spanned<Url>> = m.optional("oidc");
        // OpenID Connect Discovery §4.3: the issuer equals the URL that was asked, byte for byte.
        let issuer = m.optional::<Spanned<String>>("oidc").filter(|_| url.is_some());
        (url.map(|url| Spanned::new(JwtKeys::Discovery(url.value), url.span)), issuer)
    } else {
        (m.optional("jwt"), m.optional("issuer"))
    };
    if method == "jwt" && !m.attempted("issuer") {
        m.error(
            ConfigError::new(
                ISSUER_MISSING,
                "issuer is missing, so a token of any issuer would be accepted",
                method_span,
            )
            .label("add `issuer: <the iss of its tokens>`")
            .why("RFC 8725 §3.8; the keys alone do not say who may speak for whom"),
        );
    }
    if !m.attempted("audience") {
        m.error(
            ConfigError::new(
                AUDIENCE_MISSING,
                "audience is missing, so any token from this issuer would be accepted",
                method_span,
            )
            .label("add `audience: <your API's id>`")
            .why("RFC 8725 §3.9; one stolen token of another app would open this API"),
        );
    }
    let audience: Option<Vec<Spanned<String>>> = m.optional("audience");
    // What was refused has been reported: something stands in for it, and the rest is still checked.
    let issuer = issuer.unwrap_or_else(|| Spanned::new(String::new(), method_span));
    Some(Tokens { keys: keys?, issuer, audience: audience.unwrap_or_default(), algorithms, skew, claims })
}

impl FromNode for JwtKeys {
    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        let text = bind.text(node, "a JWKS file, or its URL")?;
        match text.contains("://") {
            true => FromNode::from_node(node, bind).map(JwtKeys::Url),
            false => FromNode::from_node(node, bind).map(JwtKeys::File),
        }
    }
}
