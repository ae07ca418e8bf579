//! The field blocks of a connection become heads: [`FieldBlocks`] made of [`super::head`] and [`super::hpack`].
//!
//! For: the tasks of `downstream` and `upstream`, which make one of these, all of it borrowed, for each call of
//! [`super::Connection::receive`]. What was decoded lies in the arena and the table until the next block: it is taken out when
//! the event that follows is acted on.

use super::connection::{Decoded, FieldBlocks, Section, Undecodable};
use super::frame::StreamId;
use super::head::{self, Asked, Rules};
use super::hpack::{Decoder, Encoder, Error, Sharing};
use crate::{
    h1::flaw::Side,
    http::{BodyLength, HeadLimits, Method, Reason, RequestTable, ResponseTable},
};

/// What both ends of a connection remember of fields, in either direction. Allocates nothing until it is used.
#[derive(Debug)]
pub struct Compression {
    /// For what comes.
    pub decoder: Decoder,
    /// For what goes: lent to the closures that append blocks.
    pub encoder: Encoder,
}

impl Compression {
    /// Of a connection that begins.
    pub fn new(sharing: Sharing) -> Compression {
        Compression { decoder: Decoder::new(), encoder: Encoder::new(sharing) }
    }

    /// Gives back memory that an idle connection has no use for. What the peer refers to stays.
    pub fn shrink(&mut self) {
        self.decoder.shrink();
        self.encoder.forget();
    }

    /// Bytes of memory that it holds besides itself.
    pub fn memory(&self) -> usize {
        self.decoder.memory() + self.encoder.memory()
    }

    /// One block, and what it came to besides what `decode` makes of it. Of its list `kept_bytes_max` are of use.
    fn decode<T>(
        &mut self,
        kept_bytes_max: usize,
        decode: impl FnOnce(&mut Decoder) -> Result<T, Error>,
    ) -> Result<(T, Decoded), Undecodable> {
        let before = (self.decoder.inserted_bytes(), self.decoder.listed_bytes());
        let value = decode(&mut self.decoder).map_err(|error| match error {
            Error::Churn => Undecodable::Churn,
            _ => Undecodable::Malformed,
        })?;
        let listed_bytes = self.decoder.listed_bytes() - before.1;
        let decoded = Decoded {
            inserted_bytes: clamped(self.decoder.inserted_bytes() - before.0),
            excess_bytes: clamped(listed_bytes.saturating_sub(kept_bytes_max as u64)),
            ..Decoded::default()
        };
        Ok((value, decoded))
    }

    /// A block of no use. It cannot be too large, only too often: the connection's budgets see to that.
    fn skip(&mut self, block: &[u8], arena: &mut Vec<u8>) -> Result<Decoded, Undecodable> {
        self.decode(usize::from(u16::MAX), |decoder| decoder.skip(block, arena)).map(|(_, decoded)| decoded)
    }

    fn trailers(
        &mut self,
        block: &[u8],
        side: Side,
        kept_bytes_max: usize,
        arena: &mut Vec<u8>,
        never_indexed: &mut bool,
    ) -> Result<Decoded, Undecodable> {
        let (judged, decoded) =
            self.decode(kept_bytes_max, |decoder| head::trailers(decoder, block, side, arena))?;
        *never_indexed = judged.unwrap_or_default();
        Ok(Decoded { flaw: judged.err(), ..decoded })
    }
}

/// Blocks of clients.
#[derive(Debug)]
pub struct RequestBlocks<'a> {
    /// The connection's.
    pub compression: &'a mut Compression,
    /// What requests are judged by.
    pub rules: Rules<'a>,
    /// Bytes of the head, or the trailers, that came last.
    pub arena: &'a mut Vec<u8>,
    /// The head that came last; of trailers only what may never be in a table.
    pub table: &'a mut RequestTable,
    /// What it says besides.
    pub asked: Asked,
}

impl FieldBlocks for RequestBlocks<'_> {
    fn decode(
        &mut self,
        section: Section,
        _: StreamId,
        end: bool,
        block: &[u8],
    ) -> Result<Decoded, Undecodable> {
        let kept_bytes_max = head::list_bytes_max(self.rules.limits);
        match section {
            Section::Request => {
                let (rules, arena, table) = (&self.rules, &mut *self.arena, &mut *self.table);
                let (judged, decoded) = self.compression.decode(kept_bytes_max, |decoder| {
                    head::request(decoder, block, end, rules, arena, table)
                })?;
                let flaw = match judged {
                    Ok(asked) => {
                        self.asked = asked;
                        None
                    }
                    Err(reason) => Some(reason),
                };
                let content_length = content_length(flaw, self.table.framing);
                Ok(Decoded { flaw, content_length, ..decoded })
            }
            Section::Trailers(_) => {
                let never_indexed = &mut self.table.never_indexed;
                self.compression.trailers(block, Side::Client, kept_bytes_max, self.arena, never_indexed)
            }
            Section::Response(_) | Section::Discarded => self.compression.skip(block, self.arena),
        }
    }

    fn encoder_table_bytes(&mut self, bytes: u32) {
        self.compression.encoder.limit(bytes);
    }
}

/// Blocks of upstreams.
#[derive(Debug)]
pub struct ResponseBlocks<'a> {
    /// The connection's.
    pub compression: &'a mut Compression,
    /// The bounds of heads.
    pub limits: &'a HeadLimits,
    /// The method of the request on each stream, by the slot of its key.
    pub methods: &'a [Method],
    /// Bytes of the head, or the trailers, that came last.
    pub arena: &'a mut Vec<u8>,
    /// The head that came last; of trailers only what may never be in a table.
    pub table: &'a mut ResponseTable,
}

impl FieldBlocks for ResponseBlocks<'_> {
    fn decode(
        &mut self,
        section: Section,
        _: StreamId,
        end: bool,
        block: &[u8],
    ) -> Result<Decoded, Undecodable> {
        let kept_bytes_max = head::list_bytes_max(self.limits);
        match section {
            Section::Response(key) => {
                let method = self.methods.get(key.slot()).copied().unwrap_or(Method::Get);
                let (limits, arena, table) = (self.limits, &mut *self.arena, &mut *self.table);
                let (judged, decoded) = self.compression.decode(kept_bytes_max, |decoder| {
                    head::response(decoder, block, end, limits, method, arena, table)
                })?;
                let flaw = judged.err();
                let content_length = content_length(flaw, self.table.framing);
                Ok(Decoded { flaw, content_length, status: self.table.status, ..decoded })
            }
            Section::Trailers(_) => {
                let never_indexed = &mut self.table.never_indexed;
                self.compression.trailers(block, Side::Upstream, kept_bytes_max, self.arena, never_indexed)
            }
            Section::Request | Section::Discarded => self.compression.skip(block, self.arena),
        }
    }

    fn encoder_table_bytes(&mut self, bytes: u32) {
        self.compression.encoder.limit(bytes);
    }
}

/// What DATA is held to. A head that was refused says nothing of it: what follows waits for the answer, and is no fault of its
/// own.
fn content_length(flaw: Option<Reason>, framing: BodyLength) -> Option<u64> {
    match framing {
        _ if flaw.is_some() => None,
        BodyLength::None => Some(0),
        BodyLength::Length(length) => Some(length),
        BodyLength::Chunked | BodyLength::UntilClose => None,
    }
}

fn clamped(bytes: u64) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::h2::{
        Connection, ErrorCode, Event, Role, Settings, connection::Opening, frame::FRAME_HEAD_BYTES,
    };
    use crate::http::target::Scheme;

    /// Our server, and its client.
    struct Pair {
        connection: Connection,
        compression: Compression,
        arena: Vec<u8>,
        table: RequestTable,
        out: Vec<u8>,
        client: Connection,
        encoder: Encoder,
        sent: Vec<u8>,
    }

    impl Pair {
        fn new() -> Pair {
            let (mut out, mut sent) = (Vec::new(), Vec::new());
            Pair {
                connection: Connection::new(Role::Server, &Settings::DEFAULT, 1, &mut out),
                compression: Compression::new(Sharing::One),
                arena: Vec::new(),
                table: RequestTable::new(),
                client: Connection::new(Role::Client, &Settings::DEFAULT, 1, &mut sent),
                encoder: Encoder::new(Sharing::One),
                out,
                sent,
            }
        }

        /// The client sends a request; with `body` it is not over.
        fn ask(&mut self, path: &str, lines: &str, body: &[u8]) {
            let Pair { client, encoder, sent, .. } = self;
            let opening = Opening { end: body.is_empty(), head_request: false };
            let block = |out: &mut Vec<u8>| {
                let mut block = encoder.block(out);
                block.method(if body.is_empty() { b"GET" } else { b"POST" });
                block.scheme(true);
                block.authority(b"api.example.com");
                block.path(path.as_bytes(), None);
                block.lines(lines.as_bytes());
            };
            let key = client.open(opening, sent, block).unwrap();
            if !body.is_empty() {
                assert_eq!(client.send_data(key, body, true, sent), Ok(body.len()));
            }
            // What it hears of the server does not matter here.
            client.reset(key, ErrorCode::CANCEL, &mut Vec::new());
        }

        /// What the server makes of all that was sent; it answers what is whole.
        fn serve(&mut self, lines: &str) -> Vec<String> {
            let limits = HeadLimits::DEFAULT;
            let sent = std::mem::take(&mut self.sent);
            let (mut rest, mut saw) = (&sent[..], Vec::new());
            loop {
                let mut blocks = RequestBlocks {
                    compression: &mut self.compression,
                    rules: Rules { limits: &limits, scheme: Some(Scheme::Https), extended_connect: false },
                    arena: &mut self.arena,
                    table: &mut self.table,
                    asked: Asked::default(),
                };
                let (taken, event) = self.connection.receive(rest, 1, &mut blocks, &mut self.out).unwrap();
                rest = &rest[taken..];
                match event {
                    Event::Idle => return saw,
                    Event::Settings => {}
                    Event::Head { stream, end, flaw } => {
                        saw.push(flaw.map_or("head", |reason| reason.token).to_owned());
                        if end {
                            let encoder = &mut self.compression.encoder;
                            let block = |out: &mut Vec<u8>| {
                                let mut block = encoder.block(out);
                                block.status(200);
                                block.lines(lines.as_bytes());
                                block.length(BodyLength::Length(0));
                            };
                            self.connection.send_head(stream, true, &mut self.out, block).unwrap();
                        }
                    }
                    Event::Data { stream, bytes, end } => {
                        saw.push(format!("data {} {end}", bytes.len()));
                        self.connection.consumed(stream, bytes.len(), &mut self.out);
                    }
                    other => saw.push(format!("{other:?}")),
                }
            }
        }
    }

    #[test]
    fn the_body_of_a_refused_request_is_no_fault_of_its_own() {
        for path in ["/a b", "a"] {
            let mut pair = Pair::new();
            pair.ask("/", "", b"hello");
            pair.ask(path, "", b"hello, you");
            let saw = pair.serve("");
            assert_eq!(saw[..2], ["head", "data 5 true"]);
            assert!(saw[2].starts_with("target_"), "{saw:?}");
            assert_eq!(saw[3..], ["data 10 true"]);
        }
    }

    /// The memory of a connection that has carried requests and waits for more. What TLS and the task take comes on top.
    #[test]
    fn an_idle_connection_that_was_used_is_small() {
        let mut pair = Pair::new();
        // As a browser asks an API, and as it answers; each path and each tag is new.
        for number in 0..100 {
            let path = format!("/v1/accounts/{number}/transactions?cursor={:016x}", number * 0x9e37_79b9_u64);
            pair.ask(
                &path,
                "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
                 Chrome/141.0.0.0 Safari/537.36\r\naccept: application/json, text/plain, */*\r\n\
                 accept-encoding: gzip, deflate, br, zstd\r\naccept-language: en-GB,en;q=0.9,de;q=0.8\r\n\
                 sec-ch-ua: \"Chromium\";v=\"141\", \"Not?A_Brand\";v=\"8\"\r\nsec-ch-ua-mobile: ?0\r\n\
                 sec-ch-ua-platform: \"Linux\"\r\norigin: https://app.example.com\r\n\
                 sec-fetch-site: same-site\r\nsec-fetch-mode: cors\r\nsec-fetch-dest: empty\r\n\
                 referer: https://app.example.com/accounts\r\npriority: u=1, i\r\n",
                b"",
            );
            let saw = pair.serve(&format!(
                "content-type: application/json\r\ncache-control: private, max-age=0\r\nvary: origin\r\n\
                 access-control-allow-origin: https://app.example.com\r\nx-content-type-options: nosniff\r\n\
                 strict-transport-security: max-age=63072000\r\netag: \"{number:032x}\"\r\n\
                 x-request-id: {number:032x}\r\n"
            ));
            assert_eq!(saw, ["head"]);
        }
        let fixed = size_of::<Connection>() + size_of::<Compression>();
        let used = fixed + pair.connection.memory() + pair.compression.memory();
        pair.connection.shrink();
        pair.compression.shrink();
        let idle = fixed + pair.connection.memory() + pair.compression.memory();
        println!(
            "fixed {fixed}, connection {}, decoder {}, encoder {}; in use {used}, idle {idle}",
            pair.connection.memory(),
            pair.compression.decoder.memory(),
            pair.compression.encoder.memory()
        );
        assert!(idle <= 6 * 1024, "{idle}");
        // It goes on as before.
        pair.ask("/", "priority: u=1, i\r\n", b"");
        assert_eq!(pair.serve("vary: origin\r\n"), ["head"]);
    }

    /// The most that the two tables of an idle connection hold, whatever the peers do.
    #[test]
    fn tables_that_are_full_have_a_bound() {
        let mut most = 0;
        // Entries as small and as large as they may be.
        for value in [0, 1, 30, 200, 1_000, 4_000] {
            let mut pair = Pair::new();
            for number in 0..300 {
                // Of kinds that become entries at once.
                let line = format!("vary: {number:03}{}\r\n", "a".repeat(value));
                pair.ask("/", &line, b"");
                pair.serve(&line);
            }
            assert!(pair.out.len() > 300 * FRAME_HEAD_BYTES);
            pair.compression.shrink();
            most = most.max(pair.compression.memory());
        }
        println!("tables: {most}");
        assert!(most <= 9 * 1024 + 512, "{most}");
    }
}
