//! Table tests of the checks: a well-formed VMCS is broken once for each rule, and exactly
//! that rule must be told.

extern crate std;

mod control_cases;
mod edges;
mod guest_cases;
mod host_cases;
mod segment_cases;

use std::string::{String, ToString};
use std::vec::Vec;

use super::{Rule, Violation, check};
use crate::fake::{FakeVmcs, capabilities};
use crate::{
    Capabilities, EntryControls, ExitControls, Field, PinBasedControls, PrimaryControls,
    SecondaryControls, TertiaryControls, VmcsAccess, VmcsError,
};

/// A VMCS and the processor that it is for.
struct Scene {
    vmcs: FakeVmcs,
    caps: Capabilities,
}

/// Changes a scene.
type Step = fn(&mut Scene);

/// One way to break one rule.
struct Case {
    rule: Rule,
    /// The field that must be blamed.
    field: Field,
    /// Leads from the well-formed VMCS to another sound one, nearer to the edge.
    setup: Step,
    /// Takes the last step.
    break_rule: Step,
}

/// The setup of cases that start from the well-formed VMCS itself.
fn as_is(_: &mut Scene) {}

macro_rules! case {
    ($rule:ident, $field:ident, $break_rule:expr) => {
        case!($rule, $field, as_is, $break_rule)
    };
    ($rule:ident, $field:ident, $setup:expr, $break_rule:expr) => {
        Case {
            rule: Rule::$rule,
            field: Field::$field,
            setup: $setup,
            break_rule: $break_rule,
        }
    };
}
use case;

impl Scene {
    fn well_formed() -> Scene {
        Scene {
            vmcs: FakeVmcs::well_formed(),
            caps: capabilities(),
        }
    }

    fn set(&mut self, field: Field, value: u64) {
        self.vmcs.set(field, value);
    }

    fn get(&mut self, field: Field) -> u64 {
        self.vmcs.read(field).unwrap()
    }

    /// Sets bits of a field.
    fn on(&mut self, field: Field, bits: impl Into<u64>) {
        let value = self.get(field) | bits.into();
        self.set(field, value);
    }

    /// Clears bits of a field.
    fn off(&mut self, field: Field, bits: impl Into<u64>) {
        let value = self.get(field) & !bits.into();
        self.set(field, value);
    }

    fn pin_based(&mut self, controls: PinBasedControls) {
        self.on(Field::PIN_BASED_CONTROLS, controls.bits());
    }

    fn primary(&mut self, controls: PrimaryControls) {
        self.on(Field::PRIMARY_PROCESSOR_BASED_CONTROLS, controls.bits());
    }

    fn secondary(&mut self, controls: SecondaryControls) {
        self.on(Field::SECONDARY_PROCESSOR_BASED_CONTROLS, controls.bits());
    }

    fn tertiary(&mut self, controls: TertiaryControls) {
        self.primary(PrimaryControls::ACTIVATE_TERTIARY_CONTROLS);
        self.on(Field::TERTIARY_PROCESSOR_BASED_CONTROLS, controls.bits());
    }

    fn exit(&mut self, controls: ExitControls) {
        self.on(Field::VM_EXIT_CONTROLS, controls.bits());
    }

    fn entry(&mut self, controls: EntryControls) {
        self.on(Field::VM_ENTRY_CONTROLS, controls.bits());
    }

    /// Turns EPT off, and with it what cannot be without.
    fn without_ept(&mut self) {
        let controls = SecondaryControls::ENABLE_EPT | SecondaryControls::UNRESTRICTED_GUEST;
        self.off(Field::SECONDARY_PROCESSOR_BASED_CONTROLS, controls.bits());
    }

    /// Turns "unrestricted guest" off.
    fn restricted(&mut self) {
        let control = SecondaryControls::UNRESTRICTED_GUEST.bits();
        self.off(Field::SECONDARY_PROCESSOR_BASED_CONTROLS, control);
    }

    /// Makes the guest one in 32-bit protected mode with PAE paging.
    fn protected_mode(&mut self) {
        self.off(
            Field::VM_ENTRY_CONTROLS,
            EntryControls::IA_32E_MODE_GUEST.bits(),
        );
        self.set(Field::GUEST_IA32_EFER, 0);
        self.set(Field::GUEST_CS_ACCESS_RIGHTS, 0xc09b);
        self.set(Field::GUEST_RIP, 0x1000);
    }

    /// Makes the guest one in real mode, as at 0000:7C00.
    fn real_mode(&mut self) {
        self.protected_mode();
        self.set(Field::GUEST_CR0, 0x30);
        self.set(Field::GUEST_CS_SELECTOR, 0);
        self.set(Field::GUEST_RIP, 0x7c00);
        for (rights, limit) in [
            (Field::GUEST_CS_ACCESS_RIGHTS, Field::GUEST_CS_LIMIT),
            (Field::GUEST_SS_ACCESS_RIGHTS, Field::GUEST_SS_LIMIT),
        ] {
            self.set(rights, 0x93);
            self.set(limit, 0xffff);
        }
    }

    /// Makes the guest one in virtual-8086 mode.
    fn virtual_8086(&mut self) {
        self.protected_mode();
        self.on(Field::GUEST_RFLAGS, 1u64 << 17);
        for (selector, base, limit, rights) in [
            (
                Field::GUEST_CS_SELECTOR,
                Field::GUEST_CS_BASE,
                Field::GUEST_CS_LIMIT,
                Field::GUEST_CS_ACCESS_RIGHTS,
            ),
            (
                Field::GUEST_SS_SELECTOR,
                Field::GUEST_SS_BASE,
                Field::GUEST_SS_LIMIT,
                Field::GUEST_SS_ACCESS_RIGHTS,
            ),
            (
                Field::GUEST_DS_SELECTOR,
                Field::GUEST_DS_BASE,
                Field::GUEST_DS_LIMIT,
                Field::GUEST_DS_ACCESS_RIGHTS,
            ),
            (
                Field::GUEST_ES_SELECTOR,
                Field::GUEST_ES_BASE,
                Field::GUEST_ES_LIMIT,
                Field::GUEST_ES_ACCESS_RIGHTS,
            ),
            (
                Field::GUEST_FS_SELECTOR,
                Field::GUEST_FS_BASE,
                Field::GUEST_FS_LIMIT,
                Field::GUEST_FS_ACCESS_RIGHTS,
            ),
            (
                Field::GUEST_GS_SELECTOR,
                Field::GUEST_GS_BASE,
                Field::GUEST_GS_LIMIT,
                Field::GUEST_GS_ACCESS_RIGHTS,
            ),
        ] {
            self.set(selector, 0x1234);
            self.set(base, 0x1_2340);
            self.set(limit, 0xffff);
            self.set(rights, 0xf3);
        }
    }

    /// Asks the entry to inject an event.
    fn inject(&mut self, info: u64) {
        self.set(Field::VM_ENTRY_INTERRUPTION_INFO, info);
    }

    fn violations(&mut self) -> Vec<Violation> {
        let mut found = Vec::new();
        let count = check(&mut self.vmcs, &self.caps, &mut |v| found.push(v)).unwrap();
        assert_eq!(count, found.len());
        found
    }

    fn texts(&mut self) -> Vec<String> {
        self.violations().iter().map(ToString::to_string).collect()
    }
}

fn all_cases() -> impl Iterator<Item = &'static Case> {
    control_cases::CASES
        .iter()
        .chain(host_cases::CASES)
        .chain(segment_cases::CASES)
        .chain(guest_cases::CASES)
}

#[test]
fn each_case_breaks_its_rule_and_no_other() {
    let mut wrong = Vec::new();
    for case in all_cases() {
        let mut scene = Scene::well_formed();
        (case.setup)(&mut scene);
        let before = scene.texts();
        (case.break_rule)(&mut scene);
        let found: Vec<_> = scene
            .violations()
            .iter()
            .map(|v| (v.rule, v.field))
            .collect();
        if !before.is_empty() || found != [(case.rule, case.field)] {
            wrong.push((case.rule, case.field, before, found));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_rule_has_a_case() {
    let covered: Vec<Rule> = all_cases().map(|case| case.rule).collect();
    let missing: Vec<&Rule> = Rule::ALL
        .iter()
        .filter(|rule| !covered.contains(rule))
        .collect();
    assert_eq!(missing, Vec::<&Rule>::new());
}

#[test]
fn the_modes_that_a_guest_can_be_in_are_sound() {
    for setup in [
        as_is,
        Scene::without_ept,
        Scene::restricted,
        Scene::protected_mode,
        Scene::real_mode,
        Scene::virtual_8086,
    ] {
        let mut scene = Scene::well_formed();
        setup(&mut scene);
        assert_eq!(scene.texts(), [""; 0]);
    }
}

#[test]
fn a_violation_names_section_field_value_and_rule() {
    let mut scene = Scene::well_formed();
    scene.inject(0x8000_0202);
    scene.set(Field::GUEST_INTERRUPTIBILITY, 8);
    assert_eq!(
        scene.texts(),
        [
            "27.3.1.5 GUEST_INTERRUPTIBILITY = 0x8: no NMI may be injected while virtual NMIs are blocked"
        ]
    );
}

#[test]
fn without_virtual_nmis_blocking_does_not_forbid_injection() {
    let mut scene = Scene::well_formed();
    scene.off(
        Field::PIN_BASED_CONTROLS,
        PinBasedControls::VIRTUAL_NMIS.bits(),
    );
    scene.inject(0x8000_0202);
    scene.set(Field::GUEST_INTERRUPTIBILITY, 8);
    assert_eq!(scene.texts(), [""; 0]);
}

#[test]
fn fields_that_the_processor_lacks_count_as_zero() {
    let mut scene = Scene::well_formed();
    for field in [
        Field::TERTIARY_PROCESSOR_BASED_CONTROLS,
        Field::GUEST_IA32_PKRS,
        Field::HOST_IA32_S_CET,
        Field::VM_FUNCTION_CONTROLS,
    ] {
        scene.vmcs.remove(field);
    }
    assert_eq!(scene.texts(), [""; 0]);
}

#[test]
fn an_unreadable_vmcs_is_an_error_not_a_pass() {
    let mut scene = Scene::well_formed();
    scene.vmcs.fail_with(Some(VmcsError::NoCurrentVmcs));
    let result = check(&mut scene.vmcs, &scene.caps, &mut |_| {});
    assert_eq!(result, Err(VmcsError::NoCurrentVmcs));
}

#[test]
fn rules_fit_a_line() {
    for rule in Rule::ALL {
        assert!(rule.text().len() <= 110, "{rule:?}: {}", rule.text().len());
        assert!(!rule.text().ends_with('.'), "{rule:?}");
    }
}
