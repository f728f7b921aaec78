//! Checks on the guest's descriptor tables, RIP, RFLAGS, SSP and PDPTEs: Intel SDM, vol. 3,
//! sections 27.3.1.3, 27.3.1.4 and 27.3.1.6.

use super::{CR0_PE, CR0_PG, CR4_PAE, Checker, RFLAGS_IF, RFLAGS_VM, Rule};
use crate::capabilities::beyond;
use crate::{AccessRights, EntryControls, Field, InterruptionType, SecondaryControls, VmcsError};

pub(super) fn check(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    for (base, limit) in [
        (Field::GUEST_GDTR_BASE, Field::GUEST_GDTR_LIMIT),
        (Field::GUEST_IDTR_BASE, Field::GUEST_IDTR_LIMIT),
    ] {
        c.require_canonical(base, Rule::TableBaseCanonical)?;
        c.require_field(limit, Rule::TableLimit, |limit| limit <= 0xffff)?;
    }
    rip_and_ssp(c)?;
    rflags(c)?;
    pdptes(c)
}

fn rip_and_ssp(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let cs = AccessRights::from_raw(c.get32(Field::GUEST_CS_ACCESS_RIGHTS)?);
    let in_64_bit_mode = c.long_mode_guest() && cs.l();
    let width = c.caps.cpuid.linear_address_width;
    // Not "canonical": the highest bit of the width itself may differ from those beyond it.
    let alike = |address: u64| {
        let high = address & beyond(width);
        high == 0 || high == beyond(width)
    };
    if in_64_bit_mode {
        c.require_field(Field::GUEST_RIP, Rule::RipWidth, alike)?;
    } else {
        c.require_field(Field::GUEST_RIP, Rule::RipHigh, |rip| rip >> 32 == 0)?;
    }
    if c.entry.contains(EntryControls::LOAD_CET_STATE) {
        c.require_field(Field::GUEST_SSP, Rule::GuestSsp, |ssp| {
            let suits = if in_64_bit_mode {
                alike(ssp)
            } else {
                ssp >> 32 == 0
            };
            suits && ssp & 3 == 0
        })?;
    }
    Ok(())
}

fn rflags(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let rflags = c.get(Field::GUEST_RFLAGS)?;
    let protected = c.get(Field::GUEST_CR0)? & CR0_PE != 0;
    let injected = c.injected()?;
    let injects_interrupt =
        injected.valid() && injected.kind() == InterruptionType::ExternalInterrupt;
    let reserved = !0x3f_ffff | 1 << 15 | 1 << 5 | 1 << 3;
    c.require_no_bits(
        rflags & reserved | !rflags & 2,
        Rule::RflagsReserved,
        Field::GUEST_RFLAGS,
        rflags,
    );
    for (holds, rule) in [
        (
            rflags & RFLAGS_VM == 0 || (protected && !c.long_mode_guest()),
            Rule::RflagsVm,
        ),
        (
            rflags & RFLAGS_IF != 0 || !injects_interrupt,
            Rule::RflagsIf,
        ),
    ] {
        c.require(holds, rule, Field::GUEST_RFLAGS, rflags);
    }
    Ok(())
}

/// Under EPT the PDPTEs of a guest with PAE paging are fields; without EPT they are
/// in memory and not seen here.
fn pdptes(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let paging = c.get(Field::GUEST_CR0)? & CR0_PG != 0;
    let pae = c.get(Field::GUEST_CR4)? & CR4_PAE != 0;
    let ept = c.secondary.contains(SecondaryControls::ENABLE_EPT);
    if !(paging && pae && ept) || c.long_mode_guest() {
        return Ok(());
    }
    let reserved = 0x1e6 | beyond(c.caps.cpuid.physical_address_width);
    for field in [
        Field::GUEST_PDPTE0,
        Field::GUEST_PDPTE1,
        Field::GUEST_PDPTE2,
        Field::GUEST_PDPTE3,
    ] {
        c.require_field(field, Rule::PdpteReserved, |pdpte| {
            pdpte & 1 == 0 || pdpte & reserved == 0
        })?;
    }
    Ok(())
}
