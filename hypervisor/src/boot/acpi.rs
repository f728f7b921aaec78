//! Which CPUs there are: ACPI's multiple APIC description table.

use core::ptr::NonNull;

use acpi::madt::{Madt, MadtEntry};
use acpi::{AcpiHandler, AcpiTables, PhysicalMapping};
use heapless::Vec;
use stillpoint_core::addr::Hpa;

use crate::cpu::percpu::MAX_CPUS;
use crate::memory::layout;

#[derive(Clone)]
struct DirectMap;

impl AcpiHandler for DirectMap {
    unsafe fn map_physical_region<T>(
        &self,
        physical_address: usize,
        size: usize,
    ) -> PhysicalMapping<Self, T> {
        let address = layout::direct(Hpa::new(physical_address as u64)).cast();
        // SAFETY: firmware's tables lie below 4 GiB, all of which the direct map
        // covers; it never goes away.
        unsafe {
            let address = NonNull::new_unchecked(address);
            PhysicalMapping::new(physical_address, address, size, size, self.clone())
        }
    }

    fn unmap_physical_region<T>(_region: &PhysicalMapping<Self, T>) {}
}

/// Why the CPUs are not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcpiError {
    /// The tables are missing or broken.
    NoTables,
    /// There are more than [`MAX_CPUS`].
    TooManyCpus,
}

/// The APIC identifiers of all CPUs that may be started, this one's (`own`) first.
///
/// # Errors
/// [`AcpiError`]
pub fn apic_ids(rsdp: Option<usize>, own: u32) -> Result<Vec<u32, MAX_CPUS>, AcpiError> {
    // SAFETY: the address comes from GRUB, or the search is in the BIOS area.
    let tables = unsafe {
        match rsdp {
            Some(address) => AcpiTables::from_rsdp(DirectMap, address),
            None => AcpiTables::search_for_rsdp_bios(DirectMap),
        }
    }
    .map_err(|_| AcpiError::NoTables)?;
    let madt = tables
        .find_table::<Madt>()
        .map_err(|_| AcpiError::NoTables)?;
    let mut ids = Vec::new();
    ids.push(own).map_err(|_| AcpiError::TooManyCpus)?;
    for entry in madt.get().entries() {
        let (id, flags) = match entry {
            MadtEntry::LocalApic(entry) => (u32::from(entry.apic_id), entry.flags),
            MadtEntry::LocalX2Apic(entry) => (entry.x2apic_id, entry.flags),
            _ => continue,
        };
        if flags & 1 != 0 && !ids.contains(&id) {
            ids.push(id).map_err(|_| AcpiError::TooManyCpus)?;
        }
    }
    Ok(ids)
}
