//! A connection arrives: one listening socket per core and address, a bounded accept loop, drain.
//!
//! Who is let in is decided by [`gate`] (whence), [`arrivals`] (how often) and [`caps`] (how many), in this order, before
//! anything is done for the connection; whether anybody is, by [`pressure`]. Who is turned away is reset without a word, and told
//! of by [`ends`].
//!
//! No accept operation is ever in flight: dropping one would leak the accepted socket, and one in flight keeps the listening
//! socket alive. We wait for readiness and call `accept4` until it would block.

pub mod arrivals;
pub mod caps;
pub mod ends;
pub mod gate;
pub mod prefixes;
pub mod pressure;
pub mod proxy_protocol;

use std::future::{Future, poll_fn};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use monoio::net::TcpListener;

use crate::accept::caps::{CONNECTIONS_ADDRESS, Seat};
use crate::accept::ends::{
    CLIENT_ALPN, CLIENT_HANDSHAKE_FAILED, CLIENT_HANDSHAKE_LEFT, CLIENT_HELLO, CLIENT_SERVER_NAME, Visit,
};
use crate::accept::pressure::MEMORY_SHORT;
use crate::accept::proxy_protocol::Announced;
use crate::h1::downstream::{self, Link, Stretch};
use crate::h2;
use crate::h2::downstream::Asking;
use crate::http::{Protocols, Reason};
use crate::observe::{Alpn, Handshake, ListenerId};
use crate::pipeline::fail::CLIENT_HANDSHAKE_TIMEOUT;
use crate::pipeline::whence::Whence;
use crate::sys::socket::{accept, begin_nothing, is_exhaustion, reset_on_close};
use crate::sys::stream::listener_fd;
use crate::tls::client_certificates::{self, ClientTrust};
use crate::tls::hello::{Alert, Look, look};
use crate::tls::{ServerProfile, TlsStream};
use crate::worker::buffer::SMALL;
use crate::worker::core::Core;
use crate::worker::crew::Hire;
use crate::worker::guard::spawn;
use crate::worker::run::BACKLOG;
use crate::worker::slots::Run;
use crate::worker::visitors::Visitor;
use crate::worker::{Buffer, Deadline, Socket, Transport};

/// Connections accepted in one turn before others get theirs.
const ACCEPT_BATCH: usize = 64;
/// How often, and how long each time, a socket that closes waits for connections that have begun: their handshakes take a round
/// trip.
const CLOSING_LOOKS: u32 = 5;
const CLOSING_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
/// Bytes that a ClientHello may take on the wire, the headers of its records included.
const HELLO_WIRE_BYTES_MAX: usize = SMALL;
/// Receives that a ClientHello may come in: one or two are usual, and each is looked at from its start.
const HELLO_RECEIVES_MAX: usize = 64;
/// Pause after an accept, or a wait for one, that failed for lack of descriptors or memory.
const EXHAUSTED_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Accepts on one socket of one core until the node drains, or its listener leaves. `index` is that listener's
/// [id](crate::snapshot::Listener::id); `lent`: the service manager has the socket as well.
pub async fn accept_loop<S>(core: Rc<Core>, listener: TcpListener, index: u32, lent: bool, stretches: Rc<S>)
where
    S: Run<Stretch, Output = Option<Link>> + Hire<Asking> + 'static,
{
    let accepting = Accepting::new(&core);
    loop {
        let mut pause = match somebody_waits(&core, &listener, index, accepting.place).await {
            Waiting::Closed => break,
            Waiting::Somebody => let_in(&core, &listener, index, &stretches, ACCEPT_BATCH).is_err(),
            // Nothing can be told of the socket now; it is asked again rather than given up.
            Waiting::Unknown => true,
        };
        // Who has been announced already may not be announced again: after a pause they are let in without.
        while pause && !core.is_closed(index) {
            monoio::time::sleep(EXHAUSTED_PAUSE).await;
            pause = let_in(&core, &listener, index, &stretches, ACCEPT_BATCH).is_err();
        }
    }
    // Where another process has the socket, too, it lives on with its queue: no filter, and never a shutdown, which it would meet
    // as well. Where it is ours alone, its close resets whoever waits in its queue. So nothing begins there any more, what has
    // begun is given time, and who waits is let in.
    let ours_alone = !lent && !core.node.handed_over.load(Ordering::Relaxed);
    if ours_alone && begin_nothing(listener_fd(&listener)).is_ok() {
        for _ in 0..CLOSING_LOOKS {
            let _ = let_in(&core, &listener, index, &stretches, BACKLOG as usize);
            monoio::time::sleep(CLOSING_PAUSE).await;
        }
    }
    let _ = let_in(&core, &listener, index, &stretches, BACKLOG as usize);
}

/// No descriptor or no memory is left, or so little that nobody is let in.
struct Exhausted;

/// Accepts who waits, `most` of them at most.
fn let_in<S>(
    core: &Rc<Core>,
    listener: &TcpListener,
    index: u32,
    stretches: &Rc<S>,
    most: usize,
) -> Result<(), Exhausted>
where
    S: Run<Stretch, Output = Option<Link>> + Hire<Asking> + 'static,
{
    // A socket that closes lets in who has waited, whatever the node is short of: nobody comes after them.
    if core.node.pressure.is_paused() && !core.is_closed(index) {
        return Err(Exhausted);
    }
    // One look at the clock for all of them: their rates, and their deadlines.
    core.clock.now_ns();
    for _ in 0..most {
        match accept(listener_fd(listener), core.driver.wants_nonblocking()) {
            Ok((stream, peer)) => open(core, stream, peer, index, stretches),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if is_exhaustion(&error) => return Err(Exhausted),
            // The peer was gone before we came: the next one may be there.
            Err(_) => {}
        }
    }
    Ok(())
}

/// Counts a loop while it accepts: a core with one has not drained.
struct Accepting {
    core: Rc<Core>,
    /// Among those that are told of changes.
    place: usize,
}

impl Accepting {
    fn new(core: &Rc<Core>) -> Accepting {
        core.accepting.set(core.accepting.get() + 1);
        Accepting { core: Rc::clone(core), place: core.take_place() }
    }
}

impl Drop for Accepting {
    fn drop(&mut self) {
        self.core.give_place(self.place);
        self.core.accepting.set(self.core.accepting.get() - 1);
    }
}

/// What a listening socket has to say.
enum Waiting {
    /// Somebody wants to be accepted.
    Somebody,
    /// The driver could not wait.
    Unknown,
    /// Nobody is accepted any more.
    Closed,
}

/// Waits until somebody wants to be accepted, or nobody is to be any more.
async fn somebody_waits(core: &Core, listener: &TcpListener, index: u32, place: usize) -> Waiting {
    let mut readable = pin!(listener.readable(false));
    poll_fn(|context| {
        if core.is_closed(index) {
            return Poll::Ready(Waiting::Closed);
        }
        core.wake_at_change(place, context.waker());
        readable.as_mut().poll(context).map(|result| match result {
            Ok(()) => Waiting::Somebody,
            Err(_) => Waiting::Unknown,
        })
    })
    .await
}

fn open<S>(core: &Rc<Core>, stream: std::net::TcpStream, peer: SocketAddr, index: u32, stretches: &Rc<S>)
where
    S: Run<Stretch, Output = Option<Link>> + Hire<Asking> + 'static,
{
    let open = match gate::admit(core, index, peer).and_then(|()| Open::new(core, peer, index)) {
        Ok(open) => open,
        Err(reason) => {
            // A reset costs neither side anything more; whatever could be said would have to be sent, and waited for.
            reset_on_close(stream.as_fd(), true);
            drop(stream);
            return ends::tell(core, &Visit::begun(peer, index), &reason);
        }
    };
    // epoll has no room for it; a ring is told nothing yet.
    let Ok(socket) = Socket::new(stream, core.driver) else {
        return ends::tell(core, &Visit::begun(peer, index), &MEMORY_SHORT);
    };
    socket.set_newcomer();
    // Entered before anything else can happen on this core: whom a block names from now on, it finds.
    let visitor = core.visitors.enter(&socket, peer.ip());
    let life = life(open, visitor, socket, peer, index, Rc::clone(stretches));
    spawn(life);
}

/// A connection from its first byte to its last. What it is while it waits for a request decides what an idle connection
/// costs, so it is kept small: see the test below.
#[expect(clippy::manual_async_fn, reason = "an `async fn` may keep what it was called with twice")]
fn life<S>(
    open: Open,
    visitor: Visitor,
    socket: Socket,
    peer: SocketAddr,
    index: u32,
    stretches: Rc<S>,
) -> impl Future<Output = ()>
where
    S: Run<Stretch, Output = Option<Link>> + Hire<Asking> + 'static,
{
    async move {
        let mut open = open;
        let core = Rc::clone(&open.core);
        let announced = match gate::is_spoken_for(&core, index) {
            false => None,
            true => match Box::pin(introduced(&mut open, &visitor, &socket, &peer, index)).await {
                Some(announced) => Some(announced),
                None => return,
            },
        };
        let source = announced.as_ref().map_or(peer, |announced| announced.source(peer));
        let Some(transport) = secure(socket, &source, index, &core).await else { return };
        let whence = Whence { peer, announced, listener: index };
        match speaks_http2(&transport, index, &core).await {
            // In a task of its own: this one has the size of a connection that speaks HTTP/1.1.
            true => {
                let connection = h2::downstream::connection(core, transport, whence, stretches);
                spawn(async move {
                    connection.await;
                    drop((visitor, open));
                });
            }
            false => downstream::connection(core, Link::new(transport, whence), stretches).await,
        }
    }
}

/// Whether the client speaks HTTP/2: it was agreed on by ALPN, or what comes first on a connection without TLS says so, where
/// that is let (RFC 9113 §3.3).
async fn speaks_http2(transport: &Transport, index: u32, core: &Core) -> bool {
    let Transport::Plain(socket) = transport else { return transport.agreed().alpn == Alpn::H2 };
    match core.view().snapshot.listener(index).map(|listener| listener.protocols) {
        Some(Protocols { http1: true, http2: true }) => {}
        Some(protocols) => return protocols.http2,
        None => return false,
    }
    Box::pin(h2::downstream::is_announced(socket, index, core)).await
}

/// Takes the PROXY header of a connection, and counts the connection under the address that it names.
async fn introduced(
    open: &mut Open,
    visitor: &Visitor,
    socket: &Socket,
    peer: &SocketAddr,
    index: u32,
) -> Option<Box<Announced>> {
    let core = Rc::clone(&open.core);
    let (source, reason) = match gate::introduced(&core, index, *peer, socket, visitor).await {
        Ok(announced) => match open.count(announced.source(*peer).ip(), index) {
            Ok(()) => return Some(Box::new(announced)),
            Err(reason) => (announced.source(*peer), Some(reason)),
        },
        Err(refused) => refused,
    };
    if let Some(reason) = reason {
        socket.reset();
        ends::tell(&core, &Visit::begun(source, index), &reason);
    }
    None
}

/// Makes the connection private, where the listener wants that. Its session lives in a box, so that the task of a plain
/// connection stays small.
async fn secure(socket: Socket, peer: &SocketAddr, index: u32, core: &Core) -> Option<Transport> {
    let begun_ms = {
        let view = core.view();
        let listener = view.snapshot.listener(index)?;
        if listener.tls.is_none() {
            return Some(Transport::Plain(socket));
        }
        let begun_ms = core.now_ms();
        socket.set_deadline(&core.sweep, Deadline::Handshake, begun_ms + listener.handshake_ms);
        core.waits_for(&socket);
        begun_ms
    };
    let shaken = Box::pin(shake_hands(socket, index, core)).await;
    let how = match &shaken {
        Err(_) => Handshake::Failed,
        Ok(stream) if stream.session().is_resumed() => Handshake::Resumed,
        Ok(_) => Handshake::Full,
    };
    let listener = core.view().snapshot.listener_name(index);
    core.state.borrow().metrics.handshake(listener, how);
    match shaken {
        Ok(stream) => {
            stream.socket().clear_deadline();
            Some(Transport::Tls(stream))
        }
        Err(reason) => {
            if let Some(reason) = reason {
                let duration_ms = core.now_ms().saturating_sub(begun_ms);
                ends::tell(core, &Visit { duration_ms, ..Visit::begun(*peer, index) }, &reason);
            }
            None
        }
    }
}

/// The hello is looked at first: who asks for somebody else costs no session and no key exchange, who says nothing no buffer.
///
/// # Errors
/// Why there is no session; `None` when nobody asked for one: a peer that connects and goes is most likely a probe.
async fn shake_hands(socket: Socket, index: u32, core: &Core) -> Result<Box<TlsStream>, Option<Reason>> {
    if socket.readable().await.is_err() || socket.expired().is_some() {
        return Err(why(&socket, None));
    }
    let mut wire = Buffer::head();
    let mut receives = 0;
    let told = loop {
        if wire.len() == wire.capacity() {
            wire.widen();
        }
        match socket.recv(&mut wire).await {
            Ok(1..) => receives += 1,
            _ if wire.is_empty() => return Err(why(&socket, None)),
            _ => return Err(why(&socket, Some(CLIENT_HANDSHAKE_LEFT))),
        }
        match look(&wire) {
            Ok(Look::Complete(hello)) => break Ok(hello),
            Ok(Look::Partial) if wire.len() >= HELLO_WIRE_BYTES_MAX || receives >= HELLO_RECEIVES_MAX => {
                break Err(Alert::DecodeError);
            }
            Ok(Look::Partial) => {}
            Err(alert) => break Err(alert),
        }
    };
    // What is presented is what the node runs now, however long the hello took.
    let session = match told {
        Err(alert) => Err(alert),
        Ok(hello) => {
            let view = core.view();
            let profile = view.snapshot.listener(index).and_then(|listener| listener.tls.as_ref());
            let profile = profile.ok_or(None)?;
            match profile.admit(&hello) {
                Ok(()) => {
                    let session = profile.session().map_err(|_| Some(CLIENT_HANDSHAKE_FAILED))?;
                    Ok((session, Asked::by(profile)))
                }
                Err(alert) => Err(alert),
            }
        }
    };
    match session {
        Ok((session, asked)) => {
            let stream = Box::new(TlsStream::new(socket, session));
            let fed = stream.take_in(&mut wire);
            drop(wire);
            let result = match fed {
                Ok(()) => stream.handshake().await,
                Err(error) => Err(error),
            };
            match result {
                // Its last bytes came as its time ended: the socket is shut, and whatever waits on it next would be told.
                Ok(()) if stream.socket().expired().is_some() => Err(why(stream.socket(), None)),
                Ok(()) => asked.map_or(Ok(()), |asked| asked.keep(&stream)).map(|()| stream).map_err(Some),
                Err(error) => {
                    let seen = match error.kind() {
                        io::ErrorKind::InvalidData => CLIENT_HANDSHAKE_FAILED,
                        _ => CLIENT_HANDSHAKE_LEFT,
                    };
                    Err(why(stream.socket(), Some(refused(&error).unwrap_or(seen))))
                }
            }
        }
        Err(alert) => {
            socket.send_last(&alert.record());
            Err(Some(match alert {
                Alert::UnrecognizedName => CLIENT_SERVER_NAME,
                Alert::NoApplicationProtocol => CLIENT_ALPN,
                _ => CLIENT_HELLO,
            }))
        }
    }
}

/// What a handshake asks the client for.
struct Asked {
    clients: Arc<ClientTrust>,
    /// What counted before the handshake.
    number: u64,
}

impl Asked {
    fn by(profile: &ServerProfile) -> Option<Asked> {
        profile.clients().map(|clients| Asked { clients: Arc::clone(clients), number: clients.number() })
    }

    /// Keeps what the client has shown.
    fn keep(&self, stream: &TlsStream) -> Result<(), Reason> {
        let shown = match stream.session().peer_certificates() {
            [] => return Ok(()),
            chain => self.clients.shown(chain, self.number).ok_or(client_certificates::MALFORMED)?,
        };
        stream.keep_client_certificate(shown);
        Ok(())
    }
}

/// Why the client's certificate was refused, or what it would speak, if that was what the handshake failed for.
fn refused(error: &io::Error) -> Option<Reason> {
    match error.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::NoApplicationProtocol => Some(CLIENT_ALPN),
        error => client_certificates::reason_of_handshake(error).copied(),
    }
}

/// Why a handshake ended: what ended it, or what was seen.
fn why(socket: &Socket, seen: Option<Reason>) -> Option<Reason> {
    ends::cause(socket, CLIENT_HANDSHAKE_TIMEOUT).or(seen)
}

/// Counts a connection while it is open.
struct Open {
    core: Rc<Core>,
    listener: ListenerId,
    seat: Seat,
}

impl Open {
    /// Lets the connection in, if its address does not come too often and there is room for it.
    fn new(core: &Rc<Core>, peer: SocketAddr, index: u32) -> Result<Open, Reason> {
        let view = core.view();
        // Through a proxy that is trusted come the connections of many.
        let shared = is_shared(core, peer.ip(), index);
        let address = (!shared).then_some(peer.ip());
        if let (Some(address), Some(rate)) = (address, &view.snapshot.arrival_rate) {
            core.node.arrivals.admit(rate, address, core.clock.coarse_ns())?;
        }
        let seat = core.node.caps.enter(core.connections.get(), address);
        match seat {
            // Nobody goes for one more of an address that has enough, or may turn out to.
            Err(CONNECTIONS_ADDRESS) => {}
            Ok(_) if gate::is_spoken_for(core, index) => {}
            _ => core.make_room(),
        }
        let seat = seat?;
        let listener = view.snapshot.listener_name(index);
        core.connections.set(core.connections.get() + 1);
        core.state.borrow().metrics.connection_opened(listener);
        Ok(Open { core: Rc::clone(core), listener, seat })
    }

    /// Counts the connection under the address that it turned out to come from, if that does not come too often and has room
    /// for it.
    fn count(&mut self, source: IpAddr, index: u32) -> Result<(), Reason> {
        // It has waited for its header: what follows is timed from now.
        let now_ns = self.core.clock.now_ns();
        if !is_shared(&self.core, source, index) {
            if let Some(rate) = &self.core.view().snapshot.arrival_rate {
                self.core.node.arrivals.admit(rate, source, now_ns)?;
            }
            self.core.node.caps.count(&mut self.seat, source)?;
        }
        self.core.make_room();
        Ok(())
    }
}

/// Whether many clients come from an address: it is that of a trusted proxy.
fn is_shared(core: &Core, address: IpAddr, index: u32) -> bool {
    // Whoever comes over a Unix socket has no address of its own.
    address.is_unspecified()
        || core
            .view()
            .snapshot
            .listener(index)
            .is_some_and(|listener| listener.trusted_proxies.contains(address))
}

impl Drop for Open {
    fn drop(&mut self) {
        self.core.node.caps.leave(self.seat);
        self.core.connections.set(self.core.connections.get() - 1);
        self.core.state.borrow().metrics.connection_closed(self.listener);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes of what is spawned for a connection. TLS adds its session, in a box of its own.
    const FUTURE_BYTES_MAX: usize = 600;

    fn bytes_of_output<A, B, C, D, E, S, F>(_: impl FnOnce(A, B, C, D, E, Rc<S>) -> F, _: &S) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_is_a_small_future() {
        let places = crate::worker::run::places();
        let bytes = bytes_of_output(life, &*places);
        let spawned = size_of::<crate::worker::guard::Guarded<()>>();
        println!("a connection's future: {bytes} bytes, its task: {spawned}");
        assert!(bytes + spawned <= FUTURE_BYTES_MAX, "{bytes} + {spawned} bytes");
    }
}
