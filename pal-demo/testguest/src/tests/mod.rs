//! The tests, a file a subject; suites.rs puts them together.

pub mod bench;
pub mod control;
pub mod cpuid;
pub mod debugger;
pub mod exceptions;
pub mod firmware;
pub mod hypercall;
pub mod memory;
pub mod modes;
pub mod msr;
pub mod nmi;
pub mod pal;
pub mod ports;
pub mod registers;
pub mod reset;
pub mod smp;
pub mod state;
pub mod step;
pub mod storm;
pub mod tables;
pub mod task_switch;
pub mod translation;
pub mod vmx;

use core::fmt::Display;

use crate::harness::{Failure, Outcome};
use crate::trap::{Trap, vector};

/// Checks that `result` is a trap with this vector and error code.
fn expect_trap<R>(
    what: impl Display,
    result: Result<R, Trap>,
    vector: u8,
    error: u64,
) -> Result<Trap, Failure> {
    match result {
        Ok(_) => Err(Failure::new(format_args!("{what}: no exception"))),
        Err(trap) if trap.vector() == vector && trap.frame.error == error => Ok(trap),
        Err(trap) => Err(Failure::new(format_args!(
            "{what}: {trap}, expected vector {vector} error {error:#x}"
        ))),
    }
}

/// Checks that `result` is #GP(0).
fn expect_gp<R>(what: impl Display, result: Result<R, Trap>) -> Outcome {
    expect_trap(what, result, vector::GP, 0).map(drop)
}

/// Checks that `result` is #UD.
fn expect_ud<R>(what: impl Display, result: Result<R, Trap>) -> Outcome {
    expect_trap(what, result, vector::UD, 0).map(drop)
}

/// Checks that nothing trapped.
fn expect_ok<R>(what: impl Display, result: Result<R, Trap>) -> Result<R, Failure> {
    result.map_err(|trap| Failure::new(format_args!("{what}: {trap}")))
}
