//! Build, disk images, emulator, gdb, tests, benchmarks.
fn main() {}
