//! The states and controls that this crate plans, put into a VMCS in memory and held
//! to the SDM's VM-entry checks: a processor would enter the guest with them.

use proptest::prelude::*;
use stillpoint_core::addr::Hpa;
use stillpoint_core::control_regs::FixedBits;
use stillpoint_core::cpu_state::{self, GuestReset, ResetInput};
use stillpoint_core::ept::eptp;
use stillpoint_core::events::{Event, NmiAction, NmiState, owed_nmi, reinjection};
use stillpoint_core::vmcs_plan::{ControlValues, PlanInput, VmxMsrs, plan};
use vmcs_inspect::fake::{FakeVmcs, capabilities};
use vmcs_inspect::{ActivityState, Field, GuestInterruptibility, InterruptionInfo, check};

const PAT: u64 = 0x0007_0406_0007_0406;

fn controls(debugger: bool) -> ControlValues {
    let input = PlanInput {
        preemption_timer: debugger,
        io_bitmaps: debugger,
    };
    plan(&VmxMsrs::from(&capabilities()), &input).unwrap()
}

fn reset_input(controls: &ControlValues) -> ResetInput {
    let caps = capabilities();
    ResetInput {
        fixed: FixedBits {
            cr0_fixed0: caps.cr0_fixed0,
            cr0_fixed1: caps.cr0_fixed1,
            cr4_fixed0: caps.cr4_fixed0,
            cr4_fixed1: caps.cr4_fixed1,
        },
        signature: 0x306d4,
        cr0: 0,
        entry_controls: controls.entry,
    }
}

/// A VMCS with a guest state that was planned here, over the host state of one
/// that is well formed.
fn vmcs(controls: &ControlValues, state: &GuestReset) -> FakeVmcs {
    let mut vmcs = FakeVmcs::well_formed();
    let fields = controls.fields();
    let first = cpu_state::first_fields(PAT);
    for &(field, value) in fields.iter().chain(&first).chain(&state.fields) {
        vmcs.set(field, value);
    }
    vmcs.set(Field::EPT_POINTER, eptp(Hpa::new(0x12_3000)));
    vmcs
}

/// The rules that a VMCS breaks, in words.
fn broken(mut vmcs: FakeVmcs) -> Vec<String> {
    let mut broken = Vec::new();
    check(&mut vmcs, &capabilities(), &mut |violation| {
        broken.push(violation.to_string());
    })
    .unwrap();
    broken
}

const NONE: [&str; 0] = [];

#[test]
fn the_boot_sector_can_be_entered() {
    for debugger in [false, true] {
        let controls = controls(debugger);
        let state = cpu_state::at_boot_sector(&reset_input(&controls), 0x81);
        assert_eq!(broken(vmcs(&controls, &state)), NONE);
    }
}

#[test]
fn a_parked_cpu_can_be_entered_and_started() {
    let controls = controls(true);
    let state = cpu_state::after_init(&reset_input(&controls));
    let mut vmcs = vmcs(&controls, &state);
    assert_eq!(broken(vmcs.clone()), NONE);
    for (field, value) in cpu_state::sipi_fields(0x9a) {
        vmcs.set(field, value);
    }
    assert_eq!(broken(vmcs), NONE);
}

/// Puts an event into the VM-entry fields as the hypervisor does.
fn inject(vmcs: &mut FakeVmcs, event: Event) {
    vmcs.set(Field::VM_ENTRY_INTERRUPTION_INFO, event.info.raw().into());
    vmcs.set(
        Field::VM_ENTRY_EXCEPTION_ERROR_CODE,
        event.error_code.into(),
    );
    vmcs.set(
        Field::VM_ENTRY_INSTRUCTION_LENGTH,
        event.instruction_length.into(),
    );
}

#[test]
fn each_event_can_be_injected() {
    for event in [
        Event::invalid_opcode(),
        Event::general_protection(),
        Event::exception(14, Some(2)),
        Event::nmi(),
        Event::external_interrupt(0x30),
        Event::software_exception(3, 1),
        Event::software_interrupt(0x80, 2),
        Event::privileged_software_exception(1),
    ] {
        let mut vmcs = FakeVmcs::well_formed();
        inject(&mut vmcs, event);
        assert_eq!(broken(vmcs), NONE, "{event:?}");
    }
}

#[test]
fn an_nmi_that_an_exit_broke_off_goes_in_again() {
    let again = reinjection(InterruptionInfo::NMI, 0, 0).unwrap();
    let mut vmcs = FakeVmcs::well_formed();
    let blocking = GuestInterruptibility::BLOCKING_BY_NMI;
    inject(&mut vmcs, again.event);
    vmcs.set(Field::GUEST_INTERRUPTIBILITY, blocking.bits().into());
    assert_ne!(broken(vmcs.clone()), NONE, "blocked, it must not go in");
    assert!(again.clear_nmi_blocking);
    vmcs.set(Field::GUEST_INTERRUPTIBILITY, 0);
    assert_eq!(broken(vmcs), NONE);
}

proptest! {
    /// Where an owed NMI is injected, VM entry takes it.
    #[test]
    fn owed_nmis_never_fail_an_entry(
        bits in 0..4u32,
        nmi in any::<bool>(),
        halted in any::<bool>(),
        owed in 1..3u32,
    ) {
        let interruptibility = GuestInterruptibility::from_bits_retain(bits | u32::from(nmi) << 3);
        let activity = if halted { ActivityState::Hlt } else { ActivityState::Active };
        let state = NmiState { owed, interruptibility, activity, injecting: false, stepping: false, in_pal: false };
        if let NmiAction::Inject { .. } = owed_nmi(&state) {
            let mut vmcs = FakeVmcs::well_formed();
            vmcs.set(Field::GUEST_INTERRUPTIBILITY, interruptibility.bits().into());
            vmcs.set(Field::GUEST_ACTIVITY_STATE, activity.raw().into());
            inject(&mut vmcs, Event::nmi());
            prop_assert_eq!(broken(vmcs), NONE);
        }
    }
}
