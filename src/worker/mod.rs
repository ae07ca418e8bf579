//! One core: pin, driver, buffers, clock, deadlines.
//!
//! A data thread runs monoio and nothing else: no lock, no wait on another thread, no allocation per request in steady
//! state. What outlives a reload on a core is in its state.

pub mod bell;
pub mod buffer;
pub mod bulk;
pub mod clock;
pub mod core;
#[cfg(test)]
pub(crate) mod counted;
pub mod crew;
pub mod desk;
pub mod driver;
pub mod guard;
mod outbox;
pub mod pace;
mod readiness;
pub mod run;
pub mod slots;
pub mod socket;
pub mod spare;
pub mod state;
pub mod sweep;
pub mod transport;
pub mod turn;
pub mod visitors;
pub mod waiting;

pub use buffer::Buffer;
pub use clock::Clock;
pub use driver::{Choice, Driver, Wanted};
pub use socket::{Deadline, Peer, Socket};
pub use sweep::Sweep;
pub use transport::Transport;

/// Nothing happens here for so many milliseconds.
pub async fn pause(milliseconds: u64) {
    monoio::time::sleep(std::time::Duration::from_millis(milliseconds)).await;
}
