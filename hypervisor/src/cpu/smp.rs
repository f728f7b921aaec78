//! Starting the other CPUs, once, at boot.

use core::sync::atomic::{AtomicUsize, Ordering};

use stillpoint_core::addr::Hpa;

use super::apic::{self, Ipi};
use super::percpu::{self, PerCpu};
use crate::memory::layout;
use crate::memory::tables::HostTables;
use crate::{clock, log::log};

/// The page below 1 MiB that the trampoline is copied to. Conventional memory
/// that neither the BIOS nor the guest's boot sector uses; it is put back.
const TRAMPOLINE: u64 = 0x8000;

/// How long a CPU may take to answer its SIPI, in milliseconds.
const START_LIMIT_MS: u64 = 200;

unsafe extern "C" {
    static ap_trampoline: u8;
    static ap_trampoline_cr3: u8;
    static ap_trampoline_entry: u8;
    static ap_trampoline_stack: u8;
    static ap_trampoline_end: u8;
}

/// CPUs that have arrived in Rust code.
static ARRIVED: AtomicUsize = AtomicUsize::new(0);
/// The CPU that is being started.
static STARTING: AtomicUsize = AtomicUsize::new(0);

/// A CPU that firmware lists did not start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotStarted {
    /// Its APIC identifier.
    pub apic_id: u32,
}

fn set(field: *const u8, value: u64) {
    let offset = field as u64 - &raw const ap_trampoline as u64;
    // SAFETY: the field lies in the copy of the trampoline at TRAMPOLINE.
    unsafe {
        layout::direct(Hpa::new(TRAMPOLINE + offset))
            .cast::<u64>()
            .write_unaligned(value);
    }
}

/// Starts every CPU but this one; each ends in `main`. Returns when all have
/// called [`arrived`].
///
/// # Errors
/// [`NotStarted`]
pub fn start_others(tables: HostTables, main: extern "C" fn() -> !) -> Result<(), NotStarted> {
    let code = &raw const ap_trampoline;
    let len = &raw const ap_trampoline_end as usize - code as usize;
    let page = layout::direct(Hpa::new(TRAMPOLINE));
    let mut kept = [0u8; 4096];
    // SAFETY: the page is conventional memory, used by nobody meanwhile.
    unsafe {
        core::ptr::copy_nonoverlapping(page, kept.as_mut_ptr(), kept.len());
        core::ptr::copy_nonoverlapping(code, page, len);
    }
    set(&raw const ap_trampoline_cr3, tables.start_up_root.as_u64());
    set(&raw const ap_trampoline_entry, main as *const () as u64);
    let result = percpu::all().iter().skip(1).try_for_each(|cpu| start(cpu));
    // SAFETY: as above; every CPU has left the trampoline when it has arrived.
    unsafe { core::ptr::copy_nonoverlapping(kept.as_ptr(), page, kept.len()) };
    result
}

fn start(cpu: &PerCpu) -> Result<(), NotStarted> {
    set(&raw const ap_trampoline_stack, cpu.stack);
    STARTING.store(cpu.index, Ordering::SeqCst);
    apic::send(cpu.apic_id, Ipi::Init);
    clock::wait_us(10_000);
    for _ in 0..2 {
        apic::send(cpu.apic_id, Ipi::StartUp((TRAMPOLINE >> 12) as u8));
        let limit = clock::now_us() + START_LIMIT_MS * 1000;
        while clock::now_us() < limit {
            if ARRIVED.load(Ordering::SeqCst) >= cpu.index {
                return Ok(());
            }
            core::hint::spin_loop();
        }
    }
    log!(
        "CPU {} (APIC {:#x}) did not answer its start-up IPI",
        cpu.index,
        cpu.apic_id
    );
    Err(NotStarted {
        apic_id: cpu.apic_id,
    })
}

/// The state of the CPU that has just come out of the trampoline.
pub fn starting() -> &'static PerCpu {
    percpu::all()[STARTING.load(Ordering::SeqCst)]
}

/// This CPU needs neither trampoline nor boot processor any more.
pub fn arrived() {
    ARRIVED.fetch_add(1, Ordering::SeqCst);
}
