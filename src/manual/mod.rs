//! The manual, chapter by chapter.

#[doc = include_str!("load_testing.md")]
pub mod load_testing {}
