//! The integration tests: one binary, one file per subject.

mod control_admin;
mod control_fetch;
mod control_issuer;
mod control_keys;
mod control_names;
mod control_process;
mod control_socket;
mod control_watch;
