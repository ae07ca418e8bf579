//! How many requests of a key are in flight, in [`super::cells`]: exact over all cores, without a lock.
//!
//! # The law
//! With `most` requests admitted at once, no more than `most` of a key are in at any time, whatever the cores do.
//! Whoever enters has a [`Seat`], and leaves it; a seat remembers its cell and need not be found again.
//!
//! # Bounds
//! **A cell whose count is 0 equals no cell.** Only such cells are re-keyed: nobody who is in is ever forgotten, and
//! what is forgotten did not matter. Where no cell of both sets of a new key is free, it is counted in the overflow of its
//! home, together with all others that found none there: they may be refused for one another, never admitted.
//!
//! A key that has seats in the overflow and then gets a cell is counted twice over: its cell is *mixed*, and as long as
//! anybody is in the overflow, all of them count as its own. Mixed cells, and keys without a cell, are only entered by the
//! holder of their home's insert bit, so that the overflow does not grow meanwhile. So a cell that is not mixed has
//! all of its key's seats: to look at it is enough, and to change it by one compare-and-swap.
//!
//! # Cost
//! To enter is a search and one compare-and-swap, to leave one more. O(1), no allocation, no clock.
//!
//! Not for: whose requests, and how many ([`super::rate`]); upstreams (`upstream::slots`, where one waits for a place);
//! connections (`accept::caps`). Called by the limit policy and by the [`super::seats`] of an exchange.

use std::fmt;

use super::{
    cells::{CacheLines, Cells, GATE, Memory, Place, fingerprint_of, pack, state_of},
    fingerprint::{Fingerprint, FingerprintKey, LimitId},
};

/// In the state of a cell: seats of its key may be counted in the overflow of its home.
const MIXED: u64 = 1 << 63;
/// The rest of a state counts.
const COUNT: u64 = MIXED - 1;

/// A table of counts; see the module. `M` is the memory it lives in.
pub struct Counts<M = CacheLines>(Cells<M>);

/// Where one who is in is counted. It is not copied: whoever has it leaves once.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "who was let in has to leave"]
pub struct Seat {
    set: u32,
    /// Its cell, or the gate for the overflow.
    cell: u8,
}

impl Counts {
    /// Counts in at most `bytes` (at least one set of 128), with a random fingerprint key.
    pub fn new(bytes: usize) -> Counts {
        Counts::with_key(bytes, FingerprintKey::random())
    }

    /// As [`Counts::new`] with a given key.
    pub fn with_key(bytes: usize, key: FingerprintKey) -> Counts {
        Counts(Cells::new(bytes, key))
    }
}

impl<M: Memory> Counts<M> {
    /// Counts in a given memory.
    pub fn in_memory(memory: M, key: FingerprintKey) -> Counts<M> {
        Counts(Cells::in_memory(memory, key))
    }

    /// The memory that the table holds, in bytes.
    pub fn bytes(&self) -> usize {
        self.0.bytes()
    }

    /// The keys that it can tell apart at once, at most.
    pub fn capacity(&self) -> usize {
        self.0.capacity()
    }

    /// Who counts for `limit` under `key`, in this table.
    #[inline]
    pub fn fingerprint(&self, limit: LimitId, key: &[u8]) -> Fingerprint {
        self.0.fingerprint(limit, key)
    }

    /// Lets one more of `who` in, if fewer than `most` are.
    #[inline]
    pub fn enter(&self, who: Fingerprint, most: u32) -> Option<Seat> {
        if let Some((place, mut word)) = self.0.find(who) {
            while fingerprint_of(word) == who.bits() && !is_mixed(word) {
                if count_of(word) >= u64::from(most) {
                    return None;
                }
                match self.0.replace(place, word, word + 1) {
                    Ok(()) => return Some(Seat::at(place)),
                    Err(seen) => word = seen,
                }
            }
        }
        self.enter_by_the_gate(who, most)
    }

    /// One who was in is gone.
    pub fn leave(&self, seat: Seat) {
        let set = seat.set as usize;
        if usize::from(seat.cell) == GATE {
            let overflow = self.0.take_gate(set);
            debug_assert!(overflow > 0, "it counts this one");
            return self.0.leave_gate(set, overflow, overflow.saturating_sub(1));
        }
        let place = Place { set, cell: usize::from(seat.cell) };
        // The cell cannot have been given away: it counts at least this one.
        let mut word = self.0.load(place);
        while count_of(word) > 0 {
            match self.0.replace(place, word, word - 1) {
                Ok(()) => return,
                Err(seen) => word = seen,
            }
        }
        debug_assert!(false, "it counts this one");
    }

    /// How many of `who` are in. Those in the overflow count for whoever has no cell, or a mixed one.
    pub fn inside(&self, who: Fingerprint) -> u64 {
        let overflow = || self.0.overflow(self.0.home_of(who));
        match self.0.find(who) {
            Some((_, word)) if is_mixed(word) => count_of(word) + overflow(),
            Some((_, word)) => count_of(word),
            None => overflow(),
        }
    }

    /// The share of cells that count somebody, 0 to 1; exact or an estimate like [`super::Table::used_ratio`].
    pub fn used_ratio(&self) -> f64 {
        self.0.used_ratio(|word| count_of(word) > 0)
    }

    /// Enters while nobody else of this key can but those who leave.
    #[cold]
    fn enter_by_the_gate(&self, who: Fingerprint, most: u32) -> Option<Seat> {
        let home = self.0.home_of(who);
        let overflow = self.0.take_gate(home);
        let seat = self.seat(who, most, home, overflow);
        let shared = seat.as_ref().is_some_and(|seat| usize::from(seat.cell) == GATE);
        self.0.leave_gate(home, overflow, overflow + u64::from(shared));
        seat
    }

    /// A seat in the key's cell, in a free one, or in the overflow of its home, in which `overflow` are.
    fn seat(&self, who: Fingerprint, most: u32, home: usize, overflow: u64) -> Option<Seat> {
        let most = u64::from(most);
        let mixed = if overflow == 0 { 0 } else { MIXED };
        if let Some((place, mut word)) = self.0.find(who) {
            // Until it is re-keyed by an insertion of another home: then it is gone for as long as the gate is ours.
            while fingerprint_of(word) == who.bits() {
                let (shared, mark) = if is_mixed(word) { (overflow, mixed) } else { (0, 0) };
                if count_of(word) + shared >= most {
                    return None;
                }
                match self.0.replace(place, word, pack(who.bits(), (count_of(word) + 1) | mark)) {
                    Ok(()) => return Some(Seat::at(place)),
                    Err(seen) => word = seen,
                }
            }
        }
        if overflow >= most {
            return None;
        }
        let put = self.0.put(who, pack(who.bits(), 1 | mixed), |word| count_of(word) == 0);
        Some(Seat::at(put.unwrap_or(Place { set: home, cell: GATE })))
    }
}

impl Seat {
    fn at(place: Place) -> Seat {
        // Four billion sets are 512 GiB, which is more than `node.limit_memory` gives to counts.
        Seat { set: place.set as u32, cell: place.cell as u8 }
    }
}

impl<M: Memory> fmt::Debug for Counts<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Counts").field(&self.0).finish()
    }
}

#[inline]
const fn count_of(word: u128) -> u64 {
    state_of(word) & COUNT
}

#[inline]
const fn is_mixed(word: u128) -> bool {
    state_of(word) & MIXED != 0
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    const KEY: FingerprintKey = FingerprintKey::fixed(7, 11);

    fn who(number: u64) -> Fingerprint {
        KEY.fingerprint(LimitId::new("test"), &number.to_le_bytes())
    }

    fn one_set() -> Counts {
        Counts::with_key(1, KEY)
    }

    #[test]
    fn as_many_are_in_as_may_be_and_who_leaves_makes_room() {
        let counts = one_set();
        let mut seats: Vec<Seat> = (0..3).map(|_| counts.enter(who(1), 3).expect("room")).collect();
        assert_eq!((counts.enter(who(1), 3), counts.inside(who(1))), (None, 3));
        assert!(counts.enter(who(2), 1).is_some(), "another key is another count");
        counts.leave(seats.remove(0));
        seats.push(counts.enter(who(1), 3).expect("one has left"));
        // A lower bound is for who comes; who is in stays.
        assert_eq!(counts.enter(who(1), 1), None);
        counts.leave(seats.remove(0));
        counts.leave(seats.remove(0));
        assert_eq!(counts.enter(who(1), 1), None);
        counts.leave(seats.remove(0));
        assert!(counts.enter(who(1), 1).is_some());
        assert_eq!(counts.enter(who(3), 0), None);
    }

    #[test]
    fn a_cell_that_counts_somebody_is_never_given_away() {
        let counts = one_set();
        let seats: Vec<Seat> = (0..7).map(|key| counts.enter(who(key), 2).expect("room")).collect();
        assert_eq!(counts.used_ratio(), 1.0);
        // Two for all keys that come now, whichever they are; those with a cell have their own.
        let shared: Vec<Seat> = (10..12).map(|key| counts.enter(who(key), 2).expect("room")).collect();
        assert!((10..20).all(|key| counts.enter(who(key), 2).is_none()));
        for key in 0..7 {
            let second = counts.enter(who(key), 2).expect("its own");
            assert_eq!(counts.enter(who(key), 2), None);
            counts.leave(second);
        }
        seats.into_iter().chain(shared).for_each(|seat| counts.leave(seat));
        assert_eq!(counts.used_ratio(), 0.0);
        assert!((0..20).all(|key| counts.inside(who(key)) == 0));
    }

    #[test]
    fn who_is_in_the_overflow_counts_when_the_key_gets_a_cell() {
        let counts = one_set();
        let mut seats: Vec<Seat> = (0..7).map(|key| counts.enter(who(key), 1).expect("room")).collect();
        let shared = [(); 2].map(|()| counts.enter(who(50), 3).expect("room"));
        counts.leave(seats.remove(0));
        let own = counts.enter(who(50), 3).expect("the third, in the cell that is free now");
        assert_eq!((counts.enter(who(50), 3), counts.inside(who(50))), (None, 3));
        let [first, second] = shared;
        counts.leave(first);
        let another = counts.enter(who(50), 3).expect("room");
        assert_eq!(counts.enter(who(50), 3), None);
        // Its cell is empty, and the overflow is not: the seat there is not forgotten.
        counts.leave(own);
        counts.leave(another);
        let again = [(); 2].map(|()| counts.enter(who(50), 3).expect("room"));
        assert_eq!(counts.enter(who(50), 3), None);
        counts.leave(second);
        let last = counts.enter(who(50), 3).expect("room");
        assert_eq!(counts.enter(who(50), 3), None);
        // Nobody is in the overflow: the cell has them all, and is entered without the gate.
        assert!(counts.0.find(who(50)).is_some_and(|(_, word)| !is_mixed(word)));
        seats.extend(again);
        seats.push(last);
        seats.into_iter().for_each(|seat| counts.leave(seat));
        assert_eq!((counts.used_ratio(), counts.0.overflow(0)), (0.0, 0));
    }

    #[test]
    fn on_many_threads_there_are_never_more_than_the_bound() {
        const MOST: u32 = 3;
        // One set for ten keys: cells are given away and the overflow is used all the time.
        for counts in [one_set(), Counts::with_key(1 << 14, KEY)] {
            let inside: Vec<AtomicU32> = (0..10).map(|_| AtomicU32::new(0)).collect();
            thread::scope(|scope| {
                for thread in 0..8u32 {
                    let (counts, inside) = (&counts, &inside);
                    scope.spawn(move || {
                        let mut held: Vec<(usize, Seat)> = Vec::new();
                        let mut random = thread.wrapping_mul(0x9e37_79b9) | 1;
                        for _ in 0..20_000 {
                            random ^= random << 13;
                            random ^= random >> 17;
                            random ^= random << 5;
                            let key = random as usize % inside.len();
                            if random & 64 == 0 && !held.is_empty() {
                                let (key, seat) = held.swap_remove(random as usize / 128 % held.len());
                                inside[key].fetch_sub(1, Ordering::SeqCst);
                                counts.leave(seat);
                            } else if let Some(seat) = counts.enter(who(key as u64), MOST) {
                                assert!(inside[key].fetch_add(1, Ordering::SeqCst) < MOST);
                                held.push((key, seat));
                            }
                        }
                        for (key, seat) in held {
                            inside[key].fetch_sub(1, Ordering::SeqCst);
                            counts.leave(seat);
                        }
                    });
                }
            });
            assert_eq!(counts.used_ratio(), 0.0, "all seats came back");
            assert!((0..10).all(|key| counts.inside(who(key)) == 0));
        }
    }

    proptest! {
        /// One thread, room for all keys: the very decisions of a map that counts.
        #[test]
        fn decisions_equal_those_of_a_map(steps in prop::collection::vec((0u64..40, 0u32..4, any::<bool>()), 1..500)) {
            let counts = Counts::with_key(128 * 64, KEY);
            let mut oracle: HashMap<u64, Vec<Seat>> = HashMap::new();
            for (key, most, leaves) in steps {
                let seats = oracle.entry(key).or_default();
                if leaves {
                    if let Some(seat) = seats.pop() {
                        counts.leave(seat);
                    }
                    continue;
                }
                let seat = counts.enter(who(key), most);
                prop_assert_eq!(seat.is_some(), seats.len() < most as usize);
                seats.extend(seat);
                prop_assert_eq!(counts.inside(who(key)), seats.len() as u64);
            }
        }

        /// A table far too small: no key is ever in more often than it may be, and everything comes back.
        #[test]
        fn the_law_holds_in_a_crowded_set(steps in prop::collection::vec((0u64..14, 1u32..4, any::<bool>()), 1..500)) {
            let counts = one_set();
            let mut inside: HashMap<u64, Vec<Seat>> = HashMap::new();
            for (key, most, leaves) in steps {
                let seats = inside.entry(key).or_default();
                if leaves {
                    if let Some(seat) = seats.pop() {
                        counts.leave(seat);
                    }
                } else if let Some(seat) = counts.enter(who(key), most) {
                    prop_assert!(seats.len() < most as usize, "key {} has {} already", key, seats.len());
                    seats.push(seat);
                }
            }
            inside.into_values().flatten().for_each(|seat| counts.leave(seat));
            prop_assert_eq!((counts.used_ratio(), counts.0.overflow(0)), (0.0, 0));
        }
    }
}
