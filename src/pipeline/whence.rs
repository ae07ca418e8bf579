//! The beginning and the end of an exchange, whatever codec it comes through: whose it is, and the one record of it.

use std::net::SocketAddr;

use crate::accept::proxy_protocol::Announced;
use crate::pipeline::exchange::Exchange;
use crate::snapshot::CoreView;
use crate::worker::Transport;
use crate::worker::core::Core;

/// Where a client's connection comes from.
#[derive(Debug)]
pub struct Whence {
    /// Who is at the other end.
    pub peer: SocketAddr,
    /// Whom a proxy there speaks for, where the PROXY protocol said so.
    pub announced: Option<Box<Announced>>,
    /// [Id](crate::snapshot::Listener::id) of the listener that accepted it.
    pub listener: u32,
}

impl Whence {
    /// Where the connection comes from.
    pub fn source(&self) -> SocketAddr {
        self.announced.as_ref().map_or(self.peer, |announced| announced.source(self.peer))
    }

    /// An exchange begins. `known`: the one before it on this connection had an identity.
    pub fn begin(&self, x: &mut Exchange, transport: &Transport, known: bool, core: &Core) {
        x.peer = self.peer;
        x.known = known;
        (x.source, x.hearsay) = match self.announced.as_deref() {
            None => (self.peer, true),
            Some(Announced::Client { source, .. }) => (*source, true),
            Some(Announced::Nobody) => (self.peer, false),
        };
        x.client = x.source.ip();
        x.secure = transport.is_tls();
        x.agreed = transport.agreed();
        x.facts.started_ns = core.clock.now_ns();
        let unix_ms = core.clock.unix_ns(x.facts.started_ns) / 1_000_000;
        core.state.borrow_mut().identify_request(x, unix_ms);
    }
}

/// The end of an exchange: one record, and the counters. `used`: its connection had carried another before.
pub fn conclude(x: &mut Exchange, whence: &Whence, used: bool, view: &CoreView, core: &Core) {
    x.seats.leave();
    let silent = x.facts.status == 0 && x.facts.reason.is_none();
    if !silent {
        core.state.borrow_mut().record(x, whence.listener, used, view, &core.clock);
    }
}
