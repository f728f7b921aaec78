//! Instructions that have no safe form in `core`, under their names.
//!
//! Tests execute them to see them fault, so none of the wrappers here is
//! `unsafe`: the guest is alone on its machine, and trap.rs catches faults.

use core::arch::asm;
use core::arch::x86_64::CpuidResult;

pub use core::arch::x86_64::{__cpuid_count as cpuid_count, _rdtsc};

/// CPUID with ECX = 0.
pub fn cpuid(leaf: u32) -> CpuidResult {
    cpuid_count(leaf, 0)
}

/// The time-stamp counter.
pub fn rdtsc() -> u64 {
    // SAFETY: CR4.TSD is clear except in the test that sets it and expects the fault.
    unsafe { _rdtsc() }
}

/// RDMSR.
pub fn rdmsr(number: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading an MSR changes no memory; a fault is caught by the test.
    unsafe {
        asm!("rdmsr", in("ecx") number, out("eax") low, out("edx") high, options(nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// WRMSR. The test answers for the value: it restores what it changes.
pub fn wrmsr(number: u32, value: u64) {
    // SAFETY: the tests write values that keep this guest's memory as it is,
    // or that fault.
    unsafe {
        asm!("wrmsr", in("ecx") number, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack));
    }
}

/// XGETBV.
pub fn xgetbv(register: u32) -> u64 {
    let (low, high): (u32, u32);
    // SAFETY: reading XCR0 changes nothing; a fault is caught by the test.
    unsafe {
        asm!("xgetbv", in("ecx") register, out("eax") low, out("edx") high, options(nomem, nostack));
    }
    u64::from(high) << 32 | u64::from(low)
}

/// XSETBV.
pub fn xsetbv(register: u32, value: u64) {
    // SAFETY: the compiler's code uses x87 and SSE state alone, which stays
    // enabled in every value that does not fault.
    unsafe {
        asm!("xsetbv", in("ecx") register, in("eax") value as u32, in("edx") (value >> 32) as u32,
             options(nostack));
    }
}

/// Defines the read and write of one register by MOV.
macro_rules! move_register {
    ($read:ident, $write:ident, $name:literal) => {
        #[doc = concat!("Reads ", $name, ".")]
        pub fn $read() -> u64 {
            let value: u64;
            // SAFETY: reading the register has no effect.
            unsafe { asm!(concat!("mov {}, ", $name), out(reg) value, options(nostack)) };
            value
        }

        #[doc = concat!("Writes ", $name, ".")]
        pub fn $write(value: u64) {
            // SAFETY: the tests write values that keep the identity mapping
            // and 64-bit mode, or that fault.
            unsafe { asm!(concat!("mov ", $name, ", {}"), in(reg) value, options(nostack)) };
        }
    };
}

move_register!(read_cr0, write_cr0, "cr0");
move_register!(read_cr3, write_cr3, "cr3");
move_register!(read_cr4, write_cr4, "cr4");
move_register!(read_cr8, write_cr8, "cr8");
move_register!(read_dr0, write_dr0, "dr0");
move_register!(read_dr3, write_dr3, "dr3");
move_register!(read_dr6, write_dr6, "dr6");
move_register!(read_dr7, write_dr7, "dr7");

/// CR2: the address of the last page fault.
pub fn read_cr2() -> u64 {
    let value: u64;
    // SAFETY: reading the register has no effect.
    unsafe { asm!("mov {}, cr2", out(reg) value, options(nostack)) };
    value
}

/// PAUSE.
pub fn pause() {
    core::hint::spin_loop();
}

/// CLI and HLT for good.
pub fn park() -> ! {
    loop {
        // SAFETY: this CPU has nothing left to do.
        unsafe { asm!("cli", "hlt", options(nomem, nostack)) };
    }
}

/// Spins until `done`, or until `ticks` of the time-stamp counter have gone by.
/// Whether it was done.
pub fn wait_until(ticks: u64, mut done: impl FnMut() -> bool) -> bool {
    let start = rdtsc();
    while !done() {
        if rdtsc().wrapping_sub(start) > ticks {
            return done();
        }
        pause();
    }
    true
}
