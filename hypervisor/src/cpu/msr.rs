//! Model-specific registers, with the fault caught: the guest and the person at
//! the debugger name any they like.

use core::arch::asm;

use stillpoint_core::mtrr::Mtrrs;

/// RDMSR or WRMSR answered with #GP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MsrFault;

/// IA32_APIC_BASE
pub const IA32_APIC_BASE: u32 = 0x1b;
/// IA32_FEATURE_CONTROL
pub const IA32_FEATURE_CONTROL: u32 = 0x3a;
/// IA32_PAT
pub const IA32_PAT: u32 = 0x277;
/// IA32_EFER
pub const IA32_EFER: u32 = 0xc000_0080;
/// IA32_FS_BASE
pub const IA32_FS_BASE: u32 = 0xc000_0100;
/// IA32_GS_BASE
pub const IA32_GS_BASE: u32 = 0xc000_0101;
/// IA32_KERNEL_GS_BASE
pub const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// Reads an MSR.
///
/// # Errors
/// [`MsrFault`] where the processor faults.
pub fn read(index: u32) -> Result<u64, MsrFault> {
    let (low, high, fault): (u32, u32, u32);
    // SAFETY: a fault at label 2 continues at label 3 through the fault table,
    // with `fault` still 1.
    unsafe {
        asm!(
            "mov {fault:e}, 1",
            "2: rdmsr",
            "xor {fault:e}, {fault:e}",
            "3:",
            ".pushsection .fault_table, \"a\"",
            ".quad 2b, 3b",
            ".popsection",
            fault = out(reg) fault,
            in("ecx") index,
            out("eax") low,
            out("edx") high,
            options(nostack),
        );
    }
    if fault == 0 {
        Ok(u64::from(high) << 32 | u64::from(low))
    } else {
        Err(MsrFault)
    }
}

/// This CPU's MTRRs. Before there is an IDT too: no MSR is read that the processor
/// lacks.
pub fn mtrrs() -> Mtrrs {
    Mtrrs::read(|index| read(index).unwrap_or(0))
}

/// Writes an MSR.
///
/// # Safety
/// The value must leave the hypervisor's own environment intact: what the guest
/// may change natively is safe, what the hypervisor runs on (EFER, the bases of
/// FS and GS) is not.
///
/// # Errors
/// [`MsrFault`] where the processor faults.
pub unsafe fn write(index: u32, value: u64) -> Result<(), MsrFault> {
    let fault: u32;
    // SAFETY: as in `read`; the value is the caller's promise.
    unsafe {
        asm!(
            "mov {fault:e}, 1",
            "2: wrmsr",
            "xor {fault:e}, {fault:e}",
            "3:",
            ".pushsection .fault_table, \"a\"",
            ".quad 2b, 3b",
            ".popsection",
            fault = out(reg) fault,
            in("ecx") index,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack),
        );
    }
    if fault == 0 { Ok(()) } else { Err(MsrFault) }
}

/// XSETBV for XCR0, fault caught.
///
/// # Errors
/// [`MsrFault`] where the processor faults.
pub fn write_xcr0(value: u64) -> Result<(), MsrFault> {
    let fault: u32;
    // SAFETY: as in `read`. The hypervisor's own code uses SSE alone, which every
    // value that the processor accepts leaves usable.
    unsafe {
        asm!(
            "mov {fault:e}, 1",
            "2: xsetbv",
            "xor {fault:e}, {fault:e}",
            "3:",
            ".pushsection .fault_table, \"a\"",
            ".quad 2b, 3b",
            ".popsection",
            fault = out(reg) fault,
            in("ecx") 0,
            in("eax") value as u32,
            in("edx") (value >> 32) as u32,
            options(nostack),
        );
    }
    if fault == 0 { Ok(()) } else { Err(MsrFault) }
}
