//! Which member: over those that are up, of the lowest priority that has any.
//!
//! When none is up all are tried: a probe that is wrong must not take a whole service away.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use crate::upstream::pool::View;
use crate::upstream::{Balance, Seat};

/// The most members that one exchange remembers to have tried.
const TRIED_MAX: usize = 8;
/// Draws by chance before all are looked at in turn.
const DRAWS_MAX: usize = 4;
/// How fast an old answer time is forgotten: after so many nanoseconds it counts 1/e.
const EWMA_TAU_NS: f64 = 10e9;
/// What is assumed of a member that has been asked and has never answered yet, in nanoseconds.
const EWMA_UNKNOWN_NS: f64 = 1e9;
/// What a failure counts as, in nanoseconds.
const EWMA_FAILURE_NS: u64 = 5_000_000_000;

/// The members that an exchange has tried already.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried {
    numbers: [u64; TRIED_MAX],
    count: usize,
}

impl Tried {
    /// Remembers a member by its number, once.
    pub fn add(&mut self, number: u64) {
        if self.has(number) {
            return;
        }
        if let Some(place) = self.numbers.get_mut(self.count) {
            *place = number;
            self.count += 1;
        }
    }

    /// Whether one more can be remembered.
    pub fn has_room(&self) -> bool {
        self.count < TRIED_MAX
    }

    /// Whether it was tried.
    pub fn has(&self, number: u64) -> bool {
        self.numbers[..self.count].contains(&number)
    }
}

/// How long a member takes to answer: an average that follows what is slower at once and forgets with time.
///
/// Peak-sensitive, exponentially weighted; without answers it decays, so that a member that was slow is asked again.
#[derive(Debug, Default)]
pub struct Ewma {
    value_ns: Cell<f64>,
    at_ns: Cell<u64>,
}

impl Ewma {
    /// One more answer, after `took_ns`.
    pub fn answered(&self, took_ns: u64, now_ns: u64) {
        let took = took_ns as f64;
        let value = self.value_ns.get();
        let passed_ns = now_ns.saturating_sub(self.at_ns.get()) as f64;
        self.at_ns.set(now_ns);
        self.value_ns.set(match took > value {
            true => took,
            false => {
                let old = (-passed_ns / EWMA_TAU_NS).exp();
                value * old + took * (1.0 - old)
            }
        });
    }

    /// It did not answer.
    pub fn failed(&self, now_ns: u64) {
        self.answered(EWMA_FAILURE_NS, now_ns);
    }

    /// Nanoseconds that an answer is expected to take; 0 where there was none.
    pub fn expected_ns(&self, now_ns: u64) -> f64 {
        let value = self.value_ns.get();
        if value == 0.0 {
            return 0.0;
        }
        let passed_ns = now_ns.saturating_sub(self.at_ns.get()) as f64;
        value * (-passed_ns / EWMA_TAU_NS).exp()
    }
}

/// What one core remembers to choose by.
#[derive(Debug)]
pub struct Turn {
    next: Cell<usize>,
    random: Cell<u64>,
    /// What each member is owed, in weighted turns.
    owed: RefCell<Vec<i64>>,
}

impl Turn {
    /// Starts at a place of its own, so that the cores do not march in step.
    pub fn new(core: usize) -> Turn {
        let seed = (core as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Turn { next: Cell::new(core), random: Cell::new(seed), owed: RefCell::default() }
    }

    /// Chooses a member by its index in `view`.
    pub fn choose(
        &self,
        balance: Balance,
        view: &View,
        tried: &Tried,
        key: u64,
        now_ns: u64,
    ) -> Option<usize> {
        let seats = &view.members.seats;
        let now_ms = now_ns / 1_000_000;
        let fresh = |index: usize| !tried.has(seats[index].member.number);
        let fit = |index: usize| seats[index].member.is_available(now_ms) && fresh(index);
        levels(seats)
            .find_map(|level| self.pick(balance, view, level, &fit, key, now_ns))
            .or_else(|| self.pick(balance, view, 0..seats.len(), &fresh, key, now_ns))
            .or_else(|| self.pick(balance, view, 0..seats.len(), &|_| true, key, now_ns))
    }

    fn pick(
        &self,
        balance: Balance,
        view: &View,
        among: Range<usize>,
        fit: &impl Fn(usize) -> bool,
        key: u64,
        now_ns: u64,
    ) -> Option<usize> {
        let weight = |index: usize| view.members.weight(index, now_ns / 1_000_000);
        let in_flight = |index: usize| f64::from(view.pools[index].in_flight() + 1) / weight(index) as f64;
        match balance {
            Balance::RoundRobin if view.members.is_weighted() => self.next_owed(among, fit, weight),
            Balance::RoundRobin => self.next_fit(among, fit),
            Balance::LeastRequest => self.better_of_two(among, fit, in_flight),
            Balance::Ewma => {
                let cost = |index: usize| match view.pools[index].ewma.expected_ns(now_ns) {
                    // One that nobody knows yet is asked once, and not again before it has answered.
                    0.0 if view.pools[index].in_flight() == 0 => 0.0,
                    0.0 => in_flight(index) * EWMA_UNKNOWN_NS,
                    expected => in_flight(index) * expected,
                };
                self.better_of_two(among, fit, cost)
            }
            Balance::Sticky => {
                let tags = &view.members.tags;
                let told = |index: &usize| key != 0 && tags.get(*index) == Some(&key) && fit(*index);
                match among.clone().find(told) {
                    Some(index) => Some(index),
                    None => self.better_of_two(among, fit, in_flight),
                }
            }
            Balance::Hash => {
                match view.members.maglev.choose(key, |index| among.contains(&index) && fit(index)) {
                    Some(index) => Some(index),
                    None => self.better_of_two(among, fit, in_flight),
                }
            }
        }
    }

    fn next_fit(&self, among: Range<usize>, fit: &impl Fn(usize) -> bool) -> Option<usize> {
        let count = among.len();
        let start = self.next.get();
        let found = (0..count)
            .map(|step| among.start + (start.wrapping_add(step)) % count)
            .find(|&index| fit(index))?;
        self.next.set(found - among.start + 1);
        Some(found)
    }

    /// Smooth weighted turns: everybody is owed its weight at each turn, who is owed most is next and pays the sum.
    fn next_owed(
        &self,
        among: Range<usize>,
        fit: &impl Fn(usize) -> bool,
        weight: impl Fn(usize) -> u64,
    ) -> Option<usize> {
        let mut owed = self.owed.borrow_mut();
        if owed.len() < among.end {
            owed.resize(among.end, 0);
        }
        let (mut total, mut best) = (0_i64, None);
        for index in among.filter(|&index| fit(index)) {
            // At most `WEIGHT_MAX` hundredfold, of `MEMBERS_MAX` members.
            let share = weight(index) as i64;
            total += share;
            owed[index] += share;
            if best.is_none_or(|best: usize| owed[index] > owed[best]) {
                best = Some(index);
            }
        }
        owed[best?] -= total;
        best
    }

    fn better_of_two(
        &self,
        among: Range<usize>,
        fit: &impl Fn(usize) -> bool,
        cost: impl Fn(usize) -> f64,
    ) -> Option<usize> {
        let one = self.draw(among.clone(), fit)?;
        let Some(two) = self.draw(among, &|index| index != one && fit(index)) else { return Some(one) };
        Some(if cost(two) < cost(one) { two } else { one })
    }

    fn draw(&self, among: Range<usize>, fit: &impl Fn(usize) -> bool) -> Option<usize> {
        let count = among.len();
        if count == 0 {
            return None;
        }
        let mut index = among.start;
        for _ in 0..DRAWS_MAX {
            index = among.start + (self.random() % count as u64) as usize;
            if fit(index) {
                return Some(index);
            }
        }
        let start = index - among.start;
        (0..count).map(|step| among.start + (start + step) % count).find(|&index| fit(index))
    }

    /// xorshift64: a choice between members needs no more.
    pub fn random(&self) -> u64 {
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        self.random.set(random);
        random
    }
}

/// The ranges of seats that have the same priority, lowest number first.
fn levels(seats: &[Seat]) -> impl Iterator<Item = Range<usize>> + '_ {
    let mut start = 0;
    std::iter::from_fn(move || {
        let priority = seats.get(start)?.priority;
        let count = seats[start..].iter().take_while(|seat| seat.priority == priority).count();
        let level = start..start + count;
        start = level.end;
        Some(level)
    })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::upstream::pool::CoreUpstream;
    use crate::upstream::{Origin, Parts, Upstream, Whence};

    /// An upstream with members of these weights and priorities.
    fn upstream(balance: Balance, members: &[(u16, u8)]) -> CoreUpstream {
        let origins = members
            .iter()
            .enumerate()
            .map(|(index, (weight, priority))| Origin {
                name: format!("http://127.0.0.1:{}", index + 1).into(),
                whence: Whence::Fixed(std::net::SocketAddr::from(([127, 0, 0, 1], index as u16 + 1)).into()),
                authority: "a".into(),
                tls: None,
                trust: 0,
                weight: *weight,
                priority: *priority,
                guard: Arc::default(),
            })
            .collect();
        let parts = Parts {
            name: "a".into(),
            origins,
            prober: None,
            balance,
            key: Default::default(),
            retry: Default::default(),
            eject: Default::default(),
            slow_start_ms: 0,
            queue_wait_ms: 0,
            breaker: None,
            requests: None,
            queue_max: 0,
            timeouts: Default::default(),
            connections_max: 1,
            idle_max: 1,
            cores: 1,
            introduction: crate::upstream::Introduction::default(),
        };
        CoreUpstream::new(Arc::new(Upstream::new(parts, None)), 0, None)
    }

    fn equal(balance: Balance, count: usize) -> CoreUpstream {
        upstream(balance, &vec![(1, 0); count])
    }

    /// The port of the member that is chosen, less one: its index.
    fn choose(upstream: &CoreUpstream, tried: &Tried, key: u64) -> Option<usize> {
        upstream.choose(tried, key, 0).map(|member| usize::from(member.member.key.address.port()) - 1)
    }

    fn counts(upstream: &CoreUpstream, rounds: u64) -> Vec<u32> {
        let mut counts = vec![0; upstream.view().pools.len()];
        (0..rounds).for_each(|key| counts[choose(upstream, &Tried::default(), key).expect("somebody")] += 1);
        counts
    }

    fn tried(upstream: &CoreUpstream, indices: &[usize]) -> Tried {
        let mut tried = Tried::default();
        indices.iter().for_each(|&index| tried.add(upstream.view().pools[index].member.number));
        tried
    }

    #[test]
    fn a_member_that_was_tried_twice_takes_one_place() {
        let mut tried = Tried::default();
        for number in 1..=TRIED_MAX as u64 {
            assert!(tried.has_room());
            (0..3).for_each(|_| tried.add(number));
        }
        assert!(!tried.has_room() && (1..=TRIED_MAX as u64).all(|number| tried.has(number)));
        tried.add(99);
        assert!(!tried.has(99), "there was no room for it");
    }

    #[test]
    fn round_robin_takes_each_in_turn() {
        let upstream = equal(Balance::RoundRobin, 3);
        let next = || choose(&upstream, &Tried::default(), 0);
        assert_eq!([next(), next(), next(), next()], [Some(0), Some(1), Some(2), Some(0)]);
    }

    #[test]
    fn weighted_turns_are_shares_and_do_not_come_in_bursts() {
        let upstream = upstream(Balance::RoundRobin, &[(5, 0), (1, 0), (1, 0)]);
        let turns: Vec<usize> =
            (0..7).map(|_| choose(&upstream, &Tried::default(), 0).expect("somebody")).collect();
        assert_eq!(turns, [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(counts(&upstream, 700), [500, 100, 100]);
    }

    #[test]
    fn a_second_try_goes_elsewhere_and_to_the_same_only_where_there_is_no_other() {
        for balance in [Balance::RoundRobin, Balance::LeastRequest, Balance::Ewma, Balance::Hash] {
            let upstream = equal(balance, 2);
            for key in 0..20 {
                assert_eq!(choose(&upstream, &tried(&upstream, &[0]), key), Some(1), "{balance:?}");
                assert_eq!(choose(&upstream, &tried(&upstream, &[1]), key), Some(0), "{balance:?}");
                assert!(choose(&upstream, &tried(&upstream, &[0, 1]), key).is_some(), "{balance:?}");
            }
            assert_eq!(choose(&equal(balance, 0), &Tried::default(), 0), None, "{balance:?}");
        }
    }

    #[test]
    fn the_second_priority_is_asked_only_without_the_first() {
        for balance in [Balance::RoundRobin, Balance::LeastRequest, Balance::Ewma] {
            let upstream = upstream(balance, &[(1, 1), (1, 0), (1, 0)]);
            // Sorted by priority: the last two come first.
            assert_eq!(counts(&upstream, 100)[0], 0, "{balance:?}");
            assert_eq!(choose(&upstream, &tried(&upstream, &[0, 1]), 0), Some(0), "{balance:?}");
        }
    }

    #[test]
    fn least_request_avoids_the_busy_one() {
        let upstream = equal(Balance::LeastRequest, 4);
        let _busy: Vec<_> = (0..9).map(|_| upstream.view().pools[2].begin()).collect();
        let counts = counts(&upstream, 4_000);
        // Two members are drawn, never the same twice: the busy one is never the better.
        assert_eq!(counts[2], 0, "{counts:?}");
        assert!(counts.iter().enumerate().all(|(index, &count)| index == 2 || count > 1_100), "{counts:?}");
    }

    #[test]
    fn ewma_avoids_the_slow_one_asks_a_new_one_and_forgets() {
        let upstream = equal(Balance::Ewma, 2);
        let view = upstream.view();
        view.pools[0].ewma.answered(1_000_000, 0);
        assert_eq!(choose(&upstream, &Tried::default(), 0), Some(1), "who is not known is asked");
        let asked = view.pools[1].begin();
        assert_eq!(choose(&upstream, &Tried::default(), 0), Some(0), "once, before it has answered");
        drop(asked);
        view.pools[1].ewma.answered(100_000_000, 0);
        assert_eq!(counts(&upstream, 100), [100, 0]);
        // A fast answer does not make up for a slow one at once; time does.
        view.pools[1].ewma.answered(1_000_000, 1_000);
        assert!(view.pools[1].ewma.expected_ns(1_000) > 99e6);
        assert!(view.pools[1].ewma.expected_ns(60_000_000_000) < 1e6);
        view.pools[1].ewma.failed(2_000);
        assert!(view.pools[1].ewma.expected_ns(2_000) > 4.9e9);
    }

    #[test]
    fn a_key_keeps_its_member() {
        let upstream = equal(Balance::Hash, 5);
        for key in 0..100 {
            let chosen = choose(&upstream, &Tried::default(), key);
            assert_eq!(chosen, choose(&upstream, &Tried::default(), key));
        }
        assert!(counts(&upstream, 5_000).iter().all(|count| (800..1_200).contains(count)));
    }
}
