//! The GDB remote stub over a `Machine` trait.
//!
//! The hypervisor keeps one [`Session`] and calls it at two points: `poll` while the
//! machine runs, `stopped` once every CPU is held.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

mod activity;
mod answer;
mod arch;
mod breakpoints;
mod description;
mod exchange;
mod framer;
mod line;
pub mod machine;
mod memory;
mod monitor;
mod pal_lock;
pub mod registers;
mod requests;
mod session;
mod stepping;
mod stop_reply;
mod target;

pub use machine::{CpuIndex, Machine, SerialPort, StopKind, StopReason};
pub use registers::Registers;
pub use session::{Int3Owner, Poll, Resume, Session};
