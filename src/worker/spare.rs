//! Things that are kept for re-use, as many as are needed and few more.
//!
//! A stack, so that what is used is warm; and a low-water mark, so that what a burst left behind is given back little by
//! little: half of what nobody has needed since the last [`Spare::trim`].

/// What gives back what nobody needs.
pub trait Trim {
    /// Little by little: called ten times a second.
    fn trim(&self);
}

/// A bounded stack of things that are free.
#[derive(Debug)]
pub struct Spare<T> {
    free: Vec<T>,
    /// Free ones that are kept at most, and those that [`Spare::trim`] leaves alone.
    most: usize,
    least: usize,
    /// The fewest that were free since the last trim: so many nobody has needed.
    unneeded: usize,
}

impl<T> Spare<T> {
    /// Keeps nothing yet; later at most `most`, of which `least` are never trimmed.
    pub const fn new(most: usize, least: usize) -> Spare<T> {
        Spare { free: Vec::new(), most, least, unneeded: 0 }
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

    /// Drops half of what nobody has needed since the last call.
    pub fn trim(&mut self) {
        // The bottom of the stack is what has rested longest.
        let kept = self.free.len().saturating_sub(self.unneeded.div_ceil(2)).max(self.least);
        let surplus = self.free.len().saturating_sub(kept);
        self.free.drain(..surplus);
        if self.free.capacity() > 4 * self.free.len().max(64) {
            self.free.shrink_to(2 * self.free.len());
        }
        self.unneeded = self.free.len();
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
        spare.trim();
        assert_eq!(spare.len(), 1000, "in their first period all of them may have been needed");
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
}
