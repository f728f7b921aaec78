//! The task switch's fields of the VMCS: what the exit says, the old task, and
//! the new one to be entered.

use super::{Fault, Request, Switched, TaskState};
use crate::control_regs::CR0_TS;
use crate::events::{DEBUG, Event};
use crate::paging::PagingRegs;
use crate::registers::{Gpr, Gprs};
use crate::segment::Segment;
use vmcs_inspect::qualification::TaskSwitch;
use vmcs_inspect::{
    AccessRights, Field, GuestInterruptibility, InterruptionInfo, VmcsAccess, VmcsError,
};

/// Selector, base, limit and access rights of ES, CS, SS, DS, FS, GS (as
/// [`SegmentRegister`](vmcs_inspect::SegmentRegister) numbers them), LDTR and TR.
pub const SEGMENTS: [[Field; 4]; 8] = [
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
    [
        Field::GUEST_LDTR_SELECTOR,
        Field::GUEST_LDTR_BASE,
        Field::GUEST_LDTR_LIMIT,
        Field::GUEST_LDTR_ACCESS_RIGHTS,
    ],
    [
        Field::GUEST_TR_SELECTOR,
        Field::GUEST_TR_BASE,
        Field::GUEST_TR_LIMIT,
        Field::GUEST_TR_ACCESS_RIGHTS,
    ],
];

const PDPTES: [Field; 4] = [
    Field::GUEST_PDPTE0,
    Field::GUEST_PDPTE1,
    Field::GUEST_PDPTE2,
    Field::GUEST_PDPTE3,
];

/// Reads what [`super::switch`] takes. `gprs` are the registers that the VMCS
/// doesn't hold; RSP is taken from the VMCS.
///
/// # Errors
/// If the VMCS cannot be read.
pub fn read(
    vmcs: &mut impl VmcsAccess,
    gprs: &Gprs,
    paging: PagingRegs,
) -> Result<(Request, TaskState), VmcsError> {
    let qualification = TaskSwitch::from_raw(vmcs.read(Field::EXIT_QUALIFICATION)?);
    let request = Request {
        source: qualification.source(),
        selector: qualification.selector(),
        instruction_length: vmcs.read(Field::VM_EXIT_INSTRUCTION_LENGTH)? as u32,
        idt_vectoring: InterruptionInfo::from_raw(vmcs.read(Field::IDT_VECTORING_INFO)? as u32),
        error_code: vmcs.read(Field::IDT_VECTORING_ERROR_CODE)? as u32,
        gdt_base: vmcs.read(Field::GUEST_GDTR_BASE)?,
        gdt_limit: vmcs.read(Field::GUEST_GDTR_LIMIT)? as u32,
        paging,
    };
    let mut all = [Segment::default(); 8];
    for (segment, [selector, base, limit, rights]) in all.iter_mut().zip(SEGMENTS) {
        *segment = Segment {
            selector: vmcs.read(selector)? as u16,
            base: vmcs.read(base)?,
            limit: vmcs.read(limit)? as u32,
            rights: AccessRights::from_raw(vmcs.read(rights)? as u32),
        };
    }
    let [es, cs, ss, ds, fs, gs, ldtr, tr] = all;
    let mut gprs = *gprs;
    gprs[Gpr::Rsp] = vmcs.read(Field::GUEST_RSP)?;
    let state = TaskState {
        gprs,
        rip: vmcs.read(Field::GUEST_RIP)?,
        rflags: vmcs.read(Field::GUEST_RFLAGS)?,
        cr3: vmcs.read(Field::GUEST_CR3)?,
        dr7: vmcs.read(Field::GUEST_DR7)?,
        segments: [es, cs, ss, ds, fs, gs],
        ldtr,
        tr,
    };
    Ok((request, state))
}

/// Writes the new task, and the event that its first instruction is preceded
/// by. What the VMCS doesn't hold is left to the caller: the general-purpose
/// registers, CR2 for the fault, DR6.BT for the debug trap, and the flush of
/// cached translations.
///
/// # Errors
/// If the VMCS cannot be written.
pub fn write(vmcs: &mut impl VmcsAccess, switched: &Switched) -> Result<(), VmcsError> {
    let state = &switched.state;
    let [es, cs, ss, ds, fs, gs] = state.segments;
    let all = [es, cs, ss, ds, fs, gs, state.ldtr, state.tr];
    for (segment, [selector, base, limit, rights]) in all.iter().zip(SEGMENTS) {
        vmcs.write(selector, segment.selector.into())?;
        vmcs.write(base, segment.base)?;
        vmcs.write(limit, segment.limit.into())?;
        vmcs.write(rights, segment.rights.raw().into())?;
    }
    vmcs.write(Field::GUEST_RIP, state.rip)?;
    vmcs.write(Field::GUEST_RSP, state.gprs[Gpr::Rsp])?;
    vmcs.write(Field::GUEST_RFLAGS, state.rflags)?;
    vmcs.write(Field::GUEST_CR3, state.cr3)?;
    vmcs.write(Field::GUEST_DR7, state.dr7)?;
    for (field, pdpte) in PDPTES
        .into_iter()
        .zip(switched.pdptes.into_iter().flatten())
    {
        vmcs.write(field, pdpte)?;
    }
    // Wherever the guest reads it from.
    for field in [Field::GUEST_CR0, Field::CR0_READ_SHADOW] {
        let cr0 = vmcs.read(field)?;
        vmcs.write(field, cr0 | CR0_TS)?;
    }
    let mut ended =
        GuestInterruptibility::BLOCKING_BY_STI | GuestInterruptibility::BLOCKING_BY_MOV_SS;
    if switched.unblock_nmis {
        ended |= GuestInterruptibility::BLOCKING_BY_NMI;
    }
    let blocking = vmcs.read(Field::GUEST_INTERRUPTIBILITY)?;
    vmcs.write(
        Field::GUEST_INTERRUPTIBILITY,
        blocking & !u64::from(ended.bits()),
    )?;
    match switched.event() {
        Some(event) => {
            vmcs.write(Field::VM_ENTRY_INTERRUPTION_INFO, event.info.raw().into())?;
            vmcs.write(
                Field::VM_ENTRY_EXCEPTION_ERROR_CODE,
                event.error_code.into(),
            )
        }
        None => vmcs.write(Field::VM_ENTRY_INTERRUPTION_INFO, 0),
    }
}

impl Switched {
    /// What the new task's first instruction is preceded by: a fault that
    /// loading it met, or else its debug trap.
    pub fn event(&self) -> Option<Event> {
        match self.fault {
            Some(Fault { event, .. }) => Some(event),
            None => self.debug_trap.then(|| Event::exception(DEBUG, None)),
        }
    }
}
