//! The guest's view of physical memory: one EPT for all CPUs, and a second root
//! in which the hypervisor's range reads as zeros. What the tables hold is
//! decided by [`stillpoint_core::ept`].

use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use spin::{Mutex, Once};
use stillpoint_core::addr::{Gpa, Hpa, PhysRange};
use stillpoint_core::ept::{EptError, IdentityMap, IdentityPlan, TableMemory, default_limit, eptp};
use stillpoint_core::mtrr::Mtrrs;
use stillpoint_core::vmcs_plan::VmxMsrs;
use vmcs_inspect::Field;

use super::instructions::{invept_all, set};
use super::state::capabilities;
use crate::cpu::msr;
use crate::cpu::percpu::PerCpu;
use crate::memory::frames::FRAMES;
use crate::memory::layout;

/// Page tables in the hypervisor's frames.
struct Tables;

impl TableMemory for Tables {
    fn allocate(&mut self) -> Option<Hpa> {
        FRAMES.allocate(1).ok()
    }

    fn read(&self, table: Hpa, index: usize) -> u64 {
        // SAFETY: a table that `allocate` gave out; index < 512 by the trait.
        unsafe {
            layout::direct(table)
                .cast::<u64>()
                .add(index)
                .read_volatile()
        }
    }

    fn write(&mut self, table: Hpa, index: usize, entry: u64) {
        // SAFETY: as in `read`; an aligned store is seen whole by the processor.
        unsafe {
            layout::direct(table)
                .cast::<u64>()
                .add(index)
                .write_volatile(entry);
        }
    }
}

struct State {
    map: IdentityMap,
    mtrrs: Mtrrs,
}

/// What the VMCS is to hold.
#[derive(Clone, Copy)]
struct Pointers {
    guest: u64,
    zero_view: u64,
    hole: PhysRange,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);
static POINTERS: Once<Pointers> = Once::new();

/// Grows whenever a translation has changed: each CPU drops its cached ones when
/// it next looks, which is before it runs the guest again.
static EPOCH: AtomicU64 = AtomicU64::new(0);

/// Builds the tables.
///
/// # Errors
/// [`EptError`]
pub fn init(hole: PhysRange, end_of_ram: u64) -> Result<(), EptError> {
    let zero_page = FRAMES.allocate(1).map_err(|_| EptError::OutOfTables)?;
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
        hole,
    });
    *STATE.lock() = Some(State { map, mtrrs });
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
    EPOCH.fetch_add(1, SeqCst);
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
