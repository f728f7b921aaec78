//! The VM-exit instruction-information field: the operands of the instruction that caused
//! an exit.

use core::fmt;

use crate::{ExitReason, Gpr, SegmentRegister};

/// The value of the VM-exit instruction-information field. Which parts of it are
/// defined depends on the exit reason.
///
/// Source: Intel SDM, vol. 3, section 28.2.5, "Information for VM Exits Due to Instruction
/// Execution", and its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstructionInfo(u32);

/// The address of a memory operand but for the displacement, which is the exit
/// qualification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOperand {
    /// The segment register, `None` for numbers that name none.
    pub segment: Option<SegmentRegister>,
    /// The base register, if there is one.
    pub base: Option<Gpr>,
    /// The index register, if there is one.
    pub index: Option<Gpr>,
    /// What the index is multiplied by: 1, 2, 4 or 8.
    pub scale: u8,
    /// The address size in bits: 16, 32 or 64; `None` for the value that the SDM does not use.
    pub address_size: Option<u8>,
}

impl InstructionInfo {
    /// The field with this value.
    pub const fn from_raw(value: u32) -> InstructionInfo {
        InstructionInfo(value)
    }

    /// The field's value.
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// Bits 9:7, the address size in bits.
    pub const fn address_size(self) -> Option<u8> {
        match (self.0 >> 7) & 7 {
            0 => Some(16),
            1 => Some(32),
            2 => Some(64),
            _ => None,
        }
    }

    /// Bits 17:15, the segment register; undefined for INS.
    pub const fn segment(self) -> Option<SegmentRegister> {
        SegmentRegister::from_number(((self.0 >> 15) & 7) as u8)
    }

    /// Bit 10: the operand is the register [`reg1`](Self::reg1), not memory. Defined for
    /// instructions that take either.
    pub const fn is_register(self) -> bool {
        self.0 & (1 << 10) != 0
    }

    /// Bits 6:3, the register operand (or the first one).
    pub const fn reg1(self) -> Gpr {
        Gpr::from_bits((self.0 >> 3) as u64)
    }

    /// Bits 31:28, the second register operand.
    pub const fn reg2(self) -> Gpr {
        Gpr::from_bits((self.0 >> 28) as u64)
    }

    /// Bits 12:11, the operand size in bits of RDRAND and its like; `None` for the value that
    /// the SDM does not use.
    pub const fn operand_size(self) -> Option<u8> {
        match (self.0 >> 11) & 3 {
            0 => Some(16),
            1 => Some(32),
            2 => Some(64),
            _ => None,
        }
    }

    /// Bits 29:28, which of four instructions it was, where an exit reason stands for four.
    pub const fn identity(self) -> u8 {
        ((self.0 >> 28) & 3) as u8
    }

    /// The memory operand, where there is one.
    pub const fn memory(self) -> MemoryOperand {
        let index = Gpr::from_bits((self.0 >> 18) as u64);
        let base = Gpr::from_bits((self.0 >> 23) as u64);
        MemoryOperand {
            segment: self.segment(),
            base: if self.0 & (1 << 27) == 0 {
                Some(base)
            } else {
                None
            },
            index: if self.0 & (1 << 22) == 0 {
                Some(index)
            } else {
                None
            },
            scale: 1 << (self.0 & 3),
            address_size: self.address_size(),
        }
    }

    /// The field as text, for an exit with this reason; nothing where it is undefined.
    pub fn describe(self, reason: ExitReason) -> impl fmt::Display {
        Description { info: self, reason }
    }
}

impl fmt::Display for MemoryOperand {
    /// As `DS:[RAX+RCX*8+disp]`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(segment) = self.segment {
            write!(f, "{segment}:")?;
        }
        f.write_str("[")?;
        if let Some(base) = self.base {
            write!(f, "{base}+")?;
        }
        if let Some(index) = self.index {
            write!(f, "{index}*{}+", self.scale)?;
        }
        f.write_str("disp]")?;
        match self.address_size {
            Some(64) => Ok(()),
            Some(size) => write!(f, ", {size}-bit address"),
            None => f.write_str(", address of unknown size"),
        }
    }
}

struct Description {
    info: InstructionInfo,
    reason: ExitReason,
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ExitReason as R;
        let info = self.info;
        let register_or_memory = |f: &mut fmt::Formatter<'_>| match info.is_register() {
            true => write!(f, "{}", info.reg1()),
            false => write!(f, "{}", info.memory()),
        };
        match self.reason {
            R::IoInstruction => {
                if let Some(segment) = info.segment() {
                    write!(f, "{segment}, ")?;
                }
                match info.address_size() {
                    Some(size) => write!(f, "{size}-bit address"),
                    None => f.write_str("address of unknown size"),
                }
            }
            R::Invept | R::Invpcid | R::Invvpid => {
                write!(f, "{}, {}", info.reg2(), info.memory())
            }
            R::GdtrOrIdtrAccess => {
                let name = ["SGDT", "SIDT", "LGDT", "LIDT"][usize::from(info.identity())];
                write!(f, "{name} {}", info.memory())
            }
            R::LdtrOrTrAccess => {
                let name = ["SLDT", "STR", "LLDT", "LTR"][usize::from(info.identity())];
                write!(f, "{name} ")?;
                register_or_memory(f)
            }
            R::Rdrand | R::Rdseed | R::Tpause | R::Umwait => {
                write!(f, "{}", info.reg1())?;
                match info.operand_size() {
                    Some(size) => write!(f, ", {size} bits"),
                    None => f.write_str(", unknown size"),
                }
            }
            R::Vmclear | R::Vmptrld | R::Vmptrst | R::Vmxon | R::Xrstors | R::Xsaves => {
                write!(f, "{}", info.memory())
            }
            R::Vmread => {
                register_or_memory(f)?;
                write!(f, ", {}", info.reg2())
            }
            R::Vmwrite => {
                write!(f, "{}, ", info.reg2())?;
                register_or_memory(f)
            }
            R::Loadiwkey => write!(
                f,
                "XMM{}, XMM{}",
                info.reg1().number(),
                info.reg2().number()
            ),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    /// Composes a field: scale, address size, segment, index, base (16 for none), reg2.
    fn memory(scale: u32, size: u32, segment: u32, index: u32, base: u32, reg2: u32) -> u32 {
        let place = |register: u32, shift: u32| match register {
            16 => 1 << (shift + 4),
            register => register << shift,
        };
        scale | size << 7 | segment << 15 | place(index, 18) | place(base, 23) | reg2 << 28
    }

    #[test]
    fn operands_are_described_by_reason() {
        use ExitReason as R;
        let cases = [
            (
                R::Invept,
                memory(3, 2, 3, 1, 0, 5),
                "RBP, DS:[RAX+RCX*8+disp]",
            ),
            (R::Vmxon, memory(0, 2, 2, 16, 4, 0), "SS:[RSP+disp]"),
            (
                R::Vmclear,
                memory(0, 1, 3, 16, 16, 0),
                "DS:[disp], 32-bit address",
            ),
            (
                R::GdtrOrIdtrAccess,
                memory(0, 0, 0, 16, 7, 2),
                "LGDT ES:[RDI+disp], 16-bit address",
            ),
            (R::LdtrOrTrAccess, 3 << 28 | 1 << 10 | 2 << 3, "LTR RDX"),
            (
                R::LdtrOrTrAccess,
                memory(0, 2, 4, 16, 6, 1),
                "STR FS:[RSI+disp]",
            ),
            (R::Rdrand, 2 << 11 | 9 << 3, "R9, 64 bits"),
            (R::Vmread, 1 << 10 | 1 << 28, "RAX, RCX"),
            (R::Vmwrite, 1 << 10 | 1 << 28, "RCX, RAX"),
            (R::IoInstruction, 2 << 7 | 3 << 15, "DS, 64-bit address"),
            (R::Loadiwkey, 4 << 3 | 12 << 28, "XMM4, XMM12"),
            (R::Cpuid, 0x1234, ""),
        ];
        for (reason, raw, text) in cases {
            let info = InstructionInfo::from_raw(raw);
            assert_eq!(info.describe(reason).to_string(), text, "{reason}");
        }
    }
}
