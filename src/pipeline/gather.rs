//! Holding a body for the policies that want the whole of it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use crate::accept::pressure::{Level, MEMORY_SHORT};
use crate::h1::body::{Incoming, Piece};
use crate::h1::encode::{CHUNK_END, CHUNK_HEAD_BYTES_MAX, CONTINUE, chunk_head};
use crate::http::BodyLength;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::fail::Fail;
use crate::pipeline::serve::Client;
use crate::pipeline::watch::Watching;
use crate::worker::buffer::SMALL;
use crate::worker::core::Core;
use crate::worker::{Buffer, Deadline};

/// A body that no policy may refuse is held up to this many bytes: a longer one passes as it comes, and unread.
pub const OBSERVED_BYTES_MAX: u64 = 1 << 20;

/// Receives the body into `x.body`, up to the bound of the operation, which `incoming` has. If it is not `enforced`, because
/// the policies that want it only observe, it is held up to [`OBSERVED_BYTES_MAX`] and as long as there is memory. Says
/// whether all of it is there: what is held otherwise is its beginning.
///
/// # Errors
/// The client's side failed or has lost its right, the body is larger than it may be, or the node is short of memory.
pub async fn hold(
    x: &mut Exchange,
    client: &Client<'_>,
    incoming: &mut Incoming,
    enforced: bool,
    core: &Rc<Core>,
) -> Result<bool, Fail> {
    let bytes_max = if enforced { u64::MAX } else { OBSERVED_BYTES_MAX };
    // What is held is what memory goes to first; who streams goes on.
    if core.node.pressure.memory.level() == Level::Critical {
        return if enforced { Err(Fail::Client(MEMORY_SHORT)) } else { Ok(false) };
    }
    x.body = match x.request.table.framing {
        BodyLength::Length(length) if length > bytes_max => return Ok(false),
        BodyLength::Length(length) => Buffer::of(usize::try_from(length).unwrap_or(usize::MAX).min(SMALL)),
        _ => Buffer::small(),
    };
    let mut watching = Watching::default();
    loop {
        match incoming.piece()? {
            Piece::Data(range) => {
                let piece = incoming.bytes(range);
                let (length, capacity) = (x.body.len(), x.body.capacity());
                let grows = length + piece.len() > capacity;
                let mut room = true;
                if grows || capacity > SMALL {
                    // What is written is what takes memory: the piece, and where the body moves, all of it.
                    let written = piece.len() + if grows { length } else { 0 };
                    match core.node.pressure.take_room(written) {
                        Err(reason) if enforced => return Err(Fail::Client(reason)),
                        taken => room = taken.is_ok(),
                    }
                }
                if grows && let BodyLength::Length(whole) = x.request.table.framing {
                    x.body.reserve_exact(usize::try_from(whole).unwrap_or(0).saturating_sub(length));
                }
                x.body.extend_from_slice(piece);
                if !room || x.body.len() as u64 > bytes_max {
                    watching.end(x);
                    return Ok(false);
                }
            }
            Piece::Wanting => {
                invite(x, client, core).await?;
                let mut receiving = pin!(incoming.receive(client.transport, core));
                poll_fn(|context| match receiving.as_mut().poll(context) {
                    Poll::Ready(received) => Poll::Ready(received),
                    Poll::Pending => watching.may_go_on(x, client, false, context, core),
                })
                .await?;
            }
            Piece::End => {
                client.transport.clear_deadline();
                watching.end(x);
                return Ok(true);
            }
        }
    }
}

/// Appends the beginning of a body of which the rest is still to come, framed as the rest will be.
pub fn push_beginning(out: &mut Buffer, held: &[u8], framing: BodyLength) {
    if held.is_empty() {
        return;
    }
    if framing != BodyLength::Chunked {
        return out.extend_from_slice(held);
    }
    let mut head = [0; CHUNK_HEAD_BYTES_MAX];
    out.extend_from_slice(chunk_head(held.len(), &mut head));
    out.extend_from_slice(held);
    out.extend_from_slice(CHUNK_END);
}

/// Sends `100 Continue` to a client that waits for it, once, and only when its head has been found in order.
///
/// RFC 9110 §10.1.1: the expectation ends here; it is ours to meet, because we, not the upstream, decide whether the body is
/// wanted.
///
/// # Errors
/// The client has gone.
pub async fn invite(x: &mut Exchange, client: &Client<'_>, core: &Core) -> Result<(), Fail> {
    if !x.request.table.expect_continue {
        return Ok(());
    }
    x.request.table.expect_continue = false;
    let mut out = Buffer::head();
    out.extend_from_slice(CONTINUE);
    let end = out.len();
    let until_ms = core.coarse_ms() + client.stream_idle_ms(x);
    core.deadline(client.transport, Deadline::StreamIdle, until_ms);
    client
        .transport
        .send(&mut out, 0..end)
        .await
        .map_err(|error| Fail::client(client.transport.expired(), Some(&error)))
}
