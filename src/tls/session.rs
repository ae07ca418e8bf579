//! One TLS session without IO: bytes of the wire in, bytes of the application out, and back.
//!
//! On rustls' unbuffered connection: records are deciphered where they were received, so that a session that rests holds no
//! buffer, where the buffered one keeps 4 KiB. What is kept here is a record of which not all has come, and what nobody had room
//! for.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

use crate::http::Protocol;

/// Bytes before a fragment: type, version, length (RFC 8446 §5.1).
const HEADER_BYTES: usize = 5;
/// The largest plaintext of a record (RFC 8446 §5.1).
const RECORD_BYTES_MAX: usize = 16 * 1024;
/// What a record adds to its plaintext at most: header, explicit nonce, type, tag.
const RECORD_EXTRA: usize = 40;
/// An update of our key, which may have to go before what is encrypted.
const KEY_UPDATE_BYTES: usize = 64;
/// What waits for the rest of a message of the handshake at most, bytes of the wire: as much as rustls has a message hold.
const PARTIAL_BYTES_MAX: usize = 80 * 1024;

/// A session in either role.
#[derive(Debug)]
pub struct Session {
    connection: Side,
    /// A record, or the records of a message of the handshake, of which not all is here.
    partial: Vec<u8>,
    /// Where in `partial` the record begins that is not complete.
    incomplete_at: usize,
    /// Records that wait to be sent.
    outgoing: Vec<u8>,
    /// Plaintext for which there was no room; at most that of one feed and of a record.
    spilled: Vec<u8>,
    /// The peer has said that nothing more will come.
    closed: bool,
    /// The peer broke the protocol. rustls must not be asked again: it would take what it has refused for something new.
    broken: Option<Box<Error>>,
}

enum Side {
    Server(UnbufferedServerConnection),
    Client(UnbufferedClientConnection),
}

impl fmt::Debug for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Server(_) => "Server",
            Side::Client(_) => "Client",
        })
    }
}

/// What feeding a session came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fed {
    /// The peer has said that nothing more will come.
    pub closed: bool,
}

/// What is to be said, beside what rustls has to say.
enum Speech<'a> {
    Nothing,
    Data(&'a [u8]),
    /// Nothing more will be said.
    Close,
}

/// How far that, and what has come, has led.
enum Said {
    /// Something was done: there may be more to do.
    More,
    /// All that was to be said has been said.
    All,
    /// More has to come first.
    Waits,
}

impl Session {
    /// The server's side.
    ///
    /// # Errors
    /// The configuration is of no use.
    pub fn server(config: Arc<ServerConfig>) -> Result<Session, Error> {
        UnbufferedServerConnection::new(config).map(|server| Session::begun(Side::Server(server)))
    }

    /// The client's side, towards a server of this name.
    ///
    /// # Errors
    /// The configuration is of no use.
    pub fn client(config: Arc<ClientConfig>, name: ServerName<'static>) -> Result<Session, Error> {
        UnbufferedClientConnection::new(config, name).map(|client| Session::begun(Side::Client(client)))
    }

    fn begun(connection: Side) -> Session {
        Session {
            connection,
            partial: Vec::new(),
            incomplete_at: 0,
            outgoing: Vec::new(),
            spilled: Vec::new(),
            closed: false,
            broken: None,
        }
    }

    fn common(&self) -> &CommonState {
        match &self.connection {
            Side::Server(server) => server,
            Side::Client(client) => client,
        }
    }

    /// Whether the handshake is still under way.
    pub fn is_handshaking(&self) -> bool {
        self.common().is_handshaking()
    }

    /// Whether records wait to be sent.
    pub fn wants_write(&self) -> bool {
        !self.outgoing.is_empty() || self.common().wants_write()
    }

    /// Whether the handshake resumed an earlier session.
    pub fn is_resumed(&self) -> bool {
        self.common().handshake_kind() == Some(rustls::HandshakeKind::Resumed)
    }

    /// The version that was agreed.
    pub fn version(&self) -> Option<rustls::ProtocolVersion> {
        self.common().protocol_version()
    }

    /// The protocol that was agreed on by ALPN, if one was.
    pub fn protocol(&self) -> Option<Protocol> {
        self.common().alpn_protocol().and_then(Protocol::of_alpn)
    }

    /// The chain that the peer has shown and that was verified, its own certificate first; empty without one.
    pub fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.common().peer_certificates().unwrap_or_default()
    }

    /// Takes bytes of the wire, which are deciphered where they are. `take` is given the plaintext in order and says how much of
    /// it there was room for; the rest waits ([`Session::take_plaintext`]).
    ///
    /// # Errors
    /// The peer broke the protocol; an alert then waits to be sent.
    pub fn feed(&mut self, wire: &mut [u8], take: impl FnMut(&[u8]) -> usize) -> Result<Fed, Error> {
        if let Some(error) = &self.broken {
            return Err(Error::clone(error));
        }
        let fed = self.hear(wire, take);
        if let Err(error) = &fed {
            self.broken = Some(Box::new(error.clone()));
            self.partial = Vec::new();
        }
        fed
    }

    fn hear(&mut self, mut wire: &mut [u8], mut take: impl FnMut(&[u8]) -> usize) -> Result<Fed, Error> {
        while !wire.is_empty() && !self.closed {
            if self.partial.is_empty() {
                let used = self.advance(wire, &mut take)?;
                if !self.closed {
                    self.keep(&wire[used..])?;
                }
                break;
            }
            let (piece, behind) = wire.split_at_mut(self.lacks().min(wire.len()));
            wire = behind;
            self.keep(piece)?;
            let mut partial = std::mem::take(&mut self.partial);
            let used = self.advance(&mut partial, &mut take)?;
            self.let_go(partial, used);
        }
        Ok(Fed { closed: self.closed })
    }

    /// How many bytes complete the record that is not complete, or its header.
    fn lacks(&mut self) -> usize {
        loop {
            let begun = &self.partial[self.incomplete_at..];
            let [_, _, _, high, low, fragment @ ..] = begun else { return HEADER_BYTES - begun.len() };
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if fragment.len() < length {
                return length - fragment.len();
            }
            self.incomplete_at += HEADER_BYTES + length;
        }
    }

    fn keep(&mut self, wire: &[u8]) -> Result<(), Error> {
        if self.partial.len() + wire.len() > PARTIAL_BYTES_MAX {
            return Err(Error::General("a message that does not end".into()));
        }
        if let [_, _, _, high, low, fragment @ ..] = wire
            && self.partial.is_empty()
        {
            // One who has sent half of a record will send the rest; with less, no memory is held for it.
            let length = usize::from(u16::from_be_bytes([*high, *low]));
            if fragment.len() >= length / 2 {
                self.partial.reserve_exact(HEADER_BYTES + length.max(fragment.len()));
            }
        }
        self.partial.extend_from_slice(wire);
        Ok(())
    }

    /// Keeps what is behind the `used` bytes of what was kept.
    fn let_go(&mut self, mut partial: Vec<u8>, used: usize) {
        self.incomplete_at = self.incomplete_at.saturating_sub(used);
        if used < partial.len() && !self.closed {
            partial.drain(..used);
            self.partial = partial;
        }
    }

    /// Goes as far as `wire` leads; how many bytes of it are done with.
    fn advance(&mut self, wire: &mut [u8], take: &mut impl FnMut(&[u8]) -> usize) -> Result<usize, Error> {
        let mut used = 0;
        loop {
            let rest = &mut wire[used..];
            let Session { connection, spilled, outgoing, closed, .. } = &mut *self;
            let mut take = |plain: &[u8]| {
                let taken = if spilled.is_empty() && !plain.is_empty() { take(plain) } else { 0 };
                spilled.extend_from_slice(&plain[taken..]);
            };
            let nothing = Speech::Nothing;
            let (discard, said) = match connection {
                Side::Server(server) => {
                    follow(server.process_tls_records(rest), &nothing, &mut take, outgoing, closed)
                }
                Side::Client(client) => {
                    follow(client.process_tls_records(rest), &nothing, &mut take, outgoing, closed)
                }
            };
            used += discard;
            if let Said::Waits = said? {
                return Ok(used);
            }
        }
    }

    /// Moves decrypted bytes for which there was no room behind what `out` holds, as far as its capacity goes.
    pub fn take_plaintext(&mut self, out: &mut Vec<u8>) -> usize {
        let taken = self.spilled.len().min(out.capacity() - out.len());
        out.extend_from_slice(&self.spilled[..taken]);
        self.spilled.drain(..taken);
        if self.spilled.is_empty() {
            // A connection that goes idle holds no memory for what one feed brought.
            self.spilled = Vec::new();
        }
        taken
    }

    /// Encrypts `plain` behind what `wire` holds.
    ///
    /// # Errors
    /// The session cannot send any more.
    pub fn encrypt(&mut self, plain: &[u8], wire: &mut Vec<u8>) -> io::Result<()> {
        self.say(Speech::Data(plain), wire)
    }

    /// Moves records that wait to be sent behind what `wire` holds.
    pub fn take_wire(&mut self, wire: &mut Vec<u8>) {
        // A session that is broken has its alert to say, and has said so before.
        let _ = self.say(Speech::Nothing, wire);
    }

    /// Says that nothing more will be sent.
    pub fn close(&mut self) {
        let mut outgoing = std::mem::take(&mut self.outgoing);
        // Before hands are shaken, or once it is broken, it ends without a word.
        let _ = self.say(Speech::Close, &mut outgoing);
        self.outgoing = outgoing;
    }

    fn say(&mut self, mut speech: Speech<'_>, wire: &mut Vec<u8>) -> io::Result<()> {
        wire.append(&mut std::mem::take(&mut self.outgoing));
        if let Some(error) = &self.broken
            && !matches!(speech, Speech::Nothing)
        {
            return Err(io::Error::other(Error::clone(error)));
        }
        // What is here of a message goes with each question: rustls knows how far it has read in it.
        let mut partial = std::mem::take(&mut self.partial);
        let mut used = 0;
        let result = loop {
            if matches!(speech, Speech::Nothing | Speech::Data([])) && !self.common().wants_write() {
                break Ok(());
            }
            let Session { connection, spilled, closed, .. } = &mut *self;
            let rest = &mut partial[used..];
            let mut take = |plain: &[u8]| spilled.extend_from_slice(plain);
            let (discard, said) = match connection {
                Side::Server(server) => {
                    follow(server.process_tls_records(rest), &speech, &mut take, wire, closed)
                }
                Side::Client(client) => {
                    follow(client.process_tls_records(rest), &speech, &mut take, wire, closed)
                }
            };
            used += discard;
            match said {
                Ok(Said::More) => {}
                Ok(Said::All) => speech = Speech::Nothing,
                Ok(Said::Waits) => break Err(io::ErrorKind::NotConnected.into()),
                Err(error) => {
                    self.broken = Some(Box::new(error.clone()));
                    break Err(io::Error::other(error));
                }
            }
        };
        self.let_go(partial, used);
        result
    }

    /// Whether the peer has said that nothing more will come.
    pub fn has_closed(&self) -> bool {
        self.closed
    }

    /// Whether decrypted bytes wait to be taken.
    pub fn has_plaintext(&self) -> bool {
        !self.spilled.is_empty()
    }
}

/// Does what rustls asks for. How much of what has come is done with, and how far that has led.
fn follow<Data>(
    status: UnbufferedStatus<'_, '_, Data>,
    speech: &Speech<'_>,
    take: &mut impl FnMut(&[u8]),
    wire: &mut Vec<u8>,
    closed: &mut bool,
) -> (usize, Result<Said, Error>) {
    let UnbufferedStatus { mut discard, state } = status;
    let said = state.and_then(|state| match state {
        ConnectionState::ReadTraffic(mut records) => {
            while let Some(record) = records.next_record() {
                let record = record?;
                discard += record.discard;
                take(record.payload);
            }
            Ok(Said::More)
        }
        ConnectionState::EncodeTlsData(mut record) => {
            append(
                wire,
                0,
                |room| record.encode(room),
                |error| match error {
                    EncodeError::InsufficientSize(short) => Ok(short.required_size),
                    EncodeError::AlreadyEncoded => Err(Error::General(error.to_string())),
                },
            )?;
            Ok(Said::More)
        }
        ConnectionState::TransmitTlsData(sent) => {
            sent.done();
            Ok(Said::More)
        }
        ConnectionState::PeerClosed => {
            *closed = true;
            Ok(Said::More)
        }
        ConnectionState::WriteTraffic(mut traffic) => {
            let short = |error| match error {
                EncryptError::InsufficientSize(short) => Ok(short.required_size),
                EncryptError::EncryptExhausted => Err(Error::EncryptError),
            };
            match speech {
                Speech::Nothing => return Ok(Said::Waits),
                Speech::Data(plain) => {
                    let records = plain.len() / RECORD_BYTES_MAX + 1;
                    let room = plain.len() + records * RECORD_EXTRA + KEY_UPDATE_BYTES;
                    append(wire, room, |room| traffic.encrypt(plain, room), short)?;
                }
                Speech::Close => append(wire, RECORD_EXTRA, |room| traffic.queue_close_notify(room), short)?,
            }
            Ok(Said::All)
        }
        // No session of ours takes early data.
        _ => Ok(Said::Waits),
    });
    (discard, said)
}

/// Appends what `write` writes into the room that it is given: so much, and as much as it asks for if that is too little.
fn append<E>(
    wire: &mut Vec<u8>,
    mut room: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, E>,
    asks: impl Fn(E) -> Result<usize, Error>,
) -> Result<(), Error> {
    let begin = wire.len();
    loop {
        wire.resize(begin + room, 0);
        match write(&mut wire[begin..]) {
            Ok(written) => {
                wire.truncate(begin + written);
                return Ok(());
            }
            Err(error) => {
                wire.truncate(begin);
                let asked = asks(error)?;
                if asked <= room {
                    return Err(Error::General("there was room".into()));
                }
                room = asked;
            }
        }
    }
}

/// Lets the two shake hands, to the end or the first failure, whose alert still gets over. What became of our side and of
/// the peer's.
#[cfg(test)]
pub(super) fn shake_hands(
    ours: &mut Session,
    peer: &mut rustls::Connection,
) -> (Result<(), rustls::Error>, Result<(), rustls::Error>) {
    let (mut our_end, mut their_end) = (Ok(()), Ok(()));
    while ours.wants_write() || peer.wants_write() {
        let mut wire = Vec::new();
        ours.take_wire(&mut wire);
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
            our_end = ours.feed(&mut wire, |_| 0).map(|_| ());
        }
    }
    (our_end, their_end)
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, Write};
    use std::sync::Arc;

    use rustls::pki_types::ServerName;
    use rustls::{ClientConfig, ClientConnection, Connection, RootCertStore, ServerConfig, ServerConnection};

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
            let ours = Session::server(Arc::new(server)).expect("a server");
            let peer = ClientConnection::new(Arc::new(client), name()).expect("a client");
            Pair { ours, peer: peer.into() }.connected()
        }

        fn with_server(fragment: Option<usize>) -> Pair {
            let (client, mut server) = configs();
            server.max_fragment_size = fragment;
            let ours = Session::client(Arc::new(client), name()).expect("a client");
            let peer = ServerConnection::new(Arc::new(server)).expect("a server");
            Pair { ours, peer: peer.into() }.connected()
        }

        fn connected(mut self) -> Pair {
            self.peer.set_buffer_limit(None);
            let mut wire = Vec::new();
            while self.ours.is_handshaking() || self.peer.is_handshaking() || self.ours.wants_write() {
                self.ours.take_wire(&mut wire);
                read(&mut self.peer, &wire);
                wire.clear();
                while self.peer.wants_write() {
                    self.peer.write_tls(&mut wire).expect("a vector");
                }
                assert_eq!(self.given(&wire), Ok(Fed { closed: false }));
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

        /// Takes in what was received, and nothing out.
        fn given(&mut self, wire: &[u8]) -> Result<Fed, Error> {
            self.ours.feed(&mut wire.to_vec(), |_| 0)
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
                    assert_eq!(pair.given(receive), Ok(Fed { closed: false }));
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
                assert_eq!(pair.given(&wire), Ok(Fed { closed: false }));
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
            assert_eq!(pair.given(receive), Ok(Fed { closed: false }));
        }
        // Partly taken, then fed again: the order stays.
        let mut head = Vec::with_capacity(1_000);
        assert_eq!(pair.ours.take_plaintext(&mut head), 1_000);
        let wire = pair.sent([&*plain]);
        assert_eq!(pair.given(&wire), Ok(Fed { closed: false }));
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
                assert_eq!(pair.given(one), Ok(Fed { closed: false }));
                let mut taken = pair.taken(SMALL);
                assert_eq!(pair.given(two), Ok(Fed { closed: false }));
                taken.extend_from_slice(&pair.taken(SMALL));
                assert_eq!(taken, wanted, "cut at {cut}");
            }
            // Byte by byte.
            let mut taken = Vec::new();
            for byte in pair.sent(pieces).chunks(1) {
                assert_eq!(pair.given(byte), Ok(Fed { closed: false }));
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
            assert_eq!(pair.given(one), Ok(Fed { closed: false }));
            assert_eq!(pair.given(two), Ok(Fed { closed: false }));
            assert!(pair.taken(SMALL) == wanted, "cut at {cut}");
            // Every offset in the small records and at the edges of the full one.
            cut += if (10..RECORD).contains(&cut) { 61 } else { 1 };
        }
    }

    #[test]
    fn the_handshake_may_be_cut_anywhere() {
        for size in [1, 2, 5, 100, 1_000] {
            let (client, server) = configs();
            let mut ours = Session::server(Arc::new(server)).expect("a server");
            let mut peer = ClientConnection::new(Arc::new(client), name()).expect("a client");
            let mut wire = Vec::new();
            while peer.is_handshaking() || ours.is_handshaking() {
                while peer.wants_write() {
                    peer.write_tls(&mut wire).expect("a vector");
                }
                for part in wire.chunks(size) {
                    assert_eq!(ours.feed(&mut part.to_vec(), |_| 0), Ok(Fed { closed: false }));
                }
                wire.clear();
                ours.take_wire(&mut wire);
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
        assert_eq!(pair.given(&wire), Ok(Fed { closed: true }));
        assert!(pair.taken(SMALL) == [&*plain, b"last"].concat());
    }

    #[test]
    fn a_forged_record_is_an_error_with_an_alert_and_no_plaintext() {
        let mut pair = Pair::with_client(None);
        let mut wire = pair.sent([&b"hello"[..]]);
        let last = wire.len() - 1;
        wire[last] ^= 1;
        assert_eq!(pair.given(&wire), Err(Error::DecryptError));
        assert!(pair.ours.wants_write() && !pair.ours.has_plaintext());
        // It stays broken.
        let mut wire = Vec::new();
        pair.ours.take_wire(&mut wire);
        assert!(!wire.is_empty() && !pair.ours.wants_write(), "the alert");
        assert_eq!(pair.given(b"more"), Err(Error::DecryptError));
        assert!(pair.ours.encrypt(b"more", &mut Vec::new()).is_err());
        pair.ours.close();
        assert!(!pair.ours.wants_write());
    }

    #[test]
    fn plaintext_goes_where_there_is_room_and_the_rest_waits_in_order() {
        for (room, receive) in [(0, SMALL), (1, 700), (10, 3), (1_000, 20_000), (LARGE, SMALL)] {
            let mut pair = Pair::with_client(Some(FRAGMENT));
            let plain = bytes(3 * RECORD + 5);
            let mut taken = Vec::new();
            for piece in pair.sent([&*plain]).chunks(receive) {
                taken.extend_from_slice(&pair.taken(SMALL));
                let mut left = room;
                let take = |plain: &[u8]| {
                    assert!(!plain.is_empty(), "nothing is no plaintext");
                    let count = plain.len().min(left);
                    left -= count;
                    taken.extend_from_slice(&plain[..count]);
                    count
                };
                assert_eq!(pair.ours.feed(&mut piece.to_vec(), take), Ok(Fed { closed: false }));
            }
            taken.extend_from_slice(&pair.taken(SMALL));
            assert!(taken == plain, "room for {room}, {receive} at once");
            assert_eq!(pair.ours.partial.capacity(), 0, "all has come, so nothing is held");
        }
    }

    /// Tickets that take several records.
    #[derive(Debug)]
    struct LongTickets;

    impl rustls::server::ProducesTickets for LongTickets {
        fn enabled(&self) -> bool {
            true
        }

        fn lifetime(&self) -> u32 {
            60
        }

        fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
            Some(bytes(10 * FRAGMENT))
        }

        fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
            None
        }
    }

    #[test]
    fn we_speak_while_a_message_of_the_peer_is_not_complete() {
        let (client, mut server) = configs();
        server.max_fragment_size = Some(FRAGMENT);
        server.ticketer = Arc::new(LongTickets);
        let mut ours = Session::client(Arc::new(client), name()).expect("a client");
        let mut peer: Connection = ServerConnection::new(Arc::new(server)).expect("a server").into();
        let mut said = Vec::new();
        let mut rounds = 0;
        loop {
            let mut wire = Vec::new();
            ours.take_wire(&mut wire);
            if !ours.is_handshaking() {
                ours.encrypt(b"between", &mut wire).expect("hands are shaken");
                said.extend_from_slice(b"between");
            }
            let heard = read(&mut peer, &wire);
            assert!(said.ends_with(&heard));
            let mut wire = Vec::new();
            while peer.wants_write() {
                peer.write_tls(&mut wire).expect("a vector");
            }
            if wire.is_empty() {
                break;
            }
            // The flight, and then the tickets, byte by byte.
            for byte in wire {
                assert_eq!(ours.feed(&mut [byte], |_| 0), Ok(Fed { closed: false }));
                let mut wire = Vec::new();
                ours.take_wire(&mut wire);
                if !ours.is_handshaking() {
                    ours.encrypt(b"amid", &mut wire).expect("hands are shaken");
                    rounds += 1;
                }
                read(&mut peer, &wire);
            }
        }
        assert!(rounds > 10 * FRAGMENT, "{rounds}");
        assert_eq!(ours.partial.capacity(), 0);
    }

    #[test]
    fn a_message_that_does_not_end_is_refused() {
        let (_, server) = configs();
        let mut ours = Session::server(Arc::new(server)).expect("a server");
        // A ClientHello of 16 MiB, in records of one byte (RFC 8446 §5.1 lets them be so small).
        let mut error = None;
        for at in 0..200_000 {
            let byte = *[1, 0xff, 0xff, 0xff].get(at).unwrap_or(&0);
            if let Err(refused) = ours.feed(&mut [22, 3, 3, 0, 1, byte], |_| 0) {
                error = Some(refused);
                break;
            }
        }
        assert!(error.is_some());
        assert!(ours.partial.len() <= PARTIAL_BYTES_MAX);
    }

    #[test]
    fn nothing_more_is_said_as_it_should_be() {
        for mut pair in [Pair::with_client(None), Pair::with_server(None)] {
            pair.ours.close();
            let mut wire = Vec::new();
            pair.ours.take_wire(&mut wire);
            let mut rest = &wire[..];
            assert!(pair.peer.read_tls(&mut rest).expect("room") > 0 && rest.is_empty());
            assert!(pair.peer.process_new_packets().expect("in order").peer_has_closed());
            assert!(pair.ours.encrypt(b"more", &mut Vec::new()).is_err() || !pair.ours.wants_write());
        }
        // In the middle of a handshake there is nothing to end.
        let (client, _) = configs();
        let mut ours = Session::client(Arc::new(client), name()).expect("a client");
        ours.close();
        let mut wire = Vec::new();
        ours.take_wire(&mut wire);
        assert_eq!(wire.first(), Some(&22), "the hello that waited, and no alert");
    }

    #[test]
    fn the_peers_keys_may_change_and_what_we_say_may_be_long() {
        for tls12 in [false, true] {
            let (client, mut server) = configs();
            let version = if tls12 { &rustls::version::TLS12 } else { &rustls::version::TLS13 };
            server = ServerConfig::builder_with_provider(provider())
                .with_protocol_versions(&[version])
                .expect("a version")
                .with_no_client_auth()
                .with_cert_resolver(Arc::clone(&server.cert_resolver));
            let ours = Session::server(Arc::new(server)).expect("a server");
            let peer = ClientConnection::new(Arc::new(client), name()).expect("a client");
            let mut pair = Pair { ours, peer: peer.into() }.connected();
            let plain = bytes(20 * RECORD + 1);
            for _ in 0..3 {
                if !tls12 {
                    pair.peer.refresh_traffic_keys().expect("TLS 1.3");
                }
                let wire = pair.sent([&b"now"[..]]);
                assert_eq!(pair.given(&wire), Ok(Fed { closed: false }));
                assert_eq!(pair.taken(SMALL), b"now");
                let mut wire = Vec::new();
                pair.ours.encrypt(&plain, &mut wire).expect("a vector");
                assert!(pair.received(&wire) == plain);
            }
        }
    }
}
