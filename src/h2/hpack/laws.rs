//! What must hold for every input: the laws that the fuzz targets run and the tests replay, and the oracle that they compare
//! with, which is written the obvious way.
//!
//! For: [`crate::fuzzing`] and tests. Not for: the data path.

use std::collections::VecDeque;

use super::{Decoder, Encoder, Error, Sharing, huffman, table::STATIC};
use crate::{
    h1::{
        encode::{RequestLine, encode_request},
        flaw::Side,
        parse::{Parse, parse_request},
    },
    h2::head::{self, Rules},
    http::{
        BodyLength, FieldSet, HeadLimits, Known, Method, RequestTable, ResponseTable,
        target::{EncodedSlash, canonical},
    },
};

/// RFC 7541 as it reads: a queue of owned pairs, strings bit by bit.
#[derive(Clone, Debug, Default)]
pub struct Naive {
    entries: VecDeque<(Vec<u8>, Vec<u8>)>,
    max: usize,
    /// What the table may be made.
    pub allowed: usize,
}

/// A name and a value.
pub type Pair = (Vec<u8>, Vec<u8>);

impl Naive {
    /// An empty table of the default size.
    pub fn new() -> Naive {
        Naive { entries: VecDeque::new(), max: 4096, allowed: 4096 }
    }

    /// What the table comes to.
    pub fn size(&self) -> usize {
        self.entries.iter().map(|(name, value)| name.len() + value.len() + 32).sum()
    }

    /// The fields of a block; `None` if it is none.
    pub fn decode(&mut self, block: &[u8]) -> Option<Vec<Pair>> {
        let mut rest = block;
        let mut fields = Vec::new();
        let mut updates = 0;
        while let Some(first) = rest.first() {
            match first {
                0x80.. => {
                    let index = integer(&mut rest, 7)?;
                    fields.push(self.entry(index)?);
                }
                0x20..=0x3f => {
                    updates += 1;
                    let max = integer(&mut rest, 5)?;
                    if !fields.is_empty() || max > self.allowed || updates > 2 {
                        return None;
                    }
                    self.max = max;
                    self.evict();
                }
                first => {
                    let indexed = first & 0x40 != 0;
                    let index = integer(&mut rest, if indexed { 6 } else { 4 })?;
                    let name = if index == 0 { string(&mut rest)? } else { self.entry(index)?.0 };
                    let pair = (name, string(&mut rest)?);
                    fields.push(pair.clone());
                    if indexed {
                        self.entries.push_front(pair);
                        self.evict();
                    }
                }
            }
        }
        Some(fields)
    }

    fn evict(&mut self) {
        while self.size() > self.max {
            self.entries.pop_back();
        }
    }

    fn entry(&self, index: usize) -> Option<Pair> {
        match index {
            0 => None,
            1..=61 => {
                let fixed = &STATIC[index - 1];
                Some((fixed.line[..fixed.name_len].to_vec(), fixed.value().to_vec()))
            }
            _ => self.entries.get(index - 62).cloned(),
        }
    }
}

fn integer(rest: &mut &[u8], prefix: u32) -> Option<usize> {
    let mask = (1usize << prefix) - 1;
    let (first, behind) = rest.split_first()?;
    *rest = behind;
    let mut value = usize::from(*first) & mask;
    if value < mask {
        return Some(value);
    }
    for place in 0..5 {
        let (byte, behind) = rest.split_first()?;
        *rest = behind;
        value += usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return (value <= u32::MAX as usize).then_some(value);
        }
    }
    None
}

fn string(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let coded = rest.first()? & 0x80 != 0;
    let len = integer(rest, 7)?;
    let (bytes, behind) = rest.split_at_checked(len)?;
    *rest = behind;
    if coded { huffman::decode_slowly(bytes) } else { Some(bytes.to_vec()) }
}

/// Blocks, each behind its length in two bytes. Decoded whole, in part and for the table alone the tables stay the same, which
/// is seen by what they make of the blocks behind; the fields are those of the oracle; and every block is judged as the head of
/// a request, of a response and as trailers as well, each with a table of its own.
pub fn blocks(data: &[u8]) {
    let Some((choice, mut rest)) = data.split_first() else { return };
    let (mut whole, mut part, mut none, mut naive) =
        (Decoder::new(), Decoder::new(), Decoder::new(), Naive::new());
    let mut judges = Judges::new(*choice);
    let mut scratch = Vec::new();
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length) & 0x03ff).min(behind.len());
        let (block, behind) = behind.split_at(length);
        rest = behind;
        let mut arena = Vec::new();
        let mut count = 0;
        let found = whole.decode(block, usize::MAX, &mut arena, |arena, line| {
            assert_eq!(line.end(), arena.len());
            count += 1;
            true
        });
        let oracle = naive.decode(block);
        let mut kept = Vec::new();
        let partly = part.decode(block, 200, &mut kept, |_, _| true);
        let dropped = none.skip(block, &mut scratch);
        judges.block(block, found.is_ok());
        match (found, oracle) {
            (Ok(decoded), Some(fields)) => {
                assert_eq!(count, fields.len());
                let lines: Vec<u8> = fields
                    .iter()
                    .flat_map(|(name, value)| [name.as_slice(), b": ", value, b"\r\n"].concat())
                    .collect();
                assert_eq!(arena, lines);
                let list = fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum::<usize>();
                assert_eq!((decoded.list_bytes, decoded.over), (list, false));
                // Churn is bounded only for those who keep nothing.
                if partly == Err(Error::Churn) || dropped == Err(Error::Churn) {
                    return;
                }
                assert_eq!(partly.map(|found| (found.list_bytes, found.over)), Ok((list, list > 200)));
                assert_eq!(dropped.map(|found| found.list_bytes), Ok(list));
                assert!(scratch.is_empty() && kept.len() <= 200 && arena.starts_with(&kept));
                assert_eq!(whole.inserted_bytes(), none.inserted_bytes());
                assert!(whole.memory() <= 6144 + 128 * 12);
            }
            (Err(_), None) => {
                assert!(partly.is_err() && dropped.is_err());
                return;
            }
            (found, oracle) => panic!("{found:?}, and the oracle {oracle:?}"),
        }
    }
}

/// Every block is a request to one decoder, a response to another, trailers to a third.
struct Judges {
    choice: u8,
    decoders: [Option<Decoder>; 3],
    arena: Vec<u8>,
    request: RequestTable,
    response: ResponseTable,
}

impl Judges {
    fn new(choice: u8) -> Judges {
        Judges {
            choice,
            decoders: [const { Some(Decoder::new()) }; 3],
            arena: Vec::new(),
            request: RequestTable::new(),
            response: ResponseTable::new(),
        }
    }

    /// `fine`: the block can be decoded.
    fn block(&mut self, block: &[u8], fine: bool) {
        let end = self.choice & 1 == 0;
        let small = HeadLimits { head_bytes_max: 400, fields_max: 5, obs_text: false, ..HeadLimits::DEFAULT };
        let limits = if self.choice & 2 == 0 {
            HeadLimits { body_on_get: true, ..HeadLimits::DEFAULT }
        } else {
            small
        };
        let rules = Rules { limits: &limits, scheme: None, extended_connect: self.choice & 4 != 0 };
        let arena = &mut self.arena;
        let [requests, responses, trailers] = &mut self.decoders;
        let same = |error: Error| assert!(!fine || error == Error::Churn);
        if let Some(decoder) = requests {
            match head::request(decoder, block, end, &rules, arena, &mut self.request) {
                Err(error) => {
                    same(error);
                    *requests = None;
                }
                Ok(judged) => {
                    assert!(fine);
                    if judged.is_ok() {
                        goes_to_http_1_1(arena, &self.request, &limits);
                    }
                }
            }
        }
        if let Some(decoder) = responses {
            let method = if self.choice & 8 == 0 { Method::Get } else { Method::Head };
            match head::response(decoder, block, end, &limits, method, arena, &mut self.response) {
                Err(error) => {
                    same(error);
                    *responses = None;
                }
                Ok(judged) => {
                    assert!(fine);
                    if judged.is_ok() {
                        assert!((100..600).contains(&self.response.status) && self.response.status != 101);
                        assert!(self.response.fields.len() <= limits.fields_max);
                        are_lines(self.response.fields.iter(arena).map(|field| (field.name, field.value)));
                    }
                }
            }
        }
        if let Some(decoder) = trailers {
            match head::trailers(decoder, block, Side::Client, arena) {
                Err(error) => {
                    same(error);
                    *trailers = None;
                }
                Ok(judged) => {
                    assert!(fine);
                    if judged.is_ok() {
                        assert!(arena.is_empty() || arena.ends_with(b"\r\n"));
                        let lines = arena.split_inclusive(|byte| *byte == b'\n');
                        are_lines(lines.map(|line| {
                            let text = line.strip_suffix(b"\r\n").expect("a line ends with CRLF");
                            let colon =
                                text.iter().position(|byte| *byte == b':').expect("a line has a colon");
                            (&text[..colon], text[colon + 1..].strip_prefix(b" ").expect("a space"))
                        }));
                    }
                }
            }
        }
    }
}

/// None of these names and values could be read as anything else.
fn are_lines<'a>(fields: impl Iterator<Item = (&'a [u8], &'a [u8])>) {
    for (name, value) in fields {
        assert!(crate::http::scan::is_token(name) && !name.iter().any(u8::is_ascii_uppercase));
        assert!(!value.iter().any(|byte| matches!(byte, 0 | b'\r' | b'\n')));
        assert_eq!(crate::http::scan::trim(value), value);
    }
}

/// A request that was accepted is one HTTP/1.1 request, with the same fields, method, target and host.
fn goes_to_http_1_1(arena: &[u8], table: &RequestTable, limits: &HeadLimits) {
    assert!(table.fields.len() <= limits.fields_max && !table.fields.is_repeated(Known::Cookie));
    are_lines(table.fields.iter(arena).map(|field| (field.name, field.value)));
    if table.method == Method::Connect {
        return;
    }
    let mut scratch = Vec::new();
    let Ok(target) = canonical(arena, table, EncodedSlash::Keep, &mut scratch) else { return };
    let line = RequestLine {
        method: table.method_span.of(arena),
        path: target.path.of(arena, &scratch),
        query: target.query.map(|query| query.of(arena)),
    };
    let framing = match table.framing {
        BodyLength::UntilClose => BodyLength::Chunked,
        framing => framing,
    };
    let mut out = Vec::new();
    encode_request(&mut out, &line, arena, &table.fields, &FieldSet::EMPTY, b"", framing);
    let mut again = RequestTable::new();
    let wide = HeadLimits {
        target_bytes_max: 65_535,
        head_bytes_max: 65_535,
        fields_max: 128,
        body_on_get: true,
        ..HeadLimits::DEFAULT
    };
    let parsed = parse_request(&out, &wide, &mut again);
    assert_eq!(parsed, Ok(Parse::Complete { head_bytes: out.len() }), "{}", String::from_utf8_lossy(&out));
    let ends_here = |known: Known| known.is_framing() || known.is_hop_by_hop();
    let sent = table.fields.iter(arena).filter(|field| !ends_here(field.known));
    let read = again.fields.iter(&out).filter(|field| !ends_here(field.known));
    assert!(sent.map(|field| (field.name, field.value)).eq(read.map(|field| (field.name, field.value))));
    assert_eq!(
        (again.method, again.host.of(&out), again.port),
        (table.method, table.host.of(arena), table.port)
    );
}

/// Fields, encoded and decoded again by the decoder and by the oracle: what comes out is what went in, in order, however often
/// tables were made smaller or larger in between; and heads come to the same as each of their lines for itself. The data are
/// instructions: each byte chooses what comes next.
pub fn round_trip(data: &[u8]) {
    let Some((choice, mut rest)) = data.split_first() else { return };
    let sharing = if choice & 1 == 0 { Sharing::One } else { Sharing::Many };
    let (mut encoder, mut decoder, mut naive) = (Encoder::new(sharing), Decoder::new(), Naive::new());
    let (mut lines, mut expected) = (Vec::new(), Vec::new());
    let twin = std::cell::RefCell::new(encoder.clone());
    let mut flush =
        |lines: &mut Vec<u8>, expected: &mut Vec<u8>, encoder: &mut Encoder, decoder: &mut Decoder| {
            let mut block = Vec::new();
            encoder.block(&mut block).head_lines(lines);
            let mut each = Vec::new();
            twin.borrow_mut().block(&mut each).lines(lines);
            assert_eq!(block, each);
            let mut arena = Vec::new();
            let found = decoder.decode(&block, usize::MAX, &mut arena, |_, _| true);
            assert!(found.is_ok(), "{found:?}");
            assert_eq!(String::from_utf8_lossy(&arena), String::from_utf8_lossy(expected));
            naive.allowed = 4096;
            let fields = naive.decode(&block).expect("the oracle decodes it");
            let naive: Vec<u8> = fields
                .iter()
                .flat_map(|(name, value)| [name.as_slice(), b": ", value, b"\r\n"].concat())
                .collect();
            assert_eq!(naive, *expected);
            lines.clear();
            expected.clear();
        };
    while let Some((what, behind)) = rest.split_first() {
        rest = behind;
        match what {
            0..=9 => flush(&mut lines, &mut expected, &mut encoder, &mut decoder),
            10..=19 => {
                flush(&mut lines, &mut expected, &mut encoder, &mut decoder);
                let size = [0, 40, 64, 100, 200, 500, 1000, 4096, 4096, 9000][usize::from(what - 10)];
                encoder.limit(size);
                twin.borrow_mut().limit(size);
                decoder.allow(size.min(4096));
            }
            _ => {
                let known = Known::ALL[usize::from(*what) % (Known::COUNT - 1)];
                let (len, behind) = rest.split_first().unwrap_or((&0, b""));
                let (value, behind) = behind.split_at(usize::from(len % 80).min(behind.len()));
                rest = behind;
                let value: Vec<u8> = value
                    .iter()
                    .map(|byte| if *byte < b'!' || *byte == 0x7f { b'x' } else { *byte })
                    .collect();
                let own = format!("x-{}", what % 5);
                let name = if what % 3 == 0 { own.as_str() } else { known.name() };
                let line = [name.as_bytes(), b": ", &value, b"\r\n"].concat();
                let known = Known::of(name.as_bytes());
                if !(known.is_framing() || known.is_hop_by_hop() || known == Known::Host) {
                    expected.extend_from_slice(&line);
                }
                let line = if what % 2 == 0 {
                    line
                } else {
                    [name.to_ascii_uppercase().as_bytes(), &line[name.len()..]].concat()
                };
                lines.extend_from_slice(&line);
            }
        }
    }
    flush(&mut lines, &mut expected, &mut encoder, &mut decoder);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn random(seed: u64) -> impl FnMut() -> u8 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        }
    }

    #[test]
    fn random_fields_come_back() {
        for seed in 0..2000 {
            let mut draw = random(seed);
            // Few values, so that they repeat.
            let data: Vec<u8> = (0..400)
                .map(|at| {
                    if at % 3 == 2 {
                        b'a' + draw() % 3
                    } else if seed % 2 == 0 {
                        draw() % 64
                    } else {
                        draw()
                    }
                })
                .collect();
            round_trip(&data);
        }
    }

    #[test]
    fn random_blocks_and_blocks_with_broken_bytes_are_read_as_the_oracle_does() {
        for seed in 0..6000 {
            let mut draw = random(seed);
            let mut data = vec![draw()];
            for _ in 0..4 {
                let mut block = Vec::new();
                if seed % 2 == 0 {
                    // Bits that make fields likely.
                    (0..draw() % 60).for_each(|_| {
                        block.push(
                            [0x40, 0x82, 0xbe, 0x01, 0x7e, 0x00, 0x81, draw(), 0x0f, 0x41]
                                [usize::from(draw() % 10)],
                        )
                    });
                } else {
                    let mut encoder = Encoder::new(Sharing::One);
                    let mut out = encoder.block(&mut block);
                    out.method(b"GET");
                    out.scheme(true);
                    out.authority(b"a.example");
                    out.path(b"/a", Some(b"b"));
                    out.lines(b"accept: */*\r\nx-a: b\r\ncookie: a=b\r\nx-a: b\r\ncontent-type: c\r\ncookie: c=d\r\n");
                    if seed % 4 == 1 {
                        for _ in 0..=draw() % 3 {
                            let at = usize::from(draw()) % block.len();
                            block[at] ^= 1 << (draw() % 8);
                        }
                        block.truncate(block.len() - usize::from(draw() < 64));
                    }
                }
                data.extend_from_slice(&(block.len() as u16).to_be_bytes());
                data.extend_from_slice(&block);
            }
            blocks(&data);
        }
    }
}
