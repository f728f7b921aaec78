//! Memory as the stub sees it: a CPU's guest-virtual memory, guest-physical
//! memory, or the hypervisor's own for a CPU that failed in it.

use super::metal::{self, Metal, is_parked};
use super::{host, probe};
use crate::memory::guest::{self, GuestMemory};
use crate::memory::layout;
use crate::vmx::guest_state;
use gdb_stub::machine::{CpuIndex, MachineError, Memory};
use stillpoint_core::addr::{Gpa, Gva};
use stillpoint_core::paging::{self, Access, AccessKind, AccessMode, PagingRegs, Partial, PhysMem};

fn paging_of(cpu: CpuIndex) -> Result<PagingRegs, MachineError> {
    let target = metal::per_cpu(cpu)?;
    if is_parked(target) {
        return Ok(guest_state::paging_of(&mut target.published.vmcs()));
    }
    let mut registers = PagingRegs::default();
    metal::on(cpu, &mut |_| registers = guest_state::paging())?;
    Ok(registers)
}

fn translate(registers: &PagingRegs, gva: u64) -> Result<u64, MachineError> {
    let access = Access {
        kind: AccessKind::Read,
        mode: AccessMode::Debugger,
    };
    paging::walk(&mut GuestMemory, registers, Gva::new(gva), access)
        .map(|translation| translation.gpa.as_u64())
        .map_err(|_| MachineError::BadAddress)
}

/// Translates by the paging of the CPU that runs this.
pub fn translate_here(gva: u64) -> Result<u64, MachineError> {
    translate(&guest_state::paging(), gva)
}

fn stopped_in_hypervisor(cpu: CpuIndex) -> bool {
    host::stopped().is_some_and(|stopped| stopped.cpu == cpu.as_usize())
}

/// Bytes done, none being an error.
fn done(result: Result<(), Partial>, len: usize) -> Result<usize, MachineError> {
    match result {
        Ok(()) => Ok(len),
        Err(partial) => at_least_one(partial.done),
    }
}

fn at_least_one(done: usize) -> Result<usize, MachineError> {
    if done == 0 {
        Err(MachineError::BadAddress)
    } else {
        Ok(done)
    }
}

impl Memory for Metal {
    fn read_virtual(
        &mut self,
        cpu: CpuIndex,
        gva: u64,
        data: &mut [u8],
    ) -> Result<usize, MachineError> {
        if stopped_in_hypervisor(cpu) {
            return at_least_one(probe::read(gva, data));
        }
        let registers = paging_of(cpu)?;
        let len = data.len();
        let mode = AccessMode::Debugger;
        done(
            paging::read_virtual(&mut GuestMemory, &registers, Gva::new(gva), data, mode),
            len,
        )
    }

    fn write_virtual(
        &mut self,
        cpu: CpuIndex,
        gva: u64,
        data: &[u8],
    ) -> Result<usize, MachineError> {
        if stopped_in_hypervisor(cpu) {
            return at_least_one(probe::write(gva, data));
        }
        let registers = paging_of(cpu)?;
        let mode = AccessMode::Debugger;
        done(
            paging::write_virtual(&mut GuestMemory, &registers, Gva::new(gva), data, mode),
            data.len(),
        )
    }

    fn translate(&mut self, cpu: CpuIndex, gva: u64) -> Result<u64, MachineError> {
        if stopped_in_hypervisor(cpu) {
            let hpa = layout::behind_direct(gva).ok_or(MachineError::BadAddress)?;
            return Ok(hpa.as_u64());
        }
        translate(&paging_of(cpu)?, gva)
    }

    fn read_physical(&mut self, gpa: u64, data: &mut [u8]) -> Result<usize, MachineError> {
        GuestMemory
            .read(Gpa::new(gpa), data)
            .map_err(|_| MachineError::BadAddress)?;
        Ok(data.len())
    }

    fn write_physical(&mut self, gpa: u64, data: &[u8]) -> Result<(), MachineError> {
        guest::write(Gpa::new(gpa), data).map_err(|_| MachineError::BadAddress)
    }
}
