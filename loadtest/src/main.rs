//! Load-test harness.
fn main() {}
