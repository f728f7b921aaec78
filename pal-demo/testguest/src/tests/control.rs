//! Control registers, debug registers and XCR0: what is written reads back,
//! and what the processor refuses is refused.

use core::arch::asm;

use crate::cpu::{self, read_cr0, read_cr4, write_cr0, write_cr4, xsetbv};
use crate::harness::{Context, Outcome, Test};
use crate::tests::{expect_gp, expect_ok, expect_trap, expect_ud};
use crate::trap::{catch, vector};
use crate::{check_eq, tests};

/// Registers that the hypervisor has a say in.
pub const TESTS: &[Test] = tests![
    cr0_reads_back,
    cr0_refuses,
    clts_and_lmsw,
    cr4_reads_back,
    cr4_refuses,
    cr4_vmxe,
    cr3_and_cr8_read_back,
    debug_registers_read_back,
    xcr0_refuses,
    xcr0_reads_back,
    xsetbv_in_ring_3,
    device_not_available,
];

const CR0_PE: u64 = 1;
const CR0_MP: u64 = 1 << 1;
const CR0_EM: u64 = 1 << 2;
const CR0_TS: u64 = 1 << 3;
const CR0_ET: u64 = 1 << 4;
const CR0_NE: u64 = 1 << 5;
const CR0_WP: u64 = 1 << 16;
const CR0_AM: u64 = 1 << 18;
const CR0_NW: u64 = 1 << 29;
const CR0_CD: u64 = 1 << 30;
const CR0_PG: u64 = 1 << 31;

const CR4_PAE: u64 = 1 << 5;
const CR4_VMXE: u64 = 1 << 13;
const CR4_SMXE: u64 = 1 << 14;
const CR4_OSXSAVE: u64 = 1 << 18;

fn cr0_reads_back(_: &Context) -> Outcome {
    let before = read_cr0();
    check_eq!(
        before & (CR0_PG | CR0_PE | CR0_ET),
        CR0_PG | CR0_PE | CR0_ET,
        "CR0"
    );
    for bit in [
        CR0_NE,
        CR0_MP,
        CR0_TS,
        CR0_EM,
        CR0_WP,
        CR0_AM,
        CR0_CD,
        CR0_CD | CR0_NW,
    ] {
        for value in [before & !bit, before | bit, before & !bit] {
            write_cr0(value);
            let found = read_cr0();
            write_cr0(before);
            check_eq!(found, value, "bits {bit:#x}");
        }
    }
    // ET cannot be cleared; reserved bits below 32 are ignored.
    write_cr0(before & !CR0_ET | 1 << 7);
    let found = read_cr0();
    write_cr0(before);
    check_eq!(found, before, "ET cleared and bit 7 set");
    Ok(())
}

fn cr0_refuses(_: &Context) -> Outcome {
    let before = read_cr0();
    for (what, value) in [
        ("PG without PE", before & !CR0_PE),
        ("NW without CD", before & !CR0_CD | CR0_NW),
        ("leaving paging in 64-bit mode", before & !CR0_PG),
        ("a bit above 31", before | 1 << 32),
    ] {
        expect_gp(what, catch(|| write_cr0(value)))?;
        check_eq!(read_cr0(), before, "CR0 after {what}");
    }
    Ok(())
}

fn clts_and_lmsw(_: &Context) -> Outcome {
    let before = read_cr0();
    let (after_lmsw, smsw, after_clts): (u64, u64, u64);
    // SAFETY: TS is set and cleared; nothing in between uses SSE or x87.
    unsafe {
        asm!(
            "smsw {smsw:e}",
            "mov {set:e}, {smsw:e}",
            "or {set:e}, 8",
            // LMSW cannot clear PE.
            "and {set:e}, 0xfffe",
            "lmsw {set:x}",
            "mov {lmsw}, cr0",
            "clts",
            "mov {clts}, cr0",
            set = out(reg) _, smsw = out(reg) smsw, lmsw = out(reg) after_lmsw,
            clts = out(reg) after_clts, options(nomem, nostack),
        );
    }
    check_eq!(smsw, before & 0xffff_ffff, "SMSW");
    check_eq!(after_lmsw, before | CR0_TS, "CR0 after LMSW");
    check_eq!(after_clts, before & !CR0_TS, "CR0 after CLTS");
    Ok(())
}

fn cr4_reads_back(_: &Context) -> Outcome {
    let before = read_cr4();
    // VME, PVI, TSD, DE, PSE, MCE, PGE, PCE, UMIP where there is one.
    let umip = cpu::cpuid_count(7, 0).ecx & 4 != 0;
    for (bit, there) in [
        (0, true),
        (1, true),
        (2, true),
        (3, true),
        (4, true),
        (6, true),
        (7, true),
        (8, true),
        (11, umip),
    ] {
        if !there {
            continue;
        }
        for value in [before | 1 << bit, before & !(1 << bit)] {
            write_cr4(value);
            let found = read_cr4();
            write_cr4(before);
            check_eq!(found, value, "bit {bit}");
        }
    }
    Ok(())
}

fn cr4_refuses(_: &Context) -> Outcome {
    let before = read_cr4();
    for (what, value) in [
        ("clearing PAE in 64-bit mode", before & !CR4_PAE),
        ("reserved bit 15", before | 1 << 15),
        ("reserved bit 31", before | 1 << 31),
        ("reserved bit 40", before | 1 << 40),
        ("LA57 in 64-bit mode", before | 1 << 12),
    ] {
        expect_gp(what, catch(|| write_cr4(value)))?;
        check_eq!(read_cr4(), before, "CR4 after {what}");
    }
    Ok(())
}

fn cr4_vmxe(context: &Context) -> Outcome {
    let before = read_cr4();
    check_eq!(before & CR4_VMXE, 0, "VMXE");
    let result = catch(|| write_cr4(before | CR4_VMXE));
    if context.stillpoint {
        expect_gp("VMXE", result)?;
        check_eq!(read_cr4(), before, "CR4 after VMXE");
        expect_gp("SMXE", catch(|| write_cr4(before | CR4_SMXE)))?;
        check_eq!(read_cr4(), before, "CR4 after SMXE");
    } else {
        expect_ok("VMXE", result)?;
        write_cr4(before);
    }
    Ok(())
}

fn cr3_and_cr8_read_back(_: &Context) -> Outcome {
    let cr3 = cpu::read_cr3();
    // PWT and PCD are kept.
    cpu::write_cr3(cr3 | 0x18);
    let found = cpu::read_cr3();
    cpu::write_cr3(cr3);
    check_eq!(found, cr3 | 0x18, "CR3");
    for priority in [15, 0] {
        cpu::write_cr8(priority);
        check_eq!(cpu::read_cr8(), priority, "CR8");
    }
    expect_gp("CR8 = 16", catch(|| cpu::write_cr8(16)))
}

fn debug_registers_read_back(_: &Context) -> Outcome {
    let address = 0xffff_8000_0000_1234;
    cpu::write_dr0(address);
    cpu::write_dr3(!address);
    let found = (cpu::read_dr0(), cpu::read_dr3());
    cpu::write_dr0(0);
    cpu::write_dr3(0);
    check_eq!(found.0, address, "DR0");
    check_eq!(found.1, !address, "DR3");
    // Fixed bits: DR6 bits 11:4 and 31:16 read 1 (bit 16, RTM, when not in a
    // transaction); DR7 bit 10 reads 1.
    cpu::write_dr6(0);
    check_eq!(cpu::read_dr6(), 0xffff_0ff0, "DR6 written 0");
    cpu::write_dr6(0xffff_4ff1);
    let dr6 = cpu::read_dr6();
    cpu::write_dr6(0);
    check_eq!(dr6, 0xffff_4ff1, "DR6 with BS and B0");
    // A breakpoint's type and length, disabled.
    cpu::write_dr7(0x000d_0000);
    let dr7 = cpu::read_dr7();
    cpu::write_dr7(0x400);
    check_eq!(dr7, 0x000d_0400, "DR7");
    check_eq!(cpu::read_dr7(), 0x400, "DR7 cleared");
    expect_gp("an upper half in DR7", catch(|| cpu::write_dr7(1 << 32)))
}

/// Runs `f` with CR4.OSXSAVE set.
fn with_osxsave<R>(f: impl FnOnce() -> R) -> R {
    let cr4 = read_cr4();
    write_cr4(cr4 | CR4_OSXSAVE);
    let result = f();
    write_cr4(cr4);
    result
}

fn xcr0_refuses(_: &Context) -> Outcome {
    expect_ud("XSETBV without OSXSAVE", catch(|| xsetbv(0, 3)))?;
    expect_ud("XGETBV without OSXSAVE", catch(|| cpu::xgetbv(0)))?;
    with_osxsave(|| {
        let before = cpu::xgetbv(0);
        for (what, register, value) in [
            ("no x87", 0, 2),
            ("nothing", 0, 0),
            ("AVX without SSE", 0, 5),
            ("a reserved component", 0, 3 | 1 << 62),
            ("bit 63", 0, 3 | 1 << 63),
            ("an unknown component", 0, 3 | 1 << 40),
            ("XCR1", 1, 3),
            ("XCR 0xffffffff", 0xffff_ffff, 3),
        ] {
            expect_gp(what, catch(|| xsetbv(register, value)))?;
            check_eq!(cpu::xgetbv(0), before, "XCR0 after {what}");
        }
        Ok(())
    })
}

fn xcr0_reads_back(_: &Context) -> Outcome {
    let supported = u64::from(cpu::cpuid_count(0xd, 0).eax);
    with_osxsave(|| {
        let before = cpu::xgetbv(0);
        for value in [1, 3, 7] {
            if value & !supported == 0 {
                expect_ok("XSETBV", catch(|| xsetbv(0, value)))?;
                check_eq!(cpu::xgetbv(0), value, "XCR0");
            }
        }
        xsetbv(0, before);
        check_eq!(cpu::xgetbv(0), before, "XCR0 restored");
        Ok(())
    })
}

fn xsetbv_in_ring_3(_: &Context) -> Outcome {
    use crate::modes::{Level, far};
    #[unsafe(naked)]
    unsafe extern "C" fn code() {
        core::arch::naked_asm!("mov edx, 0", "xsetbv", "ud2")
    }
    with_osxsave(|| {
        let trap = far(Level::User64, code, 3, 0);
        expect_trap("XSETBV", Err::<(), _>(trap), vector::GP, 0).map(drop)
    })
}

fn device_not_available(_: &Context) -> Outcome {
    let before = read_cr0();
    let sse = || {
        // SAFETY: the instruction faults or reads a register.
        unsafe { asm!("movq {}, xmm0", out(reg) _, options(nomem, nostack)) };
    };
    for (what, set, vector) in [("TS", CR0_TS, vector::NM), ("EM", CR0_EM, vector::UD)] {
        // The trap's entry clears both bits again (asm/traps.s).
        let result = catch(|| {
            write_cr0(before | set);
            sse();
        });
        expect_trap(what, result, vector, 0)?;
    }
    check_eq!(read_cr0(), before, "CR0");
    Ok(())
}
