//! Which operation a request means; sans-IO.
