//! The debug registers, which guest and debugger share.

use core::arch::asm;

use crate::vmx::vcpu::Vcpu;

/// The guest's debug registers, while the debugger uses the real ones.
#[derive(Clone, Copy, Default)]
pub struct GuestDebug {
    /// DR0 to DR3.
    pub address: [u64; 4],
    /// DR7
    pub dr7: u64,
}

/// After INIT: DR0 to DR3 are 0, DR6 is as given.
pub fn reset(dr6: u64) {
    // SAFETY: the hypervisor sets no breakpoints of its own.
    unsafe {
        asm!("mov dr0, {zero}", "mov dr1, {zero}", "mov dr2, {zero}", "mov dr3, {zero}",
             "mov dr6, {dr6}", zero = in(reg) 0u64, dr6 = in(reg) dr6,
             options(nomem, nostack, preserves_flags));
    }
}

/// Exit reason 29.
pub fn mov_dr(vcpu: &mut Vcpu) {
    vcpu.skip_instruction();
}
