//! TLS: rustls driven sans-IO on our buffers.
//!
//! For: making a client's or an upstream's connection private. Not for: the control thread's own fetches. A
//! [`Session`] takes ciphertext in and gives plaintext out, and the other way round; [`stream::TlsStream`] couples it with
//! a socket. TLS 1.2 and 1.3, ring's suites; no early data. ring has no post-quantum key exchange: X25519, P-256, P-384.

pub mod certificate;
pub mod certificate_names;
pub mod client;
pub mod client_certificates;
pub mod hello;
pub(crate) mod laws;
pub mod records;
pub mod server;
pub mod session;
pub mod stream;
pub mod tickets;

pub use client::ClientProfile;
pub use server::ServerProfile;
pub use session::Session;
pub use stream::TlsStream;

use std::sync::Arc;

use rustls::crypto::CryptoProvider;

/// ring's algorithms, the only ones linked.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
