//! Checks on the VM-execution control fields: Intel SDM, vol. 3, section 27.2.1.1.

use super::{Checker, Rule};
use crate::{
    EntryControls, ExitControls, Field, PinBasedControls, PrimaryControls, SecondaryControls,
    TertiaryControls, VmcsError,
};

pub(super) fn check(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    allowed_settings(c);
    c.require_cr3_target_count()?;
    bitmaps(c)?;
    nmis(c);
    apic(c)?;
    posted_interrupts(c)?;
    ept(c)?;
    other_features(c)
}

fn allowed_settings(c: &mut Checker<'_>) {
    let pin_based = c.pin_based.bits();
    c.require_no_bits(
        c.caps.pin_based().wrong(pin_based),
        Rule::PinBasedAllowed,
        Field::PIN_BASED_CONTROLS,
        pin_based,
    );
    let primary = c.primary.bits();
    c.require_no_bits(
        c.caps.primary().wrong(primary),
        Rule::PrimaryAllowed,
        Field::PRIMARY_PROCESSOR_BASED_CONTROLS,
        primary,
    );
    // Controls that are not activated count as 0, which is always allowed.
    let secondary = c.secondary.bits();
    c.require_no_bits(
        c.caps.secondary().excess(secondary),
        Rule::SecondaryAllowed,
        Field::SECONDARY_PROCESSOR_BASED_CONTROLS,
        secondary,
    );
    let tertiary = c.tertiary.bits();
    c.require_no_bits(
        tertiary & !c.caps.procbased_ctls3,
        Rule::TertiaryAllowed,
        Field::TERTIARY_PROCESSOR_BASED_CONTROLS,
        tertiary,
    );
}

impl Checker<'_> {
    fn require_cr3_target_count(&mut self) -> Result<(), VmcsError> {
        let most = u64::from(self.caps.cr3_target_values());
        self.require_field(Field::CR3_TARGET_COUNT, Rule::Cr3TargetCount, |n| n <= most)
    }

    /// Requires that the physical address in `field` has `low_bits` bits 0 and fits
    /// the physical-address width.
    fn require_address(&mut self, field: Field, low_bits: u32) -> Result<(), VmcsError> {
        let address = self.get(field)?;
        let low = (1 << low_bits) - 1;
        self.require(
            address & low == 0,
            Rule::ControlAddressAligned,
            field,
            address,
        );
        let fits = address & self.caps.beyond_physical_width() == 0;
        self.require(fits, Rule::ControlAddressWidth, field, address);
        Ok(())
    }

    fn require_page(&mut self, field: Field) -> Result<(), VmcsError> {
        self.require_address(field, 12)
    }

    /// Requires EPT wherever one of `controls` is set.
    fn require_ept_for(&mut self, controls: SecondaryControls) {
        let secondary = self.secondary;
        self.require(
            !secondary.intersects(controls) || secondary.contains(SecondaryControls::ENABLE_EPT),
            Rule::NeedsEpt,
            Field::SECONDARY_PROCESSOR_BASED_CONTROLS,
            secondary.bits(),
        );
    }
}

fn bitmaps(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    if c.primary.contains(PrimaryControls::USE_IO_BITMAPS) {
        c.require_page(Field::IO_BITMAP_A)?;
        c.require_page(Field::IO_BITMAP_B)?;
    }
    if c.primary.contains(PrimaryControls::USE_MSR_BITMAPS) {
        c.require_page(Field::MSR_BITMAPS)?;
    }
    if c.secondary.contains(SecondaryControls::VMCS_SHADOWING) {
        c.require_page(Field::VMREAD_BITMAP_ADDRESS)?;
        c.require_page(Field::VMWRITE_BITMAP_ADDRESS)?;
    }
    if c.secondary.contains(SecondaryControls::EPT_VIOLATION_VE) {
        c.require_page(Field::VIRTUALIZATION_EXCEPTION_INFORMATION_ADDRESS)?;
    }
    if c.secondary.contains(SecondaryControls::PASID_TRANSLATION) {
        c.require_page(Field::LOW_PASID_DIRECTORY_ADDRESS)?;
        c.require_page(Field::HIGH_PASID_DIRECTORY_ADDRESS)?;
    }
    Ok(())
}

fn nmis(c: &mut Checker<'_>) {
    let virtual_nmis = c.pin_based.contains(PinBasedControls::VIRTUAL_NMIS);
    c.require(
        !virtual_nmis || c.pin_based.contains(PinBasedControls::NMI_EXITING),
        Rule::VirtualNmisNeedNmiExiting,
        Field::PIN_BASED_CONTROLS,
        c.pin_based.bits(),
    );
    c.require(
        virtual_nmis || !c.primary.contains(PrimaryControls::NMI_WINDOW_EXITING),
        Rule::NmiWindowNeedsVirtualNmis,
        Field::PRIMARY_PROCESSOR_BASED_CONTROLS,
        c.primary.bits(),
    );
}

fn apic(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let delivery = c
        .secondary
        .contains(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY);
    let ipis = c.tertiary.contains(TertiaryControls::IPI_VIRTUALIZATION);
    if c.primary.contains(PrimaryControls::USE_TPR_SHADOW) {
        c.require_page(Field::VIRTUAL_APIC_ADDRESS)?;
        if !delivery {
            c.require_field(Field::TPR_THRESHOLD, Rule::TprThreshold, |v| v <= 0xf)?;
        }
    } else {
        let needing = SecondaryControls::VIRTUALIZE_X2APIC_MODE
            | SecondaryControls::APIC_REGISTER_VIRTUALIZATION
            | SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY;
        c.require(
            !c.secondary.intersects(needing) && !ipis,
            Rule::ApicNeedsTprShadow,
            Field::PRIMARY_PROCESSOR_BASED_CONTROLS,
            c.primary.bits(),
        );
    }
    if c.secondary
        .contains(SecondaryControls::VIRTUALIZE_APIC_ACCESSES)
    {
        c.require_page(Field::APIC_ACCESS_ADDRESS)?;
        c.require(
            !c.secondary
                .contains(SecondaryControls::VIRTUALIZE_X2APIC_MODE),
            Rule::X2apicExcludesApicAccesses,
            Field::SECONDARY_PROCESSOR_BASED_CONTROLS,
            c.secondary.bits(),
        );
    }
    c.require(
        !delivery
            || c.pin_based
                .contains(PinBasedControls::EXTERNAL_INTERRUPT_EXITING),
        Rule::InterruptDeliveryNeedsExiting,
        Field::PIN_BASED_CONTROLS,
        c.pin_based.bits(),
    );
    if ipis {
        // Eight bytes for each entry, the last of which must be within the width too.
        c.require_address(Field::PID_POINTER_TABLE_ADDRESS, 3)?;
        let table = c.get(Field::PID_POINTER_TABLE_ADDRESS)?;
        let index = c.get(Field::LAST_PID_POINTER_INDEX)?;
        let beyond = c.caps.beyond_physical_width();
        c.require(
            table & beyond != 0 || table.wrapping_add(index << 3) & beyond == 0,
            Rule::ControlAddressWidth,
            Field::LAST_PID_POINTER_INDEX,
            index,
        );
    }
    Ok(())
}

fn posted_interrupts(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    if !c
        .pin_based
        .contains(PinBasedControls::PROCESS_POSTED_INTERRUPTS)
    {
        return Ok(());
    }
    c.require(
        c.secondary
            .contains(SecondaryControls::VIRTUAL_INTERRUPT_DELIVERY),
        Rule::PostedInterruptsNeedDelivery,
        Field::PIN_BASED_CONTROLS,
        c.pin_based.bits(),
    );
    c.require(
        c.exit.contains(ExitControls::ACKNOWLEDGE_INTERRUPT_ON_EXIT),
        Rule::PostedInterruptsNeedAcknowledge,
        Field::VM_EXIT_CONTROLS,
        c.exit.bits(),
    );
    c.require_field(
        Field::POSTED_INTERRUPT_NOTIFICATION_VECTOR,
        Rule::PostedInterruptVector,
        |vector| vector <= 0xff,
    )?;
    c.require_address(Field::POSTED_INTERRUPT_DESCRIPTOR_ADDRESS, 6)
}

fn ept(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    if c.secondary.contains(SecondaryControls::ENABLE_VPID) {
        c.require_field(Field::VPID, Rule::VpidNotZero, |vpid| vpid != 0)?;
    }
    if c.secondary.contains(SecondaryControls::ENABLE_EPT) {
        ept_pointer(c)?;
    }
    c.require_ept_for(
        SecondaryControls::UNRESTRICTED_GUEST
            | SecondaryControls::MODE_BASED_EXECUTE_CONTROL
            | SecondaryControls::ENABLE_PML
            | SecondaryControls::SUB_PAGE_WRITE_PERMISSIONS
            | SecondaryControls::PT_USES_GUEST_PHYSICAL_ADDRESSES,
    );
    let hlat = TertiaryControls::ENABLE_HLAT
        | TertiaryControls::EPT_PAGING_WRITE_CONTROL
        | TertiaryControls::GUEST_PAGING_VERIFICATION;
    c.require(
        !c.tertiary.intersects(hlat) || c.secondary.contains(SecondaryControls::ENABLE_EPT),
        Rule::NeedsEpt,
        Field::TERTIARY_PROCESSOR_BASED_CONTROLS,
        c.tertiary.bits(),
    );
    if c.secondary.contains(SecondaryControls::ENABLE_PML) {
        c.require_page(Field::PML_ADDRESS)?;
    }
    if c.secondary
        .contains(SecondaryControls::SUB_PAGE_WRITE_PERMISSIONS)
    {
        c.require_page(Field::SUB_PAGE_PERMISSION_TABLE_POINTER)?;
    }
    if c.tertiary.contains(TertiaryControls::ENABLE_HLAT) {
        // Bits 3 and 4 are PWT and PCD.
        let reserved = 0xfe7 | c.caps.beyond_physical_width();
        c.require_clear(Field::HLAT_POINTER, Rule::HlatReserved, reserved)?;
    }
    Ok(())
}

/// The format of EPTP: Intel SDM, vol. 3, section 25.6.11, "Extended-Page-Table Pointer
/// (EPTP)"; IA32_VMX_EPT_VPID_CAP: appendix A.10.
fn ept_pointer(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let eptp = c.get(Field::EPT_POINTER)?;
    let cap = c.caps.ept_vpid_cap;
    let supports = |bit: u32| cap & (1 << bit) != 0;
    let memory_type = match eptp & 7 {
        0 => supports(8),
        6 => supports(14),
        _ => false,
    };
    let walk_length = match (eptp >> 3) & 7 {
        3 => supports(6),
        4 => supports(7),
        _ => false,
    };
    let reserved = 0xf00 | c.caps.beyond_physical_width();
    for (holds, rule) in [
        (memory_type, Rule::EptMemoryType),
        (walk_length, Rule::EptWalkLength),
        (eptp & (1 << 6) == 0 || supports(21), Rule::EptAccessedDirty),
        (eptp & (1 << 7) == 0 || supports(23), Rule::EptShadowStack),
    ] {
        c.require(holds, rule, Field::EPT_POINTER, eptp);
    }
    c.require_no_bits(eptp & reserved, Rule::EptReserved, Field::EPT_POINTER, eptp);
    Ok(())
}

fn other_features(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    if c.secondary.contains(SecondaryControls::ENABLE_VM_FUNCTIONS) {
        let functions = c.get(Field::VM_FUNCTION_CONTROLS)?;
        c.require_no_bits(
            functions & !c.caps.vmfunc,
            Rule::VmFunctionsAllowed,
            Field::VM_FUNCTION_CONTROLS,
            functions,
        );
        let eptp_switching = functions & 1 != 0;
        if eptp_switching {
            c.require_ept_for(SecondaryControls::ENABLE_VM_FUNCTIONS);
            c.require_page(Field::EPTP_LIST_ADDRESS)?;
        }
    }
    c.require(
        !c.secondary
            .contains(SecondaryControls::PT_USES_GUEST_PHYSICAL_ADDRESSES)
            || (c.entry.contains(EntryControls::LOAD_IA32_RTIT_CTL)
                && c.exit.contains(ExitControls::CLEAR_IA32_RTIT_CTL)),
        Rule::PtNeedsRtitControls,
        Field::SECONDARY_PROCESSOR_BASED_CONTROLS,
        c.secondary.bits(),
    );
    if c.secondary.contains(SecondaryControls::USE_TSC_SCALING) {
        c.require_field(Field::TSC_MULTIPLIER, Rule::TscMultiplierNotZero, |v| {
            v != 0
        })?;
    }
    Ok(())
}
