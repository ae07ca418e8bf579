//! Records, metrics, access log, audit.
