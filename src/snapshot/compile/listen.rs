//! Of a listener: who may connect, and who says who a client is.

use std::sync::Arc;

use crate::accept::gate::Gate;
use crate::accept::prefixes::{AddressSet, Network, Prefixes, Verdict};
use crate::accept::proxy_protocol::Versions;
use crate::config::error::{Code, ConfigError};
use crate::config::model as written;
use crate::control::address_lists::Source;
use crate::http::forwarded::ClientField;
use crate::snapshot::compile::{Compiler, Kept};

/// A file of networks cannot be used.
pub const ADDRESS_FILE: Code = Code::new(1170);

impl Compiler<'_> {
    /// What a connection to this listener passes first; `None`: nothing, everybody may come.
    pub(super) fn gate(&mut self, listener: &written::Listener, kept: &mut Kept) -> Option<Arc<Gate>> {
        let source = source(listener)?;
        let gate = kept.lists.gate(&source, self.parts.map(|parts| &parts.watcher));
        match gate {
            Ok(gate) => Some(gate),
            Err(error) => {
                let entries = listener.allow_addresses.iter().chain(&listener.deny_addresses);
                let at = entries.into_iter().find(|entry| match &entry.value {
                    written::AddressEntry::File(path) => path.0 == error.file,
                    written::AddressEntry::Network(_) => false,
                });
                let span = at.map_or(listener.span, |entry| entry.span);
                self.errors.push(
                    ConfigError::new(
                        ADDRESS_FILE,
                        format!("an address list cannot be used: {}", error.what),
                        span,
                    )
                    .expected(
                        "a network or address on each line, such as `192.0.2.0/24`; `#` begins a comment",
                    ),
                );
                None
            }
        }
    }
}

/// What is said of addresses; `None`: nothing.
pub(super) fn source(listener: &written::Listener) -> Option<Source> {
    if listener.allow_addresses.is_empty() && listener.deny_addresses.is_empty() {
        return None;
    }
    // Who is not on a list of those that may come may not.
    let otherwise = if listener.allow_addresses.is_empty() { Verdict::In } else { Verdict::Out };
    let mut source = Source { networks: Vec::new(), files: Vec::new(), otherwise };
    let lists = [(&listener.allow_addresses, Verdict::In), (&listener.deny_addresses, Verdict::Out)];
    for (entries, verdict) in lists {
        for entry in entries {
            match &entry.value {
                written::AddressEntry::Network(net) => {
                    source.networks.extend(network(net).map(|network| (network, verdict)));
                }
                written::AddressEntry::File(path) => source.files.push((path.0.clone(), verdict)),
            }
        }
    }
    Some(source)
}

fn network(net: &ipnet::IpNet) -> Option<Network> {
    Network::new(net.network(), net.prefix_len())
}

pub(super) fn trusted_proxies(listener: &written::Listener) -> AddressSet {
    let mut prefixes = Prefixes::new();
    for net in listener.trusted_proxies.iter().filter_map(|net| network(&net.value)) {
        prefixes.add(net, Verdict::In);
    }
    prefixes.compile(Verdict::Out)
}

pub(super) fn client_field(listener: &written::Listener) -> ClientField {
    match listener.client_address.as_ref().map(|field| field.value) {
        None | Some(written::ClientAddress::XForwardedFor) => ClientField::XForwardedFor,
        Some(written::ClientAddress::Forwarded) => ClientField::Forwarded,
    }
}

pub(super) fn proxy_versions(listener: &written::Listener) -> Option<Versions> {
    listener.proxy_protocol.as_ref().map(|protocol| match protocol.value {
        written::ProxyProtocol::V1 => Versions::V1,
        written::ProxyProtocol::V2 => Versions::V2,
        written::ProxyProtocol::Any => Versions::Any,
    })
}
