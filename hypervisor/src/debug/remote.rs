//! Work that the owner of a stop has another CPU do: whatever needs that CPU's
//! current VMCS, its MSRs or its debug registers.

use core::sync::atomic::{AtomicPtr, AtomicU32, Ordering};

use super::host;
use crate::RENDEZVOUS;
use crate::cpu::percpu::{self, PerCpu};
use crate::vmx::vcpu::Vcpu;

const EMPTY: u32 = 0;
const POSTED: u32 = 1;
const DONE: u32 = 2;

/// One request at a time: the owner is alone.
pub struct WorkSlot {
    state: AtomicU32,
    request: AtomicPtr<Request<'static>>,
}

/// A closure on the owner's stack, which waits for it.
struct Request<'a>(&'a mut dyn FnMut(&mut Vcpu));

/// The CPU is parked, not stopped, or has failed at it: nobody answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotServing;

/// Does what has been posted for this CPU, if anything. Called by it while it
/// stands in another's stop.
pub fn serve(slot: &WorkSlot, vcpu: &mut Vcpu) {
    if slot.state.load(Ordering::Acquire) == POSTED {
        let request = slot.request.load(Ordering::Acquire);
        // SAFETY: `on` keeps the request alive, and does not touch it, until DONE: the
        // closure runs here instead of there, never in both places.
        unsafe { ((*request).0)(vcpu) };
        slot.state.store(DONE, Ordering::Release);
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
    slot.request
        .store((&raw mut request).cast(), Ordering::Release);
    slot.state.store(POSTED, Ordering::Release);
    while slot.state.load(Ordering::Acquire) != DONE {
        if host::has_failed(cpu.index) {
            slot.state.store(EMPTY, Ordering::Release);
            return Err(NotServing);
        }
        core::hint::spin_loop();
    }
    slot.state.store(EMPTY, Ordering::Release);
    Ok(())
}
