//! Ports: COM2 is the debugger's or the guest's, COM1 always the guest's.

use core::arch::{asm, global_asm, naked_asm};

use x86_64::instructions::port::Port;

use crate::descriptors::Shared;
use crate::harness::{Context, Outcome, Test};
use crate::modes::{self, Level, far};
use crate::tests::{expect_gp, expect_trap};
use crate::trap::{Trap, attempt, vector};
use crate::{check, check_eq, tests};

/// Ports.
pub const TESTS: &[Test] = tests![
    com1_is_a_uart,
    com2_byte_accesses,
    com2_wide_accesses,
    com2_string_input,
    com2_string_output,
    com2_string_faults,
    com2_string_and_the_hypervisor,
    com2_string_addresses,
    com2_strings_in_real_mode,
    com2_in_ring_3,
];

const COM1: u16 = 0x3f8;
const COM2: u16 = 0x2f8;
/// Offset of the scratch register.
const SCRATCH: u16 = 7;

fn input(port: u16) -> u8 {
    // SAFETY: a UART's registers, or nothing.
    unsafe { Port::new(port).read() }
}

fn output(port: u16, value: u8) {
    // SAFETY: as above.
    unsafe { Port::new(port).write(value) }
}

fn com1_is_a_uart(_: &Context) -> Outcome {
    for value in [0x55, 0xaa, 0x00] {
        output(COM1 + SCRATCH, value);
        check_eq!(input(COM1 + SCRATCH), value, "scratch register");
    }
    Ok(())
}

fn com2_byte_accesses(context: &Context) -> Outcome {
    if context.config.com2_hidden {
        for offset in 0..8 {
            check_eq!(input(COM2 + offset), 0xff, "port {:#x}", COM2 + offset);
        }
        output(COM2 + SCRATCH, 0x5a);
        check_eq!(
            input(COM2 + SCRATCH),
            0xff,
            "scratch register after a write"
        );
    } else {
        for value in [0x5a, 0xa5, 0x00] {
            output(COM2 + SCRATCH, value);
            check_eq!(input(COM2 + SCRATCH), value, "scratch register");
        }
    }
    // The neighbours are never part of it.
    for port in [COM2 - 1, COM2 + 8] {
        check_eq!(input(port), 0xff, "port {port:#x}, which nothing answers");
    }
    Ok(())
}

fn com2_wide_accesses(context: &Context) -> Outcome {
    // Bits of RAX beyond the operand stay; a 32-bit operand clears the upper half.
    let (word, double): (u64, u64);
    // SAFETY: reads registers of a UART that no one drives.
    unsafe {
        asm!("in ax, dx", inout("rax") 0x1122_3344_5566_7788_u64 => word, in("dx") COM2 + 6);
        asm!("in eax, dx", inout("rax") 0x1122_3344_5566_7788_u64 => double, in("dx") COM2 + 4);
    }
    check_eq!(word >> 16, 0x1122_3344_5566, "upper bits after IN AX");
    check_eq!(double >> 32, 0, "upper half after IN EAX");
    if context.config.com2_hidden {
        check_eq!(word & 0xffff, 0xffff, "IN AX");
        check_eq!(double, 0xffff_ffff, "IN EAX");
        // One byte before COM2: the access touches it all the same.
        let straddling: u64;
        // SAFETY: as above.
        unsafe { asm!("in ax, dx", inout("rax") 0_u64 => straddling, in("dx") COM2 - 1) };
        check_eq!(straddling, 0xffff, "IN AX from the port before");
    }
    let byte: u64;
    // SAFETY: as above.
    unsafe { asm!("in al, dx", inout("rax") 0x1122_3344_5566_7788_u64 => byte, in("dx") COM2 + 7) };
    check_eq!(byte >> 8, 0x11_2233_4455_6677, "upper bits after IN AL");
    Ok(())
}

fn com2_string_input(context: &Context) -> Outcome {
    let mut buffer = [0x11_u8; 8];
    output(COM2 + SCRATCH, 0x42);
    let (rdi, rcx): (u64, u64);
    // SAFETY: writes six bytes of the buffer.
    unsafe {
        asm!("rep insb", inout("rdi") buffer.as_mut_ptr() => rdi, inout("rcx") 6_u64 => rcx,
             in("dx") COM2 + SCRATCH);
    }
    let expected = if context.config.com2_hidden {
        0xff
    } else {
        0x42
    };
    for byte in &buffer[..6] {
        check_eq!(*byte, expected, "byte read by INSB");
    }
    check_eq!(buffer[6], 0x11, "the byte after");
    check_eq!(rdi, buffer.as_ptr() as u64 + 6, "RDI");
    check_eq!(rcx, 0, "RCX");
    // Backwards, by words.
    let mut words = [0x1111_u16; 4];
    let rdi: u64;
    // SAFETY: writes the middle two words, from the upper one down.
    unsafe {
        asm!("std", "rep insw", "cld", inout("rdi") words.as_mut_ptr().add(2) => rdi,
             inout("rcx") 2_u64 => _, in("dx") COM2 + 6);
    }
    check_eq!(rdi, words.as_ptr() as u64, "RDI after two words down");
    check_eq!(words[0], 0x1111, "the word before");
    check_eq!(words[3], 0x1111, "the word after");
    if context.config.com2_hidden {
        check_eq!(words[1] & words[2], 0xffff, "words read by INSW");
    }
    Ok(())
}

fn com2_string_output(context: &Context) -> Outcome {
    let bytes = [0x10_u8, 0x20, 0x30];
    let (rsi, rcx): (u64, u64);
    // SAFETY: reads three bytes.
    unsafe {
        asm!("rep outsb", inout("rsi") bytes.as_ptr() => rsi, inout("rcx") 3_u64 => rcx,
             in("dx") COM2 + SCRATCH);
    }
    check_eq!(rsi, bytes.as_ptr() as u64 + 3, "RSI");
    check_eq!(rcx, 0, "RCX");
    let expected = if context.config.com2_hidden {
        0xff
    } else {
        0x30
    };
    check_eq!(input(COM2 + SCRATCH), expected, "scratch register");
    Ok(())
}

/// An address that no page maps: PML4 entry 5.
const ABSENT: u64 = 5 << 39;

/// The fault of a string instruction must leave its registers at the element
/// that faulted.
fn check_string_fault(what: &str, result: Result<(), Trap>, error: u64, count: u64) -> Outcome {
    let trap = expect_trap(what, result, vector::PF, error)?;
    check_eq!(trap.cr2, ABSENT, "{what}: CR2");
    check_eq!(trap.frame.rip, trap.frame.r11, "{what}: RIP");
    check_eq!(trap.frame.rcx, count, "{what}: RCX");
    Ok(())
}

fn com2_string_faults(_: &Context) -> Outcome {
    let input = attempt!("lea r11, [rip + 2f]", "2:", "rep insb",
        inout("rdi") ABSENT => _, inout("rcx") 3_u64 => _, in("dx") COM2 + SCRATCH, out("r11") _);
    check_string_fault("INSB to an absent page", input, 2, 3)?;
    let output = attempt!("lea r11, [rip + 2f]", "2:", "rep outsb",
        inout("rsi") ABSENT => _, inout("rcx") 3_u64 => _, in("dx") COM2 + SCRATCH, out("r11") _);
    check_string_fault("OUTSB from an absent page", output, 0, 3)?;
    let address = 1_u64 << 62;
    expect_gp(
        "INSB to a non-canonical address",
        attempt!("insb", inout("rdi") address => _, in("dx") COM2 + SCRATCH),
    )?;
    // No element: no access, no fault.
    let none = attempt!("rep insb", inout("rdi") ABSENT => _, inout("rcx") 0_u64 => _,
        in("dx") COM2 + SCRATCH);
    check!(none.is_ok(), "REP INSB of nothing faults");
    Ok(())
}

fn com2_string_and_the_hypervisor(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let range = super::memory::hypervisor_range()?;
    expect_gp(
        "INSB into the hypervisor's range",
        attempt!("insb", inout("rdi") range.start => _, in("dx") COM2 + SCRATCH),
    )?;
    check_eq!(
        super::memory::read_quad(range.start),
        0,
        "the range afterwards"
    );
    output(COM2 + SCRATCH, 0x77);
    let result = attempt!("outsb", inout("rsi") range.start => _, in("dx") COM2 + SCRATCH);
    check!(result.is_ok(), "OUTSB from the hypervisor's range faults");
    // What it sent is the range's contents as the guest sees them.
    let expected = if context.config.com2_hidden { 0xff } else { 0 };
    check_eq!(input(COM2 + SCRATCH), expected, "scratch register");
    Ok(())
}

fn com2_string_addresses(context: &Context) -> Outcome {
    let expected = if context.config.com2_hidden {
        0xff
    } else {
        0x24
    };
    output(COM2 + SCRATCH, 0x24);
    // A 32-bit address size: the upper halves do not count, and are cleared.
    let mut buffer = [0x11_u8; 4];
    let address = buffer.as_mut_ptr() as u64;
    let (rdi, rcx): (u64, u64);
    // SAFETY: writes two bytes of the buffer, which is below 4 GiB.
    unsafe {
        asm!(".byte 0x67", "rep insb", inout("rdi") address | 0xdead << 32 => rdi,
             inout("rcx") 2 | 0xbeef_u64 << 32 => rcx, in("dx") COM2 + SCRATCH);
    }
    check_eq!(rdi, address + 2, "RDI");
    check_eq!(rcx, 0, "RCX");
    check_eq!(buffer[1], expected, "byte read");
    check_eq!(buffer[2], 0x11, "the byte after");
    // A segment override counts for OUTS: GS has a base.
    let bytes = [0x66_u8, 0x67];
    let base = crate::cpu::rdmsr(0xc000_0101);
    crate::cpu::wrmsr(0xc000_0101, bytes.as_ptr() as u64);
    // SAFETY: reads the array's second byte.
    unsafe {
        asm!(".byte 0x65", "outsb", inout("rsi") 1_u64 => _, in("dx") COM2 + SCRATCH);
    }
    crate::cpu::wrmsr(0xc000_0101, base);
    let expected = if context.config.com2_hidden {
        0xff
    } else {
        0x67
    };
    check_eq!(
        input(COM2 + SCRATCH),
        expected,
        "scratch register after GS OUTSB"
    );
    Ok(())
}

// Real mode: a segment's base is its selector times 16, and DI wraps at 64 KiB.
global_asm!(
    ".section .real, \"awx\"",
    ".balign 4",
    ".globl ports_bytes",
    "ports_bytes: .fill 8, 1, 0x11",
    ".code16",
    ".globl ports_real",
    "ports_real:",
    "movw $0x2ff, %dx",
    "movb $0x3c, %al",
    "outb %al, %dx",
    // ES:DI = ports_bytes, by a base that is not 0.
    "movw $ports_bytes, %di",
    "subw $0x100, %di",
    "movw $0x10, %ax",
    "movw %ax, %es",
    "movw $3, %cx",
    "rep insb",
    "subw $ports_bytes - 0x100, %di",
    "movw %es, %ax",
    "movw %di, ports_bytes + 4",
    "movw %cx, ports_bytes + 6",
    "retw",
    ".code64",
    ".text",
    options(att_syntax),
);

unsafe extern "C" {
    static ports_bytes: Shared<[u8; 8]>;
    fn ports_real();
}

fn com2_strings_in_real_mode(context: &Context) -> Outcome {
    // SAFETY: the routine follows the rules of `modes`, and writes its eight bytes.
    let bytes = unsafe {
        let bytes = Shared::raw(&raw const ports_bytes);
        bytes.write_volatile([0x11; 8]);
        modes::real(ports_real as *const () as u32);
        bytes.read_volatile()
    };
    let expected = if context.config.com2_hidden {
        0xff
    } else {
        0x3c
    };
    for byte in &bytes[..3] {
        check_eq!(*byte, expected, "byte read by INSB");
    }
    check_eq!(bytes[3], 0x11, "the byte after");
    check_eq!(bytes[4], 3, "DI, from where it began");
    check_eq!(bytes[6], 0, "CX");
    Ok(())
}

#[unsafe(naked)]
unsafe extern "C" fn input_in_ring_3() {
    naked_asm!("mov edx, 0x2ff", "in al, dx", "ud2")
}

#[unsafe(naked)]
unsafe extern "C" fn string_in_ring_3() {
    naked_asm!("mov edx, 0x2ff", "lea rdi, [rsp - 64]", "insb", "ud2")
}

fn com2_in_ring_3(_: &Context) -> Outcome {
    for (what, code) in [
        ("IN", input_in_ring_3 as unsafe extern "C" fn()),
        ("INSB", string_in_ring_3),
    ] {
        // IOPL is 0 and the TSS has no permission map.
        expect_gp(what, Err::<(), _>(far(Level::User64, code, 0, 0)))?;
    }
    Ok(())
}
