//! Checks on the VM-exit control fields: Intel SDM, vol. 3, section 27.2.1.2.

use super::{Checker, Rule};
use crate::{ExitControls, Field, PinBasedControls, VmcsError};

pub(super) fn check(c: &mut Checker<'_>) -> Result<(), VmcsError> {
    let exit = c.exit.bits();
    c.require_no_bits(
        c.caps.exit().wrong(exit),
        Rule::ExitAllowed,
        Field::VM_EXIT_CONTROLS,
        exit,
    );
    if c.exit.contains(ExitControls::ACTIVATE_SECONDARY_CONTROLS) {
        c.require_clear(
            Field::SECONDARY_VM_EXIT_CONTROLS,
            Rule::SecondaryExitAllowed,
            !c.caps.exit_ctls2,
        )?;
    }
    c.require(
        !c.exit
            .contains(ExitControls::SAVE_VMX_PREEMPTION_TIMER_VALUE)
            || c.pin_based
                .contains(PinBasedControls::ACTIVATE_VMX_PREEMPTION_TIMER),
        Rule::SaveTimerNeedsTimer,
        Field::VM_EXIT_CONTROLS,
        exit,
    );
    let rules = (Rule::ExitMsrAreaAligned, Rule::ExitMsrAreaWidth);
    c.require_msr_area(
        Field::VM_EXIT_MSR_STORE_COUNT,
        Field::VM_EXIT_MSR_STORE_ADDRESS,
        rules,
    )?;
    c.require_msr_area(
        Field::VM_EXIT_MSR_LOAD_COUNT,
        Field::VM_EXIT_MSR_LOAD_ADDRESS,
        rules,
    )
}

impl Checker<'_> {
    /// Checks an MSR area's address, unless the area is empty: the `rules` are those for
    /// its alignment and for its place.
    pub(super) fn require_msr_area(
        &mut self,
        count_field: Field,
        address_field: Field,
        rules: (Rule, Rule),
    ) -> Result<(), VmcsError> {
        let count = u64::from(self.get32(count_field)?);
        if count == 0 {
            return Ok(());
        }
        let address = self.get(address_field)?;
        self.require(address & 0xf == 0, rules.0, address_field, address);
        // 16 bytes an entry, of which 32 bits cannot count too many for the product.
        let beyond = self.caps.beyond_physical_width();
        let fits = address
            .checked_add(count * 16 - 1)
            .is_some_and(|last| (address | last) & beyond == 0);
        self.require(fits, rules.1, address_field, address);
        Ok(())
    }
}
