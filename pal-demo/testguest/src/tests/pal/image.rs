//! A PAL as its program lays it out in the window, and what is in its pages.

use stillpoint_abi::pal::{Parameter, ParameterType, Section, SectionType};

use super::space::{FRAMES, WINDOW};
use crate::check_eq;
use crate::harness::Outcome;

/// Bytes of code that a PAL has at the most.
const CODE_SIZE: u64 = 512;

/// What the program leaves in the other pages, before it gives them away.
const FILL: u64 = 0x5171_1b0e_5171_1b0e;

/// Its parts, a page each, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its code; the entry is its first byte.
    Code = 0,
    /// Its data.
    Data = 1,
    /// Its stack.
    Stack = 2,
    /// Its parameters.
    Param = 3,
}

/// Every part.
pub const PARTS: [Part; 4] = [Part::Code, Part::Data, Part::Stack, Part::Param];

impl Part {
    const fn kind(self) -> SectionType {
        match self {
            Self::Code => SectionType::Code,
            Self::Data => SectionType::Data,
            Self::Stack => SectionType::Stack,
            Self::Param => SectionType::Param,
        }
    }
}

/// An integer, and a pointer to four words: what most PALs here take.
pub const INTEGER_AND_POINTER: &[Parameter] = &[integer(), pointer(4)];

/// A parameter that is an integer.
pub const fn integer() -> Parameter {
    Parameter {
        kind: ParameterType::Integer,
        words: 0,
    }
}

/// A parameter that points to words.
pub const fn pointer(words: u64) -> Parameter {
    Parameter {
        kind: ParameterType::Pointer,
        words,
    }
}

/// A PAL of four pages, side by side.
#[derive(Clone, Copy, Debug)]
pub struct Pal {
    /// Its first page in the window.
    pub page: u64,
    /// Its code.
    pub code: unsafe extern "C" fn(),
    /// How it is called.
    pub parameters: &'static [Parameter],
}

impl Pal {
    /// A PAL with the usual parameters.
    pub const fn new(page: u64, code: unsafe extern "C" fn()) -> Self {
        Self {
            page,
            code,
            parameters: INTEGER_AND_POINTER,
        }
    }

    /// Where it is called.
    pub const fn entry(&self) -> u64 {
        WINDOW + self.page * 4096
    }

    /// Where a part lies in physical memory, which is mapped one to one for this guest.
    pub const fn frame(&self, part: Part) -> u64 {
        FRAMES + (self.page + part as u64) * 4096
    }

    /// Its sections, as REG takes them.
    pub fn sections(&self) -> [Section; 4] {
        PARTS.map(|part| Section {
            kind: part.kind(),
            pages: 1,
            start: self.entry() + part as u64 * 4096,
        })
    }

    /// A word of its pages, as this guest finds it.
    pub fn word(&self, part: Part, index: u64) -> u64 {
        read(self.frame(part) + 8 * index)
    }

    /// What should be in a part while it is the program's.
    fn expected(&self, part: Part, index: u64) -> u64 {
        match part {
            Part::Code if index < CODE_SIZE / 8 => {
                let code = self.code as *const () as u64 + 8 * index;
                // SAFETY: this guest's code is followed by more of its image.
                unsafe { (code as *const u64).read_unaligned() }
            }
            _ => FILL + index,
        }
    }

    /// Fills its pages: code, and a pattern in the others.
    pub fn fill(&self) {
        for part in PARTS {
            for index in 0..512 {
                write(self.frame(part) + 8 * index, self.expected(part, index));
            }
        }
    }

    /// A page that was given back is zero where the PAL could write; code is as it was.
    pub fn check_given_back(&self) -> Outcome {
        self.check_contents(|part, index| match part {
            Part::Code => self.expected(part, index),
            _ => 0,
        })
    }

    /// The pages are as [`fill`](Self::fill) left them.
    pub fn check_untouched(&self) -> Outcome {
        self.check_contents(|part, index| self.expected(part, index))
    }

    fn check_contents(&self, expected: impl Fn(Part, u64) -> u64) -> Outcome {
        for part in PARTS {
            for index in 0..512 {
                let (word, expected) = (self.word(part, index), expected(part, index));
                check_eq!(word, expected, "{part:?} word {index}");
            }
        }
        Ok(())
    }
}

/// Reads a word of free memory.
pub fn read(address: u64) -> u64 {
    // SAFETY: memory of the window or of the tests; a fault is caught by the test.
    unsafe { (address as *const u64).read_volatile() }
}

/// Writes a word of free memory.
pub fn write(address: u64, value: u64) {
    // SAFETY: as in `read`.
    unsafe { (address as *mut u64).write_volatile(value) };
}
