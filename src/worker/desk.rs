//! The desk of a core: what the control side lays there, and what the core says of itself.
//!
//! The control side lays sockets to accept on there, or publishes a snapshot, and rings; the core looks when it hears the
//! bell, so that one without traffic takes a new configuration as quickly as a busy one. A ring costs the core one
//! completion and a few loads; a request costs nothing. Not for requests, and not for anything that comes often.

use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;

use crate::control::doorbell::{Bell, Ear, Heard, doorbell};

/// Orders that may lie on one desk: more than any change of a configuration makes at once. What finds it full waits.
const ORDERS_MAX: usize = 256;

/// Something that the control side wants of a core.
#[derive(Debug)]
pub enum Order {
    /// Accept on this socket.
    Listen {
        /// Of [`crate::snapshot::Listener::id`].
        listener: u32,
        /// It listens, and is non-blocking.
        socket: TcpListener,
        /// The service manager listens on it as well, and goes on when we do not.
        lent: bool,
    },
}

/// What lies between the control side and one core.
#[derive(Debug)]
pub struct Desk {
    orders: ArrayQueue<Order>,
    bell: Bell,
    ear: Ear,
    generation: AtomicU64,
    alive_ms: AtomicU64,
}

impl Desk {
    /// An empty desk.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn new() -> io::Result<Desk> {
        let (bell, ear) = doorbell()?;
        let (generation, alive_ms) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Desk { orders: ArrayQueue::new(ORDERS_MAX), bell, ear, generation, alive_ms })
    }

    /// Control side: lays an order there; the bell is rung afterwards.
    ///
    /// # Errors
    /// The order, where there is no room for it now.
    pub fn lay(&self, order: Order) -> Result<(), Order> {
        self.orders.push(order)
    }

    /// Control side: has the core look.
    pub fn ring(&self) {
        self.bell.ring();
    }

    /// Control side: the generation of the snapshot that the core runs, 0 before it runs any.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Control side: when the core last had a turn for this, monotonic milliseconds; 0 before it ever had.
    pub fn alive_ms(&self) -> u64 {
        self.alive_ms.load(Ordering::Relaxed)
    }

    /// Core: the next order.
    pub fn take(&self) -> Option<Order> {
        self.orders.pop()
    }

    /// Core: takes all rings so far. Look for orders and snapshots afterwards, so that none falls between.
    pub fn hear(&self) -> Heard {
        self.ear.drain()
    }

    /// Core: a second handle on the bell's socket, to wait for it.
    ///
    /// # Errors
    /// No descriptor is left.
    pub fn ear(&self) -> io::Result<std::os::unix::net::UnixStream> {
        Ok(self.ear.try_clone()?.into_stream())
    }

    /// Core: it runs this from now on.
    pub fn runs(&self, generation: u64) {
        self.generation.store(generation, Ordering::Release);
    }

    /// Core: it has its turns.
    pub fn lives(&self, now_ms: u64) {
        self.alive_ms.store(now_ms, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_bounded_and_taken_in_order() {
        let desk = Desk::new().expect("a desk");
        let socket = || TcpListener::bind("127.0.0.1:0").expect("a port");
        for listener in 0..ORDERS_MAX as u32 {
            // One descriptor for all of them would do, but an order owns its own.
            assert!(desk.lay(Order::Listen { listener, socket: socket(), lent: false }).is_ok());
        }
        assert!(desk.lay(Order::Listen { listener: 0, socket: socket(), lent: false }).is_err());
        desk.ring();
        assert_eq!(desk.hear(), Heard::Ring);
        for expected in 0..ORDERS_MAX as u32 {
            let Some(Order::Listen { listener, .. }) = desk.take() else { panic!("an order") };
            assert_eq!(listener, expected);
        }
        assert!(desk.take().is_none());
    }
}
