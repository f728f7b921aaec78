//! The demo programs.
fn main() {}
