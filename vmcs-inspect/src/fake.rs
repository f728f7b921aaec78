//! A VMCS in memory, and a well-formed one to start tests from.
//!
//! Compiled for this crate's tests and, with the feature `fake`, for those of others.

use crate::{
    AccessRights, Capabilities, CpuidFacts, Field, VmInstructionError, VmcsAccess, VmcsError,
};
use crate::{EntryControls, ExitControls, PinBasedControls, PrimaryControls, SecondaryControls};

/// A VMCS that lives in memory.
#[derive(Clone, Debug)]
pub struct FakeVmcs {
    values: [Option<u64>; Field::COUNT],
    failure: Option<VmcsError>,
}

impl FakeVmcs {
    /// A VMCS with every field, all of them 0.
    pub fn zeroed() -> FakeVmcs {
        FakeVmcs {
            values: [Some(0); Field::COUNT],
            failure: None,
        }
    }

    /// A VMCS that passes every check on a processor with [`capabilities`]: a
    /// 64-bit host and a guest in 64-bit mode at CPL 0, with EPT, VPID, unrestricted guest,
    /// NMI exiting and virtual NMIs.
    pub fn well_formed() -> FakeVmcs {
        let caps = capabilities();
        let mut vmcs = FakeVmcs::zeroed();
        let fields = [
            (
                Field::PIN_BASED_CONTROLS,
                caps.pin_based().adjust(
                    (PinBasedControls::NMI_EXITING | PinBasedControls::VIRTUAL_NMIS).bits(),
                ),
            ),
            (
                Field::PRIMARY_PROCESSOR_BASED_CONTROLS,
                caps.primary().adjust(
                    (PrimaryControls::ACTIVATE_SECONDARY_CONTROLS
                        | PrimaryControls::USE_MSR_BITMAPS
                        | PrimaryControls::USE_IO_BITMAPS)
                        .bits(),
                ),
            ),
            (
                Field::SECONDARY_PROCESSOR_BASED_CONTROLS,
                caps.secondary().adjust(
                    (SecondaryControls::ENABLE_EPT
                        | SecondaryControls::ENABLE_VPID
                        | SecondaryControls::UNRESTRICTED_GUEST)
                        .bits(),
                ),
            ),
            (
                Field::VM_EXIT_CONTROLS,
                caps.exit().adjust(
                    (ExitControls::HOST_ADDRESS_SPACE_SIZE
                        | ExitControls::SAVE_IA32_EFER
                        | ExitControls::LOAD_IA32_EFER
                        | ExitControls::SAVE_IA32_PAT
                        | ExitControls::LOAD_IA32_PAT
                        | ExitControls::SAVE_DEBUG_CONTROLS)
                        .bits(),
                ),
            ),
            (
                Field::VM_ENTRY_CONTROLS,
                caps.entry().adjust(
                    (EntryControls::IA_32E_MODE_GUEST
                        | EntryControls::LOAD_IA32_EFER
                        | EntryControls::LOAD_IA32_PAT
                        | EntryControls::LOAD_DEBUG_CONTROLS)
                        .bits(),
                ),
            ),
        ];
        for (field, value) in fields {
            vmcs.set(field, u64::from(value));
        }
        for (field, value) in WELL_FORMED {
            vmcs.set(*field, *value);
        }
        vmcs
    }

    /// Sets a field, whatever VMWRITE would say.
    pub fn set(&mut self, field: Field, value: u64) {
        self.values[field.index()] = Some(value);
    }

    /// Makes the processor one that does not have the field.
    pub fn remove(&mut self, field: Field) {
        self.values[field.index()] = None;
    }

    /// Makes each access from now on fail with this error; `None` ends that.
    pub fn fail_with(&mut self, failure: Option<VmcsError>) {
        self.failure = failure;
    }

    fn slot(&mut self, field: Field) -> Result<&mut u64, VmcsError> {
        if let Some(error) = self.failure {
            return Err(error);
        }
        self.values[field.index()]
            .as_mut()
            .ok_or(VmcsError::Unsupported(field))
    }

    /// A failed VMWRITE leaves its number in the VMCS, as on a processor.
    fn note_error(&mut self, error: VmInstructionError) {
        if let Some(number) = &mut self.values[Field::VM_INSTRUCTION_ERROR.index()] {
            *number = u64::from(error.raw());
        }
    }
}

impl VmcsAccess for FakeVmcs {
    fn read(&mut self, field: Field) -> Result<u64, VmcsError> {
        self.slot(field).copied()
    }

    fn write(&mut self, field: Field, value: u64) -> Result<(), VmcsError> {
        self.slot(field)?;
        if field.is_read_only() {
            self.note_error(VmInstructionError::ReadOnlyComponent);
            return Err(VmcsError::ReadOnly(field));
        }
        if value > field.width().max_value() {
            return Err(VmcsError::TooWide(field));
        }
        self.set(field, value);
        Ok(())
    }
}

/// A processor with every control of the SDM, 40 bits of physical address and
/// 48 of linear address.
pub fn capabilities() -> Capabilities {
    const fn controls(allowed0: u32, allowed1: u32) -> u64 {
        (allowed1 as u64) << 32 | allowed0 as u64
    }
    Capabilities {
        // TRUE MSRs, write-back, a 4-KiB region, revision 1.
        basic: 1 << 55 | 6 << 50 | 0x1000 << 32 | 1,
        pinbased_ctls: controls(PinBasedControls::RESERVED_DEFAULT1, 0xff),
        procbased_ctls: controls(PrimaryControls::RESERVED_DEFAULT1, 0xffff_fffe),
        exit_ctls: controls(ExitControls::RESERVED_DEFAULT1, 0xffff_ffff),
        entry_ctls: controls(EntryControls::RESERVED_DEFAULT1, 0x01ff_ffff),
        // HLT, shutdown, wait-for-SIPI; four CR3-target values.
        misc: 7 << 6 | 4 << 16,
        cr0_fixed0: 0x8000_0021,
        cr0_fixed1: 0xffff_ffff,
        cr4_fixed0: 0x2000,
        cr4_fixed1: 0x01ff_ffff,
        procbased_ctls2: controls(0, 0xdfff_ffff),
        procbased_ctls3: 0x1df,
        exit_ctls2: 0xf,
        // Execute-only, 4 levels, UC and WB, large pages, INVEPT, A/D, INVVPID.
        ept_vpid_cap: 0x0f01_0633_4141,
        vmfunc: 1,
        cpuid: CpuidFacts {
            physical_address_width: 40,
            linear_address_width: 48,
            efer_supported: 0xd01,
            perf_global_ctrl_supported: 0x7_0000_000f,
            sgx: false,
            rtm: false,
            bus_lock_detect: false,
            lam: false,
        },
    }
}

const CODE64: u64 = 0xa09b;
const DATA: u64 = 0xc093;
const BUSY_TSS: u64 = 0x008b;
const UNUSABLE: u64 = AccessRights::UNUSABLE.raw() as u64;

const WELL_FORMED: &[(Field, u64)] = &[
    (Field::VPID, 1),
    (Field::IO_BITMAP_A, 0x1000),
    (Field::IO_BITMAP_B, 0x2000),
    (Field::MSR_BITMAPS, 0x3000),
    // Write-back, four levels.
    (Field::EPT_POINTER, 0x4000 | 3 << 3 | 6),
    (Field::VMCS_LINK_POINTER, u64::MAX),
    (Field::TSC_MULTIPLIER, 1 << 48),
    // The host.
    (Field::HOST_CR0, 0x8001_0033),
    (Field::HOST_CR3, 0x10_0000),
    (Field::HOST_CR4, 0x2620),
    (Field::HOST_CS_SELECTOR, 0x08),
    (Field::HOST_TR_SELECTOR, 0x18),
    (Field::HOST_IA32_PAT, 0x0007_0406_0007_0406),
    (Field::HOST_IA32_EFER, 0xd00),
    (Field::HOST_RSP, 0xffff_8000_0010_0000),
    (Field::HOST_RIP, 0xffff_8000_0000_1000),
    (Field::HOST_GDTR_BASE, 0xffff_8000_0000_2000),
    (Field::HOST_IDTR_BASE, 0xffff_8000_0000_3000),
    (Field::HOST_TR_BASE, 0xffff_8000_0000_4000),
    // The guest.
    (Field::GUEST_CR0, 0x8005_0033),
    (Field::GUEST_CR3, 0x20_0000),
    (Field::GUEST_CR4, 0x2620),
    (Field::GUEST_DR7, 0x400),
    (Field::GUEST_RIP, 0xffff_ffff_8100_0000),
    (Field::GUEST_RSP, 0xffff_c900_0000_0000),
    (Field::GUEST_RFLAGS, 0x202),
    (Field::GUEST_IA32_PAT, 0x0007_0406_0007_0406),
    (Field::GUEST_IA32_EFER, 0xd01),
    (Field::GUEST_CS_SELECTOR, 0x10),
    (Field::GUEST_CS_LIMIT, 0xffff_ffff),
    (Field::GUEST_CS_ACCESS_RIGHTS, CODE64),
    (Field::GUEST_SS_SELECTOR, 0x18),
    (Field::GUEST_SS_LIMIT, 0xffff_ffff),
    (Field::GUEST_SS_ACCESS_RIGHTS, DATA),
    (Field::GUEST_DS_SELECTOR, 0x18),
    (Field::GUEST_DS_LIMIT, 0xffff_ffff),
    (Field::GUEST_DS_ACCESS_RIGHTS, DATA),
    (Field::GUEST_ES_LIMIT, 0xffff_ffff),
    (Field::GUEST_ES_ACCESS_RIGHTS, DATA),
    (Field::GUEST_FS_ACCESS_RIGHTS, UNUSABLE),
    (Field::GUEST_GS_ACCESS_RIGHTS, UNUSABLE),
    (Field::GUEST_LDTR_ACCESS_RIGHTS, UNUSABLE),
    (Field::GUEST_TR_SELECTOR, 0x40),
    (Field::GUEST_TR_LIMIT, 0x206f),
    (Field::GUEST_TR_BASE, 0xffff_fe00_0000_3000),
    (Field::GUEST_TR_ACCESS_RIGHTS, BUSY_TSS),
    (Field::GUEST_GDTR_BASE, 0xffff_fe00_0000_1000),
    (Field::GUEST_GDTR_LIMIT, 0x7f),
    (Field::GUEST_IDTR_BASE, 0xffff_fe00_0000_0000),
    (Field::GUEST_IDTR_LIMIT, 0xfff),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fake_refuses_what_a_processor_refuses() {
        let mut vmcs = FakeVmcs::zeroed();
        vmcs.remove(Field::VPID);
        assert_eq!(
            vmcs.write(Field::VPID, 1),
            Err(VmcsError::Unsupported(Field::VPID))
        );
        assert_eq!(
            vmcs.write(Field::EXIT_REASON, 1),
            Err(VmcsError::ReadOnly(Field::EXIT_REASON))
        );
        assert_eq!(
            vmcs.write(Field::GUEST_CS_SELECTOR, 0x1_0000),
            Err(VmcsError::TooWide(Field::GUEST_CS_SELECTOR))
        );
        assert_eq!(vmcs.read(Field::VM_INSTRUCTION_ERROR), Ok(13));
        assert_eq!(vmcs.write(Field::GUEST_RIP, u64::MAX), Ok(()));
        assert_eq!(vmcs.read(Field::GUEST_RIP), Ok(u64::MAX));
        vmcs.fail_with(Some(VmcsError::Unavailable));
        assert_eq!(vmcs.read(Field::GUEST_RIP), Err(VmcsError::Unavailable));
    }
}
