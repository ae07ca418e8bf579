//! Ringwall: a secure API gateway and L7 edge proxy for Linux in one binary.
//!
//! This is the map. A request walks the modules in this order:
//! [`accept`] → [`tls`] → [`h1`] or [`h2`] → [`pipeline`] → [`route`] → [`policy`] → [`upstream`] → [`observe`].
//! What the operator wrote lives in [`config`]; what runs is a [`snapshot`]; everything slow runs on the
//! [`control`] thread. [`manual`] tells the whole story.
#![deny(unsafe_code)]

pub mod accept;
pub mod cli;
pub mod config;
pub mod control;
pub mod crc32;
pub mod fuzzing;
pub mod grpc;
pub mod h1;
pub mod h2;
pub mod http;
pub mod jose;
pub mod json;
pub mod manual;
pub mod observe;
pub mod pipeline;
pub mod policy;
pub mod route;
pub mod schema;
pub mod snapshot;
pub mod sys;
pub mod tls;
pub mod upstream;
pub mod websocket;
pub mod worker;
