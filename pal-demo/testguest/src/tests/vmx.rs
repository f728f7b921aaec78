//! Instructions that a guest without VMX must not have, and those of the
//! processor's that the hypervisor must enable for it.

use core::arch::asm;

use crate::cpu::{self, cpuid, cpuid_count};
use crate::harness::{Context, Outcome, Test};
use crate::modes::{Level, far};
use crate::tests::{expect_ok, expect_trap, expect_ud};
use crate::trap::{Trap, attempt, catch, vector};
use crate::{check, tests};

/// VMX instructions and enabled features.
pub const TESTS: &[Test] = tests![
    vmx_instructions_are_undefined,
    vmx_instructions_are_undefined_in_ring_3,
    other_undefined_instructions,
    advertised_instructions_work,
    cache_and_tlb_instructions_work,
];

/// Defines a function that executes one instruction with operands that are
/// harmless, should it be executed after all.
macro_rules! instructions {
    ($($function:ident $name:literal $text:literal;)*) => {
        $(
            #[unsafe(naked)]
            unsafe extern "C" fn $function() {
                core::arch::naked_asm!(
                    // A writable operand below the stack pointer, for all.
                    "lea rdx, [rsp - 64]",
                    "xor eax, eax",
                    "xor ecx, ecx",
                    $text,
                    "ret",
                )
            }
        )*
        const VMX_INSTRUCTIONS: &[(&str, unsafe extern "C" fn())] = &[$(($name, $function)),*];
    };
}

instructions! {
    vmxon "VMXON" "vmxon [rdx]";
    vmxoff "VMXOFF" "vmxoff";
    vmptrld "VMPTRLD" "vmptrld [rdx]";
    vmptrst "VMPTRST" "vmptrst [rdx]";
    vmclear "VMCLEAR" "vmclear [rdx]";
    vmread "VMREAD" "vmread rax, rcx";
    vmread_memory "VMREAD to memory" "vmread [rdx], rcx";
    vmwrite "VMWRITE" "vmwrite rcx, rax";
    vmlaunch "VMLAUNCH" "vmlaunch";
    vmresume "VMRESUME" "vmresume";
    invept "INVEPT" "invept rcx, [rdx]";
    invvpid "INVVPID" "invvpid rcx, [rdx]";
}

fn run(code: unsafe extern "C" fn()) -> Result<(), Trap> {
    // SAFETY: the instructions fault, or have operands on this stack's free part.
    catch(|| unsafe { code() })
}

fn vmx_instructions_are_undefined(_: &Context) -> Outcome {
    VMX_INSTRUCTIONS
        .iter()
        .try_for_each(|(name, code)| expect_ud(name, run(*code)))
}

fn vmx_instructions_are_undefined_in_ring_3(_: &Context) -> Outcome {
    for (name, code) in VMX_INSTRUCTIONS {
        let trap = far(Level::User64, *code, 0, 0);
        expect_trap(name, Err::<(), _>(trap), vector::UD, 0)?;
    }
    Ok(())
}

fn other_undefined_instructions(_: &Context) -> Outcome {
    expect_ud("RSM", attempt!("rsm"))?;
    expect_ud("GETSEC", attempt!("getsec", inout("eax") 0 => _))?;
    expect_ud("VMFUNC", attempt!("vmfunc", in("eax") 0, in("ecx") 0))?;
    expect_ud("UD2", attempt!("ud2"))
}

fn advertised_instructions_work(_: &Context) -> Outcome {
    let (basic, structured, extended) = (cpuid(1), cpuid_count(7, 0), cpuid(0x8000_0001));
    if extended.edx & 1 << 27 != 0 {
        cpu::wrmsr(0xc000_0103, 0x1234);
        // SAFETY: reads TSC and TSC_AUX.
        let aux = catch(|| unsafe {
            let aux: u32;
            asm!("rdtscp", out("eax") _, out("edx") _, out("ecx") aux);
            aux
        });
        check!(
            expect_ok("RDTSCP", aux)? == 0x1234,
            "RDTSCP gives another IA32_TSC_AUX"
        );
    }
    if structured.ebx & 1 << 10 != 0 {
        let descriptor = [0_u64; 2];
        let all = attempt!("invpcid {}, [{}]", in(reg) 2_u64, in(reg) &descriptor);
        expect_ok("INVPCID", all)?;
    }
    if basic.ecx & 1 << 30 != 0 {
        expect_ok("RDRAND", attempt!("rdrand {}", out(reg) _))?;
    }
    if structured.ebx & 1 << 18 != 0 {
        expect_ok("RDSEED", attempt!("rdseed {}", out(reg) _))?;
    }
    if basic.ecx & 1 << 3 != 0 {
        let line = [0_u8; 64];
        expect_ok(
            "MONITOR",
            attempt!("monitor", in("rax") line.as_ptr(), in("ecx") 0, in("edx") 0),
        )?;
    }
    if basic.ecx & 1 << 23 != 0 {
        expect_ok("POPCNT", attempt!("popcnt {}, {0}", out(reg) _))?;
    }
    expect_ok("RDTSC", attempt!("rdtsc", out("eax") _, out("edx") _))?;
    expect_ok("PAUSE", attempt!("pause")).map(drop)
}

fn cache_and_tlb_instructions_work(_: &Context) -> Outcome {
    let word = 0x5a5a_u64;
    expect_ok("WBINVD", attempt!("wbinvd"))?;
    expect_ok("INVLPG", attempt!("invlpg [{}]", in(reg) &word))?;
    expect_ok("CLFLUSH", attempt!("clflush [{}]", in(reg) &word))?;
    check!(word == 0x5a5a, "memory changed");
    // SAFETY: stores the table registers to this stack.
    expect_ok(
        "SGDT and SIDT",
        catch(|| unsafe {
            let mut tables = [0_u8; 32];
            asm!("sgdt [{0}]", "sidt [{0} + 16]", in(reg) tables.as_mut_ptr());
        }),
    )
}
