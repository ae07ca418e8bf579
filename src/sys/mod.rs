//! The only module with `unsafe` code: system calls behind safe functions.
//!
//! Every function takes and returns safe types (`BorrowedFd`, slices, `io::Result`); each block holds one
//! operation and names the obligation that makes it sound.
#![allow(unsafe_code)]

pub mod address;
pub mod burst;
pub mod descriptors;
pub mod epoll;
pub mod file;
pub mod lanes;
pub mod memory;
pub mod prefetch;
pub mod privileges;
pub mod socket;
pub mod stream;
pub mod thread;
pub mod zeroed;
