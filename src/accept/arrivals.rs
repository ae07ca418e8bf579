//! How often one address may connect: `node.connections.address_rate`. Exact over all cores, without a lock.
//!
//! A new connection takes a token of its address, of IPv4 the whole, of IPv6 the /64; and of IPv6 another of the /48 around it,
//! which has several times the rate and burst ([`narrow_and_wide`]), since one subscriber commonly has a /56 or a /48. Both, or
//! none and it is reset. An address that is refused pays nothing: however hard it tries, it gets its rate.
//!
//! The law and the table are those of the limits of requests ([`crate::policy::limit`]), with memory of their own: who floods
//! the node with connections takes no cell of a limit.
//!
//! # Bounds
//! [`BYTES`] hold 229,376 addresses at once, each for as long as its bucket takes to fill and a tenth of a second; the memory is
//! resident as it is used, so that it costs nothing where there is no rate. None is forgotten before. While there are more,
//! a new one is let in and counted only by [`super::caps`]: so many addresses are no attack that a bound on one could end, and
//! whoever is new among them is refused for none of them.
//!
//! # Cost
//! No rate: one branch per connection. Else a hash and a compare-and-swap, a refusal only reads; of IPv6 twice that. Nothing is
//! allocated, nothing has been done for the connection but to accept it. Nothing per request.
//!
//! Not for: how many connections there are ([`super::caps`]), rates of requests. Called by the accept loop.

use std::net::IpAddr;

use crate::http::Reason;
use crate::policy::limit::rate::narrow_and_wide;
use crate::policy::limit::{Charge, Fingerprint, LimitId, Rate, RateError, Table};

/// An address connects more often than it may.
pub const CONNECTIONS_RATE: Reason =
    Reason::client("connections_rate", 2217, 429, "Too many new connections from this address");

/// Memory for the addresses that have connected of late.
pub const BYTES: usize = 4 << 20;

/// How often an address may connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArrivalRate {
    /// Of an IPv4 address or an IPv6 /64.
    address: Rate,
    /// Of an IPv6 /48.
    network: Rate,
}

impl ArrivalRate {
    /// `count` connections in `period_ns` nanoseconds, at most `burst` at once.
    ///
    /// # Errors
    /// Those of [`Rate::new`].
    pub fn new(count: u64, period_ns: u64, burst: u64) -> Result<ArrivalRate, RateError> {
        let (address, network) = narrow_and_wide(count, period_ns, burst)?;
        Ok(ArrivalRate { address, network })
    }
}

/// The addresses that have connected of late. Lives as long as the process: reloads and all cores share it.
#[derive(Debug)]
pub struct Arrivals {
    table: Table,
    address: LimitId,
    network: LimitId,
}

impl Default for Arrivals {
    fn default() -> Arrivals {
        Arrivals::within(BYTES)
    }
}

impl Arrivals {
    fn within(bytes: usize) -> Arrivals {
        Arrivals {
            table: Table::new(bytes),
            address: LimitId::new("connections"),
            network: LimitId::new("connections /48"),
        }
    }

    /// Counts a new connection of `address`, if its rate has room for it at `now_ns`.
    ///
    /// # Errors
    /// [`CONNECTIONS_RATE`]; nothing is counted then.
    pub fn admit(&self, rate: &ArrivalRate, address: IpAddr, now_ns: u64) -> Result<(), Reason> {
        let v6 = match address.to_canonical() {
            IpAddr::V4(v4) => {
                let who = self.table.fingerprint(self.address, &v4.octets());
                return self.take(who, &rate.address, now_ns).map(drop);
            }
            IpAddr::V6(v6) => v6.octets(),
        };
        let who = self.table.fingerprint(self.address, &v6[..8]);
        let around = self.table.fingerprint(self.network, &v6[..6]);
        // Looked at first, so that of a network which churns no /64 takes a cell, or has to give anything back.
        if !self.table.read(around, &rate.network, now_ns).is_admitted() {
            return Err(CONNECTIONS_RATE);
        }
        let taken = self.take(who, &rate.address, now_ns)?;
        self.take(around, &rate.network, now_ns).map(drop).inspect_err(|_| {
            if let Some(taken) = taken.admitted() {
                self.table.refund(who, &taken, now_ns);
            }
        })
    }

    fn take(&self, who: Fingerprint, rate: &Rate, now_ns: u64) -> Result<Charge, Reason> {
        match self.table.charge_if_room(who, rate, now_ns) {
            Charge::Refused { .. } => Err(CONNECTIONS_RATE),
            taken => Ok(taken),
        }
    }

    /// The share of its memory that is in use. For the metric, from the control thread.
    pub fn used_ratio(&self, now_ns: u64) -> f64 {
        self.table.used_ratio(now_ns)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::net::{Ipv4Addr, Ipv6Addr};
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::thread;

    use proptest::prelude::*;

    use super::*;
    use crate::policy::limit::rate::WIDE_FACTOR;

    const S: u64 = 1_000_000_000;

    fn rate(count: u64, burst: u64) -> ArrivalRate {
        ArrivalRate::new(count, S, burst).expect("a rate")
    }

    fn v4(number: u32) -> IpAddr {
        Ipv4Addr::from(number).into()
    }

    /// An address of a /48 and a /64 in it.
    fn v6(network: u16, subnet: u16, host: u16) -> IpAddr {
        Ipv6Addr::new(0x2001, 0xdb8, network, subnet, 0, 0, 0, host).into()
    }

    fn admitted(
        arrivals: &Arrivals,
        rate: &ArrivalRate,
        addresses: impl IntoIterator<Item = IpAddr>,
        now_ns: u64,
    ) -> usize {
        addresses.into_iter().filter(|address| arrivals.admit(rate, *address, now_ns).is_ok()).count()
    }

    #[test]
    fn a_burst_comes_at_once_and_then_the_rate() {
        let (arrivals, rate) = (Arrivals::default(), rate(10, 4));
        assert_eq!(admitted(&arrivals, &rate, [v4(1); 9], S), 4);
        assert_eq!(arrivals.admit(&rate, v4(1), S), Err(CONNECTIONS_RATE));
        assert_eq!(admitted(&arrivals, &rate, [v4(2); 9], S), 4, "another address has its own");
        assert_eq!(admitted(&arrivals, &rate, [v4(1); 9], S + S / 10 - 1), 0);
        // Attempts that were refused cost nothing.
        assert_eq!(admitted(&arrivals, &rate, [v4(1); 9], S + S / 10), 1);
        assert_eq!(admitted(&arrivals, &rate, [v4(1); 9], 2 * S), 4);
        let mapped = Ipv4Addr::from(1).to_ipv6_mapped().into();
        assert_eq!(arrivals.admit(&rate, mapped, 2 * S), Err(CONNECTIONS_RATE), "IPv4 in IPv6 is IPv4");
    }

    #[test]
    fn of_ipv6_the_64_counts_and_the_48_around_it_more_widely() {
        let (arrivals, rate) = (Arrivals::default(), rate(10, 4));
        assert_eq!(admitted(&arrivals, &rate, (0..9).map(|host| v6(1, 1, host)), S), 4);
        assert_eq!(admitted(&arrivals, &rate, (0..9).map(|host| v6(1, 2, host)), S), 4);
        // 65,536 subnets have 16 times what one has.
        let wide = 4 * WIDE_FACTOR as usize;
        assert_eq!(admitted(&arrivals, &rate, (3..500).map(|subnet| v6(1, subnet, 1)), S), wide - 8);
        assert_eq!(admitted(&arrivals, &rate, [v6(2, 1, 1); 9], S), 4, "another network");
        // Whom the network refused has paid nothing.
        let later = S + S / 10 / WIDE_FACTOR;
        assert_eq!(admitted(&arrivals, &rate, (400..500).map(|subnet| v6(1, subnet, 1)), later), 1);
        assert_eq!(admitted(&arrivals, &rate, [v6(1, 499, 1); 9], 3 * S), 4);
    }

    #[test]
    fn a_flood_of_fresh_addresses_refuses_nobody_and_clears_no_record() {
        // Two sets, fourteen cells.
        let (arrivals, rate) = (Arrivals::within(256), rate(1, 2));
        let churning: Vec<IpAddr> = (0..6).map(v4).collect();
        assert_eq!(admitted(&arrivals, &rate, churning.iter().copied().cycle().take(60), S), 12);
        // Far more than there is room for, all of them let in, each once.
        assert_eq!(admitted(&arrivals, &rate, (1_000..11_000).map(v4), S), 10_000);
        assert_eq!(arrivals.used_ratio(S), 1.0);
        assert_eq!(admitted(&arrivals, &rate, churning.iter().copied(), S), 0, "who churned is known");
        // When the flood is over a new one is counted as ever, and owes nothing of it.
        let later = S + 3 * S;
        assert_eq!(admitted(&arrivals, &rate, [v4(50_000); 9], later), 2);
    }

    #[test]
    fn another_rate_holds_from_the_next_connection_on() {
        let arrivals = Arrivals::default();
        assert_eq!(admitted(&arrivals, &rate(10, 20), [v4(1); 30], S), 20);
        assert_eq!(admitted(&arrivals, &rate(10, 2), [v4(1); 30], S), 0);
        assert_eq!(admitted(&arrivals, &rate(10, 30), [v4(1); 30], S), 10);
    }

    #[test]
    fn what_no_rate_can_be_is_refused() {
        assert_eq!(ArrivalRate::new(1, 86_400 * S, 1_000_000), Err(RateError::TooSlow));
        assert_eq!(ArrivalRate::new(0, S, 1), Err(RateError::Zero));
        assert!(ArrivalRate::new(S, S, S).is_ok());
    }

    /// Many cores, one address, a clock that all read: what is let in is what the law says, to the connection.
    #[test]
    fn on_many_threads_an_address_gets_its_rate_and_no_more() {
        let (arrivals, rate) = (Arrivals::default(), rate(1_000, 50));
        let clock = AtomicU64::new(S);
        let let_in = [const { AtomicU64::new(0) }; 2];
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        let now_ns = clock.fetch_add(10_000, Ordering::Relaxed);
                        for (address, let_in) in [v4(1), v6(1, 1, 1)].into_iter().zip(&let_in) {
                            if arrivals.admit(&rate, address, now_ns).is_ok() {
                                let_in.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        // 1.6 seconds.
        let passed_ns = clock.load(Ordering::Relaxed) - S;
        for let_in in &let_in {
            let let_in = let_in.load(Ordering::Relaxed);
            assert!(let_in <= 50 + passed_ns / (S / 1_000), "{let_in}");
            assert!(let_in >= 1_500, "{let_in}: hardly anybody is let in");
        }
    }

    proptest! {
        /// One thread, few addresses: the very decisions of a map of the same law.
        #[test]
        fn decisions_equal_those_of_a_map(steps in prop::collection::vec((0u32..20, 0u64..200_000_000), 1..400)) {
            let (arrivals, rate) = (Arrivals::default(), rate(5, 3));
            let mut oracle: HashMap<u32, u64> = HashMap::new();
            let mut now_ns = S;
            for (address, gap_ns) in steps {
                now_ns += gap_ns;
                let tat_ns = oracle.entry(address).or_default();
                let expected = rate.address.advance(*tat_ns, 1, 0, now_ns);
                prop_assert_eq!(arrivals.admit(&rate, v4(address), now_ns).is_ok(), expected.is_ok());
                *tat_ns = expected.unwrap_or(*tat_ns);
            }
        }
    }
}
