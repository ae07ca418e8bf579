//! What a node that runs out of memory, descriptors or connections does about it, and when it stops doing so.
//!
//! The control thread measures ([`crate::control::guard`]) and writes here; the cores read. Past 90 % of a bound nobody is
//! accepted until less than 85 % is used, so that what is left serves those who are in; connections that do nothing are let
//! go by rank and age ([`Patience`]), the more so the worse it stands; past 95 % no body is held for policies any more.
//! Near the bound on connections everything is as near the others, but accepting goes on: each new connection lets go of
//! the one that has been silent for longest.
//!
//! Not for: how many connections there may be ([`super::caps`]), nor reading the system. Cost: relaxed loads ten times a
//! second and per accepted batch; nothing per request.

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU8, AtomicU64, Ordering};

use crate::accept::caps::Bounds;
use crate::http::Reason;

/// An idle connection was let go because the node needed the room.
pub const CONNECTION_SPARED: Reason =
    Reason::ringwall("connection_spared", 2208, 503, "The node needed the room of an idle connection");
/// The node is short of memory and holds no more bodies.
pub const MEMORY_SHORT: Reason = Reason::ringwall("memory_short", 2209, 503, "The node is short of memory");

/// With fewer connections than this a node accepts, however little memory it has: they are not what takes it.
pub const CONNECTIONS_ALWAYS: u32 = 16;

/// How near its bound something is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// Below 90 %.
    #[default]
    Easy,
    /// From 90 %, until it is below 85 % again.
    Short,
    /// From 95 %.
    Critical,
}

impl Level {
    /// The level of `used` out of `bound` after `self`.
    #[must_use]
    pub fn next(self, used: u64, bound: u64) -> Level {
        let percent = u128::from(used) * 100 / u128::from(bound.max(1));
        match percent {
            95.. => Level::Critical,
            90.. => Level::Short,
            85.. if self > Level::Easy => Level::Short,
            _ => Level::Easy,
        }
    }

    fn from_number(number: u8) -> Level {
        match number {
            0 => Level::Easy,
            1 => Level::Short,
            _ => Level::Critical,
        }
    }
}

/// Something that a node may run out of.
#[derive(Debug, Default)]
pub struct Resource {
    used: AtomicU64,
    bound: AtomicU64,
    level: AtomicU8,
}

impl Resource {
    /// Writes what is used out of what there is (0: nobody knows); the levels before and after.
    pub fn measure(&self, used: u64, bound: u64) -> (Level, Level) {
        let before = self.level();
        let level = if bound == 0 { Level::Easy } else { before.next(used, bound) };
        self.used.store(used, Ordering::Relaxed);
        self.bound.store(bound, Ordering::Relaxed);
        self.level.store(level as u8, Ordering::Relaxed);
        (before, level)
    }

    /// How it stands.
    pub fn level(&self) -> Level {
        Level::from_number(self.level.load(Ordering::Relaxed))
    }

    /// What was used when it was last measured, and out of how much.
    pub fn figures(&self) -> (u64, u64) {
        (self.used.load(Ordering::Relaxed), self.bound.load(Ordering::Relaxed))
    }
}

/// How a node stands.
#[derive(Debug)]
pub struct Pressure {
    /// Memory, in bytes.
    pub memory: Resource,
    /// Descriptors.
    pub descriptors: Resource,
    memory_wanted: AtomicU64,
    /// Bytes that may still be taken for bodies that are held until memory is measured again.
    room: AtomicI64,
    paused: AtomicBool,
}

impl Default for Pressure {
    fn default() -> Pressure {
        Pressure {
            memory: Resource::default(),
            descriptors: Resource::default(),
            memory_wanted: AtomicU64::new(0),
            room: AtomicI64::new(i64::MAX / 2),
            paused: AtomicBool::new(false),
        }
    }
}

impl Pressure {
    /// Decides, after a measurement, whether anybody is accepted while `open` connections are there.
    pub fn decide(&self, open: u32) {
        let short = self.worst() > Level::Easy;
        self.paused.store(short && open >= CONNECTIONS_ALWAYS, Ordering::Relaxed);
    }

    /// Writes what memory is used out of what there is, as [`Resource::measure`] does, and how much may be taken until this is
    /// called again: as much as is left below 95 %.
    pub fn measure_memory(&self, used: u64, bound: u64) -> (Level, Level) {
        let left = (u128::from(bound) * 95 / 100).saturating_sub(u128::from(used));
        self.room.store(i64::try_from(left).unwrap_or(i64::MAX).min(i64::MAX / 2), Ordering::Relaxed);
        self.memory.measure(used, bound)
    }

    /// Takes `bytes` of the memory that is left, for a body that is held. However fast bodies grow, together they never grow
    /// past what was left when it was last measured.
    ///
    /// # Errors
    /// [`MEMORY_SHORT`]: so much is not left.
    pub fn take_room(&self, bytes: usize) -> Result<(), Reason> {
        let bytes = i64::try_from(bytes).unwrap_or(i64::MAX / 4);
        match self.room.fetch_sub(bytes, Ordering::Relaxed) >= bytes {
            true => Ok(()),
            false => {
                self.room.fetch_add(bytes, Ordering::Relaxed);
                Err(MEMORY_SHORT)
            }
        }
    }

    /// Names the memory that the process is to have, in bytes; 0 leaves that to the system.
    pub fn want_memory(&self, bytes: u64) {
        self.memory_wanted.store(bytes, Ordering::Relaxed);
    }

    /// The memory that the process is to have, in bytes; 0: the system says.
    pub fn memory_wanted(&self) -> u64 {
        self.memory_wanted.load(Ordering::Relaxed)
    }

    /// Whether nobody is accepted for now.
    pub fn is_paused(&self) -> bool {
        self.paused.load(Ordering::Relaxed)
    }

    /// The worse level of the two.
    pub fn worst(&self) -> Level {
        self.memory.level().max(self.descriptors.level())
    }

    /// What is short, for people; `None` while nothing is.
    pub fn told(&self) -> Option<&'static str> {
        match (self.memory.level() > Level::Easy, self.descriptors.level() > Level::Easy) {
            (true, _) => Some("memory"),
            (_, true) => Some("descriptors"),
            _ => None,
        }
    }
}

/// How long connections that do nothing are borne with, in milliseconds, by rank: an attacker who holds idle connections has
/// the first rank for nothing and the last one for nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// With one that has not asked for anything yet.
    pub silent_ms: u64,
    /// With one whose last request came from nobody known.
    pub idle_ms: u64,
    /// With one whose last request had an identity.
    pub known_ms: u64,
    /// How many are let go in one tick at most.
    pub most: usize,
}

impl Patience {
    /// What a core that has `on_core` connections bears, as the node stands; `None`: all there is.
    pub fn of(pressure: &Pressure, bounds: &Bounds, open: u32, on_core: usize) -> Option<Patience> {
        let crowd = |count: u64, most: u32| Level::Easy.next(count, u64::from(most));
        let crowded = crowd(u64::from(open), bounds.all).max(crowd(on_core as u64, bounds.core));
        let short = pressure.worst();
        // What is needed to be below the mark again, and always a share of it, since the other cores do theirs.
        let over = |count: u64, most: u32| count.saturating_sub(u64::from(most) * 9 / 10) as usize;
        let surplus = over(u64::from(open), bounds.all).max(over(on_core as u64, bounds.core));
        match (short, crowded) {
            (Level::Critical, _) => {
                Some(Patience { silent_ms: 0, idle_ms: 1_000, known_ms: 5_000, most: on_core.div_ceil(4) })
            }
            (Level::Short, _) => Some(Patience {
                silent_ms: 1_000,
                idle_ms: 5_000,
                known_ms: 30_000,
                most: on_core.div_ceil(8),
            }),
            // Who is known is never let go for who comes.
            (_, Level::Critical) => {
                Some(Patience { silent_ms: 1_000, idle_ms: 1_000, known_ms: u64::MAX, most: surplus })
            }
            (_, Level::Short) => {
                Some(Patience { silent_ms: 10_000, idle_ms: 20_000, known_ms: u64::MAX, most: surplus })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_is_left_later_than_it_is_entered() {
        let levels = |percents: &[u64]| {
            let mut level = Level::Easy;
            percents
                .iter()
                .map(|percent| {
                    level = level.next(*percent, 100);
                    level
                })
                .collect::<Vec<_>>()
        };
        use Level::{Critical, Easy, Short};
        assert_eq!(levels(&[89, 90, 89, 85, 84, 89]), [Easy, Short, Short, Short, Easy, Easy]);
        assert_eq!(levels(&[94, 95, 94, 85, 84]), [Short, Critical, Short, Short, Easy]);
        assert_eq!(Easy.next(u64::MAX, 1), Critical);
        assert_eq!(Easy.next(0, 0), Easy);
    }

    #[test]
    fn a_node_with_hardly_a_connection_accepts_however_it_stands() {
        let pressure = Pressure::default();
        assert_eq!(pressure.memory.measure(96, 100), (Level::Easy, Level::Critical));
        pressure.decide(CONNECTIONS_ALWAYS - 1);
        assert!(!pressure.is_paused());
        pressure.decide(CONNECTIONS_ALWAYS);
        assert!(pressure.is_paused());
        assert_eq!(pressure.told(), Some("memory"));
        assert_eq!(pressure.memory.measure(84, 100), (Level::Critical, Level::Easy));
        pressure.decide(1_000);
        assert!(!pressure.is_paused());
        assert_eq!((pressure.told(), pressure.memory.figures()), (None, (84, 100)));
        // What nobody can measure stops nobody.
        assert_eq!(pressure.descriptors.measure(5, 0).1, Level::Easy);
    }

    #[test]
    fn bodies_take_what_is_left_and_no_more() {
        let pressure = Pressure::default();
        assert_eq!(pressure.take_room(1 << 40), Ok(()), "nobody has measured yet");
        pressure.measure_memory(900, 1_000);
        assert_eq!(pressure.take_room(30), Ok(()));
        assert_eq!(pressure.take_room(30), Err(MEMORY_SHORT));
        assert_eq!(pressure.take_room(20), Ok(()), "who was refused took nothing");
        pressure.measure_memory(980, 1_000);
        assert_eq!((pressure.take_room(1), pressure.take_room(0)), (Err(MEMORY_SHORT), Ok(())));
    }

    #[test]
    fn the_worse_it_stands_the_less_is_borne_and_who_is_known_comes_last() {
        let bounds = Bounds { all: 100, core: 60, address: 25 };
        let pressure = Pressure::default();
        let of = |open, on_core| Patience::of(&pressure, &bounds, open, on_core);
        assert_eq!(of(89, 53), None);
        let near = of(92, 30).expect("near its bound");
        let at = of(99, 30).expect("at its bound");
        assert_eq!((near.most, at.most), (2, 9));
        assert!(at.silent_ms < near.silent_ms && at.idle_ms < near.idle_ms);
        assert_eq!((near.known_ms, at.known_ms), (u64::MAX, u64::MAX));
        assert_eq!(of(60, 57).expect("the core is near its own").most, 3);
        pressure.memory.measure(91, 100);
        let short = of(10, 8).expect("memory is short");
        assert!(short.silent_ms < short.idle_ms && short.idle_ms < short.known_ms);
        assert_eq!(short.most, 1);
        pressure.memory.measure(99, 100);
        assert!(of(10, 8).expect("critical").known_ms < short.known_ms);
    }
}
