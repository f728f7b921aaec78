//! Loading the new task's segment registers, with the checks that go with it.
//!
//! Source: Intel SDM, vol. 3, section 8.3, table "Exception Conditions Checked During
//! a Task Switch".

use super::tss::Selectors;
use super::{Fault, Linear, RFLAGS_VM, Request, TaskState};
use crate::events::{GENERAL_PROTECTION, INVALID_TSS, SEGMENT_NOT_PRESENT, STACK_FAULT};
use crate::paging::{AccessMode, PhysMem};
use crate::registers::Gpr;
use crate::segment::{SELECTOR_INDEX, SELECTOR_LDT, Segment};
use vmcs_inspect::{AccessRights, SegmentRegister};

/// Bytes of a descriptor.
pub(super) const DESCRIPTOR_SIZE: u64 = 8;

/// A segment descriptor, as the tables hold it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Descriptor(u64);

impl Descriptor {
    pub fn read<M: PhysMem>(linear: &mut Linear<'_, M>, at: u64) -> Result<Self, Fault> {
        let mut bytes = [0; DESCRIPTOR_SIZE as usize];
        linear.read(at, &mut bytes)?;
        Ok(Self(u64::from_le_bytes(bytes)))
    }

    /// Byte 5: type, S, DPL and P.
    pub const fn access_byte(self) -> u8 {
        (self.0 >> 40) as u8
    }

    /// What a segment register holds once this is loaded.
    ///
    /// Source: Intel SDM, vol. 3, section 3.4.5, "Segment Descriptors".
    pub const fn segment(self, selector: u16) -> Segment {
        let rights = AccessRights::from_raw((self.0 >> 40) as u32 & 0xf0ff);
        let units = (self.0 & 0xffff) as u32 | (self.0 >> 32) as u32 & 0xf_0000;
        let base = (self.0 >> 16) & 0xff_ffff | (self.0 >> 32) & 0xff00_0000;
        Segment {
            selector,
            base,
            limit: if rights.g() {
                units << 12 | 0xfff
            } else {
                units
            },
            rights,
        }
    }
}

/// Gives the new task, whose selectors `state` has, segments that its fault can be
/// delivered from, however early that comes. In virtual-8086 mode they are what will
/// be loaded. Else CS and SS, which a CPU cannot do without, are flat segments of the
/// new privilege level until they are loaded.
pub(super) fn stand_ins(selectors: &Selectors, state: &mut TaskState) {
    use SegmentRegister::{Cs, Ss};

    if is_virtual_8086(state) {
        state.segments = selectors.segments.map(Segment::virtual_8086);
        return;
    }
    let cpl = requested_level(selectors);
    for (register, rights) in [(Cs, 0xc09b), (Ss, 0xc093)] {
        let segment = &mut state.segments[register as usize];
        *segment = Segment {
            base: 0,
            limit: u32::MAX,
            rights: AccessRights::from_raw(rights | u32::from(cpl) << 5),
            ..*segment
        };
    }
}

const fn is_virtual_8086(state: &TaskState) -> bool {
    state.rflags & RFLAGS_VM != 0
}

/// The new CPL, outside virtual-8086 mode: the RPL of CS.
const fn requested_level(selectors: &Selectors) -> u8 {
    selectors.segments[SegmentRegister::Cs as usize] as u8 & 3
}

/// Loads LDTR and, outside virtual-8086 mode, the six segment registers into
/// `state`, up to the first that is bad.
pub(super) fn segments<M: PhysMem>(
    linear: &mut Linear<'_, M>,
    request: &Request,
    selectors: &Selectors,
    state: &mut TaskState,
) -> Result<(), Fault> {
    use SegmentRegister::{Cs, Ds, Es, Fs, Gs, Ss};

    let mut loader = Loader {
        linear,
        gdt_base: request.gdt_base,
        gdt_limit: request.gdt_limit,
        ldt: Segment::unusable(0),
        cpl: requested_level(selectors),
    };
    loader.ldt = loader.local_table(selectors.ldt)?;
    state.ldtr = loader.ldt;
    if !is_virtual_8086(state) {
        for register in [Cs, Ss, Ds, Es, Fs, Gs] {
            let selector = selectors.segments[register as usize];
            state.segments[register as usize] = match register {
                Cs => loader.code(selector)?,
                Ss => loader.stack(selector)?,
                _ => loader.data(selector)?,
            };
        }
    }
    if state.rip > state.segments[Cs as usize].limit.into() {
        return Err(Fault::with_selector(
            GENERAL_PROTECTION,
            0,
            loader.linear.external,
        ));
    }
    Ok(())
}

/// Pushes onto the new task's stack.
pub(super) fn push<M: PhysMem>(
    linear: &mut Linear<'_, M>,
    state: &mut TaskState,
    bytes: &[u8],
) -> Result<(), Fault> {
    let stack = state.segments[SegmentRegister::Ss as usize];
    let mask = if stack.rights.db() {
        0xffff_ffff
    } else {
        0xffff
    };
    let rsp = state.gprs[Gpr::Rsp];
    let len = bytes.len() as u32;
    let offset = (rsp as u32).wrapping_sub(len) & mask;
    if !stack.holds(offset, len) {
        return Err(Fault::with_selector(STACK_FAULT, 0, linear.external));
    }
    let mode = match stack.rights.dpl() {
        3 => AccessMode::User,
        _ => AccessMode::Supervisor,
    };
    linear.write_as(stack.base.wrapping_add(offset.into()), bytes, mode)?;
    state.gprs[Gpr::Rsp] = rsp & !u64::from(mask) | u64::from(offset);
    Ok(())
}

struct Loader<'a, 'm, M> {
    linear: &'a mut Linear<'m, M>,
    gdt_base: u64,
    gdt_limit: u32,
    ldt: Segment,
    cpl: u8,
}

impl<M: PhysMem> Loader<'_, '_, M> {
    fn fault(&self, vector: u8, selector: u16) -> Fault {
        Fault::with_selector(vector, selector, self.linear.external)
    }

    /// The address of a descriptor, and the segment that it describes.
    fn descriptor(&mut self, selector: u16) -> Result<(u64, Segment), Fault> {
        let bad = self.fault(INVALID_TSS, selector);
        let (base, limit) = match selector & SELECTOR_LDT {
            0 => (self.gdt_base, self.gdt_limit),
            _ if self.ldt.rights.unusable() => return Err(bad),
            _ => (self.ldt.base, self.ldt.limit),
        };
        let index = selector & !0b111;
        if u32::from(index) + 7 > limit {
            return Err(bad);
        }
        let at = base.wrapping_add(index.into());
        let descriptor = Descriptor::read(self.linear, at)?;
        Ok((at, descriptor.segment(selector)))
    }

    fn local_table(&mut self, selector: u16) -> Result<Segment, Fault> {
        const LDT: u8 = 2;
        if selector & SELECTOR_INDEX == 0 {
            return Ok(Segment::unusable(selector));
        }
        let bad = self.fault(INVALID_TSS, selector);
        if selector & SELECTOR_LDT != 0 {
            return Err(bad);
        }
        let (_, segment) = self.descriptor(selector)?;
        let rights = segment.rights;
        if rights.s() || rights.segment_type() != LDT || !rights.present() {
            return Err(bad);
        }
        Ok(segment)
    }

    fn code(&mut self, selector: u16) -> Result<Segment, Fault> {
        let (at, segment) = self.not_null(selector)?;
        let rights = segment.rights;
        let conforming = rights.segment_type() & 0b100 != 0;
        let level_fits = match conforming {
            true => rights.dpl() <= self.cpl,
            false => rights.dpl() == self.cpl,
        };
        if !rights.s() || !rights.is_code() || !level_fits {
            return Err(self.fault(INVALID_TSS, selector));
        }
        self.accessed(at, segment, SEGMENT_NOT_PRESENT)
    }

    fn stack(&mut self, selector: u16) -> Result<Segment, Fault> {
        let (at, segment) = self.not_null(selector)?;
        let levels_fit = selector as u8 & 3 == self.cpl && segment.rights.dpl() == self.cpl;
        if !segment.is_writable() || !levels_fit {
            return Err(self.fault(INVALID_TSS, selector));
        }
        self.accessed(at, segment, STACK_FAULT)
    }

    fn data(&mut self, selector: u16) -> Result<Segment, Fault> {
        if selector & SELECTOR_INDEX == 0 {
            return Ok(Segment::unusable(selector));
        }
        let (at, segment) = self.descriptor(selector)?;
        let rights = segment.rights;
        let conforming = rights.is_code() && rights.segment_type() & 0b100 != 0;
        let level = self.cpl.max(selector as u8 & 3);
        if !segment.is_readable() || (!conforming && level > rights.dpl()) {
            return Err(self.fault(INVALID_TSS, selector));
        }
        self.accessed(at, segment, SEGMENT_NOT_PRESENT)
    }

    fn not_null(&mut self, selector: u16) -> Result<(u64, Segment), Fault> {
        if selector & SELECTOR_INDEX == 0 {
            return Err(self.fault(INVALID_TSS, selector));
        }
        self.descriptor(selector)
    }

    /// The last check, and the accessed bit, which loading sets.
    fn accessed(&mut self, at: u64, segment: Segment, absent: u8) -> Result<Segment, Fault> {
        const ACCESSED: u32 = 1;
        if !segment.rights.present() {
            return Err(self.fault(absent, segment.selector));
        }
        let rights = segment.rights.raw() | ACCESSED;
        if rights != segment.rights.raw() {
            self.linear.write(at.wrapping_add(5), &[rights as u8])?;
        }
        Ok(Segment {
            rights: AccessRights::from_raw(rights),
            ..segment
        })
    }
}
