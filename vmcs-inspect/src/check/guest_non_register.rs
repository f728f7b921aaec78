//! Checks on the guest's non-register state: Intel SDM, vol. 3, section 27.3.1.5.
//!
//! Here belong the rules about NMIs: what may be injected while what is blocked.

use super::{Checker, RFLAGS_IF, RFLAGS_TF, Rule};
use crate::{
    AccessRights, ActivityState, Field, GuestInterruptibility, InterruptionInfo, InterruptionType,
    PendingDebugExceptions, PinBasedControls, VmcsError,
};

/// Blocking that lasts for one instruction.
const SHADOW: GuestInterruptibility =
    GuestInterruptibility::BLOCKING_BY_STI.union(GuestInterruptibility::BLOCKING_BY_MOV_SS);
const DEBUGCTL_BTF: u64 = 1 << 1;
const DB: u8 = 1;
const MC: u8 = 18;

pub(super) fn check(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let blocking = GuestInterruptibility::from_bits_retain(c.get32(Field::GUEST_INTERRUPTIBILITY)?);
    activity(c, blocking)?;
    interruptibility(c, blocking)?;
    pending_debug_exceptions(c, blocking)?;
    link_pointer(c)
}

fn activity(c: &mut Checker<'_>, blocking: GuestInterruptibility) -> Result<(), VmcsError> {
    let field = Field::GUEST_ACTIVITY_STATE;
    let raw = c.get32(field)?;
    let supported = c.caps.supports_activity_state(raw);
    c.require(supported, Rule::ActivitySupported, field, raw);
    let Some(state) = ActivityState::from_raw(raw) else {
        return Ok(());
    };
    let ss = AccessRights::from_raw(c.get32(Field::GUEST_SS_ACCESS_RIGHTS)?);
    c.require(
        state != ActivityState::Hlt || ss.dpl() == 0,
        Rule::HltNeedsDplZero,
        field,
        raw,
    );
    c.require(
        state == ActivityState::Active || !blocking.intersects(SHADOW),
        Rule::BlockedNeedsActive,
        field,
        raw,
    );
    let injected = c.injected()?;
    c.require(
        !injected.valid() || lets_through(state, injected),
        Rule::InjectionNeedsActivity,
        field,
        raw,
    );
    Ok(())
}

/// Whether an event may be injected into a processor in the given state.
fn lets_through(state: ActivityState, event: InterruptionInfo) -> bool {
    let exception = match event.kind() {
        InterruptionType::HardwareException => Some(event.vector()),
        _ => None,
    };
    match state {
        ActivityState::Active => true,
        ActivityState::Hlt => match event.kind() {
            InterruptionType::ExternalInterrupt | InterruptionType::Nmi => true,
            InterruptionType::HardwareException => matches!(exception, Some(DB | MC)),
            // A pending MTF VM exit.
            InterruptionType::OtherEvent => event.vector() == 0,
            _ => false,
        },
        ActivityState::Shutdown => event.is_nmi() || exception == Some(MC),
        ActivityState::WaitForSipi => false,
    }
}

fn interruptibility(c: &mut Checker<'_>, blocking: GuestInterruptibility) -> Result<(), VmcsError> {
    use GuestInterruptibility as Blocking;
    let event = c.injected()?;
    let injects_interrupt = event.valid() && event.kind() == InterruptionType::ExternalInterrupt;
    let injects_nmi = event.is_nmi();
    let shadowed = blocking.intersects(SHADOW);
    let virtual_nmis = c.pin_based.contains(PinBasedControls::VIRTUAL_NMIS);
    let interrupts_on = c.get(Field::GUEST_RFLAGS)? & RFLAGS_IF != 0;
    let mov_ss = blocking.contains(Blocking::BLOCKING_BY_MOV_SS);
    let rules = [
        (!blocking.contains(SHADOW), Rule::StiExcludesMovSs),
        (
            interrupts_on || !blocking.contains(Blocking::BLOCKING_BY_STI),
            Rule::StiNeedsIf,
        ),
        (
            !(injects_interrupt && shadowed),
            Rule::InterruptWhileBlocked,
        ),
        (!(injects_nmi && shadowed), Rule::NmiWhileShadowed),
        (
            !blocking.contains(Blocking::BLOCKING_BY_SMI),
            Rule::SmiBlockedOutsideSmm,
        ),
        (
            !(injects_nmi && virtual_nmis && blocking.contains(Blocking::BLOCKING_BY_NMI)),
            Rule::NmiWhileBlocked,
        ),
        (
            !blocking.contains(Blocking::ENCLAVE_INTERRUPTION) || (c.caps.cpuid.sgx && !mov_ss),
            Rule::EnclaveInterruption,
        ),
    ];
    c.require_no_bits(
        blocking.unnamed(),
        Rule::InterruptibilityReserved,
        Field::GUEST_INTERRUPTIBILITY,
        blocking.bits(),
    );
    for (holds, rule) in rules {
        c.require(holds, rule, Field::GUEST_INTERRUPTIBILITY, blocking.bits());
    }
    Ok(())
}

fn pending_debug_exceptions(
    c: &mut Checker<'_>,
    blocking: GuestInterruptibility,
) -> Result<(), VmcsError> {
    use PendingDebugExceptions as Pending;
    let field = Field::GUEST_PENDING_DEBUG_EXCEPTIONS;
    let pending = Pending::from_bits_retain(c.get(field)?);
    let bld = if c.caps.cpuid.bus_lock_detect {
        Pending::empty()
    } else {
        Pending::BLD
    };
    c.require_no_bits(
        pending.unnamed() | (pending & bld).bits(),
        Rule::PendingDebugReserved,
        field,
        pending.bits(),
    );

    let hlt = c.get32(Field::GUEST_ACTIVITY_STATE)? == ActivityState::Hlt.raw();
    if blocking.intersects(SHADOW) || hlt {
        let tf = c.get(Field::GUEST_RFLAGS)? & RFLAGS_TF != 0;
        let btf = c.get(Field::GUEST_IA32_DEBUGCTL)? & DEBUGCTL_BTF != 0;
        c.require(
            pending.contains(Pending::BS) == (tf && !btf),
            Rule::PendingDebugBs,
            field,
            pending.bits(),
        );
    }

    if pending.contains(Pending::RTM) {
        let alone = pending == Pending::RTM | Pending::ENABLED_BREAKPOINT;
        let mov_ss = blocking.contains(GuestInterruptibility::BLOCKING_BY_MOV_SS);
        c.require(
            c.caps.cpuid.rtm && alone && !mov_ss,
            Rule::PendingDebugRtm,
            field,
            pending.bits(),
        );
    }
    Ok(())
}

fn link_pointer(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let field = Field::VMCS_LINK_POINTER;
    let pointer = c.get(field)?;
    if pointer == u64::MAX {
        return Ok(());
    }
    c.require(
        pointer & 0xfff == 0,
        Rule::LinkPointerAligned,
        field,
        pointer,
    );
    let fits = pointer & c.caps.beyond_physical_width() == 0;
    c.require(fits, Rule::LinkPointerWidth, field, pointer);
    Ok(())
}
