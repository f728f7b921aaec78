//! The isolated programs of the guest (PALs), as the debugger sees them.
//!
//! Implemented by the hypervisor, which knows them; asked by `monitor pal` and, for the
//! owner of a page, before any memory is shown to the client.

use core::fmt;

use super::{CpuIndex, GuestMode, MachineError};

/// The most sections and the most parameters that a PAL has.
pub const MAX_PAL_PARTS: usize = 10;

/// How many platform configuration registers a PAL has.
pub const PCRS: usize = 8;

/// The PALs that are registered, and whose memory is whose.
pub trait Pals {
    /// One more than the highest number that a PAL can have; 0 without PALs.
    fn pal_slots(&self) -> u32;

    /// The PAL with this number; `None` if none is registered under it.
    fn pal(&mut self, id: u32) -> Option<PalInfo>;

    /// Whose the page of guest physical memory is that `gpa` lies in.
    fn page_owner(&mut self, gpa: u64) -> PageOwner;

    /// Ends a PAL as a fault of its own would: its memory is wiped and given back, and
    /// whoever is inside comes out with a fault that the guest can handle.
    ///
    /// # Errors
    /// [`MachineError::Unavailable`]: not now, or no such PAL.
    fn kill_pal(&mut self, id: u32) -> Result<(), MachineError>;
}

/// One registered PAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PalInfo {
    /// Its number.
    pub id: u32,
    /// CR3 of the program that registered it.
    pub owner_cr3: u64,
    /// The code that it was registered by, and consists of: 32-bit or 64-bit.
    pub mode: GuestMode,
    /// The kind of page tables that it runs on.
    pub paging: PalPaging,
    /// The virtual address that it is called at.
    pub entry: u64,
    /// Whether somebody is inside.
    pub state: PalState,
    /// Its sections, in the order of registration, from the first element on.
    pub sections: [Option<PalSection>; MAX_PAL_PARTS],
    /// Its parameters, in their order, from the first element on.
    pub parameters: [Option<PalParameter>; MAX_PAL_PARTS],
    /// Its platform configuration registers.
    pub pcrs: [[u8; 20]; PCRS],
    /// How often it has been called.
    pub calls: u64,
    /// How often the guest has read its pages from outside, and seen a decoy.
    pub decoy_reads: u64,
    /// How often the guest has tried to write its pages from outside.
    pub refused_writes: u64,
}

impl PalInfo {
    /// How many pages its sections have together.
    pub fn pages(&self) -> u64 {
        self.sections
            .iter()
            .flatten()
            .map(|section| u64::from(section.pages))
            .sum()
    }
}

/// The kinds of page tables that a PAL runs on: those of the program that registered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PalPaging {
    /// 32-bit paging.
    Bits32,
    /// PAE paging.
    Pae,
    /// 4-level paging.
    Level4,
    /// 5-level paging.
    Level5,
}

impl fmt::Display for PalPaging {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Bits32 => "32-bit",
            Self::Pae => "PAE",
            Self::Level4 => "4-level",
            Self::Level5 => "5-level",
        })
    }
}

/// Where a PAL is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PalState {
    /// Its registration is under way.
    Registering,
    /// It waits for a call.
    Idle,
    /// This CPU is inside.
    Running(CpuIndex),
    /// Its call is over, but where results go is not in memory: the guest is to bring
    /// it in.
    Returning,
}

impl PalState {
    /// The CPU that is inside.
    pub const fn cpu(self) -> Option<CpuIndex> {
        match self {
            Self::Running(cpu) => Some(cpu),
            Self::Registering | Self::Idle | Self::Returning => None,
        }
    }
}

impl fmt::Display for PalState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Registering => "registering",
            Self::Idle => "idle",
            Self::Running(_) => "running",
            Self::Returning => "returning",
        })
    }
}

/// A stretch of a PAL's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PalSection {
    /// What it is for.
    pub kind: SectionKind,
    /// Virtual address of its first page.
    pub start: u64,
    /// How many pages it has.
    pub pages: u32,
}

/// What a section of a PAL is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SectionKind {
    /// Code of the PAL's alone.
    Code,
    /// Data.
    Data,
    /// Where parameters are handed over.
    Parameters,
    /// The stack.
    Stack,
    /// Code that the guest may read and execute, too.
    SharedCode,
    /// Pages lent for one call (SHARE).
    Shared,
}

impl fmt::Display for SectionKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Code => "code",
            Self::Data => "data",
            Self::Parameters => "parameters",
            Self::Stack => "stack",
            Self::SharedCode => "shared code",
            Self::Shared => "shared",
        })
    }
}

/// A parameter that a PAL takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PalParameter {
    /// A number, handed over as it is.
    Integer,
    /// A pointer to so many bytes, which are copied in and out.
    Pointer {
        /// Bytes behind the pointer.
        bytes: u64,
    },
}

/// Whose a page of guest physical memory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PageOwner {
    /// The guest's.
    Guest,
    /// The hypervisor's own.
    Hypervisor,
    /// In a section of a PAL.
    Pal {
        /// The PAL.
        id: u32,
        /// The section's kind.
        kind: SectionKind,
        /// Where the PAL has the page.
        gva: u64,
    },
    /// One of the page tables that a PAL runs on.
    PalTables {
        /// The PAL.
        id: u32,
    },
}

impl PageOwner {
    /// The PAL that the page belongs to.
    pub const fn pal(self) -> Option<u32> {
        match self {
            Self::Pal { id, .. } | Self::PalTables { id } => Some(id),
            Self::Guest | Self::Hypervisor => None,
        }
    }
}

impl fmt::Display for PageOwner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Guest => f.write_str("the guest's"),
            Self::Hypervisor => f.write_str("the hypervisor's own"),
            Self::Pal { id, kind, gva } => write!(f, "PAL {id}'s: {kind}, gva {gva:#x} there"),
            Self::PalTables { id } => write!(f, "PAL {id}'s: page tables"),
        }
    }
}
