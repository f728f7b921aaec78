//! Extended page tables (EPT).

use crate::addr::{Gpa, Hpa, PageSize, PhysRange};
use crate::mtrr::{MemoryType, Mtrrs};

/// Where tables come from, and how their entries are reached.
pub trait TableMemory {
    /// A table of 512 zero entries, 4 KiB aligned; `None` when there is no more.
    fn allocate(&mut self) -> Option<Hpa>;
    /// Reads an entry; `index` is below 512.
    fn read(&self, table: Hpa, index: usize) -> u64;
    /// Writes an entry, whole, at once; `index` is below 512.
    fn write(&mut self, table: Hpa, index: usize, entry: u64);
}

bitflags::bitflags! {
    /// What may be done with a page.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Permissions: u64 {
        /// Bit 0: read.
        const READ = 1 << 0;
        /// Bit 1: write.
        const WRITE = 1 << 1;
        /// Bit 2: fetch instructions.
        const EXECUTE = 1 << 2;
    }
}

/// What the identity map is made from.
#[derive(Debug, Clone, Copy)]
pub struct IdentityPlan<'a> {
    /// Memory types.
    pub mtrrs: &'a Mtrrs,
    /// What the guest must not reach: whole 2 MiB pages.
    pub hole: PhysRange,
    /// A page of zeros.
    pub zero_page: Hpa,
    /// First address that is not mapped; see [`default_limit`].
    pub limit: u64,
    /// IA32_VMX_EPT_VPID_CAP[17]: 1 GiB pages.
    pub pages_1g: bool,
    /// IA32_VMX_EPT_VPID_CAP[16]: 2 MiB pages.
    pub pages_2m: bool,
}

/// The guest's map.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdentityMap {
    /// Root of the map in which the hole is not present.
    pub root: Hpa,
    /// Root of the map in which every page of the hole is the zero page, read
    /// and execute. It shares every table that is not on the way to the hole.
    pub zero_root: Hpa,
    /// First address that is not mapped.
    pub limit: u64,
    /// Tables that both take together.
    pub tables: usize,
}

/// Why the tables could not be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EptError {
    /// [`TableMemory`] has no more.
    OutOfTables,
    /// The hole isn't whole 2 MiB pages, or is not below the limit.
    BadHole,
    /// The address is not aligned, or lies in no map.
    BadAddress(Gpa),
}

/// A translation that the tables hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// The page's host-physical address.
    pub hpa: Hpa,
    /// The page's size.
    pub size: PageSize,
    /// What may be done.
    pub permissions: Permissions,
    /// The memory type.
    pub memory_type: MemoryType,
}

/// How far the identity map reaches: all of physical memory, but not past 512 GiB.
pub fn default_limit(_max_phys_addr: u8, _pages_1g: bool, _end_of_ram: u64) -> u64 {
    todo!()
}

/// The EPT pointer for a root: write-back tables, four levels, no accessed and dirty flags.
pub const fn eptp(_root: Hpa) -> u64 {
    todo!()
}

impl IdentityMap {
    /// Builds both maps.
    pub fn build(
        _memory: &mut impl TableMemory,
        _plan: &IdentityPlan<'_>,
    ) -> Result<Self, EptError> {
        todo!()
    }

    /// Maps, in both maps, the page (as large as may be) that holds an address past the limit.
    pub fn map_on_demand(
        &mut self,
        _memory: &mut impl TableMemory,
        _plan: &IdentityPlan<'_>,
        _gpa: Gpa,
    ) -> Result<Leaf, EptError> {
        todo!()
    }

    /// Gives every page the memory type that changed MTRRs ask for.
    pub fn set_memory_types(
        &mut self,
        _memory: &mut impl TableMemory,
        _plan: &IdentityPlan<'_>,
    ) -> Result<(), EptError> {
        todo!()
    }

    /// Sets, in both maps, one 4 KiB page's permissions and target, splitting larger pages. INVEPT is the caller's.
    pub fn set_page(
        &mut self,
        _memory: &mut impl TableMemory,
        _gpa: Gpa,
        _hpa: Hpa,
        _permissions: Permissions,
    ) -> Result<(), EptError> {
        todo!()
    }
}

/// What the tables under a root say of an address.
pub fn lookup(_memory: &impl TableMemory, _root: Hpa, _gpa: Gpa) -> Option<Leaf> {
    todo!()
}
