//! Certificates of clients: who is let in by the handshake, what the others are told (the same) and what the log says of them
//! (why); revocation lists that change and end while connections are open; logins by certificates.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::node::{Answer, Node, Origin, PATIENCE, Place, Reply, fetch};

/// RFC 8446 §6.2.
const CERTIFICATE_UNKNOWN: &str = "46";
const CERTIFICATE_REQUIRED: &str = "116";

const ONE: &str = "apis:\n  a:\n    operations: { one: { match: GET /one, respond: { status: 200, body: one } } }\n    \
                   allow: [{ who: anyone }]\naudit: { file: audit.jsonl }";

/// A moment by its Unix seconds; the type of it has no name here.
macro_rules! moment {
    ($seconds:expr) => {
        rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs($seconds)
    };
}

/// An authority, with what it says of itself.
pub struct Authority {
    params: CertificateParams,
    key: KeyPair,
    pub pem: String,
    /// The certificates between it and a root, its own first.
    above: String,
}

impl Authority {
    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params
    }

    pub fn root(name: &str) -> Authority {
        let (params, key) = (Authority::params(name), KeyPair::generate().expect("a key"));
        let pem = params.self_signed(&key).expect("made").pem();
        Authority { params, key, pem, above: String::new() }
    }

    fn below(&self, params: CertificateParams) -> Authority {
        let key = KeyPair::generate().expect("a key");
        let pem = params.signed_by(&key, &self.issuer()).expect("made").pem();
        let above = format!("{pem}{}", self.above);
        Authority { params, key, pem, above }
    }

    fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    /// A list that revokes these serial numbers and is good until `next_update_s`.
    pub fn list(&self, serials: &[u64], next_update_s: u64) -> String {
        let params = CertificateRevocationListParams {
            this_update: moment!(1),
            next_update: moment!(next_update_s),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: serials
                .iter()
                .map(|serial| RevokedCertParams {
                    serial_number: SerialNumber::from(*serial),
                    revocation_time: moment!(1),
                    reason_code: None,
                    invalidity_date: None,
                })
                .collect(),
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer()).expect("made").pem().expect("PEM")
    }

    /// A certificate in NAME.pem, NAME.key and, where others lead to it, NAME.chain.pem.
    fn issue(&self, place: &Place, name: &str, params: &CertificateParams) {
        let key = KeyPair::generate().expect("a key");
        let made = params.signed_by(&key, &self.issuer()).expect("made");
        write(place, name, &made.pem(), &key, &self.above);
    }
}

fn write(place: &Place, name: &str, pem: &str, key: &KeyPair, above: &str) {
    place.write(&format!("{name}.pem"), pem);
    place.write(&format!("{name}.key"), &key.serialize_pem());
    if !above.is_empty() {
        place.write(&format!("{name}.chain.pem"), above);
    }
}

pub fn now_s() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs()
}

const DAY_S: u64 = 24 * 3600;

/// What a client's certificate usually says.
fn leaf(dns: &str) -> CertificateParams {
    let mut params = CertificateParams::new(vec![dns.to_owned()]).expect("a name");
    // What must never count.
    params.distinguished_name.push(DnType::CommonName, "admin");
    params.not_before = moment!(now_s() - DAY_S);
    params.not_after = moment!(now_s() + DAY_S);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ASCII"))
}

/// The certificate of the node, in server.pem and server.key.
fn serve(place: &Place) {
    let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("made");
    place.write("server.pem", &made.cert.pem());
    place.write("server.key", &made.signing_key.serialize_pem());
}

fn listen(address: &str, client_ca: &str) -> String {
    format!(
        "{{ address: \"{address}:0\", domains: [a.test], tls: {{ cert: server.pem, key: server.key, client_ca: {client_ca} }} }}"
    )
}

/// The first line of the access log that is so, as soon as there is one.
fn logged(node: &Node, is_so: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    let mut count = 1;
    loop {
        let lines = node.log(count);
        if let Some(line) = lines.iter().find(|line| is_so(line)) {
            return line.clone();
        }
        count = lines.len() + 1;
    }
}

/// What openssl got, and the alert that it was sent.
struct Seen {
    text: String,
    said: String,
}

impl Seen {
    fn alert(&self) -> Option<&str> {
        let (_, rest) = self.said.split_once("SSL alert number ")?;
        rest.split_whitespace().next()
    }

    fn is_served(&self) -> bool {
        self.text.contains("HTTP/1.1 200 ")
    }
}

/// `openssl s_client` with a certificate, if one is named, and one request.
fn s_client(place: &Path, address: SocketAddr, version: &str, name: Option<&str>, more: &[&str]) -> Seen {
    let mut command = Command::new("openssl");
    command.args([
        "s_client",
        "-connect",
        &address.to_string(),
        "-servername",
        "a.test",
        version,
        "-ign_eof",
    ]);
    command.args(more).current_dir(place);
    if let Some(name) = name {
        command.args(["-cert", &format!("{name}.pem"), "-key", &format!("{name}.key")]);
        let chain = format!("{name}.chain.pem");
        if place.join(&chain).exists() {
            command.args(["-cert_chain", &chain]);
        }
    }
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl s_client");
    let mut input = child.stdin.take().expect("piped");
    let _ = input.write_all(b"GET /one HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    let output = child.wait_with_output().expect("ended");
    drop(input);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Seen { text: text(&output.stdout), said: text(&output.stderr) }
}

/// The last `count` lines of the audit log, once there are `all`.
fn audit(node: &Node, all: usize) -> Vec<serde_json::Value> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let text = std::fs::read_to_string(node.place.path().join("audit.jsonl")).unwrap_or_default();
        let lines: Vec<serde_json::Value> =
            text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
        let refusals: Vec<_> = lines.into_iter().filter(|line| line["reason"].is_string()).collect();
        if refusals.len() >= all {
            return refusals;
        }
        assert!(Instant::now() < deadline, "{} of {all}: {text}", refusals.len());
        std::thread::yield_now();
    }
}

/// A listener that asks for certificates, with all that it names in `place`; and when its revocation list ends.
pub fn asking(place: &Place, address: &str) -> (String, u64) {
    serve(place);
    let (root, ends_s) = (Authority::root("root.test"), now_s() + 30 * DAY_S);
    place.write("ca.pem", &root.pem);
    place.write("list.pem", &root.list(&[], ends_s));
    (listen(address, "{ file: ca.pem, crl: list.pem }"), ends_s)
}

#[test]
fn only_the_good_one_passes_and_the_others_learn_the_same() {
    let place = Place::new();
    serve(&place);
    let root = Authority::root("root.test");
    let other = Authority::root("other.test");
    // Of the same name, but another key.
    let double = Authority::root("root.test");
    let inner = [1, 2, 3].map(|number| Authority::params(&format!("inner{number}.test")));
    let [first, second, third] = inner;
    let first = root.below(first);
    let second = first.below(second);
    let third = second.below(third);
    let mut bounded = Authority::params("bounded.test");
    bounded.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let bounded = root.below(bounded);
    let unbounded = bounded.below(Authority::params("unbounded.test"));
    let mut constrained = Authority::params("constrained.test");
    constrained.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("elsewhere.test".to_owned())],
        excluded_subtrees: vec![],
    });
    let constrained = root.below(constrained);
    let unlisted = root.below(Authority::params("unlisted.test"));
    // What is no authority, and issues all the same.
    let mut impostor = leaf("impostor.partners.test");
    impostor.distinguished_name.push(DnType::CommonName, "impostor.test");
    impostor.key_usages = vec![];
    let impostor = root.below(impostor);

    let name = "shop.partners.test";
    let changed = |change: &dyn Fn(&mut CertificateParams)| {
        let mut params = leaf(name);
        change(&mut params);
        params
    };
    root.issue(&place, "good", &leaf(name));
    first.issue(&place, "good_below", &leaf(name));
    // A root that is sent along counts for nothing, and against nothing.
    second.issue(&place, "good_with_root", &leaf(name));
    let above = format!("{}{}", second.above, root.pem);
    place.write("good_with_root.chain.pem", &above);
    root.issue(&place, "expired", &changed(&|params| params.not_after = moment!(now_s() - 60)));
    root.issue(&place, "not_yet", &changed(&|params| params.not_before = moment!(now_s() + 600)));
    root.issue(
        &place,
        "purpose",
        &changed(&|params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
    );
    root.issue(
        &place,
        "usage",
        &changed(&|params| params.key_usages = vec![KeyUsagePurpose::KeyEncipherment]),
    );
    root.issue(&place, "name", &leaf("shop.other.test"));
    root.issue(&place, "name_deep", &leaf("a.shop.partners.test"));
    root.issue(&place, "name_wild", &leaf("*.partners.test"));
    root.issue(
        &place,
        "name_common",
        &changed(&|params| {
            params.subject_alt_names.clear();
            params.distinguished_name.push(DnType::CommonName, "shop.partners.test");
        }),
    );
    root.issue(&place, "revoked", &changed(&|params| params.serial_number = Some(SerialNumber::from(7))));
    root.issue(
        &place,
        "critical",
        &changed(&|params| {
            let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 9, 9], vec![5, 0]);
            unknown.set_criticality(true);
            params.custom_extensions.push(unknown);
        }),
    );
    other.issue(&place, "unknown", &leaf(name));
    double.issue(&place, "double", &leaf(name));
    third.issue(&place, "long", &leaf(name));
    impostor.issue(&place, "impostor", &leaf(name));
    unbounded.issue(&place, "path", &leaf(name));
    constrained.issue(&place, "constraint", &leaf(name));
    unlisted.issue(&place, "unlisted", &leaf(name));
    let key = KeyPair::generate().expect("a key");
    write(&place, "self", &leaf(name).self_signed(&key).expect("made").pem(), &key, "");
    let mut selfish = Authority::params("selfish.test");
    selfish.subject_alt_names = leaf(name).subject_alt_names;
    let key = KeyPair::generate().expect("a key");
    write(&place, "self_ca", &selfish.self_signed(&key).expect("made").pem(), &key, "");
    write(&place, "authority", &first.pem, &first.key, &root.above);

    place.write("ca.pem", &root.pem);
    let until = now_s() + 30 * DAY_S;
    let lists = [&root, &first, &second, &third, &bounded, &unbounded, &constrained, &impostor];
    // The last one cannot sign lists; nor can it sign what it does.
    let lists: Vec<String> = lists[..7].iter().map(|authority| authority.list(&[7], until)).collect();
    place.write("lists.pem", &lists.concat());

    let client_ca = "{ file: ca.pem, crl: lists.pem, depth: 2, names: \"dns:*.partners.test\" }";
    let node = Node::start_in(place, &listen("127.0.0.1", client_ca), ONE);
    let place = node.place.path();
    let mut lines = 0;
    for version in ["-tls1_2", "-tls1_3"] {
        for name in ["good", "good_below", "good_with_root"] {
            let seen = s_client(place, node.address, version, Some(name), &[]);
            assert!(seen.is_served(), "{name} {version}: {}\n{}", seen.text, seen.said);
            lines += 1;
        }
    }
    assert!(node.log(lines).iter().all(|line| line["status"] == 200));

    let mut reasons = std::collections::BTreeSet::new();
    for (name, reason) in [
        (None, "client_certificate_missing"),
        (Some("expired"), "client_certificate_expired"),
        (Some("not_yet"), "client_certificate_not_yet"),
        (Some("purpose"), "client_certificate_purpose"),
        (Some("usage"), "client_certificate_purpose"),
        (Some("name"), "client_certificate_name"),
        (Some("name_deep"), "client_certificate_name"),
        (Some("name_wild"), "client_certificate_name"),
        (Some("name_common"), "client_certificate_name"),
        (Some("unknown"), "client_certificate_unknown_ca"),
        (Some("double"), "client_certificate_signature"),
        (Some("self"), "client_certificate_self_signed"),
        (Some("self_ca"), "client_certificate_self_signed"),
        (Some("revoked"), "client_certificate_revoked"),
        (Some("long"), "client_certificate_chain_long"),
        (Some("impostor"), "client_certificate_leaf_as_ca"),
        (Some("authority"), "client_certificate_ca_as_leaf"),
        (Some("path"), "client_certificate_path_length"),
        (Some("constraint"), "client_certificate_constraint"),
        (Some("unlisted"), "client_crl_missing"),
        (Some("critical"), "client_certificate_malformed"),
    ] {
        for version in ["-tls1_2", "-tls1_3"] {
            let seen = s_client(place, node.address, version, name, &[]);
            let told = if name.is_some() { CERTIFICATE_UNKNOWN } else { CERTIFICATE_REQUIRED };
            assert!(!seen.is_served(), "{name:?} {version}");
            assert_eq!(seen.alert(), Some(told), "{name:?} {version}: {}", seen.said);
            lines += 1;
            let log = node.log(lines);
            let line = &log[lines - 1];
            assert_eq!(line["reason"], reason, "{name:?} {version}: {line}");
            assert!(line["status"].is_null() || line["status"] == 0, "{line}");
            assert!(line["peer"].as_str().expect("a peer").starts_with("127.0.0.1:"), "{line}");
            reasons.insert(reason);
        }
    }
    assert_eq!(node.log(lines).len(), lines, "one line each");
    let audited: std::collections::BTreeSet<String> =
        audit(&node, 42).iter().filter_map(|line| line["reason"].as_str().map(str::to_owned)).collect();
    let metrics = fetch(&node, "/metrics");
    for reason in reasons {
        assert!(audited.contains(reason), "{reason} is not in the audit log");
        let counted = metrics.lines().any(|line| {
            line.starts_with("ringwall_refusals_total{") && line.contains(&format!("\"{reason}\""))
        });
        assert!(counted, "{reason} in\n{metrics}");
    }
}

/// Whoever has a certificate has not its key.
#[test]
fn a_certificate_without_its_key_is_refused_like_any_other() {
    #[derive(Debug)]
    struct Thief(Arc<rustls::sign::CertifiedKey>);
    impl rustls::client::ResolvesClientCert for Thief {
        fn resolve(
            &self,
            _: &[&[u8]],
            _: &[rustls::SignatureScheme],
        ) -> Option<Arc<rustls::sign::CertifiedKey>> {
            Some(Arc::clone(&self.0))
        }

        fn has_certs(&self) -> bool {
            true
        }
    }
    let place = Place::new();
    serve(&place);
    let root = Authority::root("root.test");
    root.issue(&place, "good", &leaf("good.test"));
    place.write("ca.pem", &root.pem);
    let node = Node::start_in(place, &listen("127.0.0.1", "ca.pem"), ONE);
    let read = |name: &str| std::fs::read(node.place.path().join(name)).expect("there");
    let chain = vec![CertificateDer::from_pem_slice(&read("good.pem")).expect("PEM")];
    let other = KeyPair::generate().expect("a key").serialize_der();
    let provider = ringwall::tls::provider();
    let key = provider.key_provider.load_private_key(other.try_into().expect("PKCS#8")).expect("a key");
    let stolen = Arc::new(rustls::sign::CertifiedKey::new(chain, key));
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&read("server.pem")).expect("PEM")).expect("a root");
    for (at, version) in [&rustls::version::TLS12, &rustls::version::TLS13].into_iter().enumerate() {
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[version])
            .expect("a version")
            .with_root_certificates(roots.clone())
            .with_client_cert_resolver(Arc::new(Thief(Arc::clone(&stolen))));
        let session = ClientConnection::new(Arc::new(config), "a.test".try_into().expect("a name"));
        let socket = TcpStream::connect(node.address).expect("connected");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let mut stream = StreamOwned::new(session.expect("a session"), socket);
        let sent = stream.write_all(b"GET /one HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let told = sent.and_then(|()| stream.read(&mut [0; 100])).expect_err("refused");
        let told = told.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()).cloned();
        let unknown = rustls::AlertDescription::CertificateUnknown;
        assert_eq!(told, Some(rustls::Error::AlertReceived(unknown)), "{version:?}");
        assert_eq!(node.log(at + 1)[at]["reason"], "client_certificate_signature", "{version:?}");
    }
}

/// Whoever sends many authorities of one name has one of them looked at.
#[test]
fn authorities_of_one_name_make_no_work() {
    let place = Place::new();
    serve(&place);
    let root = Authority::root("root.test");
    root.issue(&place, "good", &leaf("good.test"));
    let inner = root.below(Authority::params("inner.test"));
    let forged = Authority::root("root.test");
    let doubles: Vec<String> = (0..100).map(|_| forged.below(Authority::params("inner.test")).pem).collect();
    inner.issue(&place, "first", &leaf("good.test"));
    place.write("first.chain.pem", &format!("{}{}", inner.pem, doubles.concat()));
    inner.issue(&place, "last", &leaf("good.test"));
    place.write("last.chain.pem", &format!("{}{}", doubles[0], inner.pem));
    place.write("ca.pem", &root.pem);
    let node = Node::start_in(place, &listen("127.0.0.1", "{ file: ca.pem, depth: 1 }"), ONE);
    let mut answers =
        ["first", "last", "good"].map(|name| ask(&mut connect(&node, node.address, Some(name)), "/one"));
    assert_eq!(
        answers.each_mut().map(|answer| answer.take().map(|(status, _)| status)),
        [Some(200), None, Some(200)]
    );
    logged(&node, |line| line["reason"] == "client_certificate_signature");
}

/// An authority that signs with what is not accepted.
#[test]
fn signatures_of_other_kinds_are_refused() {
    let place = Place::new();
    serve(&place);
    let openssl = |arguments: &str| {
        let output = Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(place.path())
            .output()
            .expect("openssl");
        assert!(output.status.success(), "{arguments}: {output:?}");
    };
    for (name, key) in
        [("p521", "-newkey ec -pkeyopt ec_paramgen_curve:P-521"), ("rsa", "-newkey rsa:2048 -sha1")]
    {
        openssl(&format!(
            "req -x509 {key} -nodes -days 2 -subj /CN={name}.test -keyout {name}.ca.key -out {name}.ca.pem"
        ));
        let digest = if name == "rsa" { "-sha1" } else { "-sha256" };
        openssl(&format!(
            "req -x509 {digest} -CA {name}.ca.pem -CAkey {name}.ca.key -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes \
             -days 2 -subj /CN=x -addext subjectAltName=DNS:x.test -addext basicConstraints=critical,CA:FALSE \
             -keyout {name}.key -out {name}.pem"
        ));
    }
    let read = |name: &str| std::fs::read_to_string(place.path().join(name)).expect("there");
    place.write("ca.pem", &format!("{}{}", read("p521.ca.pem"), read("rsa.ca.pem")));
    let node = Node::start_in(place, &listen("127.0.0.1", "ca.pem"), ONE);
    for (line, name) in ["p521", "rsa"].into_iter().enumerate() {
        // OpenSSL itself would not send what is signed with SHA-1.
        let weak = ["-cipher", "DEFAULT:@SECLEVEL=0"];
        let seen = s_client(node.place.path(), node.address, "-tls1_2", Some(name), &weak);
        assert_eq!(seen.alert(), Some(CERTIFICATE_UNKNOWN), "{name}: {}", seen.said);
        assert_eq!(node.log(line + 1)[line]["reason"], "client_certificate_algorithm", "{name}");
    }
}

/// A client of rustls, whose connection stays open between requests.
type Stream = StreamOwned<ClientConnection, TcpStream>;

fn connect(node: &Node, address: SocketAddr, name: Option<&str>) -> Stream {
    let read = |name: &str| std::fs::read(node.place.path().join(name)).expect("there");
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&read("server.pem")).expect("PEM")).expect("a root");
    let builder = ClientConfig::builder_with_provider(ringwall::tls::provider())
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots);
    let config = match name {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let mut chain = read(&format!("{name}.pem"));
            chain.extend(
                std::fs::read(node.place.path().join(format!("{name}.chain.pem"))).unwrap_or_default(),
            );
            let chain = CertificateDer::pem_slice_iter(&chain).collect::<Result<_, _>>().expect("PEM");
            let key = PrivateKeyDer::from_pem_slice(&read(&format!("{name}.key"))).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("a certificate and its key")
        }
    };
    let session =
        ClientConnection::new(Arc::new(config), "a.test".try_into().expect("a name")).expect("a session");
    let socket = TcpStream::connect(address).expect("connected");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket.set_nodelay(true).expect("no delay");
    StreamOwned::new(session, socket)
}

/// One request; `None` where the connection gave nothing back.
fn ask(stream: &mut Stream, path: &str) -> Option<(u16, String)> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: a.test\r\n\r\n").as_bytes()).ok()?;
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let head = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = head {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.map_or(0, |length| length.parse().expect("a length"));
            if bytes.len() >= end + 4 + length {
                let status = head[9..12].parse().expect("a status");
                return Some((status, String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return None,
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

fn reason_of(answer: &str) -> String {
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    let body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
    body["reason"].as_str().expect("a reason").to_owned()
}

/// Puts a file in the place of another at once, as tools that fetch lists do.
fn replace(node: &Node, name: &str, text: &str) {
    let next = node.place.write("next", text);
    std::fs::rename(next, node.place.path().join(name)).expect("renamed");
}

#[test]
fn a_list_that_changes_counts_at_once_for_new_connections_and_open_ones() {
    let place = Place::new();
    serve(&place);
    let root = Authority::root("root.test");
    let until = now_s() + 30 * DAY_S;
    for (name, serial) in [("first", 1), ("second", 2)] {
        let mut params = leaf(&format!("{name}.test"));
        params.serial_number = Some(SerialNumber::from(serial));
        root.issue(&place, name, &params);
    }
    place.write("ca.pem", &root.pem);
    place.write("list.pem", &root.list(&[], until));
    let mut node = Node::start_in(place, &listen("127.0.0.1", "{ file: ca.pem, crl: list.pem }"), ONE);
    let address = node.address;
    let mut open = ["first", "second"].map(|name| connect(&node, address, Some(name)));
    for stream in &mut open {
        assert_eq!(ask(stream, "/one").expect("answered").0, 200);
    }

    let [first, second] = &mut open;
    let begun = Instant::now();
    replace(&node, "list.pem", &root.list(&[1], until));
    node.wait_for("RW-6100");
    println!("a changed list was in force after {:?}", begun.elapsed());
    // The open connection ends at its next request, with an answer that says why; the other one goes on.
    let (status, answer) = ask(first, "/one").expect("answered");
    assert_eq!((status, reason_of(&answer).as_str()), (403, "client_certificate_revoked"));
    assert!(answer.to_ascii_lowercase().contains("connection: close"), "{answer}");
    assert_eq!(ask(first, "/one"), None);
    assert_eq!(ask(second, "/one").expect("answered").0, 200);
    assert_eq!(ask(&mut connect(&node, address, Some("first")), "/one"), None);
    // Whichever core wrote first: the request that was answered, and the handshake that was not.
    let log = node.log(5);
    let mut statuses: Vec<u64> = log
        .iter()
        .filter(|line| line["reason"] == "client_certificate_revoked")
        .map(|line| line["status"].as_u64().unwrap_or(0))
        .collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [0, 403], "{log:?}");

    // One that is damaged changes nothing.
    replace(&node, "list.pem", "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n");
    node.wait_for("RW-6101");
    assert_eq!(ask(&mut connect(&node, address, Some("first")), "/one"), None);
    assert_eq!(ask(second, "/one").expect("answered").0, 200);

    // Nor does that of another authority: nobody would come in any more.
    replace(&node, "list.pem", &Authority::root("other.test").list(&[], until));
    let told = node.wait_for("RW-6101");
    assert!(told.contains("authority=CN=root.test") || told.contains("authority=\"CN=root.test\""), "{told}");
    assert_eq!(ask(second, "/one").expect("answered").0, 200);

    // What is good again is good; DER is read as well as PEM.
    let pem = root.list(&[2], until);
    let der = rustls::pki_types::CertificateRevocationListDer::from_pem_slice(pem.as_bytes()).expect("PEM");
    let next = node.place.path().join("next");
    std::fs::write(&next, &*der).expect("written");
    std::fs::rename(next, node.place.path().join("list.pem")).expect("renamed");
    node.wait_for("RW-6100");
    assert_eq!(ask(&mut connect(&node, address, Some("first")), "/one").expect("answered").0, 200);
    assert_eq!(ask(second, "/one").expect("answered").0, 403);

    // The same list once more is no news.
    let generation = fetch(&node, "/metrics");
    assert!(generation.contains("ringwall_config_generation 1"), "no reload was needed");
}

#[test]
fn what_ends_while_a_connection_is_open_ends_the_connection() {
    let place = Place::new();
    serve(&place);
    let root = Authority::root("root.test");
    let soon = now_s() + 4;
    let mut short = leaf("short.test");
    short.not_after = moment!(soon);
    root.issue(&place, "short", &short);
    root.issue(&place, "long", &leaf("long.test"));
    place.write("ca.pem", &root.pem);
    place.write("list.pem", &root.list(&[], soon));
    let listeners = format!(
        "[{}, {}]",
        listen("127.0.0.1", "{ file: ca.pem, crl: list.pem }"),
        listen("127.0.0.3", "ca.pem")
    );
    let mut node = Node::start_in(place, &listeners, ONE);
    node.wait_for("RW-6102");
    let mut cases = [
        (connect(&node, node.addresses[0], Some("long")), "client_crl_expired"),
        (connect(&node, node.addresses[1], Some("short")), "client_certificate_expired"),
    ];
    for (stream, reason) in &mut cases {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, answer) = ask(stream, "/one").expect("answered");
            if status == 403 {
                assert_eq!(reason_of(&answer), *reason);
                assert!(now_s() >= soon, "before its time");
                break;
            }
            assert!(Instant::now() < deadline, "{reason}: still served");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    node.wait_for("RW-6103");
    let seen = s_client(node.place.path(), node.addresses[0], "-tls1_3", Some("long"), &[]);
    assert_eq!(seen.alert(), Some(CERTIFICATE_UNKNOWN));

    // A list that is fetched anew opens the door again.
    replace(&node, "list.pem", &root.list(&[], now_s() + 30 * DAY_S));
    node.wait_for("RW-6100");
    assert!(s_client(node.place.path(), node.addresses[0], "-tls1_3", Some("long"), &[]).is_served());
}

#[test]
fn a_list_that_has_ended_is_remarked_and_lets_nobody_in() {
    let place = Place::new();
    serve(&place);
    let root = Authority::root("root.test");
    root.issue(&place, "good", &leaf("good.test"));
    place.write("ca.pem", &root.pem);
    place.write("list.pem", &root.list(&[], now_s() - 60));
    let node = Node::start_in(place, &listen("127.0.0.1", "{ file: ca.pem, crl: list.pem }"), ONE);
    assert!(node.lines_so_far().any(|line| line.contains("RW-1154")));
    for version in ["-tls1_2", "-tls1_3"] {
        let seen = s_client(node.place.path(), node.address, version, Some("good"), &[]);
        assert_eq!(seen.alert(), Some(CERTIFICATE_UNKNOWN), "{}", seen.said);
    }
    assert!(node.log(2).iter().all(|line| line["reason"] == "client_crl_expired"));
}

#[test]
fn a_session_of_an_open_port_is_worth_nothing_where_certificates_are_asked_for() {
    let place = Place::new();
    serve(&place);
    let root = Authority::root("root.test");
    root.issue(&place, "good", &leaf("good.test"));
    place.write("ca.pem", &root.pem);
    let open = "{ address: \"127.0.0.1:0\", domains: [a.test], tls: { cert: server.pem, key: server.key } }";
    let listeners = format!(
        "[{open}, {}, {}]",
        listen("127.0.0.3", "ca.pem"),
        listen("127.0.0.4", "{ file: ca.pem, required: false }")
    );
    let node = Node::start_in(place, &listeners, ONE);
    let place = node.place.path();
    let [open, required, optional] = node.addresses[..] else { panic!("three listeners") };
    for version in ["-tls1_2", "-tls1_3"] {
        // The session is one that would be resumed: the open port does.
        let seen = s_client(place, open, version, None, &["-sess_out", "session"]);
        assert!(seen.is_served() && seen.text.contains("TLS session ticket"), "{}", seen.text);
        let seen = s_client(place, open, version, None, &["-sess_in", "session"]);
        assert!(seen.is_served() && seen.text.contains("Reused, "), "{version}: {}", seen.text);
        // Elsewhere it is as if it had not been shown.
        let seen = s_client(place, required, version, None, &["-sess_in", "session"]);
        assert!(!seen.is_served() && !seen.text.contains("Reused, "), "{version}: {}", seen.text);
        assert_eq!(seen.alert(), Some(CERTIFICATE_REQUIRED), "{version}: {}", seen.said);
        for (address, name) in [(required, Some("good")), (optional, Some("good")), (optional, None)] {
            let seen = s_client(place, address, version, name, &["-sess_in", "session"]);
            assert!(seen.is_served() && seen.text.contains("New, "), "{version} {name:?}: {}", seen.text);
            assert!(!seen.text.contains("Reused, "), "{version} {name:?}: {}", seen.text);
            // Nothing is handed out that could be resumed, neither a ticket nor an id.
            let _ = std::fs::remove_file(place.join("own"));
            let seen = s_client(place, address, version, name, &["-sess_out", "own"]);
            assert!(seen.is_served() && !seen.text.contains("session ticket:"), "{version}: {}", seen.text);
            if version == "-tls1_2" {
                let id = seen.text.lines().find_map(|line| line.trim().strip_prefix("Session-ID:"));
                assert_eq!(id.map(str::trim), Some(""), "{}", seen.text);
            }
        }
    }
}

#[test]
fn a_reload_that_asks_for_more_holds_for_connections_that_are_open() {
    let place = Place::new();
    serve(&place);
    let (root, other) = (Authority::root("root.test"), Authority::root("other.test"));
    root.issue(&place, "good", &leaf("good.test"));
    other.issue(&place, "other", &leaf("other.test"));
    place.write("ca.pem", &format!("{}{}", root.pem, other.pem));
    let mut node = Node::start_in(place, &listen("127.0.0.1", "{ file: ca.pem, required: false }"), ONE);
    let address = node.address;
    let mut open = [None, Some("good"), Some("other")].map(|name| connect(&node, address, name));
    for stream in &mut open {
        assert_eq!(ask(stream, "/one").expect("answered").0, 200);
    }
    // One of the authorities is no longer believed, and nobody comes without a certificate any more.
    replace(&node, "ca.pem", &root.pem);
    node.wait_for("RW-6003");
    let text = crate::node::text_of(&listen("127.0.0.1", "ca.pem"), ONE);
    replace(&node, "ringwall.yaml", &text);
    node.wait_for("RW-6003");
    let outcomes = open.each_mut().map(|stream| {
        let (status, answer) = ask(stream, "/one").expect("answered");
        (status, if status == 200 { String::new() } else { reason_of(&answer) })
    });
    assert_eq!(outcomes[0], (403, "client_certificate_missing".to_owned()));
    assert_eq!(outcomes[1], (200, String::new()));
    assert_eq!(outcomes[2], (403, "client_certificate_unknown_ca".to_owned()));
    // An authority that is none, or a list that is damaged, changes nothing.
    let pem = std::fs::read_to_string(node.place.path().join("good.pem")).expect("there");
    replace(&node, "ca.pem", &pem);
    node.wait_for("RW-6004");
    node.wait_for("RW-1152");
    assert_eq!(ask(&mut open[1], "/one").expect("answered").0, 200);
}

/// curl, as a partner runs it.
fn curl(node: &Node, address: SocketAddr, path: &str, name: Option<&str>, more: &[&str]) -> Answer {
    let output: Output = {
        let mut command = Command::new("curl");
        command.args(["-s", "-S", "-i", "--max-time", "20", "--cacert", "server.pem"]).args(more);
        command.args(["--resolve", &format!("a.test:{}:{}", address.port(), address.ip())]);
        if let Some(name) = name {
            command.args(["--cert", &format!("{name}.pem"), "--key", &format!("{name}.key")]);
        }
        command.arg(format!("https://a.test:{}{path}", address.port()));
        command.current_dir(node.place.path()).output().expect("curl")
    };
    let end = output.stdout.windows(4).position(|four| four == b"\r\n\r\n");
    let end = end.unwrap_or_else(|| panic!("{path} {name:?}: {output:?}")) + 4;
    let head = String::from_utf8(output.stdout[..end].to_vec()).expect("text");
    let status = head.split(' ').nth(1).and_then(|digits| digits.parse().ok()).expect("a status");
    Answer { status, head, body: output.stdout[end..].to_vec() }
}

#[test]
fn a_certificate_says_who_is_calling_where_a_login_asks() {
    let place = Place::new();
    serve(&place);
    let (partners, mesh) = (Authority::root("partners.test"), Authority::root("mesh.test"));
    partners.issue(&place, "shop", &leaf("shop.partners.test"));
    partners.issue(&place, "clerk", &leaf("clerk.partners.test"));
    partners.issue(&place, "stranger", &leaf("shop.elsewhere.test"));
    let service = |uris: &[&str]| {
        let mut params = leaf("web.test");
        params.subject_alt_names.extend(uris.iter().map(|text| uri(text)));
        params
    };
    let id = "spiffe://mesh.test/ns/orders/sa/web";
    mesh.issue(&place, "web", &service(&[id]));
    mesh.issue(&place, "two", &service(&[id, "spiffe://mesh.test/ns/admin"]));
    mesh.issue(&place, "alien", &service(&["spiffe://other.test/ns/orders/sa/web"]));
    place.write("partners.pem", &partners.pem);
    place.write("mesh.pem", &mesh.pem);
    place.write("all.pem", &format!("{}{}", partners.pem, mesh.pem));
    place.write("pepper", "0123456789abcdef0123456789abcdef");
    place.write("keys", "");
    let origin = Origin::start(|_| Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()));
    let config = format!(
        "upstreams: {{ app: \"http://{}\" }}
login:
  partners:
    mtls: partners.pem
    names: \"dns:*.partners.test\"
    roles: {{ reseller: [\"dns:shop.partners.test\"], any: [\"dns:*.partners.test\"] }}
  mesh: {{ mtls: mesh.pem, trust_domain: mesh.test, passthrough: true }}
  keys: {{ api_key: X-API-Key, store: keys, pepper: \"secret:file:pepper\" }}
apis:
  partners:
    base: /partners
    to: app
    operations: {{ list: GET /list, order: GET /order, status: GET /status }}
    allow:
      - {{ who: [partners, keys], do: list }}
      - {{ who: partners, role: reseller, do: order }}
      - {{ who: anyone, do: status }}
    limits: [{{ per: identity, rate: 4/h, do: list, who: partners }}]
  mesh: {{ base: /mesh, to: app, raw: \"a test\", allow: [{{ who: mesh }}] }}
  keys: {{ base: /keys, to: app, raw: \"a test\", allow: [{{ who: keys }}, {{ who: anyone }}] }}",
        origin.address
    );
    let node = Node::start_in(place, &listen("127.0.0.1", "{ file: all.pem, required: false }"), &config);
    let ask = |path: &str, name: Option<&str>, more: &[&str]| curl(&node, node.address, path, name, more);
    let seen = || origin.seen.recv_timeout(PATIENCE).expect("forwarded");

    // Without a certificate: what is for anyone, and a 401 that says what is wanted.
    assert_eq!(ask("/partners/status", None, &[]).status, 200);
    seen();
    let answer = ask("/partners/list", None, &[]);
    assert_eq!(answer.refusal(), (401, "credential_missing".to_owned()));
    assert_eq!(answer.field("www-authenticate"), Some("ApiKey field=\"X-API-Key\", ClientCertificate"));
    assert_eq!(ask("/mesh/x", None, &[]).field("www-authenticate"), Some("ClientCertificate"));

    // With one: who it is, from its names and not from its common name. What the client says of itself goes nowhere.
    let forged =
        ["-H", "X-Ringwall-Subject: admin", "-H", "Client-Cert: :AAAA:", "-H", "X-SSL-Client-CN: admin"];
    assert_eq!(ask("/partners/list", Some("shop"), &forged).status, 200);
    let request = seen();
    assert_eq!(request.field("x-ringwall-subject"), Some("shop.partners.test"));
    assert_eq!(request.field("x-ringwall-kind"), Some("mtls"));
    assert_eq!(request.field("x-ringwall-login"), Some("partners"));
    assert_eq!(request.field("x-ringwall-issuer"), Some("CN=partners.test"));
    assert_eq!(request.field("x-ringwall-roles"), Some("reseller any"));
    assert!(!request.head.contains("admin") && request.field("client-cert").is_none(), "{}", request.head);

    // Roles by names.
    assert_eq!(ask("/partners/order", Some("shop"), &[]).status, 200);
    seen();
    assert_eq!(ask("/partners/order", Some("clerk"), &[]).refusal(), (403, "role_missing".to_owned()));

    // A certificate that the login does not go by is not the lack of one.
    for path in ["/partners/status", "/partners/list"] {
        assert_eq!(ask(path, Some("web"), &[]).refusal(), (401, "certificate_issuer".to_owned()));
        assert_eq!(ask(path, Some("stranger"), &[]).refusal(), (401, "certificate_name".to_owned()));
    }
    // Beside another credential of the same API it is one too many; an API that does not go by certificates does not see it.
    let key = ["-H", "X-API-Key: rwk_x"];
    assert_eq!(ask("/partners/list", Some("shop"), &key).refusal(), (400, "credential_ambiguous".to_owned()));
    assert_eq!(ask("/keys/x", Some("shop"), &key).refusal(), (401, "api_key_malformed".to_owned()));
    assert_eq!(ask("/keys/x", Some("shop"), &[]).status, 200);
    assert_eq!(seen().field("x-ringwall-subject"), None);

    // SPIFFE: the whole id, and the certificate itself (RFC 9440).
    assert_eq!(ask("/mesh/x", Some("web"), &forged).status, 200);
    let request = seen();
    assert_eq!(request.field("x-ringwall-subject"), Some(id));
    let shown: Vec<&str> =
        request.head.lines().filter(|line| line.to_ascii_lowercase().starts_with("client-cert")).collect();
    assert_eq!(shown.len(), 1, "{}", request.head);
    let value = request.field("client-cert").expect("sent on");
    let pem = std::fs::read_to_string(node.place.path().join("web.pem")).expect("there");
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    assert_eq!(value, format!(":{body}:"));
    for name in ["two", "alien"] {
        assert_eq!(ask("/mesh/x", Some(name), &[]).refusal(), (401, "certificate_trust_domain".to_owned()));
    }
    assert_eq!(ask("/mesh/x", Some("shop"), &[]).refusal(), (401, "certificate_issuer".to_owned()));

    // Limits count the identity: 4 an hour for each, of which one is spent.
    for left in (0..3).rev() {
        let answer = ask("/partners/list", Some("shop"), &[]);
        assert_eq!(answer.status, 200, "{left} left");
        seen();
    }
    assert_eq!(ask("/partners/list", Some("shop"), &[]).refusal(), (429, "rate_exceeded".to_owned()));
    assert_eq!(ask("/partners/list", Some("clerk"), &[]).status, 200);

    // The log names login, subject and certificate.
    let line = logged(&node, |line| line["subject"] == "shop.partners.test");
    assert_eq!((line["login"].as_str(), line["key_id"].as_str().map(str::len)), (Some("partners"), Some(64)));
}

#[test]
fn what_cannot_be_asked_for_is_an_error_before_anything_runs() {
    let place = Place::new();
    serve(&place);
    let root = Authority::root("root.test");
    root.issue(&place, "good", &leaf("good.test"));
    place.write("ca.pem", &root.pem);
    place.write("nothing.pem", "nothing\n");
    place.write("list.pem", &root.list(&[], now_s() + DAY_S));
    place.write("two.pem", &format!("{}{}", root.pem, Authority::root("other.test").pem));
    for (client_ca, code) in [
        ("ca.pem", None),
        ("{ file: ca.pem, crl: [list.pem, list.pem] }", None),
        ("missing.pem", Some("RW-1152")),
        ("nothing.pem", Some("RW-1152")),
        ("good.pem", Some("RW-1152")),
        ("{ file: ca.pem, crl: missing.pem }", Some("RW-1153")),
        ("{ file: ca.pem, crl: ca.pem }", Some("RW-1153")),
        ("{ file: ca.pem, crl: nothing.pem }", Some("RW-1153")),
    ] {
        let text = crate::node::text_of(&listen("127.0.0.1", client_ca), ONE);
        let file = place.write("check.yaml", &text);
        let check =
            Command::new(env!("CARGO_BIN_EXE_ringwall")).args(["check", "--json", "-c"]).arg(&file).output();
        let check = check.expect("ringwall check");
        let said = String::from_utf8_lossy(&check.stdout).into_owned();
        assert_eq!(check.status.success(), code.is_none(), "{client_ca}: {said}");
        assert!(code.is_none_or(|code| said.contains(code)), "{client_ca}: {said}");
    }
    // Two authorities, and the list of one: that is no error, and nobody of the other comes in.
    let text = crate::node::text_of(&listen("127.0.0.1", "{ file: two.pem, crl: list.pem }"), ONE);
    let file = place.write("check.yaml", &text);
    let check =
        Command::new(env!("CARGO_BIN_EXE_ringwall")).args(["check", "--json", "-c"]).arg(&file).output();
    let check = check.expect("ringwall check");
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    assert!(check.status.success() && said.contains("RW-1157") && said.contains("CN=other.test"), "{said}");
}

const EXAMPLE: &str = include_str!("../../config/examples/client-certificates.yaml");

/// The committed example, with real certificates, an upstream and curl.
#[test]
fn the_example_lets_partners_in_by_their_names() {
    let place = Place::new();
    serve(&place);
    let server = rcgen::generate_simple_self_signed(["api.example.com".to_owned()]).expect("made");
    place.write("api.pem", &server.cert.pem());
    place.write("api.key", &server.signing_key.serialize_pem());
    let partners = Authority::root("partners");
    for (name, serial) in [("shop", 1), ("clerk", 2), ("gone", 3)] {
        let mut params = leaf(&format!("{name}.partners.example.com"));
        params.serial_number = Some(SerialNumber::from(serial));
        partners.issue(&place, name, &params);
    }
    partners.issue(&place, "elsewhere", &leaf("shop.example.com"));
    place.write("partners-ca.pem", &partners.pem);
    place.write("partners.crl", &partners.list(&[3], now_s() + DAY_S));
    let origin = Origin::start(|_| Reply::Bytes(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_vec()));
    let mut text = EXAMPLE.to_owned();
    for (written, here) in [
        ("[::]:443", "127.0.0.1:0"),
        ("http://127.0.0.1:3000", format!("http://{}", origin.address).as_str()),
        // Nobody is there: tokens are not what is tried here.
        ("https://login.example.com/", "http://127.0.0.1:9/"),
    ] {
        assert_eq!(text.matches(written).count(), 1, "{written}");
        text = text.replace(written, here);
    }
    let more = "log: { file: access.jsonl }\nnode: { metrics: \"127.0.0.2:0\", control: control.sock }\n";
    let node = Node::start_whole(place, &(text + more), &[]);
    let ask = |path: &str, name: Option<&str>, more: &[&str]| {
        let mut command = Command::new("curl");
        command.args([
            "-s",
            "-S",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--max-time",
            "20",
            "--cacert",
            "api.pem",
        ]);
        command.args(["--resolve", &format!("api.example.com:{}:127.0.0.1", node.address.port())]).args(more);
        if let Some(name) = name {
            command.args(["--cert", &format!("{name}.pem"), "--key", &format!("{name}.key")]);
        }
        command.arg(format!("https://api.example.com:{}{path}", node.address.port()));
        let output = command.current_dir(node.place.path()).output().expect("curl");
        String::from_utf8(output.stdout).expect("text")
    };
    let post = ["-X", "POST", "-d", "{}"];
    assert_eq!(ask("/status", None, &[]), "200");
    assert_eq!(ask("/orders", None, &[]), "401");
    assert_eq!(ask("/orders", Some("clerk"), &[]), "200");
    assert_eq!(ask("/orders", Some("clerk"), &post), "403");
    assert_eq!(ask("/orders", Some("shop"), &post), "200");
    assert_eq!(ask("/orders", Some("elsewhere"), &[]), "401");
    // Not even what is for anyone: the handshake ends.
    assert_eq!(ask("/status", Some("gone"), &[]), "000");
    logged(&node, |line| line["reason"] == "client_certificate_revoked");
}
