//! A model of the tables' interleavings: the same code on words whose every access is a scheduling point.
//!
//! Shuttle runs each scenario under many hundreds of schedules, random and with few preemptions (PCT). It knows
//! only sequential consistency; that is what the table needs, since a cell is one word and the gate's holder
//! reads only words that compare-and-swap wrote.

use shuttle::{
    check_pct, check_random,
    sync::{Arc, Mutex},
    thread,
};

use super::{
    cells::Memory,
    counts::Counts,
    fingerprint::{Fingerprint, FingerprintKey, LimitId},
    gcra::Rate,
    table::{CLOCK_LAG_NS_MAX, Table},
};

const S: u64 = 1_000_000_000;
const KEY: FingerprintKey = FingerprintKey::fixed(3, 5);

/// One or two sets of eight words.
struct Words(Vec<Mutex<u128>>);

impl Memory for Words {
    fn sets(&self) -> usize {
        self.0.len() / 8
    }

    fn load(&self, set: usize, word: usize) -> u128 {
        *self.0[set * 8 + word].lock().unwrap()
    }

    fn compare_exchange(&self, set: usize, word: usize, old: u128, new: u128) -> Result<(), u128> {
        let mut value = self.0[set * 8 + word].lock().unwrap();
        if *value != old {
            return Err(*value);
        }
        *value = new;
        Ok(())
    }

    fn wait(&self, _: u32) {
        thread::yield_now();
    }
}

type Model = Arc<Table<Words>>;

fn words(sets: usize) -> Words {
    Words((0..8 * sets).map(|_| Mutex::new(0)).collect())
}

fn model(sets: usize) -> Model {
    Arc::new(Table::in_memory(words(sets), KEY))
}

fn who(number: u64) -> Fingerprint {
    KEY.fingerprint(LimitId::new("model"), &number.to_le_bytes())
}

fn rate(burst: u64) -> Rate {
    Rate::new(1, S, burst).unwrap()
}

/// Charges each key once at its time, each on a thread of its own; how many were admitted.
fn charge_at_once(table: &Model, rate: Rate, charges: &[(u64, u64)]) -> usize {
    let threads: Vec<_> = charges
        .iter()
        .map(|&(key, now_ns)| {
            let table = table.clone();
            thread::spawn(move || table.charge(who(key), &rate, now_ns).is_admitted())
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap() as usize).sum()
}

fn explore(scenario: impl Fn() + Send + Sync + Copy + 'static) {
    check_random(scenario, 1_000);
    check_pct(scenario, 500, 3);
}

#[test]
fn insert_insert_the_same_key_is_inserted_once() {
    explore(|| {
        let table = model(1);
        assert_eq!(charge_at_once(&table, rate(2), &[(1, S), (1, S), (1, S)]), 2);
        assert_eq!(table.used_ratio(S), 1.0 / 7.0);
    });
}

#[test]
fn insert_insert_two_keys_get_a_cell_each() {
    explore(|| {
        let table = model(1);
        assert_eq!(charge_at_once(&table, rate(1), &[(1, S), (2, S), (1, S)]), 2);
        assert_eq!(table.used_ratio(S), 2.0 / 7.0);
        assert_eq!(charge_at_once(&table, rate(1), &[(1, S), (2, S)]), 0);
    });
}

#[test]
fn insert_insert_the_last_cell_is_given_once() {
    explore(|| {
        let table = model(1);
        for key in 10..16 {
            assert!(table.charge(who(key), &rate(1), S).is_admitted());
        }
        // One gets the cell, the other two share one token of the overflow.
        assert_eq!(charge_at_once(&table, rate(1), &[(1, S), (2, S), (3, S)]), 2);
        assert_eq!(charge_at_once(&table, rate(1), &[(1, S), (2, S), (3, S)]), 0);
    });
}

#[test]
fn insert_insert_who_finds_no_cell_passes_and_who_finds_one_pays() {
    explore(|| {
        let table = model(1);
        for key in 10..16 {
            assert!(table.charge_if_room(who(key), &rate(1), S).is_admitted());
        }
        // One cell is left: its key is charged, the others are not, and none is refused for another.
        let threads: Vec<_> = (1..=3)
            .map(|key| {
                let table = table.clone();
                thread::spawn(move || table.charge_if_room(who(key), &rate(1), S).is_admitted())
            })
            .collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
        let again = (1..=3).filter(|&key| table.charge_if_room(who(key), &rate(1), S).is_admitted()).count();
        assert_eq!(again, 2);
    });
}

#[test]
fn insert_evict_a_key_that_comes_back_is_not_forgotten() {
    explore(|| {
        let table = model(1);
        for key in 0..7 {
            assert!(table.charge(who(key), &rate(1), S).is_admitted());
        }
        // All seven may be re-keyed now; one comes back while a new one looks for a cell.
        let now = 2 * S + CLOCK_LAG_NS_MAX;
        assert_eq!(charge_at_once(&table, rate(1), &[(0, now), (100, now), (0, now)]), 2);
        assert_eq!(charge_at_once(&table, rate(1), &[(0, now), (100, now)]), 0);
    });
}

#[test]
fn advance_evict_no_charge_is_lost_or_paid_by_another() {
    explore(|| {
        let table = model(1);
        for key in 0..7 {
            assert!(table.charge(who(key), &rate(2), S).is_admitted());
        }
        let now = 2 * S + CLOCK_LAG_NS_MAX;
        // A core whose clock lags by as much as it may, against two that re-key.
        let late = now - CLOCK_LAG_NS_MAX;
        assert_eq!(charge_at_once(&table, rate(2), &[(3, late), (100, now), (101, now)]), 3);
        // Each has at most one left (none, if the late one found no cell and its overflow was inherited).
        for key in [3, 100, 101] {
            assert!(charge_at_once(&table, rate(2), &[(key, now), (key, now)]) <= 1);
        }
    });
}

#[test]
fn refunds_and_charges_of_a_key_add_up() {
    explore(|| {
        let table = model(1);
        let receipt = table.charge(who(1), &rate(3), S).admitted().unwrap();
        let refund = {
            let table = table.clone();
            thread::spawn(move || table.refund(who(1), &receipt, S))
        };
        assert_eq!(charge_at_once(&table, rate(3), &[(1, S), (1, S)]), 2);
        refund.join().unwrap();
        assert_eq!(table.read(who(1), &rate(3), S).admitted().unwrap().tat_ns, 4 * S);
    });
}

#[test]
fn refunds_and_charges_of_an_overflow_add_up() {
    explore(|| {
        let table = model(1);
        for key in 10..17 {
            assert!(table.charge(who(key), &rate(1), S).is_admitted());
        }
        let receipt = table.charge(who(1), &rate(1), S).admitted().unwrap();
        assert!(receipt.shared);
        let refund = {
            let table = table.clone();
            thread::spawn(move || table.refund(who(1), &receipt, S))
        };
        let admitted = charge_at_once(&table, rate(1), &[(2, S), (3, S)]);
        refund.join().unwrap();
        let left = charge_at_once(&table, rate(1), &[(4, S)]);
        assert_eq!(admitted + left, 1);
    });
}

/// Keys whose home is the first of two sets, and their refuge the other.
fn guests() -> impl Iterator<Item = u64> {
    (0..).filter(|&key| who(key).bits() >> 63 == 0 && who(key).bits() >> 31 & 1 == 1)
}

#[test]
fn insert_evict_a_key_moves_between_its_two_sets_without_being_doubled() {
    explore(|| {
        let table = model(2);
        let keys: Vec<u64> = guests().take(16).collect();
        // Home is full of them, the rest is in the refuge, which is full but for one.
        for &key in &keys[..13] {
            assert!(!table.charge(who(key), &rate(1), S).admitted().unwrap().shared);
        }
        assert_eq!(charge_at_once(&table, rate(1), &[(keys[13], S), (keys[14], S), (keys[13], S)]), 2);
        // All may be re-keyed: one comes back, twice, while new ones take cells of both sets.
        let now = 2 * S + CLOCK_LAG_NS_MAX;
        let back = keys[12];
        assert_eq!(charge_at_once(&table, rate(1), &[(back, now), (keys[15], now), (back, now)]), 2);
        assert_eq!(charge_at_once(&table, rate(1), &[(back, now), (keys[15], now)]), 0);
    });
}

// ---- requests in flight

/// These scenarios are longer: fewer schedules of each.
fn explore_briefly(scenario: impl Fn() + Send + Sync + Copy + 'static) {
    check_random(scenario, 300);
    check_pct(scenario, 200, 3);
}

type CountsModel = Arc<Counts<Words>>;

/// Who enters, once each, on a thread of its own, stays for a moment and leaves; how many got in. At no moment are more than
/// `most` of the key `watched` in, of whom `before` are in already.
fn pass_through(counts: &CountsModel, most: u32, keys: &[u64], (watched, before): (u64, u32)) -> usize {
    let inside = Arc::new(Mutex::new(before));
    let threads: Vec<_> = keys
        .iter()
        .map(|&key| {
            let (counts, inside) = (counts.clone(), inside.clone());
            thread::spawn(move || {
                let Some(seat) = counts.enter(who(key), most) else { return 0 };
                if key == watched {
                    let mut inside = inside.lock().unwrap();
                    *inside += 1;
                    assert!(*inside <= most, "more are in than may be");
                }
                thread::yield_now();
                if key == watched {
                    *inside.lock().unwrap() -= 1;
                }
                counts.leave(seat);
                1
            })
        })
        .collect();
    threads.into_iter().map(|thread| thread.join().unwrap()).sum()
}

fn is_empty(counts: &CountsModel) -> bool {
    // Keys that were never here have no cell: of them the overflow of their home is told.
    counts.used_ratio() == 0.0 && (9_000..9_004).all(|key| counts.inside(who(key)) == 0)
}

fn counts(sets: usize) -> CountsModel {
    Arc::new(Counts::in_memory(words(sets), KEY))
}

#[test]
fn enter_enter_the_bound_holds_and_nobody_is_refused_below_it() {
    explore_briefly(|| {
        let counts = counts(1);
        assert_eq!(pass_through(&counts, 2, &[1, 1], (1, 0)), 2, "there is room for both");
        let admitted = pass_through(&counts, 2, &[1, 1, 1], (1, 0));
        assert!(admitted >= 2);
        assert!(is_empty(&counts));
    });
}

#[test]
fn enter_leave_rekey_the_bound_holds_while_cells_come_and_go() {
    explore_briefly(|| {
        let counts = counts(1);
        // All seven cells belong to somebody who is gone: each who enters takes one that another may want.
        for key in 10..17 {
            let seat = counts.enter(who(key), 1).unwrap();
            counts.leave(seat);
        }
        pass_through(&counts, 1, &[10, 10, 1, 10], (10, 0));
        assert!(is_empty(&counts));
    });
}

#[test]
fn seats_of_a_key_in_the_overflow_and_in_a_cell_are_never_more_than_the_bound() {
    explore_briefly(|| {
        let counts = counts(1);
        let mut there: Vec<_> = (10..17).map(|key| counts.enter(who(key), 1).unwrap()).collect();
        // One of the key is in the overflow; then a cell becomes free while others of it come, and go.
        let shared = counts.enter(who(1), 2).unwrap();
        let leaver = {
            let (counts, seat) = (counts.clone(), there.pop().unwrap());
            thread::spawn(move || counts.leave(seat))
        };
        pass_through(&counts, 2, &[1, 1, 1], (1, 1));
        leaver.join().unwrap();
        counts.leave(shared);
        there.into_iter().for_each(|seat| counts.leave(seat));
        assert!(is_empty(&counts));
    });
}

#[test]
fn a_mixed_cell_that_is_given_away_is_not_forgotten() {
    explore_briefly(|| {
        let counts = counts(1);
        let mut there: Vec<_> = (10..17).map(|key| counts.enter(who(key), 1).unwrap()).collect();
        let shared = counts.enter(who(1), 2).unwrap();
        counts.leave(there.pop().unwrap());
        let own = counts.enter(who(1), 2).unwrap();
        let leaver = {
            let counts = counts.clone();
            thread::spawn(move || {
                counts.leave(own);
                counts.leave(shared);
            })
        };
        // Another key takes the cell as soon as it is empty, and the first one comes back.
        pass_through(&counts, 1, &[20, 1, 1], (1, 0));
        leaver.join().unwrap();
        there.into_iter().for_each(|seat| counts.leave(seat));
        assert!(is_empty(&counts));
    });
}

#[test]
fn a_key_that_moves_between_its_two_sets_is_counted_once() {
    let keys: &'static [u64] = Box::leak(guests().take(15).collect());
    explore_briefly(move || {
        let counts = counts(2);
        let mut there: Vec<_> = keys[..13].iter().map(|&key| counts.enter(who(key), 1).unwrap()).collect();
        let (key, other) = (keys[13], keys[14]);
        let leaver = {
            let (counts, seats) = (counts.clone(), [there.remove(0), there.pop().unwrap()]);
            thread::spawn(move || seats.into_iter().for_each(|seat| counts.leave(seat)))
        };
        pass_through(&counts, 1, &[key, other, key], (key, 0));
        leaver.join().unwrap();
        there.into_iter().for_each(|seat| counts.leave(seat));
        assert!(is_empty(&counts));
    });
}
