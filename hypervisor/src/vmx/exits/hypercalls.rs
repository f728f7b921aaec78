//! VMCALL: TrustVisor's hypercalls, and the memory map's hook in INT 15h.

use stillpoint_abi::{Hypercall, HypercallResult};
use stillpoint_core::registers::Gpr;

use crate::memory::bios;
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
    let result = match Hypercall::from_command(command) {
        Some(Hypercall::Test) => HypercallResult::Success,
        _ => HypercallResult::Failure,
    };
    vcpu.registers.gprs[Gpr::Rax] = result.code();
    vcpu.skip_instruction();
}
