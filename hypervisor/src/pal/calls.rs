//! Into a PAL, and back. A call stops no other CPU: the caller's registers are put aside,
//! and this CPU changes page tables and view.
//!
//! The call is an EPT violation at the entry. If what the parameters point to is not
//! there, the caller gets the #PF that it would have got by touching it, and calls again.
//! The return is a page fault at [`RETURN_ADDRESS`]; if what the PAL gives back finds no
//! place, the caller gets a #PF at the entry, and the rest of the return follows when it
//! comes back there.

use core::sync::atomic::Ordering::SeqCst;

use stillpoint_abi::pal::{RETURN_ADDRESS, SectionType, Width};
use stillpoint_core::addr::Gva;
use stillpoint_core::paging::{PagingMode, PagingRegs, WalkError};
use stillpoint_core::pal::{CallSite, CopyError, Entry, Piece, registers_after};
use stillpoint_core::registers::Gprs;
use stillpoint_core::task_switch::vmcs::SEGMENTS;
use vmcs_inspect::{ActivityState, Field, PrimaryControls};

use super::ending::bring_on;
use super::fpu::{self, Vectors};
use super::memory::{CallersMemory, PalsMemory};
use super::registration::width;
use super::{Held, Pal, Slot, cr3_address, ending, find, slot, tag};
use crate::debug::registers;
use crate::trace;
use crate::vmx::instructions::{get, set};
use crate::vmx::vcpu::Vcpu;
use crate::vmx::{entry, ept, guest_state};
use crate::{RENDEZVOUS, debug};

const CR0_TS: u64 = 1 << 3;
/// RFLAGS with nothing but the bit that is always 1: no interrupts, no traps, no I/O.
const RFLAGS: u64 = 1 << 1;
/// DR7 with no breakpoint.
const DR7: u64 = 1 << 10;

/// Segment registers that are put aside.
const SEGMENT_COUNT: usize = 6;

/// Two of them, and where a segment's access rights are.
const CS: usize = 1;
const SS: usize = 2;
const RIGHTS: usize = 3;

/// Those that a PAL which returns can have changed: ES, DS, FS and GS. CS and SS it can
/// change only by what ends it, since it reaches no descriptor table.
const RETURNED: [usize; 4] = [0, 3, 4, 5];

/// What the caller of the PAL on a CPU has left: its registers at the entry, and how the
/// call went in. Filled in its place at every call.
#[derive(Default)]
pub struct CallerState {
    entry: Entry,
    piece: Piece,
    paging: PagingRegs,
    gprs: Gprs,
    vectors: Vectors,
    rip: u64,
    rsp: u64,
    rflags: u64,
    cr0: u64,
    cr3: u64,
    /// With PAE paging.
    pdptes: Option<[u64; 4]>,
    dr7: u64,
    debugctl: u64,
    segments: [[u64; 4]; SEGMENT_COUNT],
}

const PDPTES: [Field; 4] = [
    Field::GUEST_PDPTE0,
    Field::GUEST_PDPTE1,
    Field::GUEST_PDPTE2,
    Field::GUEST_PDPTE3,
];

/// What became of a fetch from a PAL's page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// It was a call, and has been dealt with.
    Taken,
    /// No PAL is called so.
    NotOne,
}

/// The guest fetches an instruction from a page that is lent, with this tag.
pub fn call(vcpu: &mut Vcpu, page_tag: u8) -> Call {
    let (rip, width) = (get(Field::GUEST_RIP), width(vcpu));
    if vcpu.cpl() != 3 || !is_flat(width) {
        return Call::NotOne;
    }
    let paging = guest_state::paging();
    let Some((id, slot)) = find(&paging, rip, width) else {
        return Call::NotOne;
    };
    // The page tables that found the PAL may be another program's by now, with a page of
    // its own PAL there.
    if page_tag != tag(id, SectionType::Code) {
        return Call::NotOne;
    }
    let me = vcpu.cpu.index as u16;
    if slot.step(|life| life.enter(me)) {
        enter(vcpu, id, slot, paging);
        return Call::Taken;
    }
    let [held_cr3, held_rsp] = &slot.held_at;
    let held = CallSite {
        cr3: held_cr3.load(SeqCst),
        rsp: held_rsp.load(SeqCst),
    };
    let now = CallSite {
        cr3: cr3_address(&paging),
        rsp: get(Field::GUEST_RSP),
    };
    if slot.step(|life| life.resume(me, held, now)) {
        // SAFETY: the PAL runs on this CPU.
        if let Some(held) = unsafe { slot.calls() }.held.take() {
            vcpu.caller.entry = held.entry;
            if give_back(vcpu, id, slot, &paging, &held.gprs) {
                go_on(vcpu, id, slot);
            }
        }
        return Call::Taken;
    }
    // Another CPU has it, or registers it. The caller tries again at once, and stops and
    // interrupts come in between.
    Call::Taken
}

/// Can a PAL run with the caller's segments? In 64-bit code they do not count. Others must
/// be such that each address is what it says, and code and stack 32 bits wide; there are
/// none like that in virtual-8086 mode.
fn is_flat(width: Width) -> bool {
    const VM: u64 = 1 << 17;
    /// D/B: 32-bit code, ESP.
    const WIDE: u64 = 1 << 14;
    const ES_TO_DS: usize = 4;
    width == Width::Bits64
        || get(Field::GUEST_RFLAGS) & VM == 0
            && SEGMENTS[..ES_TO_DS]
                .iter()
                .all(|[_, base, limit, _]| get(*base) == 0 && get(*limit) == u64::from(u32::MAX))
            && [CS, SS]
                .iter()
                .all(|&n| get(SEGMENTS[n][RIGHTS]) & WIDE != 0)
}

/// What the caller gets for memory that is not there.
fn fault(vcpu: &mut Vcpu, error: WalkError) {
    match error {
        WalkError::PageFault { code, gva } => {
            vcpu.set_cr2(gva.as_u64());
            vcpu.fault(14, Some(code));
        }
        _ => vcpu.general_protection(),
    }
}

fn enter(vcpu: &mut Vcpu, id: usize, slot: &Slot, paging: PagingRegs) {
    let me = vcpu.cpu.index as u16;
    // SAFETY: this CPU handles an exit.
    let Some(pal) = (unsafe { slot.pal() }) else {
        return;
    };
    let rsp = get(Field::GUEST_RSP);
    let mut caller = CallersMemory::new(vcpu.cpu, paging);
    let mut own = PalsMemory::new(pal);
    let CallerState { entry, piece, .. } = &mut vcpu.caller;
    let from = (&vcpu.registers.gprs, rsp);
    let entered = pal
        .marshalling
        .enter(from, &mut caller, &mut own, piece, entry);
    match entered {
        // The VM entry to such an address would fail.
        Ok(()) if !paging.is_addressable(Gva::new(entry.return_address)) => {
            bring_on(vcpu, id, slot, |life| life.leave(me));
            vcpu.general_protection();
        }
        Ok(()) => {
            // SAFETY: the PAL runs on this CPU from now on.
            unsafe { slot.calls() }.count += 1;
            switch(vcpu, id, pal, &paging);
            trace::event(trace::Event::PalEntered { id: id as u32 });
        }
        Err(error) => {
            bring_on(vcpu, id, slot, |life| life.leave(me));
            match error {
                CopyError::Caller(error) => fault(vcpu, error),
                // Its own pages are its own as long as it lives.
                CopyError::Pal(_) => vcpu.general_protection(),
            }
        }
    }
}

/// The guest becomes the PAL, by the entry that has been made for it.
fn switch(vcpu: &mut Vcpu, id: usize, pal: &Pal, paging: &PagingRegs) {
    let dr7 = registers::guest_dr7(vcpu);
    let caller = &mut vcpu.caller;
    fpu::put_aside(vcpu.cpu, &mut vcpu.registers, &mut caller.vectors);
    caller.gprs = vcpu.registers.gprs;
    caller.rip = get(Field::GUEST_RIP);
    caller.rsp = get(Field::GUEST_RSP);
    caller.rflags = get(Field::GUEST_RFLAGS);
    caller.cr0 = get(Field::GUEST_CR0);
    caller.cr3 = get(Field::GUEST_CR3);
    caller.dr7 = dr7;
    caller.debugctl = get(Field::GUEST_IA32_DEBUGCTL);
    for (fields, values) in SEGMENTS.iter().zip(&mut caller.segments) {
        *values = fields.map(get);
    }
    caller.paging = *paging;
    vcpu.registers.gprs = caller.entry.gprs;
    set(Field::GUEST_RSP, caller.entry.rsp);
    set(Field::GUEST_RFLAGS, RFLAGS);
    // With TS the first use of a vector register would be a fault for the system.
    set(Field::GUEST_CR0, caller.cr0 & !CR0_TS);
    let flags = caller.cr3 & !cr3_address(paging);
    set(Field::GUEST_CR3, pal.tables.root.as_u64() | flags);
    caller.pdptes = (paging.mode() == PagingMode::Pae).then(|| PDPTES.map(get));
    if caller.pdptes.is_some() {
        set_pdptes(&pal.tables.pdptes);
    }
    registers::set_guest_dr7(vcpu, DR7);
    set(Field::GUEST_IA32_DEBUGCTL, 0);
    set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    vcpu.end_shadows();
    ept::use_view(pal.view.eptp());
    if core::mem::take(&mut vcpu.zero_view) {
        vcpu.control(PrimaryControls::MONITOR_TRAP_FLAG, vcpu.stepping);
    }
    vcpu.pal = Some(id);
    registers::set_exceptions(vcpu);
}

fn set_pdptes(values: &[u64; 4]) {
    for (field, &value) in PDPTES.into_iter().zip(values) {
        set(field, value);
    }
}

/// The guest becomes the caller again, at the entry, as it was at the call, with these of
/// the [`SEGMENTS`].
fn switch_back(vcpu: &mut Vcpu, segments: &[usize]) {
    let caller = &vcpu.caller;
    vcpu.registers.gprs = caller.gprs;
    fpu::put_back(vcpu.cpu, &mut vcpu.registers, &caller.vectors);
    set(Field::GUEST_RIP, caller.rip);
    set(Field::GUEST_RSP, caller.rsp);
    set(Field::GUEST_RFLAGS, caller.rflags);
    set(Field::GUEST_CR0, caller.cr0);
    set(Field::GUEST_CR3, caller.cr3);
    if let Some(pdptes) = &caller.pdptes {
        set_pdptes(pdptes);
    }
    set(Field::GUEST_IA32_DEBUGCTL, caller.debugctl);
    for &n in segments {
        for (field, &value) in SEGMENTS[n].into_iter().zip(&caller.segments[n]) {
            set(field, value);
        }
    }
    set(Field::GUEST_PENDING_DEBUG_EXCEPTIONS, 0);
    vcpu.end_shadows();
    ept::use_guest_view();
    registers::set_guest_dr7(vcpu, vcpu.caller.dr7);
    registers::set_exceptions(vcpu);
    // NMIs that were held while the PAL ran.
    if RENDEZVOUS.owes(vcpu.cpu.index) {
        entry::make_look_again(vcpu.cpu);
    }
}

/// Ends the run of the PAL on this CPU, if there is one, and tells which it was. The
/// guest is its caller again, at the entry.
pub fn abandon(vcpu: &mut Vcpu) -> Option<usize> {
    let id = vcpu.pal.take()?;
    // In ring 0, where a kernel can bring a PAL of its own, it has changed what it liked.
    let paging = &vcpu.caller.paging;
    set(Field::GUEST_CR4, paging.cr4);
    guest_state::set_efer(paging.efer);
    set(
        Field::GUEST_ACTIVITY_STATE,
        ActivityState::Active.raw().into(),
    );
    switch_back(vcpu, &[0, 1, 2, 3, 4, 5]);
    Some(id)
}

/// Is this page fault of the PAL's its return? `linear` is the address that it was for.
/// It returns in the mode in which it was called, all that is not restored being as it
/// was: a kernel can bring a PAL of its own to ring 0.
pub fn is_return(vcpu: &Vcpu, linear: u64) -> bool {
    let as_called = |segment: usize| {
        let [.., rights] = SEGMENTS[segment];
        get(rights) == vcpu.caller.segments[segment][RIGHTS]
    };
    linear == RETURN_ADDRESS
        && get(Field::GUEST_RIP) == RETURN_ADDRESS
        && as_called(CS)
        && as_called(SS)
        && get(Field::GUEST_CR4) == vcpu.caller.paging.cr4
        && get(Field::GUEST_IA32_EFER) == vcpu.caller.paging.efer
}

/// The PAL has returned.
#[inline(never)] // Large: other exits are not to pay for its frame.
pub fn returned(vcpu: &mut Vcpu) {
    let at_return = vcpu.registers.gprs;
    let Some(id) = vcpu.pal.take() else { return };
    switch_back(vcpu, &RETURNED);
    let Some(slot) = slot(id) else { return };
    let gprs = registers_after(width(vcpu), &vcpu.caller.gprs, &at_return);
    let paging = vcpu.caller.paging;
    if give_back(vcpu, id, slot, &paging, &gprs) {
        go_on(vcpu, id, slot);
    }
}

/// Gives back what the parameters of this CPU's call point to, and the result. False if
/// the caller has to come back for it.
fn give_back(vcpu: &mut Vcpu, id: usize, slot: &Slot, paging: &PagingRegs, gprs: &Gprs) -> bool {
    // SAFETY: this CPU handles an exit.
    let Some(pal) = (unsafe { slot.pal() }) else {
        return false;
    };
    let mut caller = CallersMemory::new(vcpu.cpu, *paging);
    let mut own = PalsMemory::new(pal);
    let CallerState { entry, piece, .. } = &mut vcpu.caller;
    let Err(error) = pal.marshalling.leave(entry, &mut caller, &mut own, piece) else {
        vcpu.registers.gprs = *gprs;
        set(Field::GUEST_RIP, entry.return_address);
        set(Field::GUEST_RSP, entry.caller_rsp);
        return true;
    };
    // SAFETY: the PAL runs on this CPU.
    unsafe { slot.calls() }.held = Some(Held {
        entry: entry.clone(),
        gprs: *gprs,
    });
    let [held_cr3, held_rsp] = &slot.held_at;
    held_cr3.store(cr3_address(paging), SeqCst);
    held_rsp.store(get(Field::GUEST_RSP), SeqCst);
    let me = vcpu.cpu.index as u16;
    bring_on(vcpu, id, slot, |life| life.suspend(me));
    match error {
        CopyError::Caller(error) => fault(vcpu, error),
        CopyError::Pal(_) => vcpu.general_protection(),
    }
    false
}

/// The caller goes on behind its call.
fn go_on(vcpu: &mut Vcpu, id: usize, slot: &Slot) {
    let me = vcpu.cpu.index as u16;
    // SAFETY: this CPU handles an exit.
    let shared = unsafe { slot.pal() }.is_some_and(Pal::has_shared);
    if shared {
        debug::with_machine_stopped(vcpu, |_| {
            // SAFETY: the machine is stopped.
            if let Some(pal) = unsafe { slot.pal_mut() } {
                ending::take_back_shared(pal);
            }
        });
    }
    bring_on(vcpu, id, slot, |life| life.leave(me));
    trace::event(trace::Event::PalLeft { id: id as u32 });
}
