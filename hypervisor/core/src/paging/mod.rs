//! Guest paging: what a guest-virtual address means.
//!
//! The debugger's memory commands come here, and every exit that follows a
//! guest's pointer. [`walk`] translates one address by the guest's own tables
//! and rules; [`read_virtual`] and [`write_virtual`] copy across pages. Memory
//! is reached through [`PhysMem`], which answers a bad address with an error:
//! nothing here can fault.
//!
//! Accessed and dirty flags are left as they are: looking must not change the
//! guest.
//!
//! Source: Intel SDM, vol. 3, chapter 4, "Paging".

mod copy;
mod rights;
#[cfg(test)]
mod tests;
mod walk;

pub use copy::{Partial, read_virtual, write_virtual};
pub use walk::{PdpteError, load_pdptes, walk};

use crate::addr::{Gpa, Gva, PageSize};
use crate::control_regs::{CR0_PG, CR4_LA57, CR4_PAE, EFER_LMA};

/// The guest's physical memory.
pub trait PhysMem {
    /// Reads; the bytes may lie in several pages.
    ///
    /// # Errors
    /// [`PhysMemError`], what has been read being undefined.
    fn read(&mut self, address: Gpa, into: &mut [u8]) -> Result<(), PhysMemError>;

    /// Writes; the bytes may lie in several pages.
    ///
    /// # Errors
    /// [`PhysMemError`]; a part may have been written.
    fn write(&mut self, address: Gpa, from: &[u8]) -> Result<(), PhysMemError>;
}

/// No memory that may be touched is at this address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhysMemError(pub Gpa);

/// The registers that decide how an address is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PagingRegs {
    /// CR0, as the guest sees it.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4, as the guest sees it.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// The PDPTE registers of PAE paging; `None` = read them from memory.
    pub pdptes: Option<[u64; 4]>,
    /// RFLAGS; AC counts, for SMAP.
    pub rflags: u64,
    /// Physical-address width in bits, CPUID.80000008H:EAX\[7:0\]; taken for
    /// 32 or 52 if it is outside of that.
    pub max_phys_addr: u8,
    /// CPUID.80000001H:EDX.Page1GB\[bit 26\].
    pub pages_1g: bool,
    /// PKRU, if the guest has CR4.PKE set; `None` = protection keys don't count.
    pub pkru: Option<u32>,
}

/// The kinds of paging.
///
/// Source: Intel SDM, vol. 3, section 4.1.1, "Four Paging Modes".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PagingMode {
    /// Off: a linear address is a physical address.
    Off,
    /// 32-bit paging.
    Bits32,
    /// PAE paging.
    Pae,
    /// 4-level paging.
    Level4,
    /// 5-level paging.
    Level5,
}

impl PagingRegs {
    /// The kind of paging that the registers turn on.
    pub const fn mode(&self) -> PagingMode {
        if self.cr0 & CR0_PG == 0 {
            PagingMode::Off
        } else if self.cr4 & CR4_PAE == 0 {
            PagingMode::Bits32
        } else if self.efer & EFER_LMA == 0 {
            PagingMode::Pae
        } else if self.cr4 & CR4_LA57 == 0 {
            PagingMode::Level4
        } else {
            PagingMode::Level5
        }
    }

    /// Is this an address that the guest can form? In IA-32e mode it must be
    /// canonical, elsewhere below 4 GiB.
    pub const fn is_addressable(&self, gva: Gva) -> bool {
        let width = match (self.efer & EFER_LMA != 0, self.cr4 & CR4_LA57 != 0) {
            (false, _) => return gva.as_u64() >> 32 == 0,
            (true, false) => 48,
            (true, true) => 57,
        };
        let unused = 64 - width;
        (gva.as_u64() << unused) as i64 >> unused == gva.as_u64() as i64
    }
}

/// What is done at an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessKind {
    /// Data read.
    Read,
    /// Data write.
    Write,
    /// Instruction fetch.
    Execute,
}

/// By whom it is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessMode {
    /// At CPL 3.
    User,
    /// At a CPL below 3, by an instruction's operand.
    Supervisor,
    /// By the processor itself, at any CPL: descriptor tables, the TSS.
    Implicit,
    /// By the debugger: what is mapped may be touched, whatever the permissions.
    Debugger,
}

/// An access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// What is done.
    pub kind: AccessKind,
    /// By whom.
    pub mode: AccessMode,
}

/// Where an address lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Translation {
    /// The guest-physical address.
    pub gpa: Gpa,
    /// The size of the page it is in; `None` with paging off.
    pub size: Option<PageSize>,
    /// U/S is 1 at every level: a user-mode address.
    pub user: bool,
    /// R/W is 1 at every level.
    pub writable: bool,
    /// XD is 0 at every level, or doesn't count.
    pub executable: bool,
}

/// Why there is no translation, or no access.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkError {
    /// #PF.
    PageFault {
        /// The error code that #PF would push.
        code: u32,
        /// The address, for CR2.
        gva: Gva,
    },
    /// The guest cannot form the address: see [`PagingRegs::is_addressable`].
    /// In IA-32e mode it is #GP, or #SS through SS.
    NonCanonical(Gva),
    /// A paging structure lies where there is no memory.
    TableUnreadable(Gpa),
    /// The page lies where there is no memory.
    NoMemory(Gpa),
}

/// Bits of a page fault's error code.
///
/// Source: Intel SDM, vol. 3, section 4.7, "Page-Fault Exceptions".
pub mod error_code {
    /// P: the page is there, and the access is not allowed.
    pub const PRESENT: u32 = 1 << 0;
    /// W/R: a write.
    pub const WRITE: u32 = 1 << 1;
    /// U/S: in user mode.
    pub const USER: u32 = 1 << 2;
    /// RSVD: a reserved bit is set.
    pub const RESERVED: u32 = 1 << 3;
    /// I/D: an instruction fetch.
    pub const FETCH: u32 = 1 << 4;
    /// PK: protection keys forbid it.
    pub const PROTECTION_KEY: u32 = 1 << 5;
}
