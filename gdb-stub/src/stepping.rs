//! Executing instructions one by one while every other CPU holds.
//!
//! Called by [`Session`](crate::Session) for `vCont;s` and `vCont;r`. What the client
//! asked other CPUs to do meanwhile is not done: they hold, so that a step shows one
//! CPU's next instruction and nothing else.

use crate::breakpoints::software::read_byte;
use crate::line::Line;
use crate::machine::{CpuIndex, Machine, MachineError, SerialPort, StepEnd, StopKind};
use crate::registers::Registers;
use crate::target::Debug;

/// How a step or a range of steps ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SteppingEnd {
    /// The CPU stopped for this reason.
    Stopped(StopKind),
    /// The client pressed Ctrl-C, or a new one has come.
    Interrupted,
    /// The CPU cannot be stepped.
    Impossible(MachineError),
}

/// Steps `cpu` once or, with a range of linear addresses, until it has left the range
/// or has to stop in it.
pub fn run<M: Machine, S: SerialPort>(
    machine: &mut M,
    debug: &Debug,
    line: &mut Line<S>,
    cpu: CpuIndex,
    range: Option<(u64, u64)>,
) -> SteppingEnd {
    loop {
        let rip = match linear_rip(machine, cpu) {
            Ok(rip) => rip,
            Err(error) => return SteppingEnd::Impossible(error),
        };
        let here = machine.translate(cpu, rip).ok();
        let stepped = debug
            .software
            .without(machine, here, |machine| machine.step(cpu));
        match stepped {
            Err(error) => return SteppingEnd::Impossible(error),
            Ok(StepEnd::Watchpoint(slot)) => {
                return SteppingEnd::Stopped(StopKind::Watchpoint(slot));
            }
            Ok(StepEnd::Stopped(kind)) => return SteppingEnd::Stopped(kind),
            Ok(StepEnd::Done) => {}
        }
        let Some((start, end)) = range else {
            return SteppingEnd::Stopped(StopKind::Step);
        };
        match linear_rip(machine, cpu) {
            Ok(rip) if !(start..end).contains(&rip) => {
                return SteppingEnd::Stopped(StopKind::Step);
            }
            Ok(rip) => {
                if let Some(kind) = breakpoint_at(machine, debug, cpu, rip) {
                    return SteppingEnd::Stopped(kind);
                }
            }
            Err(error) => return SteppingEnd::Impossible(error),
        }
        if line.wants_attention() {
            return SteppingEnd::Interrupted;
        }
    }
}

/// Which breakpoint would stop `cpu` before the instruction at `rip`.
fn breakpoint_at<M: Machine>(
    machine: &mut M,
    debug: &Debug,
    cpu: CpuIndex,
    rip: u64,
) -> Option<StopKind> {
    if let Some((slot, _)) = debug.hardware.executing_at(rip) {
        return Some(StopKind::HardwareBreakpoint(slot));
    }
    if debug.software.is_empty() {
        return None;
    }
    let gpa = machine.translate(cpu, rip).ok()?;
    debug.software.original_at(gpa)?;
    // Not if the guest has put something else there.
    (read_byte(machine, gpa) == Ok(crate::breakpoints::software::INT3))
        .then_some(StopKind::SoftwareBreakpoint)
}

/// Where `cpu` is.
fn linear_rip<M: Machine>(machine: &mut M, cpu: CpuIndex) -> Result<u64, MachineError> {
    let mut registers = Registers::default();
    machine.read_registers(cpu, &mut registers)?;
    Ok(registers.linear_rip())
}
