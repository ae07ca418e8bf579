//! What holds of a TLS session whatever comes: a peer of rustls' own says what the data say, its bytes are cut, changed or
//! mixed with others, and ours answers.
//!
//! For: fuzzing and the tests that replay its corpus.

use std::io::{BufRead, Write};
use std::sync::Arc;

use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};

use super::session::Session;

const NAME: &str = "a.test";
/// Most that is said at once, bytes.
const SAID_MAX: usize = 40_000;
/// New keys of the peer that are heard without data between them; rustls takes more for an attack.
const KEY_UPDATES_MAX: u32 = 32;

/// Configurations of both ends.
type Configs = (Arc<ClientConfig>, Arc<ServerConfig>);

thread_local! {
    /// By version of TLS, 1.2 first.
    static CONFIGS: [Configs; 2] = [&rustls::version::TLS12, &rustls::version::TLS13].map(configs);
}

fn configs(version: &'static rustls::SupportedProtocolVersion) -> Configs {
    let certificate = super::certificate::self_signed(&[NAME.to_owned()]).expect("a certificate");
    let mut roots = RootCertStore::empty();
    roots.add(certificate.key.cert[0].clone()).expect("a root");
    let mut client = ClientConfig::builder_with_provider(super::provider())
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.max_fragment_size = Some(200);
    let resolver = rustls::sign::SingleCertAndKey::from(Arc::clone(&certificate.key));
    let server = ServerConfig::builder_with_provider(super::provider())
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    (Arc::new(client), Arc::new(server))
}

struct Pair {
    ours: Session,
    peer: Connection,
    /// On its way to us.
    wire: Vec<u8>,
    /// What was said at either end, and how much of it came out at the other.
    said: [Vec<u8>; 2],
    heard: [usize; 2],
    /// The wire is not as the peer left it.
    spoilt: bool,
    broken: bool,
    /// We have said that nothing more comes. rustls then asserts, in builds with assertions, that nothing is wrong with what it still
    /// hears: a wire that is spoilt is another story.
    closing: bool,
    /// The same of the peer: of a session that is spoilt it hears no more.
    peer_closing: bool,
    key_updates: u32,
}

/// Lets data say what happens, and holds what comes of it against what was said.
///
/// # Panics
/// A law does not hold.
pub fn session(data: &[u8]) {
    let [how, data @ ..] = data else { return };
    let (client, server) = CONFIGS.with(|configs| configs[usize::from(how & 1)].clone());
    let name = NAME.try_into().expect("a name");
    let (ours, peer): (_, Connection) = match how & 2 {
        0 => {
            let ours = Session::server(server).expect("a server");
            (ours, ClientConnection::new(client, name).expect("a client").into())
        }
        _ => {
            let ours = Session::client(client, name).expect("a client");
            (ours, ServerConnection::new(server).expect("a server").into())
        }
    };
    let mut pair = Pair {
        ours,
        peer,
        wire: Vec::new(),
        said: Default::default(),
        heard: [0; 2],
        spoilt: false,
        broken: false,
        closing: false,
        peer_closing: false,
        key_updates: 0,
    };
    if how & 4 == 0 {
        while !pair.broken && (pair.ours.is_handshaking() || pair.peer.is_handshaking()) {
            pair.exchange();
        }
    }
    for operation in data.chunks(3).take(400) {
        let &[what, high, low] = operation else { return };
        pair.operate(what, usize::from(u16::from_be_bytes([high, low])));
    }
    for _ in 0..4 {
        pair.exchange();
    }
    let closed = pair.ours.has_closed();
    assert!(
        pair.spoilt || pair.broken || closed || pair.heard[0] == pair.said[0].len(),
        "all that was said is heard"
    );
}

impl Pair {
    fn operate(&mut self, what: u8, number: usize) {
        match what % 10 {
            0..=2 => self.deliver(number),
            3 => self.exchange(),
            4 => {
                let plain: Vec<u8> = (0..number.min(SAID_MAX)).map(|at| (at % 253) as u8).collect();
                // It takes no more than it may hold.
                let taken = self.peer.writer().write(&plain).unwrap_or(0);
                self.said[0].extend_from_slice(&plain[..taken]);
            }
            5 => {
                let plain: Vec<u8> = (0..number.min(SAID_MAX)).map(|at| (at % 241) as u8).collect();
                let mut wire = Vec::new();
                if self.ours.encrypt(&plain, &mut wire).is_ok() {
                    self.said[1].extend_from_slice(&plain);
                }
                self.reach(&wire);
            }
            6 | 7 if self.closing => {}
            6 => {
                if let Some(byte) = self.wire.get_mut(number) {
                    *byte ^= 1 << (what >> 5);
                    self.spoilt = true;
                }
            }
            7 => {
                let at = (number & 0xff).min(self.wire.len());
                let behind = self.wire.split_off(at);
                self.wire.extend([number as u8, (number >> 8) as u8].repeat(usize::from(what >> 4)));
                self.wire.extend(behind);
                self.spoilt = true;
            }
            8 => match number & 3 {
                0 => {
                    // In the middle of a handshake that is no way to end.
                    self.spoilt |= self.ours.is_handshaking() || self.peer.is_handshaking();
                    self.peer_closing = true;
                    self.peer.send_close_notify();
                }
                1 if !self.spoilt => {
                    self.closing = true;
                    self.ours.close();
                }
                _ if self.key_updates < KEY_UPDATES_MAX => self.update_key(),
                _ if !self.closing => {
                    self.spoilt = true;
                    self.update_key();
                }
                _ => {}
            },
            _ => self.deliver(1),
        }
    }

    fn update_key(&mut self) {
        // Not in TLS 1.2, nor before hands are shaken.
        self.key_updates += u32::from(self.peer.refresh_traffic_keys().is_ok());
    }

    /// Some of what is on its way arrives; there is room for a part of what it holds.
    fn deliver(&mut self, count: usize) {
        while self.peer.wants_write() {
            self.peer.write_tls(&mut self.wire).expect("a vector");
        }
        let mut piece: Vec<u8> = self.wire.drain(..count.min(self.wire.len())).collect();
        let Pair { ours, said, heard, spoilt, .. } = self;
        let mut hear = |plain: &[u8]| {
            let at = heard[0];
            heard[0] += plain.len();
            // What was changed on the way is noticed before any of it comes out.
            assert!(said[0].get(at..heard[0]) == Some(plain), "heard what was not said (spoilt: {spoilt})");
        };
        let mut waiting = Vec::with_capacity(100);
        while ours.take_plaintext(&mut waiting) > 0 {
            hear(&waiting);
            waiting.clear();
        }
        let mut room = count / 2;
        let fed = ours.feed(&mut piece, |plain| {
            let taken = plain.len().min(room);
            room -= taken;
            hear(&plain[..taken]);
            taken
        });
        while ours.take_plaintext(&mut waiting) > 0 {
            hear(&waiting);
            waiting.clear();
        }
        assert!(fed.is_ok() || self.spoilt || self.broken, "{fed:?}");
        if fed.is_err() {
            self.broken = true;
            let again = self.ours.feed(&mut [0; 5], |_| 0);
            assert_eq!(again, fed, "it stays broken");
        }
        let mut wire = Vec::new();
        self.ours.take_wire(&mut wire);
        assert!(!self.ours.wants_write());
        self.reach(&wire);
    }

    /// All that is on its way arrives.
    fn exchange(&mut self) {
        let mut wire = Vec::new();
        self.ours.take_wire(&mut wire);
        self.reach(&wire);
        while self.peer.wants_write() {
            self.peer.write_tls(&mut self.wire).expect("a vector");
        }
        self.deliver(self.wire.len());
    }

    /// The peer hears us.
    fn reach(&mut self, mut wire: &[u8]) {
        let is_deaf = self.peer_closing && self.spoilt;
        while !is_deaf && !wire.is_empty() {
            match self.peer.read_tls(&mut wire) {
                // It has been told that nothing more comes.
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => panic!("there is room: {error}"),
            }
            if let Err(error) = self.peer.process_new_packets() {
                assert!(self.spoilt, "the peer does not understand us: {error}");
                self.broken = true;
                return;
            }
            let mut reader = self.peer.reader();
            while let Ok(chunk) = reader.fill_buf() {
                if chunk.is_empty() {
                    break;
                }
                let count = chunk.len();
                let at = self.heard[1];
                assert!(self.said[1].get(at..at + count) == Some(chunk), "the peer heard what was not said");
                self.heard[1] += count;
                reader.consume(count);
            }
        }
    }
}
