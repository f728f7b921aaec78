//! Extended page tables (EPT): the guest's view of physical memory.
//!
//! Guest-physical addresses are host-physical addresses, so that devices,
//! which know nothing of EPT, need no help. The one thing missing from the
//! view is the hypervisor's own memory. [`IdentityMap`] builds and changes
//! the tables; here is what an entry is, and how a translation is looked up.
//!
//! Tables are reached through [`TableMemory`]: the hypervisor implements it
//! over its memory, tests over a vector.
//!
//! Source: Intel SDM, vol. 3, section 29.3, "The Extended Page Table Mechanism (EPT)".

mod identity;
mod pal_view;
#[cfg(test)]
mod tests;

pub use identity::{IdentityMap, IdentityPlan, default_limit};
pub use pal_view::PalView;

use crate::addr::{Gpa, Hpa, PageSize};
use crate::mtrr::MemoryType;

/// Where tables come from, and how their entries are reached.
pub trait TableMemory {
    /// A table of 512 zero entries, 4 KiB aligned; `None` when there is no more.
    fn allocate(&mut self) -> Option<Hpa>;

    /// Reads an entry. `table` came from [`TableMemory::allocate`], `index` is
    /// below 512.
    fn read(&self, table: Hpa, index: usize) -> u64;

    /// Writes an entry, all 64 bits at once: other CPUs may be walking the
    /// table. `table` and `index` as for [`TableMemory::read`].
    fn write(&mut self, table: Hpa, index: usize, entry: u64);
}

bitflags::bitflags! {
    /// What may be done with a page.
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub struct Permissions: u64 {
        /// Bit 0: read.
        const READ = 1 << 0;
        /// Bit 1: write. Without `READ` it is an EPT misconfiguration.
        const WRITE = 1 << 1;
        /// Bit 2: fetch instructions. Without `READ` it takes
        /// IA32_VMX_EPT_VPID_CAP\[0\].
        const EXECUTE = 1 << 2;
    }
}

/// Why tables could not be built or changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EptError {
    /// [`TableMemory`] has no more.
    OutOfTables,
    /// The hole isn't whole 2 MiB pages, is empty, or does not lie below the limit.
    BadHole,
    /// The address isn't that of a 4 KiB page, the hypervisor's memory is there, or
    /// it is past what four levels of tables can translate, which is 48 bits.
    BadAddress(Gpa),
}

/// A translation that the tables hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// The page's host-physical address.
    pub hpa: Hpa,
    /// The page's size.
    pub size: PageSize,
    /// What may be done. Empty for a page that is mapped without permissions,
    /// which to the processor is not present.
    pub permissions: Permissions,
    /// The memory type.
    pub memory_type: MemoryType,
    /// Whose the page is: see [`Page::tag`].
    pub tag: u8,
}

/// What a 4 KiB page is to be: see [`IdentityMap::set_page`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Page {
    /// Where it leads.
    pub hpa: Hpa,
    /// What may be done with it.
    pub permissions: Permissions,
    /// A note of the hypervisor's, to which the processor pays no heed: whom the page
    /// is lent to. 0 to [`Page::MAX_TAG`], 0 for a page that is the guest's own.
    pub tag: u8,
}

impl Page {
    /// The highest tag.
    pub const MAX_TAG: u8 = 127;

    /// The guest's own page: it leads to itself, and all may be done with it.
    pub const fn own(gpa: Gpa) -> Self {
        Self {
            hpa: Hpa::new(gpa.as_u64()),
            permissions: Permissions::all(),
            tag: 0,
        }
    }
}

/// The EPT pointer for a root: write-back tables, four levels, no accessed and
/// dirty flags.
///
/// Source: Intel SDM, vol. 3, section 25.6.11, "Extended-Page-Table Pointer (EPTP)".
pub const fn eptp(root: Hpa) -> u64 {
    const FOUR_LEVELS: u64 = 3 << 3;
    root.as_u64() | FOUR_LEVELS | MemoryType::WriteBack as u64
}

/// What the tables under a root say of an address; `None` if they say nothing.
pub fn lookup(memory: &impl TableMemory, root: Hpa, gpa: Gpa) -> Option<Leaf> {
    let mut table = root;
    let mut level = Level::Pml4;
    loop {
        let entry = Entry(memory.read(table, level.index(gpa)));
        if !entry.is_used() {
            return None;
        }
        match (entry.is_leaf(level), level.below()) {
            (false, Some(below)) => {
                table = entry.address();
                level = below;
            }
            _ => return entry.leaf(level),
        }
    }
}

/// The page table that has an entry for an address; `None` where a larger page is mapped,
/// or nothing. It stays where it is until [`IdentityMap::join`].
pub fn page_table(memory: &impl TableMemory, root: Hpa, gpa: Gpa) -> Option<Hpa> {
    table_of(memory, root, Level::Pt, gpa)
}

/// The table of this level that has an entry for an address. Past 48 bits there is none,
/// and the indices of such an address are those of another.
fn table_of(memory: &impl TableMemory, root: Hpa, level: Level, gpa: Gpa) -> Option<Hpa> {
    if gpa.as_u64() >> ADDRESS_WIDTH != 0 {
        return None;
    }
    let (mut table, mut above) = (root, Level::Pml4);
    while above != level {
        let entry = Entry(memory.read(table, above.index(gpa)));
        if !entry.is_used() || entry.is_leaf(above) {
            return None;
        }
        table = entry.address();
        above = above.below()?;
    }
    Some(table)
}

/// The tag of a page, as [`lookup`] gives it, by its [`page_table`].
#[inline]
pub fn tag(memory: &impl TableMemory, page_table: Hpa, gpa: Gpa) -> u8 {
    Entry(memory.read(page_table, Level::Pt.index(gpa))).tag()
}

/// The 2 MiB that a page table maps, if all its pages are the guest's own.
pub fn own_region(memory: &impl TableMemory, page_table: Hpa) -> Option<Gpa> {
    let start = Entry(memory.read(page_table, 0)).address();
    let own = (0..512).all(|part| {
        let entry = Entry(memory.read(page_table, part));
        let address = start.as_u64() + part as u64 * Level::Pt.span();
        let page = Page::own(Gpa::new(address));
        entry == Entry::page(Level::Pt, page.hpa, page.permissions, entry.memory_type())
    });
    (own && start.as_u64().is_multiple_of(Level::Pd.span())).then(|| Gpa::new(start.as_u64()))
}

/// Bits of an address that four levels of tables translate.
const ADDRESS_WIDTH: u32 = 48;

/// The levels of the tables, by the SDM's names of what is at each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// PML4 table: an entry spans 512 GiB.
    Pml4,
    /// Page-directory-pointer table: 1 GiB.
    Pdpt,
    /// Page directory: 2 MiB.
    Pd,
    /// Page table: 4 KiB.
    Pt,
}

impl Level {
    const fn below(self) -> Option<Self> {
        match self {
            Self::Pml4 => Some(Self::Pdpt),
            Self::Pdpt => Some(Self::Pd),
            Self::Pd => Some(Self::Pt),
            Self::Pt => None,
        }
    }

    /// log2 of what an entry spans, in bytes.
    const fn shift(self) -> u32 {
        match self {
            Self::Pml4 => 39,
            Self::Pdpt => 30,
            Self::Pd => 21,
            Self::Pt => 12,
        }
    }

    const fn span(self) -> u64 {
        1 << self.shift()
    }

    const fn index(self, gpa: Gpa) -> usize {
        ((gpa.as_u64() >> self.shift()) & 511) as usize
    }

    /// The size of a page that an entry at this level can map.
    const fn page_size(self) -> Option<PageSize> {
        match self {
            Self::Pml4 => None,
            Self::Pdpt => Some(PageSize::Size1G),
            Self::Pd => Some(PageSize::Size2M),
            Self::Pt => Some(PageSize::Size4K),
        }
    }
}

/// An entry at any level.
///
/// Source: Intel SDM, vol. 3, section 29.3.2, "EPT Translation Mechanism".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry(u64);

impl Entry {
    const PERMISSIONS: u64 = Permissions::all().bits();
    const MEMORY_TYPE_SHIFT: u32 = 3;
    /// In a PDPT or a page directory: it maps a page.
    const PAGE: u64 = 1 << 7;
    /// Bit 11 is ignored by the processor. It tells a page without
    /// permissions from an entry that was never filled.
    const USED: u64 = 1 << 11;
    const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
    /// Bits 58:52 are ignored too: 57 and 58 belong to guest-paging verification and
    /// paging-write control, which are off.
    const TAG_SHIFT: u32 = 52;

    const fn table(table: Hpa) -> Self {
        Self(table.as_u64() | Self::PERMISSIONS | Self::USED)
    }

    const fn page(
        level: Level,
        hpa: Hpa,
        permissions: Permissions,
        memory_type: MemoryType,
    ) -> Self {
        let page = if matches!(level, Level::Pt) {
            0
        } else {
            Self::PAGE
        };
        let memory_type = (memory_type as u64) << Self::MEMORY_TYPE_SHIFT;
        Self(hpa.as_u64() | memory_type | page | permissions.bits() | Self::USED)
    }

    const fn is_used(self) -> bool {
        self.0 & Self::USED != 0
    }

    const fn is_leaf(self, level: Level) -> bool {
        self.is_used() && (matches!(level, Level::Pt) || self.0 & Self::PAGE != 0)
    }

    const fn address(self) -> Hpa {
        Hpa::new(self.0 & Self::ADDRESS)
    }

    const fn permissions(self) -> Permissions {
        Permissions::from_bits_truncate(self.0)
    }

    const fn memory_type(self) -> MemoryType {
        MemoryType::from_number((self.0 >> Self::MEMORY_TYPE_SHIFT) as u8 & 7)
    }

    const fn tag(self) -> u8 {
        (self.0 >> Self::TAG_SHIFT) as u8 & Page::MAX_TAG
    }

    const fn with_tag(self, tag: u8) -> Self {
        Self(self.0 | ((tag & Page::MAX_TAG) as u64) << Self::TAG_SHIFT)
    }

    const fn with_memory_type(self, memory_type: MemoryType) -> Self {
        let cleared = self.0 & !(7 << Self::MEMORY_TYPE_SHIFT);
        Self(cleared | (memory_type as u64) << Self::MEMORY_TYPE_SHIFT)
    }

    fn leaf(self, level: Level) -> Option<Leaf> {
        Some(Leaf {
            hpa: self.address(),
            size: level.page_size()?,
            permissions: self.permissions(),
            memory_type: self.memory_type(),
            tag: self.tag(),
        })
    }
}
