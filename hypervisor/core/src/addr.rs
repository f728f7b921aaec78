//! Addresses, each kind a type of its own, and the sizes of pages.
//!
//! Everything in the hypervisor that holds an address uses these, so that a
//! guest-physical address is never handed to what wants a host-physical one.

use core::fmt;

/// Bytes of the smallest page.
pub const PAGE_SIZE: u64 = 0x1000;

macro_rules! address {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
        #[repr(transparent)]
        pub struct $name(u64);

        impl $name {
            /// The address with this value.
            pub const fn new(value: u64) -> Self {
                Self(value)
            }

            /// The value, as registers and VMCS fields hold it.
            pub const fn as_u64(self) -> u64 {
                self.0
            }

            /// The start of the 4 KiB page that the address lies in.
            pub const fn page(self) -> Self {
                Self(self.0 & !(PAGE_SIZE - 1))
            }

            /// The distance from the start of the 4 KiB page, in bytes.
            pub const fn page_offset(self) -> u64 {
                self.0 & (PAGE_SIZE - 1)
            }

            /// The address so many bytes on; `None` past the last one.
            pub const fn checked_add(self, bytes: u64) -> Option<Self> {
                match self.0.checked_add(bytes) {
                    Some(value) => Some(Self(value)),
                    None => None,
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({:#x})"), self.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }

        impl fmt::LowerHex for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::LowerHex::fmt(&self.0, f)
            }
        }
    };
}

address! {
    /// A guest-physical address: what the guest's page tables give, and what
    /// EPT translates.
    Gpa
}
address! {
    /// A guest-virtual address. After segmentation: the SDM's linear address.
    Gva
}
address! {
    /// A host-physical address: what goes out on the bus.
    Hpa
}

/// The sizes that a page can have, in the guest's paging and in EPT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum PageSize {
    /// 4 KiB.
    Size4K,
    /// 2 MiB: PAE, 4-level and 5-level paging, and EPT.
    Size2M,
    /// 4 MiB: 32-bit paging with page-size extensions.
    Size4M,
    /// 1 GiB.
    Size1G,
}

impl PageSize {
    /// How many bytes such a page holds.
    pub const fn bytes(self) -> u64 {
        match self {
            Self::Size4K => 1 << 12,
            Self::Size2M => 1 << 21,
            Self::Size4M => 1 << 22,
            Self::Size1G => 1 << 30,
        }
    }
}

/// Physical addresses from `start` up to but without `end`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PhysRange {
    /// First address.
    pub start: u64,
    /// First address after it; at least `start`.
    pub end: u64,
}

impl PhysRange {
    /// The range from `start` up to but without `end`; empty when `end` is
    /// below `start`.
    pub const fn new(start: u64, end: u64) -> Self {
        Self {
            start,
            end: if end < start { start } else { end },
        }
    }

    /// The range of `len` bytes from `start`, cut off at the end of the
    /// address space.
    pub const fn from_len(start: u64, len: u64) -> Self {
        Self {
            start,
            end: start.saturating_add(len),
        }
    }

    /// How many bytes it holds.
    pub const fn len(self) -> u64 {
        self.end - self.start
    }

    /// Does it hold nothing?
    pub const fn is_empty(self) -> bool {
        self.end == self.start
    }

    /// Is this address in it?
    pub const fn contains(self, address: u64) -> bool {
        self.start <= address && address < self.end
    }

    /// Is every address of `other` in it? True for an empty `other`.
    pub const fn covers(self, other: Self) -> bool {
        other.is_empty() || (self.start <= other.start && other.end <= self.end)
    }

    /// Have the two an address in common?
    pub const fn overlaps(self, other: Self) -> bool {
        !self.is_empty() && !other.is_empty() && self.start < other.end && other.start < self.end
    }
}

impl fmt::Debug for PhysRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:#x}, {:#x})", self.start, self.end)
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::format;

    #[test]
    fn pages_and_offsets() {
        let a = Gpa::new(0x1234_5678);
        assert_eq!(a.page(), Gpa::new(0x1234_5000));
        assert_eq!(a.page_offset(), 0x678);
        assert_eq!(Gpa::new(u64::MAX).checked_add(1), None);
    }

    #[test]
    fn debug_names_the_kind() {
        assert_eq!(
            format!("{:?} {:#x}", Hpa::new(0xfee0_0000), Gva::new(16)),
            "Hpa(0xfee00000) 0x10"
        );
    }

    #[test]
    fn ranges() {
        let r = PhysRange::new(10, 20);
        assert!(r.contains(10) && r.contains(19) && !r.contains(20));
        assert!(r.overlaps(PhysRange::new(19, 30)) && !r.overlaps(PhysRange::new(20, 30)));
        assert!(!r.overlaps(PhysRange::new(15, 15)));
        assert!(r.covers(PhysRange::new(10, 20)) && !r.covers(PhysRange::new(9, 20)));
        assert!(PhysRange::new(5, 3).is_empty());
        assert_eq!(PhysRange::from_len(u64::MAX - 1, 5).len(), 1);
    }
}
