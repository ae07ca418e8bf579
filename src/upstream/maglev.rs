//! Consistent choice: the same key goes to the same member, and a member that comes or goes moves hardly anybody else.
//!
//! The table of Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer" (NSDI 2016, §3.4), with weights.
//! It is made by the control thread and depends on nothing but names and weights: all cores, all nodes, and a node before and
//! after its restart choose alike.

/// Places of the table: a prime well above a hundred times the members that are common.
const PLACES: usize = 65_537;
/// Places that are looked at for one key before the caller chooses otherwise.
const LOOKS_MAX: u64 = 8;

/// Keys to members.
#[derive(Debug, Default)]
pub struct Maglev {
    /// The index of a member, by place; empty where nothing is to be chosen by it.
    places: Box<[u16]>,
}

impl Maglev {
    /// A table over members with these names and weights.
    pub fn new<'n>(members: impl Iterator<Item = (&'n str, u32)>) -> Maglev {
        let members: Vec<(u64, u64, u64)> = members
            .map(|(name, weight)| {
                let hash = hash(name.as_bytes());
                let skip = mix(hash) % (PLACES as u64 - 1) + 1;
                (hash % PLACES as u64, skip, u64::from(weight.max(1)))
            })
            .collect();
        let Some(heaviest) = members.iter().map(|(_, _, weight)| *weight).max() else {
            return Maglev::default();
        };
        const NOBODY: u16 = u16::MAX;
        let mut places = vec![NOBODY; PLACES].into_boxed_slice();
        let mut next = vec![0_u64; members.len()];
        let mut owed = vec![0_u64; members.len()];
        let mut filled = 0;
        // Everybody takes the next free place of its own permutation, the heavy ones at every turn, others less often.
        while filled < PLACES {
            for (index, (offset, skip, weight)) in members.iter().enumerate() {
                owed[index] += weight;
                if owed[index] < heaviest {
                    continue;
                }
                owed[index] -= heaviest;
                loop {
                    let place = ((offset + next[index] * skip) % PLACES as u64) as usize;
                    next[index] += 1;
                    if places[place] == NOBODY {
                        places[place] = index as u16;
                        filled += 1;
                        break;
                    }
                }
                if filled == PLACES {
                    break;
                }
            }
        }
        Maglev { places }
    }

    /// The member of `key`; where that one is not fit, the one that all others would take for it too.
    pub fn choose(&self, key: u64, fit: impl Fn(usize) -> bool) -> Option<usize> {
        if self.places.is_empty() {
            return None;
        }
        (0..LOOKS_MAX)
            .map(|look| self.places[(mix(key.wrapping_add(look)) % self.places.len() as u64) as usize])
            .map(usize::from)
            .find(|&index| fit(index))
    }
}

/// FNV-1a with a last mix. Not for tables that a peer could flood: nothing is stored under it.
pub fn hash(bytes: &[u8]) -> u64 {
    mix(bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    }))
}

/// The finaliser of splitmix64.
fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|index| format!("http://10.0.0.{index}:8080")).collect()
    }

    fn table(names: &[String]) -> Maglev {
        Maglev::new(names.iter().map(|name| (name.as_str(), 1)))
    }

    fn chosen<'n>(maglev: &Maglev, names: &'n [String], key: u64) -> &'n str {
        &names[maglev.choose(key, |_| true).expect("somebody")]
    }

    #[test]
    fn everybody_gets_a_fair_share() {
        let names = names(10);
        let maglev = table(&names);
        let mut counts = [0_u32; 10];
        for key in 0..100_000 {
            counts[maglev.choose(key, |_| true).expect("somebody")] += 1;
        }
        assert!(counts.iter().all(|count| (9_300..10_700).contains(count)), "{counts:?}");
    }

    #[test]
    fn weights_are_shares() {
        let maglev = Maglev::new([("a", 3), ("b", 1)].into_iter());
        let heavy = (0..100_000).filter(|&key| maglev.choose(key, |_| true) == Some(0)).count();
        assert!((73_500..76_500).contains(&heavy), "{heavy}");
    }

    #[test]
    fn one_that_goes_moves_hardly_anybody_else() {
        let before = names(10);
        let after: Vec<String> = before.iter().filter(|name| !name.contains(".3:")).cloned().collect();
        let (old, new) = (table(&before), table(&after));
        let moved = (0..100_000)
            .filter(|&key| {
                let was = chosen(&old, &before, key);
                !was.contains(".3:") && was != chosen(&new, &after, key)
            })
            .count();
        // A tenth moves because it must. Maglev moves a few more.
        assert!(moved < 3_000, "{moved} of 100,000");
    }

    #[test]
    fn who_is_not_fit_is_replaced_by_one_and_the_same() {
        let names = names(5);
        let maglev = table(&names);
        for key in 0..1_000 {
            let first = maglev.choose(key, |_| true).expect("somebody");
            let second = maglev.choose(key, |index| index != first);
            assert!(second.is_some_and(|second| second != first));
            assert_eq!(second, maglev.choose(key, |index| index != first));
        }
        assert_eq!(maglev.choose(1, |_| false), None);
        assert_eq!(Maglev::new([].into_iter()).choose(1, |_| true), None);
    }
}
