//! The hypervisor's own page tables: the image with its parts' protection, and
//! all physical memory in the direct map. Built once, before the image moves.

use stillpoint_core::addr::{Hpa, PAGE_SIZE, PageSize};
use stillpoint_core::mtrr::Mtrrs;

use super::frames::{FRAMES, OutOfFrames};
use super::layout::{self, DIRECT_MAP, DIRECT_SLOT, IMAGE_VMA, Part, read_entry, write_entry};

const PRESENT: u64 = 1 << 0;
const WRITABLE: u64 = 1 << 1;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;

/// The finished tables.
#[derive(Clone, Copy)]
pub struct HostTables {
    /// For CR3 of every running CPU.
    pub root: Hpa,
    /// The same with the first 2 MiB at address 0 too, where the trampoline lies: for
    /// CPUs on their way from real mode.
    pub start_up_root: Hpa,
}

/// Builds them. The direct map covers `[0, direct_end)`, whole GiB; the image lies, or
/// will lie, at `image`.
///
/// A page of 1 GiB has one memory type throughout, or parts of it might get a type that
/// is not theirs (Intel SDM vol. 3, 12.11.9 "Large Page Size Considerations"). Two types
/// within 2 MiB, as at address 0, are the processor's to deal with.
///
/// # Errors
/// [`OutOfFrames`]
pub fn build(
    image: Hpa,
    direct_end: u64,
    gib_pages: bool,
    mtrrs: &Mtrrs,
) -> Result<HostTables, OutOfFrames> {
    let root = FRAMES.allocate(1)?;
    let mut at = 0;
    while at < direct_end {
        let size = PageSize::Size1G;
        let one_type = mtrrs.type_of_page(at, size).is_some();
        let whole = gib_pages && one_type && at.is_multiple_of(size.bytes());
        let (level, step): (u32, u64) = if whole { (2, 1 << 30) } else { (1, 1 << 21) };
        let entry = at | PRESENT | WRITABLE | LARGE | NO_EXECUTE;
        map(root, DIRECT_MAP + at, level, entry)?;
        at += step;
    }
    let mut offset = 0;
    while offset < layout::image_size() {
        let protection = match layout::part_at(offset) {
            Part::Text => 0,
            Part::ReadOnly => NO_EXECUTE,
            Part::Data => NO_EXECUTE | WRITABLE,
        };
        let entry = (image.as_u64() + offset) | PRESENT | protection;
        map(root, IMAGE_VMA + offset, 0, entry)?;
        offset += PAGE_SIZE;
    }
    let start_up_root = FRAMES.allocate(1)?;
    for slot in 0..512 {
        write_entry(start_up_root, slot, read_entry(root, slot));
    }
    // The direct map's entries forbid execution, so the trampoline's page gets
    // tables of its own.
    let low = PRESENT | WRITABLE | LARGE;
    write_entry(start_up_root, 0, 0);
    map(start_up_root, 0, 1, low)?;
    debug_assert_ne!(read_entry(root, DIRECT_SLOT as usize), 0);
    Ok(HostTables {
        root,
        start_up_root,
    })
}

/// Writes the leaf `entry` for `virtual_address` at `level` (0: 4 KiB, 1: 2 MiB,
/// 2: 1 GiB), making the tables above it.
fn map(root: Hpa, virtual_address: u64, level: u32, entry: u64) -> Result<(), OutOfFrames> {
    let mut table = root;
    for depth in (level + 1..4).rev() {
        let slot = index(virtual_address, depth);
        let next = read_entry(table, slot);
        table = if next & PRESENT == 0 {
            let new = FRAMES.allocate(1)?;
            write_entry(table, slot, new.as_u64() | PRESENT | WRITABLE);
            new
        } else {
            Hpa::new(next & ADDRESS)
        };
    }
    write_entry(table, index(virtual_address, level), entry);
    Ok(())
}

fn index(virtual_address: u64, level: u32) -> usize {
    (virtual_address >> (12 + 9 * level)) as usize & 0x1ff
}
