//! A call's way into a PAL and back: arguments, and what they point to.
//!
//! [`Marshalling`] is made at REG and holds all that is needed; nothing is
//! read again from memory that the PAL can write. [`Marshalling::enter`] runs
//! when the entry is called, [`Marshalling::leave`] and [`registers_after`]
//! when the PAL has returned.
//!
//! The parameter area, [`AREA_OFFSET`] past the start of its section, is a
//! 64-bit number of parameters, and then for each, from the last to the first,
//! 64-bit type, bytes and value as the caller passed it. The data follow there
//! for a pointer; the pointer that the PAL gets leads to them.

use super::{Refusal, Request};
use crate::registers::{Gpr, Gprs};
use heapless::Vec;
use stillpoint_abi::pal::{MAX_PARAMETERS, ParameterType, RETURN_ADDRESS, SectionType, Width};

/// From the start of the section for parameters to the parameters.
const AREA_OFFSET: u64 = 0x10;

/// From the end of the section for the stack to the first word on it.
const STACK_OFFSET: u64 = 0x10;

/// Type, bytes and value of a parameter.
const HEADER_SIZE: usize = 24;

/// Room for a piece of the data that are copied. What is in it before and afterwards
/// means nothing: who calls often keeps one, since clearing it takes time.
pub struct Piece(pub(super) [u8; PIECE]);

const PIECE: usize = 256;

impl Default for Piece {
    fn default() -> Self {
        Self([0; PIECE])
    }
}

/// The registers for arguments in 64-bit code. 32-bit code has none.
const ARGUMENTS: [Gpr; 6] = [Gpr::Rdi, Gpr::Rsi, Gpr::Rdx, Gpr::Rcx, Gpr::R8, Gpr::R9];

/// Memory as its owner sees it at CPL 3.
pub trait VirtualMemory {
    /// Why something cannot be read or written.
    type Error;

    /// Reads; the bytes may lie in several pages.
    ///
    /// # Errors
    /// What `into` holds is undefined then.
    fn read(&mut self, gva: u64, into: &mut [u8]) -> Result<(), Self::Error>;

    /// Writes; the bytes may lie in several pages.
    ///
    /// # Errors
    /// A part may have been written.
    fn write(&mut self, gva: u64, from: &[u8]) -> Result<(), Self::Error>;
}

/// Whose memory a copy met a fault in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyError<C, P> {
    /// The caller's. The call, or the return, can be repeated.
    Caller(C),
    /// The PAL's own: its sections are not mapped as they were registered.
    Pal(P),
}

/// What a PAL starts with, and what its return needs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Entry {
    /// The PAL's RSP. The word there is the return address that it sees,
    /// [`RETURN_ADDRESS`]; the arguments after it start at a multiple of 16, as
    /// compilers rely on.
    pub rsp: u64,
    /// The PAL's other registers: the caller's, but for pointers in them.
    pub gprs: Gprs,
    /// Where the caller's code goes on.
    pub return_address: u64,
    /// The caller's RSP there, its return address taken off.
    pub caller_rsp: u64,
    /// The pointers as the caller passed them, by the parameter's number. For other
    /// parameters a number means nothing.
    pub pointers: [u64; MAX_PARAMETERS],
}

/// How a PAL's parameters are passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Marshalling {
    width: Width,
    /// Where the parameter area is, if there is one.
    area: Option<u64>,
    /// The end of the PAL's stack: a multiple of 16.
    stack: u64,
    slots: Vec<Slot, MAX_PARAMETERS>,
}

/// A parameter, and where it goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    kind: ParameterType,
    /// Of a pointer's data; an integer's number is only passed on.
    bytes: u64,
    /// Where a pointer's data are in the PAL.
    data: u64,
}

impl Marshalling {
    /// Lays the parameters out.
    ///
    /// # Errors
    /// [`Refusal::NoStack`], [`Refusal::NoParameterSection`],
    /// [`Refusal::ParametersTooLarge`].
    pub fn new(request: &Request) -> Result<Self, Refusal> {
        let stack = request.first(SectionType::Stack).ok_or(Refusal::NoStack)?;
        let mut slots = Vec::new();
        for parameter in &request.parameters {
            // There is room: a request has no more parameters.
            let _ = slots.push(Slot {
                kind: parameter.kind,
                bytes: parameter.words.saturating_mul(request.width.bytes()),
                data: 0,
            });
        }
        let area = match request.first(SectionType::Param) {
            None if slots.is_empty() => None,
            None => return Err(Refusal::NoParameterSection),
            Some(section) => {
                let at = section.start + AREA_OFFSET;
                if place(&mut slots, at) > section.start + section.bytes() {
                    return Err(Refusal::ParametersTooLarge);
                }
                Some(at)
            }
        };
        Ok(Self {
            width: request.width,
            area,
            stack: stack.start + stack.bytes() - STACK_OFFSET,
            slots,
        })
    }

    /// Takes a call in: reads the return address and the arguments from the
    /// caller's registers and stack, fills the parameter area, what pointers
    /// lead to included, and the top of the PAL's stack. Nothing of the
    /// caller's changes.
    ///
    /// `gprs` and `rsp` are the caller's at the entry's first instruction.
    /// Reading from `caller` must fail where writing would fail now: what
    /// pointers lead to is written later, and so the fault comes before the PAL
    /// runs, as a rule, and not after.
    ///
    /// # Errors
    /// [`CopyError`]. The PAL's memory may have been written in part, and so may `entry`.
    pub fn enter<C: VirtualMemory, P: VirtualMemory>(
        &self,
        (gprs, rsp): (&Gprs, u64),
        caller: &mut C,
        pal: &mut P,
        piece: &mut Piece,
        entry: &mut Entry,
    ) -> Result<(), CopyError<C::Error, P::Error>> {
        let rsp = self.width.truncate(rsp);
        let mut frame = StackFrame::new(self.width, self.slots.len());
        caller
            .read(rsp, frame.bytes_mut())
            .map_err(CopyError::Caller)?;
        entry.rsp = frame.place_below(self.stack);
        entry.gprs = *gprs;
        entry.return_address = frame.word(0);
        entry.caller_rsp = self.width.truncate(rsp.wrapping_add(self.width.bytes()));
        frame.set_word(0, RETURN_ADDRESS);
        if let Some(at) = self.area {
            let mut area = AreaWriter { at, len: 0, piece };
            area.put(&(self.slots.len() as u64).to_le_bytes(), pal)
                .map_err(CopyError::Pal)?;
            for (n, slot) in self.slots.iter().enumerate().rev() {
                let value = match frame.on_stack(n) {
                    Some(word) => frame.word(word),
                    None => gprs[ARGUMENTS[n]],
                };
                area.put(&slot.header(value), pal).map_err(CopyError::Pal)?;
                if slot.kind == ParameterType::Pointer {
                    entry.pointers[n] = value;
                    area.copy(value, slot.bytes, caller, pal)?;
                    match frame.on_stack(n) {
                        Some(word) => frame.set_word(word, slot.data),
                        None => entry.gprs[ARGUMENTS[n]] = slot.data,
                    }
                }
            }
            area.flush(pal).map_err(CopyError::Pal)?;
        }
        pal.write(entry.rsp, frame.bytes()).map_err(CopyError::Pal)
    }

    /// Copies what pointers lead to back to the caller, from the last parameter
    /// to the first: where two overlap, the first one's data stay.
    ///
    /// # Errors
    /// [`CopyError`]. A part may have been copied; all of it is when this is
    /// repeated, as long as the PAL does not run meanwhile.
    pub fn leave<C: VirtualMemory, P: VirtualMemory>(
        &self,
        entry: &Entry,
        caller: &mut C,
        pal: &mut P,
        piece: &mut Piece,
    ) -> Result<(), CopyError<C::Error, P::Error>> {
        for (slot, &pointer) in self.slots.iter().zip(&entry.pointers).rev() {
            if slot.kind != ParameterType::Pointer {
                continue;
            }
            let mut done = 0;
            while done < slot.bytes {
                let piece = &mut piece.0[..(slot.bytes - done).min(PIECE as u64) as usize];
                pal.read(slot.data + done, piece).map_err(CopyError::Pal)?;
                caller
                    .write(pointer.wrapping_add(done), piece)
                    .map_err(CopyError::Caller)?;
                done += piece.len() as u64;
            }
        }
        Ok(())
    }
}

/// Gives every pointer's data their place in an area that starts here, and
/// tells where the area ends.
fn place(slots: &mut [Slot], area: u64) -> u64 {
    let mut at = area + 8;
    for slot in slots.iter_mut().rev() {
        at = at.saturating_add(HEADER_SIZE as u64);
        if slot.kind == ParameterType::Pointer {
            slot.data = at;
            at = at.saturating_add(slot.bytes);
        }
    }
    at
}

impl Slot {
    fn header(&self, value: u64) -> [u8; HEADER_SIZE] {
        let mut bytes = [0; HEADER_SIZE];
        let fields = [self.kind.raw().into(), self.bytes, value];
        for (place, field) in bytes.as_chunks_mut().0.iter_mut().zip(fields) {
            *place = field.to_le_bytes();
        }
        bytes
    }
}

/// The return address, and the arguments that are on the stack: first as the
/// caller has them, then as the PAL gets them.
struct StackFrame {
    width: Width,
    /// How many arguments are in registers.
    in_registers: usize,
    len: usize,
    bytes: [u8; (1 + MAX_PARAMETERS) * 8],
}

impl StackFrame {
    fn new(width: Width, parameters: usize) -> Self {
        let in_registers = match width {
            Width::Bits32 => 0,
            Width::Bits64 => ARGUMENTS.len(),
        };
        let words = 1 + parameters.saturating_sub(in_registers);
        Self {
            width,
            in_registers,
            len: words * width.bytes() as usize,
            bytes: [0; _],
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }

    /// The word that holds this argument; `None` if a register does.
    fn on_stack(&self, argument: usize) -> Option<usize> {
        Some(1 + argument.checked_sub(self.in_registers)?)
    }

    #[inline]
    fn word(&self, n: usize) -> u64 {
        match self.width {
            Width::Bits32 => u32::from_le_bytes(self.bytes.as_chunks().0[n]).into(),
            Width::Bits64 => u64::from_le_bytes(self.bytes.as_chunks().0[n]),
        }
    }

    #[inline]
    fn set_word(&mut self, n: usize, value: u64) {
        match self.width {
            Width::Bits32 => self.bytes.as_chunks_mut().0[n] = (value as u32).to_le_bytes(),
            Width::Bits64 => self.bytes.as_chunks_mut().0[n] = value.to_le_bytes(),
        }
    }

    /// Where it goes at the end of a stack, so that the arguments start at a
    /// multiple of 16.
    fn place_below(&self, end: u64) -> u64 {
        let word = self.width.bytes();
        let arguments = self.len as u64 - word;
        ((end - arguments) & !15) - word
    }
}

/// Writes the parameter area from its start on, in pieces.
struct AreaWriter<'a> {
    /// Where the piece goes.
    at: u64,
    len: usize,
    piece: &'a mut Piece,
}

impl AreaWriter<'_> {
    /// Adds a few bytes; fewer than a piece has.
    fn put<P: VirtualMemory, const N: usize>(
        &mut self,
        bytes: &[u8; N],
        pal: &mut P,
    ) -> Result<(), P::Error> {
        if PIECE - self.len < N {
            self.flush(pal)?;
        }
        self.piece.0[self.len..self.len + N].copy_from_slice(bytes);
        self.len += N;
        Ok(())
    }

    /// Adds data of the caller's.
    fn copy<C: VirtualMemory, P: VirtualMemory>(
        &mut self,
        from: u64,
        bytes: u64,
        caller: &mut C,
        pal: &mut P,
    ) -> Result<(), CopyError<C::Error, P::Error>> {
        let mut done = 0;
        while done < bytes {
            if self.len == PIECE {
                self.flush(pal).map_err(CopyError::Pal)?;
            }
            let room = (PIECE - self.len) as u64;
            let take = (bytes - done).min(room) as usize;
            let into = &mut self.piece.0[self.len..self.len + take];
            caller
                .read(from.wrapping_add(done), into)
                .map_err(CopyError::Caller)?;
            self.len += take;
            done += take as u64;
        }
        Ok(())
    }

    fn flush<P: VirtualMemory>(&mut self, pal: &mut P) -> Result<(), P::Error> {
        pal.write(self.at, &self.piece.0[..self.len])?;
        self.at += self.len as u64;
        self.len = 0;
        Ok(())
    }
}

/// What the caller goes on with after the PAL has returned: its result, nothing
/// else of the PAL's registers, and its own in those that a call preserves.
pub fn registers_after(width: Width, at_call: &Gprs, at_return: &Gprs) -> Gprs {
    let mut gprs = *at_call;
    gprs[Gpr::Rax] = width.truncate(at_return[Gpr::Rax]);
    let lost: &[Gpr] = match width {
        Width::Bits32 => &[Gpr::Rcx, Gpr::Rdx],
        Width::Bits64 => &[
            Gpr::Rcx,
            Gpr::Rdx,
            Gpr::Rsi,
            Gpr::Rdi,
            Gpr::R8,
            Gpr::R9,
            Gpr::R10,
            Gpr::R11,
        ],
    };
    for &register in lost {
        gprs[register] = 0;
    }
    gprs
}
