//! Header blocks to lines.
//!
//! For: [`crate::h2::head`], which gives each block to [`Decoder::decode`] in the order of their arrival. Not for: judging
//! what a field means; what is found wrong with its bytes is said in its [`Marks`].
//!
//! **Law.** A block is decoded to its end whatever its fields are: a stream may be refused, the table must not differ from the
//! peer's (RFC 9113 §4.3). So the caller is called back and cannot stop; it can only say that it wants no more, and then the
//! rest is decoded for the table alone. Only an [`Error`] ends it, and with it the connection.
//!
//! **Bounds.** What is kept is bounded by the size of the header list, which counts 32 bytes for each field (RFC 9113 §6.5.2):
//! a block of one-byte indices cannot become more. What is decoded for the table alone is bounded by [`DROPPED_BYTES_MAX`];
//! fields that are only named there cost nothing. One literal makes the arena grow by at most 8/5 of its coded length and one
//! name in the table.
//!
//! Cost: a field that comes as an index is one copy of its line. No allocation but the growth of arena and table.

use super::{
    huffman, integer,
    table::{ENTRY_BYTES, Entry, STATIC, STATIC_ENTRIES, TABLE_BYTES_DEFAULT, TABLE_BYTES_MAX, Table},
};
use crate::http::{Known, field::FIELD_NAME_BYTES_MAX, scan};

/// Most bytes of one block that are decoded only for the table, because the list is too long or its stream refused: two hundred
/// fields of the most that a default table holds would not be more costly to keep. Only literals that name a long entry again
/// and again come that far.
pub const DROPPED_BYTES_MAX: usize = 256 << 10;
/// RFC 7541 §4.2: the smallest size since the last block, and the last.
const SIZE_UPDATES_MAX: usize = 2;

/// Why a block cannot be decoded. The table is lost, and so is the connection (RFC 9113 §4.3): COMPRESSION_ERROR, but
/// ENHANCE_YOUR_CALM for [`Error::Churn`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The block ends within a field.
    Truncated,
    /// An integer of more than 32 bits, or with too many bytes.
    Integer,
    /// An index of no entry.
    Index,
    /// A string that is not of the Huffman code.
    Huffman,
    /// A table size beyond what was allowed, behind a field, or the third of a block.
    SizeUpdate,
    /// The table was to be made smaller, and the block does not begin with that (RFC 7541 §4.2).
    SizeUpdateMissing,
    /// More than [`DROPPED_BYTES_MAX`].
    Churn,
}

/// The pseudo-fields (RFC 9113 §8.3, RFC 8441 §4).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs, reason = "each variant is the pseudo-field that it spells")]
pub enum Pseudo {
    /// Not one: a field.
    #[default]
    None,
    Method,
    Scheme,
    Authority,
    Path,
    Status,
    Protocol,
    /// A name that begins with a colon and is none of these.
    Unknown,
}

impl Pseudo {
    /// The pseudo-field of this name.
    pub fn of(name: &[u8]) -> Pseudo {
        match name {
            b":method" => Pseudo::Method,
            b":scheme" => Pseudo::Scheme,
            b":authority" => Pseudo::Authority,
            b":path" => Pseudo::Path,
            b":status" => Pseudo::Status,
            b":protocol" => Pseudo::Protocol,
            [b':', ..] => Pseudo::Unknown,
            _ => Pseudo::None,
        }
    }
}

/// What was found in the bytes of a field, when they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Marks(u8);

impl Marks {
    /// The name is empty or has a byte that no token has (the colon of a pseudo-field apart).
    pub const NAME_SYNTAX: Marks = Marks(1);
    /// The name has a capital letter (RFC 9113 §8.2).
    pub const NAME_UPPER: Marks = Marks(2);
    /// The name has more than [`FIELD_NAME_BYTES_MAX`] bytes.
    pub const NAME_SIZE: Marks = Marks(4);
    /// The name has a byte besides letters, digits and hyphens.
    pub const NAME_ODD: Marks = Marks(8);
    /// The value has a control besides HTAB.
    pub const VALUE_CONTROL: Marks = Marks(16);
    /// The value begins or ends with white space (RFC 9113 §8.2.1).
    pub const VALUE_EDGE: Marks = Marks(32);
    /// The value has a byte above 0x7F.
    pub const VALUE_OBS_TEXT: Marks = Marks(64);
    /// The marks that are the name's.
    const NAME: Marks = Marks(15);

    /// Whether any of these is set.
    #[inline(always)]
    pub const fn has(self, other: Marks) -> bool {
        self.0 & other.0 != 0
    }

    /// Those of either.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, other: Marks) -> Marks {
        Marks(self.0 | other.0)
    }

    #[inline(always)]
    const fn only(self, other: Marks) -> Marks {
        Marks(self.0 & other.0)
    }

    #[cfg(test)]
    pub(super) fn of_bits(bits: u8) -> Marks {
        Marks(bits)
    }

    /// What a name deserves, byte by byte.
    const BYTES: [u8; 256] = {
        let mut marks = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            marks[byte] = match scan::NAME[byte] {
                0 => Marks::NAME_SYNTAX.0,
                2 => Marks::NAME_ODD.0,
                _ if (byte as u8).is_ascii_uppercase() => Marks::NAME_UPPER.0,
                _ => 0,
            };
            byte += 1;
        }
        marks
    };

    /// Those of a name.
    #[inline]
    fn of_name(name: &[u8]) -> Marks {
        let found = name.iter().fold(0, |found, byte| found | Marks::BYTES[usize::from(*byte)]);
        let empty = if name.is_empty() { Marks::NAME_SYNTAX.0 } else { 0 };
        let long = if name.len() > FIELD_NAME_BYTES_MAX { Marks::NAME_SIZE.0 } else { 0 };
        Marks(found | empty | long)
    }

    /// Those of a value.
    #[inline]
    fn of_value(value: &[u8]) -> Marks {
        let mut found = Marks::default();
        let mut at = scan::control(value, 0);
        while value.get(at) == Some(&b'\t') {
            at = scan::control(value, at + 1);
        }
        if at < value.len() {
            found = found.and(Marks::VALUE_CONTROL);
        }
        if let [b' ' | b'\t', ..] | [.., b' ' | b'\t'] = value {
            found = found.and(Marks::VALUE_EDGE);
        }
        if !value.is_ascii() {
            found = found.and(Marks::VALUE_OBS_TEXT);
        }
        found
    }
}

/// A field, at the end of the arena when it is given out: `name: value` CRLF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Where it begins.
    pub start: u32,
    /// Length of the name.
    pub name_len: u32,
    /// Length of the value.
    pub value_len: u32,
    /// Which known field it is; `Other` for pseudo-fields.
    pub known: Known,
    /// Which pseudo-field it is.
    pub pseudo: Pseudo,
    /// What is wrong with it, or noteworthy.
    pub marks: Marks,
    /// It may never be in a table: whoever sends it on must say so again (RFC 7541 §6.2.3).
    pub never_indexed: bool,
}

// It is handed on in two registers.
const _: () = assert!(size_of::<Line>() == 16);

impl Line {
    /// Where it begins.
    #[inline]
    pub fn start(&self) -> usize {
        self.start as usize
    }

    /// Where the value begins.
    #[inline]
    pub fn value_start(&self) -> usize {
        self.start() + self.name_len as usize + 2
    }

    /// Where the value ends.
    #[inline]
    pub fn value_end(&self) -> usize {
        self.value_start() + self.value_len as usize
    }

    /// Where the line ends.
    #[inline]
    pub fn end(&self) -> usize {
        self.value_end() + 2
    }

    /// The name.
    #[inline]
    pub fn name<'a>(&self, arena: &'a [u8]) -> &'a [u8] {
        arena.get(self.start()..self.start() + self.name_len as usize).unwrap_or_default()
    }

    /// The value.
    #[inline]
    pub fn value<'a>(&self, arena: &'a [u8]) -> &'a [u8] {
        arena.get(self.value_start()..self.value_end()).unwrap_or_default()
    }

    /// RFC 7541 §4.1.
    #[inline]
    fn size(&self) -> usize {
        self.name_len as usize + self.value_len as usize + ENTRY_BYTES
    }
}

/// What became of a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// The size of its header list, all of it (RFC 9113 §6.5.2).
    pub list_bytes: usize,
    /// It is more than was allowed: the fields behind the bound were dropped.
    pub over: bool,
}

/// The receiving side of a connection's compression.
#[derive(Clone, Debug)]
pub struct Decoder {
    table: Table,
    /// What the peer may make the table, by the settings that it has acknowledged.
    allowed: usize,
    /// The smallest `allowed` since the last block, if it is less than the table may come to.
    to_shrink: Option<usize>,
    /// Bytes that ever went into the table.
    inserted_bytes: u64,
    /// Bytes of all header lists.
    listed_bytes: u64,
}

impl Default for Decoder {
    fn default() -> Decoder {
        Decoder::new()
    }
}

impl Decoder {
    /// A decoder with an empty table of the default size; allocates nothing.
    pub const fn new() -> Decoder {
        Decoder {
            table: Table::new(TABLE_BYTES_DEFAULT),
            allowed: TABLE_BYTES_DEFAULT as usize,
            to_shrink: None,
            inserted_bytes: 0,
            listed_bytes: 0,
        }
    }

    /// Tells that the peer has acknowledged our SETTINGS_HEADER_TABLE_SIZE of `bytes` (at most [`TABLE_BYTES_MAX`]).
    pub fn allow(&mut self, bytes: u32) {
        debug_assert!(bytes <= TABLE_BYTES_MAX);
        self.allowed = bytes.min(TABLE_BYTES_MAX) as usize;
        if self.allowed < self.table.max() {
            self.to_shrink = Some(self.to_shrink.map_or(self.allowed, |least| least.min(self.allowed)));
        }
    }

    /// Gives back memory that the table grew into and does not fill.
    pub fn shrink(&mut self) {
        self.table.trim();
    }

    /// Bytes of memory that its table holds.
    pub fn memory(&self) -> usize {
        self.table.memory()
    }

    /// What all entries that ever went into the table came to (RFC 7541 §4.1): how much of it is churned.
    #[inline]
    pub fn inserted_bytes(&self) -> u64 {
        self.inserted_bytes
    }

    /// What all header lists came to (RFC 9113 §6.5.2), with what was dropped of them.
    #[inline]
    pub fn listed_bytes(&self) -> u64 {
        self.listed_bytes
    }

    /// Decodes a block for the table alone: its stream is refused. `arena` serves as scratch and is left as it was.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn skip(&mut self, block: &[u8], arena: &mut Vec<u8>) -> Result<Decoded, Error> {
        self.decode(block, 0, arena, |_, _| false)
    }

    /// Decodes a block. Each field of the first `list_max` bytes of its list is appended to the arena as a line and given to
    /// `take`, which may change the arena from where the line starts, and says whether it wants another one.
    ///
    /// # Errors
    /// The connection is lost.
    #[inline]
    pub fn decode(
        &mut self,
        block: &[u8],
        list_max: usize,
        arena: &mut Vec<u8>,
        mut take: impl FnMut(&mut Vec<u8>, Line) -> bool,
    ) -> Result<Decoded, Error> {
        let mut at = self.size_updates(block)?;
        let mut decoded = Decoded::default();
        let mut wanted = list_max > 0;
        let mut dropped = 0;
        while let Some(&first) = block.get(at) {
            let start = arena.len();
            let line;
            if first & 0x80 != 0 {
                // RFC 7541 §6.1.
                let (index, next) = integer::read(block, at, 7)?;
                at = next;
                let (found, bytes) = self.entry(index)?;
                line = Line { start: start as u32, ..found };
                decoded.list_bytes += line.size();
                wanted &= decoded.list_bytes <= list_max;
                if !wanted {
                    continue;
                }
                arena.extend_from_slice(bytes);
            } else {
                let indexed = first & 0x40 != 0;
                let prefix = match first {
                    0x40.. => 6,
                    // RFC 7541 §4.2: only at the beginning.
                    0x20.. => return Err(Error::SizeUpdate),
                    _ => 4,
                };
                let (mut found, next) = self.literal(block, at, prefix, arena)?;
                at = next;
                found.never_indexed = first & 0xf0 == 0x10;
                line = found;
                if indexed {
                    let entry = Entry::new(
                        line.name_len as usize,
                        line.value_len as usize,
                        line.known,
                        line.pseudo,
                        line.marks,
                    );
                    self.inserted_bytes += line.size() as u64;
                    self.table.insert(entry, arena.get(start..).unwrap_or_default());
                }
                decoded.list_bytes += line.size();
                wanted &= decoded.list_bytes <= list_max;
                if !wanted {
                    dropped += arena.len() - start;
                    arena.truncate(start);
                    if dropped > DROPPED_BYTES_MAX {
                        return Err(Error::Churn);
                    }
                    continue;
                }
            }
            wanted = take(arena, line);
        }
        decoded.over = decoded.list_bytes > list_max;
        self.listed_bytes += decoded.list_bytes as u64;
        Ok(decoded)
    }

    /// RFC 7541 §6.3, §4.2: what stands before the first field. Says where that is.
    #[inline]
    fn size_updates(&mut self, block: &[u8]) -> Result<usize, Error> {
        let mut at = 0;
        let mut updates = 0;
        while let Some(0x20..=0x3f) = block.get(at) {
            let (size, next) = integer::read(block, at, 5)?;
            updates += 1;
            if size > self.allowed || updates > SIZE_UPDATES_MAX {
                return Err(Error::SizeUpdate);
            }
            at = next;
            if self.to_shrink.is_some_and(|least| size <= least) {
                self.to_shrink = None;
            }
            self.table.set_max(size);
        }
        if self.to_shrink.is_some() { Err(Error::SizeUpdateMissing) } else { Ok(at) }
    }

    /// The entry of an index (RFC 7541 §2.3.3), and its line.
    #[inline(always)]
    fn entry(&self, index: usize) -> Result<(Line, &[u8]), Error> {
        if let Some(fixed) = STATIC.get(index.wrapping_sub(1)) {
            let line = Line {
                start: 0,
                name_len: fixed.name_len as u32,
                value_len: fixed.value_len() as u32,
                known: fixed.known,
                pseudo: fixed.pseudo,
                marks: Marks::default(),
                never_indexed: false,
            };
            return Ok((line, fixed.line));
        }
        let found = index.checked_sub(STATIC_ENTRIES + 1).and_then(|age| self.table.get(age));
        let Some((entry, bytes)) = found else { return Err(Error::Index) };
        let line = Line {
            start: 0,
            name_len: u32::from(entry.name_len),
            value_len: u32::from(entry.value_len),
            known: entry.known,
            pseudo: entry.pseudo,
            marks: entry.marks,
            never_indexed: false,
        };
        Ok((line, bytes))
    }

    /// RFC 7541 §6.2: a literal at `at`, appended to the arena. Says where the next field begins.
    #[inline]
    fn literal(
        &self,
        block: &[u8],
        at: usize,
        prefix: u32,
        arena: &mut Vec<u8>,
    ) -> Result<(Line, usize), Error> {
        let start = arena.len();
        let (index, mut at) = integer::read(block, at, prefix)?;
        let (name_len, known, pseudo, name_marks);
        if index == 0 {
            at = string(block, at, arena)?;
            let name = arena.get(start..).unwrap_or_default();
            name_len = name.len();
            (known, pseudo, name_marks) = judged(name);
            arena.extend_from_slice(b": ");
        } else {
            let (named, bytes) = self.entry(index)?;
            (name_len, known, pseudo) = (named.name_len as usize, named.known, named.pseudo);
            name_marks = named.marks.only(Marks::NAME);
            arena.extend_from_slice(bytes.get(..name_len + 2).unwrap_or_default());
        }
        let value_start = arena.len();
        at = string(block, at, arena)?;
        let value = arena.get(value_start..).unwrap_or_default();
        let (value_len, marks) = (value.len(), name_marks.and(Marks::of_value(value)));
        arena.extend_from_slice(b"\r\n");
        let line = Line {
            start: start as u32,
            name_len: name_len as u32,
            value_len: value_len as u32,
            known,
            pseudo,
            marks,
            never_indexed: false,
        };
        Ok((line, at))
    }
}

/// What a name is.
#[inline(never)]
fn judged(name: &[u8]) -> (Known, Pseudo, Marks) {
    match Pseudo::of(name) {
        Pseudo::None => {
            let marks = Marks::of_name(name);
            // A name with a capital letter or none of a token is refused: it is nobody's.
            let fine = !marks.has(Marks::NAME_SYNTAX.and(Marks::NAME_UPPER));
            (if fine { Known::of(name) } else { Known::Other }, Pseudo::None, marks)
        }
        pseudo => (Known::Other, pseudo, Marks::default()),
    }
}

/// RFC 7541 §5.2: the string at `at`, appended to the arena. Says where the next thing begins.
#[inline(always)]
fn string(block: &[u8], at: usize, arena: &mut Vec<u8>) -> Result<usize, Error> {
    let coded = block.get(at).is_some_and(|first| first & 0x80 != 0);
    let (len, at) = integer::read(block, at, 7)?;
    let bytes = block.get(at..).and_then(|rest| rest.get(..len));
    let Some(bytes) = bytes else { return Err(Error::Truncated) };
    if !coded {
        arena.extend_from_slice(bytes);
    } else if !huffman::decode(bytes, arena) {
        return Err(Error::Huffman);
    }
    Ok(at + len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hexadecimal: &str) -> Vec<u8> {
        let digits: Vec<u8> = hexadecimal.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn lines(decoder: &mut Decoder, block: &[u8]) -> Result<String, Error> {
        let mut arena = Vec::new();
        let decoded = decoder.decode(block, 65_535, &mut arena, |_, _| true)?;
        assert!(!decoded.over);
        Ok(String::from_utf8(arena).unwrap())
    }

    /// The table, the newest first.
    fn table(decoder: &Decoder) -> String {
        (0..decoder.table.len())
            .map(|age| String::from_utf8_lossy(decoder.table.get(age).unwrap().1).into_owned())
            .collect()
    }

    #[test]
    fn rfc_7541_c_2_single_fields() {
        let mut decoder = Decoder::new();
        let block = bytes("400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572");
        assert_eq!(lines(&mut decoder, &block).unwrap(), "custom-key: custom-header\r\n");
        assert_eq!((table(&decoder).as_str(), decoder.table.size()), ("custom-key: custom-header\r\n", 55));
        let mut decoder = Decoder::new();
        assert_eq!(
            lines(&mut decoder, &bytes("040c 2f73 616d 706c 652f 7061 7468")).unwrap(),
            ":path: /sample/path\r\n"
        );
        assert_eq!(decoder.table.len(), 0);
        let never = bytes("1008 7061 7373 776f 7264 0673 6563 7265 74");
        let mut arena = Vec::new();
        let decoded = decoder.decode(&never, 100, &mut arena, |_, line| line.never_indexed || panic!());
        assert_eq!((decoded.unwrap().list_bytes, arena.as_slice()), (46, &b"password: secret\r\n"[..]));
        assert_eq!(lines(&mut decoder, &bytes("82")).unwrap(), ":method: GET\r\n");
    }

    const REQUESTS: [(&str, &str, usize); 3] = [
        (
            ":method: GET\r\n:scheme: http\r\n:path: /\r\n:authority: www.example.com\r\n",
            ":authority: www.example.com\r\n",
            57,
        ),
        (
            ":method: GET\r\n:scheme: http\r\n:path: /\r\n:authority: www.example.com\r\ncache-control: no-cache\r\n",
            "cache-control: no-cache\r\n:authority: www.example.com\r\n",
            110,
        ),
        (
            ":method: GET\r\n:scheme: https\r\n:path: /index.html\r\n:authority: www.example.com\r\ncustom-key: custom-value\r\n",
            "custom-key: custom-value\r\ncache-control: no-cache\r\n:authority: www.example.com\r\n",
            164,
        ),
    ];

    #[test]
    fn rfc_7541_c_3_and_c_4_requests_with_and_without_huffman() {
        let plain = [
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "8286 84be 5808 6e6f 2d63 6163 6865",
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
        ];
        let huffman = [
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff",
            "8286 84be 5886 a8eb 1064 9cbf",
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
        ];
        for blocks in [plain, huffman] {
            let mut decoder = Decoder::new();
            for (block, (expected, entries, size)) in blocks.iter().zip(REQUESTS) {
                assert_eq!(lines(&mut decoder, &bytes(block)).unwrap(), expected);
                assert_eq!((table(&decoder).as_str(), decoder.table.size()), (entries, size));
            }
        }
    }

    #[test]
    fn rfc_7541_c_5_and_c_6_responses_with_and_without_huffman() {
        let plain = [
            "4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3120 474d \
             546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            "4803 3330 37c1 c0bf",
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970 7738 666f \
             6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61 6765 3d33 3630 303b \
             2076 6572 7369 6f6e 3d31",
        ];
        let huffman = [
            "4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e 919d 29ad 1718 63c7 \
             8f0b 97c8 e9ae 82ae 43d3",
            "4883 640e ffc1 c0bf",
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2 e6c7 b335 \
             dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
        ];
        let date = "date: Mon, 21 Oct 2013 20:13:21 GMT\r\n";
        let later = "date: Mon, 21 Oct 2013 20:13:22 GMT\r\n";
        let location = "location: https://www.example.com\r\n";
        let cookie = "set-cookie: foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1\r\n";
        let (private, gzip) = ("cache-control: private\r\n", "content-encoding: gzip\r\n");
        for blocks in [plain, huffman] {
            let mut decoder = Decoder::new();
            decoder.allow(256);
            // The examples take the smaller size for agreed on without a word.
            decoder.to_shrink = None;
            decoder.table.set_max(256);
            for (block, expected, entries, size) in [
                (
                    blocks[0],
                    format!(":status: 302\r\n{private}{date}{location}"),
                    format!("{location}{date}{private}:status: 302\r\n"),
                    222,
                ),
                (
                    blocks[1],
                    format!(":status: 307\r\n{private}{date}{location}"),
                    format!(":status: 307\r\n{location}{date}{private}"),
                    222,
                ),
                (
                    blocks[2],
                    format!(":status: 200\r\n{private}{later}{location}{gzip}{cookie}"),
                    format!("{cookie}{gzip}{later}"),
                    215,
                ),
            ] {
                assert_eq!(lines(&mut decoder, &bytes(block)).unwrap(), expected);
                assert_eq!((table(&decoder), decoder.table.size()), (entries, size));
            }
        }
    }

    #[test]
    fn rfc_7541_3_3_indices_are_checked() {
        for block in
            [&[0x80][..], &[0xbe], &[0xff, 0x00], &[0x7f, 0x00, 0x00], &[0x0f, 0xff, 0xff, 0x03, 0x00]]
        {
            assert_eq!(Decoder::new().skip(block, &mut Vec::new()), Err(Error::Index), "{block:02x?}");
        }
        let mut decoder = Decoder::new();
        assert!(decoder.skip(&[0x40, 0x01, b'a', 0x01, b'b'], &mut Vec::new()).is_ok());
        assert_eq!(lines(&mut decoder, &[0xbe]).unwrap(), "a: b\r\n");
        assert_eq!(decoder.skip(&[0xbf], &mut Vec::new()), Err(Error::Index));
    }

    #[test]
    fn rfc_7541_4_2_sizes_change_only_at_the_beginning_and_within_what_is_allowed() {
        let mut scratch = Vec::new();
        let mut decoder = Decoder::new();
        assert!(decoder.skip(&[0x20, 0x3f, 0xe1, 0x1f, 0x82], &mut scratch).is_ok());
        assert_eq!(decoder.table.max(), 4096);
        assert_eq!(decoder.skip(&[0x3f, 0xe2, 0x1f, 0x82], &mut scratch), Err(Error::SizeUpdate));
        assert_eq!(Decoder::new().skip(&[0x82, 0x20], &mut scratch), Err(Error::SizeUpdate));
        assert_eq!(Decoder::new().skip(&[0x20, 0x20, 0x20], &mut scratch), Err(Error::SizeUpdate));
        // A smaller table that was agreed on has to be said before the next field.
        let mut decoder = Decoder::new();
        decoder.allow(100);
        assert_eq!(decoder.clone().skip(&[0x82], &mut scratch), Err(Error::SizeUpdateMissing));
        assert_eq!(decoder.clone().skip(&[0x3f, 0x46], &mut scratch), Err(Error::SizeUpdate));
        assert!(decoder.skip(&[0x3f, 0x45, 0x82], &mut scratch).is_ok() && decoder.table.max() == 100);
        // Smaller, then larger: the smallest has to be said, and the last is.
        decoder.allow(10);
        decoder.allow(4096);
        assert_eq!(
            decoder.clone().skip(&[0x3f, 0xe1, 0x1f, 0x82], &mut scratch),
            Err(Error::SizeUpdateMissing)
        );
        assert!(
            decoder.skip(&[0x2a, 0x3f, 0xe1, 0x1f, 0x82], &mut scratch).is_ok()
                && decoder.table.max() == 4096
        );
        // Larger: nothing has to be said.
        decoder.allow(8192);
        assert!(decoder.skip(&[0x82], &mut scratch).is_ok() && decoder.table.max() == 4096);
    }

    #[test]
    fn rfc_9113_4_3_a_block_that_nobody_wants_changes_the_table_all_the_same() {
        let block = bytes(
            "8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf be",
        );
        let (mut whole, mut none, mut some) = (Decoder::new(), Decoder::new(), Decoder::new());
        let mut arena = b"before".to_vec();
        assert_eq!(none.skip(&block, &mut arena).unwrap().list_bytes, 42 + 43 + 38 + 57 + 2 * 54);
        assert_eq!(arena, b"before");
        let mut seen = 0;
        some.decode(&block, 42 + 43, &mut arena, |_, _| {
            seen += 1;
            true
        })
        .unwrap();
        assert_eq!((seen, arena.as_slice()), (2, &b"before:method: GET\r\n:scheme: http\r\n"[..]));
        assert!(lines(&mut whole, &block).unwrap().ends_with("custom-key: custom-value\r\n"));
        assert_eq!((table(&whole), whole.table.size()), (table(&none), none.table.size()));
        assert_eq!(table(&whole), table(&some));
        assert_eq!((whole.inserted_bytes(), none.inserted_bytes()), (57 + 54, 57 + 54));
    }

    #[test]
    fn names_that_are_copied_again_and_again_for_nobody_are_not_for_long() {
        let mut block = vec![0x40, 0x7f, 0xa1, 0x1e];
        block.extend_from_slice(&[b'a'; 4000]);
        block.push(0);
        // A new entry of the name of the newest, with an empty value: two bytes for four thousand.
        block.extend([0x7e, 0x00].repeat(100));
        assert_eq!(Decoder::new().skip(&block, &mut Vec::new()), Err(Error::Churn));
        assert!(Decoder::new().skip(&block[..4005 + 120], &mut Vec::new()).is_ok());
        // Indices cost nothing, however many.
        let mut block = block[..4005].to_vec();
        block.extend([0xbe; 60_000]);
        let decoded = Decoder::new().skip(&block, &mut Vec::new()).unwrap();
        assert_eq!((decoded.list_bytes, decoded.over), (60_001 * 4032, true));
    }

    #[test]
    fn fields_are_marked_once_and_stay_so_in_the_table() {
        for (name, value, marks) in [
            ("a", "b", Marks::default()),
            ("a", "", Marks::default()),
            ("a", "b\tc d", Marks::default()),
            ("", "b", Marks::NAME_SYNTAX),
            ("a b", "b", Marks::NAME_SYNTAX),
            ("a:", "b", Marks::NAME_SYNTAX),
            ("a\r", "b", Marks::NAME_SYNTAX),
            ("aB", "b", Marks::NAME_UPPER),
            ("a_b", "b", Marks::NAME_ODD),
            ("a", "b\r\nc: d", Marks::VALUE_CONTROL),
            ("a", "b\0", Marks::VALUE_CONTROL),
            ("a", "\u{7f}b", Marks::VALUE_CONTROL),
            ("a", "b\t\n", Marks::VALUE_CONTROL),
            ("a", " b", Marks::VALUE_EDGE),
            ("a", "b\t", Marks::VALUE_EDGE),
            ("a", "ü", Marks::VALUE_OBS_TEXT),
            (
                "a.B",
                " \n",
                Marks::NAME_ODD.and(Marks::NAME_UPPER).and(Marks::VALUE_CONTROL).and(Marks::VALUE_EDGE),
            ),
        ] {
            let mut block = vec![0x40, name.len() as u8];
            block.extend_from_slice(name.as_bytes());
            block.push(value.len() as u8);
            block.extend_from_slice(value.as_bytes());
            // Again as an index, and its name with another value.
            block.extend_from_slice(&[0xbe, 0x0f, 62 - 15, 0x01, b'x']);
            let mut found = Vec::new();
            let decoded = Decoder::new().decode(&block, 1000, &mut Vec::new(), |arena, line| {
                assert_eq!(line.name(arena), name.as_bytes());
                found.push(line.marks);
                true
            });
            assert!(decoded.is_ok());
            assert_eq!(found, [marks, marks, marks.only(Marks::NAME)], "{name:?} {value:?}");
        }
        let long = [b'a'; FIELD_NAME_BYTES_MAX + 1];
        assert_eq!(Marks::of_name(&long), Marks::NAME_SIZE);
        assert_eq!(Marks::of_name(&long[1..]), Marks::default());
    }
}
