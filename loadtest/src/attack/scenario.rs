//! One attack: what is done to which listener, how often. One file each under `loadtest/scenarios/attack`.
//!
//! ```yaml
//! title: heads that never end, a byte at a time     # one line
//! kind: slowloris                                   # see `Kind`
//! listener: plain                                   # plain | tls | trusted (believes X-Forwarded-For)
//! connections: 4000                                 # the most at once; fewer where descriptors run out
//! opens_per_second: 2000                            # connections opened, and opened again when they were closed
//! acts_per_second: 2000                             # what the kind does, over all of them
//! ramp_seconds: 2                                   # before the window begins
//! sources: 200                                      # IPv4 addresses they come from
//! peers: true                                       # it means something to a peer that merely proxies
//! ```

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::suite;

/// One attack, as written.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The file's name without number and ending.
    #[serde(skip_deserializing)]
    pub name: String,
    /// One line about it.
    pub title: String,
    /// What is done.
    pub kind: Kind,
    /// To which listener.
    #[serde(default)]
    pub listener: Listener,
    /// The most connections at once.
    pub connections: usize,
    /// How many are opened a second; 0: only where an act needs one.
    #[serde(default)]
    pub opens_per_second: f64,
    /// Acts a second over all connections.
    #[serde(default)]
    pub acts_per_second: f64,
    /// Seconds before the window.
    #[serde(default = "ramp_seconds")]
    pub ramp_seconds: f64,
    /// Addresses that connections come from.
    #[serde(default = "sources")]
    pub sources: u32,
    /// Whether it means something to a peer that merely proxies.
    #[serde(default = "yes")]
    pub peers: bool,
}

/// What an attacker does: on each connection once it stands, and at each act.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Half a head; a byte more.
    Slowloris,
    /// A head with a length; a byte more of the body.
    SlowBody,
    /// A request for 1 MiB; 64 bytes of it are read.
    SlowRead,
    /// Half a `ClientHello`; nothing.
    HandshakeStall,
    /// One request; nothing.
    Idle,
    /// A connection that ends at once.
    ConnectionChurn,
    /// A head that is too long, or as long as can be.
    HeaderBomb,
    /// The head of an upload; 64 TLS records of one byte.
    TlsRecordFlood,
    /// TLS 1.2; a `ClientHello` inside the connection.
    Renegotiation,
    /// TLS 1.3; a `KeyUpdate` that asks for one.
    KeyUpdates,
    /// A request that must be refused with 400.
    BadRequests,
    /// A request with a token whose signature is bad, never the same.
    TokenFlood,
    /// A request from another IPv6 /64.
    FreshPrefixes,
    /// A connection from another address, with one request.
    FreshAddresses,
    /// HTTP/2: requests, each reset at once.
    H2RapidReset,
    /// HTTP/2: requests, and for each what makes the gateway reset it.
    H2MadeYouReset,
    /// HTTP/2: a head that never ends, in CONTINUATION frames.
    H2ContinuationFlood,
    /// HTTP/2: SETTINGS.
    H2SettingsFlood,
    /// HTTP/2: PING.
    H2PingFlood,
    /// HTTP/2: PRIORITY.
    H2PriorityFlood,
    /// HTTP/2: WINDOW_UPDATE of one byte.
    H2WindowUpdateFlood,
    /// HTTP/2: an upload in DATA frames without data.
    H2EmptyData,
    /// HTTP/2: an upload in DATA frames of one byte.
    H2TinyData,
    /// HTTP/2: a head that is 4,000 times as large as it comes.
    H2HpackBomb,
    /// HTTP/2: heads that change all of the dynamic table.
    H2TableChurn,
    /// HTTP/2: heads of 60 KiB.
    H2HeaderLists,
    /// HTTP/2: requests for 1 MiB each, of which nothing may be sent; a byte of one of them.
    H2ZeroWindow,
    /// HTTP/2: windows above 2³¹ − 1.
    H2WindowOverflow,
    /// HTTP/2: streams with numbers that they may not have.
    H2StreamIds,
}

impl Kind {
    /// It is done over HTTP/2.
    pub fn is_http2(self) -> bool {
        matches!(
            self,
            Self::H2RapidReset
                | Self::H2MadeYouReset
                | Self::H2ContinuationFlood
                | Self::H2SettingsFlood
                | Self::H2PingFlood
                | Self::H2PriorityFlood
                | Self::H2WindowUpdateFlood
                | Self::H2EmptyData
                | Self::H2TinyData
                | Self::H2HpackBomb
                | Self::H2TableChurn
                | Self::H2HeaderLists
                | Self::H2ZeroWindow
                | Self::H2WindowOverflow
                | Self::H2StreamIds
        )
    }
}

/// Which listener.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Listener {
    /// HTTP.
    #[default]
    Plain,
    /// HTTPS.
    Tls,
    /// HTTP, behind a load balancer.
    Trusted,
}

fn ramp_seconds() -> f64 {
    2.0
}
fn sources() -> u32 {
    200
}
fn yes() -> bool {
    true
}

impl Scenario {
    /// Reads all scenarios of a folder, in the order of their files.
    ///
    /// # Errors
    /// A file cannot be read or is no scenario: which, and why.
    pub fn all(folder: &Path) -> Result<Vec<Self>, String> {
        suite::read_all(folder, |scenario: &mut Self, name| {
            scenario.name = name;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_committed_scenario_is_one() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios/attack");
        let scenarios = Scenario::all(&directory).unwrap();
        assert!(scenarios.len() >= 29);
        for scenario in scenarios {
            assert!(scenario.opens_per_second > 0.0 || scenario.acts_per_second > 0.0, "{}", scenario.name);
            assert!(scenario.connections <= 10_000 && scenario.sources > 0, "{}", scenario.name);
            assert!(!scenario.kind.is_http2() || scenario.listener == Listener::Tls, "{}", scenario.name);
        }
    }
}
