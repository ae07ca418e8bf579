//! May they? Grants per operation, closed by default.

pub mod allow;
