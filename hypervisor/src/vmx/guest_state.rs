//! The guest's state in the form that the policy functions take it.

use stillpoint_core::paging::PagingRegs;
use stillpoint_core::segment::Segment;
use stillpoint_core::task_switch::vmcs::SEGMENTS;
use vmcs_inspect::{AccessRights, Field, SegmentRegister, VmcsAccess};

use super::instructions::{get, set};
use super::state;

/// What decides how the guest of this VMCS translates addresses.
pub fn paging_of(vmcs: &mut dyn VmcsAccess) -> PagingRegs {
    paging_by(|field| vmcs.read(field).unwrap_or(0))
}

/// The same of the current VMCS.
pub fn paging() -> PagingRegs {
    paging_by(get)
}

#[inline]
fn paging_by(mut read: impl FnMut(Field) -> u64) -> PagingRegs {
    let addresses = state::addresses();
    PagingRegs {
        cr0: read(Field::GUEST_CR0),
        cr3: read(Field::GUEST_CR3),
        cr4: read(Field::GUEST_CR4),
        efer: read(Field::GUEST_IA32_EFER),
        pdptes: Some([
            read(Field::GUEST_PDPTE0),
            read(Field::GUEST_PDPTE1),
            read(Field::GUEST_PDPTE2),
            read(Field::GUEST_PDPTE3),
        ]),
        rflags: read(Field::GUEST_RFLAGS),
        max_phys_addr: addresses.width,
        pages_1g: addresses.pages_1g,
        pkru: None,
    }
}

/// A segment register of the current VMCS's guest.
pub fn segment(register: SegmentRegister) -> Segment {
    let [selector, base, limit, rights] = SEGMENTS[usize::from(register.number())];
    Segment {
        selector: get(selector) as u16,
        base: get(base),
        limit: get(limit) as u32,
        rights: AccessRights::from_raw(get(rights) as u32),
    }
}

/// Sets IA32_EFER, and the entry control that has to agree with its LMA.
pub fn set_efer(efer: u64) {
    const IA32E_MODE_GUEST: u64 = 1 << 9;
    const LMA: u64 = 1 << 10;
    set(Field::GUEST_IA32_EFER, efer);
    let controls = get(Field::VM_ENTRY_CONTROLS);
    let controls = if efer & LMA != 0 {
        controls | IA32E_MODE_GUEST
    } else {
        controls & !IA32E_MODE_GUEST
    };
    set(Field::VM_ENTRY_CONTROLS, controls);
}
