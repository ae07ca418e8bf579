//! One TLS session without IO: bytes of the wire in, bytes of the application out, and back.

use std::io::{self, BufRead, Write};

use rustls::{ClientConnection, Connection, ServerConnection};

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
