//! Every exception, delivered with the right vector, error code and address.

use core::arch::{asm, naked_asm};

use crate::cpu;
use crate::descriptors::{self, Shared, USER_RETURN_VECTOR};
use crate::harness::{Context, Outcome, Test};
use crate::modes::{Level, far};
use crate::tests::{expect_gp, expect_ok, expect_trap, expect_ud};
use crate::trap::{Frame, Trap, attempt, catch, vector, with_handler};
use crate::{apic, check, check_eq, tests, trap};

/// Exceptions and interrupts.
pub const TESTS: &[Test] = tests![
    divide_error,
    breakpoint_and_int_n,
    invalid_opcode,
    general_protection,
    stack_and_segment_faults,
    page_faults,
    page_fault_in_ring_3,
    double_fault,
    simd_and_x87_errors,
    alignment_check,
    interrupts_in_ring_3,
    fixed_interrupt,
    timer_wakes_halt,
];

fn divide_error(_: &Context) -> Outcome {
    let trap = expect_trap(
        "DIV by 0",
        attempt!("lea r11, [rip + 2f]", "2:", "div {:e}", in(reg) 0, out("r11") _,
             inout("eax") 1 => _, inout("edx") 0 => _),
        vector::DE,
        0,
    )?;
    check_eq!(trap.frame.rip, trap.frame.r11, "RIP");
    Ok(())
}

fn breakpoint_and_int_n(_: &Context) -> Outcome {
    let trap = expect_trap(
        "INT3",
        attempt!("lea r11, [rip + 2f]", "int3", "2:", out("r11") _),
        vector::BP,
        0,
    )?;
    check_eq!(trap.frame.rip, trap.frame.r11, "RIP after INT3");
    let trap = expect_trap(
        "INT 0x80",
        attempt!("lea r11, [rip + 2f]", "int 0x80", "2:", out("r11") _),
        0x80,
        0,
    )?;
    check_eq!(trap.frame.rip, trap.frame.r11, "RIP after INT 0x80");
    // INT 13 and INT 2 are no exceptions: no error code is pushed, which the
    // stub of vector 13 takes for one; INT 2 blocks no NMIs.
    expect_trap("INT1", attempt!(".byte 0xf1"), vector::DB, 0).map(drop)
}

fn invalid_opcode(_: &Context) -> Outcome {
    let trap = expect_trap(
        "UD2",
        attempt!("lea r11, [rip + 2f]", "2:", "ud2", out("r11") _),
        vector::UD,
        0,
    )?;
    check_eq!(trap.frame.rip, trap.frame.r11, "RIP");
    // LOCK on a register.
    expect_ud("LOCK NOP", attempt!(".byte 0xf0, 0x90"))
}

fn general_protection(_: &Context) -> Outcome {
    let address = 1_u64 << 62;
    expect_gp(
        "non-canonical address",
        attempt!("mov {}, [{}]", out(reg) _, in(reg) address),
    )?;
    // A selector beyond the GDT: the error code is the selector's index.
    expect_trap(
        "selector",
        attempt!("mov fs, {:e}", in(reg) 0xfff8),
        vector::GP,
        0xfff8,
    )?;
    // A gate beyond the IDT's limit: index, EXT clear, IDT set.
    let mut short = descriptors::idt_pointer();
    short.limit = 16 * 0x60 - 1;
    descriptors::load_idt(&short);
    let result = attempt!("int 0x70");
    descriptors::load_idt(&descriptors::idt_pointer());
    expect_trap("INT beyond the IDT", result, vector::GP, 0x70 << 3 | 2).map(drop)
}

fn stack_and_segment_faults(_: &Context) -> Outcome {
    expect_trap(
        "non-canonical stack access",
        attempt!("mov {saved}, rbp", "mov rbp, {bad}", "mov {bad}, [rbp]", "mov rbp, {saved}",
             saved = out(reg) _, bad = inout(reg) 1_u64 << 62 => _),
        vector::SS,
        0,
    )?;
    // A gate that is not present: index, IDT.
    descriptors::set_gate(0x70, false);
    let result = attempt!("int 0x70");
    descriptors::set_gate(0x70, true);
    expect_trap("absent gate", result, vector::NP, 0x70 << 3 | 2).map(drop)
}

/// A page table for the window, under a directory and a directory-pointer
/// table of its own.
#[repr(align(4096))]
struct Table([u64; 512]);

static TABLES: [Shared<Table>; 3] = [const { Shared::new(Table([0; 512])) }; 3];

unsafe extern "C" {
    static pml4: Shared<[u64; 512]>;
}

/// Where the tests map single pages: PML4 entry 2.
const WINDOW: u64 = 2 << 39;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const USER: u64 = 4;
const NO_EXECUTE: u64 = 1 << 63;

/// Maps `entries` as the window's first pages and flushes the TLB.
fn map(entries: &[u64]) {
    let tables = [TABLES[0].get(), TABLES[1].get(), TABLES[2].get()];
    // SAFETY: the window's tables are this file's; nothing else uses its addresses.
    unsafe {
        let table = &mut *tables[2];
        table.0[..entries.len()].copy_from_slice(entries);
        (*tables[1]).0[0] = tables[2] as u64 | 7;
        (*tables[0]).0[0] = tables[1] as u64 | 7;
        Shared::raw(&raw const pml4)
            .cast::<u64>()
            .add(2)
            .write_volatile(tables[0] as u64 | 7);
    }
    cpu::write_cr3(cpu::read_cr3());
}

/// A page of memory to map: 4 MiB up, which this guest leaves free.
const FRAME: u64 = 0x40_0000;

fn page_faults(_: &Context) -> Outcome {
    map(&[
        0,
        FRAME | PRESENT | USER,
        FRAME | PRESENT | WRITABLE | NO_EXECUTE | USER,
        FRAME | PRESENT | WRITABLE | 1 << 51,
    ]);
    let read = |address: u64| {
        // SAFETY: faults or reads RAM.
        move || unsafe { asm!("mov {0}, [{0}]", inout(reg) address => _) }
    };
    let write = |address: u64| {
        // SAFETY: faults, or writes the frame that is the tests'.
        move || unsafe { asm!("mov [{0}], {0}", in(reg) address) }
    };
    let call = |address: u64| {
        // SAFETY: faults at once.
        move || unsafe { asm!("call {}", in(reg) address) }
    };
    // Error codes: P = 1, W/R = 2, U/S = 4, RSVD = 8, I/D = 16.
    let cases: [(&str, Result<(), Trap>, u64, u64); 7] = [
        (
            "read of an absent page",
            catch(read(WINDOW + 8)),
            0,
            WINDOW + 8,
        ),
        (
            "write of an absent page",
            catch(write(WINDOW + 16)),
            2,
            WINDOW + 16,
        ),
        (
            "fetch from an absent page",
            catch(call(WINDOW + 24)),
            16,
            WINDOW + 24,
        ),
        (
            "write of a read-only page",
            catch(write(WINDOW + 0x1008)),
            3,
            WINDOW + 0x1008,
        ),
        (
            "fetch from a no-execute page",
            catch(call(WINDOW + 0x2010)),
            17,
            WINDOW + 0x2010,
        ),
        (
            "reserved bit",
            catch(read(WINDOW + 0x3018)),
            9,
            WINDOW + 0x3018,
        ),
        (
            "read across pages",
            catch(read(WINDOW + 0x3fff + 1 - 4 - 0x3000)),
            0,
            WINDOW + 0xffc,
        ),
    ];
    for (what, result, error, address) in cases {
        let trap = expect_trap(what, result, vector::PF, error)?;
        check_eq!(trap.cr2, address, "{what}: CR2");
    }
    expect_ok("write of a writable page", catch(write(WINDOW + 0x2000)))
}

fn page_fault_in_ring_3(_: &Context) -> Outcome {
    #[unsafe(naked)]
    unsafe extern "C" fn read() {
        naked_asm!("mov rax, [rax]", "int {}", const USER_RETURN_VECTOR)
    }
    map(&[0, FRAME | PRESENT | WRITABLE | NO_EXECUTE]);
    for (what, address, error) in [
        ("absent page", WINDOW, 4),
        ("supervisor's page", WINDOW + 0x1000, 5),
    ] {
        let trap = far(Level::User64, read, address, 0);
        check_eq!(trap.vector(), vector::PF, "{what}: {trap}: vector");
        check_eq!(trap.frame.error, error, "{what}: error code");
        check_eq!(trap.cr2, address, "{what}: CR2");
        check_eq!(trap.frame.cs & 3, 3, "{what}: CPL");
    }
    Ok(())
}

fn double_fault(_: &Context) -> Outcome {
    map(&[0]);
    descriptors::set_gate(vector::PF, false);
    let result = attempt!("mov {0}, [{0}]", inout(reg) WINDOW => _);
    descriptors::set_gate(vector::PF, true);
    expect_trap("#PF whose gate is absent", result, vector::DF, 0).map(drop)
}

fn simd_and_x87_errors(_: &Context) -> Outcome {
    let unmasked = 0x1f80_u32 & !(1 << 9);
    let usual = 0x1f80_u32;
    let result = attempt!("ldmxcsr [{}]", "xorps xmm1, xmm1", "divss xmm0, xmm1", in(reg) &unmasked,
             out("xmm0") _, out("xmm1") _);
    // SAFETY: the value of reset, exceptions masked.
    unsafe { asm!("ldmxcsr [{}]", in(reg) &usual) };
    expect_trap("unmasked division by zero", result, vector::XM, 0)?;
    let control = 0x037b_u16;
    let result = attempt!("fninit", "fldcw [{}]", "fld1", "fldz", "fdivp st(1), st", "fwait",
             in(reg) &control);
    // SAFETY: back to the state after a start.
    unsafe { asm!("fninit") };
    expect_trap("x87 division by zero", result, vector::MF, 0).map(drop)
}

fn alignment_check(_: &Context) -> Outcome {
    #[unsafe(naked)]
    unsafe extern "C" fn misaligned() {
        naked_asm!(
            "push 0x40002",
            "popfq",
            "mov rax, [rsp - 15]",
            "int {}",
            const USER_RETURN_VECTOR
        )
    }
    let cr0 = cpu::read_cr0();
    cpu::write_cr0(cr0 | 1 << 18);
    let trap = far(Level::User64, misaligned, 0, 0);
    cpu::write_cr0(cr0);
    check_eq!(trap.vector(), vector::AC, "{trap}: vector");
    check_eq!(trap.frame.error, 0, "error code");
    Ok(())
}

fn interrupts_in_ring_3(_: &Context) -> Outcome {
    #[unsafe(naked)]
    unsafe extern "C" fn int3() {
        naked_asm!("int3", "ud2")
    }
    #[unsafe(naked)]
    unsafe extern "C" fn int80() {
        naked_asm!("int 0x80", "ud2")
    }
    #[unsafe(naked)]
    unsafe extern "C" fn hlt() {
        naked_asm!("hlt", "ud2")
    }
    for (what, code, vector, error) in [
        ("INT3", int3 as unsafe extern "C" fn(), vector::BP, 0),
        // The gate's DPL is 0.
        ("INT 0x80", int80, vector::GP, 0x80 << 3 | 2),
        ("HLT", hlt, vector::GP, 0),
    ] {
        expect_trap(
            what,
            Err::<(), _>(far(Level::User64, code, 0, 0)),
            vector,
            error,
        )?;
    }
    Ok(())
}

const INTERRUPT: u8 = 0x50;

fn acknowledge(_: &mut Frame) {
    apic::end_of_interrupt();
}

fn fixed_interrupt(_: &Context) -> Outcome {
    let before = trap::count(0, INTERRUPT);
    with_handler(INTERRUPT, acknowledge, || {
        for _ in 0..100 {
            apic::send(apic::Destination::Cpu(0), apic::Message::Fixed(INTERRUPT));
            // SAFETY: the handler is set.
            unsafe { asm!("sti", "nop", "nop", "cli") };
        }
    });
    check_eq!(trap::count(0, INTERRUPT) - before, 100, "interrupts");
    Ok(())
}

fn timer_wakes_halt(_: &Context) -> Outcome {
    let before = trap::count(0, INTERRUPT);
    with_handler(INTERRUPT, acknowledge, || {
        for _ in 0..10 {
            apic::one_shot(INTERRUPT, 1000);
            // SAFETY: the handler is set; the timer ends the halt.
            unsafe { asm!("sti", "hlt", "cli") };
        }
        apic::stop_timer();
    });
    check_eq!(trap::count(0, INTERRUPT) - before, 10, "interrupts");
    check!(apic::id() == 0, "the wrong CPU");
    Ok(())
}
