//! A TCP connection on one core: readiness from the core's set, direct receives, posted sends, and a deadline.
//!
//! * **Receiving** waits without a buffer, as a member of the core's set ([`super::readiness`]), and then takes what is there
//!   in a direct call ([`Socket::recv`]). On a kept upstream connection the set tells, while nobody asks anything of it,
//!   that the peer has gone. On epoll the driver receives.
//! * **Sending** of bodies ([`Socket::send`]) goes through the driver with a buffer that the operation owns, and waits for
//!   the end of it. A small message is posted ([`Socket::post`]): it leaves at the end of the turn ([`super::outbox`]) and
//!   its task goes on to wait for the answer, which costs one wake-up instead of two. What a full socket did not take
//!   becomes an operation too; what became of that is found out at the next use, or within a tenth of a second.
//! * **A deadline** never drops an operation in flight (bytes that had arrived would be lost): it marks the
//!   socket and shuts it down, and whatever waits on it completes.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::BorrowedFd;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use monoio::buf::{IoBuf, IoBufMut};

use crate::sys::socket::{self, Peek, Presence, Shutdown, presence};
use crate::sys::stream::Stream;
use crate::worker::buffer::Buffer;
use crate::worker::driver::Driver;
use crate::worker::outbox;
use crate::worker::pace::Pace;
use crate::worker::readiness::Arrival;
use crate::worker::spare::Spare;
use crate::worker::sweep::{self, Due, Sweep, Watched};

/// What a deadline was about; the reason of the answer or of the log follows from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deadline {
    /// The TLS handshake of a client.
    Handshake,
    /// The head of a request.
    Head,
    /// The progress of a request body.
    Body,
    /// The first request of a connection does not come.
    First,
    /// Nothing happens between two requests.
    Idle,
    /// The same, after a request that had an identity.
    IdleKnown,
    /// The node needs the room.
    Spared,
    /// A connection that many share is due to be looked at, whatever happens on it.
    Look,
    /// The peer does not take its leave after the last answer.
    Linger,
    /// Connecting to an upstream, its TLS handshake included.
    Connect,
    /// The first byte of a response.
    FirstByte,
    /// The progress of a response body, either side.
    StreamIdle,
    /// The time that an exchange may take up to the head of its response.
    Total,
    /// The time that a response may take behind its head.
    Lifetime,
    /// The node drains, and its time is up.
    Drain,
    /// The address has been blocked.
    Blocked,
    /// The client for whom an upstream is asked has gone.
    Abandoned,
}

impl Deadline {
    /// Whether this is a client's that rests between two requests.
    pub fn is_idle(self) -> bool {
        matches!(self, Deadline::Idle | Deadline::IdleKnown)
    }
}

/// A connected socket, shared between its task and the sweep that watches its deadline.
#[derive(Debug)]
pub struct Socket {
    shared: Rc<Shared>,
}

pub(super) struct Shared {
    stream: Rc<Stream>,
    /// Whether something can be received.
    pub(super) arrival: Arrival,
    /// Sends a parcel, while there is one.
    courier: RefCell<Option<Courier>>,
    /// What is known of the last parcel.
    sending: Cell<Sending>,
    /// How a parcel that nobody waited for has failed.
    failed: Cell<Option<io::ErrorKind>>,
    /// Whether the outbox will ask what became of the last parcel.
    pub(super) followed: Cell<bool>,
    /// Whether the socket is non-blocking, that is, driven by epoll.
    nonblocking: bool,
    due: Due,
    /// Whether a message is under way whose only end is that of the connection.
    open_ended: Cell<bool>,
    /// Whether a client has yet to ask for something on it.
    newcomer: Cell<bool>,
    /// Whether it stands in line for making room.
    pub(super) lined_up: Cell<bool>,
    /// Bytes of parcels that were waited for and that the kernel has taken, but for the one under way.
    taken: Cell<u64>,
    /// Whether the peer owes something while the deadline runs, and what.
    pace: Pace,
}

/// A future that never ends and is polled by hand: its operations start and end in one place, so that nothing is
/// allocated for any of them.
type Actor = Pin<Box<dyn Future<Output = ()>>>;

/// `bytes[from..to]`, to be sent.
struct Parcel {
    bytes: Vec<u8>,
    from: usize,
    to: usize,
}

/// Sends parcels, one after the other, for whichever socket of this core needs one: an idle connection has none.
struct Courier {
    actor: Actor,
    bag: Rc<Bag>,
}

/// The letter boxes between a socket and its courier.
#[derive(Default)]
struct Bag {
    parcel: Cell<Option<(Rc<Stream>, Parcel)>>,
    /// Bytes of it that the kernel has taken.
    taken: Cell<usize>,
    /// The bytes of the parcel, and how it went.
    receipt: Cell<Option<(Vec<u8>, io::Result<()>)>>,
}

/// Couriers kept for re-use per core at most, and at least.
const COURIERS_FREE_MAX: usize = 512;
const COURIERS_FREE_MIN: usize = 16;

thread_local! {
    static COURIERS: RefCell<Spare<Courier>> =
        const { RefCell::new(Spare::new(COURIERS_FREE_MAX, COURIERS_FREE_MIN)) };
}

/// Gives couriers that nobody needs back to the allocator, little by little.
pub(super) fn trim() {
    COURIERS.with_borrow_mut(Spare::trim);
}

impl Courier {
    fn hire() -> Courier {
        COURIERS.with_borrow_mut(Spare::take).unwrap_or_else(|| {
            let bag = Rc::<Bag>::default();
            Courier { actor: Box::pin(deliver(Rc::clone(&bag))), bag }
        })
    }
}

/// Who cares for a parcel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    /// None is under way.
    Nothing,
    /// It is in the outbox.
    Queued,
    /// Nobody: the outbox may ask for it.
    Posted,
    /// A task waits for it, and its waker must stay.
    Awaited,
}

async fn deliver(bag: Rc<Bag>) {
    loop {
        let parcel = poll_fn(|_| bag.parcel.take().map_or(Poll::Pending, Poll::Ready));
        let (stream, Parcel { mut bytes, from: mut sent, to }) = parcel.await;
        let result = loop {
            let (result, slice) = stream.write(bytes.slice(sent..to)).await;
            bytes = slice.into_inner();
            match result {
                Ok(0) => break Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    sent += count;
                    bag.taken.set(bag.taken.get() + count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Err(error),
            }
            if sent >= to {
                break Ok(());
            }
        };
        drop(stream);
        bag.receipt.set(Some((bytes, result)));
    }
}

impl Socket {
    /// Wraps a connected stream, which must be blocking or not as the driver wants it. Must be called on a thread that
    /// runs that driver.
    ///
    /// # Errors
    /// When the driver cannot register the descriptor.
    pub fn new(stream: std::net::TcpStream, driver: Driver) -> io::Result<Socket> {
        Ok(Socket {
            shared: Rc::new(Shared {
                stream: Rc::new(Stream::new(stream, driver.wants_nonblocking())?),
                arrival: Arrival::default(),
                courier: RefCell::new(None),
                sending: Cell::new(Sending::Nothing),
                failed: Cell::new(None),
                followed: Cell::new(false),
                nonblocking: driver.wants_nonblocking(),
                due: Due::default(),
                open_ended: Cell::new(false),
                newcomer: Cell::new(false),
                lined_up: Cell::new(false),
                taken: Cell::new(0),
                pace: Pace::default(),
            }),
        })
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.shared.fd()
    }

    /// Sets the deadline: at `at_ms` (monotonic milliseconds) everything that waits on this socket ends.
    pub fn set_deadline(&self, sweep: &Sweep, kind: Deadline, at_ms: u64) {
        self.shared.pace.clear();
        sweep.set(&self.shared, kind, at_ms);
    }

    /// Lets a peer go on that acknowledges at least `bytes` by the deadline that was set just now, and in each further
    /// `window_ms`, up to `end_ms` (monotonic milliseconds). What our kernel has taken says little: it takes megabytes at once,
    /// and then nothing until as much has left.
    pub fn set_pace(&self, bytes: u32, window_ms: u32, end_ms: u64) {
        self.shared.pace.set(bytes, window_ms, end_ms);
    }

    /// Says that this upstream is asked for `client` from now on: while its answer is waited for, the sweep looks after the
    /// client, every few seconds. Costs nothing that a request would notice.
    pub fn serve(&self, client: &Socket) {
        self.shared.due.serve(&client.shared);
    }

    /// Says that this is a client's, and that it has not asked for anything yet.
    pub fn set_newcomer(&self) {
        self.shared.newcomer.set(true);
    }

    /// Takes the deadline away, because the head of a request is whole: the client is no newcomer any more.
    pub fn request_has_come(&self) {
        self.shared.due.clear();
        self.shared.newcomer.set(false);
    }

    /// Says that a client has asked for something, on one of the streams of this connection.
    pub fn stream_has_come(&self) {
        self.shared.newcomer.set(false);
    }

    /// Whether this is a client's that has not asked for anything yet.
    pub fn is_newcomer(&self) -> bool {
        self.shared.newcomer.get()
    }

    /// Its other end.
    pub fn peer(&self) -> Peer {
        Peer(Rc::downgrade(&self.shared))
    }

    pub(super) fn shared(&self) -> &Rc<Shared> {
        &self.shared
    }

    /// Moves a deadline about `kind`, if there is one, to `at_ms` at the earliest.
    pub fn prolong(&self, kind: Deadline, at_ms: u64) {
        self.shared.due.prolong(kind, at_ms);
    }

    /// Takes the deadline away.
    pub fn clear_deadline(&self) {
        self.shared.due.clear();
    }

    /// The deadline that has passed, if one has.
    pub fn expired(&self) -> Option<Deadline> {
        self.shared.due.passed()
    }

    /// Waits until bytes (or the end) can be received; holds no buffer and loses nothing when it is dropped.
    ///
    /// # Errors
    /// Those of the driver.
    pub async fn readable(&self) -> io::Result<()> {
        if self.shared.nonblocking {
            return self.shared.stream.readable().await;
        }
        // Who has sent something with the connection is served without being in the set.
        let arrival = &self.shared.arrival;
        if arrival.is_ready().is_none() && !arrival.was_looked_at() && socket::peek(self.fd()) != Peek::Empty
        {
            return Ok(());
        }
        self.shared.arrived().await
    }

    /// Whether the peer has ended its side and nothing of what it sent is left. Costs nothing before the end is known.
    pub fn is_over(&self) -> bool {
        self.shared.arrival.has_ended() && socket::peek(self.fd()) == Peek::Closed
    }

    /// Receives at least one byte behind what `buffer` holds, as much as fits; `Ok(0)` is the end.
    ///
    /// On the ring this is a wait and a direct receive, which loses nothing when the future is dropped. On epoll the
    /// operation is tried first, so the buffer is lost when the future is dropped before it is done.
    ///
    /// # Errors
    /// Those of `recv`; `InvalidInput` when the buffer has no room.
    pub async fn recv(&self, buffer: &mut Buffer) -> io::Result<usize> {
        let filled = buffer.len();
        let capacity = buffer.capacity();
        if filled == capacity {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        if self.shared.nonblocking {
            let slice = buffer.take().slice_mut(filled..capacity);
            let (result, slice) = self.shared.stream.read(slice).await;
            buffer.restore(slice.into_inner());
            return result;
        }
        loop {
            if self.shared.arrival.is_ready().is_some() {
                self.shared.arrived().await?;
            }
            match self.recv_now(buffer) {
                Err(error) if would_block(&error) => self.shared.arrived().await?,
                result => return result,
            }
        }
    }

    /// Receives into a buffer that is leased when something is there, not before; an empty one is the end.
    ///
    /// # Errors
    /// As [`Socket::recv`].
    pub async fn recv_leased(&self, lease: impl Fn() -> Buffer) -> io::Result<Buffer> {
        loop {
            if self.shared.arrival.is_ready().is_some() {
                self.shared.arrived().await?;
            }
            let mut buffer = lease();
            match self.recv_now(&mut buffer) {
                Err(error) if would_block(&error) => drop(buffer),
                result => return result.map(|_| buffer),
            }
            match self.shared.nonblocking {
                true => self.shared.stream.readable().await?,
                false => self.shared.arrived().await?,
            }
        }
    }

    /// Receives what is already there, without waiting.
    ///
    /// # Errors
    /// `WouldBlock` when nothing is there, else those of `recv`.
    pub fn recv_now(&self, buffer: &mut Buffer) -> io::Result<usize> {
        let room = buffer.capacity() - buffer.len();
        let result = socket::recv_now(self.fd(), buffer, usize::MAX);
        match &result {
            Ok(count) => self.shared.arrival.received(*count, room),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.shared.arrival.emptied(),
            Err(_) => {}
        }
        result
    }

    /// Waits until something is there, and copies as much of it as fits behind what `buffer` holds; it stays in the socket.
    /// `Ok(0)` is the end.
    ///
    /// # Errors
    /// Those of the driver and of `recv`.
    pub async fn peek(&self, buffer: &mut Buffer) -> io::Result<usize> {
        loop {
            self.readable().await?;
            match socket::peek_now(self.fd(), buffer) {
                Err(error) if would_block(&error) => self.shared.arrival.emptied(),
                result => return result,
            }
        }
    }

    /// Takes `count` bytes that [`Socket::peek`] has shown off the socket.
    ///
    /// # Errors
    /// Those of `recv`.
    pub fn pass_over(&self, count: usize) -> io::Result<()> {
        let mut left = count;
        let mut passed = Buffer::of(count);
        while left > 0 {
            passed.clear();
            let taken = socket::recv_now(self.fd(), &mut passed, left)?;
            if taken == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            // There may be more behind it.
            self.shared.arrival.received(taken, taken);
            left -= taken;
        }
        Ok(())
    }

    /// Its address on this machine.
    ///
    /// # Errors
    /// Those of `getsockname`.
    pub fn local_address(&self) -> io::Result<SocketAddr> {
        socket::local_address(self.fd())
    }

    /// Sends `buffer[range]` and keeps the buffer. What was posted before goes first.
    ///
    /// # Errors
    /// Those of `send`; how much has left is then unknown.
    pub async fn send(&self, buffer: &mut Buffer, range: Range<usize>) -> io::Result<()> {
        self.settle().await?;
        let to = range.end.min(buffer.len());
        if range.start >= to {
            return Ok(());
        }
        self.shared.hand_over(Parcel { bytes: buffer.take(), from: range.start, to }, Sending::Awaited);
        let (bytes, result) = poll_fn(|context| self.shared.poll_receipt(context)).await;
        buffer.restore(bytes);
        result
    }

    /// Hands what `buffer` holds over to be sent at the end of this turn, and does not wait for the end of it: for a message
    /// that the socket can be expected to take whole. What was posted before goes first, and is waited for unless it has not
    /// left either.
    ///
    /// # Errors
    /// Those of what was posted before. How it goes with this one is told by [`Socket::settle`].
    pub async fn post(&self, buffer: &mut Buffer) -> io::Result<()> {
        if self.shared.sending.get() == Sending::Queued && outbox::join(&self.shared, buffer) {
            buffer.clear();
            return Ok(());
        }
        self.settle().await?;
        if !buffer.is_empty() {
            self.shared.sending.set(Sending::Queued);
            outbox::put(&self.shared, buffer.take());
        }
        Ok(())
    }

    /// Waits for the end of what was posted.
    ///
    /// # Errors
    /// Those of `send`.
    pub async fn settle(&self) -> io::Result<()> {
        if !self.shared.ask() {
            self.shared.sending.set(Sending::Awaited);
            let (bytes, result) = poll_fn(|context| self.shared.poll_receipt(context)).await;
            Buffer::give_back(bytes);
            return result;
        }
        match self.shared.failed.get() {
            Some(kind) => Err(kind.into()),
            None => Ok(()),
        }
    }

    /// Whether all that was posted has been taken by the socket, as far as that can be had without waiting.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn settled(&self) -> io::Result<bool> {
        self.shared.ask();
        match (self.shared.failed.get(), self.shared.sending.get()) {
            (Some(kind), _) => Err(kind.into()),
            (None, sending) => Ok(sending == Sending::Nothing),
        }
    }

    /// Sends what the socket takes of `bytes` without waiting: for last words on a connection that is closed next.
    pub fn send_last(&self, bytes: &[u8]) {
        self.shared.ask();
        let _ = socket::send_now(self.fd(), bytes, false);
    }

    /// Waits until the socket can be written: for a connection under way.
    ///
    /// # Errors
    /// Those of the driver.
    pub async fn writable(&self) -> io::Result<()> {
        self.shared.stream.writable().await
    }

    /// Whether nothing has arrived, not even the end. For a member of the core's set this is a load, and tells of what the
    /// kernel had to say by the last turn of the loop.
    pub fn is_quiet(&self) -> bool {
        if self.shared.arrival.is_ready() == Some(false) {
            return true;
        }
        let quiet = socket::peek(self.fd()) == Peek::Empty;
        if quiet {
            self.shared.arrival.emptied();
        }
        quiet
    }

    /// The error that a connection attempt ended with.
    ///
    /// # Errors
    /// Those of `getsockopt`.
    pub fn take_error(&self) -> io::Result<Option<io::Error>> {
        socket::take_error(self.fd())
    }

    /// Tells the socket what the driver wants: blocking for the ring, non-blocking for epoll.
    ///
    /// # Errors
    /// Those of `fcntl`.
    pub fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        socket::set_nonblocking(self.fd(), nonblocking)
    }

    /// Ends one or both directions.
    pub fn shutdown(&self, how: Shutdown) {
        socket::shutdown(self.fd(), how);
    }

    /// Resets the connection.
    pub fn reset(&self) {
        socket::abort(self.fd());
    }

    /// Says that a message begins, or is complete, whose only end is that of the connection (RFC 9112 §6.3). While one is
    /// under way, whatever ends the connection ends it with a reset: to its reader a close would mean that it is whole.
    pub fn set_open_ended(&self, under_way: bool) {
        self.shared.open_ended.set(under_way);
        socket::reset_on_close(self.fd(), under_way);
    }

    /// Whether such a message is under way.
    pub fn is_open_ended(&self) -> bool {
        self.shared.open_ended.get()
    }
}

/// Who is at the other end of a socket, for whoever keeps no hold of it.
#[derive(Debug)]
pub struct Peer(Weak<Shared>);

impl Peer {
    /// Whether it has reset the connection, which nobody would find out while nothing is read from it.
    pub fn has_gone(&self) -> bool {
        self.0.upgrade().is_some_and(|shared| presence(shared.fd()) == Presence::Gone)
    }
}

impl Shared {
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.stream.fd()
    }

    /// Whether the loop that it lives on is a ring.
    pub(super) fn is_on_ring(&self) -> bool {
        !self.nonblocking
    }

    /// Waits until something has arrived; the first time, the socket enters the core's set.
    async fn arrived(self: &Rc<Shared>) -> io::Result<()> {
        if self.arrival.is_ready().is_none() {
            Arrival::enter(self)?;
        }
        poll_fn(|context| match self.arrival.wait(context.waker()) {
            true => Poll::Ready(Ok(())),
            false => Poll::Pending,
        })
        .await
    }

    fn hand_over(&self, parcel: Parcel, sending: Sending) {
        debug_assert_eq!(self.sending.get(), Sending::Nothing, "parcels leave one after the other");
        let courier = Courier::hire();
        courier.bag.parcel.set(Some((Rc::clone(&self.stream), parcel)));
        *self.courier.borrow_mut() = Some(courier);
        self.sending.set(sending);
    }

    fn poll_receipt(&self, context: &mut Context<'_>) -> Poll<(Vec<u8>, io::Result<()>)> {
        let mut place = self.courier.borrow_mut();
        let Some(courier) = place.as_mut() else { return Poll::Pending };
        let _ = courier.actor.as_mut().poll(context);
        let Some((bytes, result)) = courier.bag.receipt.take() else { return Poll::Pending };
        self.taken.set(self.taken.get() + courier.bag.taken.take() as u64);
        if let Some(free) = place.take() {
            COURIERS.with_borrow_mut(|couriers| couriers.give(free));
        }
        self.sending.set(Sending::Nothing);
        if let Err(error) = &result {
            self.failed.set(Some(error.kind()));
        }
        Poll::Ready((bytes, result))
    }

    /// Sends what the socket takes now; the rest becomes an operation.
    pub(super) fn leave(self: &Rc<Shared>, bytes: Vec<u8>) {
        let result = socket::send_now(self.fd(), &bytes, false);
        self.left(bytes, result);
    }

    /// The socket has taken so much of the bytes, or none; the rest becomes an operation.
    pub(super) fn left(self: &Rc<Shared>, bytes: Vec<u8>, result: io::Result<usize>) {
        self.sending.set(Sending::Nothing);
        let sent = match result {
            Ok(count) => count,
            Err(error) if would_block(&error) => 0,
            Err(error) => {
                self.failed.set(Some(error.kind()));
                bytes.len()
            }
        };
        if sent == bytes.len() {
            return Buffer::give_back(bytes);
        }
        let to = bytes.len();
        self.hand_over(Parcel { bytes, from: sent, to }, Sending::Posted);
        if !self.ask() {
            outbox::follow(self);
        }
    }

    /// Sends what has not left yet, asks what became of a parcel that nobody waits for, and sends on what is left of it.
    /// Whether nothing is left.
    pub(super) fn ask(self: &Rc<Shared>) -> bool {
        match self.sending.get() {
            Sending::Nothing => return true,
            Sending::Awaited => return false,
            Sending::Posted => {}
            Sending::Queued => {
                match outbox::take(self) {
                    Some(bytes) => self.leave(bytes),
                    // It was lost with the task that had taken it: a panic.
                    None => {
                        self.failed.set(Some(io::ErrorKind::Other));
                        self.sending.set(Sending::Nothing);
                    }
                }
                return self.sending.get() == Sending::Nothing;
            }
        }
        match self.poll_receipt(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready((bytes, _)) => {
                Buffer::give_back(bytes);
                true
            }
            Poll::Pending => false,
        }
    }

    /// Whether this is a client's that waits for its first request.
    pub(super) fn is_silent(&self) -> bool {
        self.newcomer.get() && self.due.at_ms() != 0 && self.due.passed().is_none()
    }

    /// Bytes that the peer has acknowledged, of those that were waited for.
    fn acknowledged(&self) -> u64 {
        let under_way = self.courier.borrow().as_ref().map_or(0, |courier| courier.bag.taken.get());
        (self.taken.get() + under_way as u64).saturating_sub(socket::unacknowledged(self.fd()))
    }

    /// The node needs the room more than this client.
    pub(super) fn spare(&self) {
        self.end(Deadline::Spared);
    }

    /// Ends whatever is under way, for this cause.
    pub(super) fn end(&self, cause: Deadline) {
        sweep::end(self, cause);
    }
}

impl Watched for Shared {
    fn due(&self) -> &Due {
        &self.due
    }

    fn is_at_rest(self: Rc<Shared>) -> bool {
        self.ask() && socket::peek(self.fd()) != Peek::Data
    }

    fn note_pace(&self) {
        if self.sending.get() == Sending::Awaited {
            self.pace.note(|| self.acknowledged());
        }
    }

    fn reprieve(&self, now_ms: u64) -> Option<u64> {
        match self.sending.get() {
            Sending::Awaited => self.pace.reprieve(&self.due, now_ms, || self.acknowledged()),
            _ => None,
        }
    }

    fn expire(&self) {
        if self.open_ended.get() {
            return socket::abort(self.fd());
        }
        let how = match self.due.kind() {
            // The answer (408) must still get out.
            Deadline::Head | Deadline::Body => Shutdown::Read,
            _ => Shutdown::Both,
        };
        socket::shutdown(self.fd(), how);
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shared = f.debug_struct("Socket");
        shared.field("stream", &self.stream).field("sending", &self.sending.get());
        shared.field("due", &self.due).finish()
    }
}

/// Whether an error only says "not now".
fn would_block(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}
