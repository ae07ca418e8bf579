//! HTTP/2 heads: header blocks to tables and back, beside the same head in HTTP/1.1 and beside copying its bytes.
//!
//! `cargo bench --bench hpack`: nanoseconds per block, medians over [`rounds`], which says what may be added.
//!
//! "First" is the first block of a connection, all literals in the Huffman code; "again" the same request once its fields are
//! in the table, as clients send it that index everything but the path.

mod rounds;

use std::hint::black_box;

use ringwall::{
    h1::parse::{Parse, parse_request, parse_response},
    h2::{
        head::{self, Rules},
        hpack::{Decoder, Encoder, Sharing, huffman},
    },
    http::{BodyLength, FieldSet, HeadLimits, Method, RequestTable, ResponseTable, target::Scheme},
};

use rounds::{Contender, measure};

const CURL: &[(&str, &str)] = &[
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", "api.example.com"),
    (":path", "/v1/orders/8f14e45f-ceea-467f-a8d6-3f1b2c7d9e10"),
    ("user-agent", "curl/8.14.1"),
    ("accept", "*/*"),
];

const CHROMIUM: &[(&str, &str)] = &[
    (":method", "GET"),
    (":authority", "api.example.com"),
    (":scheme", "https"),
    (":path", "/v1/orders/8f14e45f-ceea-467f-a8d6-3f1b2c7d9e10/items?limit=50&offset=100&sort=created"),
    ("sec-ch-ua", "\"Chromium\";v=\"126\", \"Not/A)Brand\";v=\"24\""),
    ("sec-ch-ua-mobile", "?0"),
    (
        "user-agent",
        "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36",
    ),
    ("sec-ch-ua-platform", "\"Linux\""),
    ("accept", "application/json, text/plain, */*"),
    ("origin", "https://shop.example.com"),
    ("sec-fetch-site", "same-site"),
    ("sec-fetch-mode", "cors"),
    ("sec-fetch-dest", "empty"),
    ("referer", "https://shop.example.com/account/orders"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("accept-language", "en-GB,en;q=0.9,de;q=0.8"),
    ("cookie", "session=7d3f9a1c5e8b2046"),
    ("cookie", "theme=dark"),
    ("cookie", "consent=necessary"),
    ("cookie", "cart=0190a6c47b1e7c3a9f521d2e3f4"),
    ("priority", "u=1, i"),
];

const GRPC: &[(&str, &str)] = &[
    (":method", "POST"),
    (":scheme", "https"),
    (":path", "/shop.orders.v1.Orders/Get"),
    (":authority", "api.example.com"),
    ("content-type", "application/grpc"),
    ("te", "trailers"),
    ("user-agent", "grpc-go/1.65.0"),
    ("authorization", "Bearer 5c0e7a1b9d3f4e6a8c2b7d1f0e9a3c5b7d9f1e3a5c7b9d1f"),
    ("grpc-timeout", "999m"),
];

/// A small JSON answer's head.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
Server: origin\r\n\
Date: Tue, 14 May 2024 09:30:00 GMT\r\n\
Content-Type: application/json; charset=utf-8\r\n\
Content-Length: 1024\r\n\
Connection: keep-alive\r\n\
Cache-Control: no-store\r\n\
ETag: \"5f3c-61a9\"\r\n\
Vary: origin\r\n\
\r\n";

/// A client that makes an entry of everything but the path.
#[derive(Default)]
struct Client {
    entries: Vec<(&'static str, &'static str)>,
}

impl Client {
    fn block(&mut self, fields: &[(&'static str, &'static str)]) -> Vec<u8> {
        let mut out = Vec::new();
        let string = |text: &str, out: &mut Vec<u8>| {
            let mut coded = Vec::new();
            huffman::encode(&[text.as_bytes()], &mut coded);
            assert!(coded.len() < 127);
            out.push(0x80 | coded.len() as u8);
            out.extend_from_slice(&coded);
        };
        for field in fields {
            let fixed = match field {
                (":method", "GET") => 2,
                (":method", "POST") => 3,
                (":scheme", "https") => 7,
                _ => 0,
            };
            if fixed != 0 {
                out.push(0x80 | fixed);
            } else if let Some(age) = self.entries.iter().rev().position(|entry| entry == field) {
                out.push(0x80 | (62 + age) as u8);
            } else if field.0 == ":path" {
                out.push(0x04);
                string(field.1, &mut out);
            } else {
                out.push(0x40);
                string(field.0, &mut out);
                string(field.1, &mut out);
                self.entries.push(*field);
            }
        }
        out
    }
}

const BLOCKS: u32 = 20_000;
const LIMITS: HeadLimits = HeadLimits::DEFAULT;
const RULES: Rules<'static> = Rules { limits: &LIMITS, scheme: Some(Scheme::Https), extended_connect: false };

fn requests(contenders: &mut Vec<Contender>, name: &str, fields: &'static [(&'static str, &'static str)]) {
    let mut client = Client::default();
    let (first, again) = (client.block(fields), client.block(fields));
    let mut head = String::from("GET /p HTTP/1.1\r\n");
    let end = fields[0].1 == "GET";
    let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    for (name, value) in fields.iter().filter(|(name, _)| !name.starts_with(':')) {
        head += &format!("{name}: {value}\r\n");
    }
    head += "host: api.example.com\r\n\r\n";

    let (mut arena, mut table, mut decoder) = (Vec::new(), RequestTable::new(), Decoder::new());
    let block = first.clone();
    contenders.push(Contender::new(format!("{name}, first ({} bytes)", block.len()), BLOCKS, move || {
        // The memory of the table is kept, what is in it is not.
        let size = [0x20, 0x3f, 0xe1, 0x1f];
        let emptied = decoder.skip(&size[..1], &mut arena).and_then(|_| decoder.skip(&size[1..], &mut arena));
        assert!(emptied.is_ok());
        let judged = head::request(&mut decoder, black_box(&block), end, &RULES, &mut arena, &mut table);
        assert!(matches!(black_box(judged), Ok(Ok(_))));
    }));
    let (mut arena, mut table, mut decoder) = (Vec::new(), RequestTable::new(), Decoder::new());
    assert!(matches!(head::request(&mut decoder, &first, end, &RULES, &mut arena, &mut table), Ok(Ok(_))));
    let block = again.clone();
    contenders.push(Contender::new(format!("{name}, again ({} bytes)", block.len()), BLOCKS, move || {
        let judged = head::request(&mut decoder, black_box(&block), end, &RULES, &mut arena, &mut table);
        assert!(matches!(black_box(judged), Ok(Ok(_))));
    }));
    let mut parsed = RequestTable::new();
    contenders.push(Contender::new(format!("{name}, HTTP/1.1 ({} bytes)", head.len()), BLOCKS, move || {
        let result = parse_request(black_box(head.as_bytes()), &LIMITS, &mut parsed);
        assert_eq!(black_box(result), Ok(Parse::Complete { head_bytes: head.len() }));
    }));
    let mut out = Vec::new();
    contenders.push(Contender::new(
        format!("{name}, copying its lines ({} bytes)", lines.len()),
        BLOCKS,
        move || {
            out.clear();
            out.extend_from_slice(black_box(lines.as_bytes()));
            black_box(&out);
        },
    ));
}

fn responses(contenders: &mut Vec<Contender>) {
    let mut table = ResponseTable::new();
    let parsed = parse_response(RESPONSE, &LIMITS, Method::Get, &mut table);
    assert_eq!(parsed, Ok(Parse::Complete { head_bytes: RESPONSE.len() }));
    let inserts =
        b"x-request-id: 0190a6c4-7b1e-7c3a-9f52-1d2e3f405162\r\nx-content-type-options: nosniff\r\n";
    let encode = move |encoder: &mut Encoder, table: &ResponseTable, out: &mut Vec<u8>| {
        out.clear();
        let mut block = encoder.block(out);
        block.status(table.status);
        block.fields(black_box(RESPONSE), &table.fields, &FieldSet::EMPTY, &FieldSet::EMPTY);
        block.lines(inserts);
        block.length(BodyLength::Length(1024));
    };
    let (mut out, of_first) = (Vec::new(), table.clone());
    let mut encoder = Encoder::new(Sharing::One);
    contenders.push(Contender::new("response, first".to_owned(), BLOCKS, move || {
        encoder.limit(0);
        encoder.limit(4096);
        encode(&mut encoder, &of_first, &mut out);
        black_box(&out);
    }));
    let (mut encoder, mut out) = (Encoder::new(Sharing::One), Vec::new());
    (0..4).for_each(|_| encode(&mut encoder, &table, &mut out));
    let of_again = table.clone();
    contenders.push(Contender::new(format!("response, again ({} bytes)", out.len()), BLOCKS, move || {
        encode(&mut encoder, &of_again, &mut out);
        black_box(&out);
    }));
    let mut out = Vec::new();
    contenders.push(Contender::new(
        format!("response, copying its head ({} bytes)", RESPONSE.len()),
        BLOCKS,
        move || {
            out.clear();
            out.extend_from_slice(black_box(RESPONSE));
            black_box(&out);
        },
    ));
    let text: Vec<u8> = CHROMIUM.iter().flat_map(|(_, value)| value.bytes()).collect();
    let mut coded = Vec::new();
    huffman::encode(&[&text], &mut coded);
    let mut out = Vec::with_capacity(4096);
    contenders.push(Contender::new(
        format!("Huffman, decoding to {} bytes", text.len()),
        BLOCKS,
        move || {
            out.clear();
            assert!(huffman::decode(black_box(&coded), &mut out));
            black_box(&out);
        },
    ));
    let mut out = Vec::with_capacity(4096);
    contenders.push(Contender::new(format!("Huffman, coding {} bytes", text.len()), BLOCKS, move || {
        out.clear();
        huffman::encode(&[black_box(&text)], &mut out);
        black_box(&out);
    }));
}

fn main() {
    let mut contenders = Vec::new();
    requests(&mut contenders, "curl", CURL);
    requests(&mut contenders, "Chromium", CHROMIUM);
    requests(&mut contenders, "gRPC", GRPC);
    responses(&mut contenders);
    for figure in measure(contenders) {
        println!("{:<44} {:>8.1} ns  ({})", figure.name, figure.median, figure.spread());
    }
}
