//! What a call of gRPC costs beside its bytes: walking its messages, translating gRPC-Web, seeing that a request is none.
//!
//! `cargo bench --bench grpc`: nanoseconds of one run, medians over [`rounds`], which says what may be added.

mod rounds;

use std::hint::black_box;

use ringwall::grpc::{
    Call, Messages, Style,
    message::Limits,
    status::{Refusal, Status, push_refusal},
    web::{TextDecoder, Translator},
};
use ringwall::h1::parse::parse_request;
use ringwall::http::{HeadLimits, Reason, RequestTable};

use rounds::{Contender, measure};

const RUNS: u32 = 20_000;
const LIMITS: Limits = Limits { message_bytes_max: 4 << 20, compressed: false };
const TRAILERS: &[u8] = b"grpc-status: 0\r\ngrpc-message: \r\nx-trace: 4bf92f3577b34da6a3ce929d0e0e4736\r\n";

/// So many messages of so many bytes each.
fn stream(count: usize, bytes: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..count {
        out.push(0);
        out.extend_from_slice(&(bytes as u32).to_be_bytes());
        out.resize(out.len() + bytes, 7);
    }
    out
}

fn walk(name: &'static str, count: usize, bytes: usize, piece: usize) -> Contender {
    let stream = stream(count, bytes);
    let run = move || {
        let mut messages = Messages::of_request(LIMITS);
        for piece in black_box(&stream).chunks(piece) {
            messages.pass(piece).expect("in order");
        }
        assert_eq!(messages.count(), count as u64);
        assert_eq!(messages.finish(), Ok(()));
    };
    Contender::new(name, RUNS, run)
}

fn recognise(name: &'static str, content_type: &str, is_call: bool) -> Contender {
    let head =
        format!("POST /a/b HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\nContent-Length: 5\r\n\r\n");
    let mut table = RequestTable::new();
    parse_request(head.as_bytes(), &HeadLimits::DEFAULT, &mut table).expect("a head");
    let run = move || {
        for _ in 0..16 {
            assert_eq!(Call::of(black_box(&table), black_box(head.as_bytes())).is_some(), is_call);
        }
    };
    Contender::new(name, RUNS, run)
}

fn contenders() -> Vec<Contender> {
    let reason = Reason::client("rate_exceeded", 3201, 429, "Too many requests");
    let (mut scratch, mut out) = (Vec::with_capacity(4 << 10), Vec::with_capacity(64 << 10));
    let refuse = move || {
        out.clear();
        let request_id = b"019a0000-0000-7000-8000-000000000001";
        let refusal = Refusal {
            reason: &reason,
            status: Status::of(&reason),
            request_id,
            again_ms: Some(1_500),
            violations: &[],
        };
        push_refusal(black_box(&refusal), &mut scratch, &mut out);
        black_box(&out);
    };
    let data = stream(16, 1_019);
    let text = base64_simd::STANDARD.encode_to_string(&data).into_bytes();
    let mut piece = Vec::with_capacity(text.len());
    let decode = move || {
        piece.clear();
        piece.extend_from_slice(black_box(&text));
        let mut decoder = TextDecoder::default();
        black_box(decoder.decode(&mut piece)).expect("base64");
        assert_eq!(decoder.finish(), Ok(()));
    };
    let mut out = Vec::with_capacity(64 << 10);
    let encode = move || {
        out.clear();
        let mut translator = Translator::to(Style::WebText).expect("web");
        translator.data(black_box(&data), &mut out);
        translator.end(TRAILERS, &mut out);
        black_box(&out);
    };
    let mut out = Vec::with_capacity(1 << 10);
    let trailers = move || {
        out.clear();
        Translator::to(Style::Web).expect("web").end(black_box(TRAILERS), &mut out);
        black_box(&out);
    };
    vec![
        walk("walk/1x100B", 1, 100, usize::MAX),
        walk("walk/128x123B in 16 KiB", 128, 123, 16 << 10),
        walk("walk/128x123B in 100 B", 128, 123, 100),
        walk("walk/1x1MiB in 16 KiB", 1, 1 << 20, 16 << 10),
        recognise("16x recognise/json", "application/json", false),
        recognise("16x recognise/grpc", "application/grpc", true),
        Contender::new("web/trailers", RUNS, trailers),
        Contender::new("web/decode 16 KiB", RUNS, decode),
        Contender::new("web/encode 16 KiB", RUNS, encode),
        Contender::new("refusal", RUNS, refuse),
    ]
}

fn main() {
    for figure in measure(contenders()) {
        println!("{:28} {:9.1} ns  ({})", figure.name, figure.median, figure.spread());
    }
}
