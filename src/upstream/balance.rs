//! Which target: round robin and power-of-two least request, over the targets that are up.
//!
//! When none is up all are tried: a probe that is wrong must not take a whole service away.

use std::cell::Cell;

use crate::upstream::{Balance, Target};

/// What one core remembers to choose by.
#[derive(Debug)]
pub struct Turn {
    next: Cell<usize>,
    random: Cell<u64>,
}

impl Turn {
    /// Starts at a place of its own, so that the cores do not march in step.
    pub fn new(core: usize, targets: usize) -> Turn {
        let seed = (core as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Turn { next: Cell::new(if targets == 0 { 0 } else { core % targets }), random: Cell::new(seed) }
    }

    /// Chooses a target by index. `tried` are the indices (below 64) that this exchange has tried already: they are chosen
    /// again only when there is no other. `in_flight` tells this core's requests to a target.
    pub fn choose(
        &self,
        balance: Balance,
        targets: &[Target],
        tried: u64,
        in_flight: impl Fn(usize) -> u32,
    ) -> Option<usize> {
        let fresh = |index: usize| index >= 64 || tried >> index & 1 == 0;
        self.pick(balance, targets.len(), |index| targets[index].is_up() && fresh(index), &in_flight)
            .or_else(|| self.pick(balance, targets.len(), fresh, &in_flight))
            .or_else(|| self.pick(balance, targets.len(), |_| true, &in_flight))
    }

    fn pick(
        &self,
        balance: Balance,
        count: usize,
        fit: impl Fn(usize) -> bool,
        in_flight: &impl Fn(usize) -> u32,
    ) -> Option<usize> {
        match balance {
            Balance::RoundRobin => self.next_fit(count, &fit),
            Balance::LeastRequest => {
                let one = self.random_fit(count, &fit)?;
                let two = self.random_fit(count, &fit)?;
                Some(if in_flight(two) < in_flight(one) { two } else { one })
            }
        }
    }

    fn next_fit(&self, count: usize, fit: &impl Fn(usize) -> bool) -> Option<usize> {
        let start = self.next.get();
        let found = (0..count).map(|step| (start + step) % count).find(|&index| fit(index))?;
        self.next.set((found + 1) % count);
        Some(found)
    }

    fn random_fit(&self, count: usize, fit: &impl Fn(usize) -> bool) -> Option<usize> {
        if count == 0 {
            return None;
        }
        // xorshift64: a choice between targets needs no more.
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.set(random);
        let start = (random % count as u64) as usize;
        (0..count).map(|step| (start + step) % count).find(|&index| fit(index))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::*;
    use crate::upstream::Place;

    fn targets(count: usize) -> Vec<Target> {
        (0..count).map(|_| Target::new("t", "t", Place::Nowhere, None, None)).collect()
    }

    #[test]
    fn round_robin_takes_each_in_turn_and_skips_the_dead() {
        let targets = targets(3);
        let turn = Turn::new(0, 3);
        let next = || turn.choose(Balance::RoundRobin, &targets, 0, |_| 0);
        assert_eq!([next(), next(), next(), next()], [Some(0), Some(1), Some(2), Some(0)]);
        targets[1].up.store(false, Ordering::Relaxed);
        assert_eq!([next(), next(), next()], [Some(2), Some(0), Some(2)]);
    }

    #[test]
    fn all_dead_are_tried_nevertheless_and_none_is_none() {
        let targets = targets(2);
        let turn = Turn::new(0, 2);
        targets.iter().for_each(|target| target.up.store(false, Ordering::Relaxed));
        assert!(turn.choose(Balance::RoundRobin, &targets, 0, |_| 0).is_some());
        assert!(turn.choose(Balance::LeastRequest, &[], 0, |_| 0).is_none());
    }

    #[test]
    fn a_second_try_goes_elsewhere() {
        let targets = targets(2);
        let turn = Turn::new(0, 2);
        for _ in 0..10 {
            assert_eq!(turn.choose(Balance::RoundRobin, &targets, 0b01, |_| 0), Some(1));
            assert_eq!(turn.choose(Balance::LeastRequest, &targets, 0b10, |_| 0), Some(0));
        }
        assert!(turn.choose(Balance::RoundRobin, &targets, 0b11, |_| 0).is_some());
    }

    #[test]
    fn least_request_avoids_the_busy_one() {
        let targets = targets(4);
        let turn = Turn::new(0, 4);
        let mut counts = [0; 4];
        for _ in 0..4_000 {
            let index = turn.choose(Balance::LeastRequest, &targets, 0, |index| u32::from(index == 2) * 9);
            counts[index.expect("four are up")] += 1;
        }
        // Only two equal draws of the busy one choose it: 1 in 16.
        assert!(counts[2] < 400, "{counts:?}");
        assert!(counts.iter().enumerate().all(|(index, &count)| index == 2 || count > 900), "{counts:?}");
    }
}
