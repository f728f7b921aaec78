//! Looks into a program for PAL code that uses what lies outside it, which a PAL does not have:
//! tables and constants in `.rodata`, functions in `.text`, thread-local memory. A compiler puts
//! such uses where the source has none. Called by `compile` for every program of the guest.

use std::fs;
use std::ops::Range;
use std::path::Path;

use anyhow::{Result, ensure};
use iced_x86::{Decoder, DecoderOptions, Instruction, Mnemonic, OpKind, Register};
use object::{Object, ObjectKind, ObjectSection};

/// Where the SDKs put PAL code.
const SECTION: &str = "tv_pal";

/// Fails where an instruction of the program's PAL code refers to anything outside that code.
pub fn ensure_self_contained(program: &Path) -> Result<()> {
    let bytes = fs::read(program)?;
    let file = object::File::parse(&*bytes)?;
    let Some(section) = file.section_by_name(SECTION) else {
        return Ok(());
    };
    let code = section.data()?;
    let inside = section.address()..section.address() + section.size();
    // A program that runs at any address has no absolute ones in its code.
    let fixed = file.kind() == ObjectKind::Executable;
    let loaded = file
        .sections()
        .filter(|section| fixed && section.address() != 0)
        .map(|section| section.address()..section.address() + section.size());
    // What an absolute address outside the PAL code would be.
    let outside: Vec<Range<u64>> = loaded.filter(|range| *range != inside).collect();
    let bits = if file.is_64() { 64 } else { 32 };
    let bad: Vec<String> = Decoder::with_ip(bits, code, inside.start, DecoderOptions::NONE)
        .into_iter()
        .filter_map(|instruction| {
            let what = fault_of(&instruction, &inside, &outside)?;
            Some(format!(
                "{:#x}: {:?} {what}",
                instruction.ip(),
                instruction.mnemonic()
            ))
        })
        .collect();
    ensure!(
        bad.is_empty(),
        "{}: PAL code uses what lies outside it:\n{}",
        program.display(),
        bad.join("\n")
    );
    Ok(())
}

/// What is wrong with an instruction of PAL code.
fn fault_of(
    instruction: &Instruction,
    inside: &Range<u64>,
    outside: &[Range<u64>],
) -> Option<String> {
    let names_outside = |address: u64| outside.iter().any(|range| range.contains(&address));
    if matches!(instruction.segment_prefix(), Register::FS | Register::GS) {
        return Some("uses thread-local memory".into());
    }
    for operand in 0..instruction.op_count() {
        let refused = match instruction.op_kind(operand) {
            OpKind::NearBranch16 | OpKind::NearBranch32 | OpKind::NearBranch64 => {
                let target = instruction.near_branch_target();
                (!inside.contains(&target)).then(|| format!("goes to {target:#x}"))
            }
            OpKind::Memory if instruction.is_ip_rel_memory_operand() => {
                let address = instruction.ip_rel_memory_address();
                (!inside.contains(&address)).then(|| format!("uses {address:#x}"))
            }
            OpKind::Memory if instruction.mnemonic() != Mnemonic::Lea => {
                let address = instruction.memory_displacement64();
                names_outside(address).then(|| format!("uses {address:#x}"))
            }
            OpKind::Immediate32 | OpKind::Immediate64 | OpKind::Immediate32to64 => {
                let number = instruction.immediate(operand);
                names_outside(number).then(|| format!("names {number:#x}"))
            }
            _ => None,
        };
        if refused.is_some() {
            return refused;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::slice::from_ref;

    use iced_x86::{Decoder, DecoderOptions};

    use super::fault_of;

    /// What is found in code at 0x40_1000, of 64 bytes, before other sections.
    fn faults(bits: u32, code: &[u8]) -> Vec<String> {
        let (inside, after) = (0x40_1000..0x40_1040, 0x40_1040..0x48_0000);
        Decoder::with_ip(bits, code, inside.start, DecoderOptions::NONE)
            .into_iter()
            .filter_map(|instruction| fault_of(&instruction, &inside, from_ref(&after)))
            .collect()
    }

    #[test]
    fn code_that_stays_inside_is_let_be() {
        // mov rax, [rdi]; lea rcx, [rip + 1]; call the first byte; mov edx, 7
        let code =
            b"\x48\x8b\x07\x48\x8d\x0d\x01\x00\x00\x00\xe8\xf1\xff\xff\xff\xba\x07\x00\x00\x00";
        assert!(faults(64, code).is_empty());
    }

    #[test]
    fn what_lies_outside_is_found() {
        for (bits, code, what) in [
            // movdqa xmm0, [rip + 0x100]: a constant in .rodata
            (
                64,
                &b"\x66\x0f\x6f\x05\x00\x01\x00\x00"[..],
                "uses 0x401108",
            ),
            // call a function of .text
            (64, b"\xe8\x00\x01\x00\x00", "goes to 0x401105"),
            // mov rax, fs:[0x28]: a canary
            (
                64,
                b"\x64\x48\x8b\x04\x25\x28\x00\x00\x00",
                "uses thread-local memory",
            ),
            // jmp [rax * 8 + 0x402000]: a table of jumps
            (64, b"\xff\x24\xc5\x00\x20\x40\x00", "uses 0x402000"),
            // mov eax, [0x402000]
            (32, b"\xa1\x00\x20\x40\x00", "uses 0x402000"),
            // mov eax, 0x402000
            (32, b"\xb8\x00\x20\x40\x00", "names 0x402000"),
        ] {
            assert_eq!(faults(bits, code), [what], "{code:x?}");
        }
    }
}
