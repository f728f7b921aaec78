//! One human line on what a CPU is doing, and one on why the machine stopped.
//!
//! Used for GDB's thread list and by the monitor commands.

use core::fmt::{self, Write};

use crate::machine::{CpuActivity, CpuIndex, Machine, StopKind, StopReason};

/// Writes what `cpu` was doing when the machine stopped.
pub fn write_activity<M: Machine>(machine: &M, cpu: CpuIndex, out: &mut dyn Write) -> fmt::Result {
    match machine.activity(cpu) {
        CpuActivity::Guest { mode, cpl } => write!(out, "guest {mode} CPL {cpl}"),
        CpuActivity::Halted => out.write_str("guest halted"),
        CpuActivity::Shutdown => out.write_str("guest shutdown"),
        CpuActivity::WaitForSipi => out.write_str("wait-for-SIPI"),
        CpuActivity::Hypervisor { rip } => {
            out.write_str("in hypervisor at ")?;
            machine.describe_address(rip, out)
        }
        CpuActivity::Pal { id, mode } => write!(out, "PAL {id} {mode}"),
    }
}

/// Writes why the machine is stopped.
pub fn write_stop<M: Machine>(machine: &M, stop: StopReason, out: &mut dyn Write) -> fmt::Result {
    write!(out, "CPU {}: ", stop.cpu)?;
    match stop.kind {
        StopKind::DebugLine => out.write_str("stopped from the debug line"),
        StopKind::Step => out.write_str("stepped"),
        StopKind::SoftwareBreakpoint => out.write_str("breakpoint"),
        StopKind::HardwareBreakpoint(slot) => write!(out, "hardware breakpoint in DR{slot}"),
        StopKind::Watchpoint(slot) => write!(out, "watchpoint in DR{slot}"),
        StopKind::Wait => out.write_str("before the guest's first instruction (option wait)"),
        StopKind::HostFault {
            vector,
            error,
            rip,
            cr2,
        } => {
            write!(
                out,
                "exception {vector} in the hypervisor, error code {error:#x}, at "
            )?;
            machine.describe_address(rip, out)?;
            if vector == 14 {
                write!(out, ", address {cr2:#x}")
            } else {
                Ok(())
            }
        }
        StopKind::HostPanic => out.write_str("the hypervisor panicked; `monitor log` says why"),
        StopKind::EntryFailure => {
            out.write_str("VM entry failed; `monitor vmcs check` names the rule")
        }
        StopKind::UnknownExit(reason) => {
            write!(
                out,
                "VM exit with basic reason {reason}, which nothing handles"
            )
        }
    }
}
