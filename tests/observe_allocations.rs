//! Recording and counting an exchange allocates nothing once warm; counted by an allocator of this binary's own.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ringwall::http::Reason;
use ringwall::observe::{
    AccessRecord, ApiNames, Decision, ExemplarId, Method, Mode, Names, Registry, RequestIds, RingSizes,
    TokenCache, rings,
};

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

#[test]
fn a_recorded_and_counted_exchange_allocates_nothing() {
    let mut registry = Registry::new(1, &["rate"]);
    let ids = registry.register(
        &Names {
            listeners: vec!["[::]:443".to_owned()],
            apis: vec![ApiNames { name: "orders".to_owned(), operations: vec!["getOrder".to_owned()] }],
            logins: Vec::new(),
            upstreams: vec!["u".to_owned()],
        },
        0,
    );
    let (targets, _alive) = registry.register_targets("u", &["http://127.0.0.1:1".to_owned()], 0);
    let rings = rings(1, RingSizes::default());
    rings.drain.keep_access();
    let core = registry.take_core(0).expect("the core's handle");
    let mut request_ids = RequestIds::new().expect("random bytes");
    const REFUSED: Reason = Reason::client("rate_exceeded", 3201, 429, "Too many requests");
    let before = ALLOCATIONS.get();
    // Many more than the ring holds: a loss must not allocate either.
    for number in 0..100_000u64 {
        let mut record = AccessRecord {
            time_ms: number,
            request_id: request_ids.next(number / 50),
            host: b"api.example.com",
            path: b"/v1/orders/7",
            query: Some(b"a=b"),
            api: ids.apis[0].api,
            operation: ids.apis[0].operations[0],
            subject: b"alice",
            ..AccessRecord::default()
        };
        record.set_reason(&REFUSED, Mode::Enforce);
        let _lost_if_full = rings.cores[0].push(&record);
        let _not_wanted = rings.cores[0].audit(&record);
        core.request(record.operation, Method::Get, 200 + (number % 30) as u16, number * 1_000, number);
        core.exemplar(record.operation, number, ExemplarId::Request(record.request_id), number);
        core.refusal(&REFUSED, Mode::Enforce);
        core.decision(0, Mode::Observe, Decision::Refused);
        core.upstream_request(targets[0], 200);
        core.retry(ids.upstreams[0]);
        core.connection_opened(ids.listeners[0]);
        core.tokens(TokenCache::Hit, 1);
        core.busy(1, 1);
    }
    assert_eq!(ALLOCATIONS.get() - before, 0);
}
