//! What a charge costs, in nanoseconds: the shared table, alone and contended, leases, and a map per core; and what is counted of a
//! connection before it is let in.
//!
//! `cargo bench --bench limiter [-- --once | --callgrind NAME]`: medians over rounds in which the contenders take
//! turns; `--callgrind NAME` runs one of them a fixed number of times, to count its instructions.

use std::{
    hash::BuildHasher,
    hint::black_box,
    net::IpAddr,
    sync::{
        Barrier,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::Instant,
};

use ringwall::accept::arrivals::{ArrivalRate, Arrivals};
use ringwall::accept::caps::{Bounds, Caps};
use ringwall::policy::limit::{
    Counts, Fingerprint, Leases, LimitId, Rate, Table, fingerprint::FingerprintKey,
};

const S: u64 = 1_000_000_000;
const ROUNDS: usize = 7;
const CALLGRIND_CALLS: u64 = 1_000;

/// A contender: does so many operations, over `threads` threads at once; nanoseconds of one, on one thread.
struct Contender {
    name: &'static str,
    run: Box<dyn FnMut(u64) -> f64>,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut contenders = contenders();
    if let Some(at) = arguments.iter().position(|argument| argument == "--callgrind") {
        let name = arguments.get(at + 1).map_or("", String::as_str);
        match contenders.iter_mut().find(|contender| contender.name == name) {
            Some(contender) => _ = (contender.run)(CALLGRIND_CALLS),
            None => eprintln!("no contender `{name}`"),
        }
        return;
    }
    let once = arguments.iter().any(|argument| argument == "--once" || argument == "--test");
    let (rounds, operations) = if once { (1, 1_000) } else { (ROUNDS, 2_000_000) };
    println!("128-bit compare-and-swap lock-free: {}", Table::is_lock_free());
    let mut results = vec![Vec::new(); contenders.len()];
    for _ in 0..rounds {
        for (contender, results) in contenders.iter_mut().zip(&mut results) {
            results.push((contender.run)(operations));
        }
    }
    for (contender, results) in contenders.iter().zip(&mut results) {
        results.sort_by(f64::total_cmp);
        let (low, median, high) = (results[0], results[rounds / 2], results[rounds - 1]);
        println!("{:32} {median:8.1} ns  ({low:.1} to {high:.1})", contender.name);
    }
}

/// A rate that never refuses: what admitting costs.
fn fast() -> Rate {
    Rate::new(S, S, S).unwrap()
}

fn contenders() -> Vec<Contender> {
    let key = FingerprintKey::fixed(1, 2);
    let who = move |number: u64| key.fingerprint(LimitId::new("bench"), &number.to_le_bytes());
    let many: Vec<Fingerprint> = scattered(1_000_000).map(&who).collect();
    let mut all = Vec::new();
    let mut add = |name, run: Box<dyn FnMut(u64) -> f64>| all.push(Contender { name, run });

    let hot = who(1);
    let table = table(1 << 20);
    add("table/one key", {
        let (rate, table) = (fast(), table);
        Box::new(move |operations| {
            timed(operations, |step| table.charge(hot, &rate, S + step * 10).is_admitted())
        })
    });
    add("table/one key refused", {
        let (rate, table) = (Rate::new(1, 1_000 * S, 1).unwrap(), table);
        Box::new(move |operations| timed(operations, |_| table.charge(hot, &rate, S).is_admitted()))
    });
    add("table/one key, 2 threads", {
        let (rate, table) = (fast(), table);
        Box::new(move |operations| {
            contended(operations, move |_| move |step| table.charge(hot, &rate, S + step * 10).is_admitted())
        })
    });
    let wide = self::table(64 << 20);
    for (name, keys) in [("table/10,000 keys", 10_000), ("table/1,000,000 keys", 1_000_000)] {
        let (rate, many) = (fast(), many[..keys].to_vec());
        add(
            name,
            Box::new(move |operations| {
                timed(operations, |step| {
                    wide.charge(many[step as usize % many.len()], &rate, S + step).is_admitted()
                })
            }),
        );
    }
    add("table/new key each time", {
        // Every cell is free again by the time it is met: what re-keying costs.
        let (rate, fresh) = (Rate::new(1_000, S, 1).unwrap(), self::table(64 << 20));
        let (mut next, mut now_ns) = (0u64, S);
        Box::new(move |operations| {
            timed(operations, |_| {
                next += 1;
                now_ns += 1_000;
                fresh
                    .charge(Fingerprint::from_bits(next.wrapping_mul(0x9e37_79b9_7f4a_7c15)), &rate, now_ns)
                    .is_admitted()
            })
        })
    });
    for (name, tokens) in
        [("leases of 8/one key", 8), ("leases of 32/one key", 32), ("leases of 128/one key", 128)]
    {
        let rate = fast();
        let mut leases = Leases::with_tokens_max(2, tokens);
        add(
            name,
            Box::new(move |operations| {
                timed(operations, |step| leases.charge(table, hot, &rate, S + step * 10).is_admitted())
            }),
        );
    }
    for (name, tokens) in [
        ("leases of 8/one key, 2 threads", 8),
        ("leases of 32/one key, 2 threads", 32),
        ("leases of 128/one key, 2 threads", 128),
    ] {
        let rate = fast();
        add(
            name,
            Box::new(move |operations| {
                contended(operations, move |_| {
                    let mut leases = Leases::with_tokens_max(2, tokens);
                    move |step| leases.charge(table, hot, &rate, S + step * 10).is_admitted()
                })
            }),
        );
    }
    for (name, keys) in [("map per core/10,000 keys", 10_000), ("map per core/1,000,000 keys", 1_000_000)] {
        let (rate, many) = (fast(), many[..keys].to_vec());
        let mut map: hashbrown::HashMap<u64, u64> = many.iter().map(|who| (who.bits(), 0)).collect();
        add(
            name,
            Box::new(move |operations| {
                timed(operations, |step| {
                    let tat_ns = map.entry(many[step as usize % many.len()].bits()).or_insert(0);
                    rate.advance(*tat_ns, 1, 0, S + step).map(|next| *tat_ns = next).is_ok()
                })
            }),
        );
    }
    let cap = Bounds { all: 1 << 16, core: 1 << 16, address: 1 << 15 };
    add("caps/a connection comes and goes", {
        let caps = Caps::new(cap, cap.all);
        Box::new(move |operations| {
            timed(operations, |step| {
                caps.enter(0, Some(subscriber(step % 10_000))).map(|seat| caps.leave(seat)).is_ok()
            })
        })
    });
    let v6 = |number: u64| IpAddr::from(((0x2001_0db8_u128 << 32 | u128::from(number)) << 64).to_be_bytes());
    let addresses: [(&str, fn(u64) -> IpAddr); 3] = [
        ("arrivals/10,000 addresses", |step| subscriber(step % 10_000)),
        ("arrivals/a fresh address each", subscriber),
        ("arrivals/an IPv6 /64 each", v6),
    ];
    for (name, address) in addresses {
        let (arrivals, mut now_ns) = (Arrivals::default(), S);
        let rate = ArrivalRate::new(S / 100, S, S / 100).unwrap();
        add(
            name,
            Box::new(move |operations| {
                timed(operations, |step| {
                    // Two cores' worth of connections.
                    now_ns += 20_000;
                    arrivals.admit(&rate, address(step), now_ns).is_ok()
                })
            }),
        );
    }
    add("arrivals/refused", {
        let (arrivals, rate) = (Arrivals::default(), ArrivalRate::new(1, 1_000 * S, 1).unwrap());
        Box::new(move |operations| timed(operations, |_| arrivals.admit(&rate, subscriber(1), S).is_ok()))
    });
    // A request in flight: in and out again.
    let counts: &'static Counts = Box::leak(Box::new(Counts::new(4 << 20)));
    let pass = move |who| counts.enter(who, 1_000).map(|seat| counts.leave(seat)).is_some();
    add("counts/one key in and out", Box::new(move |operations| timed(operations, |_| pass(hot))));
    add(
        "counts/one key in and out, 2 threads",
        Box::new(move |operations| contended(operations, move |_| move |_| pass(hot))),
    );
    add("counts/one key refused", {
        let full = who(2);
        let seat = counts.enter(full, 1);
        Box::new(move |operations| timed(operations, |_| seat.is_some() && counts.enter(full, 1).is_none()))
    });
    add("counts/10,000 keys in and out", {
        let many = many[..10_000].to_vec();
        Box::new(move |operations| timed(operations, |step| pass(many[step as usize % many.len()])))
    });
    add("fingerprint of 16 bytes", {
        let (table, limit) = (self::table(1), LimitId::new("bench"));
        Box::new(move |operations| {
            timed(operations, |step| table.fingerprint(limit, &(step as u128).to_le_bytes()).bits() != 0)
        })
    });
    add("foldhash of 16 bytes", {
        let state = hashbrown::DefaultHashBuilder::default();
        Box::new(move |operations| {
            timed(operations, |step| state.hash_one((step as u128).to_le_bytes()) != 0)
        })
    });
    all
}

/// A table that lives as long as the benchmark.
fn table(bytes: usize) -> &'static Table {
    Box::leak(Box::new(Table::new(bytes)))
}

/// An IPv4 address.
fn subscriber(number: u64) -> IpAddr {
    IpAddr::from((number as u32).to_be_bytes())
}

/// So many numbers, in no order.
fn scattered(count: u64) -> impl Iterator<Item = u64> {
    (0..count).map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn timed(operations: u64, mut operation: impl FnMut(u64) -> bool) -> f64 {
    let start = Instant::now();
    for step in 0..operations {
        black_box(operation(step));
    }
    start.elapsed().as_nanos() as f64 / operations as f64
}

/// The same on two threads at once, on the same key.
fn contended<F, W>(operations: u64, worker: F) -> f64
where
    F: Fn(usize) -> W + Sync,
    W: FnMut(u64) -> bool + Send,
{
    let barrier = Barrier::new(2);
    let done = AtomicBool::new(false);
    let spent_ns = AtomicU64::new(0);
    let counted = AtomicU64::new(0);
    thread::scope(|scope| {
        for thread in 0..2 {
            let mut operation = worker(thread);
            let (barrier, done, spent_ns, counted) = (&barrier, &done, &spent_ns, &counted);
            scope.spawn(move || {
                barrier.wait();
                let start = Instant::now();
                let mut step = 0;
                // Until one is through, so that both are under contention all the time.
                while step < operations && !done.load(Ordering::Relaxed) {
                    for _ in 0..64 {
                        black_box(operation(step));
                        step += 1;
                    }
                }
                done.store(true, Ordering::Relaxed);
                spent_ns.fetch_add(start.elapsed().as_nanos() as u64, Ordering::Relaxed);
                counted.fetch_add(step, Ordering::Relaxed);
            });
        }
    });
    spent_ns.into_inner() as f64 / counted.into_inner() as f64
}
