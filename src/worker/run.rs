//! The life of a data thread: pin, choose a driver, listen, serve until the node drains.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::accept::accept_loop;
use crate::h1::downstream::stretch;
use crate::worker::core::{Core, Node, count_panic};
use crate::worker::driver::{Choice, Loop, Wanted};
use crate::worker::guard::Guarded;
use crate::worker::slots::Slots;
use crate::worker::state::CoreState;
use crate::worker::sweep::TICK_MS;

/// What a data thread is given.
pub struct Seat {
    /// Its number, from 0.
    pub index: usize,
    /// The CPU to pin it to; `None` leaves it free.
    pub cpu: Option<usize>,
    /// Which driver is wanted.
    pub driver: Wanted,
    /// Its listening sockets, in the order of the snapshot's listeners.
    pub listeners: Vec<TcpListener>,
    /// What is shared.
    pub node: Arc<Node>,
    /// Its policies' state and its rings.
    pub state: CoreState,
}

/// Runs a core on the calling thread until the node has drained. `started` is told the driver, once the core accepts.
///
/// # Errors
/// No driver works, or a listening socket cannot be registered.
pub fn run(seat: Seat, started: impl FnOnce(Choice)) -> io::Result<()> {
    if let Some(cpu) = seat.cpu {
        core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
    }
    let (mut runtime, choice) = Loop::build(seat.driver)?;
    let result = runtime.block_on(async move {
        let core = Rc::new(Core::new(seat.index, choice.driver, seat.node, seat.state));
        let slots = Rc::new(Slots::new(stretch));
        for (index, listener) in seat.listeners.into_iter().enumerate() {
            let listener = monoio::net::TcpListener::from_std(listener)?;
            monoio::spawn(Guarded::new(
                accept_loop(Rc::clone(&core), listener, index, Rc::clone(&slots)),
                count_panic,
            ));
        }
        started(choice);
        sweep(&core, || slots.trim()).await;
        Ok(())
    });
    // A loop with operations in flight must not be dropped: their buffers are the kernel's. The thread ends, and with
    // it, moments later, the process.
    std::mem::forget(runtime);
    result
}

/// Ten times a second until the core has drained.
async fn sweep(core: &Rc<Core>, trim: impl Fn()) {
    while !core.is_drained() {
        monoio::time::sleep(Duration::from_millis(TICK_MS)).await;
        core.tick();
        trim();
    }
}

/// Opens one listening socket per core and address, in the order of `addresses`.
///
/// # Errors
/// Those of `bind` and `listen`, with the address.
pub fn listen_all(addresses: &[SocketAddr], cores: usize) -> io::Result<Vec<Vec<TcpListener>>> {
    let mut bound: Vec<SocketAddr> = addresses.to_vec();
    (0..cores)
        .map(|_| {
            bound
                .iter_mut()
                .map(|address| {
                    let listener = crate::sys::socket::listen(*address, BACKLOG)
                        .map_err(|error| io::Error::new(error.kind(), format!("{address}: {error}")))?;
                    // Port 0 means: one free port, the same on every core.
                    *address = listener.local_addr()?;
                    Ok(listener)
                })
                .collect()
        })
        .collect()
}

/// Connections that may wait to be accepted, per core and address; the kernel caps it at `somaxconn`.
pub const BACKLOG: i32 = 4096;
