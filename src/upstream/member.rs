//! One server of an upstream: what all cores share of it.
//!
//! A member lives as long as somebody counts it among an upstream's, over reloads and over new answers of the resolver, so
//! that what is known of it is not lost: its health, its open connections, what it did to the last requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwapOption;

use crate::control::health;
use crate::http::Protocols;
use crate::observe::TargetId;
use crate::sys::address::Address;
use crate::tls::ClientProfile;
use crate::upstream::eject::Record;

/// Numbers the members of this process.
static NEXT: AtomicU64 = AtomicU64::new(1);

/// What makes two members the same.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct MemberKey {
    /// What logs and metrics call it: scheme, host and port.
    pub name: Box<str>,
    /// Where it is.
    pub address: Address,
    /// `host[:port]` for the `Host` field where the client's is not kept.
    pub authority: Box<str>,
    /// Tells apart whom it is trusted by; 0 is plain HTTP.
    pub trust: u64,
    /// What may be spoken to it.
    pub protocols: Protocols,
    /// How it is probed, if it is.
    pub probe: Option<Arc<health::Plan>>,
}

/// One server of an upstream.
pub struct Member {
    /// Unique in this process.
    pub number: u64,
    /// What makes it this one.
    pub key: MemberKey,
    /// How it is spoken to under TLS; `None` is plain HTTP.
    pub tls: Option<Arc<ClientProfile>>,
    /// What probes find, where it is probed; the control thread keeps it up to date.
    health: Option<Arc<health::Target>>,
    /// What it did to the last requests.
    pub record: Record,
    /// What the log and the metrics know it by, and what keeps that name its own.
    named: ArcSwapOption<(TargetId, Arc<()>)>,
    /// Connections open to it, all cores together.
    open: Arc<AtomicU32>,
    /// A core found no place for one more connection.
    wanted: AtomicBool,
}

impl std::fmt::Debug for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Member")
            .field("name", &self.key.name)
            .field("up", &self.is_up())
            .finish_non_exhaustive()
    }
}

impl Member {
    /// A member that has no connections.
    pub fn new(
        key: MemberKey,
        tls: Option<Arc<ClientProfile>>,
        health: Option<Arc<health::Target>>,
    ) -> Member {
        Member {
            number: NEXT.fetch_add(1, Ordering::Relaxed),
            key,
            tls,
            health,
            record: Record::default(),
            named: ArcSwapOption::empty(),
            open: Arc::new(AtomicU32::new(0)),
            wanted: AtomicBool::new(false),
        }
    }

    /// What logs and metrics call it.
    pub fn name(&self) -> &str {
        &self.key.name
    }

    /// Whether probes find it in order; so it is where nobody probes.
    pub fn is_up(&self) -> bool {
        self.health.as_ref().is_none_or(|health| health.is_up())
    }

    /// Whether requests may go to it.
    pub fn is_available(&self, now_ms: u64) -> bool {
        self.is_up() && !self.record.is_out(now_ms)
    }

    /// What the log and the metrics know it by.
    pub fn target(&self) -> TargetId {
        self.named.load().as_ref().map_or(TargetId::NONE, |named| named.0)
    }

    /// Whether it has an id already.
    pub fn is_named(&self) -> bool {
        self.named.load().is_some()
    }

    /// Gives it its id; `alive` keeps it from being given to another.
    pub fn name_it(&self, target: TargetId, alive: Arc<()>) {
        self.named.store(Some(Arc::new((target, alive))));
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

    /// How many whole quarters of the places for connections are taken, idle ones included.
    pub fn quarters_taken(&self, most: u32) -> u32 {
        let taken = u64::from(self.open.load(Ordering::Relaxed)) * 4 / u64::from(most.max(1));
        u32::try_from(taken).unwrap_or(u32::MAX)
    }

    /// A core has no place for a connection, and none that it could let go of.
    pub fn want(&self) {
        self.wanted.store(true, Ordering::Relaxed);
    }

    /// Whether some core has found no place since somebody asked last.
    pub fn is_wanted(&self) -> bool {
        self.wanted.load(Ordering::Relaxed) && self.wanted.swap(false, Ordering::Relaxed)
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
pub(super) fn of_port(port: u16) -> Arc<Member> {
    let key = MemberKey {
        name: format!("http://127.0.0.1:{port}").into(),
        address: std::net::SocketAddr::from(([127, 0, 0, 1], port)).into(),
        authority: format!("127.0.0.1:{port}").into(),
        trust: 0,
        protocols: Protocols::HTTP1,
        probe: None,
    };
    Arc::new(Member::new(key, None, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cap_holds_and_places_come_back() {
        let member = of_port(1);
        let first = member.admit(2).expect("one");
        let _second = member.admit(2).expect("two");
        assert!(member.admit(2).is_none());
        assert_eq!(member.open(), 2);
        drop(first);
        assert!(member.admit(2).is_some());
    }
}
