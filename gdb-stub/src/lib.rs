//! The GDB remote stub over a `Machine` trait.
//!
//! The hypervisor keeps one [`Session`] and calls it at two points: `poll` while the
//! machine runs, `stopped` once every CPU is held.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod arch;
mod description;
mod framer;
mod line;
pub mod machine;
pub mod registers;

pub use machine::{CpuIndex, Machine, SerialPort, StopKind, StopReason};
pub use registers::Registers;
