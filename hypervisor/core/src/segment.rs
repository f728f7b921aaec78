//! Segment registers: what may be reached through one.
//!
//! Instructions that the hypervisor carries out for the guest ([`crate::string_io`],
//! [`crate::task_switch`]) make the checks here that the processor would.

use vmcs_inspect::AccessRights;

/// A segment register as the VMCS holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Segment {
    /// The selector.
    pub selector: u16,
    /// The base.
    pub base: u64,
    /// The limit, in bytes.
    pub limit: u32,
    /// The access rights.
    pub rights: AccessRights,
}

/// The part of a selector that names a descriptor: without the RPL.
pub const SELECTOR_INDEX: u16 = !0b11;
/// TI: the descriptor is in the LDT.
pub const SELECTOR_LDT: u16 = 0b100;

impl Segment {
    /// A register that cannot be used, with this selector.
    pub const fn unusable(selector: u16) -> Self {
        Self {
            selector,
            base: 0,
            limit: 0,
            rights: AccessRights::UNUSABLE,
        }
    }

    /// A register as virtual-8086 mode loads it.
    pub const fn virtual_8086(selector: u16) -> Self {
        /// Present, DPL 3, read and write, accessed.
        const RIGHTS: u32 = 0xf3;
        Self {
            selector,
            base: (selector as u64) << 4,
            limit: 0xffff,
            rights: AccessRights::from_raw(RIGHTS),
        }
    }

    /// May data be read through it, in protected mode?
    pub const fn is_readable(&self) -> bool {
        let readable_code = self.rights.segment_type() & 0b10 != 0;
        self.is_memory() && (!self.rights.is_code() || readable_code)
    }

    /// May data be written through it, in protected mode?
    pub const fn is_writable(&self) -> bool {
        let writable_data = self.rights.segment_type() & 0b10 != 0;
        self.is_memory() && !self.rights.is_code() && writable_data
    }

    /// Do `len` bytes from `offset` on lie within the limit? `len` is at least 1.
    ///
    /// Source: Intel SDM, vol. 3, section 5.3, "Limit Checking".
    pub const fn holds(&self, offset: u32, len: u32) -> bool {
        let Some(last) = offset.checked_add(len - 1) else {
            return false;
        };
        if !self.expands_down() {
            return last <= self.limit;
        }
        let top = if self.rights.db() { u32::MAX } else { 0xffff };
        offset > self.limit && last <= top
    }

    const fn is_memory(&self) -> bool {
        !self.rights.unusable() && self.rights.s()
    }

    const fn expands_down(&self) -> bool {
        self.rights.s() && !self.rights.is_code() && self.rights.segment_type() & 0b100 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(rights: u32, limit: u32) -> Segment {
        Segment {
            limit,
            rights: AccessRights::from_raw(rights),
            ..Segment::default()
        }
    }

    #[test]
    fn rights() {
        for (rights, readable, writable) in [
            (0x91, true, false),
            (0x93, true, true),
            (0x97, true, true),
            (0x99, false, false),
            (0x9b, true, false),
            // A TSS, an LDT, and a null selector.
            (0x8b, false, false),
            (0x82, false, false),
            (0x1_0093, false, false),
        ] {
            let segment = segment(rights, 0);
            assert_eq!(
                (segment.is_readable(), segment.is_writable()),
                (readable, writable),
                "{rights:#x}"
            );
        }
    }

    #[test]
    fn limits() {
        let up = segment(0x93, 0xfff);
        assert!(up.holds(0xffc, 4) && !up.holds(0xffd, 4) && !up.holds(0x1000, 1));
        let all = segment(0xc093, u32::MAX);
        assert!(all.holds(u32::MAX, 1) && !all.holds(u32::MAX, 2));
        let down = segment(0x4097, 0xfff);
        assert!(!down.holds(0xfff, 1) && down.holds(0x1000, 4) && down.holds(u32::MAX, 1));
        let small_down = segment(0x97, 0xfff);
        assert!(small_down.holds(0xffff, 1) && !small_down.holds(0xffff, 2));
    }
}
