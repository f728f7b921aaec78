//! Memory types from the memory type range registers (MTRRs).

use crate::addr::{PageSize, PhysRange};
use heapless::Vec;

/// A memory type, numbered as MTRRs, the PAT and EPT entries do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum MemoryType {
    /// UC.
    Uncacheable = 0,
    /// WC.
    WriteCombining = 1,
    /// WT.
    WriteThrough = 4,
    /// WP.
    WriteProtected = 5,
    /// WB.
    WriteBack = 6,
}

/// MSR numbers of the fixed-range MTRRs, in ascending order of address.
pub const FIXED_MTRR_MSRS: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
];

/// How many variable-range MTRRs are looked at, at most.
pub const MAX_VARIABLE: usize = 32;

/// One variable-range MTRR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VariableMtrr {
    /// IA32_MTRR_PHYSBASEn.
    pub base: u64,
    /// IA32_MTRR_PHYSMASKn.
    pub mask: u64,
}

/// The MTRRs as they are read: raw MSR values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mtrrs {
    /// IA32_MTRRCAP: MSR 0xFE.
    pub capabilities: u64,
    /// IA32_MTRR_DEF_TYPE: MSR 0x2FF.
    pub default_type: u64,
    /// The fixed-range MTRRs, as [`FIXED_MTRR_MSRS`] lists them.
    pub fixed: [u64; 11],
    /// The variable-range ones, as many as IA32_MTRRCAP.VCNT says.
    pub variable: Vec<VariableMtrr, MAX_VARIABLE>,
}

impl Mtrrs {
    /// The type of the 4 KiB page at this address.
    pub fn type_at(&self, _address: u64) -> MemoryType {
        todo!()
    }

    /// The one type that a whole page of this size has, or `None` if it has
    /// several. `address` is the page's first.
    pub fn type_of_page(&self, _address: u64, _size: PageSize) -> Option<MemoryType> {
        todo!()
    }

    /// The one type of a whole range.
    pub fn type_of_range(&self, _range: PhysRange) -> Option<MemoryType> {
        todo!()
    }
}
