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
/// How fast what was seen is forgotten: after so many nanoseconds it counts 1/e.
const EWMA_TAU_NS: f64 = 10e9;
/// One answer raises what is expected to so many times as much at most: one that is slow says little, three in a row say all.
const EWMA_RISE_MAX: f64 = 4.0;
/// What one request counts at least, however fast they follow each other: in the share of those that failed, and in the time
/// where it was faster. What had all answers late for a moment, this node for one, is forgotten with the next few.
const EWMA_WEIGHT_MIN: f64 = 1.0 / 8.0;
/// The share of requests that go well is never taken for less.
const EWMA_WELL_MIN: f64 = 1.0 / 32.0;
/// What is at most so many times as much is the same: the faster of two equals is not asked alone.
const EWMA_ALIKE: f64 = 1.2;

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

/// How long a member takes to answer, and how often it fails, as one core sees it.
///
/// The time follows what is slower within a few answers, and what is faster within some more; without answers it decays, so
/// that a member that was slow is asked again. Requests that failed say nothing of it: one that fails at once is not fast. They have
/// a share of their own, which decays as well.
#[derive(Debug, Default)]
pub struct Ewma {
    answer_ns: Cell<f64>,
    failing: Cell<f64>,
    at_ns: Cell<u64>,
}

/// What is to be expected of a member.
#[derive(Clone, Copy, Debug)]
pub struct Forecast {
    /// Nanoseconds that an answer takes; 0 where there was none.
    pub answer_ns: f64,
    /// What a request to it costs beside one that goes well; 1 and more.
    pub toll: f64,
}

impl Ewma {
    /// One more answer, after `took_ns`.
    pub fn answered(&self, took_ns: u64, now_ns: u64) {
        let left = self.passed(now_ns);
        let (took, known) = (took_ns.max(1) as f64, self.answer_ns.get());
        self.answer_ns.set(match took > known {
            true if known == 0.0 => took,
            true => took.min(known * EWMA_RISE_MAX),
            false => known + (took - known) * (1.0 - left).max(EWMA_WEIGHT_MIN),
        });
        self.failing.set(self.failing.get() * left.min(1.0 - EWMA_WEIGHT_MIN));
    }

    /// It did not answer, or with what is none.
    pub fn failed(&self, now_ns: u64) {
        let left = self.passed(now_ns);
        self.answer_ns.set(self.answer_ns.get() * left);
        let failing = self.failing.get() * left;
        self.failing.set(failing + (1.0 - failing) * (1.0 - left).max(EWMA_WEIGHT_MIN));
    }

    /// What is to be expected of it now.
    pub fn forecast(&self, now_ns: u64) -> Forecast {
        let left = left_after(now_ns.saturating_sub(self.at_ns.get()));
        let well = (1.0 - self.failing.get() * left).max(EWMA_WELL_MIN);
        let toll = 1.0 / (well * well);
        // Who fails now and then fails like anybody else.
        let toll = if toll > EWMA_ALIKE { toll } else { 1.0 };
        Forecast { answer_ns: self.answer_ns.get() * left, toll }
    }

    /// What counts still of what was seen until now.
    fn passed(&self, now_ns: u64) -> f64 {
        left_after(now_ns.saturating_sub(self.at_ns.replace(now_ns)))
    }
}

/// What is left after so many nanoseconds. Under load hardly any have passed, and it is had without the exponential.
fn left_after(passed_ns: u64) -> f64 {
    let passed = passed_ns as f64 / EWMA_TAU_NS;
    if passed < 1.0 / 64.0 { 1.0 - passed + passed * passed / 2.0 } else { (-passed).exp() }
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
        let fewer = |one: usize, two: usize| in_flight(two) < in_flight(one);
        match balance {
            Balance::RoundRobin if view.members.is_weighted() => self.next_owed(among, fit, weight),
            Balance::RoundRobin => self.next_fit(among, fit),
            Balance::LeastRequest => self.better_of_two(among, fit, fewer),
            Balance::Ewma => self.better_of_two(among, fit, |one, two| {
                let of =
                    |index: usize| (view.pools[index].ewma.forecast(now_ns), view.pools[index].in_flight());
                sooner((of(one), in_flight(one)), (of(two), in_flight(two)))
            }),
            Balance::Sticky => {
                let tags = &view.members.tags;
                let told = |index: &usize| key != 0 && tags.get(*index) == Some(&key) && fit(*index);
                match among.clone().find(told) {
                    Some(index) => Some(index),
                    None => self.better_of_two(among, fit, fewer),
                }
            }
            Balance::Hash => {
                match view.members.maglev.choose(key, |index| among.contains(&index) && fit(index)) {
                    Some(index) => Some(index),
                    None => self.better_of_two(among, fit, fewer),
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
        second_is_better: impl Fn(usize, usize) -> bool,
    ) -> Option<usize> {
        let one = self.draw(among.clone(), fit)?;
        let Some(two) = self.draw(among, &|index| index != one && fit(index)) else { return Some(one) };
        Some(if second_is_better(one, two) { two } else { one })
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

/// Whether the second of two members is expected to answer sooner: each with its forecast, its requests under way, and those
/// with one more as its weight has them.
///
/// What is under way counts as much as how long it takes, so a member that is fast is not given everything, and one that is
/// slow gets what it can do. One that nobody knows yet is asked once, and until it has answered it is as fast as the others.
fn sooner(one: ((Forecast, u32), f64), two: ((Forecast, u32), f64)) -> bool {
    let ((first, first_under_way), first_load) = one;
    let ((second, second_under_way), second_load) = two;
    let is_new = |of: &Forecast, under_way| of.answer_ns == 0.0 && of.toll <= 1.0 && under_way == 0;
    let (first_is_new, second_is_new) = (is_new(&first, first_under_way), is_new(&second, second_under_way));
    if first_is_new != second_is_new {
        return second_is_new;
    }
    let (mut first_cost, mut second_cost) = (first_load * first.toll, second_load * second.toll);
    let slower = first.answer_ns.max(second.answer_ns);
    let faster = first.answer_ns.min(second.answer_ns);
    if faster > 0.0 && slower > faster * EWMA_ALIKE {
        first_cost *= first.answer_ns;
        second_cost *= second.answer_ns;
    }
    second_cost < first_cost
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
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::upstream::pool::{CoreUpstream, InFlight};
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
                protocols: crate::http::Protocols::HTTP1,
                weight: *weight,
                priority: *priority,
                guard: Arc::default(),
            })
            .collect();
        let parts = Parts { origins, balance, ..Parts::bare() };
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

    const MS: u64 = 1_000_000;
    const SECOND: u64 = 1_000 * MS;

    #[test]
    fn ewma_avoids_the_slow_one_asks_a_new_one_and_forgets() {
        let upstream = equal(Balance::Ewma, 2);
        let view = upstream.view();
        view.pools[0].ewma.answered(MS, 0);
        assert_eq!(choose(&upstream, &Tried::default(), 0), Some(1), "who is not known is asked");
        let asked = view.pools[1].begin();
        assert_eq!(choose(&upstream, &Tried::default(), 0), Some(0), "once, before it has answered");
        drop(asked);
        view.pools[1].ewma.answered(100 * MS, 0);
        assert_eq!(counts(&upstream, 100), [100, 0]);
        // A fast answer does not make up for a slow one at once; time does.
        let expected = |at| view.pools[1].ewma.forecast(at).answer_ns;
        view.pools[1].ewma.answered(MS, 1_000);
        assert!(expected(1_000) > 85e6);
        assert!(expected(60 * SECOND) < 1e6);
    }

    #[test]
    fn one_slow_answer_says_little_and_three_say_all() {
        let ewma = Ewma::default();
        ewma.answered(2 * MS, 0);
        let expected: Vec<f64> = (1..=4)
            .map(|at| {
                ewma.answered(100 * MS, at);
                (ewma.forecast(at).answer_ns / 1e6).round()
            })
            .collect();
        assert_eq!(expected, [8.0, 32.0, 100.0, 100.0]);
        // Where nothing takes any time, everybody is still known.
        let instant = Ewma::default();
        instant.answered(0, 0);
        assert!(instant.forecast(0).answer_ns > 0.0);
    }

    #[test]
    fn failures_cost_whatever_they_take_and_are_forgotten() {
        let ewma = Ewma::default();
        ewma.answered(4 * MS, 0);
        ewma.failed(MS);
        assert!((1.0..1.5).contains(&ewma.forecast(MS).toll), "one happens to anybody");
        (2..40).for_each(|at| ewma.failed(at * MS));
        let toll = ewma.forecast(40 * MS).toll;
        assert!(toll > 500.0, "{toll}");
        assert!(ewma.forecast(20 * SECOND).toll < 1.5, "who is not asked is forgiven");
        (40..60).for_each(|at| ewma.answered(4 * MS, at * MS));
        assert!(ewma.forecast(60 * MS).toll < 1.5, "and so is who does well");
        // One that has never answered, and failed, is no news.
        let upstream = equal(Balance::Ewma, 2);
        upstream.view().pools[0].ewma.answered(4 * MS, 0);
        (0..3).for_each(|_| upstream.view().pools[1].ewma.failed(0));
        assert_eq!(counts(&upstream, 100), [100, 0]);
    }

    #[test]
    fn what_is_left_is_the_exponential() {
        for passed_ns in [0, 1, MS, 100 * MS, 156 * MS, 157 * MS, SECOND, 100 * SECOND] {
            let exact = (-(passed_ns as f64) / EWMA_TAU_NS).exp();
            assert!((left_after(passed_ns) - exact).abs() < 1e-6, "{passed_ns}");
        }
    }

    /// What a member does with a request at a time: how long it takes, and whether it fails.
    type Does<'a> = &'a dyn Fn(usize, u64, f64) -> (u64, bool);

    /// What became of requests: when they came, how long they took, to whom they went, whether they failed.
    struct Ran(Vec<(u64, u64, usize, bool)>);

    impl Ran {
        fn during(&self, from_s: u64, until_s: u64) -> impl Iterator<Item = &(u64, u64, usize, bool)> {
            self.0.iter().filter(move |(at, ..)| (from_s * SECOND..until_s * SECOND).contains(at))
        }

        fn p99_ms(&self, from_s: u64, until_s: u64) -> f64 {
            let mut took: Vec<u64> = self.during(from_s, until_s).map(|(_, took, ..)| *took).collect();
            took.sort_unstable();
            took[took.len() * 99 / 100] as f64 / 1e6
        }

        fn share(&self, member: usize, from_s: u64, until_s: u64) -> f64 {
            let to = self.during(from_s, until_s).filter(|(.., to, _)| *to == member).count();
            to as f64 / self.during(from_s, until_s).count() as f64
        }

        fn failed(&self, from_s: u64, until_s: u64) -> f64 {
            let failed = self.during(from_s, until_s).filter(|(.., failed)| *failed).count();
            failed as f64 / self.during(from_s, until_s).count() as f64
        }
    }

    /// Three members that get `rate` requests a second by chance, for so many seconds.
    fn run(balance: Balance, rate: u64, seconds: u64, does: Does<'_>) -> Ran {
        let upstream = equal(balance, 3);
        let chance = Turn::new(99);
        let unit = || (chance.random() >> 11) as f64 / (1_u64 << 53) as f64;
        let mut under_way: BTreeMap<(u64, u64), (InFlight, u64, bool)> = BTreeMap::new();
        let mut ran = Vec::new();
        let (mut now, mut number) = (0, 0_u64);
        while now < seconds * SECOND {
            now += (-(1.0 - unit()).ln() * 1e9 / rate as f64) as u64;
            while let Some(entry) = under_way.first_entry().filter(|entry| entry.key().0 <= now) {
                let ((at, _), (guard, took, failed)) = entry.remove_entry();
                match failed {
                    true => guard.member().ewma.failed(at),
                    false => guard.member().ewma.answered(took, at),
                }
            }
            let member = upstream.choose(&Tried::default(), 0, now).expect("somebody");
            let index = usize::from(member.member.key.address.port()) - 1;
            let (took, failed) = does(index, now, unit());
            number += 1;
            under_way.insert((now + took, number), (member.begin(), took, failed));
            ran.push((now, took, index, failed));
        }
        Ran(ran)
    }

    /// 4 ms, a tenth more or less.
    fn healthy(chance: f64) -> u64 {
        ((3.6 + 0.8 * chance) * 1e6) as u64
    }

    const RATES: [u64; 3] = [20, 400, 2_000];

    #[test]
    fn a_member_that_becomes_slow_does_not_raise_p99_and_gets_its_share_back() {
        for rate in RATES {
            let ran = run(Balance::Ewma, rate, 90, &|member, at, chance| match member {
                2 if (10 * SECOND..25 * SECOND).contains(&at) => (25 * healthy(chance), false),
                _ => (healthy(chance), false),
            });
            let (before, slow) = (ran.p99_ms(2, 10), ran.p99_ms(11, 25));
            assert!(slow <= before * 1.2, "{slow} ms against {before} ms, at {rate}/s");
            // What took 25 times as long is forgotten in three times ten seconds.
            assert!(ran.share(2, 70, 90) > 0.2, "{} at {rate}/s", ran.share(2, 70, 90));
            assert!((0.25..0.42).contains(&ran.share(0, 2, 10)), "{} at {rate}/s", ran.share(0, 2, 10));
        }
    }

    #[test]
    fn what_makes_all_of_them_late_for_a_moment_does_not_hide_who_is_slow() {
        // Now and then nothing is answered for up to 60 ms: the node or the machine does something else.
        let late = |at: u64| {
            let chance = Turn::new((at / (400 * MS)) as usize);
            let (from, lasts) = (chance.random() % (300 * MS), chance.random() % (60 * MS));
            let from = at / (400 * MS) * 400 * MS + from;
            if (from..from + lasts).contains(&at) { from + lasts - at } else { 0 }
        };
        for rate in [400, 2_000] {
            let ran = run(Balance::Ewma, rate, 40, &|member, at, chance| {
                let slow = member == 2 && at > 15 * SECOND;
                let took = if slow { 25 * healthy(chance) } else { healthy(chance) };
                (took + late(at + took), false)
            });
            assert!(ran.share(2, 16, 40) < 0.006, "{} at {rate}/s", ran.share(2, 16, 40));
            let (before, slow) = (ran.p99_ms(2, 15), ran.p99_ms(16, 40));
            assert!(slow <= before * 1.3, "{slow} ms against {before} ms, at {rate}/s");
        }
    }

    #[test]
    fn a_member_that_fails_at_once_does_not_draw_requests_and_gets_its_share_back() {
        for (rate, most) in RATES.into_iter().zip([0.2, 0.03, 0.02]) {
            let ran = run(Balance::Ewma, rate, 50, &|member, at, chance| match member {
                2 if (10 * SECOND..25 * SECOND).contains(&at) => (MS / 10, true),
                _ => (healthy(chance), false),
            });
            assert!(ran.failed(11, 25) < most, "{} at {rate}/s", ran.failed(11, 25));
            assert!(ran.share(2, 40, 50) > 0.15, "{} at {rate}/s", ran.share(2, 40, 50));
        }
        // What fewest requests in flight alone would do.
        let ran = run(Balance::LeastRequest, 4_000, 20, &|member, _, chance| match member {
            2 => (MS / 10, true),
            _ => (healthy(chance), false),
        });
        assert!(ran.failed(5, 20) > 0.5, "{}", ran.failed(5, 20));
    }

    #[test]
    fn what_happens_to_all_of_them_favours_nobody() {
        for (rate, most) in [(400, 0.55), (2_000, 0.5)] {
            // One of a hundred fails, another one takes a second.
            let ran = run(Balance::Ewma, rate, 60, &|_, _, chance| match (chance * 100.0) as u32 {
                0 => (healthy(chance), true),
                1 => (SECOND, false),
                _ => (healthy(chance), false),
            });
            for member in 0..3 {
                assert!(ran.share(member, 5, 60) < most, "{} at {rate}/s", ran.share(member, 5, 60));
            }
        }
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
