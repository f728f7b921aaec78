//! The walk through the guest's paging structures.

use super::rights::{self, Rights};
use super::{
    Access, PagingMode, PagingRegs, PhysMem, PhysMemError, Translation, WalkError, error_code,
};
use crate::addr::{Gpa, Gva, PageSize};
use crate::control_regs::{CR4_PSE, EFER_NXE};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
/// PS: the entry maps a page.
const PAGE: u64 = 1 << 7;
/// XD.
const EXECUTE_DISABLE: u64 = 1 << 63;

/// Why the PDPTE registers of PAE paging cannot be loaded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PdpteError {
    /// A present one has reserved bits set: #GP(0).
    Reserved,
    /// They lie where there is no memory.
    Unreadable(Gpa),
}

/// Reads the four PDPTEs that a move to CR0, CR3 or CR4 loads under PAE paging.
///
/// Source: Intel SDM, vol. 3, section 4.4.1, "PDPTE Registers".
///
/// # Errors
/// [`PdpteError`], for the first that is wrong.
pub fn load_pdptes(
    mem: &mut impl PhysMem,
    cr3: u64,
    max_phys_addr: u8,
) -> Result<[u64; 4], PdpteError> {
    let table = Gpa::new(cr3 & 0xffff_ffe0);
    let mut bytes = [0; 32];
    mem.read(table, &mut bytes)
        .map_err(|PhysMemError(gpa)| PdpteError::Unreadable(gpa))?;
    let mut pdptes = [0; 4];
    for (pdpte, bytes) in pdptes.iter_mut().zip(bytes.as_chunks().0) {
        *pdpte = u64::from_le_bytes(*bytes);
        if *pdpte & PRESENT != 0 && *pdpte & pdpte_reserved(max_phys_addr) != 0 {
            return Err(PdpteError::Reserved);
        }
    }
    Ok(pdptes)
}

/// Bits 2:1, 8:5 and those past the physical-address width.
const fn pdpte_reserved(max_phys_addr: u8) -> u64 {
    0x1e6 | !0 << clamp_width(max_phys_addr)
}

const fn clamp_width(max_phys_addr: u8) -> u32 {
    match max_phys_addr {
        0..32 => 32,
        32..=52 => max_phys_addr as u32,
        _ => 52,
    }
}

/// Translates one address for an access. Accessed and dirty flags are left as
/// they are.
///
/// # Errors
/// [`WalkError`], other than [`WalkError::NoMemory`].
pub fn walk(
    mem: &mut impl PhysMem,
    regs: &PagingRegs,
    gva: Gva,
    access: Access,
) -> Result<Translation, WalkError> {
    if !regs.is_addressable(gva) {
        return Err(WalkError::NonCanonical(gva));
    }
    let page_fault = |bits| WalkError::PageFault {
        code: bits | rights::access_bits(regs, access),
        gva,
    };
    let found = match regs.mode() {
        PagingMode::Off => {
            return Ok(Translation {
                gpa: Gpa::new(gva.as_u64()),
                size: None,
                user: true,
                writable: true,
                executable: true,
            });
        }
        PagingMode::Bits32 => walk_32_bit(mem, regs, gva),
        PagingMode::Pae | PagingMode::Level4 | PagingMode::Level5 => walk_64_bit(mem, regs, gva),
    };
    let (address, size, rights) = found.map_err(|stop| match stop {
        Stop::NotPresent => page_fault(0),
        Stop::Reserved => page_fault(error_code::PRESENT | error_code::RESERVED),
        Stop::Unreadable(gpa) => WalkError::TableUnreadable(gpa),
    })?;
    rights::check(regs, rights, access).map_err(|code| WalkError::PageFault { code, gva })?;
    let offset = gva.as_u64() & (size.bytes() - 1);
    Ok(Translation {
        gpa: Gpa::new(address + offset),
        size: Some(size),
        user: rights.user,
        writable: rights.writable,
        executable: rights.executable,
    })
}

/// Why a walk ends before a page.
enum Stop {
    NotPresent,
    Reserved,
    Unreadable(Gpa),
}

impl From<PhysMemError> for Stop {
    fn from(PhysMemError(gpa): PhysMemError) -> Self {
        Self::Unreadable(gpa)
    }
}

/// The page's address and size, and what its entries allow.
type Found = (u64, PageSize, Rights);

/// Source: Intel SDM, vol. 3, section 4.3, "32-Bit Paging".
fn walk_32_bit(mem: &mut impl PhysMem, regs: &PagingRegs, gva: Gva) -> Result<Found, Stop> {
    let mut read = |table: u64, index: u64| -> Result<u64, Stop> {
        let mut bytes = [0; 4];
        mem.read(Gpa::new(table + 4 * index), &mut bytes)?;
        Ok(u32::from_le_bytes(bytes).into())
    };
    let gva = gva.as_u64();
    let directory_entry = read(regs.cr3 & 0xffff_f000, gva >> 22)?;
    if directory_entry & PRESENT == 0 {
        return Err(Stop::NotPresent);
    }
    let rights = |all: u64| Rights {
        user: all & USER != 0,
        writable: all & WRITABLE != 0,
        executable: true,
        key: 0,
    };
    if directory_entry & PAGE != 0 && regs.cr4 & CR4_PSE != 0 {
        // PSE-36: bits 20:13 are address bits 39:32, as far as the processor
        // has them, and the rest of bits 21:13 is reserved.
        let high_bits = clamp_width(regs.max_phys_addr).min(40) - 32;
        let high_mask = (1 << high_bits) - 1;
        let high = (directory_entry >> 13) & 0x1ff;
        if high & !high_mask != 0 {
            return Err(Stop::Reserved);
        }
        let address = (high << 32) | (directory_entry & 0xffc0_0000);
        return Ok((address, PageSize::Size4M, rights(directory_entry)));
    }
    let entry = read(directory_entry & 0xffff_f000, (gva >> 12) & 0x3ff)?;
    if entry & PRESENT == 0 {
        return Err(Stop::NotPresent);
    }
    let address = entry & 0xffff_f000;
    Ok((address, PageSize::Size4K, rights(directory_entry & entry)))
}

/// PAE, 4-level and 5-level paging: the same entries, from different levels.
///
/// Source: Intel SDM, vol. 3, section 4.4, "PAE Paging", and section 4.5, "4-Level
/// Paging and 5-Level Paging".
fn walk_64_bit(mem: &mut impl PhysMem, regs: &PagingRegs, gva: Gva) -> Result<Found, Stop> {
    let width = clamp_width(regs.max_phys_addr);
    let address_mask = ((1u64 << width) - 1) & !0xfff;
    let mut reserved = ((1u64 << 52) - 1) & !((1 << width) - 1);
    if regs.efer & EFER_NXE == 0 {
        reserved |= EXECUTE_DISABLE;
    }

    let (mut table, mut shift) = match regs.mode() {
        PagingMode::Level5 => (regs.cr3 & address_mask, 48),
        PagingMode::Level4 => (regs.cr3 & address_mask, 39),
        _ => {
            // Here bits 62:52, too, are reserved.
            reserved |= 0x7ff << 52;
            let pdpte = pdpte(mem, regs, gva)?;
            (pdpte & address_mask, 21)
        }
    };
    // What all entries have, and what any has.
    let (mut all, mut any) = (!0, 0);
    loop {
        let index = (gva.as_u64() >> shift) & 0x1ff;
        let mut bytes = [0; 8];
        mem.read(Gpa::new(table + 8 * index), &mut bytes)?;
        let entry = u64::from_le_bytes(bytes);
        if entry & PRESENT == 0 {
            return Err(Stop::NotPresent);
        }
        let size = match shift {
            12 => Some(PageSize::Size4K),
            21 if entry & PAGE != 0 => Some(PageSize::Size2M),
            30 if entry & PAGE != 0 && regs.pages_1g => Some(PageSize::Size1G),
            _ if entry & PAGE != 0 => return Err(Stop::Reserved),
            _ => None,
        };
        // A large page's low address bits, but for the PAT bit 12.
        let reserved_in_page = size.map_or(0, |size| (size.bytes() - 1) & !0x1fff);
        if entry & (reserved | reserved_in_page) != 0 {
            return Err(Stop::Reserved);
        }
        all &= entry;
        any |= entry;
        let Some(size) = size else {
            table = entry & address_mask;
            shift -= 9;
            continue;
        };
        let rights = Rights {
            user: all & USER != 0,
            writable: all & WRITABLE != 0,
            executable: any & EXECUTE_DISABLE == 0,
            key: (entry >> 59) as u8 & 15,
        };
        let address = entry & address_mask & !(size.bytes() - 1);
        return Ok((address, size, rights));
    }
}

/// PAE paging's first level: a register, or what would be loaded into it.
fn pdpte(mem: &mut impl PhysMem, regs: &PagingRegs, gva: Gva) -> Result<u64, Stop> {
    let pdptes = match regs.pdptes {
        Some(pdptes) => pdptes,
        None => load_pdptes(mem, regs.cr3, regs.max_phys_addr).map_err(|error| match error {
            PdpteError::Reserved => Stop::Reserved,
            PdpteError::Unreadable(gpa) => Stop::Unreadable(gpa),
        })?,
    };
    let pdpte = pdptes[(gva.as_u64() >> 30) as usize & 3];
    if pdpte & PRESENT == 0 {
        return Err(Stop::NotPresent);
    }
    Ok(pdpte)
}
