//! What the boot asks ACPI: which CPUs there are, and how the machine is reset.

use core::ptr::NonNull;

use acpi::address::AddressSpace;
use acpi::fadt::Fadt;
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

fn tables(rsdp: Option<usize>) -> Result<AcpiTables<DirectMap>, AcpiError> {
    // SAFETY: the address comes from GRUB, or the search is in the BIOS area.
    unsafe {
        match rsdp {
            Some(address) => AcpiTables::from_rsdp(DirectMap, address),
            None => AcpiTables::search_for_rsdp_bios(DirectMap),
        }
    }
    .map_err(|_| AcpiError::NoTables)
}

/// ACPI's reset register.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetRegister {
    /// There is none.
    None,
    /// A port, and the value that resets the machine.
    Port(u16, u8),
    /// It lies in memory or in PCI configuration space, where nothing watches it.
    Elsewhere,
}

/// The reset register (ACPI Specification 6.5, section 4.8.3.6, "Reset Register").
pub fn reset_register(rsdp: Option<usize>) -> ResetRegister {
    let Ok(tables) = tables(rsdp) else {
        return ResetRegister::None;
    };
    let Ok(fadt) = tables.find_table::<Fadt>() else {
        return ResetRegister::None;
    };
    // Revision 1 is too short to have one, and says so by its flags.
    let flags = fadt.flags;
    if !flags.supports_system_reset_via_fadt() {
        return ResetRegister::None;
    }
    match fadt.reset_register() {
        Ok(register) if register.address_space == AddressSpace::SystemIo => {
            u16::try_from(register.address).map_or(ResetRegister::Elsewhere, |port| {
                ResetRegister::Port(port, fadt.reset_value)
            })
        }
        _ => ResetRegister::Elsewhere,
    }
}

/// The APIC identifiers of all CPUs that may be started, this one's (`own`) first.
///
/// # Errors
/// [`AcpiError`]
pub fn apic_ids(rsdp: Option<usize>, own: u32) -> Result<Vec<u32, MAX_CPUS>, AcpiError> {
    let tables = tables(rsdp)?;
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
