//! Cells: the states of keys in a table of fixed size, lock-free and set-associative, shared by all cores.
//!
//! # Layout
//! A *cell* is one 128-bit word, `fingerprint << 64 | state`, changed only by a 128-bit compare-and-swap, so
//! that no core can change a cell that another has re-keyed. A *set* is eight words on one pair of cache
//! lines: seven cells and the *gate*, which holds the set's insert bit and the state of its overflow. A
//! fingerprint names two sets, its home and its refuge; the key lives in one cell of one of them, at home unless
//! that is crowded. It never lives in two, since it is only put anywhere by the holder of its home's insert bit,
//! after having looked again. The bit is held for one scan and one store; keys that have a cell never wait for it.
//!
//! # Bounds
//! Memory is what [`Cells::new`] is given, resident as it is used. What a state means, and when a cell is as good
//! as none, so that another key may have it, is the affair of who asks: [`super::table`] keeps arrival times,
//! [`super::counts`] numbers of requests.
//!
//! # Cost
//! A search is one scan of a line pair, seldom of two. O(1), no allocation.

use std::{fmt, sync::atomic::Ordering};

use portable_atomic::AtomicU128;

use super::fingerprint::{Fingerprint, FingerprintKey, LimitId};
use crate::sys::zeroed::{LinePair, zeroed_line_pairs};

/// Cells of a set, beside its gate.
pub(super) const CELLS: usize = 7;
/// The word of a set that holds the insert bit and the state of the overflow.
pub(super) const GATE: usize = 7;
/// In the upper half of the gate: somebody is inserting.
const INSERT_BIT: u128 = 1 << 64;
/// As long as fewer cells of its home are in use, a new key does not look at its refuge.
const CROWDED: usize = 5;
/// The sets that [`Cells::used_ratio`] looks at.
const SAMPLE_SETS: usize = 1024;

/// A table of cells; see the module. `M` is the memory it lives in: real cache lines, except in the models that
/// check its interleavings.
pub struct Cells<M = CacheLines> {
    memory: M,
    key: FingerprintKey,
}

/// Where a cell is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) set: usize,
    pub(super) cell: usize,
}

/// Words of 128 bits in sets of eight, zero at first, shared by all cores.
pub trait Memory {
    /// The number of sets, at least 1.
    fn sets(&self) -> usize;
    /// The word, with acquire ordering.
    fn load(&self, set: usize, word: usize) -> u128;
    /// Replaces the word if it is `old` (acquire and release); otherwise what it is.
    ///
    /// # Errors
    /// The word as it was seen.
    fn compare_exchange(&self, set: usize, word: usize, old: u128, new: u128) -> Result<(), u128>;
    /// Waits a little for another core, for the `turn`th time in a row.
    fn wait(&self, turn: u32);
}

/// The memory of a real table.
pub struct CacheLines(Box<[LinePair]>);

impl Cells {
    /// Cells in at most `bytes` (at least one set of 128).
    pub(super) fn new(bytes: usize, key: FingerprintKey) -> Cells {
        Cells { memory: CacheLines(zeroed_line_pairs((bytes / size_of::<LinePair>()).max(1))), key }
    }

    /// Whether this machine changes 128 bits without a lock.
    pub(super) fn is_lock_free() -> bool {
        AtomicU128::is_lock_free()
    }
}

impl<M: Memory> Cells<M> {
    /// Cells in a given memory.
    pub(super) fn in_memory(memory: M, key: FingerprintKey) -> Cells<M> {
        Cells { memory, key }
    }

    /// The memory that is held, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.memory.sets() * size_of::<LinePair>()
    }

    /// The keys that can have a cell at once, at most.
    pub(super) fn capacity(&self) -> usize {
        self.memory.sets() * CELLS
    }

    #[inline]
    pub(super) fn fingerprint(&self, limit: LimitId, key: &[u8]) -> Fingerprint {
        self.key.fingerprint(limit, key)
    }

    #[inline]
    pub(super) fn fingerprint_parts<'k>(
        &self,
        limit: LimitId,
        parts: impl IntoIterator<Item = &'k [u8]>,
    ) -> Fingerprint {
        self.key.fingerprint_parts(limit, parts)
    }

    /// The set whose insert bit and overflow are the key's.
    #[inline]
    pub(super) fn home_of(&self, who: Fingerprint) -> usize {
        self.sets_of(who).0
    }

    /// The key's home and refuge; the same in a table of one set.
    #[inline]
    fn sets_of(&self, who: Fingerprint) -> (usize, usize) {
        let sets = self.memory.sets() as u128;
        let scaled = |bits: u64| ((bits as u128 * sets) >> 64) as usize;
        (scaled(who.bits()), scaled(who.bits().rotate_left(32)))
    }

    /// The key's cell, and what it holds.
    #[inline]
    pub(super) fn find(&self, who: Fingerprint) -> Option<(Place, u128)> {
        let (home, refuge) = self.sets_of(who);
        self.find_in(home, who).or_else(|| self.find_in(refuge, who))
    }

    #[inline]
    fn find_in(&self, set: usize, who: Fingerprint) -> Option<(Place, u128)> {
        for cell in cells_from(who) {
            let word = self.memory.load(set, cell);
            if fingerprint_of(word) == who.bits() {
                return Some((Place { set, cell }, word));
            }
        }
        None
    }

    /// What a cell holds.
    #[inline]
    pub(super) fn load(&self, place: Place) -> u128 {
        self.memory.load(place.set, place.cell)
    }

    /// Gives a cell another word if it is still `old`.
    ///
    /// # Errors
    /// The word as it was seen.
    #[inline]
    pub(super) fn replace(&self, place: Place, old: u128, new: u128) -> Result<(), u128> {
        self.memory.compare_exchange(place.set, place.cell, old, new)
    }

    /// The state of the overflow of a set.
    pub(super) fn overflow(&self, set: usize) -> u64 {
        state_of(self.memory.load(set, GATE))
    }

    /// Whether no cell of the key's two sets is free.
    pub(super) fn is_full(&self, who: Fingerprint, is_free: impl Fn(u128) -> bool) -> bool {
        let (home, refuge) = self.sets_of(who);
        self.used(home, &is_free) == CELLS && self.used(refuge, &is_free) == CELLS
    }

    /// The cells of a set that may not be re-keyed.
    fn used(&self, set: usize, is_free: &impl Fn(u128) -> bool) -> usize {
        (0..CELLS).filter(|&cell| !is_free(self.memory.load(set, cell))).count()
    }

    /// Puts the word of a key that has no cell into a free one, if there is any. The caller holds the insert bit of the
    /// key's home, and has looked for the key since it has it.
    pub(super) fn put(&self, who: Fingerprint, word: u128, is_free: impl Fn(u128) -> bool) -> Option<Place> {
        let (home, refuge) = self.sets_of(who);
        let crowd = self.used(home, &is_free);
        let sets = match crowd < CROWDED || crowd <= self.used(refuge, &is_free) {
            true => [home, refuge],
            false => [refuge, home],
        };
        for set in sets {
            for cell in cells_from(who) {
                let old = self.memory.load(set, cell);
                // The exchange fails if the cell's owner came back, or a key of another home took it: then another
                // cell is sought.
                if is_free(old) && self.memory.compare_exchange(set, cell, old, word).is_ok() {
                    return Some(Place { set, cell });
                }
            }
        }
        None
    }

    /// Takes the insert bit of the set: the state of its overflow, which only the holder changes.
    pub(super) fn take_gate(&self, set: usize) -> u64 {
        let mut turn = 0;
        loop {
            let gate = self.memory.load(set, GATE);
            if gate & INSERT_BIT == 0
                && self.memory.compare_exchange(set, GATE, gate, gate | INSERT_BIT).is_ok()
            {
                return state_of(gate);
            }
            self.memory.wait(turn);
            turn = turn.saturating_add(1);
        }
    }

    /// Stores the state of the overflow and gives the insert bit up.
    pub(super) fn leave_gate(&self, set: usize, taken: u64, overflow: u64) {
        let left = self.memory.compare_exchange(set, GATE, INSERT_BIT | taken as u128, overflow as u128);
        debug_assert!(left.is_ok(), "only the holder of the insert bit changes the gate");
    }

    /// The share of cells that are in use, 0 to 1: exact up to 1,024 sets, then an estimate from as many, evenly spread.
    pub(super) fn used_ratio(&self, is_used: impl Fn(u128) -> bool) -> f64 {
        let sets = self.memory.sets();
        let sample = sets.min(SAMPLE_SETS);
        let in_use = |set: usize| (0..CELLS).filter(|&cell| is_used(self.memory.load(set, cell))).count();
        let used: usize =
            (0..sample).map(|i| in_use((i as u128 * sets as u128 / sample as u128) as usize)).sum();
        used as f64 / (sample * CELLS) as f64
    }
}

impl<M: Memory> fmt::Debug for Cells<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cells").field("bytes", &self.bytes()).finish_non_exhaustive()
    }
}

impl Memory for CacheLines {
    #[inline]
    fn sets(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn load(&self, set: usize, word: usize) -> u128 {
        self.0[set].0[word].load(Ordering::Acquire)
    }

    #[inline]
    fn compare_exchange(&self, set: usize, word: usize, old: u128, new: u128) -> Result<(), u128> {
        self.0[set].0[word].compare_exchange(old, new, Ordering::AcqRel, Ordering::Acquire).map(|_| ())
    }

    #[inline]
    fn wait(&self, turn: u32) {
        // The bit is held for tens of nanoseconds; only a holder that the kernel has put aside takes longer,
        // and on a machine with a core for each thread there is none.
        if turn < 64 { std::hint::spin_loop() } else { std::thread::yield_now() }
    }
}

/// The cells of a set, beginning where the fingerprint says: keys seldom pass over one another.
#[inline]
fn cells_from(who: Fingerprint) -> impl Iterator<Item = usize> {
    // Bits of the middle, which choose neither set of a table of up to four million.
    let first = ((who.bits() >> 32 & 0x3ff) as usize * CELLS) >> 10;
    (first..CELLS).chain(0..first)
}

/// The word of a key in this state.
#[inline]
pub(super) const fn pack(fingerprint: u64, state: u64) -> u128 {
    (fingerprint as u128) << 64 | state as u128
}

/// Whose word it is; 0: nobody's.
#[inline]
pub(super) const fn fingerprint_of(word: u128) -> u64 {
    (word >> 64) as u64
}

/// The state that a word holds.
#[inline]
pub(super) const fn state_of(word: u128) -> u64 {
    word as u64
}
