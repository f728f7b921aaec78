//! The states and controls that this crate plans, put into a VMCS in memory and held
//! to the SDM's VM-entry checks: a processor would enter the guest with them.

use proptest::prelude::*;
use stillpoint_core::addr::Hpa;
use stillpoint_core::control_regs::{CR0_PG, CR4_PAE, FixedBits};
use stillpoint_core::cpu_state::{self, GuestReset, ResetInput};
use stillpoint_core::ept::eptp;
use stillpoint_core::events::{Event, NmiAction, NmiState, owed_nmi, reinjection};
use stillpoint_core::vmcs_plan::{ControlValues, PlanInput, VmxMsrs, plan};
use vmcs_inspect::fake::{FakeVmcs, capabilities};
use vmcs_inspect::{
    ActivityState, Field, GuestInterruptibility, InterruptionInfo, VmcsAccess, check,
};

const PAT: u64 = 0x0007_0406_0007_0406;

fn controls(debugger: bool) -> ControlValues {
    let input = PlanInput {
        preemption_timer: debugger,
    };
    plan(&VmxMsrs::from(&capabilities()), &input).unwrap()
}

fn reset_input(controls: &ControlValues) -> ResetInput {
    ResetInput {
        fixed: FixedBits::from(&capabilities()),
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
fn real_mode_takes_exceptions_without_error_codes() {
    let controls = controls(false);
    let state = cpu_state::at_boot_sector(&reset_input(&controls), 0x80);
    let mut vmcs = vmcs(&controls, &state);
    inject(&mut vmcs, Event::general_protection());
    assert_ne!(broken(vmcs.clone()), NONE);
    let cr0 = vmcs.read(Field::GUEST_CR0).unwrap();
    inject(&mut vmcs, Event::general_protection().in_mode(cr0));
    assert_eq!(broken(vmcs), NONE);
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

/// A guest with two tasks: memory that is mapped one to one, and the VMCS of the
/// exit for a double fault through a task gate.
mod two_tasks {
    use stillpoint_core::addr::Gpa;
    use stillpoint_core::control_regs::CR4_PAE;
    use stillpoint_core::paging::{PagingRegs, PhysMem, PhysMemError};
    use stillpoint_core::registers::Gprs;
    use stillpoint_core::task_switch::{self, Switched};
    use vmcs_inspect::fake::FakeVmcs;
    use vmcs_inspect::{Field, InterruptionInfo, VmcsAccess};

    pub struct Memory(pub Vec<u8>);

    impl PhysMem for Memory {
        fn read(&mut self, address: Gpa, into: &mut [u8]) -> Result<(), PhysMemError> {
            let start = address.as_u64() as usize;
            let bytes = self.0.get(start..start + into.len());
            into.copy_from_slice(bytes.ok_or(PhysMemError(address))?);
            Ok(())
        }

        fn write(&mut self, address: Gpa, from: &[u8]) -> Result<(), PhysMemError> {
            let start = address.as_u64() as usize;
            let bytes = self.0.get_mut(start..start + from.len());
            bytes.ok_or(PhysMemError(address))?.copy_from_slice(from);
            Ok(())
        }
    }

    /// The GDT is at 0, with code 8, data 0x10, the old task 0x18 at 0x100 and the
    /// new one 0x20 at 0x200.
    pub fn memory() -> Memory {
        let mut memory = Memory(vec![0; 0x4000]);
        let gdt = [
            0u64,
            0x00cf_9a00_0000_ffff,
            0x00cf_9200_0000_ffff,
            0x0000_8b00_0100_0067,
            0x0000_8900_0200_0067,
        ];
        for (n, descriptor) in gdt.iter().enumerate() {
            memory.0[8 * n..8 * n + 8].copy_from_slice(&descriptor.to_le_bytes());
        }
        for (at, value) in [
            (0x20, 0x1000u32),
            (0x24, 2),
            (0x38, 0x3000),
            (0x48, 0x10),
            (0x4c, 8),
            (0x50, 0x10),
        ] {
            memory.0[0x200 + at..0x204 + at].copy_from_slice(&value.to_le_bytes());
        }
        memory
    }

    pub fn vmcs(controls: &super::ControlValues) -> FakeVmcs {
        let input = super::reset_input(controls);
        let state = super::cpu_state::at_boot_sector(&input, 0x80);
        let mut vmcs = super::vmcs(controls, &state);
        let cr0 = input.fixed.cr0(0x31);
        for (field, value) in [
            (Field::GUEST_CR0, cr0.real),
            (Field::CR0_READ_SHADOW, cr0.shadow),
            (Field::GUEST_CS_SELECTOR, 8),
            (Field::GUEST_CS_LIMIT, 0xffff_ffff),
            (Field::GUEST_CS_ACCESS_RIGHTS, 0xc09b),
            (Field::GUEST_GDTR_LIMIT, 0x27),
            (Field::GUEST_TR_SELECTOR, 0x18),
            (Field::GUEST_TR_BASE, 0x100),
            (Field::GUEST_TR_LIMIT, 0x67),
            (Field::GUEST_INTERRUPTIBILITY, 1 << 3),
            (Field::EXIT_QUALIFICATION, 3 << 30 | 0x20),
            (
                Field::IDT_VECTORING_INFO,
                InterruptionInfo::hardware_exception(8, true).raw().into(),
            ),
        ] {
            vmcs.set(field, value);
        }
        vmcs
    }

    pub fn switch(vmcs: &mut FakeVmcs, memory: &mut Memory) -> Switched {
        let cr4 = vmcs.read(Field::GUEST_CR4).unwrap();
        let pdpte = vmcs.read(Field::GUEST_PDPTE0).unwrap();
        let paging = PagingRegs {
            cr0: vmcs.read(Field::GUEST_CR0).unwrap(),
            cr4,
            pdptes: (cr4 & CR4_PAE != 0).then_some([pdpte, 0, 0, 0]),
            max_phys_addr: 36,
            ..PagingRegs::default()
        };
        let (request, old) = task_switch::vmcs::read(vmcs, &Gprs::default(), paging).unwrap();
        let switched = task_switch::switch(memory, &request, &old).unwrap();
        task_switch::vmcs::write(vmcs, &switched).unwrap();
        switched
    }
}

#[test]
fn a_new_task_can_be_entered() {
    let controls = controls(false);
    let mut vmcs = two_tasks::vmcs(&controls);
    assert_eq!(broken(vmcs.clone()), NONE, "before");
    let mut memory = two_tasks::memory();
    let switched = two_tasks::switch(&mut vmcs, &mut memory);
    assert_eq!(switched.event(), None);
    assert_eq!(broken(vmcs.clone()), NONE);
    let mut get = |field| vmcs.read(field).unwrap();
    assert_eq!(get(Field::GUEST_RIP), 0x1000);
    assert_eq!(
        get(Field::GUEST_RSP),
        0x3000 - 4,
        "the error code is pushed"
    );
    assert_eq!(get(Field::GUEST_TR_SELECTOR), 0x20);
    assert_eq!(get(Field::GUEST_TR_ACCESS_RIGHTS), 0x8b);
    assert_eq!(get(Field::GUEST_FS_ACCESS_RIGHTS), 1 << 16);
    assert_eq!(get(Field::GUEST_CR0) & 8, 8, "TS");
    assert_eq!(
        get(Field::GUEST_INTERRUPTIBILITY),
        1 << 3,
        "still in the NMI"
    );
    assert_eq!(get(Field::VM_ENTRY_INTERRUPTION_INFO), 0);
    assert_eq!(
        memory.0[0x120..0x122],
        0x7c00u16.to_le_bytes(),
        "the old EIP"
    );
}

/// Whatever is wrong with the new task's segments, the fault can be delivered.
#[test]
fn a_bad_new_task_can_be_entered_too() {
    let controls = controls(false);
    for (at, selector) in [
        (0x4c, 0u8),
        (0x4c, 0x10),
        (0x4c, 0x0b),
        (0x50, 0),
        (0x50, 0x13),
        (0x54, 0x18),
        (0x60, 8),
    ] {
        let mut vmcs = two_tasks::vmcs(&controls);
        let mut memory = two_tasks::memory();
        memory.0[0x200 + at] = selector;
        let switched = two_tasks::switch(&mut vmcs, &mut memory);
        assert!(switched.fault.is_some(), "{at:#x} = {selector:#x}");
        assert_eq!(broken(vmcs.clone()), NONE, "{at:#x} = {selector:#x}");
        // CPL is the RPL of the new CS, whether or not that could be loaded.
        let level = vmcs.read(Field::GUEST_CS_SELECTOR).unwrap() & 3;
        let rights = vmcs.read(Field::GUEST_SS_ACCESS_RIGHTS).unwrap();
        assert_eq!(rights >> 5 & 3, level);
        let info = vmcs.read(Field::VM_ENTRY_INTERRUPTION_INFO).unwrap();
        assert_eq!(info, switched.event().unwrap().info.raw().into());
    }
}

/// Loading CR3 comes before the segments.
#[test]
fn a_new_task_with_bad_pdptes_can_be_entered() {
    let mut vmcs = two_tasks::vmcs(&controls(false));
    let mut memory = two_tasks::memory();
    // A page directory at 0x3000 maps the first 2 MiB; where the new CR3 points,
    // bit 1 is reserved.
    memory.0[0x3000] = 0x83;
    memory.0[0x200 + 0x1d] = 0x38;
    memory.0[0x3800] = 0x3;
    for (field, bits) in [
        (Field::GUEST_CR0, CR0_PG),
        (Field::GUEST_CR4, CR4_PAE),
        (Field::GUEST_PDPTE0, 0x3001),
    ] {
        let old = vmcs.read(field).unwrap();
        vmcs.set(field, old | bits);
    }
    assert_eq!(broken(vmcs.clone()), NONE, "before");
    let switched = two_tasks::switch(&mut vmcs, &mut memory);
    let gp = Event::exception(13, Some(1));
    assert_eq!(switched.event(), Some(gp));
    assert_eq!(broken(vmcs), NONE);
}

/// In virtual-8086 mode only the LDT can be bad.
#[test]
fn a_new_virtual_8086_task_with_a_bad_ldt_can_be_entered() {
    let mut vmcs = two_tasks::vmcs(&controls(false));
    let mut memory = two_tasks::memory();
    memory.0[0x200 + 0x26] = 2;
    memory.0[0x200 + 0x60] = 8;
    let switched = two_tasks::switch(&mut vmcs, &mut memory);
    let bad_ldt = Event::exception(10, Some(9));
    assert_eq!(switched.event(), Some(bad_ldt));
    assert_eq!(broken(vmcs.clone()), NONE);
    assert_eq!(vmcs.read(Field::GUEST_CS_BASE), Ok(0x80));
}

#[test]
fn an_iret_to_a_task_unblocks_nmis_and_its_trap_is_due() {
    let controls = controls(false);
    let mut vmcs = two_tasks::vmcs(&controls);
    let mut memory = two_tasks::memory();
    vmcs.set(Field::EXIT_QUALIFICATION, 1 << 30 | 0x20);
    vmcs.set(Field::IDT_VECTORING_INFO, 0);
    memory.0[0x264] = 1;
    two_tasks::switch(&mut vmcs, &mut memory);
    assert_eq!(broken(vmcs.clone()), NONE);
    assert_eq!(vmcs.read(Field::GUEST_INTERRUPTIBILITY), Ok(0));
    let info = vmcs.read(Field::VM_ENTRY_INTERRUPTION_INFO);
    assert_eq!(
        info,
        Ok(InterruptionInfo::hardware_exception(1, false).raw().into())
    );
}
