//! The checks that a VM entry makes on the VMCS, told rule by rule.
//!
//! `monitor vmcs check` runs them; `monitor vmcs set` runs them on what it is about to
//! write; and when a VM entry fails they say why, where the processor says no more than a
//! number. They follow the SDM, also where an emulator is laxer.
//!
//! What only memory or the processor's present state could tell is not checked: the
//! contents of the structures that addresses point to (virtual APIC page, MSR areas, linked
//! VMCS, page tables), SMM, and the blocking of events by MOV SS at the time of
//! VMLAUNCH. The FRED fields are not checked.
//!
//! Source: Intel SDM, vol. 3, sections 27.2, "Checks on VMX Controls and Host-State Area", and
//! 27.3.1, "Checks on the Guest State Area".

mod entry;
mod execution;
mod exit;
mod guest_non_register;
mod guest_registers;
mod guest_segments;
mod guest_tables;
mod host;
mod injection;
mod rule;
#[cfg(test)]
mod tests;

use core::fmt;

pub use rule::{Rule, Section};

use crate::{
    Capabilities, EntryControls, ExitControls, Field, InterruptionInfo, PinBasedControls,
    PrimaryControls, SecondaryControls, TertiaryControls, VmcsAccess, VmcsError,
};

/// A rule that the VMCS breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The rule.
    pub rule: Rule,
    /// The field that breaks it.
    pub field: Field,
    /// That field's value.
    pub value: u64,
    /// The bits that are 0 and should be 1, or the other way round; 0 where the rule does not
    /// tell single bits.
    pub bits: u64,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} {} = {:#x}: {}",
            self.rule.section().number(),
            self.field,
            self.value,
            self.rule
        )?;
        if self.bits != 0 {
            write!(f, " (wrong bits: {:#x})", self.bits)?;
        }
        Ok(())
    }
}

/// Checks `vmcs` as a VM entry by a hypervisor in IA-32e mode, outside SMM, would on a
/// processor with `caps`, and gives each broken rule to `sink`. Returns how many there
/// were.
///
/// A processor stops at the first failed check; this goes on, so that one
/// mistake may show as several broken rules.
///
/// # Errors
/// If `vmcs` cannot be read. A field that the processor does not have counts as 0.
pub fn check(
    vmcs: &mut dyn VmcsAccess,
    caps: &Capabilities,
    sink: &mut dyn FnMut(Violation),
) -> Result<usize, VmcsError> {
    let mut checker = Checker::new(vmcs, caps, sink)?;
    execution::check(&mut checker)?;
    exit::check(&mut checker)?;
    entry::check(&mut checker)?;
    injection::check(&mut checker)?;
    host::check(&mut checker)?;
    guest_registers::check(&mut checker)?;
    guest_segments::check(&mut checker)?;
    guest_tables::check(&mut checker)?;
    guest_non_register::check(&mut checker)?;
    Ok(checker.count)
}

const CR0_PE: u64 = 1 << 0;
const CR0_WP: u64 = 1 << 16;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const CR4_PCIDE: u64 = 1 << 17;
const CR4_CET: u64 = 1 << 23;
const RFLAGS_TF: u64 = 1 << 8;
const RFLAGS_IF: u64 = 1 << 9;
const RFLAGS_VM: u64 = 1 << 17;

/// What the checks of one VMCS share: the VMCS, the controls in force, and where
/// broken rules go.
struct Checker<'a> {
    vmcs: &'a mut dyn VmcsAccess,
    caps: &'a Capabilities,
    sink: &'a mut dyn FnMut(Violation),
    count: usize,
    pin_based: PinBasedControls,
    primary: PrimaryControls,
    /// 0 unless activated.
    secondary: SecondaryControls,
    /// 0 unless activated.
    tertiary: TertiaryControls,
    exit: ExitControls,
    entry: EntryControls,
}

impl<'a> Checker<'a> {
    fn new(
        vmcs: &'a mut dyn VmcsAccess,
        caps: &'a Capabilities,
        sink: &'a mut dyn FnMut(Violation),
    ) -> Result<Self, VmcsError> {
        let mut checker = Checker {
            vmcs,
            caps,
            sink,
            count: 0,
            pin_based: PinBasedControls::empty(),
            primary: PrimaryControls::empty(),
            secondary: SecondaryControls::empty(),
            tertiary: TertiaryControls::empty(),
            exit: ExitControls::empty(),
            entry: EntryControls::empty(),
        };
        let pin_based = checker.get32(Field::PIN_BASED_CONTROLS)?;
        checker.pin_based = PinBasedControls::from_bits_retain(pin_based);
        let primary = checker.get32(Field::PRIMARY_PROCESSOR_BASED_CONTROLS)?;
        checker.primary = PrimaryControls::from_bits_retain(primary);
        if checker
            .primary
            .contains(PrimaryControls::ACTIVATE_SECONDARY_CONTROLS)
        {
            let secondary = checker.get32(Field::SECONDARY_PROCESSOR_BASED_CONTROLS)?;
            checker.secondary = SecondaryControls::from_bits_retain(secondary);
        }
        if checker
            .primary
            .contains(PrimaryControls::ACTIVATE_TERTIARY_CONTROLS)
        {
            let tertiary = checker.get(Field::TERTIARY_PROCESSOR_BASED_CONTROLS)?;
            checker.tertiary = TertiaryControls::from_bits_retain(tertiary);
        }
        checker.exit = ExitControls::from_bits_retain(checker.get32(Field::VM_EXIT_CONTROLS)?);
        checker.entry = EntryControls::from_bits_retain(checker.get32(Field::VM_ENTRY_CONTROLS)?);
        Ok(checker)
    }

    /// The field's value; 0 if the processor does not have the field.
    fn get(&mut self, field: Field) -> Result<u64, VmcsError> {
        match self.vmcs.read(field) {
            Err(VmcsError::Unsupported(_)) => Ok(0),
            other => other,
        }
    }

    /// The value of a field of at most 32 bits.
    fn get32(&mut self, field: Field) -> Result<u32, VmcsError> {
        // Such fields are zero-extended: nothing is lost.
        Ok(self.get(field)? as u32)
    }

    fn tell(&mut self, violation: Violation) {
        self.count += 1;
        (self.sink)(violation);
    }

    /// Tells the sink unless `holds`.
    fn require(&mut self, holds: bool, rule: Rule, field: Field, value: impl Into<u64>) {
        if !holds {
            let value = value.into();
            self.tell(Violation {
                rule,
                field,
                value,
                bits: 0,
            });
        }
    }

    /// Tells the sink if there are `wrong` bits.
    fn require_no_bits<T: Into<u64>>(&mut self, wrong: T, rule: Rule, field: Field, value: T) {
        let (bits, value) = (wrong.into(), value.into());
        if bits != 0 {
            self.tell(Violation {
                rule,
                field,
                value,
                bits,
            });
        }
    }

    /// Reads a field and requires that its `reserved` bits are 0.
    fn require_clear(&mut self, field: Field, rule: Rule, reserved: u64) -> Result<(), VmcsError> {
        let value = self.get(field)?;
        self.require_no_bits(value & reserved, rule, field, value);
        Ok(())
    }

    /// Reads a field and requires that `holds` of its value.
    fn require_field(
        &mut self,
        field: Field,
        rule: Rule,
        holds: impl FnOnce(u64) -> bool,
    ) -> Result<(), VmcsError> {
        let value = self.get(field)?;
        self.require(holds(value), rule, field, value);
        Ok(())
    }

    /// Reads a field and requires a canonical address there.
    fn require_canonical(&mut self, field: Field, rule: Rule) -> Result<(), VmcsError> {
        let caps = self.caps;
        self.require_field(field, rule, |address| caps.is_canonical(address))
    }

    /// Whether the guest is in IA-32e mode.
    fn long_mode_guest(&self) -> bool {
        self.entry.contains(EntryControls::IA_32E_MODE_GUEST)
    }

    fn unrestricted_guest(&self) -> bool {
        self.secondary
            .contains(SecondaryControls::UNRESTRICTED_GUEST)
    }

    /// The event that the entry is to inject.
    fn injected(&mut self) -> Result<InterruptionInfo, VmcsError> {
        Ok(InterruptionInfo::from_raw(
            self.get32(Field::VM_ENTRY_INTERRUPTION_INFO)?,
        ))
    }
}

/// The bits of a control register that are not as IA32_VMX_CR0_FIXED0 and _FIXED1, or those of
/// CR4, want them.
fn not_as_fixed(value: u64, fixed0: u64, fixed1: u64) -> u64 {
    fixed0 & !value | value & !fixed1
}

/// Whether each byte of an IA32_PAT value is a memory type.
fn is_pat(value: u64) -> bool {
    value
        .to_le_bytes()
        .iter()
        .all(|byte| matches!(byte, 0 | 1 | 4..=7))
}

/// Whether a value fits IA32_S_CET.
fn is_s_cet(caps: &Capabilities, value: u64) -> bool {
    caps.is_canonical(value) && value & 0x3c0 == 0 && value & 0xc00 != 0xc00
}
