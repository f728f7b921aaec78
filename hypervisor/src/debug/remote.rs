//! Work that the owner of a stop has another CPU do: whatever needs that CPU's
//! current VMCS, its MSRs or its debug registers.

use stillpoint_quiesce::WorkSlot;

use super::host;
use crate::RENDEZVOUS;
use crate::cpu::percpu::{self, PerCpu};
use crate::vmx::vcpu::Vcpu;

/// One request at a time: the owner is alone.
pub type RequestSlot = WorkSlot<Request<'static>>;

/// A closure on the owner's stack, which waits for it.
pub struct Request<'a>(&'a mut dyn FnMut(&mut Vcpu));

/// The CPU is parked, not stopped, or has failed at it: nobody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotServing;

/// Does what has been posted for this CPU, if anything. Called by it while it
/// stands in another's stop.
pub fn serve(slot: &RequestSlot, vcpu: &mut Vcpu) {
    if let Some(request) = slot.posted() {
        // SAFETY: `on` keeps the request alive, and does not touch it, until it is
        // finished: the closure runs here instead of there, never in both places.
        unsafe { ((*request).0)(vcpu) };
        slot.finish();
    }
}

/// Runs `work` on `cpu`, which is another one that stands in the caller's stop,
/// and waits for it.
///
/// # Errors
/// [`NotServing`]
pub fn on(cpu: &PerCpu, work: &mut dyn FnMut(&mut Vcpu)) -> Result<(), NotServing> {
    if cpu.index == percpu::this().index
        || !RENDEZVOUS.serves(cpu.index)
        || host::has_failed(cpu.index)
    {
        return Err(NotServing);
    }
    let mut request = Request(work);
    let slot = &cpu.work;
    slot.post((&raw mut request).cast());
    while !slot.is_finished() {
        if host::has_failed(cpu.index) {
            slot.clear();
            return Err(NotServing);
        }
        core::hint::spin_loop();
    }
    slot.clear();
    Ok(())
}
