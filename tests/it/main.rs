//! The integration tests: one binary, one file per subject.

mod addresses;
mod audit;
mod block;
mod certificates;
mod change;
mod check;
mod client_certificates;
mod codes;
mod concurrency;
mod connection_rate;
mod control_admin;
mod control_fetch;
mod control_issuer;
mod control_keys;
mod control_names;
mod control_process;
mod control_socket;
mod control_watch;
mod demo;
mod desync;
mod desync_cases;
mod discovery;
mod downgrade;
mod examples;
mod fixed_answers;
mod fuzz_corpus;
mod grpc;
mod h2_conformance;
mod h2_oracle;
mod h2_streams;
mod hostile;
mod hygiene;
mod jose;
mod json_parsing;
mod json_schema;
mod json_schema_generator;
mod lasting;
mod limiter;
mod load;
mod log_formats;
mod media_types;
mod methods;
mod metrics;
mod name_server;
mod nginx;
mod node;
mod observe;
mod openid;
mod operate;
mod origins;
mod outages;
mod pairs;
mod paths;
mod probes;
mod proxy;
mod proxy_protocol;
mod streams;
mod tidy;
mod timeouts;
mod tls;
mod traps;
mod traps_loop;
mod traps_source;
mod upgrade;
mod upstreams;
mod websocket;
mod websocket_oracle;

use std::path::PathBuf;

/// Where a folder of the public suites lies, or `None` (said aloud) where it is not at hand. In CI it must be.
pub fn shared(folder: &str) -> Option<PathBuf> {
    let root = std::env::var("RINGWALL_SHARED").unwrap_or_else(|_| "../shared".to_owned());
    let path = PathBuf::from(root).join(folder);
    if path.exists() {
        return Some(path);
    }
    assert!(std::env::var("CI").as_deref() != Ok("true"), "CI must have {}", path.display());
    println!("NOT RUN: conformance (no RINGWALL_SHARED)");
    None
}
