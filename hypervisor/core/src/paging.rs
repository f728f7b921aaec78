//! Guest paging: what a guest-virtual address means.

use crate::addr::{Gpa, Gva, PageSize};

/// The guest's physical memory.
pub trait PhysMem {
    /// Reads; the bytes may lie in several pages.
    fn read(&mut self, address: Gpa, into: &mut [u8]) -> Result<(), PhysMemError>;
    /// Writes; the bytes may lie in several pages.
    fn write(&mut self, address: Gpa, from: &[u8]) -> Result<(), PhysMemError>;
}

/// No memory that may be touched is at this address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PhysMemError(pub Gpa);

/// The registers that decide how an address is translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PagingRegs {
    /// CR0.
    pub cr0: u64,
    /// CR3.
    pub cr3: u64,
    /// CR4.
    pub cr4: u64,
    /// IA32_EFER.
    pub efer: u64,
    /// The PDPTE registers of PAE paging; `None` = read them from memory.
    pub pdptes: Option<[u64; 4]>,
    /// RFLAGS (AC counts, for SMAP).
    pub rflags: u64,
    /// Physical-address width in bits: CPUID.80000008H:EAX[7:0].
    pub max_phys_addr: u8,
    /// CPUID.80000001H:EDX.Page1GB[bit 26].
    pub pages_1g: bool,
    /// PKRU; `None` where protection keys are not looked at.
    pub pkru: Option<u32>,
}

/// What is done at the address.
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
    /// CPL 3.
    User,
    /// CPL below 3, explicit.
    Supervisor,
    /// Implicit supervisor access: descriptor tables, the TSS.
    Implicit,
    /// The debugger: what is mapped may be touched, whatever the permissions.
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
    /// May user mode touch the page?
    pub user: bool,
    /// May it be written, permissions of every level taken together?
    pub writable: bool,
    /// May instructions be fetched from it?
    pub executable: bool,
}

/// Why there is no translation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WalkError {
    /// A page fault with this error code.
    PageFault {
        /// The error code that #PF would push.
        code: u32,
        /// CR2.
        gva: Gva,
    },
    /// The address is not canonical: #GP, or #SS through SS.
    NonCanonical(Gva),
    /// A paging structure lies where there is no memory.
    TableUnreadable(Gpa),
    /// The page is mapped to where there is no memory.
    Memory(Gpa),
}

/// Translates one address. Accessed and dirty flags are left as they are.
pub fn walk(
    _mem: &mut impl PhysMem,
    _regs: &PagingRegs,
    _gva: Gva,
    _access: Access,
) -> Result<Translation, WalkError> {
    todo!()
}

/// A copy that stopped: how far it came, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partial {
    /// Bytes that were copied.
    pub done: usize,
    /// What stopped it.
    pub error: WalkError,
}

/// Reads guest-virtual memory, each page translated by itself.
pub fn read_virtual(
    _mem: &mut impl PhysMem,
    _regs: &PagingRegs,
    _gva: Gva,
    _into: &mut [u8],
    _mode: AccessMode,
) -> Result<(), Partial> {
    todo!()
}

/// Writes guest-virtual memory, each page translated by itself. Every page
/// is translated before the first byte is written.
pub fn write_virtual(
    _mem: &mut impl PhysMem,
    _regs: &PagingRegs,
    _gva: Gva,
    _from: &[u8],
    _mode: AccessMode,
) -> Result<(), Partial> {
    todo!()
}
