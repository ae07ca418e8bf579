//! Bytes that no honest client sends: requests that mean two things, tokens that nobody signed, a renegotiation.
//!
//! Sans-IO. Called by `attacker`.

use std::io;
use std::sync::Arc;

use base64_simd::URL_SAFE_NO_PAD;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, ConnectionTrafficSecrets};

use crate::material::HOST;

/// Fields of a head that is too long, and the length of each: 60 KiB together.
const BOMB_FIELDS: (usize, usize) = (200, 300);
/// Fields of a head that is just allowed: 31 KiB together.
const ALLOWED_FIELDS: (usize, usize) = (95, 325);

/// Where an unanswered head begins.
pub fn slow_head() -> Vec<u8> {
    format!("GET /public/items/1 HTTP/1.1\r\nHost: {HOST}\r\nX-Slow: ").into_bytes()
}

/// A small request that anybody may make.
pub fn item(fields: &str) -> Vec<u8> {
    format!("GET /public/items/1 HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n").into_bytes()
}

/// A request for 1 MiB.
pub fn file() -> Vec<u8> {
    format!("GET /public/files/1m HTTP/1.1\r\nHost: {HOST}\r\n\r\n").into_bytes()
}

/// The head of an upload.
pub fn upload(length: usize) -> Vec<u8> {
    format!("POST /public/uploads HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\n\r\n")
        .into_bytes()
}

/// A head that is too long, or one that is just allowed, in turn.
pub fn bomb(number: u64) -> Vec<u8> {
    let (fields, length) = if number.is_multiple_of(2) { BOMB_FIELDS } else { ALLOWED_FIELDS };
    let mut all = String::with_capacity(fields * (length + 16));
    for field in 0..fields {
        all += &format!("X-Bomb-{field}: ");
        all.extend(std::iter::repeat_n('b', length));
        all += "\r\n";
    }
    item(&all)
}

/// A request with another client's address in it, in a /64 that was not seen before.
pub fn forwarded(number: u64) -> Vec<u8> {
    let [.., a, b, c, d] = number.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17).to_be_bytes();
    item(&format!(
        "X-Forwarded-For: 2001:db8:{:x}:{:x}::1\r\n",
        u16::from_be_bytes([a, b]),
        u16::from_be_bytes([c, d])
    ))
}

/// A request whose token nobody signed; `genuine` is a token of the same shape.
pub fn forged(genuine: &str, number: u64) -> Vec<u8> {
    let (signed, _) = genuine.rsplit_once('.').unwrap_or((genuine, ""));
    let mut signature = [0x5a; 64];
    for (place, byte) in
        number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes().into_iter().cycle().take(56).enumerate()
    {
        signature[place + 4] ^= byte.wrapping_add(place as u8);
    }
    let signature = URL_SAFE_NO_PAD.encode_to_string(signature);
    format!("GET /v1/orders/1 HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {signed}.{signature}\r\n\r\n")
        .into_bytes()
}

/// A request that must be refused, another one each time.
pub fn bad(number: u64) -> Vec<u8> {
    const HEADS: [&str; 16] = [
        "POST /public/uploads HTTP/1.1\r\nHost: {H}\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /public/uploads HTTP/1.1\r\nHost: {H}\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        "POST /public/uploads HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        "POST /public/uploads HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "POST /public/uploads HTTP/1.1\r\nHost: {H}\r\nContent-Length: +5\r\n\r\nhello",
        "POST /public/uploads HTTP/1.1\r\nHost: {H}\r\nContent-Length: 0x5\r\n\r\nhello",
        "GET /public/items/1 HTTP/1.1\r\nHost: {H}\r\n folded: yes\r\n\r\n",
        "GET /public/items/1 HTTP/1.1\r\nHost: {H}\r\nX: a\0b\r\n\r\n",
        "GET /public/items/1 HTTP/1.1\nHost: {H}\n\n",
        "GET /public/items/1 HTTP/1.1\r\n\r\n",
        "GET /public/items/1 HTTP/1.1\r\nHost: {H}\r\nHost: other\r\n\r\n",
        "GET /public/%2e%2e/items/1 HTTP/9.9\r\nHost: {H}\r\n\r\n",
        "GET /public/items/1\r\n\r\n",
        "POST /public/uploads HTTP/1.1\r\nHost: {H}\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\u{7f}\r\n\r\n",
        "GET http://user@{H}/public/items/1 HTTP/1.1\r\nHost: {H}\r\nUpgrade: h2c\r\n\r\n",
    ];
    HEADS[(number % HEADS.len() as u64) as usize].replace("{H}", HOST).into_bytes()
}

/// A `ClientHello` in its record.
///
/// # Errors
/// rustls does not make one.
pub fn client_hello(config: &Arc<ClientConfig>) -> io::Result<Vec<u8>> {
    let name = ServerName::try_from(HOST).map_err(io::Error::other)?;
    let mut connection = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
    let mut hello = Vec::new();
    connection.write_tls(&mut hello)?;
    Ok(hello)
}

/// Encrypts handshake messages on a TLS 1.2 connection whose handshake is over.
pub struct Renegotiation {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Renegotiation {
    /// Takes the keys out of a connection, which says nothing by itself from then on.
    ///
    /// # Errors
    /// It is not TLS 1.2 with AES-128-GCM, or its configuration keeps its keys.
    pub fn of(connection: ClientConnection) -> io::Result<Self> {
        let secrets = connection.dangerous_extract_secrets().map_err(io::Error::other)?;
        let (sequence, ConnectionTrafficSecrets::Aes128Gcm { key, iv }) = secrets.tx else {
            return Err(io::Error::other("not AES-128-GCM"));
        };
        let key = UnboundKey::new(&AES_128_GCM, key.as_ref()).map_err(|_| io::Error::other("no key"))?;
        let mut nonce = [0; 12];
        nonce.copy_from_slice(iv.as_ref());
        Ok(Self { key: LessSafeKey::new(key), iv: nonce, sequence })
    }

    /// The record of one more `ClientHello`; `hello` is one in a record of its own.
    ///
    /// # Errors
    /// It cannot be encrypted.
    pub fn record(&mut self, hello: &[u8]) -> io::Result<Vec<u8>> {
        const HANDSHAKE: [u8; 3] = [22, 3, 3];
        let message = &hello[5..];
        let mut nonce = self.iv;
        for (byte, other) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= other;
        }
        // RFC 5246 §6.2.3.3: sequence number, type, version, length.
        let mut additional = [0; 13];
        additional[..8].copy_from_slice(&self.sequence.to_be_bytes());
        additional[8..11].copy_from_slice(&HANDSHAKE);
        additional[11..].copy_from_slice(&(message.len() as u16).to_be_bytes());
        let mut sealed = message.to_vec();
        self.key
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(additional), &mut sealed)
            .map_err(|_| io::Error::other("not encrypted"))?;
        self.sequence += 1;
        let mut record = HANDSHAKE.to_vec();
        record.extend((sealed.len() as u16 + 8).to_be_bytes());
        record.extend(&nonce[4..]);
        record.extend(sealed);
        Ok(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::tls;
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    use rustls::{ServerConfig, ServerConnection};

    #[test]
    fn a_renegotiation_is_understood_and_refused() {
        let made = rcgen::generate_simple_self_signed([HOST.to_owned()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let server = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let mut server = ServerConnection::new(Arc::new(server)).unwrap();
        let config = tls::for_renegotiating(made.cert.der().clone()).unwrap();
        let mut client =
            ClientConnection::new(Arc::clone(&config), ServerName::try_from(HOST).unwrap()).unwrap();
        for _ in 0..10 {
            let mut bytes = Vec::new();
            client.write_tls(&mut bytes).unwrap();
            server.read_tls(&mut &*bytes).unwrap();
            server.process_new_packets().unwrap();
            let mut bytes = Vec::new();
            server.write_tls(&mut bytes).unwrap();
            if !bytes.is_empty() {
                client.read_tls(&mut &*bytes).unwrap();
            }
            client.process_new_packets().unwrap();
        }
        assert!(!client.is_handshaking());
        let hello = client_hello(&config).unwrap();
        let mut again = Renegotiation::of(client).unwrap();
        // The first is declined with a warning, which only a record that decrypts gets; more are too many.
        server.read_tls(&mut &*again.record(&hello).unwrap()).unwrap();
        server.process_new_packets().unwrap();
        assert!(server.wants_write());
        server.read_tls(&mut &*again.record(&hello).unwrap()).unwrap();
        assert!(server.process_new_packets().is_err());
    }

    #[test]
    fn no_two_tokens_and_no_two_prefixes_are_the_same() {
        let all: std::collections::BTreeSet<_> = (0..10_000).map(|n| forged("a.b.c", n)).collect();
        assert_eq!(all.len(), 10_000);
        let all: std::collections::BTreeSet<_> = (0..10_000).map(forwarded).collect();
        assert!(all.len() > 9_990);
        assert!((0..16).all(|number| !bad(number).windows(3).any(|window| window == b"{H}")));
        assert!(bomb(0).len() > 60 * 1024 && bomb(1).len() < 32 * 1024);
    }
}
