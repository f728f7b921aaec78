//! PALs that do what no PAL may: each ends, its caller gets #GP at the call with all of
//! its own state, and nothing is left in memory.

use core::arch::naked_asm;

use super::code::nothing;
use super::image::Pal;
use super::program::{Program, result, stack_top};
use crate::boot::selector;
use crate::descriptors::{Shared, USER_RETURN_VECTOR};
use crate::harness::{Context, Failure, Outcome, Test};
use crate::trap::{Frame, vector, with_handler};
use crate::{check, check_eq, cpu, fail, tests};

/// PALs that fault.
pub const TESTS: &[Test] = tests![a_pal_that_misbehaves_ends, a_pal_in_ring_0_ends];

/// Defines PALs by their instructions, and the table of them.
macro_rules! misdeeds {
    ($table:ident: $($name:ident: $($instruction:literal),*;)*) => {
        $(
            #[unsafe(naked)]
            unsafe extern "C" fn $name() {
                naked_asm!($($instruction),*)
            }
        )*

        const $table: &[(&str, unsafe extern "C" fn())] =
            &[$((stringify!($name), $name)),*];
    };
}

misdeeds! {
    MISDEEDS:
    divide_error: "xor ecx, ecx", "div ecx";
    undefined_instruction: "ud2";
    breakpoint: "int3";
    debug_interrupt: ".byte 0xf1", "2: jmp 2b";
    single_step: "pushfq", "or qword ptr [rsp], 0x100", "popfq", "nop", "2: jmp 2b";
    software_interrupt: "int 0x41";
    read_outside: "mov eax, 0x8000", "mov rax, [rax]";
    write_outside: "mov eax, 0x8000", "mov [rax], rax";
    fetch_outside: "mov eax, 0x8000", "jmp rax";
    no_address: "mov rax, 1 << 63", "mov rax, [rax]";
    write_to_code: "lea rax, [rip]", "mov [rax], rax";
    run_data: "lea rax, [rip]", "and rax, -4096", "add rax, 4096", "mov byte ptr [rax], 0xc3",
        "call rax", "ret";
    stack_overflow: "2: push rax", "jmp 2b";
    return_elsewhere: "mov eax, 8", "jmp rax";
    read_return_address: "mov eax, 4", "mov rax, [rax]";
    call_system: "syscall";
    enter_system: "sysenter";
    halt: "hlt";
    input: "in al, 0x64";
    output: "mov al, 0xfe", "out 0x64, al";
    interrupts_off: "cli";
    far_return: "push 0x43", "lea rax, [rip]", "push rax", "retfq";
    interrupt_return: "push 0x3b", "push rsp", "push 2", "push 0x43", "lea rax, [rip]",
        "push rax", "iretq";
    load_segment: "mov eax, 0x3b", "mov ds, eax";
    vmx_on: "vmxon [rsp]";
    vmx_off: "vmxoff";
    read_msr: "mov ecx, 0x1b", "rdmsr";
    write_msr: "mov ecx, 0xc0000080", "wrmsr";
    read_cr3: "mov rax, cr3";
    write_cr0: "mov cr0, rax";
    load_gdt: "lgdt [rsp]";
    invalidate: "invd";
    set_xcr0: "mov ecx, 0", "mov eax, 1", "xor edx, edx", "xsetbv";
}

// LSTAR is the address behind SYSCALL.
misdeeds! {
    IN_RING_0:
    return_from_ring_0: "syscall", "mov eax, 4", "jmp rax";
    set_xcr0_in_ring_0: "syscall", "mov ecx, 0", "mov eax, 1", "xor edx, edx", "xsetbv", "mov eax, 4",
        "jmp rax";
    leave_cr4_changed: "syscall", "mov rax, cr4", "btc rax, 2", "mov cr4, rax", "lea rcx, [rip + 2f]",
        "mov r11d, 2", "sysretq", "2: mov eax, 4", "jmp rax";
    write_cr4_in_ring_0: "syscall", "mov rax, cr4", "btc rax, 13", "mov cr4, rax", "mov eax, 4",
        "jmp rax";
}

/// Vector state of a caller: what it loads before the call, and what it has afterwards.
static VECTORS: Shared<[[u64; 32]; 2]> = Shared::new([[0; 32]; 2]);

/// The caller's context at the #GP.
static FAULT: Shared<Option<Frame>> = Shared::new(None);

/// Loads XMM0 to XMM15 from RBX, and calls RAX.
#[unsafe(naked)]
unsafe extern "C" fn call_with_vectors() {
    naked_asm!(
        ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
        "movdqu xmm\\n, [rbx + 16 * \\n]",
        ".endr",
        "call rax",
        "ud2",
    )
}

/// Stores them behind, and comes back.
#[unsafe(naked)]
unsafe extern "C" fn store_vectors() {
    naked_asm!(
        ".irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15",
        "movdqu [rbx + 256 + 16 * \\n], xmm\\n",
        ".endr",
        "int {vector}",
        vector = const USER_RETURN_VECTOR,
    )
}

/// Notes where the fault was, and goes on in [`store_vectors`].
fn note_fault(frame: &mut Frame) {
    // SAFETY: CPU 0 alone comes here.
    unsafe { FAULT.get().write(Some(*frame)) };
    frame.rip = store_vectors as *const () as u64;
}

const IA32_EFER: u32 = 0xc000_0080;
const IA32_STAR: u32 = 0xc000_0081;
const IA32_LSTAR: u32 = 0xc000_0082;
const IA32_FS_BASE: u32 = 0xc000_0100;
const EFER_SCE: u64 = 1;

/// Where the PALs are.
const PAGE: u64 = 4;

/// FS base of the caller: not what loading FS would set.
const FS_BASE: u64 = 0x1234_5000;

fn a_pal_that_misbehaves_ends(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    check_misdeeds(MISDEEDS)
}

/// A kernel that has a PAL of its own can have it leave CPL 3.
fn a_pal_in_ring_0_ends(context: &Context) -> Outcome {
    const SYSCALL_LENGTH: u64 = 2;
    context.require_stillpoint()?;
    let before = [IA32_EFER, IA32_STAR, IA32_LSTAR].map(|msr| (msr, cpu::rdmsr(msr)));
    let efer = cpu::rdmsr(IA32_EFER);
    cpu::wrmsr(IA32_EFER, efer | EFER_SCE);
    // SYSRET's SS is 8 on, and its CS 16.
    let user = u64::from(selector::USER_DATA - 8);
    cpu::wrmsr(IA32_STAR, user << 48 | u64::from(selector::CODE64) << 32);
    cpu::wrmsr(IA32_LSTAR, Pal::new(PAGE, nothing).entry() + SYSCALL_LENGTH);
    let outcome = check_misdeeds(IN_RING_0);
    for (msr, value) in before {
        cpu::wrmsr(msr, value);
    }
    outcome
}

fn check_misdeeds(misdeeds: &[(&str, unsafe extern "C" fn())]) -> Outcome {
    let program = Program::usual();
    for (name, code) in misdeeds {
        if let Err(why) = check_misdeed(&program, &Pal::new(PAGE, *code)) {
            match why {
                Failure::Why(why) => fail!("{name}: {why}"),
                other => return Err(other),
            }
        }
    }
    Ok(())
}

fn check_misdeed(program: &Program, pal: &Pal) -> Outcome {
    program.give(pal)?;
    let mut words = [1_u64, 2, 3, 4];
    let registers = Frame {
        rax: pal.entry(),
        rbx: VECTORS.get() as u64,
        rcx: 0x1111,
        rdx: 0x2222,
        rsi: words.as_mut_ptr() as u64,
        rdi: 0x3333,
        rbp: 0x4444,
        r8: 0x5555,
        r9: 0x6666,
        r10: 0x7777,
        r11: 0x8888,
        r12: 0x9999,
        r13: 0xaaaa,
        r14: 0xbbbb,
        r15: 0xcccc,
        ..Frame::default()
    };
    // SAFETY: CPU 0 alone uses these.
    unsafe {
        FAULT.get().write(None);
        let [before, after] = &mut *VECTORS.get();
        for (n, word) in (0..).zip(before) {
            *word = 0x0102_0304_0506_0708 * (n + 1);
        }
        after.fill(0);
    }
    cpu::wrmsr(IA32_FS_BASE, FS_BASE);
    let trap = with_handler(vector::GP, note_fault, || {
        program.run(call_with_vectors, &registers)
    });
    let fs_base = cpu::rdmsr(IA32_FS_BASE);
    cpu::wrmsr(IA32_FS_BASE, 0);
    // SAFETY: as above.
    let (fault, [before, after]) = unsafe { (*FAULT.get(), *VECTORS.get()) };
    result(&trap)?;
    let Some(fault) = fault else {
        fail!("no #GP for the caller");
    };
    check_eq!(fault.rip, pal.entry(), "RIP of the #GP");
    check_eq!(fault.error, 0, "its error code");
    check_eq!(fault.rsp, stack_top(0) - 8, "RSP");
    check_eq!(fs_base, FS_BASE, "FS base");
    check!(before == after, "the vector registers have changed");
    check_eq!(fault.rflags & !0x1_0000, 2, "RFLAGS");
    check!(same(&fault, &registers), "registers: {fault:x?}");
    pal.check_given_back()?;
    check_eq!(program.unregister(pal)?, 1, "UNREG afterwards");
    Ok(())
}

/// Are the general-purpose registers the same?
fn same(a: &Frame, b: &Frame) -> bool {
    let registers = |frame: &Frame| {
        [
            frame.rax, frame.rbx, frame.rcx, frame.rdx, frame.rsi, frame.rdi, frame.rbp, frame.r8,
            frame.r9, frame.r10, frame.r11, frame.r12, frame.r13, frame.r14, frame.r15,
        ]
    };
    registers(a) == registers(b)
}
