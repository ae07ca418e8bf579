//! The task that owns an HTTP/2 connection, in either role: it reads what comes, writes what there is to say, and looks after
//! time. One loop for both.
//!
//! For: [`super::downstream`] and [`super::upstream`], which say what an event means ([`Driven`]).

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;

use crate::accept::pressure::Level;
use crate::h2::connection::Gone;
use crate::h2::mux::Mux;
use crate::http::Reason;
use crate::snapshot::Timeouts;
use crate::worker::core::Core;
use crate::worker::{Buffer, Deadline, turn};

/// What a peer takes in each second at the least while something is on its way to it. How much of each body it takes is the
/// affair of its stream, which knows what has been framed; this is what keeps frames from lying here for ever.
const TAKES_BYTES_PER_S: u64 = 1024;
/// Within which one that broke the rules takes what it is told of that, milliseconds.
const FAREWELL_MS: u64 = 5_000;

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum Ending {
    /// The peer has gone, or the socket was ended.
    Lost,
    /// What there is to say has been appended; it remains to be written.
    Said(Option<Reason>),
}

/// What one role makes of a connection.
pub(super) trait Driven {
    /// What it is called when the peer breaks the rules of TLS, if that is told of the connection.
    const BROKEN_RECORDS: Option<Reason>;

    /// What was received becomes what it means.
    ///
    /// # Errors
    /// The peer broke the rules: the connection is over.
    fn take_in(&self, received: &[u8]) -> Result<(), Gone>;

    /// Looks after what happens by time, or because the node or its configuration has changed. Called whenever the owner runs.
    fn attend(&self) -> Option<Ending>;
}

/// Drives the connection until nothing more can be heard or said; then its streams have been told.
pub(super) async fn drive(side: &impl Driven, mux: &Mux, core: &Core) -> Ending {
    // However this ends, be it by a panic: nobody waits for what never comes.
    let _ends = Ends(mux);
    let ended = Cell::new(None);
    let mut reading = pin!(read(side, mux, core));
    // In a box from when something is written until the connection gives back what it has no use for: that one rests is the
    // usual case, and decides what many of them take.
    let mut writing = None;
    let end = |ending| {
        ended.set(Some(ending));
        mux.end(match ending {
            Ending::Said(reason) => reason,
            Ending::Lost => None,
        });
        if let Ending::Said(Some(_)) = ending
            && mux.writes()
        {
            core.deadline(&mux.transport, Deadline::StreamIdle, core.coarse_ms() + FAREWELL_MS);
        }
    };
    poll_fn(|context| {
        mux.runs(context.waker());
        if ended.get().is_none()
            && let Poll::Ready(ending) = reading.as_mut().poll(context)
        {
            end(ending);
        }
        if ended.get().is_none()
            && let Some(ending) = side.attend()
        {
            end(ending);
        }
        if mux.take_shrunk() && !mux.writes() {
            writing = None;
        }
        let mut written = Poll::Pending;
        if writing.is_none() {
            match mux.poll_outgoing() {
                Poll::Pending => {}
                Poll::Ready(None) => written = Poll::Ready(Ok(())),
                Poll::Ready(Some(out)) => writing = Some(Box::pin(write(out, mux, &ended, core))),
            }
        }
        if let Some(writing) = &mut writing {
            written = writing.as_mut().poll(context);
        }
        // What was said last still leaves; a socket that has gone says so at once.
        match (ended.get(), written) {
            (Some(Ending::Said(_)) | None, Poll::Pending) => Poll::Pending,
            (Some(ending), _) => Poll::Ready(ending),
            (None, Poll::Ready(_)) => Poll::Ready(Ending::Lost),
        }
    })
    .await
}

struct Ends<'a>(&'a Mux);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.end(None);
    }
}

/// Waits until all exchanges that had a stream are over. They end by themselves, soon: nothing more comes for them.
pub(super) async fn all_over(mux: &Mux) {
    poll_fn(|context| {
        mux.runs(context.waker());
        if mux.exchanges() == 0 { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Writes `first`, and whatever there is to be written from then on, as much as has come together at once.
async fn write(first: Buffer, mux: &Mux, ended: &Cell<Option<Ending>>, core: &Core) -> io::Result<()> {
    let mut next = Some(first);
    while let Some(mut out) = next {
        let window_ms = Timeouts::DEFAULT.stream_idle;
        if let Some(Ending::Said(Some(_))) = ended.get() {
            core.deadline(&mux.transport, Deadline::StreamIdle, core.coarse_ms() + FAREWELL_MS);
        } else {
            core.deadline(&mux.transport, Deadline::StreamIdle, core.coarse_ms() + window_ms);
            let narrow = |number: u64| u32::try_from(number).unwrap_or(u32::MAX);
            let owed = narrow(window_ms * TAKES_BYTES_PER_S / 1_000);
            mux.transport.set_pace(owed, narrow(window_ms), u64::MAX);
        }
        mux.transport.end(&mut out, b"", false).await?;
        mux.transport.clear_deadline();
        drop(out);
        next = poll_fn(|_| mux.poll_outgoing()).await;
    }
    Ok(())
}

/// Receives until there is nothing more to come.
async fn read<D: Driven>(side: &D, mux: &Mux, core: &Core) -> Ending {
    let mut full = false;
    loop {
        poll_fn(|_| mux.poll_calm()).await;
        let lease = || if full { Buffer::large() } else { Buffer::small() };
        let received = match mux.transport.recv_leased(lease).await {
            Ok(received) if !received.is_empty() => received,
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                return Ending::Said(D::BROKEN_RECORDS);
            }
            _ => return Ending::Lost,
        };
        full = received.len() == received.capacity() && core.node.pressure.worst() == Level::Easy;
        mux.stir();
        let taken = side.take_in(&received);
        drop(received);
        if let Err(gone) = taken {
            return Ending::Said(Some(gone.reason));
        }
        turn::step().await;
    }
}
