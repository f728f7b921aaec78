//! Ends and restarts: the emulator's shutdown port, and three ways to reset.

use core::arch::asm;

use x86_64::instructions::port::Port;

use crate::{cpu, descriptors};

/// Ends the emulator (Bochs' and QEMU's BIOSes' "Shutdown" on port 0x8900);
/// elsewhere it does nothing, and the CPU halts.
pub fn off() -> ! {
    crate::console::drain();
    for byte in *b"Shutdown" {
        // SAFETY: no device but an emulator's listens there.
        unsafe { Port::new(0x8900).write(byte) };
    }
    cpu::park()
}

/// Pulses the reset line by the keyboard controller.
pub fn reset_by_keyboard() {
    // SAFETY: resetting the machine is what the caller wants.
    unsafe { Port::new(0x64_u16).write(0xfe_u8) };
}

/// A hard reset by the chipset's reset control register.
pub fn reset_by_chipset() {
    // SAFETY: as above.
    unsafe {
        Port::new(0xcf9_u16).write(0x02_u8);
        Port::new(0xcf9_u16).write(0x06_u8);
    }
}

/// An exception with no IDT: a triple fault.
pub fn triple_fault() {
    descriptors::load_idt(&descriptors::TablePointer::default());
    // SAFETY: the processor shuts down here; that is the purpose.
    unsafe { asm!("ud2", options(nostack)) };
}

/// Reads a byte of the CMOS memory.
pub fn read_cmos(index: u8) -> u8 {
    // SAFETY: NMI stays enabled (bit 7 clear); reading changes nothing.
    unsafe {
        Port::new(0x70_u16).write(index & 0x7f);
        Port::new(0x71_u16).read()
    }
}

/// Writes a byte of the CMOS memory.
pub fn write_cmos(index: u8, value: u8) {
    // SAFETY: the callers write a byte that firmware does not use.
    unsafe {
        Port::new(0x70_u16).write(index & 0x7f);
        Port::new(0x71_u16).write(value);
    }
}
