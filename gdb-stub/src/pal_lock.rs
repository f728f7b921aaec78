//! The memory of the guest's isolated programs (PALs) is closed to the client until it
//! asks for it by name, so that nobody reads a secret by accident.
//!
//! Asked by [`memory`](crate::memory) and by the software breakpoints before each access
//! that the client wants; opened and closed by `monitor pal`.

use crate::machine::{CpuIndex, Machine, MachineError};
use crate::memory::pages;

/// Whether the client may see and change the memory of PALs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PalLock {
    /// It may not.
    Locked,
    /// It may: `monitor pal unlock`, until it locks again or leaves.
    Unlocked,
}

impl PalLock {
    /// How many of the `length` bytes from guest physical address `gpa` come before the
    /// first that is closed. None of them is an error.
    ///
    /// # Errors
    /// [`MachineError::PalLocked`]
    pub fn open_part<M: Machine>(
        self,
        machine: &mut M,
        gpa: u64,
        length: usize,
    ) -> Result<usize, MachineError> {
        self.open_pages(machine, gpa, length, |_, page| Some(page))
    }

    /// The same for virtual addresses on `cpu`. What does not translate counts as open:
    /// there is nothing to see.
    ///
    /// # Errors
    /// [`MachineError::PalLocked`]
    pub fn open_virtual_part<M: Machine>(
        self,
        machine: &mut M,
        cpu: CpuIndex,
        gva: u64,
        length: usize,
    ) -> Result<usize, MachineError> {
        self.open_pages(machine, gva, length, |machine, page| {
            machine.translate(cpu, page).ok()
        })
    }

    fn open_pages<M: Machine>(
        self,
        machine: &mut M,
        address: u64,
        length: usize,
        translate: impl Fn(&mut M, u64) -> Option<u64>,
    ) -> Result<usize, MachineError> {
        if self == Self::Unlocked || machine.pal_slots() == 0 {
            return Ok(length);
        }
        for (offset, page, _) in pages(address, length) {
            let Some(gpa) = translate(machine, page) else {
                continue;
            };
            match machine.page_owner(gpa).pal() {
                Some(id) if offset == 0 => return Err(MachineError::PalLocked(id)),
                Some(_) => return Ok(offset),
                None => {}
            }
        }
        Ok(length)
    }
}
