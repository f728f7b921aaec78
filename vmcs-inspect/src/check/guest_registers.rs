//! Checks on the guest's control registers, debug registers and MSRs: Intel SDM,
//! vol. 3, section 27.3.1.1.

use super::{
    CR0_PE, CR0_PG, CR0_WP, CR4_CET, CR4_PAE, CR4_PCIDE, Checker, Rule, is_pat, is_s_cet,
    not_as_fixed,
};
use crate::{Capabilities, EntryControls, Field, VmcsError};

pub(super) fn check(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    control_registers(c)?;
    debug_controls(c)?;
    c.require_canonical(Field::GUEST_IA32_SYSENTER_ESP, Rule::GuestSysenterCanonical)?;
    c.require_canonical(Field::GUEST_IA32_SYSENTER_EIP, Rule::GuestSysenterCanonical)?;
    efer(c)?;
    other_msrs(c)
}

fn control_registers(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let cr0 = c.get(Field::GUEST_CR0)?;
    let free = if c.unrestricted_guest() {
        CR0_PE | CR0_PG
    } else {
        0
    };
    let wrong = not_as_fixed(cr0, c.caps.cr0_fixed0 & !free, c.caps.cr0_fixed1);
    c.require_no_bits(wrong, Rule::GuestCr0Fixed, Field::GUEST_CR0, cr0);
    c.require(
        cr0 & CR0_PG == 0 || cr0 & CR0_PE != 0,
        Rule::GuestPagingNeedsProtection,
        Field::GUEST_CR0,
        cr0,
    );

    let cr4 = c.get(Field::GUEST_CR4)?;
    let wrong = not_as_fixed(cr4, c.caps.cr4_fixed0, c.caps.cr4_fixed1);
    c.require_no_bits(wrong, Rule::GuestCr4Fixed, Field::GUEST_CR4, cr4);
    let long_mode = c.long_mode_guest();
    for (holds, rule) in [
        (
            cr4 & CR4_CET == 0 || cr0 & CR0_WP != 0,
            Rule::GuestCetNeedsWp,
        ),
        (
            !long_mode || cr4 & CR4_PAE != 0,
            Rule::GuestLongModeNeedsPae,
        ),
        (
            long_mode || cr4 & CR4_PCIDE == 0,
            Rule::GuestPcideNeedsLongMode,
        ),
    ] {
        c.require(holds, rule, Field::GUEST_CR4, cr4);
    }
    c.require(
        !long_mode || cr0 & CR0_PG != 0,
        Rule::GuestLongModeNeedsPaging,
        Field::GUEST_CR0,
        cr0,
    );

    c.require_clear(Field::GUEST_CR3, Rule::GuestCr3Width, c.cr3_reserved())
}

fn debug_controls(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    if c.entry.contains(EntryControls::LOAD_DEBUG_CONTROLS) {
        let reserved = debugctl_reserved(c.caps);
        c.require_clear(Field::GUEST_IA32_DEBUGCTL, Rule::GuestDebugctl, reserved)?;
        c.require_field(Field::GUEST_DR7, Rule::GuestDr7, |dr7| dr7 >> 32 == 0)?;
    }
    Ok(())
}

/// The reserved bits of IA32_DEBUGCTL. Bits that only some models have are taken
/// to be there.
///
/// Source: Intel SDM, vol. 3, chapter 18, "IA32_DEBUGCTL MSR".
fn debugctl_reserved(caps: &Capabilities) -> u64 {
    let mut defined = 0x7fc3;
    if caps.cpuid.bus_lock_detect {
        defined |= 1 << 2;
    }
    if caps.cpuid.rtm {
        defined |= 1 << 15;
    }
    !defined
}

fn efer(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    if !c.entry.contains(EntryControls::LOAD_IA32_EFER) {
        return Ok(());
    }
    let efer = c.get(Field::GUEST_IA32_EFER)?;
    let paging = c.get(Field::GUEST_CR0)? & CR0_PG != 0;
    let (lme, lma) = (efer & (1 << 8) != 0, efer & (1 << 10) != 0);
    c.require_no_bits(
        efer & !c.caps.cpuid.efer_supported,
        Rule::GuestEferReserved,
        Field::GUEST_IA32_EFER,
        efer,
    );
    for (holds, rule) in [
        (lma == c.long_mode_guest(), Rule::GuestEferLma),
        (!paging || lme == lma, Rule::GuestEferLme),
    ] {
        c.require(holds, rule, Field::GUEST_IA32_EFER, efer);
    }
    Ok(())
}

fn other_msrs(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let caps = c.caps;
    if c.entry.contains(EntryControls::LOAD_CET_STATE) {
        c.require_field(Field::GUEST_IA32_S_CET, Rule::GuestSCet, |v| {
            is_s_cet(caps, v)
        })?;
        c.require_canonical(
            Field::GUEST_IA32_INTERRUPT_SSP_TABLE_ADDR,
            Rule::GuestSspTable,
        )?;
    }
    if c.entry.contains(EntryControls::LOAD_IA32_PERF_GLOBAL_CTRL) {
        c.require_clear(
            Field::GUEST_IA32_PERF_GLOBAL_CTRL,
            Rule::GuestPerfGlobalCtrl,
            !caps.cpuid.perf_global_ctrl_supported,
        )?;
    }
    if c.entry.contains(EntryControls::LOAD_IA32_PAT) {
        c.require_field(Field::GUEST_IA32_PAT, Rule::GuestPat, is_pat)?;
    }
    if c.entry.contains(EntryControls::LOAD_IA32_BNDCFGS) {
        c.require_field(Field::GUEST_IA32_BNDCFGS, Rule::GuestBndcfgs, |value| {
            value & 0xffc == 0 && caps.is_canonical(value & !0xfff)
        })?;
    }
    if c.entry.contains(EntryControls::LOAD_IA32_RTIT_CTL) {
        // Only the bits that no processor defines: the others depend on CPUID.14H.
        let reserved = 0xfe7f_0000_0000_0000;
        c.require_clear(Field::GUEST_IA32_RTIT_CTL, Rule::GuestRtitCtl, reserved)?;
    }
    if c.entry.contains(EntryControls::LOAD_GUEST_IA32_LBR_CTL) {
        let defined = 0x7f_000f;
        c.require_clear(Field::GUEST_IA32_LBR_CTL, Rule::GuestLbrCtl, !defined)?;
    }
    if c.entry.contains(EntryControls::LOAD_PKRS) {
        c.require_field(Field::GUEST_IA32_PKRS, Rule::GuestPkrs, |v| v >> 32 == 0)?;
    }
    if c.entry.contains(EntryControls::LOAD_UINV) {
        c.require_field(Field::GUEST_UINV, Rule::GuestUinv, |v| v <= 0xff)?;
    }
    Ok(())
}
