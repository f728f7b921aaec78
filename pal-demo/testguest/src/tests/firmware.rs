//! What the BIOS's memory services say, alone and compared with each other.

use crate::firmware::{self, USABLE};
use crate::harness::{Context, Failure, Outcome, Test};
use crate::modes::{self, BiosRegisters};
use crate::{check, check_eq, tests};

/// INT 15h.
pub const TESTS: &[Test] = tests![
    e820_is_consistent,
    e820_checks_its_signature,
    e801_agrees_with_e820,
    e881_is_e801_in_32_bits,
    int15_88_agrees_with_e820,
    other_int15_functions_answer,
    real_mode_services_work,
];

const MIB: u64 = 1 << 20;
const SMAP: u32 = 0x534d_4150;

fn map() -> Result<firmware::Map, Failure> {
    firmware::memory_map().map_err(|answer| {
        Failure::new(format_args!(
            "E820: eax {:#x} flags {:#x}",
            answer.eax, answer.flags
        ))
    })
}

fn e820_is_consistent(_: &Context) -> Outcome {
    let map = map()?;
    check!(map.len() >= 3, "only {} regions", map.len());
    for (i, a) in map.iter().enumerate() {
        check!((1..=5).contains(&a.kind), "region {i} has type {}", a.kind);
        for b in &map[i + 1..] {
            check!(
                a.end() <= b.base || b.end() <= a.base,
                "{:#x}-{:#x} overlaps {:#x}-{:#x}",
                a.base,
                a.end(),
                b.base,
                b.end()
            );
        }
    }
    let holds = |address| {
        map.iter()
            .any(|r| r.kind == USABLE && r.base <= address && address < r.end())
    };
    check!(holds(0x7c00), "the memory of this guest is not usable");
    check!(holds(MIB), "no usable memory at 1 MiB");
    // The answers must not depend on who asked before.
    let again = map_again()?;
    check!(map == again, "the second reading differs");
    Ok(())
}

fn map_again() -> Result<firmware::Map, Failure> {
    map()
}

fn e820_checks_its_signature(_: &Context) -> Outcome {
    let Err(answer) = firmware::e820(0, !SMAP, 20) else {
        crate::fail!("answered a wrong signature");
    };
    check!(answer.carry(), "no carry for a wrong signature");
    Ok(())
}

/// Usable bytes from `start` on without a hole.
fn usable_from(map: &firmware::Map, start: u64) -> u64 {
    let mut end = start;
    // Regions may touch; at most as many rounds as there are regions.
    for _ in 0..map.len() {
        let next = map
            .iter()
            .find(|r| r.kind == USABLE && r.base <= end && end < r.end());
        match next {
            Some(region) => end = region.end(),
            None => break,
        }
    }
    end - start
}

fn e801_agrees_with_e820(context: &Context) -> Outcome {
    let answer = firmware::int15(0xe801);
    check!(!answer.carry(), "E801 fails");
    let (ax, bx) = (u64::from(answer.eax as u16), u64::from(answer.ebx as u16));
    let (cx, dx) = (u64::from(answer.ecx as u16), u64::from(answer.edx as u16));
    check_eq!(cx, ax, "CX against AX");
    check_eq!(dx, bx, "DX against BX");
    check!(ax <= 15 * 1024, "more than 15 MiB below 16 MiB: {ax} KiB");
    let map = map()?;
    let (below, above) = (
        usable_from(&map, MIB).min(15 * MIB),
        usable_from(&map, 16 * MIB),
    );
    check_eq!(ax * 1024, below, "bytes from 1 MiB to 16 MiB");
    // Firmware counts its ACPI tables in; the hypervisor must not.
    let slack = if context.stillpoint { 0 } else { MIB };
    check!(
        bx * 0x1_0000 <= above + slack && bx * 0x1_0000 + 0x1_0000 + slack > above,
        "{:#x} bytes above 16 MiB, E820 has {above:#x}",
        bx * 0x1_0000
    );
    Ok(())
}

fn e881_is_e801_in_32_bits(context: &Context) -> Outcome {
    // Not every BIOS has it.
    context.require_stillpoint()?;
    let (narrow, wide) = (firmware::int15(0xe801), firmware::int15(0xe881));
    check!(!wide.carry(), "E881 fails");
    check_eq!(wide.eax, narrow.eax & 0xffff, "EAX");
    check_eq!(wide.ebx, narrow.ebx & 0xffff, "EBX");
    check_eq!(wide.ecx, narrow.ecx & 0xffff, "ECX");
    check_eq!(wide.edx, narrow.edx & 0xffff, "EDX");
    Ok(())
}

fn int15_88_agrees_with_e820(_: &Context) -> Outcome {
    let answer = firmware::int15(0x8800);
    check!(!answer.carry(), "88h fails");
    let (kib, e820) = (
        u64::from(answer.eax as u16),
        usable_from(&map()?, MIB) / 1024,
    );
    check!(kib <= e820, "{kib} KiB above 1 MiB, E820 has {e820}");
    // Some answer at most 15 MiB, most the most that 16 bits hold.
    check!(kib >= e820.min(15 * 1024), "only {kib} KiB above 1 MiB");
    Ok(())
}

fn other_int15_functions_answer(_: &Context) -> Outcome {
    // Return system configuration: the table starts with its length.
    let answer = firmware::int15(0xc000);
    check!(!answer.carry(), "C0h fails: eax {:#x}", answer.eax);
    check_eq!(answer.eax >> 8 & 0xff, 0, "C0h's AH");
    // A function that no one has: carry, AH = 86h.
    let answer = firmware::int15(0xee55);
    check!(answer.carry(), "an unknown function succeeds");
    check_eq!(answer.eax >> 8 & 0xff, 0x86, "an unknown function's AH");
    Ok(())
}

fn real_mode_services_work(_: &Context) -> Outcome {
    // Memory size by INT 12h is in the BIOS's data area too.
    let answer = modes::bios(0x12, BiosRegisters::default());
    // SAFETY: the BIOS data area is ordinary memory.
    let expected = unsafe { (0x413 as *const u16).read_volatile() };
    check_eq!(answer.eax as u16, expected, "INT 12h");
    Ok(())
}
