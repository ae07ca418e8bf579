//! What a look into a set of a million prefixes costs, against `prefix-trie` and `iptrie`.
//!
//! Three lists: IPv4 as feeds have it (half of it /24, a third single addresses), IPv4 that is crowded into 16 of the 65,536
//! /16, IPv6 from /32 to /64 with a tenth of single addresses. Half of what is asked lies inside a prefix. All three answer the
//! same, which is checked.
//!
//! `cargo bench --bench prefixes [-- --once] [--prefixes COUNT]`

use std::collections::HashSet;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Instant;

use ipnet::{Ipv4Net, Ipv6Net};
use iptrie::map::{LCTrieMap, RTrieMap};
use iptrie::{Ipv4Prefix, Ipv6Prefix};
use prefix_trie::PrefixMap;
use ringwall::accept::prefixes::{AddressSet, Prefixes, Verdict};

const PREFIXES: usize = 1_000_000;
const ASKED: usize = 1 << 18;
const ROUNDS: usize = 7;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let once = arguments.iter().any(|argument| argument == "--once" || argument == "--test");
    let count =
        arguments.iter().position(|argument| argument == "--prefixes").and_then(|at| arguments.get(at + 1));
    let count = count.and_then(|count| count.parse().ok()).unwrap_or(if once { 20_000 } else { PREFIXES });
    let rounds = if once { 1 } else { ROUNDS };
    println!("{count} prefixes; ns a look, median of {rounds} (best)");
    v4("IPv4 as feeds have it", &feed(count), rounds);
    v4("IPv4 in 16 crowds", &crowds(count), rounds);
    v6("IPv6", &six(count), rounds);
}

/// A generator whose numbers are the same everywhere (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

fn feed(count: usize) -> Vec<Ipv4Net> {
    let mut random = Random(1);
    distinct(count, || {
        let bits = match random.below(100) {
            0..50 => 24,
            50..83 => 32,
            _ => 16 + random.below(8) as u8,
        };
        Ipv4Net::new(Ipv4Addr::from(random.next() as u32), bits).expect("a length").trunc()
    })
}

fn crowds(count: usize) -> Vec<Ipv4Net> {
    let mut random = Random(2);
    distinct(count.min(800_000), || {
        let crowd = (random.below(16) as u32 * 4099 + 300) << 16;
        let bits = if random.below(10) == 0 { 30 } else { 32 };
        Ipv4Net::new(Ipv4Addr::from(crowd | random.next() as u32 & 0xffff), bits).expect("a length").trunc()
    })
}

fn six(count: usize) -> Vec<Ipv6Net> {
    let mut random = Random(3);
    distinct(count, || {
        let bits = match random.below(10) {
            0..3 => 32,
            3..5 => 48,
            5 => 128,
            _ => 33 + random.below(32) as u8,
        };
        let provider = [0x2001u128, 0x2400, 0x2600, 0x2800, 0x2a00, 0x2a02, 0x2c00][random.below(7) as usize];
        let address = provider << 112 | u128::from(random.next()) << 48 | u128::from(random.next()) >> 16;
        Ipv6Net::new(Ipv6Addr::from(address), bits).expect("a length").trunc()
    })
}

fn distinct<T: std::hash::Hash + Eq + Copy>(count: usize, mut make: impl FnMut() -> T) -> Vec<T> {
    let mut seen = HashSet::with_capacity(count);
    let mut list = Vec::with_capacity(count);
    // A small space runs out of new ones.
    for _ in 0..count * 4 {
        let one = make();
        if seen.insert(one) {
            list.push(one);
        }
        if list.len() == count {
            break;
        }
    }
    list
}

fn compile(networks: impl Iterator<Item = (IpAddr, u8)>) -> AddressSet {
    let mut text = String::new();
    networks.for_each(|(address, bits)| text.push_str(&format!("{address}/{bits}\n")));
    let start = Instant::now();
    let mut prefixes = Prefixes::new();
    prefixes.read(text.as_bytes(), Verdict::In).expect("in order");
    let read_ms = start.elapsed().as_millis();
    let set = prefixes.compile(Verdict::Out);
    println!(
        "  ringwall: {} bytes of text read in {read_ms} ms, and compiled after {} ms; {:.1} bytes a prefix",
        text.len(),
        start.elapsed().as_millis(),
        set.bytes() as f64 / set.prefixes() as f64
    );
    set
}

fn v4(what: &str, list: &[Ipv4Net], rounds: usize) {
    println!("{what}: {} prefixes", list.len());
    let set = compile(list.iter().map(|net| (net.addr().into(), net.prefix_len())));
    let start = Instant::now();
    let theirs: PrefixMap<Ipv4Net, ()> = list.iter().map(|net| (*net, ())).collect();
    let one_ms = start.elapsed().as_millis();
    let start = Instant::now();
    let mut trie = RTrieMap::with_root(false);
    for net in list {
        trie.insert(Ipv4Prefix::from(*net), true);
    }
    let trie: LCTrieMap<Ipv4Prefix, bool> = trie.compress();
    println!("  prefix-trie: built in {one_ms} ms; iptrie: in {} ms", start.elapsed().as_millis());
    let mut random = Random(4);
    let asked: Vec<Ipv4Addr> = (0..ASKED)
        .map(|at| {
            let inside = list[random.below(list.len() as u64) as usize];
            match at % 2 {
                0 => Ipv4Addr::from(random.next() as u32),
                _ => Ipv4Addr::from(
                    inside.addr().to_bits() | random.next() as u32 & inside.hostmask().to_bits(),
                ),
            }
        })
        .collect();
    for address in &asked {
        let found = theirs.get_lpm(&Ipv4Net::from(*address)).is_some();
        assert_eq!((set.contains_v4(*address), *trie.lookup(address).1), (found, found), "{address}");
    }
    let times = [
        median(rounds, || asked.iter().filter(|address| set.contains_v4(**address)).count()),
        median(rounds, || asked.iter().filter(|a| theirs.get_lpm(&Ipv4Net::from(**a)).is_some()).count()),
        median(rounds, || asked.iter().filter(|address| *trie.lookup(*address).1).count()),
    ];
    told(times);
}

fn v6(what: &str, list: &[Ipv6Net], rounds: usize) {
    println!("{what}: {} prefixes", list.len());
    let set = compile(list.iter().map(|net| (net.addr().into(), net.prefix_len())));
    let theirs: PrefixMap<Ipv6Net, ()> = list.iter().map(|net| (*net, ())).collect();
    let mut trie = RTrieMap::with_root(false);
    for net in list {
        trie.insert(Ipv6Prefix::from(*net), true);
    }
    let trie: LCTrieMap<Ipv6Prefix, bool> = trie.compress();
    let mut random = Random(5);
    let asked: Vec<Ipv6Addr> = (0..ASKED)
        .map(|at| {
            let inside = list[random.below(list.len() as u64) as usize];
            let any = u128::from(random.next()) << 64 | u128::from(random.next());
            match at % 2 {
                0 => Ipv6Addr::from(inside.addr().to_bits() >> 112 << 112 | any >> 16),
                _ => Ipv6Addr::from(inside.addr().to_bits() | any & inside.hostmask().to_bits()),
            }
        })
        .collect();
    for address in &asked {
        let found = theirs.get_lpm(&Ipv6Net::from(*address)).is_some();
        assert_eq!((set.contains_v6(*address), *trie.lookup(address).1), (found, found), "{address}");
    }
    let times = [
        median(rounds, || asked.iter().filter(|address| set.contains_v6(**address)).count()),
        median(rounds, || asked.iter().filter(|a| theirs.get_lpm(&Ipv6Net::from(**a)).is_some()).count()),
        median(rounds, || asked.iter().filter(|address| *trie.lookup(*address).1).count()),
    ];
    told(times);
}

/// Median and best, in nanoseconds a look.
fn median(rounds: usize, mut look: impl FnMut() -> usize) -> (f64, f64) {
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            black_box(look());
            start.elapsed().as_nanos() as f64 / ASKED as f64
        })
        .collect();
    times.sort_by(f64::total_cmp);
    (times[times.len() / 2], times[0])
}

fn told(times: [(f64, f64); 3]) {
    for (name, (median, best)) in ["ringwall", "prefix-trie", "iptrie"].into_iter().zip(times) {
        println!("  {name:12} {median:7.1} ({best:.1})");
    }
}
