//! The guest's view of physical memory: one EPT for all CPUs, and a second root
//! in which the hypervisor's range reads as zeros. What the tables hold is
//! decided by [`stillpoint_core::ept`]. Pages that are lent to a PAL ([`crate::pal`])
//! carry its number in their entry.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed, Ordering::SeqCst};

use spin::{Mutex, Once};
use stillpoint_core::addr::{Gpa, Hpa, PAGE_SIZE, PhysRange};
use stillpoint_core::ept::{
    self, EptError, IdentityMap, IdentityPlan, Page, Permissions, TableMemory, default_limit, eptp,
};
use stillpoint_core::mtrr::{MemoryType, Mtrrs};
use stillpoint_core::vmcs_plan::VmxMsrs;
use vmcs_inspect::Field;

use super::instructions::{invept_all, set};
use super::state::capabilities;
use crate::cpu::msr;
use crate::cpu::percpu::PerCpu;
use crate::memory::frames::FRAMES;
use crate::memory::layout;
use crate::memory::pool::Chain;

/// Page tables in the hypervisor's frames.
struct Tables;

impl TableMemory for Tables {
    fn allocate(&mut self) -> Option<Hpa> {
        FRAMES.allocate(1).ok()
    }

    fn read(&self, table: Hpa, index: usize) -> u64 {
        layout::read_entry(table, index)
    }

    fn write(&mut self, table: Hpa, index: usize, entry: u64) {
        layout::write_entry(table, index, entry);
    }
}

struct State {
    map: IdentityMap,
    mtrrs: Mtrrs,
    /// Tables that lending pages has taken.
    splits: Chain,
}

/// What the VMCS is to hold.
#[derive(Clone, Copy)]
struct Pointers {
    guest: u64,
    zero_view: u64,
    root: Hpa,
    hole: PhysRange,
    /// A page of ones.
    decoy: Hpa,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);
static POINTERS: Once<Pointers> = Once::new();

/// Grows whenever a translation has changed: each CPU drops its cached ones when
/// it next looks, which is before it runs the guest again.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// For each 2 MiB of the first 16 GiB: the page table that has their entries, or 0 if no
/// page there has been lent. Saves walks where instructions count.
static PAGE_TABLES: [AtomicU64; 8192] = [const { AtomicU64::new(0) }; 8192];

/// The tag of a page that PALs and the guest share, to be read and executed.
pub const SHARED_CODE: u8 = Page::MAX_TAG;

/// Builds the tables.
///
/// # Errors
/// [`EptError`]
pub fn init(hole: PhysRange, end_of_ram: u64) -> Result<(), EptError> {
    let zero_page = FRAMES.allocate(1).map_err(|_| EptError::OutOfTables)?;
    let decoy = FRAMES.allocate(1).map_err(|_| EptError::OutOfTables)?;
    // SAFETY: a fresh frame, in the direct map.
    unsafe { layout::direct(decoy).write_bytes(0xff, PAGE_SIZE as usize) };
    let mtrrs = msr::mtrrs();
    let capabilities = capabilities();
    let pages_1g = VmxMsrs::from(&capabilities).ept_pages_1g();
    let width = capabilities.cpuid.physical_address_width;
    let plan = IdentityPlan {
        mtrrs: &mtrrs,
        hole,
        zero_page,
        limit: default_limit(width, pages_1g, end_of_ram),
        pages_1g,
    };
    let map = IdentityMap::build(&mut Tables, &plan)?;
    POINTERS.call_once(|| Pointers {
        guest: eptp(map.root()),
        zero_view: eptp(map.zero_root()),
        root: map.root(),
        hole,
        decoy,
    });
    *STATE.lock() = Some(State {
        map,
        mtrrs,
        splits: Chain::EMPTY,
    });
    Ok(())
}

/// Is this the hypervisor's own memory?
pub fn is_hypervisors(gpa: u64) -> bool {
    POINTERS.get().is_some_and(|p| p.hole.contains(gpa))
}

/// The hypervisor's own memory.
pub fn hypervisors_range() -> PhysRange {
    POINTERS.get().map_or_else(PhysRange::default, |p| p.hole)
}

/// Makes the guest's ordinary view current on this CPU.
pub fn use_guest_view() {
    if let Some(pointers) = POINTERS.get() {
        set(Field::EPT_POINTER, pointers.guest);
    }
}

/// Makes the view current in which the hypervisor's memory reads as zeros.
pub fn use_zero_view() {
    if let Some(pointers) = POINTERS.get() {
        set(Field::EPT_POINTER, pointers.zero_view);
    }
}

/// Makes a PAL's view current on this CPU.
pub fn use_view(eptp: u64) {
    set(Field::EPT_POINTER, eptp);
}

/// Whom a page is lent to: 0 for a page that is the guest's own.
#[inline]
pub fn tag_of(gpa: u64) -> u8 {
    // Entries change with the machine stopped alone, so no lock is needed.
    match PAGE_TABLES.get((gpa >> 21) as usize) {
        Some(table) => match table.load(Relaxed) {
            0 => 0,
            table => ept::tag(&Tables, Hpa::new(table), Gpa::new(gpa)),
        },
        None => page_table(gpa).map_or(0, |table| ept::tag(&Tables, table, Gpa::new(gpa))),
    }
}

/// Has none of the pages near this one been lent? A cheap yes.
#[inline(always)]
pub fn none_lent_near(gpa: u64) -> bool {
    PAGE_TABLES
        .get((gpa >> 21) as usize)
        .is_some_and(|table| table.load(Relaxed) == 0)
}

fn page_table(gpa: u64) -> Option<Hpa> {
    ept::page_table(&Tables, POINTERS.get()?.root, Gpa::new(gpa))
}

/// Lends a page of the guest's out, with the machine stopped: the guest can do nothing
/// with it any more, or, with [`SHARED_CODE`], read and execute it. Answers its memory
/// type. [`views_changed`] is to follow.
///
/// # Errors
/// [`EptError`], nothing being changed.
pub fn lend(gpa: Gpa, tag: u8) -> Result<MemoryType, EptError> {
    let permissions = match tag {
        SHARED_CODE => Permissions::READ | Permissions::EXECUTE,
        _ => Permissions::empty(),
    };
    let page = Page {
        permissions,
        tag,
        ..Page::own(gpa)
    };
    let (table, memory_type) = set_page(gpa, page)?;
    if let Some(place) = PAGE_TABLES.get((gpa.as_u64() >> 21) as usize) {
        place.store(table.as_u64(), Relaxed);
    }
    Ok(memory_type)
}

/// Gives a page that was lent back to the guest, with the machine stopped.
/// [`views_changed`] is to follow.
pub fn give_back(gpa: Gpa) {
    let _its_table_is_there = set_page(gpa, Page::own(gpa));
}

/// Takes the page tables back that lending pages has made and that no lent page needs any
/// more, with the machine stopped. [`views_changed`] is to follow.
pub fn join() {
    let mut state = STATE.lock();
    let Some(State { map, splits, .. }) = state.as_mut() else {
        return;
    };
    splits.release_if(|table| {
        // A directory is none: as many frames as there are GiB to split can stay.
        let Some(region) = ept::own_region(&Tables, table) else {
            return false;
        };
        let joined = map.join(&mut Tables, region) == Some(table);
        if joined && let Some(place) = PAGE_TABLES.get((region.as_u64() >> 21) as usize) {
            place.store(0, Relaxed);
        }
        joined
    });
}

/// Lets the guest read ones where a page is lent. No CPU has a translation for it yet.
pub fn show_decoy(gpa: Gpa, tag: u8) {
    let Some(pointers) = POINTERS.get() else {
        return;
    };
    let page = Page {
        hpa: pointers.decoy,
        permissions: Permissions::READ,
        tag,
    };
    let _its_table_is_there = set_page(gpa, page);
}

fn set_page(gpa: Gpa, page: Page) -> Result<(Hpa, MemoryType), EptError> {
    let mut state = STATE.lock();
    let state = state.as_mut().ok_or(EptError::OutOfTables)?;
    state.map.set_page(&mut state.splits, gpa, page)
}

/// Translations have changed: every CPU drops its cached ones before it runs the guest
/// again. With the machine stopped.
pub fn views_changed() {
    EPOCH.fetch_add(1, SeqCst);
}

/// Maps the page at an address past what the tables cover so far. No CPU has a
/// translation for it yet, so none needs to be dropped.
///
/// # Errors
/// [`EptError`]: there is no such physical address, or no memory for tables.
pub fn map_on_demand(gpa: Gpa) -> Result<(), EptError> {
    let mut state = STATE.lock();
    let state = state.as_mut().ok_or(EptError::OutOfTables)?;
    state
        .map
        .map_on_demand(&mut Tables, &state.mtrrs, gpa)
        .map(|_| ())
}

/// Reads the MTRRs again; returns whether they say something new. The caller
/// stops the machine and calls [`apply_memory_types`] then.
pub fn memory_types_changed() -> bool {
    let now = msr::mtrrs();
    STATE
        .lock()
        .as_ref()
        .is_some_and(|state| state.mtrrs != now)
}

/// Gives every page the type that the MTRRs have now, and returns how many became
/// uncacheable for want of memory to split them. With the machine stopped.
pub fn apply_memory_types() -> usize {
    let mut state = STATE.lock();
    let Some(state) = state.as_mut() else {
        return 0;
    };
    state.mtrrs = msr::mtrrs();
    let unsplit = state.map.set_memory_types(&mut Tables, &state.mtrrs);
    views_changed();
    unsplit
}

/// Drops this CPU's cached translations if any has changed since it last did.
pub fn catch_up(cpu: &PerCpu) {
    let epoch = EPOCH.load(SeqCst);
    if cpu.ept_epoch.swap(epoch, SeqCst) != epoch {
        invept_all();
    }
}

/// Tables that the two views take, for `monitor version`. 0 if a CPU has failed
/// while it changed them.
pub fn table_count() -> usize {
    let state = STATE.try_lock();
    state
        .as_deref()
        .and_then(Option::as_ref)
        .map_or(0, |state| state.map.tables())
}
