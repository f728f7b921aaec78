//! What a program describes a piece of application logic (PAL) with when it
//! registers one: sections of its memory, and the parameters of its entry.
//!
//! Guest programs encode with [`encode_sections`] and [`encode_parameters`];
//! the hypervisor decodes an element at a time, since it trusts no count. The
//! structures are TrustVisor's `tv_pal_sections` and `tv_pal_params`: packed,
//! little-endian, the same for 32-bit and 64-bit callers. Each is a header,
//! the number of elements in its first four bytes, and room for ten elements.

/// The most sections that a PAL has, shared ones among them.
pub const MAX_SECTIONS: usize = 10;

/// The most parameters that a PAL has.
pub const MAX_PARAMETERS: usize = 10;

/// Bytes in front of the elements; the number of elements is in the first four.
pub const HEADER_SIZE: usize = 8;

/// Bytes of a [`Section`].
pub const SECTION_SIZE: usize = 16;

/// Bytes of a [`Parameter`].
pub const PARAMETER_SIZE: usize = 16;

/// Bytes of all sections with their header.
pub const SECTIONS_SIZE: usize = HEADER_SIZE + MAX_SECTIONS * SECTION_SIZE;

/// Bytes of all parameters with their header.
pub const PARAMETERS_SIZE: usize = HEADER_SIZE + MAX_PARAMETERS * PARAMETER_SIZE;

/// Where a PAL returns to. No PAL has the page that this address is in, so the
/// return faults, and the hypervisor takes over.
pub const RETURN_ADDRESS: u64 = 4;

/// How wide a program's words are: CS.L of the code that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Width {
    /// 32-bit code, under a system of either width.
    Bits32,
    /// 64-bit code.
    Bits64,
}

impl Width {
    /// Bytes of a word: 4 or 8.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Bits32 => 4,
            Self::Bits64 => 8,
        }
    }

    /// The part of a register that such code sees.
    pub const fn truncate(self, value: u64) -> u64 {
        match self {
            Self::Bits32 => value as u32 as u64,
            Self::Bits64 => value,
        }
    }
}

/// What a section is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum SectionType {
    /// Code, and data that doesn't change. The entry is in such a section.
    Code = 1,
    /// Data.
    Data = 2,
    /// The hypervisor puts the parameters here; the first such section counts.
    Param = 3,
    /// The stack; the first such section counts.
    Stack = 4,
    /// Code that the rest of the system goes on executing.
    SharedCode = 5,
    /// Lent for one call by SHARE. No program registers such a section.
    Shared = 6,
}

impl SectionType {
    /// The type with this number. TrustVisor's 7, for page tables, isn't among
    /// them: sections do not describe those here.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::Code,
            2 => Self::Data,
            3 => Self::Param,
            4 => Self::Stack,
            5 => Self::SharedCode,
            6 => Self::Shared,
            _ => return None,
        })
    }

    /// The type's number.
    pub const fn raw(self) -> u32 {
        self as u32
    }
}

/// Pages of a program's memory that are to be a PAL's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// What they are for.
    pub kind: SectionType,
    /// How many pages of 4 KiB.
    pub pages: u32,
    /// The first one's address.
    pub start: u64,
}

impl Section {
    /// How many bytes it has.
    pub const fn bytes(&self) -> u64 {
        self.pages as u64 * 4096
    }

    /// The address of each of its pages.
    pub fn addresses(self) -> impl Iterator<Item = u64> + Clone {
        (0..u64::from(self.pages)).map(move |page| self.start + page * 4096)
    }

    /// The section as programs lay it out.
    pub const fn to_bytes(self) -> [u8; SECTION_SIZE] {
        element(self.kind.raw(), self.pages, self.start)
    }

    /// The section that is laid out so.
    ///
    /// # Errors
    /// The number of the type, if there is no such type.
    pub const fn from_bytes(bytes: &[u8; SECTION_SIZE]) -> Result<Self, u32> {
        let (raw, pages, start) = fields(bytes);
        match SectionType::from_raw(raw) {
            Some(kind) => Ok(Self { kind, pages, start }),
            None => Err(raw),
        }
    }
}

/// How a parameter is passed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u32)]
pub enum ParameterType {
    /// A word, as it is.
    Integer = 1,
    /// A pointer to words, which are copied in before the call and back after it.
    Pointer = 2,
}

impl ParameterType {
    /// The type with this number.
    pub const fn from_raw(raw: u32) -> Option<Self> {
        Some(match raw {
            1 => Self::Integer,
            2 => Self::Pointer,
            _ => return None,
        })
    }

    /// The type's number.
    pub const fn raw(self) -> u32 {
        self as u32
    }
}

/// A parameter of a PAL's entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameter {
    /// How it is passed.
    pub kind: ParameterType,
    /// For a pointer, how many words it points to; a word is [`Width::bytes`]
    /// long. No meaning for an integer.
    pub words: u64,
}

impl Parameter {
    /// The parameter as programs lay it out.
    pub const fn to_bytes(self) -> [u8; PARAMETER_SIZE] {
        element(self.kind.raw(), 0, self.words)
    }

    /// The parameter that is laid out so.
    ///
    /// # Errors
    /// The number of the type, if there is no such type.
    pub const fn from_bytes(bytes: &[u8; PARAMETER_SIZE]) -> Result<Self, u32> {
        let (raw, _, words) = fields(bytes);
        match ParameterType::from_raw(raw) {
            Some(kind) => Ok(Self { kind, words }),
            None => Err(raw),
        }
    }
}

/// The structure whose address REG takes in CX; `None` for more than
/// [`MAX_SECTIONS`].
pub fn encode_sections(sections: &[Section]) -> Option<[u8; SECTIONS_SIZE]> {
    encode(sections.iter().map(|section| section.to_bytes()))
}

/// The structure whose address REG takes in SI; `None` for more than
/// [`MAX_PARAMETERS`].
pub fn encode_parameters(parameters: &[Parameter]) -> Option<[u8; PARAMETERS_SIZE]> {
    encode(parameters.iter().map(|parameter| parameter.to_bytes()))
}

fn encode<const SIZE: usize>(
    elements: impl ExactSizeIterator<Item = [u8; 16]>,
) -> Option<[u8; SIZE]> {
    let mut bytes = [0; SIZE];
    let (header, room) = bytes.split_at_mut_checked(HEADER_SIZE)?;
    let (room, _) = room.as_chunks_mut();
    if elements.len() > room.len() {
        return None;
    }
    header[..4].copy_from_slice(&(elements.len() as u32).to_le_bytes());
    for (place, element) in room.iter_mut().zip(elements) {
        *place = element;
    }
    Some(bytes)
}

/// Both structures' elements have this shape.
const fn element(first: u32, second: u32, third: u64) -> [u8; 16] {
    (first as u128 | (second as u128) << 32 | (third as u128) << 64).to_le_bytes()
}

const fn fields(bytes: &[u8; 16]) -> (u32, u32, u64) {
    let all = u128::from_le_bytes(*bytes);
    (all as u32, (all >> 32) as u32, (all >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STACK: Section = Section {
        kind: SectionType::Stack,
        pages: 0x0102_0304,
        start: 0x1112_1314_1516_1718,
    };

    #[test]
    fn a_section_is_type_pages_and_start() {
        let bytes = STACK.to_bytes();
        assert_eq!(
            bytes,
            [
                4, 0, 0, 0, 4, 3, 2, 1, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11
            ]
        );
        assert_eq!(Section::from_bytes(&bytes), Ok(STACK));
    }

    #[test]
    fn a_parameter_is_type_padding_and_words() {
        let pointer = Parameter {
            kind: ParameterType::Pointer,
            words: 0x0102,
        };
        let mut bytes = pointer.to_bytes();
        assert_eq!(bytes, [2, 0, 0, 0, 0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0]);
        bytes[5] = 0xee;
        assert_eq!(Parameter::from_bytes(&bytes), Ok(pointer));
    }

    #[test]
    fn types_round_trip_and_no_others_decode() {
        let sections = (0..0x100).filter_map(SectionType::from_raw);
        assert!(sections.clone().map(SectionType::raw).eq(1..=6));
        let parameters = (0..0x100).filter_map(ParameterType::from_raw);
        assert!(parameters.clone().map(ParameterType::raw).eq(1..=2));
        let mut bytes = STACK.to_bytes();
        bytes[0] = 7;
        assert_eq!(Section::from_bytes(&bytes), Err(7));
        assert_eq!(Parameter::from_bytes(&bytes), Err(7));
    }

    #[test]
    fn the_structure_is_a_count_and_ten_places() {
        let bytes = encode_sections(&[STACK; 2]).unwrap();
        assert_eq!(bytes.len(), 168);
        assert_eq!(bytes[..8], [2, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[8..24], STACK.to_bytes());
        assert_eq!(bytes[24..40], STACK.to_bytes());
        assert_eq!(bytes[40..], [0; 128]);
        assert!(encode_sections(&[STACK; 10]).is_some());
        assert!(encode_sections(&[STACK; 11]).is_none());
    }

    #[test]
    fn words() {
        assert_eq!((Width::Bits32.bytes(), Width::Bits64.bytes()), (4, 8));
        assert_eq!(Width::Bits32.truncate(0x1_2345_6789), 0x2345_6789);
        assert_eq!(Width::Bits64.truncate(u64::MAX), u64::MAX);
    }
}
