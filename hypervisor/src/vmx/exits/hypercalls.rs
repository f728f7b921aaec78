//! VMCALL: TrustVisor's hypercalls, and the memory map's hook in INT 15h.

use stillpoint_abi::{Hypercall, HypercallResult};
use stillpoint_core::registers::Gpr;

use crate::memory::bios;
use crate::pal::{registration, tpm};
use crate::trace;
use crate::vmx::vcpu::Vcpu;

/// Exit reason 18.
pub fn handle(vcpu: &mut Vcpu) {
    if bios::is_hook() {
        return bios::answer(vcpu);
    }
    let command = vcpu.registers.gprs[Gpr::Rax] as u32;
    let argument = vcpu.registers.gprs[Gpr::Rcx];
    trace::event(trace::Event::Hypercall { command, argument });
    #[cfg(feature = "test-hooks")]
    if let Some(hook) = stillpoint_abi::TestHook::from_command(command) {
        return crate::test_hooks::handle(vcpu, hook);
    }
    match Hypercall::from_command(command) {
        None => answer(vcpu, HypercallResult::Failure),
        Some(Hypercall::Test) => answer(vcpu, HypercallResult::Success),
        Some(call) => trustvisor(vcpu, call),
    }
}

/// The commands that PALs are made with, and those that they have.
#[inline(never)] // Large: TEST and the hook are not to pay for its frame.
fn trustvisor(vcpu: &mut Vcpu, call: Hypercall) {
    let gprs = &vcpu.registers.gprs;
    let width = registration::width(vcpu);
    let arguments = [Gpr::Rcx, Gpr::Rdx, Gpr::Rsi, Gpr::Rdi].map(|r| width.truncate(gprs[r]));
    let result = match call {
        Hypercall::Register => registration::register(vcpu, arguments),
        Hypercall::Unregister => registration::unregister(vcpu, arguments),
        Hypercall::Share => registration::share(vcpu, arguments),
        _ => match tpm::execute(vcpu, call, arguments) {
            Some(result) => result,
            // The VMCALL is executed again.
            None => return,
        },
    };
    answer(vcpu, result);
}

fn answer(vcpu: &mut Vcpu, result: HypercallResult) {
    vcpu.registers.gprs[Gpr::Rax] = result.code();
    vcpu.skip_instruction();
}
