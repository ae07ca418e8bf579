//! What is asked of a request: small units of one shape, by stage.

pub mod limit;
