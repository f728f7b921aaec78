//! The assembly of the test guest, and the symbols it shares with Rust.

use core::arch::global_asm;

/// CPUs that have a stack and a TSS; LAPIC IDs from 0 up.
pub const MAX_CPUS: usize = 8;

/// Bytes of stack a CPU.
const STACK_SIZE: usize = 64 * 1024;

/// Memory for one CPU's stack.
#[repr(C, align(64))]
struct Stacks([[u8; STACK_SIZE]; MAX_CPUS]);

#[unsafe(export_name = "stacks")]
static mut STACKS: Stacks = Stacks([[0; STACK_SIZE]; MAX_CPUS]);

global_asm!(
    ".set STACK_SIZE, {stack_size}",
    ".set MAX_CPUS, {max_cpus}",
    include_str!("asm/boot.s"),
    include_str!("asm/modes.s"),
    include_str!("asm/traps.s"),
    include_str!("asm/taskswitch.s"),
    stack_size = const STACK_SIZE,
    max_cpus = const MAX_CPUS,
    options(att_syntax),
);

/// `gdt` in asm/boot.s: the selectors.
pub mod selector {
    /// 64-bit code, ring 0.
    pub const CODE64: u16 = 0x08;
    /// Flat data, ring 0.
    pub const DATA: u16 = 0x10;
    /// 32-bit code, ring 0: compatibility mode under long mode.
    pub const CODE32: u16 = 0x18;
    /// 32-bit code, ring 3.
    pub const USER_CODE32: u16 = 0x30 | 3;
    /// Flat data, ring 3.
    pub const USER_DATA: u16 = 0x38 | 3;
    /// 64-bit code, ring 3.
    pub const USER_CODE64: u16 = 0x40 | 3;
    /// The first CPU's TSS; each takes 16 bytes.
    pub const TSS: u16 = 0x48;
}
