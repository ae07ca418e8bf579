//! Whether an upstream may be asked at all: its breaker, and a place among the requests in flight.
//!
//! Nothing is done here for an upstream that has neither. Called by [`crate::pipeline::forward`], once for an exchange.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use crate::http::Reason;
use crate::upstream::breaker::Pass;
use crate::upstream::pool::CoreUpstream;
use crate::upstream::slots::{Given, Waiter};
use crate::worker::{bell, pause};

/// The upstream fails too often and is left alone.
pub const BREAKER_OPEN: Reason = Reason::upstream("breaker_open", 4300, 503, "The upstream is left alone");
/// As many requests as may are in flight, and as many as may wait.
pub const UPSTREAM_BUSY: Reason = Reason::upstream("upstream_busy", 4301, 503, "The upstream is busy");
/// No place became free in time.
pub const UPSTREAM_QUEUE: Reason =
    Reason::upstream("upstream_queue_timeout", 4302, 503, "The upstream was busy for too long");
/// When it is worth trying again where all places are taken, milliseconds.
pub const BUSY_AGAIN_MS: u64 = 1_000;

/// The right to ask an upstream once. What it holds is given back when it is dropped.
#[derive(Debug, Default)]
pub struct Admitted {
    upstream: Option<Rc<CoreUpstream>>,
    place: bool,
    probe: bool,
}

/// Why it may not be asked.
#[derive(Clone, Copy, Debug)]
pub struct Refused {
    /// The reason.
    pub reason: Reason,
    /// When it is worth trying again, in milliseconds from now.
    pub again_ms: u64,
}

/// Asks the breaker, then takes a place or waits for one, until `latest_ms` (monotonic milliseconds) at the latest.
///
/// # Errors
/// `breaker_open`; `upstream_busy` and `upstream_queue_timeout`.
pub async fn admit(upstream: &Rc<CoreUpstream>, now_ms: u64, latest_ms: u64) -> Result<Admitted, Refused> {
    let shared = &upstream.upstream;
    if shared.breaker.is_none() && shared.slots.is_none() {
        return Ok(Admitted::default());
    }
    let mut admitted = Admitted { upstream: Some(Rc::clone(upstream)), place: false, probe: false };
    match shared.breaker.as_ref().map_or(Pass::Yes, |breaker| breaker.ask(now_ms)) {
        Pass::Yes => {}
        Pass::Probe => admitted.probe = true,
        Pass::No(again_ms) => return Err(Refused { reason: BREAKER_OPEN, again_ms }),
    }
    if let Some(slots) = &shared.slots {
        if !slots.take() {
            // In a box: hardly any exchange ever waits, and those that do not stay small.
            let grant_ms = shared.queue_wait_ms.min(latest_ms.saturating_sub(now_ms));
            Box::pin(wait(upstream, grant_ms)).await?;
        }
        admitted.place = true;
    }
    Ok(admitted)
}

impl Admitted {
    /// How asking went. `failed`: there was no answer, or one that is none.
    pub fn tell(&mut self, failed: bool, now_ms: u64) {
        let Some(breaker) = self.upstream.as_ref().and_then(|upstream| upstream.upstream.breaker.as_ref())
        else {
            return;
        };
        match std::mem::take(&mut self.probe) {
            true => breaker.tell_probe(Some(failed), now_ms),
            false => breaker.tell(failed, now_ms),
        }
    }

    /// There is an answer, which may be long in coming to its end: nobody else waits for how that will be, as they would if much
    /// depended on it.
    pub fn tell_begun(&mut self, now_ms: u64) {
        if self.probe {
            self.tell(false, now_ms);
        }
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        let Some(upstream) = &self.upstream else { return };
        if self.probe
            && let Some(breaker) = &upstream.upstream.breaker
        {
            // Its client went away before anybody knew.
            breaker.tell_probe(None, 0);
        }
        if self.place {
            upstream.give_back();
        }
    }
}

async fn wait(upstream: &Rc<CoreUpstream>, grant_ms: u64) -> Result<(), Refused> {
    let busy = |reason| Refused { reason, again_ms: BUSY_AGAIN_MS };
    let waiting = Waiting::new(upstream).ok_or(busy(UPSTREAM_BUSY))?;
    let mut until = pin!(pause(grant_ms));
    poll_fn(|context| match waiting.waiter.poll(context) {
        Poll::Ready(()) => Poll::Ready(Ok(())),
        Poll::Pending => until.as_mut().poll(context).map(|()| Err(busy(UPSTREAM_QUEUE))),
    })
    .await
}

/// Somebody in line. What was granted and not taken is given back.
struct Waiting<'a> {
    upstream: &'a Rc<CoreUpstream>,
    waiter: Rc<Waiter>,
}

impl<'a> Waiting<'a> {
    fn new(upstream: &'a Rc<CoreUpstream>) -> Option<Waiting<'a>> {
        bell::attend(upstream);
        let slots = upstream.upstream.slots.as_ref()?;
        let waiter = upstream.line.stand(slots, upstream.core)?;
        Some(Waiting { upstream, waiter })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(slots) = &self.upstream.upstream.slots
            && self.waiter.leave(slots)
        {
            self.upstream.give_back();
        }
    }
}

impl CoreUpstream {
    /// A place is no longer needed here.
    pub fn give_back(&self) {
        let Some(slots) = &self.upstream.slots else { return };
        if let Given::To(mark) = slots.give_back(self.core) {
            slots.grant(mark);
            if bell::ring(mark) {
                self.look();
            }
        }
    }

    /// Looks at the line of this core, if the places concern it.
    pub fn look(&self) {
        if let Some(slots) = &self.upstream.slots {
            self.line.look(slots, self.core, &mut |mark| {
                bell::ring(mark);
            });
        }
    }

    /// Whether somebody waits here, or may still be granted a place.
    pub fn is_awaited(&self) -> bool {
        self.upstream.slots.as_ref().is_some_and(|slots| slots.concerns(self.core))
    }
}
