//! Who is let in by address: the lists of a listener, as its cores see them.
//!
//! A gate outlives the lists that pass through it: the control thread swaps a new set in, and frees the old one when no core
//! looks at it any more. Looked at once for each connection, before anything is done for it; behind a proxy that speaks the
//! PROXY protocol once its header is read.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::accept::prefixes::AddressSet;
use crate::accept::proxy_protocol::{Announced, PROXY_UNTRUSTED, receive};
use crate::http::Reason;
use crate::snapshot::Listener;
use crate::worker::core::Core;
use crate::worker::visitors::Visitor;
use crate::worker::{Deadline, Socket};

/// The address may not connect to this listener.
pub const ADDRESS_DENIED: Reason =
    Reason::client("address_denied", 2240, 403, "This address may not connect here");

/// The lists of one listener.
#[derive(Debug)]
pub struct Gate(ArcSwap<AddressSet>);

impl Gate {
    /// A gate with its first lists.
    pub fn new(set: AddressSet) -> Gate {
        Gate(ArcSwap::from_pointee(set))
    }

    /// Whether an address may come in.
    ///
    /// # Errors
    /// [`ADDRESS_DENIED`].
    #[inline]
    pub fn admit(&self, address: IpAddr) -> Result<(), Reason> {
        match self.0.load().contains(address) {
            true => Ok(()),
            false => Err(ADDRESS_DENIED),
        }
    }

    /// Puts other lists in force; gives the old ones, which a core may still be looking at. Not on a data thread.
    #[must_use = "the last one who holds a set frees it, and that is not to be a core"]
    pub fn renew(&self, set: AddressSet) -> Arc<AddressSet> {
        self.0.swap(Arc::new(set))
    }

    /// What is in force: its prefixes and its bytes. Not on a data thread.
    pub fn size(&self) -> (usize, usize) {
        let set = self.0.load();
        (set.prefixes(), set.bytes())
    }
}

/// Judges a connection that has just come, by its peer alone. Nothing has been done for it yet.
///
/// # Errors
/// Why it is not let in.
#[inline]
pub fn admit(core: &Core, listener: u32, peer: SocketAddr) -> Result<(), Reason> {
    let view = core.view();
    let Some(listener) = view.snapshot.listener(listener) else { return Ok(()) };
    match listener.proxy_protocol {
        None => judge(core, listener, peer.ip()),
        Some(_) if listener.trusted_proxies.contains(peer.ip()) => Ok(()),
        Some(_) => Err(PROXY_UNTRUSTED),
    }
}

/// Judges where a connection comes from.
#[inline]
fn judge(core: &Core, listener: &Listener, source: IpAddr) -> Result<(), Reason> {
    core.node.blocks.address(source)?;
    listener.gate.as_ref().map_or(Ok(()), |gate| gate.admit(source))
}

/// Whether connections to a listener begin with a PROXY header.
pub fn is_spoken_for(core: &Core, listener: u32) -> bool {
    core.view().snapshot.listener(listener).is_some_and(|listener| listener.proxy_protocol.is_some())
}

/// Reads the PROXY header of a connection, and judges whom it names.
///
/// # Errors
/// Where it comes from as far as that is known, and why it is refused; no reason where the peer left without a word.
pub async fn introduced(
    core: &Core,
    index: u32,
    peer: SocketAddr,
    socket: &Socket,
    visitor: &Visitor,
) -> Result<Announced, (SocketAddr, Option<Reason>)> {
    let versions = {
        let view = core.view();
        let listener = view.snapshot.listener(index).ok_or((peer, None))?;
        socket.set_deadline(&core.sweep, Deadline::Handshake, core.now_ms() + listener.handshake_ms);
        core.waits_for(socket);
        listener.proxy_protocol.ok_or((peer, None))?
    };
    let announced = receive(socket, versions).await.map_err(|reason| (peer, reason))?;
    socket.clear_deadline();
    let source = announced.source(peer);
    visitor.comes_from(source.ip());
    let view = core.view();
    let listener = view.snapshot.listener(index).ok_or((source, None))?;
    judge(core, listener, source.ip()).map_err(|reason| (source, Some(reason)))?;
    Ok(announced)
}
