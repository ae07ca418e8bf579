//! What lasts, looked at twice a second: whether an exchange may still go on.
//!
//! For: [`crate::pipeline::tunnel`], and every request that is not here at once ([`crate::pipeline::gather`],
//! [`crate::pipeline::forward`]) and response that does not leave at once ([`crate::pipeline::respond`]): [`Watching`]. Not for: deadlines of transports, which end what they stand for ([`crate::worker::sweep`]): here only a task is
//! woken, which then judges for itself.
//!
//! **Nothing outlasts the right to it** (AN-18). A WebSocket, a stream of events, a call of gRPC, a download, an upload: each ends when its
//! credential does, and is judged again when the configuration, the blocks, the stores of keys or the issuers' keys have changed,
//! from route to grants, by the head that it began with. It ends if it would be refused now, and only then.
//!
//! **Cost.** A response that is sent in one poll pays nothing. Any other pays some stores, for a [`Watch`] that its exchange keeps from
//! one request to the next: no allocation, and one entry in the wheel each half second, however many responses that were. A look
//! is a few loads and comparisons; the first one judges again, since nobody has kept what was in force when the request came.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::ops::Deref;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};

use crate::control::keys;
use crate::http::{Method, Reason};
use crate::pipeline::exchange::Exchange;
use crate::pipeline::fail::Fail;
use crate::pipeline::serve::Client;
use crate::policy::authorize::allow::OPERATION_CLOSED;
use crate::policy::identify::api_key;
use crate::route::Lookup;
use crate::snapshot::Action;
use crate::tls::ServerProfile;
use crate::worker::Deadline;
use crate::worker::core::Core;
use crate::worker::sweep::{Due, Watched};

/// The right to a response has ended while it was on its way.
pub const EXCHANGE_REVOKED: Reason =
    Reason::client("exchange_revoked", 2219, 401, "The right to the response ended before it did");

/// How often it is looked at, milliseconds: with the tick of the sweep, what has ended is noticed within 0.6 s.
const LOOK_MS: u64 = 500;

/// What there is to look at.
pub trait Lasting {
    /// Whether there is something that its task has to see to.
    fn wants(&self, now_ms: u64) -> bool;
}

/// Something that lasts, between its task and the sweep.
pub struct Watch<T> {
    due: Due,
    waker: Cell<Option<Waker>>,
    of: T,
}

impl<T: Lasting + 'static> Watch<T> {
    /// Looks at nothing yet.
    pub fn new(of: T) -> Rc<Watch<T>> {
        Rc::new(Watch { due: Due::default(), waker: Cell::default(), of })
    }

    /// Has it looked at in a while.
    pub fn rest(self: &Rc<Watch<T>>, core: &Core) {
        self.look_at(core.coarse_ms() + LOOK_MS, core);
    }

    /// Has it looked at in `at_ms` (monotonic milliseconds).
    pub fn look_at(self: &Rc<Watch<T>>, at_ms: u64, core: &Core) {
        core.sweep.set(self, Deadline::Look, at_ms);
    }

    /// Whom to wake.
    pub fn wait(&self, context: &Context<'_>) {
        let waker = self.waker.take().filter(|waker| waker.will_wake(context.waker()));
        self.waker.set(Some(waker.unwrap_or_else(|| context.waker().clone())));
    }

    /// Whether the sweep has found something, which it tells once.
    pub fn has_found(&self) -> bool {
        self.due.take_passed().is_some()
    }

    /// It is over, or begins anew.
    fn clear(&self) {
        self.due.reset();
        self.waker.set(None);
    }
}

impl<T> Deref for Watch<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.of
    }
}

impl<T: Lasting> Watched for Watch<T> {
    fn due(&self) -> &Due {
        &self.due
    }

    fn expire(&self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn is_at_rest(self: Rc<Watch<T>>) -> bool {
        true
    }

    fn reprieve(&self, now_ms: u64) -> Option<u64> {
        (!self.of.wants(now_ms)).then_some(now_ms + LOOK_MS)
    }

    fn note_pace(&self) {}
}

impl<T> std::fmt::Debug for Watch<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("due", &self.due).finish_non_exhaustive()
    }
}

/// The right to an exchange.
pub struct Right {
    /// Exchanges that keep one are kept by their core.
    core: Weak<Core>,
    /// When the credential ends, Unix seconds; 0 is never.
    expires_s: Cell<u64>,
    /// What was in force when it was judged last; `None`: it has to be.
    seen: Cell<Option<Seen>>,
}

/// What may change under an exchange, counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Seen {
    generation: u64,
    blocks: u64,
    stores: u64,
    keys: u64,
}

impl Seen {
    fn now(core: &Core) -> Seen {
        Seen {
            generation: core.node.generation.load(Ordering::Relaxed),
            blocks: core.node.blocks.number(),
            stores: api_key::renewals(),
            keys: keys::renewals(),
        }
    }
}

/// Why an exchange may not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lost {
    /// Its credential has expired or was revoked, or it would be refused now.
    Credential,
    /// What it was asked of is not served any more.
    Unserved,
}

impl Right {
    /// Of no exchange yet.
    pub fn new(core: &Rc<Core>) -> Right {
        Right { core: Rc::downgrade(core), expires_s: Cell::new(0), seen: Cell::new(None) }
    }

    /// That of `x`, which has been judged.
    pub fn begin(&self, x: &Exchange) {
        self.expires_s.set(x.identity.as_ref().map_or(0, |identity| identity.expires_s));
        self.seen.set(None);
    }

    /// Whether it is to be judged.
    pub fn wants(&self) -> bool {
        let Some(core) = self.core.upgrade() else { return false };
        self.has_expired(&core) || self.seen.get() != Some(Seen::now(&core))
    }

    fn has_expired(&self, core: &Core) -> bool {
        self.expires_s.get() != 0 && core.clock.unix_seconds() >= self.expires_s.get()
    }

    /// Whether there still is one, by what holds now.
    ///
    /// # Errors
    /// Why not.
    pub fn judge(&self, x: &mut Exchange, client: &Client<'_>, core: &Core) -> Result<(), Lost> {
        if self.has_expired(core) {
            return Err(Lost::Credential);
        }
        let seen = Some(Seen::now(core));
        if self.seen.get() == seen {
            return Ok(());
        }
        let judged = judge_again(x, client, core)?;
        // Nobody can say now: it is asked again at the next look.
        self.seen.set(seen.filter(|_| judged == Judged::Admitted));
        Ok(())
    }
}

impl Lasting for Right {
    fn wants(&self, _: u64) -> bool {
        Right::wants(self)
    }
}

/// What came of judging again, if it is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Judged {
    Admitted,
    /// A login that cannot be asked now has said nothing.
    Unknown,
}

/// Something has changed under an exchange: it is judged by what holds now.
#[cold]
fn judge_again(x: &mut Exchange, client: &Client<'_>, core: &Core) -> Result<Judged, Lost> {
    let lines = x.answer_inserts.len();
    let judged = judge_anew(x, client, core);
    x.answer_inserts.truncate(lines);
    judged.map_err(|(lost, _)| lost)
}

/// The refusal of a request, to which nothing has been answered, that has lost its right: what it would be refused with if it came
/// now, with the lines that go with that.
#[cold]
fn refusal(x: &mut Exchange, client: &Client<'_>, core: &Core) -> Reason {
    judge_anew(x, client, core).err().and_then(|(_, reason)| reason).unwrap_or(EXCHANGE_REVOKED)
}

/// By what holds now: how its right was lost, and why it would be refused, if that is what would be answered.
fn judge_anew(x: &mut Exchange, client: &Client<'_>, core: &Core) -> Result<Judged, (Lost, Option<Reason>)> {
    const UNSERVED: (Lost, Option<Reason>) = (Lost::Unserved, None);
    let revoked = |reason: Reason| (Lost::Credential, Some(reason));
    let view = core.view();
    let snapshot = &view.snapshot;
    let listener = snapshot.listener(client.listener.id).ok_or(UNSERVED)?;
    if !listener.keeps(client.transport.is_tls(), client.transport.protocol()) {
        return Err(UNSERVED);
    }
    let now_ns = core.clock.now_ns();
    let now_s = core.clock.unix_ns(now_ns) / 1_000_000_000;
    if let Some(clients) = listener.tls.as_ref().and_then(ServerProfile::clients) {
        clients.admit(client.transport.client_certificate(), now_s).map_err(|reason| revoked(*reason))?;
    }
    // GET implies HEAD, which has no body that could last.
    let method = if x.facts.upgraded { Method::Get } else { x.method() };
    let Lookup::Found { value, .. } = snapshot.router.find(x.host(), x.path(), method) else {
        return Err(UNSERVED);
    };
    let operation = snapshot.operations.get(value as usize).ok_or(UNSERVED)?;
    if x.facts.upgraded && operation.websocket.is_none() {
        return Err(UNSERVED);
    }
    if matches!(operation.action, Action::Closed) {
        return Err(revoked(OPERATION_CLOSED));
    }
    let blocks = &core.node.blocks;
    if blocks.number() != 0 {
        blocks.request(x, Some(operation), snapshot).map_err(revoked)?;
    }
    // What the record will say is what it was opened by.
    let (known, lines) = (x.identity.take(), x.inserts.len());
    let mut state = core.state.borrow_mut();
    (state.now_ns, state.now_s) = (now_ns, now_s);
    let judged = operation.chain.run_again(x, &mut state);
    drop(state);
    let judged = match judged {
        Err(reason) if matches!(reason.status, 401 | 403) => Err(revoked(*reason)),
        Err(_) => Ok(Judged::Unknown),
        Ok(()) => blocks.identity(x).map(|()| Judged::Admitted).map_err(revoked),
    };
    x.inserts.truncate(lines);
    x.identity = known;
    judged
}

/// The watch over what takes its time of an exchange, begun when that does not end at once.
#[derive(Debug, Default)]
pub struct Watching(Option<Rc<Watch<Right>>>);

impl Watching {
    /// Whether there is something that has taken its time.
    pub fn has_begun(&self) -> bool {
        self.0.is_some()
    }

    /// There is nothing to do now for `x`: says if it may not go on, and has its task woken when that is to be asked again. `endless`:
    /// it is meant to last, and has no end that could be waited for when what it was asked of is served no more.
    ///
    /// # Errors
    /// Its right is lost.
    pub fn look(
        &mut self,
        x: &mut Exchange,
        client: &Client<'_>,
        endless: bool,
        context: &Context<'_>,
        core: &Rc<Core>,
    ) -> Result<(), Lost> {
        let watch = self.0.get_or_insert_with(|| begin(x, core));
        if watch.has_found() {
            match watch.judge(x, client, core) {
                Err(lost) if endless || lost == Lost::Credential => return Err(lost),
                Err(_) | Ok(()) => watch.rest(core),
            }
        }
        watch.wait(context);
        Ok(())
    }

    /// As [`Watching::look`], of a request to which nothing has been answered: what it is refused with.
    pub fn may_go_on<T>(
        &mut self,
        x: &mut Exchange,
        client: &Client<'_>,
        endless: bool,
        context: &Context<'_>,
        core: &Rc<Core>,
    ) -> Poll<Result<T, Fail>> {
        match self.look(x, client, endless, context, core) {
            Ok(()) => Poll::Pending,
            Err(_) => Poll::Ready(Err(Fail::Client(refusal(x, client, core)))),
        }
    }

    /// Nothing is under way any more: the next one of `x` has what is left of this.
    pub fn end(self, x: &mut Exchange) {
        if let Some(watch) = self.0 {
            watch.clear();
            x.watch = Some(watch);
        }
    }
}

/// Sends a response for as long as there is a right to it; `endless` as for [`Watching::look`].
///
/// # Errors
/// Those of `sending`, which is then over; [`EXCHANGE_REVOKED`].
pub async fn while_it_may<T>(
    x: &mut Exchange,
    client: &Client<'_>,
    endless: bool,
    mut sending: Pin<&mut impl Future<Output = Result<T, Fail>>>,
    core: &Rc<Core>,
) -> Result<T, Fail> {
    let mut watching = Watching::default();
    let sent = poll_fn(|context| match sending.as_mut().poll(context) {
        Poll::Ready(sent) => Poll::Ready(sent),
        Poll::Pending => match watching.look(x, client, endless, context, core) {
            Ok(()) => Poll::Pending,
            Err(_) => Poll::Ready(Err(Fail::Upstream(EXCHANGE_REVOKED))),
        },
    })
    .await;
    watching.end(x);
    sent
}

/// It does not end at once.
fn begin(x: &mut Exchange, core: &Rc<Core>) -> Rc<Watch<Right>> {
    let watch = x.watch.take().unwrap_or_else(|| Watch::new(Right::new(core)));
    watch.begin(x);
    watch.rest(core);
    watch
}
