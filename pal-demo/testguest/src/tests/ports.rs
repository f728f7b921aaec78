//! Ports: COM2 is the debugger's or the guest's, COM1 always the guest's.

use core::arch::asm;

use x86_64::instructions::port::Port;

use crate::harness::{Context, Outcome, Test};
use crate::{check_eq, tests};

/// Ports.
pub const TESTS: &[Test] = tests![
    com1_is_a_uart,
    com2_byte_accesses,
    com2_wide_accesses,
    com2_string_input,
    com2_string_output,
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
