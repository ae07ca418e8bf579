//! Is the message within its contract?

pub mod content_type;
pub mod json_schema;

/// Per core: buffers of the JSON tape, caches of the regex engine.
pub type PerCore = crate::schema::Scratch;
