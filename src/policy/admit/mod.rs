//! What can be said of a request before anybody asks who sent it.

pub mod blocks;
pub mod maintenance;
