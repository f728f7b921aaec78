//! Segment access rights as the VMCS holds them.

use core::fmt;

/// The access rights of a segment register.
///
/// The layout is that of bits 23:8 of a descriptor's second word, with
/// "unusable" in bit 16.
///
/// Source: Intel SDM, vol. 3, section 25.4.1, "Guest Register State", table "Format of
/// Access Rights".
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct AccessRights(u32);

impl AccessRights {
    /// A segment register that cannot be used, all else being 0.
    pub const UNUSABLE: AccessRights = AccessRights(1 << 16);

    /// The field with this value.
    pub const fn from_raw(value: u32) -> AccessRights {
        AccessRights(value)
    }

    /// The field's value.
    pub const fn raw(self) -> u32 {
        self.0
    }

    const fn bit(self, bit: u32) -> bool {
        self.0 & (1 << bit) != 0
    }

    /// Bits 3:0, the segment type.
    pub const fn segment_type(self) -> u8 {
        (self.0 & 0xf) as u8
    }

    /// Bit 4, S: a code or data segment (1), or a system one (0).
    pub const fn s(self) -> bool {
        self.bit(4)
    }

    /// Bits 6:5, the descriptor privilege level, 0 to 3.
    pub const fn dpl(self) -> u8 {
        ((self.0 >> 5) & 3) as u8
    }

    /// Bit 7, P: present.
    pub const fn present(self) -> bool {
        self.bit(7)
    }

    /// Bit 12, AVL: for software's use.
    pub const fn avl(self) -> bool {
        self.bit(12)
    }

    /// Bit 13, L: a 64-bit code segment. Reserved but for CS.
    pub const fn l(self) -> bool {
        self.bit(13)
    }

    /// Bit 14, D/B: 32-bit by default.
    pub const fn db(self) -> bool {
        self.bit(14)
    }

    /// Bit 15, G: the limit counts 4-KiB units.
    pub const fn g(self) -> bool {
        self.bit(15)
    }

    /// Bit 16: the segment register is unusable.
    pub const fn unusable(self) -> bool {
        self.bit(16)
    }

    /// Bits 11:8 and 31:17, which are reserved.
    pub const fn reserved(self) -> u32 {
        self.0 & 0xfffe_0f00
    }

    /// Whether the type is that of a code segment, given S = 1.
    pub const fn is_code(self) -> bool {
        self.bit(3)
    }
}

impl fmt::Display for AccessRights {
    /// As `code, execute/read, accessed, DPL 0, P, L, G`.
    ///
    /// Types: Intel SDM, vol. 3, section 3.4.5.1, "Code- and Data-Segment Descriptor
    /// Types", and section 3.5, "System Descriptor Types".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.unusable() {
            // Of the rest only the DPL counts, and that only for SS.
            return write!(f, "unusable, DPL {}", self.dpl());
        }
        let kind = self.segment_type();
        if !self.s() {
            match kind {
                1 => f.write_str("available 16-bit TSS")?,
                2 => f.write_str("LDT")?,
                3 => f.write_str("busy 16-bit TSS")?,
                9 => f.write_str("available TSS")?,
                11 => f.write_str("busy TSS")?,
                _ => write!(f, "system type {kind}")?,
            }
        } else {
            f.write_str(match (self.is_code(), kind & 2 != 0) {
                (false, false) => "data, read-only",
                (false, true) => "data, read/write",
                (true, false) => "code, execute-only",
                (true, true) => "code, execute/read",
            })?;
            if kind & 4 != 0 {
                f.write_str(if self.is_code() {
                    ", conforming"
                } else {
                    ", expand-down"
                })?;
            }
            if kind & 1 != 0 {
                f.write_str(", accessed")?;
            }
        }
        write!(f, ", DPL {}", self.dpl())?;
        let flags = [
            (self.present(), "P"),
            (self.avl(), "AVL"),
            (self.l(), "L"),
            (self.db(), "D/B"),
            (self.g(), "G"),
        ];
        for (set, name) in flags {
            if set {
                write!(f, ", {name}")?;
            }
        }
        if self.reserved() != 0 {
            write!(f, ", reserved {:#x}", self.reserved())?;
        }
        Ok(())
    }
}

impl fmt::Debug for AccessRights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "AccessRights({:#07x}: {self})", self.0)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn printing_decodes_each_part() {
        let cases = [
            (0xa09b, "code, execute/read, accessed, DPL 0, P, L, G"),
            (0xc0f3, "data, read/write, accessed, DPL 3, P, D/B, G"),
            (0x0093, "data, read/write, accessed, DPL 0, P"),
            (0x009e, "code, execute/read, conforming, DPL 0, P"),
            (0x0095, "data, read-only, expand-down, accessed, DPL 0, P"),
            (0x008b, "busy TSS, DPL 0, P"),
            (0x0083, "busy 16-bit TSS, DPL 0, P"),
            (0x0082, "LDT, DPL 0, P"),
            (0x1_0000, "unusable, DPL 0"),
            (0x1_c0f3, "unusable, DPL 3"),
            (
                0x1f9b,
                "code, execute/read, accessed, DPL 0, P, AVL, reserved 0xf00",
            ),
        ];
        for (raw, text) in cases {
            assert_eq!(AccessRights::from_raw(raw).to_string(), text, "{raw:#x}");
        }
    }
}
