//! TLS: rustls driven sans-IO on our buffers.
