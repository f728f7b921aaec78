//! Task switches, which VMX leaves to the hypervisor.
//!
//! Hardware task switches are not made in VMX non-root operation: each is a VM
//! exit, taken once the processor has found the new task's TSS descriptor to
//! be good. The exit for them reads the old task from the VMCS ([`vmcs::read`]),
//! calls [`switch`], which does the rest over the guest's memory, and writes the
//! new task back ([`vmcs::write`]). 32-bit kernels switch tasks for double
//! faults at least.
//!
//! Source: Intel SDM, vol. 3, section 8.3, "Task Switching"; section 26.4.2,
//! "Treatment of Task Switches".

mod load;
#[cfg(test)]
mod tests;
mod tss;
pub mod vmcs;

use crate::addr::Gva;
use crate::control_regs::{CR0_PG, CR4_PAE};
use crate::events::{Event, GENERAL_PROTECTION, INVALID_TSS, PAGE_FAULT};
use crate::paging::{
    Access, AccessKind, AccessMode, PagingRegs, PhysMem, WalkError, load_pdptes, read_virtual,
    walk, write_virtual,
};
use crate::registers::Gprs;
use crate::segment::{SELECTOR_INDEX, Segment};
use load::{DESCRIPTOR_SIZE, Descriptor};
use tss::Layout;
use vmcs_inspect::qualification::TaskSwitchSource;
use vmcs_inspect::{AccessRights, InterruptionInfo, InterruptionType};

/// The part of a CPU's state that a task switch saves and loads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TaskState {
    /// General-purpose registers, RSP among them.
    pub gprs: Gprs,
    /// RIP.
    pub rip: u64,
    /// RFLAGS.
    pub rflags: u64,
    /// CR3.
    pub cr3: u64,
    /// DR7.
    pub dr7: u64,
    /// ES, CS, SS, DS, FS and GS, by the numbers of `SegmentRegister`.
    pub segments: [Segment; 6],
    /// LDTR.
    pub ldtr: Segment,
    /// TR.
    pub tr: Segment,
}

/// What the exit says, and what else of the guest's state counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// What began the switch, from the exit qualification.
    pub source: TaskSwitchSource,
    /// The new task's TSS selector, from the exit qualification.
    pub selector: u16,
    /// VM-exit instruction length.
    pub instruction_length: u32,
    /// IDT-vectoring information: valid if `source` is a task gate in the IDT.
    pub idt_vectoring: InterruptionInfo,
    /// IDT-vectoring error code.
    pub error_code: u32,
    /// GDTR's base.
    pub gdt_base: u64,
    /// GDTR's limit.
    pub gdt_limit: u32,
    /// How addresses are translated before the switch.
    pub paging: PagingRegs,
}

/// The new task. CR0.TS is to be set too, and translations that are cached for
/// this CPU are to be flushed. An event that was being delivered through a
/// task gate has been delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Switched {
    /// The state to load.
    pub state: TaskState,
    /// The PDPTEs to load, under PAE paging.
    pub pdptes: Option<[u64; 4]>,
    /// Loading the new task met a fault, which its first instruction is to be
    /// preceded by.
    pub fault: Option<Fault>,
    /// The T flag of the new TSS: a debug trap is due before the first
    /// instruction, with DR6.BT set.
    pub debug_trap: bool,
    /// It was an IRET: blocking by NMI ends.
    pub unblock_nmis: bool,
}

/// A fault on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// The exception.
    pub event: Event,
    /// For CR2.
    pub cr2: Option<u64>,
}

impl Fault {
    const fn with_selector(vector: u8, selector: u16, external: bool) -> Self {
        let code = (selector & SELECTOR_INDEX) as u32 | external as u32;
        Self {
            event: Event::exception(vector, Some(code)),
            cr2: None,
        }
    }

    /// What an access by the processor itself met. Where there is no memory
    /// it is #GP, as for any other access to what the guest doesn't have.
    const fn from_walk(error: WalkError, external: bool) -> Self {
        match error {
            WalkError::PageFault { code, gva } => Self {
                event: Event::exception(PAGE_FAULT, Some(code)),
                cr2: Some(gva.as_u64()),
            },
            _ => Self::with_selector(GENERAL_PROTECTION, 0, external),
        }
    }
}

const RFLAGS_FIXED: u64 = 1 << 1;
const RFLAGS_NT: u64 = 1 << 14;
const RFLAGS_VM: u64 = 1 << 17;
/// The flags that RFLAGS has, without the bit that is always 1.
const RFLAGS_DEFINED: u64 = 0x003f_7fd5;
/// L0 to L3, and LE.
const DR7_LOCAL: u64 = 0x155;
/// In a TSS descriptor's type.
const TSS_BUSY: u8 = 1 << 1;

/// Switches tasks.
///
/// # Errors
/// The fault that the old task meets at its current instruction, nothing
/// being changed but the image of its registers in its TSS. If an event was being
/// delivered through a task gate, the two are to be merged
/// ([`crate::events::merge`]).
pub fn switch(
    mem: &mut impl PhysMem,
    request: &Request,
    old: &TaskState,
) -> Result<Switched, Fault> {
    let mut linear = Linear {
        mem,
        paging: request.paging,
        external: is_external(request.idt_vectoring),
    };
    let nested = matches!(
        request.source,
        TaskSwitchSource::Call | TaskSwitchSource::IdtTaskGate
    );
    let leaves_old = !nested;

    // Everything that can fault in the old task comes before the first write.
    let new_at = descriptor_address(request, request.selector, linear.external)?;
    let descriptor = Descriptor::read(&mut linear, new_at)?;
    let new_tss = descriptor.segment(request.selector);
    let bad_tss = Fault::with_selector(INVALID_TSS, request.selector, linear.external);
    let layout = Layout::of(new_tss.rights).ok_or(bad_tss)?;
    if new_tss.limit < layout.min_limit {
        return Err(bad_tss);
    }
    let image = layout.read(&mut linear, new_tss.base)?;
    let old_layout = Layout::of(old.tr.rights).ok_or(bad_tss)?;
    let old_at = descriptor_address(request, old.tr.selector, linear.external)?;
    linear.probe_write(new_at, DESCRIPTOR_SIZE)?;
    if leaves_old {
        linear.probe_write(old_at, DESCRIPTOR_SIZE)?;
    }
    if nested {
        linear.probe_write(new_tss.base, 2)?;
    }
    old_layout.save(&mut linear, old.tr.base, &saved(request, old))?;

    if leaves_old {
        let old_descriptor = Descriptor::read(&mut linear, old_at)?;
        let idle = old_descriptor.access_byte() & !TSS_BUSY;
        linear.write(old_at.wrapping_add(5), &[idle])?;
    }
    if nested {
        linear.write(new_tss.base, &old.tr.selector.to_le_bytes())?;
    }
    let busy = descriptor.access_byte() | TSS_BUSY;
    linear.write(new_at.wrapping_add(5), &[busy])?;

    let mut state = layout.load(&image, old);
    state.rflags = state.rflags & RFLAGS_DEFINED | RFLAGS_FIXED;
    if nested {
        state.rflags |= RFLAGS_NT;
    }
    state.dr7 = old.dr7 & !DR7_LOCAL;
    state.tr = Segment {
        rights: AccessRights::from_raw(new_tss.rights.raw() | u32::from(TSS_BUSY)),
        ..new_tss
    };
    let selectors = layout.selectors(&image);
    load::stand_ins(&selectors, &mut state);
    // From here on faults are the new task's.
    let mut pdptes = None;
    let fault = new_paging(&mut linear, layout, &image, &mut state, &mut pdptes)
        .and_then(|()| load::segments(&mut linear, request, &selectors, &mut state))
        .and_then(|()| push_error_code(&mut linear, request, layout, &mut state))
        .err();
    Ok(Switched {
        state,
        pdptes,
        fault,
        debug_trap: layout.debug_trap(&image),
        unblock_nmis: matches!(request.source, TaskSwitchSource::Iret),
    })
}

/// Is the EXT bit of error codes 1? It is, unless an instruction of the
/// program's own is at the bottom of it.
const fn is_external(idt_vectoring: InterruptionInfo) -> bool {
    idt_vectoring.valid() && !idt_vectoring.kind().is_software()
}

/// The old task as it goes into its TSS.
fn saved(request: &Request, old: &TaskState) -> TaskState {
    let after_instruction = match request.source {
        TaskSwitchSource::IdtTaskGate => request.idt_vectoring.kind().is_software(),
        _ => true,
    };
    let mut saved = *old;
    if after_instruction {
        saved.rip = saved.rip.wrapping_add(request.instruction_length.into());
    }
    if matches!(request.source, TaskSwitchSource::Iret) {
        saved.rflags &= !RFLAGS_NT;
    }
    saved
}

/// Where a TSS descriptor is. The processor has looked at the new one already.
fn descriptor_address(request: &Request, selector: u16, external: bool) -> Result<u64, Fault> {
    let index = selector & !0b111;
    if u32::from(index) + 7 > request.gdt_limit || index == 0 {
        return Err(Fault::with_selector(INVALID_TSS, selector, external));
    }
    Ok(request.gdt_base.wrapping_add(index.into()))
}

/// CR3, and with PAE paging the PDPTEs.
fn new_paging<M: PhysMem>(
    linear: &mut Linear<'_, M>,
    layout: &Layout,
    image: &tss::Image,
    state: &mut TaskState,
    pdptes: &mut Option<[u64; 4]>,
) -> Result<(), Fault> {
    let Some(cr3) = layout.cr3(image) else {
        return Ok(());
    };
    if linear.paging.cr0 & CR0_PG == 0 {
        return Ok(());
    }
    if linear.paging.cr4 & CR4_PAE != 0 {
        let loaded = load_pdptes(linear.mem, cr3, linear.paging.max_phys_addr);
        let bad = Fault::with_selector(GENERAL_PROTECTION, 0, linear.external);
        *pdptes = Some(loaded.map_err(|_| bad)?);
        linear.paging.pdptes = *pdptes;
    }
    state.cr3 = cr3;
    linear.paging.cr3 = cr3;
    Ok(())
}

/// The error code of the exception that came through the task gate goes onto
/// the new task's stack.
fn push_error_code<M: PhysMem>(
    linear: &mut Linear<'_, M>,
    request: &Request,
    layout: &Layout,
    state: &mut TaskState,
) -> Result<(), Fault> {
    let info = request.idt_vectoring;
    let pushes = matches!(request.source, TaskSwitchSource::IdtTaskGate)
        && matches!(info.kind(), InterruptionType::HardwareException)
        && info.error_code_valid();
    if !pushes {
        return Ok(());
    }
    let code = request.error_code.to_le_bytes();
    load::push(linear, state, &code[..layout.word])
}

/// The guest's memory by linear address, as the processor itself reaches it.
struct Linear<'a, M> {
    mem: &'a mut M,
    paging: PagingRegs,
    /// EXT of error codes.
    external: bool,
}

impl<M: PhysMem> Linear<'_, M> {
    fn read(&mut self, at: u64, into: &mut [u8]) -> Result<(), Fault> {
        let at = Gva::new(at & 0xffff_ffff);
        read_virtual(self.mem, &self.paging, at, into, AccessMode::Implicit)
            .map_err(|partial| Fault::from_walk(partial.error, self.external))
    }

    fn write(&mut self, at: u64, from: &[u8]) -> Result<(), Fault> {
        self.write_as(at, from, AccessMode::Implicit)
    }

    fn write_as(&mut self, at: u64, from: &[u8], mode: AccessMode) -> Result<(), Fault> {
        let at = Gva::new(at & 0xffff_ffff);
        write_virtual(self.mem, &self.paging, at, from, mode)
            .map_err(|partial| Fault::from_walk(partial.error, self.external))
    }

    /// Faults as a write to these bytes would.
    fn probe_write(&mut self, at: u64, len: u64) -> Result<(), Fault> {
        let access = Access {
            kind: AccessKind::Write,
            mode: AccessMode::Implicit,
        };
        for at in [at, at.wrapping_add(len - 1)] {
            let at = Gva::new(at & 0xffff_ffff);
            walk(self.mem, &self.paging, at, access)
                .map_err(|error| Fault::from_walk(error, self.external))?;
        }
        Ok(())
    }
}
