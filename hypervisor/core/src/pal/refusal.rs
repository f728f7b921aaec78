//! Why a program does not get what it asks for.
//!
//! REG, SHARE and UNREG answer 1 and no more; the log has the line that is
//! printed here, and the trace its number.

use crate::addr::{Gpa, Gva};
use crate::paging::WalkError;
use core::fmt;
use stillpoint_abi::pal::{MAX_PARAMETERS, MAX_SECTIONS, SectionType};

/// What is wrong with a request. Sections and parameters are counted from 0,
/// as in the arrays that the program gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The caller runs without paging.
    NoPaging,
    /// A structure of the caller's could not be read.
    Unreadable(Structure, WalkError),
    /// So many sections; a PAL has at most [`MAX_SECTIONS`], shared ones among
    /// them.
    TooManySections(u64),
    /// So many parameters; there are at most [`MAX_PARAMETERS`].
    TooManyParameters(u32),
    /// This section's type is this number, which no program may register.
    SectionType(u8, u32),
    /// This parameter's type is this number.
    ParameterType(u8, u32),
    /// This section has no pages.
    EmptySection(u8),
    /// This section does not start at a page, or is not whole pages long.
    UnalignedSection(u8),
    /// This section's end is where the caller has no addresses.
    SectionRange(u8),
    /// This section has page 0, where returns go.
    PageZero(u8),
    /// These two sections overlap.
    Overlap(u8, u8),
    /// So many pages in all; a PAL has at most [`MAX_PAGES`](super::MAX_PAGES).
    TooManyPages(u64),
    /// The entry is not in a section of code.
    Entry(Gva),
    /// There is no stack.
    NoStack,
    /// There are parameters, and no section for them.
    NoParameterSection,
    /// The parameters do not fit the section for them.
    ParametersTooLarge,
    /// The caller itself may not use this page as the section would.
    Page(SectionType, WalkError),
    /// The caller itself may not execute this page.
    NotExecutable(Gva),
    /// This frame is at or past 4 GiB, which a PAL's page tables cannot name
    /// under 32-bit paging.
    FrameTooHigh(Gva, Gpa),
}

/// A structure that a program passes by its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Structure {
    /// REG's sections.
    Sections,
    /// REG's parameters.
    Parameters,
    /// SHARE's addresses.
    Addresses,
    /// SHARE's lengths.
    Lengths,
}

impl Structure {
    const fn name(self) -> &'static str {
        match self {
            Self::Sections => "the sections",
            Self::Parameters => "the parameters",
            Self::Addresses => "the addresses",
            Self::Lengths => "the lengths",
        }
    }
}

impl Refusal {
    /// A number for each kind, from 1 on, that stays what it is.
    pub const fn code(self) -> u8 {
        match self {
            Self::NoPaging => 1,
            Self::Unreadable(..) => 2,
            Self::TooManySections(_) => 3,
            Self::TooManyParameters(_) => 4,
            Self::SectionType(..) => 5,
            Self::ParameterType(..) => 6,
            Self::EmptySection(_) => 7,
            Self::UnalignedSection(_) => 8,
            Self::SectionRange(_) => 9,
            Self::PageZero(_) => 10,
            Self::Overlap(..) => 11,
            Self::TooManyPages(_) => 12,
            Self::Entry(_) => 13,
            Self::NoStack => 14,
            Self::NoParameterSection => 15,
            Self::ParametersTooLarge => 16,
            Self::Page(..) => 17,
            Self::NotExecutable(_) => 18,
            Self::FrameTooHigh(..) => 19,
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::NoPaging => write!(f, "the caller runs without paging"),
            Self::Unreadable(structure, error) => {
                write!(f, "{} cannot be read: {}", structure.name(), Walk(error))
            }
            Self::TooManySections(count) => {
                write!(f, "{count} sections, at most {MAX_SECTIONS}")
            }
            Self::TooManyParameters(count) => {
                write!(f, "{count} parameters, at most {MAX_PARAMETERS}")
            }
            Self::SectionType(section, raw) => {
                write!(f, "section {section} has type {raw}")
            }
            Self::ParameterType(parameter, raw) => {
                write!(f, "parameter {parameter} has type {raw}")
            }
            Self::EmptySection(section) => write!(f, "section {section} has no pages"),
            Self::UnalignedSection(section) => {
                write!(f, "section {section} is not whole pages")
            }
            Self::SectionRange(section) => {
                write!(f, "section {section} leaves the caller's addresses")
            }
            Self::PageZero(section) => write!(f, "section {section} has page 0"),
            Self::Overlap(one, other) => {
                write!(f, "sections {one} and {other} overlap")
            }
            Self::TooManyPages(count) => {
                write!(f, "{count} pages, at most {}", super::MAX_PAGES)
            }
            Self::Entry(gva) => write!(f, "entry {gva:#x} is not in a section of code"),
            Self::NoStack => write!(f, "no section is a stack"),
            Self::NoParameterSection => write!(f, "no section is for the parameters"),
            Self::ParametersTooLarge => {
                write!(f, "the parameters do not fit the section for them")
            }
            Self::Page(kind, error) => {
                write!(
                    f,
                    "the caller has no such {} page: {}",
                    name(kind),
                    Walk(error)
                )
            }
            Self::NotExecutable(gva) => {
                write!(f, "the caller may not execute page {gva:#x}")
            }
            Self::FrameTooHigh(gva, gpa) => {
                write!(f, "page {gva:#x} is at {gpa:#x}, past 4 GiB")
            }
        }
    }
}

const fn name(kind: SectionType) -> &'static str {
    match kind {
        SectionType::Code => "code",
        SectionType::Data => "data",
        SectionType::Param => "parameter",
        SectionType::Stack => "stack",
        SectionType::SharedCode => "shared code",
        SectionType::Shared => "shared",
    }
}

/// Prints where a walk ended, and why.
struct Walk(WalkError);

impl fmt::Display for Walk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            WalkError::PageFault { code, gva } => {
                write!(f, "{gva:#x}, #PF error code {code:#x}")
            }
            WalkError::NonCanonical(gva) => write!(f, "{gva:#x} is no address"),
            WalkError::TableUnreadable(gpa) => {
                write!(f, "no memory for a page table at {gpa:#x}")
            }
            WalkError::NoMemory(gpa) => write!(f, "no memory at {gpa:#x}"),
        }
    }
}
