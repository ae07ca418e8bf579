//! Tokens, keys and certificates: what a hit of the cache costs, and what a signature check costs without it.
//!
//! `cargo bench --bench tokens`; `-- --once` runs everything once; `-- --callgrind NAME` runs one contender
//! a thousand times, for counting instructions.

use std::hint::black_box;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::rand::SystemRandom;
use ring::signature::{self, KeyPair};
use ring::{digest, hmac};
use ringwall::jose::cache::{Bounds, Circumstances, Known, TokenCache};
use ringwall::jose::{Algorithm, Expectations, KeySet, Origin, Verifier, base64url};
use ringwall::policy::identify::failures::{Budget, Failures};
use ringwall::policy::identify::key_store::{KeyStore, NewKey, Pepper};
use ringwall::tls::client_certificates::{Authority, ClientTrust, Lists};
use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerifier;

const ROUNDS: usize = 7;
const NOW_S: u64 = 1_800_000_000;
const CLAIMS: &str = concat!(
    r#"{"iss":"https://issuer.example/","aud":"orders","sub":"alice@example.com","exp":4102444800,"#,
    r#""iat":1750000000,"jti":"01979e0b-9a8e-7cc2-8a53-6f2b3c4d5e6f","#,
    r#""scope":"orders.read orders.write","roles":["buyer","reseller"]}"#
);

struct Contender {
    name: &'static str,
    /// Calls in one round.
    calls: u32,
    call: Box<dyn FnMut()>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut contenders = contenders();
    if let Some(at) = arguments.iter().position(|argument| argument == "--callgrind") {
        let name = arguments.get(at + 1).map(String::as_str).unwrap_or_default();
        let contender = contenders.iter_mut().find(|contender| contender.name == name);
        let Some(contender) = contender else {
            eprintln!("no contender {name:?}");
            std::process::exit(2);
        };
        (0..1000).for_each(|_| (contender.call)());
        return;
    }
    if arguments.iter().any(|argument| argument == "--once" || argument == "--test") {
        contenders.iter_mut().for_each(|contender| (contender.call)());
        return;
    }
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); contenders.len()];
    for _ in 0..ROUNDS {
        // Alternating, so that what disturbs the machine disturbs all.
        for (contender, times) in contenders.iter_mut().zip(&mut times) {
            (contender.call)();
            let start = Instant::now();
            (0..contender.calls).for_each(|_| (contender.call)());
            times.push(start.elapsed().as_nanos() as f64 / f64::from(contender.calls));
        }
    }
    println!("{:<28} {:>12} {:>8} {:>14}", "contender", "ns, median", "spread", "a second");
    for (contender, times) in contenders.iter().zip(&mut times) {
        times.sort_by(f64::total_cmp);
        let median = times[ROUNDS / 2];
        let spread = (times[ROUNDS - 1] - times[0]) / median * 100.0;
        println!("{:<28} {median:>12.1} {spread:>7.0}% {:>14.0}", contender.name, 1e9 / median);
    }
}

fn contenders() -> Vec<Contender> {
    let mut contenders = Vec::new();
    let es256 = signer_es256();
    contenders.push(cache_hit("cache_hit_700", &es256, 1));
    contenders.push(cache_hit("cache_hit_8192_tokens", &es256, 6000));
    contenders.push(cache_hit_by_digest(&es256));
    for (name, calls, signed) in [
        ("verify_hs256", 20_000, signer_hs256()),
        ("verify_rs256", 2_000, rs256()),
        ("verify_eddsa", 1_000, signer_eddsa()),
        ("verify_es256", 1_000, es256),
    ] {
        let Signed { keys, token, verifier, .. } = signed;
        let call = move || {
            black_box(verifier.verify(black_box(token.as_bytes()), &keys, NOW_S).expect("the token is good"));
        };
        contenders.push(Contender { name, calls, call: Box::new(call) });
    }
    contenders.push(api_key());
    contenders.push(failures());
    contenders.extend(certificates());
    contenders
}

/// A client's chain in a handshake, without a revocation list and with one of ten thousand; and what of it is left per request.
fn certificates() -> Vec<Contender> {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyUsagePurpose, SerialNumber};
    let key = || rcgen::KeyPair::generate().expect("a key");
    let (root_key, own_key) = (key(), key());
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let anchor = root.self_signed(&root_key).expect("made");
    let issuer = rcgen::Issuer::from_params(&root, &root_key);
    let own = CertificateParams::new(vec!["shop.partners.example".to_owned()]).expect("a name");
    let own = own.signed_by(&own_key, &issuer).expect("made").der().clone();
    let revoked = |serial: u64| rcgen::RevokedCertParams {
        serial_number: SerialNumber::from(serial),
        revocation_time: rcgen::date_time_ymd(2026, 1, 1),
        reason_code: None,
        invalidity_date: None,
    };
    let list = rcgen::CertificateRevocationListParams {
        this_update: rcgen::date_time_ymd(2026, 1, 1),
        next_update: rcgen::date_time_ymd(2096, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: (1 << 40..).take(10_000).map(revoked).collect(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    let list = list.signed_by(&issuer).expect("made");
    let pem = anchor.pem();
    let trust = |lists: Option<&[u8]>| {
        let authority = Authority::new(pem.as_bytes(), 3, Vec::new()).expect("an authority");
        Arc::new(ClientTrust::new(authority, true, lists.map(|list| Lists::new([list]).expect("a list"))))
    };
    let now = UnixTime::since_unix_epoch(Duration::from_secs(NOW_S));
    let chain = |name, trust: Arc<ClientTrust>| {
        let (verifier, own) = (ringwall::tls::client_certificates::Verifier::new(trust), own.clone());
        let call = move || {
            black_box(verifier.verify_client_cert(black_box(&own), &[], now).expect("it holds"));
        };
        Contender { name, calls: 1_000, call: Box::new(call) }
    };
    let open = trust(None);
    let shown = Rc::new(open.shown(std::slice::from_ref(&own), open.number()).expect("read"));
    let admitted = move || {
        black_box(open.admit(Some(black_box(&shown)), NOW_S).expect("it holds"));
    };
    vec![
        chain("chain_p256", trust(None)),
        chain("chain_p256_list_10000", trust(Some(&**list.der()))),
        Contender { name: "certificate_per_request", calls: 1_000_000, call: Box::new(admitted) },
    ]
}

struct Signed {
    keys: KeySet,
    token: String,
    verifier: Verifier,
    sign: Box<dyn Fn(&str) -> String>,
}

fn verifier(algorithm: Algorithm) -> Verifier {
    let expected = Expectations {
        algorithms: algorithm.into(),
        ..Expectations::new("https://issuer.example/", "orders")
    };
    Verifier::new(expected).expect("the expectations are complete")
}

fn signed(algorithm: Algorithm, jwk: String, sign: impl Fn(&[u8]) -> Vec<u8> + 'static) -> Signed {
    let keys =
        KeySet::parse(format!("{{\"keys\":[{jwk}]}}").as_bytes(), Origin::File).expect("the key set is good");
    let header =
        base64url::encode(format!(r#"{{"alg":"{algorithm}","typ":"at+jwt","kid":"bench"}}"#).as_bytes());
    let sign = move |claims: &str| {
        let signed = format!("{header}.{}", base64url::encode(claims.as_bytes()));
        let signature = base64url::encode(&sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    };
    Signed { keys, token: sign(CLAIMS), verifier: verifier(algorithm), sign: Box::new(sign) }
}

fn signer_es256() -> Signed {
    let random = SystemRandom::new();
    let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
    let pkcs8 = signature::EcdsaKeyPair::generate_pkcs8(algorithm, &random).expect("ring makes keys");
    let pair =
        signature::EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).expect("ring reads its keys");
    let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
    let (x, y) = (base64url::encode(x), base64url::encode(y));
    let jwk = format!(r#"{{"kty":"EC","crv":"P-256","kid":"bench","x":"{x}","y":"{y}"}}"#);
    signed(Algorithm::Es256, jwk, move |text| pair.sign(&random, text).expect("ring signs").as_ref().to_vec())
}

fn signer_eddsa() -> Signed {
    let pkcs8 = signature::Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("ring makes keys");
    let pair = signature::Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("ring reads its keys");
    let x = base64url::encode(pair.public_key().as_ref());
    let jwk = format!(r#"{{"kty":"OKP","crv":"Ed25519","kid":"bench","x":"{x}"}}"#);
    signed(Algorithm::EdDsa, jwk, move |text| pair.sign(text).as_ref().to_vec())
}

fn signer_hs256() -> Signed {
    let secret = [7; 32];
    let jwk = format!(r#"{{"kty":"oct","alg":"HS256","kid":"bench","k":"{}"}}"#, base64url::encode(&secret));
    let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
    signed(Algorithm::Hs256, jwk, move |text| hmac::sign(&key, text).as_ref().to_vec())
}

/// ring makes no RSA keys: a token that was signed once with a key that is gone.
fn rs256() -> Signed {
    let jwk =
        format!(r#"{{"keys":[{{"kty":"RSA","alg":"RS256","kid":"bench","e":"AQAB","n":"{RSA_MODULUS}"}}]}}"#);
    let keys = KeySet::parse(jwk.as_bytes(), Origin::File).expect("the key set is good");
    let token = RSA_TOKEN.to_owned();
    Signed { keys, token, verifier: verifier(Algorithm::Rs256), sign: Box::new(|_| String::new()) }
}

/// Tokens of about 700 bytes, found in turn.
fn cache_hit(name: &'static str, signed: &Signed, count: usize) -> Contender {
    let circumstances = Circumstances::new(&signed.verifier, &signed.keys, 0);
    let claims = |at: usize| CLAIMS.replace("alice", &format!("user{at:06}-{}", "x".repeat(240)));
    let mut cache = TokenCache::new(Bounds { entries_max: 8192, bytes_max: 64 << 20 });
    let verified =
        signed.verifier.verify(signed.token.as_bytes(), &signed.keys, NOW_S).expect("the token is good");
    let verified = Rc::new(verified);
    let mut tokens: Vec<String> = (0..count).map(|at| (signed.sign)(&claims(at))).collect();
    tokens.iter().for_each(|token| {
        cache.verified(token.as_bytes(), &circumstances, verified.validity(), &verified, 500, NOW_S)
    });
    tokens.retain(|token| matches!(cache.find(token.as_bytes(), &circumstances, NOW_S), Known::Verified(_)));
    let mut at = 0;
    let call = move || {
        at = if at + 1 == tokens.len() { 0 } else { at + 1 };
        match cache.find(black_box(tokens[at].as_bytes()), &circumstances, NOW_S) {
            Known::Verified(claims) => drop(black_box(claims)),
            other => unreachable!("{other:?}"),
        }
    };
    Contender { name, calls: 200_000, call: Box::new(call) }
}

/// What was weighed against it: a table keyed by SHA-256 of the token.
fn cache_hit_by_digest(signed: &Signed) -> Contender {
    let token = (signed.sign)(&CLAIMS.replace("alice", &format!("user-{}", "x".repeat(240))));
    let key = |token: &str| -> [u8; 32] {
        digest::digest(&digest::SHA256, token.as_bytes()).as_ref().try_into().expect("SHA-256 has 32 bytes")
    };
    let mut table = hashbrown::HashMap::new();
    table.insert(key(&token), Rc::new(token.clone()));
    let call = move || drop(black_box(table.get(&key(black_box(&token))).cloned()));
    Contender { name: "cache_hit_by_sha256", calls: 200_000, call: Box::new(call) }
}

fn api_key() -> Contender {
    let pepper = Pepper::new(&[9; 32]).expect("long enough");
    let keys: Vec<NewKey> =
        (0..1000).map(|_| NewKey::generate().expect("the system has random bytes")).collect();
    let line = |key: &NewKey| {
        let hash: String =
            pepper.hash(key.expose().as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let prefix = key.prefix();
        let prefix = prefix.as_str();
        format!(
            r#"{{"id":"{prefix}","prefix":"{prefix}","hash":"{hash}","identity":"app","created":"2026-01-01T00:00:00Z"}}"#
        )
    };
    let lines: Vec<String> = keys.iter().map(line).collect();
    let store = KeyStore::parse(&lines.join("\n")).expect("the store is good");
    let mut at = 0;
    let call = move || {
        at = (at + 1) % keys.len();
        black_box(
            store.find(black_box(keys[at].expose().as_bytes()), &pepper, NOW_S).expect("the key is good"),
        );
    };
    Contender { name: "api_key_find", calls: 100_000, call: Box::new(call) }
}

fn failures() -> Contender {
    let mut failures = Failures::new(Budget::default());
    let source = "192.0.2.7".parse().expect("an address");
    failures.charge(source, 1);
    let call = move || {
        black_box(failures.is_spent(black_box(source), 2));
    };
    Contender { name: "failures_is_spent", calls: 200_000, call: Box::new(call) }
}

const RSA_MODULUS: &str = concat!(
    "qHIi95L1YiQpB7Dskvl1nRZQf0ZQ3ZNDDQ44-ENePpJwnd3KtMND537e5Pwy-P6wIUQPAxutMnKVThlRTlwCjwxlLjvKSySzOgQ1",
    "Zrs_tfgF4FqR6bvCJxRxusUzzT7JCEZjezYxeHk8ImRRYUZ1vEAc3Vt5uSYZnOlvdepc_18Kd7GNlYRF-y85RAsR6eUFTdtMCUT0",
    "rhiQKkIevsAMSgyHoA3IUQhu1R9tMvOq7TgQU_nIiWlA8xjb4I1-S2D15mvGQJ3xgcKdtdma__jUKLd5Rg_SO5YWoBVFAf36gSOy",
    "sQqGackNqWQsLgNE3TCMpx4K5owh-SQTJWN_MrBiYw",
);
const RSA_TOKEN: &str = concat!(
    "eyJhbGciOiJSUzI1NiIsInR5cCI6ImF0K2p3dCIsImtpZCI6ImJlbmNoIn0.eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxl",
    "LyIsImF1ZCI6Im9yZGVycyIsInN1YiI6ImFsaWNlQGV4YW1wbGUuY29tIiwiZXhwIjo0MTAyNDQ0ODAwLCJpYXQiOjE3NTAwMDAw",
    "MDAsImp0aSI6IjAxOTc5ZTBiLTlhOGUtN2NjMi04YTUzLTZmMmIzYzRkNWU2ZiIsInNjb3BlIjoib3JkZXJzLnJlYWQgb3JkZXJz",
    "LndyaXRlIiwicm9sZXMiOlsiYnV5ZXIiLCJyZXNlbGxlciJdfQ.dDGrP-NX0P1x13EK_lqA0mxOfSlCdKaGfnxeDVjYPlRfAuQ8I",
    "aNd9T7NAY7dH86jeoPV2tCeb0Cwl0xz3x9duBsxOC7wegfQuk3NZFnR7hkReMV4ejVIMaHzgkG5ZSHqc3cDi5nU9dpm0FxogFV2S",
    "uV6N5izGWEbnEM31Dkj5mMZNbZHuMMU7iL2y2No6f9L3jfli3kcTrZyr-Lcvnr2tbzNF7ecaGNXqRpxwpl6zaOpDQ6P-hAZA6mLV",
    "JzrlMj8b1P_9YLPciWqhynrY52MKSRRECBCSHn_7IYwmi9VfQb0hzg0ZxqIsslM4LPPkJaIXhs0AjQQlfwMGNB-VEvE0w",
);
