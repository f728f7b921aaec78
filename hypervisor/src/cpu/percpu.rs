//! What the hypervisor keeps for each CPU. Found through the GS base, which
//! every VM exit loads from the VMCS.
//!
//! [`PerCpu`] itself is shared: other CPUs read it, and all that changes in it is
//! atomic. What only its own CPU touches, the [`Vcpu`](crate::vmx::vcpu::Vcpu),
//! is owned by that CPU's run loop and lent from there.

use core::arch::asm;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering::Relaxed};

use spin::Once;
use stillpoint_core::addr::PAGE_SIZE;
use stillpoint_trace::TraceRing;

use super::descriptors::{Descriptors, IST_STACKS};
use super::msr;
use crate::debug::remote::RequestSlot;
use crate::log::LogRing;
use crate::memory::frames::{FRAMES, OutOfFrames};
use crate::memory::layout;
use crate::pal::fpu::{self, XsaveArea};
use crate::vmx::vcpu::{Published, Vcpu};
use crate::{RENDEZVOUS, trace};

/// The most CPUs that the hypervisor runs on.
pub const MAX_CPUS: usize = gdb_stub::machine::MAX_CPUS;

/// Basic exit reasons that are counted.
pub const EXIT_REASONS: usize = gdb_stub::machine::EXIT_REASONS;

/// Bytes of the stack that a CPU runs the hypervisor on, and of the one that the
/// debugger gets after a fault.
const STACK_SIZE: u64 = 64 * 1024;

/// Bytes of each interrupt stack.
const IST_STACK_SIZE: u64 = 8 * 1024;

/// One CPU's state.
#[repr(C)]
pub struct PerCpu {
    /// Its own address, so that `gs:[0]` finds it.
    this: AtomicU64,
    /// This CPU's word in the rendezvous, for [`crate::vmx::entry`].
    word: &'static AtomicU32,
    /// The local APIC's identifier.
    pub apic_id: u32,
    /// Dense number, 0 for the bootstrap processor.
    pub index: usize,
    /// GDT, TSS and what they point at.
    pub descriptors: Once<Descriptors>,
    /// The end of the stack that the debugger runs on after a fault.
    pub debugger_stack: u64,
    /// The end of the stack that the CPU starts on.
    pub stack: u64,
    /// Where the vector state of a PAL's caller waits.
    pub xsave_area: XsaveArea,
    /// The EPT changes that this CPU has caught up with; see [`crate::vmx::ept`].
    pub ept_epoch: AtomicU64,
    /// VM exits by basic reason.
    pub exits: [AtomicU64; EXIT_REASONS],
    /// Reads and writes by the guest of the hypervisor's own range.
    pub range_reads: AtomicU64,
    /// See `range_reads`.
    pub range_writes: AtomicU64,
    /// Lines that this CPU logged.
    pub log: LogRing,
    /// What happened to this CPU.
    pub trace: TraceRing,
    /// What the owner of a stop asks of this CPU.
    pub work: RequestSlot,
    /// What is left to read of this CPU while it is parked.
    pub published: Published,
    /// The CPU's `Vcpu`, for the code that a fault has cut off from it.
    pub vcpu: AtomicPtr<Vcpu>,
}

/// Offset of the pointer to the CPU's word, for the entry sequence.
pub const WORD_OFFSET: usize = core::mem::offset_of!(PerCpu, word);

impl PerCpu {
    /// The guest of this CPU read the hypervisor's memory, and saw zeros.
    pub fn count_range_read(&self, gpa: u64) {
        trace::event(trace::Event::RangeRead { gpa });
        self.range_reads.fetch_add(1, Relaxed);
    }

    /// The guest of this CPU wrote the hypervisor's memory, and gets #GP.
    pub fn count_range_write(&self, gpa: u64) {
        trace::event(trace::Event::RangeWrite { gpa });
        self.range_writes.fetch_add(1, Relaxed);
    }
}

static CPUS: Once<&'static [&'static PerCpu]> = Once::new();

/// Pages that one CPU's state and stacks take.
pub fn pages_per_cpu() -> u64 {
    let own = (size_of::<PerCpu>() as u64).div_ceil(PAGE_SIZE);
    own + fpu::area_pages() + (2 * STACK_SIZE + IST_STACKS as u64 * IST_STACK_SIZE) / PAGE_SIZE
}

/// Makes the state of all CPUs, from their APIC identifiers; the first is this
/// one's.
///
/// # Errors
/// [`OutOfFrames`]
pub fn init(apic_ids: &[u32]) -> Result<(), OutOfFrames> {
    let list = layout::direct(FRAMES.allocate(1)?).cast::<&'static PerCpu>();
    for (index, &apic_id) in apic_ids.iter().enumerate() {
        let pages = (size_of::<PerCpu>() as u64).div_ceil(PAGE_SIZE);
        let place = layout::direct(FRAMES.allocate(pages)?).cast::<PerCpu>();
        let stack = stack(STACK_SIZE)?;
        let debugger_stack = self::stack(STACK_SIZE)?;
        let xsave_area = layout::direct(FRAMES.allocate(fpu::area_pages())?);
        let mut ists = [0; IST_STACKS];
        for ist in &mut ists {
            *ist = self::stack(IST_STACK_SIZE)?;
        }
        // SAFETY: fresh frames, large enough, page-aligned, and zero, which is a
        // valid `PerCpu` but for the fields set here; MAX_CPUS pointers fit a page.
        let cpu = unsafe {
            (*place).this = AtomicU64::new(place as u64);
            (&raw mut (*place).word).write(RENDEZVOUS.word(index));
            (*place).apic_id = apic_id;
            (*place).index = index;
            (&raw mut (*place).descriptors).write(Once::new());
            (*place).debugger_stack = debugger_stack;
            (*place).stack = stack;
            (*place).xsave_area = XsaveArea::new(xsave_area);
            list.add(index).write(&*place);
            &*place
        };
        cpu.descriptors.call_once(|| Descriptors::new(&ists));
    }
    CPUS.call_once(|| {
        // SAFETY: the list was filled above and is never written again.
        unsafe { core::slice::from_raw_parts(list, apic_ids.len()) }
    });
    Ok(())
}

fn stack(bytes: u64) -> Result<u64, OutOfFrames> {
    Ok(layout::direct(FRAMES.allocate(bytes / PAGE_SIZE)?) as u64 + bytes)
}

/// All CPUs, by index; empty before [`init`].
pub fn all() -> &'static [&'static PerCpu] {
    CPUS.get().copied().unwrap_or(&[])
}

/// Makes `cpu` the state of the CPU that runs this.
pub fn install(cpu: &'static PerCpu) {
    let base = &raw const *cpu as u64;
    // SAFETY: nothing but `this` uses GS.
    let installed = unsafe { msr::write(msr::IA32_GS_BASE, base) };
    debug_assert!(installed.is_ok());
}

/// The state of the CPU that runs this. Only after [`install`].
pub fn this() -> &'static PerCpu {
    let cpu: *const PerCpu;
    // SAFETY: `install` made gs:[0] the address of a PerCpu that lives for ever.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) cpu, options(nostack, readonly, preserves_flags));
        &*cpu
    }
}
