//! Guest-physical memory, reached through the direct map: the guest's addresses
//! are the machine's.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use spin::Once;
use stillpoint_core::addr::{Gpa, Hpa, PAGE_SIZE, PhysRange};
use stillpoint_core::memmap::{MemoryMap, RegionKind};
use stillpoint_core::paging::{PhysMem, PhysMemError};

use super::layout;
use crate::cpu::percpu::PerCpu;
use crate::pal;
use crate::vmx::ept;

/// What is known of the machine's memory.
struct Limits {
    map: MemoryMap,
    direct_end: u64,
}

/// The two largest pieces of RAM without the hypervisor's, in which nearly everything
/// lies: start and end of each.
static MAIN: [[AtomicU64; 2]; 2] = [const { [const { AtomicU64::new(0) }; 2] }; 2];

static LIMITS: Once<Limits> = Once::new();

/// Notes firmware's map, the map that the guest gets, in which the hypervisor's range is
/// reserved, and how far the direct map reaches.
pub fn init(map: MemoryMap, guests: &MemoryMap, direct_end: u64) {
    let mut main = [PhysRange::default(); 2];
    for region in guests.regions() {
        let [larger, smaller] = &mut main;
        if region.kind != RegionKind::Usable || region.range.len() <= smaller.len() {
            continue;
        }
        *smaller = region.range;
        if smaller.len() > larger.len() {
            core::mem::swap(larger, smaller);
        }
    }
    for ([start, end], range) in MAIN.iter().zip(main) {
        start.store(range.start, Relaxed);
        end.store(range.end, Relaxed);
    }
    LIMITS.call_once(|| Limits { map, direct_end });
}

/// Is this range within the larger part of RAM? A cheap yes.
#[inline(always)]
fn is_main(address: Gpa, len: usize) -> bool {
    let start = address.as_u64();
    let end = start.wrapping_add(len as u64);
    MAIN.iter().any(|[first, after]| {
        first.load(Relaxed) <= start && start <= end && end <= after.load(Relaxed)
    })
}

/// The guest's physical memory, as the debugger reaches it, and page walks in its service:
/// the page tables that a PAL runs on are to be read too.
pub struct GuestMemory;

impl PhysMem for GuestMemory {
    fn read(&mut self, address: Gpa, into: &mut [u8]) -> Result<(), PhysMemError> {
        let room = (PAGE_SIZE - address.page_offset()) as usize;
        if ept::is_hypervisors(address.as_u64())
            && into.len() <= room
            && pal::table_owner(address).is_some()
        {
            let from = layout::direct(Hpa::new(address.as_u64()));
            // SAFETY: within a page of the pool, in the direct map. The machine is
            // stopped, so no table changes.
            unsafe { core::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
            return Ok(());
        }
        read(address, into)
    }

    fn write(&mut self, address: Gpa, from: &[u8]) -> Result<(), PhysMemError> {
        write(address, from)
    }
}

/// Guest-physical memory as the guest's own accesses find it, when the hypervisor
/// makes them in the guest's place: its own range reads as zeros, a PAL's pages read as
/// ones, and both refuse writes.
pub struct GuestView<'a>(pub &'a PerCpu);

impl PhysMem for GuestView<'_> {
    #[inline]
    fn read(&mut self, address: Gpa, into: &mut [u8]) -> Result<(), PhysMemError> {
        let (start, len) = (address.as_u64(), into.len());
        // Walks read entries, most of them where nothing is lent.
        let is_entry = len <= 8 && start.is_multiple_of(8);
        let is_free = is_entry && ept::none_lent_near(start) || !pal::holds(address, len);
        if is_main(address, len) && is_free {
            let from = layout::direct(Hpa::new(address.as_u64()));
            // SAFETY: RAM in the direct map that is not the hypervisor's. The guest may
            // be writing it: bytes may tear, as on any other processor.
            unsafe { core::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
            return Ok(());
        }
        self.read_elsewhere(address, into)
    }

    fn write(&mut self, address: Gpa, from: &[u8]) -> Result<(), PhysMemError> {
        if ept::is_hypervisors(address.as_u64()) {
            self.0.count_range_write(address.as_u64());
        }
        if pal::forbids_writes(address, from.len()) {
            return Err(PhysMemError(address));
        }
        write(address, from)
    }
}

impl GuestView<'_> {
    #[cold]
    fn read_elsewhere(&self, address: Gpa, into: &mut [u8]) -> Result<(), PhysMemError> {
        if ept::is_hypervisors(address.as_u64()) {
            self.0.count_range_read(address.as_u64());
            into.fill(0);
            return Ok(());
        }
        if pal::holds(address, into.len()) {
            into.fill(0xff);
            return Ok(());
        }
        read(address, into)
    }
}

/// What lies at an address.
enum Place {
    Ram,
    /// Device registers and ROM: 32-bit accesses alone, as local and I/O APICs demand.
    Other,
}

fn place(address: Gpa, len: usize) -> Result<Place, PhysMemError> {
    if is_main(address, len) {
        return Ok(Place::Ram);
    }
    let limits = LIMITS.get().ok_or(PhysMemError(address))?;
    let start = address.as_u64();
    let end = start.checked_add(len as u64).ok_or(PhysMemError(address))?;
    if end > limits.direct_end {
        return Err(PhysMemError(address));
    }
    let hypervisor = ept::hypervisors_range();
    if start < hypervisor.end && hypervisor.start < end {
        return Err(PhysMemError(address));
    }
    let usable = |at| {
        at < 0xa_0000
            || matches!(
                limits.map.kind_at(at),
                Some(RegionKind::Usable | RegionKind::AcpiReclaimable | RegionKind::AcpiNvs)
            )
    };
    Ok(
        if usable(start) && usable(end.saturating_sub(1).max(start)) {
            Place::Ram
        } else {
            Place::Other
        },
    )
}

/// Is this whole range RAM that the guest may use?
pub fn is_ram(address: Gpa, len: usize) -> bool {
    matches!(place(address, len), Ok(Place::Ram))
}

/// Reads whatever is there. Whether a PAL's page may be read is for the caller to know.
///
/// # Errors
/// [`PhysMemError`]: the hypervisor's own memory, or beyond the machine's.
pub fn read(address: Gpa, into: &mut [u8]) -> Result<(), PhysMemError> {
    let from = layout::direct(Hpa::new(address.as_u64()));
    match place(address, into.len())? {
        Place::Ram => {
            // SAFETY: RAM in the direct map that is not the hypervisor's. The guest
            // may be writing it: bytes may tear, as on any other processor.
            unsafe { core::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) };
        }
        Place::Other => {
            for (offset, byte) in (address.as_u64()..).zip(into) {
                let word = layout::direct(Hpa::new(offset & !3)).cast::<u32>();
                // SAFETY: mapped, aligned; reading a device's register is what the
                // person asked for.
                let word = unsafe { word.read_volatile() };
                *byte = word.to_le_bytes()[(offset & 3) as usize];
            }
        }
    }
    Ok(())
}

/// Writes, whatever is there. Whether a PAL's page may be written is for the caller to
/// know.
///
/// # Errors
/// [`PhysMemError`]: as [`read`]; and outside RAM, what is not whole aligned 32-bit
/// words.
pub fn write(address: Gpa, from: &[u8]) -> Result<(), PhysMemError> {
    let to = layout::direct(Hpa::new(address.as_u64()));
    match place(address, from.len())? {
        Place::Ram => {
            // SAFETY: RAM in the direct map that is not the hypervisor's.
            unsafe { core::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
        }
        Place::Other => {
            let (words, rest) = from.as_chunks::<4>();
            if address.as_u64() & 3 != 0 || !rest.is_empty() {
                return Err(PhysMemError(address));
            }
            for (slot, word) in words.iter().enumerate() {
                // SAFETY: mapped, aligned; writing a device's register is what the
                // person asked for.
                unsafe {
                    to.cast::<u32>()
                        .add(slot)
                        .write_volatile(u32::from_le_bytes(*word))
                };
            }
        }
    }
    Ok(())
}
