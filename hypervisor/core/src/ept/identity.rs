//! Building the identity map, and changing it while guests run on it.
//!
//! The boot calls [`IdentityMap::build`] once. Later calls come from exits: an
//! EPT violation past the mapped range, an MTRR written, pages lent to a PAL.
//! They change entries that other CPUs may be using; each entry is replaced by
//! one that is right by itself, and the caller sees to INVEPT.

use super::{
    ADDRESS_WIDTH, Entry, EptError, Leaf, Level, Page, Permissions, TableMemory, lookup,
    page_table, table_of,
};
use crate::addr::{Gpa, Hpa, PageSize, PhysRange};
use crate::mtrr::{MemoryType, Mtrrs};

/// What the identity map is made from.
#[derive(Debug, Clone, Copy)]
pub struct IdentityPlan<'a> {
    /// Memory types.
    pub mtrrs: &'a Mtrrs,
    /// What the guest must not reach: whole 2 MiB pages.
    pub hole: PhysRange,
    /// A 4 KiB page of zeros.
    pub zero_page: Hpa,
    /// First address that is not mapped; see [`default_limit`].
    pub limit: u64,
    /// May 1 GiB pages be used? IA32_VMX_EPT_VPID_CAP\[17\].
    pub pages_1g: bool,
}

/// The guest's map, in two views that differ in the hole only.
///
/// In the main view the hole isn't there: an access is an EPT violation. A
/// read then gets one instruction's time on the zero view, in which every
/// page of the hole is a page of zeros, so that it needs no emulation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdentityMap {
    root: Hpa,
    zero_root: Hpa,
    pub(super) hole: PhysRange,
    pages_1g: bool,
    tables: usize,
}

/// How far the identity map is built in advance; what is beyond is mapped when
/// it is first touched.
///
/// With 1 GiB pages all that a processor can address costs next to nothing,
/// up to the 512 GiB that one table spans. Without, it costs a table for each
/// GiB, and only RAM and the first 4 GiB, where devices are, are worth it.
pub fn default_limit(max_phys_addr: u8, pages_1g: bool, end_of_ram: u64) -> u64 {
    const GIB: u64 = 1 << 30;
    let addressable = 1u64 << max_phys_addr.clamp(30, 52);
    let wanted = if pages_1g {
        512 * GIB
    } else {
        end_of_ram.clamp(4 * GIB, 1 << 52).next_multiple_of(GIB)
    };
    wanted.min(addressable)
}

impl IdentityMap {
    /// Builds both views.
    ///
    /// # Errors
    /// [`EptError::BadHole`], [`EptError::OutOfTables`].
    pub fn build(memory: &mut impl TableMemory, plan: &IdentityPlan<'_>) -> Result<Self, EptError> {
        let page = PageSize::Size2M.bytes();
        let hole = plan.hole;
        let whole_pages = hole.start.is_multiple_of(page) && hole.end.is_multiple_of(page);
        if !whole_pages || hole.is_empty() || hole.end > plan.limit {
            return Err(EptError::BadHole);
        }
        let mut builder = Builder {
            memory,
            hole,
            pages_1g: plan.pages_1g,
            tables: 0,
        };
        let root = builder.table()?;
        builder.fill(root, Level::Pml4, 0, plan.limit, plan.mtrrs)?;

        let zeros = builder.table()?;
        let permissions = Permissions::READ | Permissions::EXECUTE;
        let zero = Entry::page(
            Level::Pt,
            plan.zero_page,
            permissions,
            MemoryType::WriteBack,
        );
        for index in 0..512 {
            builder.memory.write(zeros, index, zero.0);
        }
        let zero_root = builder.zero_table(Level::Pml4, 0, Entry::table(zeros))?;
        let tables = builder.tables;
        let map = Self {
            root,
            zero_root,
            hole,
            pages_1g: plan.pages_1g,
            tables,
        };
        map.share(memory);
        Ok(map)
    }

    /// Root of the main view, in which the hole is not present.
    pub const fn root(&self) -> Hpa {
        self.root
    }

    /// Root of the view in which every page of the hole is the zero page, to
    /// be read and executed. It shares every table that isn't on the way there.
    pub const fn zero_root(&self) -> Hpa {
        self.zero_root
    }

    /// How many tables both views take together.
    pub const fn tables(&self) -> usize {
        self.tables
    }

    /// Maps the page, as large as may be, that holds an address past the
    /// limit. An address that is mapped already is left as it is: two CPUs
    /// may have met it together.
    ///
    /// # Errors
    /// [`EptError::BadAddress`] in the hole and from 2^48 on; [`EptError::OutOfTables`].
    pub fn map_on_demand(
        &mut self,
        memory: &mut impl TableMemory,
        mtrrs: &Mtrrs,
        gpa: Gpa,
    ) -> Result<Leaf, EptError> {
        let bad = EptError::BadAddress(gpa);
        if self.hole.contains(gpa.as_u64()) || gpa.as_u64() >> ADDRESS_WIDTH != 0 {
            return Err(bad);
        }
        let root = self.root;
        self.change(memory, |builder| builder.map_missing(root, gpa, mtrrs))?;
        lookup(memory, self.root, gpa).ok_or(bad)
    }

    /// Gives every page the memory type that MTRRs, now changed, ask for,
    /// splitting pages where they must be. Pages are not joined again.
    ///
    /// Answers how many large pages were made uncacheable as a whole because
    /// no table was left to split them: any mixture can be uncacheable, and a
    /// guest must not be able to stop the machine by writing MTRRs.
    pub fn set_memory_types(&mut self, memory: &mut impl TableMemory, mtrrs: &Mtrrs) -> usize {
        let root = self.root;
        let mut unsplit = 0;
        let done = self.change(memory, |builder| {
            unsplit = builder.retype(root, Level::Pml4, mtrrs);
            Ok(())
        });
        debug_assert_eq!(done, Ok(()));
        unsplit
    }

    /// Sets what one 4 KiB page is, in both views, splitting larger pages. The memory
    /// type stays. Answers the page's [`page_table`] and its memory type.
    ///
    /// # Errors
    /// [`EptError::BadAddress`] if `gpa` is no page's address, is not mapped,
    /// or is in the hole; [`EptError::OutOfTables`], the page being as before.
    pub fn set_page(
        &mut self,
        memory: &mut impl TableMemory,
        gpa: Gpa,
        page: Page,
    ) -> Result<(Hpa, MemoryType), EptError> {
        let bad = EptError::BadAddress(gpa);
        let aligned = gpa.page_offset() == 0 && page.hpa.page_offset() == 0;
        let in_reach = gpa.as_u64() >> ADDRESS_WIDTH == 0;
        if !aligned || !in_reach || self.hole.contains(gpa.as_u64()) {
            return Err(bad);
        }
        let mut builder = self.builder(memory);
        let found = builder.split_down_to(self.root, gpa);
        let split = builder.tables != self.tables;
        self.tables = builder.tables;
        if split {
            self.share_at(memory, gpa);
        }
        let (table, entry) = found?.ok_or(bad)?;
        let memory_type = entry.memory_type();
        let entry = Entry::page(Level::Pt, page.hpa, page.permissions, memory_type);
        let entry = entry.with_tag(page.tag);
        memory.write(table, Level::Pt.index(gpa), entry.0);
        Ok((table, memory_type))
    }

    fn builder<'a, M: TableMemory>(&self, memory: &'a mut M) -> Builder<'a, M> {
        Builder {
            memory,
            hole: self.hole,
            pages_1g: self.pages_1g,
            tables: self.tables,
        }
    }

    /// Runs a change on the main view, then shares its tables with the other.
    fn change<M: TableMemory>(
        &mut self,
        memory: &mut M,
        change: impl FnOnce(&mut Builder<'_, M>) -> Result<(), EptError>,
    ) -> Result<(), EptError> {
        let mut builder = self.builder(memory);
        let result = change(&mut builder);
        self.tables = builder.tables;
        self.share(memory);
        result
    }

    /// Joins the pages of a page table again, in both views, if all of them are the
    /// guest's own and of one memory type. Answers the table, which is needed no more once
    /// translations have been dropped.
    pub fn join(&mut self, memory: &mut impl TableMemory, gpa: Gpa) -> Option<Hpa> {
        let start = gpa.as_u64() & !(Level::Pd.span() - 1);
        if PhysRange::from_len(start, Level::Pd.span()).overlaps(self.hole) {
            return None;
        }
        let directory = table_of(memory, self.root, Level::Pd, gpa)?;
        let table = page_table(memory, self.root, gpa)?;
        let memory_type = Entry(memory.read(table, 0)).memory_type();
        let own =
            |level, start| Entry::page(level, Hpa::new(start), Permissions::all(), memory_type);
        let all_own = (0..512).all(|part| {
            let start = start + part as u64 * Level::Pt.span();
            memory.read(table, part) == own(Level::Pt, start).0
        });
        if !all_own {
            return None;
        }
        memory.write(directory, Level::Pd.index(gpa), own(Level::Pd, start).0);
        self.tables -= 1;
        self.share_at(memory, gpa);
        Some(table)
    }

    /// As [`share`](Self::share), for the one way that leads to a page outside the hole.
    fn share_at(&self, memory: &mut impl TableMemory, gpa: Gpa) {
        let (mut main, mut zero, mut level) = (self.root, self.zero_root, Level::Pml4);
        loop {
            let index = level.index(gpa);
            let entry = Entry(memory.read(main, index));
            let start = gpa.as_u64() & !(level.span() - 1);
            let block = PhysRange::from_len(start, level.span());
            let Some(below) = level.below().filter(|_| block.overlaps(self.hole)) else {
                memory.write(zero, index, entry.0);
                return;
            };
            main = entry.address();
            zero = Entry(memory.read(zero, index)).address();
            level = below;
        }
    }

    /// Makes the zero view's own tables agree with the main view's, except on
    /// the hole: at most a handful of tables.
    fn share(&self, memory: &mut impl TableMemory) {
        let tables = (Some(self.root), self.zero_root);
        share_tables(memory, self.hole, Level::Pml4, 0, tables);
    }
}

/// `main` is `None` where the hole spans all that a table of the main view
/// would, so that there is none.
fn share_tables(
    memory: &mut impl TableMemory,
    hole: PhysRange,
    level: Level,
    base: u64,
    (main, zero): (Option<Hpa>, Hpa),
) {
    for index in 0..512 {
        let block = PhysRange::from_len(base + index as u64 * level.span(), level.span());
        let entry = Entry(main.map_or(0, |table| memory.read(table, index)));
        if !block.overlaps(hole) {
            memory.write(zero, index, entry.0);
            continue;
        }
        // In a page directory the entry leads to the zeros and stays.
        let Some(below @ (Level::Pdpt | Level::Pd)) = level.below() else {
            continue;
        };
        let zero_below = Entry(memory.read(zero, index)).address();
        let main_below = entry.is_used().then(|| entry.address());
        share_tables(memory, hole, below, block.start, (main_below, zero_below));
    }
}

struct Builder<'a, M> {
    memory: &'a mut M,
    hole: PhysRange,
    pages_1g: bool,
    tables: usize,
}

impl<M: TableMemory> Builder<'_, M> {
    fn table(&mut self) -> Result<Hpa, EptError> {
        let table = self.memory.allocate().ok_or(EptError::OutOfTables)?;
        self.tables += 1;
        Ok(table)
    }

    /// The entry that maps a whole block as one page, if it can be one.
    fn page(&self, level: Level, block: PhysRange, mtrrs: &Mtrrs) -> Option<Entry> {
        let size = level.page_size()?;
        if block.overlaps(self.hole) || (size == PageSize::Size1G && !self.pages_1g) {
            return None;
        }
        let memory_type = mtrrs.type_of_page(block.start, size)?;
        let hpa = Hpa::new(block.start);
        Some(Entry::page(level, hpa, Permissions::all(), memory_type))
    }

    /// Fills a table that spans memory from `base` on, up to `limit`.
    fn fill(
        &mut self,
        table: Hpa,
        level: Level,
        base: u64,
        limit: u64,
        mtrrs: &Mtrrs,
    ) -> Result<(), EptError> {
        for index in 0..512 {
            let block = PhysRange::from_len(base + index as u64 * level.span(), level.span());
            if block.start >= limit {
                break;
            }
            if self.hole.covers(block) {
                continue;
            }
            let page = self.page(level, block, mtrrs);
            let entry = match (page.filter(|_| block.end <= limit), level.below()) {
                (Some(page), _) => page,
                (None, Some(below)) => {
                    let child = self.table()?;
                    self.fill(child, below, block.start, limit, mtrrs)?;
                    Entry::table(child)
                }
                (None, None) => continue,
            };
            self.memory.write(table, index, entry.0);
        }
        Ok(())
    }

    /// The zero view's table at this level, with only what leads to the hole.
    fn zero_table(&mut self, level: Level, base: u64, zeros: Entry) -> Result<Hpa, EptError> {
        let table = self.table()?;
        for index in 0..512 {
            let block = PhysRange::from_len(base + index as u64 * level.span(), level.span());
            if !block.overlaps(self.hole) {
                continue;
            }
            let entry = match level.below() {
                Some(below @ (Level::Pdpt | Level::Pd)) => {
                    Entry::table(self.zero_table(below, block.start, zeros)?)
                }
                _ => zeros,
            };
            self.memory.write(table, index, entry.0);
        }
        Ok(table)
    }

    /// Fills in what is missing on the way to a page.
    fn map_missing(&mut self, root: Hpa, gpa: Gpa, mtrrs: &Mtrrs) -> Result<(), EptError> {
        let mut table = root;
        let mut level = Level::Pml4;
        loop {
            let index = level.index(gpa);
            let entry = Entry(self.memory.read(table, index));
            if entry.is_leaf(level) {
                return Ok(());
            }
            let start = gpa.as_u64() & !(level.span() - 1);
            let block = PhysRange::from_len(start, level.span());
            let page = self.page(level, block, mtrrs);
            if !entry.is_used()
                && let Some(page) = page
            {
                self.memory.write(table, index, page.0);
                return Ok(());
            }
            let Some(below) = level.below() else {
                return Err(EptError::BadAddress(gpa));
            };
            table = if entry.is_used() {
                entry.address()
            } else {
                let child = self.table()?;
                self.memory.write(table, index, Entry::table(child).0);
                child
            };
            level = below;
        }
    }

    /// Replaces a large page by a table of pages that mean the same.
    fn split(&mut self, table: Hpa, level: Level, index: usize) -> Result<Hpa, EptError> {
        let entry = Entry(self.memory.read(table, index));
        let Some(below) = level.below() else {
            return Err(EptError::OutOfTables);
        };
        let child = self.table()?;
        for part in 0..512 {
            let hpa = Hpa::new(entry.address().as_u64() + part as u64 * below.span());
            let page = Entry::page(below, hpa, entry.permissions(), entry.memory_type());
            self.memory.write(child, part, page.0);
        }
        // Only now that it is whole does any CPU see it.
        self.memory.write(table, index, Entry::table(child).0);
        Ok(child)
    }

    /// The page table that holds a page's entry, and the entry; `None` if the
    /// page isn't mapped.
    fn split_down_to(&mut self, root: Hpa, gpa: Gpa) -> Result<Option<(Hpa, Entry)>, EptError> {
        let mut table = root;
        let mut level = Level::Pml4;
        loop {
            let index = level.index(gpa);
            let entry = Entry(self.memory.read(table, index));
            if !entry.is_used() {
                return Ok(None);
            }
            let Some(below) = level.below() else {
                return Ok(Some((table, entry)));
            };
            table = match entry.is_leaf(level) {
                true => self.split(table, level, index)?,
                false => entry.address(),
            };
            level = below;
        }
    }

    /// Sets memory types under a table; answers how many pages could not be
    /// split.
    fn retype(&mut self, table: Hpa, level: Level, mtrrs: &Mtrrs) -> usize {
        let mut unsplit = 0;
        for index in 0..512 {
            let entry = Entry(self.memory.read(table, index));
            if !entry.is_used() {
                continue;
            }
            let below = match entry.leaf(level) {
                Some(leaf) if entry.is_leaf(level) => {
                    // By where it leads: a page that stands in for another
                    // has the type of its own memory.
                    match mtrrs.type_of_page(leaf.hpa.as_u64(), leaf.size) {
                        Some(memory_type) if memory_type == leaf.memory_type => continue,
                        Some(memory_type) => {
                            let entry = entry.with_memory_type(memory_type);
                            self.memory.write(table, index, entry.0);
                            continue;
                        }
                        None => match self.split(table, level, index) {
                            Ok(child) => child,
                            Err(_) => {
                                let entry = entry.with_memory_type(MemoryType::Uncacheable);
                                self.memory.write(table, index, entry.0);
                                unsplit += 1;
                                continue;
                            }
                        },
                    }
                }
                _ => entry.address(),
            };
            if let Some(next) = level.below() {
                unsplit += self.retype(below, next, mtrrs);
            }
        }
        unsplit
    }
}
