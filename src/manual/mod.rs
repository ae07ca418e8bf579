//! The manual, chapter by chapter.
