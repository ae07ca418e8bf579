//! What a call of gRPC costs beside its bytes: walking its messages, translating gRPC-Web, seeing that a request is none.
//!
//! `cargo bench --bench grpc`: nanoseconds of one run, medians over alternating rounds. With `--once` (or `--test`) everything
//! runs once. With `--callgrind NAME [N]` only that contender runs, N times (default 1,000).

use std::{hint::black_box, time::Instant};

use ringwall::grpc::{
    Call, Messages, Style,
    message::Limits,
    status::{Refusal, Status, push_refusal},
    web::{TextDecoder, Translator},
};
use ringwall::h1::parse::parse_request;
use ringwall::http::{HeadLimits, Reason, RequestTable};

const LIMITS: Limits = Limits { message_bytes_max: 4 << 20, compressed: false };
const TRAILERS: &[u8] = b"grpc-status: 0\r\ngrpc-message: \r\nx-trace: 4bf92f3577b34da6a3ce929d0e0e4736\r\n";

struct Contender {
    name: &'static str,
    run: Box<dyn FnMut()>,
}

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
    let run = Box::new(move || {
        let mut messages = Messages::of_request(LIMITS);
        for piece in black_box(&stream).chunks(piece) {
            messages.pass(piece).expect("in order");
        }
        assert_eq!(messages.count(), count as u64);
        assert_eq!(messages.finish(), Ok(()));
    });
    Contender { name, run }
}

fn recognise(name: &'static str, content_type: &str, is_call: bool) -> Contender {
    let head =
        format!("POST /a/b HTTP/1.1\r\nHost: a\r\nContent-Type: {content_type}\r\nContent-Length: 5\r\n\r\n");
    let mut table = RequestTable::new();
    parse_request(head.as_bytes(), &HeadLimits::DEFAULT, &mut table).expect("a head");
    let run = Box::new(move || {
        for _ in 0..16 {
            assert_eq!(Call::of(black_box(&table), black_box(head.as_bytes())).is_some(), is_call);
        }
    });
    Contender { name, run }
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
        Contender { name: "web/trailers", run: Box::new(trailers) },
        Contender { name: "web/decode 16 KiB", run: Box::new(decode) },
        Contender { name: "web/encode 16 KiB", run: Box::new(encode) },
        Contender { name: "refusal", run: Box::new(refuse) },
    ]
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut contenders = contenders();
    if let Some(at) = arguments.iter().position(|argument| argument == "--callgrind") {
        let name = arguments.get(at + 1).map_or("", String::as_str);
        let times = arguments.get(at + 2).and_then(|times| times.parse().ok()).unwrap_or(1_000);
        match contenders.iter_mut().find(|contender| contender.name == name) {
            Some(contender) => (0..times).for_each(|_| (contender.run)()),
            None => eprintln!("no contender `{name}`"),
        }
        return;
    }
    let once = arguments.iter().any(|argument| argument == "--once" || argument == "--test");
    let (rounds, runs) = if once { (1, 1) } else { (9, 20_000) };
    let mut results = vec![Vec::new(); contenders.len()];
    for _ in 0..rounds {
        for (contender, results) in contenders.iter_mut().zip(&mut results) {
            let begun = Instant::now();
            (0..runs).for_each(|_| (contender.run)());
            results.push(begun.elapsed().as_nanos() as f64 / f64::from(runs));
        }
    }
    for (contender, results) in contenders.iter().zip(&mut results) {
        results.sort_by(f64::total_cmp);
        let (low, median, high) = (results[0], results[rounds / 2], results[rounds - 1]);
        println!("{:28} {median:9.1} ns  ({low:.1} to {high:.1})", contender.name);
    }
}
