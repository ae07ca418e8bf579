//! The backend's WebSocket: every frame goes back as it came, unmasked.
//!
//! Called by `backend`, once a request has asked for it over HTTP/1.1. Not for: putting messages together, judging them.

use std::io;

use super::Transport;
use crate::websocket::{CLOSE, HEAD_BYTES_MAX, Head, PING, PONG, accept, unmask};

/// Bytes that the socket did not take, beyond which a client is of no use: it sends and does not read.
const OUTPUT_BYTES_MAX: usize = 8 << 20;

/// The frames of a connection.
#[derive(Default)]
pub struct Echo {
    /// A head of which the end has not come yet.
    partial: Vec<u8>,
    /// The mask of the frame that comes, how much of its payload came, and how much is to come.
    payload: Option<([u8; 4], u64, u64)>,
    closing: bool,
    output: Vec<u8>,
    sent: usize,
}

impl Echo {
    /// The answer to a request with this key.
    pub fn welcome(key: &[u8]) -> Vec<u8> {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {}\r\n\r\n",
            accept(key)
        )
        .into_bytes()
    }

    /// Takes bytes and sends them back.
    ///
    /// # Errors
    /// The socket failed, the client ended, or what came is no frame of a client.
    pub fn receive(&mut self, mut bytes: &[u8], transport: &mut Transport) -> io::Result<()> {
        while !bytes.is_empty() && !self.closing {
            if let Some((mask, before, left)) = self.payload {
                let now = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                let at = self.output.len();
                self.output.extend_from_slice(&bytes[..now]);
                unmask(&mut self.output[at..], mask, before);
                bytes = &bytes[now..];
                let left = left - now as u64;
                self.payload = (left > 0).then_some((mask, before + now as u64, left));
                continue;
            }
            let have = self.partial.len();
            let more = bytes.len().min(HEAD_BYTES_MAX - have);
            self.partial.extend_from_slice(&bytes[..more]);
            let Some((head, used)) = Head::parse(&self.partial) else {
                bytes = &bytes[more..];
                continue;
            };
            self.partial.clear();
            bytes = &bytes[used - have..];
            let Some(mask) = head.mask else { return Err(io::ErrorKind::InvalidData.into()) };
            let opcode = if head.opcode == PING { PONG } else { head.opcode };
            Head { opcode, mask: None, ..head }.push(&mut self.output);
            self.payload = (head.length > 0).then_some((mask, 0, head.length));
            self.closing = head.opcode == CLOSE;
            if self.closing {
                // What it says is not looked at; the code goes back where it came at once.
                self.output.truncate(self.output.len() - 2);
                Head { fin: true, opcode: CLOSE, mask: None, length: 0 }.push(&mut self.output);
            }
        }
        self.send(transport)?;
        if self.closing || self.output.len() - self.sent > OUTPUT_BYTES_MAX {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(())
    }

    /// Sends what the socket takes.
    ///
    /// # Errors
    /// The socket failed.
    pub fn send(&mut self, transport: &mut Transport) -> io::Result<()> {
        while self.sent < self.output.len() {
            match transport.write(&self.output[self.sent..]) {
                Ok(n) => self.sent += n,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.output.clear();
        self.sent = 0;
        Ok(())
    }
}
