//! `ringwall demo`: a working, secured gateway with nothing else needed.
//!
//! Loopback only, next free ports, a throw-away certificate, key and token made at start, an upstream of its own. It prints
//! what it serves and one `curl` command for each kind of outcome. Everything it writes goes into a directory of its own,
//! which only its user can read and which is removed at the end.

mod upstream;

use std::fs;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use base64_simd::URL_SAFE_NO_PAD as BASE64URL;
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;

use crate::control::supervisor::{Settings, Source, start};
use crate::policy::identify::key_store::{KeyRecord, NewKey, Pepper};
use crate::sys::address::Address;
use crate::worker::Wanted;

const CONFIG: &str = include_str!("demo.yaml");
const SCHEMA: &str = include_str!("order.schema.json");
/// The issuer that the demo's token names.
const ISSUER: &str = "https://login.demo.example/";
/// The audience that the demo's API is.
const AUDIENCE: &str = "orders-api";
/// Seconds that the demo's key and token are good for.
const CREDENTIAL_LIFE_S: u64 = 24 * 3600;

/// The arguments.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Arguments {
    /// The driver: auto, io_uring, io_uring-plain or epoll
    #[arg(long, value_name = "DRIVER", value_parser = super::run::driver)]
    pub driver: Option<Wanted>,
}

/// Runs the verb.
pub fn run(arguments: &Arguments) -> ExitCode {
    match serve(arguments) {
        Ok(clean) => super::run::exit_code(clean),
        Err(message) => {
            eprintln!("ringwall: the demo cannot start: {message}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> Result<bool, String> {
    let words = |error: io::Error| error.to_string();
    let place = Place::make().map_err(words)?;
    let credentials = Credentials::make(&place).map_err(words)?;
    let upstream = upstream::start().map_err(words)?;
    let port = free_port(8443).map_err(words)?;
    let config = CONFIG
        .replace("{port}", &port.to_string())
        .replace("{upstream}", &upstream.port().to_string())
        .replace("{directory}", &place.path.display().to_string())
        .replace("{metrics}", &free_port(9901).map_err(words)?.to_string());
    let file = place.write("ringwall.yaml", config.as_bytes()).map_err(words)?;
    place.write("order.schema.json", SCHEMA.as_bytes()).map_err(words)?;
    let settings = Settings {
        source: Source::File(file),
        driver: arguments.driver,
        strict: false,
        quiet: true,
        silent_log: true,
        pid_file: None,
        hands_over: false,
    };
    let running = start(settings).map_err(|error| {
        super::run::tell(&error);
        "see above".to_owned()
    })?;
    let drivers: Vec<&str> = running.drivers().map(|driver| driver.name()).collect();
    let text = welcome(&place.path, port, &credentials, &drivers, running.metrics_address());
    // Nobody reading is no reason to stop serving.
    let _ = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
    let clean = running.supervise();
    drop(place);
    Ok(clean)
}

fn welcome(
    directory: &Path,
    port: u16,
    credentials: &Credentials,
    drivers: &[&str],
    metrics: Option<&Address>,
) -> String {
    let directory = directory.display();
    let curl = format!("curl --cacert {directory}/demo.pem");
    let base = format!("https://localhost:{port}/v1/orders");
    let key = &credentials.key;
    let token = &credentials.token;
    let order = r#"{"customer":"Ada","items":[{"sku":"ABC-1234","quantity":2}]}"#;
    let bad = r#"{"customer":"Ada","items":[{"sku":"abc","quantity":0}]}"#;
    let metrics =
        metrics.map_or_else(String::new, |address| format!("  metrics      http://{address}/metrics\n"));
    format!(
        "ringwall {version}: a demo on this machine only, until Ctrl-C

  serves       https://localhost:{port}/v1 on {count} core(s), driver {driver}
  who may      key of `partners` or token of `people`: list, read, create; only role admin: delete
  limits       10 reads a minute for each caller, 50 requests a second for each address
  configured   {directory}/ringwall.yaml (edit it: changes take effect at once)
  access log   {directory}/access.jsonl
{metrics}
admitted, with an API key:
{curl} -H 'X-API-Key: {key}' {base}

admitted, with a token, and the body matches its schema:
{curl} -H 'Authorization: Bearer {token}' -H 'Content-Type: application/json' -d '{order}' {base}

unauthenticated, 401:
{curl} {base}

forbidden, 403:
{curl} -X DELETE -H 'X-API-Key: {key}' {base}/7

rate-limited, 429 after the tenth:
{curl} -H 'X-API-Key: {key}' '{base}/[1-20]'

invalid, 422 with the places that are wrong:
{curl} -H 'X-API-Key: {key}' -H 'Content-Type: application/json' -d '{bad}' {base}

",
        version = env!("CARGO_PKG_VERSION"),
        count = drivers.len(),
        driver = drivers.first().copied().unwrap_or("none"),
    )
}

/// The first free loopback port from `first` on, or any.
fn free_port(first: u16) -> io::Result<u16> {
    let free = (first..first.saturating_add(50))
        .find(|&port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok());
    match free {
        Some(port) => Ok(port),
        None => Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port()),
    }
}

/// The demo's own directory, removed when dropped.
struct Place {
    path: PathBuf,
}

impl Place {
    fn make() -> io::Result<Place> {
        let path = std::env::temp_dir().join(format!("ringwall-demo-{}", std::process::id()));
        fs::DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Place { path })
    }

    fn write(&self, name: &str, bytes: &[u8]) -> io::Result<PathBuf> {
        let path = self.path.join(name);
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(bytes)?;
        Ok(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What cannot be removed is in the system's temporary directory.
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// What the demo lets its visitors in with.
struct Credentials {
    key: String,
    token: String,
}

impl Credentials {
    /// Makes the certificate, the key store and the key set, and what opens them.
    fn make(place: &Place) -> io::Result<Credentials> {
        let no_randomness = || io::Error::other("the system has no randomness");
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).map_err(io::Error::other)?;
        place.write("demo.pem", made.cert.pem().as_bytes())?;
        place.write("demo.key", made.signing_key.serialize_pem().as_bytes())?;

        let random = SystemRandom::new();
        let mut pepper = [0u8; 32];
        random.fill(&mut pepper).map_err(|_| no_randomness())?;
        let pepper: String = pepper.iter().map(|byte| format!("{byte:02x}")).collect();
        place.write("pepper", pepper.as_bytes())?;
        let pepper = Pepper::new(pepper.as_bytes()).ok_or_else(no_randomness)?;
        let key = NewKey::generate().ok_or_else(no_randomness)?;
        let now_s = crate::worker::clock::unix_ms() / 1_000;
        let record = KeyRecord {
            id: "demo".to_owned(),
            prefix: key.prefix(),
            hash: pepper.hash(key.expose().as_bytes()),
            identity: "demo-partner".to_owned(),
            roles: vec!["reseller".to_owned()],
            scopes: Vec::new(),
            created_s: now_s,
            expires_s: Some(now_s + CREDENTIAL_LIFE_S),
        };
        place.write("partners.keys", super::keys::line(&record).as_bytes())?;

        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random)
            .map_err(|_| no_randomness())?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref(), &random)
            .map_err(|rejected| io::Error::other(rejected.to_string()))?;
        let point = pair.public_key().as_ref();
        // An uncompressed point: 4, x, y (SEC 1 §2.3.3).
        let coordinates = point.get(1..65).ok_or_else(no_randomness)?;
        let set = json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "demo",
            "x": BASE64URL.encode_to_string(&coordinates[..32]),
            "y": BASE64URL.encode_to_string(&coordinates[32..]),
        }] });
        place.write("people.jwks.json", set.to_string().as_bytes())?;
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": "demo" });
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "scope": "orders.read orders.write", "roles": ["clerk"],
            "iat": now_s, "nbf": now_s, "exp": now_s + CREDENTIAL_LIFE_S,
        });
        let signed = format!(
            "{}.{}",
            BASE64URL.encode_to_string(header.to_string()),
            BASE64URL.encode_to_string(claims.to_string())
        );
        let signature = pair.sign(&random, signed.as_bytes()).map_err(|_| no_randomness())?;
        let token = format!("{signed}.{}", BASE64URL.encode_to_string(signature.as_ref()));
        Ok(Credentials { key: key.expose().to_owned(), token })
    }
}
