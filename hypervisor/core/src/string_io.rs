//! INS and OUTS at a port that is hidden from the guest.
//!
//! Nothing is there: INS stores ones, OUTS stores nothing, and both make the
//! checks and faults of the instruction. The exit for I/O instructions calls
//! [`StringIo::execute`] and does what [`Progress`] says.
//!
//! The accessed and dirty flags of the pages are not set: no driver moves
//! strings to a UART that its probe, by IN and OUT, has not found. For the
//! same reason alignment checks (#AC) are left out.
//!
//! Source: Intel SDM, vol. 2, "INS/INSB/INSW/INSD—Input from Port to String" and
//! "OUTS/OUTSB/OUTSW/OUTSD—Output String to Port".

use crate::addr::Gva;
use crate::control_regs::{CR0_PE, EFER_LMA};
use crate::events::{Event, GENERAL_PROTECTION, PAGE_FAULT, STACK_FAULT};
use crate::paging::{AccessMode, PagingRegs, PhysMem, WalkError, read_virtual, write_virtual};
use crate::registers::{Gpr, Gprs};
use crate::segment::Segment;
use vmcs_inspect::SegmentRegister;

/// How many elements are moved before the guest gets a look in: interrupts are
/// held off for as long.
const ELEMENTS_AT_ONCE: u32 = 1024;

/// The instruction, as the exit qualification and the VM-exit instruction
/// information describe it, and the segment that it uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StringIo {
    /// INS; else OUTS.
    pub input: bool,
    /// Bytes of an element: 1, 2 or 4.
    pub size: u8,
    /// With a REP prefix.
    pub rep: bool,
    /// Bytes of an address: 2, 4 or 8.
    pub address_size: u8,
    /// ES for INS; DS or what a prefix says for OUTS.
    pub register: SegmentRegister,
    /// What that register holds.
    pub segment: Segment,
}

/// The guest's state that the instruction looks at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GuestContext {
    /// How addresses are translated; RFLAGS is here too.
    pub paging: PagingRegs,
    /// CS.L.
    pub cs_l: bool,
    /// The privilege level: DPL of SS.
    pub cpl: u8,
}

/// How far the instruction came. RCX, RSI and RDI are always up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// It is done: go on with the next instruction.
    Finished,
    /// There is more to do: enter the guest at the same instruction.
    Again,
    /// It faults: inject this at the same instruction, with `cr2` in CR2 if
    /// there is one.
    Fault {
        /// The exception.
        event: Event,
        /// For CR2.
        cr2: Option<u64>,
    },
}

impl GuestContext {
    const RFLAGS_DF: u64 = 1 << 10;
    const RFLAGS_VM: u64 = 1 << 17;

    const fn is_64_bit(&self) -> bool {
        self.paging.efer & EFER_LMA != 0 && self.cs_l
    }

    /// Do segments have rights? In real and virtual-8086 mode they don't.
    const fn has_segment_rights(&self) -> bool {
        self.paging.cr0 & CR0_PE != 0 && self.paging.rflags & Self::RFLAGS_VM == 0
    }

    const fn fault(&self, vector: u8, code: u32) -> Event {
        Event::exception(vector, Some(code)).in_mode(self.paging.cr0)
    }
}

impl StringIo {
    /// Carries the instruction out, or a part of it.
    pub fn execute(
        &self,
        mem: &mut impl PhysMem,
        context: &GuestContext,
        gprs: &mut Gprs,
    ) -> Progress {
        let index = if self.input { Gpr::Rdi } else { Gpr::Rsi };
        let step = match context.paging.rflags & GuestContext::RFLAGS_DF {
            0 => u64::from(self.size),
            _ => u64::from(self.size).wrapping_neg(),
        };
        for _ in 0..ELEMENTS_AT_ONCE {
            if self.rep && gprs[Gpr::Rcx] & self.address_mask() == 0 {
                return Progress::Finished;
            }
            let offset = gprs[index] & self.address_mask();
            if let Err(fault) = self.element(mem, context, offset) {
                return fault;
            }
            self.advance(&mut gprs[index], step);
            if !self.rep {
                return Progress::Finished;
            }
            self.advance(&mut gprs[Gpr::Rcx], u64::MAX);
        }
        match gprs[Gpr::Rcx] & self.address_mask() {
            0 => Progress::Finished,
            _ => Progress::Again,
        }
    }

    const fn address_mask(&self) -> u64 {
        match self.address_size {
            2 => 0xffff,
            4 => 0xffff_ffff,
            _ => u64::MAX,
        }
    }

    /// Adds to the part of a register that addresses use. A 32-bit result
    /// clears the upper half, a 16-bit one keeps what is above it.
    const fn advance(&self, register: &mut u64, by: u64) {
        let mask = self.address_mask();
        let kept = if self.address_size == 2 {
            *register & !mask
        } else {
            0
        };
        *register = kept | register.wrapping_add(by) & mask;
    }

    fn element(
        &self,
        mem: &mut impl PhysMem,
        context: &GuestContext,
        offset: u64,
    ) -> Result<(), Progress> {
        let gva = self.linear(context, offset)?;
        let mode = match context.cpl {
            3 => AccessMode::User,
            _ => AccessMode::Supervisor,
        };
        let mut bytes = [0xff; 4];
        let bytes = &mut bytes[..usize::from(self.size.min(4))];
        let moved = match self.input {
            true => write_virtual(mem, &context.paging, gva, bytes, mode),
            false => read_virtual(mem, &context.paging, gva, bytes, mode),
        };
        moved.map_err(|partial| match partial.error {
            WalkError::PageFault { code, gva } => Progress::Fault {
                event: context.fault(PAGE_FAULT, code),
                cr2: Some(gva.as_u64()),
            },
            // Not canonical; or what no memory answers, the hypervisor's own
            // among it, which the guest is told of in the same way elsewhere.
            _ => self.segment_fault(context),
        })
    }

    /// The linear address, after segmentation.
    fn linear(&self, context: &GuestContext, offset: u64) -> Result<Gva, Progress> {
        if context.is_64_bit() {
            let base = match self.register {
                SegmentRegister::Fs | SegmentRegister::Gs => self.segment.base,
                _ => 0,
            };
            return Ok(Gva::new(base.wrapping_add(offset)));
        }
        let allowed = match (context.has_segment_rights(), self.input) {
            (false, _) => true,
            (true, true) => self.segment.is_writable(),
            (true, false) => self.segment.is_readable(),
        };
        // Outside 64-bit mode an address has 32 bits at most.
        let offset = offset as u32;
        if !allowed || !self.segment.holds(offset, u32::from(self.size.max(1))) {
            return Err(self.segment_fault(context));
        }
        let linear = (self.segment.base as u32).wrapping_add(offset);
        Ok(Gva::new(linear.into()))
    }

    const fn segment_fault(&self, context: &GuestContext) -> Progress {
        let vector = match self.register {
            SegmentRegister::Ss => STACK_FAULT,
            _ => GENERAL_PROTECTION,
        };
        Progress::Fault {
            event: context.fault(vector, 0),
            cr2: None,
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use crate::addr::Gpa;
    use crate::paging::PhysMemError;
    use std::vec::Vec;
    use vmcs_inspect::AccessRights;

    /// 8 KiB of zeros, and nothing after.
    struct Memory(Vec<u8>);

    impl Memory {
        fn part(&mut self, address: Gpa, len: usize) -> Result<&mut [u8], PhysMemError> {
            let start = address.as_u64() as usize;
            self.0
                .get_mut(start..start + len)
                .ok_or(PhysMemError(address))
        }
    }

    impl PhysMem for Memory {
        fn read(&mut self, address: Gpa, into: &mut [u8]) -> Result<(), PhysMemError> {
            into.copy_from_slice(self.part(address, into.len())?);
            Ok(())
        }

        fn write(&mut self, address: Gpa, from: &[u8]) -> Result<(), PhysMemError> {
            self.part(address, from.len())?.copy_from_slice(from);
            Ok(())
        }
    }

    fn memory() -> Memory {
        Memory(std::vec![0; 0x2000])
    }

    const FLAT: Segment = Segment {
        selector: 0x10,
        base: 0,
        limit: u32::MAX,
        rights: AccessRights::from_raw(0xc093),
    };

    const REP_INSW: StringIo = StringIo {
        input: true,
        size: 2,
        rep: true,
        address_size: 4,
        register: SegmentRegister::Es,
        segment: FLAT,
    };

    /// Protected mode without paging.
    fn protected() -> GuestContext {
        GuestContext {
            paging: PagingRegs {
                cr0: CR0_PE,
                rflags: 2,
                ..PagingRegs::default()
            },
            cs_l: false,
            cpl: 0,
        }
    }

    fn gprs(rcx: u64, rsi: u64, rdi: u64) -> Gprs {
        let mut gprs = Gprs::default();
        gprs[Gpr::Rcx] = rcx;
        gprs[Gpr::Rsi] = rsi;
        gprs[Gpr::Rdi] = rdi;
        gprs
    }

    fn gp() -> Progress {
        Progress::Fault {
            event: Event::general_protection(),
            cr2: None,
        }
    }

    #[test]
    fn ins_stores_ones() {
        let (mut memory, mut gprs) = (memory(), gprs(3, 7, 0x1000));
        assert_eq!(
            REP_INSW.execute(&mut memory, &protected(), &mut gprs),
            Progress::Finished
        );
        assert_eq!(
            memory.0[0xfff..0x1007],
            [0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0]
        );
        assert_eq!(
            (gprs[Gpr::Rcx], gprs[Gpr::Rsi], gprs[Gpr::Rdi]),
            (0, 7, 0x1006)
        );
    }

    #[test]
    fn outs_stores_nothing_and_goes_backwards() {
        let outs = StringIo {
            input: false,
            register: SegmentRegister::Ds,
            ..REP_INSW
        };
        let (mut memory, mut gprs) = (memory(), gprs(2, 0x1000, 7));
        let mut context = protected();
        context.paging.rflags |= 1 << 10;
        assert_eq!(
            outs.execute(&mut memory, &context, &mut gprs),
            Progress::Finished
        );
        assert!(memory.0.iter().all(|&byte| byte == 0));
        assert_eq!(
            (gprs[Gpr::Rcx], gprs[Gpr::Rsi], gprs[Gpr::Rdi]),
            (0, 0xffc, 7)
        );
    }

    #[test]
    fn without_rep_rcx_does_not_count() {
        let insb = StringIo {
            rep: false,
            size: 1,
            ..REP_INSW
        };
        let (mut memory, mut gprs) = (memory(), gprs(0, 0, 5));
        assert_eq!(
            insb.execute(&mut memory, &protected(), &mut gprs),
            Progress::Finished
        );
        assert_eq!((memory.0[5], gprs[Gpr::Rcx], gprs[Gpr::Rdi]), (0xff, 0, 6));
        let mut gprs = gprs_with_upper_halves();
        assert_eq!(
            REP_INSW.execute(&mut memory, &protected(), &mut gprs),
            Progress::Finished
        );
        assert_eq!(memory.0[6], 0, "ECX was 0");
    }

    fn gprs_with_upper_halves() -> Gprs {
        gprs(0xffff_ffff_0000_0000, 0, 0xffff_ffff_0000_0006)
    }

    #[test]
    fn registers_are_as_wide_as_addresses() {
        let mut wide = gprs(0x1_0000_0001, 0, 0x1_0000_0006);
        REP_INSW.execute(&mut memory(), &protected(), &mut wide);
        assert_eq!((wide[Gpr::Rcx], wide[Gpr::Rdi]), (0, 8));
        let insw16 = StringIo {
            address_size: 2,
            ..REP_INSW
        };
        let mut narrow = gprs(0xabcd_0001, 0, 0xabcd_0006);
        insw16.execute(&mut memory(), &protected(), &mut narrow);
        assert_eq!(
            (narrow[Gpr::Rcx], narrow[Gpr::Rdi]),
            (0xabcd_0000, 0xabcd_0008)
        );
    }

    #[test]
    fn a_long_string_lets_interrupts_in() {
        let insb = StringIo {
            size: 1,
            ..REP_INSW
        };
        let mut gprs = gprs(1025, 0, 0);
        assert_eq!(
            insb.execute(&mut memory(), &protected(), &mut gprs),
            Progress::Again
        );
        assert_eq!((gprs[Gpr::Rcx], gprs[Gpr::Rdi]), (1, 1024));
        assert_eq!(
            insb.execute(&mut memory(), &protected(), &mut gprs),
            Progress::Finished
        );
    }

    #[test]
    fn a_fault_keeps_what_was_done() {
        let mut gprs = gprs(4, 0, 0x1ffc);
        assert_eq!(
            REP_INSW.execute(&mut memory(), &protected(), &mut gprs),
            gp()
        );
        assert_eq!((gprs[Gpr::Rcx], gprs[Gpr::Rdi]), (2, 0x2000));
    }

    #[test]
    fn segments_are_checked() {
        let with = |rights: u32, limit| {
            let segment = Segment {
                limit,
                rights: AccessRights::from_raw(rights),
                ..FLAT
            };
            let ins = StringIo {
                segment,
                ..REP_INSW
            };
            ins.execute(&mut memory(), &protected(), &mut gprs(1, 0, 0x100))
        };
        assert_eq!(with(0x93, 0x101), Progress::Finished);
        assert_eq!(with(0x93, 0x100), gp());
        assert_eq!(with(0x91, 0x101), gp(), "read-only");
        assert_eq!(with(0x1_0000, 0x101), gp(), "null selector");
        // OUTS through SS.
        let outs = StringIo {
            input: false,
            register: SegmentRegister::Ss,
            segment: Segment { limit: 0, ..FLAT },
            ..REP_INSW
        };
        let fault = outs.execute(&mut memory(), &protected(), &mut gprs(1, 0x100, 0));
        assert_eq!(
            fault,
            Progress::Fault {
                event: Event::exception(STACK_FAULT, Some(0)),
                cr2: None
            }
        );
    }

    #[test]
    fn real_mode_has_no_rights_and_no_error_codes() {
        let segment = Segment {
            base: 0x1000,
            limit: 0xffff,
            rights: AccessRights::from_raw(0x81),
            selector: 0x100,
        };
        let ins = StringIo {
            segment,
            address_size: 2,
            ..REP_INSW
        };
        let mut context = protected();
        context.paging.cr0 = 0;
        let mut memory = memory();
        assert_eq!(
            ins.execute(&mut memory, &context, &mut gprs(1, 0, 0x10)),
            Progress::Finished
        );
        assert_eq!(memory.0[0x1010], 0xff);
        let fault = ins.execute(&mut memory, &context, &mut gprs(1, 0, 0xffff));
        assert_eq!(
            fault,
            Progress::Fault {
                event: Event::exception(GENERAL_PROTECTION, None),
                cr2: None
            }
        );
    }

    #[test]
    fn virtual_8086_mode_has_no_rights_but_error_codes() {
        let segment = Segment {
            rights: AccessRights::from_raw(0xf1),
            ..Segment::virtual_8086(0x100)
        };
        let ins = StringIo {
            segment,
            address_size: 2,
            ..REP_INSW
        };
        let mut context = protected();
        context.paging.rflags |= 1 << 17;
        context.cpl = 3;
        let mut memory = memory();
        let done = ins.execute(&mut memory, &context, &mut gprs(1, 0, 0x10));
        assert_eq!((done, memory.0[0x1010]), (Progress::Finished, 0xff));
        let fault = ins.execute(&mut memory, &context, &mut gprs(1, 0, 0xffff));
        assert_eq!(fault, gp());
    }

    #[test]
    fn page_faults_name_the_address() {
        // A page directory of 4 MiB pages that is not there at 4 MiB.
        let mut memory = memory();
        memory.0[0x1000..0x1004].copy_from_slice(&0x87u32.to_le_bytes());
        let mut context = protected();
        context.paging = PagingRegs {
            cr0: CR0_PE | 1 << 31,
            cr3: 0x1000,
            cr4: 0x10,
            rflags: 2,
            ..context.paging
        };
        let mut gprs = gprs(1, 0, 0x3f_ffff);
        let fault = REP_INSW.execute(&mut memory, &context, &mut gprs);
        let event = Event::exception(PAGE_FAULT, Some(2));
        assert_eq!(
            fault,
            Progress::Fault {
                event,
                cr2: Some(0x40_0000)
            }
        );
    }

    #[test]
    fn in_64_bit_mode_only_fs_and_gs_have_bases() {
        let context = GuestContext {
            paging: PagingRegs {
                cr0: CR0_PE,
                efer: EFER_LMA,
                rflags: 2,
                ..PagingRegs::default()
            },
            cs_l: true,
            cpl: 0,
        };
        let segment = Segment {
            base: 0x1000,
            ..Segment::unusable(0)
        };
        for (register, at) in [(SegmentRegister::Ds, 0x10), (SegmentRegister::Gs, 0x1010)] {
            let outs = StringIo {
                input: true,
                register,
                segment,
                address_size: 8,
                ..REP_INSW
            };
            let mut memory = memory();
            assert_eq!(
                outs.execute(&mut memory, &context, &mut gprs(1, 0, 0x10)),
                Progress::Finished
            );
            assert_eq!(memory.0[at], 0xff);
        }
        let ins = StringIo {
            address_size: 8,
            ..REP_INSW
        };
        let fault = ins.execute(&mut memory(), &context, &mut gprs(1, 0, 1 << 63));
        assert_eq!(fault, gp(), "not canonical");
    }
}
