//! The micro-TPM's commands, which PALs alone may use.

use spin::Mutex;
use stillpoint_abi::{Hypercall, HypercallResult};
use stillpoint_utpm::{Outcome, Tpm};

use super::memory::PalsMemory;
use super::slot;
use crate::cpu::{self, entropy};
use crate::log::log;
use crate::vmx::vcpu::Vcpu;

/// Its secrets are drawn when it is first asked for something.
static TPM: Mutex<Option<Tpm>> = Mutex::new(None);

/// Destroys the secrets: what was sealed stays so. The next command draws new ones.
pub fn wipe() {
    let mut tpm = TPM.lock();
    // In place: a move would leave the secrets where they were.
    if let Some(tpm) = tpm.as_mut() {
        tpm.wipe();
    }
    *tpm = None;
    cpu::write_back((&raw const *tpm).cast(), size_of_val(&*tpm));
}

/// One command. `None` if the caller has to execute its VMCALL again.
pub fn execute(vcpu: &mut Vcpu, call: Hypercall, arguments: [u64; 4]) -> Option<HypercallResult> {
    let Some(id) = vcpu.pal else {
        return Some(HypercallResult::Failure);
    };
    let Some(slot) = slot(id) else {
        return Some(HypercallResult::Failure);
    };
    // SAFETY: this CPU handles an exit, and runs the PAL.
    let (pal, calls) = unsafe { (slot.pal(), slot.calls()) };
    let Some(pal) = pal else {
        return Some(HypercallResult::Failure);
    };
    // Another PAL's command may take long. This one waits in the guest.
    let mut tpm = TPM.try_lock()?;
    let mut source = match entropy::source() {
        Ok(source) => source,
        Err(why) => return Some(without_entropy(why)),
    };
    if tpm.is_none() {
        match Tpm::new(&mut source) {
            Ok(new) => {
                log!("the micro-TPM has drawn its keys: what it seals lasts until the next boot");
                *tpm = Some(new);
            }
            Err(why) => return Some(without_entropy(why)),
        }
    }
    let mut memory = PalsMemory::new(pal);
    let (width, pcrs) = (pal.request.width, &mut calls.pcrs);
    match tpm
        .as_mut()?
        .execute(call, arguments, width, pcrs, &mut memory, &mut source)
    {
        Outcome::Done(result) => Some(result),
        Outcome::Again => None,
    }
}

fn without_entropy(why: impl core::fmt::Display) -> HypercallResult {
    log!("the micro-TPM has no randomness: {why}");
    HypercallResult::InsufficientEntropy
}
