//! Things that are kept for re-use, as many as are needed and few more.
//!
//! A stack, so that what is used is warm; and low-water marks, so that what a burst left behind is given back little by
//! little: half of what nobody has needed for some time at each [`Spare::trim`]. That time is longer than the rounds in which
//! load comes: what each of them needs is not given back and asked for again.

/// Trims for which one low-water mark counts. The last two are kept: what nobody has needed for half a second to a second goes.
const PERIOD: u8 = 5;

/// What gives back what nobody needs.
pub trait Trim {
    /// Little by little: called ten times a second.
    fn trim(&self);
}

/// A bounded stack of things that are free. Its own memory stays: that many are in use now does not say that few will be free.
#[derive(Debug)]
pub struct Spare<T> {
    free: Vec<T>,
    /// Free ones that are kept at most, and those that [`Spare::trim`] leaves alone.
    most: usize,
    least: usize,
    /// The fewest that were free since the period began, and in the one before: so many nobody has needed.
    unneeded: usize,
    unneeded_before: usize,
    /// Trims since the period began.
    trims: u8,
}

impl<T> Spare<T> {
    /// Keeps nothing yet; later at most `most`, of which `least` are never trimmed.
    pub const fn new(most: usize, least: usize) -> Spare<T> {
        Spare { free: Vec::new(), most, least, unneeded: 0, unneeded_before: 0, trims: 0 }
    }

    /// Takes the one that was given back last.
    #[inline]
    pub fn take(&mut self) -> Option<T> {
        let free = self.free.pop();
        self.unneeded = self.unneeded.min(self.free.len());
        free
    }

    /// Keeps one, or drops it where there are enough.
    #[inline]
    pub fn give(&mut self, one: T) {
        if self.free.len() < self.most {
            self.free.push(one);
        }
    }

    /// Drops half of what nobody has needed in this period and the one before.
    pub fn trim(&mut self) {
        let unneeded = self.unneeded.min(self.unneeded_before);
        // The bottom of the stack is what has rested longest.
        let kept = self.free.len().saturating_sub(unneeded.div_ceil(2)).max(self.least);
        let surplus = self.free.len().saturating_sub(kept);
        self.free.drain(..surplus);
        self.unneeded = self.unneeded.saturating_sub(surplus);
        self.unneeded_before = self.unneeded_before.saturating_sub(surplus);
        self.trims += 1;
        if self.trims >= PERIOD {
            (self.unneeded, self.unneeded_before, self.trims) = (self.free.len(), self.unneeded, 0);
        }
    }

    /// How many are free.
    pub fn len(&self) -> usize {
        self.free.len()
    }

    /// Whether none is free.
    pub fn is_empty(&self) -> bool {
        self.free.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nobody_needs_goes_little_by_little_and_what_is_used_stays() {
        let mut spare = Spare::new(1000, 10);
        for one in 0..1200 {
            spare.give(one);
        }
        assert_eq!(spare.len(), 1000, "no more than the most");
        for _ in 0..PERIOD {
            spare.trim();
            assert_eq!(spare.len(), 1000, "in their first period all of them may have been needed");
        }
        for _ in 0..30 {
            let used: Vec<_> = (0..40).filter_map(|_| spare.take()).collect();
            used.into_iter().for_each(|one| spare.give(one));
            spare.trim();
        }
        assert!((40..=41).contains(&spare.len()), "{}", spare.len());
        for _ in 0..30 {
            spare.trim();
        }
        assert_eq!(spare.len(), 10);
        spare.give(7);
        assert_eq!(spare.take(), Some(7), "the warm one first");
    }

    #[test]
    fn what_each_round_needs_is_kept_between_rounds() {
        let mut spare = Spare::new(1000, 10);
        for one in 0..500 {
            spare.give(one);
        }
        for round in 0..40 {
            let used: Vec<_> = (0..500).filter_map(|_| spare.take()).collect();
            assert_eq!(used.len(), 500, "round {round}");
            used.into_iter().for_each(|one| spare.give(one));
            for _ in 0..PERIOD {
                spare.trim();
            }
        }
    }
}
