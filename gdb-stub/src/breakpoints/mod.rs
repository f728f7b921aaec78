//! Where the client wants the machine to stop.

pub mod hardware;
pub mod software;
