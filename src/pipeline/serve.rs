//! One request, from its head to the last byte of its response. This function is the architecture: everything that a
//! request meets stands here, in order.

use std::rc::Rc;

use crate::h1::body::{Incoming, Origin};
use crate::h1::flaw::{FIELD_COUNT, HEAD_SIZE};
use crate::h1::parse::TARGET_SIZE;
use crate::http::{BodyLength, Reason, RequestTable, Version};
use crate::pipeline::admit::{self, Meant};
use crate::pipeline::calls::Calling;
use crate::pipeline::exchange::Exchange;
use crate::pipeline::{answer, calls, forward, gather, tunnel};
use crate::policy::Verdict;
use crate::policy::websocket::WEBSOCKET_UNSERVED;
use crate::snapshot::{Action, CoreView, HeadMax, Listener, Timeouts};
use crate::worker::core::Core;
use crate::worker::{Buffer, Transport};

/// Where a request came from.
#[derive(Clone, Copy, Debug)]
pub struct Client<'a> {
    /// Its connection.
    pub transport: &'a Transport,
    /// The listener that accepted it.
    pub listener: &'a Listener,
    /// What the core ran when the request came.
    pub view: &'a CoreView,
}

impl Client<'_> {
    /// Whether its connection may go on after this answer, as far as we are concerned.
    pub fn goes_on(&self, core: &Core) -> bool {
        !core.is_draining() && self.listener.keeps(self.transport.is_tls(), self.transport.protocol())
    }

    /// How long the client may take to read the next piece of what is sent to it, in milliseconds.
    pub fn stream_idle_ms(&self, x: &Exchange) -> u64 {
        x.operation(&self.view.snapshot)
            .map_or(Timeouts::DEFAULT.stream_idle, |operation| operation.timeouts.stream_idle)
    }
}

/// How an exchange left the client's connection.
#[derive(Debug)]
pub struct End {
    /// Whether another request may follow.
    pub keep: bool,
    /// Bytes of it that are already here.
    pub rest: Buffer,
}

impl End {
    /// The connection is of no more use.
    pub fn close() -> End {
        End { keep: false, rest: Buffer::empty() }
    }
}

/// Serves one request whose head has been parsed into `x`.
pub async fn serve(
    x: &mut Exchange,
    client: &Client<'_>,
    view: &CoreView,
    head_bytes: usize,
    core: &Rc<Core>,
) -> End {
    let framing = client.transport.extent(x.request.table.framing);
    let mut incoming = Incoming::new(framing, Origin::Client, &x.request.bytes[head_bytes..], u64::MAX);
    let end = walk(x, client, view, head_bytes, &mut incoming, core).await;
    x.facts.bytes_in += incoming.received() - end.rest.len() as u64;
    end
}

/// The walk itself.
async fn walk(
    x: &mut Exchange,
    client: &Client<'_>,
    view: &CoreView,
    head_bytes: usize,
    incoming: &mut Incoming,
    core: &Rc<Core>,
) -> End {
    let framing = x.request.table.framing;
    x.call = Calling::of(x);

    // Whether the connection may ask at all.
    if let Err(reason) = admit::certificate(x, client, core) {
        return answer::refuse(x, client, incoming, reason, core).await;
    }

    // Which operation, in the one canonical form that everything below uses.
    let found = admit::operation(x, client, &view.snapshot);
    // What was blocked in an emergency: one load while nothing is.
    let blocks = &core.node.blocks;
    let blocking = blocks.number() != 0;
    if blocking {
        let operation = match &found {
            Ok(Meant::Operation(operation)) => Some(*operation),
            Ok(Meant::Methods) | Err(_) => None,
        };
        if let Err(reason) = blocks.request(x, operation, &view.snapshot) {
            return answer::refuse(x, client, incoming, reason, core).await;
        }
    }
    let operation = match found {
        Ok(Meant::Operation(operation)) => operation,
        Ok(Meant::Methods) => return answer::fixed(x, client, incoming, 204, b"", "", core).await,
        Err(reason) => return answer::refuse(x, client, incoming, reason, core).await,
    };

    if let Some(max) = &operation.head_max
        && let Some(reason) = too_large(&x.request.table, head_bytes, max)
    {
        return answer::refuse(x, client, incoming, reason, core).await;
    }

    if x.call.is_some()
        && let Err(reason) = calls::read_deadline(x)
    {
        return answer::refuse(x, client, incoming, reason, core).await;
    }

    // What can be said of the head alone: address, identity, grants, limits.
    let verdict = {
        let mut state = core.state.borrow_mut();
        state.now_ns = x.facts.started_ns;
        state.now_s = core.clock.unix_ns(x.facts.started_ns) / 1_000_000_000;
        operation.chain.run_head(x, &mut state)
    };
    if let Verdict::Refuse(reason) = verdict {
        return answer::refuse(x, client, incoming, *reason, core).await;
    }
    if blocking && let Err(reason) = blocks.identity(x) {
        return answer::refuse(x, client, incoming, reason, core).await;
    }

    // A declared length past the bound is refused before a byte of the body is read.
    let body_max = calls::body_max(x, operation);
    incoming.set_limit(body_max);
    let times = &operation.timeouts;
    incoming.set_times(times.stream_idle, calls::head_due_ms(x, times));
    if matches!(framing, BodyLength::Length(length) if length > body_max) {
        return answer::refuse(x, client, incoming, crate::h1::body::BODY_SIZE, core).await;
    }

    // Whoever asks to switch where nothing is switched gets an ordinary answer; over HTTP/2 any 2xx would say that it has been.
    let asked = match &operation.websocket {
        None if x.request.table.websocket && x.request.table.version == Version::Http2 => {
            Err(WEBSOCKET_UNSERVED)
        }
        None => Ok(None),
        Some(websocket) => tunnel::ask(x, websocket, core),
    };
    let asked = match asked {
        Ok(asked) => asked,
        Err(reason) => return answer::refuse(x, client, incoming, reason, core).await,
    };

    match &operation.action {
        Action::Closed => {
            answer::refuse(x, client, incoming, crate::policy::authorize::allow::OPERATION_CLOSED, core).await
        }
        Action::Redirect { location, status, keep } => {
            answer::redirect(x, location, *keep);
            x.edit_answer(&operation.response_edits);
            answer::fixed(x, client, incoming, *status, b"", "", core).await
        }
        Action::Respond { status, body, content_type } => {
            x.edit_answer(&operation.response_edits);
            answer::fixed(x, client, incoming, *status, body, content_type, core).await
        }
        Action::Forward { upstream, rewrite, host_of_upstream } => {
            if x.call.is_some() {
                let translates = view.upstreams[*upstream].upstream.protocols.http2;
                calls::enter(x, incoming, operation, translates);
            }
            // A body is held only where a policy wants the whole of it, up to the operation's bound (or to a fixed one, if nobody
            // may refuse it), or where it is small and may have to be sent again.
            let holds = operation.chain.wants_body()
                || forward::may_be_repeated(x, &view.upstreams[*upstream].upstream);
            let mut whole = true;
            if holds && framing != BodyLength::None {
                let enforced = operation.chain.enforces_body();
                match gather::hold(x, client, incoming, enforced, core).await {
                    Ok(held) => whole = held,
                    Err(fail) => return answer::failed(x, client, incoming, fail, core).await,
                }
            }
            if !whole {
                operation.chain.pass_unread(&core.state.borrow());
            } else if operation.chain.wants_body() {
                let verdict = operation.chain.run_body(x, &mut core.state.borrow_mut());
                if let Verdict::Refuse(reason) = verdict {
                    return answer::refuse(x, client, incoming, *reason, core).await;
                }
            }
            let route = forward::Route {
                operation,
                api: &view.snapshot.apis[operation.api as usize],
                upstream: &view.upstreams[*upstream],
                upstream_index: *upstream,
                rewrite: rewrite.as_ref(),
                host_of_upstream: *host_of_upstream,
                tunnel: asked.as_ref(),
            };
            match forward::forward(x, client, incoming, &route, core).await {
                Ok(keep) => finish(incoming, keep),
                Err(forward::Broken::Before(fail)) => answer::failed(x, client, incoming, fail, core).await,
                // Something of the response is out: all that can be done is to cut it, visibly. Its framing shows that it is
                // incomplete; where that is the end of the connection, a reset does (`Socket::set_open_ended`).
                Err(forward::Broken::After(fail)) => {
                    let reason = calls::whose(x, fail.reason(), core);
                    x.facts.reason = Some(reason);
                    calls::cut(x, client, &reason);
                    End::close()
                }
            }
        }
    }
}

/// Which bound of its operation a head exceeds, if it does.
#[cold]
fn too_large(table: &RequestTable, head_bytes: usize, max: &HeadMax) -> Option<Reason> {
    if usize::from(table.target_span.len) > max.target {
        return Some(TARGET_SIZE);
    }
    if head_bytes > max.head {
        return Some(HEAD_SIZE);
    }
    (table.fields.len() > max.fields).then_some(FIELD_COUNT)
}

/// The exchange went well; what is behind the body is the next request.
pub fn finish(incoming: &Incoming, keep: bool) -> End {
    if !keep || !incoming.is_complete() {
        return End::close();
    }
    let mut rest = Buffer::empty();
    if !incoming.rest().is_empty() {
        rest = Buffer::of(incoming.rest().len());
        rest.extend_from_slice(incoming.rest());
    }
    End { keep: true, rest }
}
