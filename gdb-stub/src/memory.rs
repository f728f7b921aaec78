//! Memory as the client should see it: the guest's, with no breakpoint of ours in it, and
//! without what is closed to it.

use crate::machine::{CpuActivity, CpuIndex, Machine, MachineError};
use crate::target::Debug;

/// Smallest page: translations hold within one.
const PAGE: u64 = 4096;

/// The parts of `length` bytes from `address` that lie in one page each, as (offset,
/// address, length).
pub fn pages(address: u64, length: usize) -> impl Iterator<Item = (usize, u64, usize)> {
    let mut done = 0;
    core::iter::from_fn(move || {
        if done >= length {
            return None;
        }
        let start = address.wrapping_add(done as u64);
        // At most a page, so it fits.
        let room = (PAGE - start % PAGE) as usize;
        let part = (done, start, room.min(length - done));
        done += part.2;
        Some(part)
    })
}

/// The guest physical address of `gva` on `cpu`.
///
/// None on a CPU that was stopped in the hypervisor: the addresses that the client
/// names there are the hypervisor's, and no breakpoint of ours is among them.
pub fn translate<M: Machine>(
    machine: &mut M,
    cpu: CpuIndex,
    gva: u64,
) -> Result<u64, MachineError> {
    match machine.activity(cpu) {
        CpuActivity::Hypervisor { .. } => Err(MachineError::BadAddress),
        _ => machine.translate(cpu, gva),
    }
}

/// Reads through the paging of `cpu`; how many bytes until the first that cannot be.
pub fn read_virtual<M: Machine>(
    machine: &mut M,
    debug: &Debug,
    cpu: CpuIndex,
    gva: u64,
    data: &mut [u8],
) -> Result<usize, MachineError> {
    let open = debug
        .pal_lock
        .open_virtual_part(machine, cpu, gva, data.len())?;
    let data = data.get_mut(..open).unwrap_or_default();
    let done = machine.read_virtual(cpu, gva, data)?.min(open);
    let breakpoints = &debug.software;
    if !breakpoints.is_empty() {
        for (offset, start, length) in pages(gva, done) {
            if let Ok(gpa) = translate(machine, cpu, start)
                && let Some(part) = data.get_mut(offset..offset + length)
            {
                breakpoints.mask(gpa, part);
            }
        }
    }
    Ok(done)
}

/// Writes through the paging of `cpu`, under the breakpoints; how many bytes until the
/// first that cannot be.
pub fn write_virtual<M: Machine>(
    machine: &mut M,
    debug: &mut Debug,
    cpu: CpuIndex,
    gva: u64,
    data: &[u8],
) -> Result<usize, MachineError> {
    let open = debug
        .pal_lock
        .open_virtual_part(machine, cpu, gva, data.len())?;
    let data = data.get(..open).unwrap_or_default();
    let done = machine.write_virtual(cpu, gva, data)?.min(open);
    let breakpoints = &mut debug.software;
    if !breakpoints.is_empty() {
        for (offset, start, length) in pages(gva, done) {
            if let Ok(gpa) = translate(machine, cpu, start)
                && let Some(part) = data.get(offset..offset + length)
            {
                breakpoints.reapply(machine, gpa, part);
            }
        }
    }
    Ok(done)
}

/// Reads guest physical memory; how many bytes until the first that cannot be.
pub fn read_physical<M: Machine>(
    machine: &mut M,
    debug: &Debug,
    gpa: u64,
    data: &mut [u8],
) -> Result<usize, MachineError> {
    let open = debug.pal_lock.open_part(machine, gpa, data.len())?;
    let data = data.get_mut(..open).unwrap_or_default();
    let done = machine.read_physical(gpa, data)?.min(open);
    if let Some(part) = data.get_mut(..done) {
        debug.software.mask(gpa, part);
    }
    Ok(done)
}

/// Writes guest physical memory, under the breakpoints: all of `data`, or nothing.
pub fn write_physical<M: Machine>(
    machine: &mut M,
    debug: &mut Debug,
    gpa: u64,
    data: &[u8],
) -> Result<(), MachineError> {
    let mut done = 0;
    while done < data.len() {
        let at = gpa.wrapping_add(done as u64);
        done += debug.pal_lock.open_part(machine, at, data.len() - done)?;
    }
    machine.write_physical(gpa, data)?;
    debug.software.reapply(machine, gpa, data);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use super::*;

    #[test]
    fn a_stretch_is_cut_at_page_boundaries() {
        let parts: Vec<_> = pages(0x1ffe, 0x1004).collect();
        assert_eq!(
            parts,
            [(0, 0x1ffe, 2), (2, 0x2000, 0x1000), (0x1002, 0x3000, 2)]
        );
        assert_eq!(
            pages(u64::MAX, 2).collect::<Vec<_>>(),
            [(0, u64::MAX, 1), (1, 0, 1)]
        );
        assert_eq!(pages(0x1000, 0).count(), 0);
    }
}
