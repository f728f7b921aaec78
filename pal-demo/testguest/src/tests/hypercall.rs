//! VMCALL from every kind of code.

use core::arch::{asm, global_asm};

use stillpoint_abi::{Hypercall, HypercallResult};

use crate::descriptors::Shared;
use crate::harness::{Context, Outcome, Test};
use crate::modes::{self, Level, far, vmcall_and_return};
use crate::tests::{expect_ok, expect_trap, expect_ud};
use crate::trap::{Trap, catch, vector};
use crate::{check_eq, tests};

/// Hypercalls.
pub const TESTS: &[Test] = tests![
    test_from_ring_0,
    test_from_other_levels,
    test_from_other_modes,
    unknown_commands_fail,
    upper_half_of_rax_is_ignored,
    other_registers_are_kept,
];

/// VMCALL with a command and CX; what RAX is then.
pub fn vmcall(rax: u64, rcx: u64) -> Result<u64, Trap> {
    // SAFETY: the commands used in tests touch no memory.
    catch(|| unsafe {
        let result;
        asm!("vmcall", inout("rax") rax => result, in("rcx") rcx, in("rdx") 0,
             in("rsi") 0, in("rdi") 0, options(nostack));
        result
    })
}

const TEST: u64 = Hypercall::Test.command() as u64;

fn test_from_ring_0(context: &Context) -> Outcome {
    let result = vmcall(TEST, 7);
    if !context.stillpoint {
        return expect_ud("VMCALL on the bare machine", result);
    }
    for number in [0, 7, 0xffff_ffff, u64::MAX] {
        check_eq!(
            expect_ok("VMCALL", vmcall(TEST, number))?,
            0,
            "TEST {number:#x}"
        );
    }
    Ok(())
}

fn test_from_other_levels(context: &Context) -> Outcome {
    for level in [Level::User64, Level::User32, Level::Kernel32] {
        let trap = far(level, vmcall_and_return, TEST, 7);
        if context.stillpoint {
            check_eq!(trap.vector(), 0x41, "{level:?}: {trap}: vector");
            check_eq!(trap.frame.rax, 0, "{level:?}: result");
        } else {
            expect_trap("VMCALL", Err::<(), _>(trap), vector::UD, 0)?;
        }
    }
    Ok(())
}

// TEST from real mode and from 32-bit protected mode without paging. Each
// leaves what EAX was in `vmcall_result`.
global_asm!(
    ".section .real, \"awx\"",
    ".balign 4",
    ".globl vmcall_result",
    "vmcall_result: .long 0",
    ".code16",
    ".globl vmcall_real",
    "vmcall_real:",
    "movl ${test}, %eax",
    "movl $7, %ecx",
    "vmcall",
    "movl %eax, vmcall_result",
    "retw",
    ".code32",
    ".globl vmcall_protected",
    "vmcall_protected:",
    "movl ${test}, %eax",
    "movl $7, %ecx",
    "vmcall",
    "movl %eax, vmcall_result",
    "ret",
    ".code64",
    ".text",
    test = const Hypercall::Test.command(),
    options(att_syntax),
);

unsafe extern "C" {
    fn vmcall_real();
    fn vmcall_protected();
    static vmcall_result: Shared<u32>;
}

fn test_from_other_modes(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    // SAFETY: the routines follow the rules of `modes` and store to one word.
    unsafe {
        let result = Shared::raw(&raw const vmcall_result);
        result.write_volatile(0xffff_ffff);
        modes::real(vmcall_real as *const () as u32);
        check_eq!(result.read_volatile(), 0, "result in real mode");
        result.write_volatile(0xffff_ffff);
        modes::protected(vmcall_protected as *const () as u32);
        check_eq!(result.read_volatile(), 0, "result in protected mode");
    }
    Ok(())
}

fn unknown_commands_fail(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    // The deprecated forms have numbers, but nothing behind them.
    for command in [
        0,
        3,
        4,
        5,
        14,
        20,
        24,
        254,
        256,
        0x5350_ffff,
        0x7fff_ffff,
        0xffff_ffff,
    ] {
        let result = expect_ok("VMCALL", vmcall(command, 0))?;
        check_eq!(
            result,
            HypercallResult::Failure.code(),
            "command {command:#x}"
        );
    }
    Ok(())
}

fn upper_half_of_rax_is_ignored(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let result = expect_ok("VMCALL", vmcall(TEST | 0xdead_beef << 32, 1))?;
    check_eq!(result, 0, "TEST with RAX's upper half set");
    Ok(())
}

fn other_registers_are_kept(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let mut registers = [
        0x1111_u64, 0x2222, 0x3333, 0x4444, 0x5555, 0x6666, 0x7777, 0x8888,
    ];
    let flags: u64;
    // SAFETY: TEST touches no memory; RBX is exchanged back.
    unsafe {
        asm!(
            "xchg r10, rbx",
            "push 0xcd7",
            "popfq",
            "vmcall",
            "pushfq",
            "cld",
            "xchg r10, rbx",
            "pop rax",
            inout("rax") TEST => flags,
            inout("rcx") registers[0], inout("rdx") registers[1],
            inout("rsi") registers[2], inout("rdi") registers[3],
            inout("r8") registers[4], inout("r9") registers[5],
            inout("r10") registers[6], inout("r11") registers[7],
        );
    }
    let expected = [
        0x1111, 0x2222, 0x3333, 0x4444, 0x5555, 0x6666, 0x7777, 0x8888,
    ];
    for (found, expected) in registers.into_iter().zip(expected) {
        check_eq!(found, expected, "register");
    }
    check_eq!(flags, 0xcd7, "RFLAGS");
    Ok(())
}
