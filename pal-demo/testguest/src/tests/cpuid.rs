//! CPUID: what is hidden, what is added, and what follows other registers.

use core::arch::asm;

use stillpoint_abi::detect;

use crate::cpu::{self, cpuid};
use crate::harness::{Context, Outcome, Test};
use crate::modes::{self, Level};
use crate::{apic, check, check_eq, tests};

/// CPUID.
pub const TESTS: &[Test] = tests![
    vmx_is_hidden,
    hypervisor_leaf_names_stillpoint,
    trustvisor_leaf,
    trustvisor_leaf_in_compatibility_mode,
    syscall_is_offered_in_64_bit_mode_alone,
    osxsave_mirrors_cr4,
    xsave_size_follows_xcr0,
    cpuid_clears_the_upper_halves,
    cpuid_keeps_other_registers,
    initial_apic_id_is_the_lapics,
];

/// CPUID.1:ECX bits.
const VMX: u32 = 1 << 5;
const SMX: u32 = 1 << 6;
const XSAVE: u32 = 1 << 26;
const OSXSAVE: u32 = 1 << 27;
const HYPERVISOR: u32 = 1 << 31;

const CR4_OSXSAVE: u64 = 1 << 18;

fn vmx_is_hidden(context: &Context) -> Outcome {
    let features = cpuid(1).ecx;
    if context.stillpoint {
        check_eq!(features & (VMX | SMX), 0, "VMX and SMX bits");
        check_eq!(features & HYPERVISOR, HYPERVISOR, "hypervisor bit");
    } else {
        check_eq!(
            features & HYPERVISOR,
            0,
            "hypervisor bit on the bare machine"
        );
    }
    Ok(())
}

fn hypervisor_leaf_names_stillpoint(context: &Context) -> Outcome {
    let leaf = cpuid(detect::HYPERVISOR_LEAF);
    let found = [leaf.ebx, leaf.ecx, leaf.edx];
    if !context.stillpoint {
        check!(
            found != detect::signature_registers(),
            "the bare machine says Stillpoint"
        );
        return Ok(());
    }
    check!(
        found == detect::signature_registers(),
        "signature {found:x?}"
    );
    check_eq!(
        leaf.eax,
        detect::LAST_HYPERVISOR_LEAF,
        "last hypervisor leaf"
    );
    let version = detect::unpack_version(cpuid(detect::VERSION_LEAF).eax);
    check!(version != (0, 0, 0), "version 0.0.0");
    Ok(())
}

fn trustvisor_leaf(context: &Context) -> Outcome {
    let leaf = cpuid(detect::TRUSTVISOR_LEAF);
    if !context.stillpoint {
        // What an out-of-range leaf gives: the highest basic leaf's data.
        let highest = cpuid(cpuid(0).eax);
        check_eq!(leaf.eax, highest.eax, "EAX on the bare machine");
        return Ok(());
    }
    check_eq!(leaf.eax, detect::TRUSTVISOR_PRESENT, "EAX");
    check_eq!(leaf.ebx, detect::NO_PAL, "EBX");
    check_eq!(leaf.ecx, 1, "ECX of a 64-bit caller");
    check_eq!(leaf.edx, 0, "EDX");
    Ok(())
}

fn trustvisor_leaf_in_compatibility_mode(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    for level in [Level::User64, Level::User32, Level::Kernel32] {
        let trap = modes::far(
            level,
            modes::cpuid_and_return,
            detect::TRUSTVISOR_LEAF.into(),
            0,
        );
        check_eq!(trap.vector(), 0x41, "{level:?}: {trap}: vector");
        check_eq!(
            trap.frame.rax,
            u64::from(detect::TRUSTVISOR_PRESENT),
            "{level:?} EAX"
        );
        check_eq!(
            trap.frame.rcx,
            u64::from(level == Level::User64),
            "{level:?} ECX"
        );
    }
    Ok(())
}

fn syscall_is_offered_in_64_bit_mode_alone(_: &Context) -> Outcome {
    for (level, offered) in [(Level::User64, 1), (Level::User32, 0), (Level::Kernel32, 0)] {
        let trap = modes::far(level, modes::cpuid_and_return, 0x8000_0001, 0);
        check_eq!(trap.vector(), 0x41, "{level:?}: {trap}: vector");
        check_eq!(trap.frame.rdx >> 11 & 1, offered, "{level:?}: SYSCALL bit");
    }
    Ok(())
}

fn osxsave_mirrors_cr4(_: &Context) -> Outcome {
    check!(cpuid(1).ecx & XSAVE != 0, "the processor has no XSAVE");
    let cr4 = cpu::read_cr4();
    for set in [true, false, true] {
        let value = if set {
            cr4 | CR4_OSXSAVE
        } else {
            cr4 & !CR4_OSXSAVE
        };
        cpu::write_cr4(value);
        let shown = cpuid(1).ecx & OSXSAVE != 0;
        cpu::write_cr4(cr4);
        check!(shown == set, "OSXSAVE reads {shown} when CR4's is {set}");
    }
    Ok(())
}

fn xsave_size_follows_xcr0(_: &Context) -> Outcome {
    let cr4 = cpu::read_cr4();
    cpu::write_cr4(cr4 | CR4_OSXSAVE);
    let before = cpu::xgetbv(0);
    cpu::xsetbv(0, 3);
    let small = cpu::cpuid_count(0xd, 0).ebx;
    let avx = cpu::cpuid_count(0xd, 0).eax & 4 != 0;
    let large = avx.then(|| {
        cpu::xsetbv(0, 7);
        cpu::cpuid_count(0xd, 0).ebx
    });
    cpu::xsetbv(0, before);
    cpu::write_cr4(cr4);
    // Legacy region 512 + header 64; the AVX component lies at 576.
    check_eq!(small, 576, "size with x87 and SSE");
    if let Some(large) = large {
        check_eq!(large, 832, "size with AVX");
    }
    Ok(())
}

fn cpuid_clears_the_upper_halves(_: &Context) -> Outcome {
    let (rax, rbx, rcx, rdx): (u64, u64, u64, u64);
    // SAFETY: CPUID writes the four registers named.
    unsafe {
        asm!(
            "mov {saved}, rbx",
            "mov rbx, -1",
            "cpuid",
            "xchg {saved}, rbx",
            saved = out(reg) rbx,
            inout("rax") 0xffff_ffff_0000_0000_u64 => rax,
            inout("rcx") 0xffff_ffff_0000_0000_u64 => rcx,
            inout("rdx") u64::MAX => rdx,
            options(nomem, nostack),
        );
    }
    for (name, value) in [("RAX", rax), ("RBX", rbx), ("RCX", rcx), ("RDX", rdx)] {
        check_eq!(value >> 32, 0, "{name}'s upper half");
    }
    Ok(())
}

fn cpuid_keeps_other_registers(_: &Context) -> Outcome {
    let mut changed: u64;
    // SAFETY: the block uses the registers it names; RBX and RBP are saved.
    unsafe {
        asm!(
            "push rbx",
            "push rbp",
            "mov rsi, 0x5151515151515151",
            "mov rdi, 0x5252525252525252",
            "mov rbp, 0x5353535353535353",
            "mov r8, 0x5454545454545454",
            "mov r9, 0x5555555555555555",
            "mov r10, 0x5656565656565656",
            "mov r11, 0x5757575757575757",
            "mov r12, 0x5858585858585858",
            "mov r13, 0x5959595959595959",
            "mov r14, 0x5a5a5a5a5a5a5a5a",
            "mov r15, 0x5b5b5b5b5b5b5b5b",
            // CF, PF, AF, ZF, SF, OF and DF set: exits must keep flags too.
            "push 0xcd7",
            "popfq",
            "xor eax, eax",
            "push 0xcd7",
            "popfq",
            "cpuid",
            "pushfq",
            "pop rax",
            "cld",
            "xor rax, 0xcd7",
            // IF is as it was: the tests run with interrupts off.
            "mov rbx, 0x5151515151515151",
            "xor rsi, rbx",
            "or rax, rsi",
            "mov rbx, 0x5252525252525252",
            "xor rdi, rbx",
            "or rax, rdi",
            "mov rbx, 0x5353535353535353",
            "xor rbp, rbx",
            "or rax, rbp",
            "mov rbx, 0x5454545454545454",
            "xor r8, rbx",
            "or rax, r8",
            "mov rbx, 0x5555555555555555",
            "xor r9, rbx",
            "or rax, r9",
            "mov rbx, 0x5656565656565656",
            "xor r10, rbx",
            "or rax, r10",
            "mov rbx, 0x5757575757575757",
            "xor r11, rbx",
            "or rax, r11",
            "mov rbx, 0x5858585858585858",
            "xor r12, rbx",
            "or rax, r12",
            "mov rbx, 0x5959595959595959",
            "xor r13, rbx",
            "or rax, r13",
            "mov rbx, 0x5a5a5a5a5a5a5a5a",
            "xor r14, rbx",
            "or rax, r14",
            "mov rbx, 0x5b5b5b5b5b5b5b5b",
            "xor r15, rbx",
            "or rax, r15",
            "pop rbp",
            "pop rbx",
            out("rax") changed,
            out("rcx") _, out("rdx") _, out("rsi") _, out("rdi") _,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
            out("r12") _, out("r13") _, out("r14") _, out("r15") _,
        );
    }
    // The second bit of RFLAGS is always one.
    changed &= !2;
    check_eq!(changed, 0, "bits that changed");
    Ok(())
}

fn initial_apic_id_is_the_lapics(_: &Context) -> Outcome {
    check_eq!((cpuid(1).ebx >> 24) as usize, apic::id(), "initial APIC ID");
    Ok(())
}
