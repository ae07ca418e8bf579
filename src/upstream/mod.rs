//! Forwarding: which target, over which connection.
//!
//! An [`Upstream`] is shared by the cores and outlives reloads that do not change it; what is done with it is per core
//! ([`pool::CoreUpstream`]): idle connections, requests in flight, the turn of the round robin. The only shared words are
//! the count of open connections per target, touched when one is opened or closed, and the health flag.

pub mod balance;
pub mod connect;
pub mod pool;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::control::{dns, health};

/// How a target is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// Each in turn.
    #[default]
    RoundRobin,
    /// The one of two random ones with fewer requests in flight on this core.
    LeastRequest,
}

/// A group of interchangeable targets.
#[derive(Debug)]
pub struct Upstream {
    /// Unique in this process: cores keep their pools by it.
    pub id: u64,
    /// The name in the configuration.
    pub name: Box<str>,
    /// Where requests go.
    pub targets: Vec<Target>,
    /// How one is chosen.
    pub balance: Balance,
    /// Timeouts in milliseconds.
    pub timeouts: Timeouts,
    /// Most connections per target, all cores together.
    pub connections_max: u32,
    /// Most idle connections per target and core.
    pub idle_max: usize,
}

/// Timeouts of connections to an upstream, in milliseconds; those of an exchange are its operation's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Connecting, TLS included. Default 2 s.
    pub connect: u64,
    /// A kept connection without a request. Default 50 s.
    pub idle: u64,
}

impl Default for Timeouts {
    fn default() -> Timeouts {
        Timeouts { connect: 2_000, idle: 50_000 }
    }
}

/// Where a target is.
pub enum Place {
    /// At an address.
    Fixed(SocketAddr),
    /// Where its name points to now: the control thread resolves it.
    Named(Arc<dns::Addresses>, u16),
    /// Nobody resolves its name: a configuration that is only checked.
    Nowhere,
}

/// One address of an upstream.
pub struct Target {
    /// The URL as written, for logs and metrics.
    pub name: Box<str>,
    /// `host[:port]` for the `Host` field where the client's is not kept.
    pub authority: Box<[u8]>,
    /// Where it is.
    pub place: Place,
    /// How it is spoken to under TLS; `None` is plain HTTP.
    pub tls: Option<Arc<crate::tls::ClientProfile>>,
    /// What probes find, where it is probed; the control thread keeps it up to date.
    pub health: Option<Arc<health::Target>>,
    /// Whether it is up, where it is not probed.
    pub up: AtomicBool,
    /// Connections open to it, all cores together.
    open: Arc<AtomicU32>,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("name", &self.name).field("up", &self.is_up()).finish_non_exhaustive()
    }
}

impl Target {
    /// A target that is up and has no connections.
    pub fn new(
        name: &str,
        authority: &str,
        place: Place,
        tls: Option<Arc<crate::tls::ClientProfile>>,
        health: Option<Arc<health::Target>>,
    ) -> Target {
        Target {
            name: name.into(),
            authority: authority.as_bytes().into(),
            place,
            tls,
            health,
            up: AtomicBool::new(true),
            open: Arc::new(AtomicU32::new(0)),
        }
    }

    /// Whether probes find it in order.
    pub fn is_up(&self) -> bool {
        self.health.as_ref().map_or_else(|| self.up.load(Ordering::Relaxed), |health| health.is_up())
    }

    /// Its addresses as of now, one by one.
    pub fn address(&self, index: usize) -> Option<SocketAddr> {
        match &self.place {
            Place::Fixed(address) => (index == 0).then_some(*address),
            Place::Named(addresses, port) => {
                addresses.current().get(index).map(|address| SocketAddr::new(*address, *port))
            }
            Place::Nowhere => None,
        }
    }

    /// Takes a place for one more connection, if the cap allows it.
    pub fn admit(&self, most: u32) -> Option<Permit> {
        // One read-modify-write per connection, never per request.
        if self.open.fetch_add(1, Ordering::Relaxed) < most {
            return Some(Permit { open: Arc::clone(&self.open) });
        }
        self.open.fetch_sub(1, Ordering::Relaxed);
        None
    }

    /// Connections open to it now, all cores together.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }
}

/// The right to one open connection; given back when it is dropped.
#[derive(Debug)]
pub struct Permit {
    open: Arc<AtomicU32>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_holds_and_places_come_back() {
        let target = Target::new("http://a", "a", Place::Nowhere, None, None);
        let first = target.admit(2).expect("one");
        let _second = target.admit(2).expect("two");
        assert!(target.admit(2).is_none());
        assert_eq!(target.open(), 2);
        drop(first);
        assert!(target.admit(2).is_some());
    }
}
