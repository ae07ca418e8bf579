//! A connection arrives: one listening socket per core and address, a bounded accept loop, drain.
//!
//! No accept operation is ever in flight: dropping one would leak the accepted socket, and one in flight keeps the listening
//! socket alive. We wait for readiness and call `accept4` until it would block.

pub mod prefixes;

use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use monoio::net::TcpListener;

use crate::h1::downstream::{self, Link, Stretch};
use crate::http::Reason;
use crate::observe::{Handshake, ListenerId};
use crate::sys::socket::{accept, begin_nothing};
use crate::sys::stream::listener_fd;
use crate::tls::client_certificates::{self, ClientTrust};
use crate::tls::hello::{Alert, Look, look};
use crate::tls::{ServerProfile, TlsStream};
use crate::worker::core::Core;
use crate::worker::guard::Guarded;
use crate::worker::run::BACKLOG;
use crate::worker::slots::Run;
use crate::worker::{Buffer, Deadline, Socket, Transport};

/// Connections accepted in one turn before others get theirs.
const ACCEPT_BATCH: usize = 64;
/// How often, and how long each time, a socket that closes waits for connections that have begun: their handshakes take a round
/// trip.
const CLOSING_LOOKS: u32 = 5;
const CLOSING_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);
/// Pause after an accept, or a wait for one, that failed for lack of descriptors or memory.
const EXHAUSTED_PAUSE: std::time::Duration = std::time::Duration::from_millis(100);

/// Accepts on one socket of one core until the node drains, or its listener leaves. `index` is that listener's
/// [id](crate::snapshot::Listener::id); `lent`: the service manager has the socket as well.
pub async fn accept_loop<S>(core: Rc<Core>, listener: TcpListener, index: u32, lent: bool, stretches: Rc<S>)
where
    S: Run<Stretch, Output = Option<Link>> + 'static,
{
    let accepting = Accepting::new(&core);
    loop {
        let pause = match somebody_waits(&core, &listener, index, accepting.place).await {
            Waiting::Closed => break,
            Waiting::Somebody => let_in(&core, &listener, index, &stretches, ACCEPT_BATCH).is_err(),
            // Nothing can be told of the socket now; it is asked again rather than given up.
            Waiting::Unknown => true,
        };
        if pause {
            monoio::time::sleep(EXHAUSTED_PAUSE).await;
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

/// No descriptor or no memory is left.
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
    S: Run<Stretch, Output = Option<Link>> + 'static,
{
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
    S: Run<Stretch, Output = Option<Link>> + 'static,
{
    let Ok(socket) = Socket::new(stream, core.driver) else { return };
    let open = Open::new(core, index);
    let life = life(Rc::clone(core), open, socket, peer, index, Rc::clone(stretches));
    monoio::spawn(Guarded::new(life, crate::worker::core::count_panic));
}

/// A connection from its first byte to its last. What it is while it waits for a request decides what an idle connection
/// costs, so it is kept small: see the test below.
#[expect(clippy::manual_async_fn, reason = "an `async fn` may keep what it was called with twice")]
fn life<S>(
    core: Rc<Core>,
    open: Open,
    socket: Socket,
    peer: SocketAddr,
    index: u32,
    stretches: Rc<S>,
) -> impl Future<Output = ()>
where
    S: Run<Stretch, Output = Option<Link>>,
{
    async move {
        let _open = open;
        let Some(transport) = secure(socket, &peer, index, &core).await else { return };
        let link = Link { transport, peer, listener: index, used: false };
        downstream::connection(core, link, stretches).await;
    }
}

/// Makes the connection private, where the listener wants that. Its session lives in a box, so that the task of a plain
/// connection stays small.
async fn secure(socket: Socket, peer: &SocketAddr, index: u32, core: &Core) -> Option<Transport> {
    {
        let view = core.view();
        let listener = view.snapshot.listener(index)?;
        if listener.tls.is_none() {
            return Some(Transport::Plain(socket));
        }
        socket.set_deadline(&core.sweep, Deadline::Handshake, core.now_ms() + listener.handshake_ms);
    }
    let stream = match Box::pin(shake_hands(socket, index, core)).await {
        Ok(stream) => Some(stream),
        Err(reason) => {
            if let Some(reason) = reason {
                tell(core, peer, index, &reason);
            }
            None
        }
    };
    let how = match &stream {
        None => Handshake::Failed,
        Some(stream) if stream.session().is_resumed() => Handshake::Resumed,
        Some(_) => Handshake::Full,
    };
    let listener = core.view().snapshot.listener_name(index);
    core.state.borrow().metrics.handshake(listener, how);
    let stream = stream?;
    stream.socket().clear_deadline();
    Some(Transport::Tls(stream))
}

/// The hello is looked at first: who asks for somebody else costs no session and no key exchange, who says nothing no buffer.
///
/// # Errors
/// Why the client was refused, where that is worth telling.
async fn shake_hands(socket: Socket, index: u32, core: &Core) -> Result<Box<TlsStream>, Option<Reason>> {
    socket.readable().await.map_err(|_| None)?;
    let mut wire = Buffer::small();
    let told = loop {
        if !matches!(socket.recv(&mut wire).await, Ok(1..)) {
            return Err(None);
        }
        match look(&wire) {
            Ok(Look::Complete(hello)) => break Ok(hello),
            Ok(Look::Partial) if wire.len() == wire.capacity() => break Err(Alert::DecodeError),
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
            match profile.serves(hello.server_name.as_deref()) {
                true => Ok((profile.session().map_err(|_| None)?, Asked::by(profile))),
                false => Err(Alert::UnrecognizedName),
            }
        }
    };
    match session {
        Ok((session, asked)) => {
            let stream = Box::new(TlsStream::new(socket, session));
            let fed = stream.feed(&wire);
            drop(wire);
            let result = match fed {
                Ok(()) => stream.handshake().await,
                Err(error) => Err(error),
            };
            match result {
                Ok(()) => asked.map_or(Ok(()), |asked| asked.keep(&stream)).map(|()| stream).map_err(Some),
                Err(error) => Err(refused_certificate(&error)),
            }
        }
        Err(alert) => {
            socket.send_last(&alert.record());
            Err(None)
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

/// Why the client's certificate was refused, if that was what the handshake failed for.
fn refused_certificate(error: &io::Error) -> Option<Reason> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    client_certificates::reason_of_handshake(error).copied()
}

/// Tells that a connection was refused in its handshake, and why.
#[cold]
fn tell(core: &Core, peer: &SocketAddr, index: u32, reason: &Reason) {
    let view = core.view();
    let time_ms = core.clock.unix_ns(core.clock.now_ns()) / 1_000_000;
    let mut state = core.state.borrow_mut();
    state.record_end(peer, index, reason, &view.snapshot, time_ms);
}

/// Counts a connection while it is open.
struct Open {
    core: Rc<Core>,
    listener: ListenerId,
}

impl Open {
    fn new(core: &Rc<Core>, index: u32) -> Open {
        let listener = core.view().snapshot.listener_name(index);
        core.connections.set(core.connections.get() + 1);
        core.state.borrow().metrics.connection_opened(listener);
        Open { core: Rc::clone(core), listener }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.core.connections.set(self.core.connections.get() - 1);
        self.core.state.borrow().metrics.connection_closed(self.listener);
    }
}

fn is_exhaustion(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS | libc::ENOMEM))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::slots::Slots;

    /// Bytes of what is spawned for a connection. TLS adds its session, in a box of its own.
    const FUTURE_BYTES_MAX: usize = 600;

    fn bytes_of_output<A, B, C, D, E, S, F>(_: impl FnOnce(A, B, C, D, E, Rc<S>) -> F, _: &S) -> usize {
        size_of::<F>()
    }

    #[test]
    fn an_idle_connection_is_a_small_future() {
        let slots = Slots::new(downstream::stretch);
        let bytes = bytes_of_output(life, &slots);
        let spawned = size_of::<Guarded<()>>();
        println!("a connection's future: {bytes} bytes, its task: {spawned}");
        assert!(bytes + spawned <= FUTURE_BYTES_MAX, "{bytes} + {spawned} bytes");
    }
}
