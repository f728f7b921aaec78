//! The guest's isolated programs (PALs), as the debugger asks for them. No command
//! makes one yet.

use gdb_stub::machine::{MachineError, PageOwner, PalInfo, Pals};

use super::metal::Metal;
use crate::cpu::percpu::PerCpu;
use crate::vmx::ept;

/// The number of the PAL that the guest of `cpu` is inside.
pub fn pal_on(_cpu: &PerCpu) -> Option<u32> {
    None
}

impl Pals for Metal {
    fn pal_slots(&self) -> u32 {
        0
    }

    fn pal(&mut self, _id: u32) -> Option<PalInfo> {
        None
    }

    fn page_owner(&mut self, gpa: u64) -> PageOwner {
        if ept::is_hypervisors(gpa) {
            PageOwner::Hypervisor
        } else {
            PageOwner::Guest
        }
    }

    fn kill_pal(&mut self, _id: u32) -> Result<(), MachineError> {
        Err(MachineError::Unavailable)
    }
}
