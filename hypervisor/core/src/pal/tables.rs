//! The page tables that a PAL runs on: its pages, and nothing else.
//!
//! Built for REG, of the kind of paging that the caller uses, since neither CR0,
//! CR4 nor IA32_EFER change for the call. SHARE adds pages for one call.
//!
//! Every accessed and dirty flag is set beforehand: the PAL's EPT lets nobody
//! write the tables, the processor included.
//!
//! Source: Intel SDM, vol. 3, chapter 4, "Paging".

use super::{MAX_PAGES, Rights};
use crate::addr::{Gpa, Hpa, PAGE_SIZE};
use crate::ept::TableMemory;
use crate::paging::PagingMode;
use heapless::Vec;
use stillpoint_abi::pal::MAX_SECTIONS;

/// The most tables that a PAL takes. A section touches one page table more than
/// its length would need, and so at each of the three levels above, which span
/// more than [`MAX_PAGES`].
pub const MAX_TABLES: usize = 1 + MAX_PAGES as usize / 512 + 4 * 2 * MAX_SECTIONS;

/// There are no more frames for tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutOfTables;

/// A PAL's page tables.
///
/// The frames are below 4 GiB: 32-bit paging and PAE paging have no more room
/// for the address of the first table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PalTables {
    /// The first table: for the address in CR3.
    pub root: Hpa,
    /// What the PDPTE registers are under PAE paging; otherwise zero.
    pub pdptes: [u64; 4],
    mode: PagingMode,
    nx: bool,
    /// Every table. Those for pages that were shared come last.
    frames: Vec<Hpa, MAX_TABLES>,
    /// How many of them aren't for shared pages.
    own: usize,
}

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
/// XD.
const EXECUTE_DISABLE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// How far a linear address is shifted to index the tables, from the root on.
const fn shifts(mode: PagingMode) -> &'static [u32] {
    match mode {
        PagingMode::Off => &[],
        PagingMode::Bits32 => &[22, 12],
        PagingMode::Pae => &[30, 21, 12],
        PagingMode::Level4 => &[39, 30, 21, 12],
        PagingMode::Level5 => &[48, 39, 30, 21, 12],
    }
}

impl PalTables {
    /// Builds tables that map these pages: the address, the frame, the rights.
    /// `nx` is IA32_EFER.NXE.
    ///
    /// # Errors
    /// [`OutOfTables`]. What was allocated stays so, and it is for the caller to
    /// know it.
    pub fn build(
        tables: &mut impl TableMemory,
        mode: PagingMode,
        nx: bool,
        pages: impl Iterator<Item = (u64, Gpa, Rights)>,
    ) -> Result<Self, OutOfTables> {
        let mut frames = Vec::new();
        let root = allocate(tables, &mut frames)?;
        let mut built = Self {
            root,
            pdptes: [0; 4],
            mode,
            nx,
            frames,
            own: 0,
        };
        for (gva, gpa, rights) in pages {
            built.map(tables, gva, gpa, rights)?;
        }
        built.own = built.frames.len();
        Ok(built)
    }

    /// Every table, the root first. Those that [`map`](Self::map) adds come at
    /// the end.
    pub fn frames(&self) -> &[Hpa] {
        &self.frames
    }

    /// Maps one page more, until [`unmap_shared`](Self::unmap_shared). This can
    /// change [`pdptes`](Self::pdptes).
    ///
    /// # Errors
    /// [`OutOfTables`]. Then nothing more is mapped; tables that were allocated
    /// till then stay so until `unmap_shared`.
    pub fn map(
        &mut self,
        tables: &mut impl TableMemory,
        gva: u64,
        gpa: Gpa,
        rights: Rights,
    ) -> Result<(), OutOfTables> {
        let Some((&last, upper)) = shifts(self.mode).split_last() else {
            return Ok(());
        };
        let mut table = self.root;
        // Where the first new table is named: clearing that undoes all.
        let mut first_new = None;
        for &shift in upper {
            let index = self.index(gva, shift);
            let mut entry = self.read(tables, table, index);
            if entry & PRESENT == 0 {
                let below = match allocate(tables, &mut self.frames) {
                    Ok(below) => below,
                    Err(error) => {
                        if let Some((table, index)) = first_new {
                            self.write(tables, table, index, 0);
                        }
                        return Err(error);
                    }
                };
                first_new.get_or_insert((table, index));
                entry = below.as_u64() | self.table_flags(table);
                self.write(tables, table, index, entry);
            }
            table = Hpa::new(entry & ADDRESS);
        }
        let entry = gpa.page().as_u64() | self.page_flags(rights);
        self.write(tables, table, self.index(gva, last), entry);
        Ok(())
    }

    /// Takes back what [`map`](Self::map) did since [`build`](Self::build).
    /// `gvas` must be all the pages that it has mapped, from however many SHAREs,
    /// for every table that it took goes to `give_back`.
    pub fn unmap_shared(
        &mut self,
        tables: &mut impl TableMemory,
        gvas: impl Iterator<Item = u64>,
        mut give_back: impl FnMut(Hpa),
    ) {
        for gva in gvas {
            self.unmap(tables, gva);
        }
        while self.frames.len() > self.own {
            if let Some(frame) = self.frames.pop() {
                give_back(frame);
            }
        }
    }

    /// Clears the first entry on the way to a page that concerns shared pages
    /// alone.
    fn unmap(&mut self, tables: &mut impl TableMemory, gva: u64) {
        let mut table = self.root;
        for &shift in shifts(self.mode) {
            let index = self.index(gva, shift);
            let entry = self.read(tables, table, index);
            if entry & PRESENT == 0 {
                return;
            }
            let below = Hpa::new(entry & ADDRESS);
            if shift == 12 || self.frames.iter().skip(self.own).any(|&f| f == below) {
                self.write(tables, table, index, 0);
                return;
            }
            table = below;
        }
    }

    /// What the PAL finds at an address: the guest-physical address, and what
    /// it may do there. `None` where it has no page.
    pub fn translate(&self, tables: &impl TableMemory, gva: u64) -> Option<(Gpa, Rights)> {
        if !self.is_addressable(gva) {
            return None;
        }
        let mut entry = self.root.as_u64() | PRESENT;
        for &shift in shifts(self.mode) {
            let table = Hpa::new(entry & ADDRESS);
            entry = self.read(tables, table, self.index(gva, shift));
            if entry & PRESENT == 0 {
                return None;
            }
        }
        let rights = match entry & WRITABLE {
            0 => Rights::ReadExecute,
            _ => Rights::ReadWrite,
        };
        Some((Gpa::new((entry & ADDRESS) | (gva % PAGE_SIZE)), rights))
    }

    const fn is_addressable(&self, gva: u64) -> bool {
        let unused = match self.mode {
            PagingMode::Off => return false,
            PagingMode::Bits32 | PagingMode::Pae => return gva >> 32 == 0,
            PagingMode::Level4 => 16,
            PagingMode::Level5 => 7,
        };
        ((gva << unused) as i64 >> unused) as u64 == gva
    }

    /// An entry that names a table restricts nothing; its page's entry does.
    fn table_flags(&self, table: Hpa) -> u64 {
        if self.mode == PagingMode::Pae && table == self.root {
            // In a PDPTE the flags for rights are reserved bits, and there is no
            // accessed flag.
            PRESENT
        } else {
            PRESENT | WRITABLE | USER | ACCESSED
        }
    }

    fn page_flags(&self, rights: Rights) -> u64 {
        let rights = match rights {
            Rights::ReadExecute => 0,
            Rights::ReadWrite if self.nx && self.mode != PagingMode::Bits32 => {
                WRITABLE | EXECUTE_DISABLE
            }
            Rights::ReadWrite => WRITABLE,
        };
        PRESENT | USER | ACCESSED | DIRTY | rights
    }

    const fn index(&self, gva: u64, shift: u32) -> usize {
        let entries = match self.mode {
            PagingMode::Bits32 => 1024,
            _ => 512,
        };
        ((gva >> shift) % entries) as usize
    }

    fn read(&self, tables: &impl TableMemory, table: Hpa, index: usize) -> u64 {
        match self.mode {
            PagingMode::Bits32 => {
                let pair = tables.read(table, index / 2);
                (pair >> Self::half(index)) & 0xffff_ffff
            }
            _ => tables.read(table, index),
        }
    }

    fn write(&mut self, tables: &mut impl TableMemory, table: Hpa, index: usize, entry: u64) {
        match self.mode {
            PagingMode::Bits32 => {
                let pair = tables.read(table, index / 2);
                let half = Self::half(index);
                let pair = (pair & !(0xffff_ffff << half)) | ((entry & 0xffff_ffff) << half);
                tables.write(table, index / 2, pair);
            }
            _ => tables.write(table, index, entry),
        }
        if self.mode == PagingMode::Pae
            && table == self.root
            && let Some(pdpte) = self.pdptes.get_mut(index)
        {
            *pdpte = entry;
        }
    }

    /// Where in 64 bits the 32-bit entry with this number is.
    const fn half(index: usize) -> u32 {
        (index as u32 & 1) * 32
    }
}

fn allocate(
    tables: &mut impl TableMemory,
    frames: &mut Vec<Hpa, MAX_TABLES>,
) -> Result<Hpa, OutOfTables> {
    if frames.is_full() {
        return Err(OutOfTables);
    }
    let frame = tables.allocate().ok_or(OutOfTables)?;
    // There is room: that was looked at first.
    let _ = frames.push(frame);
    Ok(frame)
}
