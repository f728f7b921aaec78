//! Turns the kernel's ORC unwind tables (Linux, arch/x86/include/asm/orc_types.h) into DWARF call
//! frame information, which gdb reads. Used by `vmlinux`.
//!
//! An ORC entry says, for the code from its address on, where the caller's stack pointer is, and
//! where RBP was saved; RBX and R12 to R15 it does not follow, so they are "not saved" in outer frames.

use anyhow::{Context, Result, ensure};
use object::endian::LittleEndian as LE;
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection};

use crate::kallsyms::Symbol;

/// What holds for the code from an address on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Nothing is known, or there is no caller.
    Unknown,
    /// An ordinary frame: the return address lies below the caller's stack.
    Call {
        /// The caller's stack pointer.
        stack: Place,
        /// Where the caller's RBP is, relative to that stack pointer, if it was saved.
        rbp: Option<i16>,
    },
    /// The interrupted registers (`struct pt_regs`) lie at this place.
    Registers(Place),
    /// Only what the processor pushes lies at this place: RIP, CS, RFLAGS, RSP, SS.
    InterruptFrame(Place),
}

/// An address: a register and an offset, or what memory there holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// DWARF register number plus offset.
    At(u8, i16),
    /// What lies at RBP + offset.
    BehindRbp(i16),
    /// What lies at RSP, plus offset.
    BehindRsp(i16),
}

// DWARF's numbers of the registers (System V ABI, AMD64 supplement, figure "DWARF Register Number Mapping").
const RDX: u8 = 1;
const RDI: u8 = 5;
const RBP: u8 = 6;
const RSP: u8 = 7;
const R10: u8 = 10;
const R13: u8 = 13;
const RETURN_ADDRESS: u8 = 16;

/// `struct pt_regs` from its beginning: DWARF registers, 8 bytes each; `orig_ax`, CS and RFLAGS are passed over.
const PT_REGS: [(u8, u8); 17] = [
    (15, 0),
    (14, 1),
    (13, 2),
    (12, 3),
    (RBP, 4),
    (3, 5),
    (11, 6),
    (10, 7),
    (9, 8),
    (8, 9),
    (0, 10),
    (2, 11),
    (1, 12),
    (4, 13),
    (5, 14),
    (RETURN_ADDRESS, 16),
    (RSP, 19),
];

/// One entry of the table. `new_types`: since Linux 6.4 the type has three bits and other values.
pub fn decode(entry: [u8; 6], new_types: bool) -> Rule {
    let stack_offset = i16::from_le_bytes([entry[0], entry[1]]);
    let rbp_offset = i16::from_le_bytes([entry[2], entry[3]]);
    let (stack_register, rbp_register) = (entry[4] & 15, entry[4] >> 4);
    let place = match stack_register {
        2 => Place::At(RDX, stack_offset),
        3 => Place::At(RDI, stack_offset),
        4 => Place::At(RBP, stack_offset),
        5 => Place::At(RSP, stack_offset),
        6 => Place::At(R10, stack_offset),
        7 => Place::At(R13, stack_offset),
        8 => Place::BehindRbp(stack_offset),
        9 => Place::BehindRsp(stack_offset),
        _ => return Rule::Unknown,
    };
    let kind = if new_types {
        match entry[5] & 7 {
            kind @ 2.. => kind - 2,
            _ => return Rule::Unknown,
        }
    } else {
        entry[5] & 3
    };
    match kind {
        0 => Rule::Call {
            stack: place,
            // 1 is "relative to the caller's stack pointer"; the others do not occur in C code.
            rbp: (rbp_register == 1).then_some(rbp_offset),
        },
        1 => Rule::Registers(place),
        2 => Rule::InterruptFrame(place),
        _ => Rule::Unknown,
    }
}

/// The contents of `.debug_frame` for the kernel `file`, one description for each function of `symbols`,
/// which are in the order of their addresses.
pub fn debug_frame(file: &ElfFile64<LE>, symbols: &[Symbol]) -> Result<Vec<u8>> {
    let section = |name: &str| -> Result<(u64, &[u8])> {
        let section = file.section_by_name(name).with_context(|| {
            format!("the kernel has no {name}: not built with the ORC unwinder")
        })?;
        Ok((section.address(), section.data()?))
    };
    let (ip_base, ips) = section(".orc_unwind_ip")?;
    let (_, entries) = section(".orc_unwind")?;
    let new_types = file.section_by_name(".orc_header").is_some();
    ensure!(
        ips.len() / 4 == entries.len() / 6,
        "the ORC tables disagree"
    );
    let mut rules: Vec<(u64, Rule)> = Vec::with_capacity(ips.len() / 4);
    for (index, (ip, entry)) in ips.chunks_exact(4).zip(entries.chunks_exact(6)).enumerate() {
        let distance = i32::from_le_bytes([ip[0], ip[1], ip[2], ip[3]]);
        let address = ip_base
            .wrapping_add(4 * index as u64)
            .wrapping_add_signed(i64::from(distance));
        let entry = [entry[0], entry[1], entry[2], entry[3], entry[4], entry[5]];
        rules.push((address, decode(entry, new_types)));
    }
    // The build does not sort this table where the kernel sorts it when it starts.
    rules.sort_by_key(|(address, _)| *address);

    let mut functions: Vec<u64> = symbols
        .iter()
        .filter(|symbol| symbol.kind.eq_ignore_ascii_case(&b't') && symbol.address >= 1 << 63)
        .map(|symbol| symbol.address)
        .collect();
    functions.dedup();
    let mut frames = Frames::new();
    for pair in functions.windows(2) {
        frames.function(pair[0], pair[1], &rules);
    }
    Ok(frames.bytes)
}

/// A `.debug_frame` section under construction.
struct Frames {
    bytes: Vec<u8>,
}

// DWARF 5, section 7.24, "Call Frame Information".
const DW_CFA_ADVANCE_LOC: u8 = 0x40;
const DW_CFA_OFFSET: u8 = 0x80;
const DW_CFA_ADVANCE_LOC1: u8 = 0x02;
const DW_CFA_ADVANCE_LOC2: u8 = 0x03;
const DW_CFA_ADVANCE_LOC4: u8 = 0x04;
const DW_CFA_UNDEFINED: u8 = 0x07;
const DW_CFA_SAME_VALUE: u8 = 0x08;
const DW_CFA_DEF_CFA: u8 = 0x0c;
const DW_CFA_DEF_CFA_EXPRESSION: u8 = 0x0f;
const DW_CFA_OFFSET_EXTENDED_SF: u8 = 0x11;
const DW_CFA_DEF_CFA_SF: u8 = 0x12;
const DW_CFA_VAL_OFFSET: u8 = 0x14;
const DW_OP_BREG0: u8 = 0x70;
const DW_OP_DEREF: u8 = 0x06;
const DW_OP_PLUS_UCONST: u8 = 0x23;

/// Every offset is written in units of this.
const DATA_ALIGNMENT: i64 = -8;

impl Frames {
    fn new() -> Self {
        let mut cie = Vec::new();
        cie.extend_from_slice(&u32::MAX.to_le_bytes()); // this is a CIE
        cie.push(1); // version
        cie.push(0); // no augmentation
        cie.push(1); // code alignment
        sleb(&mut cie, DATA_ALIGNMENT);
        cie.push(RETURN_ADDRESS);
        cie.extend_from_slice(&[DW_CFA_DEF_CFA, RSP, 8]);
        forget_registers(&mut cie);
        let mut frames = Self { bytes: Vec::new() };
        frames.record(cie);
        frames
    }

    fn record(&mut self, mut contents: Vec<u8>) {
        // The length and the contents together are a multiple of 8; 0 is a no-operation.
        contents.resize((contents.len() + 4).next_multiple_of(8) - 4, 0);
        self.bytes
            .extend_from_slice(&(contents.len() as u32).to_le_bytes());
        self.bytes.extend_from_slice(&contents);
    }

    /// Describes the code from `start` to `end`, if there are rules for it.
    fn function(&mut self, start: u64, end: u64, rules: &[(u64, Rule)]) {
        let after = rules.partition_point(|&(address, _)| address <= start);
        let Some(first) = after.checked_sub(1) else {
            return;
        };
        let mut fde = Vec::new();
        fde.extend_from_slice(&0u32.to_le_bytes()); // the CIE's offset
        fde.extend_from_slice(&start.to_le_bytes());
        fde.extend_from_slice(&(end - start).to_le_bytes());
        let mut here = start;
        let mut before = None;
        for &(address, rule) in rules[first..].iter().take_while(|(at, _)| *at < end) {
            if before == Some(rule) {
                continue;
            }
            advance(&mut fde, address.saturating_sub(here));
            here = here.max(address);
            describe(&mut fde, rule, before);
            before = Some(rule);
        }
        self.record(fde);
    }
}

fn advance(out: &mut Vec<u8>, distance: u64) {
    match distance {
        0 => {}
        1..64 => out.push(DW_CFA_ADVANCE_LOC | distance as u8),
        64..0x100 => out.extend_from_slice(&[DW_CFA_ADVANCE_LOC1, distance as u8]),
        0x100..0x1_0000 => {
            out.push(DW_CFA_ADVANCE_LOC2);
            out.extend_from_slice(&(distance as u16).to_le_bytes());
        }
        _ => {
            out.push(DW_CFA_ADVANCE_LOC4);
            out.extend_from_slice(&(distance as u32).to_le_bytes());
        }
    }
}

/// Writes `rule`; `before` is the one that held until here in the same function.
fn describe(out: &mut Vec<u8>, rule: Rule, before: Option<Rule>) {
    let place = match rule {
        Rule::Unknown => {
            out.extend_from_slice(&[DW_CFA_UNDEFINED, RETURN_ADDRESS]);
            return;
        }
        Rule::Call { stack, .. } => stack,
        Rule::Registers(place) | Rule::InterruptFrame(place) => place,
    };
    frame_address(out, place);
    if matches!(before, Some(Rule::Registers(_))) && !matches!(rule, Rule::Registers(_)) {
        forget_registers(out);
    }
    match rule {
        Rule::Unknown => {}
        Rule::Call { rbp, .. } => {
            match rbp {
                Some(offset) => saved(out, RBP, i64::from(offset)),
                None => out.extend_from_slice(&[DW_CFA_SAME_VALUE, RBP]),
            }
            // The caller's RSP is the frame address itself.
            out.extend_from_slice(&[DW_CFA_VAL_OFFSET, RSP, 0]);
            saved(out, RETURN_ADDRESS, -8);
        }
        Rule::Registers(_) => {
            for (register, slot) in PT_REGS {
                saved(out, register, 8 * i64::from(slot));
            }
        }
        Rule::InterruptFrame(_) => {
            out.extend_from_slice(&[DW_CFA_SAME_VALUE, RBP]);
            saved(out, RETURN_ADDRESS, 0);
            saved(out, RSP, 24);
        }
    }
}

/// What an ordinary frame says nothing about is not known in its caller.
fn forget_registers(out: &mut Vec<u8>) {
    for register in (0..16).filter(|register| ![RBP, RSP].contains(register)) {
        out.extend_from_slice(&[DW_CFA_UNDEFINED, register]);
    }
}

fn frame_address(out: &mut Vec<u8>, place: Place) {
    let expression = match place {
        Place::At(register, offset) => {
            match u8::try_from(offset) {
                Ok(offset @ 0..0x80) => {
                    out.extend_from_slice(&[DW_CFA_DEF_CFA, register, offset]);
                }
                _ if i64::from(offset) % DATA_ALIGNMENT == 0 => {
                    out.extend_from_slice(&[DW_CFA_DEF_CFA_SF, register]);
                    sleb(out, i64::from(offset) / DATA_ALIGNMENT);
                }
                _ => {
                    let mut expression = vec![DW_OP_BREG0 + register];
                    sleb(&mut expression, i64::from(offset));
                    define_by(out, &expression);
                }
            }
            return;
        }
        Place::BehindRbp(offset) => {
            let mut expression = vec![DW_OP_BREG0 + RBP];
            sleb(&mut expression, i64::from(offset));
            expression.push(DW_OP_DEREF);
            expression
        }
        Place::BehindRsp(offset) => {
            let mut expression = vec![DW_OP_BREG0 + RSP, 0, DW_OP_DEREF, DW_OP_PLUS_UCONST];
            uleb(&mut expression, u64::from(offset.unsigned_abs()));
            expression
        }
    };
    define_by(out, &expression);
}

fn define_by(out: &mut Vec<u8>, expression: &[u8]) {
    out.push(DW_CFA_DEF_CFA_EXPRESSION);
    uleb(out, expression.len() as u64);
    out.extend_from_slice(expression);
}

/// `register` was saved at the frame address plus `offset`, a multiple of 8.
fn saved(out: &mut Vec<u8>, register: u8, offset: i64) {
    let units = offset / DATA_ALIGNMENT;
    match u8::try_from(units) {
        Ok(units @ 0..0x80) => out.extend_from_slice(&[DW_CFA_OFFSET | register, units]),
        _ => {
            out.extend_from_slice(&[DW_CFA_OFFSET_EXTENDED_SF, register]);
            sleb(out, units);
        }
    }
}

fn uleb(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        out.push(if value == 0 { byte } else { byte | 0x80 });
        if value == 0 {
            return;
        }
    }
}

fn sleb(out: &mut Vec<u8>, mut value: i64) {
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        let sign = byte & 0x40 != 0;
        let last = (value == 0 && !sign) || (value == -1 && sign);
        out.push(if last { byte } else { byte | 0x80 });
        if last {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Frames, Place, Rule, decode, describe, sleb, uleb};

    fn written(rule: Rule) -> Vec<u8> {
        let mut out = Vec::new();
        describe(&mut out, rule, None);
        out
    }

    #[test]
    fn entries_of_both_formats() {
        // sp_reg SP (5), offset 16, RBP at -16 from the caller's stack (register 1).
        let entry = [16, 0, 0xf0, 0xff, 0x15, 0];
        let rule = Rule::Call {
            stack: Place::At(7, 16),
            rbp: Some(-16),
        };
        assert_eq!(decode(entry, false), rule);
        assert_eq!(decode([16, 0, 0xf0, 0xff, 0x15, 2], true), rule);
        assert_eq!(
            decode([0, 0, 0, 0, 0x05, 1], false),
            Rule::Registers(Place::At(7, 0))
        );
        assert_eq!(
            decode([8, 0, 0, 0, 0x05, 4], true),
            Rule::InterruptFrame(Place::At(7, 8))
        );
        assert_eq!(decode([0, 0, 0, 0, 0, 0], false), Rule::Unknown);
        assert_eq!(decode([0, 0, 0, 0, 0x05, 0], true), Rule::Unknown);
        assert_eq!(decode([0, 0, 0, 0, 0x05, 1], true), Rule::Unknown);
    }

    #[test]
    fn rules_as_dwarf() {
        let call = written(Rule::Call {
            stack: Place::At(7, 16),
            rbp: Some(-16),
        });
        assert!(call.starts_with(&[0x0c, 7, 16]));
        // RBP at CFA-16, RSP = CFA, return address at CFA-8.
        assert!(call.ends_with(&[0x80 | 6, 2, 0x14, 7, 0, 0x80 | 16, 1]));
        let registers = written(Rule::Registers(Place::At(7, 0)));
        // The last two: RIP at +128, RSP at +152, in units of -8.
        assert!(registers.ends_with(&[0x11, 16, 0x70, 0x11, 7, 0x6d]));
        assert_eq!(written(Rule::Unknown), [0x07, 16]);
        // Back from saved registers to a frame that does not know them.
        let mut out = Vec::new();
        let frame = Rule::InterruptFrame(Place::At(7, 0));
        describe(&mut out, frame, Some(Rule::Registers(Place::At(7, 0))));
        assert!(out.windows(2).any(|window| window == [0x07, 15]));
        assert!(!written(frame).windows(2).any(|window| window == [0x07, 15]));
        let indirect = written(Rule::InterruptFrame(Place::BehindRsp(8)));
        assert!(indirect.starts_with(&[0x0f, 5, 0x77, 0, 0x06, 0x23, 8]));
    }

    #[test]
    fn rules_are_cut_at_functions() {
        let rule = Rule::Call {
            stack: Place::At(7, 8),
            rbp: None,
        };
        let rules = [(0x1000, rule), (0x1010, Rule::Unknown), (0x1020, rule)];
        let mut frames = Frames::new();
        let cie = frames.bytes.len();
        frames.function(0x1008, 0x1018, &rules);
        let fde = &frames.bytes[cie..];
        assert_eq!(fde.len() % 8, 0);
        assert_eq!(&fde[8..16], 0x1008u64.to_le_bytes());
        assert_eq!(&fde[16..24], 0x10u64.to_le_bytes());
        // The rule from before the function holds at its start; the next begins 8 bytes in.
        assert_eq!(&fde[24..27], [0x0c, 7, 8]);
        let unknown = [0x48, 0x07, 16];
        assert!(fde.windows(3).any(|window| window == unknown));
        // What comes after the function's end is not in it.
        let whole = [0x0c, 7, 8];
        assert_eq!(fde.windows(3).filter(|&window| window == whole).count(), 1);
    }

    #[test]
    fn numbers() {
        let mut out = Vec::new();
        uleb(&mut out, 624_485);
        sleb(&mut out, -123_456);
        sleb(&mut out, 63);
        sleb(&mut out, 64);
        assert_eq!(out, [0xe5, 0x8e, 0x26, 0xc0, 0xbb, 0x78, 0x3f, 0xc0, 0x00]);
    }
}
