//! The local APIC's registers in xAPIC mode (Intel SDM vol. 3, ch. 11), as a root
//! process gets at them through `/dev/mem`. Used by `nmi_storm`.
//!
//! Kernels with `CONFIG_IO_STRICT_DEVMEM`, Debian's among them, allow that with
//! `iomem=relaxed` on their command line alone.

use std::fs::File;
use std::io;
use std::ptr;

use rustix::mm::{MapFlags, ProtFlags, mmap};

/// Where the registers are unless somebody has moved them.
const BASE: u64 = 0xfee0_0000;
const PAGE: usize = 4096;

/// Interrupt command register.
const ICR_LOW: usize = 0x300;
const ICR_HIGH: usize = 0x310;

/// Delivery mode NMI, level assert.
const NMI: u32 = 4 << 8 | 1 << 14;
/// Destination shorthand: all but the sender.
const ALL_BUT_SELF: u32 = 3 << 18;
/// Delivery status: not sent yet.
const PENDING: u32 = 1 << 12;

/// The registers of whichever CPU this process runs on.
pub struct LocalApic(*mut u32);

impl LocalApic {
    /// Maps them.
    pub fn open() -> io::Result<Self> {
        let memory = File::options().read(true).write(true).open("/dev/mem")?;
        // SAFETY: a new mapping, of registers and not of memory that Rust knows.
        let page = unsafe {
            mmap(
                ptr::null_mut(),
                PAGE,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED,
                &memory,
                BASE,
            )
        }?;
        Ok(Self(page.cast()))
    }

    /// Sends an NMI to one CPU. The kernel may use the register between the two
    /// writes; the NMI then goes to the CPU that the kernel last sent to.
    pub fn send_nmi(&self, apic_id: u32) {
        self.write(ICR_HIGH, apic_id << 24);
        self.command(NMI);
    }

    /// Sends an NMI to every CPU but this process's.
    pub fn send_nmi_to_others(&self) {
        self.command(NMI | ALL_BUT_SELF);
    }

    fn command(&self, command: u32) {
        self.write(ICR_LOW, command);
        while self.read(ICR_LOW) & PENDING != 0 {
            std::hint::spin_loop();
        }
    }

    fn read(&self, register: usize) -> u32 {
        // SAFETY: the register lies in the page that `open` mapped for good.
        unsafe { self.0.byte_add(register).read_volatile() }
    }

    fn write(&self, register: usize, value: u32) {
        // SAFETY: as in `read`. Of the interrupts that this file sends, none touches
        // this process's memory.
        unsafe { self.0.byte_add(register).write_volatile(value) }
    }
}
