//! INT 15h's memory calls, answered from the guest's memory map.
//!
//! The hypervisor catches INT 15h in real mode, asks [`answer`], and writes
//! the registers and the buffer; what isn't about memory goes to the BIOS.
//! Answering all calls from one map is what keeps an old boot loader,
//! which asks the narrow ones, out of the hypervisor's memory too.

use crate::memmap::{MemoryMap, RegionKind};

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
    /// E820: write `entry` to ES:DI; EAX = [`SMAP`], EBX = `next`,
    /// ECX = [`E820_ENTRY_SIZE`]; CF = 0.
    E820 {
        /// The region: base, length and kind, little-endian.
        entry: [u8; E820_ENTRY_SIZE],
        /// The continuation; 0 with the last region.
        next: u32,
    },
    /// E801: AX = CX = `below_16m`, BX = DX = `above_16m`; CF = 0. E881, its 32-bit
    /// form, has the same in EAX, ECX, EBX and EDX.
    E801 {
        /// E881.
        wide: bool,
        /// KiB of RAM in one piece from 1 MiB on, up to 16 MiB.
        below_16m: u16,
        /// Blocks of 64 KiB of RAM in one piece from 16 MiB on.
        above_16m: u16,
    },
    /// 88h: AX = this; CF = 0. KiB of RAM in one piece from 1 MiB on.
    Extended(u16),
    /// CF = 1 and AH = [`FAILED`]: no such continuation, or too small a buffer.
    Failed,
    /// Not about memory: the BIOS is to answer.
    PassOn,
}

/// Bytes of an E820 entry.
pub const E820_ENTRY_SIZE: usize = 20;

/// `SMAP`, as EDX asks and EAX answers.
pub const SMAP: u32 = 0x534d_4150;

/// What AH holds after a call that failed.
pub const FAILED: u8 = 0x86;

const MIB: u64 = 1 << 20;

/// What INT 15h with these registers answers.
pub fn answer(map: &MemoryMap, request: Request) -> Answer {
    match request.eax as u16 {
        0xe820 => e820(map, request),
        ax @ (0xe801 | 0xe881) => Answer::E801 {
            wide: ax == 0xe881,
            below_16m: (ram_from(map, MIB, 16 * MIB) >> 10) as u16,
            // 64 KiB blocks in 16 bits reach just past 4 GiB: enough here, as
            // only what is below 4 GiB is reported.
            above_16m: (ram_from(map, 16 * MIB, 1 << 32) >> 16) as u16,
        },
        // Callers set AL to whatever they like.
        ax if ax >> 8 == 0x88 => {
            let kib = ram_from(map, MIB, 1 << 32) >> 10;
            Answer::Extended(kib.min(0xffff) as u16)
        }
        _ => Answer::PassOn,
    }
}

fn e820(map: &MemoryMap, request: Request) -> Answer {
    if request.edx != SMAP || (request.ecx as usize) < E820_ENTRY_SIZE {
        return Answer::Failed;
    }
    let index = request.ebx as usize;
    let Some(region) = map.regions().get(index) else {
        return Answer::Failed;
    };
    let mut entry = [0; E820_ENTRY_SIZE];
    entry[..8].copy_from_slice(&region.range.start.to_le_bytes());
    entry[8..16].copy_from_slice(&region.range.len().to_le_bytes());
    entry[16..].copy_from_slice(&region.kind.number().to_le_bytes());
    let last = index + 1 == map.regions().len();
    Answer::E820 {
        entry,
        next: if last { 0 } else { request.ebx + 1 },
    }
}

/// Bytes of usable RAM in one piece from `start` on, `end` being the limit.
fn ram_from(map: &MemoryMap, start: u64, end: u64) -> u64 {
    let mut regions = map.regions().iter();
    let region = regions.find(|r| r.kind == RegionKind::Usable && r.range.contains(start));
    region.map_or(0, |region| region.range.end.min(end) - start)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::addr::PhysRange;
    use crate::memmap::{Region, plan};
    use std::vec::Vec;

    fn guest_map(end: u64, hypervisor_size: u64) -> MemoryMap {
        let low = Region {
            range: PhysRange::new(0, 0x9_f000),
            kind: RegionKind::Usable,
        };
        let high = Region {
            range: PhysRange::new(MIB, end),
            kind: RegionKind::Usable,
        };
        let map = MemoryMap::from_firmware([low, high].into_iter()).unwrap();
        plan(&map, hypervisor_size, &[]).unwrap().guest
    }

    fn ask(map: &MemoryMap, eax: u32, ebx: u32) -> Answer {
        answer(
            map,
            Request {
                eax,
                ebx,
                ecx: 24,
                edx: SMAP,
            },
        )
    }

    #[test]
    fn e820_tells_the_whole_map_and_ends() {
        let map = guest_map(1 << 30, 16 * MIB);
        let mut told = Vec::new();
        let mut next = 0;
        loop {
            let Answer::E820 { entry, next: after } = ask(&map, 0xe820, next) else {
                panic!("no entry {next}");
            };
            let word = |at: usize| u64::from_le_bytes(entry[at..at + 8].try_into().unwrap());
            let kind = u32::from_le_bytes(entry[16..].try_into().unwrap());
            told.push(Region {
                range: PhysRange::from_len(word(0), word(8)),
                kind: RegionKind::from_number(kind),
            });
            next = after;
            if next == 0 {
                break;
            }
        }
        assert_eq!(told, map.regions());
        assert_eq!(told.last().unwrap().kind, RegionKind::Reserved);
    }

    #[test]
    fn e820_refuses_what_the_bios_would() {
        let map = guest_map(1 << 30, 16 * MIB);
        let good = Request {
            eax: 0xe820,
            ebx: 0,
            ecx: 20,
            edx: SMAP,
        };
        assert!(matches!(answer(&map, good), Answer::E820 { .. }));
        for bad in [
            Request { ebx: 3, ..good },
            Request {
                ebx: u32::MAX,
                ..good
            },
            Request { ecx: 19, ..good },
            Request { edx: 0, ..good },
        ] {
            assert_eq!(answer(&map, bad), Answer::Failed, "{bad:?}");
        }
        assert_eq!(ask(&MemoryMap::default(), 0xe820, 0), Answer::Failed);
    }

    #[test]
    fn the_upper_half_of_eax_does_not_count() {
        let map = guest_map(1 << 30, 16 * MIB);
        assert_eq!(ask(&map, 0x1234_e801, 0), ask(&map, 0xe801, 0));
    }

    #[test]
    fn narrow_calls_stop_at_the_hypervisor() {
        // 64 MiB: usable up to 48 MiB.
        let map = guest_map(64 * MIB, 16 * MIB);
        let e801 = Answer::E801 {
            wide: false,
            below_16m: 15 * 1024,
            above_16m: 32 * 16,
        };
        assert_eq!(ask(&map, 0xe801, 0), e801);
        let e881 = Answer::E801 {
            wide: true,
            below_16m: 15 * 1024,
            above_16m: 32 * 16,
        };
        assert_eq!(ask(&map, 0xe881, 0), e881);
        assert_eq!(ask(&map, 0x8800, 0), Answer::Extended(47 * 1024));
        // 24 MiB: the hypervisor has everything from 8 MiB on.
        let map = guest_map(24 * MIB, 16 * MIB);
        let e801 = Answer::E801 {
            wide: false,
            below_16m: 7 * 1024,
            above_16m: 0,
        };
        assert_eq!(ask(&map, 0xe801, 0), e801);
        assert_eq!(ask(&map, 0x88ff, 0), Answer::Extended(7 * 1024));
        // 88h cannot count past 64 MiB less 1 KiB.
        let map = guest_map(1 << 31, 16 * MIB);
        assert_eq!(ask(&map, 0x8800, 0), Answer::Extended(0xffff));
    }

    #[test]
    fn narrow_calls_stop_at_4_gib() {
        let range = PhysRange::new(0, 6 << 30);
        let all = Region {
            range,
            kind: RegionKind::Usable,
        };
        let map = MemoryMap::from_firmware([all].into_iter()).unwrap();
        let e801 = Answer::E801 {
            wide: false,
            below_16m: 15 * 1024,
            above_16m: 0xff00,
        };
        assert_eq!(ask(&map, 0xe801, 0), e801);
        assert_eq!(ask(&map, 0x8800, 0), Answer::Extended(0xffff));
    }

    #[test]
    fn everything_else_is_the_bioss() {
        let map = guest_map(1 << 30, 16 * MIB);
        for eax in [0x2401, 0x8600, 0xe880, 0xec00, 0xc000, 0x5300] {
            assert_eq!(ask(&map, eax, 0), Answer::PassOn, "{eax:#x}");
        }
    }
}
