//! Forwarding: balance, pool, connect.
