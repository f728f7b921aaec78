//! The debugger's `monitor vmcs` command: its grammar, what it does, and its printing.

mod host;

pub use host::{NmiLedger, VmcsHost};
