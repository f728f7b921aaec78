//! The address spaces of the programs that have PALs, one in each paging kind.
//!
//! All of them map the low 32 MiB, where this guest lies, one to one in large pages,
//! and in pages of 4 KiB a window of free memory, from which the PALs are made.

use crate::cpu;
use crate::descriptors::Shared;

/// Where the window is in every space: low enough for 32-bit code.
pub const WINDOW: u64 = 0x4000_0000;

/// The memory that the window shows, page for page: free, and in no use by firmware
/// or boot loaders.
pub const FRAMES: u64 = 0x0400_0000;

/// Pages of the window.
pub const PAGES: u64 = 2048;

/// Where the tables of all spaces lie: free memory.
const TABLES: u64 = 0x0180_0000;

/// Tables of one space at the most.
const TABLES_EACH: u64 = 10;

/// Page-table entries: present, writable, user.
pub const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
/// See [`PRESENT`].
pub const USER: u64 = 4;
const LARGE: u64 = 1 << 7;
/// What the program may use in every way.
pub const ALL: u64 = PRESENT | WRITABLE | USER;

/// Where the PDPT of PAE paging begins in its page: CR3's bits 11:5 count.
const PDPT_OFFSET: u64 = 0xa60;

unsafe extern "C" {
    static page_directories: Shared<[[u64; 512]; 4]>;
}

/// A kind of paging.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 32-bit paging, entries of 4 bytes.
    Bits32,
    /// PAE paging.
    Pae,
    /// 4-level paging.
    Level4,
    /// 5-level paging.
    Level5,
}

impl Kind {
    /// Is it paging of IA-32e mode?
    pub const fn is_long(self) -> bool {
        matches!(self, Self::Level4 | Self::Level5)
    }
}

/// An address space.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// How it is translated.
    pub kind: Kind,
    /// CR3.
    pub cr3: u64,
    /// The tables of the window's pages, which follow each other.
    window: u64,
}

/// Writes an entry of a table of 8-byte entries.
fn entry(table: u64, index: u64, value: u64) {
    // SAFETY: the tables of this file, in free memory.
    unsafe { ((table + 8 * index) as *mut u64).write_volatile(value) };
}

/// Writes an entry of a table of 4-byte entries.
fn entry32(table: u64, index: u64, value: u64) {
    // SAFETY: as in `entry`.
    unsafe { ((table + 4 * index) as *mut u32).write_volatile(value as u32) };
}

impl Space {
    /// The space of a kind, its tables written anew; there is one of each.
    pub fn new(kind: Kind) -> Self {
        let base = TABLES + kind as u64 * TABLES_EACH * 4096;
        let table = |n: u64| base + n * 4096;
        for index in 0..TABLES_EACH * 512 {
            entry(base, index, 0);
        }
        let directories = (&raw const page_directories) as u64;
        let (cr3, window) = match kind {
            Kind::Bits32 => {
                for large in 0..8 {
                    entry32(table(0), large, large << 22 | LARGE | ALL);
                }
                for n in 0..2 {
                    entry32(table(0), (WINDOW >> 22) + n, table(1 + n) | ALL);
                }
                (table(0), table(1))
            }
            Kind::Pae => {
                let pdpt = table(0) + PDPT_OFFSET;
                entry(pdpt, 0, table(1) | PRESENT);
                entry(pdpt, WINDOW >> 30, table(2) | PRESENT);
                for large in 0..16 {
                    entry(table(1), large, large << 21 | LARGE | ALL);
                }
                for n in 0..4 {
                    entry(table(2), n, table(3 + n) | ALL);
                }
                (pdpt, table(3))
            }
            Kind::Level4 | Kind::Level5 => {
                entry(table(0), 0, table(1) | ALL);
                for gib in 0..4 {
                    entry(table(1), gib, (directories + 4096 * gib) | ALL);
                }
                entry(table(1), WINDOW >> 30, table(2) | ALL);
                for n in 0..4 {
                    entry(table(2), n, table(3 + n) | ALL);
                }
                entry(table(7), 0, table(0) | ALL);
                let root = if kind == Kind::Level5 { 7 } else { 0 };
                (table(root), table(3))
            }
        };
        let space = Self { kind, cr3, window };
        for page in 0..PAGES {
            space.map(page, FRAMES + page * 4096, ALL);
        }
        space
    }

    /// Changes the entry of a page of the window, and tells no TLB.
    pub fn map(&self, page: u64, frame: u64, flags: u64) {
        match self.kind {
            Kind::Bits32 => entry32(self.window, page, frame | flags),
            _ => entry(self.window, page, frame | flags),
        }
    }

    /// The table that has the entry of a page of the window.
    pub fn table_of(&self, page: u64) -> u64 {
        let entries = match self.kind {
            Kind::Bits32 => 1024,
            _ => 512,
        };
        self.window + page / entries * 4096
    }

    /// Maps a page of the window as it was at first.
    pub fn restore(&self, page: u64) {
        self.map(page, FRAMES + page * 4096, ALL);
    }

    /// Runs `f` in a space of IA-32e mode.
    pub fn with<R>(&self, f: impl FnOnce() -> R) -> R {
        let usual = cpu::read_cr3();
        cpu::write_cr3(self.cr3);
        let result = f();
        cpu::write_cr3(usual);
        result
    }
}
