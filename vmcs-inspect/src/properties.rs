//! What must hold for any VMCS and any command, tried on many of them.

extern crate std;

use std::string::String;
use std::vec::Vec;

use proptest::prelude::*;

use crate::fake::{FakeVmcs, capabilities};
use crate::{
    AllowedSettings, Capabilities, Field, NmiState, Overlay, Violation, VmcsAccess, VmcsError,
    VmcsHost, VmcsSnapshot, check, monitor,
};

/// A field and a value that it can hold: small numbers, single bits, bits of the
/// well-formed value flipped, and anything.
fn change() -> impl Strategy<Value = (Field, u64)> {
    let value = prop_oneof![
        0u64..32,
        (0u32..64).prop_map(|bit| 1 << bit),
        (0u32..64).prop_map(|bit| !(1 << bit)),
        any::<u64>(),
    ];
    (0..Field::COUNT, value).prop_map(|(index, value)| {
        let info = &Field::all()[index];
        (info.field, value & info.width.max_value())
    })
}

/// The well-formed VMCS with some fields changed and some absent.
fn vmcs() -> impl Strategy<Value = FakeVmcs> {
    let changes = prop::collection::vec(change(), 0..20);
    let absent = prop::collection::vec(0..Field::COUNT, 0..4);
    (changes, absent).prop_map(|(changes, absent)| {
        let mut vmcs = FakeVmcs::well_formed();
        for (field, value) in changes {
            vmcs.set(field, value);
        }
        for index in absent {
            vmcs.remove(Field::all()[index].field);
        }
        vmcs
    })
}

fn violations(vmcs: &mut dyn VmcsAccess) -> Vec<Violation> {
    let mut found = Vec::new();
    let count = check(vmcs, &capabilities(), &mut |v| found.push(v)).unwrap();
    assert_eq!(count, found.len());
    found
}

/// A machine of one CPU.
struct Host {
    vmcs: FakeVmcs,
    previous: VmcsSnapshot,
}

impl VmcsHost for Host {
    fn cpus(&self) -> usize {
        1
    }

    fn current_cpu(&self) -> usize {
        0
    }

    fn with_vmcs(
        &mut self,
        _: usize,
        f: &mut dyn FnMut(&mut dyn VmcsAccess),
    ) -> Result<(), VmcsError> {
        f(&mut self.vmcs);
        Ok(())
    }

    fn nmi_state(&mut self, _: usize) -> NmiState {
        NmiState::default()
    }

    fn capabilities(&self) -> Capabilities {
        capabilities()
    }

    fn previous(&self, _: usize) -> Option<&VmcsSnapshot> {
        Some(&self.previous)
    }
}

impl Host {
    fn new(vmcs: FakeVmcs) -> Host {
        let mut previous = VmcsSnapshot::empty();
        previous.capture(&mut FakeVmcs::well_formed()).unwrap();
        Host { vmcs, previous }
    }

    fn run(&mut self, args: &str) -> String {
        let mut out = String::new();
        monitor::run(args, self, &mut out).unwrap();
        out
    }
}

proptest! {
    #[test]
    fn a_snapshot_breaks_the_rules_that_its_vmcs_breaks(mut vmcs in vmcs()) {
        let mut snapshot = VmcsSnapshot::empty();
        snapshot.capture(&mut vmcs).unwrap();
        prop_assert_eq!(violations(&mut vmcs), violations(&mut snapshot));
        prop_assert_eq!(snapshot.changes(&snapshot).count(), 0);
    }

    #[test]
    fn an_overlay_is_what_the_write_would_make(mut vmcs in vmcs(), (field, value) in change()) {
        let overlaid = violations(&mut Overlay::new(&mut vmcs, &[(field, value)]));
        if vmcs.read(field).is_ok() {
            vmcs.set(field, value);
        }
        prop_assert_eq!(overlaid, violations(&mut vmcs));
    }

    #[test]
    fn set_never_breaks_a_sound_vmcs((field, value) in change()) {
        let mut host = Host::new(FakeVmcs::well_formed());
        let out = host.run(&std::format!("set {field} {value:#x}"));
        prop_assert_eq!(violations(&mut host.vmcs), []);
        // Either it is written or the person is told why not.
        let written = host.vmcs.read(field) == Ok(value);
        prop_assert!(written || out.starts_with("error: "), "{out}");
    }

    #[test]
    fn any_vmcs_prints(vmcs in vmcs()) {
        let mut host = Host::new(vmcs);
        for args in ["", "all", "check", "diff", "guest_*"] {
            let out = host.run(args);
            prop_assert!(out.ends_with('\n'));
            for line in out.lines() {
                prop_assert_eq!(line.trim_end(), line);
            }
        }
    }

    #[test]
    fn any_command_is_answered(args in "\\PC*") {
        let mut host = Host::new(FakeVmcs::well_formed());
        prop_assert!(host.run(&args).ends_with('\n'));
    }

    #[test]
    fn adjusted_controls_are_allowed(allowed0: u32, extra: u32, wanted: u32) {
        // What must be 1 may be 1.
        let allowed = AllowedSettings { allowed0, allowed1: allowed0 | extra };
        let adjusted = allowed.adjust(wanted);
        prop_assert_eq!(allowed.missing(adjusted) | allowed.excess(adjusted), 0);
        prop_assert_eq!((adjusted ^ wanted) & !allowed0 & allowed.allowed1, 0);
    }
}
