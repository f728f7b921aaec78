//! Checks on the event that a VM entry is to inject: Intel SDM, vol. 3, section 27.2.1.3.
//!
//! Whether the guest's state lets the event through is checked with that state, in
//! `guest_non_register.rs`.

use super::{CR0_PE, Checker, Rule};
use crate::{Exception, Field, InterruptionType, PrimaryControls, VmcsError};

/// CR4.FRED, under which "other events" 1 and 2 are SYSCALL and SYSENTER.
const CR4_FRED: u64 = 1 << 32;
/// Control protection, whose error code came with IA32_VMX_BASIC\[56\]: processors that
/// know the one report the other.
const CP: u8 = 21;

pub(super) fn check(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let info = c.injected()?;
    if !info.valid() {
        return Ok(());
    }
    let field = Field::VM_ENTRY_INTERRUPTION_INFO;
    let raw = info.raw();
    let kind = info.kind();
    let mtf = c.caps.primary().allowed1 & PrimaryControls::MONITOR_TRAP_FLAG.bits() != 0;
    let defined = match kind {
        InterruptionType::Reserved => false,
        InterruptionType::OtherEvent => mtf,
        _ => true,
    };
    c.require(defined, Rule::InjectedType, field, raw);

    let most_other = if c.get(Field::GUEST_CR4)? & CR4_FRED != 0 {
        2
    } else {
        0
    };
    let vector_suits = match kind {
        InterruptionType::Nmi => info.vector() == 2,
        InterruptionType::HardwareException => info.vector() <= 31,
        InterruptionType::OtherEvent => info.vector() <= most_other,
        _ => true,
    };
    c.require(vector_suits, Rule::InjectedVector, field, raw);

    error_code(c)?;

    // Bit 13 marks a nested exception on processors that know those.
    let nested = if c.caps.nested_exceptions() {
        1 << 13
    } else {
        0
    };
    let reserved = raw & 0x7fff_f000 & !nested;
    c.require_no_bits(reserved, Rule::InjectedReserved, field, raw);

    if kind.is_software() {
        let least = if c.caps.injects_length_zero() { 0 } else { 1 };
        c.require_field(
            Field::VM_ENTRY_INSTRUCTION_LENGTH,
            Rule::InjectedLength,
            |length| (least..=15).contains(&length),
        )?;
    }
    Ok(())
}

/// Checks whether an error code is to be delivered, and the code.
fn error_code(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let info = c.injected()?;
    let field = Field::VM_ENTRY_INTERRUPTION_INFO;
    let delivers = info.error_code_valid();
    let protected = c.get(Field::GUEST_CR0)? & CR0_PE != 0;
    if info.kind() != InterruptionType::HardwareException {
        c.require(!delivers, Rule::ErrorCodeType, field, info.raw());
    } else if !protected {
        c.require(!delivers, Rule::ErrorCodeRealMode, field, info.raw());
    } else if !c.caps.any_vector_error_code() && info.vector() != CP {
        let has = Exception(info.vector()).has_error_code();
        c.require(delivers == has, Rule::ErrorCodeVector, field, info.raw());
    }
    if delivers {
        c.require_field(
            Field::VM_ENTRY_EXCEPTION_ERROR_CODE,
            Rule::ErrorCodeReserved,
            |code| code <= 0xffff,
        )?;
    }
    Ok(())
}
