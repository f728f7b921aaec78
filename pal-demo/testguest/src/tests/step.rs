//! Single steps, breakpoints and interrupt shadows around instructions that
//! the hypervisor executes for the guest.

use core::arch::{asm, naked_asm};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

use crate::cpu;
use crate::harness::{Context, Outcome, Test};
use crate::trap::{Frame, set_handler, vector, with_handler};
use crate::{apic, check, check_eq, tests};

/// Debug exceptions and interrupt shadows.
pub const TESTS: &[Test] = tests![
    step_over_ordinary_instructions,
    step_over_cpuid,
    step_over_vmcall,
    step_over_rdmsr,
    step_over_control_registers,
    step_over_port_input,
    step_through_string_move,
    step_after_mov_ss_and_cpuid,
    data_breakpoint,
    data_breakpoint_held_over_cpuid,
    instruction_breakpoints_at_and_after_cpuid,
    interrupt_shadow_of_sti_over_cpuid,
    interrupt_shadow_of_sti_over_nop,
];

/// How many #DB a test records.
const LIMIT: usize = 16;

static CODE: AtomicU64 = AtomicU64::new(0);
static RECORDED: AtomicUsize = AtomicUsize::new(0);
/// Offset in the code, and DR6, of each #DB.
static RECORDS: [[AtomicU64; 2]; LIMIT] = [const { [AtomicU64::new(0), AtomicU64::new(0)] }; LIMIT];

const TF: u64 = 1 << 8;
const RF: u64 = 1 << 16;

/// DR6: single step, and the first two breakpoints.
const BS: u64 = 1 << 14;
const B0: u64 = 1;
const B1: u64 = 2;

/// Records where the #DB came. Stepping ends when the code has returned.
fn record(frame: &mut Frame) {
    let dr6 = cpu::read_dr6();
    cpu::write_dr6(0xffff_0ff0);
    let offset = frame.rip.wrapping_sub(CODE.load(Relaxed));
    if offset < 64 {
        let index = RECORDED.fetch_add(1, Relaxed);
        if let Some(record) = RECORDS.get(index) {
            record[0].store(offset, Relaxed);
            record[1].store(dr6 & (BS | 0xf), Relaxed);
        }
        // An instruction breakpoint is a fault: let the instruction pass.
        frame.rflags |= RF;
        if index >= LIMIT {
            // It does not pass: let the test fail, not hang.
            cpu::write_dr7(0x400);
        }
    } else if RECORDED.load(Relaxed) != 0 {
        frame.rflags &= !TF;
    }
}

/// Calls `code` with TF set if `step`, with these registers, and checks that
/// the #DBs are those expected: offset of RIP, DR6.
fn run(
    code: unsafe extern "C" fn(),
    step: bool,
    rax: u64,
    rdi: u64,
    expected: &[(u64, u64)],
) -> Outcome {
    CODE.store(code as *const () as u64, Relaxed);
    RECORDED.store(0, Relaxed);
    cpu::write_dr6(0xffff_0ff0);
    set_handler(vector::DB, Some(record));
    // SAFETY: the codes of this file change the registers named here and RBX.
    unsafe {
        asm!(
            "push rbx",
            "push r12",
            "mov r12, {code}",
            "push {flags}",
            "popfq",
            "call r12",
            // Where stepping ends.
            "nop",
            "nop",
            "pop r12",
            "pop rbx",
            code = in(reg) code,
            flags = in(reg) if step { TF | 2 } else { 2 },
            inout("rax") rax => _, inout("rdi") rdi => _,
            out("rcx") _, out("rdx") _, out("rsi") _, out("r8") _,
        );
    }
    set_handler(vector::DB, None);
    let count = RECORDED.load(Relaxed);
    for (i, (expected, found)) in expected
        .iter()
        .zip(&RECORDS[..count.min(LIMIT)])
        .enumerate()
    {
        check_eq!(
            found[0].load(Relaxed),
            expected.0,
            "RIP of #DB {i}, from the code's start"
        );
        check_eq!(found[1].load(Relaxed), expected.1, "DR6 of #DB {i}");
    }
    check_eq!(count, expected.len(), "number of #DB");
    Ok(())
}

/// Steps through `code`; a #DB after the CALL and after each instruction.
fn step(code: unsafe extern "C" fn(), rax: u64, rdi: u64, offsets: &[u64]) -> Outcome {
    let mut expected = [(0, BS); LIMIT];
    for (expected, offset) in expected.iter_mut().zip(offsets) {
        expected.0 = *offset;
    }
    run(code, true, rax, rdi, &expected[..offsets.len()])
}

fn step_over_ordinary_instructions(_: &Context) -> Outcome {
    #[unsafe(naked)]
    unsafe extern "C" fn code() {
        naked_asm!("nop", "xor eax, eax", "nop", "ret")
    }
    step(code, 0, 0, &[0, 1, 3, 4])
}

fn step_over_cpuid(_: &Context) -> Outcome {
    #[unsafe(naked)]
    unsafe extern "C" fn code() {
        naked_asm!("xor eax, eax", "cpuid", "nop", "cpuid", "cpuid", "ret")
    }
    step(code, 0, 0, &[0, 2, 4, 5, 7, 9])
}

fn step_over_vmcall(context: &Context) -> Outcome {
    #[unsafe(naked)]
    unsafe extern "C" fn code() {
        naked_asm!("vmcall", "nop", "ret")
    }
    context.require_stillpoint()?;
    step(
        code,
        stillpoint_abi::Hypercall::Test.command().into(),
        0,
        &[0, 3, 4],
    )
}

fn step_over_rdmsr(_: &Context) -> Outcome {
    #[unsafe(naked)]
    unsafe extern "C" fn code() {
        // IA32_FEATURE_CONTROL: the hypervisor answers it.
        naked_asm!("mov ecx, 0x3a", "rdmsr", "nop", "ret")
    }
    step(code, 0, 0, &[0, 5, 7, 8])
}

fn step_over_control_registers(_: &Context) -> Outcome {
    #[unsafe(naked)]
    unsafe extern "C" fn code() {
        // TS set and cleared, CR4.PCE set and cleared.
        naked_asm!(
            "mov rax, cr0",
            "or al, 8",
            "mov cr0, rax",
            "clts",
            "mov rax, cr4",
            "or ah, 1",
            "mov cr4, rax",
            "and ah, 0xfe",
            "mov cr4, rax",
            "ret"
        )
    }
    step(code, 0, 0, &[0, 3, 5, 8, 10, 13, 16, 19, 22, 25])
}

fn step_over_port_input(_: &Context) -> Outcome {
    #[unsafe(naked)]
    unsafe extern "C" fn code() {
        // COM2's scratch register.
        naked_asm!("mov edx, 0x2ff", "in al, dx", "out dx, al", "nop", "ret")
    }
    step(code, 0, 0, &[0, 5, 6, 7, 8])
}

fn step_through_string_move(_: &Context) -> Outcome {
    #[unsafe(naked)]
    unsafe extern "C" fn code() {
        naked_asm!("mov ecx, 3", "mov rsi, rdi", "rep movsb", "nop", "ret")
    }
    let mut buffer = [0_u8; 16];
    // A trap after each byte, then on.
    step(
        code,
        0,
        buffer.as_mut_ptr() as u64,
        &[0, 5, 8, 8, 8, 10, 11],
    )
}

/// Steps over a read of `address`, in the hypervisor's range.
pub fn reading(address: u64) -> Outcome {
    #[unsafe(naked)]
    unsafe extern "C" fn code() {
        naked_asm!(
            "mov rax, [rdi]",
            "nop",
            "mov rax, [rdi]",
            "mov rax, [rdi]",
            "ret"
        )
    }
    step(code, 0, address, &[0, 3, 4, 7, 10])
}

fn step_after_mov_ss_and_cpuid(_: &Context) -> Outcome {
    #[unsafe(naked)]
    unsafe extern "C" fn code() {
        // No #DB between MOV SS and the instruction after it.
        naked_asm!("mov ss, eax", "cpuid", "nop", "ret")
    }
    step(code, 0, 0, &[0, 4, 5])
}

/// DR7 for breakpoint 0: enabled, on data writes of 8 bytes.
const DR7_WRITE_8: u64 = 0x400 | 2 | 0b1001 << 16;
/// DR7 for breakpoint 0: enabled, on data accesses of 2 bytes.
const DR7_ACCESS_2: u64 = 0x400 | 2 | 0b0111 << 16;
/// DR7 for breakpoints 0 and 1: enabled, on execution.
const DR7_EXECUTE: u64 = 0x400 | 2 | 8;

/// Runs `f` with DR0, DR1 and DR7 as given.
fn with_breakpoints(dr0: u64, dr1: u64, dr7: u64, f: impl FnOnce() -> Outcome) -> Outcome {
    cpu::write_dr0(dr0);
    // SAFETY: DR1 has no effect until DR7 enables it.
    unsafe { asm!("mov dr1, {}", in(reg) dr1) };
    cpu::write_dr7(dr7);
    let outcome = f();
    cpu::write_dr7(0x400);
    outcome
}

fn data_breakpoint(_: &Context) -> Outcome {
    #[unsafe(naked)]
    unsafe extern "C" fn code() {
        naked_asm!("mov [rdi], rax", "nop", "mov rax, [rdi]", "ret")
    }
    let mut word = 0_u64;
    let address = &raw mut word as u64;
    with_breakpoints(address, 0, DR7_WRITE_8, || {
        run(code, false, 1, address, &[(3, B0)])
    })
}

fn data_breakpoint_held_over_cpuid(_: &Context) -> Outcome {
    #[unsafe(naked)]
    unsafe extern "C" fn code() {
        // The breakpoint hits in MOV SS, and is held until after CPUID: a
        // pending debug exception across a VM exit.
        naked_asm!("mov ss, word ptr [rdi]", "cpuid", "nop", "ret")
    }
    let null = 0_u64;
    let address = &raw const null as u64;
    with_breakpoints(address, 0, DR7_ACCESS_2, || {
        run(code, false, 0, address, &[(4, B0)])
    })
}

fn instruction_breakpoints_at_and_after_cpuid(_: &Context) -> Outcome {
    #[unsafe(naked)]
    unsafe extern "C" fn code() {
        naked_asm!("nop", "cpuid", "nop", "ret")
    }
    let start = code as *const () as u64;
    // CPUID is resumed with RF set; RF must not live past it, or the second
    // breakpoint would be missed.
    with_breakpoints(start + 1, start + 3, DR7_EXECUTE, || {
        run(code, false, 0, 0, &[(1, B0), (3, B1)])
    })
}

const INTERRUPT: u8 = 0x51;
static ARRIVED_AT: AtomicU64 = AtomicU64::new(0);

fn arrived(frame: &mut Frame) {
    apic::end_of_interrupt();
    ARRIVED_AT.store(frame.rip, Relaxed);
}

/// Runs `code` with an interrupt pending; where it arrived, from its start.
fn pending_interrupt(code: unsafe extern "C" fn()) -> u64 {
    ARRIVED_AT.store(0, Relaxed);
    with_handler(INTERRUPT, arrived, || {
        apic::send(
            apic::Destination::Cpu(apic::id()),
            apic::Message::Fixed(INTERRUPT),
        );
        // SAFETY: the codes change the registers named here and RBX.
        unsafe {
            asm!("push rbx", "call {}", "pop rbx", in(reg) code, out("rax") _, out("rcx") _,
                 out("rdx") _);
        }
    });
    ARRIVED_AT
        .load(Relaxed)
        .wrapping_sub(code as *const () as u64)
}

fn interrupt_shadow_of_sti_over_cpuid(_: &Context) -> Outcome {
    #[unsafe(naked)]
    unsafe extern "C" fn code() {
        naked_asm!("xor eax, eax", "sti", "cpuid", "nop", "cli", "ret")
    }
    // The instruction after STI is in its shadow, and no further one.
    check_eq!(pending_interrupt(code), 5, "where the interrupt came");
    Ok(())
}

fn interrupt_shadow_of_sti_over_nop(_: &Context) -> Outcome {
    #[unsafe(naked)]
    unsafe extern "C" fn code() {
        naked_asm!("sti", "nop", "cpuid", "cli", "ret")
    }
    let offset = pending_interrupt(code);
    check!(offset == 2, "the interrupt came at {offset}, expected 2");
    Ok(())
}
