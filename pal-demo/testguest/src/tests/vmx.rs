//! Instructions that a guest without VMX must not have, and those of the
//! processor's that the hypervisor must enable for it.

use core::arch::asm;

use crate::cpu::{self, cpuid, cpuid_count};
use crate::harness::{Context, Outcome, Test};
use crate::modes::{Level, far};
use crate::tests::{expect_ok, expect_trap, expect_ud};
use crate::trap::{Trap, catch, vector};
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
    // SAFETY: none of these does anything but fault, as the features are off.
    expect_ud("RSM", catch(|| unsafe { asm!("rsm") }))?;
    // SAFETY: as above; GETSEC leaf 0 would report capabilities.
    expect_ud(
        "GETSEC",
        catch(|| unsafe { asm!("getsec", inout("eax") 0 => _) }),
    )?;
    // SAFETY: as above.
    expect_ud(
        "VMFUNC",
        catch(|| unsafe { asm!("vmfunc", in("eax") 0, in("ecx") 0) }),
    )?;
    // SAFETY: as above.
    expect_ud("UD2", catch(|| unsafe { asm!("ud2") }))
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
        // SAFETY: invalidates translations; type 2 takes no descriptor's values.
        let all = catch(|| unsafe {
            asm!("invpcid {}, [{}]", in(reg) 2_u64, in(reg) &descriptor);
        });
        expect_ok("INVPCID", all)?;
    }
    if basic.ecx & 1 << 30 != 0 {
        // SAFETY: draws a random number.
        expect_ok("RDRAND", catch(|| unsafe { asm!("rdrand {}", out(reg) _) }))?;
    }
    if structured.ebx & 1 << 18 != 0 {
        // SAFETY: draws a random number.
        expect_ok("RDSEED", catch(|| unsafe { asm!("rdseed {}", out(reg) _) }))?;
    }
    if basic.ecx & 1 << 3 != 0 {
        let line = [0_u8; 64];
        // SAFETY: arms a monitor on this stack; no MWAIT follows.
        expect_ok(
            "MONITOR",
            catch(|| unsafe {
                asm!("monitor", in("rax") line.as_ptr(), in("ecx") 0, in("edx") 0);
            }),
        )?;
    }
    if basic.ecx & 1 << 23 != 0 {
        // SAFETY: counts bits.
        expect_ok(
            "POPCNT",
            catch(|| unsafe { asm!("popcnt {}, {0}", out(reg) _) }),
        )?;
    }
    // SAFETY: reads a clock.
    expect_ok(
        "RDTSC",
        catch(|| unsafe { asm!("rdtsc", out("eax") _, out("edx") _) }),
    )?;
    // SAFETY: a hint.
    expect_ok("PAUSE", catch(|| unsafe { asm!("pause") })).map(drop)
}

fn cache_and_tlb_instructions_work(_: &Context) -> Outcome {
    let word = 0x5a5a_u64;
    // SAFETY: writes the caches back; memory keeps its contents. INVD is left
    // out: on a real processor it would lose what was not written back.
    expect_ok("WBINVD", catch(|| unsafe { asm!("wbinvd") }))?;
    // SAFETY: drops a translation that is walked again.
    expect_ok(
        "INVLPG",
        catch(|| unsafe { asm!("invlpg [{}]", in(reg) &word) }),
    )?;
    // SAFETY: writes a line back.
    expect_ok(
        "CLFLUSH",
        catch(|| unsafe { asm!("clflush [{}]", in(reg) &word) }),
    )?;
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
