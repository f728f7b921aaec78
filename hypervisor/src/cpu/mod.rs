//! One processor, below VMX: registers, descriptor tables, interrupts, the local
//! APIC, and the state that the hypervisor keeps for each.

pub mod apic;
pub mod descriptors;
pub mod entropy;
pub mod faults;
pub mod interrupts;
pub mod msr;
pub mod percpu;
pub mod smp;

use core::arch::asm;
use core::arch::x86_64::{_mm_clflush, _mm_mfence};

/// Stops this CPU for good; NMIs wake it for nothing.
pub fn halt_forever() -> ! {
    loop {
        // SAFETY: no memory is touched; interrupts are off in the hypervisor.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Writes memory back from every CPU's caches: a reset of the machine drops what only they
/// hold (Intel SDM vol. 3, 10.1.1 "Processor State After Reset").
pub fn write_back(start: *const u8, len: usize) {
    // No processor with VMX has shorter lines.
    const LINE: usize = 64;
    let end = start.wrapping_add(len);
    let mut line = start.map_addr(|address| address & !(LINE - 1));
    while line < end {
        // SAFETY: changes nothing, and the caller's memory is mapped.
        unsafe { _mm_clflush(line) };
        line = line.wrapping_add(LINE);
    }
    // SAFETY: CLFLUSH is through before what comes next.
    unsafe { _mm_mfence() };
}

/// The time-stamp counter.
pub fn tsc() -> u64 {
    // SAFETY: RDTSC is allowed in ring 0 and touches nothing.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// Ends the blocking of NMIs that an NMI's VM exit left behind (Intel SDM vol. 3,
/// 28.1 "Architectural State Before a VM Exit"): IRET does, to the next
/// instruction.
pub fn unblock_nmis() {
    // SAFETY: the frame pushed is the current state, so IRETQ continues at the
    // label with everything as it was. The red zone is not in use in our code.
    unsafe {
        asm!(
            "mov {stack}, rsp",
            "mov {segment:e}, ss",
            "push {segment}",
            "push {stack}",
            "pushfq",
            "mov {segment:e}, cs",
            "push {segment}",
            "lea {segment}, [rip + 2f]",
            "push {segment}",
            "iretq",
            "2:",
            stack = out(reg) _,
            segment = out(reg) _,
        );
    }
}
