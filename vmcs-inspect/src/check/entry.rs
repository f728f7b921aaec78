//! Checks on the VM-entry control fields but for event injection: Intel SDM, vol. 3,
//! section 27.2.1.3.

use super::{Checker, Rule};
use crate::{EntryControls, Field, VmcsError};

pub(super) fn check(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let entry = c.entry.bits();
    c.require_no_bits(
        c.caps.entry().wrong(entry),
        Rule::EntryAllowed,
        Field::VM_ENTRY_CONTROLS,
        entry,
    );
    let in_smm = EntryControls::ENTRY_TO_SMM | EntryControls::DEACTIVATE_DUAL_MONITOR_TREATMENT;
    c.require(
        !c.entry.intersects(in_smm),
        Rule::EntryOutsideSmm,
        Field::VM_ENTRY_CONTROLS,
        entry,
    );
    c.require_msr_area(
        Field::VM_ENTRY_MSR_LOAD_COUNT,
        Field::VM_ENTRY_MSR_LOAD_ADDRESS,
        (Rule::EntryMsrAreaAligned, Rule::EntryMsrAreaWidth),
    )
}
