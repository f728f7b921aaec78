//! Lands an NMI on a chosen instruction of the VM-entry sequence.
//!
//! The guest arms it and sends itself an NMI. Its VM exit leaves NMIs blocked, and
//! this time they stay so: the CPU sends itself another NMI, which the processor
//! keeps, and sets an instruction breakpoint at the chosen address. The #DB
//! handler's IRET unblocks NMIs, so the one that is kept is taken there, before
//! the instruction. The first NMI is used up; the guest is to see the second.

use core::arch::asm;
use core::sync::atomic::{AtomicU64, Ordering::SeqCst};

use crate::cpu::apic::{self, Ipi};
use crate::cpu::interrupts::Frame;
use crate::vmx::entry;

/// Where to; 0: nowhere. One CPU at a time aims.
static TARGET: AtomicU64 = AtomicU64::new(0);
/// The guest's DR0 while ours is in use, and its DR6.
static KEPT: [AtomicU64; 2] = [const { AtomicU64::new(0) }; 2];
static AIMED: AtomicU64 = AtomicU64::new(0);
static HITS: AtomicU64 = AtomicU64::new(0);

/// How far before the restartable part aims begin, to take in the last look.
const BEFORE: u64 = 16;

/// Aims at a byte, counted from shortly before the sequence. Returns how many aims
/// have hit an instruction, and VMRESUME's place.
pub fn arm(offset: u64) -> [u64; 2] {
    let (begin, end) = entry::restartable();
    let start = begin - BEFORE;
    // SAFETY: the hypervisor's own code, linked and never written.
    let code = unsafe { core::slice::from_raw_parts(start as *const u8, (end - start) as usize) };
    let resume = code
        .windows(3)
        .position(|bytes| bytes == [0x0f, 0x01, 0xc3]);
    TARGET.store(start.wrapping_add(offset), SeqCst);
    [HITS.load(SeqCst), resume.map_or(0, |at| at as u64)]
}

/// An NMI's VM exit. True: it was the one that begins an aim, and NMIs stay blocked.
pub fn nmi_exit() -> bool {
    if AIMED.swap(0, SeqCst) != 0 {
        // No instruction begins at the target, and the NMI has come after the entry.
        put_back();
    }
    let target = TARGET.swap(0, SeqCst);
    if target == 0 {
        return false;
    }
    let (dr0, dr6): (u64, u64);
    // SAFETY: the guest's DR0 and DR6 are put back; DR7 is loaded by every VM entry
    // and reset by every VM exit.
    unsafe {
        asm!("mov {}, dr0", "mov {}, dr6", out(reg) dr0, out(reg) dr6);
        KEPT[0].store(dr0, SeqCst);
        KEPT[1].store(dr6, SeqCst);
        AIMED.store(1, SeqCst);
        apic::send(apic::id(), Ipi::Nmi);
        asm!("mov dr0, {}", "mov dr7, {}", in(reg) target, in(reg) 0x402_u64);
    }
    true
}

/// #DB in the hypervisor. True: it was the aim's.
pub fn debug_exception(frame: &mut Frame) -> bool {
    const RF: u64 = 1 << 16;
    if frame.vector != 1 || AIMED.swap(0, SeqCst) == 0 {
        return false;
    }
    put_back();
    HITS.fetch_add(1, SeqCst);
    frame.rflags |= RF;
    true
}

fn put_back() {
    // SAFETY: what `nmi_exit` found.
    unsafe {
        asm!("mov dr7, {}", "mov dr0, {}", "mov dr6, {}",
             in(reg) 0x400_u64, in(reg) KEPT[0].load(SeqCst), in(reg) KEPT[1].load(SeqCst));
    }
}
