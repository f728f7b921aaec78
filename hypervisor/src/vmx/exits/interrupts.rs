//! Exits that events cause: NMIs, NMI windows, the exceptions that the debugger
//! wants, task switches.

use gdb_stub::StopKind;
use stillpoint_core::events::{self, Event, ExitKind, PAGE_FAULT};
use stillpoint_core::task_switch;
use vmcs_inspect::{ExitReason, Field, InterruptionInfo, PrimaryControls};

use crate::cpu::unblock_nmis;
use crate::memory::guest::GuestView;
use crate::vmx::guest_state;
use crate::vmx::instructions::{Current, get, invvpid_all};
use crate::vmx::vcpu::{Vcpu, set_nmi_blocking};
use crate::{RENDEZVOUS, debug, pal, trace};

/// The event that was being delivered when this exit came. Such an exit has not
/// delivered it, so it is the hypervisor's to inject again.
pub fn interrupted_delivery() -> Option<Event> {
    let info = idt_vectoring();
    if !info.valid() {
        return None;
    }
    let again = events::reinjection(
        info,
        get(Field::IDT_VECTORING_ERROR_CODE) as u32,
        get(Field::VM_EXIT_INSTRUCTION_LENGTH) as u32,
    )?;
    if again.clear_nmi_blocking {
        set_nmi_blocking(false);
    }
    Some(again.event)
}

fn idt_vectoring() -> InterruptionInfo {
    InterruptionInfo::from_raw(get(Field::IDT_VECTORING_INFO) as u32)
}

/// An IRET had unblocked NMIs when the exit undid it: they are blocked again.
pub fn undo_iret(kind: ExitKind) {
    if events::nmi_unblocked_by_iret(kind, idt_vectoring()) {
        set_nmi_blocking(true);
    }
}

/// Exit reason 0.
pub fn exception_or_nmi(vcpu: &mut Vcpu) {
    let info = InterruptionInfo::from_raw(get(Field::VM_EXIT_INTERRUPTION_INFO) as u32);
    if info.is_nmi() {
        #[cfg(feature = "test-hooks")]
        if crate::test_hooks::aim::nmi_exit() {
            return;
        }
        let meaning = RENDEZVOUS.on_nmi(vcpu.cpu.index, true);
        trace::event(trace::Event::NmiInGuest(meaning));
        // One NMI at most waits while NMIs are blocked, so they are blocked no longer
        // than need be.
        unblock_nmis();
        vcpu.look();
        return;
    }
    let original = interrupted_delivery();
    undo_iret(ExitKind::Exception(info));
    if vcpu.pal.is_some()
        && info.vector() == PAGE_FAULT
        && pal::calls::is_return(vcpu, get(Field::EXIT_QUALIFICATION))
    {
        return pal::calls::returned(vcpu);
    }
    if debug::exception(vcpu, info, original) {
        return;
    }
    let exception = Event::reflect(
        info,
        get(Field::VM_EXIT_INTERRUPTION_ERROR_CODE) as u32,
        get(Field::VM_EXIT_INSTRUCTION_LENGTH) as u32,
    );
    vcpu.fault_during(original, exception);
}

/// Exit reason 8: the guest can take an NMI now.
pub fn nmi_window(vcpu: &mut Vcpu) {
    vcpu.control(PrimaryControls::NMI_WINDOW_EXITING, false);
    vcpu.look();
}

/// Exit reason 9.
pub fn task_switch(vcpu: &mut Vcpu) {
    if vcpu.pal.is_some() {
        return vcpu.general_protection();
    }
    let paging = guest_state::paging();
    let read = task_switch::vmcs::read(&mut Current, &vcpu.registers.gprs, paging);
    let Ok((request, old)) = read else {
        return vcpu.stop(StopKind::UnknownExit(ExitReason::TaskSwitch.raw()));
    };
    match task_switch::switch(&mut GuestView(vcpu.cpu), &request, &old) {
        Ok(switched) => {
            if task_switch::vmcs::write(&mut Current, &switched).is_err() {
                return vcpu.stop(StopKind::UnknownExit(ExitReason::TaskSwitch.raw()));
            }
            vcpu.registers.gprs = switched.state.gprs;
            if let Some(cr2) = switched.fault.and_then(|fault| fault.cr2) {
                vcpu.set_cr2(cr2);
            } else if switched.debug_trap {
                debug::registers::set_task_trap();
            }
            if vcpu.controls.vpid {
                invvpid_all();
            }
        }
        Err(fault) => {
            let original = interrupted_delivery();
            if let Some(cr2) = fault.cr2 {
                vcpu.set_cr2(cr2);
            }
            vcpu.fault_during(original, fault.event);
        }
    }
}
