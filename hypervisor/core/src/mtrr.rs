//! Memory types from the memory type range registers (MTRRs).
//!
//! Under EPT the guest's MTRRs no longer reach its accesses: the memory type
//! in the EPT entry stands in for them. [`crate::ept`] asks here for the type
//! of each page when it builds the tables, and again when the guest has
//! written an MTRR.
//!
//! Source: Intel SDM, vol. 3, section 12.11, "Memory Type Range Registers (MTRRs)".

use crate::addr::{PAGE_SIZE, PageSize};
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

impl MemoryType {
    /// The type with this number. Reserved numbers, which no MTRR holds, are
    /// taken for uncacheable, the type that is right for everything.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::WriteCombining,
            4 => Self::WriteThrough,
            5 => Self::WriteProtected,
            6 => Self::WriteBack,
            _ => Self::Uncacheable,
        }
    }

    /// The type where variable ranges of these two types overlap.
    ///
    /// Source: Intel SDM, vol. 3, section 12.11.4.1, "MTRR Precedences". What
    /// it leaves undefined is uncacheable here.
    const fn overlapped_by(self, other: Self) -> Self {
        match (self, other) {
            (a, b) if a as u8 == b as u8 => a,
            (Self::WriteThrough, Self::WriteBack) | (Self::WriteBack, Self::WriteThrough) => {
                Self::WriteThrough
            }
            _ => Self::Uncacheable,
        }
    }
}

/// IA32_MTRRCAP.
pub const IA32_MTRRCAP: u32 = 0xfe;
/// IA32_MTRR_DEF_TYPE.
pub const IA32_MTRR_DEF_TYPE: u32 = 0x2ff;
/// IA32_MTRR_PHYSBASE0; PHYSMASK0, PHYSBASE1, PHYSMASK1 and so on follow it.
pub const IA32_MTRR_PHYSBASE0: u32 = 0x200;

/// MSR numbers of the fixed-range MTRRs, in ascending order of address.
pub const FIXED_MTRR_MSRS: [u32; 11] = [
    0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
];

/// How many variable-range MTRRs are looked at, at most.
pub const MAX_VARIABLE: usize = 32;

/// The fixed-range MTRRs speak for what is below this.
const FIXED_END: u64 = 1 << 20;

/// One variable-range MTRR, as its two MSRs hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VariableMtrr {
    /// IA32_MTRR_PHYSBASEn.
    pub base: u64,
    /// IA32_MTRR_PHYSMASKn.
    pub mask: u64,
}

/// How a variable range and an aligned block of addresses lie to each other.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Coverage {
    None,
    Part,
    Whole,
}

impl VariableMtrr {
    const VALID: u64 = 1 << 11;

    /// A mask may have holes, so a range need not be in one piece. Within an
    /// aligned block the address bits above its size are the same for all,
    /// and the bits below take every value.
    const fn coverage(self, block: u64, len: u64) -> Coverage {
        let mask = self.mask & !(PAGE_SIZE - 1);
        let above = mask & !(len - 1);
        if self.mask & Self::VALID == 0 || (block ^ self.base) & above != 0 {
            Coverage::None
        } else if mask & (len - 1) != 0 {
            Coverage::Part
        } else {
            Coverage::Whole
        }
    }

    const fn memory_type(self) -> MemoryType {
        MemoryType::from_number(self.base as u8)
    }
}

/// The MTRRs: raw MSR values.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mtrrs {
    /// IA32_MTRRCAP.
    pub capabilities: u64,
    /// IA32_MTRR_DEF_TYPE.
    pub default_type: u64,
    /// The fixed-range MTRRs, as [`FIXED_MTRR_MSRS`] lists them.
    pub fixed: [u64; 11],
    /// The variable-range ones, as many as IA32_MTRRCAP.VCNT says.
    pub variable: Vec<VariableMtrr, MAX_VARIABLE>,
}

impl Mtrrs {
    /// Reads the MTRRs, with `rdmsr`. Only MSRs that IA32_MTRRCAP says are
    /// there are read.
    ///
    /// Of more than [`MAX_VARIABLE`] variable ranges the rest would be left
    /// out; no processor has as many as a third of that.
    pub fn read(mut rdmsr: impl FnMut(u32) -> u64) -> Self {
        const FIX: u64 = 1 << 8;
        let capabilities = rdmsr(IA32_MTRRCAP);
        let mut fixed = [0; 11];
        if capabilities & FIX != 0 {
            fixed = FIXED_MTRR_MSRS.map(&mut rdmsr);
        }
        let count = (capabilities as u8 as u32).min(MAX_VARIABLE as u32);
        Self {
            capabilities,
            default_type: rdmsr(IA32_MTRR_DEF_TYPE),
            fixed,
            variable: (0..count)
                .map(|n| VariableMtrr {
                    base: rdmsr(IA32_MTRR_PHYSBASE0 + 2 * n),
                    mask: rdmsr(IA32_MTRR_PHYSBASE0 + 2 * n + 1),
                })
                .collect(),
        }
    }

    /// MTRRs that are all off, so that all memory is uncacheable.
    pub fn disabled() -> Self {
        Self {
            capabilities: 0,
            default_type: 0,
            fixed: [0; 11],
            variable: Vec::new(),
        }
    }

    /// The type of the 4 KiB page at this physical address.
    pub fn type_at(&self, address: u64) -> MemoryType {
        let page = address & !(PAGE_SIZE - 1);
        // A 4 KiB block has one type: no mask reaches below bit 12.
        self.uniform_type(page, PAGE_SIZE)
            .unwrap_or(MemoryType::Uncacheable)
    }

    /// The one type that a whole page has, or `None` if it has several.
    /// `address` is any address in the page.
    pub fn type_of_page(&self, address: u64, size: PageSize) -> Option<MemoryType> {
        self.uniform_type(address & !(size.bytes() - 1), size.bytes())
    }

    /// The one type of an aligned block, `len` being a power of two.
    fn uniform_type(&self, block: u64, len: u64) -> Option<MemoryType> {
        if !self.enabled() {
            return Some(MemoryType::Uncacheable);
        }
        if block >= FIXED_END || !self.fixed_enabled() {
            return self.variable_type(block, len);
        }
        if len <= PAGE_SIZE {
            return Some(self.fixed_type(block));
        }
        let half = len / 2;
        let lower = self.uniform_type(block, half)?;
        let upper = self.uniform_type(block + half, half)?;
        (lower == upper).then_some(lower)
    }

    fn variable_type(&self, block: u64, len: u64) -> Option<MemoryType> {
        let types = |coverage| {
            let covering = self
                .variable
                .iter()
                .filter(move |range| range.coverage(block, len) == coverage);
            covering.map(|range| range.memory_type())
        };
        let whole = types(Coverage::Whole).reduce(MemoryType::overlapped_by);
        let memory_type = whole.unwrap_or(MemoryType::from_number(self.default_type as u8));
        // A range over a part of the block does no harm if it changes nothing.
        let unchanged = |part| whole.map_or(part, |whole| whole.overlapped_by(part)) == memory_type;
        types(Coverage::Part).all(unchanged).then_some(memory_type)
    }

    fn fixed_type(&self, address: u64) -> MemoryType {
        let (register, byte) = match address {
            0..0x8_0000 => (0, address >> 16),
            0x8_0000..0xc_0000 => (1 + ((address - 0x8_0000) >> 17), address >> 14),
            _ => (3 + ((address - 0xc_0000) >> 15), address >> 12),
        };
        let types = self.fixed.get(register as usize).copied().unwrap_or(0);
        MemoryType::from_number(types.to_le_bytes()[(byte & 7) as usize])
    }

    /// IA32_MTRR_DEF_TYPE.E.
    const fn enabled(&self) -> bool {
        self.default_type & (1 << 11) != 0
    }

    /// IA32_MTRR_DEF_TYPE.FE.
    const fn fixed_enabled(&self) -> bool {
        self.default_type & (1 << 10) != 0
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use MemoryType::*;
    use proptest::prelude::*;

    const ENABLED: u64 = 1 << 11;
    const FIXED_ENABLED: u64 = 1 << 10;
    const MIB: u64 = 1 << 20;
    const GIB: u64 = 1 << 30;

    /// A range of `len` bytes, a power of two, on a 36-bit processor.
    fn range(start: u64, len: u64, memory_type: MemoryType) -> VariableMtrr {
        let mask = ((1 << 36) - 1) & !(len - 1);
        VariableMtrr {
            base: start | memory_type as u64,
            mask: mask | VariableMtrr::VALID,
        }
    }

    fn mtrrs(default: MemoryType, variable: &[VariableMtrr]) -> Mtrrs {
        Mtrrs {
            default_type: ENABLED | default as u64,
            variable: Vec::from_slice(variable).unwrap(),
            ..Mtrrs::disabled()
        }
    }

    #[test]
    fn off_means_uncacheable() {
        let mut m = mtrrs(WriteBack, &[range(0, GIB, WriteThrough)]);
        assert_eq!(m.type_at(0), WriteThrough);
        m.default_type &= !ENABLED;
        assert_eq!(m.type_of_page(0, PageSize::Size1G), Some(Uncacheable));
    }

    #[test]
    fn fixed_ranges_beat_variable_ones_below_1_mib() {
        let mut m = mtrrs(Uncacheable, &[range(0, GIB, WriteBack)]);
        m.default_type |= FIXED_ENABLED;
        m.fixed = [0x0606_0606_0606_0606; 11];
        assert_eq!(m.type_of_page(0, PageSize::Size2M), Some(WriteBack));
        // One byte each: 64 KiB at 0x70000, 16 KiB at 0xa4000, 4 KiB at 0xc9000 and 0xff000.
        m.fixed[0] = 0x0406_0606_0606_0606;
        m.fixed[2] = 0x0606_0606_0606_0106;
        m.fixed[4] = 0x0606_0606_0606_0506;
        m.fixed[10] = 0x0006_0606_0606_0606;
        assert_eq!(m.type_of_page(0, PageSize::Size2M), None);
        for (address, expected) in [
            (0, WriteBack),
            (0x6_ffff, WriteBack),
            (0x7_0000, WriteThrough),
            (0x8_0000, WriteBack),
            (0xa_3fff, WriteBack),
            (0xa_4000, WriteCombining),
            (0xa_7fff, WriteCombining),
            (0xa_8000, WriteBack),
            (0xc_8fff, WriteBack),
            (0xc_9000, WriteProtected),
            (0xc_a000, WriteBack),
            (0xf_efff, WriteBack),
            (0xf_f000, Uncacheable),
            (0x10_0000, WriteBack),
        ] {
            assert_eq!(m.type_at(address), expected, "{address:#x}");
        }
        // The SDM gives the fixed ranges up when FE is 0.
        m.default_type &= !FIXED_ENABLED;
        assert_eq!(m.type_at(0xf_f000), WriteBack);
    }

    #[test]
    fn overlaps_follow_the_sdm() {
        for (a, b, expected) in [
            (WriteBack, WriteBack, WriteBack),
            (WriteBack, Uncacheable, Uncacheable),
            (WriteThrough, Uncacheable, Uncacheable),
            (WriteBack, WriteThrough, WriteThrough),
            (WriteCombining, WriteBack, Uncacheable),
            (WriteProtected, WriteThrough, Uncacheable),
        ] {
            for (a, b) in [(a, b), (b, a)] {
                let m = mtrrs(WriteBack, &[range(0, GIB, a), range(0, GIB, b)]);
                assert_eq!(m.type_at(0), expected, "{a:?} over {b:?}");
            }
        }
    }

    #[test]
    fn pages_are_whole_or_mixed() {
        // The usual PC: write-back RAM, and uncacheable from 3 GiB to 4 GiB.
        let m = mtrrs(
            WriteBack,
            &[
                range(3 * GIB, GIB, Uncacheable),
                range(8 * MIB, 4 * MIB, WriteBack),
            ],
        );
        let gib = |n: u64| m.type_of_page(n * GIB, PageSize::Size1G);
        assert_eq!(
            [gib(0), gib(2), gib(3), gib(4)],
            [
                Some(WriteBack),
                Some(WriteBack),
                Some(Uncacheable),
                Some(WriteBack)
            ]
        );
        let m = mtrrs(WriteBack, &[range(0xe000_0000, 512 * MIB, Uncacheable)]);
        assert_eq!(m.type_of_page(3 * GIB, PageSize::Size1G), None);
        assert_eq!(
            m.type_of_page(0xe000_0000, PageSize::Size2M),
            Some(Uncacheable)
        );
        assert_eq!(
            m.type_of_page(0xdfe0_0000, PageSize::Size2M),
            Some(WriteBack)
        );
    }

    #[test]
    fn only_msrs_that_exist_are_read() {
        let read = |capabilities: u64| {
            let mut msrs = std::vec::Vec::new();
            let m = Mtrrs::read(|msr| {
                msrs.push(msr);
                if msr == IA32_MTRRCAP {
                    capabilities
                } else {
                    u64::from(msr)
                }
            });
            (m, msrs)
        };
        let (_, msrs) = read(0);
        assert_eq!(msrs, [IA32_MTRRCAP, IA32_MTRR_DEF_TYPE]);
        let (m, msrs) = read(0x108 | 2);
        assert_eq!(msrs.len(), 2 + 11 + 20);
        assert_eq!(
            m.variable[9],
            VariableMtrr {
                base: 0x212,
                mask: 0x213
            }
        );
        assert_eq!(m.fixed[10], 0x26f);
        let (m, _) = read(0xff);
        assert_eq!(m.variable.len(), MAX_VARIABLE);
    }

    /// What the SDM says of one page, in the plainest words.
    fn oracle(m: &Mtrrs, page: u64) -> MemoryType {
        if m.default_type & ENABLED == 0 {
            return Uncacheable;
        }
        if page < MIB && m.default_type & FIXED_ENABLED != 0 {
            let all = m.fixed.iter().flat_map(|msr| msr.to_le_bytes());
            let sizes = [0x1_0000; 8]
                .into_iter()
                .chain([0x4000; 16])
                .chain([0x1000; 64]);
            let mut end = 0;
            for (memory_type, size) in all.zip(sizes) {
                end += size;
                if page < end {
                    return MemoryType::from_number(memory_type);
                }
            }
        }
        let hits = m.variable.iter().filter(|v| {
            let mask = v.mask >> 12;
            v.mask & VariableMtrr::VALID != 0 && (page >> 12) & mask == (v.base >> 12) & mask
        });
        let hits: std::vec::Vec<_> = hits
            .map(|v| MemoryType::from_number(v.base as u8))
            .collect();
        match hits[..] {
            [] => MemoryType::from_number(m.default_type as u8),
            [first, ..] if hits.iter().all(|&hit| hit == first) => first,
            _ if hits
                .iter()
                .all(|&hit| hit == WriteThrough || hit == WriteBack) =>
            {
                WriteThrough
            }
            _ => Uncacheable,
        }
    }

    fn types() -> impl Strategy<Value = u64> {
        proptest::sample::select(&[0u64, 1, 4, 5, 6][..])
    }

    prop_compose! {
        /// MTRRs over 16 MiB, masks with holes among them.
        fn small_mtrrs()(
            default in types(),
            flags in 0..4u64,
            fixed in proptest::collection::vec(types(), 88),
            uniform in any::<bool>(),
            variable in proptest::collection::vec((types(), 0..0x1000u64, 0..13u32, any::<u64>(), any::<bool>()), 0..5),
        ) -> Mtrrs {
            let fixed = core::array::from_fn(|register| {
                let byte = |n| if uniform { 6 } else { fixed[8 * register + n] as u8 };
                u64::from_le_bytes(core::array::from_fn(byte))
            });
            let variable = variable.into_iter().map(|(t, page, order, holes, straight)| {
                let mut mask = 0xfff & !((1u64 << order) - 1);
                if !straight {
                    mask &= holes;
                }
                VariableMtrr { base: page << 12 | t, mask: mask << 12 | VariableMtrr::VALID }
            });
            Mtrrs {
                capabilities: 0,
                default_type: default | flags << 10,
                fixed,
                variable: variable.collect(),
            }
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_oracle(m in small_mtrrs(), page in 0..0x1000u64) {
            prop_assert_eq!(m.type_at(page << 12), oracle(&m, page << 12));
        }

        #[test]
        fn a_whole_page_has_the_type_of_each_of_its_parts(m in small_mtrrs(), block in 0..8u64) {
            let start = block << 21;
            let first = oracle(&m, start);
            let mut parts = (start..start + 2 * MIB).step_by(0x1000);
            let same = parts.all(|page| oracle(&m, page) == first);
            match m.type_of_page(start, PageSize::Size2M) {
                Some(memory_type) => {
                    prop_assert!(same);
                    prop_assert_eq!(memory_type, first);
                }
                // Never split what one straight range settles.
                None => prop_assert!(!same || m.variable.len() > 1, "needlessly mixed"),
            }
        }
    }
}
