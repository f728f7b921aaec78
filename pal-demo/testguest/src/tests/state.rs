//! x87, SSE and AVX state, held in the registers across exits of all kinds.

use core::arch::asm;

use crate::cpu;
use crate::harness::{Context, Failure, Outcome, Test};
use crate::{check, tests};

/// Extended state.
pub const TESTS: &[Test] = tests![
    state_is_held_over_cpuid,
    state_is_held_over_hypercalls,
    state_is_held_over_mixed_exits
];

/// An XSAVE area (Intel SDM vol. 1, ch. 13): legacy region, header, AVX.
#[repr(C, align(64))]
struct Area([u8; 1024]);

/// Offsets and lengths of what is compared.
const PARTS: [(&str, usize, usize); 5] = [
    ("x87 control word", 0, 2),
    ("MXCSR", 24, 4),
    ("x87 registers", 32, 128),
    ("XMM registers", 160, 256),
    ("YMM upper halves", 576, 256),
];

/// x87, SSE, AVX.
const COMPONENTS: u32 = 7;

const CR4_OSXSAVE: u64 = 1 << 18;

/// What provokes the exits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Exits {
    /// CPUID.
    Cpuid,
    /// The TEST hypercall.
    Hypercall,
    /// CPUID, RDMSR of IA32_FEATURE_CONTROL, a change of CR4.PGE, a read of
    /// COM2's scratch register, and a read of this address.
    Mixed(u64),
}

fn pattern(seed: u64) -> Area {
    let mut area = Area([0; 1024]);
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    for byte in area.0[32..832].iter_mut() {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        *byte = state as u8;
    }
    for register in 0..8 {
        // A normal number: integer bit set, an exponent in the middle.
        let start = 32 + 16 * register;
        area.0[start + 7] |= 0x80;
        area.0[start + 8..start + 16].copy_from_slice(&[register as u8, 0x40, 0, 0, 0, 0, 0, 0]);
    }
    area.0[416..576].fill(0);
    // Control word: all masked, extended; status 0; all registers in use.
    area.0[0..8].copy_from_slice(&[0x7f, 0x03, 0, 0, 0xff, 0, 0, 0]);
    area.0[24..28].copy_from_slice(&(0x1f80_u32 | (seed as u32 & 3) << 13).to_le_bytes());
    area.0[512] = COMPONENTS as u8;
    area
}

/// Loads a pattern, makes `rounds` rounds of exits, and compares.
pub fn hold(seed: u64, rounds: u64, exits: Exits) -> Outcome {
    check!(cpu::cpuid(1).ecx & 1 << 28 != 0, "the processor has no AVX");
    let cr4 = cpu::read_cr4();
    cpu::write_cr4(cr4 | CR4_OSXSAVE);
    let xcr0 = cpu::xgetbv(0);
    cpu::xsetbv(0, COMPONENTS.into());
    let (loaded, mut found, mut usual) = (pattern(seed), Area([0; 1024]), Area([0; 1024]));
    // The state after a start, to be loaded when done.
    usual.0[0..2].copy_from_slice(&0x037f_u16.to_le_bytes());
    usual.0[24..28].copy_from_slice(&0x1f80_u32.to_le_bytes());
    usual.0[512] = 3;
    let (kind, address) = match exits {
        Exits::Cpuid => (0_u64, 0),
        Exits::Hypercall => (1, 0),
        Exits::Mixed(address) => (2, address),
    };
    // SAFETY: the three areas are aligned and large enough for the components
    // in XCR0; everything in between uses general registers alone. RBX is kept.
    unsafe {
        asm!(
            "mov r8, rbx",
            "mov eax, {components}",
            "xor edx, edx",
            "xrstor64 [rsi]",
            "2:",
            "test r10d, r10d",
            "jnz 3f",
            "xor eax, eax",
            "cpuid",
            "jmp 5f",
            "3:",
            "cmp r10d, 1",
            "jne 4f",
            "mov eax, {test}",
            "vmcall",
            "jmp 5f",
            "4:",
            "mov eax, 1",
            "cpuid",
            "mov ecx, 0x3a",
            "rdmsr",
            "mov rax, cr4",
            "xor rax, 0x80",
            "mov cr4, rax",
            "xor rax, 0x80",
            "mov cr4, rax",
            "mov edx, 0x2ff",
            "in al, dx",
            "mov rax, [r11]",
            "5:",
            "dec r9",
            "jnz 2b",
            "mov eax, {components}",
            "xor edx, edx",
            "xsave64 [rdi]",
            "xrstor64 [r12]",
            "mov rbx, r8",
            components = const COMPONENTS,
            test = const stillpoint_abi::Hypercall::Test.command(),
            in("rsi") &loaded, in("rdi") &raw mut found, in("r12") &usual,
            inout("r9") rounds => _, in("r10") kind, in("r11") address,
            out("rax") _, out("rcx") _, out("rdx") _, out("r8") _,
            out("xmm0") _, out("xmm1") _, out("xmm2") _, out("xmm3") _,
            out("xmm4") _, out("xmm5") _, out("xmm6") _, out("xmm7") _,
            out("xmm8") _, out("xmm9") _, out("xmm10") _, out("xmm11") _,
            out("xmm12") _, out("xmm13") _, out("xmm14") _, out("xmm15") _,
        );
    }
    cpu::xsetbv(0, xcr0);
    cpu::write_cr4(cr4);
    for (what, start, length) in PARTS {
        let (a, b) = (
            &loaded.0[start..start + length],
            &found.0[start..start + length],
        );
        if let Some(at) = a.iter().zip(b).position(|(a, b)| a != b) {
            return Err(Failure::new(format_args!(
                "{what}: byte {at} is {:#x}, was {:#x}",
                b[at], a[at]
            )));
        }
    }
    Ok(())
}

fn state_is_held_over_cpuid(_: &Context) -> Outcome {
    (0..8).try_for_each(|seed| hold(seed, 500, Exits::Cpuid))
}

fn state_is_held_over_hypercalls(context: &Context) -> Outcome {
    context.require_stillpoint()?;
    (0..8).try_for_each(|seed| hold(seed + 100, 500, Exits::Hypercall))
}

fn state_is_held_over_mixed_exits(context: &Context) -> Outcome {
    // Under Stillpoint the address is in its range: an EPT violation each.
    let address = if context.stillpoint {
        super::memory::hypervisor_range()?.start
    } else {
        0x40_0000
    };
    (0..8).try_for_each(|seed| hold(seed + 200, 100, Exits::Mixed(address)))
}
