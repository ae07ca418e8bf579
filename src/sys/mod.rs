//! The only module with unsafe code: system calls behind safe functions.

pub mod privileges;
pub mod zeroed;
