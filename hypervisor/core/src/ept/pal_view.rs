//! A PAL's view of physical memory: its own pages, each at its own address, and nothing
//! else. Made when a PAL is registered; pages shared with it come and go later.

use super::{Entry, EptError, Level, Permissions, TableMemory, eptp, lookup, page_table};
use crate::addr::{Gpa, Hpa};
use crate::mtrr::MemoryType;

/// The tables of one PAL's view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PalView {
    root: Hpa,
}

impl PalView {
    /// A view of nothing.
    ///
    /// # Errors
    /// [`EptError::OutOfTables`]
    pub fn new(memory: &mut impl TableMemory) -> Result<Self, EptError> {
        let root = memory.allocate().ok_or(EptError::OutOfTables)?;
        Ok(Self { root })
    }

    /// The EPT pointer.
    pub const fn eptp(&self) -> u64 {
        eptp(self.root)
    }

    /// Lets a 4 KiB page be seen, in place of what was there.
    ///
    /// # Errors
    /// [`EptError::BadAddress`]: no page's address, or from 2^48 on.
    /// [`EptError::OutOfTables`]: some tables on the way may have been added.
    pub fn map(
        &self,
        memory: &mut impl TableMemory,
        gpa: Gpa,
        permissions: Permissions,
        memory_type: MemoryType,
    ) -> Result<(), EptError> {
        if gpa.page_offset() != 0 || gpa.as_u64() >> 48 != 0 {
            return Err(EptError::BadAddress(gpa));
        }
        let (mut table, mut level) = (self.root, Level::Pml4);
        while let Some(below) = level.below() {
            let index = level.index(gpa);
            let entry = Entry(memory.read(table, index));
            table = if entry.is_used() {
                entry.address()
            } else {
                let child = memory.allocate().ok_or(EptError::OutOfTables)?;
                memory.write(table, index, Entry::table(child).0);
                child
            };
            level = below;
        }
        let hpa = Hpa::new(gpa.as_u64());
        let entry = Entry::page(Level::Pt, hpa, permissions, memory_type);
        memory.write(table, Level::Pt.index(gpa), entry.0);
        Ok(())
    }

    /// Whether a 4 KiB page can be seen.
    pub fn maps(&self, memory: &impl TableMemory, gpa: Gpa) -> bool {
        lookup(memory, self.root, gpa).is_some()
    }

    /// Takes a page out of the view, if it is there.
    pub fn unmap(&self, memory: &mut impl TableMemory, gpa: Gpa) {
        if let Some(table) = page_table(memory, self.root, gpa) {
            memory.write(table, Level::Pt.index(gpa), 0);
        }
    }
}
