//! Connections that end without a request that could tell of it: turned away, failed or stuck in their handshake, silent,
//! let go. Each is counted under its reason; of each core a hundred a second have a record in the access log, and the
//! control thread sums them up in the process log, with addresses ([`crate::control::guard`]).
//!
//! Not for: requests (they have records of their own), ends that are nobody's fault (a client that leaves between two
//! requests, a health check that connects and goes). Called by the accept loop and the codecs.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::accept::pressure::CONNECTION_SPARED;
use crate::http::Reason;
use crate::policy::admit::blocks::ADDRESS_BLOCKED;
use crate::worker::core::Core;
use crate::worker::transport::Agreed;
use crate::worker::{Deadline, Socket};

/// A connection was opened and nothing asked on it.
pub const CLIENT_SILENT: Reason =
    Reason::client("client_silent", 2210, 408, "The connection was opened and nothing asked");
/// The client left in the middle of its TLS handshake.
pub const CLIENT_HANDSHAKE_LEFT: Reason =
    Reason::client("client_handshake_left", 2211, 499, "The client left in the TLS handshake");
/// The TLS handshake failed.
pub const CLIENT_HANDSHAKE_FAILED: Reason =
    Reason::client("client_handshake_failed", 2212, 400, "The TLS handshake failed");
/// What came first is no ClientHello.
pub const CLIENT_HELLO: Reason =
    Reason::client("client_hello", 2213, 400, "What came first is no TLS ClientHello");
/// The client asks by TLS for a host that is not served.
pub const CLIENT_SERVER_NAME: Reason =
    Reason::client("client_server_name", 2214, 421, "The host named in the TLS handshake is not served here");
/// The client and the listener have no protocol in common.
pub const CLIENT_ALPN: Reason =
    Reason::client("client_alpn", 2218, 400, "The client speaks no protocol that is spoken here");

/// Reasons that are counted apart between two looks of the control thread; more are counted in the metrics only.
const KINDS: usize = 64;
/// Addresses that wait to be told of.
const NOTICES: usize = 256;

/// One connection that has ended.
#[derive(Clone, Copy, Debug)]
pub struct Notice {
    /// Why.
    pub reason: Reason,
    /// Whose it was.
    pub address: IpAddr,
}

/// What the cores have to tell the control thread of connections that have ended.
#[derive(Debug)]
pub struct Ends {
    /// Code and count; a slot belongs to the first code that comes.
    counts: [(AtomicU16, AtomicU64); KINDS],
    notices: ArrayQueue<Notice>,
}

impl Default for Ends {
    fn default() -> Ends {
        Ends {
            counts: std::array::from_fn(|_| (AtomicU16::new(0), AtomicU64::new(0))),
            notices: ArrayQueue::new(NOTICES),
        }
    }
}

impl Ends {
    /// Counts one. A full queue loses an address, never a count.
    pub fn tell(&self, reason: &Reason, address: IpAddr) {
        for (code, count) in &self.counts {
            let found = match code.compare_exchange(0, reason.code, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => reason.code,
                Err(found) => found,
            };
            if found == reason.code {
                count.fetch_add(1, Ordering::Relaxed);
                break;
            }
        }
        let _ = self.notices.push(Notice { reason: *reason, address });
    }

    /// Codes and how many there were since the start.
    pub fn counts(&self) -> impl Iterator<Item = (u16, u64)> + '_ {
        let counts = self.counts.iter();
        counts
            .map(|(code, count)| (code.load(Ordering::Relaxed), count.load(Ordering::Relaxed)))
            .take_while(|(code, _)| *code != 0)
    }

    /// Takes an address that was told of.
    pub fn next_notice(&self) -> Option<Notice> {
        self.notices.pop()
    }
}

/// A connection as far as it is known when it ends.
#[derive(Clone, Copy, Debug)]
pub struct Visit {
    /// The other end.
    pub peer: SocketAddr,
    /// The listener, by its id.
    pub listener: u32,
    /// How long it was there, in milliseconds.
    pub duration_ms: u64,
    /// What was agreed about TLS.
    pub agreed: Agreed,
}

impl Visit {
    /// One that has just come.
    pub fn begun(peer: SocketAddr, listener: u32) -> Visit {
        Visit { peer, listener, duration_ms: 0, agreed: Agreed::default() }
    }
}

/// Why we have ended a connection that was shaking hands or announcing somebody, if we have: `late` where its time was up.
pub fn cause(socket: &Socket, late: Reason) -> Option<Reason> {
    match socket.expired()? {
        Deadline::Handshake => Some(late),
        Deadline::Spared => Some(CONNECTION_SPARED),
        Deadline::Blocked => Some(ADDRESS_BLOCKED),
        _ => None,
    }
}

/// Tells that a connection has ended, and why.
#[cold]
pub fn tell(core: &Core, visit: &Visit, reason: &Reason) {
    core.node.ends.tell(reason, visit.peer.ip());
    let view = core.view();
    let now_ns = core.clock.now_ns();
    core.state.borrow_mut().record_end(visit, reason, &view.snapshot, core.clock.unix_ns(now_ns));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_kept_by_code_and_addresses_as_far_as_there_is_room() {
        let ends = Ends::default();
        let address = |number: u16| IpAddr::from([10, 0, (number >> 8) as u8, number as u8]);
        for number in 0..1_000 {
            ends.tell(&CLIENT_SILENT, address(number));
        }
        ends.tell(&CLIENT_HELLO, address(7));
        let counts: Vec<_> = ends.counts().collect();
        assert_eq!(counts, [(CLIENT_SILENT.code, 1_000), (CLIENT_HELLO.code, 1)]);
        let told: Vec<_> = std::iter::from_fn(|| ends.next_notice()).collect();
        assert_eq!(told.len(), NOTICES);
        assert_eq!((told[0].address, told[0].reason.code), (address(0), CLIENT_SILENT.code));
    }

    #[test]
    fn more_kinds_than_slots_do_no_harm() {
        let ends = Ends::default();
        for code in 1..100 {
            ends.tell(&Reason::client("test", code, 400, ""), IpAddr::from([10, 0, 0, 1]));
        }
        assert_eq!(ends.counts().count(), KINDS);
    }
}
