//! Signed tokens against the published vectors, against an attacker's table, and against another implementation.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ring::rand::SystemRandom;
use ring::signature::{self, KeyPair};
use ringwall::jose::jws::{
    HEADER_BYTES_MAX, KEY_UNKNOWN, TOKEN_ALGORITHM, TOKEN_HEADER, TOKEN_MALFORMED, TOKEN_SIGNATURE, Token,
};
use ringwall::jose::jwt::TOKEN_CLAIMS;
use ringwall::jose::{
    Algorithm, AlgorithmSet, Expectations, Key, KeySet, Origin, Verifier, VerifyError, base64url,
};
use serde_json::{Value, json};

use crate::shared;

const NOW_S: u64 = 1_800_000_000;

fn all() -> AlgorithmSet {
    Algorithm::ALL.into_iter().collect()
}

fn verify(token: &str, keys: &KeySet, allowed: AlgorithmSet) -> Result<Vec<u8>, VerifyError> {
    let mut room = [0; HEADER_BYTES_MAX];
    Token::parse(token.as_bytes(), &mut room)?.verify(keys, allowed)
}

// ---------------------------------------------------------------------------------------------------------
// Published vectors
// ---------------------------------------------------------------------------------------------------------

/// The cases that come out otherwise than their suite says, by the list in `expected.txt`.
struct Suite {
    expected: BTreeMap<String, String>,
    /// Cases that failed, and by file those that passed although they should verify.
    failed: BTreeSet<String>,
    verified: BTreeSet<String>,
    cases: usize,
}

impl Suite {
    fn new() -> Suite {
        let mut expected = BTreeMap::new();
        for line in include_str!("../conformance/jose/expected.txt").lines() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (id, reason) = line.split_once(' ').unwrap_or_else(|| panic!("no reason: {line}"));
            assert!(reason.len() > 10, "a reason is a sentence: {line}");
            assert!(expected.insert(id.to_owned(), reason.to_owned()).is_none(), "listed twice: {id}");
        }
        Suite { expected, failed: BTreeSet::new(), verified: BTreeSet::new(), cases: 0 }
    }

    fn judge(&mut self, file: &str, id: &Value, should_verify: bool, verifies: bool) {
        self.cases += 1;
        if should_verify && verifies {
            self.verified.insert(file.to_owned());
        }
        if should_verify != verifies {
            assert!(should_verify, "{file}/{id} verifies and must not: no list can allow that");
            self.failed
                .insert(format!("{file}/{}", id.as_str().map_or_else(|| id.to_string(), str::to_owned)));
        }
    }

    /// The suite calls the same bytes valid elsewhere: they verify, and the list says so.
    fn contradicts_itself(&mut self, file: &str, id: &Value) {
        self.cases += 1;
        self.failed.insert(format!("{file}/{id}"));
    }

    /// Every failure must be listed, by its case or as `FILE/*`; every listed one must have failed.
    fn close(self) {
        let file = |id: &str| id.split('/').next().unwrap_or_default().to_owned();
        let unlisted: Vec<&String> = self
            .failed
            .iter()
            .filter(|id| {
                !self.expected.contains_key(*id) && !self.expected.contains_key(&format!("{}/*", file(id)))
            })
            .collect();
        let passed: Vec<&String> = self
            .expected
            .keys()
            .filter(|id| match id.strip_suffix("/*") {
                Some(file) => {
                    self.verified.contains(file) || !self.failed.iter().any(|failed| failed.starts_with(file))
                }
                None => !self.failed.contains(*id),
            })
            .collect();
        assert!(unlisted.is_empty(), "unexpected failures: {unlisted:?}");
        assert!(passed.is_empty(), "unexpected passes, take them off the list: {passed:?}");
        println!("{} cases, {} of them expected not to verify here", self.cases, self.failed.len());
    }
}

fn read(path: &Path) -> Value {
    let text = std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).unwrap()
}

fn cases(group: &Value) -> &Vec<Value> {
    group["tests"].as_array().unwrap()
}

fn hex(text: &Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn unsigned(text: &Value) -> Vec<u8> {
    let bytes = hex(text);
    bytes[bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len())..].to_vec()
}

/// A private JWK of the suites without its private half, as a verifier would be given it.
fn public(jwk: &Value) -> Value {
    let mut jwk = jwk.clone();
    if jwk["kty"] != "oct" {
        for name in ["d", "p", "q", "dp", "dq", "qi"] {
            jwk.as_object_mut().unwrap().remove(name);
        }
    }
    jwk
}

#[test]
fn published_vectors_of_tokens_and_keys() {
    let Some(shared) = shared("conformance/jose") else { return };
    let mut suite = Suite::new();
    for file in ["json_web_signature_test", "json_web_key_test", "json_web_crypto_test"] {
        let vectors = read(&shared.join("wycheproof").join(file).with_extension("json"));
        for group in vectors["testGroups"].as_array().unwrap() {
            let keys = if group["public"].is_object() { &group["public"] } else { &group["private"] };
            let keys = KeySet::parse(keys.to_string().as_bytes(), Origin::File);
            let valid: Vec<&Value> = cases(group)
                .iter()
                .filter(|case| case["result"] == "valid")
                .map(|case| &case["jws"])
                .collect();
            for case in cases(group) {
                if case["result"] != "valid" && case["jws"].is_string() && valid.contains(&&case["jws"]) {
                    suite.contradicts_itself(file, &case["tcId"]);
                    continue;
                }
                let token = case["jws"].as_str().or(case["jwe"].as_str());
                // A JSON serialization may stand in the vectors as an object.
                let token = token.map_or_else(|| case["jws"].to_string(), str::to_owned);
                let verifies = keys.as_ref().is_ok_and(|keys| verify(&token, keys, all()).is_ok());
                suite.judge(file, &case["tcId"], case["result"] == "valid", verifies);
            }
        }
    }
    let cookbook = shared.join("rfc7520");
    for file in ["jws", "rfc7797", "curve25519"] {
        let mut files: Vec<_> =
            std::fs::read_dir(cookbook.join(file)).unwrap().map(|file| file.unwrap().path()).collect();
        files.sort();
        for path in files.iter().filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        {
            let vector = read(path);
            let name = path.file_stem().unwrap().to_str().unwrap();
            let jwk = match &vector["input"]["key"] {
                Value::Array(keys) => json!({ "keys": keys.iter().map(public).collect::<Vec<_>>() }),
                key => public(key),
            };
            let keys = KeySet::parse(jwk.to_string().as_bytes(), Origin::File);
            // These keys have no alg: what the login accepts pins them.
            let algorithm = vector["input"]["alg"].as_str().and_then(Algorithm::named);
            let allowed = algorithm.map_or_else(all, AlgorithmSet::from);
            for form in ["compact", "json", "json_flat"] {
                let token = match &vector["output"][form] {
                    Value::Null => continue,
                    Value::String(token) => token.clone(),
                    token => token.to_string(),
                };
                let verifies = keys.as_ref().is_ok_and(|keys| verify(&token, keys, allowed).is_ok());
                // The JSON serializations are refused as such: they allow several signatures, and unsigned headers.
                suite.judge(&format!("rfc7520_{name}"), &json!(form), form == "compact", verifies);
            }
        }
    }

    for (file, curve) in [
        ("ecdsa_secp256r1_sha256_p1363_test", Algorithm::Es256),
        ("ecdsa_secp384r1_sha384_p1363_test", Algorithm::Es384),
        ("ecdsa_secp256k1_sha256_p1363_test", Algorithm::Es256),
        ("ecdsa_secp521r1_sha512_p1363_test", Algorithm::Es384),
    ] {
        let vectors = read(&shared.join("wycheproof").join(file).with_extension("json"));
        for group in vectors["testGroups"].as_array().unwrap() {
            let point = hex(&group["publicKey"]["uncompressed"]);
            let (x, y) = point[1..].split_at(point.len() / 2);
            let key = Key::elliptic(curve, x, y);
            for case in cases(group) {
                let verifies =
                    key.as_ref().is_ok_and(|key| key.verify(curve, &hex(&case["msg"]), &hex(&case["sig"])));
                suite.judge(file, &case["tcId"], case["result"] == "valid", verifies);
            }
        }
    }
    // Signatures in DER are for certificates: not one may pass for a token's.
    for (file, curve) in
        [("ecdsa_secp256r1_sha256_test", Algorithm::Es256), ("ecdsa_secp384r1_sha384_test", Algorithm::Es384)]
    {
        let vectors = read(&shared.join("wycheproof").join(file).with_extension("json"));
        for group in vectors["testGroups"].as_array().unwrap() {
            let point = hex(&group["publicKey"]["uncompressed"]);
            let (x, y) = point[1..].split_at(point.len() / 2);
            let key = Key::elliptic(curve, x, y).unwrap();
            for case in cases(group) {
                let verifies = key.verify(curve, &hex(&case["msg"]), &hex(&case["sig"]));
                suite.judge(file, &case["tcId"], false, verifies);
            }
        }
    }
    for file in [
        "rsa_signature_2048_sha256_test",
        "rsa_signature_2048_sha384_test",
        "rsa_signature_2048_sha512_test",
        "rsa_signature_3072_sha256_test",
        "rsa_signature_4096_sha256_test",
        "rsa_signature_4096_sha512_test",
        "rsa_pss_2048_sha256_mgf1_0_test",
        "rsa_pss_2048_sha256_mgf1_32_test",
        "rsa_pss_2048_sha384_mgf1_48_test",
        "rsa_pss_3072_sha256_mgf1_32_test",
        "rsa_pss_4096_sha384_mgf1_48_test",
        "rsa_pss_4096_sha512_mgf1_64_test",
        "rsa_pss_misc_test",
    ] {
        let vectors = read(&shared.join("wycheproof").join(file).with_extension("json"));
        for group in vectors["testGroups"].as_array().unwrap() {
            let key = &group["publicKey"];
            let key = Key::rsa(&unsigned(&key["modulus"]), &unsigned(&key["publicExponent"]), None);
            let is_pss = file.starts_with("rsa_pss");
            let (algorithm, hash_bytes) = match (group["sha"].as_str().unwrap(), is_pss) {
                ("SHA-256", false) => (Algorithm::Rs256, 32),
                ("SHA-384", false) => (Algorithm::Rs384, 48),
                ("SHA-512", false) => (Algorithm::Rs512, 64),
                ("SHA-384", true) => (Algorithm::Ps384, 48),
                ("SHA-512", true) => (Algorithm::Ps512, 64),
                // Also for hashes that no algorithm has: nothing may verify.
                _ => (Algorithm::Ps256, 32),
            };
            // RFC 7518 §3.5: one hash for message and mask, and a salt of its length.
            let has_algorithm = ["SHA-256", "SHA-384", "SHA-512"].iter().any(|hash| group["sha"] == *hash)
                && (!is_pss || (group["mgfSha"] == group["sha"] && group["sLen"] == hash_bytes));
            for case in cases(group) {
                let verifies = key
                    .as_ref()
                    .is_ok_and(|key| key.verify(algorithm, &hex(&case["msg"]), &hex(&case["sig"])));
                // In the file whose salts are empty, one with a salt as long as the hash is what PS256 asks for.
                let is_resalted = group["mgfSha"] == group["sha"]
                    && case["comment"].as_str() == Some(&format!("s_len changed to {hash_bytes}"));
                let should_verify =
                    has_algorithm && case["result"] == "valid" || !has_algorithm && is_resalted;
                suite.judge(file, &case["tcId"], should_verify, verifies);
            }
        }
    }
    for file in ["ed25519_test", "ed448_test"] {
        let vectors = read(&shared.join("wycheproof").join(file).with_extension("json"));
        for group in vectors["testGroups"].as_array().unwrap() {
            let key = Key::ed25519(&hex(&group["publicKey"]["pk"]));
            for case in cases(group) {
                let (message, signature) = (hex(&case["msg"]), hex(&case["sig"]));
                let verifies =
                    key.as_ref().is_ok_and(|key| key.verify(Algorithm::EdDsa, &message, &signature));
                suite.judge(file, &case["tcId"], case["result"] == "valid", verifies);
            }
        }
    }
    for (file, algorithm, hash_bits) in [
        ("hmac_sha256_test", Algorithm::Hs256, 256),
        ("hmac_sha384_test", Algorithm::Hs384, 384),
        ("hmac_sha512_test", Algorithm::Hs512, 512),
    ] {
        let vectors = read(&shared.join("wycheproof").join(file).with_extension("json"));
        for group in vectors["testGroups"].as_array().unwrap() {
            // RFC 7518 §3.2: no truncated tag, no key shorter than the hash.
            let fits = group["tagSize"] == hash_bits && group["keySize"].as_u64().unwrap() >= hash_bits;
            for case in cases(group) {
                let key = Key::hmac(&hex(&case["key"]), algorithm);
                let (message, tag) = (hex(&case["msg"]), hex(&case["tag"]));
                let verifies = key.is_ok_and(|key| key.verify(algorithm, &message, &tag));
                suite.judge(file, &case["tcId"], fits && case["result"] == "valid", verifies);
            }
        }
    }
    suite.close();
}

// ---------------------------------------------------------------------------------------------------------
// An issuer, and what an attacker does with its tokens
// ---------------------------------------------------------------------------------------------------------

/// An issuer with a P-256 key.
struct Issuer {
    pair: signature::EcdsaKeyPair,
    random: SystemRandom,
    pkcs8: Vec<u8>,
}

impl Issuer {
    fn new() -> Issuer {
        let random = SystemRandom::new();
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = signature::EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap().as_ref().to_vec();
        let pair = signature::EcdsaKeyPair::from_pkcs8(algorithm, &pkcs8, &random).unwrap();
        Issuer { pair, random, pkcs8 }
    }

    fn jwk(&self, id: &str) -> Value {
        let (x, y) = self.pair.public_key().as_ref()[1..].split_at(32);
        json!({"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": id,
               "x": base64url::encode(x), "y": base64url::encode(y)})
    }

    fn keys(&self) -> KeySet {
        KeySet::parse(json!({ "keys": [self.jwk("issuer-1")] }).to_string().as_bytes(), Origin::Url).unwrap()
    }

    fn sign(&self, header: &str, claims: &str) -> String {
        let signed = signed_part(header, claims);
        let signature = self.pair.sign(&self.random, signed.as_bytes()).unwrap();
        format!("{signed}.{}", base64url::encode(signature.as_ref()))
    }
}

fn signed_part(header: &str, claims: &str) -> String {
    format!("{}.{}", base64url::encode(header.as_bytes()), base64url::encode(claims.as_bytes()))
}

fn sign_hmac(secret: &[u8], header: &str, claims: &str) -> String {
    let signed = signed_part(header, claims);
    let tag = ring::hmac::sign(&ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret), signed.as_bytes());
    format!("{signed}.{}", base64url::encode(tag.as_ref()))
}

const HEADER: &str = r#"{"alg":"ES256","kid":"issuer-1"}"#;
const CLAIMS: &str = r#"{"iss":"https://issuer.example/","aud":"orders","sub":"alice","exp":1800000060}"#;

fn verifier(algorithms: AlgorithmSet) -> Verifier {
    let expected = Expectations { algorithms, ..Expectations::new("https://issuer.example/", "orders") };
    Verifier::new(expected).unwrap()
}

#[test]
fn forged_tokens_are_refused_for_what_they_are() {
    let issuer = Issuer::new();
    let attacker = Issuer::new();
    let keys = issuer.keys();
    // Even an operator who accepts every algorithm is not walked around.
    let verifier = verifier(all());
    let refusal = |token: &str| verifier.verify(token.as_bytes(), &keys, NOW_S).unwrap_err().reason();
    let good = issuer.sign(HEADER, CLAIMS);
    assert_eq!(verifier.verify(good.as_bytes(), &keys, NOW_S).unwrap().subject(), "alice");
    let signature = good.rsplit('.').next().unwrap();

    // No signature, under every spelling.
    for none in ["none", "None", "NONE", "nOnE", "none ", "", "null", "HS0"] {
        for id in ["", r#","kid":"issuer-1""#] {
            let header = format!(r#"{{"alg":"{none}"{id}}}"#);
            for tail in ["", signature] {
                assert_eq!(
                    refusal(&format!("{}.{tail}", signed_part(&header, CLAIMS))),
                    &TOKEN_ALGORITHM,
                    "{header}"
                );
            }
        }
    }
    assert_eq!(refusal(&format!("{}.", signed_part(HEADER, CLAIMS))), &TOKEN_SIGNATURE);
    assert_eq!(refusal(&signed_part(HEADER, CLAIMS)), &TOKEN_MALFORMED);

    // The public key, which everybody has, as the secret of an HMAC.
    let jwk = issuer.jwk("issuer-1");
    let point = issuer.pair.public_key().as_ref().to_vec();
    for secret in
        [jwk.to_string().into_bytes(), point.clone(), point[1..].to_vec(), point[1..33].to_vec(), vec![]]
    {
        for name in ["HS256", "HS384", "HS512"] {
            let header = format!(r#"{{"alg":"{name}","kid":"issuer-1"}}"#);
            assert_eq!(refusal(&sign_hmac(&secret, &header, CLAIMS)), &TOKEN_ALGORITHM);
        }
        assert_eq!(refusal(&sign_hmac(&secret, HEADER, CLAIMS)), &TOKEN_SIGNATURE);
    }

    // A key that the token brings itself.
    let own = attacker.jwk("issuer-1");
    for member in [
        format!(r#""jwk":{own}"#),
        r#""jku":"https://attacker.example/jwks.json""#.into(),
        r#""x5u":"https://attacker.example/chain.pem""#.into(),
        format!(r#""x5c":["{}"]"#, "MIIB".repeat(20)),
    ] {
        let header = format!(r#"{{"alg":"ES256","kid":"issuer-1",{member}}}"#);
        assert_eq!(refusal(&attacker.sign(&header, CLAIMS)), &TOKEN_HEADER, "{header}");
        assert_eq!(refusal(&issuer.sign(&header, CLAIMS)), &TOKEN_HEADER, "even with the right signature");
    }
    assert_eq!(refusal(&attacker.sign(HEADER, CLAIMS)), &TOKEN_SIGNATURE);

    // A key id that is a path, a query, a command, or only nearly the right one.
    for id in [
        "../../../../dev/null",
        "/etc/passwd",
        "' OR '1'='1",
        "issuer-1' UNION SELECT 'x",
        "issuer-1\\u0000",
        "|id",
        "$(id)",
        "https://attacker.example/key",
        "issuer-1 ",
        "Issuer-1",
        "issuer-",
        "",
    ] {
        let header = format!(r#"{{"alg":"ES256","kid":"{id}"}}"#);
        assert_eq!(refusal(&issuer.sign(&header, CLAIMS)), &KEY_UNKNOWN, "{header}");
    }
    for id in ["1", "null", "true", "[\"issuer-1\"]", "{}"] {
        assert_eq!(
            refusal(&issuer.sign(&format!(r#"{{"alg":"ES256","kid":{id}}}"#), CLAIMS)),
            &TOKEN_MALFORMED
        );
    }

    // Two readers, two meanings.
    for header in [
        r#"{"alg":"ES256","alg":"none","kid":"issuer-1"}"#,
        r#"{"alg":"none","alg":"ES256","kid":"issuer-1"}"#,
        r#"{"alg":"ES256","kid":"issuer-1","\u006bid":"other"}"#,
        r#"{"alg":"ES256","kid":"issuer-1"}{"alg":"none"}"#,
        r#"{"alg":"ES256","kid":"issuer-1",}"#,
    ] {
        assert_eq!(refusal(&issuer.sign(header, CLAIMS)), &TOKEN_MALFORMED, "{header}");
    }
    for claims in [
        CLAIMS.replace("\"sub\"", "\"sub\":\"bob\",\"sub\""),
        CLAIMS.replace("\"sub\"", "\"\\u0073ub\":\"bob\",\"sub\""),
        CLAIMS.replace("1800000060", "1e400"),
        CLAIMS.replace("1800000060", "-1"),
        CLAIMS.replace("1800000060", "\"1800000060\""),
        CLAIMS.replace("1800000060", "99999999999999999999999"),
        CLAIMS.replace("\"alice\"", &format!("{}1{}", "[".repeat(2000), "]".repeat(2000))),
        CLAIMS.replace("\"alice\"", "\"alice\\r\\nX-Ringwall-Roles: admin\""),
        format!("{CLAIMS} {CLAIMS}"),
    ] {
        assert_eq!(refusal(&issuer.sign(HEADER, &claims)), &TOKEN_CLAIMS, "{}", &claims[..80]);
    }

    // One token, written otherwise.
    for other in [
        format!(" {good}"),
        format!("{good} "),
        format!("{good}\n"),
        format!("{good}="),
        format!("{good}=="),
        format!("{good}."),
        format!(".{good}"),
        good.replacen('.', "..", 1),
        good.replacen('.', "=.", 1),
        format!("{good}.{good}"),
        format!("{good}.AAAA.AAAA"),
    ] {
        assert_eq!(refusal(&other), &TOKEN_MALFORMED, "{other}");
    }
    assert_eq!(
        refusal(&good.replacen('.', ". ", 1)),
        &TOKEN_SIGNATURE,
        "a space would be part of what is signed"
    );
    // Zero for r and s, and the signature in DER.
    for forged in [
        vec![0; 64],
        vec![0xff; 64],
        [&[0; 63][..], &[1]].concat(),
        b"\x30\x06\x02\x01\x00\x02\x01\x00".to_vec(),
    ] {
        let token = format!("{}.{}", signed_part(HEADER, CLAIMS), base64url::encode(&forged));
        assert_eq!(refusal(&token), &TOKEN_SIGNATURE);
    }
}

// ---------------------------------------------------------------------------------------------------------
// Another implementation as judge
// ---------------------------------------------------------------------------------------------------------

/// What the `jsonwebtoken` crate makes, we accept; what we accept of many mutants, it accepts too.
#[test]
fn another_implementation_agrees() {
    use jsonwebtoken as oracle;
    #[derive(serde::Serialize, serde::Deserialize)]
    struct Body {
        iss: String,
        aud: String,
        sub: String,
        exp: u64,
    }

    let random = SystemRandom::new();
    let issuer = Issuer::new();
    let p384 = signature::EcdsaKeyPair::generate_pkcs8(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, &random)
        .unwrap();
    let p384_pair = signature::EcdsaKeyPair::from_pkcs8(
        &signature::ECDSA_P384_SHA384_FIXED_SIGNING,
        p384.as_ref(),
        &random,
    )
    .unwrap();
    let ed25519 = signature::Ed25519KeyPair::generate_pkcs8(&random).unwrap();
    let ed25519_pair = signature::Ed25519KeyPair::from_pkcs8(ed25519.as_ref()).unwrap();
    let secret = [0x5a; 64];
    let k = base64url::encode(&secret);
    let (x, y) = p384_pair.public_key().as_ref()[1..].split_at(48);
    let (x, y) = (base64url::encode(x), base64url::encode(y));
    let ed25519_x = base64url::encode(ed25519_pair.public_key().as_ref());

    let issuers = [
        (oracle::Algorithm::ES256, oracle::EncodingKey::from_ec_der(&issuer.pkcs8), issuer.jwk("k")),
        (
            oracle::Algorithm::ES384,
            oracle::EncodingKey::from_ec_der(p384.as_ref()),
            json!({"kty": "EC", "crv": "P-384", "kid": "k", "x": x, "y": y}),
        ),
        (
            oracle::Algorithm::EdDSA,
            oracle::EncodingKey::from_ed_der(ed25519.as_ref()),
            json!({"kty": "OKP", "crv": "Ed25519", "kid": "k", "x": ed25519_x}),
        ),
        (
            oracle::Algorithm::HS256,
            oracle::EncodingKey::from_secret(&secret),
            json!({"kty": "oct", "alg": "HS256", "kid": "k", "k": k}),
        ),
        (
            oracle::Algorithm::HS384,
            oracle::EncodingKey::from_secret(&secret),
            json!({"kty": "oct", "alg": "HS384", "kid": "k", "k": k}),
        ),
        (
            oracle::Algorithm::HS512,
            oracle::EncodingKey::from_secret(&secret),
            json!({"kty": "oct", "alg": "HS512", "kid": "k", "k": k}),
        ),
    ];
    let verifier = verifier(all());
    // A small generator of ours: the same mutants in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut next = move |bound: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % bound as u64) as usize
    };
    let mut mutants = 0;
    for (algorithm, signing, jwk) in issuers {
        let keys =
            KeySet::parse(json!({ "keys": [jwk.clone()] }).to_string().as_bytes(), Origin::File).unwrap();
        let jwk: oracle::jwk::Jwk = serde_json::from_value(jwk).unwrap();
        let judge_key = oracle::DecodingKey::from_jwk(&jwk).unwrap();
        let mut rules = oracle::Validation::new(algorithm);
        rules.set_audience(&["orders"]);
        rules.set_issuer(&["https://issuer.example/"]);
        // The oracle reads the real clock; dates are ours to judge.
        rules.validate_exp = false;

        let mut header = oracle::Header::new(algorithm);
        header.kid = Some("k".into());
        let body = Body {
            iss: "https://issuer.example/".into(),
            aud: "orders".into(),
            sub: "alice".into(),
            exp: NOW_S + 60,
        };
        let token = oracle::encode(&header, &body, &signing).unwrap();
        let claims = verifier
            .verify(token.as_bytes(), &keys, NOW_S)
            .unwrap_or_else(|error| panic!("{algorithm:?}: {error:?}"));
        assert_eq!((claims.subject(), claims.expires_s()), ("alice", NOW_S + 60));
        assert!(oracle::decode::<Body>(&token, &judge_key, &rules).is_ok());

        let rounds = if algorithm == oracle::Algorithm::ES384 { 50 } else { 400 };
        for _ in 0..rounds {
            let mut mutant = token.clone().into_bytes();
            for _ in 0..=next(2) {
                let at = next(mutant.len());
                match next(4) {
                    0 => mutant[at] = b"ABab01-_.= "[next(11)],
                    1 => {
                        mutant.remove(at);
                    }
                    2 => mutant.insert(at, b"ABab01-_.= "[next(11)]),
                    _ => {
                        let other = next(mutant.len());
                        mutant.swap(at, other);
                    }
                }
            }
            mutants += 1;
            let mutant = String::from_utf8(mutant).unwrap();
            if verifier.verify(mutant.as_bytes(), &keys, NOW_S).is_ok() {
                assert!(oracle::decode::<Body>(&mutant, &judge_key, &rules).is_ok(), "{mutant}");
                // A signature that is not of HMAC may be malleable in theory; a token that we accept in two
                // spellings would still be one too many.
                assert_eq!(mutant, token);
            }
        }
    }
    println!("{mutants} mutants");
}

/// A refusal is one of ours with a code of this module, whatever arrives.
#[test]
fn every_refusal_is_a_401_of_its_range() {
    let issuer = Issuer::new();
    let keys = issuer.keys();
    let verifier = verifier(AlgorithmSet::DEFAULT);
    let good = issuer.sign(HEADER, CLAIMS);
    for end in 0..good.len() {
        let reason = verifier.verify(&good.as_bytes()[..end], &keys, NOW_S).unwrap_err().reason();
        assert!(reason.status == 401 && (3000..3050).contains(&reason.code), "{reason:?}");
    }
}
