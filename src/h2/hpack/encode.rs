//! Fields to header blocks.
//!
//! For: whoever sends heads and trailers over HTTP/2. Not for: deciding what is forwarded ([`crate::http::forward`]), frames.
//!
//! **Law.** What belongs to one connection or frames a message in HTTP/1.1 is never written, whatever is handed in: not from
//! fields, not from lines; nor is Host, for which `:authority` stands (RFC 9113 §8.2.2, §8.3.1). Names go out in lower case.
//!
//! **What is worth an entry.** A table of 4 KiB holds about fifty fields, the oldest go first, and a value that comes once
//! drives out one that comes always. So:
//!
//! | field | becomes an entry |
//! |---|---|
//! | of a kind that repeats (content-type, server, cache-control, vary, access-control-\*, user-agent …) | at once |
//! | of any other kind | when the same value comes a second time |
//! | that is different every time (content-length, x-request-id, traceparent …) | only if its name has none |
//! | secret (authorization, cookie, set-cookie, x-api-key, and what came as such) | never, and nobody further on may (RFC 7541 §7.1.3) |
//!
//! On a connection that carries requests of several clients ([`Sharing::Many`]) only the first kind gets entries: whether
//! another client has sent the same value must not be seen by the length of what is sent (RFC 7541 §7.1).
//!
//! **Finding entries.** Two-way buckets of 16-bit tags and 16-bit numbers of entries. What a bucket forgets costs bytes, not
//! correctness: a tag that fits leads to an entry, whose bytes are compared. 1.1 KiB, allocated with the first entry.

use super::{
    decode::{Marks, Pseudo},
    huffman, integer,
    recent::Recent,
    table::{ENTRY_BYTES, Entry, FIXED, STATIC, STATIC_ENTRIES, TABLE_BYTES_DEFAULT, Table},
};
use crate::http::{
    BodyLength, Known,
    field::{FIELD_NAME_BYTES_MAX, FieldSet, FieldTable},
    scan,
};

/// Largest table that is used, however large the peer would have it: what it holds is ours to keep as well.
const TABLE_BYTES: u32 = TABLE_BYTES_DEFAULT;
const BUCKETS_LOG2: u32 = 7;
const SEEN_LOG2: u32 = 6;

/// Whose messages a connection carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// Those of the peer alone: a client's.
    One,
    /// Those of several clients: an upstream's.
    Many,
}

/// When a field becomes an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    /// At once.
    Same,
    /// When it comes again.
    Often,
    /// If its name has none.
    Other,
    /// Never, and nobody may.
    Secret,
}

const fn habit(known: Known) -> Habit {
    match known {
        Known::Authorization
        | Known::ProxyAuthorization
        | Known::Cookie
        | Known::SetCookie
        | Known::XApiKey
        | Known::SecWebsocketKey => Habit::Secret,
        Known::ContentLength
        | Known::Age
        | Known::XRequestId
        | Known::Traceparent
        | Known::Tracestate
        | Known::IfMatch
        | Known::IfRange
        | Known::Range
        | Known::ContentRange
        | Known::IdempotencyKey
        | Known::SecWebsocketAccept
        | Known::ContentDigest
        | Known::Digest
        | Known::RetryAfter
        | Known::ServerTiming => Habit::Other,
        Known::Accept
        | Known::AcceptCharset
        | Known::AcceptEncoding
        | Known::AcceptLanguage
        | Known::AcceptRanges
        | Known::AccessControlAllowCredentials
        | Known::AccessControlAllowHeaders
        | Known::AccessControlAllowMethods
        | Known::AccessControlAllowOrigin
        | Known::AccessControlExposeHeaders
        | Known::AccessControlMaxAge
        | Known::AccessControlRequestHeaders
        | Known::AccessControlRequestMethod
        | Known::Allow
        | Known::AltSvc
        | Known::CacheControl
        | Known::ContentEncoding
        | Known::ContentLanguage
        | Known::ContentSecurityPolicy
        | Known::ContentType
        | Known::Origin
        | Known::PermissionsPolicy
        | Known::Pragma
        | Known::Priority
        | Known::ReferrerPolicy
        | Known::SecFetchDest
        | Known::SecFetchMode
        | Known::SecFetchSite
        | Known::SecFetchUser
        | Known::SecWebsocketProtocol
        | Known::SecWebsocketVersion
        | Known::Server
        | Known::StrictTransportSecurity
        | Known::Te
        | Known::UpgradeInsecureRequests
        | Known::UserAgent
        | Known::Vary
        | Known::Via
        | Known::XContentTypeOptions
        | Known::XForwardedHost
        | Known::XForwardedPort
        | Known::XForwardedProto
        | Known::XFrameOptions
        | Known::XPoweredBy => Habit::Same,
        _ => Habit::Often,
    }
}

/// Whether a field of this kind is never in a table, however it came.
#[inline]
pub fn is_secret(known: Known) -> bool {
    KINDS[known as usize].0 == Habit::Secret
}

/// For each known field what it is to the encoder: its habit and its index in the static table (0: it is not in it).
static KINDS: [(Habit, u8); Known::COUNT] = {
    let mut kinds = [(Habit::Often, 0); Known::COUNT];
    let mut id = 0;
    while id < Known::ALL.len() {
        let known = Known::ALL[id];
        kinds[known as usize].0 = habit(known);
        id += 1;
    }
    let mut index = STATIC_ENTRIES;
    while index > 0 {
        let fixed = &FIXED[index - 1];
        if !matches!(fixed.known, Known::Other) {
            kinds[fixed.known as usize].1 = index as u8;
        }
        index -= 1;
    }
    kinds
};

/// The names of the static table that are not [`Known`].
const UNKNOWN_FIXED: [(&[u8], u8); 2] = [(b"from", 37), (b"refresh", 52)];

/// A name about to be written.
#[derive(Clone, Copy)]
struct Name<'a> {
    /// In lower case.
    bytes: &'a [u8],
    known: Known,
    /// Its first index in the static table, or 0.
    fixed: u8,
    habit: Habit,
}

impl<'a> Name<'a> {
    #[inline]
    fn known(known: Known) -> Name<'static> {
        let (habit, fixed) = KINDS[known as usize];
        Name { bytes: known.name().as_bytes(), known, fixed, habit }
    }

    #[inline]
    fn other(bytes: &'a [u8]) -> Name<'a> {
        let fixed = UNKNOWN_FIXED.iter().find(|(name, _)| *name == bytes).map_or(0, |(_, index)| *index);
        Name { bytes, known: Known::Other, fixed, habit: Habit::Often }
    }

    #[inline]
    fn pseudo(bytes: &'static [u8], fixed: u8, habit: Habit) -> Name<'static> {
        Name { bytes, known: Known::Other, fixed, habit }
    }

    #[inline(always)]
    fn hash(&self) -> u64 {
        match (self.known, self.fixed) {
            (Known::Other, 0) => hash(OTHERS, self.bytes),
            // Pseudo-fields.
            (Known::Other, fixed) => mix(OTHERS, u64::from(fixed)),
            (known, _) => mix(KNOWN, known as u64),
        }
    }
}

const KNOWN: u64 = 0x2545_f491_4f6c_dd1d;
const OTHERS: u64 = 0x9e37_79b9_7f4a_7c15;

#[inline(always)]
fn mix(state: u64, word: u64) -> u64 {
    (state.rotate_left(23) ^ word).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

/// Of the length and of up to 32 bytes: the first and last of each half. Who makes two values agree in these makes them longer.
#[inline(always)]
fn hash(seed: u64, bytes: &[u8]) -> u64 {
    let state = mix(seed, bytes.len() as u64);
    if let (Some(first), Some(last)) = (bytes.first_chunk::<8>(), bytes.last_chunk::<8>()) {
        let state = mix(mix(state, u64::from_le_bytes(*first)), u64::from_le_bytes(*last));
        let middle = bytes.len() / 2;
        let (before, behind) = bytes.split_at_checked(middle).unwrap_or_default();
        if let (Some(before), Some(behind)) = (before.last_chunk::<8>(), behind.first_chunk::<8>()) {
            return mix(mix(state, u64::from_le_bytes(*before)), u64::from_le_bytes(*behind));
        }
        return state;
    }
    let mut word = [0; 8];
    word.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    mix(state, u64::from_le_bytes(word))
}

/// A place in a bucket.
#[derive(Clone, Copy, Default)]
struct Place {
    tag: u16,
    /// The lower bits of an entry's number.
    number: u16,
}

/// Where entries are found by what they are.
#[derive(Clone)]
struct Index {
    buckets: [[Place; 2]; 1 << BUCKETS_LOG2],
    /// Tags of fields that came once.
    seen: [u16; 1 << SEEN_LOG2],
}

impl Index {
    #[inline(always)]
    fn place(hash: u64) -> (usize, u16) {
        ((hash >> (64 - BUCKETS_LOG2)) as usize, Index::tag(hash))
    }

    /// Of the upper bits, which every bit of a name and a value has a part in.
    #[inline(always)]
    fn tag(hash: u64) -> u16 {
        (hash >> 40) as u16
    }

    /// The age of the entry of this hash, of which `is` says that it is the one.
    #[inline(always)]
    fn find(&self, table: &Table, hash: u64, is: impl Fn(&Entry, &[u8]) -> bool) -> Option<usize> {
        let (bucket, tag) = Index::place(hash);
        self.buckets[bucket].iter().filter(|place| place.tag == tag).find_map(|place| {
            let age = age(table, place.number);
            let (entry, line) = table.get(age)?;
            is(entry, line).then_some(age)
        })
    }

    /// Notes the newest entry under this hash.
    fn note(&mut self, table: &Table, hash: u64) {
        let (bucket, tag) = Index::place(hash);
        let number = table.next_number().wrapping_sub(1) as u16;
        let [a, b] = &mut self.buckets[bucket];
        // Over the same, or the older one.
        let over =
            if a.tag == tag || b.tag != tag && age(table, a.number) >= age(table, b.number) { a } else { b };
        *over = Place { tag, number };
    }

    /// Whether a field of this hash came before; it has come now.
    fn came_before(&mut self, hash: u64) -> bool {
        let tag = Index::tag(hash);
        let seen = &mut self.seen[(hash >> (64 - SEEN_LOG2)) as usize];
        std::mem::replace(seen, tag) == tag
    }
}

/// The age of the entry with these lower bits of its number, if it lives still.
#[inline(always)]
fn age(table: &Table, number: u16) -> usize {
    usize::from((table.next_number() as u16).wrapping_sub(1).wrapping_sub(number))
}

/// The sending side of a connection's compression.
#[derive(Clone)]
pub struct Encoder {
    table: Table,
    index: Option<Box<Index>>,
    /// What was written last.
    recent: Option<Box<Recent>>,
    sharing: Sharing,
    /// What has to be told about the table's size: the smallest since the last block, and the last (RFC 7541 §4.2).
    resized: Option<(usize, usize)>,
}

impl std::fmt::Debug for Encoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Encoder")
            .field("table", &self.table)
            .field("sharing", &self.sharing)
            .finish_non_exhaustive()
    }
}

impl Encoder {
    /// An encoder with an empty table; allocates nothing.
    pub const fn new(sharing: Sharing) -> Encoder {
        Encoder { table: Table::new(TABLE_BYTES), index: None, recent: None, sharing, resized: None }
    }

    /// Tells of the peer's SETTINGS_HEADER_TABLE_SIZE; the next block says that it is obeyed.
    pub fn limit(&mut self, bytes: u32) {
        let now = self.resized.map_or(self.table.max(), |(_, last)| last);
        let wanted = bytes.min(TABLE_BYTES) as usize;
        if wanted != now {
            let least = self.resized.map_or(now, |(least, _)| least);
            self.resized = Some((least.min(wanted), wanted));
        }
    }

    /// Forgets all entries, and gives their memory back; the next block says so, as a size of nothing in between
    /// (RFC 7541 §4.2).
    pub fn forget(&mut self) {
        if self.table.len() > 0 {
            let last = self.resized.map_or(self.table.max(), |(_, last)| last);
            self.resized = Some((0, last));
        }
        self.table.clear();
        self.index = None;
        self.recent = None;
    }

    /// Bytes of memory that it holds.
    pub fn memory(&self) -> usize {
        let index = if self.index.is_some() { size_of::<Index>() } else { 0 };
        self.table.memory() + index + self.recent.as_ref().map_or(0, |recent| recent.memory())
    }

    /// Begins a block at the end of `out`. What is begun has to be sent: the table is changed with every field.
    #[inline]
    pub fn block<'a>(&'a mut self, out: &'a mut Vec<u8>) -> Block<'a> {
        if let Some((least, last)) = self.resized.take() {
            self.resize(least, last, out);
        }
        Block { encoder: self, out, never_indexed: false }
    }

    #[cold]
    fn resize(&mut self, least: usize, last: usize, out: &mut Vec<u8>) {
        // RFC 7541 §4.2: the smallest size in between, if there was one, and the last.
        if least < last {
            self.table.set_max(least);
            integer::push(out, 0x20, 5, least);
        }
        self.table.set_max(last);
        // Entries may have gone, and what is kept may name them.
        self.recent = None;
        integer::push(out, 0x20, 5, last);
        if last == 0 {
            self.index = None;
        }
    }
}

/// A header block that is being written. Pseudo-fields come first (RFC 9113 §8.3).
pub struct Block<'a> {
    encoder: &'a mut Encoder,
    out: &'a mut Vec<u8>,
    never_indexed: bool,
}

impl Block<'_> {
    /// `:status`.
    #[inline]
    pub fn status(&mut self, status: u16) {
        let fixed = match status {
            200 => 8,
            204 => 9,
            206 => 10,
            304 => 11,
            400 => 12,
            404 => 13,
            500 => 14,
            _ => {
                debug_assert!((100..600).contains(&status));
                let digit = |place: u16| b'0' + (status / place % 10) as u8;
                let name = Name::pseudo(b":status", 8, Habit::Same);
                return self.put(name, &[digit(100), digit(10), digit(1)]);
            }
        };
        self.out.push(0x80 | fixed);
    }

    /// `:method`.
    #[inline]
    pub fn method(&mut self, method: &[u8]) {
        match method {
            b"GET" => self.out.push(0x82),
            b"POST" => self.out.push(0x83),
            _ => self.put(Name::pseudo(b":method", 2, Habit::Same), method),
        }
    }

    /// `:scheme`.
    #[inline]
    pub fn scheme(&mut self, secure: bool) {
        self.out.push(if secure { 0x87 } else { 0x86 });
    }

    /// `:authority`.
    #[inline]
    pub fn authority(&mut self, authority: &[u8]) {
        self.put(Name::pseudo(b":authority", 1, Habit::Same), authority);
    }

    /// `:path`, with the query behind a question mark. Never an entry: there are too many.
    #[inline]
    pub fn path(&mut self, path: &[u8], query: Option<&[u8]>) {
        match (path, query) {
            (b"/", None) => self.out.push(0x84),
            (b"/index.html", None) => self.out.push(0x85),
            _ => {
                self.out.push(0x04);
                match query {
                    None => self.string(&[path]),
                    Some(query) => self.string(&[path, b"?", query]),
                }
            }
        }
    }

    /// `:protocol` (RFC 8441 §4).
    pub fn protocol(&mut self, protocol: &[u8]) {
        self.put(Name::pseudo(b":protocol", 0, Habit::Same), protocol);
    }

    /// The fields of `fields` that are not in `skip`; `head` is what they are of. Those in `secret` came as what may never be
    /// in a table, and go out as such (RFC 7541 §6.2.3).
    #[inline]
    pub fn fields(&mut self, head: &[u8], fields: &FieldTable, skip: &FieldSet, secret: &FieldSet) {
        self.out.reserve(head.len());
        let skip = skip.union(fields.hop_by_hop());
        for (index, field) in fields.as_slice().iter().enumerate() {
            if skip.contains(index) || field.known == Known::Host {
                continue;
            }
            self.named(field.known, || field.name().of(head), field.value().of(head), secret.contains(index));
        }
    }

    /// Writes a field of this name, in any case. Only names that are not [`Known`] are looked at.
    #[inline(always)]
    fn named<'n>(&mut self, known: Known, name: impl FnOnce() -> &'n [u8], value: &[u8], secret: bool) {
        if known != Known::Other {
            let name = Name::known(known);
            let habit = if secret { Habit::Secret } else { name.habit };
            return self.put(Name { habit, ..name }, value);
        }
        let mut lower = [0; FIELD_NAME_BYTES_MAX];
        let name = Name::other(lower_case(name(), &mut lower));
        debug_assert!(!name.bytes.is_empty());
        let habit = if secret { Habit::Secret } else { name.habit };
        self.put(Name { habit, ..name }, value);
    }

    /// Whether a field of the lines that follow came as one that may never be in a table. Which one is not known any more, so
    /// that none of them will be (RFC 7541 §6.2.3 has whoever passes it on say so again).
    pub fn set_never_indexed(&mut self, never_indexed: bool) {
        self.never_indexed = never_indexed;
    }

    /// Fields that are lines already: `name: value` CRLF, names in any case.
    pub fn lines(&mut self, lines: &[u8]) {
        self.out.reserve(lines.len());
        let mut rest = lines;
        while let Some((line, behind)) = split_line(rest) {
            self.line(line);
            rest = behind;
        }
    }

    /// [`Block::lines`] of a head, most of which are those of the head before: they are found as they stand.
    pub fn head_lines(&mut self, lines: &[u8]) {
        if self.never_indexed {
            return self.lines(lines);
        }
        self.out.reserve(lines.len());
        let mut recent = self.encoder.recent.take().unwrap_or_default();
        match recent.is_of(self.encoder.table.next_number()) && !recent.is_stale() {
            true => self.repeat(&mut recent, lines),
            false => self.learn(&mut recent, lines),
        }
        self.encoder.recent = Some(recent);
    }

    fn repeat(&mut self, recent: &mut Recent, lines: &[u8]) {
        let (mut rest, mut at, mut missed) = (lines, 0_usize, false);
        while !rest.is_empty() {
            // One line may have been left out, or put in.
            let places = [at, at + 1, at.wrapping_sub(1)];
            let known = recent.is_of(self.encoder.table.next_number());
            let found = places.into_iter().filter(|_| known).find_map(|place| recent.find(place, rest));
            if let Some(found) = found {
                self.out.extend_from_slice(found.coded);
                rest = rest.get(found.length..).unwrap_or_default();
                at = found.next;
                continue;
            }
            let Some((line, behind)) = split_line(rest) else { break };
            self.line(line);
            missed |= recent.is_expected(at);
            rest = behind;
            at += 1;
        }
        recent.note(missed);
    }

    fn learn(&mut self, recent: &mut Recent, lines: &[u8]) {
        if !recent.begin(lines) {
            return self.lines(lines);
        }
        let before = self.encoder.table.next_number();
        let mut rest = lines;
        while let Some((line, behind)) = split_line(rest) {
            let start = self.out.len();
            self.line(line);
            let coded = self.out.get(start..).unwrap_or_default();
            let stable = match (coded, self.encoder.sharing) {
                // What is not written at all, and what is an entry already.
                ([], _) | ([0x80..=0xff, ..], _) => true,
                // Never an entry, and no secret.
                ([0x00..=0x0f, ..], Sharing::Many) => true,
                _ => false,
            };
            recent.keep(line.len(), coded, stable);
            rest = behind;
        }
        recent.finish(before, self.encoder.table.next_number());
    }

    /// One line.
    #[inline]
    fn line(&mut self, line: &[u8]) {
        let Some(colon) = memchr::memchr(b':', line) else { return };
        let (name, value) = line.split_at_checked(colon).unwrap_or_default();
        let value =
            value.strip_prefix(b":").and_then(|value| value.strip_suffix(b"\r\n")).unwrap_or_default();
        let known = Known::of(name);
        if known == Known::Host || known.is_hop_by_hop() || known.is_framing() {
            return;
        }
        self.named(known, || name, scan::trim(value), self.never_indexed);
    }

    /// What is known of the body's length; nothing is written where nothing is.
    #[inline]
    pub fn length(&mut self, length: BodyLength) {
        if let BodyLength::Length(length) = length {
            self.put(Name::known(Known::ContentLength), itoa::Buffer::new().format(length).as_bytes());
        }
    }

    /// `te: trailers`, the one thing that TE may say (RFC 9113 §8.2.2).
    pub fn te_trailers(&mut self) {
        self.put(Name::known(Known::Te), b"trailers");
    }

    /// Writes a field, in the shortest form that its habit allows.
    #[inline(never)]
    fn put(&mut self, name: Name<'_>, value: &[u8]) {
        if name.habit == Habit::Secret {
            // RFC 7541 §6.2.3.
            self.literal(0x10, 4, usize::from(name.fixed), name.bytes, value);
            return;
        }
        if self.is_fixed(name, value) || self.encoder.table.max() == 0 {
            return self.put_fixed(name, value);
        }
        let name_hash = name.hash();
        let pair_hash = hash(name_hash, value);
        let table = &self.encoder.table;
        let index = self.encoder.index.as_deref();
        let same_name = |entry: &Entry, line: &[u8]| {
            entry.known == name.known
                && (name.known != Known::Other || line.get(..usize::from(entry.name_len)) == Some(name.bytes))
        };
        if name.habit != Habit::Other {
            let found = index.and_then(|index| {
                index.find(table, pair_hash, |entry, line| {
                    same_name(entry, line)
                        && line.get(usize::from(entry.name_len) + 2..line.len() - 2) == Some(value)
                })
            });
            if let Some(age) = found {
                return integer::push(self.out, 0x80, 7, STATIC_ENTRIES + 1 + age);
            }
        }
        let mut name_index = usize::from(name.fixed);
        if name_index == 0
            && let Some(age) = index.and_then(|index| index.find(table, name_hash, same_name))
        {
            name_index = STATIC_ENTRIES + 1 + age;
        }
        if self.is_worth_it(name, name_index, pair_hash, value) {
            self.literal(0x40, 6, name_index, name.bytes, value);
            self.enter(name, name_hash, pair_hash, value);
        } else {
            self.literal(0x00, 4, name_index, name.bytes, value);
        }
    }

    /// Whether a field is in the static table as a whole.
    #[inline(always)]
    fn is_fixed(&self, name: Name<'_>, value: &[u8]) -> bool {
        match usize::from(name.fixed).checked_sub(1).and_then(|at| STATIC.get(at)) {
            Some(fixed) => fixed.value_len() == value.len() && fixed.value() == value,
            None => false,
        }
    }

    /// Without the dynamic table.
    #[inline(never)]
    fn put_fixed(&mut self, name: Name<'_>, value: &[u8]) {
        match self.is_fixed(name, value) {
            true => self.out.push(0x80 | name.fixed),
            false => self.literal(0x00, 4, usize::from(name.fixed), name.bytes, value),
        }
    }

    /// Whether a field shall become an entry.
    #[inline]
    fn is_worth_it(&mut self, name: Name<'_>, name_index: usize, pair_hash: u64, value: &[u8]) -> bool {
        // More than that and there would be little beside it.
        if name.bytes.len() + value.len() + ENTRY_BYTES > self.encoder.table.max() / 4 * 3 {
            return false;
        }
        match (self.encoder.sharing, name.habit) {
            (_, Habit::Same) => true,
            (Sharing::Many, _) | (_, Habit::Secret) => false,
            (Sharing::One, _) if name_index == 0 => true,
            (Sharing::One, Habit::Other) => false,
            (Sharing::One, Habit::Often) => self.index().came_before(pair_hash),
        }
    }

    /// Makes it an entry.
    #[inline(never)]
    fn enter(&mut self, name: Name<'_>, name_hash: u64, pair_hash: u64, value: &[u8]) {
        self.index();
        let entry = Entry::new(name.bytes.len(), value.len(), name.known, Pseudo::None, Marks::default());
        let Encoder { table, index: Some(index), .. } = &mut *self.encoder else { return };
        if table.insert_parts(entry, [name.bytes, b": ", value, b"\r\n"]) {
            index.note(table, pair_hash);
            if name.fixed == 0 {
                index.note(table, name_hash);
            }
        }
    }

    fn index(&mut self) -> &mut Index {
        self.encoder.index.get_or_insert_with(|| {
            Box::new(Index { buckets: [[Place::default(); 2]; 1 << BUCKETS_LOG2], seen: [0; 1 << SEEN_LOG2] })
        })
    }

    /// RFC 7541 §6.2.
    #[inline]
    fn literal(&mut self, flags: u8, prefix: u32, name_index: usize, name: &[u8], value: &[u8]) {
        integer::push(self.out, flags, prefix, name_index);
        if name_index == 0 {
            self.string(&[name]);
        }
        self.string(&[value]);
    }

    /// RFC 7541 §5.2. The way to an upstream is short and wide: there the Huffman code, which is half of what a literal costs on
    /// either side, is worth nothing.
    #[inline]
    fn string(&mut self, parts: &[&[u8]]) {
        match self.encoder.sharing {
            Sharing::One => push_string(self.out, parts),
            Sharing::Many => push_plain(self.out, parts),
        }
    }
}

/// RFC 7541 §5.2: in the Huffman code where that is shorter.
#[inline]
fn push_string(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let len: usize = parts.iter().map(|part| part.len()).sum();
    let coded = parts.iter().map(|part| huffman::bits(part)).sum::<usize>().div_ceil(8);
    if coded < len {
        integer::push(out, 0x80, 7, coded);
        huffman::encode(parts, out);
    } else {
        push_plain(out, parts);
    }
}

/// RFC 7541 §5.2: as it stands.
#[inline]
fn push_plain(out: &mut Vec<u8>, parts: &[&[u8]]) {
    integer::push(out, 0, 7, parts.iter().map(|part| part.len()).sum());
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// The first line, and what is behind it.
#[inline]
fn split_line(lines: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\n', lines)?;
    lines.split_at_checked(end + 1)
}

/// A name in lower case. What is longer than any that is accepted is cut off.
#[inline]
fn lower_case<'a>(name: &[u8], lower: &'a mut [u8; FIELD_NAME_BYTES_MAX]) -> &'a [u8] {
    debug_assert!(name.len() <= FIELD_NAME_BYTES_MAX);
    lower.iter_mut().zip(name).for_each(|(to, from)| *to = from.to_ascii_lowercase());
    lower.get(..name.len().min(FIELD_NAME_BYTES_MAX)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h2::hpack::{Decoder, laws};

    /// What a decoder makes of a block, and the oracle with it.
    struct Reader(Decoder, laws::Naive);

    impl Reader {
        fn new() -> Reader {
            Reader(Decoder::new(), laws::Naive::new())
        }

        fn read(&mut self, block: &[u8]) -> String {
            let mut arena = Vec::new();
            assert!(!self.0.decode(block, 65_535, &mut arena, |_, _| true).unwrap().over);
            let naive = self.1.decode(block).expect("the oracle decodes it");
            let naive: Vec<u8> = naive
                .into_iter()
                .flat_map(|(name, value)| [name, b": ".to_vec(), value, b"\r\n".to_vec()].concat())
                .collect();
            assert_eq!(arena, naive);
            String::from_utf8(arena).unwrap()
        }
    }

    fn lines(encoder: &mut Encoder, lines: &str) -> Vec<u8> {
        let mut out = Vec::new();
        encoder.block(&mut out).lines(lines.as_bytes());
        out
    }

    #[test]
    fn a_response_shrinks_when_it_is_repeated() {
        let (mut encoder, mut reader) = (Encoder::new(Sharing::One), Reader::new());
        let fields = "server: origin\r\ndate: Tue, 14 May 2024 09:30:00 GMT\r\ncontent-type: application/json; charset=utf-8\r\n\
            cache-control: no-store\r\nx-content-type-options: nosniff\r\nx-own: same\r\netag: \"5f3c-61a9\"\r\nfrom: a\r\n";
        let mut sizes = Vec::new();
        for _ in 0..4 {
            let mut out = Vec::new();
            let mut block = encoder.block(&mut out);
            block.status(200);
            block.lines(fields.as_bytes());
            block.length(BodyLength::Length(1024));
            block.length(BodyLength::Chunked);
            assert_eq!(reader.read(&out), format!(":status: 200\r\n{fields}content-length: 1024\r\n"));
            sizes.push(out.len());
        }
        // The second time date, etag and from become entries, the third time all are.
        assert!(sizes[0] > 100 && sizes[1] < sizes[0] / 2 && sizes[2] == sizes[3], "{sizes:?}");
        assert_eq!(sizes[3], 1 + 8 + 6);
    }

    #[test]
    fn what_differs_every_time_drives_nothing_out() {
        let (mut encoder, mut reader) = (Encoder::new(Sharing::One), Reader::new());
        reader.read(&lines(&mut encoder, "server: a\r\nx-request-id: 0\r\nx-own: 0\r\n"));
        for number in 1..5000 {
            let fields = format!(
                "x-request-id: {number}\r\nx-own: {number}\r\nlocation: /{number}\r\ncontent-length: 1\r\n"
            );
            let expected = fields.replace("content-length: 1\r\n", "");
            assert_eq!(reader.read(&lines(&mut encoder, &fields)), expected);
        }
        assert_eq!(lines(&mut encoder, "server: a\r\n").len(), 1);
        assert_eq!(encoder.table.len(), 3);
    }

    #[test]
    fn rfc_7541_7_1_secrets_are_never_entries() {
        let (mut encoder, mut reader) = (Encoder::new(Sharing::One), Reader::new());
        let fields = "authorization: Bearer a\r\ncookie: b=c\r\nset-cookie: d=e\r\nx-api-key: f\r\nproxy-authorization: g\r\n";
        for _ in 0..3 {
            let out = lines(&mut encoder, fields);
            assert_eq!(reader.read(&out), fields.replace("proxy-authorization: g\r\n", ""));
            assert_eq!((encoder.table.len(), out[0] & 0xf0), (0, 0x10));
        }
        let mut arena = Vec::new();
        let out = lines(&mut encoder, fields);
        let decoded = Decoder::new().decode(&out, 1000, &mut arena, |_, line| line.never_indexed || panic!());
        assert!(decoded.is_ok());
    }

    #[test]
    fn rfc_7541_7_1_clients_that_share_a_connection_share_no_entries_of_their_own() {
        let (mut encoder, mut reader) = (Encoder::new(Sharing::Many), Reader::new());
        for _ in 0..4 {
            let fields = "user-agent: curl/8\r\nx-session: s3cret\r\nreferer: https://a/?token=1\r\nx-forwarded-for: 192.0.2.1\r\n";
            assert_eq!(reader.read(&lines(&mut encoder, fields)), fields);
        }
        assert_eq!(encoder.table.len(), 1);
    }

    #[test]
    fn rfc_9113_8_2_2_what_belongs_to_a_connection_is_not_written() {
        let (mut encoder, mut reader) = (Encoder::new(Sharing::One), Reader::new());
        let fields = "Connection: close\r\nKeep-Alive: 5\r\nProxy-Connection: a\r\nTransfer-Encoding: chunked\r\nUpgrade: b\r\n\
            Content-Length: 3\r\nHost: a\r\nTE: gzip\r\nX-Kept: Yes\r\nServer:  s \r\n";
        assert_eq!(reader.read(&lines(&mut encoder, fields)), "x-kept: Yes\r\nserver: s\r\n");
        let mut out = Vec::new();
        encoder.block(&mut out).te_trailers();
        assert_eq!(reader.read(&out), "te: trailers\r\n");
    }

    #[test]
    fn what_goes_to_upstreams_is_not_in_the_huffman_code() {
        let path = b"/v1/orders/48213";
        for (sharing, bytes) in [(Sharing::One, 2 + 12), (Sharing::Many, 2 + path.len())] {
            let (mut encoder, mut out) = (Encoder::new(sharing), Vec::new());
            encoder.block(&mut out).path(path, None);
            assert_eq!(out.len(), bytes);
            assert_eq!(Reader::new().read(&out), ":path: /v1/orders/48213\r\n");
        }
    }

    #[test]
    fn requests_are_written_with_the_static_table() {
        let (mut encoder, mut reader) = (Encoder::new(Sharing::One), Reader::new());
        for (method, secure, path, query, expected, bytes) in [
            (
                "GET",
                true,
                "/",
                None,
                ":method: GET\r\n:scheme: https\r\n:authority: a.example\r\n:path: /\r\n",
                12,
            ),
            (
                "POST",
                false,
                "/index.html",
                None,
                ":method: POST\r\n:scheme: http\r\n:authority: a.example\r\n:path: /index.html\r\n",
                4,
            ),
            (
                "PUT",
                true,
                "/",
                Some("q"),
                ":method: PUT\r\n:scheme: https\r\n:authority: a.example\r\n:path: /?q\r\n",
                12,
            ),
            (
                "PUT",
                true,
                "/a",
                Some(""),
                ":method: PUT\r\n:scheme: https\r\n:authority: a.example\r\n:path: /a?\r\n",
                8,
            ),
        ] {
            let mut out = Vec::new();
            let mut block = encoder.block(&mut out);
            block.method(method.as_bytes());
            block.scheme(secure);
            block.authority(b"a.example");
            block.path(path.as_bytes(), query.map(str::as_bytes));
            assert_eq!(reader.read(&out), expected);
            assert_eq!(out.len(), bytes, "{expected}");
        }
        for status in 100..600 {
            let mut out = Vec::new();
            encoder.block(&mut out).status(status);
            assert_eq!(reader.read(&out), format!(":status: {status}\r\n"));
        }
        let mut out = Vec::new();
        encoder.block(&mut out).protocol(b"websocket");
        assert_eq!(reader.read(&out), ":protocol: websocket\r\n");
    }

    #[test]
    fn rfc_7541_4_2_a_change_of_size_is_told_with_the_next_block() {
        let (mut encoder, mut reader) = (Encoder::new(Sharing::One), Reader::new());
        let fields = "server: a\r\n";
        let first = lines(&mut encoder, fields);
        reader.read(&first);
        // More than we use, or what it is: nothing to tell.
        encoder.limit(65_536);
        encoder.limit(4096);
        assert_eq!(lines(&mut encoder, fields), [0xbe]);
        encoder.limit(0);
        encoder.limit(100);
        reader.0.allow(100);
        let out = lines(&mut encoder, fields);
        assert_eq!(out[..3], [0x20, 0x3f, 0x45]);
        assert_eq!(reader.read(&out), fields);
        encoder.limit(0);
        reader.0.allow(0);
        let out = lines(&mut encoder, fields);
        assert_eq!((reader.read(&out).as_str(), out[0], encoder.memory()), (fields, 0x20, 0));
        assert_eq!(reader.read(&lines(&mut encoder, fields)), fields);
        encoder.limit(4096);
        reader.0.allow(4096);
        assert_eq!(reader.read(&lines(&mut encoder, fields)), fields);
        assert_eq!(lines(&mut encoder, fields), [0xbe]);
    }

    /// What is found of the head before is what it comes to anyway, to the byte.
    #[test]
    fn heads_come_to_the_same_as_each_line_for_itself() {
        const LINES: [&str; 14] = [
            "server: origin\r\n",
            "server: other\r\n",
            "date: Tue, 14 May 2024 09:30:00 GMT\r\n",
            "date: Tue, 14 May 2024 09:30:01 GMT\r\n",
            "content-type: application/json\r\n",
            "x-own: a\r\n",
            "X-Own: b\r\n",
            "x-request-id: 1\r\n",
            "x-request-id: 2\r\n",
            "cookie: a=b\r\n",
            "host: a\r\n",
            "from: somebody\r\n",
            "etag: \"a\"\r\n",
            "accept-encoding: gzip, deflate\r\n",
        ];
        let mut random = 11_u64;
        let mut draw = |below: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) as usize % below
        };
        let mut found = 0;
        for sharing in [Sharing::One, Sharing::Many] {
            let (mut each, mut heads) = (Encoder::new(sharing), Encoder::new(sharing));
            let mut reader = Reader::new();
            let mut head: Vec<String> = LINES.map(str::to_owned).to_vec();
            for step in 0..4_000 {
                match draw(6) {
                    0 if !head.is_empty() => drop(head.remove(draw(head.len()))),
                    1 => head.insert(draw(head.len() + 1), LINES[draw(LINES.len())].to_owned()),
                    2 if draw(20) == 0 => {
                        head.insert(0, format!("vary: {step}{}\r\n", "a".repeat(draw(900))))
                    }
                    3 if draw(20) == 0 => {
                        let bytes = [0, 100, 4096][draw(3)];
                        each.limit(bytes);
                        heads.limit(bytes);
                    }
                    4 if draw(50) == 0 => [&mut each, &mut heads].into_iter().for_each(Encoder::forget),
                    _ => {}
                }
                head.truncate(20);
                let text = head.concat();
                let expected = lines(&mut each, &text);
                let mut out = Vec::new();
                heads.block(&mut out).head_lines(text.as_bytes());
                assert_eq!(out, expected, "{text}");
                reader.read(&out);
                found += usize::from(
                    heads.recent.as_ref().is_some_and(|recent| recent.find(0, text.as_bytes()).is_some()),
                );
            }
        }
        assert!(found > 3_000, "{found}");
    }

    #[test]
    fn what_is_forgotten_is_told_with_the_next_block() {
        let (mut encoder, mut reader) = (Encoder::new(Sharing::One), Reader::new());
        let fields = "server: a\r\nvary: b\r\n";
        // Nothing to forget, nothing to tell.
        encoder.forget();
        let first = lines(&mut encoder, fields);
        assert_eq!((reader.read(&first).as_str(), first[0] & 0xc0), (fields, 0x40));
        assert_eq!(lines(&mut encoder, fields), [0xbf, 0xbe]);
        encoder.forget();
        encoder.forget();
        assert_eq!(encoder.memory(), 0);
        let again = lines(&mut encoder, fields);
        assert_eq!(again[..4], [0x20, 0x3f, 0xe1, 0x1f]);
        assert_eq!(again[4..], first);
        assert_eq!(reader.read(&again), fields);
        assert_eq!(reader.read(&lines(&mut encoder, fields)), fields);
        assert_eq!(lines(&mut encoder, fields), [0xbf, 0xbe]);
        // What the peer asks for meanwhile is what it comes to.
        encoder.forget();
        encoder.limit(100);
        reader.0.allow(100);
        let less = lines(&mut encoder, fields);
        assert_eq!((&less[..3], reader.read(&less).as_str()), (&[0x20, 0x3f, 0x45][..], fields));
        encoder.forget();
        encoder.limit(0);
        reader.0.allow(0);
        let none = lines(&mut encoder, fields);
        assert_eq!((none[0], reader.read(&none).as_str()), (0x20, fields));
        assert_eq!(encoder.memory(), 0);
    }

    #[test]
    fn memory_is_taken_when_it_is_needed_and_bounded() {
        let mut encoder = Encoder::new(Sharing::One);
        let mut out = Vec::new();
        encoder.block(&mut out).status(200);
        assert_eq!(encoder.memory(), 0);
        for number in 0..20_000 {
            lines(&mut encoder, &format!("server: {number}\r\nvary: a{number}\r\n"));
        }
        assert!(encoder.memory() <= 6144 + 1536 + 1200, "{}", encoder.memory());
    }
}
