//! A call of gRPC allocates nothing once its buffers are warm: walked, translated, refused; counted by an allocator of this
//! binary's own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::time::Duration;

use ringwall::grpc::{
    Call, Messages, Style,
    message::Limits,
    status::{Refusal, Status, push_refusal},
    timeout,
    web::{TextDecoder, Translator},
};
use ringwall::h1::parse::parse_request;
use ringwall::http::{FieldSet, HeadLimits, Reason, RequestTable};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

#[expect(unsafe_code, reason = "an allocator cannot be written without")]
// SAFETY: every call goes to the system's allocator unchanged; counting touches a thread-local cell that needs no
// allocation and no destructor.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let _ending = ALLOCATIONS.try_with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const HEAD: &[u8] =
    b"POST /a.B/C HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nAccept: application/grpc-web-text\r\n\
    Content-Type: application/grpc-web+proto\r\ngrpc-encoding: gzip\r\ngrpc-timeout: 1500m\r\n\r\n";
const REFUSED: Reason = Reason::client("body_schema", 3310, 422, "The body does not match its schema");
const TRAILERS: &[u8] = b"grpc-status: 0\r\nX-Trace: 4bf92f3577b34da6a3ce929d0e0e4736\r\n";

/// The buffers that a core has.
#[derive(Default)]
struct Buffers {
    lines: Vec<u8>,
    body: Vec<u8>,
    scratch: Vec<u8>,
}

/// All that is done with one call.
fn call(table: &RequestTable, text: &[u8], violations: &[(String, &'static str)], buffers: &mut Buffers) {
    let Buffers { lines, body, scratch } = buffers;
    lines.clear();
    body.clear();
    let call = Call::of(table, HEAD).expect("a call");
    assert_eq!((call.style, call.answer), (Style::Web, Style::WebText));
    call.push_upstream_type(HEAD, lines);
    assert!(call.push_response_type(b"application/grpc+proto", lines));
    let left = timeout::of(table, HEAD).expect("well-formed").expect("there");
    let mut skip = FieldSet::EMPTY;
    timeout::forward(table, HEAD, left.min(Duration::from_secs(1)), &mut skip, lines);
    assert_eq!(skip.len(), 1);
    let limits = Limits::of(&table.fields, HEAD, 1 << 20);
    body.extend_from_slice(text);
    let decoded = TextDecoder::default().decode(body).expect("base64");
    let mut messages = Messages::of_request(limits);
    for piece in body[..decoded].chunks(700) {
        messages.pass(piece).expect("in order");
    }
    assert_eq!((messages.count(), messages.finish()), (8, Ok(())));
    body.clear();
    let mut translator = Translator::to(call.answer).expect("gRPC-Web");
    translator.data(text, body);
    translator.end(TRAILERS, body);
    let refusal = Refusal {
        reason: &REFUSED,
        status: Status::of(&REFUSED),
        request_id: &[b'0'; 36],
        again_ms: Some(1_000),
        violations,
    };
    push_refusal(&refusal, scratch, lines);
}

#[test]
fn a_call_allocates_nothing_once_its_buffers_are_warm() {
    let mut table = RequestTable::new();
    parse_request(HEAD, &HeadLimits::DEFAULT, &mut table).expect("a head");
    let message = [&[1, 0, 0, 4, 0][..], &[7; 1 << 10]].concat();
    let text = base64_simd::STANDARD.encode_to_string(message.repeat(8)).into_bytes();
    let violations = [("/items/0".to_owned(), "minimum"), (format!("/{}", "x".repeat(200)), "pattern")];
    let mut buffers = Buffers::default();
    call(&table, &text, &violations, &mut buffers);
    let before = ALLOCATIONS.get();
    assert_ne!(before, 0, "the counter counts");
    for _ in 0..1_000 {
        call(&table, &text, &violations, &mut buffers);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
