//! The hypervisor's range of guest-physical memory: reads see zeros, writes
//! are #GP, and the machine lives on.

use core::arch::asm;

use crate::cpu;
use crate::descriptors::{self, IST_SPARE, SPARE_STACK_VECTOR, Shared};
use crate::firmware::{self, USABLE};
use crate::harness::{Context, Failure, Outcome, Test};
use crate::tests::{expect_gp, expect_ok};
use crate::trap::{Trap, attempt, catch, vector};
use crate::{check, check_eq, tests};

/// Memory.
pub const TESTS: &[Test] = tests![
    usable_memory_holds_what_is_written,
    hypervisor_reads_zero,
    hypervisor_reads_zero_everywhere,
    hypervisor_refuses_writes,
    string_moves_across_the_lower_edge,
    string_moves_across_the_upper_edge,
    string_stores_stop_at_the_edge,
    wide_accesses_across_the_edge,
    vector_reads_of_the_hypervisor,
    page_table_in_the_hypervisor,
    interrupt_stack_in_the_hypervisor,
    stepping_and_reading_the_hypervisor,
];

const MIB: u64 = 1 << 20;

/// A range of physical addresses.
#[derive(Clone, Copy, Debug)]
pub struct Range {
    /// First byte.
    pub start: u64,
    /// One past the last.
    pub end: u64,
}

/// The hypervisor's range: the reserved region above 1 MiB, below usable or
/// ACPI memory and above usable memory, whose first byte cannot be written.
pub fn hypervisor_range() -> Result<Range, Failure> {
    let map = firmware::memory_map().map_err(|_| Failure::new(format_args!("no E820")))?;
    let usable = |address: u64| {
        map.iter()
            .any(|r| r.kind == USABLE && r.base <= address && address < r.end())
    };
    for region in map
        .iter()
        .filter(|r| r.kind == 2 && r.base >= MIB && r.end() <= 1 << 32)
    {
        let below = usable(region.base - 1);
        if below && catch(|| write_byte(region.base, 0)).is_err() {
            return Ok(Range {
                start: region.base,
                end: region.end(),
            });
        }
    }
    Err(Failure::new(format_args!(
        "no reserved region of E820's refuses writes"
    )))
}

fn write_byte(address: u64, value: u8) {
    // SAFETY: the tests write what is not usable memory, or free memory.
    unsafe { asm!("mov byte ptr [{}], {}", in(reg) address, in(reg_byte) value) };
}

/// Reads 8 bytes.
pub fn read_quad(address: u64) -> u64 {
    let value;
    // SAFETY: physical memory is mapped as it is; reading RAM has no effect.
    unsafe { asm!("mov {}, [{}]", out(reg) value, in(reg) address, options(nostack, readonly)) };
    value
}

fn write_quad(address: u64, value: u64) {
    // SAFETY: the tests write memory that the map says is usable and that
    // this guest does not use, or expect a fault.
    unsafe { asm!("mov [{}], {}", in(reg) address, in(reg) value, options(nostack)) };
}

/// REP MOVSB; the registers after it.
fn copy(from: u64, to: u64, count: u64) -> (u64, u64, u64) {
    let (rsi, rdi, rcx);
    // SAFETY: the destination is the test's buffer.
    unsafe {
        asm!("rep movsb", inout("rsi") from => rsi, inout("rdi") to => rdi,
             inout("rcx") count => rcx, options(nostack));
    }
    (rsi, rdi, rcx)
}

fn usable_memory_holds_what_is_written(_: &Context) -> Outcome {
    let map = firmware::memory_map().map_err(|_| Failure::new(format_args!("no E820")))?;
    // Both ends of every usable region from 2 MiB (this guest is below) to 4 GiB.
    for region in map
        .iter()
        .filter(|r| r.kind == USABLE && r.end() <= 1 << 32)
    {
        let start = region.base.max(4 * MIB);
        if start >= region.end() {
            continue;
        }
        for address in [start, ((start + region.end()) / 2) & !7, region.end() - 8] {
            let pattern = address.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            expect_ok("write", catch(|| write_quad(address, pattern)))?;
            check_eq!(read_quad(address), pattern, "at {address:#x}");
        }
    }
    Ok(())
}

fn hypervisor_reads_zero(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let range = hypervisor_range()?;
    check!(
        range.end - range.start <= 64 * MIB,
        "the hypervisor takes {range:x?}"
    );
    let mut ones = [u64::MAX; 4];
    // SAFETY: loads of each width over a register full of ones.
    unsafe {
        asm!(
            "mov {b:l}, byte ptr [{address}]",
            "mov {w:x}, word ptr [{address} + 2]",
            "mov {d:e}, dword ptr [{address} + 4]",
            "mov {q}, qword ptr [{address} + 8]",
            address = in(reg) range.start,
            b = inout(reg) ones[0], w = inout(reg) ones[1],
            d = inout(reg) ones[2], q = inout(reg) ones[3],
            options(nostack, readonly),
        );
    }
    check_eq!(ones[0], !0xff, "byte");
    check_eq!(ones[1], !0xffff, "word");
    check_eq!(ones[2], 0, "doubleword");
    check_eq!(ones[3], 0, "quadword");
    // An operand of arithmetic: x + 0.
    let sum: u64;
    // SAFETY: reads the range.
    unsafe {
        asm!("add {}, [{}]", inout(reg) 0x1234_u64 => sum, in(reg) range.start, options(nostack));
    }
    check_eq!(sum, 0x1234, "ADD from the range");
    Ok(())
}

fn hypervisor_reads_zero_everywhere(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let range = hypervisor_range()?;
    for page in (range.start..range.end).step_by(4096) {
        for address in [page, page + 4088] {
            let value = expect_ok("read", catch(|| read_quad(address)))?;
            check_eq!(value, 0, "at {address:#x}");
        }
    }
    Ok(())
}

fn hypervisor_refuses_writes(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let range = hypervisor_range()?;
    let middle = (range.start + range.end) / 2;
    for address in [range.start, range.start + 4095, middle, range.end - 8] {
        expect_gp("store", catch(|| write_quad(address & !7, u64::MAX)))?;
        check_eq!(read_quad(address & !7), 0, "after a store at {address:#x}");
    }
    expect_gp(
        "XCHG",
        attempt!("xchg [{}], {}", in(reg) middle, inout(reg) 1_u64 => _),
    )?;
    expect_gp(
        "LOCK XADD",
        attempt!("lock xadd [{}], {}", in(reg) middle, inout(reg) 1_u64 => _),
    )?;
    expect_gp("INC", attempt!("inc qword ptr [{}]", in(reg) middle))?;
    expect_gp(
        "PUSH",
        attempt!("mov {saved}, rsp", "mov rsp, {stack}", "push rax", "mov rsp, {saved}",
             saved = out(reg) _, stack = in(reg) middle),
    )?;
    expect_gp("FXSAVE", attempt!("fxsave64 [{}]", in(reg) middle & !63))?;
    check_eq!(read_quad(middle & !7), 0, "after all of them");
    // The fault is the instruction's: RIP is at it.
    let trap = catch(|| {
        let rip: u64;
        // SAFETY: the store faults.
        unsafe {
            asm!("lea r11, [rip + 2f]", "2:", "mov qword ptr [{}], rax", in(reg) middle,
                 out("r11") rip);
        }
        rip
    });
    match trap {
        Err(trap) => check_eq!(trap.frame.rip, trap.frame.r11, "RIP of the fault"),
        Ok(_) => crate::fail!("no exception"),
    }
    Ok(())
}

/// Fills the 64 bytes on the usable side of an edge; checks a copy that takes
/// 32 bytes of each side.
fn string_move(edge: u64, hypervisor_above: bool) -> Outcome {
    let mut buffer = [0xaa_u8; 64];
    let usable = if hypervisor_above { edge - 32 } else { edge };
    for i in 0..4 {
        write_quad(usable + 8 * i, 0x0101_0101_0101_0101 * (i + 1));
    }
    let to = buffer.as_mut_ptr() as u64;
    let (rsi, rdi, rcx) = expect_ok("REP MOVSB", catch(|| copy(edge - 32, to, 64)))?;
    check_eq!((rsi, rdi, rcx).0, edge + 32, "RSI");
    check_eq!(rdi, to + 64, "RDI");
    check_eq!(rcx, 0, "RCX");
    let (first, second) = buffer.split_at(32);
    let (ram, hole) = if hypervisor_above {
        (first, second)
    } else {
        (second, first)
    };
    for (i, &byte) in ram.iter().enumerate() {
        check_eq!(byte as usize, i / 8 + 1, "byte {i} of the usable side");
    }
    check!(
        hole.iter().all(|&byte| byte == 0),
        "the hypervisor's side is not zero"
    );
    Ok(())
}

fn string_moves_across_the_lower_edge(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    string_move(hypervisor_range()?.start, true)
}

fn string_moves_across_the_upper_edge(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let range = hypervisor_range()?;
    let map = firmware::memory_map().map_err(|_| Failure::new(format_args!("no E820")))?;
    if map.iter().any(|r| r.kind == USABLE && r.base == range.end) {
        return string_move(range.end, false);
    }
    // ACPI tables follow: they are to be read, not written. The copy must
    // end and begin with zeros.
    let mut buffer = [0xaa_u8; 64];
    let to = buffer.as_mut_ptr() as u64;
    let (_, _, rcx) = expect_ok("REP MOVSB", catch(|| copy(range.end - 32, to, 64)))?;
    check_eq!(rcx, 0, "RCX");
    check!(
        buffer[..32].iter().all(|&byte| byte == 0),
        "the hypervisor's side is not zero"
    );
    Ok(())
}

fn string_stores_stop_at_the_edge(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let edge = hypervisor_range()?.start;
    let trap = catch(|| {
        // SAFETY: the first 16 bytes are usable and free; then it faults.
        unsafe {
            asm!("rep stosb", inout("rdi") edge - 16 => _, inout("rcx") 64_u64 => _,
                 in("al") 0x77_u8);
        }
    });
    let Err(trap) = trap else {
        crate::fail!("REP STOSB into the range: no exception")
    };
    check_eq!(trap.vector(), vector::GP, "{trap}: vector");
    check_eq!(trap.frame.rdi, edge, "RDI");
    check_eq!(trap.frame.rcx, 48, "RCX");
    check_eq!(
        read_quad(edge - 8),
        0x7777_7777_7777_7777,
        "the bytes before the edge"
    );
    check_eq!(read_quad(edge), 0, "the bytes after it");
    Ok(())
}

fn wide_accesses_across_the_edge(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let edge = hypervisor_range()?.start;
    write_quad(edge - 8, 0x8877_6655_4433_2211);
    let value = expect_ok("read", catch(|| read_quad(edge - 3)))?;
    check_eq!(value, 0x88_7766, "three bytes of memory, five of the range");
    expect_gp("store", catch(|| write_quad(edge - 3, u64::MAX)))?;
    // Whether the part in memory was written before the fault is the
    // processor's choice; the range's part must not be.
    check_eq!(read_quad(edge), 0, "after the store");
    Ok(())
}

fn vector_reads_of_the_hypervisor(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let address = hypervisor_range()?.start + 4096;
    let (low, high): (u64, u64);
    // SAFETY: reads the range; then FXRSTOR of an all-zero image would change
    // MXCSR, so only MOVDQU and MOVNTDQA's plain sibling are used.
    unsafe {
        asm!(
            "pcmpeqd {x}, {x}",
            "movdqu {x}, [{address}]",
            "movq {low}, {x}",
            "psrldq {x}, 8",
            "movq {high}, {x}",
            x = out(xmm_reg) _, address = in(reg) address, low = out(reg) low,
            high = out(reg) high, options(nostack),
        );
    }
    check_eq!(low | high, 0, "MOVDQU");
    Ok(())
}

/// A page directory for one gigabyte, to point at the hypervisor.
#[repr(align(4096))]
struct Table([u64; 512]);

static DIRECTORY: Shared<Table> = Shared::new(Table([0; 512]));

unsafe extern "C" {
    static pml4: Shared<[u64; 512]>;
}

/// Where the tests map pages of their own: PML4 entry 1.
const WINDOW: u64 = 1 << 39;

/// Runs `f` with PML4 entry 1 pointing at a table at `address`.
fn with_window<R>(address: u64, f: impl FnOnce() -> R) -> R {
    // SAFETY: entry 1 maps addresses that nothing else uses; the TLB is
    // flushed by writing CR3 before and after.
    unsafe {
        let entry = Shared::raw(&raw const pml4).cast::<u64>().add(1);
        entry.write_volatile(address | 7);
        cpu::write_cr3(cpu::read_cr3());
        let result = f();
        entry.write_volatile(0);
        cpu::write_cr3(cpu::read_cr3());
        result
    }
}

fn page_table_in_the_hypervisor(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let range = hypervisor_range()?;
    // The walk reads zeros there: not present. It needs no write.
    let result = with_window(range.start, || catch(|| read_quad(WINDOW)));
    let trap = super::expect_trap("a page table in the range", result, vector::PF, 0)?;
    check_eq!(trap.cr2, WINDOW, "CR2");
    // One level further down.
    let directory = DIRECTORY.get();
    // SAFETY: the table is this test's.
    unsafe { (*directory).0[0] = (range.start + 8192) | 7 };
    let result = with_window(directory as u64, || catch(|| read_quad(WINDOW + 8)));
    let trap = super::expect_trap("a page directory in the range", result, vector::PF, 0)?;
    check_eq!(trap.cr2, WINDOW + 8, "CR2");
    Ok(())
}

fn interrupt_stack_in_the_hypervisor(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let range = hypervisor_range()?;
    // Delivering the interrupt writes its stack: an EPT violation in the
    // middle of an event.
    descriptors::set_interrupt_stack(0, IST_SPARE, range.start + 4096);
    let result: Result<(), Trap> = attempt!("int {}", const SPARE_STACK_VECTOR);
    descriptors::set_interrupt_stack(0, IST_SPARE, descriptors::default_stack(0, IST_SPARE));
    let Err(trap) = result else {
        crate::fail!("the interrupt was delivered")
    };
    check!(
        matches!(trap.vector(), vector::GP | vector::SS | vector::DF),
        "an interrupt stack in the range: {trap}"
    );
    // With its stack back the same interrupt arrives.
    let result: Result<(), Trap> = attempt!("int {}", const SPARE_STACK_VECTOR);
    let Err(trap) = result else {
        crate::fail!("no interrupt afterwards")
    };
    check_eq!(trap.vector(), SPARE_STACK_VECTOR, "{trap}: vector");
    Ok(())
}

fn stepping_and_reading_the_hypervisor(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    // The read is resolved by a step of the hypervisor's own; the guest's
    // step must come out of it as if nothing had been there.
    crate::tests::step::reading(hypervisor_range()?.start)
}
