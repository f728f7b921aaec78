//! RDMSR and WRMSR: faults as on the bare processor, and what is hidden.
//!
//! The emulator must run with `ignore_bad_msrs=0`.

use core::arch::asm;

use crate::cpu::{rdmsr, wrmsr};
use crate::harness::{Context, Outcome, Test};
use crate::tests::{expect_gp, expect_ok, expect_trap};
use crate::trap::{catch, vector};
use crate::{check, check_eq, tests};

/// MSRs.
pub const TESTS: &[Test] = tests![
    unimplemented_msrs_fault,
    vmx_capability_msrs_are_hidden,
    feature_control_is_locked_without_vmx,
    bad_values_fault,
    the_apic_stays_where_it_is,
    faults_leave_registers_alone,
    efer_reads_back,
    base_msrs_read_back,
    system_call_msrs_read_back,
    msrs_fault_in_ring_3,
    time_stamp_counter_counts,
    memory_type_msrs_take_their_own_value,
];

const IA32_TSC: u32 = 0x10;
const IA32_APIC_BASE: u32 = 0x1b;
const IA32_FEATURE_CONTROL: u32 = 0x3a;
const IA32_MTRRCAP: u32 = 0xfe;
const IA32_SYSENTER_CS: u32 = 0x174;
const IA32_SYSENTER_ESP: u32 = 0x175;
const IA32_SYSENTER_EIP: u32 = 0x176;
const IA32_PAT: u32 = 0x277;
const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
const IA32_EFER: u32 = 0xc000_0080;
const IA32_STAR: u32 = 0xc000_0081;
const IA32_LSTAR: u32 = 0xc000_0082;
const IA32_FMASK: u32 = 0xc000_0084;
const IA32_FS_BASE: u32 = 0xc000_0100;
const IA32_GS_BASE: u32 = 0xc000_0101;
const IA32_KERNEL_GS_BASE: u32 = 0xc000_0102;

/// Not canonical with 48 or with 57 bits of linear address.
const NON_CANONICAL: u64 = 1 << 62;

fn unimplemented_msrs_fault(_: &Context) -> Outcome {
    // Inside both halves of the MSR bitmap, between them, and beyond.
    let numbers = [
        0x4,
        0x1ffe,
        0x2000,
        0x5000,
        0x3fff_ffff,
        0x4000_0000,
        0x8000_0000,
        0xbfff_ffff,
        0xc000_0200,
        0xc000_1fff,
        0xc000_2000,
        0xffff_ffff,
    ];
    for number in numbers {
        expect_gp(format_args!("RDMSR {number:#x}"), catch(|| rdmsr(number)))?;
        expect_gp(
            format_args!("WRMSR {number:#x}"),
            catch(|| wrmsr(number, 0)),
        )?;
    }
    Ok(())
}

fn vmx_capability_msrs_are_hidden(context: &Context) -> Outcome {
    for number in 0x480..=0x48d {
        if context.stillpoint {
            expect_gp("RDMSR of a VMX capability", catch(|| rdmsr(number)))?;
        }
        // Read-only on every processor.
        expect_gp("WRMSR of a VMX capability", catch(|| wrmsr(number, 0)))?;
    }
    Ok(())
}

fn feature_control_is_locked_without_vmx(context: &Context) -> Outcome {
    let value = expect_ok("RDMSR", catch(|| rdmsr(IA32_FEATURE_CONTROL)))?;
    check_eq!(value & 1, 1, "lock bit");
    if context.stillpoint {
        check_eq!(value & 6, 0, "VMX enable bits");
    }
    expect_gp("WRMSR", catch(|| wrmsr(IA32_FEATURE_CONTROL, value)))?;
    expect_gp("WRMSR", catch(|| wrmsr(IA32_FEATURE_CONTROL, 5)))
}

fn bad_values_fault(_: &Context) -> Outcome {
    let cases = [
        (IA32_EFER, 1 << 63),
        // Leaving long mode by LME while paging is on.
        (IA32_EFER, rdmsr(IA32_EFER) & !0x100),
        (IA32_LSTAR, NON_CANONICAL),
        (IA32_FS_BASE, NON_CANONICAL),
        (IA32_GS_BASE, NON_CANONICAL),
        (IA32_KERNEL_GS_BASE, NON_CANONICAL),
        (IA32_SYSENTER_EIP, NON_CANONICAL),
        // Memory type 2 is reserved.
        (IA32_PAT, 2),
        (IA32_MTRR_DEF_TYPE, 2),
        (IA32_MTRRCAP, 0),
        (IA32_APIC_BASE, 1 << 63),
    ];
    for (number, value) in cases {
        let before = rdmsr(number);
        expect_gp(
            format_args!("WRMSR {number:#x} = {value:#x}"),
            catch(|| wrmsr(number, value)),
        )?;
        check_eq!(rdmsr(number), before, "MSR {number:#x} after the fault");
    }
    Ok(())
}

fn the_apic_stays_where_it_is(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    let before = rdmsr(IA32_APIC_BASE);
    // Not the bootstrap processor; the next page; above 4 GiB.
    for value in [before ^ 1 << 8, before ^ 1 << 12, before | 1 << 33] {
        expect_gp(
            format_args!("WRMSR {value:#x}"),
            catch(|| wrmsr(IA32_APIC_BASE, value)),
        )?;
        check_eq!(rdmsr(IA32_APIC_BASE), before, "after {value:#x}");
    }
    expect_ok("WRMSR", catch(|| wrmsr(IA32_APIC_BASE, before)))
}

fn faults_leave_registers_alone(_: &Context) -> Outcome {
    let faulting = || -> u64 {
        let rip: u64;
        // SAFETY: RDMSR faults; the values are read from the trap.
        unsafe {
            asm!("lea r11, [rip + 2f]", "2:", "rdmsr", out("r11") rip,
                 in("ecx") 0x5000, inout("rax") 0x1111_2222_3333_4444_u64 => _,
                 inout("rdx") 0x5555_6666_7777_8888_u64 => _, options(nostack));
        }
        rip
    };
    let trap = expect_trap("RDMSR", catch(faulting), vector::GP, 0)?;
    check_eq!(trap.frame.rax, 0x1111_2222_3333_4444, "RAX");
    check_eq!(trap.frame.rdx, 0x5555_6666_7777_8888, "RDX");
    check_eq!(trap.frame.rcx, 0x5000, "RCX");
    check_eq!(trap.frame.rip, trap.frame.r11, "RIP");
    Ok(())
}

fn efer_reads_back(_: &Context) -> Outcome {
    let before = rdmsr(IA32_EFER);
    // LME, LMA; boot.s sets NXE.
    check_eq!(before & 0xd00, 0xd00, "EFER");
    wrmsr(IA32_EFER, before | 1);
    let with = rdmsr(IA32_EFER);
    wrmsr(IA32_EFER, before & !1);
    let without = rdmsr(IA32_EFER);
    wrmsr(IA32_EFER, before);
    check_eq!(with, before | 1, "with SCE");
    check_eq!(without, before & !1, "without SCE");
    // LMA is read-only: written clear, it stays set.
    expect_ok(
        "WRMSR without LMA",
        catch(|| wrmsr(IA32_EFER, before & !0x400)),
    )?;
    check_eq!(rdmsr(IA32_EFER), before, "EFER written without LMA");
    Ok(())
}

/// Writes `value`, restores, and checks what was read in between.
fn reads_back(number: u32, value: u64) -> Outcome {
    let before = rdmsr(number);
    wrmsr(number, value);
    let found = rdmsr(number);
    wrmsr(number, before);
    check_eq!(found, value, "MSR {number:#x}");
    check_eq!(rdmsr(number), before, "MSR {number:#x} restored");
    Ok(())
}

fn base_msrs_read_back(_: &Context) -> Outcome {
    for number in [IA32_FS_BASE, IA32_GS_BASE, IA32_KERNEL_GS_BASE] {
        reads_back(number, 0xffff_8000_1234_5678)?;
        reads_back(number, 0x0000_7fff_8765_4321)?;
    }
    // The base the segment uses is the MSR's.
    let (before, value) = (rdmsr(IA32_GS_BASE), 0x0123_4567_89ab_cdef_u64);
    wrmsr(IA32_GS_BASE, &raw const value as u64);
    let found: u64;
    // SAFETY: GS:[0] is `value`.
    unsafe { asm!("mov {}, gs:[0]", out(reg) found, options(nostack, readonly)) };
    wrmsr(IA32_GS_BASE, before);
    check_eq!(found, value, "GS:[0]");
    Ok(())
}

fn system_call_msrs_read_back(_: &Context) -> Outcome {
    reads_back(IA32_SYSENTER_CS, 0x10)?;
    reads_back(IA32_SYSENTER_ESP, 0xffff_8000_0000_1000)?;
    reads_back(IA32_SYSENTER_EIP, 0xffff_8000_0000_2000)?;
    reads_back(IA32_STAR, 0x0023_0010_0000_0000)?;
    reads_back(IA32_LSTAR, 0xffff_ffff_8000_0000)?;
    reads_back(IA32_FMASK, 0x4_7700)?;
    // Write-back everywhere but entry 7, which this guest does not use.
    let pat = rdmsr(IA32_PAT);
    reads_back(IA32_PAT, pat & !(0xff << 56) | 4 << 56)
}

fn msrs_fault_in_ring_3(_: &Context) -> Outcome {
    use crate::modes::{Level, far};
    #[unsafe(naked)]
    unsafe extern "C" fn read() {
        core::arch::naked_asm!("rdmsr", "ud2")
    }
    #[unsafe(naked)]
    unsafe extern "C" fn write() {
        core::arch::naked_asm!("wrmsr", "ud2")
    }
    for (name, code) in [("RDMSR", read as unsafe extern "C" fn()), ("WRMSR", write)] {
        for number in [IA32_TSC, IA32_LSTAR, 0x5000] {
            let trap = far(Level::User64, code, 0, number.into());
            check!(trap.vector() == vector::GP, "{name} of {number:#x}: {trap}");
        }
    }
    Ok(())
}

fn time_stamp_counter_counts(_: &Context) -> Outcome {
    let (a, b) = (crate::cpu::rdtsc(), rdmsr(IA32_TSC));
    let c = crate::cpu::rdtsc();
    check!(a <= b && b <= c, "RDTSC {a}, RDMSR {b}, RDTSC {c}");
    check!(c - a < 1_000_000, "{} ticks for three reads", c - a);
    Ok(())
}

fn memory_type_msrs_take_their_own_value(_: &Context) -> Outcome {
    // What a system does when it brings up its CPUs: write the same again.
    let variable = rdmsr(IA32_MTRRCAP) as u32 & 0xff;
    let fixed = [
        0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
    ];
    for number in (0x200..0x200 + 2 * variable)
        .chain(fixed)
        .chain([IA32_MTRR_DEF_TYPE])
    {
        let value = expect_ok("RDMSR", catch(|| rdmsr(number)))?;
        expect_ok("WRMSR", catch(|| wrmsr(number, value)))?;
        check_eq!(rdmsr(number), value, "MSR {number:#x}");
    }
    // A variable range that is not in use takes another value and gives it back.
    let mask = 0x200 + 2 * variable - 1;
    let (base, before) = (mask - 1, (rdmsr(mask - 1), rdmsr(mask)));
    check_eq!(before.1 & 1 << 11, 0, "the last variable range's valid bit");
    wrmsr(base, 0xe000_0000);
    wrmsr(mask, 0xffff_f000);
    let found = (rdmsr(base), rdmsr(mask));
    wrmsr(base, before.0);
    wrmsr(mask, before.1);
    check_eq!(found.0, 0xe000_0000, "variable base");
    check_eq!(found.1, 0xffff_f000, "variable mask");
    Ok(())
}
