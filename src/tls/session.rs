//! One TLS session without IO: bytes of the wire in, bytes of the application out, and back.

use std::io::{self, BufRead, Write};

use rustls::{ClientConnection, Connection, ServerConnection};

use crate::http::Protocol;

/// A session in either role.
#[derive(Debug)]
pub struct Session {
    connection: Connection,
    /// Plaintext that was moved out of the connection to make room for more of one feed; at most a feed and a record.
    spilled: Vec<u8>,
}

/// What feeding a session came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fed {
    /// The peer has said that nothing more will come.
    pub closed: bool,
}

impl Session {
    /// The server's side.
    pub fn server(mut connection: ServerConnection) -> Session {
        // Plaintext never waits here: what is written is encrypted and sent in the same call.
        connection.set_buffer_limit(None);
        Session { connection: Connection::Server(connection), spilled: Vec::new() }
    }

    /// The client's side.
    pub fn client(mut connection: ClientConnection) -> Session {
        connection.set_buffer_limit(None);
        Session { connection: Connection::Client(connection), spilled: Vec::new() }
    }

    /// Whether the handshake is still under way.
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether records wait to be sent.
    pub fn wants_write(&self) -> bool {
        self.connection.wants_write()
    }

    /// Whether the handshake resumed an earlier session.
    pub fn is_resumed(&self) -> bool {
        self.connection.handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// The version that was agreed.
    pub fn version(&self) -> Option<rustls::ProtocolVersion> {
        self.connection.protocol_version()
    }

    /// The protocol that was agreed on by ALPN, if one was.
    pub fn protocol(&self) -> Option<Protocol> {
        self.connection.alpn_protocol().and_then(Protocol::of_alpn)
    }

    /// The chain that the peer has shown and that was verified, its own certificate first; empty without one.
    pub fn peer_certificates(&self) -> &[rustls::pki_types::CertificateDer<'static>] {
        self.connection.peer_certificates().unwrap_or_default()
    }

    /// The name that the client asked for, canonical.
    pub fn server_name(&self) -> Option<&str> {
        match &self.connection {
            Connection::Server(server) => server.server_name(),
            Connection::Client(_) => None,
        }
    }

    /// Takes bytes of the wire.
    ///
    /// # Errors
    /// The peer broke the protocol; an alert then waits to be sent.
    pub fn feed(&mut self, mut wire: &[u8]) -> Result<Fed, rustls::Error> {
        let mut closed = false;
        while !wire.is_empty() {
            match self.connection.read_tls(&mut wire) {
                Ok(0) => break,
                Ok(_) => {}
                // The connection holds as much plaintext as it may: room is made, or the peer is refused, so that this
                // loop ends whatever was sent.
                Err(_) if self.spill() == 0 => return Err(rustls::Error::General("no room".into())),
                Err(_) => {}
            }
            closed |= self.connection.process_new_packets()?.peer_has_closed();
        }
        Ok(Fed { closed })
    }

    /// Moves decrypted bytes out of the connection; how many.
    fn spill(&mut self) -> usize {
        let mut spilled = 0;
        let mut reader = self.connection.reader();
        while let Ok(chunk) = reader.fill_buf() {
            let count = chunk.len();
            if count == 0 {
                break;
            }
            self.spilled.extend_from_slice(chunk);
            reader.consume(count);
            spilled += count;
        }
        spilled
    }

    /// Moves decrypted bytes behind what `out` holds, as far as its capacity goes.
    pub fn take_plaintext(&mut self, out: &mut Vec<u8>) -> usize {
        let mut taken = self.spilled.len().min(out.capacity() - out.len());
        out.extend_from_slice(&self.spilled[..taken]);
        self.spilled.drain(..taken);
        if self.spilled.is_empty() {
            // A connection that goes idle holds no memory for what one feed brought.
            self.spilled = Vec::new();
        }
        let mut reader = self.connection.reader();
        while out.len() < out.capacity() {
            let count = match reader.fill_buf() {
                Ok(chunk) if !chunk.is_empty() => {
                    let count = chunk.len().min(out.capacity() - out.len());
                    out.extend_from_slice(&chunk[..count]);
                    count
                }
                _ => break,
            };
            reader.consume(count);
            taken += count;
        }
        taken
    }

    /// Encrypts `plain` behind what `wire` holds.
    ///
    /// # Errors
    /// The session cannot send any more.
    pub fn encrypt(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> io::Result<()> {
        self.connection.writer().write_all(plain)?;
        self.take_wire(wire)
    }

    /// Moves records that wait to be sent behind what `wire` holds.
    ///
    /// # Errors
    /// None in practice: a vector takes everything.
    pub fn take_wire(&mut self, wire: &mut Vec<u8>) -> io::Result<()> {
        while self.connection.wants_write() {
            self.connection.write_tls(wire)?;
        }
        Ok(())
    }

    /// Says that nothing more will be sent.
    pub fn close(&mut self) {
        self.connection.send_close_notify();
    }

    /// Whether decrypted bytes wait to be taken.
    pub fn has_plaintext(&mut self) -> bool {
        if !self.spilled.is_empty() {
            return true;
        }
        let mut reader = self.connection.reader();
        reader.fill_buf().is_ok_and(|chunk| !chunk.is_empty())
    }
}

/// Lets the two shake hands, to the end or the first failure, whose alert still gets over. What became of our side and of
/// the peer's.
#[cfg(test)]
pub(super) fn shake_hands(
    ours: &mut Session,
    peer: &mut Connection,
) -> (Result<(), rustls::Error>, Result<(), rustls::Error>) {
    let (mut our_end, mut their_end) = (Ok(()), Ok(()));
    while ours.wants_write() || peer.wants_write() {
        let mut wire = Vec::new();
        ours.take_wire(&mut wire).expect("a vector");
        let mut rest = &wire[..];
        while !rest.is_empty() && their_end.is_ok() {
            peer.read_tls(&mut rest).expect("room");
            their_end = peer.process_new_packets().map(|_| ());
        }
        let mut wire = Vec::new();
        while peer.wants_write() {
            peer.write_tls(&mut wire).expect("a vector");
        }
        if our_end.is_ok() {
            our_end = ours.feed(&wire).map(|_| ());
        }
    }
    (our_end, their_end)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, RootCertStore, ServerConfig};

    use super::*;
    use crate::tls::provider;
    use crate::worker::buffer::{LARGE, SMALL};

    /// The largest plaintext of a record (RFC 8446 §5.1).
    const RECORD: usize = 16 * 1024;
    /// The smallest records that rustls makes of a long write.
    const FRAGMENT: usize = 512;

    /// Both ends after their handshake: ours under test, rustls' own as the peer, whose records hold at most `fragment`.
    struct Pair {
        ours: Session,
        peer: Connection,
    }

    impl Pair {
        fn with_client(fragment: Option<usize>) -> Pair {
            let (mut client, server) = configs();
            client.max_fragment_size = fragment;
            let ours = Session::server(ServerConnection::new(Arc::new(server)).expect("a server"));
            let peer = ClientConnection::new(Arc::new(client), name()).expect("a client");
            Pair { ours, peer: peer.into() }.connected()
        }

        fn with_server(fragment: Option<usize>) -> Pair {
            let (client, mut server) = configs();
            server.max_fragment_size = fragment;
            let ours = Session::client(ClientConnection::new(Arc::new(client), name()).expect("a client"));
            let peer = ServerConnection::new(Arc::new(server)).expect("a server");
            Pair { ours, peer: peer.into() }.connected()
        }

        fn connected(mut self) -> Pair {
            self.peer.set_buffer_limit(None);
            let mut wire = Vec::new();
            while self.ours.is_handshaking() || self.peer.is_handshaking() || self.ours.wants_write() {
                self.ours.take_wire(&mut wire).expect("a vector");
                read(&mut self.peer, &wire);
                wire.clear();
                while self.peer.wants_write() {
                    self.peer.write_tls(&mut wire).expect("a vector");
                }
                assert_eq!(self.ours.feed(&wire), Ok(Fed { closed: false }));
                wire.clear();
            }
            self
        }

        /// What the peer puts on the wire: each of `pieces` is a record of its own, or several when it is too long.
        fn sent<'a>(&mut self, pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<u8> {
            let mut wire = Vec::new();
            for piece in pieces {
                self.peer.writer().write_all(piece).expect("no limit");
                while self.peer.wants_write() {
                    self.peer.write_tls(&mut wire).expect("a vector");
                }
            }
            wire
        }

        /// Everything that waits, taken through a buffer of `capacity`.
        fn taken(&mut self, capacity: usize) -> Vec<u8> {
            let mut all = Vec::new();
            while self.ours.has_plaintext() {
                let mut out = Vec::with_capacity(capacity);
                let count = self.ours.take_plaintext(&mut out);
                assert!(count > 0 && count == out.len() && out.len() <= capacity);
                all.extend_from_slice(&out);
            }
            assert_eq!(self.ours.take_plaintext(&mut Vec::with_capacity(1)), 0);
            assert_eq!(self.ours.spilled.capacity(), 0, "nothing waits, so nothing is held");
            all
        }

        /// What `wire` comes to at the peer.
        fn received(&mut self, wire: &[u8]) -> Vec<u8> {
            read(&mut self.peer, wire)
        }
    }

    fn configs() -> (ClientConfig, ServerConfig) {
        let made = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("a certificate");
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).expect("a root");
        let client = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let key = made.signing_key.serialize_der().try_into().expect("PKCS#8");
        let server = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .expect("a certificate and its key");
        (client, server)
    }

    fn name() -> ServerName<'static> {
        ServerName::try_from("a.test").expect("a name")
    }

    /// As a careful user of rustls does: plaintext is taken out after each read.
    fn read(peer: &mut Connection, mut wire: &[u8]) -> Vec<u8> {
        let mut plain = Vec::new();
        while !wire.is_empty() {
            peer.read_tls(&mut wire).expect("room");
            peer.process_new_packets().expect("in order");
            let mut reader = peer.reader();
            while let Ok(chunk) = reader.fill_buf() {
                if chunk.is_empty() {
                    break;
                }
                plain.extend_from_slice(chunk);
                let count = chunk.len();
                reader.consume(count);
            }
        }
        plain
    }

    fn bytes(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    /// Lengths around every bound there is: none, one, a fragment, a read of rustls, a record, several.
    fn lengths() -> impl Iterator<Item = usize> {
        let around = |length: usize| length - 1..=length + 1;
        (0..300)
            .chain(around(FRAGMENT))
            .chain(around(4096))
            .chain(around(RECORD))
            .chain(around(2 * RECORD))
            .chain([5 * RECORD + 7])
    }

    #[test]
    fn records_of_every_size_arrive_whole_in_both_directions() {
        let pairs = [
            Pair::with_client(None),
            Pair::with_client(Some(FRAGMENT)),
            Pair::with_server(None),
            Pair::with_server(Some(FRAGMENT)),
        ];
        for mut pair in pairs {
            for length in lengths() {
                let plain = bytes(length);
                let wire = pair.sent([&*plain]);
                // As the stream feeds: what one receive brings.
                let mut taken = Vec::new();
                for receive in wire.chunks(SMALL) {
                    assert_eq!(pair.ours.feed(receive), Ok(Fed { closed: false }));
                    taken.extend_from_slice(&pair.taken(SMALL));
                }
                assert_eq!(taken, plain, "{length} bytes to us");

                let mut wire = Vec::new();
                pair.ours.encrypt(&plain, &mut wire).expect("a vector");
                assert_eq!(pair.received(&wire), plain, "{length} bytes from us");
            }
        }
    }

    #[test]
    fn a_full_record_followed_by_many_small_ones_in_one_feed_ends() {
        for (small, count) in [(1, 1), (1, 500), (100, 150), (FRAGMENT, 30), (RECORD, 20)] {
            for capacity in [1, 1_000, SMALL, LARGE] {
                let mut pair = Pair::with_client(None);
                let (full, little) = (bytes(RECORD), bytes(small));
                let pieces = std::iter::once(&*full).chain(std::iter::repeat_n(&*little, count));
                let wire = pair.sent(pieces);
                assert_eq!(pair.ours.feed(&wire), Ok(Fed { closed: false }));
                let wanted = [full, little.repeat(count)].concat();
                assert!(pair.taken(capacity) == wanted, "{count} × {small} through {capacity}");
            }
        }
    }

    #[test]
    fn feeds_that_are_not_taken_out_are_not_lost() {
        let mut pair = Pair::with_client(Some(FRAGMENT));
        let plain = bytes(10 * RECORD);
        for receive in pair.sent([&*plain]).chunks(SMALL) {
            assert_eq!(pair.ours.feed(receive), Ok(Fed { closed: false }));
        }
        // Partly taken, then fed again: the order stays.
        let mut head = Vec::with_capacity(1_000);
        assert_eq!(pair.ours.take_plaintext(&mut head), 1_000);
        let wire = pair.sent([&*plain]);
        assert_eq!(pair.ours.feed(&wire), Ok(Fed { closed: false }));
        head.extend_from_slice(&pair.taken(SMALL));
        assert!(head == plain.repeat(2));
    }

    #[test]
    fn a_feed_may_be_cut_at_every_offset() {
        let little = bytes(3);
        let long = bytes(900);
        let pieces = [&*little, &*long, &[], &*little, &*little];
        let wanted = pieces.concat();
        for mut pair in [Pair::with_client(Some(FRAGMENT)), Pair::with_server(None)] {
            let length = pair.sent(pieces).len();
            pair = match pair.peer {
                Connection::Client(_) => Pair::with_client(Some(FRAGMENT)),
                Connection::Server(_) => Pair::with_server(None),
            };
            for cut in 0..=length {
                let wire = pair.sent(pieces);
                assert_eq!(wire.len(), length);
                let (one, two) = wire.split_at(cut);
                assert_eq!(pair.ours.feed(one), Ok(Fed { closed: false }));
                let mut taken = pair.taken(SMALL);
                assert_eq!(pair.ours.feed(two), Ok(Fed { closed: false }));
                taken.extend_from_slice(&pair.taken(SMALL));
                assert_eq!(taken, wanted, "cut at {cut}");
            }
            // Byte by byte.
            let mut taken = Vec::new();
            for byte in pair.sent(pieces).chunks(1) {
                assert_eq!(pair.ours.feed(byte), Ok(Fed { closed: false }));
                taken.extend_from_slice(&pair.taken(1));
            }
            assert_eq!(taken, wanted);
        }
    }

    #[test]
    fn a_full_record_with_small_ones_behind_may_be_cut_anywhere() {
        let (full, little) = (bytes(RECORD), bytes(40));
        let mut pair = Pair::with_client(None);
        let wanted = [&*full, &*little, &*little].concat();
        let mut cut = 0;
        loop {
            let wire = pair.sent([&*full, &*little, &*little]);
            if cut > wire.len() {
                return;
            }
            let (one, two) = wire.split_at(cut);
            // Nothing is taken out in between: the connection is at its fullest.
            assert_eq!(pair.ours.feed(one), Ok(Fed { closed: false }));
            assert_eq!(pair.ours.feed(two), Ok(Fed { closed: false }));
            assert!(pair.taken(SMALL) == wanted, "cut at {cut}");
            // Every offset in the small records and at the edges of the full one.
            cut += if (10..RECORD).contains(&cut) { 61 } else { 1 };
        }
    }

    #[test]
    fn the_handshake_may_be_cut_anywhere() {
        for size in [1, 2, 5, 100, 1_000] {
            let (client, server) = configs();
            let mut ours = Session::server(ServerConnection::new(Arc::new(server)).expect("a server"));
            let mut peer = ClientConnection::new(Arc::new(client), name()).expect("a client");
            let mut wire = Vec::new();
            while peer.is_handshaking() || ours.is_handshaking() {
                while peer.wants_write() {
                    peer.write_tls(&mut wire).expect("a vector");
                }
                for part in wire.chunks(size) {
                    assert_eq!(ours.feed(part), Ok(Fed { closed: false }));
                }
                wire.clear();
                ours.take_wire(&mut wire).expect("a vector");
                for part in wire.chunks(size) {
                    let mut part = part;
                    peer.read_tls(&mut part).expect("room");
                    peer.process_new_packets().expect("in order");
                }
                wire.clear();
            }
        }
    }

    #[test]
    fn the_end_is_told_once_everything_before_it_is_here() {
        let mut pair = Pair::with_client(None);
        let plain = bytes(RECORD);
        let mut wire = pair.sent([&*plain, b"last"]);
        pair.peer.send_close_notify();
        while pair.peer.wants_write() {
            pair.peer.write_tls(&mut wire).expect("a vector");
        }
        // Whatever stands behind the end is nobody's.
        wire.extend_from_slice(b"not a record at all");
        assert_eq!(pair.ours.feed(&wire), Ok(Fed { closed: true }));
        assert!(pair.taken(SMALL) == [&*plain, b"last"].concat());
    }

    #[test]
    fn a_forged_record_is_an_error_with_an_alert_and_no_plaintext() {
        let mut pair = Pair::with_client(None);
        let mut wire = pair.sent([&b"hello"[..]]);
        let last = wire.len() - 1;
        wire[last] ^= 1;
        assert_eq!(pair.ours.feed(&wire), Err(rustls::Error::DecryptError));
        assert!(pair.ours.wants_write() && !pair.ours.has_plaintext());
        // It stays broken.
        assert!(pair.ours.feed(b"more").is_err());
    }
}
