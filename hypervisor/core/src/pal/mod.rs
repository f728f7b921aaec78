//! Pieces of application logic (PALs): what a program in the guest registers
//! to have it run apart from the rest of the guest.
//!
//! The hypervisor's PAL code asks here and carries out the answers.
//!
//! | when | what |
//! |---|---|
//! | a program asks for a PAL, or lends it pages | [`Request`], [`read_share`], [`find_page`]: what it wants, or a [`Refusal`] |
//! | it gets one | [`PalTables`]: the page tables that the PAL runs on |
//! | it calls the PAL, the PAL returns | [`Marshalling`]: registers, arguments and what they point to |
//! | always | [`Life`]: who may do what with the PAL now |
//!
//! The interface is TrustVisor's; `docs/hypercall-abi.md` has it.

mod life;
mod marshal;
mod refusal;
mod request;
mod share;
mod tables;
#[cfg(test)]
mod tests;

pub use life::{CallSite, Life};
pub use marshal::{CopyError, Entry, Marshalling, Piece, VirtualMemory, registers_after};
pub use refusal::{Refusal, Structure};
pub use request::{MAX_PAGES, Request, find_page};
pub use share::read_share;
pub use tables::{OutOfTables, PalTables};

use crate::paging::PagingRegs;
use stillpoint_abi::pal::{SectionType, Width};

/// The program that asks for something: its state at its VMCALL, or at its
/// call of a PAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// How its addresses are translated.
    pub paging: PagingRegs,
    /// How wide its code is: CS.L.
    pub width: Width,
}

/// What a PAL may do with a page of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rights {
    /// Read and execute.
    ReadExecute,
    /// Read and write.
    ReadWrite,
}

impl Rights {
    /// What a PAL may do with the pages of such a section.
    pub const fn of(kind: SectionType) -> Self {
        match kind {
            SectionType::Code | SectionType::SharedCode => Self::ReadExecute,
            SectionType::Data | SectionType::Param | SectionType::Stack | SectionType::Shared => {
                Self::ReadWrite
            }
        }
    }
}
