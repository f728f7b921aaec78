//! GDB's numbering of the registers, and reading and writing one by its number.
//!
//! One table gives the order; the target description ([`crate::description`]) is
//! printed from it, and `g`, `p` and `P` count along it. The first
//! [`CORE_REGISTERS`] travel in every `g` packet; the others are fetched with `p`
//! when someone looks at them, which keeps a stop cheap on a serial line.

use core::num::NonZeroUsize;

use gdbstub::arch::{Arch, RegId};
use vmcs_inspect::Field;

use crate::registers::{Registers, Segment};

/// How many registers of the table a `g` packet carries: the general registers,
/// RIP, EFLAGS and the selectors.
pub const CORE_REGISTERS: usize = 24;

/// The most bytes that one register takes.
pub const MAX_REGISTER_SIZE: usize = 16;

/// Which feature of the target description a register belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `org.gnu.gdb.i386.core`, with the bases and control registers that QEMU
    /// also puts there.
    Core,
    /// `org.gnu.gdb.i386.sse`.
    Sse,
    /// `org.stillpoint.vmx`: fields of the CPU's VMCS.
    Vmx,
}

/// GDB's type of a register, where it is not an integer of the register's size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An integer.
    Integer,
    /// A code address.
    Code,
    /// A data address.
    Data,
    /// EFLAGS, with its bits named.
    Flags,
    /// The x87's 80-bit format.
    X87,
    /// An XMM register.
    Vector,
}

/// One register of the description.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterInfo {
    /// GDB's name, without `$`.
    pub name: &'static str,
    /// Bytes on the wire.
    pub size: usize,
    /// The feature that declares it.
    pub feature: Feature,
    /// How GDB shows it.
    pub kind: Kind,
    /// Where its value is.
    pub source: Source,
}

/// Where a register's value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The n-th general register, in GDB's order.
    General(u8),
    /// RIP, as the linear address of the next instruction.
    Rip,
    /// RFLAGS.
    Rflags,
    /// A selector: CS, SS, DS, ES, FS, GS.
    Selector(u8),
    /// ST(n).
    St(u8),
    /// The n-th of fctrl, fstat, ftag, fiseg, fioff, foseg, fooff, fop.
    Fpu(u8),
    /// XMM n.
    Xmm(u8),
    /// MXCSR.
    Mxcsr,
    /// FS base, GS base, IA32_KERNEL_GS_BASE.
    Base(u8),
    /// CR0, CR2, CR3, CR4, CR8, IA32_EFER.
    Control(u8),
    /// A field of the VMCS.
    Vmcs(Field),
}

const fn entry(
    name: &'static str,
    size: usize,
    feature: Feature,
    kind: Kind,
    source: Source,
) -> RegisterInfo {
    RegisterInfo {
        name,
        size,
        feature,
        kind,
        source,
    }
}

const fn general(name: &'static str, n: u8) -> RegisterInfo {
    entry(name, 8, Feature::Core, Kind::Integer, Source::General(n))
}

const fn selector(name: &'static str, n: u8) -> RegisterInfo {
    entry(name, 4, Feature::Core, Kind::Integer, Source::Selector(n))
}

const fn st(name: &'static str, n: u8) -> RegisterInfo {
    entry(name, 10, Feature::Core, Kind::X87, Source::St(n))
}

const fn fpu(name: &'static str, n: u8) -> RegisterInfo {
    entry(name, 4, Feature::Core, Kind::Integer, Source::Fpu(n))
}

const fn xmm(name: &'static str, n: u8) -> RegisterInfo {
    entry(name, 16, Feature::Sse, Kind::Vector, Source::Xmm(n))
}

const fn system(name: &'static str, source: Source) -> RegisterInfo {
    entry(name, 8, Feature::Core, Kind::Integer, source)
}

const fn narrow(name: &'static str, source: Source) -> RegisterInfo {
    entry(name, 4, Feature::Core, Kind::Integer, source)
}

const fn vmx(name: &'static str, field: Field) -> RegisterInfo {
    entry(name, 8, Feature::Vmx, Kind::Integer, Source::Vmcs(field))
}

/// Every register, in the order of GDB's numbers.
pub static REGISTERS: [RegisterInfo; 76] = [
    general("rax", 0),
    general("rbx", 1),
    general("rcx", 2),
    general("rdx", 3),
    general("rsi", 4),
    general("rdi", 5),
    entry("rbp", 8, Feature::Core, Kind::Data, Source::General(6)),
    entry("rsp", 8, Feature::Core, Kind::Data, Source::General(7)),
    general("r8", 8),
    general("r9", 9),
    general("r10", 10),
    general("r11", 11),
    general("r12", 12),
    general("r13", 13),
    general("r14", 14),
    general("r15", 15),
    entry("rip", 8, Feature::Core, Kind::Code, Source::Rip),
    entry("eflags", 4, Feature::Core, Kind::Flags, Source::Rflags),
    selector("cs", 0),
    selector("ss", 1),
    selector("ds", 2),
    selector("es", 3),
    selector("fs", 4),
    selector("gs", 5),
    st("st0", 0),
    st("st1", 1),
    st("st2", 2),
    st("st3", 3),
    st("st4", 4),
    st("st5", 5),
    st("st6", 6),
    st("st7", 7),
    fpu("fctrl", 0),
    fpu("fstat", 1),
    fpu("ftag", 2),
    fpu("fiseg", 3),
    fpu("fioff", 4),
    fpu("foseg", 5),
    fpu("fooff", 6),
    fpu("fop", 7),
    system("fs_base", Source::Base(0)),
    system("gs_base", Source::Base(1)),
    system("k_gs_base", Source::Base(2)),
    system("cr0", Source::Control(0)),
    system("cr2", Source::Control(1)),
    system("cr3", Source::Control(2)),
    system("cr4", Source::Control(3)),
    system("cr8", Source::Control(4)),
    system("efer", Source::Control(5)),
    xmm("xmm0", 0),
    xmm("xmm1", 1),
    xmm("xmm2", 2),
    xmm("xmm3", 3),
    xmm("xmm4", 4),
    xmm("xmm5", 5),
    xmm("xmm6", 6),
    xmm("xmm7", 7),
    xmm("xmm8", 8),
    xmm("xmm9", 9),
    xmm("xmm10", 10),
    xmm("xmm11", 11),
    xmm("xmm12", 12),
    xmm("xmm13", 13),
    xmm("xmm14", 14),
    xmm("xmm15", 15),
    entry("mxcsr", 4, Feature::Sse, Kind::Integer, Source::Mxcsr),
    vmx("vmx_intr", Field::GUEST_INTERRUPTIBILITY),
    vmx("vmx_act", Field::GUEST_ACTIVITY_STATE),
    vmx("vmx_pin", Field::PIN_BASED_CONTROLS),
    vmx("vmx_proc", Field::PRIMARY_PROCESSOR_BASED_CONTROLS),
    vmx("vmx_proc2", Field::SECONDARY_PROCESSOR_BASED_CONTROLS),
    vmx("vmx_exc", Field::EXCEPTION_BITMAP),
    vmx("vmx_inject", Field::VM_ENTRY_INTERRUPTION_INFO),
    vmx("vmx_vect", Field::IDT_VECTORING_INFO),
    vmx("vmx_exit", Field::EXIT_REASON),
    vmx("vmx_qual", Field::EXIT_QUALIFICATION),
];

/// The number of the first of [`NARROW`].
const FIRST_NARROW: usize = 128;

/// The lower halves of the general registers and RIP, by numbers of their own. The
/// description does not have them; those that `gdb-scripts` puts over it for 16-bit
/// and 32-bit code do.
static NARROW: [RegisterInfo; 9] = [
    narrow("eax", Source::General(0)),
    narrow("ecx", Source::General(2)),
    narrow("edx", Source::General(3)),
    narrow("ebx", Source::General(1)),
    narrow("esp", Source::General(7)),
    narrow("ebp", Source::General(6)),
    narrow("esi", Source::General(4)),
    narrow("edi", Source::General(5)),
    narrow("eip", Source::Rip),
];

/// A register by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegisterId(&'static RegisterInfo);

impl RegisterId {
    /// What the table says about it.
    pub fn info(self) -> &'static RegisterInfo {
        self.0
    }
}

impl RegId for RegisterId {
    fn from_raw_id(id: usize) -> Option<(Self, Option<NonZeroUsize>)> {
        let narrow = || NARROW.get(id.checked_sub(FIRST_NARROW)?);
        let info = REGISTERS.get(id).or_else(narrow)?;
        Some((Self(info), NonZeroUsize::new(info.size)))
    }
}

/// The architecture as gdbstub knows it: always 64-bit, whatever mode the guest
/// is in, for no client re-reads the description within a session.
#[derive(Debug)]
pub enum X86_64 {}

impl Arch for X86_64 {
    type Usize = u64;
    type Registers = CoreRegisters;
    type BreakpointKind = usize;
    type RegId = RegisterId;
}

/// What a `g` packet carries, already in GDB's byte order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreRegisters {
    bytes: [u8; Self::SIZE],
    available: bool,
}

impl CoreRegisters {
    const SIZE: usize = 17 * 8 + 7 * 4;

    /// The part of `registers` that a `g` packet carries.
    pub fn capture(registers: &Registers) -> Self {
        let mut bytes = [0; Self::SIZE];
        let mut rest = &mut bytes[..];
        for info in &REGISTERS[..CORE_REGISTERS] {
            let mut value = [0; MAX_REGISTER_SIZE];
            read(registers, info.source, &mut value);
            if let Some((target, tail)) = rest.split_at_mut_checked(info.size) {
                target.copy_from_slice(&value[..info.size]);
                rest = tail;
            } else {
                break;
            }
        }
        Self {
            bytes,
            available: true,
        }
    }

    /// The registers of a CPU that has none to show.
    pub fn unavailable() -> Self {
        Self {
            bytes: [0; Self::SIZE],
            available: false,
        }
    }

    /// Puts the part that a `G` packet carries into `registers`.
    pub fn apply(&self, registers: &mut Registers) {
        let mut rest = &self.bytes[..];
        for info in &REGISTERS[..CORE_REGISTERS] {
            let Some((value, tail)) = rest.split_at_checked(info.size) else {
                break;
            };
            write(registers, info.source, value);
            rest = tail;
        }
    }
}

impl Default for CoreRegisters {
    fn default() -> Self {
        Self {
            bytes: [0; Self::SIZE],
            available: true,
        }
    }
}

impl gdbstub::arch::Registers for CoreRegisters {
    type ProgramCounter = u64;

    fn pc(&self) -> u64 {
        le_u64(&self.bytes[16 * 8..17 * 8])
    }

    fn gdb_serialize(&self, mut write_byte: impl FnMut(Option<u8>)) {
        for byte in self.bytes {
            write_byte(self.available.then_some(byte));
        }
    }

    fn gdb_deserialize(&mut self, bytes: &[u8]) -> Result<(), ()> {
        let bytes = bytes.get(..Self::SIZE).ok_or(())?;
        self.bytes.copy_from_slice(bytes);
        Ok(())
    }
}

/// Reads one register into the start of `out`, little-endian. False for a field of
/// the VMCS, which `registers` does not hold.
pub fn read(registers: &Registers, source: Source, out: &mut [u8; MAX_REGISTER_SIZE]) -> bool {
    let value = match source {
        Source::General(n) => general_register(registers, n),
        Source::Rip => registers.linear_rip(),
        Source::Rflags => registers.rflags,
        Source::Selector(n) => u64::from(segment(registers, n).selector),
        Source::St(n) => {
            out[..10].copy_from_slice(&registers.fxsave.st(usize::from(n)));
            return true;
        }
        Source::Fpu(n) => u64::from(registers.fxsave.control_word(n)),
        Source::Xmm(n) => {
            *out = registers.fxsave.xmm(usize::from(n));
            return true;
        }
        Source::Mxcsr => u64::from(registers.fxsave.mxcsr()),
        Source::Base(n) => base(registers, n),
        Source::Control(n) => control(registers, n),
        Source::Vmcs(_) => return false,
    };
    out[..8].copy_from_slice(&value.to_le_bytes());
    true
}

/// Writes one register from its little-endian bytes. False for a field of the VMCS
/// and for a value of another size.
pub fn write(registers: &mut Registers, source: Source, value: &[u8]) -> bool {
    let word = le_u64(value);
    match source {
        Source::General(n) => *general_register_mut(registers, n) = word,
        Source::Rip => registers.set_linear_rip(word),
        // The packet has the lower half; the upper is reserved.
        Source::Rflags => registers.rflags = word & 0xffff_ffff,
        Source::Selector(n) => segment_mut(registers, n).selector = word as u16,
        Source::St(n) => match value.first_chunk() {
            Some(value) => registers.fxsave.set_st(usize::from(n), value),
            None => return false,
        },
        Source::Fpu(n) => registers.fxsave.set_control_word(n, word as u32),
        Source::Xmm(n) => match value.first_chunk() {
            Some(value) => registers.fxsave.set_xmm(usize::from(n), value),
            None => return false,
        },
        Source::Mxcsr => registers.fxsave.set_mxcsr(word as u32),
        Source::Base(n) => *base_mut(registers, n) = word,
        Source::Control(n) => *control_mut(registers, n) = word,
        Source::Vmcs(_) => return false,
    }
    true
}

/// Up to eight bytes as a little-endian number.
pub fn le_u64(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .take(8)
        .rev()
        .fold(0, |value, &byte| value << 8 | u64::from(byte))
}

/// Declares a reader and a writer of the n-th of some fields of [`Registers`]. A
/// number beyond the list, which the table does not contain, means the last.
macro_rules! numbered {
    ($get:ident, $get_mut:ident: $type:ty = $($n:literal => $($field:ident).+,)* _ => $($last:ident).+) => {
        fn $get(registers: &Registers, n: u8) -> $type {
            match n {
                $($n => registers.$($field).+,)*
                _ => registers.$($last).+,
            }
        }

        fn $get_mut(registers: &mut Registers, n: u8) -> &mut $type {
            match n {
                $($n => &mut registers.$($field).+,)*
                _ => &mut registers.$($last).+,
            }
        }
    };
}

numbered!(general_register, general_register_mut: u64 =
    0 => rax, 1 => rbx, 2 => rcx, 3 => rdx, 4 => rsi, 5 => rdi, 6 => rbp, 7 => rsp,
    8 => r8, 9 => r9, 10 => r10, 11 => r11, 12 => r12, 13 => r13, 14 => r14, _ => r15);
numbered!(segment, segment_mut: Segment =
    0 => cs, 1 => ss, 2 => ds, 3 => es, 4 => fs, _ => gs);
numbered!(base, base_mut: u64 = 0 => fs.base, 1 => gs.base, _ => kernel_gs_base);
numbered!(control, control_mut: u64 =
    0 => cr0, 1 => cr2, 2 => cr3, 3 => cr4, 4 => cr8, _ => efer);

#[cfg(test)]
mod tests {
    use std::vec::Vec;

    use gdbstub::arch::Registers as _;

    use super::*;

    /// Registers of which every byte that a number reaches differs from the others'.
    fn distinct() -> Registers {
        let mut registers = Registers {
            rip: 0x1122_3344_5566_7788,
            ..Registers::default()
        };
        for (number, info) in REGISTERS.iter().enumerate() {
            let value: Vec<u8> = (0..16).map(|n| (number * 16 + n) as u8 | 1).collect();
            write(&mut registers, info.source, &value[..info.size]);
        }
        registers
    }

    #[test]
    fn each_number_reads_back_what_was_written_and_touches_no_other() {
        for info in &REGISTERS {
            if matches!(info.source, Source::Vmcs(_) | Source::Fpu(_) | Source::Rip) {
                continue;
            }
            let mut registers = Registers::default();
            let value = [0x5a; 16];
            let width = match info.source {
                Source::Selector(_) => 2,
                _ => info.size,
            };
            assert!(write(&mut registers, info.source, &value[..width]));
            for other in &REGISTERS {
                let mut seen = [0; MAX_REGISTER_SIZE];
                let in_registers = read(&registers, other.source, &mut seen);
                let expected = in_registers && other.source == info.source;
                assert_eq!(
                    seen[..width] == value[..width],
                    expected,
                    "{} {}",
                    info.name,
                    other.name
                );
            }
        }
    }

    #[test]
    fn names_are_unique_and_g_is_the_general_part() {
        for (n, info) in REGISTERS.iter().enumerate() {
            assert!(
                REGISTERS[..n]
                    .iter()
                    .all(|earlier| earlier.name != info.name)
            );
            assert!(info.size <= MAX_REGISTER_SIZE);
        }
        let size: usize = REGISTERS[..CORE_REGISTERS]
            .iter()
            .map(|info| info.size)
            .sum();
        assert_eq!(size, CoreRegisters::SIZE);
        assert_eq!(REGISTERS[CORE_REGISTERS - 1].name, "gs");
    }

    /// The value of an attribute in a line of XML.
    fn attribute<'a>(line: &'a str, name: &str) -> &'a str {
        let start = line.find(&std::format!("{name}=\"")).unwrap() + name.len() + 2;
        line[start..].split('"').next().unwrap()
    }

    #[test]
    fn the_narrow_descriptions_have_the_stubs_numbers_and_sizes() {
        let descriptions = [
            include_str!("../../gdb-scripts/stillpoint-16.xml"),
            include_str!("../../gdb-scripts/stillpoint-32.xml"),
        ];
        for description in descriptions {
            let mut seen = Vec::new();
            for line in description.lines().filter(|line| line.contains("<reg ")) {
                let number: usize = attribute(line, "regnum").parse().unwrap();
                let info = RegisterId::from_raw_id(number).unwrap().0.info();
                assert_eq!(attribute(line, "name"), info.name);
                assert_eq!(
                    attribute(line, "bitsize"),
                    std::format!("{}", info.size * 8)
                );
                seen.push(number);
            }
            seen.sort_unstable();
            // The whole of a `g` packet, and all the halves.
            let core = 0..CORE_REGISTERS;
            assert!(core.chain(128..137).all(|number| seen.contains(&number)));
        }
    }

    #[test]
    fn a_g_packet_is_in_the_tables_order_and_g_upper_case_undoes_it() {
        let registers = distinct();
        let core = CoreRegisters::capture(&registers);
        let mut wire = Vec::new();
        core.gdb_serialize(|byte| wire.push(byte.unwrap()));
        assert_eq!(wire[..8], registers.rax.to_le_bytes());
        assert_eq!(wire[7 * 8..8 * 8], registers.rsp.to_le_bytes());
        assert_eq!(
            wire[17 * 8..17 * 8 + 4],
            (registers.rflags as u32).to_le_bytes()
        );
        assert_eq!(
            wire[wire.len() - 4..],
            u32::from(registers.gs.selector).to_le_bytes()
        );

        let mut parsed = CoreRegisters::default();
        parsed.gdb_deserialize(&wire).unwrap();
        let mut copy = Registers {
            cs: registers.cs,
            ..Registers::default()
        };
        parsed.apply(&mut copy);
        assert_eq!(CoreRegisters::capture(&copy), core);
        assert!(parsed.gdb_deserialize(&wire[1..]).is_err());
    }

    #[test]
    fn rip_is_linear_where_cs_has_a_base() {
        let mut registers = Registers {
            rip: 0x7c00,
            cs: Segment {
                selector: 0xf000,
                base: 0xf_0000,
            },
            ..Registers::default()
        };
        let mut value = [0; MAX_REGISTER_SIZE];
        read(&registers, Source::Rip, &mut value);
        assert_eq!(le_u64(&value), 0xf_7c00);
        write(&mut registers, Source::Rip, &0xf_7c05_u64.to_le_bytes());
        assert_eq!(registers.rip, 0x7c05);
    }
}
