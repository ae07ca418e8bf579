//! The life of a data thread: pin, choose a driver, listen, serve until the node drains.

use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::accept::accept_loop;
use crate::control::doorbell::Heard;
use crate::h1::downstream::{Link, Stretch, stretch};
use crate::h2::downstream::{Asking, exchange};
use crate::worker::core::{Core, Node};
use crate::worker::crew::{Crew, Hire};
use crate::worker::desk::{Desk, Order};
use crate::worker::driver::{Choice, Loop, Wanted};
use crate::worker::guard::spawn;
use crate::worker::slots::{Run, Slots};
use crate::worker::spare::Trim;
use crate::worker::state::CoreState;
use crate::worker::sweep::TICK_MS;

/// What a data thread is given. The sockets that it accepts on come by its desk.
pub struct Seat {
    /// Its number, from 0.
    pub index: usize,
    /// The CPU to pin it to; `None` leaves it free.
    pub cpu: Option<usize>,
    /// Which driver is wanted.
    pub driver: Wanted,
    /// What is shared.
    pub node: Arc<Node>,
    /// Its policies' state and its rings.
    pub state: CoreState,
}

/// Where requests run: in the task of their connection, or beside it.
struct Places<S, C> {
    stretches: S,
    streams: Rc<C>,
}

/// The places of one core.
pub(crate) fn places() -> Rc<impl Run<Stretch, Output = Option<Link>> + Hire<Asking> + Trim> {
    Rc::new(Places { stretches: Slots::new(stretch), streams: Rc::new(Crew::new(exchange)) })
}

impl<S: Trim, C: Trim> Trim for Places<S, C> {
    fn trim(&self) {
        self.stretches.trim();
        self.streams.trim();
    }
}

impl<S: Run<Stretch>, C> Run<Stretch> for Places<S, C> {
    type Output = S::Output;

    fn run(&self, stretch: Stretch) -> impl Future<Output = S::Output> {
        self.stretches.run(stretch)
    }
}

impl<S, C: Hire<Asking>> Hire<Asking> for Places<S, C> {
    fn hire(self: &Rc<Self>, asking: Asking) {
        self.streams.hire(asking);
    }
}

/// Pause after the driver could not wait for the bell.
const DEAF_PAUSE: Duration = Duration::from_millis(100);

/// Runs a core on the calling thread until the node has drained. `started` is told the driver, once the core accepts on
/// what lies on its desk.
///
/// # Errors
/// No driver works, or a listening socket cannot be registered.
pub fn run(seat: Seat, started: impl FnOnce(Choice)) -> io::Result<()> {
    if let Some(cpu) = seat.cpu {
        core_affinity::set_for_current(core_affinity::CoreId { id: cpu });
    }
    let (mut runtime, choice) = Loop::build(seat.driver)?;
    let result = runtime.block_on(async move {
        super::bell::settle(seat.index, Arc::clone(&seat.node));
        let core = Rc::new(Core::new(seat.index, choice.driver, seat.node, seat.state));
        let places = places();
        let accept = {
            let (core, places) = (Rc::clone(&core), Rc::clone(&places));
            move |listener, socket, lent| {
                let socket = monoio::net::TcpListener::from_std(socket)?;
                let work = accept_loop(Rc::clone(&core), socket, listener, lent, Rc::clone(&places));
                spawn(work);
                Ok(())
            }
        };
        obey(&core, &accept)?;
        if let Some(ear) = core.desk().map(Desk::ear).transpose()? {
            let ear = monoio::net::UnixStream::from_std(ear)?;
            spawn(attend(Rc::clone(&core), ear, accept));
        }
        started(choice);
        let trim = || places.trim();
        sweep(&core, trim).await;
        Ok(())
    });
    // A loop with operations in flight must not be dropped: their buffers are the kernel's. The thread ends, and with
    // it, moments later, the process.
    std::mem::forget(runtime);
    result
}

/// Does what lies on the core's desk.
fn obey(core: &Core, accept: &impl Fn(u32, TcpListener, bool) -> io::Result<()>) -> io::Result<()> {
    let Some(desk) = core.desk() else { return Ok(()) };
    let mut result = Ok(());
    while let Some(order) = desk.take() {
        // Whoever lays a socket there has published its listener: what runs now knows it.
        drop(core.view());
        match order {
            Order::Listen { listener, socket, lent } => result = result.and(accept(listener, socket, lent)),
        }
    }
    result
}

/// Looks when the bell is rung, until whoever rings is gone.
async fn attend(
    core: Rc<Core>,
    ear: monoio::net::UnixStream,
    accept: impl Fn(u32, TcpListener, bool) -> io::Result<()>,
) {
    loop {
        if ear.readable(false).await.is_err() {
            monoio::time::sleep(DEAF_PAUSE).await;
        }
        if core.desk().is_none_or(|desk| desk.hear() == Heard::Gone) {
            return;
        }
        super::bell::look();
        drop(core.view());
        // A ring registers nothing, and epoll fails for want of memory only: the node goes on with its other sockets.
        let _ = obey(&core, &accept);
    }
}

/// Ten times a second until the core has drained.
async fn sweep(core: &Rc<Core>, trim: impl Fn()) {
    while !core.is_drained() {
        monoio::time::sleep(Duration::from_millis(TICK_MS)).await;
        core.tick();
        trim();
    }
}

/// Connections that may wait to be accepted, per core and address; the kernel caps it at `somaxconn`.
pub const BACKLOG: i32 = 4096;
