//! The dynamic table (RFC 7541 §2.3.2, §4), and the static one.
//!
//! For: decoder and encoder. Not for: finding an entry by its name (the encoder keeps an index of its own).
//!
//! **Layout.** Lines lie one behind the other in one buffer, the oldest first; entries in a ring, whose length is a power of
//! two. Lines of entries that are gone are overwritten when the buffer is full, by moving those that live to its front: no
//! more bytes are moved than twice those that came in. The buffer is at most half as large again as the table may be.
//! Neither is allocated before it is needed, and both grow with the table: 512 bytes, then what it takes.

use super::decode::{Marks, Pseudo};
use crate::http::Known;

/// RFC 9113 §6.5.2: the size of a table before anybody says otherwise.
pub const TABLE_BYTES_DEFAULT: u32 = 4096;
/// Largest table that can be asked for: names and values then fit into 16 bits.
pub const TABLE_BYTES_MAX: u32 = 64 << 10;
/// RFC 7541 §4.1: what an entry costs beside its name and its value.
pub const ENTRY_BYTES: usize = 32;
/// How many entries the static table has (RFC 7541 Appendix A).
pub const STATIC_ENTRIES: usize = 61;
/// What a line has beside name and value: `: ` and CRLF.
pub const LINE_BYTES: usize = 4;
/// Places for entries in a table that has any.
const PLACES_LEAST: usize = 8;

/// What is known of a line besides its bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Where its line begins, counted from the first byte that was ever in the table.
    start: u32,
    /// Length of the name.
    pub name_len: u16,
    /// Length of the value.
    pub value_len: u16,
    /// Which known field it is.
    pub known: Known,
    /// Which pseudo-field it is.
    pub pseudo: Pseudo,
    /// What was found wrong or noteworthy.
    pub marks: Marks,
}

const _: () = assert!(size_of::<Entry>() == 12);
const _: () = assert!(u16::MAX as usize + ENTRY_BYTES > TABLE_BYTES_MAX as usize);

impl Entry {
    /// An entry that is not in a table yet. What is longer than 16 bits can say is longer than any table.
    #[inline]
    pub fn new(name_len: usize, value_len: usize, known: Known, pseudo: Pseudo, marks: Marks) -> Entry {
        let short = |len: usize| u16::try_from(len).unwrap_or(u16::MAX);
        Entry { start: 0, name_len: short(name_len), value_len: short(value_len), known, pseudo, marks }
    }

    #[inline]
    fn line_len(&self) -> usize {
        usize::from(self.name_len) + usize::from(self.value_len) + LINE_BYTES
    }

    #[inline]
    fn size(&self) -> usize {
        usize::from(self.name_len) + usize::from(self.value_len) + ENTRY_BYTES
    }
}

/// A dynamic table.
#[derive(Clone, Debug)]
pub struct Table {
    /// A ring: the entry of number `n` lies at `n` modulo its length.
    entries: Vec<Entry>,
    /// The number of the next entry; wraps.
    next: u32,
    /// How many entries there are.
    len: u32,
    /// The lines.
    bytes: Vec<u8>,
    /// What [`Entry::start`] is of the first of `bytes`.
    base: u32,
    /// RFC 7541 §4.1.
    size: usize,
    /// What `size` may come to.
    max: usize,
}

impl Table {
    /// An empty table that may come to `max` bytes; allocates nothing.
    pub const fn new(max: u32) -> Table {
        Table { entries: Vec::new(), next: 0, len: 0, bytes: Vec::new(), base: 0, size: 0, max: max as usize }
    }

    /// RFC 7541 §4.1: what its entries come to, in bytes.
    #[cfg(test)]
    pub fn size(&self) -> usize {
        self.size
    }

    /// What its entries may come to (RFC 7541 §4.1).
    #[inline]
    pub fn max(&self) -> usize {
        self.max
    }

    /// How many entries there are.
    #[inline]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// The number of the next entry; wraps.
    #[inline]
    pub fn next_number(&self) -> u32 {
        self.next
    }

    /// Bytes of memory that it holds.
    pub fn memory(&self) -> usize {
        self.bytes.capacity() + self.entries.capacity() * size_of::<Entry>()
    }

    /// The entry of this age (0 is the newest) and its line.
    #[inline]
    pub fn get(&self, age: usize) -> Option<(&Entry, &[u8])> {
        if age >= self.len() {
            return None;
        }
        let number = self.next.wrapping_sub(1).wrapping_sub(age as u32);
        let entry = self.entries.get(number as usize & self.mask())?;
        let start = entry.start.wrapping_sub(self.base) as usize;
        Some((entry, self.bytes.get(start..start + entry.line_len())?))
    }

    /// Changes what the table may come to; entries that no longer fit go (RFC 7541 §4.3). At zero its memory goes too.
    pub fn set_max(&mut self, max: usize) {
        self.max = max;
        self.shrink(max);
        if max == 0 {
            self.clear();
        }
    }

    /// Lets all entries go, and their memory.
    pub fn clear(&mut self) {
        let (next, max) = (self.next, self.max);
        *self = Table { next, max, ..Table::new(0) };
    }

    /// Adds an entry whose line is `line`; those that no longer fit go first, and if it does not fit alone it is not added
    /// (RFC 7541 §4.4). Says whether it was.
    #[inline]
    pub fn insert(&mut self, entry: Entry, line: &[u8]) -> bool {
        self.insert_parts(entry, [line, b"", b"", b""])
    }

    /// [`Table::insert`] of a line in parts.
    #[inline]
    pub fn insert_parts(&mut self, mut entry: Entry, line: [&[u8]; 4]) -> bool {
        let (size, line_len) = (entry.size(), entry.line_len());
        if size > self.max {
            self.shrink(0);
            return false;
        }
        debug_assert_eq!(line_len, line.iter().map(|part| part.len()).sum::<usize>());
        if self.size + size > self.max {
            self.shrink(self.max - size);
        }
        if self.len() == self.entries.len() {
            self.widen();
        }
        if self.bytes.len() + line_len > self.bytes.capacity() {
            self.make_room(line_len);
        }
        entry.start = self.base.wrapping_add(self.bytes.len() as u32);
        line.iter().for_each(|part| self.bytes.extend_from_slice(part));
        let mask = self.mask();
        if let Some(slot) = self.entries.get_mut(self.next as usize & mask) {
            *slot = entry;
        }
        self.next = self.next.wrapping_add(1);
        self.len += 1;
        self.size += size;
        true
    }

    #[inline]
    fn mask(&self) -> usize {
        self.entries.len().wrapping_sub(1)
    }

    /// Lets the oldest entries go until the table comes to no more than `max`.
    fn shrink(&mut self, max: usize) {
        while self.size > max {
            let oldest = self.next.wrapping_sub(self.len) as usize & self.mask();
            let Some(entry) = self.entries.get(oldest) else { break };
            self.size -= entry.size();
            self.len -= 1;
        }
        if self.len == 0 {
            self.bytes.clear();
        }
    }

    /// Gives back what memory its entries do not need. The next one makes it grow again.
    #[cold]
    pub fn trim(&mut self) {
        if self.len == 0 {
            (self.entries, self.bytes) = (Vec::new(), Vec::new());
            return;
        }
        self.drop_dead();
        self.bytes.shrink_to_fit();
        let places = self.len().next_power_of_two().max(PLACES_LEAST);
        if places < self.entries.len() {
            self.resize(places);
        }
    }

    /// Twice as many places for entries.
    #[cold]
    fn widen(&mut self) {
        self.resize((2 * self.entries.len()).max(PLACES_LEAST));
    }

    /// So many places for entries: a power of two, and enough for those that there are.
    fn resize(&mut self, places: usize) {
        let mut resized = Vec::with_capacity(places);
        resized.resize(places, Entry::default());
        for age in 1..=self.len {
            let number = self.next.wrapping_sub(age) as usize;
            if let (Some(to), Some(from)) =
                (resized.get_mut(number & (places - 1)), self.entries.get(number & self.mask()))
            {
                *to = *from;
            }
        }
        self.entries = resized;
    }

    /// Makes room for a line: over the lines that are gone, and if that would soon be used up, in a larger buffer.
    #[cold]
    fn make_room(&mut self, line_len: usize) {
        self.drop_dead();
        let need = self.bytes.len() + line_len;
        if need > self.bytes.capacity() / 3 * 2 {
            let wanted = (need + need / 2).max(512);
            self.bytes.reserve_exact(wanted - self.bytes.len());
        }
    }

    /// Moves the lines that live to the front, over those that are gone.
    fn drop_dead(&mut self) {
        let oldest = self.next.wrapping_sub(self.len) as usize & self.mask();
        let dead = match self.entries.get(oldest) {
            Some(entry) if self.len > 0 => entry.start.wrapping_sub(self.base) as usize,
            _ => self.bytes.len(),
        };
        let dead = dead.min(self.bytes.len());
        self.bytes.copy_within(dead.., 0);
        self.bytes.truncate(self.bytes.len() - dead);
        self.base = self.base.wrapping_add(dead as u32);
    }
}

/// An entry of the static table.
pub struct Fixed {
    /// `name: value` CRLF.
    pub line: &'static [u8],
    /// Length of the name.
    pub name_len: usize,
    /// Which known field it is.
    pub known: Known,
    /// Which pseudo-field it is.
    pub pseudo: Pseudo,
}

impl Fixed {
    /// Length of the value.
    #[inline]
    pub fn value_len(&self) -> usize {
        self.line.len() - self.name_len - LINE_BYTES
    }

    /// The value.
    #[inline]
    pub fn value(&self) -> &'static [u8] {
        self.line.get(self.name_len + 2..self.line.len() - 2).unwrap_or_default()
    }
}

/// [`FIXED`] where it can be looked into.
pub static STATIC: [Fixed; STATIC_ENTRIES] = FIXED;

macro_rules! fixed {
    ($($name:literal $value:literal $known:ident $pseudo:ident,)*) => {
        /// RFC 7541 Appendix A; index 1 is the first.
        pub const FIXED: [Fixed; STATIC_ENTRIES] = [$(Fixed {
            line: concat!($name, ": ", $value, "\r\n").as_bytes(),
            name_len: $name.len(),
            known: Known::$known,
            pseudo: Pseudo::$pseudo,
        },)*];
    };
}

fixed! {
    ":authority" "" Other Authority,
    ":method" "GET" Other Method,
    ":method" "POST" Other Method,
    ":path" "/" Other Path,
    ":path" "/index.html" Other Path,
    ":scheme" "http" Other Scheme,
    ":scheme" "https" Other Scheme,
    ":status" "200" Other Status,
    ":status" "204" Other Status,
    ":status" "206" Other Status,
    ":status" "304" Other Status,
    ":status" "400" Other Status,
    ":status" "404" Other Status,
    ":status" "500" Other Status,
    "accept-charset" "" AcceptCharset None,
    "accept-encoding" "gzip, deflate" AcceptEncoding None,
    "accept-language" "" AcceptLanguage None,
    "accept-ranges" "" AcceptRanges None,
    "accept" "" Accept None,
    "access-control-allow-origin" "" AccessControlAllowOrigin None,
    "age" "" Age None,
    "allow" "" Allow None,
    "authorization" "" Authorization None,
    "cache-control" "" CacheControl None,
    "content-disposition" "" ContentDisposition None,
    "content-encoding" "" ContentEncoding None,
    "content-language" "" ContentLanguage None,
    "content-length" "" ContentLength None,
    "content-location" "" ContentLocation None,
    "content-range" "" ContentRange None,
    "content-type" "" ContentType None,
    "cookie" "" Cookie None,
    "date" "" Date None,
    "etag" "" Etag None,
    "expect" "" Expect None,
    "expires" "" Expires None,
    "from" "" Other None,
    "host" "" Host None,
    "if-match" "" IfMatch None,
    "if-modified-since" "" IfModifiedSince None,
    "if-none-match" "" IfNoneMatch None,
    "if-range" "" IfRange None,
    "if-unmodified-since" "" IfUnmodifiedSince None,
    "last-modified" "" LastModified None,
    "link" "" Link None,
    "location" "" Location None,
    "max-forwards" "" MaxForwards None,
    "proxy-authenticate" "" ProxyAuthenticate None,
    "proxy-authorization" "" ProxyAuthorization None,
    "range" "" Range None,
    "referer" "" Referer None,
    "refresh" "" Other None,
    "retry-after" "" RetryAfter None,
    "server" "" Server None,
    "set-cookie" "" SetCookie None,
    "strict-transport-security" "" StrictTransportSecurity None,
    "transfer-encoding" "" TransferEncoding None,
    "user-agent" "" UserAgent None,
    "vary" "" Vary None,
    "via" "" Via None,
    "www-authenticate" "" WwwAuthenticate None,
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::*;

    #[test]
    fn the_static_table_is_that_of_the_appendix() {
        let name = |index: usize| {
            let fixed = &STATIC[index - 1];
            String::from_utf8_lossy(&fixed.line[..fixed.name_len]).into_owned()
        };
        assert_eq!(
            (name(1), name(15), name(31)),
            (":authority".into(), "accept-charset".into(), "content-type".into())
        );
        assert_eq!(
            (name(37), name(52), name(61)),
            ("from".into(), "refresh".into(), "www-authenticate".into())
        );
        assert_eq!(
            (STATIC[15].value(), STATIC[13].value(), STATIC[4].value_len()),
            (&b"gzip, deflate"[..], &b"500"[..], 11)
        );
        for fixed in &STATIC {
            let name = &fixed.line[..fixed.name_len];
            assert_eq!(Pseudo::of(name), fixed.pseudo);
            let known = if fixed.pseudo == Pseudo::None { Known::of(name) } else { Known::Other };
            assert_eq!(known, fixed.known);
        }
    }

    #[test]
    fn a_table_is_what_the_naive_one_is() {
        let mut random = 7u64;
        let mut draw = |below: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut table = Table::new(TABLE_BYTES_DEFAULT);
        // Numbers wrap within the test.
        (table.next, table.base) = (u32::MAX - 900, u32::MAX - 5000);
        let mut naive: VecDeque<Vec<u8>> = VecDeque::new();
        let mut max = TABLE_BYTES_DEFAULT as usize;
        let size = |naive: &VecDeque<Vec<u8>>| {
            naive.iter().map(|line| line.len() - LINE_BYTES + ENTRY_BYTES).sum::<usize>()
        };
        for step in 0..60_000u64 {
            if draw(211) == 0 {
                table.trim();
                let lines = naive.iter().map(Vec::len).sum::<usize>();
                let places = if naive.is_empty() { 0 } else { naive.len().next_power_of_two().max(8) };
                assert_eq!(table.memory(), lines + places * size_of::<Entry>());
            } else if draw(97) == 0 {
                max = [0, 31, 32, 64, 100, 1000, 4096, 4096, 4096, 9000][draw(10) as usize];
                table.set_max(max);
            } else {
                let largest = if draw(50) == 0 { 5000 } else { 90 };
                let (name_len, value_len) = (draw(largest) as usize, draw(largest) as usize);
                let line: Vec<u8> =
                    (0..name_len + value_len + LINE_BYTES).map(|at| (at as u64 * 7 + step) as u8).collect();
                let marks = Marks::of_bits(step as u8);
                let entry = Entry::new(name_len, value_len, Known::Other, Pseudo::None, marks);
                let added = table.insert(entry, &line);
                assert_eq!(added, name_len + value_len + ENTRY_BYTES <= max);
                naive.push_front(line);
            }
            while size(&naive) > max {
                naive.pop_back();
            }
            assert_eq!((table.len(), table.size()), (naive.len(), size(&naive)));
            assert!(table.bytes.capacity() <= (max + max / 2).max(512).max(9000 * 3 / 2));
            for (age, line) in naive.iter().enumerate() {
                assert_eq!(table.get(age).map(|(_, line)| line), Some(&line[..]), "{step} {age}");
            }
            assert_eq!(table.get(naive.len()), None);
        }
    }

    #[test]
    fn a_table_takes_no_memory_before_it_is_used_and_little_more_than_its_size_after() {
        let mut table = Table::new(TABLE_BYTES_DEFAULT);
        assert_eq!(table.memory(), 0);
        let line = [b'a'; 40];
        for count in 0..10_000 {
            assert!(table.insert(Entry::new(6, 30, Known::Other, Pseudo::None, Marks::default()), &line));
            if count == 7 {
                assert!(table.memory() <= 1024, "{}", table.memory());
            }
        }
        assert!(table.memory() <= 4096 * 3 / 2 + 128 * 12, "{}", table.memory());
        table.trim();
        assert!(table.memory() <= 4096, "{}", table.memory());
        table.set_max(0);
        assert_eq!((table.memory(), table.len()), (0, 0));
    }
}
