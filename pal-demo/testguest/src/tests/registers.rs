//! Registers that the hypervisor could use for itself while it has the CPU:
//! they are the guest's again afterwards.

use core::arch::{asm, naked_asm};

use stillpoint_abi::Hypercall;

use crate::boot::selector;
use crate::cpu::{self, rdmsr, wrmsr};
use crate::harness::{Context, Outcome, Test};
use crate::modes::{Level, far};
use crate::tests::memory;
use crate::trap::vector;
use crate::{check, check_eq, tests};

/// Registers across exits.
pub const TESTS: &[Test] = tests![
    debug_registers_survive_exits,
    cr2_survives_exits,
    msrs_survive_exits,
    segments_survive_exits,
    descriptor_tables_survive_exits,
    system_calls_work,
];

/// Ways into the hypervisor and back; `hypervisor` is an address in its range,
/// where Stillpoint is.
struct Exits {
    hypervisor: Option<u64>,
}

impl Exits {
    fn new(context: &Context) -> Result<Self, crate::harness::Failure> {
        let hypervisor = match context.require_stillpoint() {
            Ok(()) => Some(memory::hypervisor_range()?.start),
            Err(_) => None,
        };
        Ok(Self { hypervisor })
    }

    /// One of each kind.
    fn provoke(&self) {
        cpu::cpuid(1);
        rdmsr(0x3a);
        let cr4 = cpu::read_cr4();
        cpu::write_cr4(cr4 ^ 1 << 7);
        cpu::write_cr4(cr4);
        // SAFETY: reads COM2's scratch register.
        unsafe { asm!("in al, dx", out("al") _, in("dx") 0x2ff) };
        if let Some(address) = self.hypervisor {
            memory::read_quad(address);
            // SAFETY: TEST touches no memory.
            unsafe {
                asm!("vmcall", inout("eax") Hypercall::Test.command() => _, in("ecx") 0);
            }
        }
    }
}

/// How often exits are provoked between the write and the read.
const ROUNDS: usize = 20;

fn debug_registers_survive_exits(context: &Context) -> Outcome {
    let exits = Exits::new(context)?;
    let values = [
        0x1111_u64,
        0x2222_2222,
        0xffff_8000_0000_3333,
        0x4444_4444_4444,
    ];
    let found: [u64; 6];
    cpu::write_dr6(0xffff_4ff5);
    // Types and lengths; nothing enabled.
    cpu::write_dr7(0x1d90_0400);
    // SAFETY: no breakpoint is enabled.
    unsafe {
        asm!("mov dr0, {}", "mov dr1, {}", "mov dr2, {}", "mov dr3, {}", in(reg) values[0],
             in(reg) values[1], in(reg) values[2], in(reg) values[3]);
    }
    for _ in 0..ROUNDS {
        exits.provoke();
    }
    // SAFETY: reads the registers.
    unsafe {
        let (a, b, c, d): (u64, u64, u64, u64);
        asm!("mov {}, dr0", "mov {}, dr1", "mov {}, dr2", "mov {}, dr3", out(reg) a, out(reg) b,
             out(reg) c, out(reg) d);
        found = [a, b, c, d, cpu::read_dr6(), cpu::read_dr7()];
    }
    cpu::write_dr6(0xffff_0ff0);
    cpu::write_dr7(0x400);
    for (i, value) in values.iter().enumerate() {
        check_eq!(found[i], *value, "DR{i}");
    }
    check_eq!(found[4], 0xffff_4ff5, "DR6");
    check_eq!(found[5], 0x1d90_0400, "DR7");
    Ok(())
}

fn cr2_survives_exits(context: &Context) -> Outcome {
    let exits = Exits::new(context)?;
    for value in [0x1234_5678_u64, 0xffff_8000_8765_4321] {
        // SAFETY: CR2 has no effect.
        unsafe { asm!("mov cr2, {}", in(reg) value) };
        for _ in 0..ROUNDS {
            exits.provoke();
        }
        check_eq!(cpu::read_cr2(), value, "CR2");
    }
    Ok(())
}

/// SYSENTER_CS, ESP, EIP; PAT; EFER; STAR, LSTAR, CSTAR, FMASK; FS, GS and
/// kernel GS base; TSC_AUX; DEBUGCTL.
const MSRS: [(u32, u64); 12] = [
    (0x174, 0x18),
    (0x175, 0xffff_8000_0000_1000),
    (0x176, 0xffff_8000_0000_2000),
    (0x277, 0x0007_0406_0007_0106),
    (0xc000_0081, 0x0033_0008_0000_1234),
    (0xc000_0082, 0xffff_ffff_8123_4567),
    (0xc000_0083, 0xffff_ffff_8765_4321),
    (0xc000_0084, 0x4_7700),
    (0xc000_0100, 0xffff_8000_1111_1111),
    (0xc000_0101, 0xffff_8000_2222_2222),
    (0xc000_0102, 0xffff_8000_3333_3333),
    (0xc000_0103, 0xabcd_1234),
];

fn msrs_survive_exits(context: &Context) -> Outcome {
    let exits = Exits::new(context)?;
    let mut before = [0; MSRS.len()];
    let mut found = [0; MSRS.len()];
    for (before, (number, value)) in before.iter_mut().zip(MSRS) {
        *before = rdmsr(number);
        wrmsr(number, value);
    }
    for _ in 0..ROUNDS {
        exits.provoke();
    }
    for (found, (number, _)) in found.iter_mut().zip(MSRS) {
        *found = rdmsr(number);
    }
    for (before, (number, _)) in before.iter().zip(MSRS) {
        wrmsr(number, *before);
    }
    for (found, (number, value)) in found.iter().zip(MSRS) {
        check_eq!(*found, value, "MSR {number:#x}");
    }
    Ok(())
}

fn segments_survive_exits(context: &Context) -> Outcome {
    let exits = Exits::new(context)?;
    let found: [u16; 4];
    // SAFETY: 64-bit code does not use the bases of these segments.
    unsafe {
        asm!("mov ds, {0:e}", "mov es, {1:e}", "mov fs, {0:e}", "mov gs, {1:e}", in(reg) 0x10,
             in(reg) 0);
    }
    for _ in 0..ROUNDS {
        exits.provoke();
    }
    // SAFETY: reads selectors.
    unsafe {
        let (ds, es, fs, gs): (u32, u32, u32, u32);
        asm!("mov {:e}, ds", "mov {:e}, es", "mov {:e}, fs", "mov {:e}, gs", out(reg) ds,
             out(reg) es, out(reg) fs, out(reg) gs);
        found = [ds as u16, es as u16, fs as u16, gs as u16];
    }
    check!(found == [0x10, 0, 0x10, 0], "DS, ES, FS, GS are {found:x?}");
    // The limit and the rights of a segment, by LSL and LAR, are the GDT's.
    let (limit, rights): (u64, u64);
    // SAFETY: reads a descriptor.
    unsafe {
        asm!("lsl {}, {s}", "lar {}, {s}", out(reg) limit, out(reg) rights,
             s = in(reg) u64::from(selector::CODE64));
    }
    check_eq!(limit, 0xffff_ffff, "LSL of the code segment");
    check_eq!(rights & 0xff00, 0x9b00, "LAR of the code segment");
    Ok(())
}

fn descriptor_tables_survive_exits(context: &Context) -> Outcome {
    let exits = Exits::new(context)?;
    let tables = || {
        let mut tables = [0_u64; 6];
        let at = tables.as_mut_ptr();
        // SAFETY: stores two ten-byte values and two selectors into the array.
        unsafe {
            asm!("sgdt [{0}]", "sidt [{0} + 16]", "sldt word ptr [{0} + 32]",
                 "str word ptr [{0} + 40]", in(reg) at);
        }
        tables
    };
    let before = tables();
    for _ in 0..ROUNDS {
        exits.provoke();
    }
    check!(
        tables() == before,
        "GDTR, IDTR, LDTR, TR: {:x?}, were {before:x?}",
        tables()
    );
    // Limits other than 64 KiB - 1, which a VM exit leaves in the host's.
    check_eq!(before[2] & 0xffff, 4095, "limit of the IDT");
    Ok(())
}

/// Ring 3: SYSCALL with a number in RDI.
#[unsafe(naked)]
unsafe extern "C" fn call_system() {
    naked_asm!("mov edi, 0x5ca11", "syscall", "ud2")
}

/// What IA32_LSTAR points at: ends the test's `far` by #BP, registers as they are.
#[unsafe(naked)]
unsafe extern "C" fn system_call_entry() {
    naked_asm!("int3")
}

fn system_calls_work(context: &Context) -> Outcome {
    let exits = Exits::new(context)?;
    let before = [
        rdmsr(0xc000_0080),
        rdmsr(0xc000_0081),
        rdmsr(0xc000_0082),
        rdmsr(0xc000_0084),
    ];
    wrmsr(0xc000_0080, before[0] | 1);
    wrmsr(0xc000_0081, u64::from(selector::CODE64) << 32);
    wrmsr(0xc000_0082, system_call_entry as *const () as u64);
    wrmsr(0xc000_0084, 0x700);
    exits.provoke();
    let trap = far(Level::User64, call_system, 0, 0);
    for (number, value) in [0xc000_0080, 0xc000_0081, 0xc000_0082, 0xc000_0084]
        .iter()
        .zip(before)
    {
        wrmsr(*number, value);
    }
    check_eq!(trap.vector(), vector::BP, "{trap}: vector");
    check_eq!(
        trap.frame.cs,
        u64::from(selector::CODE64),
        "CS after SYSCALL"
    );
    check_eq!(trap.frame.rdi, 0x5ca11, "RDI after SYSCALL");
    // MOV is 5 bytes long, SYSCALL 2.
    check_eq!(
        trap.frame.rcx,
        call_system as *const () as u64 + 7,
        "RCX after SYSCALL"
    );
    check_eq!(trap.frame.r11 & 2, 2, "R11 after SYSCALL");
    Ok(())
}
