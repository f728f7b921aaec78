//! What the tests of the stub share: a fake machine that runs a few instructions, a
//! serial line made of memory or of a TCP connection, and a hand-driven client.

#![expect(dead_code, reason = "each test uses its part")]

pub mod client;
pub mod guest;
pub mod machine;
pub mod tcp;
