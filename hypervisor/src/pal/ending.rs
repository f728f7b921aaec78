//! The end of a PAL: UNREG, a fault of its own, the debugger, a program that has gone, or
//! a restart of the machine. What the PAL could write is wiped before anybody else can
//! read it.
//!
//! Code is not wiped: the PAL cannot write it, so it holds none of its secrets, and the
//! page may be one of a file that other programs have mapped.

use core::sync::atomic::Ordering::SeqCst;

use stillpoint_abi::pal::SectionType;
use stillpoint_core::addr::{Gpa, Hpa, PAGE_SIZE};
use stillpoint_core::events::Event;
use stillpoint_core::pal::{Life, Rights};
use vmcs_inspect::{ExitReason, Field};

use super::{Pal, Slot, calls, slot, slots, tpm};
use crate::cpu::{self, percpu};
use crate::debug::{self, remote};
use crate::log::log;
use crate::memory::{layout, pool};
use crate::trace::{self, PalEnd};
use crate::vmx::instructions::get;
use crate::vmx::vcpu::Vcpu;
use crate::vmx::{ept, io};

/// Wipes a page that a PAL could write, in memory as well as in the caches.
fn wipe(gpa: Gpa) {
    let page = Hpa::new(gpa.as_u64());
    pool::wipe(page);
    cpu::write_back(layout::direct(page), PAGE_SIZE as usize);
}

/// Gives a page back to the guest, wiped if the PAL could write it. With the machine
/// stopped; [`ept::views_changed`] is to follow.
pub fn return_page(id: usize, kind: SectionType, gpa: Gpa) {
    if Rights::of(kind) == Rights::ReadWrite {
        wipe(gpa);
    }
    return_unused(id, kind, gpa);
}

/// Gives a page back to the guest that no PAL has run with, as it is. Otherwise like
/// [`return_page`].
pub fn return_unused(id: usize, kind: SectionType, gpa: Gpa) {
    if kind == SectionType::SharedCode && has_another(id, gpa) {
        return;
    }
    ept::give_back(gpa);
}

/// Has another PAL than this one the same page of shared code?
fn has_another(id: usize, gpa: Gpa) -> bool {
    slots().any(|(other, slot)| {
        other != id
            // SAFETY: the machine is stopped.
            && unsafe { slot.pal() }.is_some_and(|pal| pal.view.maps(&pal.view_frames, gpa))
    })
}

/// Takes a PAL's record away that has been brought to its end. With the machine stopped.
pub fn remove(id: usize, slot: &Slot) {
    // SAFETY: the machine is stopped.
    unsafe {
        if let Some(pal) = slot.pal_mut() {
            for (kind, gva) in pal.request.pages() {
                if let Some(gpa) = pal.translate(gva) {
                    return_page(id, kind, gpa);
                }
            }
            pal.table_frames.release();
            pal.shared_frames.release();
            pal.view_frames.release();
        }
        slot.set_pal(None);
    }
    ept::views_changed();
    slot.step(Life::free);
    // A place that REG has taken, and no more, has nothing to be wiped.
    // SAFETY: the machine is stopped.
    let is_pal = |(_, slot): (_, &Slot)| unsafe { slot.pal() }.is_some();
    io::watch_resets(slots().any(is_pal));
}

/// Gives the pages back that were shared for one call, as the PAL has left them. With the
/// machine stopped.
pub fn take_back_shared(pal: &mut Pal) {
    let Pal {
        request,
        tables,
        table_frames,
        shared_frames,
        view,
        view_frames,
        own_sections,
        ..
    } = pal;
    let first = *own_sections;
    let pages = || {
        let sections = request.sections.iter().skip(first);
        sections.flat_map(|section| section.addresses())
    };
    for gva in pages() {
        if let Some((gpa, _)) = tables.translate(table_frames, gva) {
            ept::give_back(gpa);
            view.unmap(view_frames, gpa);
        }
    }
    tables.unmap_shared(shared_frames, pages(), |table| {
        view.unmap(view_frames, Gpa::new(table.as_u64()));
    });
    shared_frames.release();
    request.sections.truncate(first);
    ept::views_changed();
}

/// The PAL that runs on this CPU has done what no PAL may. It is ended, and its caller
/// gets `event` at the call.
pub fn end_running(vcpu: &mut Vcpu, end: PalEnd, event: Event) {
    debug::with_machine_stopped(vcpu, |vcpu| {
        if end_here(vcpu, end) {
            vcpu.fault_during(None, event);
        }
    });
}

/// Ends the PAL that runs on this CPU, which goes on as its caller at the entry. False
/// if none does. With the machine stopped.
fn end_here(vcpu: &mut Vcpu, end: PalEnd) -> bool {
    let rip = get(Field::GUEST_RIP);
    let Some(id) = calls::abandon(vcpu) else {
        return false;
    };
    if let Some(slot) = slot(id)
        && slot.step(|life| life.end(vcpu.cpu.index as u16))
    {
        remove(id, slot);
    }
    told(id, end, rip);
    true
}

/// This CPU parks for an INIT: a PAL on it is at its end, and so is the call.
pub fn end_parked(vcpu: &mut Vcpu) {
    if vcpu.pal.is_some() {
        let end = PalEnd::Exit(ExitReason::InitSignal.raw());
        debug::with_machine_stopped(vcpu, |vcpu| end_here(vcpu, end));
    }
}

fn told(id: usize, end: PalEnd, rip: u64) {
    trace::event(trace::Event::PalEnded {
        id: id as u32,
        end,
        rip,
    });
    log!("PAL {id} ended at {rip:#x}: {end}");
}

/// Ends a PAL from outside. False if it is not one that can be ended now. With the
/// machine stopped.
pub fn kill(vcpu: &mut Vcpu, id: usize, end: PalEnd) -> bool {
    let Some(slot) = slot(id) else { return false };
    match slot.life() {
        Life::Running(cpu) => {
            let mut ended = false;
            let mut work = |vcpu: &mut Vcpu| {
                ended = end_here(vcpu, end);
                if ended {
                    vcpu.general_protection();
                }
            };
            if usize::from(cpu) == vcpu.cpu.index {
                work(vcpu);
            } else if let Some(cpu) = percpu::all().get(usize::from(cpu)) {
                let _not_serving = remote::on(cpu, &mut work);
            }
            ended
        }
        _ if slot.step(Life::unregister) => {
            remove(id, slot);
            told(id, end, 0);
            true
        }
        _ => false,
    }
}

/// Takes a step of the CPU that has the PAL, which may have been doomed meanwhile.
pub fn bring_on(vcpu: &mut Vcpu, id: usize, slot: &Slot, step: impl FnOnce(Life) -> Option<Life>) {
    slot.step(step);
    if slot.doomed.load(SeqCst) {
        debug::with_machine_stopped(vcpu, |vcpu| {
            // Unless another CPU's stop came first, and has ended it.
            if slot.doomed.load(SeqCst) {
                kill(vcpu, id, PalEnd::Restart);
            }
        });
    }
}

/// Ends every PAL and destroys the micro-TPM's secrets: the machine is about to restart.
pub fn end_all(vcpu: &mut Vcpu) {
    debug::with_machine_stopped(vcpu, |vcpu| {
        for (id, slot) in slots() {
            if !slot.life().is_used() || kill(vcpu, id, PalEnd::Restart) {
                continue;
            }
            // A CPU is at it, outside of its code: it ends the PAL when it goes on. Its
            // pages are wiped now.
            slot.doomed.store(true, SeqCst);
            // SAFETY: the machine is stopped.
            if let Some(pal) = unsafe { slot.pal() } {
                for (kind, gva) in pal.request.pages() {
                    if let Some(gpa) = pal.translate(gva)
                        && Rights::of(kind) == Rights::ReadWrite
                    {
                        wipe(gpa);
                    }
                }
            }
        }
        tpm::wipe();
    });
}
