//! HTTP/1.1 request heads: our codec beside httparse, on 718 bytes with 11 fields.
//!
//! `cargo bench --bench parser`: nanoseconds per head, medians over [`rounds`], which says what may be added, and ratios.

mod rounds;

use std::hint::black_box;

use hyper::http::{HeaderMap, HeaderName, HeaderValue};
use ringwall::{
    h1::{
        encode::{RequestLine, encode_request},
        parse::{Parse, parse_request, parse_response},
    },
    http::{
        HeadLimits, Method, RequestTable, ResponseTable,
        forward::{RenamedIdentity, request_skip},
        target::{EncodedSlash, canonical},
    },
};

use rounds::{Contender, measure};

/// What a browser's API call looks like: 718 bytes, 11 fields.
const REQUEST: &[u8] = b"GET /v1/orders/8f14e45f-ceea-467f-a8d6-3f1b2c7d9e10/items?limit=50&offset=100&sort=created HTTP/1.1\r\n\
Host: api.example.com\r\n\
User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36\r\n\
Accept: application/json, text/plain, */*\r\n\
Accept-Encoding: gzip, deflate, br, zstd\r\n\
Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
Referer: https://shop.example.com/account/orders\r\n\
Origin: https://shop.example.com\r\n\
Authorization: Bearer 5c0e7a1b9d3f4e6a8c2b7d1f0e9a3c5b7d9f1e3a5c7b9d1f\r\n\
Cookie: session=7d3f9a1c5e8b2046; theme=dark; consent=necessary; region=eu-central; cart=0190a6c47b1e7c3a9f521d2e3f4\r\n\
X-Request-Id: 0190a6c4-7b1e-7c3a-9f52-1d2e3f405162\r\n\
Connection: keep-alive\r\n\
\r\n";

/// A small JSON answer's head.
const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\n\
Server: origin\r\n\
Date: Tue, 14 May 2024 09:30:00 GMT\r\n\
Content-Type: application/json; charset=utf-8\r\n\
Content-Length: 1024\r\n\
Connection: keep-alive\r\n\
Cache-Control: no-store\r\n\
ETag: \"5f3c-61a9\"\r\n\
\r\n";

const HEADS: u32 = 200_000;

fn contenders() -> Vec<Contender> {
    let limits = HeadLimits::DEFAULT;
    let mut parsed = RequestTable::new();
    let ours = move || {
        let result = parse_request(black_box(REQUEST), &limits, &mut parsed);
        assert_eq!(black_box(result), Ok(Parse::Complete { head_bytes: REQUEST.len() }));
        black_box(&parsed);
    };
    let limits = HeadLimits::DEFAULT;
    let mut table = RequestTable::new();
    let mut scratch = Vec::with_capacity(256);
    let mut out = Vec::with_capacity(4096);
    let renamed = RenamedIdentity::default();
    let forward = move || {
        let head = black_box(REQUEST);
        let result = parse_request(head, &limits, &mut table);
        assert_eq!(result, Ok(Parse::Complete { head_bytes: REQUEST.len() }));
        let target = canonical(head, &table, EncodedSlash::Refuse, &mut scratch).expect("a canonical target");
        let skip = request_skip(head, &table, &renamed);
        let line = RequestLine {
            method: table.method_span.of(head),
            path: target.path.of(head, &scratch),
            query: target.query.map(|query| query.of(head)),
        };
        out.clear();
        let inserts = b"X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\n";
        encode_request(&mut out, &line, head, &table.fields, &skip, inserts, table.framing);
        black_box(&out);
    };
    let limits = HeadLimits::DEFAULT;
    let mut answer = ResponseTable::new();
    let response = move || {
        let result = parse_response(black_box(RESPONSE), &limits, Method::Get, &mut answer);
        assert_eq!(black_box(result), Ok(Parse::Complete { head_bytes: RESPONSE.len() }));
        black_box(&answer);
    };
    let httparse = || {
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut headers);
        let result = request.parse(black_box(REQUEST));
        assert_eq!(black_box(result), Ok(httparse::Status::Complete(REQUEST.len())));
        black_box(&request);
    };
    let with_map = || {
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut request = httparse::Request::new(&mut headers);
        let result = request.parse(black_box(REQUEST));
        assert_eq!(result, Ok(httparse::Status::Complete(REQUEST.len())));
        let mut map = HeaderMap::with_capacity(request.headers.len());
        for header in &*request.headers {
            let name = HeaderName::from_bytes(header.name.as_bytes()).expect("a name");
            map.append(name, HeaderValue::from_bytes(header.value).expect("a value"));
        }
        black_box(&map);
    };
    let httparse_response = || {
        let mut headers = [httparse::EMPTY_HEADER; 100];
        let mut response = httparse::Response::new(&mut headers);
        let result = response.parse(black_box(RESPONSE));
        assert_eq!(black_box(result), Ok(httparse::Status::Complete(RESPONSE.len())));
        black_box(&response);
    };
    vec![
        Contender::new("ours", HEADS, ours),
        Contender::new("httparse", HEADS, httparse),
        Contender::new("httparse+HeaderMap", HEADS, with_map),
        Contender::new("ours, canonical, forwarded, encoded", HEADS, forward),
        Contender::new("ours, response", HEADS, response),
        Contender::new("httparse, response", HEADS, httparse_response),
    ]
}

fn main() {
    assert_eq!(REQUEST.len(), 718);
    let figures = measure(contenders());
    let Some(first) = figures.first().map(|figure| figure.median) else { return };
    println!("{:<38} {:>8} {:>17} {:>8}", "718 bytes, 11 fields", "ns", "spread", "ratio");
    for figure in &figures {
        let ratio = figure.median / first;
        println!("{:<38} {:>8.1} {:>17} {ratio:>8.2}", figure.name, figure.median, figure.spread());
    }
}
