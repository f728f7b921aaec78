//! The memory map, and the plan for who gets which memory.
//!
//! The boot makes a [`MemoryMap`] from what the boot loader passes on of the
//! firmware's, has [`plan`] find a place for the hypervisor, and answers the
//! guest's INT 15h from the map in which that place is reserved.

use crate::addr::{PageSize, PhysRange};
use core::fmt;
use heapless::Vec;

/// How many regions a map can hold. Firmware's usually have 5 to 40.
pub const MAX_REGIONS: usize = 128;

/// The hypervisor stays below this, where 32-bit firmware and boot code reach.
const PLACEMENT_LIMIT: u64 = 1 << 32;

/// What a region of the physical address space is, as ACPI numbers it
/// (ACPI Specification 6.5, section 15.2, Address Range Types).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RegionKind {
    /// 1: RAM that the system may use.
    Usable,
    /// 2: not to be used.
    Reserved,
    /// 3: holds ACPI tables until they have been read.
    AcpiReclaimable,
    /// 4: firmware keeps it over sleep.
    AcpiNvs,
    /// 5: RAM in which errors were found.
    Unusable,
    /// Any other number; not to be used.
    Other(u32),
}

impl RegionKind {
    /// The kind with this number.
    pub const fn from_number(number: u32) -> Self {
        match number {
            1 => Self::Usable,
            2 => Self::Reserved,
            3 => Self::AcpiReclaimable,
            4 => Self::AcpiNvs,
            5 => Self::Unusable,
            other => Self::Other(other),
        }
    }

    /// The number of the kind.
    pub const fn number(self) -> u32 {
        match self {
            Self::Usable => 1,
            Self::Reserved => 2,
            Self::AcpiReclaimable => 3,
            Self::AcpiNvs => 4,
            Self::Unusable => 5,
            Self::Other(number) => number,
        }
    }

    /// Which kind wins where two overlap: the higher. Reserved beats every
    /// kind of which some day something may be used.
    const fn precedence(self) -> u64 {
        match self {
            Self::Usable => 0,
            Self::AcpiReclaimable => 1,
            Self::AcpiNvs => 2,
            Self::Unusable => 3,
            Self::Reserved => 4,
            // The numbers only make the order total.
            Self::Other(number) => 5 + number as u64,
        }
    }
}

/// A part of the physical address space that is of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    /// Where it is.
    pub range: PhysRange,
    /// What it is.
    pub kind: RegionKind,
}

/// Regions in ascending order, none overlapping, none empty, and no two of
/// one kind adjacent. What no region holds is free address space.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemoryMap {
    regions: Vec<Region, MAX_REGIONS>,
}

/// Why there is no map or no plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryError {
    /// The map would have more than [`MAX_REGIONS`] regions.
    TooManyRegions,
    /// No usable RAM below 4 GiB has room for this many bytes in one piece.
    NoRoom(u64),
}

impl fmt::Display for MemoryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooManyRegions => {
                write!(f, "the memory map has more than {MAX_REGIONS} regions")
            }
            Self::NoRoom(size) => write!(
                f,
                "no {} MiB of RAM in one piece are free below 4 GiB",
                size.div_ceil(1 << 20)
            ),
        }
    }
}

impl core::error::Error for MemoryError {}

impl MemoryMap {
    /// A map from the regions that firmware reports, which may be out of
    /// order and may overlap; where they do, the less usable kind wins.
    ///
    /// # Errors
    /// [`MemoryError::TooManyRegions`].
    pub fn from_firmware(
        regions: impl Iterator<Item = Region> + Clone,
    ) -> Result<Self, MemoryError> {
        let mut map = Self::default();
        let mut at = Some(0);
        // From boundary to boundary: what holds between two of them is of one
        // kind. Quadratic, over a few dozen regions, once a boot.
        while let Some(start) = at {
            let boundaries = regions
                .clone()
                .filter(|region| !region.range.is_empty())
                .flat_map(|region| [region.range.start, region.range.end]);
            let Some(end) = boundaries.filter(|&boundary| boundary > start).min() else {
                break;
            };
            let covering = regions
                .clone()
                .filter(|region| region.range.contains(start));
            if let Some(region) = covering.max_by_key(|region| region.kind.precedence()) {
                map.push(PhysRange::new(start, end), region.kind)?;
            }
            at = Some(end);
        }
        Ok(map)
    }

    /// The regions, ascending.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The kind of the region that holds this address.
    pub fn kind_at(&self, address: u64) -> Option<RegionKind> {
        let region = self.regions.iter().find(|r| r.range.contains(address))?;
        Some(region.kind)
    }

    /// First address after the last usable RAM; 0 without any.
    pub fn end_of_ram(&self) -> u64 {
        let mut usable = self.regions.iter().rev();
        usable
            .find(|region| region.kind == RegionKind::Usable)
            .map_or(0, |region| region.range.end)
    }

    /// The same map with this range reserved, whatever it was.
    ///
    /// # Errors
    /// [`MemoryError::TooManyRegions`].
    pub fn reserve(&self, range: PhysRange) -> Result<Self, MemoryError> {
        let mut map = Self::default();
        if range.is_empty() {
            return Ok(self.clone());
        }
        let before = |r: PhysRange| PhysRange::new(r.start, r.end.min(range.start));
        let after = |r: PhysRange| PhysRange::new(r.start.max(range.end), r.end);
        for region in &self.regions {
            map.push(before(region.range), region.kind)?;
        }
        map.push(range, RegionKind::Reserved)?;
        for region in &self.regions {
            map.push(after(region.range), region.kind)?;
        }
        Ok(map)
    }

    /// Adds at the end, joining what is adjacent and of one kind.
    fn push(&mut self, range: PhysRange, kind: RegionKind) -> Result<(), MemoryError> {
        if range.is_empty() {
            return Ok(());
        }
        if let Some(last) = self.regions.last_mut()
            && last.kind == kind
            && last.range.end == range.start
        {
            last.range.end = range.end;
            return Ok(());
        }
        self.regions
            .push(Region { range, kind })
            .map_err(|_| MemoryError::TooManyRegions)
    }
}

/// Who gets which memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPlan {
    /// The hypervisor's memory: whole 2 MiB pages.
    pub hypervisor: PhysRange,
    /// The map that the guest sees, the hypervisor's memory being reserved.
    pub guest: MemoryMap,
}

/// Puts the hypervisor, `size` bytes, as high as it goes in usable RAM below
/// 4 GiB, clear of each range of `avoid` (the boot loader's modules and the
/// image as loaded), so that low memory stays whole for the guest.
///
/// `size` is rounded up to whole 2 MiB pages, so that the hole in EPT needs
/// no 4 KiB pages.
///
/// # Errors
/// [`MemoryError::NoRoom`]; [`MemoryError::TooManyRegions`] if the reserved
/// range makes the guest's map too long.
pub fn plan(map: &MemoryMap, size: u64, avoid: &[PhysRange]) -> Result<MemoryPlan, MemoryError> {
    let page = PageSize::Size2M.bytes();
    let no_room = MemoryError::NoRoom(size);
    let size = size.max(1).checked_next_multiple_of(page).ok_or(no_room)?;
    for region in map.regions.iter().rev() {
        if region.kind != RegionKind::Usable {
            continue;
        }
        let mut end = region.range.end.min(PLACEMENT_LIMIT) & !(page - 1);
        // Down past each obstacle until the place is free or the region ends.
        while let Some(start) = end.checked_sub(size)
            && start >= region.range.start
        {
            let place = PhysRange::new(start, end);
            let Some(obstacle) = avoid.iter().find(|range| range.overlaps(place)) else {
                return Ok(MemoryPlan {
                    hypervisor: place,
                    guest: map.reserve(place)?,
                });
            };
            end = obstacle.start & !(page - 1);
        }
    }
    Err(no_room)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use RegionKind::*;
    use proptest::prelude::*;
    use std::vec::Vec;

    const MIB: u64 = 1 << 20;

    fn region(start: u64, end: u64, kind: RegionKind) -> Region {
        Region {
            range: PhysRange::new(start, end),
            kind,
        }
    }

    fn map(regions: &[Region]) -> MemoryMap {
        MemoryMap::from_firmware(regions.iter().copied()).unwrap()
    }

    /// What a PC with 1 GiB reports.
    fn one_gib() -> MemoryMap {
        map(&[
            region(0, 0x9_f000, Usable),
            region(0x9_f000, 0xa_0000, Reserved),
            region(0xe_8000, MIB, Reserved),
            region(MIB, 0x3fff_0000, Usable),
            region(0x3fff_0000, 0x4000_0000, AcpiReclaimable),
            region(0xfffc_0000, 1 << 32, Reserved),
        ])
    }

    #[test]
    fn disorder_and_overlap_are_put_right() {
        let messy = [
            region(0x8000, 0xa000, Usable),
            region(0, 0x4000, Usable),
            region(0x9000, 0x9000, Reserved),
            region(0x4000, 0x5000, Usable),
            region(0x3000, 0x3800, AcpiNvs),
            region(0x9000, 0xc000, Reserved),
        ];
        let expected = [
            region(0, 0x3000, Usable),
            region(0x3000, 0x3800, AcpiNvs),
            region(0x3800, 0x5000, Usable),
            region(0x8000, 0x9000, Usable),
            region(0x9000, 0xc000, Reserved),
        ];
        assert_eq!(map(&messy).regions(), expected);
        assert_eq!(map(&messy).end_of_ram(), 0x9000);
    }

    #[test]
    fn the_hypervisor_goes_to_the_top() {
        let plan = plan(&one_gib(), 15 * MIB, &[]).unwrap();
        assert_eq!(plan.hypervisor, PhysRange::new(0x3ee0_0000, 0x3fe0_0000));
        let expected = [
            region(0, 0x9_f000, Usable),
            region(0x9_f000, 0xa_0000, Reserved),
            region(0xe_8000, MIB, Reserved),
            region(MIB, 0x3ee0_0000, Usable),
            region(0x3ee0_0000, 0x3fe0_0000, Reserved),
            region(0x3fe0_0000, 0x3fff_0000, Usable),
            region(0x3fff_0000, 0x4000_0000, AcpiReclaimable),
            region(0xfffc_0000, 1 << 32, Reserved),
        ];
        assert_eq!(plan.guest.regions(), expected);
    }

    #[test]
    fn the_hypervisor_keeps_clear_of_modules_and_of_high_memory() {
        let map = map(&[
            region(MIB, 64 * MIB, Usable),
            region(1 << 32, 1 << 33, Usable),
        ]);
        let module = PhysRange::new(61 * MIB + 1, 61 * MIB + 513);
        let place = |avoid: &[PhysRange]| plan(&map, 4 * MIB, avoid).map(|p| p.hypervisor);
        assert_eq!(place(&[]), Ok(PhysRange::new(60 * MIB, 64 * MIB)));
        assert_eq!(place(&[module]), Ok(PhysRange::new(56 * MIB, 60 * MIB)));
        assert_eq!(
            place(&[
                PhysRange::new(3 * MIB, 5 * MIB),
                PhysRange::new(7 * MIB, 64 * MIB)
            ]),
            Err(MemoryError::NoRoom(4 * MIB))
        );
    }

    #[test]
    fn the_less_usable_kind_wins() {
        let order = [
            Usable,
            AcpiReclaimable,
            AcpiNvs,
            Unusable,
            Reserved,
            Other(7),
            Other(12),
        ];
        for (n, &weak) in order.iter().enumerate() {
            for &strong in &order[n..] {
                let (a, b) = (region(0, 2, weak), region(1, 3, strong));
                assert_eq!(map(&[a, b]).kind_at(1), Some(strong));
                assert_eq!(map(&[b, a]).kind_at(1), Some(strong));
            }
        }
    }

    #[test]
    fn errors_in_words() {
        use std::string::ToString;
        assert_eq!(
            MemoryError::NoRoom(15 * MIB + 1).to_string(),
            "no 16 MiB of RAM in one piece are free below 4 GiB"
        );
        assert_eq!(
            MemoryError::TooManyRegions.to_string(),
            "the memory map has more than 128 regions"
        );
    }

    #[test]
    fn too_many_regions_are_an_error() {
        let many = (0..200).map(|i| region(i * 0x2000, i * 0x2000 + 0x1000, Usable));
        assert_eq!(
            MemoryMap::from_firmware(many.clone()),
            Err(MemoryError::TooManyRegions)
        );
        let full = MemoryMap::from_firmware(many.take(MAX_REGIONS)).unwrap();
        let hole = PhysRange::new(0x1400, 0x1800);
        assert_eq!(full.reserve(hole), Err(MemoryError::TooManyRegions));
    }

    #[test]
    fn the_whole_address_space_can_be_described() {
        let all = map(&[region(0, u64::MAX, Other(12)), region(0, MIB, Usable)]);
        assert_eq!(all.regions(), [region(0, u64::MAX, Other(12))]);
        assert_eq!(
            plan(&all, u64::MAX, &[]),
            Err(MemoryError::NoRoom(u64::MAX))
        );
    }

    fn kinds() -> impl Strategy<Value = RegionKind> {
        (1..8u32).prop_map(RegionKind::from_number)
    }

    /// Regions on a small scale, so that they overlap and touch.
    fn regions() -> impl Strategy<Value = Vec<Region>> {
        let one = (0..64u64, 0..16u64, kinds());
        let one = one.prop_map(|(start, len, kind)| region(start * MIB, (start + len) * MIB, kind));
        proptest::collection::vec(one, 0..12)
    }

    fn is_sanitised(map: &MemoryMap) -> bool {
        map.regions().iter().all(|r| !r.range.is_empty())
            && map.regions().windows(2).all(|pair| {
                let (a, b) = (pair[0], pair[1]);
                a.range.end < b.range.start || (a.range.end == b.range.start && a.kind != b.kind)
            })
    }

    proptest! {
        #[test]
        fn a_map_says_of_each_byte_what_firmware_said(firmware in regions()) {
            let map = map(&firmware);
            prop_assert!(is_sanitised(&map), "{map:?}");
            for address in (0..96 * MIB).step_by(MIB as usize / 2) {
                let said = firmware.iter().filter(|r| r.range.contains(address));
                let worst = said.map(|r| r.kind).max_by_key(|kind| kind.precedence());
                prop_assert_eq!(map.kind_at(address), worst);
            }
        }

        #[test]
        fn a_plan_takes_usable_ram_and_changes_nothing_else(
            firmware in regions(),
            size in 1..20 * MIB,
            obstacles in proptest::collection::vec((0..80 * MIB, 1..6 * MIB), 0..4),
        ) {
            let map = map(&firmware);
            let avoid: Vec<_> = obstacles.iter().map(|&(s, l)| PhysRange::from_len(s, l)).collect();
            let fits = |start: u64| {
                let place = PhysRange::from_len(start, size.next_multiple_of(2 * MIB));
                avoid.iter().all(|a| !a.overlaps(place))
                    && map.regions().iter().any(|r| r.kind == Usable && r.range.covers(place))
            };
            let highest = (0..48).rev().map(|page| page * 2 * MIB).find(|&start| fits(start));
            match plan(&map, size, &avoid) {
                Err(error) => {
                    prop_assert_eq!(error, MemoryError::NoRoom(size));
                    prop_assert_eq!(highest, None);
                }
                Ok(plan) => {
                    prop_assert_eq!(Some(plan.hypervisor.start), highest);
                    prop_assert_eq!(plan.hypervisor.len(), size.next_multiple_of(2 * MIB));
                    prop_assert!(is_sanitised(&plan.guest));
                    for address in (0..96 * MIB).step_by(MIB as usize / 2) {
                        let expected = match plan.hypervisor.contains(address) {
                            true => Some(Reserved),
                            false => map.kind_at(address),
                        };
                        prop_assert_eq!(plan.guest.kind_at(address), expected);
                    }
                }
            }
        }
    }
}
