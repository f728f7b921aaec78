//! The debugger's side of the hypervisor: stopping the machine, and what enters
//! the stub without being asked.

pub mod registers;
pub mod remote;

use gdb_stub::{StopKind, StopReason};
use vmcs_inspect::InterruptionInfo;

use crate::RENDEZVOUS;
use crate::cpu::apic::ApicNmi;
use crate::cpu::halt_forever;
use crate::cpu::interrupts::Frame;
use crate::log::{self, log};
use crate::vmx::instructions::VmxFailure;
use crate::vmx::vcpu::Vcpu;

/// Runs `work` with every other CPU stopped.
pub fn with_machine_stopped(vcpu: &mut Vcpu, work: impl FnOnce(&mut Vcpu)) {
    let me = vcpu.cpu.index;
    let taken = RENDEZVOUS.stop(me, &ApicNmi, vcpu);
    work(vcpu);
    if taken {
        RENDEZVOUS.release(me);
        crate::vmx::entry::make_look_again(vcpu.cpu);
    }
}

/// Polls the debugger's line, on the CPU that has the timer.
pub fn poll(_vcpu: &mut Vcpu) {}

/// Stops the machine and lets a person look.
pub fn stop(vcpu: &mut Vcpu, reason: StopReason) {
    log::retake_console();
    log!("stop: {reason:?} rip {:#x} qual {:#x} gpa {:#x}",
        crate::vmx::instructions::get(vmcs_inspect::Field::GUEST_RIP),
        crate::vmx::instructions::get(vmcs_inspect::Field::EXIT_QUALIFICATION),
        crate::vmx::instructions::get(vmcs_inspect::Field::GUEST_PHYSICAL_ADDRESS),
        );
    let _ = vcpu;
    halt_forever()
}

/// A VM entry failed.
pub fn entry_failed(vcpu: &mut Vcpu, failure: Option<VmxFailure>) {
    log::retake_console();
    log!("VM entry failed: {failure:?}");
    vcpu.stop(StopKind::EntryFailure);
}

/// Is this exception the debugger's?
pub fn claims_exception(_vcpu: &mut Vcpu, _info: InterruptionInfo) -> Option<StopKind> {
    None
}

/// The hypervisor itself took an exception.
pub fn host_fault(frame: &mut Frame) {
    log::retake_console();
    log!("host fault: vector {} error {:#x} rip {:#x} rsp {:#x}", frame.vector, frame.error, frame.rip, frame.rsp);
    halt_forever()
}
