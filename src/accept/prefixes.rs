//! Sets of addresses made of prefixes: whom a listener lets in, whom it trusts, who is blocked.
//!
//! **The law.** The longest prefix that holds an address decides; of two equal ones that disagree, the one that denies. An
//! address that no prefix holds gets the set's default. IPv4 addresses written in IPv6 (`::ffff:192.0.2.1`, RFC 4291 §2.5.5.2)
//! are IPv4 addresses, in prefixes of 96 bits and more as in what is asked.
//!
//! **The structure.** Prefixes, however nested, cut the line of all addresses into pieces that are in or out by turns; so all
//! that is kept are the cuts, in order, and an address is in or out by whether the number of cuts up to it is odd. The cuts
//! are found through an index: a node divides the span from its first cut to its last into equal parts, as many as a power
//! of two near half the number of its cuts, and a part that still holds too many is divided again.
//!
//! Cost: about two cache misses at a million prefixes, no allocation; `benches/prefixes.rs` compares. Memory: a prefix makes two
//! cuts at most, of 4 bytes (IPv4) or 16 (IPv6), and the index adds 2 to 4 bytes a cut. Immutable: made on the control side, read
//! by all cores. Not for reading files or watching them; see `control::address_lists`.

pub mod laws;

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most prefixes of one set.
pub const PREFIXES_MAX: usize = 4_000_000;
/// Longest line of a file, in bytes.
const LINE_BYTES_MAX: usize = 512;
/// How many lines are complained about at once.
pub const ERRORS_MAX: usize = 100;
/// Cuts that are searched without an index.
const SEARCHED_MAX: usize = 16;
/// Bit of an entry that leads to a node of its own.
const DEEPER: u32 = 1 << 31;

/// A network: an address and how many of its bits count. The others are zero, and an IPv4 network is never written in IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// The network of one address.
    pub fn of(address: IpAddr) -> Network {
        let address = address.to_canonical();
        Network { address, bits: if address.is_ipv4() { 32 } else { 128 } }
    }

    /// A network by its address and the bits that count; `None` if others are set or there are not as many.
    pub fn new(address: IpAddr, bits: u8) -> Option<Network> {
        match address {
            IpAddr::V4(v4) => {
                let rest = u32::MAX.checked_shr(u32::from(bits)).unwrap_or(0);
                (bits <= 32 && v4.to_bits() & rest == 0).then_some(Network { address, bits })
            }
            IpAddr::V6(v6) => {
                let rest = u128::MAX.checked_shr(u32::from(bits)).unwrap_or(0);
                if bits > 128 || v6.to_bits() & rest != 0 {
                    return None;
                }
                match v6.to_ipv4_mapped() {
                    Some(v4) if bits >= 96 => Some(Network { address: v4.into(), bits: bits - 96 }),
                    _ => Some(Network { address, bits }),
                }
            }
        }
    }

    /// Reads `192.0.2.0/24`, `2001:db8::/32` or one address.
    ///
    /// # Errors
    /// What is wrong with it, in words that follow "it".
    pub fn parse(text: &[u8]) -> Result<Network, &'static str> {
        let (address, bits) = match text.iter().position(|byte| *byte == b'/') {
            None => (text, None),
            Some(at) => (&text[..at], Some(&text[at + 1..])),
        };
        let address = std::str::from_utf8(address).ok().and_then(|text| text.parse::<IpAddr>().ok());
        let address = address.ok_or("is not an address or a network")?;
        let Some(bits) = bits else { return Ok(Network::of(address)) };
        let bits: u8 = match bits {
            // No sign, no leading zero: one spelling.
            [b'0'] | [b'1'..=b'9'] | [b'1'..=b'9', b'0'..=b'9'] | [b'1', b'0'..=b'9', b'0'..=b'9'] => {
                bits.iter().fold(0, |number, digit| number * 10 + (digit - b'0'))
            }
            _ => return Err("has no prefix length behind its slash"),
        };
        let most = if address.is_ipv4() { 32 } else { 128 };
        if bits > most {
            return Err("has a prefix that is longer than its address");
        }
        Network::new(address, bits).ok_or("has bits beyond its prefix")
    }

    /// Whether it is all addresses of its family.
    pub fn is_all(&self) -> bool {
        self.bits == 0
    }

    /// Whether it is one address and no more.
    pub fn is_one(&self) -> bool {
        self.bits == if self.address.is_ipv4() { 32 } else { 128 }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.is_one() {
            true => write!(f, "{}", self.address),
            false => write!(f, "{}/{}", self.address, self.bits),
        }
    }
}

/// What is said of a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Its addresses are not in the set. The lesser one: of two equal prefixes it counts.
    Out,
    /// Its addresses are in the set.
    In,
}

/// What is wrong with a line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// The line, from 1.
    pub line: usize,
    /// What, in words that follow "it".
    pub what: &'static str,
}

/// Prefixes on their way into a set.
#[derive(Clone, Debug, Default)]
pub struct Prefixes {
    v4: Vec<Prefix<u32>>,
    v6: Vec<Prefix<u128>>,
}

/// By start, the wider first, and of equals the one that says `Out`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Prefix<K> {
    start: K,
    bits: u8,
    verdict: Verdict,
}

impl Prefixes {
    /// None yet.
    pub fn new() -> Prefixes {
        Prefixes::default()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.v4.len() + self.v6.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One more.
    pub fn add(&mut self, network: Network, verdict: Verdict) {
        let bits = network.bits;
        match network.address {
            IpAddr::V4(address) => self.v4.push(Prefix { start: address.to_bits(), bits, verdict }),
            IpAddr::V6(address) => self.v6.push(Prefix { start: address.to_bits(), bits, verdict }),
        }
    }

    /// Those of a text: one a line; `#` and `;` begin a comment; empty lines say nothing.
    ///
    /// # Errors
    /// The lines that are wrong, the first [`ERRORS_MAX`] of them; or the first that is too many ([`PREFIXES_MAX`]).
    pub fn read(&mut self, text: &[u8], verdict: Verdict) -> Result<(), Vec<LineError>> {
        let mut errors = Vec::new();
        let mut rest = text;
        let mut line = 0;
        while !rest.is_empty() {
            let end = memchr::memchr(b'\n', rest).unwrap_or(rest.len());
            let (this, behind) = (&rest[..end], rest.get(end + 1..).unwrap_or_default());
            rest = behind;
            line += 1;
            let what = match read_line(this) {
                Ok(None) => continue,
                Ok(Some(_)) if self.len() >= PREFIXES_MAX => {
                    errors.push(LineError { line, what: "is one prefix too many" });
                    break;
                }
                Ok(Some(network)) => {
                    self.add(network, verdict);
                    continue;
                }
                Err(what) => what,
            };
            errors.push(LineError { line, what });
            if errors.len() >= ERRORS_MAX {
                break;
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    /// The set. `otherwise` is said of addresses that no prefix holds.
    pub fn compile(self, otherwise: Verdict) -> AddressSet {
        AddressSet {
            prefixes: self.len(),
            v4: Line::new(self.v4, otherwise),
            v6: Line::new(self.v6, otherwise),
        }
    }
}

fn read_line(line: &[u8]) -> Result<Option<Network>, &'static str> {
    if line.len() > LINE_BYTES_MAX {
        return Err("is longer than 512 bytes");
    }
    let comment = memchr::memchr2(b'#', b';', line).unwrap_or(line.len());
    match line[..comment].trim_ascii() {
        b"" => Ok(None),
        text => Network::parse(text).map(Some),
    }
}

/// Which addresses are in, compiled.
pub struct AddressSet {
    prefixes: usize,
    v4: Line<u32>,
    v6: Line<u128>,
}

impl AddressSet {
    /// Whether an address is in it.
    #[inline]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(v4) => self.contains_v4(v4),
            IpAddr::V6(v6) => self.contains_v6(v6),
        }
    }

    /// As [`AddressSet::contains`].
    #[inline]
    pub fn contains_v4(&self, address: Ipv4Addr) -> bool {
        self.v4.is_in(address.to_bits())
    }

    /// As [`AddressSet::contains`].
    #[inline]
    pub fn contains_v6(&self, address: Ipv6Addr) -> bool {
        match address.to_ipv4_mapped() {
            Some(v4) => self.contains_v4(v4),
            None => self.v6.is_in(address.to_bits()),
        }
    }

    /// Whether no prefix says anything.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.prefixes == 0
    }

    /// The prefixes that it was made of.
    pub fn prefixes(&self) -> usize {
        self.prefixes
    }

    /// What it takes, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<AddressSet>() + self.v4.bytes() + self.v6.bytes()
    }
}

impl fmt::Debug for AddressSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressSet").field("prefixes", &self.prefixes).field("bytes", &self.bytes()).finish()
    }
}

/// Addresses of one family as numbers.
trait Address: Copy + Ord + fmt::Debug {
    const BITS: u32;
    /// The last address of the prefix of `bits` bits that begins here.
    fn last(self, bits: u8) -> Self;
    /// The next one; `None` behind the last of all.
    fn next(self) -> Option<Self>;
    /// How far it is from `origin`, which is not behind it, in steps of two to the power of `shift`.
    fn steps(self, origin: Self, shift: u32) -> usize;
    /// Bits that the distance to `origin` takes.
    fn distance_bits(self, origin: Self) -> u32;
}

macro_rules! address {
    ($number:ty) => {
        impl Address for $number {
            const BITS: u32 = <$number>::BITS;

            fn last(self, bits: u8) -> Self {
                self | <$number>::MAX.checked_shr(u32::from(bits)).unwrap_or(0)
            }

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            #[inline]
            fn steps(self, origin: Self, shift: u32) -> usize {
                // What does not fit is past the last part of any node.
                usize::try_from(self.wrapping_sub(origin) >> shift).unwrap_or(usize::MAX)
            }

            fn distance_bits(self, origin: Self) -> u32 {
                <$number>::BITS - self.wrapping_sub(origin).leading_zeros()
            }
        }
    };
}
address!(u32);
address!(u128);

/// All addresses of a family, cut into pieces that are in and out by turns.
#[derive(Debug)]
struct Line<K> {
    /// Whether what is before the first cut is in.
    first_in: bool,
    /// The addresses that begin another piece, in order.
    cuts: Box<[K]>,
    /// The index; the root first. Empty where the cuts are few.
    nodes: Box<[Node<K>]>,
    /// The parts of all nodes: the number of cuts before the part, or a node with the mark [`DEEPER`]. Behind the parts of a
    /// node comes the number of cuts up to its end.
    parts: Box<[u32]>,
}

/// Equal parts of the span of some cuts.
#[derive(Clone, Copy, Debug)]
struct Node<K> {
    /// The first cut.
    origin: K,
    /// Parts are two to the power of this wide.
    shift: u32,
    /// How many there are.
    count: u32,
    /// Where they begin in [`Line::parts`].
    base: u32,
    /// Cuts before the first one of this node.
    before: u32,
}

impl<K: Address> Line<K> {
    fn new(prefixes: Vec<Prefix<K>>, otherwise: Verdict) -> Line<K> {
        let cuts = cut(prefixes, otherwise);
        let mut index = Index { cuts: &cuts, nodes: Vec::new(), parts: Vec::new() };
        if cuts.len() > SEARCHED_MAX {
            index.divide(0, cuts.len());
        }
        let (nodes, parts) = (index.nodes.into(), index.parts.into());
        Line { first_in: otherwise == Verdict::In, cuts: cuts.into(), nodes, parts }
    }

    #[inline]
    fn is_in(&self, address: K) -> bool {
        self.first_in ^ (self.cuts_up_to(address) & 1 == 1)
    }

    /// How many cuts there are up to an address, itself included.
    #[inline]
    fn cuts_up_to(&self, address: K) -> usize {
        let Some(mut node) = self.nodes.first() else { return count(&self.cuts, address) };
        loop {
            if address < node.origin {
                return node.before as usize;
            }
            let part = address.steps(node.origin, node.shift).min(node.count as usize);
            let at = node.base as usize + part;
            let entry = self.parts[at];
            if entry & DEEPER != 0 {
                node = &self.nodes[(entry & !DEEPER) as usize];
                continue;
            }
            let start = entry as usize;
            if part == node.count as usize {
                return start;
            }
            let end = self.before(self.parts[at + 1]);
            return start + count(&self.cuts[start..end], address);
        }
    }

    #[inline]
    fn before(&self, entry: u32) -> usize {
        match entry & DEEPER {
            0 => entry as usize,
            _ => self.nodes[(entry & !DEEPER) as usize].before as usize,
        }
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.cuts) + size_of_val(&*self.nodes) + size_of_val(&*self.parts)
    }
}

/// How many of a few cuts there are up to an address.
#[inline]
fn count<K: Address>(cuts: &[K], address: K) -> usize {
    cuts.partition_point(|cut| *cut <= address)
}

/// The cuts that prefixes make: at the start of each that says another thing than what it lies in, and behind its end.
fn cut<K: Address>(mut prefixes: Vec<Prefix<K>>, otherwise: Verdict) -> Vec<K> {
    prefixes.sort_unstable();
    // Of equal prefixes the first one counts, which says `Out` if any does.
    prefixes.dedup_by(|next, kept| (next.start, next.bits) == (kept.start, kept.bits));
    let mut cuts = Cuts { list: Vec::with_capacity(prefixes.len()), now: otherwise };
    // The prefixes that hold the place where we are, the widest first: its last address, and what it says.
    let mut open: Vec<(K, Verdict)> = Vec::with_capacity(K::BITS as usize + 1);
    for prefix in prefixes {
        while let Some(&(last, _)) = open.last().filter(|(last, _)| *last < prefix.start) {
            open.pop();
            cuts.change(last.next(), open.last().map_or(otherwise, |(_, verdict)| *verdict));
        }
        open.push((prefix.start.last(prefix.bits), prefix.verdict));
        cuts.change(Some(prefix.start), prefix.verdict);
    }
    while let Some((last, _)) = open.pop() {
        cuts.change(last.next(), open.last().map_or(otherwise, |(_, verdict)| *verdict));
    }
    cuts.list
}

struct Cuts<K> {
    list: Vec<K>,
    now: Verdict,
}

impl<K: Address> Cuts<K> {
    /// From here on it is `verdict`. Called with places that never go back.
    fn change(&mut self, at: Option<K>, verdict: Verdict) {
        let Some(at) = at.filter(|_| verdict != self.now) else { return };
        self.now = verdict;
        if self.list.last() == Some(&at) {
            // Two changes at one place are none.
            self.list.pop();
        } else {
            self.list.push(at);
        }
    }
}

struct Index<'c, K> {
    cuts: &'c [K],
    nodes: Vec<Node<K>>,
    parts: Vec<u32>,
}

impl<K: Address> Index<'_, K> {
    /// Makes the node of the cuts from `start` up to `end`, more than [`SEARCHED_MAX`], and those below it; its number.
    fn divide(&mut self, start: usize, end: usize) -> u32 {
        let cuts = &self.cuts[start..end];
        let (origin, last) = (cuts[0], cuts[cuts.len() - 1]);
        let wanted_bits = (cuts.len() / 2).next_power_of_two().trailing_zeros();
        let shift = last.distance_bits(origin).saturating_sub(wanted_bits);
        let count = last.steps(origin, shift) + 1;
        let (number, base) = (self.nodes.len(), self.parts.len());
        self.nodes.push(Node { origin, shift, count: count as u32, base: base as u32, before: start as u32 });
        self.parts.resize(base + count + 1, 0);
        let mut from = start;
        for part in 0..count {
            let inside = self.cuts[from..end].partition_point(|cut| cut.steps(origin, shift) <= part);
            // A part that is one address wide holds one cut, so this comes to an end.
            let entry = match inside > SEARCHED_MAX {
                true => self.divide(from, from + inside) | DEEPER,
                false => from as u32,
            };
            self.parts[base + part] = entry;
            from += inside;
        }
        self.parts[base + count] = end as u32;
        number as u32
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn network(text: &str) -> Network {
        Network::parse(text.as_bytes()).unwrap_or_else(|what| panic!("{text} {what}"))
    }

    fn set(listed: &[(&str, Verdict)], otherwise: Verdict) -> AddressSet {
        let mut prefixes = Prefixes::new();
        listed.iter().for_each(|(text, verdict)| prefixes.add(network(text), *verdict));
        prefixes.compile(otherwise)
    }

    #[test]
    fn the_longest_prefix_decides_and_of_equals_the_one_that_denies() {
        use Verdict::{In, Out};
        let set = set(
            &[
                ("10.0.0.0/8", In),
                ("10.1.0.0/16", Out),
                ("10.1.2.0/24", In),
                ("10.1.2.3", Out),
                ("192.0.2.0/24", In),
                ("192.0.2.0/24", Out),
                ("2001:db8::/32", In),
                ("2001:db8:1::/48", Out),
                ("255.255.255.255", In),
                ("0.0.0.0", In),
            ],
            Out,
        );
        for (address, expected) in [
            ("10.0.0.0", true),
            ("10.255.255.255", true),
            ("9.255.255.255", false),
            ("11.0.0.0", false),
            ("10.1.0.0", false),
            ("10.1.1.255", false),
            ("10.1.2.0", true),
            ("10.1.2.3", false),
            ("10.1.2.4", true),
            ("10.1.3.0", false),
            ("10.2.0.0", true),
            ("192.0.2.1", false),
            ("::ffff:10.1.2.4", true),
            ("::ffff:10.1.2.3", false),
            ("2001:db8::1", true),
            ("2001:db8:1::1", false),
            ("2001:db8:2::1", true),
            ("2001:db9::", false),
            ("::", false),
            ("0.0.0.0", true),
            ("0.0.0.1", false),
            ("255.255.255.255", true),
            ("255.255.255.254", false),
        ] {
            assert_eq!(set.contains(address.parse().unwrap()), expected, "{address}");
        }
        assert_eq!(set.prefixes(), 10);
    }

    #[test]
    fn nothing_and_everything() {
        use Verdict::{In, Out};
        for address in
            ["0.0.0.0", "255.255.255.255", "::", "2001:db8::1", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]
        {
            let address: IpAddr = address.parse().unwrap();
            assert!(set(&[], In).contains(address) && !set(&[], Out).contains(address));
            assert!(set(&[("0.0.0.0/0", In), ("::/0", In)], Out).contains(address));
            assert!(!set(&[("0.0.0.0/0", Out), ("::/0", Out)], In).contains(address));
        }
        // What is IPv4 is not reached by a prefix of IPv6 that is wider than the part where it is written.
        assert!(!set(&[("::/0", In)], Out).contains("::ffff:192.0.2.1".parse().unwrap()));
        assert!(set(&[("::ffff:0.0.0.0/96", In)], Out).contains("192.0.2.1".parse().unwrap()));
    }

    #[test]
    fn networks_have_one_spelling() {
        for (text, written) in [
            ("192.0.2.0/24", "192.0.2.0/24"),
            ("192.0.2.1", "192.0.2.1"),
            ("192.0.2.1/32", "192.0.2.1"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("2001:DB8::/32", "2001:db8::/32"),
            ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
            ("::ffff:192.0.2.9", "192.0.2.9"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(network(text).to_string(), written);
        }
        for text in [
            "",
            "/",
            "/8",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "10.0.0.0/8 ",
            "10.0.0.1/8",
            "10.0.0/8",
            "010.0.0.0/8",
            "2001:db8::/129",
            "2001:db8::1/32",
            "10.0.0.0/999",
            "10.0.0.0/256",
            "a.example",
            "fe80::1%eth0",
            "::ffff:0.0.0.0/90",
            "[::1]",
            "10.0.0.0/8/8",
        ] {
            assert!(Network::parse(text.as_bytes()).is_err(), "{text}");
        }
    }

    #[test]
    fn every_bad_line_is_told_by_its_number() {
        let text =
            b"# a list\r\n10.0.0.0/8 ; of SBL1\r\n\r\n  2001:db8::/32  # doc\nnot one\n10.0.0.1/8\n192.0.2.1";
        let mut prefixes = Prefixes::new();
        let errors = prefixes.read(text, Verdict::In).unwrap_err();
        let lines: Vec<usize> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [5, 6]);
        assert_eq!(prefixes.len(), 3);
        let long = format!("10.0.0.0/8 #{}\n", "x".repeat(LINE_BYTES_MAX));
        assert_eq!(Prefixes::new().read(long.as_bytes(), Verdict::In).unwrap_err()[0].line, 1);
        assert_eq!(Prefixes::new().read(&b"x\n".repeat(1000), Verdict::In).unwrap_err().len(), ERRORS_MAX);
    }

    #[test]
    fn neighbours_melt_into_one_piece() {
        use Verdict::{In, Out};
        let halves = set(&[("10.0.0.0/9", In), ("10.128.0.0/9", In), ("10.64.0.0/16", In)], Out);
        assert_eq!(halves.v4.cuts.len(), 2);
        assert_eq!(set(&[("10.0.0.0/8", Out)], Out).v4.cuts.len(), 0);
    }

    /// Addresses crowded at one end of the line, each in a crowd again: what an index of equal parts likes least.
    #[test]
    fn a_crowd_within_a_crowd_is_found_and_stays_small() {
        let mut listed = Vec::new();
        for depth in 0..24u32 {
            for step in 0..40u32 {
                let start = u32::MAX >> depth;
                listed
                    .push((Network::of(Ipv4Addr::from(start.saturating_sub(step * 2)).into()), Verdict::In));
            }
        }
        for depth in 0..120u32 {
            let start = u128::MAX >> depth;
            listed.push((Network::of(Ipv6Addr::from(start).into()), Verdict::In));
        }
        let mut prefixes = Prefixes::new();
        listed.iter().for_each(|(network, verdict)| prefixes.add(*network, *verdict));
        let set = prefixes.compile(Verdict::Out);
        for (network, _) in &listed {
            for address in laws::edges(network) {
                assert_eq!(set.contains(address), laws::decide(&listed, Verdict::Out, address), "{address}");
            }
        }
        assert!(set.bytes() <= 64 * listed.len() + size_of::<AddressSet>(), "{} bytes", set.bytes());
    }

    fn networks() -> impl Strategy<Value = (Network, Verdict)> {
        // Few distinct high bits, so that prefixes nest and meet.
        let v4 = (0u32..8, any::<u32>(), 0u8..=32).prop_map(|(high, low, bits)| {
            let address = high << 29 | (low & 0x0301_0303);
            let kept = !u32::MAX.checked_shr(u32::from(bits)).unwrap_or(0);
            Network::new(Ipv4Addr::from(address & kept).into(), bits).expect("its rest is zero")
        });
        let v6 = (0u128..4, any::<u128>(), 0u8..=128).prop_map(|(high, low, bits)| {
            let address = high << 126 | (low & 0x0300_0000_0001_0000_0000_0300_0000_0003);
            let kept = !u128::MAX.checked_shr(u32::from(bits)).unwrap_or(0);
            Network::new(Ipv6Addr::from(address & kept).into(), bits).expect("its rest is zero")
        });
        (prop_oneof![v4, v6], prop_oneof![Just(Verdict::In), Just(Verdict::Out)])
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]
        #[test]
        fn every_address_gets_what_the_law_says(
            listed in proptest::collection::vec(networks(), 0..120),
            more in proptest::collection::vec(any::<u32>(), 0..50),
            denied in any::<bool>(),
        ) {
            let otherwise = if denied { Verdict::Out } else { Verdict::In };
            let mut prefixes = Prefixes::new();
            listed.iter().for_each(|(network, verdict)| prefixes.add(*network, *verdict));
            let set = prefixes.compile(otherwise);
            let edges = listed.iter().flat_map(|(network, _)| laws::edges(network));
            for address in edges.chain(more.iter().map(|number| Ipv4Addr::from(*number).into())) {
                prop_assert_eq!(set.contains(address), laws::decide(&listed, otherwise, address), "{}", address);
            }
        }
    }
}
