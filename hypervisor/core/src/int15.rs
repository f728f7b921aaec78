//! INT 15h's memory calls, answered from the guest's memory map.

use crate::memmap::MemoryMap;

/// The registers that INT 15h looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// EAX: the function.
    pub eax: u32,
    /// EBX: E820's continuation.
    pub ebx: u32,
    /// ECX: bytes that the caller's buffer holds, for E820.
    pub ecx: u32,
    /// EDX: `SMAP`, for E820.
    pub edx: u32,
}

/// What to do with an INT 15h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// E820: write `entry` to ES:DI; EAX = `SMAP`, EBX = `next`, ECX = 20; CF = 0.
    E820 {
        /// The region: base, length, kind, little-endian.
        entry: [u8; E820_ENTRY_SIZE],
        /// The continuation; 0 after the last region.
        next: u32,
    },
    /// E801: AX = CX = `below_16m`, BX = DX = `above_16m`; CF = 0.
    E801 {
        /// KiB of RAM from 1 MiB on up to 16 MiB.
        below_16m: u16,
        /// Blocks of 64 KiB of RAM from 16 MiB on.
        above_16m: u16,
    },
    /// 88h: AX = this; CF = 0. KiB of RAM from 1 MiB on.
    Extended(u16),
    /// CF = 1 and AH = 86h: no such continuation, or too small a buffer.
    Failed,
    /// Not about memory: the BIOS is to answer.
    PassOn,
}

/// Bytes of an E820 entry.
pub const E820_ENTRY_SIZE: usize = 20;

/// `SMAP`, as EDX asks and EAX answers.
pub const SMAP: u32 = 0x534d_4150;

/// What INT 15h with these registers answers.
pub fn answer(_map: &MemoryMap, _request: Request) -> Answer {
    todo!()
}
