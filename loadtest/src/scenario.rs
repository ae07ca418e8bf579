//! What is measured: one file per scenario under `loadtest/scenarios`, `NUMBER-NAME.yaml`; numbers give the order.
//!
//! ```yaml
//! title: Plain keep-alive GET          # one line
//! method: GET                          # default GET
//! path: /v1/orders/48213
//! headers: { accept: "*/*" }           # sent with each request
//! bodies: order1k.jsonl                # one body a line, taken in turn; or `body_bytes: 1048576`
//! answer: small                        # small | large | grpc (what is sent is then such a message too)
//! tls: false                           # TLS 1.3, AES-128-GCM, no resumption
//! streams: 10                          # HTTP/2, so many requests at once on each connection; without it HTTP/1.1
//! websocket: 1024                      # instead of requests: messages of so many bytes, which come back
//! keep_alive: true                     # false: a connection per request
//! login: false                         # each request carries a token
//! connections: 64
//! per: request                         # request | mib: what the CPU time is divided by
//! idle: { connections: 7000, active: 1000, rate: 5000, burst: 6000, bytes_at_most: 1500 }   # another kind of scenario: memory
//! contenders: [ringwall, pump, nginx-http]    # in the order of the table
//! config: { ringwall: jwt, envoy: jwt }       # which of a contender's configurations; default `default`
//! bars: [{ at_most: 1.10, of: [floor] }]      # Ringwall's CPU time against the best of these
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::backend;
use crate::client::{Protocol, websocket};
use crate::contender::Kind;
use crate::material::{HOST, Material};
use crate::suite;

/// One scenario, as written.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The file's name without number and ending.
    #[serde(skip_deserializing)]
    pub name: String,
    /// One line about it.
    pub title: String,
    /// The request's method.
    #[serde(default = "get")]
    pub method: String,
    /// The request's target.
    pub path: String,
    /// Fields sent with each request.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// A file beside this one, one body a line.
    #[serde(default)]
    pub bodies: Option<String>,
    /// The length of a body of ours.
    #[serde(default)]
    pub body_bytes: Option<usize>,
    /// What the backend answers.
    #[serde(default)]
    pub answer: Answer,
    /// TLS between generator and contender.
    #[serde(default)]
    pub tls: bool,
    /// HTTP/2, with so many requests at once on a connection; `None`: HTTP/1.1.
    #[serde(default)]
    pub streams: Option<usize>,
    /// WebSocket, with messages of so many bytes.
    #[serde(default)]
    pub websocket: Option<usize>,
    /// A connection carries many requests.
    #[serde(default = "yes")]
    pub keep_alive: bool,
    /// Each request carries a token.
    #[serde(default)]
    pub login: bool,
    /// Connections of the generator.
    #[serde(default = "connections")]
    pub connections: usize,
    /// What the CPU time is divided by.
    #[serde(default)]
    pub per: Per,
    /// Set if memory is measured instead of CPU time.
    #[serde(default)]
    pub idle: Option<Idle>,
    /// Who takes part.
    pub contenders: Vec<String>,
    /// Which configuration, by kind or family.
    #[serde(default)]
    pub config: BTreeMap<String, String>,
    /// What Ringwall must reach.
    #[serde(default)]
    pub bars: Vec<Bar>,
}

/// What the backend answers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Some JSON.
    #[default]
    Small,
    /// 1 MiB.
    Large,
    /// A message, and trailers.
    Grpc,
}

/// What CPU time is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Per {
    /// Requests.
    #[default]
    Request,
    /// MiB of body, in the one direction that has them.
    Mib,
}

impl Per {
    /// As a heading has it.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Request => "req",
            Self::Mib => "MiB",
        }
    }
}

/// Many connections, few of them active.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Idle {
    /// All of them.
    pub connections: usize,
    /// Those that send requests.
    pub active: usize,
    /// Requests a second over the active ones.
    pub rate: f64,
    /// Requests of the burst that are under way at once: each is two descriptors of the contender.
    pub burst: usize,
    /// Ringwall's bound per idle connection, in bytes.
    pub bytes_at_most: f64,
}

/// A bound on Ringwall's CPU time.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Bar {
    /// Times the best of `of`.
    pub at_most: f64,
    /// Contenders, or `floor`.
    pub of: Vec<String>,
}

fn get() -> String {
    "GET".to_owned()
}
fn yes() -> bool {
    true
}
fn connections() -> usize {
    64
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

    /// Which configuration this kind takes here, if not its own; a kind's name goes before its family's.
    pub fn config_of(&self, kind: &Kind) -> Option<&str> {
        self.config.get(kind.name).or_else(|| self.config.get(kind.family)).map(String::as_str)
    }

    /// How generator and contender speak.
    pub fn protocol(&self) -> Protocol {
        match (self.websocket, self.streams) {
            (Some(_), _) => Protocol::WebSocket,
            (None, Some(streams)) => Protocol::Http2 { streams },
            (None, None) => Protocol::Http1,
        }
    }

    /// The message that is sent and comes back, over WebSocket.
    pub fn message(&self) -> Option<Vec<u8>> {
        self.websocket.map(|length| backend::large_body().into_iter().cycle().take(length).collect())
    }

    /// The request of a handshake of WebSocket; empty over anything else.
    pub fn opening(&self, material: &Material) -> Vec<u8> {
        if self.websocket.is_none() {
            return Vec::new();
        }
        let mut fields: String =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        if let Some(token) = material.tokens.first().filter(|_| self.login) {
            fields += &format!("Authorization: Bearer {token}\r\n");
        }
        websocket::opening(HOST, &self.path, &fields)
    }

    /// The whole requests, taken in turn.
    ///
    /// # Errors
    /// The bodies cannot be read.
    pub fn requests(&self, directory: &Path, material: &Material) -> Result<Vec<Vec<u8>>, String> {
        if let Some(message) = self.message() {
            return Ok(vec![crate::websocket::message(&message)]);
        }
        let bodies: Vec<Vec<u8>> = match (&self.bodies, self.body_bytes) {
            (Some(file), _) => {
                let path = directory.join(file);
                let text =
                    fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                text.lines().filter(|line| !line.is_empty()).map(|line| line.as_bytes().to_vec()).collect()
            }
            (None, Some(length)) => {
                vec![backend::large_body().into_iter().cycle().take(length).collect()]
            }
            (None, None) if self.answer == Answer::Grpc => vec![backend::GRPC_BODY.to_vec()],
            (None, None) => vec![Vec::new()],
        };
        if bodies.is_empty() {
            return Err("no body in the file".to_owned());
        }
        let count = if self.login { material.tokens.len().max(bodies.len()) } else { bodies.len() };
        Ok((0..count)
            .map(|index| {
                let token = self.login.then(|| material.tokens[index % material.tokens.len()].as_str());
                self.request(token, &bodies[index % bodies.len()])
            })
            .collect())
    }

    fn request(&self, token: Option<&str>, body: &[u8]) -> Vec<u8> {
        let mut request = format!("{} {} HTTP/1.1\r\nHost: {HOST}\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            request += &format!("{name}: {value}\r\n");
        }
        if let Some(token) = token {
            request += &format!("Authorization: Bearer {token}\r\n");
        }
        if !body.is_empty() {
            request += &format!("Content-Length: {}\r\n", body.len());
        }
        request += "\r\n";
        let mut request = request.into_bytes();
        request.extend_from_slice(body);
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_committed_scenario_is_one() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios");
        let scenarios = Scenario::all(&directory).unwrap();
        assert!(scenarios.len() >= 10);
        for scenario in scenarios {
            let known = |name: &String| crate::contender::KINDS.iter().any(|kind| kind.name == name);
            assert!(scenario.contenders.iter().all(known), "{}", scenario.name);
            let measured =
                |name: &String| name == "floor" || known(name) && scenario.contenders.contains(name);
            assert!(scenario.bars.iter().all(|bar| bar.of.iter().all(measured)), "{}", scenario.name);
            for kind in &crate::contender::KINDS {
                if let Some(config) = scenario.config_of(kind) {
                    let file = format!("peers/{}/{config}.{}", kind.family, kind.ending);
                    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file).is_file(), "{file}");
                }
            }
            assert!(scenario.websocket.is_none() || scenario.streams.is_none(), "{}", scenario.name);
            assert!(scenario.answer != Answer::Grpc || scenario.streams.is_some(), "{}", scenario.name);
            if let Some(bodies) = &scenario.bodies {
                assert!(directory.join(bodies).is_file(), "{bodies}");
            }
        }
    }
}
