//! VMCS fields: their encodings, names, widths and kinds.
//!
//! The hypervisor reads and writes fields through the constants of [`Field`]; the
//! debugger finds them by name or encoding. The list is in `table.rs`.

mod table;

use core::fmt;

/// A VMCS field, known by its encoding.
///
/// The constants are named after the SDM's names; a value of this type is always one of them.
/// 64-bit fields are named by their full encoding; the access to the high half
/// alone, for processors in 32-bit mode, is not represented.
///
/// Source: Intel SDM, vol. 3, appendix B, "Field Encoding in VMCS".
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Field(u32);

/// How wide a field is: bits 14:13 of its encoding.
///
/// Source: Intel SDM, vol. 3, section 25.11.2, "VMREAD, VMWRITE, and Encodings of VMCS Fields".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Width {
    /// 16 bits.
    Bits16,
    /// 64 bits on every processor.
    Bits64,
    /// 32 bits.
    Bits32,
    /// 64 bits on a processor that supports Intel 64 architecture, else 32.
    Natural,
}

impl Width {
    /// The largest value that a field of this width holds on an Intel 64 processor.
    pub const fn max_value(self) -> u64 {
        match self {
            Width::Bits16 => 0xffff,
            Width::Bits32 => 0xffff_ffff,
            Width::Bits64 | Width::Natural => u64::MAX,
        }
    }

    /// The number of hexadecimal digits that shows every bit of such a field.
    pub const fn hex_digits(self) -> usize {
        match self {
            Width::Bits16 => 4,
            Width::Bits32 => 8,
            Width::Bits64 | Width::Natural => 16,
        }
    }
}

/// Which area of the VMCS a field belongs to: bits 11:10 of its encoding.
///
/// Source: Intel SDM, vol. 3, section 25.11.2, "VMREAD, VMWRITE, and Encodings of VMCS Fields".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// VM-execution, VM-exit and VM-entry control fields.
    Control,
    /// VM-exit information fields, which most processors let nobody write.
    ReadOnlyData,
    /// The guest-state area, loaded by VM entry and saved by VM exit.
    GuestState,
    /// The host-state area, loaded by VM exit.
    HostState,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Kind::Control => "control",
            Kind::ReadOnlyData => "read-only data",
            Kind::GuestState => "guest state",
            Kind::HostState => "host state",
        })
    }
}

/// What is known of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldInfo {
    /// The field.
    pub field: Field,
    /// The name of its constant in [`Field`], in capitals.
    pub name: &'static str,
    /// How wide it is.
    pub width: Width,
    /// Which area it belongs to.
    pub kind: Kind,
}

impl Field {
    /// The number of fields that [`Field::all`] lists.
    pub const COUNT: usize = table::COUNT;

    /// The operand that VMREAD and VMWRITE take.
    pub const fn encoding(self) -> u32 {
        self.0
    }

    /// The field with this encoding.
    ///
    /// `None` if the SDM defines none, and for the odd encodings, which name the
    /// high half of a 64-bit field.
    pub fn from_encoding(encoding: u32) -> Option<Field> {
        table::TABLE
            .binary_search_by_key(&encoding, |info| info.field.0)
            .ok()
            .map(|_| Field(encoding))
    }

    /// The width that the encoding states.
    pub const fn width(self) -> Width {
        match (self.0 >> 13) & 3 {
            0 => Width::Bits16,
            1 => Width::Bits64,
            2 => Width::Bits32,
            _ => Width::Natural,
        }
    }

    /// The area that the encoding states.
    pub const fn kind(self) -> Kind {
        match (self.0 >> 10) & 3 {
            0 => Kind::Control,
            1 => Kind::ReadOnlyData,
            2 => Kind::GuestState,
            _ => Kind::HostState,
        }
    }

    /// Whether VMWRITE to the field fails on a processor whose IA32_VMX_MISC
    /// bit 29 is 0.
    pub const fn is_read_only(self) -> bool {
        matches!(self.kind(), Kind::ReadOnlyData)
    }

    /// The name of the constant, in capitals: `GUEST_RIP`.
    pub fn name(self) -> &'static str {
        self.info().name
    }

    /// Everything that is known of the field.
    pub fn info(self) -> &'static FieldInfo {
        &table::TABLE[self.index()]
    }

    /// The place of the field among [`Field::all`], less than [`Field::COUNT`].
    pub fn index(self) -> usize {
        // A `Field` is made by a constant or by `from_encoding` only, so it is
        // in the table; the fallback keeps this function free of panics.
        table::TABLE
            .binary_search_by_key(&self.0, |info| info.field.0)
            .unwrap_or(0)
    }

    /// Every field, in ascending order of encoding.
    pub fn all() -> &'static [FieldInfo] {
        table::TABLE
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl fmt::Debug for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({:#06x})", self.name(), self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_state_the_declared_width_and_kind() {
        for info in Field::all() {
            assert_eq!(info.field.width(), info.width, "{}", info.name);
            assert_eq!(info.field.kind(), info.kind, "{}", info.name);
            // Bit 0 is the access type (full), bits 12 and 31:15 are reserved.
            assert_eq!(info.field.0 & 0xffff_9001, 0, "{}", info.name);
        }
    }

    #[test]
    fn the_table_is_sorted_without_duplicates() {
        assert!(Field::all().is_sorted_by(|a, b| a.field < b.field));
        for (i, a) in Field::all().iter().enumerate() {
            for b in &Field::all()[i + 1..] {
                assert_ne!(a.name, b.name);
            }
        }
        assert_eq!(Field::all().len(), Field::COUNT);
    }

    #[test]
    fn lookups_invert_each_other() {
        for (i, info) in Field::all().iter().enumerate() {
            assert_eq!(
                Field::from_encoding(info.field.encoding()),
                Some(info.field)
            );
            assert_eq!(info.field.index(), i);
        }
        assert_eq!(Field::from_encoding(0x2001), None);
        assert_eq!(Field::from_encoding(0x482c), None);
        assert_eq!(Field::from_encoding(0x8000), None);
    }

    #[test]
    fn name_prefixes_agree_with_the_kind() {
        for info in Field::all() {
            if info.name.starts_with("HOST_") {
                assert_eq!(info.kind, Kind::HostState, "{}", info.name);
            }
            if info.kind == Kind::HostState {
                assert!(info.name.starts_with("HOST_"), "{}", info.name);
            }
        }
    }
}
