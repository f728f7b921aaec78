//! Checks on the host-state area: Intel SDM, vol. 3, sections 27.2.2 to 27.2.4.

use super::{CR0_WP, CR4_CET, CR4_PAE, Checker, Rule, is_pat, is_s_cet, not_as_fixed};
use crate::capabilities::beyond;
use crate::{ExitControls, Field, VmcsError};

pub(super) fn check(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    control_registers(c)?;
    msrs(c)?;
    segments(c)?;
    address_space_size(c)
}

impl Checker<'_> {
    /// The bits that CR3 must not have: those beyond the physical-address width, but
    /// for those of linear-address masking where there is such.
    pub(super) fn cr3_reserved(&self) -> u64 {
        let lam = if self.caps.cpuid.lam { 3 << 61 } else { 0 };
        beyond(self.caps.cpuid.physical_address_width) & !lam
    }
}

fn control_registers(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let caps = c.caps;
    let cr0 = c.get(Field::HOST_CR0)?;
    c.require_no_bits(
        not_as_fixed(cr0, caps.cr0_fixed0, caps.cr0_fixed1),
        Rule::HostCr0Fixed,
        Field::HOST_CR0,
        cr0,
    );
    let cr4 = c.get(Field::HOST_CR4)?;
    c.require_no_bits(
        not_as_fixed(cr4, caps.cr4_fixed0, caps.cr4_fixed1),
        Rule::HostCr4Fixed,
        Field::HOST_CR4,
        cr4,
    );
    c.require(
        cr4 & CR4_CET == 0 || cr0 & CR0_WP != 0,
        Rule::HostCetNeedsWp,
        Field::HOST_CR4,
        cr4,
    );
    c.require_clear(Field::HOST_CR3, Rule::HostCr3Width, c.cr3_reserved())
}

fn msrs(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let caps = c.caps;
    c.require_canonical(Field::HOST_IA32_SYSENTER_ESP, Rule::HostSysenterCanonical)?;
    c.require_canonical(Field::HOST_IA32_SYSENTER_EIP, Rule::HostSysenterCanonical)?;
    if c.exit.contains(ExitControls::LOAD_IA32_PERF_GLOBAL_CTRL) {
        c.require_clear(
            Field::HOST_IA32_PERF_GLOBAL_CTRL,
            Rule::HostPerfGlobalCtrl,
            !caps.cpuid.perf_global_ctrl_supported,
        )?;
    }
    if c.exit.contains(ExitControls::LOAD_IA32_PAT) {
        c.require_field(Field::HOST_IA32_PAT, Rule::HostPat, is_pat)?;
    }
    if c.exit.contains(ExitControls::LOAD_IA32_EFER) {
        let efer = c.get(Field::HOST_IA32_EFER)?;
        c.require_no_bits(
            efer & !caps.cpuid.efer_supported,
            Rule::HostEferReserved,
            Field::HOST_IA32_EFER,
            efer,
        );
        let size = c.exit.contains(ExitControls::HOST_ADDRESS_SPACE_SIZE);
        let (lme, lma) = (efer & (1 << 8) != 0, efer & (1 << 10) != 0);
        c.require(
            lme == size && lma == size,
            Rule::HostEferMode,
            Field::HOST_IA32_EFER,
            efer,
        );
    }
    if c.exit.contains(ExitControls::LOAD_CET_STATE) {
        c.require_field(Field::HOST_IA32_S_CET, Rule::HostSCet, |v| {
            is_s_cet(caps, v)
        })?;
        c.require_field(Field::HOST_SSP, Rule::HostSsp, |ssp| {
            caps.is_canonical(ssp) && ssp & 3 == 0
        })?;
        c.require_canonical(
            Field::HOST_IA32_INTERRUPT_SSP_TABLE_ADDR,
            Rule::HostSspTable,
        )?;
    }
    if c.exit.contains(ExitControls::LOAD_PKRS) {
        c.require_field(Field::HOST_IA32_PKRS, Rule::HostPkrs, |v| v >> 32 == 0)?;
    }
    Ok(())
}

fn segments(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    for field in [
        Field::HOST_CS_SELECTOR,
        Field::HOST_SS_SELECTOR,
        Field::HOST_DS_SELECTOR,
        Field::HOST_ES_SELECTOR,
        Field::HOST_FS_SELECTOR,
        Field::HOST_GS_SELECTOR,
        Field::HOST_TR_SELECTOR,
    ] {
        c.require_field(field, Rule::HostSelector, |selector| selector & 7 == 0)?;
    }
    // A null SS is refused too, but only to a 32-bit host.
    for field in [Field::HOST_CS_SELECTOR, Field::HOST_TR_SELECTOR] {
        c.require_field(field, Rule::HostSelectorNotNull, |selector| selector != 0)?;
    }
    for field in [
        Field::HOST_FS_BASE,
        Field::HOST_GS_BASE,
        Field::HOST_TR_BASE,
        Field::HOST_GDTR_BASE,
        Field::HOST_IDTR_BASE,
    ] {
        c.require_canonical(field, Rule::HostBaseCanonical)?;
    }
    Ok(())
}

/// The rules for a 32-bit host are left out: this hypervisor cannot be one, which the
/// first rule here states.
fn address_space_size(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let size = c.exit.contains(ExitControls::HOST_ADDRESS_SPACE_SIZE);
    c.require(
        size,
        Rule::HostSizeInLongMode,
        Field::VM_EXIT_CONTROLS,
        c.exit.bits(),
    );
    if size {
        c.require_field(Field::HOST_CR4, Rule::HostPae, |cr4| cr4 & CR4_PAE != 0)?;
        c.require_canonical(Field::HOST_RIP, Rule::HostRipCanonical)?;
    }
    Ok(())
}
