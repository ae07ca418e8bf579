//! What a certificate says of its holder, and patterns for it: `dns:*.partners.example.com`, `uri:spiffe://mesh.example/ns/*`.
//!
//! Not for whether the certificate holds: what is read here has been verified, or is only compared. Bytes in, values out;
//! called where client certificates are verified, by the login that goes by them, and by the reader of the configuration.
//!
//! Names are compared as bytes after one change: DNS names, and what is behind the `@` of an address, are in lower case. A
//! certificate with a name that holds anything but visible ASCII is not read at all, so that no name can look like another.

use ring::digest::{SHA256, digest};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Names of one certificate that are looked at; one with more is not read.
pub const NAMES_MAX: usize = 64;
/// Bytes of a name. Those of a SPIFFE ID have the same bound (SPIFFE-ID §2.3).
pub const NAME_BYTES_MAX: usize = 2_048;
/// Bytes of a certificate that is read.
const CERTIFICATE_BYTES_MAX: usize = 64 * 1024;

/// What a certificate says of its holder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its URIs, in their order (RFC 5280 §4.2.1.6).
    pub uris: Vec<Box<str>>,
    /// Its DNS names, in lower case.
    pub dns: Vec<Box<str>>,
    /// Its mail addresses.
    pub emails: Vec<Box<str>>,
    /// The common name of its subject, if there is exactly one.
    pub common_name: Option<Box<str>>,
    /// The name of who issued it, as text (RFC 4514 but for the order).
    pub issuer: Box<str>,
    /// SHA-256 of the whole certificate, in hexadecimal.
    pub fingerprint: Box<str>,
    /// Unix seconds after which it is no longer valid.
    pub not_after_s: u64,
    /// Whether its key may sign a handshake: `digitalSignature`, or no word about it (RFC 5280 §4.2.1.3).
    pub may_sign: bool,
    /// Whether it is, by whatever it says, one that issues certificates or revocation lists.
    pub is_authority: bool,
}

impl Facts {
    /// Reads a certificate; `None` for one that cannot be read, or beyond the bounds.
    pub fn read(der: &[u8]) -> Option<Facts> {
        if der.len() > CERTIFICATE_BYTES_MAX {
            return None;
        }
        let (rest, certificate) = X509Certificate::from_der(der).ok()?;
        if !rest.is_empty() {
            return None;
        }
        let (mut uris, mut dns, mut emails) = (Vec::new(), Vec::new(), Vec::new());
        if let Some(names) = certificate.subject_alternative_name().ok()? {
            let names = &names.value.general_names;
            if names.len() > NAMES_MAX {
                return None;
            }
            for name in names {
                match name {
                    GeneralName::URI(uri) => uris.push(visible(uri)?.into()),
                    GeneralName::DNSName(name) => dns.push(visible(name)?.to_ascii_lowercase().into()),
                    GeneralName::RFC822Name(address) => emails.push(address_of(visible(address)?)?),
                    GeneralName::Invalid(..) => return None,
                    _ => {}
                }
            }
        }
        let usage = certificate.key_usage().ok()?;
        let is_ca = certificate.basic_constraints().ok()?.is_some_and(|constraints| constraints.value.ca);
        let mut common_names = certificate.subject().iter_common_name();
        let common_name = match (common_names.next(), common_names.next()) {
            (Some(only), None) => only.as_str().ok().filter(|name| is_printable(name)).map(Box::from),
            _ => None,
        };
        Some(Facts {
            uris,
            dns,
            emails,
            common_name,
            issuer: certificate.issuer().to_string().into(),
            fingerprint: hexadecimal(digest(&SHA256, der).as_ref()).into(),
            not_after_s: u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0),
            may_sign: usage.as_ref().is_none_or(|usage| usage.value.digital_signature()),
            is_authority: is_ca
                || usage.is_some_and(|usage| usage.value.key_cert_sign() || usage.value.crl_sign()),
        })
    }

    /// The SPIFFE ID of an X.509-SVID of this trust domain (X509-SVID §2, §4, §5): exactly one URI, with a path, on a
    /// certificate that signs handshakes and nothing else.
    pub fn spiffe_id(&self, trust_domain: &str) -> Option<&str> {
        let [id] = &*self.uris else { return None };
        let (domain, path) = id.strip_prefix("spiffe://")?.split_once('/')?;
        let fits = domain == trust_domain && is_spiffe_path(path) && self.may_sign && !self.is_authority;
        fits.then_some(id)
    }

    /// Whom the certificate names where nobody said by which of its names: its first URI, else its first DNS name. Never its
    /// common name: anybody's name may stand there.
    pub fn name(&self) -> Option<&str> {
        self.uris.first().or(self.dns.first()).map(|name| &**name)
    }
}

/// Whether a certificate says that it is one of an authority (RFC 5280 §4.2.1.9).
pub fn is_issuer(der: &[u8]) -> bool {
    X509Certificate::from_der(der).is_ok_and(|(_, certificate)| certificate.is_ca())
}

/// Whether `text` is the name of a trust domain (SPIFFE-ID §2.1).
pub fn is_trust_domain(text: &str) -> bool {
    (1..=255).contains(&text.len())
        && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_'))
}

/// SPIFFE-ID §2.2: segments of letters, digits, dots, dashes and underscores, none empty, none that walks.
fn is_spiffe_path(path: &str) -> bool {
    path.split('/').all(|segment| {
        !matches!(segment, "" | "." | "..")
            && segment.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    })
}

/// A certificate, or some of its names, as an operator describes it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Pattern {
    /// `dns:HOST`.
    Dns(Box<str>),
    /// `dns:*.REST`: exactly one label in the place of the asterisk.
    DnsBelow(Box<str>),
    /// `uri:URI`, byte for byte.
    Uri(Box<str>),
    /// `uri:PREFIX/*`: one or more segments in the place of the asterisk; with its last slash.
    UriBelow(Box<str>),
    /// `email:USER@HOST`.
    Email(Box<str>),
    /// `email:*@HOST`; with its `@`.
    EmailAt(Box<str>),
    /// `sha256:…`: this one certificate, in hexadecimal.
    Fingerprint(Box<str>),
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What was expected.
    pub fn parse(text: &str) -> Result<Pattern, &'static str> {
        const KINDS: &str = "`dns:NAME`, `uri:URI`, `email:ADDRESS` or `sha256:FINGERPRINT`";
        let (kind, rest) = text.split_once(':').ok_or(KINDS)?;
        visible(rest).ok_or(KINDS)?;
        match kind {
            "dns" => dns_pattern(&rest.to_ascii_lowercase()),
            "uri" => uri_pattern(rest),
            "email" => email_pattern(rest),
            "sha256" => fingerprint_pattern(rest),
            _ => Err(KINDS),
        }
    }

    /// Whether the certificate fits.
    pub fn fits(&self, facts: &Facts) -> bool {
        match self {
            Pattern::Fingerprint(fingerprint) => facts.fingerprint == *fingerprint,
            _ => self.name_in(facts).is_some(),
        }
    }

    /// The name that fits; none for a fingerprint.
    pub fn name_in<'f>(&self, facts: &'f Facts) -> Option<&'f str> {
        let first = |names: &'f [Box<str>], fits: &dyn Fn(&str) -> bool| {
            names.iter().map(|name| &**name).find(|name| fits(name))
        };
        match self {
            Pattern::Dns(wanted) => first(&facts.dns, &|name| *name == **wanted),
            Pattern::DnsBelow(parent) => first(&facts.dns, &|name| {
                name.split_once('.').is_some_and(|(label, rest)| is_label(label) && *rest == **parent)
            }),
            Pattern::Uri(wanted) => first(&facts.uris, &|uri| *uri == **wanted),
            Pattern::UriBelow(prefix) => {
                first(&facts.uris, &|uri| uri.strip_prefix(&**prefix).is_some_and(is_plain_path))
            }
            Pattern::Email(wanted) => first(&facts.emails, &|address| *address == **wanted),
            Pattern::EmailAt(host) => first(&facts.emails, &|address| {
                address.strip_suffix(&**host).is_some_and(|user| !user.is_empty() && !user.contains('@'))
            }),
            Pattern::Fingerprint(_) => None,
        }
    }
}

impl std::fmt::Display for Pattern {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Pattern::Dns(name) => write!(f, "dns:{name}"),
            Pattern::DnsBelow(parent) => write!(f, "dns:*.{parent}"),
            Pattern::Uri(uri) => write!(f, "uri:{uri}"),
            Pattern::UriBelow(prefix) => write!(f, "uri:{prefix}*"),
            Pattern::Email(address) => write!(f, "email:{address}"),
            Pattern::EmailAt(host) => write!(f, "email:*{host}"),
            Pattern::Fingerprint(fingerprint) => write!(f, "sha256:{fingerprint}"),
        }
    }
}

fn dns_pattern(name: &str) -> Result<Pattern, &'static str> {
    const EXPECTED: &str =
        "a host name such as `dns:shop.partners.example.com`, or `dns:*.partners.example.com` for one label";
    let is_host = |name: &str| name.len() <= 253 && name.split('.').all(is_label);
    match name.strip_prefix("*.") {
        // All hosts of a top-level domain are nobody's.
        Some(parent) if is_host(parent) && parent.contains('.') => Ok(Pattern::DnsBelow(parent.into())),
        None if is_host(name) => Ok(Pattern::Dns(name.into())),
        _ => Err(EXPECTED),
    }
}

fn uri_pattern(uri: &str) -> Result<Pattern, &'static str> {
    const EXPECTED: &str =
        "a URI such as `uri:spiffe://mesh.example.com/ns/orders`, or one that ends in `/*`";
    let (scheme, rest) = uri.split_once(':').ok_or(EXPECTED)?;
    let is_scheme = scheme.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic())
        && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.'));
    if !is_scheme || rest.is_empty() || uri.len() > NAME_BYTES_MAX {
        return Err(EXPECTED);
    }
    match uri.strip_suffix('*') {
        None if !uri.contains('*') => Ok(Pattern::Uri(uri.into())),
        // What stands before the asterisk says whose URIs they are: `scheme://host/` at least.
        Some(prefix) if prefix.ends_with('/') && !prefix.contains('*') => {
            let host = rest.strip_prefix("//").and_then(|rest| rest.split_once('/')).map(|(host, _)| host);
            match host {
                Some(host) if !host.is_empty() => Ok(Pattern::UriBelow(prefix.into())),
                _ => Err(EXPECTED),
            }
        }
        _ => Err(EXPECTED),
    }
}

fn email_pattern(address: &str) -> Result<Pattern, &'static str> {
    const EXPECTED: &str = "an address such as `email:ops@example.com`, or `email:*@example.com`";
    let address = address_of(address).ok_or(EXPECTED)?;
    match address.strip_prefix('*') {
        None if !address.contains('*') => Ok(Pattern::Email(address)),
        Some(host) if host.starts_with('@') && !host.contains('*') => Ok(Pattern::EmailAt(host.into())),
        _ => Err(EXPECTED),
    }
}

fn fingerprint_pattern(text: &str) -> Result<Pattern, &'static str> {
    let digits: String = text.chars().filter(|&c| c != ':').collect::<String>().to_ascii_lowercase();
    match digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(Pattern::Fingerprint(digits.into())),
        false => Err(
            "the SHA-256 of the certificate: 64 hexadecimal digits, as `openssl x509 -fingerprint -sha256` prints it",
        ),
    }
}

/// An address with the host in lower case (RFC 5321 §2.4: the part before is the host's own affair).
fn address_of(text: &str) -> Option<Box<str>> {
    let (user, host) = text.rsplit_once('@')?;
    (!user.is_empty() && !host.is_empty()).then(|| format!("{user}@{}", host.to_ascii_lowercase()).into())
}

/// A label of a host name: letters, digits, hyphens within, underscores. The asterisk of a wildcard certificate is none, so
/// such a certificate fits no pattern.
fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// The rest of a URI below a prefix: segments without escapes, none empty, none that walks out again.
fn is_plain_path(path: &str) -> bool {
    path.split('/').all(|segment| {
        !matches!(segment, "" | "." | "..")
            && segment.bytes().all(|byte| {
                byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b'~' | b':' | b'@')
            })
    })
}

fn visible(text: &str) -> Option<&str> {
    ((1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic()))
        .then_some(text)
}

fn is_printable(text: &str) -> bool {
    !text.is_empty() && text.len() <= NAME_BYTES_MAX && !text.chars().any(char::is_control)
}

/// Bytes as hexadecimal digits, in lower case.
pub fn hexadecimal(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = |byte: &u8| [byte >> 4, byte & 15].map(|half| char::from(DIGITS[usize::from(half)]));
    bytes.iter().flat_map(digits).collect()
}

/// For the fuzzer: a certificate, or a pattern, a line feed, and names one a line. Nothing panics; what a pattern says of
/// itself is read as the same pattern; what fits one below a prefix begins with it.
pub(crate) fn laws(data: &[u8]) {
    let mut facts = Facts::read(data);
    let text = String::from_utf8_lossy(data);
    let (pattern, names) = text.split_once('\n').unwrap_or((&text, ""));
    let Ok(pattern) = Pattern::parse(pattern) else { return };
    assert_eq!(Pattern::parse(&pattern.to_string()).as_ref(), Ok(&pattern));
    let facts = facts.get_or_insert_with(|| {
        let names: Vec<Box<str>> = names.lines().take(NAMES_MAX).map(Box::from).collect();
        Facts {
            uris: names.clone(),
            dns: names.clone(),
            emails: names,
            common_name: None,
            issuer: Box::default(),
            fingerprint: Box::default(),
            not_after_s: 0,
            may_sign: true,
            is_authority: false,
        }
    });
    let Some(name) = pattern.name_in(facts) else { return };
    match &pattern {
        Pattern::Dns(wanted) | Pattern::Uri(wanted) | Pattern::Email(wanted) => assert_eq!(name, &**wanted),
        Pattern::DnsBelow(parent) => {
            assert_eq!(name.split_once('.').map(|(_, rest)| rest), Some(&**parent));
        }
        Pattern::UriBelow(prefix) => {
            assert!(
                name.starts_with(&**prefix) && !name.contains("/../") && !name.contains('%')
                    || prefix.contains('%')
            );
        }
        Pattern::EmailAt(host) => assert!(name.ends_with(&**host)),
        Pattern::Fingerprint(_) => unreachable!("a fingerprint is no name"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(uris: &[&str], dns: &[&str], emails: &[&str]) -> Facts {
        let boxed = |names: &[&str]| names.iter().map(|&name| name.into()).collect();
        Facts {
            uris: boxed(uris),
            dns: boxed(dns),
            emails: boxed(emails),
            common_name: None,
            issuer: "CN=ca".into(),
            fingerprint: "ab".repeat(32).into(),
            not_after_s: 0,
            may_sign: true,
            is_authority: false,
        }
    }

    fn fits(pattern: &str, facts: &Facts) -> bool {
        Pattern::parse(pattern).expect(pattern).fits(facts)
    }

    #[test]
    fn a_wildcard_takes_one_label_and_nothing_else() {
        let pattern = "dns:*.Partners.example.com";
        for (name, expected) in [
            ("shop.partners.example.com", true),
            ("partners.example.com", false),
            ("a.b.partners.example.com", false),
            ("*.partners.example.com", false),
            (".partners.example.com", false),
            ("-a.partners.example.com", false),
            ("shop.partners.example.com.", false),
            ("shop.partners.example.com.evil.example", false),
            ("shop_partners.example.com", false),
        ] {
            assert_eq!(fits(pattern, &facts(&[], &[name], &[])), expected, "{name}");
        }
        assert!(!fits(pattern, &facts(&["shop.partners.example.com"], &[], &["shop.partners.example.com"])));
        assert!(fits("dns:Shop.example", &facts(&[], &["other.example", "shop.example"], &[])));
    }

    #[test]
    fn a_uri_below_a_prefix_cannot_leave_it() {
        let pattern = "uri:spiffe://mesh.example/ns/orders/*";
        for (rest, expected) in [
            ("sa/one", true),
            ("x", true),
            ("", false),
            ("..", false),
            ("../admin", false),
            ("sa/../../admin", false),
            ("sa//one", false),
            ("sa/", false),
            ("./x", false),
            ("%2e%2e/admin", false),
            ("sa?x", false),
            ("sa#x", false),
        ] {
            let uri = format!("spiffe://mesh.example/ns/orders/{rest}");
            assert_eq!(fits(pattern, &facts(&[&uri], &[], &[])), expected, "{uri}");
        }
        assert!(!fits(pattern, &facts(&["spiffe://mesh.example.evil/ns/orders/x"], &[], &[])));
        assert!(!fits(pattern, &facts(&["SPIFFE://mesh.example/ns/orders/x"], &[], &[])));
    }

    #[test]
    fn an_address_fits_by_its_host() {
        assert!(fits("email:*@Example.com", &facts(&[], &[], &["ops@example.com"])));
        for other in ["@example.com", "a@b@example.com", "ops@sub.example.com", "ops@example.com.evil"] {
            assert!(!fits("email:*@example.com", &facts(&[], &[], &[other])), "{other}");
        }
        assert!(fits("email:Ops@EXAMPLE.com", &facts(&[], &[], &["Ops@example.com"])));
        assert!(!fits("email:ops@example.com", &facts(&[], &[], &["Ops@example.com"])));
    }

    #[test]
    fn a_fingerprint_is_read_as_openssl_prints_it() {
        let printed = format!("sha256:{}", ["AB"; 32].join(":"));
        assert!(fits(&printed, &facts(&[], &[], &[])));
        assert!(!fits(&format!("sha256:{}", "ac".repeat(32)), &facts(&[], &[], &[])));
    }

    #[test]
    fn a_pattern_that_would_fit_too_much_is_none() {
        for pattern in [
            "",
            "shop.example",
            "dns:",
            "dns:*",
            "dns:*.",
            "dns:*.com",
            "dns:a.*.com",
            "dns:**.a.com",
            "dns:a b",
            "dns:sh*p.example.com",
            "uri:",
            "uri:*",
            "uri:spiffe:*",
            "uri:spiffe://*",
            "uri:spiffe:///*",
            "uri:spiffe://mesh.example*",
            "uri:spiffe://mesh.example/*/x",
            "uri:spiffe://*/x",
            "uri:/x",
            "email:*",
            "email:@example.com",
            "email:*@*",
            "email:*@*.example.com",
            "email:a*@example.com",
            "sha256:ab",
            "ip:10.0.0.1",
            "cn:shop",
            "dns:shöp.example",
            "dns:.example",
        ] {
            assert!(Pattern::parse(pattern).is_err(), "{pattern}");
        }
    }

    #[test]
    fn an_svid_has_exactly_one_uri_with_a_path_of_its_trust_domain() {
        let id = "spiffe://mesh.example/ns/a/sa/b";
        assert_eq!(facts(&[id], &["a.example"], &[]).spiffe_id("mesh.example"), Some(id));
        for uris in [
            &[][..],
            &[id, id],
            &[id, "https://a.example/"],
            &["spiffe://mesh.example"],
            &["spiffe://mesh.example/"],
            &["spiffe://mesh.example/a/"],
            &["spiffe://mesh.example//a"],
            &["spiffe://mesh.example/a/../b"],
            &["spiffe://mesh.example/a%2fb"],
            &["spiffe://mesh.example/a?b"],
            &["spiffe://mesh.example:80/a"],
            &["spiffe://u@mesh.example/a"],
            &["spiffe://Mesh.example/a"],
            &["SPIFFE://mesh.example/a"],
            &["spiffe://other.example/a"],
            &["spiffe://mesh.example.evil/a"],
            &["https://mesh.example/a"],
        ] {
            assert_eq!(facts(uris, &[], &[]).spiffe_id("mesh.example"), None, "{uris:?}");
        }
        assert_eq!(Facts { may_sign: false, ..facts(&[id], &[], &[]) }.spiffe_id("mesh.example"), None);
        assert_eq!(Facts { is_authority: true, ..facts(&[id], &[], &[]) }.spiffe_id("mesh.example"), None);
        assert!(is_trust_domain("mesh-1.example_x") && !is_trust_domain("") && !is_trust_domain("Mesh"));
        assert!(
            !is_trust_domain("a/b")
                && !is_trust_domain(&"a".repeat(256))
                && is_trust_domain(&"a".repeat(255))
        );
    }

    #[test]
    fn the_common_name_is_nobodys_unless_it_is_asked_for() {
        let mut named = facts(&[], &[], &["a@b.example"]);
        named.common_name = Some("admin".into());
        assert_eq!(named.name(), None);
        assert_eq!(facts(&["urn:x"], &["a.example"], &[]).name(), Some("urn:x"));
        assert_eq!(facts(&[], &["a.example", "b.example"], &[]).name(), Some("a.example"));
    }

    #[test]
    fn a_certificate_is_read_or_refused_whole() {
        let read = |names: Vec<rcgen::SanType>| {
            let key = rcgen::KeyPair::generate().expect("a key");
            let mut params = rcgen::CertificateParams::default();
            params.subject_alt_names = names;
            Facts::read(params.self_signed(&key).expect("made").der())
        };
        let text = |text: &str| rcgen::string::Ia5String::try_from(text).expect("ASCII");
        let facts = read(vec![
            rcgen::SanType::DnsName(text("Shop.Example")),
            rcgen::SanType::URI(text("urn:x:y")),
            rcgen::SanType::Rfc822Name(text("A@B.Example")),
        ])
        .expect("read");
        assert_eq!(
            (&*facts.dns[0], &*facts.uris[0], &*facts.emails[0]),
            ("shop.example", "urn:x:y", "A@b.example")
        );
        assert!(facts.may_sign && !facts.is_authority && facts.fingerprint.len() == 64);
        for bad in ["a b", "a\0b", "a\nb", ""] {
            assert_eq!(read(vec![rcgen::SanType::URI(text(bad))]), None, "{bad:?}");
        }
        let many = |count: usize| {
            read((0..count).map(|at| rcgen::SanType::DnsName(text(&format!("h{at}.example")))).collect())
        };
        assert!(many(NAMES_MAX).is_some() && many(NAMES_MAX + 1).is_none());
        assert_eq!(Facts::read(b"nothing"), None);
    }

    /// A small fuzzer: pieces in any order, and a certificate with a byte changed.
    #[test]
    fn what_is_thrown_at_random_obeys_the_laws() {
        const PIECES: [&str; 24] = [
            "dns:",
            "uri:",
            "email:",
            "sha256:",
            "*",
            ".",
            "/",
            "//",
            "..",
            "@",
            ":",
            "-",
            "a",
            "example",
            ".com",
            "%2e",
            "\n",
            "spiffe",
            "spiffe://",
            "x.example",
            "é",
            "\0",
            " ",
            "ab",
        ];
        let mut state: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut next = |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        for _ in 0..20_000 {
            let text: String = (0..next(14)).map(|_| PIECES[next(PIECES.len())]).collect();
            laws(text.as_bytes());
        }
        let key = rcgen::KeyPair::generate().expect("a key");
        let params = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
        let good = params.self_signed(&key).expect("made").der().to_vec();
        assert!(Facts::read(&good).is_some());
        for at in 0..good.len() {
            for change in [1, 0x80, 0xff] {
                let mut bad = good.clone();
                bad[at] ^= change;
                laws(&bad);
            }
            assert_eq!(Facts::read(&good[..at]), None);
        }
    }
}
