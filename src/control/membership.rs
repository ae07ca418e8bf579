//! Keeps the members of all upstreams up to date: when a name resolves otherwise, the upstreams are asked anew. Compares the
//! members with each other, and tells the operator who is left out and who is in again.
//!
//! Not for who the members are: that is [`crate::upstream::members`]; nor for who is left out: [`crate::upstream::eject`].
//! Called by the snapshot's compiler for each new upstream, and by whatever changes what targets stand for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use super::process_log::{Code, Line};
use crate::upstream::breaker::State;
use crate::upstream::{NameTargets, Upstream, eject};

/// How often is looked for what is to be told.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A target failed so many requests that it is left out for a while.
pub const TARGET_OUT: Code = Code::new(6160, "target is left out, it failed requests");
/// It gets requests again.
pub const TARGET_IN: Code = Code::new(6161, "target gets requests again");
/// An upstream fails too often and is left alone.
pub const BREAKER_OPENED: Code = Code::new(6162, "upstream is left alone, too many requests failed");
/// Requests go to it again.
pub const BREAKER_CLOSED: Code = Code::new(6163, "upstream is asked again");

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

    /// Looks after them for as long as the runtime lives.
    pub async fn attend(self) {
        let mut told = Told::default();
        let mut compared_ms = 0;
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let now_ms = crate::sys::thread::monotonic_ns() / 1_000_000;
            let compares = now_ms >= compared_ms + eject::WINDOW_MS;
            if compares {
                compared_ms = now_ms;
            }
            let upstreams: Vec<Arc<Upstream>> = self.lock().iter().filter_map(Weak::upgrade).collect();
            for upstream in &upstreams {
                if compares {
                    upstream.judge.compare(&upstream.members(), &upstream.eject, now_ms);
                }
                told.look(upstream, now_ms);
            }
            told.forget(&upstreams);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Upstream>>> {
        self.upstreams.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the operator knows.
#[derive(Default)]
struct Told {
    /// By number of the member: whether it is up, times it was left out, and whether that it is in again was told.
    members: HashMap<u64, (bool, u32, bool)>,
    /// By number of the upstream: times its breaker opened, and whether that it closed was told.
    breakers: HashMap<u64, (u32, bool)>,
}

impl Told {
    fn look(&mut self, upstream: &Upstream, now_ms: u64) {
        for seat in &upstream.members().seats {
            let (member, record) = (&seat.member, &seat.member.record);
            let known = self.members.entry(member.number).or_insert((true, 0, true));
            let is_up = member.is_up();
            if is_up && !known.0 {
                // A probe found it well again: it warms up.
                record.comes_in(now_ms);
            }
            known.0 = is_up;
            let line = |code, warns: bool| {
                let line = if warns { Line::warn(code) } else { Line::info(code) };
                line.with("upstream", &upstream.name).with("target", member.name())
            };
            if record.total() != known.1 {
                let seconds = record.out_until_ms().saturating_sub(now_ms).div_ceil(1_000);
                line(TARGET_OUT, true).with("seconds", seconds).emit();
                (known.1, known.2) = (record.total(), false);
            } else if !known.2 && !record.is_out(now_ms) {
                line(TARGET_IN, false).emit();
                known.2 = true;
            }
        }
        if let Some(breaker) = &upstream.breaker {
            let known = self.breakers.entry(upstream.id).or_insert((0, true));
            if breaker.openings() != known.0 {
                Line::warn(BREAKER_OPENED).with("upstream", &upstream.name).emit();
                *known = (breaker.openings(), false);
            } else if !known.1 && breaker.state() == State::Closed {
                Line::info(BREAKER_CLOSED).with("upstream", &upstream.name).emit();
                known.1 = true;
            }
        }
    }

    /// Who is no member any more needs no place here.
    fn forget(&mut self, upstreams: &[Arc<Upstream>]) {
        let members: Vec<_> = upstreams.iter().map(|upstream| upstream.members()).collect();
        let count = members.iter().map(|members| members.seats.len()).sum::<usize>();
        if self.members.len() > count {
            let alive: std::collections::HashSet<u64> = members
                .iter()
                .flat_map(|members| members.seats.iter().map(|seat| seat.member.number))
                .collect();
            self.members.retain(|number, _| alive.contains(number));
        }
        self.breakers.retain(|id, _| upstreams.iter().any(|upstream| upstream.id == *id));
    }
}
