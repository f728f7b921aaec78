//! The guest's state in the form that the policy functions take it.

use stillpoint_core::paging::PagingRegs;
use stillpoint_core::segment::Segment;
use vmcs_inspect::{AccessRights, Field, SegmentRegister, VmcsAccess};

use super::instructions::get;
use super::state;

/// What decides how the guest of this VMCS translates addresses.
pub fn paging(vmcs: &mut dyn VmcsAccess) -> PagingRegs {
    let mut read = |field| vmcs.read(field).unwrap_or(0);
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
        max_phys_addr: state::capabilities().cpuid.physical_address_width,
        pages_1g: state::cpuid(0x8000_0001, 0).edx & (1 << 26) != 0,
        pkru: None,
    }
}

/// A segment register of the current VMCS's guest.
pub fn segment(register: SegmentRegister) -> Segment {
    const GROUPS: [[Field; 4]; 6] = [
        [
            Field::GUEST_ES_SELECTOR,
            Field::GUEST_ES_BASE,
            Field::GUEST_ES_LIMIT,
            Field::GUEST_ES_ACCESS_RIGHTS,
        ],
        [
            Field::GUEST_CS_SELECTOR,
            Field::GUEST_CS_BASE,
            Field::GUEST_CS_LIMIT,
            Field::GUEST_CS_ACCESS_RIGHTS,
        ],
        [
            Field::GUEST_SS_SELECTOR,
            Field::GUEST_SS_BASE,
            Field::GUEST_SS_LIMIT,
            Field::GUEST_SS_ACCESS_RIGHTS,
        ],
        [
            Field::GUEST_DS_SELECTOR,
            Field::GUEST_DS_BASE,
            Field::GUEST_DS_LIMIT,
            Field::GUEST_DS_ACCESS_RIGHTS,
        ],
        [
            Field::GUEST_FS_SELECTOR,
            Field::GUEST_FS_BASE,
            Field::GUEST_FS_LIMIT,
            Field::GUEST_FS_ACCESS_RIGHTS,
        ],
        [
            Field::GUEST_GS_SELECTOR,
            Field::GUEST_GS_BASE,
            Field::GUEST_GS_LIMIT,
            Field::GUEST_GS_ACCESS_RIGHTS,
        ],
    ];
    let [selector, base, limit, rights] = GROUPS[register as usize];
    Segment {
        selector: get(selector) as u16,
        base: get(base),
        limit: get(limit) as u32,
        rights: AccessRights::from_raw(get(rights) as u32),
    }
}
