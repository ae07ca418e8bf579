//! Turns: a task that never has to wait still lets the others on.
//!
//! The event loop runs a task until it waits. Where bytes are always there and always taken (a client that pipelines
//! without end, a body between two fast peers) an operation completes at once, and a task that is never suspended starves
//! accept, I/O and timers. Each poll of a task therefore has a budget, and a task that has used it up waits for a timer:
//! one that wakes itself would be run again before anything else.
//!
//! Called by what loops over operations: requests of one connection, pieces of a body, records of a session; [`pause`] by
//! what connects.

use std::cell::Cell;
use std::pin::Pin;
use std::time::Duration;

/// Steps of one poll: requests of a stretch, receives of a body or a session. At most 64 receives of 256 KiB.
pub const STEPS: u32 = 64;

thread_local! {
    static LEFT: Cell<u32> = const { Cell::new(STEPS) };
}

/// A task is polled: its budget is whole.
pub(super) fn begin() {
    LEFT.set(STEPS);
}

/// Ends after `ms` milliseconds. A timer is large, so it lives in a box: for what happens now and then, not per request.
pub fn pause(ms: u64) -> Pin<Box<impl Future<Output = ()>>> {
    Box::pin(monoio::time::sleep(Duration::from_millis(ms)))
}

/// Takes steps that have been made already, as far as there are any left.
pub fn spend(steps: u32) {
    LEFT.set(LEFT.get().saturating_sub(steps));
}

/// Takes a step. Costs a thread-local load and store; past the budget it waits, a millisecond at most, until everybody else
/// has had a turn.
pub async fn step() {
    match LEFT.get().checked_sub(1) {
        Some(left) => LEFT.set(left),
        // A timer is large, and rarely needed: every future that takes steps would carry one.
        None => Box::pin(monoio::time::sleep(Duration::ZERO)).await,
    }
}
