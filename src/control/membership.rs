//! Keeps the members of all upstreams up to date: when a name resolves otherwise, the upstreams are asked anew.
//!
//! Not for who the members are: that is [`crate::upstream::members`]. Called by the snapshot's compiler for each new
//! upstream, and by whatever changes what targets stand for.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::upstream::{NameTargets, Upstream};

/// All upstreams whose members may change. One for the node.
#[derive(Clone)]
pub struct Membership {
    name: NameTargets,
    upstreams: Arc<Mutex<Vec<Weak<Upstream>>>>,
}

impl Membership {
    /// Nobody yet.
    pub fn new(name: NameTargets) -> Membership {
        Membership { name, upstreams: Arc::default() }
    }

    /// Keeps the members of `upstream` up to date for as long as it lives.
    pub fn keep(&self, upstream: &Arc<Upstream>) {
        self.lock().push(Arc::downgrade(upstream));
        self.refresh();
    }

    /// Looks anew who the members of all upstreams are. Whether anything changed.
    pub fn refresh(&self) -> bool {
        let mut upstreams = self.lock();
        upstreams.retain(|upstream| upstream.strong_count() > 0);
        let mut changed = false;
        for upstream in upstreams.iter().filter_map(Weak::upgrade) {
            changed |= upstream.refresh(&self.name);
        }
        changed
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Upstream>>> {
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
