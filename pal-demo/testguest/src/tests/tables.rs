//! Descriptor tables whose end lies in the hypervisor's range: the processor
//! itself reads zeros there, also in the middle of delivering an event.
//!
//! On the bare machine the same tables end in memory that holds zeros, so the
//! expectations are the processor's.

use core::arch::asm;

use crate::apic::{self, Destination, Message};
use crate::cpu;
use crate::descriptors::{self, TablePointer};
use crate::harness::{Context, Failure, Outcome, Test};
use crate::tests::{expect_trap, memory};
use crate::trap::{Trap, attempt, catch, vector};
use crate::{check_eq, tests};

/// Tables in the hypervisor's range.
pub const TESTS: &[Test] = tests![
    software_interrupt_through_zeros,
    interrupt_through_zeros,
    exception_through_zeros,
    segment_descriptor_of_zeros,
];

/// Where zeros begin on the bare machine: free memory.
const FREE: u64 = 0x60_0000;

/// An address from which on a page reads zero, with free memory before it.
fn zeros(context: &Context) -> Result<u64, Failure> {
    if context.stillpoint {
        return Ok(memory::hypervisor_range()?.start);
    }
    for address in (FREE..FREE + 8192).step_by(8) {
        // SAFETY: this guest leaves the page free.
        unsafe { (address as *mut u64).write_volatile(0) };
    }
    Ok(FREE)
}

/// Runs `f` with an IDT of which the gates from `first` on are zeros.
fn with_short_idt<R>(
    context: &Context,
    first: u8,
    f: impl FnOnce() -> Result<R, Trap>,
) -> Result<Result<R, Trap>, Failure> {
    let usual = descriptors::idt_pointer();
    let base = zeros(context)? - 16 * u64::from(first);
    for byte in 0..16 * u64::from(first) {
        let (from, to) = ((usual.base + byte) as *const u8, (base + byte) as *mut u8);
        // SAFETY: copies gates into free memory below the zeros.
        unsafe { to.write_volatile(from.read_volatile()) };
    }
    let mut table = usual;
    table.base = base;
    descriptors::load_idt(&table);
    let result = f();
    descriptors::load_idt(&usual);
    Ok(result)
}

/// Error code of a fault on a gate: index, IDT, and EXT for what no
/// instruction asked for.
const fn gate_error(vector: u8, external: bool) -> u64 {
    (vector as u64) << 3 | 2 | external as u64
}

fn software_interrupt_through_zeros(context: &Context) -> Outcome {
    for round in 0..3 {
        let result = with_short_idt(context, 0x60, || attempt!("int 0x70"))?;
        let what = format_args!("INT 0x70, round {round}");
        expect_trap(what, result, vector::GP, gate_error(0x70, false))?;
    }
    Ok(())
}

fn interrupt_through_zeros(context: &Context) -> Outcome {
    const INTERRUPT: u8 = 0x65;
    let result = with_short_idt(context, 0x60, || {
        catch(|| {
            apic::send(Destination::Cpu(0), Message::Fixed(INTERRUPT));
            // SAFETY: the interrupt ends in the #GP that is caught.
            unsafe { asm!("sti", "nop", "nop", "cli") };
        })
    })?;
    expect_trap("interrupt", result, vector::GP, gate_error(INTERRUPT, true))?;
    // The APIC delivered it: it is in service.
    apic::end_of_interrupt();
    Ok(())
}

fn exception_through_zeros(context: &Context) -> Outcome {
    // PML4 entry 6: no page.
    let absent = 6_u64 << 39;
    let result = with_short_idt(
        context,
        vector::PF,
        || attempt!("mov {0}, [{0}]", inout(reg) absent => _),
    )?;
    // #GP while #PF is delivered is a double fault, whose gate is there.
    expect_trap("#PF", result, vector::DF, 0)?;
    check_eq!(cpu::read_cr2(), absent, "CR2");
    Ok(())
}

fn segment_descriptor_of_zeros(context: &Context) -> Outcome {
    let zeros = zeros(context)?;
    let mut usual = TablePointer::default();
    // SAFETY: stores ten bytes.
    unsafe { asm!("sgdt [{}]", in(reg) &raw mut usual, options(nostack)) };
    let length = u64::from(usual.limit) + 1;
    for byte in 0..length {
        let (from, to) = (
            (usual.base + byte) as *const u8,
            (zeros - length + byte) as *mut u8,
        );
        // SAFETY: copies descriptors into free memory below the zeros.
        unsafe { to.write_volatile(from.read_volatile()) };
    }
    let longer = TablePointer {
        limit: usual.limit + 64,
        base: zeros - length,
    };
    // SAFETY: the table's present part is the usual one's copy.
    unsafe { asm!("lgdt [{}]", in(reg) &longer, options(nostack)) };
    let selector = length;
    let result = attempt!("mov fs, {:e}", in(reg) selector as u32);
    let rights: u64;
    // SAFETY: LAR only reads; ZF says whether the descriptor is one.
    unsafe {
        asm!("lar {r}, {s}", "setz {r:l}", "movzx {r:e}, {r:l}", r = out(reg) rights,
             s = in(reg) selector);
    }
    // SAFETY: back to the table of before.
    unsafe { asm!("lgdt [{}]", in(reg) &usual, options(nostack)) };
    expect_trap("a selector of zeros", result, vector::GP, selector)?;
    check_eq!(rights, 0, "LAR's ZF");
    Ok(())
}
