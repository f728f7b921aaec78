//! Where things lie in the hypervisor's address space. See `docs/memory-map.md`.

use stillpoint_core::addr::Hpa;

/// Where the image is linked.
pub const IMAGE_VMA: u64 = 0xffff_ffff_8000_0000;

/// Where GRUB loads it, before it moves itself.
pub const IMAGE_LMA: u64 = 0x0100_0000;

/// All physical memory, at this virtual address.
pub const DIRECT_MAP: u64 = 0xffff_8000_0000_0000;

/// The entry of the top-level table that [`DIRECT_MAP`] begins at.
pub const DIRECT_SLOT: u64 = (DIRECT_MAP >> 39) & 0x1ff;

unsafe extern "C" {
    static image_rodata: u8;
    static image_data: u8;
    static image_end: u8;
}

/// A part of the image, by its protection.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Code: read, execute.
    Text,
    /// Constants: read.
    ReadOnly,
    /// Everything else: read, write.
    Data,
}

/// Bytes from the first of the image to the last.
pub fn image_size() -> u64 {
    (&raw const image_end as u64) - IMAGE_VMA
}

/// Which part the byte at this offset of the image belongs to.
pub fn part_at(offset: u64) -> Part {
    let address = IMAGE_VMA + offset;
    if address < &raw const image_rodata as u64 {
        Part::Text
    } else if address < &raw const image_data as u64 {
        Part::ReadOnly
    } else {
        Part::Data
    }
}

/// The virtual address of physical memory in the direct map.
pub fn direct(hpa: Hpa) -> *mut u8 {
    (DIRECT_MAP + hpa.as_u64()) as *mut u8
}

/// The physical address behind one of the direct map; `None` for any other.
pub fn behind_direct(address: u64) -> Option<Hpa> {
    let offset = address.checked_sub(DIRECT_MAP)?;
    (address < IMAGE_VMA).then(|| Hpa::new(offset))
}

/// Reads an entry of a page table or EPT table of ours; `index` is below 512.
pub fn read_entry(table: Hpa, index: usize) -> u64 {
    debug_assert!(index < 512);
    // SAFETY: a table in the direct map, which the hypervisor alone writes.
    unsafe { direct(table).cast::<u64>().add(index).read_volatile() }
}

/// Writes an entry, all 64 bits at once: a processor may be walking the table.
pub fn write_entry(table: Hpa, index: usize, entry: u64) {
    debug_assert!(index < 512);
    // SAFETY: as in `read_entry`; an aligned store is seen whole.
    unsafe { direct(table).cast::<u64>().add(index).write_volatile(entry) };
}
