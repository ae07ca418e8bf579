//! TLS: rustls driven sans-IO on our buffers.

use crate::http::Reason;
use crate::worker::core::Core;
use crate::worker::{Socket, Transport};

/// How an upstream is spoken to under TLS.
#[derive(Debug)]
pub struct ClientProfile {}

/// Makes a connection to an upstream private.
///
/// # Errors
/// The reason of the failed handshake.
pub async fn connect(_socket: Socket, _profile: &ClientProfile, _core: &Core) -> Result<Transport, Reason> {
    Err(crate::upstream::connect::UPSTREAM_REFUSED)
}
