//! The guest touches a page that is lent to a PAL. A fetch at the entry is a call. A read
//! finds ones, from the first one on without an exit; a write, or any other fetch, is
//! #GP.
//!
//! A program may go without giving its PAL back, and its pages get other uses. So before
//! anything else it is looked whether the program still has the page: if not, the PAL is
//! ended, and the page is the guest's, wiped.

use core::sync::atomic::Ordering::Relaxed;

use stillpoint_core::addr::{Gpa, Gva};
use stillpoint_core::events::Event;
use stillpoint_core::paging::{Access, AccessKind, AccessMode, PagingRegs, walk};

use super::calls::{self, Call};
use super::{Pal, Slot, ending, owner_of, slot, slots};
use crate::debug;
use crate::memory::guest::GuestView;
use crate::trace::{self, PalEnd};
use crate::vmx::ept;
use crate::vmx::vcpu::Vcpu;

/// Exit qualification of an EPT violation: a data write.
const WRITE: u64 = 1 << 1;
/// An instruction fetch.
const FETCH: u64 = 1 << 2;

/// An EPT violation at a page with this tag. `original` is the event that was being
/// delivered.
#[inline(never)] // Large: other exits are not to pay for its frame.
pub fn handle(vcpu: &mut Vcpu, gpa: Gpa, tag: u8, qualification: u64, original: Option<Event>) {
    let fetch = qualification & FETCH != 0;
    if fetch && original.is_none() && calls::call(vcpu, tag) == Call::Taken {
        return;
    }
    let page = gpa.page();
    let owner = owner_of(page);
    if owner.is_some_and(|id| end_if_orphaned(vcpu, id, page)) {
        if let Some(event) = original {
            vcpu.inject(event);
        }
        return;
    }
    let slot = owner.and_then(slot);
    if fetch || qualification & WRITE != 0 {
        trace::event(trace::Event::PalPageWrite { gpa: gpa.as_u64() });
        if let Some(slot) = slot {
            slot.refused_writes.fetch_add(1, Relaxed);
        }
        return vcpu.fault_during(original, Event::general_protection());
    }
    trace::event(trace::Event::PalPageRead { gpa: gpa.as_u64() });
    if let Some(slot) = slot {
        slot.decoy_reads.fetch_add(1, Relaxed);
    }
    // Tables change in a stop alone: another CPU may be giving this page back.
    debug::with_machine_stopped(vcpu, |_| {
        if ept::tag_of(page.as_u64()) == tag {
            ept::show_decoy(page, tag);
        }
    });
    if let Some(event) = original {
        vcpu.inject(event);
    }
}

/// Ends a PAL whose program has not got this page any more. True if the page is the
/// guest's own afterwards.
fn end_if_orphaned(vcpu: &mut Vcpu, id: usize, page: Gpa) -> bool {
    debug::with_machine_stopped(vcpu, |vcpu| {
        if let Some(slot) = slot(id) {
            end_without(vcpu, id, slot, |pal, gva| pal.translate(gva) == Some(page));
        }
        ept::tag_of(page.as_u64()) == 0
    })
}

/// Ends a PAL if its program has gone, as far as a page shows it.
pub fn end_orphan(vcpu: &mut Vcpu, id: usize, slot: &Slot) {
    debug::with_machine_stopped(vcpu, |vcpu| end_without(vcpu, id, slot, |_, _| true));
}

/// Ends every PAL whose program has gone.
pub fn end_orphans(vcpu: &mut Vcpu) {
    debug::with_machine_stopped(vcpu, |vcpu| {
        for (id, slot) in slots() {
            end_without(vcpu, id, slot, |_, _| true);
        }
    });
}

/// Ends a PAL that no CPU has, if its program has not got any more what is to be looked
/// at of its pages. With the machine stopped.
fn end_without(vcpu: &mut Vcpu, id: usize, slot: &Slot, look_at: impl Fn(&Pal, u64) -> bool) {
    // SAFETY: the machine is stopped.
    let orphaned = unsafe { slot.pal() }.is_some_and(|pal| {
        let mut pages = pal.request.pages();
        slot.life().cpu().is_none()
            && pages.any(|(_, gva)| look_at(pal, gva) && !still_has(vcpu, pal, gva))
    });
    if orphaned {
        ending::kill(vcpu, id, PalEnd::Orphaned);
    }
}

/// Has the program that registered the PAL the same page at the same address still?
fn still_has(vcpu: &Vcpu, pal: &Pal, gva: u64) -> bool {
    let paging = PagingRegs {
        // The registers are those of whichever program runs now.
        pdptes: None,
        ..pal.owner.paging
    };
    let access = Access {
        kind: AccessKind::Read,
        mode: AccessMode::Debugger,
    };
    let found = walk(&mut GuestView(vcpu.cpu), &paging, Gva::new(gva), access);
    found.ok().map(|found| found.gpa) == pal.translate(gva)
}
