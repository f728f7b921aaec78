//! The memory map, and the plan for who gets which memory.

use crate::addr::PhysRange;
use heapless::Vec;

/// How many regions a map can hold.
pub const MAX_REGIONS: usize = 128;

/// What a region of the physical address space is, as ACPI numbers it.
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
    pub const fn from_number(_number: u32) -> Self {
        todo!()
    }

    /// The number of the kind.
    pub const fn number(self) -> u32 {
        todo!()
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
/// one kind adjacent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MemoryMap {
    regions: Vec<Region, MAX_REGIONS>,
}

/// Why there is no map or no plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemoryError {
    /// The map would have more than [`MAX_REGIONS`] regions.
    TooManyRegions,
    /// No usable RAM below 4 GiB has room for the hypervisor.
    NoRoom,
}

impl MemoryMap {
    /// A map from the regions that firmware reports, which may be out of
    /// order and may overlap; where they do, the less usable kind wins.
    pub fn from_firmware(
        _regions: impl Iterator<Item = Region> + Clone,
    ) -> Result<Self, MemoryError> {
        todo!()
    }

    /// The regions, ascending.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// The kind of the region that holds this address.
    pub fn kind_at(&self, _address: u64) -> Option<RegionKind> {
        todo!()
    }

    /// First address after the last usable RAM.
    pub fn end_of_ram(&self) -> u64 {
        todo!()
    }

    /// The same map with this range reserved.
    pub fn reserve(&self, _range: PhysRange) -> Result<Self, MemoryError> {
        todo!()
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

/// Puts the hypervisor, `size` bytes, at the top of usable RAM below 4 GiB,
/// clear of each range of `avoid` (the boot loader's modules and the image
/// as loaded). `size` is rounded up to whole 2 MiB pages.
pub fn plan(_map: &MemoryMap, _size: u64, _avoid: &[PhysRange]) -> Result<MemoryPlan, MemoryError> {
    todo!()
}
