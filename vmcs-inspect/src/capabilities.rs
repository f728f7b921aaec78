//! What a processor's VMX can do, as its capability MSRs report it.
//!
//! The hypervisor reads the MSRs once at start and hands the values to the checks;
//! they also tell which bits of each control may be set.

use crate::{CpuidFacts, ExitControls, PrimaryControls, SecondaryControls};

/// The indices of the VMX capability MSRs.
///
/// Source: Intel SDM, vol. 3, appendix A, "VMX Capability Reporting Facility".
pub mod msr {
    /// IA32_VMX_BASIC.
    pub const IA32_VMX_BASIC: u32 = 0x480;
    /// IA32_VMX_PINBASED_CTLS.
    pub const IA32_VMX_PINBASED_CTLS: u32 = 0x481;
    /// IA32_VMX_PROCBASED_CTLS.
    pub const IA32_VMX_PROCBASED_CTLS: u32 = 0x482;
    /// IA32_VMX_EXIT_CTLS.
    pub const IA32_VMX_EXIT_CTLS: u32 = 0x483;
    /// IA32_VMX_ENTRY_CTLS.
    pub const IA32_VMX_ENTRY_CTLS: u32 = 0x484;
    /// IA32_VMX_MISC.
    pub const IA32_VMX_MISC: u32 = 0x485;
    /// IA32_VMX_CR0_FIXED0.
    pub const IA32_VMX_CR0_FIXED0: u32 = 0x486;
    /// IA32_VMX_CR0_FIXED1.
    pub const IA32_VMX_CR0_FIXED1: u32 = 0x487;
    /// IA32_VMX_CR4_FIXED0.
    pub const IA32_VMX_CR4_FIXED0: u32 = 0x488;
    /// IA32_VMX_CR4_FIXED1.
    pub const IA32_VMX_CR4_FIXED1: u32 = 0x489;
    /// IA32_VMX_PROCBASED_CTLS2.
    pub const IA32_VMX_PROCBASED_CTLS2: u32 = 0x48b;
    /// IA32_VMX_EPT_VPID_CAP.
    pub const IA32_VMX_EPT_VPID_CAP: u32 = 0x48c;
    /// IA32_VMX_TRUE_PINBASED_CTLS.
    pub const IA32_VMX_TRUE_PINBASED_CTLS: u32 = 0x48d;
    /// IA32_VMX_TRUE_PROCBASED_CTLS.
    pub const IA32_VMX_TRUE_PROCBASED_CTLS: u32 = 0x48e;
    /// IA32_VMX_TRUE_EXIT_CTLS.
    pub const IA32_VMX_TRUE_EXIT_CTLS: u32 = 0x48f;
    /// IA32_VMX_TRUE_ENTRY_CTLS.
    pub const IA32_VMX_TRUE_ENTRY_CTLS: u32 = 0x490;
    /// IA32_VMX_VMFUNC.
    pub const IA32_VMX_VMFUNC: u32 = 0x491;
    /// IA32_VMX_PROCBASED_CTLS3.
    pub const IA32_VMX_PROCBASED_CTLS3: u32 = 0x492;
    /// IA32_VMX_EXIT_CTLS2.
    pub const IA32_VMX_EXIT_CTLS2: u32 = 0x493;
}

/// Which bits of a 32-bit control must be 1, and which may be.
///
/// Source: Intel SDM, vol. 3, appendix A.3.1, "Pin-Based VM-Execution Controls", and those
/// that follow it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AllowedSettings {
    /// The allowed 0-settings: a bit that is 1 here must be 1 in the control.
    pub allowed0: u32,
    /// The allowed 1-settings: a bit that is 0 here must be 0 in the control.
    pub allowed1: u32,
}

impl AllowedSettings {
    /// As a capability MSR reports them: allowed 0-settings in bits 31:0,
    /// allowed 1-settings in bits 63:32.
    pub const fn from_msr(value: u64) -> AllowedSettings {
        AllowedSettings {
            allowed0: value as u32,
            allowed1: (value >> 32) as u32,
        }
    }

    /// `wanted` with the bits that must be 1 set and those that must be 0 cleared.
    pub const fn adjust(self, wanted: u32) -> u32 {
        (wanted | self.allowed0) & self.allowed1
    }

    /// The bits that must be 1 and are 0 in `value`.
    pub const fn missing(self, value: u32) -> u32 {
        self.allowed0 & !value
    }

    /// The bits that must be 0 and are 1 in `value`.
    pub const fn excess(self, value: u32) -> u32 {
        value & !self.allowed1
    }

    /// The bits of `value` that are not allowed as they are.
    pub const fn wrong(self, value: u32) -> u32 {
        self.missing(value) | self.excess(value)
    }
}

/// The values of the VMX capability MSRs, and the facts of CPUID that the VM-entry
/// checks depend on.
///
/// MSRs that the processor does not have are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// IA32_VMX_BASIC.
    pub basic: u64,
    /// IA32_VMX_PINBASED_CTLS, or the TRUE MSR where there is one.
    pub pinbased_ctls: u64,
    /// IA32_VMX_PROCBASED_CTLS, or the TRUE MSR where there is one.
    pub procbased_ctls: u64,
    /// IA32_VMX_EXIT_CTLS, or the TRUE MSR where there is one.
    pub exit_ctls: u64,
    /// IA32_VMX_ENTRY_CTLS, or the TRUE MSR where there is one.
    pub entry_ctls: u64,
    /// IA32_VMX_MISC.
    pub misc: u64,
    /// IA32_VMX_CR0_FIXED0: bits that must be 1 in CR0.
    pub cr0_fixed0: u64,
    /// IA32_VMX_CR0_FIXED1: bits that may be 1 in CR0.
    pub cr0_fixed1: u64,
    /// IA32_VMX_CR4_FIXED0: bits that must be 1 in CR4.
    pub cr4_fixed0: u64,
    /// IA32_VMX_CR4_FIXED1: bits that may be 1 in CR4.
    pub cr4_fixed1: u64,
    /// IA32_VMX_PROCBASED_CTLS2.
    pub procbased_ctls2: u64,
    /// IA32_VMX_PROCBASED_CTLS3.
    pub procbased_ctls3: u64,
    /// IA32_VMX_EXIT_CTLS2.
    pub exit_ctls2: u64,
    /// IA32_VMX_EPT_VPID_CAP.
    pub ept_vpid_cap: u64,
    /// IA32_VMX_VMFUNC.
    pub vmfunc: u64,
    /// What CPUID says.
    pub cpuid: CpuidFacts,
}

impl Capabilities {
    /// Reads every capability MSR that the processor has.
    ///
    /// `read` is asked only for MSRs whose presence an earlier one has told, so a
    /// plain RDMSR does.
    pub fn read_msrs(cpuid: CpuidFacts, mut read: impl FnMut(u32) -> u64) -> Capabilities {
        let basic = read(msr::IA32_VMX_BASIC);
        let true_ctls = basic & (1 << 55) != 0;
        let mut either = |plain, true_msr| read(if true_ctls { true_msr } else { plain });
        let mut caps = Capabilities {
            basic,
            pinbased_ctls: either(
                msr::IA32_VMX_PINBASED_CTLS,
                msr::IA32_VMX_TRUE_PINBASED_CTLS,
            ),
            procbased_ctls: either(
                msr::IA32_VMX_PROCBASED_CTLS,
                msr::IA32_VMX_TRUE_PROCBASED_CTLS,
            ),
            exit_ctls: either(msr::IA32_VMX_EXIT_CTLS, msr::IA32_VMX_TRUE_EXIT_CTLS),
            entry_ctls: either(msr::IA32_VMX_ENTRY_CTLS, msr::IA32_VMX_TRUE_ENTRY_CTLS),
            misc: read(msr::IA32_VMX_MISC),
            cr0_fixed0: read(msr::IA32_VMX_CR0_FIXED0),
            cr0_fixed1: read(msr::IA32_VMX_CR0_FIXED1),
            cr4_fixed0: read(msr::IA32_VMX_CR4_FIXED0),
            cr4_fixed1: read(msr::IA32_VMX_CR4_FIXED1),
            cpuid,
            ..Capabilities::default()
        };
        let primary = PrimaryControls::from_bits_retain(caps.primary().allowed1);
        if primary.contains(PrimaryControls::ACTIVATE_SECONDARY_CONTROLS) {
            caps.procbased_ctls2 = read(msr::IA32_VMX_PROCBASED_CTLS2);
        }
        if primary.contains(PrimaryControls::ACTIVATE_TERTIARY_CONTROLS) {
            caps.procbased_ctls3 = read(msr::IA32_VMX_PROCBASED_CTLS3);
        }
        let secondary = SecondaryControls::from_bits_retain(caps.secondary().allowed1);
        if secondary.intersects(SecondaryControls::ENABLE_EPT | SecondaryControls::ENABLE_VPID) {
            caps.ept_vpid_cap = read(msr::IA32_VMX_EPT_VPID_CAP);
        }
        if secondary.contains(SecondaryControls::ENABLE_VM_FUNCTIONS) {
            caps.vmfunc = read(msr::IA32_VMX_VMFUNC);
        }
        if ExitControls::from_bits_retain(caps.exit().allowed1)
            .contains(ExitControls::ACTIVATE_SECONDARY_CONTROLS)
        {
            caps.exit_ctls2 = read(msr::IA32_VMX_EXIT_CTLS2);
        }
        caps
    }

    /// The settings allowed for the pin-based VM-execution controls.
    pub const fn pin_based(&self) -> AllowedSettings {
        AllowedSettings::from_msr(self.pinbased_ctls)
    }

    /// The settings allowed for the primary processor-based VM-execution controls.
    pub const fn primary(&self) -> AllowedSettings {
        AllowedSettings::from_msr(self.procbased_ctls)
    }

    /// The settings allowed for the secondary processor-based VM-execution controls.
    pub const fn secondary(&self) -> AllowedSettings {
        AllowedSettings::from_msr(self.procbased_ctls2)
    }

    /// The settings allowed for the primary VM-exit controls.
    pub const fn exit(&self) -> AllowedSettings {
        AllowedSettings::from_msr(self.exit_ctls)
    }

    /// The settings allowed for the VM-entry controls.
    pub const fn entry(&self) -> AllowedSettings {
        AllowedSettings::from_msr(self.entry_ctls)
    }

    /// The VMCS revision identifier: IA32_VMX_BASIC\[30:0\].
    pub const fn vmcs_revision(&self) -> u32 {
        (self.basic & 0x7fff_ffff) as u32
    }

    /// The bits that no physical address in a VMCS field sets.
    ///
    /// IA32_VMX_BASIC\[48\] limits the addresses of the VMCS's structures to 32 bits;
    /// Intel 64 processors always report 0 there.
    pub const fn beyond_physical_width(&self) -> u64 {
        let width = if self.basic & (1 << 48) != 0 {
            32
        } else {
            self.cpuid.physical_address_width
        };
        beyond(width)
    }

    /// Whether `address` is canonical at the largest linear-address width that the
    /// processor supports: that is what the checks on bases and MSRs go by.
    pub const fn is_canonical(&self, address: u64) -> bool {
        let width = self.cpuid.linear_address_width;
        if width == 0 || width >= 64 {
            return true;
        }
        let shift = 64 - width as u32;
        ((address << shift) as i64 >> shift) as u64 == address
    }

    /// The number of CR3-target values: IA32_VMX_MISC\[24:16\].
    pub const fn cr3_target_values(&self) -> u32 {
        (self.misc >> 16) as u32 & 0x1ff
    }

    /// Whether the activity state with this number can be entered:
    /// IA32_VMX_MISC\[8:6\]; "active" always can.
    pub const fn supports_activity_state(&self, state: u32) -> bool {
        match state {
            0 => true,
            1..=3 => self.misc & (1 << (5 + state)) != 0,
            _ => false,
        }
    }

    /// Whether VMWRITE can write every supported field: IA32_VMX_MISC\[29\].
    pub const fn writes_read_only_fields(&self) -> bool {
        self.misc & (1 << 29) != 0
    }

    /// Whether software events can be injected with instruction length 0:
    /// IA32_VMX_MISC\[30\].
    pub const fn injects_length_zero(&self) -> bool {
        self.misc & (1 << 30) != 0
    }

    /// Whether a hardware exception may be injected with or without an error code,
    /// whatever its vector: IA32_VMX_BASIC\[56\].
    pub const fn any_vector_error_code(&self) -> bool {
        self.basic & (1 << 56) != 0
    }

    /// Whether bit 13 of the VM-entry interruption information may mark a nested
    /// exception: IA32_VMX_BASIC\[58\].
    pub const fn nested_exceptions(&self) -> bool {
        self.basic & (1 << 58) != 0
    }
}

/// The bits above the lowest `width` ones.
pub(crate) const fn beyond(width: u8) -> u64 {
    if width >= 64 { 0 } else { !((1 << width) - 1) }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec::Vec;

    use super::*;

    #[test]
    fn only_the_msrs_that_exist_are_read() {
        let plain = |index| match index {
            msr::IA32_VMX_BASIC => 0,
            0x481..=0x489 => u64::from(index),
            other => panic!("MSR {other:#x} does not exist"),
        };
        let caps = Capabilities::read_msrs(CpuidFacts::default(), plain);
        assert_eq!(caps.pinbased_ctls, 0x481);
        assert_eq!(caps.cr4_fixed1, 0x489);

        let mut asked = Vec::new();
        let all = |index| {
            asked.push(index);
            u64::MAX
        };
        let caps = Capabilities::read_msrs(CpuidFacts::default(), all);
        assert_eq!(caps.exit_ctls2, u64::MAX);
        asked.sort_unstable();
        assert_eq!(
            asked,
            [
                0x480, 0x485, 0x486, 0x487, 0x488, 0x489, 0x48b, 0x48c, 0x48d, 0x48e, 0x48f, 0x490,
                0x491, 0x492, 0x493
            ]
        );
    }

    #[test]
    fn adjusting_leaves_nothing_missing_and_nothing_in_excess() {
        let allowed = AllowedSettings::from_msr(0x0000_00ff_0000_0016);
        assert_eq!(allowed.adjust(0x8000_0028), 0x3e);
        assert_eq!(allowed.missing(0x28), 0x16);
        assert_eq!(allowed.excess(0x8000_0028), 0x8000_0000);
        assert_eq!(allowed.missing(allowed.adjust(0)), 0);
        assert_eq!(allowed.excess(allowed.adjust(u32::MAX)), 0);
    }

    #[test]
    fn canonical_goes_by_the_largest_width() {
        let mut caps = Capabilities::default();
        let edge48 = 0x0000_8000_0000_0000;
        assert!(caps.is_canonical(edge48 - 1));
        assert!(!caps.is_canonical(edge48));
        assert!(caps.is_canonical(0xffff_8000_0000_0000));
        caps.cpuid.linear_address_width = 57;
        assert!(caps.is_canonical(edge48));
        assert!(!caps.is_canonical(0x0100_0000_0000_0000));
    }

    #[test]
    fn activity_states_follow_ia32_vmx_misc() {
        let caps = Capabilities {
            misc: 1 << 6 | 1 << 8,
            ..Capabilities::default()
        };
        let supported: Vec<bool> = (0..6).map(|s| caps.supports_activity_state(s)).collect();
        assert_eq!(supported, [true, true, false, true, false, false]);
    }
}
