//! `login.X`: how callers prove who they are.

use std::time::Duration;

use super::GateMode;
use crate::config::bind::{Bind, FromNode, Named, Spanned, all_of, malformed};
use crate::config::error::{Code, ConfigError};
use crate::config::node::Node;
use crate::config::secret::SecretRef;
use crate::config::shape::{Key, Shape, Table};
use crate::config::source::Span;
use crate::config::unit::{FilePath, HeaderName, Url};
use crate::tls::certificate_names::{Pattern, is_trust_domain};

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

/// A pattern for names of certificates that is none, or that would fit anybody's.
pub const CERTIFICATE_NAME: Code = Code::new(1151);
/// What stands for a trust domain is none.
pub const TRUST_DOMAIN: Code = Code::new(1383);

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
    /// The certificate of the connection.
    Mtls(Certificates),
}

/// Certificates of connections.
#[derive(Clone, Debug)]
pub struct Certificates {
    /// The authorities.
    pub ca: Spanned<FilePath>,
    /// The SPIFFE trust domain whose SVIDs alone count.
    pub trust_domain: Option<Spanned<TrustDomain>>,
    /// Whose names count; empty: those of all that the authorities have issued.
    pub names: Vec<Spanned<CertificateName>>,
    /// Which name is the subject.
    pub subject: Option<CertificateSubject>,
    /// Roles, and whose they are.
    pub roles: Named<Vec<Spanned<CertificateName>>>,
}

/// Whose certificate it is, or which: `dns:…`, `uri:…`, `email:…`, `sha256:…`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateName(pub Pattern);

impl FromNode for CertificateName {
    const SHAPE: Shape = Shape::Pattern("^(dns|uri|email|sha256):.+$", "dns:*.partners.example.com");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        let text = bind.text(node, "a name such as `dns:*.partners.example.com`")?;
        match Pattern::parse(text) {
            Ok(pattern) => Some(CertificateName(pattern)),
            Err(expected) => {
                malformed(bind, node, CERTIFICATE_NAME, "this says of no certificate whose it is", expected)
            }
        }
    }
}

/// A SPIFFE trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomain(pub String);

impl FromNode for TrustDomain {
    const SHAPE: Shape = Shape::Pattern("^[a-z0-9._-]{1,255}$", "prod.example.com");

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        const EXPECTED: &str =
            "a trust domain such as `prod.example.com`: lower-case letters, digits, `.`, `-`, `_`";
        let text = bind.text(node, EXPECTED)?;
        match is_trust_domain(text) {
            true => Some(TrustDomain(text.to_owned())),
            false => malformed(bind, node, TRUST_DOMAIN, "this is not a SPIFFE trust domain", EXPECTED),
        }
    }
}

/// Which name of a certificate says who its holder is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateSubject {
    /// The first URI.
    Uri,
    /// The first DNS name.
    Dns,
    /// The first mail address.
    Email,
    /// The common name.
    CommonName,
}

const SUBJECTS: [(&str, CertificateSubject); 4] = [
    ("uri", CertificateSubject::Uri),
    ("dns", CertificateSubject::Dns),
    ("email", CertificateSubject::Email),
    ("common_name", CertificateSubject::CommonName),
];

impl FromNode for CertificateSubject {
    const SHAPE: Shape = Shape::Word(&["uri", "dns", "email", "common_name"]);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.word(node, &SUBJECTS)
    }
}

/// Roles, by name, each with the certificates that have it.
struct Roles(Named<Vec<Spanned<CertificateName>>>);

impl FromNode for Roles {
    const SHAPE: Shape = Shape::Named(&<Vec<CertificateName>>::SHAPE);

    fn from_node(node: &Node, bind: &mut Bind<'_>) -> Option<Self> {
        bind.named(node, "role").map(Roles)
    }
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
const METHOD_KEYS: [&str; 4] = ["api_key", "jwt", "oidc", "mtls"];

/// Keys that belong to one method or a few, and to which.
const METHODS_OF_KEYS: [(&str, &[&str]); 11] = [
    ("store", &["api_key"]),
    ("pepper", &["api_key"]),
    ("issuer", &["jwt"]),
    ("audience", &["jwt", "oidc"]),
    ("algorithms", &["jwt", "oidc"]),
    ("skew", &["jwt", "oidc"]),
    ("claims", &["jwt", "oidc"]),
    ("trust_domain", &["mtls"]),
    ("names", &["mtls"]),
    ("subject", &["mtls"]),
    ("roles", &["mtls"]),
];

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
        Key::optional(
            "mtls",
            FilePath::SHAPE,
            "certificates of clients that an authority of this PEM file has issued; a listener asks for them with `client_ca`",
        ),
        Key::optional(
            "trust_domain",
            TrustDomain::SHAPE,
            "for `mtls`: the SPIFFE trust domain; only its X.509-SVIDs count, and the SPIFFE ID is the subject",
        ),
        Key::optional(
            "names",
            <Vec<CertificateName>>::SHAPE,
            "for `mtls`: one of these must fit a name of the certificate, which is then the subject",
        )
        .default("any that the authorities have issued"),
        Key::optional(
            "subject",
            CertificateSubject::SHAPE,
            "for `mtls`: which name of the certificate is the subject",
        )
        .default("the name that fits `names`, else the first URI, else the first DNS name"),
        Key::optional(
            "roles",
            Roles::SHAPE,
            "for `mtls`: the roles of the certificates that fit one of these",
        )
        .default("none"),
        Key::optional("passthrough", Shape::Bool, "forward the credential to the upstream").default("false"),
        Key::optional("mode", GateMode::SHAPE, "whether it enforces").default("enforce"),
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
                let present = METHOD_KEYS.iter().any(|key| m.attempted(key));
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
            for (key, _) in METHODS_OF_KEYS.iter().filter(|(_, methods)| !methods.contains(&method)) {
                if let Some(span) = m.key_span(key) {
                    let error = ConfigError::new(
                        FOREIGN_KEY,
                        format!("`{key}` has no meaning beside `{method}`"),
                        span,
                    )
                    .fix("delete it");
                    m.error(match (*key, method) {
                        ("issuer", "oidc") => error.why("the URL after `oidc` is the issuer"),
                        ("roles", _) => error.why("the key file, or `claims`, says which roles somebody has"),
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
                "mtls" => Method::Mtls(certificates(m)?),
                method => Method::Jwt(tokens(m, method)?),
            };
            Some(Login { method, passthrough, mode, span })
        })
    }
}

fn certificates(m: &mut crate::config::bind::MapBinder<'_, '_, '_>) -> Option<Certificates> {
    let (trust_domain, names) = (m.optional("trust_domain"), m.optional("names").unwrap_or_default());
    let (subject, roles) = (m.optional("subject"), m.optional::<Roles>("roles"));
    let roles = roles.map(|roles| roles.0).unwrap_or_default();
    Some(Certificates { ca: m.required("mtls")?, trust_domain, names, subject, roles })
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
