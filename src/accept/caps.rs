//! How many client connections there may be: in all, on one core, from one address. Exact over all cores, without a lock.
//!
//! # The table of addresses
//! A *cell* is one 64-bit word, `tag << 16 | count`, changed only by compare-and-swap; **a cell whose count is 0 equals no
//! cell**, so that nothing is ever evicted and nothing that is forgotten mattered. Eight cells are a cache line. A keyed
//! hash of the address names two lines, of which the emptier takes a new address: an attacker cannot aim at one. A
//! connection remembers its cell and leaves that one, so that it need not be found again.
//!
//! Two cores may give one address a cell each at the same moment. The count of an address is therefore the *sum* over its
//! cells; it is taken again after a connection has entered, and who finds it above the bound leaves. Of any connections that
//! are in at once, the one that entered last has seen all others (each stays in its cell, and all accesses have one order),
//! so there are never more than the bound. At the very edge two that come at once may both be turned away.
//!
//! # Bounds
//! Four cells for each connection that may ever be open: both lines of a new address are full less than once in a billion
//! times then. Such a connection is let in and counts only in all.
//!
//! # Cost
//! Per connection: two cache lines, one compare-and-swap to enter, one to leave, and the same for the count of all. Nothing
//! per request.
//!
//! Not for: how often an address connects ([`super::arrivals`]), lists of addresses, what becomes of who is turned away. Called
//! by the accept loop.

use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU32, Ordering};

use crossbeam::utils::CachePadded;

use crate::http::Reason;
use crate::policy::limit::LimitId;
use crate::policy::limit::fingerprint::FingerprintKey;
use crate::sys::zeroed::{Line, zeroed_lines};

/// The node has as many connections as it may.
pub const CONNECTIONS_ALL: Reason =
    Reason::ringwall("connections_all", 2205, 503, "The node has as many connections as it may");
/// A core has as many connections as it may.
pub const CONNECTIONS_CORE: Reason =
    Reason::ringwall("connections_core", 2206, 503, "A core has as many connections as it may");
/// An address has as many connections as it may.
pub const CONNECTIONS_ADDRESS: Reason =
    Reason::client("connections_address", 2207, 429, "Too many connections from this address");

/// The most connections that one address can be granted: what a cell counts to.
pub const ADDRESS_MAX: u32 = u16::MAX as u32;
/// The most connections that a node has, whatever its descriptors.
pub const ALL_MAX: u32 = 1 << 20;
/// The fewest connections in all that a node starts with.
pub const ALL_MIN: u32 = 16;

/// Cells of a line.
const CELLS: usize = 8;
/// Cells for each connection that may be open.
const CELLS_PER_CONNECTION: usize = 4;
/// Bits of a cell that count.
const COUNT_BITS: u32 = 16;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// How many connections there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// In all.
    pub all: u32,
    /// On one core.
    pub core: u32,
    /// From one address; of IPv6, one /64.
    pub address: u32,
}

impl Bounds {
    /// What `descriptors` give room for, beside the `own` ones of the process and those of `upstream` connections, without
    /// ever coming near their end ([`super::pressure`]). The upstreams' share is at most half: clients that wait need none.
    pub fn that_fit(descriptors: u64, own: u64, upstream: u64, cores: usize) -> Bounds {
        let rest = (descriptors * 7 / 8).saturating_sub(own);
        let all = u32::try_from(rest - upstream.min(rest / 2)).unwrap_or(u32::MAX);
        Bounds::within(all, None, None, cores)
    }

    /// Bounds of `all` connections; a core has half as many again as its even share, an address a quarter of all.
    pub fn within(all: u32, core: Option<u32>, address: Option<u32>, cores: usize) -> Bounds {
        let all = all.clamp(ALL_MIN, ALL_MAX);
        let share = (u64::from(all) * 3).div_ceil(2 * cores.max(1) as u64);
        Bounds {
            all,
            core: core.unwrap_or(u32::try_from(share).unwrap_or(u32::MAX)).clamp(1, all),
            address: address.unwrap_or(all / 4).clamp(1, ADDRESS_MAX),
        }
    }
}

/// The open client connections of a node, and how many there may be.
#[derive(Debug)]
pub struct Caps {
    open: CachePadded<AtomicU32>,
    all: AtomicU32,
    core: AtomicU32,
    address: AtomicU32,
    addresses: Addresses,
}

impl Caps {
    /// Caps whose bounds may later be set to at most `connections_max` in all.
    pub fn new(bounds: Bounds, connections_max: u32) -> Caps {
        let caps = Caps {
            open: CachePadded::default(),
            all: AtomicU32::new(0),
            core: AtomicU32::new(0),
            address: AtomicU32::new(0),
            addresses: Addresses::new(connections_max.min(ALL_MAX) as usize),
        };
        caps.set(bounds);
        caps
    }

    /// Other bounds from now on; who is in stays in.
    pub fn set(&self, bounds: Bounds) {
        self.all.store(bounds.all, Ordering::Relaxed);
        self.core.store(bounds.core, Ordering::Relaxed);
        self.address.store(bounds.address.min(ADDRESS_MAX), Ordering::Relaxed);
    }

    /// The bounds in force.
    pub fn bounds(&self) -> Bounds {
        Bounds {
            all: self.all.load(Ordering::Relaxed),
            core: self.core.load(Ordering::Relaxed),
            address: self.address.load(Ordering::Relaxed),
        }
    }

    /// Connections that are open now, on all cores.
    pub fn open(&self) -> u32 {
        self.open.load(Ordering::Relaxed)
    }

    /// Lets a connection in on a core that has `on_core` already. Without an `address` it counts in all only: many clients
    /// share it, or it is not known yet ([`Caps::count`]).
    ///
    /// # Errors
    /// Which bound is reached.
    pub fn enter(&self, on_core: usize, address: Option<IpAddr>) -> Result<Seat, Reason> {
        if on_core >= self.core.load(Ordering::Relaxed) as usize {
            return Err(CONNECTIONS_CORE);
        }
        let mut seat = Seat::UNCOUNTED;
        if let Some(address) = address {
            self.count(&mut seat, address)?;
        }
        if self.open.fetch_add(1, Ordering::Relaxed) >= self.all.load(Ordering::Relaxed) {
            self.leave(seat);
            return Err(CONNECTIONS_ALL);
        }
        Ok(seat)
    }

    /// Counts a connection that is in under the address that it turned out to have. Where that is refused, the connection
    /// is still in, uncounted, and [`Caps::leave`]s as ever.
    ///
    /// # Errors
    /// The address has as many as it may.
    pub fn count(&self, seat: &mut Seat, address: IpAddr) -> Result<(), Reason> {
        self.addresses.leave(std::mem::replace(seat, Seat::UNCOUNTED));
        let most = self.address.load(Ordering::Relaxed);
        *seat =
            self.addresses.enter(self.addresses.who(address), most).map_err(|Full| CONNECTIONS_ADDRESS)?;
        Ok(())
    }

    /// A connection is gone.
    pub fn leave(&self, seat: Seat) {
        self.addresses.leave(seat);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Where a connection is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "who was let in has to leave"]
pub struct Seat(u32);

impl Seat {
    /// Under no address.
    pub const UNCOUNTED: Seat = Seat(u32::MAX);
}

/// There are as many as there may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Full;

/// The hash of an address under a table's key: two lines and a tag.
#[derive(Clone, Copy, Debug)]
struct Who {
    lines: [usize; 2],
    tag: u64,
}

/// Words of 64 bits in lines of eight, zero at first, shared by all cores. All accesses have one order.
trait Memory {
    fn lines(&self) -> usize;
    fn load(&self, line: usize, cell: usize) -> u64;
    fn replace(&self, line: usize, cell: usize, old: u64, new: u64) -> bool;
    /// Subtracts one.
    fn lower(&self, line: usize, cell: usize);
}

/// The memory of a real table.
struct Lines(Box<[Line]>);

impl Memory for Lines {
    fn lines(&self) -> usize {
        self.0.len()
    }

    #[inline]
    fn load(&self, line: usize, cell: usize) -> u64 {
        self.0[line].0[cell].load(Ordering::SeqCst)
    }

    #[inline]
    fn replace(&self, line: usize, cell: usize, old: u64, new: u64) -> bool {
        self.0[line].0[cell].compare_exchange(old, new, Ordering::SeqCst, Ordering::Relaxed).is_ok()
    }

    fn lower(&self, line: usize, cell: usize) {
        self.0[line].0[cell].fetch_sub(1, Ordering::SeqCst);
    }
}

/// Connections by address; see the module.
struct Addresses<M = Lines> {
    memory: M,
    key: FingerprintKey,
    id: LimitId,
}

impl Addresses {
    fn new(connections_max: usize) -> Addresses {
        let lines = (connections_max * CELLS_PER_CONNECTION).div_ceil(CELLS).max(2);
        Addresses::within(Lines(zeroed_lines(lines)), FingerprintKey::random())
    }
}

/// What the cells of an address's lines showed, each at its own moment.
#[derive(Default)]
struct Seen {
    count: u32,
    own: Option<(usize, usize, u64)>,
    free: Option<(usize, usize, u64)>,
}

impl<M: Memory> Addresses<M> {
    fn within(memory: M, key: FingerprintKey) -> Addresses<M> {
        Addresses { memory, key, id: LimitId::new("connections") }
    }

    /// An IPv4 address whole, also where it is written as an IPv6 one; of IPv6 the /64, which is one subscriber's at most.
    fn who(&self, address: IpAddr) -> Who {
        let bits = match address.to_canonical() {
            IpAddr::V4(v4) => self.key.fingerprint(self.id, &v4.octets()),
            IpAddr::V6(v6) => self.key.fingerprint(self.id, &v6.octets()[..8]),
        };
        self.place(bits.bits())
    }

    fn place(&self, bits: u64) -> Who {
        let lines = self.memory.lines() as u64;
        let scaled = |half: u64| ((half * lines) >> 32) as usize;
        Who { lines: [scaled(bits >> 32), scaled(bits & 0xffff_ffff)], tag: bits >> COUNT_BITS }
    }

    #[inline]
    fn look(&self, who: Who) -> Seen {
        let mut seen = Seen::default();
        let [home, refuge] = who.lines;
        let mut fewest = CELLS;
        for line in [home, refuge].into_iter().take(if home == refuge { 1 } else { 2 }) {
            let mut live = 0;
            let mut free = None;
            for cell in 0..CELLS {
                let word = self.memory.load(line, cell);
                if word & COUNT_MASK == 0 {
                    free.get_or_insert((line, cell, word));
                    continue;
                }
                live += 1;
                if word >> COUNT_BITS == who.tag {
                    seen.count += (word & COUNT_MASK) as u32;
                    seen.own.get_or_insert((line, cell, word));
                }
            }
            if live < fewest {
                fewest = live;
                seen.free = free;
            }
        }
        seen
    }

    /// Enters if fewer than `most` are in.
    fn enter(&self, who: Who, most: u32) -> Result<Seat, Full> {
        loop {
            let seen = self.look(who);
            if seen.count >= most {
                return Err(Full);
            }
            let (line, cell, old, new) = match (seen.own, seen.free) {
                (Some((line, cell, old)), _) => (line, cell, old, old + 1),
                (None, Some((line, cell, old))) => (line, cell, old, who.tag << COUNT_BITS | 1),
                (None, None) => return Ok(Seat::UNCOUNTED),
            };
            // Somebody else was faster, and so got on: look again.
            if !self.memory.replace(line, cell, old, new) {
                continue;
            }
            let seat = Seat((line * CELLS + cell) as u32);
            if self.look(who).count > most {
                self.leave(seat);
                return Err(Full);
            }
            return Ok(seat);
        }
    }

    fn leave(&self, seat: Seat) {
        if seat != Seat::UNCOUNTED {
            // Its cell cannot have been given away: it counts at least this one.
            self.memory.lower(seat.0 as usize / CELLS, seat.0 as usize % CELLS);
        }
    }
}

impl<M: Memory> fmt::Debug for Addresses<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Addresses").field("lines", &self.memory.lines()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(number))
    }

    fn caps(all: u32, core: u32, address: u32) -> Caps {
        Caps::new(Bounds { all, core, address }, all)
    }

    #[test]
    fn each_bound_lets_in_as_many_as_it_says_and_no_more() {
        let caps = caps(10, 8, 3);
        let mut seats: Vec<Seat> = (0..3).map(|_| caps.enter(0, Some(v4(1))).expect("room")).collect();
        assert_eq!(caps.enter(0, Some(v4(1))), Err(CONNECTIONS_ADDRESS));
        seats.extend((10..17).map(|address| caps.enter(0, Some(v4(address))).expect("room")));
        assert_eq!((caps.open(), caps.enter(0, Some(v4(2)))), (10, Err(CONNECTIONS_ALL)));
        caps.leave(seats.remove(0));
        assert_eq!(caps.enter(8, Some(v4(1))), Err(CONNECTIONS_CORE));
        seats.push(caps.enter(7, Some(v4(1))).expect("one has left"));
        assert_eq!(caps.enter(0, Some(v4(1))), Err(CONNECTIONS_ADDRESS));
        for seat in seats {
            caps.leave(seat);
        }
        assert_eq!(caps.open(), 0);
    }

    #[test]
    fn whom_many_share_counts_in_all_only_until_its_address_is_known() {
        let caps = caps(20, 20, 2);
        let mut seats: Vec<Seat> = (0..5).map(|_| caps.enter(0, None).expect("room")).collect();
        assert_eq!(caps.count(&mut seats[0], v4(7)), Ok(()));
        assert_eq!(caps.count(&mut seats[1], v4(7)), Ok(()));
        assert_eq!(caps.count(&mut seats[2], v4(7)), Err(CONNECTIONS_ADDRESS));
        assert_eq!(caps.count(&mut seats[1], v4(8)), Ok(()), "it leaves the one for the other");
        assert_eq!(caps.count(&mut seats[2], v4(7)), Ok(()));
        seats.into_iter().for_each(|seat| caps.leave(seat));
        assert_eq!(caps.open(), 0);
    }

    #[test]
    fn an_address_is_an_ipv4_address_or_a_64() {
        let table = Addresses::new(1000);
        let same = |a: &str, b: &str| {
            let [a, b] = [a, b].map(|text| table.who(text.parse().expect("an address")));
            (a.lines, a.tag) == (b.lines, b.tag)
        };
        assert!(same("2001:db8:1:2::1", "2001:db8:1:2:ffff::"));
        assert!(!same("2001:db8:1:2::1", "2001:db8:1:3::1"));
        assert!(same("::ffff:192.0.2.1", "192.0.2.1"));
        assert!(!same("192.0.2.1", "192.0.2.2"));
        assert!(same("::1", "::2"));
    }

    #[test]
    fn defaults_follow_the_descriptors() {
        let bounds = Bounds::that_fit(20_000, 100, 1_024, 2);
        assert_eq!(bounds, Bounds { all: 16_376, core: 12_282, address: 4_094 });
        // The upstreams get half at most.
        assert_eq!(Bounds::that_fit(1_024, 96, 100_000, 1), Bounds { all: 400, core: 400, address: 100 });
        assert_eq!(Bounds::that_fit(10, 100, 1_024, 4).all, ALL_MIN);
        assert_eq!(Bounds::that_fit(1 << 30, 100, 1_024, 4).all, ALL_MAX);
        assert_eq!(
            Bounds::within(100, Some(500), Some(1_000_000), 4),
            Bounds { all: 100, core: 100, address: ADDRESS_MAX }
        );
    }

    #[test]
    fn a_flood_of_new_addresses_finds_a_cell_for_each() {
        let table = Addresses::new(50_000);
        let seats: Vec<Seat> = (0..50_000)
            .map(|net| {
                let address = Ipv6Addr::from(0x2001_0db8_u128 << 96 | net << 64 | 1);
                table.enter(table.who(address.into()), 4).expect("new")
            })
            .collect();
        assert!(seats.iter().all(|seat| *seat != Seat::UNCOUNTED));
        // One that was there before them is counted as ever.
        let good = table.who(v4(1));
        let its: Vec<Seat> = (0..4).map(|_| table.enter(good, 4).expect("room")).collect();
        assert_eq!(table.enter(good, 4), Err(Full));
        seats.into_iter().chain(its).for_each(|seat| table.leave(seat));
        assert!(
            (0..table.memory.lines())
                .all(|line| (0..CELLS).all(|cell| table.memory.load(line, cell) & COUNT_MASK == 0))
        );
    }

    #[test]
    fn where_both_lines_are_full_a_connection_is_let_in_uncounted() {
        let table = Addresses::within(Lines(zeroed_lines(1)), FingerprintKey::fixed(1, 2));
        let seats: Vec<Seat> = (0..8).map(|n| table.enter(table.who(v4(n)), 1).expect("new")).collect();
        assert_eq!(table.enter(table.who(v4(9)), 1), Ok(Seat::UNCOUNTED));
        assert_eq!(table.enter(table.who(v4(3)), 1), Err(Full), "whoever has a cell is still counted");
        table.leave(seats[5]);
        assert_eq!(table.enter(table.who(v4(9)), 1), Ok(seats[5]));
    }

    #[test]
    fn on_many_threads_there_are_never_more_than_the_bound() {
        const MOST: u32 = 7;
        let caps = caps(1_000, 1_000, MOST);
        let inside: Vec<AtomicU32> = (0..3).map(|_| AtomicU32::new(0)).collect();
        thread::scope(|scope| {
            for thread in 0..8u32 {
                let (caps, inside) = (&caps, &inside);
                scope.spawn(move || {
                    let mut held: Vec<(usize, Seat)> = Vec::new();
                    let mut random = thread.wrapping_mul(0x9e37_79b9) | 1;
                    for _ in 0..20_000 {
                        random ^= random << 13;
                        random ^= random >> 17;
                        random ^= random << 5;
                        let which = random as usize % 3;
                        if random & 64 == 0 && !held.is_empty() {
                            let (which, seat) = held.swap_remove(random as usize / 128 % held.len());
                            inside[which].fetch_sub(1, Ordering::SeqCst);
                            caps.leave(seat);
                        } else if let Ok(seat) = caps.enter(0, Some(v4(which as u32))) {
                            assert!(inside[which].fetch_add(1, Ordering::SeqCst) < MOST);
                            held.push((which, seat));
                        }
                    }
                    for (which, seat) in held {
                        inside[which].fetch_sub(1, Ordering::SeqCst);
                        caps.leave(seat);
                    }
                });
            }
        });
        assert_eq!(caps.open(), 0);
    }

    proptest! {
        /// One thread: the very decisions of a map that counts.
        #[test]
        fn decisions_equal_those_of_a_map(steps in prop::collection::vec((0u32..40, prop::bool::ANY), 1..500)) {
            let caps = caps(64, 64, 3);
            let mut oracle: HashMap<u32, Vec<Seat>> = HashMap::new();
            let mut open = 0;
            for (address, leaves) in steps {
                let seats = oracle.entry(address).or_default();
                if leaves {
                    if let Some(seat) = seats.pop() {
                        caps.leave(seat);
                        open -= 1;
                    }
                    continue;
                }
                let expected = match seats.len() {
                    3 => Err(CONNECTIONS_ADDRESS),
                    _ if open == 64 => Err(CONNECTIONS_ALL),
                    _ => Ok(()),
                };
                let got = caps.enter(0, Some(v4(address)));
                prop_assert_eq!(got.map(|_| ()), expected);
                if let Ok(seat) = got {
                    seats.push(seat);
                    open += 1;
                }
                prop_assert_eq!(caps.open(), open);
            }
        }
    }
}

#[cfg(test)]
mod model {
    //! The interleavings of the table, explored: the same code on words whose every access is a scheduling point.

    use std::net::Ipv4Addr;

    use shuttle::sync::{Arc, Mutex};
    use shuttle::{check_pct, check_random, thread};

    use super::*;

    struct Words(Vec<Mutex<u64>>);

    impl Memory for Words {
        fn lines(&self) -> usize {
            self.0.len() / CELLS
        }

        fn load(&self, line: usize, cell: usize) -> u64 {
            *self.0[line * CELLS + cell].lock().unwrap()
        }

        fn replace(&self, line: usize, cell: usize, old: u64, new: u64) -> bool {
            let mut word = self.0[line * CELLS + cell].lock().unwrap();
            let same = *word == old;
            if same {
                *word = new;
            }
            same
        }

        fn lower(&self, line: usize, cell: usize) {
            *self.0[line * CELLS + cell].lock().unwrap() -= 1;
        }
    }

    /// Cells come and go while others of the same address enter: the moment at which an address gets two cells.
    #[test]
    fn an_address_is_never_in_more_often_than_it_may_be() {
        const MOST: u32 = 2;
        let scenario = || {
            let words = Words((0..CELLS).map(|_| Mutex::new(0)).collect());
            let table = Arc::new(Addresses::within(words, FingerprintKey::fixed(3, 5)));
            let inside = Arc::new(Mutex::new(0u32));
            let other = table.enter(table.who(Ipv4Addr::new(10, 0, 0, 1).into()), 1).unwrap();
            let leaver = {
                let table = table.clone();
                thread::spawn(move || table.leave(other))
            };
            let threads: Vec<_> = (0..3)
                .map(|_| {
                    let (table, inside) = (table.clone(), inside.clone());
                    thread::spawn(move || {
                        let Ok(seat) = table.enter(table.who(Ipv4Addr::new(10, 0, 0, 2).into()), MOST) else {
                            return;
                        };
                        {
                            let mut inside = inside.lock().unwrap();
                            *inside += 1;
                            assert!(*inside <= MOST);
                        }
                        *inside.lock().unwrap() -= 1;
                        table.leave(seat);
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| thread.join().unwrap());
            leaver.join().unwrap();
            assert!((0..CELLS).all(|cell| table.memory.load(0, cell) & COUNT_MASK == 0));
        };
        check_random(scenario, 300);
        check_pct(scenario, 200, 3);
    }
}
