//! The limiter under threads: the law of `policy::limit`, against a sequential oracle fed the same arrivals.

use std::{
    collections::HashMap,
    sync::{
        Barrier,
        atomic::{AtomicU64, Ordering},
    },
    thread,
};

use ringwall::policy::limit::{
    Charge, Demand, Fingerprint, Keys, Leases, LimitId, PerCore, Rate, Table, Tables, charge_all,
    fingerprint::FingerprintKey, leases::LEASE_TOKENS_MAX, table::CLOCK_LAG_NS_MAX,
};

const S: u64 = 1_000_000_000;
const THREADS: [usize; 4] = [1, 2, 8, 64];
const KEY: FingerprintKey = FingerprintKey::fixed(1, 2);

fn who(number: u64) -> Fingerprint {
    KEY.fingerprint(LimitId::new("it"), &number.to_le_bytes())
}

fn rate(count: u64, burst: u64) -> Rate {
    Rate::new(count, S, burst).unwrap()
}

/// The sequential algorithm: one map, one thread.
#[derive(Default)]
struct Oracle(HashMap<u64, u64>);

impl Oracle {
    fn charge(&mut self, key: u64, rate: &Rate, now_ns: u64) -> bool {
        let tat_ns = self.0.entry(key).or_insert(0);
        match rate.advance(*tat_ns, 1, 0, now_ns) {
            Ok(next) => {
                *tat_ns = next;
                true
            }
            Err(_) => false,
        }
    }
}

/// Runs `work(thread, phase)` on every thread at once, phase after phase; what each phase's calls returned,
/// added up.
fn in_phases(threads: usize, phases: usize, work: impl Fn(usize, usize) -> Vec<u64> + Sync) -> Vec<Vec<u64>> {
    let barrier = Barrier::new(threads);
    let mut sums: Vec<Vec<u64>> = Vec::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (barrier, work) = (&barrier, &work);
                scope.spawn(move || {
                    (0..phases)
                        .map(|phase| {
                            barrier.wait();
                            work(thread, phase)
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        for worker in workers {
            let counts = worker.join().unwrap();
            sums.resize_with(counts.len(), Vec::new);
            for (sum, count) in sums.iter_mut().zip(counts) {
                sum.resize(count.len(), 0);
                sum.iter_mut().zip(count).for_each(|(sum, count)| *sum += count);
            }
        }
    });
    sums
}

/// Times at which phases happen: in irregular steps, some of them none.
fn phase_ns(phase: usize) -> u64 {
    S + (phase as u64 * phase as u64 % 7) * 13_000_000 + phase as u64 / 3 * 100_000_000
}

#[test]
fn one_hot_key_is_admitted_exactly_as_by_the_oracle() {
    let rate = rate(100, 40);
    for threads in THREADS {
        let table = Table::with_key(1 << 16, KEY);
        let per_thread = 512 / threads + 1;
        let counts = in_phases(threads, 60, |_, phase| {
            let now_ns = phase_ns(phase);
            vec![(0..per_thread).filter(|_| table.charge(who(7), &rate, now_ns).is_admitted()).count() as u64]
        });
        let mut oracle = Oracle::default();
        for (phase, count) in counts.iter().enumerate() {
            let arrivals = per_thread * threads;
            let expected = (0..arrivals).filter(|_| oracle.charge(7, &rate, phase_ns(phase))).count() as u64;
            assert_eq!(count[0], expected, "{threads} threads, phase {phase}");
        }
    }
}

#[test]
fn many_keys_are_admitted_exactly_as_by_the_oracle() {
    const KEYS: u64 = 300;
    let rates = [rate(10, 3), rate(1, 1), rate(1_000, 5)];
    for threads in THREADS {
        let table = Table::with_key(1 << 19, KEY);
        let counts = in_phases(threads, 20, |thread, phase| {
            let now_ns = phase_ns(phase);
            let mut admitted = vec![0; KEYS as usize];
            for step in 0..KEYS {
                // Every thread in its own order, some keys new in every phase.
                let key = (step * 7 + thread as u64 * 31) % KEYS;
                if key <= phase as u64 * 20 {
                    let charge = table.charge(who(key), &rates[key as usize % 3], now_ns);
                    admitted[key as usize] += charge.is_admitted() as u64;
                }
            }
            admitted
        });
        let mut oracle = Oracle::default();
        for (phase, counts) in counts.iter().enumerate() {
            for key in (0..KEYS).filter(|&key| key <= phase as u64 * 20) {
                let rate = &rates[key as usize % 3];
                let expected =
                    (0..threads).filter(|_| oracle.charge(key, rate, phase_ns(phase))).count() as u64;
                assert_eq!(counts[key as usize], expected, "{threads} threads, phase {phase}, key {key}");
            }
        }
    }
}

#[test]
fn a_new_key_met_by_all_threads_at_once_gets_one_cell() {
    let once = rate(1, 1);
    for threads in [2, 8, 64] {
        // Room for seven keys a set, and far more keys than cells over time: every phase re-keys.
        let table = Table::with_key(128 * 64, KEY);
        let counts = in_phases(threads, 200, |_, phase| {
            let now_ns = S + phase as u64 * (S + CLOCK_LAG_NS_MAX);
            (0..20)
                .map(|key| table.charge(who(phase as u64 * 20 + key), &once, now_ns).is_admitted() as u64)
                .collect()
        });
        for (phase, counts) in counts.iter().enumerate() {
            assert!(counts.iter().all(|&count| count == 1), "{threads} threads, phase {phase}: {counts:?}");
        }
    }
}

/// Charges of one key from all threads, each under a stamp of a shared clock that never stands still.
/// Every arrival: its stamp and whether it was admitted, in the order of the stamps.
fn free_running(
    threads: usize,
    per_thread: usize,
    step_ns: u64,
    charge: impl Fn(usize, &mut Leases, u64) -> Charge + Sync,
    tokens_max: u32,
) -> Vec<(u64, bool)> {
    let clock = AtomicU64::new(S);
    let barrier = Barrier::new(threads);
    let mut arrivals: Vec<(u64, bool)> = Vec::new();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|thread| {
                let (clock, barrier, charge) = (&clock, &barrier, &charge);
                scope.spawn(move || {
                    let mut leases = Leases::with_tokens_max(threads, tokens_max);
                    barrier.wait();
                    (0..per_thread)
                        .map(|_| {
                            let now_ns = clock.fetch_add(step_ns, Ordering::Relaxed);
                            (now_ns, charge(thread, &mut leases, now_ns).is_admitted())
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        for worker in workers {
            arrivals.extend(worker.join().unwrap());
        }
    });
    arrivals.sort_unstable();
    arrivals
}

/// Whether any window over the admitted holds more than `burst + count·t/S`: exactly if a sequential GCRA of
/// that burst would refuse one of them.
fn obeys(arrivals: &[(u64, bool)], count: u64, burst: u64) -> bool {
    let (rate, mut oracle) = (rate(count, burst), Oracle::default());
    arrivals.iter().filter(|(_, admitted)| *admitted).all(|(stamp, _)| oracle.charge(0, &rate, *stamp))
}

#[test]
fn the_law_holds_on_a_clock_that_threads_read_out_of_order() {
    let (count, burst) = (100_000, 50);
    for threads in THREADS {
        let table = Table::with_key(1 << 16, KEY);
        let rate = rate(count, burst);
        let arrivals = free_running(
            threads,
            40_000 / threads,
            2_000,
            |_, _, now_ns| table.charge(who(1), &rate, now_ns),
            1,
        );
        assert!(obeys(&arrivals, count, burst), "{threads} threads");
        // And nothing is lost: all that the law allows is admitted, but for arrivals that overtook another.
        let admitted = arrivals.iter().filter(|(_, admitted)| *admitted).count() as u64;
        let mut oracle = Oracle::default();
        let expected = arrivals.iter().filter(|(stamp, _)| oracle.charge(0, &rate, *stamp)).count() as u64;
        assert!(
            admitted.abs_diff(expected) <= threads as u64,
            "{threads} threads: {admitted} for {expected}"
        );
    }
}

#[test]
fn leases_stay_inside_their_bound() {
    for (threads, count, burst) in
        [(1, 1_000_000, 500), (2, 1_000_000, 2_000), (8, 400_000, 10), (8, 800_000, 5_000)]
    {
        for tokens_max in [8, 32, LEASE_TOKENS_MAX] {
            let table = Table::with_key(1 << 16, KEY);
            let rate = rate(count, burst);
            let per_thread = 64_000 / threads;
            // Twice the rate: the bucket drains, and stays at its limit.
            let arrivals = free_running(
                threads,
                per_thread,
                S / count / 2,
                |_, leases, now_ns| leases.charge(&table, who(1), &rate, now_ns),
                tokens_max,
            );
            let leased = u64::from(rate.lease_tokens()).min(threads as u64 * u64::from(tokens_max));
            assert!(
                obeys(&arrivals, count, burst + leased),
                "{threads} threads, {count}/s, leases of {tokens_max}"
            );
            let admitted = arrivals.iter().filter(|(_, admitted)| *admitted).count() as u64;
            let span_ns = arrivals.last().unwrap().0 - S;
            let law = burst + span_ns / rate.emission_ns();
            assert!(
                admitted + leased + threads as u64 >= law.min(arrivals.len() as u64),
                "{threads} threads, {count}/s, leases of {tokens_max}: {admitted} of {law}"
            );
        }
    }
}

#[test]
fn a_lease_is_taken_only_where_it_is_harmless() {
    // One core, a million a second: leases. Same key, a slow rate: none.
    let table = Table::with_key(1 << 16, KEY);
    let (fast, slow) = (rate(1_000_000, 100_000), rate(900, 100));
    let mut leases = Leases::new(1);
    let cell = |table: &Table, key: u64, rate: &Rate, now_ns: u64| {
        let Charge::Admitted(next) = table.read(who(key), rate, now_ns) else { panic!("refused") };
        (next.tat_ns - now_ns) / rate.emission_ns() - 1
    };
    for step in 0..1_000 {
        assert!(leases.charge(&table, who(1), &fast, S + step).is_admitted());
        assert!(leases.charge(&table, who(2), &slow, S).is_admitted() == (step < 100));
    }
    let ahead = cell(&table, 1, &fast, S + 999) - 1_000;
    assert!(ahead > 0 && ahead < u64::from(LEASE_TOKENS_MAX), "{ahead} tokens leased and unspent");
    // Given back when the core has nothing to do; time has given back a token in the meantime.
    leases.give_back(&table, S + 999);
    assert!(cell(&table, 1, &fast, S + 999).abs_diff(1_000) <= 1);
    // A key that comes every three milliseconds is not hot.
    for step in 1..100 {
        let now_ns = 2 * S + step * 3_000_000;
        assert!(leases.charge(&table, who(3), &fast, now_ns).is_admitted());
        assert_eq!(cell(&table, 3, &fast, now_ns), 1);
    }
    // Near the limit every charge is exact.
    let near = rate(1_000_000, 300);
    let admitted = (0..1_000).filter(|_| leases.charge(&table, who(4), &near, 3 * S).is_admitted()).count();
    assert_eq!(admitted, 300);
}

#[test]
fn ten_million_keys_fit_and_a_blocked_one_stays_blocked() {
    const BYTES: usize = 64 << 20;
    const KEYS: u64 = 10_000_000;
    let table = Table::with_key(BYTES, KEY);
    assert!(table.bytes() <= BYTES);
    let (brief, hour) = (rate(1, 1), Rate::new(1, 3_600 * S, 1).unwrap());
    for key in 0..1_000 {
        assert!(table.charge(who(KEYS + key), &hour, S).is_admitted());
    }
    // A million new keys a second, each good for one: never more than 1.1 million of 3.7 million cells.
    let (mut shared, mut refused) = (0, 0);
    for key in 0..KEYS {
        match table.charge(who(key), &brief, S + key * 1_000) {
            Charge::Admitted(admitted) => shared += admitted.shared as u64,
            Charge::Refused { .. } => refused += 1,
        }
    }
    let end_ns = S + KEYS * 1_000;
    println!("{KEYS} keys in {} bytes: {shared} through an overflow, {refused} refused there", table.bytes());
    assert_eq!((shared, refused), (0, 0));
    assert!((0.2..0.35).contains(&table.used_ratio(end_ns)), "{}", table.used_ratio(end_ns));
    for key in 0..1_000 {
        assert!(!table.charge(who(KEYS + key), &hour, end_ns).is_admitted(), "key {key} was forgotten");
    }
}

#[test]
fn a_table_half_full_seldom_turns_a_key_away() {
    let table = Table::with_key(8 << 20, KEY);
    let hour = Rate::new(1, 3_600 * S, 1).unwrap();
    let mut keys = 0;
    for (percent, per_million) in [(50, 10), (70, 3_000), (80, 40_000)] {
        let (mut met, mut shared) = (0, 0);
        while keys < table.capacity() as u64 * percent / 100 {
            keys += 1;
            met += 1;
            let charge = table.charge(who(keys), &hour, S);
            shared += charge.admitted().is_none_or(|admitted| admitted.shared) as u64;
        }
        println!("up to {percent} % live: {shared} of {met} new keys met no free cell");
        assert!(shared * 1_000_000 <= met * per_million, "{percent} %: {shared} of {met}");
    }
}

#[test]
fn more_live_keys_than_cells_admit_no_more_than_their_law() {
    let table = Table::with_key(1 << 20, KEY);
    let hour = Rate::new(1, 3_600 * S, 1).unwrap();
    let (mut own, mut shared) = (0, 0);
    for round in 0..2 {
        for key in 0..200_000 {
            if let Some(admitted) = table.charge(who(key), &hour, S + round).admitted() {
                assert_eq!(round, 0, "key {key} was admitted twice");
                if admitted.shared { shared += 1 } else { own += 1 }
            }
        }
    }
    // The rest of the cells went to keys that first had to pay off their home's overflow.
    assert!((table.capacity() * 95 / 100..=table.capacity()).contains(&own), "{own}");
    assert!(shared <= table.bytes() / 128, "every set's overflow admits one: {shared}");
    assert_eq!(table.used_ratio(S), 1.0);
}

#[test]
fn limits_charged_together_are_charged_all_or_none() {
    for threads in THREADS {
        let tables = Tables::new(1 << 17, threads);
        let (wide, narrow) = (rate(1, 500), rate(1, 10));
        let demand = |keys, key, rate| Demand::new(keys, who(key), rate);
        let counts = in_phases(threads, 1, |_, _| {
            let mut core = PerCore::default();
            let admitted = (0..200)
                .filter(|_| {
                    let mut demands = [demand(Keys::Minted, 1, wide), demand(Keys::Identities, 2, narrow)];
                    charge_all(&tables, &mut core, &mut demands, S).is_ok()
                })
                .count();
            vec![admitted as u64]
        });
        assert_eq!(counts[0][0], 10, "{threads} threads");
        let left = tables.minted.read(who(1), &wide, S).admitted().unwrap();
        assert_eq!(
            wide.remaining(left.tat_ns, S),
            500 - 10 - 1,
            "{threads} threads: what failed was given back"
        );
        // The longest wait is named.
        let mut core = PerCore::default();
        let minute = Rate::new(1, 60 * S, 1).unwrap();
        let mut demands = [demand(Keys::Identities, 2, narrow), demand(Keys::Minted, 9, minute)];
        assert_eq!(charge_all(&tables, &mut core, &mut demands, S), Err((0, S)));
        assert!(demands[1].charge.unwrap().is_admitted(), "would have been");
        assert!(tables.minted.charge(who(9), &minute, S).is_admitted(), "but was not charged");
        assert_eq!(charge_all(&tables, &mut core, &mut demands, S), Err((1, 60 * S)));
    }
}
