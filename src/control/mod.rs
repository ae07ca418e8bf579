//! The control thread: everything slow, so that the data threads never wait.
//!
//! One OS thread named `control` with a tokio current_thread runtime. Its parts know nothing of each other:
//! [`fetch`] (documents, guarded by [`address_guard`]), [`keys`] (key sets), [`dns`], [`health`], [`watch`]
//! (files), [`signals`], [`admin`] (metrics), [`socket`] (verbs). They publish immutable values through
//! arc-swap and ring a [`doorbell`]; a data thread never calls in here except to ring.
//!
//! Not for requests, and not for deciding what a reload does: that is the supervisor's, which receives events.

pub mod address_guard;
pub mod dns;
pub mod doorbell;
pub mod exchange;
pub mod fetch;
pub mod process_log;
